//! What is left of a workflow when its invalid nodes are taken away.
//!
//! ComfyUI validates from each output node on: outputs that validate run, the others are left out and reported in `node_errors` beside a 200 (`execution.py` `validate_prompt`). It does so
//! with the invalid nodes still in the prompt, where it looks up and fingerprints them. Here they go, with everything that they feed: what is sent was judged whole, by all rules, as if
//! the rest had never been there. What fed only them stays, so that a saved picture carries as much of its workflow as is sound.

use std::collections::HashSet;

use crate::checks::Subject;
use crate::submission::Parsed;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::graph::{NodeIndex, links};

/// The submission without its invalid nodes. None if a rule of the policy is broken too, if the fault is the whole's (ComfyUI refuses a prompt with a class that it does not know, reached or
/// not), or if no output would be left to run.
pub(crate) fn rest(subject: &Subject<'_>, violations: &[Violation]) -> Option<Parsed> {
    let workflow = &subject.parsed.workflow;
    let mut gone: HashSet<NodeIndex> = HashSet::new();
    for violation in violations {
        if violation.kind != ViolationKind::Invalid || violation.code == "class_unknown" {
            return None;
        }
        gone.insert(workflow.find(violation.node.as_ref()?)?);
    }
    for (place, node) in workflow.sources_first() {
        if links(node).any(|link| gone.contains(&link.target)) {
            gone.insert(place);
        }
    }
    if gone.is_empty() || subject.outputs.iter().all(|output| gone.contains(output)) {
        return None;
    }
    subject.parsed.without(&gone)
}
