//! The client side of TLS to a backend: one own CA, one server name, and our certificate if the backend asks for one.
//!
//! The public web's roots are never trusted here: a backend is a machine of the operator's own, whose CA is named. TLS 1.2 and 1.3, ring.

use pingora_rustls::{ClientTlsStream, TlsConnector};
use ring::digest;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Why TLS to a backend can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// The CA file has none.
    #[error("there is no certificate to trust")]
    NoRoot,
    /// One of them is no CA certificate that can be used.
    #[error("a certificate of the CA can't be used: {0}")]
    Root(rustls::Error),
    /// Neither a DNS name nor an IP address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    ServerName(String),
    /// Key and certificate are not a pair, or the key is of a kind that can't sign.
    #[error("our own certificate can't be used: {0}")]
    Identity(rustls::Error),
}

/// How a TLS connection to one backend is made.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    server_name: ServerName<'static>,
    /// SHA-256 over all of it, so that two can be compared without keeping the key around.
    digest: [u8; 32],
}

impl ClientTls {
    /// Trusts `roots` for `server_name`; `identity` (chain, leaf first, and its key) is shown to a backend that asks for it.
    ///
    /// # Errors
    /// [`ClientTlsError`].
    pub fn new(
        roots: &[CertificateDer<'static>],
        server_name: &str,
        identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<Self, ClientTlsError> {
        let digest = digest_of(roots, server_name, identity.as_ref());
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(ClientTlsError::Root)?;
        }
        if store.is_empty() {
            return Err(ClientTlsError::NoRoot);
        }
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| ClientTlsError::ServerName(server_name.chars().take(80).collect()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ClientTlsError::Root)?
            .with_root_certificates(store);
        let config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(ClientTlsError::Identity)?,
            None => builder.with_no_client_auth(),
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name, digest })
    }

    /// Shakes hands over a connection.
    ///
    /// # Errors
    /// What rustls said: a certificate of another CA or name, a backend that wants ours.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<ClientTlsStream<TcpStream>> {
        self.connector.connect(self.server_name.clone(), stream).await
    }

    /// What makes two of them equal.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

fn digest_of(
    roots: &[CertificateDer<'_>],
    server_name: &str,
    identity: Option<&(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    // Each part with its length in front, so that no two lists read alike.
    let mut add = |part: &[u8]| {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    };
    add(server_name.as_bytes());
    roots.iter().for_each(|root| add(root));
    add(b"identity");
    if let Some((chain, key)) = identity {
        chain.iter().for_each(|certificate| add(certificate));
        add(key.secret_der());
    }
    context.finish().as_ref().try_into().unwrap_or([0; 32])
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::server::WebPkiClientVerifier;
    use rustls_pki_types::pem::PemObject;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

    /// A CA and what it signs.
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        root: CertificateDer<'static>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let root = params.self_signed(&key).unwrap().der().clone();
            Self { issuer: Issuer::new(params, key), root }
        }

        fn identity(&self, name: &str) -> Identity {
            let key = KeyPair::generate().unwrap();
            let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
            (vec![leaf.der().clone()], PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap())
        }
    }

    /// A client that trusts a CA of its own.
    pub(crate) fn client() -> ClientTls {
        ClientTls::new(&[Authority::new().root], "x", None).unwrap()
    }

    /// A server that answers one byte to clients that it lets in.
    async fn server(identity: Identity, clients: Option<&Authority>) -> std::net::SocketAddr {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.root.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(identity.0, identity.1).unwrap();
        let acceptor = pingora_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(b"!").await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        address
    }

    /// Whether one byte comes through.
    async fn reaches(tls: &ClientTls, address: std::net::SocketAddr) -> bool {
        let reaching = async {
            let mut stream = tls.connect(TcpStream::connect(address).await.ok()?).await.ok()?;
            // TLS 1.3: a refused client certificate is only noticed at the first read.
            stream.read_u8().await.ok()
        };
        tokio::time::timeout(Duration::from_secs(20), reaching).await.unwrap() == Some(b'!')
    }

    #[tokio::test]
    async fn only_the_named_ca_and_the_right_name_are_trusted() {
        let (ours, other) = (Authority::new(), Authority::new());
        let address = server(ours.identity("gpu-1.rack"), None).await;
        let tls = |authority: &Authority, name: &str| {
            ClientTls::new(std::slice::from_ref(&authority.root), name, None).unwrap()
        };
        assert!(reaches(&tls(&ours, "gpu-1.rack"), address).await);
        assert!(!reaches(&tls(&other, "gpu-1.rack"), address).await, "a certificate of another CA");
        assert!(!reaches(&tls(&ours, "gpu-2.rack"), address).await, "a certificate of another machine");
    }

    #[tokio::test]
    async fn a_backend_that_wants_our_certificate_gets_it_and_refuses_us_without() {
        let (ours, clients) = (Authority::new(), Authority::new());
        let address = server(ours.identity("x"), Some(&clients)).await;
        let roots = [ours.root.clone()];
        let with = ClientTls::new(&roots, "x", Some(clients.identity("gateway"))).unwrap();
        assert!(reaches(&with, address).await);
        assert!(!reaches(&ClientTls::new(&roots, "x", None).unwrap(), address).await);
        let foreign = ClientTls::new(&roots, "x", Some(ours.identity("gateway"))).unwrap();
        assert!(!reaches(&foreign, address).await);
    }

    #[test]
    fn what_can_not_be_trusted_or_shown_is_refused() {
        let (a, b) = (Authority::new(), Authority::new());
        assert!(matches!(ClientTls::new(&[], "x", None), Err(ClientTlsError::NoRoot)));
        let roots = [a.root.clone()];
        assert!(matches!(ClientTls::new(&roots, "a b", None), Err(ClientTlsError::ServerName(_))));
        let mixed = (a.identity("x").0, b.identity("x").1);
        assert!(matches!(ClientTls::new(&roots, "x", Some(mixed)), Err(ClientTlsError::Identity(_))));
        let junk = [CertificateDer::from(vec![1, 2, 3])];
        assert!(matches!(ClientTls::new(&junk, "x", None), Err(ClientTlsError::Root(_))));
    }

    #[test]
    fn equal_settings_are_equal_and_another_name_or_identity_is_not() {
        let a = Authority::new();
        let roots = [a.root.clone()];
        let tls = |name: &str| ClientTls::new(&roots, name, None).unwrap();
        assert!(tls("x") == tls("x") && tls("x") != tls("y"));
        let identity = a.identity("g");
        let with = || ClientTls::new(&roots, "x", Some((identity.0.clone(), identity.1.clone_key()))).unwrap();
        assert!(with() == with() && with() != tls("x"));
    }
}
