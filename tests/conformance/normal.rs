//! What two runs have in common: ids, times, sizes of memory, paths and counters are replaced by words.

use serde_json::{Map, Value, json};

/// Keys whose values change from run to run; only their JSON type is compared.
const VOLATILE: [&str; 19] = [
    "timestamp",
    "create_time",
    "execution_start_time",
    "execution_end_time",
    "modified",
    "created",
    "ram_total",
    "ram_free",
    "vram_total",
    "vram_free",
    "torch_vram_total",
    "torch_vram_free",
    "python_version",
    "pytorch_version",
    "argv",
    "traceback",
    "installed_templates_version",
    "required_templates_version",
    "required_frontend_version",
];

/// Texts of ComfyUI's own that the stand-in does not carry.
const DROPPED: [&str; 3] = ["tooltip", "description", "output_tooltips"];

/// A body in its comparable form. `first_number` is what the server gave the first accepted submission.
pub fn normal(value: &Value, first_number: i64) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|item| normal(item, first_number)).collect();
            if is_queue_item(value) {
                number_relative(&mut items, first_number);
                sort(items.last_mut());
            }
            Value::Array(items)
        }
        Value::Object(map) => object(map, first_number),
        Value::String(text) => Value::String(words(text)),
        other => other.clone(),
    }
}

fn object(map: &Map<String, Value>, first_number: i64) -> Value {
    let mut entries: Vec<(String, Value)> = Vec::new();
    for (key, value) in map {
        if DROPPED.contains(&key.as_str()) {
            continue;
        }
        let value = match key.as_str() {
            key if VOLATILE.contains(&key) => json!(type_of(value)),
            // Tensors print as their numbers, which the stand-in does not have.
            "current_inputs" => json!(value.as_object().map(|inputs| inputs.keys().collect::<Vec<_>>())),
            "number" | "priority" => relative(value, first_number),
            "errors" | "dependent_outputs" | "executed" | "current_outputs" => {
                let mut value = normal(value, first_number);
                sort(Some(&mut value));
                value
            }
            _ => normal(value, first_number),
        };
        entries.push((words(key), value));
    }
    // Objects keyed by ids of the run keep their order instead of their keys.
    if entries.iter().any(|(key, _)| key == "<uuid>") {
        return Value::Array(entries.into_iter().map(|(key, value)| json!([key, value])).collect());
    }
    Value::Object(entries.into_iter().collect())
}

/// `[number, id, prompt, extra_data, outputs]`.
fn is_queue_item(value: &Value) -> bool {
    matches!(
        value.as_array().map(Vec::as_slice),
        Some([_, Value::String(_), Value::Object(_), Value::Object(_), Value::Array(_)])
    )
}

fn number_relative(items: &mut [Value], first_number: i64) {
    if let Some(number) = items.first_mut() {
        *number = relative(number, first_number);
    }
}

/// Integers count from the first submission; `front` makes them negative. Floats are the caller's own.
fn relative(value: &Value, first_number: i64) -> Value {
    match value.as_i64() {
        Some(number) if number < 0 => json!(number + first_number),
        Some(number) => json!(number - first_number),
        None => value.clone(),
    }
}

/// Puts a list into an order of its own; anything else stays.
pub fn sort(value: Option<&mut Value>) {
    if let Some(Value::Array(items)) = value {
        items.sort_by_key(ToString::to_string);
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "<null>",
        Value::Bool(_) => "<bool>",
        Value::Number(_) => "<number>",
        Value::String(_) => "<text>",
        Value::Array(_) => "<list>",
        Value::Object(_) => "<object>",
    }
}

/// Ids, paths and counters in a text become words.
pub fn words(text: &str) -> String {
    let text = masked_uuids(text);
    let text = masked_counters(&text);
    let parts = text.split(' ').map(|part| {
        let absolute = part.starts_with('/') && !part.starts_with("/extensions");
        if absolute { format!("<path>/{}", part.rsplit('/').next().unwrap_or_default()) } else { part.to_owned() }
    });
    let text = parts.collect::<Vec<_>>().join(" ");
    // The exception of a prefix that leaves the folder names three folders.
    if text.starts_with("**** ERROR: Saving image outside") { "<outside the output folder>".to_owned() } else { text }
}

fn masked_uuids(text: &str) -> String {
    let mut out = String::new();
    let characters: Vec<char> = text.chars().collect();
    let mut at = 0;
    while let Some(character) = characters.get(at) {
        let window = characters.get(at..at + 36);
        let is_uuid = window.is_some_and(|window| {
            window.iter().enumerate().all(|(index, c)| match index {
                8 | 13 | 18 | 23 => *c == '-',
                _ => c.is_ascii_hexdigit(),
            })
        });
        if is_uuid {
            out.push_str("<uuid>");
            at += 36;
        } else {
            out.push(*character);
            at += 1;
        }
    }
    out
}

/// `rec_00007_.png` → `rec_#_.png`, and the five random letters of temp files.
fn masked_counters(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(head) = text.strip_suffix("_.png")
        && let Some((stem, digits)) = head.rsplit_once('_')
        && digits.len() == 5
        && digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        text = format!("{stem}_#_.png");
    }
    let temp = text.split_once("_temp_").and_then(|(stem, rest)| Some((stem, rest.split_once('_')?)));
    match temp {
        Some((stem, (letters, rest))) if letters.len() == 5 => format!("{stem}_temp_?_{rest}"),
        _ => text,
    }
}

/// The events of one socket in their comparable form: the `status` values, and the rest with runs of progress steps
/// collapsed and output nodes, whose order Python leaves open, named alike.
pub fn events(heard: &[Value], outputs: &[&str]) -> (Vec<Value>, Vec<String>) {
    let mut statuses = Vec::new();
    let mut rest: Vec<String> = Vec::new();
    let node_name = |id: &str| {
        if outputs.contains(&id) { "<output>".to_owned() } else { id.to_owned() }
    };
    for event in heard {
        let data = &event["data"];
        let node = data["node"].as_str().map(node_name);
        let line = match event["type"].as_str() {
            Some("status") => {
                statuses.push(data["status"]["exec_info"]["queue_remaining"].clone());
                continue;
            }
            Some("progress_state") => {
                let last = data["nodes"].as_object().and_then(|nodes| nodes.iter().next_back());
                let (id, state) = last.expect("a node in every progress_state");
                let begun = state["value"].as_f64() == Some(0.0) || state["state"] == "finished";
                if !begun {
                    "step".to_owned()
                } else {
                    let count = data["nodes"].as_object().map_or(0, Map::len);
                    format!("progress_state {} of {count}: {}", node_name(id), state["state"])
                }
            }
            Some("progress") => format!("progress of {node:?} to {}", data["max"]),
            Some("executing") => {
                format!(
                    "executing {node:?} display={} prompt={}",
                    !data["display_node"].is_null(),
                    data["prompt_id"].is_string()
                )
            }
            Some("executed") => format!("executed {node:?}"),
            Some(kind) => format!("{kind} {}", words(&normal(data, 0).to_string())),
            None => binary(event),
        };
        rest.push(line);
    }
    (statuses, collapsed(rest))
}

/// The kind of a binary message, and the keys of its metadata.
fn binary(event: &Value) -> String {
    let bytes: Vec<u8> = serde_json::from_value(event["binary"].clone()).expect("a list of bytes");
    let word = |at: usize| bytes.get(at..at + 4).map(|part| u32::from_be_bytes(part.try_into().expect("four bytes")));
    match word(0) {
        Some(1) => format!("preview format {:?}, JPEG {}", word(4), bytes.get(8..10) == Some(&[0xff, 0xd8])),
        Some(4) => {
            let length = usize::try_from(word(4).expect("a length")).expect("a small length");
            let metadata: Value = serde_json::from_slice(bytes.get(8..8 + length).expect("metadata")).expect("JSON");
            let keys: Vec<_> = metadata.as_object().expect("an object").keys().cloned().collect();
            let jpeg = bytes.get(8 + length..10 + length) == Some(&[0xff, 0xd8]);
            format!("preview with {keys:?} {} JPEG {jpeg}", metadata["image_type"])
        }
        other => format!("binary {other:?}"),
    }
}

/// Consecutive repetitions of the lines of one progress step become one.
fn collapsed(lines: Vec<String>) -> Vec<String> {
    let is_step = |line: &str| line == "step" || line.starts_with("progress of") || line.starts_with("preview");
    let mut out: Vec<String> = Vec::new();
    for line in lines {
        let step = out.iter().rev().take_while(|line| is_step(line)).any(|known| *known == line);
        if !(is_step(&line) && step) {
            out.push(line);
        }
    }
    out
}
