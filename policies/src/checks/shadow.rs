//! Which rules a policy in shadow mode only tells of: those of classes, caps, models and texts. Every other one refuses all the same.

use crate::verdict::Violation;

/// Codes of the rules that shadow mode relaxes. A code that is not here refuses, a new one too.
const RELAXED: [&str; 23] = [
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

/// Whether shadow mode only tells of violations with this code.
pub(super) fn relaxes(code: &str) -> bool {
    RELAXED.contains(&code)
}

/// The violations that refuse, and those that are only told.
pub(crate) fn split(violations: Vec<Violation>) -> (Vec<Violation>, Vec<Violation>) {
    violations.into_iter().partition(|violation| !relaxes(violation.code))
}
