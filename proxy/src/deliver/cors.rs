//! Pages of other sites (Fetch standard, "HTTP CORS protocol"): what a browser lets them read and send. Pure: headers in, headers out; whose list counts is said by who asks.
//!
//! *Preflights* are answered before authentication: a browser asks without any credential whether it may send one. The answer tells one thing, whether an origin is in some tenant's list,
//! to whoever knows the origin; it tells neither whose list, nor which paths there are, nor anything else that the real request would not be asked about again. It grants nothing: the real
//! request is authenticated, and its answer is readable only by an origin in the list of the tenant that it was let in as.
//!
//! *Never* `Access-Control-Allow-Credentials`: what a browser adds by itself (a cookie, a certificate, a remembered password) makes no answer readable elsewhere. A page of another site
//! shows a key or a token of its own.

use crate::deliver::answer::Answer;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

/// What the routes of the table take.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
/// What a client of ours may send. `Comfy-User` is the stock front end's, and means nothing here.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, X-API-Key, Content-Type, Idempotency-Key, Comfy-User, Comfygate-Tenant, Comfygate-User, If-None-Match, Range",
);
/// What its scripts may read besides the safelisted ones.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, X-Request-Id, ETag, Content-Disposition, Content-Range",
);
/// An origin that is taken out of a list is refused by the answer itself; an hour only saves questions.
const MAX_AGE: HeaderValue = HeaderValue::from_static("3600");
/// What the answer to a preflight depends on.
const VARIES: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// Whether a browser asks if it may ask.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The one origin that a request names. SECURITY: of two, some other program may have looked at the other; `null` is nobody's.
pub fn origin_of(headers: &HeaderMap) -> Option<&str> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let only = origins.next().filter(|_| origins.next().is_none())?;
    only.to_str().ok().filter(|origin| *origin != "null")
}

/// The answer to a preflight: 204 for everybody, and leave for listed origins.
pub fn preflight(headers: &HeaderMap, is_listed: impl Fn(&str) -> bool) -> Answer {
    let mut answer = Answer::empty(StatusCode::NO_CONTENT);
    answer.headers.insert(VARY, VARIES);
    let listed = origin_of(headers).filter(|origin| is_listed(origin));
    if let Some(origin) = listed.and_then(|origin| HeaderValue::from_str(origin).ok()) {
        answer.headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answer.headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        answer.headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    }
    answer
}

/// What an answer says to the browser of a page at `origin`, if that is listed. `Vary` is said in any case: a cache must not give one origin's answer to another.
pub fn leave(origin: Option<&str>, is_listed: bool) -> impl Iterator<Item = (http::HeaderName, HeaderValue)> {
    let origin = origin.filter(|_| is_listed).and_then(|origin| HeaderValue::from_str(origin).ok());
    let vary = [(VARY, HeaderValue::from_static("Origin"))];
    let leave = origin.map(|origin| [(ACCESS_CONTROL_ALLOW_ORIGIN, origin), (ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)]);
    vary.into_iter().chain(leave.into_iter().flatten())
}

/// Adds what [`leave`] said to an answer's headers; one that varies by something else already varies by both.
pub fn say(headers: &mut HeaderMap, said: impl IntoIterator<Item = (http::HeaderName, HeaderValue)>) {
    for (name, value) in said {
        let value =
            headers.get(&name).filter(|_| name == VARY).map_or_else(|| value.clone(), |before| joined(before, &value));
        headers.insert(name, value);
    }
}

/// Two values of a list in one line. What can't be joined leaves the new one: it is the narrower.
pub fn joined(before: &HeaderValue, value: &HeaderValue) -> HeaderValue {
    let both = [before.as_bytes(), b", ", value.as_bytes()].concat();
    HeaderValue::from_bytes(&both).unwrap_or_else(|_| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_varies_already_varies_by_both() {
        let mut answer = headers(&[(VARY, "accept-encoding")]);
        say(&mut answer, leave(Some(APP), true));
        assert_eq!(answer.get_all(VARY).iter().collect::<Vec<_>>(), ["accept-encoding, Origin"]);
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], APP);
    }

    const APP: &str = "https://app.example.com";

    fn headers(list: &[(http::HeaderName, &str)]) -> HeaderMap {
        list.iter().fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name.clone(), value.parse().unwrap());
            headers
        })
    }

    #[test]
    fn a_preflight_is_an_options_with_origin_and_method() {
        let asked = headers(&[(ORIGIN, APP), (ACCESS_CONTROL_REQUEST_METHOD, "POST")]);
        assert!(is_preflight(&Method::OPTIONS, &asked));
        assert!(!is_preflight(&Method::POST, &asked));
        assert!(!is_preflight(&Method::OPTIONS, &headers(&[(ORIGIN, APP)])));
        assert!(!is_preflight(&Method::OPTIONS, &headers(&[(ACCESS_CONTROL_REQUEST_METHOD, "POST")])));
    }

    #[test]
    fn a_listed_origin_gets_leave_and_others_the_same_answer_without() {
        let ask = |origins: &[&str]| {
            let list: Vec<_> = origins.iter().map(|origin| (ORIGIN, *origin)).collect();
            preflight(&headers(&list), |origin| origin == APP)
        };
        let listed = ask(&[APP]);
        assert_eq!(
            (listed.status, &listed.headers[ACCESS_CONTROL_ALLOW_ORIGIN]),
            (StatusCode::NO_CONTENT, &HeaderValue::from_static(APP))
        );
        assert!(!listed.headers.contains_key("access-control-allow-credentials"));
        for others in [
            &["https://evil.example"][..],
            &["null"],
            &["https://APP.example.com"],
            &["https://app.example.com:8443"],
            &["https://app.example.com.evil.example"],
            &[APP, APP],
            &[APP, "https://evil.example"],
        ] {
            let answer = ask(others);
            assert_eq!(answer.status, StatusCode::NO_CONTENT);
            let leave = |name: &http::HeaderName| name.as_str().starts_with("access-control-");
            assert!(!answer.headers.keys().any(leave) && answer.headers[VARY] == listed.headers[VARY], "{others:?}");
        }
    }

    #[test]
    fn an_answer_names_the_origin_only_if_it_is_listed_and_varies_in_any_case() {
        let said = |origin, listed| leave(origin, listed).collect::<HeaderMap>();
        let listed = said(Some(APP), true);
        assert_eq!(
            (&listed[ACCESS_CONTROL_ALLOW_ORIGIN], &listed[VARY]),
            (&HeaderValue::from_static(APP), &HeaderValue::from_static("Origin"))
        );
        for headers in [said(Some(APP), false), said(None, true)] {
            assert_eq!(headers.keys().collect::<Vec<_>>(), [&VARY]);
        }
    }
}
