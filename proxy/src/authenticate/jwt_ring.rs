//! Signature checks of tokens: `jsonwebtoken`'s reading of PEM keys over ring's cryptography.
//!
//! `jsonwebtoken` brings no crypto of its own here: its `rust_crypto` has RUSTSEC-2023-0071, its `aws_lc_rs` adds a second C library. It asks an installed
//! [`CryptoProvider`] instead, which this file is, with the algorithms that a [`VerifyingKey`] can have and nothing else.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result as JwtResult, new_error};
use jsonwebtoken::{Algorithm as JwtAlgorithm, DecodingKey, EncodingKey};
use ring::{hmac, signature as ring_signature};
use signature::{Error as SignatureError, Verifier};
use std::sync::Once;

/// The algorithms that an issuer can be pinned to (RFC 7518 §3.1, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC-SHA-256.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits or more.
    Rs256,
    /// The same with SHA-384.
    Rs384,
    /// The same with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256, 2048 bits or more.
    Ps256,
    /// The same with SHA-384.
    Ps384,
    /// The same with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// What kind of key an algorithm takes. SECURITY: a key is only ever used with the algorithms of its own kind (RFC 8725 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// A shared secret.
    Secret,
    /// RSA.
    Rsa,
    /// A point on P-256.
    P256,
    /// A point on P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::Hs256,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// The name in `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of that name; case matters (RFC 7515 §4.1.1).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The kind of key that it takes.
    pub fn key_kind(self) -> KeyKind {
        match self {
            Self::Hs256 => KeyKind::Secret,
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => KeyKind::Rsa,
            Self::Es256 => KeyKind::P256,
            Self::Es384 => KeyKind::P384,
            Self::EdDsa => KeyKind::Ed25519,
        }
    }

    fn of_jsonwebtoken(self) -> JwtAlgorithm {
        match self {
            Self::Hs256 => JwtAlgorithm::HS256,
            Self::Rs256 => JwtAlgorithm::RS256,
            Self::Rs384 => JwtAlgorithm::RS384,
            Self::Rs512 => JwtAlgorithm::RS512,
            Self::Ps256 => JwtAlgorithm::PS256,
            Self::Ps384 => JwtAlgorithm::PS384,
            Self::Ps512 => JwtAlgorithm::PS512,
            Self::Es256 => JwtAlgorithm::ES256,
            Self::Es384 => JwtAlgorithm::ES384,
            Self::EdDsa => JwtAlgorithm::EdDSA,
        }
    }
}

/// Shortest HS256 secret in bytes: as long as the hash (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Smallest RSA modulus in bits (RFC 7518 §3.3).
pub const RSA_BITS_MIN: usize = 2048;
/// Largest that ring verifies.
pub const RSA_BITS_MAX: usize = 8192;

/// Why bytes are no key for an algorithm. Never holds any of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// HS256.
    #[error("an HS256 secret has at least {SECRET_BYTES_MIN} bytes, this has {0}")]
    SecretTooShort(usize),
    /// Somebody gave the half that only the issuer should have.
    #[error("this is a private key: give the public one (`openssl pkey -in KEY -pubout`)")]
    PrivateKey,
    /// Not PEM, or of another kind.
    #[error("no PEM public key for {0}: `-----BEGIN PUBLIC KEY-----` is wanted")]
    NotThisKind(&'static str),
    /// RSA.
    #[error("an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, this has {0}")]
    RsaBits(usize),
    /// RSA: 1 makes every text a signature, and an even one none.
    #[error("an RSA key's exponent is an odd number from 3 to 2^33 - 1, as good as always 65537")]
    RsaExponent,
}

/// A key, and one algorithm of its kind that it may be used with. `Debug` shows the algorithm only.
#[derive(Clone)]
pub struct VerifyingKey {
    algorithm: Algorithm,
    key: PublicKeyBytes,
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyingKey({})", self.algorithm.name())
    }
}

impl VerifyingKey {
    /// A key from its material: the secret itself for HS256, a PEM public key for the others.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong with the material.
    pub fn new(algorithm: Algorithm, material: &[u8]) -> Result<Self, KeyError> {
        let not_this_kind = KeyError::NotThisKind(algorithm.name());
        let kind = algorithm.key_kind();
        if kind == KeyKind::Secret {
            let long_enough = material.len() >= SECRET_BYTES_MIN;
            return if long_enough {
                Ok(Self { algorithm, key: PublicKeyBytes { kind, key: DecodingKey::from_secret(material) } })
            } else {
                Err(KeyError::SecretTooShort(material.len()))
            };
        }
        if material.windows(b"PRIVATE KEY".len()).any(|window| window == b"PRIVATE KEY") {
            return Err(KeyError::PrivateKey);
        }
        let read = match kind {
            KeyKind::Rsa => DecodingKey::from_rsa_pem(material),
            KeyKind::P256 | KeyKind::P384 => DecodingKey::from_ec_pem(material),
            _ => DecodingKey::from_ed_pem(material),
        };
        let read = read.map_err(|_| not_this_kind.clone())?;
        let bytes = read.try_get_as_bytes().map_err(|_| not_this_kind.clone())?;
        let key = PublicKeyBytes::new(kind, bytes).map_err(|error| match error {
            // Said in the operator's terms: the algorithm that was configured.
            KeyError::NotThisKind(_) => not_this_kind,
            other => other,
        })?;
        Ok(Self { algorithm, key })
    }

    /// The pinned algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether `signature` (base64url without padding) is this key's over `message` (`HEADER.CLAIMS` as received).
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        self.key.verifies(self.algorithm, message, signature)
    }
}

/// The bytes of a key and their kind, as an issuer publishes them: may serve any algorithm of that kind and no other. `Debug` shows the kind only.
#[derive(Clone)]
pub struct PublicKeyBytes {
    kind: KeyKind,
    key: DecodingKey,
}

impl std::fmt::Debug for PublicKeyBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKeyBytes({:?})", self.kind)
    }
}

/// Length of an uncompressed point: the byte 4, then both coordinates.
const P256_POINT_BYTES: usize = 65;
const P384_POINT_BYTES: usize = 97;
const ED25519_BYTES: usize = 32;

impl PublicKeyBytes {
    /// A public key from DER `RSAPublicKey`, an uncompressed point, or the 32 bytes of Ed25519. Never a shared secret.
    ///
    /// # Errors
    /// [`KeyError::RsaBits`] and [`KeyError::NotThisKind`].
    pub fn new(kind: KeyKind, bytes: &[u8]) -> Result<Self, KeyError> {
        let point = |length: usize| bytes.len() == length && bytes.first() == Some(&4);
        let key = match kind {
            KeyKind::Secret => return Err(KeyError::NotThisKind("a public key")),
            KeyKind::Rsa => {
                check_rsa(bytes, &KeyError::NotThisKind("RSA"))?;
                DecodingKey::from_rsa_der(bytes)
            }
            KeyKind::P256 if point(P256_POINT_BYTES) => DecodingKey::from_ec_der(bytes),
            KeyKind::P384 if point(P384_POINT_BYTES) => DecodingKey::from_ec_der(bytes),
            KeyKind::Ed25519 if bytes.len() == ED25519_BYTES => DecodingKey::from_ed_der(bytes),
            KeyKind::P256 => return Err(KeyError::NotThisKind("P-256")),
            KeyKind::P384 => return Err(KeyError::NotThisKind("P-384")),
            KeyKind::Ed25519 => return Err(KeyError::NotThisKind("Ed25519")),
        };
        Ok(Self { kind, key })
    }

    /// An RSA key from modulus and exponent, both big-endian (RFC 7518 §6.3.1).
    ///
    /// # Errors
    /// As [`PublicKeyBytes::new`].
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        Self::new(KeyKind::Rsa, &rsa_public_key(modulus, exponent).ok_or(KeyError::NotThisKind("RSA"))?)
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Whether `signature` is this key's over `message` by that algorithm; never by one of another kind.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        install();
        algorithm.key_kind() == self.kind
            && jsonwebtoken::crypto::verify(signature, message, &self.key, algorithm.of_jsonwebtoken()).unwrap_or(false)
    }
}

/// ring only says "no" at the first token; here the operator is told when the configuration is read, and the log when a set is.
fn check_rsa(public_key: &[u8], not_this_kind: &KeyError) -> Result<(), KeyError> {
    let (modulus, exponent) = rsa_numbers(public_key).ok_or_else(|| not_this_kind.clone())?;
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyError::RsaBits(bits));
    }
    let value = exponent.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let fits = exponent.len() <= 5 && value % 2 == 1 && (3..1 << 33).contains(&value);
    if fits { Ok(()) } else { Err(KeyError::RsaExponent) }
}

/// `n` and `e` without leading zeros, of a DER `RSAPublicKey ::= SEQUENCE { n INTEGER, e INTEGER }` (RFC 8017 §A.1.1).
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let significant = |number: &'_ [u8]| number.iter().position(|byte| *byte != 0);
    let (sequence, _) = der_value(der, 0x30)?;
    let (modulus, rest) = der_value(sequence, 0x02)?;
    let (exponent, _) = der_value(rest, 0x02)?;
    Some((modulus.get(significant(modulus)?..)?, exponent.get(significant(exponent)?..)?))
}

/// DER of `RSAPublicKey`; `None` if a number is empty or too long for one that we would take.
fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Option<Vec<u8>> {
    let body = [der_number(modulus)?, der_number(exponent)?].concat();
    der_of(0x30, &body)
}

/// A positive INTEGER: without leading zeros, but for one where the first bit is set (X.690 §8.3).
fn der_number(bytes: &[u8]) -> Option<Vec<u8>> {
    let first = bytes.iter().position(|byte| *byte != 0)?;
    let significant = bytes.get(first..)?;
    let sign: &[u8] = if significant.first()? & 0x80 == 0 { &[] } else { &[0] };
    der_of(0x02, &[sign, significant].concat())
}

fn der_of(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(content.len()).ok()?;
    let [high, low] = length.to_be_bytes();
    let head: &[u8] = match (high, low) {
        (0, 0..=0x7f) => &[tag, low],
        (0, _) => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    Some([head, content].concat())
}

/// The content of the DER value with this tag at the head of `der`, and what follows it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

/// HMAC: ring compares in constant time.
struct Hmac(hmac::Key);

impl Verifier<Vec<u8>> for Hmac {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        hmac::verify(&self.0, message, signature).map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for Hmac {
    fn algorithm(&self) -> JwtAlgorithm {
        JwtAlgorithm::HS256
    }
}

/// A public key with ring's way to verify.
struct PublicKey(JwtAlgorithm, &'static dyn ring_signature::VerificationAlgorithm, Vec<u8>);

impl Verifier<Vec<u8>> for PublicKey {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        ring_signature::UnparsedPublicKey::new(self.1, &self.2)
            .verify(message, signature)
            .map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for PublicKey {
    fn algorithm(&self) -> JwtAlgorithm {
        self.0
    }
}

fn verifier(algorithm: &JwtAlgorithm, key: &DecodingKey) -> JwtResult<Box<dyn JwtVerifier>> {
    let material = key.try_get_as_bytes()?;
    let way: &'static dyn ring_signature::VerificationAlgorithm = match algorithm {
        JwtAlgorithm::HS256 => return Ok(Box::new(Hmac(hmac::Key::new(hmac::HMAC_SHA256, material)))),
        JwtAlgorithm::RS256 => &ring_signature::RSA_PKCS1_2048_8192_SHA256,
        JwtAlgorithm::RS384 => &ring_signature::RSA_PKCS1_2048_8192_SHA384,
        JwtAlgorithm::RS512 => &ring_signature::RSA_PKCS1_2048_8192_SHA512,
        JwtAlgorithm::PS256 => &ring_signature::RSA_PSS_2048_8192_SHA256,
        JwtAlgorithm::PS384 => &ring_signature::RSA_PSS_2048_8192_SHA384,
        JwtAlgorithm::PS512 => &ring_signature::RSA_PSS_2048_8192_SHA512,
        JwtAlgorithm::ES256 => &ring_signature::ECDSA_P256_SHA256_FIXED,
        JwtAlgorithm::ES384 => &ring_signature::ECDSA_P384_SHA384_FIXED,
        JwtAlgorithm::EdDSA => &ring_signature::ED25519,
        _ => return Err(new_error(ErrorKind::InvalidAlgorithm)),
    };
    Ok(Box::new(PublicKey(*algorithm, way, material.to_vec())))
}

/// The gateway issues no tokens.
fn signer(_: &JwtAlgorithm, _: &EncodingKey) -> JwtResult<Box<dyn JwtSigner>> {
    Err(new_error(ErrorKind::InvalidAlgorithm))
}

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Makes ours the process's provider; without one the first check would panic.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that one is installed already; there is no other crate here that would.
        let _ = PROVIDER.install_default();
    });
}
