//! Browsers' sessions: what the ledger keeps of each, and the name of the gateway that they are at.

use super::LedgerError;
use crate::clock::WallMillis;
use crate::ids::{InstanceId, SessionId};
use crate::owner::{Owner, Scopes};
use async_trait::async_trait;
use comfygate_policy::Digest;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A session: everything but its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The public part of the cookie.
    pub id: SessionId,
    /// Whose name its browser acts in; `owner.key` is the key that was shown, and the session ends with it.
    pub owner: Owner,
    /// What the credential could do when it was shown; where there is a key, its scopes of now count.
    pub scopes: Scopes,
    /// SHA-256 of the secret: 256 random bits need no slow hash.
    pub secret_hash: Digest,
    /// When it was made: its lifetime counts from here.
    pub created_at: WallMillis,
    /// When it was noted as used last: its idle time counts from here.
    pub seen_at: WallMillis,
}

/// How long sessions last and how many there may be (`[sessions]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionBounds {
    /// Unused for so long, a session ends.
    pub idle_timeout: Duration,
    /// After so long it ends in any case.
    pub lifetime: Duration,
    /// Of one owner (tenant and user) at once; one more ends the oldest.
    pub per_owner_max: u32,
    /// Of all owners at once; one more is refused.
    pub total_max: u64,
}

impl SessionBounds {
    /// Whether a session has ended by the clock.
    pub fn over(&self, row: &SessionRow, now: WallMillis) -> bool {
        now >= row.seen_at.plus(self.idle_timeout) || now >= row.created_at.plus(self.lifetime)
    }
}

/// The store of sessions: a part of the [`Ledger`](super::Ledger).
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Stores a new session, and forgets those of its owner that are over, or too many: the oldest first. Gives which were still good.
    ///
    /// # Errors
    /// `TooManySessions` of all owners, `Conflict` if the id is taken, `Unavailable`.
    async fn insert_session(&self, row: SessionRow, bounds: SessionBounds) -> Result<Vec<SessionId>, LedgerError>;

    /// The session of that id.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn session(&self, id: SessionId) -> Result<SessionRow, LedgerError>;

    /// Notes a session as used at `at`; an earlier time than is noted changes nothing.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn touch_session(&self, id: SessionId, at: WallMillis) -> Result<(), LedgerError>;

    /// Forgets a session; a second time changes nothing.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn end_session(&self, id: SessionId) -> Result<(), LedgerError>;

    /// The name of this gateway, drawn at first use and kept over restarts.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn instance(&self) -> Result<InstanceId, LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    //! What every form of the store must do.

    use super::*;

    const BOUNDS: SessionBounds = SessionBounds {
        idle_timeout: Duration::from_millis(100),
        lifetime: Duration::from_millis(1000),
        per_owner_max: 2,
        total_max: 4,
    };

    fn row(tenant: &str, at: u64) -> SessionRow {
        SessionRow {
            id: SessionId::new(),
            owner: Owner { tenant: tenant.parse().unwrap(), user: None, key: Some("aaaaaaaaaaaa".parse().unwrap()) },
            scopes: Scopes::of_a_client(),
            secret_hash: Digest::of(b"secret"),
            created_at: WallMillis(at),
            seen_at: WallMillis(at),
        }
    }

    async fn inserted(ledger: &impl Sessions, tenant: &str, at: u64) -> (SessionId, Vec<SessionId>) {
        let row = row(tenant, at);
        (row.id, ledger.insert_session(row, BOUNDS).await.unwrap())
    }

    async fn there(ledger: &impl Sessions, id: SessionId) -> bool {
        match ledger.session(id).await {
            Ok(row) => row.id == id,
            Err(LedgerError::NotFound { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    pub(in crate::record::ledger) async fn a_session_is_kept_until_it_is_ended(ledger: &impl Sessions) {
        let row = row("a", 1);
        assert_eq!(ledger.insert_session(row.clone(), BOUNDS).await.unwrap(), []);
        assert_eq!(ledger.session(row.id).await.unwrap(), row);
        assert!(matches!(ledger.insert_session(row.clone(), BOUNDS).await, Err(LedgerError::Conflict { .. })));
        ledger.end_session(row.id).await.unwrap();
        ledger.end_session(row.id).await.unwrap();
        assert!(!there(ledger, row.id).await);
        assert!(matches!(ledger.touch_session(row.id, WallMillis(2)).await, Err(LedgerError::NotFound { .. })));
        assert!(!there(ledger, row.id).await, "a touch brings nothing back");
    }

    pub(in crate::record::ledger) async fn one_session_too_many_of_an_owner_ends_its_oldest(ledger: &impl Sessions) {
        let (first, _) = inserted(ledger, "a", 1).await;
        let (other, _) = inserted(ledger, "b", 1).await;
        let (second, ended) = inserted(ledger, "a", 2).await;
        assert!(ended.is_empty() && there(ledger, first).await, "just inside");
        let (third, ended) = inserted(ledger, "a", 3).await;
        assert_eq!(ended, [first]);
        assert!(!there(ledger, first).await);
        for left in [second, third, other] {
            assert!(there(ledger, left).await);
        }
    }

    pub(in crate::record::ledger) async fn sessions_that_are_over_make_room_and_others_do_not(ledger: &impl Sessions) {
        for (tenant, at) in [("a", 1), ("b", 1), ("c", 1), ("d", 50)] {
            inserted(ledger, tenant, at).await;
        }
        let full = ledger.insert_session(row("e", 100), BOUNDS).await;
        assert!(matches!(full, Err(LedgerError::TooManySessions { limit: 4 })), "{full:?}");
        // 101 is the first moment at which those of 1 were idle too long; that of 50 stands.
        let (_, ended) = inserted(ledger, "e", 101).await;
        assert!(ended.is_empty(), "nothing that was still good");
        for tenant in ["f", "g"] {
            inserted(ledger, tenant, 101).await;
        }
        assert!(ledger.insert_session(row("h", 101), BOUNDS).await.is_err());
    }

    pub(in crate::record::ledger) async fn a_touch_moves_the_idle_time_and_never_back(ledger: &impl Sessions) {
        let (id, _) = inserted(ledger, "a", 1).await;
        ledger.touch_session(id, WallMillis(90)).await.unwrap();
        ledger.touch_session(id, WallMillis(80)).await.unwrap();
        let row = ledger.session(id).await.unwrap();
        assert_eq!((row.seen_at, row.created_at), (WallMillis(90), WallMillis(1)));
        assert!(!BOUNDS.over(&row, WallMillis(189)) && BOUNDS.over(&row, WallMillis(190)));
        let busy = SessionRow { seen_at: WallMillis(1000), ..row };
        assert!(!BOUNDS.over(&busy, WallMillis(1000)) && BOUNDS.over(&busy, WallMillis(1001)));
    }

    pub(in crate::record::ledger) async fn the_gateways_name_is_drawn_once(ledger: &impl Sessions) {
        let name = ledger.instance().await.unwrap();
        assert_eq!(ledger.instance().await.unwrap(), name);
    }
}
