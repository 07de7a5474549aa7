//! When a key set is fetched, and how long what was fetched counts. Pure: it is told the time.

use std::time::{Duration, Instant};

/// Shortest and longest that an issuer's `Cache-Control: max-age` can ask for.
pub const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// See [`LIFETIME_MIN`].
pub const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// Between two fetches that tokens with an unknown `kid` cause: whoever invents kids causes no more.
pub const UNKNOWN_KID_INTERVAL: Duration = Duration::from_secs(30);
/// After a failed fetch; doubles with each further one.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failed fetches.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The times of one key set.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Lifetime of a set whose issuer says nothing.
    refresh: Duration,
    /// How long a set counts after the last good fetch.
    stale_max: Duration,
    /// When the last good fetch ended.
    fetched_at: Option<Instant>,
    /// When the next fetch is due by itself.
    due_at: Instant,
    /// When a token last asked for a fetch and got it.
    asked_at: Option<Instant>,
    /// Failed fetches since the last good one.
    failures: u32,
}

/// Whether there are keys to check tokens with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Fetched, and not too old.
    Good,
    /// Never fetched, or the last good fetch is too long ago.
    Gone,
}

impl Schedule {
    /// Nothing fetched yet: the first fetch is due at once.
    pub fn new(refresh: Duration, stale_max: Duration, now: Instant) -> Self {
        Self { refresh, stale_max, fetched_at: None, due_at: now, asked_at: None, failures: 0 }
    }

    /// Takes over new settings; a set that is there stays.
    pub fn configure(&mut self, refresh: Duration, stale_max: Duration) {
        self.refresh = refresh;
        self.stale_max = stale_max;
    }

    /// Whether the keys may be used now.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.fetched_at {
            Some(fetched_at) if now.saturating_duration_since(fetched_at) < self.stale_max => Standing::Good,
            _ => Standing::Gone,
        }
    }

    /// Whether the last fetch failed: then nobody knows whether an unknown `kid` is a new key's.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// How long until the next fetch is due by itself; zero: now.
    pub fn due_in(&self, now: Instant) -> Duration {
        self.due_at.saturating_duration_since(now)
    }

    /// A token has an unknown `kid`: whether that is reason to fetch now. Says yes once per [`UNKNOWN_KID_INTERVAL`].
    pub fn ask(&mut self, now: Instant) -> bool {
        let rested = self.asked_at.is_none_or(|asked| now.saturating_duration_since(asked) >= UNKNOWN_KID_INTERVAL);
        if rested {
            self.asked_at = Some(now);
            self.due_at = self.due_at.min(now);
        }
        rested
    }

    /// A fetch succeeded. The next one comes before the lifetime is over, so that the old set is never needed.
    pub fn fetched(&mut self, max_age: Option<Duration>, now: Instant) {
        let lifetime = max_age.unwrap_or(self.refresh).clamp(LIFETIME_MIN, LIFETIME_MAX);
        self.fetched_at = Some(now);
        self.failures = 0;
        self.due_at = now + lifetime * 9 / 10;
    }

    /// A fetch failed. Gives the pause before the next.
    pub fn failed(&mut self, now: Instant) -> Duration {
        let pause = RETRY_MIN.saturating_mul(1 << self.failures.min(6)).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.due_at = now + pause;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn schedule(now: Instant) -> Schedule {
        Schedule::new(Duration::from_secs(600), 24 * HOUR, now)
    }

    #[test]
    fn a_set_counts_until_the_millisecond_before_it_is_too_old() {
        let now = Instant::now();
        let mut times = schedule(now);
        assert_eq!(times.standing(now), Standing::Gone);
        times.fetched(None, now);
        assert_eq!(times.standing(now + 24 * HOUR - MILLISECOND), Standing::Good);
        assert_eq!(times.standing(now + 24 * HOUR), Standing::Gone);
    }

    #[test]
    fn a_failed_fetch_takes_nothing_away_and_a_good_one_renews() {
        let now = Instant::now();
        let mut times = schedule(now);
        times.fetched(None, now);
        times.failed(now + HOUR);
        assert_eq!(times.standing(now + 2 * HOUR), Standing::Good);
        assert!(times.is_failing());
        times.fetched(None, now + 23 * HOUR);
        assert_eq!(times.standing(now + 46 * HOUR), Standing::Good);
        assert!(!times.is_failing());
    }

    #[test]
    fn the_issuers_max_age_counts_between_a_minute_and_an_hour() {
        let now = Instant::now();
        let due_after = |max_age: Option<u64>| {
            let mut times = schedule(now);
            times.fetched(max_age.map(Duration::from_secs), now);
            times.due_in(now).as_secs()
        };
        assert_eq!([due_after(None), due_after(Some(300))], [540, 270]);
        assert_eq!(
            [due_after(Some(0)), due_after(Some(59)), due_after(Some(60)), due_after(Some(61))],
            [54, 54, 54, 54]
        );
        assert_eq!([due_after(Some(3600)), due_after(Some(3601)), due_after(Some(u64::MAX))], [3240, 3240, 3240]);
    }

    #[test]
    fn an_unknown_kid_is_reason_to_fetch_once_in_thirty_seconds() {
        let now = Instant::now();
        let mut times = schedule(now);
        times.fetched(None, now);
        assert!(times.ask(now));
        assert_eq!(times.due_in(now), Duration::ZERO);
        times.fetched(None, now);
        assert!(!times.ask(now + UNKNOWN_KID_INTERVAL - MILLISECOND));
        assert!(times.due_in(now + UNKNOWN_KID_INTERVAL) > Duration::ZERO);
        assert!(times.ask(now + UNKNOWN_KID_INTERVAL));
    }

    #[test]
    fn pauses_after_failures_double_up_to_a_minute() {
        let now = Instant::now();
        let mut times = schedule(now);
        let pauses: Vec<u64> = (0..9).map(|_| times.failed(now).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        times.fetched(None, now);
        assert_eq!(times.failed(now).as_secs(), 1);
    }
}
