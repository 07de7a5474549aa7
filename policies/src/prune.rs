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

/// What a rule says of a node when it lacks a number, a size or a length that an invalid input would have given.
const FOR_WANT_OF_A_VALUE: [&str; 5] =
    ["value_unbounded", "number_unbounded", "size_unbounded", "steps_unbounded", "text_unbounded"];

/// The submission without its invalid nodes. None if a rule of the policy is broken too, if the fault is the whole's (ComfyUI refuses a prompt with a class that it does not know, reached or
/// not), or if no output would be left to run.
pub(crate) fn rest(subject: &Subject<'_>, violations: &[Violation]) -> Option<Parsed> {
    let workflow = &subject.parsed.workflow;
    let place = |violation: &Violation| workflow.find(violation.node.as_ref()?);
    let (invalid, denied): (Vec<&Violation>, Vec<&Violation>) =
        violations.iter().partition(|violation| violation.kind == ViolationKind::Invalid);
    let mut gone: HashSet<NodeIndex> = HashSet::new();
    for violation in invalid {
        gone.insert(place(violation).filter(|_| violation.code != "class_unknown")?);
    }
    for (place, node) in workflow.sources_first() {
        if links(node).any(|link| gone.contains(&link.target)) {
            gone.insert(place);
        }
    }
    let consequence = |violation: &Violation| {
        FOR_WANT_OF_A_VALUE.contains(&violation.code) && place(violation).is_some_and(|place| gone.contains(&place))
    };
    let nothing_left = subject.outputs.iter().all(|output| gone.contains(output));
    if gone.is_empty() || nothing_left || !denied.into_iter().all(consequence) {
        return None;
    }
    subject.parsed.without(&gone)
}
