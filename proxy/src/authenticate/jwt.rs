//! Tokens of a configured issuer (RFC 7519, hardened by RFC 8725).
//!
//! The header says almost nothing that counts: the algorithm must be one that is pinned with the issuer, keys that a token brings are a reason to refuse it, and `kid` only chooses
//! among the keys that the issuer publishes where the configuration says ([`super::jwks`]).
//! Claims are read once, from the bytes whose signature was checked, and times are compared with our own [`Clock`].

use super::jwks::document::KID_BYTES_MAX;
use super::jwks::{KeySet, KeySetError, KeySets};
use super::jwt_claims::ClaimPath;
use super::jwt_parts::{Parts, PartsError};
use super::jwt_ring::{Algorithm, VerifyingKey};
use crate::clock::{Clock, WallMillis};
use crate::config::{IssuerKeys, JwtIssuerConfig, UnknownTenant};
use crate::ids::{TenantId, UserId};
use crate::owner::{Scope, Scopes};
use crate::tenants::Claimed;
use crate::tenants::created::{CLAIM_BYTES_MAX, WantedTenant};
use crate::tenants::{AllTenants, made_id};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

pub use super::jwt_parts::TOKEN_BYTES_MAX;

/// Why a token is not accepted: for log and audit only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three parts of base64url with JSON objects in the first two, or too long.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// The header has something that we do not follow: a key of its own, an extension, a compression; or it is of a token for another use.
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
pub(super) enum Keys {
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

/// Checks `token` against the configured issuers and the tenants, and says from when on it is refused: its `exp`, with the issuer's leeway. Waits where the issuer's published keys have to be
/// fetched first.
///
/// # Errors
/// [`JwtError`] names the first check that failed; signature before every claim but `iss`, which chooses the key.
pub async fn identity(
    token: &str,
    issuers: &[Issuer],
    tenants: &AllTenants,
    clock: &Clock,
) -> Result<(JwtIdentity, WallMillis), JwtError> {
    let parts = Parts::of(token)?;
    check_header(&parts.header, &TYPES)?;
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
    let good_until = check_times(&parts.claims, issuer.leeway, clock)?;
    let by = TenantRule { issuer: &issuer.issuer, claim: &issuer.tenant_claim, unknown: &issuer.unknown_tenant };
    let identity = JwtIdentity {
        tenant: tenant(&parts.claims, by, tenants)?,
        user: user(&parts.claims, &issuer.user_claim)?,
        scopes: scopes(&parts.claims, issuer.scope_claim.as_ref())?,
    };
    Ok((identity, good_until))
}

/// The claims of a token of one of these types that these keys signed, and by which algorithm. What they say is not looked at.
///
/// # Errors
/// [`JwtError`] of form, header and signature.
pub(super) async fn signed_claims(
    token: &str,
    keys: &Keys,
    types: &[&str],
) -> Result<(Value, Option<Algorithm>), JwtError> {
    let parts = Parts::of(token)?;
    check_header(&parts.header, types)?;
    check_signature(&parts, keys).await?;
    let algorithm = parts.header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_name);
    Ok((parts.claims, algorithm))
}

/// Header fields that would have us fetch or take a key, understand an extension (RFC 7515 §4.1.11), unpack something or look into another token within (RFC 8725 §2.4, §3.10).
const REFUSED_HEADER_FIELDS: [&str; 9] = ["crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc", "cty"];
/// What a token may say that it is, in any case of letters (RFC 7515 §4.1.9): nothing, a JWT, or an access token (RFC 9068 §2.1). SECURITY: the same issuer signs others with the same key, to tell of a logout
/// or of an event; their holders must not come in by them (RFC 8725 §3.11).
pub(super) const TYPES: [&str; 2] = ["jwt", "at+jwt"];

fn check_header(header: &Map<String, Value>, types: &[&str]) -> Result<(), JwtError> {
    if let Some(field) = REFUSED_HEADER_FIELDS.into_iter().find(|field| header.contains_key(*field)) {
        return Err(JwtError::HeaderField(field));
    }
    // Of a fixed key it chooses nothing; whoever sends something odd is refused all the same.
    kid(header)?;
    let is_ours = |name: &str| types.iter().any(|ours| name.eq_ignore_ascii_case(ours));
    match header.get("typ") {
        None => Ok(()),
        Some(Value::String(name)) if is_ours(media_type(name)) => Ok(()),
        Some(_) => Err(JwtError::HeaderField("typ")),
    }
}

/// `application/` may be left out.
fn media_type(name: &str) -> &str {
    match name.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => name,
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
        Some(_) => Err(JwtError::HeaderField("kid")),
    }
}

/// `aud` is a text or a list of texts (RFC 7519 §4.1.3).
fn check_audience(claims: &Value, issuer: &JwtIssuerConfig) -> Result<(), JwtError> {
    let ours = |value: &Value| value.as_str() == Some(&issuer.audience);
    let found = match claims.get("aud") {
        // A list with anything else in it is no list of audiences.
        Some(Value::Array(list)) => list.iter().all(Value::is_string) && list.iter().any(ours),
        Some(one) => ours(one),
        None => false,
    };
    if found { Ok(()) } else { Err(JwtError::WrongAudience) }
}

/// `exp` must be there; `nbf` and `iat` count if they are: a token that is not made yet was made by a wrong clock, or for later. `exp` is the first second that is too late (RFC 7519 §4.1.4). Gives
/// the first millisecond at which the token is.
pub(super) fn check_times(claims: &Value, leeway: Duration, clock: &Clock) -> Result<WallMillis, JwtError> {
    let now = clock.wall().0 as f64 / 1000.0;
    let leeway = leeway.as_secs_f64();
    let expires = time(claims, "exp")?.ok_or_else(|| JwtError::Claim("exp".to_owned()))?;
    if now >= expires + leeway {
        return Err(JwtError::Expired);
    }
    for name in ["nbf", "iat"] {
        if time(claims, name)?.is_some_and(|begins| now < begins - leeway) {
            return Err(JwtError::NotYet);
        }
    }
    Ok(millis(expires + leeway))
}

/// Rounded up; a float's `as` saturates.
fn millis(seconds: f64) -> WallMillis {
    WallMillis((seconds * 1000.0).ceil() as u64)
}

/// The end of the year 9999.
const TIME_MAX: f64 = 253_402_300_799.0;

/// Seconds since 1970, maybe with a fraction (RFC 7519 §2, NumericDate). What lies before that or after the year 9999 is no time: milliseconds written for seconds, or a token that never ends.
pub(super) fn time(claims: &Value, name: &str) -> Result<Option<f64>, JwtError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let time = value.as_f64().filter(|time| (0.0..=TIME_MAX).contains(time));
    time.map(Some).ok_or_else(|| JwtError::Claim(name.to_owned()))
}

/// Never with control characters: no subject has them, and they forge lines where people read.
pub(super) fn text<'c>(claims: &'c Value, path: &ClaimPath) -> Result<&'c str, JwtError> {
    let good = |value: &&str| !value.is_empty() && !value.chars().any(char::is_control);
    let found = path.find(claims).and_then(Value::as_str).filter(good);
    found.ok_or_else(|| JwtError::Claim(path.to_string()))
}

/// How an issuer's claim leads to a tenant.
#[derive(Debug, Clone, Copy)]
pub(super) struct TenantRule<'r> {
    pub(super) issuer: &'r str,
    pub(super) claim: &'r ClaimPath,
    pub(super) unknown: &'r UnknownTenant,
}

/// A tenant of the file; where the issuer may make tenants, only one that has this `claim`, else the one that is this issuer's and this claim's alone.
pub(super) fn tenant(claims: &Value, by: TenantRule<'_>, tenants: &AllTenants) -> Result<TokenTenant, JwtError> {
    let value = text(claims, by.claim)?;
    let made = match by.unknown {
        UnknownTenant::Refuse => {
            let known = tenants.tenant_of_claim(value).ok_or(JwtError::UnknownTenant)?;
            return Ok(TokenTenant::Configured(known.id.clone()));
        }
        UnknownTenant::Create(made) => made,
    };
    match tenants.tenant_with_claim(value) {
        Claimed::By(known) => return Ok(TokenTenant::Configured(known.id.clone())),
        Claimed::Closed => return Err(JwtError::UnknownTenant),
        Claimed::Nobody => {}
    }
    if value.len() > CLAIM_BYTES_MAX {
        return Err(JwtError::Claim(by.claim.to_string()));
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
        id: made_id(by.issuer, value),
        issuer: by.issuer.to_owned(),
        claim: value.to_owned(),
        plan: plan.clone(),
        issued_at: claims.get("iat").and_then(Value::as_u64),
    }))
}

/// The user that a claim names.
pub(super) fn user(claims: &Value, claim: &ClaimPath) -> Result<UserId, JwtError> {
    let value = text(claims, claim)?;
    user_id_text(value).parse().map_err(|_| JwtError::Claim(claim.to_string()))
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
pub(super) fn scopes(claims: &Value, claim: Option<&ClaimPath>) -> Result<Scopes, JwtError> {
    let Some(path) = claim else {
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
mod attacks;
#[cfg(test)]
mod tests;
