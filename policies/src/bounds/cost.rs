//! How many steps a schedule has and a sampler runs.

use super::interval::Interval;
use super::{Facts, Value, number, sigmas_in_text};
use crate::catalogue::{ClassSignature, InputKind};
use crate::workflow::node::{Input, Node};
use crate::workflow::text::Text;

/// The inputs of `node` that hold a value of `kind`.
fn inputs_of_kind<'a>(node: &'a Node, class: &ClassSignature, kind: InputKind) -> Vec<(&'a str, Value, bool)> {
    let of = |(name, input): &'a (Text, Input)| {
        (class.input_kind(node, name) == Some(kind)).then_some((
            name.as_str(),
            Value::Unknown,
            matches!(input, Input::Link(_)),
        ))
    };
    node.inputs.iter().filter_map(of).collect()
}

/// The declared number of steps of a node, at most; doubled for `ddim_uniform`, whose stride `T // steps` rounds down: it makes fewer than twice as many (ComfyUI 0.8.0, `samplers.py` `ddim_scheduler`).
fn declared_steps(facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Option<i128> {
    let (name, signature) =
        class.inputs_of(node).into_iter().find(|(_, input)| input.kind() == Some(InputKind::Steps))?;
    let steps = match number(facts, node, &name, signature.declared()) {
        Value::Int(steps) => steps.hi.max(0),
        _ => return None,
    };
    let stretched = inputs_of_kind(node, class, InputKind::Scheduler)
        .iter()
        .any(|(name, _, linked)| *linked || node.text(name) == Some("ddim_uniform"));
    Some(if stretched { Interval::exactly(steps).times(Interval::exactly(2)).hi } else { steps })
}

/// How many steps the schedule in output `slot` has at most.
pub(super) fn sigmas(facts: &Facts<'_>, node: &Node, class: &ClassSignature, slot: usize) -> Option<i128> {
    if class.outputs().get(slot)?.type_name() != "SIGMAS" || class.has_unbounded_steps() {
        return None;
    }
    match class.name() {
        "ManualSigmas" => node.text("sigmas").and_then(|text| i128::try_from(sigmas_in_text(text)).ok()),
        "SplitSigmas" | "SplitSigmasDenoise" | "FlipSigmas" | "SetFirstSigma" => linked_sigmas(facts, node, "sigmas"),
        _ => declared_steps(facts, node, class),
    }
}

fn linked_sigmas(facts: &Facts<'_>, node: &Node, name: &str) -> Option<i128> {
    match node.input(name)? {
        Input::Link(link) => facts.slot(*link)?.sigmas,
        Input::Literal(_) => None,
    }
}

/// The steps that a node runs itself: `None` if it runs none, `Some(None)` if nobody knows how many.
pub(crate) fn sampling_steps(facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Option<Option<i128>> {
    match class.name() {
        "SamplerCustom" | "SamplerCustomAdvanced" => Some(linked_sigmas(facts, node, "sigmas")),
        // A scheduler has steps, but its schedule is run by a sampler, perhaps by several.
        _ if class.outputs().iter().any(|output| output.type_name() == "SIGMAS") => None,
        _ => {
            let has_steps = class.inputs_of(node).iter().any(|(_, input)| input.kind() == Some(InputKind::Steps));
            has_steps.then(|| declared_steps(facts, node, class))
        }
    }
}
