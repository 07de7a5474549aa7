//! Whether a listener's certificate and key can be read and belong together.

use super::checked::Checker;
use super::faults::{Place, read_bounded};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// Largest PEM file in bytes: a chain of a few certificates has 10 KiB.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// A chain, leaf first, and its key.
pub(super) type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Notes what is wrong with the files, each at the key that names it.
pub(super) fn check_pair(checker: &Checker<'_>, certificate: (&Path, &Place), key: (&Path, &Place)) {
    pair(checker, certificate, key);
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(checker: &Checker<'_>, named: (&Path, &Place)) -> Option<Vec<CertificateDer<'static>>> {
    let text = pem(checker, named)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Some(chain),
        _ => checker.refuse(
            named.1,
            format!("`{}` holds no PEM certificate", named.0.display()),
            "-----BEGIN CERTIFICATE-----",
        ),
    }
}

/// Reads both files; `None`, and what is wrong noted, if they can't be used together.
pub(super) fn pair(checker: &Checker<'_>, certificate: (&Path, &Place), key: (&Path, &Place)) -> Option<Pair> {
    let chain = certificates(checker, certificate);
    let secret = pem(checker, key).and_then(|text| match PrivateKeyDer::from_pem_slice(&text) {
        Ok(secret) => Some(secret),
        Err(_) => checker.refuse(
            key.1,
            format!("`{}` holds no PEM private key", key.0.display()),
            "-----BEGIN PRIVATE KEY-----",
        ),
    });
    checker.warn_of_open_file(key.0, key.1);
    let (chain, secret) = (chain?, secret?);
    let provider = rustls::crypto::ring::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain.clone(), secret.clone_key(), &provider) {
        Ok(_) => Some((chain, secret)),
        Err(error) => checker.refuse(
            key.1,
            format!("key and certificate do not go together: {error}"),
            "name the key that the certificate was made for",
        ),
    }
}

fn pem(checker: &Checker<'_>, (path, named_at): (&Path, &Place)) -> Option<Vec<u8>> {
    checker.consists_of(path);
    match read_bounded(path, PEM_BYTES_MAX) {
        Ok(bytes) => Some(bytes),
        Err(error) => checker.refuse(named_at, format!("can't read `{}`: {error}", path.display()), ""),
    }
}
