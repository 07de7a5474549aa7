//! Stage 3: who is calling.
//!
//! *In*: the head of a request. *Out*: a [`Principal`], or no answer but one: 401 with a challenge. *Takes*: API keys ([`api_key`]) by `Authorization: Bearer`, `X-API-Key` or Basic (as
//! password; the user name is ignored), and tokens of configured issuers ([`jwt`], with keys that the issuer publishes: [`jwks`]) by `Authorization: Bearer`. *Refuses*: no credential, two that differ, anything malformed, unknown, expired or
//! revoked, tenants that are gone or disabled. *Answers the attack*: calling without a right, with a guessed or forged credential, or with one that was taken back; and learning from the
//! answers which ids exist, so all refusals read the same and only log and audit have the reason. *Leaves to others*: how often somebody may fail (admit), what a scope opens
//! (route), whose a thing is (record). What can't be checked now, since the ledger or an issuer's keys can't be had, is 503 with `Retry-After`, never a skipped check.
//!
//! Browsers log in at `/gate/login` and have a cookie from then on ([`session`]); where a header has a credential too, that one counts.
//!
//! Credentials in the query (`?token=`) are not read: they end up in logs. One-use tickets for them are not built yet. A verified client certificate is a
//! credential of its connection ([`certificate`]): beside a header's credential it is refused, beside a cookie it counts.

pub mod api_key;
pub mod browsers;
pub mod certificate;
pub mod jwks;
pub mod jwt;
pub mod jwt_claims;
pub mod jwt_ring;
pub mod session;

use crate::clock::Clock;
use crate::config::JwtIssuerConfig;
use crate::ids::{KeyId, TenantId};
use crate::listen::ClientTls;
use crate::owner::{Credential, Owner, Principal, Scope};
use crate::record::ledger::{Ledger, LedgerError};
use crate::tenants::AllTenants;
use crate::tenants::created::CreateError;
use api_key::{ApiKey, KeyFormatError, KeyRefused, KeyRow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certificate::{CertificateError, CertificateRule};
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};
use jwks::KeySets;
use jwt::{Issuer, JwtError, TOKEN_BYTES_MAX, TokenTenant};
use std::time::Duration;

/// Why a caller is not let in. What the caller reads is one text for all but the last two; the variants are for log and audit.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Nothing was shown.
    #[error("no credential")]
    Missing,
    /// Two headers, or one twice, that do not agree. SECURITY: whichever we took, somebody in front of us may have checked the other.
    #[error("two credentials that differ")]
    Ambiguous,
    /// A header that holds no credential.
    #[error("credential is malformed: {0}")]
    Malformed(&'static str),
    /// Looks like a key and is none.
    #[error("API key is malformed: {0}")]
    KeyFormat(#[from] KeyFormatError),
    /// No such key.
    #[error("API key `{0}` is not known")]
    UnknownKey(KeyId),
    /// There is such a key.
    #[error("API key `{id}`: {reason}")]
    KeyRefused {
        /// Which.
        id: KeyId,
        /// Why not.
        reason: KeyRefused,
    },
    /// A token.
    #[error("{0}")]
    Jwt(#[from] JwtError),
    /// A cookie of ours that lets nobody in: a login helps.
    #[error("session: {0}")]
    Session(#[from] session::SessionRefused),
    /// A client certificate.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// The credential is good; its tenant is not there any more, or disabled.
    #[error("tenant `{0}` is gone or disabled")]
    TenantClosed(TenantId),
    /// The key could not be looked up: 503, never a skipped check.
    #[error("ledger can't be read: {0}")]
    Unavailable(LedgerError),
    /// The token is good; its tenant can't be made.
    #[error("tenant of the token can't be made: {0}")]
    NoTenant(CreateError),
    /// Known, and not allowed to do this: 403.
    #[error("scope `{}` is missing", .0.name())]
    Forbidden(Scope),
}

impl AuthError {
    /// Whether a login at `/gate/login` would help: nothing was shown, or a session that has ended.
    pub fn wants_login(&self) -> bool {
        matches!(self, Self::Missing | Self::Session(_))
    }

    /// Whether this looks like guessing, and so counts against the caller's address. Who proved a credential that is out of date is no guesser: a forgotten script with
    /// an expired key must not lock out its whole office.
    pub fn is_failed_login(&self) -> bool {
        match self {
            // A cookie has 256 random bits: whoever sends an old one is an old tab. A certificate was verified: nothing was guessed.
            Self::Session(_) | Self::Certificate(_) => false,
            Self::Missing | Self::TenantClosed(_) | Self::Unavailable(_) | Self::NoTenant(_) | Self::Forbidden(_) => {
                false
            }
            Self::Ambiguous | Self::Malformed(_) | Self::KeyFormat(_) | Self::UnknownKey(_) => true,
            Self::KeyRefused { reason, .. } => *reason == KeyRefused::WrongSecret,
            Self::Jwt(error) => {
                use JwtError::{Claim, Expired, Keys, NotYet, Plan, UnknownTenant, WrongAudience};
                // An unknown `kid` is what the first tokens after a rotation have, all of one office at once.
                !matches!(error, Expired | NotYet | WrongAudience | UnknownTenant | Claim(_) | Plan(_) | Keys(_))
            }
        }
    }

    /// Whether the credential may be good and only can't be checked now; then how long to wait before it is shown again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(_) | Self::NoTenant(CreateError::Ledger(_)) => Some(LEDGER_RETRY),
            Self::NoTenant(CreateError::Full { .. }) => Some(FULL_RETRY),
            Self::Jwt(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// A ledger that can't be read or written is mostly a disk that comes back or a restart.
const LEDGER_RETRY: Duration = Duration::from_secs(5);
/// Room for tenants is made by an operator.
const FULL_RETRY: Duration = Duration::from_secs(600);

/// Where keys are looked up: the part of the [`Ledger`] that this stage needs.
#[async_trait::async_trait]
pub trait KeyRows: Send + Sync {
    /// The key of that id.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn key_row(&self, id: &KeyId) -> Result<KeyRow, LedgerError>;
}

#[async_trait::async_trait]
impl<L: Ledger + ?Sized> KeyRows for L {
    async fn key_row(&self, id: &KeyId) -> Result<KeyRow, LedgerError> {
        self.key(id).await
    }
}

/// The stage: what it needs from the configuration, and the time.
#[derive(Debug)]
pub struct Authenticator {
    issuers: Vec<Issuer>,
    clock: Clock,
}

/// What a caller shows. `Debug` is left out: one of them is a secret as it stands.
#[derive(PartialEq, Eq)]
enum Shown {
    Key(String),
    Token(String),
}

/// Longest header that may hold a credential: the longest token, and room for the scheme before it.
const HEADER_BYTES_MAX: usize = TOKEN_BYTES_MAX + 64;
/// `X-API-Key`, as many clients call it; no RFC has it.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

impl Authenticator {
    /// A stage that knows these issuers; keys that they publish are those of `key_sets`.
    pub fn new(issuers: Vec<JwtIssuerConfig>, key_sets: &KeySets, clock: Clock) -> Self {
        Self { issuers: issuers.into_iter().map(|issuer| Issuer::new(issuer, key_sets)).collect(), clock }
    }

    /// Who sent these headers. Keys are looked up at every request, without a cache: a revoked one is refused from the next request on.
    ///
    /// # Errors
    /// [`AuthError`]; never `Forbidden`, which [`require`] says.
    pub async fn authenticate<K: KeyRows + ?Sized>(
        &self,
        headers: &HeaderMap,
        keys: &K,
        tenants: &AllTenants,
    ) -> Result<Principal, AuthError> {
        let principal = match shown(headers)? {
            Shown::Key(text) => self.by_key(&text, keys).await?,
            Shown::Token(token) => self.by_token(&token, tenants).await?,
        };
        of_open_tenant(principal, tenants)
    }

    /// Who sent these headers on this connection: as [`Authenticator::authenticate`], or whom its client certificate stands for. `tls` is what the connection showed at a
    /// listener with a `client_ca`, `rules` the configured holders.
    ///
    /// # Errors
    /// As there; [`AuthError::Ambiguous`] for a certificate of somebody beside another good credential.
    pub async fn authenticate_connection<K: KeyRows + ?Sized>(
        &self,
        tls: Option<&ClientTls>,
        rules: &[CertificateRule],
        headers: &HeaderMap,
        keys: &K,
        tenants: &AllTenants,
    ) -> Result<Principal, AuthError> {
        let holder = match tls {
            Some(tls) => certificate::holder(tls, rules, self.clock.wall())?,
            None => None,
        };
        match (holder, self.authenticate(headers, keys, tenants).await) {
            (None, shown) => shown,
            (Some(rule), Err(AuthError::Missing)) => of_open_tenant(by_certificate(rule), tenants),
            (Some(_), Ok(_)) => Err(AuthError::Ambiguous),
            (Some(_), Err(error)) => Err(error),
        }
    }

    async fn by_key<K: KeyRows + ?Sized>(&self, text: &str, keys: &K) -> Result<Principal, AuthError> {
        let key = ApiKey::parse(text)?;
        let row = keys.key_row(key.id()).await.map_err(|error| match error {
            LedgerError::NotFound { .. } => AuthError::UnknownKey(key.id().clone()),
            other => AuthError::Unavailable(other),
        })?;
        key.verify(&row, &self.clock).map_err(|reason| AuthError::KeyRefused { id: key.id().clone(), reason })?;
        // The row's own id, whatever its owner says: audit names the key that was used.
        let owner = Owner { key: Some(row.id), ..row.owner };
        Ok(Principal { owner, scopes: row.scopes, credential: Credential::ApiKey })
    }

    async fn by_token(&self, token: &str, tenants: &AllTenants) -> Result<Principal, AuthError> {
        let identity = jwt::identity(token, &self.issuers, tenants, &self.clock).await?;
        let tenant = match identity.tenant {
            TokenTenant::Configured(id) => id,
            TokenTenant::Made(wanted) => {
                tenants.ensure(&wanted).await.map_err(AuthError::NoTenant)?;
                wanted.id
            }
        };
        let owner = Owner { tenant, user: Some(identity.user), key: None };
        Ok(Principal { owner, scopes: identity.scopes, credential: Credential::Jwt })
    }
}

fn by_certificate(rule: &CertificateRule) -> Principal {
    let owner = Owner { tenant: rule.tenant.clone(), user: rule.user.clone(), key: None };
    Principal { owner, scopes: rule.scopes, credential: Credential::ClientCertificate }
}

fn of_open_tenant(principal: Principal, tenants: &AllTenants) -> Result<Principal, AuthError> {
    let tenant = &principal.owner.tenant;
    match tenants.tenant(tenant) {
        Some(known) if !known.disabled => Ok(principal),
        _ => Err(AuthError::TenantClosed(tenant.clone())),
    }
}

/// The one credential of a request, wherever it stands.
fn shown(headers: &HeaderMap) -> Result<Shown, AuthError> {
    let authorization = headers.get_all(AUTHORIZATION).iter().map(by_authorization);
    let x_api_key = headers.get_all(X_API_KEY).iter().map(|value| Ok(Shown::Key(visible(value)?.to_owned())));
    let mut found: Option<Shown> = None;
    for shown in authorization.chain(x_api_key) {
        let shown = shown?;
        match &found {
            Some(first) if *first != shown => return Err(AuthError::Ambiguous),
            _ => found = Some(shown),
        }
    }
    found.ok_or(AuthError::Missing)
}

fn visible(value: &HeaderValue) -> Result<&str, AuthError> {
    let text = value.to_str().map_err(|_| AuthError::Malformed("characters"))?.trim();
    if text.len() > HEADER_BYTES_MAX { Err(AuthError::Malformed("length")) } else { Ok(text) }
}

/// Schemes are compared without case (RFC 9110 §11.1).
fn by_authorization(value: &HeaderValue) -> Result<Shown, AuthError> {
    let text = visible(value)?;
    let (scheme, credential) = text.split_once(' ').ok_or(AuthError::Malformed("no scheme"))?;
    let credential = credential.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        let key = credential.starts_with(api_key::PREFIX);
        Ok(if key { Shown::Key(credential.to_owned()) } else { Shown::Token(credential.to_owned()) })
    } else if scheme.eq_ignore_ascii_case("basic") {
        by_basic(credential)
    } else {
        Err(AuthError::Malformed("scheme"))
    }
}

/// `base64(user:password)` with the key as password (RFC 7617).
fn by_basic(credential: &str) -> Result<Shown, AuthError> {
    let malformed = AuthError::Malformed("Basic");
    let Ok(bytes) = STANDARD.decode(credential) else {
        return Err(malformed);
    };
    match std::str::from_utf8(&bytes).ok().and_then(|text| text.split_once(':')) {
        Some((_, password)) => Ok(Shown::Key(password.to_owned())),
        None => Err(malformed),
    }
}

/// Whether `principal` may do what needs `scope`.
///
/// # Errors
/// [`AuthError::Forbidden`].
pub fn require(principal: &Principal, scope: Scope) -> Result<(), AuthError> {
    if principal.scopes.has(scope) { Ok(()) } else { Err(AuthError::Forbidden(scope)) }
}

#[cfg(test)]
mod tests;
