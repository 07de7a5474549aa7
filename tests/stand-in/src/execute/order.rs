//! In which order nodes run: graph.py's `ExecutionList` of ComfyUI 0.8.0, lazy inputs and the choice among ready nodes
//! included, because clients see that order in their events.

use indexmap::IndexMap;

use super::cache::{WorkerEnds, as_link, inputs_of};
use crate::json::Json;

/// What the order needs to know of nodes.
pub trait Graph {
    /// Does the cache hold this node's result?
    fn is_cached(&self, id: &str) -> bool;
    /// Is it an output node?
    fn is_output(&self, id: &str) -> bool;
    /// Is this input of the node evaluated only when it is asked for?
    fn is_lazy(&self, id: &str, input: &str) -> bool;
}

/// Nodes that still have to run, and what they wait for.
#[derive(Debug, Default)]
pub struct ExecutionList {
    pending: Vec<String>,
    /// Node → how many others it waits for.
    waits: IndexMap<String, usize>,
    /// Node → those that wait for it.
    blocks: IndexMap<String, Vec<String>>,
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Run this node.
    Run(String),
    /// All that is left waits for each other; one of them.
    Cycle(String),
    /// Nothing is left.
    Done,
}

impl ExecutionList {
    /// Adds a node and everything above it that is not cached. A link to a node that does not exist ends the worker.
    pub fn add(&mut self, prompt: &Json, graph: &impl Graph, id: &str) -> Result<(), WorkerEnds> {
        let mut stack = vec![id.to_owned()];
        let mut links = Vec::new();
        while let Some(id) = stack.pop() {
            if self.pending.contains(&id) {
                continue;
            }
            prompt.get(&id).ok_or(WorkerEnds)?;
            self.pending.push(id.clone());
            self.waits.insert(id.clone(), 0);
            self.blocks.insert(id.clone(), Vec::new());
            for (name, value) in inputs_of(prompt, &id)? {
                let Some((source, _)) = as_link(value) else { continue };
                if graph.is_lazy(&id, name) {
                    continue;
                }
                prompt.get(source).ok_or(WorkerEnds)?;
                if !graph.is_cached(source) {
                    stack.push(source.to_owned());
                }
                links.push((source.to_owned(), id.clone()));
            }
        }
        for (source, target) in links {
            self.link(prompt, graph, &source, &target)?;
        }
        Ok(())
    }

    /// Makes `target` wait for `source`, unless the cache has it.
    pub fn link(&mut self, prompt: &Json, graph: &impl Graph, source: &str, target: &str) -> Result<(), WorkerEnds> {
        if graph.is_cached(source) {
            return Ok(());
        }
        self.add(prompt, graph, source)?;
        let blocked = self.blocks.entry(source.to_owned()).or_default();
        if !blocked.iter().any(|known| known == target) {
            blocked.push(target.to_owned());
            *self.waits.entry(target.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// Picks the next node: outputs first, then what an output waits for, then what that waits for.
    pub fn next(&self, graph: &impl Graph) -> Step {
        let ready: Vec<&String> = self.pending.iter().filter(|id| self.waits.get(*id) == Some(&0)).collect();
        let Some(first) = ready.first() else {
            return self.pending.first().map_or(Step::Done, |id| Step::Cycle(id.clone()));
        };
        let feeds_output = |id: &str| self.blocked_by(id).iter().any(|blocked| graph.is_output(blocked));
        let chosen = ready
            .iter()
            .find(|id| graph.is_output(id))
            .or_else(|| ready.iter().find(|id| feeds_output(id)))
            .or_else(|| ready.iter().find(|id| self.blocked_by(id).iter().any(|blocked| feeds_output(blocked))))
            .unwrap_or(first);
        Step::Run((*chosen).clone())
    }

    fn blocked_by(&self, id: &str) -> &[String] {
        self.blocks.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The node has run.
    pub fn complete(&mut self, id: &str) {
        self.pending.retain(|pending| pending != id);
        for blocked in self.blocks.shift_remove(id).unwrap_or_default() {
            if let Some(waits) = self.waits.get_mut(&blocked) {
                *waits = waits.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Plain;

    impl Graph for Plain {
        fn is_cached(&self, id: &str) -> bool {
            id.starts_with("cached")
        }
        fn is_output(&self, id: &str) -> bool {
            id.starts_with("out")
        }
        fn is_lazy(&self, _: &str, input: &str) -> bool {
            input == "lazy"
        }
    }

    fn run(prompt: serde_json::Value, outputs: &[&str]) -> Result<Vec<String>, WorkerEnds> {
        let prompt = Json::from(prompt);
        let mut list = ExecutionList::default();
        for output in outputs {
            list.add(&prompt, &Plain, output)?;
        }
        let mut order = Vec::new();
        while let Step::Run(id) = list.next(&Plain) {
            list.complete(&id);
            order.push(id);
        }
        Ok(order)
    }

    #[test]
    fn an_output_runs_as_soon_as_it_can() {
        let prompt = json!({
            "a": {"inputs": {}}, "b": {"inputs": {"x": ["a", 0]}},
            "out1": {"inputs": {"x": ["b", 0]}}, "out2": {"inputs": {"x": ["a", 0]}}
        });
        assert_eq!(run(prompt, &["out1", "out2"]).unwrap(), ["a", "out2", "b", "out1"]);
    }

    #[test]
    fn cached_and_lazy_sources_are_not_run() {
        let prompt = json!({
            "cached": {"inputs": {}}, "l": {"inputs": {}},
            "out": {"inputs": {"x": ["cached", 0], "lazy": ["l", 0]}}
        });
        assert_eq!(run(prompt, &["out"]).unwrap(), ["out"]);
    }

    #[test]
    fn a_link_to_nowhere_ends_the_worker() {
        assert_eq!(run(json!({"out": {"inputs": {"zzz": ["nope", 0]}}}), &["out"]), Err(WorkerEnds));
    }

    #[test]
    fn a_cycle_is_named() {
        let prompt = Json::from(json!({"out": {"inputs": {"x": ["b", 0]}}, "b": {"inputs": {"x": ["out", 0]}}}));
        let mut list = ExecutionList::default();
        list.add(&prompt, &Plain, "out").unwrap();
        assert!(matches!(list.next(&Plain), Step::Cycle(_)));
    }
}
