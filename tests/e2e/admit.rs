//! Stage 4: how much at once.

use comfygate_tests::{Gateway, Response, eventually, workflows};
use http::Method;
use serde_json::json;

async fn submitted(client: &comfygate_tests::Client) -> Response {
    client.post("/prompt", &json!({"prompt": workflows::quick("x")})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_burst_prompt_is_429_with_its_limits_and_other_tenants_are_not_affected() {
    // Slow enough that no token comes back while the test runs.
    let gateway = Gateway::builder()
        .stand_ins(1)
        .plan("policy = \"default\"\nrate = { per_second = 0.01, burst = 3 }")
        .start()
        .await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    for left in ["2", "1", "0"] {
        let answer = submitted(&acme).await.expect(200);
        assert_eq!(answer.header("ratelimit-limit"), Some("3"));
        assert_eq!(answer.header("ratelimit-remaining"), Some(left));
        assert!(answer.header("ratelimit-reset").is_some_and(|reset| reset.parse::<u64>().is_ok()));
    }
    let refused = submitted(&acme).await.expect(429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=100).contains(&wait), "a token comes every 100 s: {wait}");
    assert_eq!(refused.header("ratelimit-remaining"), Some("0"));
    assert_eq!(refused.json()["error"]["type"], refused.code(), "in ComfyUI's form");
    submitted(&bravo).await.expect(200);
    acme.get("/queue").await.expect(200);
    let line = gateway.audited("the refusal", |line| line["status"] == 429).await;
    assert_eq!((&line["owner"]["tenant"], &line["stage"]), (&json!("acme"), &json!("admit")), "{line}");
    assert_eq!(
        gateway.metric(&format!("comfygate_refusals_total{{code=\"{}\",stage=\"admit\"}}", refused.code())).await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_come_back_with_time() {
    let gateway = Gateway::builder()
        .stand_ins(1)
        .plan("policy = \"default\"\nrate = { per_second = 1, burst = 1 }")
        .start()
        .await;
    let acme = gateway.client("acme");
    submitted(&acme).await.expect(200);
    eventually("a token comes back", || async { (submitted(&acme).await.status == 200).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_general_request_rate_is_limited_and_signed_files_are_not() {
    let plan = "policy = \"default\"\nrequests = { per_second = 1, burst = 20 }";
    let gateway = Gateway::builder().stand_ins(1).plan(plan).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(acme.get("/queue").await.status.as_u16());
    }
    assert_eq!(statuses[..20], [200; 20]);
    assert!(statuses.contains(&429));
    bravo.get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_holds_at_most_so_many_jobs() {
    let plan = "policy = \"default\"\nrate = { per_second = 1000, burst = 1000 }\nactive_jobs_max = 2";
    let gateway = Gateway::builder().stand_ins(1).plan(plan).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    for _ in 0..2 {
        acme.submit(workflows::slow("slow", 150, 400, false)).await;
    }
    let refused = submitted(&acme).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    submitted(&bravo).await.expect(200);
    acme.post("/queue", &json!({"clear": true})).await.expect(200);
    submitted(&acme).await.expect(200);
    acme.call(Method::POST, "/interrupt", &[], Vec::new().into()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_capped_just_at_the_limit() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nprompt_bytes_max = \"64KiB\"").start().await;
    let acme = gateway.client("acme");
    let padded = |bytes: usize| {
        let mut body = json!({"prompt": workflows::quick("x")}).to_string().into_bytes();
        body.resize(bytes, b' ');
        body
    };
    let fits = acme.post_bytes("/prompt", "application/json", padded(64 << 10)).await.expect(200).json();
    // A job reaches its backend some time after its answer.
    acme.finished(fits["prompt_id"].as_str().unwrap()).await;
    let refused = acme.post_bytes("/prompt", "application/json", padded((64 << 10) + 1)).await;
    assert_eq!(refused.status, 413, "{}", refused.text());
    assert!(
        refused.json()["error"]["message"].as_str().unwrap().contains("65536"),
        "says how much: {}",
        refused.text()
    );
    let body = padded((64 << 10) + 1);
    let head = format!("POST /prompt HTTP/1.1\r\nhost: {}\r\n{}", acme.authority(), acme.credential_lines());
    let mut chunked =
        format!("{head}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len())
            .into_bytes();
    chunked.extend_from_slice(&body);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    assert_eq!(acme.raw(&chunked).await.unwrap().status, 413, "without a declared length");
    let list = json!({"delete": ["a".repeat(100 << 10)]});
    acme.post("/queue", &list).await.expect(413);
    assert_eq!(gateway.stand_ins()[0].submissions().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_arrive_in_time_is_408() {
    let gateway = Gateway::builder().stand_ins(1).gateway_toml("[limits]\nbody_deadline = \"1s\"").start().await;
    let acme = gateway.client("acme");
    let head = format!("POST /prompt HTTP/1.1\r\nhost: {}\r\n{}", acme.authority(), acme.credential_lines());
    let mut connection = acme.raw_connection().await;
    connection.write(format!("{head}content-type: application/json\r\ncontent-length: 100\r\n\r\n{{").as_bytes()).await;
    assert_eq!(connection.response().await.unwrap().status, 408);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_at_most_so_many_sockets() {
    let gateway = Gateway::builder().stand_ins(1).plan("policy = \"default\"\nwebsockets_max = 2").start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let mut first = acme.socket(Some("a")).await;
    let mut second = acme.socket(Some("b")).await;
    first.sid().await;
    second.sid().await;
    let refused = acme.try_socket("/ws", Some("c"), &[]).await.unwrap_err();
    assert_eq!(refused, 429);
    bravo.socket(None).await.sid().await;
    drop(first);
    eventually("the place is free again", || async { acme.try_socket("/ws", Some("c"), &[]).await.ok().map(drop) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_only_announced_takes_no_room_from_others() {
    let gateway = Gateway::builder()
        .stand_ins(1)
        .gateway_toml("[limits]\nprompt_bytes_max = \"1MiB\"\nbodies_bytes_max = \"1MiB\"\n")
        .start()
        .await;
    let acme = gateway.client("acme");
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut connection = acme.raw_connection().await;
        let credential = acme.credential_lines();
        let head = format!(
            "POST /prompt HTTP/1.1\r\nhost: {}\r\n{credential}content-type: application/json\r\ncontent-length: 1000000\r\n\r\n{{",
            acme.authority()
        );
        connection.write(head.as_bytes()).await;
        idle.push(connection);
    }
    gateway.client("bravo").submit(workflows::quick("room")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn static_files_are_outside_the_request_rate_and_sockets_inside_it() {
    let gateway = Gateway::builder().stand_ins(1).plan("requests = { per_second = 0.001, burst = 3 }").start().await;
    let acme = gateway.client("acme");
    for _ in 0..6 {
        acme.get("/assets/none.js").await.expect(404);
    }
    let mut opened = Vec::new();
    for _ in 0..3 {
        opened.push(acme.try_socket("/ws", None, &[]).await.unwrap());
    }
    assert_eq!(acme.try_socket("/ws", None, &[]).await.map(|_| ()), Err(429));
}
