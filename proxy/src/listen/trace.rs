//! `traceparent` (W3C Trace Context, level 1): which trace of somebody else's a request belongs to. Believed from trusted proxies only, since otherwise callers could
//! write themselves into other people's traces.

use super::listeners::{ListenerFacts, Peer};
use http::HeaderMap;
use std::fmt;

/// A trace that a trusted proxy began.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// The one that a trusted proxy names; `None` from everybody else, for anything malformed, and for two of them.
    pub fn of_request(facts: &ListenerFacts, peer: Peer, headers: &HeaderMap) -> Option<Self> {
        if !facts.believes_headers(peer) {
            return None;
        }
        let mut named = headers.get_all("traceparent").iter();
        match (named.next(), named.next()) {
            (Some(only), None) => Self::parse(only.to_str().ok()?),
            _ => None,
        }
    }

    /// `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, in lower case, ids not all zero.
    fn parse(text: &str) -> Option<Self> {
        let parts = text.split('-').collect::<Vec<_>>();
        let [version, trace, parent, flags] = parts.as_slice() else { return None };
        let hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
        let good = *version == "00" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
        if !good || zero(trace) || zero(parent) {
            return None;
        }
        trace.as_bytes().try_into().ok().map(Self)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::trusted::TrustedProxies;
    use http::HeaderValue;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(values: &[&str], peer: &str) -> Option<String> {
        let facts =
            ListenerFacts { trusted: TrustedProxies::of(&["10.0.0.0/8".parse().unwrap()]), ..ListenerFacts::default() };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", HeaderValue::from_str(value).unwrap());
        }
        let peer = Peer::Inet(std::net::SocketAddr::new(peer.parse().unwrap(), 1));
        TraceId::of_request(&facts, peer, &headers).map(|trace| trace.to_string())
    }

    #[test]
    fn a_trace_is_taken_from_a_trusted_proxy_and_from_nobody_else() {
        assert_eq!(of(&[GOOD], "10.0.0.1").as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(of(&[GOOD], "192.0.2.1"), None);
    }

    #[test]
    fn a_malformed_or_repeated_trace_is_dropped() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(of(&[bad], "10.0.0.1"), None, "{bad}");
        }
        assert_eq!(of(&[GOOD, GOOD], "10.0.0.1"), None);
    }
}
