//! Cache keys: the class, the fingerprint, the literals (declared or not) and the shape of everything above a node.
//! Node ids do not matter, so that equal graphs of two callers share their results (caching.py 0.8.0).

use std::collections::HashMap;

use crate::catalogue::Catalogue;
use crate::json::{Dict, Json};
use crate::python;

/// Links one above the other that Python's stack takes while keys are built: 660 survived on a real server, 680 ended the
/// worker.
const ANCESTORS_DEEP_MAX: usize = 665;

/// The worker thread meets an exception that nothing catches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerEnds;

/// A link as the executor knows it: two elements, the first a string, the second a number.
pub fn as_link(value: &Json) -> Option<(&str, i128)> {
    let [Json::Str(node), slot] = value.as_list()? else {
        return None;
    };
    match slot {
        Json::Int(slot) => Some((node, *slot)),
        Json::Bool(flag) => Some((node, i128::from(*flag))),
        #[expect(clippy::cast_possible_truncation, reason = "a float slot works only when it is whole")]
        Json::Float(slot) => Some((node, *slot as i128)),
        _ => None,
    }
}

/// The inputs of a node; anything but a dict ends the worker.
pub fn inputs_of<'a>(prompt: &'a Json, id: &str) -> Result<&'a Dict, WorkerEnds> {
    prompt.at(&[id, "inputs"]).and_then(Json::as_dict).ok_or(WorkerEnds)
}

/// Keys of all nodes of a prompt. `fingerprints` holds what `IS_CHANGED` gave, as text; a NaN there is text that no
/// other run repeats.
pub fn keys(
    prompt: &Json,
    catalogue: Catalogue<'_>,
    fingerprints: &HashMap<String, String>,
) -> Result<HashMap<String, String>, WorkerEnds> {
    let mut out = HashMap::new();
    for id in prompt.as_dict().into_iter().flat_map(|nodes| nodes.keys()) {
        let mut ancestors = Vec::new();
        ancestry(prompt, id, &mut ancestors, 0)?;
        let mut key = signature(prompt, id, &ancestors, catalogue, fingerprints)?;
        for ancestor in &ancestors {
            key.push('\n');
            key.push_str(&signature(prompt, ancestor, &ancestors, catalogue, fingerprints)?);
        }
        out.insert(id.clone(), key);
    }
    Ok(out)
}

fn ancestry(prompt: &Json, id: &str, ancestors: &mut Vec<String>, depth: usize) -> Result<(), WorkerEnds> {
    if prompt.get(id).is_none() {
        return Ok(());
    }
    if depth > ANCESTORS_DEEP_MAX {
        return Err(WorkerEnds);
    }
    let inputs = inputs_of(prompt, id)?;
    for value in sorted(inputs).into_iter().map(|(_, value)| value) {
        if let Some((source, _)) = as_link(value)
            && !ancestors.iter().any(|known| known == source)
        {
            ancestors.push(source.to_owned());
            ancestry(prompt, source, ancestors, depth + 1)?;
        }
    }
    Ok(())
}

fn sorted(inputs: &Dict) -> Vec<(&String, &Json)> {
    let mut entries: Vec<_> = inputs.iter().collect();
    entries.sort_by_key(|(name, _)| name.as_str());
    entries
}

fn signature(
    prompt: &Json,
    id: &str,
    ancestors: &[String],
    catalogue: Catalogue<'_>,
    fingerprints: &HashMap<String, String>,
) -> Result<String, WorkerEnds> {
    if prompt.get(id).is_none() {
        // A node that does not exist makes every key below it unique.
        return Ok(uuid::Uuid::new_v4().to_string());
    }
    let class = prompt.at(&[id, "class_type"]).and_then(Json::as_str).unwrap_or_default();
    let mut out = format!("{class} {}", fingerprints.get(id).map_or("False", String::as_str));
    if catalogue.wants_unique_id(class) {
        out.push_str(&format!(" id={id:?}"));
    }
    for (name, value) in sorted(inputs_of(prompt, id)?) {
        match as_link(value) {
            Some((source, slot)) => {
                let index = ancestors.iter().position(|ancestor| ancestor == source);
                out.push_str(&format!(" {name:?}<{index:?}.{slot}"));
            }
            None => out.push_str(&format!(" {name:?}={}", canonical(value))),
        }
    }
    Ok(out)
}

/// Text that is equal where Python's values are: 1, 1.0 and True are one value.
fn canonical(value: &Json) -> String {
    match value {
        Json::Bool(_) | Json::Int(_) => python::repr(&Json::Int(python::int(value).unwrap_or_default())),
        Json::Float(number) if number.is_nan() => uuid::Uuid::new_v4().to_string(),
        Json::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            python::repr(&Json::Int(python::int(value).unwrap_or_default()))
        }
        Json::List(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Json::Dict(dict) => {
            let entries: Vec<_> =
                sorted(dict).into_iter().map(|(key, value)| format!("{key:?}:{}", canonical(value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        other => python::repr(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Models;
    use serde_json::{Value, json};
    use std::path::Path;

    fn key(prompt: Value, node: &str) -> Result<String, WorkerEnds> {
        let models = Models::new();
        let catalogue = Catalogue { models: &models, input_dir: Path::new("/nonexistent"), api_nodes: true, packs: 0 };
        keys(&Json::from(prompt), catalogue, &HashMap::new()).map(|mut keys| keys.remove(node).unwrap())
    }

    fn graph(source: &str, extra: Option<&str>) -> Value {
        let mut prompt = json!({
            source: {"class_type": "EmptyImage", "inputs": {"width": 64}},
            "2": {"class_type": "SaveImage", "inputs": {"images": [source, 0]}}
        });
        if let Some(extra) = extra {
            prompt[source]["inputs"]["salt"] = json!(extra);
        }
        prompt
    }

    #[test]
    fn node_ids_do_not_matter_and_undeclared_literals_do() {
        assert_eq!(key(graph("1", None), "2"), key(graph("7", None), "2"));
        assert_eq!(key(graph("1", Some("a")), "2"), key(graph("1", Some("a")), "2"));
        assert_ne!(key(graph("1", Some("a")), "2"), key(graph("1", Some("b")), "2"));
        assert_ne!(key(graph("1", Some("a")), "2"), key(graph("1", None), "2"));
    }

    #[test]
    fn a_link_to_nowhere_never_hits() {
        let prompt = json!({"2": {"class_type": "SaveImage", "inputs": {"zzz": ["nope", 0]}}});
        assert_ne!(key(prompt.clone(), "2"), key(prompt, "2"));
    }

    #[test]
    fn inputs_that_are_no_object_end_the_worker() {
        for inputs in [json!(null), json!([]), json!("x")] {
            let mut prompt = graph("1", None);
            prompt["9"] = json!({"class_type": "EmptyImage", "inputs": inputs});
            assert_eq!(key(prompt, "2"), Err(WorkerEnds));
        }
        let mut missing = graph("1", None);
        missing["9"] = json!({"class_type": "EmptyImage"});
        assert_eq!(key(missing, "2"), Err(WorkerEnds));
    }

    #[test]
    fn chains_as_deep_as_pythons_stack_end_the_worker_beyond_it() {
        let chain = |length: usize| {
            let nodes = (0..=length).map(|index| {
                let inputs = if index == 0 { json!({}) } else { json!({"zzz": [(index - 1).to_string(), 0]}) };
                (index.to_string(), json!({"class_type": "EmptyImage", "inputs": inputs}))
            });
            Value::Object(nodes.collect())
        };
        assert!(key(chain(300), "300").is_ok());
        assert_eq!(key(chain(ANCESTORS_DEEP_MAX + 1), "0"), Err(WorkerEnds));
    }
}
