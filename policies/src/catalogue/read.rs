//! Reads an `object_info` into signatures. Shape: ComfyUI 0.8.0, `server.py` `node_info`; a V3 class writes the same.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::signature::Annotation;
use super::tables::Tables;
use super::{CLASSES_MAX, CatalogueError, ClassSignature, DeclaredType, InputSignature, OutputSignature, Presence};

/// Items of an autogrow row; ComfyUI's own limit is 100.
const AUTOGROW_MAX: u64 = 100;
/// Dynamic choices within choices.
const DYNAMIC_DEPTH_MAX: usize = 4;

/// All classes of an `object_info`, without annotations.
pub(super) fn classes(json: &[u8]) -> Result<BTreeMap<String, ClassSignature>, CatalogueError> {
    let not_json = |error: serde_json::Error| CatalogueError::Json(error.to_string());
    // Class by class: as one tree the megabytes of a live answer take tens of megabytes of memory.
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(json).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => fault("", "an object_info is an object of classes"),
            _ => not_json(error),
        })?;
    if members.len() > CLASSES_MAX {
        return Err(fault("", "too many classes"));
    }
    let read = |(name, raw): (String, &RawValue)| {
        let value: Value = serde_json::from_str(raw.get()).map_err(not_json)?;
        let class = class(&name, &value)?;
        Ok((name, class))
    };
    members.into_iter().map(read).collect()
}

fn fault(class: &str, message: &str) -> CatalogueError {
    CatalogueError::Class { class: class.to_owned(), message: message.to_owned() }
}

fn class(name: &str, value: &Value) -> Result<ClassSignature, CatalogueError> {
    let groups =
        value.get("input").and_then(Value::as_object).ok_or_else(|| fault(name, "`input` is not an object"))?;
    let module = value.get("python_module").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(ClassSignature {
        name: name.to_owned(),
        core: ClassSignature::is_core_module(&module),
        tables: Tables::default(),
        module,
        output_node: value.get("output_node").and_then(Value::as_bool).unwrap_or(false),
        // ComfyUI 0.8.0 does not tell; there the annotations do.
        input_list: value.get("is_input_list").and_then(Value::as_bool).unwrap_or(false),
        inputs: inputs(name, groups, 0)?,
        outputs: outputs(name, value)?,
        annotation: Annotation::default(),
    })
}

fn inputs(class: &str, groups: &Map<String, Value>, depth: usize) -> Result<Vec<InputSignature>, CatalogueError> {
    let mut out: Vec<InputSignature> = Vec::new();
    for (group, presence) in [("required", Presence::Required), ("optional", Presence::Optional)] {
        let members = match groups.get(group) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(members)) => members,
            Some(_) => return Err(fault(class, "a group of inputs is not an object")),
        };
        for (name, declaration) in members {
            // ComfyUI looks at required ones first; a name in both groups means the same input.
            if out.iter().all(|known| known.name != *name) {
                out.push(input(class, name, presence, declaration, depth)?);
            }
        }
    }
    Ok(out)
}

fn input(
    class: &str,
    name: &str,
    presence: Presence,
    declaration: &Value,
    depth: usize,
) -> Result<InputSignature, CatalogueError> {
    let type_value = declaration.get(0).ok_or_else(|| fault(class, &format!("input `{name}` has no type")))?;
    let options = declaration.get(1).unwrap_or(&Value::Null);
    let declared = match type_value {
        Value::Array(choices) => DeclaredType::Combo(choices.clone()),
        Value::String(text) => declared_type(class, text, options, depth)?,
        _ => {
            return Err(fault(class, &format!("input `{name}` has a type that is neither a name nor a list")));
        }
    };
    let upload_keys = ["image_upload", "video_upload", "audio_upload", "file_upload"];
    let uploads = upload_keys.iter().any(|key| options.get(key).and_then(Value::as_bool) == Some(true));
    let (full, row) = (String::new(), Vec::new());
    Ok(InputSignature { full, row, name: name.to_owned(), presence, declared, kind: None, uploads })
}

fn declared_type(class: &str, text: &str, options: &Value, depth: usize) -> Result<DeclaredType, CatalogueError> {
    let float = |key: &str| options.get(key).and_then(Value::as_f64);
    Ok(match text {
        "INT" => {
            let int = |key: &str| options.get(key).and_then(integer);
            DeclaredType::Int { min: int("min"), max: int("max"), default: int("default") }
        }
        "FLOAT" => DeclaredType::Float { min: float("min"), max: float("max"), default: float("default") },
        "STRING" => DeclaredType::Text,
        "BOOLEAN" => DeclaredType::Boolean,
        "COMBO" => DeclaredType::Combo(options.get("options").and_then(Value::as_array).cloned().unwrap_or_default()),
        "*" => DeclaredType::Any,
        "COMFY_MATCHTYPE_V3" => match_type(options),
        "COMFY_DYNAMICCOMBO_V3" => dynamic_combo(class, options, depth)?,
        "COMFY_AUTOGROW_V3" => autogrow(class, options, depth)?,
        other => DeclaredType::Socket(other.split(',').map(|part| part.trim().to_owned()).collect()),
    })
}

/// Python prints large bounds as floats too.
fn integer(value: &Value) -> Option<i128> {
    let exact = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast from f64 saturates; a schema's bound beyond i128 is none"
    )]
    exact.or_else(|| value.as_f64().map(|number| number as i128))
}

fn match_type(options: &Value) -> DeclaredType {
    let template = options.get("template");
    let text = |key: &str| template.and_then(|template| template.get(key)).and_then(Value::as_str);
    let allowed = text("allowed_types").filter(|types| *types != "*").unwrap_or_default();
    DeclaredType::Match {
        template: text("template_id").unwrap_or_default().to_owned(),
        allowed: allowed.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
    }
}

fn dynamic_combo(class: &str, options: &Value, depth: usize) -> Result<DeclaredType, CatalogueError> {
    let list = options.get("options").and_then(Value::as_array);
    let list =
        list.filter(|_| depth < DYNAMIC_DEPTH_MAX).ok_or_else(|| fault(class, "a dynamic choice of unknown form"))?;
    let each = |option: &Value| {
        let key = option.get("key").and_then(Value::as_str).ok_or_else(|| fault(class, "an option without a key"))?;
        let nested = match option.get("inputs").and_then(Value::as_object) {
            Some(groups) => inputs(class, groups, depth + 1)?,
            None => Vec::new(),
        };
        Ok((key.to_owned(), nested))
    };
    list.iter().map(each).collect::<Result<_, _>>().map(DeclaredType::DynamicCombo)
}

fn autogrow(class: &str, options: &Value, depth: usize) -> Result<DeclaredType, CatalogueError> {
    let template = options.get("template").unwrap_or(&Value::Null);
    let groups = template.get("input").and_then(Value::as_object);
    let items = match groups {
        Some(groups) => inputs(class, groups, depth + 1)?,
        None => Vec::new(),
    };
    let item = items.into_iter().next().ok_or_else(|| fault(class, "an autogrow row without an item"))?;
    let number = |key: &str| template.get(key).and_then(Value::as_u64);
    let names: Vec<String> =
        match (template.get("names").and_then(Value::as_array), template.get("prefix").and_then(Value::as_str)) {
            (Some(names), _) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            (None, Some(prefix)) => {
                (0..number("max").unwrap_or(0).min(AUTOGROW_MAX)).map(|n| format!("{prefix}{n}")).collect()
            }
            (None, None) => return Err(fault(class, "an autogrow row without names")),
        };
    let min = number("min").and_then(|min| usize::try_from(min).ok()).unwrap_or(0);
    Ok(DeclaredType::Autogrow { names, min, item: Box::new(item) })
}

fn outputs(class: &str, value: &Value) -> Result<Vec<OutputSignature>, CatalogueError> {
    let empty = Vec::new();
    let list = |key: &str| value.get(key).and_then(Value::as_array);
    let types = list("output").unwrap_or(&empty);
    let mut out = Vec::new();
    for (slot, type_value) in types.iter().enumerate() {
        let type_name = match type_value {
            Value::String(text) => text.clone(),
            Value::Array(_) => "COMBO".to_owned(),
            _ => return Err(fault(class, "an output's type is neither a name nor a list")),
        };
        let is_list =
            list("output_is_list").and_then(|flags| flags.get(slot)).and_then(Value::as_bool).unwrap_or(false);
        let template = list("output_matchtypes").and_then(|names| names.get(slot)).and_then(Value::as_str);
        out.push(OutputSignature { type_name, is_list, template: template.map(str::to_owned) });
    }
    Ok(out)
}
