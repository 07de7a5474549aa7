//! Real workflows: none may make the engine panic, every refusal names its reason and its node, and what is allowed stays allowed after rewriting.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
#![allow(clippy::disallowed_methods, reason = "tests read their cases; the engine itself stays pure")]
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use comfygate_policy::{Catalogue, FileFact, FileFacts, OutputScope, Parsed, Policy, Verdict, decide, parse};
use serde_json::Value;

/// The workflows that ship with the crate.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// A larger collection that some machines have beside the repository.
fn collection() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/workflows")
}

fn json_files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(json_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "json")
            && path.file_name().is_some_and(|name| name != "index.json")
        {
            out.push(path);
        }
    }
    out.sort();
    out
}

fn body(path: &Path) -> Vec<u8> {
    let mut body = b"{\"prompt\":".to_vec();
    body.extend(std::fs::read(path).unwrap());
    body.push(b'}');
    body
}

/// Every file that the workflow names, as the gateway would know it once it is uploaded: a picture of 1024 × 768, or a sound or film of unknown size.
fn all_files(parsed: &Parsed, catalogue: &Catalogue) -> FileFacts {
    let mut facts = FileFacts::none();
    for reference in parsed.file_references(catalogue) {
        let canonical_name = reference.name.clone();
        let ending = reference.name.rsplit('.').next().unwrap_or_default().to_lowercase();
        let (width, height, frames) = match ending.as_str() {
            "mp4" | "mov" | "webm" | "mkv" | "mp3" | "wav" | "flac" | "ogg" => (u32::MAX, u32::MAX, u32::MAX),
            _ => (1024, 768, 1),
        };
        let fact = FileFact { canonical_name: canonical_name.clone(), width, height, frames };
        facts.insert(canonical_name, comfygate_policy::Directory::Input, fact.clone());
        facts.insert(reference.name, reference.directory, fact);
    }
    facts
}

/// The rewritten body without what `upstream_body` adds.
fn without_salt(body: &[u8]) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(body).unwrap();
    for node in value["prompt"].as_object_mut().unwrap().values_mut() {
        node["inputs"].as_object_mut().unwrap().shift_remove(comfygate_policy::SALT_INPUT);
    }
    value.to_string().into_bytes()
}

struct Tally {
    allowed: usize,
    refused: BTreeMap<String, usize>,
}

fn run(dir: &Path, policy: &Policy) -> Tally {
    let catalogue = Catalogue::builtin();
    let scope = OutputScope::new("t/q7/job-1", "p-1", "c-1", "salt").unwrap();
    let mut tally = Tally { allowed: 0, refused: BTreeMap::new() };
    for path in json_files(dir) {
        let parsed = match parse(&body(&path)) {
            Ok(parsed) => parsed,
            Err(error) => {
                assert!(!error.code().is_empty());
                *tally.refused.entry(format!("parse {}", error.code())).or_default() += 1;
                if std::env::var_os("CORPUS_VERBOSE").is_some() {
                    println!("{}: {error}", path.display());
                }
                continue;
            }
        };
        assert_eq!(parse(&parsed.canonical()).unwrap().digest(), parsed.digest(), "{}", path.display());
        let files = all_files(&parsed, catalogue);
        match decide(&parsed, policy, catalogue, &files) {
            Verdict::Allow(approved) => {
                tally.allowed += 1;
                let once = approved.upstream_body(&scope);
                let again = parse(&without_salt(&once)).unwrap();
                match decide(&again, policy, catalogue, &files) {
                    Verdict::Allow(approved) => assert_eq!(approved.upstream_body(&scope), once, "{}", path.display()),
                    Verdict::Deny(reasons) => panic!("{}: {}", path.display(), reasons.to_json()),
                }
            }
            Verdict::Deny(violations) => {
                assert!(!violations.is_empty());
                let mut codes: Vec<&str> = violations.iter().map(|violation| violation.code).collect();
                codes.sort_unstable();
                codes.dedup();
                for code in codes {
                    *tally.refused.entry(code.to_owned()).or_default() += 1;
                }
                for violation in &violations {
                    let whole = ["prompt_no_outputs", "too_many_nodes", "too_many_outputs", "steps_total_exceeded"];
                    assert!(violation.node.is_some() || whole.contains(&violation.code), "{violation:?}");
                    if std::env::var_os("CORPUS_VERBOSE").is_some() {
                        let [node, class] = [
                            violation.node.as_ref().map(ToString::to_string),
                            violation.class.as_ref().map(ToString::to_string),
                        ];
                        println!(
                            "{} {} {node:?} {class:?} {:?}: {}",
                            path.display(),
                            violation.code,
                            violation.input,
                            violation.message
                        );
                    }
                }
            }
        }
    }
    tally
}

#[test]
fn shipped_workflows_pass_or_say_why_not() {
    let count = json_files(&shipped()).len();
    assert!(count >= 30, "the shipped corpus is there");
    let tally = run(&shipped(), &Policy::builtin("default").unwrap());
    println!("{count} shipped workflows: {} allowed; refused by {:?}", tally.allowed, tally.refused);
    assert!(tally.allowed * 2 >= count, "at least half pass the default policy");
}

#[test]
fn a_policy_without_caps_refuses_no_shipped_workflow_for_its_sizes() {
    let policy = Policy::from_toml("name = \"open\"\n[classes]\nallow = [\"*\"]\n").unwrap();
    let tally = run(&shipped(), &policy);
    for code in ["size_unbounded", "size_exceeded", "cap_exceeded", "value_unbounded", "steps_unbounded"] {
        assert_eq!(tally.refused.get(code), None, "{code}");
    }
}

#[test]
fn the_larger_collection_passes_or_says_why_not() {
    for name in ["default", "strict"] {
        let tally = run(&collection(), &Policy::builtin(name).unwrap());
        println!("{name}: {} allowed; refused by {:?}", tally.allowed, tally.refused);
    }
    let open = Policy::from_toml("name = \"open\"\n[classes]\nallow = [\"*\"]\n").unwrap();
    let tally = run(&collection(), &open);
    println!("open: {} allowed; refused by {:?}", tally.allowed, tally.refused);
}

/// Refusals of the owner posture that are right: what each rule finds ends a ComfyUI or never runs there, whoever asks.
const RIGHT_FOR_OWNERS: [&str; 6] =
    ["memory_exceeded", "path_refused", "undeclared_input", "save_prefix_refused", "text_exceeded", "text_unbounded"];

#[test]
fn nearly_all_of_the_larger_collection_pass_under_the_owner_posture() {
    let count = json_files(&collection()).len();
    // Only some machines have it.
    if count == 0 {
        return;
    }
    let tally = run(&collection(), &Policy::builtin("owner").unwrap());
    println!("owner: {} of {count} allowed; refused by {:?}", tally.allowed, tally.refused);
    assert!(tally.allowed * 100 >= count * 95, "{} of {count}", tally.allowed);
    for code in tally.refused.keys() {
        assert!(RIGHT_FOR_OWNERS.contains(&code.as_str()) || code.starts_with("parse "), "{code}");
    }
}
