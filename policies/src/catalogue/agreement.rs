//! Which classes a live backend has as the pinned catalogue says.

use std::collections::{BTreeMap, BTreeSet};

use super::{Catalogue, ClassSignature};

/// The outcome of [`Catalogue::agreement`].
#[derive(Debug, Clone, Default)]
pub struct Agreement {
    same: BTreeSet<String>,
    missing: BTreeSet<String>,
    differing: BTreeSet<String>,
}

impl Agreement {
    pub(super) fn between(pinned: &Catalogue, live: &BTreeMap<String, ClassSignature>) -> Self {
        let mut out = Self::default();
        for class in pinned.classes() {
            let set = match live.get(class.name()) {
                None => &mut out.missing,
                Some(there) if there.shape() == class.shape() => &mut out.same,
                Some(_) => &mut out.differing,
            };
            set.insert(class.name().to_owned());
        }
        out
    }

    /// Whether the backend has this class with the pinned signature.
    pub fn agrees(&self, class: &str) -> bool {
        self.same.contains(class)
    }

    /// Pinned classes that the backend lacks.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.missing.iter().map(String::as_str)
    }

    /// Pinned classes that the backend has with another signature.
    pub fn differing(&self) -> impl Iterator<Item = &str> {
        self.differing.iter().map(String::as_str)
    }
}
