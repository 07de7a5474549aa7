//! Required inputs that a later release of ComfyUI added to a class of its own, with the value that keeps the meaning of workflows from before: `catalogues/later-inputs.json`.
//!
//! ComfyUI refuses a graph that lacks them (`required_input_missing`), and its page fills them in when it opens an older workflow. Graphs in API format that scripts have kept pass no page:
//! for those we fill them in, visibly (`Replaced`), and what is sent holds them.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use foldhash::fast::RandomState;
use serde_json::Value;

use super::ClassSignature;

const LATER_INPUTS: &str = include_str!("../../catalogues/later-inputs.json");

static GIVEN: LazyLock<HashMap<String, BTreeMap<String, Value>, RandomState>> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "a file that ships; a test reads it")]
    serde_json::from_str(LATER_INPUTS).expect("the shipped table is good")
});

impl ClassSignature {
    /// The inputs that older workflows lack, each with the value that stands for its absence.
    pub(crate) fn later_inputs(&self) -> impl Iterator<Item = (&'static str, &'static Value)> {
        let known = if self.is_core() { GIVEN.get(self.name()) } else { None };
        let declared = |name: &str| self.inputs().iter().any(|input| input.name() == name);
        let known = known.into_iter().flatten().filter(move |(name, _)| declared(name));
        known.map(|(name, value)| (name.as_str(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Catalogue, DeclaredType, Presence};

    /// What bounds take an absent number for is its declared default: it must be what is filled in.
    #[test]
    fn what_is_filled_in_is_required_and_is_the_declared_default_or_an_option() {
        for (class, inputs) in GIVEN.iter() {
            let signature = Catalogue::builtin().class(class).unwrap();
            assert_eq!(signature.later_inputs().count(), inputs.len(), "{class}");
            for (name, value) in inputs {
                let input = signature.inputs().iter().find(|input| input.name() == name).unwrap();
                assert_eq!(input.presence(), Presence::Required, "{class}.{name}");
                match input.declared() {
                    DeclaredType::Int { default, .. } => assert_eq!(*default, value.as_i64().map(i128::from)),
                    DeclaredType::Float { default, .. } => assert_eq!(*default, value.as_f64()),
                    DeclaredType::Boolean => assert!(value.is_boolean()),
                    DeclaredType::Combo(options) => assert!(options.contains(value), "{class}.{name}"),
                    other => panic!("{class}.{name}: {other:?}"),
                }
            }
        }
    }
}
