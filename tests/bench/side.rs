//! One of the two ways to the same ComfyUI: a kept connection for calls, and an open WebSocket.

use bytes::Bytes;
use comfygate_tests::deadline::within;
use comfygate_tests::tls::{self, Trust};
use comfygate_tests::{Client, Gateway};
use futures_util::{Stream, StreamExt};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

const CLIENT_ID: &str = "bench";

type Messages = Box<dyn Stream<Item = Result<Message, Error>> + Send + Unpin>;

/// A way to ComfyUI.
pub(crate) struct Side {
    address: SocketAddr,
    /// Present when the way leads through the gateway.
    gate: Option<(Trust, Client)>,
    sender: SendRequest<Full<Bytes>>,
    messages: Messages,
}

impl Side {
    /// Straight to a stand-in.
    pub(crate) async fn directly(address: SocketAddr) -> Side {
        Side::open(address, None).await
    }

    /// Through the gateway, as a tenant.
    pub(crate) async fn through(gateway: &Gateway) -> Side {
        Side::open(gateway.addresses().https, Some((gateway.trust(), gateway.client("acme")))).await
    }

    async fn open(address: SocketAddr, gate: Option<(Trust, Client)>) -> Side {
        let sender = sender(address, gate.as_ref()).await;
        let messages = messages(address, gate.as_ref()).await;
        Side { address, gate, sender, messages }
    }

    /// Submits a workflow; gives its prompt id, and how long the answer took.
    pub(crate) async fn submit(&mut self, workflow: &Value) -> (String, Duration) {
        let body = Bytes::from(json!({ "prompt": workflow, "client_id": CLIENT_ID }).to_string());
        let (answer, elapsed) = self.call("POST", "/prompt", body).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        (answer["prompt_id"].as_str().unwrap().to_owned(), elapsed)
    }

    /// Submits a workflow; gives the time until its first `progress` is heard, after its end.
    pub(crate) async fn first_progress(&mut self, workflow: &Value) -> Duration {
        let start = Instant::now();
        let (prompt, _) = self.submit(workflow).await;
        self.until(&prompt, |kind, _| kind == "progress").await;
        let elapsed = start.elapsed();
        self.until_end_of(&prompt).await;
        elapsed
    }

    /// Posts a body of this type; gives how long the answer took.
    pub(crate) async fn post(&mut self, path: &str, content_type: &str, body: Bytes) -> Duration {
        self.call_as("POST", path, &[("content-type", content_type)], body).await.1
    }

    /// Gets an answer with these headers; gives how long it took.
    pub(crate) async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Duration {
        self.call_as("GET", path, headers, Bytes::new()).await.1
    }

    /// Fetches a file, whole.
    pub(crate) async fn fetch(&mut self, path: &str) -> Duration {
        let (body, elapsed) = self.call("GET", path, Bytes::new()).await;
        assert!(body.starts_with(b"\x89PNG"), "{path} is no picture");
        elapsed
    }

    /// The history entry of a finished prompt.
    pub(crate) async fn history(&mut self, prompt: &str) -> Value {
        let (body, _) = self.call("GET", &format!("/history/{prompt}"), Bytes::new()).await;
        let mut history: Value = serde_json::from_slice(&body).unwrap();
        history[prompt].take()
    }

    /// Where a file object's bytes are: by name directly, by signed URL through the gateway.
    pub(crate) fn path_of(&self, file: &Value) -> String {
        let text = |key: &str| file[key].as_str().unwrap();
        match &self.gate {
            Some((_, client)) => client.path_of(text("url")),
            None => {
                format!("/view?filename={}&subfolder={}&type={}", text("filename"), text("subfolder"), text("type"))
            }
        }
    }

    /// Reads messages until the prompt is over.
    pub(crate) async fn until_end_of(&mut self, prompt: &str) {
        self.until(prompt, |kind, data| kind == "executing" && data["node"].is_null()).await;
    }

    async fn until(&mut self, prompt: &str, is_it: impl Fn(&str, &Value) -> bool) {
        loop {
            let message = within("a WebSocket message", self.messages.next()).await.unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["data"]["prompt_id"] == prompt && is_it(message["type"].as_str().unwrap(), &message["data"]) {
                return;
            }
        }
    }

    /// One call on the kept connection, timed from sending to the last byte of the answer.
    async fn call(&mut self, method: &str, path: &str, body: Bytes) -> (Bytes, Duration) {
        let kind = [("content-type", "application/json")];
        self.call_as(method, path, if body.is_empty() { &[] } else { &kind }, body).await
    }

    async fn call_as(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> (Bytes, Duration) {
        // Whoever keeps connections closes one now and then; opening the next is not what is measured.
        if self.sender.ready().await.is_err() {
            self.sender = sender(self.address, self.gate.as_ref()).await;
        }
        let mut request = Request::builder().method(method).uri(path).header("host", authority(self.address));
        if let Some((_, client)) = self.gate.as_ref().filter(|_| !path.starts_with("/gate/files/")) {
            for (name, value) in client.credential() {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).unwrap();
        let start = Instant::now();
        let response = within(path, self.sender.send_request(request)).await.unwrap();
        let status = response.status();
        let body = within(path, response.into_body().collect()).await.unwrap().to_bytes();
        let elapsed = start.elapsed();
        assert!(
            matches!(status, StatusCode::OK | StatusCode::NOT_MODIFIED),
            "{method} {path}: {}",
            String::from_utf8_lossy(&body)
        );
        (body, elapsed)
    }
}

fn authority(address: SocketAddr) -> String {
    format!("localhost:{}", address.port())
}

async fn sender(address: SocketAddr, gate: Option<&(Trust, Client)>) -> SendRequest<Full<Bytes>> {
    match gate {
        Some((trust, _)) => handshake(tls::connect(address, Ipv4Addr::LOCALHOST, trust, &["http/1.1"]).await).await,
        None => handshake(tls::connect_tcp(address, Ipv4Addr::LOCALHOST).await.unwrap()).await,
    }
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> SendRequest<Full<Bytes>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn messages(address: SocketAddr, gate: Option<&(Trust, Client)>) -> Messages {
    let scheme = if gate.is_some() { "wss" } else { "ws" };
    let mut request =
        format!("{scheme}://{}/ws?clientId={CLIENT_ID}", authority(address)).into_client_request().unwrap();
    match gate {
        Some((trust, client)) => {
            for (name, value) in client.credential() {
                request
                    .headers_mut()
                    .append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let stream = tls::connect(address, Ipv4Addr::LOCALHOST, trust, &["http/1.1"]).await;
            Box::new(client_async(request, stream).await.unwrap().0)
        }
        None => {
            let stream = tls::connect_tcp(address, Ipv4Addr::LOCALHOST).await.unwrap();
            Box::new(client_async(request, stream).await.unwrap().0)
        }
    }
}
