//! A scope's jobs as one list, ended or not: what `/api/jobs` shows.

use super::{LedgerError, OwnedPrompt};
use crate::owner::OwnerScope;
use async_trait::async_trait;

/// The part of the ledger that lists jobs.
#[async_trait]
pub trait JobList: Send + Sync {
    /// The scope's jobs of one moment: those that have not ended and, if `ended`, those with a history entry, in the order of their numbers.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn jobs(&self, scope: &OwnerScope, ended: bool) -> Result<Vec<OwnedPrompt>, LedgerError>;
}
