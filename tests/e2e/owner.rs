//! The owner posture: an installation of one's own with packs, beside strangers who share another one.

use bytes::Bytes;
use comfygate_tests::gateway::fast;
use comfygate_tests::ws::Event;
use comfygate_tests::{Client, Gateway, Options, StandIn, eventually, workflows};
use http::Method;
use serde_json::{Value, json};

/// A gateway before a shared backend and before an installation with two packs, which is the tenant `mine`'s own.
async fn two_worlds(policy: &str) -> (Gateway, StandIn, Client) {
    let installation = StandIn::start(Options { packs: 2, ..fast() }).await.unwrap();
    let gateway = Gateway::builder()
        .stand_ins(1)
        .gateway_toml(&format!("[[backends]]\nid = \"own\"\npool = \"own\"\nurl = \"{}\"", installation.url()))
        .tenants_toml(&format!("[[tenant]]\nid = \"mine\"\nplan = \"usual\"\npolicy = \"{policy}\"\npool = \"own\""))
        .file(
            "manager.toml",
            "name = \"manager\"\nposture = \"owner\"\nroutes = [\"manager\"]\n[classes]\nallow = [\"*\"]\n",
        )
        .start()
        .await;
    let mine = gateway.client("mine");
    eventually("the installation is up", || async { (mine.get("/pack_2/hello").await.status == 200).then_some(()) })
        .await;
    (gateway, installation, mine)
}

fn say(text: &str) -> Value {
    json!({"1": {"class_type": "Pack1Say", "inputs": {"text": text, "not_declared": {"on": true}}}})
}

async fn call(client: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> u16 {
    client.call(method.parse::<Method>().unwrap(), path, headers, body).await.status.as_u16()
}

/// A gateway before an installation with a pack that sends what it is told to an address, which is the tenant `mine`'s own.
async fn sending(plan: &str) -> (Gateway, Client) {
    let policy = "name = \"sending\"\nposture = \"owner\"\n[classes]\nallow = [\"*\"]\n[annotations.Pack1Say]\ninputs = { text = \"target_url\" }\n";
    let gateway = Gateway::builder()
        .stand_ins_with(vec![fast(), Options { packs: 1, ..fast() }])
        .backend_lines(1, "pool = \"own\"\n")
        .tenants_toml(&format!(
            "[[tenant]]\nid = \"mine\"\nplan = \"usual\"\npolicy = \"sending.toml\"\npool = \"own\"\n{plan}\n"
        ))
        .file("sending.toml", policy)
        .start()
        .await;
    let mine = gateway.client("mine");
    (gateway, mine)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_run_that_may_have_sent_something_elsewhere_is_not_repeated_unless_the_tenant_wants_it() {
    for (plan, sends, again) in [("", true, false), ("retry_sent = true", true, true), ("", false, true)] {
        let (gateway, mine) = sending(plan).await;
        let mut workflow = workflows::slow("sent", 30, 100, false);
        if sends {
            workflow["7"] = json!({"class_type": "Pack1Say", "inputs": {"text": "https://example.org/hook"}});
        }
        let prompt = mine.submit(workflow).await;
        let stand_in = &gateway.stand_ins()[1];
        eventually("it runs", || async { (!stand_in.executed().is_empty()).then_some(()) }).await;
        stand_in.restart().await.unwrap();
        let entry = mine.finished(&prompt).await;
        if again {
            assert_eq!(entry["status"]["status_str"], "success", "{entry}");
        } else {
            assert!(entry.to_string().contains("SendingAttemptLost"), "{entry}");
        }
        assert_eq!(stand_in.executed().len(), if again { 2 } else { 1 }, "{plan} {sends}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_routes_lead_to_the_owners_installation_and_are_not_there_for_strangers() {
    let (gateway, installation, mine) = two_worlds("owner").await;
    for path in ["/pack_1/hello", "/api/pack_1/hello?x=1"] {
        assert_eq!(mine.get(path).await.expect(200).json(), json!({"hello": "pack_1"}), "{path}");
    }
    mine.post("/pack_1/hello", &json!({"a": 1})).await.expect(200);
    let acme = gateway.client("acme");
    for (method, path) in [("GET", "/pack_1/hello"), ("POST", "/pack_1/hello"), ("DELETE", "/nowhere")] {
        assert_eq!(call(&acme, method, path, &[], Bytes::new()).await, 404, "{method} {path}");
    }
    // Neither the own routes of ComfyUI by another name, nor ours.
    for path in ["/api/api/queue", "/api/api/jobs", "/gate/nothing", "/internal/other", "/api/assets"] {
        assert_eq!(mine.get(path).await.status, 404, "{path}");
    }
    let seen = installation.requests();
    assert!(seen.iter().any(|(method, path, _)| *method == Method::POST && path.contains("/pack_1/hello")));
    assert!(!seen.iter().any(|(_, path, _)| path.contains("/api/api") || path.contains("/nowhere")), "{seen:?}");
    let shared = gateway.stand_ins()[0].requests();
    assert!(!shared.iter().any(|(_, path, _)| path.contains("hello")), "{shared:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packs_body_streams_up_to_the_bound_and_no_further() {
    let (gateway, _installation, mine) = two_worlds("owner").await;
    let said = |bytes: usize| Bytes::from(json!({ "text": "x".repeat(bytes) }).to_string());
    let json = [("content-type", "application/json")];
    assert_eq!(call(&mine, "POST", "/pack_1/hello", &json, said(300_000)).await, 200);
    let large = gateway.command(&["check"]);
    assert!(large.status.success());
    let declared = 101 << 20;
    let head = format!(
        "POST /pack_1/hello HTTP/1.1\r\nhost: {}\r\n{}content-type: application/json\r\ncontent-length: {declared}\r\n\r\n",
        mine.authority(),
        mine.credential_lines(),
    );
    let refused = mine.raw(head.as_bytes()).await.unwrap();
    assert_eq!(refused.status, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_run_code_so_a_key_that_only_reads_does_not_reach_them() {
    let (gateway, _installation, mine) = two_worlds("owner").await;
    let reader = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "mine", "--scope", "read"]));
    assert_eq!(reader.get("/pack_1/hello").await.status, 403);
    reader.get("/i18n").await.expect(200);
    reader.get("/internal/logs/raw").await.expect(200);
    mine.get("/pack_1/hello").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packs_class_runs_for_its_owner_on_its_own_installation_only() {
    let (gateway, installation, mine) = two_worlds("owner").await;
    let prompt = mine.submit(say("hello")).await;
    let entry = mine.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let ran = installation.submissions();
    let sent = ran.iter().find(|body| body.to_string().contains("Pack1Say")).unwrap();
    assert_eq!(sent.pointer("/prompt/1/inputs"), Some(&json!({"text": "hello", "not_declared": {"on": true}})));
    let refused = mine.post("/prompt", &json!({"prompt": {"1": {"class_type": "NotThere", "inputs": {}}}})).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    let acme = gateway.client("acme").post("/prompt", &json!({ "prompt": say("x") })).await;
    assert_eq!(acme.status, 400, "{}", acme.text());
    assert!(gateway.client("acme").get("/object_info").await.expect(200).json().get("Pack1Say").is_none());
    assert!(mine.get("/object_info").await.expect(200).json().get("Pack1Say").is_some());
    // A stranger's job never runs there, though it is idle.
    let acme = gateway.client("acme");
    let job = acme.submit(workflows::quick("mine")).await;
    acme.finished(&job).await;
    assert_eq!(installation.submissions().iter().filter(|body| body.to_string().contains("EmptyImage")).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packs_event_reaches_every_page_of_its_owner_and_nobody_else() {
    let (gateway, _installation, mine) = two_worlds("owner").await;
    let colleague = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "mine", "--user", "colleague"]));
    let (mut here, mut there) = (mine.socket(Some("a")).await, colleague.socket(Some("b")).await);
    let acme = gateway.client("acme");
    let mut stranger = acme.socket(Some("c")).await;
    mine.post("/pack_2/hello", &json!({"said": "hi"})).await.expect(200);
    for socket in [&mut here, &mut there] {
        let heard = socket.until("the pack's event", |event| event.kind() == "pack_2.event").await;
        assert_eq!(heard.last().map(Event::data), Some(json!({"said": "hi"})));
    }
    // Something that the stranger does hear, after it.
    acme.submit(workflows::quick("x")).await;
    let heard = stranger.until("the stranger's own end", |event| event.kind() == "execution_success").await;
    assert!(!heard.iter().any(|event| event.kind().starts_with("pack_")), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_routes_are_closed_until_the_policy_opens_them_and_want_proof_even_of_a_get() {
    let (gateway, installation, mine) = two_worlds("owner").await;
    let admin = |gateway: &Gateway| {
        let scopes = ["--tenant", "mine", "--scope", "admin", "--scope", "read", "--scope", "submit"];
        gateway.stranger().bearer(&gateway.new_key(&scopes))
    };
    let refused = admin(&gateway).get("/v2/manager/reboot").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "bundle_closed"));
    assert_eq!(gateway.client("acme").get("/v2/manager/reboot").await.status, 404);
    assert!(!installation.requests().iter().any(|(_, path, _)| path.contains("manager")));
    drop((gateway, mine));

    let (gateway, installation, mine) = two_worlds("manager.toml").await;
    assert_eq!(mine.get("/v2/manager/version").await.status, 403, "the scope admin is missing");
    // The stand-in has no Manager: its 404 is the proof that it was asked.
    let admin = admin(&gateway);
    assert_eq!(admin.get("/v2/manager/version").await.status, 404);
    let asked = |installation: &StandIn| {
        installation.requests().iter().filter(|(_, path, _)| path.contains("/v2/manager/version")).count()
    };
    assert_eq!(asked(&installation), 1);
    let foreign = [("sec-fetch-site", "cross-site")];
    assert_eq!(call(&admin, "GET", "/v2/manager/version", &foreign, Bytes::new()).await, 403);
    assert_eq!(asked(&installation), 1, "refused before it was sent on");
    let used = gateway.audited("the use of the bundle", |line| line["event"] == "bundle_used").await;
    assert_eq!((used["method"].as_str(), used["path"].as_str()), (Some("GET"), Some("/v2/manager/version")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_from_before_the_gateway_show_and_other_peoples_folders_do_not() {
    let (_gateway, installation, mine) = two_worlds("owner").await;
    mine.get("/view?filename=old.png&type=input").await.expect(404);
    let asked = |part: &str| installation.requests().iter().filter(|(_, path, _)| path.contains(part)).count();
    assert_eq!(asked("old.png"), 1, "what the ledger does not know is looked for on the owner's own disk");
    for odd in
        ["filename=old2.png&subfolder=t/someone/else", "filename=../old2.png", "filename=old2.png&subfolder=/etc"]
    {
        assert!(mine.get(&format!("/view?{odd}")).await.status.as_u16() >= 400, "{odd}");
    }
    assert_eq!(asked("old2.png"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owners_free_and_logs_are_its_own_installations() {
    let (gateway, installation, mine) = two_worlds("owner").await;
    let acme = gateway.client("acme");
    acme.post("/free", &json!({"unload_models": true})).await.expect(200);
    assert_eq!(acme.get("/internal/logs/raw").await.expect(200).json()["entries"], json!([]));
    mine.post("/free", &json!({"unload_models": true})).await.expect(200);
    let freed = |stand_in: &StandIn| stand_in.requests().iter().filter(|(_, path, _)| path.ends_with("/free")).count();
    assert_eq!((freed(&installation), freed(&gateway.stand_ins()[0])), (1, 0));
    let stats = mine.get("/system_stats").await.expect(200).json();
    assert!(stats.pointer("/system/python_version").and_then(Value::as_str).is_some_and(|version| !version.is_empty()));
    assert_eq!(acme.get("/system_stats").await.expect(200).json().pointer("/system/python_version"), Some(&json!("")));
}
