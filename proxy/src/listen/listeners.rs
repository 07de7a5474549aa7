//! What each listener is told about whoever stands in front of it, and the callers' addresses that follow.
//!
//! A connection knows its listener by its own end (`getsockname`), so one service of Pingora carries all of them. What is not found has [`ListenerFacts::default`]:
//! nobody is trusted.

use super::address::ListenAddress;
use super::connections::ClientAddr;
use super::forwarded;
use super::trusted::TrustedProxies;
use http::HeaderMap;
use pingora::protocols::SocketDigest;
use pingora::protocols::l4::socket::SocketAddr as EndAddr;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What the configuration says of one listener's surroundings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerFacts {
    /// Whose word about callers counts here.
    pub trusted: TrustedProxies,
    /// Each connection begins with a PROXY header; one without is closed.
    pub proxy_protocol: bool,
    /// The terminator in front takes the path of `public_url` off, so that requests come without it.
    pub prefix_stripped: bool,
    /// No TLS on this socket.
    pub plain: bool,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP connection; or what a trusted PROXY header said instead.
    Inet(SocketAddr),
    /// A unix socket.
    Unix,
    /// A stream within the process.
    None,
}

impl Peer {
    /// As the socket has it.
    pub fn of(digest: Option<&SocketDigest>) -> Self {
        match digest.map(|digest| (digest.peer_addr(), digest.local_addr())) {
            Some((Some(EndAddr::Inet(peer)), _)) => Self::Inet(*peer),
            Some((_, Some(EndAddr::Unix(_)))) => Self::Unix,
            _ => Self::None,
        }
    }

    /// The IP address with its port, where there is one.
    pub fn inet(self) -> Option<SocketAddr> {
        match self {
            Self::Inet(peer) => Some(peer),
            Self::Unix | Self::None => None,
        }
    }

    /// What this peer is called where nothing better is known.
    pub fn address(self) -> ClientAddr {
        self.inet().map_or(ClientAddr::UNKNOWN, ClientAddr::of_peer)
    }
}

impl ListenerFacts {
    /// Whether the peer is one of the trusted proxies.
    pub fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Inet(peer) => self.trusted.holds(peer.ip()),
            Peer::Unix => self.trusted.unix,
            Peer::None => false,
        }
    }

    /// Whose connection this is, for the cap on connections from one place; `None`: only the total counts. One proxy carries the connections of all its callers, so a
    /// trusted one has no cap of its own.
    pub fn counted(&self, peer: Peer) -> Option<ClientAddr> {
        match peer {
            Peer::Inet(address) if !self.trusts(peer) => Some(ClientAddr::of_peer(address)),
            _ => None,
        }
    }

    /// Whether header fields about the caller (`X-Forwarded-For`, `traceparent`) are believed. Behind the PROXY protocol they are not: what wrote that header reads no
    /// HTTP, so such fields are the caller's own.
    pub fn believes_headers(&self, peer: Peer) -> bool {
        !self.proxy_protocol && self.trusts(peer)
    }

    /// The caller: the peer, or whom a trusted proxy forwards for.
    pub fn client(&self, peer: Peer, headers: &HeaderMap) -> ClientAddr {
        if self.believes_headers(peer) {
            forwarded::client(peer.address(), headers, &self.trusted)
        } else {
            peer.address()
        }
    }
}

/// The listeners of now: a reload may change what they are told.
pub trait Listeners: Send + Sync {
    /// Of the listener that a connection with this local end came in at.
    fn facts(&self, local: Option<&EndAddr>) -> Arc<ListenerFacts>;

    /// Whether an address is a trusted proxy at any listener: for the check before it is known which one it is.
    fn trusted_anywhere(&self, peer: IpAddr) -> bool;
}

/// No listener is told anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFacts;

impl Listeners for NoFacts {
    fn facts(&self, _local: Option<&EndAddr>) -> Arc<ListenerFacts> {
        Arc::default()
    }
    fn trusted_anywhere(&self, _peer: IpAddr) -> bool {
        false
    }
}

impl fmt::Debug for dyn Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listeners")
    }
}

/// The facts of the nearest listener of `all`; the default where none fits.
pub fn nearest<'a>(
    all: impl IntoIterator<Item = (&'a ListenAddress, &'a Arc<ListenerFacts>)>,
    local: Option<&EndAddr>,
) -> Arc<ListenerFacts> {
    let Some(local) = local else { return Arc::default() };
    let fitting = all.into_iter().filter_map(|(address, facts)| Some((address.nearness(local)?, facts)));
    fitting.min_by_key(|(nearness, _)| *nearness).map(|(_, facts)| Arc::clone(facts)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn facts(trusted: &str) -> ListenerFacts {
        let trusted = TrustedProxies::of(&[trusted.parse().unwrap()]);
        ListenerFacts { trusted, ..ListenerFacts::default() }
    }

    fn peer(text: &str) -> Peer {
        Peer::Inet(SocketAddr::new(text.parse().unwrap(), 1))
    }

    fn client(facts: &ListenerFacts, from: Peer) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
        facts.client(from, &headers).to_string()
    }

    #[test]
    fn x_forwarded_for_counts_from_a_trusted_proxy_and_from_nobody_else() {
        assert_eq!(client(&facts("10.0.0.0/8"), peer("10.1.1.1")), "192.0.2.7");
        assert_eq!(client(&facts("10.0.0.0/8"), peer("11.1.1.1")), "11.1.1.1");
        assert_eq!(client(&facts("unix"), Peer::Unix), "192.0.2.7");
        assert_eq!(client(&facts("10.0.0.0/8"), Peer::Unix), ClientAddr::UNKNOWN.to_string());
        assert_eq!(client(&facts("unix"), Peer::None), ClientAddr::UNKNOWN.to_string());
    }

    #[test]
    fn behind_the_proxy_protocol_x_forwarded_for_is_the_callers_own_and_ignored() {
        let facts = ListenerFacts { proxy_protocol: true, ..facts("10.0.0.0/8") };
        assert_eq!(client(&facts, peer("10.1.1.1")), "10.1.1.1");
    }

    #[test]
    fn a_trusted_proxy_has_no_cap_of_its_own_and_others_have() {
        let facts = facts("10.0.0.0/8");
        assert_eq!(facts.counted(peer("10.1.1.1")), None);
        assert_eq!(facts.counted(peer("11.1.1.1")), Some(peer("11.1.1.1").address()));
        assert_eq!(facts.counted(Peer::Unix), None);
    }

    #[test]
    fn the_nearest_listener_wins_and_an_unknown_one_trusts_nobody() {
        let address = |text: &str| -> ListenAddress { text.parse().unwrap() };
        let (every, one) = (Arc::new(facts("10.0.0.0/8")), Arc::new(facts("unix")));
        let all = [(address("0.0.0.0:1"), &every), (address("127.0.0.1:1"), &one)];
        let at = |text: &str| {
            let local = EndAddr::Inet(text.parse().unwrap());
            nearest(all.iter().map(|(address, facts)| (address, *facts)), Some(&local))
        };
        assert_eq!(at("127.0.0.1:1"), one);
        assert_eq!(at("192.0.2.1:1"), every);
        assert_eq!(*at("127.0.0.1:2"), ListenerFacts::default());
        assert_eq!(*nearest([], None), ListenerFacts::default());
    }
}
