//! Tenants by the control socket, from their making to their end; teams that share; where credentials are taken from; and what the control socket says of itself.

use comfygate_tests::browser::{post_fields, post_login};
use comfygate_tests::client::files_of;
use comfygate_tests::control::control;
use comfygate_tests::gateway::said;
use comfygate_tests::pictures::{BOUNDARY, form, png};
use comfygate_tests::raw::RawResponse;
use comfygate_tests::tokens::{Signer, claims};
use comfygate_tests::{Browser, Client, Event, Gateway, eventually, workflows};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

const PLAN: &str = "rate = { per_second = 1000, burst = 1000 }\nrequests = { per_second = 5000, burst = 5000 }\nbudget_seconds = 1000000000\n";

fn body_of(answer: &RawResponse) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}: no JSON", answer.status))
}

async fn asked(gateway: &Gateway, method: &str, path: &str, body: Option<Value>) -> RawResponse {
    control(gateway, method, path, &[], body.as_ref()).await
}

/// A client of a user of a tenant.
fn user(gateway: &Gateway, tenant: &str, user: &str) -> Client {
    gateway.stranger().bearer(&gateway.new_key(&["--tenant", tenant, "--user", user]))
}

async fn ran(client: &Client, prefix: &str) -> (String, Value) {
    let prompt = client.submit(workflows::quick(prefix)).await;
    let entry = client.finished(&prompt).await;
    (prompt, entry)
}

/// Whether any file below holds these bytes, or is named so.
fn holds(directory: &Path, wanted: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.display().to_string();
        if entry.is_dir() {
            found.extend(holds(&entry, wanted));
        } else if entry.is_file() {
            let content = fs::read(&entry).unwrap();
            let within = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
            if within(&content) || within(entry.file_name().unwrap().as_encoded_bytes()) {
                found.push(name);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_made_changed_and_shown_and_the_same_body_is_written_once() {
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    let spec = json!({"plan": "usual", "name": "Zebra", "limits": {"weight": 3}});
    let made = asked(&gateway, "PUT", "/v1/tenants/zebra", Some(spec.clone())).await;
    assert_eq!(made.status, 201);
    let again = asked(&gateway, "PUT", "/v1/tenants/zebra", Some(spec.clone())).await;
    assert_eq!((again.status, body_of(&again)), (200, body_of(&made)));
    assert_eq!(body_of(&made)["limits"]["weight"], json!({"value": 3, "from": "override"}));
    assert_eq!(body_of(&made)["limits"]["budget_seconds"], json!({"value": 1_000_000_000, "from": "plan"}));
    let stale = control(&gateway, "PUT", "/v1/tenants/zebra", &[("if-match", "\"9\"")], Some(&spec)).await;
    assert_eq!((stale.status, &body_of(&stale)["code"]), (412, &json!("stale")));
    for (path, header, status) in [
        ("/v1/tenants/zebra", "if-none-match", 412),
        ("/v1/tenants/zebra", "if-match", 200),
        ("/v1/tenants/yak", "if-match", 412),
    ] {
        let told = control(&gateway, "PUT", path, &[(header, "*")], Some(&spec)).await;
        assert_eq!(told.status, status, "{path} {header}");
    }
    let faulty = json!({"plan": "usual", "limits": {"weight": 0}});
    let refused = asked(&gateway, "PUT", "/v1/tenants/zebra", Some(faulty)).await;
    assert_eq!((refused.status, &body_of(&refused)["faults"][0]["pointer"]), (422, &json!("/limits/weight")));
    let in_file = asked(&gateway, "PUT", "/v1/tenants/acme", Some(spec)).await;
    assert_eq!((in_file.status, &body_of(&in_file)["code"]), (409, &json!("in_file")));

    // It works, also by the command line, and is there after a restart.
    let (_, entry) = ran(&gateway.client("zebra"), "made").await;
    assert_eq!(entry["status"]["status_str"], "success");
    let set = gateway.command(&["tenant", "set", "zebra", "--set", "weight=4", "--name", "", "--json"]);
    assert!(set.status.success(), "{}", said(&set));
    let shown: Value = serde_json::from_slice(&gateway.command(&["tenant", "show", "zebra", "--json"]).stdout).unwrap();
    assert_eq!(
        (&shown["limits"]["weight"]["value"], &shown["version"], shown.get("name")),
        (&json!(4), &json!(2), None)
    );
    let twice = gateway.command(&["tenant", "create", "zebra", "--plan", "usual"]);
    assert!(twice.status.code() == Some(1) && said(&twice).contains("already"), "{}", said(&twice));
    // A slip in a key is refused, and one that it has from its plan already is done.
    let slip = gateway.command(&["tenant", "set", "zebra", "--unset", "wieght"]);
    assert!(slip.status.code() == Some(1) && said(&slip).contains("did you mean `weight`?"), "{}", said(&slip));
    for key in [" weight ", "retention"] {
        let set = gateway.command(&["tenant", "set", "zebra", "--unset", key, "--json"]);
        let shown: Value = serde_json::from_slice(&set.stdout).unwrap_or_else(|_| panic!("{}", said(&set)));
        assert_eq!((&shown["limits"]["weight"]["from"], &shown["version"]), (&json!("plan"), &json!(3)), "{shown}");
    }
    let plans = body_of(&asked(&gateway, "GET", "/v1/plans", None).await);
    assert_eq!((&plans[0]["id"], &plans[0]["api_tenants"]), (&json!("usual"), &json!(1)));

    // Closed, and opened again.
    let zebra = gateway.client("zebra");
    let closed = gateway.command(&["tenant", "disable", "zebra"]);
    assert!(closed.status.success(), "{}", said(&closed));
    zebra.get("/queue").await.expect(401);
    gateway.command(&["tenant", "enable", "zebra"]);
    zebra.get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_deleted_tenant_is_left_but_its_tombstone_and_its_bill() {
    let mut gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    asked(&gateway, "PUT", "/v1/tenants/zebrafinch", Some(json!({"plan": "usual"}))).await;
    let key = gateway.new_key(&["--tenant", "zebrafinch", "--user", "annabella"]);
    let ann = gateway.stranger().bearer(&key);
    let bravo = gateway.client("bravo");
    let (kept, _) = ran(&bravo, "stays").await;
    let (prompt, entry) = ran(&ann, "gone").await;
    let picture = png(16, 16, [9, 8, 7]);
    ann.upload("/upload/image", &[], "mine.png", &picture).await.expect(200);
    ann.post("/userdata/workflows%2Fwhistleblower.json", &json!({"a": "whistleblower"})).await.expect(200);
    ann.post("/prompt", &json!({"prompt": {"1": {"class_type": "NoSuchClass", "inputs": {}}}})).await;
    let signed = ann.path_of(files_of(&entry)[0]["url"].as_str().unwrap());
    let result = ann.stranger().get(&signed).await.expect(200).body.to_vec();
    let running = ann.submit(workflows::slow("endless", 150, 200, false)).await;
    ann.running(&running).await;
    let mut socket = ann.socket(Some("tab")).await;

    let unsaid = asked(&gateway, "DELETE", "/v1/tenants/zebrafinch", None).await;
    assert_eq!((unsaid.status, &body_of(&unsaid)["code"]), (400, &json!("erase_missing")));
    let deleted = asked(&gateway, "DELETE", "/v1/tenants/zebrafinch?erase=true", None).await;
    assert_eq!((deleted.status, &body_of(&deleted)["deleted"]), (200, &json!(true)), "{}", body_of(&deleted));
    ann.get("/queue").await.expect(401);
    ann.stranger().get(&signed).await.expect(404);
    let heard = socket.until("the close", |event| event.kind() == "closed").await;
    assert_eq!(heard.last(), Some(&Event::Closed(Some(4401))), "{heard:?}");
    let again = asked(&gateway, "DELETE", "/v1/tenants/zebrafinch?erase=true", None).await;
    assert_eq!((again.status, &body_of(&again)["deleted"]), (200, &json!(true)));
    assert!(body_of(&again)["deleted_at"].is_u64() && body_of(&deleted).get("deleted_at").is_none());
    assert_eq!(asked(&gateway, "GET", "/v1/tenants/zebrafinch", None).await.status, 410);
    for command in [["tenant", "show", "zebrafinch"].as_slice(), &["tenant", "delete", "zebrafinch", "--yes"]] {
        let told = gateway.command(command);
        assert!(told.status.code() == Some(1) && said(&told).contains("was deleted on "), "{}", said(&told));
    }
    assert_eq!(asked(&gateway, "POST", "/v1/tenants/zebrafinch/erase", None).await.status, 410);
    let taken = asked(&gateway, "PUT", "/v1/tenants/zebrafinch", Some(json!({"plan": "usual"}))).await;
    assert_eq!((taken.status, &body_of(&taken)["code"]), (409, &json!("id_was_deleted")));
    gateway.audited("the deletion", |line| line["event"] == "tenant_deleted").await;
    assert!(bravo.get(&format!("/history/{kept}")).await.expect(200).json().get(&kept).is_some());

    // The files of the state, and every live row of the ledger: a backup copies rows, not pages.
    gateway.terminate().await;
    let copy = gateway.directory().join("copy");
    let made = gateway.command(&["backup", "--to", &copy.display().to_string()]);
    assert!(made.status.success(), "{}", said(&made));
    let copies = gateway.directory().join("copies");
    fs::create_dir(&copies).unwrap();
    fs::rename(&copy, copies.join("copy.tar")).unwrap();
    let key_id = key.split('_').nth(1).unwrap();
    for wanted in ["annabella", "whistleblower", "NoSuchClass", &prompt, &running, key_id, "zebrafinch/annabella"] {
        assert_eq!(holds(&copies, wanted.as_bytes()), Vec::<String>::new(), "{wanted}");
    }
    assert!(!holds(&copies, kept.as_bytes()).is_empty(), "the other tenant's rows are there, so the copy is one");
    for content in [&picture, &result] {
        assert_eq!(holds(&gateway.state().join("blobs"), content), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_goes_on_where_a_killed_gateway_left_it() {
    let mut gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    asked(&gateway, "PUT", "/v1/tenants/zebra", Some(json!({"plan": "usual"}))).await;
    let zebra = gateway.client("zebra");
    for _ in 0..3 {
        ran(&zebra, "gone").await;
    }
    // Its job has to be interrupted first: the erasure has begun when the gateway is killed, and has most of its way before it.
    let running = zebra.submit(workflows::slow("endless", 150, 200, false)).await;
    zebra.running(&running).await;
    let asking = asked(&gateway, "DELETE", "/v1/tenants/zebra?erase=true", None);
    tokio::select! {
        _ = asking => {}
        () = async {
            gateway.audited("the beginning", |line| line["event"] == "tenant_erasing").await;
        } => {}
    }
    gateway.kill9();
    gateway.start().await;
    eventually("the deletion is done", || async {
        (asked(&gateway, "GET", "/v1/tenants/zebra", None).await.status == 410).then_some(())
    })
    .await;
    zebra.get("/queue").await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_meets_a_disable_leaves_no_session_that_an_enable_makes_good_again() {
    const PASSWORD: &str = "correct staple of horses";
    let limits = "[limits]\nfailed_logins_free = 100000";
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).gateway_toml(limits).start().await;
    asked(&gateway, "PUT", "/v1/tenants/zebra", Some(json!({"plan": "usual"}))).await;
    gateway.new_user("ann", "zebra", PASSWORD);
    let key = gateway.new_key(&["--tenant", "zebra"]);
    let stranger = gateway.stranger();
    let by_password = || post_fields(&stranger, "/gate/login", &[("user", "ann"), ("password", PASSWORD)]);
    let by_key = || post_login(&stranger, "/gate/login", &key);
    let open_tenant = async |open: bool| {
        let path = if open { "/v1/tenants/zebra/enable" } else { "/v1/tenants/zebra/disable" };
        assert_eq!(asked(&gateway, "POST", path, None).await.status, 200);
    };
    let open_user = async |open: bool| {
        let body = json!({"tenant": "zebra", "disabled": !open});
        assert_eq!(asked(&gateway, "PUT", "/v1/users/ann", Some(body)).await.status, 200);
    };
    for round in 0..6 {
        // Whichever comes first, and wherever the others are then.
        let after = Duration::from_millis(20 * round);
        let (passwords, keys, ()) =
            tokio::join!(join_all([by_password(), by_password()]), join_all([by_key(), by_key()]), async {
                tokio::time::sleep(after).await;
                if round % 2 == 0 { open_tenant(false).await } else { open_user(false).await }
            });
        let mut ended = passwords;
        if round % 2 == 0 {
            ended.extend(keys);
            open_tenant(true).await;
        } else {
            open_user(true).await;
        }
        for answer in ended.iter().filter(|answer| answer.status == 303) {
            let page = Browser::after(&stranger, answer).page();
            assert_eq!(page.get("/queue").await.status, 401, "round {round}: it is good again");
        }
    }
    let open = Browser::after(&stranger, &by_password().await.expect(303));
    open.page().get("/queue").await.expect(200);
}

/// The head of an upload of so many bytes.
fn upload_head(client: &Client, bytes: usize) -> String {
    format!(
        "POST /upload/image HTTP/1.1\r\nHost: {}\r\n{}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {bytes}\r\n\r\n",
        client.authority(),
        client.credential_lines(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_slower_than_the_end_of_its_tenant_leaves_nothing_with_the_next_of_the_id() {
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    for name in ["zebra", "other"] {
        asked(&gateway, "PUT", &format!("/v1/tenants/{name}"), Some(json!({"plan": "usual"}))).await;
    }
    let body = form(&[], "late.png", &png(200, 200, [9, 8, 7]));
    let (first, rest) = body.split_at(body.len() / 2);
    let mut slow = Vec::new();
    for name in ["zebra", "other"] {
        let client = gateway.client(name);
        let mut connection = client.raw_connection().await;
        connection.write(&[upload_head(&client, body.len()).as_bytes(), first].concat()).await;
        slow.push(connection);
    }
    let spooled = || fs::read_dir(gateway.state().join("blobs/tmp")).map_or(0, Iterator::count);
    eventually("both are being read", || async { (spooled() == 2).then_some(()) }).await;
    let deleted = asked(&gateway, "DELETE", "/v1/tenants/zebra?erase=true", None).await;
    assert_eq!((deleted.status, &body_of(&deleted)["deleted"]), (200, &json!(true)));
    assert_eq!(spooled(), 1, "what has come of it is gone with the tenant");
    let made = asked(&gateway, "PUT", "/v1/tenants/zebra?reuse=true", Some(json!({"plan": "usual"}))).await;
    assert_eq!(made.status, 201);
    // The rest comes now. It may be too late to be read at all.
    slow[1].write(rest).await;
    assert_eq!(slow[1].response().await.unwrap().status, 200, "another tenant's goes on");
    let told = slow[0].response().await.expect("an answer");
    assert_eq!((told.status, told.code().as_str()), (410, "tenant_erased"));
    let next = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "zebra"]));
    assert_eq!(next.get("/internal/files/input").await.expect(200).json(), json!([]));
    assert_eq!(next.upload("/upload/image", &[], "own.png", &png(4, 4, [1, 2, 3])).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_is_asked_for_again_and_again_is_one() {
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    asked(&gateway, "PUT", "/v1/tenants/zebra", Some(json!({"plan": "usual"}))).await;
    let zebra = gateway.client("zebra");
    ran(&zebra, "gone").await;
    let running = zebra.submit(workflows::slow("endless", 150, 200, false)).await;
    zebra.running(&running).await;
    let asking = (0..8).map(|_| asked(&gateway, "DELETE", "/v1/tenants/zebra?erase=true", None));
    for deleted in join_all(asking).await {
        assert_eq!((deleted.status, &body_of(&deleted)["deleted"]), (200, &json!(true)));
    }
    gateway.audited("the deletion", |line| line["event"] == "tenant_deleted").await;
    for event in ["tenant_erasing", "tenant_erased", "tenant_deleted"] {
        let lines = gateway.audit().iter().filter(|line| line["event"] == event).count();
        assert_eq!(lines, 1, "{event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_leaves_the_file_is_nobody_elses_before_it_is_erased_and_one_that_comes_into_it_can_be_used() {
    let charlie = "[[tenant]]\nid = \"charlie\"\nplan = \"usual\"\n";
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).tenants_toml(charlie).start().await;
    let put = async |path: &str| asked(&gateway, "PUT", path, Some(json!({"plan": "usual"}))).await;
    let former = gateway.client("charlie");
    let (prompt, _) = ran(&former, "former").await;
    gateway.edit("tenants.toml", |text| text.replace(charlie, ""));
    assert!(gateway.command(&["reload"]).status.success());
    former.get("/queue").await.expect(401);
    let refused = put("/v1/tenants/charlie").await;
    assert_eq!((refused.status, &body_of(&refused)["code"]), (409, &json!("id_has_leftovers")));
    let told = gateway.command(&["tenant", "create", "charlie", "--plan", "usual"]);
    assert!(told.status.code() == Some(1) && said(&told).contains("tenant erase charlie --yes"), "{}", said(&told));
    // Whoever says so moves a tenant from the file to the API, with all that it has.
    assert_eq!(put("/v1/tenants/charlie?reuse=true").await.status, 201);
    assert!(former.get(&format!("/history/{prompt}")).await.expect(200).json().get(&prompt).is_some());
    let deleted = asked(&gateway, "DELETE", "/v1/tenants/charlie?erase=true", None).await;
    assert_eq!((deleted.status, &body_of(&deleted)["deleted"]), (200, &json!(true)));

    // It was deleted, and the file has it again: what the file says counts.
    gateway.edit("tenants.toml", |text| format!("{text}\n{charlie}"));
    let reloaded = gateway.command(&["reload"]);
    assert!(reloaded.status.success() && !said(&reloaded).contains("deleted"), "{}", said(&reloaded));
    let again = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "charlie"]));
    assert_eq!(again.get("/history").await.expect(200).json(), json!({}));
    ran(&again, "again").await;
    assert_eq!(again.upload("/upload/image", &[], "own.png", &png(4, 4, [1, 2, 3])).await.status, 200);
    assert_eq!(asked(&gateway, "GET", "/v1/tenants/charlie", None).await.status, 200);
    // Out of it and erased, the id is free.
    gateway.edit("tenants.toml", |text| text.replace(charlie, ""));
    assert!(gateway.command(&["reload"]).status.success());
    assert_eq!(put("/v1/tenants/charlie").await.status, 409);
    assert_eq!(asked(&gateway, "POST", "/v1/tenants/charlie/erase", None).await.status, 200);
    assert_eq!(put("/v1/tenants/charlie").await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_tenant_that_shares_nothing_see_nothing_of_each_other() {
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    let (ann, bob) = (user(&gateway, "acme", "ann"), user(&gateway, "acme", "bob"));
    let (prompt, entry) = ran(&ann, "own").await;
    assert_eq!(entry["prompt"][3].get("made_by"), None);
    assert_eq!(bob.get("/history").await.expect(200).json(), json!({}));
    assert_eq!(bob.get(&format!("/history/{prompt}")).await.expect(200).json(), json!({}));
    bob.get(&format!("/api/jobs/{prompt}")).await.expect(404);
    let name = files_of(&entry)[0]["filename"].as_str().unwrap().to_owned();
    bob.get(&format!("/view?filename={name}&type=output")).await.expect(404);
    let me = bob.get("/gate/me").await.expect(200).json();
    assert_eq!((&me["users"], &me["sees"]), (&json!("own"), &json!("own")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_team_sees_who_made_what_of_its_own_and_nothing_of_another_tenants() {
    let plan = format!("{PLAN}users = \"shared\"\nusers_limited = [\"eve\"]\n");
    let gateway = Gateway::builder().stand_ins(1).plan(&plan).start().await;
    let (ann, bob, eve) = (user(&gateway, "acme", "ann"), user(&gateway, "acme", "bob"), user(&gateway, "acme", "eve"));
    let other = user(&gateway, "bravo", "ann");
    let (prompt, entry) = ran(&ann, "team").await;
    assert_eq!(entry["prompt"][3]["made_by"], json!({"user": "ann"}));
    let seen = bob.get(&format!("/history/{prompt}")).await.expect(200).json();
    assert_eq!(seen[&prompt]["prompt"][3]["made_by"], json!({"user": "ann"}));
    assert_eq!(bob.get("/api/jobs").await.expect(200).json()["jobs"][0]["made_by"], json!({"user": "ann"}));
    let name = files_of(&entry)[0]["filename"].as_str().unwrap().to_owned();
    let view = format!("/view?filename={name}&type=output");
    bob.get(&view).await.expect(200);
    for stranger in [&eve, &other] {
        assert_eq!(stranger.get("/history").await.expect(200).json(), json!({}));
        stranger.get(&view).await.expect(404);
        stranger.get(&format!("/api/jobs/{prompt}")).await.expect(404);
    }
    let me = bob.get("/gate/me").await.expect(200).json();
    assert_eq!((&me["users"], &me["sees"], &me["user"]), (&json!("shared"), &json!("tenant"), &json!("bob")));
    assert_eq!(eve.get("/gate/me").await.expect(200).json()["sees"], "own");

    // What is personal stays so.
    ann.post("/userdata/workflows%2Fmine.json", &json!({"a": 1})).await.expect(200);
    bob.get("/userdata/workflows%2Fmine.json").await.expect(404);

    // `clear` and an interrupt without an id mean what one made oneself, a name means what it names.
    bob.post("/history", &json!({"clear": true})).await.expect(200);
    assert!(bob.get("/history").await.expect(200).json().get(&prompt).is_some());
    let running = ann.submit(workflows::slow("long", 150, 200, false)).await;
    ann.running(&running).await;
    let held = ann.submit(workflows::slow("held", 150, 200, false)).await;
    bob.post("/queue", &json!({"clear": true})).await.expect(200);
    bob.post("/interrupt", &json!({})).await.expect(200);
    let queue = bob.get("/queue").await.expect(200).json();
    assert_eq!(
        (queue["queue_running"].as_array().unwrap().len(), queue["queue_pending"].as_array().unwrap().len()),
        (1, 1)
    );
    bob.post("/queue", &json!({"delete": [held]})).await.expect(200);
    assert_eq!(ann.get("/queue").await.expect(200).json()["queue_pending"], json!([]));
    eve.post("/interrupt", &json!({"prompt_id": running})).await.expect(200);
    ann.running(&running).await;
    bob.post("/interrupt", &json!({"prompt_id": running})).await.expect(200);
    ann.finished(&running).await;
    bob.post("/history", &json!({"delete": [prompt]})).await.expect(200);
    assert!(ann.get("/history").await.expect(200).json().get(&prompt).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_is_taken_from_allowed_addresses_alone_and_only_its_owner_learns_of_it() {
    let listed = "[[tenant]]\nid = \"listed\"\nplan = \"usual\"\nallow_addresses = [\"127.0.0.0/25\"]\ndeny_addresses = [\"127.0.0.9\"]\n";
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).tenants_toml(listed).start().await;
    let client = gateway.client("listed");
    let (_, entry) = ran(&client.from_address([127, 0, 0, 127]), "inside").await;
    for outside in [[127, 0, 0, 128], [127, 0, 0, 9]] {
        let refused = client.from_address(outside).get("/queue").await.expect(403);
        assert_eq!(refused.code(), "address_not_allowed");
    }
    client.from_address([127, 0, 0, 8]).get("/queue").await.expect(200);
    // Who has proved nothing is told what everybody is told.
    let stranger = gateway.stranger().from_address([127, 0, 0, 9]);
    assert_eq!(stranger.get("/queue").await.expect(401).code(), "unauthenticated");
    // A link is good from everywhere: it is what was given away.
    let link = client.path_of(files_of(&entry)[0]["url"].as_str().unwrap());
    stranger.get(&link).await.expect(200);
    gateway.audited("the refusal", |line| line["code"] == "address_not_allowed").await;
    // An open socket ends when its address is allowed no more.
    let here = client.from_address([127, 0, 0, 8]);
    let mut socket = here.socket(Some("tab")).await;
    socket.sid().await;
    gateway.edit("tenants.toml", |text| text.replace("127.0.0.0/25", "127.0.0.64/26"));
    gateway.command(&["reload"]);
    let heard = socket.until("the close", |event| event.kind() == "closed").await;
    assert_eq!(heard.last(), Some(&Event::Closed(Some(4401))), "{heard:?}");
    here.get("/queue").await.expect(403);
    assert!(gateway.command(&["check"]).status.success());
    gateway.edit("tenants.toml", |text| text.replace("\"127.0.0.9\"", "\"10.0.0.0/8\""));
    let told = said(&gateway.command(&["check"]));
    assert!(told.contains("none of it is allowed anyway"), "{told}");
}

/// The schema of an answer, with the document's own parts beside it.
fn schema(document: &Value, path: &str, method: &str, status: u16) -> Value {
    let pointer = format!(
        "/paths/{}/{method}/responses/{status}/content/application~1json/schema",
        path.replace('~', "~0").replace('/', "~1")
    );
    let schema = document.pointer(&pointer).unwrap_or_else(|| panic!("no schema of {method} {path} {status}"));
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    schema
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_of_the_control_socket_is_the_committed_one_and_real_answers_are_as_it_says() {
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    let document = body_of(&asked(&gateway, "GET", "/v1/openapi.json", None).await);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control-api.json");
    let written = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    if std::env::var_os("COMFYGATE_BLESS").is_some() {
        fs::write(&committed, &written).unwrap();
    }
    assert_eq!(fs::read_to_string(&committed).unwrap_or_default(), written, "COMFYGATE_BLESS=1 writes it anew");

    // Whoever reads it has none of our source beside it.
    let links: Vec<&str> = written.lines().filter(|line| line.contains("[`")).collect();
    assert!(links.is_empty(), "say what it is in the place of a link: {links:#?}");

    // Every path of it is a route of the router: what is none has no body that is told from the others' 404.
    let paths = document["paths"].as_object().unwrap();
    let methods: BTreeSet<&str> = ["GET", "POST", "PUT", "DELETE"].into();
    for (path, operations) in paths {
        let concrete = path.replace("{id}", "nobody").replace("{job}", "none").replace("{request}", "none");
        let concrete = concrete.replace("{name}", "nobody");
        assert!(!concrete.contains('{'), "{concrete}");
        let known: BTreeSet<String> = operations.as_object().unwrap().keys().map(|key| key.to_uppercase()).collect();
        for method in methods.iter().filter(|method| !known.contains(**method)) {
            let answer = asked(&gateway, method, &concrete, None).await;
            assert_eq!(answer.status, 405, "{method} {path} is a route and stands in no document");
        }
    }

    asked(&gateway, "PUT", "/v1/tenants/zebra", Some(json!({"plan": "usual", "limits": {"weight": 2}}))).await;
    ran(&gateway.client("zebra"), "some").await;
    let gets = [
        "/v1/tenants",
        "/v1/plans",
        "/v1/keys",
        "/v1/backends",
        "/v1/status",
        "/v1/bans",
        "/v1/dead-letters",
        "/v1/users",
        "/v1/sessions",
        "/v1/openapi.json",
    ];
    let check = |path: &str, method: &str, answer: &RawResponse| {
        let schema = schema(&document, path, method, answer.status);
        let validator = jsonschema::validator_for(&schema).unwrap();
        let value = body_of(answer);
        let faults: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(faults.is_empty(), "{method} {path}: {faults:#?}\n{value:#}");
    };
    for path in gets {
        check(path, "get", &asked(&gateway, "GET", path, None).await);
    }
    let of = "/v1/tenants/{id}";
    check(of, "get", &asked(&gateway, "GET", "/v1/tenants/zebra", None).await);
    for spec in [json!({"plan": "usual"}), json!({"plan": "none"})] {
        check(of, "put", &asked(&gateway, "PUT", "/v1/tenants/zebra", Some(spec)).await);
    }
    check("/v1/tenants/{id}/pause", "post", &asked(&gateway, "POST", "/v1/tenants/zebra/pause", Some(json!({}))).await);
    let key = asked(&gateway, "POST", "/v1/keys", Some(json!({"tenant": "zebra"}))).await;
    check("/v1/keys", "post", &key);
    let id = body_of(&key)["view"]["id"].as_str().unwrap().to_owned();
    check("/v1/keys/{id}/revoke", "post", &asked(&gateway, "POST", &format!("/v1/keys/{id}/revoke"), None).await);
    check("/v1/refusals", "post", &asked(&gateway, "POST", "/v1/refusals", Some(json!({"limit": 5}))).await);
    check("/v1/retention", "post", &asked(&gateway, "POST", "/v1/retention", Some(json!({"dry_run": true}))).await);
    check("/v1/reload", "post", &asked(&gateway, "POST", "/v1/reload", None).await);
    check(of, "delete", &asked(&gateway, "DELETE", "/v1/tenants/zebra?erase=true", None).await);
    check(of, "get", &asked(&gateway, "GET", "/v1/tenants/zebra", None).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_tenants_of_the_api_are_on_is_not_renamed_by_a_reload_and_a_start_warns_of_it() {
    let gold = "[[plan]]\nid = \"gold\"\n";
    let mut gateway = Gateway::builder().stand_ins(1).plan(PLAN).tenants_toml(gold).start().await;
    asked(&gateway, "PUT", "/v1/tenants/zebra", Some(json!({"plan": "gold"}))).await;
    let zebra = gateway.client("zebra");
    zebra.get("/queue").await.expect(200);
    gateway.edit("tenants.toml", |text| text.replace("\"gold\"", "\"golden\""));
    let refused = gateway.command(&["reload"]);
    let told = said(&refused);
    assert!(refused.status.code() == Some(1) && told.contains("1 tenant on the plan `gold` (`zebra`)"), "{told}");
    zebra.get("/queue").await.expect(200);
    // At a start nothing can be refused.
    gateway.restart().await;
    gateway.backends_are_up().await;
    zebra.get("/queue").await.expect(401);
    let status = gateway.command(&["status"]);
    assert!(status.status.success() && said(&status).contains("`zebra`"), "{}", said(&status));
    gateway.edit("tenants.toml", |text| text.replace("\"golden\"", "\"gold\""));
    assert!(gateway.command(&["reload"]).status.success());
    zebra.get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_tenant_stays_so_and_its_cookies_are_over_for_good() {
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    let put = async |body: Value| asked(&gateway, "PUT", "/v1/tenants/zebra", Some(body)).await;
    put(json!({"plan": "usual"})).await;
    let begin = async || Browser::with_key(&gateway.stranger(), &gateway.key("zebra")).await;
    let browser = begin().await;
    browser.page().get("/queue").await.expect(200);
    assert!(gateway.command(&["tenant", "disable", "zebra"]).status.success());
    let again = put(json!({"plan": "usual"})).await;
    assert_eq!((again.status, &body_of(&again)["disabled"]), (200, &json!(true)));
    let sessions = asked(&gateway, "GET", "/v1/sessions?tenant=zebra", None).await;
    assert_eq!(body_of(&sessions), json!([]));
    assert!(gateway.command(&["tenant", "enable", "zebra"]).status.success());
    browser.page().get("/queue").await.expect(401);
    let browser = begin().await;
    put(json!({"plan": "usual", "disabled": true})).await;
    put(json!({"plan": "usual", "disabled": false})).await;
    browser.page().get("/queue").await.expect(401);
    gateway.client("zebra").get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_is_not_erased_and_a_question_with_a_slip_is_refused() {
    let mut gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    assert_eq!(asked(&gateway, "POST", "/v1/tenants/zebar/erase", None).await.status, 404);
    for _ in 0..2 {
        let told = gateway.command(&["tenant", "erase", "zebar", "--yes"]);
        assert!(told.status.code() == Some(1) && said(&told).contains("no tenant `zebar`"), "{}", said(&told));
        if gateway.is_running() {
            assert_eq!(asked(&gateway, "GET", "/v1/tenants?aftr=a", None).await.status, 400);
            assert_eq!(asked(&gateway, "GET", "/v1/tenants?after=a", None).await.status, 200);
            gateway.terminate().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_tokens_is_taken_over_knowingly_and_its_tenant_is_not_deleted_while_they_would_make_one_anew() {
    let (issuer, signer) = ("https://id.example/", Signer::hs256());
    let made = "unknown_tenant = \"create\"\ncreate_plan = \"usual\"\n";
    let gateway = Gateway::builder()
        .stand_ins(1)
        .plan(PLAN)
        .file("issuer.key", &signer.verifier())
        .gateway_toml(&format!("{}{made}", signer.configuration(issuer, "issuer.key")))
        .start()
        .await;
    let client = gateway.stranger().bearer(&signer.token(&claims(issuer, "org_9")));
    let tenant = async || client.get("/gate/me").await.expect(200).json()["tenant"].as_str().unwrap().to_owned();
    let first = tenant().await;
    let body = json!({"plan": "usual", "claim": "org_9"});
    let refused = asked(&gateway, "PUT", "/v1/tenants/zebra", Some(body.clone())).await;
    assert_eq!((refused.status, &body_of(&refused)["code"]), (409, &json!("claim_of_token_tenant")));
    assert!(body_of(&refused)["error"].as_str().unwrap().contains(&first));
    assert_eq!(tenant().await, first);
    assert_eq!(asked(&gateway, "PUT", "/v1/tenants/zebra?reuse=true", Some(body)).await.status, 201);
    assert_eq!(tenant().await, "zebra");
    let kept = asked(&gateway, "DELETE", "/v1/tenants/zebra?erase=true", None).await;
    assert_eq!((kept.status, &body_of(&kept)["code"]), (409, &json!("claim_makes_tenants")));
    let told = gateway.command(&["tenant", "delete", "zebra", "--yes"]);
    assert!(told.status.code() == Some(1) && said(&told).contains("org_9"), "{}", said(&told));
    assert!(gateway.command(&["tenant", "set", "zebra", "--claim", ""]).status.success());
    assert_eq!(asked(&gateway, "DELETE", "/v1/tenants/zebra?erase=true", None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_came_into_the_file_is_not_deleted_while_it_is_there_with_or_without_a_gateway() {
    let mut gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    assert_eq!(asked(&gateway, "PUT", "/v1/tenants/zebra", Some(json!({"plan": "usual"}))).await.status, 201);
    let zebra = gateway.client("zebra");
    let (prompt, _) = ran(&zebra, "kept").await;
    let in_file = "[[tenant]]\nid = \"zebra\"\nplan = \"usual\"\n";
    gateway.edit("tenants.toml", |text| format!("{text}\n{in_file}"));
    assert!(gateway.command(&["reload"]).status.success());
    let deletes = |gateway: &Gateway| {
        let told = gateway.command(&["tenant", "delete", "zebra", "--yes"]);
        (told.status.code(), said(&told))
    };
    let is_refused = |told: (Option<i32>, String)| {
        assert!(told.0 == Some(1) && told.1.contains("`zebra` is in tenants.toml: take it out there"), "{told:?}");
    };
    is_refused(deletes(&gateway));
    gateway.terminate().await;
    is_refused(deletes(&gateway));
    gateway.start().await;
    assert!(zebra.get(&format!("/history/{prompt}")).await.expect(200).json().get(&prompt).is_some());
    // Once it is out of the file the id is the former one's again, and goes.
    gateway.terminate().await;
    gateway.edit("tenants.toml", |text| text.replace(in_file, ""));
    let deleted = gateway.command(&["tenant", "delete", "zebra", "--yes", "--json"]);
    let told: Value = serde_json::from_slice(&deleted.stdout).unwrap_or_else(|_| panic!("{}", said(&deleted)));
    assert_eq!((deleted.status.code(), &told["deleted"]), (Some(0), &json!(true)), "{told}");
}
