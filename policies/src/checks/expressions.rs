//! Expressions: arithmetic that a class evaluates is understood here, or refused. `9**9**9` is eight bytes, and no ComfyUI ever finishes it.

use super::{Subject, at};
use crate::bounds::expression_fault;
use crate::verdict::{Violation, ViolationKind};

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    for (_, node, class) in subject.known().filter(|(_, _, class)| !subject.policy.trusts(class)) {
        if let Some((input, error)) = expression_fault(&subject.facts, node, class) {
            out.push(at(node, input, "expression_refused", ViolationKind::Denied, error.to_string()));
        }
    }
}
