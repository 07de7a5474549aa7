//! The cost of the whole: an upper bound of its work, in units of one SDXL step at 1024 × 1024.

use super::{Subject, whole};
use crate::cost;
use crate::verdict::{Violation, ViolationKind};

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let Some(limit) = subject.policy.caps.cost else { return };
    let cost = cost::cost(&subject.facts, subject.policy.costs()).units();
    // Not `>`: what is no number is not within the limit.
    if cost <= limit {
        return;
    }
    let message = format!("costs up to {cost:.1} units, and {limit} are allowed");
    let (bound, limit) = (Some(format!("{cost:.1}")), Some(limit.to_string()));
    let violation = whole("cost_exceeded", ViolationKind::Denied, message);
    out.push(Violation { bound, limit, key: Some("cost_limit"), ..violation });
}
