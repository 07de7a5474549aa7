//! Fetches a key set: one request to the configured address, on a connection of its own, bounded in time and size. Whatever else identity providers are asked goes the same way
//! ([`HttpFetcher::exchange`]).
//!
//! No redirect is followed, no proxy is used, no other host is ever asked. The name is resolved anew for each fetch. Nothing of the answer but body, status and
//! `Cache-Control` is used.

use super::document::DOCUMENT_BYTES_MAX;
use super::url::JwksUrl;
use async_trait::async_trait;
use bytes::Bytes;
use comfygate_policy::Digest;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use pingora_rustls::TlsConnector;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// For everything together: name, connection, TLS, answer.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried, in the resolver's order.
const ADDRESSES_MAX: usize = 4;

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// At most [`DOCUMENT_BYTES_MAX`] bytes.
    pub body: Bytes,
    /// `max-age` of `Cache-Control`, if any; zero for `no-cache` and `no-store`.
    pub max_age: Option<Duration>,
}

/// Why there is no key set. For the log: it may name addresses.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name leads nowhere.
    #[error("`{0}` can't be resolved: {1}")]
    Resolve(String, io::Error),
    /// A plain address that is not this machine's.
    #[error("`{0}` leads to no address that may be asked without TLS")]
    NotThisMachine(String),
    /// Nobody listens, or TLS failed: a certificate that is not trusted, a wrong name.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// Not HTTP, or cut short.
    #[error("no answer: {0}")]
    Http(String),
    /// Redirects are not followed: the address in the configuration is the one that is trusted.
    #[error(
        "answered {0}, a redirect, which is not followed: configure the address that it leads to, if that is the issuer's"
    )]
    Redirect(u16),
    /// Another status than 200.
    #[error("answered {0}")]
    Status(u16),
    /// A compression that was not asked for.
    #[error("answered with a `Content-Encoding`, which was not asked for")]
    Encoded,
    /// Over so many bytes.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// Over [`FETCH_TIMEOUT`].
    #[error("no answer within {FETCH_TIMEOUT:?}")]
    Timeout,
}

/// Where key sets come from: the network, or a test.
#[async_trait]
pub trait FetchKeys: Send + Sync {
    /// One fetch, however long it takes; whoever calls bounds its time.
    ///
    /// # Errors
    /// [`FetchError`].
    async fn fetch(&self) -> Result<Fetched, FetchError>;
}

/// The certificates that an `https` key set is trusted by.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// Of the file; `None`: those that ship.
    digest: Option<Digest>,
}

/// A file that holds no certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no CA certificate in PEM (`-----BEGIN CERTIFICATE-----`): {0}")]
pub struct RootsError(String);

impl Roots {
    /// Those that browsers trust, as of this release.
    pub fn shipped() -> Self {
        let store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Self { store: Arc::new(store), digest: None }
    }

    /// Those of a PEM file, and no other.
    ///
    /// # Errors
    /// [`RootsError`]: nothing in it, or something that can't be read.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| RootsError(error.to_string()))?;
            store.add(certificate).map_err(|error| RootsError(error.to_string()))?;
        }
        if store.is_empty() {
            return Err(RootsError("the file has none".to_owned()));
        }
        Ok(Self { store: Arc::new(store), digest: Some(Digest::of(pem)) })
    }

    /// Tells one set of certificates from another.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({} certificates)", self.store.len())
    }
}

/// Fetches from one address.
pub struct HttpFetcher {
    url: JwksUrl,
    tls: Option<TlsConnector>,
}

impl HttpFetcher {
    /// A fetcher of that address; `roots` count for `https` only.
    pub fn new(url: JwksUrl, roots: &Roots) -> Self {
        let tls = url.is_https().then(|| connector(Arc::clone(&roots.store))).flatten();
        Self { url, tls }
    }

    async fn connected(&self) -> Result<TcpStream, FetchError> {
        let name = || self.url.host().to_owned();
        let found = tokio::net::lookup_host((self.url.host(), self.url.port())).await;
        let found = found.map_err(|error| FetchError::Resolve(name(), error))?;
        // SECURITY: `localhost` of a strange resolver is somebody else's machine, and plain HTTP has no certificate to show it.
        let addresses = found.filter(|address| self.url.may_ask(address.ip())).take(ADDRESSES_MAX);
        let mut last = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| FetchError::NotThisMachine(name()), FetchError::Connect))
    }
}

/// HTTP/1.1 over TLS by these roots. `None` cannot happen with ring's own provider; if it did, every fetch would fail.
fn connector(roots: Arc<RootCertStore>) -> Option<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(TlsConnector::from(Arc::new(config)))
}

/// Which statuses are an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statuses {
    /// 200 alone.
    Ok,
    /// All but redirects: errors have a body that says more.
    Any,
}

impl HttpFetcher {
    /// A `GET` of the address.
    fn get(&self) -> Result<Request<Full<Bytes>>, FetchError> {
        let request = Request::get(self.url.target()).header(ACCEPT, "application/json");
        request.body(Full::default()).map_err(|error| FetchError::Http(error.to_string()))
    }

    /// One request to this address, whatever target it names, however long it takes; whoever calls bounds its time. `Host` and `User-Agent` are written here.
    ///
    /// # Errors
    /// [`FetchError`]: an answer of more than `bytes_max` bytes among them.
    pub async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        statuses: Statuses,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, FetchError> {
        let host = self.url.authority().parse().map_err(|_| FetchError::Http("no host".to_owned()))?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("comfygate"));
        let stream = self.connected().await?;
        if !self.url.is_https() {
            return ask(stream, request, statuses, bytes_max).await;
        }
        let unusable = |what: &str| FetchError::Connect(io::Error::other(what.to_owned()));
        let connector = self.tls.as_ref().ok_or_else(|| unusable("TLS can't be set up"))?;
        let name = ServerName::try_from(self.url.host().to_owned()).map_err(|_| unusable("no name that TLS knows"))?;
        let stream = connector.connect(name, stream).await.map_err(FetchError::Connect)?;
        ask(stream, request, statuses, bytes_max).await
    }

    /// A document at the address, and how long it may be kept.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn document(&self, bytes_max: usize) -> Result<Fetched, FetchError> {
        let answer = self.exchange(self.get()?, Statuses::Ok, bytes_max).await?;
        let max_age = max_age(answer.headers());
        Ok(Fetched { body: answer.into_body(), max_age })
    }
}

#[async_trait]
impl FetchKeys for HttpFetcher {
    async fn fetch(&self) -> Result<Fetched, FetchError> {
        self.document(DOCUMENT_BYTES_MAX).await
    }
}

/// One request on a fresh connection.
async fn ask<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    statuses: Statuses,
    bytes_max: usize,
) -> Result<Response<Bytes>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lost = |error: hyper::Error| FetchError::Http(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let answering = async {
        let response = sender.send_request(request).await.map_err(lost)?;
        check_head(response.status(), response.headers(), statuses)?;
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, bytes_max).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(FetchError::TooLarge(bytes_max)),
            Err(error) => return Err(FetchError::Http(error.to_string())),
        };
        Ok(Response::from_parts(head, body))
    };
    // The connection is driven here and not in a task of its own: it ends with this future, whatever the other side does.
    tokio::pin!(answering);
    tokio::select! {
        biased;
        answer = &mut answering => answer,
        ended = connection => match ended {
            // Closed after its last byte: what was read is handed out.
            Ok(()) => answering.await,
            Err(error) => Err(lost(error)),
        },
    }
}

fn check_head(status: StatusCode, headers: &HeaderMap, statuses: Statuses) -> Result<(), FetchError> {
    if status.is_redirection() {
        return Err(FetchError::Redirect(status.as_u16()));
    }
    if statuses == Statuses::Ok && status != StatusCode::OK {
        return Err(FetchError::Status(status.as_u16()));
    }
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Err(FetchError::Encoded),
        _ => Ok(()),
    }
}

/// `max-age` in seconds (RFC 9111 §5.2.2.1); of several the smallest.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let words = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let ages = words.flat_map(|value| value.split(',')).filter_map(|word| {
        let word = word.trim().to_ascii_lowercase();
        match word.strip_prefix("max-age=") {
            Some(seconds) => seconds.trim_matches('"').parse().ok(),
            None => matches!(word.as_str(), "no-cache" | "no-store").then_some(0),
        }
    });
    ages.min().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn max_age_is_read_wherever_it_stands() {
        let age = |values: &[&str]| max_age(&headers(CACHE_CONTROL, values)).map(|age| age.as_secs());
        assert_eq!(age(&["public, max-age=300"]), Some(300));
        assert_eq!(age(&["Max-Age=\"60\""]), Some(60));
        assert_eq!(age(&["max-age=300", "max-age=20"]), Some(20));
        assert_eq!(age(&["no-store"]), Some(0));
        assert_eq!(age(&["public"]), None);
        assert_eq!(age(&["max-age=soon"]), None);
        assert_eq!(age(&[]), None);
    }

    #[test]
    fn only_a_plain_200_is_an_answer() {
        let none = HeaderMap::new();
        assert!(check_head(StatusCode::OK, &none, Statuses::Ok).is_ok());
        assert!(matches!(check_head(StatusCode::FOUND, &none, Statuses::Ok), Err(FetchError::Redirect(302))));
        assert!(matches!(check_head(StatusCode::NO_CONTENT, &none, Statuses::Ok), Err(FetchError::Status(204))));
        assert!(matches!(check_head(StatusCode::NOT_FOUND, &none, Statuses::Ok), Err(FetchError::Status(404))));
        assert!(check_head(StatusCode::OK, &headers(CONTENT_ENCODING, &["identity"]), Statuses::Ok).is_ok());
        let packed = headers(CONTENT_ENCODING, &["gzip"]);
        assert!(matches!(check_head(StatusCode::OK, &packed, Statuses::Ok), Err(FetchError::Encoded)));
        assert!(check_head(StatusCode::BAD_REQUEST, &none, Statuses::Any).is_ok());
        assert!(matches!(check_head(StatusCode::SEE_OTHER, &none, Statuses::Any), Err(FetchError::Redirect(303))));
    }

    /// One answer of a plain server on this machine, as it stands.
    async fn answered(answer: Vec<u8>) -> Result<Fetched, FetchError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &answer).await;
        };
        let url = format!("http://127.0.0.1:{port}/keys").parse().unwrap();
        let fetcher = HttpFetcher::new(url, &Roots::shipped());
        tokio::join!(server, fetcher.fetch()).1
    }

    fn with_body(head: &str, bytes: usize) -> Vec<u8> {
        [format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").into_bytes(), vec![b' '; bytes]].concat()
    }

    #[tokio::test]
    async fn an_answer_has_a_longest_whether_it_says_its_length_or_not() {
        let sized = |bytes: usize| with_body(&format!("content-length: {bytes}"), bytes);
        assert_eq!(answered(sized(DOCUMENT_BYTES_MAX)).await.unwrap().body.len(), DOCUMENT_BYTES_MAX);
        assert!(matches!(answered(sized(DOCUMENT_BYTES_MAX + 1)).await, Err(FetchError::TooLarge(_))));
        let unsized_ = |bytes| with_body("connection: close", bytes);
        assert_eq!(answered(unsized_(DOCUMENT_BYTES_MAX)).await.unwrap().body.len(), DOCUMENT_BYTES_MAX);
        assert!(matches!(answered(unsized_(DOCUMENT_BYTES_MAX + 1)).await, Err(FetchError::TooLarge(_))));
    }

    #[tokio::test]
    async fn nothing_is_unpacked_and_no_redirect_is_followed() {
        let packed = with_body("content-encoding: gzip\r\ncontent-length: 5", 5);
        assert!(matches!(answered(packed).await, Err(FetchError::Encoded)));
        let elsewhere = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n".to_vec();
        assert!(matches!(answered(elsewhere).await, Err(FetchError::Redirect(302))));
        // What kind of text it says it is, is not looked at: issuers say several things.
        assert!(answered(with_body("content-type: text/plain\r\ncontent-length: 5", 5)).await.is_ok());
    }

    #[test]
    fn roots_are_those_of_the_file_and_a_file_without_any_is_refused() {
        assert!(Roots::shipped().store.len() > 50);
        assert!(Roots::from_pem(b"").is_err());
        assert!(Roots::from_pem(include_bytes!("../jwt/fixtures/rsa2048.pub.pem")).is_err());
        let made = rcgen::generate_simple_self_signed(vec!["id.example".to_owned()]).unwrap();
        let pem = made.cert.pem();
        let roots = Roots::from_pem(pem.as_bytes()).unwrap();
        assert_eq!((roots.store.len(), roots.digest()), (1, Some(Digest::of(pem.as_bytes()))));
        let twice = format!("{pem}{pem}");
        assert_ne!(Roots::from_pem(twice.as_bytes()).unwrap().digest(), roots.digest());
    }

    /// An `https` server on this machine for one name, and its certificate in PEM. It answers every connection with one key set.
    async fn https_server(name: &str) -> (u16, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
        let acceptor = pingora_rustls::TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust us ends here.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let answer = b"HTTP/1.1 200 OK\r\ncache-control: max-age=90\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}";
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
            }
        });
        (port, made.cert.pem())
    }

    async fn fetch(port: u16, roots: &Roots) -> Result<Fetched, FetchError> {
        let url = format!("https://localhost:{port}/keys").parse().unwrap();
        HttpFetcher::new(url, roots).fetch().await
    }

    #[tokio::test]
    async fn a_set_is_fetched_from_a_host_whose_certificate_is_trusted_and_names_it() {
        let (port, pem) = https_server("localhost").await;
        let found = fetch(port, &Roots::from_pem(pem.as_bytes()).unwrap()).await.unwrap();
        assert_eq!(found, Fetched { body: "{\"keys\":[]}".into(), max_age: Some(Duration::from_secs(90)) });
        assert!(matches!(fetch(port, &Roots::shipped()).await, Err(FetchError::Connect(_))));
        let (port, pem) = https_server("id.example").await;
        let other_name = fetch(port, &Roots::from_pem(pem.as_bytes()).unwrap()).await;
        assert!(matches!(other_name, Err(FetchError::Connect(_))));
    }
}
