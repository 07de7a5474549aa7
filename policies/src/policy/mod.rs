//! Policy document to compiled policy.
//!
//! In comes TOML as a person wrote it, out comes a [`Policy`] that is checked once and asked often, or [`PolicyErrors`]: every fault at once. What a policy does not
//! mention is not allowed (classes) or not limited (caps); the rules of structure, links, files and save prefixes hold under every policy.

mod bans;
mod fault;
mod network;
mod raw;
mod rules;

use std::sync::Arc;

pub use fault::{PolicyError, PolicyErrors};
pub(crate) use network::Address;
pub use rules::{AssumedUpload, Mode, PaidNodes};
pub(crate) use rules::{FileRules, ModelRefusal, TextRules};

use crate::catalogue::{Catalogue, ClassSignature, PolicyAnnotations};
use crate::cost::CostModel;
use crate::digest::Digest;
use rules::{Allowance, ModelRule};

/// Documents that ship, by name.
const DOCUMENTS: [(&str, &str); 4] = [
    ("default", include_str!("../../documents/default.toml")),
    ("generous", include_str!("../../documents/generous.toml")),
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
/// Frames that a cell in time of the VAEs of LTXV and Cosmos 1 stands for, the most that ComfyUI 0.8.0 knows (comfy/sd.py `VAE`).
const VAE_FRAMES_MAX: i128 = 8;
/// The largest factor of an upscale model that we know; assumed unless the policy says otherwise.
const UPSCALE_MODEL_FACTOR_MAX: i128 = 8;

/// A compiled policy.
#[derive(Debug, Clone)]
pub struct Policy {
    name: String,
    digest: Digest,
    /// The documents that it extends, the nearest first.
    extended: Vec<String>,
    posture: Posture,
    mode: Mode,
    routes: Vec<RouteBundle>,
    paid_nodes: PaidNodes,
    classes: Allowance,
    packs: Allowance,
    samplers: Allowance,
    schedulers: Allowance,
    network: network::NetworkRules,
    models: Vec<ModelRule>,
    pub(crate) texts: TextRules,
    pub(crate) files: FileRules,
    pub(crate) caps: Caps,
    annotations: Arc<PolicyAnnotations>,
    costs: Arc<CostModel>,
    bans: bans::Bans,
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
    /// Cost of the whole, in units of one SDXL step at 1024 × 1024.
    pub(crate) cost: Option<f64>,
    /// How much a node that scales by a number multiplies width and height at most.
    pub(crate) upscale: Option<f64>,
    /// How much an upscale model multiplies width and height at most.
    pub(crate) upscale_model_factor: i128,
    /// How many frames a latent cell in time becomes at most, over all VAEs installed.
    pub(crate) vae_frames: i128,
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
            cost: None,
            upscale: None,
            upscale_model_factor: UPSCALE_MODEL_FACTOR_MAX,
            vae_frames: VAE_FRAMES_MAX,
            vae_scale: VAE_SCALE_MAX,
        }
    }

    /// The same without limits on what is made; what they say of the models stays.
    pub(crate) fn without_limits(&self) -> Self {
        Self {
            upscale_model_factor: self.upscale_model_factor,
            vae_frames: self.vae_frames,
            vae_scale: self.vae_scale,
            ..Self::none()
        }
    }

    /// Whether the size of what is made is limited in any way.
    pub(crate) fn limits_sizes(&self) -> bool {
        let sizes = [self.width, self.height, self.pixels, self.pixels_total, self.batch, self.frames];
        sizes.iter().any(Option::is_some) || self.upscale.is_some() || self.cost.is_some()
    }

    /// Whether the number of steps is limited in any way.
    pub(crate) fn limits_steps(&self) -> bool {
        // The cost of what can't be bounded can't be either.
        self.steps.is_some() || self.steps_total.is_some() || self.cost.is_some()
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
    /// Every fault, each with line, column and key. A document that extends a file is one: see [`from_toml_with`](Self::from_toml_with).
    pub fn from_toml(text: &str) -> Result<Policy, PolicyErrors> {
        raw::read(text, &|_| None)
    }

    /// Reads a policy document that may extend others: those that ship by their names, which no file takes the place of, and files as `files` gives their text. A base that extends a file names
    /// it to the same `files`.
    ///
    /// ```
    /// let bases = |name: &str| (name == "team.toml").then(|| "name = \"team\"\nextends = \"strict\"\n".to_owned());
    /// let policy = comfygate_policy::Policy::from_toml_with("name = \"mine\"\nextends = \"team.toml\"\n", &bases).unwrap();
    /// assert_eq!(policy.extended(), ["team.toml", "strict"]);
    /// ```
    ///
    /// # Errors
    /// Every fault of all the documents; a base that is missing, that extends itself, or that stands too far down.
    pub fn from_toml_with(text: &str, files: &dyn Fn(&str) -> Option<String>) -> Result<Policy, PolicyErrors> {
        raw::read(text, files)
    }

    /// The documents that it extends, the nearest first, by the names that are written.
    pub fn extended(&self) -> &[String] {
        &self.extended
    }

    /// Names of the policies that ship.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        DOCUMENTS.into_iter().map(|(name, _)| name)
    }

    /// A policy that ships: `default` (strangers on shared GPUs), `generous` (callers who are known, on all of ComfyUI's own classes), `owner` (an installation that is trusted) or `strict` (text to image only).
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

    /// Whether its own rules refuse or only tell.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Who pays for the nodes of comfy.org's services.
    pub fn paid_nodes(&self) -> PaidNodes {
        self.paid_nodes
    }

    /// The classes of a workflow with this policy's own annotations, where it has any for them; the digest is that of `catalogue`. `None`: the catalogue is right as it is.
    pub(crate) fn annotated<'n>(
        &self,
        catalogue: &Catalogue,
        classes: impl Iterator<Item = &'n str>,
    ) -> Option<Catalogue> {
        catalogue.annotated_by(&self.annotations, classes)
    }

    /// Whether there is any rule about models.
    pub(crate) fn has_model_rules(&self) -> bool {
        !self.models.is_empty()
    }

    /// What stands for an upload that nobody has measured; none: such an upload is without bounds.
    pub fn assumed_upload(&self) -> Option<AssumedUpload> {
        self.files.assumed()
    }

    /// Whether a rule is about the models of this input. `names_models`: it is known to name one.
    pub(crate) fn has_model_rule(&self, class: &str, input: &str, names_models: bool) -> bool {
        rules::speaks_of(&self.models, class, input, names_models)
    }

    /// What stands against the model `name` at an input.
    pub(crate) fn model_refusal(
        &self,
        class: &str,
        input: &str,
        names_models: bool,
        name: &str,
    ) -> Option<ModelRefusal> {
        rules::model_refusal(&self.models, class, input, names_models, name)
    }

    /// The list that stands against fetching from this address, if one does.
    pub(crate) fn against_address(&self, address: &Address) -> Option<&'static str> {
        self.network.against(address)
    }

    /// Whether the class may be used. Classes, modules and packs may each allow; a denial of either wins.
    pub(crate) fn class_refusal(&self, class: &ClassSignature) -> Option<ClassRefusal> {
        if self.bans.has(class.name()) {
            return Some(ClassRefusal::Banned);
        }
        let pack = class.own_pack();
        let pack_denied = self.packs.denies(class.module()) || pack.is_some_and(|pack| self.packs.denies(pack));
        if self.classes.denies(class.name()) || pack_denied {
            return Some(ClassRefusal::Denied);
        }
        // Nothing denies it.
        let pack_allowed =
            || self.packs.allow.matches(class.module()) || pack.is_some_and(|pack| self.packs.allow.matches(pack));
        let allowed = self.classes.allow.matches(class.name()) || pack_allowed();
        (!allowed).then_some(ClassRefusal::NotAllowed)
    }

    /// Whether a caller may use the class at all: what a filtered `/object_info` shows.
    pub fn allows_class(&self, class: &ClassSignature) -> bool {
        let paid = class.is_paid() && self.paid_nodes == PaidNodes::Deny;
        !paid && (self.mode == Mode::Shadow || self.class_refusal(class).is_none())
    }

    /// Whether a prompt of a caller's may ask for the embedding: what a filtered `/embeddings` lists. All in shadow mode.
    pub fn offers_embedding(&self, name: &str) -> bool {
        self.mode == Mode::Shadow || self.texts.allows_embedding(name)
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
mod schema_tests;
#[cfg(test)]
mod tests;
