//! The bypass catalogue (facts §11): a test for each known way around a filter in front of ComfyUI, with its number in its name, and further ways of our own beside it. Here are those that the
//! engine answers; what only bytes on a wire can show is in `tests/bypass` of the workspace. Each test has the nearest request that is good beside the one that is not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]

mod crash;
mod encoding;
mod envelope;
mod files;
mod pruning;
mod reopened;
mod shape;
mod values;
mod work;

use comfygate_policy::{
    ApprovedWorkflow, Catalogue, Directory, FileFact, FileFacts, OutputScope, ParseError, Policy, Verdict, Violations,
    decide, parse,
};
use serde_json::{Value, json};

/// A node's id and the code of what stands against it.
type Told = (String, &'static str);

/// A graph of model-free nodes around what a test adds. `show` is an output that has nothing to do with it.
pub(crate) fn prompt(nodes: Value) -> Value {
    let mut all = json!({
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "image": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["model", 1]}},
    });
    all.as_object_mut().unwrap().extend(nodes.as_object().unwrap().clone());
    all
}

pub(crate) fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

/// An object with the members of both; those of `changes` win, and `null` takes one away.
pub(crate) fn with(mut base: Value, changes: Value) -> Value {
    let members = base.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        members.insert(name.clone(), value.clone());
    }
    base
}

pub(crate) fn sampler(changes: Value) -> Value {
    let inputs = json!({
        "model": ["model", 0], "seed": 1, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal",
        "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0], "denoise": 1.0,
    });
    node("KSampler", with(inputs, changes))
}

/// Custom sampling as the nodes `c`, `g` (the schedule) and `k` (the sampler).
pub(crate) fn custom(sigmas: Value, sampler: Value) -> Value {
    json!({
        "c": node("SamplerCustom", json!({"model": ["model", 0], "add_noise": true, "noise_seed": 1, "cfg": 1.0, "positive": ["text", 0], "negative": ["text", 0],
            "sampler": ["k", 0], "sigmas": ["g", 0], "latent_image": ["empty", 0]})),
        "g": sigmas, "k": sampler,
    })
}

pub(crate) fn euler() -> Value {
    node("KSamplerSelect", json!({"sampler_name": "euler"}))
}

pub(crate) fn switch(on_true: &str, on_false: &str, by: Value) -> Value {
    node("ComfySwitchNode", json!({"switch": by, "on_true": [on_true, 0], "on_false": [on_false, 0]}))
}

/// Files of the caller's own: pictures of 512 × 512, one that is a bomb, and a film of many frames.
pub(crate) fn files() -> FileFacts {
    let mut files = FileFacts::none();
    let fact = |name: &str, side: u32, frames: u32| FileFact {
        canonical_name: name.into(),
        width: side,
        height: side,
        frames,
        seconds: Some(10),
    };
    files.insert("me.png", Directory::Input, fact("t/a/1.png", 512, 1));
    files.insert("ten.wav", Directory::Input, fact("t/a/8.wav", 1, 1));
    files.insert("any.flac", Directory::Input, FileFact { seconds: None, ..fact("t/a/9.flac", 1, 1) });
    files.insert("mine.png", Directory::Output, fact("t/a/2.png [output]", 512, 1));
    files.insert("bomb.png", Directory::Input, fact("t/a/3.png", 60_000, 1));
    files.insert("film.gif", Directory::Input, fact("t/a/4.gif", 64, 10_000));
    files
}

pub(crate) fn shipped(name: &str) -> Policy {
    Policy::builtin(name).unwrap()
}

/// Everything is allowed to strangers, and nothing capped.
pub(crate) fn open_policy() -> Policy {
    Policy::from_toml("name = \"open\"\n[classes]\nallow = [\"*\"]\n").unwrap()
}

/// Everything is allowed to strangers, and steps are capped.
pub(crate) fn steps_policy() -> Policy {
    Policy::from_toml("name = \"x\"\n[classes]\nallow = [\"*\"]\n[caps]\nsteps = 100\n").unwrap()
}

/// Policies for strangers.
pub(crate) fn strangers() -> Vec<Policy> {
    vec![open_policy(), shipped("default")]
}

/// Every policy that ships and those that relax most.
pub(crate) fn all_policies() -> Vec<Policy> {
    let names = ["default", "strict", "generous", "owner"];
    let mut all: Vec<Policy> = names.iter().filter_map(|name| Policy::builtin(name)).collect();
    all.push(open_policy());
    let shadow =
        "name = \"shadow\"\nmode = \"shadow\"\n[classes]\nallow = [\"*\"]\n[caps]\nsteps = 1\nwidth = 8\nheight = 8\n";
    all.extend(Policy::from_toml(shadow));
    let shadow_owner = "name = \"shadow\"\nmode = \"shadow\"\nposture = \"owner\"\n";
    all.extend(Policy::from_toml(shadow_owner));
    all
}

pub(crate) fn verdict_under(policy: &Policy, body: &Value) -> Verdict {
    let parsed = parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"));
    decide(&parsed, policy, Catalogue::builtin(), &files())
}

fn told(violations: &Violations) -> Vec<Told> {
    let node =
        |violation: &comfygate_policy::Violation| violation.node.as_ref().map(ToString::to_string).unwrap_or_default();
    violations.iter().map(|violation| (node(violation), violation.code)).collect()
}

/// What is sent of an approved workflow.
pub(crate) fn sent(approved: &ApprovedWorkflow) -> Value {
    let scope = OutputScope::new("t/q/j-1", "our-prompt", "our-client", "salt-a").unwrap();
    serde_json::from_slice(&approved.upstream_body(&scope)).unwrap()
}

/// What the policy says against the graph as a whole; nothing if it runs whole.
pub(crate) fn denials(policy: &Policy, nodes: Value) -> Vec<Told> {
    match verdict_under(policy, &json!({"prompt": prompt(nodes)})) {
        Verdict::Allow(approved) => {
            assert!(approved.pruned().is_none(), "left out: {:?}", approved.pruned().map(told));
            Vec::new()
        }
        Verdict::Deny(violations) => told(&violations),
    }
}

/// What the policy says against it, whether it refuses the whole or leaves a part out.
pub(crate) fn denials_or_left_out(policy: &Policy, nodes: Value) -> Vec<Told> {
    match verdict_under(policy, &json!({"prompt": prompt(nodes)})) {
        Verdict::Allow(approved) => approved.pruned().map(told).unwrap_or_default(),
        Verdict::Deny(violations) => told(&violations),
    }
}

#[track_caller]
fn assert_denied(policy: &Policy, nodes: &Value, at: &str, code: &str) {
    let found = match verdict_under(policy, &json!({"prompt": prompt(nodes.clone())})) {
        Verdict::Allow(approved) => panic!("{} allows it: {}", policy.name(), sent(&approved)),
        Verdict::Deny(violations) => told(&violations),
    };
    let name = policy.name();
    assert!(
        found.iter().any(|(node, known)| node == at && *known == code),
        "{name}: wanted {code} at {at:?}, found {found:?}"
    );
}

/// The shipped policy for strangers lets it run whole.
#[track_caller]
pub(crate) fn allowed(nodes: Value) {
    assert_eq!(denials(&shipped("default"), nodes), []);
}

/// Refused under the shipped policy for strangers, at that node, with that code.
#[track_caller]
pub(crate) fn refused(nodes: Value, at: &str, code: &str) {
    assert_denied(&shipped("default"), &nodes, at, code);
}

/// Refused to strangers under every policy: not even one that allows all classes and caps nothing lets it pass.
#[track_caller]
pub(crate) fn refused_always(nodes: Value, at: &str, code: &str) {
    for policy in strangers() {
        assert_denied(&policy, &nodes, at, code);
    }
}

/// Refused under every policy that there is, an owner's too.
#[track_caller]
pub(crate) fn refused_everywhere(nodes: Value, at: &str, code: &str) {
    for policy in all_policies() {
        assert_denied(&policy, &nodes, at, code);
    }
}

/// Invalid: ComfyUI runs the outputs that do not depend on it, and so do we, without it.
#[track_caller]
pub(crate) fn left_out(nodes: Value, at: &str, code: &str) {
    for policy in strangers() {
        left_out_under(&policy, &nodes, at, code);
    }
}

#[track_caller]
pub(crate) fn left_out_under(policy: &Policy, nodes: &Value, at: &str, code: &str) {
    let approved = match verdict_under(policy, &json!({"prompt": prompt(nodes.clone())})) {
        Verdict::Allow(approved) => approved,
        Verdict::Deny(violations) => panic!("{} refuses the whole: {:?}", policy.name(), told(&violations)),
    };
    let found = approved.pruned().map(told).unwrap_or_default();
    assert!(found.iter().any(|(node, known)| node == at && *known == code), "wanted {code} at {at:?}, found {found:?}");
    assert_eq!(sent(&approved)["prompt"].get(at), None, "it is not sent");
}

#[track_caller]
pub(crate) fn unparsable(body: &str, code: &str) -> ParseError {
    let error = parse(body.as_bytes()).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), code, "{}", body.chars().take(300).collect::<String>());
    error
}

/// A submission of two nodes, `4` and `5`, the inputs of `5` as text.
pub(crate) fn raw(inputs: &str) -> String {
    format!(
        r#"{{"prompt":{{"4":{{"class_type":"A","inputs":{{}}}},"5":{{"class_type":"KSampler","inputs":{inputs}}}}}}}"#
    )
}

#[track_caller]
pub(crate) fn parses(body: &str) {
    if let Err(error) = parse(body.as_bytes()) {
        panic!("{error}: {}", body.chars().take(300).collect::<String>());
    }
}

/// What is sent for a body that the shipped policy for strangers allows.
#[track_caller]
pub(crate) fn upstream(body: &Value) -> Value {
    match verdict_under(&shipped("default"), body) {
        Verdict::Allow(approved) => sent(&approved),
        Verdict::Deny(violations) => panic!("refused: {:?}", told(&violations)),
    }
}

#[test]
fn bypass_000_the_plain_graph_passes() {
    allowed(json!({"s": sampler(json!({}))}));
    assert!(all_policies().len() >= 4);
    for policy in all_policies().iter().filter(|policy| policy.name() != "strict") {
        assert_eq!(denials(policy, json!({"s": sampler(json!({"steps": 1}))})), [], "{}", policy.name());
    }
}

/// A number is looked for as the beginning of a test's name. What only bytes on a wire can show is in the workspace's `tests/bypass`.
#[test]
fn every_entry_of_the_catalogue_that_concerns_submissions_has_a_test_with_its_number() {
    let here = [
        include_str!("crash.rs"),
        include_str!("encoding.rs"),
        include_str!("envelope.rs"),
        include_str!("files.rs"),
        include_str!("shape.rs"),
        include_str!("values.rs"),
        include_str!("work.rs"),
    ]
    .concat();
    let wire = include_str!("../../../tests/bypass/main.rs");
    for number in [1, 2, 3, 10] {
        assert!(wire.contains(&format!("\n    bypass_{number:02}_")), "{number} on the wire");
    }
    for number in (4..=9).chain([13]).chain(23..=82) {
        assert!(here.contains(&format!("#[test]\nfn bypass_{number:03}_")), "{number}");
    }
    for number in 1..=14 {
        assert!(here.contains(&format!("#[test]\nfn k{number}_")), "K{number}");
    }
}
