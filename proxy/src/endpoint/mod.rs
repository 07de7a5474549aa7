//! `BackendEndpoint`: the only way any of our three clients (hyper, tungstenite, Pingora) reaches a backend.
//!
//! One type so that addresses, TLS, the `Host`, a path prefix and fixed headers are decided in one place: [`url`] reads the address, [`tls`] makes the
//! client side of a TLS connection, [`headers`] says which fixed headers may be, [`resolve`] turns names into addresses, [`peer`] hands all of it to
//! Pingora. [`BackendEndpoint::connect`] makes every connection.

pub mod headers;
pub mod peer;
pub mod resolve;
pub mod tls;
pub mod url;

use headers::FixedHeaders;
use http::header::HeaderMap;
use resolve::Resolved;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tls::ClientTls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
pub use url::{Address, BackendUrl, EndpointError};

/// How long one try to connect may take: a process that listens on loopback or in one rack answers in milliseconds. Several addresses of one name share it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What each of several addresses gets at least.
const ADDRESS_TIMEOUT_MIN: Duration = Duration::from_millis(500);
/// For the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection to a backend can do, whichever kind it is.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + Sync + fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync + fmt::Debug> Transport for T {}

/// A connection to a backend.
pub type Stream = Box<dyn Transport>;

/// Where a ComfyUI listens, and how it is spoken to. Cheap to clone.
#[derive(Clone)]
pub struct BackendEndpoint(Arc<Inner>);

struct Inner {
    url: BackendUrl,
    tls: Option<ClientTls>,
    headers: FixedHeaders,
    resolved: Resolved,
}

/// A connection before anything is laid over it.
enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl BackendEndpoint {
    /// An endpoint. TLS is used if, and only if, the URL says so: `tls` must be there for `https` and nowhere else.
    ///
    /// # Errors
    /// [`EndpointError::TlsMismatch`].
    pub fn new(url: BackendUrl, tls: Option<ClientTls>, headers: FixedHeaders) -> Result<Self, EndpointError> {
        if url.is_https() != tls.is_some() {
            return Err(EndpointError::TlsMismatch(url.to_string()));
        }
        let resolved = Resolved::default();
        Ok(Self(Arc::new(Inner { url, tls, headers, resolved })))
    }

    /// An endpoint that needs no more than its URL: `http` or `unix`.
    ///
    /// # Errors
    /// [`EndpointError`] says which part is wrong.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        Self::new(BackendUrl::parse(url)?, None, FixedHeaders::default())
    }

    /// The address as it was written.
    pub fn url(&self) -> &BackendUrl {
        &self.0.url
    }

    /// The `Host` that upstream sees: the endpoint's own, never the caller's. ComfyUI resolves it on its event loop (facts §2.1), so it must be cheap to resolve.
    pub fn authority(&self) -> String {
        self.0.url.authority()
    }

    /// Where a path of ComfyUI's is behind this endpoint: the prefix in front. `path` begins with a slash and may have a query.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.0.url.prefix())
    }

    /// Headers that every request to this backend carries. Their values are secrets and marked as such.
    pub fn headers(&self) -> &HeaderMap {
        self.0.headers.map()
    }

    /// A fresh connection, TLS included. Nothing is pooled: no byte that another request framed can be on it (facts §2.4).
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody listens at any of the addresses, `TimedOut`, what the system or the handshake said.
    pub async fn connect(&self) -> io::Result<Stream> {
        let plain = self.connect_plain().await?;
        let Some(tls) = &self.0.tls else {
            return Ok(match plain {
                Plain::Tcp(stream) => Box::new(stream),
                Plain::Unix(stream) => Box::new(stream),
            });
        };
        match plain {
            Plain::Tcp(stream) => {
                let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.connect(stream)).await;
                let stream = handshake
                    .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time")))?;
                Ok(Box::new(stream))
            }
            // `https` names a host: see `url`.
            Plain::Unix(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "TLS over a unix socket")),
        }
    }

    async fn connect_plain(&self) -> io::Result<Plain> {
        match self.0.url.address() {
            Address::Unix(path) => {
                let connecting = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(path));
                match connecting.await {
                    Ok(Ok(stream)) => Ok(Plain::Unix(stream)),
                    // A socket file that is not there yet, or any more, means what a closed port means.
                    Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                        Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the socket file is not there"))
                    }
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                }
            }
            Address::Tcp { host, port } => self.connect_tcp(host, *port).await.map(Plain::Tcp),
        }
    }

    /// Tries every address of the name in turn. That nobody listens is only said if it is so at all of them.
    async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let lookup = tokio::time::timeout(CONNECT_TIMEOUT, self.0.resolved.addresses(host, port));
        let addresses = lookup.await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("`{host}` could not be looked up in time")))
        })?;
        let share = CONNECT_TIMEOUT / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut failed: Option<io::Error> = None;
        for address in addresses {
            let connecting = tokio::time::timeout(share.max(ADDRESS_TIMEOUT_MIN), TcpStream::connect(address));
            let error = match connecting.await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            failed = Some(match failed {
                Some(first) if first.kind() != io::ErrorKind::ConnectionRefused => first,
                _ => error,
            });
        }
        // The name may mean another machine by now.
        self.0.resolved.forget();
        Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address"))))
    }
}

/// Equal: the same address, trust, identity and headers. A reload keeps a backend whose endpoint is equal.
impl PartialEq for BackendEndpoint {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        a.url == b.url && a.tls == b.tls && a.headers == b.headers
    }
}
impl Eq for BackendEndpoint {}

impl Hash for BackendEndpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.url.hash(state);
        self.0.tls.as_ref().map(ClientTls::digest).hash(state);
    }
}

impl fmt::Display for BackendEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.url.fmt(f)
    }
}

/// The URL and no more: headers and keys are secrets.
impl fmt::Debug for BackendEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendEndpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    fn endpoint(url: &str) -> BackendEndpoint {
        BackendEndpoint::parse(url).unwrap()
    }

    #[tokio::test]
    async fn a_closed_port_and_a_missing_socket_file_both_mean_that_nobody_listens() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let missing = format!("unix:{}", directory.path().join("s").display());
        for url in [format!("http://{free}"), missing] {
            assert_eq!(endpoint(&url).connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{url}");
        }
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried_until_one_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // On machines whose `localhost` has an IPv6 address first, that one refuses.
        let (connected, accepted) = tokio::join!(
            async { endpoint(&format!("http://localhost:{port}")).connect().await },
            tokio::time::timeout(Duration::from_secs(20), listener.accept())
        );
        assert!(connected.is_ok() && accepted.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_unix_socket_carries_bytes_both_ways() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("comfy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut four = [0; 4];
            stream.read_exact(&mut four).await.unwrap();
            stream.write_all(&four).await.unwrap();
        });
        let mut stream = endpoint(&format!("unix:{}", path.display())).connect().await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut four = [0; 4];
        stream.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"ping");
        server.await.unwrap();
    }

    #[test]
    fn https_is_never_spoken_without_a_trust_and_http_never_with_one() {
        assert!(matches!(BackendEndpoint::parse("https://x"), Err(EndpointError::TlsMismatch(_))));
        let tls = tls::tests::client();
        let with = |url: &str| {
            BackendEndpoint::new(BackendUrl::parse(url).unwrap(), Some(tls.clone()), FixedHeaders::default())
        };
        assert!(with("http://x").is_err());
        assert!(with("https://x").is_ok());
    }

    #[test]
    fn the_prefix_stands_before_every_path_and_a_changed_header_is_another_endpoint() {
        assert_eq!(endpoint("http://x/comfy/").path("/prompt"), "/comfy/prompt");
        assert_eq!(endpoint("http://x").path("/view?a=b"), "/view?a=b");
        let with = |value: &str| {
            let mut headers = FixedHeaders::default();
            headers.insert("x-backend-key", value.as_bytes()).unwrap();
            BackendEndpoint::new(BackendUrl::parse("http://x").unwrap(), None, headers).unwrap()
        };
        assert!(with("a") == with("a") && with("a") != with("b"));
        let shown = format!("{:?} {}", with("hunter2"), with("hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
