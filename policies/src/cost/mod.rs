//! How much work a workflow is, in units of one SDXL step at 1024 × 1024.
//!
//! In come the bounds of every output, out comes an upper estimate: the sum over all nodes, sampling and decoding and all. It never falls when an input grows, is finite and not negative, and
//! the same workflow always costs the same. The numbers of a model come from a [`CostModel`], by the name of the file that its loader names; the formula is in `documents/costs.toml`.
//! An estimate orders jobs and fills quotas. What bounds work for sure are the caps.

mod model;

pub use model::{CostModel, CostModelError, Family, Work};

use crate::bounds::{Facts, Shape, Value, number, sampling_steps};
use crate::catalogue::{ClassSignature, InputKind, TypeSet};
use crate::verdict::Cost;
use crate::workflow::graph::{NodeIndex, links};
use crate::workflow::json::Json;
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};
use crate::workflow::text::Text;

/// Pixels of one SDXL image.
const UNIT_PIXELS: f64 = 1024.0 * 1024.0;
/// Seconds of sound that count as one image of that size.
const UNIT_SECONDS: f64 = 36.0;
/// More than this is only "too much"; keeps every sum finite.
const COST_MAX: f64 = 1e15;
/// Model calls of a sampler whose number nobody knows.
const UNKNOWN_CALLS: f64 = 150.0;
/// Bytes of a text that may be the name of a model.
const MODEL_NAME_BYTES_MAX: usize = 256;

/// What one node costs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeCost<'m> {
    pub(crate) place: NodeIndex,
    /// Units; never negative, always finite.
    pub(crate) units: f64,
    /// The family of the model that it samples with.
    pub(crate) family: Option<&'m str>,
}

/// What flows through links besides pictures: which model, and how much each of its steps takes.
#[derive(Debug, Clone, Copy)]
struct Lineage<'m> {
    /// The costliest of the models that may come out.
    family: Option<&'m Family>,
    /// Passes that patches of the model add.
    added: f64,
    /// Conditionings that come out, each of them a pass.
    conditionings: f64,
    /// ControlNets on the way, as parts of a pass.
    control: f64,
    /// Passes of one step, of what guides a sampler.
    guided: Option<f64>,
}

/// What comes out of each node, by its place.
type Lineages<'m> = Vec<Option<Lineage<'m>>>;

/// A conditioning that nobody touched.
const PLAIN: Lineage<'static> = Lineage { family: None, added: 0.0, conditionings: 1.0, control: 0.0, guided: None };

/// The cost of a workflow.
pub(crate) fn cost(facts: &Facts<'_>, model: &CostModel) -> Cost {
    // Not `sum`, whose empty sum is −0.
    Cost(of_nodes(facts, model).iter().fold(0.0, |sum, node| capped(sum + node.units)))
}

/// The cost of every node whose class is known, sources first.
pub(crate) fn of_nodes<'m>(facts: &Facts<'_>, model: &'m CostModel) -> Vec<NodeCost<'m>> {
    let nodes = facts.workflow.nodes().len();
    let mut lineages: Lineages<'m> = vec![None; nodes];
    let mut out = Vec::with_capacity(nodes);
    for (place, node) in facts.workflow.sources_first() {
        let Some(class) = facts.class_at(place) else { continue };
        let worker = Worker { facts, model, node, class, place, incoming: incoming(facts, node), lineages: &lineages };
        let lineage = worker.lineage();
        out.push(worker.cost());
        if let Some(of_node) = lineages.get_mut(place.number()) {
            *of_node = Some(lineage);
        }
    }
    out
}

/// The types of all that is linked to a node.
fn incoming(facts: &Facts<'_>, node: &Node) -> TypeSet {
    let types = links(node).filter_map(|link| Some(facts.slot(link)?.type_set));
    types.fold(TypeSet::NONE, TypeSet::and)
}

/// NaN does not arise: nothing negative is rooted, nothing infinite subtracted; if it did, it would count as the most.
fn capped(units: f64) -> f64 {
    if units <= COST_MAX { units.max(0.0) } else { COST_MAX }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate, and a monotone one")]
fn float(number: i128) -> f64 {
    // Of whole numbers of 64 bits a processor makes floats itself.
    i64::try_from(number).map_or(number as f64, |number| number as f64)
}

/// One node, with what comes into it.
struct Worker<'a, 'm> {
    facts: &'a Facts<'a>,
    model: &'m CostModel,
    node: &'a Node,
    class: &'a ClassSignature,
    place: NodeIndex,
    incoming: TypeSet,
    lineages: &'a Lineages<'m>,
}

impl<'a, 'm> Worker<'a, 'm> {
    /// The links of this node that may carry `kind`, by input.
    fn links_of(&self, kind: TypeSet) -> impl Iterator<Item = (&'a str, Link)> {
        let carries = move |link: &Link| self.facts.slot(*link).is_some_and(|slot| slot.type_set.meets(kind));
        let inputs = if self.takes(kind) { self.node.inputs.as_slice() } else { &[] };
        inputs.iter().filter_map(move |(name, input)| match input {
            Input::Link(link) if carries(link) => Some((name.as_str(), *link)),
            _ => None,
        })
    }

    fn takes(&self, kind: TypeSet) -> bool {
        self.incoming.meets(kind)
    }

    /// Whether an output is of type `kind`.
    fn gives(&self, kind: TypeSet) -> bool {
        self.class.gives(kind)
    }

    fn lineage_of(&self, link: Link) -> Lineage<'m> {
        self.lineages.get(link.target.number()).copied().flatten().unwrap_or(PLAIN)
    }

    /// What comes out of this node.
    fn lineage(&self) -> Lineage<'m> {
        let mut out = PLAIN;
        out.added = self.model.added_passes(self.class.name());
        for (_, link) in self.links_of(TypeSet::MODEL) {
            let of = self.lineage_of(link);
            out.family = costlier(out.family, of.family);
            out.added = out.added.max(of.added + self.model.added_passes(self.class.name()));
        }
        if out.family.is_none() && self.gives(TypeSet::MODEL) {
            out.family = self.loaded();
        }
        let mut sum = 0.0;
        for (_, link) in self.links_of(TypeSet::CONDITIONING) {
            let of = self.lineage_of(link);
            sum = capped(sum + of.conditionings);
            out.conditionings = out.conditionings.max(of.conditionings);
            out.control = out.control.max(of.control);
        }
        // Both lists one after the other, each a pass. A class for pairs has two outputs, which share them.
        if self.gives(TypeSet::CONDITIONING) && self.class.name().contains("Combine") {
            let gives = |slot: &usize| self.class.output_types(*slot).meets(TypeSet::CONDITIONING);
            let outputs = (0..self.class.outputs().len()).filter(gives).count();
            let outputs = i128::try_from(outputs.max(1)).map_or(1.0, float);
            out.conditionings = out.conditionings.max(sum / outputs);
        }
        if self.takes(TypeSet::CONTROL_NET) && self.gives(TypeSet::CONDITIONING) {
            out.control = capped(out.control + self.model.work().control);
        }
        if self.gives(TypeSet::GUIDER) {
            out.guided = Some(self.passes());
        }
        // A guider may pass through a switch or the like.
        for (_, link) in self.links_of(TypeSet::GUIDER) {
            let of = self.lineage_of(link);
            out.family = costlier(out.family, of.family);
            out.guided = Some(out.guided.unwrap_or(0.0).max(of.guided.unwrap_or(0.0)));
        }
        out
    }

    /// The family of the model that this node loads: the costliest that its literals may name.
    fn loaded(&self) -> Option<&'m Family> {
        let name = self.class.name();
        let text = |(input, value): &'a (Text, Input)| match value {
            Input::Literal(Json::Text(text)) if text.len() <= MODEL_NAME_BYTES_MAX => {
                let named = self.class.input_kind(self.node, input) == Some(InputKind::ModelFile);
                (named || !self.class.is_annotated()).then_some(text.as_str())
            }
            _ => None,
        };
        let unnamed = self.model.family(name, None);
        let known = self.node.inputs.iter().filter_map(text).filter_map(|text| self.model.family(name, Some(text)));
        // A name that no entry knows says nothing; another literal may.
        known.filter(|family| unnamed != Some(*family)).fold(None, |a, b| costlier(a, Some(b))).or(unnamed)
    }

    /// Passes of one step: one for each conditioning that is evaluated, what its ControlNets take, and what patches add.
    fn passes(&self) -> f64 {
        let unguided = self.is_unguided();
        let mut passes: f64 = 0.0;
        for (name, link) in self.links_of(TypeSet::CONDITIONING) {
            if unguided && name.starts_with("negative") {
                continue;
            }
            let of = self.lineage_of(link);
            passes = capped(passes + of.conditionings * (1.0 + of.control));
        }
        let added = self.links_of(TypeSet::MODEL).map(|(_, link)| self.lineage_of(link).added).fold(0.0, f64::max);
        // A sampler of a pack may take its prompts as texts: two passes then.
        let least = if unguided || self.takes(TypeSet::CONDITIONING) { 1.0 } else { 2.0 };
        capped(passes.max(least) + added)
    }

    /// At `cfg` 1 ComfyUI leaves the negative conditioning out (ComfyUI 0.8.0, `samplers.py` `sampling_function`).
    fn is_unguided(&self) -> bool {
        let Some(signature) = self.class.input(self.node, "cfg") else { return false };
        match number(self.facts, self.node, "cfg", signature.declared()) {
            Value::Float(cfg) => cfg.lo == 1.0 && cfg.hi == 1.0,
            Value::Int(cfg) => cfg.lo == 1 && cfg.hi == 1,
            _ => false,
        }
    }

    fn cost(&self) -> NodeCost<'m> {
        let (sampling, family) = match self.sampling() {
            Some((units, family)) => (units, Some(family.name.as_str())),
            None => (0.0, None),
        };
        // A sampler's runs are among its model calls.
        let other = self.other_work();
        let runs = if other > 0.0 { float(self.facts.runs(self.node, self.class).max(1)) } else { 1.0 };
        let units = capped(sampling + runs * other);
        NodeCost { place: self.place, units, family }
    }

    fn sampling(&self) -> Option<(f64, &'m Family)> {
        let calls =
            sampling_steps(self.facts, self.node, self.class)?.map_or(UNKNOWN_CALLS, |calls| float(calls.max(0)));
        let guiders = || self.links_of(TypeSet::GUIDER).map(|(_, link)| self.lineage_of(link));
        let models = self.links_of(TypeSet::MODEL).map(|(_, link)| self.lineage_of(link));
        let family = models.chain(guiders()).fold(None, |family, of| costlier(family, of.family));
        let family = family.or_else(|| self.model.family(self.class.name(), None))?;
        let passes = guiders().filter_map(|of| of.guided).reduce(f64::max).unwrap_or_else(|| self.passes());
        let latents = self.links_of(TypeSet::LATENT).filter_map(|(_, link)| self.facts.slot(link));
        let area = latents.filter_map(|slot| {
            let sound = slot.sound.map(|sound| sound.seconds.max(0.0) / UNIT_SECONDS * float(sound.batch.max(0)));
            slot.shape.map(|shape| images_area(family, shape)).into_iter().chain(sound).reduce(f64::max)
        });
        // A latent of which nothing is known counts as one image.
        let area = area.reduce(f64::max).unwrap_or(1.0);
        Some((capped(family.constant + calls * passes * family.pass * capped(area)), family))
    }

    /// Decoding, encoding, upscaling, and pixels that are only moved.
    fn other_work(&self) -> f64 {
        let work = self.model.work();
        let incoming = |kind: TypeSet| {
            self.links_of(kind).filter_map(|(_, link)| self.facts.slot(link)?.shape).map(megapixels).fold(0.0, f64::max)
        };
        let made = |kind: Option<TypeSet>| {
            let slots = self.facts.slots_at(self.place).iter().enumerate();
            let wanted = slots.filter(|(slot, _)| kind.is_none_or(|kind| self.class.output_types(*slot).meets(kind)));
            wanted.filter_map(|(_, slot)| slot.shape).map(megapixels).fold(0.0, f64::max)
        };
        let mut units =
            work.pixels * made(None).max(if self.class.is_output_node() { incoming(TypeSet::IMAGE) } else { 0.0 });
        if self.takes(TypeSet::LATENT) && self.gives(TypeSet::IMAGE) && !self.takes(TypeSet::IMAGE) {
            units += work.decode * made(Some(TypeSet::IMAGE));
        }
        if self.takes(TypeSet::VAE) && self.takes(TypeSet::IMAGE) {
            units += work.encode * incoming(TypeSet::IMAGE).max(made(Some(TypeSet::LATENT)));
        }
        if self.takes(TypeSet::UPSCALE_MODEL) {
            units += work.upscale * incoming(TypeSet::IMAGE);
        }
        capped(units)
    }
}

/// Pixels in all, in units of 1024 × 1024.
fn megapixels(shape: Shape) -> f64 {
    float(shape.pixels_total().max(0)) / UNIT_PIXELS
}

/// One pass over all images of a batch, in passes over 1024 × 1024.
fn images_area(family: &Family, shape: Shape) -> f64 {
    family.area(float(shape.area.max(0)) / UNIT_PIXELS, float(shape.frames.hi)) * float(shape.batch.hi.max(0))
}

/// The one whose passes cost more; of equals the first.
fn costlier<'m>(a: Option<&'m Family>, b: Option<&'m Family>) -> Option<&'m Family> {
    match (a, b) {
        (Some(first), Some(second)) if (second.pass, second.constant) > (first.pass, first.constant) => b,
        (None, _) => b,
        _ => a,
    }
}

#[cfg(test)]
mod tests;
