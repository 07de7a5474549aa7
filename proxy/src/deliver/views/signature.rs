//! What a signed URL proves: HMAC-SHA256 over version, tenant, file, variant, expiry and key id.
//!
//! Changing any of them changes the signature. The fields are joined with their lengths, so that no two lists of fields are one text.

use crate::clock::WallMillis;
use crate::ids::{FileId, TenantId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use std::fmt;
use std::time::Duration;

/// Longest life of a URL: it can't be taken back, so it ends by itself.
pub const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// A signature is 32 bytes: 43 characters in base64url without padding.
const SIGNATURE_CHARS: usize = 43;
/// 16 characters of `a-z`, `0-9` at most.
const KEY_ID_CHARS_MAX: usize = 16;
/// Bumped with every change of what is signed.
const VERSION: &[u8] = b"comfygate file url 1";

/// Which form of a file. This release has only the file itself; previews and channels come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As it is.
    Original,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
        }
    }
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Who pays for the file.
    pub tenant: &'a TenantId,
    /// Which file.
    pub file: FileId,
    /// Which form of it.
    pub variant: Variant,
    /// Seconds since 1970 from which on the URL is refused.
    pub expires: u64,
}

/// A signing key and its public name.
#[derive(Clone)]
pub struct SigningKey {
    id: String,
    key: hmac::Key,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// Why a signature proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A field is missing or is not what we write.
    #[error("malformed signed URL")]
    Malformed,
    /// The key is not, or not any more, one of ours.
    #[error("unknown signing key")]
    UnknownKey,
    /// Some field was changed.
    #[error("wrong signature")]
    Wrong,
    /// It was good once.
    #[error("the URL has expired")]
    Expired,
    /// It would be good for longer than we ever sign: a clock went back, or a key is misused.
    #[error("the URL expires later than any of ours")]
    TooLong,
}

/// The keys of this gateway: signs with one, accepts all.
#[derive(Debug, Clone)]
pub struct Signer {
    current: SigningKey,
    former: Vec<SigningKey>,
}

impl SigningKey {
    /// A key of 32 bytes. `None` for an id that is not 1 to 16 of `a-z`, `0-9`.
    pub fn new(id: &str, secret: &[u8; 32]) -> Option<Self> {
        let good = (1..=KEY_ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        good.then(|| Self { id: id.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, secret) })
    }

    /// The public name.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Signer {
    /// Signs with `current`; URLs signed with `former` ones stay good until they expire.
    pub fn new(current: SigningKey, former: Vec<SigningKey>) -> Self {
        Self { current, former }
    }

    /// Key id and signature of a claim, as they stand in the query.
    pub fn sign(&self, claim: &Claim<'_>) -> (&str, String) {
        let tag = hmac::sign(&self.current.key, &signed_bytes(claim, &self.current.id));
        (&self.current.id, URL_SAFE_NO_PAD.encode(tag))
    }

    /// Whether the claim carries our signature and is still good.
    ///
    /// # Errors
    /// [`SignatureError`]. Expiry is looked at last: only who had a good URL learns that it has expired. No skew is allowed: it is our own clock's.
    pub fn verify(&self, claim: &Claim<'_>, key_id: &str, signature: &str, now: WallMillis) -> Result<(), SignatureError> {
        // SECURITY: the length before the decoding, so that nothing large is decoded for a stranger.
        if signature.len() != SIGNATURE_CHARS || key_id.len() > KEY_ID_CHARS_MAX {
            return Err(SignatureError::Malformed);
        }
        let tag = URL_SAFE_NO_PAD.decode(signature).map_err(|_| SignatureError::Malformed)?;
        let mut keys = std::iter::once(&self.current).chain(&self.former);
        let key = keys.find(|key| key.id == key_id).ok_or(SignatureError::UnknownKey)?;
        // Constant in time, by ring.
        hmac::verify(&key.key, &signed_bytes(claim, key_id), &tag).map_err(|_| SignatureError::Wrong)?;
        if claim.expires <= now.seconds() {
            return Err(SignatureError::Expired);
        }
        if claim.expires > now.plus(LIFETIME_MAX).seconds() {
            return Err(SignatureError::TooLong);
        }
        Ok(())
    }
}

fn signed_bytes(claim: &Claim<'_>, key_id: &str) -> Vec<u8> {
    let (file, expires) = (claim.file.bytes(), claim.expires.to_be_bytes());
    let fields: [&[u8]; 6] =
        [VERSION, claim.tenant.as_str().as_bytes(), &file, claim.variant.name().as_bytes(), &expires, key_id.as_bytes()];
    fields.iter().flat_map(|field| (field.len() as u64).to_be_bytes().into_iter().chain(field.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMillis = WallMillis(1_000_000_000);

    fn key(id: &str, byte: u8) -> SigningKey {
        SigningKey::new(id, &[byte; 32]).unwrap()
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn claim(tenant: &TenantId, expires: u64) -> Claim<'_> {
        Claim { tenant, file: FileId::from_bytes([1; 16]), variant: Variant::Original, expires }
    }

    #[test]
    fn what_was_signed_verifies_and_any_changed_field_does_not() {
        let signer = Signer::new(key("k1", 1), vec![key("k2", 2)]);
        let (acme, bravo) = (tenant("acme"), tenant("bravo"));
        let claim = claim(&acme, 1_000_100);
        let (id, signature) = signer.sign(&claim);
        assert_eq!(signer.verify(&claim, id, &signature, NOW), Ok(()));
        let wrong = Err(SignatureError::Wrong);
        assert_eq!(signer.verify(&Claim { tenant: &bravo, ..claim }, id, &signature, NOW), wrong);
        assert_eq!(signer.verify(&Claim { file: FileId::from_bytes([2; 16]), ..claim }, id, &signature, NOW), wrong);
        assert_eq!(signer.verify(&Claim { expires: 1_000_101, ..claim }, id, &signature, NOW), wrong);
        assert_eq!(signer.verify(&claim, "k2", &signature, NOW), wrong);
        assert_eq!(signer.verify(&claim, "k3", &signature, NOW), Err(SignatureError::UnknownKey));
    }

    #[test]
    fn every_changed_bit_of_a_signature_is_noticed() {
        let signer = Signer::new(key("k1", 1), Vec::new());
        let acme = tenant("acme");
        let claim = claim(&acme, 1_000_100);
        let (id, signature) = signer.sign(&claim);
        let tag = URL_SAFE_NO_PAD.decode(&signature).unwrap();
        for bit in 0..256 {
            let mut changed = tag.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = URL_SAFE_NO_PAD.encode(changed);
            assert_eq!(signer.verify(&claim, id, &changed, NOW), Err(SignatureError::Wrong), "{bit}");
        }
        for odd in [&signature[1..], &format!("{signature}="), &"!".repeat(43), ""] {
            assert_eq!(signer.verify(&claim, id, odd, NOW), Err(SignatureError::Malformed), "{odd}");
        }
    }

    #[test]
    fn a_url_is_good_up_to_its_last_second_and_no_longer() {
        let signer = Signer::new(key("k1", 1), Vec::new());
        let acme = tenant("acme");
        let verified = |expires| {
            let claim = claim(&acme, expires);
            let (id, signature) = signer.sign(&claim);
            signer.verify(&claim, id, &signature, NOW)
        };
        assert_eq!(verified(1_000_001), Ok(()));
        assert_eq!(verified(1_000_000), Err(SignatureError::Expired));
        assert_eq!(verified(1_000_000 + LIFETIME_MAX.as_secs()), Ok(()));
        assert_eq!(verified(1_000_001 + LIFETIME_MAX.as_secs()), Err(SignatureError::TooLong));
    }

    #[test]
    fn a_former_key_still_verifies_but_does_not_sign() {
        let acme = tenant("acme");
        let claim = claim(&acme, 1_000_100);
        let old = Signer::new(key("old", 1), Vec::new());
        let (_, signature) = old.sign(&claim);
        let rotated = Signer::new(key("new", 2), vec![key("old", 1)]);
        assert_eq!(rotated.verify(&claim, "old", &signature, NOW), Ok(()));
        assert_eq!(rotated.sign(&claim).0, "new");
        assert!(!format!("{rotated:?}").contains("[1"), "no secret in Debug");
    }

    #[test]
    fn key_ids_have_1_to_16_lower_case_characters() {
        for (id, good) in [("a", true), ("abcdef0123456789", true), ("", false), ("abcdef01234567890", false), ("A", false), ("a b", false)] {
            assert_eq!(SigningKey::new(id, &[0; 32]).is_some(), good, "{id}");
        }
    }
}
