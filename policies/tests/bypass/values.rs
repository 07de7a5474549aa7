//! Entries 45 to 56: values that are something else when they arrive.

use comfygate_policy::PROMPT_STRING_BYTES_MAX;
use serde_json::{Value, json};

use super::{
    allowed, custom, denials, euler, left_out, node, refused, refused_always, sampler, steps_policy, switch, with,
};

fn int(value: impl Into<Value>) -> Value {
    node("PrimitiveInt", json!({"value": value.into()}))
}

#[test]
fn bypass_045_steps_by_a_primitive() {
    let nodes = |steps: i64| json!({"s": sampler(json!({"steps": ["n", 0]})), "n": int(steps)});
    allowed(nodes(150));
    for steps in [151, 1_000_000_000, i64::MAX] {
        refused(nodes(steps), "s", "cap_exceeded");
    }
    for steps in [0, -1, i64::MIN + 1] {
        refused(nodes(steps), "s", "value_smaller_than_min");
    }
    // Two and a hundred times removed.
    let removed = |times: usize, value: i64| {
        let mut nodes = json!({"s": sampler(json!({"steps": ["n0", 0]}))});
        for n in 0..times {
            nodes[format!("n{n}")] = int(json!([format!("n{}", n + 1), 0]));
        }
        nodes[format!("n{times}")] = int(value);
        nodes
    };
    for times in [1, 100] {
        allowed(removed(times, 150));
        refused(removed(times, 151), "s", "cap_exceeded");
    }
    // Beyond the range that the schema declares for a literal.
    refused_always(with(nodes(20), json!({"n": int(u64::MAX)})), "n", "value_bigger_than_max");
    left_out(json!({"n": int(u64::MAX)}), "n", "value_bigger_than_max");
    // A number of another type does not come by a link either.
    let float = json!({"s": sampler(json!({"steps": ["n", 0]})), "n": node("PrimitiveFloat", json!({"value": 20.0}))});
    left_out(float, "s", "return_type_mismatch");
}

#[test]
fn bypass_046_a_string_through_a_switch_into_steps() {
    let nodes = |class: &str, value: Value| {
        json!({
            "s": sampler(json!({"steps": ["w", 0]})), "n": node(class, json!({"value": value})), "w": switch("n", "n", json!(true)),
        })
    };
    allowed(nodes("PrimitiveInt", json!(150)));
    left_out(nodes("PrimitiveString", json!("150")), "s", "return_type_mismatch");
    left_out(nodes("PrimitiveFloat", json!(150.0)), "s", "return_type_mismatch");
    left_out(nodes("PrimitiveBoolean", json!(true)), "s", "return_type_mismatch");
    // Through two switches, by the branch that is not taken, and into other inputs.
    let twice = with(
        nodes("PrimitiveString", json!("150")),
        json!({"s": sampler(json!({"steps": ["v", 0]})), "v": switch("w", "w", json!(true))}),
    );
    left_out(twice, "s", "return_type_mismatch");
    let one_branch = with(
        nodes("PrimitiveInt", json!(20)),
        json!({"t": node("PrimitiveString", json!({"value": "20"})), "w": switch("n", "t", json!(true))}),
    );
    left_out(one_branch, "s", "return_type_mismatch");
    for (input, class, value) in [
        ("cfg", "PrimitiveString", json!("nan")),
        ("seed", "PrimitiveFloat", json!(1.5)),
        ("latent_image", "PrimitiveInt", json!(1)),
    ] {
        let nodes = json!({
            "s": sampler(json!({ input: ["w", 0] })), "n": node(class, json!({"value": value})), "w": switch("n", "n", json!(true)),
        });
        left_out(nodes, "s", "return_type_mismatch");
    }
}

#[test]
fn bypass_046b_both_branches_of_an_open_switch_count() {
    let nodes = |large: i64, by: Value| {
        json!({
            "s": sampler(json!({"steps": ["w", 0]})), "a": int(20), "b": int(large), "w": switch("a", "b", by),
            "t": node("StringContains", json!({"string": "a", "substring": "b", "case_sensitive": true})),
            "yes": node("PrimitiveBoolean", json!({"value": true})),
        })
    };
    allowed(nodes(150, json!(["t", 0])));
    refused(nodes(151, json!(["t", 0])), "s", "cap_exceeded");
    refused(nodes(151, json!(false)), "s", "cap_exceeded");
    allowed(nodes(151, json!(true)));
    // A switch that is known by a link.
    allowed(nodes(151, json!(["yes", 0])));
    // A switch without its other branch, without any, and by a number.
    let alone = |inputs: Value| with(nodes(20, json!(true)), json!({"w": node("ComfySwitchNode", inputs)}));
    refused(alone(json!({"switch": ["t", 0], "on_true": ["b", 0]})), "s", "value_unbounded");
    left_out(nodes(20, json!(1)), "w", "invalid_input_type");
    left_out(nodes(20, json!("true")), "w", "invalid_input_type");
}

#[test]
fn bypass_047_steps_by_the_length_of_a_string() {
    let nodes = |text: String| json!({"s": sampler(json!({"steps": ["n", 0]})), "n": node("StringLength", json!({"string": text}))});
    allowed(nodes("é".repeat(150)));
    refused(nodes("é".repeat(151)), "s", "cap_exceeded");
    // Python counts code points, not bytes, UTF-16 units or what is seen as a letter.
    allowed(nodes("😀".repeat(150)));
    refused(nodes("e\u{301}".repeat(76)), "s", "cap_exceeded");
    refused(nodes("x".repeat(PROMPT_STRING_BYTES_MAX)), "s", "cap_exceeded");
    let joined = |length: usize| {
        let parts = json!({"string_a": "a".repeat(75), "string_b": "b".repeat(length), "delimiter": ""});
        json!({
            "s": sampler(json!({"steps": ["n", 0]})), "n": node("StringLength", json!({"string": ["c", 0]})),
            "c": node("StringConcatenate", parts),
        })
    };
    allowed(joined(75));
    refused(joined(76), "s", "cap_exceeded");
    let replaced = json!({
        "s": sampler(json!({"steps": ["n", 0]})), "n": node("StringLength", json!({"string": ["c", 0]})),
        "c": node("StringReplace", json!({"string": "x".repeat(100), "find": "x", "replace": "yy"})),
    });
    refused(replaced, "s", "cap_exceeded");
}

#[test]
fn bypass_048_sizes_from_an_uploaded_picture() {
    let nodes = |file: &str| {
        json!({
            "f": node("LoadImage", json!({"image": file})), "z": node("GetImageSize", json!({"image": ["f", 0]})),
            "l": node("EmptyLatentImage", json!({"width": ["z", 0], "height": ["z", 1], "batch_size": ["z", 2]})),
        })
    };
    allowed(nodes("me.png"));
    refused(nodes("bomb.png"), "f", "size_exceeded");
    // Under caps on steps only, the size may still not become a number of steps.
    let steps = with(nodes("bomb.png"), json!({"s": sampler(json!({"steps": ["z", 0]}))}));
    assert!(denials(&steps_policy(), steps).contains(&("s".to_owned(), "cap_exceeded")));
    let frames = with(nodes("film.gif"), json!({"s": sampler(json!({"steps": ["z", 2]}))}));
    assert!(denials(&steps_policy(), frames).contains(&("s".to_owned(), "cap_exceeded")));
}

#[test]
fn bypass_049_texts_and_fractions_for_integers() {
    allowed(json!({"s": sampler(json!({"steps": 20}))}));
    for steps in [
        json!("1_0_0_0_0"),
        json!("１００００"),
        json!(" 10000 "),
        json!(20.0),
        json!(20.9),
        json!(true),
        json!(null),
        json!({"a": 1}),
        json!("20"),
        json!(1e1),
        json!("٥"),
        json!(""),
    ] {
        left_out(json!({"s": sampler(json!({"steps": steps}))}), "s", "invalid_input_type");
        left_out(json!({"n": node("PrimitiveInt", json!({"value": steps}))}), "n", "invalid_input_type");
    }
    left_out(json!({"s": sampler(json!({"steps": 0}))}), "s", "value_smaller_than_min");
    left_out(json!({"s": sampler(json!({"seed": -1}))}), "s", "value_smaller_than_min");
    allowed(json!({"s": sampler(json!({"seed": u64::MAX}))}));
}

#[test]
fn bypass_050_texts_for_booleans() {
    for value in [json!("false"), json!(0), json!(null), json!(""), json!(1), json!({}), json!(0.0), json!("False")] {
        left_out(json!({"b": node("PrimitiveBoolean", json!({"value": value}))}), "b", "invalid_input_type");
    }
    for value in [false, true] {
        allowed(json!({"b": node("PrimitiveBoolean", json!({"value": value}))}));
    }
}

#[test]
fn bypass_051_choices_by_equality_of_python() {
    for value in [
        json!(1),
        json!(true),
        json!("Euler"),
        json!(null),
        json!({}),
        json!("euler "),
        json!("eule\u{0433}"),
        json!("ｅuler"),
        json!(0.0),
        json!("e\u{200b}uler"),
    ] {
        left_out(json!({"s": sampler(json!({"sampler_name": value}))}), "s", "value_not_in_list");
        left_out(json!({"s": sampler(json!({"scheduler": value}))}), "s", "value_not_in_list");
    }
    allowed(json!({"s": sampler(json!({"sampler_name": "euler"}))}));
}

#[test]
fn bypass_051b_choices_do_not_come_by_a_link() {
    let nodes = |input: &str, from: Value| json!({"s": sampler(json!({ input: ["n", 0] })), "n": from});
    let named = node("PrimitiveString", json!({"value": "dpm_adaptive"}));
    for input in ["sampler_name", "scheduler"] {
        refused_always(nodes(input, named.clone()), "s", "linked_input_refused");
    }
    let switched = with(nodes("sampler_name", switch("t", "t", json!(true))), json!({"t": named}));
    refused_always(switched, "s", "linked_input_refused");
    let custom = node("CustomCombo", json!({"choice": "dpm_adaptive"}));
    refused_always(nodes("sampler_name", custom), "s", "linked_input_refused");
    // A model's name is a choice too.
    let model = json!({"m": node("UNETLoader", json!({"unet_name": ["n", 0], "weight_dtype": "default"})), "n": node("PrimitiveString", json!({"value": "x"}))});
    refused_always(model, "m", "linked_input_refused");
}

#[test]
fn bypass_052_not_a_number_as_text() {
    for cfg in [json!("nan"), json!("inf"), json!("1e3"), json!("7"), json!(false), json!({"a": 1})] {
        left_out(json!({"s": sampler(json!({"cfg": cfg}))}), "s", "invalid_input_type");
    }
    left_out(json!({"s": sampler(json!({"cfg": 100.5}))}), "s", "value_bigger_than_max");
    left_out(json!({"s": sampler(json!({"cfg": -0.1}))}), "s", "value_smaller_than_min");
    for cfg in [json!(100), json!(-0.0), json!(1e2), json!(0)] {
        allowed(json!({"s": sampler(json!({"cfg": cfg}))}));
    }
}

#[test]
fn bypass_053_a_tiny_denoise() {
    for denoise in [1e-9, 1e-300, 5e-324, 0.0009] {
        refused(json!({"s": sampler(json!({"denoise": denoise}))}), "s", "denoise_too_small");
    }
    for denoise in [json!(0.01), json!(0), json!(-0.0), json!(1)] {
        allowed(json!({"s": sampler(json!({"denoise": denoise}))}));
    }
    let linked = |value: f64| json!({"s": sampler(json!({"denoise": ["d", 0]})), "d": node("PrimitiveFloat", json!({"value": value}))});
    refused(linked(1e-9), "s", "denoise_too_small");
    allowed(linked(0.01));
    refused(linked(-1e-9), "s", "value_smaller_than_min");
    // The schedulers of custom sampling have one of their own.
    let basic = |denoise: f64| {
        custom(
            node(
                "BasicScheduler",
                json!({"model": ["model", 0], "scheduler": "simple", "steps": 20, "denoise": denoise}),
            ),
            euler(),
        )
    };
    allowed(basic(0.5));
    refused(basic(1e-9), "g", "denoise_too_small");
}

#[test]
fn bypass_053b_a_cap_on_steps_brings_a_floor_of_denoise() {
    assert_eq!(denials(&steps_policy(), json!({"s": sampler(json!({"denoise": 0.001}))})), []);
    let found = denials(&steps_policy(), json!({"s": sampler(json!({"denoise": 0.0009}))}));
    assert_eq!(found, [("s".to_owned(), "denoise_too_small")]);
}

#[test]
fn bypass_054_steps_written_as_sigmas() {
    let sigmas = |text: String| custom(node("ManualSigmas", json!({"sigmas": text})), euler());
    let many = |count: usize, digit: &str| sigmas(vec![digit; count].join(", "));
    allowed(many(75, "1.5"));
    refused(many(10_000, "1"), "g", "cap_exceeded");
    refused(many(151, "١"), "g", "cap_exceeded");
    // Other digits, numbers without anything between them but a sign, and names around them.
    refused(many(151, "𝟗"), "g", "cap_exceeded");
    refused(sigmas("1-".repeat(151)), "g", "cap_exceeded");
    refused(sigmas("a1b".repeat(151)), "g", "cap_exceeded");
    // A text that comes by a link can't be counted.
    let linked = with(
        sigmas(String::new()),
        json!({"g": node("ManualSigmas", json!({"sigmas": ["t", 0]})), "t": node("PrimitiveString", json!({"value": "1, 0"}))}),
    );
    refused(linked, "g", "value_unbounded");
}

#[test]
fn bypass_054b_steps_inserted_into_a_schedule() {
    let extended = |inputs: Value| {
        let inputs = with(
            json!({"sigmas": ["h", 0], "steps": 100, "start_at_sigma": -1.0, "end_at_sigma": 12.0, "spacing": "linear"}),
            inputs,
        );
        with(
            custom(node("ExtendIntermediateSigmas", inputs), euler()),
            json!({"h": node("KarrasScheduler", json!({"steps": 20, "sigma_max": 14.0, "sigma_min": 0.03, "rho": 7.0}))}),
        )
    };
    // Each of the 20 steps becomes that many.
    for inputs in [json!({}), json!({"spacing": "cosine"}), json!({"steps": 8})] {
        refused(extended(inputs), "c", "cap_exceeded");
    }
}

#[test]
fn bypass_055_samplers_that_ignore_steps() {
    refused(json!({"s": sampler(json!({"sampler_name": "dpm_adaptive"}))}), "s", "sampler_refused");
    let karras = node("KarrasScheduler", json!({"steps": 20, "sigma_max": 14.0, "sigma_min": 0.03, "rho": 7.0}));
    let select = |name: &str| node("KSamplerSelect", json!({"sampler_name": name}));
    refused(custom(karras.clone(), select("dpm_adaptive")), "k", "sampler_refused");
    let adaptive = |tolerance: f64| {
        node(
            "SamplerDPMAdaptative",
            json!({"order": 3, "rtol": tolerance, "atol": tolerance, "h_init": 0.05, "pcoeff": 0.0, "icoeff": 1.0, "dcoeff": 0.0,
            "accept_safety": 0.81, "eta": 0.0, "s_noise": 1.0}),
        )
    };
    for tolerance in [0.0, 0.05] {
        refused(custom(karras.clone(), adaptive(tolerance)), "k", "class_denied");
    }
    // Behind a switch it is there all the same.
    let switched = with(
        custom(karras.clone(), switch("a", "b", json!(false))),
        json!({"a": select("dpm_adaptive"), "b": select("euler")}),
    );
    refused(switched, "a", "sampler_refused");
    allowed(custom(karras, euler()));
}

#[test]
fn bypass_056_a_schedule_that_is_longer_than_its_steps() {
    let nodes = |steps: u32| json!({"s": sampler(json!({"steps": steps, "scheduler": "ddim_uniform"}))});
    // 1000 // 141 is 7, and 999 steps of 7 are 143; 1000 // 143 is 6.
    allowed(nodes(141));
    refused(nodes(142), "s", "cap_exceeded");
    refused(nodes(501), "s", "cap_exceeded");
    // With a `denoise` below 1 the end of a longer schedule is taken, of exactly so many steps.
    allowed(json!({"s": sampler(json!({"steps": 150, "scheduler": "ddim_uniform", "denoise": 0.9}))}));
    let basic = |steps: u32| {
        custom(
            node(
                "BasicScheduler",
                json!({"model": ["model", 0], "scheduler": "ddim_uniform", "steps": steps, "denoise": 1.0}),
            ),
            euler(),
        )
    };
    // BasicScheduler takes the end of the schedule, of exactly so many steps.
    allowed(basic(150));
    refused(basic(151), "g", "cap_exceeded");
}
