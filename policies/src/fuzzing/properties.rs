//! What holds for every submission, whatever it is: checked here on one body, by fuzz targets and by property tests alike.

use serde_json::{Value, json};

use crate::{
    Catalogue, FileFact, FileFacts, OutputScope, Parsed, Policy, Posture, SALT_INPUT, Verdict, Violations, decide,
    parse,
};

/// A folder as the gateway names one, so that a rewritten prefix is known as such.
const ATTEMPT: &str = "t/abcdefgh23456777/0190a7c4-8f5e-7cc1-b7a3-0123456789ab-1";

/// Every file that the workflow names, as a picture of 640 × 480 with two frames.
pub(super) fn all_files(parsed: &Parsed, catalogue: &Catalogue) -> FileFacts {
    let mut files = FileFacts::none();
    for reference in parsed.file_references(catalogue) {
        let fact =
            FileFact { canonical_name: reference.name.clone(), width: 640, height: 480, frames: 2, seconds: Some(10) };
        files.insert(reference.name.clone(), crate::Directory::Input, fact.clone());
        files.insert(reference.name, reference.directory, fact);
    }
    files
}

/// Decides `body` under `policy` and checks the properties: every refusal has reasons at nodes that exist; what is allowed has a cost and is allowed again in its rewritten form, which
/// does not change any more; higher caps allow no less; one fault more allows no more. Gives whether it was allowed, or nothing if it is no submission at all.
///
/// # Panics
/// A property does not hold.
pub fn check(body: &[u8], policy: &Policy, catalogue: &Catalogue) -> Option<bool> {
    let parsed = parse(body).ok()?;
    let files = all_files(&parsed, catalogue);
    let approved = match decide(&parsed, policy, catalogue, &files) {
        Verdict::Allow(approved) => approved,
        Verdict::Deny(violations) => {
            reasons_are_told(&violations, &parsed, catalogue);
            one_fault_more_is_refused_too(&parsed, policy, catalogue, &files);
            return Some(false);
        }
    };
    let cost = approved.cost().units();
    assert!(cost.is_finite() && cost >= 0.0, "a cost of {cost}");
    let scope = OutputScope::new(ATTEMPT, "p", "c", "s").ok()?;
    let once = approved.upstream_body(&scope);
    let again = parse(&without_salt(&once));
    assert!(again.is_ok(), "the rewritten form parses: {:?}", again.err());
    match again.map(|again| decide(&again, policy, catalogue, &files)) {
        Ok(Verdict::Allow(again)) => {
            assert!(again.upstream_body(&scope) == once, "rewriting twice equals once: {}", shown(&once));
        }
        Ok(Verdict::Deny(violations)) => {
            assert!(violations.is_empty(), "refused when rewritten: {violations:?} in {}", shown(&once));
        }
        Err(_) => {}
    }
    let raised = raised(policy);
    if let Verdict::Deny(violations) = decide(&parsed, &raised, catalogue, &files) {
        assert!(violations.is_empty(), "higher caps refuse: {violations:?} in {}", shown(body));
    }
    Some(true)
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn reasons_are_told(violations: &Violations, parsed: &Parsed, catalogue: &Catalogue) {
    assert!(!violations.is_empty(), "a refusal without a reason");
    let prompt = json!({ "prompt": parsed.prompt() });
    for violation in violations {
        assert!(!violation.message.is_empty() && !violation.code.is_empty(), "{violation:?}");
        let Some(id) = &violation.node else {
            assert!(violation.input.is_none(), "an input of no node: {violation:?}");
            continue;
        };
        let node = prompt.pointer(&format!("/prompt/{id}"));
        assert!(node.is_some(), "no such node: {violation:?}");
        if let Some(input) = &violation.input {
            let declares =
                |class: &crate::ClassSignature| class.inputs().iter().any(|own| input.starts_with(own.name()));
            let class = violation.class.as_ref().and_then(|class| catalogue.class(class.as_str()));
            let there = prompt.pointer(&violation.pointer()).is_some() || class.is_some_and(declares);
            assert!(there, "no such input: {violation:?} at {}", violation.pointer());
        }
    }
    let told = violations.to_comfyui();
    assert!(told.get("error").is_some() && told.get("node_errors").is_some(), "{told}");
}

/// Nodes that are wrong by themselves: an unknown class, a missing input, a number out of range.
fn faulty_nodes() -> [Value; 3] {
    [
        json!({ "class_type": "No such class", "inputs": {} }),
        json!({ "class_type": "SaveImage", "inputs": { "filename_prefix": "x" } }),
        json!({ "class_type": "EmptyImage", "inputs": { "width": -1, "height": 64, "batch_size": 1, "color": 0 } }),
    ]
}

fn one_fault_more_is_refused_too(parsed: &Parsed, policy: &Policy, catalogue: &Catalogue, files: &FileFacts) {
    // Of an owner's packs the shipped catalogue knows nothing: a class that it lacks may be an output, and is no fault.
    let unknown_is_a_fault = policy.posture() != Posture::Owner;
    for faulty in faulty_nodes().into_iter().skip(usize::from(!unknown_is_a_fault)) {
        let mut body: Value = serde_json::from_slice(&parsed.canonical()).unwrap_or_default();
        if let Some(nodes) = body.get_mut("prompt").and_then(Value::as_object_mut) {
            nodes.insert("one-more".to_owned(), faulty);
        }
        let body = body.to_string();
        let Ok(more) = parse(body.as_bytes()) else { continue };
        let verdict = decide(&more, policy, catalogue, files);
        assert!(matches!(verdict, Verdict::Deny(_)), "one fault more, and it is allowed: {body}");
    }
}

/// The policy with every cap twice as high.
fn raised(policy: &Policy) -> Policy {
    let mut raised = policy.clone();
    let caps = &mut raised.caps;
    for cap in [
        &mut caps.steps,
        &mut caps.steps_total,
        &mut caps.width,
        &mut caps.height,
        &mut caps.pixels,
        &mut caps.pixels_total,
        &mut caps.batch,
        &mut caps.frames,
        &mut caps.nodes,
        &mut caps.outputs,
    ] {
        *cap = cap.map(|cap| cap.saturating_mul(2));
    }
    caps.seconds = caps.seconds.map(|seconds| seconds * 2.0);
    raised
}

/// The rewritten body without what the gateway adds for the cache.
pub(super) fn without_salt(body: &[u8]) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(body).unwrap_or_default();
    let nodes = value.get_mut("prompt").and_then(Value::as_object_mut);
    for node in nodes.into_iter().flat_map(|nodes| nodes.values_mut()) {
        if let Some(inputs) = node.get_mut("inputs").and_then(Value::as_object_mut) {
            // Keeps the order of what stays.
            inputs.shift_remove(SALT_INPUT);
        }
    }
    value.to_string().into_bytes()
}
