//! One client's WebSocket, from the 101 to its end: frames by sans-IO tungstenite, bytes by whoever has them ([`RawStream`]).
//!
//! Nothing that a client sends goes upstream. It may announce feature flags with its first message (facts §6.1); everything else is read and
//! dropped, within bounds.

use super::codec::ClientEvent;
use super::end::Picture;
use super::held::{HELD_MAX, Held, HeldPlace};
use super::hub::{self, Next, SocketHandle};
use crate::authenticate::endings::End;
use crate::listen::connections::AddrGroup;
use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

/// One message from a client: feature flags take some hundred bytes.
const INBOUND_BYTES_MAX: usize = 64 << 10;
/// Messages from a client in one second; pages send a handful in a session.
const INBOUND_PER_SECOND_MAX: u32 = 50;
/// Between our pings: below the 30 s after which some proxies and carriers cut an idle connection.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Without any byte from the client, pongs included, it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(70);
/// tungstenite takes it at once for each socket; its own default of 128 KiB would be 640 MB for 5,000 idle ones.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// After a refusal we read on for so long: closing over unread bytes resets the connection, and the client never sees the code.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that are written at once: a slow client has [`WRITE_TIMEOUT`] for each piece, not for a picture of many megabytes.
const PIECE_BYTES: usize = 64 << 10;
/// A client that takes longer for one write does not read.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Once a credential has ended or the gateway stops, what has begun has so long to be taken, and then the close frame: after twice this the connection is gone.
const FINISH_MAX: Duration = Duration::from_secs(2);

/// Bytes of an upgraded connection. `read` must be cancel-safe.
#[async_trait]
pub trait RawStream: Send {
    /// What has arrived; `None` at the end.
    async fn read(&mut self) -> Result<Option<Bytes>, StreamError>;
    /// Sends; resolves when the connection took it, or fails after [`WRITE_TIMEOUT`].
    async fn write(&mut self, bytes: Bytes) -> Result<(), StreamError>;
}

/// The connection failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connection failed: {0}")]
pub struct StreamError(pub String);

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The client closed it, or its connection ended.
    ByClient,
    /// The client sent too much, too often, or what is no WebSocket: 1009, 1008, 1002.
    Misused(&'static str),
    /// The client read too slowly: 1013.
    TooSlow,
    /// The client fell silent.
    Silent,
    /// The gateway stops: 1012.
    Stopping,
    /// The key was revoked, or the credential ran out: 4401.
    CredentialEnded,
    /// Its session is not renewed yet: 1013.
    NotRenewedYet,
    /// A close frame was due, and the client did not take what came before it, or the frame itself, within `FINISH_MAX`: nothing can be told to it in the middle of a frame.
    Cut,
    /// Bytes could not be written.
    Failed(String),
}

impl Closed {
    /// Whether bytes may be left that the client has not taken: its connection is dropped, not flushed.
    pub fn is_abrupt(&self) -> bool {
        matches!(self, Self::Cut | Self::Failed(_))
    }
}

/// What design §5 names for a socket whose credential is no good any more; 4000 to 4999 are for applications (RFC 6455 §7.4.2).
const CREDENTIAL_ENDED: u16 = 4401;

/// What becomes of a socket whose credential has ended.
#[derive(Debug, Clone)]
pub enum AtEnd {
    /// Closed at once, with 4401 where it is over: a program reads that.
    Close,
    /// Held in silence first, if there is a place: a page would open it anew at once.
    Hold(Arc<Held>, AddrGroup),
}

/// Serves a socket to its end. `credential_ended` resolves when the caller's credential is no good any more, or not now. `queue_remaining` goes into the first message, `upload_bytes_max` into the feature flags.
pub async fn serve(
    stream: &mut impl RawStream,
    handle: SocketHandle,
    queue_remaining: u64,
    upload_bytes_max: u64,
    mut stopping: watch::Receiver<bool>,
    credential_ended: impl Future<Output = End> + Send,
    at_end: AtEnd,
) -> Closed {
    let mut socket = Socket::new(stream, Some(handle), upload_bytes_max);
    tokio::pin!(credential_ended);
    let served = socket.run(Some(Step::Greeting(queue_remaining)), &mut stopping, credential_ended).await;
    let closed = match (served, at_end) {
        (Ok(Ended::Closed(closed)), _) => Ok(closed),
        (Ok(Ended::Credential(end)), AtEnd::Hold(held, group)) => match held.enter(group) {
            Some(place) => socket.keep_silent(&place, end, &mut stopping).await,
            None => socket.close_ended(end).await,
        },
        (Ok(Ended::Credential(end)), AtEnd::Close) => socket.close_ended(end).await,
        (Err(error), _) => Err(error),
    };
    closed.unwrap_or_else(|error| Closed::Failed(error.0))
}

/// Holds the new socket of a page whose session lets nobody in, for the time that goes with `end`: it is pinged, and hears nothing of anybody.
pub async fn hold(
    stream: &mut impl RawStream,
    place: HeldPlace,
    end: End,
    mut stopping: watch::Receiver<bool>,
) -> Closed {
    let mut socket = Socket::new(stream, None, 0);
    let closed = socket.keep_silent(&place, end, &mut stopping).await;
    closed.unwrap_or_else(|error| Closed::Failed(error.0))
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(INBOUND_BYTES_MAX))
        .max_frame_size(Some(INBOUND_BYTES_MAX))
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
}

struct Socket<'a, S> {
    stream: &'a mut S,
    /// Its place in the hub; none while it is held in silence.
    handle: Option<SocketHandle>,
    upload_bytes_max: u64,
    context: WebSocketContext,
    memory: Memory,
    /// A first message was understood; ComfyUI looks for feature flags in no later one.
    greeted: bool,
    /// Messages in the second that began then.
    inbound: (Instant, u32),
    /// When the client last showed that it is there.
    heard: Instant,
}

/// What a socket has to do next.
enum Step {
    /// Tell how many of the owner's jobs wait or run.
    Greeting(u64),
    /// Bytes came; none: the client's end.
    Arrived(Option<Bytes>),
    Next(Next),
    Ping,
}

/// Why nothing more is to be told.
enum Over {
    Credential(End),
    Stopping,
}

/// Why a socket is not served any more.
enum Ended {
    Closed(Closed),
    Credential(End),
}

impl<'a, S: RawStream> Socket<'a, S> {
    fn new(stream: &'a mut S, handle: Option<SocketHandle>, upload_bytes_max: u64) -> Self {
        Self {
            stream,
            handle,
            upload_bytes_max,
            context: WebSocketContext::new(Role::Server, Some(config())),
            memory: Memory::default(),
            greeted: false,
            inbound: (Instant::now(), 0),
            heard: Instant::now(),
        }
    }

    async fn greet(&mut self, queue_remaining: u64) -> Result<(), StreamError> {
        let Some(handle) = &self.handle else { return Ok(()) };
        let sid = handle.client_id().clone();
        self.send(hub::status(queue_remaining, Some(&sid)).frame(false)).await
    }

    async fn close_ended(&mut self, end: End) -> Result<Closed, StreamError> {
        match end {
            End::Over => {
                self.close(CloseCode::from(CREDENTIAL_ENDED), "credential ended", Closed::CredentialEnded).await
            }
            // Nothing has ended: whoever comes again may be let in.
            End::NotRenewedYet { .. } => self.close(CloseCode::Again, "not renewed yet", Closed::NotRenewedYet).await,
        }
    }

    /// SECURITY: leaves the hub first, so that nothing of anybody's can come any more.
    async fn keep_silent(
        &mut self,
        _place: &HeldPlace,
        end: End,
        stopping: &mut watch::Receiver<bool>,
    ) -> Result<Closed, StreamError> {
        self.handle = None;
        let time = match end {
            End::Over => HELD_MAX,
            // A page that stayed deaf for longer would show no progress though everything else works again.
            End::NotRenewedYet { retry_after } => retry_after.min(HELD_MAX),
        };
        let over = async {
            tokio::time::sleep(time).await;
            end
        };
        tokio::pin!(over);
        match self.run(None, stopping, over).await? {
            Ended::Closed(closed) => Ok(closed),
            Ended::Credential(end) => self.close_ended(end).await,
        }
    }

    /// Does what there is to do, first of all `first`, until it is over.
    ///
    /// SECURITY: the end is seen while something is sent too: a slow client takes minutes for a picture, and what it has no right to any more must not go on coming.
    async fn run(
        &mut self,
        mut first: Option<Step>,
        stopping: &mut watch::Receiver<bool>,
        credential_ended: Pin<&mut (impl Future<Output = End> + Send)>,
    ) -> Result<Ended, StreamError> {
        let over = async {
            tokio::select! {
                end = credential_ended => Over::Credential(end),
                () = stopped(stopping) => Over::Stopping,
            }
        };
        tokio::pin!(over);
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        self.heard = Instant::now();
        loop {
            let step = match first.take() {
                Some(step) => step,
                None => tokio::select! {
                    biased;
                    over = &mut over => return self.end(over).await,
                    arrived = self.stream.read() => Step::Arrived(arrived?),
                    next = next_of(self.handle.as_ref()) => Step::Next(next),
                    _ = ping.tick() => Step::Ping,
                },
            };
            let (closed, over) = {
                let doing = self.take(step);
                tokio::pin!(doing);
                tokio::select! {
                    closed = &mut doing => (closed?, None),
                    over = &mut over => match tokio::time::timeout(FINISH_MAX, doing).await {
                        Ok(closed) => (closed?, Some(over)),
                        Err(_) => (Some(Closed::Cut), None),
                    },
                }
            };
            match (closed, over) {
                (Some(closed), _) => return Ok(Ended::Closed(closed)),
                (None, Some(over)) => return self.end(over).await,
                (None, None) => {}
            }
        }
    }

    async fn end(&mut self, over: Over) -> Result<Ended, StreamError> {
        match over {
            Over::Credential(end) => Ok(Ended::Credential(end)),
            Over::Stopping => {
                self.close(CloseCode::Restart, "the gateway restarts", Closed::Stopping).await.map(Ended::Closed)
            }
        }
    }

    /// Takes one step, and says how the socket ended if it did. Dropped before it is done, it may leave half a frame behind: nothing can follow then.
    async fn take(&mut self, step: Step) -> Result<Option<Closed>, StreamError> {
        match step {
            Step::Greeting(queue_remaining) => self.greet(queue_remaining).await?,
            Step::Arrived(None) => return Ok(Some(Closed::ByClient)),
            Step::Arrived(Some(bytes)) => {
                self.memory.inbound.extend_from_slice(&bytes);
                self.heard = Instant::now();
                return self.read_frames().await;
            }
            Step::Next(Next::Event(event)) => {
                self.tell(&event).await?;
                self.was_sent();
            }
            Step::Next(Next::Picture(picture)) => {
                self.show(&picture).await?;
                self.was_sent();
                // Whoever took all of it is there, however long it took.
                self.heard = Instant::now();
            }
            Step::Next(Next::Overflowed) => {
                return self.close(CloseCode::Again, "too slow", Closed::TooSlow).await.map(Some);
            }
            Step::Ping if self.heard.elapsed() > SILENCE_MAX => return Ok(Some(Closed::Silent)),
            Step::Ping => self.send(Message::Ping(Bytes::new())).await?,
        }
        Ok(None)
    }

    fn was_sent(&self) {
        if let Some(handle) = &self.handle {
            handle.sent();
        }
    }

    async fn tell(&mut self, event: &ClientEvent) -> Result<(), StreamError> {
        let with_metadata = self.handle.as_ref().is_some_and(SocketHandle::with_metadata);
        self.send(event.frame(with_metadata)).await
    }

    /// Sends a picture out of its file, a piece at a time: it may be large, and many sockets may be sent one at once.
    async fn show(&mut self, picture: &Picture) -> Result<(), StreamError> {
        let unreadable = |error: std::io::Error| {
            tracing::error!(path = %picture.path.display(), %error, "a picture can't be read; its socket is closed");
            StreamError("a picture can't be read".into())
        };
        let mut file = tokio::fs::File::open(&picture.path).await.map_err(unreadable)?;
        if file.metadata().await.map_err(unreadable)?.len() != picture.bytes {
            return Err(unreadable(ErrorKind::UnexpectedEof.into()));
        }
        // Between two frames of tungstenite's: it keeps nothing back once it has flushed.
        self.flush().await?;
        let with_metadata = self.handle.as_ref().is_some_and(SocketHandle::with_metadata);
        self.stream.write(picture.frame_head(with_metadata)).await?;
        let mut left = picture.bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let mut piece = BytesMut::zeroed(length);
            file.read_exact(&mut piece).await.map_err(unreadable)?;
            self.stream.write(piece.freeze()).await?;
            left = left.saturating_sub(length as u64);
        }
        Ok(())
    }

    /// Reads every whole frame that has arrived.
    async fn read_frames(&mut self) -> Result<Option<Closed>, StreamError> {
        loop {
            match self.context.read(&mut self.memory) {
                Ok(Message::Text(text)) => {
                    if self.too_many() {
                        return self
                            .close(CloseCode::Policy, "too many messages", Closed::Misused("rate"))
                            .await
                            .map(Some);
                    }
                    self.heed(&text).await?;
                }
                Ok(Message::Close(_)) => {
                    self.flush().await?;
                    return Ok(Some(Closed::ByClient));
                }
                Ok(_) if self.too_many() => {
                    return self.close(CloseCode::Policy, "too many messages", Closed::Misused("rate")).await.map(Some);
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Err(Error::Capacity(_)) => {
                    return self.close(CloseCode::Size, "message too large", Closed::Misused("size")).await.map(Some);
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(Some(Closed::ByClient)),
                Err(_) => {
                    return self
                        .close(CloseCode::Protocol, "no WebSocket frame", Closed::Misused("protocol"))
                        .await
                        .map(Some);
                }
            }
        }
        // A ping read above left its pong in the buffer.
        self.flush().await?;
        Ok(None)
    }

    fn too_many(&mut self) -> bool {
        let (began, count) = &mut self.inbound;
        if began.elapsed() >= Duration::from_secs(1) {
            (*began, *count) = (Instant::now(), 0);
        }
        *count += 1;
        *count > INBOUND_PER_SECOND_MAX
    }

    /// Feature flags, if this is the first message that is an object; what is no JSON is not even logged (facts §11, 112).
    async fn heed(&mut self, text: &str) -> Result<(), StreamError> {
        let Ok(Value::Object(message)) = serde_json::from_str(text) else { return Ok(()) };
        if std::mem::replace(&mut self.greeted, true)
            || message.get("type").and_then(Value::as_str) != Some("feature_flags")
        {
            return Ok(());
        }
        let Some(handle) = &self.handle else { return Ok(()) };
        let has = |flag| message.get("data").and_then(|data| data.get(flag)) == Some(&Value::Bool(true));
        handle.set_with_metadata(has("supports_preview_metadata"));
        handle.set_with_places(has("comfygate_queue"));
        let flags = crate::deliver::state::system::features(self.upload_bytes_max);
        self.send(Message::text(json!({"type": "feature_flags", "data": flags}).to_string())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), StreamError> {
        match self.context.write(&mut self.memory, message) {
            Ok(()) => self.flush().await,
            Err(error) => Err(StreamError(error.to_string())),
        }
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        // Closed by the other side: what can be written still is, the rest is moot.
        let _ = self.context.flush(&mut self.memory);
        while !self.memory.outbound.is_empty() {
            let length = self.memory.outbound.len().min(PIECE_BYTES);
            self.stream.write(self.memory.outbound.split_to(length).freeze()).await?;
        }
        Ok(())
    }

    async fn close(&mut self, code: CloseCode, reason: &'static str, closed: Closed) -> Result<Closed, StreamError> {
        let _ = self.context.close(&mut self.memory, Some(CloseFrame { code, reason: reason.into() }));
        match tokio::time::timeout(FINISH_MAX, self.flush()).await {
            Ok(flushed) => flushed?,
            Err(_) => return Ok(Closed::Cut),
        }
        if matches!(closed, Closed::Misused(_)) {
            let discarded = async { while let Ok(Some(_)) = self.stream.read().await {} };
            let _ = tokio::time::timeout(LINGER, discarded).await;
        }
        Ok(closed)
    }
}

/// The next thing of the hub; never anything for who is not in it.
async fn next_of(handle: Option<&SocketHandle>) -> Next {
    match handle {
        Some(handle) => handle.next().await,
        None => std::future::pending().await,
    }
}

/// Resolves when the gateway stops, or whoever would say so is gone.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// What tungstenite reads from and writes to.
#[derive(Default)]
struct Memory {
    inbound: BytesMut,
    outbound: BytesMut,
}

impl Read for Memory {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.inbound.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = into.len().min(self.inbound.len());
        if let Some(part) = into.get_mut(..length) {
            self.inbound.copy_to_slice(part);
        }
        Ok(length)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.outbound.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
