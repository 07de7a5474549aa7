//! Workflows that need no model: they run on the stand-in and on a real ComfyUI with the probe nodes alike.

use serde_json::{Value, json};

/// One small picture, made and saved at once.
pub fn quick(prefix: &str) -> Value {
    picture(prefix, 64, 48)
}

/// One picture of a size.
pub fn picture(prefix: &str, width: u64, height: u64) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": width, "height": height, "batch_size": 1, "color": 255}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    })
}

/// A picture after a wait of `steps` × `tick_ms`, with progress and, if wanted, previews.
pub fn slow(prefix: &str, steps: u64, tick_ms: u64, preview: bool) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
        "2": {"class_type": "GateProbeSleep", "inputs": {"image": ["1", 0], "steps": steps, "tick_ms": tick_ms, "preview": preview}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    })
}

/// A picture of a paid node of comfy.org's services, after a wait as [`slow`] has it. For the text `quote` the stand-in's node fails, and quotes what it was to pay with.
pub fn paid(text: &str, steps: u64, tick_ms: u64) -> Value {
    json!({
        "1": {"class_type": "IdeogramV1", "inputs": {"prompt": text, "turbo": false}},
        "2": {"class_type": "GateProbeSleep", "inputs": {"image": ["1", 0], "steps": steps, "tick_ms": tick_ms, "preview": false}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "paid"}},
    })
}

/// One that raises an exception when it runs.
pub fn failing(message: &str) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
        "2": {"class_type": "GateProbeFail", "inputs": {"image": ["1", 0], "message": message}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "never"}},
    })
}

/// Text to image as most clients send it; models by the names that the stand-in lists.
pub fn text_to_image(prefix: &str) -> Value {
    json!({
        "3": {"class_type": "KSampler", "inputs": {
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
            "seed": 18_446_744_073_709_551_615_u64, "steps": 4, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": prefix}},
    })
}

/// An uploaded picture with its colours turned round.
pub fn inverted(image: &str, prefix: &str) -> Value {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    })
}
