//! The answer of the engine, and how it is told.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use crate::instead::{instead, with_advice};
use crate::rewrite::ApprovedWorkflow;
use crate::workflow::node::{NodeClass, NodeId};

/// The answer to "may this workflow run under this policy?"
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Yes, in this form.
    Allow(Box<ApprovedWorkflow>),
    /// No, for all these reasons.
    Deny(Violations),
}

/// Estimated work in units of one sampling step of SDXL at 1024 × 1024; never negative, always finite.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Cost(pub(crate) f64);

impl Cost {
    /// The number of units.
    pub fn units(self) -> f64 {
        self.0
    }
}

/// Whether a violation is something that ComfyUI itself would call invalid, or a rule of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ViolationKind {
    /// ComfyUI would refuse it as well: ComfyUI answers 400.
    Invalid,
    /// A rule says no.
    Denied,
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// Stable, for machines, such as `cap_exceeded`.
    pub code: &'static str,
    /// What sort of rule.
    pub kind: ViolationKind,
    /// The node at fault; none for a rule about the whole.
    pub node: Option<NodeId>,
    /// Its class.
    pub class: Option<NodeClass>,
    /// Its input.
    pub input: Option<String>,
    /// The value found, or its bound.
    pub bound: Option<String>,
    /// The limit that it breaks.
    pub limit: Option<String>,
    /// The key of the policy document that says so, such as `caps.width`; none where no document can allow it, and for classes, whose lists are known by the code.
    pub key: Option<&'static str>,
    /// Where a linked value comes from, such as `linked from 7 (PrimitiveInt.value)`.
    pub chain: Option<String>,
    /// For people: what is the matter, and where. What to do instead comes by the code ([`Violation::instead`]).
    pub message: String,
}

impl Violation {
    /// The JSON pointer (RFC 6901) in the submission.
    pub fn pointer(&self) -> String {
        let mut out = "/prompt".to_owned();
        if let Some(node) = &self.node {
            out.push('/');
            out.push_str(node.as_str());
            if let Some(input) = &self.input {
                out.push_str("/inputs/");
                out.push_str(&input.replace('~', "~0").replace('/', "~1"));
            }
        }
        out
    }

    /// Why, in words: the message, the chain of nodes that led to the bound, and what to do instead.
    pub fn because(&self) -> String {
        let reason = match &self.chain {
            Some(chain) if !self.message.contains(chain.as_str()) => format!("{}: {chain}", self.message),
            _ => self.message.clone(),
        };
        with_advice(reason, self.code)
    }

    /// What to do instead, in words.
    pub fn instead(&self) -> Option<&'static str> {
        instead(self.code)
    }

    /// For a program: `{code, node, class, input, pointer, bound, limit, because}`.
    pub fn to_json(&self) -> Value {
        json!({
            "code": self.code, "node": self.node, "class": self.class, "input": self.input, "pointer": self.pointer(),
            "bound": self.bound, "limit": self.limit, "because": self.because(),
        })
    }

    /// ComfyUI's own name for this error, where it has one; the stock page shows unknown ones as they are.
    fn comfyui_type(&self) -> &str {
        match self.code {
            "undeclared_input" | "invalid_input_type" => "invalid_input_type",
            "linked_input_refused" => "bad_linked_input",
            "class_unknown" => "invalid_prompt",
            "cap_exceeded" => "value_bigger_than_max",
            other => other,
        }
    }

    fn details(&self) -> String {
        let mut parts: Vec<&str> = Vec::new();
        parts.extend(self.input.as_deref());
        parts.extend(self.chain.as_deref());
        with_advice(parts.join(", "), self.code)
    }

    fn to_comfyui(&self) -> Value {
        json!({
            "type": self.comfyui_type(),
            "message": self.message,
            "details": self.details(),
            "extra_info": {
                "code": self.code, "input_name": self.input, "bound": self.bound, "limit": self.limit, "chain": self.chain,
            },
        })
    }
}

impl fmt::Display for Violation {
    /// One line: node and class, where there are, before what is the matter and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.node, &self.class) {
            (Some(node), Some(class)) => write!(f, "{node} ({class}): {}", self.because()),
            _ => f.write_str(&self.because()),
        }
    }
}

/// Everything that stands against a workflow, in the order of its nodes. Never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Violations {
    list: Vec<Violation>,
    /// For each node at fault the output nodes that it feeds.
    dependents: BTreeMap<NodeId, Vec<NodeId>>,
    cost: Cost,
}

impl Violations {
    /// `list` is not empty: whoever has none makes an [`ApprovedWorkflow`]. Keeps nothing of the body alive.
    pub(crate) fn new(mut list: Vec<Violation>, dependents: BTreeMap<NodeId, Vec<NodeId>>, cost: Cost) -> Self {
        for violation in &mut list {
            violation.node = violation.node.as_ref().map(NodeId::detached);
            violation.class = violation.class.as_ref().map(NodeClass::detached);
        }
        Self { list, dependents, cost }
    }

    /// The violations.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.list.iter()
    }

    /// What the workflow would have cost, as far as its sizes are within the caps.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none; never so in a verdict.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// [`ViolationKind::Denied`] as soon as one rule of the policy is broken.
    pub fn kind(&self) -> ViolationKind {
        self.iter().map(|violation| violation.kind).max().unwrap_or(ViolationKind::Denied)
    }

    /// ComfyUI's own form of a refusal, by which the stock page marks the nodes: `{"error": E, "node_errors": {id: {"errors": [E], "dependent_outputs": [id],
    /// "class_type": …}}}` with E = `{type, message, details, extra_info}` (ComfyUI 0.8.0, `server.py` `post_prompt`).
    pub fn to_comfyui(&self) -> Value {
        json!({ "error": self.headline(), "node_errors": self.node_errors(|_| true) })
    }

    /// The `node_errors` of nodes that an output depends on: ComfyUI does not look at others.
    pub(crate) fn reached_node_errors(&self) -> Value {
        self.node_errors(|outputs| !outputs.is_empty())
    }

    fn node_errors(&self, wanted: impl Fn(&[NodeId]) -> bool) -> Value {
        let mut nodes: Map<String, Value> = Map::new();
        for violation in &self.list {
            let Some(node) = &violation.node else { continue };
            let outputs = self.dependents.get(node).map(Vec::as_slice).unwrap_or_default();
            if !wanted(outputs) {
                continue;
            }
            let entry = nodes.entry(node.to_string()).or_insert_with(
                || json!({ "errors": [], "dependent_outputs": outputs, "class_type": violation.class }),
            );
            if let Some(errors) = entry.get_mut("errors").and_then(Value::as_array_mut) {
                errors.push(violation.to_comfyui());
            }
        }
        Value::Object(nodes)
    }

    fn headline(&self) -> Value {
        let alone = self.list.iter().find(|violation| violation.node.is_none());
        let first = alone.or(self.list.first());
        let lines: Vec<String> = self.list.iter().map(ToString::to_string).collect();
        let name = match self.kind() {
            ViolationKind::Invalid => "prompt_outputs_failed_validation",
            ViolationKind::Denied => "policy_violation",
        };
        json!({
            "type": alone.map_or(name, Violation::comfyui_type),
            "message": match self.len() {
                1 => first.map(|violation| violation.message.clone()).unwrap_or_default(),
                count => format!("{count} reasons stand against this workflow"),
            },
            "details": lines.join("\n"),
            "extra_info": { "code": first.map(|violation| violation.code) },
        })
    }

    /// All violations for a program: `[{code, node, class, input, pointer, bound, limit, because}]`.
    pub fn to_json(&self) -> Value {
        Value::Array(self.list.iter().map(Violation::to_json).collect())
    }
}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a Violation;
    type IntoIter = std::slice::Iter<'a, Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
