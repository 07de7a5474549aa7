//! What was learned of jobs' lengths, so that a restart does not begin anew. One row of bytes; what they mean is `dispatch`'s.

use super::LedgerError;
use async_trait::async_trait;
use bytes::Bytes;

/// Of one row: thousands of models with long names.
pub const LEARNED_BYTES_MAX: usize = 8 << 20;

/// The store of what was learned.
#[async_trait]
pub trait Learned: Send + Sync {
    /// What was kept last; `None`: nothing yet.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn learned(&self) -> Result<Option<Bytes>, LedgerError>;

    /// Keeps this in place of what was kept before.
    ///
    /// # Errors
    /// `Full` beyond [`LEARNED_BYTES_MAX`], `Unavailable`.
    async fn keep_learned(&self, learned: Bytes) -> Result<(), LedgerError>;

    /// Puts aside what is kept, since nobody can read it; what was put aside before goes.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn set_learned_aside(&self) -> Result<(), LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    use super::*;

    pub(in crate::record::ledger) async fn what_was_learned_is_kept_and_can_be_put_aside(store: &impl Learned) {
        assert_eq!(store.learned().await.unwrap(), None);
        store.set_learned_aside().await.unwrap();
        store.keep_learned(Bytes::from_static(b"one")).await.unwrap();
        store.keep_learned(Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(store.learned().await.unwrap().unwrap(), "two");
        store.set_learned_aside().await.unwrap();
        assert_eq!(store.learned().await.unwrap(), None);
        store.keep_learned(Bytes::from_static(b"three")).await.unwrap();
        assert_eq!(store.learned().await.unwrap().unwrap(), "three");
    }

    pub(in crate::record::ledger) async fn no_more_is_kept_of_what_was_learned_than_there_is_room_for(
        store: &impl Learned,
    ) {
        let of = |length| Bytes::from(vec![b'x'; length]);
        store.keep_learned(of(LEARNED_BYTES_MAX)).await.unwrap();
        assert!(matches!(store.keep_learned(of(LEARNED_BYTES_MAX + 1)).await, Err(LedgerError::Full { .. })));
        assert_eq!(store.learned().await.unwrap().unwrap().len(), LEARNED_BYTES_MAX);
    }
}
