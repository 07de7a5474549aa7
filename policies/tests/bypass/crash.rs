//! K1 to K14 (facts §3.6): what kills, freezes or poisons a ComfyUI is accepted under no policy, an owner's and shadow mode included. K1 to K6, K11 and K12 are faults of form, which no policy sees;
//! all of them, and the near misses that are allowed here, are sent through the gateway to real ComfyUIs by `tests/isolation/fatal.rs` of the workspace.

use comfygate_policy::{NODES_MAX, PATH_DEPTH_MAX, Policy, Verdict, parse};
use serde_json::{Value, json};

use super::{
    all_policies, denials, euler, node, open_policy, parses, prompt, raw, refused, refused_everywhere, sampler,
    shipped, steps_policy, switch, unparsable, verdict_under, with,
};

/// The owner's policy lets it run: it is beside the mark.
#[track_caller]
fn an_owner_may(nodes: Value) {
    assert_eq!(denials(&shipped("owner"), nodes), []);
}

/// A text that nobody knows before it is run.
fn extracted(from: &str) -> Value {
    node(
        "RegexExtract",
        json!({"string": from, "regex_pattern": "9+", "mode": "First Match", "case_insensitive": false, "multiline": false, "dotall": false, "group_index": 1}),
    )
}

/// Under every policy, shadow mode and an owner's included: where caps ask for the number by their rule, else by the rule of crashes.
#[track_caller]
fn refused_for_its_number(nodes: Value, at: &str) {
    for policy in all_policies() {
        let found = denials(&policy, nodes.clone());
        let codes = ["number_unbounded", "value_unbounded"];
        assert!(found.iter().any(|(node, code)| node == at && codes.contains(code)), "{}: {found:?}", policy.name());
    }
}

#[test]
fn k1_a_client_id_that_is_no_text() {
    for id in [json!({}), json!([1]), json!([]), json!(0)] {
        unparsable(&json!({"prompt": prompt(json!({})), "client_id": id}).to_string(), "invalid_type");
        unparsable(&json!({"prompt": prompt(json!({})), "extra_data": {"client_id": id}}).to_string(), "invalid_type");
    }
    parses(&json!({"prompt": prompt(json!({})), "client_id": "c"}).to_string());
}

#[test]
fn k2_an_undeclared_link_to_nowhere() {
    for name in ["zzz", "images", "a.b"] {
        unparsable(&raw(&format!(r#"{{"{name}":["nope",0]}}"#)), "bad_linked_input");
    }
    parses(&raw(r#"{"images":["4",0]}"#));
}

#[test]
fn k3_inputs_that_are_no_object() {
    for inputs in ["null", "[]", "\"\"", "0"] {
        unparsable(&raw(inputs), "invalid_inputs");
    }
    unparsable(r#"{"prompt":{"1":{"class_type":"EmptyImage"}}}"#, "invalid_inputs");
    parses(&raw("{}"));
}

#[test]
fn k4_long_chains_through_any_links() {
    let chain = |length: usize, name: &str| -> String {
        let link = |n: usize| if n == 0 { json!({}) } else { json!({name: [(n - 1).to_string(), 0]}) };
        let nodes: serde_json::Map<String, Value> =
            (0..length).map(|n| (n.to_string(), node("PreviewAny", link(n)))).collect();
        json!({ "prompt": nodes }).to_string()
    };
    for name in ["source", "zzz"] {
        unparsable(&chain(PATH_DEPTH_MAX + 1, name), "path_too_long");
        unparsable(&chain(NODES_MAX, name), "path_too_long");
        unparsable(&chain(2000, name), "too_many_nodes");
        parses(&chain(PATH_DEPTH_MAX, name));
    }
}

#[test]
fn k5_deep_literals() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
        for levels in [33, 480, 990, 100_000] {
            let body = raw(&format!(r#"{{"x":{}}}"#, deep(levels)));
            unparsable(&body, "too_deep");
        }
        let page = format!(r#"{{"prompt":{{}},"extra_data":{{"extra_pnginfo":{{"workflow":{}}}}}}}"#, deep(480));
        unparsable(&page, "too_deep");
    }
}

#[test]
fn k6_ids_and_numbers_in_the_queue_are_ours() {
    let body = json!({"prompt": prompt(json!({})), "prompt_id": "same", "number": 1});
    for policy in all_policies().iter().filter(|policy| policy.name() != "strict") {
        let Verdict::Allow(approved) = verdict_under(policy, &body) else { panic!("{}", policy.name()) };
        let sent = super::sent(&approved);
        assert_eq!((&sent["prompt_id"], sent.get("number"), sent.get("front")), (&json!("our-prompt"), None, None));
    }
}

#[test]
fn k12_a_number_that_is_none_does_not_reach_the_queue() {
    for number in ["NaN", "Infinity", "-1e400"] {
        unparsable(&format!(r#"{{"prompt":{{}},"number":{number}}}"#), "not_finite");
        unparsable(&format!(r#"{{"prompt":{{}},"extra_data":{{"number":{number}}}}}"#), "not_finite");
    }
    for number in [json!("nan"), json!("-inf"), json!(-1e308)] {
        let body = super::upstream(&json!({"prompt": prompt(json!({})), "number": number}));
        assert_eq!(body.get("number"), None);
    }
}

#[test]
fn k7_devices_pipes_and_directories() {
    for class in ["LoadImage", "LoadImageMask", "LoadImageOutput"] {
        for name in
            ["/dev/zero", "/tmp/fifo", "../../dev/stdin", "..", "/", "\\\\.\\COM1", "a/../../../dev/zero [input]"]
        {
            let nodes = json!({"f": node(class, json!({"image": name, "channel": "red"}))});
            refused_everywhere(nodes, "f", "path_refused");
        }
    }
    // A name in the owner's own directory is the owner's.
    an_owner_may(json!({"f": node("LoadImage", json!({"image": "old/example.png"}))}));
}

#[test]
fn k8_patterns_that_take_for_ever() {
    let matching = |pattern: &str, text: &str| json!({"r": node("RegexMatch", json!({"string": text, "regex_pattern": pattern, "case_insensitive": true, "multiline": false, "dotall": false}))});
    for pattern in ["(a+)+$", "(a|aa)+$", "(.*a){20}", "([a-z]+)*1", "(?:x+x+)+y"] {
        refused_everywhere(matching(pattern, &"a".repeat(40)), "r", "regex_refused");
    }
    refused_everywhere(matching("a*b", &"a".repeat(100_000)), "r", "regex_refused");
    an_owner_may(matching("a*b", &"a".repeat(4000)));
    an_owner_may(matching(r"^\d{4}-\d\d$", "2026-11-21"));
}

#[test]
fn k8b_numbers_looked_for_among_full_stops() {
    let sigmas = |text: String| json!({"g": node("ManualSigmas", json!({ "sigmas": text }))});
    for text in [".".repeat(65), ".".repeat(100_000), format!("1, {} 2", ".".repeat(100))] {
        refused_everywhere(sigmas(text), "g", "regex_refused");
    }
    an_owner_may(sigmas("14.6, 0.5, ... 0".to_owned()));
    an_owner_may(sigmas(".".repeat(64)));
    let linked = |length: usize| json!({"g": node("ManualSigmas", json!({"sigmas": ["t", 0]})), "t": node("PrimitiveString", json!({"value": ".".repeat(length)}))});
    refused_everywhere(linked(8193), "g", "regex_refused");
    an_owner_may(linked(8192));
}

#[test]
fn k9_schedules_without_end() {
    for denoise in [1e-9, 5e-324, 0.00001] {
        refused_everywhere(json!({"s": sampler(json!({"denoise": denoise, "steps": 20}))}), "s", "schedule_too_long");
    }
    an_owner_may(json!({"s": sampler(json!({"denoise": 0.0001, "steps": 20}))}));
    an_owner_may(json!({"s": sampler(json!({"denoise": 0}))}));
    let linked = |steps: i64, denoise: f64| {
        json!({
            "s": sampler(json!({"steps": ["n", 0], "denoise": ["d", 0]})), "n": node("PrimitiveInt", json!({"value": steps})),
            "d": node("PrimitiveFloat", json!({"value": denoise})),
        })
    };
    refused_everywhere(linked(20, 1e-9), "s", "schedule_too_long");
    refused_everywhere(linked(1_000_001, 1.0), "s", "schedule_too_long");
    refused_everywhere(linked(i64::MAX, 1.0), "s", "schedule_too_long");
    an_owner_may(linked(1000, 0.1));
    // A number that nobody knows may be any.
    let unknown = |class: &str, name: &str, output: u8, inputs: Value| json!({"u": node(class, with(inputs, json!({name: ["n", output]}))), "n": node("ComfyNumberConvert", json!({"value": ["x", 0]})), "x": extracted("9999999999")});
    let scheduler = json!({"model": ["model", 0], "scheduler": "simple", "steps": 20, "denoise": 1.0});
    refused_for_its_number(unknown("BasicScheduler", "steps", 1, scheduler.clone()), "u");
    refused_for_its_number(unknown("BasicScheduler", "denoise", 0, scheduler), "u");
    let percent = json!({
        "g": node("BasicScheduler", json!({"model": ["model", 0], "scheduler": "simple", "steps": 1000, "denoise": ["p", 0]})),
        "p": node("SamplingPercentToSigma", json!({"model": ["model", 0], "sampling_percent": 0.999_999_999_9, "return_actual_sigma": false})),
    });
    refused_for_its_number(percent, "g");
    let basic = |denoise: f64| json!({"g": node("BasicScheduler", json!({"model": ["model", 0], "scheduler": "simple", "steps": 10_000, "denoise": denoise}))});
    refused_everywhere(basic(0.009), "g", "schedule_too_long");
    an_owner_may(basic(0.01));
}

#[test]
fn k10_memory_by_bytes() {
    let image = |width: u32, batch: u32| json!({"x": node("EmptyImage", json!({"width": width, "height": 16384, "batch_size": batch, "color": 0}))});
    // 16384² × 16 pixels are 2^32.
    an_owner_may(image(16384, 16));
    refused_everywhere(image(16384, 17), "x", "memory_exceeded");
    let sound = |seconds: f64| json!({"x": node("EmptyAudio", json!({"duration": ["n", 0], "sample_rate": 44100, "channels": 2})), "n": node("PrimitiveFloat", json!({"value": seconds}))});
    an_owner_may(sound(3600.0));
    refused_everywhere(sound(1e18), "x", "memory_exceeded");
    refused_everywhere(
        json!({"x": node("EmptyAudio", json!({"duration": 1e18, "sample_rate": 44100, "channels": 2}))}),
        "x",
        "memory_exceeded",
    );
    // A number that nobody knows may be any.
    let unknown = |class: &str, name: &str, output: u8, inputs: Value| json!({"u": node(class, with(inputs, json!({name: ["n", output]}))), "n": node("ComfyNumberConvert", json!({"value": ["x", 0]})), "x": extracted("9999999999")});
    let empty = json!({"width": 64, "height": 64, "batch_size": 1, "color": 0});
    for name in ["width", "height", "batch_size"] {
        refused_for_its_number(unknown("EmptyImage", name, 1, empty.clone()), "u");
    }
    refused_for_its_number(unknown("RepeatImageBatch", "amount", 1, json!({"image": ["image", 0]})), "u");
    refused_for_its_number(
        unknown("ImageScaleBy", "scale_by", 0, json!({"image": ["image", 0], "upscale_method": "area"})),
        "u",
    );
    let silence = json!({"sample_rate": 44100, "channels": 2});
    refused_for_its_number(unknown("EmptyAudio", "duration", 0, silence.clone()), "u");
    // Caps that say nothing of seconds.
    let sizes = "name = \"x\"\n[classes]\nallow = [\"*\"]\n[caps]\nsteps = 30\nwidth = 1024\nheight = 1024\n";
    let found = denials(&Policy::from_toml(sizes).unwrap(), unknown("EmptyAudio", "duration", 0, silence));
    assert_eq!(found, [("u".to_owned(), "number_unbounded")]);
    // An owner's packs are trusted with the numbers that they give, through nodes of ComfyUI too; strangers name no such class.
    let of_a_pack = |from: Value| {
        json!({"u": node("EmptyImage", json!({"width": from, "height": 64, "batch_size": 1, "color": 0})), "p": node("SomePacksNumber", json!({})),
        "n": node("ComfyNumberConvert", json!({"value": ["p", 0]}))})
    };
    for from in [json!(["p", 0]), json!(["n", 1])] {
        let found = denials(&shipped("owner"), of_a_pack(from));
        assert!(!found.iter().any(|(_, code)| *code == "number_unbounded"), "{found:?}");
    }
    // By growth.
    let grown = |count: usize| {
        let mut nodes =
            json!({"d0": node("EmptyImage", json!({"width": 1024, "height": 1024, "batch_size": 1, "color": 0}))});
        for n in 1..=count {
            let from = json!([format!("d{}", n - 1), 0]);
            nodes[format!("d{n}")] = node("ImageBatch", json!({"image1": from, "image2": from}));
        }
        nodes
    };
    an_owner_may(grown(12));
    refused_everywhere(grown(13), "d13", "memory_exceeded");
    refused_everywhere(grown(150), "d13", "memory_exceeded");
    let text = |count: usize| {
        let mut nodes = json!({"d0": node("PrimitiveString", json!({"value": "x".repeat(1024)}))});
        for n in 1..=count {
            let from = json!([format!("d{}", n - 1), 0]);
            nodes[format!("d{n}")] =
                node("StringConcatenate", json!({"string_a": from, "string_b": from, "delimiter": ""}));
        }
        nodes
    };
    an_owner_may(text(14));
    refused_everywhere(text(15), "d15", "text_exceeded");
}

#[test]
fn k10_sound_of_an_upload_that_nobody_has_measured() {
    let load = |name: &str| json!({"a": node("LoadAudio", json!({"audio": name})), "p": node("PreviewAudio", json!({"audio": ["a", 0]}))});
    let policy = |text: &str| Policy::from_toml(&format!("name = \"x\"\n{text}")).unwrap();
    let seconds = "[classes]\nallow = [\"*\"]\n[caps]\nseconds = 10\n";
    assert_eq!(denials(&policy(seconds), load("ten.wav")), []);
    let shorter = seconds.replace("10", "9");
    assert_eq!(denials(&policy(&shorter), load("ten.wav")), [("a".to_owned(), "size_exceeded")]);
    // A FLAC of 298 KB holds two days.
    let shadow = format!("mode = \"shadow\"\n{seconds}");
    for policy in
        [open_policy(), steps_policy(), shipped("default"), shipped("generous"), policy(seconds), policy(&shadow)]
    {
        let found = denials(&policy, load("any.flac"));
        assert!(found.contains(&("a".to_owned(), "sound_unbounded")), "{}: {found:?}", policy.name());
    }
    assert!(denials(&policy(seconds), load("any.flac")).contains(&("a".to_owned(), "size_unbounded")));
    // What is cut from it is read whole before.
    let mut cut = load("any.flac");
    cut["t"] = node("TrimAudioDuration", json!({"audio": ["a", 0], "start_index": 0.0, "duration": 1.0}));
    refused(cut, "a", "size_unbounded");
    // An owner's own sound is taken for one that fits.
    an_owner_may(load("any.flac"));
    // By growth.
    let joined = |seconds: f64| {
        json!({"e": node("EmptyAudio", json!({"duration": seconds, "sample_rate": 44100, "channels": 2})),
        "j": node("AudioConcat", json!({"audio1": ["e", 0], "audio2": ["e", 0], "direction": "after"}))})
    };
    an_owner_may(joined(17_999.0));
    refused_everywhere(joined(18_001.0), "j", "memory_exceeded");
}

#[test]
fn k11_page_information_that_is_no_object() {
    for info in ["[]", "\"x\"", "{\"workflow\":[]}"] {
        unparsable(
            &format!(
                r#"{{"prompt":{{"1":{{"class_type":"A","inputs":{{}}}}}},"extra_data":{{"extra_pnginfo":{info}}}}}"#
            ),
            "invalid_type",
        );
    }
    for info in ["null", "{\"workflow\":null}"] {
        let body = format!(
            r#"{{"prompt":{{"1":{{"class_type":"A","inputs":{{}}}}}},"extra_data":{{"extra_pnginfo":{info}}}}}"#
        );
        assert_eq!(parse(body.as_bytes()).unwrap().extra_data(), json!({}));
    }
}

#[test]
fn k13_dense_graphs() {
    // Layers of nodes, each linked to all of the layer before.
    let layers = |count: usize, width: usize, links: usize| {
        let mut nodes = json!({});
        for layer in 0..count {
            for place in 0..width {
                let mut inputs = json!({});
                for n in 0..if layer == 0 { 0 } else { links } {
                    inputs[format!("images.image{n}")] = json!([format!("n{}-{n}", layer - 1), 0]);
                }
                let class = if layer == 0 {
                    node("EmptyImage", json!({"width": 8, "height": 8, "batch_size": 1, "color": 0}))
                } else {
                    node("BatchImagesNode", inputs)
                };
                nodes[format!("n{layer}-{place}")] = class;
            }
        }
        nodes
    };
    refused_everywhere(layers(9, 50, 50), "", "too_densely_linked");
    let found = denials(&shipped("owner"), layers(4, 50, 10));
    assert!(!found.iter().any(|(_, code)| *code == "too_densely_linked"), "{found:?}");
}

#[test]
fn k14_values_that_no_page_can_be_told() {
    let nodes = |from: Value| {
        json!({
            "k": euler(), "m": node("UNETLoader", json!({"unet_name": "x.safetensors", "weight_dtype": "default"})),
            "w": switch("k", "k", json!(true)), "v": switch("w", "m", json!(false)),
            "p": node("Preview3D", json!({ "model_file": from })),
        })
    };
    for from in ["k", "m", "w", "v", "image", "empty"] {
        refused_everywhere(nodes(json!([from, 0])), "p", "type_unknown");
    }
    for class in ["PreviewAny", "PreviewImage"] {
        let input = if class == "PreviewAny" { "source" } else { "images" };
        an_owner_may(json!({"p": node(class, json!({input: ["image", 0]}))}));
    }
    an_owner_may(json!({"p": node("PreviewAny", json!({"source": ["k", 0]})), "k": euler()}));
}

/// `count` nodes, each of which takes what the one before gives at both of its inputs; the first takes `from`.
fn doubling(count: usize, from: &Value, made: impl Fn(&Value) -> Value) -> Value {
    let mut nodes = json!({});
    let mut last = from.clone();
    for n in 1..=count {
        nodes[format!("d{n}")] = made(&last);
        last = json!([format!("d{n}"), 0]);
    }
    nodes
}

#[test]
fn k10_conditionings_that_are_joined_to_themselves() {
    let text = json!(["text", 0]);
    let concat = |last: &Value| node("ConditioningConcat", json!({"conditioning_to": last, "conditioning_from": last}));
    let combine = |last: &Value| node("ConditioningCombine", json!({"conditioning_1": last, "conditioning_2": last}));
    let pair = |last: &Value| {
        node(
            "PairConditioningCombine",
            json!({"positive_A": last, "negative_A": last, "positive_B": last, "negative_B": last}),
        )
    };
    for made in [&combine as &dyn Fn(&Value) -> Value, &pair] {
        an_owner_may(doubling(11, &text, made));
        refused_everywhere(doubling(12, &text, made), "d12", "conditioning_exceeded");
        refused_everywhere(doubling(150, &text, made), "d12", "conditioning_exceeded");
    }
    an_owner_may(doubling(6, &text, concat));
    refused_everywhere(doubling(7, &text, concat), "d7", "conditioning_exceeded");
    refused_everywhere(doubling(150, &text, concat), "d7", "conditioning_exceeded");
    // Through a switch, of whatever type it is.
    let mut nodes = doubling(8, &text, concat);
    nodes["sw"] = switch("d5", "d5", json!(true));
    nodes["d6"] = concat(&json!(["sw", 0]));
    refused_everywhere(nodes, "d7", "conditioning_exceeded");
    // Both at once: each of many becomes longer.
    let mut nodes = doubling(9, &text, combine);
    for (n, from) in (10..=12).map(|n| (n, json!([format!("d{}", n - 1), 0]))) {
        nodes[format!("d{n}")] = concat(&from);
    }
    refused_everywhere(nodes, "d12", "conditioning_exceeded");
    // A long text is longer than many short ones.
    let mut nodes = doubling(3, &json!(["long", 0]), concat);
    nodes["long"] = node("CLIPTextEncode", json!({"text": "word ".repeat(2400), "clip": ["model", 1]}));
    an_owner_may(nodes.clone());
    nodes["d4"] = concat(&json!(["d3", 0]));
    refused_everywhere(nodes, "d4", "conditioning_exceeded");
    // Or short ones that are padded.
    let padded = |count: usize| {
        let options = json!({"clip": ["model", 1], "min_padding": 0, "min_length": 10_000});
        let encoded = json!({"long": node("CLIPTextEncode", json!({"text": "a", "clip": ["o", 0]})), "o": node("T5TokenizerOptions", options)});
        with(doubling(count, &json!(["long", 0]), concat), encoded)
    };
    an_owner_may(padded(1));
    refused_everywhere(padded(2), "d2", "conditioning_exceeded");
    // As are the pictures that a style is taken from.
    let styled = |pictures: u32| {
        json!({
            "i": node("EmptyImage", json!({"width": 8, "height": 8, "batch_size": pictures, "color": 0})),
            "v": node("CLIPVisionLoader", json!({"clip_name": "v.safetensors"})),
            "e": node("CLIPVisionEncode", json!({"clip_vision": ["v", 0], "image": ["i", 0], "crop": "center"})),
            "m": node("StyleModelLoader", json!({"style_model_name": "s.safetensors"})),
            "y": node("StyleModelApply", json!({
                "conditioning": text, "style_model": ["m", 0], "clip_vision_output": ["e", 0], "strength": 0.5, "strength_type": "attn_bias",
            })),
        })
    };
    an_owner_may(styled(31));
    refused_everywhere(styled(32), "y", "conditioning_exceeded");
}

#[test]
fn k10_voxels_of_many_latents() {
    let decoded = |batch: u32, side: u32| {
        json!({
            "e": node("EmptyLatentHunyuan3Dv2", json!({"resolution": 3072, "batch_size": batch})),
            "v": node("VAEDecodeHunyuan3D", json!({"samples": ["e", 0], "vae": ["model", 2], "num_chunks": 8000, "octree_resolution": side})),
        })
    };
    // 513³ numbers each.
    an_owner_may(decoded(95, 512));
    refused_everywhere(decoded(96, 512), "v", "memory_exceeded");
    an_owner_may(decoded(96, 256));
}

#[test]
fn many_prompts_in_a_row_are_combined() {
    // Sixty regions, as pairs and one by one.
    let pairs = doubling(60, &json!(["text", 0]), |last| {
        node(
            "PairConditioningCombine",
            json!({"positive_A": last, "negative_A": ["text", 0], "positive_B": ["text", 0], "negative_B": ["text", 0]}),
        )
    });
    an_owner_may(pairs.clone());
    assert_eq!(denials(&shipped("default"), pairs), []);
    let one_by_one = doubling(60, &json!(["text", 0]), |last| {
        node("ConditioningCombine", json!({"conditioning_1": last, "conditioning_2": ["text", 0]}))
    });
    assert_eq!(denials(&shipped("default"), one_by_one), []);
    // What comes after a sampler holds none of them.
    let mut nodes = doubling(60, &json!(["text", 0]), |last| {
        node("ConditioningCombine", json!({"conditioning_1": last, "conditioning_2": ["text", 0]}))
    });
    nodes["s"] = sampler(json!({"positive": ["d60", 0]}));
    nodes = with(
        nodes,
        json!({"l0": node("LatentFlip", json!({"samples": ["s", 0], "flip_method": "x-axis: vertically"}))}),
    );
    for n in 1..=100 {
        nodes[format!("l{n}")] =
            node("LatentFlip", json!({"samples": [format!("l{}", n - 1), 0], "flip_method": "x-axis: vertically"}));
    }
    assert_eq!(denials(&shipped("default"), nodes), []);
    // ControlNets go on both lists alike, and join nothing.
    let controlled = doubling(60, &json!(["text", 0]), |last| {
        node(
            "ControlNetApplyAdvanced",
            json!({"positive": last, "negative": last, "control_net": ["cn", 0], "image": ["image", 0], "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}),
        )
    });
    let net = json!({"cn": node("ControlNetLoader", json!({"control_net_name": "cn.safetensors"}))});
    assert_eq!(denials(&open_policy(), with(controlled, net)), []);
}

#[test]
fn models_that_are_merged_with_themselves() {
    let merge = |class: &'static str, a: &'static str, b: &'static str| {
        move |last: &Value| node(class, json!({a: last, b: last, "ratio": 0.5}))
    };
    let subtract =
        |last: &Value| node("ModelMergeSubtract", json!({"model1": last, "model2": last, "multiplier": 0.5}));
    let of_models = merge("ModelMergeSimple", "model1", "model2");
    let of_texts = merge("CLIPMergeSimple", "clip1", "clip2");
    for (made, slot) in [(&of_models as &dyn Fn(&Value) -> Value, 0), (&of_texts, 1), (&subtract, 0)] {
        let from = json!(["model", slot]);
        an_owner_may(doubling(10, &from, made));
        refused_everywhere(doubling(11, &from, made), "d11", "merge_exceeded");
        refused_everywhere(doubling(150, &from, made), "d11", "merge_exceeded");
    }
    // One after the other is no doubling, nor are LoRAs.
    let loras = doubling(100, &json!(["model", 0]), |last| {
        node("LoraLoaderModelOnly", json!({"model": last, "lora_name": "style.safetensors", "strength_model": 1.0}))
    });
    an_owner_may(loras.clone());
    let row = doubling(30, &json!(["model", 0]), |last| {
        node("ModelMergeSimple", json!({"model1": last, "model2": ["model", 0], "ratio": 0.5}))
    });
    an_owner_may(row);
    // What is patched onto a model is merged with it.
    let mut nodes = loras;
    for (n, from) in (101..=106).map(|n| (n, json!([format!("d{}", n - 1), 0]))) {
        nodes[format!("d{n}")] = of_models(&from);
    }
    refused_everywhere(nodes, "d104", "merge_exceeded");
}

#[test]
fn k10_texts_whose_square_no_encoder_holds() {
    let encode = |class: &str, inputs: Value| json!({"t": node(class, with(inputs, json!({"clip": ["model", 1]})))});
    let text = |bytes: usize| "abc ".repeat(bytes / 4);
    an_owner_may(encode("CLIPTextEncode", json!({"text": text(12_288)})));
    assert_eq!(denials(&shipped("default"), encode("CLIPTextEncode", json!({"text": text(12_288)}))), []);
    refused_everywhere(encode("CLIPTextEncode", json!({"text": text(12_292)})), "t", "prompt_too_long");
    let flux = |t5: &str| encode("CLIPTextEncodeFlux", json!({"clip_l": "a", "t5xxl": t5, "guidance": 3.5}));
    an_owner_may(flux(&text(12_288)));
    refused_everywhere(flux(&text(100_000)), "t", "prompt_too_long");
    // By links.
    let linked = |count: usize| {
        let mut nodes = doubling(count, &json!(["start", 0]), |last| {
            node("StringConcatenate", json!({"string_a": last, "string_b": last, "delimiter": ""}))
        });
        nodes["start"] = node("PrimitiveString", json!({"value": text(96)}));
        with(nodes, encode("CLIPTextEncode", json!({"text": [format!("d{count}"), 0]})))
    };
    an_owner_may(linked(7));
    refused_everywhere(linked(8), "t", "prompt_too_long");
    // A bound that says too much is set right by the words themselves.
    let replaced = json!({
        "r": node("StringReplace", json!({"string": text(4000), "find": "z", "replace": text(200)})),
        "t": node("CLIPTextEncode", json!({"text": ["r", 0], "clip": ["model", 1]})),
    });
    an_owner_may(replaced);
}

#[test]
fn masks_that_are_grown_for_hours() {
    let grown = |count: usize, by: i64, films: u32| {
        let mut nodes = doubling(count, &json!(["m", 0]), |last| {
            node("GrowMask", json!({"mask": last, "expand": by, "tapered_corners": true}))
        });
        nodes["i"] = node("EmptyImage", json!({"width": 1024, "height": 1024, "batch_size": films, "color": 0}));
        nodes["m"] = node("ImageToMask", json!({"image": ["i", 0], "channel": "red"}));
        nodes
    };
    // 2²⁰ pixels in each of 16, by 1024 at each of 16 nodes.
    an_owner_may(grown(16, 1024, 16));
    assert_eq!(denials(&shipped("default"), grown(16, -1024, 16)), []);
    refused_everywhere(grown(17, 1024, 16), "d17", "repeats_exceeded");
    refused_everywhere(grown(17, -1024, 16), "d17", "repeats_exceeded");
    an_owner_may(grown(150, 30, 16));
}

#[test]
fn tracks_that_are_drawn_for_ever() {
    let drawn = |tracks: Value, nodes: Value| {
        let draw = json!({
            "images": ["image", 0], "tracks": tracks, "line_resolution": 24, "circle_size": 12, "opacity": 0.75, "line_width": 16,
        });
        with(nodes, json!({"v": node("WanMoveVisualizeTracks", draw)}))
    };
    let written = |text: Value| {
        drawn(json!(["t", 0]), json!({"t": node("WanMoveTracksFromCoords", json!({"track_coords": text}))}))
    };
    let places = |x: &str| format!(r#"[[{{"x":0,"y":0}},{{"x":{x},"y":0}}]]"#);
    let of_text =
        |x: &str| with(written(json!(["p", 0])), json!({"p": node("PrimitiveString", json!({"value": places(x)}))}));
    an_owner_may(of_text("4096"));
    assert_eq!(denials(&shipped("default"), of_text("4096")), []);
    // 2²⁸ points are 5,592,405 places, twice and in 24 pictures.
    an_owner_may(of_text("5592405"));
    for x in ["5592406", "1e15", "-1e15", "Infinity", "NaN", "1e400"] {
        refused_everywhere(of_text(x), "v", "tracks_exceeded");
    }
    let generated = |inputs: Value| {
        let all = json!({
            "width": 832, "height": 480, "start_x": 0.0, "start_y": 0.0, "end_x": 1.0, "end_y": 1.0, "num_frames": 81, "num_tracks": 5, "track_spread": 0.025,
            "bezier": false, "mid_x": 0.5, "mid_y": 0.5, "interpolation": "linear",
        });
        drawn(
            json!(["t", 0]),
            json!({
                "t": node("GenerateTracks", with(all, inputs)), "far": node("PrimitiveFloat", json!({"value": 1e12})), "near": node("PrimitiveFloat", json!({"value": 0.5})),
            }),
        )
    };
    an_owner_may(generated(json!({"end_x": ["near", 0]})));
    for name in ["start_x", "end_y", "mid_x", "track_spread"] {
        refused_everywhere(generated(json!({name: ["far", 0]})), "v", "tracks_exceeded");
    }
    // The same ones many times over.
    let mut nodes =
        doubling(20, &json!(["t", 0]), |last| node("WanMoveConcatTrack", json!({"tracks_1": last, "tracks_2": last})));
    nodes = with(generated(json!({})), nodes);
    nodes["v"]["inputs"]["tracks"] = json!(["d20", 0]);
    refused_everywhere(nodes, "v", "tracks_exceeded");
}
