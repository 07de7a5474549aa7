//! What a provider publishes of itself (OpenID Connect Discovery 1.0 §3, RFC 8414), read into what we use. Pure.

use crate::authenticate::jwks::url::JwksUrl;
use serde::Deserialize;

/// Longest document in bytes: those of the large providers have 2 to 8 KiB.
pub const METADATA_BYTES_MAX: usize = 64 << 10;

/// Why a document is no metadata of this provider. For the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// HTML, a truncated answer, a member that stands twice, a needed one that is missing.
    #[error("is no metadata of a provider: {0}")]
    Malformed(String),
    /// OpenID Connect Discovery §4.3: they must be identical.
    #[error("its `issuer` is not the configured one, letter by letter")]
    OtherIssuer,
    /// An address that may not be asked.
    #[error("its `{0}` is no address that may be used: https, or http on this machine where the issuer is too")]
    Address(&'static str),
    /// No `code`: logins would come by another flow, which we have not.
    #[error("it knows no authorization code flow")]
    NoCodeFlow,
    /// No PKCE with S256, by its own word.
    #[error("it knows no PKCE with S256")]
    NoPkce,
}

/// A provider, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Where browsers are sent.
    pub authorization_endpoint: String,
    /// Where codes are redeemed.
    pub token_endpoint: JwksUrl,
    /// Where its keys are.
    pub jwks_uri: JwksUrl,
    /// Where a browser is sent to end the provider's own session.
    pub end_session_endpoint: Option<String>,
    /// Whether it names itself in its answers (RFC 9207).
    pub names_itself: bool,
    /// Whether the client secret goes into the body: it takes it there and not by Basic.
    pub secret_in_body: bool,
}

#[derive(Deserialize)]
struct Raw {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    end_session_endpoint: Option<String>,
    response_types_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Metadata {
    /// Reads the document of that issuer.
    ///
    /// # Errors
    /// [`DiscoveryError`].
    pub fn parse(bytes: &[u8], issuer: &str) -> Result<Self, DiscoveryError> {
        let malformed = |error: serde_json::Error| {
            DiscoveryError::Malformed(
                error.to_string().chars().filter(|letter| !letter.is_control()).take(200).collect(),
            )
        };
        let raw: Raw = serde_json::from_slice(bytes).map_err(malformed)?;
        // SECURITY: a provider that is somebody else, or that lets somebody else speak in its name (mix-up).
        if raw.issuer != issuer {
            return Err(DiscoveryError::OtherIssuer);
        }
        let lacks = |list: &Option<Vec<String>>, word: &str| {
            list.as_ref().is_some_and(|list| !list.iter().any(|one| one == word))
        };
        if lacks(&raw.response_types_supported, "code") {
            return Err(DiscoveryError::NoCodeFlow);
        }
        if lacks(&raw.code_challenge_methods_supported, "S256") {
            return Err(DiscoveryError::NoPkce);
        }
        // Basic is what a provider takes that says nothing (OpenID Connect Discovery §3).
        let methods = &raw.token_endpoint_auth_methods_supported;
        let secret_in_body = lacks(methods, "client_secret_basic") && !lacks(methods, "client_secret_post");
        let plain = issuer.starts_with("http://");
        let address = |text: &str, name| endpoint(text, plain).ok_or(DiscoveryError::Address(name));
        address(&raw.authorization_endpoint, "authorization_endpoint")?;
        if let Some(text) = &raw.end_session_endpoint {
            address(text, "end_session_endpoint")?;
        }
        Ok(Self {
            token_endpoint: address(&raw.token_endpoint, "token_endpoint")?,
            jwks_uri: address(&raw.jwks_uri, "jwks_uri")?,
            authorization_endpoint: raw.authorization_endpoint,
            end_session_endpoint: raw.end_session_endpoint,
            names_itself: raw.authorization_response_iss_parameter_supported,
            secret_in_body,
        })
    }
}

/// SECURITY: plain addresses only where the issuer's own is plain, which is on this machine: a document must not lead from TLS to what listens on loopback.
fn endpoint(text: &str, plain: bool) -> Option<JwksUrl> {
    text.parse::<JwksUrl>().ok().filter(|url| url.is_https() || plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ISSUER: &str = "https://id.example.com/realms/studio";

    fn document() -> Value {
        json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.example.com/auth?tenant=a",
            "token_endpoint": "https://api.example.net/token",
            "jwks_uri": "https://id.example.com/keys",
            "response_types_supported": ["code", "id_token"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "something_else": {"a": [1]}
        })
    }

    fn with(changes: &[(&str, Value)]) -> Result<Metadata, DiscoveryError> {
        let mut document = document();
        for (name, value) in changes {
            document[*name] = value.clone();
        }
        Metadata::parse(document.to_string().as_bytes(), ISSUER)
    }

    #[test]
    fn a_document_is_read_with_its_defaults() {
        let metadata = with(&[]).unwrap();
        assert_eq!(metadata.token_endpoint.to_string(), "https://api.example.net/token");
        assert!(!metadata.names_itself && !metadata.secret_in_body && metadata.end_session_endpoint.is_none());
        let named = with(&[("authorization_response_iss_parameter_supported", json!(true))]).unwrap();
        assert!(named.names_itself);
    }

    #[test]
    fn the_issuer_is_compared_letter_by_letter() {
        for other in [
            "https://id.example.com/realms/studio/",
            "https://ID.example.com/realms/studio",
            "https://evil.example",
            "",
        ] {
            assert_eq!(with(&[("issuer", json!(other))]), Err(DiscoveryError::OtherIssuer), "{other}");
        }
    }

    #[test]
    fn addresses_are_https_and_a_document_leads_from_tls_to_nothing_plain() {
        for name in ["authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint"] {
            for bad in [
                "http://127.0.0.1/x",
                "http://id.example.com/x",
                "javascript:alert(1)",
                "https://a@id.example.com/x",
                "/x",
                "",
            ] {
                assert_eq!(with(&[(name, json!(bad))]), Err(DiscoveryError::Address(name)), "{bad}");
            }
            assert!(with(&[(name, json!("https://other.example/x"))]).is_ok());
        }
        let plain = "http://127.0.0.1:9";
        let document = json!({"issuer": plain, "authorization_endpoint": "http://127.0.0.1:9/a", "token_endpoint": "http://127.0.0.1:9/t", "jwks_uri": "http://localhost:9/k"});
        assert!(Metadata::parse(document.to_string().as_bytes(), plain).is_ok());
        let away = json!({"issuer": plain, "authorization_endpoint": "http://id.example/a", "token_endpoint": "http://127.0.0.1:9/t", "jwks_uri": "http://127.0.0.1:9/k"});
        assert!(Metadata::parse(away.to_string().as_bytes(), plain).is_err());
    }

    #[test]
    fn a_provider_without_code_or_pkce_is_refused_and_one_that_says_nothing_is_not() {
        assert_eq!(with(&[("response_types_supported", json!(["id_token"]))]), Err(DiscoveryError::NoCodeFlow));
        assert_eq!(with(&[("code_challenge_methods_supported", json!(["plain"]))]), Err(DiscoveryError::NoPkce));
        assert!(
            with(&[("response_types_supported", json!(null)), ("code_challenge_methods_supported", json!(null))])
                .is_ok()
        );
    }

    #[test]
    fn the_secret_goes_where_the_provider_takes_it() {
        let body = |methods: Value| with(&[("token_endpoint_auth_methods_supported", methods)]).unwrap().secret_in_body;
        assert!(body(json!(["client_secret_post"])));
        assert!(!body(json!(["client_secret_post", "client_secret_basic"])));
        assert!(!body(json!(["private_key_jwt"])));
        assert!(!body(json!(null)));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for bad in ["", "<html>", "[]", "{}", "{\"issuer\":1}"] {
            assert!(matches!(Metadata::parse(bad.as_bytes(), ISSUER), Err(DiscoveryError::Malformed(_))), "{bad}");
        }
        let twice = document().to_string().replacen('{', "{\"issuer\":\"https://evil.example\",", 1);
        assert!(matches!(Metadata::parse(twice.as_bytes(), ISSUER), Err(DiscoveryError::Malformed(_))));
    }
}
