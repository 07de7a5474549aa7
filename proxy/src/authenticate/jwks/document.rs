//! A key set as an issuer publishes it, read into keys that may be used.
//!
//! What can't be used is left out and told, as RFC 7517 §5 asks; what is ambiguous is left out too. So a set may be read and hold nothing: then no token of this issuer is good.

use crate::authenticate::jwt_ring::{Algorithm, KeyKind, PublicKeyBytes};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};

/// Longest document in bytes: a hundred keys with their certificate chains stay below it.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Most keys in a set. Issuers publish two to ten.
pub const KEYS_MAX: usize = 100;
/// Longest `kid` in bytes: issuers use UUIDs and hashes.
pub const KID_BYTES_MAX: usize = 256;

/// Of the keys that are left out, so many are told.
const LEFT_OUT_TOLD: usize = 10;

/// Why a document is no key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// HTML, a truncated answer, a key of another form.
    #[error("is no key set (JSON with a list `keys`): {0}")]
    Malformed(String),
    /// Over [`KEYS_MAX`].
    #[error("has {0} keys; at most {KEYS_MAX} are read")]
    TooManyKeys(usize),
}

/// One key of a set that may check signatures.
#[derive(Debug, Clone)]
struct SetKey {
    kid: Option<String>,
    /// From `alg`; absent: any that fits the kind of key.
    algorithm: Option<Algorithm>,
    key: PublicKeyBytes,
}

impl SetKey {
    fn fits(&self, algorithm: Algorithm) -> bool {
        self.key.kind() == algorithm.key_kind() && self.algorithm.is_none_or(|only| only == algorithm)
    }
}

/// The usable keys of one document.
#[derive(Debug, Clone, Default)]
pub struct Document {
    keys: Vec<SetKey>,
    left_out: Vec<String>,
}

/// What a set says to a token's header.
#[derive(Debug)]
pub enum Choice<'s> {
    /// This key, with the token's algorithm.
    Key(&'s PublicKeyBytes),
    /// No key has that `kid`: a newer set may.
    UnknownKid,
    /// The key is there and of another kind, or for another algorithm: no newer set helps.
    WrongAlgorithm,
    /// The token names no key, and not exactly one fits.
    Ambiguous,
}

#[derive(Deserialize)]
struct RawDocument<'d> {
    #[serde(borrow)]
    keys: Vec<&'d RawValue>,
}

/// A JWK (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2). serde refuses a member that stands twice.
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// Of a private key; only its presence counts.
    d: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document of at most [`DOCUMENT_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`DocumentError`]: the whole is no key set. Single keys that can't be used are left out instead.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let raw: RawDocument<'_> =
            serde_json::from_slice(bytes).map_err(|error| DocumentError::Malformed(shown(&error.to_string())))?;
        if raw.keys.len() > KEYS_MAX {
            return Err(DocumentError::TooManyKeys(raw.keys.len()));
        }
        let mut document = Self::default();
        for (place, raw) in raw.keys.iter().enumerate() {
            match usable(raw.get()) {
                Ok(key) => document.keys.push(key),
                Err(why) => document.left_out.push(format!("key {place}: {why}")),
            }
        }
        document.leave_out_repeated();
        Ok(document)
    }

    /// SECURITY: of two keys with one `kid` neither is used: which of them counted would depend on their order.
    fn leave_out_repeated(&mut self) {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for kid in self.keys.iter().filter_map(|key| key.kid.as_deref()) {
            *counts.entry(kid).or_default() += 1;
        }
        let repeated: HashSet<String> =
            counts.into_iter().filter(|(_, count)| *count > 1).map(|(kid, _)| kid.to_owned()).collect();
        self.keys.retain(|key| key.kid.as_ref().is_none_or(|kid| !repeated.contains(kid)));
        self.left_out.extend(repeated.iter().map(|kid| format!("more than one key has the kid `{}`", shown(kid))));
    }

    /// The key for a token with that `kid` and algorithm.
    pub fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> Choice<'_> {
        let mut fitting = self.keys.iter().filter(|key| key.fits(algorithm));
        match kid {
            Some(kid) => match self.keys.iter().find(|key| key.kid.as_deref() == Some(kid)) {
                Some(key) if key.fits(algorithm) => Choice::Key(&key.key),
                Some(_) => Choice::WrongAlgorithm,
                None => Choice::UnknownKid,
            },
            None => match (fitting.next(), fitting.next()) {
                (Some(only), None) => Choice::Key(&only.key),
                _ => Choice::Ambiguous,
            },
        }
    }

    /// How many keys may be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key may be used.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What was left out and why, for the log: the first ten.
    pub fn left_out(&self) -> &[String] {
        self.left_out.get(..LEFT_OUT_TOLD).unwrap_or(&self.left_out)
    }
}

/// Text of a stranger for the log: short, without control characters. Errors of the parser repeat what they found.
fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_default).collect()
}

fn usable(raw: &str) -> Result<SetKey, String> {
    let raw: RawKey =
        serde_json::from_str(raw).map_err(|error| format!("can't be read: {}", shown(&error.to_string())))?;
    if raw.d.is_some() {
        return Err("is a private key: whoever reads the set can sign".to_owned());
    }
    if raw.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Err("its `use` is not `sig`".to_owned());
    }
    if raw.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
        return Err("its `key_ops` lack `verify`".to_owned());
    }
    if raw.kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > KID_BYTES_MAX) {
        return Err(format!("its `kid` is empty or longer than {KID_BYTES_MAX} bytes"));
    }
    let key = public_key(&raw)?;
    let algorithm = match raw.alg.as_deref() {
        None => None,
        Some(name) => match Algorithm::from_name(name) {
            Some(algorithm) if algorithm.key_kind() == key.kind() => Some(algorithm),
            _ => return Err(format!("its `alg` `{}` does not fit the key or is not known", shown(name))),
        },
    };
    Ok(SetKey { kid: raw.kid, algorithm, key })
}

fn public_key(raw: &RawKey) -> Result<PublicKeyBytes, String> {
    let made = match (raw.kty.as_str(), raw.crv.as_deref()) {
        ("RSA", _) => PublicKeyBytes::rsa(&decoded(&raw.n, "n")?, &decoded(&raw.e, "e")?),
        ("EC", Some("P-256")) => PublicKeyBytes::new(KeyKind::P256, &point(raw, 32)?),
        ("EC", Some("P-384")) => PublicKeyBytes::new(KeyKind::P384, &point(raw, 48)?),
        ("OKP", Some("Ed25519")) => PublicKeyBytes::new(KeyKind::Ed25519, &decoded(&raw.x, "x")?),
        // SECURITY: `oct`, a shared secret, is among these: what everybody can fetch proves nothing.
        (kty, crv) => {
            return Err(format!("its kind `{} {}` is not used here", shown(kty), shown(crv.unwrap_or_default())));
        }
    };
    made.map_err(|error| error.to_string())
}

/// An uncompressed point; both coordinates have their full length (RFC 7518 §6.2.1.2), so that no two texts are one key.
fn point(raw: &RawKey, length: usize) -> Result<Vec<u8>, String> {
    let (x, y) = (decoded(&raw.x, "x")?, decoded(&raw.y, "y")?);
    if x.len() != length || y.len() != length {
        return Err(format!("its coordinates do not have {length} bytes"));
    }
    Ok([&[4], x.as_slice(), y.as_slice()].concat())
}

fn decoded(member: &Option<String>, name: &str) -> Result<Vec<u8>, String> {
    let text = member.as_ref().ok_or_else(|| format!("`{name}` is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("`{name}` is no base64url"))
}

#[cfg(test)]
pub(in crate::authenticate) mod tests {
    use super::*;
    use crate::authenticate::jwt_ring::VerifyingKey;
    use serde_json::{Value, json};

    /// The modulus of `fixtures/rsa2048.pub.pem` and of `rsa1024.pub.pem`, taken from their DER.
    fn modulus(pem: &str, bytes: usize) -> String {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
        // The exponent's TLV (02 03 01 00 01) stands last; before it the modulus.
        let end = der.len() - 5;
        URL_SAFE_NO_PAD.encode(&der[end - bytes..end])
    }

    pub(in crate::authenticate) fn rsa_2048() -> Value {
        let n = modulus(include_str!("../jwt/fixtures/rsa2048.pub.pem"), 256);
        json!({"kty": "RSA", "n": n, "e": "AQAB"})
    }

    fn rsa_1024() -> Value {
        json!({"kty": "RSA", "n": modulus(include_str!("../jwt/fixtures/rsa1024.pub.pem"), 128), "e": "AQAB"})
    }

    fn ed25519() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([7; 32])})
    }

    fn p256() -> Value {
        let number = URL_SAFE_NO_PAD.encode([7; 32]);
        json!({"kty": "EC", "crv": "P-256", "x": number, "y": number})
    }

    fn with(mut key: Value, members: Value) -> Value {
        for (name, value) in members.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    fn set(keys: Value) -> Document {
        Document::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap()
    }

    fn is_key(choice: &Choice<'_>) -> bool {
        matches!(choice, Choice::Key(_))
    }

    #[test]
    fn an_rsa_key_of_a_set_checks_what_openssl_signed() {
        let document = set(json!([with(rsa_2048(), json!({"kid": "a"}))]));
        let Choice::Key(key) = document.choose(Some("a"), Algorithm::Rs256) else { panic!("no key") };
        let token = include_str!("../jwt/fixtures/rs256.jwt");
        let (message, signature) = token.rsplit_once('.').unwrap();
        assert!(key.verifies(Algorithm::Rs256, message.as_bytes(), signature));
        assert!(!key.verifies(Algorithm::Rs384, message.as_bytes(), signature));
        assert!(!key.verifies(Algorithm::Ps256, message.as_bytes(), signature));
        // The same key read from PEM.
        let pem = include_bytes!("../jwt/fixtures/rsa2048.pub.pem");
        assert!(VerifyingKey::new(Algorithm::Rs256, pem).unwrap().verifies(message.as_bytes(), signature));
    }

    #[test]
    fn a_p_384_key_of_a_set_checks_es384_and_not_es256() {
        use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
        let random = ring::rand::SystemRandom::new();
        let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, private.as_ref(), &random).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(48);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let document = set(json!([{"kty": "EC", "crv": "P-384", "x": x, "y": y, "kid": "a"}]));
        assert!(matches!(document.choose(Some("a"), Algorithm::Es256), Choice::WrongAlgorithm));
        let Choice::Key(key) = document.choose(Some("a"), Algorithm::Es384) else { panic!("no key") };
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(&random, b"x.y").unwrap());
        assert!(key.verifies(Algorithm::Es384, b"x.y", &signature));
        assert!(!key.verifies(Algorithm::Es384, b"x.z", &signature));
        assert!(!key.verifies(Algorithm::Es256, b"x.y", &signature));
    }

    #[test]
    fn a_kid_leads_to_its_key_and_another_one_to_none() {
        let document = set(json!([with(ed25519(), json!({"kid": "a"})), with(p256(), json!({"kid": "b"}))]));
        assert!(is_key(&document.choose(Some("a"), Algorithm::EdDsa)));
        assert!(matches!(document.choose(Some("c"), Algorithm::EdDsa), Choice::UnknownKid));
        assert!(matches!(document.choose(Some("b"), Algorithm::EdDsa), Choice::WrongAlgorithm));
        assert!(matches!(document.choose(Some("a"), Algorithm::Hs256), Choice::WrongAlgorithm));
    }

    #[test]
    fn a_token_without_kid_is_good_if_exactly_one_key_fits() {
        let document = set(json!([ed25519(), with(p256(), json!({"kid": "b"}))]));
        assert!(is_key(&document.choose(None, Algorithm::EdDsa)));
        assert!(is_key(&document.choose(None, Algorithm::Es256)));
        assert!(matches!(document.choose(None, Algorithm::Rs256), Choice::Ambiguous));
        let two = set(json!([ed25519(), with(ed25519(), json!({"kid": "b"}))]));
        assert!(matches!(two.choose(None, Algorithm::EdDsa), Choice::Ambiguous));
    }

    #[test]
    fn a_key_without_kid_is_no_answer_to_a_token_with_one() {
        let document = set(json!([ed25519()]));
        assert!(matches!(document.choose(Some("a"), Algorithm::EdDsa), Choice::UnknownKid));
    }

    #[test]
    fn two_keys_with_one_kid_are_both_left_out_and_others_stay() {
        let repeated = with(ed25519(), json!({"kid": "a"}));
        let document = set(json!([repeated, with(p256(), json!({"kid": "a"})), with(p256(), json!({"kid": "b"}))]));
        assert_eq!(document.len(), 1);
        assert!(matches!(document.choose(Some("a"), Algorithm::EdDsa), Choice::UnknownKid));
        assert!(is_key(&document.choose(Some("b"), Algorithm::Es256)));
        assert!(document.left_out()[0].contains("more than one key has the kid `a`"));
        // One of the two is for encryption: then there is no doubt.
        let encrypts = with(p256(), json!({"kid": "a", "use": "enc"}));
        assert!(is_key(&set(json!([repeated, encrypts])).choose(Some("a"), Algorithm::EdDsa)));
    }

    #[test]
    fn use_and_key_ops_and_alg_say_what_a_key_is_for() {
        let usable = |members: Value| set(json!([with(rsa_2048(), members)])).len() == 1;
        assert!(usable(json!({"use": "sig", "key_ops": ["verify"], "alg": "PS256"})));
        assert!(usable(json!({"key_ops": ["sign", "verify"]})));
        assert!(!usable(json!({"use": "enc"})));
        assert!(!usable(json!({"key_ops": ["encrypt"]})));
        assert!(!usable(json!({"alg": "RSA-OAEP"})));
        assert!(!usable(json!({"alg": "ES256"})));
        assert!(!usable(json!({"alg": "HS256"})));
        let pinned = set(json!([with(rsa_2048(), json!({"alg": "RS512"}))]));
        assert!(is_key(&pinned.choose(None, Algorithm::Rs512)));
        assert!(matches!(pinned.choose(None, Algorithm::Rs256), Choice::Ambiguous));
    }

    #[test]
    fn secrets_private_weak_and_unknown_keys_are_left_out() {
        for key in [
            json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 64])}),
            with(ed25519(), json!({"d": URL_SAFE_NO_PAD.encode([7; 32])})),
            rsa_1024(),
            with(p256(), json!({"crv": "secp256k1"})),
            with(p256(), json!({"x": URL_SAFE_NO_PAD.encode([7; 31])})),
            with(p256(), json!({"y": URL_SAFE_NO_PAD.encode([7; 33])})),
            with(ed25519(), json!({"x": URL_SAFE_NO_PAD.encode([7; 31])})),
            with(rsa_2048(), json!({"n": ""})),
            with(rsa_2048(), json!({"e": ""})),
            with(rsa_2048(), json!({"n": "not base64"})),
            with(ed25519(), json!({"kid": ""})),
            with(ed25519(), json!({"kid": "k".repeat(KID_BYTES_MAX + 1)})),
            with(ed25519(), json!({"kid": 7})),
            json!({}),
            json!(7),
        ] {
            let document = set(json!([key.clone(), ed25519()]));
            assert_eq!((document.len(), document.left_out().len()), (1, 1), "{key}");
        }
        assert_eq!(set(json!([with(ed25519(), json!({"kid": "k".repeat(KID_BYTES_MAX)}))])).len(), 1);
    }

    #[test]
    fn a_hundred_keys_are_read_and_one_more_is_not() {
        let keys = |count: usize| {
            let keys: Vec<Value> = (0..count).map(|n| with(ed25519(), json!({"kid": n.to_string()}))).collect();
            Document::parse(json!({"keys": keys}).to_string().as_bytes())
        };
        assert_eq!(keys(KEYS_MAX).unwrap().len(), KEYS_MAX);
        assert_eq!(keys(KEYS_MAX + 1).unwrap_err(), DocumentError::TooManyKeys(KEYS_MAX + 1));
    }

    #[test]
    fn what_is_told_of_a_strange_document_is_short() {
        let odd = with(ed25519(), json!({"key_ops": "x".repeat(100_000)}));
        let document = set(Value::Array(vec![odd; 20]));
        assert_eq!((document.len(), document.left_out().len()), (0, LEFT_OUT_TOLD));
        assert!(document.left_out().iter().all(|line| line.len() < 300));
        let malformed = Document::parse(json!({"keys": "x".repeat(100_000)}).to_string().as_bytes()).unwrap_err();
        assert!(malformed.to_string().len() < 400);
    }

    #[test]
    fn an_rsa_exponent_is_an_odd_number_that_checks_something() {
        let takes = |exponent: &[u8]| {
            let set = set(json!([with(rsa_2048(), json!({"e": URL_SAFE_NO_PAD.encode(exponent)}))]));
            assert!(set.len() == 1 || set.left_out()[0].contains("exponent") || set.left_out()[0].contains("RSA"));
            set.len() == 1
        };
        assert!(takes(&[1, 0, 1]) && takes(&[3]) && takes(&[0, 0, 3]) && takes(&[1, 0xff, 0xff, 0xff, 0xff]));
        for exponent in [&[1][..], &[0], &[], &[2], &[1, 0, 0], &[2, 0, 0, 0, 1], &[1; 9], &[0xff; 256]] {
            assert!(!takes(exponent), "{exponent:?}");
        }
    }

    #[test]
    fn a_modulus_has_2048_to_8192_bits() {
        let takes = |bytes: usize| {
            let modulus = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
            set(json!([{"kty": "RSA", "n": modulus, "e": "AQAB"}])).len() == 1
        };
        assert!(takes(256) && takes(1024));
        assert!(!takes(255) && !takes(1025) && !takes(0) && !takes(100_000));
    }

    #[test]
    fn what_is_no_key_set_is_refused_as_a_whole_and_an_empty_set_is_one() {
        for text in ["", "<html></html>", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[]", "{\"keys\":[],\"keys\":[]}"] {
            assert!(matches!(Document::parse(text.as_bytes()), Err(DocumentError::Malformed(_))), "{text}");
        }
        assert!(set(json!([])).is_empty());
    }
}
