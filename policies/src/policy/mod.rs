//! Policy document to compiled policy.
//!
//! In comes TOML as a person wrote it, out comes a [`Policy`] that is checked once and asked often, or [`PolicyErrors`]: every fault at once. What a policy does not
//! mention is not allowed (classes) or not limited (caps); the rules of structure, links, files and save prefixes hold under every policy.

mod bans;
mod fault;
mod raw;

use std::sync::Arc;

use globset::GlobSet;

pub use fault::{PolicyError, PolicyErrors};

use crate::catalogue::ClassSignature;
use crate::cost::CostModel;
use crate::digest::Digest;

/// Documents that ship, by name.
const DOCUMENTS: [(&str, &str); 3] = [
    ("default", include_str!("../../documents/default.toml")),
    ("owner", include_str!("../../documents/owner.toml")),
    ("strict", include_str!("../../documents/strict.toml")),
];

/// Who the policy is for; decides what is taken on trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Posture {
    /// Strangers who share backends: what is not known is refused.
    #[default]
    Tenants,
    /// One person or team on its own installation: installed packs are trusted, and so are their classes, routes and events.
    Owner,
}

impl Posture {
    /// Every posture, by the name that documents use.
    pub const NAMES: [(&'static str, Self); 2] = [("tenants", Self::Tenants), ("owner", Self::Owner)];

    /// As documents write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::Owner => "owner",
        }
    }
}

/// Routes beyond ComfyUI's own that a policy opens by name, in the owner posture only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteBundle {
    /// ComfyUI-Manager: installs code on the backend (facts §1.6).
    Manager,
}

impl RouteBundle {
    /// Every bundle, by the name that documents use.
    pub const NAMES: [(&'static str, Self); 1] = [("manager", Self::Manager)];
}

/// The largest spatial factor of a VAE that we know (HunyuanImage 2.1, LTXV); assumed unless the policy says which VAEs are installed.
const VAE_SCALE_MAX: i128 = 32;
/// The largest factor of an upscale model that we know; assumed unless the policy says otherwise.
const UPSCALE_MODEL_FACTOR_MAX: i128 = 8;

/// A compiled policy.
#[derive(Debug, Clone)]
pub struct Policy {
    name: String,
    digest: Digest,
    posture: Posture,
    routes: Vec<RouteBundle>,
    classes: Allowance,
    packs: Allowance,
    samplers: Allowance,
    schedulers: Allowance,
    pub(crate) caps: Caps,
    costs: Arc<CostModel>,
    bans: bans::Bans,
}

/// Names that are allowed; a denial wins.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    allow: GlobSet,
    deny: GlobSet,
}

impl Allowance {
    fn allows(&self, name: &str) -> bool {
        self.allow.is_match(name) && !self.denies(name)
    }

    fn denies(&self, name: &str) -> bool {
        self.deny.is_match(name)
    }
}

/// Limits by meaning; an absent one does not limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Caps {
    /// Sampling steps of one sampler.
    pub(crate) steps: Option<i128>,
    /// Sampling steps of all samplers together.
    pub(crate) steps_total: Option<i128>,
    /// Pixels of one image.
    pub(crate) width: Option<i128>,
    /// Pixels of one image.
    pub(crate) height: Option<i128>,
    /// Pixels of one image, width × height.
    pub(crate) pixels: Option<i128>,
    /// Pixels of all images of one batch together.
    pub(crate) pixels_total: Option<i128>,
    /// Images or latents in one batch.
    pub(crate) batch: Option<i128>,
    /// Frames of one video.
    pub(crate) frames: Option<i128>,
    /// Seconds of sound.
    pub(crate) seconds: Option<f64>,
    /// Smallest `denoise` apart from 0.
    pub(crate) denoise_min: Option<f64>,
    /// Nodes of a workflow.
    pub(crate) nodes: Option<i128>,
    /// Output nodes of a workflow.
    pub(crate) outputs: Option<i128>,
    /// How much an upscale model multiplies width and height at most.
    pub(crate) upscale_model_factor: i128,
    /// How many pixels a latent cell becomes at most, over all VAEs installed.
    pub(crate) vae_scale: i128,
}

impl Caps {
    /// No cap at all; the factors are those that fit every model.
    fn none() -> Self {
        Self {
            steps: None,
            steps_total: None,
            width: None,
            height: None,
            pixels: None,
            pixels_total: None,
            batch: None,
            frames: None,
            seconds: None,
            denoise_min: None,
            nodes: None,
            outputs: None,
            upscale_model_factor: UPSCALE_MODEL_FACTOR_MAX,
            vae_scale: VAE_SCALE_MAX,
        }
    }

    /// Whether the size of what is made is limited in any way.
    pub(crate) fn limits_sizes(&self) -> bool {
        [self.width, self.height, self.pixels, self.pixels_total, self.batch, self.frames].iter().any(Option::is_some)
    }

    /// Whether the number of steps is limited in any way.
    pub(crate) fn limits_steps(&self) -> bool {
        self.steps.is_some() || self.steps_total.is_some()
    }

    /// Whether any rule here depends on numbers.
    pub(crate) fn limits_anything(&self) -> bool {
        self.limits_sizes() || self.limits_steps() || self.seconds.is_some()
    }
}

/// Why a class may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClassRefusal {
    /// A pattern of `deny` names it or its module.
    Denied,
    /// No pattern of `allow` names it.
    NotAllowed,
    /// An operator banned it for everybody.
    Banned,
}

impl Policy {
    /// Reads a policy document.
    ///
    /// ```
    /// let policy = comfygate_policy::Policy::from_toml(r#"
    ///     name = "mine"
    ///     [classes]
    ///     allow = ["KSampler*", "EmptyLatentImage"]
    ///     [caps]
    ///     steps = 50
    /// "#).unwrap();
    /// assert_eq!(policy.name(), "mine");
    /// ```
    ///
    /// # Errors
    /// Every fault, each with line, column and key.
    pub fn from_toml(text: &str) -> Result<Policy, PolicyErrors> {
        raw::read(text)
    }

    /// A policy that ships: `default` (strangers on shared GPUs), `owner` (an installation that is trusted) or `strict` (text to image only).
    pub fn builtin(name: &str) -> Option<Policy> {
        let (_, text) = DOCUMENTS.iter().find(|(known, _)| *known == name)?;
        // All are read in a test.
        Self::from_toml(text).ok()
    }

    /// SHA-256 of the document's text and of the rules that the engine adds, with the classes that are banned.
    pub fn digest(&self) -> Digest {
        self.banned_digest(self.digest)
    }

    /// The name that the document gives itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This policy with another table of what models cost.
    #[must_use]
    pub fn with_costs(mut self, costs: Arc<CostModel>) -> Policy {
        self.digest = Digest::of(format!("{}\n{}", self.digest, costs.digest()).as_bytes());
        self.costs = costs;
        self
    }

    /// What models cost.
    pub(crate) fn costs(&self) -> &CostModel {
        &self.costs
    }

    /// Who it is for.
    pub fn posture(&self) -> Posture {
        self.posture
    }

    /// Whether it opens that bundle of routes.
    pub fn opens(&self, bundle: RouteBundle) -> bool {
        self.routes.contains(&bundle)
    }

    /// Whether this class is taken on trust: ComfyUI judges its inputs, not we. Its own classes are judged in either posture.
    pub(crate) fn trusts(&self, class: &ClassSignature) -> bool {
        self.posture == Posture::Owner && !class.is_core()
    }

    /// The same policy without caps on what is made; what it says of the models stays.
    pub(crate) fn without_caps(&self) -> Policy {
        let Caps { upscale_model_factor, vae_scale, .. } = self.caps;
        Policy { caps: Caps { upscale_model_factor, vae_scale, ..Caps::none() }, ..self.clone() }
    }

    /// Whether the class may be used. Classes and modules may both allow; a denial of either wins.
    pub(crate) fn class_refusal(&self, class: &ClassSignature) -> Option<ClassRefusal> {
        if self.bans.has(class.name()) {
            return Some(ClassRefusal::Banned);
        }
        if self.classes.denies(class.name()) || self.packs.denies(class.module()) {
            return Some(ClassRefusal::Denied);
        }
        let allowed = self.classes.allows(class.name()) || self.packs.allows(class.module());
        (!allowed).then_some(ClassRefusal::NotAllowed)
    }

    /// Whether a caller may use the class at all: what a filtered `/object_info` shows.
    pub fn allows_class(&self, class: &ClassSignature) -> bool {
        self.class_refusal(class).is_none()
    }

    pub(crate) fn allows_sampler(&self, name: &str) -> bool {
        self.samplers.allows(name)
    }

    /// The list that stands against a sampler or scheduler which the rule `code` refuses.
    pub(crate) fn list_against(&self, code: &str, name: &str) -> Option<&'static str> {
        match code {
            "sampler_refused" if self.samplers.denies(name) => Some("samplers.deny"),
            "sampler_refused" => Some("samplers.allow"),
            "scheduler_refused" if self.schedulers.denies(name) => Some("schedulers.deny"),
            "scheduler_refused" => Some("schedulers.allow"),
            _ => None,
        }
    }

    pub(crate) fn allows_scheduler(&self, name: &str) -> bool {
        self.schedulers.allows(name)
    }
}

#[cfg(test)]
mod tests;
