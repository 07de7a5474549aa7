//! What would have to stand in a policy for a violation not to arise.
//!
//! In comes a [`Violation`], out comes the one change of the document that answers it, or nothing where no document can: files of others, crash rules, closed classes and faults of form hold under
//! every policy. A suggestion is a statement of fact, not advice: whether to write it is the operator's to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::verdict::Violation;

/// What keys of rules about models begin with; the class and input follow, and `.allow` or `.deny`. In a document such a rule is a table of its own: `[[models]]`.
pub const MODELS: &str = "models.";

/// How a key of a policy document changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The cap becomes this number: the smallest at which the violation is gone.
    Raise(f64),
    /// The floor becomes this number: the largest at which the violation is gone.
    Lower(f64),
    /// The list gets this pattern besides what it holds.
    Add(String),
    /// The list loses every pattern that matches this name; no line that is added helps, for a denial wins.
    Remove(String),
    /// The key becomes this TOML value.
    Set(String),
}

/// A change of one key of a policy document.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// The key with its section, such as `caps.width` or `classes.allow`; of a rule about models see [`MODELS`].
    pub key: String,
    /// What becomes of it.
    pub change: Change,
}

/// The change of the document that would have let this violation not arise; none where no policy allows it. Several violations may need several: see [`lines`].
///
/// ```
/// use comfygate_policy::{Catalogue, FileFacts, Policy, Verdict, decide, parse, suggestion};
/// let body = br#"{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
///     "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}}"#;
/// let policy = Policy::from_toml("name = \"p\"\n[classes]\nallow = [\"PreviewImage\"]").unwrap();
/// let Verdict::Deny(violations) = decide(&parse(body).unwrap(), &policy, Catalogue::builtin(), &FileFacts::none()) else { panic!() };
/// let found = violations.iter().find_map(suggestion).unwrap();
/// assert_eq!(found.to_string(), "classes.allow: add \"EmptyImage\"");
/// ```
pub fn suggestion(violation: &Violation) -> Option<Suggestion> {
    let (key, change) = match violation.code {
        "class_not_allowed" => ("classes.allow".to_owned(), Change::Add(pattern(violation.class.as_ref()?.as_str()))),
        "class_denied" => ("classes.deny".to_owned(), Change::Remove(violation.class.as_ref()?.to_string())),
        _ => (key(violation)?, change(violation)?),
    };
    Some(Suggestion { key, change })
}

/// What helps where no single line of a document does, by the code of the violation: for operators. None: nothing does.
///
/// ```
/// use comfygate_policy::suggest::remark;
/// assert!(remark("size_unbounded").is_some_and(|text| text.contains("[annotations")));
/// assert_eq!(remark("file_not_found"), None);
/// ```
pub fn remark(code: &str) -> Option<&'static str> {
    Some(match code {
        "class_unknown" => {
            "if a backend has the class, `comfygate catalogue diff` shows it and `comfygate catalogue accept` opens it to policies"
        }
        "size_unbounded" => {
            "of a pack's class, `[annotations.CLASS] sizes` says what it makes; without caps on sizes nobody asks"
        }
        "paid_node_refused" => {
            "somebody has to pay: `paid_nodes = \"caller\"` takes the caller's own credential of comfy.org, `\"gateway\"` the key of `[comfy_org]`; the choice is yours"
        }
        "paid_nodes_unsupported" => "`[comfy_org] api_key` of the gateway's configuration says where the key is",
        "paid_credential_missing" => {
            "the caller has to send its own credential of comfy.org; no line of a policy does it"
        }
        "steps_unbounded" => "without caps on steps nobody asks",
        "value_unbounded" => "without caps on what the input means nobody asks",
        _ => return None,
    })
}

/// The key of the document, with the input where a rule is about one.
fn key(violation: &Violation) -> Option<String> {
    let input = || Some(format!("{}.{}", violation.class.as_ref()?, violation.input.as_ref()?));
    Some(match violation.key? {
        "models.allow" => format!("{MODELS}{}.allow", input()?),
        "models.deny" => format!("{MODELS}{}.deny", input()?),
        "files.inputs" => "files.inputs.allow".to_owned(),
        key => key.to_owned(),
    })
}

fn change(violation: &Violation) -> Option<Change> {
    let name = || violation.bound.as_deref();
    Some(match violation.key? {
        "caps.denoise_min" => Change::Lower(number(violation)?),
        "caps.megapixels" | "caps.megapixels_total" | "caps.seconds" | "caps.upscale" | "cost_limit" => {
            Change::Raise(up_to_tenths(number(violation)?))
        }
        "files.inputs" => {
            let input = format!("{}.{}", violation.class.as_ref()?, violation.input.as_ref()?);
            Change::Add(pattern(&input))
        }
        "models.allow" => Change::Add(pattern(&name()?.replace('\\', "/"))),
        // Whose money is spent is no suggestion of ours: see `remark`.
        "paid_nodes" => return None,
        "texts.embeddings" => Change::Add(pattern(name()?)),
        key if key.ends_with(".allow") => Change::Add(pattern(name()?)),
        key if key.ends_with(".deny") => Change::Remove(name()?.to_owned()),
        _ => Change::Raise(number(violation)?.ceil()),
    })
}

/// A pattern that matches this name only.
pub fn pattern(name: &str) -> String {
    globset::escape(name)
}

/// The bound of a violation as the number that its key is written in. Beyond 2^53 nobody means it: such a bound says "without end".
fn number(violation: &Violation) -> Option<f64> {
    let bound: f64 = violation.bound.as_deref()?.parse().ok()?;
    // Sizes are told in pixels, and their caps are written in millions of them.
    let number = match violation.key {
        // At an input the unit is ComfyUI's: 1024² pixels.
        Some("caps.megapixels") if violation.code == "cap_exceeded" => bound * 1.048_576,
        Some("caps.megapixels" | "caps.megapixels_total") => bound / 1_000_000.0,
        _ => bound,
    };
    (number.is_finite() && number > 0.0 && number < 9_007_199_254_740_992.0).then_some(number)
}

/// Rounded up to a tenth, so that people can read it.
fn up_to_tenths(number: f64) -> f64 {
    (number * 10.0).ceil() / 10.0
}

impl Suggestion {
    /// The section that the key stands in; empty at the top.
    pub fn section(&self) -> &str {
        self.key.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The key within its section.
    pub fn name(&self) -> &str {
        self.key.rsplit_once('.').map_or(self.key.as_str(), |(_, name)| name)
    }
}

impl fmt::Display for Suggestion {
    /// In one line, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::Raise(to) => write!(f, "{}: at least {to}", self.key),
            Change::Lower(to) => write!(f, "{}: at most {to}", self.key),
            Change::Add(name) => write!(f, "{}: add {}", self.key, quoted(name)),
            Change::Remove(name) => write!(f, "{}: take out what matches {}", self.key, quoted(name)),
            Change::Set(value) => write!(f, "{} = {value}", self.key),
        }
    }
}

/// A text as TOML writes it.
pub fn quoted(text: &str) -> String {
    // The escapes of JSON are escapes of TOML, which wants one character more escaped.
    serde_json::Value::String(text.to_owned()).to_string().replace('\u{7f}', "\\u007f")
}

/// The lines of a document that answer all of these violations together, section by section: the largest of several caps, every name once, in a stable order. In a document with `extends`
/// they may stand as they are; elsewhere they are to be merged by hand. Empty if no policy allows any of it. What has to be taken out stands there as a comment.
pub fn lines<'a>(violations: impl IntoIterator<Item = &'a Violation>) -> String {
    lines_of(violations.into_iter().filter_map(suggestion))
}

/// The same for suggestions at hand.
pub fn lines_of(suggestions: impl IntoIterator<Item = Suggestion>) -> String {
    let mut keys: BTreeMap<(String, String), Merged> = BTreeMap::new();
    for found in suggestions {
        keys.entry((found.section().to_owned(), found.name().to_owned())).or_default().add(found.change);
    }
    let mut out = String::new();
    let mut section = None;
    for ((of, name), merged) in &keys {
        if section != Some(of) && !of.is_empty() {
            out.push_str(if out.is_empty() { "" } else { "\n" });
            match of.strip_prefix(MODELS) {
                // A rule that denies is some other one; it is only told where.
                Some(_) if name == "deny" => {}
                Some(input) => out.push_str(&format!("[[models]]\ninput = {}\n", quoted(&pattern(input)))),
                None => out.push_str(&format!("[{of}]\n")),
            }
        }
        section = Some(of);
        merged.write(name, &mut out);
    }
    out
}

/// What all changes of one key come to.
#[derive(Default)]
struct Merged {
    number: Option<f64>,
    value: Option<String>,
    add: BTreeSet<String>,
    remove: BTreeSet<String>,
}

impl Merged {
    fn add(&mut self, change: Change) {
        match change {
            Change::Raise(to) => self.number = Some(self.number.map_or(to, |known| known.max(to))),
            Change::Lower(to) => self.number = Some(self.number.map_or(to, |known| known.min(to))),
            Change::Set(value) => self.value = Some(value),
            Change::Add(name) => drop(self.add.insert(name)),
            Change::Remove(name) => drop(self.remove.insert(name)),
        }
    }

    fn write(&self, name: &str, out: &mut String) {
        for known in &self.remove {
            out.push_str(&format!("# take out of `{name}`: what matches {}\n", quoted(known)));
        }
        if let Some(number) = self.number {
            out.push_str(&format!("{name} = {number}\n"));
        }
        if let Some(value) = &self.value {
            out.push_str(&format!("{name} = {value}\n"));
        }
        if !self.add.is_empty() {
            let names: Vec<String> = self.add.iter().map(|name| quoted(name)).collect();
            out.push_str(&format!("{name} = [{}]\n", names.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests;
