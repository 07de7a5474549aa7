//! One life of the simulated process: its queue, sockets, worker and connections. A restart makes a new one.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use socket2::SockRef;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::catalogue::{Catalogue, Models};
use crate::clock;
use crate::events::{Audience, Hub, Outgoing};
use crate::execute::{self, Stop};
use crate::files::Folders;
use crate::json::{Json, dict};
use crate::queue::Queue;
use crate::{Options, Shared};

/// Log writes kept for `/internal/logs` (app/logger.py).
const LOG_ENTRIES_MAX: usize = 300;

/// Stack of the worker: enough for graphs as deep as Python takes. Untouched pages cost nothing.
const WORKER_STACK_BYTES: usize = 64 * 1024 * 1024;

/// One life of the process.
#[derive(Debug)]
pub struct Process {
    shared: Arc<Shared>,
    incarnation: u64,
    /// Prompts, waiting, running and done.
    pub queue: Queue,
    /// Sockets.
    pub hub: Hub,
    /// `PromptServer.number`: rises with every submission that brings no number of its own.
    pub number: AtomicI64,
    dead: AtomicBool,
    interrupt: AtomicBool,
    client: Mutex<(Json, Option<String>)>,
    sleepers: (Mutex<()>, Condvar),
    tasks: Mutex<Vec<AbortHandle>>,
    connections: Mutex<IndexMap<u64, TcpStream>>,
    next_connection: AtomicU64,
    listener: Mutex<Option<socket2::Socket>>,
    logs: Mutex<VecDeque<(String, String)>>,
    log_readers: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Begins a life: starts the publish loop and the worker. Must be called on a tokio runtime.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Arc<Process> {
        let (hub, outgoing) = Hub::new();
        let process = Arc::new(Process {
            shared: Arc::clone(shared),
            incarnation: shared.faults.begin_incarnation(),
            queue: Queue::default(),
            hub,
            number: AtomicI64::new(0),
            dead: AtomicBool::new(false),
            interrupt: AtomicBool::new(false),
            client: Mutex::new((Json::Null, None)),
            sleepers: Default::default(),
            tasks: Mutex::default(),
            connections: Mutex::default(),
            next_connection: AtomicU64::new(0),
            listener: Mutex::new(None),
            logs: Mutex::default(),
            log_readers: Mutex::default(),
        });
        process.log("Starting server\n");
        process.spawn(publish(Arc::clone(&process), outgoing));
        let worker = Arc::clone(&process);
        // Cache keys recurse as deep as Python's stack; without its thread the worker is dead, as after any fault.
        let thread = std::thread::Builder::new().stack_size(WORKER_STACK_BYTES).spawn(move || execute::work(&worker));
        if thread.is_err() {
            process.log("the worker thread could not be started\n");
        }
        let watched = Arc::clone(&process);
        process.spawn(async move {
            // A worker that waits or sleeps has to be woken to notice that it should end.
            watched.shared.faults.worker_death(watched.incarnation).await;
            watched.wake_worker();
        });
        process
    }

    /// The stand-in that this is a life of.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The options that it was started with.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The folders.
    pub fn folders(&self) -> &Folders {
        &self.shared.folders
    }

    /// The models there are now.
    pub fn models(&self) -> Models {
        self.options().models.clone()
    }

    /// The node classes there are now.
    pub fn catalogue<'a>(&'a self, models: &'a Models) -> Catalogue<'a> {
        let input_dir: &Path = self.folders().input();
        Catalogue { models, input_dir, api_nodes: self.options().api_nodes, packs: self.options().packs }
    }

    /// Runs a task that ends with the process.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(task).abort_handle();
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        if self.is_dead() {
            handle.abort();
        }
        tasks.push(handle);
    }

    /// Remembers the listening socket, so that the end of the process closes it at once.
    pub(crate) fn listens(&self, listener: socket2::Socket) {
        *lock(&self.listener) = Some(listener);
    }

    /// Remembers a connection, so that the end of the process resets it. The guard forgets it.
    pub(crate) fn connected(self: &Arc<Process>, stream: TcpStream) -> Connected {
        let number = self.next_connection.fetch_add(1, SeqCst);
        lock(&self.connections).insert(number, stream);
        Connected { process: Arc::clone(self), number }
    }

    /// Is the process gone?
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(SeqCst)
    }

    /// Should the worker thread end?
    pub(crate) fn worker_ends(&self) -> bool {
        self.is_dead() || self.shared.faults.worker_is_dead(self.incarnation)
    }

    /// Ends the process: nothing listens, every connection is reset, tasks stop, the worker ends, temp files are gone.
    pub(crate) fn end(&self) {
        if self.dead.swap(true, SeqCst) {
            return;
        }
        if let Some(listener) = lock(&self.listener).take() {
            // Shutting a listening socket down refuses new connections even while a task still holds it.
            let _ = listener.shutdown(std::net::Shutdown::Both);
        }
        for (_, stream) in lock(&self.connections).drain(..) {
            // With zero linger the last close sends a reset instead of an orderly end.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        self.hub.clear();
        self.queue.stop();
        self.wake_worker();
        let temp = self.folders().temp();
        let _ = std::fs::remove_dir_all(&temp);
        let _ = std::fs::create_dir_all(&temp);
    }

    fn wake_worker(&self) {
        self.queue.wake();
        // Under the lock, so that a worker on its way to sleep is not missed.
        let _sleeping = lock(&self.sleepers.0);
        self.sleepers.1.notify_all();
    }

    /// Tells every socket how many prompts there are.
    pub fn queue_updated(&self) {
        self.hub.send("status", dict([("status", self.queue_info())]), Audience::All);
    }

    /// `{"exec_info": {"queue_remaining": n}}`.
    pub fn queue_info(&self) -> Json {
        let remaining = i64::try_from(self.queue.remaining()).unwrap_or(i64::MAX);
        dict([("exec_info", dict([("queue_remaining", remaining.into())]))])
    }

    /// Sets the flag that running nodes look at.
    pub fn set_interrupt(&self) {
        self.interrupt.store(true, SeqCst);
    }

    pub(crate) fn clear_interrupt(&self) {
        self.interrupt.store(false, SeqCst);
    }

    pub(crate) fn take_interrupt(&self) -> bool {
        self.interrupt.swap(false, SeqCst)
    }

    /// Whose prompt runs, or ran last.
    pub(crate) fn audience(&self) -> Audience {
        Audience::of(&lock(&self.client).0)
    }

    pub(crate) fn set_client(&self, client_id: Json) {
        lock(&self.client).0 = client_id;
    }

    pub(crate) fn set_running_node(&self, node: Option<String>) {
        lock(&self.client).1 = node;
    }

    /// The node that runs, if the prompt is this client's.
    pub(crate) fn running_node_of(&self, name: &str) -> Option<String> {
        let client = lock(&self.client);
        (client.0.as_str() == Some(name)).then(|| client.1.clone()).flatten()
    }

    pub(crate) fn note_executed(&self, prompt_id: &str) {
        lock(&self.shared.executed).push(prompt_id.to_owned());
    }

    /// Sleeps at the configured speed; ends early with the worker.
    pub(crate) fn sleep(&self, duration: Duration) -> Result<(), Stop> {
        let until = Instant::now() + duration.mul_f64(self.options().tick.max(0.0));
        let mut guard = lock(&self.sleepers.0);
        loop {
            if self.worker_ends() {
                return Err(Stop::Worker);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let waited = self.sleepers.1.wait_timeout(guard, left);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The fault that waits for the next node.
    pub(crate) fn fault_of_node(&self) -> Result<(), Stop> {
        if self.worker_ends() {
            return Err(Stop::Worker);
        }
        match self.shared.faults.node_error() {
            Some((kind, text)) => Err(Stop::Raised(kind, text.to_owned())),
            None => Ok(()),
        }
    }

    /// Can files be written?
    pub(crate) fn disk(&self) -> Result<(), &'static str> {
        if self.shared.faults.disk_is_lost() { Err("[Errno 28] No space left on device") } else { Ok(()) }
    }

    /// Does a sampler show previews? The prompt's own word wins over the option.
    pub(crate) fn previews(&self, own: Option<&Json>) -> bool {
        match own.and_then(Json::as_str) {
            Some("auto" | "latent2rgb" | "taesd") => true,
            Some("none") => false,
            _ => self.options().previews,
        }
    }

    /// Adds a log write and sends it to those who subscribed.
    pub(crate) fn log(&self, message: &str) {
        let now = clock::utc_parts();
        let time = format!(
            "{}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}",
            now.year,
            now.month,
            now.day,
            now.hour,
            now.minute,
            now.second,
            clock::now_ms().rem_euclid(1000) * 1000
        );
        let entry = dict([("t", time.as_str().into()), ("m", message.into())]);
        let data = dict([("entries", Json::List(vec![entry])), ("size", terminal_size())]);
        for reader in lock(&self.log_readers).iter() {
            self.hub.send("logs", data.clone(), Audience::One(reader.clone()));
        }
        let mut logs = lock(&self.logs);
        logs.push_back((time, message.to_owned()));
        if logs.len() > LOG_ENTRIES_MAX {
            logs.pop_front();
        }
    }

    /// The kept log writes: time and text.
    pub(crate) fn logs(&self) -> Vec<(String, String)> {
        lock(&self.logs).iter().cloned().collect()
    }

    /// Enters or removes a reader of the log.
    pub(crate) fn subscribe_logs(&self, client: &str, enabled: bool) {
        let mut readers = lock(&self.log_readers);
        readers.retain(|reader| reader != client);
        if enabled {
            readers.push(client.to_owned());
        }
    }
}

/// The terminal whose log this is.
pub(crate) fn terminal_size() -> Json {
    dict([("cols", Json::Int(80)), ("rows", Json::Int(24))])
}

/// Keeps a connection known as long as it lives.
#[derive(Debug)]
pub(crate) struct Connected {
    process: Arc<Process>,
    number: u64,
}

impl Drop for Connected {
    fn drop(&mut self) {
        lock(&self.process.connections).shift_remove(&self.number);
    }
}

/// The publish loop. An audience that Python cannot hash ends the whole process, as in ComfyUI.
async fn publish(process: Arc<Process>, mut outgoing: mpsc::UnboundedReceiver<Outgoing>) {
    while let Some(event) = outgoing.recv().await {
        if process.shared.faults.sockets_are_silent() {
            continue;
        }
        if process.hub.deliver(event).await.is_err() {
            process.end();
            return;
        }
    }
}
