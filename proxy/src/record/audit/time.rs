//! RFC 3339 in UTC with milliseconds.

use crate::calendar::civil;
use crate::clock::WallMillis;

const DAY_MILLIS: u64 = 86_400_000;
/// 9999-12-31T23:59:59.999Z: later years have no form in RFC 3339.
const LAST: u64 = 253_402_300_799_999;

/// `2026-01-02T03:04:05.006Z`.
pub fn rfc3339(at: WallMillis) -> String {
    let millis = at.0.min(LAST);
    let (year, month, day) = civil(millis / DAY_MILLIS);
    let rest = millis % DAY_MILLIS;
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
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
