//! What a session keeps of its provider's tokens, encrypted in the ledger (ChaCha20-Poly1305, RFC 8439).
//!
//! A refresh token is worth more than a session of ours: it speaks at the provider. So the ledger alone gives nobody one: the key is in a file of its own, `<state>/oidc.key`, mode 0600, and no
//! backup has it. In memory only, they would log everybody out at each restart and upgrade. Whoever deletes the file makes everybody log in again, and nothing else.

use crate::ids::{ProviderId, SessionId};
use crate::record::durable;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// The file's name in the state directory.
pub const KEY_FILE: &str = "oidc.key";
const KEY_BYTES: usize = 32;
/// Longest refresh token that is kept, in bytes; providers stay below 3 KiB.
const REFRESH_TOKEN_BYTES_MAX: usize = 8 << 10;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SealKeyError {
    /// Can't be read or written.
    #[error("key of providers' tokens `{path}`: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not what we write.
    #[error(
        "key of providers' tokens `{path}`: 32 bytes in base64 are wanted; delete it, and everybody who came by a provider logs in again"
    )]
    Malformed {
        /// The file.
        path: String,
    },
    /// The system has no random numbers.
    #[error("no random numbers for the key of providers' tokens")]
    Random,
}

/// The tokens of a session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Tokens {
    /// Renews the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh: Option<String>,
    /// Tells the provider at the logout whose session ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
}

impl Tokens {
    /// Those of an answer; a refresh token that is too long is none.
    pub fn new(refresh: Option<String>, id_token: Option<String>) -> Self {
        Self { refresh: refresh.filter(|token| (1..=REFRESH_TOKEN_BYTES_MAX).contains(&token.len())), id_token }
    }

    /// The refresh token.
    pub fn refresh(&self) -> Option<&str> {
        self.refresh.as_deref()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens(refresh: {}, redacted)", self.refresh.is_some())
    }
}

/// Encrypts and decrypts.
pub struct Sealer(LessSafeKey);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(redacted)")
    }
}

impl Sealer {
    /// Reads the key; makes the file if there is none.
    ///
    /// # Errors
    /// [`SealKeyError`].
    pub fn load_or_create(state_dir: &Path) -> Result<Self, SealKeyError> {
        let path = state_dir.join(KEY_FILE);
        let shown = path.display().to_string();
        let io = |error| SealKeyError::Io { path: shown.clone(), error };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut key = [0; KEY_BYTES];
                SystemRandom::new().fill(&mut key).map_err(|_| SealKeyError::Random)?;
                let text = format!("{}\n", STANDARD.encode(key));
                durable::write(state_dir, &path, text.as_bytes()).map_err(io)?;
                text
            }
            Err(error) => return Err(io(error)),
        };
        let malformed = || SealKeyError::Malformed { path: shown.clone() };
        let key = STANDARD.decode(text.trim()).map_err(|_| malformed())?;
        UnboundKey::new(&CHACHA20_POLY1305, &key).map(|key| Self(LessSafeKey::new(key))).map_err(|_| malformed())
    }

    /// The tokens as the ledger keeps them, for this session and provider alone. `None`: the system gave no random bytes.
    pub fn seal(&self, tokens: &Tokens, session: SessionId, provider: &ProviderId) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut bytes = serde_json::to_vec(tokens).ok()?;
        // 96 random bits: two of some millions that one key ever sees do not meet.
        let by = Nonce::assume_unique_for_key(nonce);
        self.0.seal_in_place_append_tag(by, Aad::from(place(session, provider)), &mut bytes).ok()?;
        Some(STANDARD.encode([nonce.as_slice(), bytes.as_slice()].concat()))
    }

    /// The tokens of that session. `None`: another key's, another session's, or damaged.
    pub fn open(&self, sealed: &str, session: SessionId, provider: &ProviderId) -> Option<Tokens> {
        let bytes = STANDARD.decode(sealed).ok()?;
        let (nonce, rest) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut rest = rest.to_vec();
        let plain = self.0.open_in_place(nonce, Aad::from(place(session, provider)), &mut rest).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

/// What a ciphertext belongs to: moved into another row, it can't be read.
fn place(session: SessionId, provider: &ProviderId) -> Vec<u8> {
    [session.bytes().as_slice(), provider.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_private_and_kept_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (session, provider) = (SessionId::new(), "studio".parse().unwrap());
        let tokens = Tokens::new(Some("r".into()), Some("i".into()));
        let sealed = Sealer::load_or_create(dir.path()).unwrap().seal(&tokens, session, &provider).unwrap();
        let again = Sealer::load_or_create(dir.path()).unwrap();
        assert_eq!(again.open(&sealed, session, &provider), Some(tokens));
        let file = dir.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "short").unwrap();
        assert!(matches!(Sealer::load_or_create(dir.path()), Err(SealKeyError::Malformed { .. })));
    }

    #[test]
    fn tokens_are_read_in_their_own_row_only_and_not_by_another_key() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sealer = Sealer::load_or_create(dir.path()).unwrap();
        let (session, provider): (_, ProviderId) = (SessionId::new(), "studio".parse().unwrap());
        let tokens = Tokens::new(Some("refresh-me".into()), None);
        let sealed = sealer.seal(&tokens, session, &provider).unwrap();
        assert!(!sealed.contains("refresh") && sealer.seal(&tokens, session, &provider).unwrap() != sealed);
        assert_eq!(sealer.open(&sealed, SessionId::new(), &provider), None);
        assert_eq!(sealer.open(&sealed, session, &"other".parse().unwrap()), None);
        assert_eq!(Sealer::load_or_create(other.path()).unwrap().open(&sealed, session, &provider), None);
        for damaged in ["", "AAAA", &sealed[..sealed.len() - 4], "no base64!"] {
            assert_eq!(sealer.open(damaged, session, &provider), None, "{damaged}");
        }
        assert!(!format!("{tokens:?} {sealer:?}").contains("refresh-me"));
    }

    #[test]
    fn a_refresh_token_that_is_too_long_is_none() {
        let kept = |length| Tokens::new(Some("x".repeat(length)), None).refresh().is_some();
        assert!(kept(1) && kept(REFRESH_TOKEN_BYTES_MAX));
        assert!(!kept(0) && !kept(REFRESH_TOKEN_BYTES_MAX + 1));
    }
}
