//! Whether a listener's certificate and key can be read and belong together.

use super::checked::Checker;
use super::faults::{Place, read_bounded};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// Largest PEM file in bytes: a chain of a few certificates has 10 KiB.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Notes what is wrong with the files, each at the key that names it.
pub(super) fn check_pair(checker: &Checker<'_>, certificate: (&Path, &Place), key: (&Path, &Place)) {
    let chain = pem(checker, certificate).and_then(|text| {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match chain {
            Ok(chain) if !chain.is_empty() => Some(chain),
            _ => checker.refuse(
                certificate.1,
                format!("`{}` holds no PEM certificate", certificate.0.display()),
                "-----BEGIN CERTIFICATE-----",
            ),
        }
    });
    let secret = pem(checker, key).and_then(|text| match PrivateKeyDer::from_pem_slice(&text) {
        Ok(secret) => Some(secret),
        Err(_) => checker.refuse(
            key.1,
            format!("`{}` holds no PEM private key", key.0.display()),
            "-----BEGIN PRIVATE KEY-----",
        ),
    });
    if let (Some(chain), Some(secret)) = (chain, secret)
        && let Err(error) =
            rustls::sign::CertifiedKey::from_der(chain, secret, &rustls::crypto::ring::default_provider())
    {
        checker.refuse::<()>(
            key.1,
            format!("key and certificate do not go together: {error}"),
            "name the key that the certificate was made for",
        );
    }
    warn_of_open_key(checker, key);
}

fn pem(checker: &Checker<'_>, (path, named_at): (&Path, &Place)) -> Option<Vec<u8>> {
    checker.consists_of(path);
    match read_bounded(path, PEM_BYTES_MAX) {
        Ok(bytes) => Some(bytes),
        Err(error) => checker.refuse(named_at, format!("can't read `{}`: {error}", path.display()), ""),
    }
}

/// A key that other accounts of the machine can read is no secret of ours.
fn warn_of_open_key(checker: &Checker<'_>, (path, named_at): (&Path, &Place)) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        checker.warn(
            named_at,
            format!("`{}` can be read by every account (mode {:o})", path.display(), mode & 0o777),
            "chmod 600",
        );
    }
}
