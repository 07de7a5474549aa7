//! What a backup asks of the ledger: a copy of its rows as they stood at one moment, while it goes on.

use super::LedgerError;
use async_trait::async_trait;
use comfygate_policy::Digest;
use std::collections::BTreeSet;
use std::path::Path;

/// A copy of the rows, and the contents that they name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The schema of the rows.
    pub schema: u64,
    /// Submissions of jobs and of dead letters.
    pub graphs: BTreeSet<Digest>,
    /// Contents of files.
    pub blobs: BTreeSet<Digest>,
}

/// Part of every [`Ledger`](super::Ledger).
#[async_trait]
pub trait Backups {
    /// Writes the rows of the last finished transition into a new file. Transitions go on meanwhile; none of them waits.
    ///
    /// # Errors
    /// `Unavailable`, also when the file can't be written; what there is of it then is of no use.
    async fn copy_to(&self, file: &Path) -> Result<Copied, LedgerError>;
}
