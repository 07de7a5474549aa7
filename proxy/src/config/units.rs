//! Durations and sizes as people write them: `"500ms"`, `"90d"`, `"10MiB"`.

use std::time::Duration;

/// The text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no duration: write a whole number with ms, s, m, h or d, such as `90s`")]
pub struct DurationError(String);

/// Reads `NUMBER` followed by `ms`, `s`, `m`, `h` or `d` (24 h). No fractions and no sums: one way to write a time.
///
/// # Errors
/// [`DurationError`] for anything else, and for what does not fit 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let wrong = || DurationError(text.chars().take(40).collect());
    // `ms` stands before `s` and `m`: the first unit that leaves only digits is the one meant.
    let found = UNITS.iter().find_map(|(unit, millis)| Some((digits(text.strip_suffix(unit)?)?, *millis)));
    let (number, millis) = found.ok_or_else(wrong)?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// The text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no size: write a whole number with KiB, MiB or GiB, such as `10MiB`")]
pub struct SizeError(String);

/// Reads `NUMBER` followed by `KiB`, `MiB` or `GiB`; gives bytes.
///
/// # Errors
/// [`SizeError`] for anything else, and for what does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let wrong = || SizeError(text.chars().take(40).collect());
    let found = UNITS.iter().find_map(|(unit, bytes)| Some((digits(text.strip_suffix(unit)?)?, *bytes)));
    let (number, bytes) = found.ok_or_else(wrong)?;
    number.checked_mul(bytes).ok_or_else(wrong)
}

/// `str::parse` alone would also take a leading `+`.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A duration as [`parse_duration`] reads it, in the largest unit that leaves no rest.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if millis > 0 && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// A size as [`parse_size`] reads it, in the largest unit that leaves no rest; bare bytes below 1 KiB.
pub fn show_size(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes > 0 && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_five_units() {
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("90d", 7_776_000_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "s", "10", "1.5h", "-1s", "+1s", "1 s", "1h30m", "1w", "99999999999999999999d", "9999999999999999d"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_binary_units_only() {
        assert_eq!(parse_size("10MiB"), Ok(10 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        for text in ["", "MiB", "10MB", "10M", "-1KiB", "99999999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["500ms", "90s", "5m", "1h", "90d"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["3KiB", "10MiB", "2GiB"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
    }
}
