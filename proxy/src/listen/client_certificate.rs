//! Certificates that callers show: verified against the listener's CA in the handshake, and what they say of the caller.
//!
//! A certificate proves the name in it; which tenant that is, the authenticate stage finds in the configuration. Revocation lists are not read: a certificate is taken back
//! by taking its entry out of the configuration, which holds from the next request on.

use super::tls::{self, TlsError};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::listeners::TlsAccept;
use pingora::protocols::tls::TlsRef;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Whether a handshake without a certificate is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Yes: then another credential is wanted.
    Optional,
    /// No.
    Required,
}

/// What a verified certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
    /// DNS names among the subject's alternative names, in lower case.
    pub dns: Vec<String>,
    /// URIs among them, as written.
    pub uris: Vec<String>,
    /// When it ends, in seconds since 1970; 0 for an end before that.
    pub ends: u64,
}

/// What a connection at a listener with a `client_ca` showed. Connections of other listeners have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether the listener wants a certificate of everybody.
    pub required: bool,
    /// The certificate, once verified.
    pub certificate: Option<ClientCertificate>,
}

impl ClientCertificate {
    /// Reads a certificate whose signature was verified before.
    pub fn of_der(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let names = parsed.subject_alternative_name().ok()?;
        let (mut dns, mut uris) = (Vec::new(), Vec::new());
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => dns.push(name.to_ascii_lowercase()),
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                _ => {}
            }
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Some(Self { fingerprint: digest.as_ref().try_into().ok()?, dns, uris, ends })
    }
}

/// Checks certificates of callers against a CA that a reload may replace.
#[derive(Debug)]
pub struct ClientVerifier(ArcSwap<Current>);

#[derive(Debug)]
struct Current {
    verifier: Arc<dyn ClientCertVerifier>,
    required: bool,
}

impl ClientVerifier {
    /// With the CA certificates of a PEM file.
    ///
    /// # Errors
    /// [`TlsError`] for a file that can't be read or holds no certificate that can be a CA's.
    pub fn load(ca: &Path, wanted: ClientCertificates) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(Current::load(ca, wanted)?))))
    }

    /// Reads another CA and gives what puts it in place.
    ///
    /// # Errors
    /// As [`ClientVerifier::load`]; nothing is replaced then.
    pub fn replacement(
        self: &Arc<Self>,
        ca: &Path,
        wanted: ClientCertificates,
    ) -> Result<impl FnOnce() + Send + Sync + use<>, TlsError> {
        let (this, next) = (Arc::clone(self), Arc::new(Current::load(ca, wanted)?));
        Ok(move || this.0.store(next))
    }

    /// What a finished handshake showed. SECURITY: rustls does not verify the certificate of a resumed session again, so it is done here: a CA that was replaced meanwhile
    /// vouches for nobody.
    fn shown(&self, chain: Option<&[CertificateDer<'static>]>) -> ClientTls {
        let current = self.0.load();
        let certificate = chain.and_then(|chain| {
            let (leaf, others) = chain.split_first()?;
            current.verifier.verify_client_cert(leaf, others, UnixTime::now()).ok()?;
            ClientCertificate::of_der(leaf)
        });
        ClientTls { required: current.required, certificate }
    }
}

impl Current {
    fn load(ca: &Path, wanted: ClientCertificates) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in tls::chain(ca)? {
            roots.add(certificate).map_err(|_| TlsError::Malformed(ca.to_owned()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // Without hints: the names of our CAs would be told to everybody, and a replaced CA could not change them.
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).clear_root_hint_subjects();
        let required = wanted == ClientCertificates::Required;
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        let verifier = builder.build().map_err(|_| TlsError::NoCertificate(ca.to_owned()))?;
        Ok(Self { verifier, required })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.0.load().verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.load().verifier.verify_client_cert(leaf, others, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.load().verifier.supported_verify_schemes()
    }
}

/// Hands what a handshake showed to the requests of its connection (`SslDigest::extension`).
pub(super) struct Handshake(pub(super) Arc<ClientVerifier>);

#[async_trait]
impl TlsAccept for Handshake {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(self.0.shown(tls.peer_cert_chain_der())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd};
    use std::path::PathBuf;

    struct Ca {
        issuer: CertifiedIssuer<'static, KeyPair>,
        file: PathBuf,
        _dir: tempfile::TempDir,
    }

    fn ca() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, issuer.pem()).unwrap();
        Ca { issuer, file, _dir: dir }
    }

    impl Ca {
        fn leaf(&self, end_year: i32) -> CertificateDer<'static> {
            let mut params = CertificateParams::new(vec!["Worker.Example".to_owned()]).unwrap();
            params.subject_alt_names.push(SanType::URI("spiffe://example/w".try_into().unwrap()));
            params.not_after = date_time_ymd(end_year, 1, 1);
            params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
        }
    }

    fn shown(verifier: &ClientVerifier, leaf: CertificateDer<'static>) -> Option<ClientCertificate> {
        verifier.shown(Some(&[leaf])).certificate
    }

    #[test]
    fn a_certificate_of_the_ca_gives_its_names_and_fingerprint() {
        let ca = ca();
        let verifier = ClientVerifier::load(&ca.file, ClientCertificates::Required).unwrap();
        let leaf = ca.leaf(2100);
        let found = shown(&verifier, leaf.clone()).unwrap();
        assert_eq!((found.dns, found.uris), (vec!["worker.example".to_owned()], vec!["spiffe://example/w".to_owned()]));
        assert_eq!(found.fingerprint[..], *ring::digest::digest(&ring::digest::SHA256, &leaf).as_ref());
        assert_eq!(found.ends, 4_102_444_800);
    }

    #[test]
    fn an_expired_certificate_another_cas_and_none_give_nothing() {
        let (ca, other) = (ca(), self::ca());
        let verifier = ClientVerifier::load(&ca.file, ClientCertificates::Optional).unwrap();
        assert_eq!(shown(&verifier, ca.leaf(2020)), None);
        assert_eq!(shown(&verifier, other.leaf(2100)), None);
        assert_eq!(verifier.shown(None), ClientTls { required: false, certificate: None });
        assert!(!verifier.client_auth_mandatory());
    }

    #[test]
    fn a_replaced_ca_vouches_for_nobody_any_more() {
        let (ca, next) = (ca(), self::ca());
        let verifier = ClientVerifier::load(&ca.file, ClientCertificates::Optional).unwrap();
        let replace = verifier.replacement(&next.file, ClientCertificates::Required).unwrap();
        assert!(shown(&verifier, ca.leaf(2100)).is_some());
        replace();
        assert_eq!(shown(&verifier, ca.leaf(2100)), None);
        assert!(shown(&verifier, next.leaf(2100)).is_some() && verifier.client_auth_mandatory());
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("empty.pem");
        std::fs::write(&file, "nothing").unwrap();
        let error = ClientVerifier::load(&file, ClientCertificates::Required).unwrap_err();
        assert!(error.to_string().contains("empty.pem"), "{error}");
    }
}
