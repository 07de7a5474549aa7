//! What the ledger knows of uploads: their names, how many bytes a tenant has, and which files a job has pinned.

#[cfg(test)]
pub(super) mod suite;

use super::{Directory, FileRow, LedgerError};
use crate::clock::WallMillis;
use crate::ids::{FileId, JobId, TenantId};
use crate::inspect::contents::ContentFacts;
use crate::owner::{Owner, OwnerScope};
use async_trait::async_trait;
use comfygate_policy::Digest;
use serde::{Deserialize, Serialize};

/// An upload whose content is in the blobs already.
#[derive(Debug, Clone, PartialEq)]
pub struct NewUpload {
    /// The id that it gets if it is kept as a file of its own.
    pub id: FileId,
    /// Whose.
    pub owner: Owner,
    /// Which content.
    pub content: Digest,
    /// Length in bytes.
    pub bytes: u64,
    /// What the content is.
    pub facts: ContentFacts,
    /// The directory it shows in: `Input` or `Temp`.
    pub directory: Directory,
    /// Folder shown to the owner (`""` or `a/b`).
    pub subfolder: String,
    /// Name that the owner wishes.
    pub filename: String,
    /// Whether the name's former file gives way; else the new one is numbered.
    pub overwrite: bool,
    /// Bytes that the tenant's uploads may have together, checked in the same transaction.
    pub storage_bytes_max: u64,
    /// Now.
    pub at: WallMillis,
}

/// A way to name a file within a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileName {
    /// As the owner sees it.
    Shown {
        /// Which directory.
        directory: Directory,
        /// Folder.
        subfolder: String,
        /// Base name.
        filename: String,
    },
    /// By its id.
    Id(FileId),
}

/// A file that a job uses under a name: later changes of the name don't change the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The name in the workflow, without suffix.
    pub name: String,
    /// The directory that the name's suffix selects.
    pub directory: Directory,
    /// Which file.
    pub file: FileId,
    /// Its content.
    pub content: Digest,
    /// Length in bytes.
    pub bytes: u64,
    /// What it is.
    pub facts: ContentFacts,
}

/// Copies of one name that are numbered before the owner has to choose another.
pub const NAME_COPIES_MAX: u32 = 200;
/// Files that one listing looks at.
pub const LISTED_FILES_MAX: usize = 10_000;

/// Uploads and pinned files.
#[async_trait]
pub trait Uploads: Send + Sync + 'static {
    /// Names an upload as ComfyUI does (server.py `image_upload`): a name with the same content is that file; with `overwrite` the name means the new file from
    /// now on; else it becomes `name (1).png` and so on. The former file stays for the jobs that pinned it.
    ///
    /// # Errors
    /// `NoRoom`, `NamesTaken`, `Unavailable`.
    async fn keep_upload(&self, upload: NewUpload) -> Result<FileRow, LedgerError>;

    /// Bytes of all uploads of a tenant.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn uploaded_bytes(&self, tenant: &TenantId) -> Result<u64, LedgerError>;

    /// The files of these names, each if it is the scope's.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn named_files(&self, scope: &OwnerScope, names: Vec<FileName>) -> Result<Vec<Option<FileRow>>, LedgerError>;

    /// The files that lie at the top of a directory, by name; at most [`LISTED_FILES_MAX`].
    ///
    /// # Errors
    /// `Unavailable`.
    async fn top_files(&self, scope: &OwnerScope, directory: Directory) -> Result<Vec<FileRow>, LedgerError>;

    /// What a job that has not ended has pinned.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn pins(&self, job: JobId) -> Result<Vec<Pin>, LedgerError>;
}
