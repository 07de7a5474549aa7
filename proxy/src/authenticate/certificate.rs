//! Client certificates as credentials: which tenant and user a verified certificate stands for. A closed list: what is not in it stands for nobody.

use crate::clock::WallMillis;
use crate::ids::{TenantId, UserId};
use crate::listen::{ClientCertificate, ClientTls};
use crate::owner::Scopes;
use std::fmt::Write as _;

/// One `[[client_certificate]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRule {
    /// For which certificates.
    pub matches: CertificateMatch,
    /// Who pays.
    pub tenant: TenantId,
    /// Who acts; `None`: the tenant's service user.
    pub user: Option<UserId>,
    /// What it may do.
    pub scopes: Scopes,
}

/// What a certificate is known by. The subject's common name is not: browsers and libraries gave it up, since it is no name of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateMatch {
    /// SHA-256 of the whole certificate: this one and no renewal of it.
    Fingerprint([u8; 32]),
    /// A DNS name among its alternative names, in lower case, compared as a whole.
    Dns(String),
    /// A URI among them, such as a SPIFFE id, letter by letter.
    Uri(String),
}

/// The text names no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    /// Not 64 hexadecimal digits.
    #[error(
        "a fingerprint is the SHA-256 of the certificate: 64 hexadecimal digits, with or without colons (`openssl x509 -noout -fingerprint -sha256`)"
    )]
    Fingerprint,
    /// Empty, longer than 253 bytes, or not visible ASCII; wildcards are never compared.
    #[error("a DNS name has 1 to 253 letters, digits, `-`, `_` and dots; wildcards match nothing")]
    Dns,
    /// Without scheme, or not visible ASCII.
    #[error("a URI begins with its scheme, such as `spiffe://`")]
    Uri,
}

impl CertificateMatch {
    /// From `openssl`'s form or plain digits.
    ///
    /// # Errors
    /// [`MatchError::Fingerprint`].
    pub fn fingerprint(text: &str) -> Result<Self, MatchError> {
        let digits = text.chars().filter(|char| *char != ':').collect::<Vec<_>>();
        let mut fingerprint = [0; 32];
        if digits.len() != 64 {
            return Err(MatchError::Fingerprint);
        }
        for (byte, pair) in fingerprint.iter_mut().zip(digits.chunks_exact(2)) {
            let value = pair.iter().try_fold(0, |value, digit| Some(value * 16 + digit.to_digit(16)?));
            *byte = value.and_then(|value| u8::try_from(value).ok()).ok_or(MatchError::Fingerprint)?;
        }
        Ok(Self::Fingerprint(fingerprint))
    }

    /// A whole name.
    ///
    /// # Errors
    /// [`MatchError::Dns`].
    pub fn dns(text: &str) -> Result<Self, MatchError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if (1..=253).contains(&text.len()) && text.bytes().all(good) {
            Ok(Self::Dns(text.to_ascii_lowercase()))
        } else {
            Err(MatchError::Dns)
        }
    }

    /// A whole URI.
    ///
    /// # Errors
    /// [`MatchError::Uri`].
    pub fn uri(text: &str) -> Result<Self, MatchError> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        let good =
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if good && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self::Uri(text.to_owned()))
        } else {
            Err(MatchError::Uri)
        }
    }

    fn fits(&self, certificate: &ClientCertificate) -> bool {
        match self {
            Self::Fingerprint(fingerprint) => certificate.fingerprint == *fingerprint,
            Self::Dns(name) => certificate.dns.contains(name),
            Self::Uri(uri) => certificate.uris.contains(uri),
        }
    }
}

/// Why a connection's certificate lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The listener wants one and there is none that still holds.
    #[error("no client certificate")]
    Missing,
    /// No entry is for it.
    #[error("no [[client_certificate]] is for the certificate {0}")]
    Unknown(String),
    /// Entries that name different owners or scopes.
    #[error("several [[client_certificate]] that differ are for the certificate {0}")]
    Ambiguous(String),
    /// It ended while the connection was open.
    #[error("the client certificate {0} has expired")]
    Expired(String),
}

/// The first millisecond at which a certificate has expired: its last second is a good one (RFC 5280 §4.1.2.5).
pub fn good_until(certificate: &ClientCertificate) -> WallMillis {
    WallMillis(certificate.ends.saturating_add(1).saturating_mul(1000))
}

/// Whom the connection's certificate stands for. `None`: nobody, and another credential may be shown.
///
/// # Errors
/// [`CertificateError`]. An unknown certificate is an error only where the listener wants a certificate of everybody.
pub fn holder<'r>(
    tls: &ClientTls,
    rules: &'r [CertificateRule],
    now: WallMillis,
) -> Result<Option<&'r CertificateRule>, CertificateError> {
    let Some(certificate) = &tls.certificate else {
        return if tls.required { Err(CertificateError::Missing) } else { Ok(None) };
    };
    let shown = || hex(&certificate.fingerprint);
    if now >= good_until(certificate) {
        return Err(CertificateError::Expired(shown()));
    }
    let mut fitting = rules.iter().filter(|rule| rule.matches.fits(certificate));
    let Some(first) = fitting.next() else {
        return if tls.required { Err(CertificateError::Unknown(shown())) } else { Ok(None) };
    };
    let same =
        |rule: &CertificateRule| (&rule.tenant, &rule.user, rule.scopes) == (&first.tenant, &first.user, first.scopes);
    if fitting.all(same) { Ok(Some(first)) } else { Err(CertificateError::Ambiguous(shown())) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMillis = WallMillis(1_000_000);

    fn certificate() -> ClientCertificate {
        ClientCertificate {
            fingerprint: [0xab; 32],
            dns: vec!["worker.example".into()],
            uris: vec!["spiffe://example/w".into()],
            ends: 1_000,
        }
    }

    fn rule(matches: CertificateMatch, tenant: &str) -> CertificateRule {
        CertificateRule { matches, tenant: tenant.parse().unwrap(), user: None, scopes: Scopes::of_a_client() }
    }

    fn found(tls: &ClientTls, rules: &[CertificateRule]) -> Result<Option<String>, CertificateError> {
        holder(tls, rules, NOW).map(|rule| rule.map(|rule| rule.tenant.to_string()))
    }

    fn shown(required: bool) -> ClientTls {
        ClientTls { required, certificate: Some(certificate()) }
    }

    #[test]
    fn a_certificate_stands_for_whom_its_fingerprint_name_or_uri_is_listed() {
        for matches in [
            CertificateMatch::fingerprint(&"ab".repeat(32)),
            CertificateMatch::fingerprint(&["AB"; 32].join(":")),
            CertificateMatch::dns("Worker.Example"),
            CertificateMatch::uri("spiffe://example/w"),
        ] {
            let rules = [rule(matches.unwrap(), "acme")];
            assert_eq!(found(&shown(true), &rules), Ok(Some("acme".into())));
        }
    }

    #[test]
    fn what_is_not_listed_stands_for_nobody() {
        for matches in [
            CertificateMatch::fingerprint(&"ac".repeat(32)),
            CertificateMatch::dns("example"),
            CertificateMatch::dns("a.worker.example"),
            CertificateMatch::uri("spiffe://example/"),
            CertificateMatch::uri("spiffe://example/W"),
        ] {
            let rules = [rule(matches.unwrap(), "acme")];
            assert!(matches!(found(&shown(true), &rules), Err(CertificateError::Unknown(_))));
            assert_eq!(found(&shown(false), &rules), Ok(None));
        }
    }

    #[test]
    fn a_certificate_holds_until_the_second_it_ends() {
        let rules = [rule(CertificateMatch::dns("worker.example").unwrap(), "acme")];
        let mut tls = shown(false);
        assert!(found(&tls, &rules).unwrap().is_some());
        tls.certificate.as_mut().unwrap().ends = 999;
        assert!(matches!(found(&tls, &rules), Err(CertificateError::Expired(_))));
    }

    #[test]
    fn entries_that_differ_are_ambiguous_and_equal_ones_are_not() {
        let (name, uri) =
            (CertificateMatch::dns("worker.example").unwrap(), CertificateMatch::uri("spiffe://example/w").unwrap());
        let same = [rule(name.clone(), "acme"), rule(uri.clone(), "acme")];
        assert_eq!(found(&shown(true), &same), Ok(Some("acme".into())));
        let differ = [rule(name, "acme"), rule(uri, "bravo")];
        assert!(matches!(found(&shown(true), &differ), Err(CertificateError::Ambiguous(_))));
    }

    #[test]
    fn no_certificate_is_an_error_only_where_one_is_wanted() {
        assert_eq!(found(&ClientTls { required: true, certificate: None }, &[]), Err(CertificateError::Missing));
        assert_eq!(found(&ClientTls { required: false, certificate: None }, &[]), Ok(None));
    }

    #[test]
    fn malformed_matches_are_refused() {
        for bad in ["", "ab", &"ab".repeat(33), &"zz".repeat(32), &"+b".repeat(32)] {
            assert_eq!(CertificateMatch::fingerprint(bad), Err(MatchError::Fingerprint), "{bad}");
        }
        for bad in ["", "*.example", "a b", &"a".repeat(254)] {
            assert_eq!(CertificateMatch::dns(bad), Err(MatchError::Dns), "{bad}");
        }
        for bad in ["", "spiffe", ":x", "spiffe://a b", "1 2:x"] {
            assert_eq!(CertificateMatch::uri(bad), Err(MatchError::Uri), "{bad}");
        }
    }
}
