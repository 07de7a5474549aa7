//! Random graphs over a catalogue: for property tests, for fuzz targets and for runs against a real ComfyUI.
//!
//! Every choice comes from [`Choices`], which reads a seed or a fuzzer's bytes: the same source always gives the same graph. Graphs are typed: a socket is linked to an output of a
//! type that fits, dynamic inputs are opened, literals lie in their declared range, often at its edges. [`Profile::broken`] breaks some of that on purpose.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::catalogue::{Catalogue, ClassSignature, DeclaredType, InputKind, InputSignature, Presence};

/// Bound of what one input may open: rows and nested choices.
const ROW_ITEMS_MAX: usize = 4;
/// Nodes that one missing source may bring, one below the other.
const SOURCE_DEPTH_MAX: usize = 3;

/// A stream of choices: bytes first, then either zeros or the numbers of a seed.
#[derive(Debug, Clone)]
pub struct Choices<'a> {
    bytes: &'a [u8],
    state: Option<u64>,
}

impl Choices<'static> {
    /// Endless choices that follow from `seed` (SplitMix64).
    pub fn seeded(seed: u64) -> Self {
        Self { bytes: &[], state: Some(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d) }
    }
}

impl<'a> Choices<'a> {
    /// Choices from a fuzzer's bytes; zeros after them.
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Self { bytes, state: None }
    }

    fn take(&mut self, count: usize) -> u64 {
        if let Some(state) = &mut self.state {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            return z ^ (z >> 31);
        }
        let (now, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        now.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    }

    /// A number from 0 to `count` − 1; 0 where there is no choice.
    pub fn below(&mut self, count: usize) -> usize {
        if count < 2 {
            return 0;
        }
        let bytes = if count <= 0x100 { 1 } else { 2 };
        let count_wide = u64::try_from(count).unwrap_or(u64::MAX);
        usize::try_from(self.take(bytes) % count_wide).unwrap_or(0)
    }

    /// True so many times of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        // Zeros, which a fuzzer's input ends with, choose the plain case.
        self.below(100) >= 100_usize.saturating_sub(percent)
    }

    /// One of `from`; none if there is none.
    pub fn one<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).copied()
    }

    /// Whether a fuzzer's bytes are used up.
    pub fn is_spent(&self) -> bool {
        self.state.is_none() && self.bytes.is_empty()
    }
}

/// What an input of a generated node is given.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// Any JSON, mostly a literal of the declared type.
    Literal(Value),
    /// An output of an earlier node: its place in [`Graph::nodes`], and the slot.
    Link(usize, usize),
}

/// A generated node.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphNode {
    /// Its class.
    pub class: String,
    /// Its inputs by full name.
    pub inputs: Vec<(String, Given)>,
    /// The types of its outputs as they will be at run time.
    pub outputs: Vec<String>,
}

impl GraphNode {
    /// What the input `name` is given.
    pub fn input(&self, name: &str) -> Option<&Given> {
        self.inputs.iter().find(|(key, _)| key == name).map(|(_, given)| given)
    }
}

/// A generated graph: links lead to earlier nodes only. Node `n` has the id `n + 1`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    /// The nodes, sources first.
    pub nodes: Vec<GraphNode>,
}

impl Graph {
    /// The graph in ComfyUI's API format.
    pub fn prompt(&self) -> Value {
        let mut out = Map::new();
        for (place, node) in self.nodes.iter().enumerate() {
            let inputs: Map<String, Value> =
                node.inputs.iter().map(|(name, given)| (name.clone(), given_json(given))).collect();
            out.insert(id(place), json!({ "class_type": node.class, "inputs": inputs }));
        }
        Value::Object(out)
    }

    /// The body of a `POST /prompt`.
    pub fn body(&self) -> Vec<u8> {
        json!({ "prompt": self.prompt() }).to_string().into_bytes()
    }

    /// The graph that is left of this one when only `place` and what feeds it are kept, with a preview of `slot`: the smallest in which a fault at that output still shows.
    pub fn reduced_to(&self, place: usize, slot: usize) -> Self {
        let mut kept = vec![false; self.nodes.len()];
        if let Some(mark) = kept.get_mut(place) {
            *mark = true;
        }
        for (at, node) in self.nodes.iter().enumerate().rev() {
            if kept.get(at) != Some(&true) {
                continue;
            }
            for (_, given) in &node.inputs {
                if let Given::Link(to, _) = given
                    && let Some(mark) = kept.get_mut(*to)
                {
                    *mark = true;
                }
            }
        }
        let mut renamed = BTreeMap::new();
        let mut out = Self::default();
        for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| kept.get(*at) == Some(&true)) {
            renamed.insert(at, out.nodes.len());
            let mut node = node.clone();
            for (_, given) in &mut node.inputs {
                if let Given::Link(to, _) = given {
                    *to = renamed.get(to).copied().unwrap_or_default();
                }
            }
            out.nodes.push(node);
        }
        if let Some(place) = renamed.get(&place) {
            out.preview(*place, slot);
        }
        out
    }

    /// Adds an output node that takes any type.
    pub fn preview(&mut self, place: usize, slot: usize) {
        self.nodes.push(GraphNode {
            class: "PreviewAny".to_owned(),
            inputs: vec![("source".to_owned(), Given::Link(place, slot))],
            outputs: Vec::new(),
        });
    }
}

/// The id of the node at `place` in [`Graph::nodes`].
pub fn id(place: usize) -> String {
    (place + 1).to_string()
}

fn given_json(given: &Given) -> Value {
    match given {
        Given::Literal(value) => value.clone(),
        Given::Link(place, slot) => json!([id(*place), slot]),
    }
}

/// What graphs to make.
#[derive(Debug, Clone)]
pub struct Profile<'a> {
    /// The catalogue that declares the classes.
    pub catalogue: &'a Catalogue,
    /// The classes to choose from.
    pub classes: Vec<&'a ClassSignature>,
    /// Nodes, sources and previews not counted.
    pub nodes_max: usize,
    /// Sizes are mostly drawn up to here.
    pub side_max: usize,
    /// Counts (batches, frames, repetitions) are mostly drawn up to here.
    pub count_max: usize,
    /// Percent of numbers that lie at the edges of their declared range, however large.
    pub edges: usize,
    /// Percent of inputs that are wrong on purpose.
    pub broken: usize,
    /// Names for inputs that take files.
    pub files: &'a [&'a str],
    /// Names for inputs that take models.
    pub models: &'a [&'a str],
    /// Literals that are used instead of random ones: class, input, choices. `*` is any class.
    pub fixed: &'a [(&'a str, &'a str, &'a [f64])],
    /// Whether unused outputs end in a PreviewAny, which takes any type, or only pictures do, in a PreviewImage.
    pub previews_any: bool,
}

impl<'a> Profile<'a> {
    /// The classes of `names` that `catalogue` knows.
    pub fn of(catalogue: &'a Catalogue, names: &[&str]) -> Self {
        Self {
            catalogue,
            classes: names.iter().filter_map(|name| catalogue.class(name)).collect(),
            nodes_max: 10,
            side_max: 600,
            count_max: 5,
            edges: 4,
            broken: 0,
            files: &["picture.png"],
            models: &["model.safetensors"],
            fixed: &[],
            previews_any: true,
        }
    }
}

/// A random graph. It has at least one node, and an output node on what nothing else uses.
pub fn graph(choices: &mut Choices<'_>, profile: &Profile<'_>) -> Graph {
    let mut maker = Maker { choices, profile, graph: Graph::default() };
    let count = 1 + maker.choices.below(profile.nodes_max.max(1));
    for _ in 0..count {
        let Some(class) = maker.choices.one(&profile.classes) else { break };
        maker.node(class, 0);
        // A node of the same class once more makes chains and doublings likely.
        if maker.choices.chance(15) {
            maker.node(class, 0);
        }
        if maker.choices.is_spent() {
            break;
        }
    }
    maker.preview_the_unused();
    maker.graph
}

struct Maker<'m, 'c, 'p> {
    choices: &'m mut Choices<'c>,
    profile: &'p Profile<'p>,
    graph: Graph,
}

impl<'p> Maker<'_, '_, 'p> {
    /// Adds a node of `class`, with sources for what nothing gives yet. Gives its place, or none if a socket can't be fed.
    fn node(&mut self, class: &'p ClassSignature, depth: usize) -> Option<usize> {
        let mut inputs = Vec::new();
        let mut templates: BTreeMap<String, String> = BTreeMap::new();
        self.fill(class, class.inputs(), "", depth, &mut templates, &mut inputs)?;
        let outputs = class
            .outputs()
            .iter()
            .map(|output| match output.template() {
                Some(template) => templates.get(template).cloned().unwrap_or_else(|| "*".to_owned()),
                None => output.type_name().to_owned(),
            })
            .collect();
        if self.choices.chance(self.profile.broken) {
            self.break_inputs(&mut inputs);
        }
        self.graph.nodes.push(GraphNode { class: class.name().to_owned(), inputs, outputs });
        Some(self.graph.nodes.len() - 1)
    }

    fn fill(
        &mut self,
        class: &'p ClassSignature,
        declared: &'p [InputSignature],
        prefix: &str,
        depth: usize,
        templates: &mut BTreeMap<String, String>,
        inputs: &mut Vec<(String, Given)>,
    ) -> Option<()> {
        for input in declared {
            if input.presence() == Presence::Optional && self.choices.chance(50) {
                continue;
            }
            let full = format!("{prefix}{}", input.name());
            match input.declared() {
                DeclaredType::DynamicCombo(options) => {
                    let (key, nested) = options.get(self.choices.below(options.len()))?;
                    inputs.push((full.clone(), Given::Literal(json!(key))));
                    if depth <= SOURCE_DEPTH_MAX {
                        self.fill(class, nested, &format!("{full}."), depth + 1, templates, inputs)?;
                    }
                }
                DeclaredType::Autogrow { names, min, item } => {
                    let most = names.len().min(min + ROW_ITEMS_MAX);
                    let count = min + self.choices.below(most.saturating_sub(*min) + 1);
                    for name in names.iter().take(count) {
                        let given = self.given(class, &full, item, depth, templates)?;
                        inputs.push((format!("{full}.{name}"), given));
                    }
                }
                _ => match self.given(class, &full, input, depth, templates) {
                    Some(given) => inputs.push((full, given)),
                    None if input.presence() == Presence::Optional => {}
                    None => return None,
                },
            }
        }
        Some(())
    }

    fn given(
        &mut self,
        class: &'p ClassSignature,
        name: &str,
        input: &'p InputSignature,
        depth: usize,
        templates: &mut BTreeMap<String, String>,
    ) -> Option<Given> {
        let literal = |value: Value| Some(Given::Literal(value));
        if let Some(value) = self.fixed(class.name(), name, input.declared()) {
            return literal(value);
        }
        match input.declared() {
            DeclaredType::Int { min, max, default } => match self.linked("INT", 25, depth) {
                Some(link) => Some(link),
                None => literal(self.int(input.kind(), *min, *max, *default)),
            },
            DeclaredType::Float { min, max, default } => match self.linked("FLOAT", 20, depth) {
                Some(link) => Some(link),
                None => literal(self.float(*min, *max, *default)),
            },
            DeclaredType::Boolean => match self.linked("BOOLEAN", 20, depth) {
                Some(link) => Some(link),
                None => literal(json!(self.choices.chance(50))),
            },
            DeclaredType::Text => match (input.kind(), self.linked("STRING", 20, depth)) {
                (Some(InputKind::SavePrefix | InputKind::File), _) | (_, None) => literal(self.text(input.kind())),
                (_, Some(link)) => Some(link),
            },
            DeclaredType::Combo(options) => literal(self.choice(input.kind(), options)),
            DeclaredType::Any => match self.any() {
                Some((place, slot)) => Some(Given::Link(place, slot)),
                None => literal(json!("text")),
            },
            DeclaredType::Socket(types) => {
                let wanted = types.get(self.choices.below(types.len()))?.clone();
                self.socket(&wanted, depth)
            }
            DeclaredType::Match { template, allowed } => {
                let wanted = match templates.get(template) {
                    Some(known) => known.clone(),
                    None => self.some_type(allowed)?,
                };
                templates.insert(template.clone(), wanted.clone());
                self.socket(&wanted, depth)
            }
            DeclaredType::DynamicCombo(_) | DeclaredType::Autogrow { .. } => None,
        }
    }

    fn fixed(&mut self, class: &str, name: &str, declared: &DeclaredType) -> Option<Value> {
        let fits = |(of, input, _): &&(&str, &str, &[f64])| (*of == class || *of == "*") && *input == name;
        let (_, _, values) = self.profile.fixed.iter().find(fits)?;
        let value = self.choices.one(values)?;
        #[expect(clippy::cast_possible_truncation, reason = "test values, whole numbers for whole inputs")]
        match declared {
            DeclaredType::Int { .. } => Some(json!(value as i64)),
            _ => Some(json!(value)),
        }
    }

    /// A link to a value of this type, so many times of a hundred; sometimes a new primitive is made for it.
    fn linked(&mut self, type_name: &str, percent: usize, depth: usize) -> Option<Given> {
        if depth >= SOURCE_DEPTH_MAX || !self.choices.chance(percent) {
            return None;
        }
        match self.slot(type_name) {
            Some((place, slot)) => Some(Given::Link(place, slot)),
            None => self.made(type_name, depth),
        }
    }

    fn socket(&mut self, type_name: &str, depth: usize) -> Option<Given> {
        let fresh = depth < SOURCE_DEPTH_MAX && self.choices.chance(15);
        match self.slot(type_name).filter(|_| !fresh) {
            Some((place, slot)) => Some(Given::Link(place, slot)),
            None => self.made(type_name, depth),
        }
    }

    /// An existing output of this type; the latest ones most often, so that chains grow.
    fn slot(&mut self, type_name: &str) -> Option<(usize, usize)> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (place, node) in self.graph.nodes.iter().enumerate() {
            let fits = |offered: &str| type_name == "*" || offered == type_name;
            found.extend(
                node.outputs.iter().enumerate().filter(|(_, offered)| fits(offered)).map(|(slot, _)| (place, slot)),
            );
        }
        if found.len() > 3 && !self.choices.chance(40) {
            found = found.split_off(found.len() - 3);
        }
        found.get(self.choices.below(found.len())).copied()
    }

    fn any(&mut self) -> Option<(usize, usize)> {
        self.slot("*")
    }

    /// A new node that gives this type.
    fn made(&mut self, type_name: &str, depth: usize) -> Option<Given> {
        if depth >= SOURCE_DEPTH_MAX {
            return None;
        }
        // Those without sockets of their own first: they always work.
        let gives = |class: &&&'p ClassSignature| class.outputs().iter().any(|output| output.type_name() == type_name);
        let plain = |class: &&&'p ClassSignature| !class.inputs().iter().any(needs_a_link);
        let all: Vec<&'p ClassSignature> = self.profile.classes.iter().filter(gives).copied().collect();
        let sources: Vec<&'p ClassSignature> = all.iter().filter(plain).copied().collect();
        let class = match self.choices.one(&sources).or(self.choices.one(&all)) {
            Some(class) => class,
            None => self.profile.catalogue.class(default_source(type_name)?)?,
        };
        let place = self.node(class, depth + 1)?;
        let node = self.graph.nodes.get(place)?;
        let slot = node.outputs.iter().position(|offered| offered == type_name)?;
        Some(Given::Link(place, slot))
    }

    /// A type that some output has already, among `allowed`.
    fn some_type(&mut self, allowed: &[String]) -> Option<String> {
        let known: Vec<String> = self
            .graph
            .nodes
            .iter()
            .flat_map(|node| node.outputs.iter())
            .filter(|name| *name != "*" && (allowed.is_empty() || allowed.contains(name)))
            .cloned()
            .collect();
        let pick = self.choices.below(known.len() + 1);
        known
            .get(pick)
            .cloned()
            .or_else(|| allowed.get(self.choices.below(allowed.len())).cloned())
            .or_else(|| self.choices.one(&["IMAGE", "INT", "MASK", "LATENT", "FLOAT"]).map(str::to_owned))
    }

    fn int(&mut self, kind: Option<InputKind>, min: Option<i128>, max: Option<i128>, default: Option<i128>) -> Value {
        let (low, high) = (min.unwrap_or(-100), max.unwrap_or(1 << 31));
        let clamp = |value: i128| json!(i64::try_from(value.clamp(low, high)).unwrap_or(i64::MAX));
        if self.choices.chance(self.profile.edges) {
            return clamp(self.choices.one(&[high, low, high - 1, low + 1, high / 2]).unwrap_or(low));
        }
        let most = match kind {
            Some(InputKind::Batch | InputKind::Frames) => self.profile.count_max,
            _ => self.profile.side_max,
        };
        match self.choices.below(12) {
            0 => clamp(default.unwrap_or(low)),
            1..=3 => clamp(self.choices.one(&[0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 128]).unwrap_or(0)),
            4 => clamp(low),
            _ => clamp(low.max(-8) + i128::try_from(self.choices.below(most + 1)).unwrap_or(0)),
        }
    }

    fn float(&mut self, min: Option<f64>, max: Option<f64>, default: Option<f64>) -> Value {
        let (low, high) = (min.unwrap_or(-10.0), max.unwrap_or(1000.0));
        let value = if self.choices.chance(self.profile.edges) {
            self.choices.one(&[high, low]).unwrap_or(low)
        } else {
            match self.choices.below(8) {
                0 => default.unwrap_or(low),
                1..=4 => self.choices.one(&[0.0, 0.01, 0.1, 1.0 / 3.0, 0.5, 0.999, 1.0, 1.5, 2.0, 3.3]).unwrap_or(1.0),
                _ => f64::from(u16::try_from(self.choices.below(3000)).unwrap_or(1000)) / 1000.0,
            }
        };
        json!(value.clamp(low, high.max(low)))
    }

    fn text(&mut self, kind: Option<InputKind>) -> Value {
        let choices: &[&str] = match kind {
            Some(InputKind::SavePrefix) => &["x", "a/b", "ComfyUI"],
            Some(InputKind::SigmasText) => &["1, 0.5, 0", "", "3 2 1 0", "14.6, 7.1e2, .5", "1..2-3", "0"],
            Some(InputKind::File) => self.profile.files,
            _ => &[
                "",
                "a",
                "äöü 中",
                "one two three",
                "1, 0.5, 0",
                "ABCdef",
                "  trim me  ",
                "ß",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ],
        };
        json!(self.choices.one(choices).unwrap_or("text"))
    }

    fn choice(&mut self, kind: Option<InputKind>, options: &[Value]) -> Value {
        match kind {
            Some(InputKind::File) => json!(self.choices.one(self.profile.files).unwrap_or("picture.png")),
            Some(InputKind::ModelFile) => json!(self.choices.one(self.profile.models).unwrap_or("model")),
            _ => options.get(self.choices.below(options.len())).cloned().unwrap_or_else(|| json!("model")),
        }
    }

    /// Makes one input wrong: of another type, out of range, missing, undeclared, linked to what does not fit.
    fn break_inputs(&mut self, inputs: &mut Vec<(String, Given)>) {
        let place = self.choices.below(inputs.len());
        let wrong = [
            json!(null),
            json!("64"),
            json!(64.5),
            json!(-1),
            json!(9_999_999_999_i64),
            json!(true),
            json!({}),
            json!("no such choice"),
            json!([]),
            json!(["1"]),
            json!(["1", 0]),
            json!(["1", 77]),
            json!(["nowhere", 0]),
            json!({ "__value__": 5 }),
        ];
        let value = wrong.get(self.choices.below(wrong.len())).cloned().unwrap_or(Value::Null);
        match self.choices.below(6) {
            0 if !inputs.is_empty() => {
                inputs.remove(place);
            }
            1 => inputs.push(("undeclared".to_owned(), Given::Literal(value))),
            2 => {
                if let (Some((place_of, slot)), Some((_, given))) = (self.any(), inputs.get_mut(place)) {
                    *given = Given::Link(place_of, slot);
                }
            }
            _ => {
                if let Some((_, given)) = inputs.get_mut(place) {
                    *given = Given::Literal(value);
                }
            }
        }
    }

    fn preview_the_unused(&mut self) {
        let used: Vec<(usize, usize)> = self
            .graph
            .nodes
            .iter()
            .flat_map(|node| &node.inputs)
            .filter_map(|(_, given)| match given {
                Given::Link(place, slot) => Some((*place, *slot)),
                Given::Literal(_) => None,
            })
            .collect();
        let count = self.graph.nodes.len();
        for place in 0..count {
            let Some(node) = self.graph.nodes.get(place) else { continue };
            if used.iter().any(|(at, _)| *at == place) {
                continue;
            }
            if !self.profile.previews_any {
                let picture = node.outputs.iter().position(|offered| offered == "IMAGE");
                let given = picture.map(|slot| vec![("images".to_owned(), Given::Link(place, slot))]);
                let class = || "PreviewImage".to_owned();
                self.graph.nodes.extend(given.map(|inputs| GraphNode { class: class(), inputs, outputs: Vec::new() }));
            } else if !node.outputs.is_empty() {
                self.graph.preview(place, 0);
            }
        }
    }
}

/// Whether an input can only be fed by a link.
fn needs_a_link(input: &InputSignature) -> bool {
    let socket = matches!(
        input.declared(),
        DeclaredType::Socket(_) | DeclaredType::Match { .. } | DeclaredType::Autogrow { .. }
    );
    socket && input.presence() == Presence::Required
}

/// The core class that gives a type from nothing.
fn default_source(type_name: &str) -> Option<&'static str> {
    Some(match type_name {
        "INT" => "PrimitiveInt",
        "FLOAT" => "PrimitiveFloat",
        "STRING" => "PrimitiveString",
        "BOOLEAN" => "PrimitiveBoolean",
        "IMAGE" => "EmptyImage",
        "MASK" => "SolidMask",
        "LATENT" => "EmptyLatentImage",
        "AUDIO" => "EmptyAudio",
        "VIDEO" => "CreateVideo",
        "SIGMAS" => "ManualSigmas",
        "VAE" => "VAELoader",
        "MODEL" | "CLIP" => "CheckpointLoaderSimple",
        "CONDITIONING" => "CLIPTextEncode",
        "CLIP_VISION" => "CLIPVisionLoader",
        "UPSCALE_MODEL" => "UpscaleModelLoader",
        "CONTROL_NET" => "ControlNetLoader",
        "SAMPLER" => "KSamplerSelect",
        "NOISE" => "RandomNoise",
        "GUIDER" => "BasicGuider",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_graph_and_another_seed_another() {
        let profile = Profile::of(Catalogue::builtin(), &["EmptyImage", "ImageScale", "ImageBatch", "ComfySwitchNode"]);
        let of = |seed| graph(&mut Choices::seeded(seed), &profile);
        assert_eq!(of(7), of(7));
        assert!((0..20).any(|seed| of(seed) != of(seed + 1)));
    }

    #[test]
    fn a_fuzzers_bytes_that_end_give_a_graph_that_ends() {
        let profile = Profile::of(Catalogue::builtin(), &["EmptyImage", "ImageScale"]);
        assert!(graph(&mut Choices::from_bytes(&[]), &profile).nodes.len() <= 4);
        assert!(!graph(&mut Choices::from_bytes(&[9, 1, 2, 3, 4, 5, 6]), &profile).nodes.is_empty());
    }

    #[test]
    fn a_reduced_graph_keeps_what_feeds_the_node_and_nothing_else() {
        let link = |place| ("image".to_owned(), Given::Link(place, 0));
        let node = |inputs| GraphNode { class: "ImageInvert".to_owned(), inputs, outputs: vec!["IMAGE".to_owned()] };
        let graph = Graph { nodes: vec![node(vec![]), node(vec![]), node(vec![link(1)]), node(vec![link(0)])] };
        let small = graph.reduced_to(2, 0);
        assert_eq!(small.nodes.len(), 3, "{small:?}");
        assert_eq!(small.nodes[1].inputs, vec![link(0)]);
    }
}
