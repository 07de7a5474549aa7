//! TLS as a careful client does it: the gateway's own CA and nothing else is trusted.

use crate::deadline::done;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What a client trusts.
#[derive(Debug, Clone)]
pub struct Trust(Arc<RootCertStore>);

impl Trust {
    /// Trusts the certificates of a PEM file; `None` if it can't be read yet.
    pub fn from_file(path: &Path) -> Option<Trust> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).ok()? {
            roots.add(certificate.ok()?).ok()?;
        }
        (!roots.is_empty()).then(|| Trust(Arc::new(roots)))
    }

    /// Trusts nobody: every handshake has to fail.
    pub fn nobody() -> Trust {
        Trust(Arc::new(RootCertStore::empty()))
    }

    fn config(&self, protocols: &[&str]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config =
            builder.with_root_certificates(RootCertStore { roots: self.0.roots.clone() }).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

/// A TCP connection from an address of the loopback network; every one of 127.0.0.0/8 is a client of its own to the gateway's limits.
///
/// # Errors
/// The connection is refused.
pub async fn connect_tcp(address: SocketAddr, source: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
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
    let stream = connect_tcp(address, source).await?;
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
