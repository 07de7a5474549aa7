//! ComfyUI's own classes that its releases declare differently. Where nobody knows which release runs, a node is judged as the first one declares it in which it is valid: the ComfyUI that runs it
//! has its own declarations, and a catalogue of an installation has one for each class.

use super::{Catalogue, ClassSignature, DeclaredType, InputSignature, Presence};
use crate::workflow::graph::{NodeIndex, Workflow, links};
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node};

/// The declarations of the classes of one workflow.
pub(crate) struct Declarations<'a> {
    catalogue: &'a Catalogue,
    /// By the nodes' places: how many outputs are linked to at least. Empty where each class has one declaration.
    outputs: Vec<usize>,
}

impl<'a> Declarations<'a> {
    /// Looks at all links once, where it matters.
    pub(crate) fn of(workflow: &Workflow, catalogue: &'a Catalogue) -> Self {
        let mut outputs = Vec::new();
        if !catalogue.other_releases.is_empty() {
            outputs.resize(workflow.nodes().len(), 0);
            for link in workflow.nodes().iter().flat_map(links) {
                if let Some(used) = outputs.get_mut(link.target.number()) {
                    *used = link.slot.saturating_add(1).max(*used);
                }
            }
        }
        Self { catalogue, outputs }
    }

    /// The class of the node at `place`; `None` if no release has one of that name.
    pub(crate) fn class(&self, place: NodeIndex, node: &Node) -> Option<&'a ClassSignature> {
        let first = self.catalogue.class(node.class.as_str())?;
        if self.outputs.is_empty() {
            return Some(first);
        }
        let Some(others) = self.catalogue.other_releases.get(node.class.as_str()) else { return Some(first) };
        let used = self.outputs.get(place.number()).copied().unwrap_or_default();
        // Of several with as many faults it is the first.
        std::iter::once(first).chain(others).min_by_key(|class| faults(class, node, used))
    }
}

/// How much of a node the class does not declare.
fn faults(class: &ClassSignature, node: &Node, outputs: usize) -> usize {
    let undeclared = |(name, input): &&(_, Input)| {
        let name: &crate::workflow::text::Text = name;
        match class.input(node, name) {
            Some(declared) => !takes(declared, input),
            None => !class.is_residue(name) && class.dynamic_input(name).is_none(),
        }
    };
    let missing = |input: &&InputSignature| {
        let row = matches!(input.declared(), DeclaredType::Autogrow { .. });
        input.presence() == Presence::Required && !row && node.input(input.name()).is_none()
    };
    let (given, absent) =
        (node.inputs.iter().filter(undeclared).count(), class.inputs().iter().filter(missing).count());
    given + absent + usize::from(outputs > class.outputs().len())
}

/// Whether a literal is in the declared range or list. Types are for the rule of inputs.
fn takes(declared: &InputSignature, input: &Input) -> bool {
    let Input::Literal(value) = input else { return true };
    match (declared.declared(), value) {
        (DeclaredType::Int { min, max, .. }, Json::Int(value)) => {
            min.is_none_or(|min| *value >= min) && max.is_none_or(|max| *value <= max)
        }
        (DeclaredType::Float { min, max, .. }, Json::Float(value)) => {
            min.is_none_or(|min| *value >= min) && max.is_none_or(|max| *value <= max)
        }
        (DeclaredType::Combo(options), value) => {
            declared.kind().is_some() || options.is_empty() || options.contains(&value.to_value())
        }
        (DeclaredType::DynamicCombo(options), Json::Text(text)) => options.iter().any(|(key, _)| key == text),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Catalogue;
    use crate::{FileFacts, Parsed, Policy, Verdict, Violation, decide, parse};

    fn judged(catalogue: &Catalogue, nodes: &serde_json::Value) -> Vec<Violation> {
        let policy = Policy::from_toml("name = \"x\"\n[classes]\nallow = [\"*\"]\n").unwrap();
        let parsed: Parsed = parse(json!({ "prompt": nodes }).to_string().as_bytes()).unwrap();
        match decide(&parsed, &policy, catalogue, &FileFacts::none()) {
            Verdict::Allow(approved) => approved.pruned().into_iter().flatten().cloned().collect(),
            Verdict::Deny(violations) => violations.iter().cloned().collect(),
        }
    }

    fn linked(class: &str, slot: usize) -> serde_json::Value {
        json!({
            "a": {"class_type": class, "inputs": if class == "PreviewAny" { json!({"source": "x"}) } else { json!({"choice": "x"}) }},
            "b": {"class_type": "PreviewAny", "inputs": {"source": ["a", slot]}},
        })
    }

    #[test]
    fn a_node_is_judged_as_some_release_declares_it_where_none_is_known() {
        // PreviewAny of 0.8.0 gives nothing, that of later ones the text that it shows.
        let codes = |catalogue: &Catalogue, nodes: &serde_json::Value| -> Vec<&'static str> {
            judged(catalogue, nodes).iter().map(|violation| violation.code).collect()
        };
        assert_eq!(codes(Catalogue::builtin(), &linked("PreviewAny", 0)), [""; 0]);
        assert_eq!(codes(Catalogue::builtin(), &linked("PreviewAny", 1)), ["bad_linked_input"]);
        assert_eq!(codes(Catalogue::builtin(), &linked("CustomCombo", 1)), [""; 0]);
        assert_eq!(codes(Catalogue::builtin(), &linked("CustomCombo", 2)), ["bad_linked_input"]);
        // An installation has one release.
        assert_eq!(codes(&Catalogue::builtin_arc(), &linked("PreviewAny", 0)), ["bad_linked_input"]);
        assert_eq!(codes(&Catalogue::builtin_arc(), &linked("CustomCombo", 1)), ["bad_linked_input"]);
    }
}
