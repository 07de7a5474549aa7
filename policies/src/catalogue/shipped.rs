//! The signatures and annotations that ship: ComfyUI's own classes by release, and the node packs'.
//!
//! Signatures of ComfyUI's own classes ship for 0.8.0 (`comfyui-0.8.0.json`) and, for what a later release added or changed, for that one (`later.json`); both were printed by the releases
//! themselves. Packs ship annotations only (`packs/*.json`): a class of a pack counts as annotated where its module is the pack's and every annotated input is declared with a type that fits.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::annotations::{Annotations, ClassAnnotation};
use super::{ClassSignature, read};

/// ComfyUI 0.8.0's own classes.
pub(super) const COMFYUI_0_8_0: &str = include_str!("../../catalogues/comfyui-0.8.0.json");
pub(super) const ANNOTATIONS_0_8_0: &str = include_str!("../../catalogues/annotations-0.8.0.json");
/// What later releases added or changed, as far as it is annotated: a list of releases, in the order of time.
const LATER: &str = include_str!("../../catalogues/later.json");
const ANNOTATIONS_LATER: &str = include_str!("../../catalogues/annotations-later.json");

/// Annotations of node packs.
const PACKS: &[&str] = &[
    include_str!("../../packs/comfyui-advanced-controlnet.json"),
    include_str!("../../packs/comfyui-advancedliveportrait.json"),
    include_str!("../../packs/comfyui-animatediff-evolved.json"),
    include_str!("../../packs/comfyui-bria_ai-rmbg.json"),
    include_str!("../../packs/comfyui-custom-scripts.json"),
    include_str!("../../packs/comfyui-depthanythingv2.json"),
    include_str!("../../packs/comfyui-easy-use.json"),
    include_str!("../../packs/comfyui-gguf.json"),
    include_str!("../../packs/comfyui-ic-light-native.json"),
    include_str!("../../packs/comfyui-impact-subpack.json"),
    include_str!("../../packs/comfyui-kjnodes.json"),
    include_str!("../../packs/comfyui-layerdiffuse.json"),
    include_str!("../../packs/comfyui-logic.json"),
    include_str!("../../packs/comfyui-pulid-flux.json"),
    include_str!("../../packs/comfyui-reactor.json"),
    include_str!("../../packs/comfyui-segment-anything-2.json"),
    include_str!("../../packs/comfyui-tooling-nodes.json"),
    include_str!("../../packs/comfyui-videohelpersuite.json"),
    include_str!("../../packs/comfyui_birefnet_ll.json"),
    include_str!("../../packs/comfyui_comfyroll_customnodes.json"),
    include_str!("../../packs/comfyui_controlnet_aux.json"),
    include_str!("../../packs/comfyui_essentials.json"),
    include_str!("../../packs/comfyui_instantid.json"),
    include_str!("../../packs/comfyui_ipadapter_plus.json"),
    include_str!("../../packs/comfyui_patches_ll.json"),
    include_str!("../../packs/comfyui_realtimenodes.json"),
    include_str!("../../packs/comfyui_segment_anything.json"),
    include_str!("../../packs/efficiency-nodes-comfyui.json"),
    include_str!("../../packs/facerestore_cf.json"),
    include_str!("../../packs/pulid_comfyui.json"),
    include_str!("../../packs/rgthree-comfy.json"),
    include_str!("../../packs/was-node-suite-comfyui.json"),
];

/// All that ships.
pub(super) struct Shipped {
    /// ComfyUI 0.8.0.
    pub(super) first: BTreeMap<String, ClassSignature>,
    /// Classes of later releases, in the order of time: new ones, and some of 0.8.0's with another signature. What a release does not name is as in the one before.
    pub(super) later: Vec<BTreeMap<String, ClassSignature>>,
    /// The names of all releases, 0.8.0 first.
    pub(super) names: Vec<String>,
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
    release: String,
    #[serde(borrow)]
    classes: &'a RawValue,
}

static SHIPPED: LazyLock<Shipped> = LazyLock::new(|| {
    let first = annotations(ANNOTATIONS_0_8_0);
    let later = annotations(ANNOTATIONS_LATER);
    #[expect(clippy::expect_used, reason = "a file that ships; a test reads it")]
    let releases: Vec<Release<'_>> = serde_json::from_str(LATER).expect("the shipped releases are good");
    let release = |release: &Release<'_>| annotated(release.classes.get(), &[&later, &first]);
    let later_names = releases.iter().map(|release| release.release.clone());
    Shipped {
        first: annotated(COMFYUI_0_8_0, &[&first]),
        later: releases.iter().map(release).collect(),
        names: std::iter::once("0.8.0".to_owned()).chain(later_names).collect(),
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
    let matcher = |glob: &String| {
        // The folder has whatever name it was given: by the repository or by the registry.
        let glob = GlobBuilder::new(glob).case_insensitive(true).build();
        glob.expect("the shipped patterns are good").compile_matcher()
    };
    Pack { modules: annotations.modules.iter().map(matcher).collect(), annotations }
}

impl Shipped {
    /// The annotated class of ComfyUI's own that has exactly the signature of this live one.
    pub(super) fn same_as(&self, live: &ClassSignature) -> Option<&ClassSignature> {
        let shape = live.shape();
        let mut known = self.releases().filter_map(|release| release.get(live.name()));
        known.find(|known| is_same_module(known, live) && known.shape() == shape)
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

/// Folders under which the probe nodes are installed, whose signatures ship beside ComfyUI's own: the recordings have one, the instructions to make them the other.
const PROBE_MODULES: [&str; 2] = ["custom_nodes.gate_probe", "custom_nodes.probe_nodes"];

fn is_same_module(known: &ClassSignature, live: &ClassSignature) -> bool {
    known.module() == live.module() || [known, live].iter().all(|class| PROBE_MODULES.contains(&class.module()))
}

#[cfg(test)]
mod tests;
