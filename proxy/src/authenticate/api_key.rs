//! API keys: `cg_<id>_<secret><crc>`, 49 characters.
//!
//! The id names a row and proves nothing; the secret has 160 random bits and is kept as a hash only; the checksum answers typing errors and secret scanners without a look-up.

use crate::clock::{Clock, WallMillis};
use crate::ids::KeyId;
use crate::owner::{Owner, Scopes};
use comfygate_policy::Digest;
use ring::rand::SecureRandom;
use serde::{Deserialize, Serialize};
use std::fmt;
use subtle::ConstantTimeEq as _;

/// What the ledger keeps of a key: everything but the secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The public part.
    pub id: KeyId,
    /// Whose name its bearer acts in; `owner.key` is this key.
    pub owner: Owner,
    /// What its bearer may do.
    pub scopes: Scopes,
    /// SHA-256 of the secret: 160 random bits need no slow hash.
    pub secret_hash: Digest,
    /// A word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it was made.
    pub created_at: WallMillis,
    /// From when on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<WallMillis>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<WallMillis>,
    /// It may stand in `?token=` of `/ws`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_query: bool,
    /// When it was noted as used last; up to a minute and some seconds behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<WallMillis>,
    /// The key that it took the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_from: Option<KeyId>,
    /// The key that takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_to: Option<KeyId>,
    /// The request that made it, by itself or in the place of another, where that had an `Idempotency-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<MadeBy>,
}

/// A request that makes a key, as far as a repeat is known by it. Hashes: what a client calls its requests, and what it asks for, need not lie in the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MadeBy {
    /// Of the `Idempotency-Key`.
    pub name: Digest,
    /// Of what was asked for.
    pub request: Digest,
}

impl KeyRow {
    /// From when on it is refused, whatever the reason.
    pub fn ended_at(&self) -> Option<WallMillis> {
        self.revoked_at.into_iter().chain(self.expires_at).min()
    }

    /// Whether the key is neither revoked nor expired, whoever shows it.
    ///
    /// # Errors
    /// `Revoked`, `Expired`.
    pub fn stands(&self, now: WallMillis) -> Result<(), KeyRefused> {
        if self.revoked_at.is_some() {
            // Whatever time stands there: a revocation never lies in the future.
            Err(KeyRefused::Revoked)
        } else if self.expires_at.is_some_and(|expires_at| now >= expires_at) {
            Err(KeyRefused::Expired)
        } else {
            Ok(())
        }
    }
}

/// How every key begins; secret scanners look for it.
pub const PREFIX: &str = "cg_";
/// What a scanner for leaked keys looks for, as a regular expression; the checksum, which it can't compute, leaves of its finds the true ones. docs/identity.md and
/// packaging/gitleaks.toml have the same.
pub const PATTERN: &str = r"\bcg_[0-9a-z]{12}_[0-9A-Za-z]{33}\b";
const ID_CHARS: usize = 12;
/// 62^27 is just over 2^160.
const SECRET_CHARS: usize = 27;
/// 62^6 is over 2^32.
const CRC_CHARS: usize = 6;
/// Length of a whole key in characters.
pub const KEY_CHARS: usize = PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS + CRC_CHARS;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A whole key as its bearer shows it. `Debug` shows the id only; [`ApiKey::reveal`] is for the one print at creation.
#[derive(Clone)]
pub struct ApiKey {
    id: KeyId,
    secret: Secret,
}

/// The part that proves.
#[derive(Clone)]
struct Secret(String);

impl Secret {
    fn hash(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, secret redacted)", self.id)
    }
}

/// Why a text is no key. None of it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFormatError {
    /// Too short, too long, another prefix or foreign characters.
    #[error("not of the form `cg_<id>_<secret>` with {KEY_CHARS} characters")]
    Shape,
    /// Mistyped or cut and mended.
    #[error("the checksum does not fit: a character is wrong")]
    Checksum,
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct RandomError;

impl ApiKey {
    /// A fresh key: id and secret drawn from `random`.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn mint(random: &dyn SecureRandom) -> Result<Self, RandomError> {
        let id = drawn(random, BASE36, ID_CHARS)?;
        let secret = drawn(random, BASE62, SECRET_CHARS)?;
        Ok(Self { id: id.parse().map_err(|_| RandomError)?, secret: Secret(secret) })
    }

    /// Reads a key: length, then shape, then checksum; nothing is decoded before its length is known.
    ///
    /// # Errors
    /// [`KeyFormatError`].
    pub fn parse(text: &str) -> Result<Self, KeyFormatError> {
        if text.len() != KEY_CHARS || !text.is_ascii() {
            return Err(KeyFormatError::Shape);
        }
        let (body, crc) = text.split_at_checked(KEY_CHARS - CRC_CHARS).ok_or(KeyFormatError::Shape)?;
        let rest = body.strip_prefix(PREFIX).ok_or(KeyFormatError::Shape)?;
        let (id, secret) = rest.split_once('_').ok_or(KeyFormatError::Shape)?;
        if !secret.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(KeyFormatError::Shape);
        }
        let id = id.parse().map_err(|_| KeyFormatError::Shape)?;
        if checksum(body) != crc {
            return Err(KeyFormatError::Checksum);
        }
        Ok(Self { id, secret: Secret(secret.to_owned()) })
    }

    /// Every key in a text that somebody found: in a log, a repository, a chat. What only looks like one, by its checksum, is none.
    pub fn find_all(text: &str) -> impl Iterator<Item = Self> + '_ {
        let candidates = text.match_indices(PREFIX).filter_map(|(at, _)| text.get(at..at.checked_add(KEY_CHARS)?));
        candidates.filter_map(|candidate| Self::parse(candidate).ok())
    }

    /// Whether this is the key of that row, whatever has become of it.
    pub fn proves(&self, row: &KeyRow) -> bool {
        // SECURITY: hashes are compared in constant time, though they are hashes: it costs nothing.
        row.id == self.id && bool::from(self.secret.hash().as_bytes().ct_eq(row.secret_hash.as_bytes()))
    }

    /// The public part.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The whole key, secret included: shown once, when it is made.
    pub fn reveal(&self) -> String {
        let body = format!("{PREFIX}{}_{}", self.id, self.secret.0);
        let crc = checksum(&body);
        body + &crc
    }

    /// The row that the ledger keeps of this key.
    pub fn row(
        &self,
        owner: Owner,
        scopes: Scopes,
        label: Option<String>,
        created_at: WallMillis,
        expires_at: Option<WallMillis>,
    ) -> KeyRow {
        let owner = Owner { key: Some(self.id.clone()), ..owner };
        KeyRow {
            id: self.id.clone(),
            owner,
            scopes,
            secret_hash: self.secret.hash(),
            label,
            created_at,
            expires_at,
            revoked_at: None,
            allow_query: false,
            used_at: None,
            rotated_from: None,
            rotated_to: None,
            made_by: None,
        }
    }

    /// Whether this key proves `row`, now.
    ///
    /// # Errors
    /// [`KeyRefused`]. The secret comes first: who has not proved the key is told nothing of its state, not even in the log's statistics.
    pub fn verify(&self, row: &KeyRow, clock: &Clock) -> Result<(), KeyRefused> {
        if self.proves(row) { row.stands(clock.wall()) } else { Err(KeyRefused::WrongSecret) }
    }
}

/// Why a well-formed key is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    /// The id is known, the secret is not its.
    #[error("the secret is wrong")]
    WrongSecret,
    /// Its time is over.
    #[error("the key has expired")]
    Expired,
    /// Somebody took it back.
    #[error("the key is revoked")]
    Revoked,
    /// It is a local user's who may not log in either.
    #[error("the user whose key it is is disabled")]
    UserDisabled,
}

/// `count` characters of `alphabet`, each equally likely.
fn drawn(random: &dyn SecureRandom, alphabet: &[u8], count: usize) -> Result<String, RandomError> {
    let mut text = String::with_capacity(count);
    // Bytes past the last whole multiple of the alphabet are dropped, or its first letters would be likelier.
    let usable = 256 - 256 % alphabet.len();
    let mut bytes = [0; 64];
    while text.len() < count {
        random.fill(&mut bytes).map_err(|_| RandomError)?;
        let letters = bytes
            .iter()
            .map(|byte| usize::from(*byte))
            .filter(|byte| *byte < usable)
            .filter_map(|byte| alphabet.get(byte % alphabet.len()));
        text.extend(letters.take(count - text.len()).map(|letter| char::from(*letter)));
    }
    Ok(text)
}

/// CRC-32 of `body` as 6 digits of base 62, most significant first.
fn checksum(body: &str) -> String {
    let mut rest = crc32(body.as_bytes()) as usize;
    let mut digits = [b'0'; CRC_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62.get(rest % 62).copied().unwrap_or(b'0');
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// CRC-32 (ISO-HDLC, as zlib's), bit by bit: 43 bytes need no table and no crate.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use std::time::Duration;

    fn key() -> ApiKey {
        ApiKey::mint(&SystemRandom::new()).unwrap()
    }

    fn row(key: &ApiKey, clock: &Clock, expires_at: Option<WallMillis>) -> KeyRow {
        let owner = Owner { tenant: "acme".parse().unwrap(), user: None, key: None, shared: false };
        key.row(owner, Scopes::of_a_client(), None, clock.wall(), expires_at)
    }

    #[test]
    fn a_minted_key_is_read_back() {
        let key = key();
        let text = key.reveal();
        assert_eq!(text.len(), KEY_CHARS);
        let read = ApiKey::parse(&text).unwrap();
        assert_eq!((read.id(), read.reveal()), (key.id(), text));
    }

    #[test]
    fn two_minted_keys_differ_in_id_and_secret() {
        let (a, b) = (key(), key());
        assert_ne!(a.id(), b.id());
        assert_ne!(a.secret.0, b.secret.0);
    }

    #[test]
    fn every_mistyped_character_is_noticed_without_a_look_up() {
        let text = key().reveal();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            assert!(ApiKey::parse(&String::from_utf8(bytes).unwrap()).is_err(), "character {at}");
        }
    }

    #[test]
    fn one_character_more_or_less_is_no_key() {
        let text = key().reveal();
        assert_eq!(ApiKey::parse(&text[1..]).unwrap_err(), KeyFormatError::Shape);
        assert_eq!(ApiKey::parse(&format!("{text}0")).unwrap_err(), KeyFormatError::Shape);
        assert_eq!(ApiKey::parse("").unwrap_err(), KeyFormatError::Shape);
    }

    #[test]
    fn the_checksum_is_the_crc_32_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(checksum(""), "000000");
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = key();
        assert!(!format!("{key:?}").contains(&key.secret.0));
    }

    #[test]
    fn the_key_of_a_row_proves_it_and_another_with_its_id_does_not() {
        let clock = Clock::turned_by_hand(WallMillis(1_000));
        let key = key();
        assert_eq!(key.verify(&row(&key, &clock, None), &clock), Ok(()));
        let forged = ApiKey { id: key.id().clone(), secret: self::key().secret };
        assert_eq!(forged.verify(&row(&key, &clock, None), &clock), Err(KeyRefused::WrongSecret));
    }

    #[test]
    fn a_key_is_good_until_the_millisecond_before_it_expires() {
        let clock = Clock::turned_by_hand(WallMillis(1_000));
        let key = key();
        let row = row(&key, &clock, Some(WallMillis(2_000)));
        clock.turn(Duration::from_millis(999));
        assert_eq!(key.verify(&row, &clock), Ok(()));
        clock.turn(Duration::from_millis(1));
        assert_eq!(key.verify(&row, &clock), Err(KeyRefused::Expired));
    }

    #[test]
    fn a_revoked_key_is_refused_and_a_wrong_secret_learns_nothing_of_it() {
        let clock = Clock::turned_by_hand(WallMillis(1_000));
        let key = key();
        let row = KeyRow { revoked_at: Some(WallMillis(500)), ..row(&key, &clock, None) };
        assert_eq!(key.verify(&row, &clock), Err(KeyRefused::Revoked));
        let forged = ApiKey { id: key.id().clone(), secret: self::key().secret };
        assert_eq!(forged.verify(&row, &clock), Err(KeyRefused::WrongSecret));
    }

    #[test]
    fn the_scanners_pattern_finds_every_key_and_no_near_miss() {
        let pattern = regex::Regex::new(PATTERN).unwrap();
        for _ in 0..5_000 {
            let text = key().reveal();
            for around in [text.clone(), format!("KEY={text}"), format!("\"{text}\","), format!("token={text}&x=1")] {
                let found: Vec<_> = pattern.find_iter(&around).map(|found| found.as_str()).collect();
                assert_eq!(found, [text.as_str()], "{around}");
                assert_eq!(ApiKey::find_all(&around).map(|key| key.reveal()).collect::<Vec<_>>(), [text.as_str()]);
            }
            for miss in [
                text[1..].to_owned(),
                text[..KEY_CHARS - 1].to_owned(),
                format!("{text}0"),
                format!("x{text}"),
                text.replacen("cg_", "cgt_", 1),
                text.replacen("cg_", "CG_", 1),
                text.replacen('_', "-", 2),
                format!("{}é{}", &text[..20], &text[21..]),
                format!("cg_{}{}", text[3..15].to_uppercase().replace(|c: char| c.is_ascii_digit(), "A"), &text[15..]),
            ] {
                assert!(!pattern.is_match(&miss), "{miss}");
            }
        }
    }

    #[test]
    fn what_looks_like_a_key_and_has_another_checksum_is_told_apart() {
        let text = key().reveal();
        let wrong = format!("{}{}", &text[..KEY_CHARS - 1], if text.ends_with('0') { '1' } else { '0' });
        assert!(regex::Regex::new(PATTERN).unwrap().is_match(&wrong));
        let mixed = format!("{wrong} and {text}, and cg_ alone, and cg_{}", "é".repeat(40));
        assert_eq!(ApiKey::find_all(&mixed).map(|key| key.reveal()).collect::<Vec<_>>(), [text]);
    }

    #[test]
    fn the_pattern_is_the_documentations_and_the_scanners_rule() {
        let line = format!("regex = '''{PATTERN}'''");
        assert!(include_str!("../../../packaging/gitleaks.toml").lines().any(|known| known == line));
        assert!(include_str!("../../../docs/identity.md").lines().any(|known| known == PATTERN));
    }
}
