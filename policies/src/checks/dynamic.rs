//! Undeclared inputs that a class reads on purpose, such as `lora_1: {on, lora, strength}` of rgthree's Power Lora Loader: kept, and held to the annotated shape.

use super::inputs::model_name;
use super::{Subject, at};
use crate::catalogue::DynamicInput;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::json::{Json, shown};
use crate::workflow::node::{Input, Node};

/// Whether an input has the shape that the class reads.
pub(super) fn fault(
    subject: &Subject<'_>,
    node: &Node,
    name: &str,
    known: &DynamicInput,
    input: &Input,
) -> Option<Violation> {
    match (input, &known.link) {
        (Input::Link(link), Some(wanted)) => {
            let types = &subject.facts.slot(*link)?.types;
            let misfit = types.iter().find(|offered| !wanted.split(',').any(|wanted| wanted == **offered))?;
            let message = format!("return type mismatch: {misfit} where {wanted} is read");
            Some(at(node, name, "return_type_mismatch", ViolationKind::Invalid, message))
        }
        (Input::Literal(value), None) if known.literal.is_some() => {
            let wanted = known.literal.as_deref().unwrap_or_default();
            (!is_of(value, wanted)).then(|| wrong(node, name, &wanted.replace('|', " or ")))
        }
        (Input::Literal(value), None) => object_fault(node, name, known, value),
        (Input::Link(_), None) => Some(wrong(node, name, "written down, not a link")),
        (Input::Literal(_), Some(_)) => Some(wrong(node, name, "a link")),
    }
}

fn wrong(node: &Node, name: &str, wanted: &str) -> Violation {
    let message = format!("must be {wanted}");
    at(node, name, "invalid_input_type", ViolationKind::Invalid, message)
}

fn object_fault(node: &Node, name: &str, known: &DynamicInput, value: &Json) -> Option<Violation> {
    let Json::Object(members) = value else {
        return Some(wrong(node, name, "an object"));
    };
    for (member, wanted) in &known.shape {
        let (wanted, optional) = wanted.strip_suffix('?').map_or((wanted.as_str(), false), |wanted| (wanted, true));
        match value.get(member) {
            None | Some(Json::Null) if optional => {}
            Some(found) if is_of(found, wanted) => {}
            _ => return Some(wrong(node, name, &format!("an object whose `{member}` is {wanted}"))),
        }
    }
    if let Some((extra, _)) = members.iter().find(|(member, _)| !known.shape.contains_key(&**member)) {
        return Some(wrong(node, name, &format!("an object without `{}`", shown(extra))));
    }
    known.models_at.iter().find_map(|member| match value.get(member) {
        Some(Json::Text(text)) => model_name(node, name, text),
        _ => None,
    })
}

fn is_of(value: &Json, wanted: &str) -> bool {
    match wanted {
        "BOOLEAN" => matches!(value, Json::Bool(_)),
        "STRING" => matches!(value, Json::Text(_)),
        "INT" => matches!(value, Json::Int(_)),
        "FLOAT" => matches!(value, Json::Int(_) | Json::Float(_)),
        // The words that it may be.
        words => {
            matches!(value, Json::Text(text) if words.contains('|') && words.split('|').any(|word| *word == **text))
        }
    }
}
