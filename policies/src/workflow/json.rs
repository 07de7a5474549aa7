//! A strict, bounded JSON reader.
//!
//! `serde_json` and Python's `json` disagree on what a text means: Python takes `NaN`, lone surrogates and duplicate keys (the last one wins), so a filter
//! that reads otherwise than ComfyUI can be walked around. This reader takes RFC 8259 only, and refuses what RFC 8259 leaves open: duplicate keys (compared
//! after unescaping), lone surrogates, a byte order mark, numbers that are not finite or not exact. Nesting, strings, numbers and the count of values are bounded
//! while reading, so a refused body costs no more than its bytes.

use std::collections::HashSet;

/// A JSON value as it was written: integers exact, objects in the order of the text.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number without fraction and exponent, −2^63 ..= 2^64 − 1.
    Int(i128),
    /// Any other number; always finite.
    Float(f64),
    /// A string without lone surrogates.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object; its keys are distinct.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value under `key` of an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The same value in `serde_json`'s form.
    pub fn to_value(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Int(value) => {
                let number = u64::try_from(*value).map(Value::from);
                number.or_else(|_| i64::try_from(*value).map(Value::from)).unwrap_or(Value::Null)
            }
            Json::Float(value) => Value::from(*value),
            Json::Text(value) => Value::from(value.as_str()),
            Json::List(items) => Value::Array(items.iter().map(Json::to_value).collect()),
            Json::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (key.clone(), value.to_value())).collect())
            }
        }
    }

    /// What kind of value this is, in JSON's words.
    pub fn type_name(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Int(_) => "an integer",
            Json::Float(_) => "a number",
            Json::Text(_) => "a string",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }
}

/// Bounds of one part of a body.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Nested lists and objects.
    pub depth_max: usize,
    /// Bytes of one string after unescaping; keys too.
    pub string_bytes_max: usize,
    /// Values in this part: members, items and the value itself.
    pub values_max: usize,
    /// Bytes of text from the first to the last character of the part.
    pub bytes_max: usize,
}

/// Characters in one number. A double needs 25 at most and an exact integer of ours 20; ComfyUI's Python fails from 4301 digits on.
pub const NUMBER_CHARS_MAX: usize = 64;

/// Why a text is not JSON that we take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Stable, for machines.
    pub code: &'static str,
    /// For people: lower case, without full stop.
    pub message: String,
    /// Byte offset in the text.
    pub offset: usize,
    /// JSON pointer (RFC 6901) of the value that was being read.
    pub pointer: String,
    /// Whether a size was exceeded rather than the grammar broken.
    pub too_large: bool,
}

/// Reads one JSON text from front to back.
pub struct Reader<'a> {
    text: &'a str,
    offset: usize,
    path: Vec<String>,
    values_left: usize,
    limits: Limits,
}

impl<'a> Reader<'a> {
    /// A reader over `text` that starts under `limits`.
    pub fn new(text: &'a str, limits: Limits) -> Self {
        Self { text, offset: 0, path: Vec::new(), values_left: limits.values_max, limits }
    }

    /// Reads an object member by member; `each` is called with the key when its value comes next, and must read that value.
    pub fn members(&mut self, each: &mut dyn FnMut(&mut Self, &str) -> Result<(), Fault>) -> Result<(), Fault> {
        self.expect_byte(b'{', "an object")?;
        let mut seen = HashSet::new();
        self.skip_space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.skip_space();
            let start = self.offset;
            if self.peek() != Some(b'"') {
                return Err(self.syntax("expected a key in double quotes"));
            }
            let key = self.string()?;
            self.path.push(key.clone());
            if !seen.insert(key.clone()) {
                return Err(self.fault_at(start, "duplicate_key", format!("the key `{}` is there twice", shown(&key))));
            }
            self.skip_space();
            self.expect_byte(b':', "`:`")?;
            self.skip_space();
            each(self, &key)?;
            self.path.pop();
            self.skip_space();
            if self.take(b'}') {
                return Ok(());
            }
            self.expect_byte(b',', "`,` or `}`")?;
        }
    }

    /// Reads one value under its own `limits`, counted apart from what surrounds it.
    pub fn part(&mut self, limits: Limits) -> Result<Json, Fault> {
        let outer = (self.limits, self.values_left);
        self.limits = limits;
        self.values_left = limits.values_max;
        let start = self.offset;
        let value = self.value(0)?;
        if self.offset - start > limits.bytes_max {
            return Err(self.too_large(start, "part_too_large", format!("more than {} bytes", limits.bytes_max)));
        }
        (self.limits, self.values_left) = outer;
        Ok(value)
    }

    /// The next byte, if it begins an object.
    pub fn at_object(&self) -> bool {
        self.peek() == Some(b'{')
    }

    /// Whether a list comes next, white space apart.
    pub fn at_list(&mut self) -> bool {
        self.skip_space();
        self.peek() == Some(b'[')
    }

    /// Skips white space.
    pub fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.offset += 1;
        }
    }

    /// Refuses anything but white space up to the end.
    pub fn end(&mut self) -> Result<(), Fault> {
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault_at(self.offset, "trailing_data", "there is data after the value".to_owned())),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, Fault> {
        match self.values_left.checked_sub(1) {
            Some(left) => self.values_left = left,
            None => {
                let message = format!("more than {} values", self.limits.values_max);
                return Err(self.too_large(self.offset, "too_many_values", message));
            }
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(b'N' | b'I') => {
                Err(self.fault_at(self.offset, "not_finite", "`NaN` and `Infinity` are not JSON".to_owned()))
            }
            Some(_) => Err(self.syntax("expected a value")),
            None => Err(self.syntax("the text ends where a value should be")),
        }
    }

    fn deeper(&mut self, depth: usize) -> Result<usize, Fault> {
        if depth >= self.limits.depth_max {
            let message = format!("nested more than {} levels deep", self.limits.depth_max);
            return Err(self.too_large(self.offset, "too_deep", message));
        }
        Ok(depth + 1)
    }

    fn object(&mut self, depth: usize) -> Result<Json, Fault> {
        let depth = self.deeper(depth)?;
        let mut members = Vec::new();
        self.members(&mut |reader, key| {
            members.push((key.to_owned(), reader.value(depth)?));
            Ok(())
        })?;
        Ok(Json::Object(members))
    }

    fn list(&mut self, depth: usize) -> Result<Json, Fault> {
        let depth = self.deeper(depth)?;
        self.offset += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.take(b']') {
            return Ok(Json::List(items));
        }
        loop {
            self.path.push(items.len().to_string());
            items.push(self.value(depth)?);
            self.path.pop();
            self.skip_space();
            if self.take(b']') {
                return Ok(Json::List(items));
            }
            self.expect_byte(b',', "`,` or `]`")?;
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, Fault> {
        if self.rest().starts_with(word) {
            self.offset += word.len();
            return Ok(value);
        }
        Err(self.syntax("expected a value"))
    }

    fn number(&mut self) -> Result<Json, Fault> {
        let start = self.offset;
        let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = self.rest().bytes().take_while(is_number).count();
        if length > NUMBER_CHARS_MAX {
            let message = format!("a number of more than {NUMBER_CHARS_MAX} characters");
            return Err(self.too_large(start, "number_too_long", message));
        }
        let text = self.rest().get(..length).unwrap_or_default();
        match number_form(text) {
            None => Err(self.syntax("not a JSON number")),
            Some(NumberForm::Integer) => match text.parse::<i128>() {
                Ok(value) if value >= i128::from(i64::MIN) && value <= i128::from(u64::MAX) => {
                    self.offset += length;
                    Ok(Json::Int(value))
                }
                _ => {
                    let message = "an integer outside −2^63 ..= 2^64 − 1".to_owned();
                    Err(self.fault_at(start, "integer_out_of_range", message))
                }
            },
            Some(NumberForm::Decimal) => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => {
                    self.offset += length;
                    Ok(Json::Float(value))
                }
                _ => Err(self.fault_at(start, "not_finite", "a number too large to be finite".to_owned())),
            },
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let start = self.offset;
        self.offset += 1;
        let mut out = String::new();
        loop {
            let rest = self.rest();
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c < ' ').unwrap_or(rest.len());
            if out.len() + plain > self.limits.string_bytes_max {
                let message = format!("a string of more than {} bytes", self.limits.string_bytes_max);
                return Err(self.too_large(start, "string_too_long", message));
            }
            out.push_str(rest.get(..plain).unwrap_or_default());
            self.offset += plain;
            match self.peek() {
                Some(b'"') => {
                    self.offset += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return Err(self.syntax("a control character in a string must be escaped")),
                None => return Err(self.fault_at(start, "invalid_json", "the string does not end".to_owned())),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        self.offset += 1;
        let letter = self.peek();
        self.offset += usize::from(letter.is_some_and(|byte| byte.is_ascii()));
        match letter {
            Some(b'"') => Ok('"'),
            Some(b'\\') => Ok('\\'),
            Some(b'/') => Ok('/'),
            Some(b'b') => Ok('\u{8}'),
            Some(b'f') => Ok('\u{c}'),
            Some(b'n') => Ok('\n'),
            Some(b'r') => Ok('\r'),
            Some(b't') => Ok('\t'),
            Some(b'u') => self.unicode_escape(),
            _ => Err(self.syntax("an unknown escape in a string")),
        }
    }

    fn unicode_escape(&mut self) -> Result<char, Fault> {
        let start = self.offset;
        let first = self.hex4()?;
        let code = match first {
            0xD800..=0xDBFF if self.rest().starts_with("\\u") => {
                self.offset += 2;
                match self.hex4()? {
                    second @ 0xDC00..=0xDFFF => 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00),
                    _ => return Err(self.lone_surrogate(start)),
                }
            }
            code => code,
        };
        char::from_u32(code).ok_or_else(|| self.lone_surrogate(start))
    }

    fn hex4(&mut self) -> Result<u32, Fault> {
        let digits = self.rest().get(..4).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|text| u32::from_str_radix(text, 16).ok()) {
            Some(code) => {
                self.offset += 4;
                Ok(code)
            }
            None => Err(self.syntax("`\\u` needs four hexadecimal digits")),
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.offset += usize::from(there);
        there
    }

    fn expect_byte(&mut self, byte: u8, name: &str) -> Result<(), Fault> {
        if self.take(byte) { Ok(()) } else { Err(self.syntax(&format!("expected {name}"))) }
    }

    /// A fault of the value that is being read now.
    pub fn fault(&self, code: &'static str, message: impl Into<String>) -> Fault {
        self.fault_at(self.offset, code, message.into())
    }

    fn fault_at(&self, offset: usize, code: &'static str, message: String) -> Fault {
        Fault { code, message, offset, pointer: pointer(&self.path), too_large: false }
    }

    fn too_large(&self, offset: usize, code: &'static str, message: String) -> Fault {
        Fault { too_large: true, ..self.fault_at(offset, code, message) }
    }

    fn syntax(&self, message: &str) -> Fault {
        self.fault_at(self.offset, "invalid_json", message.to_owned())
    }

    fn lone_surrogate(&self, offset: usize) -> Fault {
        self.fault_at(offset, "lone_surrogate", "half of a surrogate pair in a string".to_owned())
    }
}

enum NumberForm {
    Integer,
    Decimal,
}

/// Whether `text` is a number of RFC 8259, and of which form.
fn number_form(text: &str) -> Option<NumberForm> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_good = exponent.is_none_or(|text| digits(text.strip_prefix(['+', '-']).unwrap_or(text)));
    let good =
        digits(whole) && (whole == "0" || !whole.starts_with('0')) && fraction.is_none_or(digits) && exponent_good;
    match (good, fraction.is_none() && exponent.is_none()) {
        (false, _) => None,
        (true, true) => Some(NumberForm::Integer),
        (true, false) => Some(NumberForm::Decimal),
    }
}

/// The JSON pointer (RFC 6901) of a path; long steps are cut, since they came from the caller.
pub fn pointer<S: AsRef<str>>(path: &[S]) -> String {
    let mut out = String::new();
    for step in path {
        out.push('/');
        out.push_str(&shown(step.as_ref()).replace('~', "~0").replace('/', "~1"));
    }
    out
}

/// Characters of a caller's text that a message repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// A caller's text for a message: cut, and without control characters.
pub fn shown(text: &str) -> String {
    let mut out: String =
        text.chars().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

/// Line and column of a byte offset, both from 1; the column counts characters.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { depth_max: 4, string_bytes_max: 8, values_max: 20, bytes_max: 200 };

    fn read(text: &str) -> Result<Json, Fault> {
        let mut reader = Reader::new(text, LIMITS);
        let value = reader.part(LIMITS)?;
        reader.end()?;
        Ok(value)
    }

    fn code(text: &str) -> &'static str {
        read(text).unwrap_err().code
    }

    #[test]
    fn values_keep_their_exact_form() {
        assert_eq!(read("18446744073709551615"), Ok(Json::Int(i128::from(u64::MAX))));
        assert_eq!(read("-9223372036854775808"), Ok(Json::Int(i128::from(i64::MIN))));
        assert_eq!(read("1.0"), Ok(Json::Float(1.0)));
        assert_eq!(read("[1,2 , 3]"), Ok(Json::List(vec![Json::Int(1), Json::Int(2), Json::Int(3)])));
        assert_eq!(read(r#""a\u00e9\ud83d\ude00""#), Ok(Json::Text("aé😀".into())));
    }

    #[test]
    fn numbers_just_outside_the_grammar_or_range_are_refused() {
        assert_eq!(code("18446744073709551616"), "integer_out_of_range");
        assert_eq!(code("-9223372036854775809"), "integer_out_of_range");
        assert_eq!(code("1e400"), "not_finite");
        for text in ["NaN", "Infinity"] {
            assert_eq!(code(text), "not_finite");
        }
        for text in ["01", "+1", "1.", ".5", "1e", "-", "--1", "１"] {
            assert_eq!(code(text), "invalid_json", "{text}");
        }
        assert!(read(&"1".repeat(19)).is_ok());
        assert!(read(&format!("0.{}", "1".repeat(NUMBER_CHARS_MAX - 2))).is_ok());
        assert_eq!(code(&format!("0.{}", "1".repeat(NUMBER_CHARS_MAX - 1))), "number_too_long");
    }

    #[test]
    fn duplicate_keys_are_refused_after_unescaping_at_any_depth() {
        assert!(read(r#"{"a":1,"b":{"a":2}}"#).is_ok());
        assert_eq!(code(r#"{"x":{"steps":1,"st\u0065ps":2}}"#), "duplicate_key");
        assert_eq!(read(r#"{"x":{"a":1,"a":2}}"#).unwrap_err().pointer, "/x/a");
    }

    #[test]
    fn lone_surrogates_are_refused_in_strings_and_keys() {
        for text in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ud800x""#, r#"{"\ud800":1}"#] {
            assert_eq!(code(text), "lone_surrogate", "{text}");
        }
    }

    #[test]
    fn depth_strings_and_values_are_bounded() {
        assert!(read("[[[[1]]]]").is_ok());
        assert_eq!(code("[[[[[1]]]]]"), "too_deep");
        assert!(read(r#""12345678""#).is_ok());
        assert_eq!(code(r#""123456789""#), "string_too_long");
        assert!(read(&format!("[{}1]", "1,".repeat(18))).is_ok());
        assert_eq!(code(&format!("[{}1]", "1,".repeat(19))), "too_many_values");
    }

    #[test]
    fn trailing_data_and_open_ends_are_refused() {
        assert_eq!(code("1 2"), "trailing_data");
        for text in ["0x10", "1_0"] {
            assert_eq!(code(text), "trailing_data");
        }
        for text in
            ["", "[1", "[1,]", "{\"a\":}", "{\"a\" 1}", "{a:1}", "\"abc", "\"\u{1}\"", "tru", "'a'", "\u{feff}1"]
        {
            assert_eq!(code(text), "invalid_json", "{text:?}");
        }
    }

    #[test]
    fn a_position_counts_lines_and_characters_from_one() {
        assert_eq!(position("a\né b", 4), (2, 2));
        assert_eq!(position("", 0), (1, 1));
    }
}
