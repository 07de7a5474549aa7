//! Models by name: the rules of `[[models]]`, for every input that names one.

use super::possible_texts::{PossibleTexts, ReadOnce};
use super::{Subject, at};
use crate::bounds::chain;
use crate::catalogue::{ClassSignature, DeclaredType, DynamicInput, InputKind, InputSignature};
use crate::policy::{Mode, ModelRefusal, Policy};
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::json::{Json, shown};
use crate::workflow::node::{Input, Node};
use crate::workflow::text::Text;

/// Endings of files that hold models. A choice of a pack's with such a name is one, whatever its input is called.
const ENDINGS: [&str; 13] = [
    ".safetensors",
    ".sft",
    ".ckpt",
    ".pt",
    ".pt2",
    ".pth",
    ".bin",
    ".gguf",
    ".onnx",
    ".pkl",
    ".engine",
    ".npz",
    ".msgpack",
];

/// Many packs write it for "no model".
const NO_MODEL: &str = "None";

/// Bytes of a name that comes by a link, the longest path that a system opens. Many nodes may take one text that others made long.
const NAME_BYTES_MAX: usize = 4096;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    if !subject.policy.has_model_rules() {
        return;
    }
    let (texts, mut findings) = (subject.possible_texts(), ReadOnce::new());
    for (_, node, class) in subject.known() {
        for (name, input) in &node.inputs {
            match input {
                Input::Literal(Json::Text(text)) => {
                    let names_models = names_models(class, node, name, text);
                    out.extend(fault(subject, node, name, (name, names_models), text));
                }
                Input::Literal(Json::Object(members)) => {
                    for (member, value) in dynamic(class, name).flat_map(|shape| models_of(shape, members)) {
                        let violation = match value {
                            Json::Text(text) => fault(subject, node, name, (member, true), text),
                            _ => None,
                        };
                        out.extend(violation);
                    }
                }
                Input::Literal(_) => {}
                Input::Link(_) => out.extend(linked(subject, (texts, &mut findings), node, class, name)),
            }
        }
    }
}

/// Whether the input is known to name a model: as it is annotated, or by the ending of what is chosen.
fn names_models(class: &ClassSignature, node: &Node, name: &str, text: &str) -> bool {
    class.input(node, name).is_some_and(|signature| is_model(signature, text))
}

fn is_model(signature: &InputSignature, text: &str) -> bool {
    match signature.kind() {
        Some(kind) => kind == InputKind::ModelFile,
        None => matches!(signature.declared(), DeclaredType::Combo(_)) && ends_like_a_model(text),
    }
}

impl ClassSignature {
    /// Whether `option` is known to be the name of a model where this input offers it: lists of models belong to an installation, others to the class.
    pub fn offers_model(&self, input: &str, option: &str) -> bool {
        let declared = self.declared_as(input);
        // Of what no catalogue declares nothing but the name is known.
        if declared.is_empty() { ends_like_a_model(option) } else { declared.iter().any(|it| is_model(it, option)) }
    }
}

impl Policy {
    /// Whether a caller may choose `option` at this input of the class, as far as models go: what a filtered `/object_info` offers. Everything in shadow mode.
    pub fn offers(&self, class: &ClassSignature, input: &str, option: &str) -> bool {
        let refused = || self.model_refusal(class.name(), input, class.offers_model(input, option), option).is_some();
        !self.has_model_rules() || option == NO_MODEL || self.mode() == Mode::Shadow || !refused()
    }
}

fn ends_like_a_model(text: &str) -> bool {
    let text = text.to_lowercase();
    ENDINGS.iter().any(|ending| text.ends_with(ending))
}

/// The annotations of undeclared inputs that this one falls under.
fn dynamic<'a>(class: &'a ClassSignature, name: &str) -> impl Iterator<Item = &'a DynamicInput> {
    let matches = |pattern: &str| match pattern.split_once('*') {
        Some((start, end)) => name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end),
        None => name == pattern,
    };
    class.dynamic_inputs().iter().filter(move |dynamic| matches(&dynamic.pattern)).collect::<Vec<_>>().into_iter()
}

fn models_of<'m>(shape: &DynamicInput, members: &'m [(Text, Json)]) -> Vec<(&'m Text, &'m Json)> {
    let names_models = |name: &Text| shape.models_at.iter().any(|at| at.as_str() == name.as_str());
    members.iter().filter(|(name, _)| names_models(name)).map(|(name, value)| (name, value)).collect()
}

/// `asked`: the name by which rules know the input, and whether it is known to name models.
fn fault(subject: &Subject<'_>, node: &Node, input: &str, asked: (&str, bool), text: &str) -> Option<Violation> {
    let (name, names_models) = asked;
    if text == NO_MODEL {
        return None;
    }
    let refusal = subject.policy.model_refusal(node.class.as_str(), name, names_models, text)?;
    let (code, key, message) = match refusal {
        ModelRefusal::Denied => {
            ("model_denied", "models.deny", format!("the policy denies the model `{}`", shown(text)))
        }
        ModelRefusal::NotAllowed => {
            ("model_not_allowed", "models.allow", format!("the policy does not allow the model `{}` here", shown(text)))
        }
    };
    let bound = Some(text.to_owned());
    Some(Violation { bound, key: Some(key), ..at(node, input, code, ViolationKind::Denied, message) })
}

/// A name that comes by a link is one of those that it may be, each of which must be allowed.
fn linked<'a>(
    subject: &Subject<'_>,
    (texts, findings): (&PossibleTexts, &mut ReadOnce<(&'a str, &'a str, bool)>),
    node: &'a Node,
    class: &ClassSignature,
    name: &'a str,
) -> Option<Violation> {
    let known = class.input_kind(node, name) == Some(InputKind::ModelFile);
    let text_like = class.input(node, name).is_some_and(|signature| {
        matches!(signature.declared(), DeclaredType::Combo(_) | DeclaredType::Text | DeclaredType::Any)
    });
    if !text_like || !subject.policy.has_model_rule(node.class.as_str(), name, known) {
        return None;
    }
    let unknown = |message: String| at(node, name, "model_unknown", ViolationKind::Denied, message);
    let violation = match texts.at(node, name) {
        // Which rules ask depends on the class and the input.
        Some(possible) => findings.of(node, name, (node.class.as_str(), name, known), possible, |text| {
            if text.len() > NAME_BYTES_MAX {
                let bytes = text.len();
                return Some(unknown(format!(
                    "no model has a name of {bytes} bytes, {NAME_BYTES_MAX} at most are taken"
                )));
            }
            fault(subject, node, name, (name, known), text)
        })?,
        None => unknown(
            "the policy has rules about models, and this name is made by nodes that can't be followed".to_owned(),
        ),
    };
    Some(Violation { chain: chain(&subject.facts, node, name), ..violation })
}

#[cfg(test)]
mod tests {
    use crate::catalogue::Catalogue;
    use crate::policy::Policy;

    #[test]
    fn a_model_is_offered_or_not_within_choices_and_rows_by_its_full_name_too() {
        let class = r#"{"L": {"input": {"required": {
            "plain": [["a.safetensors", "b.safetensors"], {}],
            "mode": ["COMFY_DYNAMICCOMBO_V3", {"options": [
                {"key": "text", "inputs": {"required": {"name": ["STRING", {}]}}},
                {"key": "file", "inputs": {"required": {"name": [["a.safetensors", "b.safetensors"], {}]}}}]}],
            "row": ["COMFY_AUTOGROW_V3", {"template": {"prefix": "item", "min": 0, "max": 2,
                "input": {"required": {"item": [["a.safetensors", "b.safetensors"], {}]}}}}]
        }}, "output": ["MODEL"], "output_node": false, "python_module": "nodes"}}"#;
        let catalogue = Catalogue::from_object_info(class.as_bytes()).unwrap();
        let class = catalogue.class("L").unwrap();
        let policy = Policy::from_toml("name = \"mine\"\n[[models]]\ninput = \"*\"\nallow = [\"a.*\"]\n").unwrap();
        for input in ["plain", "mode.name", "row.item0", "row.item1"] {
            assert!(class.offers_model(input, "a.safetensors") && !class.offers_model(input, "fast"), "{input}");
            assert!(policy.offers(class, input, "a.safetensors"), "{input}");
            assert!(!policy.offers(class, input, "b.safetensors"), "{input}");
        }
        assert!(!class.offers_model("mode", "a.safetensors"), "the name of a choice");
        for undeclared in ["row", "name", "row.item2", "row.item", "mode.name.x", ""] {
            assert!(class.offers_model(undeclared, "a.safetensors"), "{undeclared}");
            assert!(!class.offers_model(undeclared, "fast"), "{undeclared}");
        }
    }
}
