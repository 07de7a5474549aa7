//! The query of a target: pairs, decoded once.

use super::path::{Odd, escape};
use std::collections::HashSet;

/// The pairs of a query, decoded, in the order written. `+` is a space and `;` an ordinary character, as for aiohttp.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `key=value&key=value`; a key without `=` has an empty value; empty pieces (`a=1&&b=2`) are left out.
    /// Its length is bounded by [`super::path::QUERY_BYTES_MAX`].
    ///
    /// # Errors
    /// [`Odd::Escape`] for a broken escape, [`Odd::NotUtf8`], [`Odd::EncodedControl`] for any control character.
    pub fn parse(raw: &str) -> Result<Self, Odd> {
        let mut pairs = Vec::new();
        for piece in raw.split('&').filter(|piece| !piece.is_empty()) {
            let (key, value) = piece.split_once('=').unwrap_or((piece, ""));
            pairs.push((decoded(key)?, decoded(value)?));
        }
        Ok(Self(pairs))
    }

    /// The value of a key. A key that its route knows stands at most once; of others this is the first.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first key that stands more than once among those that `counts` picks.
    pub fn repeated(&self, counts: impl Fn(&str) -> bool) -> Option<&str> {
        let mut seen = HashSet::new();
        self.0.iter().map(|(key, _)| key.as_str()).filter(|key| counts(key)).find(|key| !seen.insert(*key))
    }
}

fn decoded(text: &str) -> Result<String, Odd> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => escape(rest.next(), rest.next()).ok_or(Odd::Escape)?,
            other => other,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| Odd::NotUtf8)?;
    if text.chars().any(char::is_control) { Err(Odd::EncodedControl) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_once() {
        let query = Query::parse("filename=a+b%20c.png&subfolder=&x=%2541&flag").unwrap();
        assert_eq!(query.value("filename"), Some("a b c.png"));
        assert_eq!(query.value("subfolder"), Some(""));
        assert_eq!(query.value("x"), Some("%41"));
        assert_eq!(query.value("flag"), Some(""));
        assert_eq!(query.value("absent"), None);
    }

    #[test]
    fn semicolon_is_no_separator() {
        assert_eq!(Query::parse("type=input;type=output").unwrap().value("type"), Some("input;type=output"));
    }

    #[test]
    fn broken_escapes_controls_and_bad_utf8_are_refused() {
        assert_eq!(Query::parse("a=%"), Err(Odd::Escape));
        assert_eq!(Query::parse("a=%g0"), Err(Odd::Escape));
        assert_eq!(Query::parse("a=%00"), Err(Odd::EncodedControl));
        assert_eq!(Query::parse("%0a=1"), Err(Odd::EncodedControl));
        assert_eq!(Query::parse("a=%ff"), Err(Odd::NotUtf8));
    }

    #[test]
    fn a_repetition_is_seen_through_its_encoding_and_only_where_it_counts() {
        let query = Query::parse("type=a&%74ype=b&t=1&t=2").unwrap();
        assert_eq!(query.repeated(|key| key == "type"), Some("type"));
        assert_eq!(query.repeated(|key| key == "filename"), None);
        assert_eq!(query.repeated(|_| true), Some("type"));
    }
}
