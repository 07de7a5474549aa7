//! A small HTTP client that sends paths as they are written, and a WebSocket client that keeps all it hears.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use comfygate_tests::{Client, headers};
use futures_util::{SinkExt, StreamExt};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// Longest wait for anything that must happen.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// One server under test: a ComfyUI by plain HTTP, or one tenant's view of a gateway by TLS with its key.
#[derive(Debug, Clone, Copy)]
pub enum Server {
    Plain(SocketAddr),
    Through(&'static Client),
}

/// A connection of either kind.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        parse(std::str::from_utf8(&self.body).expect("the answer is text"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header in ASCII"))
    }
}

/// JSON with Python's bare NaN and infinities, which become texts.
pub fn parse(text: &str) -> Value {
    let mut strict = String::with_capacity(text.len());
    // Every second piece between quotes that are not escaped is inside of a string.
    let (mut quoted, mut escaped, mut plain) = (false, false, String::new());
    for character in text.chars() {
        if quoted {
            strict.push(character);
            quoted = escaped || character != '"';
            escaped = character == '\\' && !escaped;
        } else {
            plain.push(character);
            if character == '"' {
                strict.push_str(&named(&plain));
                plain.clear();
                quoted = true;
            }
        }
    }
    strict.push_str(&named(&plain));
    serde_json::from_str(&strict).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

/// Python's numbers without a finite value, as texts.
fn named(plain: &str) -> String {
    let infinite = plain.replace("-Infinity", "<least>").replace("Infinity", "\"Infinity\"");
    infinite.replace("<least>", "\"-Infinity\"").replace("NaN", "\"NaN\"")
}

impl Server {
    pub fn is_gateway(&self) -> bool {
        matches!(self, Server::Through(_))
    }

    async fn wire(&self) -> Result<Box<dyn Wire>, Failed> {
        Ok(match self {
            Server::Plain(addr) => Box::new(TcpStream::connect(addr).await?),
            Server::Through(client) => Box::new(client.stream().await),
        })
    }

    fn authority(&self) -> String {
        match self {
            Server::Plain(addr) => addr.to_string(),
            Server::Through(client) => client.authority(),
        }
    }

    fn credential(&self) -> &[(String, String)] {
        match self {
            Server::Plain(_) => &[],
            Server::Through(client) => client.credential(),
        }
    }

    /// `Err` when the connection is refused, reset or closed before an answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
    ) -> Result<Answer, Failed> {
        let stream = self.wire().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let target: PathAndQuery = path.parse()?;
        let mut request = Request::builder().method(method).uri(Uri::from(target));
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", self.authority());
        }
        for (name, value) in self.credential().iter().chain(headers) {
            request = request.header(name, value);
        }
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        driver.abort();
        if self.is_gateway() {
            headers::check(&head.headers, &format!("{method} {path}"));
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Vec::new()).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        let body = body.to_string().into_bytes();
        let json = [("content-type".to_owned(), "application/json".to_owned())];
        let headers = if self.is_gateway() { &json[..] } else { &[] };
        self.send("POST", path, headers, body).await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// Submits a graph and returns its id.
    pub async fn submit(&self, prompt: Value, client_id: &str) -> String {
        let answer = self.post("/prompt", json!({"prompt": prompt, "client_id": client_id})).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.json()["prompt_id"].as_str().expect("an id").to_owned()
    }

    /// Waits until nothing runs or waits.
    pub async fn idle(&self) {
        self.until("the queue is empty", async |server| {
            server.get("/prompt").await.json()["exec_info"]["queue_remaining"] == 0
        })
        .await;
    }

    /// Waits until a prompt runs.
    pub async fn running(&self) {
        self.until("a prompt runs", async |server| {
            !server.get("/queue").await.json()["queue_running"].as_array().expect("a list").is_empty()
        })
        .await;
    }

    /// Asks again until it is so.
    pub async fn until(&self, what: &str, holds: impl AsyncFn(Server) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds(*self).await {
            assert!(Instant::now() < end, "it never came about that {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The history entry of a prompt, once it is there.
    pub async fn finished(&self, id: &str) -> Value {
        let path = format!("/history/{id}");
        self.until(&format!("{id} is finished"), async |server| server.get(&path).await.json().get(id).is_some()).await;
        self.get(&path).await.json()[id].clone()
    }

    /// A socket under this name, with its first `status` heard.
    pub async fn socket(&self, name: &str) -> Socket {
        let stream = self.wire().await.expect("the server listens");
        let scheme = if self.is_gateway() { "wss" } else { "ws" };
        let url = format!("{scheme}://{}/ws?clientId={name}", self.authority());
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in self.credential() {
            let name: http::HeaderName = name.parse().expect("the name of a header");
            request.headers_mut().insert(name, value.parse().expect("a header"));
        }
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("the handshake works");
        let (sink, mut messages) = socket.split();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        let reader = tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let event = match message {
                    Message::Text(text) => parse(text.as_str()),
                    Message::Binary(bytes) => json!({"binary": bytes.to_vec()}),
                    _ => continue,
                };
                kept.lock().expect("no panic under the lock").push(event);
            }
        });
        let socket = Socket { heard, sink: Box::new(sink), reader };
        socket.until("a first status", |events| !events.is_empty()).await;
        socket
    }
}

type Sink = futures_util::stream::SplitSink<tokio_tungstenite::WebSocketStream<Box<dyn Wire>>, Message>;

/// An open socket and all that it has heard.
pub struct Socket {
    heard: Arc<Mutex<Vec<Value>>>,
    sink: Box<Sink>,
    reader: JoinHandle<()>,
}

impl Socket {
    pub async fn say(&mut self, message: Value) {
        self.sink.send(Message::text(message.to_string())).await.expect("the socket is open");
    }

    /// Text messages as they are; binary ones as `{"binary": [bytes]}`.
    pub fn heard(&self) -> Vec<Value> {
        self.heard.lock().expect("no panic under the lock").clone()
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&[Value]) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds(&self.heard()) {
            assert!(Instant::now() < end, "never heard {what}: {:?}", self.heard());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for an event of a type.
    pub async fn until_event(&self, kind: &str) {
        self.until(kind, |events| events.iter().any(|event| event["type"] == kind)).await;
    }

    /// Waits for the end of the job: `executing` without a node.
    pub async fn until_end(&self) {
        self.until("the end of the job", |events| {
            events.iter().any(|event| event["type"] == "executing" && event["data"]["node"].is_null())
        })
        .await;
    }

    /// Waits for the end of a job whose start it heard, too.
    pub async fn until_end_of_what_began(&self) {
        self.until("the end of a job that began", |events| {
            let began = began(events);
            events.iter().any(|event| {
                event["type"] == "executing"
                    && event["data"]["node"].is_null()
                    && began.contains(&&event["data"]["prompt_id"])
            })
        })
        .await;
    }

    pub fn is_open(&self) -> bool {
        !self.reader.is_finished()
    }
}

/// The prompts whose start was heard.
pub fn began(events: &[Value]) -> Vec<&Value> {
    let starts = events.iter().filter(|event| event["type"] == "execution_start");
    starts.map(|event| &event["data"]["prompt_id"]).collect()
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
