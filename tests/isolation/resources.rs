//! What one tenant takes is not taken from another: caps that answer 429 or 413 with their figures, and a tenant that fills its own to the brim.

use crate::sockets::by_hand;
use crate::wire::{request, two};
use crate::world::without_urls;
use comfygate_tests::client::files_of;
use comfygate_tests::{Client, Gateway, RawConnection, Socket, eventually, pictures, skipped, workflows};
use futures_util::StreamExt as _;
use serde_json::json;

/// Everything that a page does, once.
pub async fn goes_on(client: &Client) {
    let mut socket = client.socket(Some("page")).await;
    socket.sid().await;
    for path in ["/queue", "/history", "/api/jobs", "/settings", "/object_info/LoadImage", "/gate/me"] {
        client.get(path).await.expect(200);
    }
    client
        .upload("/upload/image", &[("overwrite", "true")], "mine.png", &pictures::png(8, 8, [1, 2, 3]))
        .await
        .expect(200);
    let prompt =
        client.submit_with(json!({"prompt": workflows::inverted("mine.png", "mine"), "client_id": "page"})).await;
    socket.until_end_of(&prompt).await;
    let file = files_of(&client.finished(&prompt).await).remove(0);
    client.stranger().get(&client.path_of(file["url"].as_str().unwrap())).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_sockets_are_counted_over_all_its_users_and_refused_with_the_figure() {
    let plan = "policy = \"default\"\nwebsockets_max = 40\nrequests = { per_second = 5000, burst = 5000 }";
    let gateway = Gateway::builder().stand_ins(1).plan(plan).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let user = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme", "--user", "ann"]));
    let mut open = Vec::new();
    for number in 0..40 {
        let client = if number % 2 == 0 { &acme } else { &user };
        open.push(client.socket(Some(&format!("s{number}"))).await);
    }
    for client in [&acme, &user] {
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let answer = client.raw(&request(client, "GET /ws HTTP/1.1", upgrade, b"")).await.unwrap();
        assert_eq!(answer.status, 429, "{}", answer.head);
        assert!(answer.text().contains("40") && !answer.code().is_empty(), "says how many: {}", answer.text());
        assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    }
    goes_on(&bravo).await;
    // Those that are open live on.
    let prompt = acme.submit_with(json!({"prompt": workflows::quick("x"), "client_id": "s0"})).await;
    open[0].until_end_of(&prompt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateways_own_sockets_are_counted_and_refused_as_busy() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nwebsockets_max = 3").start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(acme.socket(None).await);
    }
    assert_eq!(bravo.try_socket("/ws", None, &[]).await.unwrap_err(), 503);
    open.pop();
    eventually("the place is free again", || async { bravo.try_socket("/ws", None, &[]).await.ok().map(drop) }).await;
}

/// The first half of an upload of so many bytes.
async fn half_an_upload(client: &Client, name: &str, bytes: usize) -> RawConnection {
    let mut content = pictures::png(16, 16, [3, 3, 3]);
    content.resize(bytes, 0);
    let form = pictures::form(&[], name, &content);
    let headers = format!(
        "content-type: multipart/form-data; boundary={}\r\ncontent-length: {}\r\n",
        pictures::BOUNDARY,
        form.len()
    );
    let mut connection = client.raw_connection().await;
    connection.write(&request(client, "POST /upload/image HTTP/1.1", &headers, &form[..form.len() / 2])).await;
    connection
}

fn arriving(gateway: &Gateway) -> usize {
    std::fs::read_dir(gateway.state().join("blobs/tmp")).map_or(0, |folder| folder.count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_uploads_at_once_are_bounded_and_leave_another_untouched() {
    let (gateway, acme, bravo) = two().await;
    let mut halves = Vec::new();
    for number in 0..8 {
        halves.push(half_an_upload(&acme, &format!("{number}.png"), 6 << 20).await);
    }
    eventually("all are arriving", || async { (arriving(&gateway) == 8).then_some(()) }).await;
    let answer = acme.upload("/upload/image", &[], "ninth.png", &pictures::png(4, 4, [1, 1, 1])).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.text().contains('8') && answer.header("retry-after").is_some(), "{}", answer.text());
    goes_on(&bravo).await;
    drop(halves);
    eventually("there is room again", || async {
        let answer = acme.upload("/upload/image", &[], "ninth.png", &pictures::png(4, 4, [1, 1, 1])).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_of_50_mb_changes_no_answer_of_another_and_a_larger_one_is_refused_with_the_figure() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nupload_bytes_max = \"50MiB\"").start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let half = half_an_upload(&acme, "large.png", 49 << 20).await;
    eventually("it is arriving", || async { (arriving(&gateway) == 1).then_some(()) }).await;
    goes_on(&bravo).await;
    drop(half);
    let headers = format!(
        "content-type: multipart/form-data; boundary={}\r\ncontent-length: {}\r\n",
        pictures::BOUNDARY,
        60 << 20
    );
    let answer = acme.raw(&request(&acme, "POST /upload/image HTTP/1.1", &headers, b"--")).await.unwrap();
    assert_eq!(answer.status, 413, "{}", answer.head);
    assert!(answer.text().contains("52428800"), "says how much: {}", answer.text());
    goes_on(&bravo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_held_jobs_of_one_change_no_list_number_or_limit_of_another() {
    let plan = "policy = \"default\"\nrate = { per_second = 5000, burst = 5000 }\nrequests = { per_second = 5000, burst = 5000 }\nactive_jobs_max = 500";
    let gateway = Gateway::builder().stand_ins(2).plan(plan).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let mut kept = acme.kept();
    let body = json!({"prompt": crate::world::endless("held")}).to_string();
    let mut submit = async || {
        let json_type = [("content-type", "application/json")];
        kept.call(http::Method::POST, "/prompt", &json_type, body.clone().into()).await
    };
    for number in 0..500 {
        let answer = submit().await;
        assert_eq!(answer.status, 200, "{number}: {}", answer.text());
    }
    let answer = submit().await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.text().contains("500") && answer.header("retry-after").is_some(), "{}", answer.text());
    assert_eq!(bravo.get("/prompt").await.expect(200).json()["exec_info"]["queue_remaining"], 0);
    assert_eq!(bravo.get("/queue").await.expect(200).json(), json!({"queue_running": [], "queue_pending": []}));
    let first = bravo.post("/prompt", &json!({"prompt": workflows::quick("mine")})).await.expect(200).json();
    assert_eq!(first["number"], 0, "its own numbers");
    // First in, first out: it waits for its turn. Once the other's are gone it runs.
    let prompt = first["prompt_id"].as_str().unwrap();
    acme.post("/queue", &json!({"clear": true})).await.expect(200);
    acme.post("/interrupt", &json!({})).await.expect(200);
    assert_eq!(bravo.finished(prompt).await["status"]["status_str"], "success");
    goes_on(&bravo).await;
}

/// Status, headers, body.
type Answer = (u16, Vec<(String, String)>, String);

/// Answers of the calls that a page makes, in the form that tells two apart.
async fn stock_answers(client: &Client) -> Vec<(&'static str, Answer)> {
    let mut answers = Vec::new();
    for path in [
        "/prompt",
        "/queue",
        "/history",
        "/api/jobs",
        "/settings",
        "/users",
        "/features",
        "/system_stats",
        "/embeddings",
        "/models/checkpoints",
        "/object_info/LoadImage",
        "/v2/userdata",
        "/internal/files/output",
        "/view?filename=none.png&type=input",
    ] {
        let (status, headers, body) = client.get(path).await.without_request_id();
        // Signed URLs are made anew at each answer.
        let body = serde_json::from_str(&body).map_or(body, |body| without_urls(body).to_string());
        answers.push((path, (status, headers, body)));
    }
    answers
}

/// Resident memory of a process in bytes, where `/proc` tells.
fn resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// How many files a process of ours may open, after asking for as many as there may be. The gateway inherits it.
fn files_max() -> Option<u64> {
    let own = std::process::id().to_string();
    let limit = || {
        let asked = ["--pid", &own, "--nofile", "--raw", "--noheadings", "--output", "SOFT,HARD"];
        let said = std::process::Command::new("prlimit").args(asked).output().ok()?;
        let text = String::from_utf8(said.stdout).ok()?;
        let mut words = text.split_whitespace().map(|word| word.parse().unwrap_or(u64::MAX));
        Some((words.next()?, words.next()?))
    };
    let (_, hard) = limit()?;
    let _ = std::process::Command::new("prlimit").args(["--pid", &own, &format!("--nofile={hard}:")]).status();
    limit().map(|(soft, _)| soft)
}

/// Sockets of the test below, unless `MANY_SOCKETS` says another number: as the issue has it, 10,000.
const SOCKETS: usize = 500;
/// Files beside the sockets: listeners, backends, the ledger.
const OTHER_FILES: u64 = 400;
/// Handshakes at a time.
const AT_ONCE: usize = 16;

/// Sockets from one address, which may have 256 connections.
const FROM_ONE_ADDRESS: usize = 200;

/// Opens so many sockets with names of their own, and reads the first message of each.
async fn many(client: &Client, count: usize) -> Vec<Socket> {
    let opened = futures_util::stream::iter(0..count).map(|number| async move {
        let from = client.from_address([127, 9, 0, u8::try_from(number / FROM_ONE_ADDRESS).unwrap()]);
        let mut socket = from.socket(Some(&format!("many-{number}"))).await;
        socket.sid().await;
        socket
    });
    opened.buffer_unordered(AT_ONCE).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sockets_of_one_tenant_by_thousands_change_no_answer_of_another() {
    let count: usize = std::env::var("MANY_SOCKETS").map_or(SOCKETS, |count| count.parse().unwrap());
    let needed = count as u64 + OTHER_FILES;
    match files_max() {
        Some(limit) if limit >= needed => {}
        limit => {
            return skipped(&format!("{count} sockets: {needed} open files are needed, and {limit:?} are allowed"));
        }
    }
    let plan = format!(
        "policy = \"default\"\nwebsockets_max = {count}\nrequests = {{ per_second = 100000, burst = 100000 }}\n\
         rate = {{ per_second = 1000, burst = 1000 }}"
    );
    let limits = format!("[limits]\nwebsockets_max = {}\nconnections_max = {}", count + 50, count + 500);
    let gateway = Gateway::builder().stand_ins(1).plan(&plan).gateway_toml(&limits).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    goes_on(&bravo).await;
    let alone = stock_answers(&bravo).await;
    let process = gateway.process_id().unwrap();
    let before = resident(process);
    let mut sockets = many(&acme, count).await;
    assert_eq!(acme.try_socket("/ws", None, &[]).await.unwrap_err(), 429, "all of them are open");
    if let (Some(before), Some(now)) = (before, resident(process)) {
        let each = now.saturating_sub(before) / count as u64;
        println!("{count} idle sockets: {each} bytes of memory each, {now} bytes in all");
    }
    assert_eq!(stock_answers(&bravo).await, alone);
    goes_on(&bravo).await;
    // A job that is told to all of them.
    let prompt = acme.submit(workflows::slow("told", 5, 20, true)).await;
    goes_on(&bravo).await;
    for socket in [0, count / 2, count - 1] {
        sockets[socket].until_end_of(&prompt).await;
    }
    acme.finished(&prompt).await;
    drop(sockets);
    eventually("there is room again", || async { acme.try_socket("/ws", None, &[]).await.ok().map(drop) }).await;
    goes_on(&bravo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sockets_that_never_read_change_no_answer_of_another() {
    let plan = "policy = \"default\"\nwebsockets_max = 201\nrequests = { per_second = 100000, burst = 100000 }";
    let gateway = Gateway::builder().stand_ins(2).plan(plan).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    goes_on(&bravo).await;
    let alone = stock_answers(&bravo).await;
    let mut deaf = Vec::new();
    for _ in 0..200 {
        let (connection, answer) = by_hand(&acme, "/ws?clientId=deaf", "").await;
        assert_eq!(answer.status, 101);
        deaf.push(connection);
    }
    let mut attentive = acme.socket(Some("deaf")).await;
    attentive.sid().await;
    let watched = json!({"prompt": workflows::slow("previews", 150, 40, true), "client_id": "deaf"});
    let prompt = acme.submit_with(watched).await;
    attentive.until("its first preview", |event| event.kind() == "preview").await;
    // Meanwhile the other's page does everything, and what it hears of its own run it hears whole.
    assert_eq!(stock_answers(&bravo).await, alone);
    goes_on(&bravo).await;
    let heard = attentive.until_end_of(&prompt).await;
    let steps = heard.iter().filter(|event| event.kind() == "progress").count();
    assert!(steps >= 100, "the one that reads hears {steps} steps");
    goes_on(&bravo).await;
    drop(deaf);
}
