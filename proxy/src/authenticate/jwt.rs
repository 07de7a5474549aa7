//! Tokens of a configured issuer (RFC 7519, hardened by RFC 8725).
//!
//! The header says almost nothing that counts: the algorithm must be one that is pinned with the issuer, keys that a token brings are a reason to refuse it, and `kid` only chooses
//! among the keys that the issuer publishes where the configuration says ([`super::jwks`]).
//! Claims are read once, from the bytes whose signature was checked, and times are compared with our own [`Clock`].

use super::jwks::document::KID_BYTES_MAX;
use super::jwks::{KeySet, KeySetError, KeySets};
use super::jwt_claims::ClaimPath;
use super::jwt_ring::{Algorithm, VerifyingKey};
use crate::clock::Clock;
use crate::config::{IssuerKeys, JwtIssuerConfig, UnknownTenant};
use crate::ids::{TenantId, UserId};
use crate::owner::{Scope, Scopes};
use crate::tenants::created::{CLAIM_BYTES_MAX, WantedTenant};
use crate::tenants::{AllTenants, made_id};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// Longest token in bytes; identity providers stay below 4 KiB, and all our request heads have 32.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Why a token is not accepted: for log and audit only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("token of {0} bytes")]
    TooLong(usize),
    /// Not three parts of base64url with JSON objects in the first two.
    #[error("token is malformed: {0}")]
    Malformed(&'static str),
    /// The header has something that we do not follow: a key of its own, an extension, a compression.
    #[error("token header has `{0}`")]
    HeaderField(&'static str),
    /// No such `[[jwt]]`.
    #[error("issuer is not configured")]
    UnknownIssuer,
    /// `none`, another family, another case.
    #[error("algorithm is not the issuer's, {wanted}")]
    WrongAlgorithm {
        /// What the issuer is pinned to.
        wanted: &'static str,
    },
    /// Forged, or another key.
    #[error("signature is wrong")]
    WrongSignature,
    /// The token is for somebody else.
    #[error("audience is not ours")]
    WrongAudience,
    /// `exp`.
    #[error("token has expired")]
    Expired,
    /// `nbf`.
    #[error("token is not valid yet")]
    NotYet,
    /// Absent, or of another type.
    #[error("claim `{0}` is missing or of a wrong type")]
    Claim(String),
    /// `unknown_tenant = "refuse"`.
    #[error("tenant of the token is not known")]
    UnknownTenant,
    /// The plan claim names something that `plans_from_claim` does not.
    #[error("the plan in claim `{0}` is not one that a token may choose")]
    Plan(String),
    /// The issuer's published keys.
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

impl JwtError {
    /// Whether the token may be good and only can't be checked now; then how long to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Keys(KeySetError::Unavailable { retry_after }) => Some(*retry_after),
            _ => None,
        }
    }
}

/// An issuer, ready to be asked.
#[derive(Debug)]
pub struct Issuer {
    config: JwtIssuerConfig,
    keys: Keys,
}

/// Where an issuer's keys are.
#[derive(Debug)]
enum Keys {
    Fixed(VerifyingKey),
    Published { set: Arc<KeySet>, algorithms: Vec<Algorithm> },
}

impl Issuer {
    /// The issuer of that configuration; a published key set is the one in use, or begins to be fetched.
    pub fn new(config: JwtIssuerConfig, key_sets: &KeySets) -> Self {
        let keys = match &config.keys {
            IssuerKeys::Fixed(key) => Keys::Fixed(key.clone()),
            IssuerKeys::Published(published) => Keys::Published {
                set: key_sets.set(&config.issuer, published),
                algorithms: published.algorithms.clone(),
            },
        };
        Self { config, keys }
    }
}

/// Who pays for what a token asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenTenant {
    /// One of the tenants file; maybe disabled.
    Configured(TenantId),
    /// One that this issuer's tokens make: there already, or to be made now.
    Made(WantedTenant),
}

impl TokenTenant {
    /// Its id.
    pub fn id(&self) -> &TenantId {
        match self {
            Self::Configured(id) => id,
            Self::Made(wanted) => &wanted.id,
        }
    }
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtIdentity {
    /// From the tenant claim.
    pub tenant: TokenTenant,
    /// From the user claim.
    pub user: UserId,
    /// From the scope claim, else a client's.
    pub scopes: Scopes,
}

/// A token in three parts, nothing of it believed yet.
struct Parts<'t> {
    header: Map<String, Value>,
    /// An object.
    claims: Value,
    /// What the signature covers: `HEADER.CLAIMS` as received.
    message: &'t str,
    signature: &'t str,
}

/// Checks `token` against the configured issuers and the tenants. Waits where the issuer's published keys have to be fetched first.
///
/// # Errors
/// [`JwtError`] names the first check that failed; signature before every claim but `iss`, which chooses the key.
pub async fn identity(
    token: &str,
    issuers: &[Issuer],
    tenants: &AllTenants,
    clock: &Clock,
) -> Result<JwtIdentity, JwtError> {
    let parts = parts(token)?;
    check_header(&parts.header)?;
    let named = parts.claims.get("iss").and_then(Value::as_str);
    let found = issuers.iter().find(|issuer| Some(issuer.config.issuer.as_str()) == named);
    let Issuer { config: issuer, keys } = found.ok_or(JwtError::UnknownIssuer)?;
    if let Err(error) = check_signature(&parts, keys).await {
        if error.retry_after().is_some() {
            // Trying again helps no token that says itself that its time is over; a WebSocket with it is closed.
            check_times(&parts.claims, issuer.leeway, clock)?;
        }
        return Err(error);
    }
    // SECURITY: from here on the claims are the issuer's.
    check_audience(&parts.claims, issuer)?;
    check_times(&parts.claims, issuer.leeway, clock)?;
    Ok(JwtIdentity {
        tenant: tenant(&parts.claims, issuer, tenants)?,
        user: user(&parts.claims, issuer)?,
        scopes: scopes(&parts.claims, issuer)?,
    })
}

fn parts(token: &str) -> Result<Parts<'_>, JwtError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(JwtError::TooLong(token.len()));
    }
    let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed("parts"))?;
    let (header, claims) = message.split_once('.').ok_or(JwtError::Malformed("parts"))?;
    let claims = Value::Object(object(claims, "claims")?);
    Ok(Parts { header: object(header, "header")?, claims, message, signature })
}

fn object(part: &str, name: &'static str) -> Result<Map<String, Value>, JwtError> {
    // A second dot would be no base64url either: four parts (an encrypted token has five) fail here.
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed(name))?;
    serde_json::from_slice(&bytes).map_err(|_| JwtError::Malformed(name))
}

/// Header fields that would have us fetch or take a key, understand an extension (RFC 7515 §4.1.11) or unpack something.
const REFUSED_HEADER_FIELDS: [&str; 8] = ["crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc"];

fn check_header(header: &Map<String, Value>) -> Result<(), JwtError> {
    match REFUSED_HEADER_FIELDS.into_iter().find(|field| header.contains_key(*field)) {
        Some(field) => Err(JwtError::HeaderField(field)),
        None => Ok(()),
    }
}

async fn check_signature(parts: &Parts<'_>, keys: &Keys) -> Result<(), JwtError> {
    let named = parts.header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_name);
    let good = match keys {
        Keys::Fixed(key) => {
            let pinned = key.algorithm();
            // SECURITY: compared before any cryptography, so that the token never chooses the algorithm (RFC 8725 §3.1).
            if named != Some(pinned) {
                return Err(JwtError::WrongAlgorithm { wanted: pinned.name() });
            }
            key.verifies(parts.message.as_bytes(), parts.signature)
        }
        Keys::Published { set, algorithms } => {
            // SECURITY: the same, before the set is asked: what is not listed causes no fetch.
            let algorithm = named.filter(|algorithm| algorithms.contains(algorithm));
            let algorithm = algorithm.ok_or(JwtError::WrongAlgorithm { wanted: "one of its `algorithms`" })?;
            let key = set.key(kid(&parts.header)?, algorithm).await?;
            key.verifies(algorithm, parts.message.as_bytes(), parts.signature)
        }
    };
    if good { Ok(()) } else { Err(JwtError::WrongSignature) }
}

fn kid(header: &Map<String, Value>) -> Result<Option<&str>, JwtError> {
    match header.get("kid") {
        None => Ok(None),
        Some(Value::String(kid)) if !kid.is_empty() && kid.len() <= KID_BYTES_MAX => Ok(Some(kid)),
        Some(_) => Err(JwtError::Malformed("kid")),
    }
}

/// `aud` is a text or a list of texts (RFC 7519 §4.1.3).
fn check_audience(claims: &Value, issuer: &JwtIssuerConfig) -> Result<(), JwtError> {
    let ours = |value: &Value| value.as_str() == Some(&issuer.audience);
    let found = match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().any(ours),
        Some(one) => ours(one),
        None => false,
    };
    if found { Ok(()) } else { Err(JwtError::WrongAudience) }
}

/// `exp` must be there; `nbf` counts if it is. `exp` is the first second that is too late (RFC 7519 §4.1.4).
fn check_times(claims: &Value, leeway: Duration, clock: &Clock) -> Result<(), JwtError> {
    let now = clock.wall().0 as f64 / 1000.0;
    let leeway = leeway.as_secs_f64();
    let expires = time(claims, "exp")?.ok_or_else(|| JwtError::Claim("exp".to_owned()))?;
    if now >= expires + leeway {
        return Err(JwtError::Expired);
    }
    match time(claims, "nbf")? {
        Some(begins) if now < begins - leeway => Err(JwtError::NotYet),
        _ => Ok(()),
    }
}

/// Seconds since 1970, maybe with a fraction (RFC 7519 §2, NumericDate). JSON has no infinities, so every number compares.
fn time(claims: &Value, name: &str) -> Result<Option<f64>, JwtError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    value.as_f64().map(Some).ok_or_else(|| JwtError::Claim(name.to_owned()))
}

fn text<'c>(claims: &'c Value, path: &ClaimPath) -> Result<&'c str, JwtError> {
    let found = path.find(claims).and_then(Value::as_str).filter(|value| !value.is_empty());
    found.ok_or_else(|| JwtError::Claim(path.to_string()))
}

/// A tenant of the file; where the issuer may make tenants, only one that has this `claim`, else the one that is this issuer's and this claim's alone.
fn tenant(claims: &Value, issuer: &JwtIssuerConfig, tenants: &AllTenants) -> Result<TokenTenant, JwtError> {
    let value = text(claims, &issuer.tenant_claim)?;
    let made = match &issuer.unknown_tenant {
        UnknownTenant::Refuse => {
            let known = tenants.tenant_of_claim(value).ok_or(JwtError::UnknownTenant)?;
            return Ok(TokenTenant::Configured(known.id.clone()));
        }
        UnknownTenant::Create(made) => made,
    };
    if let Some(known) = tenants.tenant_with_claim(value) {
        return Ok(TokenTenant::Configured(known.id.clone()));
    }
    if value.len() > CLAIM_BYTES_MAX {
        return Err(JwtError::Claim(issuer.tenant_claim.to_string()));
    }
    let chosen = made.plan_claim.as_ref().and_then(|path| Some((path, path.find(claims)?)));
    let plan = match chosen {
        None => &made.plan,
        Some((path, value)) => {
            // SECURITY: the claim chooses among what the operator listed; anything else is no plan, not the default one.
            let listed = made.plans_from_claim.iter().find(|plan| Some(plan.as_str()) == value.as_str());
            listed.ok_or_else(|| JwtError::Plan(path.to_string()))?
        }
    };
    Ok(TokenTenant::Made(WantedTenant {
        id: made_id(&issuer.issuer, value),
        issuer: issuer.issuer.clone(),
        claim: value.to_owned(),
        plan: plan.clone(),
        issued_at: claims.get("iat").and_then(Value::as_u64),
    }))
}

fn user(claims: &Value, issuer: &JwtIssuerConfig) -> Result<UserId, JwtError> {
    let value = text(claims, &issuer.user_claim)?;
    user_id_text(value).parse().map_err(|_| JwtError::Claim(issuer.user_claim.to_string()))
}

/// A subject in the alphabet of user ids: other bytes become `+XX`, as in `auth0|12` → `auth0+7C12`. No two subjects become one user: a `+` that would
/// read as such an escape is escaped itself.
fn user_id_text(subject: &str) -> String {
    let bytes = subject.as_bytes();
    let is_upper_hex = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    let mut id = String::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        let plain = match byte {
            b'+' => !(is_upper_hex(bytes.get(at + 1)) && is_upper_hex(bytes.get(at + 2))),
            _ => byte.is_ascii_alphanumeric() || b"._@-".contains(byte),
        };
        if plain { id.push(char::from(*byte)) } else { id.push_str(&format!("+{byte:02X}")) }
    }
    id
}

/// Words of a text or entries of a list (RFC 8693 §4.2 has the former, several providers the latter). Words that are no scope of ours, such as `openid`, mean nothing here.
fn scopes(claims: &Value, issuer: &JwtIssuerConfig) -> Result<Scopes, JwtError> {
    let Some(path) = &issuer.scope_claim else {
        return Ok(Scopes::of_a_client());
    };
    match path.find(claims) {
        Some(Value::String(words)) => Ok(words.split_ascii_whitespace().filter_map(Scope::from_name).collect()),
        Some(Value::Array(words)) => Ok(words.iter().filter_map(Value::as_str).filter_map(Scope::from_name).collect()),
        // A claim that was to say what the caller may do and is not there allows nothing.
        _ => Err(JwtError::Claim(path.to_string())),
    }
}

#[cfg(test)]
mod tests;
