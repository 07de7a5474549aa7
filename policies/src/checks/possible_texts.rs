//! The texts that a link may bring: literals, followed through nodes that pass them on, choose between two or join them. Of every other node nothing is known.

use std::collections::HashMap;
use std::rc::Rc;

use super::Subject;
use crate::catalogue::{ClassSignature, ValueRule};
use crate::workflow::graph::NodeIndex;
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node};

/// Texts that one output may have; more count as unknown.
const TEXTS_MAX: usize = 16;
/// Bytes of all texts that are put together for one workflow.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// The same for each byte of a literal text, so that a small body never takes much; and in every case.
const BYTES_A_BYTE: usize = 16;
const BYTES_LEAST: usize = 64 * 1024;

/// Known texts of the first output of nodes.
pub(super) struct PossibleTexts<'a> {
    of_node: HashMap<NodeIndex, Rc<Vec<String>>>,
    bytes_left: usize,
    subject: &'a Subject<'a>,
}

impl<'a> PossibleTexts<'a> {
    /// Looks at every node once, sources first.
    pub(super) fn of(subject: &'a Subject<'a>) -> Self {
        let bytes_left =
            (literal_bytes(subject).saturating_mul(BYTES_A_BYTE).saturating_add(BYTES_LEAST)).min(BYTES_MAX);
        let mut out = Self { of_node: HashMap::new(), bytes_left, subject };
        for (place, node) in subject.parsed.workflow.sources_first() {
            let Some(class) = subject.facts.class_at(place) else { continue };
            if let Some(texts) = out.made(node, class) {
                out.of_node.insert(place, texts);
            }
        }
        out
    }

    /// The texts that the input may have; `None`: nobody knows, or it is no text.
    pub(super) fn at(&self, node: &Node, input: &str) -> Option<Rc<Vec<String>>> {
        match node.input(input)? {
            Input::Literal(Json::Text(text)) => Some(Rc::new(vec![text.to_string()])),
            Input::Literal(_) => None,
            Input::Link(link) if link.slot == 0 => self.of_node.get(&link.target).cloned(),
            Input::Link(_) => None,
        }
    }

    fn made(&mut self, node: &Node, class: &ClassSignature) -> Option<Rc<Vec<String>>> {
        let one_of = |out: &mut Self, a: &str, b: &str| {
            let mut texts = out.at(node, a)?.as_ref().clone();
            texts.extend(out.at(node, b)?.iter().cloned());
            out.bounded(texts)
        };
        // A literal is worth a copy only here, where it may be handed on.
        match class.value_rule(0) {
            Some(ValueRule::Input(input)) => return self.at(node, input),
            Some(ValueRule::Switch(switch)) => return one_of(self, &switch.on_true, &switch.on_false),
            _ => {}
        }
        if !class.is_core() {
            return None;
        }
        match class.name() {
            "PrimitiveString" | "PrimitiveStringMultiline" => self.at(node, "value"),
            "ComfySwitchNode" => one_of(self, "on_true", "on_false"),
            "StringConcatenate" => self.joined(node),
            "StringReplace" => self.replaced(node),
            _ => None,
        }
    }

    fn joined(&mut self, node: &Node) -> Option<Rc<Vec<String>>> {
        let [first, second, delimiter] = ["string_a", "string_b", "delimiter"].map(|input| match node.input(input) {
            // The declared default is the empty text.
            None => Some(Rc::new(vec![String::new()])),
            Some(_) => self.at(node, input),
        });
        let (first, second, delimiter) = (first?, second?, delimiter?);
        let count = first.len().checked_mul(second.len())?.checked_mul(delimiter.len())?;
        let longest = |texts: &[String]| texts.iter().map(String::len).max().unwrap_or(0);
        let bytes = longest(&first).saturating_add(longest(&second)).saturating_add(longest(&delimiter));
        if count > TEXTS_MAX || count.saturating_mul(bytes) > self.bytes_left {
            return None;
        }
        let mut texts = Vec::with_capacity(count);
        for a in first.iter() {
            for b in second.iter() {
                texts.extend(delimiter.iter().map(|delimiter| [a.as_str(), delimiter, b].concat()));
            }
        }
        self.bounded(texts)
    }

    /// As Python's `str.replace`, which treats an empty `find` as Rust's does: it stands before every character and at the end.
    fn replaced(&mut self, node: &Node) -> Option<Rc<Vec<String>>> {
        let [string, find, replace] = ["string", "find", "replace"].map(|input| self.at(node, input));
        let (string, find, replace) = (string?, find?, replace?);
        let ([string], [find], [replace]) = (string.as_slice(), find.as_slice(), replace.as_slice()) else {
            return None;
        };
        let grown = string.matches(find.as_str()).count().checked_mul(replace.len())?;
        if string.len().checked_add(grown)? > self.bytes_left {
            return None;
        }
        self.bounded(vec![string.replace(find.as_str(), replace)])
    }

    /// How long the text of a node is at most, where it is known word for word.
    pub(super) fn bytes_of(&self, place: NodeIndex) -> Option<usize> {
        self.of_node.get(&place)?.iter().map(String::len).max()
    }

    fn bounded(&mut self, mut texts: Vec<String>) -> Option<Rc<Vec<String>>> {
        texts.sort_unstable();
        texts.dedup();
        let bytes: usize = texts.iter().map(String::len).sum();
        self.bytes_left = self.bytes_left.checked_sub(bytes)?;
        (texts.len() <= TEXTS_MAX).then(|| Rc::new(texts))
    }

    /// Where a linked text comes from.
    pub(super) fn chain(&self, node: &Node, input: &str) -> Option<String> {
        crate::bounds::chain(&self.subject.facts, node, input)
    }
}

/// Bytes of all texts that the workflow holds as inputs.
fn literal_bytes(subject: &Subject<'_>) -> usize {
    let inputs = subject.parsed.workflow.nodes().iter().flat_map(|node| &node.inputs);
    let bytes = inputs.map(|(_, input)| match input {
        Input::Literal(Json::Text(text)) => text.len(),
        _ => 0,
    });
    bytes.fold(0, usize::saturating_add)
}
