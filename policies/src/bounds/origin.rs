//! Where a bound comes from, for people: the nodes that led to it, nearest first. Nothing here decides.

use super::{Facts, Shape, Slot};
use crate::catalogue::{InputKind, ValueRule};
use crate::workflow::graph::links;
use crate::workflow::json::Json;
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};

/// Hops that a chain in a message shows.
const CHAIN_HOPS_MAX: usize = 8;
/// Inputs of one node whose chains a message about its size shows.
const CHAINS_MAX: usize = 4;

/// Where a linked value comes from, hop by hop: `linked from 8 (ComfySwitchNode.on_true), from 7 (PrimitiveInt.value)`. None for what comes by no link.
pub(crate) fn chain(facts: &Facts<'_>, node: &Node, name: &str) -> Option<String> {
    let mut hops = Vec::new();
    let mut next = node.input(name).and_then(linked);
    while let (Some(link), true) = (next, hops.len() < CHAIN_HOPS_MAX) {
        let Some(source) = facts.workflow.node(link.target) else {
            break;
        };
        let inner = followed(facts, source, link);
        let input = inner.and_then(|inner| Some((inner, source.input(inner)?)));
        match input {
            Some((inner, _)) => hops.push(format!("from {} ({}.{inner})", source.id, source.class)),
            None => hops.push(format!("from {} ({})", source.id, source.class)),
        }
        next = input.and_then(|(_, input)| linked(input));
    }
    (!hops.is_empty()).then(|| format!("linked {}", hops.join(", ")))
}

fn linked(input: &Input) -> Option<Link> {
    match input {
        Input::Link(link) => Some(*link),
        Input::Literal(_) => None,
    }
}

/// The input of `source` that its output goes by.
fn followed<'n>(facts: &Facts<'n>, source: &Node, link: Link) -> Option<&'n str> {
    let taken = |by: &str, on_true: &'n str, on_false: &'n str| match source.input(by) {
        Some(Input::Literal(Json::Bool(false))) => on_false,
        _ => on_true,
    };
    let class = facts.class_at(link.target);
    if class.and_then(|class| class.outputs().get(link.slot)).is_some_and(|output| output.type_name() == "SIGMAS") {
        // Made of a number, or of another schedule.
        return ["steps", "sigmas"].into_iter().find(|name| source.input(name).is_some());
    }
    match class.and_then(|class| class.value_rule(link.slot)) {
        Some(
            ValueRule::Input(input)
            | ValueRule::WidthOf(input)
            | ValueRule::HeightOf(input)
            | ValueRule::CountOf(input)
            | ValueRule::LengthOf(input),
        ) => return Some(input),
        Some(ValueRule::Convert(convert)) => return Some(&convert.of),
        Some(ValueRule::Expression(expression)) => return Some(&expression.text),
        Some(ValueRule::Switch(switch)) => return Some(taken(&switch.by, &switch.on_true, &switch.on_false)),
        _ => {}
    }
    Some(match source.class.as_str() {
        "ComfySwitchNode" => taken("switch", "on_true", "on_false"),
        "StringLength" => "string",
        "GetImageSize" => "image",
        _ => "value",
    })
}

/// Where the steps of a sampler come from: its own number, or the schedule that it is given.
pub(crate) fn steps_chain(facts: &Facts<'_>, node: &Node) -> Option<String> {
    chain(facts, node, "steps").or_else(|| chain(facts, node, "sigmas"))
}

/// What a size is made of: the linked numbers that say it, and the pictures that go into it, such as
/// `width linked from 7 (PrimitiveInt.value); made of 4096 × 4096 from 5 (VAEDecode), 512 × 512 from 3 (EmptyLatentImage)`.
pub(crate) fn size_chain(facts: &Facts<'_>, node: &Node) -> Option<String> {
    let class = facts.workflow.find(&node.id).and_then(|place| facts.class_at(place))?;
    let says = |kind: InputKind| {
        matches!(
            kind,
            InputKind::Width
                | InputKind::Height
                | InputKind::Side
                | InputKind::Megapixels
                | InputKind::Factor
                | InputKind::Pad
                | InputKind::Batch
                | InputKind::Frames
                | InputKind::Seconds
        )
    };
    let mut parts: Vec<String> = node
        .inputs
        .iter()
        .filter(|(name, input)| linked(input).is_some() && class.input_kind(node, name).is_some_and(says))
        .filter_map(|(name, _)| Some(format!("{name} {}", chain(facts, node, name)?)))
        .take(CHAINS_MAX)
        .collect();
    let pictures = hops(facts, node, |slot| slot.shape.map(|shape| (shape.pixels_total(), text_of(shape))));
    parts.extend((!pictures.is_empty()).then(|| format!("made of {}", pictures.join(", "))));
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn text_of(shape: Shape) -> String {
    let count = shape.count().hi;
    let count = if count == 1 { String::new() } else { format!("{count} of ") };
    format!("{count}{} × {}", shape.width.hi, shape.height.hi)
}

/// What a text is made of, the longest part of each node: `made of 1024 bytes from 7 (StringConcatenate)`.
pub(crate) fn text_chain(facts: &Facts<'_>, node: &Node) -> Option<String> {
    let texts = hops(facts, node, |slot| slot.text_bytes.map(|bytes| (bytes, format!("{bytes} bytes"))));
    (!texts.is_empty()).then(|| format!("made of {}", texts.join(", ")))
}

/// From node to node upwards, by the input that brings the most.
fn hops(facts: &Facts<'_>, node: &Node, known: impl Fn(&Slot<'_>) -> Option<(i128, String)>) -> Vec<String> {
    let mut out = Vec::new();
    let mut at = node;
    while out.len() < CHAIN_HOPS_MAX {
        let bring = |link: Link| Some((known(facts.slot(link)?)?, facts.workflow.node(link.target)?));
        // Of several that bring as much the first.
        let most = links(at).filter_map(bring).reduce(|a, b| if b.0.0 > a.0.0 { b } else { a });
        let Some(((_, text), source)) = most else { break };
        out.push(format!("{text} from {} ({})", source.id, source.class));
        at = source;
    }
    out
}
