//! Which bodies are taken at all: media type, coding and size, before a byte is read. Pure.
//!
//! ComfyUI decodes a body by whatever charset `Content-Type` names, inflates it silently and asks for no type at all (facts §2.2); each of these lets a
//! scanner and the server read different things.

use crate::config::LimitsConfig;
use crate::owner::Credential;
use crate::reject::Rejection;
use crate::route::BodyRule;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, StatusCode};

/// How large a body the rule takes; `None`: nothing has to be read.
///
/// # Errors
/// A body where the route takes none.
pub fn bytes_max(rule: BodyRule, limits: &LimitsConfig, absent: bool) -> Result<Option<u64>, Rejection> {
    match rule {
        BodyRule::None if absent => Ok(None),
        BodyRule::None => {
            Err(Rejection::new(StatusCode::BAD_REQUEST, "body_unexpected", "this route takes no body: send none"))
        }
        // Read by whoever takes uploads, before this.
        BodyRule::Multipart => Ok(None),
        BodyRule::EmptyOrJson { .. } | BodyRule::Form { .. } if absent => Ok(None),
        BodyRule::EmptyOrJson { max_bytes }
        | BodyRule::Json { max_bytes }
        | BodyRule::PageJson { max_bytes }
        | BodyRule::Form { max_bytes } => Ok(Some(max_bytes)),
        BodyRule::File => Ok(Some(limits.userdata_bytes_max)),
        // The configuration may say less than the engine's own bounds, never more.
        BodyRule::PromptJson { max_bytes } => {
            Ok(Some(limits.prompt_bytes_max.min(max_bytes.max(comfygate_policy::BODY_BYTES_MAX as u64))))
        }
    }
}

/// Who may have written a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A program that shows its credential with each request by itself.
    Program,
    /// Perhaps a page, of whatever site: browsers send cookies, certificates and remembered passwords along with what any page asks for.
    Page,
}

impl Sender {
    /// Who it is, by the credential and by what browsers say of pages. Pages of other sites were refused before this; here, who can't be told from one is taken for one.
    pub fn of(credential: Option<Credential>, headers: &HeaderMap) -> Self {
        let by_header = matches!(credential, Some(Credential::ApiKey | Credential::Jwt));
        let of_a_page = [ORIGIN.as_str(), "sec-fetch-site"].into_iter().any(|name| headers.contains_key(name));
        if by_header && !of_a_page { Self::Program } else { Self::Page }
    }
}

/// What HTTP libraries call a body whose type their caller did not name: fetch, aiohttp, urllib. ComfyUI reads none of it, and so client libraries name none.
const UNNAMED: [&str; 3] = ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded"];

/// Whether media type and coding are those that the rule takes. A program's JSON may come without a type, or with one that its library made up: it is read as strict JSON in UTF-8 all
/// the same. A page must name `application/json`, which it can't for another site without asking first (facts §11, 10).
///
/// # Errors
/// 415 with what to send instead (facts §11, 1-3 and 10).
pub fn check(headers: &HeaderMap, rule: BodyRule, sender: Sender) -> Result<(), Rejection> {
    let unsupported = |code, text: &'static str| Err(Rejection::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, text));
    if headers.contains_key(CONTENT_ENCODING) {
        return unsupported("content_encoding", "`Content-Encoding` is not taken: send the body as it is");
    }
    let mut given = headers.get_all(CONTENT_TYPE).iter();
    // A file is stored as it comes and never served as what its sender called it.
    let any = matches!(rule, BodyRule::None | BodyRule::File | BodyRule::Multipart);
    let form = matches!(rule, BodyRule::Form { .. });
    let names: &[&str] = match rule {
        BodyRule::PageJson { .. } => &["application/json", "text/plain"],
        // What browsers send for a form without `enctype` (HTML §4.10.22.6).
        BodyRule::Form { .. } => &["application/x-www-form-urlencoded"],
        _ => &["application/json"],
    };
    let unnamed = sender == Sender::Program && !form;
    let fits = match (given.next(), given.next()) {
        _ if any => true,
        (None, _) if unnamed => true,
        (Some(only), None) if unnamed && only.to_str().is_ok_and(|given| is_utf8(given, &UNNAMED)) => true,
        (Some(only), None) => only.to_str().is_ok_and(|given| is_utf8(given, names)),
        // From a page, a type that is not named could be any; the stock page's empty POSTs never come here.
        (None, _) | (Some(_), Some(_)) => false,
    };
    if form && !fits {
        return unsupported("content_type", "send `Content-Type: application/x-www-form-urlencoded`, once");
    }
    if fits { Ok(()) } else { unsupported("content_type", "send `Content-Type: application/json`, once, in UTF-8") }
}

/// 413 with the number.
pub fn too_large(bytes_max: u64) -> Rejection {
    let text = format!("the body is larger than the {bytes_max} bytes that this route takes");
    Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", text)
}

/// One of these types, alone or with `charset=utf-8` (RFC 9110 §8.3.1: names without case, value perhaps quoted).
fn is_utf8(content_type: &str, names: &[&str]) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let known = parts.next().is_some_and(|name| names.iter().any(|known| name.eq_ignore_ascii_case(known)));
    known
        && parts.all(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("charset")
                && (value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const JSON: BodyRule = BodyRule::Json { max_bytes: 10 };

    fn limits(prompt_bytes_max: u64) -> LimitsConfig {
        LimitsConfig { prompt_bytes_max, ..LimitsConfig::default() }
    }

    fn with(name: http::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn json_in_utf8_is_taken_however_it_is_spelt() {
        for value in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf8\""] {
            assert!(check(&with(CONTENT_TYPE, &[value]), JSON, Sender::Page).is_ok(), "{value}");
        }
    }

    #[test]
    fn other_types_charsets_and_parameters_are_refused() {
        for value in [
            "application/json; charset=utf-16",
            "application/json; charset=utf-7",
            "text/plain",
            "application/json; x=1",
            "application/jsonx",
            "",
        ] {
            assert!(check(&with(CONTENT_TYPE, &[value]), JSON, Sender::Page).is_err(), "{value}");
        }
        assert!(check(&HeaderMap::new(), JSON, Sender::Page).is_err());
        assert!(check(&with(CONTENT_TYPE, &["application/json", "application/json"]), JSON, Sender::Page).is_err());
    }

    #[test]
    fn a_programs_json_is_taken_with_the_type_that_its_library_made_up_and_in_utf8_only() {
        for value in [
            "text/plain;charset=UTF-8",
            "application/octet-stream",
            "application/x-www-form-urlencoded",
            "application/json",
        ] {
            let headers = with(CONTENT_TYPE, &[value]);
            assert!(check(&headers, JSON, Sender::Program).is_ok(), "{value}");
            assert_eq!(check(&headers, JSON, Sender::Page).is_ok(), value == "application/json", "{value}");
        }
        assert!(check(&HeaderMap::new(), JSON, Sender::Program).is_ok());
        for value in [
            "text/plain; charset=utf-16",
            "application/json; charset=utf-7",
            "text/html",
            "multipart/form-data; boundary=x",
            "",
        ] {
            assert!(check(&with(CONTENT_TYPE, &[value]), JSON, Sender::Program).is_err(), "{value}");
        }
        let headers = with(CONTENT_ENCODING, &["gzip"]);
        assert!(check(&headers, JSON, Sender::Program).is_err());
        assert!(check(&with(CONTENT_TYPE, &["text/plain", "text/plain"]), JSON, Sender::Program).is_err());
        assert!(check(&with(CONTENT_TYPE, &["text/plain"]), BodyRule::Form { max_bytes: 1 }, Sender::Program).is_err());
    }

    #[test]
    fn who_brings_what_a_browser_sends_by_itself_or_comes_from_a_page_counts_as_a_page() {
        let none = HeaderMap::new();
        assert_eq!(Sender::of(Some(Credential::ApiKey), &none), Sender::Program);
        assert_eq!(Sender::of(Some(Credential::Jwt), &none), Sender::Program);
        assert_eq!(Sender::of(Some(Credential::ClientCertificate), &none), Sender::Page);
        assert_eq!(Sender::of(None, &none), Sender::Page);
        for name in ["origin", "sec-fetch-site"] {
            let headers = with(http::HeaderName::from_static(name), &["none"]);
            assert_eq!(Sender::of(Some(Credential::ApiKey), &headers), Sender::Page, "{name}");
        }
        // Node's own `fetch` says this, and is no page.
        assert_eq!(
            Sender::of(Some(Credential::ApiKey), &with(http::HeaderName::from_static("sec-fetch-mode"), &["cors"])),
            Sender::Program
        );
    }

    #[test]
    fn a_form_is_taken_where_a_form_may_come_and_nowhere_else() {
        const FORM: BodyRule = BodyRule::Form { max_bytes: 10 };
        let form = with(CONTENT_TYPE, &["application/x-www-form-urlencoded; charset=UTF-8"]);
        assert!(check(&form, FORM, Sender::Page).is_ok() && check(&form, JSON, Sender::Page).is_err());
        for value in ["application/json", "multipart/form-data; boundary=x", "text/plain"] {
            assert!(check(&with(CONTENT_TYPE, &[value]), FORM, Sender::Page).is_err(), "{value}");
        }
        assert!(check(&HeaderMap::new(), FORM, Sender::Page).is_err());
        assert_eq!(bytes_max(FORM, &LimitsConfig::default(), true).unwrap(), None);
        assert_eq!(bytes_max(FORM, &LimitsConfig::default(), false).unwrap(), Some(10));
    }

    #[test]
    fn any_content_encoding_is_refused() {
        for value in ["gzip", "GZIP", "identity", "x-foo", ""] {
            let mut headers = with(CONTENT_TYPE, &["application/json"]);
            headers.extend(with(CONTENT_ENCODING, &[value]));
            assert_eq!(check(&headers, JSON, Sender::Page).unwrap_err().code(), "content_encoding", "{value}");
        }
    }

    #[test]
    fn an_absent_body_is_fine_where_one_may_be_absent_and_a_present_one_only_where_one_may_come() {
        let limits = limits(5);
        assert_eq!(bytes_max(BodyRule::None, &limits, true).unwrap(), None);
        assert!(bytes_max(BodyRule::None, &limits, false).is_err());
        assert_eq!(bytes_max(BodyRule::EmptyOrJson { max_bytes: 7 }, &limits, true).unwrap(), None);
        assert_eq!(bytes_max(BodyRule::EmptyOrJson { max_bytes: 7 }, &limits, false).unwrap(), Some(7));
        assert_eq!(bytes_max(JSON, &limits, true).unwrap(), Some(10));
    }

    #[test]
    fn the_configuration_lowers_the_bound_of_a_submission() {
        let rule = BodyRule::PromptJson { max_bytes: 100 };
        assert_eq!(bytes_max(rule, &limits(5), false).unwrap(), Some(5));
        let engine = comfygate_policy::BODY_BYTES_MAX as u64;
        assert_eq!(bytes_max(rule, &limits(u64::MAX), false).unwrap(), Some(engine));
    }

    #[test]
    fn the_page_sends_settings_as_text_and_files_as_whatever_they_are() {
        let page = BodyRule::PageJson { max_bytes: 10 };
        let text = with(CONTENT_TYPE, &["text/plain;charset=UTF-8"]);
        assert!(
            check(&text, page, Sender::Page).is_ok()
                && check(&with(CONTENT_TYPE, &["application/json"]), page, Sender::Page).is_ok()
        );
        assert!(check(&text, JSON, Sender::Page).is_err() && check(&HeaderMap::new(), page, Sender::Page).is_err());
        assert!(check(&with(CONTENT_TYPE, &["text/plain; charset=utf-16"]), page, Sender::Page).is_err());
        for headers in [text, HeaderMap::new(), with(CONTENT_TYPE, &["text/html", "image/png"])] {
            assert!(check(&headers, BodyRule::File, Sender::Page).is_ok(), "{headers:?}");
        }
        assert!(check(&with(CONTENT_ENCODING, &["gzip"]), BodyRule::File, Sender::Page).is_err());
        let limits = LimitsConfig { userdata_bytes_max: 9, ..LimitsConfig::default() };
        assert_eq!(bytes_max(BodyRule::File, &limits, true).unwrap(), Some(9), "an empty file is a file");
    }
}
