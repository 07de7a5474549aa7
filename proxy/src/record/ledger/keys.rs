//! What becomes of API keys besides being stored and revoked: made once for a repeated request, rotated, noted as used, forgotten.

use super::LedgerError;
use crate::authenticate::api_key::{KeyRefused, KeyRow};
use crate::clock::WallMillis;
use crate::ids::KeyId;
use async_trait::async_trait;

/// What storing a key came to.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyMade {
    /// It is stored.
    New,
    /// A request of the same `Idempotency-Key` made this one before; whether it asked for the same, its `made_by` tells.
    Before(Box<KeyRow>),
}

/// What rotating a key came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Rotation {
    /// The successor is stored, and the former key ends as this row says.
    Done(Box<KeyRow>),
    /// A request of the same `Idempotency-Key` made this one before, as [`KeyMade::Before`].
    Before(Box<KeyRow>),
    /// It was rotated before, to this one.
    Already(KeyId),
    /// It is revoked or has expired: nothing takes its place.
    Over(KeyRefused),
}

/// The store of keys: a part of the [`Ledger`](super::Ledger).
#[async_trait]
pub trait Keys: Send + Sync {
    /// Stores a new key, unless its `made_by` names a request that made one before.
    ///
    /// # Errors
    /// `Conflict` if the id is taken, `Full` if its tenant has `keys_max` already (ended ones count until they are forgotten), `Unavailable`.
    async fn make_key(&self, key: KeyRow, keys_max: u32) -> Result<KeyMade, LedgerError>;

    /// Stores the successor of `id` and ends that at `ends_at`, if it does not end before; all at once. Both name each other. A `made_by` of the successor works as for a new key.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if the successor's id is taken, `Full` as for a new key, `Unavailable`.
    async fn rotate_key(
        &self,
        id: &KeyId,
        successor: KeyRow,
        ends_at: WallMillis,
        now: WallMillis,
        keys_max: u32,
    ) -> Result<Rotation, LedgerError>;

    /// Notes keys as used at these times; earlier ones than are noted, and keys that are gone, change nothing.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn note_key_uses(&self, uses: Vec<(KeyId, WallMillis)>) -> Result<(), LedgerError>;

    /// Forgets some of the keys that ended before that time, and gives how many: ask again until none goes. They are refused as unknown from then on.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn forget_keys(&self, before: WallMillis) -> Result<u64, LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    //! What every form of the store must do.

    use super::super::Ledger;
    use super::super::suite::key_row;
    use super::*;
    use crate::authenticate::api_key::MadeBy;
    use comfygate_policy::Digest;

    const FIRST: &str = "aaaaaaaaaaaa";
    const SECOND: &str = "bbbbbbbbbbbb";
    const MANY: u32 = 100;

    pub(in crate::record::ledger) async fn a_repeated_request_makes_one_key(ledger: &impl Ledger) {
        let made_by = |name: &str| Some(MadeBy { name: Digest::of(name.as_bytes()), request: Digest::of(b"request") });
        let first = KeyRow { made_by: made_by("one"), ..key_row(FIRST, "a") };
        assert_eq!(ledger.make_key(first.clone(), MANY).await.unwrap(), KeyMade::New);
        let repeat = KeyRow { made_by: made_by("one"), ..key_row(SECOND, "a") };
        assert_eq!(ledger.make_key(repeat.clone(), MANY).await.unwrap(), KeyMade::Before(Box::new(first)));
        assert_eq!(ledger.keys().await.unwrap().len(), 1);
        let other = KeyRow { made_by: made_by("two"), ..repeat };
        assert_eq!(ledger.make_key(other, MANY).await.unwrap(), KeyMade::New);
        for id in ["cccccccccccc", "dddddddddddd"] {
            assert_eq!(
                ledger.make_key(key_row(id, "a"), MANY).await.unwrap(),
                KeyMade::New,
                "without a name, each is new"
            );
        }
        assert!(matches!(ledger.make_key(key_row(FIRST, "a"), MANY).await, Err(LedgerError::Conflict { .. })));
    }

    pub(in crate::record::ledger) async fn a_key_is_rotated_once_and_both_name_each_other(ledger: &impl Ledger) {
        let (old, new) = (key_row(FIRST, "a"), key_row(SECOND, "a"));
        let rotate = async |successor: KeyRow| {
            ledger.rotate_key(&old.id, successor, WallMillis(100), WallMillis(10), MANY).await
        };
        assert!(matches!(rotate(new.clone()).await, Err(LedgerError::NotFound { what: "key" })));
        ledger.insert_key(old.clone()).await.unwrap();
        let ending = KeyRow { expires_at: Some(WallMillis(100)), rotated_to: Some(new.id.clone()), ..old.clone() };
        assert_eq!(rotate(new.clone()).await.unwrap(), Rotation::Done(Box::new(ending.clone())));
        assert_eq!(ledger.key(&old.id).await.unwrap(), ending);
        let stored = KeyRow { rotated_from: Some(old.id.clone()), ..new.clone() };
        assert_eq!(ledger.key(&new.id).await.unwrap(), stored);
        let third = key_row("cccccccccccc", "a");
        assert_eq!(rotate(third.clone()).await.unwrap(), Rotation::Already(new.id.clone()));
        assert!(matches!(ledger.key(&third.id).await, Err(LedgerError::NotFound { .. })), "nothing is left behind");
        let asked = |name: &str, id: &str| KeyRow {
            made_by: Some(MadeBy { name: Digest::of(name.as_bytes()), request: Digest::of(b"rotate") }),
            ..key_row(id, "a")
        };
        // The chain goes on at its end, and a repeat makes nothing, even when the former key is over.
        let third = asked("again", "cccccccccccc");
        let rotated = ledger.rotate_key(&new.id, third.clone(), WallMillis(200), WallMillis(20), MANY).await.unwrap();
        assert!(matches!(rotated, Rotation::Done(row) if row.rotated_from == Some(old.id.clone())));
        let repeat = asked("again", "dddddddddddd");
        let repeated = ledger.rotate_key(&new.id, repeat, WallMillis(200), WallMillis(900), MANY).await.unwrap();
        assert!(matches!(repeated, Rotation::Before(row) if row.id == third.id));
        let other = asked("other", "dddddddddddd");
        let other = ledger.rotate_key(&new.id, other, WallMillis(200), WallMillis(30), MANY).await.unwrap();
        assert_eq!(other, Rotation::Already(third.id));
    }

    pub(in crate::record::ledger) async fn no_key_lives_longer_by_a_rotation_and_none_that_is_over_has_a_successor(
        ledger: &impl Ledger,
    ) {
        let soon = KeyRow { expires_at: Some(WallMillis(50)), ..key_row(FIRST, "a") };
        ledger.insert_key(soon.clone()).await.unwrap();
        let over =
            ledger.rotate_key(&soon.id, key_row(SECOND, "a"), WallMillis(100), WallMillis(50), MANY).await.unwrap();
        assert_eq!(over, Rotation::Over(KeyRefused::Expired));
        let rotated =
            ledger.rotate_key(&soon.id, key_row(SECOND, "a"), WallMillis(100), WallMillis(49), MANY).await.unwrap();
        assert!(matches!(rotated, Rotation::Done(row) if row.expires_at == Some(WallMillis(50))));
        let revoked = key_row("cccccccccccc", "a");
        ledger.insert_key(revoked.clone()).await.unwrap();
        ledger.revoke_key(&revoked.id, WallMillis(5)).await.unwrap();
        let successor = key_row("dddddddddddd", "a");
        let over = ledger.rotate_key(&revoked.id, successor, WallMillis(100), WallMillis(10), MANY).await.unwrap();
        assert_eq!(over, Rotation::Over(KeyRefused::Revoked));
    }

    pub(in crate::record::ledger) async fn a_tenant_has_as_many_keys_as_it_may_and_takes_nobody_elses_room(
        ledger: &impl Ledger,
    ) {
        let named = |name: &str| Some(MadeBy { name: Digest::of(name.as_bytes()), request: Digest::of(b"request") });
        let second = KeyRow { made_by: named("two"), ..key_row(SECOND, "b") };
        for key in [key_row(FIRST, "b"), second.clone()] {
            assert_eq!(ledger.make_key(key, 2).await.unwrap(), KeyMade::New);
        }
        let third = key_row("cccccccccccc", "b");
        assert!(matches!(ledger.make_key(third.clone(), 2).await, Err(LedgerError::Full { limit: 2, .. })));
        let rotated = ledger.rotate_key(&second.id, third.clone(), WallMillis(9), WallMillis(1), 2).await;
        assert!(matches!(rotated, Err(LedgerError::Full { limit: 2, .. })));
        assert_eq!(ledger.key(&second.id).await.unwrap(), second, "as it was");
        let repeat = KeyRow { made_by: named("two"), ..third.clone() };
        assert!(matches!(ledger.make_key(repeat, 2).await.unwrap(), KeyMade::Before(_)), "a repeat makes nothing");
        // Neighbours in the order of names.
        for (id, tenant) in [("dddddddddddd", "a"), ("eeeeeeeeeeee", "c"), ("ffffffffffff", "b-2")] {
            assert_eq!(ledger.make_key(key_row(id, tenant), 1).await.unwrap(), KeyMade::New, "{tenant}");
        }
        ledger.revoke_key(&second.id, WallMillis(5)).await.unwrap();
        assert!(ledger.make_key(third.clone(), 2).await.is_err(), "an ended one counts");
        assert_eq!(ledger.forget_keys(WallMillis(6)).await.unwrap(), 1);
        assert_eq!(ledger.make_key(third, 2).await.unwrap(), KeyMade::New, "until it is forgotten");
    }

    pub(in crate::record::ledger) async fn an_ended_key_is_forgotten_after_its_time_and_one_that_stands_never(
        ledger: &impl Ledger,
    ) {
        let made_by = Some(MadeBy { name: Digest::of(b"one"), request: Digest::of(b"request") });
        let expires = KeyRow { expires_at: Some(WallMillis(100)), made_by, ..key_row(FIRST, "a") };
        let revoked = KeyRow { expires_at: Some(WallMillis(900)), ..key_row(SECOND, "a") };
        let stands = key_row("cccccccccccc", "a");
        for key in [&expires, &revoked, &stands] {
            ledger.insert_key(key.clone()).await.unwrap();
        }
        ledger.revoke_key(&revoked.id, WallMillis(50)).await.unwrap();
        let left = async || ledger.keys().await.unwrap().into_iter().map(|key| key.id).collect::<Vec<_>>();
        assert_eq!(ledger.forget_keys(WallMillis(50)).await.unwrap(), 0);
        assert_eq!(ledger.forget_keys(WallMillis(51)).await.unwrap(), 1, "revoked before it expired");
        assert_eq!(ledger.forget_keys(WallMillis(100)).await.unwrap(), 0);
        assert_eq!(left().await, [expires.id.clone(), stands.id.clone()]);
        let repeat = KeyRow { id: SECOND.parse().unwrap(), expires_at: None, ..expires };
        assert!(matches!(ledger.make_key(repeat.clone(), MANY).await.unwrap(), KeyMade::Before(_)));
        assert_eq!(ledger.forget_keys(WallMillis(u64::MAX)).await.unwrap(), 1);
        assert_eq!(left().await, [stands.id], "it has no end");
        assert_eq!(ledger.make_key(repeat, MANY).await.unwrap(), KeyMade::New, "its request is forgotten with it");
    }

    pub(in crate::record::ledger) async fn a_use_is_noted_and_never_an_earlier_one(ledger: &impl Ledger) {
        let key = key_row(FIRST, "a");
        ledger.insert_key(key.clone()).await.unwrap();
        let gone: KeyId = SECOND.parse().unwrap();
        for (at, noted) in [(20, 20), (10, 20), (30, 30)] {
            let uses = vec![(key.id.clone(), WallMillis(at)), (gone.clone(), WallMillis(at))];
            ledger.note_key_uses(uses).await.unwrap();
            assert_eq!(ledger.key(&key.id).await.unwrap().used_at, Some(WallMillis(noted)));
        }
        ledger.revoke_key(&key.id, WallMillis(31)).await.unwrap();
        ledger.note_key_uses(vec![(key.id.clone(), WallMillis(40))]).await.unwrap();
        let row = ledger.key(&key.id).await.unwrap();
        assert_eq!((row.revoked_at, row.used_at), (Some(WallMillis(31)), Some(WallMillis(40))), "it stays revoked");
    }
}
