//! The state directory: taken over from an older release, backed up and restored, and what is in the way of either.

use comfygate_tests::client::files_of;
use comfygate_tests::gateway::{run_in, said};
use comfygate_tests::{Client, Gateway, eventually, workflows};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn sha256(bytes: &[u8]) -> String {
    let sum = ring::digest::digest(&ring::digest::SHA256, bytes);
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts the state directory of the first release in place of a gateway's that never ran, and tells what is in it.
fn with_state_of_schema_1(gateway: &Gateway) -> Value {
    let (from, to) = (fixture("state-v1"), gateway.state());
    for folder in ["graphs", "blobs"] {
        copy_tree(&from.join(folder), &to.join(folder));
    }
    let unpacked = Command::new("gzip").arg("-dc").arg(from.join("ledger.redb.gz")).output().unwrap();
    assert!(unpacked.status.success(), "gzip: {}", said(&unpacked));
    fs::write(to.join("ledger.redb"), unpacked.stdout).unwrap();
    serde_json::from_str(&fs::read_to_string(from.join("expected.json")).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(text).collect()
}

/// That an ended job is as the older release told it.
async fn is_as_it_was(client: &Client, expected: &Value) {
    let prompt = text(&expected["prompt_id"]);
    let history = client.get(&format!("/history/{prompt}")).await.expect(200).json();
    let entry = &history[prompt];
    let names: Vec<Value> = files_of(entry).iter().map(|file| file["filename"].clone()).collect();
    let told = json!({
        "prompt_id": prompt, "status": entry["status"]["status_str"], "files": names, "number": entry["prompt"][0],
    });
    assert_eq!(&told, expected, "{entry}");
    for file in files_of(entry) {
        client.stranger().get(&client.path_of(text(&file["url"]))).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_directory_of_schema_1_is_taken_over_with_everything_in_it() {
    let mut gateway = Gateway::builder().stand_ins(1).prepare().await;
    let expected = with_state_of_schema_1(&gateway);
    gateway.start().await;
    gateway.backends_are_up().await;
    let stranger = gateway.stranger();
    let [acme, bravo, revoked] =
        ["acme", "bravo", "revoked"].map(|name| stranger.bearer(text(&expected["keys"][name])));
    for ended in expected["ended"].as_array().unwrap() {
        is_as_it_was(&acme, ended).await;
    }
    is_as_it_was(&bravo, &expected["other_tenant"]).await;
    revoked.get("/gate/me").await.expect(401);
    for view in expected["views"].as_array().unwrap() {
        let path = text(&view["path"]);
        assert_eq!(sha256(&acme.get(path).await.expect(200).body), text(&view["sha256"]));
        bravo.get(path).await.expect(404);
    }
    // What had not ended runs now, and nothing else does.
    for prompt in texts(&expected["active"]) {
        assert_eq!(acme.finished(prompt).await["status"]["status_str"], "success");
    }
    assert_eq!(gateway.stand_ins()[0].executed().len(), texts(&expected["active"]).len());
    let cancelled = text(&expected["cancelled"]);
    assert_eq!(acme.get(&format!("/history/{cancelled}")).await.expect(200).json(), json!({}));
    // Names go on where they ended, and the file as it was is kept.
    let next = acme.submit(workflows::quick("lake")).await;
    assert_eq!(files_of(&acme.finished(&next).await)[0]["filename"], "lake_00003_.png");
    assert!(gateway.state().join("ledger.redb.v1").is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copy_that_a_migration_keeps_can_be_put_back_and_migrated_again() {
    let mut gateway = Gateway::builder().stand_ins(1).prepare().await;
    let expected = with_state_of_schema_1(&gateway);
    gateway.start().await;
    gateway.terminate().await;
    let (kept, ledger) = (gateway.state().join("ledger.redb.v1"), gateway.state().join("ledger.redb"));
    fs::rename(&kept, &ledger).unwrap();
    gateway.start().await;
    let acme = gateway.stranger().bearer(text(&expected["keys"]["acme"]));
    is_as_it_was(&acme, &expected["ended"][0]).await;
    assert!(kept.is_file(), "it was of schema 1 again");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Submits until told to stop; gives every prompt that was accepted.
async fn load(client: Client, stop: tokio::sync::watch::Receiver<bool>) -> Vec<String> {
    let mut accepted = Vec::new();
    while !*stop.borrow() {
        accepted.push(client.submit(workflows::quick("load")).await);
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_holds_every_job_that_was_accepted_before_it_and_is_restored_whole() {
    let mut gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let first = acme.submit(workflows::quick("kept")).await;
    let url = acme.path_of(text(&files_of(&acme.finished(&first).await)[0]["url"]));
    let picture = acme.stranger().get(&url).await.expect(200).body;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let submitting = tokio::spawn(load(acme.clone(), stopped));
    let mut before = vec![first.clone()];
    for _ in 0..20 {
        before.push(acme.submit(workflows::quick("before")).await);
    }
    let backup = |to: &str| gateway.command(&["backup", "--to", to]);
    for to in ["first.tar", "second"] {
        let made = tokio::task::block_in_place(|| backup(to));
        assert!(made.status.success(), "{}", said(&made));
    }
    stop.send_replace(true);
    let during = submitting.await.unwrap();
    assert!(during.len() > 3, "submissions went on: {}", during.len());
    let here = gateway.directory().to_owned();
    assert_eq!(
        (mode(&here.join("first.tar")), mode(&here.join("second")), mode(&here.join("second/ledger.redb"))),
        (0o600, 0o700, 0o600)
    );
    assert!(!here.join("first.tar.partial").exists() && !here.join("second.partial").exists());
    gateway.audited("the backup", |line| line["event"] == "backup_made").await;

    // Whoever knows `tar` can look into it.
    let listed = Command::new("tar").arg("-tf").arg(here.join("first.tar")).output().unwrap();
    let listed = said(&listed);
    assert!(
        listed.starts_with("blobs/") && listed.ends_with("manifest.json\n") && listed.contains("signing.keys"),
        "{listed}"
    );

    gateway.terminate().await;
    for (number, from) in ["first.tar", "second"].into_iter().enumerate() {
        fs::rename(gateway.state(), here.join(format!("old-{number}"))).unwrap();
        let restored = gateway.command(&["restore", "--from", from]);
        assert!(restored.status.success(), "{}", said(&restored));
        gateway.start().await;
        // The same keys, certificates, URLs.
        let acme = gateway.client("acme");
        for prompt in &before {
            assert_eq!(acme.finished(prompt).await["status"]["status_str"], "success");
        }
        assert_eq!(acme.stranger().get(&url).await.expect(200).body, picture);
        let next = acme.submit(workflows::quick("after")).await;
        acme.finished(&next).await;
        gateway.terminate().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_gateway_is_backed_up_and_a_faulty_backup_or_a_full_directory_refused() {
    let gateway = Gateway::builder().stand_ins(1).prepare().await;
    let key = gateway.new_key(&["--tenant", "acme"]);
    let made = gateway.command(&["backup", "--to", "b.tar", "--json"]);
    assert!(made.status.success(), "{}", said(&made));
    let told: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(told["manifest"]["format"], "comfygate-backup-1", "{told}");
    let again = gateway.command(&["backup", "--to", "b.tar"]);
    assert!(again.status.code() == Some(2) && said(&again).contains("there already"), "{}", said(&again));

    let full = gateway.command(&["restore", "--from", "b.tar"]);
    assert!(full.status.code() == Some(2) && said(&full).contains("not empty"), "{}", said(&full));
    let file = gateway.directory().join("b.tar");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(4).position(|window| window == b"redb").unwrap() + 5000;
    bytes[at] ^= 1;
    fs::write(gateway.directory().join("faulty.tar"), &bytes).unwrap();
    let state = gateway.directory().join("elsewhere");
    let faulty = gateway.command(&["restore", "--from", "faulty.tar", "--state", "elsewhere"]);
    assert!(faulty.status.code() == Some(1) && said(&faulty).contains("nothing was restored"), "{}", said(&faulty));
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);

    // Into another place, by a program that knows no configuration of it.
    let bare = tempfile::tempdir().unwrap();
    let from = file.display().to_string();
    let restored = run_in(bare.path(), &["restore", "--from", &from, "--state", "state"]);
    assert!(restored.status.success(), "{}", said(&restored));
    let listed = run_in(bare.path(), &["key", "list"]);
    assert!(said(&listed).contains(key.split('_').nth(1).unwrap()), "{}", said(&listed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_is_good_while_jobs_would_run_and_tells_what_is_in_the_way() {
    let mut gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let slow = acme.submit(workflows::slow("slow", 150, 400, false)).await;
    acme.running(&slow).await;
    let status = |gateway: &Gateway| {
        let told = gateway.command(&["status", "--json"]);
        (told.status.code(), serde_json::from_slice::<Value>(&told.stdout).unwrap())
    };
    let running = eventually("the job is told", || async {
        let (code, told) = status(&gateway);
        assert_eq!((code, &told["healthy"]), (Some(0), &json!(true)), "{told}");
        (told["jobs"]["running"] == 1).then_some(told)
    })
    .await;
    assert_eq!((&running["generation"], &running["store_writable"]), (&json!(1), &json!(true)));
    assert!(running["free_bytes"].as_u64().unwrap() > 0);
    let outstanding: Vec<_> =
        running["backends"].as_array().unwrap().iter().map(|backend| &backend["outstanding"]).collect();
    assert!(outstanding.contains(&&json!(1)), "{running}");
    assert_eq!(running["listeners"][1]["kind"], "redirect");
    let table = said(&gateway.command(&["status"]));
    assert!(table.contains("healthy") && table.contains("gpu1") && table.contains("1 running"), "{table}");

    for stand_in in gateway.stand_ins() {
        stand_in.kill();
    }
    gateway.backend_is(0, false).await;
    gateway.backend_is(1, false).await;
    let (code, told) = status(&gateway);
    assert_eq!((code, &told["reasons"]), (Some(1), &json!(["no backend answers"])), "{told}");
    gateway.terminate().await;
    let stopped = gateway.command(&["status"]);
    assert!(stopped.status.code() == Some(1) && said(&stopped).contains("not running"), "{}", said(&stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_made_and_revoked_while_the_gateway_is_stopped_are_audited() {
    let gateway = Gateway::builder().stand_ins(1).prepare().await;
    let key = gateway.new_key(&["--tenant", "acme", "--user", "ada"]);
    let id = key.split('_').nth(1).unwrap();
    let created = gateway.audited("the key", |line| line["event"] == "key_created").await;
    assert_eq!((&created["key"], &created["owner"]["user"]), (&json!(id), &json!("ada")), "{created}");
    assert!(gateway.command(&["key", "revoke", id]).status.success());
    gateway.audited("its end", |line| line["event"] == "key_revoked" && line["key"] == id).await;
    assert_eq!(gateway.audit().len(), 2, "a command is no start and no stop of the gateway");
    // Where the audit log can't be written, nothing is done.
    fs::remove_file(gateway.directory().join("audit.jsonl")).unwrap();
    fs::create_dir(gateway.directory().join("audit.jsonl")).unwrap();
    let refused = gateway.command(&["key", "create", "--tenant", "bravo"]);
    assert!(refused.status.code() == Some(2) && refused.stdout.is_empty(), "{}", said(&refused));
    assert!(!said(&gateway.command(&["key", "list"])).contains("bravo"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_open_to_others_is_closed_with_a_line_in_the_log_and_a_half_restored_one_refused() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    gateway.terminate().await;
    let wide = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    wide(&gateway.state(), 0o755);
    wide(&gateway.state().join("signing.keys"), 0o644);
    gateway.start().await;
    assert_eq!((mode(&gateway.state()), mode(&gateway.state().join("signing.keys"))), (0o700, 0o600));
    let log = gateway.log_text();
    assert!(log.contains("signing.keys` was open to other users") && log.contains("mode 0755"), "{log}");
    gateway.terminate().await;
    fs::create_dir(gateway.state().join("restore.tmp")).unwrap();
    let served = gateway.command(&["serve"]);
    assert!(served.status.code() == Some(2) && said(&served).contains("restore.tmp"), "{}", said(&served));
}

/// Uploads a file as the page does.
async fn upload(client: &Client, name: &str, content: &[u8]) -> comfygate_tests::Response {
    let head = format!(
        "--edge\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\nContent-Type: image/png\r\n\r\n"
    );
    let body = [head.as_bytes(), content, b"\r\n--edge--\r\n"].concat();
    client.post_bytes("/upload/image", "multipart/form-data; boundary=edge", body).await
}

fn leftovers(gateway: &Gateway) -> Vec<PathBuf> {
    let folders = ["blobs/tmp", "graphs/tmp"].map(|folder| gateway.state().join(folder));
    folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_can_be_written_reads_go_on_submissions_are_503_and_no_restart_is_needed() {
    let mut gateway = Gateway::builder().stand_ins(1).survives_full_files().start().await;
    let acme = gateway.client("acme");
    let done = acme.submit(workflows::quick("before")).await;
    let entry = acme.finished(&done).await;
    let url = acme.path_of(text(&files_of(&entry)[0]["url"]));
    let picture = acme.stranger().get(&url).await.expect(200).body;
    upload(&acme, "mine.png", &picture).await.expect(200);
    let running = acme.submit(workflows::slow("through", 50, 100, false)).await;
    acme.running(&running).await;
    if !gateway.limit_files(Some(0)) {
        comfygate_tests::skipped("full disk: there is no `prlimit` here");
        return;
    }
    for number in 0..3 {
        let envelope = json!({"prompt": workflows::picture("new", 72, 56), "prompt_id": format!("refused-{number}")});
        let refused = acme.post("/prompt", &envelope).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.header("retry-after").is_some());
        assert_eq!(
            acme.get(&format!("/history/{done}")).await.expect(200).json()[&done]["status"]["status_str"],
            "success"
        );
        let queue = acme.get("/queue").await.expect(200).json();
        assert_eq!(queue["queue_running"][0][1], running.as_str(), "{queue}");
        acme.stranger().get(&url).await.expect(200);
        let refused = upload(&acme, &format!("refused-{number}.png"), &picture).await;
        assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{}", refused.text());
        assert_eq!(acme.get("/view?filename=mine.png&type=input").await.expect(200).body, picture);
        assert_eq!(acme.get("/internal/files/input").await.expect(200).json(), json!(["mine.png"]));
        assert_eq!(gateway.plain_get(gateway.addresses().metrics, "/readyz").await.0, 503);
    }
    let told = gateway.command(&["status", "--json"]);
    assert!(told.status.code() == Some(1) && said(&told).contains("\"store_writable\":false"), "{}", said(&told));
    // The backend is done meanwhile: its result waits there, and the attempt is not lost.
    eventually("the backend is done", || async {
        let queue = gateway.plain_get(gateway.stand_ins()[0].addr(), "/queue").await.1;
        queue
            .contains("\"queue_running\": []")
            .then_some(())
            .or_else(|| queue.contains("\"queue_running\":[]").then_some(()))
    })
    .await;
    assert_eq!(acme.get(&format!("/history/{running}")).await.expect(200).json(), json!({}));

    assert!(gateway.limit_files(None));
    let entry = acme.finished(&running).await;
    assert_eq!((&entry["status"]["status_str"], files_of(&entry).len()), (&json!("success"), 1), "{entry}");
    assert_eq!(gateway.stand_ins()[0].executed().len(), 2, "nothing ran twice");
    let next = eventually("a submission is accepted", || async {
        let answer = acme.post("/prompt", &json!({"prompt": workflows::quick("after"), "prompt_id": "after"})).await;
        (answer.status == 200).then_some("after")
    })
    .await;
    assert_eq!(acme.finished(next).await["status"]["status_str"], "success");
    upload(&acme, "next.png", &picture).await.expect(200);
    // A refused submission left nothing: not in the queue, not in the history, not on the disk; nor after a restart.
    for _ in 0..2 {
        let history = acme.get("/history").await.expect(200).json();
        let known: Vec<&String> = history.as_object().unwrap().keys().collect();
        assert_eq!(known, [&done, &running, "after"]);
        let mut files = acme.get("/internal/files/input").await.expect(200).json();
        files.as_array_mut().unwrap().sort_by_key(Value::to_string);
        assert_eq!(files, json!(["mine.png", "next.png"]));
        assert_eq!(leftovers(&gateway), Vec::<PathBuf>::new());
        gateway.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_less_free_than_has_to_be_submissions_are_disk_full_and_the_rest_goes_on() {
    let free = |bytes: &str| format!("[state]\nfree_space_min = \"{bytes}\"\n");
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let config = gateway.config();
    let before = fs::read_to_string(&config).unwrap();
    let set = |bytes: &str| {
        let text = before.replacen("[state]\n", &free(bytes), 1);
        assert_ne!(text, before);
        fs::write(&config, text).unwrap();
    };
    // A pebibyte is free on no machine that runs this.
    set("1048576GiB");
    let acme = gateway.client("acme");
    let prompt = acme.submit_with(json!({"prompt": workflows::slow("running", 20, 50, false), "prompt_id": "p"})).await;
    gateway.restart().await;
    gateway.backends_are_up().await;
    let refused = acme.post("/prompt", &json!({"prompt": workflows::quick("new")})).await.expect(503);
    assert_eq!(refused.json()["error"]["type"], "disk_full", "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    for refused in [
        upload(&acme, "new.png", b"whatever it is").await,
        acme.post_bytes("/userdata/new.txt", "text/plain", "x").await,
        acme.post("/settings", &json!({"a": 1})).await,
    ] {
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "disk_full"), "{}", refused.text());
    }
    acme.get("/settings").await.expect(200);
    assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success", "what was accepted ends");
    acme.get("/queue").await.expect(200);
    let (status, why) = gateway.plain_get(gateway.addresses().metrics, "/readyz").await;
    assert!(status == 503 && why.contains("free_space_min"), "{why}");
    assert!(gateway.metric("comfygate_state_free_bytes").await > 0.0);
    assert_eq!(gateway.command(&["status"]).status.code(), Some(1));
    set("0KiB");
    gateway.restart().await;
    gateway.backends_are_up().await;
    let next = acme.submit(workflows::quick("new")).await;
    acme.finished(&next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_support_bundle_has_what_helps_and_none_of_the_secrets_that_lie_everywhere() {
    const PLANTED: [&str; 8] = [
        "planted-in-jwt-secret-0123456789abcdef",
        "planted-in-a-prompt",
        "planted-in-a-path",
        "planted-in-a-label",
        "planted-in-a-tenant-name",
        "planted-claim",
        "planted-in-an-issuer",
        "planted-user",
    ];
    let [jwt_secret, prompt_text, path, label, tenant_name, claim, issuer, user] = PLANTED;
    let jwt = format!(
        "[[jwt]]\nissuer = \"https://{issuer}.example/\"\naudience = \"x\"\nalgorithms = [\"HS256\"]\nsecret = \"file:jwt.secret\"\ntenant_claim = \"{claim}\"\n"
    );
    let gateway = Gateway::builder()
        .stand_ins(1)
        .file("jwt.secret", jwt_secret)
        .gateway_toml(&jwt)
        .tenants_toml(&format!(
            "[[tenant]]\nid = \"planted\"\nplan = \"usual\"\nname = \"{tenant_name}\"\nclaim = \"{claim}-value\"\n"
        ))
        .start()
        .await;
    let mut secrets: Vec<String> = PLANTED.iter().map(|text| (*text).to_owned()).collect();
    let key = gateway.new_key(&["--tenant", "acme", "--user", user, "--label", label]);
    let acme = gateway.stranger().bearer(&key);
    let failing = acme.submit(workflows::failing(prompt_text)).await;
    acme.finished(&failing).await;
    let prompt = acme.submit(workflows::quick("picture-of-a-secret")).await;
    let url = text(&files_of(&acme.finished(&prompt).await)[0]["url"]).to_owned();
    acme.get(&format!("/{path}?token={path}")).await.expect(404);
    acme.stranger().bearer("cg_aaaaaaaaaaaa_wrong").get("/queue").await.expect(401);
    gateway.audited("the refusal", |line| line["status"] == 401).await;

    let made = gateway.command(&["support-bundle", "--to", "bundle.tar"]);
    assert!(made.status.success(), "{}", said(&made));
    let file = gateway.directory().join("bundle.tar");
    assert_eq!(mode(&file), 0o600);
    let bundle = String::from_utf8(fs::read(&file).unwrap()).unwrap();
    // What helps.
    for wanted in [
        "about.json",
        "\"url\": \"http://127.0.0.1:",
        "\"healthy\": true",
        "comfygate_requests_total{",
        "\"accepted\"",
        "\"HS256\"",
        "(set)",
    ] {
        assert!(bundle.contains(wanted), "`{wanted}` is missing:\n{bundle}");
    }
    // What lies in files, and what was said and answered.
    let lines = |name: &str| {
        fs::read_to_string(gateway.state().join(name)).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    secrets.extend(
        ["signing.keys", "tls/ca.key", "tls/gateway.key"]
            .iter()
            .flat_map(|name| lines(name))
            .filter(|line| !line.starts_with("-----")),
    );
    secrets.extend(key.split('_').skip(1).map(str::to_owned));
    secrets.extend([failing, prompt, url, "picture-of-a-secret".into(), "acme".into(), "bravo".into()]);
    secrets.push(gateway.directory().display().to_string());
    for line in gateway.audit() {
        for pointer in ["/request", "/job", "/owner/key", "/submission", "/policy"] {
            secrets.extend(line.pointer(pointer).and_then(Value::as_str).map(str::to_owned));
        }
    }
    assert!(secrets.len() > 30, "{secrets:?}");
    for secret in &secrets {
        assert!(!secret.is_empty() && !bundle.contains(secret.as_str()), "the bundle tells `{secret}`");
    }
    let again = gateway.command(&["support-bundle", "--to", "bundle.tar"]);
    assert!(again.status.code() == Some(2) && said(&again).contains("there already"), "{}", said(&again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_support_bundle_is_made_without_a_gateway_and_of_a_faulty_configuration() {
    let gateway = Gateway::builder().stand_ins(1).prepare().await;
    let made = gateway.command(&["support-bundle", "--to", "stopped.tar"]);
    assert!(made.status.success(), "{}", said(&made));
    let bundle = fs::read_to_string(gateway.directory().join("stopped.tar")).unwrap();
    assert!(bundle.contains("no gateway answers") && bundle.contains("gateway.json"), "{bundle}");
    let faulty = fs::read_to_string(gateway.config()).unwrap()
        + "[limits]\nprompt_bytes_max = \"planted-password\"\nplanted-key = 1\n";
    fs::write(gateway.config(), faulty).unwrap();
    let made = gateway.command(&["support-bundle", "--to", "faulty.tar"]);
    assert!(made.status.success(), "{}", said(&made));
    let bundle = fs::read_to_string(gateway.directory().join("faulty.tar")).unwrap();
    assert!(bundle.contains("toml file:") && !bundle.contains("planted"), "{bundle}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_speaks_to_another_users_gateway_and_makes_no_files_in_its_stopped_state_directory() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    if std::os::unix::fs::chown(gateway.state(), Some(54_321), None).is_err() {
        comfygate_tests::skipped("another user's state directory: only root can make one");
        return;
    }
    let key = gateway.new_key(&["--tenant", "acme"]);
    gateway.stranger().bearer(&key).get("/gate/me").await.expect(200);
    let made = gateway.command(&["backup", "--to", "b.tar"]);
    assert!(made.status.success(), "{}", said(&made));
    gateway.terminate().await;
    for command in [&["key", "list"][..], &["backup", "--to", "c.tar"], &["serve"]] {
        let refused = gateway.command(command);
        assert!(
            refused.status.code() == Some(2) && said(&refused).contains("54321"),
            "{command:?}: {}",
            said(&refused)
        );
    }
    assert!(!gateway.directory().join("c.tar").exists() && !gateway.directory().join("c.tar.partial").exists());
}
