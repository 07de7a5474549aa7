//! `validate_prompt` of ComfyUI 0.8.0 (execution.py): the same order of tests, coercions in place, and the same errors.
//!
//! Python walks sets of outputs and inputs in an order that differs between processes; here it is the order of the
//! document and of the declaration.

use indexmap::IndexMap;

use crate::catalogue::{Catalogue, Category, Input, types_match};
use crate::files::Folders;
use crate::json::{Dict, Json, dict};
use crate::python;

/// Nodes one below the other that Python's stack takes: 982 below an output were validated by a real server, 983 were a
/// `RecursionError`.
const NODES_DEEP_MAX: usize = 983;

/// Stack of the validating thread: enough for `NODES_DEEP_MAX` nodes even in a debug build. Untouched pages cost nothing.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Options beyond which an error does not list them.
const OPTIONS_SHOWN_MAX: usize = 20;

/// The answer of the validator.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// At least one output may run; `node_errors` tells of those that may not.
    Valid {
        /// Output nodes that may run.
        outputs: Vec<String>,
        /// Errors of the others.
        node_errors: Json,
    },
    /// Nothing may run: the body of the 400 answer.
    Invalid {
        /// `{type, message, details, extra_info}`.
        error: Json,
        /// Errors by node.
        node_errors: Json,
    },
}

/// The shape is such that Python raises outside of any `try`: the answer is 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash;

/// An exception inside the validation of one node.
#[derive(Debug, Clone)]
struct Raised {
    kind: &'static str,
    text: String,
}

impl Raised {
    fn new(kind: &'static str, text: impl Into<String>) -> Raised {
        Raised { kind, text: text.into() }
    }

    fn traceback() -> Json {
        Json::List(vec![Json::from("  File \"/stand-in/execution.py\", line 1, in validate_inputs\n")])
    }
}

/// A literal that is not valid: how far it was converted (ComfyUI leaves it so in the graph), and the error.
struct Refused {
    value: Json,
    error: Json,
}

struct Validator<'a> {
    catalogue: Catalogue<'a>,
    folders: &'a Folders,
    /// Node → valid?, its own errors.
    validated: IndexMap<String, (bool, Vec<Json>)>,
}

/// Validates `prompt` in place: coerced values replace the written ones.
pub fn validate_prompt(
    prompt: &mut Json,
    targets: Option<&Json>,
    catalogue: Catalogue<'_>,
    folders: &Folders,
) -> Result<Verdict, Crash> {
    // The recursion is Python's, and so deep that it does not fit an ordinary thread.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || validated(prompt, targets, catalogue, folders))
            .map_err(|_| Crash)?
            .join()
            .map_err(|_| Crash)?
    })
}

fn validated(
    prompt: &mut Json,
    targets: Option<&Json>,
    catalogue: Catalogue<'_>,
    folders: &Folders,
) -> Result<Verdict, Crash> {
    let ids = match prompt {
        Json::Dict(nodes) => nodes.keys().cloned().collect::<Vec<_>>(),
        Json::Str(text) if text.is_empty() => Vec::new(),
        Json::List(items) if items.is_empty() => Vec::new(),
        _ => return Err(Crash),
    };
    let mut outputs = Vec::new();
    for id in ids {
        match output_class(prompt, &id, catalogue)? {
            Err(error) => {
                return Ok(Verdict::Invalid { error, node_errors: dict([]) });
            }
            Ok(true) if targeted(targets, &id)? => outputs.push(id),
            Ok(_) => {}
        }
    }
    if outputs.is_empty() {
        let error = top_error("prompt_no_outputs", "Prompt has no outputs", "");
        return Ok(Verdict::Invalid { error, node_errors: dict([]) });
    }
    let mut validator = Validator { catalogue, folders, validated: IndexMap::new() };
    validator.outputs(prompt, &outputs)
}

/// The body of an error at the top of an answer.
pub fn top_error(kind: &str, message: &str, details: &str) -> Json {
    dict([("type", kind.into()), ("message", message.into()), ("details", details.into()), ("extra_info", dict([]))])
}

/// Is the node's class an output class? The inner error is the answer when there is no such class.
fn output_class(prompt: &Json, id: &str, catalogue: Catalogue<'_>) -> Result<Result<bool, Json>, Crash> {
    let details = format!("Node ID '#{id}'");
    let missing = "Cannot execute because a node is missing the class_type property.";
    let class = match prompt.get(id) {
        Some(Json::Dict(node)) => node.get("class_type"),
        Some(Json::List(items)) if items.iter().all(|item| item.as_str() != Some("class_type")) => None,
        Some(Json::Str(text)) if !text.contains("class_type") => None,
        _ => return Err(Crash),
    };
    let Some(class) = class else {
        return Ok(Err(top_error("invalid_prompt", missing, &details)));
    };
    match class {
        Json::Str(name) if catalogue.knows(name) => Ok(Ok(catalogue.is_output(name))),
        Json::List(_) | Json::Dict(_) => Err(Crash),
        other => {
            let message = format!("Cannot execute because node {} does not exist.", python::str(other));
            Ok(Err(top_error("invalid_prompt", &message, &details)))
        }
    }
}

/// `targets is None or id in targets`, with Python's `in` for lists, strings and dicts.
fn targeted(targets: Option<&Json>, id: &str) -> Result<bool, Crash> {
    match targets {
        None | Some(Json::Null) => Ok(true),
        Some(Json::List(items)) => Ok(items.iter().any(|item| item.as_str() == Some(id))),
        Some(Json::Str(text)) => Ok(text.contains(id)),
        Some(Json::Dict(keys)) => Ok(keys.contains_key(id)),
        Some(_) => Err(Crash),
    }
}

impl Validator<'_> {
    fn outputs(&mut self, prompt: &mut Json, outputs: &[String]) -> Result<Verdict, Crash> {
        let mut good = Vec::new();
        let mut texts = Vec::new();
        let mut node_errors = Dict::new();
        for output in outputs {
            let (valid, reasons) = match self.node(prompt, output, 0) {
                Ok(result) => result,
                Err(raised) => {
                    let info = dict([("exception_type", raised.kind.into()), ("traceback", Raised::traceback())]);
                    let reason =
                        error("exception_during_validation", "Exception when validating node", &raised.text, info);
                    self.validated.insert(output.clone(), (false, vec![reason.clone()]));
                    (false, vec![reason])
                }
            };
            if valid {
                good.push(output.clone());
                continue;
            }
            texts.extend(reasons.iter().map(|reason| {
                let word = |key| reason.get(key).map(python::str).unwrap_or_default();
                format!("{}: {}", word("message"), word("details"))
            }));
            self.report(prompt, output, &mut node_errors)?;
        }
        let node_errors = Json::Dict(node_errors);
        if good.is_empty() {
            let error =
                top_error("prompt_outputs_failed_validation", "Prompt outputs failed validation", &texts.join("\n"));
            return Ok(Verdict::Invalid { error, node_errors });
        }
        Ok(Verdict::Valid { outputs: good, node_errors })
    }

    /// Adds every node that has errors of its own, and names `output` as depending on it.
    fn report(&self, prompt: &Json, output: &str, node_errors: &mut Dict) -> Result<(), Crash> {
        for (id, (valid, reasons)) in &self.validated {
            if *valid || reasons.is_empty() {
                continue;
            }
            let class = prompt.at(&[id, "class_type"]).cloned().ok_or(Crash)?;
            let entry = node_errors.entry(id.clone()).or_insert_with(|| {
                dict([
                    ("errors", Json::List(reasons.clone())),
                    ("dependent_outputs", Json::List(Vec::new())),
                    ("class_type", class),
                ])
            });
            if let Json::Dict(entry) = entry
                && let Some(Json::List(dependents)) = entry.get_mut("dependent_outputs")
            {
                dependents.push(Json::from(output));
            }
        }
        Ok(())
    }

    fn node(&mut self, prompt: &mut Json, id: &str, depth: usize) -> Result<(bool, Vec<Json>), Raised> {
        if let Some(known) = self.validated.get(id) {
            return Ok(known.clone());
        }
        if depth > NODES_DEEP_MAX {
            return Err(Raised::new("RecursionError", "maximum recursion depth exceeded"));
        }
        let node = prompt.get(id).ok_or_else(|| key_error(&Json::from(id)))?;
        let class = node.get("class_type").and_then(Json::as_str).unwrap_or_default().to_owned();
        let given = node.get("inputs").cloned().ok_or_else(|| key_error(&Json::from("inputs")))?;
        let mut errors = Vec::new();
        let mut valid = true;
        for input in self.catalogue.inputs(&class, &given) {
            let value = match &given {
                Json::Dict(inputs) => inputs.get(&input.name).cloned(),
                Json::List(items) if items.iter().all(|item| item.as_str() != Some(&input.name)) => None,
                Json::Str(text) if !text.contains(&input.name) => None,
                Json::Str(_) | Json::List(_) => {
                    let word = if matches!(given, Json::Str(_)) { "string" } else { "list" };
                    let plural = if word == "list" { "integers or slices" } else { "integers" };
                    let name = if word == "list" { "str" } else { "'str'" };
                    return Err(Raised::new("TypeError", format!("{word} indices must be {plural}, not {name}")));
                }
                other => {
                    let text = format!("argument of type '{}' is not iterable", python::type_name(other));
                    return Err(Raised::new("TypeError", text));
                }
            };
            match value {
                None if input.category == Category::Required => errors.push(missing(&input.name)),
                None => {}
                Some(Json::List(link)) => valid &= self.link(prompt, &input, &link, depth, &mut errors)?,
                Some(value) => match self.literal(&class, &input, value) {
                    Ok(value) => set_input(prompt, id, &input.name, value),
                    Err(refused) => {
                        set_input(prompt, id, &input.name, refused.value);
                        errors.push(refused.error);
                    }
                },
            }
        }
        self.own_validator(prompt, &class, id, &mut errors);
        let result = (errors.is_empty() && valid, errors);
        self.validated.insert(id.to_owned(), result.clone());
        Ok(result)
    }

    /// Tests a link and everything above it. `false`: something above is invalid, with errors of its own.
    fn link(
        &mut self,
        prompt: &mut Json,
        input: &Input,
        link: &[Json],
        depth: usize,
        errors: &mut Vec<Json>,
    ) -> Result<bool, Raised> {
        let [source, slot] = link else {
            let message = "Bad linked input, must be a length-2 list of [node_id, slot_index]";
            let info = dict([
                ("input_name", input.name.as_str().into()),
                ("input_config", input_config(input)),
                ("received_value", Json::List(link.to_vec())),
            ]);
            errors.push(error("bad_linked_input", message, &input.name, info));
            return Ok(true);
        };
        let source_id = match source {
            Json::Str(id) if prompt.get(id).is_some() => id.clone(),
            Json::List(_) | Json::Dict(_) => {
                let text = format!("unhashable type: '{}'", python::type_name(source));
                return Err(Raised::new("TypeError", text));
            }
            _ => return Err(key_error(source)),
        };
        let class = prompt.at(&[&source_id, "class_type"]).and_then(Json::as_str).unwrap_or_default();
        let received = slot_type(self.catalogue.outputs(class), slot)?;
        if !types_match(&received, &input.kind) && input.name != "on_true" && input.name != "on_false" {
            let details = format!(
                "{}, received_type({}) mismatch input_type({})",
                input.name,
                python::str(&received),
                python::str(&input.kind)
            );
            let info = dict([
                ("input_name", input.name.as_str().into()),
                ("input_config", input_config(input)),
                ("received_type", received),
                ("linked_node", Json::List(link.to_vec())),
            ]);
            errors.push(error("return_type_mismatch", "Return type mismatch between linked nodes", &details, info));
            return Ok(true);
        }
        match self.node(prompt, &source_id, depth + 1) {
            Ok((valid, _)) => Ok(valid),
            Err(raised) => {
                let info = dict([
                    ("input_name", input.name.as_str().into()),
                    ("input_config", input_config(input)),
                    ("exception_message", raised.text.as_str().into()),
                    ("exception_type", raised.kind.into()),
                    ("traceback", Raised::traceback()),
                    ("linked_node", Json::List(link.to_vec())),
                ]);
                let message = "Exception when validating inner node";
                let reason = error("exception_during_inner_validation", message, &raised.text, info);
                self.validated.insert(source_id, (false, vec![reason]));
                Ok(false)
            }
        }
    }

    /// Unwraps, converts and tests one literal.
    fn literal(&self, class: &str, input: &Input, value: Json) -> Result<Json, Box<Refused>> {
        let value = match value {
            Json::Dict(mut wrapper) if wrapper.contains_key("__value__") => {
                wrapper.shift_remove("__value__").unwrap_or(Json::Null)
            }
            value => value,
        };
        let kind = input.kind.as_str().unwrap_or_default();
        let converted = match kind {
            "INT" => python::int(&value).map(Json::Int),
            "FLOAT" => python::float(&value).map(Json::Float),
            "STRING" => Ok(Json::Str(python::str(&value))),
            "BOOLEAN" => Ok(Json::Bool(value.truthy())),
            _ => Ok(value.clone()),
        };
        let converted = converted.map_err(|text| {
            let message = format!("Failed to convert an input value to a {kind} value");
            let details = format!("{}, {}, {text}", input.name, python::str(&value));
            let info = dict([
                ("input_name", input.name.as_str().into()),
                ("input_config", input_config(input)),
                ("received_value", value.clone()),
                ("exception_message", text.as_str().into()),
            ]);
            Box::new(Refused { value: value.clone(), error: error("invalid_input_type", &message, &details, info) })
        })?;
        if own_check(class, &input.name) {
            return Ok(converted);
        }
        match self.range(input, &converted).or_else(|| options(input, &converted)) {
            Some(error) => Err(Box::new(Refused { value: converted, error })),
            None => Ok(converted),
        }
    }

    fn range(&self, input: &Input, value: &Json) -> Option<Json> {
        let number = value.as_number()?;
        let bound = |key: &str| input.options.get(key).filter(|bound| bound.as_number().is_some());
        let (kind, word, limit) = match (bound("min"), bound("max")) {
            (Some(min), _) if below(value, number, min) => ("value_smaller_than_min", "smaller than min", min),
            (_, Some(max)) if below(max, max.as_number()?, value) => ("value_bigger_than_max", "bigger than max", max),
            _ => return None,
        };
        let message = format!("Value {} {word} of {}", python::str(value), python::str(limit));
        let info = dict([
            ("input_name", input.name.as_str().into()),
            ("input_config", input_config(input)),
            ("received_value", value.clone()),
        ]);
        Some(error(kind, &message, &input.name, info))
    }

    /// The validators that classes bring themselves: the loaders test that their file exists.
    fn own_validator(&self, prompt: &Json, class: &str, id: &str, errors: &mut Vec<Json>) {
        let (input, what) = match class {
            "LoadImage" | "LoadImageMask" | "LoadImageOutput" => ("image", "image"),
            "LoadAudio" => ("audio", "audio"),
            "LoadVideo" => ("file", "video"),
            "LoadLatent" => ("latent", "latent"),
            _ => return,
        };
        let Some(name) = prompt.at(&[id, "inputs", input]).and_then(Json::as_str) else {
            return;
        };
        if !self.folders.annotated(name).exists() {
            let details = format!("{input} - Invalid {what} file: {name}");
            let info = dict([("input_name", input.into())]);
            errors.push(error("custom_validation_failed", "Custom validation failed for node", &details, info));
        }
    }
}

/// `a < b`, exact where both are integers.
fn below(a: &Json, a_number: f64, b: &Json) -> bool {
    match (a, b) {
        (Json::Int(a), Json::Int(b)) => a < b,
        _ => b.as_number().is_some_and(|b| a_number < b),
    }
}

fn options(input: &Input, value: &Json) -> Option<Json> {
    let listed = match &input.kind {
        Json::List(options) => options.as_slice(),
        Json::Str(word) if word == "COMBO" => input.options.get("options").and_then(Json::as_list).unwrap_or_default(),
        _ => return None,
    };
    if listed.iter().any(|option| option.equals(value)) {
        return None;
    }
    let (list, config) = if listed.len() > OPTIONS_SHOWN_MAX {
        (format!("(list of length {})", listed.len()), Json::Null)
    } else {
        (python::repr(&Json::List(listed.to_vec())), input_config(input))
    };
    let details = format!("{}: '{}' not in {list}", input.name, python::str(value));
    let info =
        dict([("input_name", input.name.as_str().into()), ("input_config", config), ("received_value", value.clone())]);
    Some(error("value_not_in_list", "Value not in list", &details, info))
}

/// Is the input named in the class's own validator? Then ComfyUI tests neither range nor options.
fn own_check(class: &str, input: &str) -> bool {
    matches!(
        (class, input),
        ("LoadImage" | "LoadImageMask" | "LoadImageOutput" | "WebcamCapture", "image")
            | ("LoadAudio", "audio")
            | ("LoadVideo", "file")
            | ("LoadLatent", "latent")
            | ("CustomCombo", "choice")
            | ("ComfySwitchNode", "switch" | "on_true" | "on_false")
    )
}

/// `RETURN_TYPES[slot]` with Python's indices: negative ones and booleans work.
fn slot_type(outputs: &[Json], slot: &Json) -> Result<Json, Raised> {
    let index = match slot {
        Json::Int(index) => *index,
        Json::Bool(flag) => i128::from(*flag),
        other => {
            let text = format!("tuple indices must be integers or slices, not {}", python::type_name(other));
            return Err(Raised::new("TypeError", text));
        }
    };
    let length = i128::try_from(outputs.len()).unwrap_or(i128::MAX);
    let index = if index < 0 { index + length } else { index };
    usize::try_from(index)
        .ok()
        .and_then(|index| outputs.get(index))
        .cloned()
        .ok_or_else(|| Raised::new("IndexError", "tuple index out of range"))
}

fn key_error(key: &Json) -> Raised {
    Raised::new("KeyError", python::repr(key))
}

fn set_input(prompt: &mut Json, id: &str, name: &str, value: Json) {
    if let Json::Dict(nodes) = prompt
        && let Some(Json::Dict(node)) = nodes.get_mut(id)
        && let Some(Json::Dict(inputs)) = node.get_mut("inputs")
    {
        inputs.insert(name.to_owned(), value);
    }
}

fn input_config(input: &Input) -> Json {
    Json::List(vec![input.kind.clone(), input.options.clone()])
}

fn missing(name: &str) -> Json {
    let details = name.rsplit('.').next().unwrap_or(name);
    error("required_input_missing", "Required input is missing", details, dict([("input_name", name.into())]))
}

fn error(kind: &str, message: &str, details: &str, extra_info: Json) -> Json {
    dict([("type", kind.into()), ("message", message.into()), ("details", details.into()), ("extra_info", extra_info)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Models;
    use serde_json::{Value, json};

    fn verdict(prompt: Value) -> Result<(Verdict, Json), Crash> {
        let models = Models::new();
        let directory = tempfile::tempdir().unwrap();
        let folders = Folders::create(directory.path()).unwrap();
        let catalogue = Catalogue { models: &models, input_dir: folders.input(), api_nodes: true, packs: 0 };
        let mut prompt = Json::from(prompt);
        validate_prompt(&mut prompt, None, catalogue, &folders).map(|verdict| (verdict, prompt))
    }

    fn with_width(width: Value) -> Value {
        json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": width, "height": 64, "batch_size": 1, "color": 0}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
        })
    }

    fn first_error(prompt: Value, node: &str) -> (String, String) {
        let (verdict, _) = verdict(prompt).unwrap();
        let Verdict::Invalid { node_errors, .. } = verdict else { panic!("valid: {verdict:?}") };
        let errors = node_errors.at(&[node, "errors"]).and_then(Json::as_list).unwrap().to_vec();
        (python::str(errors[0].get("type").unwrap()), python::str(errors[0].get("details").unwrap()))
    }

    #[test]
    fn coerced_values_replace_the_written_ones() {
        for width in [json!("64"), json!("6_4"), json!(64.9), json!({"__value__": 64})] {
            let (verdict, prompt) = verdict(with_width(width)).unwrap();
            assert!(matches!(verdict, Verdict::Valid { .. }));
            assert_eq!(prompt.at(&["1", "inputs", "width"]), Some(&Json::Int(64)));
        }
    }

    #[test]
    fn a_value_on_the_bound_is_valid_and_one_beyond_is_not() {
        for width in [1, 16384] {
            assert!(matches!(verdict(with_width(json!(width))).unwrap().0, Verdict::Valid { .. }));
        }
        assert_eq!(first_error(with_width(json!(0)), "1").0, "value_smaller_than_min");
        assert_eq!(first_error(with_width(json!(16385)), "1").0, "value_bigger_than_max");
    }

    #[test]
    fn links_are_tested_for_target_slot_and_type() {
        let image = |link: Value| {
            json!({
                "1": {"class_type": "PrimitiveInt", "inputs": {"value": 1}},
                "2": {"class_type": "SaveImage", "inputs": {"images": link, "filename_prefix": "x"}}
            })
        };
        assert_eq!(first_error(image(json!(["1", 0])), "2").0, "return_type_mismatch");
        assert_eq!(first_error(image(json!(["1", -1])), "2").0, "return_type_mismatch");
        assert_eq!(first_error(image(json!(["1", 0, 0])), "2").0, "bad_linked_input");
        assert_eq!(first_error(image(json!(["9", 0])), "2"), ("exception_during_validation".into(), "'9'".into()));
        assert_eq!(first_error(image(json!([9, 0])), "2").1, "9");
        assert_eq!(first_error(image(json!(["1", 7])), "2").1, "tuple index out of range");
    }

    #[test]
    fn a_cycle_is_refused_without_errors_of_nodes() {
        let (verdict, _) = verdict(json!({
            "1": {"class_type": "ImageInvert", "inputs": {"image": ["3", 0]}},
            "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
        }))
        .unwrap();
        let Verdict::Invalid { node_errors, .. } = verdict else { panic!("valid") };
        assert_eq!(node_errors, dict([]));
    }

    #[test]
    fn one_good_output_is_enough_and_the_bad_one_is_reported() {
        let mut prompt = with_width(json!(64));
        prompt["3"] = json!({"class_type": "SaveImage", "inputs": {"images": ["1", 0]}});
        let (verdict, _) = verdict(prompt).unwrap();
        let Verdict::Valid { outputs, node_errors } = verdict else { panic!("invalid: {verdict:?}") };
        assert_eq!(outputs, ["2"]);
        assert!(node_errors.get("3").is_some());
    }

    #[test]
    fn shapes_on_which_python_raises_are_a_crash() {
        for prompt in [json!(null), json!(3), json!([1]), json!({"1": 3}), json!({"1": {"class_type": []}})] {
            assert_eq!(verdict(prompt.clone()).map(|_| ()), Err(Crash), "{prompt}");
        }
        assert!(verdict(json!([])).is_ok());
    }
}
