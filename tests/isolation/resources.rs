//! What one tenant takes is not taken from another: caps that answer 429 or 413 with their figures, and a tenant that fills its own to the brim.

use crate::wire::{request, two};
use comfygate_tests::client::files_of;
use comfygate_tests::{Client, Gateway, RawConnection, eventually, pictures, workflows};
use serde_json::json;

/// Everything that a page does, once.
async fn goes_on(client: &Client) {
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
