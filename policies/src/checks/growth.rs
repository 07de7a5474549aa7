//! What grows without a size: conditionings that are joined to themselves, and models that are merged with themselves. Both double at each node, so that forty nodes end a ComfyUI whatever the
//! sizes of its pictures are; masks that are grown by so many pixels; and texts, whose encoding takes the square of their length. Like the rules of [`crash`](super::crash) these hold under every policy.
//!
//! Seen on ComfyUI 0.8.0: thirteen `ConditioningConcat` of a conditioning with itself hold 4.9 GB, after one the half of it. `ConditioningCombine` adds lists of them. A merge is a patch that holds
//! all patches of the second model, which are computed anew for each place where they stand (`comfy/lora.py` `calculate_weight`), where no interrupt is looked at.

use std::cell::OnceCell;

use super::{Subject, at, of};
use crate::bounds::interval::ceil;
use crate::bounds::{Facts, Value, chain, input_text_bytes, number, sampling};
use crate::catalogue::{ClassSignature, InputKind, TypeSet};
use crate::policy::Caps;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::graph::links;
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};
use crate::workflow::text::Text;

/// Conditionings that all nodes which join them hold together, of [`UNIT_BYTES`] of text each: some 8 MB with T5, so that this is 33 GB.
const CONDITIONINGS_MAX: i128 = 4096;
/// Bytes of text that make one: some 512 tokens.
const UNIT_BYTES: i128 = 2048;
const UNIT_TOKENS: i128 = 512;
/// The same in one conditioning: where attention is masked (`StyleModelApply`), the mask is as large as their square.
const UNITS_MAX: i128 = 64;
/// What `StyleModelApply` adds for each picture: 729 tokens.
const UNITS_A_PICTURE: i128 = 2;
/// No octree is finer than ComfyUI 0.8.0 takes it, by far.
const OCTREE_MAX: i128 = 16_384;
/// Numbers of 32 bits in the grids of voxels that one node makes: 51 GB.
const VOXELS_MAX: i128 = (1 << 32) * 3;
/// Models that all merges together have to compute. One takes seconds.
const MERGED_MAX: i128 = 2048;

/// Bytes of a text that goes to a text encoder, each of which may be a token. T5 takes 14 GB for 6000 tokens and the square of that for more: 58 GB for these (measured on ComfyUI 0.8.0, whose tokenizers for it cut
/// nothing off). The longest of 760 published workflows has 8398.
const ENCODED_BYTES_MAX: i128 = 12 * 1024;

/// Pixels that are looked at one by one again and again, in all nodes. One takes 12 ns (`GrowMask` of ComfyUI 0.8.0), so that these take an hour, in which nothing interrupts a node.
const REPEATED_PIXELS_MAX: i128 = 1 << 38;

/// Where nobody knows how often.
const REPEATS_UNKNOWN: i128 = 16_384;

/// Passes of the model in one step, under a cap on steps: two are usual, and one more for each region of a picture.
const PASSES_MAX: i128 = 64;
/// ComfyUI's own classes that add passes over all conditionings of a prompt to each step, and do so anew at each of their nodes (`set_model_sampler_post_cfg_function`).
const ADD_PASSES: [&str; 6] = [
    "LTXVModalityGuidance",
    "PerpNeg",
    "PerturbedAttentionGuidance",
    "SelfAttentionGuidance",
    "SkipLayerGuidanceDiT",
    "SkipLayerGuidanceSD3",
];
/// ControlNets that take as long as one pass.
const CONTROLS_A_PASS: i128 = 2;

/// What comes out of a node.
#[derive(Clone, Copy)]
struct Grown {
    /// Conditionings in its list.
    entries: i128,
    /// Units of text in the longest of them.
    units: i128,
    /// Models that its patches are computed of.
    patches: i128,
    /// Passes that patches of a model add for each conditioning.
    added: i128,
    /// ControlNets on the way.
    controls: i128,
    /// Whether it is longer than [`UNITS_MAX`] at this node first.
    grew_here: bool,
}

impl Grown {
    const PLAIN: Self = Self { entries: 1, units: 1, patches: 0, added: 0, controls: 0, grew_here: false };

    fn conditionings(self) -> i128 {
        self.entries.saturating_mul(self.units)
    }
}

/// How a node puts what comes in together.
#[derive(Clone, Copy, PartialEq)]
enum Joins {
    /// Lists of conditionings one after the other, in so many outputs.
    Lists(usize),
    /// The first list, each of whose conditionings is as long as before and the second's together.
    Lengths,
    Models(TypeSet),
    Nothing,
}

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let uncapped = subject.policy.caps.without_limits();
    let caps = if out.is_empty() { None } else { Some(&uncapped) };
    let sizes = Sizes { facts: &subject.facts, caps, uncut: OnceCell::new(), padding: padding(subject) };
    encoded_texts(subject, out);
    joined(subject, &sizes, out);
    repeated(subject, &sizes, out);
    voxels(subject, &sizes, out);
}

/// Sizes as they are: what was found beyond a cap was cut to it, and shadow mode lets it through.
struct Sizes<'s> {
    facts: &'s Facts<'s>,
    /// None where nothing was found.
    caps: Option<&'s Caps>,
    uncut: OnceCell<Facts<'s>>,
    /// Units that every text has at least.
    padding: i128,
}

impl<'s> Sizes<'s> {
    fn facts(&self) -> &Facts<'s> {
        match self.caps {
            Some(caps) => self.uncut.get_or_init(|| self.facts.under(caps)),
            None => self.facts,
        }
    }
}

/// Texts that go to an encoder of the backend's own. Of one that a pack makes nothing is known.
fn encoded_texts(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    // Made only for texts that may be too long.
    let in_tokens = OnceCell::new();
    for (_, node, class) in subject.known() {
        if !class.is_core() || !class.may_have(InputKind::PromptText) {
            continue;
        }
        if links_of(&subject.facts, node, TypeSet::CLIP).next().is_none() {
            continue;
        }
        for (name, _) in prompts(node, class) {
            let is_long = |bytes: &i128| *bytes > ENCODED_BYTES_MAX;
            if input_text_bytes(&subject.facts, node, name).filter(is_long).is_none() {
                continue;
            }
            let facts = in_tokens.get_or_init(|| subject.facts.in_tokens());
            // What is known word for word may be shorter.
            let bytes = written_bytes(subject, node, name).or_else(|| input_text_bytes(facts, node, name));
            out.extend(bytes.filter(is_long).map(|bytes| too_long(subject, node, name, bytes)));
        }
    }
}

fn too_long(subject: &Subject<'_>, node: &Node, name: &str, bytes: i128) -> Violation {
    let message = format!(
        "a text encoder takes the square of a text in memory: this one may have {bytes} bytes, and no more than {ENCODED_BYTES_MAX} leave a ComfyUI running; write less, or encode it in parts and concatenate these"
    );
    let (bound, limit) = (Some(bytes.to_string()), Some(ENCODED_BYTES_MAX.to_string()));
    let chain = chain(&subject.facts, node, name);
    Violation { bound, limit, chain, ..at(node, name, "prompt_too_long", ViolationKind::Denied, message) }
}

fn written_bytes(subject: &Subject<'_>, node: &Node, name: &str) -> Option<i128> {
    let texts = subject.possible_texts().at(node, name)?;
    i128::try_from(texts.iter().map(String::len).max()?).ok()
}

/// The inputs of a node whose text goes to a text encoder.
fn prompts<'a>(node: &'a Node, class: &'a ClassSignature) -> impl Iterator<Item = &'a (Text, Input)> {
    let inputs = if class.may_have(InputKind::PromptText) { node.inputs.as_slice() } else { &[] };
    inputs.iter().filter(|(name, _)| class.input_kind(node, name) == Some(InputKind::PromptText))
}

/// Slow things that are done to whole pictures, so many times over.
fn repeated(subject: &Subject<'_>, sizes: &Sizes<'_>, out: &mut Vec<Violation>) {
    let repeating = |class: &ClassSignature| class.may_have(InputKind::Repeats) && !subject.policy.trusts(class);
    if !subject.known().any(|(_, _, class)| repeating(class)) {
        return;
    }
    let facts = sizes.facts();
    let mut total = Total::of(REPEATED_PIXELS_MAX);
    for (place, node, class) in subject.known().filter(|(_, _, class)| repeating(class)) {
        // The largest of its pictures, as it may be a mask beside one.
        let shapes = facts.slots_at(place).iter().filter_map(|slot| slot.shape);
        let Some(shape) = shapes.max_by_key(|shape| shape.pixels_total()) else { continue };
        let times = times_over(facts, node, class, shape.count().hi).saturating_mul(facts.runs(node, class).max(1));
        let pixels = shape.pixels_total().saturating_mul(times);
        let message = "masks are grown pixel by pixel for hours, and nothing interrupts it";
        out.extend(total.add(node, pixels, "repeats_exceeded", message));
    }
}

/// How often it is done to the last of so many pictures. A whole number is for all of them; a rate (FLOAT) is added at each.
fn times_over(facts: &Facts<'_>, node: &Node, class: &ClassSignature, pictures: i128) -> i128 {
    let repeats =
        class.inputs_of(node).into_iter().filter(|(_, signature)| signature.kind() == Some(InputKind::Repeats));
    let times = repeats.map(|(name, signature)| match number(facts, node, name, signature.declared()) {
        Value::Int(times) => times.lo.saturating_abs().max(times.hi.saturating_abs()),
        Value::Float(rate) => ceil(rate.lo.abs().max(rate.hi.abs())).saturating_mul(pictures),
        // Where caps ask for it that is refused; without them it is as much as GrowMask takes.
        Value::Bool(_) | Value::Unknown => REPEATS_UNKNOWN,
    });
    sum(times)
}

fn joined(subject: &Subject<'_>, sizes: &Sizes<'_>, out: &mut Vec<Violation>) {
    let mut grown = vec![Grown::PLAIN; subject.parsed.workflow.nodes().len()];
    let (mut conditionings, mut merged) = (Total::of(CONDITIONINGS_MAX), Total::of(MERGED_MAX));
    for (place, node) in subject.parsed.workflow.sources_first() {
        let class = subject.facts.class_at(place);
        let judged = class.filter(|class| !subject.policy.trusts(class));
        let join = judged.map_or(Joins::Nothing, |class| joins(&subject.facts, node, class));
        let made = grow(&subject.facts, sizes, node, class, join, &grown);
        out.extend(class.and_then(|class| passes(subject, node, class, &grown)));
        if let Some(known) = grown.get_mut(place.number()) {
            *known = made;
        }
        let gives_some = class.is_some_and(|class| gives(class, TypeSet::CONDITIONING) > 0);
        if join == Joins::Lengths || gives_some && made.entries > 1 {
            let message = "conditionings that are joined again and again fill the memory";
            out.extend(conditionings.add(node, made.conditionings(), "conditioning_exceeded", message));
        }
        // Told of the first.
        if made.units > UNITS_MAX && join == Joins::Lengths && made.grew_here {
            out.push(too_many_units(node, made.units));
        }
        if matches!(join, Joins::Models(_)) {
            let message = "models that are merged again and again are computed for hours, and nothing interrupts it";
            out.extend(merged.add(node, made.patches, "merge_exceeded", message));
        }
    }
}

/// Each step of a sampler, or of what guides one, evaluates every conditioning, as often as patches of the model say, and its ControlNets with it.
fn passes(subject: &Subject<'_>, node: &Node, class: &ClassSignature, grown: &[Grown]) -> Option<Violation> {
    let facts = &subject.facts;
    if !subject.policy.caps.limits_steps() || subject.policy.trusts(class) {
        return None;
    }
    if gives(class, TypeSet::GUIDER) == 0 && sampling(facts, node, class).is_none() {
        return None;
    }
    let known = |link: Link| grown.get(link.target.number()).copied().unwrap_or(Grown::PLAIN);
    let added = links_of(facts, node, TypeSet::MODEL).map(|link| known(link).added).max().unwrap_or(0);
    let of_one = |of: Grown| {
        let each = added.saturating_add(of.controls.div_euclid(CONTROLS_A_PASS)).saturating_add(1);
        of.entries.saturating_mul(each)
    };
    let passes = sum(links_of(facts, node, TypeSet::CONDITIONING).map(|link| of_one(known(link))));
    if passes <= PASSES_MAX {
        return None;
    }
    let message = format!(
        "each step evaluates the model up to {passes} times, and {PASSES_MAX} are allowed where steps are capped: combine fewer conditionings, or patch the model less often"
    );
    let (bound, limit) = (Some(passes.to_string()), Some(PASSES_MAX.to_string()));
    Some(Violation { bound, limit, ..of(node, "passes_exceeded", ViolationKind::Denied, message) })
}

fn too_many_units(node: &Node, units: i128) -> Violation {
    let message = format!(
        "makes a conditioning as long as {units} texts of {UNIT_BYTES} bytes, and no more than {UNITS_MAX} leave a ComfyUI running: concatenate less"
    );
    let (bound, limit) = (Some(units.to_string()), Some(UNITS_MAX.to_string()));
    Violation { bound, limit, ..of(node, "conditioning_exceeded", ViolationKind::Denied, message) }
}

/// Cubes of numbers, one for each latent (`VAEDecodeHunyuan3D`); nothing else follows their size.
fn voxels(subject: &Subject<'_>, sizes: &Sizes<'_>, out: &mut Vec<Violation>) {
    let makes = |class: &ClassSignature| class.is_core() && class.name() == "VAEDecodeHunyuan3D";
    for (_, node, class) in subject.known().filter(|(_, _, class)| makes(class)) {
        let Some(input) = class.input(node, "octree_resolution") else { continue };
        let side = match number(&subject.facts, node, "octree_resolution", input.declared()) {
            Value::Int(side) => side.hi.clamp(0, OCTREE_MAX).saturating_add(1),
            _ => OCTREE_MAX,
        };
        let latents =
            links_of(&subject.facts, node, TypeSet::LATENT).filter_map(|link| sizes.facts().slot(link)?.shape);
        let batch = latents.map(|shape| shape.count().hi).max().unwrap_or(1);
        let voxels = side.saturating_mul(side).saturating_mul(side).saturating_mul(batch);
        if voxels > VOXELS_MAX {
            let message =
                format!("may make {voxels} voxels at once, and no more than {VOXELS_MAX} leave a ComfyUI running");
            let (bound, limit) = (Some(voxels.to_string()), Some(VOXELS_MAX.to_string()));
            out.push(Violation { bound, limit, ..of(node, "memory_exceeded", ViolationKind::Denied, message) });
        }
    }
}

/// A sum over nodes, with its limit.
struct Total {
    sum: i128,
    limit: i128,
}

impl Total {
    fn of(limit: i128) -> Self {
        Self { sum: 0, limit }
    }

    /// A violation of the node that goes beyond the limit first.
    fn add(&mut self, node: &Node, more: i128, code: &'static str, what: &str) -> Option<Violation> {
        let before = self.sum;
        self.sum = self.sum.saturating_add(more);
        if before > self.limit || self.sum <= self.limit {
            return None;
        }
        let message = format!(
            "{what}: up to here {} are counted, and no more than {} leave a ComfyUI running",
            self.sum, self.limit
        );
        let (bound, limit) = (Some(self.sum.to_string()), Some(self.limit.to_string()));
        Some(Violation { bound, limit, ..of(node, code, ViolationKind::Denied, message) })
    }
}

/// Whether `kind` comes by this link, or what nobody knows.
fn carries(facts: &Facts<'_>, link: Link, kind: TypeSet) -> bool {
    facts.slot(link).is_some_and(|slot| slot.type_set.meets(kind.and(TypeSet::ANY)))
}

fn links_of<'a>(facts: &'a Facts<'_>, node: &'a Node, kind: TypeSet) -> impl Iterator<Item = Link> + 'a {
    links(node).filter(move |link| carries(facts, *link, kind))
}

/// ComfyUI's own classes are known by these names; one of a pack is judged likewise.
fn joins(facts: &Facts<'_>, node: &Node, class: &ClassSignature) -> Joins {
    let named =
        |word: &str| class.name().as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()));
    let outputs = gives(class, TypeSet::CONDITIONING);
    if outputs > 0 && (named("concat") || named("stylemodelapply")) {
        return Joins::Lengths;
    }
    if outputs > 0 && named("combine") {
        return Joins::Lists(outputs);
    }
    let merges = |kind: &TypeSet| gives(class, *kind) > 0 && links_of(facts, node, *kind).nth(1).is_some();
    let merged = [TypeSet::MODEL, TypeSet::CLIP].into_iter().find(merges).filter(|_| !named("switch"));
    merged.map_or(Joins::Nothing, Joins::Models)
}

/// In how many outputs `kind` comes.
fn gives(class: &ClassSignature, kind: TypeSet) -> usize {
    (0..class.outputs().len()).filter(|slot| class.output_types(*slot).meets(kind)).count()
}

fn grow(
    facts: &Facts<'_>,
    sizes: &Sizes<'_>,
    node: &Node,
    class: Option<&ClassSignature>,
    join: Joins,
    grown: &[Grown],
) -> Grown {
    let known = |link: Link| grown.get(link.target.number()).copied().unwrap_or(Grown::PLAIN);
    let largest = |a: Grown, b: Grown| Grown {
        entries: a.entries.max(b.entries),
        units: a.units.max(b.units),
        patches: a.patches.max(b.patches),
        added: a.added.max(b.added),
        controls: a.controls.max(b.controls),
        grew_here: false,
    };
    let mut out = links(node).map(known).fold(Grown::PLAIN, largest);
    let all = |kind: TypeSet, part: fn(Grown) -> i128| sum(links_of(facts, node, kind).map(|link| part(known(link))));
    match join {
        Joins::Lists(1) => out.entries = all(TypeSet::CONDITIONING, |of| of.entries),
        Joins::Lists(_) => out.entries = pairs(facts, node, |link| known(link).entries),
        Joins::Lengths => {
            let before = out.units;
            // A style model's tokens are those of its pictures.
            out.units = sum(links(node).map(|link| known(link).units));
            out.grew_here = before <= UNITS_MAX;
        }
        // The first model itself is not patched onto anything.
        Joins::Models(kind) => out.patches = all(kind, |of| of.patches.saturating_add(1)).saturating_sub(1),
        Joins::Nothing => {}
    }
    let Some(class) = class else { return out };
    // What gives no conditionings hands none on.
    let handing = TypeSet::CONDITIONING.and(TypeSet::ANY).and(TypeSet::OTHER);
    if gives(class, handing) == 0 {
        out = Grown { entries: 1, units: 1, controls: 0, ..out };
    }
    out.units = out.units.max(text_units(facts, node, class, sizes.padding));
    if class.is_core() && class.name() == "CLIPVisionEncode" {
        let pictures =
            links(node).filter_map(|link| sizes.facts().slot(link)?.shape).map(|shape| shape.count().hi).max();
        out.units = out.units.max(pictures.unwrap_or(1).saturating_mul(UNITS_A_PICTURE));
    }
    let patches = class.may_have(InputKind::ModelFile) && links(node).next().is_some();
    out.patches = out.patches.saturating_add(i128::from(patches));
    out.added = out.added.saturating_add(i128::from(class.is_core() && ADD_PASSES.contains(&class.name())));
    let controls =
        links_of(facts, node, TypeSet::CONTROL_NET).next().is_some() && gives(class, TypeSet::CONDITIONING) > 0;
    out.controls = out.controls.saturating_add(i128::from(controls));
    out
}

/// Entries of the longer list of two: of what is called positive, and of what is called negative. Anything else may go to both.
fn pairs(facts: &Facts<'_>, node: &Node, entries: impl Fn(Link) -> i128) -> i128 {
    let (mut positive, mut negative): (i128, i128) = (0, 0);
    for (name, input) in &node.inputs {
        let Input::Link(link) = input else { continue };
        if !carries(facts, *link, TypeSet::CONDITIONING) {
            continue;
        }
        let more = entries(*link);
        if !name.starts_with("negative") {
            positive = positive.saturating_add(more);
        }
        if !name.starts_with("positive") {
            negative = negative.saturating_add(more);
        }
    }
    positive.max(negative).max(1)
}

/// Units of all texts that a node encodes. One whose length nobody knows counts as one unit.
fn text_units(facts: &Facts<'_>, node: &Node, class: &ClassSignature, padding: i128) -> i128 {
    let mut texts = prompts(node, class).peekable();
    if texts.peek().is_none() {
        return 1;
    }
    let bytes = sum(texts.map(|(name, _)| input_text_bytes(facts, node, name).unwrap_or(0)));
    bytes.div_euclid(UNIT_BYTES).saturating_add(1).max(padding)
}

/// `T5TokenizerOptions` makes every text as many tokens long as it says, at least.
fn padding(subject: &Subject<'_>) -> i128 {
    let options = subject.known().filter(|(_, _, class)| class.is_core() && class.name() == "T5TokenizerOptions");
    let tokens = options.flat_map(|(_, node, class)| {
        ["min_padding", "min_length"].into_iter().filter_map(move |name| {
            match number(&subject.facts, node, name, class.input(node, name)?.declared()) {
                Value::Int(tokens) => Some(tokens.hi),
                _ => None,
            }
        })
    });
    tokens.max().unwrap_or(0).div_euclid(UNIT_TOKENS).saturating_add(1)
}

/// At least one, and never beyond what a number holds.
fn sum(numbers: impl Iterator<Item = i128>) -> i128 {
    numbers.fold(0, i128::saturating_add).max(1)
}
