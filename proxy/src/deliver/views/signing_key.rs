//! The keys behind signed URLs: `<state>/signing.keys`, one a line, the first signs, all verify.
//!
//! To rotate, put a new line first; drop the old one when its URLs have expired. A line is `<8 hex digits> <32 bytes in base64>`.

use crate::record::durable;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::path::Path;

/// HMAC-SHA256 wants a key as long as its output (RFC 2104 §3).
const KEY_BYTES: usize = 32;
/// Rotations that overlap; more are a mistake.
const KEYS_MAX: usize = 16;

/// Why there are no keys to sign with.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// Can't be read or written.
    #[error("signing keys `{path}`: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not the lines that we write.
    #[error("signing keys `{path}`, line {line}: {what}")]
    Malformed {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The system has no random numbers.
    #[error("no random numbers for a signing key")]
    Random,
}

/// All keys; the first signs.
#[derive(Clone)]
pub struct SigningKeys(Vec<SigningKey>);

/// One key and the name that URLs call it by.
#[derive(Clone)]
pub struct SigningKey {
    id: String,
    key: hmac::Key,
}

impl SigningKeys {
    /// The key that signs.
    pub fn current(&self) -> Option<&SigningKey> {
        self.0.first()
    }
    /// The key of that name.
    pub fn find(&self, id: &str) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.id == id)
    }
}

impl SigningKey {
    /// The name in URLs.
    pub fn id(&self) -> &str {
        &self.id
    }
    /// The key itself.
    pub fn key(&self) -> &hmac::Key {
        &self.key
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKeys({} redacted)", self.0.len())
    }
}

/// Reads the keys; makes the file with one if there is none.
///
/// # Errors
/// [`SigningKeyError`] says which line of which file.
pub fn load_or_create(state_dir: &Path) -> Result<SigningKeys, SigningKeyError> {
    let path = state_dir.join("signing.keys");
    let io = |error| SigningKeyError::Io { path: path.display().to_string(), error };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = drawn()?;
            durable::write(state_dir, &path, text.as_bytes()).map_err(io)?;
            text
        }
        Err(error) => return Err(io(error)),
    };
    parsed(&text).map_err(|(line, what)| SigningKeyError::Malformed { path: path.display().to_string(), line, what })
}

fn drawn() -> Result<String, SigningKeyError> {
    let (random, mut id, mut key) = (SystemRandom::new(), [0; 4], [0; KEY_BYTES]);
    random.fill(&mut id).and_then(|()| random.fill(&mut key)).map_err(|_| SigningKeyError::Random)?;
    Ok(format!("{:08x} {}\n", u32::from_be_bytes(id), STANDARD.encode(key)))
}

fn parsed(text: &str) -> Result<SigningKeys, (usize, &'static str)> {
    let mut keys: Vec<SigningKey> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fault = |what| (index + 1, what);
        let (id, key) = line.split_once(' ').ok_or(fault("an id and a key are wanted"))?;
        if id.len() != 8 || !id.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
            return Err(fault("the id must be 8 hexadecimal digits"));
        }
        let key = STANDARD.decode(key.trim()).map_err(|_| fault("the key is not base64"))?;
        if key.len() != KEY_BYTES {
            return Err(fault("the key must have 32 bytes"));
        }
        if keys.iter().any(|known| known.id == id) {
            return Err(fault("the id stands twice"));
        }
        keys.push(SigningKey { id: id.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &key) });
    }
    match keys.len() {
        0 => Err((1, "there is no key")),
        1..=KEYS_MAX => Ok(SigningKeys(keys)),
        _ => Err((KEYS_MAX + 1, "there are more than 16 keys")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    pub(in crate::deliver::views) fn keys(ids: &[&str]) -> SigningKeys {
        let line = |id: &&str| format!("{id} {}\n", STANDARD.encode([id.as_bytes()[7]; KEY_BYTES]));
        parsed(&ids.iter().map(line).collect::<String>()).unwrap()
    }

    #[test]
    fn keys_are_made_once_private_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path()).unwrap();
        let second = load_or_create(dir.path()).unwrap();
        assert_eq!(first.current().unwrap().id(), second.current().unwrap().id());
        let mode = std::fs::metadata(dir.path().join("signing.keys")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(format!("{first:?}"), "SigningKeys(1 redacted)");
    }

    #[test]
    fn a_line_that_is_no_key_is_named() {
        let good = format!("0123abcd {}", STANDARD.encode([1; 32]));
        for (text, line) in [
            (String::new(), 1),
            (format!("{good}\n{good}"), 2),
            (format!("{good}\nXYZ {}", STANDARD.encode([1; 32])), 2),
            (format!("0123abcd {}", STANDARD.encode([1; 31])), 1),
            ("0123abcd !".to_owned(), 1),
        ] {
            assert_eq!(parsed(&text).map(|_| ()).unwrap_err().0, line, "{text}");
        }
        assert!(parsed(&good).is_ok());
    }
}
