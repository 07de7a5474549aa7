//! Lengths of texts: a chain of `StringConcatenate` that joins a text to itself doubles it at each node (facts K10).

use super::interval::Interval;
use super::{Facts, Value, number};
use crate::catalogue::{ClassSignature, TypeSet};
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
        "StringReplace" => replaced(own("string")?, own("replace")?, node.text("find").map_or(0, str::len)),
        "StringTrim" | "StringSubstring" => own("string")?,
        // Each text of a list (`comfy_extras/nodes_dataset.py`).
        "AddTextPrefix" => own("texts")?.plus(own("prefix")?),
        "AddTextSuffix" => own("texts")?.plus(own("suffix")?),
        "ReplaceText" => replaced(own("texts")?, own("replace")?, node.text("find").map_or(0, str::len)),
        "TextToLowercase" | "TextToUppercase" => own("texts")?.times(Interval::exactly(3)),
        "TruncateText" | "StripWhitespace" | "MergeTextLists" => own("texts")?,
        // One character becomes three at most when its case changes.
        "CaseConverter" => own("string")?.times(Interval::exactly(3)),
        // Each match once, with a line break, and no group of it is longer.
        "RegexExtract" => own("string")?.times(Interval::exactly(2)).plus(Interval::exactly(1)),
        "RegexReplace" => regex_replaced(own("string")?, own("replace")?, node.text("replace")),
        "SaveText" => own("text")?,
        // Python writes a number or a list longer than JSON may: `1E9` becomes `1000000000.0`.
        "JsonExtractString" => own("json_string")?.times(Interval::exactly(6)),
        "TextGenerate" | "TextGenerateLTX2Prompt" => generated(facts, node, class)?,
        "ComfySwitchNode" => own("on_true")?.max(own("on_false")?),
        _ => return None,
    };
    Some(bytes.hi)
}

/// Bytes of a token at most; those of the tokenizers in use have far fewer.
const TOKEN_BYTES_MAX: i128 = 256;

/// So many tokens that a model writes.
fn generated(facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Option<Interval> {
    let declared = class.input(node, "max_length")?.declared();
    match number(facts, node, "max_length", declared) {
        Value::Int(tokens) => Some(tokens.clamped(0, i128::MAX).times(Interval::exactly(TOKEN_BYTES_MAX))),
        _ => None,
    }
}

/// Bytes of the text at the input `name` at most. In the owner posture a text that a pack gives, which nobody knows the length of, counts as one of [`ASSUMED_TEXT_BYTES`].
pub(crate) fn input_bytes(facts: &Facts<'_>, node: &Node, name: &str) -> Option<i128> {
    match node.input(name) {
        None => Some(0),
        Some(Input::Literal(Json::Text(text))) => i128::try_from(text.len()).ok(),
        Some(Input::Literal(_)) => None,
        Some(Input::Link(link)) => facts.slot(*link).and_then(|slot| slot.text_bytes).or(facts.assumed_text_bytes),
    }
}

/// What an owner's own packs give, such as the caption of a picture.
pub(super) const ASSUMED_TEXT_BYTES: i128 = 4096;

/// `re.sub`: at each place at most one match, whose replacement may hold each group, of at most the whole text, once for each backslash.
fn regex_replaced(text: Interval, replace: Interval, literal: Option<&str>) -> Interval {
    let groups = literal.map_or(replace.hi, |literal| {
        i128::try_from(literal.bytes().filter(|byte| *byte == b'\\').count()).unwrap_or(i128::MAX)
    });
    let each = replace.plus(text.times(Interval::exactly(groups)));
    text.plus(text.plus(Interval::exactly(1)).times(each))
}

/// `text.replace(find, replace)`. An empty `find` puts `replace` before each character and at the end; another is found at most once in each of its own lengths.
fn replaced(text: Interval, replace: Interval, find_bytes: usize) -> Interval {
    let finds = match i128::try_from(find_bytes) {
        Ok(bytes) if bytes > 0 => Interval::between(0, text.hi / bytes),
        _ => text.plus(Interval::exactly(1)),
    };
    text.plus(finds.times(replace))
}
