//! Bodies of the fuzz targets, here so that they build on stable and their corpora replay in `cargo test`. Each panics when its property fails.

pub mod generator;
mod seen;

use std::sync::LazyLock;

pub use seen::{SeenShape, SeenSlot, SeenValue, bounds_of};

use crate::{
    Catalogue, FileFact, FileFacts, OutputScope, Policy, SALT_INPUT, Verdict, decide, parse as parse_submission,
};

/// Compiled once: a fuzzer runs millions of times.
static POLICY: LazyLock<Option<Policy>> = LazyLock::new(|| Policy::builtin("default"));

/// Parsing never panics, and the canonical form parses to itself.
pub fn parse(data: &[u8]) {
    let Ok(parsed) = parse_submission(data) else { return };
    let canonical = parsed.canonical();
    let again = parse_submission(&canonical);
    assert!(again.is_ok(), "the canonical form parses: {again:?}");
    assert_eq!(again.ok().map(|again| again.canonical()), Some(canonical), "the canonical form is a fixed point");
}

/// Deciding never panics; every refusal has a reason; what is allowed is allowed again in its rewritten form, which does not change any more.
pub fn decide_and_rewrite(data: &[u8]) {
    let Ok(parsed) = parse_submission(data) else { return };
    let catalogue = Catalogue::builtin();
    let Some(policy) = &*POLICY else { return };
    let mut files = FileFacts::none();
    for reference in parsed.file_references(catalogue) {
        let fact = FileFact { canonical_name: reference.name.clone(), width: 640, height: 480, frames: 2 };
        files.insert(reference.name.clone(), crate::Directory::Input, fact.clone());
        files.insert(reference.name, reference.directory, fact);
    }
    let approved = match decide(&parsed, policy, catalogue, &files) {
        Verdict::Allow(approved) => approved,
        Verdict::Deny(violations) => {
            assert!(!violations.is_empty() && violations.iter().all(|violation| !violation.message.is_empty()));
            assert!(violations.to_comfyui().get("error").is_some());
            return;
        }
    };
    let Ok(scope) = OutputScope::new("t/q/j-1", "p", "c", "s") else {
        return;
    };
    let once = approved.upstream_body(&scope);
    let again = parse_submission(&without_salt(&once));
    match again.map(|again| decide(&again, policy, catalogue, &files)) {
        Ok(Verdict::Allow(approved)) => assert_eq!(approved.upstream_body(&scope), once, "rewriting twice equals once"),
        other => assert!(other.is_err_and(|_| false), "the rewritten form passes its own policy"),
    }
}

fn without_salt(body: &[u8]) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let nodes = value.get_mut("prompt").and_then(serde_json::Value::as_object_mut);
    for node in nodes.into_iter().flat_map(|nodes| nodes.values_mut()) {
        if let Some(inputs) = node.get_mut("inputs").and_then(serde_json::Value::as_object_mut) {
            // Keeps the order of what stays.
            inputs.shift_remove(SALT_INPUT);
        }
    }
    value.to_string().into_bytes()
}
