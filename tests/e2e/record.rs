//! Stage 8: what outlives a crash, and what operators read.

use comfygate_tests::client::files_of;
use comfygate_tests::{Gateway, eventually, gateway, workflows};
use serde_json::json;
use std::collections::HashSet;
use std::fs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_accepted_jobs_go_on_and_history_ownership_and_urls_are_there() {
    let mut gateway = Gateway::builder().start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let done = acme.submit_with(json!({"prompt": workflows::quick("kept"), "prompt_id": "done"})).await;
    let before = acme.finished(&done).await;
    let url = acme.path_of(files_of(&before)[0]["url"].as_str().unwrap());
    let picture = acme.stranger().get(&url).await.expect(200).body;
    let mut waiting = Vec::new();
    for number in 0..5 {
        let envelope = json!({"prompt": workflows::slow("crash", 10, 100, false), "prompt_id": format!("w{number}")});
        waiting.push(acme.submit_with(envelope).await);
    }
    eventually("both backends run", || async {
        gateway.stand_ins().iter().all(|stand_in| !stand_in.executed().is_empty()).then_some(())
    })
    .await;

    gateway.kill9();
    gateway.start().await;

    for prompt in &waiting {
        let entry = acme.finished(prompt).await;
        assert_eq!(entry["status"]["status_str"], "success", "{entry}");
        assert_eq!(files_of(&entry).len(), 1);
    }
    let after = acme.finished(&done).await;
    assert_eq!(
        (&before["prompt"], &before["status"], &before["meta"]),
        (&after["prompt"], &after["status"], &after["meta"])
    );
    assert_eq!(acme.stranger().get(&url).await.expect(200).body, picture);
    assert_eq!(bravo.get("/history").await.expect(200).json(), json!({}));
    assert_eq!(bravo.get("/history/done").await.expect(200).json(), json!({}));
    let history = acme.get("/history").await.expect(200).json();
    let names: HashSet<String> = waiting
        .iter()
        .map(|prompt| files_of(&history[prompt.as_str()])[0]["filename"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 5, "no name is given twice: {names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ran_at_the_crash_is_followed_up_and_not_run_twice() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::slow("followed", 20, 100, false)).await;
    eventually("it runs", || async { (!gateway.stand_ins()[0].executed().is_empty()).then_some(()) }).await;
    gateway.kill9();
    gateway.start().await;
    assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
    assert_eq!(gateway.stand_ins()[0].executed().len(), 1, "the backend went on with it meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_sids_are_the_same_after_a_restart() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::quick("one")).await;
    acme.finished(&prompt).await;
    gateway.restart().await;
    let prompt = acme.submit(workflows::quick("two")).await;
    acme.finished(&prompt).await;
    let submissions = gateway.stand_ins()[0].submissions();
    assert_eq!(submissions[0]["client_id"], submissions[1]["client_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_tells_sockets_and_ends_well() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let mut socket = acme.socket(None).await;
    socket.sid().await;
    let status = gateway.terminate().await;
    assert!(status.success(), "{status}");
    let heard = socket.until("the close", |event| event.kind() == "closed").await;
    assert_eq!(heard.last(), Some(&comfygate_tests::Event::Closed(Some(1012))), "{heard:?}");
    gateway.start().await;
    acme.get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_held_by_another_process_is_said_so_with_exit_2() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let text = fs::read_to_string(gateway.config()).unwrap();
    let addresses = gateway.addresses();
    let mut other = text;
    for used in [addresses.https, addresses.redirect, addresses.metrics] {
        other = other.replace(&format!("address = \"{used}\""), &format!("address = \"{}\"", gateway::free_address()));
    }
    let path = gateway.directory().join("other.toml");
    fs::write(&path, other).unwrap();
    let refused = gateway::run_in(gateway.directory(), &["serve", "--config", &path.display().to_string()]);
    assert_eq!(refused.status.code(), Some(2), "{}", gateway::said(&refused));
    let said = gateway::said(&refused);
    assert!(said.contains("state") && (said.contains("another process") || said.contains("held")), "{said}");
    gateway.client("acme").get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_requests_refusals_jobs_and_backends() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::quick("counted")).await;
    acme.finished(&prompt).await;
    acme.post("/prompt", &json!({"prompt": workflows::picture("x", 5000, 8)})).await.expect(403);
    let requests = eventually("requests are counted", || async {
        let text = gateway.metrics().await;
        text.lines()
            .any(|line| {
                line.starts_with("comfygate_requests_total{")
                    && line.contains("route=\"/prompt\"")
                    && line.contains("status=\"403\"")
            })
            .then_some(text)
    })
    .await;
    for wanted in [
        "comfygate_requests_total{",
        "comfygate_refusals_total{",
        "comfygate_jobs{",
        "comfygate_backend_up{backend=\"gpu1\"} 1",
        "comfygate_attempts_total{",
        "comfygate_request_seconds_bucket{",
        "comfygate_queue_wait_seconds_bucket{",
        "comfyui_queue_size",
        "comfyui_generation_total{",
        "comfyui_generation_duration_seconds",
    ] {
        assert!(requests.contains(wanted), "`{wanted}` is missing:\n{requests}");
    }
    assert!(!requests.contains(&prompt) && !requests.contains("acme"), "ids and tenants are no labels");
    let (status, _) = gateway.plain_get(gateway.addresses().metrics, "/healthz").await;
    assert_eq!(status, 200);
    let (status, _) = gateway.plain_get(gateway.addresses().metrics, "/readyz").await;
    assert_eq!(status, 200);
    let (status, _) = gateway.plain_get(gateway.addresses().metrics, "/queue").await;
    assert_eq!(status, 404, "nothing else is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_needs_a_backend() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    gateway.stand_ins()[0].kill();
    gateway.backend_is(0, false).await;
    let (status, _) = gateway.plain_get(gateway.addresses().metrics, "/readyz").await;
    assert_eq!(status, 503);
    gateway.stranger().get("/gate/health").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acceptances_and_refusals_are_audited_without_paths_and_bodies() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let answer = acme.post("/prompt", &json!({"prompt": workflows::quick("audited")})).await.expect(200);
    let id = answer.header("x-request-id").unwrap().to_owned();
    let line = gateway.audited("the acceptance", |line| line["request"] == id.as_str()).await;
    assert_eq!((&line["event"], &line["owner"]["tenant"]), (&json!("accepted"), &json!("acme")), "{line}");
    let time = line["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.contains('T'), "{time}");
    let refused = acme.get("/nowhere/secret-name?token=secret-token").await.expect(404);
    let id = refused.header("x-request-id").unwrap().to_owned();
    let line = gateway.audited("the refusal", |line| line["request"] == id.as_str()).await;
    assert_eq!(
        (&line["event"], &line["stage"], &line["code"]),
        (&json!("refused"), &json!("route"), &json!("not_found")),
        "{line}"
    );
    let text = fs::read_to_string(gateway.directory().join("audit.jsonl")).unwrap();
    assert!(!text.contains("secret-name") && !text.contains("secret-token"), "raw paths in the audit log");
    assert!(!text.contains(&gateway.key("acme")[16..]), "a key in the audit log");
    gateway.audited("the start", |line| line["event"] == "started").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_lies_readable_in_the_state_directory() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let secret = gateway.key("acme")[16..].to_owned();
    let mut folders = vec![gateway.state()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                // The gateway works meanwhile: a file that is being written is renamed.
                let Ok(bytes) = fs::read(entry.path()) else { continue };
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "a key lies in {}", entry.path().display());
                #[cfg(unix)]
                {
                    use std::os::unix::fs::PermissionsExt;
                    let Ok(metadata) = entry.metadata() else { continue };
                    let mode = metadata.permissions().mode() & 0o077;
                    assert!(
                        mode == 0 || entry.path().ends_with("tls/ca.crt") || entry.path().ends_with("tls/gateway.crt"),
                        "{} is readable by others",
                        entry.path().display()
                    );
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_unwritable_state_directory_reads_go_on_and_submissions_are_503() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::quick("before")).await;
    acme.finished(&prompt).await;
    // Root writes anywhere; only a folder that is no folder any more stops it: graphs are files beside the ledger.
    let graphs = gateway.state().join("graphs");
    if !graphs.is_dir() {
        comfygate_tests::skipped(
            "unwritable ledger: graphs do not lie in `graphs`, and root can't be kept from the ledger file itself",
        );
        return;
    }
    let aside = gateway.state().join("graphs-aside");
    fs::rename(&graphs, &aside).unwrap();
    fs::write(&graphs, b"no folder").unwrap();
    let refused = acme.post("/prompt", &json!({"prompt": workflows::picture("new", 72, 56)})).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    acme.get("/queue").await.expect(200);
    fs::remove_file(&graphs).unwrap();
    fs::rename(&aside, &graphs).unwrap();
    let prompt = acme.submit(workflows::picture("new", 72, 56)).await;
    acme.finished(&prompt).await;
}
