//! What can be said about a workflow before it runs: types, numbers and sizes of every output.
//!
//! An abstract interpretation over *all* nodes, sources first. Numbers are intervals, pictures are upper bounds of width, height, frames and batch. Everything over-approximates:
//! a value that occurs at run time lies within what is said here, whichever branch a switch takes. What is not known is [`Value::Unknown`] or no shape, and a rule
//! that needs it refuses. Values are cut to the caps after a rule has recorded the excess, so that one fault is not told once for every node below it.

mod arithmetic;
mod cost;
mod expression;
pub(crate) mod interval;
mod numbers;
mod shape;
mod text;
mod transfer;

use std::collections::HashMap;

pub(crate) use cost::{cost, sampling_steps};
pub(crate) use numbers::{Need, chain, limit, need, number, sigmas_in_text};
pub(crate) use shape::Shape;

use crate::catalogue::{Catalogue, ClassSignature, DeclaredType};
use crate::files::FileFacts;
use crate::policy::{Caps, Policy};
use crate::workflow::graph::{NodeIndex, Workflow};
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};
use interval::{FloatInterval, Interval};

/// A number as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    Int(Interval),
    Float(FloatInterval),
    /// `None`: either.
    Bool(Option<bool>),
    Unknown,
}

/// What is known of one output.
#[derive(Debug, Clone)]
pub(crate) struct Slot<'a> {
    /// The types it may have at run time; empty if nothing is known, for instance because a link leads nowhere.
    pub(crate) types: Vec<&'a str>,
    pub(crate) value: Value,
    pub(crate) shape: Option<Shape>,
    /// How many steps a schedule has at most.
    pub(crate) sigmas: Option<i128>,
    /// How many bytes a text has at most.
    pub(crate) text_bytes: Option<i128>,
}

/// A fault of size that only this pass can see.
#[derive(Debug, Clone)]
pub(crate) enum SizeFault {
    /// The class is not in the table of transfer functions.
    UnknownClass,
    /// More than a cap: which one, how much, and the cap.
    OverCap { what: &'static str, bound: i128, limit: i128 },
}

/// Everything known about a workflow.
pub(crate) struct Facts<'a> {
    pub(crate) workflow: &'a Workflow,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) caps: &'a Caps,
    files: &'a FileFacts,
    slots: HashMap<NodeIndex, Vec<Slot<'a>>>,
    pub(crate) size_faults: Vec<(NodeIndex, SizeFault)>,
}

/// Types whose size is followed.
const SHAPED: [&str; 4] = ["IMAGE", "LATENT", "MASK", "VIDEO"];

impl<'a> Facts<'a> {
    /// Looks at every node once.
    pub(crate) fn of(
        workflow: &'a Workflow,
        policy: &'a Policy,
        catalogue: &'a Catalogue,
        files: &'a FileFacts,
    ) -> Self {
        let mut facts =
            Self { workflow, catalogue, caps: &policy.caps, files, slots: HashMap::new(), size_faults: Vec::new() };
        for (place, node) in workflow.sources_first() {
            if let Some(class) = catalogue.class(node.class.as_str()) {
                let slots = facts.slots_of(place, node, class);
                facts.slots.insert(place, slots);
            }
        }
        facts
    }

    /// The output that a link names; none if the class is unknown or has no such slot.
    pub(crate) fn slot(&self, link: Link) -> Option<&Slot<'a>> {
        self.slots.get(&link.target)?.get(link.slot)
    }

    /// How many bytes the first output of the node at `place` has at most, if it is a text.
    pub(crate) fn text_bytes(&self, place: NodeIndex) -> Option<i128> {
        self.slots.get(&place)?.first()?.text_bytes
    }

    /// The signature of the node at `place`.
    pub(crate) fn class_at(&self, place: NodeIndex) -> Option<&'a ClassSignature> {
        self.catalogue.class(self.workflow.node(place)?.class.as_str())
    }

    /// The size of what the input `name` is linked to.
    fn shape(&self, node: &Node, name: &str) -> Option<Shape> {
        match node.input(name)? {
            Input::Link(link) => self.slot(*link)?.shape,
            Input::Literal(_) => None,
        }
    }

    fn slots_of(&mut self, place: NodeIndex, node: &'a Node, class: &'a ClassSignature) -> Vec<Slot<'a>> {
        let shaped = |slot: &Slot<'a>| slot.types.iter().any(|name| SHAPED.contains(name) || *name == "*");
        let mut slots: Vec<Slot<'a>> = (0..class.outputs().len())
            .map(|slot| Slot {
                types: self.types(node, class, slot),
                value: numbers::value(self, node, class, slot),
                shape: None,
                sigmas: cost::sigmas(self, node, class, slot),
                text_bytes: text::text_bytes(self, node, class, slot),
            })
            .collect();
        let mut unknown = false;
        for (place_of_slot, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| shaped(slot)) {
            match transfer::shape(self, node, class, place_of_slot) {
                transfer::Outcome::Known(shape) => slot.shape = Some(self.within_caps(place, shape)),
                // The reason is told where it arose.
                transfer::Outcome::Inherited => {}
                transfer::Outcome::Unknown => unknown = true,
            }
        }
        if unknown {
            self.size_faults.push((place, SizeFault::UnknownClass));
        }
        slots
    }

    /// The types that an output may have: the declared one, or for a match-anything output those of the inputs of its template.
    fn types(&self, node: &Node, class: &'a ClassSignature, slot: usize) -> Vec<&'a str> {
        let Some(output) = class.outputs().get(slot) else {
            return Vec::new();
        };
        let Some(template) = output.template() else {
            return output.type_name().split(',').map(str::trim).collect();
        };
        let mut types: Vec<&'a str> = Vec::new();
        for input in class.inputs() {
            let DeclaredType::Match { template: of, .. } = input.declared() else {
                continue;
            };
            if let (true, Some(Input::Link(link))) = (of == template, node.input(input.name())) {
                types.extend(self.slot(*link).into_iter().flat_map(|slot| slot.types.iter().copied()));
            }
        }
        types.sort_unstable();
        types.dedup();
        types
    }

    /// Records what is beyond a cap, and cuts the shape to the caps.
    fn within_caps(&mut self, place: NodeIndex, shape: Shape) -> Shape {
        let caps = self.caps;
        let found = [
            ("width", shape.width.hi, caps.width),
            ("height", shape.height.hi, caps.height),
            ("pixels", shape.area, caps.pixels),
            ("batch", shape.batch.hi, caps.batch),
            ("frames", shape.frames.hi, caps.frames),
            ("pixels_total", shape.pixels_total(), caps.pixels_total),
        ];
        for (what, bound, limit) in found {
            if let Some(limit) = limit.filter(|limit| bound > *limit) {
                let known = |(at, fault): &(NodeIndex, SizeFault)| {
                    *at == place && matches!(fault, SizeFault::OverCap { what: known, .. } if *known == what)
                };
                if !self.size_faults.iter().any(known) {
                    self.size_faults.push((place, SizeFault::OverCap { what, bound, limit }));
                }
            }
        }
        shape.cut_to(caps)
    }
}

#[cfg(test)]
mod tests;
