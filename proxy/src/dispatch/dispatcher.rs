//! Decides which held job goes to which backend. One task owns the queue and the slots; everything else talks to it by [`Command`]s.

use super::attempt::{self, AttemptOver, Carried};
use super::backend::Backend;
use super::fleet::{Fleet, Openings};
use super::health::Standing;
use super::measure::Placed;
use super::outlook::{self, Outlook, Place};
use super::queue::{HeldJob, HeldQueue};
use super::redecide;
use super::schedule::Tuning;
use super::share::Shares;
use crate::deliver::events::codec::ClientEvent;
use crate::drain::Drain;
use crate::ids::{BackendId, JobId, PromptId, TenantId};
use crate::owner::OwnerScope;
use crate::record::ledger::{Job, JobState, Reached, Work};
use crate::record::metrics::JobCounts;
use crate::services::Services;
use comfygate_policy::ApprovedWorkflow;
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

/// Commands that wait for the dispatcher; senders wait when it is full, which it is only while the dispatcher waits for nothing but memory.
const COMMANDS_MAX: usize = 4096;

/// How often the queue is compared with the ledger.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(30);

/// How long attempts on their way to a backend may take to arrive before they are left to a successor.
pub const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// How often it is looked whether anything may run for no other reason than that time has passed, and what those who wait may expect is told anew.
const TICK: Duration = Duration::from_secs(1);

/// A job that runs so much longer than was thought keeps nobody waiting behind it.
const LATE: Duration = Duration::from_secs(10);

/// What the dispatcher is told.
#[derive(Debug)]
pub enum Command {
    /// A job was accepted, with its fresh approval if that is small enough to be kept. Who sends it may want to hear how many held jobs go before it.
    Accepted(Box<Job>, Option<Arc<ApprovedWorkflow>>, Option<oneshot::Sender<usize>>),
    /// A held job was deleted from the queue.
    Withdrawn(JobId),
    /// A held job may still run, under the rules of now.
    Approved(JobId, Arc<ApprovedWorkflow>),
    /// All held jobs were decided again.
    DecidedAgain,
    /// The owner wants the end of an assigned or running job; the ledger has it already.
    Interrupt(JobId),
    /// A backend answers, and how it came back.
    BackendUp(BackendId, String),
    /// A backend was ejected, and why.
    BackendDown(BackendId, String),
    /// A backend began an attempt of that job.
    Running(JobId),
    /// An attempt is over; its slot is free.
    Over(JobId, AttemptOver),
}

/// Where commands go.
#[derive(Debug, Clone)]
pub struct DispatchHandle(mpsc::Sender<Command>);

impl DispatchHandle {
    /// Tells the dispatcher; once it stopped, nobody needs to know.
    pub async fn send(&self, command: Command) {
        let _ = self.0.send(command).await;
    }
}

/// A handle and the end that [`Dispatcher::run`] reads.
pub fn channel() -> (DispatchHandle, mpsc::Receiver<Command>) {
    let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
    (DispatchHandle(sender), receiver)
}

/// The task's state.
#[derive(Debug)]
pub struct Dispatcher {
    services: Arc<Services>,
    handle: DispatchHandle,
    queue: HeldQueue,
    fleet: Fleet,
    outstanding: HashMap<JobId, Outstanding>,
    /// Jobs whose last attempt is being written off, since its backend is no more.
    written_off: HashSet<JobId>,
    /// How the last jobs were spread.
    shares: Shares,
    /// The tasks that carry attempts.
    carriers: JoinSet<()>,
    /// How often the queue is compared with the ledger.
    reconcile_interval: Duration,
    /// Held jobs are to be decided again.
    rules_changed: bool,
    /// Backends with attempts that were to be interrupted when they were taken up.
    interrupted_before: HashSet<BackendId>,
    /// What owners whose sockets want it were told last of their held jobs.
    told: HashMap<OwnerScope, Value>,
    /// The task that decides held jobs again.
    redeciding: Option<AbortHandle>,
    /// Held jobs that no backend may run, and since when.
    stranded: HashMap<JobId, Instant>,
    /// When that was looked at last.
    stranded_at: Instant,
}

/// An attempt that a task carries.
#[derive(Debug)]
struct Outstanding {
    backend: BackendId,
    interrupt: watch::Sender<bool>,
    running: bool,
    /// What the job was known to be.
    work: Option<Work>,
    /// What it is thought to take there, if that is known well enough to go by.
    takes: Option<Duration>,
    /// When it is thought to end; from its start on.
    ends_at: Option<Instant>,
    /// Its owner wants its end; it is told once nothing waits behind it there.
    interrupt_wanted: bool,
    /// Takes it back, should it not have begun.
    recall: watch::Sender<bool>,
    /// Another job of ours is there before it.
    behind: Arc<AtomicBool>,
}

/// What is thought of an attempt when it is placed.
struct Known {
    placed: Placed,
    work: Option<Work>,
    takes: Option<Duration>,
    /// Another job of ours is there before it.
    behind: bool,
}

impl Dispatcher {
    /// Starts from what the ledger has: held jobs wait, assigned and running ones are followed up where they were.
    pub fn new(services: Arc<Services>, handle: DispatchHandle, active: Vec<Job>) -> Self {
        let fleet = Fleet::new(Tuning::default(), services.clock.monotonic());
        let mut dispatcher = Self {
            services,
            handle,
            queue: HeldQueue::default(),
            fleet,
            outstanding: HashMap::new(),
            written_off: HashSet::new(),
            shares: Shares::default(),
            carriers: JoinSet::new(),
            reconcile_interval: RECONCILE_INTERVAL,
            // What waited through a restart may have been accepted by other rules.
            rules_changed: true,
            redeciding: None,
            told: HashMap::new(),
            interrupted_before: HashSet::new(),
            stranded: HashMap::new(),
            stranded_at: Instant::now(),
        };
        for job in active {
            dispatcher.take_up(job);
        }
        for backend in std::mem::take(&mut dispatcher.interrupted_before) {
            dispatcher.interrupt_at(&backend);
        }
        dispatcher
    }

    /// Serves commands until the gateway stops. Attempts in flight are left to run at their backends: the next start follows them up. When a
    /// successor follows at once, nobody carries them any more when this resolves.
    pub async fn run(mut self, commands: mpsc::Receiver<Command>, drain: Drain) {
        self.serve(commands, drain.subscribe()).await;
        // Nobody assigns any more. One on its way would be looked for by the successor before it has arrived, and be sent again; and a provider's answer may hold the only token that is still good.
        drop(tokio::time::timeout(ON_ITS_WAY, self.services.submissions.idle()).await);
        if drain.is_handing_over() {
            self.carriers.shutdown().await;
        } else {
            // What ends before the process does may be committed still.
            self.carriers.detach_all();
        }
    }

    async fn serve(&mut self, mut commands: mpsc::Receiver<Command>, mut shutdown: watch::Receiver<bool>) {
        let interval = self.reconcile_interval;
        let mut reconcile = tokio::time::interval_at(Instant::now() + interval, interval);
        reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rules = self.services.rules.subscribe();
        let mut reloaded = self.services.reloaded.subscribe();
        let mut halts = self.services.halts.subscribe();
        loop {
            while self.carriers.try_join_next().is_some() {}
            self.decide_again();
            self.assign_what_fits();
            self.report();
            self.recall_from_late();
            let command = tokio::select! {
                biased;
                () = async { drop(shutdown.wait_for(|down| *down).await) } => return,
                // Its sender lives as long as the services do: the error can't be.
                Ok(()) = rules.changed() => {
                    self.rules_changed = true;
                    continue;
                }
                Ok(()) = reloaded.changed() => {
                    self.look_again();
                    let backends = self.services.backends();
                    self.shares.retain(|pool| backends.values().any(|backend| backend.pool == *pool));
                    continue;
                }
                // A tenant was paused, or is not any more; which backends take jobs is read anew for each assignment.
                Ok(()) = halts.changed() => {
                    self.look_again();
                    continue;
                }
                command = commands.recv() => command,
                _ = reconcile.tick() => {
                    self.reconcile().await;
                    continue;
                }
                _ = tick.tick() => {
                    self.tell_outlook();
                    self.end_stranded();
                    continue;
                }
            };
            match command {
                Some(command) => self.obey(command),
                None => return,
            }
        }
    }

    /// Takes up what the ledger has and nobody carries: a transition whose answer was lost, a task that panicked.
    async fn reconcile(&mut self) {
        let active = match self.services.ledger.active_jobs().await {
            Ok(active) => active,
            Err(error) => return tracing::warn!(%error, "the ledger can't be compared with the queue now"),
        };
        for job in active {
            let carried = self.outstanding.contains_key(&job.id) || self.written_off.contains(&job.id);
            if self.queue.contains(job.id) || carried {
                continue;
            }
            tracing::warn!(job = %job.id, state = ?job.state, "a job that nobody carried is taken up");
            self.take_up(job);
        }
        for backend in std::mem::take(&mut self.interrupted_before) {
            self.interrupt_at(&backend);
        }
    }

    /// Has all held jobs decided again, if the rules changed since; one round at a time.
    fn decide_again(&mut self) {
        // A round that panicked has ended too.
        let busy = self.redeciding.as_ref().is_some_and(|round| !round.is_finished());
        if busy || !std::mem::take(&mut self.rules_changed) {
            return;
        }
        let held: Vec<HeldJob> = self.queue.in_order().cloned().collect();
        if !held.is_empty() {
            let (services, handle) = (Arc::clone(&self.services), self.handle.clone());
            self.redeciding = Some(self.carriers.spawn(redecide::all(services, handle, held)));
        }
    }

    /// Ends held jobs that no backend of the configuration may run, when they have waited so for `[dispatch] no_backend_timeout`.
    fn end_stranded(&mut self) {
        let (now, timeout) = (Instant::now(), self.services.config().dispatch.no_backend_timeout);
        if now < self.stranded_at + (timeout / 10).min(RECONCILE_INTERVAL) {
            return;
        }
        self.stranded_at = now;
        let tenants = self.services.tenants();
        let mut stranded = HashMap::new();
        let mut over = Vec::new();
        for held in self.queue.in_order() {
            // One that a reload forgot may be back with the next.
            let Some(tenant) = tenants.tenant(&held.job.owner.tenant) else { continue };
            let Some(reason) = self.services.stranded(&tenant, held.workflow.as_deref()) else { continue };
            let since = self.stranded.get(&held.job.id).copied().unwrap_or(now);
            if now < since + timeout {
                stranded.insert(held.job.id, since);
            } else {
                // If it can't be ended now, it is tried as late again.
                stranded.insert(held.job.id, now);
                over.push((held.job.clone(), reason));
            }
        }
        self.stranded = stranded;
        if !over.is_empty() {
            let (services, handle) = (Arc::clone(&self.services), self.handle.clone());
            self.carriers.spawn(async move {
                for (job, reason) in over {
                    let id = job.id;
                    if attempt::strand(&services, job, &reason, timeout).await {
                        handle.send(Command::Withdrawn(id)).await;
                    }
                }
            });
            // Those far back in a long queue are only now asked what they need.
            self.look_again();
        }
    }

    fn take_up(&mut self, job: Job) {
        match job.state {
            JobState::Held => self.hold(HeldJob { job, workflow: None }),
            JobState::Assigned | JobState::Running => self.resume(job),
            JobState::Ended(_) => {}
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            // A reconciliation may have found it in the ledger before this word came, and given it away already: nothing goes before it.
            Command::Accepted(job, _, position) if self.outstanding.contains_key(&job.id) => {
                let _ = position.map(|teller| teller.send(0));
            }
            Command::Accepted(job, workflow, position) => {
                let id = job.id;
                self.hold(HeldJob { job: *job, workflow });
                if let (Some(teller), Some(position)) = (position, self.fleet.position(id)) {
                    // Whoever asked may have gone.
                    let _ = teller.send(position);
                }
            }
            Command::Withdrawn(job) => {
                self.queue.remove(job);
                self.fleet.withdraw(job);
            }
            Command::Approved(job, fresh) => {
                if let Some(held) = self.queue.renew(job, fresh) {
                    self.fleet.look_again(&self.services, held);
                }
            }
            Command::DecidedAgain => self.redeciding = None,
            Command::Interrupt(job) => {
                if let Some(outstanding) = self.outstanding.get_mut(&job) {
                    outstanding.interrupt_wanted = true;
                    let backend = outstanding.backend.clone();
                    self.interrupt_at(&backend);
                }
            }
            Command::Running(job) => {
                if let Some(outstanding) = self.outstanding.get_mut(&job) {
                    outstanding.running = true;
                    outstanding.ends_at = outstanding.takes.map(|takes| Instant::now() + takes);
                    let backend = outstanding.backend.clone();
                    self.interrupt_at(&backend);
                }
            }
            // It may be another installation, with other classes and models.
            Command::BackendUp(backend, how) => {
                self.services.audit.backend(&backend, true, &how);
                self.look_again();
            }
            Command::BackendDown(backend, reason) => {
                self.services.audit.backend(&backend, false, &reason);
                // What was to be tried elsewhere may have to come back.
                self.look_again();
            }
            Command::Over(job, over) => self.over(job, over),
        }
    }

    fn hold(&mut self, held: HeldJob) {
        self.fleet.hold(&self.services, &held);
        self.queue.insert(held);
    }

    /// Looks anew at where each held job may run, and what its tenant may take.
    fn look_again(&mut self) {
        for held in self.queue.in_order() {
            self.fleet.look_again(&self.services, held);
        }
        let mut tenants: HashSet<&TenantId> = HashSet::new();
        for held in self.queue.in_order() {
            if tenants.insert(&held.job.owner.tenant) {
                self.fleet.set_share(&self.services, &held.job.owner.tenant);
            }
        }
    }

    /// Books what an attempt took, and learns from it.
    fn over(&mut self, job: JobId, over: AttemptOver) {
        let outstanding = self.outstanding.remove(&job);
        self.written_off.remove(&job);
        if let Some(outstanding) = &outstanding {
            for (_, left) in self.at(&outstanding.backend) {
                left.behind.store(false, Ordering::Relaxed);
            }
            self.interrupt_at(&outstanding.backend);
        }
        match over {
            AttemptOver::JobEnded(spent) => {
                self.fleet.settle(job, spent.map_or(0.0, |spent| spent.charge));
                if let (Some(spent), Some(Outstanding { backend, work: Some(work), .. })) = (spent, outstanding)
                    && spent.whole
                {
                    self.services.estimates(|estimates| estimates.ran(backend.as_str(), &work, &spent.run));
                }
            }
            // What was lost is nobody's fault but ours.
            AttemptOver::HeldAgain(held) => {
                self.fleet.settle(job, 0.0);
                self.hold(*held);
            }
        }
    }

    /// Gives free backends the jobs that are due; then those that will be free in a moment, so that their GPUs do not idle while results are copied.
    fn assign_what_fits(&mut self) {
        self.assign(Self::idle);
        if self.fleet.waits() {
            self.assign(Self::nearly_idle);
        }
    }

    /// Jobs that a backend without one may be given: one, so that nothing foreign waits behind a job that may be interrupted (facts §13).
    fn idle(&self, backend: &Backend) -> u32 {
        u32::from(self.at(&backend.id).next().is_none())
    }

    /// Jobs that a backend may be given behind the one that it has: one, if that one runs and is thought to end within `[dispatch] ahead`.
    fn nearly_idle(&self, backend: &Backend) -> u32 {
        let ahead = self.services.config().dispatch.ahead;
        let mut here = self.at(&backend.id);
        let (Some((_, first)), None) = (here.next(), here.next()) else { return 0 };
        let now = Instant::now();
        // Not behind one that is late already: it would be taken back at once.
        let soon = first.ends_at.is_some_and(|at| now + ahead >= at && now < at + ahead.min(LATE));
        // One that failed before gets no second job before one has run to its end; behind others' work nobody knows when anything ends.
        let good = backend.standing() == Standing::Up && backend.foreign() == 0 && !first.interrupt_wanted;
        u32::from(!ahead.is_zero() && soon && good)
    }

    /// The attempts at a backend.
    fn at<'a>(&'a self, backend: &'a BackendId) -> impl Iterator<Item = (&'a JobId, &'a Outstanding)> {
        self.outstanding.iter().filter(move |(_, outstanding)| outstanding.backend == *backend)
    }

    fn assign(&mut self, openings: fn(&Self, &Backend) -> u32) {
        let backends = self.services.backends();
        let open: HashMap<BackendId, Openings> = backends
            .values()
            .map(|backend| {
                let outstanding = self.outstanding_at(&backend.id);
                let all = backends.values().map(|backend| &**backend);
                let available = backend.takes_jobs() && self.shares.allow(backend, all);
                let open = openings(self, backend);
                (backend.id.clone(), Openings { available, outstanding, open, foreign: backend.foreign() })
            })
            .collect();
        self.fleet.refresh(&self.services, &open);
        while let Some(placement) = self.fleet.next(&self.services) {
            let backend = self.services.backends().get(&placement.backend).cloned();
            match (self.queue.remove(placement.job), backend) {
                (Some(held), Some(backend)) => {
                    let known = self.known(&held.job, &backend, placement.loads);
                    self.shares.assigned(&backend);
                    self.carry(held.job.id, &backend, known, move |carried| attempt::begin(carried, held));
                }
                // INVARIANT: the fleet holds what the queue holds, and its seats are backends of now.
                (held, _) => {
                    tracing::error!(job = %placement.job, backend = %placement.backend, "a job was placed that is not there");
                    self.fleet.settle(placement.job, 0.0);
                    held.into_iter().for_each(|held| self.hold(held));
                    return;
                }
            }
        }
    }

    /// Tells attempts at a backend that their owners want their end: once nothing of others waits behind them, since ComfyUI's interruption is a flag that whatever runs next would find set. What waits
    /// there is taken back first.
    fn interrupt_at(&mut self, backend: &BackendId) {
        let wanted = |outstanding: &Outstanding| outstanding.interrupt_wanted && !*outstanding.interrupt.borrow();
        if !self.at(backend).any(|(_, outstanding)| wanted(outstanding)) {
            return;
        }
        let runs = self.at(backend).any(|(_, outstanding)| outstanding.running);
        let behind = |outstanding: &Outstanding| runs && !outstanding.running && !outstanding.interrupt_wanted;
        let mut clear = true;
        for (_, outstanding) in self.at(backend).filter(|(_, outstanding)| behind(outstanding)) {
            outstanding.recall.send_replace(true);
            clear = false;
        }
        for (_, outstanding) in self.at(backend).filter(|(_, outstanding)| wanted(outstanding)) {
            // What has not begun is taken out of the backend's queue, which touches nobody.
            if clear || !outstanding.running {
                outstanding.interrupt.send_replace(true);
            }
        }
    }

    /// Takes back what waits behind a job that runs much longer than was thought.
    fn recall_from_late(&self) {
        let now = Instant::now();
        let late = |outstanding: &Outstanding| outstanding.ends_at.is_some_and(|at| now > at + LATE);
        for first in self.outstanding.values().filter(|outstanding| outstanding.running && late(outstanding)) {
            for (_, behind) in self.at(&first.backend).filter(|(_, outstanding)| !outstanding.running) {
                behind.recall.send_replace(true);
            }
        }
    }

    /// What is thought of an attempt when it is placed.
    fn known(&self, job: &Job, backend: &Backend, loads: bool) -> Known {
        let behind = self.at(&backend.id).next().is_some();
        let work = job.work.clone();
        self.services.estimates(|estimates| {
            let speed = estimates.speed(backend.id.as_str());
            let (load_seconds, takes) = work.as_ref().map_or((0.0, None), |work| {
                let load_seconds = if loads { estimates.load_seconds(&work.model) } else { 0.0 };
                let seconds = estimates.seconds(&work.model, work.units) / speed + load_seconds;
                (load_seconds, estimates.knows(&work.model).then(|| Duration::from_secs_f64(seconds)))
            });
            Known { placed: Placed { speed, load_seconds }, work, takes, behind }
        })
    }

    /// Makes known what those who wait may expect.
    fn tell_outlook(&mut self) {
        let outlook = Outlook::new(self.fleet.outlook(self.services.clock.monotonic()), self.services.clock.wall());
        let mut wanted: HashMap<OwnerScope, Vec<(&PromptId, Place)>> = HashMap::new();
        for held in self.queue.in_order() {
            let scope = held.job.owner.scope();
            if (wanted.contains_key(&scope) || self.services.hub.wants_places(&scope))
                && let Some(place) = outlook.of(held.job.id)
            {
                wanted.entry(scope).or_default().push((&held.job.prompt_id, place));
            }
        }
        let mut told = HashMap::new();
        for (scope, jobs) in wanted {
            let jobs = outlook::shown(jobs.into_iter());
            if self.told.get(&scope) != Some(&jobs) {
                let event = json!({"type": "comfygate_queue", "data": {"jobs": jobs}}).to_string();
                self.services.hub.publish_places(&scope, &ClientEvent::Hint(event.into()));
            }
            told.insert(scope, jobs);
        }
        self.told = told;
        self.services.outlook.store(Arc::new(outlook));
    }

    fn outstanding_at(&self, backend: &BackendId) -> u32 {
        u32::try_from(self.at(backend).count()).unwrap_or(u32::MAX)
    }

    /// Follows up an attempt of before the restart, at its backend if that is still configured.
    fn resume(&mut self, job: Job) {
        let backend = job.attempts.last().and_then(|attempt| self.services.backends().get(&attempt.backend).cloned());
        match backend {
            Some(backend) => {
                let cancelled = job.cancel_requested;
                let id = job.id;
                self.fleet.resume(&self.services, &job, &backend.id);
                // What it had to load is not known any more: it teaches nothing.
                let known = Known { work: None, ..self.known(&job, &backend, false) };
                let running = job.state == JobState::Running;
                let began = job.attempts.last().and_then(|attempt| attempt.started_at);
                let ran = began.map_or(Duration::ZERO, |began| self.services.clock.wall().since(began));
                let ends_at = known.takes.filter(|_| running).map(|takes| Instant::now() + takes.saturating_sub(ran));
                self.carry(id, &backend, known, move |carried| attempt::resume(carried, job));
                if let Some(outstanding) = self.outstanding.get_mut(&id) {
                    (outstanding.running, outstanding.interrupt_wanted) = (running, cancelled);
                    outstanding.ends_at = ends_at;
                }
                // Another may be taken up after this one that waits behind it: both are looked at together.
                if cancelled {
                    self.interrupted_before.insert(backend.id.clone());
                }
            }
            None => {
                let (services, handle) = (Arc::clone(&self.services), self.handle.clone());
                self.written_off.insert(job.id);
                self.carriers.spawn(async move {
                    let id = job.id;
                    let reason = "its backend is not configured any more";
                    let over = attempt::lost(&services, job, reason, Reached::Perhaps).await;
                    handle.send(Command::Over(id, over)).await;
                });
            }
        }
    }

    /// Spawns the task that carries an attempt, and books its slot.
    fn carry<F, Fut>(&mut self, job: JobId, backend: &Arc<Backend>, known: Known, task: F)
    where
        F: FnOnce(Carried) -> Fut,
        Fut: Future<Output = AttemptOver> + Send + 'static,
    {
        let (interrupt, interrupted) = watch::channel(false);
        let (recall, recalled) = watch::channel(false);
        let Known { placed, work, takes, behind } = known;
        let behind = Arc::new(AtomicBool::new(behind));
        let outstanding = Outstanding {
            backend: backend.id.clone(),
            interrupt,
            running: false,
            work,
            takes,
            ends_at: None,
            interrupt_wanted: false,
            recall,
            behind: Arc::clone(&behind),
        };
        self.outstanding.insert(job, outstanding);
        let handle = self.handle.clone();
        let carrying = task(Carried {
            services: Arc::clone(&self.services),
            dispatch: handle.clone(),
            backend: Arc::clone(backend),
            interrupt: interrupted,
            recall: recalled,
            behind,
            placed,
        });
        let occupied = backend.occupy();
        self.carriers.spawn(async move {
            // A panic must not keep the slot: the ledger still has the job, and the next reconciliation takes it up.
            let over = AssertUnwindSafe(carrying).catch_unwind().await.unwrap_or(AttemptOver::JobEnded(None));
            drop(occupied);
            handle.send(Command::Over(job, over)).await;
        });
    }

    /// Tells the metrics how things stand.
    fn report(&self) {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let running = self.outstanding.values().filter(|outstanding| outstanding.running).count();
        let counts = JobCounts {
            held: count(self.queue.len()),
            assigned: count(self.outstanding.len() - running),
            running: count(running),
        };
        self.services.metrics.set_jobs(counts);
        for backend in self.services.backends().values() {
            let outstanding = self.outstanding_at(&backend.id);
            backend.set_outstanding(outstanding);
            self.services.metrics.set_backend(&backend.id, backend.is_up(), outstanding);
            self.services.metrics.set_backend_state(&backend.id, backend.shown_standing());
        }
    }
}

#[cfg(test)]
mod tests;
