//! What a signed URL covers, and the HMAC-SHA256 over it (RFC 2104). Pure.

use super::signing_key::SigningKey;
use crate::ids::{FileId, TenantId};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

/// The layout below; another layout gets another number, so that no signature of one is valid in the other.
const VERSION: u8 = 1;
/// 32 bytes in base64 without padding.
pub const SIGNATURE_CHARS: usize = 43;

/// Everything that decides what a URL opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims<'a> {
    /// Whose file.
    pub tenant: &'a TenantId,
    /// Which.
    pub file: FileId,
    /// Which form of it: `original`.
    pub variant: &'a str,
    /// Until when, in seconds since 1970; not at that second any more.
    pub expires: u64,
}

impl Claims<'_> {
    /// The signature, in base64 for URLs.
    pub fn signed(&self, key: &SigningKey) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(key.key(), &self.bytes(key.id())))
    }

    /// Whether `signature` is that of these claims; in constant time once its length fits.
    pub fn verifies(&self, key: &SigningKey, signature: &str) -> bool {
        if signature.len() != SIGNATURE_CHARS {
            return false;
        }
        match URL_SAFE_NO_PAD.decode(signature) {
            Ok(signature) => hmac::verify(key.key(), &self.bytes(key.id()), &signature).is_ok(),
            Err(_) => false,
        }
    }

    /// Each field with its length before it, so that no two lists of fields have the same bytes.
    fn bytes(&self, key_id: &str) -> Vec<u8> {
        let fields: [&[u8]; 5] = [
            self.tenant.as_str().as_bytes(),
            &self.file.bytes(),
            self.variant.as_bytes(),
            &self.expires.to_be_bytes(),
            key_id.as_bytes(),
        ];
        let mut bytes = vec![VERSION];
        for field in fields {
            bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::signing_key::tests::keys;
    use super::*;

    #[test]
    fn a_signature_holds_for_its_own_claims_and_no_other() {
        let keys = keys(&["00000001", "00000002"]);
        let (key, other_key) = (keys.find("00000001").unwrap(), keys.find("00000002").unwrap());
        let (tenant, other_tenant): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let claims = Claims { tenant: &tenant, file: FileId::new(), variant: "original", expires: 100 };
        let signature = claims.signed(key);
        assert_eq!(signature.len(), SIGNATURE_CHARS);
        assert!(claims.verifies(key, &signature));
        for changed in [
            Claims { tenant: &other_tenant, ..claims },
            Claims { file: FileId::new(), ..claims },
            Claims { variant: "preview", ..claims },
            Claims { expires: 101, ..claims },
        ] {
            assert!(!changed.verifies(key, &signature), "{changed:?}");
        }
        assert!(!claims.verifies(other_key, &signature));
    }

    #[test]
    fn a_signature_with_one_character_changed_cut_or_added_is_none() {
        let keys = keys(&["00000001"]);
        let key = keys.current().unwrap();
        let tenant: TenantId = "a".parse().unwrap();
        let claims = Claims { tenant: &tenant, file: FileId::new(), variant: "original", expires: 100 };
        let signature = claims.signed(key);
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        assert!(!claims.verifies(key, &format!("{flipped}{}", &signature[1..])));
        assert!(!claims.verifies(key, &signature[1..]));
        assert!(!claims.verifies(key, &format!("{signature}A")));
        assert!(!claims.verifies(key, &signature.replace(&signature[..1], "+")));
    }
}
