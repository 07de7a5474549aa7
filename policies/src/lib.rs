#![doc = include_str!("../README.md")]

pub mod catalogue;
mod digest;
pub mod files;
pub mod submission;
pub mod workflow;
pub mod policy;
mod bounds;
mod checks;
mod rewrite;
pub mod verdict;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;

use std::collections::BTreeMap;

pub use catalogue::{Agreement, Catalogue, CatalogueError, ClassSignature};
pub use digest::{Digest, DigestError};
pub use files::{Directory, FileFact, FileFacts, FileReference};
pub use policy::{Policy, PolicyError, PolicyErrors};
pub use rewrite::{ApprovedWorkflow, Dropped, OutputScope, Replaced, SALT_INPUT, SaveTarget, ScopeError};
pub use submission::{
    BODY_BYTES_MAX, CLIENT_ID_CHARS_MAX, EXTRA_PNGINFO_BYTES_MAX, EXTRA_PNGINFO_DEPTH_MAX, PROMPT_BYTES_MAX,
    PROMPT_DEPTH_MAX, PROMPT_ID_CHARS_MAX, ParseError, ParseErrorKind, Parsed, parse,
};
pub use verdict::{Cost, Verdict, Violation, ViolationKind, Violations};
pub use workflow::graph::{NODES_MAX, PATH_DEPTH_MAX};
pub use workflow::json::NUMBER_CHARS_MAX;
pub use workflow::node::{NodeClass, NodeId};

use bounds::Facts;
use checks::Subject;
use workflow::graph::NodeIndex;

/// Whether a submission may run under a policy: with every reason if not, in its rewritten form if so. `files` are those that this caller may name, of
/// [`Parsed::file_references`].
pub fn decide(parsed: &Parsed, policy: &Policy, catalogue: &Catalogue, files: &FileFacts) -> Verdict {
    let facts = Facts::of(&parsed.workflow, policy, catalogue, files);
    let outputs = running_outputs(parsed, catalogue);
    let subject = Subject { parsed, policy, files, facts, outputs };
    let violations = checks::all(&subject);
    if violations.is_empty() {
        return Verdict::Allow(Box::new(ApprovedWorkflow::of(&subject)));
    }
    let dependents = dependents(parsed, &subject.outputs, &violations);
    Verdict::Deny(Violations::new(violations, dependents))
}

/// The output nodes that ComfyUI would run: all, or those among the targets.
fn running_outputs(parsed: &Parsed, catalogue: &Catalogue) -> Vec<NodeIndex> {
    let wanted = |id: &NodeId| parsed.targets.as_ref().is_none_or(|targets| targets.contains(id));
    let is_output = |class: &NodeClass| catalogue.class(class.as_str()).is_some_and(|class| class.is_output_node());
    let nodes = parsed.workflow.indexed();
    nodes.filter(|(_, node)| wanted(&node.id) && is_output(&node.class)).map(|(place, _)| place).collect()
}

/// For each node at fault the output nodes that it feeds, so that a page can mark them.
fn dependents(parsed: &Parsed, outputs: &[NodeIndex], violations: &[Violation]) -> BTreeMap<NodeId, Vec<NodeId>> {
    let mut out: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    let faulty: Vec<(NodeIndex, NodeId)> = violations
        .iter()
        .filter_map(|violation| Some((parsed.workflow.find(violation.node.as_ref()?)?, violation.node.clone()?)))
        .collect();
    for output in outputs {
        let Some(node) = parsed.workflow.node(*output) else { continue };
        let feeding = parsed.workflow.reaching(&[*output]);
        for (place, id) in &faulty {
            let list = out.entry(id.clone()).or_default();
            if feeding.contains(place) && !list.contains(&node.id) {
                list.push(node.id.clone());
            }
        }
    }
    out
}
