//! Backends of versions after 0.8.0: what they do otherwise is handled or refused. Each test is a row of the table in tests/README.md.

use comfygate_tests::client::files_of;
use comfygate_tests::pictures::png;
use comfygate_tests::{Client, Gateway, Options, gateway, workflows};
use http::Method;
use serde_json::{Value, json};

async fn newer() -> (Gateway, Client, Client) {
    let options = Options { newer: true, ..gateway::fast() };
    let gateway = Gateway::builder().stand_ins_with(vec![options]).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    (gateway, acme, bravo)
}

fn was_asked(gateway: &Gateway, part: &str) -> bool {
    gateway.stand_ins()[0].requests().iter().any(|(_, path, _)| path.contains(part))
}

async fn succeeds(client: &Client, envelope: Value) -> Value {
    let prompt = client.submit_with(envelope).await;
    let entry = client.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    entry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_of_assets_tags_tasks_and_downloads_are_shut_and_never_reach_the_backend() {
    let (gateway, acme, bravo) = newer().await;
    bravo.upload("/upload/image", &[], "secret.png", &png(8, 8, [1, 2, 3])).await.expect(200);
    succeeds(&bravo, json!({"prompt": workflows::inverted("secret.png", "x")})).await;
    let hash = "0".repeat(64);
    for (method, path) in [
        ("GET", "/api/assets".to_owned()),
        ("POST", "/api/assets".to_owned()),
        ("HEAD", format!("/api/assets/hash/{hash}")),
        ("POST", "/api/assets/from-hash".to_owned()),
        ("POST", "/api/assets/download".to_owned()),
        ("POST", "/api/assets/seed?wait=true".to_owned()),
        ("GET", "/api/assets/seed/status".to_owned()),
        ("POST", "/api/assets/seed/cancel".to_owned()),
        ("POST", "/api/assets/prune".to_owned()),
        ("GET", "/api/assets/tags/refine".to_owned()),
        ("GET", "/api/assets/00000000-0000-4000-8000-000000000000/content?disposition=inline".to_owned()),
        ("PUT", "/api/assets/00000000-0000-4000-8000-000000000000".to_owned()),
        ("DELETE", "/api/assets/00000000-0000-4000-8000-000000000000".to_owned()),
        ("POST", "/api/assets/00000000-0000-4000-8000-000000000000/tags".to_owned()),
        ("GET", "/api/tags".to_owned()),
        ("GET", "/api/tasks/1".to_owned()),
        ("DELETE", "/api/tasks/1".to_owned()),
        ("POST", "/models/download".to_owned()),
        ("GET", "/models/download/1".to_owned()),
        ("GET", "/openapi.yaml".to_owned()),
        ("GET", "/api-docs".to_owned()),
        ("GET", "/assets/secret".to_owned()),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = acme.call(method.clone(), &path, &[], Vec::new().into()).await;
        assert!([404, 405].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.status);
        assert!(!answer.text().contains("secret"), "{method} {path}");
    }
    for part in ["/assets", "/tags", "/tasks", "/models/download", "openapi", "api-docs"] {
        assert!(!was_asked(&gateway, part), "{part} reached the backend");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_in_place_of_a_name_opens_nothing() {
    let (gateway, acme, bravo) = newer().await;
    bravo.upload("/upload/image", &[], "b.png", &png(8, 8, [1, 2, 3])).await.expect(200);
    succeeds(&bravo, json!({"prompt": workflows::inverted("b.png", "x")})).await;
    for query in ["filename=blake3:aa", "filename=blake3%3Aaa&type=input", "filename=blake3:aa&preview=webp"] {
        acme.get(&format!("/view?{query}")).await.expect(404);
    }
    acme.post("/prompt", &json!({"prompt": workflows::inverted("blake3:aa", "x")})).await.expect(403);
    assert!(!was_asked(&gateway, "blake3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_the_backend_tells_more_of_is_pushed_and_its_asset_shown_to_nobody() {
    let (_gateway, acme, bravo) = newer().await;
    let mut socket = bravo.socket(Some("page")).await;
    socket.sid().await;
    let told = acme.upload("/upload/image", &[], "a.png", &png(8, 8, [255, 0, 0])).await.expect(200).json();
    assert_eq!(told, json!({"name": "a.png", "subfolder": "", "type": "input"}));
    succeeds(&acme, json!({"prompt": workflows::inverted("a.png", "turned")})).await;
    // The backend told every socket of the file; the fence comes after that.
    let fence = bravo.submit_with(json!({"prompt": workflows::quick("fence"), "client_id": "page"})).await;
    let heard = socket.until_end_of(&fence).await;
    assert!(heard.iter().all(|event| !event.kind().starts_with("asset")), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_that_a_newer_backend_would_refuse_as_ids_are_taken() {
    let (gateway, acme, _) = newer().await;
    for label in ["my-job", "A1A1A1A1-0000-4000-8000-000000000000"] {
        let entry = succeeds(&acme, json!({"prompt": workflows::quick(label), "prompt_id": label})).await;
        assert_eq!(entry["prompt"][1], label);
    }
    let sent = gateway.stand_ins()[0].submissions();
    let canonical =
        |id: &str| id.len() == 36 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-');
    assert!(sent.iter().all(|body| body["prompt_id"].as_str().is_some_and(canonical)), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_the_backend_would_replace_is_refused_and_the_mapping_not_served() {
    let (gateway, acme, _) = newer().await;
    let mut workflow = workflows::quick("x");
    workflow["9"]["class_type"] = json!("OldSaveImage");
    let before = gateway.stand_ins()[0].submissions().len();
    let refused = acme.post("/prompt", &json!({"prompt": workflow})).await;
    assert!([400, 403].contains(&refused.status.as_u16()), "{}", refused.text());
    assert_eq!(gateway.stand_ins()[0].submissions().len(), before);
    assert_eq!(acme.get("/node_replacements").await.expect(501).code(), "not_implemented");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_that_the_backend_would_fill_in_is_refused() {
    let (gateway, acme, _) = newer().await;
    let before = gateway.stand_ins()[0].submissions().len();
    for prefix in ["%EmptyImage.color%", "a/%SaveImage.filename_prefix%"] {
        acme.post("/prompt", &json!({"prompt": workflows::quick(prefix)})).await.expect(403);
    }
    assert_eq!(gateway.stand_ins()[0].submissions().len(), before);
    let entry = succeeds(&acme, json!({"prompt": workflows::quick("%width%x")})).await;
    assert!(files_of(&entry)[0]["filename"].as_str().unwrap().contains('x'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_features_and_catalogue_of_a_newer_backend_tell_no_more_than_an_older_ones() {
    let (gateway, acme, _) = newer().await;
    let stats = acme.get("/system_stats").await.expect(200).json();
    let base = gateway.stand_ins()[0].directory().to_string_lossy().into_owned();
    for hidden in ["comfy_package_versions", "deploy_environment", "stand-in-host", &base] {
        assert!(!stats.to_string().contains(hidden), "{stats}");
    }
    let features = acme.get("/features").await.expect(200).json();
    for closed in ["assets", "node_replacements"] {
        assert!(features.get(closed).is_none_or(|flag| flag == false), "{features}");
    }
    let mut socket = acme.socket(Some("page")).await;
    socket.sid().await;
    socket.send(&json!({"type": "feature_flags", "data": {}})).await;
    let flags = socket.until("the flags", |event| event.kind() == "feature_flags").await;
    assert!(flags.last().unwrap().data().get("assets").is_none_or(|flag| flag == false), "{flags:?}");
    // Fields that 0.8.0 has not do not make a class another one.
    let info = acme.get("/object_info/SaveImage").await.expect(200).json();
    assert_eq!(info["SaveImage"]["output_node"], true, "{info}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_page_says_of_itself_does_not_reach_a_backend_that_reads_it() {
    let (gateway, acme, _) = newer().await;
    let cross = [("sec-fetch-site", "cross-site"), ("comfy-usage-source", "someone")];
    // A page of the backend, streamed: the headers of the caller stay here, so the backend does not answer 403.
    acme.call(Method::GET, "/user.css", &cross[1..], Vec::new().into()).await;
    let json = [("content-type", "application/json"), ("comfy-usage-source", "someone")];
    let body = json!({"prompt": workflows::quick("x"), "extra_data": {}}).to_string();
    let prompt = acme.call(Method::POST, "/prompt", &json, body.into()).await.expect(200).json();
    acme.finished(prompt["prompt_id"].as_str().unwrap()).await;
    let stand_in = &gateway.stand_ins()[0];
    for (method, path, headers) in stand_in.requests() {
        for name in ["sec-fetch-site", "comfy-usage-source", "origin", "comfy-user"] {
            assert!(!headers.contains_key(name), "{method} {path}: {name}");
        }
    }
    assert!(!stand_in.submissions().iter().any(|body| body.to_string().contains("usage_source")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_pages_list_of_ended_jobs_and_its_cancel_routes_work_whatever_the_backends_version() {
    for options in [gateway::fast(), Options { newer: true, ..gateway::fast() }] {
        let gateway = Gateway::builder().stand_ins_with(vec![options]).start().await;
        let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
        let done = acme.submit(workflows::quick("done")).await;
        acme.finished(&done).await;
        let failed = acme.submit(workflows::failing("no")).await;
        acme.finished(&failed).await;
        let running = acme.submit(workflows::slow("long", 150, 400, false)).await;
        acme.running(&running).await;
        let held = acme.submit(workflows::quick("held")).await;
        assert_eq!(
            bravo.post("/api/jobs/cancel", &json!({"job_ids": [running, held]})).await.expect(200).json(),
            json!({"cancelled": false})
        );
        bravo.post(&format!("/api/jobs/{running}/cancel"), &json!({})).await.expect(404);
        assert_eq!(
            acme.post("/api/jobs/cancel", &json!({"job_ids": [held]})).await.expect(200).json(),
            json!({"cancelled": true})
        );
        assert_eq!(
            acme.post(&format!("/api/jobs/{running}/cancel"), &json!({})).await.expect(200).json(),
            json!({"cancelled": true})
        );
        acme.finished(&running).await;
        let listed = acme
            .get("/api/jobs?status=completed,failed,cancelled&sort_order=asc&limit=200&offset=0")
            .await
            .expect(200)
            .json();
        let statuses: Vec<_> =
            listed["jobs"].as_array().unwrap().iter().map(|job| (job["id"].clone(), job["status"].clone())).collect();
        assert_eq!(
            statuses,
            [(json!(done), json!("completed")), (json!(failed), json!("failed")), (json!(running), json!("cancelled"))],
            "{listed}"
        );
        assert_eq!(bravo.get("/api/jobs").await.expect(200).json()["pagination"]["total"], 0);
        assert!(!was_asked(&gateway, "/jobs"), "the backend's own list is asked for nothing");
    }
}
