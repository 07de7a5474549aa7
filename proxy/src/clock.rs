//! Time, handed in: the real clock and one that tests turn by hand. Nothing else in the gateway asks the system for the time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z, as ComfyUI writes `create_time` and `timestamp`.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct WallMillis(pub u64);

impl WallMillis {
    /// Whole seconds since 1970, rounded down.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
    /// For people, to the second: `Thu, 01 Jan 1970 00:00:00 GMT`; `?` past the year 9999, which no clock of ours says.
    pub fn date(self) -> String {
        /// The last second of the year 9999, and the last that `httpdate` writes.
        const LAST: u64 = 253_402_300_799;
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(self.seconds())).filter(|_| self.seconds() <= LAST);
        at.map_or_else(|| "?".to_owned(), httpdate::fmt_http_date)
    }
    /// This time plus `after`; saturates.
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
    }
    /// How long after `earlier`; zero if it was not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// How far the clocks of two machines may differ in anything signed (design §4).
pub const SKEW_MAX: Duration = Duration::from_secs(60);

/// Wall time (for people, tokens and rows) and monotonic time (for deadlines).
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Turned { start: Instant, millis: Arc<AtomicU64>, wall: u64 },
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `wall` until [`Clock::turn`] moves it.
    pub fn turned_by_hand(wall: WallMillis) -> Self {
        Self(Source::Turned { start: Instant::now(), millis: Arc::new(AtomicU64::new(0)), wall: wall.0 })
    }

    /// Moves a clock made by [`Clock::turned_by_hand`] forward, for all its clones; does nothing to the system's.
    pub fn turn(&self, by: Duration) {
        if let Source::Turned { millis, .. } = &self.0 {
            millis.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Time of day.
    pub fn wall(&self) -> WallMillis {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                WallMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Source::Turned { millis, wall, .. } => WallMillis(wall.saturating_add(millis.load(Ordering::Relaxed))),
        }
    }

    /// Time that never goes back.
    pub fn monotonic(&self) -> Instant {
        match &self.0 {
            Source::System => Instant::now(),
            Source::Turned { start, millis, .. } => *start + Duration::from_millis(millis.load(Ordering::Relaxed)),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock::System",
            Source::Turned { .. } => "Clock::Turned",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_for_people_and_one_past_the_calendar_is_none() {
        assert_eq!(WallMillis(1_795_329_434_317).date(), "Sun, 22 Nov 2026 06:37:14 GMT");
        assert_eq!(WallMillis(253_402_300_799_999).date(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(WallMillis(253_402_300_800_000).date(), "?");
    }

    #[test]
    fn a_turned_clock_moves_wall_and_monotonic_alike() {
        let clock = Clock::turned_by_hand(WallMillis(1_000));
        let (wall, mono) = (clock.wall(), clock.monotonic());
        clock.clone().turn(Duration::from_millis(250));
        assert_eq!(clock.wall(), WallMillis(1_250));
        assert_eq!(clock.monotonic() - mono, Duration::from_millis(250));
        assert_eq!(clock.wall().since(wall), Duration::from_millis(250));
        assert_eq!(wall.since(clock.wall()), Duration::ZERO);
    }
}
