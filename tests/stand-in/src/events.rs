//! The WebSocket side: one publish loop for all sockets, with ComfyUI's faults (server.py 0.8.0).
//!
//! - A second socket of the same name takes over; when the first closes, the second is forgotten and stays silent.
//! - The loop awaits each send, so one client that stops reading stalls every other one.
//! - A `client_id` that Python cannot hash ends the process.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use indexmap::IndexMap;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::json::{Json, dict};

/// The sending half of one client's socket.
pub type Sink = Arc<tokio::sync::Mutex<SplitSink<WebSocketStream<TokioIo<Upgraded>>, Message>>>;

/// Whom an event is for: what Python does with the `client_id` it was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Audience {
    /// No client id: everybody.
    All,
    /// The socket of that name, if there is one.
    One(String),
    /// A number or boolean: hashable, but no socket has such a name.
    Nobody,
    /// A list or dict: `TypeError` in the publish loop, and with it the end of the process.
    Unhashable,
}

impl Audience {
    /// The audience of a prompt's `extra_data.client_id`.
    pub fn of(client_id: &Json) -> Audience {
        match client_id {
            Json::Null => Audience::All,
            Json::Str(name) => Audience::One(name.clone()),
            Json::List(_) | Json::Dict(_) => Audience::Unhashable,
            Json::Bool(_) | Json::Int(_) | Json::Float(_) => Audience::Nobody,
        }
    }
}

/// One event on its way to the sockets.
#[derive(Debug)]
pub struct Outgoing {
    message: Message,
    audience: Audience,
}

#[derive(Debug)]
struct Socket {
    sink: Sink,
    /// What the client announced in its first message.
    features: Json,
}

/// All sockets of one process.
#[derive(Debug)]
pub struct Hub {
    sockets: Mutex<IndexMap<String, Socket>>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
}

/// The publish loop met an audience that Python cannot hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessExits;

impl Hub {
    /// The hub and the queue that its publish loop reads. Unbounded, as ComfyUI's own queue is.
    pub fn new() -> (Hub, mpsc::UnboundedReceiver<Outgoing>) {
        let (outgoing, queue) = mpsc::unbounded_channel();
        (Hub { sockets: Mutex::default(), outgoing }, queue)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, IndexMap<String, Socket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a JSON event.
    pub fn send(&self, event: &str, data: Json, audience: Audience) {
        let message = Message::text(envelope(event, data));
        // The loop has ended only when the process has: nobody is left to hear it.
        let _ = self.outgoing.send(Outgoing { message, audience });
    }

    /// Queues a binary event: the number in front, big-endian.
    pub fn send_binary(&self, event: u32, payload: &[u8], audience: Audience) {
        let mut bytes = event.to_be_bytes().to_vec();
        bytes.extend_from_slice(payload);
        let _ = self.outgoing.send(Outgoing { message: Message::binary(bytes), audience });
    }

    /// Enters a socket; one of the same name is replaced without a word.
    pub fn enter(&self, name: &str, sink: Sink) {
        let mut sockets = self.lock();
        sockets.shift_remove(name);
        sockets.insert(name.to_owned(), Socket { sink, features: Json::Null });
    }

    /// Forgets whatever socket has that name now, be it another one than the one that closed.
    pub fn leave(&self, name: &str) {
        self.lock().shift_remove(name);
    }

    /// Drops all sockets: the process is gone.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Keeps what the client announced.
    pub fn set_features(&self, name: &str, features: Json) {
        if let Some(socket) = self.lock().get_mut(name) {
            socket.features = features;
        }
    }

    /// Did the client of this prompt announce `supports_preview_metadata`?
    pub fn supports_preview_metadata(&self, audience: &Audience) -> bool {
        let Audience::One(name) = audience else { return false };
        let sockets = self.lock();
        let announced = sockets.get(name).and_then(|socket| socket.features.get("supports_preview_metadata"));
        announced.is_some_and(|flag| *flag == Json::Bool(true))
    }

    /// Sends straight to the socket that has this name now, past the queue, as the connection handler does.
    pub async fn send_now(&self, event: &str, data: Json, name: &str) {
        let sink = self.lock().get(name).map(|socket| Arc::clone(&socket.sink));
        if let Some(sink) = sink {
            let _ = sink.lock().await.send(Message::text(envelope(event, data))).await;
        }
    }

    /// Delivers one event. A socket that fails is skipped; it is removed when its own handler notices.
    pub async fn deliver(&self, outgoing: Outgoing) -> Result<(), ProcessExits> {
        let sinks: Vec<Sink> = match &outgoing.audience {
            Audience::All => self.lock().values().map(|socket| Arc::clone(&socket.sink)).collect(),
            Audience::One(name) => self.lock().get(name).map(|socket| Arc::clone(&socket.sink)).into_iter().collect(),
            Audience::Nobody => Vec::new(),
            Audience::Unhashable => return Err(ProcessExits),
        };
        for sink in sinks {
            let _ = sink.lock().await.send(outgoing.message.clone()).await;
        }
        Ok(())
    }
}

fn envelope(event: &str, data: Json) -> String {
    dict([("type", Json::from(event)), ("data", data)]).dumps()
}

/// What the server announces in `GET /features` and in answer to a client's `feature_flags`.
pub fn server_features() -> Json {
    let manager = dict([("manager", dict([("supports_v4", Json::Bool(true))]))]);
    dict([
        ("supports_preview_metadata", Json::Bool(true)),
        ("max_upload_size", Json::Int(100 * 1024 * 1024)),
        ("extension", manager),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_follows_what_python_can_hash() {
        assert_eq!(Audience::of(&Json::Null), Audience::All);
        assert_eq!(Audience::of(&Json::from("a")), Audience::One("a".into()));
        assert_eq!(Audience::of(&Json::Int(1)), Audience::Nobody);
        assert_eq!(Audience::of(&Json::List(vec![])), Audience::Unhashable);
        assert_eq!(Audience::of(&dict([])), Audience::Unhashable);
    }

    #[tokio::test]
    async fn an_unhashable_audience_ends_the_process_and_a_number_does_not() {
        let (hub, mut queue) = Hub::new();
        hub.send("x", Json::Null, Audience::Nobody);
        hub.send("x", Json::Null, Audience::Unhashable);
        assert_eq!(hub.deliver(queue.recv().await.unwrap()).await, Ok(()));
        assert_eq!(hub.deliver(queue.recv().await.unwrap()).await, Err(ProcessExits));
    }
}
