//! The sections of a document, each into its part of the draft.

use globset::{Glob, GlobBuilder};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::DocumentReader;
use super::draft::{CapsDraft, FilesDraft, ListDraft, ModelDraft, TextsDraft};
use crate::catalogue::{AnnotationFault, PolicyAnnotations};
use crate::files::Directory;
use crate::policy::AssumedUpload;
use crate::policy::network::AddressPattern;

/// Patterns of one list.
pub(super) const PATTERNS_MAX: usize = 10_000;
/// Bytes of one regular expression, compiled.
const REGEX_BYTES_MAX: usize = 1024 * 1024;
/// Words and regular expressions about texts: each text is looked at by all of them.
const TEXT_PATTERNS_MAX: usize = 2000;
/// Rules about models; each input that names one is held against all.
const MODEL_RULES_MAX: usize = 500;
/// Classes that a document annotates.
const ANNOTATIONS_MAX: usize = 5000;
/// Tables within tables of an annotation.
const ANNOTATION_DEPTH_MAX: usize = 16;

pub(in crate::policy) const LISTS: [&str; 3] = ["allow", "deny", "replace"];
pub(in crate::policy) const MODELS: [&str; 4] = ["input", "allow", "deny", "replace"];
pub(in crate::policy) const TEXTS: [&str; 5] = ["max_bytes", "deny", "deny_regex", "embeddings", "replace"];
pub(in crate::policy) const FILES: [&str; 3] = ["assumed_upload", "inputs", "directories"];
pub(in crate::policy) const ASSUMED: [&str; 4] = ["width", "height", "frames", "seconds"];
pub(in crate::policy) const CAPS: [&str; 17] = [
    "replace",
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
    "upscale",
    "upscale_model_factor",
    "vae_frames",
    "vae_scale",
];
/// Short forms, beside the keys of annotation files.
const SHORT_FORMS: [(&str, &str); 2] = [("save_prefix", "save_prefix"), ("file_inputs", "file")];

impl DocumentReader<'_> {
    /// `[key] allow, deny`
    pub(super) fn lists(&mut self, table: &DeTable<'_>, key: &str, draft: &mut ListDraft) {
        if let Some(section) = self.section(table, key, key) {
            self.lists_of(section, key, draft);
        }
    }

    fn lists_of(&mut self, section: &DeTable<'_>, key: &str, draft: &mut ListDraft) {
        self.known_keys(section, &format!("{key}."), &LISTS);
        if self.replaces(section, key) {
            *draft = ListDraft::default();
        }
        let case = if key == "network" { Case::Address } else { Case::Exact };
        if let Some(value) = section.get("allow") {
            let globs = self.globs(value, &format!("{key}.allow"), case);
            draft.allow.get_or_insert_default().extend(globs);
        }
        if let Some(value) = section.get("deny") {
            draft.deny.extend(self.globs(value, &format!("{key}.deny"), case));
        }
    }

    fn texts_of(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Vec<(std::ops::Range<usize>, String)> {
        let DeValue::Array(items) = value.get_ref() else {
            self.fault(&value.span(), key, "must be a list of strings".to_owned());
            return Vec::new();
        };
        if items.len() > PATTERNS_MAX {
            self.fault(&value.span(), key, format!("more than {PATTERNS_MAX} entries: let `*` stand for several"));
            return Vec::new();
        }
        let texts = items.iter().map(|item| (item.span(), self.text_of(item, key)));
        texts.filter(|(_, text)| !text.is_empty()).collect()
    }

    fn globs(&mut self, value: &Spanned<DeValue<'_>>, key: &str, case: Case) -> Vec<Glob> {
        let mut globs = Vec::new();
        for (span, text) in self.texts_of(value, key) {
            let pattern = match case {
                Case::Exact => text,
                Case::Address => {
                    if let Err(why) = AddressPattern::of(&text) {
                        self.fault(&span, key, why);
                        continue;
                    }
                    text
                }
                Case::Model => text.replace('\\', "/"),
                Case::LowerModel => text.replace('\\', "/").to_lowercase(),
            };
            // A class name is no path: `*` matches slashes too, and a backslash is itself.
            match GlobBuilder::new(&pattern).literal_separator(false).backslash_escape(false).build() {
                Ok(glob) => globs.push(glob),
                Err(error) => {
                    self.fault(&span, key, format!("not a pattern: {}; write `[[]` for a plain `[`", error.kind()))
                }
            }
        }
        globs
    }

    /// `[[models]] input, allow, deny`
    pub(super) fn models(&mut self, table: &DeTable<'_>, rules: &mut Vec<ModelDraft>) {
        let Some(value) = table.get("models") else { return };
        let DeValue::Array(items) = value.get_ref() else {
            let message = "must be a list of tables: write `[[models]]` before each rule";
            self.fault(&value.span(), "models", message.to_owned());
            return;
        };
        let replaced = rules.len();
        for item in items {
            let DeValue::Table(section) = item.get_ref() else {
                self.fault(&item.span(), "models", "must be a table".to_owned());
                continue;
            };
            self.known_keys(section, "models.", &MODELS);
            let input = match section.get("input") {
                Some(value) => self.text_of(value, "models.input"),
                None => {
                    let message =
                        "a rule about models says of which `input`: \"ckpt_name\", \"LoraLoader.lora_name\" or \"*\"";
                    self.fault(&item.span(), "models.input", message.to_owned());
                    continue;
                }
            };
            if self.replaces(section, "models") {
                // Of what the documents before said, not of this one's own rules.
                let mut place = 0;
                rules.retain(|rule| {
                    place += 1;
                    place > replaced || rule.input_text != input
                });
            }
            let Ok(glob) = GlobBuilder::new(&input).literal_separator(false).backslash_escape(false).build() else {
                self.fault(
                    &item.span(),
                    "models.input",
                    format!("`{input}` is not a pattern: write `[[]` for a plain `[`"),
                );
                continue;
            };
            let allow = section.get("allow").map(|value| self.globs(value, "models.allow", Case::Model));
            let deny = section.get("deny").map(|value| self.globs(value, "models.deny", Case::LowerModel));
            if allow.is_none() && deny.is_none() {
                self.fault(&item.span(), "models", "a rule about models needs `allow` or `deny`".to_owned());
            }
            rules.push(ModelDraft { input_text: input, input: glob, allow, deny: deny.unwrap_or_default() });
        }
        if rules.len() > MODEL_RULES_MAX {
            self.fault(
                &value.span(),
                "models",
                format!("more than {MODEL_RULES_MAX} rules: let `*` stand for several inputs"),
            );
        }
    }

    /// `[texts] max_bytes, deny, deny_regex, embeddings`
    pub(super) fn texts(&mut self, table: &DeTable<'_>, draft: &mut TextsDraft) {
        let Some(section) = self.section(table, "texts", "texts") else { return };
        self.known_keys(section, "texts.", &TEXTS);
        if self.replaces(section, "texts") {
            *draft = TextsDraft::default();
        }
        if let Some(value) = section.get("max_bytes") {
            draft.bytes_max = self.whole(value, "texts.max_bytes").and_then(|bytes| usize::try_from(bytes).ok());
        }
        if let Some(value) = section.get("deny") {
            for (_, word) in self.texts_of(value, "texts.deny") {
                // However the words are spaced.
                let parts: Vec<String> = word.split_whitespace().map(regex::escape).collect();
                draft.patterns.push((word, parts.join(r"\s+")));
            }
        }
        if let Some(value) = section.get("deny_regex") {
            for (span, pattern) in self.texts_of(value, "texts.deny_regex") {
                let compiled =
                    regex::RegexBuilder::new(&pattern).case_insensitive(true).size_limit(REGEX_BYTES_MAX).build();
                match compiled {
                    Ok(_) => draft.patterns.push((pattern.clone(), pattern)),
                    Err(error) => {
                        let reason = error.to_string();
                        // The last line of a syntax error says what is wrong; those before it point at the place.
                        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                        self.fault(&span, "texts.deny_regex", format!("not a regular expression: {reason}"));
                    }
                }
            }
        }
        if draft.patterns.len() > TEXT_PATTERNS_MAX {
            self.fault(
                &(0..0),
                "texts",
                format!("more than {TEXT_PATTERNS_MAX} patterns: put several into one `deny_regex`"),
            );
        }
        if let Some(value) = section.get("embeddings") {
            let globs = self.globs(value, "texts.embeddings", Case::Model);
            draft.embeddings.get_or_insert_default().extend(globs);
        }
    }

    /// `[files] assumed_upload, inputs, directories`
    pub(super) fn files(&mut self, table: &DeTable<'_>, draft: &mut FilesDraft) {
        let Some(section) = self.section(table, "files", "files") else { return };
        self.known_keys(section, "files.", &FILES);
        if let Some(assumed) = self.section(section, "assumed_upload", "files.assumed_upload") {
            self.known_keys(assumed, "files.assumed_upload.", &ASSUMED);
            let [width, height, frames, seconds] = ASSUMED.map(|key| self.assumed(section, assumed, key));
            draft.assumed = Some(AssumedUpload { width, height, frames, seconds });
        }
        if let Some(inputs) = self.section(section, "inputs", "files.inputs") {
            self.lists_of(inputs, "files.inputs", &mut draft.inputs);
        }
        if let Some(value) = section.get("directories") {
            let mut directories = Vec::new();
            for (span, name) in self.texts_of(value, "files.directories") {
                match Directory::NAMES.iter().find(|(known, _)| *known == name) {
                    Some((_, directory)) => directories.push(*directory),
                    None => {
                        let message = format!("`{name}` is none of `input`, `output`, `temp`");
                        self.fault(&span, "files.directories", message);
                    }
                }
            }
            draft.directories = Some(directories);
        }
    }

    /// All four must be there: a bound that is left out bounds nothing.
    fn assumed(&mut self, section: &DeTable<'_>, assumed: &DeTable<'_>, key: &str) -> u32 {
        let name = format!("files.assumed_upload.{key}");
        let Some(value) = assumed.get(key) else {
            let span = section.get("assumed_upload").map_or(0..0, Spanned::span);
            let message = "missing: an assumed upload has `width`, `height`, `frames` and `seconds`";
            self.fault(&span, &name, message.to_owned());
            return 1;
        };
        let number = self.whole(value, &name).unwrap_or(1);
        u32::try_from(number).unwrap_or_else(|_| {
            self.fault(&value.span(), &name, format!("must be at most {}", u32::MAX));
            1
        })
    }

    /// `[caps]`
    pub(super) fn caps(&mut self, table: &DeTable<'_>, draft: &mut CapsDraft) {
        let Some(section) = self.section(table, "caps", "caps") else { return };
        self.known_keys(section, "caps.", &CAPS);
        if self.replaces(section, "caps") {
            *draft = CapsDraft::default();
        }
        for (key, value) in section.iter() {
            let name = key.get_ref().as_ref();
            let full = format!("caps.{name}");
            if let Some(place) = draft.whole(name) {
                *place = self.whole(value, &full);
            } else if let Some(place) = draft.decimal(name) {
                *place = self.decimal(value, &full);
            }
        }
    }

    /// `[annotations."Class"]`
    pub(super) fn annotations(&mut self, table: &DeTable<'_>, draft: &mut PolicyAnnotations) {
        let Some(section) = self.section(table, "annotations", "annotations") else { return };
        for (key, value) in section.iter() {
            let class = key.get_ref().as_ref();
            let name = format!("annotations.{class}");
            let mut json = match json(value.get_ref(), 0) {
                Some(json) => json,
                None => {
                    let message = format!(
                        "more than {ANNOTATION_DEPTH_MAX} levels, or a date or a number that JSON lacks: write plain tables, lists, texts and numbers"
                    );
                    self.fault(&value.span(), &name, message);
                    continue;
                }
            };
            expand(&mut json);
            match draft.add(class, json) {
                Ok(()) => {}
                Err(AnnotationFault::Core) => {
                    let message =
                        "a class of ComfyUI's own: what it does is said by this release, not by a policy; take it out";
                    self.fault(&key.span(), &name, message.to_owned());
                }
                Err(AnnotationFault::Form(message)) => self.fault(&value.span(), &name, message),
            }
        }
        if draft.len() > ANNOTATIONS_MAX {
            self.fault(
                &(0..0),
                "annotations",
                format!("more than {ANNOTATIONS_MAX} classes: annotate only those that workflows use"),
            );
        }
    }
}

/// How patterns are prepared for what they are compared with.
#[derive(Clone, Copy)]
enum Case {
    Exact,
    /// Of an address, part by part.
    Address,
    /// Folders with `/`.
    Model,
    /// And in lower case.
    LowerModel,
}

/// A TOML value as JSON; `None`: too deep, or JSON has no such value.
fn json(value: &DeValue<'_>, depth: usize) -> Option<serde_json::Value> {
    use serde_json::Value;
    if depth > ANNOTATION_DEPTH_MAX {
        return None;
    }
    Some(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok()?.into(),
        DeValue::Float(number) => serde_json::Number::from_f64(number.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => {
            items.iter().map(|item| json(item.get_ref(), depth + 1)).collect::<Option<Vec<_>>>()?.into()
        }
        DeValue::Table(table) => {
            let member = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                Some((key.to_string(), json(value.get_ref(), depth + 1)?))
            };
            Value::Object(table.iter().map(member).collect::<Option<_>>()?)
        }
    })
}

/// `save_prefix = ["filename_prefix"]` is short for `inputs = {filename_prefix = "save_prefix"}`.
fn expand(annotation: &mut serde_json::Value) {
    let Some(members) = annotation.as_object_mut() else { return };
    for (short, kind) in SHORT_FORMS {
        // Of another form it stays, and is told as an unknown key.
        let Some(names) = members.get(short).and_then(serde_json::Value::as_array) else { continue };
        let Some(names) = names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>() else {
            continue;
        };
        members.remove(short);
        let inputs = members.entry("inputs").or_insert_with(|| serde_json::json!({}));
        if let Some(inputs) = inputs.as_object_mut() {
            inputs.extend(names.into_iter().map(|name| (name, kind.into())));
        }
    }
}
