//! The signature of a node class.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::annotations::{ClassAnnotation, DynamicInput, matches_pattern};
use super::rules::{ListRule, SizeRule, ValueRule};
use super::tables::{KindSet, Tables};
use super::types::TypeSet;
use crate::workflow::node::{Node, NodeClass};

/// What an input's value means, whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// How many sampling steps.
    Steps,
    /// Part of the schedule that is run, 0 to 1; small values lengthen the schedule to `steps / denoise`.
    Denoise,
    /// The name of a sampler.
    Sampler,
    /// The name of a scheduler.
    Scheduler,
    /// A text of numbers, each one a step.
    SigmasText,
    /// Pixels of what is made; 0 may mean "keep the aspect ratio".
    Width,
    /// Pixels of what is made.
    Height,
    /// Pixels of one side that is not named, or of both.
    Side,
    /// 1024² pixels of what is made.
    Megapixels,
    /// A factor on width and height.
    Factor,
    /// Pixels that are added to a side.
    Pad,
    /// How many images or latents at once.
    Batch,
    /// How many frames or layers.
    Frames,
    /// How many seconds of sound.
    Seconds,
    /// How many numbers a second of sound has.
    SampleRate,
    /// How often something is done, or how many of something are made: bounded by its declared range, through links as well.
    Count,
    /// The size of a piece that work is cut into: small ones make many.
    Tile,
    /// How far pieces overlap: at most half of the [`Tile`](Self::Tile) that is declared before it, or there are too many.
    Overlap,
    /// How often a slow thing is done to a whole picture, in either direction.
    Repeats,
    /// A divisor of sizes within the model: below 1 it enlarges.
    Divisor,
    /// An address that is fetched from.
    Url,
    /// An address that something is sent to: a second run sends it again.
    TargetUrl,
    /// A size that a model is told, or a crop: allocates nothing.
    SizeHint,
    /// The name of a file of the caller's.
    File,
    /// The name of a model that is installed.
    ModelFile,
    /// Where an output is saved.
    SavePrefix,
    /// Text that is interpreted, such as a regular expression.
    EvalText,
    /// Text that is parsed as JSON.
    JsonText,
    /// Text for a text encoder.
    PromptText,
}

impl InputKind {
    /// Kinds that are numbers, and that of texts of numbers: what caps are about.
    pub(crate) const NUMBERS: [Self; 18] = [
        Self::Steps,
        Self::Denoise,
        Self::SigmasText,
        Self::Width,
        Self::Height,
        Self::Side,
        Self::Megapixels,
        Self::Factor,
        Self::Pad,
        Self::Batch,
        Self::Frames,
        Self::Seconds,
        Self::SampleRate,
        Self::Count,
        Self::Tile,
        Self::Overlap,
        Self::Repeats,
        Self::Divisor,
    ];

    /// Whether a value of this kind can have the declared type.
    pub(super) fn suits(self, declared: &DeclaredType) -> bool {
        let number = matches!(declared, DeclaredType::Int { .. } | DeclaredType::Float { .. });
        let text = *declared == DeclaredType::Text;
        let choice = matches!(declared, DeclaredType::Combo(_));
        match self {
            Self::Steps
            | Self::Denoise
            | Self::Width
            | Self::Height
            | Self::Side
            | Self::Megapixels
            | Self::Factor
            | Self::Pad
            | Self::Batch
            | Self::Frames
            | Self::Seconds
            | Self::SampleRate
            | Self::Count
            | Self::Tile
            | Self::Overlap
            | Self::Repeats
            | Self::Divisor
            | Self::SizeHint => number,
            Self::Sampler | Self::Scheduler | Self::File | Self::ModelFile => choice || text,
            Self::SigmasText
            | Self::SavePrefix
            | Self::EvalText
            | Self::JsonText
            | Self::PromptText
            | Self::Url
            | Self::TargetUrl => text,
        }
    }
}

/// Whether an input must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Must be.
    Required,
    /// May be.
    Optional,
}

/// The declared type of an input.
#[derive(Debug, Clone, PartialEq)]
pub enum DeclaredType {
    /// `INT` with the schema's range.
    Int {
        /// Smallest.
        min: Option<i128>,
        /// Largest.
        max: Option<i128>,
        /// What stands for an absent value.
        default: Option<i128>,
    },
    /// `FLOAT` with the schema's range.
    Float {
        /// Smallest.
        min: Option<f64>,
        /// Largest.
        max: Option<f64>,
        /// What stands for an absent value.
        default: Option<f64>,
    },
    /// `STRING`
    Text,
    /// `BOOLEAN`
    Boolean,
    /// A choice; an empty list says nothing (models and files are per installation).
    Combo(Vec<Value>),
    /// Anything.
    Any,
    /// Something that only a link can carry: one of these types.
    Socket(Vec<String>),
    /// Whatever the other inputs of the same template carry.
    Match {
        /// The template's id.
        template: String,
        /// What it may be; empty: anything.
        allowed: Vec<String>,
    },
    /// A choice that brings inputs of its own, named `<input>.<name>`.
    DynamicCombo(Vec<(String, Vec<InputSignature>)>),
    /// A row of like inputs, named `<input>.<name>`.
    Autogrow {
        /// Each input's name after the dot, in order.
        names: Vec<String>,
        /// How many must be there.
        min: usize,
        /// What each is.
        item: Box<InputSignature>,
    },
}

/// One declared input.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSignature {
    pub(super) name: String,
    pub(super) presence: Presence,
    pub(super) declared: DeclaredType,
    pub(super) kind: Option<InputKind>,
    /// The declaration says that files are uploaded here.
    pub(super) uploads: bool,
    /// The name with what stands before its dots, and of a row the names of its items so; made with the catalogue.
    pub(super) full: String,
    pub(super) row: Vec<String>,
}

impl InputSignature {
    /// The name; of a dynamic input the part after the dot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Must it be given?
    pub fn presence(&self) -> Presence {
        self.presence
    }

    /// Name, type and presence in one text.
    pub(super) fn shape(&self) -> String {
        inputs_shape(std::slice::from_ref(self))
    }

    /// Its type.
    pub fn declared(&self) -> &DeclaredType {
        &self.declared
    }

    /// Its meaning, where it has one that a rule asks for.
    pub fn kind(&self) -> Option<InputKind> {
        self.kind
    }
}

/// One output.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSignature {
    /// Such as `IMAGE`, or `COMFY_MATCHTYPE_V3`.
    pub(super) type_name: String,
    /// Runs what consumes it once per item.
    pub(super) is_list: bool,
    /// The template whose type it has.
    pub(super) template: Option<String>,
}

impl OutputSignature {
    /// The declared type.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Whether it is a list of such.
    pub fn is_list(&self) -> bool {
        self.is_list
    }

    /// The template whose inputs tell its type, for a match-anything output.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }
}

/// A node class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassSignature {
    pub(super) name: String,
    pub(super) module: String,
    /// By the module: ComfyUI's own.
    pub(super) core: bool,
    pub(super) output_node: bool,
    /// Takes whole lists, as newer releases tell.
    pub(super) input_list: bool,
    pub(super) inputs: Vec<InputSignature>,
    pub(super) outputs: Vec<OutputSignature>,
    pub(super) annotation: Annotation,
    pub(super) tables: Tables,
}

/// What we add to what `object_info` says.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Annotation {
    annotated: bool,
    closed: Option<&'static str>,
    residue: Vec<String>,
    model_loader: bool,
    unbounded_steps: bool,
    unbounded_steps_with: Vec<String>,
    accepts_all_inputs: bool,
    returns_expand: bool,
    input_list: bool,
    sampler_calls: Option<u32>,
    unchecked: Vec<String>,
    dynamic: Vec<DynamicInput>,
    pack: Option<String>,
    sizes: Option<SizeRule>,
    values: BTreeMap<usize, ValueRule>,
    lists: BTreeMap<usize, ListRule>,
}

/// Types of which no rule follows anything.
const PARTS_OF_MODELS: [&str; 7] =
    ["MODEL", "CLIP", "VAE", "CONDITIONING", "CONTROL_NET", "CLIP_VISION", "STYLE_MODEL"];

impl ClassSignature {
    /// The class's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The class's name as nodes have it; none if no node can have such a name.
    pub(crate) fn node_class(&self) -> Option<&NodeClass> {
        self.tables.name()
    }

    /// The Python module, such as `nodes`, `comfy_extras.nodes_logic` or `custom_nodes.<pack>`.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The pack: `core`, `comfy_api_nodes`, or the folder under `custom_nodes`.
    pub fn pack(&self) -> &str {
        match (&self.annotation.pack, self.module.strip_prefix("custom_nodes.")) {
            (Some(pack), _) => pack,
            (None, Some(pack)) => pack,
            (None, None) if self.is_paid() => "comfy_api_nodes",
            (None, None) => "core",
        }
    }

    /// The pack by which a policy may name the class. A pack that calls itself as ComfyUI's own parts are called has none.
    pub(crate) fn own_pack(&self) -> Option<&str> {
        Some(self.pack()).filter(|pack| self.is_core() || !matches!(*pack, "core" | "comfy_api_nodes"))
    }

    /// Whether ComfyUI runs the graph for this node's sake.
    pub fn is_output_node(&self) -> bool {
        self.output_node
    }

    /// The declared inputs; dynamic ones as declared.
    pub fn inputs(&self) -> &[InputSignature] {
        &self.inputs
    }

    /// The outputs by slot.
    pub fn outputs(&self) -> &[OutputSignature] {
        &self.outputs
    }

    /// The declared types of the output `slot`, as far as rules ask for them; those of a template are [`TypeSet::OTHER`].
    pub(crate) fn output_types(&self, slot: usize) -> TypeSet {
        self.tables.output_types(slot)
    }

    /// Whether it may declare an output of several types, with commas between.
    pub(crate) fn has_unions(&self) -> bool {
        self.tables.has_unions()
    }

    /// Whether it declares an output of one of these types.
    pub(crate) fn gives(&self, types: TypeSet) -> bool {
        self.tables.all_output_types().meets(types)
    }

    /// Whether the meaning of its inputs is known, as opposed to guessed by their declaration.
    pub fn is_annotated(&self) -> bool {
        self.annotation.annotated
    }

    /// Why the class may not be used at all, if so.
    pub fn closed_because(&self) -> Option<&'static str> {
        self.annotation.closed
    }

    /// ComfyUI's own, paid nodes included.
    pub fn is_core(&self) -> bool {
        self.core
    }

    pub(super) fn is_core_module(module: &str) -> bool {
        let first = module.split('.').next().unwrap_or_default();
        matches!(first, "nodes" | "comfy_extras" | "comfy_api_nodes")
    }

    /// Calls a paid service of comfy.org. By module: some helpers of the package carry no flag.
    pub fn is_paid(&self) -> bool {
        let rest = self.module.strip_prefix("comfy_api_nodes");
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Gives only models, from model files only.
    pub fn is_model_loader(&self) -> bool {
        self.annotation.model_loader
    }

    /// Gives models, what they are told and what is made of them, and nothing else: no picture, sound, number or text, no file.
    pub(crate) fn gives_only_parts_of_models(&self) -> bool {
        let part = |output: &OutputSignature| PARTS_OF_MODELS.contains(&output.type_name());
        self.is_core() && !self.is_paid() && !self.output_node && self.outputs.iter().all(part)
    }

    pub(crate) fn has_unbounded_steps(&self, node: &Node) -> bool {
        let given = |input: &String| node.input(input).is_some();
        self.annotation.unbounded_steps || self.annotation.unbounded_steps_with.iter().any(given)
    }

    pub(crate) fn accepts_all_inputs(&self) -> bool {
        self.annotation.accepts_all_inputs
    }

    /// Replaces itself by a graph of its own when it runs.
    pub fn returns_expand(&self) -> bool {
        self.annotation.returns_expand
    }

    /// Takes whole lists, so that it runs once whatever it gets.
    pub fn takes_lists(&self) -> bool {
        self.input_list || self.annotation.input_list
    }

    /// Model calls a step of the sampler that it gives, where they do not depend on an input.
    pub(crate) fn sampler_calls(&self) -> Option<u32> {
        self.annotation.sampler_calls
    }

    /// Whether ComfyUI leaves this literal unchecked.
    pub fn is_unchecked(&self, input: &str) -> bool {
        self.annotation.unchecked.iter().any(|name| name == input)
    }

    /// What it reads undeclared, on purpose.
    pub fn dynamic_inputs(&self) -> &[DynamicInput] {
        &self.annotation.dynamic
    }

    /// What it does to the size of the output `slot`, where that is known.
    pub(crate) fn size_rule(&self, slot: usize) -> Option<&SizeRule> {
        self.annotation.sizes.as_ref()?.of_slot(slot)
    }

    /// What is known of the number or text in the output `slot`.
    pub(crate) fn value_rule(&self, slot: usize) -> Option<&ValueRule> {
        self.annotation.values.get(&slot)
    }

    /// How many items the list output `slot` has.
    pub(crate) fn list_rule(&self, slot: usize) -> Option<&ListRule> {
        self.annotation.lists.get(&slot)
    }

    pub(crate) fn is_residue(&self, input: &str) -> bool {
        self.annotation.residue.iter().any(|pattern| matches_pattern(pattern, input))
    }

    /// The inputs that `node` may have, with their full names: those of a dynamic choice by what the node chose.
    pub(crate) fn inputs_of<'a>(&'a self, node: &Node) -> Vec<(&'a str, &'a InputSignature)> {
        let mut out = Vec::with_capacity(self.inputs.len());
        collect(&self.inputs, node, &mut out);
        out
    }

    /// The first input of `node` that is of this kind, with its full name.
    pub(crate) fn input_of_kind<'a>(&'a self, node: &Node, kind: InputKind) -> Option<(&'a str, &'a InputSignature)> {
        if !self.may_have(kind) {
            return None;
        }
        let is_wanted = |input: &InputSignature| input.kind == Some(kind);
        if self.tables.are_plain() {
            return self.inputs.iter().find(|input| is_wanted(input)).map(|input| (input.full.as_str(), input));
        }
        self.inputs_of(node).into_iter().find(|(_, input)| is_wanted(input))
    }

    /// Whether some node of this class may have an input of this kind: a quick look before a slow one.
    pub(crate) fn may_have(&self, kind: InputKind) -> bool {
        self.tables.may_have(kind)
    }

    /// Whether some node of this class may have an input of one of these kinds.
    pub(crate) fn may_have_any(&self, kinds: KindSet) -> bool {
        self.tables.may_have_any(kinds)
    }

    /// How many inputs a node of this class must be given, where that does not depend on what it chooses.
    pub(crate) fn required(&self) -> Option<usize> {
        self.tables.required()
    }

    /// What inputs of this full name may be declared as, whatever a node chooses: several choices may have one each.
    pub(crate) fn declared_as(&self, name: &str) -> Vec<&InputSignature> {
        if let Some(input) = self.tables.find(&self.inputs, name) {
            // A row itself is no input, only its items are.
            return Some(input)
                .filter(|input| !matches!(input.declared, DeclaredType::Autogrow { .. }))
                .into_iter()
                .collect();
        }
        let (mut found, mut open) = (Vec::new(), self.inputs.iter().collect::<Vec<_>>());
        while let Some(input) = open.pop() {
            match &input.declared {
                DeclaredType::Autogrow { item, .. } => {
                    found.extend(input.row.iter().any(|known| known == name).then_some(item.as_ref()));
                    continue;
                }
                DeclaredType::DynamicCombo(options) if name.starts_with(&input.full) => {
                    open.extend(options.iter().flat_map(|(_, nested)| nested));
                }
                _ => {}
            }
            found.extend((input.full == name).then_some(input));
        }
        found
    }

    /// The declaration of one input of `node`, by its full name.
    pub(crate) fn input<'a>(&'a self, node: &Node, name: &str) -> Option<&'a InputSignature> {
        if let Some(input) = self.tables.find(&self.inputs, name) {
            // A row itself is no input, only its items are.
            return Some(input).filter(|input| !matches!(input.declared, DeclaredType::Autogrow { .. }));
        }
        if self.tables.are_plain() {
            return None;
        }
        let (first, inner) = name.split_once('.')?;
        nested(self.tables.find(&self.inputs, first)?, inner, node)
    }

    /// The class as a catalogue holds it.
    pub(super) fn with_tables(mut self) -> Self {
        self.tables = Tables::of(&self.name, &mut self.inputs, &self.outputs);
        self
    }

    pub(crate) fn input_kind(&self, node: &Node, name: &str) -> Option<InputKind> {
        self.input(node, name)?.kind
    }

    /// The shape by which two releases of a class are compared: inputs' names, types and presence, outputs and whether it is an output node, in one text. Options and ranges do not count.
    pub(super) fn shape(&self) -> String {
        format!("{} -> {}", inputs_shape(&self.inputs), self.outputs_shape())
    }

    /// The same of its outputs alone.
    pub(super) fn outputs_shape(&self) -> String {
        let outputs: Vec<String> =
            self.outputs.iter().map(|output| format!("{}/{}", output.type_name, output.is_list)).collect();
        format!("{outputs:?} {}", self.output_node)
    }

    pub(super) fn closed(mut self, reason: &'static str) -> Self {
        self.annotation.closed = Some(reason);
        self
    }

    pub(super) fn annotated(mut self, annotation: &ClassAnnotation) -> Self {
        annotate(&mut self.inputs, "", annotation, self.output_node);
        self.annotation = Annotation {
            annotated: true,
            closed: None,
            residue: annotation.residue.clone(),
            model_loader: annotation.model_loader,
            unbounded_steps: annotation.unbounded_steps,
            unbounded_steps_with: annotation.unbounded_steps_with.clone(),
            accepts_all_inputs: annotation.accepts_all_inputs,
            returns_expand: annotation.returns_expand,
            input_list: annotation.input_list,
            sampler_calls: annotation.sampler_calls,
            unchecked: annotation.unchecked.clone(),
            dynamic: annotation.dynamic.clone(),
            pack: annotation.pack.clone(),
            sizes: annotation.sizes.clone(),
            values: annotation.values.clone(),
            lists: annotation.lists.clone(),
        };
        self
    }

    /// This class with what a policy says of it besides: kinds and rules that are given take the place of those that were known, everything else stays.
    pub(super) fn also_annotated(mut self, annotation: &ClassAnnotation) -> Self {
        annotate_also(&mut self.inputs, "", annotation);
        let own = &mut self.annotation;
        own.annotated = true;
        own.residue.extend(annotation.residue.iter().cloned());
        own.unchecked.extend(annotation.unchecked.iter().cloned());
        own.dynamic.extend(annotation.dynamic.iter().cloned());
        own.model_loader |= annotation.model_loader;
        own.unbounded_steps |= annotation.unbounded_steps;
        own.unbounded_steps_with.extend(annotation.unbounded_steps_with.iter().cloned());
        own.accepts_all_inputs |= annotation.accepts_all_inputs;
        own.returns_expand |= annotation.returns_expand;
        own.input_list |= annotation.input_list;
        own.sampler_calls = annotation.sampler_calls.or(own.sampler_calls);
        own.pack = annotation.pack.clone().or(own.pack.take());
        own.sizes = annotation.sizes.clone().or(own.sizes.take());
        own.values.extend(annotation.values.iter().map(|(slot, rule)| (*slot, rule.clone())));
        own.lists.extend(annotation.lists.iter().map(|(slot, rule)| (*slot, rule.clone())));
        self
    }

    /// This live class of a pack with its annotations. What they do not name keeps the kind that its declaration shows: that can only make a rule stricter.
    pub(super) fn annotated_over_declared(self, annotation: &ClassAnnotation) -> Self {
        let declared = self.clone().with_declared_kinds();
        let mut out = self.annotated(annotation);
        for (input, declared) in out.inputs.iter_mut().zip(&declared.inputs) {
            if !annotation.harmless.contains_key(&input.name) {
                input.kind = input.kind.or(declared.kind);
            }
        }
        out
    }

    /// Adds the choices of a later release of the same class: without an installation nobody knows which one runs.
    pub(super) fn add_choices_of(&mut self, later: &ClassSignature) {
        if self.shape() != later.shape() {
            return;
        }
        for (input, later) in self.inputs.iter_mut().zip(&later.inputs) {
            if let (true, DeclaredType::Combo(known), DeclaredType::Combo(more)) =
                (input.name == later.name, &mut input.declared, &later.declared)
            {
                known.extend(more.iter().filter(|choice| !known.contains(choice)).cloned().collect::<Vec<_>>());
            }
        }
    }

    /// Whether every input that the annotation names is declared, with a type that a value of that kind can have.
    pub(super) fn fits(&self, annotation: &ClassAnnotation) -> bool {
        let declared = |name: &str| declared_at(&self.inputs, name);
        let kinds = annotation.inputs.iter().all(|(name, kind)| declared(name).is_some_and(|input| kind.suits(input)));
        let numbers = annotation.harmless.keys().all(|name| {
            declared(name).is_some_and(|input| matches!(input, DeclaredType::Int { .. } | DeclaredType::Float { .. }))
        });
        let slots = annotation.values.keys().chain(annotation.lists.keys()).all(|slot| *slot < self.outputs.len());
        kinds && numbers && slots && annotation.unchecked.iter().all(|name| declared(name).is_some())
    }

    /// The entry for an undeclared input that the class reads on purpose.
    pub(crate) fn dynamic_input(&self, name: &str) -> Option<&DynamicInput> {
        self.annotation.dynamic.iter().find(|dynamic| dynamic.matches(name))
    }

    /// This live class with the kinds of `known`, whose shape is the same.
    pub(super) fn annotated_like(mut self, known: &ClassSignature) -> Self {
        copy_kinds(&mut self.inputs, &known.inputs);
        self.annotation = known.annotation.clone();
        self
    }

    /// This live class with the kinds of `known` where the names are the same, and declared ones elsewhere: its shape is another.
    pub(super) fn with_kinds_of(mut self, known: &ClassSignature) -> Self {
        self = self.with_declared_kinds();
        copy_kinds(&mut self.inputs, &known.inputs);
        self
    }

    /// A class of another pack: kinds as the declaration shows them, and numbers by the names that ComfyUI's own classes use.
    pub(super) fn with_declared_kinds(mut self) -> Self {
        guess_kinds(&mut self.inputs, self.output_node);
        self
    }
}

/// Options of a dynamic choice may nest; deeper is refused by being undeclared.
fn collect<'a>(inputs: &'a [InputSignature], node: &Node, out: &mut Vec<(&'a str, &'a InputSignature)>) {
    for input in inputs {
        match &input.declared {
            DeclaredType::DynamicCombo(options) => {
                out.push((&input.full, input));
                if let Some(nested) = chosen(&input.full, options, node) {
                    collect(nested, node, out);
                }
            }
            DeclaredType::Autogrow { item, .. } => {
                out.extend(input.row.iter().map(|name| (name.as_str(), item.as_ref())));
            }
            _ => out.push((&input.full, input)),
        }
    }
}

/// The inputs that the node's choice brings.
fn chosen<'a>(full: &str, options: &'a [(String, Vec<InputSignature>)], node: &Node) -> Option<&'a [InputSignature]> {
    let chosen = node.text(full)?;
    options.iter().find(|(key, _)| key == chosen).map(|(_, nested)| nested.as_slice())
}

/// One input within another by the rest of its name, without making the names of all: a body may ask for many. Each turn takes one dot off the name, and choices nest four deep.
fn nested<'a>(outer: &'a InputSignature, rest: &str, node: &Node) -> Option<&'a InputSignature> {
    let (mut outer, mut rest) = (outer, rest);
    loop {
        match &outer.declared {
            DeclaredType::Autogrow { names, item, .. } => return row_has(names, rest).then_some(item.as_ref()),
            DeclaredType::DynamicCombo(options) => {
                let inputs = chosen(&outer.full, options, node)?;
                if let Some(input) = inputs.iter().find(|input| input.name == rest) {
                    return Some(input).filter(|input| !matches!(input.declared, DeclaredType::Autogrow { .. }));
                }
                let (first, inner) = rest.split_once('.')?;
                outer = inputs.iter().find(|input| input.name == first)?;
                rest = inner;
            }
            _ => return None,
        }
    }
}

/// Whether a row has an item of this name. Items are mostly numbered, so the number says where to look first.
fn row_has(names: &[String], name: &str) -> bool {
    let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let there = number.parse::<usize>().ok().and_then(|place| names.get(place));
    there.is_some_and(|there| there == name) || names.iter().any(|known| known == name)
}

fn inputs_shape(inputs: &[InputSignature]) -> String {
    let mut parts: Vec<String> = inputs
        .iter()
        .map(|input| {
            format!(
                "{}:{}{}",
                input.name,
                type_shape(&input.declared),
                if input.presence == Presence::Optional { "?" } else { "" }
            )
        })
        .collect();
    parts.sort();
    format!("({})", parts.join(", "))
}

fn type_shape(declared: &DeclaredType) -> String {
    match declared {
        DeclaredType::Int { .. } => "INT".to_owned(),
        DeclaredType::Float { .. } => "FLOAT".to_owned(),
        DeclaredType::Text => "STRING".to_owned(),
        DeclaredType::Boolean => "BOOLEAN".to_owned(),
        DeclaredType::Combo(_) => "COMBO".to_owned(),
        DeclaredType::Any => "*".to_owned(),
        DeclaredType::Socket(types) => types.join(","),
        DeclaredType::Match { template, allowed } => format!("MATCH {template} {}", allowed.join(",")),
        DeclaredType::DynamicCombo(options) => {
            let options: Vec<String> =
                options.iter().map(|(key, inputs)| format!("{key:?}{}", inputs_shape(inputs))).collect();
            format!("DYNAMIC[{}]", options.join(" "))
        }
        DeclaredType::Autogrow { names, min, item } => {
            format!("AUTOGROW {min} {names:?} {}", inputs_shape(std::slice::from_ref(item)))
        }
    }
}

fn annotate(inputs: &mut [InputSignature], prefix: &str, annotation: &ClassAnnotation, output_node: bool) {
    for input in inputs {
        let full = format!("{prefix}{}", input.name);
        input.kind = annotation.inputs.get(&full).copied().or_else(|| declared_kind(input, output_node));
        match &mut input.declared {
            DeclaredType::DynamicCombo(options) => {
                for (_, nested) in options {
                    annotate(nested, &format!("{full}."), annotation, output_node);
                }
            }
            DeclaredType::Autogrow { item, .. } => {
                item.kind = annotation.inputs.get(&full).copied();
            }
            _ => {}
        }
    }
}

/// Only the inputs that the annotation names.
fn annotate_also(inputs: &mut [InputSignature], prefix: &str, annotation: &ClassAnnotation) {
    for input in inputs {
        let full = format!("{prefix}{}", input.name);
        input.kind = annotation.inputs.get(&full).copied().or(input.kind);
        match &mut input.declared {
            DeclaredType::DynamicCombo(options) => {
                for (_, nested) in options {
                    annotate_also(nested, &format!("{full}."), annotation);
                }
            }
            // Written for the row, or for one of its items, which then holds for all.
            DeclaredType::Autogrow { names, item, .. } => {
                let of_items = names.iter().find_map(|name| annotation.inputs.get(&format!("{full}.{name}")));
                item.kind = annotation.inputs.get(&full).or(of_items).copied().or(item.kind);
            }
            _ => {}
        }
    }
}

fn copy_kinds(inputs: &mut [InputSignature], known: &[InputSignature]) {
    for input in inputs {
        let Some(known) = known.iter().find(|known| known.name == input.name) else {
            continue;
        };
        input.kind = known.kind;
        match (&mut input.declared, &known.declared) {
            (DeclaredType::DynamicCombo(options), DeclaredType::DynamicCombo(known)) => {
                for (key, nested) in options {
                    if let Some((_, known)) = known.iter().find(|(other, _)| other == key) {
                        copy_kinds(nested, known);
                    }
                }
            }
            (DeclaredType::Autogrow { item, .. }, DeclaredType::Autogrow { item: known, .. }) => item.kind = known.kind,
            _ => {}
        }
    }
}

/// The type of an input by its full name; within a dynamic choice, of the first option that has it.
fn declared_at<'a>(inputs: &'a [InputSignature], name: &str) -> Option<&'a DeclaredType> {
    if let Some(input) = inputs.iter().find(|input| input.name == name) {
        return match &input.declared {
            DeclaredType::Autogrow { item, .. } => Some(&item.declared),
            declared => Some(declared),
        };
    }
    // Each round takes one part of the name.
    let (first, rest) = name.split_once('.')?;
    match &inputs.iter().find(|input| input.name == first)?.declared {
        DeclaredType::DynamicCombo(options) => options.iter().find_map(|(_, nested)| declared_at(nested, rest)),
        _ => None,
    }
}

/// What any class's declaration shows: a save prefix of an output node, a place for uploads.
fn declared_kind(input: &InputSignature, output_node: bool) -> Option<InputKind> {
    if output_node && input.name == "filename_prefix" && input.declared == DeclaredType::Text {
        return Some(InputKind::SavePrefix);
    }
    input.uploads.then_some(InputKind::File)
}

/// Names that mean the same in nearly every pack. A guess can only make a rule stricter: a kind adds caps and takes none away.
fn guess_kinds(inputs: &mut [InputSignature], output_node: bool) {
    for input in inputs {
        input.kind = declared_kind(input, output_node).or(match (&input.declared, input.name.as_str()) {
            (DeclaredType::Int { .. }, "steps") => Some(InputKind::Steps),
            (DeclaredType::Int { .. }, "width") => Some(InputKind::Width),
            (DeclaredType::Int { .. }, "height") => Some(InputKind::Height),
            (DeclaredType::Int { .. }, "batch_size" | "amount") => Some(InputKind::Batch),
            (DeclaredType::Int { .. }, "length" | "num_frames" | "video_frames") => Some(InputKind::Frames),
            (DeclaredType::Float { .. }, "denoise") => Some(InputKind::Denoise),
            (DeclaredType::Combo(_), "sampler_name") => Some(InputKind::Sampler),
            (DeclaredType::Combo(_), "scheduler") => Some(InputKind::Scheduler),
            _ => None,
        });
        if let DeclaredType::DynamicCombo(options) = &mut input.declared {
            for (_, nested) in options {
                guess_kinds(nested, output_node);
            }
        }
    }
}
