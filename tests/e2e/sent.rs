//! Stage 7: pictures that SaveImageWebsocket sends are results, and whoever was away hears the end of its jobs.

use comfygate_tests::client::files_of;
use comfygate_tests::ws::kinds;
use comfygate_tests::{Client, Event, Gateway, StandIn, eventually, pictures, workflows};
use serde_json::{Value, json};

const RED: u64 = 0xff_0000;
const BLUE: u64 = 0x00_00ff;

/// A red and a blue picture, sent by node 8; with a wait of so many ticks of 100 ms before.
fn sending(ticks: u64) -> Value {
    let plain = |color: u64| json!({"class_type": "EmptyImage", "inputs": {"width": 32, "height": 24, "batch_size": 1, "color": color}});
    let mut workflow = json!({
        "1": plain(RED),
        "2": plain(BLUE),
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "8": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["3", 0]}},
    });
    if ticks > 0 {
        workflow["4"] = json!({"class_type": "GateProbeSleep", "inputs": {"image": ["3", 0], "steps": ticks, "tick_ms": 100, "preview": true}});
        workflow["8"]["inputs"]["images"] = json!(["4", 0]);
    }
    workflow
}

/// What a script in the manner of ComfyUI's `websockets_api_example_ws_images.py` collects: pictures by the node that was told last, to the end of its prompt.
fn collected(events: &[Event], prompt: &str) -> Vec<(String, Vec<u8>)> {
    let (mut node, mut found) = (String::new(), Vec::new());
    for event in events {
        match event {
            Event::Json { kind, data } if kind == "executing" && data["prompt_id"] == prompt => {
                match data["node"].as_str() {
                    Some(current) => current.clone_into(&mut node),
                    None => break,
                }
            }
            Event::Preview { image, .. } | Event::PreviewWithMetadata { image, .. } if node == "8" => {
                found.push((node.clone(), image.clone()));
            }
            _ => {}
        }
    }
    found
}

/// The data of the two pictures, as the backend saves such ones to its disk.
async fn made(gateway: &Gateway, client: &Client) -> [Vec<u8>; 2] {
    let [mut red, mut blue] = [RED, BLUE].map(|color| (workflows::picture("made", 32, 24), color));
    let mut made = [Vec::new(), Vec::new()];
    for ((workflow, color), made) in [&mut red, &mut blue].into_iter().zip(&mut made) {
        workflow["1"]["inputs"]["color"] = json!(color);
        let prompt = client.submit(workflow.take()).await;
        let file = files_of(&client.finished(&prompt).await).remove(0);
        let picture = client.get(&client.path_of(file["url"].as_str().unwrap())).await.expect(200);
        *made = pictures::pixels(&picture.body);
        // Its end is heard by who connects next; here it is nobody's business.
        gateway.settled().await;
        client.post("/history", &json!({"delete": [prompt]})).await.expect(200);
    }
    assert!(made[0] != made[1]);
    made
}

fn is_made(events: &[Event], prompt: &str, made: &[Vec<u8>; 2]) {
    let sent: Vec<Vec<u8>> = collected(events, prompt).iter().map(|(_, png)| pictures::pixels(png)).collect();
    assert_eq!(sent.len(), 2, "{:?}", kinds(events));
    assert!(sent == made, "the red one, then the blue one: {:?}", kinds(events));
}

fn ran(stand_in: &StandIn) -> usize {
    stand_in.executed().len()
}

/// Everything a new socket of that client hears by itself, after its first status.
async fn greeting(client: &Client, name: &str) -> Vec<Event> {
    let mut socket = client.socket(Some(name)).await;
    socket.sid().await;
    socket.heard_so_far().await
}

async fn one() -> (Gateway, Client) {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let acme = gateway.client("acme");
    (gateway, acme)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sent_pictures_come_with_the_end_in_order_and_whole_in_both_forms() {
    let (gateway, acme) = one().await;
    let made = made(&gateway, &acme).await;
    let bravo = gateway.client("bravo");
    let mut plain = acme.socket(Some("script")).await;
    let mut page = acme.socket(Some("script")).await;
    let mut theirs = bravo.socket(Some("script")).await;
    for socket in [&mut plain, &mut page, &mut theirs] {
        socket.sid().await;
    }
    page.send(&json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}})).await;
    page.until("the answer", |event| event.kind() == "feature_flags").await;
    let prompt = acme.submit_with(json!({"prompt": sending(2), "client_id": "script"})).await;
    let (heard, with_metadata) = (plain.until_end_of(&prompt).await, page.until_end_of(&prompt).await);
    for events in [&heard, &with_metadata] {
        is_made(events, &prompt, &made);
        let last_progress = events.iter().rposition(|event| event.kind() == "progress").unwrap();
        let sent = events.iter().position(|event| {
            matches!(event, Event::Preview { image, .. } | Event::PreviewWithMetadata { image, .. } if image.starts_with(b"\x89PNG"))
        });
        assert!(sent.unwrap() > last_progress, "not before the attempt is committed: {:?}", kinds(events));
        let after: Vec<&str> = events[sent.unwrap()..].iter().map(Event::kind).collect();
        assert_eq!(after, ["preview", "preview", "execution_success", "executing"]);
    }
    for event in &heard {
        assert!(!matches!(event, Event::PreviewWithMetadata { .. }));
        assert!(!matches!(event, Event::Preview { format: 1, image } if image.starts_with(b"\x89PNG")), "{event:?}");
    }
    let metadata = with_metadata.iter().filter_map(|event| match event {
        Event::PreviewWithMetadata { metadata, image } if image.starts_with(b"\x89PNG") => Some(metadata),
        _ => None,
    });
    for metadata in metadata {
        assert_eq!((&metadata["prompt_id"], &metadata["node_id"]), (&json!(prompt), &json!("8")));
        assert_eq!(metadata["image_type"], "image/png");
    }
    let entry = acme.finished(&prompt).await;
    assert_eq!((&entry["status"]["status_str"], &entry["outputs"]), (&json!("success"), &json!({})));
    let heard = theirs.heard_so_far().await;
    assert!(heard.iter().all(|event| event.kind() == "status"), "{heard:?}");
    // A second run is not cached: ComfyUI runs this node always.
    let again = acme.submit_with(json!({"prompt": sending(2), "client_id": "script"})).await;
    is_made(&plain.until_end_of(&again).await, &again, &made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_hears_the_end_once_and_nobody_else_does() {
    let (gateway, acme) = one().await;
    let bravo = gateway.client("bravo");
    let user = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--user", "ann"]));
    let made = made(&gateway, &acme).await;
    let prompt = acme.submit_with(json!({"prompt": sending(0), "client_id": "script"})).await;
    acme.finished(&prompt).await;
    gateway.settled().await;
    for (client, name) in [(&bravo, "script"), (&user, "script"), (&acme, "other")] {
        let heard = greeting(client, name).await;
        assert!(heard.is_empty(), "{heard:?}");
    }
    let mut socket = acme.socket(Some("script")).await;
    let heard = socket.until_end_of(&prompt).await;
    assert_eq!(kinds(&heard), ["status", "executing", "preview", "execution_success", "executing"]);
    is_made(&heard, &prompt, &made);
    assert_eq!(socket.heard_so_far().await, []);
    drop(socket);
    assert_eq!(greeting(&acme, "script").await, [], "not a second time");
    // Without a client it is for the first socket of its user.
    let nameless = acme.submit(workflows::quick("away")).await;
    acme.finished(&nameless).await;
    gateway.settled().await;
    assert_eq!(greeting(&user, "any").await, []);
    let heard = acme.socket(None).await.until_end_of(&nameless).await;
    assert_eq!(kinds(&heard), ["status", "executed", "execution_success", "executing"]);
    assert_eq!(greeting(&acme, "any").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_heard_or_deleted_is_not_told_and_a_running_job_is_told_after_what_ended() {
    let (gateway, acme) = one().await;
    let mut socket = acme.socket(Some("script")).await;
    socket.sid().await;
    let heard = acme.submit_with(json!({"prompt": sending(0), "client_id": "script"})).await;
    socket.until_end_of(&heard).await;
    // Whatever it hears next was sent after all of that.
    socket.heard_so_far().await;
    drop(socket);
    let submit = async |name: &str| {
        let prompt = acme.submit_with(json!({"prompt": workflows::quick(name), "client_id": "script"})).await;
        acme.finished(&prompt).await;
        prompt
    };
    let (deleted, kept) = (submit("deleted").await, submit("kept").await);
    acme.post("/history", &json!({"delete": [deleted]})).await.expect(200);
    let running = json!({"prompt": workflows::slow("runs", 150, 400, false), "client_id": "script"});
    let running = acme.submit_with(running).await;
    acme.running(&running).await;
    let mut socket = acme.socket(Some("script")).await;
    let events =
        socket.until("what runs now", |event| event.kind() == "executing" && event.data()["node"] == "2").await;
    let told: Vec<String> = events.iter().filter_map(Event::prompt_id).collect();
    assert!(told.contains(&kept), "{events:?}");
    assert!(!told.contains(&deleted) && !told.contains(&heard), "{events:?}");
    drop(socket);
    stop_and_clear(&gateway, &acme, &running).await;
    let events = greeting(&acme, "script").await;
    assert!(events.iter().all(|event| event.prompt_id().is_none()), "all was cleared: {events:?}");
}

/// Ends what runs, and clears the history.
async fn stop_and_clear(gateway: &Gateway, acme: &Client, running: &str) {
    acme.post("/interrupt", &json!({})).await.expect(200);
    acme.finished(running).await;
    gateway.settled().await;
    acme.post("/history", &json!({"clear": true})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_dies_after_it_sent_pictures_leaves_one_set_of_the_next() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    let made = made(&gateway, &acme).await;
    let before: Vec<usize> = gateway.stand_ins().iter().map(ran).collect();
    let mut socket = acme.socket(Some("script")).await;
    socket.sid().await;
    // Node 8 sends its pictures, and the run goes on.
    let mut workflow = sending(0);
    workflow["5"] = json!({"class_type": "GateProbeSleep", "inputs": {"image": ["3", 0], "steps": 30, "tick_ms": 100, "preview": false}});
    workflow["9"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}});
    let prompt = acme.submit_with(json!({"prompt": workflow, "client_id": "script"})).await;
    socket.until("the second picture", |event| event.kind() == "progress" && event.data()["node"] == "8").await;
    socket.until("the rest", |event| event.kind() == "progress" && event.data()["node"] == "5").await;
    let running = gateway.stand_ins().iter().zip(&before).position(|(stand_in, before)| ran(stand_in) > *before);
    let running = running.unwrap();
    gateway.stand_ins()[running].kill();
    let heard = socket.until_end_of(&prompt).await;
    is_made(&heard, &prompt, &made);
    assert_eq!(ran(&gateway.stand_ins()[1 - running]), before[1 - running] + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_pictures_were_not_heard_is_lost_and_tried_again() {
    let (gateway, acme) = one().await;
    let stand_in = &gateway.stand_ins()[0];
    let made = made(&gateway, &acme).await;
    let before = ran(stand_in);
    let mut socket = acme.socket(Some("script")).await;
    socket.sid().await;
    stand_in.faults().silence_sockets(true);
    let prompt = acme.submit_with(json!({"prompt": sending(0), "client_id": "script"})).await;
    eventually("it ran, unheard", || async {
        let body = gateway.plain_get(stand_in.addr(), "/history").await.1;
        let history: Value = serde_json::from_str(&body).unwrap();
        let upstream = stand_in.submissions().last()?["prompt_id"].as_str()?.to_owned();
        (ran(stand_in) > before && history.get(&upstream).is_some()).then_some(())
    })
    .await;
    // Nothing is told of it: neither an end nor a history entry.
    assert_eq!(acme.get(&format!("/history/{prompt}")).await.expect(200).json(), json!({}));
    stand_in.faults().silence_sockets(false);
    let heard = socket.until_end_of(&prompt).await;
    is_made(&heard, &prompt, &made);
    assert!(ran(stand_in) >= before + 2, "it ran again");
    assert!(gateway.log_text().contains("not all of its pictures came"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_that_a_restarted_gateway_missed_are_made_again() {
    let (mut gateway, acme) = one().await;
    let made = made(&gateway, &acme).await;
    let before = ran(&gateway.stand_ins()[0]);
    let mut socket = acme.socket(Some("script")).await;
    let prompt = acme.submit_with(json!({"prompt": sending(30), "client_id": "script"})).await;
    // A job counts as running before its backend has it; by its first step, its start was heard.
    socket.until("its first step", |event| event.kind() == "progress").await;
    gateway.kill9();
    gateway.restart().await;
    let acme = gateway.client("acme");
    let mut socket = acme.socket(Some("script")).await;
    let heard = socket.until_end_of(&prompt).await;
    is_made(&heard, &prompt, &made);
    assert_eq!(ran(&gateway.stand_ins()[0]), before + 2, "its start was heard by another process");
}

/// Bytes of one frame: a few fill what the system takes for a client that does not read.
const LARGE: usize = 3 << 20;

/// Floods the sockets of what runs at a backend with events that are not previews.
fn flood(stand_in: &StandIn) {
    // Type 3: the length of the node's id, the id, text.
    stand_in.sends_binary(3, &[&[0, 0, 0, 1, b'2'], &vec![b'x'; LARGE][..]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_closed_with_1013_and_another_socket_of_it_goes_on() {
    let (gateway, acme) = one().await;
    let stand_in = &gateway.stand_ins()[0];
    let (mut deaf, mut good) = (acme.socket(Some("page")).await, acme.socket(Some("page")).await);
    good.sid().await;
    let long = workflows::slow("run", 150, 400, false);
    let prompt = acme.submit_with(json!({"prompt": long, "client_id": "page"})).await;
    good.until("its first step", |event| event.kind() == "progress").await;
    for _ in 0..12 {
        flood(stand_in);
        good.until("what was sent", |event| matches!(event, Event::Binary(bytes) if bytes.len() > LARGE)).await;
    }
    let heard = deaf.until("the close", |event| matches!(event, Event::Closed(_))).await;
    assert!(matches!(heard.last(), Some(Event::Closed(Some(1013)))), "{:?} {:?}", kinds(&heard), heard.last());
    acme.post("/interrupt", &json!({"prompt_id": prompt})).await.expect(200);
    let heard = good.until_end_of(&prompt).await;
    assert!(heard.iter().any(|event| event.kind() == "execution_interrupted"), "{:?}", kinds(&heard));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_closed_with_1013_and_gets_all_pictures_when_it_comes_back() {
    let gateway = Gateway::builder().start().await;
    let acme = gateway.client("acme");
    // One that runs as long as it is needed, to flood by.
    let long = acme.submit_with(json!({"prompt": workflows::slow("long", 150, 400, false), "client_id": "page"})).await;
    acme.running(&long).await;
    let begun = || gateway.stand_ins().iter().position(|stand_in| ran(stand_in) > 0);
    let busy = eventually("it has begun", || async { begun() }).await;
    let (flooding, sending_one) = (&gateway.stand_ins()[busy], &gateway.stand_ins()[1 - busy]);
    let mut slow = acme.socket(Some("page")).await;
    slow.sid().await;
    let prompt = acme.submit_with(json!({"prompt": sending(40), "client_id": "page"})).await;
    slow.until("its first step", |event| {
        event.kind() == "progress" && event.prompt_id().as_deref() == Some(prompt.as_str())
    })
    .await;
    // Pictures of node 8, too large for what a test should have made of pixels.
    let upstream = sending_one.submissions().last().unwrap()["prompt_id"].clone();
    let metadata = json!({"node_id": "8", "prompt_id": upstream, "image_type": "image/png"}).to_string();
    let large: Vec<Vec<u8>> = (0..8_u8).map(|number| vec![number; LARGE]).collect();
    for image in &large {
        let length = u32::try_from(metadata.len()).unwrap().to_be_bytes();
        sending_one.sends_binary(4, &[&length, metadata.as_bytes(), image].concat());
    }
    acme.finished(&prompt).await;
    for _ in 0..6 {
        flood(flooding);
    }
    // The overflow is known once another socket has heard what came last.
    eventually("the flood has arrived", || async {
        let received = gateway.metric("comfygate_events_total{kind=\"text\"}").await;
        (received >= 6.0).then_some(())
    })
    .await;
    let heard = slow.until("the close", |event| matches!(event, Event::Closed(_))).await;
    assert!(matches!(heard.last(), Some(Event::Closed(Some(1013)))), "{:?} {:?}", kinds(&heard), heard.last());
    assert!(collected(&heard, &prompt).len() < large.len() + 2, "it had not got all of them");
    let mut back = acme.socket(Some("page")).await;
    let heard = back.until_end_of(&prompt).await;
    let images: Vec<Vec<u8>> = collected(&heard, &prompt).into_iter().map(|(_, image)| image).collect();
    assert_eq!(images.len(), large.len() + 2);
    assert!(images.iter().zip(&large).all(|(image, made)| image == made), "in order, and whole");
    drop(back);
    let heard = greeting(&acme, "page").await;
    assert!(heard.iter().all(|event| event.prompt_id().as_deref() != Some(prompt.as_str())), "not a second time");
    acme.post("/interrupt", &json!({})).await.expect(200);
}
