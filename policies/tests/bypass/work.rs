//! Entries 57 to 64 and 67 to 69: work that adds up, memory, lists, unknown classes, patterns and caches.

use comfygate_policy::{Catalogue, OutputScope, Policy, Verdict, decide, parse};
use serde_json::{Value, json};

use super::{
    allowed, custom, denials, euler, files, node, prompt, refused, refused_always, refused_everywhere, sampler,
    shipped, strangers, switch, upstream, with,
};

#[test]
fn bypass_057_many_samplers_one_after_the_other() {
    let chain = |count: usize| {
        let mut nodes = json!({});
        for n in 0..count {
            let from = if n == 0 { json!(["empty", 0]) } else { json!([format!("s{}", n - 1), 0]) };
            nodes[format!("s{n}")] = sampler(json!({"steps": 100, "latent_image": from}));
        }
        nodes
    };
    allowed(chain(6));
    refused(chain(7), "", "steps_total_exceeded");
    // Side by side, not leading to any output, and of other classes.
    let mut beside = json!({});
    for n in 0..7 {
        beside[format!("s{n}")] = sampler(json!({"steps": 100}));
    }
    refused(beside, "", "steps_total_exceeded");
    let mixed = custom(
        node("KarrasScheduler", json!({"steps": 100, "sigma_max": 14.0, "sigma_min": 0.03, "rho": 7.0})),
        euler(),
    );
    refused(with(chain(6), mixed), "", "steps_total_exceeded");
    // A sampler that takes two looks at each step costs two.
    let doubled = |steps: u32| json!({"s": sampler(json!({"steps": steps, "sampler_name": "heun"}))});
    allowed(doubled(75));
    refused(doubled(151), "s", "cap_exceeded");
}

#[test]
fn bypass_057b_many_outputs() {
    let saves = |count: usize, class: &str| {
        let mut nodes = json!({});
        for n in 0..count {
            let inputs = if class == "SaveImage" {
                json!({"images": ["image", 0], "filename_prefix": "x"})
            } else {
                json!({"images": ["image", 0]})
            };
            nodes[format!("o{n}")] = node(class, inputs);
        }
        nodes
    };
    // `show` is one.
    allowed(saves(31, "SaveImage"));
    refused(saves(32, "SaveImage"), "", "too_many_outputs");
    refused(saves(32, "PreviewImage"), "", "too_many_outputs");
}

#[test]
fn bypass_058_chains_of_scaling() {
    let chain = |factor: f64| {
        json!({
            "a": node("LatentUpscaleBy", json!({"samples": ["empty", 0], "upscale_method": "area", "scale_by": factor})),
            "v": node("VAEDecode", json!({"samples": ["a", 0], "vae": ["model", 2]})),
            "b": node("ImageScaleBy", json!({"image": ["v", 0], "upscale_method": "area", "scale_by": 2.0})),
        })
    };
    allowed(chain(4.0));
    refused(chain(4.01), "b", "size_exceeded");
    let model = |width: u32| {
        json!({
            "u": node("UpscaleModelLoader", json!({"model_name": "x4.pth"})), "i": node("EmptyImage", json!({"width": width, "height": 64, "batch_size": 1, "color": 0})),
            "x": node("ImageUpscaleWithModel", json!({"upscale_model": ["u", 0], "image": ["i", 0]})),
        })
    };
    allowed(model(1024));
    refused(model(1100), "x", "size_exceeded");
    // A factor that comes by a link, and a growth that is no factor.
    let linked = with(
        chain(1.0),
        json!({
            "b": node("ImageScaleBy", json!({"image": ["v", 0], "upscale_method": "area", "scale_by": ["n", 0]})), "n": node("PrimitiveFloat", json!({"value": 8.01})),
        }),
    );
    let found = denials(&shipped("default"), linked);
    assert!(found.iter().any(|(node, _)| node == "b"), "{found:?}");
}

#[test]
fn bypass_058b_padding_and_total_pixels() {
    let pad = |left: u32| json!({"p": node("ImagePadForOutpaint", json!({"image": ["image", 0], "left": left, "top": 0, "right": 0, "bottom": 0, "feathering": 0}))});
    allowed(pad(4032));
    refused(pad(4033), "p", "size_exceeded");
    let total = |megapixels: f64| json!({"t": node("ImageScaleToTotalPixels", json!({"image": ["image", 0], "upscale_method": "area", "megapixels": megapixels, "resolution_steps": 1}))});
    allowed(total(1.0));
    let found = denials(&shipped("default"), total(16.1));
    assert!(found.iter().any(|(node, _)| node == "t"), "{found:?}");
}

#[test]
fn bypass_059_chains_of_batches() {
    let repeat = |amount: u32| {
        json!({
            "a": node("RepeatLatentBatch", json!({"samples": ["empty", 0], "amount": 4})), "b": node("RepeatLatentBatch", json!({"samples": ["a", 0], "amount": amount})),
        })
    };
    allowed(repeat(4));
    refused(repeat(5), "b", "size_exceeded");
    let double = |class: &str, from: &str, inputs: [&str; 2], count: usize| {
        let mut nodes = json!({});
        for n in 0..count {
            let from = if n == 0 { json!([from, 0]) } else { json!([format!("d{}", n - 1), 0]) };
            nodes[format!("d{n}")] = node(class, json!({inputs[0]: from, inputs[1]: from}));
        }
        nodes
    };
    for (class, from, inputs) in [
        ("LatentBatch", "empty", ["samples1", "samples2"]),
        ("ImageBatch", "image", ["image1", "image2"]),
        ("BatchImagesNode", "image", ["images.image0", "images.image1"]),
    ] {
        allowed(double(class, from, inputs, 4));
        refused(double(class, from, inputs, 5), "d4", "size_exceeded");
        assert!(!denials(&shipped("default"), double(class, from, inputs, 30)).is_empty());
        assert!(!denials(&shipped("default"), double(class, from, inputs, 150)).is_empty());
    }
}

#[test]
fn bypass_060_memory_bombs_in_one_node() {
    let image = |width: u32, height: u32, batch: u32| json!({"x": node("EmptyImage", json!({"width": width, "height": height, "batch_size": batch, "color": 0}))});
    refused(image(16384, 16384, 4096), "x", "cap_exceeded");
    refused_everywhere(image(16384, 16384, 4096), "x", "memory_exceeded");
    let latent = |batch: u32| json!({"x": node("EmptyLatentImage", json!({"width": 4096, "height": 4096, "batch_size": batch}))});
    refused(latent(17), "x", "cap_exceeded");
    allowed(latent(16));
    let audio = |seconds: f64| json!({"x": node("EmptyAudio", json!({"duration": seconds, "sample_rate": 44100, "channels": 2}))});
    for seconds in [1e18, 1e300] {
        refused(audio(seconds), "x", "cap_exceeded");
        refused_everywhere(
            json!({"x": node("EmptyAudio", json!({"duration": ["n", 0], "sample_rate": 44100, "channels": 2})), "n": node("PrimitiveFloat", json!({"value": 1e18}))}),
            "x",
            "memory_exceeded",
        );
    }
}

#[test]
fn bypass_060b_texts_that_double() {
    let double = |count: usize| {
        let mut nodes = json!({"d0": node("PrimitiveString", json!({"value": "x".repeat(1024)}))});
        for n in 1..=count {
            let from = json!([format!("d{}", n - 1), 0]);
            nodes[format!("d{n}")] =
                node("StringConcatenate", json!({"string_a": from, "string_b": from, "delimiter": ""}));
        }
        nodes
    };
    allowed(double(10));
    refused(double(11), "d11", "text_exceeded");
    refused(double(199), "d199", "text_exceeded");
    let replace = |length: usize| {
        let inputs = json!({"string": "a".repeat(1023), "find": "", "replace": "b".repeat(length)});
        json!({"r": node("StringReplace", inputs)})
    };
    // 1023 characters, and 1024 places between and around them.
    allowed(replace(1023));
    refused(replace(1024), "r", "text_exceeded");
    let inputs = json!({"string": "a".repeat(1000), "find": "a".repeat(100), "replace": "b".repeat(100_000)});
    allowed(json!({"r": node("StringReplace", inputs)}));
    // Delimiters grow too, and a find that comes by a link may be empty.
    let mut delimited = double(1);
    delimited["d1"]["inputs"]["delimiter"] = json!("y".repeat(130_000));
    for n in 2..=8 {
        let from = json!([format!("d{}", n - 1), 0]);
        delimited[format!("d{n}")] =
            node("StringConcatenate", json!({"string_a": from, "string_b": from, "delimiter": from}));
    }
    assert!(denials(&shipped("default"), delimited).iter().any(|(_, code)| *code == "text_exceeded"));
    let linked = json!({
        "f": node("PrimitiveString", json!({"value": ""})),
        "r": node("StringReplace", json!({"string": "a".repeat(2000), "find": ["f", 0], "replace": "b".repeat(2000)})),
    });
    refused(linked, "r", "text_exceeded");
}

#[test]
fn bypass_060e_texts_that_are_known_word_for_word_are_as_long_as_they_are() {
    let template = format!("{{a}} {}", "x".repeat(3000));
    let filled = |find: &str, length: usize| {
        json!({
            "t": node("PrimitiveStringMultiline", json!({"value": template})),
            "u": node("PrimitiveString", json!({"value": "b".repeat(length)})),
            "r": node("StringReplace", json!({"string": ["t", 0], "find": find, "replace": ["u", 0]})),
            "s": node("StringReplace", json!({"string": ["r", 0], "find": "{b}", "replace": ["u", 0]})),
        })
    };
    // Once at most, where the lengths alone would say a thousand times.
    allowed(filled("{a}", 100_000));
    // "x" is there 3000 times.
    refused(filled("x", 100_000), "r", "text_exceeded");
    allowed(filled("x", 20));
    let twice = |length: usize| {
        with(
            filled("{a}", length),
            json!({"d": node("StringConcatenate", json!({"string_a": ["s", 0], "string_b": ["s", 0], "delimiter": ""}))}),
        )
    };
    allowed(twice(120_000));
    // The same from an object in a text, by a key that is written elsewhere.
    let picked = |key: &str| {
        let object = json!({"a": format!("{{u}}{}", "y".repeat(30_000)), "b": 1e9}).to_string();
        json!({
            "c": node("CustomCombo", json!({"choice": key})),
            "j": node("JsonExtractString", json!({"json_string": object, "key": ["c", 0]})),
            "r": node("StringReplace", json!({"string": ["j", 0], "find": "{u}", "replace": "b".repeat(100)})),
            "s": node("StringReplace", json!({"string": ["r", 0], "find": "{v}", "replace": "b".repeat(100)})),
        })
    };
    let policy = super::steps_policy();
    assert_eq!(denials(&policy, picked("a")), []);
    // How Python prints a number is not followed.
    assert!(denials(&policy, picked("b")).contains(&("s".to_owned(), "text_exceeded")));
}

#[test]
fn bypass_060i_one_long_text_that_many_nodes_read() {
    // 1.9 MB of a small body. Each text is read once a rule (`a_text_is_read_once_however_many_nodes_take_it_and_each_is_told`), and each reader is told.
    let fan = |part: &str, class: &str, input: &str, readers: usize| {
        let mut nodes = json!({"s0": node("PrimitiveString", json!({"value": part.repeat(120_000 / part.len())})), "k": node("KSamplerSelect", json!({"sampler_name": "dpmpp_sde"}))});
        for n in 0..4 {
            let from = json!([format!("s{n}"), 0]);
            nodes[format!("s{}", n + 1)] =
                node("StringConcatenate", json!({"string_a": from, "string_b": from, "delimiter": ""}));
        }
        for n in 0..readers {
            let mut inputs = json!({input: ["s4", 0]});
            if class == "CLIPTextEncode" {
                inputs["clip"] = json!(["model", 1]);
            }
            nodes[format!("m{n}")] = node(class, inputs);
        }
        nodes
    };
    let told = |policy: &Policy, nodes: Value, code: &str| {
        let mut ids: Vec<String> =
            denials(policy, nodes).into_iter().filter(|(_, found)| *found == code).map(|(id, _)| id).collect();
        ids.sort();
        ids.dedup();
        ids.len()
    };
    for readers in [1, 400] {
        let sigmas = fan("1 ", "ManualSigmas", "sigmas", readers);
        assert_eq!(told(&super::open_policy(), sigmas.clone(), "schedule_refused"), readers);
        assert_eq!(told(&super::open_policy(), sigmas, "regex_refused"), readers);
        let document = |word: &str| format!("name = \"x\"\n[classes]\nallow = [\"*\"]\n[texts]\ndeny = [\"{word}\"]\n");
        let prompts = || fan("cat ", "CLIPTextEncode", "text", readers);
        assert_eq!(told(&Policy::from_toml(&document("cat cat")).unwrap(), prompts(), "text_denied"), readers);
        assert_eq!(told(&Policy::from_toml(&document("dog")).unwrap(), prompts(), "text_denied"), 0);
    }
}

#[test]
fn bypass_060j_a_model_s_name_by_a_link_has_the_length_of_a_path() {
    let document = "name = \"x\"\n[classes]\nallow = [\"*\"]\n[[models]]\ninput = \"ckpt_name\"\nallow = [\"*\"]\n";
    let policy = Policy::from_toml(document).unwrap();
    let refused = |bytes: usize| {
        let nodes = json!({
            "n": node("PrimitiveString", json!({"value": "a".repeat(bytes)})),
            "m": node("CheckpointLoaderSimple", json!({"ckpt_name": ["n", 0]})),
        });
        denials(&policy, nodes).contains(&("m".to_owned(), "model_unknown"))
    };
    assert!(!refused(4096));
    assert!(refused(4097));
}

#[test]
fn bypass_060f_a_plain_pattern_is_found_as_often_as_it_fits() {
    let policy = super::steps_policy();
    let allowed = |nodes: Value| assert_eq!(denials(&policy, nodes), []);
    let refused = |nodes: Value| assert_eq!(denials(&policy, nodes), [("r".to_owned(), "text_exceeded")]);
    let replaced = |pattern: &str, length: usize, count: i64| json!({"r": node("RegexReplace", json!({"string": "x".repeat(2000), "regex_pattern": pattern, "replace": "b".repeat(length), "count": count}))});
    // 2000 / 4 places, and 1 MiB.
    allowed(replaced("xxxx", 2090, 0));
    refused(replaced("xxxx", 2100, 0));
    refused(replaced("xxx.", 2090, 0));
    allowed(replaced("xxx.", 100_000, 10));
    refused(replaced("xxx.", 110_000, 10));
    // Groups are parts of the match: all of them together are no longer than the text.
    let grouped = |groups: usize| json!({"r": node("RegexReplace", json!({"string": "x".repeat(2000), "regex_pattern": "(x)", "replace": r"\1".repeat(groups)}))});
    allowed(grouped(170));
    refused(grouped(180));
}

#[test]
fn bypass_060g_numbers_as_texts_have_their_digits_only() {
    let shown = |source: Value| {
        json!({
            "n": node("PreviewAny", json!({"source": source})),
            "i": node("PrimitiveInt", json!({"value": 1024})),
            "r": node("StringReplace", json!({"string": "w".repeat(100_000), "find": "w", "replace": ["n", 0]})),
        })
    };
    for source in [json!(1024), json!(["i", 0]), json!(true), json!("123456789")] {
        allowed(shown(source));
    }
    refused(shown(json!("12345678901")), "r", "text_exceeded");
    // What a list or a model looks like in a text is not known.
    for source in [json!(["model", 0]), json!(["text", 0])] {
        refused(shown(source), "r", "text_unbounded");
    }
}

#[test]
fn bypass_060h_tracks_are_counted_where_they_are_written() {
    let tracked = |tracks: Value, texts: &str| {
        json!({
            "t": node("PrimitiveStringMultiline", json!({"value": texts})),
            "v": node("VAELoader", json!({"vae_name": "x.safetensors"})),
            "w": node("WanTrackToVideo", json!({"positive": ["text", 0], "negative": ["text", 0], "vae": ["v", 0], "tracks": tracks, "width": 512, "height": 512,
                "length": 81, "batch_size": 1, "temperature": 220.0, "topk": 2, "start_image": ["image", 0]})),
        })
    };
    let open = Policy::from_toml("name = \"x\"\n[classes]\nallow = [\"*\"]\n[caps]\nmegapixels_total = 64\n").unwrap();
    let track = |points: usize| format!("[[{}]]", vec![r#"{"x": 1, "y": 1}"#; points].join(","));
    let many = format!("[{}]", vec![r#"[{"x": 1, "y": 1}]"#; 100].join(","));
    // One track of many points is one track, by whatever way it comes.
    for tracks in [json!(track(500)), json!(["t", 0])] {
        assert_eq!(denials(&open, tracked(tracks, &track(500))), []);
    }
    for tracks in [json!(many), json!(["t", 0])] {
        let found = denials(&open, tracked(tracks, &many));
        assert!(found.contains(&("w".to_owned(), "size_exceeded")), "{found:?}");
    }
}

#[test]
fn bypass_060c_texts_that_double_in_other_classes() {
    for (class, text, added) in [
        ("AddTextPrefix", "texts", "prefix"),
        ("AddTextSuffix", "texts", "suffix"),
        ("ReplaceText", "texts", "replace"),
    ] {
        let double = |count: usize| {
            let mut nodes = json!({"d0": node("PrimitiveString", json!({"value": "x".repeat(1024)}))});
            for n in 1..=count {
                let from = json!([format!("d{}", n - 1), 0]);
                let inputs = json!({text: from, added: from});
                nodes[format!("d{n}")] =
                    node(class, if class == "ReplaceText" { with(inputs, json!({"find": ""})) } else { inputs });
            }
            nodes
        };
        let found =
            |count: usize| denials(&shipped("owner"), double(count)).iter().any(|(_, code)| *code == "text_exceeded");
        assert!(found(15) && found(100), "{class}");
        assert!(!found(1), "{class}");
    }
    let cases = json!({"u0": node("PrimitiveString", json!({"value": "x".repeat(100_000)}))});
    let cased = |count: usize| {
        let mut nodes = cases.clone();
        for n in 1..=count {
            nodes[format!("u{n}")] = node("TextToUppercase", json!({"texts": [format!("u{}", n - 1), 0]}));
        }
        nodes
    };
    refused_everywhere(cased(5), "u5", "text_exceeded");
    assert_eq!(denials(&shipped("owner"), cased(4)), []);
}

#[test]
fn bypass_060d_texts_that_double_in_classes_that_nobody_knows() {
    let double = |count: usize, class: &str| {
        let mut nodes = json!({"d0": node("PrimitiveString", json!({"value": "x".repeat(1024)}))});
        for n in 1..=count {
            let from = json!([format!("d{}", n - 1), 0]);
            nodes[format!("d{n}")] = node(class, json!({"a": from, "b": from}));
        }
        nodes
    };
    let owner = shipped("owner");
    assert_eq!(denials(&owner, double(11, "SomePacksConcat")), []);
    let found = denials(&owner, double(12, "SomePacksConcat"));
    assert_eq!(found, [("d12".to_owned(), "text_exceeded")]);
    assert_eq!(denials(&owner, double(150, "SomePacksConcat")), [("d12".to_owned(), "text_exceeded")]);
    // Nor is it lost on the way through a switch.
    let mut switched = double(20, "SomePacksConcat");
    for n in 1..=20 {
        switched[format!("w{n}")] = switch(&format!("d{}", n - 1), &format!("d{}", n - 1), json!(true));
        switched[format!("d{n}")]["inputs"] = json!({"a": [format!("w{n}"), 0], "b": [format!("w{n}"), 0]});
    }
    assert!(denials(&owner, switched).iter().any(|(_, code)| *code == "text_exceeded"));
}

#[test]
fn bypass_061_files_that_unfold() {
    for file in ["bomb.png", "film.gif"] {
        refused(json!({"f": node("LoadImage", json!({"image": file}))}), "f", "size_exceeded");
        refused(json!({"f": node("LoadImage", json!({"image": format!("{file} [input]")}))}), "f", "size_exceeded");
        refused(json!({"f": node("LoadImageMask", json!({"image": file, "channel": "red"}))}), "f", "size_exceeded");
    }
    refused(json!({"f": node("LoadLatent", json!({"latent": "x.latent"}))}), "f", "class_denied");
    allowed(json!({"f": node("LoadImage", json!({"image": "me.png"}))}));
}

#[test]
fn bypass_062_list_outputs() {
    let policy = Policy::from_toml("name = \"x\"\n[classes]\nallow = [\"*\"]\n[caps]\nsteps_total = 100\n").unwrap();
    let folder = json!({"r": node("LoadImageDataSetFromFolder", json!({"folder": "x"}))});
    assert!(denials(&policy, folder).contains(&("r".to_owned(), "list_output")));
    // Each item of a list is sampled on its own.
    let listed = |amount: u32| {
        json!({
            "m": node("RepeatLatentBatch", json!({"samples": ["empty", 0], "amount": amount})),
            "r": node("RebatchLatents", json!({"latents": ["m", 0], "batch_size": 1})),
            "s": sampler(json!({"latent_image": ["r", 0], "steps": 20})),
        })
    };
    assert!(denials(&policy, listed(64)).iter().any(|(_, code)| *code == "steps_total_exceeded"));
    assert!(denials(&policy, listed(6)).iter().any(|(_, code)| *code == "steps_total_exceeded"));
    assert_eq!(denials(&policy, listed(5)), []);
    // Through what merely passes a list on, too.
    let mut passed = listed(6);
    passed["w"] = super::switch("r", "r", json!(true));
    passed["s"]["inputs"]["latent_image"] = json!(["w", 0]);
    assert!(!denials(&policy, passed).is_empty());
}

#[test]
fn bypass_063_loops_and_classes_that_become_others_while_they_run() {
    // Classes of a later release's loops are either not known, or described and refused; a pack that gives back a graph says so in its annotation.
    for class in ["StartLoop", "EndLoop", "ForLoopStart", "WhileLoopOpen"] {
        for policy in strangers() {
            let found =
                denials(&policy, json!({"x": node(class, json!({"mode": "For", "mode.max_iteration": 1_000_000}))}));
            let codes = ["class_unknown", "class_denied", "class_not_allowed", "class_closed"];
            assert!(found.iter().any(|(node, code)| node == "x" && codes.contains(code)), "{class}: {found:?}");
        }
    }
    let expands = |text: &str| Policy::from_toml(&format!("name = \"x\"\n[classes]\nallow = [\"*\"]\n{text}")).unwrap();
    let pack = json!({"Unroll": {"input": {"required": {"count": ["INT", {"min": 0, "max": 9}]}}, "output": ["IMAGE"], "output_is_list": [false],
        "output_node": true, "python_module": "custom_nodes.unroll"}});
    let catalogue = Catalogue::from_object_info(pack.to_string().as_bytes()).unwrap();
    let parsed = parse(json!({"prompt": {"1": node("Unroll", json!({"count": 3}))}}).to_string().as_bytes()).unwrap();
    let allows = |policy: &Policy| matches!(decide(&parsed, policy, &catalogue, &files()), Verdict::Allow(_));
    assert!(allows(&expands("")), "as far as anybody knows it does what it says");
    let annotated = expands("[annotations.Unroll]\nreturns_expand = true\n");
    assert!(!allows(&annotated), "whatever it becomes has not been looked at");
    // No list of classes allows it, nor does shadow mode; an owner's packs are trusted.
    let shadow =
        Policy::from_toml("name = \"x\"\nmode = \"shadow\"\n[annotations.Unroll]\nreturns_expand = true\n").unwrap();
    assert!(!allows(&shadow));
    let owner = Policy::from_toml(
        "name = \"x\"\nposture = \"owner\"\n[classes]\nallow = [\"*\"]\n[annotations.Unroll]\nreturns_expand = true\n",
    )
    .unwrap();
    assert!(allows(&owner));
}

#[test]
fn bypass_064_classes_that_are_not_in_the_catalogue() {
    for class in [
        "NoSuchClass",
        "OldNameWithReplacement",
        "ksampler",
        "KSampler ",
        " KSampler",
        "КSampler",
        "KSampler\u{200b}",
        "__class__",
        "ＫSampler",
    ] {
        refused_always(json!({"x": node(class, json!({}))}), "x", "class_unknown");
        // Beside other things that are invalid, and with inputs of its own.
        let nodes = json!({"x": node(class, json!({"a": 1, "b": ["image", 0]})), "s": sampler(json!({"steps": "1"}))});
        refused_always(nodes, "x", "class_unknown");
    }
    // An owner's packs are trusted where nobody knows what is installed; what they give is still not shown as it is.
    let shown = json!({"x": node("NoSuchClass", json!({})), "p": node("Preview3D", json!({"model_file": ["x", 0]}))});
    for policy in super::all_policies() {
        assert!(!super::denials_or_left_out(&policy, shown.clone()).is_empty(), "{}", policy.name());
    }
    let found = denials(&shipped("owner"), shown);
    assert!(found.contains(&("p".to_owned(), "type_unknown")), "{found:?}");
}

#[test]
fn bypass_067_an_object_through_a_switch_into_a_string() {
    let nodes = |from: Value| {
        json!({
            "k": euler(), "w": switch("k", "k", json!(true)), "v": switch("w", "w", json!(["yes", 0])),
            "yes": node("PrimitiveBoolean", json!({"value": true})), "p": node("Preview3D", json!({ "model_file": from })),
        })
    };
    refused(nodes(json!(["w", 0])), "p", "class_denied");
    // By one switch, by two, from a model, and past the place for it.
    for from in [json!(["w", 0]), json!(["v", 0]), json!(["model", 0]), json!(["k", 0])] {
        refused_everywhere(nodes(from), "p", "type_unknown");
    }
    let mut camera = nodes(json!("x.glb"));
    camera["p"]["inputs"] = json!({"model_file": "x.glb", "camera_info": ["w", 0]});
    refused_everywhere(camera, "p", "type_unknown");
    // A text is what it is for; which files it may name is another rule.
    let good =
        json!({"p": node("PreviewAny", json!({"source": ["w", 0]})), "k": euler(), "w": switch("k", "k", json!(true))});
    allowed(good);
}

#[test]
fn bypass_068_regular_expressions_of_the_caller_s() {
    let replace = |pattern: &str, text: &str| json!({"r": node("RegexReplace", json!({"string": text, "regex_pattern": pattern, "replace": ""}))});
    for pattern in ["(a+)+$", "(a|a)*b", "(.*)*x", "((a?)*)*", "^(([a-z])+.)+$", "(?=a)b", r"(a)\1", "(?i)(a+)+$"] {
        refused_everywhere(replace(pattern, &"a".repeat(1000)), "r", "regex_refused");
        let by_class = json!({
            "m": node("RegexMatch", json!({"string": "a".repeat(1000), "regex_pattern": pattern, "case_insensitive": true, "multiline": false, "dotall": false})),
        });
        refused_everywhere(by_class, "m", "regex_refused");
    }
    // A square is taken on a short text only.
    refused_everywhere(replace(r"\s+x", &" ".repeat(100_000)), "r", "regex_refused");
    let policy = super::open_policy();
    assert_eq!(denials(&policy, replace(r"\s+x", &" ".repeat(2000))), []);
    assert_eq!(denials(&policy, replace("cat|dog", &"x".repeat(100_000))), []);
    // Patterns by a link, and texts of unknown length.
    let mut linked = replace("", "aaa");
    linked["r"]["inputs"]["regex_pattern"] = json!(["p", 0]);
    linked["p"] = node("PrimitiveString", json!({"value": "(a+)+$"}));
    refused_everywhere(linked, "r", "regex_refused");
}

#[test]
fn bypass_068b_what_a_pattern_puts_in_may_grow_as_well() {
    let mut nodes = json!({"r0": node("PrimitiveString", json!({"value": "x".repeat(1000)}))});
    for n in 1..=4 {
        let inputs = json!({"string": [format!("r{}", n - 1), 0], "regex_pattern": "x", "replace": "x".repeat(1000)});
        nodes[format!("r{n}")] = node("RegexReplace", inputs);
    }
    refused_everywhere(nodes, "r4", "text_exceeded");
    let doubling = json!({"r": node("RegexReplace", json!({"string": "x".repeat(5000), "regex_pattern": "x", "replace": r"\g<0>".repeat(1000)}))});
    refused_everywhere(doubling, "r", "text_exceeded");
}

#[test]
fn bypass_069_another_owner_s_cache() {
    let parsed = parse(json!({"prompt": prompt(json!({}))}).to_string().as_bytes()).unwrap();
    let Verdict::Allow(approved) = decide(&parsed, &shipped("default"), Catalogue::builtin(), &files()) else {
        panic!()
    };
    let body = |salt: &str| approved.upstream_body(&OutputScope::new("t/q/j-1", "p", "c", salt).unwrap());
    assert_ne!(body("a"), body("b"));
    // Every node that is no pure model loader has it.
    let sent: Value = serde_json::from_slice(&body("a")).unwrap();
    for (id, node) in sent["prompt"].as_object().unwrap() {
        let salt = node["inputs"].get("comfygate_salt");
        assert_eq!(salt.is_some(), id != "model", "{id}");
    }
}

#[test]
fn bypass_069b_a_salt_of_another_s_is_never_passed_on() {
    // A saved picture carries the salt of whoever made it.
    let salted =
        |salt: Value| json!({"show": node("PreviewImage", json!({"images": ["image", 0], "comfygate_salt": salt}))});
    let sent = upstream(&json!({"prompt": prompt(salted(json!("salt-b")))}));
    assert_eq!(sent["prompt"]["show"]["inputs"]["comfygate_salt"], "salt-a");
    let on_a_loader = json!({"model": node("CheckpointLoaderSimple", json!({"ckpt_name": "sd.safetensors", "comfygate_salt": "salt-b"}))});
    let sent = upstream(&json!({"prompt": prompt(on_a_loader)}));
    assert_eq!(sent["prompt"]["model"]["inputs"].get("comfygate_salt"), None);
    for salt in [
        json!(""),
        json!("a b"),
        json!(1),
        json!(["image", 0]),
        json!({"a": "b"}),
        json!("x".repeat(201)),
        json!(null),
        json!("é"),
    ] {
        refused_always(salted(salt.clone()), "show", "reserved_input");
        refused_everywhere(salted(salt), "show", "reserved_input");
    }
}

/// The same steps with the positive prompt of `conditioning` and the model of `model`.
fn sampled_with(conditioning: Value, model: Value, nodes: Value) -> Value {
    with(nodes, json!({"s": sampler(json!({"positive": conditioning, "model": model}))}))
}

#[test]
fn bypass_057c_one_step_of_many_passes() {
    let chain = |count: usize, first: Value, made: &dyn Fn(Value) -> Value| {
        let (mut nodes, mut last) = (json!({}), first);
        for n in 1..=count {
            nodes[format!("d{n}")] = made(last);
            last = json!([format!("d{n}"), 0]);
        }
        (nodes, last)
    };
    let check = |nodes: Value, allowed: bool| {
        for policy in [shipped("default"), shipped("generous")] {
            let found = denials(&policy, nodes.clone());
            let told = found.iter().any(|(node, code)| node == "s" && *code == "passes_exceeded");
            assert!(told != allowed && (told || found.is_empty()), "{}: {found:?}", policy.name());
        }
    };
    let model = || json!(["model", 0]);
    // 63 in the one list, and one in the other.
    let combined = |count: usize| {
        let (nodes, last) = chain(count, json!(["text", 0]), &|last| {
            node("ConditioningCombine", json!({"conditioning_1": last, "conditioning_2": ["text", 0]}))
        });
        sampled_with(last, model(), nodes)
    };
    check(combined(62), true);
    check(combined(63), false);
    // Each patch evaluates both.
    let patched = |count: usize| {
        let (nodes, last) =
            chain(count, model(), &|last| node("PerturbedAttentionGuidance", json!({"model": last, "scale": 3.0})));
        sampled_with(json!(["text", 0]), last, nodes)
    };
    check(patched(31), true);
    check(patched(32), false);
    let controlled = |count: usize| {
        let (mut nodes, last) = chain(count, json!(["text", 0]), &|last| {
            node(
                "ControlNetApply",
                json!({"conditioning": last, "control_net": ["cn", 0], "image": ["image", 0], "strength": 1.0}),
            )
        });
        nodes["cn"] = node("ControlNetLoader", json!({"control_net_name": "cn.safetensors"}));
        sampled_with(last, model(), nodes)
    };
    check(controlled(125), true);
    check(controlled(126), false);
}
