//! Rules about the whole: it has an output, and not too many nodes or outputs.

use super::{Subject, whole};
use crate::verdict::{Violation, ViolationKind};

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let caps = &subject.policy.caps;
    if subject.outputs.is_empty()
        && subject.parsed.workflow.indexed().all(|(place, _)| subject.facts.class_at(place).is_some())
    {
        out.push(whole(
            "prompt_no_outputs",
            ViolationKind::Invalid,
            "the prompt has no output node that runs".to_owned(),
        ));
    }
    let counts = [
        ("too_many_nodes", "caps.nodes", "nodes", subject.parsed.workflow.nodes().len(), caps.nodes),
        ("too_many_outputs", "caps.outputs", "output nodes", subject.outputs.len(), caps.outputs),
    ];
    for (code, key, what, count, cap) in counts {
        let count = i128::try_from(count).unwrap_or(i128::MAX);
        if let Some(cap) = cap.filter(|cap| count > *cap) {
            let message = format!("{count} {what}, and the policy allows {cap}");
            let (bound, limit) = (Some(count.to_string()), Some(cap.to_string()));
            let key = Some(key);
            out.push(Violation { bound, limit, key, ..whole(code, ViolationKind::Denied, message) });
        }
    }
}
