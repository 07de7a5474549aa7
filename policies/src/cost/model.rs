//! The table of what models cost, as a file holds it.
//!
//! In comes TOML such as `documents/costs.toml`, out comes a [`CostModel`]: for the name of a model file its family's numbers. Every number is finite and not negative, which keeps a cost
//! monotone in whatever it depends on.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use crate::digest::Digest;
use crate::patterns::Patterns;

/// Bytes of a table.
const TABLE_BYTES_MAX: usize = 1024 * 1024;
/// Families of a table.
const FAMILIES_MAX: usize = 1000;
/// Patterns of one list.
const PATTERNS_MAX: usize = 1000;
/// The largest number that a table may hold; far beyond what any model costs.
const NUMBER_MAX: f64 = 1e9;
/// Bytes of a model's name that are looked at.
const NAME_BYTES_MAX: usize = 1024;

/// The table that ships.
static BUILTIN: LazyLock<Arc<CostModel>> = LazyLock::new(|| {
    // It is read in a test. Were it ever not to parse, everything would cost what the unknown costs.
    Arc::new(CostModel::from_toml(include_str!("../../documents/costs.toml")).unwrap_or_default())
});

/// What a family of models costs, in units.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Its name, such as `sdxl`.
    pub name: String,
    /// Once for each sampler: text encoding and bringing the model onto the GPU.
    pub constant: f64,
    /// One pass at 1024 × 1024 pixels.
    pub pass: f64,
    /// The part of a pass that grows with the square of the size, 0 to 1.
    pub attention: f64,
    /// Frames of a video that one latent frame after the first stands for, at least 1.
    pub frames_in_latent: f64,
}

/// Units for each 1024 × 1024 pixels of work that is no sampling.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// From latent to picture.
    pub decode: f64,
    /// From picture to latent.
    pub encode: f64,
    /// Of what goes into an upscale model.
    pub upscale: f64,
    /// Of any other picture that is made.
    pub pixels: f64,
    /// A ControlNet, as a part of a pass.
    pub control: f64,
}

/// What models cost: families by the names of model files. See `documents/costs.toml`, which ships.
#[derive(Debug, Clone)]
pub struct CostModel {
    entries: Vec<Entry>,
    names: Names,
    work: Work,
    passes: BTreeMap<String, f64>,
    digest: Digest,
}

#[derive(Debug, Clone)]
struct Entry {
    family: Family,
    /// Whether only models of some names are its own.
    named: bool,
    /// `None`: any loader.
    loaders: Option<Patterns>,
}

/// The patterns of all entries, asked at once: each model of each workflow is looked up.
#[derive(Debug, Clone)]
struct Names {
    /// Lower-cased.
    globs: GlobSet,
    /// The entry that each pattern belongs to.
    entries: Vec<usize>,
}

/// Why a text is no table of costs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CostModelError(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    work: Work,
    #[serde(default)]
    passes: BTreeMap<String, f64>,
    model: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    family: String,
    names: Option<Vec<String>>,
    loaders: Option<Vec<String>>,
    constant: f64,
    pass: f64,
    attention: f64,
    frames_in_latent: Option<f64>,
}

impl Default for CostModel {
    /// One family for everything, with the numbers of SDXL.
    fn default() -> Self {
        let family =
            Family { name: "unknown".to_owned(), constant: 2.0, pass: 0.5, attention: 0.05, frames_in_latent: 1.0 };
        Self {
            entries: vec![Entry { family, named: false, loaders: None }],
            names: Names { globs: GlobSet::empty(), entries: Vec::new() },
            work: Work { decode: 1.5, encode: 0.75, upscale: 12.0, pixels: 0.01, control: 0.5 },
            passes: BTreeMap::new(),
            digest: Digest::of(b"no table"),
        }
    }
}

impl CostModel {
    /// The table that ships.
    pub fn builtin() -> Arc<CostModel> {
        Arc::clone(&BUILTIN)
    }

    /// Reads a table.
    ///
    /// # Errors
    /// The first fault: no TOML, an unknown key, a number below 0 or not finite, a pattern that is none, a last entry that does not match everything.
    pub fn from_toml(text: &str) -> Result<CostModel, CostModelError> {
        let fault = |message: String| Err(CostModelError(message));
        if text.len() > TABLE_BYTES_MAX {
            return fault(format!("the table has more than {TABLE_BYTES_MAX} bytes"));
        }
        let raw: RawTable =
            toml::from_str(text).map_err(|error| CostModelError(error.to_string().trim_end().to_owned()))?;
        if raw.model.len() > FAMILIES_MAX {
            return fault(format!("more than {FAMILIES_MAX} models"));
        }
        let work = raw.work;
        let named = [
            ("work.decode", work.decode),
            ("work.encode", work.encode),
            ("work.upscale", work.upscale),
            ("work.pixels", work.pixels),
            ("work.control", work.control),
        ];
        let passes = raw.passes.iter().map(|(class, number)| (class.as_str(), *number));
        for (name, number) in named.into_iter().chain(passes) {
            check(name, number, 0.0, NUMBER_MAX)?;
        }
        let last_is_default = raw.model.last().is_some_and(|last| last.names.is_none() && last.loaders.is_none());
        let names = names(&raw.model)?;
        let entries = raw.model.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        if !last_is_default {
            return fault("the last `[[model]]` must have neither `names` nor `loaders`: it stands for every model that no other names".to_owned());
        }
        Ok(CostModel { entries, names, work, passes: raw.passes, digest: Digest::of(text.as_bytes()) })
    }

    /// SHA-256 of what it was made of.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// This table with other numbers for one family, as measured: `constant` units once, `pass` units for a pass at 1024 × 1024. `None` if there is no such family or a number is
    /// negative or not finite.
    #[must_use]
    pub fn corrected(&self, family: &str, constant: f64, pass: f64) -> Option<CostModel> {
        check(family, constant, 0.0, NUMBER_MAX).and_then(|()| check(family, pass, 0.0, NUMBER_MAX)).ok()?;
        let mut out = self.clone();
        let entry = out.entries.iter_mut().find(|entry| entry.family.name == family)?;
        (entry.family.constant, entry.family.pass) = (constant, pass);
        out.digest = Digest::of(format!("{}\n{family}\n{constant}\n{pass}", self.digest).as_bytes());
        Some(out)
    }

    /// The family of a model that a node of class `loader` loads: the first entry whose patterns fit. `name` is the model file's, if it is known.
    pub fn family(&self, loader: &str, name: Option<&str>) -> Option<&Family> {
        let named = name.map(|name| self.names.entries_of(name)).unwrap_or_default();
        let fits = |(place, entry): &(usize, &Entry)| {
            let by_name = !entry.named || named.contains(place);
            by_name && entry.loaders.as_ref().is_none_or(|patterns| patterns.matches(loader))
        };
        self.entries.iter().enumerate().find(fits).map(|(_, entry)| &entry.family)
    }

    /// Passes that a node of this class adds to each step of a model that passes through it.
    pub(super) fn added_passes(&self, class: &str) -> f64 {
        self.passes.get(class).copied().unwrap_or(0.0)
    }

    /// Work that is no sampling.
    pub(super) fn work(&self) -> Work {
        self.work
    }
}

impl Names {
    /// The places of the entries with a pattern that matches.
    fn entries_of(&self, name: &str) -> Vec<usize> {
        let end = name.char_indices().map(|(at, _)| at).find(|at| *at >= NAME_BYTES_MAX).unwrap_or(name.len());
        let name = name.get(..end).unwrap_or_default().replace('\\', "/").to_lowercase();
        let matching = self.globs.matches(name);
        matching.into_iter().filter_map(|pattern| self.entries.get(pattern).copied()).collect()
    }
}

impl Family {
    /// How much more one pass over `pixels` pixels in `frames` frames takes than one over 1024 × 1024.
    pub(super) fn area(&self, megapixels: f64, frames: f64) -> f64 {
        let latent_frames = 1.0 + (frames.max(1.0) - 1.0) / self.frames_in_latent;
        let x = megapixels * latent_frames;
        (1.0 - self.attention) * x + self.attention * x * x
    }
}

fn check(name: &str, number: f64, min: f64, max: f64) -> Result<(), CostModelError> {
    // A number that is none is in no range.
    if (min..=max).contains(&number) {
        return Ok(());
    }
    Err(CostModelError(format!("`{name}`: {number} is not between {min} and {max}")))
}

fn entry(raw: RawEntry) -> Result<Entry, CostModelError> {
    let frames_in_latent = raw.frames_in_latent.unwrap_or(1.0);
    let within = |key: &str, number, min, max| check(&format!("{}: {key}", raw.family), number, min, max);
    within("constant", raw.constant, 0.0, NUMBER_MAX)?;
    within("pass", raw.pass, 0.0, NUMBER_MAX)?;
    within("attention", raw.attention, 0.0, 1.0)?;
    within("frames_in_latent", frames_in_latent, 1.0, 1000.0)?;
    let loaders = match raw.loaders {
        Some(list) => Some(Patterns::of(globs(&raw.family, &list)?).map_err(|error| no_set(&raw.family, &error))?),
        None => None,
    };
    let named = raw.names.is_some();
    let family =
        Family { name: raw.family, constant: raw.constant, pass: raw.pass, attention: raw.attention, frames_in_latent };
    Ok(Entry { family, named, loaders })
}

/// The patterns of all entries as one.
fn names(entries: &[RawEntry]) -> Result<Names, CostModelError> {
    let (mut builder, mut places) = (GlobSetBuilder::new(), Vec::new());
    for (place, entry) in entries.iter().enumerate() {
        let lower: Vec<String> = entry.names.iter().flatten().map(|name| name.to_lowercase()).collect();
        for glob in globs(&entry.family, &lower)? {
            builder.add(glob);
            places.push(place);
        }
    }
    let globs = builder.build().map_err(|error| no_set("the names of all models together", &error))?;
    Ok(Names { globs, entries: places })
}

fn no_set(of: &str, error: &globset::Error) -> CostModelError {
    CostModelError(format!("{of}: {error}"))
}

fn globs(family: &str, patterns: &[String]) -> Result<Vec<Glob>, CostModelError> {
    if patterns.len() > PATTERNS_MAX {
        return Err(CostModelError(format!("{family}: more than {PATTERNS_MAX} patterns")));
    }
    let glob = |pattern: &String| {
        let glob = GlobBuilder::new(pattern).literal_separator(false).backslash_escape(false).build();
        glob.map_err(|error| CostModelError(format!("{family}: `{pattern}` is no pattern: {}", error.kind())))
    };
    patterns.iter().map(glob).collect()
}
