//! The worker: takes prompts one at a time, runs their graphs and reports every step (execution.py, main.py and
//! progress.py of ComfyUI 0.8.0).
//!
//! What Python raises outside of the per-node `try` ends the worker thread: HTTP goes on answering, nothing runs.

pub mod cache;
mod nodes;
pub mod order;
mod value;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use indexmap::IndexMap;

use crate::catalogue::Catalogue;
use crate::clock;
use crate::events::Audience;
use crate::json::{Dict, Json, dict};
use crate::process::Process;
use crate::queue::{Item, Next};
use cache::{WorkerEnds, as_link};
use nodes::{Outcome, run_node};
use order::{ExecutionList, Graph, Step};
pub use value::Value;

/// Binary event: a preview image without metadata.
const PREVIEW_IMAGE: u32 = 1;
/// Binary event: text of a node.
const TEXT: u32 = 3;
/// Binary event: a preview image with metadata.
const PREVIEW_IMAGE_WITH_METADATA: u32 = 4;

/// Why a node did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// An exception of the node: its Python type and text.
    Raised(&'static str, String),
    /// Somebody interrupted the prompt.
    Interrupted,
    /// The worker thread ends here.
    Worker,
}

impl From<WorkerEnds> for Stop {
    fn from(_: WorkerEnds) -> Stop {
        Stop::Worker
    }
}

/// What a node left behind.
#[derive(Debug, Default)]
pub struct Entry {
    outputs: Vec<Value>,
    /// `{"images": [...]}` and such; `None` when the node shows nothing.
    ui: Option<Json>,
}

/// An image on its way to the client.
#[derive(Debug)]
pub struct Preview {
    /// PNG (SaveImageWebsocket) or JPEG (everything else).
    pub png: bool,
    /// The encoded image.
    pub bytes: Vec<u8>,
}

/// The worker's memory between prompts.
#[derive(Debug, Default)]
pub struct Executor {
    cache: HashMap<String, Arc<Entry>>,
    /// Random part of temp file names, by node id and class, as long as the node stays in the graph.
    suffixes: HashMap<(String, String), String>,
}

/// Takes prompts until the process or the worker ends. Runs on a thread of its own; what Python writes when that ends is in the log.
pub fn work(process: &Arc<Process>) {
    work_on(process);
    if !process.is_dead() {
        process.log("Exception in thread ");
        process.log("Thread-1 (prompt_worker)");
        process.log(":\nTraceback (most recent call last):\n");
    }
}

fn work_on(process: &Arc<Process>) {
    let mut executor = Executor::default();
    loop {
        let Next::Run(item, task) = process.queue.next(|| process.worker_ends()) else {
            return;
        };
        process.queue_updated();
        let Ok(finished) = executor.run(process, &item) else {
            return;
        };
        process.set_running_node(None);
        process.queue.done(task, finished.outputs, finished.meta, finished.status);
        process.queue_updated();
        let audience = process.audience();
        if audience != Audience::All {
            let data = dict([("node", Json::Null), ("prompt_id", item.prompt_id.as_str().into())]);
            process.hub.send("executing", data, audience);
        }
        if process.queue.take_flags().get("free_memory").is_some_and(Json::truthy) {
            executor = Executor::default();
        }
    }
}

/// What the history keeps of a prompt.
#[derive(Debug)]
struct Finished {
    outputs: Json,
    meta: Json,
    status: Json,
}

/// One prompt being run.
pub(crate) struct Run<'a> {
    pub(crate) process: &'a Arc<Process>,
    pub(crate) item: &'a Item,
    /// The graph, with the fingerprints that ComfyUI writes into it.
    pub(crate) prompt: Json,
    pub(crate) audience: Audience,
    pub(crate) suffixes: &'a mut HashMap<(String, String), String>,
    progress: IndexMap<String, (Json, Json, &'static str)>,
    messages: Vec<Json>,
}

struct Cached<'a> {
    catalogue: Catalogue<'a>,
    prompt: &'a Json,
    keys: &'a HashMap<String, String>,
    cache: &'a HashMap<String, Arc<Entry>>,
    enabled: bool,
}

impl Cached<'_> {
    fn entry(&self, id: &str) -> Option<&Arc<Entry>> {
        self.keys.get(id).filter(|_| self.enabled).and_then(|key| self.cache.get(key))
    }

    fn class(&self, id: &str) -> &str {
        self.prompt.at(&[id, "class_type"]).and_then(Json::as_str).unwrap_or_default()
    }
}

impl Graph for Cached<'_> {
    fn is_cached(&self, id: &str) -> bool {
        self.entry(id).is_some()
    }

    fn is_output(&self, id: &str) -> bool {
        self.catalogue.is_output(self.class(id))
    }

    fn is_lazy(&self, id: &str, input: &str) -> bool {
        let live = self.prompt.at(&[id, "inputs"]).cloned().unwrap_or(Json::Null);
        self.catalogue
            .inputs(self.class(id), &live)
            .iter()
            .any(|declared| declared.name == input && declared.options.get("lazy").is_some_and(Json::truthy))
    }
}

impl Executor {
    fn run(&mut self, process: &Arc<Process>, item: &Item) -> Result<Finished, WorkerEnds> {
        process.clear_interrupt();
        let client_id = item.extra_data.get("client_id").cloned().unwrap_or(Json::Null);
        process.set_client(client_id.clone());
        process.note_executed(&item.prompt_id);
        let ids: HashSet<&String> = item.prompt.as_dict().into_iter().flat_map(|nodes| nodes.keys()).collect();
        self.suffixes.retain(|(id, _), _| ids.contains(id));
        let mut run = Run {
            process,
            item,
            prompt: item.prompt.clone(),
            audience: Audience::of(&client_id),
            suffixes: &mut self.suffixes,
            progress: IndexMap::new(),
            messages: Vec::new(),
        };
        run.add_message("execution_start", dict([("prompt_id", item.prompt_id.as_str().into())]), false);
        let fingerprints = run.fingerprints();
        let models = process.models();
        let catalogue = process.catalogue(&models);
        let keys = cache::keys(&item.prompt, catalogue, &fingerprints)?;
        let live: HashSet<&String> = keys.values().collect();
        self.cache.retain(|key, _| live.contains(key));
        let outcome = graph(&mut run, &mut self.cache, &keys, catalogue)?;
        let status = dict([
            ("status_str", if outcome.success { "success" } else { "error" }.into()),
            ("completed", Json::Bool(outcome.success)),
            ("messages", Json::List(std::mem::take(&mut run.messages))),
        ]);
        let ids = outcome.ui.keys().cloned().collect::<Vec<_>>();
        let meta = ids.iter().map(|id| (id.clone(), node_meta(id))).collect();
        Ok(Finished { outputs: Json::Dict(outcome.ui), meta: Json::Dict(meta), status })
    }
}

fn node_meta(id: &str) -> Json {
    dict([
        ("node_id", id.into()),
        ("display_node", id.into()),
        ("parent_node", Json::Null),
        ("real_node_id", id.into()),
    ])
}

struct GraphOutcome {
    success: bool,
    ui: Dict,
}

/// Runs the graph of one prompt to its end, its error or its interruption.
fn graph(
    run: &mut Run<'_>,
    cache: &mut HashMap<String, Arc<Entry>>,
    keys: &HashMap<String, String>,
    catalogue: Catalogue<'_>,
) -> Result<GraphOutcome, WorkerEnds> {
    let prompt = run.item.prompt.clone();
    let enabled = run.process.options().cache;
    let cached_nodes: Vec<Json> = keys_in_order(&prompt)
        .filter(|id| enabled && keys.get(*id).is_some_and(|key| cache.contains_key(key)))
        .map(|id| Json::from(id.as_str()))
        .collect();
    let prompt_id = Json::from(run.item.prompt_id.as_str());
    run.add_message(
        "execution_cached",
        dict([("nodes", Json::List(cached_nodes)), ("prompt_id", prompt_id.clone())]),
        false,
    );
    let mut list = ExecutionList::default();
    for output in &run.item.outputs {
        list.add(&prompt, &Cached { catalogue, prompt: &prompt, keys, cache, enabled }, output)?;
    }
    let mut results: HashMap<String, Arc<Entry>> = HashMap::new();
    let mut ui = Dict::new();
    let mut executed: Vec<Json> = Vec::new();
    loop {
        let known = Cached { catalogue, prompt: &prompt, keys, cache, enabled };
        let id = match list.next(&known) {
            Step::Done => {
                run.add_message("execution_success", dict([("prompt_id", prompt_id.clone())]), false);
                return Ok(GraphOutcome { success: true, ui });
            }
            Step::Cycle(id) => {
                let stop = Stop::Raised("graph.DependencyCycleError", "Dependency cycle detected".into());
                run.fail(&id, stop, &executed, Json::List(Vec::new()));
                return Ok(GraphOutcome { success: false, ui });
            }
            Step::Run(id) => id,
        };
        if let Some(entry) = known.entry(&id).cloned() {
            run.replay(&id, &entry, &mut ui);
            results.insert(id.clone(), entry);
            list.complete(&id);
            continue;
        }
        let source = |id: &str| results.get(id).or_else(|| known.entry(id)).cloned();
        let (resolved, undeclared) = resolve(&prompt, &id, catalogue, source);
        run.start(&id);
        match run_node(run, &id, catalogue, &resolved, &undeclared) {
            Ok(Outcome::Needs(input)) => {
                let link = prompt.at(&[&id, "inputs", &input]).and_then(as_link).map(|(source, _)| source.to_owned());
                if let Some(source) = link {
                    list.link(&prompt, &known, &source, &id)?;
                }
            }
            Ok(Outcome::Done(entry)) => {
                let entry = Arc::new(entry);
                if let Some(shown) = &entry.ui {
                    ui.insert(id.clone(), shown.clone());
                    run.executed(&id, shown.clone());
                }
                if let Some(key) = keys.get(&id) {
                    cache.insert(key.clone(), Arc::clone(&entry));
                }
                results.insert(id.clone(), entry);
                list.complete(&id);
                run.finish(&id);
                executed.push(Json::from(id));
            }
            Err(Stop::Worker) => return Err(WorkerEnds),
            Err(stop) => {
                let mut shown: Dict =
                    resolved.iter().map(|(name, value)| (name.clone(), Json::List(vec![value.shown()]))).collect();
                if matches!(known.class(&id), "SaveImage" | "PreviewImage") {
                    let extra = run.item.extra_data.get("extra_pnginfo").cloned().unwrap_or(Json::Null);
                    shown.insert("prompt".into(), Json::List(vec![Value::Json(run.prompt.clone()).shown()]));
                    shown.insert("extra_pnginfo".into(), Json::List(vec![Value::Json(extra).shown()]));
                }
                run.fail(&id, stop, &executed, Json::Dict(shown));
                return Ok(GraphOutcome { success: false, ui });
            }
        }
    }
}

fn keys_in_order(prompt: &Json) -> impl Iterator<Item = &String> {
    prompt.as_dict().into_iter().flat_map(|nodes| nodes.keys())
}

/// The arguments of a node: declared literals and everything linked. The second list names linked inputs that the
/// class does not declare.
fn resolve(
    prompt: &Json,
    id: &str,
    catalogue: Catalogue<'_>,
    source: impl Fn(&str) -> Option<Arc<Entry>>,
) -> (IndexMap<String, Value>, Vec<String>) {
    let class = prompt.at(&[id, "class_type"]).and_then(Json::as_str).unwrap_or_default();
    let inputs = prompt.at(&[id, "inputs"]).cloned().unwrap_or(Json::Null);
    let declared: HashSet<String> = catalogue.inputs(class, &inputs).into_iter().map(|input| input.name).collect();
    let mut arguments = IndexMap::new();
    let mut undeclared = Vec::new();
    for (name, value) in inputs.as_dict().into_iter().flatten() {
        match as_link(value) {
            Some((node, slot)) => {
                let linked = source(node).map(|entry| slot_of(&entry.outputs, slot));
                let Some(linked) = linked else { continue };
                arguments.insert(name.clone(), linked);
                if !declared.contains(name) {
                    undeclared.push(name.clone());
                }
            }
            None if declared.contains(name) => {
                arguments.insert(name.clone(), Value::Json(value.clone()));
            }
            None => {}
        }
    }
    (arguments, undeclared)
}

/// Python's index: negative ones count from the end, one beyond the end gives None.
fn slot_of(outputs: &[Value], slot: i128) -> Value {
    let length = i128::try_from(outputs.len()).unwrap_or(i128::MAX);
    let index = if slot < 0 { slot + length } else { slot };
    usize::try_from(index).ok().and_then(|index| outputs.get(index)).cloned().unwrap_or(Value::Json(Json::Null))
}

impl Run<'_> {
    fn prompt_id(&self) -> Json {
        Json::from(self.item.prompt_id.as_str())
    }

    fn class(&self, id: &str) -> Json {
        self.prompt.at(&[id, "class_type"]).cloned().unwrap_or(Json::Null)
    }

    /// Keeps an event for the history, and sends it unless it is for a client that is not there.
    fn add_message(&mut self, event: &str, data: Json, broadcast: bool) {
        let mut data = data;
        if let Json::Dict(entries) = &mut data {
            entries.insert("timestamp".to_owned(), Json::from(clock::now_ms()));
        }
        self.messages.push(Json::List(vec![event.into(), data.clone()]));
        if self.audience != Audience::All || broadcast {
            self.process.hub.send(event, data, self.audience.clone());
        }
    }

    /// Fingerprints of the classes that have one (`IS_CHANGED`), also written into the graph as ComfyUI does.
    fn fingerprints(&mut self) -> HashMap<String, String> {
        let ids: Vec<String> = keys_in_order(&self.prompt).cloned().collect();
        let mut out = HashMap::new();
        for id in ids {
            let class = self.class(&id);
            let Some(class) = class.as_str() else { continue };
            let (shown, text) = match class {
                "GateProbeSleep" => (Json::List(vec![Json::Float(f64::NAN)]), uuid::Uuid::new_v4().to_string()),
                "SaveImageWebsocket" => (Json::List(vec![clock::now_ms().into()]), uuid::Uuid::new_v4().to_string()),
                "LoadImage" | "LoadImageMask" | "LoadImageOutput" => {
                    let hash = self.file_hash(&id);
                    (Json::List(vec![hash.as_str().into()]), hash)
                }
                _ => continue,
            };
            let client = self.prompt.at(&[&id, "is_changed"]).map(|own| own.dumps());
            out.insert(id.clone(), client.unwrap_or(text));
            if let Json::Dict(nodes) = &mut self.prompt
                && let Some(Json::Dict(node)) = nodes.get_mut(&id)
                && !node.contains_key("is_changed")
            {
                node.insert("is_changed".to_owned(), shown);
            }
        }
        out
    }

    fn file_hash(&self, id: &str) -> String {
        let name = self.prompt.at(&[id, "inputs", "image"]).and_then(Json::as_str).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        std::fs::read(self.process.folders().annotated(name)).unwrap_or_default().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// `progress_state` with every node that has begun.
    fn send_progress_state(&self) {
        let nodes = self.progress.iter().map(|(id, (value, max, state))| {
            let entry = dict([
                ("value", value.clone()),
                ("max", max.clone()),
                ("state", (*state).into()),
                ("node_id", id.as_str().into()),
                ("prompt_id", self.prompt_id()),
                ("display_node_id", id.as_str().into()),
                ("parent_node_id", Json::Null),
                ("real_node_id", id.as_str().into()),
            ]);
            (id.clone(), entry)
        });
        let data = dict([("prompt_id", self.prompt_id()), ("nodes", Json::Dict(nodes.collect()))]);
        self.process.hub.send("progress_state", data, self.audience.clone());
    }

    fn start(&mut self, id: &str) {
        self.progress.insert(id.to_owned(), (Json::Float(0.0), Json::Float(1.0), "running"));
        self.send_progress_state();
        if self.audience != Audience::All {
            self.process.set_running_node(Some(id.to_owned()));
            let data = dict([("node", id.into()), ("display_node", id.into()), ("prompt_id", self.prompt_id())]);
            self.process.hub.send("executing", data, self.audience.clone());
        }
    }

    fn finish(&mut self, id: &str) {
        let entry = self.progress.entry(id.to_owned()).or_insert((Json::Int(0), Json::Int(1), "pending"));
        entry.0 = entry.1.clone();
        entry.2 = "finished";
        self.send_progress_state();
    }

    fn executed(&self, id: &str, output: Json) {
        if self.audience != Audience::All {
            let data = dict([
                ("node", id.into()),
                ("display_node", id.into()),
                ("output", output),
                ("prompt_id", self.prompt_id()),
            ]);
            self.process.hub.send("executed", data, self.audience.clone());
        }
    }

    /// A cached output node: what it showed the first time is shown again.
    fn replay(&mut self, id: &str, entry: &Entry, ui: &mut Dict) {
        if self.audience != Audience::All {
            self.executed(id, entry.ui.clone().unwrap_or(Json::Null));
            // ComfyUI forgets the outputs of a cached run in the history when nobody listens.
            if let Some(shown) = &entry.ui {
                ui.insert(id.to_owned(), shown.clone());
            }
        }
        self.finish(id);
    }

    fn fail(&mut self, id: &str, stop: Stop, executed: &[Json], inputs: Json) {
        let mut data = dict([
            ("prompt_id", self.prompt_id()),
            ("node_id", id.into()),
            ("node_type", self.class(id)),
            ("executed", Json::List(executed.to_vec())),
        ]);
        let Stop::Raised(kind, message) = stop else {
            return self.add_message("execution_interrupted", data, true);
        };
        if let Json::Dict(entries) = &mut data {
            let outputs = keys_in_order(&self.prompt).map(|id| Json::from(id.as_str())).collect();
            let traceback = "  File \"/stand-in/execution.py\", line 1, in execute\n";
            entries.insert("exception_message".into(), message.into());
            entries.insert("exception_type".into(), kind.into());
            entries.insert("traceback".into(), Json::List(vec![traceback.into()]));
            entries.insert("current_inputs".into(), inputs);
            entries.insert("current_outputs".into(), Json::List(outputs));
        }
        self.add_message("execution_error", data, false);
    }

    /// The hook behind every progress bar: interrupts, progress and previews.
    pub(crate) fn progress(&mut self, id: &str, value: i64, max: i64, preview: Option<Preview>) -> Result<(), Stop> {
        self.check_interrupt()?;
        self.progress.insert(id.to_owned(), (value.into(), max.into(), "running"));
        self.send_progress_state();
        let metadata = self.process.hub.supports_preview_metadata(&self.audience);
        if let Some(preview) = preview.as_ref().filter(|_| metadata) {
            let payload = self.preview_with_metadata(id, preview);
            self.process.hub.send_binary(PREVIEW_IMAGE_WITH_METADATA, &payload, self.audience.clone());
        }
        let data =
            dict([("value", value.into()), ("max", max.into()), ("prompt_id", self.prompt_id()), ("node", id.into())]);
        self.process.hub.send("progress", data, self.audience.clone());
        if let Some(preview) = preview.filter(|_| !metadata) {
            let mut payload = if preview.png { 2_u32 } else { 1 }.to_be_bytes().to_vec();
            payload.extend_from_slice(&preview.bytes);
            self.process.hub.send_binary(PREVIEW_IMAGE, &payload, self.audience.clone());
        }
        Ok(())
    }

    fn preview_with_metadata(&self, id: &str, preview: &Preview) -> Vec<u8> {
        let metadata = dict([
            ("node_id", id.into()),
            ("prompt_id", self.prompt_id()),
            ("display_node_id", id.into()),
            ("parent_node_id", Json::Null),
            ("real_node_id", id.into()),
            ("image_type", if preview.png { "image/png" } else { "image/jpeg" }.into()),
        ])
        .dumps();
        let mut payload = u32::try_from(metadata.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        payload.extend_from_slice(metadata.as_bytes());
        payload.extend_from_slice(&preview.bytes);
        payload
    }

    /// Text under a node; goes to everybody, whoever owns the prompt.
    pub(crate) fn send_text(&self, id: &str, text: &str) {
        let mut payload = u32::try_from(id.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        payload.extend_from_slice(id.as_bytes());
        payload.extend_from_slice(text.as_bytes());
        self.process.hub.send_binary(TEXT, &payload, Audience::All);
    }

    pub(crate) fn check_interrupt(&self) -> Result<(), Stop> {
        if self.process.take_interrupt() { Err(Stop::Interrupted) } else { Ok(()) }
    }
}
