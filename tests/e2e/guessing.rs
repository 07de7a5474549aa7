//! Who guesses at credentials waits; who has a good one does not.

use bytes::Bytes;
use comfygate_tests::{Client, Gateway};
use http::Method;

const FREE: usize = 4;

async fn gateway() -> Gateway {
    Gateway::builder().stand_ins(1).gateway_toml(&format!("[limits]\nfailed_logins_free = {FREE}")).start().await
}

/// Fails until it has to wait, however slow the machine is; how often it was told 401 before.
async fn until_it_waits(client: &Client) -> usize {
    for told in 0..50 {
        let answer = client.get("/queue").await;
        if answer.status == 429 {
            assert_eq!(answer.code(), "too_many_failed_logins");
            let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=900).contains(&wait), "{wait}");
            return told;
        }
        assert_eq!(answer.code(), "unauthenticated");
    }
    panic!("fifty failures in a row cost nothing");
}

/// The key with another secret, and the checksum that belongs to it.
fn with_another_secret(key: &str) -> String {
    let body = format!("{}{}", &key[..16], "0".repeat(27));
    let mut crc = flate2::Crc::new();
    crc.update(body.as_bytes());
    let mut rest = crc.sum();
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[rest as usize % 62];
        rest /= 62;
    }
    body + std::str::from_utf8(&digits).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_401_while_they_are_free_and_429_then_and_a_good_key_passes_all_along() {
    let gateway = gateway().await;
    let here = gateway.stranger().from_address([127, 9, 9, 9]);
    let good = here.bearer(&gateway.key("acme"));
    assert!(until_it_waits(&here.bearer("wrong")).await > FREE, "the first one after the free ones is told 401 still");
    good.get("/queue").await.expect(200);
    good.socket(Some("page")).await.sid().await;
    // Nobody without a credential waits for what others guess.
    here.get("/queue").await.expect(401);
    gateway.client("acme").get("/queue").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_wrong_credential_has_its_sender_wait_and_no_other_kind() {
    let gateway = gateway().await;
    let here = gateway.stranger().from_address([127, 9, 9, 10]);
    for guesser in [
        here.bearer("a.b.c"),
        here.bearer(&with_another_secret(&gateway.key("acme"))),
        here.with_headers(&[("authorization", "Digest x")]),
    ] {
        assert!(until_it_waits(&guesser).await > FREE);
    }
    let text = gateway.metrics().await;
    for kind in ["token", "key", "malformed"] {
        let series = format!("comfygate_failed_logins_total{{kind=\"{kind}\"}}");
        assert!(gateway.metric(&series).await > FREE as f64, "{kind}: {text}");
    }
    assert!(gateway.metric("comfygate_logins_blocked_total{by=\"account\"}").await >= 3.0, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_with_a_wrong_credential_waits_as_any_request_does() {
    let gateway = gateway().await;
    let guesser = gateway.stranger().from_address([127, 9, 9, 11]).bearer("wrong");
    let mut statuses = Vec::new();
    for _ in 0..50 {
        statuses.push(guesser.try_socket("/ws", Some("page"), &[]).await.err());
        if statuses.last() == Some(&Some(429)) {
            break;
        }
    }
    let free = statuses.iter().filter(|status| **status == Some(401)).count();
    assert!(free > FREE && statuses.last() == Some(&Some(429)), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_login_form_waits_too_and_takes_a_good_key() {
    let gateway = gateway().await;
    let here = gateway.stranger().from_address([127, 9, 9, 12]);
    let post = |key: String| {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-origin")];
        let here = here.clone();
        async move { here.call(Method::POST, "/gate/login", &headers, Bytes::from(format!("key={key}"))).await }
    };
    let mut told = Vec::new();
    while told.len() < 50 && told.last() != Some(&429) {
        told.push(post("hunter2".to_owned()).await.status.as_u16());
    }
    assert!(told.len() > FREE && told.last() == Some(&429), "{told:?}");
    post(gateway.key("acme")).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_tells_the_first_failure_and_each_wait_and_no_secret() {
    let gateway = gateway().await;
    let key = gateway.key("acme");
    let guesser = gateway.stranger().from_address([127, 9, 9, 13]).bearer("wrong");
    until_it_waits(&guesser).await;
    let is_ours = |line: &serde_json::Value| line["event"] == "login_failed" && line["client"] == "127.9.9.13";
    let first = gateway.audited("the first failure", |line| is_ours(line)).await;
    assert_eq!((first["kind"].as_str(), first.get("by")), (Some("token"), None), "{first}");
    let wait = gateway.audited("the wait", |line| is_ours(line) && line["by"] == "account").await;
    assert_eq!(wait["retry_after_seconds"], 1, "{wait}");
    let lines: Vec<_> = gateway.audit().into_iter().filter(|line| is_ours(line)).collect();
    assert!(lines.iter().all(|line| !line.to_string().contains("wrong")), "{lines:?}");
    assert!(lines.len() < 10, "one line for each wait, not for each try: {lines:?}");
    // The key's public part is named, its secret is not.
    let forged = with_another_secret(&key);
    until_it_waits(&gateway.stranger().from_address([127, 9, 9, 14]).bearer(&forged)).await;
    let named = gateway.audited("the key", |line| line["client"] == "127.9.9.14" && line["by"] == "account").await;
    assert_eq!(named["account"], key.split('_').nth(1).unwrap(), "{named}");
    assert!(!named.to_string().contains(&forged[16..]), "{named}");
}
