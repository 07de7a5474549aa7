//! The texts that a link may bring: literals, followed through nodes that pass them on, choose between two or join them. Of every other node nothing is known.

use std::collections::HashMap;
use std::rc::Rc;

use crate::bounds::{Facts, Value};
use crate::catalogue::{ClassSignature, ValueRule};
use crate::workflow::graph::NodeIndex;
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node};

/// Texts that one output may have; more count as unknown.
const TEXTS_MAX: usize = 16;
/// Bytes of all texts that are put together for one workflow.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// The same for each byte of the literal texts, so that a small body does not take so much; and in every case, enough for two of the longest texts that caps allow.
const BYTES_A_BYTE: usize = 16;
const BYTES_LEAST: usize = 2 * 1024 * 1024;

/// Known texts of the first output of nodes.
pub(crate) struct PossibleTexts {
    of_node: HashMap<NodeIndex, Rc<Vec<String>>>,
    bytes_left: usize,
}

impl PossibleTexts {
    /// Looks at every node once, sources first.
    pub(super) fn of(facts: &Facts<'_>) -> Self {
        let bytes = literal_bytes(facts).saturating_mul(BYTES_A_BYTE).saturating_add(BYTES_LEAST);
        let mut out = Self { of_node: HashMap::new(), bytes_left: bytes.min(BYTES_MAX) };
        for (place, node) in facts.workflow.sources_first() {
            let Some(class) = facts.class_at(place) else { continue };
            if let Some(texts) = out.made(facts, node, class) {
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

    fn made(&mut self, facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Option<Rc<Vec<String>>> {
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
            "CustomCombo" => self.at(node, "choice"),
            "PreviewAny" => self.printed(facts, node),
            "JsonExtractString" => self.extracted(node),
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

    /// What `str(value)` gives of a text, a whole number or a truth value.
    fn printed(&mut self, facts: &Facts<'_>, node: &Node) -> Option<Rc<Vec<String>>> {
        let truth = |value: bool| if value { "True" } else { "False" }.to_owned();
        let text = match node.input("source")? {
            Input::Literal(Json::Int(value)) => value.to_string(),
            Input::Literal(Json::Bool(value)) => truth(*value),
            Input::Literal(_) => return self.at(node, "source"),
            Input::Link(link) => match facts.slot(*link)?.value {
                Value::Int(value) if value.lo == value.hi => value.lo.to_string(),
                Value::Bool(Some(value)) => truth(value),
                Value::Unknown => return self.at(node, "source"),
                _ => return None,
            },
        };
        self.bounded(vec![text])
    }

    /// `JsonExtractString`: the text under a key of the object in a text. One whose value is anything else is printed in Python's own way.
    fn extracted(&mut self, node: &Node) -> Option<Rc<Vec<String>>> {
        let (json, keys) = (self.at(node, "json_string")?, self.at(node, "key")?);
        let [json] = json.as_slice() else { return None };
        self.bytes_left = self.bytes_left.checked_sub(json.len())?;
        // Python looks for the first object that can be read, and ignores what stands behind it.
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(json.get(json.find('{')?..)?.trim_end()).ok()?;
        let under = |key: &String| match object.get(key) {
            None | Some(serde_json::Value::Null) => Some(String::new()),
            Some(serde_json::Value::String(text)) => Some(text.clone()),
            Some(_) => None,
        };
        let texts = keys.iter().map(under).collect::<Option<Vec<String>>>()?;
        self.bounded(texts)
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
}

/// Bytes of all texts that the workflow holds as inputs.
fn literal_bytes(facts: &Facts<'_>) -> usize {
    let inputs = facts.workflow.nodes().iter().flat_map(|node| &node.inputs);
    let bytes = inputs.map(|(_, input)| match input {
        Input::Literal(Json::Text(text)) => text.len(),
        _ => 0,
    });
    bytes.fold(0, usize::saturating_add)
}
