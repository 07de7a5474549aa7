//! Every typed id of the gateway, one alphabetical list.
//!
//! An id the caller chose and an id we made are different types: [`ClientId`] and [`PromptId`] may come from a browser,
//! [`UpstreamClientId`] and [`UpstreamPromptId`] never do. Each is private inside and made by `FromStr`, which states
//! alphabet and length, or by a constructor that draws it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no {kind}: {rule}")]
pub struct IdError {
    /// What was wanted, such as `tenant id`.
    pub kind: &'static str,
    /// Alphabet and length, for the reader.
    pub rule: &'static str,
    /// What was found, cut to 80 characters, control characters escaped.
    pub found: String,
}

impl IdError {
    fn new(kind: &'static str, rule: &'static str, found: &str) -> Self {
        let found = found.chars().take(80).flat_map(char::escape_default).collect();
        Self { kind, rule, found }
    }
}

/// A text id: newtype over `Box<str>`, checked once by `FromStr`.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "minLength": 1, "maxLength": $max, "description": $rule})
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if (1..=$max).contains(&text.len()) && check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(IdError::new($kind, $rule, text))
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

/// An id we draw: newtype over a UUID.
macro_rules! drawn_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $draw:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh id.
            #[allow(clippy::new_without_default, reason = "a default that differs at each call would surprise")]
            pub fn new() -> Self {
                Self($draw)
            }
            /// The 16 bytes, big-endian, as keys of the ledger.
            pub fn bytes(&self) -> [u8; 16] {
                *self.0.as_bytes()
            }
            /// Back from the ledger's key.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "format": "uuid"})
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                // Only the canonical spelling: two spellings of one id would be two rows of an audit log.
                match Uuid::try_parse(text) {
                    Ok(id) if id.hyphenated().to_string() == text => Ok(Self(id)),
                    _ => Err(IdError::new($kind, "a lower-case hyphenated UUID", text)),
                }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.hyphenated())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

/// One try of a job on one backend: the job and a number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job that is tried.
    pub job: JobId,
    /// 1 for the first try.
    pub n: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.job, self.n)
    }
}

text_id!(
    /// A ComfyUI instance, named by the configuration.
    BackendId, "backend id", 63, "1 to 63 of a-z, 0-9, `_`, `-`, `.`, beginning with a letter or digit", is_name_with_dots
);

text_id!(
    /// A word for what a backend is or has, by which plans and tenants choose among those of their pool.
    BackendTag, "backend tag", 63, "1 to 63 of a-z, 0-9, `_`, `-`, `.`, beginning with a letter or digit", is_name_with_dots
);

text_id!(
    /// The caller's own name of a client (`clientId` of `/ws`, `client_id` of `/prompt`). A label of its owner, never sent upstream.
    ClientId, "client id", 128, "1 to 128 printable ASCII characters without space",
    |text| text.bytes().all(|b| b.is_ascii_graphic())
);

drawn_id!(
    /// An immutable content of the gateway's blobs with its facts; names point to it.
    FileId, "file id", Uuid::new_v4()
);

drawn_id!(
    /// This gateway's state directory: names its cookie, so that several gateways on one host keep out of each other's.
    InstanceId, "instance id", Uuid::new_v4()
);

drawn_id!(
    /// What a caller submitted, whatever the number of attempts. Version 7, so that ids sort by acceptance.
    JobId, "job id", Uuid::now_v7()
);

text_id!(
    /// The public part of an API key: names its row, proves nothing.
    KeyId, "key id", 12, "12 of a-z, 0-9", |text| text.len() == 12 && text.bytes().all(is_lower_or_digit)
);

text_id!(
    /// Backends that serve the same tenants; everybody is in one, `default` unless named.
    PoolId, "pool id", 63, "1 to 63 of a-z, 0-9, `_`, `-`, `.`, beginning with a letter or digit", is_name_with_dots
);

impl PoolId {
    /// The pool of whoever names none.
    pub fn default_pool() -> Self {
        Self("default".into())
    }
}

text_id!(
    /// The name by which its owner knows a job: the caller's own `prompt_id`, else the job id. Never sent upstream.
    PromptId, "prompt id", 64, "1 to 64 of A-Z, a-z, 0-9, `_`, `-`",
    |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
);

text_id!(
    /// An identity provider of the configuration: its place in our paths.
    ProviderId, "provider id", 32, "1 to 32 of a-z, 0-9, `-`, beginning with a letter or digit; not `callback` or `backchannel`",
    |text| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        // Both are paths of ours where an id would stand.
        !["callback", "backchannel"].contains(&text)
            && text.bytes().all(|byte| plain(byte) || byte == b'-')
            && text.bytes().next().is_some_and(plain)
    }
);

drawn_id!(
    /// One request, in every log line and refusal.
    RequestId, "request id", Uuid::new_v4()
);

drawn_id!(
    /// A browser's session: names its row and its audit lines, proves nothing.
    SessionId, "session id", Uuid::new_v4()
);

text_id!(
    /// Who pays.
    TenantId, "tenant id", 63, "1 to 63 of a-z, 0-9, `_`, `-`, beginning with a letter or digit", is_name
);

drawn_id!(
    /// The secret sid of our WebSocket at one backend. Whoever knows it could take our events over (facts §6.1).
    UpstreamClientId, "upstream client id", Uuid::new_v4()
);

drawn_id!(
    /// The `prompt_id` under which a backend knows an attempt.
    UpstreamPromptId, "upstream prompt id", Uuid::new_v4()
);

text_id!(
    /// A person or service within a tenant.
    UserId, "user id", 128, "1 to 128 of A-Z, a-z, 0-9, `.`, `_`, `@`, `+`, `-`",
    |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@+-".contains(&b))
);

impl From<JobId> for PromptId {
    /// The label of a job whose caller chose none.
    fn from(job: JobId) -> Self {
        Self(job.to_string().into_boxed_str())
    }
}

impl ClientId {
    /// A sid for a socket that named none, as ComfyUI draws it: 32 hexadecimal digits (server.py `websocket_handler`).
    pub fn draw() -> Self {
        Self(Uuid::new_v4().simple().to_string().into_boxed_str())
    }
}

fn is_lower_or_digit(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_name(text: &str) -> bool {
    text.bytes().next().is_some_and(is_lower_or_digit)
        && text.bytes().all(|b| is_lower_or_digit(b) || b == b'_' || b == b'-')
}

fn is_name_with_dots(text: &str) -> bool {
    text.bytes().next().is_some_and(is_lower_or_digit)
        && text.bytes().all(|b| is_lower_or_digit(b) || b == b'_' || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_of_63_characters_is_accepted_and_64_refused() {
        assert!("a".repeat(63).parse::<TenantId>().is_ok());
        assert!("a".repeat(64).parse::<TenantId>().is_err());
        assert!("".parse::<TenantId>().is_err());
    }

    #[test]
    fn tenant_begins_with_letter_or_digit() {
        assert!("9-a_b".parse::<TenantId>().is_ok());
        assert!("-ab".parse::<TenantId>().is_err());
        assert!("A".parse::<TenantId>().is_err());
        assert!("a/b".parse::<TenantId>().is_err());
    }

    #[test]
    fn only_the_canonical_spelling_of_a_uuid_is_an_id() {
        let id = JobId::new();
        assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<JobId>().is_err());
        assert!(id.to_string().replace('-', "").parse::<JobId>().is_err());
    }

    #[test]
    fn client_id_takes_printable_ascii_only() {
        assert!("a.b:c/é".parse::<ClientId>().is_err());
        assert!("a.b:c/~".parse::<ClientId>().is_ok());
        assert!("a b".parse::<ClientId>().is_err());
    }

    #[test]
    fn error_shows_what_was_found_without_control_characters() {
        let text = "x\n".parse::<TenantId>().unwrap_err().to_string();
        assert!(text.contains("`x\\n` is no tenant id"), "{text}");
    }
}
