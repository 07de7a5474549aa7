//! Real workflows: none may make the engine panic, every refusal names its reason and its node, and what is allowed stays allowed after rewriting.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
#![allow(clippy::disallowed_methods, reason = "tests read their cases; the engine itself stays pure")]
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use comfygate_policy::{
    Catalogue, FileFacts, OutputScope, Parsed, Policy, Posture, Verdict, Violation, ViolationKind, decide, parse,
};
use serde_json::Value;

/// The workflows that ship with the crate.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// A larger collection that some machines have beside the repository.
fn collection() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/workflows")
}

/// A folder of one's own, to see what the engine makes of it: nothing is asked of the shares there.
fn own_folder() -> Option<PathBuf> {
    std::env::var_os("CORPUS_FOLDER").map(PathBuf::from)
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

/// The rewritten body without what `upstream_body` adds.
fn without_salt(body: &[u8]) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(body).unwrap();
    for node in value["prompt"].as_object_mut().unwrap().values_mut() {
        node["inputs"].as_object_mut().unwrap().shift_remove(comfygate_policy::SALT_INPUT);
    }
    value.to_string().into_bytes()
}

/// Which workflows of a folder are judged.
type Wanted = fn(&Parsed, &Policy, &Catalogue) -> bool;

/// What became of a folder.
#[derive(Default)]
struct Tally {
    /// Workflows that were judged.
    judged: usize,
    allowed: usize,
    /// Those that were refused for what ComfyUI itself refuses: files that are none (addresses of the web, here), inputs that are missing.
    invalid: usize,
    /// How many each rule refused.
    refused: BTreeMap<String, usize>,
    /// The files that were refused, with a line for each reason.
    reasons: BTreeMap<String, Vec<String>>,
}

impl Tally {
    /// Of those that ComfyUI runs.
    fn share(&self) -> f64 {
        let runnable = (self.judged - self.invalid).max(1);
        f64::from(u32::try_from(self.allowed).unwrap()) / f64::from(u32::try_from(runnable).unwrap())
    }

    fn print(&self, what: &str) {
        let Self { allowed, judged, invalid, refused, .. } = self;
        println!("{what}: {allowed} of {judged} allowed, {invalid} refused as ComfyUI does; refused by {refused:?}");
        if std::env::var_os("CORPUS_VERBOSE").is_some() {
            for (file, reasons) in &self.reasons {
                for reason in reasons {
                    println!("  {what} {file}: {reason}");
                }
            }
        }
    }
}

/// Whether all classes of a graph in JSON are known, whether or not it can be parsed.
fn names_known_classes(body: &[u8], catalogue: &Catalogue) -> bool {
    let value: Value = serde_json::from_slice(body).unwrap();
    let known = |node: &Value| node["class_type"].as_str().is_some_and(|class| catalogue.class(class).is_some());
    value["prompt"].as_object().is_some_and(|nodes| nodes.values().all(known))
}

/// Whether all classes of a workflow are in the catalogue.
fn is_known(parsed: &Parsed, _: &Policy, catalogue: &Catalogue) -> bool {
    parsed.classes().all(|class| catalogue.class(class.as_str()).is_some())
}

/// Whether all of its classes are allowed and of ComfyUI 0.8.0, whose whole signatures ship.
fn is_of_first_release(parsed: &Parsed, policy: &Policy, catalogue: &Catalogue) -> bool {
    static FIRST: LazyLock<BTreeMap<String, Value>> =
        LazyLock::new(|| serde_json::from_str(include_str!("../catalogues/comfyui-0.8.0.json")).unwrap());
    parsed.classes().all(|class| FIRST.contains_key(class.as_str())) && is_allowed(parsed, policy, catalogue)
}

/// Whether the policy allows all of its classes: none is paid, trains, saves models or data sets, or is poison.
fn is_allowed(parsed: &Parsed, policy: &Policy, catalogue: &Catalogue) -> bool {
    parsed.classes().all(|class| catalogue.class(class.as_str()).is_some_and(|class| policy.allows_class(class)))
}

/// Judges every workflow of a folder that `wanted` picks. What is allowed is judged again in the form in which it is sent.
fn run(dir: &Path, policy: &Policy, catalogue: &Catalogue, wanted: Wanted) -> Tally {
    let scope = OutputScope::new("t/q7/job-1", "p-1", "c-1", "salt").unwrap();
    let mut tally = Tally::default();
    let catalogue_is_open = policy.posture() == Posture::Owner;
    for path in json_files(dir) {
        let file = path.strip_prefix(dir).unwrap().display().to_string();
        let text = body(&path);
        let parsed = match parse(&text) {
            Ok(parsed) => parsed,
            Err(error) => {
                assert!(!error.code().is_empty());
                if !catalogue_is_open && !names_known_classes(&text, catalogue) {
                    continue;
                }
                tally.judged += 1;
                *tally.refused.entry(format!("parse {}", error.code())).or_default() += 1;
                tally.reasons.insert(file, vec![error.to_string()]);
                continue;
            }
        };
        if !wanted(&parsed, policy, catalogue) {
            continue;
        }
        tally.judged += 1;
        assert_eq!(parse(&parsed.canonical()).unwrap().digest(), parsed.digest(), "{file}");
        let files = FileFacts::assumed(policy);
        match decide(&parsed, policy, catalogue, &files) {
            Verdict::Allow(approved) => {
                tally.allowed += 1;
                let once = approved.upstream_body(&scope);
                let again = parse(&without_salt(&once)).unwrap();
                match decide(&again, policy, catalogue, &files) {
                    Verdict::Allow(approved) => assert_eq!(approved.upstream_body(&scope), once, "{file}"),
                    Verdict::Deny(reasons) => panic!("{file}: {}", reasons.to_json()),
                }
            }
            Verdict::Deny(violations) => {
                let as_comfyui = |one: &Violation| one.kind == ViolationKind::Invalid || one.code == "file_not_found";
                tally.invalid += usize::from(violations.iter().all(as_comfyui));
                let codes: BTreeSet<&str> = violations.iter().map(|violation| violation.code).collect();
                assert!(!codes.is_empty());
                for code in codes {
                    *tally.refused.entry(code.to_owned()).or_default() += 1;
                }
                for violation in &violations {
                    let whole = [
                        "prompt_no_outputs",
                        "too_many_nodes",
                        "too_many_outputs",
                        "steps_total_exceeded",
                        "cost_exceeded",
                    ];
                    assert!(violation.node.is_some() || whole.contains(&violation.code), "{violation:?}");
                }
                let told = |violation: &Violation| format!("{} {:?}: {violation}", violation.code, violation.input);
                tally.reasons.insert(file, violations.iter().map(told).collect());
            }
        }
    }
    tally
}

fn every(_: &Parsed, _: &Policy, _: &Catalogue) -> bool {
    true
}

#[test]
fn shipped_workflows_pass_or_say_why_not() {
    let catalogue = Catalogue::builtin();
    let count = json_files(&shipped()).len();
    assert!(count >= 30, "the shipped corpus is there");
    let tally = run(&shipped(), &Policy::builtin("default").unwrap(), catalogue, is_known);
    tally.print("shipped, default");
    assert!(tally.allowed * 2 >= tally.judged, "at least half pass the default policy");
}

#[test]
fn a_policy_without_caps_refuses_no_shipped_workflow_for_its_sizes() {
    let policy = Policy::from_toml("name = \"open\"\n[classes]\nallow = [\"*\"]\n").unwrap();
    let tally = run(&shipped(), &policy, Catalogue::builtin(), every);
    for code in ["size_unbounded", "size_exceeded", "cap_exceeded", "value_unbounded", "steps_unbounded"] {
        assert_eq!(tally.refused.get(code), None, "{code}");
    }
}

#[test]
fn the_generous_policy_accepts_nearly_all_workflows_of_known_classes() {
    let policy = Policy::builtin("generous").unwrap();
    let mut shares = Vec::new();
    for (name, folder) in [("shipped", shipped()), ("collection", collection())] {
        run(&folder, &policy, Catalogue::builtin(), is_known).print(&format!("{name}, generous, known"));
        let wanted: [(&str, Wanted, f64); 2] =
            [("classes of 0.8.0", is_of_first_release, 0.99), ("classes of any release", is_allowed, 0.99)];
        for (what, wanted, least) in wanted {
            let tally = run(&folder, &policy, Catalogue::builtin(), wanted);
            tally.print(&format!("{name}, generous, {what}"));
            shares.push((name, what, tally.judged, tally.share(), least));
        }
    }
    assert!(shares.iter().all(|(_, _, judged, share, least)| *judged == 0 || share >= least), "{shares:?}");
}

#[test]
fn the_owner_policy_accepts_nearly_all_workflows_whatever_is_installed() {
    let (policy, catalogue) = (Policy::builtin("owner").unwrap(), Catalogue::builtin());
    let mut shares = Vec::new();
    for (name, folder) in [("shipped", shipped()), ("collection", collection())] {
        let tally = run(&folder, &policy, catalogue, every);
        tally.print(&format!("{name}, owner"));
        shares.push((name, tally.judged, tally.share()));
    }
    assert!(shares.iter().all(|(_, judged, share)| *judged == 0 || *share >= 0.95), "{shares:?}");
}

#[test]
fn a_folder_of_ones_own_passes_or_says_why_not() {
    let folder = own_folder().unwrap_or_else(shipped);
    let (generous, owner) = (Policy::builtin("generous").unwrap(), Policy::builtin("owner").unwrap());
    let known = run(&folder, &generous, Catalogue::builtin(), is_allowed);
    known.print("own folder, generous, classes of any release");
    let all = run(&folder, &owner, Catalogue::builtin(), every);
    all.print("own folder, owner");
    assert!(all.judged > 0 && known.judged <= all.judged);
}

#[test]
fn the_larger_collection_passes_or_says_why_not() {
    for name in ["default", "strict"] {
        run(&collection(), &Policy::builtin(name).unwrap(), Catalogue::builtin(), is_known).print(name);
    }
}
