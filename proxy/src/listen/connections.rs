//! How many connections there may be, in all and from one place; and the guard before TLS.

use super::front::HeadObserver;
use super::listeners::{ListenerFacts, Listeners, NoFacts, Peer};
use super::proxy_protocol::{self, ProxyProtocolError, take_header};
use async_trait::async_trait;
use pingora::listeners::{ConnectionFilter, PreTlsProcess};
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{GetSocketDigest, Peek, SocketDigest, Stream};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a TLS client may take for its hello. Pingora's own limit for the whole handshake is a fixed 60 s.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Largest TLS record (RFC 8446 §5.1: 2^14 bytes of plain text) with its 5 bytes of header.
const RECORD_BYTES_MAX: usize = 5 + 16 * 1024;

/// Where a caller is: its socket's other end, or what a trusted proxy says ([`ListenerFacts::client`]). Derived once a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

impl ClientAddr {
    /// From the socket's peer; an IPv4 address written as IPv6 (`::ffff:1.2.3.4`) becomes IPv4 again.
    pub fn of_peer(peer: SocketAddr) -> Self {
        Self(peer.ip().to_canonical())
    }
    /// From an address; IPv4 written as IPv6 becomes IPv4 again.
    pub fn of_ip(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
    /// Nothing is known: a unix socket without a trusted proxy, or a stream within the process. All such callers are one.
    pub const UNKNOWN: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    /// The whole address, for logs.
    pub fn ip(self) -> IpAddr {
        self.0
    }
    /// What limits count by: the IPv4 address, or the /64 of an IPv6 address, since one customer gets a /64 at least.
    pub fn group(self) -> AddrGroup {
        AddrGroup(match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        })
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An IPv4 address or an IPv6 /64: the key of limits by place. Only [`ClientAddr::group`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddrGroup(IpAddr);

impl AddrGroup {
    /// The /48 that an IPv6 group is part of: who has one has 65,536 groups.
    pub fn network(self) -> Option<u64> {
        match self.0 {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => u64::try_from(u128::from(v6) >> 80).ok(),
        }
    }
}

impl fmt::Display for AddrGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// Caps on open connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all. Default 4096: with sockets to backends and files, well below the usual 65,536 descriptors.
    pub total: usize,
    /// From one [`AddrGroup`]. Default 256: an office behind one address has a few connections a person.
    pub per_group: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { total: 4096, per_group: 256 }
    }
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FullError {
    /// [`ConnectionLimits::total`].
    #[error("the gateway has too many connections: try again after `Retry-After`")]
    Total,
    /// [`ConnectionLimits::per_group`].
    #[error("there are too many connections from this address: close some, or use one for several requests")]
    Group,
}

/// The open connections, counted, and what their listeners are told. The map holds open groups only, so the total bounds it.
#[derive(Debug)]
pub struct Connections {
    limits: ConnectionLimits,
    counts: Mutex<Counts>,
    listeners: Arc<dyn Listeners>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    groups: HashMap<AddrGroup, usize>,
}

impl Connections {
    /// Counts from zero, at listeners that trust nobody.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Self::at(limits, Arc::new(NoFacts))
    }

    /// Counts from zero, at these listeners.
    pub fn at(limits: ConnectionLimits, listeners: Arc<dyn Listeners>) -> Arc<Self> {
        Arc::new(Self { limits, counts: Mutex::default(), listeners })
    }

    /// What the listener of this connection is told.
    pub fn facts(&self, digest: Option<&SocketDigest>) -> Arc<ListenerFacts> {
        self.listeners.facts(digest.and_then(SocketDigest::local_addr))
    }

    /// A plain connection after its PROXY header, where the listener wants one. Meanwhile it counts in the total.
    ///
    /// # Errors
    /// The code of the refusal.
    pub(super) async fn opened(
        self: &Arc<Self>,
        stream: Stream,
        facts: &ListenerFacts,
    ) -> Result<Stream, &'static str> {
        if !facts.proxy_protocol {
            return Ok(stream);
        }
        let _seat = self.enter(None).map_err(|_| "too_many_connections")?;
        proxy_protocol::opened(stream, facts).await.map_err(ProxyProtocolError::code)
    }

    /// A seat for the connection: of its address, unless a trusted proxy carries it.
    ///
    /// # Errors
    /// [`FullError`] says which cap is reached.
    pub fn seat(self: &Arc<Self>, digest: Option<&SocketDigest>, facts: &ListenerFacts) -> Result<Seat, FullError> {
        self.enter(facts.counted(Peer::of(digest)))
    }

    /// A seat for one connection, held until it is dropped. Without an address (in-process streams) only the total counts.
    ///
    /// # Errors
    /// [`FullError`] says which cap is reached.
    pub fn enter(self: &Arc<Self>, from: Option<ClientAddr>) -> Result<Seat, FullError> {
        let group = from.map(ClientAddr::group);
        let mut counts = self.counts();
        self.room(&counts, group)?;
        counts.total += 1;
        if let Some(group) = group {
            *counts.groups.entry(group).or_default() += 1;
        }
        Ok(Seat { connections: Arc::clone(self), group })
    }

    /// How many are open, for metrics and drain.
    pub fn open(&self) -> usize {
        self.counts().total
    }

    fn room(&self, counts: &Counts, group: Option<AddrGroup>) -> Result<(), FullError> {
        if counts.total >= self.limits.total {
            return Err(FullError::Total);
        }
        let here = group.and_then(|group| counts.groups.get(&group)).copied().unwrap_or_default();
        if here >= self.limits.per_group { Err(FullError::Group) } else { Ok(()) }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts are changed in one step each, so a panic elsewhere leaves them whole.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the open connections; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    connections: Arc<Connections>,
    group: Option<AddrGroup>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.connections.counts();
        counts.total = counts.total.saturating_sub(1);
        let Some(group) = self.group else { return };
        if let Some(count) = counts.groups.get_mut(&group) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.groups.remove(&group);
            }
        }
    }
}

/// Drops a connection before TLS when the caps are already reached: cheaper than a handshake and an answer.
#[derive(Debug, Clone)]
pub struct ConnectionCap(pub Arc<Connections>);

#[async_trait]
impl ConnectionFilter for ConnectionCap {
    async fn should_accept(&self, peer: Option<&SocketAddr>) -> bool {
        // The listener is not known yet: a proxy that one of them trusts passes here, and is counted later where it is not trusted.
        let counted = peer.filter(|peer| !self.0.listeners.trusted_anywhere(peer.ip()));
        let group = counted.map(|peer| ClientAddr::of_peer(*peer).group());
        self.0.room(&self.0.counts(), group).is_ok()
    }
}

/// Takes the PROXY header off where the listener wants one, waits for a whole TLS hello before the handshake starts, and counts the connection meanwhile.
///
/// Pingora calls it on TLS listeners only (`Listeners::set_pre_tls_callback`). What remains: a client that sends a hello and then stalls
/// the handshake holds a socket, uncounted, for Pingora's fixed 60 s.
pub struct HelloGuard {
    connections: Arc<Connections>,
    observer: Option<Arc<dyn HeadObserver>>,
    deadline: Duration,
}

impl HelloGuard {
    /// With [`HELLO_DEADLINE`]; `observer` is told of refused PROXY headers.
    pub fn new(connections: Arc<Connections>, observer: Arc<dyn HeadObserver>) -> Self {
        Self { connections, observer: Some(observer), deadline: HELLO_DEADLINE }
    }
    /// With another deadline, and nobody told.
    pub fn with_deadline(connections: Arc<Connections>, deadline: Duration) -> Self {
        Self { connections, observer: None, deadline }
    }

    /// The seat of the caller: while the header is read, that of the proxy.
    async fn seated(&self, stream: &mut L4Stream) -> pingora::Result<Seat> {
        let full = |_| refused("too many connections");
        let digest = stream.get_socket_digest();
        let facts = self.connections.facts(digest.as_deref());
        let before = self.connections.seat(digest.as_deref(), &facts).map_err(full)?;
        if !facts.proxy_protocol {
            return Ok(before);
        }
        if let Err(error) = take_header(stream, &facts).await {
            if let Some(observer) = &self.observer {
                observer.refused(error.code(), Peer::of(digest.as_deref()).inet());
            }
            return Err(pingora::Error::explain(pingora::ErrorType::HandshakeError, error.to_string()));
        }
        drop(before);
        self.connections.seat(stream.get_socket_digest().as_deref(), &facts).map_err(full)
    }
}

#[async_trait]
impl PreTlsProcess for HelloGuard {
    async fn process(&self, stream: &mut L4Stream) -> pingora::Result<()> {
        let _seat = self.seated(stream).await?;
        match tokio::time::timeout(self.deadline, hello(stream)).await {
            Ok(done) => done,
            Err(_) => Err(refused("no TLS hello in time")),
        }
    }
}

/// Reads one record and puts it back for the handshake.
async fn hello(stream: &mut L4Stream) -> pingora::Result<()> {
    let mut header = [0_u8; 5];
    stream.try_peek(&mut header).await.map_err(|_| refused("closed before its TLS hello"))?;
    // 22 is `handshake` (RFC 8446 §5.1): plain HTTP on a TLS port ends here.
    let [22, _, _, high, low] = header else {
        return Err(refused("no TLS hello"));
    };
    let whole = 5 + usize::from(u16::from_be_bytes([high, low]));
    if whole > RECORD_BYTES_MAX {
        return Err(refused("TLS record too long"));
    }
    let mut record = vec![0; whole];
    stream.try_peek(&mut record).await.map_err(|_| refused("closed within its TLS hello"))?;
    Ok(())
}

fn refused(why: &'static str) -> Box<pingora::Error> {
    pingora::Error::explain(pingora::ErrorType::HandshakeError, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    fn at(text: &str) -> Option<ClientAddr> {
        Some(ClientAddr::of_peer(SocketAddr::new(text.parse().unwrap(), 1)))
    }

    #[test]
    fn ipv6_is_grouped_by_64_bits_and_ipv4_is_not_grouped() {
        let group = |text: &str| at(text).unwrap().group();
        assert_eq!(group("2001:db8::1"), group("2001:db8::ffff:1:2:3"));
        assert_ne!(group("2001:db8::1"), group("2001:db8:0:1::1"));
        assert_ne!(group("192.0.2.1"), group("192.0.2.2"));
        assert_eq!(group("::ffff:192.0.2.1"), group("192.0.2.1"));
        assert_eq!(group("2001:db8::1").to_string(), "2001:db8::/64");
    }

    #[test]
    fn a_group_has_so_many_seats_and_gets_them_back() {
        let connections = Connections::new(ConnectionLimits { total: 10, per_group: 2 });
        let first = connections.enter(at("192.0.2.1")).unwrap();
        let _second = connections.enter(at("192.0.2.1")).unwrap();
        assert_eq!(connections.enter(at("192.0.2.1")).unwrap_err(), FullError::Group);
        assert!(connections.enter(at("192.0.2.2")).is_ok());
        drop(first);
        assert!(connections.enter(at("192.0.2.1")).is_ok());
    }

    #[test]
    fn the_total_counts_every_address_and_none() {
        let connections = Connections::new(ConnectionLimits { total: 2, per_group: 2 });
        let seats = [connections.enter(at("192.0.2.1")).unwrap(), connections.enter(None).unwrap()];
        assert_eq!(connections.enter(at("192.0.2.3")).unwrap_err(), FullError::Total);
        drop(seats);
        assert_eq!(connections.open(), 0);
        assert!(connections.counts().groups.is_empty());
    }

    #[tokio::test]
    async fn the_cap_before_tls_follows_the_counts() {
        let connections = Connections::new(ConnectionLimits { total: 9, per_group: 1 });
        let cap = ConnectionCap(Arc::clone(&connections));
        let peer = "192.0.2.1:5".parse().unwrap();
        assert!(cap.should_accept(Some(&peer)).await);
        let _seat = connections.enter(at("192.0.2.1")).unwrap();
        assert!(!cap.should_accept(Some(&peer)).await);
        assert!(cap.should_accept(Some(&"192.0.2.2:5".parse().unwrap())).await);
    }

    /// Long enough that it plays no part on a busy machine.
    const PATIENT: Duration = Duration::from_secs(60);

    /// What the guard says to a client that sends `bytes` and then waits; and what the handshake would read after it.
    async fn guarded(bytes: &[u8], deadline: Duration) -> Result<Vec<u8>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let mut stream = L4Stream::from(listener.accept().await.unwrap().0);
        let guard = HelloGuard::with_deadline(Connections::new(ConnectionLimits::default()), deadline);
        guard.process(&mut stream).await.map_err(|error| error.to_string())?;
        let mut read = vec![0; bytes.len()];
        stream.read_exact(&mut read).await.unwrap();
        Ok(read)
    }

    #[tokio::test]
    async fn a_whole_hello_passes_and_is_still_there() {
        let record = [&[22, 3, 1, 0, 4][..], b"abcd"].concat();
        assert_eq!(guarded(&record, PATIENT).await.unwrap(), record);
    }

    #[tokio::test]
    async fn a_silent_or_partial_hello_is_cut_at_its_deadline() {
        for bytes in [&b""[..], &[22, 3], &[22, 3, 1, 0, 4, b'a']] {
            let error = guarded(bytes, Duration::from_millis(50)).await.unwrap_err();
            assert!(error.contains("no TLS hello in time"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_hello_or_too_long_is_refused_at_once() {
        assert!(guarded(b"GET / HTTP/1.1\r\n", PATIENT).await.unwrap_err().contains("no TLS hello"));
        assert!(guarded(&[22, 3, 1, 0x40, 1], PATIENT).await.unwrap_err().contains("too long"));
    }
}
