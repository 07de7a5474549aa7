//! One attempt from assignment to commit.
//!
//! Events are hints: they make us look at once. The end of an attempt is decided by `/history/{id}` and `/queue` (design §5 deliver), and told to
//! the owner only after its files are in the blobs and the ledger has committed it.

use super::backend::Backend;
use super::collect::{self, Ending, Names, UpstreamEnd};
use super::comfyui::{ComfyUiError, QueuePlace};
use super::dead_letter;
use super::dispatcher::{Command, DispatchHandle};
use super::fault::{self, Fault};
use super::health::{Cause, MISSES_MAX};
use super::measure::{Placed, Run};
use super::paid::{self, Unpayable};
use super::pictures::{self, Arrival, Pictures, Settled, Spoiled};
use super::push::{self, PushError, Pushed};
use super::queue::HeldJob;
use super::redecide::{self, Refusal, Undecided};
use super::stall::{self, Stall};
use crate::budget::Charge;
use crate::config::units::show_duration;
use crate::deliver::events::hub::Route;
use crate::deliver::events::upstream::UpstreamSocket;
use crate::ids::{AttemptId, FileId};
use crate::inspect::files;
use crate::record::blobs::{BlobError, Stored};
use crate::record::holds::Hold;
use crate::record::ledger::{
    Attempt, Job, JobResult, JobState, LedgerError, NewFile, Outcome, OwnerSecrets, Reached, SentPicture,
};
use crate::record::metrics;
use crate::services::Services;
use comfygate_policy::{ApprovedWorkflow, ComfyOrgCredential, NodeId, OutputScope};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Tries of any kind before a job is given up: bounds the row of a job that never gets as far as starting.
pub const TRIES_MAX: usize = 20;
/// Why an attempt ended that was taken back before it began; it is none of the tries.
pub const RECALLED: &str = "taken back before it began";
/// Before the next try of a job whose tries did not get as far as starting; grows with their number.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// At most.
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// After the event of the end, the history entry follows within milliseconds; asked so often until it is there.
const HURRY_INTERVAL: Duration = Duration::from_millis(50);
/// Unanswered polls in a row before a backend counts as hung. Refused connections need none.
const POLL_MISSES_MAX: u32 = 6;
/// One output: an hour of video fits, a disk does not fill from one file.
pub(super) const OUTPUT_BYTES_MAX: u64 = 8 << 30;
/// Between two tries to write the ledger while it is unavailable.
pub(super) const LEDGER_INTERVAL: Duration = Duration::from_secs(1);

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
    /// The job has ended, with what ran of it at its backend, if that is known.
    JobEnded(Option<Spent>),
    /// The attempt was lost: the job is held again.
    HeldAgain(Box<HeldJob>),
}

/// What the committed attempt of a job took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spent {
    /// The run.
    pub run: Run,
    /// What its owner is charged, in seconds of a backend of speed 1.
    pub charge: f64,
    /// It ran to its end: its length says something of its model.
    pub whole: bool,
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
    /// It is lost there, and never began.
    NeverBegan(String),
    /// We took it out of the backend's queue before it began, to give it another place.
    Recalled,
}

/// Assigns a held job to `backend` and carries it to its end.
pub async fn begin(carried: Carried, held: HeldJob) -> AttemptOver {
    let Carried { services, backend, .. } = &carried;
    let HeldJob { job, workflow } = held;
    let job = match to_be_tried(services, job).await {
        Ok(job) => job,
        Err(over) => return over,
    };
    let workflow = match fresh_workflow(services, backend, &job, workflow).await {
        Ok(workflow) => workflow,
        Err(Undecided::Later) => {
            tokio::time::sleep(LEDGER_INTERVAL).await;
            return AttemptOver::HeldAgain(Box::new(HeldJob { job, workflow: None }));
        }
        Err(Undecided::Never(refusal)) => {
            refuse(services, job, &refusal).await;
            return AttemptOver::JobEnded(None);
        }
    };
    let tenant = services.tenants().tenant(&job.owner.tenant);
    if tenant.as_ref().is_some_and(|tenant| !tenant.is_served_by(backend))
        || !services.suits(tenant.as_deref(), backend, &workflow)
    {
        // Its classes or models are not all there, or a reload gave its tenant other backends: back to the queue, which now knows what it needs.
        return AttemptOver::HeldAgain(Box::new(HeldJob { job, workflow: Some(workflow) }));
    }
    let job = match services.ledger.assign(job.id, job.version, &backend.id, services.clock.wall()).await {
        Ok(job) => job,
        Err(LedgerError::Unavailable { .. }) => {
            tokio::time::sleep(LEDGER_INTERVAL).await;
            return AttemptOver::HeldAgain(Box::new(HeldJob { job, workflow: Some(workflow) }));
        }
        // Deleted, or moved on, while it was being placed.
        Err(error) => {
            tracing::debug!(job = %job.id, %error, "not assigned");
            return AttemptOver::JobEnded(None);
        }
    };
    let waited = services.clock.wall().since(job.accepted_at);
    services.metrics.queue_wait(waited);
    let senders = workflow.output_nodes_of(pictures::SENDER).cloned().collect();
    match Carrying::new(carried, job, senders) {
        Some(carrying) => carrying.submit_and_follow(&workflow).await,
        None => AttemptOver::JobEnded(None),
    }
}

/// Follows up an attempt that a former process had assigned: it may be running, done, or never have arrived.
pub async fn resume(carried: Carried, job: Job) -> AttemptOver {
    let senders = senders_of(&carried.services, &job).await;
    match Carrying::new(carried, job, senders) {
        Some(carrying) => carrying.follow().await,
        None => AttemptOver::JobEnded(None),
    }
}

/// Writes an attempt off. The job is held again, or ends if it had its tries, or if running it again may cost again.
pub async fn lost(services: &Arc<Services>, job: Job, reason: &str, reached: Reached) -> AttemptOver {
    let Some(attempt) = current(&job) else { return AttemptOver::JobEnded(None) };
    tracing::warn!(job = %job.id, attempt = attempt.n, backend = %attempt.backend, reason, "attempt lost");
    services.metrics.attempt(&attempt.backend, metrics::Ending::Lost);
    let id = AttemptId { job: job.id, n: attempt.n };
    let job = match until_available!(services.ledger.lose(id, reason, reached)) {
        Ok(job) => job,
        Err(error) => {
            tracing::error!(job = %job.id, %error, "a lost attempt can't be written off");
            return AttemptOver::JobEnded(None);
        }
    };
    let job = match to_be_tried(services, job).await {
        Ok(job) => job,
        Err(over) => return over,
    };
    let started = job.attempts.iter().filter(|attempt| attempt.started_at.is_some()).count();
    // The slot stays booked meanwhile: whatever lost the attempt would lose the next one at once, and the one after.
    let unstarted = u32::try_from(job.attempts.len().saturating_sub(started)).unwrap_or(u32::MAX);
    tokio::time::sleep((RETRY_INTERVAL * unstarted).min(RETRY_INTERVAL_MAX)).await;
    AttemptOver::HeldAgain(Box::new(HeldJob { job, workflow: None }))
}

/// A held job that may be tried, for the first time or again; else it ends here: it had its tries, its owner asked for its end, or another run may cost once more. Asked before each attempt, since the
/// process that wrote the last one off may have ended before it ended the job.
pub(super) async fn to_be_tried(services: &Arc<Services>, job: Job) -> Result<Job, AttemptOver> {
    let Some(reason) = job.attempts.last().and_then(|attempt| attempt.lost.clone()) else { return Ok(job) };
    if !has_tries_left(services, &job) {
        let tries = job.attempts.len();
        let text = format!("the job was tried {tries} times and lost each time; the last time: {reason}");
        let buried = until_available!(dead_letter::bury(services, &job, &text));
        if let Err(error) = buried {
            tracing::error!(job = %job.id, %error, "a job that is given up can't be put aside");
        }
        return Err(give_up(services, job, "TooManyAttempts", &text).await);
    }
    if job.cancel_requested {
        let result = collect::interruption(&job.prompt_id, job.accepted_at, services.clock.wall());
        end_held(services, job, Outcome::Interrupted, result).await;
        return Err(AttemptOver::JobEnded(None));
    }
    if !may_be_repeated(services, &job) {
        let (kind, text) = paid::told_of_lost(&job, &reason);
        return Err(give_up(services, job, kind, &text).await);
    }
    Ok(job)
}

/// Whether another attempt may begin, by the number of those that there were.
fn has_tries_left(services: &Services, job: &Job) -> bool {
    let started = job.attempts.iter().filter(|attempt| attempt.started_at.is_some()).count();
    let started_max = usize::try_from(services.config().dispatch.attempts_max).unwrap_or(usize::MAX);
    let tries = job.attempts.iter().filter(|attempt| attempt.lost.as_deref() != Some(RECALLED)).count();
    started < started_max && tries < TRIES_MAX
}

/// Whether another run neither costs nor sends anything once more, or its tenant wants it all the same.
fn may_be_repeated(services: &Services, job: &Job) -> bool {
    !job.attempts.iter().any(|attempt| attempt.sent) || paid::may_be_sent_again(services, job)
}

/// Fails a held job that may not run. Says whether it did: it may have been deleted, or given to a backend, meanwhile.
pub(super) async fn refuse(services: &Arc<Services>, job: Job, refusal: &Refusal) -> bool {
    let node = refusal.node.as_ref().map(|(id, class)| (id.as_str(), class.as_str()));
    let at = services.clock.wall();
    let result = collect::gateway_failure(&job.prompt_id, node, "NotAllowed", &refusal.reason, at);
    end_held(services, job, Outcome::Failed, result).await
}

/// Fails a held job that no backend may run. Says whether it did, as [`refuse`].
pub(super) async fn strand(services: &Arc<Services>, job: Job, reason: &str, waited: Duration) -> bool {
    let told = format!("{reason}: the job waited {} for one", show_duration(waited));
    let message = format!("{told}. Submit it again once there is one, or ask whoever runs this gateway.");
    let (id, owner, at) = (job.id, job.owner.clone(), services.clock.wall());
    let result = collect::gateway_failure(&job.prompt_id, None, "NoBackend", &message, at);
    let ended = end_held(services, job, Outcome::Failed, result).await;
    if ended {
        services.audit.withdrawn(id, &owner, &told);
    }
    ended
}

/// Ends a held job that can't be run, in a stated error.
async fn give_up(services: &Arc<Services>, job: Job, kind: &str, message: &str) -> AttemptOver {
    let result = collect::gateway_failure(&job.prompt_id, None, kind, message, services.clock.wall());
    end_held(services, job, Outcome::Failed, result).await;
    AttemptOver::JobEnded(None)
}

/// Says whether the job was still held, and has ended now.
async fn end_held(services: &Arc<Services>, job: Job, outcome: Outcome, result: JobResult) -> bool {
    let at = services.clock.wall();
    let ended = until_available!(services.ledger.end_held(job.id, job.version, outcome, Some(result.clone()), at));
    match ended {
        Ok(job) => {
            services.tell_end(&job, &result).await;
            true
        }
        // Its owner deleted it meanwhile.
        Err(error) => {
            tracing::debug!(job = %job.id, %error, "not ended");
            false
        }
    }
}

/// The approval at hand if it is fresh, else a new decision on the stored submission.
async fn fresh_workflow(
    services: &Arc<Services>,
    backend: &Backend,
    job: &Job,
    workflow: Option<Arc<ApprovedWorkflow>>,
) -> Result<Arc<ApprovedWorkflow>, Undecided> {
    let never = |reason: &str| Undecided::Never(Refusal::plain(reason));
    let tenant =
        services.tenants().tenant(&job.owner.tenant).ok_or_else(|| never("the tenant is not configured any more"))?;
    // An owner's backend that is assigned a job was up, and had said what is installed there.
    let Some(catalogue) = services.catalogue_at(&tenant, backend) else { return Err(Undecided::Later) };
    let policy = services.policy_of(&tenant);
    if let Some(workflow) = workflow
        && services.inspector().is_fresh(&workflow, &policy, &catalogue)
    {
        return Ok(workflow);
    }
    redecide::decided(services, &tenant, Some(catalogue), job).await
}

/// The nodes of a stored submission that send their pictures, of those that were accepted to run.
async fn senders_of(services: &Services, job: &Job) -> Vec<NodeId> {
    let graph = match until_available!(services.ledger.graph(&job.submission)) {
        Ok(graph) => graph,
        Err(error) => {
            tracing::error!(job = %job.id, %error, "which of its nodes send pictures can't be read");
            return Vec::new();
        }
    };
    let inspector = services.inspector();
    let parsed = tokio::task::spawn_blocking(move || inspector.parse(&graph)).await;
    let Ok(Ok(parsed)) = parsed else { return Vec::new() };
    let runs = |node: &&NodeId| job.output_nodes.iter().any(|output| output == node.as_str());
    parsed.nodes_of(pictures::SENDER).filter(runs).cloned().collect()
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
    /// Turns true when it shall wait at the gateway again, should it not have begun.
    pub recall: watch::Receiver<bool>,
    /// How it was placed.
    pub placed: Placed,
    /// Another job of ours is there before it.
    pub behind: Arc<AtomicBool>,
}

/// An assigned attempt.
struct Carrying {
    services: Arc<Services>,
    dispatch: DispatchHandle,
    backend: Arc<Backend>,
    interrupt: watch::Receiver<bool>,
    recall: watch::Receiver<bool>,
    placed: Placed,
    behind: Arc<AtomicBool>,
    job: Job,
    attempt: Attempt,
    signals: mpsc::Receiver<Signal>,
    /// A look found the prompt in neither queue nor history.
    absent: bool,
    /// `status` messages that had been heard before the submission; taken once the next ones are missed or heard.
    heard_before: Option<u64>,
    /// The backend answered the submission.
    submitted: bool,
    /// `t/<opaque owner>`; empty until [`Carrying::know_files`].
    owner_folder: String,
    /// The files that the workflow names.
    files: Vec<Pushed>,
    /// The credential that the job was accepted with.
    own_credential: Option<ComfyOrgCredential>,
    /// What it may be paid with, by whomever.
    secrets: Vec<ComfyOrgCredential>,
    /// Whether it gets anywhere.
    watch: stall::Watch,
    /// Changes when its backend's worker is found dead.
    written_off: watch::Receiver<u64>,
    /// What its nodes send instead of saving it; none if it has no such nodes.
    pictures: Option<Pictures>,
    /// Its results stay in the blobs until the ledger names them.
    holds: Vec<Hold>,
}

impl Carrying {
    /// From here on the backend's events for this attempt reach its owner, and what `senders` send is kept.
    fn new(carried: Carried, job: Job, senders: Vec<NodeId>) -> Option<Self> {
        let Carried { services, dispatch, backend, interrupt, recall, placed, behind } = carried;
        let attempt = current(&job)?.clone();
        let pictures = (!senders.is_empty()).then(|| Pictures::begin(services.blobs.clone(), senders));
        let signals = services.tracks.track(&job, &attempt, pictures.as_ref().map(Pictures::intake));
        let (watch, written_off) = (stall::Watch::new(services.clock.monotonic()), backend.written_off());
        Some(Self {
            services,
            dispatch,
            backend,
            interrupt,
            recall,
            placed,
            behind,
            job,
            attempt,
            signals,
            absent: false,
            heard_before: None,
            submitted: false,
            owner_folder: String::new(),
            files: Vec::new(),
            own_credential: None,
            secrets: Vec::new(),
            watch,
            written_off,
            pictures,
            holds: Vec::new(),
        })
    }

    fn id(&self) -> AttemptId {
        AttemptId { job: self.job.id, n: self.attempt.n }
    }

    async fn submit_and_follow(mut self, workflow: &ApprovedWorkflow) -> AttemptOver {
        self.know_payment().await;
        if let Err(reason) = self.know_files().await {
            return self.lost(&reason).await;
        }
        let credential = match paid::credential(&self.services, &self.job, workflow, self.own_credential.as_ref()) {
            Ok(credential) => credential,
            Err(unpayable) => return self.unpayable(&unpayable).await,
        };
        let body: bytes::Bytes = match self.upstream_body(workflow, credential.as_ref()).await {
            Ok(body) => body.into(),
            Err(reason) => return self.lost(&reason).await,
        };
        let mut pushed_again = false;
        loop {
            match self.pushed().await {
                Ok(()) => {}
                Err(unpushed) => return self.unpushed(unpushed).await,
            }
            if (self.job.paid || workflow.sends_elsewhere())
                && let Err(error) = self.about_to_cost().await
            {
                tracing::debug!(job = %self.job.id, %error, "not sent");
                return AttemptOver::JobEnded(None);
            }
            let statuses = self.statuses();
            let on_its_way = self.services.submissions.enter();
            let answer = self.backend.comfyui.submit(body.clone()).await;
            drop(on_its_way);
            match answer {
                Err(ComfyUiError::Status { status, body })
                    if status == http::StatusCode::BAD_REQUEST
                        && !pushed_again
                        && push::refusal_names_one(&body, &self.files) =>
                {
                    tracing::warn!(job = %self.job.id, backend = %self.backend.id, "the backend lacks a file that it was given; giving it again");
                    self.backend.present.forget(&self.files);
                    pushed_again = true;
                }
                answer => return self.submitted(answer, statuses).await,
            }
        }
    }

    /// Follows a submission, or does what its failure asks for.
    async fn submitted(mut self, answer: Result<serde_json::Value, ComfyUiError>, statuses: u64) -> AttemptOver {
        match answer {
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
            Err(error) => self.lost_by(error).await,
        }
    }

    /// The backend failed before it had the submission.
    async fn lost_by(self, error: ComfyUiError) -> AttemptOver {
        // Whatever stands before a ComfyUI that restarts answers 5xx.
        if matches!(error, ComfyUiError::Connect(_)) || error.is_server_error() {
            self.backend.eject_for(&error);
        }
        let reached = if matches!(error, ComfyUiError::Connect(_)) { Reached::Never } else { Reached::Perhaps };
        self.lost_where(&error.to_string(), reached).await
    }

    /// Notes that paid calls may be made from here on, or something be sent elsewhere, before anything is sent: a gateway that is killed in between does not make them twice.
    async fn about_to_cost(&mut self) -> Result<(), LedgerError> {
        let job = until_available!(self.services.ledger.send(self.id()))?;
        self.job = Job { cancel_requested: self.job.cancel_requested || job.cancel_requested, ..job };
        Ok(())
    }

    /// Nobody pays for it: to its owner that is a run that ended at once.
    async fn unpayable(self, unpayable: &Unpayable) -> AttemptOver {
        let at = self.services.clock.wall();
        let failure = collect::gateway_failure(&self.job.prompt_id, None, "NotPaid", &unpayable.to_string(), at);
        self.commit(Outcome::Failed, failure, Vec::new()).await
    }

    /// Reads which files the job pinned, for the backend and for texts that name them.
    async fn know_files(&mut self) -> Result<(), String> {
        let secrets = self.owner_secrets().await?;
        let pins = until_available!(self.services.ledger.pins(self.job.id)).map_err(|error| error.to_string())?;
        self.owner_folder = files::owner_folder(&secrets);
        self.files = pins.iter().map(|pin| Pushed::of_pin(pin, &self.owner_folder)).collect();
        Ok(())
    }

    /// Reads what the job may be paid with, so that nothing that its nodes say shows it.
    async fn know_payment(&mut self) {
        if !self.job.paid {
            return;
        }
        self.own_credential = match until_available!(self.services.ledger.credential(self.job.id)) {
            Ok(credential) => credential,
            Err(error) => {
                tracing::error!(job = %self.job.id, %error, "the credential of a job can't be read");
                None
            }
        };
        let gateways = self.services.config().comfy_org.clone();
        self.secrets = self.own_credential.iter().cloned().chain(gateways).collect();
        self.services.tracks.hide(self.attempt.upstream, &self.secrets);
    }

    /// Gives the backend every file that it lacks.
    async fn pushed(&mut self) -> Result<(), Unpushed> {
        let (backend, blobs) = (&self.backend, &self.services.blobs);
        for file in &self.files {
            tokio::select! {
                pushed = push::push(backend, blobs, file) => pushed?,
                Ok(()) = wanted(&mut self.interrupt) => return Err(Unpushed::Interrupted),
                Ok(()) = wanted(&mut self.recall) => return Err(Unpushed::Recalled),
            }
        }
        Ok(())
    }

    async fn unpushed(self, unpushed: Unpushed) -> AttemptOver {
        let text = match unpushed {
            Unpushed::Interrupted => {
                let result = self.interruption();
                return self.commit(Outcome::Interrupted, result, Vec::new()).await;
            }
            Unpushed::Recalled => return self.recalled().await,
            Unpushed::Failed(PushError::Backend(error)) => return self.lost_by(error).await,
            Unpushed::Failed(error @ PushError::TooLarge { .. }) => {
                format!("{error}: its operator has to raise ComfyUI's --max-upload-size")
            }
            Unpushed::Failed(PushError::Content(error)) => {
                tracing::error!(job = %self.job.id, %error, "the content of a pinned file can't be read");
                "a file that the workflow names can't be read any more: upload it again".to_owned()
            }
        };
        let at = self.services.clock.wall();
        let failure = collect::gateway_failure(&self.job.prompt_id, None, "FileNotGiven", &text, at);
        self.commit(Outcome::Failed, failure, Vec::new()).await
    }

    async fn upstream_body(
        &self,
        workflow: &ApprovedWorkflow,
        credential: Option<&ComfyOrgCredential>,
    ) -> Result<Vec<u8>, String> {
        let secrets = self.owner_secrets().await?;
        let (prompt, client) = (self.attempt.upstream.to_string(), self.backend.client.to_string());
        let scope = OutputScope::new(&self.attempt.folder, &prompt, &client, &secrets.salt)
            .map_err(|error| error.to_string())?;
        let scope = match credential {
            Some(credential) => scope.paid_with(credential),
            None => scope,
        };
        Ok(workflow.upstream_body(&scope))
    }

    async fn owner_secrets(&self) -> Result<OwnerSecrets, String> {
        let scope = self.job.owner.scope();
        until_available!(self.services.ledger.owner_secrets(&scope)).map_err(|error| error.to_string())
    }

    /// Watches the attempt at its backend, and commits what it finds.
    async fn follow(mut self) -> AttemptOver {
        if !self.submitted {
            // A former process sent it.
            self.know_payment().await;
        }
        match self.watched().await {
            Watched::Entry(entry) => self.finish(&entry).await,
            Watched::Withdrawn => {
                let result = self.interruption();
                self.commit(Outcome::Interrupted, result, Vec::new()).await
            }
            Watched::Lost(reason) => {
                // It had the backend to itself, so it was running, or what it is killed the backend before anybody saw it start.
                if self.submitted && !self.behind.load(Ordering::Relaxed) {
                    self.started().await;
                }
                self.lost(&reason).await
            }
            Watched::NeverBegan(reason) => self.lost(&reason).await,
            Watched::Recalled => self.recalled().await,
        }
    }

    async fn watched(&mut self) -> Watched {
        let poll_interval = self.services.config().dispatch.poll_interval;
        let mut misses = 0;
        let mut wait = Duration::ZERO;
        let (mut interrupting, mut recalling) = (false, false);
        loop {
            let woken = tokio::select! {
                () = tokio::time::sleep(wait) => Woken::Look,
                signal = self.signals.recv() => match signal {
                    Some(Signal::Started) => Woken::Started,
                    Some(Signal::Ended) | None => Woken::Look,
                },
                // `Ok` only: when the dispatcher is gone because the gateway stops, nobody asked for an interruption.
                Ok(()) = wanted(&mut self.interrupt), if !interrupting => Woken::Interrupt,
                Ok(()) = wanted(&mut self.recall), if !recalling => Woken::Recall,
                Ok(()) = self.written_off.changed() => return self.given_up(),
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
                Woken::Recall => recalling = true,
            }
            if !wait.is_zero() {
                self.check_socket();
            }
            match self.look(interrupting, recalling).await {
                Ok(Look::Ended(watched)) => return watched,
                Ok(Look::Soon) => wait = HURRY_INTERVAL,
                Ok(Look::Later) => {
                    let hurries = interrupting || (recalling && self.job.state != JobState::Running);
                    wait = if hurries { HURRY_INTERVAL * 4 } else { poll_interval };
                }
                Err(error) if error.is_refused() => {
                    self.backend.eject_for(&error);
                    return Watched::Lost(format!("its backend is gone: {error}"));
                }
                Err(error) => {
                    misses += 1;
                    wait = poll_interval;
                    // Its monitor finds the same: it is hung for good.
                    if misses >= POLL_MISSES_MAX || (misses >= MISSES_MAX && !self.backend.is_up()) {
                        // One that answers, if only nonsense, is not hung: others' jobs may well run there.
                        if !matches!(error, ComfyUiError::Malformed(_)) {
                            self.backend.eject_for(&error);
                        }
                        return Watched::Lost(format!("its backend does not answer: {error}"));
                    }
                    continue;
                }
            }
            misses = 0;
        }
    }

    /// Its backend's worker is dead: the prompt will never end there.
    fn given_up(&self) -> Watched {
        let reason = format!("its backend is {}", self.backend.reason());
        // Whatever killed the worker was what ran.
        if self.job.state == JobState::Running { Watched::Lost(reason) } else { Watched::NeverBegan(reason) }
    }

    /// Whether it gets nowhere, by where it is; its backend then has to prove that it is alive.
    fn stalled(&mut self, place: stall::Place) -> Option<Watched> {
        let settings = self.services.config().dispatch.clone();
        let limits = stall::Limits { untaken: settings.canary_deadline, silence: settings.stall_timeout };
        let (start_heard, events) = self.services.tracks.heard(self.attempt.upstream);
        let connections = self.backend.socket().map_or(0, UpstreamSocket::connections);
        let sight = stall::Sight { place, start_heard, events, connections };
        let stall = self.watch.look(sight, limits, self.services.clock.monotonic())?;
        let cause = if stall == Stall::Untaken { Cause::WorkerDead } else { Cause::Stalled };
        self.backend.eject(cause, format!("a job got nowhere: {}", stall.text()));
        Some(match place {
            stall::Place::Running => Watched::Lost(stall.text().into()),
            stall::Place::Waiting | stall::Place::Untaken => Watched::NeverBegan(stall.text().into()),
        })
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
    async fn look(&mut self, interrupting: bool, recalling: bool) -> Result<Look, ComfyUiError> {
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
                Ok(self.stalled(stall::Place::Running).map_or(Look::Later, Look::Ended))
            }
            place @ (QueuePlace::Pending | QueuePlace::Untaken) => {
                if interrupting || recalling {
                    comfyui.withdraw(upstream).await?;
                    return Ok(Look::Soon);
                }
                let place = if place == QueuePlace::Untaken { stall::Place::Untaken } else { stall::Place::Waiting };
                Ok(self.stalled(place).map_or(Look::Later, Look::Ended))
            }
            QueuePlace::Absent => match comfyui.history_entry(upstream).await? {
                Some(entry) => Ok(Look::Ended(Watched::Entry(entry))),
                None if interrupting => Ok(Look::Ended(Watched::Withdrawn)),
                // Between the queue and the history lies one statement of ComfyUI's worker: look once more before writing it off.
                None if !self.seen_absent() => Ok(Look::Soon),
                None if recalling && self.job.state != JobState::Running => Ok(Look::Ended(Watched::Recalled)),
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
        let fault = fault::of_entry(entry);
        match fault {
            Some(fault) => self.met(fault).await,
            None => self.backend.worked(self.services.clock.monotonic()),
        }
        if let Err(reason) = self.know_files().await {
            return self.lost(&reason).await;
        }
        let names = self.names();
        let ending = match collect::read(entry, &names) {
            Ok(ending) => ending,
            Err(error) => return self.lost(&error.to_string()).await,
        };
        for file in &ending.foreign {
            tracing::warn!(job = %self.job.id, backend = %self.backend.id, file, "an output that is not its owner's was left out");
        }
        // The last try is told as ComfyUI told it: that says more than that there were tries.
        if let Some(fault) = fault.filter(|_| ending.end == UpstreamEnd::Failed && self.may_be_tried_again()) {
            return self.lost(fault.text()).await;
        }
        if let Some(fault) = fault.filter(|_| !has_tries_left(&self.services, &self.job)) {
            self.put_aside(fault).await;
        }
        let outcome = match ending.end {
            UpstreamEnd::Succeeded => Outcome::Succeeded,
            UpstreamEnd::Failed => {
                // Perhaps a file was gone when its node ran: the next job gives it again.
                self.backend.present.forget(&self.files);
                Outcome::Failed
            }
            UpstreamEnd::Interrupted if self.job.cancel_requested => Outcome::Interrupted,
            UpstreamEnd::Interrupted => return self.lost("it was interrupted behind the gateway's back").await,
        };
        // What its backend lacked is nobody's to pay; but for memory, which whoever asks for too much could run out of for nothing, again and again.
        let ours = fault.is_some_and(|fault| fault != Fault::OutOfMemory);
        let run = Run::of(&ending.result, self.placed).filter(|_| !ours);
        let spent = run.map(|run| Spent { run, charge: run.charge(self.placed), whole: outcome == Outcome::Succeeded });
        let sent = match self.sent(outcome, &ending).await {
            Ok(sent) => sent,
            Err(Spoiled::Lost(reason)) => return self.lost(&reason).await,
            Err(Spoiled::TooLarge(text)) => return self.too_large(&text, spent).await,
        };
        loop {
            match self.fetched(&ending).await {
                Ok(files) => {
                    return self.commit_run(outcome, JobResult { sent, ..ending.result }, files, spent).await;
                }
                // Our disk, not the backend's work: the results lie there still.
                Err(Unfetched::Blobs(BlobError::Unavailable { action, reason })) => {
                    tracing::error!(action, reason, "results can't be stored; trying again");
                    tokio::time::sleep(LEDGER_INTERVAL).await;
                }
                Err(Unfetched::Blobs(error)) => {
                    return self.too_large(&format!("a result can't be kept: {error}"), spent).await;
                }
                Err(Unfetched::Backend(error)) => {
                    return self.lost(&format!("its results can't be copied: {error}")).await;
                }
            }
        }
    }

    /// Its backend failed it. What is in the way of the next job there is put out of the way.
    async fn met(&self, fault: Fault) {
        tracing::warn!(job = %self.job.id, backend = %self.backend.id, ?fault, "a job failed for what its backend lacks");
        match fault.cause() {
            Some(cause) => self.backend.eject(cause, format!("a job failed there: {}", fault.text())),
            None => {
                // Its worker lives: it ran what it was given.
                self.backend.worked(self.services.clock.monotonic());
                // What others' jobs left on the GPU may be what was too much.
                self.backend.models_unloaded();
                if let Err(error) = self.backend.comfyui.free(true, true).await {
                    tracing::debug!(backend = %self.backend.id, %error, "it was not told to unload its models");
                }
            }
        }
    }

    /// Its backends failed it each time: for its operator to see, beside what its owner is told.
    async fn put_aside(&self, fault: Fault) {
        let buried = until_available!(dead_letter::bury(&self.services, &self.job, fault.text()));
        if let Err(error) = buried {
            tracing::error!(job = %self.job.id, %error, "a job that failed for the last time can't be put aside");
        }
    }

    /// Whether the attempt at hand may be followed by another, once it is written off.
    fn may_be_tried_again(&self) -> bool {
        !self.job.cancel_requested
            && has_tries_left(&self.services, &self.job)
            && may_be_repeated(&self.services, &self.job)
    }

    /// Its owner's to pay: it ran, and made more than may be kept.
    async fn too_large(self, text: &str, spent: Option<Spent>) -> AttemptOver {
        let at = self.services.clock.wall();
        let failure = collect::gateway_failure(&self.job.prompt_id, None, "ResultTooLarge", text, at);
        let spent = spent.map(|spent| Spent { whole: false, ..spent });
        self.commit_run(Outcome::Failed, failure, Vec::new(), spent).await
    }

    /// The pictures that its nodes sent. A success without all of them is none; what failed or was stopped has those that came until then.
    async fn sent(&mut self, outcome: Outcome, ending: &Ending) -> Result<Vec<SentPicture>, Spoiled> {
        let Some(mut pictures) = self.pictures.take() else { return Ok(Vec::new()) };
        let settled = self.settled().await;
        let sent = pictures.collected().await;
        self.holds.append(&mut pictures.holds());
        if outcome != Outcome::Succeeded {
            return Ok(sent.unwrap_or_default());
        }
        let sent = sent?;
        pictures.check(settled, &sent, &collect::cached_nodes(&ending.result)).map_err(Spoiled::Lost)?;
        Ok(sent)
    }

    /// Waits until everything has been heard that the backend sent of this attempt, or it is known that it won't be.
    async fn settled(&self) -> Settled {
        let clock = &self.services.clock;
        let mut arrival = Arrival::new(clock.monotonic());
        loop {
            let socket = self.backend.socket();
            let connection =
                socket.filter(|socket| *socket.connected().borrow()).map_or(0, UpstreamSocket::connections);
            let span = self.services.tracks.span(self.attempt.upstream);
            if let Some(settled) = arrival.look(span, connection, clock.monotonic()) {
                return settled;
            }
            tokio::time::sleep(HURRY_INTERVAL).await;
        }
    }

    /// What stands for the owner's own words at the backend.
    fn names(&self) -> Names<'_> {
        Names {
            prompt_id: &self.job.prompt_id,
            upstream: self.attempt.upstream,
            owner_folder: &self.owner_folder,
            files: &self.files,
            trusting: self.backend.is_owned(),
            secrets: &self.secrets,
        }
    }

    /// Copies every output into the blobs.
    async fn fetched(&mut self, ending: &Ending) -> Result<Vec<NewFile>, Unfetched> {
        let mut files = Vec::with_capacity(ending.fetches.len());
        for fetch in &ending.fetches {
            let mut writer = self.services.blobs.writer(OUTPUT_BYTES_MAX)?;
            let mut pieces = self.backend.comfyui.view(&fetch.from).await?;
            while let Some(piece) = pieces.next().await? {
                writer.write(&piece).await?;
            }
            let Stored { content, bytes, hold } = writer.finish().await?;
            self.holds.push(hold);
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
        let (node, text) = collect::refusal(&body, &self.names());
        let node = node.as_ref().map(|(id, class)| (id.as_str(), class.as_str()));
        let result =
            collect::gateway_failure(&self.job.prompt_id, node, "ValidationError", &text, self.services.clock.wall());
        self.commit(Outcome::Failed, result, Vec::new()).await
    }

    fn interruption(&self) -> JobResult {
        let started = self.attempt.started_at.unwrap_or(self.attempt.assigned_at);
        collect::interruption(&self.job.prompt_id, started, self.services.clock.wall())
    }

    /// Commits an end that no run at the backend led to: its owner pays nothing.
    async fn commit(self, outcome: Outcome, result: JobResult, files: Vec<NewFile>) -> AttemptOver {
        self.commit_run(outcome, result, files, None).await
    }

    /// Commits a run that the backend told of.
    async fn commit_run(
        self,
        outcome: Outcome,
        mut result: JobResult,
        files: Vec<NewFile>,
        spent: Option<Spent>,
    ) -> AttemptOver {
        let at = self.services.clock.wall();
        result.started_at = result.started_at.or(self.attempt.started_at);
        result.ended_at = Some(at);
        result.charged = spent.map(|spent| Charge::of_seconds(spent.charge));
        let committed =
            until_available!(self.services.ledger.commit(self.id(), outcome, result.clone(), files.clone(), at));
        // What its socket still brings of this run is older than the end that is told now.
        self.services.tracks.untrack(self.attempt.upstream);
        match committed {
            Ok((job, result)) => {
                self.services.metrics.attempt(&self.backend.id, ending_label(outcome));
                self.services.metrics.charged(&self.backend.id, result.charged.unwrap_or_default());
                self.services.tell_end(&job, &result).await;
                self.services.clean_attempt(&self.backend.id, &self.attempt.folder);
                // What we keep need not stay there. If it can't be deleted now, a later sweep finds it.
                if let Err(error) = self.backend.comfyui.forget(self.attempt.upstream).await {
                    tracing::debug!(job = %job.id, %error, "history entry left at the backend");
                }
            }
            // A commit whose answer was lost stands all the same: what is stored is told.
            Err(LedgerError::WrongState { .. }) => self.tell_what_is_stored().await,
            Err(error) => tracing::error!(job = %self.job.id, %error, "not committed"),
        }
        AttemptOver::JobEnded(spent)
    }

    async fn tell_what_is_stored(&self) {
        let ledger = &self.services.ledger;
        let Ok(prompt) = ledger.owned_prompt(&self.job.owner.scope(), &self.job.prompt_id).await else { return };
        if let (true, Ok(Some(result))) = (prompt.job().state.is_ended(), ledger.result(&prompt).await) {
            self.services.tell_end(prompt.job(), &result).await;
        }
    }

    /// It waits at the gateway again: it was behind another there, and had not begun.
    async fn recalled(self) -> AttemptOver {
        self.services.tracks.untrack(self.attempt.upstream);
        tracing::debug!(job = %self.job.id, backend = %self.backend.id, "an attempt that had not begun was taken back");
        let job = match until_available!(self.services.ledger.lose(self.id(), RECALLED, Reached::Never)) {
            Ok(job) => job,
            Err(error) => {
                tracing::error!(job = %self.job.id, %error, "an attempt can't be taken back");
                return AttemptOver::JobEnded(None);
            }
        };
        match to_be_tried(&self.services, job).await {
            Ok(job) => AttemptOver::HeldAgain(Box::new(HeldJob { job, workflow: None })),
            Err(over) => over,
        }
    }

    /// Writes the attempt off, and sees to it that nothing of it goes on where the next job will run.
    async fn lost(self, reason: &str) -> AttemptOver {
        self.lost_where(reason, Reached::Perhaps).await
    }

    async fn lost_where(self, reason: &str, reached: Reached) -> AttemptOver {
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
        lost(&self.services, self.job.clone(), reason, reached).await
    }
}

impl Drop for Carrying {
    /// Whatever the backend still says of this attempt reaches nobody.
    fn drop(&mut self) {
        self.services.tracks.untrack(self.attempt.upstream);
    }
}

/// Why the files of a workflow are not at its backend.
#[derive(Debug)]
enum Unpushed {
    /// Its owner asked for its end meanwhile.
    Interrupted,
    /// It shall wait at the gateway again.
    Recalled,
    Failed(PushError),
}

impl From<PushError> for Unpushed {
    fn from(error: PushError) -> Self {
        Self::Failed(error)
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
    Recall,
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
