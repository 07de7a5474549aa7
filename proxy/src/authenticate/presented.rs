//! What somebody showed to be let in: for the check of a request ([`Presented`]), and for as long as an open socket or a ticket stands on it, to be shown again ([`Kept`]).

use super::acting::{COMFYGATE_TENANT, COMFYGATE_USER};
use super::session::SessionCookie;
use super::{HEADER_BYTES_MAX, X_API_KEY, api_key};
use crate::listen::ClientTls;
use http::header::{AUTHORIZATION, COOKIE, HeaderName};
use http::{HeaderMap, HeaderValue};
use std::fmt;

/// Longest value that is kept of all but `Authorization`: a key has 49 bytes, the cookie of a session 101, ids of tenants and users fewer than this.
const SHORT_BYTES_MAX: usize = 256;
/// What is kept of a caller at most, in bytes of text: one `Authorization`, and five that are short. Its certificate comes to it, which an authority of the operator's has signed.
pub const KEPT_BYTES_MAX: usize = HEADER_BYTES_MAX + 5 * SHORT_BYTES_MAX;

/// What a request shows. It is the request's own.
#[derive(Clone, Copy)]
pub struct Presented<'r> {
    /// The certificate of the connection.
    pub tls: Option<&'r ClientTls>,
    /// Among others, those that may hold a credential or say in whose name it is used.
    pub headers: &'r HeaderMap,
    /// The API key of the query.
    pub query_key: Option<&'r str>,
}

/// What a caller who was let in had shown, and nothing else of the request. `Debug` shows none of it: it holds secrets as they were sent.
///
/// INVARIANT: copied out. A header value is a slice of all that was read of its request: one that is kept keeps 32 KiB.
#[derive(Clone, Default)]
pub struct Kept {
    tls: Option<ClientTls>,
    headers: HeaderMap,
    query_key: Option<String>,
}

impl Kept {
    /// Of a caller that was let in by this; where that was a session, it is that of `cookie`. Several values of one header agreed then, so one of them is kept. What is longer than anything that lets
    /// somebody in is left out: without it nobody is let in again.
    ///
    /// SECURITY: a cookie that lay beside what let the caller in is not kept. It may be another's, and would let the socket or ticket live on once its own credential has ended.
    pub fn of(shown: Presented<'_>, cookie: Option<&SessionCookie>) -> Self {
        let mut headers = HeaderMap::new();
        let mut keep = |name: HeaderName, text: &str, bytes_max: usize| {
            if let (true, Ok(value)) = (text.len() <= bytes_max, HeaderValue::from_str(text)) {
                headers.insert(name, value);
            }
        };
        let short = [X_API_KEY, COMFYGATE_TENANT, COMFYGATE_USER].map(|name| (name, SHORT_BYTES_MAX));
        for (name, bytes_max) in [(AUTHORIZATION, HEADER_BYTES_MAX)].into_iter().chain(short) {
            if let Some(text) = shown.headers.get(&name).and_then(|value| value.to_str().ok()) {
                keep(name, text.trim(), bytes_max);
            }
        }
        if let Some(cookie) = cookie
            && let Ok(Some(session)) = cookie.shown(shown.headers)
        {
            keep(COOKIE, &cookie.pair(&session), SHORT_BYTES_MAX);
        }
        let query_key = shown.query_key.filter(|key| key.len() <= SHORT_BYTES_MAX).map(str::to_owned);
        Self { tls: shown.tls.cloned(), headers, query_key }
    }

    /// To be shown again.
    pub fn presented(&self) -> Presented<'_> {
        Presented { tls: self.tls.as_ref(), headers: &self.headers, query_key: self.query_key.as_deref() }
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept(redacted)")
    }
}

/// Whether `?token=` is an API key; what else it may be is a ticket.
pub fn is_key(token: &str) -> bool {
    token.starts_with(api_key::PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::session::SessionToken;
    use crate::ids::InstanceId;
    use bytes::Bytes;
    use ring::rand::SystemRandom;
    use std::time::Duration;

    fn kept(headers: &HeaderMap, query_key: Option<&str>, cookie: &SessionCookie) -> Kept {
        Kept::of(Presented { tls: None, headers, query_key }, Some(cookie))
    }

    fn bytes_of(kept: &Kept) -> usize {
        let headers: usize = kept.headers.values().map(HeaderValue::len).sum();
        headers + kept.query_key.as_ref().map_or(0, String::len)
    }

    #[test]
    fn only_what_may_be_a_credential_is_kept_and_none_of_it_is_shown() {
        let token = SessionToken::draw(&SystemRandom::new()).unwrap();
        for public in [None, Some("https://images.example/comfy".parse().unwrap())] {
            let cookie = SessionCookie::new(InstanceId::new(), public.as_ref());
            let other = SessionCookie::new(InstanceId::new(), public.as_ref()).pair(&token);
            let set = cookie.set(&token, Duration::from_secs(1)).unwrap();
            let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, format!("theme=dark; {other}; {pair}; session=other").parse().unwrap());
            headers.append(COOKIE, pair.parse().unwrap());
            headers.insert("user-agent", "x".parse().unwrap());
            headers.insert(AUTHORIZATION, "Bearer secret".parse().unwrap());
            headers.append(AUTHORIZATION, "Bearer secret".parse().unwrap());
            let kept = kept(&headers, Some("cg_secret"), &cookie);
            let again = kept.presented();
            assert_eq!(again.headers.len(), 2);
            assert_eq!(again.headers[COOKIE], pair);
            assert_eq!(cookie.shown(again.headers).unwrap(), Some(token.clone()));
            assert_eq!(again.query_key, Some("cg_secret"));
            assert!(!format!("{kept:?}").contains("secret"));
            let beside = Kept::of(Presented { tls: None, headers: &headers, query_key: None }, None);
            assert!(!beside.headers.contains_key(COOKIE) && beside.headers.contains_key(AUTHORIZATION));
        }
    }

    #[test]
    fn what_is_kept_has_a_bound_whatever_was_sent() {
        let cookie = SessionCookie::new(InstanceId::new(), None);
        let full = |long: usize, short: usize| {
            let mut headers = HeaderMap::new();
            for (name, bytes) in
                [(AUTHORIZATION, long), (X_API_KEY, short), (COMFYGATE_TENANT, short), (COMFYGATE_USER, short)]
            {
                for _ in 0..8 {
                    headers.append(name.clone(), "x".repeat(bytes).parse().unwrap());
                }
            }
            for number in 0..200 {
                headers.append(COOKIE, format!("__Host-comfygate-{number:08}={}", "0".repeat(64)).parse().unwrap());
            }
            bytes_of(&kept(&headers, Some(&"x".repeat(short)), &cookie))
        };
        let most = full(HEADER_BYTES_MAX, SHORT_BYTES_MAX);
        assert_eq!(most, HEADER_BYTES_MAX + 4 * SHORT_BYTES_MAX, "all that fits, and no cookie of others");
        assert!(most <= KEPT_BYTES_MAX);
        assert_eq!(full(HEADER_BYTES_MAX + 1, SHORT_BYTES_MAX + 1), 0, "a byte more is no credential");
        let token = SessionToken::draw(&SystemRandom::new()).unwrap();
        assert!(cookie.pair(&token).len() <= SHORT_BYTES_MAX);
    }

    #[test]
    fn what_is_kept_keeps_nothing_of_the_requests_buffer() {
        let cookie = SessionCookie::new(InstanceId::new(), None);
        let token = SessionToken::draw(&SystemRandom::new()).unwrap();
        // As a parser of HTTP makes them: slices of one buffer.
        let buffer = Bytes::from(format!("{}Bearer secret", cookie.pair(&token)).into_bytes());
        let (pair, bearer) = (buffer.slice(..buffer.len() - 13), buffer.slice(buffer.len() - 13..));
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_maybe_shared(pair).unwrap());
        headers.insert(AUTHORIZATION, HeaderValue::from_maybe_shared(bearer).unwrap());
        let kept = kept(&headers, None, &cookie);
        assert_eq!(kept.headers.len(), 2);
        drop(headers);
        assert!(buffer.is_unique(), "nobody else holds it");
    }
}
