//! Caps: every input whose value *means* steps, a size or a count is bounded, through links as well.

use std::collections::HashSet;

use super::{Subject, at, of};
use crate::bounds::{
    Need, REPEATS_MAX, Sampling, Unsampled, Value, chain, need, number, sampling, sigmas_in_text, steps_chain,
};
use crate::catalogue::{ClassSignature, DeclaredType, InputKind, InputSignature, KindSet};
use crate::policy::Caps;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::node::{Input, Node, NodeId};

/// Where steps are capped and the policy names no floor: the schedule then has a thousand entries a step at most.
const DENOISE_FLOOR: f64 = 0.001;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let numbers = KindSet::of(InputKind::NUMBERS);
    for (_, node, class) in subject.known() {
        // What a pack's numbers mean is a guess, which must not stand in an owner's way.
        if subject.policy.trusts(class) {
            continue;
        }
        if class.may_have_any(numbers) {
            for (name, signature) in class.inputs_of(node) {
                if signature.kind().is_some() {
                    out.extend(input_fault(subject, node, name, signature));
                }
            }
        }
        if subject.policy.caps.limits_steps() && class.has_unbounded_steps(node) {
            let message = "the number of steps can't be bounded in this class".to_owned();
            out.push(of(node, "steps_unbounded", ViolationKind::Denied, message));
        }
        out.extend(overlap_faults(subject, node, class));
        out.extend(denoise_fault(subject, node, class));
    }
    steps(subject, out);
}

fn input_fault(subject: &Subject<'_>, node: &Node, name: &str, signature: &InputSignature) -> Option<Violation> {
    let kind = signature.kind()?;
    if kind == InputKind::SigmasText {
        return manual_sigmas(subject, node, name);
    }
    let wanted = need(kind, &subject.policy.caps);
    if wanted == Need::None {
        return None;
    }
    let value = number(&subject.facts, node, name, signature.declared());
    let Some((lo, hi)) = ends(value) else {
        // An absent input without a default is ComfyUI's to refuse; a literal of another type is the inputs rule's.
        return matches!(node.input(name), Some(Input::Link(_))).then(|| unbounded(subject, node, name, wanted));
    };
    let (min, max) = declared_range(signature.declared());
    let linked = matches!(node.input(name), Some(Input::Link(_)));
    let limit = match wanted {
        Need::AtMost(limit) => Some(limit),
        _ => None,
    };
    // ComfyUI checks the declared range of literals only; for those the inputs rule speaks.
    let max = max.filter(|max| linked && hi > *max);
    if let Some(limit) = limit.filter(|limit| hi > *limit) {
        let key = cap_key(kind, &subject.policy.caps);
        return Some(Violation { key, ..over(subject, node, name, hi, limit) });
    }
    // No policy allows more than the class takes.
    if let Some(max) = max {
        return Some(over(subject, node, name, hi, max));
    }
    // Small pieces are many pieces.
    if let (InputKind::Tile, Some(least)) = (kind, min.filter(|min| linked && lo < *min)) {
        return Some(under(subject, node, name, lo, least));
    }
    if kind == InputKind::Repeats && lo < -REPEATS_MAX {
        return Some(under(subject, node, name, lo, -REPEATS_MAX));
    }
    if kind == InputKind::Divisor && lo < 1.0 {
        return Some(under(subject, node, name, lo, 1.0));
    }
    // A size that is only known to be positive is no fault; a negative one is, and one that is certainly too small.
    let min = min.filter(|min| linked && (hi < *min || (lo < 0.0 && *min >= 0.0)))?;
    Some(under(subject, node, name, lo, min))
}

/// The key whose limit [`limit`](crate::bounds::limit) is, the lesser of two.
fn cap_key(kind: InputKind, caps: &Caps) -> Option<&'static str> {
    let lesser = |a: (Option<i128>, &'static str), b: (Option<i128>, &'static str)| match (a.0, b.0) {
        (Some(first), Some(second)) if second < first => b.1,
        (None, Some(_)) => b.1,
        _ => a.1,
    };
    Some(match kind {
        InputKind::Steps => lesser((caps.steps, "caps.steps"), (caps.steps_total, "caps.steps_total")),
        InputKind::Width => "caps.width",
        InputKind::Height => "caps.height",
        InputKind::Side => lesser((caps.width, "caps.width"), (caps.height, "caps.height")),
        InputKind::Megapixels => "caps.megapixels",
        InputKind::Batch => "caps.batch",
        InputKind::Frames => "caps.frames",
        InputKind::Seconds => "caps.seconds",
        InputKind::Factor => "caps.upscale",
        _ => return None,
    })
}

#[expect(clippy::cast_precision_loss, reason = "compared with caps below 2^53; beyond, both sides round alike")]
fn ends(value: Value) -> Option<(f64, f64)> {
    match value {
        Value::Int(value) => Some((value.lo as f64, value.hi as f64)),
        Value::Float(value) => Some((value.lo, value.hi)),
        Value::Bool(_) | Value::Unknown => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "declared ranges are below 2^53 where a cap is")]
fn declared_range(declared: &DeclaredType) -> (Option<f64>, Option<f64>) {
    match declared {
        DeclaredType::Int { min, max, .. } => (min.map(|min| min as f64), max.map(|max| max as f64)),
        DeclaredType::Float { min, max, .. } => (*min, *max),
        _ => (None, None),
    }
}

fn over(subject: &Subject<'_>, node: &Node, name: &str, hi: f64, limit: f64) -> Violation {
    let chain = chain(&subject.facts, node, name);
    let message = match &chain {
        Some(chain) => format!("{name} ≤ {hi}, and {limit} is allowed: {chain}"),
        None => format!("{name} is {hi}, and {limit} is allowed"),
    };
    let (bound, limit) = (Some(hi.to_string()), Some(limit.to_string()));
    Violation { bound, limit, chain, ..at(node, name, "cap_exceeded", ViolationKind::Denied, message) }
}

fn under(subject: &Subject<'_>, node: &Node, name: &str, lo: f64, min: f64) -> Violation {
    let chain = chain(&subject.facts, node, name);
    let message = format!("{name} ≥ {lo}, and at least {min} is allowed: {}", chain.as_deref().unwrap_or("a literal"));
    let (bound, limit) = (Some(lo.to_string()), Some(min.to_string()));
    Violation { bound, limit, chain, ..at(node, name, "value_smaller_than_min", ViolationKind::Denied, message) }
}

/// Pieces that overlap by nearly their whole size are as many as there are pixels, or frames.
fn overlap_faults(subject: &Subject<'_>, node: &Node, class: &ClassSignature) -> Vec<Violation> {
    if !subject.policy.caps.limits_anything() || !class.may_have(InputKind::Overlap) {
        return Vec::new();
    }
    let mut tile = None;
    let mut out = Vec::new();
    for (name, signature) in class.inputs_of(node) {
        let value = || ends(number(&subject.facts, node, name, signature.declared()));
        match signature.kind() {
            Some(InputKind::Tile) => tile = value(),
            Some(InputKind::Overlap) => {
                let (Some((least, _)), Some((_, most))) = (tile, value()) else { continue };
                if most * 2.0 > least {
                    let limit = (least / 2.0).floor();
                    let message = format!("{name} may be {most}, and {limit} is allowed: half of what it overlaps");
                    let (bound, limit) = (Some(most.to_string()), Some(limit.to_string()));
                    out.push(Violation {
                        bound,
                        limit,
                        chain: chain(&subject.facts, node, name),
                        ..at(node, name, "overlap_too_large", ViolationKind::Denied, message)
                    });
                }
            }
            _ => {}
        }
    }
    out
}

fn unbounded(subject: &Subject<'_>, node: &Node, name: &str, wanted: Need) -> Violation {
    let chain = chain(&subject.facts, node, name);
    let limit = match wanted {
        Need::AtMost(limit) => Some(limit.to_string()),
        _ => None,
    };
    let message = format!("{name} can't be bounded: {}", chain.as_deref().unwrap_or("its value is not known"));
    Violation { limit, chain, ..at(node, name, "value_unbounded", ViolationKind::Denied, message) }
}

/// Each number in the text is a step; a text that comes by a link can't be counted.
fn manual_sigmas(subject: &Subject<'_>, node: &Node, name: &str) -> Option<Violation> {
    let caps = &subject.policy.caps;
    if !caps.limits_steps() {
        return None;
    }
    let Some(text) = node.text(name) else {
        return Some(unbounded(subject, node, name, Need::Bounded));
    };
    let steps = i128::try_from(sigmas_in_text(text)).unwrap_or(i128::MAX);
    let limit = caps.steps.into_iter().chain(caps.steps_total).min().filter(|limit| steps > *limit)?;
    let key = cap_key(InputKind::Steps, caps);
    let message = format!("{name} holds {steps} numbers, each a step, and {limit} are allowed");
    let (bound, limit) = (Some(steps.to_string()), Some(limit.to_string()));
    Some(Violation { bound, limit, key, ..at(node, name, "cap_exceeded", ViolationKind::Denied, message) })
}

/// ComfyUI makes a schedule of `steps / denoise` entries and runs its end: a tiny `denoise` takes all memory. 0 is an empty schedule (facts K9).
fn denoise_fault(subject: &Subject<'_>, node: &Node, class: &ClassSignature) -> Option<Violation> {
    let caps = &subject.policy.caps;
    let floor = caps.denoise_min.or_else(|| caps.limits_steps().then_some(DENOISE_FLOOR))?;
    let (name, signature) = class.input_of_kind(node, InputKind::Denoise)?;
    let (lo, hi) = ends(number(&subject.facts, node, name, signature.declared()))?;
    if lo >= floor || (lo >= 0.0 && hi == 0.0) {
        return None;
    }
    let chain = chain(&subject.facts, node, name);
    let message = format!("{name} may be {lo}, and {floor} is the least that is allowed apart from 0");
    let (bound, limit) = (Some(lo.to_string()), Some(floor.to_string()));
    let key = Some("caps.denoise_min");
    Some(Violation { bound, limit, key, chain, ..at(node, name, "denoise_too_small", ViolationKind::Denied, message) })
}

/// Model calls as they are made: stretched schedules, samplers that call twice in a step, nodes that run for each item of a list; and the sum of all.
fn steps(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let caps = &subject.policy.caps;
    if !caps.limits_steps() {
        return;
    }
    let told: HashSet<NodeId> =
        out.iter().filter(|known| tells_of_steps(known)).filter_map(|known| known.node.clone()).collect();
    let mut total: i128 = 0;
    for (_, node, class) in subject.known() {
        match sampling(&subject.facts, node, class) {
            None => {}
            Some(Err(_)) if subject.policy.trusts(class) => {}
            // Its own linked number has a violation already.
            Some(Err(Unsampled::Number)) => {}
            Some(Err(Unsampled::Schedule)) => {
                let message = "the number of steps of its schedule can't be bounded".to_owned();
                let chain = steps_chain(&subject.facts, node);
                out.push(Violation { chain, ..at(node, "sigmas", "steps_unbounded", ViolationKind::Denied, message) });
            }
            Some(Err(Unsampled::Sampler)) => {
                let message = "how often its sampler calls the model can't be bounded".to_owned();
                out.push(of(node, "steps_unbounded", ViolationKind::Denied, message));
            }
            Some(Ok(sampling)) => {
                total = total.saturating_add(sampling.total());
                let found = too_many_steps(node, &sampling, caps.steps).filter(|_| !told.contains(&node.id));
                out.extend(found.map(|found| Violation { chain: steps_chain(&subject.facts, node), ..found }));
            }
        }
    }
    if let Some(cap) = caps.steps_total.filter(|cap| total > *cap) {
        let message = format!("all samplers together make up to {total} model calls, and {cap} are allowed");
        let (bound, limit) = (Some(total.to_string()), Some(cap.to_string()));
        let violation = super::whole("steps_total_exceeded", ViolationKind::Denied, message);
        out.push(Violation { bound, limit, key: Some("caps.steps_total"), ..violation });
    }
}

fn tells_of_steps(violation: &Violation) -> bool {
    violation.code == "cap_exceeded" && violation.input.as_deref() == Some("steps")
}

/// A sampler beyond the cap: `runs up to 60 steps: 30 × 2 model calls (heun)`.
fn too_many_steps(node: &Node, sampling: &Sampling, cap: Option<i128>) -> Option<Violation> {
    let steps = sampling.steps.saturating_mul(sampling.calls);
    let cap = cap.filter(|cap| steps > *cap)?;
    let how = match (sampling.calls, &sampling.sampler) {
        (1, _) => String::new(),
        (calls, Some(sampler)) => format!(": {} × {calls} model calls ({sampler})", sampling.steps),
        (calls, None) => format!(": {} × {calls} model calls", sampling.steps),
    };
    let message = format!("runs up to {steps} steps, and {cap} are allowed{how}");
    let (bound, limit) = (Some(steps.to_string()), Some(cap.to_string()));
    let violation = of(node, "cap_exceeded", ViolationKind::Denied, message);
    Some(Violation { bound, limit, key: Some("caps.steps"), ..violation })
}
