//! Readable cases, a folder each: `workflow.json` (a submission) and `policy.toml` in, `verdict.json` out. A changed verdict shows in review as a changed file. Where a rule reads a size from a file, the
//! case names it in `files.json`: `{"name": [canonical name, width, height, frames]}`. `BLESS=1 cargo test --test golden` writes the verdicts anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
#![allow(clippy::disallowed_methods, reason = "tests read their cases; the engine itself stays pure")]
use std::path::{Path, PathBuf};

use comfygate_policy::{
    Catalogue, Directory, FileFact, FileFacts, OutputScope, Policy, Verdict, ViolationKind, decide, parse,
};
use serde_json::{Value, json};

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    cases.sort();
    cases
}

fn files(case: &Path) -> FileFacts {
    let mut facts = FileFacts::none();
    let Ok(text) = std::fs::read_to_string(case.join("files.json")) else {
        return facts;
    };
    let listed: std::collections::BTreeMap<String, (String, u32, u32, u32)> = serde_json::from_str(&text).unwrap();
    for (name, (canonical_name, width, height, frames)) in listed {
        facts.insert(name, Directory::Input, FileFact { canonical_name, width, height, frames, seconds: Some(10) });
    }
    facts
}

fn verdict(case: &Path) -> Value {
    let body = std::fs::read(case.join("workflow.json")).unwrap();
    let policy = Policy::from_toml(&std::fs::read_to_string(case.join("policy.toml")).unwrap())
        .unwrap_or_else(|errors| panic!("{}: {errors}", case.display()));
    let parsed = match parse(&body) {
        Ok(parsed) => parsed,
        Err(error) => {
            return json!({"parse_error": {"code": error.code(), "pointer": error.pointer(), "message": error.to_string(), "comfyui": error.to_comfyui()}});
        }
    };
    match decide(&parsed, &policy, Catalogue::builtin(), &files(case)) {
        Verdict::Deny(violations) => {
            let kind = if violations.kind() == ViolationKind::Invalid { "invalid" } else { "denied" };
            json!({"deny": violations.to_json(), "kind": kind, "comfyui": violations.to_comfyui()})
        }
        Verdict::Allow(approved) => {
            let scope = OutputScope::new("t/golden/job-1", "upstream-prompt", "upstream-client", "salt").unwrap();
            let body: Value = serde_json::from_slice(&approved.upstream_body(&scope)).unwrap();
            let dropped: Vec<String> =
                approved.dropped().iter().map(|dropped| format!("{}.{}", dropped.node, dropped.input)).collect();
            let replaced: Vec<String> = approved
                .replaced()
                .iter()
                .map(|one| format!("{}.{}: {} -> {}", one.node, one.input, one.from, one.to))
                .collect();
            json!({"allow": body, "outputs": approved.output_nodes(), "cost": approved.cost().units(), "dropped": dropped, "replaced": replaced})
        }
    }
}

#[test]
fn verdicts_are_as_written() {
    let cases = cases();
    assert!(cases.len() >= 6);
    let bless = std::env::var_os("BLESS").is_some();
    for case in cases {
        let found = serde_json::to_string_pretty(&verdict(&case)).unwrap() + "\n";
        let file = case.join("verdict.json");
        if bless {
            std::fs::write(&file, &found).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(found, written, "{}: run with BLESS=1 if the change is meant", case.display());
    }
}
