//! RFC 3339 in UTC with milliseconds.

use crate::clock::WallMillis;

const DAY_MILLIS: u64 = 86_400_000;
/// 9999-12-31T23:59:59.999Z: later years have no form in RFC 3339.
const LAST: u64 = 253_402_300_799_999;

/// `2026-01-02T03:04:05.006Z`.
pub(super) fn rfc3339(at: WallMillis) -> String {
    let millis = at.0.min(LAST);
    let (year, month, day) = civil(millis / DAY_MILLIS);
    let rest = millis % DAY_MILLIS;
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

/// Year, month and day, `days` after 1970-01-01. Years are counted from March, so that the leap day is a year's last; 400 of them have 146097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March have 31, 30, 31, 30, 31 days, again and again: 153 in five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(WallMillis(millis)), text);
        }
    }

    #[test]
    fn a_time_past_the_last_year_is_written_as_the_last() {
        assert_eq!(rfc3339(WallMillis(LAST)), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(WallMillis(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }
}
