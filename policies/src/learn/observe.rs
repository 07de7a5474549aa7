//! What a submission holds that a policy speaks of.

use super::{LearnOptions, Observations, Sample};
use crate::bounds::{Facts, Shape, Value, number, sampling_steps};
use crate::catalogue::{Catalogue, ClassSignature, InputKind};
use crate::policy::Policy;
use crate::suggest::pattern;
use crate::workflow::graph::NodeIndex;
use crate::workflow::json::Json;
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};

/// A policy that allows everything that a policy can. With caps, they stand so high that only what has no bound at all is refused.
pub(super) fn permissive(options: &LearnOptions) -> Option<Policy> {
    let caps = "steps = 1000000000000\nsteps_total = 1000000000000\nwidth = 1000000000\nheight = 1000000000\nmegapixels = 1000000000\n\
        megapixels_total = 1000000000000\nbatch = 1000000000\nframes = 1000000000\nseconds = 1000000000\n";
    let text = format!(
        "name = \"permissive\"\n[classes]\nallow = [\"*\"]\n[caps]\nvae_scale = {}\nupscale_model_factor = {}\n{}",
        options.vae_scale,
        options.upscale_model_factor,
        if options.caps { caps } else { "" },
    );
    // It is read in a test. Were it ever not to be, nothing would be learned.
    Policy::from_toml(&text).ok()
}

impl Observations {
    pub(super) fn add(&mut self, sample: &Sample, policy: &Policy, catalogue: &Catalogue) {
        let facts = Facts::of(&sample.parsed.workflow, policy, catalogue, &sample.files);
        let mut steps_total = 0.0;
        for (place, node) in sample.parsed.workflow.indexed() {
            let Some(class) = facts.class_at(place) else { continue };
            self.classes.insert(class.name().to_owned(), class.module().to_owned());
            self.add_literals(node, class);
            self.add_numbers(&facts, node, class);
            self.add_sizes(&facts, place, class);
            if let Some(Some(steps)) = sampling_steps(&facts, node, class) {
                steps_total += float(steps);
                self.raise("steps", float(steps));
            }
        }
        if steps_total > 0.0 {
            self.raise("steps_total", steps_total);
        }
        let count = |count: usize| float(i128::try_from(count).unwrap_or(i128::MAX));
        self.raise("nodes", count(sample.parsed.workflow.nodes().len()));
        self.raise("outputs", count(crate::running_outputs(&sample.parsed, &facts).len()));
    }

    fn add_literals(&mut self, node: &Node, class: &ClassSignature) {
        for (name, input) in &node.inputs {
            let Input::Literal(Json::Text(text)) = input else { continue };
            match class.input_kind(node, name) {
                Some(InputKind::Sampler) => drop(self.samplers.insert(pattern(text))),
                Some(InputKind::Scheduler) => drop(self.schedulers.insert(pattern(text))),
                // What packs write for no model is always allowed.
                Some(InputKind::ModelFile) if **text != *"None" => {
                    let models = self.models.entry(format!("{}.{name}", class.name())).or_default();
                    models.insert(pattern(&text.replace('\\', "/")));
                }
                _ => {}
            }
        }
    }

    fn add_numbers(&mut self, facts: &Facts<'_>, node: &Node, class: &ClassSignature) {
        for (name, signature) in class.inputs_of(node) {
            let Some((lo, hi)) = ends(number(facts, node, name, signature.declared())) else { continue };
            match signature.kind() {
                Some(InputKind::Steps) => self.raise("steps", hi),
                Some(InputKind::Width | InputKind::Height | InputKind::Side) => self.raise("side", hi),
                // ComfyUI's unit is 1024² pixels.
                Some(InputKind::Megapixels) => self.raise("megapixels", hi * 1.048_576),
                Some(InputKind::Batch) => self.raise("batch", hi),
                Some(InputKind::Frames) => self.raise("frames", hi),
                Some(InputKind::Seconds) => self.raise("seconds", hi),
                Some(InputKind::Denoise) if lo > 0.0 => self.lower("denoise_min", lo),
                _ => {}
            }
        }
    }

    fn add_sizes(&mut self, facts: &Facts<'_>, place: NodeIndex, class: &ClassSignature) {
        let slots = 0..class.outputs().len();
        let shapes: Vec<Shape> = slots.filter_map(|slot| facts.slot(Link { target: place, slot })?.shape).collect();
        for shape in shapes {
            self.raise("side", float(shape.width.hi.max(shape.height.hi)));
            self.raise("megapixels", float(shape.area) / 1_000_000.0);
            self.raise("megapixels_total", float(shape.pixels_total()) / 1_000_000.0);
            self.raise("batch", float(shape.batch.hi));
            self.raise("frames", float(shape.frames.hi));
        }
    }
}

fn ends(value: Value) -> Option<(f64, f64)> {
    match value {
        Value::Int(value) => Some((float(value.lo), float(value.hi))),
        Value::Float(value) => Some((value.lo, value.hi)),
        Value::Bool(_) | Value::Unknown => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a cap is far below 2^53, and is checked once it is written")]
fn float(number: i128) -> f64 {
    number as f64
}
