//! What was checked is what is sent: the approved workflow and its form for one attempt on one backend.
//!
//! In comes a workflow without violations, out goes our own serialisation of it: residue dropped, files by their canonical names, save prefixes below the attempt's folder, our
//! ids, and in every node that is not a pure model loader the owner's salt, which keeps one owner's cached outputs from another. Rewriting twice equals rewriting once.

pub(crate) mod prefix;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value, json};

use crate::bounds;
use crate::catalogue::{ClassSignature, InputKind};
use crate::checks::Subject;
use crate::digest::Digest;
use crate::files::annotated_name;
use crate::policy::{Policy, Posture};
use crate::submission::Parsed;
use crate::verdict::{Cost, Violation, Violations};
use crate::workflow::graph::NodeIndex;
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node, NodeClass, NodeId};
use prefix::SavePrefix;

/// The input by which an owner's cache is kept apart: undeclared, so ComfyUI puts it into the cache key and hands it to nothing (facts §13). What a caller sends
/// under this name, as a saved picture carries it, is left out.
pub const SALT_INPUT: &str = "comfygate_salt";
/// Characters of folder, ids and salt.
const SCOPE_CHARS_MAX: usize = 200;

/// Where one attempt writes, and under which ids it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputScope {
    folder: String,
    prompt_id: String,
    client_id: String,
    salt: String,
}

/// Why these are no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Not `t/<opaque>/<job>-<n>` of `0-9a-z/-`.
    #[error("a folder is segments of `0-9a-z-`, joined by `/`, at most {SCOPE_CHARS_MAX} characters")]
    Folder,
    /// An id or the salt.
    #[error("prompt id, client id and salt are 1 to {SCOPE_CHARS_MAX} of `0-9A-Za-z_-`")]
    Id,
}

impl OutputScope {
    /// The scope of an attempt: its folder below ComfyUI's output directory, such as `t/<opaque tenant>/<job>-<attempt>`, its ids upstream, and the salt of the owner.
    ///
    /// # Errors
    /// A part has other characters than it may have.
    pub fn new(folder: &str, prompt_id: &str, client_id: &str, salt: &str) -> Result<Self, ScopeError> {
        let folder_byte = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-';
        let good = |segment: &str| !segment.is_empty() && segment.bytes().all(folder_byte);
        if folder.len() > SCOPE_CHARS_MAX || !folder.split('/').all(good) {
            return Err(ScopeError::Folder);
        }
        if ![prompt_id, client_id, salt].into_iter().all(is_id) {
            return Err(ScopeError::Id);
        }
        let [folder, prompt_id, client_id, salt] = [folder, prompt_id, client_id, salt].map(str::to_owned);
        Ok(Self { folder, prompt_id, client_id, salt })
    }
}

/// Where a save node's files were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveTarget {
    /// The save node.
    pub node: NodeId,
    /// The input that holds the prefix.
    pub input: String,
    /// The folder that the caller asked for: `""` or `a/b`.
    pub folder: String,
    /// The start of the files' names that the caller asked for; may hold ComfyUI's date and size tokens.
    pub base_name: String,
}

/// An undeclared input that was left out: something that the stock page leaves behind, or the salt of an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The node.
    pub node: NodeId,
    /// The input.
    pub input: String,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` is not declared and not sent", self.node, self.input)
    }
}

/// A value that goes upstream in another form than it came, apart from the attempt's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The node.
    pub node: NodeId,
    /// The input.
    pub input: String,
    /// As the caller wrote it.
    pub from: String,
    /// As it goes upstream.
    pub to: String,
}

/// A workflow that the policy allows. Only [`decide`](crate::decide) makes one.
#[derive(Debug, Clone)]
pub struct ApprovedWorkflow {
    parsed: Parsed,
    output_nodes: Vec<NodeId>,
    classes: BTreeSet<NodeClass>,
    save_targets: Vec<SaveTarget>,
    prefixes: BTreeMap<(NodeIndex, String), SavePrefix>,
    files: BTreeMap<(NodeIndex, String), String>,
    salted: BTreeSet<NodeIndex>,
    omitted: BTreeSet<(NodeIndex, String)>,
    dropped: Vec<Dropped>,
    replaced: Vec<Replaced>,
    cost: Cost,
    policy_digest: Digest,
    catalogue_digest: Digest,
    pruned: Option<Violations>,
    shadowed: Vec<Violation>,
    paid: bool,
}

/// Whether this is a salt as we write it into what is sent, and as it comes back with a saved picture.
pub(crate) fn is_own_salt(input: &Input) -> bool {
    matches!(input, Input::Literal(Json::Text(text)) if is_id(text))
}

/// 1 to 200 of `0-9A-Za-z_-`.
fn is_id(text: &str) -> bool {
    let id_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=SCOPE_CHARS_MAX).contains(&text.len()) && text.bytes().all(id_byte)
}

/// Whether an undeclared input may be left out without loss. ComfyUI's own classes never see an undeclared literal; whether it was the page that left it there or a
/// mistake matters only where strangers are to be told.
pub(crate) fn is_droppable(policy: &Policy, class: &ClassSignature, name: &str, input: &Input) -> bool {
    let residue = class.is_residue(name) || (policy.posture() == Posture::Owner && class.is_core());
    residue && matches!(input, Input::Literal(_))
}

/// The work that it is. Where a cap was broken and let pass, the bounds end at the caps, and they are made anew without.
fn cost(subject: &Subject<'_>, shadowed: &[Violation]) -> Cost {
    if shadowed.is_empty() {
        return bounds::cost(&subject.facts);
    }
    let open = subject.policy.without_caps();
    let facts = bounds::Facts::of(&subject.parsed.workflow, &open, subject.facts.catalogue, subject.files);
    bounds::cost(&facts)
}

impl ApprovedWorkflow {
    /// INVARIANT: called only for a subject without violations. `pruned` is what stood against nodes that are not part of it any more.
    /// `shadowed` is what shadow mode let pass.
    pub(crate) fn of(subject: &Subject<'_>, pruned: Option<Violations>, mut shadowed: Vec<Violation>) -> Self {
        shadowed.truncate(crate::VIOLATIONS_MAX);
        let workflow = &subject.parsed.workflow;
        let ids =
            |places: &[NodeIndex]| places.iter().filter_map(|place| Some(workflow.node(*place)?.id.clone())).collect();
        let mut approved = Self {
            parsed: subject.parsed.clone(),
            output_nodes: ids(&subject.outputs),
            classes: workflow.nodes().iter().map(|node| node.class.clone()).collect(),
            save_targets: Vec::new(),
            prefixes: BTreeMap::new(),
            files: BTreeMap::new(),
            salted: BTreeSet::new(),
            omitted: BTreeSet::new(),
            dropped: Vec::new(),
            replaced: Vec::new(),
            cost: cost(subject, &shadowed),
            policy_digest: subject.policy.digest(),
            catalogue_digest: subject.facts.catalogue.digest(),
            pruned,
            shadowed,
            paid: false,
        };
        for (place, node) in workflow.indexed() {
            let Some(class) = subject.facts.class_at(place) else {
                continue;
            };
            // A pack's class may read whatever it is given.
            if !class.is_model_loader() && !class.accepts_all_inputs() && !subject.policy.trusts(class) {
                approved.salted.insert(place);
            }
            approved.paid |= class.is_paid();
            approved.add_absent_prefixes(node, place, class);
            for (name, input) in &node.inputs {
                approved.add_input(subject, place, node, class, (name, input));
            }
        }
        approved
    }

    fn add_input(
        &mut self,
        subject: &Subject<'_>,
        place: NodeIndex,
        node: &Node,
        class: &ClassSignature,
        (name, input): (&String, &Input),
    ) {
        let key = (place, name.clone());
        let kind = class.input(node, name).map(|signature| signature.kind());
        match (kind, input) {
            (None, _) if subject.policy.trusts(class) && name != SALT_INPUT => {}
            (None, _) => {
                self.omitted.insert(key);
                self.dropped.push(Dropped { node: node.id.clone(), input: name.clone() });
            }
            (Some(Some(InputKind::SavePrefix)), Input::Literal(Json::Text(text))) => {
                let Ok(prefix) = SavePrefix::read(text) else { return };
                self.note_replacement(node, name, &prefix.shown(), &prefix.replaced());
                self.save_targets.push(SaveTarget {
                    node: node.id.clone(),
                    input: name.clone(),
                    folder: prefix.shown_folder.clone(),
                    base_name: prefix.shown_name.clone(),
                });
                self.prefixes.insert(key, prefix);
            }
            (Some(Some(InputKind::File)), Input::Literal(Json::Text(text))) => {
                let Ok((file, directory)) = annotated_name(text) else {
                    return;
                };
                let Some(fact) = subject.files.get(file, directory) else {
                    return;
                };
                self.note_replacement(node, name, text, &fact.canonical_name);
                self.files.insert(key, fact.canonical_name.clone());
            }
            _ => {}
        }
    }

    /// An optional save prefix that is absent would fall back to the class's own default, outside the attempt's folder.
    fn add_absent_prefixes(&mut self, node: &Node, place: NodeIndex, class: &ClassSignature) {
        for (name, signature) in class.inputs_of(node) {
            let wanted = signature.kind() == Some(InputKind::SavePrefix) && node.input(&name).is_none();
            if let (true, Ok(prefix)) = (wanted, SavePrefix::read("")) {
                self.save_targets.push(SaveTarget {
                    node: node.id.clone(),
                    input: name.clone(),
                    folder: prefix.shown_folder.clone(),
                    base_name: prefix.shown_name.clone(),
                });
                self.prefixes.insert((place, name), prefix);
            }
        }
    }

    fn note_replacement(&mut self, node: &Node, input: &str, from: &str, to: &str) {
        if from != to {
            let (from, to) = (from.to_owned(), to.to_owned());
            self.replaced.push(Replaced { node: node.id.clone(), input: input.to_owned(), from, to });
        }
    }

    /// The body that is POSTed to a backend: `{"prompt", "prompt_id", "client_id", "extra_data": {…, "client_id"}, "partial_execution_targets"?}`.
    pub fn upstream_body(&self, scope: &OutputScope) -> Vec<u8> {
        let workflow = &self.parsed.workflow;
        let prompt = workflow.to_value_with(|place, node| {
            let mut inputs = Map::new();
            for (name, input) in &node.inputs {
                let key = (place, name.clone());
                if self.omitted.contains(&key) {
                    continue;
                }
                let value = match (self.prefixes.get(&key), self.files.get(&key)) {
                    (Some(prefix), _) => json!(prefix.below(&scope.folder)),
                    (None, Some(file)) => json!(file),
                    (None, None) => workflow.input_value(input),
                };
                inputs.insert(name.clone(), value);
            }
            for ((_, name), prefix) in
                self.prefixes.range((place, String::new())..).take_while(|((at, _), _)| *at == place)
            {
                if node.input(name).is_none() {
                    inputs.insert(name.clone(), json!(prefix.below(&scope.folder)));
                }
            }
            if self.salted.contains(&place) {
                inputs.insert(SALT_INPUT.to_owned(), json!(scope.salt));
            }
            inputs
        });
        let mut extra_data = self.parsed.extra_data();
        if let Some(members) = extra_data.as_object_mut() {
            members.insert("client_id".to_owned(), json!(scope.client_id));
        }
        let mut body = json!({
            "prompt": prompt, "prompt_id": scope.prompt_id, "client_id": scope.client_id, "extra_data": extra_data,
        });
        if let (Some(targets), Some(members)) = (&self.parsed.targets, body.as_object_mut()) {
            members.insert("partial_execution_targets".to_owned(), json!(targets));
        }
        Value::to_string(&body).into_bytes()
    }

    /// The output nodes that run, in the caller's order; restricted by `partial_execution_targets`.
    pub fn output_nodes(&self) -> &[NodeId] {
        &self.output_nodes
    }

    /// The classes that occur, each once.
    pub fn classes(&self) -> impl Iterator<Item = &NodeClass> {
        self.classes.iter()
    }

    /// Where each save node was asked to save, in the caller's order.
    pub fn save_targets(&self) -> &[SaveTarget] {
        &self.save_targets
    }

    /// What a policy in shadow mode would have refused, in the order of its nodes; at most [`VIOLATIONS_MAX`](crate::VIOLATIONS_MAX).
    pub fn shadowed(&self) -> &[Violation] {
        &self.shadowed
    }

    /// Whether it holds a node that calls a paid service: then [`Policy::paid_nodes`](crate::Policy::paid_nodes) says who pays.
    pub fn has_paid_nodes(&self) -> bool {
        self.paid
    }

    /// The estimated work.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Inputs that were left out.
    pub fn dropped(&self) -> &[Dropped] {
        &self.dropped
    }

    /// File names and save prefixes that were changed; the attempt's folder itself is not listed.
    pub fn replaced(&self) -> &[Replaced] {
        &self.replaced
    }

    /// What stood against the nodes that were left out because they are invalid, or fed by such; none if all of the workflow runs.
    pub fn pruned(&self) -> Option<&Violations> {
        self.pruned.as_ref()
    }

    /// What ComfyUI answers beside an accepted prompt: the invalid nodes of outputs that do not run, `{}` if all do.
    pub fn node_errors(&self) -> Value {
        self.pruned.as_ref().map_or_else(|| json!({}), Violations::reached_node_errors)
    }

    /// The policy that was asked.
    pub fn policy_digest(&self) -> Digest {
        self.policy_digest
    }

    /// The catalogue that was asked.
    pub fn catalogue_digest(&self) -> Digest {
        self.catalogue_digest
    }
}

#[cfg(test)]
mod tests;
