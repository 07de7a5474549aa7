//! Changes a policy document by the engine's suggestions, as a person would: a few characters in the text, with all comments, order and spelling left as they are. Pure.
//!
//! The places come from the TOML parser's spans. Every change is read back before it counts; what can't be written so is left to a person, with the reason.

use comfygate_policy::suggest::{MODELS, pattern, quoted};
use comfygate_policy::{Change, Suggestion};
use std::collections::BTreeMap;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// A document with changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Amended {
    /// The new text.
    pub text: String,
    /// What stands in it now, one a key.
    pub done: Vec<Suggestion>,
    /// What could not be written, and why.
    pub left: Vec<(Suggestion, String)>,
}

/// The document with as many of these changes as can be written into it. Of several numbers for one key, the one that serves all.
pub fn amended(text: &str, suggestions: impl IntoIterator<Item = Suggestion>) -> Amended {
    let mut out = Amended { text: text.to_owned(), done: Vec::new(), left: Vec::new() };
    for suggestion in merged(suggestions) {
        match changed(&out.text, &suggestion) {
            Ok(Some(text)) => {
                out.text = text;
                out.done.push(suggestion);
            }
            // It stands there already.
            Ok(None) => {}
            Err(reason) => out.left.push((suggestion, reason)),
        }
    }
    out
}

/// Each key's numbers as one, each name once; in the order of the keys.
fn merged(suggestions: impl IntoIterator<Item = Suggestion>) -> Vec<Suggestion> {
    let mut numbers: BTreeMap<(String, bool), f64> = BTreeMap::new();
    let mut others: Vec<Suggestion> = Vec::new();
    for suggestion in suggestions {
        match suggestion.change {
            Change::Raise(to) => {
                numbers.entry((suggestion.key, true)).and_modify(|known| *known = known.max(to)).or_insert(to);
            }
            Change::Lower(to) => {
                numbers.entry((suggestion.key, false)).and_modify(|known| *known = known.min(to)).or_insert(to);
            }
            Change::Add(_) | Change::Remove(_) | Change::Set(_) => {
                if !others.contains(&suggestion) {
                    others.push(suggestion);
                }
            }
        }
    }
    let number =
        |((key, raise), to)| Suggestion { key, change: if raise { Change::Raise(to) } else { Change::Lower(to) } };
    let mut all: Vec<Suggestion> = numbers.into_iter().map(number).chain(others).collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

/// The text with one change; `None` if it says so already.
fn changed(text: &str, suggestion: &Suggestion) -> Result<Option<String>, String> {
    let document = Document::read(text)?;
    let (section, name) = (suggestion.section(), suggestion.name());
    let input = section.strip_prefix(MODELS);
    let edit = match &suggestion.change {
        Change::Add(item) => match input {
            Some(input) => document.add_model(input, name, item)?,
            None => document.add(section, name, item)?,
        },
        _ if input.is_some() => {
            return Err(
                "which `[[models]]` rule denies it, and what that may allow besides, is yours to see".to_owned()
            );
        }
        Change::Raise(to) => document.number(section, name, *to, |known| known >= *to)?,
        Change::Lower(to) => document.number(section, name, *to, |known| known <= *to)?,
        Change::Set(value) => document.set(section, name, value)?,
        Change::Remove(item) => Some(document.remove(section, name, item)?),
    };
    let Some(edit) = edit else { return Ok(None) };
    let mut changed = text.to_owned();
    if changed.get(edit.at.clone()).is_none() {
        return Err("its place in the text is not clear".to_owned());
    }
    changed.replace_range(edit.at, &edit.text);
    // Read back: a line that looks like a header may stand within a text of many lines.
    let read = Document::read(&changed)?;
    if read.says(section, name, &suggestion.change) {
        Ok(Some(changed))
    } else {
        Err("its place in the text is not clear".to_owned())
    }
}

/// What is put in the place of a part of the text.
struct Edit {
    at: Range<usize>,
    text: String,
}

/// A document with the places of its values.
struct Document<'t> {
    text: &'t str,
    table: toml::Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    fn read(text: &'t str) -> Result<Self, String> {
        let table = DeTable::parse(text).map_err(|error| format!("the document is no TOML: {}", error.message()))?;
        Ok(Self { text, table })
    }

    /// The table of that section; the whole document for the empty name.
    fn section(&self, section: &str) -> Result<Option<&DeTable<'t>>, String> {
        if section.is_empty() {
            return Ok(Some(self.table.get_ref()));
        }
        let mut table = self.table.get_ref();
        for part in section.split('.') {
            match table.get(part).map(toml::Spanned::get_ref) {
                None => return Ok(None),
                Some(DeValue::Table(inner)) => table = inner,
                Some(_) => return Err(format!("`{section}` is no table")),
            }
        }
        Ok(Some(table))
    }

    fn value(&self, section: &str, name: &str) -> Result<Option<&toml::Spanned<DeValue<'t>>>, String> {
        Ok(self.section(section)?.and_then(|table| table.get(name)))
    }

    fn number(&self, section: &str, name: &str, to: f64, enough: impl Fn(f64) -> bool) -> Result<Option<Edit>, String> {
        match self.value(section, name)? {
            Some(value) if number_of(value.get_ref()).is_some_and(enough) => Ok(None),
            Some(value) => Ok(Some(Edit { at: value.span(), text: to.to_string() })),
            None => self.insert(section, name, &to.to_string()).map(Some),
        }
    }

    fn set(&self, section: &str, name: &str, to: &str) -> Result<Option<Edit>, String> {
        match self.value(section, name)? {
            Some(value) if self.text.get(value.span()) == Some(to) => Ok(None),
            Some(value) => Ok(Some(Edit { at: value.span(), text: to.to_owned() })),
            None => self.insert(section, name, to).map(Some),
        }
    }

    /// One more pattern at the end of a list.
    fn add(&self, section: &str, name: &str, item: &str) -> Result<Option<Edit>, String> {
        match self.value(section, name)? {
            Some(value) => self.add_to(value, name, item),
            None => self.insert(section, name, &format!("[{}]", quoted(item))).map(Some),
        }
    }

    /// One more pattern for the models of an input: in the rule about exactly this input, or in a rule of its own at the end. Rules that allow add to each other, those of extended documents too.
    fn add_model(&self, input: &str, name: &str, item: &str) -> Result<Option<Edit>, String> {
        if let Some(value) = self.model_list(input, name) {
            return self.add_to(value, name, item);
        }
        let gap = if self.text.ends_with('\n') || self.text.is_empty() { "\n" } else { "\n\n" };
        let (at, input) = (self.text.len()..self.text.len(), quoted(&pattern(input)));
        Ok(Some(Edit { at, text: format!("{gap}[[models]]\ninput = {input}\n{name} = [{}]\n", quoted(item)) }))
    }

    /// The list of the last rule about exactly this input that has one.
    fn model_list(&self, input: &str, name: &str) -> Option<&toml::Spanned<DeValue<'t>>> {
        let DeValue::Array(rules) = self.table.get_ref().get("models")?.get_ref() else { return None };
        let wanted = pattern(input);
        let mut lists = rules.iter().filter_map(|rule| match rule.get_ref() {
            DeValue::Table(rule) if rule.get("input").and_then(|of| text_of(of.get_ref())) == Some(&wanted) => {
                rule.get(name)
            }
            _ => None,
        });
        lists.next_back()
    }

    /// One more item at the end of a list, in a line of its own if the last one has one.
    fn add_to(&self, value: &toml::Spanned<DeValue<'t>>, name: &str, item: &str) -> Result<Option<Edit>, String> {
        let quoted = quoted(item);
        let DeValue::Array(items) = value.get_ref() else { return Err(format!("`{name}` is no list")) };
        if items.iter().any(|known| text_of(known.get_ref()) == Some(item)) {
            return Ok(None);
        }
        let Some(last) = items.last() else {
            return Ok(Some(Edit { at: value.span(), text: format!("[{quoted}]") }));
        };
        let end = last.span().end;
        let (line_end, list_end) = (self.line_end(end), value.span().end);
        if line_end >= list_end {
            return Ok(Some(Edit { at: end..end, text: format!(", {quoted}") }));
        }
        // The rest of the last item's line stays with it: its comma, if it has one, and its comment.
        let rest = self.text.get(end..line_end).unwrap_or_default();
        let comma = if rest.trim_start().starts_with(',') { "" } else { "," };
        let indent = self.indent_at(last.span().start);
        Ok(Some(Edit { at: end..line_end, text: format!("{comma}{rest}{indent}{quoted},\n") }))
    }

    /// Takes an item out that is exactly this name. What a pattern denies besides is not ours to allow.
    fn remove(&self, section: &str, name: &str, item: &str) -> Result<Edit, String> {
        let by_hand = || {
            let item = quoted(item);
            format!(
                "a pattern of `{section}.{name}` denies {item}: taking it out may allow more than that, so it is yours to do"
            )
        };
        let Some(value) = self.value(section, name)? else { return Err(by_hand()) };
        let DeValue::Array(items) = value.get_ref() else { return Err(format!("`{name}` is no list")) };
        let place = items.iter().position(|known| text_of(known.get_ref()) == Some(item)).ok_or_else(by_hand)?;
        let span = |place: usize| items.get(place).map(toml::Spanned::span);
        let own = span(place).ok_or_else(by_hand)?;
        // With the comma after it; of the last item, with the one before it.
        let at = match (span(place + 1), place.checked_sub(1).and_then(span)) {
            (Some(next), _) => own.start..next.start,
            (None, Some(former)) => former.end..own.end,
            (None, None) => own,
        };
        let between = self.text.get(at.clone()).unwrap_or_default();
        if between.contains('#') {
            return Err(format!("a comment stands beside {} in `{section}.{name}`: take it out by hand", quoted(item)));
        }
        Ok(Edit { at, text: String::new() })
    }

    /// A new key: under the header of its section, in a new section at the end, or at the top.
    fn insert(&self, section: &str, name: &str, value: &str) -> Result<Edit, String> {
        if section.is_empty() {
            let name_line = self.table.get_ref().get("name").map_or(0, |value| self.line_end(value.span().end));
            return Ok(Edit { at: name_line..name_line, text: format!("{name} = {value}\n") });
        }
        if self.section(section)?.is_none() {
            let gap = if self.text.ends_with('\n') || self.text.is_empty() { "\n" } else { "\n\n" };
            let end = self.text.len();
            return Ok(Edit { at: end..end, text: format!("{gap}[{section}]\n{name} = {value}\n") });
        }
        let header = self.header_end(section).ok_or_else(|| {
            format!("`{section}` is not written as a `[{section}]` of its own: put `{name} = {value}` there by hand")
        })?;
        let newline = if self.text.get(..header).is_some_and(|before| before.ends_with('\n')) { "" } else { "\n" };
        Ok(Edit { at: header..header, text: format!("{newline}{name} = {value}\n") })
    }

    /// Behind the line of a section's header.
    fn header_end(&self, section: &str) -> Option<usize> {
        let wanted = format!("[{section}]");
        let mut start = 0;
        for line in self.text.split_inclusive('\n') {
            let end = start + line.len();
            let bare = line.split('#').next().unwrap_or_default().trim();
            if bare == wanted {
                return Some(end);
            }
            start = end;
        }
        None
    }

    /// Behind the line in which this place is.
    fn line_end(&self, place: usize) -> usize {
        let rest = self.text.get(place..).unwrap_or_default();
        rest.find('\n').map_or(self.text.len(), |end| place + end + 1)
    }

    /// The white space before the line in which this place is.
    fn indent_at(&self, place: usize) -> &str {
        let before = self.text.get(..place).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        let bare = line.trim_start_matches([' ', '\t']);
        line.get(..line.len() - bare.len()).unwrap_or_default()
    }

    /// Whether the document says what the change wanted.
    fn says(&self, section: &str, name: &str, change: &Change) -> bool {
        let value = match section.strip_prefix(MODELS) {
            Some(input) => self.model_list(input, name),
            None => self.value(section, name).ok().flatten(),
        };
        let number = || value.and_then(|value| number_of(value.get_ref()));
        let has = |item: &str| match value.map(toml::Spanned::get_ref) {
            Some(DeValue::Array(items)) => items.iter().any(|known| text_of(known.get_ref()) == Some(item)),
            _ => false,
        };
        match change {
            Change::Raise(to) => number().is_some_and(|known| known >= *to),
            Change::Lower(to) => number().is_some_and(|known| known <= *to),
            Change::Add(item) => has(item),
            Change::Remove(item) => !has(item),
            Change::Set(to) => value.is_some_and(|value| self.text.get(value.span()) == Some(to)),
        }
    }
}

fn number_of(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(number) => number.as_str().replace('_', "").parse().ok(),
        DeValue::Float(number) => number.as_str().replace('_', "").parse().ok(),
        _ => None,
    }
}

fn text_of<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    match value {
        DeValue::String(text) => Some(text),
        _ => None,
    }
}

/// The difference of two texts in the unified format, with three lines around each change. Empty if there is none.
pub fn unified_diff(path: &str, before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let script = script(&old, &new);
    let mut out = String::new();
    let mut place = 0;
    while let Some(first) = script.iter().skip(place).position(|step| step.kind != Kind::Same).map(|at| place + at) {
        // A hunk goes on as long as the next change is near.
        let mut last = first;
        while let Some(next) = script.iter().skip(last + 1).position(|step| step.kind != Kind::Same) {
            if next > 2 * AROUND {
                break;
            }
            last += 1 + next;
        }
        let range = first.saturating_sub(AROUND)..(last + AROUND + 1).min(script.len());
        if out.is_empty() {
            out.push_str(&format!("--- {path}\n+++ {path}\n"));
        }
        hunk(script.get(range.clone()).unwrap_or_default(), &mut out);
        place = range.end;
    }
    out
}

/// Lines shown before and after a change.
const AROUND: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Same,
    Gone,
    New,
}

/// One line of a difference, with its number, from 1, in either text.
struct Step<'l> {
    kind: Kind,
    line: &'l str,
    old: usize,
    new: usize,
}

fn hunk(steps: &[Step<'_>], out: &mut String) {
    let count = |kind: Kind| steps.iter().filter(|step| step.kind == Kind::Same || step.kind == kind).count();
    let Some(first) = steps.first() else { return };
    out.push_str(&format!("@@ -{},{} +{},{} @@\n", first.old, count(Kind::Gone), first.new, count(Kind::New)));
    for step in steps {
        let mark = match step.kind {
            Kind::Same => ' ',
            Kind::Gone => '-',
            Kind::New => '+',
        };
        out.push_str(&format!("{mark}{}\n", step.line));
    }
}

/// What is equal at both ends is left; in between, the longest common lines (documents have some thousand lines, changes touch few).
fn script<'l>(old: &[&'l str], new: &[&'l str]) -> Vec<Step<'l>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old.iter().skip(head).rev().zip(new.iter().skip(head).rev()).take_while(|(a, b)| a == b).count();
    let middle =
        |lines: &[&'l str]| -> Vec<&'l str> { lines.iter().take(lines.len() - tail).skip(head).copied().collect() };
    let (gone, added) = (middle(old), middle(new));
    let mut kinds = vec![Kind::Same; head];
    kinds.extend(middle_script(&gone, &added));
    kinds.extend(vec![Kind::Same; tail]);
    let (mut a, mut b) = (0, 0);
    let mut steps = Vec::new();
    for kind in kinds {
        let line = if kind == Kind::New { new.get(b) } else { old.get(a) };
        steps.push(Step { kind, line: line.copied().unwrap_or_default(), old: a + 1, new: b + 1 });
        a += usize::from(kind != Kind::New);
        b += usize::from(kind != Kind::Gone);
    }
    steps
}

/// Cells of the table of common lines; a difference beyond it is told as one block.
const CELLS_MAX: usize = 4_000_000;

fn middle_script(old: &[&str], new: &[&str]) -> Vec<Kind> {
    let width = new.len() + 1;
    if old.len().saturating_mul(width) > CELLS_MAX {
        return [vec![Kind::Gone; old.len()], vec![Kind::New; new.len()]].concat();
    }
    // common[i * width + j]: the longest common part of old from i on and new from j on.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    let at = |common: &[u32], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let best = if old.get(i) == new.get(j) {
                at(&common, i + 1, j + 1) + 1
            } else {
                at(&common, i + 1, j).max(at(&common, i, j + 1))
            };
            if let Some(cell) = common.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut kinds = Vec::new();
    while i < old.len() || j < new.len() {
        let kind = if i < old.len() && j < new.len() && old.get(i) == new.get(j) {
            Kind::Same
        } else if i < old.len() && (j >= new.len() || at(&common, i + 1, j) >= at(&common, i, j + 1)) {
            Kind::Gone
        } else {
            Kind::New
        };
        i += usize::from(kind != Kind::New);
        j += usize::from(kind != Kind::Gone);
        kinds.push(kind);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# Ours\nname = \"own\"\n\n[classes] # what may run\nallow = [\n    \"A\", # first\n    \"B\", # last\n]\ndeny = [\"C\", \"D\"]\n\n[caps]\nsteps = 50 # a lot\n";

    fn with(key: &str, change: Change) -> Suggestion {
        Suggestion { key: key.into(), change }
    }

    fn one(text: &str, key: &str, change: Change) -> String {
        let amended = amended(text, [with(key, change)]);
        assert!(amended.left.is_empty(), "{:?}", amended.left);
        amended.text
    }

    #[test]
    fn a_cap_is_raised_in_its_place_and_a_higher_one_is_left() {
        let text = one(DOCUMENT, "caps.steps", Change::Raise(60.0));
        assert_eq!(text, DOCUMENT.replace("steps = 50 #", "steps = 60 #"));
        assert_eq!(one(DOCUMENT, "caps.steps", Change::Raise(50.0)), DOCUMENT);
        assert_eq!(one(&text.replace("60", "6_0"), "caps.steps", Change::Raise(60.0)), text.replace("60", "6_0"));
        assert_eq!(one(DOCUMENT, "caps.steps", Change::Lower(2.5)), DOCUMENT.replace("50", "2.5"));
    }

    #[test]
    fn a_new_key_stands_under_the_header_of_its_section() {
        let text = one(DOCUMENT, "caps.width", Change::Raise(2048.0));
        assert_eq!(text, DOCUMENT.replace("[caps]\n", "[caps]\nwidth = 2048\n"));
        let text = one(DOCUMENT, "samplers.allow", Change::Add("euler".into()));
        assert_eq!(text, format!("{DOCUMENT}\n[samplers]\nallow = [\"euler\"]\n"));
        let text = one(DOCUMENT, "cost_limit", Change::Raise(10.5));
        assert_eq!(text, DOCUMENT.replace("\"own\"\n", "\"own\"\ncost_limit = 10.5\n"));
    }

    #[test]
    fn a_name_joins_its_list_as_the_list_is_written() {
        let text = one(DOCUMENT, "classes.allow", Change::Add("E".into()));
        assert_eq!(text, DOCUMENT.replace("# last\n", "# last\n    \"E\",\n"));
        let bare = DOCUMENT.replace("\"B\", # last", "\"B\" # last");
        assert_eq!(one(&bare, "classes.allow", Change::Add("E".into())), text, "the comma is added");
        assert_eq!(one(DOCUMENT, "classes.deny", Change::Add("E".into())), DOCUMENT.replace("\"D\"]", "\"D\", \"E\"]"));
        assert_eq!(one(DOCUMENT, "classes.deny", Change::Add("D".into())), DOCUMENT);
        let empty = DOCUMENT.replace("[\"C\", \"D\"]", "[]");
        assert_eq!(one(&empty, "classes.deny", Change::Add("E".into())), DOCUMENT.replace("\"C\", \"D\"", "\"E\""));
    }

    #[test]
    fn a_pattern_is_written_as_it_was_suggested() {
        let text = one(DOCUMENT, "classes.allow", Change::Add("X [[]*] \"y\"".into()));
        let allow = toml::from_str::<toml::Table>(&text).unwrap()["classes"]["allow"][2].as_str().unwrap().to_owned();
        assert_eq!(allow, "X [[]*] \"y\"");
    }

    /// What stands against a submission that names these models, under a document that may extend `base.toml`.
    fn refused(document: &str, base: &str, names: &[&str]) -> Vec<comfygate_policy::Violation> {
        use comfygate_policy::{Catalogue, FileFacts, Policy, Verdict, decide, parse};
        let mut prompt = serde_json::Map::new();
        for (place, name) in names.iter().enumerate() {
            let (loader, save) = (format!("{place}"), format!("{place}0"));
            prompt.insert(
                loader.clone(),
                serde_json::json!({"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}),
            );
            prompt.insert(
                save,
                serde_json::json!({"class_type": "ModelSave", "inputs": {"model": [loader, 0], "filename_prefix": "x"}}),
            );
        }
        let files = |_: &str| Some(base.to_owned());
        let policy = Policy::from_toml_with(document, &files).unwrap_or_else(|faults| panic!("{faults}\n{document}"));
        let body = serde_json::json!({ "prompt": prompt }).to_string();
        match decide(&parse(body.as_bytes()).unwrap(), &policy, Catalogue::builtin(), &FileFacts::none()) {
            Verdict::Allow(_) => Vec::new(),
            Verdict::Deny(violations) => {
                violations.iter().filter(|violation| violation.code.starts_with("model")).cloned().collect()
            }
        }
    }

    #[test]
    fn a_model_of_any_name_is_allowed_by_its_suggestion_and_no_other_is() {
        let rules = "[[models]]\ninput = \"ckpt_name\"\nallow = [\"base\"]\n";
        let classes = "[classes]\nallow = [\"*\"]\n";
        let names = ["a [b] * ? {c,d}.safetensors", "sub/plain.safetensors"];
        for (document, base) in [
            (format!("name = \"x\"\n{classes}{rules}"), String::new()),
            // The rule stands in a document that this one extends.
            (format!("name = \"x\"\nextends = \"base.toml\"\n{classes}"), format!("name = \"base\"\n{rules}")),
        ] {
            let found = refused(&document, &base, &names);
            assert_eq!(found.len(), names.len(), "{found:?}");
            let suggestions = found.iter().filter_map(comfygate_policy::suggestion);
            let amended = amended(&document, suggestions.clone());
            assert_eq!(amended.left, []);
            assert_eq!(refused(&amended.text, &base, &names), [], "{}", amended.text);
            for other in ["a b * ? {c,d}.safetensors", "a [b] x ? {c,d}.safetensors", "a [b] * ? c.safetensors"] {
                assert_eq!(refused(&amended.text, &base, &[other]).len(), 1, "{other} by {}", amended.text);
            }
            let rules_now = amended.text.matches("[[models]]").count();
            assert_eq!(rules_now, document.matches("[[models]]").count() + 1, "one rule for one input");
            let again = super::amended(&amended.text, suggestions);
            assert_eq!((again.text.as_str(), again.left.len()), (amended.text.as_str(), 0), "it stands there already");
        }
    }

    #[test]
    fn rules_about_models_that_are_written_in_one_line_are_left_to_a_person() {
        let text = "name = \"x\"\nmodels = [{ input = \"ckpt_name\", allow = [\"a\"] }]\n";
        let key = "models.CheckpointLoaderSimple.ckpt_name";
        for (list, change) in [("allow", Change::Add("b".into())), ("deny", Change::Remove("a".into()))] {
            let amended = amended(text, [with(&format!("{key}.{list}"), change)]);
            assert_eq!((amended.text.as_str(), amended.left.len()), (text, 1));
        }
    }

    #[test]
    fn a_denied_name_is_taken_out_and_a_pattern_is_left_to_a_person() {
        assert_eq!(one(DOCUMENT, "classes.deny", Change::Remove("C".into())), DOCUMENT.replace("\"C\", ", ""));
        assert_eq!(one(DOCUMENT, "classes.deny", Change::Remove("D".into())), DOCUMENT.replace(", \"D\"", ""));
        let pattern = DOCUMENT.replace("\"C\"", "\"C*\"");
        let amended = amended(&pattern, [with("classes.deny", Change::Remove("C".into()))]);
        assert_eq!(amended.text, pattern);
        assert!(amended.left[0].1.contains("may allow more"), "{:?}", amended.left);
        let amended = super::amended(DOCUMENT, [with("classes.allow", Change::Remove("A".into()))]);
        assert!(amended.left[0].1.contains("comment"), "{:?}", amended.left);
    }

    #[test]
    fn of_several_numbers_the_one_that_serves_all_is_written() {
        let all = [55.0, 70.0, 60.0].map(|to| with("caps.steps", Change::Raise(to)));
        assert!(amended(DOCUMENT, all).text.contains("steps = 70 #"));
    }

    #[test]
    fn a_section_that_is_not_written_as_one_is_left_to_a_person() {
        for text in ["name = \"x\"\ncaps = { steps = 5 }\n", "name = \"x\"\ncaps.steps = 5\n"] {
            let amended = amended(text, [with("caps.width", Change::Raise(8.0))]);
            assert_eq!((amended.text.as_str(), amended.left.len()), (text, 1));
            assert!(one(text, "caps.steps", Change::Raise(8.0)).contains("steps = 8"));
        }
        let text = "name = \"x\"\ndescription = \"\"\"\n[caps]\n\"\"\"\n[caps]\nsteps = 5\n";
        let amended = amended(text, [with("caps.width", Change::Raise(8.0))]);
        assert_eq!(amended.text, text, "a header within a text is none");
        assert_eq!(amended.left.len(), 1);
    }

    #[test]
    fn a_difference_shows_three_lines_around_each_change() {
        let before: Vec<String> = (1..=20).map(|line| line.to_string()).collect();
        let mut after = before.clone();
        after[1] = "two".into();
        after.insert(15, "new".into());
        let diff = unified_diff("p.toml", &before.join("\n"), &after.join("\n"));
        assert_eq!(
            diff,
            "--- p.toml\n+++ p.toml\n@@ -1,5 +1,5 @@\n 1\n-2\n+two\n 3\n 4\n 5\n@@ -13,6 +13,7 @@\n 13\n 14\n 15\n+new\n 16\n 17\n 18\n"
        );
        assert_eq!(unified_diff("p.toml", "a\nb", "a\nb"), "");
        assert_eq!(unified_diff("p", "", "x\n"), "--- p\n+++ p\n@@ -1,0 +1,1 @@\n+x\n");
    }
}
