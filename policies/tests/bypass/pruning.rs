//! What is invalid is left out as ComfyUI leaves it out: outputs that validate run, and the others are told.

use comfygate_policy::{Policy, Verdict, ViolationKind};
use serde_json::{Value, json};

use super::{node, open_policy, prompt, sampler, sent, shipped, verdict_under};

fn decided(policy: &Policy, nodes: Value) -> Verdict {
    verdict_under(policy, &json!({"prompt": prompt(nodes)}))
}

/// What is sent, and the `node_errors` beside it.
fn pruned(nodes: Value) -> (Value, Value) {
    match decided(&shipped("default"), nodes) {
        Verdict::Allow(approved) => (sent(&approved)["prompt"].clone(), approved.node_errors()),
        Verdict::Deny(violations) => panic!("{}", violations.to_json()),
    }
}

fn scale(image: Value, width: Value) -> Value {
    node(
        "ImageScale",
        json!({"image": image, "upscale_method": "area", "width": width, "height": 64, "crop": "disabled"}),
    )
}

fn preview(from: &str) -> Value {
    node("PreviewImage", json!({"images": [from, 0]}))
}

#[test]
fn a_workflow_that_is_valid_has_no_node_errors() {
    let (all, errors) = pruned(json!({"a": scale(json!(["image", 0]), json!(64)), "p": preview("a")}));
    assert!(all.get("a").is_some() && all.get("p").is_some());
    assert_eq!(errors, json!({}));
}

#[test]
fn what_is_invalid_goes_with_all_that_it_feeds_and_what_feeds_it_stays() {
    let (left, errors) = pruned(json!({
        "below": scale(json!(["image", 0]), json!(32)),
        "bad": scale(json!(["below", 0]), json!("64")),
        "after": scale(json!(["bad", 0]), json!(64)),
        "p": preview("after"),
        "q": preview("below"),
        "side": preview("bad"),
    }));
    let ids: Vec<&String> = left.as_object().unwrap().keys().collect();
    assert_eq!(ids, ["empty", "image", "show", "model", "text", "below", "q"]);
    assert_eq!(errors.as_object().unwrap().keys().collect::<Vec<_>>(), ["bad"]);
    assert_eq!(errors["bad"]["class_type"], "ImageScale");
    assert_eq!(errors["bad"]["dependent_outputs"], json!(["p", "side"]));
    assert_eq!(errors["bad"]["errors"][0]["type"], "invalid_input_type");
    assert_eq!(errors["bad"]["errors"][0]["extra_info"]["input_name"], "width");
}

#[test]
fn an_invalid_node_that_no_output_reaches_is_left_out_and_not_told_as_in_comfyui() {
    let (left, errors) = pruned(json!({"bad": scale(json!(["image", 0]), json!("64"))}));
    assert_eq!(left.get("bad"), None);
    assert_eq!(errors, json!({}));
}

#[test]
fn every_kind_of_invalid_input_prunes() {
    for (inputs, kind) in [
        (json!({"width": 64, "height": 64, "crop": "disabled", "upscale_method": "area"}), "required_input_missing"),
        (
            json!({"image": ["empty", 0], "width": 64, "height": 64, "crop": "disabled", "upscale_method": "area"}),
            "return_type_mismatch",
        ),
        (
            json!({"image": ["image", 7], "width": 64, "height": 64, "crop": "disabled", "upscale_method": "area"}),
            "bad_linked_input",
        ),
        (
            json!({"image": ["image", 0], "width": -1, "height": 64, "crop": "disabled", "upscale_method": "area"}),
            "value_smaller_than_min",
        ),
        (
            json!({"image": ["image", 0], "width": 64, "height": 64, "crop": "other", "upscale_method": "area"}),
            "value_not_in_list",
        ),
        (
            json!({"image": 5, "width": 64, "height": 64, "crop": "disabled", "upscale_method": "area"}),
            "invalid_input_type",
        ),
    ] {
        let (left, errors) = pruned(json!({"bad": node("ImageScale", inputs), "p": preview("bad")}));
        assert_eq!((left.get("bad"), left.get("p")), (None, None), "{kind}");
        assert_eq!(errors["bad"]["errors"][0]["type"], kind, "{errors}");
    }
}

#[test]
fn without_any_output_that_validates_the_whole_is_invalid() {
    let nodes = json!({"show": preview("bad"), "bad": scale(json!(["image", 0]), json!("64"))});
    let Verdict::Deny(violations) = decided(&shipped("default"), nodes) else { panic!("allowed") };
    assert_eq!(violations.kind(), ViolationKind::Invalid);
    assert_eq!(violations.to_comfyui()["error"]["type"], "prompt_outputs_failed_validation");
    // By targets, too: the output that would run is not wanted.
    let nodes = json!({"p": preview("bad"), "bad": scale(json!(["image", 0]), json!("64"))});
    let body = json!({"prompt": prompt(nodes), "partial_execution_targets": ["p"]});
    assert!(matches!(verdict_under(&shipped("default"), &body), Verdict::Deny(_)));
}

#[test]
fn targets_that_are_left_out_are_no_targets_any_more() {
    let nodes = json!({"p": preview("bad"), "bad": scale(json!(["image", 0]), json!("64"))});
    let body = json!({"prompt": prompt(nodes), "partial_execution_targets": ["p", "show", "bad"]});
    let Verdict::Allow(approved) = verdict_under(&shipped("default"), &body) else { panic!("refused") };
    assert_eq!(sent(&approved)["partial_execution_targets"], json!(["show"]));
    assert_eq!(approved.output_nodes().iter().map(ToString::to_string).collect::<Vec<_>>(), ["show"]);
}

#[test]
fn one_broken_rule_of_the_policy_refuses_the_whole() {
    for (id, bad) in [
        ("c", sampler(json!({"steps": 10_000}))),
        ("c", node("SaveSVGNode", json!({}))),
        ("c", node("LoadImage", json!({"image": "../x"}))),
        ("c", scale(json!(["image", 0]), json!(4097))),
    ] {
        let nodes = json!({"bad": scale(json!(["image", 0]), json!("64")), "p": preview("bad"), id: bad});
        let Verdict::Deny(violations) = decided(&shipped("default"), nodes) else { panic!("allowed") };
        assert_eq!(violations.kind(), ViolationKind::Denied);
    }
    // Nor does an invalid input of the same node save it from the rule.
    let nodes = json!({"s": sampler(json!({"steps": 10_000, "cfg": "x"}))});
    let Verdict::Deny(violations) = decided(&shipped("default"), nodes) else { panic!("allowed") };
    assert_eq!(violations.kind(), ViolationKind::Denied);
}

#[test]
fn an_unknown_class_refuses_the_whole_as_in_comfyui() {
    for nodes in
        [json!({"x": node("NoSuchClass", json!({}))}), json!({"x": node("NoSuchClass", json!({})), "p": preview("x")})]
    {
        let Verdict::Deny(violations) = decided(&open_policy(), nodes) else { panic!("allowed") };
        assert_eq!(violations.kind(), ViolationKind::Invalid);
        assert!(violations.iter().any(|violation| violation.code == "class_unknown"));
    }
}

#[test]
fn what_is_left_out_costs_nothing_and_what_is_left_is_decided_alone() {
    let cost = |nodes: Value| match decided(&shipped("default"), nodes) {
        Verdict::Allow(approved) => approved.cost().units(),
        Verdict::Deny(violations) => panic!("{}", violations.to_json()),
    };
    let plain = cost(json!({}));
    let invalid = json!({"s": sampler(json!({"cfg": "x"})), "d": node("VAEDecode", json!({"samples": ["s", 0], "vae": ["model", 2]})), "p": preview("d")});
    assert!((cost(invalid) - plain).abs() < 1e-9);
    // What is sent is what would have been sent without it.
    let bare = pruned(json!({})).0;
    let left = pruned(json!({"s": sampler(json!({"cfg": "x"}))})).0;
    assert_eq!(left, bare);
}
