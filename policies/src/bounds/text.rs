//! Lengths of texts: a chain of `StringConcatenate` that joins a text to itself doubles it at each node (facts K10).

use super::Facts;
use super::interval::Interval;
use crate::catalogue::ClassSignature;
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node};

/// Bytes of the text in output `slot` of `node` at most; `None` where nobody knows. Classes that are not here give texts that nothing is known about.
pub(super) fn text_bytes(facts: &Facts<'_>, node: &Node, class: &ClassSignature, slot: usize) -> Option<i128> {
    if !class.is_core() || slot != 0 {
        return None;
    }
    let own = |name: &str| input_bytes(facts, node, name).map(Interval::exactly);
    let bytes = match class.name() {
        "PrimitiveString" | "PrimitiveStringMultiline" => own("value")?,
        "CustomCombo" => own("choice")?,
        "StringConcatenate" => own("string_a")?.plus(own("string_b")?).plus(own("delimiter")?),
        "StringReplace" => replaced(own("string")?, own("replace")?, node.text("find").map_or(0, str::len)),
        "StringTrim" | "StringSubstring" => own("string")?,
        // One character becomes three at most when its case changes.
        "CaseConverter" => own("string")?.times(Interval::exactly(3)),
        "ComfySwitchNode" => own("on_true")?.max(own("on_false")?),
        _ => return None,
    };
    Some(bytes.hi)
}

fn input_bytes(facts: &Facts<'_>, node: &Node, name: &str) -> Option<i128> {
    match node.input(name) {
        None => Some(0),
        Some(Input::Literal(Json::Text(text))) => i128::try_from(text.len()).ok(),
        Some(Input::Literal(_)) => None,
        Some(Input::Link(link)) => facts.slot(*link)?.text_bytes,
    }
}

/// `text.replace(find, replace)`. An empty `find` puts `replace` before each character and at the end; another is found at most once in each of its own lengths.
fn replaced(text: Interval, replace: Interval, find_bytes: usize) -> Interval {
    let finds = match i128::try_from(find_bytes) {
        Ok(bytes) if bytes > 0 => Interval::between(0, text.hi / bytes),
        _ => text.plus(Interval::exactly(1)),
    };
    text.plus(finds.times(replace))
}
