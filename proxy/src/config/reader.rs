//! Walks a parsed TOML table key by key and notes every fault.
//!
//! serde stops at the first error and knows no place for the next; this reader goes on. Each `Reader` is one table: ask for its keys, then
//! [`Reader::finish`], which reports what nobody asked for, with the nearest known key.

use super::faults::{Place, Report, SourceFile};
use super::units::{parse_duration, parse_size, show_duration, show_size};
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub at: Place,
}

/// Longest text of a value in bytes: a path or a URL, not a document.
const TEXT_BYTES_MAX: usize = 4096;
/// Most entries of a list: more tenants than one machine's file should hold.
const ENTRIES_MAX: usize = 100_000;

/// One table of a file.
pub struct Reader<'a> {
    source: &'a SourceFile,
    report: &'a Report,
    table: &'a DeTable<'a>,
    /// Where the table begins.
    at: Place,
    /// The same with `[]` for every index: what the documentation calls the table.
    pattern: String,
    known: Vec<&'static str>,
    /// The file has syntax errors: a key that is missing may only have been lost.
    recovered: bool,
}

/// Parses `source`; syntax errors are noted in `report`, all of them, and what could be recovered is handed to `read`.
pub fn read_file<T>(source: &SourceFile, report: &Report, read: impl FnOnce(Reader<'_>) -> T) -> T {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    for error in &errors {
        let place = source.place(error.span().map_or(0, |span| span.start), "");
        report.error(&place, error.message().replace('\n', ", "), "the syntax is TOML 1.0: https://toml.io");
    }
    let at = source.place(0, "");
    let table = table.get_ref();
    read(Reader { source, report, table, at, pattern: String::new(), known: Vec::new(), recovered: !errors.is_empty() })
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'a> Reader<'a> {
    /// Where the table begins.
    pub fn at(&self) -> &Place {
        &self.at
    }

    /// Where faults go.
    pub fn report(&self) -> &'a Report {
        self.report
    }

    fn place(&self, span: &Range<usize>, key: &str) -> Place {
        self.source.place(span.start, &joined(&self.at.key, key))
    }

    fn entry(&self, key: &str) -> Option<(&'a Spanned<toml::de::DeString<'a>>, &'a Spanned<DeValue<'a>>)> {
        self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key)
    }

    /// Whether `key` is written, whatever its value is.
    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// The value of `key` and its place; from now on the key is a known one.
    fn take(&mut self, key: &'static str) -> Option<(&'a DeValue<'a>, Place)> {
        self.known.push(key);
        self.report.asked.borrow_mut().insert(joined(&self.pattern, key));
        let (_, value) = self.entry(key)?;
        Some((value.get_ref(), self.place(&value.span(), key)))
    }

    fn wrong_type<T>(&self, at: &Place, wanted: &str, found: &DeValue<'_>) -> Option<T> {
        self.report.error(at, format!("{wanted} is wanted, not {}", found.type_str()), "");
        None
    }

    fn taken_text(&self, value: &'a DeValue<'a>, at: Place) -> Option<Located<&'a str>> {
        match value {
            DeValue::String(text) if text.is_empty() => self.refused(&at, "an empty text", "leave the key out"),
            DeValue::String(text) if text.len() > TEXT_BYTES_MAX => {
                self.refused(&at, &format!("a text of {} bytes", text.len()), &format!("at most {TEXT_BYTES_MAX}"))
            }
            DeValue::String(text) => Some(Located { value: text.as_ref(), at }),
            other => self.wrong_type(&at, "a text in quotes", other),
        }
    }

    fn refused<T>(&self, at: &Place, what: &str, hint: &str) -> Option<T> {
        self.report.error(at, what, hint);
        None
    }

    fn text_ref(&mut self, key: &'static str) -> Option<Located<&'a str>> {
        let (value, at) = self.take(key)?;
        self.taken_text(value, at)
    }

    /// A text of 1 to 4096 bytes.
    pub fn text(&mut self, key: &'static str) -> Option<Located<String>> {
        self.text_ref(key).map(|found| Located { value: found.value.to_owned(), at: found.at })
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &'static str) -> Option<Located<String>> {
        self.require(key);
        self.text(key)
    }

    /// Notes that `key` is missing, if it is.
    pub fn require(&self, key: &'static str) {
        if self.entry(key).is_none() && !self.recovered {
            let at = Place { key: joined(&self.at.key, key), ..self.at.clone() };
            self.report.error(&at, "is missing", "the table needs this key");
        }
    }

    /// A text that `T` can read.
    pub fn parsed<T: FromStr>(&mut self, key: &'static str) -> Option<Located<T>>
    where
        T::Err: Display,
    {
        let found = self.text_ref(key)?;
        match found.value.parse() {
            Ok(value) => Some(Located { value, at: found.at }),
            Err(error) => self.refused(&found.at, &error.to_string(), ""),
        }
    }

    /// A text that `T` can read and that must be there.
    pub fn required_parsed<T: FromStr>(&mut self, key: &'static str) -> Option<Located<T>>
    where
        T::Err: Display,
    {
        self.require(key);
        self.parsed(key)
    }

    /// One of `names`.
    pub fn one_of(&mut self, key: &'static str, names: &[&'static str]) -> Option<Located<&'static str>> {
        let found = self.text_ref(key)?;
        match names.iter().find(|name| **name == found.value) {
            Some(name) => Some(Located { value: name, at: found.at }),
            None => self.refused(
                &found.at,
                &format!("`{}` is not known here", found.value),
                &format!("one of {}", list(names)),
            ),
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<Located<String>>> {
        let (value, at) = self.take(key)?;
        let DeValue::Array(entries) = value else {
            return self.wrong_type(&at, "a list of texts", value);
        };
        let read = |entry: &'a Spanned<DeValue<'a>>| {
            let found = self.taken_text(entry.get_ref(), self.place(&entry.span(), key))?;
            Some(Located { value: found.value.to_owned(), at: found.at })
        };
        Some(entries.iter().filter_map(read).collect())
    }

    /// A table of texts whose names are the user's own, in their order: all of them are known keys.
    pub fn named_texts(&mut self, key: &'static str) -> Vec<(String, Located<String>)> {
        let Some((value, at)) = self.take(key) else { return Vec::new() };
        let DeValue::Table(table) = value else {
            self.wrong_type::<()>(&at, "a table of texts", value);
            return Vec::new();
        };
        let pattern = joined(&self.pattern, key);
        let read = |(name, entry): (&'a Spanned<toml::de::DeString<'a>>, &'a Spanned<DeValue<'a>>)| {
            let name = name.get_ref().as_ref();
            self.report.asked.borrow_mut().insert(joined(&pattern, name));
            let at = self.place(&entry.span(), &joined(key, name));
            let found = self.taken_text(entry.get_ref(), at)?;
            Some((name.to_owned(), Located { value: found.value.to_owned(), at: found.at }))
        };
        table.iter().filter_map(read).collect()
    }

    /// A table of lists of texts whose names are the user's own, in their order; one text is a list of one.
    pub fn named_lists(&mut self, key: &'static str) -> Vec<(Located<String>, Vec<Located<String>>)> {
        let Some((value, at)) = self.take(key) else { return Vec::new() };
        let DeValue::Table(table) = value else {
            self.wrong_type::<()>(&at, "a table of lists of texts", value);
            return Vec::new();
        };
        let pattern = joined(&self.pattern, key);
        let mut lists = Vec::new();
        for (name, entry) in table {
            let text = name.get_ref().as_ref();
            self.report.asked.borrow_mut().insert(joined(&pattern, text));
            let at = self.place(&entry.span(), &joined(key, text));
            let owned = |found: Located<&str>| Located { value: found.value.to_owned(), at: found.at };
            let texts = match entry.get_ref() {
                DeValue::Array(entries) => {
                    entries.iter().filter_map(|one| self.taken_text(one.get_ref(), at.clone()).map(owned)).collect()
                }
                one => self.taken_text(one, at.clone()).map(owned).into_iter().collect(),
            };
            lists.push((Located { value: text.to_owned(), at }, texts));
        }
        lists
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str) -> Option<Located<bool>> {
        let (value, at) = self.take(key)?;
        match value {
            DeValue::Boolean(value) => Some(Located { value: *value, at }),
            other => self.wrong_type(&at, "true or false, without quotes,", other),
        }
    }

    /// A whole number within `range`.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<Located<u64>> {
        let (value, at) = self.take(key)?;
        let DeValue::Integer(number) = value else {
            return self.wrong_type(&at, "a whole number", value);
        };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) if range.contains(&value) => Some(Located { value, at }),
            _ => self.refused(
                &at,
                &format!("{number} is out of range"),
                &format!("{} to {}", range.start(), range.end()),
            ),
        }
    }

    /// A number, whole or not, within `range`.
    pub fn number(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<Located<f64>> {
        let (value, at) = self.take(key)?;
        let read = match value {
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(|value| value as f64)
            }
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            other => return self.wrong_type(&at, "a number", other),
        };
        match read {
            Some(value) if range.contains(&value) => Some(Located { value, at }),
            _ => self.refused(&at, "is out of range", &format!("{} to {}", range.start(), range.end())),
        }
    }

    /// A duration such as `"90s"` within `range`.
    pub fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Located<Duration>> {
        let found = self.text_ref(key)?;
        match parse_duration(found.value) {
            Ok(value) if range.contains(&value) => Some(Located { value, at: found.at }),
            Ok(_) => {
                let hint = format!("{} to {}", show_duration(*range.start()), show_duration(*range.end()));
                self.refused(&found.at, &format!("`{}` is out of range", found.value), &hint)
            }
            Err(error) => self.refused(&found.at, &error.to_string(), ""),
        }
    }

    /// A size such as `"10MiB"` within `range`, in bytes.
    pub fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<Located<u64>> {
        let found = self.text_ref(key)?;
        match parse_size(found.value) {
            Ok(value) if range.contains(&value) => Some(Located { value, at: found.at }),
            Ok(_) => {
                let hint = format!("{} to {}", show_size(*range.start()), show_size(*range.end()));
                self.refused(&found.at, &format!("`{}` is out of range", found.value), &hint)
            }
            Err(error) => self.refused(&found.at, &error.to_string(), ""),
        }
    }

    /// A whole number or a text, as text.
    pub fn integer_or_text(&mut self, key: &'static str) -> Option<Located<String>> {
        let (value, at) = self.take(key)?;
        match value {
            DeValue::Integer(number) => Some(Located { value: number.to_string(), at }),
            other => self.taken_text(other, at).map(|found| Located { value: found.value.to_owned(), at: found.at }),
        }
    }

    /// A table inside, written `[key]` or `key = { … }`.
    pub fn table(&mut self, key: &'static str) -> Option<Reader<'a>> {
        let (value, at) = self.take(key)?;
        let DeValue::Table(table) = value else {
            return self.wrong_type(&at, "a table", value);
        };
        Some(self.inner(table, at, joined(&self.pattern, key)))
    }

    /// Tables inside, written `[[key]]`, in their order.
    pub fn tables(&mut self, key: &'static str) -> Vec<Reader<'a>> {
        let Some((value, at)) = self.take(key) else {
            return Vec::new();
        };
        let DeValue::Array(entries) = value else {
            self.report.error(
                &at,
                format!("a list of tables is wanted, not {}", value.type_str()),
                format!("write `[[{key}]]`, with two brackets"),
            );
            return Vec::new();
        };
        if entries.len() > ENTRIES_MAX {
            self.report.error(&at, format!("{} entries", entries.len()), format!("at most {ENTRIES_MAX}"));
            return Vec::new();
        }
        let read = |(n, entry): (usize, &'a Spanned<DeValue<'a>>)| {
            let at = self.place(&entry.span(), &format!("{key}[{n}]"));
            match entry.get_ref() {
                DeValue::Table(table) => Some(self.inner(table, at, format!("{}[]", joined(&self.pattern, key)))),
                other => self.wrong_type(&at, "a table", other),
            }
        };
        entries.iter().enumerate().filter_map(read).collect()
    }

    fn inner(&self, table: &'a DeTable<'a>, at: Place, pattern: String) -> Reader<'a> {
        Reader {
            source: self.source,
            report: self.report,
            table,
            at,
            pattern,
            known: Vec::new(),
            recovered: self.recovered,
        }
    }

    /// A key that the design names and this release lacks: never silently ignored, and never called unknown.
    pub fn not_built_yet(&mut self, key: &'static str, instead: &str) {
        self.known_but_refused(key, "is not built yet in this release", instead);
    }

    /// A key that had this name once, or that people guess.
    pub fn renamed(&mut self, key: &'static str, instead: &str) {
        self.known_but_refused(key, "is not the name of this key", instead);
    }

    fn known_but_refused(&mut self, key: &'static str, what: &str, instead: &str) {
        if let Some((name, _)) = self.entry(key) {
            self.report.error(&self.place(&name.span(), key), what, instead);
            // Known to `finish`, but never offered as the nearest key: `nearest` looks into the table first.
            self.known.push(key);
        }
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self) {
        for (name, _) in self.table {
            let text = name.get_ref().as_ref();
            if !self.known.contains(&text) {
                let hint = nearest(text, &self.known).map_or_else(
                    || format!("known here: {}", list(&self.known)),
                    |near| format!("did you mean `{near}`?"),
                );
                self.report.error(&self.place(&name.span(), text), "is not a known key", hint);
            }
        }
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The known key that a typing error most likely meant: at most a third of its letters differ, and at least one edit is always forgiven.
pub fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, name) = known.iter().map(|name| (edit_distance(text, name), *name)).min()?;
    (distance <= (name.len() / 3).max(1)).then_some(name)
}

/// Levenshtein distance in bytes. Keys are short; anything over 64 bytes is near to nothing.
fn edit_distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (pair, y) in row.windows(2).zip(b.bytes()) {
            let &[diagonal, above] = pair else { continue };
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Reads `text` and gives every error as `line:column: message`.
    fn errors(text: &str, read: impl FnOnce(&mut Reader<'_>)) -> Vec<String> {
        let source = SourceFile { path: Path::new("f").into(), text: text.into() };
        let report = Report::default();
        read_file(&source, &report, |mut reader| {
            read(&mut reader);
            reader.finish();
        });
        let found = report.conclude(Some(()));
        found.map_or_else(|faults| faults.errors, |_| Vec::new()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_key_is_told_with_the_nearest_known_one() {
        let found = errors("lifetme = 1\n", |reader| drop(reader.text("lifetime")));
        assert_eq!(found, ["f:1:1: `lifetme`: is not a known key (did you mean `lifetime`?)"]);
    }

    #[test]
    fn a_key_like_nothing_known_is_told_what_is_known() {
        let found = errors("banana = 1\n", |reader| drop(reader.text("lifetime")));
        assert_eq!(found, ["f:1:1: `banana`: is not a known key (known here: `lifetime`)"]);
    }

    #[test]
    fn every_fault_is_noted_and_reading_goes_on() {
        let found = errors("a = 1\nb = \"x\"\n[c]\nd = 11\n[[e]]\n", |reader| {
            assert!(reader.text("a").is_none());
            assert!(reader.boolean("b").is_none());
            let mut inner = reader.table("c").unwrap();
            assert!(inner.integer("d", 1..=10).is_none());
            inner.finish();
            for mut entry in reader.tables("e") {
                assert!(entry.required_text("id").is_none());
                entry.finish();
            }
        });
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[2].starts_with("f:4:5: `c.d`: 11 is out of range (1 to 10)"), "{}", found[2]);
        assert!(found[3].contains("`e[0].id`: is missing"), "{}", found[3]);
    }

    #[test]
    fn the_ends_of_a_range_are_inside() {
        let read = |text: &str| errors(text, |reader| drop(reader.integer("n", 1..=10))).len();
        assert_eq!([read("n = 0"), read("n = 1"), read("n = 10"), read("n = 11"), read("n = -1")], [1, 0, 0, 1, 1]);
        let read = |text: &str| errors(text, |reader| drop(reader.number("n", 0.5..=2.0))).len();
        assert_eq!(
            [read("n = 0.4"), read("n = 0.5"), read("n = 2"), read("n = 2.1"), read("n = nan")],
            [1, 0, 0, 1, 1]
        );
    }

    #[test]
    fn durations_and_sizes_out_of_range_name_the_range() {
        let (low, high) = (Duration::from_secs(1), Duration::from_secs(60));
        assert!(errors("d = \"1s\"", |reader| drop(reader.duration("d", low..=high))).is_empty());
        let found = errors("d = \"61s\"", |reader| drop(reader.duration("d", low..=high)));
        assert_eq!(found, ["f:1:5: `d`: `61s` is out of range (1s to 1m)"]);
        let found = errors("s = \"2MiB\"", |reader| drop(reader.size("s", 1024..=1 << 20)));
        assert_eq!(found, ["f:1:5: `s`: `2MiB` is out of range (1KiB to 1MiB)"]);
    }

    #[test]
    fn a_syntax_error_is_placed_and_hides_no_other_fault() {
        let found = errors("a = \nb = 1\n", |reader| drop((reader.boolean("a"), reader.text("b"))));
        assert!(found.iter().any(|fault| fault.starts_with("f:1:5: ")), "{found:#?}");
        assert!(found.iter().any(|fault| fault.contains("`b`: a text in quotes is wanted, not integer")), "{found:#?}");
    }

    #[test]
    fn a_key_that_is_not_built_yet_is_refused_with_that_reason() {
        let found =
            errors("proxy_protocol = true", |reader| reader.not_built_yet("proxy_protocol", "connect directly"));
        assert_eq!(found, ["f:1:1: `proxy_protocol`: is not built yet in this release (connect directly)"]);
    }

    #[test]
    fn nearest_forgives_a_third_of_the_letters_and_no_more() {
        assert_eq!(nearest("addres", &["address", "redirect"]), Some("address"));
        assert_eq!(nearest("adrs", &["address"]), None);
        assert_eq!(nearest("ie", &["id"]), Some("id"));
    }
}
