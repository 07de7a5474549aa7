use super::*;
use std::collections::HashSet;

fn route(method: &str, target: &str) -> Result<RouteMatch, RouteError> {
    matched_route(&Method::from_bytes(method.as_bytes()).unwrap(), target, TABLE)
}

fn action(method: &str, target: &str) -> Option<Action> {
    route(method, target).unwrap_or_else(|error| panic!("{method} {target}: {error}")).action()
}

fn not_found(method: &str, target: &str) -> bool {
    matches!(route(method, target), Err(RouteError::NotFound { .. }))
}

/// A target that the pattern fits: every parameter filled in.
fn sample(entry: &Entry) -> String {
    let mut target = if entry.prefix == Prefix::ApiOnly { String::from("/api") } else { String::new() };
    for piece in entry.path.split('/').filter(|piece| !piece.is_empty()) {
        target.push('/');
        target.push_str(match piece {
            p if p.ends_with("%2F}") => "a%2Fb.json",
            p if p.ends_with("..web}") => "a/b.js",
            p if p.ends_with(".web}") => "b.css",
            p if p.ends_with("..}") => "a/b",
            p if p.starts_with('{') => "a",
            literal => literal,
        });
    }
    if entry.path == "/" { format!("{target}/") } else { target }
}

#[test]
fn every_entry_is_reached() {
    for entry in TABLE {
        for verb in entry.methods {
            let target = sample(entry);
            match route(verb.name(), &target) {
                Ok(found) => {
                    assert!(std::ptr::eq(found.entry, entry), "{} {target} reaches {}", verb.name(), found.entry.path)
                }
                Err(RouteError::NotFound { reason }) => {
                    assert_eq!(entry.handling, Handling::Refuse, "{} {target}", verb.name());
                    assert_eq!(
                        reason,
                        Some(entry.reason),
                        "{} {target} is refused for another entry's reason",
                        verb.name()
                    );
                }
                Err(error) => panic!("{} {target}: {error}", verb.name()),
            }
        }
    }
}

#[test]
fn every_entry_has_a_reason_and_methods() {
    for entry in TABLE {
        assert!(entry.reason.len() > 5 && !entry.methods.is_empty(), "{}", entry.path);
        assert!(!entry.methods.contains(&Verb::Options) && !entry.methods.contains(&Verb::Head), "{}", entry.path);
    }
}

#[test]
fn only_health_the_ca_and_the_login_are_public_and_only_files_are_signed() {
    let open: Vec<_> =
        TABLE.iter().filter(|entry| entry.access != Access::Credential).map(|entry| entry.path).collect();
    assert_eq!(
        open,
        [
            "/gate/health",
            "/gate/files/{file_id}",
            "/gate/ca.crt",
            "/gate/first",
            "/gate/first",
            "/gate/sessions",
            "/gate/sessions",
            "/gate/password",
            "/gate/oidc/callback",
            "/gate/oidc/callback/{provider}",
            "/gate/oidc/backchannel/{provider}",
            "/gate/oidc/{provider}",
            "/gate/login",
            "/gate/login",
            "/gate/logout",
            "/gate/logout"
        ]
    );
}

#[test]
fn only_userdata_may_hold_an_encoded_slash() {
    for entry in TABLE.iter().filter(|entry| entry.path.contains("%2F")) {
        assert!(entry.path.starts_with("/userdata/"), "{}", entry.path);
    }
}

#[test]
fn forwarded_is_get_without_body_only() {
    for entry in TABLE.iter().filter(|entry| entry.handling == Handling::Forward) {
        assert_eq!((entry.methods, entry.body), (GET, BodyRule::None), "{}", entry.path);
    }
}

#[test]
fn what_changes_something_is_never_reached_by_get() {
    let changes = [
        Action::SubmitPrompt,
        Action::ChangeQueue,
        Action::Interrupt,
        Action::Free,
        Action::ChangeHistory,
        Action::UploadImage,
        Action::UploadMask,
        Action::Login,
        Action::Logout,
        Action::First,
        Action::ChangeSessions,
        Action::ChangePassword,
    ];
    for entry in TABLE {
        if let Handling::Answer(action) = entry.handling
            && changes.contains(&action)
        {
            assert_eq!(entry.methods, POST, "{}", entry.path);
        }
    }
}

#[test]
fn no_action_stands_twice_but_where_comfyui_has_two_names_for_one() {
    let mut seen = HashSet::new();
    let answers = TABLE.iter().filter_map(|entry| match entry.handling {
        Handling::Answer(action) => Some((entry.path, action)),
        _ => None,
    });
    let again: Vec<_> = answers.filter(|(_, action)| !seen.insert(*action)).collect();
    assert_eq!(again, [("/history_v2/{prompt_id}", Action::HistoryEntry)]);
}

/// Every route of ComfyUI that the facts name (§1.1 to §1.6), with the fate that this release gives it.
#[test]
fn every_known_route_of_comfyui_has_its_fate() {
    let answered = [
        ("POST", "/prompt"),
        ("GET", "/prompt"),
        ("GET", "/queue"),
        ("POST", "/queue"),
        ("POST", "/interrupt"),
        ("POST", "/free"),
        ("GET", "/history"),
        ("GET", "/history/x"),
        ("POST", "/history"),
        ("GET", "/ws"),
        ("GET", "/view"),
        ("POST", "/upload/image"),
        ("POST", "/upload/mask"),
        ("GET", "/users"),
        ("GET", "/object_info"),
        ("GET", "/object_info/KSampler"),
        ("GET", "/features"),
        ("GET", "/system_stats"),
        ("GET", "/userdata"),
        ("GET", "/v2/userdata"),
        ("GET", "/userdata/a"),
        ("POST", "/userdata/a"),
        ("DELETE", "/userdata/a"),
        ("POST", "/userdata/a%2Fb/move/c%2Fd"),
        ("GET", "/settings"),
        ("POST", "/settings"),
        ("GET", "/settings/a"),
        ("POST", "/settings/Comfy.Gate.Test"),
        ("GET", "/models"),
        ("GET", "/models/loras"),
        ("GET", "/embeddings"),
        ("GET", "/experiment/models"),
        ("GET", "/experiment/models/loras"),
        ("GET", "/i18n"),
        ("GET", "/workflow_templates"),
        ("GET", "/workflow_templates/pack/a.json"),
        ("GET", "/global_subgraphs"),
        ("GET", "/global_subgraphs/a"),
        ("GET", "/node_replacements"),
    ];
    let api_answered = [
        ("GET", "/api/history_v2/x"),
        ("GET", "/api/jobs"),
        ("GET", "/api/jobs/x"),
        ("POST", "/api/jobs/x/cancel"),
        ("POST", "/api/jobs/cancel"),
    ];
    let forwarded = [
        "/",
        "/user.css",
        "/materialdesignicons.min.css",
        "/assets/index-B2rHQ9Sn.js",
        "/cursor/grab.svg",
        "/fonts/a.woff2",
        "/scripts/app.js",
        "/extensions/core/maskeditor.js",
        "/templates/index.json",
        "/docs/KSampler/en.md",
        "/extensions",
    ];
    for prefix in ["", "/api"] {
        for (method, path) in answered {
            assert!(action(method, &format!("{prefix}{path}")).is_some(), "{method} {path}");
        }
    }
    for (method, path) in api_answered {
        assert!(action(method, path).is_some(), "{method} {path}");
    }
    for path in forwarded {
        assert_eq!(route("GET", path).unwrap().entry.handling, Handling::Forward, "{path}");
    }
    assert_eq!(action("GET", "/internal/folder_paths"), Some(Action::FolderPaths));
    assert_eq!(action("GET", "/internal/logs"), Some(Action::Logs));
    assert_eq!(action("GET", "/internal/logs/raw"), Some(Action::RawLogs));
    assert_eq!(action("PATCH", "/internal/logs/subscribe"), Some(Action::SubscribeLogs));
    assert_eq!(action("GET", "/internal/files/output"), Some(Action::InternalFiles));
    let refused = [
        ("POST", "/users"),
        ("GET", "/experiment/models/preview/loras/0/a.png"),
        ("GET", "/openapi.yaml"),
        ("GET", "/api-docs"),
        ("GET", "/api/assets"),
        ("HEAD", "/api/assets/hash/x"),
        ("DELETE", "/api/assets/x"),
        ("POST", "/api/assets/from-hash"),
        ("GET", "/api/tags"),
        ("GET", "/api/tasks/x"),
        ("POST", "/models/download"),
        ("GET", "/models/download/x"),
        ("POST", "/v2/manager/queue/task"),
        ("GET", "/v2/customnode/installed"),
        ("GET", "/v2/snapshot/save"),
        ("GET", "/v2/comfyui_manager/comfyui_versions"),
        ("GET", "/v2/externalmodel/getlist"),
        ("GET", "/manager/notice"),
        ("POST", "/customnode/install/pip"),
        ("GET", "/snapshot/restore"),
        ("GET", "/comfyui_manager/a"),
        ("GET", "/externalmodel/a"),
    ];
    for (method, path) in refused {
        let answer = route(method, path);
        // POST /users and POST /models/download: another method of the path is served, yet this one is refused by name.
        assert!(matches!(answer, Err(RouteError::NotFound { .. })), "{method} {path}: {answer:?}");
    }
}

#[test]
fn internal_routes_have_no_api_alias_and_jobs_have_no_plain_form() {
    assert!(not_found("GET", "/api/internal/folder_paths"));
    assert!(not_found("GET", "/jobs"));
    assert!(not_found("GET", "/api/gate/health"));
}

#[test]
fn unknown_path_is_denied_for_every_method() {
    for verb in Verb::ALL {
        assert!(not_found(verb.name(), "/nosuch"), "{}", verb.name());
        assert!(not_found(verb.name(), "/manager/reboot"), "{}", verb.name());
    }
}

#[test]
fn another_method_of_a_known_path_is_told_what_is_allowed() {
    let Err(RouteError::MethodNotAllowed { allow }) = route("DELETE", "/prompt") else { panic!("accepted") };
    assert_eq!(allow.to_string(), "GET, HEAD, OPTIONS, POST");
    let Err(RouteError::MethodNotAllowed { allow }) = route("TRACE", "/gate/health") else { panic!("accepted") };
    assert_eq!(allow.to_string(), "GET, HEAD, OPTIONS");
    let Err(RouteError::MethodNotAllowed { allow }) = route("DELETE", "/users") else { panic!("accepted") };
    assert_eq!(allow.to_string(), "GET, HEAD, OPTIONS");
}

#[test]
fn parameters_come_decoded() {
    let found = route("GET", "/api/object_info/KSampler%20(Efficient)").unwrap();
    assert_eq!(found.params.named("class"), Some("KSampler (Efficient)"));
    let found = route("POST", "/api/userdata/workflows%2Fx.json/move/workflows%2Fy.json?overwrite=false").unwrap();
    assert_eq!(found.params.named("file"), Some("workflows/x.json"));
    assert_eq!(found.params.named("dest"), Some("workflows/y.json"));
}

#[test]
fn only_files_of_the_page_are_forwarded() {
    for path in [
        "/assets/a",
        "/assets/hash/x",
        "/extensions/pack/run",
        "/docs/",
        "/a.exe",
        "/assets/.js",
        "/api/assets/a.js",
        "/assets/a.js/",
    ] {
        assert!(not_found("GET", path), "{path}");
    }
    assert_eq!(route("GET", "/assets/a.JS?v=1&v=2").unwrap().entry.handling, Handling::Forward);
    assert!(route("POST", "/assets/a.js").is_err());
}

#[test]
fn signed_files_have_no_key_twice_and_others_only_no_known_one() {
    assert!(route("GET", "/gate/files/f?exp=1&sig=2").is_ok());
    assert!(matches!(route("GET", "/gate/files/f?exp=1&exp=2"), Err(RouteError::QueryKeyRepeated { .. })));
    assert!(route("GET", "/view?filename=a&rand=1&rand=2").is_ok());
}

// -- The bypass catalogue (facts §11), by number.

#[test]
fn bypass_14_api_prompt_is_the_same_entry_as_prompt() {
    assert!(std::ptr::eq(route("POST", "/api/prompt").unwrap().entry, route("POST", "/prompt").unwrap().entry));
}

#[test]
fn bypass_15_a_second_api_prefix_leads_nowhere() {
    for target in ["/api/api/jobs", "/api/api/prompt", "/api/api/"] {
        assert!(not_found("GET", target), "{target}");
    }
}

#[test]
fn bypass_16_encoded_prompt_path_is_refused() {
    for target in ["/%70rompt", "/api/%70rompt", "/%61pi/prompt", "/%73ystem_stats"] {
        assert_eq!(route("POST", target).unwrap_err(), RouteError::Odd(Odd::EncodedUnreserved), "{target}");
    }
}

#[test]
fn bypass_17_odd_spellings_never_become_a_hit() {
    for target in [
        "//prompt",
        "/prompt/",
        "/x/../prompt",
        "/./prompt",
        "/api%2fprompt",
        "/prompt%00",
        "/PROMPT",
        "/API/prompt",
        "/api//prompt",
    ] {
        assert!(route("POST", target).is_err(), "{target}");
    }
    assert_eq!(route("POST", "/api%2fprompt").unwrap_err(), RouteError::Odd(Odd::EncodedSlash));
    assert!(not_found("POST", "/PROMPT"));
}

#[test]
fn bypass_18_model_preview_is_denied_in_every_spelling() {
    let base = "/experiment/models/preview/checkpoints/0";
    for rest in ["/%2e%2e/%2e%2e/input/t/B/x.png", "//abs", "/%2fabs", "/x.png", "/../x.png"] {
        assert!(route("GET", &format!("{base}{rest}")).is_err(), "{rest}");
    }
}

#[test]
fn bypass_19_doubly_encoded_userdata_name_is_refused() {
    assert_eq!(route("GET", "/userdata/workflows%252F..%252Fx").unwrap_err(), RouteError::Odd(Odd::EncodedPercent));
    assert_eq!(route("GET", "/userdata/workflows%2F..%2Fx").unwrap_err(), RouteError::Odd(Odd::DotSegment));
    assert!(route("GET", "/userdata/workflows%2Fx.json").is_ok());
}

#[test]
fn bypass_20_a_known_query_key_stands_once() {
    for target in ["/view?type=input&type=output", "/view?type=input&%74ype=output", "/api/view?filename=a&filename=a"]
    {
        assert!(matches!(route("GET", target), Err(RouteError::QueryKeyRepeated { .. })), "{target}");
    }
    let found = route("GET", "/view?filename=a.png&type=output;type=temp").unwrap();
    assert_eq!(found.query.value("type"), Some("output;type=temp"));
}

#[test]
fn bypass_21_head_is_authorised_like_get_and_options_needs_a_credential() {
    for entry in TABLE.iter().filter(|entry| entry.methods.contains(&Verb::Get) && entry.handling != Handling::Refuse) {
        let head = route("HEAD", &sample(entry)).unwrap();
        assert!(std::ptr::eq(head.entry, route("GET", &sample(entry)).unwrap().entry), "{}", entry.path);
    }
    let options = route("OPTIONS", "/api/prompt").unwrap();
    assert_eq!((options.action(), options.entry.access), (Some(Action::Options), Access::Credential));
    assert_eq!(options.allow.to_string(), "GET, HEAD, OPTIONS, POST");
    assert!(not_found("OPTIONS", "/v2/manager/reboot"));
}

#[test]
fn bypass_22_routes_of_node_packs_are_denied() {
    for target in ["/easyuse/save/x", "/api/easyuse/save/x", "/impact/wildcards", "/pysssss/text/a.txt"] {
        assert!(not_found("POST", target) && not_found("GET", target), "{target}");
    }
}
