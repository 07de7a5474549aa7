//! One backend as the gateway knows it: where it is, how it is, which classes it shares with the pinned catalogue.

use super::comfyui::{ComfyUi, ComfyUiError};
use super::facts::BackendFacts;
use super::health::{Cause, Health, Standing};
use super::push::Present;
use crate::deliver::events::upstream::UpstreamSocket;
use crate::endpoint::BackendEndpoint;
use crate::ids::{BackendId, BackendTag, PoolId, UpstreamClientId};
use crate::record::gpus::GpuReading;
use crate::record::ledger::halts::HaltRow;
use arc_swap::{ArcSwap, ArcSwapOption};
use comfygate_policy::{Agreement, ApprovedWorkflow, Catalogue, ModelOptions};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, watch};

/// A configured ComfyUI.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub id: BackendId,
    /// Which tenants it serves.
    pub pool: PoolId,
    /// What it is or has, for tenants that ask for it.
    pub tags: BTreeSet<BackendTag>,
    /// The part of its pool's jobs that it gets at most, of 100; 100: no such bound.
    pub share_percent: u32,
    /// Where it listens.
    pub endpoint: BackendEndpoint,
    /// Our secret sid there.
    pub client: UpstreamClientId,
    /// How to call it.
    pub comfyui: ComfyUi,
    /// Which files of callers it was given.
    pub present: Present,
    /// Whose turn it is to have a mask put into a picture.
    pub mask_turn: tokio::sync::Mutex<()>,
    /// Read while a file is given to it, written while files there are deleted.
    pub giving: tokio::sync::RwLock<()>,
    state: ArcSwap<BackendState>,
    /// Its whole installation is one tenant's, which is judged by what is installed there now.
    owned: AtomicBool,
    installed: ArcSwapOption<Catalogue>,
    /// As it last said; of a backend that is down too.
    models: ArcSwapOption<ModelOptions>,
    health: Mutex<Health>,
    /// What an operator has stopped here.
    halt: ArcSwapOption<HaltRow>,
    /// It is up and has not run its warm-up workflow yet.
    is_warming: AtomicBool,
    /// What that workflow left in its memory.
    warm_models: ArcSwapOption<Vec<String>>,
    facts: ArcSwapOption<BackendFacts>,
    gpu: ArcSwapOption<GpuReading>,
    foreign: AtomicU64,
    /// How often it was asked to unload its models.
    unloads: AtomicU64,
    outstanding: AtomicU32,
    has_canary: AtomicBool,
    ejected: Notify,
    /// Grows whenever everything it has of ours is given up.
    written_off: watch::Sender<u64>,
    socket: OnceLock<UpstreamSocket>,
    attempts: Arc<watch::Sender<u32>>,
}

/// An attempt that a task carries at a backend; dropped when it is over.
#[derive(Debug)]
pub struct Occupied(Arc<watch::Sender<u32>>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.send_modify(|attempts| *attempts = attempts.saturating_sub(1));
    }
}

/// Whether a backend may be given work.
#[derive(Debug, Clone)]
pub enum BackendState {
    /// It does not answer, or did not yet.
    Down {
        /// What happened, for operators.
        reason: String,
    },
    /// It answers.
    Up {
        /// What its live `object_info` shares with the pinned catalogue.
        agreement: Arc<Agreement>,
    },
}

impl Backend {
    /// A backend that has not been asked yet: down until its monitor says otherwise.
    pub fn new(id: BackendId, pool: PoolId, endpoint: BackendEndpoint, client: UpstreamClientId) -> Self {
        let comfyui = ComfyUi::new(endpoint.clone());
        let state = ArcSwap::from_pointee(BackendState::Down { reason: "not asked yet".into() });
        Self {
            id,
            pool,
            tags: BTreeSet::new(),
            share_percent: 100,
            endpoint,
            client,
            comfyui,
            present: Present::default(),
            mask_turn: tokio::sync::Mutex::default(),
            giving: tokio::sync::RwLock::default(),
            state,
            owned: AtomicBool::new(false),
            installed: ArcSwapOption::empty(),
            models: ArcSwapOption::empty(),
            health: Mutex::new(Health::new(Instant::now())),
            halt: ArcSwapOption::empty(),
            is_warming: AtomicBool::new(false),
            warm_models: ArcSwapOption::empty(),
            facts: ArcSwapOption::empty(),
            gpu: ArcSwapOption::empty(),
            foreign: AtomicU64::new(0),
            unloads: AtomicU64::new(0),
            outstanding: AtomicU32::new(0),
            has_canary: AtomicBool::new(false),
            ejected: Notify::new(),
            written_off: watch::Sender::new(0),
            socket: OnceLock::new(),
            attempts: Arc::new(watch::channel(0).0),
        }
    }

    /// Counts an attempt that is carried here.
    pub fn occupy(&self) -> Occupied {
        self.attempts.send_modify(|attempts| *attempts = attempts.saturating_add(1));
        Occupied(Arc::clone(&self.attempts))
    }

    /// Resolves when no attempt is carried here.
    pub async fn vacant(&self) {
        // The sender lives in `self`, so waiting can't fail.
        drop(self.attempts.subscribe().wait_for(|attempts| *attempts == 0).await);
    }

    /// Our socket there, once there is one.
    pub fn socket(&self) -> Option<&UpstreamSocket> {
        self.socket.get()
    }

    /// Remembers our socket there; the first one stays, it reconnects by itself.
    pub fn set_socket(&self, socket: UpstreamSocket) {
        let _ = self.socket.set(socket);
    }

    /// Whether it answers and has not been ejected. It may be drained, or warming up: see [`Backend::takes_jobs`].
    pub fn is_up(&self) -> bool {
        matches!(**self.state.load(), BackendState::Up { .. })
    }

    /// Whether it may be given a job now: it is up, no operator has stopped it, and it has warmed up.
    pub fn takes_jobs(&self) -> bool {
        self.is_up() && self.halt.load().is_none() && !self.is_warming()
    }

    /// The halt that an operator put on it.
    pub fn halt(&self) -> Option<Arc<HaltRow>> {
        self.halt.load_full()
    }

    /// Puts a halt on it, or takes it off.
    pub fn set_halt(&self, halt: Option<Arc<HaltRow>>) {
        self.halt.store(halt);
    }

    /// Whether somebody works on it: it is not tested, and its going down is no alarm.
    pub fn is_in_maintenance(&self) -> bool {
        self.halt.load().as_ref().is_some_and(|halt| halt.maintenance)
    }

    /// Whether it waits for the end of its warm-up workflow.
    pub fn is_warming(&self) -> bool {
        self.is_warming.load(Ordering::Relaxed)
    }

    /// It has to warm up before its first job, or has.
    pub fn set_warming(&self, is_warming: bool) {
        self.is_warming.store(is_warming, Ordering::Relaxed);
    }

    /// The models that its warm-up workflow loaded since it came up, as [`Work`](crate::record::ledger::Work) has them; `None` if it ran none. Jobs may have loaded others since.
    pub fn warm_models(&self) -> Option<Arc<Vec<String>>> {
        self.warm_models.load_full()
    }

    /// Remembers which models its warm-up workflow loaded.
    pub fn set_warm_models(&self, models: Vec<String>) {
        self.warm_models.store(Some(Arc::new(models)));
    }

    /// Its state now.
    pub fn state(&self) -> Arc<BackendState> {
        self.state.load_full()
    }

    /// Says whether its installation is one tenant's own (owner posture): only then its catalogue is kept, which may take tens of megabytes.
    pub fn set_owned(&self, owned: bool) {
        self.owned.store(owned, Ordering::Relaxed);
        if !owned {
            self.installed.store(None);
        }
    }

    /// Whether its installation is one tenant's own.
    pub fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Relaxed)
    }

    /// What is installed there, as it said when it came up; of owned backends only.
    pub fn installed(&self) -> Option<Arc<Catalogue>> {
        self.installed.load_full()
    }

    /// Remembers what is installed there. Says whether it is another installation than before.
    pub fn set_installed(&self, catalogue: Catalogue) -> bool {
        let digest = catalogue.digest();
        let former = self.installed.swap(Some(Arc::new(catalogue)));
        former.is_none_or(|former| former.digest() != digest)
    }

    /// Remembers which models it offers.
    pub fn set_models(&self, models: ModelOptions) {
        self.models.store(Some(Arc::new(models)));
    }

    /// Remembers what some classes offer now. Two at once may lose one's news, which is asked for again.
    pub fn renew_models(&self, newer: ModelOptions) {
        let mut models = self.models().map(|known| (*known).clone()).unwrap_or_default();
        models.renew(newer);
        self.set_models(models);
    }

    /// Which models it offers, as it last said; `None` until it has.
    pub fn models(&self) -> Option<Arc<ModelOptions>> {
        self.models.load_full()
    }

    /// Whether it offers every model of the workflow, as far as is known: one that was never asked may have them.
    pub fn may_have_models(&self, workflow: &ApprovedWorkflow) -> bool {
        self.models().is_none_or(|models| models.lacking(workflow).is_empty())
    }

    /// Where it stands: up, half open, or down and why.
    pub fn standing(&self) -> Standing {
        self.health(|health| health.standing())
    }

    /// Where it stands, as operators are told: what they have done to it themselves counts for more than what is known of it.
    pub fn shown_standing(&self) -> Standing {
        let standing = self.standing();
        if self.is_in_maintenance() {
            Standing::Maintenance
        } else if !standing.takes_jobs() {
            standing
        } else if self.halt.load().is_some() {
            Standing::Drained
        } else if self.is_warming() {
            Standing::Warming
        } else {
            standing
        }
    }

    /// Reads or changes its health, for the one who watches it. `act` must not call this backend: the lock is held meanwhile.
    pub fn health<R>(&self, act: impl FnOnce(&mut Health) -> R) -> R {
        // Every change is one statement: a panic elsewhere leaves nothing half done.
        act(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it told of itself when it last came up; `None` until then, or if it told nothing.
    pub fn facts(&self) -> Option<Arc<BackendFacts>> {
        self.facts.load_full()
    }

    /// Bytes of its GPU's memory, as it last told; `None` until it has told of any.
    pub fn vram_total(&self) -> Option<u64> {
        self.facts()?.vram_total()
    }

    /// How its GPU is, as the driver of this machine last told; `None` where nobody can look.
    pub fn gpu(&self) -> Option<Arc<GpuReading>> {
        self.gpu.load_full()
    }

    /// Remembers how its GPU is.
    pub fn set_gpu(&self, reading: Option<GpuReading>) {
        self.gpu.store(reading.map(Arc::new));
    }

    /// Remembers what it tells of itself.
    pub fn set_facts(&self, facts: BackendFacts) {
        self.facts.store(Some(Arc::new(facts)));
    }

    /// Whether it is up and every class of the workflow means there what the catalogue says; of an owned backend, whether it has the classes.
    pub fn can_run(&self, workflow: &ApprovedWorkflow) -> bool {
        let mut classes = workflow.classes();
        self.is_up() && classes.all(|class| self.has_class(class.as_str()))
    }

    /// Whether it is up and has a class as workflows were judged by.
    pub fn has_class(&self, class: &str) -> bool {
        if let (true, Some(installed)) = (self.is_owned(), self.installed()) {
            return self.is_up() && installed.class(class).is_some();
        }
        match &**self.state.load() {
            BackendState::Up { agreement } => agreement.agrees(class),
            BackendState::Down { .. } => false,
        }
    }

    /// It is asked to unload its models.
    pub fn models_unloaded(&self) {
        self.unloads.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes whenever it may have lost the models that it had loaded: another process, or one that was asked to unload them.
    pub fn loading_epoch(&self) -> (u64, u64) {
        (self.health(|health| health.incarnation()), self.unloads.load(Ordering::Relaxed))
    }

    /// Prompts in its queue that are not ours, as last seen.
    pub fn foreign(&self) -> u32 {
        u32::try_from(self.foreign.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Remembers how many prompts there are beside the attempts that it has; a canary is ours too.
    pub fn set_foreign(&self, prompts: u64) {
        self.foreign.store(prompts.saturating_sub(self.has_canary().into()), Ordering::Relaxed);
    }

    /// Attempts of ours that it has, as the dispatcher last said.
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Remembers how many attempts of ours it has.
    pub fn set_outstanding(&self, attempts: u32) {
        self.outstanding.store(attempts, Ordering::Relaxed);
    }

    /// Whether a canary is in its queue.
    pub fn has_canary(&self) -> bool {
        self.has_canary.load(Ordering::Relaxed)
    }

    /// A canary was sent, or is over.
    pub fn set_canary(&self, is_there: bool) {
        self.has_canary.store(is_there, Ordering::Relaxed);
    }

    /// Gives it work again.
    pub fn set_up(&self, agreement: Arc<Agreement>) {
        // What comes up may be another process, on another disk.
        self.present.clear();
        self.warm_models.store(None);
        self.health(Health::returned);
        self.state.store(Arc::new(BackendState::Up { agreement }));
    }

    /// A job of ours has run there to its end.
    pub fn worked(&self, now: Instant) {
        if self.health(|health| health.worked(now)) {
            tracing::info!(backend = %self.id, "a job ran to its end: the backend is fully back");
        }
    }

    /// Takes it out of service; its monitor asks it until it answers and proves itself.
    pub fn eject(&self, cause: Cause, reason: impl Into<String>) {
        let reason = format!("{}: {}", cause.name(), reason.into());
        self.health(|health| health.eject(cause, Instant::now()));
        self.state.store(Arc::new(BackendState::Down { reason }));
        self.ejected.notify_one();
        if cause == Cause::WorkerDead {
            self.write_off();
        }
    }

    fn write_off(&self) {
        self.written_off.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Takes it out of service for an error of its own.
    pub fn eject_for(&self, error: &ComfyUiError) {
        self.eject(Cause::of_error(error.is_refused()), error.to_string());
    }

    /// A question to it failed while it is down. Says whether that is another cause than before.
    pub fn still_down(&self, cause: Cause, reason: impl Into<String>) -> bool {
        let is_news = self.health(|health| health.still_down(cause));
        let reason = format!("{}: {}", cause.name(), reason.into());
        self.state.store(Arc::new(BackendState::Down { reason }));
        if cause == Cause::WorkerDead {
            self.write_off();
        }
        is_news
    }

    /// Why it is down; empty if it is not.
    pub fn reason(&self) -> String {
        match &**self.state.load() {
            BackendState::Down { reason } => reason.clone(),
            BackendState::Up { .. } => String::new(),
        }
    }

    /// Resolves when somebody ejects it.
    pub async fn ejected(&self) {
        self.ejected.notified().await;
    }

    /// Changes when everything it has of ours is given up, since its worker is dead.
    pub fn written_off(&self) -> watch::Receiver<u64> {
        self.written_off.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_backend_is_vacant_when_its_last_attempt_is_over_and_no_earlier() {
        let endpoint = BackendEndpoint::parse("http://127.0.0.1:8188").unwrap();
        let backend =
            Backend::new("gpu0".parse().unwrap(), "default".parse().unwrap(), endpoint, UpstreamClientId::new());
        backend.vacant().await;
        let (first, second) = (backend.occupy(), backend.occupy());
        let mut vacant = Box::pin(backend.vacant());
        drop(first);
        assert!(futures_util::poll!(&mut vacant).is_pending());
        drop(second);
        vacant.await;
    }
}
