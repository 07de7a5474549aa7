//! What a suggestion promises: applied, the violation is gone.

use super::*;
use crate::{Catalogue, FileFacts, Policy, Verdict, decide, parse};

const PICTURE: &str = r#"{"prompt": {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 2000, "height": 1501, "batch_size": 3, "color": 0}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}}"#;

const SAMPLING: &str = r#"{"prompt": {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "x"}},
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
    "4": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "seed": 1,
        "steps": 40, "cfg": 7, "sampler_name": "euler", "scheduler": "karras", "denoise": 0.5}},
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
    "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}}}}"#;

fn violations(body: &str, policy: &str) -> Vec<Violation> {
    let policy = Policy::from_toml(policy).unwrap_or_else(|faults| panic!("{faults}\n{policy}"));
    match decide(&parse(body.as_bytes()).unwrap(), &policy, Catalogue::builtin(), &FileFacts::none()) {
        Verdict::Allow(_) => Vec::new(),
        Verdict::Deny(violations) => violations.iter().cloned().collect(),
    }
}

#[test]
fn a_policy_with_the_suggested_lines_allows_what_was_refused() {
    for (body, policy) in [(PICTURE, "name = \"p\"\n"), (SAMPLING, "name = \"p\"\n")] {
        let refused = violations(body, policy);
        assert!(!refused.is_empty());
        assert_eq!(violations(body, &format!("{policy}{}", lines(&refused))), []);
    }
}

#[test]
fn every_cap_is_suggested_so_large_that_it_no_longer_refuses_and_no_larger() {
    let all = "name = \"p\"\nclasses.allow = [\"*\"]\n";
    for (body, cap, wanted) in [
        (PICTURE, "width = 1999", "width = 2000"),
        (PICTURE, "height = 100", "height = 1501"),
        (PICTURE, "batch = 2", "batch = 3"),
        (PICTURE, "megapixels = 3.0", "megapixels = 3.1"),
        (PICTURE, "megapixels_total = 8", "megapixels_total = 9.1"),
        (PICTURE, "nodes = 1", "nodes = 2"),
        (SAMPLING, "steps = 39", "steps = 40"),
        (SAMPLING, "steps_total = 12", "steps_total = 40"),
        (SAMPLING, "denoise_min = 0.6", "denoise_min = 0.5"),
    ] {
        let refused = violations(body, &format!("{all}[caps]\nvae_scale = 8\n{cap}\n"));
        assert!(!refused.is_empty(), "{cap}");
        assert_eq!(lines(&refused), format!("[caps]\n{wanted}\n"), "{cap}");
        assert_eq!(violations(body, &format!("{all}[caps]\nvae_scale = 8\n{wanted}\n")), [], "{wanted}");
    }
}

#[test]
fn sound_over_the_cap_is_answered_by_the_cap_on_seconds() {
    let body = r#"{"prompt": {
        "a": {"class_type": "EmptyAudio", "inputs": {"duration": 20.0, "sample_rate": 44100, "channels": 2}},
        "b": {"class_type": "AudioConcat", "inputs": {"audio1": ["a", 0], "audio2": ["a", 0], "direction": "after"}},
        "c": {"class_type": "PreviewAudio", "inputs": {"audio": ["b", 0]}}}}"#;
    let all = "name = \"p\"\nclasses.allow = [\"*\"]\n";
    let refused = violations(body, &format!("{all}caps.seconds = 39"));
    assert_eq!(refused.iter().map(|violation| violation.code).collect::<Vec<_>>(), ["size_exceeded"]);
    assert_eq!(violations(body, &format!("{all}{}", lines(&refused))), [], "{}", lines(&refused));
    assert!(!violations(body, &format!("{all}caps.seconds = 39.9")).is_empty());
}

#[test]
fn a_list_over_two_caps_together_is_not_answered_by_one() {
    let body = r#"{"prompt": {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 8, "color": 0}},
        "2": {"class_type": "RebatchImages", "inputs": {"images": ["1", 0], "batch_size": 1}},
        "3": {"class_type": "RepeatImageBatch", "inputs": {"image": ["2", 0], "amount": 8}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}}}"#;
    let all = "name = \"p\"\nclasses.allow = [\"*\"]\n";
    let refused = violations(body, &format!("{all}caps.batch = 9\ncaps.frames = 7"));
    assert!(refused.iter().any(|violation| violation.code == "size_exceeded"), "{refused:?}");
    assert_eq!(refused.iter().filter_map(suggestion).collect::<Vec<_>>(), []);
    assert_eq!(violations(body, &format!("{all}caps.batch = 8\ncaps.frames = 8")), []);
}

#[test]
fn who_pays_for_paid_nodes_is_told_and_never_suggested() {
    let body = r#"{"prompt": {"1": {"class_type": "KlingVideoExtendNode", "inputs": {}}}}"#;
    let refused = violations(body, "name = \"p\"\nclasses.allow = [\"*\"]\n");
    let paid = refused.iter().find(|violation| violation.code == "paid_node_refused").unwrap();
    assert_eq!(suggestion(paid), None);
    assert!(remark(paid.code).is_some_and(|text| text.contains("caller") && text.contains("gateway")));
}

#[test]
fn a_name_is_added_to_the_list_that_lacks_it_and_taken_from_the_one_that_denies_it() {
    let one = |policy: &str| {
        let refused = violations(SAMPLING, &format!("name = \"p\"\n{policy}"));
        refused.iter().map(|violation| suggestion(violation).unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(one("classes.allow = [\"*\"]\nsamplers.allow = [\"heun\"]"), ["samplers.allow: add \"euler\""]);
    assert_eq!(
        one("classes.allow = [\"*\"]\nsamplers.deny = [\"eul*\"]"),
        ["samplers.deny: take out what matches \"euler\""]
    );
    assert_eq!(one("classes.allow = [\"*\"]\nschedulers.allow = []"), ["schedulers.allow: add \"karras\""]);
    assert_eq!(
        one("classes.allow = [\"*\"]\nclasses.deny = [\"KS*\"]"),
        ["classes.deny: take out what matches \"KSampler\""]
    );
}

#[test]
fn what_no_document_can_allow_has_no_suggestion() {
    let body = PICTURE.replace("\"color\": 0", "\"color\": 0, \"huh\": 1");
    let refused = violations(&body, "name = \"p\"\nclasses.allow = [\"*\"]");
    assert_eq!(refused.iter().map(|violation| violation.code).collect::<Vec<_>>(), ["undeclared_input"]);
    assert_eq!(refused.iter().find_map(suggestion), None);
    let adaptive = SAMPLING.replace("euler", "dpm_adaptive");
    let refused = violations(&adaptive, "name = \"p\"\nclasses.allow = [\"*\"]\ncaps.steps = 50");
    assert!(refused.iter().any(|violation| violation.code == "sampler_refused"));
    assert_eq!(lines(&refused), "");
}

#[test]
fn a_name_of_any_form_is_a_toml_string() {
    for name in ["a\"b", "a\\b", "a'b", "中 文", "#x"] {
        let text: toml::Table = format!("x = {}", quoted(name)).parse().unwrap();
        assert_eq!(text["x"].as_str(), Some(name));
    }
}

#[test]
fn a_suggested_pattern_matches_its_name_and_no_other() {
    for (name, other) in [("a [b]", "a b"), ("a*", "ab"), ("a?", "ab"), ("{a,b}", "a")] {
        let glob = globset::Glob::new(&pattern(name)).unwrap().compile_matcher();
        assert!(glob.is_match(name) && !glob.is_match(other), "{name}");
    }
}

#[test]
fn a_rule_about_models_is_suggested_as_a_table_of_its_own() {
    let found = |name: &str| Suggestion {
        key: format!("{MODELS}CheckpointLoaderSimple.ckpt_name.allow"),
        change: Change::Add(pattern(name)),
    };
    let mut merged = Merged::default();
    merged.add(found("b").change);
    merged.add(found("a").change);
    assert_eq!(found("a").section(), "models.CheckpointLoaderSimple.ckpt_name");
    let mut out = String::new();
    merged.write(found("a").name(), &mut out);
    assert_eq!(out, "allow = [\"a\", \"b\"]\n");
}
