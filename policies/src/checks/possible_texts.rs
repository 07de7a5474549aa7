//! The texts that a link may bring: literals, followed through nodes that pass them on, choose between two or join them. Of every other node nothing is known.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use crate::bounds::{Facts, Value};
use crate::catalogue::{ClassSignature, ValueRule};
use crate::verdict::Violation;
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
            let (a, b) = (out.at(node, a)?, out.at(node, b)?);
            out.charge(bytes_in(&a).saturating_add(bytes_in(&b)))?;
            few(a.iter().chain(b.iter()).cloned().collect())
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
        if count > TEXTS_MAX {
            return None;
        }
        self.charge(count.saturating_mul(bytes))?;
        let mut texts = Vec::with_capacity(count);
        for a in first.iter() {
            for b in second.iter() {
                texts.extend(delimiter.iter().map(|delimiter| [a.as_str(), delimiter, b].concat()));
            }
        }
        few(texts)
    }

    /// As Python's `str.replace`, which treats an empty `find` as Rust's does: it stands before every character and at the end.
    fn replaced(&mut self, node: &Node) -> Option<Rc<Vec<String>>> {
        let [string, find, replace] = ["string", "find", "replace"].map(|input| self.at(node, input));
        let (string, find, replace) = (string?, find?, replace?);
        let ([string], [find], [replace]) = (string.as_slice(), find.as_slice(), replace.as_slice()) else {
            return None;
        };
        // What is searched counts too: what comes out may be empty.
        self.charge(string.len())?;
        let grown = string.matches(find.as_str()).count().checked_mul(replace.len())?;
        self.charge(grown)?;
        few(vec![string.replace(find.as_str(), replace)])
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
        self.charge(text.len())?;
        few(vec![text])
    }

    /// `JsonExtractString`: the text under a key of the object in a text. One whose value is anything else is printed in Python's own way.
    fn extracted(&mut self, node: &Node) -> Option<Rc<Vec<String>>> {
        let (json, keys) = (self.at(node, "json_string")?, self.at(node, "key")?);
        let [json] = json.as_slice() else { return None };
        // Each key may give nearly all of it.
        self.charge(json.len().checked_mul(keys.len().checked_add(1)?)?)?;
        // Python looks for the first object that can be read, and ignores what stands behind it.
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(json.get(json.find('{')?..)?.trim_end()).ok()?;
        let under = |key: &String| match object.get(key) {
            None | Some(serde_json::Value::Null) => Some(String::new()),
            Some(serde_json::Value::String(text)) => Some(text.clone()),
            Some(_) => None,
        };
        let texts = keys.iter().map(under).collect::<Option<Vec<String>>>()?;
        few(texts)
    }

    /// How long the text of a node is at most, where it is known word for word.
    pub(super) fn bytes_of(&self, place: NodeIndex) -> Option<usize> {
        self.of_node.get(&place)?.iter().map(String::len).max()
    }

    /// Counts bytes that are about to be read or made, before they are.
    fn charge(&mut self, bytes: usize) -> Option<()> {
        self.bytes_left = self.bytes_left.checked_sub(bytes)?;
        Some(())
    }
}

/// Where texts lie in memory.
type Place = *const Vec<String>;

/// Texts that were read, kept so that no others come to lie there, and the first violation in them.
struct Read {
    _texts: Rc<Vec<String>>,
    found: Option<Violation>,
}

/// What one rule has found in the texts of outputs. Each text is read once for each `K` however many nodes take it, through however many nodes that only pass it on: a small body may have 500 readers of megabytes.
pub(super) struct ReadOnce<K> {
    known: HashMap<(Place, K), Read>,
}

impl<K: Eq + Hash> ReadOnce<K> {
    pub(super) fn new() -> Self {
        Self { known: HashMap::new() }
    }

    /// The first violation that `judge` finds in the texts of the input, told of this node. `key`: what else than the text the judgement depends on.
    pub(super) fn of(
        &mut self,
        node: &Node,
        input: &str,
        key: K,
        texts: Rc<Vec<String>>,
        judge: impl Fn(&str) -> Option<Violation>,
    ) -> Option<Violation> {
        // A literal has one reader.
        if !matches!(node.input(input), Some(Input::Link(_))) {
            return texts.iter().find_map(|text| judge(text));
        }
        let read = self.known.entry((Rc::as_ptr(&texts), key)).or_insert_with(|| {
            let found = texts.iter().find_map(|text| judge(text));
            Read { _texts: texts, found }
        });
        let found = read.found.as_ref()?;
        let (id, class) = (Some(node.id.clone()), Some(node.class.clone()));
        Some(Violation { node: id, class, input: Some(input.to_owned()), ..found.clone() })
    }
}

/// Bytes of all of them.
fn bytes_in(texts: &[String]) -> usize {
    texts.iter().map(String::len).fold(0, usize::saturating_add)
}

/// Different texts, if there are not too many.
fn few(mut texts: Vec<String>) -> Option<Rc<Vec<String>>> {
    texts.sort_unstable();
    texts.dedup();
    (texts.len() <= TEXTS_MAX).then(|| Rc::new(texts))
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::{Value, json};

    use super::*;
    use crate::catalogue::Catalogue;
    use crate::checks::{Subject, at};
    use crate::files::FileFacts;
    use crate::policy::Policy;
    use crate::verdict::ViolationKind;

    /// What `look` finds in the graph.
    fn looked<T>(prompt: &Value, look: impl FnOnce(&Subject<'_>) -> T) -> T {
        let parsed = crate::parse(json!({ "prompt": prompt }).to_string().as_bytes()).unwrap();
        let policy = Policy::builtin("default").unwrap();
        let files = FileFacts::none();
        look(&Subject::of(&parsed, &policy, Catalogue::builtin(), &files))
    }

    fn node(class: &str, inputs: Value) -> Value {
        json!({"class_type": class, "inputs": inputs})
    }

    #[test]
    fn a_text_is_read_once_however_many_nodes_take_it_and_each_is_told() {
        let mut prompt = json!({
            "s": node("PrimitiveString", json!({"value": "cat"})), "d": node("PrimitiveString", json!({"value": "dog"})),
        });
        for n in 0..100 {
            prompt[format!("p{n}")] = node("PrimitiveString", json!({"value": ["s", 0]}));
            prompt[format!("r{n}")] = node("CLIPTextEncode", json!({"text": [format!("p{n}"), 0]}));
            prompt[format!("q{n}")] = node("CLIPTextEncode", json!({"text": ["d", 0]}));
            prompt[format!("l{n}")] = node("CLIPTextEncode", json!({"text": "cat"}));
        }
        looked(&prompt, |subject| {
            let (mut once, reads) = (ReadOnce::new(), Cell::new(0));
            let mut told = Vec::new();
            for (_, node, class) in subject.known().filter(|(_, _, class)| class.name() == "CLIPTextEncode") {
                let texts = subject.possible_texts().at(node, "text").unwrap();
                let found = once.of(node, "text", (), texts, |text| {
                    reads.set(reads.get() + 1);
                    (text == "cat")
                        .then(|| at(node, "text", "text_denied", ViolationKind::Denied, class.name().to_owned()))
                });
                told.extend(found.and_then(|violation| violation.node));
            }
            told.sort();
            told.dedup();
            // A hundred literals, and each of the two texts that come by links.
            assert_eq!((reads.get(), told.len()), (102, 200));
            assert!(told.iter().all(|id| id.as_str().starts_with(['r', 'l'])));
        });
    }

    #[test]
    fn all_texts_that_nodes_make_are_bounded_together() {
        let class = |class: &str, inputs: fn(usize) -> Value| {
            let mut prompt = json!({"s": node("PrimitiveString", json!({"value": "cat ".repeat(25_000)}))});
            for n in 0..400 {
                prompt[format!("j{n}")] = node(class, inputs(n));
            }
            looked(&prompt, |subject| {
                let texts = subject.possible_texts();
                let places = subject.known().filter(|(_, _, known)| known.name() == class);
                places
                    .filter_map(|(place, ..)| texts.bytes_of(place))
                    .fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes))
            })
        };
        // 16 times the literals, and 2 MiB.
        let most = 16 * 102_000 + BYTES_LEAST;
        let (count, bytes) =
            class("StringConcatenate", |n| json!({"string_a": ["s", 0], "string_b": n.to_string(), "delimiter": ""}));
        assert!(count > 30 && bytes <= most, "{count} {bytes}");
        // What is searched is counted, though nothing comes out.
        let (count, bytes) = class("StringReplace", |_| json!({"string": ["s", 0], "find": "cat ", "replace": ""}));
        assert!((30..=38).contains(&count) && bytes == 0, "{count} {bytes}");
        let (count, bytes) =
            class("ComfySwitchNode", |_| json!({"switch": true, "on_true": ["s", 0], "on_false": ["s", 0]}));
        assert!((15..=18).contains(&count) && bytes <= most, "{count} {bytes}");
    }
}
