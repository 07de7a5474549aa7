//! Node classes: the recorded `object_info` of ComfyUI 0.8.0 (names, types, limits) with the live file lists put in.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use indexmap::IndexMap;

use crate::json::{Dict, Json};
use crate::packs;

/// `data/object_info.facts.json`: a recording of names, types and limits, without ComfyUI's own texts.
static RECORDED: LazyLock<IndexMap<String, Json>> =
    LazyLock::new(|| match Json::parse(include_str!("../data/object_info.facts.json")) {
        Ok(Json::Dict(classes)) => classes,
        _ => IndexMap::new(),
    });

/// Model names by folder (`checkpoints`, `loras`, …), as a configuration of the stand-in.
pub type Models = BTreeMap<String, Vec<String>>;

/// Is an input of a class required or optional?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// A missing one is an error.
    Required,
    /// May be missing.
    Optional,
}

/// One declared input, dynamic ones expanded for the inputs at hand.
#[derive(Debug, Clone)]
pub struct Input {
    /// Name, dotted below a dynamic input.
    pub name: String,
    /// Required or optional.
    pub category: Category,
    /// Type word, or the list of options of an old-style combo.
    pub kind: Json,
    /// `min`, `max`, `default`, `options`, …
    pub options: Json,
}

/// The catalogue at one moment: the recording plus the models and files there are now.
#[derive(Debug, Clone, Copy)]
pub struct Catalogue<'a> {
    /// Model names by folder.
    pub models: &'a Models,
    /// The input folder whose files the upload combos list.
    pub input_dir: &'a Path,
    /// Are the classes of `comfy_api_nodes` there? (`--disable-api-nodes`)
    pub api_nodes: bool,
    /// How many made-up packs are there?
    pub packs: u32,
}

impl Catalogue<'_> {
    /// Names of all classes, in the order of the recording.
    pub fn names(&self) -> Vec<&'static str> {
        let recorded = RECORDED.keys().map(String::as_str).filter(|name| self.recorded(name).is_some());
        recorded.chain(packs::names(self.packs)).collect()
    }

    fn recorded(&self, class: &str) -> Option<&'static Json> {
        let Some(info) = RECORDED.get(class) else { return packs::class(class, self.packs) };
        let module = info.get("python_module").and_then(Json::as_str).unwrap_or_default();
        (self.api_nodes || !module.starts_with("comfy_api_nodes")).then_some(info)
    }

    /// Is the class installed?
    pub fn knows(&self, class: &str) -> bool {
        self.recorded(class).is_some()
    }

    /// The entry of `GET /object_info` for one class.
    pub fn info(&self, class: &str) -> Option<Json> {
        let mut info = self.recorded(class)?.clone();
        // ComfyUI's own words are not kept here; every class has some, if only none.
        if let Json::Dict(entry) = &mut info {
            entry.entry("description".into()).or_insert_with(|| "".into());
        }
        if let Json::Dict(entry) = &mut info
            && let Some(Json::Dict(inputs)) = entry.get_mut("input")
        {
            for category in ["required", "optional"] {
                if let Some(Json::Dict(declared)) = inputs.get_mut(category) {
                    for (name, config) in declared.iter_mut() {
                        self.fill(class, name, config);
                    }
                }
            }
        }
        Some(info)
    }

    /// Types of a class's outputs.
    pub fn outputs(&self, class: &str) -> &'static [Json] {
        self.recorded(class).and_then(|info| info.get("output")).and_then(Json::as_list).unwrap_or_default()
    }

    /// Does the class end a graph (`OUTPUT_NODE`)?
    pub fn is_output(&self, class: &str) -> bool {
        self.recorded(class).and_then(|info| info.get("output_node")) == Some(&Json::Bool(true))
    }

    /// Does the class call a service of others?
    pub fn is_api_node(&self, class: &str) -> bool {
        let module = self.recorded(class).and_then(|info| info.get("python_module")).and_then(Json::as_str);
        module.is_some_and(|module| module.starts_with("comfy_api_nodes"))
    }

    /// Does the class ask for its own node id? Then the id is part of the cache key.
    pub fn wants_unique_id(&self, class: &str) -> bool {
        let hidden = self.recorded(class).and_then(|info| info.at(&["input", "hidden"])).and_then(Json::as_dict);
        hidden.is_some_and(|hidden| hidden.values().any(|kind| kind.as_str() == Some("UNIQUE_ID")))
    }

    /// The hidden inputs of a class: name and what ComfyUI fills in.
    pub fn hidden(&self, class: &str) -> Vec<String> {
        let hidden = self.recorded(class).and_then(|info| info.at(&["input", "hidden"])).and_then(Json::as_dict);
        hidden.map(|hidden| hidden.keys().cloned().collect()).unwrap_or_default()
    }

    /// The declared inputs, with dynamic ones expanded by the values in `live`.
    pub fn inputs(&self, class: &str, live: &Json) -> Vec<Input> {
        let mut out = Vec::new();
        if let Some(info) = self.info(class)
            && let Some(declared) = info.get("input").and_then(Json::as_dict)
        {
            expand(&mut out, declared, live, "");
        }
        out
    }

    /// Puts the present models or files into the options of a combo that lists them.
    fn fill(&self, class: &str, input: &str, config: &mut Json) {
        let Some(listed) = self.listed(class, input) else {
            return;
        };
        let Json::List(parts) = config else { return };
        let options = Json::List(listed.into_iter().map(Json::from).collect());
        match parts.first_mut() {
            Some(kind @ Json::List(_)) => *kind = options,
            Some(Json::Str(_)) => {
                if let Some(Json::Dict(config)) = parts.get_mut(1) {
                    config.insert("options".to_owned(), options);
                }
            }
            _ => {}
        }
    }

    fn listed(&self, class: &str, input: &str) -> Option<Vec<String>> {
        match (class, input) {
            ("LoadImage" | "LoadImageMask", "image") => Some(self.input_files(IMAGE_ENDINGS)),
            ("LoadAudio", "audio") => Some(self.input_files(AUDIO_ENDINGS)),
            ("LoadVideo", "file") => Some(self.input_files(VIDEO_ENDINGS)),
            ("LoadLatent", "latent") => Some(self.input_files(&["latent"])),
            _ => {
                let mut names = self.models.get(folder_of(class, input)?).cloned().unwrap_or_default();
                if (class, input) == ("VAELoader", "vae_name") {
                    names.push("pixel_space".to_owned());
                }
                Some(names)
            }
        }
    }

    fn input_files(&self, endings: &[&str]) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.input_dir)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| {
                let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
                ending.is_some_and(|ending| endings.contains(&ending.as_str()))
            })
            .collect();
        names.sort();
        names
    }
}

const IMAGE_ENDINGS: &[&str] =
    &["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "svg", "ico", "ppm", "pgm", "pbm", "avif"];
const AUDIO_ENDINGS: &[&str] = &["mp3", "wav", "flac", "ogg", "opus", "m4a", "aac", "aif", "aiff"];
const VIDEO_ENDINGS: &[&str] = &["mp4", "webm", "mkv", "mov", "avi", "mpg", "mpeg", "m4v"];

/// The model folder that an input's combo lists, if it lists one.
fn folder_of(class: &str, input: &str) -> Option<&'static str> {
    Some(match (class, input) {
        ("CLIPVisionLoader", "clip_name") => "clip_vision",
        ("UpscaleModelLoader", "model_name") => "upscale_models",
        ("LatentUpscaleModelLoader", "model_name") => "latent_upscale_models",
        ("ModelPatchLoader", "name") => "model_patches",
        ("DiffusersLoader", "model_path") => "diffusers",
        ("CLIPLoader" | "DualCLIPLoader" | "TripleCLIPLoader" | "QuadrupleCLIPLoader", name)
            if name.starts_with("clip_name") =>
        {
            "text_encoders"
        }
        (_, "ckpt_name") => "checkpoints",
        (_, "lora_name") => "loras",
        (_, "control_net_name") => "controlnet",
        (_, "unet_name") => "diffusion_models",
        (_, "vae_name") => "vae",
        (_, "style_model_name") => "style_models",
        (_, "gligen_name") => "gligen",
        (_, "hypernetwork_name") => "hypernetworks",
        (_, "photomaker_model_name") => "photomaker",
        (_, "audio_encoder_name") => "audio_encoders",
        (_, "text_encoder") => "text_encoders",
        _ => return None,
    })
}

/// `parse_class_inputs` of comfy_api: dynamic combos and growing lists become plain dotted inputs.
fn expand(out: &mut Vec<Input>, declared: &Dict, live: &Json, prefix: &str) {
    for (category, kind) in [("required", Category::Required), ("optional", Category::Optional)] {
        for (name, config) in declared.get(category).and_then(Json::as_dict).into_iter().flatten() {
            let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let word = config.as_list().and_then(|parts| parts.first()).and_then(Json::as_str);
            match word {
                Some("COMFY_DYNAMICCOMBO_V3") => expand_choice(out, &name, kind, config, live),
                Some("COMFY_AUTOGROW_V3") => expand_growing(out, &name, config, live),
                _ => out.push(plain_input(name, kind, config)),
            }
        }
    }
}

fn plain_input(name: String, category: Category, config: &Json) -> Input {
    let parts = config.as_list().unwrap_or_default();
    Input {
        name,
        category,
        kind: parts.first().cloned().unwrap_or(Json::Null),
        options: parts.get(1).cloned().unwrap_or_else(|| Json::Dict(Dict::new())),
    }
}

fn expand_choice(out: &mut Vec<Input>, name: &str, category: Category, config: &Json, live: &Json) {
    let Some(chosen) = live.get(name) else { return };
    let options = config.as_list().and_then(|parts| parts.get(1)).and_then(|options| options.get("options"));
    let selected =
        options.and_then(Json::as_list).into_iter().flatten().find(|option| option.get("key") == Some(chosen));
    let Some(selected) = selected else { return };
    if let Some(inner) = selected.get("inputs").and_then(Json::as_dict) {
        expand(out, inner, live, name);
    }
    out.push(plain_input(name.to_owned(), category, config));
}

fn expand_growing(out: &mut Vec<Input>, name: &str, config: &Json, live: &Json) {
    let Some(template) = config.as_list().and_then(|parts| parts.get(1)).and_then(|options| options.get("template"))
    else {
        return;
    };
    let required = template.get("min").and_then(Json::as_number).unwrap_or(0.0);
    let names: Vec<String> = match (template.get("names").and_then(Json::as_list), template.get("prefix")) {
        (Some(names), _) => names.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        (None, Some(Json::Str(prefix))) => {
            let max = template.get("max").and_then(Json::as_number).unwrap_or(0.0);
            (0_u32..100).take_while(|index| f64::from(*index) < max).map(|index| format!("{prefix}{index}")).collect()
        }
        _ => return,
    };
    let inner = template.get("input").and_then(Json::as_dict);
    let Some(config) = inner
        .into_iter()
        .flat_map(IndexMap::values)
        .filter_map(Json::as_dict)
        .find_map(|inputs| inputs.values().next())
    else {
        return;
    };
    for (index, item) in (0_u32..).zip(names) {
        let dotted = format!("{name}.{item}");
        if live.get(&dotted).is_some() {
            let category = if f64::from(index) < required { Category::Required } else { Category::Optional };
            out.push(plain_input(dotted, category, config));
        }
    }
}

/// `validate_node_input`: may an output of type `received` feed an input of type `wanted`?
pub fn types_match(received: &Json, wanted: &Json) -> bool {
    const ANY: [&str; 2] = ["*", "COMFY_MATCHTYPE_V3"];
    if received.equals(wanted) {
        return true;
    }
    if [received, wanted].into_iter().any(|kind| kind.as_str().is_some_and(|word| ANY.contains(&word))) {
        return true;
    }
    if matches!(received, Json::List(_)) && wanted.as_str() == Some("COMBO") {
        return true;
    }
    let (Some(received), Some(wanted)) = (received.as_str(), wanted.as_str()) else {
        return false;
    };
    let words = |text: &str| text.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>();
    let (received, wanted) = (words(received), words(wanted));
    received.iter().chain(&wanted).any(|word| word == "*") || received.iter().any(|word| wanted.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_recording_is_read_whole() {
        assert_eq!(RECORDED.len(), 571);
    }

    #[test]
    fn types_match_as_in_comfyui() {
        let kind = |value: serde_json::Value| Json::from(value);
        for (received, wanted, expected) in [
            (json!("INT"), json!("INT"), true),
            (json!("INT"), json!("IMAGE"), false),
            (json!("COMFY_MATCHTYPE_V3"), json!("INT"), true),
            (json!("A,B"), json!("B,C"), true),
            (json!("A"), json!("B,C"), false),
            (json!(["a"]), json!("COMBO"), true),
            (json!(["a"]), json!("STRING"), false),
        ] {
            assert_eq!(types_match(&kind(received.clone()), &kind(wanted.clone())), expected, "{received} {wanted}");
        }
    }

    #[test]
    fn growing_inputs_are_declared_only_where_they_are_given() {
        let models = Models::new();
        let catalogue = Catalogue { models: &models, input_dir: Path::new("/nonexistent"), api_nodes: true, packs: 0 };
        let live = Json::from(json!({"images.image0": ["1", 0], "images.image2": ["2", 0]}));
        let inputs = catalogue.inputs("BatchImagesNode", &live);
        let names: Vec<_> = inputs.iter().map(|input| (input.name.as_str(), input.category)).collect();
        assert_eq!(names, [("images.image0", Category::Required), ("images.image2", Category::Optional)]);
    }

    #[test]
    fn a_dynamic_choice_declares_the_inputs_of_the_chosen_branch() {
        let models = Models::new();
        let catalogue = Catalogue { models: &models, input_dir: Path::new("/nonexistent"), api_nodes: true, packs: 0 };
        let names = |live: serde_json::Value| -> Vec<String> {
            let inputs = catalogue.inputs("ResizeImageMaskNode", &Json::from(live));
            inputs.into_iter().map(|input| input.name).collect()
        };
        assert!(names(json!({"resize_type": "scale by multiplier"})).contains(&"resize_type.multiplier".to_owned()));
        assert!(!names(json!({"resize_type": "no such choice"})).contains(&"resize_type".to_owned()));
    }
}
