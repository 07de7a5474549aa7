//! A content as an HTTP answer: type, caching, ranges, conditions (RFC 9110 §8.8, §13, §14). Pure: the bytes are read by whoever writes the answer.

use super::{OCTET_STREAM, is_inline};
use crate::deliver::answer::{Answer, AnswerBody};
use crate::record::ledger::FileRow;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// How long a browser may keep a signed address's content without asking: it never changes, but access to it may end.
const CACHING: &str = "private, max-age=3600, immutable";
/// A shown name is another content for whoever logs in next at the same browser, and that of a temporary or uploaded file for its owner later: ask again, by the ETag.
const ASKING: &str = "private, no-cache";
/// Nothing in a file may run, load or be framed with our origin's rights.
const SANDBOX: &str = "sandbox; default-src 'none'";

/// How a content was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedBy {
    /// By an address of its own.
    Signature,
    /// By its name among its owner's files.
    Name,
}

/// The answer for a stored file of `row.bytes` bytes at `path`.
pub fn answer(row: &FileRow, by: AskedBy, path: PathBuf, method: &Method, headers: &HeaderMap) -> Answer {
    let etag = format!("\"{}\"", row.content);
    let modified = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(row.created_at.seconds()));
    let mut answer = Answer::empty(StatusCode::OK);
    let mut set = |name: HeaderName, value: &str| {
        // All of them are ASCII that we made; what is not would be left out rather than sent half.
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers.insert(name, value);
        }
    };
    set(CACHE_CONTROL, if by == AskedBy::Signature { CACHING } else { ASKING });
    set(ETAG, &etag);
    set(LAST_MODIFIED, &modified);
    set(ACCEPT_RANGES, "bytes");
    set(CONTENT_SECURITY_POLICY, SANDBOX);
    if is_unchanged(headers, &etag, &modified) {
        answer.status = StatusCode::NOT_MODIFIED;
        return answer;
    }
    let inline = is_inline(&row.content_type);
    set(CONTENT_TYPE, if inline { &row.content_type } else { OCTET_STREAM });
    set(CONTENT_DISPOSITION, &disposition(if inline { "inline" } else { "attachment" }, &row.filename));
    let whole = AnswerBody::File { path: path.clone(), start: 0, length: row.bytes };
    // §14.2: ranges are defined for GET only.
    let wanted =
        if *method == Method::GET { wanted_range(headers, row.bytes, &etag, &modified) } else { Wanted::Whole };
    match wanted {
        Wanted::Whole => answer.body = whole,
        Wanted::Part { start, length } => {
            let last = start + length - 1;
            set(CONTENT_RANGE, &format!("bytes {start}-{last}/{}", row.bytes));
            answer.status = StatusCode::PARTIAL_CONTENT;
            answer.body = AnswerBody::File { path, start, length };
        }
        Wanted::Unsatisfiable => {
            set(CONTENT_RANGE, &format!("bytes */{}", row.bytes));
            answer.status = StatusCode::RANGE_NOT_SATISFIABLE;
            answer.headers.remove(CONTENT_DISPOSITION);
            answer.headers.remove(CONTENT_TYPE);
        }
    }
    answer
}

/// 304 for who has this form already.
pub fn unchanged(headers: &HeaderMap, etag: &str) -> Option<Answer> {
    if !has(headers, etag) {
        return None;
    }
    let mut answer = Answer::empty(StatusCode::NOT_MODIFIED);
    mark(&mut answer, etag);
    Some(answer)
}

/// The answer for another form of a stored picture, made for this request: it may be kept by the owner's browser, and is asked for again by its ETag.
pub fn computed(row: &FileRow, content_type: &'static str, etag: &str, body: AnswerBody) -> Answer {
    let mut answer = Answer::empty(StatusCode::OK);
    mark(&mut answer, etag);
    answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(value) = HeaderValue::from_str(&disposition("inline", &row.filename)) {
        answer.headers.insert(CONTENT_DISPOSITION, value);
    }
    answer.body = body;
    answer
}

/// Whether the caller says that it has the content with this ETag.
pub fn has(headers: &HeaderMap, etag: &str) -> bool {
    headers.contains_key(IF_NONE_MATCH) && is_unchanged(headers, etag, "")
}

fn mark(answer: &mut Answer, etag: &str) {
    answer.headers.insert(CACHE_CONTROL, HeaderValue::from_static(ASKING));
    answer.headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(SANDBOX));
    if let Ok(value) = HeaderValue::from_str(etag) {
        answer.headers.insert(ETAG, value);
    }
}

/// RFC 9110 §13.1.2 and §13.1.3: `If-None-Match` decides if it is there, by weak comparison; else `If-Modified-Since`.
fn is_unchanged(headers: &HeaderMap, etag: &str, modified: &str) -> bool {
    let mut tags = headers.get_all(IF_NONE_MATCH).iter().peekable();
    if tags.peek().is_some() {
        let texts = tags.filter_map(|value| value.to_str().ok());
        return texts
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag);
    }
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
    since.is_some_and(|since| httpdate::parse_http_date(modified).is_ok_and(|modified| modified <= since))
}

#[derive(Debug, PartialEq)]
enum Wanted {
    Whole,
    Part { start: u64, length: u64 },
    Unsatisfiable,
}

/// One range (RFC 9110 §14.2); several, or an odd one, are answered with the whole, as the RFC allows.
fn wanted_range(headers: &HeaderMap, bytes: u64, etag: &str, modified: &str) -> Wanted {
    let Some(range) = headers.get(RANGE).and_then(|value| value.to_str().ok()) else { return Wanted::Whole };
    // §13.1.5: a range of another content than the client has is no use to it. A weak tag never matches.
    let same = headers.get(IF_RANGE).is_none_or(|condition| condition == etag || condition == modified);
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).filter(|_| same)
    else {
        return Wanted::Whole;
    };
    let number = |text: &str| if text.bytes().all(|b| b.is_ascii_digit()) { text.parse::<u64>().ok() } else { None };
    let (start, end) = match (first, last) {
        ("", suffix) => match number(suffix) {
            Some(0) => return Wanted::Unsatisfiable,
            Some(length) => (bytes.saturating_sub(length), bytes),
            None => return Wanted::Whole,
        },
        (first, "") => match number(first) {
            Some(first) => (first, bytes),
            None => return Wanted::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(bytes)),
            _ => return Wanted::Whole,
        },
    };
    if start >= bytes { Wanted::Unsatisfiable } else { Wanted::Part { start, length: end - start } }
}

/// RFC 6266: an ASCII name for old readers, the true one in RFC 8187's coding.
fn disposition(kind: &str, filename: &str) -> String {
    let ascii: String = filename
        .chars()
        .map(|c| if c.is_ascii_graphic() && !"\"\\%;".contains(c) || c == ' ' { c } else { '_' })
        .collect();
    let coded = filename.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    });
    format!("{kind}; filename=\"{ascii}\"; filename*=UTF-8''{coded}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::ids::FileId;
    use crate::owner::Owner;
    use crate::record::ledger::Directory;
    use comfygate_policy::Digest;

    fn row(filename: &str) -> FileRow {
        FileRow {
            id: FileId::new(),
            owner: Owner { tenant: "a".parse().unwrap(), user: None, key: None, shared: false },
            job: None,
            content: Digest::of(b"x"),
            bytes: 100,
            directory: Directory::Output,
            subfolder: String::new(),
            filename: filename.into(),
            content_type: super::super::content_type(filename).into(),
            facts: None,
            created_at: WallMillis(1_795_231_291_814),
            used_at: None,
        }
    }

    fn with(headers: &[(HeaderName, &str)]) -> Answer {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        answer(&row("a.png"), AskedBy::Signature, PathBuf::from("blob"), &Method::GET, &headers)
    }

    fn part(answer: &Answer) -> (u64, u64) {
        match answer.body {
            AnswerBody::File { start, length, .. } => (start, length),
            AnswerBody::Bytes(_) | AnswerBody::Spooled { .. } => panic!("no file"),
        }
    }

    #[test]
    fn an_image_is_shown_and_anything_else_downloaded() {
        let image = with(&[]);
        assert_eq!(image.headers[CONTENT_TYPE], "image/png");
        assert!(image.headers[CONTENT_DISPOSITION].to_str().unwrap().starts_with("inline"));
        assert_eq!(image.headers[CONTENT_SECURITY_POLICY], SANDBOX);
        assert_eq!(image.headers["x-content-type-options"], "nosniff");
        assert!(image.headers[CACHE_CONTROL].to_str().unwrap().starts_with("private"));
        let svg = answer(&row("a.svg"), AskedBy::Name, PathBuf::new(), &Method::GET, &HeaderMap::new());
        assert_eq!(svg.headers[CONTENT_TYPE], OCTET_STREAM);
        assert!(svg.headers[CONTENT_DISPOSITION].to_str().unwrap().starts_with("attachment"));
    }

    #[test]
    fn another_form_is_told_by_its_own_etag() {
        let with = |value: &'static str| HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(value))]);
        assert_eq!(
            unchanged(&with("\"a-channel-rgb\""), "\"a-channel-rgb\"").unwrap().status,
            StatusCode::NOT_MODIFIED
        );
        assert!(unchanged(&with("\"a\""), "\"a-channel-rgb\"").is_none());
        assert!(unchanged(&HeaderMap::new(), "\"a\"").is_none());
        let made = computed(&row("a.png"), "image/webp", "\"e\"", AnswerBody::Bytes(bytes::Bytes::new()));
        assert_eq!(
            (&made.headers[CONTENT_TYPE], &made.headers[ETAG]),
            (&"image/webp".parse().unwrap(), &"\"e\"".parse().unwrap())
        );
        assert_eq!(
            (&made.headers[CACHE_CONTROL], &made.headers[CONTENT_SECURITY_POLICY]),
            (&ASKING.parse().unwrap(), &SANDBOX.parse().unwrap())
        );
    }

    #[test]
    fn a_name_that_may_be_taken_over_is_asked_for_again() {
        let kept = |by| {
            answer(&row("a.png"), by, PathBuf::new(), &Method::GET, &HeaderMap::new()).headers[CACHE_CONTROL].clone()
        };
        assert_eq!(kept(AskedBy::Name), ASKING, "who logs in next at this browser has a file of that name too");
        assert_eq!(kept(AskedBy::Signature), CACHING);
    }

    #[test]
    fn ranges_are_cut_at_the_end_and_refused_beyond_it() {
        for (range, start, length) in [
            ("bytes=0-0", 0, 1),
            ("bytes=10-19", 10, 10),
            ("bytes=99-", 99, 1),
            ("bytes=90-200", 90, 10),
            ("bytes=-30", 70, 30),
            ("bytes=-300", 0, 100),
        ] {
            let answer = with(&[(RANGE, range)]);
            assert_eq!((answer.status, part(&answer)), (StatusCode::PARTIAL_CONTENT, (start, length)), "{range}");
            assert_eq!(answer.headers[CONTENT_RANGE], format!("bytes {start}-{}/100", start + length - 1));
        }
        for range in ["bytes=100-", "bytes=100-101", "bytes=-0"] {
            let answer = with(&[(RANGE, range)]);
            assert_eq!((answer.status, answer.body.len()), (StatusCode::RANGE_NOT_SATISFIABLE, 0), "{range}");
            assert_eq!(answer.headers[CONTENT_RANGE], "bytes */100");
        }
        for range in ["bytes=0-1,5-6", "bytes=5-1", "bytes=+1-2", "bytes=a-", "items=0-1", "bytes=-"] {
            let answer = with(&[(RANGE, range)]);
            assert_eq!((answer.status, part(&answer)), (StatusCode::OK, (0, 100)), "{range}");
        }
    }

    #[test]
    fn a_range_of_another_content_is_answered_with_the_whole() {
        let etag = format!("\"{}\"", Digest::of(b"x"));
        assert_eq!(with(&[(RANGE, "bytes=0-0"), (IF_RANGE, &etag)]).status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(with(&[(RANGE, "bytes=0-0"), (IF_RANGE, "\"other\"")]).status, StatusCode::OK);
        assert_eq!(with(&[(RANGE, "bytes=0-0"), (IF_RANGE, &format!("W/{etag}"))]).status, StatusCode::OK);
    }

    #[test]
    fn who_has_it_already_gets_304_without_a_body() {
        let etag = format!("\"{}\"", Digest::of(b"x"));
        for known in [etag.clone(), format!("\"a\", W/{etag}"), "*".to_owned()] {
            let answer = with(&[(IF_NONE_MATCH, &known)]);
            assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
        }
        assert_eq!(with(&[(IF_NONE_MATCH, "\"other\"")]).status, StatusCode::OK);
        let modified = with(&[]).headers[LAST_MODIFIED].to_str().unwrap().to_owned();
        assert_eq!(with(&[(IF_MODIFIED_SINCE, &modified)]).status, StatusCode::NOT_MODIFIED);
        assert_eq!(with(&[(IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:00 GMT")]).status, StatusCode::OK);
        assert_eq!(with(&[(IF_MODIFIED_SINCE, &modified), (IF_NONE_MATCH, "\"other\"")]).status, StatusCode::OK);
    }

    #[test]
    fn a_name_can_not_leave_its_header() {
        let text = disposition("inline", "a\"; x=\"\r\né.png");
        assert_eq!(text, "inline; filename=\"a__ x=____.png\"; filename*=UTF-8''a%22%3B%20x%3D%22%0D%0A%C3%A9.png");
    }
}
