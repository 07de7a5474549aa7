//! The gateway in front of real ComfyUIs with the probe nodes. `COMFYUI_URLS=http://…,http://…` names them; without it nothing here runs.
//!
//! `REAL_KILL_CMD` is a shell command that kills the first of them, `REAL_START_CMD` one that starts it again; without the first, the test of a
//! lost backend is left out. The tests share the real servers, so each run is one test, in order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failure has to end the test, with the place where it happened"
)]

mod operated;

use comfygate_tests::client::files_of;
use comfygate_tests::ws::kinds;
use comfygate_tests::{Client, Event, Gateway, bypass, eventually, pictures, reopened, skipped, workflows};
use serde_json::{Value, json};
use std::process::Command;

fn urls() -> Option<Vec<String>> {
    let urls: Vec<String> =
        std::env::var("COMFYUI_URLS").ok()?.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).collect();
    (!urls.is_empty() && !urls[0].is_empty()).then_some(urls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_in_front_of_real_comfyuis() {
    let Some(urls) = urls() else {
        return skipped("COMFYUI_URLS is not set");
    };
    let gateway = Gateway::builder().backends(&urls).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    results_are_there(&acme).await;
    events_reach_their_client_only(&acme, &bravo).await;
    sent_pictures_come_with_the_end(&acme, &bravo).await;
    all_backends_are_used(&gateway, &acme, urls.len()).await;
    uploads_are_inputs_at_every_backend(&acme, &bravo, urls.len()).await;
    masks_are_put_into_own_pictures(&acme, &bravo).await;
    other_forms_are_made_of_own_pictures(&acme, &bravo).await;
    the_catalogue_of_attempts_is_refused(&gateway, &acme).await;
    reopened::a_saved_picture_opens_again(&acme, &bravo).await;
    results_are_there(&bravo).await;
    interrupts_end_the_own_job(&acme, &bravo).await;
    // Its own gateway and all that is asked of it: too much for the stack of a test that has one already.
    Box::pin(operated::a_policy_is_operated(&urls)).await;
    a_lost_backend_loses_no_job(&gateway, &acme, urls.len()).await;
}

async fn succeeds(client: &Client, prompt: &str) -> Value {
    let entry = client.finished(prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    entry
}

async fn results_are_there(client: &Client) {
    let prompt = client.submit(workflows::picture("real", 96, 64)).await;
    let file = files_of(&succeeds(client, &prompt).await).remove(0);
    let picture = client.stranger().get(&client.path_of(file["url"].as_str().unwrap())).await.expect(200);
    let number = |at: usize| u32::from_be_bytes(picture.body[at..at + 4].try_into().unwrap());
    assert_eq!((number(16), number(20)), (96, 64));
}

async fn events_reach_their_client_only(acme: &Client, bravo: &Client) {
    let mut mine = acme.socket(Some("page")).await;
    let mut theirs = bravo.socket(Some("page")).await;
    mine.sid().await;
    theirs.sid().await;
    let prompt =
        acme.submit_with(json!({"prompt": workflows::slow("watched", 6, 100, true), "client_id": "page"})).await;
    let heard = mine.until_end_of(&prompt).await;
    let all = kinds(&heard);
    for kind in ["execution_start", "progress", "preview", "executed", "execution_success"] {
        assert!(all.iter().any(|found| found == kind), "{kind} is missing: {all:?}");
    }
    let fence = bravo.submit_with(json!({"prompt": workflows::quick("fence"), "client_id": "page"})).await;
    for event in theirs.until_end_of(&fence).await {
        assert_ne!(event.kind(), "preview");
        assert!(event.prompt_id().is_none_or(|id| id == fence), "{event:?}");
    }
    assert_eq!(bravo.get(&format!("/history/{prompt}")).await.expect(200).json(), json!({}));
}

/// By a socket that is there, and by one that comes when the job is over; never by another tenant's of the same name.
async fn sent_pictures_come_with_the_end(acme: &Client, bravo: &Client) {
    let plain = |color: u64| json!({"class_type": "EmptyImage", "inputs": {"width": 48, "height": 32, "batch_size": 1, "color": color}});
    let workflow = json!({
        "1": plain(0xff_0000),
        "2": plain(0x00_00ff),
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "8": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["3", 0]}},
    });
    let sent = |heard: &[Event]| -> Vec<Vec<u8>> {
        let sent = heard.iter().filter_map(|event| match event {
            Event::Preview { format: 2, image } => Some(image.clone()),
            _ => None,
        });
        sent.collect()
    };
    for is_there in [true, false] {
        let mut socket = if is_there { Some(acme.socket(Some("script")).await) } else { None };
        let prompt = acme.submit_with(json!({"prompt": workflow, "client_id": "script"})).await;
        succeeds(acme, &prompt).await;
        let mut theirs = bravo.socket(Some("script")).await;
        theirs.sid().await;
        let heard = theirs.heard_so_far().await;
        assert!(heard.iter().all(|event| event.kind() == "status"), "{heard:?}");
        let mut socket = match socket.take() {
            Some(socket) => socket,
            None => acme.socket(Some("script")).await,
        };
        let heard = socket.until_end_of(&prompt).await;
        let sent = sent(&heard);
        let sizes: Vec<_> = sent.iter().map(|png| pictures::size(png)).collect();
        assert_eq!(sizes, [(48, 32), (48, 32)], "{:?}", kinds(&heard));
        assert!(pictures::pixels(&sent[0]) != pictures::pixels(&sent[1]), "the red one and the blue one");
        socket.heard_so_far().await;
    }
}

async fn attempts_at(gateway: &Gateway, backend: usize) -> f64 {
    let text = gateway.metrics().await;
    let label = format!("backend=\"gpu{backend}\"");
    let lines = text.lines().filter(|line| line.starts_with("comfygate_attempts_total{") && line.contains(&label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

async fn all_backends_are_used(gateway: &Gateway, client: &Client, backends: usize) {
    let mut prompts = Vec::new();
    for _ in 0..2 * backends {
        prompts.push(client.submit(workflows::slow("shared", 4, 200, false)).await);
    }
    for prompt in &prompts {
        succeeds(client, prompt).await;
    }
    for backend in 0..backends {
        assert!(attempts_at(gateway, backend).await > 0.0, "gpu{backend} ran nothing:\n{}", gateway.metrics().await);
    }
}

/// The pixels of a finished job's first picture.
async fn pixels_of(client: &Client, prompt: &str) -> Vec<u8> {
    let file = files_of(&succeeds(client, prompt).await).remove(0);
    pictures::pixels(&client.get(&client.path_of(file["url"].as_str().unwrap())).await.expect(200).body)
}

async fn plain(client: &Client, width: u64, height: u64, colour: u64) -> Vec<u8> {
    let mut workflow = workflows::picture("plain", width, height);
    workflow["1"]["inputs"]["color"] = json!(colour);
    let prompt = client.submit(workflow).await;
    pixels_of(client, &prompt).await
}

async fn uploads_are_inputs_at_every_backend(acme: &Client, bravo: &Client, backends: usize) {
    acme.upload("/upload/image", &[("overwrite", "true")], "ä 1.png", &pictures::png(40, 24, [255, 0, 0]))
        .await
        .expect(200);
    bravo
        .upload("/upload/image", &[("overwrite", "true")], "ä 1.png", &pictures::png(24, 40, [0, 0, 255]))
        .await
        .expect(200);
    let mut prompts = Vec::new();
    for number in 0..2 * backends {
        let mut workflow = workflows::inverted("ä 1.png", "inverted");
        workflow["3"] = json!({"class_type": "GateProbeSleep", "inputs": {"image": ["2", 0], "steps": 4 + number, "tick_ms": 100, "preview": false}});
        workflow["9"]["inputs"]["images"] = json!(["3", 0]);
        prompts.push((acme.submit(workflow.clone()).await, bravo.submit(workflow).await));
    }
    let (red, blue) = (plain(acme, 40, 24, 0x00_ffff).await, plain(acme, 24, 40, 0xff_ff00).await);
    for (mine, theirs) in prompts {
        assert_eq!(pixels_of(acme, &mine).await, red);
        assert_eq!(pixels_of(bravo, &theirs).await, blue);
    }
    let scaled = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "inverted_00001_.png [output]"}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "upscale_method": "bilinear", "width": 80, "height": 0, "crop": "disabled"}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "scaled"}},
    });
    let prompt = acme.submit(scaled).await;
    assert_eq!(pixels_of(acme, &prompt).await, plain(acme, 80, 48, 0x00_ffff).await);
}

async fn masks_are_put_into_own_pictures(acme: &Client, bravo: &Client) {
    let reference = json!({"filename": "ä 1.png", "type": "input"}).to_string();
    let fields = [("subfolder", "clipspace"), ("overwrite", "true"), ("original_ref", reference.as_str())];
    let mask = pictures::png_with_alpha(40, 24, [9, 9, 9], 55);
    acme.upload("/upload/mask", &fields, "clipspace-mask-1.png", &mask).await.expect(200);
    bravo.upload("/upload/mask", &fields, "clipspace-mask-1.png", &mask).await.expect(400);
    let workflow = json!({
        "1": {"class_type": "LoadImageMask", "inputs": {"image": "clipspace/clipspace-mask-1.png [input]", "channel": "alpha"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mask"}},
    });
    let prompt = acme.submit(workflow.clone()).await;
    assert_eq!(pixels_of(acme, &prompt).await, plain(acme, 40, 24, 0xc8_c8c8).await);
    bravo.post("/prompt", &json!({"prompt": workflow})).await.expect(403);
}

async fn other_forms_are_made_of_own_pictures(acme: &Client, bravo: &Client) {
    let half = pictures::png_with_alpha(40, 24, [200, 100, 50], 128);
    acme.upload("/upload/image", &[("overwrite", "true")], "half.png", &half).await.expect(200);
    let form = async |query: &str| acme.get(&format!("/view?filename=half.png&type=input&{query}")).await.expect(200);
    for (query, content_type, first) in [
        ("preview=webp;75", "image/webp", &b"RIFF"[..]),
        ("preview=jpeg;75", "image/jpeg", b"\xff\xd8"),
        ("preview=jpeg&channel=a", "image/webp", b"RIFF"),
        ("channel=rgb", "image/png", b"\x89PNG"),
        ("channel=a", "image/png", b"\x89PNG"),
    ] {
        let made = form(query).await;
        assert_eq!((made.header("content-type"), &made.body[..first.len()]), (Some(content_type), first), "{query}");
    }
    assert_eq!(form("channel=rgba").await.body, half);
    assert_eq!(pictures::size(&form("channel=a").await.body), (40, 24));
    bravo.get("/view?filename=half.png&type=input&preview=webp").await.expect(404);
}

async fn the_catalogue_of_attempts_is_refused(gateway: &Gateway, client: &Client) {
    for entry in 1..=35 {
        if bypass::attempts(entry, client).is_empty() {
            for mut envelope in bypass::defused(entry) {
                // A label used twice with other bodies is a conflict of its owner's own making.
                if let Some(label) = envelope.get_mut("prompt_id") {
                    *label = json!(format!("label-{entry}"));
                }
                let prompt = client.submit_with(envelope).await;
                succeeds(client, &prompt).await;
            }
        } else {
            // From another address each, so that refused logins (21) do not close the door for the rest.
            bypass::refused(entry, &client.from_address([127, 3, 0, entry])).await;
        }
    }
    gateway.backends_are_up().await;
}

async fn interrupts_end_the_own_job(acme: &Client, bravo: &Client) {
    let long = acme.submit(workflows::slow("long", 150, 400, false)).await;
    acme.running(&long).await;
    bravo.post("/interrupt", &json!({})).await.expect(200);
    bravo.post("/interrupt", &json!({"prompt_id": long})).await.expect(200);
    acme.running(&long).await;
    acme.post("/interrupt", &json!({"prompt_id": long})).await.expect(200);
    let entry = acme.finished(&long).await;
    assert_eq!(entry["status"]["status_str"], "error", "{entry}");
}

async fn a_lost_backend_loses_no_job(gateway: &Gateway, client: &Client, backends: usize) {
    let Ok(kill) = std::env::var("REAL_KILL_CMD") else {
        return skipped("a real backend killed in mid-run: REAL_KILL_CMD is not set");
    };
    if backends < 2 {
        return skipped("a real backend killed in mid-run: COMFYUI_URLS names only one");
    }
    let mut prompts = Vec::new();
    for _ in 0..backends {
        prompts.push(client.submit(workflows::slow("survivor", 40, 100, false)).await);
    }
    for prompt in &prompts {
        client.running(prompt).await;
    }
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    gateway.backend_is(0, false).await;
    for prompt in &prompts {
        assert_eq!(files_of(&succeeds(client, prompt).await).len(), 1);
    }
    if let Ok(start) = std::env::var("REAL_START_CMD") {
        assert!(Command::new("sh").args(["-c", &start]).status().unwrap().success());
        eventually("it is back", || async {
            gateway.metrics().await.contains("comfygate_backend_up{backend=\"gpu0\"} 1").then_some(())
        })
        .await;
    }
}
