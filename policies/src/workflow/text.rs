//! Strings of a body, without a copy of each.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A string that a body holds: a piece of the body, which all pieces share, or a text of its own where the body writes it with escapes. Cheap to clone; as long as one piece of a body
/// lives, so does the body ([`detached`](Text::detached) ends that).
#[derive(Clone)]
pub struct Text {
    whole: Arc<str>,
    /// Byte offset in `whole`. No piece of a body begins at 0, where its first bracket or a quote stands, so 0 means: the text is `whole`.
    start: u32,
    bytes: u32,
}

impl Text {
    /// The piece of `body` from `start` on, `bytes` long. `None` if that is no piece of it, or the body is longer than bodies are.
    #[inline]
    pub(crate) fn piece(body: &Arc<str>, start: usize, bytes: usize) -> Option<Self> {
        body.get(start..start.checked_add(bytes)?)?;
        let (start, bytes) = (u32::try_from(start).ok()?, u32::try_from(bytes).ok()?);
        Some(Self { whole: Arc::clone(body), start, bytes })
    }

    /// The bytes of the text.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        let whole = self.whole.as_bytes();
        if self.start == 0 {
            return whole;
        }
        let start = self.start as usize;
        whole.get(start..start + self.bytes as usize).unwrap_or_default()
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text as such.
    pub fn as_str(&self) -> &str {
        if self.start == 0 {
            return &self.whole;
        }
        let start = self.start as usize;
        self.whole.get(start..start + self.bytes as usize).unwrap_or_default()
    }

    /// Whether it was written in JSON as it is, without an escape, and so may be written again.
    pub(crate) fn is_verbatim(&self) -> bool {
        self.start != 0
    }

    /// The same text, which keeps no body alive.
    pub fn detached(&self) -> Self {
        Self::from(self.as_str())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self { whole: Arc::from(text), start: 0, bytes: 0 }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<Text> for str {
    fn eq(&self, other: &Text) -> bool {
        self == other.as_str()
    }
}

impl PartialEq<Text> for &str {
    fn eq(&self, other: &Text) -> bool {
        *self == other.as_str()
    }
}

impl PartialEq<Text> for String {
    fn eq(&self, other: &Text) -> bool {
        self == other.as_str()
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl std::borrow::Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_lies_within_its_body_at_characters() {
        let body: Arc<str> = Arc::from("{\"é\":1}");
        assert_eq!(Text::piece(&body, 2, 2).unwrap(), "é");
        assert!(Text::piece(&body, 2, 1).is_none());
        assert!(Text::piece(&body, 2, 99).is_none());
        assert!(Text::piece(&body, usize::MAX, 2).is_none());
        assert_eq!(Text::piece(&body, 2, 0).unwrap(), "");
    }

    #[test]
    fn a_detached_text_is_equal_and_lets_the_body_go() {
        let body: Arc<str> = Arc::from("{\"a\":1}");
        let piece = Text::piece(&body, 2, 1).unwrap();
        let own = piece.detached();
        assert_eq!((&own, own.is_verbatim(), piece.is_verbatim()), (&piece, false, true));
        drop(piece);
        assert_eq!(Arc::strong_count(&body), 1);
    }
}
