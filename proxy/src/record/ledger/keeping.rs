//! How long what a tenant has is kept: what is due by age or bytes, its removal, contents that no row names any more, and the end of all that a tenant has.
//!
//! | class | is | counts from |
//! |---|---|---|
//! | results | files that jobs made, outputs that were adopted, pictures that were sent over a WebSocket | when they came to be |
//! | uploads | inputs that were uploaded or adopted | the last acceptance of a job that names them, else when they came |
//! | history | the entries of ended jobs; those that were deleted before they ran | their end; their acceptance |
//!
//! Rows go first. A content goes after a grace, once no row of anybody names it ([`super::super::holds`]). What a job that has not ended pinned is never due.

#[cfg(test)]
pub(super) mod suite;

use super::LedgerError;
use crate::clock::WallMillis;
use crate::ids::{FileId, JobId, TenantId};
use async_trait::async_trait;
use comfygate_policy::Digest;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ops::AddAssign;

/// Things that one step looks at or removes: some milliseconds of the one thread that writes.
pub const STEP_MAX: usize = 64;

/// What of a tenant is due. `None`: nothing, by that rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Due {
    /// Results that came to be before.
    pub results_before: Option<WallMillis>,
    /// Uploads that were used last before.
    pub uploads_before: Option<WallMillis>,
    /// Jobs that ended before.
    pub history_before: Option<WallMillis>,
    /// Beyond so many bytes of results the oldest of them are due.
    pub result_bytes_max: Option<u64>,
    /// By bytes only what came before: whoever made it gets to fetch it.
    pub over_bytes_before: WallMillis,
}

/// What is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the table of the module says it")]
pub enum Class {
    Results,
    Uploads,
    History,
}

impl Class {
    /// All, in the order of the ledger.
    pub const ALL: [Self; 3] = [Self::Results, Self::Uploads, Self::History];
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is too old.
    Age,
    /// There is too much, and it is the oldest.
    Bytes,
}

/// Where something stands in a tenant's order: class, time, id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which class.
    pub class: Class,
    /// From when it counts.
    pub at: WallMillis,
    /// Of the file, or the job.
    pub id: u128,
}

/// Something that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueItem {
    /// Where it stands.
    pub place: Place,
    /// Its bytes.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// How far a look has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last one that was looked at.
    pub after: Place,
    /// Bytes of the tenant's results that stay, as far as was looked.
    pub result_bytes: u64,
}

/// A part of what is due.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DuePage {
    /// At most [`STEP_MAX`].
    pub items: Vec<DueItem>,
    /// Where to go on; `None`: that was all.
    pub next: Option<Progress>,
}

/// How much, of one class and reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Amount {
    /// Files or entries.
    pub count: u64,
    /// Bytes of them; none for entries.
    pub bytes: u64,
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What goes, or went, of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Removed {
    /// Results, by age.
    pub results_by_age: Amount,
    /// Results, by bytes.
    pub results_by_bytes: Amount,
    /// Uploads.
    pub uploads: Amount,
    /// Entries of ended jobs.
    pub history: Amount,
}

impl Removed {
    /// Whether that is nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Counts one more.
    pub fn add(&mut self, item: &DueItem) {
        let amount = match (item.place.class, item.why) {
            (Class::Results, Why::Age) => &mut self.results_by_age,
            (Class::Results, Why::Bytes) => &mut self.results_by_bytes,
            (Class::Uploads, _) => &mut self.uploads,
            (Class::History, _) => &mut self.history,
        };
        *amount += Amount { count: 1, bytes: item.bytes };
    }
}

impl AddAssign for Removed {
    fn add_assign(&mut self, other: Self) {
        self.results_by_age += other.results_by_age;
        self.results_by_bytes += other.results_by_bytes;
        self.uploads += other.uploads;
        self.history += other.history;
    }
}

/// Where contents lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Store {
    /// Files and pictures.
    Blobs,
    /// Submissions.
    Graphs,
}

/// A content whose last row has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doomed {
    /// Since when.
    pub at: WallMillis,
    /// Which.
    pub content: Digest,
}

/// One step of [`Keeping::erase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    /// What went.
    pub removed: Removed,
    /// Rows beside those: userdata, settings, names, counters, refusals.
    pub rows: u64,
    /// Whether nothing is left.
    pub done: bool,
}

/// What names of files and folders at a backend are measured by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InUse {
    /// The folder of every owner, without `t/`: what carries no such name is not ours.
    pub owners: HashSet<String>,
    /// Files that jobs pinned which have not ended.
    pub pinned: HashSet<FileId>,
    /// Attempts that may still be committed.
    pub attempts: HashSet<(JobId, u32)>,
}

/// Part of every [`Ledger`](super::Ledger).
#[async_trait]
pub trait Keeping: Send + Sync {
    /// A part of what is due of a tenant, oldest first within each class: nothing that is pinned. Reads only.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn due(&self, tenant: &TenantId, due: Due, from: Option<Progress>) -> Result<DuePage, LedgerError>;

    /// Removes what is still as it was looked at and not pinned meanwhile; gives what was removed. The history entry of a file's job tells `at` beside the file. At most [`STEP_MAX`] items.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn remove(&self, tenant: &TenantId, items: Vec<DueItem>, at: WallMillis) -> Result<Removed, LedgerError>;

    /// Bytes of all results of a tenant.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn result_bytes(&self, tenant: &TenantId) -> Result<u64, LedgerError>;

    /// Forgets refusals that are older than that, with their graphs; at most [`STEP_MAX`]. Gives how many.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn expire_refusals(&self, before: WallMillis) -> Result<u64, LedgerError>;

    /// Contents whose last row went before that, longest ago first; at most [`STEP_MAX`].
    ///
    /// # Errors
    /// `Unavailable`.
    async fn doomed(&self, store: Store, before: WallMillis) -> Result<Vec<Doomed>, LedgerError>;

    /// Which of these no row names, and no list of the doomed has: what never had a row. Reads only: a first look, before anybody is asked to wait.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn unnamed(&self, store: Store, contents: Vec<Digest>) -> Result<Vec<Digest>, LedgerError>;

    /// Which of these no row names, said by the writer after every transition that was handed to it before; takes them off the list of the doomed, since what is said is acted on at once. One that is doomed since another time is left. See
    /// [`super::super::holds`].
    ///
    /// # Errors
    /// `Unavailable`.
    async fn settle(&self, store: Store, doomed: Vec<Doomed>) -> Result<Vec<Digest>, LedgerError>;

    /// Deletes the graphs among these that no row names; gives how many, and their bytes. Blobs are deleted by [`Blobs`](super::super::blobs::Blobs).
    ///
    /// # Errors
    /// `Unavailable`.
    async fn delete_graphs(&self, doomed: Vec<Doomed>) -> Result<Amount, LedgerError>;

    /// The graphs of one of the 256 folders that were written before that: what a walk over all graphs looks at.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn graphs_of(&self, shard: u8, before: WallMillis) -> Result<Vec<Digest>, LedgerError>;

    /// Removes a part of all that a tenant has: files, history, uploads, userdata, refusals, secrets, keys, sessions, halts, and what its usage tells of users and workflows. Its sums by day and
    /// model stay, for bills. To be asked until it is done.
    ///
    /// # Errors
    /// `Busy` while a job of it has not ended, `Unavailable`.
    async fn erase(&self, tenant: &TenantId, at: WallMillis) -> Result<Erased, LedgerError>;

    /// The folders of a tenant's owners at backends, without `t/`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn folders(&self, tenant: &TenantId) -> Result<Vec<String>, LedgerError>;

    /// What is in use at backends now.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn in_use(&self) -> Result<InUse, LedgerError>;
}
