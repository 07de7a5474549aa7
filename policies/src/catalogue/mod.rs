//! Node classes and the signature of their inputs.
//!
//! In comes an `object_info`, as a ComfyUI of one release with its packs prints it, and our annotations for ComfyUI's own classes; out comes a [`Catalogue`]. An
//! `object_info` says which inputs a class declares and of what type, but not what a number *means*: `KSamplerAdvanced.end_at_step` is 10000 in ordinary
//! workflows, `KSampler.steps` never. The annotations say it ([`InputKind`]). A class of ComfyUI's own whose live signature differs from the annotated
//! one is *closed*: we would judge one class while another runs.

mod agreement;
mod annotations;
mod later_inputs;
mod overlay;
mod news;
mod options;
mod read;
mod releases;
mod rules;
mod shipped;
mod signature;
mod tables;
mod types;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

pub use agreement::Agreement;
pub use annotations::DynamicInput;
pub use news::{ChangedClass, News, Unjudged, UnjudgedPart};
pub use options::{ModelChoice, ModelOptions};
pub(crate) use overlay::{AnnotationFault, PolicyAnnotations};
use releases::{ByRelease, ReleaseSet};
pub(crate) use releases::{Declarations, Mixed};
pub(crate) use rules::{
    Amount, ByChoice, Choice, Concat, Convert, CutToBatch, Expression, Film, First, Fit, Formula, Gives, How,
    JoinCounted, ListRule, Made, Rebatch, Sampled, Side, SizeRule, SoundRule, Switch, ValueRule,
};
pub use signature::{ClassSignature, DeclaredType, InputKind, InputSignature, OutputSignature, Presence};
pub(crate) use tables::KindSet;
pub(crate) use types::TypeSet;

use foldhash::fast::RandomState;

use crate::digest::Digest;
use shipped::shipped;

/// Classes in one `object_info`; installations with hundreds of packs have about 8,000.
pub const CLASSES_MAX: usize = 20_000;

/// All node classes that a pool of backends is pinned to.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// By name.
    classes: Vec<ClassSignature>,
    /// The places of the classes: each node of each workflow is looked up.
    places: HashMap<Box<str>, usize, RandomState>,
    /// Classes that the releases don't all declare alike, where it is not known which of them runs.
    by_release: HashMap<String, ByRelease, RandomState>,
    complete: bool,
    digest: Digest,
}

/// Why an `object_info` is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Not JSON.
    #[error("not JSON: {0}; fetch the object_info again")]
    Json(String),
    /// Not an object of classes, or a class of another shape.
    #[error("class `{class}`: {message}; fetch the object_info again, or take the class out of the file")]
    Class {
        /// The class, or empty for the whole.
        class: String,
        /// What is wrong.
        message: String,
    },
}

static BUILTIN: LazyLock<Catalogue> = LazyLock::new(|| {
    // What a release does not name is as in the one before.
    let (mut declared, mut known) = (BTreeMap::<&String, &ClassSignature>::new(), BTreeMap::new());
    for (place, release) in shipped().releases().enumerate() {
        declared.extend(release);
        for (name, class) in &declared {
            let known: &mut Vec<(ReleaseSet, ClassSignature)> = known.entry((*name).clone()).or_default();
            match known.iter_mut().find(|(_, known)| known.shape() == class.shape()) {
                Some((releases, known)) => {
                    *releases = releases.with(place);
                    if release.contains_key(*name) {
                        known.add_choices_of(class);
                    }
                }
                None => known.push((ReleaseSet::default().with(place), (*class).clone())),
            }
        }
    }
    let (mut classes, mut by_release) = (BTreeMap::new(), BTreeMap::new());
    for (name, mut known) in known {
        let (first, class) = known.remove(0);
        if !known.is_empty() || first != ReleaseSet::all(shipped().names.len()) {
            by_release.insert(name.clone(), ByRelease { first, others: known });
        }
        classes.insert(name, class);
    }
    Catalogue::of(classes, by_release, false)
});

static INSTALLATION_0_8_0: LazyLock<Arc<Catalogue>> =
    LazyLock::new(|| Arc::new(Catalogue::of(shipped().first.clone(), BTreeMap::new(), true)));

impl Catalogue {
    /// ComfyUI's own classes as they ship, annotated: those of 0.8.0, and those that later releases added. For judging a workflow without an installation: nothing is known of packs.
    pub fn builtin() -> &'static Catalogue {
        &BUILTIN
    }

    /// The classes of an installation of ComfyUI 0.8.0 without packs, to be shared.
    pub fn builtin_arc() -> Arc<Catalogue> {
        Arc::clone(&INSTALLATION_0_8_0)
    }

    /// Whether a class that is not in it does not exist. It may otherwise be one of a pack that nobody described here.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// A catalogue from the `GET /object_info` of a backend, as saved in a pinned file. ComfyUI's own classes have the annotations of the shipped signature that is theirs; those whose signature
    /// is none of the shipped ones are closed. Classes of packs have the shipped annotations where these fit, and the kinds which their declaration shows elsewhere.
    ///
    /// # Errors
    /// The text is not an `object_info`.
    pub fn from_object_info(json: &[u8]) -> Result<Catalogue, CatalogueError> {
        let classes = read::classes(json)?;
        let joined = classes.into_iter().map(|(name, class)| (name, annotated(class)));
        Ok(Self::of(joined.collect(), BTreeMap::new(), true))
    }

    fn of(classes: BTreeMap<String, ClassSignature>, by_release: BTreeMap<String, ByRelease>, complete: bool) -> Self {
        // The digest covers all that a verdict may depend on, annotations included.
        let text = format!("{complete} {classes:?} {by_release:?}");
        Self::holding(classes, by_release, complete, Digest::of(text.as_bytes()))
    }

    /// Exactly these classes under a digest that covers them.
    fn holding(
        classes: BTreeMap<String, ClassSignature>,
        by_release: BTreeMap<String, ByRelease>,
        complete: bool,
        digest: Digest,
    ) -> Self {
        let places = classes.keys().enumerate().map(|(place, name)| (name.as_str().into(), place)).collect();
        let by_release = by_release.into_iter().map(|(name, known)| (name, known.with_tables())).collect();
        let classes = classes.into_values().map(ClassSignature::with_tables).collect();
        Self { classes, places, by_release, complete, digest }
    }

    /// The class of this name; of several releases the oldest that has it.
    pub fn class(&self, name: &str) -> Option<&ClassSignature> {
        self.classes.get(*self.places.get(name)?)
    }

    /// All classes by name.
    pub fn classes(&self) -> impl Iterator<Item = &ClassSignature> {
        self.classes.iter()
    }

    /// SHA-256 over all signatures and annotations.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many classes.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there is no class at all.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// What a newer `object_info` has that this catalogue does not.
    ///
    /// # Errors
    /// The text is not an `object_info`.
    pub fn news(&self, object_info: &[u8]) -> Result<News, CatalogueError> {
        Ok(News::between(self, &read::classes(object_info)?))
    }

    /// Compares this catalogue with what a live backend says. Option lists and defaults do not count: they change with the models installed.
    ///
    /// # Errors
    /// The text is not an `object_info`.
    pub fn agreement(&self, live_object_info: &[u8]) -> Result<Agreement, CatalogueError> {
        Ok(Agreement::between(self, &read::classes(live_object_info)?))
    }
}

/// A live class with what ships about it.
fn annotated(live: ClassSignature) -> ClassSignature {
    if !live.is_core() && shipped().same_as(&live).is_none() {
        return match shipped().of_pack(&live) {
            Some(annotation) => live.annotated_over_declared(annotation),
            None => live.with_declared_kinds(),
        };
    }
    match (shipped().same_as(&live), shipped().named(live.name())) {
        (Some(known), _) => live.annotated_like(known),
        (None, Some(known)) => live.with_kinds_of(known).closed("its signature differs from the annotated ones"),
        (None, None) => live.with_declared_kinds().closed("a class of a ComfyUI release that is not annotated yet"),
    }
}

#[cfg(test)]
mod tests;
