//! Decides which held job goes to which backend. One task owns the queue and the slots; everything else talks to it by [`Command`]s.

use super::attempt::{self, AttemptOver, Carried};
use super::backend::Backend;
use super::health::Standing;
use super::place::{self, Load};
use super::queue::{HeldJob, HeldQueue};
use super::redecide;
use super::share::Shares;
use crate::drain::Drain;
use crate::ids::{BackendId, JobId};
use crate::record::ledger::{Job, JobState, Reached};
use crate::record::metrics::JobCounts;
use crate::services::Services;
use comfygate_policy::ApprovedWorkflow;
use futures_util::FutureExt;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

/// Commands that wait for the dispatcher; senders wait when it is full, which it is only while the dispatcher waits for nothing but memory.
const COMMANDS_MAX: usize = 4096;

/// How often the queue is compared with the ledger.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(30);

/// How long attempts on their way to a backend may take to arrive before they are left to a successor.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// What the dispatcher is told.
#[derive(Debug)]
pub enum Command {
    /// A job was accepted, with its fresh approval if that is small enough to be kept.
    Accepted(Box<Job>, Option<Arc<ApprovedWorkflow>>),
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
    /// The task that decides held jobs again.
    redeciding: Option<AbortHandle>,
}

/// An attempt that a task carries.
#[derive(Debug)]
struct Outstanding {
    backend: BackendId,
    interrupt: watch::Sender<bool>,
    running: bool,
}

impl Dispatcher {
    /// Starts from what the ledger has: held jobs wait, assigned and running ones are followed up where they were.
    pub fn new(services: Arc<Services>, handle: DispatchHandle, active: Vec<Job>) -> Self {
        let mut dispatcher = Self {
            services,
            handle,
            queue: HeldQueue::default(),
            outstanding: HashMap::new(),
            written_off: HashSet::new(),
            shares: Shares::default(),
            carriers: JoinSet::new(),
            reconcile_interval: RECONCILE_INTERVAL,
            // What waited through a restart may have been accepted by other rules.
            rules_changed: true,
            redeciding: None,
        };
        for job in active {
            dispatcher.take_up(job);
        }
        dispatcher
    }

    /// Serves commands until the gateway stops. Attempts in flight are left to run at their backends: the next start follows them up. When a
    /// successor follows at once, nobody carries them any more when this resolves.
    pub async fn run(mut self, commands: mpsc::Receiver<Command>, drain: Drain) {
        self.serve(commands, drain.subscribe()).await;
        if drain.is_handing_over() {
            // Nobody assigns any more. One on its way would be looked for by the successor before it has arrived, and be sent again.
            drop(tokio::time::timeout(ON_ITS_WAY, self.services.submissions.idle()).await);
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
        let mut rules = self.services.rules.subscribe();
        let mut halts = self.services.halts.subscribe();
        loop {
            while self.carriers.try_join_next().is_some() {}
            self.decide_again();
            self.assign_what_fits();
            self.report();
            let command = tokio::select! {
                biased;
                () = async { drop(shutdown.wait_for(|down| *down).await) } => return,
                command = commands.recv() => command,
                // Its sender lives as long as the services do: the error can't be.
                Ok(()) = rules.changed() => {
                    self.rules_changed = true;
                    continue;
                }
                // Who may be given work is read anew for each assignment.
                Ok(()) = halts.changed() => {
                    let backends = self.services.backends();
                    self.shares.retain(|pool| backends.values().any(|backend| backend.pool == *pool));
                    continue;
                }
                _ = reconcile.tick() => {
                    self.reconcile().await;
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

    fn take_up(&mut self, job: Job) {
        match job.state {
            JobState::Held => self.queue.insert(HeldJob { job, workflow: None }),
            JobState::Assigned | JobState::Running => self.resume(job),
            JobState::Ended(_) => {}
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            // A reconciliation may have found it in the ledger before this word came, and given it away already.
            Command::Accepted(job, _) if self.outstanding.contains_key(&job.id) => {}
            Command::Accepted(job, workflow) => self.queue.insert(HeldJob { job: *job, workflow }),
            Command::Withdrawn(job) => {
                self.queue.remove(job);
            }
            Command::Approved(job, fresh) => self.queue.renew(job, fresh),
            Command::DecidedAgain => self.redeciding = None,
            Command::Interrupt(job) => {
                if let Some(outstanding) = self.outstanding.get(&job) {
                    outstanding.interrupt.send_replace(true);
                }
            }
            Command::Running(job) => {
                if let Some(outstanding) = self.outstanding.get_mut(&job) {
                    outstanding.running = true;
                }
            }
            // What they change is read from the backend itself when the next job is placed.
            Command::BackendUp(backend, how) => self.services.audit.backend(&backend, true, &how),
            Command::BackendDown(backend, reason) => self.services.audit.backend(&backend, false, &reason),
            Command::Over(job, over) => {
                self.outstanding.remove(&job);
                self.written_off.remove(&job);
                if let AttemptOver::HeldAgain(held) = over {
                    self.queue.insert(*held);
                }
            }
        }
    }

    /// Gives free backends the first jobs that they can run, in the queue's order.
    fn assign_what_fits(&mut self) {
        let mut loads = self.loads();
        let mut assigned = Vec::new();
        for held in self.queue.in_order() {
            if !loads.values().any(|load| load.available && load.outstanding < place::SLOTS) {
                break;
            }
            if self.services.tenant_paused(&held.job.owner.tenant) {
                continue;
            }
            let tenant = self.services.tenants().tenant(&held.job.owner.tenant);
            let serves = |backend: &Backend| tenant.as_ref().is_none_or(|tenant| tenant.is_served_by(backend));
            let can_run = |id: &BackendId| match (&held.workflow, self.services.backends().get(id)) {
                (_, Some(backend)) if !serves(backend) => false,
                // Decided anew by the attempt; whether the backend has its classes is seen then.
                (None, Some(backend)) => backend.is_up(),
                (Some(workflow), Some(backend)) => self.services.suits(backend, workflow),
                (_, None) => false,
            };
            if let Some(backend) = place::placed(&loads, can_run).cloned() {
                if let Some(load) = loads.get_mut(&backend) {
                    load.outstanding += 1;
                }
                assigned.push((held.job.id, backend));
            }
        }
        for (job, backend) in assigned {
            if let (Some(held), Some(backend)) =
                (self.queue.remove(job), self.services.backends().get(&backend).cloned())
            {
                self.shares.assigned(&backend);
                self.carry(held.job.id, &backend, move |carried| attempt::begin(carried, held));
            }
        }
    }

    fn loads(&self) -> BTreeMap<BackendId, Load> {
        let backends = self.services.backends();
        let load = |backend: &Arc<Backend>| {
            let outstanding = self.outstanding_at(&backend.id);
            // One that failed before gets one job, and no second before that has run to its end.
            let is_tried = backend.standing() == Standing::HalfOpen && outstanding > 0;
            let in_share = self.shares.allow(backend, backends.values().map(|backend| &**backend));
            Load { available: backend.takes_jobs() && !is_tried && in_share, outstanding, foreign: backend.foreign() }
        };
        backends.iter().map(|(id, backend)| (id.clone(), load(backend))).collect()
    }

    fn outstanding_at(&self, backend: &BackendId) -> u32 {
        let here = self.outstanding.values().filter(|outstanding| outstanding.backend == *backend).count();
        u32::try_from(here).unwrap_or(u32::MAX)
    }

    /// Follows up an attempt of before the restart, at its backend if that is still configured.
    fn resume(&mut self, job: Job) {
        let backend = job.attempts.last().and_then(|attempt| self.services.backends().get(&attempt.backend).cloned());
        match backend {
            Some(backend) => {
                let cancelled = job.cancel_requested;
                let id = job.id;
                self.carry(id, &backend, move |carried| attempt::resume(carried, job));
                if cancelled && let Some(outstanding) = self.outstanding.get(&id) {
                    outstanding.interrupt.send_replace(true);
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
    fn carry<F, Fut>(&mut self, job: JobId, backend: &Arc<Backend>, task: F)
    where
        F: FnOnce(Carried) -> Fut,
        Fut: Future<Output = AttemptOver> + Send + 'static,
    {
        let (interrupt, interrupted) = watch::channel(false);
        self.outstanding.insert(job, Outstanding { backend: backend.id.clone(), interrupt, running: false });
        let handle = self.handle.clone();
        let carrying = task(Carried {
            services: Arc::clone(&self.services),
            dispatch: handle.clone(),
            backend: Arc::clone(backend),
            interrupt: interrupted,
        });
        let occupied = backend.occupy();
        self.carriers.spawn(async move {
            // A panic must not keep the slot: the ledger still has the job, and the next reconciliation takes it up.
            let over = AssertUnwindSafe(carrying).catch_unwind().await.unwrap_or(AttemptOver::JobEnded);
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
