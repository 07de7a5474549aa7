//! Stage 2: the default-deny table as a caller sees it.

use bytes::Bytes;
use comfygate_tests::{Client, Gateway};
use http::Method;
use serde_json::Value;

/// Rows that answer 200 to a `GET` of an authenticated caller, with whether the `/api` twin does too.
const ANSWERED: &[(&str, bool)] = &[
    ("/prompt", true),
    ("/queue", true),
    ("/history", true),
    ("/history?max_items=3&offset=0", true),
    ("/history/nothing-of-this-name", true),
    ("/users", true),
    ("/features", true),
    ("/system_stats", true),
    ("/object_info", true),
    ("/object_info/EmptyImage", true),
    ("/userdata?dir=.", true),
    ("/v2/userdata", true),
    ("/settings", true),
    ("/settings/Comfy.Colour", true),
    ("/models", true),
    ("/models/checkpoints", true),
    ("/embeddings", true),
    ("/experiment/models", true),
    ("/experiment/models/loras", true),
    ("/i18n", true),
    ("/workflow_templates", true),
    ("/global_subgraphs", true),
    ("/global_subgraphs/x", true),
    ("/node_replacements", true),
    ("/internal/folder_paths", false),
    ("/internal/logs", false),
    ("/internal/logs/raw", false),
    ("/gate/me", false),
    ("/gate/health", false),
];

/// What is not there: refused rows, routes of other versions and packs, and nonsense.
const NOT_THERE: &[(&str, &str)] = &[
    ("GET", "/nowhere"),
    ("POST", "/nowhere"),
    ("GET", "/jobs"),
    ("GET", "/api/internal/logs"),
    ("GET", "/api/gate/me"),
    ("GET", "/api/api/queue"),
    ("GET", "/internal/anything"),
    ("GET", "/experiment/models/preview/checkpoints/0/a.png"),
    ("GET", "/api/assets"),
    ("POST", "/api/assets/from-hash"),
    ("POST", "/api/assets/download"),
    ("GET", "/api/tags"),
    ("GET", "/api/tasks/1"),
    ("POST", "/models/download"),
    ("GET", "/v2/manager/reboot"),
    ("GET", "/api/v2/manager/reboot"),
    ("POST", "/v2/customnode/install/git_url"),
    ("POST", "/v2/customnode/install/pip"),
    ("GET", "/v2/snapshot/restore"),
    ("GET", "/v2/comfyui_manager/comfyui_switch_version"),
    ("GET", "/v2/externalmodel/getlist"),
    ("GET", "/manager/reboot"),
    ("POST", "/customnode/install"),
    ("GET", "/snapshot/restore"),
    ("POST", "/easyuse/save/x"),
    ("POST", "/users"),
    ("GET", "/openapi.yaml"),
    ("GET", "/api-docs"),
    ("GET", "/queue/"),
    ("GET", "/QUEUE"),
];

async fn gateway() -> (Gateway, Client) {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    (gateway, acme)
}

async fn ask(client: &Client, method: &str, path: &str) -> comfygate_tests::Response {
    client.call(method.parse().unwrap(), path, &[], Bytes::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_built_row_answers_plain_and_under_api() {
    let (_gateway, acme) = gateway().await;
    for (path, twin) in ANSWERED {
        let plain = acme.get(path).await.expect(200);
        let api = acme.get(&format!("/api{path}")).await;
        match twin {
            true => assert_eq!(plain.json(), api.expect(200).json(), "{path}"),
            false => assert_eq!(api.status, 404, "/api{path}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_table_is_not_there() {
    let (_gateway, acme) = gateway().await;
    for (method, path) in NOT_THERE {
        let answer = ask(&acme, method, path).await;
        // A known path with another method is 405, which tells nothing that the table in the documentation does not.
        assert!(matches!(answer.status.as_u16(), 404 | 405), "{method} {path}: {} {}", answer.status, answer.text());
    }
    let nothing = ask(&acme, "GET", "/nowhere").await.expect(404).json();
    let refused = ask(&acme, "GET", "/v2/manager/reboot").await.expect(404).json();
    assert_eq!(
        (&nothing["code"], &nothing["detail"]),
        (&refused["code"], &refused["detail"]),
        "a refused row answers like nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_learns_nothing_about_the_table() {
    let (gateway, _acme) = gateway().await;
    let stranger = gateway.stranger();
    let cases = [
        ("GET", "/queue"),
        ("GET", "/nowhere"),
        ("GET", "/v2/manager/reboot"),
        ("GET", "/settings"),
        ("POST", "/prompt"),
        ("GET", "/"),
        ("GET", "/ws"),
    ];
    for (number, (method, path)) in cases.into_iter().enumerate() {
        let stranger = stranger.from_address([127, 0, 1, u8::try_from(number).unwrap() + 1]);
        let answer = ask(&stranger, method, path).await;
        assert_eq!(answer.status, 401, "{method} {path}");
        assert!(answer.header("www-authenticate").is_some(), "{method} {path}");
    }
    stranger.get("/gate/health").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_paths_are_refused_and_never_repaired_into_a_hit() {
    let (_gateway, acme) = gateway().await;
    let cases = [
        "//queue",
        "/./queue",
        "/x/../queue",
        "/%2e/queue",
        "/x/%2e%2e/queue",
        "/%71ueue",
        "/api/%71ueue",
        "/api%2fqueue",
        "/queue%00",
        "/queue;a=b",
        "/queue%5c",
        "/queue%3b",
        "/%zz",
        "/queue%",
        "/history/a%2Fb",
        "/userdata/a%252Fb",
        "/userdata/..%2Fb",
        "/userdata/a%2F%2E%2E%2Fb",
    ];
    for path in cases {
        let answer = acme
            .raw(
                format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{}\r\n", acme.authority(), acme.credential_lines())
                    .as_bytes(),
            )
            .await;
        let answer = answer.unwrap();
        assert!(matches!(answer.status, 400 | 404), "{path}: {} {}", answer.status, answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_of_2_kib_passes_and_a_longer_one_is_refused() {
    let (_gateway, acme) = gateway().await;
    let padded = |bytes: usize| format!("/history/{}", "a".repeat(bytes - "/history/".len()));
    assert_eq!(acme.get(&padded(2048)).await.expect(200).json(), serde_json::json!({}));
    let longer = acme.get(&padded(2049)).await;
    assert!(matches!(longer.status.as_u16(), 400 | 404 | 414), "{}", longer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_path_with_another_method_is_405_and_names_the_methods() {
    let (_gateway, acme) = gateway().await;
    let answer = ask(&acme, "DELETE", "/prompt").await.expect(405);
    let allow = answer.header("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_answers_as_get_without_a_body() {
    let (_gateway, acme) = gateway().await;
    for path in ["/queue", "/history", "/features"] {
        let (get, head) = (acme.get(path).await.expect(200), ask(&acme, "HEAD", path).await.expect(200));
        assert!(head.body.is_empty());
        assert_eq!(get.header("content-type"), head.header("content-type"));
        assert_eq!(get.header("content-length"), head.header("content-length"), "{path}");
    }
    ask(&acme, "HEAD", "/nowhere").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_is_answered_here_without_cors() {
    let (_gateway, acme) = gateway().await;
    let headers = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    let answer = acme.call(Method::OPTIONS, "/prompt", &headers, Bytes::new()).await.expect(204);
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{:?}", answer.headers);
    ask(&acme, "OPTIONS", "/nowhere").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrubbed_answers_hold_nothing_about_the_host() {
    let (_gateway, acme) = gateway().await;
    let stats = acme.get("/system_stats").await.expect(200).json();
    for gone in ["/system/argv", "/system/python_version", "/system/os", "/system/embedded_python"] {
        assert!(stats.pointer(gone).is_none_or(|value| !value.to_string().contains('/')), "{gone}: {stats}");
    }
    assert!(stats.pointer("/system/argv").is_none_or(|argv| argv.as_array().is_some_and(Vec::is_empty)), "{stats}");
    assert_eq!(acme.get("/users").await.expect(200).json()["storage"], "server");
    let folders = acme.get("/internal/folder_paths").await.expect(200).json();
    assert!(!folders.to_string().contains('/'), "{folders}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_info_shows_what_the_policy_allows_and_no_files() {
    let (gateway, acme) = gateway().await;
    std::fs::write(gateway.stand_ins()[0].directory().join("input/secret-of-another.png"), b"x").unwrap();
    let all = acme.get("/object_info").await.expect(200);
    assert!(!all.text().contains("secret-of-another"));
    let all = all.json();
    assert!(all.get("EmptyImage").is_some() && all.get("SaveImage").is_some() && all.get("KSampler").is_some());
    for denied in ["SaveSVGNode", "Preview3D", "LoadLatent", "CheckpointSave"] {
        assert!(all.get(denied).is_none(), "{denied} is denied by the policy");
        assert_eq!(acme.get(&format!("/object_info/{denied}")).await.expect(200).json(), serde_json::json!({}));
    }
    let one = acme.get("/object_info/EmptyImage").await.expect(200).json();
    assert_eq!(one["EmptyImage"], all["EmptyImage"]);
    assert_eq!(acme.get("/object_info/NoSuchClass").await.expect(200).json(), serde_json::json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_forwarded_without_the_callers_credential() {
    let (gateway, acme) = gateway().await;
    // Not looked at by the harness's list of headers: the file is the backend's.
    let bytes = format!(
        "GET / HTTP/1.1\r\nhost: {}\r\n{}comfy-user: admin\r\nx-forwarded-for: 1.2.3.4\r\n\r\n",
        acme.authority(),
        acme.credential_lines()
    );
    let page = acme.raw(bytes.as_bytes()).await.unwrap();
    assert_eq!(page.status, 200, "{}", page.head);
    let seen = gateway.stand_ins()[0].requests().into_iter().find(|seen| seen.1 == "/").expect("forwarded");
    for header in ["authorization", "x-api-key", "cookie", "comfy-user", "x-forwarded-for", "origin"] {
        assert!(!seen.2.contains_key(header), "{header} went upstream: {:?}", seen.2);
    }
    assert!(
        acme.raw(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap().status == 401,
        "the page needs a credential"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_me_tells_the_caller_who_it_is() {
    let (_gateway, acme) = gateway().await;
    let me: Value = acme.get("/gate/me").await.expect(200).json();
    assert_eq!(
        (&me["tenant"], &me["plan"], &me["policy"]),
        (&"acme".into(), &"usual".into(), &"default".into()),
        "{me}"
    );
    assert_eq!(me["queue_remaining"], 0);
}
