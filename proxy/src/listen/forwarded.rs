//! `X-Forwarded-For`, read from the right: the part that proxies we trust have written.
//!
//! Each proxy appends the address it was called from, so the rightmost entries are those of the proxies nearest to us, and everything left of the first entry that
//! is no trusted proxy is whatever the caller wrote. `X-Forwarded-Host`, `X-Forwarded-Proto`, `Forwarded` and `X-Real-IP` are not read by anybody: our own name is
//! `public_url`'s, and one source of a caller's address is enough.

use super::connections::ClientAddr;
use super::trusted::TrustedProxies;
use http::{HeaderMap, HeaderName};
use std::net::{IpAddr, SocketAddr};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The caller that trusted proxies forward for: the rightmost entry that is not one of them. Several header lines are one list (RFC 9110 §5.2). An entry that is no address
/// ends the walk, as does the list: then it is the last trusted proxy, of which at least that much is known. `nearest` is the trusted peer.
pub fn client(nearest: ClientAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> ClientAddr {
    let mut last = nearest;
    let lines = headers.get_all(X_FORWARDED_FOR).iter().collect::<Vec<_>>();
    for line in lines.into_iter().rev() {
        // SECURITY: entry by entry from the right. Whatever the caller wrote to the left of the first foreign entry, bytes that are no text included, must not matter.
        for entry in line.as_bytes().rsplit(|byte| *byte == b',') {
            let Some(address) = std::str::from_utf8(entry).ok().and_then(address) else { return last };
            last = ClientAddr::of_ip(address);
            if !trusted.holds(address) {
                return last;
            }
        }
    }
    last
}

/// An address, with or without port: some load balancers append it.
fn address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim_matches([' ', '\t']);
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = entry.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let bracketed = entry.strip_prefix('[')?.strip_suffix(']')?;
    bracketed.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// The caller for these header lines, behind a peer 10.0.0.1 and with 10.0.0.0/8 and 2001:db8::/32 trusted.
    fn at(lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let trusted = TrustedProxies::of(&["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        client(ClientAddr::of_ip("10.0.0.1".parse().unwrap()), &headers, &trusted).to_string()
    }

    #[test]
    fn the_rightmost_entry_that_is_no_trusted_proxy_is_the_caller() {
        assert_eq!(at(&["192.0.2.1"]), "192.0.2.1");
        assert_eq!(at(&["192.0.2.9, 192.0.2.1"]), "192.0.2.1");
        assert_eq!(at(&["192.0.2.9, 192.0.2.1, 10.0.0.2 ,\t10.9.9.9"]), "192.0.2.1");
        assert_eq!(at(&["192.0.2.1,2001:db8::7"]), "192.0.2.1");
    }

    #[test]
    fn all_lines_are_one_list_from_the_first_to_the_last() {
        assert_eq!(at(&["192.0.2.9", "192.0.2.1"]), "192.0.2.1");
        assert_eq!(at(&["192.0.2.1", "10.0.0.2"]), "192.0.2.1");
    }

    #[test]
    fn with_trusted_entries_only_or_none_it_is_the_farthest_trusted_proxy() {
        assert_eq!(at(&[]), "10.0.0.1");
        assert_eq!(at(&["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn a_bad_entry_ends_the_walk_at_the_last_trusted_proxy() {
        for bad in
            ["unknown", "", "_hidden", "192.0.2", "1.2.3.4.5", "192.0.2.1 192.0.2.2", "0x7f.1", "[192.0.2.1]", "\u{e9}"]
        {
            assert_eq!(at(&[&format!("192.0.2.1, {bad}, 10.0.0.2")]), "10.0.0.2", "{bad}");
            assert_eq!(at(&["192.0.2.1", bad]), "10.0.0.1", "{bad}");
        }
    }

    #[test]
    fn what_the_caller_wrote_to_the_left_never_matters() {
        for left in ["\u{e9}", "unknown", "10.0.0.9", "192.0.2.1, 10.0.0.9", ""] {
            assert_eq!(at(&[&format!("{left}, 192.0.2.7, 10.0.0.2")]), "192.0.2.7", "{left}");
            assert_eq!(at(&[left, "192.0.2.7"]), "192.0.2.7", "{left}");
        }
    }

    #[test]
    fn ports_and_brackets_are_taken_off() {
        assert_eq!(at(&["192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(at(&["[2001:db9::1]:4711"]), "2001:db9::1");
        assert_eq!(at(&["[2001:db9::1]"]), "2001:db9::1");
        assert_eq!(at(&["192.0.2.1:99999"]), "10.0.0.1");
    }

    #[test]
    fn an_ipv4_address_written_as_ipv6_is_the_ipv4_one() {
        assert_eq!(at(&["::ffff:192.0.2.1"]), "192.0.2.1");
        assert_eq!(at(&["192.0.2.1, ::ffff:10.0.0.2"]), "192.0.2.1");
    }
}
