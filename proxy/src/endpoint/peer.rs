//! The endpoint as Pingora's peer: Pingora asks [`BackendEndpoint::connect`] for its connections, so that all clients reach a backend in one way.
//!
//! Connections over TCP and unix sockets go back to Pingora's pool as what they are. A TLS connection is a stream of ours to Pingora, without a file
//! descriptor by which it could find it again: such requests ask for the end of their connection ([`BackendEndpoint::is_reused_by_pingora`]).

use super::{Address, BackendEndpoint, CONNECT_TIMEOUT, Plain, Stream};
use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::prelude::{Error, ErrorType, HttpPeer, Result as PingoraResult};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream as PingoraStream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

impl BackendEndpoint {
    /// How Pingora reaches this backend. To Pingora every one speaks plain HTTP/1.1: TLS is inside the connection.
    ///
    /// # Errors
    /// What the resolver said.
    pub async fn peer(&self) -> PingoraResult<HttpPeer> {
        let because = |error| Error::because(ErrorType::ConnectError, "backend address", error);
        let mut peer = match self.0.url.address() {
            Address::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())?,
            Address::Tcp { host, port } => {
                let addresses = self.0.resolved.addresses(host, *port).await.map_err(because)?;
                let first = addresses.into_iter().next();
                let none = || because(io::ErrorKind::NotFound.into());
                HttpPeer::new(first.ok_or_else(none)?, false, String::new())
            }
        };
        // Two endpoints never share a connection, be their addresses the same.
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        peer.group_key = hasher.finish();
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.custom_l4 = Some(Arc::new(Connector(self.clone())));
        Ok(peer)
    }

    /// Whether Pingora may keep a connection for the next request.
    pub fn is_reused_by_pingora(&self) -> bool {
        self.0.tls.is_none()
    }
}

#[derive(Debug)]
struct Connector(BackendEndpoint);

#[async_trait]
impl L4Connect for Connector {
    async fn connect(&self, _: &SocketAddr) -> PingoraResult<PingoraStream> {
        let because = |error| Error::because(ErrorType::ConnectError, "backend", error);
        if self.0.is_reused_by_pingora() {
            return Ok(match self.0.connect_plain().await.map_err(because)? {
                Plain::Tcp(stream) => stream.into(),
                Plain::Unix(stream) => stream.into(),
            });
        }
        let stream = self.0.connect().await.map_err(because)?;
        Ok(VirtualSocketStream::new(Box::new(Carried(stream))).into())
    }
}

/// A connection of ours inside one of Pingora's.
#[derive(Debug)]
struct Carried(Stream);

impl VirtualSocket for Carried {
    /// `connect` sets what there is to set.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Carried {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Carried {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
