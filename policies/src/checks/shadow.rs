//! Which rules a policy in shadow mode only tells of: those of classes, caps, models and texts. Every other one refuses all the same. `README.md` lists all codes, with the reasons.

use super::texts;
use crate::verdict::{Violation, ViolationKind};

/// Codes of the rules that shadow mode relaxes. A code that is not here refuses, a new one too.
const RELAXED: [&str; 24] = [
    "cap_exceeded",
    "class_denied",
    "class_not_allowed",
    "cost_exceeded",
    "denoise_too_small",
    "embedding_refused",
    "list_output",
    "model_denied",
    "model_not_allowed",
    "model_unknown",
    "overlap_too_large",
    "passes_exceeded",
    "sampler_refused",
    "scheduler_refused",
    "size_exceeded",
    "size_unbounded",
    "steps_total_exceeded",
    "steps_unbounded",
    "text_denied",
    "text_too_long",
    "text_unknown",
    "too_many_nodes",
    "too_many_outputs",
    "value_unbounded",
];

/// Whether shadow mode only tells of this violation.
pub(super) fn relaxes(violation: &Violation) -> bool {
    match violation.code {
        // The bound on texts under caps; what brings a ComfyUI down has the same code and a larger one.
        "text_exceeded" => texts::is_of_the_caps(violation),
        // Of a linked number caps ask that; a literal is ComfyUI's own to refuse.
        "value_smaller_than_min" => violation.kind == ViolationKind::Denied,
        code => RELAXED.contains(&code),
    }
}

/// The violations that refuse, and those that are only told.
pub(crate) fn split(violations: Vec<Violation>) -> (Vec<Violation>, Vec<Violation>) {
    violations.into_iter().partition(|violation| !relaxes(violation))
}
