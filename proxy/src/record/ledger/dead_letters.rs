//! Jobs that lost every attempt they may have: what was asked for, where it was tried, and what became of each try, so that an operator can look at them and have one accepted anew.
//!
//! The submission itself is the graph that the ledger keeps anyway; a letter names it by its digest, and a backup takes it along. Kept under bounds of its own, by tenant, in all, and by age.

use super::{Attempt, Job, LedgerError};
use crate::clock::WallMillis;
use crate::ids::{BackendId, ClientId, JobId, PromptId, TenantId};
use crate::owner::Owner;
use async_trait::async_trait;
use comfygate_policy::Digest;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Attempts that a letter tells of, the newest: as many as a job may have.
pub const ATTEMPTS_KEPT_MAX: usize = 20;
/// Characters of a reason: some of it comes from a backend.
pub const REASON_CHARS_MAX: usize = 500;

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterBounds {
    /// Of one tenant; beyond it the oldest goes.
    pub tenant_max: usize,
    /// Of all tenants together.
    pub total_max: usize,
    /// Older ones are forgotten.
    pub age_max: Duration,
}

impl Default for DeadLetterBounds {
    /// A quarter of a year; some 15 MiB at most, of which one tenant can take a tenth.
    fn default() -> Self {
        Self { tenant_max: 100, total_max: 1000, age_max: Duration::from_secs(90 * 24 * 3600) }
    }
}

/// One try that was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LostAttempt {
    /// 1 for the first.
    pub n: u32,
    /// Where.
    pub backend: BackendId,
    /// When it was assigned.
    pub assigned_at: WallMillis,
    /// When the backend began; absent if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<WallMillis>,
    /// Why it was lost.
    pub reason: String,
}

/// A job that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetter {
    /// Which job; the letter is called by it too.
    pub job: JobId,
    /// When it was given up.
    pub at: WallMillis,
    /// Whose.
    pub owner: Owner,
    /// The owner's name of it.
    pub prompt_id: PromptId,
    /// Whose sockets heard of it; absent: all of its user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ClientId>,
    /// The canonical submission: names the graph that the ledger keeps.
    #[schemars(with = "String")]
    pub submission: Digest,
    /// When it was accepted.
    pub accepted_at: WallMillis,
    /// Why it was given up.
    pub reason: String,
    /// Its tries, oldest first.
    pub attempts: Vec<LostAttempt>,
}

impl DeadLetter {
    /// The letter of a job as it stands, given up for `reason`. An attempt that is not written off is told with that reason too.
    pub fn of(job: &Job, reason: &str, at: WallMillis) -> Self {
        let lost = |attempt: &Attempt| LostAttempt {
            n: attempt.n,
            backend: attempt.backend.clone(),
            assigned_at: attempt.assigned_at,
            started_at: attempt.started_at,
            reason: cut(attempt.lost.as_deref().unwrap_or(reason)),
        };
        let over = job.attempts.len().saturating_sub(ATTEMPTS_KEPT_MAX);
        Self {
            job: job.id,
            at,
            owner: job.owner.clone(),
            prompt_id: job.prompt_id.clone(),
            client_id: job.client_id.clone(),
            submission: job.submission,
            accepted_at: job.accepted_at,
            reason: cut(reason),
            attempts: job.attempts.iter().skip(over).map(lost).collect(),
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).collect()
}

/// Which letters are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterQuery {
    /// Of this tenant only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// At most this many, the newest; all, if nothing is said.
    #[serde(default = "all")]
    pub limit: usize,
}

fn all() -> usize {
    usize::MAX
}

/// The store of dead letters.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Remembers a letter; what is over the bounds is forgotten. A letter of the same job is replaced.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn insert_dead_letter(&self, letter: DeadLetter, bounds: DeadLetterBounds) -> Result<(), LedgerError>;

    /// Those that are asked for, newest first.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn dead_letters(&self, query: DeadLetterQuery) -> Result<Vec<DeadLetter>, LedgerError>;

    /// That of one job.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn dead_letter(&self, job: JobId) -> Result<DeadLetter, LedgerError>;

    /// Forgets that of one job.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn remove_dead_letter(&self, job: JobId) -> Result<(), LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    use super::*;

    pub(in crate::record::ledger) fn letter(tenant: &str, at: u64) -> DeadLetter {
        DeadLetter {
            job: JobId::new(),
            at: WallMillis(at),
            owner: Owner { tenant: tenant.parse().unwrap(), user: None, key: None, shared: false },
            prompt_id: "p".parse().unwrap(),
            client_id: None,
            submission: Digest::of(b"{}"),
            accepted_at: WallMillis(0),
            reason: "its backend died".into(),
            attempts: vec![LostAttempt {
                n: 1,
                backend: "gpu0".parse().unwrap(),
                assigned_at: WallMillis(0),
                started_at: Some(WallMillis(1)),
                reason: "its backend died".into(),
            }],
        }
    }

    async fn times(store: &impl DeadLetters, tenant: Option<&str>, limit: usize) -> Vec<u64> {
        let query = DeadLetterQuery { tenant: tenant.map(|id| id.parse().unwrap()), limit };
        store.dead_letters(query).await.unwrap().iter().map(|letter| letter.at.0).collect()
    }

    async fn insert(store: &impl DeadLetters, letter: DeadLetter, bounds: DeadLetterBounds) -> JobId {
        let job = letter.job;
        store.insert_dead_letter(letter, bounds).await.unwrap();
        job
    }

    pub(in crate::record::ledger) async fn letters_are_told_newest_first_and_by_tenant(store: &impl DeadLetters) {
        let bounds = DeadLetterBounds::default();
        for (tenant, at) in [("a", 2), ("b", 3), ("a", 1)] {
            insert(store, letter(tenant, at), bounds).await;
        }
        assert_eq!(times(store, None, 10).await, [3, 2, 1]);
        assert_eq!(times(store, Some("a"), 10).await, [2, 1]);
        assert_eq!(times(store, None, 2).await, [3, 2]);
    }

    pub(in crate::record::ledger) async fn a_letter_is_found_and_forgotten_by_its_job_and_one_a_job_is_kept(
        store: &impl DeadLetters,
    ) {
        let bounds = DeadLetterBounds::default();
        let first = letter("a", 1);
        let job = insert(store, first.clone(), bounds).await;
        assert_eq!(store.dead_letter(job).await.unwrap(), first);
        insert(store, DeadLetter { at: WallMillis(2), ..first }, bounds).await;
        assert_eq!(times(store, None, 10).await, [2]);
        store.remove_dead_letter(job).await.unwrap();
        assert!(matches!(store.dead_letter(job).await, Err(LedgerError::NotFound { .. })));
        assert!(matches!(store.remove_dead_letter(job).await, Err(LedgerError::NotFound { .. })));
    }

    pub(in crate::record::ledger) async fn the_oldest_letters_of_a_tenant_go_first_and_no_other_tenants(
        store: &impl DeadLetters,
    ) {
        let bounds = DeadLetterBounds { tenant_max: 2, ..DeadLetterBounds::default() };
        for (tenant, at) in [("b", 1), ("a", 2), ("a", 3)] {
            insert(store, letter(tenant, at), bounds).await;
        }
        assert_eq!(times(store, None, 10).await, [3, 2, 1]);
        insert(store, letter("a", 4), bounds).await;
        assert_eq!(times(store, None, 10).await, [4, 3, 1]);
    }

    pub(in crate::record::ledger) async fn letters_are_bounded_in_all_and_by_age(store: &impl DeadLetters) {
        let bounds = DeadLetterBounds { total_max: 2, ..DeadLetterBounds::default() };
        for (tenant, at) in [("a", 1), ("b", 2), ("c", 3)] {
            insert(store, letter(tenant, at), bounds).await;
        }
        assert_eq!(times(store, None, 10).await, [3, 2]);
        let young = DeadLetterBounds { age_max: Duration::from_millis(10), ..DeadLetterBounds::default() };
        insert(store, letter("d", 13), young).await;
        assert_eq!(times(store, None, 10).await, [13, 3], "ten milliseconds old is young enough");
        insert(store, letter("d", 14), young).await;
        assert_eq!(times(store, None, 10).await, [14, 13]);
    }
}
