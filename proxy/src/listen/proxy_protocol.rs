//! Takes the PROXY header off a fresh connection, before TLS and before anything else is read.

use super::connections::HELLO_DEADLINE;
use super::listeners::{ListenerFacts, Peer};
use super::proxy_header::{Progress, ProxyHeaderError, parse};
use bytes::BytesMut;
use pingora::protocols::l4::socket::SocketAddr as EndAddr;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream, UniqueID};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Why a connection is closed before it said anything of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyProtocolError {
    /// SECURITY: whoever may write the header chooses the caller's address.
    #[error("this listener takes connections from trusted proxies only")]
    Untrusted,
    /// Not complete within the deadline.
    #[error("no whole PROXY header in time")]
    Timeout,
    /// Ended before it was complete.
    #[error("closed within its PROXY header")]
    Closed,
    /// What came is none.
    #[error(transparent)]
    Header(#[from] ProxyHeaderError),
}

impl ProxyProtocolError {
    /// The stable code, for audit and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Untrusted => "proxy_header_untrusted",
            Self::Timeout | Self::Closed => "proxy_header_incomplete",
            Self::Header(ProxyHeaderError::Missing) => "proxy_header_missing",
            Self::Header(_) => "proxy_header_malformed",
        }
    }
}

/// Reads the header, and makes the caller that it names the stream's peer. What follows the header is left to be read. Nothing is done at a listener without
/// `proxy_protocol`.
///
/// # Errors
/// [`ProxyProtocolError`]; the connection is to be closed, without an answer: a proxy that speaks this protocol would take none.
pub async fn take_header(stream: &mut L4Stream, facts: &ListenerFacts) -> Result<(), ProxyProtocolError> {
    take_header_within(stream, facts, HELLO_DEADLINE).await
}

async fn take_header_within(
    stream: &mut L4Stream,
    facts: &ListenerFacts,
    deadline: Duration,
) -> Result<(), ProxyProtocolError> {
    if !facts.proxy_protocol {
        return Ok(());
    }
    if !facts.trusts(Peer::of(stream.get_socket_digest().as_deref())) {
        return Err(ProxyProtocolError::Untrusted);
    }
    let read = tokio::time::timeout(deadline, read(stream)).await;
    if let Some(source) = read.map_err(|_| ProxyProtocolError::Timeout)?? {
        replace_peer(stream, source);
    }
    Ok(())
}

/// As [`take_header`], at the beginning of a plain connection. Those with TLS gave their header before the handshake.
///
/// # Errors
/// As [`take_header`].
pub async fn opened(stream: Stream, facts: &ListenerFacts) -> Result<Stream, ProxyProtocolError> {
    if !facts.proxy_protocol || stream.get_ssl_digest().is_some() {
        return Ok(stream);
    }
    // A stream that is no socket has no peer, so nobody who could be trusted.
    let mut socket = stream.into_any().downcast::<L4Stream>().map_err(|_| ProxyProtocolError::Untrusted)?;
    take_header(&mut socket, facts).await?;
    Ok(socket)
}

async fn read(stream: &mut L4Stream) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    // The parser ends at its bound, so the buffer stays below that and one read.
    let mut buffer = BytesMut::with_capacity(1024);
    loop {
        match stream.read_buf(&mut buffer).await {
            Ok(1..) => {}
            _ => return Err(ProxyProtocolError::Closed),
        }
        if let Progress::Done { length, source } = parse(&buffer)? {
            stream.rewind(buffer.get(length..).unwrap_or_default());
            return Ok(source);
        }
    }
}

/// Everything later asks the stream who its peer is: caps, failed logins, audit.
fn replace_peer(stream: &mut L4Stream, source: SocketAddr) {
    let digest = SocketDigest::from_raw_fd(stream.id());
    // A new digest has no peer yet, so this can't fail.
    let _ = digest.peer_addr.set(Some(EndAddr::Inet(source)));
    stream.set_socket_digest(digest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::trusted::TrustedProxies;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    const PATIENT: Duration = Duration::from_secs(60);

    fn facts(trusted: &str, proxy_protocol: bool) -> ListenerFacts {
        let trusted = TrustedProxies::of(&[trusted.parse().unwrap()]);
        ListenerFacts { trusted, proxy_protocol, ..ListenerFacts::default() }
    }

    /// The peer after the header, and what is left to read.
    async fn taken(
        facts: &ListenerFacts,
        bytes: &[u8],
        deadline: Duration,
    ) -> Result<(String, Vec<u8>), ProxyProtocolError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        let mut stream = L4Stream::from(socket);
        let digest = SocketDigest::from_raw_fd(stream.id());
        digest.peer_addr.set(Some(EndAddr::Inet(peer))).unwrap();
        stream.set_socket_digest(digest);
        take_header_within(&mut stream, facts, deadline).await?;
        let Peer::Inet(peer) = Peer::of(stream.get_socket_digest().as_deref()) else { panic!("no peer") };
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        Ok((peer.ip().to_string(), rest))
    }

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\nGET /";

    #[tokio::test]
    async fn a_trusted_proxys_header_names_the_peer_and_is_taken_off() {
        let found = taken(&facts("127.0.0.1", true), HEADER, PATIENT).await.unwrap();
        assert_eq!(found, ("192.0.2.1".to_owned(), b"GET /".to_vec()));
        let found = taken(&facts("127.0.0.1", true), b"PROXY UNKNOWN\r\nx", PATIENT).await.unwrap();
        assert_eq!(found, ("127.0.0.1".to_owned(), b"x".to_vec()));
    }

    #[tokio::test]
    async fn a_listener_without_the_protocol_takes_nothing_off() {
        let found = taken(&facts("127.0.0.1", false), HEADER, PATIENT).await.unwrap();
        assert_eq!(found, ("127.0.0.1".to_owned(), HEADER.to_vec()));
    }

    #[tokio::test]
    async fn anybody_elses_header_and_a_connection_without_one_are_refused() {
        let refused =
            async |trusted, bytes: &[u8], deadline| taken(&facts(trusted, true), bytes, deadline).await.unwrap_err();
        assert_eq!(refused("10.0.0.0/8", HEADER, PATIENT).await, ProxyProtocolError::Untrusted);
        assert_eq!(refused("127.0.0.1", b"GET / HTTP/1.1\r\n", PATIENT).await, ProxyHeaderError::Missing.into());
        let soon = Duration::from_millis(50);
        assert_eq!(refused("127.0.0.1", b"PROXY TCP4", soon).await, ProxyProtocolError::Timeout);
        assert_eq!(refused("127.0.0.1", b"", soon).await, ProxyProtocolError::Timeout);
    }

    #[tokio::test]
    async fn a_stream_that_is_no_socket_is_refused_where_a_header_is_due() {
        let (_client, server) = tokio::io::duplex(64);
        let refused = opened(Box::new(server), &facts("unix", true)).await.unwrap_err();
        assert_eq!(refused, ProxyProtocolError::Untrusted);
        let (_client, server) = tokio::io::duplex(64);
        assert!(opened(Box::new(server), &facts("unix", false)).await.is_ok());
    }
}
