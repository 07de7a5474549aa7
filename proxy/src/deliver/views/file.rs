//! The answer for a file of the blobs: type, caching, ranges (RFC 9110 §13, §14). Pure: the content is opened by whoever writes the answer.

use super::{OPAQUE, shown_type};
use crate::clock::WallMillis;
use crate::deliver::answer::{Answer, AnswerBody};
use crate::record::ledger::{Directory, FileRow};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, Method, StatusCode};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A result keeps its name and content, so a browser may keep it for a day.
const KEPT: &str = "private, max-age=86400, immutable";
/// A temporary or uploaded file's name may mean another content tomorrow: ask again, by the ETag.
const ASKED_AGAIN: &str = "private, no-cache";

/// A header that could not be written: a fault of ours, since all of them are made of checked parts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header `{0}` of a file can't be written")]
pub struct FileError(HeaderName);

/// Answers `GET` or `HEAD` for the file whose content lies at `path`.
///
/// # Errors
/// [`FileError`].
pub fn answer(row: &FileRow, path: PathBuf, method: &Method, headers: &HeaderMap, now: WallMillis) -> Result<Answer, FileError> {
    let etag = format!("\"{}\"", row.content);
    let modified = last_modified(row.created_at.min(now));
    let mut answer = Answer::empty(StatusCode::OK);
    set(&mut answer, ETAG, &etag)?;
    set(&mut answer, LAST_MODIFIED, &httpdate::fmt_http_date(modified))?;
    set(&mut answer, CACHE_CONTROL, if row.directory == Directory::Output { KEPT } else { ASKED_AGAIN })?;
    // SECURITY: whatever the content is, it runs no script and loads nothing, even when a browser shows it as a page (facts §7.1).
    set(&mut answer, CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'")?;
    set(&mut answer, HeaderName::from_static("cross-origin-resource-policy"), "same-site")?;
    if is_known(headers, &etag, modified) {
        answer.status = StatusCode::NOT_MODIFIED;
        return Ok(answer);
    }
    set(&mut answer, ACCEPT_RANGES, "bytes")?;
    // The stored text is checked against the list again: a row of an older version proves nothing.
    let kind = shown_type(&row.content_type);
    set(&mut answer, CONTENT_TYPE, kind.unwrap_or(OPAQUE))?;
    let disposition = if kind.is_some() { "inline" } else { "attachment" };
    set(&mut answer, CONTENT_DISPOSITION, &content_disposition(disposition, &row.filename))?;
    // A range is defined for GET only (RFC 9110 §14.2).
    let wanted = match headers.get(RANGE) {
        Some(range) if method == Method::GET && range_applies(headers, &etag, modified) => parse_range(range, row.bytes),
        _ => Wanted::Whole,
    };
    match wanted {
        Wanted::Whole => answer.body = AnswerBody::File { path, start: 0, length: row.bytes },
        Wanted::Slice { start, length } => {
            answer.status = StatusCode::PARTIAL_CONTENT;
            let last = start.saturating_add(length).saturating_sub(1);
            set(&mut answer, CONTENT_RANGE, &format!("bytes {start}-{last}/{}", row.bytes))?;
            answer.body = AnswerBody::File { path, start, length };
        }
        Wanted::Nothing => {
            answer.status = StatusCode::RANGE_NOT_SATISFIABLE;
            set(&mut answer, CONTENT_RANGE, &format!("bytes */{}", row.bytes))?;
        }
    }
    Ok(answer)
}

fn set(answer: &mut Answer, name: HeaderName, value: &str) -> Result<(), FileError> {
    let value = HeaderValue::from_str(value).map_err(|_| FileError(name.clone()))?;
    answer.headers.insert(name, value);
    Ok(())
}

/// Dates of HTTP have whole seconds, and four digits for the year.
fn last_modified(at: WallMillis) -> SystemTime {
    const YEAR_9999: u64 = 253_402_300_799;
    UNIX_EPOCH + Duration::from_secs(at.seconds().min(YEAR_9999))
}

/// Whether the client has this content (RFC 9110 §13.2.2: `If-None-Match` before `If-Modified-Since`).
fn is_known(headers: &HeaderMap, etag: &str, modified: SystemTime) -> bool {
    if headers.contains_key(IF_NONE_MATCH) {
        let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
        return tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag);
    }
    date(headers, &IF_MODIFIED_SINCE).is_some_and(|since| modified <= since)
}

/// `If-Range`: the strong ETag, or exactly our date (RFC 9110 §13.1.5); without it a range always applies.
fn range_applies(headers: &HeaderMap, etag: &str, modified: SystemTime) -> bool {
    match headers.get(IF_RANGE) {
        None => true,
        Some(value) if value.as_bytes().starts_with(b"\"") => value.as_bytes() == etag.as_bytes(),
        Some(_) => date(headers, &IF_RANGE) == Some(modified),
    }
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Whole,
    Slice { start: u64, length: u64 },
    /// Nothing of the range is in the file.
    Nothing,
}

/// One range in bytes. Several, another unit, or a malformed one: the whole file, as RFC 9110 §14.2 allows.
fn parse_range(value: &HeaderValue, bytes: u64) -> Wanted {
    let read = |text: &str| -> Option<Option<u64>> {
        if text.is_empty() {
            return Some(None);
        }
        // Digits only: `parse` would take a sign. What is too long for a number is beyond any file.
        text.bytes().all(|b| b.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(u64::MAX)))
    };
    let spec = value.to_str().ok().and_then(|text| text.strip_prefix("bytes="));
    let Some((first, last)) = spec.and_then(|spec| spec.trim().split_once('-')) else { return Wanted::Whole };
    let (Some(first), Some(last)) = (read(first), read(last)) else { return Wanted::Whole };
    match (first, last) {
        (None, None) => Wanted::Whole,
        (Some(first), Some(last)) if last < first => Wanted::Whole,
        (Some(first), _) if first >= bytes => Wanted::Nothing,
        (Some(first), last) => {
            let end = last.map_or(bytes, |last| last.saturating_add(1).min(bytes));
            Wanted::Slice { start: first, length: end.saturating_sub(first) }
        }
        (None, Some(0)) => Wanted::Nothing,
        (None, Some(_)) if bytes == 0 => Wanted::Nothing,
        (None, Some(suffix)) => Wanted::Slice { start: bytes.saturating_sub(suffix), length: suffix.min(bytes) },
    }
}

/// `inline; filename="a_b.png"; filename*=UTF-8''a%22b.png` (RFC 6266, RFC 8187).
fn content_disposition(kind: &str, filename: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%' | '/') || c == ' ';
    let fallback: String = filename.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let mut disposition = format!("{kind}; filename=\"{fallback}\"");
    if fallback != filename {
        disposition.push_str("; filename*=UTF-8''");
        for byte in filename.bytes() {
            if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
                disposition.push(char::from(byte));
            } else {
                disposition.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    disposition
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::state::testing::file_row;

    const NOW: WallMillis = WallMillis(2_000_000_000_000);

    fn asked_as(method: &Method, row: &FileRow, given: &[(HeaderName, &str)]) -> Answer {
        let headers = given.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        answer(row, PathBuf::from("blob"), method, &headers, NOW).unwrap()
    }

    fn asked(given: &[(HeaderName, &str)]) -> Answer {
        asked_as(&Method::GET, &FileRow { bytes: 100, ..file_row("a.png") }, given)
    }

    fn slice(answer: &Answer) -> (u64, u64) {
        match answer.body {
            AnswerBody::File { start, length, .. } => (start, length),
            AnswerBody::Bytes(_) => panic!("no file"),
        }
    }

    #[test]
    fn a_picture_is_shown_and_can_run_nothing() {
        let answer = asked(&[]);
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(slice(&answer), (0, 100));
        for (name, value) in [
            ("content-type", "image/png"),
            ("content-disposition", "inline; filename=\"a.png\""),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "sandbox; default-src 'none'"),
            ("cache-control", KEPT),
            ("accept-ranges", "bytes"),
        ] {
            assert_eq!(answer.headers[name], value);
        }
    }

    #[test]
    fn what_is_not_on_the_list_is_a_download_even_if_its_row_says_otherwise() {
        for stored in ["text/html", "image/svg+xml", "application/octet-stream", "image/png; charset=x", "evil\r\nx: y"] {
            let row = FileRow { content_type: stored.into(), ..file_row("a.html") };
            let answer = asked_as(&Method::GET, &row, &[]);
            assert_eq!(answer.headers[CONTENT_TYPE], OPAQUE);
            assert!(answer.headers[CONTENT_DISPOSITION].to_str().unwrap().starts_with("attachment; "));
        }
    }

    #[test]
    fn a_name_that_may_be_taken_over_is_asked_for_again() {
        let row = FileRow { directory: Directory::Temp, ..file_row("a.png") };
        assert_eq!(asked_as(&Method::GET, &row, &[]).headers[CACHE_CONTROL], ASKED_AGAIN);
    }

    #[test]
    fn a_known_content_is_not_sent_again() {
        let fresh = asked(&[]);
        let (etag, date) = (fresh.headers[ETAG].to_str().unwrap(), fresh.headers[LAST_MODIFIED].to_str().unwrap());
        for known in [etag, "*", &format!("\"x\", W/{etag}")] {
            let answer = asked(&[(IF_NONE_MATCH, known)]);
            assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{known}");
            assert!(answer.body.is_empty() && answer.headers.contains_key(ETAG));
        }
        assert_eq!(asked(&[(IF_MODIFIED_SINCE, date)]).status, StatusCode::NOT_MODIFIED);
        assert_eq!(asked(&[(IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:00 GMT")]).status, StatusCode::OK);
        // The ETag decides, whatever the date says.
        assert_eq!(asked(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, date)]).status, StatusCode::OK);
    }

    #[test]
    fn single_ranges_are_cut_to_the_file() {
        for (range, expected, text) in [
            ("bytes=0-0", (0, 1), "bytes 0-0/100"),
            ("bytes=0-99", (0, 100), "bytes 0-99/100"),
            ("bytes=90-1000", (90, 10), "bytes 90-99/100"),
            ("bytes=99-", (99, 1), "bytes 99-99/100"),
            ("bytes=-10", (90, 10), "bytes 90-99/100"),
            ("bytes=-1000", (0, 100), "bytes 0-99/100"),
            ("bytes=5-99999999999999999999999", (5, 95), "bytes 5-99/100"),
        ] {
            let answer = asked(&[(RANGE, range)]);
            assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
            assert_eq!(slice(&answer), expected, "{range}");
            assert_eq!(answer.headers[CONTENT_RANGE], text);
        }
    }

    #[test]
    fn a_range_behind_the_end_is_refused_with_the_length() {
        for range in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            let answer = asked(&[(RANGE, range)]);
            assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
            assert_eq!(answer.headers[CONTENT_RANGE], "bytes */100");
            assert!(answer.body.is_empty());
        }
    }

    #[test]
    fn ranges_that_we_do_not_serve_get_the_whole() {
        for range in ["bytes=0-1,3-4", "bytes=5-4", "bytes=-", "lines=1-2", "bytes=+1-2", "bytes=a-b", "bytes"] {
            let answer = asked(&[(RANGE, range)]);
            assert_eq!((answer.status, slice(&answer)), (StatusCode::OK, (0, 100)), "{range}");
        }
        let row = FileRow { bytes: 100, ..file_row("a.png") };
        assert_eq!(asked_as(&Method::HEAD, &row, &[(RANGE, "bytes=0-1")]).status, StatusCode::OK);
    }

    #[test]
    fn a_range_of_another_content_gets_the_whole() {
        let fresh = asked(&[]);
        let (etag, date) = (fresh.headers[ETAG].to_str().unwrap(), fresh.headers[LAST_MODIFIED].to_str().unwrap());
        let status = |if_range: &str| asked(&[(RANGE, "bytes=0-1"), (IF_RANGE, if_range)]).status;
        assert_eq!(status(etag), StatusCode::PARTIAL_CONTENT);
        assert_eq!(status(date), StatusCode::PARTIAL_CONTENT);
        for other in ["\"x\"", &format!("W/{etag}"), "Thu, 01 Jan 1970 00:00:00 GMT", "?"] {
            assert_eq!(status(other), StatusCode::OK, "{other}");
        }
    }

    #[test]
    fn names_can_not_leave_their_header() {
        assert_eq!(content_disposition("inline", "a b.png"), "inline; filename=\"a b.png\"");
        let odd = content_disposition("inline", "a\"b\r\n\\é.png");
        assert_eq!(odd, "inline; filename=\"a_b____.png\"; filename*=UTF-8''a%22b%0D%0A%5C%C3%A9.png");
    }
}
