//! How many steps a schedule has, and how many model calls a sampler makes.

use super::interval::{FloatInterval, Interval, ceil};
use super::samplers::{Sampler, calls_of, linked as linked_sampler};
use super::{Facts, Value, number, sigmas_in_text};
use crate::catalogue::{ClassSignature, InputKind, TypeSet};
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node};

/// Above this ComfyUI takes `denoise` for 1 (0.8.0, `samplers.py` `KSampler.set_steps`).
const WHOLE_DENOISE: f64 = 0.9999;
/// How many noise levels a model may have: distilled ones 50, most 1000, FLUX and Stable Cascade 10,000 (ComfyUI 0.8.0, `model_sampling.py`).
const NOISE_LEVELS: [i128; 3] = [50, 1000, 10_000];

/// What a node samples.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sampling {
    /// Steps of one run.
    pub(crate) steps: i128,
    /// Model calls of one step.
    pub(crate) calls: i128,
    /// How often the node runs.
    pub(crate) runs: i128,
    /// The sampler's name, where the node says it.
    pub(crate) sampler: Option<String>,
}

impl Sampling {
    /// Model calls in all.
    pub(crate) fn total(&self) -> i128 {
        let product = Interval::exactly(self.steps).times(Interval::exactly(self.calls));
        product.times(Interval::exactly(self.runs)).hi
    }
}

/// Why it is not known how much a node samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Unsampled {
    /// Its number of steps comes by a link that says nothing; the caps rule tells so.
    Number,
    /// The length of its schedule.
    Schedule,
    /// Its sampler.
    Sampler,
}

/// The first input of a kind, with its value.
fn of_kind(facts: &Facts<'_>, node: &Node, class: &ClassSignature, kind: InputKind) -> Option<Value> {
    let (name, signature) = class.input_of_kind(node, kind)?;
    Some(number(facts, node, name, signature.declared()))
}

/// The text of the first input of a kind: `Some(None)` where it is no literal.
fn text_of_kind<'a>(node: &'a Node, class: &ClassSignature, kind: InputKind) -> Option<Option<&'a str>> {
    if !class.may_have(kind) {
        return None;
    }
    let (_, input) = node.inputs.iter().find(|(name, _)| class.input_kind(node, name) == Some(kind))?;
    Some(match input {
        Input::Literal(Json::Text(text)) => Some(text),
        _ => None,
    })
}

/// The declared number of steps of a node, at most.
fn declared_steps(facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Option<i128> {
    match of_kind(facts, node, class, InputKind::Steps)? {
        Value::Int(steps) => Some(steps.hi.max(0)),
        _ => None,
    }
}

/// The steps of a schedule of `ddim_uniform`, whose stride rounds down. With `n` noise levels it takes every `n // steps`th from the second on; where that one is 0 already, it asks for one step more and ends
/// there (ComfyUI 0.8.0, `samplers.py` `ddim_scheduler`).
pub(super) fn ddim_uniform_steps(steps: i128) -> i128 {
    let length = |levels: i128, steps: i128| {
        let stride = levels.div_euclid(steps.max(1)).max(1);
        (levels - 1 + stride - 1).div_euclid(stride)
    };
    let of = |levels: &i128| length(*levels, steps).max(length(*levels, steps.saturating_add(1)) - 1);
    NOISE_LEVELS.iter().map(of).max().unwrap_or(steps)
}

/// The steps of a node that makes its own schedule.
fn scheduled_steps(facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Option<i128> {
    let steps = declared_steps(facts, node, class)?;
    // A linked scheduler may be any.
    let uniform = matches!(text_of_kind(node, class, InputKind::Scheduler), Some(None | Some("ddim_uniform")));
    // With a `denoise` below 1 the end of a longer schedule is cut off, of exactly so many steps.
    let cut = match of_kind(facts, node, class, InputKind::Denoise) {
        Some(Value::Float(denoise)) => denoise.hi <= WHOLE_DENOISE,
        _ => false,
    };
    Some(if uniform && !cut { ddim_uniform_steps(steps).max(steps) } else { steps })
}

/// How many steps the schedule in output `slot` has at most.
pub(super) fn sigmas(facts: &Facts<'_>, node: &Node, class: &ClassSignature, slot: usize) -> Option<i128> {
    if !class.output_types(slot).meets(TypeSet::SIGMAS.and(TypeSet::OTHER)) {
        return None;
    }
    if class.name() == "ComfySwitchNode" && class.is_core() {
        return Some(linked_sigmas(facts, node, "on_true")?.max(linked_sigmas(facts, node, "on_false")?));
    }
    if class.outputs().get(slot)?.type_name() != "SIGMAS" || class.has_unbounded_steps(node) {
        return None;
    }
    let linked = || linked_sigmas(facts, node, "sigmas");
    match class.name() {
        "ManualSigmas" => node.text("sigmas").and_then(|text| i128::try_from(sigmas_in_text(text)).ok()),
        "FlipSigmas" | "SetFirstSigma" => linked(),
        "SplitSigmas" => Some(split(linked()?, int_of(facts, node, class, "step"), slot)),
        "SplitSigmasDenoise" => Some(split_by_denoise(linked()?, float_of(facts, node, class, "denoise"), slot)),
        // Each step becomes `steps`.
        "ExtendIntermediateSigmas" => {
            let factor = int_of(facts, node, class, "steps")?.hi.max(1);
            Some(Interval::exactly(linked()?).times(Interval::exactly(factor)).hi)
        }
        // Takes the end of a schedule of `steps / denoise`, of exactly so many steps.
        "BasicScheduler" => declared_steps(facts, node, class),
        _ => declared_steps(facts, node, class),
    }
}

/// `sigmas[:step + 1]` and `sigmas[step:]`.
fn split(steps: i128, at: Option<Interval>, slot: usize) -> i128 {
    match (slot, at) {
        // A negative step, which a link may bring, counts from the end.
        (0, Some(at)) if at.lo >= 0 => steps.min(at.hi),
        (1, Some(at)) if at.lo >= 0 => steps.saturating_sub(at.lo).max(0),
        _ => steps,
    }
}

/// The last `round(steps × denoise)` steps are the second part; a negative number, which a link may bring, counts from the beginning.
fn split_by_denoise(steps: i128, denoise: Option<FloatInterval>, slot: usize) -> i128 {
    match (slot, denoise) {
        (1, Some(denoise)) if denoise.lo >= 0.0 => {
            steps.min(ceil(FloatInterval::from(Interval::exactly(steps)).times(denoise).hi))
        }
        _ => steps,
    }
}

fn int_of(facts: &Facts<'_>, node: &Node, class: &ClassSignature, name: &str) -> Option<Interval> {
    match number(facts, node, name, class.input(node, name)?.declared()) {
        Value::Int(value) => Some(value),
        _ => None,
    }
}

fn float_of(facts: &Facts<'_>, node: &Node, class: &ClassSignature, name: &str) -> Option<FloatInterval> {
    match number(facts, node, name, class.input(node, name)?.declared()) {
        Value::Float(value) => Some(value),
        _ => None,
    }
}

fn linked_sigmas(facts: &Facts<'_>, node: &Node, name: &str) -> Option<i128> {
    match node.input(name)? {
        Input::Link(link) => facts.slot(*link)?.sigmas,
        Input::Literal(_) => None,
    }
}

/// What a node samples itself; none if it does not.
pub(crate) fn sampling(facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Option<Result<Sampling, Unsampled>> {
    let runs = || facts.runs(node, class);
    let by_links = |sampler: Result<Sampler, Unsampled>| {
        let steps = linked_sigmas(facts, node, "sigmas").ok_or(Unsampled::Schedule)?;
        let Sampler { calls, .. } = sampler?;
        Ok(Sampling { steps, calls, runs: runs(), sampler: None })
    };
    match class.name() {
        "SamplerCustom" | "SamplerCustomAdvanced" if class.is_core() => {
            Some(by_links(linked_sampler(facts, node, "sampler").ok_or(Unsampled::Sampler)))
        }
        // A scheduler has steps, but its schedule is run by a sampler, perhaps by several.
        _ if class.gives(TypeSet::SIGMAS) => None,
        _ => {
            class.input_of_kind(node, InputKind::Steps)?;
            Some(own_sampling(facts, node, class, runs()))
        }
    }
}

/// What a node with steps of its own samples.
fn own_sampling(facts: &Facts<'_>, node: &Node, class: &ClassSignature, runs: i128) -> Result<Sampling, Unsampled> {
    let steps = scheduled_steps(facts, node, class).ok_or(Unsampled::Number)?;
    let (steps, factor) = match class.name() {
        "KSamplerAdvanced" if class.is_core() => (between_steps(facts, node, class, steps), 1),
        // Each step is made of so many.
        "TrainLoraNode" if class.is_core() => {
            let repeated = int_of(facts, node, class, "grad_accumulation_steps").ok_or(Unsampled::Number)?;
            (steps, repeated.hi.max(1))
        }
        _ => (steps, 1),
    };
    let (calls, sampler) = match text_of_kind(node, class, InputKind::Sampler) {
        // Without a name among its inputs it has one way to sample.
        None => (1, None),
        Some(None) => return Err(Unsampled::Sampler),
        Some(Some(name)) => (calls_of(name).ok_or(Unsampled::Sampler)?, Some(name.to_owned())),
    };
    Ok(Sampling { steps, calls: calls.saturating_mul(factor), runs, sampler })
}

/// KSamplerAdvanced runs from `start_at_step` to `end_at_step` of its schedule, as far as that goes.
fn between_steps(facts: &Facts<'_>, node: &Node, class: &ClassSignature, steps: i128) -> i128 {
    let end = int_of(facts, node, class, "end_at_step").filter(|end| end.lo >= 0);
    let start = int_of(facts, node, class, "start_at_step").filter(|start| start.lo >= 0);
    let end = end.map_or(steps, |end| steps.min(end.hi));
    end.saturating_sub(start.map_or(0, |start| start.lo)).max(0)
}

/// The model calls that a node makes itself: `None` if it samples nothing, `Some(None)` if nobody knows how many.
pub(crate) fn sampling_steps(facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Option<Option<i128>> {
    sampling(facts, node, class).map(|known| known.ok().map(|known| known.total()))
}
