//! What a request head must look like. Pure: bytes in, a verdict out.
//!
//! Strict where RFC 9112 lets a recipient choose: whatever two readers may read differently is refused. The rows are those of
//! the list of what Pingora 0.9.1 lets pass: `content-length` beside `transfer-encoding`, equal lengths twice, `3, 3`, `gzip, chunked`, bare LF,
//! no Host, absolute-form targets, any method.

use pingora::http::RequestHeader;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Largest head in bytes, from the request line to the empty line: four times what aiohttp takes for one header.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most header fields: browsers send under 30.
pub const HEADERS_MAX: usize = 128;
/// The methods that some route has.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
/// Fields that decide something and of which two readers may take different ones.
const SINGLE_FIELDS: [&str; 9] = [
    "authorization",
    "comfy-user",
    "content-encoding",
    "content-type",
    "idempotency-key",
    "origin",
    "sec-websocket-key",
    "sec-websocket-version",
    "x-api-key",
];
/// Fields of HTTP/1 connections, which no HTTP/2 request carries (RFC 9113 §8.2.2).
const CONNECTION_FIELDS: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeadError {
    /// Not complete within the deadline.
    #[error("the request head took too long: send it at once")]
    Timeout,
    /// More than [`HEAD_BYTES_MAX`].
    #[error("the request head is larger than 32 KiB: send fewer or shorter headers")]
    TooLarge,
    /// More than [`HEADERS_MAX`].
    #[error("the request has more than 128 header fields: send fewer")]
    TooManyHeaders,
    /// CR without LF or LF without CR (RFC 9112 §2.2).
    #[error("a line of the request head does not end in CR LF: end each so")]
    LineEnd,
    /// A NUL byte.
    #[error("the request head has a NUL byte: leave it out")]
    Nul,
    /// Not `METHOD SP target SP HTTP/1.x` (RFC 9112 §3).
    #[error("the request line is malformed: send `METHOD /path HTTP/1.1`")]
    RequestLine,
    /// None of [`METHODS`]; they are case-sensitive.
    #[error("the method is not supported: use one of those in `Allow`")]
    Method,
    /// Not origin-form (RFC 9112 §3.2.1), or with bytes outside visible ASCII, or a fragment.
    #[error("the request target must be a path of visible ASCII characters")]
    Target,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("the HTTP version is not supported: use HTTP/1.1 or HTTP/2")]
    Version,
    /// Not a token, or white space before the colon (RFC 9112 §5.1).
    #[error("a header name is malformed: letters, digits and `!#$%&'*+-.^_`|~` make one")]
    HeaderName,
    /// A control character other than tab.
    #[error("a header value has a control character: leave it out")]
    HeaderValue,
    /// A line that continues the one before (RFC 9112 §5.2).
    #[error("a header is folded over several lines: write it in one")]
    HeaderFolded,
    /// A field that decides something, twice.
    #[error("a header field that may stand once stands more than once: send it once")]
    HeaderRepeated,
    /// HTTP/1.1 without Host, or HTTP/2 without authority.
    #[error("the Host header is missing: send one")]
    HostMissing,
    /// Two Hosts, or not `name[:port]` or `address[:port]`.
    #[error("the Host header is malformed or stands more than once: send it once, as `host` or `host:port`")]
    HostMalformed,
    /// HTTP/2 with a Host that is not its authority.
    #[error("Host and authority differ: send the same in both, or no Host")]
    HostDiffers,
    /// Several `content-length`, even equal ones, or a list.
    #[error("content-length stands more than once: send it once")]
    LengthRepeated,
    /// Not 1 to 18 digits.
    #[error("content-length is not a number: send digits only")]
    LengthMalformed,
    /// Both framings: the classic of request smuggling (RFC 9112 §6.1).
    #[error("content-length and transfer-encoding stand together: send one of them")]
    LengthAndEncoding,
    /// `transfer-encoding` that is not exactly `chunked`, stands twice, or stands in HTTP/1.0.
    #[error("transfer-encoding must be `chunked`, once, in HTTP/1.1")]
    Encoding,
    /// `upgrade` other than `websocket`, or in HTTP/1.0.
    #[error("only an upgrade to websocket is supported: leave other upgrades out")]
    Upgrade,
    /// `expect` other than `100-continue`.
    #[error("only the expectation 100-continue is supported: leave others out")]
    Expectation,
    /// HTTP/2 with a header field of HTTP/1 connections, or `te` other than `trailers`.
    #[error("a header field of HTTP/1 connections stands in an HTTP/2 request: leave it out")]
    ConnectionSpecific,
}

impl HeadError {
    /// The stable code, for programs, audit and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Timeout => "head_timeout",
            Self::TooLarge => "head_too_large",
            Self::TooManyHeaders => "head_too_many_headers",
            Self::LineEnd => "head_line_end",
            Self::Nul => "head_nul",
            Self::RequestLine => "head_request_line",
            Self::Method => "head_method",
            Self::Target => "head_target",
            Self::Version => "head_version",
            Self::HeaderName => "head_header_name",
            Self::HeaderValue => "head_header_value",
            Self::HeaderFolded => "head_header_folded",
            Self::HeaderRepeated => "head_header_repeated",
            Self::HostMissing => "head_host_missing",
            Self::HostMalformed => "head_host_malformed",
            Self::HostDiffers => "head_host_differs",
            Self::LengthRepeated => "head_length_repeated",
            Self::LengthMalformed => "head_length_malformed",
            Self::LengthAndEncoding => "head_length_and_encoding",
            Self::Encoding => "head_transfer_encoding",
            Self::Upgrade => "head_upgrade",
            Self::Expectation => "head_expectation",
            Self::ConnectionSpecific => "head_connection_specific",
        }
    }
}

/// Finds the end of a head while it arrives: call with all bytes so far after each read.
#[derive(Debug, Default)]
pub struct HeadEnd {
    seen: usize,
    line_start: usize,
}

impl HeadEnd {
    /// The length of the head with its empty line, once it is complete.
    ///
    /// # Errors
    /// [`HeadError::LineEnd`] and [`HeadError::Nul`] as soon as the byte is there: a head of bare LFs would else wait for its deadline;
    /// [`HeadError::TooLarge`] once `bytes_max` are exceeded without an end.
    pub fn found(&mut self, bytes: &[u8], bytes_max: usize) -> Result<Option<usize>, HeadError> {
        while let Some(&byte) = bytes.get(self.seen) {
            if self.seen >= bytes_max {
                return Err(HeadError::TooLarge);
            }
            let before = self.seen.checked_sub(1).and_then(|at| bytes.get(at)).copied();
            match byte {
                0 => return Err(HeadError::Nul),
                b'\n' if before != Some(b'\r') => return Err(HeadError::LineEnd),
                b'\n' => {
                    // An empty line is CR LF right at its start.
                    let empty = self.seen == self.line_start + 1;
                    self.seen += 1;
                    self.line_start = self.seen;
                    if empty {
                        return Ok(Some(self.seen));
                    }
                    continue;
                }
                _ if before == Some(b'\r') => return Err(HeadError::LineEnd),
                _ => {}
            }
            self.seen += 1;
        }
        Ok(None)
    }
}

/// A head that may pass. Only [`scan`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head<'a> {
    /// One of [`METHODS`].
    pub method: &'a str,
    /// `/path?query`, visible ASCII.
    pub target: &'a str,
    /// The Host as written, `name[:port]`; absent only in HTTP/1.0.
    pub host: Option<&'a str>,
}

/// Checks a whole HTTP/1 head, from the request line to its empty line.
///
/// # Errors
/// [`HeadError`], the first fault from the top; faults of framing come last, when all fields have been seen.
pub fn scan(head: &[u8]) -> Result<Head<'_>, HeadError> {
    if head.contains(&0) {
        return Err(HeadError::Nul);
    }
    let body = head.strip_suffix(b"\r\n\r\n").ok_or(HeadError::LineEnd)?;
    let mut lines = Lines(Some(body));
    let (method, target, minor) = request_line(lines.next().ok_or(HeadError::RequestLine)??)?;
    let mut fields = Fields::default();
    for line in lines {
        fields.add(line?)?;
    }
    let host = fields.checked(minor)?;
    Ok(Head { method, target, host })
}

/// Splits at CR LF; any other CR or LF is an error.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], HeadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.take()?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n");
        let line = match end {
            Some(end) => {
                self.0 = rest.get(end + 2..);
                rest.get(..end)?
            }
            None => rest,
        };
        let clean = !line.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
        Some(if clean { Ok(line) } else { Err(HeadError::LineEnd) })
    }
}

fn request_line(line: &[u8]) -> Result<(&str, &str, u8), HeadError> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(HeadError::RequestLine);
    };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || target.is_empty() {
        return Err(HeadError::RequestLine);
    }
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        other if other.starts_with(b"HTTP/") && !other.contains(&b' ') => return Err(HeadError::Version),
        _ => return Err(HeadError::RequestLine),
    };
    let method = METHODS.into_iter().find(|known| known.as_bytes() == method).ok_or(HeadError::Method)?;
    Ok((method, checked_target(target)?, minor))
}

/// Origin-form only: `http://x/prompt`, `host:port` and `*` are refused, and so is a fragment, which no client may send.
fn checked_target(target: &[u8]) -> Result<&str, HeadError> {
    let visible = target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    if !visible || !target.starts_with(b"/") {
        return Err(HeadError::Target);
    }
    std::str::from_utf8(target).map_err(|_| HeadError::Target)
}

/// The header fields, as far as they matter here.
#[derive(Default)]
struct Fields<'a> {
    count: usize,
    hosts: Vec<&'a [u8]>,
    lengths: Vec<&'a [u8]>,
    encodings: Vec<&'a [u8]>,
    upgrades: Vec<&'a [u8]>,
    single: u16,
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: &'a [u8]) -> Result<(), HeadError> {
        self.count += 1;
        if self.count > HEADERS_MAX {
            return Err(HeadError::TooManyHeaders);
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(HeadError::HeaderFolded);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(HeadError::HeaderName)?;
        let (name, value) = line.split_at_checked(colon).ok_or(HeadError::HeaderName)?;
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(HeadError::HeaderName);
        }
        let value = value.get(1..).unwrap_or_default();
        if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(HeadError::HeaderValue);
        }
        self.sort(name, value.trim_ascii())
    }

    fn sort(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), HeadError> {
        match name.to_ascii_lowercase().as_slice() {
            b"host" => self.hosts.push(value),
            b"content-length" => self.lengths.push(value),
            b"transfer-encoding" => self.encodings.push(value),
            b"upgrade" => self.upgrades.push(value),
            b"expect" => expectation(value)?,
            other => {
                if let Some(at) = SINGLE_FIELDS.iter().position(|field| field.as_bytes() == other) {
                    if self.single & (1 << at) != 0 {
                        return Err(HeadError::HeaderRepeated);
                    }
                    self.single |= 1 << at;
                }
            }
        }
        Ok(())
    }

    /// What can only be said when all fields are known. Gives the Host.
    fn checked(&self, minor: u8) -> Result<Option<&'a str>, HeadError> {
        framing(&self.lengths, &self.encodings, minor)?;
        match self.upgrades.as_slice() {
            [] => {}
            [value] if minor == 1 && value.eq_ignore_ascii_case(b"websocket") => {}
            _ => return Err(HeadError::Upgrade),
        }
        match self.hosts.as_slice() {
            [] if minor == 0 => Ok(None),
            [] => Err(HeadError::HostMissing),
            [host] => {
                let host = std::str::from_utf8(host).map_err(|_| HeadError::HostMalformed)?;
                authority(host).map(|_| Some(host)).ok_or(HeadError::HostMalformed)
            }
            _ => Err(HeadError::HostMalformed),
        }
    }
}

fn framing(lengths: &[&[u8]], encodings: &[&[u8]], minor: u8) -> Result<(), HeadError> {
    if !lengths.is_empty() && !encodings.is_empty() {
        return Err(HeadError::LengthAndEncoding);
    }
    match lengths {
        [] => {}
        [length] => content_length(length)?,
        _ => return Err(HeadError::LengthRepeated),
    }
    match encodings {
        [] => Ok(()),
        // Exactly so, in lower case: every other spelling is one that some reader does not take for `chunked`.
        [b"chunked"] if minor == 1 => Ok(()),
        _ => Err(HeadError::Encoding),
    }
}

fn content_length(value: &[u8]) -> Result<(), HeadError> {
    if value.contains(&b',') {
        return Err(HeadError::LengthRepeated);
    }
    // 18 digits stay below 2^63 for every reader.
    let number = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    if number { Ok(()) } else { Err(HeadError::LengthMalformed) }
}

fn expectation(value: &[u8]) -> Result<(), HeadError> {
    if value.eq_ignore_ascii_case(b"100-continue") { Ok(()) } else { Err(HeadError::Expectation) }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Splits `name[:port]`, `1.2.3.4[:port]` or `[::1][:port]`; the host keeps its brackets. None if it is anything else.
pub fn authority(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        let host = text.get(..address.len() + 2)?;
        return match after.strip_prefix(':') {
            Some(digits) => Some((host, Some(port(digits)?))),
            None if after.is_empty() => Some((host, None)),
            None => None,
        };
    }
    let (host, digits) = match text.split_once(':') {
        Some((host, digits)) => (host, Some(digits)),
        None => (text, None),
    };
    if !is_host_name(host) {
        return None;
    }
    match digits {
        Some(digits) => Some((host, Some(port(digits)?))),
        None => Some((host, None)),
    }
}

/// Labels of letters, digits, `-` and `_` (containers are named so), up to 63 each and 253 in all; or an IPv4 address.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.len() <= 253 && host.split('.').all(label) && (!numeric || host.parse::<Ipv4Addr>().is_ok())
}

fn port(digits: &str) -> Option<u16> {
    let number = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if number { digits.parse().ok().filter(|port| *port > 0) } else { None }
}

/// The checks of a request as Pingora gives it: all there are for HTTP/2, and for HTTP/1 the second of two locks.
///
/// Pingora phase: the first line of `early_request_filter` or `request_filter`.
///
/// # Errors
/// [`HeadError`], as for a head on the wire.
pub fn check_request(head: &RequestHeader, is_h2: bool) -> Result<(), HeadError> {
    if !METHODS.contains(&head.method.as_str()) {
        return Err(HeadError::Method);
    }
    checked_target(head.raw_path())?;
    if head.headers.len() > HEADERS_MAX {
        return Err(HeadError::TooManyHeaders);
    }
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > HEAD_BYTES_MAX {
        return Err(HeadError::TooLarge);
    }
    let mut fields = Fields::default();
    for (name, value) in &head.headers {
        if is_h2 && CONNECTION_FIELDS.contains(&name.as_str()) {
            return Err(HeadError::ConnectionSpecific);
        }
        if is_h2 && name == http::header::TE && value != "trailers" {
            return Err(HeadError::ConnectionSpecific);
        }
        if value.as_bytes().iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(HeadError::HeaderValue);
        }
        fields.sort(name.as_str().as_bytes(), value.as_bytes().trim_ascii())?;
    }
    if is_h2 { check_h2_authority(head, &fields) } else { check_h1(head, &fields) }
}

fn check_h1(head: &RequestHeader, fields: &Fields<'_>) -> Result<(), HeadError> {
    if head.uri.authority().is_some() || head.uri.scheme().is_some() {
        return Err(HeadError::Target);
    }
    let minor = match head.version {
        http::Version::HTTP_11 => 1,
        http::Version::HTTP_10 => 0,
        _ => return Err(HeadError::Version),
    };
    fields.checked(minor).map(|_| ())
}

/// Host, where a client sends it beside `:authority`, says the same (RFC 9113 §8.3.1); one of both must be there.
fn check_h2_authority(head: &RequestHeader, fields: &Fields<'_>) -> Result<(), HeadError> {
    framing(&fields.lengths, &[], 1)?;
    let named = head.uri.authority().map(http::uri::Authority::as_str);
    if named.is_some_and(|named| authority(named).is_none()) {
        return Err(HeadError::HostMalformed);
    }
    match (named, fields.hosts.as_slice()) {
        (Some(_), []) => Ok(()),
        (Some(named), [host]) if named.as_bytes().eq_ignore_ascii_case(host) => Ok(()),
        (Some(_), [_]) => Err(HeadError::HostDiffers),
        (None, [host]) => {
            let host = std::str::from_utf8(host).map_err(|_| HeadError::HostMalformed)?;
            authority(host).map(|_| ()).ok_or(HeadError::HostMalformed)
        }
        (None, []) => Err(HeadError::HostMissing),
        (_, _) => Err(HeadError::HostMalformed),
    }
}

#[cfg(test)]
mod tests;
