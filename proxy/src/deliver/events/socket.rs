//! The WebSocket of one client, sans-IO: tungstenite works on two byte buffers, a [`RawStream`] carries the bytes.
//!
//! Nothing that a client sends goes anywhere: the only message that means anything is its first, `feature_flags`, and we answer it ourselves (facts §6.1).

use super::codec::{Capabilities, ClientEvent};
use super::hub::{SocketHandle, Waiting};
use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use std::io::{Error as IoError, ErrorKind, Read, Write};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// A client that takes longer for one write does not read any more.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the 30 s after which common middle boxes forget a connection (design §5 listen).
pub const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Three pings without a sign of life: any byte counts.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(80);
/// A `feature_flags` message has some hundred bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Messages that a client may send at once, pings and pongs included …
pub const MESSAGES_BURST: u32 = 50;
/// … and one more after each such time.
pub const MESSAGE_INTERVAL: Duration = Duration::from_millis(100);
/// After our close frame a client gets this long to answer it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// Per socket; tungstenite's own default is 128 KiB for each.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// Events put into one write.
const BATCH_BYTES: usize = 256 << 10;

/// The bytes of an upgraded connection.
#[async_trait]
pub trait RawStream: Send {
    /// What came next; `None` at the end. Safe to cancel.
    async fn read(&mut self) -> Result<Option<Bytes>, StreamError>;
    /// Writes all of it.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StreamError>;
}

/// The connection broke.
#[derive(Debug, Clone, thiserror::Error)]
#[error("connection broke: {0}")]
pub struct StreamError(pub String);

/// How a socket ended: a closed list, for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed it.
    Client,
    /// The connection ended without a word.
    Gone,
    /// No sign of life.
    Idle,
    /// A message over [`MESSAGE_BYTES_MAX`]: 1009.
    TooLarge,
    /// Too many messages: 1008.
    TooMany,
    /// Not the WebSocket protocol: 1002, or 1007 for bad UTF-8.
    Protocol,
    /// It reads too slowly: 1013.
    Slow,
    /// The gateway stops: 1012.
    Shutdown,
}

impl CloseReason {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gone => "gone",
            Self::Idle => "idle",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::Protocol => "protocol",
            Self::Slow => "slow",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Carries a client's socket after the 101 until it ends. `queue_remaining`: what the first `status` says. Returns when the socket is done with.
pub async fn serve(
    stream: &mut impl RawStream,
    handle: SocketHandle,
    queue_remaining: u64,
    upload_bytes_max: u64,
    mut shutdown: watch::Receiver<bool>,
) -> CloseReason {
    let mut wire = Wire::new(upload_bytes_max);
    wire.greet(&handle, queue_remaining);
    let ended = carry(stream, &handle, &mut wire, &mut shutdown).await;
    let reason = match ended {
        Ok(reason) | Err(reason) => reason,
    };
    wire.close(reason);
    // Best effort: a peer that does not take the close frame is dropped with the connection.
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye(stream, &mut wire)).await;
    reason
}

async fn carry(
    stream: &mut impl RawStream,
    handle: &SocketHandle,
    wire: &mut Wire,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<CloseReason, CloseReason> {
    let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        flush(stream, wire).await?;
        tokio::select! {
            // `Err`: whoever could stop us is gone, and so is the gateway.
            _ = shutdown.wait_for(|down| *down) => return Ok(CloseReason::Shutdown),
            bytes = stream.read() => {
                let bytes = bytes.map_err(|_| CloseReason::Gone)?.ok_or(CloseReason::Gone)?;
                heard = Instant::now();
                wire.receive(&bytes)?;
            }
            waiting = handle.next() => {
                wire.send(waiting)?;
                while wire.pending() < BATCH_BYTES {
                    let Some(waiting) = handle.try_next() else { break };
                    wire.send(waiting)?;
                }
            }
            _ = ping.tick() => {
                if heard.elapsed() >= IDLE_TIMEOUT {
                    return Ok(CloseReason::Idle);
                }
                wire.write(Message::Ping(Bytes::new()))?;
            }
        }
    }
}

async fn flush(stream: &mut impl RawStream, wire: &mut Wire) -> Result<(), CloseReason> {
    let Some(bytes) = wire.take() else { return Ok(()) };
    match tokio::time::timeout(WRITE_TIMEOUT, stream.write(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(CloseReason::Gone),
        Err(_) => Err(CloseReason::Slow),
    }
}

/// Sends what is left and waits for the client's close frame, or the end of the connection.
async fn goodbye(stream: &mut impl RawStream, wire: &mut Wire) -> Result<(), StreamError> {
    if let Some(bytes) = wire.take() {
        stream.write(bytes).await?;
    }
    while !wire.over {
        match stream.read().await? {
            Some(bytes) => {
                // Whatever else is wrong now ends it too.
                let _ = wire.receive(&bytes);
                if wire.closed() {
                    break;
                }
            }
            None => break,
        }
    }
    Ok(())
}

/// tungstenite and its two buffers.
struct Wire {
    context: WebSocketContext,
    buffers: Buffers,
    capabilities: Capabilities,
    /// A message was an object: later `feature_flags` mean nothing (server.py `websocket_handler`).
    greeted: bool,
    upload_bytes_max: u64,
    tokens: u32,
    refilled: Instant,
    /// Nothing more can be read or written.
    over: bool,
}

impl Wire {
    fn new(upload_bytes_max: u64) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0);
        Self {
            context: WebSocketContext::new(Role::Server, Some(config)),
            buffers: Buffers::default(),
            capabilities: Capabilities::default(),
            greeted: false,
            upload_bytes_max,
            tokens: MESSAGES_BURST,
            refilled: Instant::now(),
            over: false,
        }
    }

    /// `status` with the sid, and what runs for a client that comes back.
    fn greet(&mut self, handle: &SocketHandle, queue_remaining: u64) {
        let status = ClientEvent::status(queue_remaining, Some(handle.client_id()));
        let running = handle.running_node().map(|node| ClientEvent::running(&node));
        for event in std::iter::once(status).chain(running) {
            // Into an empty buffer of ours: there is nothing that can fail, and if it did the next write would say so.
            let _ = self.write(event.frame(self.capabilities));
        }
    }

    fn send(&mut self, waiting: Waiting) -> Result<(), CloseReason> {
        match waiting {
            Waiting::Event(event) => self.write(event.frame(self.capabilities)),
            Waiting::Overflowed => Err(CloseReason::Slow),
        }
    }

    fn write(&mut self, message: Message) -> Result<(), CloseReason> {
        let written = self.context.write(&mut self.buffers, message);
        written.and_then(|()| self.context.flush(&mut self.buffers)).map_err(|_| CloseReason::Gone)
    }

    /// Reads every message in the bytes; pongs and the answer to a close frame are put into the outgoing buffer.
    fn receive(&mut self, bytes: &Bytes) -> Result<(), CloseReason> {
        self.buffers.incoming.extend_from_slice(bytes);
        loop {
            match self.context.read(&mut self.buffers) {
                Ok(message) => self.obey(message)?,
                Err(WsError::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.broken(&error)),
            }
        }
        match self.context.flush(&mut self.buffers) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&mut self, error: &WsError) -> CloseReason {
        match error {
            WsError::ConnectionClosed | WsError::AlreadyClosed => {
                self.over = true;
                CloseReason::Client
            }
            WsError::Capacity(_) => CloseReason::TooLarge,
            _ => CloseReason::Protocol,
        }
    }

    fn obey(&mut self, message: Message) -> Result<(), CloseReason> {
        self.count_message()?;
        match message {
            Message::Text(text) => self.hear(&text),
            Message::Close(_) => {
                // Sends our answer.
                let _ = self.context.flush(&mut self.buffers);
                Err(CloseReason::Client)
            }
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    fn hear(&mut self, text: &str) -> Result<(), CloseReason> {
        if self.greeted {
            return Ok(());
        }
        let Ok(Value::Object(message)) = serde_json::from_str(text) else { return Ok(()) };
        self.greeted = true;
        if message.get("type").and_then(Value::as_str) != Some("feature_flags") {
            return Ok(());
        }
        let announced = message.get("data").and_then(|data| data.get("supports_preview_metadata"));
        self.capabilities.preview_metadata = announced == Some(&Value::Bool(true));
        let answer = ClientEvent::feature_flags(self.upload_bytes_max);
        self.write(answer.frame(self.capabilities))
    }

    /// A bucket of [`MESSAGES_BURST`], filled by one each [`MESSAGE_INTERVAL`].
    fn count_message(&mut self) -> Result<(), CloseReason> {
        let earned = self.refilled.elapsed().as_millis() / MESSAGE_INTERVAL.as_millis();
        let earned = u32::try_from(earned).unwrap_or(MESSAGES_BURST);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(MESSAGES_BURST);
            self.refilled = Instant::now();
        }
        self.tokens = self.tokens.checked_sub(1).ok_or(CloseReason::TooMany)?;
        Ok(())
    }

    fn close(&mut self, reason: CloseReason) {
        let (code, text) = match reason {
            CloseReason::Client | CloseReason::Gone => return,
            CloseReason::Idle => (CloseCode::Policy, "no sign of life"),
            CloseReason::TooLarge => (CloseCode::Size, "message too large"),
            CloseReason::TooMany => (CloseCode::Policy, "too many messages"),
            CloseReason::Protocol => (CloseCode::Protocol, "not the WebSocket protocol"),
            CloseReason::Slow => (CloseCode::Again, "events were read too slowly"),
            CloseReason::Shutdown => (CloseCode::Restart, "the gateway stops"),
        };
        let frame = CloseFrame { code, reason: text.into() };
        let _ = self.context.close(&mut self.buffers, Some(frame));
        let _ = self.context.flush(&mut self.buffers);
        // After a broken frame the rest of the stream has no meaning: nothing is read for an answer.
        self.over = matches!(reason, CloseReason::Protocol | CloseReason::TooLarge | CloseReason::Slow);
    }

    fn closed(&self) -> bool {
        self.over || !self.context.can_read()
    }

    fn pending(&self) -> usize {
        self.buffers.outgoing.len()
    }

    fn take(&mut self) -> Option<Bytes> {
        (!self.buffers.outgoing.is_empty()).then(|| self.buffers.outgoing.split().freeze())
    }
}

/// What tungstenite takes for its stream.
#[derive(Default)]
struct Buffers {
    incoming: BytesMut,
    outgoing: BytesMut,
}

impl Read for Buffers {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.incoming.is_empty() {
            return Err(IoError::from(ErrorKind::WouldBlock));
        }
        let length = into.len().min(self.incoming.len());
        self.incoming.copy_to_slice(into.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
