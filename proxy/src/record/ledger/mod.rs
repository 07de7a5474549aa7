//! The ledger: jobs, attempts, files and keys, and the few transitions between their states.
//!
//! Each transition is atomic and durable (fsynced) when its future resolves; each reading sees only what a finished transition left. The
//! trait is shaped for two forms: [`redb`] here, Redis for several gateways (design §7). The graph of a job is a content-addressed file
//! beside the rows, written and synced before the row that names it.

pub mod backups;
pub mod bans;
pub mod budgets;
pub mod closing;
pub mod keeping;
pub mod keys;
pub mod dead_letters;
pub mod halts;
pub mod redb;
pub mod refusals;
pub mod sessions;
pub mod tenants;
pub mod uploads;
pub mod users;
pub mod job_list;
pub mod learned;
pub mod managed;
pub mod user_files;
pub mod work;

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod suite;

use self::backups::Backups;
use self::bans::Bans;
use self::budgets::Budgets;
use self::dead_letters::DeadLetters;
use self::halts::Halts;
use self::refusals::Refusals;
use crate::authenticate::api_key::KeyRow;
use crate::budget::{Charge, OverBudget, Reservation};
use crate::clock::WallMillis;
use crate::ids::{
    AttemptId, BackendId, ClientId, FileId, JobId, KeyId, PromptId, TenantId, UpstreamClientId, UpstreamPromptId,
};
use crate::inspect::contents::ContentFacts;
use crate::owner::{Owner, OwnerScope};
use async_trait::async_trait;
use bytes::Bytes;
use comfygate_policy::{ApprovedWorkflow, ComfyOrgCredential, Digest, QueueOrder};
pub use job_list::JobList;
use serde::{Deserialize, Serialize};
use sessions::Sessions;
use uploads::{Pin, Uploads};
pub use user_files::UserFiles;
pub use work::Work;

/// What the caller submitted, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Ours.
    pub id: JobId,
    /// Global order of acceptance: FIFO goes by it. Never shown.
    pub sequence: u64,
    /// Compare-and-set: each transition of the job adds one.
    pub version: u64,
    /// Whose it is.
    pub owner: Owner,
    /// The owner's name of it.
    pub prompt_id: PromptId,
    /// `number` as shown: counts within the owner's scope, so that it tells nothing of others.
    pub number: u64,
    /// Whose sockets hear of it; absent: all of its user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ClientId>,
    /// The canonical submission (`comfygate_policy::Parsed::canonical`): names the graph file, and tells a repeated submission from another one.
    pub submission: Digest,
    /// Nodes whose output is wanted, as `/queue` shows them.
    pub output_nodes: Vec<String>,
    /// What it was accepted by; absent in rows of older gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictOf>,
    /// It has a node of comfy.org's services: running it again may cost again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paid: bool,
    /// Where its owner wants it among its own jobs, in place of `number`: the smallest goes first. Finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<f64>,
    /// How much work it is; absent in rows of older gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// When it was accepted.
    pub accepted_at: WallMillis,
    /// Where it stands.
    pub state: JobState,
    /// Every try so far, oldest first.
    pub attempts: Vec<Attempt>,
    /// The owner asked for its end; a running attempt is being interrupted.
    #[serde(default)]
    pub cancel_requested: bool,
}

impl Job {
    /// `number` as ComfyUI shows and sorts by it: what the caller gave, else the counter.
    pub fn shown_number(&self) -> f64 {
        self.place.unwrap_or(self.number as f64)
    }
}

/// What a verdict follows from: it stands as long as both do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictOf {
    /// The policy, with what is banned.
    pub policy: Digest,
    /// The catalogue.
    pub catalogue: Digest,
}

/// Whether a backend may have an attempt that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// As the row says: its workflow was about to be sent.
    Perhaps,
    /// No connection came about: nothing was sent.
    Never,
}

/// Where a job stands. `Held → Assigned → Running → Ended`; a lost attempt leads back to `Held`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// In the gateway's queue, at no backend.
    Held,
    /// Sent, or being sent, to the backend of the last attempt.
    Assigned,
    /// The backend said that it began.
    Running,
    /// Over.
    Ended(Outcome),
}

impl JobState {
    /// Whether nothing will happen to the job any more.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its outputs are in the blobs.
    Succeeded,
    /// ComfyUI or the gateway reported an error, told in [`JobResult::messages`].
    Failed,
    /// The owner interrupted it while it ran.
    Interrupted,
    /// The owner deleted it from the queue before it ran: no history entry, as ComfyUI does.
    Cancelled,
}

/// One try of a job on one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1 for the first.
    pub n: u32,
    /// Where.
    pub backend: BackendId,
    /// The id that backend knows it by.
    pub upstream: UpstreamPromptId,
    /// Its own output folder, `t/<opaque owner>/<job>-<n>`.
    pub folder: String,
    /// When it was assigned.
    pub assigned_at: WallMillis,
    /// When the backend began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<WallMillis>,
    /// Paid calls may have been made, or something been sent elsewhere: set before the workflow of a job with such nodes is sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sent: bool,
    /// Why it ended without being committed; absent while it may still be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// What a job left behind: ComfyUI's history entry in the owner's own names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct JobResult {
    /// `outputs` of `/history`: node id → ui object, file objects with the owner's names and without `url`.
    pub outputs: serde_json::Map<String, serde_json::Value>,
    /// `meta` of `/history`.
    pub meta: serde_json::Map<String, serde_json::Value>,
    /// `status.messages` of `/history`: `[[event, data]…]`, ids and texts already the owner's.
    pub messages: Vec<(String, serde_json::Value)>,
    /// When the committed attempt began; absent if none did.
    pub started_at: Option<WallMillis>,
    /// When it ended.
    pub ended_at: Option<WallMillis>,
    /// Where the files stand in `outputs`, so that `deliver` can add their `url`s. Written by `commit`; whatever was here before is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ResultFile>,
    /// What its owner is charged for the run; `None`: nothing ran that is its owner's to pay, and nothing is booked. [`Ledger::end_held`] keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged: Option<Charge>,
    /// Pictures that nodes sent over the WebSocket instead of saving them, in the order in which they were sent; already in the blobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<SentPicture>,
}

/// A picture that a node (`SaveImageWebsocket`) sent over the WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SentPicture {
    /// The node.
    pub node: String,
    /// Its bytes in the blobs.
    pub content: Digest,
    /// How many.
    pub bytes: u64,
    /// `image/png`.
    pub content_type: String,
    /// What came with it, ids already the owner's; empty if the backend sent none.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// A file object of [`JobResult::outputs`] and the file it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultFile {
    /// JSON pointer (RFC 6901) into `outputs`, such as `/9/images/0`.
    pub pointer: String,
    /// Which file.
    pub id: FileId,
    /// When it was removed; absent while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<WallMillis>,
}

/// A file object that a finished attempt left, already in the blobs.
#[derive(Debug, Clone, PartialEq)]
pub struct NewFile {
    /// Its id.
    pub id: FileId,
    /// Which content.
    pub content: Digest,
    /// Length in bytes.
    pub bytes: u64,
    /// The directory it shows in.
    pub directory: Directory,
    /// Folder shown to the owner (`""` or `a/b`).
    pub subfolder: String,
    /// How its shown name is made.
    pub name: NewName,
    /// MIME type, from the allowlist of `deliver::views`.
    pub content_type: String,
    /// Where it stands in [`JobResult::outputs`]: JSON pointer of its file object, whose names `commit` writes.
    pub pointer: String,
}

/// How the shown name of a new file is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewName {
    /// As given, such as a temporary preview's (`dispatch::collect`); a later file of the same name takes the name over.
    AsIs(String),
    /// `<prefix>_<counter>_<suffix>`: numbered within scope, directory, folder and prefix as one ComfyUI would (folder_paths.py
    /// `get_save_image_path`). Files of one job with the same `group` share one number (a video and its preview).
    Numbered {
        /// Before the number.
        prefix: String,
        /// The upstream number: equal ones within a job and prefix get equal shown numbers.
        group: u64,
        /// After it: `_.png`.
        suffix: String,
    },
}

/// ComfyUI's three directories (`type` of a file object).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "ComfyUI's own words")]
pub enum Directory {
    Input,
    Output,
    Temp,
}

impl Directory {
    /// The name in queries and file objects.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Temp => "temp",
        }
    }
    /// The directory of that name; case-sensitive, as ComfyUI's.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Input, Self::Output, Self::Temp].into_iter().find(|directory| directory.name() == name)
    }
}

/// A file that somebody owns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileRow {
    /// Its id.
    pub id: FileId,
    /// Whose.
    pub owner: Owner,
    /// The job that made it; absent for an upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Which content.
    pub content: Digest,
    /// Length in bytes.
    pub bytes: u64,
    /// The directory it shows in.
    pub directory: Directory,
    /// Folder shown to the owner.
    pub subfolder: String,
    /// Name shown to the owner.
    pub filename: String,
    /// MIME type.
    pub content_type: String,
    /// What the content is, of an upload; a result's is read when it is first named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<ContentFacts>,
    /// When it came to be.
    pub created_at: WallMillis,
    /// When an input was used last, or a file adopted; absent: when it came to be. Retention counts from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<WallMillis>,
}

impl FileRow {
    /// From when retention counts.
    pub fn counts_from(&self) -> WallMillis {
        self.used_at.unwrap_or(self.created_at)
    }
}

/// A submission that admission and inspection let through, for [`Ledger::accept`].
#[derive(Debug, Clone)]
pub struct Acceptance {
    /// Whose.
    pub owner: Owner,
    /// The caller's own name for it, if any.
    pub prompt_id: Option<PromptId>,
    /// The caller's client, if any.
    pub client_id: Option<ClientId>,
    /// `Idempotency-Key` (1 to 255 printable ASCII), if any.
    pub idempotency_key: Option<String>,
    /// Digest of `graph`.
    pub submission: Digest,
    /// The canonical submission.
    pub graph: Bytes,
    /// That the policy engine let it through.
    pub approval: Approval,
    /// Where it wants to stand among its owner's jobs, if it says so.
    pub order: Option<QueueOrder>,
    /// How many jobs of the tenant may be held, assigned or running at once; checked in the same transaction.
    pub active_jobs_max: u32,
    /// What it may take, and the budgets into which that must fit; checked in the same transaction, and set aside until its end.
    pub reservation: Reservation,
    /// Now.
    pub at: WallMillis,
}

/// What inspection leaves behind for the ledger: only an approved workflow makes one, so nothing is accepted that was not decided.
#[derive(Debug, Clone)]
pub struct Approval {
    output_nodes: Vec<String>,
    verdict: Option<VerdictOf>,
    pins: Vec<Pin>,
    paid: bool,
    work: Option<Work>,
    credential: Option<ComfyOrgCredential>,
}

impl Approval {
    /// The approval of this workflow, decided on these files.
    pub fn of(workflow: &ApprovedWorkflow, pins: Vec<Pin>) -> Self {
        let verdict = VerdictOf { policy: workflow.policy_digest(), catalogue: workflow.catalogue_digest() };
        let output_nodes = workflow.output_nodes().iter().map(ToString::to_string).collect();
        let paid = workflow.has_paid_nodes();
        Self { output_nodes, verdict: Some(verdict), pins, paid, work: Some(Work::of(workflow)), credential: None }
    }

    /// The same with the caller's credential, which is kept until the job ends; none where somebody else pays, or nobody has to.
    #[must_use]
    pub fn paid_by(self, credential: Option<ComfyOrgCredential>) -> Self {
        Self { paid: self.paid || credential.is_some(), credential, ..self }
    }

    /// Whether it has a node of comfy.org's services.
    pub fn is_paid(&self) -> bool {
        self.paid
    }

    /// How much work it is.
    pub fn work(&self) -> Option<&Work> {
        self.work.as_ref()
    }

    /// The caller's own credential for such nodes.
    pub fn credential(&self) -> Option<&ComfyOrgCredential> {
        self.credential.as_ref()
    }

    /// The files that it names.
    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    /// What it follows from.
    pub fn verdict(&self) -> Option<VerdictOf> {
        self.verdict
    }

    /// Nodes whose output is wanted.
    pub fn output_nodes(&self) -> &[String] {
        &self.output_nodes
    }

    /// For tests of the ledger: on these files.
    #[cfg(test)]
    pub(crate) fn of_files(pins: Vec<Pin>) -> Self {
        Self { output_nodes: Vec::new(), verdict: None, pins, paid: false, work: None, credential: None }
    }

    /// For tests of the ledger: so much work.
    #[cfg(test)]
    pub(crate) fn of_work(work: Work) -> Self {
        Self { work: Some(work), ..Self::of_files(Vec::new()) }
    }

    /// For tests of the ledger, which know no policy.
    #[cfg(test)]
    pub(crate) fn of_nodes(output_nodes: &[&str]) -> Self {
        let output_nodes = output_nodes.iter().map(|node| (*node).to_owned()).collect();
        Self { output_nodes, verdict: None, pins: Vec::new(), paid: false, work: None, credential: None }
    }
}

/// What [`Ledger::accept`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// A new job.
    New(Job),
    /// The same submission under the same name (or key) was accepted before: its job, and nothing new.
    Again(Job),
}

/// A job of whoever asked: only [`Ledger::owned_prompt`] makes one, so that code which holds it has asked.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedPrompt(Job);

impl OwnedPrompt {
    /// The job.
    pub fn job(&self) -> &Job {
        &self.0
    }
    /// For the ledger's forms, after the owner's scope was matched.
    pub(in crate::record::ledger) fn new(job: Job) -> Self {
        Self(job)
    }
}

/// Why the ledger did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Not there, or another's: one answer for both.
    #[error("no such {what}")]
    NotFound {
        /// What was looked for.
        what: &'static str,
    },
    /// The job moved on meanwhile: look again.
    #[error("job {job} is not at version {expected} any more")]
    Stale {
        /// Which.
        job: JobId,
        /// The version that the caller had seen.
        expected: u64,
    },
    /// The transition does not begin where the job stands.
    #[error("job {job} is {found:?}: can't {wanted}")]
    WrongState {
        /// Which.
        job: JobId,
        /// Where it stands.
        found: JobState,
        /// What was wanted.
        wanted: &'static str,
    },
    /// The name or idempotency key is taken by another submission of the same owner.
    #[error("`{name}` names another submission already")]
    Conflict {
        /// The name.
        name: String,
    },
    /// The tenant has as many active jobs as it may.
    #[error("{active} jobs are held or running, {limit} are allowed")]
    TooManyJobs {
        /// How many there are.
        active: u32,
        /// How many there may be.
        limit: u32,
    },
    /// The job does not fit into what is left of a budget.
    #[error("{0}")]
    OverBudget(Box<OverBudget>),
    /// A report would be too long to be told.
    #[error("the report has more than {limit} rows: ask for fewer days, for one tenant, or for fewer columns")]
    TooManyRows {
        /// How many it may have.
        limit: usize,
    },
    /// As many browsers are logged in as the gateway remembers.
    #[error("{limit} sessions are open, which is all that the gateway may have")]
    TooManySessions {
        /// How many there may be.
        limit: u64,
    },
    /// The tenant's uploads have as many bytes as they may.
    #[error("{used} bytes would be uploaded, {limit} are allowed")]
    NoRoom {
        /// How many there would be.
        used: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The name and all its numbered forms are taken.
    #[error("`{name}` and {copies} copies of it are there already")]
    NamesTaken {
        /// As wished.
        name: String,
        /// How many forms were tried.
        copies: u32,
    },
    /// There is a file of that path already.
    #[error("there is a file `{path}` already: choose another name, or overwrite it")]
    Exists {
        /// Which.
        path: String,
    },
    /// A folder stands where a file is wanted, or a file where a folder is.
    #[error(
        "`{path}` can't be a file: a folder has that name, or a file stands where its folder would be; choose another name"
    )]
    NoPlace {
        /// Which.
        path: String,
    },
    /// The owner keeps as much as it may.
    #[error("{what} of this tenant may be {limit} at most")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// Jobs of the tenant have not ended.
    #[error("{active} jobs of tenant `{tenant}` are held or running: cancel them, or wait for their end")]
    Busy {
        /// Whose.
        tenant: TenantId,
        /// How many.
        active: u32,
    },
    /// What the tenant has is being erased, or was: nothing of it is written any more.
    #[error("tenant `{tenant}` is being erased, or was")]
    Erased {
        /// Whose.
        tenant: TenantId,
    },
    /// Another process has the state directory.
    #[error("state directory `{path}` is held by another process")]
    Held {
        /// Which.
        path: String,
    },
    /// A newer gateway wrote it.
    #[error(
        "ledger `{path}` has schema {found}, this gateway knows up to {known}: start the newer gateway, or put back the copy that it kept as \
         `ledger.redb.v{known}` (without what came later)"
    )]
    Schema {
        /// Which.
        path: String,
        /// Its version.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// What is stored is not what was stored: trying again helps nobody.
    #[error("stored {what} is damaged")]
    Damaged {
        /// What was read.
        what: &'static str,
    },
    /// Disk full, unwritable, broken.
    #[error("ledger can't {action}: {reason}")]
    Unavailable {
        /// What it was doing.
        action: &'static str,
        /// What the system said.
        reason: String,
    },
}

/// The store behind everything that is remembered.
#[async_trait]
pub trait Ledger:
    Backups
    + Bans
    + Budgets
    + Halts
    + keys::Keys
    + closing::Closing
    + DeadLetters
    + Refusals
    + Sessions
    + tenants::Tenants
    + managed::ManagedRows
    + Uploads
    + users::Users
    + UserFiles
    + JobList
    + learned::Learned
    + keeping::Keeping
    + Send
    + Sync
    + 'static
{
    /// Takes a job into the queue: durable when this resolves. After `Unavailable` it may be there or not (the disk failed under the last sync);
    /// asking again under the same name or key tells. Repeats are recognised by `prompt_id` or `idempotency_key` within the owner's scope.
    ///
    /// # Errors
    /// `Conflict` (same name, other submission), `TooManyJobs`, `OverBudget`, `Unavailable`.
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, LedgerError>;

    /// `Held → Assigned`: adds the next attempt. The folder is `t/<opaque owner>/<job>-<n>`.
    ///
    /// # Errors
    /// `Stale`, `WrongState`, `NotFound`, `Unavailable`.
    async fn assign(&self, job: JobId, version: u64, backend: &BackendId, at: WallMillis) -> Result<Job, LedgerError>;

    /// Notes that the workflow of an assigned attempt is about to be sent: asked of jobs with nodes that cost or send something elsewhere only, whose loss is then another one. Repeats change nothing.
    ///
    /// # Errors
    /// `WrongState` if that attempt is not the current one, `NotFound`, `Unavailable`.
    async fn send(&self, attempt: AttemptId) -> Result<Job, LedgerError>;

    /// `Assigned → Running`. Repeats change nothing.
    ///
    /// # Errors
    /// `WrongState` if that attempt is not the current one, `NotFound`, `Unavailable`.
    async fn start(&self, attempt: AttemptId, at: WallMillis) -> Result<Job, LedgerError>;

    /// `Assigned | Running → Held`: the attempt is lost, the job waits at its old place in the queue.
    ///
    /// # Errors
    /// `WrongState` if that attempt is not the current one, `NotFound`, `Unavailable`.
    async fn lose(&self, attempt: AttemptId, reason: &str, reached: Reached) -> Result<Job, LedgerError>;

    /// `Assigned | Running → Ended`: the one attempt that counts. Registers the files, numbers their shown names, writes the names
    /// into `result.outputs` at each file's pointer, stores the result, and books `result.charged` in place of what was set aside. A second commit of any attempt of the job is `WrongState`.
    ///
    /// # Errors
    /// `WrongState`, `NotFound`, `Unavailable`.
    async fn commit(
        &self,
        attempt: AttemptId,
        outcome: Outcome,
        result: JobResult,
        files: Vec<NewFile>,
        at: WallMillis,
    ) -> Result<(Job, JobResult), LedgerError>;

    /// `Held → Ended` without an attempt: `Cancelled`, deleted from the queue (a result is not kept); `Failed`, given up by the gateway (with a
    /// result, else an empty one is stored); `Interrupted`, only if the owner asked for its end and its attempt was lost. Never `Succeeded`.
    ///
    /// # Errors
    /// `Stale`, `WrongState`, `NotFound`, `Unavailable`.
    async fn end_held(
        &self,
        job: JobId,
        version: u64,
        outcome: Outcome,
        result: Option<JobResult>,
        at: WallMillis,
    ) -> Result<Job, LedgerError>;

    /// Marks an assigned or running job as to be interrupted; a held or ended one is left as it is. Gives the job as it stands.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn request_cancel(&self, prompt: &OwnedPrompt) -> Result<Job, LedgerError>;

    /// Removes an ended job from its owner's history, with the pictures that it sent. Its files stay until retention takes them.
    ///
    /// # Errors
    /// `WrongState` if it has not ended, `Unavailable`.
    async fn forget(&self, prompt: &OwnedPrompt) -> Result<(), LedgerError>;

    /// The job of that name in that scope.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn owned_prompt(&self, scope: &OwnerScope, prompt_id: &PromptId) -> Result<OwnedPrompt, LedgerError>;

    /// The scope's jobs that have not ended, in the order of their numbers.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn queue(&self, scope: &OwnerScope) -> Result<Vec<OwnedPrompt>, LedgerError>;

    /// How many of the scope's jobs have not ended: `queue_remaining`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn queue_remaining(&self, scope: &OwnerScope) -> Result<u64, LedgerError>;

    /// The scope's ended jobs that have a history entry, oldest first; `page` cuts as ComfyUI does (facts §8.2).
    ///
    /// # Errors
    /// `Unavailable`.
    async fn history(
        &self,
        scope: &OwnerScope,
        page: HistoryPage,
    ) -> Result<Vec<(OwnedPrompt, JobResult)>, LedgerError>;

    /// The result of one ended job; `None` while it has none.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn result(&self, prompt: &OwnedPrompt) -> Result<Option<JobResult>, LedgerError>;

    /// Every job that has not ended, by sequence: what a dispatcher starts from.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn active_jobs(&self) -> Result<Vec<Job>, LedgerError>;

    /// The canonical submission of a job.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn graph(&self, submission: &Digest) -> Result<Bytes, LedgerError>;

    /// The credential that a job was accepted with; `None` if it has none. It goes when the job ends.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    async fn credential(&self, job: JobId) -> Result<Option<ComfyOrgCredential>, LedgerError>;

    /// A file by id, whoever owns it: only for a request whose signature covers the id.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn file(&self, id: FileId) -> Result<FileRow, LedgerError>;

    /// A file by the name its owner sees.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn owned_file(
        &self,
        scope: &OwnerScope,
        directory: Directory,
        subfolder: &str,
        filename: &str,
    ) -> Result<FileRow, LedgerError>;

    /// The salt of a scope's cache keys and its opaque folder name, drawn at first use and kept.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn owner_secrets(&self, scope: &OwnerScope) -> Result<OwnerSecrets, LedgerError>;

    /// The sid of our socket at a backend, drawn at first use and kept over restarts.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn upstream_client(&self, backend: &BackendId) -> Result<UpstreamClientId, LedgerError>;

    /// Stores a new key.
    ///
    /// # Errors
    /// `Conflict` if the id is taken, `Unavailable`.
    async fn insert_key(&self, key: KeyRow) -> Result<(), LedgerError>;

    /// The key of that id.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn key(&self, id: &KeyId) -> Result<KeyRow, LedgerError>;

    /// All keys, by id.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn keys(&self) -> Result<Vec<KeyRow>, LedgerError>;

    /// Marks a key as revoked; a second time changes nothing.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn revoke_key(&self, id: &KeyId, at: WallMillis) -> Result<KeyRow, LedgerError>;

    /// Whether a transition would be durable now: a small write, synced. Health checks and `/readyz` ask it.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn probe(&self) -> Result<(), LedgerError>;
}

/// Which part of the history (facts §8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistoryPage {
    /// At most this many; `None`: all. Zero or less: none.
    pub max_items: Option<i64>,
    /// Skip this many of the oldest; `None` or negative: the newest `max_items`.
    pub offset: Option<i64>,
}

impl HistoryPage {
    /// Which of `length` entries, oldest first, are on the page (execution.py `get_history`; facts §8.2).
    pub fn cut(self, length: usize) -> std::ops::Range<usize> {
        let count = match self.max_items {
            None => length,
            Some(items) => usize::try_from(items).unwrap_or(0).min(length),
        };
        let first = match self.offset {
            Some(offset) if offset >= 0 => usize::try_from(offset).unwrap_or(usize::MAX).min(length),
            _ => length - count,
        };
        first..first.saturating_add(count).min(length)
    }
}

/// What keeps a scope's work apart at a backend. Both are secrets of the gateway: an owner sees them only inside its own files' metadata.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerSecrets {
    /// 128 random bits in hex: goes into ComfyUI's cache keys.
    pub salt: String,
    /// 80 random bits in lower-case base 32: the `<opaque owner>` of folders.
    pub folder: String,
}

impl std::fmt::Debug for OwnerSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnerSecrets(redacted)")
    }
}
