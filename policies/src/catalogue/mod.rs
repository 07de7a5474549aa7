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
mod read;
mod rules;
mod signature;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

pub use agreement::Agreement;
pub use annotations::DynamicInput;
pub(crate) use overlay::{AnnotationFault, PolicyAnnotations};
pub(crate) use rules::{
    Amount, Concat, CutToBatch, Film, First, Formula, ListRule, Made, Rebatch, Sampled, SizeRule, SoundRule, Switch,
    ValueRule,
};
pub use signature::{ClassSignature, DeclaredType, InputKind, InputSignature, OutputSignature, Presence};

use foldhash::fast::RandomState;

use crate::digest::Digest;
use annotations::Annotations;

/// ComfyUI 0.8.0's own classes.
const COMFYUI_0_8_0: &str = include_str!("../../catalogues/comfyui-0.8.0.json");
const ANNOTATIONS_0_8_0: &str = include_str!("../../catalogues/annotations-0.8.0.json");

/// Classes in one `object_info`; installations with hundreds of packs have about 8,000.
pub const CLASSES_MAX: usize = 20_000;

/// All node classes that a pool of backends is pinned to.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// By name.
    classes: Vec<ClassSignature>,
    /// The places of the classes: each node of each workflow is looked up.
    places: HashMap<Box<str>, usize, RandomState>,
    digest: Digest,
    partial: bool,
}

/// Why an `object_info` is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// Not an object of classes, or a class of another shape.
    #[error("class `{class}`: {message}")]
    Class {
        /// The class, or empty for the whole.
        class: String,
        /// What is wrong.
        message: String,
    },
}

static BUILTIN: LazyLock<Arc<Catalogue>> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "a file that ships; a test reads it")]
    let annotations = Annotations::read(ANNOTATIONS_0_8_0).expect("the shipped annotations are good");
    #[expect(clippy::expect_used, reason = "a file that ships; a test reads it")]
    let classes = read::classes(COMFYUI_0_8_0.as_bytes()).expect("the shipped snapshot is good");
    let classes = classes.into_iter().map(|(name, class)| (name, annotations.apply(class))).collect();
    Arc::new(Catalogue::of(classes))
});

impl Catalogue {
    /// The shipped snapshot of ComfyUI 0.8.0, annotated.
    pub fn builtin() -> &'static Catalogue {
        &BUILTIN
    }

    /// The same, to be shared.
    pub fn builtin_arc() -> Arc<Catalogue> {
        Arc::clone(&BUILTIN)
    }

    /// A catalogue from the `GET /object_info` of a backend, as saved in a pinned file. ComfyUI's own classes keep the shipped annotations; those whose signature differs from the shipped one, and
    /// those that the shipped release does not have, are closed. Classes of other packs have the kinds which their declaration shows.
    ///
    /// # Errors
    /// The text is not an `object_info`.
    pub fn from_object_info(json: &[u8]) -> Result<Catalogue, CatalogueError> {
        let builtin = Self::builtin();
        let classes = read::classes(json)?;
        let joined = classes.into_iter().map(|(name, class)| {
            let class = match builtin.class(&name) {
                Some(known) if known.shape() == class.shape() && known.module == class.module => {
                    class.annotated_like(known)
                }
                Some(known) => class.with_kinds_of(known).closed("its signature differs from the annotated one"),
                None if class.is_core() => {
                    class.with_declared_kinds().closed("a class of a ComfyUI release that is not annotated yet")
                }
                None => class.with_declared_kinds(),
            };
            (name, class)
        });
        Ok(Self::of(joined.collect()))
    }

    fn of(classes: BTreeMap<String, ClassSignature>) -> Self {
        // The digest covers all that a verdict may depend on, annotations included.
        let text = format!("{classes:?}");
        Self::holding(classes, Digest::of(text.as_bytes()))
    }

    /// Exactly these classes under a digest that covers them.
    fn holding(classes: BTreeMap<String, ClassSignature>, digest: Digest) -> Self {
        let places = classes.keys().enumerate().map(|(place, name)| (name.as_str().into(), place)).collect();
        Self { classes: classes.into_values().collect(), places, digest, partial: false }
    }

    /// The same classes, of an installation about which no more is known: in the owner posture a class that is not here may be installed all the same, and is taken on trust. For checks of
    /// workflows on their own; a gateway knows what its backends have.
    #[must_use]
    pub fn partial(&self) -> Catalogue {
        let digest = Digest::of(format!("partial {}", self.digest).as_bytes());
        Catalogue { partial: true, digest, ..self.clone() }
    }

    /// Whether classes may be installed that are not here.
    pub(crate) fn is_partial(&self) -> bool {
        self.partial
    }

    /// The class of this name.
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

    /// Compares this catalogue with what a live backend says. Option lists and defaults do not count: they change with the models installed.
    ///
    /// # Errors
    /// The text is not an `object_info`.
    pub fn agreement(&self, live_object_info: &[u8]) -> Result<Agreement, CatalogueError> {
        Ok(Agreement::between(self, &read::classes(live_object_info)?))
    }
}

#[cfg(test)]
mod tests;
