//! Sessions of browsers: the cookie, and whether it lets its bearer in. No I/O but the ledger's.
//!
//! A cookie is `<session id, 32 hex digits><secret, 64 hex digits>`: the id names a row and proves nothing, the secret has 256 random bits and is kept as a hash only. A session acts as the
//! API key that was shown at the login, or as the local user whose password was, with the owner and scopes of now, or as the person whom an identity provider vouches for, with the claims of the last
//! renewal ([`super::oidc`]); it ends with the key, with the user or that password, at the provider's word, with its tenant, by the clock, or by a logout.
//!
//! A credential in a header counts alone: a browser adds the cookie to every request by itself, so a page or an extension that shows a key of its own must not be refused for it. Whoever
//! stands in front of us and checks headers sees the credential that we take.

use crate::authenticate::{AuthError, KeyRows};
use crate::clock::WallMillis;
use crate::config::PublicUrl;
use crate::ids::{InstanceId, SessionId};
use crate::owner::{ActiveSession, Credential, Owner, Principal, Scopes};
use crate::record::ledger::sessions::{SessionBounds, SessionRow, Sessions};
use crate::record::ledger::{Ledger, LedgerError};
use crate::tenants::AllTenants;
use comfygate_policy::Digest;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use ring::rand::SecureRandom;
use std::fmt;
use std::time::Duration;
use subtle::ConstantTimeEq as _;

const ID_CHARS: usize = 32;
const SECRET_CHARS: usize = 64;
/// Use is noted no more often than this: each note is a write, and idle times are hours.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// Why a cookie does not let its bearer in. For log and audit; the caller reads one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefused {
    /// Not what we set.
    #[error("the cookie is malformed")]
    Malformed,
    /// Two cookies of ours that differ.
    #[error("two cookies that differ")]
    Ambiguous,
    /// Logged out, pushed out by newer ones, or never there.
    #[error("there is no such session")]
    Unknown,
    /// The id is known, the secret is not its.
    #[error("the secret is wrong")]
    WrongSecret,
    /// Idle too long, or at the end of its lifetime.
    #[error("the session is over")]
    Over,
    /// The API key that it was got for is gone, revoked or expired.
    #[error("its API key is not good any more")]
    KeyEnded,
    /// The local user who logged in is gone or disabled, or has another password.
    #[error("its user is gone or disabled, or has another password")]
    UserEnded,
    /// The tenant is gone or disabled.
    #[error("its tenant is gone or disabled")]
    TenantClosed,
    /// The identity provider that it was got at is not in the configuration any more, or another stands in its place.
    #[error("its identity provider is not configured any more")]
    ProviderGone,
    /// Its provider lets in by other rules now, and can't be asked about it.
    #[error("its identity provider's rules have changed since its claims were read")]
    RulesChanged,
    /// Its tokens ended, and the provider did not renew them in time.
    #[error("its identity provider has not renewed it in time")]
    NotRenewed,
}

/// What a cookie holds. `Debug` shows the id only; [`SessionToken::reveal`] is for the one `Set-Cookie`.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionToken {
    id: SessionId,
    secret: String,
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct RandomError;

impl SessionToken {
    /// A fresh one.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn draw(random: &dyn SecureRandom) -> Result<Self, RandomError> {
        let mut bytes = [0; SECRET_CHARS / 2];
        random.fill(&mut bytes).map_err(|_| RandomError)?;
        Ok(Self { id: SessionId::new(), secret: bytes.iter().map(|byte| format!("{byte:02x}")).collect() })
    }

    /// Reads a cookie's value: length, then alphabet.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn parse(text: &str) -> Result<Self, SessionRefused> {
        let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != ID_CHARS + SECRET_CHARS || !text.bytes().all(lower_hex) {
            return Err(SessionRefused::Malformed);
        }
        let (id, secret) = text.split_at_checked(ID_CHARS).ok_or(SessionRefused::Malformed)?;
        let id = u128::from_str_radix(id, 16).map_err(|_| SessionRefused::Malformed)?;
        Ok(Self { id: SessionId::from_bytes(id.to_be_bytes()), secret: secret.to_owned() })
    }

    /// The public part.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The whole value, secret included.
    pub fn reveal(&self) -> String {
        format!("{:032x}{}", u128::from_be_bytes(self.id.bytes()), self.secret)
    }

    /// The row that the ledger keeps of this session.
    pub fn row(&self, owner: Owner, scopes: Scopes, now: WallMillis) -> SessionRow {
        let secret_hash = self.hash();
        SessionRow {
            id: self.id,
            // What is shared follows from the tenant of each moment.
            owner: Owner { shared: false, ..owner },
            scopes,
            secret_hash,
            created_at: now,
            seen_at: now,
            user_login: None,
            oidc: None,
            browser: None,
        }
    }

    fn hash(&self) -> Digest {
        Digest::of(self.secret.as_bytes())
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionToken({}, secret redacted)", self.id)
    }
}

/// How the cookie is called and where browsers send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCookie {
    name: String,
    path: String,
}

impl SessionCookie {
    /// The cookie of this gateway. Cookies know no ports: the instance's name keeps those of several gateways on one host apart.
    ///
    /// Without a path prefix browsers take it only over HTTPS, for this very host and the whole of it (`__Host-`, RFC 6265bis §4.1.3.2); with one, only over HTTPS (`__Secure-`).
    pub fn new(instance: InstanceId, public: Option<&PublicUrl>) -> Self {
        let short: String = instance.to_string().chars().take(8).collect();
        match prefix(public) {
            "" => Self { name: format!("__Host-comfygate-{short}"), path: "/".to_owned() },
            prefix => Self { name: format!("__Secure-comfygate-{short}"), path: prefix.to_owned() },
        }
    }

    /// The session that a request shows; none if it shows none of ours.
    ///
    /// # Errors
    /// `Malformed`, `Ambiguous`.
    pub fn shown(&self, headers: &HeaderMap) -> Result<Option<SessionToken>, SessionRefused> {
        let mut found: Option<SessionToken> = None;
        // HTTP/2 may cut the cookies into several lines (RFC 9113 §8.2.3).
        for line in headers.get_all(COOKIE) {
            let Ok(line) = line.to_str() else { continue };
            let pairs = line.split(';').filter_map(|pair| pair.trim().split_once('='));
            for (_, value) in pairs.filter(|(name, _)| *name == self.name) {
                let token = SessionToken::parse(value)?;
                match &found {
                    Some(first) if *first != token => return Err(SessionRefused::Ambiguous),
                    _ => found = Some(token),
                }
            }
        }
        Ok(found)
    }

    /// As a browser sends it.
    pub fn pair(&self, token: &SessionToken) -> String {
        format!("{}={}", self.name, token.reveal())
    }

    /// `Set-Cookie` of a new session.
    pub fn set(&self, token: &SessionToken, lifetime: Duration) -> Option<HeaderValue> {
        self.header(&token.reveal(), lifetime)
    }

    /// `Set-Cookie` that takes the cookie away.
    pub fn clear(&self) -> Option<HeaderValue> {
        self.header("", Duration::ZERO)
    }

    /// `SameSite=Lax`: other sites' pages send it with a link that somebody follows, and with nothing else.
    fn header(&self, value: &str, lifetime: Duration) -> Option<HeaderValue> {
        let (name, path, seconds) = (&self.name, &self.path, lifetime.as_secs());
        let text = format!("{name}={value}; Path={path}; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax");
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// The path below which callers see us, without a slash at its end: `""` unless the public URL has one.
pub fn prefix(public: Option<&PublicUrl>) -> &str {
    public.map_or("", PublicUrl::path)
}

/// The session that this cookie is of, which is not over by the clock. Rows are read at every request, without a cache: what ended is refused from the next request on.
///
/// # Errors
/// `Session` with the reason, `Unavailable`.
pub async fn shown_row<L: Ledger + ?Sized>(
    token: &SessionToken,
    ledger: &L,
    bounds: SessionBounds,
    now: WallMillis,
) -> Result<SessionRow, AuthError> {
    let row = ledger.session(token.id()).await.map_err(|error| absent(error, SessionRefused::Unknown))?;
    // SECURITY: hashes are compared in constant time, though they are hashes: it costs nothing.
    if !bool::from(token.hash().as_bytes().ct_eq(row.secret_hash.as_bytes())) {
        return Err(SessionRefused::WrongSecret.into());
    }
    if bounds.over(&row, now) {
        return Err(SessionRefused::Over.into());
    }
    Ok(row)
}

/// Whose name a session acts in. What its identity provider says of it was looked at before.
///
/// # Errors
/// As [`shown_row`].
pub async fn principal<L: Ledger + ?Sized>(
    row: SessionRow,
    ledger: &L,
    tenants: &AllTenants,
    bounds: SessionBounds,
    now: WallMillis,
) -> Result<Principal, AuthError> {
    let (owner, scopes, key_end) = match (&row.owner.key, &row.user_login) {
        (Some(id), _) => {
            let key = ledger.key_row(id).await.map_err(|error| absent(error, SessionRefused::KeyEnded))?;
            key.stands(now).map_err(|_| SessionRefused::KeyEnded)?;
            if super::is_of_disabled_user(&key.owner, ledger).await? {
                return Err(SessionRefused::UserEnded.into());
            }
            (Owner { key: Some(key.id), ..key.owner }, key.scopes, key.expires_at)
        }
        (None, Some(login)) => {
            let user = ledger.user(&login.name).await.map_err(|error| absent(error, SessionRefused::UserEnded))?;
            if user.disabled_at.is_some() || user.password_version != login.password_version {
                return Err(SessionRefused::UserEnded.into());
            }
            (user.owner(), user.scopes, None)
        }
        (None, None) => (row.owner.clone(), row.scopes, None),
    };
    let owner = super::in_open_tenant(owner, tenants).ok_or(SessionRefused::TenantClosed)?;
    let session = ActiveSession {
        id: row.id,
        seen_at: row.seen_at,
        idle_until: row.seen_at.plus(bounds.idle_timeout),
        ends_at: bounds.ends_at(&row),
    };
    let good_until = key_end.into_iter().fold(session.idle_until.min(session.ends_at), WallMillis::min);
    let credential = Credential::Session(session);
    Ok(Principal { owner, scopes, credential, good_until: Some(good_until), home: None })
}

/// Notes that a session is used, now and then. A ledger that can't write ends nobody's session before its time.
pub async fn touch(session: ActiveSession, sessions: &(impl Sessions + ?Sized), now: WallMillis) {
    if now.since(session.seen_at) >= TOUCH_INTERVAL
        && let Err(error) = sessions.touch_session(session.id, now).await
    {
        tracing::debug!(session = %session.id, %error, "a session's use was not noted");
    }
}

fn absent(error: LedgerError, refused: SessionRefused) -> AuthError {
    match error {
        LedgerError::NotFound { .. } => refused.into(),
        other => AuthError::Unavailable(other),
    }
}

#[cfg(test)]
mod tests;
