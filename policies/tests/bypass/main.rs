//! The bypass catalogue: one test for each known way around a filter in front of ComfyUI, named by its number there. Encodings and routes are tested with the proxy; here are those that
//! the engine answers. Each test has the nearest request that is good beside the one that is not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
use comfygate_policy::{
    Catalogue, Directory, FileFact, FileFacts, NODES_MAX, OutputScope, PROMPT_STRING_BYTES_MAX, Policy, Verdict,
    Violation, Violations, decide, parse,
};
use serde_json::{Value, json};

/// A graph of model-free nodes around what a test adds.
fn prompt(nodes: Value) -> Value {
    let mut all = json!({
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "image": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["model", 1]}},
    });
    let members = all.as_object_mut().unwrap();
    members.extend(nodes.as_object().unwrap().clone());
    all
}

fn sampler(changes: Value) -> Value {
    let mut inputs = json!({
        "model": ["model", 0], "seed": 1, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal",
        "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0], "denoise": 1.0,
    });
    inputs.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json!({"class_type": "KSampler", "inputs": inputs})
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

/// A file of the caller's own, 512 × 512, and one that is a bomb.
fn files() -> FileFacts {
    let mut files = FileFacts::none();
    let fact = |name: &str, side: u32, frames: u32| FileFact {
        canonical_name: name.into(),
        width: side,
        height: side,
        frames,
    };
    files.insert("me.png", Directory::Input, fact("t/a/1.png", 512, 1));
    files.insert("mine.png", Directory::Output, fact("t/a/2.png [output]", 512, 1));
    files.insert("bomb.png", Directory::Input, fact("t/a/3.png", 60_000, 1));
    files.insert("film.gif", Directory::Input, fact("t/a/4.gif", 64, 10_000));
    files
}

fn verdict_under(policy: &Policy, body: &Value) -> Verdict {
    let parsed = parse(body.to_string().as_bytes()).expect("parses");
    decide(&parsed, policy, Catalogue::builtin(), &files())
}

fn open_policy() -> Policy {
    Policy::from_toml("name = \"open\"\n[classes]\nallow = [\"*\"]\n").unwrap()
}

fn told(violations: &Violations) -> Vec<(String, &'static str)> {
    let node = |violation: &Violation| violation.node.as_ref().map(ToString::to_string).unwrap_or_default();
    violations.iter().map(|violation| (node(violation), violation.code)).collect()
}

fn denials(policy: &Policy, nodes: Value) -> Vec<(String, &'static str)> {
    match verdict_under(policy, &json!({"prompt": prompt(nodes)})) {
        // What is invalid is left out, and what is left runs.
        Verdict::Allow(approved) => approved.pruned().map(told).unwrap_or_default(),
        Verdict::Deny(violations) => told(&violations),
    }
}

#[track_caller]
fn assert_allowed(nodes: Value) {
    assert_eq!(denials(&Policy::builtin("default").unwrap(), nodes), []);
}

/// Refused under the shipped policy, at that node, with that code.
#[track_caller]
fn assert_refused(nodes: Value, at: &str, code: &str) {
    let found = denials(&Policy::builtin("default").unwrap(), nodes);
    assert!(found.iter().any(|(node, known)| node == at && *known == code), "wanted {code} at {at:?}, found {found:?}");
}

/// Refused under every policy: not even one that allows all classes and caps nothing lets it pass.
#[track_caller]
fn assert_refused_always(nodes: Value, at: &str, code: &str) {
    let found = denials(&open_policy(), nodes.clone());
    assert!(found.iter().any(|(node, known)| node == at && *known == code), "wanted {code} at {at:?}, found {found:?}");
    assert_refused(nodes, at, code);
}

#[track_caller]
fn assert_unparsable(body: &str, code: &str) {
    assert_eq!(parse(body.as_bytes()).map(|_| ()).unwrap_err().code(), code);
}

fn raw(inputs: &str) -> String {
    format!(
        r#"{{"prompt":{{"4":{{"class_type":"A","inputs":{{}}}},"5":{{"class_type":"KSampler","inputs":{inputs}}}}}}}"#
    )
}

/// What is sent for an allowed body.
fn upstream(body: &Value) -> Value {
    let Verdict::Allow(approved) = verdict_under(&Policy::builtin("default").unwrap(), body) else { panic!("refused") };
    let scope = OutputScope::new("t/q/j-1", "our-prompt", "our-client", "salt-a").unwrap();
    serde_json::from_slice(&approved.upstream_body(&scope)).unwrap()
}

#[test]
fn bypass_000_the_plain_graph_passes() {
    assert_allowed(json!({"s": sampler(json!({}))}));
}

#[test]
fn bypass_004_duplicate_keys() {
    assert_unparsable(r#"{"client_id":"mine","client_id":"victim","prompt":{}}"#, "duplicate_key");
    assert_unparsable(&raw(r#"{"steps":1,"st\u0065ps":10000}"#), "duplicate_key");
}

#[test]
fn bypass_005_numbers_that_are_not_finite() {
    for number in ["NaN", "Infinity", "1e400"] {
        assert_unparsable(&raw(&format!(r#"{{"cfg":{number}}}"#)), "not_finite");
    }
    assert_unparsable(&raw(r#"{"cfg":-Infinity}"#), "invalid_json");
}

#[test]
fn bypass_006_integers_of_thousands_of_digits() {
    assert_unparsable(&raw(&format!(r#"{{"seed":{}}}"#, "9".repeat(4301))), "number_too_long");
    assert_unparsable(&raw(&format!(r#"{{"seed":{}}}"#, "9".repeat(30))), "integer_out_of_range");
}

#[test]
fn bypass_007_lone_surrogates() {
    assert_unparsable(&raw(r#"{"text":"\ud800"}"#), "lone_surrogate");
    assert_unparsable(&raw(r#"{"\udfff":1}"#), "lone_surrogate");
}

#[test]
fn bypass_008_deep_nesting() {
    assert_unparsable(&raw(&format!(r#"{{"x":{}1{}}}"#, "[".repeat(500), "]".repeat(500))), "too_deep");
    let deep = format!(
        r#"{{"extra_data":{{"extra_pnginfo":{{"workflow":{}1{}}}}},"prompt":{{}}}}"#,
        "[".repeat(900),
        "]".repeat(900)
    );
    assert_unparsable(&deep, "too_deep");
}

#[test]
fn bypass_009_byte_order_mark() {
    assert_unparsable(&format!("\u{feff}{}", raw("{}")), "byte_order_mark");
}

#[test]
fn bypass_013_a_body_of_too_many_nodes_or_too_long_strings() {
    let nodes: serde_json::Map<String, Value> =
        (0..=NODES_MAX).map(|n| (n.to_string(), node("A", json!({})))).collect();
    assert_unparsable(&json!({ "prompt": nodes }).to_string(), "too_many_nodes");
    let text = |bytes: usize| raw(&format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes)));
    assert!(parse(text(PROMPT_STRING_BYTES_MAX).as_bytes()).is_ok());
    assert_unparsable(&text(PROMPT_STRING_BYTES_MAX + 1), "string_too_long");
}

#[test]
fn bypass_023_a_foreign_prompt_id_does_not_go_upstream() {
    let body = upstream(&json!({"prompt": prompt(json!({})), "prompt_id": "theirs"}));
    assert_eq!(body["prompt_id"], "our-prompt");
    assert!(!body.to_string().contains("theirs"));
}

#[test]
fn bypass_024_a_prompt_id_of_another_type_or_size() {
    for (id, code) in
        [(json!({"a": 1}), "invalid_type"), (json!(5), "invalid_type"), (json!("x".repeat(4000)), "invalid_id")]
    {
        assert_unparsable(&json!({"prompt": prompt(json!({})), "prompt_id": id}).to_string(), code);
    }
}

#[test]
fn bypass_025_number_and_front_are_dropped() {
    for number in [json!(-1e9), json!("-inf"), json!(true)] {
        let body = upstream(&json!({"prompt": prompt(json!({})), "number": number, "front": true}));
        assert!(body.get("number").is_none() && body.get("front").is_none());
    }
}

#[test]
fn bypass_026_a_number_that_is_not_one() {
    assert_unparsable(r#"{"prompt":{},"number":NaN}"#, "not_finite");
}

#[test]
fn bypass_027_a_foreign_client_id_does_not_go_upstream() {
    let body = upstream(&json!({"prompt": prompt(json!({})), "client_id": "victim"}));
    assert_eq!((&body["client_id"], &body["extra_data"]["client_id"]), (&json!("our-client"), &json!("our-client")));
}

#[test]
fn bypass_028_a_client_id_of_another_type() {
    for id in [json!({}), json!([1]), json!(1), json!(true)] {
        assert_unparsable(&json!({"prompt": prompt(json!({})), "client_id": id}).to_string(), "invalid_type");
        let nested = json!({"prompt": prompt(json!({})), "client_id": "good", "extra_data": {"client_id": id}});
        assert_unparsable(&nested.to_string(), "invalid_type");
    }
}

#[test]
fn bypass_029_a_client_id_is_always_set() {
    for body in [json!({"prompt": prompt(json!({}))}), json!({"prompt": prompt(json!({})), "client_id": null})] {
        assert_eq!(upstream(&body)["client_id"], "our-client");
    }
}

#[test]
fn bypass_030_page_information_that_is_no_object() {
    for info in [json!(null), json!({"workflow": null})] {
        let body = upstream(&json!({"prompt": prompt(json!({})), "extra_data": {"extra_pnginfo": info}}));
        assert!(body["extra_data"].get("extra_pnginfo").is_none());
    }
    for info in [json!([]), json!("x"), json!({"workflow": [1]})] {
        assert_unparsable(
            &json!({"prompt": prompt(json!({})), "extra_data": {"extra_pnginfo": info}}).to_string(),
            "invalid_type",
        );
    }
}

#[test]
fn bypass_031_script_in_a_stored_svg() {
    assert_refused(
        json!({"v": node("SaveSVGNode", json!({"svg": ["x", 0]})), "x": node("PrimitiveString", json!({"value": "]]>"}))}),
        "v",
        "class_denied",
    );
}

#[test]
fn bypass_032_secrets_are_dropped() {
    let secrets = json!({"api_key_comfy_org": "k1", "auth_token_comfy_org": "k2", "my_token": "k3"});
    let body = upstream(&json!({"prompt": prompt(json!({})), "extra_data": secrets}));
    assert_eq!(body["extra_data"], json!({"client_id": "our-client"}));
}

#[test]
fn bypass_033_preview_method_is_one_of_five() {
    let body = |method: Value| json!({"prompt": prompt(json!({})), "extra_data": {"preview_method": method}});
    assert_eq!(upstream(&body(json!("taesd")))["extra_data"]["preview_method"], "taesd");
    for method in [json!("TAESD"), json!("x"), json!(1), json!({})] {
        assert_unparsable(&body(method).to_string(), "invalid_preview_method");
    }
}

#[test]
fn bypass_034_targets_do_not_hide_the_rest_of_the_graph() {
    let body = json!({"prompt": prompt(json!({"s": sampler(json!({"steps": 10_000}))})), "partial_execution_targets": ["show"]});
    assert!(matches!(verdict_under(&Policy::builtin("default").unwrap(), &body), Verdict::Deny(_)));
    for targets in [json!("show"), json!({"show": 1}), json!(5)] {
        assert_unparsable(
            &json!({"prompt": prompt(json!({})), "partial_execution_targets": targets}).to_string(),
            "invalid_type",
        );
    }
    assert_unparsable(
        &json!({"prompt": prompt(json!({})), "partial_execution_targets": ["other"]}).to_string(),
        "invalid_target",
    );
}

#[test]
fn bypass_035_unknown_top_level_fields_are_dropped() {
    let body = upstream(&json!({"prompt": prompt(json!({})), "workflow_id": "x", "zzz": {"a": 1}}));
    let mut keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["client_id", "extra_data", "prompt", "prompt_id"]);
}

#[test]
fn bypass_036_inputs_that_are_no_object() {
    for inputs in ["null", "[]", "\"x\""] {
        assert_unparsable(&raw(inputs), "invalid_inputs");
    }
}

#[test]
fn bypass_037_an_undeclared_link_to_nowhere() {
    assert_unparsable(&raw(r#"{"zzz":["nope",0]}"#), "bad_linked_input");
}

#[test]
fn bypass_038_an_undeclared_link_to_a_hidden_subgraph() {
    let nodes = json!({
        "show": node("PreviewImage", json!({"images": ["image", 0], "zzz": ["s", 0]})), "s": sampler(json!({"steps": 10_000})),
    });
    assert_refused(nodes.clone(), "s", "cap_exceeded");
    assert_refused_always(nodes, "show", "undeclared_input");
}

#[test]
fn bypass_039_a_python_parameter_that_is_not_declared() {
    let nodes = json!({
        "show": node("PreviewImage", json!({"images": ["image", 0], "filename_prefix": ["p", 0]})),
        "p": node("PrimitiveString", json!({"value": "../x"})),
    });
    assert_refused_always(nodes, "show", "undeclared_input");
    assert_refused_always(
        json!({"show": node("PreviewImage", json!({"images": ["image", 0], "filename_prefix": "x"}))}),
        "show",
        "undeclared_input",
    );
}

#[test]
fn bypass_039b_dotted_inputs_are_those_that_the_node_chose() {
    let nodes = |inputs: Value| {
        let mut all = json!({"input": ["image", 0], "scale_method": "area"});
        all.as_object_mut().unwrap().extend(inputs.as_object().unwrap().clone());
        json!({"r": node("ResizeImageMaskNode", all)})
    };
    assert_allowed(nodes(json!({"resize_type": "scale longer dimension", "resize_type.longer_size": 512})));
    let other =
        nodes(json!({"resize_type": "scale longer dimension", "resize_type.longer_size": 512, "resize_type.width": 9}));
    assert_refused_always(other, "r", "undeclared_input");
    let large = nodes(json!({"resize_type": "scale longer dimension", "resize_type.longer_size": 4097}));
    assert_refused(large, "r", "cap_exceeded");
    assert_refused_always(nodes(json!({"resize_type": "other"})), "r", "value_not_in_list");
    let row = |name: &str| json!({"b": node("BatchImagesNode", json!({"images.image0": ["image", 0], "images.image1": ["image", 0], name: ["image", 0]}))});
    assert_allowed(row("images.image2"));
    assert_refused_always(row("images.image50"), "b", "undeclared_input");
    assert_refused_always(row("images"), "b", "undeclared_input");
}

#[test]
fn bypass_039c_types_through_a_resize_are_followed() {
    let nodes = |from: Value| {
        json!({
            "r": node("ResizeImageMaskNode", json!({"input": from, "scale_method": "area", "resize_type": "scale width", "resize_type.width": 64})),
            "p": node("PreviewImage", json!({"images": ["r", 0]})), "m": node("SolidMask", json!({"value": 1.0, "width": 64, "height": 64})),
        })
    };
    assert_allowed(nodes(json!(["image", 0])));
    assert_refused_always(nodes(json!(["m", 0])), "p", "return_type_mismatch");
    assert_refused_always(nodes(json!(["empty", 0])), "r", "return_type_mismatch");
}

#[test]
fn bypass_040_and_041_wrapped_values() {
    assert_unparsable(&raw(r#"{"latent_image":{"__value__":["4",0]}}"#), "wrapped_value");
    assert_unparsable(&raw(r#"{"steps":{"__value__":999}}"#), "wrapped_value");
    assert_unparsable(&raw(r#"{"steps":{"__type__":"x"}}"#), "wrapped_value");
}

#[test]
fn bypass_042_odd_slots() {
    for slot in ["-1", "true", "0.0", "\"0\"", "null"] {
        assert_unparsable(&raw(&format!(r#"{{"model":["4",{slot}]}}"#)), "bad_linked_input");
    }
    assert_refused_always(
        json!({"show": node("PreviewImage", json!({"images": ["image", 1]}))}),
        "show",
        "bad_linked_input",
    );
}

#[test]
fn bypass_043_and_044_lists_that_are_no_links() {
    for list in [r#"[4,0]"#, r#"["4",0,0]"#, r#"["a",1]"#, "[]", "[1,2]", r#"[["4",0]]"#] {
        assert_unparsable(&raw(&format!(r#"{{"model":{list}}}"#)), "bad_linked_input");
    }
}

#[test]
fn bypass_045_steps_by_a_primitive() {
    let nodes = |steps: i64| json!({"s": sampler(json!({"steps": ["n", 0]})), "n": node("PrimitiveInt", json!({"value": steps}))});
    assert_allowed(nodes(150));
    assert_refused(nodes(151), "s", "cap_exceeded");
    assert_refused(nodes(1_000_000_000), "s", "cap_exceeded");
    // Twice removed.
    let twice = json!({
        "s": sampler(json!({"steps": ["m", 0]})), "m": node("PrimitiveInt", json!({"value": ["n", 0]})), "n": node("PrimitiveInt", json!({"value": 151})),
    });
    assert_refused(twice, "s", "cap_exceeded");
}

#[test]
fn bypass_046_a_string_through_a_switch_into_steps() {
    let nodes = |class: &str, value: Value| {
        json!({
            "s": sampler(json!({"steps": ["w", 0]})), "n": node(class, json!({"value": value})),
            "w": node("ComfySwitchNode", json!({"switch": true, "on_true": ["n", 0], "on_false": ["n", 0]})),
        })
    };
    assert_allowed(nodes("PrimitiveInt", json!(150)));
    assert_refused_always(nodes("PrimitiveString", json!("150")), "s", "return_type_mismatch");
    assert_refused_always(nodes("PrimitiveFloat", json!(150.0)), "s", "return_type_mismatch");
}

#[test]
fn bypass_046b_both_branches_of_an_open_switch_count() {
    let nodes = |large: i64, switch: Value| {
        json!({
            "s": sampler(json!({"steps": ["w", 0]})), "a": node("PrimitiveInt", json!({"value": 20})), "b": node("PrimitiveInt", json!({"value": large})),
            "w": node("ComfySwitchNode", json!({"switch": switch, "on_true": ["a", 0], "on_false": ["b", 0]})),
            "t": node("StringContains", json!({"string": "a", "substring": "b", "case_sensitive": true})),
        })
    };
    assert_allowed(nodes(150, json!(["t", 0])));
    assert_refused(nodes(151, json!(["t", 0])), "s", "cap_exceeded");
    assert_refused(nodes(151, json!(false)), "s", "cap_exceeded");
    assert_allowed(nodes(151, json!(true)));
}

#[test]
fn bypass_047_steps_by_the_length_of_a_string() {
    let nodes = |length: usize| json!({"s": sampler(json!({"steps": ["n", 0]})), "n": node("StringLength", json!({"string": "é".repeat(length)}))});
    assert_allowed(nodes(150));
    assert_refused(nodes(151), "s", "cap_exceeded");
    let joined = |length: usize| {
        let parts = json!({"string_a": "a".repeat(75), "string_b": "b".repeat(length), "delimiter": ""});
        json!({
            "s": sampler(json!({"steps": ["n", 0]})), "n": node("StringLength", json!({"string": ["c", 0]})),
            "c": node("StringConcatenate", parts),
        })
    };
    assert_allowed(joined(75));
    assert_refused(joined(76), "s", "cap_exceeded");
}

#[test]
fn bypass_048_sizes_from_an_uploaded_picture() {
    let nodes = |file: &str| {
        json!({
            "f": node("LoadImage", json!({"image": file})), "z": node("GetImageSize", json!({"image": ["f", 0]})),
            "l": node("EmptyLatentImage", json!({"width": ["z", 0], "height": ["z", 1], "batch_size": ["z", 2]})),
        })
    };
    assert_allowed(nodes("me.png"));
    assert_refused(nodes("bomb.png"), "f", "size_exceeded");
}

#[test]
fn bypass_049_texts_and_fractions_for_integers() {
    assert_allowed(json!({"s": sampler(json!({"steps": 20}))}));
    for steps in [
        json!("1_0_0_0_0"),
        json!("１００００"),
        json!(" 10000 "),
        json!(20.0),
        json!(20.9),
        json!(true),
        json!(null),
        json!({"a": 1}),
    ] {
        assert_refused_always(json!({"s": sampler(json!({"steps": steps}))}), "s", "invalid_input_type");
    }
}

#[test]
fn bypass_050_texts_for_booleans() {
    for value in [json!("false"), json!(0), json!(null)] {
        assert_refused_always(
            json!({"b": node("PrimitiveBoolean", json!({"value": value}))}),
            "b",
            "invalid_input_type",
        );
    }
    assert_allowed(json!({"b": node("PrimitiveBoolean", json!({"value": false}))}));
}

#[test]
fn bypass_051_choices_by_equality_of_python() {
    for value in [json!(1), json!(true), json!("Euler"), json!(null), json!({})] {
        assert_refused_always(json!({"s": sampler(json!({"sampler_name": value}))}), "s", "value_not_in_list");
    }
}

#[test]
fn bypass_052_not_a_number_as_text() {
    assert_refused_always(json!({"s": sampler(json!({"cfg": "nan"}))}), "s", "invalid_input_type");
    assert_refused_always(json!({"s": sampler(json!({"cfg": 100.5}))}), "s", "value_bigger_than_max");
    assert_allowed(json!({"s": sampler(json!({"cfg": 100}))}));
}

#[test]
fn bypass_053_a_tiny_denoise() {
    assert_refused(json!({"s": sampler(json!({"denoise": 1e-9}))}), "s", "denoise_too_small");
    assert_allowed(json!({"s": sampler(json!({"denoise": 0.01}))}));
    assert_allowed(json!({"s": sampler(json!({"denoise": 0}))}));
    let linked =
        json!({"s": sampler(json!({"denoise": ["d", 0]})), "d": node("PrimitiveFloat", json!({"value": 1e-9}))});
    assert_refused(linked, "s", "denoise_too_small");
}

fn custom(sigmas: Value, sampler: Value) -> Value {
    json!({
        "c": node("SamplerCustom", json!({"model": ["model", 0], "add_noise": true, "noise_seed": 1, "cfg": 1.0, "positive": ["text", 0], "negative": ["text", 0],
            "sampler": ["k", 0], "sigmas": ["g", 0], "latent_image": ["empty", 0]})),
        "g": sigmas, "k": sampler,
    })
}

fn euler() -> Value {
    node("KSamplerSelect", json!({"sampler_name": "euler"}))
}

#[test]
fn bypass_053b_a_cap_on_steps_brings_a_floor_of_denoise() {
    let policy = Policy::from_toml("name = \"x\"\n[classes]\nallow = [\"*\"]\n[caps]\nsteps = 100\n").unwrap();
    assert_eq!(denials(&policy, json!({"s": sampler(json!({"denoise": 0.001}))})), []);
    let found = denials(&policy, json!({"s": sampler(json!({"denoise": 0.0009}))}));
    assert_eq!(found, [("s".to_owned(), "denoise_too_small")]);
}

#[test]
fn bypass_054_steps_written_as_sigmas() {
    let sigmas = |count: usize, digit: &str| node("ManualSigmas", json!({"sigmas": vec![digit; count].join(", ")}));
    assert_allowed(custom(sigmas(75, "1.5"), euler()));
    assert_refused(custom(sigmas(10_000, "1"), euler()), "g", "cap_exceeded");
    assert_refused(custom(sigmas(151, "١"), euler()), "g", "cap_exceeded");
}

#[test]
fn bypass_054b_steps_inserted_into_a_schedule() {
    let nodes = custom(
        node(
            "ExtendIntermediateSigmas",
            json!({"sigmas": ["h", 0], "steps": 100, "start_at_sigma": -1.0, "end_at_sigma": 12.0, "spacing": "linear"}),
        ),
        euler(),
    );
    let mut nodes = nodes;
    nodes["h"] = node("KarrasScheduler", json!({"steps": 20, "sigma_max": 14.0, "sigma_min": 0.03, "rho": 7.0}));
    // Each of the 20 steps becomes a hundred.
    assert_refused(nodes.clone(), "c", "cap_exceeded");
    nodes["g"]["inputs"]["steps"] = json!(8);
    assert_refused(nodes, "c", "cap_exceeded");
}

#[test]
fn bypass_055_samplers_that_ignore_steps() {
    assert_refused(json!({"s": sampler(json!({"sampler_name": "dpm_adaptive"}))}), "s", "sampler_refused");
    let karras = node("KarrasScheduler", json!({"steps": 20, "sigma_max": 14.0, "sigma_min": 0.03, "rho": 7.0}));
    assert_refused(
        custom(karras.clone(), node("KSamplerSelect", json!({"sampler_name": "dpm_adaptive"}))),
        "k",
        "sampler_refused",
    );
    let adaptive = node(
        "SamplerDPMAdaptative",
        json!({"order": 3, "rtol": 0.0, "atol": 0.0, "h_init": 0.05, "pcoeff": 0.0, "icoeff": 1.0, "dcoeff": 0.0,
        "accept_safety": 0.81, "eta": 0.0, "s_noise": 1.0}),
    );
    assert_refused(custom(karras.clone(), adaptive), "k", "class_denied");
    assert_allowed(custom(karras, euler()));
}

#[test]
fn bypass_056_a_schedule_that_is_longer_than_its_steps() {
    let nodes = |steps: u32| json!({"s": sampler(json!({"steps": steps, "scheduler": "ddim_uniform"}))});
    // 1000 // 141 is 7, and 999 steps of 7 are 143; 1000 // 143 is 6.
    assert_allowed(nodes(141));
    assert_refused(nodes(142), "s", "cap_exceeded");
    // With a `denoise` below 1 the end of a longer schedule is taken, of exactly so many steps.
    assert_allowed(json!({"s": sampler(json!({"steps": 150, "scheduler": "ddim_uniform", "denoise": 0.9}))}));
}

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
    assert_allowed(chain(6));
    assert_refused(chain(7), "", "steps_total_exceeded");
    let mut saves = json!({});
    for n in 0..32 {
        saves[format!("o{n}")] = node("SaveImage", json!({"images": ["image", 0], "filename_prefix": "x"}));
    }
    assert_refused(saves, "", "too_many_outputs");
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
    assert_allowed(chain(4.0));
    assert_refused(chain(4.01), "b", "size_exceeded");
    let model = json!({
        "u": node("UpscaleModelLoader", json!({"model_name": "x4.pth"})), "i": node("EmptyImage", json!({"width": 1100, "height": 64, "batch_size": 1, "color": 0})),
        "x": node("ImageUpscaleWithModel", json!({"upscale_model": ["u", 0], "image": ["i", 0]})),
    });
    assert_refused(model, "x", "size_exceeded");
}

#[test]
fn bypass_059_chains_of_batches() {
    let repeat = |amount: u32| {
        json!({
            "a": node("RepeatLatentBatch", json!({"samples": ["empty", 0], "amount": 4})), "b": node("RepeatLatentBatch", json!({"samples": ["a", 0], "amount": amount})),
        })
    };
    assert_allowed(repeat(4));
    assert_refused(repeat(5), "b", "size_exceeded");
    let double = |count: usize| {
        let mut nodes = json!({});
        for n in 0..count {
            let from = if n == 0 { json!(["empty", 0]) } else { json!([format!("d{}", n - 1), 0]) };
            nodes[format!("d{n}")] = node("LatentBatch", json!({"samples1": from, "samples2": from}));
        }
        nodes
    };
    assert_allowed(double(4));
    assert_refused(double(5), "d4", "size_exceeded");
    let found = denials(&Policy::builtin("default").unwrap(), double(30));
    assert!(!found.is_empty());
}

#[test]
fn bypass_060_memory_bombs_in_one_node() {
    assert_refused(
        json!({"x": node("EmptyImage", json!({"width": 16384, "height": 16384, "batch_size": 4096, "color": 0}))}),
        "x",
        "cap_exceeded",
    );
    assert_refused(
        json!({"x": node("EmptyLatentImage", json!({"width": 4096, "height": 4096, "batch_size": 17}))}),
        "x",
        "cap_exceeded",
    );
    assert_allowed(json!({"x": node("EmptyLatentImage", json!({"width": 4096, "height": 4096, "batch_size": 16}))}));
    assert_refused(
        json!({"x": node("EmptyAudio", json!({"duration": 1e18, "sample_rate": 44100, "channels": 2}))}),
        "x",
        "class_not_allowed",
    );
    assert_refused(
        json!({"x": node("EmptyAudio", json!({"duration": 1e18, "sample_rate": 44100, "channels": 2}))}),
        "x",
        "cap_exceeded",
    );
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
    assert_allowed(double(10));
    assert_refused(double(11), "d11", "text_exceeded");
    assert_refused(double(199), "d199", "text_exceeded");
    let replace = |length: usize| {
        let inputs = json!({"string": "a".repeat(1023), "find": "", "replace": "b".repeat(length)});
        json!({"r": node("StringReplace", inputs)})
    };
    // 1023 characters, and 1024 places between and around them.
    assert_allowed(replace(1023));
    assert_refused(replace(1024), "r", "text_exceeded");
    let inputs = json!({"string": "a".repeat(1000), "find": "a".repeat(100), "replace": "b".repeat(100_000)});
    assert_allowed(json!({"r": node("StringReplace", inputs)}));
}

#[test]
fn bypass_061_files_that_unfold() {
    for file in ["bomb.png", "film.gif"] {
        assert_refused(json!({"f": node("LoadImage", json!({"image": file}))}), "f", "size_exceeded");
    }
    assert_refused(json!({"f": node("LoadLatent", json!({"latent": "x.latent"}))}), "f", "class_denied");
    assert_allowed(json!({"f": node("LoadImage", json!({"image": "me.png"}))}));
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
    assert!(denials(&policy, listed(4)).is_empty());
}

#[test]
fn bypass_063_and_064_classes_that_are_not_in_the_catalogue() {
    for class in ["StartLoop", "OldNameWithReplacement", "ksampler", "KSampler "] {
        assert_refused_always(json!({"x": node(class, json!({}))}), "x", "class_unknown");
    }
}

#[test]
fn bypass_065_a_fingerprint_of_the_caller_s_choice() {
    let mut with = node("PreviewImage", json!({"images": ["image", 0]}));
    with["is_changed"] = json!(["x"]);
    with["override_display_id"] = json!("1");
    let body = upstream(&json!({"prompt": prompt(json!({"show": with}))}));
    let keys: Vec<&String> = body["prompt"]["show"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["class_type", "inputs"]);
}

#[test]
fn bypass_066_cycles_long_chains_and_odd_ids() {
    let cycle = json!({"prompt": {"a": node("A", json!({"x": ["b", 0]})), "b": node("A", json!({"x": ["a", 0]}))}});
    assert_unparsable(&cycle.to_string(), "dependency_cycle");
    let chain: serde_json::Map<String, Value> = (0..300)
        .map(|n: u32| {
            (n.to_string(), node("A", if n == 0 { json!({}) } else { json!({"x": [(n - 1).to_string(), 0]}) }))
        })
        .collect();
    assert_unparsable(&json!({ "prompt": chain }).to_string(), "path_too_long");
    for id in ["a.b.c", "", &"x".repeat(65), "a/b"] {
        assert_unparsable(&json!({"prompt": {id: node("A", json!({}))}}).to_string(), "invalid_node_id");
    }
}

#[test]
fn bypass_067_an_object_through_a_switch_into_a_string() {
    let nodes = json!({
        "k": euler(), "w": node("ComfySwitchNode", json!({"switch": true, "on_true": ["k", 0], "on_false": ["k", 0]})),
        "p": node("Preview3D", json!({"model_file": ["w", 0]})),
    });
    assert_refused(nodes.clone(), "p", "class_denied");
    assert_refused_always(nodes, "p", "return_type_mismatch");
}

#[test]
fn bypass_068_regular_expressions_of_the_caller_s() {
    let nodes = json!({"r": node("RegexReplace", json!({"string": "aaaa", "regex_pattern": "(a+)+$", "replace": ""}))});
    assert_refused(nodes, "r", "class_denied");
}

#[test]
fn bypass_069_another_owner_s_cache() {
    let parsed = parse(json!({"prompt": prompt(json!({}))}).to_string().as_bytes()).unwrap();
    let Verdict::Allow(approved) =
        decide(&parsed, &Policy::builtin("default").unwrap(), Catalogue::builtin(), &files())
    else {
        panic!()
    };
    let body = |salt: &str| approved.upstream_body(&OutputScope::new("t/q/j-1", "p", "c", salt).unwrap());
    assert_ne!(body("a"), body("b"));
    // A salt of anybody's is never passed on; what is no salt is refused.
    let salted =
        |salt: Value| json!({"show": node("PreviewImage", json!({"images": ["image", 0], "comfygate_salt": salt}))});
    let sent = upstream(&json!({"prompt": prompt(salted(json!("salt-b")))}));
    assert_eq!(sent["prompt"]["show"]["inputs"]["comfygate_salt"], "salt-a");
    for salt in [json!(""), json!("a b"), json!(1), json!(["image", 0]), json!({"a": "b"}), json!("x".repeat(201))] {
        assert_refused_always(salted(salt), "show", "reserved_input");
    }
}

fn save(prefix: Value) -> Value {
    json!({"o": node("SaveImage", json!({"images": ["image", 0], "filename_prefix": prefix}))})
}

#[test]
fn bypass_070_and_071_prefixes_that_leave_their_folder() {
    for prefix in ["../../x", "t/A/../B/x", "/out/t/B/x", "C:\\x", "a\\..\\b", "a\u{0}b"] {
        assert_refused_always(save(json!(prefix)), "o", "save_prefix_refused");
    }
    assert_allowed(save(json!("a/b/x")));
}

#[test]
fn bypass_072_prefixes_without_a_name() {
    for (prefix, sent) in [("", "t/q/j-1/ComfyUI"), ("t/A/", "t/q/j-1/t/A/ComfyUI"), ("t/A/.", "t/q/j-1/t/A/ComfyUI")] {
        let body = upstream(&json!({"prompt": prompt(save(json!(prefix)))}));
        assert_eq!(body["prompt"]["o"]["inputs"]["filename_prefix"], sent);
    }
}

#[test]
fn bypass_073_a_linked_prefix() {
    let mut nodes = save(json!(["p", 0]));
    nodes["p"] = node("PrimitiveString", json!({"value": "x"}));
    assert_refused_always(nodes, "o", "linked_input_refused");
}

#[test]
fn bypass_074_substitution_in_a_prefix() {
    for prefix in ["%SomeNode.text%", "%date:yyyy%", "100%", "%%width%"] {
        assert_refused_always(save(json!(prefix)), "o", "save_prefix_refused");
    }
    assert_allowed(save(json!("%year%-%month%-%day%/%width%x%height%")));
}

#[test]
fn bypass_075_to_077_classes_that_write_models_or_read_pickles() {
    for class in [
        "SaveLoRA",
        "CheckpointSave",
        "ModelSave",
        "SaveImageDataSetToFolder",
        "SaveTrainingDataset",
        "LoadTrainingDataset",
    ] {
        assert_refused(json!({"x": node(class, json!({}))}), "x", "class_denied");
    }
}

#[test]
fn bypass_078_paths_instead_of_files() {
    for name in
        ["../../../etc/x.png", "/etc/x.png", "/dev/zero", "a/../../x.png", "C:/x.png", "..\\x.png", "\\\\host\\x.png"]
    {
        assert_refused_always(json!({"f": node("LoadImage", json!({"image": name}))}), "f", "path_refused");
    }
}

#[test]
fn bypass_079_foreign_files_and_false_suffixes() {
    for name in ["t/B/x.png", "x.png [output]", "me.png [output]", "mine.png"] {
        assert_refused_always(json!({"f": node("LoadImage", json!({"image": name}))}), "f", "file_not_found");
    }
    for name in ["x.png[temp]", "x.pngZ[input]", "me.png[input]"] {
        assert_refused_always(json!({"f": node("LoadImage", json!({"image": name}))}), "f", "file_suffix_refused");
    }
    for (name, sent) in [("me.png [input]", "t/a/1.png"), ("mine.png [output]", "t/a/2.png [output]")] {
        let body = upstream(&json!({"prompt": prompt(json!({"f": node("LoadImage", json!({"image": name}))}))}));
        assert_eq!(body["prompt"]["f"]["inputs"]["image"], sent);
    }
}

#[test]
fn bypass_079b_a_file_s_name_by_a_link() {
    let nodes = json!({"f": node("LoadImage", json!({"image": ["p", 0]})), "p": node("PrimitiveString", json!({"value": "me.png"}))});
    assert_refused_always(nodes, "f", "linked_input_refused");
}

#[test]
fn bypass_080_an_unreachable_file_is_looked_at_as_well() {
    assert_refused_always(json!({"f": node("LoadImage", json!({"image": "nobody.png"}))}), "f", "file_not_found");
}

#[test]
fn bypass_081_classes_that_read_unchecked_paths() {
    for class in ["Load3D", "RecordAudio", "WebcamCapture"] {
        assert_refused(json!({"x": node(class, json!({"image": {"image": "/etc/passwd"}}))}), "x", "class_denied");
    }
}

#[test]
fn bypass_082_embeddings_are_contained_by_comfyui() {
    assert_allowed(json!({"e": node("CLIPTextEncode", json!({"text": "embedding:../../x", "clip": ["model", 1]}))}));
}
