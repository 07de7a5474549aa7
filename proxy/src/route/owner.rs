//! What a request means where the backend is the caller's own installation (owner posture): more than the table says, by three rules.
//!
//! 1. A path that the table does not know is a route of a node pack and is forwarded, any method, streaming.
//! 2. An entry may say that it is the backend's own in this posture ([`InOwner::Forward`]) or part of a bundle that the policy opens by name
//!    ([`InOwner::Bundle`]).
//! 3. Everything else is as the table says: what names a prompt or a file stays ours.
//!
//! Odd targets stay refused, and so does a second `/api`: ComfyUI's aliases of its own routes must not lead round the table (facts §1).

use super::table::{Entry, Handling, Verb};
use super::{Query, RoutePath, normalise};
use comfygate_policy::RouteBundle;
use http::Method;

/// What changes about an entry where the backend is the caller's own installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InOwner {
    /// Nothing.
    Same,
    /// The backend answers itself.
    Forward,
    /// The backend answers itself, if the policy opens the bundle.
    Bundle(RouteBundle),
}

/// A request that goes to the caller's own backend as it stands.
#[derive(Debug, Clone)]
pub struct OwnerRoute {
    /// Where to; its query is sent on.
    pub path: RoutePath,
    /// For metrics and logs: the entry's path, or `{pack}`.
    pub label: &'static str,
    /// Which bundle must be open.
    pub bundle: Option<RouteBundle>,
    /// Whether the table knows it: then ComfyUI's own code answers, else a pack's.
    pub known: bool,
}

/// First segments that are never a pack's: ours, and a second `/api`.
const RESERVED: [&str; 2] = ["api", "gate"];

/// Where the owner posture leads, if elsewhere than the table.
pub fn owner_route(method: &Method, raw_target: &str, table: &'static [Entry]) -> Option<OwnerRoute> {
    let path = normalise(raw_target).ok()?;
    let verb = Verb::of(method).filter(|verb| *verb != Verb::Options)?;
    if path.segments().iter().any(super::path::Segment::holds_slash) {
        return None;
    }
    let fitting: Vec<&'static Entry> = table.iter().filter(|entry| entry.fits(&path).is_some()).collect();
    let pack = |path| OwnerRoute { path, label: "{pack}", bundle: None, known: false };
    let Some(entry) = fitting.iter().find(|entry| entry.takes(verb)) else {
        let reserved = path.segments().first().is_none_or(|first| RESERVED.contains(&first.text()));
        // Another method on a path of the page's files is a pack's; on any other path of the table it stays 405.
        let free = fitting.iter().all(|entry| entry.handling == Handling::Forward);
        return (free && !reserved && !is_table_path_with_slash(raw_target, table)).then(|| pack(path));
    };
    match entry.in_owner {
        InOwner::Same => None,
        InOwner::Forward => Some(OwnerRoute { path, label: entry.path, bundle: None, known: true }),
        InOwner::Bundle(bundle) => Some(OwnerRoute { path, label: entry.path, bundle: Some(bundle), known: true }),
    }
}

/// Whether the path is one of the table but for a slash at its end. SECURITY: no entry fits it then, and ComfyUI has a route that takes anything at its end (`{filename:.*}`).
fn is_table_path_with_slash(raw_target: &str, table: &'static [Entry]) -> bool {
    let path = raw_target.split_once('?').map_or(raw_target, |(path, _)| path);
    let Some(Ok(bare)) = path.strip_suffix('/').map(normalise) else { return false };
    table.iter().any(|entry| entry.handling != Handling::Forward && entry.fits(&bare).is_some())
}

/// Whether a `/view` query names a file of the installation's own directories, outside the folders that the gateway gives out (`t/…`), in no odd way.
pub fn is_own_disk(query: &Query) -> bool {
    let part = |key: &str| query.value(key).unwrap_or_default();
    let (filename, subfolder) = (part("filename"), part("subfolder"));
    let plain = |text: &str| {
        !text.contains(['\\', '\0'])
            && !text.starts_with('/')
            && text.split('/').all(|piece| piece != ".." && piece != ".")
    };
    let first = |text: &str| text.split('/').find(|piece| !piece.is_empty()).map(str::to_owned);
    let joined = format!("{subfolder}/{filename}");
    !filename.is_empty() && plain(filename) && plain(subfolder) && first(&joined).as_deref() != Some("t")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::TABLE;

    fn led(method: &str, target: &str) -> Option<(&'static str, Option<RouteBundle>, bool)> {
        let found = owner_route(&Method::from_bytes(method.as_bytes()).unwrap(), target, TABLE)?;
        Some((found.label, found.bundle, found.known))
    }

    #[test]
    fn what_the_table_does_not_know_is_a_packs_by_any_method() {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            assert_eq!(led(method, "/easyuse/save/x"), Some(("{pack}", None, false)), "{method}");
        }
        assert_eq!(led("GET", "/api/impact/wildcards?x=1"), Some(("{pack}", None, false)));
        assert_eq!(led("GET", "/pack/trailing/"), Some(("{pack}", None, false)));
        assert_eq!(led("POST", "/extensions/pack/save.json"), Some(("{pack}", None, false)));
        assert_eq!(led("OPTIONS", "/easyuse/save/x"), None);
    }

    #[test]
    fn what_names_prompts_and_files_stays_ours() {
        for (method, target) in [
            ("POST", "/prompt"),
            ("GET", "/queue"),
            ("GET", "/api/history/x"),
            ("GET", "/view?filename=x"),
            ("GET", "/ws"),
            ("POST", "/upload/image"),
            ("GET", "/userdata/x"),
            ("GET", "/settings"),
            ("POST", "/users"),
            ("DELETE", "/prompt"),
            ("GET", "/internal/files/output"),
            ("GET", "/internal/other"),
            ("GET", "/api/assets"),
            ("GET", "/gate/x"),
            ("GET", "/experiment/models/preview/x/0/y.png"),
        ] {
            assert_eq!(led(method, target), None, "{method} {target}");
        }
    }

    #[test]
    fn no_alias_and_no_odd_spelling_leads_round_the_table() {
        for target in [
            "/api/api/prompt",
            "/api/api/jobs",
            "/api/gate/me",
            "//prompt",
            "/x/../prompt",
            "/%70rompt",
            "/x%2Fprompt",
            "/x%252F",
            "/x;y",
            "/api",
            "/",
        ] {
            assert_eq!(led("POST", target), None, "{target}");
        }
    }

    #[test]
    fn a_slash_at_the_end_leads_no_path_of_the_table_round_it() {
        for target in [
            "/experiment/models/preview/loras/0/sub/",
            "/api/experiment/models/preview/loras/0/sub/?x=1",
            "/v2/manager/reboot/",
            "/customnode/getlist/",
            "/api/assets/x/",
            "/internal/files/output/",
            "/prompt/",
        ] {
            assert_eq!(led("GET", target), None, "{target}");
        }
        assert_eq!(led("GET", "/easyuse/save/?x=/"), Some(("{pack}", None, false)));
    }

    #[test]
    fn some_answers_are_the_backends_own_and_managers_routes_are_a_bundle() {
        assert_eq!(led("GET", "/internal/logs/raw"), Some(("/internal/logs/raw", None, true)));
        assert_eq!(led("GET", "/view_metadata/loras?filename=x"), Some(("/view_metadata/{folder}", None, true)));
        for target in ["/v2/manager/reboot", "/api/customnode/getlist", "/snapshot/restore", "/externalmodel/getlist"] {
            assert_eq!(led("GET", target).map(|found| found.1), Some(Some(RouteBundle::Manager)), "{target}");
        }
    }

    #[test]
    fn a_view_of_the_disk_leaves_its_directory_and_enters_our_folders_in_no_way() {
        let own = |query: &str| is_own_disk(&Query::parse(query).unwrap());
        assert!(own("filename=a.png&type=input"));
        assert!(own("filename=a.png&subfolder=pets/cats"));
        for bad in [
            "filename=",
            "subfolder=x",
            "filename=../a.png",
            "filename=/etc/x.png",
            "filename=a.png&subfolder=..",
            "filename=a.png&subfolder=/etc",
            "filename=a.png&subfolder=t/x/y",
            "filename=t/x/y.png",
            "filename=a.png&subfolder=t",
            "filename=x/t/y.png&subfolder=t",
            "filename=a%5Cb.png",
        ] {
            assert!(!own(bad), "{bad}");
        }
    }
}
