//! Stage 3: who is calling.
//!
//! *In*: the head of a request. *Out*: a [`Principal`], or no answer but one: 401 with a challenge. *Takes*: API keys ([`api_key`]) by `Authorization: Bearer`, `X-API-Key` or Basic (as
//! password; the user name is ignored), and tokens of configured issuers ([`jwt`], with keys that the issuer publishes: [`jwks`]) by `Authorization: Bearer`. *Refuses*: no credential, two that differ, anything malformed, unknown, expired or
//! revoked, tenants that are gone or disabled. *Answers the attack*: calling without a right, with a guessed or forged credential, or with one that was taken back; and learning from the
//! answers which ids exist, so all refusals read the same and only log and audit have the reason. *Leaves to others*: how often somebody may fail (admit), what a scope opens
//! (route), whose a thing is (record). What can't be checked now, since the ledger or an issuer's keys can't be had, is 503 with `Retry-After`, never a skipped check.
//!
//! Browsers log in at `/gate/login`, or at an identity provider ([`oidc`]), and have a cookie from then on ([`session`]); where a header has a credential too, that one counts.
//!
//! Credentials in the query end up in logs. So `?token=` is read at `/ws` only, and takes one-use tickets ([`tickets`]) and API keys that were made for it. A verified client certificate is a
//! credential of its connection ([`certificate`]): beside a header's credential it is refused, beside a cookie it counts.

pub mod acting;
pub mod api_key;
pub mod browsers;
pub mod certificate;
pub mod endings;
pub mod jwks;
pub mod jwt;
pub mod jwt_claims;
pub mod jwt_parts;
pub mod jwt_ring;
pub mod local_users;
pub mod login_links;
pub mod passwords;
pub mod key_uses;
pub mod presented;
pub mod oidc;
pub mod session;
pub mod tickets;

use crate::admit::guesses::{Account, Guess, Kind};
use crate::clock::{Clock, WallMillis};
use crate::config::JwtIssuerConfig;
use crate::ids::{KeyId, TenantId, UserId};
use crate::listen::{ClientAddr, ClientTls};
use crate::owner::{Credential, Owner, Principal, Scope};
use crate::record::ledger::users::UserRow;
use crate::record::ledger::{Ledger, LedgerError};
use crate::tenants::created::CreateError;
use crate::tenants::{AllTenants, Tenant};
use acting::ActingError;
use api_key::{ApiKey, KeyFormatError, KeyRefused, KeyRow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certificate::{CertificateError, CertificateRule};
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};
use jwks::KeySets;
use jwt::{Issuer, JwtError, TOKEN_BYTES_MAX, TokenTenant};
use std::net::IpAddr;
use std::time::Duration;

/// Why a caller is not let in. What the caller reads is one text and 401 for all but those of whom something was proved (`Acting`, `Address`, `Forbidden`) and those with a
/// [`AuthError::retry_after`], which are 503; the variants are for log and audit.
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
    /// A session that its identity provider has to renew, and was not asked to, or has not answered yet: 503, and its cookie is good.
    #[error("session: its identity provider has not renewed it yet")]
    NotRenewedYet {
        /// When it is worth a try again.
        retry_after: Duration,
    },
    /// A name and a password.
    #[error("{0}")]
    Password(#[from] local_users::PasswordRefused),
    /// As many passwords are checked at once as may be: 503.
    #[error("{0}")]
    Passwords(passwords::HashError),
    /// A client certificate.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// An API key in the query that was made for headers only.
    #[error("API key `{0}` was not made with `--allow-query`")]
    NotForQueries(KeyId),
    /// No ticket that waits to be used: used, over, or never there.
    #[error("there is no such ticket")]
    UnknownTicket,
    /// Whom the caller is to work for: 400 or 403.
    #[error(transparent)]
    Acting(#[from] ActingError),
    /// The credential is good; its tenant is not there any more, or disabled.
    #[error("tenant `{0}` is gone or disabled")]
    TenantClosed(TenantId),
    /// The key could not be looked up: 503, never a skipped check.
    #[error("ledger can't be read: {0}")]
    Unavailable(LedgerError),
    /// The token is good; its tenant can't be made.
    #[error("tenant of the token can't be made: {0}")]
    NoTenant(CreateError),
    /// Proven, and not taken from where the caller is: 403.
    #[error("tenant `{tenant}` is not used from `{client}`")]
    Address {
        /// Whose credential it is.
        tenant: TenantId,
        /// Where the caller is.
        client: IpAddr,
    },
    /// Known, and not allowed to do this: 403.
    #[error("scope `{}` is missing", .0.name())]
    Forbidden(Scope),
}

impl AuthError {
    /// Whether a login at `/gate/login` would help: nothing was shown, or a session that has ended.
    pub fn wants_login(&self) -> bool {
        matches!(self, Self::Missing | Self::Session(_))
    }

    /// What looks like guessing, and so has its sender wait. Who proved a credential that is out of date is no guesser: a forgotten script with an expired key must not count
    /// against its whole office.
    pub fn guess(&self) -> Option<Guess> {
        let key = |id: &KeyId| Guess { kind: Kind::Key, account: Some(Account::Key(id.clone())) };
        let unnamed = |kind| Some(Guess { kind, account: None });
        match self {
            // A cookie has 256 random bits: whoever sends an old one is an old tab. A certificate was verified: nothing was guessed.
            Self::Session(_) | Self::NotRenewedYet { .. } | Self::Certificate(_) => None,
            // A ticket has as many bits as a cookie; the others proved what they are.
            Self::UnknownTicket | Self::NotForQueries(_) | Self::Acting(_) => None,
            // Counted before it was checked: whoever asks again and again does so with each of them.
            Self::Password(_) | Self::Passwords(_) => None,
            Self::Missing | Self::TenantClosed(_) | Self::Unavailable(_) | Self::NoTenant(_) | Self::Forbidden(_) => {
                None
            }
            // The credential is good.
            Self::Address { .. } => None,
            Self::Ambiguous | Self::Malformed(_) => unnamed(Kind::Malformed),
            Self::KeyFormat(_) => unnamed(Kind::Key),
            Self::UnknownKey(id) => Some(key(id)),
            Self::KeyRefused { id, reason } => (*reason == KeyRefused::WrongSecret).then(|| key(id)),
            Self::Jwt(error) => {
                use JwtError::{Claim, Expired, Keys, NotYet, Plan, UnknownTenant, WrongAudience};
                // An unknown `kid` is what the first tokens after a rotation have, all of one office at once.
                let proved =
                    matches!(error, Expired | NotYet | WrongAudience | UnknownTenant | Claim(_) | Plan(_) | Keys(_));
                // Whose name a forged token has is the forger's word.
                if proved { None } else { unnamed(Kind::Token) }
            }
        }
    }

    /// Whether the credential may be good and only can't be checked now; then how long to wait before it is shown again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(_) | Self::NoTenant(CreateError::Ledger(_)) => Some(LEDGER_RETRY),
            Self::NoTenant(CreateError::Full { .. }) => Some(FULL_RETRY),
            Self::Jwt(error) => error.retry_after(),
            Self::Passwords(error) => Some(error.retry_after()),
            Self::NotRenewedYet { retry_after } => Some(*retry_after),
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

    /// The local user of that name, in whatever case.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn user_row(&self, name: &UserId) -> Result<UserRow, LedgerError>;
}

#[async_trait::async_trait]
impl<L: Ledger + ?Sized> KeyRows for L {
    async fn key_row(&self, id: &KeyId) -> Result<KeyRow, LedgerError> {
        self.key(id).await
    }

    async fn user_row(&self, name: &UserId) -> Result<UserRow, LedgerError> {
        self.user(name).await
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
            (Some(rule), Err(AuthError::Missing)) => {
                let good_until = tls.and_then(|tls| tls.certificate.as_ref()).map(certificate::good_until);
                of_open_tenant(by_certificate(rule, good_until), tenants)
            }
            (Some(_), Ok(_)) => Err(AuthError::Ambiguous),
            (Some(_), Err(error)) => Err(error),
        }
    }

    /// Who showed this API key in the query of `/ws`.
    ///
    /// # Errors
    /// As for one in a header; [`AuthError::NotForQueries`].
    pub async fn authenticate_query<K: KeyRows + ?Sized>(
        &self,
        text: &str,
        keys: &K,
        tenants: &AllTenants,
    ) -> Result<Principal, AuthError> {
        let (principal, allow_query) = self.by_key_row(text, keys).await?;
        match &principal.owner.key {
            Some(id) if !allow_query => Err(AuthError::NotForQueries(id.clone())),
            _ => of_open_tenant(principal, tenants),
        }
    }

    async fn by_key<K: KeyRows + ?Sized>(&self, text: &str, keys: &K) -> Result<Principal, AuthError> {
        self.by_key_row(text, keys).await.map(|(principal, _)| principal)
    }

    /// And whether the key may stand in a query.
    async fn by_key_row<K: KeyRows + ?Sized>(&self, text: &str, keys: &K) -> Result<(Principal, bool), AuthError> {
        let key = ApiKey::parse(text)?;
        let row = keys.key_row(key.id()).await.map_err(|error| match error {
            LedgerError::NotFound { .. } => AuthError::UnknownKey(key.id().clone()),
            other => AuthError::Unavailable(other),
        })?;
        key.verify(&row, &self.clock).map_err(|reason| AuthError::KeyRefused { id: key.id().clone(), reason })?;
        if is_of_disabled_user(&row.owner, keys).await? {
            return Err(AuthError::KeyRefused { id: row.id, reason: KeyRefused::UserDisabled });
        }
        // The row's own id, whatever its owner says: audit names the key that was used.
        let owner = Owner { key: Some(row.id), ..row.owner };
        let good_until = row.expires_at;
        let principal = Principal { owner, scopes: row.scopes, credential: Credential::ApiKey, good_until, home: None };
        Ok((principal, row.allow_query))
    }

    async fn by_token(&self, token: &str, tenants: &AllTenants) -> Result<Principal, AuthError> {
        let (identity, good_until) = jwt::identity(token, &self.issuers, tenants, &self.clock).await?;
        let tenant = match identity.tenant {
            TokenTenant::Configured(id) => id,
            TokenTenant::Made(wanted) => {
                tenants.ensure(&wanted).await.map_err(AuthError::NoTenant)?;
                wanted.id
            }
        };
        let owner = Owner { tenant, user: Some(identity.user), key: None, shared: false };
        let good_until = Some(good_until);
        Ok(Principal { owner, scopes: identity.scopes, credential: Credential::Jwt, good_until, home: None })
    }
}

fn by_certificate(rule: &CertificateRule, good_until: Option<WallMillis>) -> Principal {
    let owner = Owner { tenant: rule.tenant.clone(), user: rule.user.clone(), key: None, shared: false };
    Principal { owner, scopes: rule.scopes, credential: Credential::ClientCertificate, good_until, home: None }
}

fn of_open_tenant(principal: Principal, tenants: &AllTenants) -> Result<Principal, AuthError> {
    let tenant = principal.owner.tenant.clone();
    let owner = in_open_tenant(principal.owner, tenants).ok_or(AuthError::TenantClosed(tenant))?;
    Ok(Principal { owner, ..principal })
}

/// The owner as its tenant is now: `None` if that is gone or closed. INVARIANT: whoever makes a [`Principal`] takes its owner from here, so that what is shared is what the configuration says now,
/// and not what a row of a key or session said when it was written.
pub fn in_open_tenant(owner: Owner, tenants: &AllTenants) -> Option<Owner> {
    let tenant = tenants.tenant(&owner.tenant).filter(|tenant| !tenant.disabled)?;
    let shared = tenant.access.shares(owner.user.as_ref());
    Some(Owner { shared, ..owner })
}

/// Whether an owner is a local user who is disabled: by tenant and name, in whatever case, since keys and callers know users by nothing else. A name that no local user has is an identity provider's or
/// a program's own, and no matter of ours.
///
/// # Errors
/// `Unavailable`.
pub async fn is_of_disabled_user<K: KeyRows + ?Sized>(owner: &Owner, rows: &K) -> Result<bool, AuthError> {
    let Some(name) = &owner.user else { return Ok(false) };
    match rows.user_row(name).await {
        Ok(user) => Ok(user.tenant == owner.tenant && user.disabled_at.is_some()),
        Err(LedgerError::NotFound { .. }) => Ok(false),
        Err(error) => Err(AuthError::Unavailable(error)),
    }
}

/// Whether what a caller brought is taken from where it is: by its own tenant, and by the one that it works for. Both may say no: a list that an agent of the operator's could pass over would keep
/// nobody out who has the agent's key.
///
/// # Errors
/// [`AuthError::Address`].
pub fn taken_from_there(principal: &Principal, tenants: &AllTenants, client: ClientAddr) -> Result<(), AuthError> {
    for id in principal.home.iter().map(|home| &home.tenant).chain([&principal.owner.tenant]) {
        let tenant = tenants.tenant(id).ok_or_else(|| AuthError::TenantClosed(id.clone()))?;
        from_there(&tenant, client)?;
    }
    Ok(())
}

/// Whether credentials of a tenant are taken from where the caller is. SECURITY: asked only after the credential was proven, so that nobody learns from the answer that a tenant has such lists.
///
/// # Errors
/// [`AuthError::Address`].
pub fn from_there(tenant: &Tenant, client: ClientAddr) -> Result<(), AuthError> {
    if tenant.access.addresses.admits(client) {
        return Ok(());
    }
    Err(AuthError::Address { tenant: tenant.id.clone(), client: client.ip() })
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
