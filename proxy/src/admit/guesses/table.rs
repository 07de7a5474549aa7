//! Counts that fade, in a fixed number of places.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Places among which an entry may stand; the one with the lowest count gives way.
const WAYS: usize = 8;
/// Parts with a lock of their own.
const SHARDS: usize = 64;

/// One count, as of now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    /// How much is remembered: a failure is one, and half of it is forgotten in each half-life.
    pub score: f64,
    /// Until when (milliseconds) nothing more is let in.
    pub until: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// A keyed hash; 0: empty.
    key: u64,
    /// As of `at`.
    score: f64,
    at: u64,
    until: u64,
}

impl Slot {
    fn counted(&self, now: u64, half_life: f64) -> Counted {
        // As millis: far below 2^53.
        let age = now.saturating_sub(self.at) as f64;
        Counted { score: self.score * (-age / half_life).exp2(), until: self.until }
    }
}

type Bucket = [Slot; WAYS];

/// A set-associative table of fading counts: what is in it never takes more memory than at the first entries, and every operation looks at [`WAYS`] places.
///
/// Keys are hashes with a key that nobody knows, so nobody can aim at the bucket of another entry. An entry is pushed out only where all others of its bucket count more, so a count of
/// `n` is forgotten early only after about `n` failures for each of all places of the table.
#[derive(Debug)]
pub(super) struct Table {
    /// In milliseconds.
    half_life: f64,
    buckets_per_shard: usize,
    /// Empty until they are needed.
    shards: Vec<Mutex<Vec<Bucket>>>,
}

impl Table {
    /// Room for `entries`, rounded up to whole buckets in every shard.
    pub(super) fn new(entries: usize, half_life: Duration) -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        let buckets_per_shard = entries.div_ceil(SHARDS * WAYS).max(1);
        Self { half_life: half_life.as_secs_f64() * 1000.0, buckets_per_shard, shards }
    }

    /// What is counted for `key`, whose bucket `place` chooses.
    pub(super) fn read(&self, place: u64, key: u64, now: u64) -> Counted {
        let Some((shard, at)) = self.shard(place) else { return Counted::default() };
        let found = shard.get(at).and_then(|bucket| bucket.iter().find(|slot| slot.key == filled(key)));
        found.map(|slot| slot.counted(now, self.half_life)).unwrap_or_default()
    }

    /// Reads and changes what is counted for `key` in one step, or begins to count.
    pub(super) fn change<R>(&self, place: u64, key: u64, now: u64, act: impl FnOnce(&mut Counted) -> R) -> R {
        let mut fresh = Counted::default();
        let Some((mut shard, at)) = self.shard(place) else { return act(&mut fresh) };
        if shard.is_empty() {
            shard.resize(self.buckets_per_shard, Bucket::default());
        }
        let Some(slot) = shard.get_mut(at).and_then(|bucket| self.slot(bucket, filled(key), now)) else {
            return act(&mut fresh);
        };
        let mut counted = if slot.key == filled(key) { slot.counted(now, self.half_life) } else { fresh };
        let said = act(&mut counted);
        if slot.key == filled(key) || counted != Counted::default() {
            *slot = Slot { key: filled(key), score: counted.score, at: now, until: counted.until };
        }
        said
    }

    /// The entry's own place, else an empty one, else that of the lowest count.
    fn slot<'b>(&self, bucket: &'b mut Bucket, key: u64, now: u64) -> Option<&'b mut Slot> {
        let rank = |slot: &Slot| match slot.key {
            own if own == key => (0, 0.0),
            0 => (1, 0.0),
            _ => (2, slot.counted(now, self.half_life).score),
        };
        bucket.iter_mut().min_by(|a, b| {
            let (a, b) = (rank(a), rank(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        })
    }

    fn shard(&self, place: u64) -> Option<(MutexGuard<'_, Vec<Bucket>>, usize)> {
        let buckets = (SHARDS * self.buckets_per_shard) as u64;
        let bucket = usize::try_from(place % buckets).ok()?;
        // Each change is one assignment: a panic elsewhere leaves nothing half done.
        let shard = self.shards.get(bucket % SHARDS)?.lock().unwrap_or_else(PoisonError::into_inner);
        Some((shard, bucket / SHARDS))
    }

    /// Entries that the table has room for at most.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        SHARDS * self.buckets_per_shard * WAYS
    }

    /// Entries that take memory now.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().capacity() * WAYS).sum()
    }
}

/// 0 says that a place is empty.
fn filled(key: u64) -> u64 {
    key.max(1)
}
