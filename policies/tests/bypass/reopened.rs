//! A saved picture opens again: the graph that ComfyUI writes into a picture is the one that it was sent, and its owner may submit it as it is.

use comfygate_policy::{Catalogue, Directory, FileFact, FileFacts, OutputScope, Policy, Verdict, decide, parse};
use serde_json::{Value, json};

use super::{node, prompt, with};

const OWNER: &str = "abcdefgh23456777";

fn scope(job: &str, salt: &str) -> OutputScope {
    OutputScope::new(&format!("t/{OWNER}/{job}-1"), "p", "c", salt).unwrap()
}

fn job(n: u8) -> String {
    format!("0190a7c4-8f5e-7cc1-b7a3-0123456789a{n}")
}

/// The owner's own files: an upload under its own name, and under the one that a backend knows it by.
fn files() -> FileFacts {
    let mut files = FileFacts::none();
    let upstream = format!("t/{OWNER}/0190a7c4-8f5e-7cc1-b7a3-00000000000f.png");
    let fact = FileFact { canonical_name: upstream.clone(), width: 512, height: 512, frames: 1, seconds: Some(10) };
    files.insert("me.png", Directory::Input, fact.clone());
    files.insert(upstream, Directory::Input, fact);
    files
}

fn workflow() -> Value {
    let nodes = json!({
        "f": node("LoadImage", json!({"image": "me.png [input]"})),
        "o": node("SaveImage", json!({"images": ["f", 0], "filename_prefix": "cats/%year%/cat"})),
        "none": node("SaveImage", json!({"images": ["f", 0], "filename_prefix": ""})),
    });
    prompt(nodes)
}

fn run(policy: &Policy, graph: &Value, scope: &OutputScope) -> (Value, Vec<String>) {
    let parsed = parse(json!({ "prompt": graph }).to_string().as_bytes()).unwrap();
    match decide(&parsed, policy, Catalogue::builtin(), &files()) {
        Verdict::Deny(violations) => panic!("{}: {}", policy.name(), violations.to_json()),
        Verdict::Allow(approved) => {
            let body: Value = serde_json::from_slice(&approved.upstream_body(scope)).unwrap();
            let targets =
                approved.save_targets().iter().map(|one| format!("{}: {} {}", one.node, one.folder, one.base_name));
            (body["prompt"].clone(), targets.collect())
        }
    }
}

#[test]
fn a_graph_from_a_picture_is_sent_as_the_first_time() {
    for policy in super::all_policies().iter().filter(|policy| !["strict", "shadow"].contains(&policy.name())) {
        let first = run(policy, &workflow(), &scope(&job(1), "salt"));
        let again = run(policy, &first.0, &scope(&job(1), "salt"));
        assert_eq!(again, first, "{}", policy.name());
        // A later attempt differs by its folder only; so does the one after that.
        let later = run(policy, &first.0, &scope(&job(2), "salt"));
        assert_eq!(later.0.to_string().replace(&job(2), &job(1)), first.0.to_string());
        assert_eq!(later.1, first.1);
        let last = run(policy, &later.0, &scope(&job(3), "salt"));
        assert_eq!(last.0.to_string().replace(&job(3), &job(1)), first.0.to_string());
        assert!(!last.0.to_string().contains(&job(1)), "nothing of an earlier attempt is left");
    }
}

#[test]
fn a_picture_of_another_owner_brings_neither_its_folder_nor_its_salt() {
    let policy = super::shipped("default");
    let theirs = OutputScope::new(&format!("t/zzzzzzzz22222222/{}-7", job(9)), "p", "c", "their-salt").unwrap();
    let picture = run(&policy, &workflow(), &theirs).0;
    let (mine, targets) = run(&policy, &picture, &scope(&job(1), "my-salt"));
    let text = mine.to_string();
    assert!(!text.contains("zzzzzzzz") && !text.contains("their-salt") && !text.contains(&job(9)), "{text}");
    assert_eq!(mine, run(&policy, &workflow(), &scope(&job(1), "my-salt")).0);
    assert_eq!(targets, ["o: cats/%year% cat", "none:  ComfyUI"]);
}

#[test]
fn a_foreign_file_in_a_picture_stays_foreign() {
    let policy = super::shipped("default");
    let picture = run(&policy, &workflow(), &scope(&job(1), "salt")).0;
    let file = format!("t/{OWNER}/");
    let stolen: Value =
        serde_json::from_str(&picture.to_string().replace(&format!("\"{file}0190"), "\"t/zzzzzzzz22222222/0190"))
            .unwrap();
    let parsed = parse(json!({ "prompt": stolen }).to_string().as_bytes()).unwrap();
    let Verdict::Deny(violations) = decide(&parsed, &policy, Catalogue::builtin(), &files()) else { panic!("allowed") };
    assert!(violations.iter().any(|violation| violation.code == "file_not_found"));
}

#[test]
fn the_folder_of_an_attempt_within_a_prefix_is_a_folder_like_any_other() {
    let policy = super::shipped("default");
    let inner = format!("a/t/{OWNER}/{}-1/x", job(1));
    let graph =
        with(workflow(), json!({"o": node("SaveImage", json!({"images": ["f", 0], "filename_prefix": inner}))}));
    let sent = run(&policy, &graph, &scope(&job(2), "salt")).0;
    assert_eq!(sent["o"]["inputs"]["filename_prefix"], format!("t/{OWNER}/{}-1/{inner}", job(2)));
}
