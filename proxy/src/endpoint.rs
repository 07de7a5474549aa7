//! `BackendEndpoint`: the only way any of our clients reaches a backend.
//!
//! One type so that addresses, TLS, SNI and fixed headers are decided in one place. This release speaks plain `http` to a host and port; `https`,
//! `unix` and path prefixes are refused when the configuration is read, with that reason.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a connection to a backend may take: a process that listens on loopback or in one rack answers in milliseconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a ComfyUI listens.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BackendEndpoint {
    host: String,
    port: u16,
}

/// Why a text is no backend address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not `scheme://…` or an impossible host or port.
    #[error("`{0}` is no backend URL: write `http://HOST:PORT`, such as `http://127.0.0.1:8188`")]
    Malformed(String),
    /// A scheme that a later release speaks.
    #[error("`{0}`: backends by `{1}` are not built yet; only `http://HOST:PORT` is")]
    NotYet(String, &'static str),
    /// Something beside host and port.
    #[error("`{0}`: a backend URL is scheme, host and port only; {1} is not built yet")]
    Extra(String, &'static str),
}

impl BackendEndpoint {
    /// Reads `http://HOST[:PORT]`; IPv6 in brackets; port 80 when left out, as in any URL.
    ///
    /// # Errors
    /// [`EndpointError`] says which part is wrong.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Malformed(url.to_owned());
        for (prefix, scheme) in [("https://", "https"), ("unix:", "unix")] {
            if url.starts_with(prefix) {
                return Err(EndpointError::NotYet(url.to_owned(), scheme));
            }
        }
        let rest = url.strip_prefix("http://").ok_or_else(malformed)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        for (mark, what) in [('/', "a path prefix"), ('?', "a query"), ('#', "a fragment"), ('@', "a user name")] {
            if rest.contains(mark) {
                return Err(EndpointError::Extra(url.to_owned(), what));
            }
        }
        let authority: http::uri::Authority = rest.parse().map_err(|_| malformed())?;
        // `authority.port()` is `None` for a port out of range as well as for none.
        let port = match rest.strip_prefix(authority.host()) {
            Some("") => 80,
            _ => authority.port_u16().filter(|port| *port != 0).ok_or_else(malformed)?,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() { Err(malformed()) } else { Ok(Self { host, port }) }
    }

    /// The `Host` that upstream sees: the endpoint's own, never the caller's. ComfyUI resolves it on its event loop (facts §2.1), so it must be cheap to resolve.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// An address now; names are resolved anew at each call, off the caller's thread.
    ///
    /// # Errors
    /// What the resolver said, or `NotFound` for a name without address.
    pub async fn resolve(&self) -> io::Result<SocketAddr> {
        let mut found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("`{}` has no address", self.host)))
    }

    /// A fresh connection. Nothing is pooled: no byte that another request framed can be on it (facts §2.4).
    ///
    /// # Errors
    /// `TimedOut` after [`CONNECT_TIMEOUT`], else what the system said.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let connecting = async {
            let stream = TcpStream::connect(self.resolve().await?).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl fmt::Display for BackendEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl fmt::Debug for BackendEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendEndpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_read_and_shown_again() {
        for (url, shown) in [
            ("http://127.0.0.1:8188", "http://127.0.0.1:8188"),
            ("http://127.0.0.1:8188/", "http://127.0.0.1:8188"),
            ("http://gpu-3.rack", "http://gpu-3.rack:80"),
            ("http://[::1]:8188", "http://[::1]:8188"),
        ] {
            assert_eq!(BackendEndpoint::parse(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_backend_url_is_refused_with_the_reason() {
        for url in ["", "127.0.0.1:8188", "ftp://x:1", "http://", "http://x:0", "http://x:99999", "http://x:"] {
            assert!(matches!(BackendEndpoint::parse(url), Err(EndpointError::Malformed(_))), "{url}");
        }
        assert!(matches!(BackendEndpoint::parse("https://x"), Err(EndpointError::NotYet(_, "https"))));
        assert!(matches!(BackendEndpoint::parse("unix:/x"), Err(EndpointError::NotYet(_, "unix"))));
        assert!(matches!(BackendEndpoint::parse("http://x/comfy"), Err(EndpointError::Extra(_, "a path prefix"))));
        assert!(matches!(BackendEndpoint::parse("http://u@x"), Err(EndpointError::Extra(_, "a user name"))));
    }
}
