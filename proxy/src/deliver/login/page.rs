//! The pages: small, without script, and without anything from elsewhere.

use crate::deliver::answer::Answer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, SET_COOKIE};
use http::{HeaderValue, StatusCode};
use std::sync::LazyLock;

/// The one style sheet, named by its hash in the policy. Colours follow the system's; what is written and what has the focus stands out by at least 4.5:1 and 3:1 in both (WCAG 2.2 §1.4.3, §1.4.11).
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:24rem;margin:10vh auto;padding:0 1rem;background:Canvas;color:CanvasText}\
body:has(table){max-width:44rem;margin:5vh auto}\
h1{font-size:1.4rem}\
h2{font-size:1.1rem;margin-top:2rem}\
label{display:block;margin-top:1rem}\
input,button{font:inherit;width:100%;box-sizing:border-box;min-height:2.75rem;padding:.6rem;margin-top:.4rem;border:1px solid #767676;border-radius:.4rem}\
button{margin-top:1rem;cursor:pointer}\
:focus-visible{outline:3px solid #2a7de1;outline-offset:2px}\
[role=alert]{border-left:.3rem solid #d33;padding:.2rem 0 .2rem .8rem}\
ul{list-style:none;padding:0}\
a.way{display:block;min-height:1.55rem;padding:.6rem;margin-top:.6rem;border:1px solid #767676;border-radius:.4rem;text-align:center;color:CanvasText}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.4rem .8rem .4rem 0;vertical-align:middle}\
td button{margin:0;width:auto;padding:.4rem .8rem}\
p.small{font-size:.875rem}\
code{overflow-wrap:anywhere}";

/// Nothing but our own style, no script, no frame around us, and forms that go to us. `data:` is the empty icon, which spares a request.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// An identity provider that somebody may log in by: a plain link, since it leads away from here and changes nothing yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderLink {
    /// For people.
    pub name: String,
    /// A path of ours, with where to go afterwards.
    pub href: String,
}

/// The login page: the ways that are open here, and nothing of the others.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// Why the last try failed.
    pub notice: Option<&'a str>,
    /// Where both forms go, with where to go afterwards.
    pub action: &'a str,
    /// Whether there are local users.
    pub passwords: bool,
    /// Identity providers.
    pub providers: &'a [ProviderLink],
    /// Nobody can log in yet, and a link for the first user is out: then no other way is open.
    pub first: bool,
}

/// Where the link for the first user is, as docs/identity.md says. SECURITY: for every stranger, and the same at every gateway: no path, address or tenant of this one. That it has no account yet
/// they may know: it is worth nothing without the secret of the link, which is where only whoever runs the gateway reads it.
const FIRST: &str = "<p>Nobody has an account here yet. Whoever runs this gateway makes the first one by a one-time link. It stands on the terminal where the gateway was started; where that was no terminal, \
in the file <code>first-link</code> of its state directory: <code>sudo cat /var/lib/comfygate/first-link</code>, or with Docker <code>docker compose cp gateway:/var/lib/comfygate/first-link -</code>. \
The link is good for 30 minutes, and the next start makes another.</p>";

/// The login. All texts are escaped here.
pub fn login(page: Login<'_>) -> Answer {
    let described = described(page.notice);
    let action = escaped(page.action);
    if page.first {
        return page_of("Log in", &format!("{}{FIRST}", alert(page.notice)));
    }
    let (mut ways, mut focus) = (Vec::new(), " autofocus");
    if !page.providers.is_empty() {
        let link = |link: &ProviderLink| {
            format!(
                "<li><a class=\"way\" href=\"{}\">Log in with {}</a></li>",
                escaped(&link.href),
                escaped(&link.name)
            )
        };
        let links: String = page.providers.iter().map(link).collect();
        ways.push(("With an account elsewhere", format!("<ul>{links}</ul>")));
    }
    if page.passwords {
        ways.push((
            "With a user name and password",
            format!(
                "<form method=\"post\" action=\"{action}\">\
                 <label for=\"user\">User name</label>\
                 <input id=\"user\" name=\"user\" autocomplete=\"username\" autocapitalize=\"none\" spellcheck=\"false\" required{described}{focus}>\
                 <label for=\"password\">Password</label>\
                 <input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"current-password\" required{described}>\
                 <button>Log in</button></form>"
            ),
        ));
        focus = "";
    }
    ways.push((
        "With an API key",
        format!(
            "<form method=\"post\" action=\"{action}\">\
             <label for=\"key\">API key, which begins with <code>cg_</code></label>\
             <input id=\"key\" name=\"key\" type=\"password\" autocomplete=\"off\" required{described}{focus}>\
             <button>Log in with the key</button></form>\
             <p class=\"small\">Whoever runs this gateway makes keys with <code>comfygate key create</code>.</p>"
        ),
    ));
    let ways: String = ways.iter().map(|(title, way)| format!("<section><h2>{title}</h2>{way}</section>")).collect();
    page_of("Log in", &format!("{}{ways}", alert(page.notice)))
}

/// What a page says first, read out by a screen reader at once.
pub(super) fn alert(notice: Option<&str>) -> String {
    notice.map(|text| format!("<p role=\"alert\" id=\"notice\">{}</p>", escaped(text))).unwrap_or_default()
}

/// Ties a field to that text.
pub(super) fn described(notice: Option<&str>) -> &'static str {
    if notice.is_some() { " aria-describedby=\"notice\"" } else { "" }
}

/// The logout: a button, since a link alone would let another site's page log people out.
pub fn logout(tenant: &str, user: Option<&str>, action: &str) -> Answer {
    let who = user.map_or_else(|| escaped(tenant), |user| format!("{} of {}", escaped(user), escaped(tenant)));
    page_of(
        "Log out",
        &format!(
            "<p>You are logged in as {who}.</p><form method=\"post\" action=\"{}\"><button>Log out</button></form>",
            escaped(action)
        ),
    )
}

/// Logged out here, and on to the provider. Not by a redirect: browsers count those of a form as the form's own, and ours go to us (`form-action`).
pub fn leave(url: &str, cookie: Option<HeaderValue>) -> Answer {
    let url = escaped(url);
    let mut answer = whole_page(
        "Log out",
        &format!("<meta http-equiv=\"refresh\" content=\"0;url={url}\">"),
        &format!(
            "<p>You are logged out here.</p><p><a class=\"way\" href=\"{url}\">Log out at the identity provider too</a></p>"
        ),
    );
    if let Some(cookie) = cookie {
        answer.headers.insert(SET_COOKIE, cookie);
    }
    answer
}

/// Logged out, and nothing more to do.
pub fn left(login: &str) -> Answer {
    let login = escaped(login);
    page_of("Logged out", &format!("<p>You are logged out.</p><p><a class=\"way\" href=\"{login}\">Log in</a></p>"))
}

/// 303 to a path of ours, or to a provider, with cookies to set.
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

pub(super) fn page_of(title: &str, body: &str) -> Answer {
    whole_page(title, "", body)
}

fn whole_page(title: &str, head: &str, body: &str) -> Answer {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} – ComfyUI</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta name=\"robots\" content=\"noindex\">\
         <link rel=\"icon\" href=\"data:,\">{head}<style>{STYLE}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>\n"
    );
    let mut answer = Answer::bytes(StatusCode::OK, "text/html; charset=utf-8", Bytes::from(html));
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        answer.headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    // Never a query, which may hold a one-time token. Not `no-referrer`: browsers then send `Origin: null` with the form, which is a foreign page's.
    answer.headers.insert(REFERRER_POLICY, HeaderValue::from_static("strict-origin"));
    answer
}

/// For text and for attributes in double quotes.
pub(super) fn escaped(text: &str) -> String {
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

    const EMPTY: Login<'static> =
        Login { notice: None, action: "/gate/login", passwords: false, providers: &[], first: false };

    #[test]
    fn texts_and_targets_are_escaped() {
        let link = ProviderLink { name: "<b>P".into(), href: "/gate/oidc/p?next=\"><i>".into() };
        let text = login(Login {
            notice: Some("<b>&\"'"),
            action: "/gate/login?next=/\"><script>",
            passwords: true,
            providers: &[link],
            first: false,
        })
        .text();
        assert!(
            text.contains("&lt;b&gt;&amp;&quot;&#39;") && text.contains("next=/&quot;&gt;&lt;script&gt;"),
            "{text}"
        );
        assert!(!text.contains("<script") && !text.contains("<b>") && !text.contains("<i>"), "{text}");
        let text = logout("a<b", Some("u<v"), "/gate/logout").text();
        assert!(text.contains("u&lt;v of a&lt;b"), "{text}");
    }

    #[test]
    fn only_the_ways_that_are_open_are_shown_and_one_field_has_the_focus() {
        let keys_only = login(EMPTY).text();
        assert!(keys_only.contains("name=\"key\"") && !keys_only.contains("name=\"password\""), "{keys_only}");
        assert!(!keys_only.contains("account elsewhere"), "{keys_only}");
        let link = ProviderLink { name: "Example".into(), href: "/gate/oidc/example".into() };
        let all = login(Login { passwords: true, providers: &[link], ..EMPTY }).text();
        assert!(all.contains("<a class=\"way\" href=\"/gate/oidc/example\">Log in with Example</a>"), "{all}");
        assert!(
            all.contains("autocomplete=\"username\"") && all.contains("autocomplete=\"current-password\""),
            "{all}"
        );
        for page in [keys_only, all] {
            assert_eq!(page.matches("autofocus").count(), 1);
        }
    }

    #[test]
    fn where_nobody_can_log_in_yet_the_page_says_where_the_first_link_is_and_has_no_form_to_fill_in() {
        let page = login(Login { first: true, notice: Some("<No>"), ..EMPTY });
        let text = page.text();
        assert!(text.contains("<code>first-link</code> of its state directory"), "{text}");
        assert!(text.contains("role=\"alert\"") && text.contains("&lt;No&gt;"), "{text}");
        for absent in ["<form", "<input", "autofocus", "style=", "<script", "http:", "https:"] {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
        let usual = login(EMPTY).text();
        assert!(usual.contains("<form") && !usual.contains("first-link"), "{usual}");
    }

    #[test]
    fn every_field_has_a_label_and_is_tied_to_what_went_wrong() {
        let page = login(Login { passwords: true, notice: Some("No."), ..EMPTY }).text();
        for field in ["user", "password", "key"] {
            assert!(page.contains(&format!("<label for=\"{field}\">")) && page.contains(&format!("id=\"{field}\"")));
        }
        assert_eq!(page.matches("aria-describedby=\"notice\"").count(), 3);
        assert_eq!(page.matches("id=\"notice\"").count(), 1);
        assert!(!login(EMPTY).text().contains("notice"));
    }

    #[test]
    fn the_policy_allows_the_style_and_nothing_that_runs() {
        let answer = login(EMPTY);
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
