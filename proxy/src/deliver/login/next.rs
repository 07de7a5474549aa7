//! Where a browser goes after its login: back to where it was, on this gateway and nowhere else.

use std::fmt::Write as _;

/// Longest target that is kept; a longer one leads to the front page.
const NEXT_BYTES_MAX: usize = 2048;

/// The target, if it is a path of ours; else the front page. `prefix` is the path below which callers see us, without a slash at its end.
///
/// SECURITY: browsers take `//host` and `/\host` for other hosts, and skip tabs and line feeds; so a target is one slash, then printable ASCII without a backslash. Our own login and logout
/// lead nowhere.
pub fn checked(wanted: &str, prefix: &str) -> String {
    let front = || format!("{prefix}/");
    let Some(inside) = wanted.strip_prefix(prefix) else { return front() };
    let path = inside.strip_prefix('/');
    let own = path.is_some_and(|rest| !rest.starts_with('/'))
        && wanted.starts_with('/')
        && !wanted.starts_with("//")
        && wanted.len() <= NEXT_BYTES_MAX
        && wanted.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let leads_nowhere = path.is_some_and(|path| path.starts_with("gate/log") || path.starts_with("gate/oidc"));
    // What browsers take for a step up or for nothing, encoded too: it would lead out of the prefix, or to our own login after all.
    let is_dots = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    let steps = wanted.split(['?', '#']).next().is_some_and(|path| path.split('/').any(is_dots));
    if own && !leads_nowhere && !steps { wanted.to_owned() } else { front() }
}

/// The login page that leads to `target` afterwards.
pub fn login_url(target: &str, prefix: &str) -> String {
    let next = checked(target, prefix);
    if next == format!("{prefix}/") {
        return format!("{prefix}/gate/login");
    }
    format!("{prefix}/gate/login?next={}", escaped(&next))
}

/// The same, and it is shown even where one provider is the only way: whoever comes there has to press its link.
pub fn login_form_url(target: &str, prefix: &str) -> String {
    let url = login_url(target, prefix);
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}form")
}

/// The way to a provider, and from there to `target`.
pub fn provider_url(provider: &str, target: &str, prefix: &str) -> String {
    let next = checked(target, prefix);
    if next == format!("{prefix}/") {
        return format!("{prefix}/gate/oidc/{provider}");
    }
    format!("{prefix}/gate/oidc/{provider}?next={}", escaped(&next))
}

/// Percent-encoded but for what a query takes as it is (RFC 3986 §2.3) and the slash.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a text can't fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Query;

    #[test]
    fn own_paths_are_kept() {
        for own in
            ["/", "/..a/b..", "/?a=/../b", "/?a=b&c=%2F", "/api/view?filename=a%5Cb.png", "/a//b", "/workflows#x"]
        {
            assert_eq!(checked(own, ""), own);
        }
    }

    #[test]
    fn what_a_browser_may_take_for_another_place_leads_to_the_front_page() {
        for other in [
            "",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "https://evil.example",
            "javascript:alert(1)",
            "evil",
            "/\t/evil.example",
            "/a\nb",
            "/é",
            " /",
            "/gate/login",
            "/gate/logout?x",
            "/./gate/logout",
            "/a/../gate/login",
            "/%2E./b",
            "/a/..",
            "/gate/oidc/callback?code=a",
        ] {
            assert_eq!(checked(other, ""), "/", "{other:?}");
        }
    }

    #[test]
    fn the_longest_target_is_kept_and_one_more_is_not() {
        let inside = format!("/{}", "a".repeat(NEXT_BYTES_MAX - 1));
        assert_eq!(checked(&inside, ""), inside);
        assert_eq!(checked(&format!("{inside}a"), ""), "/");
    }

    #[test]
    fn below_a_prefix_only_what_is_below_it_is_own() {
        assert_eq!(checked("/comfy/queue", "/comfy"), "/comfy/queue");
        for other in [
            "/comfy/../other",
            "/comfy/%2e%2e/other",
            "/queue",
            "/comfyx",
            "/comfy//evil",
            "/comfy",
            "/comfy/gate/login",
        ] {
            assert_eq!(checked(other, "/comfy"), "/comfy/", "{other}");
        }
    }

    #[test]
    fn the_target_comes_back_from_the_login_pages_query() {
        let target = "/api/view?filename=a%20b.png&type=output+x";
        let url = login_url(target, "");
        let query = Query::parse(url.split_once('?').unwrap().1).unwrap();
        assert_eq!(query.value("next"), Some(target));
        assert_eq!(login_url("/", ""), "/gate/login");
        assert_eq!(login_url("//evil.example", ""), "/gate/login");
        assert_eq!(provider_url("studio", "/", ""), "/gate/oidc/studio");
        assert_eq!(provider_url("studio", "/comfy/a b?c", "/comfy"), "/comfy/gate/oidc/studio");
        assert_eq!(provider_url("studio", "/comfy/a?c", "/comfy"), "/comfy/gate/oidc/studio?next=/comfy/a%3Fc");
    }
}
