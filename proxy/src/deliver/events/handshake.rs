//! The WebSocket handshake (RFC 6455 §4.2): may this request become a socket.

use crate::config::PublicUrl;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, Method};
use std::net::IpAddr;

/// W3C Fetch Metadata: `same-origin`, `same-site`, `cross-site`, or `none` for what a person did.
pub const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// W3C Fetch Metadata: `navigate` for a page that is opened.
pub const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// RFC 6455 §1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a request becomes no socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Another method, HTTP/2, or no upgrade asked for.
    #[error("this path takes a WebSocket upgrade over HTTP/1.1: connect with a WebSocket client")]
    NotAnUpgrade,
    /// RFC 6455 §4.4.
    #[error("`Sec-WebSocket-Version` must be 13")]
    Version,
    /// Not 16 bytes in base64.
    #[error("`Sec-WebSocket-Key` must be 16 bytes in base64")]
    Key,
    /// A page of another site opens the socket with the user's credential (facts §11, 114).
    #[error("`Origin` is not this site: open the page from this gateway, or ask the operator to list the origin")]
    Origin,
    /// A cookie comes with any request to us, so the request itself has to show that a page of ours sent it.
    #[error("a request by cookie that changes something needs `Sec-Fetch-Site: same-origin`, or this site's `Origin`")]
    NotOurPage,
}

/// Which pages are this site's.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Those of the public URL.
    pub public: Option<&'a PublicUrl>,
    /// The connection is plain: those of `http://localhost` too, and of other names of loopback.
    pub plain: bool,
}

/// `Sec-WebSocket-Accept` for a request that may become a socket.
///
/// `Origin` may be absent (programs send none); a browser's must name the host that the request names, or the public one. `null` is a foreign page.
///
/// # Errors
/// [`HandshakeError`].
pub fn accepted(method: &Method, headers: &HeaderMap, is_h2: bool, site: Site<'_>) -> Result<String, HandshakeError> {
    let accept = upgraded(method, headers, is_h2)?;
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    check_origin(headers, host, site)?;
    Ok(accept)
}

/// The same, whatever page it comes from: for a caller whose page was looked at before, by its tenant's list.
///
/// # Errors
/// [`HandshakeError`], but for `Origin`.
pub fn upgraded(method: &Method, headers: &HeaderMap, is_h2: bool) -> Result<String, HandshakeError> {
    let lists = |name: &HeaderName, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    if is_h2 || method != Method::GET || !lists(&UPGRADE, "websocket") || !lists(&CONNECTION, "upgrade") {
        return Err(HandshakeError::NotAnUpgrade);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::Version);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(HandshakeError::Key)?;
    if STANDARD.decode(key.as_bytes()).map_err(|_| HandshakeError::Key)?.len() != 16 {
        return Err(HandshakeError::Key);
    }
    Ok(answer_to(key.as_bytes()))
}

/// Whether the request comes from one of this site's pages, or from no page at all. Browsers send `Origin` with every request that changes something; a
/// foreign page could otherwise use a password that the browser remembers (facts §11, 106).
///
/// # Errors
/// [`HandshakeError::Origin`].
pub fn check_origin(headers: &HeaderMap, host: Option<&str>, site: Site<'_>) -> Result<(), HandshakeError> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return Ok(()),
        (Some(only), None) => only.to_str().map_err(|_| HandshakeError::Origin)?,
        (Some(_), Some(_)) => return Err(HandshakeError::Origin),
    };
    let named = |scheme| {
        origin.strip_prefix(scheme).is_some_and(|named| host.is_some_and(|host| named.eq_ignore_ascii_case(host)))
    };
    // SECURITY: a page of `http://` is ours only where nobody can sit on the line. Any other name is served by something that ends TLS in front, and a plain page of that
    // name is somebody else's.
    let own = named("https://") || (site.plain && host.is_some_and(is_loopback) && named("http://"));
    if own || site.public.is_some_and(|public| origin.eq_ignore_ascii_case(public.origin())) {
        Ok(())
    } else {
        Err(HandshakeError::Origin)
    }
}

/// Whether the request proves that it comes from one of this site's pages, or that no browser's ambient credential is behind it: for GETs that change something, which
/// browsers send to any site without `Origin`. `Sec-Fetch-Site` can't be set by a page; a key in a header of its own can't be sent by one of another site.
///
/// # Errors
/// [`HandshakeError::Origin`].
pub fn check_same_origin(headers: &HeaderMap) -> Result<(), HandshakeError> {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    let by_own_header = headers.contains_key("x-api-key")
        || only("authorization")
            .is_some_and(|value| value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer ")));
    match only("sec-fetch-site") {
        Some("same-origin") => Ok(()),
        None if by_own_header && !headers.contains_key("sec-fetch-site") => Ok(()),
        _ => Err(HandshakeError::Origin),
    }
}

/// Whether one of this site's pages sent the request: what a cookie alone does not show. Browsers write `Sec-Fetch-Site` by themselves and let no page change it (W3C Fetch Metadata);
/// those that send it with no WebSocket send `Origin` there. `none` is somebody's own doing, such as a form that is sent again after a restart, and needs `Origin` too.
///
/// # Errors
/// [`HandshakeError::Origin`], [`HandshakeError::NotOurPage`].
pub fn check_our_page(headers: &HeaderMap, host: Option<&str>, site: Site<'_>) -> Result<(), HandshakeError> {
    check_origin(headers, host, site)?;
    let sites: Vec<_> = headers.get_all(SEC_FETCH_SITE).iter().collect();
    let shown = match sites.as_slice() {
        [only] if *only == "same-origin" => true,
        [only] if *only != "none" => false,
        // If it is there, it is ours.
        [] | [_] => headers.contains_key(ORIGIN),
        _ => false,
    };
    if shown { Ok(()) } else { Err(HandshakeError::NotOurPage) }
}

/// Whether a request that reads may be one of another site's page, by the browser's own word: then a cookie does not count, unless somebody followed a link. `SameSite=Lax` keeps the
/// cookie from other sites; this keeps it from other hosts of the same site too.
pub fn is_foreign_reading(headers: &HeaderMap) -> bool {
    is_of_another_site(headers) && headers.get(SEC_FETCH_MODE).is_none_or(|mode| mode != "navigate")
}

/// Whether the browser says that another site's page, or its link, caused the request.
pub fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.get_all(SEC_FETCH_SITE).iter().any(|site| site == "cross-site" || site == "same-site")
}

/// `localhost`, or an address of loopback, with or without port.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn answer_to(key: &[u8]) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(MAGIC);
    STANDARD.encode(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_get_that_changes_something_comes_from_our_page_or_from_a_program() {
        let proven = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            check_same_origin(&headers).is_ok()
        };
        assert!(proven(&[("sec-fetch-site", "same-origin"), ("authorization", "Basic eDp5")]));
        assert!(proven(&[("authorization", "Bearer x")]));
        assert!(proven(&[("x-api-key", "x")]));
        assert!(!proven(&[("authorization", "Basic eDp5")]));
        assert!(!proven(&[("sec-fetch-site", "none"), ("authorization", "Basic eDp5")]));
        assert!(!proven(&[("sec-fetch-site", "cross-site"), ("x-api-key", "x")]));
        assert!(!proven(&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")]));
    }

    fn upgrade(changes: &[(HeaderName, Option<&'static str>)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (HOST, "gate.example:8443"),
            (UPGRADE, "websocket"),
            (CONNECTION, "keep-alive, Upgrade"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in changes {
            match value {
                Some(value) => drop(headers.insert(name, HeaderValue::from_static(value))),
                None => drop(headers.remove(name)),
            }
        }
        headers
    }

    fn site(public: &PublicUrl) -> Site<'_> {
        Site { public: Some(public), plain: false }
    }

    fn answer(changes: &[(HeaderName, Option<&'static str>)]) -> Result<String, HandshakeError> {
        accepted(&Method::GET, &upgrade(changes), false, site(&"https://images.example/comfy".parse().unwrap()))
    }

    #[test]
    fn the_rfcs_own_example_is_answered_as_there() {
        assert_eq!(answer(&[]).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert_eq!(answer(&[(UPGRADE, None)]), Err(HandshakeError::NotAnUpgrade));
        assert_eq!(answer(&[(CONNECTION, Some("close"))]), Err(HandshakeError::NotAnUpgrade));
        assert_eq!(answer(&[(SEC_WEBSOCKET_VERSION, Some("8"))]), Err(HandshakeError::Version));
        assert_eq!(answer(&[(SEC_WEBSOCKET_KEY, Some("dGhlIHNhbXBsZQ=="))]), Err(HandshakeError::Key));
        assert_eq!(answer(&[(SEC_WEBSOCKET_KEY, None)]), Err(HandshakeError::Key));
        let nowhere = Site { public: None, plain: false };
        assert_eq!(accepted(&Method::POST, &upgrade(&[]), false, nowhere), Err(HandshakeError::NotAnUpgrade));
        assert_eq!(accepted(&Method::GET, &upgrade(&[]), true, nowhere), Err(HandshakeError::NotAnUpgrade));
    }

    #[test]
    fn a_plain_page_of_loopback_is_ours_on_a_plain_connection_only() {
        let at = |plain, host: &str, origin: &str| {
            let mut headers = upgrade(&[]);
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
            check_origin(&headers, Some(host), Site { public: None, plain }).is_ok()
        };
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080"] {
            let origin = format!("http://{host}");
            assert!(at(true, host, &origin) && !at(false, host, &origin), "{host}");
        }
        // Behind something that ends TLS, the name is the site's.
        assert!(!at(true, "gate.example", "http://gate.example"));
        assert!(!at(true, "localhost.evil.example", "http://localhost.evil.example"));
        assert!(!at(true, "localhost:8080", "http://localhost:8081"));
    }

    #[test]
    fn a_cookie_needs_the_browsers_word_that_our_page_sent_it() {
        let host = Some("gate.example:8443");
        let public = "https://images.example".parse().unwrap();
        let proof = |list: &[(HeaderName, &'static str)]| {
            let headers = list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
            check_our_page(&headers, host, site(&public))
        };
        let (own, evil) = ("https://gate.example:8443", "https://evil.example");
        assert_eq!(proof(&[(SEC_FETCH_SITE, "same-origin")]), Ok(()));
        assert_eq!(proof(&[(ORIGIN, own)]), Ok(()));
        assert_eq!(proof(&[(ORIGIN, "https://images.example")]), Ok(()));
        assert_eq!(proof(&[(SEC_FETCH_SITE, "none"), (ORIGIN, own)]), Ok(()));
        assert_eq!(proof(&[]), Err(HandshakeError::NotOurPage));
        for site in ["none", "same-site", "cross-site", "", "Same-Origin"] {
            assert_eq!(proof(&[(SEC_FETCH_SITE, site)]), Err(HandshakeError::NotOurPage), "{site}");
        }
        for site in ["same-site", "cross-site"] {
            assert_eq!(proof(&[(SEC_FETCH_SITE, site), (ORIGIN, own)]), Err(HandshakeError::NotOurPage), "{site}");
        }
        assert_eq!(proof(&[(SEC_FETCH_SITE, "same-origin"), (ORIGIN, evil)]), Err(HandshakeError::Origin));
        assert_eq!(proof(&[(ORIGIN, evil)]), Err(HandshakeError::Origin));
    }

    #[test]
    fn a_reading_of_another_sites_page_is_known_by_the_browsers_word() {
        let foreign = |site, mode| {
            let list = [(SEC_FETCH_SITE, site), (SEC_FETCH_MODE, mode)];
            is_foreign_reading(&list.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect())
        };
        assert!(foreign("cross-site", "no-cors") && foreign("same-site", "cors"));
        assert!(!foreign("same-origin", "cors") && !foreign("none", "navigate") && !foreign("cross-site", "navigate"));
        assert!(!is_foreign_reading(&HeaderMap::new()) && !is_of_another_site(&HeaderMap::new()));
        let followed = [(SEC_FETCH_SITE, "cross-site"), (SEC_FETCH_MODE, "navigate")];
        let followed = followed.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect();
        assert!(is_of_another_site(&followed) && !is_foreign_reading(&followed));
    }

    #[test]
    fn only_this_sites_pages_open_sockets() {
        for own in ["https://gate.example:8443", "https://GATE.example:8443", "https://images.example"] {
            assert!(answer(&[(ORIGIN, Some(own))]).is_ok(), "{own}");
        }
        for foreign in [
            "null",
            "https://gate.example",
            "http://gate.example:8443",
            "https://evil.example",
            "https://images.example.evil.example",
            "",
        ] {
            assert_eq!(answer(&[(ORIGIN, Some(foreign))]), Err(HandshakeError::Origin), "{foreign}");
        }
    }
}
