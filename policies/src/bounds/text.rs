//! Lengths of texts: a chain of `StringConcatenate` that joins a text to itself doubles it at each node (facts K10).

use super::interval::Interval;
use super::{Facts, Slot, Value, number};
use crate::catalogue::{ClassSignature, TypeSet};
use crate::workflow::graph::NodeIndex;
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node};

/// Bytes of the text in output `slot` of `node` at most; `None` where nobody knows. Classes that are not here give texts that nothing is known about.
pub(super) fn text_bytes(facts: &Facts<'_>, node: &Node, class: &ClassSignature, slot: usize) -> Option<i128> {
    if !class.is_core() || slot != 0 || !class.output_types(slot).meets(TypeSet::TEXTUAL) {
        return None;
    }
    let own = |name: &str| input_bytes(facts, node, name).map(Interval::exactly);
    let bytes = match class.name() {
        "PrimitiveString" | "PrimitiveStringMultiline" => own("value")?,
        "CustomCombo" => own("choice")?,
        "StringConcatenate" => own("string_a")?.plus(own("string_b")?).plus(own("delimiter")?),
        "StringReplace" => replaced(own("string")?, own("replace")?, found_bytes(facts, node)),
        "StringTrim" | "StringSubstring" => own("string")?,
        // Each text of a list (`comfy_extras/nodes_dataset.py`).
        "AddTextPrefix" => own("texts")?.plus(own("prefix")?),
        "AddTextSuffix" => own("texts")?.plus(own("suffix")?),
        "ReplaceText" => replaced(own("texts")?, own("replace")?, found_bytes(facts, node)),
        "TextToLowercase" | "TextToUppercase" => own("texts")?.times(Interval::exactly(3)),
        "TruncateText" | "StripWhitespace" | "MergeTextLists" => own("texts")?,
        // One character becomes three at most when its case changes.
        "CaseConverter" => own("string")?.times(Interval::exactly(3)),
        // Each match once, with a line break, and no group of it is longer.
        "RegexExtract" => own("string")?.times(Interval::exactly(2)).plus(Interval::exactly(1)),
        "RegexReplace" => regex_replaced(facts, node, own("string")?, own("replace")?),
        "SaveText" => own("text")?,
        "PreviewAny" => Interval::exactly(printed_bytes(facts, node, "source")?),
        // Python writes a number or a list longer than JSON may: `1E9` becomes `1000000000.0`.
        "JsonExtractString" => own("json_string")?.times(Interval::exactly(6)),
        "TextGenerate" | "TextGenerateLTX2Prompt" => generated(facts, node, class)?,
        "ComfySwitchNode" => own("on_true")?.max(own("on_false")?),
        _ => return None,
    };
    Some(bytes.hi)
}

/// Bytes of a token at most; those of the tokenizers in use have far fewer.
pub(super) const TOKEN_BYTES_MAX: i128 = 256;
/// What one tokenizer takes for a token is few of another one's.
pub(super) const TOKENS_A_TOKEN: i128 = 2;

/// So many tokens that a model writes.
fn generated(facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Option<Interval> {
    let declared = class.input(node, "max_length")?.declared();
    match number(facts, node, "max_length", declared) {
        Value::Int(tokens) => Some(tokens.clamped(0, i128::MAX).times(Interval::exactly(facts.token_bytes))),
        _ => None,
    }
}

/// Bytes of the text at the input `name` at most. In the owner posture a text that a pack gives, which nobody knows the length of, counts as what [`longest`] takes it for.
pub(crate) fn input_bytes(facts: &Facts<'_>, node: &Node, name: &str) -> Option<i128> {
    match node.input(name) {
        None => Some(0),
        Some(Input::Literal(Json::Text(text))) => i128::try_from(text.len()).ok(),
        Some(Input::Literal(_)) => None,
        Some(Input::Link(link)) => {
            let assumed = || facts.assumes_texts.then(|| facts.longest_text(link.target).max(ASSUMED_TEXT_BYTES));
            facts.slot(*link).and_then(|slot| slot.text_bytes).or_else(assumed)
        }
    }
}

/// Bytes of a text that nobody knows, beyond what goes into it: a caption, a date, a name.
const ASSUMED_TEXT_BYTES: i128 = 4096;

/// Bytes of the longest text that the node at `place` gives; 0 if it gives none. A text of which nothing is known, such as a pack's, is taken to hold all that goes into the node, so that none
/// doubles another for ever.
pub(super) fn longest(facts: &Facts<'_>, place: NodeIndex, node: &Node) -> i128 {
    // What is of no known type may be a text.
    let is_text = |slot: &&Slot<'_>| slot.types.is_empty() || slot.type_set.meets(TypeSet::STRING.and(TypeSet::ANY));
    if facts.class_at(place).is_some() {
        let mut texts = facts.slots_at(place).iter().filter(is_text);
        // Of those that are known the longest; one that is not is a guess about all.
        if let Some(longest) = texts.try_fold(0, |longest: i128, slot| Some(longest.max(slot.text_bytes?))) {
            return longest;
        }
    }
    let of_input = |input: &Input| match input {
        Input::Literal(Json::Text(text)) => i128::try_from(text.len()).unwrap_or(i128::MAX),
        Input::Literal(_) => 0,
        Input::Link(link) if facts.slot(*link).is_none_or(|slot| is_text(&slot)) => facts.longest_text(link.target),
        Input::Link(_) => 0,
    };
    node.inputs.iter().fold(ASSUMED_TEXT_BYTES, |sum, (_, input)| sum.saturating_add(of_input(input)))
}

/// Bytes of a number as Python prints it: `-1.7976931348623157e+308`.
const FLOAT_BYTES_MAX: i128 = 24;
/// The same of a truth value, and of nothing: `False`, `None`.
const WORD_BYTES_MAX: i128 = 5;

/// Bytes of what `str(value)` gives of a text, a number or a truth value. Of anything else nothing is known.
fn printed_bytes(facts: &Facts<'_>, node: &Node, name: &str) -> Option<i128> {
    let int_bytes = |value: i128| i128::try_from(value.to_string().len()).unwrap_or(i128::MAX);
    match node.input(name)? {
        Input::Literal(Json::Text(text)) => i128::try_from(text.len()).ok(),
        Input::Literal(Json::Int(value)) => Some(int_bytes(*value)),
        Input::Literal(Json::Float(_)) => Some(FLOAT_BYTES_MAX),
        Input::Literal(Json::Bool(_) | Json::Null) => Some(WORD_BYTES_MAX),
        Input::Literal(Json::Pair(..) | Json::List(_) | Json::Object(_)) => None,
        Input::Link(link) => {
            let slot = facts.slot(*link)?;
            match slot.value {
                Value::Int(value) => Some(int_bytes(value.lo).max(int_bytes(value.hi))),
                Value::Float(_) => Some(FLOAT_BYTES_MAX),
                Value::Bool(_) => Some(WORD_BYTES_MAX),
                Value::Unknown if *slot.types == ["STRING"] => input_bytes(facts, node, name),
                Value::Unknown => None,
            }
        }
    }
}

/// `re.sub`: at each place at most one match. Its replacement may hold a group once for each backslash, and a group is a part of its match: all of them together are no longer than the text. (Groups
/// that look beyond the match are not taken at all.) A pattern of plain characters is found at most once in as many characters as it has, and no more often than `count` says.
fn regex_replaced(facts: &Facts<'_>, node: &Node, text: Interval, replace: Interval) -> Interval {
    let backslashes =
        |literal: &str| i128::try_from(literal.bytes().filter(|byte| *byte == b'\\').count()).unwrap_or(i128::MAX);
    let groups = facts.written_text(node, "replace").map_or(replace.hi, backslashes);
    let plain = facts.written_text(node, "regex_pattern").and_then(plain_characters);
    let places = match plain {
        Some(characters) => Interval::exactly(text.hi / characters.max(1)),
        None => text.plus(Interval::exactly(1)),
    };
    let matches = match node.input("count") {
        Some(Input::Literal(Json::Int(count))) if *count > 0 => places.clamped(0, *count),
        _ => places,
    };
    text.plus(matches.times(replace)).plus(text.times(Interval::exactly(groups)))
}

/// How many characters a pattern has that stands for exactly these, whatever flags Python is given; `None` if it may be any other. A `{` is one where no count follows it.
fn plain_characters(pattern: &str) -> Option<i128> {
    let mut characters = pattern.chars().peekable();
    let mut count: i128 = 0;
    while let Some(character) = characters.next() {
        let counts = character == '{' && characters.peek().is_none_or(|next| next.is_ascii_digit() || *next == ',');
        if counts || matches!(character, '\\' | '.' | '^' | '$' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '|') {
            return None;
        }
        count = count.checked_add(1)?;
    }
    (count > 0).then_some(count)
}

/// Bytes of what `node` looks for; 0 where that is not known, since it may be nothing.
fn found_bytes(facts: &Facts<'_>, node: &Node) -> usize {
    facts.written_text(node, "find").map_or(0, str::len)
}

/// `text.replace(find, replace)`. An empty `find` puts `replace` before each character and at the end; another is found at most once in each of its own lengths.
fn replaced(text: Interval, replace: Interval, find_bytes: usize) -> Interval {
    let finds = match i128::try_from(find_bytes) {
        Ok(bytes) if bytes > 0 => Interval::between(0, text.hi / bytes),
        _ => text.plus(Interval::exactly(1)),
    };
    text.plus(finds.times(replace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_of_plain_characters_is_found_once_in_as_many() {
        for (pattern, count) in [("a", 1), ("{name}", 6), ("Größe: x, y", 11), ("a{b", 3), ("}", 1), ("# x", 3)] {
            assert_eq!(plain_characters(pattern), Some(count), "{pattern}");
        }
        for pattern in ["", "a*", "x?", "(a)", "a|", "\\w", "[a]", "^", "a{2}", "a{,3}", "a{", "."] {
            assert_eq!(plain_characters(pattern), None, "{pattern}");
        }
    }
}
