//! Lists that the page reads while loading: models as the policy allows them, what packs bring, and the jobs of the owner.

use bytes::Bytes;
use comfygate_tests::{Client, Gateway, workflows};
use http::Method;
use serde_json::{Value, json};

async fn gateway() -> (Gateway, Client) {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    (gateway, acme)
}

fn ids(list: &Value) -> Vec<&str> {
    list["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_listed_without_code_and_without_paths() {
    let (_gateway, acme) = gateway().await;
    let folders = acme.get("/models").await.expect(200).json();
    assert!(folders.as_array().unwrap().contains(&json!("checkpoints")), "{folders}");
    assert!(!folders.to_string().contains("custom_nodes") && !folders.to_string().contains("configs"), "{folders}");
    let names = acme.get("/models/checkpoints").await.expect(200).json();
    assert_eq!(names, json!(["sd_xl_base_1.0.safetensors", "v1-5-pruned-emaonly-fp16.safetensors"]));
    let details = acme.get("/api/experiment/models").await.expect(200).json();
    assert!(details.as_array().unwrap().contains(&json!({"name": "loras", "folders": []})), "{details}");
    let loras = acme.get("/api/experiment/models/loras").await.expect(200).json();
    assert_eq!((&loras[0]["name"], &loras[0]["pathIndex"]), (&json!("example_lora.safetensors"), &json!(0)));
    assert_eq!(acme.get("/embeddings").await.expect(200).json(), json!([]));
    for closed in ["/models/custom_nodes", "/models/configs", "/models/nosuch", "/experiment/models/custom_nodes"] {
        assert_eq!(acme.get(closed).await.expect(404).text(), "", "{closed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_no_allowed_class_offers_is_not_listed() {
    let policy =
        "name = \"no-loras\"\n[classes]\nallow = [\"CheckpointLoaderSimple\", \"EmptyImage\", \"SaveImage\"]\n";
    let gateway = Gateway::builder()
        .stand_ins(1)
        .file("no-loras.toml", policy)
        .plan("policy = \"./no-loras.toml\"\nrequests = { per_second = 1000, burst = 1000 }")
        .start()
        .await;
    let acme = gateway.client("acme");
    assert_eq!(acme.get("/models/checkpoints").await.expect(200).json().as_array().unwrap().len(), 2);
    for hidden in ["/models/loras", "/models/controlnet", "/experiment/models/loras"] {
        assert_eq!(acme.get(hidden).await.expect(200).json(), json!([]), "{hidden}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_asked_of_the_backend_once_a_minute() {
    let (gateway, acme) = gateway().await;
    let (a, b) =
        (acme.get("/models/loras").await.expect(200), gateway.client("bravo").get("/models/loras").await.expect(200));
    assert_eq!(a.json(), b.json());
    let asked = gateway.stand_ins()[0].requests().into_iter().filter(|seen| seen.1 == "/models/loras").count();
    assert_eq!(asked, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_packs_bring_is_empty_where_no_pack_is_allowed_and_no_backend_is_asked() {
    let policy = "name = \"core\"\n[classes]\nallow = [\"EmptyImage\", \"SaveImage\"]\n";
    let plan = "policy = \"./core.toml\"\nrequests = { per_second = 1000, burst = 1000 }";
    let gateway = Gateway::builder().stand_ins(1).file("core.toml", policy).plan(plan).start().await;
    let acme = gateway.client("acme");
    for path in ["/i18n", "/workflow_templates", "/global_subgraphs", "/node_replacements"] {
        assert_eq!(acme.get(&format!("/api{path}")).await.expect(200).json(), json!({}), "{path}");
    }
    assert_eq!(acme.get(&format!("/global_subgraphs/{}", "0f".repeat(32))).await.expect(200).json(), Value::Null);
    acme.get("/api/workflow_templates/pack/a.json").await.expect(404);
    let asked: Vec<String> = gateway.stand_ins()[0].requests().into_iter().map(|seen| seen.1).collect();
    assert!(!asked.iter().any(|path| path.contains("i18n") || path.contains("subgraphs")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_listed_filtered_sorted_and_paged() {
    let (_gateway, acme) = gateway().await;
    let envelope = json!({
        "prompt": workflows::quick("listed"), "prompt_id": "first",
        "extra_data": {"extra_pnginfo": {"workflow": {"id": "w1", "nodes": []}}},
    });
    let first = acme.submit_with(envelope).await;
    acme.finished(&first).await;
    let failed = acme.submit(workflows::failing("no")).await;
    acme.finished(&failed).await;
    let running = acme.submit(workflows::slow("runs", 150, 400, false)).await;
    acme.running(&running).await;
    let held = acme.submit(workflows::slow("waits", 150, 400, false)).await;
    let list = async |query: &str| acme.get(&format!("/api/jobs{query}")).await.expect(200).json();
    let all = list("").await;
    assert_eq!(ids(&all), [held.as_str(), &running, &failed, &first]);
    assert_eq!(all["pagination"], json!({"offset": 0, "limit": null, "total": 4, "has_more": false}));
    let statuses: Vec<_> = all["jobs"].as_array().unwrap().iter().map(|job| job["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["pending", "in_progress", "failed", "completed"]);
    assert_eq!(all["jobs"][0].as_object().unwrap().len(), 5, "{all}");
    assert_eq!(all["jobs"][2]["execution_error"]["node_type"], "GateProbeFail");
    let done = &all["jobs"][3];
    assert_eq!((&done["outputs_count"], &done["workflow_id"]), (&json!(1), &json!("w1")));
    assert_eq!(
        (&done["preview_output"]["nodeId"], &done["preview_output"]["mediaType"]),
        (&json!("9"), &json!("images"))
    );
    assert!(
        done["execution_end_time"].as_u64() >= done["execution_start_time"].as_u64()
            && done["preview_output"]["url"].is_string()
    );
    assert_eq!(ids(&list("?status=in_progress,pending&limit=200&offset=0").await), [held.as_str(), &running]);
    assert_eq!(ids(&list("?status=completed,failed,cancelled&limit=64&offset=0").await), [failed.as_str(), &first]);
    assert_eq!(ids(&list("?workflow_id=w1").await), [first.as_str()]);
    assert_eq!(ids(&list("?workflow_id=none").await), [] as [&str; 0]);
    assert_eq!(ids(&list("?sort_order=asc&limit=1").await), [first.as_str()]);
    assert_eq!(list("?sort_by=execution_duration&status=completed").await["pagination"]["total"], 1);
    let page = list("?limit=2&offset=1").await;
    assert_eq!(ids(&page), [running.as_str(), &failed]);
    assert_eq!(page["pagination"], json!({"offset": 1, "limit": 2, "total": 4, "has_more": true}));
    let bad = acme.get("/api/jobs?limit=0").await.expect(400).json();
    assert_eq!(bad, json!({"error": "limit must be a positive integer"}));
    let one = acme.get(&format!("/api/jobs/{first}")).await.expect(200).json();
    assert_eq!(one["workflow"]["prompt"], workflows::quick("listed"));
    assert_eq!(
        (&one["execution_status"]["status_str"], &one["outputs"]["9"]["images"][0]["type"]),
        (&json!("success"), &json!("output"))
    );
    assert!(acme.get(&format!("/api/jobs/{held}")).await.expect(200).json().get("workflow").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_cancelled_by_their_owner_only() {
    let (gateway, acme) = gateway().await;
    let running = acme.submit(workflows::slow("runs", 150, 400, false)).await;
    acme.running(&running).await;
    let held: Vec<String> = [acme.submit(workflows::quick("a")).await, acme.submit(workflows::quick("b")).await].into();
    let bravo = gateway.client("bravo");
    let cancel = async |client: &Client, id: &str| {
        client.call(Method::POST, &format!("/api/jobs/{id}/cancel"), &[], Bytes::new()).await
    };
    assert_eq!(cancel(&bravo, &running).await.expect(404).json(), json!({"error": "Job not found"}));
    assert_eq!(
        bravo.post("/api/jobs/cancel", &json!({"job_ids": held})).await.expect(200).json(),
        json!({"cancelled": false})
    );
    assert_eq!(acme.get("/prompt").await.expect(200).json()["exec_info"]["queue_remaining"], 3);
    assert_eq!(
        acme.post("/api/jobs/cancel", &json!({"job_ids": held})).await.expect(200).json(),
        json!({"cancelled": true})
    );
    for id in &held {
        acme.get(&format!("/api/jobs/{id}")).await.expect(404);
    }
    assert_eq!(cancel(&acme, &running).await.expect(200).json(), json!({"cancelled": true}));
    acme.finished(&running).await;
    assert_eq!(acme.get(&format!("/api/jobs/{running}")).await.expect(200).json()["status"], "failed");
    let newer = acme.get("/api/jobs?status=completed,failed,cancelled").await.expect(200).json();
    assert_eq!(newer["jobs"][0]["status"], "cancelled");
    assert_eq!(cancel(&acme, &running).await.expect(200).json(), json!({"cancelled": false}));
    acme.post("/api/jobs/cancel", &json!({"job_ids": 5})).await.expect(400);
}
