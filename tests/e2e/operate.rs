//! Operating the fleet: backends are drained, maintained and resumed, tenants paused.

use comfygate_tests::gateway::{fast, said};
use comfygate_tests::{Client, Gateway, StandIn, eventually, workflows};
use serde_json::{Value, json};

async fn state_is(gateway: &Gateway, number: usize, state: &str) {
    let wanted = format!("comfygate_backend_state{{backend=\"gpu{number}\",state=\"{state}\"}}");
    eventually(&wanted, || async { (gateway.metric(&wanted).await == 1.0).then_some(()) }).await;
}

fn done(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = gateway.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What `comfygate backend list` shows of one.
fn listed(gateway: &Gateway, id: &str) -> Value {
    let shown = done(gateway, &["backend", "list", "--json"]);
    let views = shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    views.into_iter().find(|view| view["id"] == id).unwrap_or_else(|| panic!("no {id} in {shown}"))
}

async fn succeeds(client: &Client, prompt: &str) {
    let entry = client.finished(prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
}

fn jobs_run(stand_in: &StandIn) -> usize {
    stand_in.executed().iter().filter(|id| !id.starts_with("ca9a21e5-")).count()
}

fn canaries_run(stand_in: &StandIn) -> usize {
    stand_in.executed().len() - jobs_run(stand_in)
}

async fn waits(client: &Client, prompt: &str) {
    let queue = client.get("/queue").await.expect(200).json();
    let pending = queue["queue_pending"].as_array().unwrap();
    assert!(pending.iter().any(|item| item[1] == prompt), "{queue}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_backend_finishes_what_it_has_and_gets_nothing_until_it_is_resumed() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let first = acme.submit(workflows::slow("stays", 20, 100, false)).await;
    let place = eventually("it runs", || async { gateway.stand_ins().iter().position(|there| jobs_run(there) > 0) });
    let place = place.await;
    let id = format!("gpu{place}");
    let shown = done(&gateway, &["backend", "drain", &id, "--reason", "new driver"]);
    assert!(shown.contains("drained") && shown.contains("new driver"), "{shown}");
    for prompt in [acme.submit(workflows::quick("a")).await, acme.submit(workflows::quick("b")).await] {
        succeeds(&acme, &prompt).await;
    }
    // Waits for the end of the first.
    done(&gateway, &["backend", "drain", &id, "--wait"]);
    succeeds(&acme, &first).await;
    assert_eq!((jobs_run(&gateway.stand_ins()[place]), jobs_run(&gateway.stand_ins()[1 - place])), (1, 2));
    state_is(&gateway, place, "drained").await;
    let view = listed(&gateway, &id);
    assert_eq!(
        (&view["state"], &view["takes_jobs"], &view["outstanding"]),
        (&json!("drained"), &json!(false), &json!(0))
    );
    assert_eq!(listed(&gateway, &format!("gpu{}", 1 - place))["takes_jobs"], true);
    let line = gateway.audited("the drain", |line| line["event"] == "backend_halted").await;
    assert_eq!(
        (&line["backend"], &line["halt"], &line["reason"]),
        (&json!(id), &json!("drained"), &json!("new driver"))
    );
    done(&gateway, &["backend", "drain", &format!("gpu{}", 1 - place)]);
    done(&gateway, &["backend", "resume", &id]);
    state_is(&gateway, place, "up").await;
    let prompt = acme.submit(workflows::quick("c")).await;
    succeeds(&acme, &prompt).await;
    assert_eq!(jobs_run(&gateway.stand_ins()[place]), 2);
    gateway.audited("the end of it", |line| line["event"] == "backend_halted" && line["halt"] == "none").await;
    let unknown = gateway.command(&["backend", "drain", "gpu7"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", said(&unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_backend_drained_jobs_wait_through_a_crash_and_nothing_is_refused() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    assert_eq!(gateway.plain_get(gateway.addresses().metrics, "/readyz").await.0, 200);
    done(&gateway, &["backend", "drain", "gpu0"]);
    let (status, why) = gateway.plain_get(gateway.addresses().metrics, "/readyz").await;
    assert!(status == 503 && why.contains("is drained: jobs wait"), "{why}");
    let shown = gateway.command(&["status"]);
    assert!(shown.status.code() == Some(1) && said(&shown).contains("drained, up"), "{}", said(&shown));
    let prompt = acme.submit(workflows::quick("waits")).await;
    waits(&acme, &prompt).await;
    gateway.restart().await;
    gateway.backends_are_up().await;
    state_is(&gateway, 0, "drained").await;
    waits(&acme, &prompt).await;
    assert_eq!(jobs_run(&gateway.stand_ins()[0]), 0);
    done(&gateway, &["backend", "resume", "gpu0"]);
    succeeds(&acme, &prompt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_gateways_backend_can_be_drained_before_it_starts() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    gateway.terminate().await;
    done(&gateway, &["backend", "maintenance", "gpu0", "--reason", "later"]);
    done(&gateway, &["tenant", "pause", "acme"]);
    gateway.start().await;
    state_is(&gateway, 0, "maintenance").await;
    assert_eq!(listed(&gateway, "gpu0")["halt"]["reason"], "later");
    assert_eq!(acme.get("/gate/me").await.expect(200).json()["paused"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_keeps_the_drain_of_a_backend_that_changes_and_forgets_that_of_one_that_leaves() {
    let gateway = Gateway::builder().start().await;
    for id in ["gpu0", "gpu1"] {
        done(&gateway, &["backend", "drain", id]);
    }
    let (first, second) = (gateway.stand_ins()[0].url(), gateway.stand_ins()[1].url());
    let table = |id: &str, url: &str| format!("[[backends]]\nid = \"{id}\"\nurl = \"{url}\"\n");
    let (was, moved) = (table("gpu0", &first), table("gpu0", &first.replace("127.0.0.1", "localhost")));
    let leaves = table("gpu1", &second);
    gateway.edit("gateway.toml", |text| text.replace(&was, &moved).replace(&leaves, ""));
    gateway.generation_is(2).await;
    gateway.audited("it is forgotten", |line| line["event"] == "backend_halted" && line["halt"] == "none").await;
    gateway.edit("gateway.toml", |text| text.replace(&moved, &format!("{moved}{leaves}")));
    gateway.generation_is(3).await;
    state_is(&gateway, 0, "drained").await;
    state_is(&gateway, 1, "up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_in_maintenance_is_neither_tested_nor_an_alarm_and_proves_itself_afterwards() {
    let often = "[dispatch]\ncanary_interval = \"1s\"\ncanary_deadline = \"5s\"\n";
    let gateway = Gateway::builder().gateway_toml(often).start().await;
    let acme = gateway.client("acme");
    done(&gateway, &["backend", "maintenance", "gpu0"]);
    state_is(&gateway, 0, "maintenance").await;
    gateway.stand_ins()[0].kill();
    gateway.backend_is(0, false).await;
    state_is(&gateway, 0, "maintenance").await;
    assert!(!gateway.log_text().contains("WARN backend out of service"), "{}", gateway.log_text());
    let before = canaries_run(&gateway.stand_ins()[0]);
    gateway.stand_ins()[0].restart().await.unwrap();
    // The other one is tested meanwhile, as often as it would be.
    let others = canaries_run(&gateway.stand_ins()[1]);
    eventually("three canaries elsewhere", || async {
        (canaries_run(&gateway.stand_ins()[1]) >= others + 3).then_some(())
    })
    .await;
    assert_eq!(canaries_run(&gateway.stand_ins()[0]), before);
    done(&gateway, &["backend", "resume", "gpu0"]);
    done(&gateway, &["backend", "drain", "gpu1"]);
    let prompt = acme.submit(workflows::quick("back")).await;
    succeeds(&acme, &prompt).await;
    assert!(canaries_run(&gateway.stand_ins()[0]) > before, "it was out of service: it is proven first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_tenants_jobs_wait_through_a_restart_while_the_others_run() {
    let mut gateway = Gateway::builder().stand_ins_with(vec![fast()]).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let runs = acme.submit(workflows::slow("runs", 50, 100, false)).await;
    acme.running(&runs).await;
    let held = acme.submit(workflows::quick("held")).await;
    let shown = done(&gateway, &["tenant", "pause", "acme", "--reason", "unpaid"]);
    assert!(shown.contains("paused"), "{shown}");
    assert_eq!(acme.get("/gate/me").await.expect(200).json()["paused"], true);
    assert_eq!(bravo.get("/gate/me").await.expect(200).json()["paused"], false);
    let later = acme.submit(workflows::quick("later")).await;
    let other = bravo.submit(workflows::quick("other")).await;
    // What ran ends, and the other tenant, who came last, is next.
    succeeds(&acme, &runs).await;
    succeeds(&bravo, &other).await;
    let again = bravo.submit(workflows::quick("again")).await;
    succeeds(&bravo, &again).await;
    assert_eq!(jobs_run(&gateway.stand_ins()[0]), 3);
    waits(&acme, &held).await;
    gateway.restart().await;
    gateway.backends_are_up().await;
    let third = bravo.submit(workflows::quick("third")).await;
    succeeds(&bravo, &third).await;
    waits(&acme, &later).await;
    done(&gateway, &["tenant", "resume", "acme"]);
    succeeds(&acme, &held).await;
    succeeds(&acme, &later).await;
    let lines = gateway.audit();
    let paused: Vec<&Value> = lines.iter().filter(|line| line["event"] == "tenant_paused").collect();
    assert_eq!(paused.len(), 2);
    assert_eq!((&paused[0]["paused"], &paused[0]["reason"]), (&json!(true), &json!("unpaid")));
    assert_eq!(paused[1]["paused"], false);
    let unknown = gateway.command(&["tenant", "pause", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", said(&unknown));
}
