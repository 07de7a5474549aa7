//! The control socket as a program of the operator's speaks to it.

use crate::{Gateway, RawConnection, raw::RawResponse};
use serde_json::Value;

/// Asks the control socket of a running gateway.
///
/// # Panics
/// When nobody answers.
pub async fn control(
    gateway: &Gateway,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> RawResponse {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: control\r\ncontent-length: {}\r\n", body.len());
    if !body.is_empty() {
        request.push_str("content-type: application/json\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut connection = RawConnection::unix(&gateway.state().join("control.sock")).await;
    connection.write(format!("{request}\r\n{body}").as_bytes()).await;
    connection.response().await.expect("the control socket answers")
}
