//! Answers about the server: what the page needs to load, and nothing of the host (facts §1.3, §9.1, §9.2).

use super::StateError;
use super::offers::{Offer, Place, Template};
use serde_json::{Map, Value, json};

/// `GET /users` of a single-user ComfyUI: whoever asks is logged in already, and others' names are nobody's business.
pub fn users() -> Value {
    json!({"storage": "server", "migrated": true})
}

/// `GET /features`, also the answer to a client's feature flags. `upload_bytes_max` in bytes.
pub fn features(upload_bytes_max: u64) -> Value {
    json!({"supports_preview_metadata": true, "max_upload_size": upload_bytes_max})
}

/// ComfyUI 0.8.0's model folders (`folder_paths.py`), without `custom_nodes` and `configs`.
const FOLDERS: [&str; 20] = [
    "checkpoints",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "latent_upscale_models",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
    "configs",
];

/// `GET /internal/folder_paths`: the page asks while loading; names without paths.
pub fn folder_paths() -> Value {
    let folders = FOLDERS.iter().filter(|name| **name != "configs").map(|name| ((*name).to_owned(), json!([])));
    Value::Object(folders.collect())
}

/// `GET /system_stats` with every field that the page reads, and only the versions that it needs.
pub fn scrubbed_stats(stats: &Value) -> Value {
    let system = |key: &str| stats.pointer(&format!("/system/{key}")).cloned().unwrap_or(Value::Null);
    let device = |index: usize| {
        json!({
            "name": format!("gpu {index}"), "type": "cuda", "index": index,
            "vram_total": 0, "vram_free": 0, "torch_vram_total": 0, "torch_vram_free": 0,
        })
    };
    let devices = stats.get("devices").and_then(Value::as_array).map_or(0, Vec::len);
    json!({
        "system": {
            "os": "", "ram_total": 0, "ram_free": 0,
            "comfyui_version": system("comfyui_version"),
            "required_frontend_version": system("required_frontend_version"),
            "installed_templates_version": system("installed_templates_version"),
            "required_templates_version": system("required_templates_version"),
            "python_version": "", "pytorch_version": "", "embedded_python": false, "argv": [],
        },
        "devices": (0..devices).map(device).collect::<Vec<_>>(),
    })
}

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

/// An `object_info` cut to the classes that are allowed, without the names of files; for an `owner` with those of its own directories, apart from the folders that the gateway
/// gives out. Where a caller is offered its own, a mark stands that begins with `token`: see [`Template`].
///
/// # Errors
/// What the backend answered is no `object_info`.
pub fn filter_object_info(
    live: &[u8],
    token: &str,
    allowed: impl Fn(&str) -> bool,
    owner: bool,
) -> Result<Template, StateError> {
    let unreadable = |error: serde_json::Error| StateError::Unreadable {
        what: "a backend's object_info",
        reason: error.to_string(),
    };
    let mut classes: Map<String, Value> = serde_json::from_slice(live).map_err(unreadable)?;
    classes.retain(|name, _| allowed(name));
    let mut places = Vec::new();
    for (name, class) in &mut classes {
        for section in ["/input/required", "/input/optional"] {
            let inputs = class.pointer_mut(section).and_then(Value::as_object_mut);
            for (input, declared) in inputs.into_iter().flatten() {
                if let Some(offer) = files_of(name, input, declared) {
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
        }
    }
    let bytes = serde_json::to_vec(&classes).map_err(unreadable)?;
    Ok(Template::new(bytes.into(), token, places))
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
    let listed = declared.get(0).filter(|first| first.is_array()).or_else(|| declared.get(1)?.get("options"));
    let names = listed.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    names.filter(|name| !name.starts_with("t/")).map(str::to_owned).collect()
}

/// `[["a.png"], {…}]`, or `["COMBO", {"options": ["a.png"]}]`, with another list.
fn with_options(declared: &mut Value, new: Value) {
    if let Some(list) = declared.get_mut(0).filter(|first| first.is_array()) {
        *list = new;
        if let Some(options) = declared.get_mut(1).and_then(Value::as_object_mut) {
            options.remove("default");
        }
        return;
    }
    let options = declared.get_mut(1).and_then(Value::as_object_mut);
    if let Some(options) = options {
        if let Some(list) = options.get_mut("options") {
            *list = new;
        }
        options.remove("default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::contents::ContentFamily;

    #[test]
    fn stats_keep_versions_and_lose_the_host() {
        let stats = json!({
            "system": {"os": "linux", "comfyui_version": "0.8.0", "argv": ["main.py", "--secret"], "python_version": "3.11", "ram_total": 5},
            "devices": [{"name": "NVIDIA H200", "vram_total": 9}]
        });
        let scrubbed = scrubbed_stats(&stats);
        assert_eq!(scrubbed["system"]["comfyui_version"], "0.8.0");
        assert_eq!(scrubbed["system"]["argv"], json!([]));
        assert_eq!(scrubbed["devices"].as_array().unwrap().len(), 1);
        let text = scrubbed.to_string();
        for secret in ["linux", "--secret", "3.11", "H200"] {
            assert!(!text.contains(secret), "{secret}");
        }
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
        let kept = filter_object_info(live.to_string().as_bytes(), "T", |class| class != "Evil", false).unwrap();
        let own = [("own.png".to_owned(), ContentFamily::Picture), ("own.mp4".to_owned(), ContentFamily::Film)];
        let text = String::from_utf8(kept.filled(&own).to_vec()).unwrap();
        assert!(!text.contains("bravo") && !text.contains("Evil"), "{text}");
        assert!(text.contains("sd.safetensors") && text.contains("fast") && text.contains("image_upload"), "{text}");
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(shown["LoadImage"]["input"]["required"]["image"][0], json!(["own.png"]));
        assert_eq!(shown["LoadVideo"]["input"]["required"]["file"], json!(["COMBO", {"options": ["own.mp4"]}]));
        assert_eq!(shown["PackLoader"]["input"]["optional"]["pic"][0], json!(["own.png"]));
        assert_eq!(shown["PackResults"]["input"]["required"]["pic"][0], json!([]));
        assert!(filter_object_info(b"[]", "T", |_| true, false).is_err());
    }

    #[test]
    fn an_owners_object_info_has_the_names_of_its_own_directories_too_and_none_of_our_folders() {
        let live = json!({"LoadImage": {"input": {"required": {"image": [["old.png", "both.png", "t/x/y.png"], {"image_upload": true}]}}},
            "LoadLatent": {"input": {"required": {"latent": [["old.latent", "t/x/z.latent"], {}]}}}});
        let kept = filter_object_info(live.to_string().as_bytes(), "T", |_| true, true).unwrap();
        let own = [("own.png".to_owned(), ContentFamily::Picture), ("both.png".to_owned(), ContentFamily::Picture)];
        let shown: Value = serde_json::from_slice(&kept.filled(&own)).unwrap();
        assert_eq!(shown["LoadImage"]["input"]["required"]["image"][0], json!(["own.png", "both.png", "old.png"]));
        assert_eq!(shown["LoadLatent"]["input"]["required"]["latent"][0], json!(["old.latent"]));
    }

    #[test]
    fn folder_names_come_without_paths() {
        let folders = folder_paths();
        assert_eq!(folders["checkpoints"], json!([]));
        assert!(folders.get("custom_nodes").is_none() && folders.get("configs").is_none());
    }
}
