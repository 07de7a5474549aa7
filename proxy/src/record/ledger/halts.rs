//! What an operator has stopped for a while: a backend that gets no more jobs, a tenant whose jobs wait. Kept here, so that a restart does not undo it.

use super::LedgerError;
use crate::clock::WallMillis;
use crate::ids::{BackendId, TenantId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Halts that are kept, of backends and tenants together: a list that persons keep.
pub const HALTS_MAX: u64 = 10_000;

/// What is stopped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Halted {
    /// A backend finishes what it has and gets nothing new.
    Backend(BackendId),
    /// A tenant's held jobs wait; what runs ends.
    Tenant(TenantId),
}

impl Halted {
    /// Its kind and its name: the key of its row.
    pub(super) fn key(&self) -> (&'static str, &str) {
        match self {
            Self::Backend(id) => ("backend", id.as_str()),
            Self::Tenant(id) => ("tenant", id.as_str()),
        }
    }
}

/// A halt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaltRow {
    /// Of what.
    pub halted: Halted,
    /// Of a backend: somebody works on it, so it is not tested and its going down is no alarm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maintenance: bool,
    /// Why; for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    pub at: WallMillis,
}

/// The store of halts.
#[async_trait]
pub trait Halts: Send + Sync {
    /// Halts; of what is halted already, everything but the time is replaced.
    ///
    /// # Errors
    /// `Full` beyond `limit`, `Unavailable`.
    async fn halt(&self, row: HaltRow, limit: u64) -> Result<HaltRow, LedgerError>;

    /// Lets it go on.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn release(&self, halted: &Halted) -> Result<(), LedgerError>;

    /// All, backends first, by id.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn halts(&self) -> Result<Vec<HaltRow>, LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    use super::*;

    fn row(halted: &Halted, maintenance: bool, at: u64) -> HaltRow {
        HaltRow { halted: halted.clone(), maintenance, reason: None, at: WallMillis(at) }
    }

    fn backend(id: &str) -> Halted {
        Halted::Backend(id.parse().unwrap())
    }

    fn tenant(id: &str) -> Halted {
        Halted::Tenant(id.parse().unwrap())
    }

    pub(in crate::record::ledger) async fn a_halt_stands_until_it_is_released(store: &impl Halts) {
        // A backend and a tenant of one name are two things.
        let (gpu, same_name) = (backend("a"), tenant("a"));
        store.halt(row(&same_name, false, 1), 9).await.unwrap();
        store.halt(row(&gpu, false, 2), 9).await.unwrap();
        assert_eq!(store.halts().await.unwrap(), [row(&gpu, false, 2), row(&same_name, false, 1)]);
        let again = store.halt(row(&gpu, true, 3), 9).await.unwrap();
        assert_eq!(again, row(&gpu, true, 2), "halted since the first time");
        store.release(&gpu).await.unwrap();
        assert_eq!(store.halts().await.unwrap(), [row(&same_name, false, 1)]);
        assert!(matches!(store.release(&gpu).await, Err(LedgerError::NotFound { .. })));
    }

    pub(in crate::record::ledger) async fn there_are_as_many_halts_as_allowed_and_no_more(store: &impl Halts) {
        store.halt(row(&backend("a"), false, 1), 2).await.unwrap();
        store.halt(row(&tenant("b"), false, 1), 2).await.unwrap();
        assert!(matches!(store.halt(row(&tenant("c"), false, 1), 2).await, Err(LedgerError::Full { limit: 2, .. })));
        assert!(store.halt(row(&backend("a"), true, 2), 2).await.is_ok(), "one that stands is changed");
    }
}
