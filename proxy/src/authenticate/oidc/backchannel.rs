//! A provider's word that somebody has logged out there (OpenID Connect Back-Channel Logout 1.0): whether a logout token is one, meant for us, and new. Its signature was checked before.

use super::OidcError;
use super::id_token::{self, IdTokenError};
use crate::authenticate::jwt;
use crate::clock::Clock;
use crate::ids::ProviderId;
use crate::record::ledger::sessions::{SessionRow, WhoseSessions};
use comfygate_policy::Digest;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The member of `events` that makes a token a logout token (§2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// What it may say that it is, in any case of letters: nothing, a JWT, or what §2.4 recommends.
pub const TYPES: [&str; 2] = ["jwt", "logout+jwt"];
/// A token that was made longer ago is not taken: providers send them at once, and §4 recommends two minutes.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Longest `jti`, `sub` or `sid`, in bytes.
const TEXT_BYTES_MAX: usize = 255;
/// Tokens that are remembered: some hundred bytes each, 700 at most and an issuer. Only a provider's own come in; when it is full the oldest goes.
const REMEMBERED_MAX: usize = 1 << 14;

/// Who has logged out at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedOut {
    /// The sessions that end: by `sub` all of this user's, unless `sid` is there.
    pub whose: WhoseSessions,
    jti: String,
}

/// Reads the claims of a signed token (§2.6, steps 3 to 7).
///
/// # Errors
/// [`OidcError`] names the first check that failed.
pub fn logged_out(
    claims: &Value,
    (provider, issuer, client_id): (&ProviderId, &str, &str),
    leeway: Duration,
    clock: &Clock,
) -> Result<LoggedOut, OidcError> {
    let odd = |what: &str| OidcError::Answer(format!("logout token: {what}"));
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(IdTokenError::Issuer.into());
    }
    id_token::check_audience(claims, client_id)?;
    jwt::check_times(claims, leeway, clock)?;
    let issued = jwt::time(claims, "iat")?.ok_or_else(|| odd("it has no `iat`"))?;
    if issued + (AGE_MAX + leeway).as_secs_f64() < clock.wall().0 as f64 / 1000.0 {
        return Err(IdTokenError::Old.into());
    }
    let event = claims.get("events").and_then(|events| events.get(EVENT));
    if !event.is_some_and(Value::is_object) {
        return Err(odd("its `events` tell of no logout"));
    }
    // SECURITY: what has one is an ID token, which whoever logged in may hold.
    if claims.get("nonce").is_some() {
        return Err(odd("it has a `nonce`"));
    }
    let text = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if (1..=TEXT_BYTES_MAX).contains(&text.len()) => Ok(Some(text.clone())),
        Some(_) => Err(odd(&format!("its `{name}` is no text, or too long"))),
    };
    let (subject, sid) = (text("sub")?, text("sid")?);
    if subject.is_none() && sid.is_none() {
        return Err(odd("it says neither `sub` nor `sid`"));
    }
    let jti = text("jti")?.ok_or_else(|| odd("it has no `jti`"))?;
    let whose = WhoseSessions::Provider { provider: provider.clone(), issuer: issuer.to_owned(), subject, sid };
    Ok(LoggedOut { whose, jti })
}

/// Tokens that were taken, for as long as they could be taken again. That is far longer than the provider is asked about one session: what came meanwhile is asked of here too.
#[derive(Debug, Default)]
pub struct Taken(Mutex<Tokens>);

#[derive(Debug, Default)]
struct Tokens {
    /// Taken ever.
    heard: Heard,
    /// Oldest first.
    kept: VecDeque<Token>,
}

#[derive(Debug)]
struct Token {
    number: Heard,
    until: Instant,
    name: Digest,
    whose: WhoseSessions,
}

/// How many logouts had been heard of: a moment in our own order, which needs no clock, neither ours nor the provider's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heard(u64);

impl Taken {
    /// Remembers a token of this issuer; false if it was taken before.
    pub fn take(&self, issuer: &str, token: &LoggedOut, leeway: Duration, now: Instant) -> bool {
        let name = name(issuer, token);
        let mut tokens = self.tokens();
        while tokens.kept.front().is_some_and(|token| token.until <= now) || tokens.kept.len() >= REMEMBERED_MAX {
            tokens.kept.pop_front();
        }
        if tokens.kept.iter().any(|known| known.name == name) {
            return false;
        }
        tokens.heard.0 += 1;
        // Made at most `leeway` in the future, it is old after this.
        let (number, until) = (tokens.heard, now + AGE_MAX + 2 * leeway);
        tokens.kept.push_back(Token { number, until, name, whose: token.whose.clone() });
        true
    }

    /// The logouts until now. To be asked before the provider is asked for what makes or renews a session.
    pub fn heard(&self) -> Heard {
        self.tokens().heard
    }

    /// A logout since then that means this session. To be asked once the session is stored: a logout that is taken later finds it there.
    pub fn since(&self, heard: Heard, row: &SessionRow) -> Option<WhoseSessions> {
        let tokens = self.tokens();
        let mut later = tokens.kept.iter().rev().take_while(|token| token.number > heard);
        later.find(|token| token.whose.has(row)).map(|token| token.whose.clone())
    }

    /// Forgets a token that could not be followed: its provider may send it again.
    pub fn give_back(&self, issuer: &str, token: &LoggedOut) {
        let name = name(issuer, token);
        self.tokens().kept.retain(|known| known.name != name);
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        // A panic elsewhere leaves at most a number that nothing has.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(issuer: &str, token: &LoggedOut) -> Digest {
    // No issuer has a line feed.
    Digest::of(format!("{issuer}\n{}", token.jti).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::session::SessionToken;
    use crate::clock::WallMillis;
    use crate::owner::{Owner, Scopes};
    use crate::record::ledger::sessions::OidcGrant;
    use ring::rand::SystemRandom;
    use serde_json::json;

    const NOW: u64 = 1_000_000;
    const LEEWAY: Duration = Duration::from_secs(60);

    fn read(changes: Value) -> Result<LoggedOut, OidcError> {
        let mut claims = json!({
            "iss": "https://id.example", "aud": "gate", "iat": NOW, "exp": NOW + 120, "jti": "t-1", "sub": "ada",
            "events": {EVENT: {}},
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        let clock = Clock::turned_by_hand(WallMillis(NOW * 1000));
        logged_out(&claims, (&"studio".parse().unwrap(), "https://id.example", "gate"), LEEWAY, &clock)
    }

    /// `sub` and `sid`.
    fn named(token: &LoggedOut) -> (Option<&str>, Option<&str>) {
        match &token.whose {
            WhoseSessions::Provider { subject, sid, .. } => (subject.as_deref(), sid.as_deref()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_logout_token_names_a_user_a_session_or_both() {
        let both = read(json!({"sid": "s-1"})).unwrap();
        assert_eq!(named(&both), (Some("ada"), Some("s-1")));
        assert_eq!(named(&read(json!({})).unwrap()), (Some("ada"), None));
        assert_eq!(named(&read(json!({"sid": "s-1", "sub": null})).unwrap()), (None, Some("s-1")));
        assert!(read(json!({"sub": null})).is_err(), "neither");
    }

    #[test]
    fn what_is_no_logout_token_of_this_provider_for_this_client_now_is_refused() {
        for good in [
            json!({"aud": ["gate"]}),
            json!({"iat": NOW - 660, "exp": NOW - 59}),
            json!({"iat": NOW + 60, "exp": NOW + 120}),
            json!({"events": {EVENT: {}, "other": {}}}),
            json!({"sub": "x".repeat(255)}),
        ] {
            assert!(read(good.clone()).is_ok(), "{good}");
        }
        for bad in [
            json!({"iss": "https://id.example/"}),
            json!({"iss": null}),
            json!({"aud": "other"}),
            json!({"aud": null}),
            json!({"aud": ["gate", "other"]}),
            json!({"iat": null}),
            json!({"iat": "now"}),
            json!({"iat": NOW - 661}),
            json!({"iat": NOW + 61}),
            json!({"exp": null}),
            json!({"exp": NOW - 60}),
            json!({"events": null}),
            json!({"events": {}}),
            json!({"events": EVENT}),
            json!({"events": [EVENT]}),
            json!({"events": {EVENT: true}}),
            json!({"events": {"http://schemas.openid.net/event/other": {}}}),
            json!({"nonce": "n"}),
            json!({"jti": null}),
            json!({"jti": ""}),
            json!({"jti": 7}),
            json!({"sub": 7}),
            json!({"sid": ""}),
            json!({"sub": "x".repeat(256)}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_is_taken_once_for_as_long_as_it_is_good_unless_it_was_given_back() {
        let (taken, start) = (Taken::default(), Instant::now());
        let (first, other) = (read(json!({})).unwrap(), read(json!({"jti": "t-2"})).unwrap());
        let take = |token: &LoggedOut, after: u64| {
            taken.take("https://id.example", token, LEEWAY, start + Duration::from_secs(after))
        };
        assert!(take(&first, 0) && take(&other, 0));
        assert!(!take(&first, 719), "just inside");
        assert!(taken.take("https://other.example", &first, LEEWAY, start), "another issuer's");
        assert!(take(&first, 720), "just outside: too old by its `iat`");
        taken.give_back("https://id.example", &first);
        assert!(take(&first, 720));
    }

    #[test]
    fn so_many_tokens_are_remembered_and_the_oldest_goes_first() {
        let (taken, now) = (Taken::default(), Instant::now());
        let one = read(json!({})).unwrap();
        let nth = |n: usize| LoggedOut { jti: n.to_string(), ..one.clone() };
        let filled = |n: usize| Token {
            number: Heard(0),
            until: now + Duration::from_secs(9),
            name: name("i", &nth(n)),
            whose: one.whose.clone(),
        };
        taken.tokens().kept.extend((0..REMEMBERED_MAX).map(filled));
        assert!(!taken.take("i", &nth(1), LEEWAY, now), "remembered, though the oldest has gone");
        assert!(taken.take("i", &nth(REMEMBERED_MAX), LEEWAY, now));
        assert!(taken.tokens().kept.len() <= REMEMBERED_MAX);
        assert!(taken.take("i", &nth(0), LEEWAY, now), "the oldest was forgotten");
    }

    fn session(sub: &str, sid: Option<&str>) -> SessionRow {
        let grant = OidcGrant {
            provider: "studio".parse().unwrap(),
            issuer: "https://id.example".into(),
            subject: sub.into(),
            sid: sid.map(str::to_owned),
            nonce: None,
            renew_at: None,
            good_until: None,
            ends_at: None,
            judged: None,
            sealed: String::new(),
        };
        let owner = Owner { tenant: "acme".parse().unwrap(), user: None, key: None, shared: false };
        let token = SessionToken::draw(&SystemRandom::new()).unwrap();
        SessionRow { oidc: Some(grant), ..token.row(owner, Scopes::of_a_client(), WallMillis(0)) }
    }

    #[test]
    fn a_logout_that_came_while_the_provider_was_asked_ends_what_it_means_and_one_before_ends_nothing() {
        let (taken, now) = (Taken::default(), Instant::now());
        let take = |claims: Value| {
            let token = read(claims).unwrap();
            assert!(taken.take("https://id.example", &token, LEEWAY, now));
            token
        };
        take(json!({"jti": "before"}));
        let began = taken.heard();
        let (first, unnamed) = (session("ada", Some("s-1")), session("ada", None));
        assert_eq!(taken.since(began, &first), None, "the login began after that logout");
        let of_other = take(json!({"jti": "other", "sid": "s-2"}));
        assert_eq!(taken.since(began, &first), None, "another session of the same person");
        assert_eq!(taken.since(began, &unnamed), Some(of_other.whose), "it does not know which of hers it is");
        take(json!({"jti": "eve", "sub": "eve"}));
        assert_eq!(taken.since(began, &first), None, "another person");
        let hers = take(json!({"jti": "hers"}));
        assert_eq!(taken.since(began, &first).as_ref(), Some(&hers.whose));
        assert_eq!(taken.since(taken.heard(), &first), None, "the next login");
        let elsewhere = OidcGrant { provider: "other".parse().unwrap(), ..first.oidc.clone().unwrap() };
        assert_eq!(taken.since(began, &SessionRow { oidc: Some(elsewhere), ..first.clone() }), None);
        taken.give_back("https://id.example", &hers);
        assert_eq!(taken.since(began, &first), None, "it was not followed, and comes again");
    }
}
