//! Nodes of comfy.org's services: who pays, where what is paid with goes, and that a lost run is not paid for twice.

use comfygate_tests::gateway::{fast, said};
use comfygate_tests::{Client, Gateway, StandIn, eventually, workflows};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.callers-own-token.0123456789";
const KEY: &str = "comfyui-callers-own-key-0123456789";
const GATEWAYS: &str = "comfyui-the-gateways-key-0123456789";
const GATEWAYS_FILE: &str = "comfy-org.key";

fn policy(word: &str) -> String {
    format!("name = \"paid\"\npaid_nodes = \"{word}\"\n[classes]\nallow = [\"*\"]\n")
}

/// A gateway with so many stand-ins whose policy says this of paid nodes, with a key of its own if it should pay.
async fn gateway(word: &str, stand_ins: usize, plan: &str) -> Gateway {
    let plan = format!(
        "policy = \"paid.toml\"\nrate = {{ per_second = 1000, burst = 1000 }}\nrequests = {{ per_second = 5000, burst = 5000 }}\n{plan}\n"
    );
    let key = if word == "gateway" { "[comfy_org]\napi_key = \"file:comfy-org.key\"\n" } else { "" };
    let builder = Gateway::builder().stand_ins_with(vec![fast(); stand_ins]).plan(&plan).gateway_toml(key);
    builder.file("paid.toml", &policy(word)).file(GATEWAYS_FILE, GATEWAYS).start().await
}

fn body(workflow: Value) -> Value {
    json!({"prompt": workflow, "extra_data": {"auth_token_comfy_org": TOKEN, "api_key_comfy_org": KEY}})
}

/// The `extra_data` of everything that arrived at a backend.
fn arrived(gateway: &Gateway) -> Vec<Value> {
    let submissions = gateway.stand_ins().iter().flat_map(StandIn::submissions);
    submissions.map(|submission| submission["extra_data"].clone()).collect()
}

/// Files of a directory that hold one of the secrets, but for the one that the gateway's own is configured by.
fn files_with_secrets(directory: &Path) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![directory.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let Ok(kind) = fs::symlink_metadata(&path) else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                // The gateway works meanwhile: a credential that is over is deleted.
                let Ok(content) = fs::read(&path) else { continue };
                let holds = |secret: &str| content.windows(secret.len()).any(|part| part == secret.as_bytes());
                if [TOKEN, KEY, GATEWAYS].into_iter().any(holds) && !path.ends_with(GATEWAYS_FILE) {
                    found.push(path);
                }
            }
        }
    }
    found
}

/// A job's credential is deleted once its end is in the ledger, which shows a moment before.
async fn no_file_keeps_a_secret(gateway: &Gateway) {
    eventually("no file keeps a secret", || async { files_with_secrets(gateway.directory()).is_empty().then_some(()) })
        .await;
}

fn shows_no_secret(what: &str, text: &str) {
    for secret in [TOKEN, KEY, GATEWAYS, "callers-own", "gateways-key"] {
        assert!(!text.contains(secret), "{what}: {text}");
    }
}

/// Everything that a caller and an operator can read of a job.
async fn nothing_shows_a_secret(gateway: &Gateway, client: &Client, prompt: &str) {
    let job = format!("/api/jobs/{prompt}");
    let entry = format!("/history/{prompt}");
    for path in ["/queue", "/history", "/api/jobs", job.as_str(), entry.as_str()] {
        shows_no_secret(path, &client.get(path).await.expect(200).text());
    }
    shows_no_secret("log", &gateway.log_text());
    shows_no_secret("audit", &format!("{:?}", gateway.audit()));
    shows_no_secret("metrics", &gateway.metrics().await);
    shows_no_secret("refusals", &said(&gateway.command(&["refusals"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_pays_with_arrives_beside_its_paid_node_and_is_nowhere_else() {
    let gateway = gateway("caller", 1, "").await;
    let acme = gateway.client("acme");
    let mut socket = acme.socket(Some("watcher")).await;
    socket.sid().await;
    // Long enough to be looked at while it runs.
    let mut envelope = body(workflows::paid("a cat", 50, 100));
    envelope["client_id"] = json!("watcher");
    let prompt = acme.submit_with(envelope).await;
    acme.running(&prompt).await;
    nothing_shows_a_secret(&gateway, &acme, &prompt).await;
    let kept = files_with_secrets(gateway.directory());
    assert!(
        kept.iter().all(|file| file.parent().is_some_and(|folder| folder.ends_with("state/credentials"))),
        "{kept:?}"
    );
    assert_eq!(kept.len(), 1);
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let sent = arrived(&gateway);
    assert_eq!(sent.len(), 1);
    assert_eq!((&sent[0]["auth_token_comfy_org"], &sent[0]["api_key_comfy_org"]), (&json!(TOKEN), &json!(KEY)));
    for event in socket.until_end_of(&prompt).await {
        shows_no_secret("event", &format!("{event:?}"));
    }
    nothing_shows_a_secret(&gateway, &acme, &prompt).await;
    no_file_keeps_a_secret(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_paid_node_nothing_of_it_goes_anywhere() {
    for word in ["caller", "gateway", "deny"] {
        let gateway = gateway(word, 1, "").await;
        let acme = gateway.client("acme");
        let prompt = acme.submit_with(body(workflows::quick("free"))).await;
        acme.finished(&prompt).await;
        shows_no_secret(word, &format!("{:?}", arrived(&gateway)));
        nothing_shows_a_secret(&gateway, &acme, &prompt).await;
        no_file_keeps_a_secret(&gateway).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_pays_with_its_own_key_and_drops_the_callers() {
    let gateway = gateway("gateway", 1, "").await;
    let acme = gateway.client("acme");
    let prompt = acme.submit_with(body(workflows::paid("a cat", 1, 1))).await;
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let sent = arrived(&gateway);
    assert_eq!(sent[0]["api_key_comfy_org"], GATEWAYS);
    assert_eq!(sent[0].get("auth_token_comfy_org"), None);
    nothing_shows_a_secret(&gateway, &acme, &prompt).await;
    no_file_keeps_a_secret(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_quotes_what_was_paid_with_reaches_nobody_with_it() {
    for word in ["caller", "gateway"] {
        let gateway = gateway(word, 1, "").await;
        let acme = gateway.client("acme");
        let mut socket = acme.socket(Some("watcher")).await;
        socket.sid().await;
        let mut envelope = body(workflows::paid("quote", 1, 1));
        envelope["client_id"] = json!("watcher");
        let prompt = acme.submit_with(envelope).await;
        let entry = acme.finished(&prompt).await;
        assert!(entry.to_string().contains("API Error: 401 for '…'"), "{entry}");
        for event in socket.until_end_of(&prompt).await {
            shows_no_secret("event", &format!("{event:?}"));
        }
        nothing_shows_a_secret(&gateway, &acme, &prompt).await;
        no_file_keeps_a_secret(&gateway).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_node_that_nobody_pays_for_is_refused_with_what_to_send() {
    let unpaid = json!({"prompt": workflows::paid("a cat", 1, 1)});
    let empty = json!({"prompt": workflows::paid("a cat", 1, 1), "extra_data": {"api_key_comfy_org": "", "auth_token_comfy_org": null}});
    let gateway = gateway("caller", 1, "").await;
    let acme = gateway.client("acme");
    for envelope in [&unpaid, &empty] {
        let refused = acme.post("/prompt", envelope).await.expect(403);
        assert_eq!(refused.code(), "paid_credential_missing");
        assert!(refused.text().contains("extra_data.api_key_comfy_org"), "{}", refused.text());
        let checked = acme.post("/gate/check", envelope).await.expect(200).json();
        assert_eq!(
            (&checked["verdict"], &checked["violations"][0]["code"]),
            (&json!("deny"), &json!("paid_credential_missing"))
        );
    }
    let checked = acme.post("/gate/check", &body(workflows::paid("a cat", 1, 1))).await.expect(200);
    assert_eq!(checked.json()["verdict"], "allow");
    shows_no_secret("check", &checked.text());
    let listed = said(&gateway.command(&["refusals"]));
    assert!(listed.contains("paid_credential_missing"), "{listed}");
    assert_eq!(files_with_secrets(gateway.directory()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_denies_paid_nodes_refuses_them_whatever_is_sent() {
    let gateway = gateway("deny", 1, "").await;
    let refused = gateway.client("acme").post("/prompt", &body(workflows::paid("a cat", 1, 1))).await.expect(403);
    assert!(refused.text().contains("paid_node_refused"), "{}", refused.text());
    shows_no_secret("refusal", &refused.text());
    assert_eq!(files_with_secrets(gateway.directory()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_is_none_is_400_and_is_not_repeated() {
    let gateway = gateway("caller", 1, "").await;
    let acme = gateway.client("acme");
    for bad in [json!(format!("{KEY} with a space")), json!(KEY.repeat(200)), json!([KEY]), json!({"key": KEY})] {
        let refused = acme
            .post("/prompt", &json!({"prompt": workflows::quick("x"), "extra_data": {"api_key_comfy_org": bad}}))
            .await;
        shows_no_secret("refusal", &refused.expect(400).text());
    }
    shows_no_secret("log", &gateway.log_text());
    shows_no_secret("refusals", &said(&gateway.command(&["refusals"])));
    assert_eq!(files_with_secrets(gateway.directory()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_job_is_paid_for_after_a_restart_of_the_gateway() {
    let mut gateway = gateway("caller", 1, "").await;
    let acme = gateway.client("acme");
    let first = acme.submit(workflows::slow("first", 50, 100, false)).await;
    acme.running(&first).await;
    let prompt = acme.submit_with(body(workflows::paid("a cat", 1, 1))).await;
    let again = acme.submit_with(json!({"prompt": workflows::paid("a cat", 1, 1), "prompt_id": prompt,
        "extra_data": {"api_key_comfy_org": "comfyui-another-key-0123456789"}}));
    assert_eq!(again.await, prompt, "what pays is no part of what was submitted");
    gateway.kill9();
    gateway.start().await;
    let acme = gateway.client("acme");
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let sent = arrived(&gateway);
    let paid: Vec<&Value> = sent.iter().filter(|extra| extra.get("api_key_comfy_org").is_some()).collect();
    assert_eq!(paid.len(), 1);
    assert_eq!((&paid[0]["auth_token_comfy_org"], &paid[0]["api_key_comfy_org"]), (&json!(TOKEN), &json!(KEY)));
    nothing_shows_a_secret(&gateway, &acme, &prompt).await;
    no_file_keeps_a_secret(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_job_whose_credential_is_gone_ends_and_is_sent_to_nobody() {
    let mut gateway = gateway("caller", 1, "").await;
    let acme = gateway.client("acme");
    let first = acme.submit(workflows::slow("first", 50, 100, false)).await;
    acme.running(&first).await;
    let prompt = acme.submit_with(body(workflows::paid("a cat", 1, 1))).await;
    gateway.kill9();
    // As after a restore: a backup has none.
    fs::remove_dir_all(gateway.state().join("credentials")).unwrap();
    gateway.start().await;
    let told = gateway.client("acme").finished(&prompt).await.to_string();
    assert!(told.contains("NotPaid") && told.contains("submit it again"), "{told}");
    assert_eq!(arrived(&gateway).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_job_that_is_deleted_leaves_nothing_behind() {
    let gateway = gateway("caller", 1, "").await;
    let acme = gateway.client("acme");
    let first = acme.submit(workflows::slow("first", 150, 400, false)).await;
    acme.running(&first).await;
    let prompt = acme.submit_with(body(workflows::paid("a cat", 1, 1))).await;
    assert_eq!(files_with_secrets(gateway.directory()).len(), 1);
    acme.post("/queue", &json!({"delete": [prompt]})).await.expect(200);
    no_file_keeps_a_secret(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_run_that_is_lost_is_not_paid_for_again_unless_the_tenant_wants_it() {
    for (plan, again) in [("", false), ("retry_paid = true", true)] {
        let gateway = gateway("caller", 2, plan).await;
        let acme = gateway.client("acme");
        let prompt = acme.submit_with(body(workflows::paid("a cat", 30, 100))).await;
        let place = |stand_in: &StandIn| !stand_in.executed().is_empty();
        let running = eventually("it runs somewhere", || async { gateway.stand_ins().iter().position(place) }).await;
        gateway.stand_ins()[running].kill();
        let entry = acme.finished(&prompt).await;
        let told = entry.to_string();
        if again {
            assert_eq!(entry["status"]["status_str"], "success", "{entry}");
        } else {
            assert!(told.contains("PaidAttemptLost") && told.contains("may have been made"), "{told}");
        }
        assert_eq!(arrived(&gateway).len(), if again { 2 } else { 1 });
        shows_no_secret("history", &told);
        no_file_keeps_a_secret(&gateway).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_run_that_found_no_memory_is_told_so_and_not_paid_for_again_unless_the_tenant_wants_it() {
    for (plan, again) in [("", false), ("retry_paid = true", true)] {
        let gateway = gateway("caller", 1, plan).await;
        let acme = gateway.client("acme");
        gateway.stand_ins()[0].faults().oom_next();
        let prompt = acme.submit_with(body(workflows::paid("a cat", 1, 1))).await;
        let entry = acme.finished(&prompt).await;
        if again {
            assert_eq!(entry["status"]["status_str"], "success", "{entry}");
        } else {
            assert!(entry.to_string().contains("torch.OutOfMemoryError"), "{entry}");
        }
        assert_eq!(arrived(&gateway).len(), if again { 2 } else { 1 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_job_that_reached_no_backend_runs_on_another() {
    let gateway = gateway("caller", 2, "").await;
    let acme = gateway.client("acme");
    gateway.stand_ins()[0].kill();
    for _ in 0..2 {
        let prompt = acme.submit_with(body(workflows::paid("a cat", 1, 1))).await;
        let entry = acme.finished(&prompt).await;
        assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    }
    assert_eq!(gateway.stand_ins()[1].submissions().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_and_a_support_bundle_hold_nothing_of_it() {
    let gateway = gateway("caller", 1, "").await;
    let acme = gateway.client("acme");
    let prompt = acme.submit_with(body(workflows::paid("a cat", 40, 100))).await;
    acme.running(&prompt).await;
    for arguments in [["backup", "--to", "all.tar"].as_slice(), &["support-bundle", "--to", "bundle.tar"]] {
        let output = gateway.command(arguments);
        assert!(output.status.success(), "{}", said(&output));
        shows_no_secret("command", &said(&output));
    }
    let kept = files_with_secrets(gateway.directory());
    assert!(
        kept.iter().all(|file| file.parent().is_some_and(|folder| folder.ends_with("state/credentials"))),
        "{kept:?}"
    );
}

#[test]
fn check_tells_a_policy_that_lets_the_gateway_pay_without_a_key() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("paid.toml"), policy("gateway")).unwrap();
    fs::write(
        directory.path().join("tenants.toml"),
        "[[plan]]\nid = \"p\"\npolicy = \"paid.toml\"\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n",
    )
    .unwrap();
    fs::write(directory.path().join("key"), format!("{GATEWAYS}\n")).unwrap();
    let checked = |lines: &str| {
        fs::write(directory.path().join("gateway.toml"), format!("[tenants]\nfile = \"tenants.toml\"\n{lines}"))
            .unwrap();
        let output = comfygate_tests::gateway::run_in(directory.path(), &["check", "--config", "gateway.toml"]);
        shows_no_secret("check", &said(&output));
        (output.status.success(), said(&output))
    };
    let (good, told) = checked("");
    assert!(!good && told.contains("paid_nodes = \"gateway\"") && told.contains("[comfy_org] api_key"), "{told}");
    assert!(checked("[comfy_org]\napi_key = \"file:key\"\n").0);
    let (good, told) = checked(&format!("[comfy_org]\napi_key = \"{GATEWAYS}\"\n"));
    assert!(!good && told.contains("`file:PATH` or `env:NAME`"), "{told}");
    fs::write(directory.path().join("key"), "two words").unwrap();
    let (good, told) = checked("[comfy_org]\napi_key = \"file:key\"\n");
    assert!(!good && told.contains("printable ASCII without spaces") && !told.contains("two words"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_job_that_is_taken_back_before_it_began_is_run_and_not_lost() {
    let gateway = gateway("caller", 1, "").await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let short = workflows::slow("short", 8, 200, false);
    for _ in 0..6 {
        let prompt = acme.submit(short.clone()).await;
        acme.finished(&prompt).await;
    }
    // As much work by its number of steps, and slower: it is thought to be about to end, and does not.
    let first = acme.submit(workflows::slow("short", 8, 1000, false)).await;
    acme.running(&first).await;
    let paid = bravo.submit_with(body(workflows::paid("behind", 1, 1))).await;
    let address = gateway.stand_ins()[0].addr();
    eventually("it waits at the backend", || async {
        let queue: Value = serde_json::from_str(&gateway.plain_get(address, "/queue").await.1).unwrap();
        (queue["queue_pending"].as_array()?.len() == 1).then_some(())
    })
    .await;
    acme.post("/interrupt", &json!({"prompt_id": first})).await.expect(200);
    acme.finished(&first).await;
    assert_eq!(bravo.finished(&paid).await["status"]["status_str"], "success");
}
