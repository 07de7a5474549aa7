//! What the documents of a chain say together, before it is compiled.

use globset::Glob;

use super::sections::PATTERNS_MAX;
use crate::catalogue::PolicyAnnotations;
use crate::cost::CostModel;
use crate::digest::Digest;
use crate::files::Directory;
use crate::patterns::Patterns;
use crate::policy::bans::Bans;
use crate::policy::network::{AddressPattern, NetworkRules};
use crate::policy::rules::{Allowance, FileRules, ModelRule, TextRules};
use crate::policy::{
    AssumedUpload, Caps, Mode, PaidNodes, Policy, Posture, RouteBundle, UPSCALE_MODEL_FACTOR_MAX, VAE_FRAMES_MAX,
    VAE_SCALE_MAX,
};

/// Bytes of all patterns about texts, compiled into one automaton.
const TEXT_AUTOMATON_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that the automaton may take while it runs.
const TEXT_CACHE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Lists of names.
#[derive(Default)]
pub(super) struct ListDraft {
    /// `None`: no document has said.
    pub(super) allow: Option<Vec<Glob>>,
    pub(super) deny: Vec<Glob>,
}

/// A rule about models.
pub(super) struct ModelDraft {
    pub(super) input_text: String,
    pub(super) input: Glob,
    pub(super) allow: Option<Vec<Glob>>,
    pub(super) deny: Vec<Glob>,
}

/// Rules about texts.
#[derive(Default)]
pub(super) struct TextsDraft {
    pub(super) bytes_max: Option<usize>,
    /// As written, and as a regular expression.
    pub(super) patterns: Vec<(String, String)>,
    pub(super) embeddings: Option<Vec<Glob>>,
}

/// Rules about files.
#[derive(Default)]
pub(super) struct FilesDraft {
    pub(super) assumed: Option<AssumedUpload>,
    pub(super) inputs: ListDraft,
    pub(super) directories: Option<Vec<Directory>>,
}

/// Caps as they are written.
#[derive(Default)]
pub(super) struct CapsDraft {
    steps: Option<i128>,
    steps_total: Option<i128>,
    width: Option<i128>,
    height: Option<i128>,
    megapixels: Option<f64>,
    megapixels_total: Option<f64>,
    batch: Option<i128>,
    frames: Option<i128>,
    seconds: Option<f64>,
    denoise_min: Option<f64>,
    nodes: Option<i128>,
    outputs: Option<i128>,
    upscale: Option<f64>,
    upscale_model_factor: Option<i128>,
    vae_frames: Option<i128>,
    vae_scale: Option<i128>,
}

impl CapsDraft {
    /// The cap of this name, if it is a whole number.
    pub(super) fn whole(&mut self, key: &str) -> Option<&mut Option<i128>> {
        Some(match key {
            "steps" => &mut self.steps,
            "steps_total" => &mut self.steps_total,
            "width" => &mut self.width,
            "height" => &mut self.height,
            "batch" => &mut self.batch,
            "frames" => &mut self.frames,
            "nodes" => &mut self.nodes,
            "outputs" => &mut self.outputs,
            "upscale_model_factor" => &mut self.upscale_model_factor,
            "vae_frames" => &mut self.vae_frames,
            "vae_scale" => &mut self.vae_scale,
            _ => return None,
        })
    }

    /// The cap of this name, if it is any number.
    pub(super) fn decimal(&mut self, key: &str) -> Option<&mut Option<f64>> {
        Some(match key {
            "megapixels" => &mut self.megapixels,
            "megapixels_total" => &mut self.megapixels_total,
            "seconds" => &mut self.seconds,
            "denoise_min" => &mut self.denoise_min,
            "upscale" => &mut self.upscale,
            _ => return None,
        })
    }

    fn compiled(self) -> Caps {
        let pixels = |megapixels: f64| crate::bounds::interval::floor(megapixels * 1_000_000.0);
        Caps {
            steps: self.steps,
            steps_total: self.steps_total,
            width: self.width,
            height: self.height,
            pixels: self.megapixels.map(pixels),
            pixels_total: self.megapixels_total.map(pixels),
            batch: self.batch,
            frames: self.frames,
            seconds: self.seconds,
            denoise_min: self.denoise_min,
            nodes: self.nodes,
            outputs: self.outputs,
            cost: None,
            upscale: self.upscale,
            upscale_model_factor: self.upscale_model_factor.unwrap_or(UPSCALE_MODEL_FACTOR_MAX),
            vae_frames: self.vae_frames.unwrap_or(VAE_FRAMES_MAX),
            vae_scale: self.vae_scale.unwrap_or(VAE_SCALE_MAX),
        }
    }
}

/// All of it.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) posture: Posture,
    pub(super) mode: Mode,
    pub(super) routes: Vec<RouteBundle>,
    pub(super) paid_nodes: PaidNodes,
    pub(super) cost_limit: Option<f64>,
    pub(super) classes: ListDraft,
    pub(super) packs: ListDraft,
    pub(super) samplers: ListDraft,
    pub(super) schedulers: ListDraft,
    pub(super) network: ListDraft,
    pub(super) models: Vec<ModelDraft>,
    pub(super) texts: TextsDraft,
    pub(super) files: FilesDraft,
    pub(super) caps: CapsDraft,
    pub(super) annotations: PolicyAnnotations,
}

/// What `allow` is when no document gives it.
enum Absent {
    Nothing,
    Everything,
}

impl Draft {
    /// The policy, or why the patterns together are too many to compile.
    pub(super) fn policy(self, digest: Digest, extended: Vec<String>) -> Result<Policy, String> {
        let files = FileRules {
            assumed: self.files.assumed,
            inputs: allowance("files.inputs", self.files.inputs, Absent::Everything)?,
            directories: self.files.directories,
        };
        Ok(Policy {
            name: self.name,
            digest,
            extended,
            posture: self.posture,
            mode: self.mode,
            routes: self.routes,
            paid_nodes: self.paid_nodes,
            classes: allowance("classes", self.classes, Absent::Nothing)?,
            packs: allowance("packs", self.packs, Absent::Nothing)?,
            samplers: allowance("samplers", self.samplers, Absent::Everything)?,
            schedulers: allowance("schedulers", self.schedulers, Absent::Everything)?,
            network: NetworkRules {
                allow: addresses("network.allow", self.network.allow.unwrap_or_default())?,
                deny: addresses("network.deny", self.network.deny)?,
            },
            models: self.models.into_iter().map(model_rule).collect::<Result<_, _>>()?,
            texts: text_rules(self.texts)?,
            files,
            caps: Caps { cost: self.cost_limit, ..self.caps.compiled() },
            annotations: std::sync::Arc::new(self.annotations),
            bans: Bans::default(),
            costs: CostModel::builtin(),
        })
    }
}

fn allowance(key: &str, draft: ListDraft, absent: Absent) -> Result<Allowance, String> {
    let allow = match (draft.allow, absent) {
        (Some(allow), _) => set(&format!("{key}.allow"), allow)?,
        (None, Absent::Nothing) => Patterns::default(),
        (None, Absent::Everything) => Patterns::all(),
    };
    Ok(Allowance { allow, deny: set(&format!("{key}.deny"), draft.deny)? })
}

fn addresses(key: &str, globs: Vec<Glob>) -> Result<Vec<AddressPattern>, String> {
    if globs.len() > PATTERNS_MAX {
        return Err(format!(
            "`{key}`: more than {PATTERNS_MAX} patterns in all documents together: let `*` stand for several"
        ));
    }
    let pattern = |glob: &Glob| AddressPattern::of(glob.glob()).map_err(|why| format!("`{key}`: {why}"));
    globs.iter().map(pattern).collect()
}

fn model_rule(draft: ModelDraft) -> Result<ModelRule, String> {
    let general = draft.input_text.chars().all(|c| matches!(c, '*' | '.'));
    Ok(ModelRule {
        input: set("models.input", vec![draft.input])?,
        general,
        allow: draft.allow.map(|allow| set("models.allow", allow)).transpose()?,
        deny: set("models.deny", draft.deny)?,
    })
}

fn text_rules(draft: TextsDraft) -> Result<TextRules, String> {
    let (patterns, sources): (Vec<String>, Vec<String>) = draft.patterns.into_iter().unzip();
    let deny = match sources.is_empty() {
        true => None,
        false => Some(
            regex::RegexSetBuilder::new(sources)
                .case_insensitive(true)
                .size_limit(TEXT_AUTOMATON_BYTES_MAX)
                .dfa_size_limit(TEXT_CACHE_BYTES_MAX)
                .build()
                .map_err(|_| {
                    format!("`texts`: all patterns together take more than {TEXT_AUTOMATON_BYTES_MAX} bytes: deny fewer or simpler ones")
                })?,
        ),
    };
    let embeddings = draft.embeddings.map(|globs| set("texts.embeddings", globs)).transpose()?;
    Ok(TextRules { bytes_max: draft.bytes_max, deny, patterns, embeddings })
}

fn set(key: &str, globs: Vec<Glob>) -> Result<Patterns, String> {
    if globs.len() > PATTERNS_MAX {
        return Err(format!(
            "`{key}`: more than {PATTERNS_MAX} patterns in all documents together: let `*` stand for several"
        ));
    }
    Patterns::of(globs).map_err(|error| format!("`{key}`: not a list of patterns: {error}"))
}
