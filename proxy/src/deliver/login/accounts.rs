//! The pages of whoever has an account: where one is logged in, another password, and what stands behind a one-time link.

use super::page::{alert, described, escaped, page_of};
use crate::authenticate::passwords::{CHARS_MAX, CHARS_MIN};
use crate::calendar::Day;
use crate::clock::WallMillis;
use crate::deliver::answer::Answer;
use crate::ids::SessionId;
use std::fmt::Write as _;

/// One session in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub id: SessionId,
    /// How it was begun, for people.
    pub by: String,
    /// The kind of browser, or what is said instead.
    pub browser: String,
    /// When it was begun.
    pub created_at: WallMillis,
    /// When it was used last.
    pub seen_at: WallMillis,
    /// Whether it is the one that asks.
    pub own: bool,
}

/// Where somebody is logged in.
#[derive(Debug, Clone, Copy)]
pub struct SessionsPage<'a> {
    /// Why the last change was refused.
    pub notice: Option<&'a str>,
    /// Whose.
    pub tenant: &'a str,
    /// The person, if it is one.
    pub user: Option<&'a str>,
    /// The sessions, the oldest first.
    pub sessions: &'a [Listed],
    /// The login name, where the session was begun by password: then there is a form for another one.
    pub password_of: Option<&'a str>,
    /// The path below which callers see us.
    pub prefix: &'a str,
}

/// The list, with a button for each session.
pub fn sessions(page: &SessionsPage<'_>) -> Answer {
    let (tenant, prefix) = (escaped(page.tenant), escaped(page.prefix));
    let who = page.user.map_or_else(|| tenant.clone(), |user| format!("{} of {tenant}", escaped(user)));
    let mut body = format!("{}<p>You are logged in as {who}.</p>", alert(page.notice));
    body.push_str("<table><caption>Where you are logged in; times are in UTC</caption><thead><tr><th scope=\"col\">Browser</th><th scope=\"col\">By</th><th scope=\"col\">Since</th><th scope=\"col\">Last used</th><th scope=\"col\">End</th></tr></thead><tbody>");
    for session in page.sessions {
        let (since, seen) = (utc(session.created_at), utc(session.seen_at));
        let (here, button) = if session.own { (" (this one)", "Log out") } else { ("", "End") };
        let named = format!("{button}: {}, since {since}", escaped(&session.browser));
        // Writing to a text can't fail.
        let _ = write!(
            body,
            "<tr><td>{}{here}</td><td>{}</td><td>{since}</td><td>{seen}</td><td><form method=\"post\" action=\"{prefix}/gate/sessions\"><input type=\"hidden\" name=\"end\" value=\"{}\"><button aria-label=\"{named}\">{button}</button></form></td></tr>",
            escaped(&session.browser),
            escaped(&session.by),
            session.id,
        );
    }
    body.push_str("</tbody></table>");
    if page.sessions.len() > 1 {
        let _ = write!(
            body,
            "<form method=\"post\" action=\"{prefix}/gate/sessions\"><input type=\"hidden\" name=\"others\" value=\"1\"><button>End all others</button></form>"
        );
    }
    if let Some(name) = page.password_of {
        let _ = write!(
            body,
            "<h2>Another password</h2><p class=\"small\">All other sessions by password end.</p>\
             <form method=\"post\" action=\"{prefix}/gate/password\">\
             <input type=\"hidden\" name=\"user\" value=\"{}\" autocomplete=\"username\">\
             <label for=\"old\">Present password</label>\
             <input id=\"old\" name=\"old\" type=\"password\" autocomplete=\"current-password\" required{}>{}\
             <button>Change the password</button></form>",
            escaped(name),
            described(page.notice),
            new_password(described(page.notice)),
        );
    }
    let _ = write!(body, "<p><a href=\"{prefix}/\">Back to ComfyUI</a></p>");
    page_of("Your sessions", &body)
}

/// What stands behind a one-time link.
#[derive(Debug, Clone, Copy)]
pub struct FirstPage<'a> {
    /// Why the last try failed.
    pub notice: Option<&'a str>,
    /// The link's secret, to be sent along.
    pub token: &'a str,
    /// The login name: given by the link, or as it was typed before.
    pub name: &'a str,
    /// Whether the link gives the name.
    pub fixed: bool,
    /// Whose the user is.
    pub tenant: &'a str,
    /// The path below which callers see us.
    pub prefix: &'a str,
}

/// The form for a password, and for a name where the link gives none.
pub fn first(page: &FirstPage<'_>) -> Answer {
    let described = described(page.notice);
    let (title, readonly, button) = if page.fixed {
        ("Choose a password", " readonly", "Save and log in")
    } else {
        ("Make the first user", "", "Make the user and log in")
    };
    let focus = if page.fixed { "" } else { " autofocus" };
    page_of(
        title,
        &format!(
            "{}<p>A user of the tenant {}. This link is used up by the button, not by looking at this page.</p>\
             <form method=\"post\" action=\"{}/gate/first\">\
             <input type=\"hidden\" name=\"token\" value=\"{}\">\
             <label for=\"user\">User name</label>\
             <input id=\"user\" name=\"user\" value=\"{}\" autocomplete=\"username\" autocapitalize=\"none\" spellcheck=\"false\" required{readonly}{described}{focus}>{}\
             <button>{button}</button></form>",
            alert(page.notice),
            escaped(page.tenant),
            escaped(page.prefix),
            escaped(page.token),
            escaped(page.name),
            new_password(described),
        ),
    )
}

/// A page that says no, and where to go from there.
pub fn told(title: &str, text: &str, prefix: &str) -> Answer {
    let body = format!("{}<p><a href=\"{}/\">To ComfyUI</a></p>", alert(Some(text)), escaped(prefix));
    page_of(title, &body)
}

fn new_password(described: &str) -> String {
    format!(
        "<label for=\"password\">New password, {CHARS_MIN} to {CHARS_MAX} characters</label>\
         <input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"new-password\" minlength=\"{CHARS_MIN}\" required{described}>\
         <label for=\"again\">The same again</label>\
         <input id=\"again\" name=\"again\" type=\"password\" autocomplete=\"new-password\" minlength=\"{CHARS_MIN}\" required{described}>"
    )
}

/// `2026-01-02 03:04`.
fn utc(at: WallMillis) -> String {
    let day = Day::of(at);
    let ((year, month, day), minutes) = (day.civil(), at.since(day.start()).as_secs() / 60);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_with(sessions: &[Listed], password_of: Option<&str>, notice: Option<&str>) -> String {
        let page = SessionsPage { notice, tenant: "a<b", user: Some("u<v"), sessions, password_of, prefix: "/comfy" };
        super::sessions(&page).text()
    }

    fn listed(own: bool) -> Listed {
        Listed {
            id: SessionId::new(),
            by: "password".into(),
            browser: "<i>".into(),
            created_at: WallMillis(951_782_399_999),
            seen_at: WallMillis(951_782_400_000),
            own,
        }
    }

    #[test]
    fn each_session_has_its_times_and_a_button_of_its_own() {
        let (own, other) = (listed(true), listed(false));
        let text = page_with(&[own.clone(), other.clone()], None, None);
        assert!(text.contains("u&lt;v of a&lt;b") && !text.contains("<i>"), "{text}");
        assert!(text.contains("2000-02-28 23:59") && text.contains("2000-02-29 00:00"), "{text}");
        for session in [&own, &other] {
            assert!(text.contains(&format!("name=\"end\" value=\"{}\"", session.id)), "{text}");
        }
        assert_eq!((text.matches("(this one)").count(), text.matches("name=\"others\"").count()), (1, 1));
        assert_eq!(text.matches("action=\"/comfy/gate/sessions\"").count(), 3);
        assert!(!text.contains("type=\"password\""), "{text}");
        assert!(!page_with(&[own], None, None).contains("name=\"others\""));
    }

    #[test]
    fn another_password_is_asked_of_whoever_has_one_and_faults_are_tied_to_the_fields() {
        let text = page_with(&[listed(true)], Some("ann"), Some("No <way>."));
        assert!(text.contains("action=\"/comfy/gate/password\"") && text.contains("No &lt;way&gt;."), "{text}");
        for (field, kind) in [("old", "current-password"), ("password", "new-password"), ("again", "new-password")] {
            assert!(text.contains(&format!("<label for=\"{field}\">")), "{text}");
            assert!(text.contains(&format!("name=\"{field}\" type=\"password\" autocomplete=\"{kind}\"")), "{text}");
        }
        assert_eq!(text.matches("aria-describedby=\"notice\"").count(), 3);
    }

    #[test]
    fn a_link_with_a_name_keeps_it_and_one_without_asks_for_it() {
        let page = FirstPage { notice: None, token: "\"><b>", name: "ann", fixed: true, tenant: "t", prefix: "" };
        let text = first(&page).text();
        assert!(text.contains("value=\"ann\"") && text.contains(" readonly"), "{text}");
        assert!(text.contains("&quot;&gt;&lt;b&gt;") && !text.contains("<b>"), "{text}");
        let text = first(&FirstPage { fixed: false, name: "", ..page }).text();
        assert!(text.contains("autofocus") && !text.contains("readonly"), "{text}");
    }
}
