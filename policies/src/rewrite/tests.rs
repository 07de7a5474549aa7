use serde_json::Value;

use super::*;
use crate::{Catalogue, Directory, FileFact, FileFacts, Policy, Verdict, decide, parse};

fn approved(prompt: &str, rest: &str) -> ApprovedWorkflow {
    let parsed = parse(format!("{{\"prompt\":{prompt}{rest}}}").as_bytes()).unwrap();
    let mut files = FileFacts::none();
    let fact = FileFact { canonical_name: "t/q/up1.png".into(), width: 512, height: 512, frames: 1, seconds: Some(10) };
    files.insert("me.png", Directory::Input, fact);
    match decide(&parsed, &Policy::builtin("default").unwrap(), Catalogue::builtin(), &files) {
        Verdict::Allow(approved) => *approved,
        Verdict::Deny(violations) => panic!("{}", violations.to_json()),
    }
}

fn sent(approved: &ApprovedWorkflow) -> Value {
    let scope = OutputScope::new("t/q7/j1-1", "p-1", "c_1", "s4lt").unwrap();
    serde_json::from_slice(&approved.upstream_body(&scope)).unwrap()
}

const PROMPT: &str = r#"{"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"a/ü"},"_meta":{"title":"T"},"is_changed":[1]},
    "1":{"class_type":"LoadImage","inputs":{"image":"me.png","upload":"image"}},
    "3":{"class_type":"PreviewImage","inputs":{"images":["1",0]}},
    "4":{"class_type":"VAELoader","inputs":{"vae_name":"x"}}}"#;

#[test]
fn what_is_sent_is_ours() {
    let approved = approved(
        PROMPT,
        r#","prompt_id":"theirs","client_id":"theirs","number":-5,"extra_data":{"api_key_comfy_org":"k","extra_pnginfo":{"workflow":{"id":"w"}}}"#,
    );
    let body = sent(&approved);
    assert_eq!((body["prompt_id"].as_str(), body["client_id"].as_str()), (Some("p-1"), Some("c_1")));
    assert_eq!(body["extra_data"], serde_json::json!({"extra_pnginfo": {"workflow": {"id": "w"}}, "client_id": "c_1"}));
    assert_eq!(body.as_object().unwrap().len(), 4);
    let save = &body["prompt"]["9"];
    assert_eq!(save["inputs"]["filename_prefix"], "t/q7/j1-1/a/_");
    assert_eq!(save["_meta"]["title"], "T");
    assert_eq!(save.get("is_changed"), None);
    let load = &body["prompt"]["1"]["inputs"];
    assert_eq!(load, &serde_json::json!({"image": "t/q/up1.png", SALT_INPUT: "s4lt"}));
    let ids: Vec<&String> = body["prompt"].as_object().unwrap().keys().collect();
    assert_eq!(ids, ["9", "1", "3", "4"]);
}

#[test]
fn output_nodes_of_a_class_are_those_that_run_and_no_others() {
    let prompt = r#"{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":0}},
        "ws2":{"class_type":"SaveImageWebsocket","inputs":{"images":["1",0]}},
        "ws1":{"class_type":"SaveImageWebsocket","inputs":{"images":["1",0]}},
        "3":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}"#;
    let of = |approved: &ApprovedWorkflow, class: &str| -> Vec<String> {
        approved.output_nodes_of(class).map(ToString::to_string).collect()
    };
    let all = approved(prompt, "");
    assert_eq!(of(&all, "SaveImageWebsocket"), ["ws2", "ws1"]);
    assert_eq!(of(&all, "PreviewImage"), ["3"]);
    assert!(of(&all, "EmptyImage").is_empty(), "no output node");
    let some = approved(prompt, r#","partial_execution_targets":["3","ws1"]"#);
    assert_eq!(of(&some, "SaveImageWebsocket"), ["ws1"]);
    let parsed = parse(format!("{{\"prompt\":{prompt}}}").as_bytes()).unwrap();
    let nodes: Vec<String> = parsed.nodes_of("SaveImageWebsocket").map(ToString::to_string).collect();
    assert_eq!(nodes, ["ws2", "ws1"]);
    assert_eq!(parsed.nodes_of("SaveImage").count(), 0);
}

#[test]
fn the_salt_is_in_every_node_but_pure_model_loaders() {
    let body = sent(&approved(PROMPT, ""));
    for (id, salted) in [("9", true), ("1", true), ("3", true), ("4", false)] {
        assert_eq!(body["prompt"][id]["inputs"].get(SALT_INPUT).is_some(), salted, "{id}");
    }
}

#[test]
fn every_change_is_listed() {
    let approved = approved(PROMPT, "");
    assert_eq!(approved.dropped(), [Dropped { node: "1".parse().unwrap(), input: "upload".into() }]);
    let changes: Vec<(&str, &str)> =
        approved.replaced().iter().map(|change| (change.from.as_str(), change.to.as_str())).collect();
    assert_eq!(changes, [("a/ü", "a/_"), ("me.png", "t/q/up1.png")]);
    let target = &approved.save_targets()[0];
    assert_eq!((target.node.as_str(), target.folder.as_str(), target.base_name.as_str()), ("9", "a", "ü"));
}

#[test]
fn outputs_are_in_the_caller_s_order_and_restricted_by_targets() {
    let ids = |approved: &ApprovedWorkflow| approved.output_nodes().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(ids(&approved(PROMPT, "")), ["9", "3"]);
    let some = approved(PROMPT, r#","partial_execution_targets":["3"]"#);
    assert_eq!(ids(&some), ["3"]);
    assert_eq!(sent(&some)["partial_execution_targets"], serde_json::json!(["3"]));
}

#[test]
fn an_absent_save_prefix_is_put_into_the_attempt_s_folder() {
    let object_info = br#"{"Keep":{"input":{"optional":{"filename_prefix":["STRING",{}]}},"output":[],"output_node":true,"python_module":"custom_nodes.k"}}"#;
    let catalogue = Catalogue::from_object_info(object_info).unwrap();
    let policy = Policy::from_toml("name = \"x\"\n[classes]\nallow = [\"Keep\"]").unwrap();
    let parsed = parse(br#"{"prompt":{"1":{"class_type":"Keep","inputs":{}}}}"#).unwrap();
    let Verdict::Allow(approved) = decide(&parsed, &policy, &catalogue, &FileFacts::none()) else { panic!("refused") };
    assert_eq!(sent(&approved)["prompt"]["1"]["inputs"]["filename_prefix"], "t/q7/j1-1/ComfyUI");
    assert_eq!(approved.save_targets().len(), 1);
}

#[test]
fn a_scope_has_one_alphabet() {
    for folder in ["t/q7/j-1", "a", "0-9/z"] {
        assert!(OutputScope::new(folder, "p", "c", "s").is_ok(), "{folder}");
    }
    for folder in ["", "/a", "a/", "a//b", "a/../b", "A", "a.b", "a_b", &"x".repeat(201)] {
        assert_eq!(OutputScope::new(folder, "p", "c", "s"), Err(ScopeError::Folder), "{folder}");
    }
    for id in ["", "a b", "a/b", &"x".repeat(201)] {
        assert_eq!(OutputScope::new("a", id, "c", "s"), Err(ScopeError::Id));
        assert_eq!(OutputScope::new("a", "p", id, "s"), Err(ScopeError::Id));
        assert_eq!(OutputScope::new("a", "p", "c", id), Err(ScopeError::Id));
    }
}

/// A picture of a paid node, if wanted, under a policy that lets it run.
fn with_credential(class: &str, inputs: &str) -> (Vec<u8>, Value) {
    let prompt = format!(
        r#"{{"1":{{"class_type":"{class}","inputs":{{{inputs}}}}},"3":{{"class_type":"PreviewImage","inputs":{{"images":["1",0]}}}}}}"#
    );
    let body = format!(r#"{{"prompt":{prompt},"extra_data":{{"api_key_comfy_org":"hunter2"}}}}"#);
    let parsed = parse(body.as_bytes()).unwrap();
    let policy = Policy::from_toml("name = \"p\"\npaid_nodes = \"caller\"\n[classes]\nallow = [\"*\"]\n").unwrap();
    let Verdict::Allow(approved) = decide(&parsed, &policy, Catalogue::builtin(), &FileFacts::none()) else {
        panic!("refused")
    };
    let paid = OutputScope::new("t/q7/j1-1", "p-1", "c_1", "s4lt").unwrap().paid_with(parsed.comfy_org().unwrap());
    assert!(!format!("{parsed:?}{paid:?}{approved:?}").contains("hunter2"));
    assert!(!sent(&approved).to_string().contains("hunter2"), "an attempt without it sends none");
    let with = serde_json::from_slice(&approved.upstream_body(&paid)).unwrap();
    (parsed.canonical(), with)
}

#[test]
fn a_credential_goes_upstream_beside_a_paid_node_and_nowhere_else() {
    let (canonical, body) = with_credential("IdeogramV1", r#""prompt":"x","turbo":false"#);
    assert_eq!(body["extra_data"], serde_json::json!({"client_id": "c_1", "api_key_comfy_org": "hunter2"}));
    assert!(!String::from_utf8(canonical).unwrap().contains("hunter2"));
    let (canonical, body) = with_credential("EmptyImage", r#""width":64,"height":64,"batch_size":1,"color":0"#);
    assert_eq!(body["extra_data"], serde_json::json!({"client_id": "c_1"}));
    assert!(!String::from_utf8(canonical).unwrap().contains("hunter2"));
}

#[test]
fn a_credential_is_written_as_json_whatever_its_characters_are() {
    let prompt = r#"{"1":{"class_type":"IdeogramV1","inputs":{"prompt":"x","turbo":false}},"3":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}"#;
    let parsed = parse(format!("{{\"prompt\":{prompt}}}").as_bytes()).unwrap();
    let policy = Policy::from_toml("name = \"p\"\npaid_nodes = \"gateway\"\n[classes]\nallow = [\"*\"]\n").unwrap();
    let Verdict::Allow(approved) = decide(&parsed, &policy, Catalogue::builtin(), &FileFacts::none()) else {
        panic!("refused")
    };
    let odd = ComfyOrgCredential::new(Some(r#"a","x":"b"#), Some(r"\u0041")).unwrap().unwrap();
    let scope = OutputScope::new("t/q7/j1-1", "p-1", "c_1", "s4lt").unwrap().paid_with(&odd);
    let body: Value = serde_json::from_slice(&approved.upstream_body(&scope)).unwrap();
    let wanted =
        serde_json::json!({"client_id": "c_1", "auth_token_comfy_org": r#"a","x":"b"#, "api_key_comfy_org": r"\u0041"});
    assert_eq!(body["extra_data"], wanted);
}
