//! `/object_info` for one caller: that of all backends as one, cut to what its policy allows, without the names of others' files (facts §1.3). Pure.

use super::StateError;
use super::offers::{Offer, Place, Template};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Inputs of ComfyUI's own classes whose options are names of files that lie on the backend, of whomever, and that carry no mark; and what a caller is offered there of its own.
const FILE_INPUTS: [(&str, &str, Option<Offer>); 11] = [
    ("LoadImage", "image", Some(Offer::Pictures)),
    ("LoadImageMask", "image", Some(Offer::Pictures)),
    // The page asks /internal/files/output for these.
    ("LoadImageOutput", "image", None),
    ("LoadAudio", "audio", Some(Offer::Sounds)),
    ("LoadVideo", "file", Some(Offer::Films)),
    ("LoadLatent", "latent", None),
    ("Load3D", "model_file", None),
    ("LoadImageDataSetFromFolder", "folder", None),
    ("LoadImageTextDataSetFromFolder", "folder", None),
    ("WebcamCapture", "image", None),
    ("RecordAudio", "audio", None),
];

/// Options by which an input of any pack says that it lists files (`nodes.py`, `comfy_api/latest/_io.py`).
const FILE_MARKS: [&str; 7] = [
    "image_upload",
    "video_upload",
    "audio_upload",
    "file_upload",
    "animated_image_upload",
    "mesh_upload",
    "image_folder",
];

/// What one backend answered, and which of its classes the caller may see.
pub struct Source<A> {
    /// The backend's own `object_info`.
    pub live: Bytes,
    /// Whether the class may be used there.
    pub allowed: A,
}

/// What a caller may choose from, beside classes.
pub trait Rules {
    /// Whether the lists of backends are to be joined for this option: it names a model, which one installation has and another may not.
    fn is_model(&self, class: &str, input: &str, option: &str) -> bool;
    /// Whether the option may be chosen.
    fn offers(&self, class: &str, input: &str, option: &str) -> bool;
}

/// The `object_info` of several backends as one: the classes that are allowed, each as the first backend that may run it declares it; the models of all of them; no names of files, but for an
/// `owner` those of its own directories, apart from the folders that the gateway gives out. Where a caller is offered its own, a mark stands that begins with `token`: see [`Template`].
///
/// # Errors
/// What a backend answered is no `object_info`.
pub fn filtered<A: Fn(&str) -> bool>(
    sources: Vec<Source<A>>,
    rules: &impl Rules,
    token: &str,
    owner: bool,
) -> Result<Template, StateError> {
    let mut classes: Map<String, Value> = Map::new();
    let mut read: Vec<Bytes> = Vec::new();
    for Source { live, allowed } in sources {
        // As most installations of a pool do, it says what another one said.
        if read.contains(&live) {
            continue;
        }
        let answered: Map<String, Value> = serde_json::from_slice(&live).map_err(unreadable)?;
        for (name, class) in answered.into_iter().filter(|(name, _)| allowed(name)) {
            match classes.get_mut(&name) {
                None => drop(classes.insert(name, class)),
                Some(known) => join_models(&name, known, &class, rules),
            }
        }
        read.push(live);
    }
    let mut places = Vec::new();
    for (name, class) in &mut classes {
        for (input, declared) in inputs_mut(class) {
            let Some(offer) = files_of(name, input, declared) else {
                keep_offered(name, input, declared, rules);
                continue;
            };
            let kept = if owner { own_disk(declared) } else { Vec::new() };
            let list = match offer {
                Some(offer) => {
                    places.push(Place { offer, kept });
                    Template::mark(token, places.len() - 1)
                }
                None => json!(kept),
            };
            with_options(declared, list);
        }
    }
    let bytes = serde_json::to_vec(&classes).map_err(unreadable)?;
    Ok(Template::new(bytes.into(), token, places))
}

fn unreadable(error: serde_json::Error) -> StateError {
    StateError::Unreadable { what: "a backend's object_info", reason: error.to_string() }
}

const SECTIONS: [&str; 2] = ["required", "optional"];

fn inputs_mut(class: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    let sections = class.get_mut("input").and_then(Value::as_object_mut).into_iter().flatten();
    let wanted = sections.filter(|(section, _)| SECTIONS.contains(&section.as_str()));
    wanted.filter_map(|(_, inputs)| inputs.as_object_mut()).flatten()
}

/// Adds the models that `other` offers at its inputs to what `known` offers there, after its own.
fn join_models(name: &str, known: &mut Value, other: &Value, rules: &impl Rules) {
    for section in SECTIONS {
        let theirs = other.get("input").and_then(|input| input.get(section)).and_then(Value::as_object);
        for (input, declared) in theirs.into_iter().flatten() {
            let mine = known.get_mut("input").and_then(|inputs| inputs.get_mut(section)?.get_mut(input));
            let (Some(mine), Some(theirs)) = (mine.and_then(options_mut), options(declared)) else { continue };
            let (Some(mine), Some(theirs)) = (mine.as_array_mut(), theirs.as_array()) else { continue };
            let here: HashSet<&Value> = mine.iter().collect();
            let is_model = |option: &Value| option.as_str().is_some_and(|option| rules.is_model(name, input, option));
            let more: Vec<Value> =
                theirs.iter().filter(|option| !here.contains(option) && is_model(option)).cloned().collect();
            mine.extend(more);
        }
    }
}

/// Drops the options that may not be chosen, and a default that is one of them.
fn keep_offered(class: &str, input: &str, declared: &mut Value, rules: &impl Rules) {
    let offers = |option: &Value| option.as_str().is_none_or(|option| rules.offers(class, input, option));
    let Some(list) = options_mut(declared).and_then(Value::as_array_mut) else { return };
    list.retain(offers);
    if let Some(more) = declared.get_mut(1).and_then(Value::as_object_mut)
        && more.get("default").is_some_and(|default| !offers(default))
    {
        more.remove("default");
    }
}

/// Whether an input's options are names of files instead of models or words.
pub(super) fn lists_files(class: &str, input: &str, declared: &Value) -> bool {
    files_of(class, input, declared).is_some()
}

/// Whether an input lists files, and what is offered in their place.
fn files_of(class: &str, input: &str, declared: &Value) -> Option<Option<Offer>> {
    if let Some((_, _, offer)) = FILE_INPUTS.iter().find(|(known, name, _)| (*known, *name) == (class, input)) {
        return Some(*offer);
    }
    let option = |name: &str| declared.get(1).and_then(|options| options.get(name));
    let set = |mark: &str| option(mark).is_some_and(|mark| *mark != json!(false));
    if !FILE_MARKS.iter().any(|mark| set(mark)) {
        return None;
    }
    let own_folder = option("image_folder").is_none_or(|folder| *folder == json!("input"));
    Some(match (set("image_upload"), set("video_upload"), set("audio_upload")) {
        (true, false, false) if own_folder => Some(Offer::Pictures),
        (false, true, false) => Some(Offer::Films),
        (false, false, true) => Some(Offer::Sounds),
        _ => None,
    })
}

/// The options that lie in an owner's own directories, and not in a folder that the gateway gives out.
fn own_disk(declared: &Value) -> Vec<String> {
    let names = options(declared).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    names.filter(|name| !name.starts_with("t/")).map(str::to_owned).collect()
}

/// The options of `[["a.png"], {…}]`, or of `["COMBO", {"options": ["a.png"]}]`.
fn options(declared: &Value) -> Option<&Value> {
    declared.get(0).filter(|first| first.is_array()).or_else(|| declared.pointer("/1/options"))
}

fn options_mut(declared: &mut Value) -> Option<&mut Value> {
    let place = if declared.get(0).is_some_and(Value::is_array) { "/0" } else { "/1/options" };
    declared.pointer_mut(place)
}

/// Puts other options there. A default is one of the former.
fn with_options(declared: &mut Value, new: Value) {
    if let Some(list) = options_mut(declared) {
        *list = new;
    }
    if let Some(more) = declared.get_mut(1).and_then(Value::as_object_mut) {
        more.remove("default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::contents::ContentFamily;

    /// Options that end in `.safetensors` are models; none may be chosen that begins with `no`.
    struct ByName;

    impl Rules for ByName {
        fn is_model(&self, _: &str, _: &str, option: &str) -> bool {
            option.ends_with(".safetensors")
        }

        fn offers(&self, _: &str, _: &str, option: &str) -> bool {
            !option.starts_with("no")
        }
    }

    fn source(live: &Value, allowed: fn(&str) -> bool) -> Source<fn(&str) -> bool> {
        Source { live: live.to_string().into(), allowed }
    }

    fn one(live: &Value, allowed: fn(&str) -> bool, owner: bool) -> Result<Template, StateError> {
        filtered(vec![source(live, allowed)], &ByName, "T", owner)
    }

    fn shown(template: &Template) -> Value {
        serde_json::from_slice(&template.filled(&[])).unwrap()
    }

    #[test]
    fn object_info_loses_denied_classes_and_names_of_files() {
        let live = json!({
            "LoadImage": {"input": {"required": {"image": [["bravo.png"], {"image_upload": true}]}}},
            "LoadVideo": {"input": {"required": {"file": ["COMBO", {"options": ["bravo.mp4"], "default": "bravo.mp4"}]}}},
            "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["sd.safetensors"], {}]}}},
            "PackLoader": {"input": {"optional": {"pic": [["bravo.webp"], {"image_upload": true}], "mode": [["fast"], {"image_upload": false}]}}},
            "PackResults": {"input": {"required": {"pic": [["bravo.gif"], {"image_upload": true, "image_folder": "output"}]}}},
            "Evil": {},
        });
        let kept = one(&live, |class| class != "Evil", false).unwrap();
        let own = [("own.png".to_owned(), ContentFamily::Picture), ("own.mp4".to_owned(), ContentFamily::Film)];
        let text = String::from_utf8(kept.filled(&own).to_vec()).unwrap();
        assert!(!text.contains("bravo") && !text.contains("Evil"), "{text}");
        assert!(text.contains("sd.safetensors") && text.contains("fast") && text.contains("image_upload"), "{text}");
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(shown["LoadImage"]["input"]["required"]["image"][0], json!(["own.png"]));
        assert_eq!(shown["LoadVideo"]["input"]["required"]["file"], json!(["COMBO", {"options": ["own.mp4"]}]));
        assert_eq!(shown["PackLoader"]["input"]["optional"]["pic"][0], json!(["own.png"]));
        assert_eq!(shown["PackResults"]["input"]["required"]["pic"][0], json!([]));
        assert!(one(&json!([]), |_| true, false).is_err());
    }

    #[test]
    fn an_owners_object_info_has_the_names_of_its_own_directories_too_and_none_of_our_folders() {
        let live = json!({"LoadImage": {"input": {"required": {"image": [["old.png", "both.png", "t/x/y.png"], {"image_upload": true}]}}},
            "LoadLatent": {"input": {"required": {"latent": [["old.latent", "t/x/z.latent"], {}]}}}});
        let kept = one(&live, |_| true, true).unwrap();
        let own = [("own.png".to_owned(), ContentFamily::Picture), ("both.png".to_owned(), ContentFamily::Picture)];
        let shown: Value = serde_json::from_slice(&kept.filled(&own)).unwrap();
        assert_eq!(shown["LoadImage"]["input"]["required"]["image"][0], json!(["own.png", "both.png", "old.png"]));
        assert_eq!(shown["LoadLatent"]["input"]["required"]["latent"][0], json!(["old.latent"]));
    }

    #[test]
    fn what_several_backends_have_is_shown_as_one() {
        let loader = |names: Value| json!({"input": {"required": {"ckpt_name": [names, {}], "mode": [["slow"], {}]}}});
        let first =
            json!({"CheckpointLoaderSimple": loader(json!(["a.safetensors", "b.safetensors"])), "Closed": {"of": 1}});
        let mut other = json!({"CheckpointLoaderSimple": loader(json!(["b.safetensors", "c.safetensors", "d.json"])), "Closed": {"of": 2}, "More": {}});
        other["CheckpointLoaderSimple"]["input"]["required"]["mode"][0] = json!(["fast"]);
        let sources =
            vec![source(&first, |class| class != "Closed"), source(&first, |_| true), source(&other, |_| true)];
        let both = shown(&filtered(sources, &ByName, "T", false).unwrap());
        let inputs = &both["CheckpointLoaderSimple"]["input"]["required"];
        assert_eq!(inputs["ckpt_name"][0], json!(["a.safetensors", "b.safetensors", "c.safetensors"]), "models only");
        assert_eq!(inputs["mode"][0], json!(["slow"]), "what is not a model is the class's own");
        assert_eq!(both["Closed"]["of"], 2, "as the first backend that may run it declares it");
        assert!(both["More"].is_object());
    }

    #[test]
    fn only_what_may_be_chosen_is_offered() {
        let live = json!({"L": {"input": {
            "required": {"a": [["x.safetensors", "no.safetensors"], {"default": "no.safetensors", "tooltip": "t"}], "n": ["INT", {"default": 5}]},
            "optional": {"b": ["COMBO", {"options": ["no", "yes", 5], "default": "yes"}]},
            "hidden": {"c": [["no"]]}}}});
        let inputs = &shown(&one(&live, |_| true, false).unwrap())["L"]["input"];
        assert_eq!(inputs["required"]["a"], json!([["x.safetensors"], {"tooltip": "t"}]));
        assert_eq!(inputs["required"]["n"], json!(["INT", {"default": 5}]));
        assert_eq!(inputs["optional"]["b"], json!(["COMBO", {"options": ["yes", 5], "default": "yes"}]));
    }
}
