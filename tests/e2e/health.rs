//! Stage 6: whether a backend is alive, and what becomes of its jobs when it is not.

use comfygate_tests::client::files_of;
use comfygate_tests::gateway::fast;
use comfygate_tests::{Client, Gateway, RawConnection, StandIn, eventually, workflows};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Canaries every second, and little patience.
pub(super) const ALERT: &str = "[dispatch]\ncanary_interval = \"1s\"\ncanary_deadline = \"3s\"\nstall_timeout = \"2s\"\npoll_interval = \"200ms\"\n";

pub(super) async fn state_is(gateway: &Gateway, number: usize, state: &str) {
    let wanted = format!("comfygate_backend_state{{backend=\"gpu{number}\",state=\"{state}\"}}");
    eventually(&wanted, || async { (gateway.metric(&wanted).await == 1.0).then_some(()) }).await;
}

async fn proven(gateway: &Gateway, number: usize) -> f64 {
    gateway.metric(&format!("comfygate_canaries_total{{backend=\"gpu{number}\",outcome=\"proven\"}}")).await
}

/// Waits until one more canary has run.
async fn next_canary(gateway: &Gateway, number: usize) {
    let before = proven(gateway, number).await;
    eventually("a canary", || async { (proven(gateway, number).await > before).then_some(()) }).await;
}

fn is_canary(id: &str) -> bool {
    id.starts_with("ca9a21e5-")
}

/// What ran there, canaries apart.
pub(super) fn jobs_run(stand_in: &StandIn) -> usize {
    stand_in.executed().iter().filter(|id| !is_canary(id)).count()
}

async fn runs_at(gateway: &Gateway) -> usize {
    eventually("it runs somewhere", || async { gateway.stand_ins().iter().position(|stand_in| jobs_run(stand_in) > 0) })
        .await
}

pub(super) async fn succeeds(client: &Client, prompt: &str) -> Value {
    let entry = client.finished(prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    entry
}

/// Asks a stand-in directly, as someone does who goes round the gateway.
async fn post(stand_in: &StandIn, path: &str, body: &Value) -> u16 {
    let body = body.to_string();
    let mut connection = RawConnection::plain(stand_in.addr(), Ipv4Addr::LOCALHOST).await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        stand_in.addr(),
        body.len()
    );
    connection.write(format!("{head}{body}").as_bytes()).await;
    connection.response().await.expect("an answer").status
}

async fn ids_in_history(gateway: &Gateway, stand_in: &StandIn) -> Vec<String> {
    let text = gateway.plain_get(stand_in.addr(), "/history").await.1;
    serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap().keys().cloned().collect()
}

fn sockets_opened(stand_in: &StandIn) -> Vec<String> {
    let requests = stand_in.requests();
    requests.into_iter().filter_map(|(_, path, _)| path.strip_prefix("/ws?clientId=").map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_dies_in_mid_run_is_finished_elsewhere_and_ends_once() {
    let gateway = Gateway::builder().gateway_toml(ALERT).start().await;
    let acme = gateway.client("acme");
    let mut socket = acme.socket(Some("watcher")).await;
    socket.sid().await;
    let envelope = json!({"prompt": workflows::slow("survivor", 20, 100, false), "client_id": "watcher"});
    let prompt = acme.submit_with(envelope).await;
    let broken = runs_at(&gateway).await;
    let id = format!("gpu{broken}");
    gateway.stand_ins()[broken].faults().worker_dies();
    let entry = succeeds(&acme, &prompt).await;
    assert_eq!(files_of(&entry).len(), 1);
    assert_eq!(jobs_run(&gateway.stand_ins()[1 - broken]), 1);
    let events = socket.until_end_of(&prompt).await;
    let ends = ["execution_success", "execution_error", "execution_interrupted"];
    assert_eq!(events.iter().filter(|event| ends.contains(&event.kind())).count(), 1);
    state_is(&gateway, broken, "worker_dead").await;
    gateway
        .audited("it was ejected", |line| {
            line["event"] == "backend"
                && line["backend"] == id.as_str()
                && line["up"] == false
                && line["reason"].as_str().unwrap().starts_with("worker_dead: ")
        })
        .await;
    // HTTP goes on answering 200: that alone does not bring it back.
    let prompt = acme.submit(workflows::quick("meanwhile")).await;
    succeeds(&acme, &prompt).await;
    assert_eq!(jobs_run(&gateway.stand_ins()[broken]), 1);
    gateway.stand_ins()[broken].restart().await.unwrap();
    state_is(&gateway, broken, "half_open").await;
    let back = gateway.audited("it is back", |line| {
        line["event"] == "backend" && line["backend"] == id.as_str() && line["up"] == true && line["reason"] != ""
    });
    let back = back.await["reason"].as_str().unwrap().to_owned();
    assert!(back.contains("it ran a canary") && back.contains("worker_dead"), "{back}");
    let both =
        [acme.submit(workflows::slow("a", 2, 50, false)).await, acme.submit(workflows::slow("b", 2, 50, false)).await];
    for prompt in &both {
        succeeds(&acme, prompt).await;
    }
    state_is(&gateway, broken, "up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_idle_is_found_by_a_canary_that_nobody_sees() {
    let gateway = Gateway::builder().gateway_toml(ALERT).start().await;
    let acme = gateway.client("acme");
    let mut socket = acme.socket(None).await;
    socket.sid().await;
    next_canary(&gateway, 0).await;
    next_canary(&gateway, 0).await;
    assert_eq!(acme.get("/history").await.expect(200).json(), json!({}));
    assert_eq!(acme.get("/queue").await.expect(200).json(), json!({"queue_running": [], "queue_pending": []}));
    for series in
        ["comfyui_generation_total{status=\"succeeded\"}", "comfygate_jobs{state=\"running\"}", "comfyui_queue_size"]
    {
        assert_eq!(gateway.metric(series).await, 0.0, "{series}");
    }
    let first = &gateway.stand_ins()[0];
    assert!(first.executed().iter().any(|id| is_canary(id)), "it was executed and not cached");
    eventually("nothing of it stays there", || async {
        ids_in_history(&gateway, first).await.iter().all(|id| !is_canary(id)).then_some(())
    })
    .await;
    first.faults().worker_dies();
    state_is(&gateway, 0, "worker_dead").await;
    for _ in 0..3 {
        let prompt = acme.submit(workflows::quick("elsewhere")).await;
        succeeds(&acme, &prompt).await;
        let events = socket.until_end_of(&prompt).await;
        assert!(events.iter().all(|event| !event.data().to_string().contains("ca9a21e5")), "{events:?}");
    }
    assert_eq!(jobs_run(&gateway.stand_ins()[0]), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_a_dead_worker_never_takes_is_run_elsewhere_without_a_canary() {
    let off = ALERT
        .replace("canary_interval = \"1s\"", "canary_interval = \"0s\"")
        .replace("stall_timeout = \"2s\"", "stall_timeout = \"1d\"");
    let gateway = Gateway::builder().gateway_toml(&off).start().await;
    let acme = gateway.client("acme");
    gateway.stand_ins()[0].faults().worker_dies();
    // With nothing to do both are alike, and the first is taken.
    let prompt = acme.submit(workflows::quick("never-taken")).await;
    succeeds(&acme, &prompt).await;
    assert_eq!((jobs_run(&gateway.stand_ins()[0]), jobs_run(&gateway.stand_ins()[1])), (0, 1));
    assert_eq!(gateway.stand_ins()[0].submissions().len(), 1);
    gateway
        .audited("why", |line| {
            line["event"] == "backend"
                && line["reason"].as_str().is_some_and(|why| why.starts_with("worker_dead: a job got nowhere"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_somebody_elses_prompt_killed_is_found_though_that_prompt_seems_to_run() {
    let patient = ALERT.replace("stall_timeout = \"2s\"", "stall_timeout = \"1d\"");
    let gateway = Gateway::builder().gateway_toml(&patient).start().await;
    let acme = gateway.client("acme");
    let stand_in = &gateway.stand_ins()[0];
    // A link to a node that is not there, under a name that is not declared, is not validated and kills the worker (facts §3.6 K2).
    let mut deadly = workflows::quick("deadly");
    deadly["1"]["inputs"]["zzz"] = json!(["nope", 0]);
    assert_eq!(post(stand_in, "/prompt", &json!({"prompt": deadly, "client_id": "somebody"})).await, 200);
    eventually("it seems to run", || async {
        let queue: Value = serde_json::from_str(&gateway.plain_get(stand_in.addr(), "/queue").await.1).unwrap();
        (queue["queue_running"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    state_is(&gateway, 0, "worker_dead").await;
    let prompt = acme.submit(workflows::quick("elsewhere")).await;
    succeeds(&acme, &prompt).await;
    assert_eq!(jobs_run(&gateway.stand_ins()[1]), 1);
    stand_in.restart().await.unwrap();
    state_is(&gateway, 0, "half_open").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_canaries_a_job_that_shows_no_progress_is_tried_elsewhere_after_its_time() {
    let off = ALERT.replace("canary_interval = \"1s\"", "canary_interval = \"0s\"");
    let gateway = Gateway::builder().gateway_toml(&off).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::slow("stuck", 10, 100, false)).await;
    let broken = runs_at(&gateway).await;
    gateway.stand_ins()[broken].faults().worker_dies();
    let entry = succeeds(&acme, &prompt).await;
    assert_eq!(files_of(&entry).len(), 1);
    gateway
        .audited("why", |line| {
            line["event"] == "backend"
                && line["reason"].as_str().is_some_and(|why| why.starts_with("stalled: a job got nowhere"))
        })
        .await;
    assert_eq!(jobs_run(&gateway.stand_ins()[1 - broken]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_hangs_loses_its_job_to_the_other_and_is_swept_when_it_answers_again() {
    let patient = ALERT.replace("stall_timeout = \"2s\"", "stall_timeout = \"1h\"");
    let gateway = Gateway::builder().gateway_toml(&patient).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::slow("hung", 50, 100, false)).await;
    let broken = runs_at(&gateway).await;
    let stand_in = &gateway.stand_ins()[broken];
    let sid = sockets_opened(stand_in).first().cloned().expect("our socket");
    let foreign =
        json!({"prompt": workflows::quick("foreign"), "prompt_id": "somebody-elses", "client_id": "somebody"});
    let forgotten = json!({"prompt": workflows::quick("forgotten"), "prompt_id": "6f9619ff-8b86-4011-b42d-00cf4fc964ff", "client_id": sid});
    assert_eq!((post(stand_in, "/prompt", &foreign).await, post(stand_in, "/prompt", &forgotten).await), (200, 200));
    stand_in.faults().hang_http(true);
    state_is(&gateway, broken, "hung").await;
    succeeds(&acme, &prompt).await;
    assert_eq!(jobs_run(&gateway.stand_ins()[1 - broken]), 1);
    stand_in.faults().hang_http(false);
    state_is(&gateway, broken, "half_open").await;
    eventually("only what is not ours stays", || async {
        (ids_in_history(&gateway, stand_in).await == ["somebody-elses"]).then_some(())
    })
    .await;
    assert_eq!(acme.get("/history").await.expect(200).json().as_object().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_process_is_noticed_as_another_and_proves_itself_before_it_is_used() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml(ALERT).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::slow("restarted", 30, 100, false)).await;
    runs_at(&gateway).await;
    gateway.stand_ins()[0].kill();
    state_is(&gateway, 0, "refused").await;
    let before = proven(&gateway, 0).await;
    gateway.stand_ins()[0].restart().await.unwrap();
    succeeds(&acme, &prompt).await;
    assert!(proven(&gateway, 0).await > before);
    assert!(gateway.log_text().contains("incarnation=2"), "a new process");
    // The first thing that the new process was given is the canary.
    let given: Vec<bool> = gateway.stand_ins()[0]
        .submissions()
        .iter()
        .map(|body| is_canary(body["prompt_id"].as_str().unwrap()))
        .collect();
    let last_job = given.iter().rposition(|canary| !canary).unwrap();
    assert!(given[..last_job].last().unwrap(), "{given:?}");
    state_is(&gateway, 0, "up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_hears_nothing_of_a_change_of_ours_is_connected_anew_and_events_flow_again() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let stand_in = &gateway.stand_ins()[0];
    let mut socket = acme.socket(Some("watcher")).await;
    socket.sid().await;
    assert_eq!(sockets_opened(stand_in).len(), 1);
    stand_in.faults().silence_sockets(true);
    let prompt = acme.submit(workflows::slow("unheard", 30, 100, false)).await;
    eventually("a second socket", || async { (sockets_opened(stand_in).len() > 1).then_some(()) }).await;
    stand_in.faults().silence_sockets(false);
    succeeds(&acme, &prompt).await;
    let envelope = json!({"prompt": workflows::slow("heard", 5, 50, false), "client_id": "watcher"});
    let prompt = acme.submit_with(envelope).await;
    let events = socket.until_end_of(&prompt).await;
    assert!(events.iter().any(|event| event.kind() == "progress"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_quiet_job_that_makes_progress_is_left_alone() {
    let patient = ALERT.replace("stall_timeout = \"2s\"", "stall_timeout = \"5s\"");
    let gateway = Gateway::builder().gateway_toml(&patient).stand_ins_with(vec![fast()]).start().await;
    let acme = gateway.client("acme");
    // Longer than the time in which silence counts as a stall, with many signs of life in it.
    let prompt = acme.submit(workflows::slow("steady", 8, 1000, false)).await;
    succeeds(&acme, &prompt).await;
    assert_eq!(jobs_run(&gateway.stand_ins()[0]), 1);
    assert_eq!(gateway.metric("comfygate_attempts_total{backend=\"gpu0\",outcome=\"lost\"}").await, 0.0);
}
