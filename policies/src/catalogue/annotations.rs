//! What we say about classes beyond their `object_info`: `catalogues/annotations-<release>.json` for ComfyUI's own, `packs/*.json` for others.
//!
//! ```json
//! {
//!   "release": "0.8.0",
//!   "reasons": {"weight": "a factor on weights"},
//!   "classes": {
//!     "ImageScaleBy": {"inputs": {"scale_by": "factor"}, "sizes": {"scale_by": {"of": "image", "by": "scale_by"}}},
//!     "GetImageSize": {"values": {"0": {"width_of": "image"}, "1": {"height_of": "image"}, "2": {"count_of": "image"}}},
//!     "FreeU": {"harmless": {"b1": "weight"}}
//!   }
//! }
//! ```

use std::collections::BTreeMap;

use serde::Deserialize;

use super::InputKind;
use super::rules::{ListRule, SizeRule, ValueRule};

/// The file as written. `release` or `pack` says whose classes these are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Annotations {
    /// The release of ComfyUI.
    #[serde(default)]
    #[expect(dead_code, reason = "for the reader of the file")]
    pub(super) release: Option<String>,
    /// The node pack.
    #[serde(default)]
    #[expect(dead_code, reason = "for the reader of the file")]
    pub(super) pack: Option<String>,
    /// Globs of the Python modules that the pack's classes come from.
    #[serde(default)]
    pub(super) modules: Vec<String>,
    /// Where the classes were read.
    #[serde(default)]
    #[expect(dead_code, reason = "for the reader of the file")]
    pub(super) source: Option<String>,
    /// On what is said here.
    #[serde(default)]
    #[expect(dead_code, reason = "for the reader of the file")]
    licence_note: Option<String>,
    /// Reasons that `harmless` names by a short key.
    #[serde(default)]
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reader of the file, and a test"))]
    pub(super) reasons: BTreeMap<String, String>,
    pub(super) classes: BTreeMap<String, ClassAnnotation>,
}

/// One class.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ClassAnnotation {
    /// Input name, dotted for dynamic ones, to what its value means.
    pub(super) inputs: BTreeMap<String, InputKind>,
    /// INT and FLOAT inputs that need no bound, with the reason or a key of `reasons`.
    pub(super) harmless: BTreeMap<String, String>,
    /// Literals that ComfyUI does not check itself.
    pub(super) unchecked: Vec<String>,
    /// Undeclared inputs that the stock page leaves behind and that may be dropped without loss; in a name `*` stands for anything.
    pub(super) residue: Vec<String>,
    /// Undeclared inputs that the class reads on purpose.
    pub(super) dynamic: Vec<DynamicInput>,
    /// Gives models only, from model files only: its cached output may serve every owner.
    pub(super) model_loader: bool,
    /// Adds or decides sampling steps without a number that could be capped.
    pub(super) unbounded_steps: bool,
    /// Does so where one of these inputs is given.
    pub(super) unbounded_steps_with: Vec<String>,
    /// Hands undeclared literals to its code, so that a salt would be seen.
    pub(super) accepts_all_inputs: bool,
    /// Replaces itself by a graph of its own when it runs.
    pub(super) returns_expand: bool,
    /// Takes whole lists (`INPUT_IS_LIST`), where the `object_info` is of a release that does not say so.
    pub(super) input_list: bool,
    /// Model calls a step of the sampler that it gives.
    pub(super) sampler_calls: Option<u32>,
    /// The pack it belongs to, where the module does not say.
    pub(super) pack: Option<String>,
    /// What it does to sizes.
    pub(super) sizes: Option<SizeRule>,
    /// What is known of its number and text outputs, by slot.
    pub(super) values: BTreeMap<usize, ValueRule>,
    /// How many items its list outputs have, by slot.
    pub(super) lists: BTreeMap<usize, ListRule>,
}

/// Undeclared inputs whose names fit a pattern: `{"pattern": "lora_*", "shape": {"on": "BOOLEAN", "lora": "STRING", "strengthTwo": "FLOAT?"}, "models_at": ["lora"]}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicInput {
    /// A name in which `*` stands for anything.
    pub pattern: String,
    /// Its members by name; a type with `?` may be absent or null. Of an input that is an object.
    #[serde(default)]
    pub shape: BTreeMap<String, String>,
    /// The type of what is linked to it, such as `IMAGE`. Of an input that is a link.
    pub link: Option<String>,
    /// The type of its value, such as `INT`, or the words that it may be, such as `lt|hq`. Of an input that is neither.
    #[serde(default)]
    pub literal: Option<String>,
    /// Members that name models.
    #[serde(default)]
    pub models_at: Vec<String>,
}

impl ClassAnnotation {
    /// One class of a policy document.
    pub(super) fn from_json(json: serde_json::Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(json)
    }
}

impl DynamicInput {
    /// Whether an input of this name is meant: the pattern's `*` stands for anything.
    pub fn matches(&self, name: &str) -> bool {
        matches_pattern(&self.pattern, name)
    }
}

/// Whether the name is the pattern, whose `*` stands for anything but nothing.
pub(super) fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => {
            let rest = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
            rest.is_some_and(|rest| !rest.is_empty())
        }
        None => pattern == name,
    }
}

impl Annotations {
    pub(super) fn read(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}
