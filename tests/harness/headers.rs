//! The allowlist of response headers (after dropshot's tests): a header that nobody decided to send fails the test that got it.

use http::HeaderMap;

/// Every header that the gateway may send.
const ALLOWED: &[&str] = &[
    "accept-ranges",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "allow",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-range",
    "content-security-policy",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "location",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "referrer-policy",
    "retry-after",
    "sec-websocket-accept",
    "set-cookie",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-request-id",
];

/// Headers that an answer to a request with a credential has to carry: nobody else may keep it, no browser may guess its type.
const REQUIRED: &[&str] = &["cache-control", "x-content-type-options"];

/// Checks the headers of an answer that the gateway itself made.
///
/// # Panics
/// When one is not on the list, comes twice (but challenges), or is missing.
pub fn check(headers: &HeaderMap, context: &str) {
    for name in headers.keys() {
        assert!(ALLOWED.contains(&name.as_str()), "{context}: unexpected response header `{name}`: {headers:?}");
        let times = headers.get_all(name).iter().count();
        assert!(times == 1 || name == "www-authenticate", "{context}: `{name}` came {times} times: {headers:?}");
    }
    for name in REQUIRED {
        assert!(headers.contains_key(*name), "{context}: `{name}` is missing: {headers:?}");
    }
    if let Some(cookie) = headers.get("set-cookie") {
        let cookie = cookie.to_str().unwrap();
        for attribute in ["; Secure", "; HttpOnly", "; SameSite=Lax", "; Path=/"] {
            assert!(cookie.contains(attribute), "{context}: a cookie without `{attribute}`: {cookie}");
        }
    }
    let caching = headers["cache-control"].to_str().unwrap();
    assert!(
        caching.contains("private") || caching.contains("no-store"),
        "{context}: a shared cache may keep this: {caching}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn sound() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", HeaderValue::from_static("private, no-store"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        headers
    }

    #[test]
    fn listed_headers_pass() {
        check(&sound(), "sound");
    }

    #[test]
    #[should_panic(expected = "unexpected response header `x-backend`")]
    fn an_unlisted_header_fails() {
        let mut headers = sound();
        headers.insert("x-backend", HeaderValue::from_static("gpu0"));
        check(&headers, "leaky");
    }

    #[test]
    #[should_panic(expected = "a shared cache may keep this")]
    fn a_publicly_cached_answer_fails() {
        let mut headers = sound();
        headers.insert("cache-control", HeaderValue::from_static("public, max-age=60"));
        check(&headers, "shared");
    }
}
