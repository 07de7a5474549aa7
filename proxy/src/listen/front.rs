//! The application between the listeners and Pingora's `HttpProxy`: reads HTTP/1 heads and HTTP/2 prefaces itself.
//!
//! Pingora 0.9.1 has no deadline for a whole head nor for the HTTP/2 preface, takes heads up to 1 MiB, and is lenient about framing. So the
//! head is read here into a buffer, scanned, and given to Pingora's session as bytes that were read before
//! (`ServerSession::set_pipelined_prefix`): no copy of the stream, no second socket, and keep-alive stays.

use super::connections::Connections;
use super::reader::{HeadLimits, Reading, read_head, refuse};
use crate::reject::Rejection;
use async_trait::async_trait;
use bytes::BytesMut;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora::proxy::{HttpProxy, ProxyHttp};
use pingora::server::ShutdownWatch;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The client's half of the HTTP/2 preface (RFC 9113 §3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Streams of one HTTP/2 connection at once: a page loads a few dozen files.
const H2_STREAMS_MAX: u32 = 64;
/// Decoded header list of one HTTP/2 request in bytes, like a head of HTTP/1.
const H2_HEADER_LIST_BYTES_MAX: u32 = 32 * 1024;

/// How long a stop waits for the first request of a connection that was accepted just before.
pub const STRAGGLER: Duration = Duration::from_secs(1);

/// Told of every head and connection that is refused before the gateway sees a request: audit and metrics.
pub trait HeadObserver: Send + Sync {
    /// `code` is the stable code of the refusal; `peer` the socket's other end, where there is a socket.
    fn refused(&self, code: &'static str, peer: Option<SocketAddr>);
}

/// Deadlines and sizes of the front.
#[derive(Debug, Clone, Copy)]
pub struct FrontLimits {
    /// Of one HTTP/1 head.
    pub head: HeadLimits,
    /// For the 24 bytes of the HTTP/2 preface. Default 5 s.
    pub preface: Duration,
    /// How long an HTTP/2 connection may be without streams. Default 30 s; Pingora's own default is for ever.
    pub h2_idle: Duration,
    /// Requests on one HTTP/1 connection. Default 1000: bounds what one connection can hold on to.
    pub requests_per_connection: u32,
    /// How long after a stop a connection that was just accepted may still bring its first request, to be told to ask again. Default 1 s.
    pub straggler: Duration,
}

impl Default for FrontLimits {
    fn default() -> Self {
        Self {
            head: HeadLimits::default(),
            preface: Duration::from_secs(5),
            h2_idle: Duration::from_secs(30),
            requests_per_connection: 1000,
            straggler: STRAGGLER,
        }
    }
}

/// Pingora's proxy behind our own reading of heads. `P` is the gateway; tests put a double there.
pub struct Front<P> {
    proxy: Arc<HttpProxy<P>>,
    limits: FrontLimits,
    connections: Arc<Connections>,
    observer: Arc<dyn HeadObserver>,
}

impl<P> Front<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    /// Takes the proxy as `pingora::proxy::http_proxy` gives it, and sets its HTTP/2 and keep-alive options.
    pub fn new(
        mut proxy: HttpProxy<P>,
        limits: FrontLimits,
        connections: Arc<Connections>,
        observer: Arc<dyn HeadObserver>,
    ) -> Self {
        let mut options = HttpServerOptions::default();
        options.keepalive_request_limit = Some(limits.requests_per_connection);
        options.h2_idle_timeout = Some(limits.h2_idle);
        proxy.server_options = Some(options);
        proxy.h2_options = Some(h2_options());
        Self { proxy: Arc::new(proxy), limits, connections, observer }
    }

    async fn serve_h2(&self, stream: Stream, peer: Option<SocketAddr>, shutdown: &ShutdownWatch) {
        match h2_preface(stream, self.limits.preface).await {
            Ok(stream) => {
                self.proxy.process_new(stream, shutdown).await;
            }
            Err(code) => self.observer.refused(code, peer),
        }
    }

    async fn serve_h1(&self, mut stream: Stream, peer: Option<SocketAddr>, shutdown: &ShutdownWatch) {
        let mut settings: Option<HttpPersistentSettings> = None;
        let mut patience = self.limits.straggler;
        loop {
            let mut buffer = BytesMut::with_capacity(4096);
            match self.next_head(&mut stream, &mut buffer, shutdown, std::mem::take(&mut patience)).await {
                Reading::Complete(_) => {}
                Reading::Closed => return close(stream).await,
                Reading::Bad(error) => {
                    self.observer.refused(error.code(), peer);
                    return refuse(&mut *stream, &Rejection::from(error), &self.limits.head).await;
                }
            }
            let mut session = ServerSession::new_http1(stream);
            self.prepare(&mut session, settings.take(), shutdown);
            // INVARIANT: Pingora parses these very bytes and reads on after them, so what was scanned is what is served.
            session.set_pipelined_prefix(buffer);
            let Some(reused) = self.proxy.process_new_http(session, shutdown).await else {
                return;
            };
            (stream, settings) = reused.consume();
        }
    }

    /// The next head; on shutdown a connection that waits for its next request is closed after `patience`, and one within a head is served.
    async fn next_head(
        &self,
        stream: &mut Stream,
        buffer: &mut BytesMut,
        shutdown: &ShutdownWatch,
        patience: Duration,
    ) -> Reading {
        let mut stopping = shutdown.clone();
        // The first byte is awaited apart: waiting for it may be abandoned, reading after it may not.
        let first = async {
            let read = tokio::time::timeout(self.limits.head.idle, stream.read_buf(buffer)).await;
            matches!(read, Ok(Ok(1..)))
        };
        let arrived = tokio::select! {
            biased;
            arrived = first => arrived,
            () = async {
                drop(stopping.wait_for(|stop| *stop).await);
                tokio::time::sleep(patience).await;
            } => false,
        };
        if arrived { read_head(&mut **stream, buffer, &self.limits.head).await } else { Reading::Closed }
    }

    fn prepare(&self, session: &mut ServerSession, settings: Option<HttpPersistentSettings>, shutdown: &ShutdownWatch) {
        match settings {
            Some(settings) => settings.apply_to_session(session),
            None => session.set_keepalive_reuses_remaining(Some(self.limits.requests_per_connection)),
        }
        // Without this Pingora waits for the next request for ever after the first; the true deadline is in `next_head`.
        let keepalive = if *shutdown.borrow() { None } else { Some(self.limits.head.idle.as_secs().max(1)) };
        session.set_keepalive(keepalive);
    }
}

#[async_trait]
impl<P> ServerApp for Front<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let facts = self.connections.facts(stream.get_socket_digest().as_deref());
        let from = peer_of(&stream);
        stream = match self.connections.opened(stream, &facts).await {
            Ok(stream) => stream,
            Err(code) => {
                self.observer.refused(code, from);
                return None;
            }
        };
        let peer = peer_of(&stream);
        let is_h2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        match self.connections.seat(stream.get_socket_digest().as_deref(), &facts) {
            // The seat is held to the end of the arm.
            Ok(_seat) if is_h2 => self.serve_h2(stream, peer, shutdown).await,
            Ok(_seat) => self.serve_h1(stream, peer, shutdown).await,
            Err(full) => {
                self.observer.refused("too_many_connections", peer);
                // An HTTP/2 client would not understand an answer of HTTP/1: it sees the end of the connection.
                if !is_h2 {
                    refuse(&mut *stream, &Rejection::from(full), &self.limits.head).await;
                }
            }
        }
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// Limits of HTTP/2 on top of Pingora's bounded defaults: streams, header list, and send buffer of one connection.
fn h2_options() -> H2Options {
    let mut options = default_h2_options();
    options.max_concurrent_streams(H2_STREAMS_MAX).max_header_list_size(H2_HEADER_LIST_BYTES_MAX);
    options
}

/// The other end of the socket below TLS; none for in-process streams and unix sockets.
pub(super) fn peer_of(stream: &Stream) -> Option<SocketAddr> {
    stream.get_socket_digest().and_then(|digest| digest.peer_addr().and_then(|peer| peer.as_inet().copied()))
}

async fn close(mut stream: Stream) {
    Shutdown::shutdown(&mut *stream).await;
}

/// Reads the preface within its deadline and gives the stream back as if it had not been read.
///
/// # Errors
/// The code of the refusal, when the preface is late or another.
async fn h2_preface(mut stream: Stream, limit: Duration) -> Result<Stream, &'static str> {
    let mut preface = [0_u8; 24];
    match tokio::time::timeout(limit, stream.read_exact(&mut preface)).await {
        Ok(Ok(_)) if &preface == H2_PREFACE => {
            Ok(Box::new(Rewound { inner: stream, read: BytesMut::from(&preface[..]) }))
        }
        Ok(_) => Err("h2_preface"),
        Err(_) => Err("h2_preface_timeout"),
    }
}

/// A stream that first gives bytes that were read already; everything else is the inner stream's.
#[derive(Debug)]
struct Rewound {
    inner: Stream,
    read: BytesMut,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let n = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Rewound {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.inner).await;
    }
}

impl UniqueID for Rewound {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Rewound {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for Rewound {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for Rewound {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for Rewound {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

impl Peek for Rewound {}

#[cfg(test)]
mod tests;
