//! Stage 6: which backend runs a job, and what happens when one is lost.

use comfygate_tests::client::files_of;
use comfygate_tests::gateway::fast;
use comfygate_tests::{Client, Gateway, Options, StandIn, eventually, workflows};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn ran(stand_in: &StandIn) -> usize {
    stand_in.executed().len()
}

fn succeeded(entry: &Value) {
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    assert_eq!(entry["status"]["completed"], true);
}

async fn submit_all(client: &Client, count: usize, workflow: Value) -> Vec<String> {
    let mut prompts = Vec::new();
    for _ in 0..count {
        prompts.push(client.submit(workflow.clone()).await);
    }
    prompts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_backends_share_the_jobs_one_at_a_time_each() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let prompts = submit_all(&acme, 6, workflows::slow("shared", 10, 100, false)).await;
    let mut most = 0;
    let done = async {
        for prompt in &prompts {
            succeeded(&acme.finished(prompt).await);
        }
    };
    tokio::pin!(done);
    loop {
        tokio::select! {
            () = &mut done => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                for (number, stand_in) in gateway.stand_ins().iter().enumerate() {
                    let body = gateway.plain_get(stand_in.addr(), "/queue").await.1;
                    let queue: Value = serde_json::from_str(&body).unwrap();
                    let here = queue["queue_running"].as_array().unwrap().len() + queue["queue_pending"].as_array().unwrap().len();
                    assert!(here <= 1, "backend {number} holds {here} jobs");
                    most = most.max(here);
                }
            }
        }
    }
    let (first, second) = (ran(&gateway.stand_ins()[0]), ran(&gateway.stand_ins()[1]));
    assert_eq!((first + second, most), (6, 1));
    assert!(first >= 2 && second >= 2, "least outstanding first: {first} and {second}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_one_owner_start_in_the_order_of_their_acceptance() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let prompts = submit_all(&acme, 4, workflows::slow("ordered", 1, 20, false)).await;
    let queue = acme.get("/queue").await.expect(200).json();
    let numbers: Vec<i64> =
        queue["queue_pending"].as_array().unwrap().iter().map(|item| item[0].as_i64().unwrap()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    for prompt in &prompts {
        acme.finished(prompt).await;
    }
    let history = acme.get("/history").await.expect(200).json();
    let listed: Vec<&String> = history.as_object().unwrap().keys().collect();
    assert_eq!(listed, prompts.iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_ejects_a_backend_until_it_answers_again() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    gateway.stand_ins()[0].kill();
    for prompt in submit_all(&acme, 3, workflows::quick("elsewhere")).await {
        succeeded(&acme.finished(&prompt).await);
    }
    gateway.backend_is(0, false).await;
    assert_eq!(ran(&gateway.stand_ins()[1]), 3);
    gateway
        .audited("ejected", |line| line["event"] == "backend" && line["up"] == false && line["backend"] == "gpu0")
        .await;
    gateway.stand_ins()[0].restart().await.unwrap();
    gateway.backend_is(0, true).await;
    gateway
        .audited("returned", |line| line["event"] == "backend" && line["up"] == true && line["backend"] == "gpu0")
        .await;
    for prompt in submit_all(&acme, 4, workflows::slow("both", 2, 50, false)).await {
        succeeded(&acme.finished(&prompt).await);
    }
    assert!(ran(&gateway.stand_ins()[0]) > 0, "the returned backend is used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_backend_dies_in_mid_run_is_finished_on_the_other() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let mut socket = acme.socket(Some("watcher")).await;
    socket.sid().await;
    let envelope = json!({"prompt": workflows::slow("survivor", 30, 100, false), "client_id": "watcher"});
    let prompt = acme.submit_with(envelope).await;
    let running =
        eventually("it runs somewhere", || async { gateway.stand_ins().iter().position(|stand_in| ran(stand_in) > 0) })
            .await;
    gateway.stand_ins()[running].kill();
    let entry = acme.finished(&prompt).await;
    succeeded(&entry);
    assert_eq!(ran(&gateway.stand_ins()[1 - running]), 1);
    assert_eq!(files_of(&entry).len(), 1, "one attempt is delivered");
    let events = socket.until_end_of(&prompt).await;
    let ends = events.iter().filter(|event| {
        event.kind().starts_with("execution_") && !["execution_start", "execution_cached"].contains(&event.kind())
    });
    assert_eq!(ends.map(|event| event.kind().to_owned()).collect::<Vec<_>>(), ["execution_success"]);
    let ids: Vec<_> =
        gateway.stand_ins().iter().flat_map(StandIn::submissions).map(|body| body["prompt_id"].clone()).collect();
    assert_ne!(ids[0], ids[1], "each attempt has an id of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_backend_a_job_is_held_and_runs_when_one_is_back() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    gateway.stand_ins()[0].kill();
    gateway.backend_is(0, false).await;
    let prompt = acme.submit(workflows::quick("patient")).await;
    assert_eq!(acme.get("/queue").await.expect(200).json()["queue_pending"][0][1], prompt.as_str());
    gateway.stand_ins()[0].restart().await.unwrap();
    succeeded(&acme.finished(&prompt).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_starts_late_is_used_once_it_answers() {
    let late = Options { start_delay: Duration::from_secs(2), ..fast() };
    let gateway = Gateway::builder().stand_ins_with(vec![late]).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::quick("late")).await;
    succeeded(&acme.finished(&prompt).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_ends_in_execution_error_and_is_not_run_again() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let mut socket = acme.socket(Some("watcher")).await;
    socket.sid().await;
    let prompt = acme.submit_with(json!({"prompt": workflows::failing("so it goes"), "client_id": "watcher"})).await;
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "error");
    let events = socket.until_end_of(&prompt).await;
    let error = events.iter().find(|event| event.kind() == "execution_error").expect("told").data();
    assert_eq!((&error["node_id"], &error["node_type"]), (&json!("2"), &json!("GateProbeFail")));
    assert!(error["exception_message"].as_str().unwrap().contains("so it goes"));
    assert!(!error["traceback"].to_string().contains('/'), "paths in the traceback: {error}");
    assert_eq!(gateway.stand_ins().iter().map(ran).sum::<usize>(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_that_the_backend_refuses_ends_in_execution_error_and_history() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let mut socket = acme.socket(Some("watcher")).await;
    socket.sid().await;
    // While no backend is up, nobody knows whether a model will be there; then only the backend's own word counts.
    gateway.stand_ins()[0].kill();
    gateway.backend_is(0, false).await;
    let mut workflow = workflows::text_to_image("missing");
    workflow["4"]["inputs"]["ckpt_name"] = json!("not-installed.safetensors");
    let prompt = acme.submit_with(json!({"prompt": workflow, "client_id": "watcher"})).await;
    gateway.stand_ins()[0].restart().await.unwrap();
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "error", "{entry}");
    let events = socket.until_end_of(&prompt).await;
    let kinds: Vec<&str> =
        events.iter().map(|event| event.kind()).filter(|kind| kind.starts_with("execution_")).collect();
    assert_eq!(kinds, ["execution_start", "execution_error"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_the_callers_own_running_job_and_a_delete_its_held_one() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let long = workflows::slow("long", 150, 400, false);
    let (running, held) = (acme.submit(long.clone()).await, acme.submit(long.clone()).await);
    let theirs = bravo.submit(workflows::quick("theirs")).await;
    acme.running(&running).await;
    acme.post("/queue", &json!({"delete": [held]})).await.expect(200);
    assert_eq!(acme.get("/prompt").await.expect(200).json()["exec_info"]["queue_remaining"], 1);
    acme.post("/interrupt", &json!({"prompt_id": running})).await.expect(200);
    let entry = acme.finished(&running).await;
    assert_eq!(entry["status"]["status_str"], "error");
    assert!(
        entry["status"]["messages"].as_array().unwrap().iter().any(|message| message[0] == "execution_interrupted"),
        "{entry}"
    );
    succeeded(&bravo.finished(&theirs).await);
    assert_eq!(acme.get(&format!("/history/{held}")).await.expect(200).json(), json!({}), "a deleted job has no entry");
    assert_eq!(ran(&gateway.stand_ins()[0]), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_interrupt_ends_all_running_jobs_of_the_caller() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let prompts = submit_all(&acme, 2, workflows::slow("long", 150, 400, false)).await;
    for prompt in &prompts {
        acme.running(prompt).await;
    }
    acme.call(http::Method::POST, "/api/interrupt", &[], Vec::new().into()).await.expect(200);
    for prompt in &prompts {
        assert_eq!(acme.finished(prompt).await["status"]["status_str"], "error");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_loses_its_memory_does_not_lose_the_job() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::slow("amnesia", 30, 100, false)).await;
    eventually("it runs", || async { (ran(&gateway.stand_ins()[0]) > 0).then_some(()) }).await;
    // The process is replaced on the same port faster than a health check sees: neither its queue nor its history knows the job.
    gateway.stand_ins()[0].restart().await.unwrap();
    succeeded(&acme.finished(&prompt).await);
    assert_eq!(ran(&gateway.stand_ins()[0]), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_whose_sockets_are_silent_still_finishes_jobs() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    gateway.stand_ins()[0].faults().silence_sockets(true);
    let prompt = acme.submit(workflows::quick("silent")).await;
    succeeded(&acme.finished(&prompt).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_that_no_backend_can_run_is_refused_at_once() {
    // A pinned catalogue with a class more than the backend has.
    let known: serde_json::Value =
        serde_json::from_str(include_str!("../../policies/catalogues/comfyui-0.8.0.json")).unwrap();
    let mut classes = known.as_object().unwrap().clone();
    let mut added = classes["EmptyImage"].clone();
    added["name"] = json!("FarAway");
    added["python_module"] = json!("custom_nodes.far_away");
    classes.insert("FarAway".into(), added);
    let policy = "name = \"far\"\n[classes]\nallow = [\"*\"]\n";
    let gateway = Gateway::builder()
        .stand_ins(1)
        .file("object_info.json", &serde_json::Value::Object(classes).to_string())
        .file("far.toml", policy)
        .gateway_toml("[catalogue]\nobject_info = \"object_info.json\"\n")
        .plan("policy = \"./far.toml\"")
        .start()
        .await;
    let acme = gateway.client("acme");
    let mut workflow = workflows::quick("far");
    workflow["1"]["class_type"] = json!("FarAway");
    let answer = acme.post("/prompt", &json!({ "prompt": workflow })).await.expect(503);
    assert_eq!(answer.code(), "no_backend_for_classes");
    assert!(answer.header("retry-after").is_some());
    acme.submit(workflows::quick("near")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_a_job_deleted_before_it_ran_is_free_again() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let first = acme.submit(workflows::slow("first", 150, 400, false)).await;
    let envelope = json!({ "prompt": workflows::quick("again"), "prompt_id": "again" });
    acme.submit_with(envelope.clone()).await;
    acme.post("/queue", &json!({ "delete": ["again"] })).await.expect(200);
    acme.submit_with(envelope).await;
    acme.post("/interrupt", &json!({ "prompt_id": first })).await.expect(200);
    assert_eq!(acme.finished("again").await["status"]["status_str"], "success");
}

/// Something that stands before a ComfyUI and, while it is down, answers 502 to submissions; everything else goes through.
async fn supervisor(behind: std::net::SocketAddr, down: Arc<AtomicBool>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let down = Arc::clone(&down);
            tokio::spawn(async move {
                let mut first = [0; 12];
                let Ok(read) = stream.peek(&mut first).await else { return };
                if down.load(Ordering::SeqCst) && first[..read].starts_with(b"POST /prompt") {
                    let mut request = vec![0; 1 << 16];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await;
                    return;
                }
                if let Ok(mut comfyui) = tokio::net::TcpStream::connect(behind).await {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut comfyui).await;
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_answers_502_for_a_while_costs_no_job() {
    let comfyui = StandIn::start(fast()).await.unwrap();
    let down = Arc::new(AtomicBool::new(true));
    let url = supervisor(comfyui.addr(), Arc::clone(&down)).await;
    let gateway = Gateway::builder().backends(&[url]).start().await;
    let acme = gateway.client("acme");
    let mut jobs = Vec::new();
    for n in 0..3 {
        jobs.push(acme.submit(workflows::quick(&format!("held{n}"))).await);
    }
    let lost = || async { gateway.metric("comfygate_attempts_total{backend=\"gpu0\",outcome=\"lost\"}").await };
    // Unpaced, some milliseconds like these would use up the twenty tries of each job.
    eventually("the backend is tried again", || async { (lost().await >= 3.0).then_some(()) }).await;
    down.store(false, Ordering::SeqCst);
    for job in &jobs {
        assert_eq!(acme.finished(job).await["status"]["status_str"], "success");
    }
    assert!(lost().await < 20.0, "the tries are paced");
}
