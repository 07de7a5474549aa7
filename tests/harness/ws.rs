//! A WebSocket client that keeps what it hears.

use crate::deadline::{DEADLINE, within};
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// What a socket heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `{"type": …, "data": …}`.
    Json {
        /// `type`.
        kind: String,
        /// `data`.
        data: Value,
    },
    /// Binary 1: a preview without metadata.
    Preview {
        /// 1 JPEG, 2 PNG.
        format: u32,
        /// The picture.
        image: Vec<u8>,
    },
    /// Binary 4: a preview with metadata.
    PreviewWithMetadata {
        /// The metadata.
        metadata: Value,
        /// The picture.
        image: Vec<u8>,
    },
    /// Another binary message.
    Binary(Vec<u8>),
    /// The gateway closed, with this code.
    Closed(Option<u16>),
}

impl Event {
    /// The `type` of a JSON message; `preview` for both kinds of preview.
    pub fn kind(&self) -> &str {
        match self {
            Event::Json { kind, .. } => kind,
            Event::Preview { .. } | Event::PreviewWithMetadata { .. } => "preview",
            Event::Binary(_) => "binary",
            Event::Closed(_) => "closed",
        }
    }

    /// The data of a JSON message; null for others.
    pub fn data(&self) -> Value {
        match self {
            Event::Json { data, .. } => data.clone(),
            Event::PreviewWithMetadata { metadata, .. } => metadata.clone(),
            _ => Value::Null,
        }
    }

    /// The prompt that it names.
    pub fn prompt_id(&self) -> Option<String> {
        Some(self.data().get("prompt_id")?.as_str()?.to_owned())
    }

    fn parsed(message: Message) -> Option<Event> {
        match message {
            Message::Text(text) => {
                let mut message: Value = serde_json::from_str(&text).unwrap();
                let kind = message["type"].as_str().unwrap().to_owned();
                Some(Event::Json { kind, data: message["data"].take() })
            }
            Message::Binary(bytes) => Some(binary(&bytes)),
            Message::Close(frame) => Some(Event::Closed(frame.map(|frame| frame.code.into()))),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => None,
        }
    }
}

fn binary(bytes: &[u8]) -> Event {
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    match number(0) {
        1 => Event::Preview { format: number(4), image: bytes[8..].to_vec() },
        4 => {
            let end = 8 + number(4) as usize;
            let metadata = serde_json::from_slice(&bytes[8..end]).unwrap();
            Event::PreviewWithMetadata { metadata, image: bytes[end..].to_vec() }
        }
        _ => Event::Binary(bytes.to_vec()),
    }
}

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TlsStream<TcpStream>>,
    /// The `sid` of the first `status`, once it was read.
    sid: Option<String>,
}

impl Socket {
    /// Asks for the upgrade.
    ///
    /// # Errors
    /// The status of the refusal.
    pub async fn open(
        stream: TlsStream<TcpStream>,
        authority: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Socket, u16> {
        match Socket::try_open(stream, authority, path, headers).await {
            Ok(socket) => Ok(socket),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("the upgrade failed: {error}"),
        }
    }

    /// Asks for the upgrade of somebody who may go away meanwhile.
    ///
    /// # Errors
    /// The refusal, or how the connection failed.
    pub async fn try_open(
        stream: TlsStream<TcpStream>,
        authority: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Socket, Error> {
        let mut request = format!("wss://{authority}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        let (stream, _) = client_async(request, stream).await?;
        Ok(Socket { stream, sid: None })
    }

    /// The next message; `None` if none comes within this time.
    pub async fn event_within(&mut self, time: std::time::Duration) -> Option<Event> {
        tokio::time::timeout(time, self.next_event()).await.ok()
    }

    /// The next message.
    ///
    /// # Panics
    /// When there is none within the deadline.
    pub async fn next_event(&mut self) -> Event {
        loop {
            let message = match within("the next WebSocket message", self.stream.next()).await {
                Some(Ok(message)) => message,
                None | Some(Err(_)) => return Event::Closed(None),
            };
            if let Some(event) = Event::parsed(message) {
                if let Some(sid) = event.data().get("sid").and_then(Value::as_str) {
                    self.sid = Some(sid.to_owned());
                }
                return event;
            }
        }
    }

    /// Reads the first message, which is `status` with the socket's `sid`, and gives that.
    ///
    /// # Panics
    /// When another message comes first.
    pub async fn sid(&mut self) -> String {
        if self.sid.is_none() {
            let first = self.next_event().await;
            assert_eq!(first.kind(), "status", "{first:?}");
        }
        self.sid.clone().expect("the first status has a sid")
    }

    /// All messages up to one that `is_last` takes, that one included.
    ///
    /// # Panics
    /// When the socket closes or falls silent before; the message tells what came.
    pub async fn until(&mut self, what: &str, is_last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut heard: Vec<Event> = Vec::new();
        loop {
            let next = tokio::time::timeout(DEADLINE, self.next_event()).await;
            let Ok(event) = next else { panic!("waiting for {what}, heard only {:?}", kinds(&heard)) };
            let (over, last) = (matches!(event, Event::Closed(_)), is_last(&event));
            heard.push(event);
            if last {
                return heard;
            }
            assert!(!over, "closed before {what}: {:?}", heard);
        }
    }

    /// All messages up to the end of a prompt: `executing` with node null.
    pub async fn until_end_of(&mut self, prompt: &str) -> Vec<Event> {
        let is_end = |event: &Event| {
            event.kind() == "executing"
                && event.data()["node"].is_null()
                && event.prompt_id().as_deref() == Some(prompt)
        };
        self.until(&format!("the end of {prompt}"), is_end).await
    }

    /// What was heard until the gateway answers a ping that is sent now: whatever it had sent before is among it.
    ///
    /// # Panics
    /// When it closes, or does not answer within the deadline.
    pub async fn heard_so_far(&mut self) -> Vec<Event> {
        within("sending", self.stream.send(Message::Ping("fence".into()))).await.unwrap();
        let mut heard = Vec::new();
        loop {
            match within("a pong", self.stream.next()).await {
                Some(Ok(Message::Pong(_))) => return heard,
                Some(Ok(message)) => heard.extend(Event::parsed(message)),
                end => panic!("closed before the pong: {end:?}, heard {heard:?}"),
            }
        }
    }

    /// Sends a JSON message.
    pub async fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Sends a text message. That the gateway closed meanwhile is heard by the next read.
    pub async fn send_text(&mut self, text: &str) {
        let _ = within("sending", self.stream.send(Message::text(text))).await;
    }
}

/// The kinds of messages, in order, runs of one kind as one.
pub fn kinds(events: &[Event]) -> Vec<String> {
    let mut kinds: Vec<String> = events.iter().map(|event| event.kind().to_owned()).collect();
    kinds.dedup();
    kinds
}
