//! The owner posture: what installed packs need works, and what brings a ComfyUI down is refused all the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
use comfygate_policy::{
    ApprovedWorkflow, Catalogue, FileFacts, OutputScope, Policy, Posture, RouteBundle, Verdict, decide, parse,
};
use serde_json::{Value, json};

/// Two core classes as 0.8.0 declares them, one core class that a later release changed, and a pack with what packs do.
fn installed() -> Catalogue {
    let shipped: Value = serde_json::from_str(include_str!("../catalogues/comfyui-0.8.0.json")).unwrap();
    let mut info = serde_json::Map::new();
    for name in
        ["EmptyImage", "SaveImage", "PreviewImage", "LoadImage", "ComfySwitchNode", "KSamplerSelect", "Preview3D"]
    {
        info.insert(name.to_owned(), shipped.get(name).unwrap().clone());
    }
    let mut changed = shipped.get("ImageInvert").unwrap().clone();
    changed["input"]["optional"] = json!({"strength": ["FLOAT", {}]});
    info.insert("ImageInvert".to_owned(), changed);
    info.insert(
        "PackNode".to_owned(),
        json!({
            "input": {"required": {"image": ["IMAGE"], "mode": [["a", "b"]], "slider": ["FLOAT_SLIDER", {"default": 1}]}},
            "output": ["*"], "output_is_list": [false], "output_node": false, "python_module": "custom_nodes.pack",
        }),
    );
    Catalogue::from_object_info(Value::Object(info).to_string().as_bytes()).unwrap()
}

fn decided(policy: &Policy, prompt: &Value) -> Result<Box<ApprovedWorkflow>, Vec<String>> {
    let parsed = parse(json!({ "prompt": prompt }).to_string().as_bytes()).unwrap();
    match decide(&parsed, policy, &installed(), &FileFacts::none()) {
        Verdict::Allow(workflow) => Ok(workflow),
        Verdict::Deny(violations) => Err(violations.iter().map(|violation| violation.code.to_owned()).collect()),
    }
}

fn owner() -> Policy {
    Policy::builtin("owner").unwrap()
}

/// The same rules for strangers.
fn tenants() -> Policy {
    Policy::from_toml("name = \"open\"\n[classes]\nallow = [\"*\"]\n").unwrap()
}

fn prompt(pack: &Value) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PackNode", "inputs": pack},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mine/x"}},
    })
}

fn sent(workflow: &ApprovedWorkflow) -> Value {
    let scope = OutputScope::new("t/me/job-1", "p", "c", "salt").unwrap();
    serde_json::from_slice(&workflow.upstream_body(&scope)).unwrap()
}

#[test]
fn a_packs_class_takes_widgets_of_its_own_and_undeclared_inputs_and_gives_anything() {
    let pack = json!({"image": ["1", 0], "mode": "c", "slider": 3, "lora_1": {"on": true, "lora": "x", "strength": 1}, "more": ["1", 0]});
    let workflow = decided(&owner(), &prompt(&pack)).unwrap();
    let body = sent(&workflow);
    assert_eq!(body.pointer("/prompt/2/inputs"), Some(&pack), "sent as it came, without salt");
    assert_eq!(body.pointer("/prompt/3/inputs/filename_prefix"), Some(&json!("t/me/job-1/mine/x")));
    assert_eq!(body.pointer("/prompt/1/inputs/comfygate_salt"), Some(&json!("salt")));
    let refused = decided(&tenants(), &prompt(&pack)).unwrap_err();
    for code in ["undeclared_input", "value_not_in_list", "invalid_input_type", "return_type_mismatch"] {
        assert!(refused.iter().any(|found| found == code), "{code} in {refused:?}");
    }
}

#[test]
fn a_class_that_a_later_release_changed_runs_for_its_owner_and_not_for_strangers() {
    let graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0], "strength": 0.5}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    });
    assert!(decided(&owner(), &graph).is_ok());
    assert_eq!(decided(&tenants(), &graph).unwrap_err(), ["class_closed"]);
}

#[test]
fn a_class_that_is_not_installed_is_refused_in_either_posture() {
    let graph = json!({"1": {"class_type": "NotInstalled", "inputs": {}}});
    for policy in [owner(), tenants()] {
        assert!(decided(&policy, &graph).unwrap_err().contains(&"class_unknown".to_owned()));
    }
}

#[test]
fn files_of_before_the_gateway_pass_for_the_owner_and_paths_and_our_own_folders_do_not() {
    let load = |name: &str| {
        let graph = json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        });
        decided(&owner(), &graph).map(|workflow| sent(&workflow).pointer("/prompt/1/inputs/image").cloned())
    };
    assert_eq!(load("old/example.png").unwrap(), Some(json!("old/example.png")));
    assert_eq!(load("example.png [output]").unwrap(), Some(json!("example.png [output]")));
    assert_eq!(load("t/another/x.png").unwrap_err(), ["file_not_found"]);
    for path in ["../x.png", "/etc/x.png", "old/../../x.png"] {
        assert_eq!(load(path).unwrap_err(), ["path_refused"], "{path}");
    }
    assert_eq!(load("x.pngZ[output]").unwrap_err(), ["file_suffix_refused"]);
}

#[test]
fn what_ends_a_comfyui_is_refused_for_the_owner_too() {
    // K14: a sampler object in a file name's place ends the process.
    let graph = json!({
        "1": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "2": {"class_type": "ComfySwitchNode", "inputs": {"switch": true, "on_false": ["1", 0], "on_true": ["1", 0]}},
        "3": {"class_type": "Preview3D", "inputs": {"model_file": ["2", 0]}},
    });
    assert!(decided(&owner(), &graph).unwrap_err().contains(&"return_type_mismatch".to_owned()));
    // K2: an undeclared link that leads nowhere kills the worker; it is no graph at all for us.
    let pack = json!({"image": ["1", 0], "mode": "a", "slider": 1, "more": ["404", 0]});
    assert!(parse(json!({"prompt": prompt(&pack)}).to_string().as_bytes()).is_err());
    // An undeclared link on a class of ComfyUI's own runs what nobody validated.
    let graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0], "zzz": ["1", 0]}},
    });
    assert_eq!(decided(&owner(), &graph).unwrap_err(), ["undeclared_input"]);
}

#[test]
fn an_undeclared_value_on_a_class_of_comfyuis_own_is_left_out_for_the_owner() {
    let graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0, "left_behind": 1}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    });
    let workflow = decided(&owner(), &graph).unwrap();
    assert_eq!(sent(&workflow).pointer("/prompt/1/inputs/left_behind"), None);
    assert_eq!(decided(&tenants(), &graph).unwrap_err(), ["undeclared_input"]);
}

#[test]
fn an_owners_caps_hold_for_comfyuis_own_classes() {
    let capped = "name = \"mine\"\nposture = \"owner\"\n[classes]\nallow = [\"*\"]\n[caps]\nwidth = 63\n";
    let pack = json!({"image": ["1", 0], "mode": "a", "slider": 1});
    let refused = decided(&Policy::from_toml(capped).unwrap(), &prompt(&pack)).unwrap_err();
    assert!(refused.iter().any(|code| code.contains("exceeded")), "{refused:?}");
    let roomy = capped.replace("63", "64");
    assert!(decided(&Policy::from_toml(&roomy).unwrap(), &prompt(&pack)).is_ok());
}

#[test]
fn a_bundle_of_routes_is_opened_by_name_and_for_owners_only() {
    let document =
        |posture: &str, routes: &str| format!("name = \"x\"\nposture = \"{posture}\"\nroutes = [{routes}]\n");
    let read = |text: String| Policy::from_toml(&text);
    let policy = read(document("owner", "\"manager\"")).unwrap();
    assert!(policy.opens(RouteBundle::Manager));
    assert_eq!(policy.posture(), Posture::Owner);
    assert!(!read(document("owner", "")).unwrap().opens(RouteBundle::Manager));
    assert!(!owner().opens(RouteBundle::Manager));
    assert!(read(document("tenants", "")).is_ok());
    assert!(read(document("tenants", "\"manager\"")).is_err());
    assert!(read(document("owner", "\"managers\"")).is_err());
    assert!(read(document("owners", "")).is_err());
}

#[test]
fn a_class_of_an_installation_that_nobody_asked_is_taken_on_trust_for_its_owner_only() {
    let mut graph = prompt(&json!({"image": ["1", 0], "mode": "a", "slider": 1}));
    graph["2"]["class_type"] = json!("NobodyKnows");
    let parsed = parse(json!({ "prompt": graph }).to_string().as_bytes()).unwrap();
    let refused = |policy: &Policy, catalogue: &Catalogue| {
        matches!(decide(&parsed, policy, catalogue, &FileFacts::none()), Verdict::Deny(_))
    };
    assert!(!refused(&owner(), Catalogue::builtin()));
    assert!(refused(&owner(), &installed()));
    assert!(refused(&tenants(), Catalogue::builtin()));
}
