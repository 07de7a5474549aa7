//! One attempt from assignment to commit.
//!
//! Events are hints: they make us look at once. The end of an attempt is decided by `/history/{id}` and `/queue` (design §5 deliver), and told to
//! the owner only after its files are in the blobs and the ledger has committed it.

use super::backend::Backend;
use super::collect::{self, Ending, Names, UpstreamEnd};
use super::comfyui::{ComfyUiError, QueuePlace};
use super::dispatcher::{Command, DispatchHandle};
use super::queue::HeldJob;
use crate::deliver::events::hub::Route;
use crate::deliver::events::upstream::UpstreamSocket;
use crate::drain::InFlight;
use crate::ids::{AttemptId, FileId};
use crate::record::blobs::BlobError;
use crate::record::ledger::{Attempt, Job, JobResult, JobState, LedgerError, NewFile, Outcome, OwnerSecrets};
use crate::record::metrics;
use crate::services::Services;
use comfygate_policy::{ApprovedWorkflow, OutputScope};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Tries of any kind before a job is given up: bounds the row of a job that never gets as far as starting.
pub const TRIES_MAX: usize = 20;
/// Before the next try of a job whose tries did not get as far as starting; grows with their number.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// At most.
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// After the event of the end, the history entry follows within milliseconds; asked so often until it is there.
const HURRY_INTERVAL: Duration = Duration::from_millis(50);
/// Unanswered polls in a row before a backend counts as hung. Refused connections need none.
const POLL_MISSES_MAX: u32 = 6;
/// One output: an hour of video fits, a disk does not fill from one file.
const OUTPUT_BYTES_MAX: u64 = 8 << 30;
/// Between two tries to write the ledger while it is unavailable.
const LEDGER_INTERVAL: Duration = Duration::from_secs(1);

/// Repeats a transition while the ledger is unavailable: an accepted job is never dropped because a disk is full for a minute.
macro_rules! until_available {
    ($transition:expr) => {
        loop {
            match $transition.await {
                Err(LedgerError::Unavailable { action, reason }) => {
                    tracing::error!(action, reason, "ledger unavailable; trying again");
                    tokio::time::sleep(LEDGER_INTERVAL).await;
                }
                answered => break answered,
            }
        }
    };
}

/// What became of an attempt.
#[derive(Debug)]
pub enum AttemptOver {
    /// The job has ended.
    JobEnded,
    /// The attempt was lost: the job is held again.
    HeldAgain(Box<HeldJob>),
}

/// What the backend's events say of an attempt: hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It began.
    Started,
    /// It is over.
    Ended,
}

/// How watching ended.
enum Watched {
    /// The backend has a history entry.
    Entry(serde_json::Value),
    /// We took it out of the backend's queue before it began, as its owner asked.
    Withdrawn,
    /// It is lost there.
    Lost(String),
}

/// Assigns a held job to `backend` and carries it to its end.
pub async fn begin(carried: Carried, held: HeldJob) -> AttemptOver {
    let Carried { services, backend, .. } = &carried;
    let HeldJob { job, workflow } = held;
    let workflow = match fresh_workflow(services, &job, workflow).await {
        Ok(workflow) => workflow,
        Err(Undecided::Later) => {
            tokio::time::sleep(LEDGER_INTERVAL).await;
            return AttemptOver::HeldAgain(Box::new(HeldJob { job, workflow: None }));
        }
        Err(Undecided::Never(reason)) => return give_up(services, job, "NotAllowed", &reason).await,
    };
    if !backend.can_run(&workflow) {
        // Its classes are not all there: back to the queue, which now knows what it needs.
        return AttemptOver::HeldAgain(Box::new(HeldJob { job, workflow: Some(workflow) }));
    }
    let on_its_way = services.submissions.enter();
    let job = match services.ledger.assign(job.id, job.version, &backend.id, services.clock.wall()).await {
        Ok(job) => job,
        Err(LedgerError::Unavailable { .. }) => {
            tokio::time::sleep(LEDGER_INTERVAL).await;
            return AttemptOver::HeldAgain(Box::new(HeldJob { job, workflow: Some(workflow) }));
        }
        // Deleted, or moved on, while it was being placed.
        Err(error) => {
            tracing::debug!(job = %job.id, %error, "not assigned");
            return AttemptOver::JobEnded;
        }
    };
    let waited = services.clock.wall().since(job.accepted_at);
    services.metrics.queue_wait(waited);
    match Carrying::new(carried, job) {
        Some(carrying) => carrying.submit_and_follow(&workflow, on_its_way).await,
        None => AttemptOver::JobEnded,
    }
}

/// Follows up an attempt that a former process had assigned: it may be running, done, or never have arrived.
pub async fn resume(carried: Carried, job: Job) -> AttemptOver {
    match Carrying::new(carried, job) {
        Some(carrying) => carrying.follow().await,
        None => AttemptOver::JobEnded,
    }
}

/// Writes an attempt off. The job is held again, or ends if it had its tries.
pub async fn lost(services: &Arc<Services>, job: Job, reason: &str) -> AttemptOver {
    let Some(attempt) = current(&job) else { return AttemptOver::JobEnded };
    tracing::warn!(job = %job.id, attempt = attempt.n, backend = %attempt.backend, reason, "attempt lost");
    services.metrics.attempt(&attempt.backend, metrics::Ending::Lost);
    let id = AttemptId { job: job.id, n: attempt.n };
    let job = match until_available!(services.ledger.lose(id, reason)) {
        Ok(job) => job,
        Err(error) => {
            tracing::error!(job = %job.id, %error, "a lost attempt can't be written off");
            return AttemptOver::JobEnded;
        }
    };
    let started = job.attempts.iter().filter(|attempt| attempt.started_at.is_some()).count();
    let started_max = usize::try_from(services.config().dispatch.attempts_max).unwrap_or(usize::MAX);
    if started >= started_max || job.attempts.len() >= TRIES_MAX {
        let tries = job.attempts.len();
        return give_up(
            services,
            job,
            "TooManyAttempts",
            &format!("the job was tried {tries} times and lost each time; the last time: {reason}"),
        )
        .await;
    }
    if job.cancel_requested {
        let result = collect::interruption(&job.prompt_id, job.accepted_at, services.clock.wall());
        return end_held(services, job, Outcome::Interrupted, result).await;
    }
    // The slot stays booked meanwhile: whatever lost the attempt would lose the next one at once, and the one after.
    let unstarted = u32::try_from(job.attempts.len().saturating_sub(started)).unwrap_or(u32::MAX);
    tokio::time::sleep((RETRY_INTERVAL * unstarted).min(RETRY_INTERVAL_MAX)).await;
    AttemptOver::HeldAgain(Box::new(HeldJob { job, workflow: None }))
}

/// Ends a held job that can't be run, in a stated error.
async fn give_up(services: &Arc<Services>, job: Job, kind: &str, message: &str) -> AttemptOver {
    let result = collect::gateway_failure(&job.prompt_id, None, kind, message, services.clock.wall());
    end_held(services, job, Outcome::Failed, result).await
}

async fn end_held(services: &Arc<Services>, job: Job, outcome: Outcome, result: JobResult) -> AttemptOver {
    let at = services.clock.wall();
    let ended = until_available!(services.ledger.end_held(job.id, job.version, outcome, Some(result.clone()), at));
    match ended {
        Ok(job) => services.tell_end(&job, &result).await,
        // Its owner deleted it meanwhile.
        Err(error) => tracing::debug!(job = %job.id, %error, "not ended"),
    }
    AttemptOver::JobEnded
}

/// Why a held job can't be decided.
enum Undecided {
    /// The ledger can't be read now.
    Later,
    /// It may not run, or what is stored of it is damaged.
    Never(String),
}

/// The approval at hand if it is fresh, else a new decision on the stored submission.
async fn fresh_workflow(
    services: &Arc<Services>,
    job: &Job,
    workflow: Option<Arc<ApprovedWorkflow>>,
) -> Result<Arc<ApprovedWorkflow>, Undecided> {
    let never = |reason: &str| Undecided::Never(reason.to_owned());
    let tenant =
        services.tenants().tenant(&job.owner.tenant).ok_or_else(|| never("the tenant is not configured any more"))?;
    if let Some(workflow) = workflow
        && services.inspector().is_fresh(&workflow, &tenant)
    {
        return Ok(workflow);
    }
    let graph = match services.ledger.graph(&job.submission).await {
        Ok(graph) => graph,
        Err(LedgerError::NotFound { .. } | LedgerError::Damaged { .. }) => {
            return Err(never("what is stored of the workflow is damaged: submit it again"));
        }
        Err(error) => {
            tracing::error!(job = %job.id, %error, "a held job can't be read; trying again");
            return Err(Undecided::Later);
        }
    };
    let inspector = services.inspector();
    let decided = tokio::task::spawn_blocking(move || {
        let parsed = inspector.parse(&graph)?;
        inspector.decide(&parsed, &tenant)
    });
    let decided = decided.await.map_err(|error| never(&error.to_string()))?;
    decided.map(Arc::new).map_err(|error| Undecided::Never(format!("the policy changed while the job waited: {error}")))
}

fn current(job: &Job) -> Option<&Attempt> {
    job.attempts.last().filter(|attempt| attempt.lost.is_none())
}

/// What a task is given to carry an attempt with.
#[derive(Debug)]
pub struct Carried {
    /// The gateway's parts.
    pub services: Arc<Services>,
    /// Told when the backend begins.
    pub dispatch: DispatchHandle,
    /// Where.
    pub backend: Arc<Backend>,
    /// Turns true when the owner wants its end.
    pub interrupt: watch::Receiver<bool>,
}

/// An assigned attempt.
struct Carrying {
    services: Arc<Services>,
    dispatch: DispatchHandle,
    backend: Arc<Backend>,
    interrupt: watch::Receiver<bool>,
    job: Job,
    attempt: Attempt,
    signals: mpsc::Receiver<Signal>,
    /// A look found the prompt in neither queue nor history.
    absent: bool,
    /// `status` messages that had been heard before the submission; taken once the next ones are missed or heard.
    heard_before: Option<u64>,
    /// The backend answered the submission.
    submitted: bool,
}

impl Carrying {
    /// From here on the backend's events for this attempt reach its owner.
    fn new(carried: Carried, job: Job) -> Option<Self> {
        let Carried { services, dispatch, backend, interrupt } = carried;
        let attempt = current(&job)?.clone();
        let signals = services.tracks.track(&job, &attempt);
        Some(Self {
            services,
            dispatch,
            backend,
            interrupt,
            job,
            attempt,
            signals,
            absent: false,
            heard_before: None,
            submitted: false,
        })
    }

    fn id(&self) -> AttemptId {
        AttemptId { job: self.job.id, n: self.attempt.n }
    }

    async fn submit_and_follow(mut self, workflow: &ApprovedWorkflow, on_its_way: InFlight) -> AttemptOver {
        let body = match self.upstream_body(workflow).await {
            Ok(body) => body,
            Err(reason) => return self.lost(&reason).await,
        };
        let statuses = self.statuses();
        let answered = self.backend.comfyui.submit(body.into()).await;
        drop(on_its_way);
        match answered {
            Ok(answer)
                if answer.get("prompt_id").and_then(|id| id.as_str())
                    == Some(self.attempt.upstream.to_string().as_str()) =>
            {
                self.heard_before = Some(statuses);
                self.submitted = true;
                self.follow().await
            }
            Ok(_) => self.lost("the backend answered with an id that is not ours").await,
            Err(ComfyUiError::Status { status, body }) if status == http::StatusCode::BAD_REQUEST => {
                self.refused(&body).await
            }
            // It may have arrived all the same: the queue tells.
            Err(ComfyUiError::Lost(reason)) => {
                tracing::warn!(job = %self.job.id, backend = %self.backend.id, reason, "no answer to a submission; looking for it in the queue");
                self.follow().await
            }
            Err(error @ ComfyUiError::Connect(_)) => {
                self.backend.eject(error.to_string());
                self.lost(&error.to_string()).await
            }
            Err(error) => {
                // Whatever stands before a ComfyUI that restarts answers so.
                if error.is_server_error() {
                    self.backend.eject(error.to_string());
                }
                self.lost(&error.to_string()).await
            }
        }
    }

    async fn upstream_body(&self, workflow: &ApprovedWorkflow) -> Result<Vec<u8>, String> {
        let secrets = self.owner_secrets().await?;
        let (prompt, client) = (self.attempt.upstream.to_string(), self.backend.client.to_string());
        let scope = OutputScope::new(&self.attempt.folder, &prompt, &client, &secrets.salt)
            .map_err(|error| error.to_string())?;
        Ok(workflow.upstream_body(&scope))
    }

    async fn owner_secrets(&self) -> Result<OwnerSecrets, String> {
        let scope = self.job.owner.scope();
        until_available!(self.services.ledger.owner_secrets(&scope)).map_err(|error| error.to_string())
    }

    /// Watches the attempt at its backend, and commits what it finds.
    async fn follow(mut self) -> AttemptOver {
        match self.watched().await {
            Watched::Entry(entry) => self.finish(&entry).await,
            Watched::Withdrawn => {
                let result = self.interruption();
                self.commit(Outcome::Interrupted, result, Vec::new()).await
            }
            Watched::Lost(reason) => {
                // It had the slot to itself, so it was running, or what it is killed the backend before anybody saw it start.
                if self.submitted {
                    self.started().await;
                }
                self.lost(&reason).await
            }
        }
    }

    async fn watched(&mut self) -> Watched {
        let poll_interval = self.services.config().dispatch.poll_interval;
        let mut misses = 0;
        let mut wait = Duration::ZERO;
        let mut interrupting = false;
        loop {
            let woken = tokio::select! {
                () = tokio::time::sleep(wait) => Woken::Look,
                signal = self.signals.recv() => match signal {
                    Some(Signal::Started) => Woken::Started,
                    Some(Signal::Ended) | None => Woken::Look,
                },
                // `Ok` only: when the dispatcher is gone because the gateway stops, nobody asked for an interruption.
                Ok(()) = wanted(&mut self.interrupt), if !interrupting => Woken::Interrupt,
            };
            match woken {
                Woken::Look => {}
                Woken::Started => {
                    self.started().await;
                    continue;
                }
                Woken::Interrupt => {
                    interrupting = true;
                    self.job.cancel_requested = true;
                }
            }
            if !wait.is_zero() {
                self.check_socket();
            }
            match self.look(interrupting).await {
                Ok(Look::Ended(watched)) => return watched,
                Ok(Look::Soon) => wait = HURRY_INTERVAL,
                Ok(Look::Later) => wait = if interrupting { HURRY_INTERVAL * 4 } else { poll_interval },
                Err(error) if error.is_refused() => {
                    self.backend.eject(error.to_string());
                    return Watched::Lost(format!("its backend is gone: {error}"));
                }
                Err(error) => {
                    misses += 1;
                    wait = poll_interval;
                    if misses >= POLL_MISSES_MAX {
                        // One that answers, if only nonsense, is not hung: others' jobs may well run there.
                        if !matches!(error, ComfyUiError::Malformed(_)) {
                            self.backend.eject(error.to_string());
                        }
                        return Watched::Lost(format!("its backend does not answer: {error}"));
                    }
                    continue;
                }
            }
            misses = 0;
        }
    }

    fn statuses(&self) -> u64 {
        self.backend.socket().map_or(0, UpstreamSocket::statuses)
    }

    /// Our submission changed the backend's queue, so our socket must have heard a `status`; if it did not, it is orphaned (facts §13).
    fn check_socket(&mut self) {
        if let (Some(before), Some(socket)) = (self.heard_before.take(), self.backend.socket())
            && socket.statuses() == before
        {
            tracing::warn!(backend = %self.backend.id, "our socket hears nothing; connecting anew");
            socket.reconnect();
        }
    }

    /// One look at the backend: history first, then the queue, then history again, since a prompt moves from the one to the other.
    async fn look(&mut self, interrupting: bool) -> Result<Look, ComfyUiError> {
        let (comfyui, upstream) = (&self.backend.comfyui, self.attempt.upstream);
        if let Some(entry) = comfyui.history_entry(upstream).await? {
            return Ok(Look::Ended(Watched::Entry(entry)));
        }
        match comfyui.queue_place(upstream).await? {
            QueuePlace::Running => {
                if interrupting {
                    comfyui.interrupt(upstream).await?;
                }
                self.started().await;
                Ok(Look::Later)
            }
            QueuePlace::Pending => {
                if interrupting {
                    comfyui.withdraw(upstream).await?;
                }
                Ok(Look::Later)
            }
            QueuePlace::Absent => match comfyui.history_entry(upstream).await? {
                Some(entry) => Ok(Look::Ended(Watched::Entry(entry))),
                None if interrupting => Ok(Look::Ended(Watched::Withdrawn)),
                // Between the queue and the history lies one statement of ComfyUI's worker: look once more before writing it off.
                None if !self.seen_absent() => Ok(Look::Soon),
                None => Ok(Look::Ended(Watched::Lost("its backend does not know it any more".into()))),
            },
        }
    }

    /// Whether this is not the first look that found the prompt nowhere.
    fn seen_absent(&mut self) -> bool {
        std::mem::replace(&mut self.absent, true)
    }

    async fn started(&mut self) {
        if self.job.state == JobState::Running {
            return;
        }
        match self.services.ledger.start(self.id(), self.services.clock.wall()).await {
            Ok(job) => {
                self.job = Job { cancel_requested: self.job.cancel_requested || job.cancel_requested, ..job };
                self.dispatch.send(Command::Running(self.job.id)).await;
            }
            Err(error) => tracing::warn!(job = %self.job.id, %error, "the start of an attempt is not in the ledger"),
        }
    }

    /// The backend has an entry: fetch the files, commit, tell.
    async fn finish(mut self, entry: &serde_json::Value) -> AttemptOver {
        self.started().await;
        let secrets = match self.owner_secrets().await {
            Ok(secrets) => secrets,
            Err(reason) => return self.lost(&reason).await,
        };
        let owner_folder = format!("t/{}", secrets.folder);
        let names =
            Names { prompt_id: &self.job.prompt_id, upstream: self.attempt.upstream, owner_folder: &owner_folder };
        let ending = match collect::read(entry, &names) {
            Ok(ending) => ending,
            Err(error) => return self.lost(&error.to_string()).await,
        };
        for file in &ending.foreign {
            tracing::warn!(job = %self.job.id, backend = %self.backend.id, file, "an output that is not its owner's was left out");
        }
        let outcome = match ending.end {
            UpstreamEnd::Succeeded => Outcome::Succeeded,
            UpstreamEnd::Failed => Outcome::Failed,
            UpstreamEnd::Interrupted if self.job.cancel_requested => Outcome::Interrupted,
            UpstreamEnd::Interrupted => return self.lost("it was interrupted behind the gateway's back").await,
        };
        loop {
            match self.fetched(&ending).await {
                Ok(files) => return self.commit(outcome, ending.result, files).await,
                // Our disk, not the backend's work: the results lie there still.
                Err(Unfetched::Blobs(BlobError::Unavailable { action, reason })) => {
                    tracing::error!(action, reason, "results can't be stored; trying again");
                    tokio::time::sleep(LEDGER_INTERVAL).await;
                }
                Err(Unfetched::Blobs(error)) => {
                    let text = format!("a result can't be kept: {error}");
                    let at = self.services.clock.wall();
                    let failure = collect::gateway_failure(&self.job.prompt_id, None, "ResultTooLarge", &text, at);
                    return self.commit(Outcome::Failed, failure, Vec::new()).await;
                }
                Err(Unfetched::Backend(error)) => {
                    return self.lost(&format!("its results can't be copied: {error}")).await;
                }
            }
        }
    }

    /// Copies every output into the blobs.
    async fn fetched(&self, ending: &Ending) -> Result<Vec<NewFile>, Unfetched> {
        let mut files = Vec::with_capacity(ending.fetches.len());
        for fetch in &ending.fetches {
            let mut writer = self.services.blobs.writer(OUTPUT_BYTES_MAX)?;
            let mut pieces = self.backend.comfyui.view(&fetch.from).await?;
            while let Some(piece) = pieces.next().await? {
                writer.write(&piece).await?;
            }
            let (content, bytes) = writer.finish().await?;
            files.push(NewFile {
                id: FileId::new(),
                content,
                bytes,
                directory: fetch.directory,
                subfolder: fetch.subfolder.clone(),
                name: fetch.name.clone(),
                content_type: crate::deliver::views::content_type(&fetch.from.filename).to_owned(),
                pointer: fetch.pointer.clone(),
            });
        }
        Ok(files)
    }

    /// ComfyUI refused the workflow: to its owner that is a run that ended at once (design §6 verdict).
    async fn refused(self, body: &[u8]) -> AttemptOver {
        let body = serde_json::from_slice(body).unwrap_or_default();
        let (node, text) = collect::refusal(&body);
        let node = node.as_ref().map(|(id, class)| (id.as_str(), class.as_str()));
        let result =
            collect::gateway_failure(&self.job.prompt_id, node, "ValidationError", &text, self.services.clock.wall());
        self.commit(Outcome::Failed, result, Vec::new()).await
    }

    fn interruption(&self) -> JobResult {
        let started = self.attempt.started_at.unwrap_or(self.attempt.assigned_at);
        collect::interruption(&self.job.prompt_id, started, self.services.clock.wall())
    }

    async fn commit(self, outcome: Outcome, mut result: JobResult, files: Vec<NewFile>) -> AttemptOver {
        let at = self.services.clock.wall();
        result.started_at = result.started_at.or(self.attempt.started_at);
        result.ended_at = Some(at);
        let committed =
            until_available!(self.services.ledger.commit(self.id(), outcome, result.clone(), files.clone(), at));
        // What its socket still brings of this run is older than the end that is told now.
        self.services.tracks.untrack(self.attempt.upstream);
        match committed {
            Ok((job, result)) => {
                self.services.metrics.attempt(&self.backend.id, ending_label(outcome));
                self.services.tell_end(&job, &result).await;
                // What we keep need not stay there. If it can't be deleted now, a later sweep finds it.
                if let Err(error) = self.backend.comfyui.forget(self.attempt.upstream).await {
                    tracing::debug!(job = %job.id, %error, "history entry left at the backend");
                }
            }
            // A commit whose answer was lost stands all the same: what is stored is told.
            Err(LedgerError::WrongState { .. }) => self.tell_what_is_stored().await,
            Err(error) => tracing::error!(job = %self.job.id, %error, "not committed"),
        }
        AttemptOver::JobEnded
    }

    async fn tell_what_is_stored(&self) {
        let ledger = &self.services.ledger;
        let Ok(prompt) = ledger.owned_prompt(&self.job.owner.scope(), &self.job.prompt_id).await else { return };
        if let (true, Ok(Some(result))) = (prompt.job().state.is_ended(), ledger.result(&prompt).await) {
            self.services.tell_end(prompt.job(), &result).await;
        }
    }

    /// Writes the attempt off, and sees to it that nothing of it goes on where the next job will run.
    async fn lost(self, reason: &str) -> AttemptOver {
        self.services.tracks.untrack(self.attempt.upstream);
        let route = Route { scope: self.job.owner.scope(), client_id: self.job.client_id.clone() };
        self.services.hub.set_executing(&route, &self.job.prompt_id, None);
        let (comfyui, upstream) = (self.backend.comfyui.clone(), self.attempt.upstream);
        tokio::spawn(async move {
            // A backend that is gone has forgotten it by itself.
            let _ = comfyui.withdraw(upstream).await;
            let _ = comfyui.interrupt(upstream).await;
            let _ = comfyui.forget(upstream).await;
        });
        lost(&self.services, self.job.clone(), reason).await
    }
}

impl Drop for Carrying {
    /// Whatever the backend still says of this attempt reaches nobody.
    fn drop(&mut self) {
        self.services.tracks.untrack(self.attempt.upstream);
    }
}

/// Why results are not in the blobs.
#[derive(Debug, thiserror::Error)]
enum Unfetched {
    #[error(transparent)]
    Blobs(#[from] BlobError),
    #[error(transparent)]
    Backend(#[from] ComfyUiError),
}

/// What ended a wait between two looks.
enum Woken {
    Look,
    Started,
    Interrupt,
}

/// Resolves when the owner wants the attempt's end; fails when nobody can say so any more.
async fn wanted(interrupt: &mut watch::Receiver<bool>) -> Result<(), watch::error::RecvError> {
    interrupt.wait_for(|wanted| *wanted).await.map(drop)
}

/// What one look found.
enum Look {
    Ended(Watched),
    Soon,
    Later,
}

/// The label of an outcome in metrics.
pub fn ending_label(outcome: Outcome) -> metrics::Ending {
    match outcome {
        Outcome::Succeeded => metrics::Ending::Succeeded,
        Outcome::Failed => metrics::Ending::Failed,
        Outcome::Interrupted | Outcome::Cancelled => metrics::Ending::Interrupted,
    }
}
