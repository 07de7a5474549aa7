//! Answers about the server: what the page needs to load, and nothing of the host (facts §1.3, §9.1, §9.2).

use serde_json::{Value, json};

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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn folder_names_come_without_paths() {
        let folders = folder_paths();
        assert_eq!(folders["checkpoints"], json!([]));
        assert!(folders.get("custom_nodes").is_none() && folders.get("configs").is_none());
    }
}
