//! A strict, bounded JSON reader.
//!
//! `serde_json` and Python's `json` disagree on what a text means: Python takes `NaN`, lone surrogates and duplicate keys (the last one wins), so a filter
//! that reads otherwise than ComfyUI can be walked around. This reader takes RFC 8259 only, and refuses what RFC 8259 leaves open: duplicate keys (compared
//! after unescaping), lone surrogates, a byte order mark, numbers that are not finite or not exact. Nesting, strings, numbers and the count of values are bounded
//! while reading, so a refused body costs no more than its bytes. What only has to be sound is checked and left where it is ([`Reader::checked`]).

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::text::Text;

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
    Text(Text),
    /// An array of a string and an integer from 0 to 2^32 − 1, as a link is written: nearly every array, and none of these is a [`List`](Self::List).
    Pair(Text, u32),
    /// Any other array.
    List(Vec<Json>),
    /// An object; its keys are distinct.
    Object(Vec<(Text, Json)>),
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
            Json::Pair(first, second) => Value::Array(vec![Value::from(first.as_str()), Value::from(*second)]),
            Json::List(items) => Value::Array(items.iter().map(Json::to_value).collect()),
            Json::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (key.to_string(), value.to_value())).collect())
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
            Json::Pair(..) | Json::List(_) => "a list",
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
/// Keys of an object that are compared one by one; more go into a set. Its hash has a seed of the process, so that nobody sends keys that all fall into one place.
const COMPARED_KEYS_MAX: usize = 16;

/// Members of a value whose memory is not worth a second look.
const FEW_MEMBERS: usize = 16;

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

/// What reading comes to that gives nothing.
pub type Read = Result<(), Box<Fault>>;

/// Where in the text the inside of a string is.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    /// Holds an escape.
    escaped: bool,
}

/// A step of the way from the whole text to the value that is being read.
#[derive(Debug, Clone, Copy)]
enum Step {
    Key(Span),
    Item(usize),
}

/// Reads one JSON text from front to back.
pub struct Reader<'a> {
    text: &'a Arc<str>,
    /// Those of `text`.
    bytes: &'a [u8],
    offset: usize,
    path: Vec<Step>,
    /// The keys of all objects that are open, the innermost last.
    keys: Vec<Span>,
    values_left: usize,
    limits: Limits,
    /// Whether white space between values was met, as opposed to within strings.
    spaced: bool,
}

/// What a reader does with a value once it is found sound.
trait Shape: Sized {
    fn null() -> Self;
    fn bool(value: bool) -> Self;
    fn int(value: i128) -> Self;
    fn float(value: f64) -> Self;
    fn text(reader: &Reader<'_>, span: Span) -> Self;
    fn list() -> Self;
    /// A list of two.
    fn pair(first: Self, second: Self) -> Self;
    fn push(&mut self, item: Self);
    fn object() -> Self;
    fn insert(&mut self, reader: &Reader<'_>, key: Span, value: Self);
    fn end(&mut self) {}
}

impl Shape for Json {
    fn null() -> Self {
        Json::Null
    }

    fn bool(value: bool) -> Self {
        Json::Bool(value)
    }

    fn int(value: i128) -> Self {
        Json::Int(value)
    }

    fn float(value: f64) -> Self {
        Json::Float(value)
    }

    fn text(reader: &Reader<'_>, span: Span) -> Self {
        Json::Text(reader.text_of(span))
    }

    fn list() -> Self {
        Json::List(Vec::new())
    }

    fn pair(first: Self, second: Self) -> Self {
        match (first, second) {
            (Json::Text(first), Json::Int(second)) => match u32::try_from(second) {
                Ok(second) => Json::Pair(first, second),
                Err(_) => Json::List(vec![Json::Text(first), Json::Int(second)]),
            },
            (first, second) => Json::List(vec![first, second]),
        }
    }

    fn push(&mut self, item: Self) {
        if let Json::List(items) = self {
            items.push(item);
        }
    }

    fn object() -> Self {
        // As many as a node has.
        Json::Object(Vec::with_capacity(3))
    }

    fn insert(&mut self, reader: &Reader<'_>, key: Span, value: Self) {
        if let Json::Object(members) = self {
            members.push((reader.text_of(key), value));
        }
    }

    fn end(&mut self) {
        // What grew by doubling would keep up to twice its memory; of a few members that is little.
        match self {
            Json::List(items) if items.len() > FEW_MEMBERS => items.shrink_to_fit(),
            Json::Object(members) if members.len() > FEW_MEMBERS => members.shrink_to_fit(),
            _ => {}
        }
    }
}

/// Of a value that only has to be sound nothing is kept.
struct Checked;

impl Shape for Checked {
    fn null() -> Self {
        Checked
    }

    fn bool(_: bool) -> Self {
        Checked
    }

    fn int(_: i128) -> Self {
        Checked
    }

    fn float(_: f64) -> Self {
        Checked
    }

    fn text(_: &Reader<'_>, _: Span) -> Self {
        Checked
    }

    fn list() -> Self {
        Checked
    }

    fn pair(_: Self, _: Self) -> Self {
        Checked
    }

    fn push(&mut self, _: Self) {}

    fn object() -> Self {
        Checked
    }

    fn insert(&mut self, _: &Reader<'_>, _: Span, _: Self) {}
}

/// The keys of one object, to find one that comes twice.
struct Keys<'a> {
    /// Where in the reader's list of keys those of this object begin.
    base: usize,
    /// All of them, once there are many.
    many: Option<HashSet<Cow<'a, str>, RandomState>>,
}

impl<'a> Reader<'a> {
    /// A reader over `text` that starts under `limits`.
    pub fn new(text: &'a Arc<str>, limits: Limits) -> Self {
        let (path, keys, values_left) = (Vec::new(), Vec::new(), limits.values_max);
        Self { text, bytes: text.as_bytes(), offset: 0, path, keys, values_left, limits, spaced: false }
    }

    /// Reads an object member by member; `each` is called with the key when its value comes next, and must read that value, which no white space stands before.
    pub fn members(&mut self, each: &mut dyn FnMut(&mut Self, &Text) -> Read) -> Read {
        self.each_member(|reader, key| {
            let key = reader.text_of(key);
            each(reader, &key)
        })
    }

    fn each_member(&mut self, mut each: impl FnMut(&mut Self, Span) -> Read) -> Read {
        self.expect_byte(b'{', "an object")?;
        let mut keys = Keys { base: self.keys.len(), many: None };
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
            self.path.push(Step::Key(key));
            if !self.is_new_key(&mut keys, key) {
                let message = format!("the key `{}` is there twice", shown(&self.unescaped(key)));
                return Err(self.fault_at(start, "duplicate_key", message));
            }
            self.skip_space();
            self.expect_byte(b':', "`:`")?;
            self.skip_space();
            each(self, key)?;
            self.path.pop();
            self.skip_space();
            if self.take(b'}') {
                self.keys.truncate(keys.base);
                return Ok(());
            }
            self.expect_byte(b',', "`,` or `}`")?;
        }
    }

    /// Notes a key of an object; not if it is there already.
    fn is_new_key(&mut self, keys: &mut Keys<'a>, key: Span) -> bool {
        if let Some(many) = &mut keys.many {
            return many.insert(unescaped(self.text, key));
        }
        let known = self.keys.get(keys.base..).unwrap_or_default();
        if known.iter().any(|other| self.same_text(*other, key)) {
            return false;
        }
        if known.len() < COMPARED_KEYS_MAX {
            self.keys.push(key);
            return true;
        }
        let mut many: HashSet<_, _> = known.iter().map(|known| unescaped(self.text, *known)).collect();
        many.insert(unescaped(self.text, key));
        keys.many = Some(many);
        self.keys.truncate(keys.base);
        true
    }

    fn same_text(&self, a: Span, b: Span) -> bool {
        if a.escaped || b.escaped {
            return self.unescaped(a) == self.unescaped(b);
        }
        let bytes = |span: Span| self.bytes.get(span.start..span.end);
        let last = |span: Span| self.bytes.get(span.end.wrapping_sub(1));
        // Ids and names of one length mostly differ in their last character.
        a.end - a.start == b.end - b.start && last(a) == last(b) && bytes(a) == bytes(b)
    }

    /// Reads one value under its own `limits`, counted apart from what surrounds it.
    pub fn part(&mut self, limits: Limits) -> Result<Json, Box<Fault>> {
        self.bounded(limits, |reader| reader.value::<Json>(0))
    }

    /// Reads one value like [`part`](Self::part), and keeps nothing of it.
    pub fn skip(&mut self, limits: Limits) -> Read {
        self.bounded(limits, |reader| reader.value::<Checked>(0)).map(drop)
    }

    /// Reads one value like [`part`](Self::part) and gives its own text, without white space between values: sound JSON, in which nothing is doubted and nothing is written anew.
    /// Under the limits that hold already; `depth` levels are open around it.
    pub fn checked(&mut self, depth: usize) -> Result<Text, Box<Fault>> {
        self.skip_space();
        let (outer, start) = (std::mem::replace(&mut self.spaced, false), self.offset);
        self.value::<Checked>(depth)?;
        let text = match std::mem::replace(&mut self.spaced, outer) {
            false => Text::piece(self.text, start, self.offset - start),
            true => self.text.get(start..self.offset).map(|spaced| Text::from(without_space(spaced))),
        };
        text.ok_or_else(|| self.fault("invalid_json", "the text ends where a value should be"))
    }

    /// Runs `read` under `limits`, counted apart from what surrounds it.
    pub fn bounded<T>(
        &mut self,
        limits: Limits,
        read: impl FnOnce(&mut Self) -> Result<T, Box<Fault>>,
    ) -> Result<T, Box<Fault>> {
        let outer = (self.limits, self.values_left);
        self.limits = limits;
        self.values_left = limits.values_max;
        self.skip_space();
        let start = self.offset;
        let value = read(self)?;
        if self.offset - start > limits.bytes_max {
            return Err(self.too_large(start, "part_too_large", format!("more than {} bytes", limits.bytes_max)));
        }
        (self.limits, self.values_left) = outer;
        Ok(value)
    }

    /// Reads a value that stands `depth` levels deep in the part that is being read.
    pub fn inner(&mut self, depth: usize) -> Result<Json, Box<Fault>> {
        self.value(depth)
    }

    /// Reads a value like [`inner`](Self::inner), and keeps nothing of it.
    pub fn skip_inner(&mut self, depth: usize) -> Read {
        self.value::<Checked>(depth).map(drop)
    }

    /// Counts a value whose members are read one by one by [`members`](Self::members).
    pub fn count_value(&mut self) -> Read {
        match self.values_left.checked_sub(1) {
            Some(left) => self.values_left = left,
            None => return Err(self.too_many_values()),
        }
        Ok(())
    }

    #[cold]
    fn too_many_values(&self) -> Box<Fault> {
        let message = format!("more than {} values", self.limits.values_max);
        self.too_large(self.offset, "too_many_values", message)
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
    #[inline]
    pub fn skip_space(&mut self) {
        // Nearly always there is none, or one and an indentation.
        if self.peek().is_some_and(|byte| byte <= b' ') {
            self.skip_spaces();
        }
    }

    fn skip_spaces(&mut self) {
        let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        if !self.peek().as_ref().is_some_and(|byte| is_space(&byte)) {
            return;
        }
        self.offset += 1;
        // Indentation is eight spaces and more.
        while self.rest().starts_with(b"        ") {
            self.offset += 8;
        }
        self.offset += self.rest().iter().take_while(is_space).count();
        self.spaced = true;
    }

    /// Refuses anything but white space up to the end.
    pub fn end(&mut self) -> Read {
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault_at(self.offset, "trailing_data", "there is data after the value".to_owned())),
        }
    }

    fn value<S: Shape>(&mut self, depth: usize) -> Result<S, Box<Fault>> {
        self.count_value()?;
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string().map(|span| S::text(self, span)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", S::bool(true)),
            Some(b'f') => self.word("false", S::bool(false)),
            Some(b'n') => self.word("null", S::null()),
            Some(b'N' | b'I') => {
                Err(self.fault_at(self.offset, "not_finite", "`NaN` and `Infinity` are not JSON".to_owned()))
            }
            Some(_) => Err(self.syntax("expected a value")),
            None => Err(self.syntax("the text ends where a value should be")),
        }
    }

    fn deeper(&mut self, depth: usize) -> Result<usize, Box<Fault>> {
        if depth >= self.limits.depth_max {
            let message = format!("nested more than {} levels deep", self.limits.depth_max);
            return Err(self.too_large(self.offset, "too_deep", message));
        }
        Ok(depth + 1)
    }

    fn object<S: Shape>(&mut self, depth: usize) -> Result<S, Box<Fault>> {
        let depth = self.deeper(depth)?;
        let mut object = S::object();
        self.each_member(|reader, key| {
            let value = reader.value(depth)?;
            object.insert(reader, key, value);
            Ok(())
        })?;
        object.end();
        Ok(object)
    }

    fn list<S: Shape>(&mut self, depth: usize) -> Result<S, Box<Fault>> {
        let depth = self.deeper(depth)?;
        self.offset += 1;
        let mut list = S::list();
        self.skip_space();
        if self.take(b']') {
            return Ok(list);
        }
        let first = self.item(depth, 0)?;
        if self.take(b']') {
            list.push(first);
            return Ok(list);
        }
        let second = self.item(depth, 1)?;
        if self.take(b']') {
            return Ok(S::pair(first, second));
        }
        list.push(first);
        list.push(second);
        for place in 2.. {
            list.push(self.item(depth, place)?);
            if self.take(b']') {
                break;
            }
        }
        list.end();
        Ok(list)
    }

    /// An item of a list with what is around it: the comma before it, and the white space.
    #[inline]
    fn item<S: Shape>(&mut self, depth: usize, place: usize) -> Result<S, Box<Fault>> {
        if place > 0 {
            self.expect_byte(b',', "`,` or `]`")?;
            self.skip_space();
        }
        self.path.push(Step::Item(place));
        let item = self.value(depth)?;
        self.path.pop();
        self.skip_space();
        Ok(item)
    }

    fn word<S>(&mut self, word: &str, value: S) -> Result<S, Box<Fault>> {
        if self.rest().starts_with(word.as_bytes()) {
            self.offset += word.len();
            return Ok(value);
        }
        Err(self.syntax("expected a value"))
    }

    fn number<S: Shape>(&mut self) -> Result<S, Box<Fault>> {
        if let Some((value, length)) = small_integer(self.rest()) {
            self.offset += length;
            return Ok(S::int(value));
        }
        let start = self.offset;
        let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = self.rest().iter().take_while(|byte| is_number(byte)).count();
        if length > NUMBER_CHARS_MAX {
            let message = format!("a number of more than {NUMBER_CHARS_MAX} characters");
            return Err(self.too_large(start, "number_too_long", message));
        }
        let text = self.text.get(start..start + length).unwrap_or_default();
        match number_form(text) {
            None => Err(self.syntax("not a JSON number")),
            Some(NumberForm::Integer) => match text.parse::<i128>() {
                Ok(value) if value >= i128::from(i64::MIN) && value <= i128::from(u64::MAX) => {
                    self.offset += length;
                    Ok(S::int(value))
                }
                _ => {
                    let message = "an integer outside −2^63 ..= 2^64 − 1".to_owned();
                    Err(self.fault_at(start, "integer_out_of_range", message))
                }
            },
            Some(NumberForm::Decimal) => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => {
                    self.offset += length;
                    Ok(S::float(value))
                }
                _ => Err(self.fault_at(start, "not_finite", "a number too large to be finite".to_owned())),
            },
        }
    }

    /// Reads a string up to and with its closing quote.
    fn string(&mut self) -> Result<Span, Box<Fault>> {
        let quote = self.offset;
        self.offset += 1;
        let start = self.offset;
        // Bytes that the escapes so far take more than what they stand for.
        let mut shorter = 0;
        let mut escaped = false;
        loop {
            self.offset += plain_bytes(self.rest());
            if self.offset - start - shorter > self.limits.string_bytes_max {
                let message = format!("a string of more than {} bytes", self.limits.string_bytes_max);
                return Err(self.too_large(quote, "string_too_long", message));
            }
            match self.peek() {
                Some(b'"') => {
                    let end = self.offset;
                    self.offset += 1;
                    return Ok(Span { start, end, escaped });
                }
                Some(b'\\') => {
                    let before = self.offset;
                    let stands_for = self.escape()?;
                    shorter += (self.offset - before).saturating_sub(stands_for.len_utf8());
                    escaped = true;
                }
                Some(_) => return Err(self.syntax("a control character in a string must be escaped")),
                None => return Err(self.fault_at(quote, "invalid_json", "the string does not end".to_owned())),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Box<Fault>> {
        match escape(self.rest()) {
            Ok((stands_for, bytes)) => {
                self.offset += bytes;
                Ok(stands_for)
            }
            Err(EscapeFault::Unknown) => {
                self.offset += 1 + usize::from(self.rest().get(1).is_some_and(u8::is_ascii));
                Err(self.syntax("an unknown escape in a string"))
            }
            Err(EscapeFault::Digits(bytes)) => {
                self.offset += bytes;
                Err(self.syntax("`\\u` needs four hexadecimal digits"))
            }
            Err(EscapeFault::Surrogate) => {
                Err(self.fault_at(self.offset + 2, "lone_surrogate", "half of a surrogate pair in a string".to_owned()))
            }
        }
    }

    fn unescaped(&self, span: Span) -> Cow<'a, str> {
        unescaped(self.text, span)
    }

    #[inline]
    fn text_of(&self, span: Span) -> Text {
        match Text::piece(self.text, span.start, span.end.saturating_sub(span.start)) {
            Some(piece) if !span.escaped => piece,
            _ => self.own_text_of(span),
        }
    }

    #[cold]
    fn own_text_of(&self, span: Span) -> Text {
        Text::from(&*self.unescaped(span))
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.offset..).unwrap_or_default()
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.offset).copied()
    }

    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.offset += usize::from(there);
        there
    }

    #[inline]
    fn expect_byte(&mut self, byte: u8, name: &str) -> Read {
        if self.take(byte) { Ok(()) } else { Err(self.expected(name)) }
    }

    #[cold]
    fn expected(&self, name: &str) -> Box<Fault> {
        self.syntax(&format!("expected {name}"))
    }

    /// A fault of the value that is being read now.
    pub fn fault(&self, code: &'static str, message: impl Into<String>) -> Box<Fault> {
        self.fault_at(self.offset, code, message.into())
    }

    #[cold]
    fn fault_at(&self, offset: usize, code: &'static str, message: String) -> Box<Fault> {
        let step = |step: &Step| match step {
            Step::Key(key) => self.unescaped(*key),
            Step::Item(place) => Cow::Owned(place.to_string()),
        };
        let path: Vec<Cow<'_, str>> = self.path.iter().map(step).collect();
        Box::new(Fault { code, message, offset, pointer: pointer(&path), too_large: false })
    }

    fn too_large(&self, offset: usize, code: &'static str, message: String) -> Box<Fault> {
        Box::new(Fault { too_large: true, ..*self.fault_at(offset, code, message) })
    }

    fn syntax(&self, message: &str) -> Box<Fault> {
        self.fault_at(self.offset, "invalid_json", message.to_owned())
    }
}

/// How many bytes at the front of `bytes` stand in a string for themselves: neither quote, backslash nor control character. Eight at a time, since texts are most of a large body.
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (place, chunk) in chunks.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk);
        // A byte's high bit says that it is less than what is subtracted; a borrow can only reach bytes after the first such, and the first is all that counts.
        let zero = |word: u64| word.wrapping_sub(ONES) & !word;
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5c)) | control) & HIGH;
        if found != 0 {
            return place * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let is_plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    bytes.len() - rest.len() + rest.iter().take_while(|byte| is_plain(byte)).count()
}

enum EscapeFault {
    Unknown,
    /// After so many bytes.
    Digits(usize),
    Surrogate,
}

/// What the escape at the front of `bytes` stands for, and its length.
fn escape(bytes: &[u8]) -> Result<(char, usize), EscapeFault> {
    let plain = match bytes.get(1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(bytes),
        _ => return Err(EscapeFault::Unknown),
    };
    Ok((plain, 2))
}

fn unicode_escape(bytes: &[u8]) -> Result<(char, usize), EscapeFault> {
    let hex4 = |at: usize| {
        let digits = bytes.get(at..at + 4).ok_or(EscapeFault::Digits(at))?;
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        digits.iter().try_fold(0, |code, byte| Some(code << 4 | digit(byte)?)).ok_or(EscapeFault::Digits(at))
    };
    let first: u32 = hex4(2)?;
    let pair = matches!(first, 0xD800..=0xDBFF) && bytes.get(6..8) == Some(b"\\u");
    let (code, length) = match pair {
        false => (first, 6),
        true => match hex4(8)? {
            second @ 0xDC00..=0xDFFF => (0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00), 12),
            _ => return Err(EscapeFault::Surrogate),
        },
    };
    char::from_u32(code).map(|code| (code, length)).ok_or(EscapeFault::Surrogate)
}

/// What a string that was found sound stands for.
fn unescaped(text: &str, span: Span) -> Cow<'_, str> {
    let raw = text.get(span.start..span.end).unwrap_or_default();
    if !span.escaped {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, _)) = rest.split_once('\\') {
        out.push_str(before);
        let Some(Ok((stands_for, bytes))) = rest.get(before.len()..).map(|at| escape(at.as_bytes())) else { break };
        out.push(stands_for);
        rest = rest.get(before.len() + bytes..).unwrap_or_default();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Sound JSON without the white space outside of its strings.
fn without_space(text: &str) -> String {
    let (mut inside, mut after_backslash) = (false, false);
    let keep = |c: &char| {
        match (inside, *c) {
            (true, _) if after_backslash => after_backslash = false,
            (true, '\\') => after_backslash = true,
            (_, '"') => inside = !inside,
            _ => {}
        }
        inside || !matches!(c, ' ' | '\t' | '\n' | '\r')
    };
    text.chars().filter(keep).collect()
}

/// The number at the front of `bytes` and its length, if it has at most 18 digits and neither sign, fraction, exponent nor leading zero, as nearly every one.
#[inline]
fn small_integer(bytes: &[u8]) -> Option<(i128, usize)> {
    let (mut value, mut length) = (0_i64, 0);
    for byte in bytes.iter().take(18).take_while(|byte| byte.is_ascii_digit()) {
        value = value * 10 + i64::from(byte - b'0');
        length += 1;
    }
    let goes_on = matches!(bytes.get(length), Some(b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let leading_zero = length > 1 && bytes.first() == Some(&b'0');
    (length > 0 && !goes_on && !leading_zero).then(|| (i128::from(value), length))
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

    fn read(text: &str) -> Result<Json, Box<Fault>> {
        let text = Arc::from(text);
        let mut reader = Reader::new(&text, LIMITS);
        let value = reader.part(LIMITS);
        // Keeping a value or not makes no difference to what is sound.
        let mut skipping = Reader::new(&text, LIMITS);
        assert_eq!(skipping.skip(LIMITS).err(), value.as_ref().err().cloned());
        let value = value?;
        reader.end()?;
        Ok(value)
    }

    fn checked(text: &str) -> Text {
        let text = Arc::from(format!("[{text}"));
        let mut reader = Reader::new(&text, LIMITS);
        assert!(reader.take(b'['));
        reader.checked(0).unwrap()
    }

    #[test]
    fn a_checked_value_is_its_own_text_without_white_space_between_values() {
        assert_eq!(checked(r#"{"a":1.50}"#), r#"{"a":1.50}"#);
        assert_eq!(checked("{ \"a \\\" b\" :\n[ 1 ,\t2 ] }"), r#"{"a \" b":[1,2]}"#);
        assert_eq!(checked(r#" {"\\": "\\\\ "} "#), r#"{"\\":"\\\\ "}"#);
    }

    #[test]
    fn plain_bytes_end_at_what_a_string_may_not_hold_as_it_is() {
        for end in ["\"", "\\", "\u{1f}", "\n", "\0"] {
            for before in 0..20 {
                let text = format!(
                    "{}{end}{}",
                    "é ~\u{7f}!#[]".chars().cycle().take(before).collect::<String>(),
                    "\"x".repeat(9)
                );
                let plain = text.find(end).unwrap();
                assert_eq!(plain_bytes(text.as_bytes()), plain, "{text:?}");
            }
        }
        assert_eq!(plain_bytes("äöü ÿ\u{ff}\u{80}abcdefgh".as_bytes()), "äöü ÿ\u{ff}\u{80}abcdefgh".len());
    }

    #[test]
    fn an_object_of_many_keys_has_each_once() {
        let limits = Limits { values_max: 1000, bytes_max: 10_000, ..LIMITS };
        let object = |keys: usize, last: &str| {
            let keys: String = (0..keys).map(|n| format!("\"k{n}\":{{\"a\":0}},")).collect();
            let text: Arc<str> = Arc::from(format!("{{{keys}{last}:1}}"));
            Reader::new(&text, limits).part(limits).map_err(|fault| (fault.code, fault.pointer))
        };
        for keys in [1, 15, 16, 17, 18, 100] {
            assert!(object(keys, "\"k\"").is_ok());
            let twice = Err(("duplicate_key", format!("/k{}", keys - 1)));
            assert_eq!(object(keys, &format!("\"k{}\"", keys - 1)), twice);
            assert_eq!(object(keys, &format!("\"\\u006b{}\"", keys - 1)), twice);
            assert_eq!(object(keys, "\"k0\""), Err(("duplicate_key", "/k0".to_owned())));
        }
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
