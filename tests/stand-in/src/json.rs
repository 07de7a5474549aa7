//! JSON as Python's `json` module reads and writes it, because ComfyUI's answers depend on it.
//!
//! Differences from strict JSON that callers can see: of two equal keys the last wins, `NaN` and `Infinity` are read and
//! written, integers are exact, and printing puts a space after `,` and `:` and escapes everything outside ASCII.
//! Where this reader is narrower than Python: integers beyond 128 bits are refused, and lone surrogates become U+FFFD.

use indexmap::IndexMap;

/// A JSON object in the order in which its keys were first seen.
pub type Dict = IndexMap<String, Json>;

/// Levels of nesting that Python's reader takes before it raises `RecursionError` (980 were read by a real server inside of
/// a body, 981 not).
const PARSE_DEPTH_MAX: usize = 980;

/// A value as Python holds it after `json.loads`.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `None`.
    Null,
    /// `True` or `False`.
    Bool(bool),
    /// An integer; Python's have no size, ours have 128 bits.
    Int(i128),
    /// A float, NaN and infinities included.
    Float(f64),
    /// A string.
    Str(String),
    /// A list.
    List(Vec<Json>),
    /// A dict.
    Dict(Dict),
}

/// The text is not JSON for Python either; ComfyUI answers 500 to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson;

impl Json {
    /// Reads one JSON text. Fails on everything on which `json.loads` fails, a byte order mark included.
    pub fn parse(text: &str) -> Result<Json, NotJson> {
        let mut reader = Reader { bytes: text.as_bytes(), text, at: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at == reader.bytes.len() { Ok(value) } else { Err(NotJson) }
    }

    /// Prints as `json.dumps` does by default.
    pub fn dumps(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(true) => out.push_str("true"),
            Json::Bool(false) => out.push_str("false"),
            Json::Int(number) => out.push_str(&number.to_string()),
            Json::Float(number) if number.is_nan() => out.push_str("NaN"),
            Json::Float(number) if number.is_infinite() => {
                out.push_str(if *number > 0.0 { "Infinity" } else { "-Infinity" });
            }
            Json::Float(number) => out.push_str(&crate::python::float_repr(*number)),
            Json::Str(text) => write_string(text, out),
            Json::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Json::Dict(dict) => {
                out.push('{');
                for (index, (key, item)) in dict.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    write_string(key, out);
                    out.push_str(": ");
                    item.write(out);
                }
                out.push('}');
            }
        }
    }

    /// The value under `key` of a dict; `None` for a missing key and for everything that is no dict.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Dict(dict) => dict.get(key),
            _ => None,
        }
    }

    /// The value at the end of a chain of keys.
    pub fn at(&self, path: &[&str]) -> Option<&Json> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The dict, if it is one.
    pub fn as_dict(&self) -> Option<&Dict> {
        match self {
            Json::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<&[Json]> {
        match self {
            Json::List(items) => Some(items),
            _ => None,
        }
    }

    /// The number as Python compares it with a float; booleans are 0 and 1.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Json::Bool(flag) => Some(f64::from(u8::from(*flag))),
            #[expect(clippy::cast_precision_loss, reason = "Python's own float() rounds as well")]
            Json::Int(number) => Some(*number as f64),
            Json::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// Python's truth of a value.
    pub fn truthy(&self) -> bool {
        match self {
            Json::Null => false,
            Json::Bool(flag) => *flag,
            Json::Int(number) => *number != 0,
            Json::Float(number) => *number != 0.0,
            Json::Str(text) => !text.is_empty(),
            Json::List(items) => !items.is_empty(),
            Json::Dict(dict) => !dict.is_empty(),
        }
    }

    /// Python's `==`: numbers and booleans compare by value, whatever their type.
    pub fn equals(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Int(a), Json::Int(b)) => a == b,
            (Json::Str(a), Json::Str(b)) => a == b,
            (Json::Null, Json::Null) => true,
            (Json::List(a), Json::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.equals(y)),
            (Json::Dict(a), Json::Dict(b)) => {
                a.len() == b.len() && a.iter().all(|(key, x)| b.get(key).is_some_and(|y| x.equals(y)))
            }
            _ => match (self.as_number(), other.as_number()) {
                (Some(a), Some(b)) => a == b,
                _ => false,
            },
        }
    }

    /// Levels of nesting: 0 for a plain value, 1 for a flat list or dict.
    pub fn depth(&self) -> usize {
        match self {
            Json::List(items) => 1 + items.iter().map(Json::depth).max().unwrap_or(0),
            Json::Dict(dict) => 1 + dict.values().map(Json::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// The same value for serde; NaN and infinities become null, since strict JSON has no word for them.
    pub fn to_value(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Bool(*flag),
            Json::Int(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => Value::from(number),
                (_, Ok(number)) => Value::from(number),
                _ => self.as_number().map_or(Value::Null, Value::from),
            },
            Json::Float(number) => Value::from(*number),
            Json::Str(text) => Value::from(text.as_str()),
            Json::List(items) => items.iter().map(Json::to_value).collect(),
            Json::Dict(dict) => dict.iter().map(|(key, item)| (key.clone(), item.to_value())).collect(),
        }
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Json {
        use serde_json::Value;
        match value {
            Value::Null => Json::Null,
            Value::Bool(flag) => Json::Bool(flag),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Json::Int(number.into()),
                (_, Some(number)) => Json::Int(number.into()),
                _ => Json::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Json::Str(text),
            Value::Array(items) => Json::List(items.into_iter().map(Json::from).collect()),
            Value::Object(map) => Json::Dict(map.into_iter().map(|(key, item)| (key, Json::from(item))).collect()),
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Str(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Json {
        Json::Str(text)
    }
}

impl From<i64> for Json {
    fn from(number: i64) -> Json {
        Json::Int(number.into())
    }
}

/// A dict from literal keys, in that order.
pub fn dict<const N: usize>(entries: [(&str, Json); N]) -> Json {
    Json::Dict(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, NotJson> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(NotJson)
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, NotJson> {
        if depth > PARSE_DEPTH_MAX {
            return Err(NotJson);
        }
        self.space();
        match self.peek().ok_or(NotJson)? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Json::Str),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'n' => self.word("null", Json::Null),
            b'N' => self.word("NaN", Json::Float(f64::NAN)),
            b'I' => self.word("Infinity", Json::Float(f64::INFINITY)),
            b'-' if self.bytes.get(self.at + 1) == Some(&b'I') => {
                self.word("-Infinity", Json::Float(f64::NEG_INFINITY))
            }
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(NotJson),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, NotJson> {
        self.at += 1;
        let mut dict = Dict::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Dict(dict));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(NotJson);
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(NotJson);
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            dict.insert(key, value);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Json::Dict(dict));
                }
                _ => return Err(NotJson),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, NotJson> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::List(items));
                }
                _ => return Err(NotJson),
            }
        }
    }

    fn number(&mut self) -> Result<Json, NotJson> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(NotJson),
        }
        let mut float = false;
        if self.peek() == Some(b'.') && self.bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit) {
            float = true;
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            let signed = usize::from(matches!(self.bytes.get(self.at + 1), Some(b'+' | b'-')));
            if self.bytes.get(self.at + 1 + signed).is_some_and(u8::is_ascii_digit) {
                float = true;
                self.at += 1 + signed;
                self.digits();
            }
        }
        let written = self.text.get(start..self.at).ok_or(NotJson)?;
        if float {
            written.parse().map(Json::Float).map_err(|_| NotJson)
        } else {
            written.parse().map(Json::Int).map_err(|_| NotJson)
        }
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<String, NotJson> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|byte| byte != b'"' && byte != b'\\' && byte >= 0x20) {
                self.at += 1;
            }
            out.push_str(self.text.get(start..self.at).ok_or(NotJson)?);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => self.escape(&mut out)?,
                _ => return Err(NotJson),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), NotJson> {
        let kind = self.bytes.get(self.at + 1).copied().ok_or(NotJson)?;
        self.at += 2;
        match kind {
            b'"' | b'\\' | b'/' => out.push(char::from(kind)),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'u' => {
                let first = self.unit()?;
                let mut units = vec![first];
                let paired = self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(b"\\u"));
                if (0xd800..0xdc00).contains(&first) && paired {
                    self.at += 2;
                    units.push(self.unit()?);
                }
                out.push_str(&String::from_utf16_lossy(&units));
            }
            _ => return Err(NotJson),
        }
        Ok(())
    }

    fn unit(&mut self) -> Result<u16, NotJson> {
        let digits = self.text.get(self.at..self.at + 4).ok_or(NotJson)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotJson);
        }
        self.at += 4;
        u16::from_str_radix(digits, 16).map_err(|_| NotJson)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_equal_keys_wins_in_the_place_of_the_first() {
        let value = Json::parse(r#"{"a": 1, "b": 2, "a": 3}"#).unwrap();
        assert_eq!(value.dumps(), r#"{"a": 3, "b": 2}"#);
    }

    #[test]
    fn numbers_that_strict_json_lacks_are_read_and_written() {
        for text in ["NaN", "Infinity", "-Infinity"] {
            assert_eq!(Json::parse(text).unwrap().dumps(), text);
        }
        assert_eq!(Json::parse("1e400").unwrap().dumps(), "Infinity");
    }

    #[test]
    fn text_outside_ascii_is_escaped_as_python_does() {
        assert_eq!(Json::from("é😀\u{7f}").dumps(), r#""\u00e9\ud83d\ude00\u007f""#);
    }

    #[test]
    fn nesting_is_read_up_to_pythons_limit_and_no_further() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Json::parse(&nested(PARSE_DEPTH_MAX)).is_ok());
        assert!(Json::parse(&nested(PARSE_DEPTH_MAX + 2)).is_err());
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for text in ["", "\u{feff}{}", "{\"a\": 1,}", "[1 2]", "01", "'a'", "{1: 2}", "\"\n\""] {
            assert_eq!(Json::parse(text), Err(NotJson), "{text:?}");
        }
    }
}
