//! Node packs: what their annotations say holds, just inside and just outside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
use comfygate_policy::{ApprovedWorkflow, Catalogue, FileFacts, OutputScope, Policy, Verdict, decide, parse};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// ComfyUI 0.8.0 with the annotated classes of the packs installed.
static INSTALLED: LazyLock<Catalogue> = LazyLock::new(|| {
    let mut all: Value = serde_json::from_str(include_str!("../catalogues/comfyui-0.8.0.json")).unwrap();
    let packs: Value = serde_json::from_str(include_str!("packs/object_info.json")).unwrap();
    all.as_object_mut().unwrap().extend(packs.as_object().unwrap().clone());
    Catalogue::from_object_info(all.to_string().as_bytes()).unwrap()
});

/// Strangers, with a cap of 1024 pixels a side, 8 pictures and 20 steps.
fn decided(prompt: &Value) -> Result<Box<ApprovedWorkflow>, Vec<(String, String)>> {
    let policy =
        "name = \"capped\"\n[classes]\nallow = [\"*\"]\n[caps]\nwidth = 1024\nheight = 1024\nbatch = 8\nsteps = 20\n";
    let policy = Policy::from_toml(policy).unwrap();
    let parsed = parse(json!({ "prompt": prompt }).to_string().as_bytes()).unwrap();
    match decide(&parsed, &policy, &INSTALLED, &FileFacts::none()) {
        Verdict::Allow(workflow) => Ok(workflow),
        Verdict::Deny(violations) => Err(violations
            .iter()
            .map(|violation| {
                (violation.node.as_ref().map(ToString::to_string).unwrap_or_default(), violation.code.to_owned())
            })
            .collect()),
    }
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

fn picture(width: u32, height: u32) -> Value {
    node("EmptyImage", json!({"width": width, "height": height, "batch_size": 1, "color": 0}))
}

#[track_caller]
fn assert_allowed(prompt: Value) -> Value {
    let workflow = decided(&prompt).unwrap_or_else(|found| panic!("{found:?}"));
    let scope = OutputScope::new("t/me/job-1", "p", "c", "salt").unwrap();
    serde_json::from_slice(&workflow.upstream_body(&scope)).unwrap()
}

#[track_caller]
fn assert_refused(prompt: Value, id: &str, code: &str) {
    let found = decided(&prompt).map(|_| ()).unwrap_err();
    assert!(found.contains(&(id.to_owned(), code.to_owned())), "{found:?}");
}

fn loras(lora: Value) -> Value {
    json!({
        "m": node("CheckpointLoaderSimple", json!({"ckpt_name": "m.safetensors"})),
        "l": node("Power Lora Loader (rgthree)", json!({
            "model": ["m", 0], "clip": ["m", 1], "lora_1": lora,
        })),
        "t": node("CLIPTextEncode", json!({"clip": ["l", 1], "text": "x"})),
        "e": node("EmptyLatentImage", json!({"width": 512, "height": 512, "batch_size": 1})),
        "k": node("KSampler", json!({
            "model": ["l", 0], "positive": ["t", 0], "negative": ["t", 0], "latent_image": ["e", 0], "seed": 1, "steps": 20, "cfg": 7.0,
            "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        })),
        "d": node("VAEDecode", json!({"samples": ["k", 0], "vae": ["m", 2]})),
        "s": node("SaveImage", json!({"images": ["d", 0], "filename_prefix": "x"})),
    })
}

#[test]
fn the_loras_of_a_power_lora_loader_are_kept_as_they_came() {
    let lora = json!({"on": true, "lora": "style/a.safetensors", "strength": 0.8, "strengthTwo": null});
    let policy = Policy::from_toml("name = \"open\"\n[classes]\nallow = [\"*\"]\n").unwrap();
    let parsed = parse(json!({ "prompt": loras(lora.clone()) }).to_string().as_bytes()).unwrap();
    let Verdict::Allow(workflow) = decide(&parsed, &policy, &INSTALLED, &FileFacts::none()) else {
        panic!("it is allowed");
    };
    let scope = OutputScope::new("t/me/job-1", "p", "c", "salt").unwrap();
    let sent: Value = serde_json::from_slice(&workflow.upstream_body(&scope)).unwrap();
    assert_eq!(sent.pointer("/prompt/l/inputs/lora_1"), Some(&lora));
}

#[test]
fn a_lora_of_another_shape_is_refused() {
    let cases = [
        json!({"on": true, "lora": "a"}),
        json!({"on": "yes", "lora": "a", "strength": 1}),
        json!({"on": true, "lora": 3, "strength": 1}),
        json!({"on": true, "lora": "a", "strength": 1, "more": 1}),
        json!({"on": true, "lora": "a", "strength": 1, "strengthTwo": "1"}),
        json!("a"),
        json!(["m", 0]),
    ];
    for lora in cases {
        assert_refused(loras(lora), "l", "invalid_input_type");
    }
    assert_refused(loras(json!({"on": true, "lora": "../../a", "strength": 1})), "l", "path_refused");
}

#[test]
fn what_the_page_leaves_at_a_power_lora_loader_is_dropped_and_anything_else_is_refused() {
    let mut prompt = loras(json!({"on": false, "lora": "a", "strength": 1}));
    prompt["l"]["inputs"]["PowerLoraLoaderHeaderWidget"] = json!({"type": "PowerLoraLoaderHeaderWidget"});
    let policy = Policy::from_toml("name = \"open\"\n[classes]\nallow = [\"*\"]\n").unwrap();
    let allowed = |prompt: &Value| {
        let parsed = parse(json!({ "prompt": prompt }).to_string().as_bytes()).unwrap();
        matches!(decide(&parsed, &policy, &INSTALLED, &FileFacts::none()), Verdict::Allow(_))
    };
    assert!(allowed(&prompt));
    prompt["l"]["inputs"]["another"] = json!(1);
    assert!(!allowed(&prompt));
}

fn resized(inputs: Value) -> Value {
    let mut all = json!({"image": ["i", 0], "interpolation": "nearest", "condition": "always", "multiple_of": 0});
    all.as_object_mut().unwrap().extend(inputs.as_object().unwrap().clone());
    json!({
        "i": picture(1024, 256), "r": node("ImageResize+", all), "s": node("PreviewImage", json!({"images": ["r", 0]})),
    })
}

#[test]
fn a_picture_resized_by_a_pack_keeps_within_the_caps_or_is_refused() {
    for method in ["stretch", "keep proportion", "pad", "fill / crop"] {
        assert_allowed(resized(json!({"width": 1024, "height": 256, "method": method})));
        assert_refused(resized(json!({"width": 1025, "height": 256, "method": method})), "r", "cap_exceeded");
    }
    // A side of 0 follows from the other: 1024 × 256 becomes 1024 × 256, and 1028 × 257.
    assert_allowed(resized(json!({"width": 0, "height": 256, "method": "keep proportion"})));
    assert_refused(resized(json!({"width": 0, "height": 258, "method": "keep proportion"})), "r", "size_exceeded");
    // A side that is less than its multiple becomes 0, and follows as well.
    let cut = json!({"width": 100, "height": 512, "method": "keep proportion", "multiple_of": 128});
    assert_refused(resized(cut), "r", "size_exceeded");
    // Scaled until it covers all, it is 2048 × 512 before it is cut.
    assert_refused(resized(json!({"width": 512, "height": 512, "method": "fill / crop"})), "r", "size_exceeded");
}

fn sampled_steps(source: Value) -> Value {
    let mut prompt = loras(json!({"on": false, "lora": "a", "strength": 1}));
    prompt["n"] = source;
    prompt["k"]["inputs"]["steps"] = json!(["n", 0]);
    prompt
}

#[track_caller]
fn steps_refused(source: Value, code: &str) {
    assert_refused(sampled_steps(source), "k", code);
}

/// That nothing is said about the steps; the size of what a VAE makes is told under these caps whatever the steps are.
#[track_caller]
fn steps_allowed(source: Value) {
    let found = decided(&sampled_steps(source)).map(|_| Vec::new()).unwrap_or_else(|found| found);
    assert!(found.iter().all(|(id, _)| id != "k" && id != "n"), "{found:?}");
}

#[test]
fn a_number_through_a_constant_of_a_pack_is_followed() {
    for class in ["INTConstant", "easy int", "SimpleMathInt+", "Int-🔬"] {
        steps_allowed(node(class, json!({"value": 20})));
        steps_refused(node(class, json!({"value": 21})), "cap_exceeded");
    }
    steps_allowed(node("Seed (rgthree)", json!({"seed": 20})));
    steps_refused(node("Seed (rgthree)", json!({"seed": 21})), "cap_exceeded");
}

#[test]
fn a_number_through_the_arithmetic_of_a_pack_is_followed() {
    let math = |value: &str, a: Value| node("SimpleMath+", json!({"value": value, "a": a}));
    steps_allowed(math("a / 2", json!(40)));
    steps_refused(math("a / 2", json!(42)), "cap_exceeded");
    // Python rounds a half to the even number.
    steps_allowed(math("a / 2", json!(41)));
    steps_allowed(math("a + b", json!("20.0")));
    steps_refused(math("a", json!("x")), "value_unbounded");
    assert_refused(sampled_steps(math("9**9**9", json!(1))), "n", "expression_refused");
    assert_refused(sampled_steps(math("a.real", json!(1))), "n", "expression_refused");
}

#[test]
fn the_expression_of_a_pack_that_comes_by_a_link_is_refused() {
    let mut prompt = sampled_steps(node("SimpleMath+", json!({"value": ["p", 0]})));
    prompt["p"] = node("PrimitiveString", json!({"value": "3"}));
    assert_refused(prompt, "n", "expression_refused");
}

#[test]
fn a_side_by_the_aspect_ratio_of_a_pack_is_followed() {
    let prompt = |ratio: &str, factor: f64| {
        json!({
            "a": node("CR Aspect Ratio", json!({
                "width": 4096, "height": 4096, "aspect_ratio": ratio, "swap_dimensions": "On", "upscale_factor": 1.0,
                "prescale_factor": factor, "batch_size": 1,
            })),
            "i": node("EmptyImage", json!({"width": ["a", 0], "height": ["a", 1], "batch_size": 1, "color": 0})),
            "s": node("PreviewImage", json!({"images": ["i", 0]})),
        })
    };
    let found = |prompt: Value| decided(&prompt).map(|_| Vec::new()).unwrap_or_else(|found| found);
    let of_picture = |prompt: Value| found(prompt).into_iter().filter(|(id, _)| id == "i").collect::<Vec<_>>();
    assert_eq!(of_picture(prompt("SD1.5 - 2:1 cinema 1024x512", 1.0)), []);
    assert_eq!(of_picture(prompt("SD1.5 - 2:1 cinema 1024x512", 1.1)).len(), 2);
    assert_eq!(of_picture(prompt("custom", 0.25)), []);
    assert_eq!(of_picture(prompt("custom", 0.26)).len(), 2);
}

fn batched(inputs: Value) -> Value {
    let mut prompt = json!({
        "i": picture(512, 512), "b": node("ImageBatchMulti", inputs), "s": node("PreviewImage", json!({"images": ["b", 0]})),
    });
    prompt["m"] = node("SolidMask", json!({"value": 1.0, "width": 64, "height": 64}));
    prompt
}

#[test]
fn pictures_linked_to_undeclared_inputs_are_kept_and_counted() {
    let links = |count: usize, said: usize| {
        let mut inputs = json!({"inputcount": said});
        for n in 1..=count {
            inputs[format!("image_{n}")] = json!(["i", 0]);
        }
        inputs
    };
    let sent = assert_allowed(batched(links(8, 8)));
    assert_eq!(sent.pointer("/prompt/b/inputs/image_8"), Some(&json!(["i", 0])));
    assert_refused(batched(links(9, 9)), "b", "size_exceeded");
    // Those that are missing come as blank ones.
    assert_allowed(batched(links(2, 8)));
    assert_refused(batched(links(2, 9)), "b", "size_exceeded");
    let mut wrong = links(2, 2);
    wrong["image_3"] = json!(["m", 0]);
    assert_refused(batched(wrong), "b", "return_type_mismatch");
    let mut literal = links(2, 2);
    literal["image_3"] = json!("x");
    assert_refused(batched(literal), "b", "invalid_input_type");
}

#[test]
fn a_preprocessor_scales_the_shorter_side() {
    let prompt = |resolution: u32| {
        json!({
            "i": picture(1024, 256),
            "c": node("CannyEdgePreprocessor", json!({"image": ["i", 0], "low_threshold": 100, "high_threshold": 200, "resolution": resolution})),
            "s": node("PreviewImage", json!({"images": ["c", 0]})),
        })
    };
    assert_allowed(prompt(256));
    assert_refused(prompt(264), "c", "size_exceeded");
}

#[test]
fn a_film_of_a_pack_is_saved_in_the_owners_folder() {
    let prompt = json!({
        "i": picture(64, 64),
        "v": node("VHS_VideoCombine", json!({
            "images": ["i", 0], "frame_rate": 8, "loop_count": 0, "filename_prefix": "mine/film", "format": "image/gif", "pingpong": false,
            "save_output": true,
        })),
    });
    let sent = assert_allowed(prompt);
    assert_eq!(sent.pointer("/prompt/v/inputs/filename_prefix"), Some(&json!("t/me/job-1/mine/film")));
}

#[test]
fn what_a_format_of_a_film_asks_for_is_kept_as_it_is_and_nothing_else_is_taken() {
    let film = |changes: Value| {
        let mut inputs = json!({
            "images": ["i", 0], "frame_rate": 8, "loop_count": 0, "filename_prefix": "film", "format": "video/h264-mp4", "pingpong": false,
            "save_output": true, "pix_fmt": "yuv420p", "crf": 19, "save_metadata": true, "trim_to_audio": false,
        });
        inputs.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({"i": picture(64, 64), "v": node("VHS_VideoCombine", inputs)})
    };
    let sent = assert_allowed(film(json!({"videopreview": {"hidden": false}, "vhs_gif_preview__0": "/view?x"})));
    for (name, value) in [("pix_fmt", json!("yuv420p")), ("crf", json!(19)), ("save_metadata", json!(true))] {
        assert_eq!(sent.pointer(&format!("/prompt/v/inputs/{name}")), Some(&value), "{name}");
    }
    assert_eq!(sent.pointer("/prompt/v/inputs/videopreview"), None);
    for (name, value) in [
        ("pix_fmt", json!("-y")),
        ("pix_fmt", json!("yuv420p|yuv420p10le")),
        ("crf", json!("19")),
        ("save_metadata", json!(1)),
        ("profile", json!("")),
    ] {
        assert_refused(film(json!({ name: value })), "v", "invalid_input_type");
    }
    assert_refused(film(json!({"audio_file": "/etc/passwd"})), "v", "undeclared_input");
    assert_refused(film(json!({"pix_fmt": ["i", 0]})), "v", "invalid_input_type");
}

#[test]
fn a_sampler_of_a_pack_has_its_own_steps_unless_a_script_adds_some() {
    // What is told of the sampler, and nothing else: the script's class is not installed.
    let told = |changes: Value| -> Vec<String> {
        let mut prompt = loras(json!({"on": false, "lora": "a", "strength": 1}));
        let mut inputs = prompt["k"]["inputs"].clone();
        inputs.as_object_mut().unwrap().extend([("preview_method".to_owned(), json!("none"))]);
        inputs.as_object_mut().unwrap().extend([("vae_decode".to_owned(), json!("true"))]);
        inputs.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        prompt["y"] = node("KSampler (Efficient)", inputs);
        prompt["x"] = node("HighRes-Fix Script", json!({}));
        let found = decided(&prompt).map(|_| Vec::new()).unwrap_or_else(|found| found);
        // The size of what a VAE makes is told under these caps whatever the steps are.
        found.into_iter().filter(|(id, code)| id == "y" && code != "size_exceeded").map(|(_, code)| code).collect()
    };
    assert_eq!(told(json!({"steps": 20})), [""; 0]);
    assert_eq!(told(json!({"steps": 21})), ["cap_exceeded"]);
    assert_eq!(told(json!({"steps": 20, "script": ["x", 0]})), ["steps_unbounded"]);
}

#[test]
fn what_packs_load_has_no_size_that_anybody_knows() {
    let prompt = json!({
        "i": node("ETN_LoadImageBase64", json!({"image": "AAAA"})), "s": node("PreviewImage", json!({"images": ["i", 0]})),
    });
    assert_refused(prompt, "i", "size_unbounded");
}

#[test]
fn what_kjnodes_pads_goes_up_to_the_next_multiple() {
    let resized = |width: u32, how: &str, multiple: u32| {
        json!({
            "p": picture(512, 64),
            "x": node("ImageResizeKJv2", json!({
                "image": ["p", 0], "width": width, "height": width, "upscale_method": "area", "keep_proportion": how, "pad_color": "0, 0, 0",
                "crop_position": "center", "divisible_by": multiple,
            })),
            "s": node("PreviewImage", json!({"images": ["x", 0]})),
        })
    };
    for how in ["pad", "pad_edge", "pillarbox_blur"] {
        // 1020 becomes 1024 with multiples of 16, and 1500 with those of 500.
        assert_allowed(resized(1020, how, 16));
        assert_refused(resized(1020, how, 500), "x", "size_exceeded");
        assert_allowed(resized(1000, how, 500));
    }
    for how in ["stretch", "resize", "crop"] {
        assert_allowed(resized(1020, how, 500));
    }
}

#[test]
fn kjnodes_grows_masks_by_more_in_each_frame() {
    let grown = |frames: u32, expand: i64, rate: f64| {
        json!({
            "m": node("CreateShapeMask", json!({
                "shape": "circle", "frames": frames, "location_x": 1, "location_y": 1, "grow": 0, "frame_width": 1024, "frame_height": 1024,
                "shape_width": 64, "shape_height": 64,
            })),
            "x": node("GrowMaskWithBlur", json!({
                "mask": ["m", 0], "expand": expand, "incremental_expandrate": rate, "tapered_corners": true, "flip_input": false, "blur_radius": 0.0,
                "lerp_alpha": 1.0, "decay_factor": 1.0,
            })),
            "i": node("MaskToImage", json!({"mask": ["x", 0]})),
            "s": node("PreviewImage", json!({"images": ["i", 0]})),
        })
    };
    // 2²⁰ pixels in each of 256 pictures: 1024 times is all that may be.
    assert_allowed(grown(256, 1024, 0.0));
    assert_allowed(grown(256, 0, 4.0));
    assert_refused(grown(256, 1, 4.0), "x", "repeats_exceeded");
    assert_refused(grown(257, 1024, 0.0), "x", "repeats_exceeded");
}
