//! Stage 4: whether there is room for this caller now.
//!
//! *In*: a tenant (or, before the login, an address). *Out*: a [`Permit`] before the body is read, and a [`BodySlot`] that holds the memory of the body while the request lives. *Refuses*:
//! more requests than the tenant's rates allow (429), failed logins that come too fast (429), bodies beyond the memory of all together (503), uploads beyond the tenant's storage (413) or too many at once (429, 503). *Answers the attack*: floods of
//! requests, of guesses, of large bodies. *Leaves to others*: jobs held and running (the ledger's transaction counts them when it accepts), how long a queue is (dispatch), sockets and
//! bytes of the head (listen).
//!
//! A submission over the rate may wait for its turn for some seconds instead ([`Admission::prompt_or_turn`]): the page posts a batch one by one and stops at the first error.
//!
//! All of it is in memory and of this process: a restart forgives everybody.

pub mod body;
pub mod guesses;
mod line;
pub mod memory;
pub mod uploads;

pub use body::{BodyBudget, BodySlot};
pub use guesses::{Blocked, Guesses};
pub use memory::{Admission, Turn};
pub use uploads::{UploadSlot, UploadSlots};

use crate::listen::connections::AddrGroup;

use std::time::Duration;

/// Leave to go on with one request; dropped with it. It says how much of the rate is left, for the answer's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    rate: RateState,
}

impl Permit {
    /// How much of the rate is left.
    pub fn rate(&self) -> RateState {
        self.rate
    }
}

/// Where a tenant stands with one of its rates: `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` as in draft-ietf-httpapi-ratelimit-headers-06, the last one with
/// three headers, which is what clients read; later drafts put all into one structured field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    /// Requests at once after a pause.
    pub limit: u32,
    /// Requests at once now.
    pub remaining: u32,
    /// Until `remaining` is `limit` again if nothing more comes.
    pub reset: Duration,
}

impl RateState {
    /// Names and values of the three headers.
    pub fn headers(self) -> [(http::HeaderName, http::HeaderValue); 3] {
        let name = http::HeaderName::from_static;
        let seconds = self.reset.as_secs() + u64::from(self.reset.subsec_nanos() > 0);
        [
            (name("ratelimit-limit"), self.limit.into()),
            (name("ratelimit-remaining"), self.remaining.into()),
            (name("ratelimit-reset"), seconds.into()),
        ]
    }
}

/// Which rate was meant: a closed list, for metrics and the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateKind {
    /// `POST /prompt`.
    Prompt,
    /// Everything else that is answered.
    Request,
}

impl RateKind {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Request => "request",
        }
    }
}

/// Why there is no room now. All of them pass with time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The tenant's rate.
    #[error("rate limit of `{}` reached: {} at once, next in {retry_after:?}", kind.name(), rate.limit)]
    RateLimited {
        /// Which.
        kind: RateKind,
        /// Where the tenant stands.
        rate: RateState,
        /// When one more fits.
        retry_after: Duration,
    },
    /// Too many failed logins at one account from this address, or from this address at all.
    #[error("too many failed logins: `{}` waits for {:?} more, by {}", group, blocked.retry_after, blocked.by.name())]
    TooManyFailedLogins {
        /// Who.
        group: AddrGroup,
        /// By what, and how long.
        blocked: Blocked,
    },
    /// The memory of all request bodies is taken.
    #[error("no room for {wanted} bytes of body: {free} of {total} are free")]
    BodiesFull {
        /// What was asked for.
        wanted: u64,
        /// What was left.
        free: u64,
        /// The budget.
        total: u64,
    },
    /// As many uploads as may arrive at once.
    #[error("{limit} uploads arrive at once{}, no room for another", if *own { " for this tenant" } else { "" })]
    UploadsFull {
        /// Whether it is the tenant's own number that is reached.
        own: bool,
        /// How many may.
        limit: u32,
    },
    /// The tenant's uploads, with those that are arriving, have as many bytes as they may.
    #[error("{used} bytes are uploaded or arriving, {limit} are allowed")]
    StorageFull {
        /// How many there would be.
        used: u64,
        /// How many there may be.
        limit: u64,
    },
    /// More tenants active at once than the limiter's map holds.
    #[error("{0} tenants are active at once, no room for another")]
    TooManyTenants(usize),
}
