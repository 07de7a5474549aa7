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
    let mut cut = Cut { rules, token, owner, places: Vec::new() };
    for (name, class) in &mut classes {
        for (input, declared) in class.get_mut("input").into_iter().flat_map(inputs_mut) {
            cut.input(name, input, declared, 0);
        }
    }
    let bytes = serde_json::to_vec(&classes).map_err(unreadable)?;
    Ok(Template::new(bytes.into(), token, cut.places))
}

/// Inputs within inputs, in so many layers: a class with more is in no catalogue.
const NESTED_MAX: usize = 4;

/// What inputs are cut to, and the places that were left to fill: in the order in which they stand in the answer.
struct Cut<'a, R> {
    rules: &'a R,
    token: &'a str,
    owner: bool,
    places: Vec<Place>,
}

impl<R: Rules> Cut<'_, R> {
    /// Cuts what an input offers, and the inputs within it: those of each choice of `COMFY_DYNAMICCOMBO_V3`, of a row's item, and of a slot (`comfy_api/latest/_io.py`). `input`: its full
    /// name, `mode.model`. What is nested too deeply is dropped.
    fn input(&mut self, class: &str, input: &str, declared: &mut Value, depth: usize) {
        if let Some(offer) = files_of(class, input, declared) {
            return self.files(offer, declared);
        }
        keep_offered(class, input, declared, self.rules);
        for (key, value) in declared.get_mut(1).and_then(Value::as_object_mut).into_iter().flatten() {
            match key.as_str() {
                "options" => {
                    for choice in value.as_array_mut().into_iter().flatten() {
                        if let Some(inputs) = choice.get_mut("inputs") {
                            self.nested(class, (input, None), inputs, depth);
                        }
                    }
                }
                "template" => {
                    let item = first_item(value);
                    if let Some(inputs) = value.get_mut("input") {
                        self.nested(class, (input, item.as_deref()), inputs, depth);
                    }
                }
                "inputs" => self.nested(class, (input, None), value, depth),
                _ => {}
            }
        }
    }

    /// `outer`: the input that has them, and by which name they are known instead of their own.
    fn nested(&mut self, class: &str, (outer, item): (&str, Option<&str>), inputs: &mut Value, depth: usize) {
        if depth >= NESTED_MAX {
            *inputs = json!({});
            return;
        }
        for (name, declared) in inputs_mut(inputs) {
            self.input(class, &format!("{outer}.{}", item.unwrap_or(name)), declared, depth + 1);
        }
    }

    fn files(&mut self, offer: Option<Offer>, declared: &mut Value) {
        let kept = if self.owner { own_disk(declared) } else { Vec::new() };
        let list = match offer {
            Some(offer) => {
                self.places.push(Place { offer, kept });
                Template::mark(self.token, self.places.len() - 1)
            }
            None => json!(kept),
        };
        with_options(declared, list);
        // Whatever lists files has nothing within it; if a pack says so nevertheless, nobody has looked at that.
        if let Some(more) = declared.get_mut(1).and_then(Value::as_object_mut) {
            more.retain(|key, _| !["template", "inputs"].contains(&key.as_str()));
        }
    }
}

/// The name of a row's first item, by which rules know all of them.
fn first_item(template: &Value) -> Option<String> {
    let named = template.pointer("/names/0").and_then(Value::as_str).map(str::to_owned);
    named.or_else(|| Some(format!("{}0", template.get("prefix")?.as_str()?)))
}

fn unreadable(error: serde_json::Error) -> StateError {
    StateError::Unreadable { what: "a backend's object_info", reason: error.to_string() }
}

const SECTIONS: [&str; 2] = ["required", "optional"];

fn inputs_mut(input: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    let sections = input.as_object_mut().into_iter().flatten();
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
    // A dynamic choice is an object with a key.
    let text = |option: &Value| option.as_str().or_else(|| option.get("key")?.as_str()).map(str::to_owned);
    let offers = |option: &Value| text(option).is_none_or(|option| rules.offers(class, input, &option));
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

    /// By rules that know an input by its full name: what begins with `no` may be chosen nowhere but there.
    struct But(&'static str);

    impl Rules for But {
        fn is_model(&self, _: &str, _: &str, _: &str) -> bool {
            false
        }

        fn offers(&self, _: &str, input: &str, option: &str) -> bool {
            !option.starts_with("no") || input == self.0
        }
    }

    #[test]
    fn inputs_within_dynamic_choices_rows_and_slots_are_cut_like_others() {
        let combo = || json!(["COMBO", {"options": ["no", "yes"], "default": "no"}]);
        let film = |name: &str| json!([[name], {"video_upload": true}]);
        let choice = |key: &str, inputs: Value| json!({"key": key, "inputs": inputs});
        let live = json!({"C": {"input": {"required": {
            "first": film("bravo1.mp4"),
            "mode": ["COMFY_DYNAMICCOMBO_V3", {"options": [
                choice("a", json!({"required": {"model": combo(), "film": film("bravo2.mp4")}, "optional": {"picture": ["COMBO", {"image_upload": true, "options": ["bravo3.png"]}]}})),
                choice("b", json!({"required": {"deep": ["COMFY_DYNAMICCOMBO_V3", {"options": [choice("c", json!({"required": {"model": combo()}}))]}]}})),
                choice("no", json!({})),
            ]}],
            "row": ["COMFY_AUTOGROW_V3", {"template": {"input": {"required": {"item": combo()}}, "prefix": "item", "max": 3}}],
            "named": ["COMFY_AUTOGROW_V3", {"template": {"input": {"optional": {"item": film("bravo4.mp4")}}, "names": ["x", "y"]}}],
            "slot": ["COMFY_DYNAMICSLOT_V3", {"slotType": "IMAGE", "inputs": {"required": {"model": combo()}}}],
            "last": film("bravo5.mp4"),
        }}}});
        let own = [("own.png".to_owned(), ContentFamily::Picture), ("own.mp4".to_owned(), ContentFamily::Film)];
        let names = ["", "mode.model", "mode.deep.model", "row.item0", "slot.model"];
        for allowed in names {
            let kept = filtered(vec![source(&live, |_| true)], &But(allowed), "T", false).unwrap();
            let shown: Value = serde_json::from_slice(&kept.filled(&own)).unwrap();
            let inputs = &shown["C"]["input"]["required"];
            let choices = &inputs["mode"][1]["options"];
            let [a, b] = [0, 1].map(|at| &choices[at]["inputs"]);
            for (input, declared) in names[1..].iter().zip([
                &a["required"]["model"],
                &b["required"]["deep"][1]["options"][0]["inputs"]["required"]["model"],
                &inputs["row"][1]["template"]["input"]["required"]["item"],
                &inputs["slot"][1]["inputs"]["required"]["model"],
            ]) {
                let cut = json!(["COMBO", {"options": ["yes"]}]);
                assert_eq!(*declared, if *input == allowed { combo() } else { cut }, "{input} by {allowed}");
            }
            assert_eq!(choices.as_array().unwrap().len(), 2, "a choice that may not be made is none");
            assert!(!shown.to_string().contains("bravo"), "{shown}");
            assert_eq!(a["optional"]["picture"][1]["options"], json!(["own.png"]));
            for film in [
                &inputs["first"],
                &a["required"]["film"],
                &inputs["named"][1]["template"]["input"]["optional"]["item"],
                &inputs["last"],
            ] {
                assert_eq!(film[0], json!(["own.mp4"]), "in the order of the answer");
            }
        }
    }

    #[test]
    fn four_layers_of_inputs_are_shown_and_a_fifth_is_not() {
        let mut declared = json!([["deepest"], {}]);
        for layer in (1..=5).rev() {
            let inputs = json!({"required": {(format!("at{layer}")): declared}});
            declared = json!(["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "k", "inputs": inputs}]}]);
        }
        let text = |declared: &Value| {
            let live = json!({"C": {"input": {"required": {"at0": declared}}}});
            shown(&one(&live, |_| true, false).unwrap()).to_string()
        };
        let five = text(&declared);
        assert!(five.contains("at4") && !five.contains("at5") && !five.contains("deepest"), "{five}");
        let four = text(&declared[1]["options"][0]["inputs"]["required"]["at1"]);
        assert!(four.contains("at5") && four.contains("deepest"), "{four}");
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
