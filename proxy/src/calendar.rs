//! Days and periods of the calendar, in UTC. Pure.
//!
//! UTC, because it is the same for every tenant, gateway and reader: no day has 23 or 25 hours, no moment comes twice, and when a period ends can be told as an instant.

use crate::clock::WallMillis;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

const DAY_MILLIS: u64 = 86_400_000;
/// From 0000-03-01 to 1970-01-01.
const DAYS_BEFORE_1970: u64 = 719_468;
/// 9999-12-31: later days have no form in RFC 3339.
const LAST: u32 = 2_932_896;

/// A day, from 1970-01-01 to 9999-12-31; as text `2026-01-02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

/// The text is no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no day: write it as `2026-01-31`, from 1970-01-01 on")]
pub struct DayError(String);

impl Day {
    /// The day of a moment.
    pub fn of(at: WallMillis) -> Self {
        Self::numbered(u32::try_from(at.0 / DAY_MILLIS).unwrap_or(LAST))
    }

    /// The one so many days after 1970-01-01, or the last one.
    pub fn numbered(number: u32) -> Self {
        Self(number.min(LAST))
    }

    /// Days after 1970-01-01.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Its first moment.
    pub fn start(self) -> WallMillis {
        WallMillis(u64::from(self.0) * DAY_MILLIS)
    }

    /// So many days earlier, or the first one.
    #[must_use]
    pub fn before(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// Year, month from 1, day from 1.
    pub fn civil(self) -> (u64, u64, u64) {
        civil(u64::from(self.0))
    }

    /// The first of its month.
    #[must_use]
    pub fn month_start(self) -> Self {
        let day = u32::try_from(self.civil().2).unwrap_or(1);
        self.before(day.saturating_sub(1))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl FromStr for Day {
    type Err = DayError;

    fn from_str(text: &str) -> Result<Self, DayError> {
        let wrong = || DayError(text.chars().take(20).collect());
        let part = |range: Range<usize>| {
            let digits = text.get(range).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(wrong)
        };
        let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
        let number = days_of(year, month, day).ok_or_else(wrong)?;
        let found = Self(u32::try_from(number).ok().filter(|number| *number <= LAST).ok_or_else(wrong)?);
        // A day that the month does not have, or other signs between the numbers, would be shown otherwise.
        if found.to_string() == text { Ok(found) } else { Err(wrong()) }
    }
}

/// Year, month and day, `days` after 1970-01-01. Years are counted from March, so that the leap day is a year's last; 400 of them have 146097 days.
pub fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_BEFORE_1970;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March have 31, 30, 31, 30, 31 days, again and again: 153 in five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// [`civil`] the other way round, for years of four digits; days before 1970 have no number.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year.checked_sub(u64::from(month <= 2))?;
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(DAYS_BEFORE_1970)
}

/// How often something is counted anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// At midnight.
    Day,
    /// On Monday (ISO 8601).
    Week,
    /// On the first.
    #[default]
    Month,
}

impl Period {
    /// All, by the names of the configuration.
    pub const NAMES: [&str; 3] = ["day", "week", "month"];

    /// The period of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Day, Self::Week, Self::Month].into_iter().find(|period| period.name() == name)
    }

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The first day of the period that `day` is in, and the first of the next one.
    pub fn of(self, day: Day) -> Range<Day> {
        match self {
            Self::Day => day..Day(day.0 + 1),
            Self::Week => {
                // 1970-01-01 was a Thursday.
                let monday = day.0.saturating_sub((day.0 + 3) % 7);
                Day(monday)..Day(day.0 + 7 - (day.0 + 3) % 7)
            }
            Self::Month => {
                let first = day.month_start();
                // No month has more than 31 days and none fewer than 28: that is one of the first days of the next.
                first..Day(first.0 + 31).month_start()
            }
        }
    }

    /// When the next one begins.
    pub fn renews_at(self, at: WallMillis) -> WallMillis {
        self.of(Day::of(at)).end.start()
    }

    /// How long until then.
    pub fn rest(self, at: WallMillis) -> Duration {
        self.renews_at(at).since(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(period: Period, day: &str) -> (String, String) {
        let Range { start, end } = period.of(day.parse().unwrap());
        (start.to_string(), end.to_string())
    }

    #[test]
    fn a_day_is_read_as_it_is_written_and_nothing_else_is_one() {
        for text in ["1970-01-01", "2000-02-29", "2024-02-29", "2026-12-31", "9999-12-31"] {
            assert_eq!(text.parse::<Day>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "2026-1-1",
            "2026-02-29",
            "2100-02-29",
            "2026-04-31",
            "2026-13-01",
            "2026-00-10",
            "2026-01-00",
            "1969-12-31",
            "0000-01-01",
            "+026-01-01",
            "2026/01/01",
            "2026-01-01T",
            "10000-01-01",
            "２026-01-01",
        ] {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut former = Day(0).civil();
        for number in 1..146_097 {
            let (year, month, day) = Day(number).civil();
            let next = match former {
                (y, m, d) if (y, m, d + 1) == (year, month, day) => true,
                (y, 12, 31) => (y + 1, 1, 1) == (year, month, day),
                (y, m, d) => d >= 28 && (y, m + 1, 1) == (year, month, day),
            };
            assert!(next, "{former:?} and {:?}", (year, month, day));
            assert_eq!(Day(number).to_string().parse(), Ok(Day(number)));
            former = (year, month, day);
        }
    }

    #[test]
    fn a_moment_belongs_to_its_day_up_to_the_last_millisecond() {
        let midnight = "2026-03-01".parse::<Day>().unwrap().start();
        assert_eq!(Day::of(midnight).to_string(), "2026-03-01");
        assert_eq!(Day::of(WallMillis(midnight.0 - 1)).to_string(), "2026-02-28");
        assert_eq!(Day::of(WallMillis(u64::MAX)).to_string(), "9999-12-31");
    }

    #[test]
    fn months_end_as_the_calendar_has_them_leap_years_too() {
        for (day, first, next) in [
            ("2026-01-31", "2026-01-01", "2026-02-01"),
            ("2026-02-01", "2026-02-01", "2026-03-01"),
            ("2026-02-28", "2026-02-01", "2026-03-01"),
            ("2024-02-29", "2024-02-01", "2024-03-01"),
            ("2100-02-28", "2100-02-01", "2100-03-01"),
            ("2026-04-30", "2026-04-01", "2026-05-01"),
            ("2026-12-31", "2026-12-01", "2027-01-01"),
        ] {
            assert_eq!(span(Period::Month, day), (first.to_owned(), next.to_owned()), "{day}");
        }
    }

    #[test]
    fn weeks_begin_on_monday_and_days_at_midnight() {
        // 2026-11-23 is a Monday.
        for day in ["2026-11-23", "2026-11-25", "2026-11-29"] {
            assert_eq!(span(Period::Week, day), ("2026-11-23".to_owned(), "2026-11-30".to_owned()), "{day}");
        }
        assert_eq!(span(Period::Week, "2026-11-22").0, "2026-11-16");
        assert_eq!(span(Period::Week, "2027-01-01"), ("2026-12-28".to_owned(), "2027-01-04".to_owned()));
        assert_eq!(span(Period::Day, "2026-12-31"), ("2026-12-31".to_owned(), "2027-01-01".to_owned()));
        // The week that began before there are days.
        assert_eq!(span(Period::Week, "1970-01-03"), ("1970-01-01".to_owned(), "1970-01-05".to_owned()));
    }

    #[test]
    fn a_period_renews_with_the_first_moment_of_the_next() {
        let at = WallMillis("2026-11-30".parse::<Day>().unwrap().start().0 + DAY_MILLIS - 1);
        for period in [Period::Day, Period::Month] {
            assert_eq!(period.renews_at(at), "2026-12-01".parse::<Day>().unwrap().start());
            assert_eq!(period.rest(at), Duration::from_millis(1));
        }
        assert_eq!(Period::Month.rest(WallMillis(at.0 + 1)), Duration::from_secs(31 * 86_400));
        assert_eq!(Period::Week.renews_at(at).0, at.0 + 1 + 6 * DAY_MILLIS);
    }

    #[test]
    fn a_period_has_the_name_that_the_configuration_gives_it() {
        for name in Period::NAMES {
            assert_eq!(Period::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Period::from_name("year"), None);
    }
}
