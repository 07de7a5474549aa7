//! Answers about ComfyUI itself, without what is no tenant's business: arguments, paths, versions of the host, other people's files.

use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Version texts are short; what is longer is none.
const VERSION_BYTES_MAX: usize = 64;

/// `GET /features`, and the data of the WebSocket's `feature_flags`: what the gateway itself supports. No `extension.manager`: there is no manager here.
pub fn features(upload_bytes_max: u64) -> Value {
    json!({"supports_preview_metadata": true, "max_upload_size": upload_bytes_max})
}

/// `GET /users` of a single-user ComfyUI that has its settings already.
pub fn users() -> Value {
    json!({"storage": "server", "migrated": true})
}

/// `GET /internal/folder_paths`: the folder names of ComfyUI 0.8.0 (folder_paths.py), each without a path. The page asks while loading.
pub fn folder_paths() -> Value {
    let names = [
        "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models", "embeddings", "diffusers",
        "vae_approx", "controlnet", "gligen", "upscale_models", "latent_upscale_models", "custom_nodes", "hypernetworks", "photomaker",
        "classifiers", "model_patches", "audio_encoders",
    ];
    Value::Object(names.into_iter().map(|name| (name.to_owned(), json!([]))).collect())
}

/// `GET /system_stats` with ComfyUI's own versions and the memory numbers; the rest has the page's keys and no content.
pub fn scrubbed_stats(stats: &Value) -> Value {
    let no_system = Map::new();
    let system = stats.get("system").and_then(Value::as_object).unwrap_or(&no_system);
    let version = |key: &str| system.get(key).and_then(Value::as_str).filter(|text| is_version(text));
    let devices = stats.get("devices").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    json!({
        "system": {
            "os": "",
            "ram_total": number(system.get("ram_total")),
            "ram_free": number(system.get("ram_free")),
            "comfyui_version": version("comfyui_version"),
            "required_frontend_version": version("required_frontend_version"),
            "installed_templates_version": version("installed_templates_version"),
            "required_templates_version": version("required_templates_version"),
            "python_version": "",
            "pytorch_version": "",
            "embedded_python": false,
            "argv": [],
        },
        "devices": devices.iter().map(scrubbed_device).collect::<Vec<_>>(),
    })
}

fn scrubbed_device(device: &Value) -> Value {
    let kind = device.get("type").and_then(Value::as_str).filter(|kind| ["cpu", "cuda", "mps", "xpu", "npu", "mlu"].contains(kind));
    let kind = kind.unwrap_or("other");
    json!({
        "name": kind, "type": kind, "index": device.get("index").and_then(Value::as_u64),
        "vram_total": number(device.get("vram_total")), "vram_free": number(device.get("vram_free")),
        "torch_vram_total": number(device.get("torch_vram_total")), "torch_vram_free": number(device.get("torch_vram_free")),
    })
}

fn number(value: Option<&Value>) -> u64 {
    value.and_then(Value::as_u64).unwrap_or_default()
}

fn is_version(text: &str) -> bool {
    text.len() <= VERSION_BYTES_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+_".contains(&b))
}

/// The answer is not one of `/object_info`.
#[derive(Debug, thiserror::Error)]
pub enum ObjectInfoError {
    /// Not an object of classes.
    #[error("`/object_info` is no object of classes: {0}")]
    Malformed(serde_json::Error),
    /// It can't be written again.
    #[error("`/object_info` can't be written: {0}")]
    Write(serde_json::Error),
}

/// A catalogue with the allowed classes only, and without the names of files that lie at the backend: whoever they belong to, it is not this caller
/// (facts §5.4). Megabytes of JSON: not for an event loop.
///
/// # Errors
/// [`ObjectInfoError`].
pub fn filter_object_info(catalogue: &[u8], allowed: impl Fn(&str) -> bool) -> Result<Bytes, ObjectInfoError> {
    let mut classes: Map<String, Value> = serde_json::from_slice(catalogue).map_err(ObjectInfoError::Malformed)?;
    classes.retain(|name, _| allowed(name));
    for (name, class) in &mut classes {
        empty_file_combos(name, class);
    }
    serde_json::to_vec(&classes).map(Bytes::from).map_err(ObjectInfoError::Write)
}

/// Inputs of ComfyUI's own classes that list files of `input/`, `output/` or folders of them, and carry no mark that says so.
const FILE_COMBOS: [(&str, &str); 11] = [
    ("Load3D", "model_file"),
    ("LoadAudio", "audio"),
    ("LoadImage", "image"),
    ("LoadImageDataSetFromFolder", "folder"),
    ("LoadImageMask", "image"),
    ("LoadImageOutput", "image"),
    ("LoadImageTextDataSetFromFolder", "folder"),
    ("LoadLatent", "latent"),
    ("LoadVideo", "file"),
    ("RecordAudio", "audio"),
    ("WebcamCapture", "image"),
];

/// Options by which a node says that its combo lists files (nodes.py, comfy_api/latest/_io.py), in packs too.
const FILE_MARKS: [&str; 8] =
    ["image_upload", "video_upload", "audio_upload", "file_upload", "animated_image_upload", "mesh_upload", "image_folder", "upload"];

fn empty_file_combos(class: &str, info: &mut Value) {
    for group in ["required", "optional"] {
        let inputs = info.get_mut("input").and_then(|input| input.get_mut(group)).and_then(Value::as_object_mut);
        for (name, declared) in inputs.into_iter().flatten() {
            let Some(declared) = declared.as_array_mut() else { continue };
            if FILE_COMBOS.contains(&(class, name.as_str())) || is_marked(declared.get(1)) {
                empty_combo(declared);
            }
        }
    }
}

fn is_marked(options: Option<&Value>) -> bool {
    let is_set = |mark: &&str| options.and_then(|options| options.get(**mark)).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
    FILE_MARKS.iter().any(|mark| is_set(&mark))
}

/// `[["a.png"], {…}]` → `[[], {…}]`, and `["COMBO", {"options": ["a.png"]}]` → `["COMBO", {"options": []}]`; a default would be a name too.
fn empty_combo(declared: &mut [Value]) {
    if let Some(Value::Array(values)) = declared.first_mut() {
        values.clear();
    }
    if let Some(Value::Object(options)) = declared.get_mut(1) {
        if let Some(Value::Array(values)) = options.get_mut("options") {
            values.clear();
        }
        options.remove("default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_keep_versions_and_numbers_and_lose_arguments_paths_and_host() {
        let recorded = json!({"system": {"os": "linux", "ram_total": 25_276_514_304_u64, "ram_free": 7, "comfyui_version": "0.8.0",
            "required_frontend_version": "1.35.9", "python_version": "3.11.7 (main) [GCC 12.2.0]", "pytorch_version": "2.15.0+cu132",
            "embedded_python": false, "argv": ["main.py", "--output-directory", "/data/output"]},
            "devices": [{"name": "cuda:0 NVIDIA H200 : native", "type": "cuda", "index": 0, "vram_total": 9, "vram_free": 8, "torch_vram_total": 7, "torch_vram_free": 6}]});
        let shown = scrubbed_stats(&recorded);
        assert_eq!(shown["system"]["comfyui_version"], "0.8.0");
        assert_eq!(shown["system"]["ram_total"], 25_276_514_304_u64);
        assert_eq!(shown["devices"], json!([{"name": "cuda", "type": "cuda", "index": 0, "vram_total": 9, "vram_free": 8, "torch_vram_total": 7, "torch_vram_free": 6}]));
        for secret in ["/data", "main.py", "GCC", "3.11", "cu132", "H200", "linux"] {
            assert!(!shown.to_string().contains(secret), "{secret}");
        }
    }

    #[test]
    fn a_version_that_is_a_path_is_left_out() {
        let shown = scrubbed_stats(&json!({"system": {"comfyui_version": "/opt/x"}, "devices": [{"type": "/dev/x"}]}));
        assert_eq!(shown["system"]["comfyui_version"], Value::Null);
        assert_eq!(shown["devices"][0]["name"], "other");
        assert_eq!(scrubbed_stats(&Value::Null)["devices"], json!([]));
    }

    #[test]
    fn small_answers_have_the_recorded_keys_and_no_paths() {
        assert_eq!(features(104_857_600).to_string(), r#"{"supports_preview_metadata":true,"max_upload_size":104857600}"#);
        assert_eq!(users()["storage"], "server");
        assert_eq!(folder_paths()["checkpoints"], json!([]));
        assert!(!folder_paths().to_string().contains('/'));
    }

    fn filtered(catalogue: &Value, allowed: impl Fn(&str) -> bool) -> Value {
        serde_json::from_slice(&filter_object_info(catalogue.to_string().as_bytes(), allowed).unwrap()).unwrap()
    }

    #[test]
    fn denied_classes_are_gone_and_allowed_ones_unchanged() {
        let sampler = json!({"input": {"required": {"steps": ["INT", {"default": 20}], "sampler_name": [["euler", "ddim"], {}]}}, "output": ["LATENT"]});
        let shown = filtered(&json!({"KSampler": sampler, "Evil": sampler}), |class| class == "KSampler");
        assert_eq!(shown, json!({"KSampler": sampler}));
    }

    #[test]
    fn names_of_files_are_gone_in_both_forms_and_by_mark() {
        let catalogue = json!({
            "LoadImage": {"input": {"required": {"image": [["secret.png"], {"image_upload": true, "default": "secret.png"}]}}},
            "LoadLatent": {"input": {"required": {"latent": [["secret.latent"]]}}},
            "LoadVideo": {"input": {"required": {"file": ["COMBO", {"options": ["secret.mp4"], "video_upload": true}]}}},
            "PackLoader": {"input": {"optional": {"pic": [["secret.webp"], {"image_upload": true}], "mode": [["fast", "slow"], {"image_upload": false}]}}},
        });
        let shown = filtered(&catalogue, |_| true);
        assert!(!shown.to_string().contains("secret"), "{shown}");
        assert_eq!(shown["LoadImage"]["input"]["required"]["image"], json!([[], {"image_upload": true}]));
        assert_eq!(shown["LoadVideo"]["input"]["required"]["file"], json!(["COMBO", {"options": [], "video_upload": true}]));
        assert_eq!(shown["PackLoader"]["input"]["optional"]["mode"][0], json!(["fast", "slow"]));
    }

    #[test]
    fn what_is_no_catalogue_is_refused() {
        assert!(filter_object_info(b"[]", |_| true).is_err());
        assert!(filter_object_info(b"{", |_| true).is_err());
        assert_eq!(filter_object_info(b"{}", |_| true).unwrap(), "{}");
    }
}
