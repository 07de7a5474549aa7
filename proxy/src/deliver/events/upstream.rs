//! The one WebSocket that we keep at each backend, under a secret sid that all our jobs there use as their `client_id`.
//!
//! It is read always: a ComfyUI that can't write to a client holds the event loop up (facts §11, 113). What it says are hints; who misses some
//! looks at `/history` and `/queue`.

use super::codec::UpstreamEvent;
use crate::endpoint::BackendEndpoint;
use crate::ids::UpstreamClientId;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// A text result of 20 MB is one frame (facts §6.1); what is larger ends the socket, and the result is read from `/history`.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The upgrade is answered on ComfyUI's event loop, which can stall for seconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often we ask for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// No byte for so long: the connection is dead, however open it looks.
const SILENCE_MAX: Duration = Duration::from_secs(70);
/// Before the first try after a loss.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Before each try in the long run.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Our socket at one backend: what others may ask of it.
#[derive(Debug, Clone)]
pub struct Upstream {
    connected: watch::Receiver<bool>,
    reconnect: Arc<Notify>,
}

/// The task's side: [`Carrying::run`] has to be spawned.
pub struct Carrying<S> {
    endpoint: BackendEndpoint,
    sid: UpstreamClientId,
    sink: S,
    shutdown: watch::Receiver<bool>,
    connected: watch::Sender<bool>,
    reconnect: Arc<Notify>,
}

impl<S> fmt::Debug for Carrying<S> {
    /// Without the sid: whoever knows it could take our events over.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrying").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum UpstreamError {
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("{0}")]
    WebSocket(Box<WsError>),
    #[error("no answer to the upgrade within {HANDSHAKE_TIMEOUT:?}")]
    Handshake,
    #[error("closed by the backend")]
    Closed,
    #[error("silent for {SILENCE_MAX:?}")]
    Silent,
    #[error("dropped, as asked")]
    Asked,
}

impl From<WsError> for UpstreamError {
    fn from(error: WsError) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

impl Upstream {
    /// A handle and the task that keeps the socket until `shutdown` turns true. `sink` hears every event, in order, and must not block.
    #[allow(clippy::new_ret_no_self, reason = "the handle is of use only with its task")]
    pub fn new<S>(endpoint: BackendEndpoint, sid: UpstreamClientId, sink: S, shutdown: watch::Receiver<bool>) -> (Self, Carrying<S>)
    where
        S: Fn(UpstreamEvent) + Send,
    {
        let (connected, seen) = watch::channel(false);
        let reconnect = Arc::new(Notify::new());
        let handle = Self { connected: seen, reconnect: Arc::clone(&reconnect) };
        (handle, Carrying { endpoint, sid, sink, shutdown, connected, reconnect })
    }

    /// Whether the socket is open now; wakes whoever waits at each change.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Drops the connection, if there is one, and makes a new one: for a socket that missed the `status` of a queue change we caused.
    /// ComfyUI forgets a live socket when a dead one of the same sid is cleaned up, and still answers its pings (facts §13).
    pub fn reconnect(&self) {
        if *self.connected.borrow() {
            self.reconnect.notify_one();
        }
    }
}

impl<S: Fn(UpstreamEvent) + Send> Carrying<S> {
    /// Keeps the socket until shutdown.
    pub async fn run(self) {
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            () = self.keep() => {}
            _ = shutdown.wait_for(|down| *down) => {}
        }
        self.connected.send_replace(false);
    }

    async fn keep(&self) {
        let mut failures = 0_u32;
        loop {
            let ended = self.connect_and_read().await;
            let was_connected = self.connected.send_replace(false);
            failures = if was_connected { 0 } else { failures.saturating_add(1) };
            tracing::debug!(endpoint = %self.endpoint, reason = %ended, "upstream socket ended");
            tokio::time::sleep(backoff(failures, jitter())).await;
        }
    }

    async fn connect_and_read(&self) -> UpstreamError {
        match self.connect().await {
            Ok(socket) => {
                self.connected.send_replace(true);
                self.read(socket).await
            }
            Err(error) => error,
        }
    }

    /// Opens the socket and announces feature flags at once: they have to be the first message, and each connection starts without.
    async fn connect(&self) -> Result<WebSocketStream<TcpStream>, UpstreamError> {
        let stream = self.endpoint.connect().await.map_err(UpstreamError::Connect)?;
        let url = format!("ws://{}/ws?clientId={}", self.endpoint.authority(), self.sid);
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
        let upgrading = client_async_with_config(url, stream, Some(config));
        let (mut socket, _) = tokio::time::timeout(HANDSHAKE_TIMEOUT, upgrading).await.map_err(|_| UpstreamError::Handshake)??;
        let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
        socket.send(Message::Text(flags.to_string().into())).await?;
        Ok(socket)
    }

    async fn read(&self, mut socket: WebSocketStream<TcpStream>) -> UpstreamError {
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Close(_))) | None => return UpstreamError::Closed,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => heard = Instant::now(),
                    Some(Ok(message)) => {
                        heard = Instant::now();
                        (self.sink)(UpstreamEvent::parse(&message));
                    }
                    Some(Err(error)) => return error.into(),
                },
                _ = ping.tick() => {
                    if heard.elapsed() >= SILENCE_MAX {
                        return UpstreamError::Silent;
                    }
                    if let Err(error) = socket.send(Message::Ping(bytes::Bytes::new())).await {
                        return error.into();
                    }
                }
                () = self.reconnect.notified() => return UpstreamError::Asked,
            }
        }
    }
}

/// Doubles from [`BACKOFF_MIN`] to [`BACKOFF_MAX`]; `jitter` in 0..=255 takes up to half of it off, so that gateways do not knock in step.
fn backoff(failures: u32, jitter: u8) -> Duration {
    let whole = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(BACKOFF_MAX);
    whole - whole.mul_f64(f64::from(jitter) / 510.0).min(whole - BACKOFF_MIN.min(whole))
}

fn jitter() -> u8 {
    let [first, ..] = *uuid::Uuid::new_v4().as_bytes();
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_tungstenite::accept_hdr_async;
    use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

    #[test]
    fn backoff_grows_from_200_ms_to_5_s_and_jitter_stays_inside() {
        assert_eq!(backoff(0, 0), Duration::from_millis(200));
        assert_eq!(backoff(1, 0), Duration::from_millis(400));
        assert_eq!(backoff(30, 0), BACKOFF_MAX);
        for failures in 0..40 {
            for jitter in [0, 1, 128, 255] {
                let wait = backoff(failures, jitter);
                assert!((BACKOFF_MIN..=BACKOFF_MAX).contains(&wait), "{failures} {jitter}: {wait:?}");
            }
        }
        assert!(backoff(30, 255) < backoff(30, 0));
    }

    struct Backend {
        listener: TcpListener,
        targets: Arc<Mutex<Vec<String>>>,
    }

    impl Backend {
        async fn new() -> (Self, BackendEndpoint) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = BackendEndpoint::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            (Self { listener, targets: Arc::default() }, endpoint)
        }

        async fn accept(&self) -> WebSocketStream<TcpStream> {
            let (stream, _) = self.listener.accept().await.unwrap();
            let targets = Arc::clone(&self.targets);
            #[allow(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
            let note = move |request: &Request, response: Response| {
                assert!(!request.headers().contains_key("origin"));
                targets.lock().unwrap().push(request.uri().to_string());
                Ok(response)
            };
            accept_hdr_async(stream, note).await.unwrap()
        }
    }

    #[tokio::test]
    async fn the_socket_announces_itself_tells_events_and_comes_back_under_the_same_sid_when_asked() {
        let (backend, endpoint) = Backend::new().await;
        let (told, mut events) = mpsc::unbounded_channel();
        let (shutdown, stopping) = watch::channel(false);
        let sid = UpstreamClientId::new();
        let (handle, carrying) = Upstream::new(endpoint, sid, move |event| drop(told.send(event)), stopping);
        let running = tokio::spawn(carrying.run());
        let mut connected = handle.connected();

        let mut socket = backend.accept().await;
        let first = socket.next().await.unwrap().unwrap();
        assert_eq!(first.to_text().unwrap(), r#"{"type":"feature_flags","data":{"supports_preview_metadata":true}}"#);
        connected.wait_for(|connected| *connected).await.unwrap();
        let status = r#"{"type":"status","data":{"status":{"exec_info":{"queue_remaining":4}}}}"#;
        socket.send(Message::Text(status.into())).await.unwrap();
        assert_eq!(events.recv().await, Some(UpstreamEvent::QueueChanged { remaining: 4 }));

        handle.reconnect();
        let mut second = backend.accept().await;
        assert!(second.next().await.unwrap().unwrap().to_text().unwrap().contains("feature_flags"));
        let target = format!("/ws?clientId={sid}");
        assert_eq!(*backend.targets.lock().unwrap(), [target.clone(), target]);

        // The backend goes away and comes back by itself.
        drop(second);
        let _third = backend.accept().await;
        shutdown.send_replace(true);
        running.await.unwrap();
        assert!(!*handle.connected().borrow());
    }

    #[tokio::test]
    async fn asking_an_unconnected_socket_to_reconnect_does_nothing() {
        let (_backend, endpoint) = Backend::new().await;
        let (_shutdown, stopping) = watch::channel(false);
        let (handle, carrying) = Upstream::new(endpoint, UpstreamClientId::new(), drop::<UpstreamEvent>, stopping);
        handle.reconnect();
        let asked = tokio::time::timeout(Duration::ZERO, carrying.reconnect.notified()).await;
        assert!(asked.is_err());
        assert!(!format!("{carrying:?}").contains(&carrying.sid.to_string()));
    }
}
