//! The prompt queue and the history: a binary heap as Python's `heapq` builds it, because `GET /queue` shows the raw
//! array and because comparing two equal entries is one of the ways to end a worker (execution.py, ComfyUI 0.8.0).

use std::sync::{Condvar, Mutex, PoisonError};

use indexmap::IndexMap;

use crate::json::{Dict, Json, dict};

/// Entries of the history beyond which the oldest goes (execution.py `MAXIMUM_HISTORY_SIZE`).
const HISTORY_ENTRIES_MAX: usize = 10_000;

/// Levels of nesting on which `copy.deepcopy` still works: a literal of 485 lists in a node's input survived on a real
/// server, one of 486 ended the worker. Prompt, node and inputs are three levels more.
const DEEPCOPY_DEPTH_MAX: usize = 488;

/// One accepted prompt, waiting or running.
#[derive(Debug, Clone)]
pub struct Item {
    /// Priority: the lower one runs first. Int or float, NaN included.
    pub number: Json,
    /// The key everywhere; not necessarily unique.
    pub prompt_id: String,
    /// The graph after validation, coerced values included.
    pub prompt: Json,
    /// `client_id`, `create_time`, `extra_pnginfo` and whatever else the caller put there.
    pub extra_data: Json,
    /// Ids of the output nodes that passed validation.
    pub outputs: Vec<String>,
    /// The secrets of `extra_data`: a sixth slot that nothing shows and paid nodes are given.
    pub sensitive: Dict,
}

impl Item {
    /// The five slots that `GET /queue` and the history show.
    pub fn to_json(&self) -> Json {
        Json::List(vec![
            self.number.clone(),
            Json::from(self.prompt_id.as_str()),
            self.prompt.clone(),
            self.extra_data.clone(),
            Json::List(self.outputs.iter().map(|id| Json::from(id.as_str())).collect()),
        ])
    }
}

/// Two entries that differ in nothing comparable: Python raises `TypeError` (dict < dict).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotComparable;

/// What the worker found when it asked for work.
#[derive(Debug)]
pub enum Next {
    /// A prompt, and the key under which it is running.
    Run(Box<Item>, u64),
    /// The worker thread ends here: an exception outside of any node, or the end of the process.
    Die,
}

#[derive(Debug, Default)]
struct State {
    heap: Vec<Item>,
    running: IndexMap<u64, Item>,
    next_task: u64,
    history: IndexMap<String, Json>,
    free: Dict,
    stopped: bool,
}

/// The queue of one process.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one prompt. On `NotComparable` the entry stays in the heap and nobody is told: ComfyUI's own fault.
    pub fn put(&self, item: Item) -> Result<(), NotComparable> {
        let mut state = self.lock();
        state.heap.push(item);
        let last = state.heap.len() - 1;
        sift_down(&mut state.heap, 0, last)?;
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for work. `ends` is asked after every change whether the worker should end.
    pub fn next(&self, ends: impl Fn() -> bool) -> Next {
        let mut state = self.lock();
        loop {
            if state.stopped || ends() {
                return Next::Die;
            }
            if !state.heap.is_empty() {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let Ok(Some(item)) = pop(&mut state.heap) else {
            return Next::Die;
        };
        if item.prompt.depth().max(item.extra_data.depth()) > DEEPCOPY_DEPTH_MAX {
            return Next::Die;
        }
        let task = state.next_task;
        state.next_task += 1;
        state.running.insert(task, item.clone());
        Next::Run(Box::new(item), task)
    }

    /// Moves a running prompt to the history. `outputs`, `meta` and `status` as execution.py gives them.
    pub fn done(&self, task: u64, outputs: Json, meta: Json, status: Json) {
        let mut state = self.lock();
        let Some(item) = state.running.shift_remove(&task) else {
            return;
        };
        if state.history.len() > HISTORY_ENTRIES_MAX {
            state.history.shift_remove_index(0);
        }
        let entry = dict([("prompt", item.to_json()), ("outputs", outputs), ("status", status), ("meta", meta)]);
        state.history.insert(item.prompt_id, entry);
    }

    /// Running and waiting prompts; the second list is the heap's own order.
    pub fn current(&self) -> (Vec<Item>, Vec<Item>) {
        let state = self.lock();
        (state.running.values().cloned().collect(), state.heap.clone())
    }

    /// Running plus waiting.
    pub fn remaining(&self) -> usize {
        let state = self.lock();
        state.heap.len() + state.running.len()
    }

    /// Is this the id of a running prompt? `id` is compared as Python does, so only a string can match.
    pub fn is_running(&self, id: &Json) -> bool {
        self.lock().running.values().any(|item| id.as_str() == Some(item.prompt_id.as_str()))
    }

    /// Drops everything that waits.
    pub fn wipe(&self) {
        self.lock().heap.clear();
    }

    /// Removes the first waiting prompt of that id. Returns how many `status` events ComfyUI sends for it: 2 when it
    /// was the only one (the queue is wiped first), 1 when others remain, 0 when there was none.
    pub fn delete(&self, id: &Json) -> usize {
        let mut state = self.lock();
        let found = state.heap.iter().position(|item| id.as_str() == Some(item.prompt_id.as_str()));
        let Some(index) = found else { return 0 };
        state.heap.remove(index);
        if state.heap.is_empty() {
            return 2;
        }
        heapify(&mut state.heap);
        1
    }

    /// The history as `GET /history` pages it: `max_items` without an offset gives the last ones.
    pub fn history(&self, max_items: Option<i128>, offset: i128) -> Dict {
        let state = self.lock();
        let entries = i128::try_from(state.history.len()).unwrap_or(i128::MAX);
        let offset = match max_items {
            Some(max) if offset < 0 => entries.saturating_sub(max),
            _ => offset,
        };
        let mut out = Dict::new();
        for (index, (id, entry)) in (0_i128..).zip(&state.history) {
            if index < offset {
                continue;
            }
            out.insert(id.clone(), entry.clone());
            if max_items.is_some_and(|max| i128::try_from(out.len()).unwrap_or(i128::MAX) >= max) {
                break;
            }
        }
        out
    }

    /// One entry of the history.
    pub fn history_of(&self, id: &str) -> Option<Json> {
        self.lock().history.get(id).cloned()
    }

    /// Is anything in the history?
    pub fn has_history(&self) -> bool {
        !self.lock().history.is_empty()
    }

    /// Forgets one entry; unknown ids are no error.
    pub fn forget(&self, id: &str) {
        self.lock().history.shift_remove(id);
    }

    /// Forgets the whole history.
    pub fn wipe_history(&self) {
        self.lock().history.clear();
    }

    /// Notes what `POST /free` asked for; the worker takes it after its next prompt.
    pub fn set_flag(&self, name: &str, value: Json) {
        self.lock().free.insert(name.to_owned(), value);
    }

    /// Takes the flags of `POST /free`.
    pub fn take_flags(&self) -> Dict {
        std::mem::take(&mut self.lock().free)
    }

    /// Wakes the worker, so that it asks again whether it should end.
    pub fn wake(&self) {
        let _state = self.lock();
        self.changed.notify_all();
    }

    /// Ends the worker at its next look.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Python's `<` of the tuples in the heap.
fn less(a: &Item, b: &Item) -> Result<bool, NotComparable> {
    let (x, y) = (a.number.as_number().unwrap_or(f64::NAN), b.number.as_number().unwrap_or(f64::NAN));
    if x != y {
        return Ok(x < y);
    }
    if a.prompt_id != b.prompt_id {
        return Ok(a.prompt_id < b.prompt_id);
    }
    Err(NotComparable)
}

fn pop(heap: &mut Vec<Item>) -> Result<Option<Item>, NotComparable> {
    let Some(last) = heap.pop() else { return Ok(None) };
    let Some(first) = heap.first_mut() else {
        return Ok(Some(last));
    };
    let smallest = std::mem::replace(first, last);
    sift_up(heap, 0)?;
    Ok(Some(smallest))
}

fn heapify(heap: &mut [Item]) {
    for position in (0..heap.len() / 2).rev() {
        if sift_up(heap, position).is_err() {
            return;
        }
    }
}

/// `heapq._siftdown`: moves the entry at `position` towards `start` until its parent is not larger.
fn sift_down(heap: &mut [Item], start: usize, mut position: usize) -> Result<(), NotComparable> {
    while position > start {
        let parent = (position - 1) / 2;
        let (Some(child), Some(above)) = (heap.get(position), heap.get(parent)) else {
            break;
        };
        if !less(child, above)? {
            break;
        }
        heap.swap(position, parent);
        position = parent;
    }
    Ok(())
}

/// `heapq._siftup`: lets the smaller child rise until a leaf is reached, then sifts the entry down from there.
fn sift_up(heap: &mut [Item], start: usize) -> Result<(), NotComparable> {
    let mut position = start;
    let mut child = 2 * position + 1;
    while let Some(left) = heap.get(child) {
        if let Some(right) = heap.get(child + 1)
            && !less(left, right)?
        {
            child += 1;
        }
        heap.swap(position, child);
        position = child;
        child = 2 * position + 1;
    }
    sift_down(heap, start, position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(number: f64, id: &str) -> Item {
        Item {
            number: Json::Float(number),
            prompt_id: id.to_owned(),
            prompt: Json::Dict(Dict::new()),
            extra_data: Json::Dict(Dict::new()),
            outputs: Vec::new(),
            sensitive: Dict::new(),
        }
    }

    fn order(queue: &Queue) -> Vec<String> {
        let mut out = Vec::new();
        while queue.remaining() > 0 {
            let Next::Run(item, task) = queue.next(|| false) else { panic!("the worker ended") };
            queue.done(task, Json::Null, Json::Null, Json::Null);
            out.push(item.prompt_id);
        }
        out
    }

    #[test]
    fn the_lowest_number_runs_first_and_equal_numbers_by_id() {
        let queue = Queue::default();
        for (number, id) in [(2.0, "d"), (0.0, "b"), (-5.0, "a"), (1.0, "c"), (2.0, "e")] {
            queue.put(item(number, id)).unwrap();
        }
        assert_eq!(order(&queue), ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn equal_number_and_id_cannot_be_compared_and_stay_in_the_heap() {
        let queue = Queue::default();
        queue.put(item(1.0, "a")).unwrap();
        assert_eq!(queue.put(item(1.0, "a")), Err(NotComparable));
        assert_eq!(queue.remaining(), 2);
        queue.put(item(1.0, "b")).unwrap();
        assert!(matches!(queue.next(|| false), Next::Run(..)));
    }

    #[test]
    fn nesting_that_deepcopy_survives_runs_and_one_level_more_ends_the_worker() {
        let nested = |levels: usize| (0..levels).fold(Json::Null, |inner, _| Json::List(vec![inner]));
        let queue = Queue::default();
        queue.put(Item { extra_data: nested(DEEPCOPY_DEPTH_MAX), ..item(1.0, "a") }).unwrap();
        assert!(matches!(queue.next(|| false), Next::Run(..)));
        queue.put(Item { extra_data: nested(DEEPCOPY_DEPTH_MAX + 1), ..item(1.0, "a") }).unwrap();
        assert!(matches!(queue.next(|| false), Next::Die));
    }

    #[test]
    fn max_items_without_offset_gives_the_newest_entries() {
        let queue = Queue::default();
        for id in ["a", "b", "c"] {
            queue.put(item(0.0, id)).unwrap();
        }
        order(&queue);
        let keys = |page: Dict| page.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(keys(queue.history(Some(2), -1)), ["b", "c"]);
        assert_eq!(keys(queue.history(Some(2), 0)), ["a", "b"]);
        assert_eq!(keys(queue.history(None, 2)), ["c"]);
        assert!(keys(queue.history(Some(0), -1)).is_empty());
    }

    #[test]
    fn deleting_the_only_waiting_prompt_counts_as_two_changes() {
        let queue = Queue::default();
        queue.put(item(0.0, "a")).unwrap();
        queue.put(item(1.0, "b")).unwrap();
        assert_eq!(queue.delete(&Json::from("x")), 0);
        assert_eq!(queue.delete(&Json::from("a")), 1);
        assert_eq!(queue.delete(&Json::from("b")), 2);
    }
}
