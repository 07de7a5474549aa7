//! What the engine says about every output of a workflow, for those who compare it with what really happens.

use crate::bounds::{Facts, Value};
use crate::{Catalogue, FileFacts, Parsed, Policy};

/// Bounds of a size: of a picture, latent, mask or video. Ends are included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeenShape {
    /// Pixels, smallest and largest.
    pub width: (i128, i128),
    /// Pixels, smallest and largest.
    pub height: (i128, i128),
    /// Pixels of one image at most.
    pub area: i128,
    /// Width by height, smallest and largest.
    pub ratio: (f64, f64),
    /// Images of a batch, smallest and largest.
    pub batch: (i128, i128),
    /// Frames of each, smallest and largest.
    pub frames: (i128, i128),
    /// Images in all, smallest and largest.
    pub count: (i128, i128),
    /// Pixels that a cell of a latent stands for, at least.
    pub cell: i128,
}

/// A number as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SeenValue {
    /// A whole number, smallest and largest.
    Int(i128, i128),
    /// A double, smallest and largest.
    Float(f64, f64),
    /// Either if `None`.
    Bool(Option<bool>),
    /// Nothing is known.
    Unknown,
}

/// What is said of one output.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenSlot {
    /// The node's id.
    pub node: String,
    /// Which of its outputs.
    pub slot: usize,
    /// The types that it may have.
    pub types: Vec<String>,
    /// Its number.
    pub value: SeenValue,
    /// Its size.
    pub shape: Option<SeenShape>,
    /// Steps of a schedule at most.
    pub steps: Option<i128>,
    /// Bytes of a text at most.
    pub text_bytes: Option<i128>,
}

/// What the engine says about every output of the workflow, in the order of its nodes. The caps of `policy` cut what is beyond them, as for a verdict.
pub fn bounds_of(parsed: &Parsed, policy: &Policy, catalogue: &Catalogue, files: &FileFacts) -> Vec<SeenSlot> {
    let facts = Facts::of(&parsed.workflow, policy, catalogue, files);
    let mut out = Vec::new();
    for (place, node) in parsed.workflow.indexed() {
        for slot in 0.. {
            let Some(known) = facts.slot(crate::workflow::link::Link { target: place, slot }) else { break };
            let shape = known.shape.map(|shape| SeenShape {
                width: (shape.width.lo, shape.width.hi),
                height: (shape.height.lo, shape.height.hi),
                area: shape.area,
                ratio: (shape.ratio.lo, shape.ratio.hi),
                batch: (shape.batch.lo, shape.batch.hi),
                frames: (shape.frames.lo, shape.frames.hi),
                count: (shape.count().lo, shape.count().hi),
                cell: shape.cell,
            });
            let value = match known.value {
                Value::Int(value) => SeenValue::Int(value.lo, value.hi),
                Value::Float(value) => SeenValue::Float(value.lo, value.hi),
                Value::Bool(value) => SeenValue::Bool(value),
                Value::Unknown => SeenValue::Unknown,
            };
            out.push(SeenSlot {
                node: node.id.to_string(),
                slot,
                types: known.types.iter().map(|name| (*name).to_owned()).collect(),
                value,
                shape,
                steps: known.sigmas,
                text_bytes: known.text_bytes,
            });
        }
    }
    out
}
