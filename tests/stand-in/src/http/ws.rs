//! `GET /ws`: the handshake and the reading half of a socket.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::Full;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::Call;
use super::answer::{Reply, set};
use super::server_features;
use crate::json::{Json, dict};
use crate::process::{Connected, Process};

/// Bytes of one incoming message (aiohttp's default).
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Switches to WebSocket and reads until the client leaves.
pub(crate) fn upgrade(mut call: Call, connected: Arc<Connected>) -> Reply {
    let upgrade = call.header("upgrade").map(str::to_owned);
    if !upgrade.as_deref().is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        let shown = upgrade.unwrap_or_else(|| "None".to_owned());
        let text = format!("No WebSocket UPGRADE hdr: {shown}\n Can \"Upgrade\" only to \"WebSocket\".");
        return Reply::text(StatusCode::BAD_REQUEST, text);
    }
    let Some(key) = call.request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes())) else {
        return Reply::text(StatusCode::BAD_REQUEST, "Handshake error: None");
    };
    let given = call.query("clientId").unwrap_or_default();
    let name = if given.is_empty() { uuid::Uuid::new_v4().simple().to_string() } else { given.to_owned() };
    let process = Arc::clone(&call.process);
    let upgraded = hyper::upgrade::on(&mut call.request);
    let owner = Arc::clone(&process);
    owner.spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let config = WebSocketConfig::default()
                .max_message_size(Some(MESSAGE_BYTES_MAX))
                .max_frame_size(Some(MESSAGE_BYTES_MAX));
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
            converse(&process, &name, socket).await;
        }
        drop(connected);
    });
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    set(&mut answer, UPGRADE, "websocket");
    set(&mut answer, CONNECTION, "upgrade");
    set(&mut answer, SEC_WEBSOCKET_ACCEPT, &key);
    Reply::Built(Box::new(answer))
}

async fn converse(process: &Process, name: &str, socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>) {
    let (sink, mut messages) = socket.split();
    process.hub.enter(name, Arc::new(tokio::sync::Mutex::new(sink)));
    if !process.shared().faults.sockets_are_silent() {
        let status = dict([("status", process.queue_info()), ("sid", name.into())]);
        process.hub.send_now("status", status, name).await;
        if let Some(node) = process.running_node_of(name) {
            process.hub.send_now("executing", dict([("node", node.into())]), name).await;
        }
    }
    let mut first = true;
    while let Some(Ok(message)) = messages.next().await {
        let Message::Text(text) = message else { continue };
        match Json::parse(text.as_str()) {
            Ok(Json::Dict(said)) => {
                if first && said.get("type").and_then(Json::as_str) == Some("feature_flags") {
                    process.hub.set_features(name, said.get("data").cloned().unwrap_or_else(|| dict([])));
                    if !process.shared().faults.sockets_are_silent() {
                        process.hub.send_now("feature_flags", server_features(process), name).await;
                    }
                }
                first = false;
            }
            Ok(_) => process.log("Error processing WebSocket message: no attribute 'get'\n"),
            Err(_) => process.log(&format!("Invalid JSON received from client {name}: {text}\n")),
        }
    }
    process.hub.leave(name);
}
