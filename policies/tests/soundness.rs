//! Ways to get more work than a policy allows that need neither a forbidden class nor a number beyond a cap: what looks small and is large. Each test has a request that is good beside the one that
//! is not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]

use comfygate_policy::{Catalogue, Directory, FileFact, FileFacts, Policy, Verdict, decide, parse};
use serde_json::{Value, json};

fn policy(caps: &str) -> Policy {
    let scale = if caps.contains("vae_scale") { "" } else { "vae_scale = 8\n" };
    let tempo = if caps.contains("vae_frames") { "" } else { "vae_frames = 4\n" };
    let head = "name = \"x\"\n[classes]\nallow = [\"*\"]\n[caps]\nupscale_model_factor = 4\n";
    Policy::from_toml(&format!("{head}{scale}{tempo}{caps}")).unwrap()
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

/// A graph with models, prompts, a small picture and a small latent around what a test adds.
fn prompt(nodes: &Value) -> Value {
    let mut prompt = json!({
        "model": node("CheckpointLoaderSimple", json!({"ckpt_name": "m.safetensors"})),
        "vae": node("VAELoader", json!({"vae_name": "v.safetensors"})),
        "text": node("CLIPTextEncode", json!({"clip": ["model", 1], "text": ""})),
        "picture": node("EmptyImage", json!({"width": 64, "height": 32, "batch_size": 1, "color": 0})),
        "latent": node("EmptyLatentImage", json!({"width": 64, "height": 32, "batch_size": 1})),
        "show": node("PreviewImage", json!({"images": ["picture", 0]})),
    });
    for (id, node) in nodes.as_object().unwrap() {
        prompt[id] = node.clone();
    }
    prompt
}

/// What is refused, as node and code.
fn refusals(caps: &str, nodes: &Value) -> Vec<(String, String)> {
    refusals_under(&policy(caps), nodes)
}

fn refusals_under(policy: &Policy, nodes: &Value) -> Vec<(String, String)> {
    let mut files = FileFacts::none();
    let fact =
        FileFact { canonical_name: "t/film.mp4".to_owned(), width: 64, height: 32, frames: 10, seconds: Some(10) };
    files.insert("film.mp4", Directory::Input, fact);
    let body = json!({ "prompt": prompt(nodes) }).to_string();
    let parsed = parse(body.as_bytes()).expect("parses");
    match decide(&parsed, policy, Catalogue::builtin(), &files) {
        Verdict::Allow(_) => Vec::new(),
        Verdict::Deny(violations) => {
            let of = |violation: &comfygate_policy::Violation| {
                (violation.node.as_ref().map(ToString::to_string).unwrap_or_default(), violation.code.to_owned())
            };
            violations.iter().map(of).collect()
        }
    }
}

fn fits(caps: &str, nodes: Value) {
    assert_eq!(refusals(caps, &nodes), [], "under {caps}");
}

fn is_refused(caps: &str, nodes: Value, at: &str, code: &str) {
    let found = refusals(caps, &nodes);
    assert!(found.iter().any(|(node, known)| node == at && known == code), "wanted {code} at {at:?}, found {found:?}");
}

/// A schedule of 20 steps, cut by the node `cut`, whose output `slot` is sampled.
fn cut_schedule(class: &str, number: (&str, Value), slot: u8) -> Value {
    let (name, value) = number;
    let mut inputs = json!({"sigmas": ["sigmas", 0]});
    inputs[name] = value;
    json!({
        "sigmas": node("KarrasScheduler", json!({"steps": 20, "sigma_max": 14.0, "sigma_min": 0.03, "rho": 7.0})),
        "whole": node("PrimitiveInt", json!({"value": -2})),
        "broken": node("PrimitiveFloat", json!({"value": -0.1})),
        "cut": node(class, inputs),
        "euler": node("KSamplerSelect", json!({"sampler_name": "euler"})),
        "sample": node("SamplerCustom", json!({"model": ["model", 0], "add_noise": true, "noise_seed": 1, "cfg": 1.0, "positive": ["text", 0],
            "negative": ["text", 0], "sampler": ["euler", 0], "sigmas": ["cut", slot], "latent_image": ["latent", 0]})),
    })
}

#[test]
fn a_schedule_split_at_a_negative_step_keeps_nearly_all_of_its_steps() {
    // `sigmas[:-1]` of 21 values: 19 steps.
    let nodes = |at: Value| cut_schedule("SplitSigmas", ("step", at), 0);
    fits("steps_total = 20\n", nodes(json!(["whole", 0])));
    fits("steps_total = 20\n", with_second_sampler(nodes(json!(5))));
    is_refused("steps_total = 20\n", with_second_sampler(nodes(json!(["whole", 0]))), "", "steps_total_exceeded");
}

/// The same sampled twice.
fn with_second_sampler(mut nodes: Value) -> Value {
    nodes["again"] = nodes["sample"].clone();
    nodes
}

#[test]
fn a_schedule_split_by_a_negative_denoise_keeps_nearly_all_of_its_steps() {
    // `sigmas[1:]` of 21 values: 19 steps.
    let nodes = |by: Value| with_second_sampler(cut_schedule("SplitSigmasDenoise", ("denoise", by), 1));
    fits("steps_total = 20\n", nodes(json!(0.5)));
    is_refused("steps_total = 20\n", nodes(json!(["broken", 0])), "", "steps_total_exceeded");
}

/// A film whose sound has a size that nobody knows; `by` scales its pictures.
fn film(duration: &Value, by: f64) -> Value {
    json!({
        "chars": node("StringLength", json!({"string": ["caption", 0]})),
        "caption": node("RegexExtract", json!({"string": "a", "regex_pattern": "a", "mode": "First Match", "case_insensitive": false, "multiline": false, "dotall": false, "group_index": 1})),
        "unknown": node("SamplingPercentToSigma", json!({"model": ["model", 0], "sampling_percent": 0.5, "return_actual_sigma": false})),
        "sound": node("EmptyAudio", json!({"duration": duration, "sample_rate": 44100, "channels": 2})),
        "film": node("CreateVideo", json!({"images": ["picture", 0], "fps": 24.0, "audio": ["sound", 0]})),
        "parts": node("GetVideoComponents", json!({"video": ["film", 0]})),
        "scaled": node("ImageScaleBy", json!({"image": ["parts", 0], "upscale_method": "area", "scale_by": by})),
    })
}

#[test]
fn pictures_of_a_film_have_their_size_whatever_is_known_of_its_sound() {
    for duration in [json!(5.0), json!(["unknown", 0])] {
        // A number that nobody knows is refused for itself alone.
        let found = refusals("width = 256\n", &film(&duration, 4.0));
        assert!(found.iter().all(|(node, code)| node == "sound" && code == "number_unbounded"), "{found:?}");
        assert_eq!(found.is_empty(), duration.is_number());
        is_refused("width = 255\n", film(&duration, 4.0), "scaled", "size_exceeded");
    }
}

#[test]
fn latents_joined_along_time_decode_to_more_frames_than_they_were_made_for() {
    // Two cells of one frame each are one film of two cells, which a VAE that makes 8 frames a cell decodes to 9.
    let nodes = |along: &str| {
        json!({
            "one": node("EmptyHunyuanLatentVideo", json!({"width": 64, "height": 32, "length": 1, "batch_size": 1})),
            "two": node("LatentConcat", json!({"samples1": ["one", 0], "samples2": ["one", 0], "dim": along})),
        })
    };
    fits("frames = 9\n", nodes("t"));
    is_refused("frames = 8\n", nodes("-t"), "two", "size_exceeded");
    fits("frames = 1\n", nodes("x"));
}

#[test]
fn a_batch_of_pictures_may_be_one_film_as_a_latent() {
    // A VAE for films makes one latent of all pictures, of which the first is all.
    let nodes = |length: u32, amount: u32| {
        json!({
            "film": node("EmptyImage", json!({"width": 64, "height": 32, "batch_size": 16, "color": 0})),
            "latent": node("VAEEncode", json!({"pixels": ["film", 0], "vae": ["vae", 0]})),
            "first": node("LatentFromBatch", json!({"samples": ["latent", 0], "batch_index": 0, "length": length})),
            "many": node("RepeatLatentBatch", json!({"samples": ["first", 0], "amount": amount})),
        })
    };
    fits("batch = 32\n", nodes(1, 2));
    is_refused("batch = 31\n", nodes(1, 2), "many", "size_exceeded");
}

#[test]
fn a_film_s_first_frames_are_counted_before_they_are_joined() {
    let nodes = json!({
        "film": node("EmptyImage", json!({"width": 64, "height": 32, "batch_size": 16, "color": 0})),
        "sixteen": node("VAEEncode", json!({"pixels": ["film", 0], "vae": ["vae", 0]})),
        "one": node("VAEEncode", json!({"pixels": ["picture", 0], "vae": ["vae", 0]})),
        "both": node("LatentConcat", json!({"samples1": ["one", 0], "samples2": ["sixteen", 0], "dim": "t"})),
    });
    fits("batch = 16\nframes = 24\n", nodes.clone());
    is_refused("batch = 16\nframes = 23\n", nodes, "both", "size_exceeded");
}

#[test]
fn a_part_of_a_latent_has_cells_of_whatever_size_its_vae_makes() {
    // 8 pixels a cell is what LatentCrop takes it for; the VAE that made it may have 32, and decodes a quarter of the width to all of it.
    let nodes = |width: u32| {
        json!({
            "large": node("EmptyImage", json!({"width": 1024, "height": 64, "batch_size": 1, "color": 0})),
            "latent": node("VAEEncode", json!({"pixels": ["large", 0], "vae": ["vae", 0]})),
            "part": node("LatentCrop", json!({"samples": ["latent", 0], "width": width, "height": 64, "x": 0, "y": 0})),
            "decoded": node("VAEDecode", json!({"samples": ["part", 0], "vae": ["vae", 0]})),
            "scaled": node("ImageScaleBy", json!({"image": ["decoded", 0], "upscale_method": "area", "scale_by": 4.0})),
        })
    };
    // A VAE for films gives one more dimension, time: then LatentCrop cuts time and height, and the width stays whole.
    fits("vae_scale = 32\nwidth = 4096\n", nodes(64));
    is_refused("vae_scale = 32\nwidth = 4095\n", nodes(64), "scaled", "size_exceeded");
    is_refused("vae_scale = 32\nwidth = 1024\n", nodes(256), "scaled", "size_exceeded");
}

#[test]
fn a_turned_latent_may_have_its_height_in_time() {
    // A film's latent has time, height and width: turning it by 90 degrees takes time for height.
    let nodes = |height: u32, rotation: &str| {
        json!({
            "large": node("EmptyImage", json!({"width": 64, "height": height, "batch_size": 1, "color": 0})),
            "latent": node("VAEEncode", json!({"pixels": ["large", 0], "vae": ["vae", 0]})),
            "turned": node("LatentRotate", json!({"samples": ["latent", 0], "rotation": rotation})),
        })
    };
    fits("frames = 57\n", nodes(64, "90 degrees"));
    is_refused("frames = 56\n", nodes(64, "90 degrees"), "turned", "size_exceeded");
    fits("frames = 1\n", nodes(64, "180 degrees"));
}

#[test]
fn a_film_whose_frames_are_a_batch_of_latents_is_not_cut_along_time() {
    // SVD's latent has no dimension of time: LatentCutToBatch leaves it as it is.
    let nodes = json!({
        "svd": node("SVD_img2vid_Conditioning", json!({"clip_vision": ["clip", 1], "init_image": ["picture", 0], "vae": ["clip", 2], "width": 64, "height": 64,
            "video_frames": 16, "motion_bucket_id": 127, "fps": 6, "augmentation_level": 0.0})),
        "clip": node("ImageOnlyCheckpointLoader", json!({"ckpt_name": "svd.safetensors"})),
        "cut": node("LatentCutToBatch", json!({"samples": ["svd", 2], "dim": "t", "slice_size": 1})),
    });
    fits("batch = 16\nframes = 16\n", nodes.clone());
    is_refused("batch = 15\nframes = 16\n", nodes, "cut", "size_exceeded");
}

#[test]
fn a_picture_that_loses_a_row_may_be_smaller_than_it_was() {
    // The encoder of LTXVPreprocess takes even sides only: 65 becomes 64.
    let nodes = |of: &str| {
        json!({
            "odd": node("EmptyImage", json!({"width": 65, "height": 65, "batch_size": 1, "color": 0})),
            "cut": node("LTXVPreprocess", json!({"image": ["odd", 0], "img_compression": 35})),
            "size": node("GetImageSize", json!({"image": [of, 0]})),
            "more": node("ComfyMathExpression", json!({"expression": "64 + (65 - a) * 1000", "values.a": ["size", 0]})),
            "made": node("EmptyImage", json!({"width": ["more", 1], "height": 64, "batch_size": 1, "color": 0})),
        })
    };
    fits("width = 1024\n", nodes("odd"));
    is_refused("width = 1024\n", nodes("cut"), "made", "cap_exceeded");
    fits("width = 1064\n", nodes("cut"));
}

/// Custom sampling with the named sampler over the schedule of `sigmas`.
fn sampled(sampler: &str, sigmas: Value) -> Value {
    json!({
        "sigmas": sigmas,
        "named": node("KSamplerSelect", json!({"sampler_name": sampler})),
        "zero": node("PrimitiveFloat", json!({"value": 0.0})),
        "negative": node("PrimitiveFloat", json!({"value": -100.0})),
        "sample": node("SamplerCustom", json!({"model": ["model", 0], "add_noise": true, "noise_seed": 1, "cfg": 1.0, "positive": ["text", 0],
            "negative": ["text", 0], "sampler": ["named", 0], "sigmas": ["sigmas", 0], "latent_image": ["latent", 0]})),
    })
}

#[test]
fn noise_levels_that_a_brownian_tree_never_comes_to_the_end_of_are_refused_under_every_policy() {
    let manual = |text: &str| node("ManualSigmas", json!({"sigmas": text}));
    let karras =
        |max: Value| node("KarrasScheduler", json!({"steps": 6, "sigma_max": max, "sigma_min": 0.03, "rho": 7.0}));
    let vp = |beta: f64| node("VPScheduler", json!({"steps": 6, "beta_d": beta, "beta_min": 0.1, "eps_s": 0.001}));
    let ltxv = |base: Value| {
        node(
            "LTXVScheduler",
            json!({"steps": 6, "max_shift": 2.05, "base_shift": base, "stretch": true, "terminal": 0.1}),
        )
    };
    let never_ending = [
        (manual("3, 0, 2, 0, 1, 0"), manual("3, 2, 1, 0")),
        (manual("-1, 3, 2, 0"), manual("0.909375, 0.725, 0.421875, 0.0")),
        (karras(json!(0.0)), karras(json!(14.6))),
        (karras(json!(["zero", 0])), karras(json!(0.5))),
        (vp(5000.0), vp(19.9)),
        (ltxv(json!(["negative", 0])), ltxv(json!(0.95))),
        (ltxv(json!(100.0)), ltxv(json!(0.0))),
    ];
    for (endless, good) in never_ending {
        for sampler in ["dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m_sde", "dpmpp_3m_sde_gpu", "dpmpp_2m_sde_heun"] {
            is_refused("", sampled(sampler, endless.clone()), "sigmas", "schedule_refused");
            is_refused("steps = 150\n", sampled(sampler, endless.clone()), "sigmas", "schedule_refused");
            fits("steps = 150\n", sampled(sampler, good.clone()));
            let owner = Policy::builtin("owner").unwrap();
            let told = ("sigmas".to_owned(), "schedule_refused".to_owned());
            assert!(refusals_under(&owner, &sampled(sampler, endless.clone())).contains(&told), "an owner's {sampler}");
            assert!(!refusals_under(&owner, &sampled(sampler, good.clone())).contains(&told), "an owner's {sampler}");
        }
        // Other samplers come to an end.
        fits("steps = 150\n", sampled("euler", endless));
    }
}

#[test]
fn a_first_noise_level_of_nothing_is_refused_beside_a_sampler_with_brownian_noise() {
    let nodes = |sigma: Value, sampler: &str| {
        let mut nodes = sampled(sampler, node("SetFirstSigma", json!({"sigmas": ["levels", 0], "sigma": sigma})));
        nodes["levels"] =
            node("KarrasScheduler", json!({"steps": 6, "sigma_max": 14.0, "sigma_min": 0.03, "rho": 7.0}));
        nodes
    };
    fits("", nodes(json!(136.0), "dpmpp_sde"));
    fits("", nodes(json!(0.0), "euler"));
    for sigma in [json!(0.0), json!(["negative", 0])] {
        is_refused("", nodes(sigma, "dpmpp_sde"), "sigmas", "schedule_refused");
    }
}

#[test]
fn a_model_shifted_to_infinite_noise_is_refused_beside_a_sampler_with_brownian_noise() {
    let nodes = |class: &str, inputs: Value, sampler: &str| {
        let mut of_model = inputs;
        of_model["model"] = json!(["model", 0]);
        json!({
            "shifted": node(class, of_model),
            "sample": node("KSampler", json!({"model": ["shifted", 0], "seed": 1, "steps": 4, "cfg": 7.0, "sampler_name": sampler, "scheduler": "simple",
                "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0], "denoise": 1.0})),
        })
    };
    let flux = |max: f64, side: u32| json!({"max_shift": max, "base_shift": 0.5, "width": side, "height": side});
    fits("", nodes("ModelSamplingSD3", json!({"shift": 3.0}), "dpmpp_sde"));
    fits("", nodes("ModelSamplingSD3", json!({"shift": 1e-8}), "euler"));
    is_refused("", nodes("ModelSamplingSD3", json!({"shift": 1e-8}), "dpmpp_sde"), "shifted", "schedule_refused");
    is_refused("", nodes("ModelSamplingAuraFlow", json!({"shift": 1e-8}), "dpmpp_sde"), "shifted", "schedule_refused");
    fits("", nodes("ModelSamplingFlux", flux(1.15, 4096), "dpmpp_sde"));
    is_refused("", nodes("ModelSamplingFlux", flux(1.15, 16384), "dpmpp_sde"), "shifted", "schedule_refused");
    is_refused("", nodes("ModelSamplingFlux", flux(100.0, 1024), "dpmpp_sde"), "shifted", "schedule_refused");
}

#[test]
fn a_film_that_another_vae_decodes_may_have_more_frames() {
    // 17 frames are five cells of Hunyuan's, which ComfyUI gives the channels that LTXV's model wants; LTXV's VAE makes 33 frames of five.
    let nodes = json!({
        "film": node("EmptyHunyuanLatentVideo", json!({"width": 64, "height": 64, "length": 17, "batch_size": 1})),
        "decoded": node("VAEDecode", json!({"samples": ["film", 0], "vae": ["vae", 0]})),
    });
    fits("vae_frames = 4\nframes = 17\n", nodes.clone());
    is_refused("vae_frames = 4\nframes = 16\n", nodes.clone(), "decoded", "size_exceeded");
    fits("vae_frames = 8\nframes = 33\n", nodes.clone());
    is_refused("vae_frames = 8\nframes = 32\n", nodes, "decoded", "size_exceeded");
}

#[test]
fn pictures_that_one_vae_for_films_encodes_may_become_more_in_another() {
    let nodes = json!({
        "pictures": node("EmptyImage", json!({"width": 64, "height": 64, "batch_size": 9, "color": 0})),
        "latent": node("VAEEncode", json!({"pixels": ["pictures", 0], "vae": ["vae", 0]})),
        "other": node("VAELoader", json!({"vae_name": "b.safetensors"})),
        "own": node("VAEDecode", json!({"samples": ["latent", 0], "vae": ["vae", 0]})),
        "decoded": node("VAEDecode", json!({"samples": ["latent", 0], "vae": ["other", 0]})),
    });
    fits("vae_frames = 8\nbatch = 17\n", nodes.clone());
    is_refused("vae_frames = 8\nbatch = 16\n", nodes, "decoded", "size_exceeded");
}
