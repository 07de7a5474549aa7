use super::*;
use crate::authenticate::jwt_ring::{KeyError, VerifyingKey};
use crate::clock::WallMillis;
use crate::config::CreateConfig;
use crate::tenants::TenantRegistry;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::json;

pub(super) const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
/// 2027-01-15T08:00:00Z.
pub(super) const NOW: u64 = 1_800_000_000;
/// Made once with `openssl genrsa 2048` and `openssl dgst -sha256 -sign`; the private key is gone. Expires in 2100.
pub(super) const RS256_TOKEN: &str = include_str!("fixtures/rs256.jwt");
pub(super) const RSA_2048: &[u8] = include_bytes!("fixtures/rsa2048.pub.pem");
const RSA_1024: &[u8] = include_bytes!("fixtures/rsa1024.pub.pem");

pub(super) fn path(text: &str) -> ClaimPath {
    text.parse().unwrap()
}

pub(super) fn issuer(key: VerifyingKey) -> JwtIssuerConfig {
    JwtIssuerConfig {
        issuer: "https://id.example/".into(),
        audience: "comfygate".into(),
        keys: IssuerKeys::Fixed(key),
        tenant_claim: path("org"),
        unknown_tenant: UnknownTenant::Refuse,
        user_claim: path("sub"),
        scope_claim: None,
        leeway: Duration::from_secs(60),
    }
}

pub(super) fn hs256() -> JwtIssuerConfig {
    issuer(VerifyingKey::new(Algorithm::Hs256, SECRET).unwrap())
}

pub(super) fn claims() -> Value {
    json!({"iss": "https://id.example/", "aud": "comfygate", "exp": NOW + 300, "sub": "u1", "org": "local"})
}

pub(super) fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token signed by `sign`.
pub(super) fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

pub(super) fn by_secret(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

pub(super) fn hs_token(header: &Value, claims: &Value) -> String {
    token(header, claims, |message| by_secret(SECRET, message))
}

fn check(token: &str, issuer: JwtIssuerConfig) -> Result<JwtIdentity, JwtError> {
    let clock = Clock::turned_by_hand(WallMillis(NOW * 1000));
    let IssuerKeys::Fixed(key) = issuer.keys.clone() else { panic!("the tests here are of fixed keys") };
    let issuer = Issuer { config: issuer, keys: Keys::Fixed(key) };
    let tenants = AllTenants::of_the_file(TenantRegistry::built_in());
    let checked = identity(token, &[issuer], &tenants, &clock).now_or_never();
    checked.expect("a fixed key is never waited for").map(|(identity, _)| identity)
}

pub(super) fn hs_header() -> Value {
    json!({"alg": "HS256", "typ": "JWT"})
}

/// What becomes of a good token with one claim changed (`null`: taken away).
fn with_claim(name: &str, value: Value) -> Result<JwtIdentity, JwtError> {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    check(&hs_token(&hs_header(), &claims), hs256())
}

/// PEM of a public key from its raw bytes and the DER that stands before them.
pub(super) fn pem(prefix: &[u8], key: &[u8]) -> String {
    let der = base64::engine::general_purpose::STANDARD.encode([prefix, key].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
}

pub(super) const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
pub(super) const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

#[test]
fn a_good_hs256_token_names_tenant_user_and_a_clients_scopes() {
    let found = check(&hs_token(&hs_header(), &claims()), hs256()).unwrap();
    assert_eq!((found.tenant.id().as_str(), found.user.as_str(), found.scopes), ("local", "u1", Scopes::of_a_client()));
}

#[test]
fn a_token_signed_by_openssl_with_rsa_is_taken_and_with_one_bit_changed_not() {
    let key = || issuer(VerifyingKey::new(Algorithm::Rs256, RSA_2048).unwrap());
    assert_eq!(check(RS256_TOKEN, key()).unwrap().user.as_str(), "u1");
    let (message, signature) = RS256_TOKEN.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[100] ^= 1;
    let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes));
    assert_eq!(check(&forged, key()), Err(JwtError::WrongSignature));
}

#[test]
fn ed25519_tokens_are_taken_from_their_key_only() {
    let pair =
        || Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref()).unwrap();
    let (ours, other) = (pair(), pair());
    let key = || {
        issuer(VerifyingKey::new(Algorithm::EdDsa, pem(&ED25519_SPKI, ours.public_key().as_ref()).as_bytes()).unwrap())
    };
    let signed = |pair: &Ed25519KeyPair| {
        token(&json!({"alg": "EdDSA"}), &claims(), |message| pair.sign(message).as_ref().to_vec())
    };
    assert!(check(&signed(&ours), key()).is_ok());
    assert_eq!(check(&signed(&other), key()), Err(JwtError::WrongSignature));
}

#[test]
fn es256_tokens_are_taken_from_their_key_only() {
    let random = SystemRandom::new();
    let pair = || {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap()
    };
    let (ours, other) = (pair(), pair());
    let key =
        || issuer(VerifyingKey::new(Algorithm::Es256, pem(&P256_SPKI, ours.public_key().as_ref()).as_bytes()).unwrap());
    let signed = |pair: &EcdsaKeyPair| {
        token(&json!({"alg": "ES256"}), &claims(), |message| pair.sign(&random, message).unwrap().as_ref().to_vec())
    };
    assert!(check(&signed(&ours), key()).is_ok());
    assert_eq!(check(&signed(&other), key()), Err(JwtError::WrongSignature));
}

#[test]
fn a_key_is_refused_when_it_is_weak_private_or_of_another_kind() {
    assert_eq!(VerifyingKey::new(Algorithm::Rs256, RSA_1024).unwrap_err(), KeyError::RsaBits(1024));
    assert_eq!(VerifyingKey::new(Algorithm::Hs256, &SECRET[..31]).unwrap_err(), KeyError::SecretTooShort(31));
    assert_eq!(VerifyingKey::new(Algorithm::Es256, RSA_2048).unwrap_err(), KeyError::NotThisKind("ES256"));
    assert_eq!(VerifyingKey::new(Algorithm::EdDsa, b"junk").unwrap_err(), KeyError::NotThisKind("EdDSA"));
    let private = b"-----BEGIN PRIVATE KEY-----\n";
    assert_eq!(VerifyingKey::new(Algorithm::Rs256, private).unwrap_err(), KeyError::PrivateKey);
}

#[test]
fn the_token_never_chooses_the_algorithm() {
    for alg in ["none", "None", "RS256", "HS384", "hs256", ""] {
        let header = json!({"alg": alg});
        assert_eq!(
            check(&hs_token(&header, &claims()), hs256()),
            Err(JwtError::WrongAlgorithm { wanted: "HS256" }),
            "{alg}"
        );
    }
    assert_eq!(check(&hs_token(&json!({}), &claims()), hs256()), Err(JwtError::WrongAlgorithm { wanted: "HS256" }));
    // The classic: the public key, which everybody has, as an HMAC secret.
    let forged = token(&hs_header(), &claims(), |message| by_secret(RSA_2048, message));
    let rsa = issuer(VerifyingKey::new(Algorithm::Rs256, RSA_2048).unwrap());
    assert_eq!(check(&forged, rsa), Err(JwtError::WrongAlgorithm { wanted: "RS256" }));
}

#[test]
fn a_header_that_brings_a_key_or_an_extension_is_refused() {
    for field in ["crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc"] {
        let mut header = hs_header();
        header[field] = json!("x");
        assert_eq!(check(&hs_token(&header, &claims()), hs256()), Err(JwtError::HeaderField(field)), "{field}");
    }
    let mut header = hs_header();
    header["kid"] = json!("k1");
    assert!(check(&hs_token(&header, &claims()), hs256()).is_ok());
}

#[test]
fn a_signature_of_another_secret_or_none_is_refused() {
    let other = token(&hs_header(), &claims(), |message| by_secret(b"another secret of thirty-two byte", message));
    assert_eq!(check(&other, hs256()), Err(JwtError::WrongSignature));
    let none = token(&hs_header(), &claims(), |_| Vec::new());
    assert_eq!(check(&none, hs256()), Err(JwtError::WrongSignature));
}

#[test]
fn what_is_not_three_parts_of_base64url_json_is_malformed() {
    let good = hs_token(&hs_header(), &claims());
    for text in ["", "a", "a.b", ".", "..", "a.b.c.d", &format!("{good}.x"), &good.replacen('.', "=.", 1)] {
        assert!(matches!(check(text, hs256()), Err(JwtError::Parts(PartsError::Malformed(_)))), "{text}");
    }
}

#[test]
fn a_token_of_8192_bytes_is_read_and_one_more_is_not() {
    let mut claims = claims();
    claims["pad"] = json!("");
    let bare = hs_token(&hs_header(), &claims).len();
    // Three bytes of padding are four characters; the last characters come from the length of the rest.
    let of_length = |wanted: usize| {
        let guess = (wanted - bare) * 3 / 4;
        (guess - 4..guess + 4).map(|n| {
            let mut padded = claims.clone();
            padded["pad"] = json!("x".repeat(n));
            hs_token(&hs_header(), &padded)
        })
    };
    let longest =
        of_length(TOKEN_BYTES_MAX).filter(|token| token.len() <= TOKEN_BYTES_MAX).max_by_key(String::len).unwrap();
    assert!(check(&longest, hs256()).is_ok());
    let shortest_over =
        of_length(TOKEN_BYTES_MAX).filter(|token| token.len() > TOKEN_BYTES_MAX).min_by_key(String::len).unwrap();
    assert!(matches!(check(&shortest_over, hs256()), Err(JwtError::Parts(PartsError::TooLong(_)))));
}

#[test]
fn issuer_and_audience_are_compared_as_a_whole() {
    assert_eq!(with_claim("iss", json!("https://id.example")), Err(JwtError::UnknownIssuer));
    assert_eq!(with_claim("iss", Value::Null), Err(JwtError::UnknownIssuer));
    assert_eq!(with_claim("aud", json!("comfygate2")), Err(JwtError::WrongAudience));
    assert_eq!(with_claim("aud", Value::Null), Err(JwtError::WrongAudience));
    assert_eq!(with_claim("aud", json!([])), Err(JwtError::WrongAudience));
    assert!(with_claim("aud", json!(["other", "comfygate"])).is_ok());
}

#[test]
fn times_are_compared_with_a_minute_of_leeway() {
    assert!(with_claim("exp", json!(NOW - 59)).is_ok());
    assert_eq!(with_claim("exp", json!(NOW - 60)), Err(JwtError::Expired));
    assert!(with_claim("exp", json!(NOW as f64 - 59.5)).is_ok());
    assert!(with_claim("nbf", json!(NOW + 60)).is_ok());
    assert_eq!(with_claim("nbf", json!(NOW + 61)), Err(JwtError::NotYet));
}

#[test]
fn an_expiry_is_needed_and_is_a_number() {
    assert_eq!(with_claim("exp", Value::Null), Err(JwtError::Claim("exp".into())));
    assert_eq!(with_claim("exp", json!("4102444800")), Err(JwtError::Claim("exp".into())));
    assert_eq!(with_claim("nbf", json!("soon")), Err(JwtError::Claim("nbf".into())));
}

#[test]
fn a_tenant_that_is_not_known_is_refused() {
    assert_eq!(with_claim("org", json!("acme")), Err(JwtError::UnknownTenant));
    assert_eq!(with_claim("org", json!("../local")), Err(JwtError::UnknownTenant));
    assert_eq!(with_claim("org", json!(1)), Err(JwtError::Claim("org".into())));
    assert_eq!(with_claim("org", Value::Null), Err(JwtError::Claim("org".into())));
}

#[test]
fn a_subject_becomes_a_user_id_and_no_two_become_one() {
    assert_eq!(with_claim("sub", json!("auth0|12")).unwrap().user.as_str(), "auth0+7C12");
    assert_eq!(with_claim("sub", json!("auth0+7C12")).unwrap().user.as_str(), "auth0+2B7C12");
    assert_eq!(with_claim("sub", json!("a+b@example.com")).unwrap().user.as_str(), "a+b@example.com");
    assert_eq!(with_claim("sub", json!("")), Err(JwtError::Claim("sub".into())));
    assert!(with_claim("sub", json!("x".repeat(128))).is_ok());
    assert_eq!(with_claim("sub", json!("x".repeat(129))), Err(JwtError::Claim("sub".into())));
}

#[test]
fn scopes_come_from_the_claim_and_unknown_words_mean_nothing() {
    let scoped = |value: Value| {
        let mut claims = claims();
        claims["scope"] = value;
        check(&hs_token(&hs_header(), &claims), JwtIssuerConfig { scope_claim: Some(path("scope")), ..hs256() })
            .map(|found| found.scopes)
    };
    let expected: Scopes = [Scope::Read, Scope::ActAs].into_iter().collect();
    assert_eq!(scoped(json!("openid read act-as")), Ok(expected));
    assert_eq!(scoped(json!(["read", "act-as", 7])), Ok(expected));
    assert_eq!(scoped(json!("Read")), Ok(Scopes::default()));
    assert_eq!(scoped(json!(1)), Err(JwtError::Claim("scope".into())));
}

/// An issuer that makes tenants, with a claim `plan` that may choose `gold`.
fn creating() -> JwtIssuerConfig {
    let made = CreateConfig {
        plan: "free".into(),
        plan_claim: Some(path("/app/plan")),
        plans_from_claim: vec!["gold".into(), "free".into()],
    };
    JwtIssuerConfig { unknown_tenant: UnknownTenant::Create(made), ..hs256() }
}

fn wanted_with(changes: &[(&str, Value)]) -> Result<TokenTenant, JwtError> {
    let mut claims = claims();
    for (name, value) in changes {
        claims[*name] = value.clone();
    }
    check(&hs_token(&hs_header(), &claims), creating()).map(|found| found.tenant)
}

#[test]
fn a_claim_of_no_configured_tenant_makes_one_of_this_issuer() {
    let Ok(TokenTenant::Made(wanted)) = wanted_with(&[("org", json!("Acme, Inc.")), ("iat", json!(NOW))]) else {
        panic!("no tenant")
    };
    assert_eq!(wanted.id, made_id("https://id.example/", "Acme, Inc."));
    assert_eq!((wanted.claim.as_str(), wanted.plan.as_str(), wanted.issued_at), ("Acme, Inc.", "free", Some(NOW)));
    // The id of a configured tenant is a name like any other; only its own `claim` leads to it.
    assert_eq!(wanted_with(&[]).unwrap().id(), &made_id("https://id.example/", "local"));
}

#[test]
fn the_plan_claim_chooses_among_the_listed_plans_and_anything_else_is_refused() {
    let plan = |value: Value| match wanted_with(&[("org", json!("x")), ("app", json!({"plan": value}))]) {
        Ok(TokenTenant::Made(wanted)) => Ok(wanted.plan),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(plan(json!("gold")), Ok("gold".to_owned()));
    assert_eq!(plan(json!("free")), Ok("free".to_owned()));
    for other in [json!("unlimited"), json!("Gold"), json!(""), json!(1), json!(null), json!(["gold"])] {
        assert_eq!(plan(other.clone()), Err(JwtError::Plan("/app/plan".into())), "{other}");
    }
    assert!(
        matches!(wanted_with(&[("org", json!("x")), ("app", json!({}))]), Ok(TokenTenant::Made(wanted)) if wanted.plan == "free")
    );
}

#[test]
fn a_claim_of_256_bytes_makes_a_tenant_and_a_longer_or_empty_one_does_not() {
    let made = |length: usize| wanted_with(&[("org", json!("x".repeat(length)))]).is_ok();
    assert!(made(CLAIM_BYTES_MAX) && !made(CLAIM_BYTES_MAX + 1) && !made(0));
}

#[test]
fn a_nested_claim_is_found_by_its_pointer_and_a_name_with_slashes_by_itself() {
    let nested = |tenant_claim: &str, claim: Value| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove("org");
        claims.as_object_mut().unwrap().extend(claim.as_object().unwrap().clone());
        check(&hs_token(&hs_header(), &claims), JwtIssuerConfig { tenant_claim: path(tenant_claim), ..hs256() })
            .map(|found| found.tenant.id().to_string())
    };
    assert_eq!(nested("/app/org", json!({"app": {"org": "local"}})), Ok("local".to_owned()));
    let namespaced = "https://app.example/org";
    assert_eq!(nested(namespaced, json!({namespaced: "local"})), Ok("local".to_owned()));
    assert_eq!(nested("app.org", json!({"app": {"org": "local"}})), Err(JwtError::Claim("app.org".into())));
}
