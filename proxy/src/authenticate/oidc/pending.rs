//! Logins that have begun: each is bound to one browser by a cookie, good once, and for ten minutes.
//!
//! In memory: a restart makes people press the button again. Bounded in all and by place. When it is full the oldest goes, of the same place first: whoever floods it pushes out logins that
//! nobody finishes any more, while refusing new ones would keep everybody out for ten minutes at the same price.

use crate::authenticate::session::{self, RandomError};
use crate::clock::{Clock, WallMillis};
use crate::config::{OidcConfig, PublicUrl};
use crate::ids::{InstanceId, ProviderId};
use crate::listen::AddrGroup;
use comfygate_policy::Digest;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use ring::rand::SecureRandom;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;

/// How long somebody may take at the provider.
pub const PENDING_TIME: Duration = Duration::from_secs(600);
/// Logins under way in all: 10 MiB where each wants to go to the longest target.
const PENDING_MAX: usize = 4096;
/// Of one address (IPv6: one /64): an office at nine o'clock, with many tabs.
const PENDING_PER_GROUP_MAX: usize = 256;
const SECRET_CHARS: usize = 64;

/// 256 random bits in hexadecimal: state, nonce, code verifier, or a browser's own. `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A fresh one.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn draw(random: &dyn SecureRandom) -> Result<Self, RandomError> {
        let mut bytes = [0; SECRET_CHARS / 2];
        random.fill(&mut bytes).map_err(|_| RandomError)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// One of our own making, by its form.
    pub fn parse(text: &str) -> Option<Self> {
        let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == SECRET_CHARS && text.bytes().all(lower_hex)).then(|| Self(text.to_owned()))
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl Pending {
    /// Whether this is the provider that it began at.
    pub fn is_at(&self, config: &OidcConfig) -> bool {
        let (issuer, client_id) = &self.at;
        (&self.provider, issuer, client_id) == (&config.id, &config.issuer, &config.client_id)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// A login under way.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Whom it is at.
    pub provider: ProviderId,
    /// Its `iss`, and what it knew us by, when the login began: codes are for these two, whatever a reload puts in their place.
    pub at: (String, String),
    /// What the ID token has to repeat.
    pub nonce: Secret,
    /// What redeems the code (RFC 7636).
    pub verifier: Secret,
    /// Where the browser wants to go; checked when it goes there.
    pub next: String,
    /// When it began.
    pub began_at: WallMillis,
}

#[derive(Debug)]
struct Entry {
    state: Digest,
    browser: Digest,
    group: AddrGroup,
    ends: Instant,
    pending: Pending,
}

/// All logins under way.
#[derive(Debug)]
pub struct PendingLogins {
    /// Oldest first.
    entries: Mutex<VecDeque<Entry>>,
    clock: Clock,
}

impl PendingLogins {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { entries: Mutex::default(), clock }
    }

    /// Keeps a login that `browser` begins, to be found by `state`.
    pub fn begin(&self, state: &Secret, browser: &Secret, group: AddrGroup, pending: Pending) {
        let now = self.clock.monotonic();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        while entries.front().is_some_and(|entry| entry.ends <= now) {
            entries.pop_front();
        }
        // A few thousand entries at most: looking through them costs less than the answer.
        let here = entries.iter().filter(|entry| entry.group == group).count();
        if here >= PENDING_PER_GROUP_MAX
            && let Some(oldest) = entries.iter().position(|entry| entry.group == group)
        {
            entries.remove(oldest);
        } else if entries.len() >= PENDING_MAX {
            entries.pop_front();
        }
        let ends = now + PENDING_TIME;
        entries.push_back(Entry { state: state.hash(), browser: browser.hash(), group, ends, pending });
    }

    /// The login of that state, if this browser began it; it is gone then. Another browser's try leaves it.
    pub fn take(&self, state: &str, browser: Option<&Secret>) -> Option<Pending> {
        let (state, browser) = (Secret::parse(state)?.hash(), browser?.hash());
        let now = self.clock.monotonic();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let found = entries.iter().position(|entry| entry.state == state)?;
        let entry = entries.get(found)?;
        // SECURITY: this is what keeps another site from finishing its own login in somebody's browser (RFC 6749 §10.12).
        let same = bool::from(entry.browser.as_bytes().ct_eq(browser.as_bytes()));
        if !same || entry.ends <= now {
            return None;
        }
        entries.remove(found).map(|entry| entry.pending)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }
}

/// The cookie that binds logins to the browser that began them; one for all its tabs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingCookie {
    name: String,
    path: String,
}

impl BindingCookie {
    /// Of this gateway. `SameSite=Lax`, since the provider's page leads back to us; otherwise as the cookie of a session.
    pub fn new(instance: InstanceId, public: Option<&PublicUrl>) -> Self {
        let short: String = instance.to_string().chars().take(8).collect();
        match session::prefix(public) {
            "" => Self { name: format!("__Host-comfygate-login-{short}"), path: "/".to_owned() },
            prefix => Self { name: format!("__Secure-comfygate-login-{short}"), path: prefix.to_owned() },
        }
    }

    /// What the request shows; two that differ are none.
    pub fn shown(&self, headers: &HeaderMap) -> Option<Secret> {
        let mut found: Option<Secret> = None;
        for line in headers.get_all(COOKIE) {
            let Ok(line) = line.to_str() else { continue };
            let pairs = line.split(';').filter_map(|pair| pair.trim().split_once('='));
            for (_, value) in pairs.filter(|(name, _)| *name == self.name) {
                let secret = Secret::parse(value)?;
                if found.as_ref().is_some_and(|first| *first != secret) {
                    return None;
                }
                found = Some(secret);
            }
        }
        found
    }

    /// `Set-Cookie` for a login that begins.
    pub fn set(&self, secret: &Secret) -> Option<HeaderValue> {
        let (name, path, seconds) = (&self.name, &self.path, PENDING_TIME.as_secs());
        let text =
            format!("{name}={}; Path={path}; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax", secret.reveal());
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::ClientAddr;
    use ring::rand::SystemRandom;
    use std::net::SocketAddr;

    fn secret() -> Secret {
        Secret::draw(&SystemRandom::new()).unwrap()
    }

    fn group(last: u8) -> AddrGroup {
        ClientAddr::of_peer(SocketAddr::from(([127, 0, 1, last], 1))).group()
    }

    fn pending(next: &str) -> Pending {
        Pending {
            provider: "studio".parse().unwrap(),
            at: ("https://id.example".to_owned(), "gate".to_owned()),
            nonce: secret(),
            verifier: secret(),
            next: next.to_owned(),
            began_at: WallMillis(1),
        }
    }

    fn house() -> (PendingLogins, Clock) {
        let clock = Clock::turned_by_hand(WallMillis(1));
        (PendingLogins::new(clock.clone()), clock)
    }

    #[test]
    fn a_login_is_at_the_provider_that_it_began_at_and_at_none_that_took_its_id() {
        let here =
            |issuer: &str, client_id: &str| Pending { at: (issuer.to_owned(), client_id.to_owned()), ..pending("/") };
        let config = crate::config::tests::oidc_config("tenant = \"local\"");
        assert!(here("https://id.example/a", "gate").is_at(&config));
        assert!(!here("https://id.example/b", "gate").is_at(&config));
        assert!(!here("https://id.example/a", "gate2").is_at(&config));
        let other = Pending { provider: "other".parse().unwrap(), ..here("https://id.example/a", "gate") };
        assert!(!other.is_at(&config));
    }

    #[test]
    fn a_login_is_finished_once_and_by_its_own_browser() {
        let (logins, _) = house();
        let (state, browser) = (secret(), secret());
        logins.begin(&state, &browser, group(1), pending("/queue"));
        assert!(logins.take(state.reveal(), None).is_none());
        assert!(logins.take(state.reveal(), Some(&secret())).is_none());
        assert!(logins.take(secret().reveal(), Some(&browser)).is_none());
        assert!(logins.take("", Some(&browser)).is_none());
        assert_eq!(logins.take(state.reveal(), Some(&browser)).unwrap().next, "/queue");
        assert!(logins.take(state.reveal(), Some(&browser)).is_none(), "a second time");
    }

    #[test]
    fn a_login_may_take_ten_minutes_and_no_more() {
        let (logins, clock) = house();
        let browser = secret();
        let states = [secret(), secret()];
        for state in &states {
            logins.begin(state, &browser, group(1), pending("/"));
        }
        clock.turn(PENDING_TIME - Duration::from_millis(1));
        assert!(logins.take(states[0].reveal(), Some(&browser)).is_some());
        clock.turn(Duration::from_millis(1));
        assert!(logins.take(states[1].reveal(), Some(&browser)).is_none());
        logins.begin(&secret(), &browser, group(1), pending("/"));
        assert_eq!(logins.len(), 1, "what is over makes room");
    }

    #[test]
    fn one_place_pushes_out_its_own_oldest_and_all_together_the_oldest_of_all() {
        let (logins, _) = house();
        let browser = secret();
        let (other, first, second) = (secret(), secret(), secret());
        logins.begin(&other, &browser, group(9), pending("/"));
        logins.begin(&first, &browser, group(1), pending("/"));
        logins.begin(&second, &browser, group(1), pending("/"));
        for _ in 2..PENDING_PER_GROUP_MAX {
            logins.begin(&secret(), &browser, group(1), pending("/"));
        }
        assert_eq!(logins.len(), PENDING_PER_GROUP_MAX + 1);
        logins.begin(&secret(), &browser, group(1), pending("/"));
        assert!(logins.take(first.reveal(), Some(&browser)).is_none());
        assert!(logins.take(second.reveal(), Some(&browser)).is_some());
        for n in 0..=(PENDING_MAX / PENDING_PER_GROUP_MAX) {
            for _ in 0..PENDING_PER_GROUP_MAX {
                logins.begin(&secret(), &browser, group(u8::try_from(n).unwrap() + 20), pending("/"));
            }
        }
        assert_eq!(logins.len(), PENDING_MAX);
        assert!(logins.take(other.reveal(), Some(&browser)).is_none());
    }

    #[test]
    fn the_cookie_is_read_back_and_an_odd_one_is_none() {
        let cookie = BindingCookie::new(InstanceId::new(), None);
        let secret = secret();
        let set = cookie.set(&secret).unwrap();
        let set = set.to_str().unwrap();
        assert!(
            set.starts_with("__Host-comfygate-login-")
                && set.ends_with("; Path=/; Max-Age=600; Secure; HttpOnly; SameSite=Lax"),
            "{set}"
        );
        let pair = set.split(';').next().unwrap();
        let shown = |line: &str| {
            let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(line).unwrap())]);
            cookie.shown(&headers)
        };
        assert_eq!(shown(&format!("a=b; {pair}")), Some(secret));
        assert_eq!(shown("a=b"), None);
        assert_eq!(shown(&format!("{}=xyz", pair.split('=').next().unwrap())), None);
        assert_eq!(shown(&format!("{pair}; {}={}", pair.split('=').next().unwrap(), "0".repeat(64))), None);
        let below = BindingCookie::new(InstanceId::new(), Some(&"https://a.example/comfy".parse().unwrap()));
        assert!(below.set(&Secret("0".repeat(64))).unwrap().to_str().unwrap().contains("; Path=/comfy;"));
    }
}
