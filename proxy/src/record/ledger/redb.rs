//! The ledger on redb: `<state>/ledger.redb` for the rows, `<state>/graphs/` for the submissions, `<state>/credentials/` for what pays for some of them.
//!
//! One thread writes (`writer`): it takes what waits, applies it in one transaction, syncs once and answers all. Readings take a snapshot of
//! their own and never wait for it. `storage` opens the database anew after an I/O error, which redb itself does not get over. The rules of
//! the transitions are in `transitions` and `commit`, the rows in `tables`.
//!
//! Readings run on tokio's blocking threads: a page that is not cached is a read from the disk, and a history decodes megabytes. The hop costs
//! some 20 µs, little beside the request it serves.

/// A test for each part of a suite, on a new ledger, of these options where they stand before the names. The suite is whatever `suite` is there.
#[cfg(test)]
macro_rules! on_redb {
    ($options:expr; $($test:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $test() {
            let dir = tempfile::tempdir().unwrap();
            suite::$test(&$crate::record::ledger::redb::RedbLedger::open(dir.path(), $options).unwrap()).await;
        }
    )*};
    ($($test:ident),* $(,)?) => { on_redb!($crate::record::ledger::redb::RedbOptions::default(); $($test),*); };
}

mod backups;
mod bans;
mod budgets;
mod halts;
mod closing;
mod commit;
mod credentials;
mod dead_letters;
mod erasure;
mod graphs;
mod learned;
mod managed;
mod keeping;
mod keys;
mod migration;
mod readings;
mod refusals;
mod sessions;
mod storage;
mod tables;
mod tenants;
mod transitions;
mod uploads;
mod users;
mod user_files;
mod writer;

pub use backups::inspect;

#[cfg(test)]
mod tests;

use super::budgets::UsageBounds;
use super::{
    Acceptance, Accepted, Directory, FileRow, HistoryPage, Job, JobResult, Ledger, LedgerError, NewFile, Outcome,
    OwnedPrompt, OwnerSecrets, Reached,
};
use crate::authenticate::api_key::KeyRow;
use crate::clock::WallMillis;
use crate::ids::{AttemptId, BackendId, FileId, JobId, KeyId, PromptId, UpstreamClientId};
use crate::owner::OwnerScope;
use crate::record::durable;
use ::redb::{ReadTransaction, StorageBackend};
use async_trait::async_trait;
use bytes::Bytes;
use comfygate_policy::{ComfyOrgCredential, Digest};
use credentials::Credentials;
use graphs::Graphs;
use std::path::Path;
use std::sync::Arc;
use storage::{Fault, Storage};
use tables::Tables;
use tokio::sync::Semaphore;
use writer::Writer;

/// The file of the rows within the state directory.
const FILE: &str = "ledger.redb";

/// The newest schema that this binary knows, and the one that it writes.
pub const SCHEMA: u64 = migration::SCHEMA;

/// What can be set about a [`RedbLedger`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedbOptions {
    /// How many ended jobs of one scope are remembered; beyond it the oldest is forgotten, as ComfyUI does. At least 1.
    pub ended_jobs_max: u64,
    /// redb's page cache in bytes.
    pub cache_bytes: usize,
    /// How much of what was spent is remembered.
    pub usage: UsageBounds,
}

impl Default for RedbOptions {
    /// ComfyUI's own 10 000 history entries (execution.py `MAXIMUM_HISTORY_SIZE`), and 64 MiB of cache: redb's 1 GiB is more than the whole gateway should take.
    fn default() -> Self {
        Self { ended_jobs_max: 10_000, cache_bytes: 64 << 20, usage: UsageBounds::default() }
    }
}

/// See the module.
pub struct RedbLedger {
    storage: Arc<Storage>,
    graphs: Arc<Graphs>,
    credentials: Arc<Credentials>,
    writer: Arc<Writer>,
    /// One large content of userdata at a time on its way through the writer: what else waits there waits for one of them at most.
    large: Semaphore,
    keep: Keep,
}

/// What is remembered of ended jobs.
#[derive(Debug, Clone, Copy)]
struct Keep {
    /// Of one scope.
    ended_jobs_max: u64,
    usage: UsageBounds,
}

impl RedbLedger {
    /// Opens the ledger of a state directory, or makes it. The directory becomes 0700, its files 0600.
    ///
    /// # Errors
    /// `Held` by another process, `Schema` newer than ours, `Unavailable`.
    pub fn open(dir: &Path, options: RedbOptions) -> Result<Self, LedgerError> {
        let unavailable =
            |error: std::io::Error| LedgerError::Unavailable { action: "open", reason: error.to_string() };
        durable::private_dir(dir).map_err(unavailable)?;
        let path = dir.join(FILE);
        let backend = storage::file_backend(&path)?;
        Self::open_on(dir, Arc::new(backend), options)
    }

    /// The same on any storage: what tests use to let the disk fail.
    fn open_on(dir: &Path, backend: Arc<dyn StorageBackend>, options: RedbOptions) -> Result<Self, LedgerError> {
        let graphs = Arc::new(Graphs::open(dir)?);
        let storage = Arc::new(Storage::open(&dir.join(FILE), backend, options.cache_bytes)?);
        let credentials = Arc::new(swept_credentials(dir, &storage)?);
        let writer = Arc::new(Writer::start(Arc::clone(&storage))?);
        Ok(Self {
            storage,
            graphs,
            credentials,
            writer,
            large: Semaphore::new(1),
            keep: Keep { ended_jobs_max: options.ended_jobs_max.max(1), usage: options.usage },
        })
    }

    async fn read<T, F>(&self, action: &'static str, reading: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, Fault> + Send + 'static,
    {
        let storage = Arc::clone(&self.storage);
        let done = tokio::task::spawn_blocking(move || storage.read(reading)).await;
        match done {
            Ok(read) => read.map_err(|fault| fault.told(action)),
            Err(error) => Err(LedgerError::Unavailable { action, reason: error.to_string() }),
        }
    }

    async fn write<T, F>(&self, action: &'static str, transition: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.writer.write(action, transition).await
    }

    /// Does something with the credentials off the event loop.
    async fn at_credentials<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Credentials) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        let credentials = Arc::clone(&self.credentials);
        let done = tokio::task::spawn_blocking(move || work(&credentials)).await;
        done.map_err(|error| LedgerError::Unavailable { action, reason: error.to_string() })
    }

    /// A job has ended: nobody pays for it any more.
    async fn unpaid(&self, job: &Job) {
        let id = job.id;
        if job.paid
            && let Err(error) = self.at_credentials("delete a credential", move |kept| kept.forget(id)).await
        {
            tracing::error!(job = %id, %error, "a credential is left until the gateway starts");
        }
    }
}

/// The credentials of the jobs that have not ended; all others are deleted.
fn swept_credentials(dir: &Path, storage: &Storage) -> Result<Credentials, LedgerError> {
    let credentials = Credentials::open(dir)?;
    match storage.read(readings::active_jobs) {
        Ok(active) => {
            let active = active.iter().map(|job| job.id).collect();
            let unavailable = |error: std::io::Error| LedgerError::Unavailable {
                action: "sweep the credentials",
                reason: error.to_string(),
            };
            credentials.keep_only(&active).map_err(unavailable)?;
        }
        // Whose they are can't be said; whoever reads the jobs next is told why.
        Err(fault) => tracing::error!(error = %fault.told("list active jobs"), "credentials are not swept"),
    }
    Ok(credentials)
}

#[async_trait]
impl Ledger for RedbLedger {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, LedgerError> {
        let graphs = Arc::clone(&self.graphs);
        let (digest, graph) = (acceptance.submission, acceptance.graph.clone());
        let unavailable = |reason: String| LedgerError::Unavailable { action: "accept", reason };
        // INVARIANT: the graph is on the disk before a row names it.
        let kept = tokio::task::spawn_blocking(move || graphs.keep(&digest, &graph)).await;
        // Until the writer has the transition: then it knows who names the graph.
        let hold =
            kept.map_err(|error| unavailable(error.to_string()))?.map_err(|error| unavailable(error.to_string()))?;
        let id = JobId::new();
        let Some(credential) = acceptance.approval.credential().cloned() else {
            let accepted = self.write("accept", move |tables| transitions::accept(tables, acceptance, id)).await;
            drop(hold);
            return accepted;
        };
        let (credentials, writer) = (Arc::clone(&self.credentials), Arc::clone(&self.writer));
        // A task of its own: a caller that goes away in between leaves no file behind.
        let accepting = tokio::spawn(async move {
            let (_hold, keeping) = (hold, Arc::clone(&credentials));
            // The same INVARIANT: an accepted job can be paid for after a restart.
            let kept = tokio::task::spawn_blocking(move || keeping.keep(id, &credential)).await;
            kept.map_err(|error| unavailable(error.to_string()))?.map_err(|error| unavailable(error.to_string()))?;
            let accepted = writer.write("accept", move |tables| transitions::accept(tables, acceptance, id)).await;
            // After `Unavailable` the job may be there: the next start sweeps.
            if !matches!(accepted, Ok(Accepted::New(_)) | Err(LedgerError::Unavailable { .. })) {
                drop(tokio::task::spawn_blocking(move || credentials.forget(id)).await);
            }
            accepted
        });
        accepting.await.map_err(|error| LedgerError::Unavailable { action: "accept", reason: error.to_string() })?
    }

    async fn assign(&self, job: JobId, version: u64, backend: &BackendId, at: WallMillis) -> Result<Job, LedgerError> {
        let backend = backend.clone();
        self.write("assign", move |tables| transitions::assign(tables, job, version, backend, at)).await
    }

    async fn send(&self, attempt: AttemptId) -> Result<Job, LedgerError> {
        self.write("send", move |tables| transitions::send(tables, attempt)).await
    }

    async fn start(&self, attempt: AttemptId, at: WallMillis) -> Result<Job, LedgerError> {
        self.write("start", move |tables| transitions::start(tables, attempt, at)).await
    }

    async fn lose(&self, attempt: AttemptId, reason: &str, reached: Reached) -> Result<Job, LedgerError> {
        let reason = reason.to_owned();
        self.write("lose", move |tables| transitions::lose(tables, attempt, reason, reached)).await
    }

    async fn commit(
        &self,
        attempt: AttemptId,
        outcome: Outcome,
        result: JobResult,
        files: Vec<NewFile>,
        at: WallMillis,
    ) -> Result<(Job, JobResult), LedgerError> {
        let keep = self.keep;
        let committed =
            self.write("commit", move |tables| commit::commit(tables, attempt, outcome, result, files, at, keep)).await;
        if let Ok((job, _)) = &committed {
            self.unpaid(job).await;
        }
        committed
    }

    async fn end_held(
        &self,
        job: JobId,
        version: u64,
        outcome: Outcome,
        result: Option<JobResult>,
        at: WallMillis,
    ) -> Result<Job, LedgerError> {
        let keep = self.keep;
        let ended = self
            .write("end a held job", move |tables| {
                transitions::end_held(tables, job, version, outcome, result, at, keep)
            })
            .await;
        if let Ok(job) = &ended {
            self.unpaid(job).await;
        }
        ended
    }

    async fn request_cancel(&self, prompt: &OwnedPrompt) -> Result<Job, LedgerError> {
        let id = prompt.job().id;
        self.write("cancel", move |tables| transitions::request_cancel(tables, id)).await
    }

    async fn forget(&self, prompt: &OwnedPrompt) -> Result<(), LedgerError> {
        let id = prompt.job().id;
        self.write("forget", move |tables| transitions::forget(tables, id, None)).await
    }

    async fn owned_prompt(&self, scope: &OwnerScope, prompt_id: &PromptId) -> Result<OwnedPrompt, LedgerError> {
        let (scope, prompt_id) = (scope.clone(), prompt_id.clone());
        self.read("look up a prompt", move |snapshot| readings::owned_prompt(snapshot, &scope, &prompt_id)).await
    }

    async fn queue(&self, scope: &OwnerScope) -> Result<Vec<OwnedPrompt>, LedgerError> {
        let scope = scope.key();
        self.read("read a queue", move |snapshot| readings::queue(snapshot, &scope)).await
    }

    async fn queue_remaining(&self, scope: &OwnerScope) -> Result<u64, LedgerError> {
        let scope = scope.key();
        self.read("count a queue", move |snapshot| readings::queue_remaining(snapshot, &scope)).await
    }

    async fn history(
        &self,
        scope: &OwnerScope,
        page: HistoryPage,
    ) -> Result<Vec<(OwnedPrompt, JobResult)>, LedgerError> {
        let scope = scope.key();
        self.read("read a history", move |snapshot| readings::history(snapshot, &scope, page)).await
    }

    async fn result(&self, prompt: &OwnedPrompt) -> Result<Option<JobResult>, LedgerError> {
        let id = prompt.job().id;
        self.read("read a result", move |snapshot| readings::result(snapshot, id)).await
    }

    async fn active_jobs(&self) -> Result<Vec<Job>, LedgerError> {
        self.read("list active jobs", readings::active_jobs).await
    }

    async fn graph(&self, submission: &Digest) -> Result<Bytes, LedgerError> {
        let (graphs, digest) = (Arc::clone(&self.graphs), *submission);
        match tokio::task::spawn_blocking(move || graphs.read(&digest)).await {
            Ok(read) => read,
            Err(error) => Err(LedgerError::Unavailable { action: "read a graph", reason: error.to_string() }),
        }
    }

    async fn credential(&self, job: JobId) -> Result<Option<ComfyOrgCredential>, LedgerError> {
        self.at_credentials("read a credential", move |credentials| credentials.read(job)).await?
    }

    async fn file(&self, id: FileId) -> Result<FileRow, LedgerError> {
        self.read("look up a file", move |snapshot| readings::file(snapshot, id)).await
    }

    async fn owned_file(
        &self,
        scope: &OwnerScope,
        directory: Directory,
        subfolder: &str,
        filename: &str,
    ) -> Result<FileRow, LedgerError> {
        let (scope, subfolder, filename) = (scope.key(), subfolder.to_owned(), filename.to_owned());
        self.read("look up a file", move |snapshot| {
            readings::owned_file(snapshot, (&scope, directory.name(), &subfolder, &filename))
        })
        .await
    }

    async fn owner_secrets(&self, scope: &OwnerScope) -> Result<OwnerSecrets, LedgerError> {
        let scope = scope.key();
        let asked = scope.clone();
        let known = self.read("read an owner", move |snapshot| readings::secrets(snapshot, &asked)).await?;
        match known {
            Some(secrets) => Ok(secrets),
            None => self.write("draw an owner's secrets", move |tables| transitions::secrets(tables, &scope)).await,
        }
    }

    async fn upstream_client(&self, backend: &BackendId) -> Result<UpstreamClientId, LedgerError> {
        let backend = backend.clone();
        self.write("draw an upstream client", move |tables| transitions::upstream_client(tables, &backend)).await
    }

    async fn insert_key(&self, key: KeyRow) -> Result<(), LedgerError> {
        self.write("store a key", move |tables| keys::insert(tables, &key, u32::MAX)).await
    }

    async fn key(&self, id: &KeyId) -> Result<KeyRow, LedgerError> {
        let id = id.clone();
        self.read("look up a key", move |snapshot| readings::key(snapshot, &id)).await
    }

    async fn keys(&self) -> Result<Vec<KeyRow>, LedgerError> {
        self.read("list keys", |snapshot| tables::rows(snapshot, tables::KEYS)).await
    }

    async fn revoke_key(&self, id: &KeyId, at: WallMillis) -> Result<KeyRow, LedgerError> {
        let id = id.clone();
        self.write("revoke a key", move |tables| transitions::revoke_key(tables, &id, at)).await
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        self.write("probe", transitions::probe).await
    }
}
