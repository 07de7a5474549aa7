//! The bypass catalogue, entries 109 to 115: what a WebSocket may take, stall, or slip in.

use crate::wire::{request, two};
use comfygate_tests::{Browser, Client, Event, RawConnection, workflows};
use serde_json::json;

const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A WebSocket opened by hand: its upgrade is answered, its frames are not looked at.
pub async fn by_hand(client: &Client, path: &str, more: &str) -> (RawConnection, comfygate_tests::RawResponse) {
    let mut connection = client.raw_connection().await;
    connection.write(&request(client, &format!("GET {path} HTTP/1.1"), &format!("{UPGRADE}{more}"), b"")).await;
    let answer = connection.response().await.expect("an answer to the upgrade");
    (connection, answer)
}

/// A masked frame of a client (RFC 6455 §5.2), with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        Ok(length) => bytes.extend([&[0x80 | 126][..], &length.to_be_bytes()].concat()),
        Err(_) => bytes.extend([&[0x80 | 127][..], &u64::try_from(payload.len()).unwrap().to_be_bytes()].concat()),
    }
    bytes.extend([0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

async fn hears_its_own_run(client: &Client, name: &str) -> Vec<Event> {
    let mut socket = client.socket(Some(name)).await;
    socket.sid().await;
    let prompt = client.submit_with(json!({"prompt": workflows::slow("run", 4, 10, true), "client_id": name})).await;
    socket.until_end_of(&prompt).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_109_the_id_that_a_page_was_given_is_no_key_to_its_events() {
    let (gateway, acme, bravo) = two().await;
    let mut mine = acme.socket(None).await;
    let sid = mine.sid().await;
    let user = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--user", "ann"]));
    let mut thieves = Vec::new();
    for (client, path) in [(&bravo, "/ws"), (&bravo, "/api/ws"), (&user, "/ws")] {
        let mut thief = client.try_socket(path, Some(&sid), &[]).await.unwrap();
        thief.sid().await;
        thieves.push(thief);
    }
    // The gateway's own name at the backend, which no caller knows, is none of theirs either.
    let done = acme.submit(workflows::quick("done")).await;
    acme.finished(&done).await;
    let upstream = gateway.stand_ins()[0].submissions()[0]["client_id"].as_str().unwrap().to_owned();
    let mut thief = bravo.socket(Some(&upstream)).await;
    thief.sid().await;
    thieves.push(thief);
    let prompt = acme.submit_with(json!({"prompt": workflows::slow("watched", 6, 20, true), "client_id": sid})).await;
    let heard = mine.until_end_of(&prompt).await;
    assert!(heard.iter().any(|event| event.kind() == "preview"), "{heard:?}");
    for thief in &mut thieves {
        let heard = thief.heard_so_far().await;
        assert!(
            heard
                .iter()
                .all(|event| event.kind() == "status" && event.data()["status"]["exec_info"]["queue_remaining"] == 0),
            "{heard:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_110_of_several_sockets_of_one_name_the_last_to_stay_hears_everything() {
    let (_gateway, acme, bravo) = two().await;
    let mut first = acme.socket(Some("tab")).await;
    first.sid().await;
    let mut second = acme.socket(Some("tab")).await;
    second.sid().await;
    let foreign = bravo.socket(Some("tab")).await;
    drop((first, foreign));
    let prompt = acme.submit_with(json!({"prompt": workflows::slow("run", 4, 10, true), "client_id": "tab"})).await;
    let heard = second.until_end_of(&prompt).await;
    assert!(heard.iter().any(|event| event.kind() == "execution_success"), "{heard:?}");
    let mut third = acme.socket(Some("tab")).await;
    third.sid().await;
    drop(second);
    let prompt = acme.submit_with(json!({"prompt": workflows::quick("again"), "client_id": "tab"})).await;
    assert!(third.until_end_of(&prompt).await.iter().any(|event| event.kind() == "executed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_111_a_socket_that_never_reads_stalls_nobody() {
    let (_gateway, acme, bravo) = two().await;
    let mut deaf = Vec::new();
    for _ in 0..10 {
        let (connection, answer) = by_hand(&acme, "/ws?clientId=deaf", "").await;
        assert_eq!(answer.status, 101);
        deaf.push(connection);
    }
    let mut attentive = acme.socket(Some("deaf")).await;
    attentive.sid().await;
    let prompt = acme.submit_with(json!({"prompt": workflows::slow("run", 100, 3, true), "client_id": "deaf"})).await;
    // Both hear all of it: the other tab of the same page, and another tenant's run behind it.
    let heard = attentive.until_end_of(&prompt).await;
    let steps = heard.iter().filter(|event| event.kind() == "progress").count();
    assert!(steps >= 100, "{steps} steps were heard");
    let heard = hears_its_own_run(&bravo, "theirs").await;
    assert!(heard.iter().any(|event| event.kind() == "execution_success"));
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_112_large_and_senseless_messages_close_their_socket_and_are_written_nowhere() {
    let (gateway, acme, bravo) = two().await;
    let before = gateway.log_text().len();
    let mut socket = acme.socket(Some("loud")).await;
    socket.sid().await;
    socket.send_text(&"x-senseless-x".repeat(400 << 10)).await;
    let heard = socket.until("the close", |event| matches!(event, Event::Closed(_))).await;
    assert!(matches!(heard.last(), Some(Event::Closed(Some(1009) | None))), "{heard:?}");
    // Many small ones: a flood ends too.
    let mut flood = acme.socket(Some("flood")).await;
    flood.sid().await;
    for _ in 0..500 {
        flood.send_text("x-senseless-x").await;
    }
    let heard = flood.until("the close", |event| matches!(event, Event::Closed(_))).await;
    assert!(matches!(heard.last(), Some(Event::Closed(Some(1008) | None))), "{heard:?}");
    assert!(!gateway.log_text().contains("x-senseless-x"));
    assert!(gateway.log_text().len() - before < 64 << 10, "the log grows with what callers say");
    hears_its_own_run(&bravo, "quiet").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_113_compression_is_not_agreed_to_and_odd_frames_end_the_socket() {
    let (_gateway, acme, bravo) = two().await;
    let offered = "sec-websocket-extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame\r\n";
    let (mut connection, answer) = by_hand(&acme, "/ws", offered).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-extensions"), None);
    // A compressed frame (RSV1) all the same.
    connection.write(&frame(0xC1, &[0x4b, 0x4c, 0x04, 0x00])).await;
    connection.end().await;
    let unmasked = vec![0x81, 0x02, b'{', b'}'];
    let reserved = frame(0x83, b"x");
    let long_ping = frame(0x89, &[0; 200]);
    let endless = [frame(0x01, &[b'x'; 40_000]), frame(0x00, &[b'x'; 40_000])].concat();
    let huge = vec![0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
    for bytes in [unmasked, reserved, long_ping, endless, huge] {
        let (mut connection, answer) = by_hand(&acme, "/ws", "").await;
        assert_eq!(answer.status, 101);
        connection.write(&bytes).await;
        // Ends within the harness's deadline, whatever is said before.
        connection.end().await;
    }
    hears_its_own_run(&bravo, "plain").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_114_no_other_site_opens_a_socket_with_what_the_browser_sends_by_itself() {
    let (gateway, _, _) = two().await;
    let browser = Browser::of(&gateway, "acme").await;
    let own = gateway.url();
    let port = own.rsplit(':').next().unwrap().to_owned();
    let foreign = [
        "https://evil.example".to_owned(),
        "null".to_owned(),
        "http://localhost".to_owned(),
        format!("http://localhost:{port}"),
        format!("https://localhost:{port}.evil.example"),
        format!("https://evil.example:{port}"),
        format!("{own}@evil.example"),
    ];
    for origin in &foreign {
        for headers in
            [vec![("origin", origin.as_str())], vec![("origin", origin.as_str()), ("sec-fetch-site", "same-origin")]]
        {
            assert_eq!(browser.sending(&headers).try_socket("/ws", None, &[]).await.unwrap_err(), 403, "{headers:?}");
        }
    }
    for site in ["cross-site", "same-site", "none"] {
        let status = browser.sending(&[("sec-fetch-site", site)]).try_socket("/ws", None, &[]).await.map(drop);
        assert_eq!(status, Err(403), "{site}");
    }
    let ours = [("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    browser.sending(&ours).try_socket("/ws", None, &[]).await.unwrap().sid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_115_frames_whose_inner_lengths_lie_reach_nobody_and_end_nothing() {
    let (gateway, acme, bravo) = two().await;
    let backend = &gateway.stand_ins()[0];
    let mut theirs = bravo.socket(Some("theirs")).await;
    theirs.sid().await;
    let mut mine = acme.socket(Some("mine")).await;
    mine.sid().await;
    let prompt = acme.submit_with(json!({"prompt": workflows::slow("run", 60, 20, true), "client_id": "mine"})).await;
    mine.until("its first step", |event| event.kind() == "progress").await;
    let sized = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
    let foreign = json!({"prompt_id": ["x"], "node_id": "1", "image_type": "image/png"}).to_string();
    let unknown = json!({"prompt_id": "00000000-0000-4000-8000-000000000000", "image_type": "image/png"}).to_string();
    let length = |text: &str| u32::try_from(text.len()).unwrap();
    let frames = [
        (1, vec![]),
        (1, vec![0, 0]),
        (3, vec![]),
        (3, sized(u32::MAX, b"marker-lie")),
        (3, sized(11, b"marker-lie")),
        (4, vec![0, 0, 0]),
        (4, sized(u32::MAX, b"{}marker-lie")),
        (4, sized(0x7fff_ffff, b"{}marker-lie")),
        (4, sized(length(&foreign) + 1, foreign.as_bytes())),
        (4, sized(2, b"[]marker-lie")),
        (4, sized(4, b"\xff\xfe{}marker-lie")),
        (4, [sized(length(&foreign), foreign.as_bytes()), b"marker-lie".to_vec()].concat()),
        (4, [sized(length(&unknown), unknown.as_bytes()), b"marker-lie".to_vec()].concat()),
        (99, sized(3, b"marker-lie")),
        (u32::MAX, b"marker-lie".to_vec()),
    ];
    for (event, payload) in &frames {
        backend.sends_binary(*event, payload);
    }
    let heard = mine.until_end_of(&prompt).await;
    assert!(heard.iter().any(|event| event.kind() == "execution_success"), "{heard:?}");
    let lies = |event: &Event| match event {
        Event::Binary(bytes)
        | Event::Preview { image: bytes, .. }
        | Event::PreviewWithMetadata { image: bytes, .. } => bytes.windows(10).any(|window| window == b"marker-lie"),
        _ => false,
    };
    assert!(!heard.iter().any(lies), "a frame that lies was passed on");
    let heard = theirs.heard_so_far().await;
    assert!(heard.iter().all(|event| event.kind() == "status"), "{heard:?}");
    hears_its_own_run(&bravo, "theirs").await;
}
