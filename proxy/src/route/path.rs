//! The path of a target: split, decoded once, and refused when odd.

use std::fmt::Write as _;

/// Longest path in bytes as written: ComfyUI's longest is a userdata file name, under 1 KiB.
pub const PATH_BYTES_MAX: usize = 2 * 1024;
/// Longest query in bytes as written: `/view` and `/userdata` hold two or three file names.
pub const QUERY_BYTES_MAX: usize = 4 * 1024;

/// How a target is odd. Every one is refused and none repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Odd {
    /// Not origin-form: `/path?query`.
    #[error("the target does not begin with `/`: send a path")]
    NoLeadingSlash,
    /// More than [`PATH_BYTES_MAX`].
    #[error("the path is longer than 2048 bytes: shorten it")]
    PathTooLong,
    /// More than [`QUERY_BYTES_MAX`].
    #[error("the query is longer than 4096 bytes: shorten it")]
    QueryTooLong,
    /// `//`.
    #[error("the path has an empty segment: write one `/` between names")]
    EmptySegment,
    /// `.` or `..`, plain or within a decoded file name.
    #[error("the path has a dot segment: write the path that is meant")]
    DotSegment,
    /// A character that RFC 3986 §3.3 does not allow in a path, such as a backslash or `#`; and `;`, which some servers split at.
    #[error("the path has a character that must not stand there: write it as a percent escape")]
    Character,
    /// `%` without two hexadecimal digits.
    #[error("the target has an invalid percent escape: write `%` and two hexadecimal digits")]
    Escape,
    /// A letter, digit, `-`, `.`, `_` or `~` written as an escape: `/%70rompt` is `/prompt` for ComfyUI (bypass 16).
    #[error("the path has an encoded character that needs no encoding: write it as it is")]
    EncodedUnreserved,
    /// `%2F` where the route has no file name.
    #[error("the path has an encoded slash where no file name stands: write `/`")]
    EncodedSlash,
    /// `%25`: ComfyUI decodes userdata names a second time when a `%` remains (bypass 19).
    #[error("the path has an encoded percent sign: encode the path once only")]
    EncodedPercent,
    /// An encoded NUL, control character, backslash or `;`.
    #[error("the target has an encoded control character, backslash or semicolon: leave it out")]
    EncodedControl,
    /// Escapes that do not make UTF-8.
    #[error("the target is not UTF-8 once decoded: encode it in UTF-8")]
    NotUtf8,
}

/// One piece between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Decoded once.
    text: String,
    /// Whether a slash in `text` was written `%2F`. Only a parameter that expects file names takes such a segment.
    holds_slash: bool,
}

impl Segment {
    /// The segment, decoded.
    pub fn text(&self) -> &str {
        &self.text
    }
    /// Whether the text holds a slash that was written `%2F`.
    pub fn holds_slash(&self) -> bool {
        self.holds_slash
    }
}

/// A path without oddities, its optional `/api` taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePath {
    segments: Vec<Segment>,
    under_api: bool,
    query: String,
}

impl RoutePath {
    /// The segments after the optional `/api`; none for `/`. A trailing slash leaves an empty last segment, which no entry matches.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
    /// Whether one `/api` was taken off.
    pub fn under_api(&self) -> bool {
        self.under_api
    }
    /// The query as written, without `?`.
    pub fn raw_query(&self) -> &str {
        &self.query
    }
    /// The path as a backend is to see it: built from the decoded segments, never the caller's own spelling.
    pub fn encoded(&self) -> String {
        let mut path = String::new();
        for segment in &self.segments {
            path.push('/');
            encode_segment(&segment.text, &mut path);
        }
        if path.is_empty() {
            path.push('/');
        }
        path
    }
}

/// Where a target lies, seen from the path of `public_url`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below<'t> {
    /// At or below it: the target without it, beginning with `/`.
    Inside(&'t str),
    /// The path itself without its slash: relative links of a page there would lead elsewhere.
    SlashMissing,
    /// Not below it.
    Outside,
}

/// Takes the path of `public_url` (empty, or `/comfy`) off a raw target. Compared letter by letter before anything is decoded: `/%63omfy` is another path, and `/comfyui` lies
/// outside of `/comfy`.
pub fn below<'t>(raw_target: &'t str, prefix: &str) -> Below<'t> {
    match raw_target.strip_prefix(prefix) {
        Some(rest) if prefix.is_empty() || rest.starts_with('/') => Below::Inside(rest),
        Some(rest) if rest.is_empty() || rest.starts_with('?') => Below::SlashMissing,
        _ => Below::Outside,
    }
}

/// Splits a raw target into path and query, takes one optional `/api` off, decodes each segment once.
///
/// `/api/history/a` and `/history/a` give the same segments. ComfyUI registers every route twice (server.py `add_routes`, 0.8.0).
///
/// # Errors
/// [`Odd`] names the first oddity from the left.
pub fn normalise(raw_target: &str) -> Result<RoutePath, Odd> {
    let (path, query) = raw_target.split_once('?').unwrap_or((raw_target, ""));
    if path.len() > PATH_BYTES_MAX {
        return Err(Odd::PathTooLong);
    }
    if query.len() > QUERY_BYTES_MAX {
        return Err(Odd::QueryTooLong);
    }
    let rest = path.strip_prefix('/').ok_or(Odd::NoLeadingSlash)?;
    let mut segments = Vec::new();
    let mut pieces = rest.split('/').peekable();
    while let Some(piece) = pieces.next() {
        // An empty last piece is a trailing slash; anywhere else it is `//`.
        if piece.is_empty() && pieces.peek().is_some() {
            return Err(Odd::EmptySegment);
        }
        segments.push(segment(piece)?);
    }
    let under_api = segments.len() > 1 && segments.first().is_some_and(|first| first.text == "api");
    if under_api {
        segments.remove(0);
    }
    if segments.len() == 1 && segments.first().is_some_and(|only| only.text.is_empty()) {
        segments.clear();
    }
    Ok(RoutePath { segments, under_api, query: query.to_owned() })
}

fn segment(piece: &str) -> Result<Segment, Odd> {
    if piece == "." || piece == ".." {
        return Err(Odd::DotSegment);
    }
    let mut bytes = Vec::with_capacity(piece.len());
    let mut holds_slash = false;
    let mut rest = piece.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            plain_byte(byte)?;
            bytes.push(byte);
            continue;
        }
        let decoded = escape(rest.next(), rest.next()).ok_or(Odd::Escape)?;
        encoded_byte(decoded)?;
        holds_slash |= decoded == b'/';
        bytes.push(decoded);
    }
    let text = String::from_utf8(bytes).map_err(|_| Odd::NotUtf8)?;
    if holds_slash {
        file_name_pieces(&text)?;
    }
    if text.chars().any(char::is_control) {
        // C1 control characters come as two escapes, so they are seen only here.
        return Err(Odd::EncodedControl);
    }
    Ok(Segment { text, holds_slash })
}

/// A decoded file name is checked piece by piece, as the path around it was.
fn file_name_pieces(text: &str) -> Result<(), Odd> {
    for piece in text.split('/') {
        match piece {
            "" => return Err(Odd::EmptySegment),
            "." | ".." => return Err(Odd::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

/// What may stand unescaped: RFC 3986 `pchar` without `;`, and `|`, which browsers do not escape in paths and node classes contain.
fn plain_byte(byte: u8) -> Result<(), Odd> {
    if is_unreserved(byte) || b"!$&'()*+,=:@|".contains(&byte) { Ok(()) } else { Err(Odd::Character) }
}

/// What may stand escaped: everything that needs it, but for separators and controls.
fn encoded_byte(byte: u8) -> Result<(), Odd> {
    match byte {
        b if is_unreserved(b) => Err(Odd::EncodedUnreserved),
        b'%' => Err(Odd::EncodedPercent),
        b'\\' | b';' => Err(Odd::EncodedControl),
        b if b.is_ascii_control() => Err(Odd::EncodedControl),
        _ => Ok(()),
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The byte that two hexadecimal digits stand for.
pub(super) fn escape(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn encode_segment(text: &str, path: &mut String) {
    for byte in text.bytes() {
        if is_unreserved(byte) || b"!$&'()*+,=:@".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(target: &str) -> Result<Vec<String>, Odd> {
        Ok(normalise(target)?.segments().iter().map(|segment| segment.text().to_owned()).collect())
    }

    #[test]
    fn one_api_prefix_is_taken_off_and_a_second_stays() {
        assert_eq!(texts("/prompt"), Ok(vec!["prompt".into()]));
        assert_eq!(texts("/api/prompt"), Ok(vec!["prompt".into()]));
        assert_eq!(texts("/api/api/jobs"), Ok(vec!["api".into(), "jobs".into()]));
        assert!(normalise("/api/prompt").unwrap().under_api());
        assert!(!normalise("/prompt").unwrap().under_api());
    }

    #[test]
    fn a_target_below_the_public_path_loses_it_and_others_are_outside() {
        assert_eq!(below("/comfy/prompt?a=b", "/comfy"), Below::Inside("/prompt?a=b"));
        assert_eq!(below("/comfy/", "/comfy"), Below::Inside("/"));
        assert_eq!(below("/a/b/x", "/a/b"), Below::Inside("/x"));
        assert_eq!(below("/comfy", "/comfy"), Below::SlashMissing);
        assert_eq!(below("/comfy?x=1", "/comfy"), Below::SlashMissing);
        for outside in
            ["/", "/prompt", "/comfyui/prompt", "/Comfy/prompt", "/%63omfy/prompt", "//comfy/prompt", "/x/comfy/"]
        {
            assert_eq!(below(outside, "/comfy"), Below::Outside, "{outside}");
        }
        // What follows is looked at as strictly as without a path.
        assert_eq!(below("/comfy//prompt", "/comfy"), Below::Inside("//prompt"));
        assert_eq!(below("/comfy/../prompt", "/comfy"), Below::Inside("/../prompt"));
    }

    #[test]
    fn without_a_public_path_a_target_stays_as_it_is() {
        for target in ["/", "/prompt", "//", "", "*"] {
            assert_eq!(below(target, ""), Below::Inside(target));
        }
    }

    #[test]
    fn root_has_no_segments_and_api_alone_is_a_segment() {
        assert_eq!(texts("/"), Ok(vec![]));
        assert_eq!(texts("/api/"), Ok(vec![]));
        assert_eq!(texts("/api"), Ok(vec!["api".into()]));
    }

    #[test]
    fn trailing_slash_stays_visible_as_an_empty_segment() {
        assert_eq!(texts("/prompt/"), Ok(vec!["prompt".into(), String::new()]));
    }

    #[test]
    fn path_of_2048_bytes_is_accepted_and_2049_refused() {
        assert!(normalise(&format!("/{}", "a".repeat(PATH_BYTES_MAX - 1))).is_ok());
        assert_eq!(normalise(&format!("/{}", "a".repeat(PATH_BYTES_MAX))), Err(Odd::PathTooLong));
    }

    #[test]
    fn query_of_4096_bytes_is_accepted_and_4097_refused() {
        assert!(normalise(&format!("/?{}", "a".repeat(QUERY_BYTES_MAX))).is_ok());
        assert_eq!(normalise(&format!("/?{}", "a".repeat(QUERY_BYTES_MAX + 1))), Err(Odd::QueryTooLong));
    }

    #[test]
    fn empty_segments_are_refused_anywhere() {
        for target in ["//prompt", "/api//prompt", "/a//b", "//"] {
            assert_eq!(normalise(target), Err(Odd::EmptySegment), "{target}");
        }
    }

    #[test]
    fn dot_segments_are_refused_and_dots_within_names_are_not() {
        for target in ["/./prompt", "/x/../prompt", "/..", "/x/."] {
            assert_eq!(normalise(target), Err(Odd::DotSegment), "{target}");
        }
        for target in ["/a.b", "/...", "/.well-known", "/a..b"] {
            assert!(normalise(target).is_ok(), "{target}");
        }
        assert_eq!(normalise("/%2e%2e/prompt"), Err(Odd::EncodedUnreserved));
    }

    #[test]
    fn encoded_letters_are_refused_and_encoded_spaces_are_not() {
        assert_eq!(normalise("/%70rompt"), Err(Odd::EncodedUnreserved));
        assert_eq!(normalise("/a%7Eb"), Err(Odd::EncodedUnreserved));
        assert_eq!(texts("/a%20b"), Ok(vec!["a b".into()]));
        assert_eq!(texts("/%E2%9C%93"), Ok(vec!["✓".into()]));
    }

    #[test]
    fn encoded_slash_marks_its_segment_and_is_checked_piece_by_piece() {
        let path = normalise("/userdata/workflows%2Fx.json").unwrap();
        assert_eq!(path.segments()[1].text(), "workflows/x.json");
        assert!(path.segments()[1].holds_slash() && !path.segments()[0].holds_slash());
        assert_eq!(normalise("/userdata/a%2F%2Fb"), Err(Odd::EmptySegment));
        assert_eq!(normalise("/userdata/a%2F..%2Fb"), Err(Odd::DotSegment));
        assert_eq!(normalise("/userdata/%2Fabs"), Err(Odd::EmptySegment));
    }

    #[test]
    fn encoded_percent_backslash_semicolon_and_controls_are_refused() {
        assert_eq!(normalise("/a%252Fb"), Err(Odd::EncodedPercent));
        for target in ["/a%5cb", "/a%5Cb", "/prompt%00", "/a%0ab", "/a%7F", "/a%3Bb", "/a%C2%85"] {
            assert_eq!(normalise(target), Err(Odd::EncodedControl), "{target}");
        }
    }

    #[test]
    fn characters_that_no_path_has_are_refused_and_a_bar_is_not() {
        for target in ["/a\\b", "/a;b", "/a#b", "/a b", "/a\0", "/a\"b", "/a<b", "/é"] {
            assert_eq!(normalise(target), Err(Odd::Character), "{target}");
        }
        assert_eq!(texts("/object_info/ShowText|pysssss"), Ok(vec!["object_info".into(), "ShowText|pysssss".into()]));
    }

    #[test]
    fn broken_escapes_and_bad_utf8_are_refused() {
        for target in ["/%", "/%4", "/%zz", "/%+1", "/a%2"] {
            assert_eq!(normalise(target), Err(Odd::Escape), "{target}");
        }
        assert_eq!(normalise("/%FF"), Err(Odd::NotUtf8));
        assert_eq!(normalise("/%C0%AF"), Err(Odd::NotUtf8));
    }

    #[test]
    fn a_target_without_leading_slash_is_refused() {
        for target in ["", "*", "http://x/prompt", "prompt"] {
            assert_eq!(normalise(target), Err(Odd::NoLeadingSlash), "{target}");
        }
    }

    #[test]
    fn the_rebuilt_path_is_a_fixed_point() {
        for target in ["/", "/a%20b/c", "/assets/index-B2r.js", "/object_info/A|b", "/x/%E2%9C%93%22"] {
            let once = normalise(target).unwrap();
            let twice = normalise(&once.encoded()).unwrap();
            assert_eq!(once.segments(), twice.segments());
            assert_eq!(once.encoded(), twice.encoded());
        }
        assert_eq!(normalise("/api/a|b").unwrap().encoded(), "/a%7Cb");
    }
}
