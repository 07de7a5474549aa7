//! Inputs: declared ones only, literals of exactly the declared JSON type, in the declared range or list.
//!
//! ComfyUI coerces (`"1_0"` is 10, `"false"` is true) and passes on what is not declared if the Python function happens to know it. What is declared is all that we judge, so
//! it must be all that there is.

use std::fmt::Display;

use super::{Findings, Subject, at, dynamic};
use crate::catalogue::{ClassSignature, DeclaredType, InputKind, InputSignature, Presence};
use crate::files::is_path_trick;
use crate::rewrite::{SALT_INPUT, is_droppable, is_own_salt};
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::graph::NodeIndex;
use crate::workflow::json::{Json, shown};
use crate::workflow::node::{Input, Node};

/// Bytes of a model's name.
const MODEL_NAME_BYTES_MAX: usize = 1024;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let mut found = Findings::of(out);
    let running = subject.parsed.workflow.reaching(&subject.outputs);
    for (place, node, class) in subject.known() {
        for (name, input, signature) in subject.given(place) {
            match (signature, input) {
                (Some(_), Input::Literal(_)) if subject.policy.trusts(class) => {}
                (Some(signature), Input::Literal(value)) => {
                    let fault = literal(node, name, signature, value);
                    found.add(fault.filter(|fault| !is_of_another_release(subject, class, fault, value)));
                }
                (Some(_), Input::Link(_)) => {}
                (None, input) => found.add(undeclared(subject, node, class, (name, input))),
            }
        }
        if running.contains(&place) && !subject.policy.trusts(class) {
            found.add(missing(subject, place, node, class));
        }
    }
}

/// Options differ from release to release, and the ComfyUI that runs it has its own list. Where nobody asked the installation, a choice may be any name that names no other place: of an owner's, and
/// of a class that gives nothing whose size or value is followed, so that no rule reads what was chosen.
fn is_of_another_release(subject: &Subject<'_>, class: &ClassSignature, fault: &Violation, value: &Json) -> bool {
    let name = matches!(value, Json::Text(text) if !is_path_trick(text));
    let unread = subject.owner() || class.gives_only_parts_of_models();
    fault.code == "value_not_in_list" && name && unread && !subject.facts.catalogue.is_complete()
}

fn undeclared(
    subject: &Subject<'_>,
    node: &Node,
    class: &ClassSignature,
    (name, input): (&str, &Input),
) -> Option<Violation> {
    if name == SALT_INPUT {
        // A saved picture carries it. It is never passed on, so whose it is does not matter.
        let message = format!("`{SALT_INPUT}` is reserved for the gateway, and this is no value of its own");
        return (!is_own_salt(input)).then(|| at(node, name, "reserved_input", ViolationKind::Denied, message));
    }
    // Packs read inputs that they do not declare, on purpose (facts §13): a link leads to a node of this workflow, which parsing made sure of.
    if is_droppable(subject.policy, class, name, input) || subject.policy.trusts(class) {
        return None;
    }
    if let Some(known) = class.dynamic_input(name) {
        return dynamic::fault(subject, node, name, known, input);
    }
    // SECURITY: ComfyUI follows undeclared links and hands them to the function (facts K2, K4, #37 to #39).
    let message = format!("`{}` is not an input of this class", shown(name));
    Some(at(node, name, "undeclared_input", ViolationKind::Denied, message))
}

fn missing(subject: &Subject<'_>, place: NodeIndex, node: &Node, class: &ClassSignature) -> Vec<Violation> {
    let mut out = Vec::new();
    // Names are distinct: as many required ones as there are are all of them.
    let required =
        |signature: Option<&InputSignature>| signature.map(InputSignature::presence) == Some(Presence::Required);
    if class.required() == Some(subject.given(place).filter(|(_, _, signature)| required(*signature)).count()) {
        return out;
    }
    let given = |name: &str| class.later_inputs().any(|(given, _)| given == name);
    let absent = |name: &str| node.input(name).is_none() && !given(name);
    let mut report = |name: &str| {
        let message = format!("required input is missing: {name}");
        out.push(at(node, name, "required_input_missing", ViolationKind::Invalid, message));
    };
    for (name, signature) in class.inputs_of(node) {
        let in_row = class.inputs().iter().any(|input| {
            let inner = || name.strip_prefix(input.name()).is_some_and(|rest| rest.starts_with('.'));
            matches!(input.declared(), DeclaredType::Autogrow { .. }) && inner()
        });
        if signature.presence() == Presence::Required && !in_row && absent(name) {
            report(name);
        }
    }
    for input in class.inputs() {
        let DeclaredType::Autogrow { names, min, .. } = input.declared() else {
            continue;
        };
        // ComfyUI runs a row that is shorter than its least number (checked on 0.8.0), but none without any item.
        let full = |name: &String| format!("{}.{name}", input.name());
        let first = names.first().filter(|_| *min > 0);
        if let Some(first) = first.filter(|_| names.iter().map(full).all(|name| absent(&name))) {
            report(&full(first));
        }
    }
    out
}

fn literal(node: &Node, name: &str, signature: &InputSignature, value: &Json) -> Option<Violation> {
    let wrong = |wanted: &str| {
        let message = format!("must be {wanted}, not {}", value.type_name());
        Some(at(node, name, "invalid_input_type", ViolationKind::Invalid, message))
    };
    match (signature.declared(), value) {
        (DeclaredType::Int { min, max, .. }, Json::Int(number)) => {
            let (small, large) = (min.filter(|min| number < min), max.filter(|max| number > max));
            out_of_range(node, name, number, small.as_ref(), large.as_ref())
        }
        (DeclaredType::Int { .. }, _) => wrong("an integer"),
        (DeclaredType::Float { min, max, .. }, Json::Int(_) | Json::Float(_)) => {
            let number = match value {
                #[expect(clippy::cast_precision_loss, reason = "Python casts it the same way")]
                Json::Int(number) => *number as f64,
                Json::Float(number) => *number,
                _ => return None,
            };
            let (small, large) = (min.filter(|min| number < *min), max.filter(|max| number > *max));
            out_of_range(node, name, &number, small.as_ref(), large.as_ref())
        }
        (DeclaredType::Float { .. }, _) => wrong("a number"),
        (DeclaredType::Text, Json::Text(_)) | (DeclaredType::Boolean, Json::Bool(_)) => None,
        (DeclaredType::Text, _) => wrong("a string"),
        (DeclaredType::Boolean, _) => wrong("a boolean"),
        (DeclaredType::Combo(options), value) => choice(node, name, signature.kind(), options, value),
        (DeclaredType::DynamicCombo(options), Json::Text(text)) if options.iter().any(|(key, _)| key == text) => None,
        (DeclaredType::DynamicCombo(_), _) => Some(not_in_list(node, name, value)),
        (DeclaredType::Any, Json::Text(_) | Json::Bool(_) | Json::Int(_) | Json::Float(_)) => None,
        (DeclaredType::Any, _) => wrong("a string, number or boolean"),
        // ComfyUI takes it as it is (checked on 0.8.0).
        (DeclaredType::Match { allowed, .. }, Json::Text(_)) if allowed.is_empty() => None,
        (DeclaredType::Socket(_) | DeclaredType::Match { .. } | DeclaredType::Autogrow { .. }, _) => wrong("a link"),
    }
}

fn out_of_range<T: Display>(
    node: &Node,
    name: &str,
    value: &T,
    small: Option<&T>,
    large: Option<&T>,
) -> Option<Violation> {
    let (code, relation, limit) = match (small, large) {
        (Some(min), _) => ("value_smaller_than_min", "smaller than min of", min),
        (_, Some(max)) => ("value_bigger_than_max", "bigger than max of", max),
        _ => return None,
    };
    let message = format!("value {value} {relation} {limit}");
    let violation = at(node, name, code, ViolationKind::Invalid, message);
    Some(Violation { bound: Some(value.to_string()), limit: Some(limit.to_string()), ..violation })
}

fn not_in_list(node: &Node, name: &str, value: &Json) -> Violation {
    let shown = shown(&value.to_value().to_string());
    let message = format!("value not in list: {shown}");
    Violation { bound: Some(shown), ..at(node, name, "value_not_in_list", ViolationKind::Invalid, message) }
}

/// A choice: exactly one of the options, of the same JSON type. Models differ from installation to installation, so any name passes that names no other place; files have a rule of their own.
fn choice(
    node: &Node,
    name: &str,
    kind: Option<InputKind>,
    options: &[serde_json::Value],
    value: &Json,
) -> Option<Violation> {
    match (kind, value) {
        (Some(InputKind::File), Json::Text(_)) => None,
        (Some(InputKind::ModelFile), Json::Text(text)) => model_name(node, name, text),
        (_, Json::Text(text)) if options.is_empty() => model_name(node, name, text),
        (_, Json::Text(text)) if options.iter().any(|option| option.as_str() == Some(text)) => None,
        (_, Json::Text(_)) => Some(not_in_list(node, name, value)),
        _ if options.contains(&value.to_value()) => None,
        _ => Some(not_in_list(node, name, value)),
    }
}

pub(super) fn model_name(node: &Node, name: &str, text: &str) -> Option<Violation> {
    let good = !is_path_trick(text) && text.len() <= MODEL_NAME_BYTES_MAX;
    let message = || format!("`{}` is a path out of the model folders", shown(text));
    (!good).then(|| at(node, name, "path_refused", ViolationKind::Denied, message()))
}
