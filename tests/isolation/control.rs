//! The bypass catalogue, entries 95 to 108: routes that steer ComfyUI, and what stands around a request.

use crate::wire::{gets, posts, refused, request, strange_requests, two};
use bytes::Bytes;
use comfygate_tests::client::files_of;
use comfygate_tests::{Browser, Client, Gateway, eventually, pictures, workflows};
use http::Method;
use serde_json::{Value, json};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A job of this caller that runs until somebody stops it.
async fn runs(gateway: &Gateway, client: &Client) -> String {
    let given = || {
        let requests = gateway.stand_ins().iter().flat_map(comfygate_tests::StandIn::requests);
        requests.filter(|(method, path, _)| method == Method::POST && path == "/prompt").count()
    };
    let before = given();
    let prompt = client.submit(crate::world::endless("long")).await;
    client.running(&prompt).await;
    // It counts as running before its backend has it, and is given to it once what ran there before is forgotten.
    eventually("its backend has it", || async { (given() > before || gateway.stand_ins().is_empty()).then_some(()) })
        .await;
    prompt
}

async fn text(client: &Client, path: &str, body: &str) -> comfygate_tests::Response {
    let headers: &[(&str, &str)] = if body.is_empty() { &[] } else { &[JSON] };
    client.call(Method::POST, path, headers, body.to_owned().into()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_095_no_interrupt_reaches_anothers_job() {
    let (gateway, acme, bravo) = two().await;
    let prompt = runs(&gateway, &acme).await;
    let before = gateway.stand_ins()[0].requests().len();
    let bodies = [
        String::new(),
        "{}".into(),
        "{\"prompt_id\":\"\"}".into(),
        "{\"prompt_id\":null}".into(),
        format!("{{\"prompt_id\":\"{prompt}\"}}"),
        format!("{{\"prompt_id\":[\"{prompt}\"]}}"),
        format!("{{\"prompt_id\":\"{}\"}}", prompt.to_uppercase()),
        format!("{{\"prompt_id\":\" {prompt}\"}}"),
        "[]".into(),
        "null".into(),
        "not json".into(),
        "{\"prompt_id\":{\"$ne\":1}}".into(),
    ];
    for body in &bodies {
        for path in ["/interrupt", "/api/interrupt"] {
            let answer = text(&bravo, path, body).await;
            assert!([200, 400].contains(&answer.status.as_u16()), "{body}: {} {}", answer.status, answer.text());
        }
    }
    for path in [format!("/api/jobs/{prompt}/cancel"), "/api/jobs/cancel".to_owned()] {
        text(&bravo, &path, &json!({"job_ids": [prompt]}).to_string()).await;
    }
    assert_eq!(strange_requests(&gateway.stand_ins()[0], before), [""; 0]);
    acme.running(&prompt).await;
    text(&acme, "/interrupt", "").await.expect(200);
    assert!(acme.finished(&prompt).await["status"].to_string().contains("execution_interrupted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_096_interrupts_at_the_end_of_ones_own_job_do_not_hit_the_next_tenants() {
    let (_gateway, acme, bravo) = two().await;
    let mut theirs = Vec::new();
    for number in 0..12 {
        let mine = acme.submit(workflows::picture("short", 64, 48 + number)).await;
        theirs.push(bravo.submit(workflows::slow(&format!("next-{number}"), 3, 5, false)).await);
        // Again and again, from before its start to after its end.
        loop {
            acme.post("/interrupt", &json!({"prompt_id": mine})).await.expect(200);
            acme.post("/interrupt", &json!({})).await.expect(200);
            let history = acme.get(&format!("/history/{mine}")).await.expect(200).json();
            if history.get(&mine).is_some() {
                break;
            }
        }
    }
    for prompt in &theirs {
        let entry = bravo.finished(prompt).await;
        assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_097_and_098_clear_and_delete_mean_ones_own() {
    let (gateway, acme, bravo) = two().await;
    let done = acme.submit(workflows::quick("done")).await;
    acme.finished(&done).await;
    let running = runs(&gateway, &acme).await;
    let held = acme.submit(workflows::quick("held")).await;
    let history = acme.get("/history").await.expect(200).json();
    let before = gateway.stand_ins()[0].requests().len();
    let bodies = [
        json!({"clear": "false"}),
        json!({"clear": 1}),
        json!({"clear": true, "delete": [held, done, running]}),
        json!({"delete": [held, done, running]}),
        json!({"delete": held}),
        json!({"delete": [[held]]}),
        json!({"delete": {held.clone(): 1}}),
        json!({"delete": [null, 7, held.to_uppercase()]}),
        json!([{"clear": true}]),
    ];
    for body in &bodies {
        for path in ["/queue", "/api/queue", "/history", "/api/history"] {
            let answer = bravo.post(path, body).await;
            assert!([200, 400].contains(&answer.status.as_u16()), "{path} {body}: {} {}", answer.status, answer.text());
        }
    }
    assert_eq!(strange_requests(&gateway.stand_ins()[0], before), [""; 0]);
    let queue = acme.get("/queue").await.expect(200).json();
    assert_eq!((&queue["queue_running"][0][1], &queue["queue_pending"][0][1]), (&json!(running), &json!(held)));
    assert_eq!(
        acme.get("/history").await.expect(200).json().as_object().unwrap().len(),
        history.as_object().unwrap().len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_099_to_101_free_lists_and_logs_are_answered_here() {
    let (gateway, acme, bravo) = two().await;
    acme.upload("/upload/image", &[], "theirs.png", &pictures::png(8, 8, [1, 2, 3])).await.expect(200);
    let done = acme.submit(workflows::quick("theirs")).await;
    acme.finished(&done).await;
    let mut mine = acme.socket(Some("the-page")).await;
    mine.sid().await;
    gateway.settled().await;
    let before = gateway.stand_ins()[0].requests().len();
    for body in ["", "{}", "{\"unload_models\":true,\"free_memory\":true}", "{\"unload_models\":\"yes\"}", "[]"] {
        for _ in 0..5 {
            let answer = text(&bravo, "/api/free", body).await;
            assert!([200, 400].contains(&answer.status.as_u16()), "{body}: {}", answer.status);
        }
    }
    for path in [
        "/object_info",
        "/object_info/LoadImage",
        "/object_info/LoadImageOutput",
        "/internal/files/output",
        "/internal/files/input",
        "/history?max_items=1",
        "/history?max_items=1&offset=0",
        "/queue",
        "/api/jobs",
    ] {
        let said = bravo.get(path).await.expect(200).text();
        assert!(!said.contains("theirs"), "{path}: {said}");
    }
    for body in [
        json!({"clientId": "the-page", "enabled": true}),
        json!({"clientId": ["the-page"], "enabled": true}),
        json!({"enabled": true}),
    ] {
        let answer = bravo.call(Method::PATCH, "/internal/logs/subscribe", &[JSON], body.to_string().into()).await;
        assert!([200, 400].contains(&answer.status.as_u16()), "{}", answer.text());
    }
    assert_eq!(bravo.get("/internal/logs").await.expect(200).json(), json!(""));
    assert_eq!(bravo.get("/internal/logs/raw").await.expect(200).json()["entries"], json!([]));
    assert!(mine.heard_so_far().await.iter().all(|event| event.kind() != "logs"));
    // The catalogue is the gateway's own question; nothing else went on.
    let asked = strange_requests(&gateway.stand_ins()[0], before);
    assert!(asked.iter().all(|line| line.starts_with("GET /object_info")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_102_who_one_is_stands_in_no_header_but_the_credential() {
    let (gateway, acme, bravo) = two().await;
    acme.post_bytes("/userdata/theirs.json", "text/plain", "secret").await.expect(200);
    for header in [
        "comfy-user",
        "x-forwarded-user",
        "x-remote-user",
        "x-tenant",
        "x-user",
        "x-forwarded-for",
        "forwarded",
        "x-real-ip",
    ] {
        let named = [(header, "acme")];
        bravo.call(Method::GET, "/userdata/theirs.json", &named, Bytes::new()).await.expect(404);
        let me = bravo.call(Method::GET, "/gate/me", &named, Bytes::new()).await.expect(200).json();
        assert_eq!((&me["tenant"], &me["user"]), (&json!("bravo"), &Value::Null), "{header}");
        bravo.call(Method::GET, "/index.html", &named, Bytes::new()).await;
    }
    assert_eq!(bravo.get("/users").await.expect(200).json(), json!({"storage": "server", "migrated": true}));
    for (what, bytes) in posts(&bravo, &["/users", "/api/users"], &json!({"username": "acme"})) {
        let answer = bravo.raw(&bytes).await.unwrap();
        assert!([404, 405].contains(&answer.status), "{what}: {}", answer.head);
    }
    for seen in gateway.stand_ins()[0].requests() {
        for header in ["comfy-user", "x-forwarded-user", "x-forwarded-for", "forwarded", "authorization", "cookie"] {
            assert!(!seen.2.contains_key(header), "{header} arrives with {} {}", seen.0, seen.1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_103_and_104_managers_and_assets_routes_are_not_there_under_any_method() {
    let (gateway, acme, _) = two().await;
    let id = "00000000-0000-4000-8000-000000000000";
    let plain = [
        "/v2/manager/reboot",
        "/v2/snapshot/restore",
        "/v2/snapshot/save",
        "/v2/manager/queue/update_all",
        "/v2/customnode/install/git_url",
        "/v2/comfyui_manager/comfyui_switch_version",
        "/v2/externalmodel/getlist",
        "/v2/manager/db_mode",
        "/manager/reboot",
        "/customnode/install/pip",
        "/snapshot/restore",
        "/comfyui_manager/x",
        "/externalmodel/getlist",
        "/manager/notice",
        "/customnode/getmappings",
        "/models/download",
        "/models/download/1",
    ];
    let api = [
        "/api/assets",
        "/api/assets/from-hash",
        "/api/assets/download",
        "/api/assets/seed",
        "/api/assets/prune",
        "/api/assets/tags/refine",
        "/api/tags",
        "/api/assets/hash/blake3:0",
        "/api/tasks/1",
    ];
    let named = [
        format!("/api/assets/{id}"),
        format!("/api/assets/{id}/content"),
        format!("/api/assets/{id}/tags"),
        format!("/api/tasks/{id}"),
    ];
    let prefixed: Vec<String> = plain.iter().map(|path| format!("/api{path}")).collect();
    let all: Vec<&str> = plain
        .iter()
        .copied()
        .chain(prefixed.iter().map(String::as_str))
        .chain(api)
        .chain(named.iter().map(String::as_str))
        .collect();
    refused(&gateway, &acme, gets(&acme, &all), &[404]).await;
    refused(&gateway, &acme, posts(&acme, &all, &json!({"hash": "blake3:0"})), &[404]).await;
    let others = ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"];
    let requests = others.iter().flat_map(|method| {
        all.iter()
            .map(|path| (format!("{method} {path}"), request(&acme, &format!("{method} {path} HTTP/1.1"), "", b"")))
            .collect::<Vec<_>>()
    });
    refused(&gateway, &acme, requests.collect(), &[404]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_105_no_answer_with_a_credential_is_for_a_shared_cache() {
    let (_gateway, acme, _) = two().await;
    acme.upload("/upload/image", &[], "mine.png", &pictures::png(8, 8, [1, 2, 3])).await.expect(200);
    let prompt = acme.submit(workflows::quick("mine")).await;
    let url = acme.path_of(files_of(&acme.finished(&prompt).await)[0]["url"].as_str().unwrap());
    for path in [
        "/view?filename=mine.png&type=input",
        "/view?filename=mine.png&type=input&t=1.png",
        &url,
        "/queue",
        "/history",
        "/userdata?dir=.",
        "/settings",
        "/view?filename=none.png",
        "/index.html",
        "/",
    ] {
        let answer = acme.get(path).await;
        let caching = answer.header("cache-control").unwrap();
        assert!(caching.contains("private") || caching.contains("no-store"), "{path}: {caching}");
        assert!(!caching.contains("public") && !caching.contains("s-maxage"), "{path}: {caching}");
    }
}

/// Cookies of `SameSite=Lax` reach a frame in a page of a neighbouring name, and what is clicked there is asked for by our own page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_of_another_site_frames_ours() {
    let pages = tempfile::tempdir().unwrap();
    std::fs::write(pages.path().join("index.html"), "<!doctype html><title>the page</title>").unwrap();
    let options =
        comfygate_stand_in::Options { web_root: Some(pages.path().to_owned()), ..comfygate_tests::gateway::fast() };
    let gateway = comfygate_tests::Gateway::builder().stand_ins_with(vec![options]).start().await;
    for (path, policy) in [("/", "frame-ancestors 'self'"), ("/gate/login", "frame-ancestors 'none'")] {
        let answer = gateway.client("acme").get(path).await.expect(200);
        let policies = answer.header("content-security-policy").unwrap_or_default();
        assert!(policies.contains(policy), "{path}: {policies}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_106_what_changes_something_comes_from_our_own_page_or_from_none() {
    let (gateway, acme, _) = two().await;
    let running = runs(&gateway, &acme).await;
    let browser = Browser::of(&gateway, "acme").await;
    let own = gateway.url();
    let foreign: &[&[(&str, &str)]] = &[
        &[("origin", "null")],
        &[("origin", "https://evil.example")],
        &[("origin", "http://localhost")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "null"), ("sec-fetch-site", "same-origin")],
        &[("origin", &own), ("sec-fetch-site", "cross-site")],
    ];
    for headers in foreign {
        let page = browser.sending(headers);
        for (path, body) in [
            ("/interrupt", ""),
            ("/api/queue", "{\"clear\":true}"),
            ("/api/history", "{\"clear\":true}"),
            ("/prompt", "{\"prompt\":{}}"),
            ("/settings", "{\"a\":1}"),
        ] {
            let answer = text(&page, path, body).await;
            assert_eq!(answer.status, 403, "{headers:?} {path}: {}", answer.text());
        }
        page.upload("/upload/image", &[], "x.png", &pictures::png(4, 4, [1, 1, 1])).await.expect(403);
    }
    // By a password that the browser remembers as well.
    let key = gateway.key("acme");
    for headers in &foreign[..3] {
        let remembered = gateway.stranger().basic("acme", &key);
        let answer = remembered.call(Method::POST, "/interrupt", headers, Bytes::new()).await;
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    acme.running(&running).await;
    text(&browser.page(), "/interrupt", "").await.expect(200);
    acme.finished(&running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_107_a_submission_sent_again_is_one_job() {
    let (gateway, acme, bravo) = two().await;
    let body = json!({"prompt": workflows::quick("once")}).to_string();
    let keyed = [JSON, ("idempotency-key", "again")];
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = acme.call(Method::POST, "/prompt", &keyed, body.clone().into()).await.expect(200);
        ids.push(answer.json()["prompt_id"].as_str().unwrap().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    acme.finished(&ids[0]).await;
    let labelled = json!({"prompt": workflows::quick("label"), "prompt_id": "the-label"});
    for _ in 0..3 {
        assert_eq!(acme.post("/prompt", &labelled).await.expect(200).json()["prompt_id"], "the-label");
    }
    acme.finished("the-label").await;
    // While the backend is silent the answer is there, and the job is one all the same.
    gateway.stand_ins()[0].faults().hang_http(true);
    let hung = json!({"prompt": workflows::quick("hung"), "prompt_id": "hung"});
    for _ in 0..3 {
        acme.post("/prompt", &hung).await.expect(200);
    }
    gateway.stand_ins()[0].faults().hang_http(false);
    acme.finished("hung").await;
    assert_eq!(gateway.stand_ins()[0].submissions().len(), 3);
    // The same words of another are another's.
    assert_ne!(
        bravo.call(Method::POST, "/prompt", &keyed, body.into()).await.expect(200).json()["prompt_id"],
        json!(ids[0])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_108_a_thousand_slow_bodies_of_one_leave_room_for_another() {
    let gateway = Gateway::builder()
        .stand_ins(1)
        .gateway_toml("[limits]\nprompt_bytes_max = \"1MiB\"\nbodies_bytes_max = \"2MiB\"\n")
        .start()
        .await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let mut slow = Vec::new();
    // Each announces a mebibyte and sends a hundredth of it, from addresses of its own.
    for number in 0..100_u8 {
        let caller = acme.from_address([127, 9, 0, number + 1]);
        let mut connection = caller.raw_connection().await;
        let headers = "content-type: application/json\r\ncontent-length: 1048576\r\n";
        let mut bytes = request(&acme, "POST /prompt HTTP/1.1", headers, b"{\"prompt\":\"");
        bytes.extend(vec![b'x'; 10 << 10]);
        connection.write(&bytes).await;
        slow.push(connection);
    }
    // One that would take more than there may be is refused by its announcement.
    let large =
        request(&acme, "POST /prompt HTTP/1.1", "content-type: application/json\r\ncontent-length: 1048577\r\n", b"{");
    assert_eq!(acme.raw(&large).await.unwrap().status, 413);
    for _ in 0..3 {
        let prompt = eventually("there is room", || async {
            let answer = bravo.post("/prompt", &json!({"prompt": workflows::quick("room")})).await;
            (answer.status == 200).then(|| answer.json()["prompt_id"].as_str().unwrap().to_owned())
        })
        .await;
        bravo.finished(&prompt).await;
        bravo.get("/queue").await.expect(200);
    }
    drop(slow);
}
