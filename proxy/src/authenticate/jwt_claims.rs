//! Where a claim stands in a token, and what texts it may hold.

use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// The place of a claim: its name, letter by letter, or a JSON pointer (RFC 6901) for one inside another.
///
/// A text that begins with `/` is a pointer: `/resource_access/gate/org`. Everything else is one name, whatever it holds: `https://example.com/org_id` and `app.org` are names, as
/// Auth0 and others use them. A name that begins with `/` is written as a pointer: `/~1name`.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimPath(String);

/// The text names no claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("in a JSON pointer `~` is followed by 0 (for `~`) or 1 (for `/`)")]
pub struct ClaimPathError;

impl ClaimPath {
    /// The claim's value, if it is there.
    pub fn find<'c>(&self, claims: &'c Value) -> Option<&'c Value> {
        if self.0.starts_with('/') { claims.pointer(&self.0) } else { claims.get(&self.0) }
    }

    /// For an address of mail, which a claim holds whose last part is `email`: the claim that says whether it was verified. Beside it for a pointer (`/user/email`: `/user/email_verified`);
    /// that of the whole token for a name (`email`, `https://example.com/email`), since issuers copy into such claims what they know of the user.
    pub fn verified_by(&self) -> Option<String> {
        match self.0.rsplit_once('/') {
            Some((parent, "email")) if self.0.starts_with('/') => Some(format!("{parent}/email_verified")),
            Some((_, "email")) => Some("/email_verified".to_owned()),
            None if self.0 == "email" => Some("/email_verified".to_owned()),
            _ => None,
        }
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClaimPath {
    type Err = ClaimPathError;
    fn from_str(text: &str) -> Result<Self, ClaimPathError> {
        let escapes_are_good = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if text.starts_with('/') && !escapes_are_good { Err(ClaimPathError) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClaimPath({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(path: &str, claims: &Value) -> Option<String> {
        let path: ClaimPath = path.parse().unwrap();
        path.find(claims).and_then(Value::as_str).map(str::to_owned)
    }

    #[test]
    fn a_name_is_taken_letter_by_letter_and_a_pointer_goes_inside() {
        let claims = json!({
            "org": "a", "app.org": "b", "https://example.com/org": "c", "app": {"org": "d", "x/y": "e", "list": ["f"]}, "/odd": "g"
        });
        for (path, value) in [
            ("org", "a"),
            ("app.org", "b"),
            ("https://example.com/org", "c"),
            ("/app/org", "d"),
            ("/app/x~1y", "e"),
            ("/app/list/0", "f"),
            ("/~1odd", "g"),
            ("/org", "a"),
        ] {
            assert_eq!(find(path, &claims).as_deref(), Some(value), "{path}");
        }
        for path in ["app/org", "app", "/app", "/app/none", "Org", "/org/"] {
            assert_eq!(find(path, &claims), None, "{path}");
        }
    }

    #[test]
    fn an_address_of_mail_is_known_however_its_claim_is_written_and_verified_beside_it() {
        let verified = |path: &str| path.parse::<ClaimPath>().unwrap().verified_by();
        for (path, by) in [
            ("email", "/email_verified"),
            ("/email", "/email_verified"),
            ("/user/email", "/user/email_verified"),
            ("//email", "//email_verified"),
            ("https://example.com/email", "/email_verified"),
        ] {
            assert_eq!(verified(path).as_deref(), Some(by), "{path}");
        }
        for path in ["/email/0", "Email", "/user/emails", "user_email", "/e-mail", "", "/~1email"] {
            assert_eq!(verified(path), None, "{path}");
        }
    }

    #[test]
    fn a_pointer_with_a_wrong_escape_is_refused_and_a_name_may_hold_anything() {
        assert!("/a~0b~1c".parse::<ClaimPath>().is_ok());
        assert!("/a~2".parse::<ClaimPath>().is_err() && "/a~".parse::<ClaimPath>().is_err());
        assert!("a~2".parse::<ClaimPath>().is_ok());
    }
}
