//! Samplers and schedulers by name: `dpm_adaptive` runs as long as it likes, whatever `steps` says.

use super::{Subject, at};
use crate::catalogue::{ClassSignature, InputKind, InputSignature};
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::json::shown;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let named = |class: &ClassSignature| class.may_have(InputKind::Sampler) || class.may_have(InputKind::Scheduler);
    for (place, node, _) in subject.known().filter(|(_, _, class)| named(class)) {
        for (name, _, signature) in subject.given(place) {
            let (code, allowed): (_, fn(&crate::Policy, &str) -> bool) = match signature.and_then(InputSignature::kind)
            {
                Some(InputKind::Sampler) => ("sampler_refused", crate::Policy::allows_sampler),
                Some(InputKind::Scheduler) => ("scheduler_refused", crate::Policy::allows_scheduler),
                _ => continue,
            };
            // Links into a choice are refused by the links rule.
            let Some(text) = node.text(name) else { continue };
            let unbounded = subject.policy.caps.limits_steps() && text == "dpm_adaptive";
            if unbounded || !allowed(subject.policy, text) {
                let message = format!("the policy does not allow `{}` here", shown(text));
                // No list allows what has no number of steps while steps are capped.
                let key = if unbounded { None } else { subject.policy.list_against(code, text) };
                let bound = Some(text.to_owned());
                out.push(Violation { bound, key, ..at(node, name, code, ViolationKind::Denied, message) });
            }
        }
    }
}
