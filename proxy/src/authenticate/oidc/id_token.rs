//! Whether an ID token is about the person who logs in, here and now (OpenID Connect Core 1.0 §3.1.3.7, §12.2). Pure; its signature was checked before.

use crate::authenticate::jwt::{self, JwtError};
use crate::authenticate::jwt_ring::Algorithm;
use crate::clock::{Clock, WallMillis};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use comfygate_policy::Digest;
use ring::digest;
use serde_json::Value;
use std::time::Duration;
use subtle::ConstantTimeEq as _;

/// Longest subject in bytes (OpenID Connect Core §2).
const SUBJECT_BYTES_MAX: usize = 255;

/// Why an ID token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    /// `iss`.
    #[error("issuer is not the provider")]
    Issuer,
    /// `aud`.
    #[error("audience is not this client")]
    Audience,
    /// `azp`.
    #[error("it was made for another client")]
    AuthorizedParty,
    /// `nonce`.
    #[error("nonce is not that of this login")]
    Nonce,
    /// `iat`, before the login began.
    #[error("it is older than this login")]
    Old,
    /// `auth_time`, with `max_age`.
    #[error("the person logged in there too long ago, or it does not say when")]
    AuthTime,
    /// `at_hash`.
    #[error("it belongs to another access token")]
    AccessToken,
    /// `sub`, at a renewal.
    #[error("it is about somebody else")]
    Subject,
    /// `sub`, which has to be there.
    #[error("claim `sub` is missing, or too long")]
    NoSubject,
    /// Times.
    #[error(transparent)]
    Times(#[from] JwtError),
}

/// When a token comes.
#[derive(Debug, Clone, Copy)]
pub enum Moment<'m> {
    /// With the code of a login.
    Login {
        /// The one that went out with it.
        nonce: &'m str,
        /// When it began.
        began_at: WallMillis,
    },
    /// With a refresh token.
    Renewal {
        /// Whom the session is of.
        subject: &'m str,
        /// SHA-256 of the login's `nonce`, where it is known: there need be none now, and no other (OpenID Connect Core §12.2).
        nonce: Option<Digest>,
    },
}

/// What a token has to say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'e> {
    /// `iss`.
    pub issuer: &'e str,
    /// Ours.
    pub client_id: &'e str,
    /// How far the provider's clock may be off.
    pub leeway: Duration,
    /// How long ago the person may have logged in there.
    pub max_age: Option<Duration>,
    /// What came with it.
    pub access_token: &'e str,
    /// When it comes.
    pub moment: Moment<'e>,
}

/// Checks the claims of a token that was signed with `algorithm`, and gives its subject.
///
/// # Errors
/// [`IdTokenError`] names the first check that failed.
pub fn subject<'c>(
    claims: &'c Value,
    algorithm: Option<Algorithm>,
    expected: &Expected<'_>,
    clock: &Clock,
) -> Result<&'c str, IdTokenError> {
    if claims.get("iss").and_then(Value::as_str) != Some(expected.issuer) {
        return Err(IdTokenError::Issuer);
    }
    check_audience(claims, expected.client_id)?;
    jwt::check_times(claims, expected.leeway, clock)?;
    check_issued(claims, expected)?;
    check_access_token(claims, algorithm, expected.access_token)?;
    let subject = claims.get("sub").and_then(Value::as_str);
    let subject = subject.filter(|subject| (1..=SUBJECT_BYTES_MAX).contains(&subject.len()));
    let subject = subject.ok_or(IdTokenError::NoSubject)?;
    match expected.moment {
        Moment::Login { nonce, .. } => {
            let shown = claims.get("nonce").and_then(Value::as_str).unwrap_or_default();
            if !bool::from(shown.as_bytes().ct_eq(nonce.as_bytes())) {
                return Err(IdTokenError::Nonce);
            }
            check_auth_time(claims, expected, clock)?;
        }
        Moment::Renewal { subject: known, .. } if known != subject => return Err(IdTokenError::Subject),
        Moment::Renewal { nonce, .. } => {
            let shown = claims.get("nonce").filter(|shown| !shown.is_null());
            if let (Some(shown), Some(known)) = (shown, nonce)
                && shown.as_str().is_none_or(|shown| Digest::of(shown.as_bytes()) != known)
            {
                return Err(IdTokenError::Nonce);
            }
        }
    }
    Ok(subject)
}

/// `aud` is us; where others are named too, or `azp` is there, that is us as well: a token for several is made for one of them.
pub(super) fn check_audience(claims: &Value, client_id: &str) -> Result<(), IdTokenError> {
    let ours = |value: &Value| value.as_str() == Some(client_id);
    let (named, several) = match claims.get("aud") {
        Some(Value::Array(list)) => (list.iter().any(ours), list.len() > 1),
        Some(one) => (ours(one), false),
        None => (false, false),
    };
    if !named {
        return Err(IdTokenError::Audience);
    }
    match claims.get("azp") {
        Some(party) if ours(party) => Ok(()),
        None if !several => Ok(()),
        _ => Err(IdTokenError::AuthorizedParty),
    }
}

fn seconds(at: WallMillis) -> f64 {
    at.0 as f64 / 1000.0
}

/// `iat` has to be there; that it is not in the future is seen with the other times. A login's token is made after the login began: an older one, however it came here, is not its.
fn check_issued(claims: &Value, expected: &Expected<'_>) -> Result<(), IdTokenError> {
    let issued = jwt::time(claims, "iat")?.ok_or_else(|| JwtError::Claim("iat".to_owned()))?;
    let leeway = expected.leeway.as_secs_f64();
    match expected.moment {
        // `iat` is in whole seconds, mostly.
        Moment::Login { began_at, .. } if issued + 1.0 + leeway < seconds(began_at) => Err(IdTokenError::Old),
        Moment::Login { .. } | Moment::Renewal { .. } => Ok(()),
    }
}

fn check_auth_time(claims: &Value, expected: &Expected<'_>, clock: &Clock) -> Result<(), IdTokenError> {
    let Some(max_age) = expected.max_age else { return Ok(()) };
    let at = jwt::time(claims, "auth_time")?.ok_or(IdTokenError::AuthTime)?;
    let oldest = seconds(clock.wall()) - max_age.as_secs_f64() - expected.leeway.as_secs_f64();
    if at < oldest { Err(IdTokenError::AuthTime) } else { Ok(()) }
}

/// `at_hash`, if it is there (§3.1.3.6): the left half of the access token's hash, by the hash of the token's own algorithm.
fn check_access_token(claims: &Value, algorithm: Option<Algorithm>, token: &str) -> Result<(), IdTokenError> {
    let Some(shown) = claims.get("at_hash") else { return Ok(()) };
    let by = match algorithm {
        Some(Algorithm::Rs256 | Algorithm::Ps256 | Algorithm::Es256) => &digest::SHA256,
        Some(Algorithm::Rs384 | Algorithm::Ps384 | Algorithm::Es384) => &digest::SHA384,
        Some(Algorithm::Rs512 | Algorithm::Ps512 | Algorithm::EdDsa) => &digest::SHA512,
        Some(Algorithm::Hs256) | None => return Err(IdTokenError::AccessToken),
    };
    let hash = digest::digest(by, token.as_bytes());
    let half = hash.as_ref().get(..hash.as_ref().len() / 2).unwrap_or_default();
    if shown.as_str() == Some(URL_SAFE_NO_PAD.encode(half).as_str()) { Ok(()) } else { Err(IdTokenError::AccessToken) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: u64 = 1_800_000_000;
    const TOKEN: &str = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";

    fn clock() -> Clock {
        Clock::turned_by_hand(WallMillis(NOW * 1000))
    }

    fn claims() -> Value {
        json!({"iss": "https://id.example", "aud": "gate", "sub": "ada", "nonce": "n-1", "iat": NOW, "exp": NOW + 300})
    }

    fn login() -> Expected<'static> {
        Expected {
            issuer: "https://id.example",
            client_id: "gate",
            leeway: Duration::from_secs(10),
            max_age: None,
            access_token: TOKEN,
            moment: Moment::Login { nonce: "n-1", began_at: WallMillis(NOW * 1000) },
        }
    }

    fn with(changes: &[(&str, Value)], expected: &Expected<'_>) -> Result<String, IdTokenError> {
        let mut claims = claims();
        for (name, value) in changes {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(*name)),
                value => claims[*name] = value.clone(),
            }
        }
        subject(&claims, Some(Algorithm::Es256), expected, &clock()).map(str::to_owned)
    }

    fn refused(changes: &[(&str, Value)]) -> IdTokenError {
        with(changes, &login()).unwrap_err()
    }

    #[test]
    fn a_token_of_this_login_gives_its_subject() {
        assert_eq!(with(&[], &login()).unwrap(), "ada");
    }

    #[test]
    fn issuer_and_subject_have_to_be_there_and_right() {
        assert_eq!(refused(&[("iss", json!("https://id.example/"))]), IdTokenError::Issuer);
        assert_eq!(refused(&[("iss", json!(null))]), IdTokenError::Issuer);
        assert_eq!(refused(&[("sub", json!(null))]), IdTokenError::NoSubject);
        assert_eq!(refused(&[("sub", json!(""))]), IdTokenError::NoSubject);
        assert_eq!(refused(&[("sub", json!(7))]), IdTokenError::NoSubject);
        assert_eq!(refused(&[("sub", json!("x".repeat(256)))]), IdTokenError::NoSubject);
        assert!(with(&[("sub", json!("x".repeat(255)))], &login()).is_ok());
    }

    #[test]
    fn the_audience_is_this_client_and_a_token_for_several_is_made_for_it() {
        let tried = |aud: Value, azp: Value| with(&[("aud", aud), ("azp", azp)], &login()).map(drop);
        for (aud, azp) in
            [(json!("gate"), json!("gate")), (json!(["gate"]), json!(null)), (json!(["gate", "other"]), json!("gate"))]
        {
            assert_eq!(tried(aud.clone(), azp), Ok(()), "{aud}");
        }
        for aud in [json!("other"), json!(["other"]), json!([]), json!(null), json!({"gate": 1})] {
            assert_eq!(tried(aud.clone(), json!(null)), Err(IdTokenError::Audience), "{aud}");
        }
        for (aud, azp) in [
            (json!(["gate", "other"]), json!(null)),
            (json!(["gate", "other"]), json!("other")),
            (json!("gate"), json!("other")),
            (json!("gate"), json!(1)),
        ] {
            assert_eq!(tried(aud.clone(), azp), Err(IdTokenError::AuthorizedParty), "{aud}");
        }
    }

    #[test]
    fn the_nonce_is_that_of_the_login() {
        for nonce in [json!("n-2"), json!(""), json!(null), json!(1), json!("n-1 ")] {
            assert_eq!(refused(&[("nonce", nonce.clone())]), IdTokenError::Nonce, "{nonce}");
        }
    }

    #[test]
    fn times_count_to_the_second_with_leeway() {
        assert!(with(&[("iat", json!(NOW + 10))], &login()).is_ok());
        assert_eq!(refused(&[("iat", json!(NOW + 11))]), IdTokenError::Times(JwtError::NotYet));
        assert!(with(&[("iat", json!(NOW - 11))], &login()).is_ok());
        assert_eq!(refused(&[("iat", json!(NOW - 12))]), IdTokenError::Old);
        assert_eq!(refused(&[("iat", json!(null))]), IdTokenError::Times(JwtError::Claim("iat".to_owned())));
        assert!(with(&[("exp", json!(NOW - 9))], &login()).is_ok());
        assert_eq!(refused(&[("exp", json!(NOW - 10))]), IdTokenError::Times(JwtError::Expired));
        assert_eq!(refused(&[("exp", json!(null))]), IdTokenError::Times(JwtError::Claim("exp".to_owned())));
        assert_eq!(refused(&[("nbf", json!(NOW + 11))]), IdTokenError::Times(JwtError::NotYet));
    }

    #[test]
    fn with_a_max_age_the_token_says_when_the_person_logged_in() {
        let strict = Expected { max_age: Some(Duration::from_secs(60)), ..login() };
        assert!(with(&[("auth_time", json!(NOW - 70))], &strict).is_ok());
        assert_eq!(with(&[("auth_time", json!(NOW - 71))], &strict), Err(IdTokenError::AuthTime));
        assert_eq!(with(&[], &strict), Err(IdTokenError::AuthTime));
        assert!(with(&[], &login()).is_ok());
    }

    #[test]
    fn the_hash_of_the_access_token_is_that_of_the_one_that_came_along() {
        // OpenID Connect Core, appendix A.3.
        let good = [("at_hash", json!("77QmUPtjPfzWtF2AnpK9RQ"))];
        assert!(with(&good, &login()).is_ok());
        for bad in [json!("77QmUPtjPfzWtF2AnpK9Rg"), json!(""), json!(1)] {
            assert_eq!(refused(&[("at_hash", bad)]), IdTokenError::AccessToken);
        }
        let mut claims = claims();
        claims["at_hash"] = json!("77QmUPtjPfzWtF2AnpK9RQ");
        for other in [Some(Algorithm::Rs384), Some(Algorithm::EdDsa), None] {
            assert_eq!(subject(&claims, other, &login(), &clock()), Err(IdTokenError::AccessToken));
        }
    }

    #[test]
    fn a_renewal_is_about_the_same_person_and_needs_no_nonce() {
        let renewed = |subject, nonce| Expected { moment: Moment::Renewal { subject, nonce }, ..login() };
        let renewal = |subject| renewed(subject, Some(Digest::of(b"n-1")));
        assert!(with(&[("nonce", json!(null)), ("iat", json!(NOW - 500))], &renewal("ada")).is_ok());
        assert_eq!(with(&[], &renewal("bob")), Err(IdTokenError::Subject));
        assert!(with(&[("nonce", json!("n-1"))], &renewal("ada")).is_ok(), "the login's own");
        for other in [json!("zz"), json!(""), json!(1)] {
            assert_eq!(with(&[("nonce", other.clone())], &renewal("ada")), Err(IdTokenError::Nonce));
            assert!(with(&[("nonce", other)], &renewed("ada", None)).is_ok(), "of a login that noted none");
        }
    }
}
