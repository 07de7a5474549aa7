//! The two pages: small, without script, and without anything from elsewhere.

use crate::deliver::answer::Answer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, SET_COOKIE};
use http::{HeaderValue, StatusCode};
use std::sync::LazyLock;

/// The one style sheet, named by its hash in the policy. Colours follow the system's.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:24rem;margin:15vh auto;padding:0 1rem;background:Canvas;color:CanvasText}\
h1{font-size:1.4rem}\
label{display:block;margin-top:1rem}\
input,button{font:inherit;width:100%;box-sizing:border-box;padding:.6rem;margin-top:.4rem;border:1px solid GrayText;border-radius:.4rem}\
button{margin-top:1rem;cursor:pointer}\
[role=alert]{border-left:.3rem solid #c33;padding:.2rem 0 .2rem .8rem}\
p.small{font-size:.875rem}";

/// Nothing but our own style, no script, no frame around us, and forms that go to us. `data:` is the empty icon, which spares a request.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// The login. `notice` says why the last try failed; `action` is where the form goes. Both are escaped here.
pub fn login(notice: Option<&str>, action: &str) -> Answer {
    let notice = notice.map(|text| format!("<p role=\"alert\">{}</p>", escaped(text))).unwrap_or_default();
    page(
        "Log in",
        &format!(
            "{notice}<form method=\"post\" action=\"{}\">\
             <label for=\"key\">API key</label>\
             <input id=\"key\" name=\"key\" type=\"password\" autocomplete=\"current-password\" placeholder=\"cg_…\" required autofocus>\
             <button>Log in</button></form>\
             <p class=\"small\">Whoever runs this gateway makes keys with <code>comfygate key create</code>.</p>",
            escaped(action)
        ),
    )
}

/// The logout: a button, since a link alone would let another site's page log people out.
pub fn logout(tenant: &str, user: Option<&str>, action: &str) -> Answer {
    let who = user.map_or_else(|| escaped(tenant), |user| format!("{} of {}", escaped(user), escaped(tenant)));
    page(
        "Log out",
        &format!(
            "<p>You are logged in as {who}.</p><form method=\"post\" action=\"{}\"><button>Log out</button></form>",
            escaped(action)
        ),
    )
}

/// 303 to a path of ours, with cookies to set.
pub fn redirect(path: &str, cookie: Option<HeaderValue>) -> Answer {
    let mut answer = Answer::empty(StatusCode::SEE_OTHER);
    // Ours is ASCII; if it were not, no target is better than a wrong one.
    if let Ok(path) = HeaderValue::from_str(path) {
        answer.headers.insert(LOCATION, path);
    }
    if let Some(cookie) = cookie {
        answer.headers.insert(SET_COOKIE, cookie);
    }
    answer
}

fn page(title: &str, body: &str) -> Answer {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} – ComfyUI</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta name=\"robots\" content=\"noindex\">\
         <link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>\n"
    );
    let mut answer = Answer::bytes(StatusCode::OK, "text/html; charset=utf-8", Bytes::from(html));
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        answer.headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    // Not `no-referrer`: browsers then send `Origin: null` with the form, which is a foreign page's.
    answer.headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    answer
}

/// For text and for attributes in double quotes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_targets_are_escaped() {
        let text = login(Some("<b>&\"'"), "/gate/login?next=/\"><script>").text();
        assert!(
            text.contains("&lt;b&gt;&amp;&quot;&#39;") && text.contains("next=/&quot;&gt;&lt;script&gt;"),
            "{text}"
        );
        assert!(!text.contains("<script") && !text.contains("<b>"), "{text}");
        let text = logout("a<b", Some("u<v"), "/gate/logout").text();
        assert!(text.contains("u&lt;v of a&lt;b"), "{text}");
    }

    #[test]
    fn the_policy_allows_the_style_and_nothing_that_runs() {
        let answer = login(None, "/gate/login");
        let policy = answer.headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{policy}");
        let html = answer.text();
        assert_eq!(html.matches("<style>").count(), 1);
        for foreign in ["http:", "https:", "src=", "style=", "onclick", "<script"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_redirect_is_303_and_kept_by_nobody() {
        let answer = redirect("/queue", None);
        assert_eq!(
            (answer.status, &answer.headers[LOCATION]),
            (StatusCode::SEE_OTHER, &HeaderValue::from_static("/queue"))
        );
        assert!(answer.headers["cache-control"].to_str().unwrap().contains("no-store"));
        assert!(!answer.headers.contains_key(SET_COOKIE));
    }
}
