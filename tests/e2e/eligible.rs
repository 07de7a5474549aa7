//! Which backend may run what: tags, GPU memory, shares; and what a backend runs before its first job.

use comfygate_tests::gateway::{fast, said};
use comfygate_tests::{Client, Gateway, Options, StandIn, eventually, workflows};
use serde_json::{Value, json};
use std::time::Duration;

async fn succeeds(client: &Client, prompt: &str) {
    let entry = client.finished(prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
}

fn is_ours(id: &str) -> bool {
    id.starts_with("ca9a21e5-")
}

fn jobs_run(stand_in: &StandIn) -> usize {
    stand_in.executed().iter().filter(|id| !is_ours(id)).count()
}

fn listed(gateway: &Gateway, id: &str) -> Value {
    let output = gateway.command(&["backend", "list", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    let views = shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    views.into_iter().find(|view| view["id"] == id).unwrap_or_else(|| panic!("no {id} in {shown}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_tags_runs_where_all_of_them_are_and_without_such_a_backend_nothing_is_in_force() {
    let gateway = Gateway::builder()
        .backend_lines(0, "tags = [\"fast\"]\n")
        .backend_lines(1, "tags = [\"big\", \"fast\"]\n")
        .tenants_toml("[[tenant]]\nid = \"charlie\"\nplan = \"usual\"\nbackend_tags = [\"fast\", \"big\"]\n")
        .start()
        .await;
    let charlie = gateway.client("charlie");
    let mut prompts = Vec::new();
    for _ in 0..4 {
        prompts.push(charlie.submit(workflows::slow("tagged", 1, 20, false)).await);
    }
    for prompt in &prompts {
        succeeds(&charlie, prompt).await;
    }
    assert_eq!([0, 1].map(|number| jobs_run(&gateway.stand_ins()[number])), [0, 4]);
    assert_eq!(listed(&gateway, "gpu1")["tags"], json!(["big", "fast"]));
    gateway.edit("gateway.toml", |text| text.replace("tags = [\"big\", \"fast\"]", "tags = [\"big\"]"));
    let told = said(&gateway.command(&["reload"]));
    assert!(told.contains("`charlie` asks for backends with all of the tags `big`, `fast`"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_goes_to_a_gpu_that_is_large_enough_and_is_refused_where_none_is() {
    let of = |gib: u64| Options { vram_total: gib << 30, ..fast() };
    let gateway = Gateway::builder()
        .stand_ins_with(vec![of(8), of(12)])
        .gateway_toml("[[vram]]\nmodel = \"SD_XL*\"\nneed = \"12GiB\"\n")
        .start()
        .await;
    let acme = gateway.client("acme");
    let mut prompts = Vec::new();
    for number in 0..3 {
        prompts.push(acme.submit(workflows::text_to_image(&format!("large{number}"))).await);
    }
    for prompt in &prompts {
        succeeds(&acme, prompt).await;
    }
    assert_eq!([0, 1].map(|number| jobs_run(&gateway.stand_ins()[number])), [0, 3]);
    assert_eq!(listed(&gateway, "gpu0")["vram_total"], json!(8_u64 << 30));
    assert_eq!(gateway.metric("comfyui_gpu_vram_total_bytes{backend=\"gpu1\"}").await, f64::from(12 << 10) * 1048576.0);
    gateway.edit("gateway.toml", |text| text.replace("12GiB", "13GiB"));
    gateway.generation_is(2).await;
    let refused = acme.post("/prompt", &json!({"prompt": workflows::text_to_image("none")})).await.expect(400);
    assert!(refused.text().contains("needs 13GiB of GPU memory"), "{}", refused.text());
    let without = acme.submit(workflows::quick("no model")).await;
    succeeds(&acme, &without).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_with_a_share_gets_no_more_than_that_until_nobody_else_takes_jobs() {
    let gateway = Gateway::builder().backend_lines(1, "share_percent = 10\n").start().await;
    let acme = gateway.client("acme");
    let mut prompts = Vec::new();
    for _ in 0..30 {
        prompts.push(acme.submit(workflows::quick("shared")).await);
    }
    for prompt in &prompts {
        succeeds(&acme, prompt).await;
    }
    let tried = jobs_run(&gateway.stand_ins()[1]);
    assert!((1..=3).contains(&tried), "{tried} of 30");
    let drained = gateway.command(&["backend", "drain", "gpu0"]);
    assert!(drained.status.success(), "{}", said(&drained));
    for _ in 0..3 {
        let prompt = acme.submit(workflows::quick("alone")).await;
        succeeds(&acme, &prompt).await;
    }
    assert_eq!(jobs_run(&gateway.stand_ins()[1]), tried + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_samples_one_step_before_its_first_job_and_again_when_it_returns() {
    let late = Options { start_delay: Duration::from_secs(2), ..fast() };
    let mut gateway =
        Gateway::builder().stand_ins_with(vec![late]).gateway_toml("[dispatch]\nwarm_up = true\n").prepare().await;
    gateway.start().await;
    let acme = gateway.client("acme");
    let first = acme.submit(workflows::quick("first")).await;
    succeeds(&acme, &first).await;
    let stand_in = &gateway.stand_ins()[0];
    let ran = stand_in.executed();
    assert!(ran.len() == 2 && is_ours(&ran[0]) && !is_ours(&ran[1]), "{ran:?}");
    let sent = &stand_in.submissions()[0]["prompt"];
    let sampler = sent.as_object().unwrap().values().find(|node| node["class_type"] == "KSampler").unwrap();
    assert_eq!(sampler["inputs"]["steps"], 1);
    assert_eq!(listed(&gateway, "gpu0")["warm_models"], json!(["sd_xl_base_1.0.safetensors"]));
    // Nobody sees it, and the backend forgets it.
    let history = acme.get("/history").await.expect(200).json();
    assert_eq!(history.as_object().unwrap().keys().collect::<Vec<_>>(), [&first]);
    let theirs = gateway.plain_get(stand_in.addr(), "/history").await.1;
    assert!(!theirs.contains("ca9a21e5-"), "{theirs}");
    stand_in.kill();
    gateway.backend_is(0, false).await;
    stand_in.restart().await.unwrap();
    let warmed = "comfygate_warm_ups_total{backend=\"gpu0\",outcome=\"succeeded\"}";
    eventually("a second warm-up", || async { (gateway.metric(warmed).await == 2.0).then_some(()) }).await;
    let again = acme.submit(workflows::quick("again")).await;
    succeeds(&acme, &again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_of_the_operators_is_waited_for_and_one_that_fails_is_not_in_the_way() {
    let slow = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
        "2": {"class_type": "GateProbeSleep", "inputs": {"image": ["1", 0], "steps": 60, "tick_ms": 100, "preview": false}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    });
    let gateway = Gateway::builder()
        .file("warm-up.json", &slow.to_string())
        .backend_lines(0, "warm_up = \"warm-up.json\"\n")
        .backend_lines(1, "pool = \"other\"\nwarm_up_model = \"gone.safetensors\"\n")
        .tenants_toml("[[tenant]]\nid = \"other\"\nplan = \"usual\"\npool = \"other\"\n")
        .gateway_toml("[dispatch]\nwarm_up = true\n")
        .start()
        .await;
    let state = "comfygate_backend_state{backend=\"gpu0\",state=\"warming\"}";
    eventually(state, || async { (gateway.metric(state).await == 1.0).then_some(()) }).await;
    let (acme, other) = (gateway.client("acme"), gateway.client("other"));
    let waits = acme.submit(workflows::quick("waits")).await;
    let runs = other.submit(workflows::quick("runs")).await;
    succeeds(&other, &runs).await;
    assert_eq!(gateway.metric("comfygate_warm_ups_total{backend=\"gpu1\",outcome=\"failed\"}").await, 1.0);
    succeeds(&acme, &waits).await;
    let ran = gateway.stand_ins()[0].executed();
    assert!(ran.len() == 2 && is_ours(&ran[0]), "{ran:?}");
    assert!(gateway.log_text().contains("it does not offer the checkpoint `gone.safetensors`"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_up_that_saves_or_is_no_workflow_is_a_fault_of_the_configuration() {
    let gateway = Gateway::builder().stand_ins(1).file("warm-up.json", "{}").start().await;
    let with = |content: &Value| {
        std::fs::write(gateway.directory().join("warm-up.json"), content.to_string()).unwrap();
        gateway.edit("gateway.toml", |text| {
            let line = "id = \"gpu0\"\n";
            if text.contains("warm_up") {
                text
            } else {
                text.replace(line, &format!("{line}warm_up = \"warm-up.json\"\n"))
            }
        });
        let (checked, reloaded) = (gateway.command(&["check"]), gateway.command(&["reload"]));
        (checked.status.code(), reloaded.status.code(), said(&checked) + &said(&reloaded))
    };
    let (checked, reloaded, told) = with(&workflows::quick("saves"));
    assert!(
        checked == Some(1) && reloaded == Some(1) && told.matches("let it end in PreviewImage").count() == 2,
        "{told}"
    );
    let (checked, reloaded, told) = with(&json!({"1": "no node"}));
    assert!(checked == Some(1) && reloaded == Some(1) && told.contains("`backends[0].warm_up`"), "{told}");
    let mut good = workflows::quick("previews");
    good["9"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}});
    let (checked, reloaded, told) = with(&good);
    assert!(checked == Some(0) && reloaded == Some(0), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_job_that_no_backend_may_run_any_more_fails_in_the_end_and_those_that_only_wait_do_not() {
    let need = |need: &str| format!("[[vram]]\nmodel = \"SD_XL*\"\nneed = \"{need}\"\n");
    let of = || Options { vram_total: 12 << 30, ..fast() };
    let gateway = Gateway::builder()
        .stand_ins_with(vec![of(), of()])
        .backend_lines(1, "pool = \"other\"\n")
        .plan("policy = \"default\"\nbudget_seconds = 1000000000\n")
        .tenants_toml("[[tenant]]\nid = \"charlie\"\nplan = \"usual\"\npool = \"other\"\n")
        .gateway_toml(&format!("{}\n[dispatch]\nno_backend_timeout = \"2s\"\n", need("12GiB")))
        .start()
        .await;
    let (acme, charlie) = (gateway.client("acme"), gateway.client("charlie"));
    gateway.stand_ins()[0].kill();
    gateway.backend_is(0, false).await;
    let down = acme.submit(workflows::quick("down")).await;
    let first = charlie.submit(workflows::slow("first", 150, 400, false)).await;
    charlie.running(&first).await;
    let big = charlie.submit(workflows::text_to_image("big")).await;
    let small = charlie.submit(workflows::quick("small")).await;
    let reserved = async || {
        let me = charlie.get("/gate/me").await.expect(200).json();
        me["budget"]["tenant"]["reserved_seconds"].as_f64().unwrap_or_else(|| panic!("{me}"))
    };
    let all = reserved().await;
    gateway.edit("gateway.toml", |text| text.replace(&need("12GiB"), &need("48GiB")));
    let reloaded = gateway.command(&["reload"]);
    assert!(reloaded.status.success(), "{}", said(&reloaded));

    let entry = charlie.finished(&big).await;
    let error = &entry["status"]["messages"].as_array().unwrap().last().unwrap()[1];
    assert_eq!(error["exception_type"], "NoBackend", "{entry}");
    let text = error["exception_message"].as_str().unwrap();
    assert!(text.contains("GPU memory") && text.contains("waited 2s"), "{text}");
    let line = gateway.audited("the end", |line| line["event"] == "withdrawn").await;
    assert!(line["reason"].as_str().unwrap().contains("GPU memory") && line["owner"]["tenant"] == "charlie", "{line}");
    let left = reserved().await;
    assert!(left < all, "what was set aside for it is free again: {all}, {left}");

    // Others have waited as long: for their turn, and for a backend that is down.
    for (client, prompt) in [(&charlie, &small), (&acme, &down)] {
        let queue = client.get("/queue").await.expect(200).json();
        assert_eq!(queue["queue_pending"][0][1], json!(prompt), "{queue}");
    }
    charlie.post("/interrupt", &json!({"prompt_id": first})).await.expect(200);
    succeeds(&charlie, &small).await;
    gateway.stand_ins()[0].restart().await.unwrap();
    succeeds(&acme, &down).await;
}
