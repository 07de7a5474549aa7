//! A ComfyUI 0.8.0 that runs no models: the same routes, errors and events as the recordings of a real one, with its
//! faults, and with further faults on demand.
//!
//! It knows no other crate of Comfygate. It serves tests, `comfygate demo` and people without a GPU. What it does not
//! imitate it refuses with a reason: a node class without an executor ends in an `execution_error` that says so, and a
//! route that is not built answers 501.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use comfygate_stand_in::{Options, StandIn};
//! let comfyui = StandIn::start(Options { tick: 0.1, ..Options::default() }).await?;
//! println!("{}", comfyui.url());
//! comfyui.faults().worker_dies();
//! comfyui.kill();
//! comfyui.restart().await?;
//! # Ok(()) }
//! ```

mod catalogue;
mod clock;
mod events;
mod execute;
mod faults;
mod files;
mod http;
mod jobs;
mod json;
mod multipart;
mod packs;
mod picture;
mod process;
mod python;
mod queue;
mod validate;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::{HeaderMap, Method};
use serde_json::Value;

pub use catalogue::Models;
pub use faults::Faults;
pub use packs::PACKS_MAX;

use files::Folders;
use process::Process;

/// How a stand-in is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Factor on every simulated duration: 1.0 real time, 0.1 ten times faster.
    pub tick: f64,
    /// `--multi-user`: the header `comfy-user` selects whose settings and workflows are meant.
    pub multi_user: bool,
    /// Base of `output/`, `input/`, `temp/` and `user/`. `None`: a temporary one, removed on drop.
    pub directory: Option<PathBuf>,
    /// How long connections are refused after a start or restart, as while ComfyUI imports its nodes.
    pub start_delay: Duration,
    /// `false`: `--cache-none`.
    pub cache: bool,
    /// `false`: `--disable-api-nodes`.
    pub api_nodes: bool,
    /// Model names by folder, as the loaders list them.
    pub models: Models,
    /// Do samplers send previews when the prompt does not say? (`--preview-method`; ComfyUI's default is none.)
    pub previews: bool,
    /// Time of one simulated sampling step, before `tick`.
    pub step_time: Duration,
    /// Folder of the web page's files, such as the `static` of comfyui-frontend-package; `None`: a page of its own.
    pub web_root: Option<PathBuf>,
    /// How many made-up node packs are installed, `pack_1` first; at most [`PACKS_MAX`].
    pub packs: u32,
    /// The folder in `custom_nodes` that the probe nodes are in; `None`: `gate_probe`, as in the recording.
    pub probe_folder: Option<String>,
    /// Bytes of its device's memory, as `/system_stats` tells them.
    pub vram_total: u64,
    /// Behave as versions after 0.8.0 do, as far as that is known (`http/newer.rs`)?
    pub newer: bool,
    /// Are faults also set by `POST /stand-in/faults`?
    pub faults_by_http: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tick: 1.0,
            multi_user: false,
            directory: None,
            start_delay: Duration::ZERO,
            cache: true,
            api_nodes: true,
            models: default_models(),
            previews: false,
            step_time: Duration::from_millis(100),
            web_root: None,
            packs: 0,
            probe_folder: None,
            vram_total: 24 << 30,
            newer: false,
            faults_by_http: false,
        }
    }
}

/// The names that published workflows ask for most.
pub fn default_models() -> Models {
    [
        ("checkpoints", &["sd_xl_base_1.0.safetensors", "v1-5-pruned-emaonly-fp16.safetensors"][..]),
        ("loras", &["example_lora.safetensors"]),
        ("vae", &["ae.safetensors", "sdxl_vae.safetensors"]),
        ("text_encoders", &["clip_l.safetensors", "t5xxl_fp16.safetensors"]),
        ("diffusion_models", &["flux1-dev.safetensors", "flux1-schnell.safetensors"]),
        ("controlnet", &["control_v11p_sd15_canny.safetensors"]),
        ("upscale_models", &["RealESRGAN_x4plus.pth"]),
        ("clip_vision", &["clip_vision_g.safetensors"]),
    ]
    .into_iter()
    .map(|(folder, names)| (folder.to_owned(), names.iter().map(|name| (*name).to_owned()).collect()))
    .collect()
}

/// A request as the stand-in saw it: method, path with query as sent, headers.
pub type SeenRequest = (Method, String, HeaderMap);

/// What outlives a restart.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) folders: Folders,
    pub(crate) faults: Faults,
    pub(crate) submissions: Mutex<Vec<Value>>,
    pub(crate) requests: Mutex<Vec<SeenRequest>>,
    pub(crate) executed: Mutex<Vec<String>>,
    _temporary: Option<tempfile::TempDir>,
}

/// A running ComfyUI stand-in. Dropping it ends it.
#[derive(Debug)]
pub struct StandIn {
    shared: Arc<Shared>,
    addr: SocketAddr,
    process: Mutex<Arc<Process>>,
}

impl StandIn {
    /// Starts a stand-in with tasks on the current tokio runtime and a worker thread of its own.
    ///
    /// # Errors
    /// The address cannot be bound, or the folders cannot be made.
    pub async fn start(options: Options) -> io::Result<StandIn> {
        let temporary = if options.directory.is_none() { Some(tempfile::tempdir()?) } else { None };
        let base = match (&options.directory, &temporary) {
            (Some(directory), _) => directory.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => std::env::temp_dir(),
        };
        let folders = Folders::create(&base)?;
        let listen = options.listen;
        let shared = Arc::new(Shared {
            options,
            folders,
            faults: Faults::default(),
            submissions: Mutex::default(),
            requests: Mutex::default(),
            executed: Mutex::default(),
            _temporary: temporary,
        });
        let process = Process::begin(&shared);
        let addr = http::listen(&process, listen)?;
        Ok(StandIn { shared, addr, process: Mutex::new(process) })
    }

    /// The address it listens on; the same after a restart.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDRESS`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The switches of faults.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The base of `output/`, `input/`, `temp/` and `user/`.
    pub fn directory(&self) -> PathBuf {
        self.shared.folders.base().to_owned()
    }

    /// Ends the process as a crash does: nothing listens, every connection is reset, queue, history and temp files are
    /// lost. `output/` and `input/` stay.
    pub fn kill(&self) {
        self.process().end();
    }

    /// Starts a new process on the same port, with an empty queue and history. Kills the old one if it still runs.
    ///
    /// # Errors
    /// The port was taken meanwhile.
    pub async fn restart(&self) -> io::Result<()> {
        self.kill();
        let process = Process::begin(&self.shared);
        let mut last = None;
        // The killed listener is closed by its task, which may need a moment; and while nobody listens there, the system may lend the port to somebody's outgoing connection for a while.
        for _ in 0..2000 {
            match http::listen(&process, self.addr) {
                Ok(_) => {
                    *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        process.end();
        Err(last.unwrap_or_else(|| io::Error::other("the port cannot be bound")))
    }

    /// Is the process there? `false` after `kill` and after a request that ends ComfyUI.
    pub fn is_running(&self) -> bool {
        !self.process().is_dead()
    }

    /// Every body that `POST /prompt` got, as received and in order, restarts included.
    pub fn submissions(&self) -> Vec<Value> {
        copied(&self.shared.submissions)
    }

    /// Every request, in order, restarts included.
    pub fn requests(&self) -> Vec<SeenRequest> {
        copied(&self.shared.requests)
    }

    /// Ids of the prompts whose execution began, in order, restarts included.
    pub fn executed(&self) -> Vec<String> {
        copied(&self.shared.executed)
    }

    /// Sends every socket a binary message, as a node pack may: the event's number, then whatever follows.
    pub fn sends_binary(&self, event: u32, payload: &[u8]) {
        self.process().hub.send_binary(event, payload, events::Audience::All);
    }

    fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copied<T: Clone>(list: &Mutex<Vec<T>>) -> Vec<T> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
