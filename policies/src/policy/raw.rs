//! The document as written. It is walked by hand, not by serde, because all its faults are reported at once, each with its place.

use std::ops::Range;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::bans::Bans;
use super::fault::{PolicyError, PolicyErrors, nearest};
use super::{Allowance, Caps, Policy, Posture, RouteBundle, UPSCALE_MODEL_FACTOR_MAX, VAE_SCALE_MAX};
use crate::cost::CostModel;
use crate::digest::Digest;
use crate::workflow::json::position;

/// Bytes of a policy document.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// Patterns of one list.
const PATTERNS_MAX: usize = 10_000;
/// Raised when the engine's fixed rules change, so that held verdicts are made anew.
const RULES_VERSION: u32 = 2;

const SECTIONS: [&str; 9] =
    ["name", "description", "posture", "routes", "classes", "packs", "samplers", "schedulers", "caps"];
const LISTS: [&str; 2] = ["allow", "deny"];
const CAPS: [&str; 14] = [
    "steps",
    "steps_total",
    "width",
    "height",
    "megapixels",
    "megapixels_total",
    "batch",
    "frames",
    "seconds",
    "denoise_min",
    "nodes",
    "outputs",
    "upscale_model_factor",
    "vae_scale",
];

/// What `allow` is when a section does not give it.
enum Absent {
    Nothing,
    Everything,
}

pub(super) fn read(text: &str) -> Result<Policy, PolicyErrors> {
    let mut reader = DocumentReader { text, faults: Vec::new() };
    if text.len() > DOCUMENT_BYTES_MAX {
        reader.fault(&(0..0), "", format!("the document has more than {DOCUMENT_BYTES_MAX} bytes"));
        return Err(PolicyErrors(reader.faults));
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reader.fault(&error.span().unwrap_or(0..0), "", error.message().to_owned());
    }
    let policy = reader.policy(table.get_ref());
    match reader.faults.is_empty() {
        true => Ok(policy),
        false => {
            reader.faults.sort_by_key(|fault| (fault.line, fault.column));
            Err(PolicyErrors(reader.faults))
        }
    }
}

struct DocumentReader<'a> {
    text: &'a str,
    faults: Vec<PolicyError>,
}

impl DocumentReader<'_> {
    fn fault(&mut self, span: &Range<usize>, key: &str, message: String) {
        let (line, column) = position(self.text, span.start);
        self.faults.push(PolicyError { line, column, key: key.to_owned(), message });
    }

    fn policy(&mut self, table: &DeTable<'_>) -> Policy {
        self.known_keys(table, "", &SECTIONS);
        let name = self.name(table);
        let posture = self.posture(table);
        let routes = self.routes(table, posture);
        let classes = self.allowance(table, "classes", Absent::Nothing);
        let packs = self.allowance(table, "packs", Absent::Nothing);
        let samplers = self.allowance(table, "samplers", Absent::Everything);
        let schedulers = self.allowance(table, "schedulers", Absent::Everything);
        let caps = self.caps(table);
        let digest = Digest::of(format!("{RULES_VERSION}\n{}", self.text).as_bytes());
        Policy {
            name,
            digest,
            posture,
            routes,
            classes,
            packs,
            samplers,
            schedulers,
            caps,
            bans: Bans::default(),
            costs: CostModel::builtin(),
        }
    }

    fn known_keys(&mut self, table: &DeTable<'_>, prefix: &str, known: &[&str]) {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let hint = nearest(name, known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.fault(&key.span(), &format!("{prefix}{name}"), format!("unknown key{hint}"));
        }
    }

    fn name(&mut self, table: &DeTable<'_>) -> String {
        if let Some(value) = table.get("description") {
            self.text_of(value, "description");
        }
        match table.get("name") {
            Some(value) => self.text_of(value, "name"),
            None => {
                self.fault(&(0..0), "name", "a policy needs a name".to_owned());
                String::new()
            }
        }
    }

    fn posture(&mut self, table: &DeTable<'_>) -> Posture {
        let Some(value) = table.get("posture") else { return Posture::default() };
        let text = self.text_of(value, "posture");
        let found = Posture::NAMES.into_iter().find(|(name, _)| *name == text);
        if found.is_none() && !text.is_empty() {
            self.fault(&value.span(), "posture", format!("`{text}` is no posture: write `tenants` or `owner`"));
        }
        found.map_or_else(Posture::default, |(_, posture)| posture)
    }

    /// Bundles of routes; strangers never get one.
    fn routes(&mut self, table: &DeTable<'_>, posture: Posture) -> Vec<RouteBundle> {
        let Some(value) = table.get("routes") else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.fault(&value.span(), "routes", "must be a list of names, such as [\"manager\"]".to_owned());
            return Vec::new();
        };
        if !items.is_empty() && posture != Posture::Owner {
            let message = "bundles of routes are for `posture = \"owner\"` only: they let callers change the backend";
            self.fault(&value.span(), "routes", message.to_owned());
        }
        let mut routes = Vec::new();
        for item in items {
            let text = self.text_of(item, "routes");
            match RouteBundle::NAMES.into_iter().find(|(name, _)| *name == text) {
                Some((_, bundle)) => routes.push(bundle),
                None if text.is_empty() => {}
                None => self.fault(&item.span(), "routes", format!("`{text}` is no bundle: there is `manager`")),
            }
        }
        routes
    }

    fn text_of(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> String {
        match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => text.to_string(),
            _ => {
                self.fault(&value.span(), key, "must be a string that is not empty".to_owned());
                String::new()
            }
        }
    }

    /// The table under `key`, if it is there.
    fn section<'t, 'd>(&mut self, table: &'t DeTable<'d>, key: &str) -> Option<&'t DeTable<'d>> {
        let value = table.get(key)?;
        match value.get_ref() {
            DeValue::Table(section) => Some(section),
            _ => {
                self.fault(&value.span(), key, "must be a table".to_owned());
                None
            }
        }
    }

    fn allowance(&mut self, table: &DeTable<'_>, key: &str, absent: Absent) -> Allowance {
        let section = self.section(table, key);
        if let Some(section) = section {
            self.known_keys(section, &format!("{key}."), &LISTS);
        }
        let mut list = |name: &str| {
            let value = section.and_then(|section| section.get(name))?;
            Some(self.globs(value, &format!("{key}.{name}")))
        };
        let allow = list("allow").unwrap_or_else(|| match absent {
            Absent::Nothing => GlobSet::empty(),
            Absent::Everything => everything(),
        });
        Allowance { allow, deny: list("deny").unwrap_or_default() }
    }

    fn globs(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> GlobSet {
        let DeValue::Array(items) = value.get_ref() else {
            self.fault(&value.span(), key, "must be a list of patterns".to_owned());
            return GlobSet::empty();
        };
        if items.len() > PATTERNS_MAX {
            self.fault(&value.span(), key, format!("more than {PATTERNS_MAX} patterns"));
            return GlobSet::empty();
        }
        let mut builder = GlobSetBuilder::new();
        for item in items {
            let pattern = self.text_of(item, key);
            if pattern.is_empty() {
                continue;
            }
            // A class name is no path: `*` matches slashes too, and a backslash is itself.
            match GlobBuilder::new(&pattern).literal_separator(false).backslash_escape(false).build() {
                Ok(glob) => drop(builder.add(glob)),
                Err(error) => self.fault(&item.span(), key, format!("not a pattern: {}", error.kind())),
            }
        }
        match builder.build() {
            Ok(set) => set,
            Err(error) => {
                self.fault(&value.span(), key, format!("not a list of patterns: {error}"));
                GlobSet::empty()
            }
        }
    }

    fn caps(&mut self, table: &DeTable<'_>) -> Caps {
        let section = self.section(table, "caps");
        if let Some(section) = section {
            self.known_keys(section, "caps.", &CAPS);
        }
        let mut value =
            |key: &str| section.and_then(|section| section.get(key)).map(|value| (key.to_owned(), value.clone()));
        let whole = ["steps", "steps_total", "width", "height", "batch", "frames", "nodes", "outputs"].map(&mut value);
        let factors = ["upscale_model_factor", "vae_scale"].map(&mut value);
        let floats = ["megapixels", "megapixels_total", "seconds", "denoise_min"].map(&mut value);
        let [steps, steps_total, width, height, batch, frames, nodes, outputs] = whole.map(|cap| self.whole(cap));
        let [upscale_model_factor, vae_scale] = factors.map(|cap| self.whole(cap));
        let [megapixels, megapixels_total, seconds, denoise_min] = floats.map(|cap| self.decimal(cap));
        let pixels = |megapixels: f64| crate::bounds::interval::floor(megapixels * 1_000_000.0);
        Caps {
            steps,
            steps_total,
            width,
            height,
            pixels: megapixels.map(pixels),
            pixels_total: megapixels_total.map(pixels),
            batch,
            frames,
            seconds,
            denoise_min,
            nodes,
            outputs,
            upscale_model_factor: upscale_model_factor.unwrap_or(UPSCALE_MODEL_FACTOR_MAX),
            vae_scale: vae_scale.unwrap_or(VAE_SCALE_MAX),
        }
    }

    /// A whole number of at least 1.
    fn whole(&mut self, cap: Option<(String, Spanned<DeValue<'_>>)>) -> Option<i128> {
        let (key, value) = cap?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| (1..=i128::from(i64::MAX)).contains(number));
        if number.is_none() {
            self.fault(&value.span(), &format!("caps.{key}"), "must be a whole number of at least 1".to_owned());
        }
        number
    }

    /// A finite number above 0.
    fn decimal(&mut self, cap: Option<(String, Spanned<DeValue<'_>>)>) -> Option<f64> {
        let (key, value) = cap?;
        let number: Option<f64> = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| number.is_finite() && *number > 0.0 && *number <= 1e12);
        if number.is_none() {
            self.fault(&value.span(), &format!("caps.{key}"), "must be a number above 0".to_owned());
        }
        number
    }
}

/// The set that matches every name. Were it ever not to compile, it would match none: closed, not open.
fn everything() -> GlobSet {
    let mut builder = GlobSetBuilder::new();
    if let Ok(glob) = GlobBuilder::new("*").build() {
        builder.add(glob);
    }
    builder.build().unwrap_or_default()
}
