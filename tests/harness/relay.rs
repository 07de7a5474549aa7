//! What stands between a gateway and a ComfyUI in practice: a TLS terminator that asks for certificates, a unix socket, a proxy with a path prefix and a
//! key. Each passes bytes on to a stand-in and refuses what does not fit, as the real thing does.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

/// Bytes of a request head that the prefix proxy reads.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A CA of a test's own, and what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The CA certificate in PEM.
    pub pem: String,
}

/// A certificate and its key in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new one.
    #[allow(clippy::new_without_default, reason = "a default that differs at each call would surprise")]
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a name.
    pub fn identity(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Identity { certificate: leaf.pem(), key: key.serialize_pem() }
    }
}

/// How many connections came, and how many of them were let through.
#[derive(Debug, Default)]
pub struct Passed {
    came: AtomicUsize,
    through: AtomicUsize,
}

impl Passed {
    /// Connections that were not let through.
    pub fn refused(&self) -> usize {
        self.came.load(Ordering::SeqCst).saturating_sub(self.through.load(Ordering::SeqCst))
    }
    /// Connections that were.
    pub fn through(&self) -> usize {
        self.through.load(Ordering::SeqCst)
    }
}

async fn pass_on<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, behind: SocketAddr, first: &[u8]) {
    if let Ok(mut comfyui) = TcpStream::connect(behind).await
        && comfyui.write_all(first).await.is_ok()
    {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut comfyui).await;
    }
}

/// TLS with `identity` in front of `behind`, for clients whose certificate `clients` signed. Gives its address.
pub async fn tls(behind: SocketAddr, identity: &Identity, clients: &Authority) -> (SocketAddr, Arc<Passed>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let passed = Arc::new(Passed::default());
    let counted = Arc::clone(&passed);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, passed) = (acceptor.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                passed.came.fetch_add(1, Ordering::SeqCst);
                if let Ok(stream) = acceptor.accept(stream).await {
                    passed.through.fetch_add(1, Ordering::SeqCst);
                    pass_on(stream, behind, b"").await;
                }
            });
        }
    });
    (address, passed)
}

/// A unix socket in front of `behind`.
pub fn unix(path: &Path, behind: SocketAddr) -> Arc<Passed> {
    let listener = UnixListener::bind(path).unwrap();
    let passed = Arc::new(Passed::default());
    let counted = Arc::clone(&passed);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.came.fetch_add(1, Ordering::SeqCst);
            counted.through.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(pass_on(stream, behind, b""));
        }
    });
    passed
}

/// A proxy that knows `behind` as `prefix` and answers 401 without the header line `key` (lower case name, `: `, value).
pub async fn prefixed(behind: SocketAddr, prefix: &'static str, key: &'static str) -> (SocketAddr, Arc<Passed>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let passed = Arc::new(Passed::default());
    let counted = Arc::clone(&passed);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let passed = Arc::clone(&counted);
            tokio::spawn(async move {
                passed.came.fetch_add(1, Ordering::SeqCst);
                let Some((head, rest)) = head_of(&mut stream).await else { return };
                match rewritten(&head, prefix, key) {
                    Ok(head) => {
                        passed.through.fetch_add(1, Ordering::SeqCst);
                        pass_on(stream, behind, &[head.as_bytes(), &rest].concat()).await;
                    }
                    Err(status) => {
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    (address, passed)
}

/// The head with its empty line, and what came behind it.
async fn head_of(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Some((String::from_utf8(read).ok()?, rest));
        }
        if read.len() > HEAD_BYTES_MAX || stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

/// The head without the prefix; one request a connection, so that each one is looked at.
fn rewritten(head: &str, prefix: &str, key: &str) -> Result<String, &'static str> {
    if !head.lines().any(|line| line.eq_ignore_ascii_case(key)) {
        return Err("401 Unauthorized");
    }
    let (line, fields) = head.split_once("\r\n").ok_or("400 Bad Request")?;
    let (method, target) = line.split_once(' ').ok_or("400 Bad Request")?;
    let target = target.strip_prefix(prefix).filter(|rest| rest.starts_with('/')).ok_or("404 Not Found")?;
    let is_upgrade =
        fields.to_ascii_lowercase().contains("\r\nupgrade:") || fields.to_ascii_lowercase().starts_with("upgrade:");
    let close = if is_upgrade { "" } else { "connection: close\r\n" };
    Ok(format!("{method} {target}\r\n{close}{fields}"))
}
