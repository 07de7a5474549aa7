//! When keys were used last: noted at most once a minute for each, written together and beside the requests, so that no request waits for it.
//!
//! For people who ask whether anybody still needs a key. `kill -9` loses some seconds of it.

use crate::clock::WallMillis;
use crate::drain::Drain;
use crate::ids::KeyId;
use crate::services::Services;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// A use this soon after one that was noted is not.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);
/// Between two writes: one transaction, however many keys are used.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// Uses of the last minute: as many as keys that were used, which are in the ledger, each of them.
#[derive(Debug, Default)]
pub struct KeyUses(Mutex<HashMap<KeyId, Use>>);

#[derive(Debug, Clone, Copy)]
struct Use {
    at: WallMillis,
    written: bool,
}

impl KeyUses {
    /// Somebody was let in by this key, or by a session that it opened.
    pub fn note(&self, key: &KeyId, now: WallMillis) {
        let mut uses = self.uses();
        let known = uses.get(key).is_some_and(|known| now.since(known.at) < NOTE_INTERVAL);
        if !known {
            uses.insert(key.clone(), Use { at: now, written: false });
        }
    }

    /// What is to be written; what was, and is no reason to wait any more, is forgotten.
    fn unwritten(&self, now: WallMillis) -> Vec<(KeyId, WallMillis)> {
        let mut uses = self.uses();
        uses.retain(|_, known| !known.written || now.since(known.at) < NOTE_INTERVAL);
        uses.iter().filter(|(_, known)| !known.written).map(|(key, known)| (key.clone(), known.at)).collect()
    }

    fn written(&self, written: &[(KeyId, WallMillis)]) {
        let mut uses = self.uses();
        for (key, at) in written {
            if let Some(known) = uses.get_mut(key).filter(|known| known.at == *at) {
                known.written = true;
            }
        }
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<KeyId, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what was noted. What can't be written now is written later.
pub async fn keep(services: &Services) {
    let uses = services.key_uses.unwritten(services.clock.wall());
    if uses.is_empty() {
        return;
    }
    match services.ledger.note_key_uses(uses.clone()).await {
        Ok(()) => services.key_uses.written(&uses),
        Err(error) => tracing::debug!(%error, "uses of keys are not noted"),
    }
}

/// Writes what was noted, until the process stops or hands over; what came last is for [`keep`] to be asked then.
pub async fn run(services: Arc<Services>, drain: Drain) {
    let mut looks = tokio::time::interval(WRITE_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = drain.subscribe();
    loop {
        tokio::select! {
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => return,
            _ = looks.tick() => keep(&services).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_noted_once_a_minute_and_written_once() {
        let (uses, key): (KeyUses, KeyId) = (KeyUses::default(), "aaaaaaaaaaaa".parse().unwrap());
        uses.note(&key, WallMillis(1_000));
        uses.note(&key, WallMillis(60_999));
        let first = vec![(key.clone(), WallMillis(1_000))];
        assert_eq!(uses.unwritten(WallMillis(2_000)), first, "until it is written, it is to be");
        assert_eq!(uses.unwritten(WallMillis(2_000)), first);
        uses.written(&first);
        assert!(uses.unwritten(WallMillis(2_000)).is_empty());
        uses.note(&key, WallMillis(60_999));
        assert!(uses.unwritten(WallMillis(60_999)).is_empty());
        uses.note(&key, WallMillis(61_000));
        assert_eq!(uses.unwritten(WallMillis(61_000)), [(key, WallMillis(61_000))]);
    }

    #[test]
    fn a_use_that_came_while_an_earlier_one_was_written_is_not_lost() {
        let (uses, key): (KeyUses, KeyId) = (KeyUses::default(), "aaaaaaaaaaaa".parse().unwrap());
        uses.note(&key, WallMillis(0));
        let writing = uses.unwritten(WallMillis(0));
        uses.note(&key, WallMillis(60_000));
        uses.written(&writing);
        assert_eq!(uses.unwritten(WallMillis(60_000)), [(key, WallMillis(60_000))]);
    }

    #[test]
    fn what_was_written_is_forgotten_after_a_minute() {
        let (uses, key): (KeyUses, KeyId) = (KeyUses::default(), "aaaaaaaaaaaa".parse().unwrap());
        uses.note(&key, WallMillis(0));
        uses.written(&uses.unwritten(WallMillis(0)));
        uses.unwritten(WallMillis(59_999));
        assert_eq!(uses.uses().len(), 1);
        uses.unwritten(WallMillis(60_000));
        assert!(uses.uses().is_empty());
    }
}
