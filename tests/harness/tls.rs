//! TLS as a careful client does it: the gateway's own CA and nothing else is trusted.

use crate::deadline::done;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How a client begins: whom it trusts, and what it shows before and in the handshake.
#[derive(Debug, Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    /// Certificate and key in PEM.
    shown: Option<(String, String)>,
    /// Written before the handshake: a PROXY header.
    before: Vec<u8>,
}

impl Trust {
    /// Trusts the certificates of a PEM file; `None` if it can't be read yet.
    pub fn from_file(path: &Path) -> Option<Trust> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).ok()? {
            roots.add(certificate.ok()?).ok()?;
        }
        (!roots.is_empty()).then(|| Trust::of(roots))
    }

    fn of(roots: RootCertStore) -> Trust {
        Trust { roots: Arc::new(roots), shown: None, before: Vec::new() }
    }

    /// Trusts nobody: every handshake has to fail.
    pub fn nobody() -> Trust {
        Trust::of(RootCertStore::empty())
    }

    /// The same, with a client certificate and its key in PEM.
    #[must_use]
    pub fn showing(self, certificate: &str, key: &str) -> Trust {
        Trust { shown: Some((certificate.to_owned(), key.to_owned())), ..self }
    }

    /// The same, with bytes before the handshake.
    #[must_use]
    pub fn after(self, bytes: &[u8]) -> Trust {
        Trust { before: bytes.to_vec(), ..self }
    }

    fn config(&self, protocols: &[&str]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(RootCertStore { roots: self.roots.roots.clone() });
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

/// A TCP connection from an address of the loopback network; every one of 127.0.0.0/8 is a client of its own to the gateway's limits.
///
/// # Errors
/// The connection is refused.
pub async fn connect_tcp(address: SocketAddr, source: Ipv4Addr) -> std::io::Result<TcpStream> {
    // IPv6 has one loopback address only.
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if address.is_ipv4() {
        socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A TLS connection to the gateway as `localhost`, which speaks one of `protocols`.
///
/// # Errors
/// The connection is refused or the handshake fails.
pub async fn try_connect(
    address: SocketAddr,
    source: Ipv4Addr,
    trust: &Trust,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = connect_tcp(address, source).await?;
    stream.write_all(&trust.before).await?;
    let connector = TlsConnector::from(Arc::new(trust.config(protocols)));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// [`try_connect`] that has to succeed.
///
/// # Panics
/// When it does not, within the deadline.
pub async fn connect(address: SocketAddr, source: Ipv4Addr, trust: &Trust, protocols: &[&str]) -> TlsStream<TcpStream> {
    done("TLS connection", try_connect(address, source, trust, protocols)).await
}
