//! Entries 36 to 44, 65 and 66: the shape of the graph.

use comfygate_policy::{PATH_DEPTH_MAX, parse};
use serde_json::{Value, json};

use super::{
    allowed, denials, left_out, node, parses, prompt, raw, refused, refused_always, refused_everywhere, sampler,
    shipped, unparsable, upstream, with,
};

#[test]
fn bypass_036_inputs_that_are_no_object() {
    for inputs in ["null", "[]", "\"x\"", "[[\"4\",0]]", "0", "true"] {
        unparsable(&raw(inputs), "invalid_inputs");
    }
    unparsable(r#"{"prompt":{"1":{"class_type":"A"}}}"#, "invalid_inputs");
    for node in ["null", "[]", "\"x\"", "[\"class_type\",\"inputs\"]", "1"] {
        unparsable(&format!(r#"{{"prompt":{{"1":{node}}}}}"#), "invalid_node");
    }
    for class in ["null", "1", "[\"A\"]", "{}", "\"\"", "\"a\\u0000b\""] {
        unparsable(&format!(r#"{{"prompt":{{"1":{{"class_type":{class},"inputs":{{}}}}}}}}"#), "invalid_class_type");
    }
    parses(&raw("{}"));
}

#[test]
fn bypass_037_an_undeclared_link_to_nowhere() {
    unparsable(&raw(r#"{"zzz":["nope",0]}"#), "bad_linked_input");
    // Ids that another reader might take for one that is there.
    for target in ["04", "4 ", " 4", "４", "4\\u0000", "4.0", "", "+4", "__proto__", "5.4"] {
        unparsable(&raw(&format!(r#"{{"zzz":["{target}",0]}}"#)), "bad_linked_input");
    }
    parses(&raw(r#"{"zzz":["4",0]}"#));
}

#[test]
fn bypass_038_an_undeclared_link_to_a_hidden_subgraph() {
    let nodes = |name: &str| {
        json!({
            "show": node("PreviewImage", json!({"images": ["image", 0], name: ["s", 0]})), "s": sampler(json!({"steps": 10_000})),
        })
    };
    refused(nodes("zzz"), "s", "cap_exceeded");
    // Names near a declared one, and names that Python or JavaScript treats in a special way.
    for name in [
        "zzz",
        "Images",
        "images ",
        "images.0",
        "images.",
        "i\u{307}mages",
        "__proto__",
        "self",
        "**",
        "prompt",
        "unique_id",
    ] {
        refused_everywhere(nodes(name), "show", "undeclared_input");
    }
    let on_a_loader = json!({"model": node("CheckpointLoaderSimple", json!({"ckpt_name": "sd.safetensors", "output_vae": ["image", 0]}))});
    refused_everywhere(on_a_loader, "model", "undeclared_input");
    allowed(json!({"show": node("PreviewImage", json!({"images": ["image", 0]}))}));
}

#[test]
fn bypass_039_a_python_parameter_that_is_not_declared() {
    let nodes = json!({
        "show": node("PreviewImage", json!({"images": ["image", 0], "filename_prefix": ["p", 0]})),
        "p": node("PrimitiveString", json!({"value": "../x"})),
    });
    refused_everywhere(nodes, "show", "undeclared_input");
    refused_always(
        json!({"show": node("PreviewImage", json!({"images": ["image", 0], "filename_prefix": "x"}))}),
        "show",
        "undeclared_input",
    );
    for (class, inputs, name) in [
        ("MaskPreview", json!({"mask": ["m", 0]}), "filename_prefix"),
        ("PreviewImage", json!({"images": ["image", 0]}), "extra_pnginfo"),
        ("SaveImage", json!({"images": ["image", 0], "filename_prefix": "x"}), "prompt"),
    ] {
        let nodes = |value: Value| {
            json!({
                "x": node(class, with(inputs.clone(), json!({ name: value }))), "p": node("PrimitiveString", json!({"value": "../x"})),
                "m": node("SolidMask", json!({"value": 1.0, "width": 64, "height": 64})),
            })
        };
        refused_everywhere(nodes(json!(["p", 0])), "x", "undeclared_input");
        refused_always(nodes(json!("../x")), "x", "undeclared_input");
    }
    // KSamplerAdvanced's function takes a denoise that its schema does not show.
    let advanced = |inputs: Value| {
        let declared = json!({
            "model": ["model", 0], "add_noise": "enable", "noise_seed": 1, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal",
            "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0], "start_at_step": 0, "end_at_step": 10_000,
            "return_with_leftover_noise": "disable",
        });
        json!({"s": node("KSamplerAdvanced", with(declared, inputs)), "d": node("PrimitiveFloat", json!({"value": 1e-9}))})
    };
    allowed(advanced(json!({})));
    refused_everywhere(advanced(json!({"denoise": ["d", 0]})), "s", "undeclared_input");
    refused_always(advanced(json!({"denoise": 1e-9})), "s", "undeclared_input");
}

#[test]
fn bypass_039a_residue_is_dropped_as_a_literal_and_never_followed_as_a_link() {
    for (class, name, id) in [("KSampler", "noise_seed", "s"), ("KSampler", "control_after_generate", "s")] {
        let with_residue = |value: Value| json!({ id: sampler(json!({ name: value })) });
        let body = upstream(&json!({"prompt": prompt(with_residue(json!(7)))}));
        assert_eq!(body["prompt"][id]["inputs"].get(name), None, "{class}.{name}");
        refused_everywhere(with_residue(json!(["image", 0])), id, "undeclared_input");
        refused_always(json!({ id: sampler(json!({ format!("{name}x"): 7 })) }), id, "undeclared_input");
    }
}

fn resize(inputs: Value) -> Value {
    json!({"r": node("ResizeImageMaskNode", with(json!({"input": ["image", 0], "scale_method": "area"}), inputs))})
}

#[test]
fn bypass_039b_dotted_inputs_are_those_that_the_node_chose() {
    let longer = json!({"resize_type": "scale longer dimension", "resize_type.longer_size": 512});
    allowed(resize(longer.clone()));
    for name in
        ["resize_type.width", "resize_type.longer_size.x", "resize_type.", ".longer_size", "Resize_type.longer_size"]
    {
        refused_always(resize(with(longer.clone(), json!({ name: 9 }))), "r", "undeclared_input");
        refused_everywhere(resize(with(longer.clone(), json!({ name: ["empty", 0] }))), "r", "undeclared_input");
    }
    refused(resize(with(longer.clone(), json!({"resize_type.longer_size": 4097}))), "r", "cap_exceeded");
    left_out(resize(json!({"resize_type": "other"})), "r", "value_not_in_list");
    left_out(resize(json!({"resize_type": 3})), "r", "value_not_in_list");
    refused_always(resize(with(longer.clone(), json!({"resize_type": null}))), "r", "undeclared_input");
    // What chooses the branch is never linked: nobody would know which inputs there are.
    let linked = with(
        resize(with(longer, json!({"resize_type": ["p", 0]}))),
        json!({"p": node("PrimitiveString", json!({"value": "scale width"}))}),
    );
    refused_always(linked, "r", "linked_input_refused");
}

#[test]
fn bypass_039b_rows_of_inputs_have_the_declared_names_only() {
    let row = |name: &str, value: Value| json!({"b": node("BatchImagesNode", with(json!({"images.image0": ["image", 0], "images.image1": ["image", 0]}), json!({ name: value })))});
    allowed(row("images.image2", json!(["image", 0])));
    for name in [
        "images.image50",
        "images",
        "images.image-1",
        "images.image01",
        "images.image2.x",
        "images.",
        "image2",
        "images.Image2",
    ] {
        refused_everywhere(row(name, json!(["image", 0])), "b", "undeclared_input");
    }
    // ComfyUI runs a row that is shorter than it declares, but none of nothing.
    let only = |inputs: Value| json!({"b": node("BatchImagesNode", inputs), "p": node("PreviewImage", json!({"images": ["b", 0]}))});
    allowed(only(json!({"images.image0": ["image", 0]})));
    allowed(only(json!({"images.image3": ["image", 0]})));
    left_out(only(json!({})), "b", "required_input_missing");
    left_out(row("images.image2", json!(5)), "b", "invalid_input_type");
    left_out(row("images.image2", json!(["empty", 0])), "b", "return_type_mismatch");
}

#[test]
fn bypass_039d_what_matches_anything_takes_a_text_that_is_written_down_and_nothing_else() {
    let written = |value: Value| {
        json!({
            "w": node("ComfySwitchNode", json!({"switch": true, "on_true": value, "on_false": ["t", 0]})),
            "t": node("PrimitiveString", json!({"value": "a dog"})),
            "c": node("CLIPTextEncode", json!({"text": ["w", 0], "clip": ["model", 1]})),
            "s": sampler(json!({"positive": ["c", 0]})),
        })
    };
    allowed(written(json!("a cat")));
    for value in [json!(5), json!(true), json!(0.5), json!({"a": 1})] {
        left_out(written(value), "w", "invalid_input_type");
    }
    // It is a text and nothing else.
    let mut picture = written(json!("a cat"));
    picture["p"] = node("PreviewImage", json!({"images": ["w", 0]}));
    left_out(picture, "p", "return_type_mismatch");
    let mut mixed = written(json!("a cat"));
    mixed["w"]["inputs"]["on_false"] = json!(["image", 0]);
    mixed["p"] = node("PreviewImage", json!({"images": ["w", 0]}));
    left_out(mixed, "p", "return_type_mismatch");
    let resized = json!({"r": node("ResizeImageMaskNode", json!({"input": "a cat", "scale_method": "area", "resize_type": "scale width", "resize_type.width": 64}))});
    left_out(resized, "r", "invalid_input_type");
}

#[test]
fn bypass_039e_choices_of_another_release_pass_only_where_no_rule_reads_them_and_nobody_was_asked() {
    let loader = |kind: &str| node("CLIPLoader", json!({"clip_name": "x.safetensors", "type": kind}));
    let encoded = |kind: &str| json!({"l": loader(kind), "c": node("CLIPTextEncode", json!({"text": "a cat", "clip": ["l", 0]})), "s": sampler(json!({"positive": ["c", 0]}))});
    allowed(encoded("of_next_year"));
    left_out(encoded("../of_next_year"), "l", "value_not_in_list");
    let scaled = json!({
        "r": node("ImageScale", json!({"image": ["image", 0], "upscale_method": "of_next_year", "width": 8, "height": 8, "crop": "disabled"})),
    });
    left_out(scaled, "r", "value_not_in_list");
    // An installation has its own list.
    let body = json!({"prompt": super::prompt(encoded("of_next_year"))});
    let parsed = parse(body.to_string().as_bytes()).unwrap();
    let catalogue = comfygate_policy::Catalogue::builtin_arc();
    match comfygate_policy::decide(&parsed, &super::open_policy(), &catalogue, &super::files()) {
        comfygate_policy::Verdict::Allow(approved) => {
            assert!(approved.pruned().into_iter().flatten().any(|one| one.code == "value_not_in_list"));
        }
        comfygate_policy::Verdict::Deny(violations) => panic!("{}", violations.to_json()),
    }
}

#[test]
fn bypass_039f_what_a_page_writes_into_a_choice_of_its_own_is_plain() {
    let combo = |changes: Value| {
        json!({
            "c": node("CustomCombo", with(json!({"choice": "a", "index": 1, "option1": "a", "option2": "b"}), changes)),
            "n": node("PreviewAny", json!({"source": ["c", 1]})),
        })
    };
    allowed(combo(json!({})));
    left_out(combo(json!({"index": "1"})), "c", "invalid_input_type");
    left_out(combo(json!({"option1": 1})), "c", "invalid_input_type");
    left_out(combo(json!({"option1": ["text", 0]})), "c", "invalid_input_type");
    refused(combo(json!({"other": "a"})), "c", "undeclared_input");
    // A number of which nothing is known is none that may be a size.
    let sized = with(
        combo(json!({})),
        json!({"e": node("EmptyImage", json!({"width": ["c", 1], "height": 8, "batch_size": 1, "color": 0}))}),
    );
    refused(sized, "e", "value_unbounded");
}

#[test]
fn bypass_039c_types_through_a_resize_are_followed() {
    let nodes = |from: Value| {
        json!({
            "r": node("ResizeImageMaskNode", json!({"input": from, "scale_method": "area", "resize_type": "scale width", "resize_type.width": 64})),
            "p": node("PreviewImage", json!({"images": ["r", 0]})), "m": node("SolidMask", json!({"value": 1.0, "width": 64, "height": 64})),
        })
    };
    allowed(nodes(json!(["image", 0])));
    left_out(nodes(json!(["m", 0])), "p", "return_type_mismatch");
    left_out(nodes(json!(["empty", 0])), "r", "return_type_mismatch");
    left_out(nodes(json!(["model", 0])), "r", "return_type_mismatch");
}

#[test]
fn bypass_040_wrapped_links() {
    for value in [
        r#"{"__value__":["4",0]}"#,
        r#"{"__valu\u0065__":["4",0]}"#,
        r#"{"a":{"b":{"__value__":["4",0]}}}"#,
        r#"{"__value__":{"__value__":["4",0]}}"#,
        r#"{"__type__":"LATENT","__value__":["4",0]}"#,
        r#"{"__value__":["4",0],"other":1}"#,
    ] {
        for input in ["latent_image", "image", "source", "zzz", "steps.x"] {
            unparsable(&raw(&format!(r#"{{"{input}":{value}}}"#)), "wrapped_value");
        }
    }
    parses(&raw(r#"{"latent_image":["4",0]}"#));
    // Without the wrapping an object is data, and no class of ComfyUI's own takes it for a latent.
    left_out(json!({"s": sampler(json!({"latent_image": {"value": ["empty", 0]}}))}), "s", "invalid_input_type");
}

#[test]
fn bypass_041_wrapped_values() {
    for value in [
        r#"{"__value__":999}"#,
        r#"{"__type__":"x"}"#,
        r#"{"__valu\u0065__":999}"#,
        r#"{"__value__":{"__value__":5}}"#,
        r#"{"__value__":null,"other":1}"#,
        r#"{"a":[1,{"__type__":1}]}"#,
    ] {
        for input in ["latent_image", "steps", "zzz", "steps.x"] {
            unparsable(&raw(&format!(r#"{{"{input}":{value}}}"#)), "wrapped_value");
        }
    }
    // Keys that ComfyUI does not unwrap are plain objects, and no class of its own takes those.
    for value in [json!({"__VALUE__": 20}), json!({"value": 20}), json!({"__value": 20}), json!({" __value__": 20})] {
        left_out(json!({"s": sampler(json!({ "steps": value }))}), "s", "invalid_input_type");
    }
}

#[test]
fn bypass_042_odd_slots() {
    for slot in ["-1", "true", "0.0", "\"0\"", "null", "-0.0", "1e0", "[0]", "{}", "99999999999999999999", "1024"] {
        let body = raw(&format!(r#"{{"model":["4",{slot}]}}"#));
        let code = parse(body.as_bytes()).map(|_| ()).unwrap_err().code();
        let codes = ["bad_linked_input", "integer_out_of_range"];
        assert!(codes.contains(&code), "{slot}: {code}");
    }
    for slot in [1, 2, 1023] {
        left_out(json!({"p": node("PreviewImage", json!({"images": ["image", slot]}))}), "p", "bad_linked_input");
    }
    // `model` has three outputs.
    left_out(
        json!({"v": node("VAEDecode", json!({"samples": ["empty", 0], "vae": ["model", 3]}))}),
        "v",
        "bad_linked_input",
    );
    allowed(json!({"v": node("VAEDecode", json!({"samples": ["empty", 0], "vae": ["model", 2]}))}));
    // An output node without outputs, in every release.
    let socket = node("SaveImageWebsocket", json!({"images": ["image", 0]}));
    left_out(json!({"w": socket, "p": node("PreviewImage", json!({"images": ["w", 0]}))}), "p", "bad_linked_input");
}

#[test]
fn bypass_043_lists_that_are_no_links() {
    for list in [
        r#"[4,0]"#,
        r#"["4",0,0]"#,
        "[]",
        "[1,2]",
        r#"[["4",0]]"#,
        r#"["4"]"#,
        r#"[null,0]"#,
        r#"[{"a":1},0]"#,
        r#"[0,"4"]"#,
        r#"["4",0,null]"#,
        "[[],[]]",
    ] {
        for input in ["model", "zzz", "text"] {
            unparsable(&raw(&format!(r#"{{"{input}":{list}}}"#)), "bad_linked_input");
        }
    }
    parses(&raw(r#"{"model":["4",0],"zzz":["4",1],"text":["4",2]}"#));
}

#[test]
fn bypass_044_data_that_looks_like_a_link_is_one() {
    for list in [r#"["a",1]"#, r#"["cat",0]"#, r#"["0xff",1]"#, r#"["5 ",0]"#] {
        for input in ["model", "zzz", "text"] {
            unparsable(&raw(&format!(r#"{{"{input}":{list}}}"#)), "bad_linked_input");
        }
    }
    // The name of a node that is there: it is followed, whatever the input is called and declared to be.
    for input in ["text", "steps", "zzz"] {
        let looped = format!(r#"{{"prompt":{{"a":{{"class_type":"A","inputs":{{"{input}":["a",1]}}}}}}}}"#);
        unparsable(&looped, "dependency_cycle");
    }
    left_out(
        json!({"e": node("CLIPTextEncode", json!({"text": ["image", 0], "clip": ["model", 1]}))}),
        "e",
        "return_type_mismatch",
    );
    // Within an object a list is data: no class takes it, and ComfyUI does not follow it.
    left_out(json!({"s": sampler(json!({"steps": {"a": ["model", 0]}}))}), "s", "invalid_input_type");
    left_out(json!({"s": sampler(json!({"model": {"a": ["model", 0]}}))}), "s", "invalid_input_type");
}

#[test]
fn bypass_065_a_fingerprint_of_the_caller_s_choice() {
    for key in ["is_changed", "override_display_id", "_loop_body", "_loop_end", "IS_CHANGED", "__proto__"] {
        let mut with = node("PreviewImage", json!({"images": ["image", 0]}));
        with[key] = json!(["x"]);
        let body = upstream(&json!({"prompt": prompt(json!({"show": with}))}));
        let keys: Vec<&String> = body["prompt"]["show"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["class_type", "inputs"]);
    }
    // A title is kept if it is one, and nothing beside it.
    let titled = |meta: Value| {
        let mut with = node("PreviewImage", json!({"images": ["image", 0]}));
        with["_meta"] = meta;
        upstream(&json!({"prompt": prompt(json!({"show": with}))}))["prompt"]["show"].get("_meta").cloned()
    };
    assert_eq!(titled(json!({"title": "a", "is_changed": 1})), Some(json!({"title": "a"})));
    for meta in [
        json!({"title": 5}),
        json!({"title": ["image", 0]}),
        json!(null),
        json!([]),
        json!({"title": "x".repeat(2000)}),
    ] {
        assert_eq!(titled(meta), None);
    }
}

#[test]
fn bypass_066_cycles_long_chains_and_odd_ids() {
    let linked = |pairs: &[(&str, &str)]| -> String {
        let nodes: serde_json::Map<String, Value> =
            pairs.iter().map(|(id, to)| ((*id).to_owned(), node("A", json!({"x": [to, 0]})))).collect();
        json!({ "prompt": nodes }).to_string()
    };
    unparsable(&linked(&[("a", "b"), ("b", "a")]), "dependency_cycle");
    unparsable(&linked(&[("a", "a")]), "dependency_cycle");
    unparsable(&linked(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")]), "dependency_cycle");
    // A cycle that nothing leads to, beside a good output.
    let beside = prompt(json!({"a": node("A", json!({"x": ["b", 0]})), "b": node("A", json!({"zzz": ["a", 0]}))}));
    unparsable(&json!({ "prompt": beside }).to_string(), "dependency_cycle");
    let chain = |length: usize, name: &str| -> String {
        let nodes: serde_json::Map<String, Value> = (0..length)
            .map(|n| {
                (n.to_string(), node("A", if n == 0 { json!({}) } else { json!({name: [(n - 1).to_string(), 0]}) }))
            })
            .collect();
        json!({ "prompt": nodes }).to_string()
    };
    for name in ["x", "zzz", "a.b"] {
        unparsable(&chain(300, name), "path_too_long");
        unparsable(&chain(PATH_DEPTH_MAX + 1, name), "path_too_long");
        parses(&chain(PATH_DEPTH_MAX, name));
    }
    for id in ["a.b.c", "", &"x".repeat(65), "a/b", "é", " a", "a\u{0}", "４", "a\u{200d}", "#1", "$"] {
        unparsable(&json!({"prompt": {id: node("A", json!({}))}}).to_string(), "invalid_node_id");
    }
    for id in ["12:34", "__proto__", "constructor", "-1", &"x".repeat(64)] {
        assert_eq!(denials(&shipped("default"), json!({ id: node("PrimitiveInt", json!({"value": 1})) })), []);
    }
}
