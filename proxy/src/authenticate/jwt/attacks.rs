//! The attacks on tokens that are known, one test each, beside the nearest token that is good. Signatures are right wherever the attack is not about them: what refuses is the check that is meant.
//!
//! Tokens in other places than a header are refused by the stage's own tests and from outside; key sets have theirs in [`super::super::jwks`]. The same tokens are the corpus of the fuzzing target `token`.

use super::tests::*;
use super::*;
use crate::authenticate::jwt_parts::NESTING_MAX;
use crate::authenticate::jwt_ring::VerifyingKey;
use crate::clock::WallMillis;
use crate::tenants::TenantRegistry;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _,
};
use serde_json::json;

const HS: &str = "https://id.example/";
const ES: &str = "https://es.example/";
const ED: &str = "https://ed.example/";
const RS: &str = "https://rs.example/";

/// The order of P-256, big-endian (FIPS 186-5).
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Four issuers, each with a key of its own kind.
struct Ours {
    random: SystemRandom,
    es: EcdsaKeyPair,
    es384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Ours {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pair = |algorithm: &'static EcdsaSigningAlgorithm| {
            let private = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref(), &random).unwrap()
        };
        let ed = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
        Self { es: pair(&ECDSA_P256_SHA256_FIXED_SIGNING), es384: pair(&ECDSA_P384_SHA384_FIXED_SIGNING), ed, random }
    }

    fn es_pem(&self) -> String {
        pem(&P256_SPKI, self.es.public_key().as_ref())
    }

    fn ed_pem(&self) -> String {
        pem(&ED25519_SPKI, self.ed.public_key().as_ref())
    }

    fn judge(&self, token: &str) -> Result<JwtIdentity, JwtError> {
        let key = |algorithm, material: &[u8]| VerifyingKey::new(algorithm, material).unwrap();
        let keys = [
            (HS, key(Algorithm::Hs256, SECRET)),
            (ES, key(Algorithm::Es256, self.es_pem().as_bytes())),
            (ED, key(Algorithm::EdDsa, self.ed_pem().as_bytes())),
            (RS, key(Algorithm::Rs256, RSA_2048)),
        ];
        let issuers = keys.map(|(name, key)| {
            let config = JwtIssuerConfig { issuer: name.to_owned(), ..issuer(key.clone()) };
            Issuer { config, keys: Keys::Fixed(key) }
        });
        let clock = Clock::turned_by_hand(WallMillis(NOW * 1000));
        let tenants = AllTenants::of_the_file(TenantRegistry::built_in());
        let judged =
            identity(token, &issuers, &tenants, &clock).now_or_never().expect("a fixed key is never waited for");
        judged.map(|(identity, _)| identity)
    }

    fn sign_es(&self, message: &[u8]) -> Vec<u8> {
        self.es.sign(&self.random, message).unwrap().as_ref().to_vec()
    }

    fn es(&self, header: Value) -> String {
        token(&header, &of(ES), |message| self.sign_es(message))
    }

    /// A good token of ES256 with another signature in place of its own.
    fn es_with(&self, signature: impl Fn(&[u8]) -> Vec<u8>) -> String {
        token(&json!({"alg": "ES256"}), &of(ES), |message| signature(&self.sign_es(message)))
    }
}

/// Good claims of that issuer.
fn of(issuer: &str) -> Value {
    with(claims(), json!({"iss": issuer}))
}

/// The same with some members replaced.
fn with(mut object: Value, changes: Value) -> Value {
    object.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    object
}

/// A good header and more members.
fn header(more: Value) -> String {
    hs_token(&with(hs_header(), more), &claims())
}

/// A good token but for these claims.
fn claimed(more: Value) -> String {
    hs_token(&hs_header(), &with(claims(), more))
}

/// Signed as it stands: header and claims as any bytes.
fn raw(header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
    signed(&format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)))
}

/// Any message with a good signature.
fn signed(message: &str) -> String {
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(by_secret(SECRET, message.as_bytes())))
}

/// Signed by what is no secret.
fn confused(secret: &[u8], alg: &str, issuer: &str) -> String {
    token(&json!({"alg": alg, "typ": "JWT"}), &of(issuer), |message| by_secret(secret, message))
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// The good claims as text, with more before the last brace.
fn text_with(more: &str) -> String {
    let text = claims().to_string();
    format!("{}{more}}}", text.strip_suffix('}').unwrap())
}

/// Lists within one another, so many.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

/// The same bytes for a lenient reader: with a bit in what is left over of the last character.
fn with_spare_bit(part: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    assert_ne!(part.len() % 4, 0, "no bits are left over");
    let (head, last) = part.split_at(part.len() - 1);
    let place = ALPHABET.iter().position(|letter| *letter == last.as_bytes()[0]).unwrap();
    format!("{head}{}", char::from(ALPHABET[place | 1]))
}

/// Good claims whose base64url has a `-`, a `_` and bits left over.
fn awkward() -> (String, String) {
    let claims = (0..3).map(|n| with(claims(), json!({"pad": format!("???>>>{}", "x".repeat(n))})).to_string());
    let of_length = |rest: usize| claims.clone().map(|text| URL_SAFE_NO_PAD.encode(text)).find(|p| p.len() % 4 == rest);
    let part = of_length(2).or_else(|| of_length(3)).unwrap();
    let header = (0..3).map(|n| URL_SAFE_NO_PAD.encode(format!("{HEADER}{}", " ".repeat(n))));
    (header.into_iter().find(|part| part.len() % 4 != 0).unwrap(), part)
}

/// A number of P-256 as the order less it: the other of two signatures that are both right.
fn mirrored(s: &[u8]) -> Vec<u8> {
    let (mut mirrored, mut borrow) = (vec![0; 32], 0);
    for at in (0..32).rev() {
        let difference = i16::from(P256_ORDER[at]) - i16::from(s[at]) - borrow;
        borrow = i16::from(difference < 0);
        mirrored[at] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    mirrored
}

/// `SEQUENCE { r INTEGER, s INTEGER }`, as other formats have it.
fn der(signature: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| {
        let first = bytes.iter().position(|byte| *byte != 0).unwrap();
        let sign: &[u8] = if bytes[first] & 0x80 == 0 { &[] } else { &[0] };
        let content = [sign, &bytes[first..]].concat();
        [&[2, u8::try_from(content.len()).unwrap()], content.as_slice()].concat()
    };
    let both = [number(&signature[..32]), number(&signature[32..])].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()], both.as_slice()].concat()
}

/// One test for each attack: every forged token is refused for that reason, and every one beside it is good.
macro_rules! attacks {
    ($($name:ident: $reason:pat, $forged:expr, beside $good:expr;)+) => {
        $(
            #[test]
            fn $name() {
                let ours = Ours::new();
                let (forged, good): (fn(&Ours) -> Vec<String>, fn(&Ours) -> Vec<String>) = ($forged, $good);
                for token in good(&ours) {
                    assert!(ours.judge(&token).is_ok(), "good: {:?}\n{token}", ours.judge(&token));
                }
                for token in forged(&ours) {
                    let judged = ours.judge(&token);
                    assert!(matches!(judged, Err($reason)), "forged: {judged:?}\n{token}");
                }
            }
        )+

        /// Every token of the matrix, for whoever wants them all.
        fn all(ours: &Ours) -> (Vec<String>, Vec<String>) {
            let forged: &[fn(&Ours) -> Vec<String>] = &[$($forged),+];
            let good: &[fn(&Ours) -> Vec<String>] = &[$($good),+];
            let of = |made: &[fn(&Ours) -> Vec<String>]| made.iter().flat_map(|make| make(ours)).collect();
            (of(forged), of(good))
        }
    };
}

use JwtError::{Claim, Expired, HeaderField, NotYet, UnknownIssuer, UnknownTenant, WrongAlgorithm, WrongAudience};
use JwtError::{Parts as Malformed, WrongSignature};

attacks! {
    // Algorithms.
    no_algorithm_in_any_spelling_is_none: WrongAlgorithm { .. },
        |_| ["none", "None", "NONE", "nOnE", "none ", "nonE\u{0}", "null", ""].into_iter().flat_map(|alg| {
            let message = format!("{}.{}", encoded(&json!({"alg": alg})), encoded(&claims()));
            [format!("{message}."), signed(&message)]
        }).collect(),
        beside |_| vec![hs_token(&json!({"alg": "HS256"}), &claims())];
    an_algorithm_is_a_text_and_is_there: WrongAlgorithm { .. },
        |_| [json!({}), json!({"alg": null}), json!({"alg": ["HS256"]}), json!({"alg": {"HS256": 1}}), json!({"alg": 1}), json!({"Alg": "HS256"})]
            .iter().map(|header| hs_token(header, &claims())).collect(),
        beside |_| vec![hs_token(&json!({"alg": "HS256"}), &claims())];
    an_algorithms_case_and_spaces_count: WrongAlgorithm { .. },
        |_| ["hs256", "Hs256", " HS256", "HS256 ", "HS-256", "HS256\n", "ＨＳ256"].into_iter()
            .map(|alg| hs_token(&json!({"alg": alg}), &claims())).collect(),
        beside |_| vec![hs_token(&json!({"alg": "HS256"}), &claims())];
    another_hash_or_family_than_the_pinned_one_is_refused: WrongAlgorithm { .. },
        |_| ["HS384", "HS512", "RS256", "PS256", "ES256", "EdDSA", "ES256K", "RSA1_5", "dir", "A256KW", "Ed25519"].into_iter()
            .map(|alg| hs_token(&json!({"alg": alg}), &claims())).collect(),
        beside |_| vec![hs_token(&json!({"alg": "HS256"}), &claims())];
    a_public_key_is_no_secret_in_any_of_its_forms: WrongAlgorithm { .. },
        |ours| {
            let (es, ed) = (ours.es_pem(), ours.ed_pem());
            let point = ours.es.public_key().as_ref();
            let jwk = json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])}).to_string();
            let der = [P256_SPKI.as_slice(), point].concat();
            let rsa = RSA_2048;
            let body: String = std::str::from_utf8(rsa).unwrap().lines().filter(|line| !line.starts_with('-')).collect();
            let rsa_der = base64::engine::general_purpose::STANDARD.decode(&body).unwrap();
            let secrets: [(&[u8], &str); 12] = [
                (es.as_bytes(), ES), (es.trim_end().as_bytes(), ES), (&der, ES), (point, ES), (&point[1..], ES), (jwk.as_bytes(), ES),
                (ed.as_bytes(), ED), (ours.ed.public_key().as_ref(), ED),
                (rsa, RS), (rsa.trim_ascii_end(), RS), (&rsa_der, RS), (body.as_bytes(), RS),
            ];
            secrets.into_iter().flat_map(|(secret, issuer)| ["HS256", "HS384", "HS512"].map(|alg| confused(secret, alg, issuer))).collect()
        },
        beside |ours| vec![
            ours.es(json!({"alg": "ES256"})),
            token(&json!({"alg": "EdDSA"}), &of(ED), |message| ours.ed.sign(message).as_ref().to_vec()),
        ];
    a_public_key_under_its_own_algorithms_name_is_no_secret_either: WrongSignature,
        |ours| vec![
            confused(ours.es_pem().as_bytes(), "ES256", ES), confused(ours.ed_pem().as_bytes(), "EdDSA", ED), confused(RSA_2048, "RS256", RS),
        ],
        beside |ours| vec![ours.es(json!({"alg": "ES256"}))];
    pkcs1_and_pss_are_not_taken_for_each_other: WrongAlgorithm { .. },
        |_| ["PS256", "PS384", "PS512", "RS384", "RS512"].into_iter()
            .map(|alg| token(&json!({"alg": alg}), &of(RS), |_| vec![1; 256])).collect(),
        beside |_| vec![hs_token(&hs_header(), &claims())];
    another_curve_is_refused: WrongAlgorithm { .. },
        |ours| vec![
            token(&json!({"alg": "ES384"}), &of(ES), |message| ours.es384.sign(&ours.random, message).unwrap().as_ref().to_vec()),
            token(&json!({"alg": "ES512"}), &of(ES), |_| vec![1; 132]),
            token(&json!({"alg": "ES256K"}), &of(ES), |message| ours.sign_es(message)),
        ],
        beside |ours| vec![ours.es(json!({"alg": "ES256"}))];
    a_signature_of_another_curve_is_none: WrongSignature,
        |ours| vec![
            token(&json!({"alg": "ES256"}), &of(ES), |message| ours.es384.sign(&ours.random, message).unwrap().as_ref().to_vec()),
            token(&json!({"alg": "ES256"}), &of(ES), |message| ours.ed.sign(message).as_ref().to_vec()),
            token(&json!({"alg": "EdDSA"}), &of(ED), |message| ours.sign_es(message)),
        ],
        beside |ours| vec![ours.es(json!({"alg": "ES256"}))];

    // Signatures.
    zero_and_the_order_are_no_part_of_a_signature: WrongSignature,
        |ours| {
            let part = |bytes: &[u8]| bytes.to_vec();
            vec![
                ours.es_with(|_| vec![0; 64]),
                ours.es_with(|good| [vec![0; 32], part(&good[32..])].concat()),
                ours.es_with(|good| [part(&good[..32]), vec![0; 32]].concat()),
                ours.es_with(|good| [P256_ORDER.to_vec(), part(&good[32..])].concat()),
                ours.es_with(|good| [part(&good[..32]), P256_ORDER.to_vec()].concat()),
                ours.es_with(|_| [P256_ORDER, P256_ORDER].concat()),
                ours.es_with(|_| vec![0xff; 64]),
            ]
        },
        beside |ours| vec![ours.es_with(<[u8]>::to_vec)];
    a_signature_has_the_raw_form_and_its_length: WrongSignature,
        |ours| vec![
            ours.es_with(der),
            ours.es_with(|good| [good, &[0]].concat()),
            ours.es_with(|good| good[..63].to_vec()),
            ours.es_with(|good| [&[0], &good[..32], &[0], &good[32..]].concat()),
            ours.es_with(|good| [good, good].concat()),
        ],
        beside |ours| vec![ours.es_with(<[u8]>::to_vec)];
    // Both are right by FIPS 186-5, many issuers send either, and nothing of ours is known by a token's bytes.
    the_other_of_two_right_signatures_is_right_and_one_more_than_it_is_not: WrongSignature,
        |ours| vec![ours.es_with(|good| {
            let mut more = mirrored(&good[32..]);
            more[31] ^= 1;
            [&good[..32], &more].concat()
        })],
        beside |ours| vec![ours.es_with(|good| [&good[..32], &mirrored(&good[32..])].concat())];
    an_empty_or_foreign_signature_is_none: WrongSignature,
        |_| {
            let good = hs_token(&hs_header(), &claims());
            let (message, _) = good.rsplit_once('.').unwrap();
            let other = claimed(json!({"sub": "u2"}));
            let (_, others) = other.rsplit_once('.').unwrap();
            let cut = URL_SAFE_NO_PAD.encode(&by_secret(SECRET, message.as_bytes())[..31]);
            vec![format!("{message}."), format!("{message}.{others}"), format!("{message}.{cut}"), format!("{message}.AAAA")]
        },
        beside |_| vec![hs_token(&hs_header(), &claims()), claimed(json!({"sub": "u2"}))];
    one_flipped_bit_anywhere_in_a_signature_is_noticed: WrongSignature,
        |_| {
            let good = hs_token(&hs_header(), &claims());
            let (message, signature) = good.rsplit_once('.').unwrap();
            let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
            (0..256).map(|bit| {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                format!("{message}.{}", URL_SAFE_NO_PAD.encode(flipped))
            }).collect()
        },
        beside |_| vec![hs_token(&hs_header(), &claims())];
    a_key_of_another_issuer_signs_for_that_one_only: WrongSignature,
        |ours| {
            let other = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &ours.random).unwrap();
            let other = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, other.as_ref(), &ours.random).unwrap();
            vec![
                token(&json!({"alg": "ES256"}), &of(ES), |message| other.sign(&ours.random, message).unwrap().as_ref().to_vec()),
                token(&hs_header(), &of(HS), |message| by_secret(b"a secret of another issuer, 32 b", message)),
            ]
        },
        beside |ours| vec![ours.es(json!({"alg": "ES256"})), hs_token(&hs_header(), &of(HS))];
    a_key_of_one_issuer_is_none_under_the_name_of_another: WrongAlgorithm { .. },
        |ours| vec![
            token(&json!({"alg": "ES256"}), &of(ED), |message| ours.sign_es(message)),
            token(&json!({"alg": "ES256"}), &of(HS), |message| ours.sign_es(message)),
            token(&hs_header(), &of(ES), |message| by_secret(SECRET, message)),
        ],
        beside |ours| vec![ours.es(json!({"alg": "ES256"})), hs_token(&hs_header(), &of(HS))];

    // What a header brings.
    a_key_in_the_header_is_refused_unread: HeaderField(_),
        |ours| {
            let point = ours.es.public_key().as_ref();
            let jwk = json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])});
            let oct = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)});
            vec![
                header(json!({"jwk": oct})), header(json!({"jwk": null})), header(json!({"jwk": {}})),
                ours.es(json!({"alg": "ES256", "jwk": jwk})),
                header(json!({"x5c": ["MIIB"]})), header(json!({"x5c": []})),
            ]
        },
        // A thumbprint says nothing that counts; Entra ID sends one in every token.
        beside |_| vec![header(json!({"x5t": "3q2-7w", "x5t#S256": "3q2-7w"})), header(json!({"JWK": {}}))];
    an_address_in_the_header_is_refused_unread: HeaderField(_),
        |_| ["https://evil.example/keys", "http://169.254.169.254/", "file:///etc/passwd", "https://id.example/../evil", ""].into_iter()
            .flat_map(|url| [header(json!({"jku": url})), header(json!({"x5u": url}))]).collect(),
        beside |_| vec![header(json!({"url": "https://evil.example/keys"}))];
    an_extension_is_refused_whether_it_is_known_or_not: HeaderField("crit"),
        |_| [json!(["exp"]), json!(["b64"]), json!(["http://example.invalid/UNDEFINED"]), json!([]), json!(null), json!("exp")].iter()
            .map(|crit| header(json!({"crit": crit, "exp": NOW + 300, "http://example.invalid/UNDEFINED": true}))).collect(),
        beside |_| vec![header(json!({"http://example.invalid/UNDEFINED": true, "exp": NOW + 300}))];
    a_payload_that_is_not_encoded_is_refused: HeaderField("b64"),
        |_| vec![header(json!({"b64": false})), header(json!({"b64": true})), raw(r#"{"alg":"HS256","b64":false}"#, claims().to_string())],
        beside |_| vec![header(json!({"b65": false}))];
    a_compressed_or_encrypted_token_is_refused: HeaderField(_),
        |_| vec![header(json!({"zip": "DEF"})), header(json!({"zip": null})), header(json!({"enc": "A256GCM"}))],
        beside |_| vec![header(json!({"zap": "DEF"}))];
    a_token_within_a_token_is_refused: HeaderField("cty"),
        |_| vec![header(json!({"cty": "JWT"})), header(json!({"cty": "jwt"})), header(json!({"cty": ""})), header(json!({"cty": null}))],
        beside |_| vec![header(json!({"ctx": "JWT"}))];
    an_encrypted_token_of_five_parts_is_none: Malformed(_),
        |_| {
            let good = hs_token(&hs_header(), &claims());
            let head = encoded(&json!({"alg": "dir", "enc": "A256GCM"}));
            vec![format!("{head}..AAAA.AAAA.AAAA"), format!("{good}.AAAA.AAAA"), format!("{good}.AAAA"), format!(".{good}"), format!("{good}.")]
        },
        beside |_| vec![hs_token(&hs_header(), &claims())];
    a_token_of_another_use_is_refused: HeaderField("typ"),
        |_| [json!("logout+jwt"), json!("secevent+jwt"), json!("JWE"), json!("dpop+jwt"), json!("id+jwt"), json!("application/logout+jwt"), json!("JWT "), json!(""), json!(null), json!(1), json!(["JWT"]), json!("jwt\u{0}"), json!("application/"), json!("application/application/jwt")].iter()
            .map(|typ| header(json!({"typ": typ}))).collect(),
        beside |_| {
            let mut tokens: Vec<String> = ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT"].into_iter().map(|typ| header(json!({"typ": typ}))).collect();
            tokens.push(hs_token(&json!({"alg": "HS256"}), &claims()));
            tokens
        };
    a_kid_is_a_text_of_some_length: HeaderField("kid"),
        |_| [json!(""), json!("x".repeat(KID_BYTES_MAX + 1)), json!(1), json!(null), json!(["a"]), json!({"a": 1}), json!(true)].iter()
            .map(|kid| header(json!({"kid": kid}))).collect(),
        beside |_| vec![header(json!({"kid": "x"})), header(json!({"kid": "x".repeat(KID_BYTES_MAX)}))];

    // The form.
    a_member_that_stands_twice_is_refused_wherever_it_stands: Malformed(_),
        |_| vec![
            raw(r#"{"alg":"HS256","alg":"HS256"}"#, claims().to_string()),
            raw(r#"{"alg":"none","alg":"HS256"}"#, claims().to_string()),
            raw(r#"{"alg":"HS256","alg":"none"}"#, claims().to_string()),
            raw(r#"{"alg":"HS256","kid":"a","kid":"b"}"#, claims().to_string()),
            raw(r#"{"alg":"HS256","\u0061lg":"none"}"#, claims().to_string()),
            raw(HEADER, text_with(r#","org":"other""#)),
            raw(HEADER, text_with(r#","sub":"u1""#)),
            raw(HEADER, text_with(r#","exp":4102444800"#)),
            raw(HEADER, text_with(r#","aud":"comfygate""#)),
            raw(HEADER, text_with(r#","\u0069ss":"https://id.example/""#)),
            raw(HEADER, text_with(r#","deep":{"a":[{"b":1,"b":2}]}"#)),
        ],
        beside |_| vec![raw(HEADER, text_with(r#","ORG":"other","deep":{"a":[{"b":1},{"b":2}],"b":1}"#)), raw(r#" {"alg" : "HS256"} "#, claims().to_string())];
    what_is_no_json_object_is_no_token: Malformed(_),
        |_| {
            let good = claims().to_string();
            let mut tokens: Vec<String> = ["", "null", "[]", "\"x\"", "1", "{", "{}x", "{}{}", "{'alg':'HS256'}", "{\"alg\":NaN}", "{\"alg\":Infinity}", "{\"alg\":01}", "{alg:1}", "{\"a\":1,}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\n\"}", "{\"a\":1e999}", "/**/{}"].into_iter()
                .flat_map(|text| [raw(text, &good), raw(HEADER, text)]).collect();
            tokens.push(raw(HEADER, format!("\u{feff}{good}")));
            tokens.push(raw(format!("\u{feff}{HEADER}"), &good));
            tokens.push(raw(HEADER, [good.as_bytes(), b"\0"].concat()));
            tokens.push(raw(HEADER, good.replace("u1", "u\u{e9}").chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<u8>>()));
            tokens.push(raw(HEADER, good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()));
            tokens
        },
        beside |_| vec![raw(HEADER, claims().to_string()), raw(HEADER, format!("\n{}\t", claims()))];
    nesting_has_an_end: Malformed(_),
        |_| vec![claimed(json!({"deep": nested(NESTING_MAX)})), header(json!({"deep": nested(NESTING_MAX)})), claimed(json!({"deep": nested(100)})), raw(HEADER, "[".repeat(3000)), raw(HEADER, "{\"a\":".repeat(1000))],
        beside |_| vec![claimed(json!({"deep": nested(NESTING_MAX - 1)})), header(json!({"deep": nested(NESTING_MAX - 1)}))];
    a_token_and_each_of_its_parts_have_a_longest: Malformed(PartsError::TooLong(_)),
        |_| vec![claimed(json!({"pad": "x".repeat(6_200)})), header(json!({"pad": "x".repeat(6_200)})), format!("{}{}", hs_token(&hs_header(), &claims()), "A".repeat(8_000)), ".".repeat(TOKEN_BYTES_MAX + 1)],
        beside |_| vec![claimed(json!({"pad": "x".repeat(5_800)})), header(json!({"pad": "x".repeat(5_800)}))];
    there_is_one_way_to_write_each_byte_of_header_and_claims: Malformed(_),
        |_| {
            let (head, claims) = awkward();
            let text = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
            let mut messages = vec![
                format!("{}.{claims}", URL_SAFE.encode(text(&head))),
                format!("{head}.{}", URL_SAFE.encode(text(&claims))),
                format!("{head}.{}", STANDARD_NO_PAD.encode(text(&claims))),
                format!("{}.{claims}", with_spare_bit(&head)),
                format!("{head}.{}", with_spare_bit(&claims)),
            ];
            for odd in [" ", "\n", "\r\n", "\t", "\u{0}", "%", "=", "é"] {
                messages.push(format!("{odd}{head}.{claims}"));
                messages.push(format!("{head}{odd}.{claims}"));
                messages.push(format!("{head}.{odd}{claims}"));
                messages.push(format!("{head}.{claims}{odd}"));
                messages.push(format!("{head}.{}{odd}{}", &claims[..8], &claims[8..]));
            }
            messages.iter().map(|message| signed(message)).collect()
        },
        beside |_| {
            let (head, claims) = awkward();
            assert!(claims.contains('_') && claims.contains('-'), "{claims}");
            vec![signed(&format!("{head}.{claims}"))]
        };
    there_is_one_way_to_write_a_signature: WrongSignature,
        |_| {
            let good = hs_token(&hs_header(), &claims());
            let (message, signature) = good.rsplit_once('.').unwrap();
            let mut tokens: Vec<String> = ["=", " ", "\n", "\u{0}", "A"].into_iter().map(|odd| format!("{good}{odd}")).collect();
            tokens.push(format!("{message}. {signature}"));
            tokens.push(format!("{message}.{}", with_spare_bit(signature)));
            tokens
        },
        beside |_| vec![hs_token(&hs_header(), &claims())];

    // Claims.
    an_issuer_is_compared_letter_by_letter: UnknownIssuer,
        |_| [
            json!("https://id.example"), json!("https://id.example//"), json!("https://id.example/."), json!("https://id.example./"), json!("https://ID.example/"), json!("HTTPS://id.example/"),
            json!("https://id.example/\u{0}"), json!("https://id.example/ "), json!("https://id.example.evil.example/"), json!("https://id.example@evil.example/"), json!("https://іd.example/"), json!("https://id．example/"),
            json!("https://id.example:443/"), json!("http://id.example/"), json!(["https://id.example/"]), json!({"a": "https://id.example/"}), json!(null), json!(""), json!(1),
        ].iter().map(|iss| claimed(json!({"iss": iss}))).collect(),
        beside |_| vec![claimed(json!({"iss": HS}))];
    an_audience_is_compared_letter_by_letter: WrongAudience,
        |_| [
            json!("comfygate."), json!("Comfygate"), json!("comfygate "), json!("comfygate\u{0}"), json!("comfygat"), json!("сomfygate"), json!("https://comfygate"), json!("comfygate other"), json!("comfygate,other"),
            json!([]), json!(["other"]), json!([["comfygate"]]), json!([{"a": "comfygate"}]), json!(["comfygate", 1]), json!(["comfygate", null]), json!({"comfygate": true}), json!({"0": "comfygate"}), json!(null), json!(true), json!(1),
        ].iter().map(|aud| claimed(json!({"aud": aud}))).collect(),
        beside |_| vec![claimed(json!({"aud": ["comfygate"]})), claimed(json!({"aud": ["other", "comfygate", "account"]}))];
    a_time_is_a_number_of_this_era: Claim(_),
        |_| [json!("1800000300"), json!(true), json!(null), json!([1_800_000_300]), json!({}), json!(-1), json!(-1.5), json!(1e300), json!(1.8e15), json!(253_402_300_800_u64), json!(u64::MAX)].iter()
            .flat_map(|time| ["exp", "nbf", "iat"].map(|name| claimed(json!({name: time}))))
            .chain([hs_token(&hs_header(), &json!({"iss": HS, "aud": "comfygate", "sub": "u1", "org": "local"}))])
            .collect(),
        beside |_| vec![claimed(json!({"exp": 253_402_300_799_u64})), claimed(json!({"exp": NOW as f64 + 0.5, "iat": NOW as f64 - 0.5, "nbf": 0}))];
    a_token_that_is_over_is_over: Expired,
        |_| vec![claimed(json!({"exp": NOW - 60})), claimed(json!({"exp": 0})), claimed(json!({"exp": 0.0})), claimed(json!({"exp": 1e-300}))],
        beside |_| vec![claimed(json!({"exp": NOW - 59}))];
    a_token_of_the_future_waits_for_it: NotYet,
        |_| vec![claimed(json!({"nbf": NOW + 61})), claimed(json!({"iat": NOW + 61})), claimed(json!({"iat": NOW + 86_400, "exp": NOW + 90_000}))],
        beside |_| vec![claimed(json!({"nbf": NOW + 60, "iat": NOW + 60}))];
    a_subject_is_a_plain_text: Claim(_),
        |_| [json!("u1\n"), json!("u1\u{0}"), json!("u1\u{1b}[2J"), json!("u1\r\nforged: line"), json!("u1\u{85}"), json!("u1\u{7f}"), json!(""), json!(1), json!(null), json!(["u1"]), json!({"a": "u1"}), json!("x".repeat(129)), json!("é".repeat(64))].iter()
            .map(|sub| claimed(json!({"sub": sub}))).collect(),
        beside |_| vec![claimed(json!({"sub": "u1 \u{202e}"})), claimed(json!({"sub": "x".repeat(128)})), claimed(json!({"sub": "../../etc"}))];
    a_tenant_is_a_plain_text: Claim(_),
        |_| [json!(["local"]), json!({"local": 1}), json!(1), json!(true), json!(null), json!(""), json!("local\n"), json!("local\u{0}")].iter()
            .map(|org| claimed(json!({"org": org}))).collect(),
        beside |_| vec![claimed(json!({"org": "local"}))];
    a_tenant_is_compared_letter_by_letter: UnknownTenant,
        |_| ["Local", "local ", " local", "local/", "../local", "local.", "lоcal", "local,other", "*", "%6cocal"].iter().map(|org| claimed(json!({"org": org})))
            .chain([claimed(json!({"org": "x".repeat(4_000)}))]).collect(),
        beside |_| vec![claimed(json!({"org": "local"}))];
}

#[test]
fn an_rsa_signature_made_elsewhere_is_taken_and_no_other_scheme_takes_it() {
    let judge = |algorithm, token: &str| {
        let key = VerifyingKey::new(algorithm, RSA_2048).unwrap();
        let clock = Clock::turned_by_hand(WallMillis(NOW * 1000));
        let issuers = [Issuer { config: issuer(key.clone()), keys: Keys::Fixed(key) }];
        let tenants = AllTenants::of_the_file(TenantRegistry::built_in());
        identity(token, &issuers, &tenants, &clock).now_or_never().expect("a fixed key is never waited for")
    };
    assert!(judge(Algorithm::Rs256, RS256_TOKEN).is_ok());
    for other in [Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512] {
        assert!(matches!(judge(other, RS256_TOKEN), Err(WrongAlgorithm { .. })));
        let (message, signature) = RS256_TOKEN.rsplit_once('.').unwrap();
        let key = VerifyingKey::new(other, RSA_2048).unwrap();
        assert!(!key.verifies(message.as_bytes(), signature), "{}", other.name());
    }
}

#[test]
fn a_kid_that_is_an_attack_on_something_else_chooses_nothing() {
    let ours = Ours::new();
    for kid in [
        "../../../../dev/null",
        "/proc/self/environ",
        "x' UNION SELECT 'secret' -- ",
        "| id",
        "file:///dev/null",
        "https://evil.example/k",
        "\u{0}",
        "${jndi:ldap://x}",
    ] {
        // Of a fixed key it is looked at for its form only: the token is good or not by its signature.
        assert!(ours.judge(&header(json!({"kid": kid}))).is_ok(), "{kid}");
        for secret in [&b""[..], b"\0", b"secret", kid.as_bytes()] {
            let forged =
                token(&with(hs_header(), json!({"kid": kid})), &claims(), |message| by_secret(secret, message));
            assert_eq!(ours.judge(&forged), Err(WrongSignature), "{kid}");
        }
    }
}

#[test]
fn every_forged_token_of_the_matrix_is_401() {
    let ours = Ours::new();
    let (forged, good) = all(&ours);
    assert!(forged.len() > 600 && good.len() > 50, "{} forged, {} good", forged.len(), good.len());
    for token in forged {
        let error = ours.judge(&token).unwrap_err();
        let answer = crate::reject::Rejection::from(crate::authenticate::AuthError::Jwt(error));
        assert_eq!(answer.status(), http::StatusCode::UNAUTHORIZED, "{token}");
    }
}

#[test]
fn what_the_fuzzing_target_asks_holds_for_the_whole_matrix_and_its_corpus() {
    let (forged, good) = all(&Ours::new());
    for token in forged.iter().chain(&good) {
        crate::authenticate::jwt_parts::check_any_bytes(token.as_bytes());
        // Cut anywhere, or with one byte changed.
        for at in (0..token.len()).step_by(7) {
            let mut bytes = token.as_bytes().to_vec();
            crate::authenticate::jwt_parts::check_any_bytes(&bytes[..at]);
            bytes[at] = bytes[at].wrapping_add(1);
            crate::authenticate::jwt_parts::check_any_bytes(&bytes);
        }
    }
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/token");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 20, "{}", files.len());
    for file in files {
        crate::authenticate::jwt_parts::check_any_bytes(&std::fs::read(file).unwrap());
    }
}
