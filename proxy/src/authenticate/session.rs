//! Sessions of browsers: the cookie, and whether it lets its bearer in. No I/O but the ledger's.
//!
//! A cookie is `<session id, 32 hex digits><secret, 64 hex digits>`: the id names a row and proves nothing, the secret has 256 random bits and is kept as a hash only. A session acts as the
//! API key that was shown at the login, with the key's owner and scopes of now; it ends with the key, with its tenant, by the clock, or by a logout.
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
    /// The tenant is gone or disabled.
    #[error("its tenant is gone or disabled")]
    TenantClosed,
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
        SessionRow { id: self.id, owner, scopes, secret_hash: self.hash(), created_at: now, seen_at: now }
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

/// Who shows this cookie. Rows are read at every request, without a cache: what ended is refused from the next request on.
///
/// # Errors
/// `Session` with the reason, `Unavailable`.
pub async fn authenticate<L: Ledger + ?Sized>(
    token: &SessionToken,
    ledger: &L,
    tenants: &AllTenants,
    bounds: SessionBounds,
    now: WallMillis,
) -> Result<Principal, AuthError> {
    let row = ledger.session(token.id()).await.map_err(|error| absent(error, SessionRefused::Unknown))?;
    // SECURITY: hashes are compared in constant time, though they are hashes: it costs nothing.
    if !bool::from(token.hash().as_bytes().ct_eq(row.secret_hash.as_bytes())) {
        return Err(SessionRefused::WrongSecret.into());
    }
    if bounds.over(&row, now) {
        return Err(SessionRefused::Over.into());
    }
    let (owner, scopes) = match &row.owner.key {
        Some(id) => {
            let key = ledger.key_row(id).await.map_err(|error| absent(error, SessionRefused::KeyEnded))?;
            key.stands(now).map_err(|_| SessionRefused::KeyEnded)?;
            (Owner { key: Some(key.id), ..key.owner }, key.scopes)
        }
        None => (row.owner.clone(), row.scopes),
    };
    if tenants.tenant(&owner.tenant).is_none_or(|tenant| tenant.disabled) {
        return Err(SessionRefused::TenantClosed.into());
    }
    let session = ActiveSession {
        id: row.id,
        seen_at: row.seen_at,
        idle_until: row.seen_at.plus(bounds.idle_timeout),
        ends_at: row.created_at.plus(bounds.lifetime),
    };
    Ok(Principal { owner, scopes, credential: Credential::Session(session) })
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
