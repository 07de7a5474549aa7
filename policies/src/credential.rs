//! A credential for the paid services of comfy.org: a secret, which goes to a backend beside a workflow that has a paid node, and nowhere else.
//!
//! ComfyUI (0.8.0, `execution.py` `SENSITIVE_EXTRA_DATA_KEYS`) reads two keys of `extra_data`, keeps them out of its queue and history, and hands them to the nodes that ask
//! for them.

use std::fmt;

use serde_json::{Map, Value, json};

/// The key of `extra_data` that holds the token of a person who is logged in at comfy.org.
pub const AUTH_TOKEN_KEY: &str = "auth_token_comfy_org";
/// The key of `extra_data` that holds an API key of comfy.org.
pub const API_KEY_KEY: &str = "api_key_comfy_org";
/// Bytes of each: the tokens of comfy.org are JSON Web Tokens of about one KiB.
pub const CREDENTIAL_BYTES_MAX: usize = 4096;

/// Bytes of the shortest text that is taken for a secret in an answer: keys of comfy.org have some 70 characters, tokens some hundred.
pub const HIDDEN_BYTES_MIN: usize = 16;

/// Who pays: a token, an API key, or both. At least one of them is there; each is 1 to [`CREDENTIAL_BYTES_MAX`] of printable ASCII without spaces. `Debug` shows nothing of it.
///
/// ```
/// use comfygate_policy::ComfyOrgCredential;
/// let key = ComfyOrgCredential::of_api_key("comfyui-abc").unwrap();
/// assert_eq!(format!("{key:?}"), "ComfyOrgCredential(redacted)");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ComfyOrgCredential {
    auth_token: Option<String>,
    api_key: Option<String>,
}

/// The text is no credential. Holds nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a credential of comfy.org is 1 to {CREDENTIAL_BYTES_MAX} of printable ASCII without spaces")]
pub struct CredentialError;

impl ComfyOrgCredential {
    /// The credential of these two texts; `None` if neither is there.
    ///
    /// # Errors
    /// One of them has other characters, or more of them.
    pub fn new(auth_token: Option<&str>, api_key: Option<&str>) -> Result<Option<Self>, CredentialError> {
        let good = |text: &str| if is_credential(text) { Ok(text.to_owned()) } else { Err(CredentialError) };
        let (auth_token, api_key) = (auth_token.map(good).transpose()?, api_key.map(good).transpose()?);
        Ok((auth_token.is_some() || api_key.is_some()).then_some(Self { auth_token, api_key }))
    }

    /// An API key alone.
    ///
    /// # Errors
    /// As [`ComfyOrgCredential::new`].
    pub fn of_api_key(api_key: &str) -> Result<Self, CredentialError> {
        Self::new(None, Some(api_key))?.ok_or(CredentialError)
    }

    /// The secrets themselves, to be cut out of texts that may quote them: those of [`HIDDEN_BYTES_MIN`] or more. Shorter ones are no credentials of comfy.org, and would cut words apart.
    pub fn hidden(&self) -> impl Iterator<Item = &str> {
        self.members().map(|(_, text)| text).filter(|text| text.len() >= HIDDEN_BYTES_MIN)
    }

    /// Keys of `extra_data` with their values.
    fn members(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let texts = [(AUTH_TOKEN_KEY, self.auth_token.as_deref()), (API_KEY_KEY, self.api_key.as_deref())];
        texts.into_iter().filter_map(|(key, text)| Some((key, text?)))
    }

    /// `{"auth_token_comfy_org"?: …, "api_key_comfy_org"?: …}` in the clear: only for a file that nobody else reads.
    pub fn exposed(&self) -> Vec<u8> {
        let members: Map<String, Value> = self.members().map(|(key, text)| (key.to_owned(), json!(text))).collect();
        Value::Object(members).to_string().into_bytes()
    }

    /// Reads what [`ComfyOrgCredential::exposed`] wrote.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn read(bytes: &[u8]) -> Result<Self, CredentialError> {
        let Ok(Value::Object(members)) = serde_json::from_slice(bytes) else { return Err(CredentialError) };
        let text = |key: &str| members.get(key).map(|value| value.as_str().ok_or(CredentialError)).transpose();
        if members.keys().any(|key| key != AUTH_TOKEN_KEY && key != API_KEY_KEY) {
            return Err(CredentialError);
        }
        Self::new(text(AUTH_TOKEN_KEY)?, text(API_KEY_KEY)?)?.ok_or(CredentialError)
    }

    /// The members as they go into `extra_data`, each with a comma before it.
    pub(crate) fn filling(&self) -> String {
        // Of an alphabet with quotes and backslashes: JSON has to escape them.
        self.members().map(|(key, text)| format!(",\"{key}\":{}", json!(text))).collect()
    }
}

/// Whether a text may be one: 1 to [`CREDENTIAL_BYTES_MAX`] of printable ASCII without spaces.
pub(crate) fn is_credential(text: &str) -> bool {
    (1..=CREDENTIAL_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl fmt::Debug for ComfyOrgCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ComfyOrgCredential(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_has_one_to_4096_printable_characters_and_no_space() {
        let longest = "k".repeat(CREDENTIAL_BYTES_MAX);
        for good in ["k", "~!\"\\", &longest] {
            assert!(ComfyOrgCredential::of_api_key(good).is_ok(), "{}", good.len());
        }
        let long = "k".repeat(CREDENTIAL_BYTES_MAX + 1);
        for bad in ["", "a b", "a\n", "a\u{7f}", "ä", "a\0", &long] {
            assert_eq!(ComfyOrgCredential::of_api_key(bad), Err(CredentialError), "{bad:?}");
        }
    }

    #[test]
    fn neither_secret_is_no_credential() {
        assert_eq!(ComfyOrgCredential::new(None, None), Ok(None));
        assert_eq!(ComfyOrgCredential::read(b"{}"), Err(CredentialError));
    }

    #[test]
    fn what_is_exposed_is_read_again_and_nothing_else_is() {
        for (token, key) in [(Some("t\"1"), None), (None, Some("k\\2")), (Some("t"), Some("k"))] {
            let credential = ComfyOrgCredential::new(token, key).unwrap().unwrap();
            assert_eq!(ComfyOrgCredential::read(&credential.exposed()).unwrap(), credential);
        }
        let others: [&[u8]; 4] = [
            b"",
            br#"{"api_key_comfy_org":7}"#,
            br#"{"api_key_comfy_org":"a b"}"#,
            br#"{"api_key_comfy_org":"k","x":1}"#,
        ];
        for other in others {
            assert_eq!(ComfyOrgCredential::read(other), Err(CredentialError));
        }
    }

    #[test]
    fn a_text_of_16_characters_is_hidden_and_a_shorter_one_is_not() {
        let credential = ComfyOrgCredential::new(Some("0123456789abcdef"), Some("0123456789abcde")).unwrap().unwrap();
        assert_eq!(credential.hidden().collect::<Vec<_>>(), ["0123456789abcdef"]);
    }

    #[test]
    fn debug_and_errors_show_nothing_of_it() {
        let credential = ComfyOrgCredential::new(Some("hunter2"), Some("hunter3")).unwrap();
        assert!(!format!("{credential:?}{CredentialError}").contains("hunter"));
    }
}
