//! A policy from workflows: what accepts exactly these and their like.
//!
//! In come submissions that ran somewhere, out comes a policy document that a person can read and correct: their classes by name, their models, samplers and schedulers, and caps a stated
//! headroom above the largest value found. The same submissions in any order give the same bytes. What no policy allows, or what has no bound to cap, is left out and named.

mod document;
mod observe;

use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::Catalogue;
use crate::decide;
use crate::digest::Digest;
use crate::files::FileFacts;
use crate::policy::Policy;
use crate::submission::Parsed;
use crate::suggest::{Change, MODELS, suggestion};
use crate::verdict::{Verdict, Violation};

/// Documents that are tried at most: each answers what still stood against some workflow under the one before.
const ROUNDS_MAX: usize = 16;

/// How a policy is learned.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnOptions {
    /// The document's name.
    pub name: String,
    /// How far above the largest value that was found a cap stands, 1 or more.
    pub headroom: f64,
    /// Whether sizes, steps and counts are capped at all. Without caps, workflows whose sizes nobody can bound are learned as well.
    pub caps: bool,
    /// Pixels that a latent cell becomes in the largest VAE installed, 1 to 64.
    pub vae_scale: u32,
    /// Factor of the largest upscale model installed, 1 to 64.
    pub upscale_model_factor: u32,
}

impl Default for LearnOptions {
    fn default() -> Self {
        Self { name: "learned".to_owned(), headroom: 1.25, caps: true, vae_scale: 8, upscale_model_factor: 4 }
    }
}

/// One submission to learn from.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Where it is from, to be named by.
    pub name: String,
    /// What it says.
    pub parsed: Parsed,
    /// The files that it may name.
    pub files: FileFacts,
}

/// A submission that the document does not accept, and why.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// Where it is from.
    pub name: String,
    /// What stands against it.
    pub violations: Vec<Violation>,
}

/// What was learned.
#[derive(Debug, Clone)]
pub struct Learned {
    /// The document, as TOML.
    pub document: String,
    /// How many different submissions it was made of.
    pub samples: usize,
    /// Those that it does not accept.
    pub left_out: Vec<LeftOut>,
}

/// Why nothing was learned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LearnError {
    /// A headroom below 1, or a factor out of range.
    #[error("{0}")]
    Options(&'static str),
    /// No submission could be learned from, and what stands against each.
    #[error(
        "there is nothing to learn from: no workflow was given that a policy could allow; give files in API format or pictures that ComfyUI saved"
    )]
    Nothing(Vec<LeftOut>),
}

/// What the samples hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Observations {
    /// Classes with the module that they are from.
    classes: BTreeMap<String, String>,
    /// Patterns of model files by `Class.input`.
    models: BTreeMap<String, BTreeSet<String>>,
    /// Patterns.
    samplers: BTreeSet<String>,
    /// Patterns.
    schedulers: BTreeSet<String>,
    /// The largest value by cap, without its section; `denoise_min` the smallest.
    caps: BTreeMap<String, f64>,
    /// Patterns of further lists, by their sections, as rules ask for them.
    lists: BTreeMap<String, BTreeSet<String>>,
}

/// Makes a policy that accepts these submissions and their like.
///
/// # Errors
/// Options out of range, or no submission that any policy could allow.
pub fn learn(samples: &[Sample], catalogue: &Catalogue, options: &LearnOptions) -> Result<Learned, LearnError> {
    if !(options.headroom >= 1.0 && options.headroom <= 1000.0) {
        return Err(LearnError::Options("the headroom is a factor from 1 to 1000"));
    }
    if ![options.vae_scale, options.upscale_model_factor].iter().all(|factor| (1..=64).contains(factor)) {
        return Err(LearnError::Options("a factor is a whole number from 1 to 64"));
    }
    let permissive = observe::permissive(options).ok_or(LearnError::Nothing(Vec::new()))?;
    let mut left_out = Vec::new();
    let mut kept: BTreeMap<Digest, &Sample> = BTreeMap::new();
    for sample in samples {
        match decide(&sample.parsed, &permissive, catalogue, &sample.files) {
            Verdict::Allow(approved) if approved.pruned().is_none() => {
                kept.insert(sample.parsed.digest(), sample);
            }
            Verdict::Allow(approved) => left_out.push(left(sample, approved.pruned().into_iter().flatten())),
            Verdict::Deny(violations) => left_out.push(left(sample, violations.iter())),
        }
    }
    let kept: Vec<&Sample> = kept.into_values().collect();
    if kept.is_empty() {
        return Err(LearnError::Nothing(left_out));
    }
    let mut seen = Observations::default();
    for sample in &kept {
        seen.add(sample, &permissive, catalogue);
    }
    let (document, refused) = settled(seen, &kept, catalogue, options);
    left_out.extend(refused);
    left_out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Learned { document, samples: kept.len(), left_out })
}

fn left<'v>(sample: &Sample, violations: impl Iterator<Item = &'v Violation>) -> LeftOut {
    LeftOut { name: sample.name.clone(), violations: violations.cloned().collect() }
}

/// The document under which no sample breaks a rule that the document could answer, and what it refuses all the same.
fn settled(
    mut seen: Observations,
    kept: &[&Sample],
    catalogue: &Catalogue,
    options: &LearnOptions,
) -> (String, Vec<LeftOut>) {
    let mut document = seen.document(kept.len(), options);
    let mut refused = refusals(&document, kept, catalogue);
    for _ in 0..ROUNDS_MAX {
        let before = seen.clone();
        let violations = refused.iter().flat_map(|left| &left.violations);
        violations.filter_map(suggestion).for_each(|found| seen.answer(&found.key, found.change));
        if seen == before {
            break;
        }
        document = seen.document(kept.len(), options);
        refused = refusals(&document, kept, catalogue);
    }
    (document, refused)
}

fn refusals(document: &str, kept: &[&Sample], catalogue: &Catalogue) -> Vec<LeftOut> {
    // What we write ourselves is read again in a test; were it ever not to be, it would accept nothing.
    let Ok(policy) = Policy::from_toml(document) else {
        return kept.iter().map(|sample| left(sample, std::iter::empty())).collect();
    };
    let refused = |sample: &&&Sample| match decide(&sample.parsed, &policy, catalogue, &sample.files) {
        Verdict::Allow(_) => None,
        Verdict::Deny(violations) => Some(left(sample, violations.iter())),
    };
    kept.iter().filter_map(|sample| refused(&sample)).collect()
}

impl Observations {
    /// Takes in what a rule asks for.
    fn answer(&mut self, key: &str, change: Change) {
        match change {
            Change::Raise(value) | Change::Lower(value) if key == "cost_limit" => self.raise(key, value),
            Change::Raise(value) => key.strip_prefix("caps.").into_iter().for_each(|cap| self.raise(cap, value)),
            Change::Lower(value) => key.strip_prefix("caps.").into_iter().for_each(|cap| self.lower(cap, value)),
            Change::Add(pattern) => {
                if let Some(list) = self.list(key) {
                    list.insert(pattern);
                }
            }
            Change::Remove(_) | Change::Set(_) => {}
        }
    }

    /// The list of patterns under a key of the document; classes are known by their names.
    fn list(&mut self, key: &str) -> Option<&mut BTreeSet<String>> {
        let section = key.strip_suffix(".allow")?;
        match (section, section.strip_prefix(MODELS)) {
            ("classes", _) => None,
            ("samplers", _) => Some(&mut self.samplers),
            ("schedulers", _) => Some(&mut self.schedulers),
            (_, Some(input)) => Some(self.models.entry(input.to_owned()).or_default()),
            (section, None) => Some(self.lists.entry(section.to_owned()).or_default()),
        }
    }

    fn raise(&mut self, cap: &str, value: f64) {
        let known = self.caps.entry(cap.to_owned()).or_insert(value);
        *known = known.max(value);
    }

    fn lower(&mut self, cap: &str, value: f64) {
        let known = self.caps.entry(cap.to_owned()).or_insert(value);
        *known = known.min(value);
    }
}

#[cfg(test)]
mod tests;
