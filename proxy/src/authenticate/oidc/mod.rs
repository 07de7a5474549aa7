//! Logins at identity providers (OpenID Connect Core 1.0, authorization code with PKCE).
//!
//! [`provider`] speaks with a provider: [`discovery`] reads what it publishes of itself, and [`id_token`] decides whether a token of its is about the person who is logging in, here and
//! now. [`pending`] keeps the logins that have begun, each bound to one browser. [`renewal`] looks at a session's grant again when its tokens end, and [`seal`] keeps those tokens unreadable in
//! the ledger. [`backchannel`] hears of logouts at the provider. *Answers the attack*: codes and tokens of somebody else, of another client, of another provider or of yesterday; pages that log a browser in as somebody else; a provider
//! that answers for another one; an account that was closed after the login.
//!
//! What can't be checked is refused. A session whose provider can't be reached goes on for `refresh_stale_max` after its tokens ended, and for no longer.

pub mod backchannel;
pub mod discovery;
pub mod id_token;
pub mod pending;
pub mod provider;
pub mod redeeming;
pub mod renewal;
pub mod seal;

pub use provider::{Provider, Providers, Vouched};

use crate::authenticate::jwt::JwtError;
use discovery::DiscoveryError;
use id_token::IdTokenError;
use std::time::Duration;

/// Why somebody is not logged in, or a session not renewed. What the caller reads tells little of it; log and audit have it all.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The state is unknown, out of date, used, or of another browser.
    #[error("the answer belongs to no login that was begun in this browser")]
    Lost,
    /// The provider left the configuration meanwhile.
    #[error("the provider is not configured any more")]
    Gone,
    /// RFC 9207: somebody else answered, or nobody says who did.
    #[error("the answer is not the provider's own: {0}")]
    MixUp(&'static str),
    /// One of the words of RFC 6749 §4.1.2.1 and OpenID Connect Core §3.1.2.6; anything else is `other`.
    #[error("the provider answered with the error `{0}`")]
    Denied(&'static str),
    /// Its metadata can't be had.
    #[error("the provider's metadata can't be had: {0}")]
    Metadata(DiscoveryError),
    /// It can't be asked now.
    #[error("the provider can't be asked now: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
        /// When it is worth a try again.
        retry_after: Duration,
    },
    /// It was not asked: it failed a moment ago, or as many ask it as may.
    #[error("the provider is not asked now: {reason}")]
    NotAsked {
        /// Why.
        reason: &'static str,
        /// When it is worth a try again.
        retry_after: Duration,
    },
    /// It refused what we asked for: the word is one of RFC 6749 §5.2.
    #[error("the provider refused: `{0}`")]
    Refused(&'static str),
    /// It told of a logout while it answered the code: that ends the login too.
    #[error("the provider told of a logout there while it answered")]
    LoggedOut,
    /// Its answer can't be used.
    #[error("the provider's answer can't be used: {0}")]
    Answer(String),
    /// The ID token's form, header, signature or times.
    #[error("ID token: {0}")]
    Token(#[from] JwtError),
    /// The ID token's claims.
    #[error("ID token: {0}")]
    Claims(#[from] IdTokenError),
    /// `require`, or an address of mail that nobody has verified.
    #[error("the claim `{0}` does not let them in")]
    NotAllowed(String),
    /// With several providers, one that does not name itself.
    #[error(
        "it does not name itself in its answers (RFC 9207), and there are several providers: set `callback = \"own\"`"
    )]
    NeedsOwnCallback,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

impl OidcError {
    /// Whether it is the provider, or the way to it, that has to come back; then when.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unreachable { retry_after, .. } | Self::NotAsked { retry_after, .. } => Some(*retry_after),
            Self::Token(error) => error.retry_after(),
            _ => None,
        }
    }
}
