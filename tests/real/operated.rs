//! The policy in an operator's hands, in front of real ComfyUIs: refused, allowed, run; banned while it waits; watched in shadow mode; reloaded with a fault; learned from what ran.

use super::succeeds;
use comfygate_tests::client::files_of;
use comfygate_tests::gateway::{run_in, said};
use comfygate_tests::{Client, Gateway, RawConnection, eventually, workflows};
use serde_json::{Value, json};
use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};

const POLICY: &str = r#"# Ours
name = "own"

[classes]
allow = ["EmptyImage", "SaveImage", "GateProbeSleep"]

[caps]
width = 64 # small
height = 64
"#;

/// What an operator does with a policy of his own.
pub async fn a_policy_is_operated(urls: &[String]) {
    let plan = "policy = \"own.toml\"\nrate = { per_second = 1000, burst = 1000 }\nrequests = { per_second = 5000, burst = 5000 }\n";
    let gateway = Gateway::builder().backends(urls).plan(plan).file("own.toml", POLICY).start().await;
    gateway.backends_are_up().await;
    let acme = gateway.client("acme");
    Box::pin(what_was_refused_runs_once_it_is_allowed(&gateway, &acme)).await;
    Box::pin(a_ban_fails_what_waits_and_ends_when_it_is_lifted(&gateway, &acme, urls.len())).await;
    Box::pin(a_faulty_policy_is_refused_whole(&gateway, &acme)).await;
    Box::pin(shadow_mode_runs_and_tells(&gateway, &acme)).await;
    Box::pin(what_ran_is_learned_from(&gateway, &acme, urls)).await;
}

fn done(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = gateway.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

fn inverted(width: u64) -> Value {
    let mut workflow = workflows::picture("operated", width, 64);
    workflow["3"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}});
    workflow["9"]["inputs"]["images"] = json!(["3", 0]);
    workflow
}

async fn what_was_refused_runs_once_it_is_allowed(gateway: &Gateway, acme: &Client) {
    let body = json!({"prompt": inverted(96)});
    let refused = acme.post("/prompt", &body).await.expect(403);
    let request = refused.header("x-request-id").unwrap();
    let told = done(gateway, &["refusals", "--request", request]);
    assert!(told.contains("width = 96") && told.contains("\"ImageInvert\""), "{told}");
    let wrote = done(gateway, &["policy", "allow", "--request", request, "--yes"]);
    assert!(wrote.contains("+width = 96 # small") && wrote.contains("is in force"), "{wrote}");
    succeeds(acme, &acme.submit(inverted(96)).await).await;
    acme.post("/prompt", &json!({"prompt": inverted(97)})).await.expect(403);
}

async fn a_ban_fails_what_waits_and_ends_when_it_is_lifted(gateway: &Gateway, acme: &Client, backends: usize) {
    let mut running = Vec::new();
    for number in 0..backends {
        let prompt = acme.submit(workflows::slow(&format!("busy{number}"), 100, 100, false)).await;
        acme.running(&prompt).await;
        running.push(prompt);
    }
    let waiting = acme.submit(inverted(80)).await;
    done(gateway, &["policy", "ban", "ImageInvert", "--reason", "under review"]);
    let ended = acme.finished(&waiting).await;
    assert_eq!(ended["status"]["status_str"], "error", "{ended}");
    assert!(ended.to_string().contains("under review"), "{ended}");
    acme.post("/prompt", &json!({"prompt": inverted(80)})).await.expect(403);
    done(gateway, &["policy", "unban", "ImageInvert"]);
    for prompt in running {
        succeeds(acme, &prompt).await;
    }
    succeeds(acme, &acme.submit(inverted(80)).await).await;
}

async fn a_faulty_policy_is_refused_whole(gateway: &Gateway, acme: &Client) {
    let generation = gateway.generation().await;
    gateway.edit("own.toml", |text| text.replace("width = 96", "width = 4096\nwidht = 1"));
    let reloaded = gateway.command(&["reload"]);
    assert_eq!(reloaded.status.code(), Some(1), "{}", said(&reloaded));
    assert!(said(&reloaded).contains("own.toml:9:1") && said(&reloaded).contains("widht"), "{}", said(&reloaded));
    assert_eq!(gateway.generation().await, generation);
    acme.post("/prompt", &json!({"prompt": inverted(97)})).await.expect(403);
    succeeds(acme, &acme.submit(inverted(96)).await).await;
    gateway.edit("own.toml", |text| text.replace("width = 4096\nwidht = 1", "width = 96"));
    done(gateway, &["reload"]);
}

async fn shadow_mode_runs_and_tells(gateway: &Gateway, acme: &Client) {
    gateway.edit("own.toml", |text| text.replace("name = \"own\"\n", "name = \"own\"\nmode = \"shadow\"\n"));
    done(gateway, &["reload"]);
    succeeds(acme, &acme.submit(inverted(128)).await).await;
    let told = done(gateway, &["refusals", "--shadow"]);
    assert!(told.contains("would have been refused") && told.contains("width = 128"), "{told}");
}

async fn what_ran_is_learned_from(gateway: &Gateway, acme: &Client, urls: &[String]) {
    let entry = succeeds(acme, &acme.submit(inverted(112)).await).await;
    let file = files_of(&entry).remove(0);
    let picture = acme.get(&acme.path_of(file["url"].as_str().unwrap())).await.expect(200).body;
    std::fs::write(gateway.directory().join("saved.png"), &picture).unwrap();
    let of_picture = done(gateway, &["policy", "learn", "saved.png", "--headroom", "1", "--output", "picture.toml"]);
    assert!(of_picture.contains("learned from 1 workflow"), "{of_picture}");
    let checked = run_in(gateway.directory(), &["policy", "check", "--policy", "picture.toml", "saved.png"]);
    assert!(checked.status.success(), "{}", said(&checked));
    what_ran_before_is_learned_from(gateway, urls).await;
    let of_shadow = done(gateway, &["policy", "learn", "--from-shadow"]);
    assert!(of_shadow.contains("\"ImageInvert\""), "{of_shadow}");
}

/// What the gateway runs is deleted from the backends' histories: there is only what came beside it, as from the time before it.
async fn what_ran_before_is_learned_from(gateway: &Gateway, urls: &[String]) {
    let mut learn = vec!["policy", "learn", "--without-caps"];
    for (url, width) in urls.iter().zip(116..) {
        submit_beside_the_gateway(url, inverted(width)).await;
        learn.extend(["--from-backend", url]);
    }
    let document = eventually("both are in their histories", || {
        let told = said(&gateway.command(&learn));
        let count = told.split_once("learned from ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        ready(count.is_some_and(|count: usize| count >= urls.len()).then_some(told))
    });
    let document = document.await;
    assert!(document.contains("\"SaveImage\"") && document.contains("\"ImageInvert\""), "{document}");
}

async fn submit_beside_the_gateway(url: &str, workflow: Value) {
    let address: SocketAddr = url.trim_start_matches("http://").parse().expect("COMFYUI_URLS has addresses");
    let body = json!({"prompt": workflow}).to_string();
    let request = format!(
        "POST /prompt HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = RawConnection::plain(address, Ipv4Addr::LOCALHOST).await;
    connection.write(request.as_bytes()).await;
    assert_eq!(connection.response().await.unwrap().status, 200);
}
