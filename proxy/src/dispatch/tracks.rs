//! Whose an upstream event is: from the id a backend uses to the owner, the owner's label and the task that carries the attempt.

use super::attempt::Signal;
use crate::deliver::events::hub::Route;
use crate::ids::{BackendId, PromptId, UpstreamPromptId};
use crate::record::ledger::{Attempt, Job};
use comfygate_policy::ComfyOrgCredential;
use dashmap::DashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Hints that wait for an attempt's task; more are dropped, since one is as good as many.
const SIGNALS_MAX: usize = 8;

/// Every attempt that is followed now: at most one a slot of a backend.
#[derive(Debug, Default)]
pub struct Tracks {
    by_upstream: DashMap<UpstreamPromptId, Track>,
    /// What runs at each backend by its own events, for frames that name no prompt (facts §6.4).
    running: DashMap<BackendId, UpstreamPromptId>,
}

/// Where an attempt's events go.
#[derive(Debug, Clone)]
pub struct Track {
    /// Whose sockets.
    pub route: Route,
    /// The owner's name of the job.
    pub prompt_id: PromptId,
    /// Which backend has it.
    pub backend: BackendId,
    /// What it may be paid with: in no event that people hear.
    pub secrets: Arc<[ComfyOrgCredential]>,
    /// An earlier attempt has told the start already: it is told once, whatever the number of attempts.
    pub start_told: bool,
    heard: Arc<Heard>,
    signals: mpsc::Sender<Signal>,
}

/// What was heard of one attempt.
#[derive(Debug, Default)]
struct Heard {
    start: AtomicBool,
    further: AtomicU64,
}

impl Track {
    /// Gives the attempt's task a hint.
    pub fn signal(&self, signal: Signal) {
        let _ = self.signals.try_send(signal);
    }

    /// An event of it was heard.
    pub fn heard(&self, is_start: bool) {
        if is_start {
            self.heard.start.store(true, Ordering::Relaxed);
        } else {
            self.heard.further.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tracks {
    /// From now on events of `attempt` reach the job's owner; the receiver hears the hints.
    pub fn track(&self, job: &Job, attempt: &Attempt) -> mpsc::Receiver<Signal> {
        let (signals, receiver) = mpsc::channel(SIGNALS_MAX);
        let track = Track {
            route: Route { scope: job.owner.scope(), client_id: job.client_id.clone() },
            prompt_id: job.prompt_id.clone(),
            backend: attempt.backend.clone(),
            secrets: Arc::default(),
            start_told: job.attempts.iter().any(|earlier| earlier.n != attempt.n && earlier.started_at.is_some()),
            heard: Arc::default(),
            signals,
        };
        self.by_upstream.insert(attempt.upstream, track);
        receiver
    }

    /// From now on nobody hears these in events of that attempt.
    pub fn hide(&self, upstream: UpstreamPromptId, secrets: &[ComfyOrgCredential]) {
        if let Some(mut track) = self.by_upstream.get_mut(&upstream) {
            track.secrets = secrets.into();
        }
    }

    /// Events of that attempt reach nobody any more.
    pub fn untrack(&self, upstream: UpstreamPromptId) {
        self.by_upstream.remove(&upstream);
        self.running.retain(|_, running| *running != upstream);
    }

    /// Whose that prompt is; `None`: not ours, or not any more.
    pub fn of(&self, upstream: UpstreamPromptId) -> Option<Track> {
        self.by_upstream.get(&upstream).map(|track| track.clone())
    }

    /// Whether the start of that prompt was heard, and how many events after it.
    pub fn heard(&self, upstream: UpstreamPromptId) -> (bool, u64) {
        self.by_upstream.get(&upstream).map_or((false, 0), |track| {
            (track.heard.start.load(Ordering::Relaxed), track.heard.further.load(Ordering::Relaxed))
        })
    }

    /// How many prompts of ours a backend has.
    pub fn at(&self, backend: &BackendId) -> u64 {
        self.by_upstream.iter().filter(|track| track.backend == *backend).count() as u64
    }

    /// A backend began, or ended, a prompt: ours or foreign.
    pub fn set_running(&self, backend: &BackendId, upstream: Option<UpstreamPromptId>) {
        match upstream {
            Some(upstream) => drop(self.running.insert(backend.clone(), upstream)),
            None => drop(self.running.remove(backend)),
        }
    }

    /// What a frame without prompt id of that backend belongs to.
    pub fn running_at(&self, backend: &BackendId) -> Option<Track> {
        self.of(self.running_prompt_at(backend)?)
    }

    /// The prompt that runs at a backend by its own events, ours or foreign.
    pub fn running_prompt_at(&self, backend: &BackendId) -> Option<UpstreamPromptId> {
        self.running.get(backend).map(|prompt| *prompt)
    }
}
