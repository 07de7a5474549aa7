//! Links: the slot exists, and every type that may come out of it fits what the input declares.

use super::{Findings, Subject, at};
use crate::catalogue::{DeclaredType, InputSignature, TypeSet};
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::graph::Workflow;
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let mut found = Findings::of(out);
    for (place, node, _) in subject.known() {
        for (name, input, signature) in subject.given(place) {
            let (Input::Link(link), Some(signature)) = (input, signature) else {
                continue;
            };
            found.add(link_fault(subject, node, name, signature, *link));
        }
    }
}

fn link_fault(
    subject: &Subject<'_>,
    node: &Node,
    name: &str,
    signature: &InputSignature,
    link: Link,
) -> Option<Violation> {
    // A source of unknown class has its own violation.
    let source = subject.facts.class_at(link.target)?;
    let Some(slot) = subject.facts.slot(link) else {
        // Another release may have more outputs.
        if subject.owner_of_unknown() {
            return None;
        }
        let message =
            format!("`{}` has {} outputs, and slot {} is not one", source.name(), source.outputs().len(), link.slot);
        return Some(at(node, name, "bad_linked_input", ViolationKind::Invalid, message));
    };
    let misfit = match signature.declared() {
        // ComfyUI takes such a type for any other, and packs rely on it. Its own classes have inferred types, which are never `*`.
        _ if subject.owner() && (subject.policy.trusts(source) || slot.type_set.meets(TypeSet::ANY)) => None,
        DeclaredType::Combo(_) if subject.owner() && *slot.types == ["COMBO"] => None,
        DeclaredType::Combo(_) | DeclaredType::DynamicCombo(_) => {
            let message = "a choice must be given as a literal, not by a link".to_owned();
            return Some(at(node, name, "linked_input_refused", ViolationKind::Denied, message));
        }
        DeclaredType::Any => None,
        declared => slot.types.iter().find(|offered| !fits(offered, declared)),
    }?;
    let from = origin(&subject.parsed.workflow, link);
    let message = format!("return type mismatch: {misfit} {from} where {} is declared", wanted(signature.declared()));
    Some(at(node, name, "return_type_mismatch", ViolationKind::Invalid, message))
}

fn origin(workflow: &Workflow, link: Link) -> String {
    workflow.node(link.target).map_or(String::new(), |source| format!("from {} ({})", source.id, source.class))
}

/// Exactly the declared type, or one of its alternatives. An output of type `*` fits only an input of type `*`: ComfyUI takes it for everything.
fn fits(offered: &str, declared: &DeclaredType) -> bool {
    match declared {
        DeclaredType::Int { .. } => offered == "INT",
        DeclaredType::Float { .. } => offered == "FLOAT",
        DeclaredType::Text => offered == "STRING",
        DeclaredType::Boolean => offered == "BOOLEAN",
        DeclaredType::Any => true,
        DeclaredType::Socket(types) => types.iter().any(|name| name == offered || name == "*"),
        DeclaredType::Match { allowed, .. } => allowed.is_empty() || allowed.iter().any(|name| name == offered),
        DeclaredType::Combo(_) | DeclaredType::DynamicCombo(_) | DeclaredType::Autogrow { .. } => false,
    }
}

fn wanted(declared: &DeclaredType) -> String {
    match declared {
        DeclaredType::Int { .. } => "INT".to_owned(),
        DeclaredType::Float { .. } => "FLOAT".to_owned(),
        DeclaredType::Text => "STRING".to_owned(),
        DeclaredType::Boolean => "BOOLEAN".to_owned(),
        DeclaredType::Socket(types) => types.join(","),
        DeclaredType::Match { allowed, .. } => allowed.join(","),
        DeclaredType::Any => "*".to_owned(),
        DeclaredType::Combo(_) | DeclaredType::DynamicCombo(_) => "COMBO".to_owned(),
        DeclaredType::Autogrow { .. } => "a row of inputs".to_owned(),
    }
}
