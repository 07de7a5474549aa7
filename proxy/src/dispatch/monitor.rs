//! Watches one backend: is it there, does it mean by its classes what the catalogue says, do its events arrive, does its worker run.
//!
//! A backend is down until `GET /prompt` and `GET /object_info` answered and our socket is connected, so that no event of the first job is missed, and it was
//! swept of what nobody knows any more. One that was in service before also has to run a canary. It is ejected at once when a connection is refused
//! (nobody listens), after [`super::health::MISSES_MAX`] other failures in a row, and when a canary is not run. A canary is only sent to a backend that has
//! nothing to do; where something is in its queue and nothing has run to its end for as long, its log is asked whether the worker thread has ended.
//! What follows from what is [`super::health`].

use super::backend::Backend;
use super::canary::{self, Patience, Task, Verdict};
use super::comfyui::ComfyUiError;
use super::dispatcher::{Command, DispatchHandle};
use super::facts::BackendFacts;
use super::fault::Fault;
use super::health::{Cause, Health, Standing};
use super::sweep;
use super::warm_up::{self, WarmUpError};
use crate::config::{DispatchConfig, GpuName};
use crate::record::metrics::CanaryEnd;
use crate::services::Services;
use comfygate_policy::{Agreement, Catalogue, CatalogueError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// How often one that is up is asked, at most.
const UP_INTERVAL: Duration = Duration::from_secs(5);
/// How long a backend that answers may take to accept our socket.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);
/// Looks at one that is up until it is asked again what it is: every half a minute.
const FACTS_LOOKS: u64 = 6;

/// Watches `backend` until `shutdown` turns true.
pub async fn watch(
    services: Arc<Services>,
    backend: Arc<Backend>,
    socket_connected: watch::Receiver<bool>,
    dispatch: DispatchHandle,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut monitor = Monitor {
        services,
        backend,
        socket_connected,
        dispatch,
        was_asked: false,
        told_unprovable: AtomicBool::new(false),
        log_lies: AtomicBool::new(false),
        looks: AtomicU64::new(0),
        ejected_for: String::new(),
    };
    tokio::select! {
        () = monitor.watching() => {}
        () = async { drop(shutdown.wait_for(|down| *down).await) } => {}
    }
}

struct Monitor {
    services: Arc<Services>,
    backend: Arc<Backend>,
    socket_connected: watch::Receiver<bool>,
    dispatch: DispatchHandle,
    was_asked: bool,
    /// That its worker can't be tested is said once.
    told_unprovable: AtomicBool,
    /// Its log tells of a dead worker that lives: a node printed it.
    log_lies: AtomicBool,
    /// Looks at it while it was up.
    looks: AtomicU64,
    /// What it was last taken out of service for.
    ejected_for: String,
}

impl Monitor {
    async fn watching(&mut self) {
        loop {
            let (agreement, how) = self.returned().await;
            // Before it is up: not one job may come first.
            self.backend.set_warming(self.settings().warm_up);
            self.backend.set_up(Arc::clone(&agreement));
            self.report(&agreement, &how);
            self.tell_state();
            self.dispatch.send(Command::BackendUp(self.backend.id.clone(), how)).await;
            self.failed(&agreement).await;
            self.ejected_for = self.backend.reason();
            self.tell_down().await;
        }
    }

    fn settings(&self) -> DispatchConfig {
        self.services.config().dispatch.clone()
    }

    fn tell_state(&self) {
        self.services.metrics.set_backend_state(&self.backend.id, self.backend.shown_standing());
    }

    /// Log, metrics and audit: it is out of service, and why. No warning while somebody works on it.
    async fn tell_down(&self) {
        let reason = self.backend.reason();
        if self.backend.is_in_maintenance() {
            tracing::info!(backend = %self.backend.id, reason, "backend out of service, in maintenance");
        } else {
            tracing::warn!(backend = %self.backend.id, reason, "backend out of service");
        }
        self.tell_state();
        self.dispatch.send(Command::BackendDown(self.backend.id.clone(), reason)).await;
    }

    /// Resolves when the backend answers and has shown what it must: with what it shares with the catalogue, and how it came back.
    async fn returned(&mut self) -> (Arc<Agreement>, String) {
        loop {
            self.pause().await;
            match self.asked().await {
                Ok(found) => return found,
                Err((cause, reason)) => {
                    tracing::debug!(backend = %self.backend.id, cause = cause.name(), reason, "backend still out of service");
                    let is_news = self.backend.still_down(cause, reason);
                    self.tell_state();
                    // Said once: that it answers and runs nothing is not what it was ejected for.
                    if is_news && cause == Cause::WorkerDead {
                        self.tell_down().await;
                    }
                }
            }
        }
    }

    /// Waits before the next question; one whose socket ends meanwhile is being restarted, and asked at once.
    async fn pause(&mut self) {
        if !std::mem::replace(&mut self.was_asked, true) {
            return;
        }
        let wait = self.backend.health(|health| health.wait());
        let was_in_maintenance = self.backend.is_in_maintenance();
        let restarted = async {
            let was_connected = *self.socket_connected.borrow_and_update();
            if !was_connected || self.socket_connected.wait_for(|connected| !*connected).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        // The end of a maintenance is what it waits for.
        let mut halts = self.services.halts.subscribe();
        let backend = &self.backend;
        let resumed = async {
            while backend.is_in_maintenance() && halts.changed().await.is_ok() {}
            if !was_in_maintenance {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = resumed => {}
            () = restarted => tokio::time::sleep(Duration::from_millis(500).min(wait)).await,
        }
    }

    /// One try to bring it back.
    async fn asked(&mut self) -> Result<(Arc<Agreement>, String), (Cause, String)> {
        let of_error = |error: ComfyUiError| (Cause::of_error(error.is_refused()), error.to_string());
        self.backend.comfyui.queue_remaining().await.map_err(of_error)?;
        let live = self.backend.comfyui.object_info().await.map_err(of_error)?;
        let catalogue = self.services.inspector().catalogue_of(&self.backend.pool);
        // Megabytes of JSON: not on an event loop.
        let owned = self.backend.is_owned();
        let compared = tokio::task::spawn_blocking(move || {
            let installed = owned.then(|| Catalogue::from_object_info(&live)).transpose()?;
            let models = installed.as_ref().unwrap_or(&catalogue).model_options(&live)?;
            Ok((catalogue.agreement(&live)?, installed, models))
        });
        let (agreement, installed, models) = compared
            .await
            .map_err(|error| error.to_string())
            .and_then(|compared: Result<_, CatalogueError>| compared.map_err(|error| error.to_string()))
            .map_err(|error| (Cause::Hung, error))?;
        self.backend.set_models(models);
        if let Some(installed) = installed
            && self.backend.set_installed(installed)
        {
            self.services.rules_changed();
        }
        let connecting = async { self.socket_connected.wait_for(|connected| *connected).await.is_ok() };
        if !tokio::time::timeout(SOCKET_TIMEOUT, connecting).await.unwrap_or(false) {
            return Err((Cause::NoSocket, "its WebSocket can't be opened".into()));
        }
        self.learn_facts().await?;
        let now = self.services.clock.monotonic();
        let (must_prove, down_for) = self.backend.health(|health| (health.must_prove(), health.down_for(now)));
        match sweep::sweep(&self.backend, &*self.services.ledger).await {
            Ok(0) => {}
            Ok(prompts) => tracing::debug!(backend = %self.backend.id, prompts, "leftovers of ours were swept"),
            Err(error) => tracing::warn!(backend = %self.backend.id, %error, "leftovers could not be swept"),
        }
        if !must_prove {
            return Ok((Arc::new(agreement), String::new()));
        }
        let proof = self.proof(&agreement).await?;
        let was = &self.ejected_for;
        Ok((Arc::new(agreement), format!("back after {} s out of service ({was}); {proof}", down_for.as_secs())))
    }

    /// The proof that one who failed has to give before it is used again.
    async fn proof(&self, agreement: &Agreement) -> Result<String, (Cause, String)> {
        let settings = self.settings();
        if settings.canary_interval.is_zero() {
            return Ok("it answers".into());
        }
        if self.backend.is_in_maintenance() {
            // Whoever works on it would find our workflow in its queue. What it was thrown out for is proven wrong afterwards.
            let cause = self.cause_now();
            return Err((cause, "in maintenance: it is tested when that is over".into()));
        }
        let disk_was_full = self.backend.standing() == Standing::Down(Cause::DiskFull);
        let task = if disk_was_full { Task::Write } else { Task::Run };
        match self.canary(agreement, settings.canary_deadline, (task, Patience::WaitForOthers)).await {
            Verdict::Proven { took, .. } => {
                // It ran, whatever is written there: the log of this process is not asked again.
                let lies = self.backend.comfyui.worker_ended_in_log().await.unwrap_or(false);
                self.log_lies.store(lies, Ordering::Relaxed);
                Ok(format!("it ran a canary within {} ms", took.as_millis()))
            }
            Verdict::Unprovable(why) => Ok(format!("it answers; its worker could not be tested: {why}")),
            Verdict::NotRun => Err((Cause::WorkerDead, not_run(settings.canary_deadline))),
            Verdict::Broken(fault) => Err((fault.cause().unwrap_or(Cause::Stalled), broken(fault))),
            Verdict::Busy => Err((Cause::Stalled, "others' work runs there".into())),
            Verdict::Gone(reason) => Err((Cause::Hung, reason)),
            Verdict::Refused(reason) => Err((Cause::Refused, reason)),
        }
    }

    /// Why it is down; `Hung` if it is not.
    fn cause_now(&self) -> Cause {
        match self.backend.standing() {
            Standing::Down(cause) => cause,
            _ => Cause::Hung,
        }
    }

    async fn canary(&self, agreement: &Agreement, deadline: Duration, how: (Task, Patience)) -> Verdict {
        let is_followed = |prompt| self.services.tracks.of(prompt).is_some();
        let verdict = canary::prove(&self.backend, agreement, deadline, how, is_followed).await;
        let end = match &verdict {
            Verdict::Proven { .. } => CanaryEnd::Proven,
            Verdict::NotRun => CanaryEnd::NotRun,
            Verdict::Broken(_) => CanaryEnd::Failed,
            Verdict::Busy | Verdict::Unprovable(_) | Verdict::Gone(_) | Verdict::Refused(_) => CanaryEnd::Unknown,
        };
        self.services.metrics.canary(&self.backend.id, end);
        if matches!(verdict, Verdict::Proven { .. } | Verdict::Unprovable(_)) {
            // One that can't be tested is not asked again and again.
            let now = self.services.clock.monotonic();
            self.backend.health(|health| health.proven(now));
        }
        if let Verdict::Unprovable(why) = &verdict
            && !self.told_unprovable.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(backend = %self.backend.id, why, "whether this backend's worker lives can't be tested");
        }
        tracing::debug!(backend = %self.backend.id, ?verdict, "canary");
        verdict
    }

    /// Resolves when the backend has been taken out of service, by whomever.
    async fn failed(&self, agreement: &Agreement) {
        let mut halts = self.services.halts.subscribe();
        loop {
            // What is halted gets no jobs, so it need not be ready for any; it warms up when it goes on.
            if self.backend.is_warming() && self.backend.halt().is_none() {
                tokio::select! {
                    () = self.thrown_out() => {}
                    () = self.warm_up() => {}
                }
                self.backend.set_warming(false);
                self.tell_state();
                self.services.halts.changed();
            }
            if !self.backend.is_up() {
                return;
            }
            let interval = self.settings().canary_interval;
            let tick = if interval.is_zero() { UP_INTERVAL } else { (interval / 2).min(UP_INTERVAL) };
            let looking = async {
                tokio::time::sleep(tick).await;
                self.looked(agreement).await;
            };
            tokio::select! {
                () = self.backend.ejected() => {}
                Ok(()) = halts.changed(), if self.backend.is_warming() => {}
                () = looking => {}
            }
        }
    }

    /// Resolves when it is out of service. An ejection of before it came back may still be waiting to be heard.
    async fn thrown_out(&self) {
        while self.backend.is_up() {
            self.backend.ejected().await;
        }
    }

    /// Has it load what its first jobs will need. Whatever comes of it, it gets jobs then.
    async fn warm_up(&self) {
        let (services, backend) = (&self.services, &self.backend);
        if !self.settings().warm_up {
            return;
        }
        let is_followed = |prompt| services.tracks.of(prompt).is_some();
        match warm_up::run(services, backend, is_followed).await {
            Ok((took, models)) => {
                services.metrics.warm_up(&backend.id, true);
                tracing::info!(backend = %backend.id, ?models, millis = took.as_millis(), "the backend is warm");
                backend.set_warm_models(models);
                let now = services.clock.monotonic();
                backend.health(|health| health.proven(now));
            }
            Err(WarmUpError::Broken(fault)) if fault.cause().is_some() => {
                services.metrics.warm_up(&backend.id, false);
                if let Some(cause) = fault.cause() {
                    backend.eject(cause, broken(fault));
                }
            }
            Err(reason) => {
                services.metrics.warm_up(&backend.id, false);
                tracing::warn!(backend = %backend.id, %reason, "the warm-up workflow did not run: the first jobs load their models themselves");
            }
        }
    }

    /// One look at a backend that is up; ejects it if that is what follows.
    async fn looked(&self, agreement: &Agreement) {
        match self.backend.comfyui.queue_remaining().await {
            Ok(remaining) => {
                let (interval, now) = (self.settings().canary_interval, self.services.clock.monotonic());
                self.backend.health(Health::answered);
                if self.backend.is_in_maintenance() {
                    return;
                }
                if self.looks.fetch_add(1, Ordering::Relaxed) % FACTS_LOOKS == FACTS_LOOKS - 1
                    && let Ok(stats) = self.backend.comfyui.system_stats().await
                {
                    self.remember(BackendFacts::read(&stats));
                }
                if remaining == 0 && self.backend.outstanding() == 0 {
                    if self.backend.health(|health| health.canary_due(interval, now)) {
                        self.idle_canary(agreement).await;
                    }
                } else if self.backend.health(|health| health.log_due(interval, now)) {
                    self.look_into_the_log().await;
                }
            }
            Err(error) => {
                let cause = self.backend.health(|health| health.missed(error.is_refused()));
                if let Some(cause) = cause {
                    self.backend.eject(cause, error.to_string());
                }
            }
        }
    }

    async fn idle_canary(&self, agreement: &Agreement) {
        let deadline = self.settings().canary_deadline;
        match self.canary(agreement, deadline, (Task::Run, Patience::Yield)).await {
            Verdict::NotRun => self.backend.eject(Cause::WorkerDead, not_run(deadline)),
            Verdict::Refused(reason) => self.backend.eject(Cause::Refused, reason),
            Verdict::Broken(fault) => {
                if let Some(cause) = fault.cause() {
                    self.backend.eject(cause, broken(fault));
                }
            }
            // What does not answer is asked again in a moment, and counted there.
            Verdict::Proven { .. } | Verdict::Busy | Verdict::Unprovable(_) | Verdict::Gone(_) => {}
        }
    }

    /// A canary would wait behind what is there; the end of a worker by somebody's prompt, which stays in `/queue` as if it ran, is found in the log.
    async fn look_into_the_log(&self) {
        let lies = self.log_lies.load(Ordering::Relaxed);
        if !lies && self.backend.comfyui.worker_ended_in_log().await.unwrap_or(false) {
            self.backend.eject(Cause::WorkerDead, "its log tells of the end of its worker thread; restart it");
        }
    }

    /// Asks what it is, and warns if it seems to share its GPU with another backend. Its answer calls into CUDA (facts §9.1): where the context is broken that fails with 500, and one that was
    /// in service before stays out of it, since no canary touches the GPU.
    async fn learn_facts(&self) -> Result<(), (Cause, String)> {
        let stats = match self.backend.comfyui.system_stats().await {
            Ok(stats) => stats,
            Err(error) if error.is_server_error() && self.backend.health(|health| health.must_prove()) => {
                return Err((Cause::CudaError, format!("`/system_stats` {error}: if its GPU is broken, restart it")));
            }
            Err(_) => return Ok(()),
        };
        let facts = BackendFacts::read(&stats);
        for other in self.services.backends().values().filter(|other| other.id != self.backend.id && other.is_up()) {
            if !self.may_share_a_gpu(other) {
                continue;
            }
            // Free memory only says something if both were asked at the same time.
            let Ok(stats) = other.comfyui.system_stats().await else { continue };
            if let Some(device) = facts.shared_gpu(&BackendFacts::read(&stats)) {
                tracing::warn!(
                    backend = %self.backend.id, other = %other.id, device = device.name,
                    "both backends seem to run on one GPU and would take each other's memory; give each its `gpu` in the configuration if that is not so"
                );
            }
        }
        self.remember(facts);
        Ok(())
    }

    fn remember(&self, facts: BackendFacts) {
        if let (Some(total), Some(free)) = (facts.vram_total(), facts.vram_free()) {
            self.services.metrics.set_backend_vram(&self.backend.id, total, total.saturating_sub(free));
        }
        self.backend.set_facts(facts);
    }

    /// On one machine, and not told apart by the configuration.
    fn may_share_a_gpu(&self, other: &Backend) -> bool {
        let config = self.services.config();
        let gpu = |backend: &Backend| -> Option<GpuName> {
            config.backends.iter().find(|configured| configured.id == backend.id)?.gpu.clone()
        };
        let (mine, theirs) = (gpu(&self.backend), gpu(other));
        let told_apart = mine.is_some() && theirs.is_some() && mine != theirs;
        let (here, there) = (self.backend.endpoint.url(), other.endpoint.url());
        !told_apart && ((here.is_local() && there.is_local()) || here.host() == there.host())
    }

    fn report(&self, agreement: &Agreement, how: &str) {
        let (missing, differing) = (agreement.missing().count(), agreement.differing().count());
        self.services.metrics.set_catalogue_drift(&self.backend.id, missing, differing);
        let incarnation = self.backend.health(|health| health.incarnation());
        tracing::info!(backend = %self.backend.id, missing, differing, incarnation, how, "backend is up; classes that it lacks or that differ from the catalogue are closed there");
    }
}

fn broken(fault: Fault) -> String {
    let what_to_do = match fault {
        Fault::OutOfMemory => "see what else is on its GPU",
        Fault::Cuda => "restart it",
        Fault::DiskFull => "make room on it",
    };
    format!("a canary failed: {}; {what_to_do}", fault.text())
}

fn not_run(deadline: Duration) -> String {
    format!(
        "it answers, and did not run a canary within {} s: its worker thread is dead; restart it",
        deadline.as_secs()
    )
}
