//! The signatures and annotations that ship: ComfyUI's own classes by release, and the node packs'.
//!
//! Signatures of ComfyUI's own classes ship for 0.8.0 (`comfyui-0.8.0.json`) and, for what a later release added or changed, for that one (`later.json`); both were printed by the releases
//! themselves. Packs ship annotations only (`packs/*.json`): a class of a pack counts as annotated where its module is the pack's and every annotated input is declared with a type that fits.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use globset::{Glob, GlobMatcher};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::annotations::{Annotations, ClassAnnotation};
use super::{ClassSignature, read};

/// ComfyUI 0.8.0's own classes.
pub(super) const COMFYUI_0_8_0: &str = include_str!("../../catalogues/comfyui-0.8.0.json");
pub(super) const ANNOTATIONS_0_8_0: &str = include_str!("../../catalogues/annotations-0.8.0.json");
/// What later releases added or changed, as far as it is annotated: a list of releases, the one that counts first where nothing is known of an installation.
const LATER: &str = include_str!("../../catalogues/later.json");
const ANNOTATIONS_LATER: &str = include_str!("../../catalogues/annotations-later.json");

/// Annotations of node packs.
const PACKS: &[&str] = &[];

/// All that ships.
pub(super) struct Shipped {
    /// ComfyUI 0.8.0.
    pub(super) first: BTreeMap<String, ClassSignature>,
    /// Classes of later releases: new ones, and some of 0.8.0's with another signature.
    pub(super) later: Vec<BTreeMap<String, ClassSignature>>,
    packs: Vec<Pack>,
}

struct Pack {
    modules: Vec<GlobMatcher>,
    annotations: Annotations,
}

/// One release of `later.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release<'a> {
    #[serde(rename = "release")]
    _release: String,
    #[serde(borrow)]
    classes: &'a RawValue,
}

static SHIPPED: LazyLock<Shipped> = LazyLock::new(|| {
    let first = annotations(ANNOTATIONS_0_8_0);
    let later = annotations(ANNOTATIONS_LATER);
    #[expect(clippy::expect_used, reason = "a file that ships; a test reads it")]
    let releases: Vec<Release<'_>> = serde_json::from_str(LATER).expect("the shipped releases are good");
    let release = |release: &Release<'_>| annotated(release.classes.get(), &[&later, &first]);
    Shipped {
        first: annotated(COMFYUI_0_8_0, &[&first]),
        later: releases.iter().map(release).collect(),
        packs: PACKS.iter().map(|text| pack(text)).collect(),
    }
});

/// All that ships, read once.
pub(super) fn shipped() -> &'static Shipped {
    &SHIPPED
}

fn annotations(text: &str) -> Annotations {
    #[expect(clippy::expect_used, reason = "a file that ships; a test reads it")]
    Annotations::read(text).expect("the shipped annotations are good")
}

/// The classes with what the first of these files says of each. A class that none names has no annotation, which is one too: nothing in it needs a cap.
fn annotated(classes: &str, files: &[&Annotations]) -> BTreeMap<String, ClassSignature> {
    #[expect(clippy::expect_used, reason = "a file that ships; a test reads it")]
    let classes = read::classes(classes.as_bytes()).expect("the shipped signatures are good");
    let none = ClassAnnotation::default();
    let of = |(name, class): (String, ClassSignature)| {
        let annotation = files.iter().find_map(|file| file.classes.get(&name)).unwrap_or(&none);
        (name, class.annotated(annotation))
    };
    classes.into_iter().map(of).collect()
}

fn pack(text: &str) -> Pack {
    let annotations = annotations(text);
    #[expect(clippy::expect_used, reason = "a file that ships; a test reads it")]
    let matcher = |glob: &String| Glob::new(glob).expect("the shipped patterns are good").compile_matcher();
    Pack { modules: annotations.modules.iter().map(matcher).collect(), annotations }
}

impl Shipped {
    /// The annotated class of ComfyUI's own that has exactly the signature of this live one.
    pub(super) fn same_as(&self, live: &ClassSignature) -> Option<&ClassSignature> {
        let shape = live.shape();
        let mut known = self.releases().filter_map(|release| release.get(live.name()));
        known.find(|known| known.module() == live.module() && known.shape() == shape)
    }

    /// The class of this name in whichever release.
    pub(super) fn named(&self, name: &str) -> Option<&ClassSignature> {
        self.releases().find_map(|release| release.get(name))
    }

    /// 0.8.0 first.
    pub(super) fn releases(&self) -> impl Iterator<Item = &BTreeMap<String, ClassSignature>> {
        std::iter::once(&self.first).chain(&self.later)
    }

    /// The annotations of a pack's class, if they are of that pack and fit its declaration.
    pub(super) fn of_pack(&self, live: &ClassSignature) -> Option<&ClassAnnotation> {
        let theirs = |pack: &&Pack| pack.modules.iter().any(|module| module.is_match(live.module()));
        let mut annotations =
            self.packs.iter().filter(theirs).filter_map(|pack| pack.annotations.classes.get(live.name()));
        annotations.find(|annotation| live.fits(annotation))
    }
}

#[cfg(test)]
mod tests;
