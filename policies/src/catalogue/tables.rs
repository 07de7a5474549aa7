//! What is looked up about a class again and again, made once when the catalogue is.

use super::signature::{DeclaredType, InputKind, InputSignature, OutputSignature, Presence};
use super::types::TypeSet;
use crate::workflow::node::NodeClass;

/// Top-level inputs of a class that are looked at one by one; of more there is an order by name.
const SEARCHED_INPUTS_MAX: usize = 12;

/// The lookup tables of one class. They follow from its inputs, so a catalogue's digest need not tell them.
#[derive(Clone, Default)]
pub(super) struct Tables {
    made: bool,
    /// A bit for each kind that an input of the class has, nested ones too.
    kinds: u64,
    /// The places of the top-level inputs by name; empty for few.
    by_name: Vec<u16>,
    /// Whether an input depends on a choice or is one of a row.
    dynamic: bool,
    /// How many of the top-level inputs must be given.
    required: usize,
    /// The declared types of each output.
    outputs: Vec<TypeSet>,
    /// Whether one of them has several.
    unions: bool,
    /// The class's name, to be handed on without a copy of it; none if no node can have it.
    name: Option<NodeClass>,
}

impl Tables {
    /// Makes the tables of a class with these inputs and outputs, and writes each input's full name beside it.
    pub(super) fn of(name: &str, inputs: &mut [InputSignature], outputs: &[OutputSignature]) -> Self {
        let unions = outputs.iter().any(|output| output.type_name().contains(','));
        let outputs = outputs.iter().map(|output| TypeSet::declared(output.type_name())).collect();
        let required = inputs.iter().filter(|input| input.presence == Presence::Required).count();
        let mut tables = Self { made: true, required, outputs, unions, name: name.parse().ok(), ..Self::default() };
        tables.note(inputs, "");
        if inputs.len() > SEARCHED_INPUTS_MAX {
            tables.by_name.extend((0..=u16::MAX).take(inputs.len()));
            tables.by_name.sort_by_key(|place| inputs.get(usize::from(*place)).map(|input| &input.name));
        }
        tables
    }

    /// Nesting is bounded by the reader of the catalogue.
    fn note(&mut self, inputs: &mut [InputSignature], prefix: &str) {
        for input in inputs {
            input.full = format!("{prefix}{}", input.name);
            self.kinds |= input.kind.map_or(0, bit);
            match &mut input.declared {
                DeclaredType::DynamicCombo(options) => {
                    self.dynamic = true;
                    let prefix = format!("{}.", input.full);
                    for (_, nested) in options {
                        self.note(nested, &prefix);
                    }
                }
                DeclaredType::Autogrow { names, item, .. } => {
                    self.dynamic = true;
                    self.kinds |= item.kind.map_or(0, bit);
                    input.row = names.iter().map(|name| format!("{}.{name}", input.full)).collect();
                }
                _ => {}
            }
        }
    }

    /// Whether an input of the class may be of this kind.
    pub(super) fn may_have(&self, kind: InputKind) -> bool {
        !self.made || self.kinds & bit(kind) != 0
    }

    /// Whether an input of the class may be of one of these kinds.
    pub(super) fn may_have_any(&self, kinds: KindSet) -> bool {
        !self.made || self.kinds & kinds.0 != 0
    }

    /// The class's name.
    pub(super) fn name(&self) -> Option<&NodeClass> {
        self.name.as_ref()
    }

    /// How many inputs a node must be given, where its inputs are the top-level ones whatever it chose.
    pub(super) fn required(&self) -> Option<usize> {
        self.are_plain().then_some(self.required)
    }

    /// Whether the inputs of a node are the top-level ones, whatever it chose.
    pub(super) fn are_plain(&self) -> bool {
        self.made && !self.dynamic
    }

    /// The declared types of the output `slot`.
    pub(super) fn output_types(&self, slot: usize) -> TypeSet {
        self.outputs.get(slot).copied().unwrap_or(TypeSet::NONE)
    }

    /// Whether an output may be declared with several types.
    pub(super) fn has_unions(&self) -> bool {
        !self.made || self.unions
    }

    /// The declared types of all outputs.
    pub(super) fn all_output_types(&self) -> TypeSet {
        self.outputs.iter().copied().fold(TypeSet::NONE, TypeSet::and)
    }

    /// The input of this name among the top-level ones.
    pub(super) fn find<'a>(&self, inputs: &'a [InputSignature], name: &str) -> Option<&'a InputSignature> {
        if self.by_name.is_empty() {
            return inputs.iter().find(|input| input.name == name);
        }
        let at = |place: &u16| inputs.get(usize::from(*place));
        let found = self.by_name.binary_search_by(|place| at(place).map(|input| input.name.as_str()).cmp(&Some(name)));
        self.by_name.get(found.ok()?).and_then(at)
    }
}

/// Some kinds, to ask of a class whether it may have any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KindSet(u64);

impl KindSet {
    /// These.
    pub(crate) fn of(kinds: impl IntoIterator<Item = InputKind>) -> Self {
        Self(kinds.into_iter().map(bit).fold(0, |set, bit| set | bit))
    }
}

fn bit(kind: InputKind) -> u64 {
    1 << (kind as u32 % u64::BITS)
}

impl PartialEq for Tables {
    /// They follow from the rest.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tables")
    }
}
