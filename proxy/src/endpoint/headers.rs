//! Fixed headers of a backend, such as the key of a proxy that stands before it. Pure.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;

/// How many a backend may have.
pub const HEADERS_MAX: usize = 16;
/// Bytes of one value: a long token fits.
pub const VALUE_BYTES_MAX: usize = 8 << 10;

/// Headers that frame a request, that our clients write themselves, or that change what an answer means.
const RESERVED: [&str; 28] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "origin",
    "proxy-connection",
    "range",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-real-ip",
];
/// Families of such headers.
const RESERVED_PREFIXES: [&str; 2] = ["sec-", "access-control-"];

/// Why a header can't be a fixed one. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No header name at all.
    #[error("this is no name of a header")]
    Name,
    /// One of those that frame a request or that the gateway writes itself.
    #[error("`{0}` is a header that the gateway writes itself, or that changes how a request is read")]
    Reserved(String),
    /// Named twice, in whatever case.
    #[error("`{0}` is named twice")]
    Twice(String),
    /// Control characters, nothing at all, or too much.
    #[error("the value is empty, has control characters, or more than {VALUE_BYTES_MAX} bytes")]
    Value,
    /// One too many.
    #[error("a backend has at most {HEADERS_MAX} fixed headers")]
    TooMany,
}

/// The fixed headers of one backend.
#[derive(Clone, Default, PartialEq)]
pub struct FixedHeaders(HeaderMap);

impl FixedHeaders {
    /// Adds one; its value is a secret from here on.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn insert(&mut self, name: &str, value: &[u8]) -> Result<(), HeaderError> {
        let name: HeaderName = name.parse().map_err(|_| HeaderError::Name)?;
        if RESERVED.contains(&name.as_str()) || RESERVED_PREFIXES.iter().any(|family| name.as_str().starts_with(family))
        {
            return Err(HeaderError::Reserved(name.to_string()));
        }
        if self.0.contains_key(&name) {
            return Err(HeaderError::Twice(name.to_string()));
        }
        if self.0.len() >= HEADERS_MAX {
            return Err(HeaderError::TooMany);
        }
        if value.is_empty() || value.len() > VALUE_BYTES_MAX {
            return Err(HeaderError::Value);
        }
        let mut value = HeaderValue::from_bytes(value).map_err(|_| HeaderError::Value)?;
        value.set_sensitive(true);
        self.0.insert(name, value);
        Ok(())
    }

    /// All of them.
    pub fn map(&self) -> &HeaderMap {
        &self.0
    }
}

/// Names only.
impl fmt::Debug for FixedHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_frame_a_request_are_refused_and_keys_are_taken() {
        let mut headers = FixedHeaders::default();
        for name in
            ["Host", "content-length", "Connection", "Upgrade", "Sec-WebSocket-Key", "Transfer-Encoding", "Origin"]
        {
            assert!(matches!(headers.insert(name, b"x"), Err(HeaderError::Reserved(_))), "{name}");
        }
        for name in ["X-Backend-Key", "Authorization", "Cookie", "comfy-user"] {
            assert_eq!(headers.insert(name, b"x"), Ok(()), "{name}");
        }
        assert!(matches!(headers.insert("x-backend-key", b"y"), Err(HeaderError::Twice(_))));
        assert_eq!(headers.insert("a b", b"y"), Err(HeaderError::Name));
    }

    #[test]
    fn a_value_of_the_largest_size_is_taken_and_line_ends_are_not() {
        let insert = |value: &[u8]| FixedHeaders::default().insert("x-key", value);
        assert_eq!(insert(&[b'a'; VALUE_BYTES_MAX]), Ok(()));
        for value in [&[b'a'; VALUE_BYTES_MAX + 1][..], b"", b"a\r\nhost: b", b"a\0"] {
            assert_eq!(insert(value), Err(HeaderError::Value));
        }
    }

    #[test]
    fn one_header_more_than_allowed_is_refused() {
        let mut headers = FixedHeaders::default();
        for n in 0..HEADERS_MAX {
            headers.insert(&format!("x-{n}"), b"a").unwrap();
        }
        assert_eq!(headers.insert("x-more", b"a"), Err(HeaderError::TooMany));
    }

    #[test]
    fn debug_shows_names_and_no_values() {
        let mut headers = FixedHeaders::default();
        headers.insert("x-backend-key", b"hunter2").unwrap();
        let shown = format!("{headers:?} {:?}", headers.map());
        assert!(shown.contains("x-backend-key") && !shown.contains("hunter2"), "{shown}");
    }
}
