//! Whether a request may become a WebSocket (RFC 6455 §4.2). Pure.

use crate::config::PublicUrl;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Why a request stays a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not `GET`.
    #[error("a WebSocket begins with GET")]
    Method,
    /// HTTP/2 (RFC 8441 is not built) or HTTP/1.0.
    #[error("a WebSocket needs HTTP/1.1")]
    HttpVersion,
    /// No `Connection: Upgrade` with `Upgrade: websocket`.
    #[error("this path is a WebSocket: `Connection: Upgrade` and `Upgrade: websocket` are wanted")]
    NoUpgrade,
    /// Not 13.
    #[error("`Sec-WebSocket-Version: 13` is wanted")]
    WebSocketVersion,
    /// Missing, repeated, or not 16 bytes in base64.
    #[error("`Sec-WebSocket-Key` is 16 bytes in base64, once")]
    Key,
    /// A page of another site, with the browser's credentials of this one (facts §11, 112).
    #[error("the page's origin is not this gateway's")]
    Origin,
}

/// The value of `Sec-WebSocket-Accept`, if the request may be upgraded. Subprotocols and extensions (so compression too) are never accepted.
///
/// `Origin` has to be absent (no browser), or name the host that `Host` or `public_url` names.
///
/// # Errors
/// [`HandshakeError`] says what is missing.
pub fn accepted(head: &Parts, is_http2: bool, public_url: Option<&PublicUrl>) -> Result<String, HandshakeError> {
    if head.method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if is_http2 || head.version != Version::HTTP_11 {
        return Err(HandshakeError::HttpVersion);
    }
    if !has_token(&head.headers, &CONNECTION, "upgrade") || !has_token(&head.headers, &UPGRADE, "websocket") {
        return Err(HandshakeError::NoUpgrade);
    }
    if only(&head.headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(HandshakeError::WebSocketVersion);
    }
    let key = only(&head.headers, &SEC_WEBSOCKET_KEY).filter(|key| is_nonce(key)).ok_or(HandshakeError::Key)?;
    if !origin_is_ours(&head.headers, public_url) {
        return Err(HandshakeError::Origin);
    }
    Ok(derive_accept_key(key.as_bytes()))
}

fn is_nonce(key: &str) -> bool {
    // 16 bytes are 24 characters: the length first, so that nothing long is decoded.
    key.len() == 24 && STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16)
}

fn origin_is_ours(headers: &HeaderMap, public_url: Option<&PublicUrl>) -> bool {
    if !headers.contains_key(ORIGIN) {
        return true;
    }
    let Some(origin) = only(headers, &ORIGIN) else { return false };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    if !matches!(scheme, "http" | "https") || authority.is_empty() {
        return false;
    }
    let host_is_same = only(headers, &HOST).is_some_and(|host| host.eq_ignore_ascii_case(authority));
    host_is_same || public_url.is_some_and(|url| url.as_str().eq_ignore_ascii_case(origin))
}

/// The value of a header that stands exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn answer(change: impl FnOnce(&mut Parts)) -> Result<String, HandshakeError> {
        answer_at(change, false, None)
    }

    fn answer_at(change: impl FnOnce(&mut Parts), is_http2: bool, public_url: Option<&str>) -> Result<String, HandshakeError> {
        let request = http::Request::get("/ws")
            .header("host", "gate.example:8443")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", KEY);
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        change(&mut head);
        accepted(&head, is_http2, public_url.map(|url| url.parse().unwrap()).as_ref())
    }

    fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut Parts) {
        move |head| drop(head.headers.insert(name, value.parse().unwrap()))
    }

    #[test]
    fn the_sample_of_rfc_6455_is_accepted() {
        assert_eq!(answer(|_| {}).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert_eq!(answer(|head| head.method = Method::POST), Err(HandshakeError::Method));
        assert_eq!(answer(|head| head.version = Version::HTTP_10), Err(HandshakeError::HttpVersion));
        assert_eq!(answer_at(|_| {}, true, None), Err(HandshakeError::HttpVersion));
        assert_eq!(answer(set("connection", "keep-alive")), Err(HandshakeError::NoUpgrade));
        assert_eq!(answer(set("upgrade", "h2c")), Err(HandshakeError::NoUpgrade));
        assert_eq!(answer(set("sec-websocket-version", "8")), Err(HandshakeError::WebSocketVersion));
    }

    #[test]
    fn a_key_is_16_bytes_in_base64_and_stands_once() {
        for key in ["", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZSE=", "dGhlIHNhbXBsZSBub25jZQ!="] {
            assert_eq!(answer(set("sec-websocket-key", key)), Err(HandshakeError::Key), "{key}");
        }
        let twice = |head: &mut Parts| drop(head.headers.append(SEC_WEBSOCKET_KEY, KEY.parse().unwrap()));
        assert_eq!(answer(twice), Err(HandshakeError::Key));
    }

    #[test]
    fn only_the_own_origin_passes() {
        assert!(answer(set("origin", "https://gate.example:8443")).is_ok());
        assert!(answer(set("origin", "https://GATE.example:8443")).is_ok());
        for foreign in ["https://gate.example", "https://evil.example", "null", "https://", "ftp://gate.example:8443", "https://gate.example:8443.evil.example"] {
            assert_eq!(answer(set("origin", foreign)), Err(HandshakeError::Origin), "{foreign}");
        }
        let public = Some("https://images.example.com");
        assert!(answer_at(set("origin", "https://images.example.com"), false, public).is_ok());
        assert_eq!(answer_at(set("origin", "http://images.example.com"), false, public), Err(HandshakeError::Origin));
    }
}
