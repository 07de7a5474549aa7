#![doc = include_str!("../README.md")]

pub mod catalogue;
mod digest;
pub mod files;
pub mod submission;
pub mod workflow;
pub mod policy;
mod bounds;
mod checks;
mod credential;
pub mod cost;
pub mod explain;
mod instead;
pub mod learn;
mod patterns;
mod prune;
mod resolve;
mod rewrite;
pub mod suggest;
pub mod verdict;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;

use std::collections::{BTreeMap, BTreeSet};

pub use catalogue::{Agreement, Catalogue, CatalogueError, ClassSignature, ModelChoice, ModelOptions};
pub use cost::CostModel;
pub use credential::{
    API_KEY_KEY, AUTH_TOKEN_KEY, CREDENTIAL_BYTES_MAX, ComfyOrgCredential, CredentialError, HIDDEN_BYTES_MIN,
};
pub use digest::{Digest, DigestError};
pub use explain::{Explanation, NodeAccount, OutputAccount, ReleaseNote, SamplingAccount, explain};
pub use files::{Directory, FileFact, FileFacts, FileReference, SAMPLE_RATES};
pub use policy::{AssumedUpload, Mode, PaidNodes, Policy, PolicyError, PolicyErrors, Posture, RouteBundle};
pub use rewrite::{ApprovedWorkflow, Dropped, OutputScope, Replaced, SALT_INPUT, SaveTarget, ScopeError};
pub use submission::{
    BARE_BEFORE, BODY_BYTES_MAX, CLIENT_ID_CHARS_MAX, EXTRA_PNGINFO_BYTES_MAX, EXTRA_PNGINFO_DEPTH_MAX,
    PROMPT_BYTES_MAX, PROMPT_DEPTH_MAX, PROMPT_ID_CHARS_MAX, PROMPT_STRING_BYTES_MAX, ParseError, ParseErrorKind,
    Parsed, QueueOrder, bare_pointer, parse,
};
pub use suggest::{Change, Suggestion, suggestion};
pub use verdict::{Cost, Verdict, Violation, ViolationKind, Violations};
pub use workflow::graph::{NODES_MAX, PATH_DEPTH_MAX};
pub use workflow::json::NUMBER_CHARS_MAX;
pub use workflow::node::{NodeClass, NodeId};

use bounds::Facts;
use checks::Subject;
use workflow::graph::{NodeIndex, links};

/// Violations that a verdict tells. A workflow of 500 nodes may break thousands of rules; nobody reads more, and the answer stays small.
pub const VIOLATIONS_MAX: usize = 1000;

/// Whether a submission may run under a policy: with every reason if not, in its rewritten form if so. `files` are those that this caller may name, of
/// [`Parsed::file_references`].
///
/// A broken rule of the policy refuses the whole. Where nodes are only invalid, the outputs that do not depend on them run, as in ComfyUI ([`ApprovedWorkflow::pruned`]).
///
/// In [`Mode::Shadow`] what breaks a rule of classes, caps, models or texts runs, and [`ApprovedWorkflow::shadowed`] says what would have been refused.
pub fn decide(parsed: &Parsed, policy: &Policy, catalogue: &Catalogue, files: &FileFacts) -> Verdict {
    let own = policy.annotated(catalogue, parsed.classes().map(NodeClass::as_str));
    let catalogue = own.as_ref().unwrap_or(catalogue);
    let subject = Subject::of(parsed, policy, catalogue, files);
    let (mut violations, shadowed) = judged(&subject);
    if violations.is_empty() {
        return Verdict::Allow(Box::new(ApprovedWorkflow::of(&subject, None, shadowed)));
    }
    let rest = prune::rest(&subject, &violations);
    shorten(&mut violations);
    let cost = cost::cost(&subject.facts, policy.costs());
    let dependents = dependents(parsed, &subject.outputs, &violations);
    let violations = Violations::new(violations, dependents, cost);
    if let Some(rest) = rest {
        // SECURITY: what is left is judged from the beginning: nothing that was found out about the whole counts for it.
        let subject = Subject::of(&rest, policy, catalogue, files);
        let (broken, shadowed) = judged(&subject);
        if broken.is_empty() {
            return Verdict::Allow(Box::new(ApprovedWorkflow::of(&subject, Some(violations), shadowed)));
        }
    }
    Verdict::Deny(violations)
}

/// Cuts a list to what a verdict tells. Whether a rule of the policy is broken stays true of it.
fn shorten(violations: &mut Vec<Violation>) {
    let denied = violations.iter().position(|violation| violation.kind == ViolationKind::Denied);
    if let Some(place) = denied.filter(|place| *place >= VIOLATIONS_MAX) {
        violations.swap(place, VIOLATIONS_MAX - 1);
    }
    violations.truncate(VIOLATIONS_MAX);
    violations.shrink_to_fit();
}

/// What refuses, and what is only told because the policy is in shadow mode.
fn judged(subject: &Subject<'_>) -> (Vec<Violation>, Vec<Violation>) {
    let violations = checks::all(subject);
    match subject.policy.mode() {
        Mode::Enforce => (violations, Vec::new()),
        Mode::Shadow => checks::shadow::split(violations),
    }
}

/// The output nodes that ComfyUI would run: all, or those among the targets.
fn running_outputs(parsed: &Parsed, facts: &Facts<'_>) -> Vec<NodeIndex> {
    let targets: Option<BTreeSet<&NodeId>> = parsed.targets.as_ref().map(|targets| targets.iter().collect());
    let wanted = |id: &NodeId| targets.as_ref().is_none_or(|targets| targets.contains(id));
    let outputs = facts.resolved.known().filter(|(_, node, class)| class.is_output_node() && wanted(&node.id));
    outputs.map(|(place, _, _)| place).collect()
}

/// For each node at fault the output nodes that it feeds, so that a page can mark them. One pass over the links: a body may have many of both.
fn dependents(parsed: &Parsed, outputs: &[NodeIndex], violations: &[Violation]) -> BTreeMap<NodeId, Vec<NodeId>> {
    let workflow = &parsed.workflow;
    let words = outputs.len().div_ceil(64);
    // By the nodes' places, a bit for each output; empty: none.
    let mut fed: Vec<Vec<u64>> = vec![Vec::new(); workflow.nodes().len()];
    for (place, output) in outputs.iter().enumerate() {
        if let Some(bits) = fed.get_mut(output.number()) {
            bits.resize(words, 0);
            bits.iter_mut().skip(place / 64).take(1).for_each(|word| *word |= 1 << (place % 64));
        }
    }
    for (place, node) in workflow.sources_first().rev() {
        let own = fed.get_mut(place.number()).map(std::mem::take).unwrap_or_default();
        for above in links(node).filter(|_| !own.is_empty()) {
            if let Some(bits) = fed.get_mut(above.target.number()) {
                bits.resize(words, 0);
                bits.iter_mut().zip(&own).for_each(|(to, from)| *to |= from);
            }
        }
        if let Some(bits) = fed.get_mut(place.number()) {
            *bits = own;
        }
    }
    let names: Vec<NodeId> = outputs.iter().filter_map(|output| Some(workflow.node(*output)?.id.detached())).collect();
    let faulty: BTreeSet<&NodeId> = violations.iter().filter_map(|violation| violation.node.as_ref()).collect();
    let list = |id: &NodeId| -> Vec<NodeId> {
        let bits = workflow.find(id).and_then(|place| fed.get(place.number())).map(Vec::as_slice).unwrap_or_default();
        let feeds = |place: usize| bits.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1);
        names.iter().enumerate().filter(|(place, _)| feeds(*place)).map(|(_, name)| name.clone()).collect()
    };
    faulty.into_iter().map(|id| (id.detached(), list(id))).collect()
}
