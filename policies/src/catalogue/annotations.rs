//! What we say about ComfyUI's own classes beyond their `object_info`: `catalogues/annotations-<release>.json`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ClassSignature, InputKind};

/// The file as written: `{"release": "0.8.0", "classes": {"KSampler": {"inputs": {"steps": "steps"}}}}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Annotations {
    #[expect(dead_code, reason = "for the reader of the file")]
    release: String,
    classes: BTreeMap<String, ClassAnnotation>,
}

/// One class.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ClassAnnotation {
    /// Input name, dotted for dynamic ones, to what its value means.
    pub(super) inputs: BTreeMap<String, InputKind>,
    /// Undeclared inputs that the stock page leaves behind and that may be dropped without loss.
    pub(super) residue: Vec<String>,
    /// Gives models only, from model files only: its cached output may serve every owner.
    pub(super) model_loader: bool,
    /// Adds or decides sampling steps without a number that could be capped.
    pub(super) unbounded_steps: bool,
    /// Hands undeclared literals to its code, so that a salt would be seen.
    pub(super) accepts_all_inputs: bool,
    /// The pack it belongs to, where the module does not say.
    pub(super) pack: Option<String>,
}

impl Annotations {
    pub(super) fn read(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The class with its annotations; a class that is not in the file has none, which is an annotation too: nothing in it needs a cap.
    pub(super) fn apply(&self, class: ClassSignature) -> ClassSignature {
        match self.classes.get(class.name()) {
            Some(annotation) => class.annotated(annotation),
            None => class.annotated(&ClassAnnotation::default()),
        }
    }
}
