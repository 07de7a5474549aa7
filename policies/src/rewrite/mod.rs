//! What was checked is what is sent: the approved workflow and its form for one attempt on one backend.
//!
//! In comes a workflow without violations, out goes our own serialisation of it: residue dropped, files by their canonical names, save prefixes below the attempt's folder, our
//! ids, and in every node that is not a pure model loader the owner's salt, which keeps one owner's cached outputs from another. Rewriting twice equals rewriting once.

pub(crate) mod prefix;

use std::fmt;

use serde_json::{Value, json};

use crate::catalogue::{ClassSignature, InputKind, InputSignature, ModelChoice};
use crate::checks::Subject;
use crate::cost;
use crate::credential::ComfyOrgCredential;
use crate::digest::Digest;
use crate::files::annotated_name;
use crate::policy::{Policy, Posture};
use crate::verdict::{Cost, Violation, Violations};
use crate::workflow::graph::NodeIndex;
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node, NodeClass, NodeId};
use crate::workflow::text::Text;
use crate::workflow::write;
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
    /// Members of `extra_data`, each with a comma before it.
    credential: Secret,
}

/// Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
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
        Ok(Self { folder, prompt_id, client_id, salt, credential: Secret(String::new()) })
    }

    /// The same with the credential that pays for the paid nodes of the workflow. It goes upstream only beside such a node.
    #[must_use]
    pub fn paid_with(self, credential: &ComfyOrgCredential) -> Self {
        Self { credential: Secret(credential.filling()), ..self }
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

/// A workflow that the policy allows. Only [`decide`](crate::decide) makes one. It holds what is sent, written once, with holes for what an attempt decides; nothing of the submission
/// that it was made from.
#[derive(Debug, Clone)]
pub struct ApprovedWorkflow {
    /// The body for a backend without what stands in the holes.
    text: Vec<u8>,
    /// In the order of the text.
    holes: Vec<Hole>,
    output_nodes: Vec<NodeId>,
    /// Of the output nodes, in their order.
    output_classes: Vec<NodeClass>,
    /// In order, each once.
    classes: Vec<NodeClass>,
    save_targets: Vec<SaveTarget>,
    dropped: Vec<Dropped>,
    replaced: Vec<Replaced>,
    models: Vec<ModelChoice>,
    cost: Cost,
    policy_digest: Digest,
    catalogue_digest: Digest,
    pruned: Option<Violations>,
    shadowed: Vec<Violation>,
    paid: bool,
    sends_elsewhere: bool,
}

/// A place in the text where something of an [`OutputScope`] goes. Its parts are of alphabets that JSON writes as they are, but for the credential, which is JSON already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hole {
    /// Byte offset in the text.
    offset: usize,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The attempt's folder and a slash, before a save prefix whose own folder has so many bytes.
    Folder(usize),
    PromptId,
    ClientId,
    Salt,
    Credential,
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
fn cost_of(subject: &Subject<'_>, shadowed: &[Violation]) -> Cost {
    if shadowed.is_empty() {
        return cost::cost(&subject.facts, subject.policy.costs());
    }
    let open = subject.policy.caps.without_limits();
    cost::cost(&subject.facts.under(&open), subject.policy.costs())
}

/// The name of a node's class, which keeps no body alive: the catalogue's own, where it knows the class.
fn class_name(class: Option<&ClassSignature>, node: &Node) -> NodeClass {
    class.and_then(ClassSignature::node_class).cloned().unwrap_or_else(|| node.class.detached())
}

impl ApprovedWorkflow {
    /// INVARIANT: called only for a subject without violations. `pruned` is what stood against nodes that are not part of it any more.
    /// `shadowed` is what shadow mode let pass.
    pub(crate) fn of(subject: &Subject<'_>, pruned: Option<Violations>, mut shadowed: Vec<Violation>) -> Self {
        shadowed.truncate(crate::VIOLATIONS_MAX);
        let (parsed, workflow) = (subject.parsed, &subject.parsed.workflow);
        let id = |place: &NodeIndex| Some(workflow.node(*place)?.id.detached());
        let mut classes: Vec<NodeClass> =
            workflow.indexed().map(|(place, node)| class_name(subject.facts.class_at(place), node)).collect();
        classes.sort_unstable();
        classes.dedup();
        let output_class = |place: &NodeIndex| Some(class_name(subject.facts.class_at(*place), workflow.node(*place)?));
        let mut approved = Self {
            text: Vec::new(),
            holes: Vec::new(),
            output_nodes: subject.outputs.iter().filter_map(id).collect(),
            output_classes: subject.outputs.iter().filter_map(output_class).collect(),
            classes,
            save_targets: Vec::new(),
            dropped: Vec::new(),
            replaced: Vec::new(),
            models: Vec::new(),
            cost: cost_of(subject, &shadowed),
            policy_digest: subject.policy.digest(),
            catalogue_digest: subject.facts.catalogue.digest(),
            pruned,
            shadowed,
            paid: subject.has_paid_nodes(),
            sends_elsewhere: subject.sends_elsewhere(),
        };
        let mut out = Vec::with_capacity(parsed.text_bytes());
        out.extend_from_slice(b"{\"prompt\":");
        workflow.write(&mut out, |out, place, node| approved.write_inputs(out, subject, place, node));
        out.extend_from_slice(b",\"prompt_id\":\"");
        approved.hole(&out, Part::PromptId);
        out.extend_from_slice(b"\",\"client_id\":\"");
        approved.hole(&out, Part::ClientId);
        out.extend_from_slice(b"\",\"extra_data\":{");
        let before = out.len();
        parsed.write_extra_data(&mut out);
        let written = out.len() - before;
        write::separate(&mut out, written);
        out.extend_from_slice(b"\"client_id\":\"");
        approved.hole(&out, Part::ClientId);
        out.push(b'"');
        // SECURITY: without a paid node there is no place for a credential, whatever the attempt has.
        if approved.paid {
            approved.hole(&out, Part::Credential);
        }
        out.push(b'}');
        parsed.write_targets(&mut out);
        out.push(b'}');
        out.shrink_to_fit();
        approved.text = out;
        approved
    }

    fn hole(&mut self, out: &[u8], part: Part) {
        self.holes.push(Hole { offset: out.len(), part });
    }

    /// The members of a node's `inputs`: what was given, then save prefixes that were not, then the salt.
    fn write_inputs(&mut self, out: &mut Vec<u8>, subject: &Subject<'_>, place: NodeIndex, node: &Node) {
        let members = Members { start: out.len() };
        let Some(class) = subject.facts.class_at(place) else {
            for (name, input) in &node.inputs {
                members.next(out, name);
                subject.parsed.workflow.write_input(out, input);
            }
            return;
        };
        for given in subject.given(place) {
            self.write_member(out, &members, subject, (node, class), given);
        }
        self.write_absent_prefixes(out, &members, node, class);
        if !subject.policy.trusts(class) {
            self.write_later_inputs(out, &members, node, class);
        }
        // A pack's class may read whatever it is given.
        if !class.is_model_loader() && !class.accepts_all_inputs() && !subject.policy.trusts(class) {
            members.next_named(out, SALT_INPUT);
            out.push(b'"');
            self.hole(out, Part::Salt);
            out.push(b'"');
        }
    }

    fn write_member(
        &mut self,
        out: &mut Vec<u8>,
        members: &Members,
        subject: &Subject<'_>,
        (node, class): (&Node, &ClassSignature),
        (name, input, signature): (&Text, &Input, Option<&InputSignature>),
    ) {
        // What the class reads on purpose goes on as it came, in the form that the rule found good.
        let read = || class.dynamic_input(name).is_some() || subject.policy.trusts(class);
        if signature.is_none() && (name == SALT_INPUT || !read()) {
            self.dropped.push(Dropped { node: node.id.detached(), input: name.to_string() });
            return;
        }
        members.next(out, name);
        if let (Some(InputKind::ModelFile), Input::Literal(Json::Text(text))) =
            (signature.and_then(|signature| signature.kind()), input)
        {
            let (node, class) = (node.id.detached(), class_name(Some(class), node));
            self.models.push(ModelChoice { node, class, input: name.to_string(), name: text.to_string() });
        }
        match (signature.and_then(|signature| signature.kind()), input) {
            (Some(InputKind::SavePrefix), Input::Literal(Json::Text(text))) => {
                if let Ok(prefix) = SavePrefix::read(text) {
                    self.note_replacement(node, name, &prefix.shown(), &prefix.replaced());
                    return self.write_prefix(out, node, name, &prefix);
                }
            }
            (Some(InputKind::File), Input::Literal(Json::Text(text))) => {
                let named = annotated_name(text).ok();
                if let Some(fact) = named.and_then(|(file, directory)| subject.files.get(file, directory)) {
                    self.note_replacement(node, name, text, &fact.canonical_name);
                    return write::string(out, &fact.canonical_name);
                }
            }
            _ => {}
        }
        subject.parsed.workflow.write_input(out, input);
    }

    /// An optional save prefix that is absent would fall back to the class's own default, outside the attempt's folder.
    fn write_absent_prefixes(&mut self, out: &mut Vec<u8>, members: &Members, node: &Node, class: &ClassSignature) {
        if !class.may_have(InputKind::SavePrefix) {
            return;
        }
        for (name, signature) in class.inputs_of(node) {
            let wanted = signature.kind() == Some(InputKind::SavePrefix) && node.input(name).is_none();
            if let (true, Ok(prefix)) = (wanted, SavePrefix::read("")) {
                members.next_named(out, name);
                self.write_prefix(out, node, name, &prefix);
            }
        }
    }

    /// What older workflows lack is filled in, so that what is sent says what runs.
    fn write_later_inputs(&mut self, out: &mut Vec<u8>, members: &Members, node: &Node, class: &ClassSignature) {
        for (name, value) in class.later_inputs().filter(|(name, _)| node.input(name).is_none()) {
            let value = value.to_string();
            members.next_named(out, name);
            out.extend_from_slice(value.as_bytes());
            self.note_replacement(node, name, "", &value);
        }
    }

    fn write_prefix(&mut self, out: &mut Vec<u8>, node: &Node, name: &str, prefix: &SavePrefix) {
        self.save_targets.push(SaveTarget {
            node: node.id.detached(),
            input: name.to_owned(),
            folder: prefix.shown_folder.clone(),
            base_name: prefix.shown_name.clone(),
        });
        out.push(b'"');
        self.hole(out, Part::Folder(prefix.folder.len()));
        // INVARIANT: of the safe set, which JSON writes as it is.
        out.extend_from_slice(prefix.replaced().as_bytes());
        out.push(b'"');
    }

    fn note_replacement(&mut self, node: &Node, input: &str, from: &str, to: &str) {
        if from != to {
            let (from, to) = (from.to_owned(), to.to_owned());
            self.replaced.push(Replaced { node: node.id.detached(), input: input.to_owned(), from, to });
        }
    }

    /// The body that is POSTed to a backend: `{"prompt", "prompt_id", "client_id", "extra_data": {…, "client_id", the credential of comfy.org?}, "partial_execution_targets"?}`.
    pub fn upstream_body(&self, scope: &OutputScope) -> Vec<u8> {
        let filled: usize = self.holes.iter().map(|hole| hole.filling(&self.text, scope).0.len() + 1).sum();
        let mut out = Vec::with_capacity(self.text.len() + filled);
        let mut written = 0;
        for hole in &self.holes {
            out.extend_from_slice(self.text.get(written..hole.offset).unwrap_or_default());
            let (filling, after) = hole.filling(&self.text, scope);
            out.extend_from_slice(filling.as_bytes());
            out.extend_from_slice(after);
            written = hole.offset;
        }
        out.extend_from_slice(self.text.get(written..).unwrap_or_default());
        out
    }

    /// The output nodes that run, in the caller's order; restricted by `partial_execution_targets`.
    pub fn output_nodes(&self) -> &[NodeId] {
        &self.output_nodes
    }

    /// The output nodes of a class that run, in the caller's order.
    pub fn output_nodes_of(&self, class: &str) -> impl Iterator<Item = &NodeId> {
        let classed = self.output_nodes.iter().zip(&self.output_classes);
        classed.filter(move |(_, its)| its.as_str() == class).map(|(node, _)| node)
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

    /// Whether it holds a node with an input that is annotated as `target_url`: a second run would send something a second time.
    pub fn sends_elsewhere(&self) -> bool {
        self.sends_elsewhere
    }

    /// The models that it names, in the order of its nodes.
    pub fn models(&self) -> &[ModelChoice] {
        &self.models
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

impl Hole {
    /// What goes here, and what comes after it. A save prefix that is below the folder already stays: rewriting twice equals once.
    fn filling<'a>(&self, text: &[u8], scope: &'a OutputScope) -> (&'a str, &'static [u8]) {
        match self.part {
            Part::PromptId => (&scope.prompt_id, b""),
            Part::ClientId => (&scope.client_id, b""),
            Part::Salt => (&scope.salt, b""),
            Part::Credential => (&scope.credential.0, b""),
            Part::Folder(bytes) => {
                let own = text.get(self.offset..self.offset + bytes).unwrap_or_default();
                let rest = own.strip_prefix(scope.folder.as_bytes());
                match rest {
                    Some([] | [b'/', ..]) => ("", b""),
                    _ => (&scope.folder, b"/"),
                }
            }
        }
    }
}

/// The members of an object that is being written.
struct Members {
    /// Where the first one begins.
    start: usize,
}

impl Members {
    /// Begins the next member, up to its value.
    fn next(&self, out: &mut Vec<u8>, name: &Text) {
        write::separate(out, out.len() - self.start);
        write::text(out, name);
        out.push(b':');
    }

    /// The same with a name that is not of the body.
    fn next_named(&self, out: &mut Vec<u8>, name: &str) {
        write::separate(out, out.len() - self.start);
        write::string(out, name);
        out.push(b':');
    }
}

#[cfg(test)]
mod tests;
