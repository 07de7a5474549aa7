//! Numbers through links: literals, primitives, switches and measured sizes.

use super::interval::{FloatInterval, Interval, ceil, floor};
use super::{Facts, Shape, Value, operands, transfer};
use crate::catalogue::{ClassSignature, DeclaredType, InputKind, OutputSignature, ValueRule};
use crate::policy::Caps;
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node};

/// Times that a slow thing is done to a whole picture: GrowMask takes up to 16,384, each as long as it takes to look at all pixels, and no mask needs more than this.
pub(crate) const REPEATS_MAX: f64 = 1024.0;

/// Whether a rule must know the value of an input of this kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Need {
    /// No rule asks.
    None,
    /// It must be bounded at all.
    Bounded,
    /// It must be at most this.
    AtMost(f64),
}

/// What the caps want of an input of `kind`.
pub(crate) fn need(kind: InputKind, caps: &Caps) -> Need {
    let sizes = if caps.limits_sizes() { Need::Bounded } else { Need::None };
    let steps = if caps.limits_steps() { Need::Bounded } else { Need::None };
    match kind {
        InputKind::Steps => limit(kind, caps).map_or(steps, Need::AtMost),
        InputKind::Denoise => {
            if caps.denoise_min.is_some() {
                Need::Bounded
            } else {
                steps
            }
        }
        InputKind::Width
        | InputKind::Height
        | InputKind::Side
        | InputKind::Megapixels
        | InputKind::Batch
        | InputKind::Frames => limit(kind, caps).map_or(sizes, Need::AtMost),
        InputKind::Factor => limit(kind, caps).map_or(sizes, Need::AtMost),
        InputKind::Pad => sizes,
        InputKind::Seconds => limit(kind, caps).map_or(Need::None, Need::AtMost),
        InputKind::Repeats => limit(kind, caps).map_or(Need::None, Need::AtMost),
        InputKind::Count | InputKind::Tile | InputKind::Overlap | InputKind::Divisor => {
            if caps.limits_anything() {
                Need::Bounded
            } else {
                Need::None
            }
        }
        // The rule against crashes reads it.
        InputKind::SampleRate
        | InputKind::Sampler
        | InputKind::Scheduler
        | InputKind::SigmasText
        | InputKind::SizeHint
        | InputKind::File
        | InputKind::ModelFile
        | InputKind::SavePrefix
        | InputKind::EvalText
        | InputKind::JsonText
        | InputKind::PromptText
        | InputKind::Url
        | InputKind::TargetUrl => Need::None,
    }
}

/// The cap on an input of `kind`, in the input's own unit.
#[expect(
    clippy::cast_precision_loss,
    reason = "caps are far below 2^53 where it matters; above, the comparison is coarse but monotone"
)]
pub(crate) fn limit(kind: InputKind, caps: &Caps) -> Option<f64> {
    let least = |a: Option<i128>, b: Option<i128>| a.into_iter().chain(b).min();
    match kind {
        InputKind::Steps => least(caps.steps, caps.steps_total).map(|cap| cap as f64),
        InputKind::Width => caps.width.map(|cap| cap as f64),
        InputKind::Height => caps.height.map(|cap| cap as f64),
        InputKind::Side => least(caps.width, caps.height).map(|cap| cap as f64),
        // ComfyUI's unit is 1024² pixels.
        InputKind::Megapixels => caps.pixels.map(|cap| cap as f64 / 1_048_576.0),
        InputKind::Batch => caps.batch.map(|cap| cap as f64),
        InputKind::Frames => caps.frames.map(|cap| cap as f64),
        InputKind::Seconds => caps.seconds,
        InputKind::Factor => caps.upscale,
        InputKind::Repeats => caps.limits_anything().then_some(REPEATS_MAX),
        _ => None,
    }
}

/// What is known of the input `name` of `node`: the literal, what its link brings, or the declared default of an absent one.
pub(crate) fn number(facts: &Facts<'_>, node: &Node, name: &str, declared: &DeclaredType) -> Value {
    match node.input(name) {
        Some(Input::Literal(literal)) => literal_value(literal, declared),
        Some(Input::Link(link)) => facts.slot(*link).map_or(Value::Unknown, |slot| slot.value),
        None => match declared {
            DeclaredType::Int { default: Some(default), .. } => Value::Int(Interval::exactly(*default)),
            DeclaredType::Float { default: Some(default), .. } => Value::Float(FloatInterval::exactly(*default)),
            _ => Value::Unknown,
        },
    }
}

fn literal_value(literal: &Json, declared: &DeclaredType) -> Value {
    match (literal, declared) {
        (Json::Int(value), DeclaredType::Int { .. }) => Value::Int(Interval::exactly(*value)),
        (Json::Int(value), DeclaredType::Float { .. }) => Value::Float(Interval::exactly(*value).into()),
        (Json::Float(value), DeclaredType::Float { .. }) => Value::Float(FloatInterval::exactly(*value)),
        (Json::Bool(value), DeclaredType::Boolean) => Value::Bool(Some(*value)),
        _ => Value::Unknown,
    }
}

/// What the output `slot` of `node` is, by the `values` of its class. Every other class gives [`Value::Unknown`].
pub(super) fn value(facts: &Facts<'_>, node: &Node, class: &ClassSignature, slot: usize) -> Value {
    let own = |name: &str| match class.input(node, name) {
        Some(input) => number(facts, node, name, input.declared()),
        None => Value::Unknown,
    };
    let Some(rule) = class.value_rule(slot) else {
        return Value::Unknown;
    };
    let of_shape = |input: &str, side: fn(Shape) -> Interval| match facts.shape(node, input) {
        Some(shape) => Value::Int(side(shape)),
        None => Value::Unknown,
    };
    match rule {
        ValueRule::Input(input) => own(input),
        ValueRule::Switch(by) => {
            switch(own(&by.by), linked(facts, node, &by.on_true), linked(facts, node, &by.on_false))
        }
        ValueRule::WidthOf(input) => of_shape(input, |shape| shape.width),
        ValueRule::HeightOf(input) => of_shape(input, |shape| shape.height),
        ValueRule::CountOf(input) => of_shape(input, Shape::count),
        ValueRule::LengthOf(input) => match node.input(input) {
            Some(Input::Literal(Json::Text(text))) => {
                Value::Int(Interval::exactly(i128::try_from(text.chars().count()).unwrap_or(i128::MAX)))
            }
            // A character is a byte at least.
            Some(Input::Link(link)) => match facts.slot(*link).and_then(|slot| slot.text_bytes) {
                Some(bytes) => Value::Int(Interval::between(0, bytes)),
                None => Value::Unknown,
            },
            _ => Value::Unknown,
        },
        ValueRule::Range(lo, hi) => range(class, slot, *lo, *hi),
        ValueRule::Expression(rule) => operands::expression(facts, node, rule),
        ValueRule::Convert(rule) => operands::converted(facts, node, rule),
        ValueRule::Resolution(side) => operands::resolution(facts, node, class, *side),
        ValueRule::Choice(rule) => operands::chosen(facts, node, class, rule),
        ValueRule::OwnWidth(slot) => own_size(facts, node, class, *slot, |shape| shape.width),
        ValueRule::OwnHeight(slot) => own_size(facts, node, class, *slot, |shape| shape.height),
        ValueRule::Amount(amount) => transfer::amount(facts, node, class, amount).map_or(Value::Unknown, Value::Int),
    }
}

/// A side of what the node itself makes.
fn own_size(facts: &Facts<'_>, node: &Node, class: &ClassSignature, slot: usize, side: fn(Shape) -> Interval) -> Value {
    let shape = transfer::extent(facts, node, class, slot).ok().and_then(|extent| extent.shape);
    shape.map_or(Value::Unknown, |shape| Value::Int(side(shape)))
}

/// A declared range, as the output's type has it.
fn range(class: &ClassSignature, slot: usize, lo: f64, hi: f64) -> Value {
    match class.outputs().get(slot).map(OutputSignature::type_name) {
        Some("INT") => Value::Int(Interval::between(floor(lo), ceil(hi))),
        Some("FLOAT") => Value::Float(FloatInterval { lo, hi }),
        _ => Value::Unknown,
    }
}

fn linked(facts: &Facts<'_>, node: &Node, name: &str) -> Value {
    match node.input(name) {
        Some(Input::Link(link)) => facts.slot(*link).map_or(Value::Unknown, |slot| slot.value),
        _ => Value::Unknown,
    }
}

fn switch(switch: Value, on_true: Value, on_false: Value) -> Value {
    match (switch, on_true, on_false) {
        (Value::Bool(Some(true)), taken, _) | (Value::Bool(Some(false)), _, taken) => taken,
        (_, Value::Int(a), Value::Int(b)) => Value::Int(a.hull(b)),
        (_, Value::Float(a), Value::Float(b)) => Value::Float(a.hull(b)),
        (_, Value::Bool(a), Value::Bool(b)) => Value::Bool(a.filter(|_| a == b)),
        _ => Value::Unknown,
    }
}

/// How many numbers `ManualSigmas` can find in a text. Each match of its pattern ends with a run of digits and takes it whole, so there are at most as many as runs; Python's `\d` takes
/// the digits of every script, all of which are numeric here (ComfyUI 0.8.0, `nodes_custom_sampler.py`).
pub(crate) fn sigmas_in_text(text: &str) -> usize {
    text.split(|c: char| !c.is_numeric()).filter(|run| !run.is_empty()).count()
}
