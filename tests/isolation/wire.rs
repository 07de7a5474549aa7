//! Raw requests of the bypass catalogue, and that nothing of a refused one arrives at a backend.

use comfygate_tests::{Client, Gateway, StandIn};
use http::Method;
use serde_json::Value;

/// What the gateway asks a backend of its own accord.
const OWN_QUESTIONS: &[&str] = &["/prompt", "/queue", "/history", "/object_info", "/system_stats", "/ws"];

/// Two tenants before one backend.
pub async fn two() -> (Gateway, Client, Client) {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    (gateway, acme, bravo)
}

/// Requests that a backend got since `before`, but for the gateway's own questions.
pub fn strange_requests(backend: &StandIn, before: usize) -> Vec<String> {
    let requests = backend.requests();
    let own = |method: &Method, path: &str| {
        let path = path.split('?').next().unwrap_or_default();
        method == Method::GET && (OWN_QUESTIONS.contains(&path) || path.starts_with("/history/"))
    };
    let strange = requests.iter().skip(before).filter(|seen| !own(&seen.0, &seen.1));
    strange.map(|seen| format!("{} {}", seen.0, seen.1)).collect()
}

/// A request with the caller's credential, as bytes.
pub fn request(client: &Client, line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{line}\r\nhost: {}\r\n{}{headers}\r\n", client.authority(), client.credential_lines());
    [head.as_bytes(), body].concat()
}

/// Sends each request on a connection of its own: one of the statuses, a stable code, and no trace at the backend.
pub async fn refused(gateway: &Gateway, client: &Client, requests: Vec<(String, Vec<u8>)>, statuses: &[u16]) {
    let backend = &gateway.stand_ins()[0];
    let before = backend.requests().len();
    assert!(!requests.is_empty());
    for (what, bytes) in requests {
        let answer = client.raw(&bytes).await.unwrap_or_else(|| panic!("{what}: closed without an answer"));
        assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.head, answer.text());
        assert!(!answer.code().is_empty() || answer.body.is_empty(), "{what}: no stable code: {}", answer.text());
    }
    assert_eq!(strange_requests(backend, before), [""; 0]);
    assert!(backend.submissions().is_empty(), "{:?}", backend.submissions());
}

/// `GET`s of these targets.
pub fn gets(client: &Client, targets: &[&str]) -> Vec<(String, Vec<u8>)> {
    let get = |target: &&str| ((*target).to_owned(), request(client, &format!("GET {target} HTTP/1.1"), "", b""));
    targets.iter().map(get).collect()
}

/// `POST`s of JSON to these targets.
pub fn posts(client: &Client, targets: &[&str], body: &Value) -> Vec<(String, Vec<u8>)> {
    let body = body.to_string();
    let headers = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    let post = |target: &&str| {
        ((*target).to_owned(), request(client, &format!("POST {target} HTTP/1.1"), &headers, body.as_bytes()))
    };
    targets.iter().map(post).collect()
}
