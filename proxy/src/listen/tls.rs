//! Certificates: read, checked, and swapped without a restart.

use super::client_certificate::{ClientVerifier, Handshake};
use crate::clock::WallMillis;
use arc_swap::ArcSwap;
use pingora::listeners::tls::TlsSettings;
use pingora::listeners::{TlsAccept, TlsAcceptCallbacks};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why there is no certificate to serve. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not there, or not ours to read or write.
    #[error("`{path}`: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No PEM block `CERTIFICATE`.
    #[error("`{path}` has no certificate in it (PEM blocks `BEGIN CERTIFICATE`)", path = .0.display())]
    NoCertificate(PathBuf),
    /// No PEM block of a private key, or one of a kind that we cannot sign with.
    #[error("`{path}` has no private key that can be used (PEM, unencrypted; RSA, ECDSA P-256 or P-384, Ed25519)", path = .0.display())]
    NoKey(PathBuf),
    /// Not X.509.
    #[error("`{path}` has a certificate that can't be read", path = .0.display())]
    Malformed(PathBuf),
    /// Key and certificate are not a pair.
    #[error("the key `{key}` does not belong to the certificate `{certificate}`", key = key.display(), certificate = certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// Its end is past.
    #[error("the certificate `{path}` has expired ({end})", path = path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When.
        end: String,
    },
    /// Making our own failed.
    #[error("a certificate can't be made: {0}")]
    Made(String),
}

/// Reads a certificate chain (leaf first) and its key, and checks that they are a pair and that the leaf has not expired at `now`.
///
/// # Errors
/// [`TlsError`], by file and reason.
pub fn load(certificate: &Path, key: &Path, now: WallMillis) -> Result<CertifiedKey, TlsError> {
    let chain = chain(certificate)?;
    let leaf = chain.first().ok_or_else(|| TlsError::NoCertificate(certificate.to_owned()))?;
    check_end(certificate, leaf, now)?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| TlsError::NoKey(key.to_owned()))?;
    let secret = any_supported_type(&secret).map_err(|_| TlsError::NoKey(key.to_owned()))?;
    let pair = CertifiedKey::new(chain, secret);
    match pair.keys_match() {
        Ok(()) => Ok(pair),
        Err(_) => Err(TlsError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }),
    }
}

/// The certificates of a PEM file, in its order; at least one.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(TlsError::NoCertificate(path.to_owned())),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Io { path: path.to_owned(), source })
}

fn check_end(path: &Path, leaf: &[u8], now: WallMillis) -> Result<(), TlsError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| TlsError::Malformed(path.to_owned()))?;
    let end = parsed.validity().not_after;
    // A certificate from before 1970 has ended too.
    let ended = u64::try_from(end.timestamp()).map_or(true, |end| end < now.seconds());
    if ended { Err(TlsError::Expired { path: path.to_owned(), end: end.to_string() }) } else { Ok(()) }
}

/// Gives every handshake the certificate of the moment. One certificate for all names.
#[derive(Debug)]
pub struct CertificateResolver(ArcSwap<CertifiedKey>);

impl CertificateResolver {
    /// Begins with `current`.
    pub fn new(current: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(current)))
    }
    /// The next handshakes get `next`; open connections are left alone.
    pub fn replace(&self, next: CertifiedKey) {
        self.0.store(Arc::new(next));
    }
    /// What is served now.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.0.load_full()
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// TLS 1.2 and 1.3 with HTTP/2 preferred, for `Listeners::add_tls_with_settings`; with `clients`, certificates of callers are asked for.
///
/// # Errors
/// [`TlsError::Made`] if Pingora refuses its own settings.
pub fn settings(
    resolver: Arc<CertificateResolver>,
    clients: Option<Arc<ClientVerifier>>,
) -> Result<TlsSettings, TlsError> {
    let handshake: TlsAcceptCallbacks = match &clients {
        Some(clients) => Box::new(Handshake(Arc::clone(clients))),
        None => Box::new(NoCallback),
    };
    let mut settings = TlsSettings::with_callbacks(handshake).map_err(|error| TlsError::Made(error.to_string()))?;
    if let Some(clients) = clients {
        settings.set_client_cert_verifier(clients);
    }
    settings.set_cert_resolver(resolver);
    settings.enable_h2();
    Ok(settings)
}

/// Nothing to do after a handshake; Pingora's constructor without files wants one.
struct NoCallback;
impl TlsAccept for NoCallback {}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    /// 2026-01-01.
    const NOW: WallMillis = WallMillis(1_767_225_600_000);

    fn pair(dir: &TempDir, name: &str, end_year: i32) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(end_year, 1, 2);
        let paths = (dir.path().join(format!("{name}.crt")), dir.path().join(format!("{name}.key")));
        std::fs::write(&paths.0, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    #[test]
    fn a_pair_that_ends_tomorrow_loads_and_one_that_ended_does_not() {
        let dir = TempDir::new().unwrap();
        let (certificate, key) = pair(&dir, "a", 2026);
        assert!(load(&certificate, &key, NOW).is_ok());
        let later = NOW.plus(std::time::Duration::from_secs(2 * 86_400));
        let error = load(&certificate, &key, later).unwrap_err();
        assert!(error.to_string().contains("a.crt` has expired"), "{error}");
    }

    #[test]
    fn another_key_is_refused_by_name() {
        let dir = TempDir::new().unwrap();
        let (certificate, _) = pair(&dir, "a", 2030);
        let (_, key) = pair(&dir, "b", 2030);
        let error = load(&certificate, &key, NOW).unwrap_err();
        assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
        assert!(error.to_string().contains("b.key") && error.to_string().contains("a.crt"), "{error}");
    }

    #[test]
    fn files_without_what_they_should_hold_are_refused_by_name() {
        let dir = TempDir::new().unwrap();
        let (certificate, key) = pair(&dir, "a", 2030);
        let error = load(&dir.path().join("absent.crt"), &key, NOW).unwrap_err();
        assert!(matches!(error, TlsError::Io { .. }) && error.to_string().contains("absent.crt"), "{error}");
        assert!(matches!(load(&key, &key, NOW), Err(TlsError::NoCertificate(_))));
        assert!(matches!(load(&certificate, &certificate, NOW), Err(TlsError::NoKey(_))));
    }

    #[test]
    fn a_replaced_certificate_is_the_current_one() {
        let dir = TempDir::new().unwrap();
        let load = |name| {
            let (certificate, key) = pair(&dir, name, 2030);
            load(&certificate, &key, NOW).unwrap()
        };
        let resolver = CertificateResolver::new(load("a"));
        let before = resolver.current().cert.clone();
        resolver.replace(load("b"));
        assert_ne!(resolver.current().cert, before);
        assert!(settings(resolver, None).is_ok());
    }
}
