//! The one WebSocket to a backend: under our secret sid, always read, opened again whenever it ends.
//!
//! A socket that nobody reads stalls ComfyUI's one publish loop (facts §3.6 K15), so frames are handed on at once and never wait here. ComfyUI
//! removes a socket by its name when it closes: a new one under the same sid can be orphaned when the old one is cleaned up late. Whoever
//! misses events after a change that must have caused one asks for [`UpstreamSocket::reconnect`] (facts §13).

use super::codec::UpstreamEvent;
use crate::endpoint::{BackendEndpoint, Stream};
use crate::ids::UpstreamClientId;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// One frame: a text output of many megabytes is one frame (facts §6.1), and so is a picture that is sent.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Between our pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A backend that answers no ping for this long is hung, or the connection dead. Its event loop may well stall for seconds (facts §2.6).
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// For the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries, at first and at most; doubled each time, and jittered so that many gateways do not come at once.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What others hold of a backend's socket.
#[derive(Debug, Clone)]
pub struct UpstreamSocket {
    connected: watch::Receiver<bool>,
    reconnect: Arc<Notify>,
    statuses: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl UpstreamSocket {
    /// Whether it is connected, and how that changes.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// `status` messages heard so far: grows whenever the backend's queue changes, unless the socket is orphaned.
    pub fn statuses(&self) -> u64 {
        self.statuses.load(Ordering::Relaxed)
    }

    /// Connections made so far: while this stays, no event was missed because of us.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Drops the connection and makes a new one.
    pub fn reconnect(&self) {
        self.reconnect.notify_one();
    }
}

/// The task behind an [`UpstreamSocket`].
pub struct Upstream<F> {
    endpoint: BackendEndpoint,
    client: UpstreamClientId,
    sink: F,
    connected: watch::Sender<bool>,
    reconnect: Arc<Notify>,
    statuses: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    stopping: watch::Receiver<bool>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("{0}")]
    Socket(#[from] Error),
    #[error("no answer for {SILENCE_MAX:?}")]
    Silent,
    #[error("a new connection was asked for")]
    Asked,
    #[error("closed by the backend")]
    Closed,
    #[error("the gateway stops")]
    Stopping,
}

impl<F: Fn(UpstreamEvent) + Send + Sync> Upstream<F> {
    /// A socket for that backend; `sink` is given every event and must not wait.
    pub fn new(
        endpoint: BackendEndpoint,
        client: UpstreamClientId,
        sink: F,
        stopping: watch::Receiver<bool>,
    ) -> (UpstreamSocket, Self) {
        let (connected, is_connected) = watch::channel(false);
        let (reconnect, statuses) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
        let connections = Arc::new(AtomicU64::new(0));
        let socket = UpstreamSocket {
            connected: is_connected,
            reconnect: Arc::clone(&reconnect),
            statuses: Arc::clone(&statuses),
            connections: Arc::clone(&connections),
        };
        (socket, Self { endpoint, client, sink, connected, reconnect, statuses, connections, stopping })
    }

    /// Keeps the socket until it is told to stop; then closes it in order, so that ComfyUI forgets it before a successor comes under the same name.
    pub async fn run(self) {
        let mut stopping = self.stopping.clone();
        let mut wait = BACKOFF.0;
        while !*stopping.borrow() {
            let began = Instant::now();
            let ended = self.connection().await;
            self.connected.send_replace(false);
            tracing::debug!(backend = %self.endpoint, reason = %ended, "upstream socket ended");
            // One that lived was a good one: the next try need not wait long.
            wait = if began.elapsed() > BACKOFF.1 { BACKOFF.0 } else { (wait * 2).min(BACKOFF.1) };
            tokio::select! {
                () = tokio::time::sleep(jittered(wait)) => {}
                () = stopped(&mut stopping) => return,
            }
        }
    }

    async fn connection(&self) -> Ended {
        let mut stopping = self.stopping.clone();
        let opened = tokio::select! {
            opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.open()) => opened,
            () = stopped(&mut stopping) => return Ended::Stopping,
        };
        match opened {
            Ok(Ok(mut socket)) => {
                self.connections.fetch_add(1, Ordering::Relaxed);
                self.connected.send_replace(true);
                let ended = tokio::select! {
                    ended = self.read(&mut socket) => ended,
                    () = stopped(&mut stopping) => Ended::Stopping,
                };
                // Closed in order, so that ComfyUI forgets it before the next one comes under the same name.
                let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(None)).await;
                ended
            }
            Ok(Err(ended)) => ended,
            Err(_) => Ended::Silent,
        }
    }

    async fn open(&self) -> Result<WebSocketStream<Stream>, Ended> {
        let stream = self.endpoint.connect().await.map_err(Ended::Connect)?;
        // TLS, if any, is inside the stream already.
        let path = self.endpoint.path("/ws");
        let url = format!("ws://{}{path}?clientId={}", self.endpoint.authority(), self.client);
        let mut request = url.into_client_request()?;
        request.headers_mut().extend(self.endpoint.headers().clone());
        let config =
            WebSocketConfig::default().max_message_size(Some(FRAME_BYTES_MAX)).max_frame_size(Some(FRAME_BYTES_MAX));
        let (mut socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
        let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
        socket.send(Message::text(flags.to_string())).await?;
        Ok(socket)
    }

    async fn read(&self, socket: &mut WebSocketStream<Stream>) -> Ended {
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(message)) => {
                        heard = Instant::now();
                        let event = UpstreamEvent::read(&message);
                        if matches!(event, UpstreamEvent::QueueChanged { .. }) {
                            self.statuses.fetch_add(1, Ordering::Relaxed);
                        }
                        (self.sink)(event);
                    }
                    Some(Err(error)) => {
                        if let Error::Capacity(CapacityError::MessageTooLong { size, .. }) = &error {
                            (self.sink)(UpstreamEvent::TooLong { bytes: *size as u64 });
                        }
                        return error.into();
                    }
                    None => return Ended::Closed,
                },
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Ended::Silent;
                    }
                    if let Err(error) = socket.send(Message::Ping(Bytes::new())).await {
                        return error.into();
                    }
                }
                () = self.reconnect.notified() => return Ended::Asked,
            }
        }
    }
}

/// Resolves when the word to stop is given, or nobody is left to give it.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Between half of `wait` and all of it.
fn jittered(wait: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    wait / 2 + wait * u32::from(random) / 512
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::net::{TcpListener, TcpStream};

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn accept(listener: &TcpListener) -> WebSocketStream<TcpStream> {
        let (stream, _) = tokio::time::timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
        tokio_tungstenite::accept_async(stream).await.unwrap()
    }

    #[tokio::test]
    async fn it_announces_itself_hands_on_events_and_comes_back_when_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = BackendEndpoint::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let (_stop, stopping) = watch::channel(false);
        let sink = move |event| heard.lock().unwrap().push(event);
        let (socket, upstream) = Upstream::new(endpoint, UpstreamClientId::new(), sink, stopping);
        let task = tokio::spawn(upstream.run());
        let mut server = accept(&listener).await;
        let first = server.next().await.unwrap().unwrap();
        assert!(first.to_text().unwrap().contains("supports_preview_metadata"), "{first}");
        let status = json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}}});
        server.send(Message::text(status.to_string())).await.unwrap();
        let mut connected = socket.connected();
        tokio::time::timeout(DEADLINE, async {
            connected.wait_for(|connected| *connected).await.unwrap();
            while socket.statuses() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert_eq!(*events.lock().unwrap(), [UpstreamEvent::QueueChanged { remaining: 1 }]);
        socket.reconnect();
        let mut second = accept(&listener).await;
        assert!(second.next().await.unwrap().unwrap().is_text());
        task.abort();
    }

    #[tokio::test]
    async fn when_it_is_told_to_stop_it_says_goodbye_and_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = BackendEndpoint::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let (stop, stopping) = watch::channel(false);
        let (socket, upstream) = Upstream::new(endpoint, UpstreamClientId::new(), |_| {}, stopping);
        let task = tokio::spawn(upstream.run());
        let mut server = accept(&listener).await;
        tokio::time::timeout(DEADLINE, socket.connected().wait_for(|connected| *connected)).await.unwrap().unwrap();
        stop.send_replace(true);
        assert!(server.next().await.unwrap().unwrap().is_text());
        assert!(server.next().await.unwrap().unwrap().is_close());
        tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_frame_of_64_mib_is_read_and_of_a_larger_one_its_length_is_told() {
        use tokio::io::AsyncWriteExt;
        for (more, good) in [(0, true), (1, false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = BackendEndpoint::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            let (_stop, stopping) = watch::channel(false);
            let (heard, mut events) = tokio::sync::mpsc::unbounded_channel();
            let sink = move |event| drop(heard.send(event));
            let (_socket, upstream) = Upstream::new(endpoint, UpstreamClientId::new(), sink, stopping);
            let task = tokio::spawn(upstream.run());
            let mut server = accept(&listener).await;
            let length = FRAME_BYTES_MAX as u64 + more;
            let raw = server.get_mut();
            raw.write_all(&[&[0x82, 127][..], &length.to_be_bytes()].concat()).await.unwrap();
            if good {
                // A PNG preview, but for its picture.
                let mut frame = vec![0; FRAME_BYTES_MAX];
                frame[..8].copy_from_slice(b"\0\0\0\x01\0\0\0\x02");
                raw.write_all(&frame).await.unwrap();
            }
            let event = tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
            match event {
                UpstreamEvent::Preview(preview) => assert!(good && preview.image.len() == FRAME_BYTES_MAX - 8),
                UpstreamEvent::TooLong { bytes } => assert!(!good && bytes == length),
                other => panic!("{}", other.kind()),
            }
            task.abort();
        }
    }

    #[test]
    fn the_wait_between_tries_is_jittered_within_its_upper_half() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_secs(1));
            assert!((Duration::from_millis(500)..=Duration::from_secs(1)).contains(&wait), "{wait:?}");
        }
    }
}
