//! A token taken apart: three parts of base64url, JSON objects in the first two, nothing of it believed yet.
//!
//! Stricter than RFC 7515 §5.2 asks where leniency helps attackers only: a member that stands twice is refused wherever it stands (which of the two counts would depend on the reader), so is nesting that no
//! issuer needs, and there is one way to write each byte: no padding, no white space, no bits left over.
//! Pure, and without anything else of the gateway, so that the fuzzing target builds it alone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Longest token in bytes; identity providers stay below 4 KiB, and all our request heads have 32.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Lists and objects within one another, the claims themselves included. Keycloak's roles have four.
pub const NESTING_MAX: usize = 16;

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("token of {0} bytes")]
    TooLong(usize),
    /// The part that is wrong.
    #[error("token is malformed: {0}")]
    Malformed(&'static str),
}

/// A token in three parts.
#[derive(Debug)]
pub struct Parts<'t> {
    /// The first part.
    pub header: Map<String, Value>,
    /// The second: an object.
    pub claims: Value,
    /// What the signature covers: `HEADER.CLAIMS` as received.
    pub message: &'t str,
    /// The third, as received.
    pub signature: &'t str,
}

impl<'t> Parts<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`PartsError`].
    pub fn of(token: &'t str) -> Result<Self, PartsError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(PartsError::TooLong(token.len()));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(PartsError::Malformed("parts"))?;
        let (header, claims) = message.split_once('.').ok_or(PartsError::Malformed("parts"))?;
        let claims = Value::Object(object(claims, "claims")?);
        Ok(Parts { header: object(header, "header")?, claims, message, signature })
    }
}

fn object(part: &str, name: &'static str) -> Result<Map<String, Value>, PartsError> {
    // A second dot would be no base64url either: four parts (an encrypted token has five) fail here.
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| PartsError::Malformed(name))?;
    let mut reader = serde_json::Deserializer::from_slice(&bytes);
    let value = Strict { levels_left: NESTING_MAX }.deserialize(&mut reader);
    match (value, reader.end()) {
        (Ok(Value::Object(object)), Ok(())) => Ok(object),
        _ => Err(PartsError::Malformed(name)),
    }
}

/// Reads a value in which no member stands twice.
#[derive(Clone, Copy)]
struct Strict {
    levels_left: usize,
}

impl Strict {
    fn inside<E: serde::de::Error>(self) -> Result<Self, E> {
        let levels_left = self.levels_left.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { levels_left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("no finite number"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let (inside, mut list) = (self.inside()?, Vec::new());
        while let Some(value) = entries.next_element_seed(inside)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let (inside, mut object) = (self.inside()?, Map::new());
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(inside)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// What holds for every text: for the fuzzing target and the replay of its corpus.
///
/// # Panics
/// If it does not.
#[doc(hidden)]
pub fn check_any_bytes(data: &[u8]) {
    let Ok(token) = std::str::from_utf8(data) else { return };
    let Ok(parts) = Parts::of(token) else { return };
    assert!(token.len() <= TOKEN_BYTES_MAX && parts.claims.is_object());
    assert_eq!(format!("{}.{}", parts.message, parts.signature), token);
    assert!(deepest(&parts.claims) <= NESTING_MAX);
    // One way to write it: what was read is written to the same bytes again, but for white space and order within the JSON.
    let (header, claims) = parts.message.split_once('.').unwrap_or_default();
    for (part, value) in [(header, Value::Object(parts.header)), (claims, parts.claims)] {
        let bytes = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        assert_eq!(URL_SAFE_NO_PAD.encode(&bytes), part);
        let plain: Result<Value, _> = serde_json::from_slice(&bytes);
        assert_eq!(plain.ok(), Some(value));
    }
    // A longer text with it at its head is no second token of the same meaning.
    for more in ["=", ".", " ", "\n"] {
        let longer = format!("{}{more}.{}", parts.message, parts.signature);
        assert!(Parts::of(&longer).is_err(), "{more:?}");
    }
}

/// How deep it goes; what was read goes no deeper than [`NESTING_MAX`].
fn deepest(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(deepest).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(deepest).max().unwrap_or(0),
        _ => 0,
    }
}
