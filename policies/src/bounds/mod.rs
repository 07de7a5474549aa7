//! What can be said about a workflow before it runs: types, numbers and sizes of every output.
//!
//! An abstract interpretation over *all* nodes, sources first. Numbers are intervals, pictures are upper bounds of width, height, frames and batch. Everything over-approximates:
//! a value that occurs at run time lies within what is said here, whichever branch a switch takes. What is not known is [`Value::Unknown`] or no shape, and a rule
//! that needs it refuses. Values are cut to the caps after a rule has recorded the excess, so that one fault is not told once for every node below it.

mod arithmetic;
mod cost;
mod expression;
pub(crate) mod interval;
mod lists;
mod numbers;
mod operands;
mod origin;
mod samplers;
mod shape;
mod text;
mod transfer;

use std::ops::Range;
use std::rc::Rc;

pub(crate) use cost::{Sampling, Unsampled, sampling, sampling_steps};
pub(crate) use expression::Dialect;
#[cfg(feature = "fuzzing")]
pub(crate) use expression::{Judged, judged as judged_expression};
pub(crate) use numbers::{Need, REPEATS_MAX, limit, need, number, sigmas_in_text};
pub(crate) use operands::expression_fault;
pub(crate) use origin::{chain, size_chain, steps_chain, text_chain};
pub(crate) use shape::{Shape, Sound};
pub(crate) use text::input_bytes as input_text_bytes;

use crate::catalogue::{Catalogue, ClassSignature, DeclaredType, OutputSignature, TypeSet, ValueRule};
use crate::files::FileFacts;
use crate::policy::{Caps, Policy, Posture};
use crate::resolve::Resolved;
use crate::workflow::graph::{NodeIndex, Workflow};
use crate::workflow::json::Json;
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};
use interval::{FloatInterval, Interval, ceil};

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
    pub(crate) types: Types<'a>,
    /// The same, for rules that ask for one.
    pub(crate) type_set: TypeSet,
    pub(crate) value: Value,
    pub(crate) shape: Option<Shape>,
    pub(crate) sound: Option<Sound>,
    /// It has a type whose size is followed, but no size that could be.
    sizeless: bool,
    /// How many items it has: more than one where a list is given, or where the node runs once for each item of one.
    pub(crate) items: i128,
    /// How many times the memory of its shape the node takes while it works.
    pub(crate) work: i128,
    pub(crate) sampler: Option<samplers::Sampler>,
    /// How many steps a schedule has at most.
    pub(crate) sigmas: Option<i128>,
    /// How many bytes a text has at most.
    pub(crate) text_bytes: Option<i128>,
}

/// Names of types: nearly always one.
#[derive(Debug, Clone)]
pub(crate) enum Types<'a> {
    One(&'a str),
    Several(Vec<&'a str>),
}

impl<'a> std::ops::Deref for Types<'a> {
    type Target = [&'a str];

    fn deref(&self) -> &Self::Target {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

/// A fault of size that only this pass can see.
#[derive(Debug, Clone)]
pub(crate) enum SizeFault {
    /// The class has no rule for sizes, or one that says why there is none.
    Unbounded { because: Option<String> },
    /// More than a cap: which one, how much, and the cap.
    OverCap { what: &'static str, bound: i128, limit: i128 },
    /// It gives a list, and nobody knows of how many items.
    List { because: Option<String> },
}

/// Everything known about a workflow.
pub(crate) struct Facts<'a> {
    pub(crate) workflow: &'a Workflow,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) caps: &'a Caps,
    files: &'a FileFacts,
    /// Whether texts of unknown length count as what went into them: an owner's own packs are trusted.
    assumes_texts: bool,
    /// What a token that a model writes counts as in texts.
    token_bytes: i128,
    /// By the nodes' places: how many bytes the longest text has that the node gives. Where nobody knows, it is taken to hold all that went in.
    texts: Vec<i128>,
    /// Whether a VAE without cells may be about.
    has_pixel_space: bool,
    pub(crate) resolved: Rc<Resolved<'a>>,
    /// Of all nodes, in the order in which they were looked at.
    slots: Vec<Slot<'a>>,
    /// Those of each node, by its place; none where the class is not known.
    slots_of_node: Vec<Range<usize>>,
    pub(crate) size_faults: Vec<(NodeIndex, SizeFault)>,
}

/// Items of a list under any cap: each runs all nodes after it once.
pub(crate) const ITEMS_MAX: i128 = 4096;

/// Primitives between a text and where it is read: each look follows them anew.
const TEXT_HOPS_MAX: usize = 8;
/// Classes that give the text that is written into them.
const TEXT_PRIMITIVES: [&str; 2] = ["PrimitiveString", "PrimitiveStringMultiline"];

impl<'a> Facts<'a> {
    /// Under a policy.
    pub(crate) fn of(
        workflow: &'a Workflow,
        policy: &'a Policy,
        catalogue: &'a Catalogue,
        files: &'a FileFacts,
    ) -> Self {
        let resolved = Rc::new(Resolved::of(workflow, catalogue));
        let assumes_texts = policy.posture() == Posture::Owner;
        let has_pixel_space = resolved.known().any(|(_, node, class)| transfer::may_be_pixel_space(node, class));
        let (texts, slots, slots_of_node, size_faults) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut facts = Self {
            workflow,
            catalogue,
            caps: &policy.caps,
            files,
            assumes_texts,
            token_bytes: text::TOKEN_BYTES_MAX,
            texts,
            has_pixel_space,
            resolved,
            slots,
            slots_of_node,
            size_faults,
        };
        facts.add_all();
        facts
    }

    /// The same of the same workflow under other caps.
    pub(crate) fn under<'b>(&self, caps: &'b Caps) -> Facts<'b>
    where
        'a: 'b,
    {
        self.again(caps, self.assumes_texts, self.token_bytes)
    }

    /// The same with texts counted in what may become tokens again: each byte that is written down, and few of a token that a model writes. Nothing is assumed of what packs write.
    pub(crate) fn in_tokens(&self) -> Self {
        self.again(self.caps, false, text::TOKENS_A_TOKEN)
    }

    fn again<'b>(&self, caps: &'b Caps, assumes_texts: bool, token_bytes: i128) -> Facts<'b>
    where
        'a: 'b,
    {
        let resolved: Rc<Resolved<'b>> = Rc::<Resolved<'a>>::clone(&self.resolved);
        let (texts, slots, slots_of_node, size_faults) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut facts =
            Facts { caps, assumes_texts, token_bytes, resolved, texts, slots, slots_of_node, size_faults, ..*self };
        facts.add_all();
        facts
    }

    /// Looks at every node once.
    fn add_all(&mut self) {
        let workflow = self.workflow;
        let outputs = self.resolved.known().map(|(_, _, class)| class.outputs().len()).sum();
        self.slots = Vec::with_capacity(outputs);
        self.slots_of_node = vec![0..0; workflow.nodes().len()];
        self.texts = vec![0; workflow.nodes().len()];
        for (place, node) in workflow.sources_first() {
            if let Some(class) = self.resolved.class(place) {
                let first = self.slots.len();
                self.add_slots(place, node, class);
                if let Some(own) = self.slots_of_node.get_mut(place.number()) {
                    *own = first..self.slots.len();
                }
            }
            let bytes = text::longest(self, place, node);
            if let Some(at) = self.texts.get_mut(place.number()) {
                *at = bytes;
            }
        }
    }

    /// The output that a link names; none if the class is unknown or has no such slot.
    pub(crate) fn slot(&self, link: Link) -> Option<&Slot<'a>> {
        self.slots_at(link.target).get(link.slot)
    }

    /// How many bytes the first output of the node at `place` has at most, if it is a text.
    pub(crate) fn text_bytes(&self, place: NodeIndex) -> Option<i128> {
        self.slots_at(place).first()?.text_bytes
    }

    /// Bytes of the longest text that the node at `place` gives, each text of which nobody knows anything taken to hold all that goes into it, and some more.
    pub(crate) fn longest_text(&self, place: NodeIndex) -> i128 {
        self.texts.get(place.number()).copied().unwrap_or_default()
    }

    /// The text at the input `name`, where it is written down: here, or in a primitive that a link leads to.
    pub(crate) fn written_text<'n>(&self, node: &'n Node, name: &str) -> Option<&'n str>
    where
        'a: 'n,
    {
        let (mut node, mut name) = (node, name);
        for _ in 0..TEXT_HOPS_MAX {
            match node.input(name)? {
                Input::Literal(Json::Text(text)) => return Some(text),
                Input::Literal(_) => return None,
                Input::Link(link) if link.slot == 0 => {
                    let class = self.class_at(link.target)?;
                    node = self.workflow.node(link.target)?;
                    name = match class.value_rule(0) {
                        Some(ValueRule::Input(input)) => input,
                        _ if class.is_core() && TEXT_PRIMITIVES.contains(&class.name()) => "value",
                        _ => return None,
                    };
                }
                Input::Link(_) => return None,
            }
        }
        None
    }

    /// Every output of the node at `place`.
    pub(crate) fn slots_at(&self, place: NodeIndex) -> &[Slot<'a>] {
        self.slots_of_node.get(place.number()).and_then(|own| self.slots.get(own.clone())).unwrap_or_default()
    }

    /// The signature of the node at `place`.
    pub(crate) fn class_at(&self, place: NodeIndex) -> Option<&'a ClassSignature> {
        self.resolved.class(place)
    }

    /// The size of what the input `name` is linked to.
    fn shape(&self, node: &Node, name: &str) -> Option<Shape> {
        match node.input(name)? {
            Input::Link(link) => self.slot(*link)?.shape,
            Input::Literal(_) => None,
        }
    }

    /// Looks at the outputs of one node, whose sources were looked at before.
    fn add_slots(&mut self, place: NodeIndex, node: &'a Node, class: &'a ClassSignature) {
        let runs = self.runs(node, class);
        let mut gap = None;
        for number in 0..class.outputs().len() {
            let (types, type_set) = self.types(node, class, number);
            let is_list = class.outputs().get(number).is_some_and(OutputSignature::is_list);
            let mut slot = Slot {
                types,
                type_set,
                value: numbers::value(self, node, class, number),
                shape: None,
                sound: None,
                sizeless: false,
                items: if is_list { self.list_items(place, node, class, number, runs) } else { runs },
                work: 1,
                sampler: samplers::sampler(self, node, class, number),
                sigmas: cost::sigmas(self, node, class, number),
                text_bytes: text::text_bytes(self, node, class, number),
            };
            if type_set.meets(TypeSet::SHAPED) {
                let capped = self.caps_apply_to(type_set);
                match self.add_size(place, node, class, number, &mut slot) {
                    // The reason is told where it arose.
                    Ok(()) | Err(transfer::Gap::Inherited) => {}
                    Err(_) if !capped => {}
                    Err(transfer::Gap::Unknown) => gap = gap.or(Some(None)),
                    Err(transfer::Gap::Unbounded(because)) => gap = Some(Some(because)),
                }
            }
            self.slots.push(slot);
        }
        if let Some(because) = gap {
            self.size_faults.push((place, SizeFault::Unbounded { because }));
        }
    }

    /// How large it is what comes out of an output.
    fn add_size(
        &mut self,
        place: NodeIndex,
        node: &Node,
        class: &ClassSignature,
        number: usize,
        slot: &mut Slot<'a>,
    ) -> Result<(), transfer::Gap> {
        let extent = transfer::extent(self, node, class, number)?;
        slot.shape = extent.shape.map(|shape| self.within_caps(place, shape, slot.items, extent.work));
        slot.work = extent.work;
        slot.sound = extent.sound.map(|sound| self.within_seconds(place, sound));
        slot.sizeless = slot.shape.is_none() && slot.sound.is_none();
        Ok(())
    }

    /// How often a node runs: once for each item of the longest list among its inputs, unless it takes lists whole (ComfyUI 0.8.0, `execution.py`).
    pub(crate) fn runs(&self, node: &Node, class: &ClassSignature) -> i128 {
        if class.takes_lists() {
            return 1;
        }
        self.items_of(node.inputs.iter().map(|(_, input)| input)).max().unwrap_or(1)
    }

    /// Items that each of these inputs brings; one where it is a literal.
    fn items_of<'i>(&self, inputs: impl Iterator<Item = &'i Input>) -> impl Iterator<Item = i128> {
        inputs.map(|input| match input {
            Input::Link(link) => self.slot(*link).map_or(1, |slot| slot.items),
            Input::Literal(_) => 1,
        })
    }

    /// Items of the list in output `slot`, over all runs.
    fn list_items(&mut self, place: NodeIndex, node: &Node, class: &ClassSignature, slot: usize, runs: i128) -> i128 {
        match lists::items(self, node, class, slot) {
            Ok(items) => {
                let items = Interval::exactly(items).times(Interval::exactly(runs)).hi;
                if items > ITEMS_MAX && self.caps.limits_anything() {
                    self.over_cap(place, "items", items, ITEMS_MAX);
                }
                items.clamp(1, ITEMS_MAX)
            }
            Err(because) => {
                let told =
                    |(at, fault): &(NodeIndex, SizeFault)| *at == place && matches!(fault, SizeFault::List { .. });
                if !self.size_faults.iter().rev().take_while(|(at, _)| *at == place).any(told) {
                    self.size_faults.push((place, SizeFault::List { because }));
                }
                1
            }
        }
    }

    /// Whether a cap asks for the size of what has this type. A latent is one of pictures or of sound, a film has both.
    fn caps_apply_to(&self, types: TypeSet) -> bool {
        const SILENT: TypeSet = TypeSet::of_all(&[TypeSet::IMAGE, TypeSet::MASK, TypeSet::TRACKS]);
        let (sizes, seconds) = (self.caps.limits_sizes(), self.caps.seconds.is_some());
        (sizes && !types.is_within(TypeSet::AUDIO)) || (seconds && !types.is_within(SILENT))
    }

    /// The types that an output may have: the declared one, or for a match-anything output those of the inputs of its template.
    fn types(&self, node: &Node, class: &'a ClassSignature, slot: usize) -> (Types<'a>, TypeSet) {
        let Some(output) = class.outputs().get(slot) else {
            return (Types::Several(Vec::new()), TypeSet::NONE);
        };
        let Some(template) = output.template() else {
            let name = output.type_name();
            let types = match class.has_unions() {
                false => Types::One(name.trim()),
                true => Types::Several(name.split(',').map(str::trim).collect()),
            };
            return (types, class.output_types(slot));
        };
        let (mut types, mut type_set): (Vec<&'a str>, _) = (Vec::new(), TypeSet::NONE);
        for input in class.inputs() {
            let DeclaredType::Match { template: of, .. } = input.declared() else {
                continue;
            };
            match node.input(input.name()) {
                _ if of != template => {}
                Some(Input::Link(link)) => {
                    if let Some(slot) = self.slot(*link) {
                        types.extend(slot.types.iter().copied());
                        type_set = type_set.and(slot.type_set);
                    }
                }
                Some(Input::Literal(Json::Text(_))) => {
                    types.push("STRING");
                    type_set = type_set.and(TypeSet::STRING);
                }
                Some(Input::Literal(_)) | None => {}
            }
        }
        types.sort_unstable();
        types.dedup();
        (Types::Several(types), type_set)
    }

    /// Records what is beyond a cap, and cuts the shape to the caps.
    fn within_caps(&mut self, place: NodeIndex, shape: Shape, items: i128, work: i128) -> Shape {
        let caps = self.caps;
        let times_items = |value: i128| Interval::exactly(value).times(Interval::exactly(items)).hi;
        let working = Interval::exactly(shape.pixels_total()).times(Interval::exactly(work)).hi;
        let (all, count) = (times_items(shape.pixels_total()).max(working), times_items(shape.count().hi));
        let found = [
            ("width", shape.width.hi, caps.width),
            ("height", shape.height.hi, caps.height),
            ("pixels", shape.area, caps.pixels),
            ("batch", shape.batch.hi, caps.batch),
            ("frames", shape.frames.hi, caps.frames),
            ("pixels_total", all, caps.pixels_total),
            // A list of batches is as much as one batch of all.
            (
                "list",
                count,
                caps.batch.zip(caps.frames).filter(|_| items > 1).map(|(batch, frames)| batch.saturating_mul(frames)),
            ),
        ];
        for (what, bound, limit) in found {
            if let Some(limit) = limit.filter(|limit| bound > *limit) {
                self.over_cap(place, what, bound, limit);
            }
        }
        shape.cut_to(caps)
    }

    /// The same for sound.
    fn within_seconds(&mut self, place: NodeIndex, sound: Sound) -> Sound {
        let (seconds, batch) = (self.caps.seconds, self.caps.batch);
        if let Some(limit) = batch.filter(|limit| sound.batch > *limit) {
            self.over_cap(place, "batch", sound.batch, limit);
        }
        match seconds.filter(|limit| sound.seconds > *limit) {
            Some(limit) => {
                self.over_cap(place, "seconds", ceil(sound.seconds), ceil(limit));
                Sound { seconds: limit, ..sound }
            }
            None => sound,
        }
    }

    /// One fault for each cap of a node, however many of its outputs are beyond it.
    fn over_cap(&mut self, place: NodeIndex, what: &'static str, bound: i128, limit: i128) {
        let known = |(at, fault): &(NodeIndex, SizeFault)| {
            *at == place && matches!(fault, SizeFault::OverCap { what: known, .. } if *known == what)
        };
        // Those of this node are the last.
        if !self.size_faults.iter().rev().take_while(|(at, _)| *at == place).any(known) {
            self.size_faults.push((place, SizeFault::OverCap { what, bound, limit }));
        }
    }
}

#[cfg(test)]
mod tests;
