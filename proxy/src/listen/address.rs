//! Where a listener listens: an IP address with its port, or a unix socket.

use pingora::protocols::l4::socket::SocketAddr as LocalAddr;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What the kernel takes as a path (`sun_path` of `sockaddr_un` on Linux: 108 bytes with the NUL).
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// `1.2.3.4:8443`, `[::1]:8443` or `unix:/path.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An IP address with its port; port 0: the system chooses.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

/// The text is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// Neither of the forms.
    #[error("`{0}` is no address to listen on: write `1.2.3.4:8443`, `[::1]:8443` or `unix:/path.sock`")]
    Form(String),
    /// `unix:` with nothing, or with a NUL.
    #[error("`unix:` wants the path of a socket file: `unix:/run/comfygate.sock`")]
    UnixPath,
}

impl ListenAddress {
    /// The IP address, unless it is a socket file.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The socket file, unless it is an IP address.
    pub fn unix(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        self.tcp().is_none_or(|address| address.ip().to_canonical().is_loopback())
    }

    /// Whether both can't be bound at once: the same file, or the same port at the same address or at every one.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(a), Self::Unix(b)) => a == b,
            (Self::Tcp(a), Self::Tcp(b)) => {
                let every = |address: &SocketAddr| address.ip().is_unspecified();
                // `[::]` also takes IPv4 connections where the system has v6only off, as Linux does.
                a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || every(a) || every(b))
            }
            _ => false,
        }
    }

    /// How surely a connection with this local end came in here; `None`: it did not.
    pub(super) fn nearness(&self, local: &LocalAddr) -> Option<Nearness> {
        match (self, local) {
            (Self::Unix(path), LocalAddr::Unix(bound)) => {
                (bound.as_pathname() == Some(path.as_path())).then_some(Nearness::Exact)
            }
            (Self::Tcp(address), LocalAddr::Inet(local)) if address.port() == local.port() => {
                if address.ip().to_canonical() == local.ip().to_canonical() {
                    Some(Nearness::Exact)
                } else {
                    address.ip().is_unspecified().then_some(Nearness::EveryAddress)
                }
            }
            _ => None,
        }
    }
}

/// See [`ListenAddress::nearness`]; the first is the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Nearness {
    Exact,
    EveryAddress,
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;
    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        match text.strip_prefix("unix:") {
            Some(path) if path.is_empty() || path.contains('\0') => Err(ListenAddressError::UnixPath),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| ListenAddressError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ListenAddress {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_ip_with_port_or_a_socket_file() {
        assert_eq!(address("[::1]:8443").tcp(), Some("[::1]:8443".parse().unwrap()));
        assert_eq!(address("unix:/run/a.sock").unix(), Some(Path::new("/run/a.sock")));
        assert_eq!(address("unix:/run/a.sock").to_string(), "unix:/run/a.sock");
        for bad in ["", "localhost:1", "1.2.3.4", "unix:", "unix", "::1:8443", "[::1]"] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_loopback_and_socket_files_are_local() {
        for local in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/a"] {
            assert!(address(local).is_local(), "{local}");
        }
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[fe80::1]:1"] {
            assert!(!address(open).is_local(), "{open}");
        }
    }

    #[test]
    fn a_connection_came_in_at_the_listener_of_its_own_end() {
        let local = |text: &str| LocalAddr::Inet(text.parse().unwrap());
        assert_eq!(address("127.0.0.1:1").nearness(&local("127.0.0.1:1")), Some(Nearness::Exact));
        assert_eq!(address("127.0.0.1:1").nearness(&local("[::ffff:127.0.0.1]:1")), Some(Nearness::Exact));
        assert_eq!(address("[::]:1").nearness(&local("10.0.0.1:1")), Some(Nearness::EveryAddress));
        assert_eq!(address("127.0.0.1:1").nearness(&local("127.0.0.1:2")), None);
        assert_eq!(address("127.0.0.1:1").nearness(&local("127.0.0.2:1")), None);
        assert_eq!(address("unix:/a").nearness(&local("127.0.0.1:1")), None);
    }
}
