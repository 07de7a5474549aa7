//! Which proxies in front of us are believed: networks, and unix sockets.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// One entry of `trusted_proxies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrustedProxy {
    /// Addresses.
    Network(Network),
    /// Whoever may open the unix socket: its mode decides.
    Unix,
}

/// An IPv4 or IPv6 network. An IPv4 network written as IPv6 (`::ffff:10.0.0.0/104`) is the IPv4 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// The text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not `address` or `address/bits`.
    #[error("`{0}` is no network: write an address, `10.0.0.0/8`, `2001:db8::/32` or `unix`")]
    Form(String),
    /// More bits than the address has.
    #[error("`{text}` has more than {max} bits")]
    Bits {
        /// As written.
        text: String,
        /// 32 or 128.
        max: u8,
    },
    /// `0.0.0.0/0` and the like.
    #[error("`{0}` would believe everybody: any caller could choose its own address")]
    Everybody(String),
    /// Bits set beyond the prefix: either the address or the length is not what was meant.
    #[error("`{text}` has bits set beyond its length; the network is `{network}`")]
    HostBits {
        /// As written.
        text: String,
        /// With those bits cleared.
        network: Network,
    },
}

impl Network {
    /// Whether the address lies within.
    pub fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }

    /// Whether all of the other network lies within.
    pub fn contains(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.holds(other.address)
    }
}

/// The address with everything after its first `bits` cleared.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let form = || NetworkError::Form(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(decimal(bits).ok_or_else(form)?)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| form())?;
        let max = if written.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(max);
        if bits > max {
            return Err(NetworkError::Bits { text: text.to_owned(), max });
        }
        let (address, bits) = match (written.to_canonical(), bits.checked_sub(96)) {
            (canonical @ IpAddr::V4(_), Some(bits)) if written.is_ipv6() => (canonical, bits),
            _ => (written, bits),
        };
        if bits == 0 {
            return Err(NetworkError::Everybody(text.to_owned()));
        }
        let network = Self { address: masked(address, bits), bits };
        if network.address == address {
            Ok(network)
        } else {
            Err(NetworkError::HostBits { text: text.to_owned(), network })
        }
    }
}

/// Digits without sign and leading zero.
fn decimal(text: &str) -> Option<u8> {
    let number: u8 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for TrustedProxy {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if text == "unix" { Ok(Self::Unix) } else { text.parse().map(Self::Network) }
    }
}

/// `trusted_proxies` of one listener; nobody by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    /// Whoever comes by the unix socket.
    pub unix: bool,
}

impl TrustedProxies {
    /// These entries together.
    pub fn of(entries: &[TrustedProxy]) -> Self {
        let networks = entries.iter().filter_map(|entry| match entry {
            TrustedProxy::Network(network) => Some(*network),
            TrustedProxy::Unix => None,
        });
        Self { networks: networks.collect(), unix: entries.contains(&TrustedProxy::Unix) }
    }

    /// Whether the address is a trusted proxy's.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.holds(address))
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().holds(address.parse().unwrap())
    }

    #[test]
    fn a_network_holds_its_first_and_last_address_and_not_the_next() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
            ("192.0.2.128/25", ["192.0.2.128", "192.0.2.255"], ["192.0.2.127", "192.0.3.0"]),
            ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1"], ["192.0.2.0", "192.0.2.2"]),
            ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::"], ["2001:db7::1", "2001:db9::"]),
            ("::1", ["::1", "::1"], ["::2", "127.0.0.1"]),
        ] {
            assert!(inside.iter().all(|address| holds(network, address)), "{network}");
            assert!(outside.iter().all(|address| !holds(network, address)), "{network}");
        }
    }

    #[test]
    fn an_ipv4_network_written_as_ipv6_is_the_ipv4_one() {
        assert_eq!("::ffff:10.0.0.0/104".parse::<Network>().unwrap(), "10.0.0.0/8".parse().unwrap());
        assert!(!holds("::/1", "10.0.0.1"));
    }

    #[test]
    fn what_would_believe_everybody_or_is_not_exact_is_refused() {
        for bad in ["0.0.0.0/0", "::/0", "::ffff:0.0.0.0/96"] {
            assert!(matches!(bad.parse::<Network>(), Err(NetworkError::Everybody(_))), "{bad}");
        }
        let error = "10.1.2.3/8".parse::<Network>().unwrap_err();
        assert!(error.to_string().contains("the network is `10.0.0.0/8`"), "{error}");
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0.0/", "10.0/8", "x", "a.example"]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn unix_is_an_entry_of_its_own() {
        let only = TrustedProxies::of(&["unix".parse().unwrap()]);
        assert!(only.unix && !only.holds("127.0.0.1".parse().unwrap()) && !only.is_empty());
        assert!(TrustedProxies::default().is_empty());
    }
}
