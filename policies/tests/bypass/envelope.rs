//! Entries 23 to 35: what stands around the graph.

use comfygate_policy::{Verdict, parse};
use serde_json::{Value, json};

use super::{node, prompt, refused, sampler, shipped, unparsable, upstream, verdict_under};

fn envelope(members: Value) -> Value {
    super::with(json!({"prompt": prompt(json!({}))}), members)
}

fn extra(members: Value) -> Value {
    envelope(json!({ "extra_data": members }))
}

#[test]
fn bypass_023_a_foreign_prompt_id_does_not_go_upstream() {
    for id in ["theirs", "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "0"] {
        let body = upstream(&envelope(json!({ "prompt_id": id })));
        assert_eq!(body["prompt_id"], "our-prompt");
        assert!(!body.to_string().contains("theirs"));
    }
    // Nor from where a newer release or an extension might look for it.
    let body = upstream(&extra(json!({"prompt_id": "theirs", "extra_pnginfo": {"prompt_id": "theirs"}})));
    assert!(!body.to_string().contains("theirs"));
}

#[test]
fn bypass_024_a_prompt_id_of_another_type_or_size() {
    for (id, code) in [
        (json!({"a": 1}), "invalid_type"),
        (json!(5), "invalid_type"),
        (json!("x".repeat(4000)), "invalid_id"),
        (json!(["x"]), "invalid_type"),
        (json!(true), "invalid_type"),
        (json!(""), "invalid_id"),
        (json!("a/../b"), "invalid_id"),
        (json!("ａ"), "invalid_id"),
        (json!("a\u{0}"), "invalid_id"),
    ] {
        unparsable(&envelope(json!({ "prompt_id": id })).to_string(), code);
    }
    upstream(&envelope(json!({"prompt_id": null})));
    upstream(&envelope(json!({"prompt_id": "x".repeat(64)})));
}

#[test]
fn bypass_025_number_and_front_do_not_go_upstream() {
    for number in [json!(-1e9), json!("-inf"), json!(true), json!([1]), json!({"a": 1}), json!(0), json!(null)] {
        let body = upstream(&envelope(json!({"number": number, "front": true})));
        assert!(body.get("number").is_none() && body.get("front").is_none());
        let nested = upstream(&extra(json!({"number": number, "front": 1, "create_time": -1})));
        assert_eq!(nested["extra_data"], json!({"client_id": "our-client"}));
    }
}

#[test]
fn bypass_026_a_number_that_is_not_one() {
    for text in ["NaN", "Infinity", "1e999"] {
        unparsable(&format!(r#"{{"prompt":{{}},"number":{text}}}"#), "not_finite");
    }
    unparsable(r#"{"prompt":{},"number":-NaN}"#, "invalid_json");
    upstream(&envelope(json!({"number": "nan"})));
}

#[test]
fn bypass_027_a_foreign_client_id_does_not_go_upstream() {
    for body in [
        envelope(json!({"client_id": "victim"})),
        extra(json!({"client_id": "victim"})),
        envelope(json!({"client_id": "mine", "extra_data": {"client_id": "victim"}})),
        envelope(json!({"client_id": "mine", "clientId": "victim", "sid": "victim"})),
    ] {
        let body = upstream(&body);
        assert_eq!(
            (&body["client_id"], &body["extra_data"]["client_id"]),
            (&json!("our-client"), &json!("our-client"))
        );
        assert!(!body.to_string().contains("victim"));
    }
}

#[test]
fn bypass_028_a_client_id_of_another_type() {
    for id in [json!({}), json!([1]), json!(1), json!(true), json!([]), json!({"__value__": "x"}), json!(0.5)] {
        unparsable(&envelope(json!({ "client_id": id })).to_string(), "invalid_type");
        unparsable(&extra(json!({ "client_id": id })).to_string(), "invalid_type");
        let nested = envelope(json!({"client_id": "good", "extra_data": {"client_id": id}}));
        unparsable(&nested.to_string(), "invalid_type");
    }
    upstream(&envelope(json!({"client_id": "good"})));
}

#[test]
fn bypass_029_a_client_id_is_always_set() {
    for body in [
        envelope(json!({})),
        envelope(json!({"client_id": null})),
        extra(json!({"client_id": null})),
        extra(json!(null)),
    ] {
        let body = upstream(&body);
        assert_eq!(
            (&body["client_id"], &body["extra_data"]["client_id"]),
            (&json!("our-client"), &json!("our-client"))
        );
    }
    unparsable(&envelope(json!({"client_id": ""})).to_string(), "invalid_id");
}

#[test]
fn bypass_030_page_information_that_is_no_object() {
    for info in [json!(null), json!({"workflow": null}), json!({}), json!({"other": null})] {
        let body = upstream(&extra(json!({ "extra_pnginfo": info })));
        assert!(body["extra_data"].get("extra_pnginfo").is_none());
    }
    for info in [
        json!([]),
        json!("x"),
        json!({"workflow": [1]}),
        json!({"workflow": "x"}),
        json!(0),
        json!({"workflow": false}),
    ] {
        unparsable(&extra(json!({ "extra_pnginfo": info })).to_string(), "invalid_type");
    }
    for other in [json!([]), json!("x"), json!(1), json!(false)] {
        unparsable(&extra(other).to_string(), "invalid_type");
    }
    let body = upstream(&extra(json!({"extra_pnginfo": {"workflow": {"id": "x"}, "other": null}})));
    assert_eq!(body["extra_data"]["extra_pnginfo"], json!({"workflow": {"id": "x"}}));
}

#[test]
fn bypass_031_script_in_a_stored_svg() {
    let svg = |value: &str| json!({"v": node("SaveSVGNode", json!({"svg": ["x", 0]})), "x": node("PrimitiveString", json!({"value": value}))});
    for script in ["]]>", "<svg onload=alert(1)>", "]]&gt;"] {
        refused(svg(script), "v", "class_denied");
    }
    // The page's own form of the graph is what is embedded: it may say what it likes, since nothing serves it as a document.
    let body = upstream(&extra(json!({"extra_pnginfo": {"workflow": {"x": "]]><script>"}}})));
    assert_eq!(body["extra_data"]["extra_pnginfo"]["workflow"]["x"], "]]><script>");
}

#[test]
fn bypass_032_secrets_are_dropped() {
    for secrets in [
        json!({"api_key_comfy_org": "k1", "auth_token_comfy_org": "k2", "my_token": "k3"}),
        json!({"extra_pnginfo": {"api_key_comfy_org": "k1"}, "comfy_usage_source": "k2"}),
        json!({"API_KEY_COMFY_ORG": "k1", "auth": {"token": "k2"}}),
    ] {
        let body = upstream(&super::with(extra(secrets), json!({"api_key_comfy_org": "k4"})));
        assert_eq!(body["extra_data"], json!({"client_id": "our-client"}));
        assert!(!body.to_string().contains("k4"));
    }
}

#[test]
fn bypass_032_a_credential_is_a_short_text_or_refused_and_never_repeated() {
    let longest = "k".repeat(comfygate_policy::CREDENTIAL_BYTES_MAX);
    for key in ["api_key_comfy_org", "auth_token_comfy_org"] {
        for good in [json!(null), json!(""), json!("k"), json!("!~"), json!(longest)] {
            upstream(&extra(json!({ key: good })));
        }
        for bad in ["se cret", "secret\n", "sécret", &format!("{longest}k")] {
            let error = unparsable(&extra(json!({ key: bad })).to_string(), "invalid_credential");
            assert!(!error.to_string().contains(bad), "{error}");
        }
        for other in [json!(5), json!(true), json!(["secret"]), json!({"a": "secret"})] {
            let error = unparsable(&extra(json!({ key: other })).to_string(), "invalid_type");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}

#[test]
fn bypass_033_preview_method_is_one_of_five() {
    let body = |method: Value| extra(json!({ "preview_method": method }));
    for method in ["none", "auto", "latent2rgb", "taesd", "default"] {
        assert_eq!(upstream(&body(json!(method)))["extra_data"]["preview_method"], method);
    }
    for method in [json!("TAESD"), json!("x"), json!(1), json!({}), json!(["auto"]), json!("auto "), json!("")] {
        unparsable(&body(method).to_string(), "invalid_preview_method");
    }
    assert!(upstream(&envelope(json!({"preview_method": "taesd"})))["extra_data"].get("preview_method").is_none());
}

#[test]
fn bypass_034_targets_do_not_hide_the_rest_of_the_graph() {
    let hidden = |targets: Value| json!({"prompt": prompt(json!({"s": sampler(json!({"steps": 10_000}))})), "partial_execution_targets": targets});
    for targets in [json!(["show"]), json!([]), json!(["show", "show"]), json!(["model"])] {
        assert!(matches!(verdict_under(&shipped("default"), &hidden(targets)), Verdict::Deny(_)));
    }
    for targets in [json!("show"), json!({"show": 1}), json!(5), json!(true)] {
        unparsable(&envelope(json!({ "partial_execution_targets": targets })).to_string(), "invalid_type");
    }
    for targets in [json!(["other"]), json!([["show"]]), json!([1]), json!(["show", "sho\u{17f}w"]), json!([null])] {
        unparsable(&envelope(json!({ "partial_execution_targets": targets })).to_string(), "invalid_target");
    }
    let body = upstream(&envelope(json!({"partial_execution_targets": ["show", "show"]})));
    assert_eq!(body["partial_execution_targets"], json!(["show"]));
    assert!(upstream(&envelope(json!({"partial_execution_targets": null}))).get("partial_execution_targets").is_none());
}

#[test]
fn bypass_034b_targets_without_an_output_run_nothing() {
    for targets in [json!([]), json!(["model", "text"])] {
        let body = envelope(json!({ "partial_execution_targets": targets }));
        let Verdict::Deny(violations) = verdict_under(&shipped("default"), &body) else { panic!("allowed") };
        assert!(violations.iter().any(|violation| violation.code == "prompt_no_outputs"));
    }
}

#[test]
fn bypass_035_unknown_top_level_fields_are_dropped() {
    for members in [
        json!({"workflow_id": "x", "zzz": {"a": 1}}),
        json!({"workflow_metadata": {"x": 1}, "__proto__": {"prompt": {}}, "Prompt": {}, "prompt ": {}}),
        json!({"partial_execution": ["x"], "Comfy-Usage-Source": "x", "user_id": "y"}),
    ] {
        let body = upstream(&envelope(members));
        let mut keys: Vec<&String> = body.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["client_id", "extra_data", "prompt", "prompt_id"]);
    }
    // Keys are exact: another letter case is another key.
    assert_eq!(
        parse(br#"{"Prompt":{"1":{"class_type":"A","inputs":{}}}}"#).map(|_| ()).unwrap_err().code(),
        "no_prompt"
    );
}
