//! What a violation tells, for every code that there is: where it is, by how much, and what led to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
#![allow(clippy::disallowed_methods, reason = "the test reads the rules for the codes that they have")]
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use comfygate_policy::{
    Catalogue, Directory, FileFact, FileFacts, Policy, Verdict, Violation, ViolationKind, decide, parse,
};
use serde_json::{Value, json};

/// Codes of violations with a number: they carry the value, or its bound, and the limit that it breaks.
const WITH_BOUND_AND_LIMIT: [&str; 22] = [
    "cap_exceeded",
    "conditioning_exceeded",
    "cost_exceeded",
    "denoise_too_small",
    "memory_exceeded",
    "merge_exceeded",
    "overlap_too_large",
    "passes_exceeded",
    "prompt_too_long",
    "repeats_exceeded",
    "sample_rate_refused",
    "schedule_too_long",
    "size_exceeded",
    "steps_total_exceeded",
    "text_exceeded",
    "text_too_long",
    "too_densely_linked",
    "too_many_nodes",
    "too_many_outputs",
    "tracks_exceeded",
    "value_bigger_than_max",
    "value_smaller_than_min",
];
/// Codes of violations that name what they are about.
const WITH_BOUND: [&str; 7] = [
    "embedding_refused",
    "model_denied",
    "model_not_allowed",
    "sampler_refused",
    "scheduler_refused",
    "text_denied",
    "value_not_in_list",
];

struct Case {
    code: &'static str,
    policy: Written,
    nodes: Value,
    /// The node and input that it is told of; the empty text: none.
    at: (&'static str, &'static str),
    /// What the chain says; the empty text: there is none, for nothing comes by a link.
    chain: &'static str,
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

/// A policy as it is written, and the classes that are banned besides.
struct Written {
    text: String,
    banned: Vec<(String, Option<String>)>,
}

impl Written {
    fn banning(self, banned: Vec<(String, Option<String>)>) -> Self {
        Self { banned, ..self }
    }

    fn read(&self, top: &str) -> Policy {
        let text = format!("name = \"x\"\n{top}{}", self.text);
        let policy = Policy::from_toml(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        policy.banning(self.banned.clone())
    }
}

fn policy(text: &str) -> Written {
    Written { text: text.to_owned(), banned: Vec::new() }
}

/// All classes are allowed, beside what `text` says.
fn open(text: &str) -> Written {
    policy(&format!("{text}\n[classes]\nallow = [\"*\"]\n"))
}

/// A pack alone; its installation has no other classes.
fn pack() -> Catalogue {
    let info = json!({
        "PackFetch": {"input": {"required": {"url": ["STRING", {}]}}, "output": ["IMAGE"], "output_is_list": [false], "output_node": true,
            "python_module": "custom_nodes.pack"},
        "SimpleMath+": {"input": {"required": {"value": ["STRING", {}]}, "optional": {"a": ["*", {}], "b": ["*", {}], "c": ["*", {}]}}, "output": ["INT", "FLOAT"],
            "output_is_list": [false, false], "output_node": false, "python_module": "custom_nodes.ComfyUI_essentials"},
    });
    Catalogue::from_object_info(info.to_string().as_bytes()).unwrap()
}

fn files() -> FileFacts {
    let mut files = FileFacts::none();
    let fact = |side: u32| FileFact {
        canonical_name: "a.png".into(),
        width: side,
        height: side,
        frames: 1,
        seconds: Some(10),
    };
    files.insert("me.png", Directory::Input, fact(512));
    files.insert("large.png", Directory::Input, fact(5000));
    files.insert("any.flac", Directory::Input, FileFact { seconds: None, ..fact(1) });
    files
}

/// Nodes that every case has: an output, and what a sampler needs.
fn graph(nodes: &Value) -> Value {
    let mut all = json!({
        "image": node("EmptyImage", json!({"width": 64, "height": 64, "batch_size": 1, "color": 0})),
        "show": node("PreviewImage", json!({"images": ["image", 0]})),
        "empty": node("EmptyLatentImage", json!({"width": 512, "height": 512, "batch_size": 1})),
        "model": node("CheckpointLoaderSimple", json!({"ckpt_name": "sd.safetensors"})),
        "text": node("CLIPTextEncode", json!({"text": "a cat", "clip": ["model", 1]})),
    });
    all.as_object_mut().unwrap().extend(nodes.as_object().unwrap().clone());
    all
}

fn with(mut base: Value, changes: &Value) -> Value {
    base.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    base
}

fn sampler(changes: &Value) -> Value {
    let inputs = json!({
        "model": ["model", 0], "seed": 1, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal",
        "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0], "denoise": 1.0,
    });
    node("KSampler", with(inputs, changes))
}

fn int(value: i64) -> Value {
    node("PrimitiveInt", json!({ "value": value }))
}

fn string(value: &str) -> Value {
    node("PrimitiveString", json!({ "value": value }))
}

/// A graph in which each node is linked to all of the layer before it.
fn dense() -> Value {
    let mut nodes = json!({});
    for (layer, place) in (0..9).flat_map(|layer| (0..50).map(move |place| (layer, place))) {
        let id = format!("n{layer}-{place}");
        let above = (0..if layer == 0 { 0 } else { 50 })
            .map(|n| (format!("images.image{n}"), json!([format!("n{}-{n}", layer - 1), 0])));
        nodes[id] = match layer {
            0 => node("EmptyImage", json!({"width": 8, "height": 8, "batch_size": 1, "color": 0})),
            _ => node("BatchImagesNode", Value::Object(above.collect())),
        };
    }
    nodes
}

fn doubling(count: usize) -> Value {
    let mut nodes = json!({"d0": string(&"x".repeat(1024))});
    for n in 1..=count {
        let from = json!([format!("d{}", n - 1), 0]);
        nodes[format!("d{n}")] =
            node("StringConcatenate", json!({"string_a": from, "string_b": from, "delimiter": ""}));
    }
    nodes
}

/// Nodes that take the one before at two inputs; the first takes a prompt, or a model.
fn twice(count: usize, (class, first, second): (&str, &str, &str), more: &Value) -> Value {
    let mut nodes = json!({
        "x0": node("CheckpointLoaderSimple", json!({"ckpt_name": "sd.safetensors"})),
        "p": node("CLIPTextEncode", json!({"text": "a cat", "clip": ["x0", 1]})),
    });
    let mut last = json!([if class.starts_with("Model") { "x0" } else { "p" }, 0]);
    for n in 1..=count {
        let mut inputs = more.clone();
        inputs[first] = last.clone();
        inputs[second] = last;
        nodes[format!("x{n}")] = node(class, inputs);
        last = json!([format!("x{n}"), 0]);
    }
    nodes
}

fn case(
    code: &'static str,
    policy: Written,
    nodes: Value,
    at: (&'static str, &'static str),
    chain: &'static str,
) -> Case {
    Case { code, policy, nodes, at, chain }
}

/// At least one for every code; for rules that look through links, one with a literal and one with a link.
#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let prefix =
        |value: Value| json!({"o": node("SaveImage", json!({"images": ["image", 0], "filename_prefix": value}))});
    let load = |name: Value| json!({"f": node("LoadImage", json!({"image": name}))});
    let scale = |by: Value| json!({"s": node("ImageScaleBy", json!({"image": ["image", 0], "upscale_method": "area", "scale_by": by}))});
    let regex = |pattern: &str, text: String| json!({"r": node("RegexReplace", json!({"string": text, "regex_pattern": pattern, "replace": ""}))});
    let sigmas = |steps: Value| {
        json!({
            "c": node("SamplerCustom", json!({"model": ["model", 0], "add_noise": true, "noise_seed": 1, "cfg": 1.0, "positive": ["text", 0],
                "negative": ["text", 0], "sampler": ["k", 0], "sigmas": ["g", 0], "latent_image": ["empty", 0]})),
            "g": node("KarrasScheduler", json!({"steps": steps, "sigma_max": 14.0, "sigma_min": 0.03, "rho": 7.0})),
            "k": node("KSamplerSelect", json!({"sampler_name": "heun"})),
        })
    };
    let encode = |text: Value| json!({"t": node("CLIPTextEncode", json!({"text": text, "clip": ["model", 1]}))});
    let ckpt = |name: Value| json!({"m": node("CheckpointLoaderSimple", json!({"ckpt_name": name}))});
    let fetch = |url: &str| json!({"p": node("PackFetch", json!({"url": url}))});
    let sound =
        |rate: Value| json!({"a": node("EmptyAudio", json!({"duration": 1.0, "sample_rate": rate, "channels": 2}))});
    let video = |length: Value| json!({"v": node("EmptyHunyuanLatentVideo", json!({"width": 512, "height": 512, "length": length, "batch_size": 1}))});
    let caps = |text: &str| open(&format!("[caps]\n{text}\n"));
    let fetch_policy = || open("[annotations.PackFetch]\ninputs = { url = \"url\" }\n");
    vec![
        // Classes
        case("class_unknown", open(""), json!({"x": node("NoSuch", json!({}))}), ("x", ""), ""),
        case(
            "class_closed",
            open("[annotations.PackFetch]\ninputs = { nowhere = \"width\" }\n"),
            fetch("x"),
            ("p", ""),
            "",
        ),
        case("class_expands", open("[annotations.PackFetch]\nreturns_expand = true\n"), fetch("x"), ("p", ""), ""),
        case(
            "class_denied",
            policy("[classes]\nallow = [\"*\"]\ndeny = [\"EmptyImage\"]\n"),
            json!({}),
            ("image", ""),
            "",
        ),
        case("class_not_allowed", policy("[classes]\nallow = [\"E*\"]\n"), json!({}), ("show", ""), ""),
        case("class_banned", open("").banning(vec![("EmptyImage".to_owned(), None)]), json!({}), ("image", ""), ""),
        case("paid_node_refused", open(""), json!({"k": node("KlingVideoExtendNode", json!({}))}), ("k", ""), ""),
        // Inputs
        case(
            "undeclared_input",
            open(""),
            json!({"x": node("PreviewImage", json!({"images": ["image", 0], "zzz": ["image", 0]}))}),
            ("x", "zzz"),
            "",
        ),
        case(
            "reserved_input",
            open(""),
            json!({"x": node("PreviewImage", json!({"images": ["image", 0], "comfygate_salt": 1}))}),
            ("x", "comfygate_salt"),
            "",
        ),
        case(
            "required_input_missing",
            open(""),
            json!({"show": node("PreviewImage", json!({}))}),
            ("show", "images"),
            "",
        ),
        case("invalid_input_type", open(""), json!({"s": sampler(&json!({"steps": "20"}))}), ("s", "steps"), ""),
        case("value_smaller_than_min", open(""), json!({"s": sampler(&json!({"steps": 0}))}), ("s", "steps"), ""),
        case(
            "value_smaller_than_min",
            caps("steps = 9"),
            json!({"s": sampler(&json!({"steps": ["n", 0]})), "n": int(-1)}),
            ("s", "steps"),
            "from n (PrimitiveInt.value)",
        ),
        case("value_bigger_than_max", open(""), json!({"s": sampler(&json!({"steps": 10_001}))}), ("s", "steps"), ""),
        case(
            "value_not_in_list",
            open(""),
            json!({"s": sampler(&json!({"sampler_name": "other"}))}),
            ("s", "sampler_name"),
            "",
        ),
        case("path_refused", open(""), ckpt(json!("../x")), ("m", "ckpt_name"), ""),
        // Links
        case(
            "bad_linked_input",
            open(""),
            json!({"x": node("PreviewImage", json!({"images": ["image", 1]}))}),
            ("x", "images"),
            "",
        ),
        case(
            "return_type_mismatch",
            open(""),
            json!({"x": node("PreviewImage", json!({"images": ["empty", 0]}))}),
            ("x", "images"),
            "",
        ),
        case(
            "linked_input_refused",
            open(""),
            json!({"s": sampler(&json!({"sampler_name": ["p", 0]})), "p": string("euler")}),
            ("s", "sampler_name"),
            "",
        ),
        case(
            "linked_input_refused",
            open(""),
            with(prefix(json!(["p", 0])), &json!({"p": string("x")})),
            ("o", "filename_prefix"),
            "",
        ),
        // Files
        case("save_prefix_refused", open(""), prefix(json!("../x")), ("o", "filename_prefix"), ""),
        case("file_name_refused", open(""), load(json!(5)), ("f", "image"), ""),
        case("file_suffix_refused", open(""), load(json!("me.png[input]")), ("f", "image"), ""),
        case("file_not_found", open(""), load(json!("other.png")), ("f", "image"), ""),
        case("path_refused", open(""), load(json!("/etc/passwd")), ("f", "image"), ""),
        case("file_refused", open("[files]\ndirectories = [\"output\"]\n"), load(json!("me.png")), ("f", "image"), ""),
        case("address_refused", fetch_policy(), fetch("https://example.org/"), ("p", "url"), ""),
        // Models and texts
        case(
            "model_denied",
            open("[[models]]\ninput = \"*\"\ndeny = [\"sd*\"]\n"),
            json!({}),
            ("model", "ckpt_name"),
            "",
        ),
        case(
            "model_not_allowed",
            open("[[models]]\ninput = \"*\"\nallow = [\"other\"]\n"),
            json!({}),
            ("model", "ckpt_name"),
            "",
        ),
        case(
            "model_unknown",
            open("[[models]]\ninput = \"*\"\nallow = [\"sd*\"]\n"),
            with(
                ckpt(json!(["p", 0])),
                &json!({"p": node("CaseConverter", json!({"string": "SD", "mode": "lowercase"}))}),
            ),
            ("m", "ckpt_name"),
            "from p (CaseConverter)",
        ),
        case("text_too_long", open("[texts]\nmax_bytes = 4\n"), json!({}), ("text", "text"), ""),
        case(
            "text_too_long",
            open("[texts]\nmax_bytes = 9\n"),
            with(encode(json!(["p", 0])), &json!({"p": string("ten bytes!")})),
            ("t", "text"),
            "from p (PrimitiveString.value)",
        ),
        case("text_denied", open("[texts]\ndeny = [\"cat\"]\n"), json!({}), ("text", "text"), ""),
        case(
            "text_denied",
            open("[texts]\ndeny = [\"dog\"]\n"),
            with(encode(json!(["p", 0])), &json!({"p": string("a dog")})),
            ("t", "text"),
            "from p (PrimitiveString.value)",
        ),
        case(
            "text_unknown",
            open("[texts]\ndeny = [\"dog\"]\n"),
            with(
                encode(json!(["p", 0])),
                &json!({"p": node("CaseConverter", json!({"string": "SD", "mode": "lowercase"}))}),
            ),
            ("t", "text"),
            "from p (CaseConverter)",
        ),
        case("embedding_refused", open("[texts]\nembeddings = []\n"), encode(json!("embedding:a")), ("t", "text"), ""),
        // Caps
        case("cap_exceeded", caps("steps = 19"), json!({"s": sampler(&json!({}))}), ("s", "steps"), ""),
        case(
            "cap_exceeded",
            caps("steps = 19"),
            json!({"s": sampler(&json!({"steps": ["n", 0]})), "n": int(20)}),
            ("s", "steps"),
            "linked from n (PrimitiveInt.value)",
        ),
        case("cap_exceeded", caps("steps = 39"), sigmas(json!(20)), ("c", ""), "linked from g (KarrasScheduler.steps)"),
        case(
            "cap_exceeded",
            caps("steps = 39"),
            with(sigmas(json!(["n", 0])), &json!({"n": int(20)})),
            ("c", ""),
            "from g (KarrasScheduler.steps), from n (PrimitiveInt.value)",
        ),
        case(
            "cap_exceeded",
            caps("frames = 80"),
            with(video(json!(["n", 0])), &json!({"n": int(81)})),
            ("v", "length"),
            "linked from n (PrimitiveInt.value)",
        ),
        case(
            "cap_exceeded",
            caps("upscale = 2"),
            with(scale(json!(["n", 0])), &json!({"n": node("PrimitiveFloat", json!({"value": 2.5}))})),
            ("s", "scale_by"),
            "from n (PrimitiveFloat.value)",
        ),
        case(
            "value_unbounded",
            caps("steps = 9"),
            json!({"s": sampler(&json!({"steps": ["n", 0]})), "n": node("ComfySwitchNode", json!({"switch": ["t", 0], "on_true": ["b", 0]})), "b": int(1),
                "t": node("StringContains", json!({"string": "a", "substring": "b", "case_sensitive": true}))}),
            ("s", "steps"),
            "linked from n (ComfySwitchNode.on_true)",
        ),
        case(
            "steps_unbounded",
            caps("steps_total = 9"),
            with(sigmas(json!(5)), &json!({"k": node("SamplerDPMAdaptative", json!({}))})),
            ("k", ""),
            "",
        ),
        case("steps_total_exceeded", caps("steps_total = 19"), json!({"s": sampler(&json!({}))}), ("", ""), ""),
        case(
            "denoise_too_small",
            caps("denoise_min = 0.5"),
            json!({"s": sampler(&json!({"denoise": 0.4}))}),
            ("s", "denoise"),
            "",
        ),
        case(
            "denoise_too_small",
            caps("denoise_min = 0.5"),
            json!({"s": sampler(&json!({"denoise": ["n", 0]})), "n": node("PrimitiveFloat", json!({"value": 0.4}))}),
            ("s", "denoise"),
            "from n (PrimitiveFloat.value)",
        ),
        case(
            "overlap_too_large",
            caps("width = 512"),
            json!({"e": node("VAEEncodeTiled", json!({"pixels": ["image", 0], "vae": ["model", 2], "tile_size": 64, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}))}),
            ("e", "overlap"),
            "",
        ),
        case("sample_rate_refused", open(""), sound(json!(44_099)), ("a", "sample_rate"), ""),
        case(
            "sample_rate_refused",
            open(""),
            with(sound(json!(["n", 0])), &json!({"n": int(44_099)})),
            ("a", "sample_rate"),
            "from n (PrimitiveInt.value)",
        ),
        case(
            "sampler_refused",
            open("[samplers]\nallow = [\"lms\"]\n"),
            json!({"s": sampler(&json!({}))}),
            ("s", "sampler_name"),
            "",
        ),
        case(
            "scheduler_refused",
            open("[schedulers]\nallow = [\"karras\"]\n"),
            json!({"s": sampler(&json!({}))}),
            ("s", "scheduler"),
            "",
        ),
        // Sizes
        case("size_exceeded", caps("width = 512"), load(json!("large.png")), ("f", ""), ""),
        case(
            "size_exceeded",
            caps("width = 128\nvae_scale = 8"),
            with(
                scale(json!(2.5)),
                &json!({"w": node("ImageScaleBy", json!({"image": ["s", 0], "upscale_method": "area", "scale_by": 2.0}))}),
            ),
            ("s", ""),
            "made of 64 × 64 from image (EmptyImage)",
        ),
        case(
            "size_exceeded",
            caps("megapixels = 0.5"),
            json!({"e": node("EmptyImage", json!({"width": ["n", 0], "height": 1024, "batch_size": 1, "color": 0})), "n": int(1024)}),
            ("e", ""),
            "width linked from n (PrimitiveInt.value)",
        ),
        case(
            "size_unbounded",
            caps("width = 512"),
            json!({"l": node("LoadLatent", json!({"latent": "me.png"}))}),
            ("l", ""),
            "",
        ),
        case(
            "list_output",
            caps("width = 512"),
            json!({"l": node("LoadImageDataSetFromFolder", json!({"folder": "x"}))}),
            ("l", ""),
            "",
        ),
        case(
            "memory_exceeded",
            open(""),
            json!({"e": node("EmptyImage", json!({"width": 16_384, "height": 16_384, "batch_size": 17, "color": 0}))}),
            ("e", ""),
            "",
        ),
        case(
            "memory_exceeded",
            open(""),
            json!({
            "e": node("EmptyImage", json!({"width": 16_384, "height": 16_384, "batch_size": 9, "color": 0})),
            "b": node("ImageBatch", json!({"image1": ["e", 0], "image2": ["e", 0]}))}),
            ("b", ""),
            "made of 9 of 16384 × 16384 from e (EmptyImage)",
        ),
        // The whole
        case(
            "prompt_no_outputs",
            open(""),
            json!({"show": node("EmptyImage", json!({"width": 8, "height": 8, "batch_size": 1, "color": 0}))}),
            ("", ""),
            "",
        ),
        case("too_many_nodes", caps("nodes = 4"), json!({}), ("", ""), ""),
        case(
            "too_many_outputs",
            caps("outputs = 1"),
            json!({"x": node("PreviewImage", json!({"images": ["image", 0]}))}),
            ("", ""),
            "",
        ),
        case("cost_exceeded", open("cost_limit = 1\n"), json!({"s": sampler(&json!({}))}), ("", ""), ""),
        case("too_densely_linked", open(""), dense(), ("", ""), ""),
        // What brings a ComfyUI down
        case("schedule_too_long", open(""), json!({"s": sampler(&json!({"denoise": 1e-9}))}), ("s", "denoise"), ""),
        case(
            "schedule_too_long",
            open(""),
            json!({"s": sampler(&json!({"steps": ["n", 0]})), "n": int(2_000_000)}),
            ("s", "steps"),
            "linked from n (PrimitiveInt.value)",
        ),
        case(
            "text_exceeded",
            open(""),
            doubling(15),
            ("d15", ""),
            "made of 16777216 bytes from d14 (StringConcatenate), 8388608 bytes from d13",
        ),
        case(
            "text_exceeded",
            caps("width = 512"),
            doubling(11),
            ("d11", ""),
            "made of 1048576 bytes from d10 (StringConcatenate)",
        ),
        case(
            "text_unbounded",
            open(""),
            json!({"c": node("StringConcatenate", json!({"string_a": ["p", 1], "string_b": "x", "delimiter": ""})), "p": node("LoadImageTextDataSetFromFolder", json!({"folder": "x"}))}),
            ("c", ""),
            "",
        ),
        case(
            "conditioning_exceeded",
            open(""),
            twice(12, ("ConditioningCombine", "conditioning_1", "conditioning_2"), &json!({})),
            ("x12", ""),
            "",
        ),
        case(
            "prompt_too_long",
            open(""),
            json!({
                "m": node("CheckpointLoaderSimple", json!({"ckpt_name": "sd.safetensors"})),
                "t": node("CLIPTextEncode", json!({"text": "x".repeat(12_289), "clip": ["m", 1]})),
            }),
            ("t", "text"),
            "",
        ),
        case(
            "repeats_exceeded",
            open(""),
            json!({
                "m": node("SolidMask", json!({"value": 1.0, "width": 16_384, "height": 16_384})),
                "g": node("GrowMask", json!({"mask": ["m", 0], "expand": 1025, "tapered_corners": true})),
            }),
            ("g", ""),
            "",
        ),
        case(
            "passes_exceeded",
            caps("steps = 20"),
            {
                let mut nodes = twice(6, ("ConditioningCombine", "conditioning_1", "conditioning_2"), &json!({}));
                nodes["g"] = node(
                    "CFGGuider",
                    json!({"model": ["x0", 0], "positive": ["x6", 0], "negative": ["p", 0], "cfg": 7.0}),
                );
                nodes
            },
            ("g", ""),
            "",
        ),
        case(
            "tracks_exceeded",
            open(""),
            json!({
                "i": node("EmptyImage", json!({"width": 64, "height": 64, "batch_size": 1, "color": 0})),
                "t": node("WanMoveTracksFromCoords", json!({"track_coords": ["p", 0]})),
                "p": node("PrimitiveString", json!({"value": r#"[[{"x":0,"y":0},{"x":1e15,"y":0}]]"#})),
                "v": node("WanMoveVisualizeTracks", json!({
                    "images": ["i", 0], "tracks": ["t", 0], "line_resolution": 24, "circle_size": 12, "opacity": 0.75, "line_width": 16,
                })),
            }),
            ("v", ""),
            "",
        ),
        case(
            "merge_exceeded",
            open(""),
            twice(11, ("ModelMergeSimple", "model1", "model2"), &json!({"ratio": 0.5})),
            ("x11", ""),
            "",
        ),
        case("sound_unbounded", open(""), json!({"a": node("LoadAudio", json!({"audio": "any.flac"}))}), ("a", ""), ""),
        case(
            "memory_exceeded",
            open(""),
            json!({
                "a": node("EmptyAudio", json!({"duration": 20_000.0, "sample_rate": 44_100, "channels": 2})),
                "b": node("AudioConcat", json!({"audio1": ["a", 0], "audio2": ["a", 0], "direction": "after"})),
            }),
            ("b", ""),
            "",
        ),
        case(
            "number_unbounded",
            open(""),
            json!({
                "e": node("EmptyImage", json!({"width": ["n", 1], "height": 64, "batch_size": 1, "color": 0})),
                "n": node("ComfyNumberConvert", json!({"value": ["x", 0]})),
                "x": node("RegexExtract", json!({"string": "9999999999", "regex_pattern": "9+", "mode": "First Match", "case_insensitive": false, "multiline": false, "dotall": false, "group_index": 1})),
            }),
            ("e", "width"),
            "linked from n (ComfyNumberConvert.value), from x (RegexExtract",
        ),
        case(
            "schedule_refused",
            open(""),
            json!({
                "g": node("KarrasScheduler", json!({"steps": 4, "sigma_max": ["z", 0], "sigma_min": 0.1, "rho": 7.0})),
                "z": node("PrimitiveFloat", json!({"value": 0.0})),
                "k": node("KSamplerSelect", json!({"sampler_name": "dpmpp_sde"})),
            }),
            ("g", "sigma_max"),
            "linked from z (PrimitiveFloat.value)",
        ),
        case("regex_refused", open(""), regex("(a+)+$", "a".repeat(1000)), ("r", "regex_pattern"), ""),
        case(
            "type_unknown",
            open(""),
            json!({"p": node("Preview3D", json!({"model_file": ["k", 0]})), "k": node("KSamplerSelect", json!({"sampler_name": "euler"}))}),
            ("p", "model_file"),
            "",
        ),
        case(
            "expression_refused",
            open(""),
            json!({"e": node("SimpleMath+", json!({"value": "9**9**9"}))}),
            ("e", "value"),
            "",
        ),
    ]
}

fn found(case: &Case, body: &Value) -> Vec<Violation> {
    found_under(case, &case.policy.read(""), body)
}

fn found_under(case: &Case, policy: &Policy, body: &Value) -> Vec<Violation> {
    let parsed = parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", case.code));
    let of_a_pack = |class: &str| class.starts_with("Pack") || class == "SimpleMath+";
    let packs = pack();
    let mut classes = case.nodes.as_object().unwrap().values().filter_map(|node| node["class_type"].as_str());
    let catalogue = if classes.any(of_a_pack) { &packs } else { Catalogue::builtin() };
    match decide(&parsed, policy, catalogue, &files()) {
        Verdict::Allow(approved) => approved.pruned().into_iter().flatten().cloned().collect(),
        Verdict::Deny(violations) => violations.iter().cloned().collect(),
    }
}

/// The violation that the case is about.
fn told(case: &Case, all: &[Violation]) -> Violation {
    let is_it = |violation: &&Violation| {
        let node = violation.node.as_ref().map(ToString::to_string).unwrap_or_default();
        let at = (node.as_str(), violation.input.as_deref().unwrap_or_default());
        violation.code == case.code && at == case.at
    };
    let codes: Vec<String> = all.iter().map(|one| format!("{} {} {one}", one.code, one.pointer())).collect();
    all.iter().find(is_it).cloned().unwrap_or_else(|| panic!("no {} at {:?}: {codes:#?}", case.code, case.at))
}

#[test]
fn every_violation_says_where_it_is_how_much_it_is_and_what_led_to_it() {
    for case in cases() {
        let body = json!({ "prompt": graph(&case.nodes) });
        let violation = told(&case, &found(&case, &body));
        let (code, told) = (case.code, violation.to_json());
        let members: BTreeSet<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
        let wanted = ["because", "bound", "class", "code", "input", "limit", "node", "pointer"];
        assert_eq!(members, BTreeSet::from(wanted), "{code}");
        assert_eq!(violation.node.is_some(), violation.class.is_some(), "{code}: a node has its class");
        assert_eq!(told["node"].is_null(), case.at.0.is_empty(), "{code}");
        let numbers = violation.bound.is_some() && violation.limit.is_some();
        assert!(numbers || !WITH_BOUND_AND_LIMIT.contains(&code), "{code}: {told}");
        assert!(violation.bound.is_some() || !WITH_BOUND.contains(&code), "{code}: {told}");
        match (case.chain, &violation.chain) {
            ("", chain) => assert_eq!(*chain, None, "{code}"),
            (wanted, Some(chain)) => assert!(chain.contains(wanted), "{code}: `{chain}` lacks `{wanted}`"),
            (wanted, None) => panic!("{code} has no chain, and `{wanted}` leads to it"),
        }
        assert!(violation.because().contains(violation.chain.as_deref().unwrap_or_default()), "{code}");
        let advice = violation.instead().unwrap_or_else(|| panic!("{code}: does not say what to do instead"));
        assert!(violation.because().ends_with(advice), "{code}: {told}");
        assert!(!violation.message.is_empty() && told["because"].as_str().unwrap().len() >= 10, "{code}: {told}");
    }
}

#[test]
fn every_pointer_resolves_in_what_was_submitted() {
    for case in cases() {
        let body = json!({ "prompt": graph(&case.nodes) });
        for violation in found(&case, &body) {
            let pointer = violation.pointer();
            // What is missing has a place, and nothing at it.
            let place = match violation.code {
                "required_input_missing" => pointer.rsplit_once('/').unwrap().0.to_owned(),
                _ => pointer.clone(),
            };
            assert!(body.pointer(&place).is_some(), "{}: {pointer} in {body}", violation.code);
        }
    }
    // Names of inputs may hold what separates pointers.
    let body = json!({"prompt": graph(&json!({"x": node("PreviewImage", json!({"images": ["image", 0], "a/b~c": ["image", 0]}))}))});
    let Verdict::Deny(violations) =
        decide(&parse(body.to_string().as_bytes()).unwrap(), &open("").read(""), Catalogue::builtin(), &files())
    else {
        panic!()
    };
    let pointer = violations.iter().next().unwrap().pointer();
    assert_eq!((pointer.as_str(), body.pointer(&pointer)), ("/prompt/x/inputs/a~1b~0c", Some(&json!(["image", 0]))));
}

#[test]
fn what_comfyui_would_call_invalid_is_told_apart_from_what_a_rule_denies() {
    let invalid = [
        "bad_linked_input",
        "class_unknown",
        "invalid_input_type",
        "prompt_no_outputs",
        "required_input_missing",
        "return_type_mismatch",
        "value_bigger_than_max",
        "value_not_in_list",
    ];
    for case in cases() {
        let violation = told(&case, &found(&case, &json!({ "prompt": graph(&case.nodes) })));
        // Too small a literal is ComfyUI's to refuse; too small a linked number nobody refuses but us.
        let wanted = invalid.contains(&case.code) || case.code == "value_smaller_than_min" && case.chain.is_empty();
        assert_eq!(violation.kind == ViolationKind::Invalid, wanted, "{}", case.code);
    }
}

/// What `README.md` says of a code in shadow mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shadow {
    /// It is told, and the workflow runs.
    Relaxed,
    /// It refuses all the same, for the reason in the table.
    Holds,
    /// One of two rules with the code is relaxed.
    Partly,
}

/// The rows "| `code` | what | in shadow mode |" of the section on codes.
fn codes_in_the_readme() -> Vec<(String, Shadow)> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("## The codes").nth(1).expect("a section on codes");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        let shadow = match cells[2].split_once(": ") {
            Some(("holds", reason)) if reason.len() > 10 => Shadow::Holds,
            Some(("partly", reason)) if reason.len() > 10 => Shadow::Partly,
            None if cells[2].trim_end_matches(" |") == "relaxed" => Shadow::Relaxed,
            _ => panic!("no `relaxed`, `holds: reason` or `partly: reason`: {row}"),
        };
        (cells[0].trim_matches('`').to_owned(), shadow)
    })
    .collect()
}

#[test]
fn the_readme_lists_every_code_once_and_no_other() {
    let listed: Vec<String> = codes_in_the_readme().into_iter().map(|(code, _)| code).collect();
    let distinct: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), distinct.len(), "a code stands twice");
    assert_eq!(distinct, codes_of_the_rules());
}

#[test]
fn shadow_mode_relaxes_rules_of_classes_caps_models_and_texts_and_no_other() {
    let table = codes_in_the_readme();
    let mut seen: BTreeMap<&str, BTreeSet<bool>> = BTreeMap::new();
    for case in cases() {
        let body = json!({ "prompt": graph(&case.nodes) });
        let shadow = case.policy.read("mode = \"shadow\"\n");
        let refuses = found_under(&case, &shadow, &body).iter().any(|one| one.code == case.code);
        seen.entry(case.code).or_default().insert(refuses);
    }
    for (code, said) in table {
        let wanted: BTreeSet<bool> = match said {
            Shadow::Relaxed => [false].into(),
            Shadow::Holds => [true].into(),
            Shadow::Partly => [false, true].into(),
        };
        assert_eq!(seen.get(code.as_str()), Some(&wanted), "{code}: {said:?}");
    }
}

/// Texts between quotation marks that stand before a [`ViolationKind`], and those given to functions that make violations by a code of the caller's.
fn codes_of_the_rules() -> BTreeSet<String> {
    let checks = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/checks");
    let is_code = |text: &str| text.contains('_') && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let mut codes = BTreeSet::new();
    for entry in std::fs::read_dir(checks).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        let quoted: Vec<&str> = source.split('"').collect();
        for place in (1..quoted.len()).step_by(2) {
            let (text, after) = (quoted[place], quoted.get(place + 1).copied().unwrap_or_default());
            let before = quoted[place - 1].trim_end();
            let beside_a_kind = after.trim_start().trim_start_matches(',').trim_start().starts_with("ViolationKind");
            let by_a_variable = before.ends_with("let code = if matches!(input, Input::Link(_)) {")
                || before.ends_with("} else {")
                || text.ends_with("_refused")
                || text.ends_with("_exceeded")
                || text.ends_with("_too_long")
                || text.starts_with("file_")
                || text.starts_with("model_")
                || text.starts_with("value_")
                || text.starts_with("too_many_");
            if is_code(text) && (beside_a_kind || by_a_variable) {
                codes.insert(text.to_owned());
            }
        }
    }
    // An input's name and a key of the policy, not codes.
    codes.remove("model_file");
    codes
}

#[test]
fn every_code_that_a_rule_has_is_among_the_cases() {
    let cases: BTreeSet<String> = cases().iter().map(|case| case.code.to_owned()).collect();
    let codes = codes_of_the_rules();
    assert!(codes.len() > 50, "{codes:?}");
    assert_eq!(codes.difference(&cases).collect::<Vec<_>>(), Vec::<&String>::new(), "codes without a case");
    assert_eq!(cases.difference(&codes).collect::<Vec<_>>(), Vec::<&String>::new(), "cases without a rule");
}
