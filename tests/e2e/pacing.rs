//! Stage 4 for pages: a batch that is posted one by one waits for its turn instead of failing.

use comfygate_tests::{Browser, Client, Gateway, eventually, workflows};
use serde_json::{Value, json};

fn prompt() -> Value {
    json!({"prompt": workflows::quick("x")})
}

/// Limits that nobody set, for both tenants.
const DEFAULT_LIMITS: &str = "policy = \"default\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_posts_a_batch_of_a_hundred_one_by_one_at_the_default_limits() {
    let gateway = Gateway::builder().plan(DEFAULT_LIMITS).start().await;
    let page = Browser::of(&gateway, "acme").await.page();
    for number in 0..100 {
        let answer = page.post("/prompt", &prompt()).await;
        assert_eq!(answer.status, 200, "prompt {number}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_told_429_at_once_unless_its_plan_says_otherwise() {
    // Nobody is slow enough here for a second token, but the one who waits for it.
    let plan = "policy = \"default\"\nrate = { per_second = 0.01, burst = 1 }";
    let patient = "[[tenant]]\nid = \"patient\"\nplan = \"usual\"\nrate = { per_second = 1, burst = 1 }\npace = { programs = \"5s\" }";
    let gateway = Gateway::builder().stand_ins(1).plan(plan).tenants_toml(patient).start().await;
    let (acme, patient) = (gateway.client("acme"), gateway.client("patient"));
    for client in [&acme, &patient] {
        client.post("/prompt", &prompt()).await.expect(200);
    }
    acme.post("/prompt", &prompt()).await.expect(429);
    patient.post("/prompt", &prompt()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_would_come_too_late_is_429_at_once_with_its_time() {
    let gateway = Gateway::builder()
        .stand_ins(1)
        .plan("policy = \"default\"\nrate = { per_second = 0.05, burst = 1 }")
        .start()
        .await;
    let page = Browser::of(&gateway, "acme").await.page();
    page.post("/prompt", &prompt()).await.expect(200);
    let refused = page.post("/prompt", &prompt()).await.expect(429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((10..=20).contains(&wait), "a token comes every 20 s: {wait}");
}

/// Sends a whole submission and does not wait for the answer.
async fn sent(page: &Client) -> comfygate_tests::RawConnection {
    let body = prompt().to_string();
    let head = format!(
        "POST /prompt HTTP/1.1\r\nhost: {}\r\n{}content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        page.authority(),
        page.credential_lines(),
        body.len()
    );
    let mut connection = page.raw_connection().await;
    connection.write(format!("{head}{body}").as_bytes()).await;
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_gives_up_its_place() {
    let gateway = Gateway::builder()
        .stand_ins(1)
        .plan("policy = \"default\"\nrate = { per_second = 0.25, burst = 1 }")
        .start()
        .await;
    let page = Browser::of(&gateway, "acme").await.page();
    page.post("/prompt", &prompt()).await.expect(200);
    // One waits for up to 4 s, so the turn of another would come after 8: it is refused until the first has left. Where the other one overtook it on its way, both try again.
    let waiting = eventually("the first stands in the line", || async {
        let waiting = sent(&page).await;
        (page.post("/prompt", &prompt()).await.status == 429).then_some(waiting)
    })
    .await;
    drop(waiting);
    let accepted = || async {
        page.get("/api/jobs").await.expect(200).json().pointer("/pagination/total").and_then(Value::as_u64).unwrap()
    };
    let before = accepted().await;
    eventually("another gets its turn", || async {
        (page.post("/prompt", &prompt()).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(accepted().await, before + 1, "the one that left was accepted");
}
