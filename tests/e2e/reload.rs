//! Reload: by file, by signal and by command; refused whole or applied whole.

use comfygate_tests::client::files_of;
use comfygate_tests::gateway::{self, fast};
use comfygate_tests::{Event, Gateway, StandIn, eventually, tls, workflows};
use serde_json::json;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_read_again_by_itself_and_touching_it_changes_nothing() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    assert_eq!(gateway.generation().await, 1);
    gateway.edit("tenants.toml", |text| text);
    gateway.edit("tenants.toml", |text| text.replace("rate = { per_second = 1000", "rate = { per_second = 7"));
    gateway.generation_is(2).await;
    let me = acme.get("/gate/me").await.expect(200).json();
    assert_eq!(me["limits"]["prompt_rate_per_second"], 7.0);
    let line = gateway.audited("the reload", |line| line["event"] == "reload").await;
    assert_eq!(
        (&line["generation"], &line["applied"]),
        (&json!(2), &json!(true)),
        "the copy without a change was none"
    );
    assert!(gateway.log_text().contains("generation=2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_decides_the_next_submission_and_the_jobs_that_wait() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let running = acme.submit(workflows::slow("runs", 50, 100, false)).await;
    acme.running(&running).await;
    let waiting = acme.submit(workflows::slow("waits", 1, 10, false)).await;
    let policy =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/documents/default.toml")).unwrap();
    fs::write(gateway.directory().join("own.toml"), policy.replace("\"GateProbe*\",", "")).unwrap();
    let own = gateway.directory().join("own.toml").display().to_string();
    gateway.edit("tenants.toml", |text| text.replace("policy = \"default\"", &format!("policy = {own:?}")));
    let told = gateway.command(&["reload"]);
    assert!(told.status.success(), "{}", gateway::said(&told));
    acme.post("/prompt", &json!({"prompt": workflows::slow("next", 1, 10, false)})).await.expect(403);
    let ended = acme.finished(&running).await;
    assert_eq!(ended["status"]["status_str"], "success", "what runs is left to run: {ended}");
    let ended = acme.finished(&waiting).await;
    assert_eq!(ended["status"]["status_str"], "error", "what waits is decided anew: {ended}");
    assert!(ended.to_string().contains("the policy changed"), "{ended}");
    let quick = acme.submit(workflows::quick("allowed")).await;
    assert_eq!(acme.finished(&quick).await["status"]["status_str"], "success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_only_a_tenant_of_the_api_names_is_followed_with_what_it_extends() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let policy =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/documents/default.toml")).unwrap();
    let own = gateway.directory().join("own.toml");
    fs::write(&own, "name = \"own\"\nextends = \"base.toml\"\n").unwrap();
    fs::write(gateway.directory().join("base.toml"), &policy).unwrap();
    let set = format!("policy={}", own.display());
    let made = gateway.command(&["tenant", "create", "zebra", "--plan", "usual", "--set", &set]);
    assert!(made.status.success(), "{}", gateway::said(&made));
    let zebra = gateway.client("zebra");
    let asked = json!({"prompt": workflows::slow("next", 1, 10, false)});
    zebra.post("/prompt", &asked).await.expect(200);
    gateway.edit("base.toml", |text| text.replace("\"GateProbe*\",", ""));
    gateway.generation_is(2).await;
    zebra.post("/prompt", &asked).await.expect(403);
    // One that can't be read would close the tenant: the reload is refused, and the former one goes on.
    gateway.edit("own.toml", |text| text + "no policy");
    let refused = async || gateway.metric("comfygate_config_last_reload_successful").await == 0.0;
    eventually("the refusal", || async { refused().await.then_some(()) }).await;
    zebra.post("/prompt", &asked).await.expect(403);
    gateway.edit("base.toml", |_| policy.clone());
    gateway.edit("own.toml", |text| text.replace("no policy", ""));
    gateway.generation_is(3).await;
    zebra.post("/prompt", &asked).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_faults_is_refused_whole_and_each_fault_is_named() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    acme.get("/queue").await.expect(200);
    gateway.edit("tenants.toml", |text| {
        text.replace("per_second = 1000", "per_second = 7") + "\n[[tenant]]\nid = \"x\"\n"
    });
    gateway.edit("gateway.toml", |text| text + "\n[views]\nlifetme = \"1h\"\n");
    let told = gateway.command(&["reload"]);
    assert_eq!(told.status.code(), Some(1), "{}", gateway::said(&told));
    let said = gateway::said(&told);
    assert!(said.contains("views.lifetme") && said.contains("keeps its configuration"), "{said}");
    gateway.send_signal("HUP");
    let line = gateway.audited("the refusal", |line| line["event"] == "reload").await;
    assert_eq!((&line["generation"], &line["applied"]), (&json!(1), &json!(false)));
    assert!(line["faults"].to_string().contains("views.lifetme"), "{line}");
    assert!(line["faults"].as_array().unwrap().len() >= 2, "all at once: {line}");
    assert_eq!(gateway.metric("comfygate_config_last_reload_successful").await, 0.0);
    assert!(gateway.log_text().contains("lifetme"));
    let me = acme.get("/gate/me").await.expect(200).json();
    assert_eq!(me["limits"]["prompt_rate_per_second"], 1000.0, "nothing of it is in force");
    gateway.edit("gateway.toml", |text| text.replace("lifetme", "lifetime"));
    gateway.edit("tenants.toml", |text| text.replace("\n[[tenant]]\nid = \"x\"\n", ""));
    gateway.generation_is(2).await;
    eventually("the last reload was good", || async {
        (gateway.metric("comfygate_config_last_reload_successful").await == 1.0).then_some(())
    })
    .await;
    let me = acme.get("/gate/me").await.expect(200).json();
    assert_eq!(me["limits"]["prompt_rate_per_second"], 7.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_needs_a_restart_is_named_and_the_rest_applies() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let before = gateway.addresses();
    let text = fs::read_to_string(gateway.config()).unwrap();
    let moved = text.replace(&before.metrics.to_string(), &gateway::free_address().to_string());
    fs::write(gateway.config(), format!("{moved}\n[views]\nlifetime = \"2m\"\n")).unwrap();
    let told = gateway.command(&["reload", "--json"]);
    assert!(told.status.success(), "{}", gateway::said(&told));
    let report: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(report["needs_restart"], json!(["metrics.address"]), "{report}");
    gateway.generation_is(2).await;
    let prompt = acme.submit(workflows::quick("lifetime")).await;
    let entry = acme.finished(&prompt).await;
    let url = files_of(&entry)[0]["url"].as_str().unwrap().to_owned();
    let expires: u64 = url.split_once("expires=").unwrap().1.split('&').next().unwrap().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(expires <= now + 120, "two minutes, no longer an hour: {expires} at {now}");
    assert!(gateway.log_text().contains("this change needs a restart"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_for_new_connections_and_a_faulty_one_is_not() {
    let mut other = Gateway::builder().backends(&["http://127.0.0.1:9".to_owned()]).prepare().await;
    other.start().await;
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let own = gateway.trust();
    for name in ["gateway.crt", "gateway.key"] {
        fs::copy(other.state().join("tls").join(name), gateway.directory().join(name)).unwrap();
    }
    let [certificate, key] = ["gateway.crt", "gateway.key"].map(|name| gateway.directory().join(name));
    gateway.edit("gateway.toml", |text| {
        let listener = format!("address = \"{}\"\n", gateway.addresses().https);
        text.replacen(&listener, &format!("{listener}tls = {{ certificate = {certificate:?}, key = {key:?} }}\n"), 1)
    });
    gateway.generation_is(2).await;
    let address = gateway.addresses().https;
    assert!(tls::try_connect(address, Ipv4Addr::LOCALHOST, &other.trust(), &["http/1.1"]).await.is_ok());
    assert!(tls::try_connect(address, Ipv4Addr::LOCALHOST, &own, &["http/1.1"]).await.is_err());
    fs::write(&key, "no key").unwrap();
    eventually("the fault is seen", || async {
        (gateway.metric("comfygate_config_last_reload_successful").await == 0.0).then_some(())
    })
    .await;
    assert!(tls::try_connect(address, Ipv4Addr::LOCALHOST, &other.trust(), &["http/1.1"]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_added_gets_jobs_and_one_that_is_removed_finishes_what_it_has() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    let running = acme.submit(workflows::slow("leaves", 30, 100, false)).await;
    acme.running(&running).await;
    let added = StandIn::start(fast()).await.unwrap();
    let former = gateway.stand_ins()[0].url();
    gateway.edit("gateway.toml", |text| {
        let (head, _) = text.split_once("[[backends]]").unwrap();
        format!("{head}[[backends]]\nid = \"added\"\nurl = \"{}\"\n", added.url())
    });
    gateway.generation_is(2).await;
    let next = acme.submit(workflows::quick("arrives")).await;
    assert_eq!(acme.finished(&next).await["status"]["status_str"], "success");
    assert_eq!(added.executed().len(), 1, "the new one ran it while the other was busy");
    assert_eq!(acme.finished(&running).await["status"]["status_str"], "success");
    assert_eq!(gateway.stand_ins()[0].executed().len(), 1, "the job that ran there ended there: {former}");
    eventually("the metrics forget it", || async {
        (!gateway.metrics().await.contains("comfygate_backend_up{backend=\"gpu0\"}")).then_some(())
    })
    .await;
    let requests = gateway.stand_ins()[0].requests().len();
    let again = acme.submit(workflows::quick("after")).await;
    acme.finished(&again).await;
    assert_eq!(gateway.stand_ins()[0].executed().len(), 1);
    assert!(gateway.stand_ins()[0].requests().len() <= requests + 1, "nobody watches it any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_moves_finishes_at_its_old_address_before_it_begins_at_the_new_one() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let running = acme.submit(workflows::slow("stays", 30, 100, true)).await;
    acme.running(&running).await;
    let moved = StandIn::start(fast()).await.unwrap();
    let former = gateway.stand_ins()[0].url();
    gateway.edit("gateway.toml", |text| text.replace(&former, &moved.url()));
    gateway.generation_is(2).await;
    let next = bravo.submit(workflows::quick("moves")).await;
    eventually("the job at the old address has ended", || async {
        let moved_on = !moved.executed().is_empty();
        let ended = acme.get(&format!("/history/{running}")).await.expect(200).json() != json!({});
        assert!(ended || !moved_on, "nothing runs under one name at two addresses");
        ended.then_some(())
    })
    .await;
    assert_eq!(acme.finished(&running).await["status"]["status_str"], "success");
    assert_eq!(bravo.finished(&next).await["status"]["status_str"], "success");
    assert_eq!((gateway.stand_ins()[0].executed().len(), moved.executed().len()), (1, 1));
}

/// A gateway whose catalogue is the file `object_info.json`, as its one backend answers it, and that answer.
async fn pinned() -> (StandIn, Gateway, String) {
    let stand_in = StandIn::start(fast()).await.unwrap();
    let mut gateway = Gateway::builder().backends(&[stand_in.url()]).prepare().await;
    let whole = gateway.plain_get(stand_in.addr(), "/object_info").await.1;
    let path = gateway.directory().join("object_info.json");
    fs::write(&path, &whole).unwrap();
    gateway.edit("gateway.toml", |text| format!("{text}\n[catalogue]\nobject_info = {path:?}\n"));
    gateway.start().await;
    gateway.backends_are_up().await;
    (stand_in, gateway, whole)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_catalogue_decides_what_is_known() {
    let (_stand_in, gateway, whole) = pinned().await;
    let acme = gateway.client("acme");
    let prompt = acme.submit(workflows::quick("known")).await;
    acme.finished(&prompt).await;
    let mut fewer: serde_json::Value = serde_json::from_str(&whole).unwrap();
    assert!(fewer.as_object_mut().unwrap().remove("EmptyImage").is_some());
    gateway.edit("object_info.json", |_| fewer.to_string());
    gateway.generation_is(2).await;
    acme.post("/prompt", &json!({"prompt": workflows::quick("unknown")})).await.expect(400);
    gateway.backends_are_up().await;
    let other = acme.submit(workflows::text_to_image("others")).await;
    assert_eq!(acme.finished(&other).await["status"]["status_str"], "success");
    gateway.edit("object_info.json", |_| "{}".to_owned() + "x");
    eventually("the fault is seen", || async {
        (gateway.metric("comfygate_config_last_reload_successful").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(gateway.generation().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_never_loses_an_output_silently() {
    let (_stand_in, gateway, whole) = pinned().await;
    let acme = gateway.client("acme");
    let running = acme.submit(workflows::slow("runs", 60, 100, false)).await;
    acme.running(&running).await;
    let both = |prefix: &str| {
        let mut both = workflows::slow(prefix, 50, 1, false);
        both["19"] = json!({"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}});
        both
    };
    let loses = acme.submit(both("loses")).await;
    let keeps = acme.submit(workflows::quick("keeps")).await;
    let mut narrower: serde_json::Value = serde_json::from_str(&whole).unwrap();
    narrower["GateProbeSleep"]["input"]["required"]["steps"][1]["max"] = json!(49);
    gateway.edit("object_info.json", |_| narrower.to_string());
    gateway.generation_is(2).await;
    // A new submission runs in part, and its answer says what does not.
    let answer = acme.post("/prompt", &json!({"prompt": both("next")})).await.expect(200).json();
    assert!(answer["node_errors"]["2"].is_object(), "{answer}");
    let ended = acme.finished(&loses).await;
    assert_eq!(ended["status"]["status_str"], "error", "{ended}");
    assert!(ended.to_string().contains("node 9 would be left out"), "{ended}");
    assert!(ended.to_string().contains("steps"), "{ended}");
    assert_eq!(acme.finished(&running).await["status"]["status_str"], "success");
    assert_eq!(acme.finished(&keeps).await["status"]["status_str"], "success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_tenant_is_refused_and_its_open_socket_is_closed() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let mut socket = acme.socket(None).await;
    socket.sid().await;
    gateway.edit("tenants.toml", |text| text.replace("id = \"acme\"\n", "id = \"acme\"\ndisabled = true\n"));
    let told = gateway.command(&["reload"]);
    assert!(told.status.success(), "{}", gateway::said(&told));
    acme.get("/queue").await.expect(401);
    bravo.get("/queue").await.expect(200);
    let heard = socket.until("the close", |event| event.kind() == "closed").await;
    assert_eq!(heard.last(), Some(&Event::Closed(Some(4401))), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_gateway_reload_and_upgrade_say_so_with_exit_2() {
    let gateway = Gateway::builder().stand_ins(1).prepare().await;
    for command in ["reload", "upgrade"] {
        let told = gateway.command(&[command]);
        assert_eq!(told.status.code(), Some(2), "{}", gateway::said(&told));
        assert!(gateway::said(&told).contains("no gateway answers"), "{}", gateway::said(&told));
    }
    let told = gateway.command(&["serve", "--upgrade"]);
    assert_eq!(told.status.code(), Some(2), "{}", gateway::said(&told));
    assert!(gateway::said(&told).contains("start without --upgrade"), "{}", gateway::said(&told));
}
