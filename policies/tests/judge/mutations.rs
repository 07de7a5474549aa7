//! Real workflows with a few things changed: values, links, ids, names. Whatever comes of it, the properties of [`comfygate_policy::fuzzing::check`] hold under every shipped policy.

use std::path::{Path, PathBuf};

use comfygate_policy::fuzzing::check;
use comfygate_policy::fuzzing::generator::Choices;
use comfygate_policy::{Catalogue, Policy};
use serde_json::{Map, Value, json};

/// Workflows that ship with the crate, and a larger collection that some machines have beside the repository.
fn workflows() -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = json_files(&root.join("tests/corpus"));
    files.extend(json_files(&root.join("../../shared/workflows")));
    let read = |path: &PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok();
    let is_graph = |value: &Value| {
        value
            .as_object()
            .is_some_and(|nodes| !nodes.is_empty() && nodes.values().all(|node| node.get("class_type").is_some()))
    };
    files.iter().filter_map(read).filter(is_graph).collect()
}

fn json_files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(json_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "json") {
            out.push(path);
        }
    }
    out.sort();
    out
}

const VALUES: [&str; 22] = [
    "null",
    "0",
    "-1",
    "1",
    "9223372036854775807",
    "170141183460469231731687303715884105728",
    "1e308",
    "0.5",
    "-0.0",
    "true",
    "false",
    "\"\"",
    "\"20\"",
    "\"../../x\"",
    "\"x [output]\"",
    "\"ddim_uniform\"",
    "\"dpm_adaptive\"",
    "{}",
    "[]",
    "{\"__value__\":[\"1\",0]}",
    "[\"1\",0,0]",
    "{\"on\":true,\"lora\":\"x.safetensors\",\"strength\":1}",
];

fn mutate(workflow: &Value, choices: &mut Choices<'_>) -> Value {
    let mut nodes: Map<String, Value> = workflow.as_object().unwrap().clone();
    for _ in 0..1 + choices.below(4) {
        let ids: Vec<String> = nodes.keys().cloned().collect();
        let id = ids[choices.below(ids.len())].clone();
        let other = ids[choices.below(ids.len())].clone();
        match choices.below(8) {
            0 if nodes.len() > 1 => {
                nodes.shift_remove(&id);
            }
            // A copy of a node under a new id.
            1 => {
                let node = nodes[&id].clone();
                nodes.insert(format!("{id}:{}", choices.below(100)), node);
            }
            // Another class with the same inputs.
            2 => nodes[&id]["class_type"] = nodes[&other]["class_type"].clone(),
            // Two nodes change places: every link to one now leads to the other.
            3 => {
                let (a, b) = (nodes[&id].clone(), nodes[&other].clone());
                nodes[&id] = b;
                nodes[&other] = a;
            }
            4 => {
                let text = VALUES[choices.below(VALUES.len())];
                set(&mut nodes[&id], choices, serde_json::from_str(text).unwrap());
            }
            _ => {
                let slot = choices.below(3);
                set(&mut nodes[&id], choices, json!([other, slot]));
            }
        }
    }
    Value::Object(nodes)
}

/// Sets one of the inputs of a node, or a new one.
fn set(node: &mut Value, choices: &mut Choices<'_>, value: Value) {
    let Some(inputs) = node.get_mut("inputs").and_then(Value::as_object_mut) else { return };
    let names: Vec<String> = inputs.keys().cloned().collect();
    let name = names.get(choices.below(names.len() + 1)).cloned().unwrap_or_else(|| "one_more".to_owned());
    inputs.insert(name, value);
}

/// `None`: no submission at all.
fn try_all(workflow: &Value, policies: &[Policy], seen: &mut [usize; 3]) {
    let body = json!({ "prompt": workflow }).to_string();
    for policy in policies {
        match check(body.as_bytes(), policy, Catalogue::builtin()) {
            Some(true) => seen[0] += 1,
            Some(false) => seen[1] += 1,
            None => seen[2] += 1,
        }
    }
}

#[test]
fn the_properties_hold_for_real_workflows_with_a_few_things_changed() {
    let policies: Vec<Policy> =
        ["default", "strict", "generous", "owner"].into_iter().filter_map(Policy::builtin).collect();
    assert!(policies.len() >= 3);
    let workflows = workflows();
    assert!(workflows.len() >= 10, "{}", workflows.len());
    let mut seen = [0; 3];
    for seed in super::numbered("JUDGE_MUTATIONS", 600) {
        let mut choices = Choices::seeded(seed);
        let workflow = &workflows[choices.below(workflows.len())];
        try_all(&mutate(workflow, &mut choices), &policies, &mut seen);
    }
    println!(
        "{} workflows; {} verdicts allow, {} deny, {} bodies are no submission",
        workflows.len(),
        seen[0],
        seen[1],
        seen[2]
    );
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}
