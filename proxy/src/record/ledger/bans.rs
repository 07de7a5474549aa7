//! Node classes that an operator has banned: denied at once, for every tenant, whatever its policy says.

use super::LedgerError;
use crate::clock::WallMillis;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// A list that a person keeps. Thousands of classes are what a policy is for.
pub const BANS_MAX: u64 = 1000;

/// A banned class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BanRow {
    /// Which, exactly as workflows name it.
    pub class: String,
    /// Why; shown to callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    pub at: WallMillis,
}

/// The store of bans.
#[async_trait]
pub trait Bans: Send + Sync {
    /// Bans a class; of one that is banned, the reason is replaced and the time stays.
    ///
    /// # Errors
    /// `Full` beyond `limit`, `Unavailable`.
    async fn ban(&self, row: BanRow, limit: u64) -> Result<BanRow, LedgerError>;

    /// Lifts a ban.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn unban(&self, class: &str) -> Result<(), LedgerError>;

    /// All, by class.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn bans(&self) -> Result<Vec<BanRow>, LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    use super::*;

    fn row(class: &str, reason: Option<&str>, at: u64) -> BanRow {
        BanRow { class: class.into(), reason: reason.map(str::to_owned), at: WallMillis(at) }
    }

    pub(in crate::record::ledger) async fn a_ban_stands_until_it_is_lifted(store: &impl Bans) {
        store.ban(row("B", None, 1), 9).await.unwrap();
        store.ban(row("A", Some("leaks"), 2), 9).await.unwrap();
        assert_eq!(store.bans().await.unwrap(), [row("A", Some("leaks"), 2), row("B", None, 1)]);
        let again = store.ban(row("B", Some("crashes"), 3), 9).await.unwrap();
        assert_eq!(again, row("B", Some("crashes"), 1), "banned since the first time");
        store.unban("A").await.unwrap();
        assert_eq!(store.bans().await.unwrap(), [again]);
        assert!(matches!(store.unban("A").await, Err(LedgerError::NotFound { .. })));
    }

    pub(in crate::record::ledger) async fn there_are_as_many_bans_as_allowed_and_no_more(store: &impl Bans) {
        store.ban(row("A", None, 1), 2).await.unwrap();
        store.ban(row("B", None, 1), 2).await.unwrap();
        assert!(matches!(store.ban(row("C", None, 1), 2).await, Err(LedgerError::Full { limit: 2, .. })));
        assert!(store.ban(row("A", Some("why"), 2), 2).await.is_ok(), "one that stands is changed");
    }
}
