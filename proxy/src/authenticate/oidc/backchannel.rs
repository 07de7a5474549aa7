//! A provider's word that somebody has logged out there (OpenID Connect Back-Channel Logout 1.0): whether a logout token is one, meant for us, and new. Its signature was checked before.

use super::OidcError;
use super::id_token::{self, IdTokenError};
use crate::authenticate::jwt;
use crate::clock::Clock;
use comfygate_policy::Digest;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The member of `events` that makes a token a logout token (§2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// What it may say that it is, in any case of letters: nothing, a JWT, or what §2.4 recommends.
pub const TYPES: [&str; 2] = ["jwt", "logout+jwt"];
/// A token that was made longer ago is not taken: providers send them at once, and §4 recommends two minutes.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Longest `jti`, `sub` or `sid`, in bytes.
const TEXT_BYTES_MAX: usize = 255;
/// Tokens that are remembered: 64 bytes each. Only a provider's own come in; when it is full the oldest goes.
const REMEMBERED_MAX: usize = 1 << 14;

/// Who has logged out at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedOut {
    /// `sub`: all sessions of this user, unless `sid` is there.
    pub subject: Option<String>,
    /// `sid`: the sessions of this one of the provider's.
    pub sid: Option<String>,
    jti: String,
}

/// Reads the claims of a signed token (§2.6, steps 3 to 7).
///
/// # Errors
/// [`OidcError`] names the first check that failed.
pub fn logged_out(
    claims: &Value,
    (issuer, client_id): (&str, &str),
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
    Ok(LoggedOut { subject, sid, jti })
}

/// Tokens that were taken, for as long as they could be taken again.
#[derive(Debug, Default)]
pub struct Taken(Mutex<VecDeque<(Instant, Digest)>>);

impl Taken {
    /// Remembers a token of this issuer; false if it was taken before.
    pub fn take(&self, issuer: &str, token: &LoggedOut, leeway: Duration, now: Instant) -> bool {
        let name = name(issuer, token);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while taken.front().is_some_and(|(until, _)| *until <= now) || taken.len() >= REMEMBERED_MAX {
            taken.pop_front();
        }
        if taken.iter().any(|(_, known)| *known == name) {
            return false;
        }
        // Made at most `leeway` in the future, it is old after this.
        taken.push_back((now + AGE_MAX + 2 * leeway, name));
        true
    }

    /// Forgets a token that could not be followed: its provider may send it again.
    pub fn give_back(&self, issuer: &str, token: &LoggedOut) {
        let name = name(issuer, token);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, known)| *known != name);
    }
}

fn name(issuer: &str, token: &LoggedOut) -> Digest {
    // No issuer has a line feed.
    Digest::of(format!("{issuer}\n{}", token.jti).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
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
        logged_out(&claims, ("https://id.example", "gate"), LEEWAY, &clock)
    }

    #[test]
    fn a_logout_token_names_a_user_a_session_or_both() {
        let both = read(json!({"sid": "s-1"})).unwrap();
        assert_eq!((both.subject.as_deref(), both.sid.as_deref()), (Some("ada"), Some("s-1")));
        assert_eq!(read(json!({})).unwrap().sid, None);
        assert_eq!(read(json!({"sid": "s-1", "sub": null})).unwrap().subject, None);
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
        let nth = |n: usize| LoggedOut { subject: None, sid: Some("s".into()), jti: n.to_string() };
        {
            let mut full = taken.0.lock().unwrap();
            full.extend((0..REMEMBERED_MAX).map(|n| (now + Duration::from_secs(9), name("i", &nth(n)))));
        }
        assert!(!taken.take("i", &nth(1), LEEWAY, now), "remembered, though the oldest has gone");
        assert!(taken.take("i", &nth(REMEMBERED_MAX), LEEWAY, now));
        assert!(taken.0.lock().unwrap().len() <= REMEMBERED_MAX);
        assert!(taken.take("i", &nth(0), LEEWAY, now), "the oldest was forgotten");
    }
}
