//! What prompts say: their length, words and expressions that are denied, embeddings that are not allowed.
//!
//! Asked are the inputs whose text goes to a text encoder, and in classes of packs every text that means nothing else that we know of. A text that comes by a link is followed to its literals;
//! where that is not possible it is refused, since it could say anything.

use super::possible_texts::{PossibleTexts, ReadOnce};
use super::{Subject, at};
use crate::bounds::chain;
use crate::catalogue::{ClassSignature, DeclaredType, InputKind};
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::json::shown;
use crate::workflow::node::{Input, Node};

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    if !subject.policy.texts.asks() {
        return;
    }
    let (texts, mut findings) = (subject.possible_texts(), ReadOnce::new());
    for (_, node, class) in subject.known() {
        for (name, input) in &node.inputs {
            if !is_prompt(class, node, name) {
                continue;
            }
            // What a trusted pack makes of texts is the owner's business; what is written down is still read.
            if matches!(input, Input::Link(_)) && subject.policy.trusts(class) {
                continue;
            }
            out.extend(text_fault(subject, texts, &mut findings, node, name));
        }
    }
}

fn is_prompt(class: &ClassSignature, node: &Node, name: &str) -> bool {
    let Some(signature) = class.input(node, name) else { return false };
    match signature.kind() {
        Some(kind) => kind == InputKind::PromptText,
        None => !class.is_core() && *signature.declared() == DeclaredType::Text,
    }
}

fn text_fault(
    subject: &Subject<'_>,
    texts: &PossibleTexts,
    findings: &mut ReadOnce<()>,
    node: &Node,
    name: &str,
) -> Option<Violation> {
    let from = || chain(&subject.facts, node, name);
    let Some(possible) = texts.at(node, name) else {
        // A literal of another JSON type is the inputs rule's.
        if !matches!(node.input(name), Some(Input::Link(_))) {
            return None;
        }
        let message = "the policy reads texts, and this one is made by nodes that can't be followed".to_owned();
        return Some(Violation { chain: from(), ..at(node, name, "text_unknown", ViolationKind::Denied, message) });
    };
    let fault = findings.of(node, name, (), possible, |text| one_text(subject, node, name, text))?;
    Some(Violation { chain: from(), ..fault })
}

fn one_text(subject: &Subject<'_>, node: &Node, name: &str, text: &str) -> Option<Violation> {
    let rules = &subject.policy.texts;
    if let Some(max) = rules.bytes_max.filter(|max| text.len() > *max) {
        let message = format!("the text has {} bytes, and {max} are allowed", text.len());
        let (bound, limit, key) = (Some(text.len().to_string()), Some(max.to_string()), Some("texts.max_bytes"));
        return Some(Violation {
            bound,
            limit,
            key,
            ..at(node, name, "text_too_long", ViolationKind::Denied, message)
        });
    }
    if let Some(pattern) = rules.denied_by(text) {
        let message = format!("the policy denies texts with `{}`", shown(pattern));
        let (bound, key) = (Some(pattern.to_owned()), Some("texts.deny"));
        return Some(Violation { bound, key, ..at(node, name, "text_denied", ViolationKind::Denied, message) });
    }
    let embedding = rules.refused_embedding(text)?;
    let message = format!("the policy does not allow the embedding `{}`", shown(embedding));
    let (bound, key) = (Some(embedding.to_owned()), Some("texts.embeddings"));
    Some(Violation { bound, key, ..at(node, name, "embedding_refused", ViolationKind::Denied, message) })
}
