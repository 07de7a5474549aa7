//! Pages of other sites: what a tenant's list lets them do, and that nothing else does. Entries 10, 21, 105, 106 and 114 of the bypass catalogue are about the same from the other side.

use comfygate_tests::{Browser, Client, Gateway, Response, workflows};
use http::Method;
use serde_json::json;

const APP: &str = "https://app.example.com";
const EVIL: &str = "https://evil.example";

async fn gateway() -> Gateway {
    let gateway = Gateway::builder().stand_ins(1).prepare().await;
    gateway.edit("tenants.toml", |text| {
        text.replace(
            "id = \"acme\"\nplan = \"usual\"\n",
            &format!("id = \"acme\"\nplan = \"usual\"\ncors_origins = [\"{APP}\"]\n"),
        )
    });
    let mut gateway = gateway;
    gateway.start().await;
    gateway.backends_are_up().await;
    gateway
}

async fn preflight(client: &Client, path: &str, origin: &str) -> Response {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    client.call(Method::OPTIONS, path, &headers, bytes::Bytes::new()).await
}

/// Whose page may read it.
fn readers(answer: &Response) -> Option<&str> {
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    answer.header("access-control-allow-origin")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_is_answered_without_a_credential_and_tells_no_paths() {
    let gateway = gateway().await;
    let stranger = gateway.stranger();
    let listed = preflight(&stranger, "/prompt", APP).await.expect(204);
    assert_eq!(readers(&listed), Some(APP));
    assert!(listed.header("access-control-allow-headers").unwrap().contains("Authorization"));
    assert!(listed.header("access-control-allow-methods").unwrap().contains("POST"));
    assert_eq!(listed.header("access-control-max-age"), Some("3600"));
    for path in ["/api/prompt", "/nowhere", "/v2/manager/reboot", "/gate/me"] {
        let other = preflight(&stranger, path, APP).await;
        assert_eq!(other.without_request_id(), listed.without_request_id(), "{path}");
    }
    for origin in
        [EVIL, "null", "http://app.example.com", "https://app.example.com:8443", "https://sub.app.example.com"]
    {
        let unlisted = preflight(&stranger, "/prompt", origin).await.expect(204);
        assert_eq!(readers(&unlisted), None, "{origin}");
        assert_eq!(unlisted.header("access-control-allow-methods"), None);
    }
    // What is no preflight is authenticated as ever (bypass 21).
    let plain = stranger.call(Method::OPTIONS, "/prompt", &[("origin", APP)], bytes::Bytes::new()).await;
    assert_eq!(plain.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_page_works_with_a_key_of_its_tenant() {
    let gateway = gateway().await;
    let acme = gateway.client("acme");
    let page = acme.and(&[("origin", APP), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")]);
    let answer = page.post("/prompt", &json!({"prompt": workflows::quick("by-a-page")})).await.expect(200);
    assert_eq!(readers(&answer), Some(APP));
    assert_eq!(answer.header("vary"), Some("Origin"));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("RateLimit-Remaining"));
    let prompt = answer.json()["prompt_id"].as_str().unwrap().to_owned();
    acme.finished(&prompt).await;
    for path in ["/queue", "/history", "/object_info", "/"] {
        assert_eq!(readers(&page.get(path).await.expect(200)), Some(APP), "{path}");
    }
    // Refusals too, so that the page can say why.
    assert_eq!(readers(&page.get("/nowhere").await.expect(404)), Some(APP));
    assert!(page.get("/object_info").await.header("vary").is_some_and(|vary| vary.ends_with("Origin")));
    let without = acme.get("/queue").await.expect(200);
    assert_eq!((readers(&without), without.header("vary")), (None, Some("Origin")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_list_and_other_origins_open_nothing() {
    let gateway = gateway().await;
    let bravo = gateway.client("bravo");
    let page = bravo.and(&[("origin", APP)]);
    let refused = page.post("/prompt", &json!({"prompt": workflows::quick("x")})).await.expect(403);
    assert_eq!(readers(&refused), None);
    let read = page.get("/queue").await.expect(200);
    assert_eq!((readers(&read), read.header("vary")), (None, None), "a tenant without a list says nothing");
    let acme = gateway.client("acme");
    for origin in
        [EVIL, "null", "http://app.example.com", "https://APP.example.com", "https://app.example.com.evil.example"]
    {
        let page = acme.and(&[("origin", origin)]);
        page.post("/prompt", &json!({"prompt": workflows::quick("x")})).await.expect(403);
        assert_eq!(readers(&page.get("/queue").await.expect(200)), None, "{origin}");
    }
    // Refused with the head, before anybody asks whose it is.
    let twice = acme.and(&[("origin", APP), ("origin", APP)]);
    assert_eq!(readers(&twice.get("/queue").await.expect(400)), None);
    twice.post("/prompt", &json!({"prompt": workflows::quick("x")})).await.expect(400);
    assert!(gateway.stand_ins()[0].submissions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_key_is_told_to_listed_pages_only() {
    let gateway = gateway().await;
    for (number, origin, reader) in [(1, APP, Some(APP)), (2, EVIL, None)] {
        let stranger = gateway.stranger().from_address([127, 5, 0, number]);
        let refused = stranger.bearer("wrong").and(&[("origin", origin)]).get("/queue").await.expect(401);
        assert_eq!(readers(&refused), reader, "{origin}");
    }
    // Pages of login are for the own page alone.
    let login = gateway.stranger().and(&[("origin", APP)]).get("/gate/login").await.expect(200);
    assert_eq!(readers(&login), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_browser_adds_by_itself_counts_for_no_other_page() {
    let gateway = gateway().await;
    let browser = Browser::of(&gateway, "acme").await;
    let foreign = browser.sending(&[("origin", APP), ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")]);
    for answer in [
        foreign.post("/prompt", &json!({"prompt": workflows::quick("x")})).await,
        foreign.post("/gate/ticket", &json!({})).await,
        foreign.get("/queue").await,
    ] {
        assert_eq!((answer.status.as_u16(), readers(&answer)), (403, None), "{}", answer.text());
    }
    let own = browser.page().get("/queue").await.expect(200);
    assert_eq!(readers(&own), None);
    // A password that a browser remembers, too: the page itself shows a bearer.
    let remembered = gateway.stranger().basic("x", &gateway.key("acme")).and(&[("origin", APP)]);
    remembered.post("/prompt", &json!({"prompt": workflows::quick("x")})).await.expect(403);
    assert!(gateway.stand_ins()[0].submissions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_page_opens_its_socket_by_ticket_and_by_no_cookie() {
    let gateway = gateway().await;
    let acme = gateway.client("acme");
    let page = acme.and(&[("origin", APP), ("sec-fetch-site", "cross-site")]);
    let ticket = async |client: &Client| {
        let made = client.post("/gate/ticket", &json!({})).await.expect(200);
        format!("/ws?token={}", made.json()["ticket"].as_str().unwrap())
    };
    let stranger = gateway.stranger();
    stranger.try_socket(&ticket(&page).await, None, &[("origin", APP)]).await.unwrap().sid().await;
    for origin in [EVIL, "null", "https://app.example.com:8443"] {
        let path = ticket(&acme).await;
        assert_eq!(stranger.try_socket(&path, None, &[("origin", origin)]).await.unwrap_err(), 403, "{origin}");
    }
    let foreign = ticket(&gateway.client("bravo")).await;
    assert_eq!(stranger.try_socket(&foreign, None, &[("origin", APP)]).await.unwrap_err(), 403, "not on bravo's list");
    // Cross-site WebSocket hijacking (bypass 114): the cookie comes along, and counts for nothing.
    let browser = Browser::of(&gateway, "acme").await;
    let hijacked = stranger.try_socket("/ws", None, &[("origin", APP), ("cookie", browser.cookie())]).await;
    assert_eq!(hijacked.unwrap_err(), 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_url_is_readable_by_the_pages_of_the_tenant_whose_file_it_is() {
    let gateway = gateway().await;
    for (tenant, reader) in [("acme", Some(APP)), ("bravo", None)] {
        let client = gateway.client(tenant);
        let prompt = client.submit(workflows::quick("signed")).await;
        let entry = client.finished(&prompt).await;
        let files = comfygate_tests::client::files_of(&entry);
        let url = files[0]["url"].as_str().unwrap().to_owned();
        let path = client.path_of(&url);
        let page = gateway.stranger().and(&[("origin", APP)]);
        assert_eq!(readers(&page.get(&path).await.expect(200)), reader, "{tenant}");
        let evil = gateway.stranger().and(&[("origin", EVIL)]);
        assert_eq!(readers(&evil.get(&path).await.expect(200)), None, "{tenant}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_for_development_is_warned_of_and_one_for_everybody_refused() {
    for (origins, exit, text) in [
        ("[\"https://app.example.com\"]", Some(0), None),
        ("[\"http://localhost:5173\"]", Some(0), Some("for development")),
        ("[\"*\"]", Some(1), Some("every site")),
        ("[\"null\"]", Some(1), Some("anybody can make")),
        ("[\"http://app.example.com\"]", Some(1), Some("localhost")),
    ] {
        let gateway = Gateway::builder().stand_ins(1).prepare().await;
        gateway.edit("tenants.toml", |tenants| {
            tenants.replacen("id = \"usual\"\n", &format!("id = \"usual\"\ncors_origins = {origins}\n"), 1)
        });
        let checked = gateway.command(&["check"]);
        let told = comfygate_tests::gateway::said(&checked);
        assert_eq!(checked.status.code(), exit, "{origins}: {told}");
        assert!(text.is_none_or(|text| told.contains(text)), "{origins}: {told}");
    }
}
