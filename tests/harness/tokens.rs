//! JSON Web Tokens as an identity provider signs them, and as an attacker alters them.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// SubjectPublicKeyInfo before an uncompressed P-256 point (RFC 5480).
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// SubjectPublicKeyInfo before an Ed25519 key (RFC 8410).
const ED25519_SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A signing key of one algorithm.
#[derive(Debug)]
pub enum Signer {
    /// A shared secret.
    Hs256(Vec<u8>),
    /// RSA, PKCS #1 v1.5.
    Rs256(Box<rsa::KeyPair>, String),
    /// ECDSA over P-256.
    Es256(EcdsaKeyPair),
    /// Ed25519.
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    /// A fresh key for HS256.
    pub fn hs256() -> Signer {
        Signer::Hs256(b"0123456789abcdef0123456789abcdef-only-for-tests".to_vec())
    }

    /// A fresh key for RS256, made by the openssl command; `None` where that is missing.
    pub fn rs256() -> Option<Signer> {
        let openssl = |arguments: &[&str], input: &[u8]| {
            use std::io::Write;
            use std::process::Stdio;
            let mut command = Command::new("openssl");
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().ok()?;
            child.stdin.take()?.write_all(input).ok()?;
            let done = child.wait_with_output().ok()?;
            done.status.success().then_some(done.stdout)
        };
        let private =
            openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER"], b"")?;
        // RFC 5208 whichever form the tool's version prefers.
        let private = openssl(&["pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-outform", "DER"], &private)?;
        let public = openssl(&["pkey", "-inform", "DER", "-pubout"], &private)?;
        let pair = rsa::KeyPair::from_pkcs8(&private).ok()?;
        Some(Signer::Rs256(Box::new(pair), String::from_utf8(public).ok()?))
    }

    /// A fresh key for ES256.
    pub fn es256() -> Signer {
        let random = SystemRandom::new();
        let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Signer::Es256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref(), &random).unwrap())
    }

    /// A fresh key for EdDSA.
    pub fn eddsa() -> Signer {
        let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::EdDsa(Ed25519KeyPair::from_pkcs8(private.as_ref()).unwrap())
    }

    /// The name of its algorithm.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Signer::Hs256(_) => "HS256",
            Signer::Rs256(..) => "RS256",
            Signer::Es256(_) => "ES256",
            Signer::EdDsa(_) => "EdDSA",
        }
    }

    /// What the gateway is configured with: the public key in PEM, or the secret.
    pub fn verifier(&self) -> String {
        match self {
            Signer::Hs256(secret) => String::from_utf8(secret.clone()).unwrap(),
            Signer::Rs256(_, pem) => pem.clone(),
            Signer::Es256(pair) => pem(P256_SPKI, pair.public_key().as_ref()),
            Signer::EdDsa(pair) => pem(ED25519_SPKI, pair.public_key().as_ref()),
        }
    }

    /// The public key as a member of a key set (RFC 7517), without `kid`.
    ///
    /// # Panics
    /// For HS256, whose secret is never published.
    pub fn public_jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Signer::Hs256(_) => panic!("a secret is not published"),
            Signer::Rs256(pair, _) => {
                let parts: rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "n": text(&parts.n), "e": text(&parts.e)})
            }
            Signer::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..65])})
            }
            Signer::EdDsa(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())}),
        }
    }

    /// The `[[jwt]]` entry of an issuer with this key, which is to lie in `file`.
    pub fn configuration(&self, issuer: &str, file: &str) -> String {
        let key = match self {
            Signer::Hs256(_) => format!("secret = \"file:{file}\""),
            _ => format!("key_file = \"{file}\""),
        };
        format!(
            "[[jwt]]\nissuer = \"{issuer}\"\naudience = \"comfygate\"\nalgorithms = [\"{}\"]\n{key}\ntenant_claim = \"org_id\"\n",
            self.algorithm(),
        )
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Hs256(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec(),
            Signer::Rs256(pair, _) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Signer::Es256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// Signs claims under a header of its algorithm.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "typ": "JWT"}), claims)
    }

    /// Signs claims under any header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.signature(message.as_bytes())))
    }
}

/// Header and claims in the compact form, without the last dot and signature.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// Claims that are good for five minutes.
pub fn claims(issuer: &str, tenant: &str) -> Value {
    let now = now();
    json!({"iss": issuer, "aud": "comfygate", "sub": "ada", "org_id": tenant, "iat": now, "nbf": now - 30, "exp": now + 300})
}

/// The same claims with some of them replaced; null takes a claim away.
#[must_use]
pub fn altered(claims: &Value, changes: &Value) -> Value {
    let mut altered = claims.clone();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(altered.as_object_mut().unwrap().remove(name)),
            value => altered[name] = value.clone(),
        }
    }
    altered
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn pem(prefix: &[u8], key: &[u8]) -> String {
    let encoded = STANDARD.encode([prefix, key].concat());
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}
