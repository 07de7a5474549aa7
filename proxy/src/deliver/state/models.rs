//! Lists of models (ComfyUI 0.8.0 `server.py`, `app/model_manager.py`; facts §1.3), cut to what the caller's own `/object_info` offers. Pure.

use super::{StateError, object_info};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Folders that hold code and paths instead of models.
const CLOSED: [&str; 2] = ["custom_nodes", "configs"];

/// Whether a text may name a folder of models, and so stand in a path upstream.
pub fn is_folder(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(fine) && !CLOSED.contains(&name)
}

/// Every name that an allowed class offers to choose from, by a caller's own `object_info`; lists of uploaded files are left out.
///
/// # Errors
/// What is no `object_info`.
pub fn offered(object_info: &[u8]) -> Result<HashSet<String>, StateError> {
    let classes: Map<String, Value> = read(object_info, "an object_info")?;
    let mut names = HashSet::new();
    for (class, signature) in &classes {
        for section in ["/input/required", "/input/optional"] {
            let inputs = signature.pointer(section).and_then(Value::as_object);
            for (input, declared) in inputs.into_iter().flatten() {
                if !object_info::lists_files(class, input, declared) {
                    let options = declared.get(0).filter(|first| first.is_array());
                    let options = options.or_else(|| declared.pointer("/1/options")).and_then(Value::as_array);
                    names.extend(options.into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned));
                }
            }
        }
    }
    Ok(names)
}

/// `GET /models`: names of folders, of several backends' answers.
///
/// # Errors
/// What is no list of names.
pub fn folders(live: &[Bytes]) -> Result<Bytes, StateError> {
    let names = united(live, "a backend's list of model folders", |name: &String| Some(name.clone()))?;
    written(&names.into_iter().filter(|name| is_folder(name)).collect())
}

/// What a model's metadata may tell: what it is (<https://github.com/Stability-AI/ModelSpec>) and how it is used. Paths, data sets and settings of whoever trained it are not among it.
const TOLD: [&str; 8] = [
    "format",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_resolution",
    "ss_clip_skip",
    "ss_v2",
];

/// `GET /view_metadata/{folder}`: texts under the names that may be told.
///
/// # Errors
/// What is no object.
pub fn metadata(live: &[u8]) -> Result<Bytes, StateError> {
    let mut entries: Map<String, Value> = read(live, "a model's metadata")?;
    entries
        .retain(|name, value| value.is_string() && (name.starts_with("modelspec.") || TOLD.contains(&name.as_str())));
    written(&Value::Object(entries))
}

/// `GET /models/{folder}`: the names that are offered, of several backends' answers.
///
/// # Errors
/// What is no list of names.
pub fn names(live: &[Bytes], offered: &HashSet<String>) -> Result<Bytes, StateError> {
    let names = united(live, "a backend's list of models", |name: &String| Some(name.clone()))?;
    written(&names.into_iter().filter(|name| offered.contains(name)).collect())
}

/// `GET /embeddings`: those that a prompt of the caller's may name, of several backends' answers.
///
/// # Errors
/// What is no list of names.
pub fn embeddings(live: &[Bytes], offers: impl Fn(&str) -> bool) -> Result<Bytes, StateError> {
    let names = united(live, "a backend's list of embeddings", |name: &String| Some(name.clone()))?;
    written(&names.into_iter().filter(|name| offers(name)).collect())
}

/// `GET /experiment/models`: folders, without the paths on the backend's disk.
///
/// # Errors
/// What is no such list.
pub fn folder_details(live: &[Bytes]) -> Result<Bytes, StateError> {
    let entries = united(live, "a backend's list of model folders", name_of)?;
    let names = entries.iter().filter_map(|entry| entry.get("name")?.as_str()).filter(|name| is_folder(name));
    written(&names.map(|name| json!({"name": name, "folders": []})).collect())
}

/// `GET /experiment/models/{folder}`: the models that are offered, by name, size and times.
///
/// # Errors
/// What is no such list.
pub fn details(live: &[Bytes], offered: &HashSet<String>) -> Result<Bytes, StateError> {
    let entries = united(live, "a backend's list of models", name_of)?;
    let known = |entry: &Value| name_of(entry).is_some_and(|name| offered.contains(&name));
    let shown = |entry: &Value| -> Value {
        let fields = ["name", "pathIndex", "modified", "created", "size"];
        fields.into_iter().filter_map(|key| Some((key.to_owned(), entry.get(key)?.clone()))).collect()
    };
    written(&entries.iter().filter(|entry| known(entry)).map(shown).collect())
}

/// The entries of all lists, each once: as the first list has it.
fn united<T: DeserializeOwned>(
    live: &[Bytes],
    what: &'static str,
    key: impl Fn(&T) -> Option<String>,
) -> Result<Vec<T>, StateError> {
    let (mut seen, mut all) = (HashSet::new(), Vec::new());
    for list in live {
        let entries: Vec<T> = read(list, what)?;
        all.extend(entries.into_iter().filter(|entry| key(entry).is_none_or(|key| seen.insert(key))));
    }
    Ok(all)
}

fn name_of(entry: &Value) -> Option<String> {
    entry.get("name").and_then(Value::as_str).map(str::to_owned)
}

fn read<T: DeserializeOwned>(live: &[u8], what: &'static str) -> Result<T, StateError> {
    serde_json::from_slice(live).map_err(|error| StateError::Unreadable { what, reason: error.to_string() })
}

fn written(value: &Value) -> Result<Bytes, StateError> {
    Ok(Bytes::from(value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_tells_what_a_model_is_and_not_where_it_was_made() {
        let live = br#"{"modelspec.title": "Example", "ss_base_model_version": "sd_v1", "ss_sd_model_name": "/home/me/base.safetensors", "ss_dataset_dirs": "{}", "modelspec.x": {"a": 1}, "ss_tag_frequency": "{}"}"#;
        let told = metadata(live).unwrap();
        assert_eq!(&told[..], br#"{"modelspec.title":"Example","ss_base_model_version":"sd_v1"}"#);
        assert!(metadata(b"[]").is_err());
    }

    fn json_of(bytes: Result<Bytes, StateError>) -> Value {
        serde_json::from_slice(&bytes.unwrap()).unwrap()
    }

    #[test]
    fn a_model_is_shown_if_an_allowed_class_offers_it() {
        let info = json!({
            "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["a.safetensors"], {}]}}},
            "LoraLoader": {"input": {"optional": {"lora": ["COMBO", {"options": ["l/b.safetensors", 5]}]}}},
            "LoadImage": {"input": {"required": {"image": [["c.safetensors"], {"image_upload": true}]}}},
        });
        let offered = offered(info.to_string().as_bytes()).unwrap();
        let live = br#"["a.safetensors", "l/b.safetensors", "c.safetensors", "secret.safetensors"]"#;
        assert_eq!(json_of(names(&[Bytes::from_static(live)], &offered)), json!(["a.safetensors", "l/b.safetensors"]));
        let live =
            json!([{"name": "a.safetensors", "size": 1, "path": "/opt/x"}, {"name": "secret.safetensors"}, {"x": 1}]);
        assert_eq!(
            json_of(details(&[live.to_string().into()], &offered)),
            json!([{"name": "a.safetensors", "size": 1}])
        );
    }

    #[test]
    fn folders_lose_code_and_paths() {
        let live = br#"["checkpoints", "custom_nodes", "configs", "loras", "../x"]"#;
        assert_eq!(json_of(folders(&[Bytes::from_static(live)])), json!(["checkpoints", "loras"]));
        let live = br#"[{"name": "loras", "folders": ["/opt/ComfyUI/models/loras"]}, {"name": "custom_nodes", "folders": []}]"#;
        assert_eq!(json_of(folder_details(&[Bytes::from_static(live)])), json!([{"name": "loras", "folders": []}]));
        assert!(folders(&[Bytes::from_static(b"{}")]).is_err());
    }

    #[test]
    fn lists_of_several_backends_are_one_in_which_each_name_is_once() {
        let lists =
            |texts: &[&'static str]| texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect::<Vec<_>>();
        let both = lists(&[r#"["b", "a"]"#, r#"["a", "c", "b"]"#]);
        assert_eq!(json_of(embeddings(&both, |name| name != "a")), json!(["b", "c"]));
        let both = lists(&[r#"[{"name": "a", "size": 1}]"#, r#"[{"name": "a", "size": 2}, {"name": "b", "size": 3}]"#]);
        let offered = ["a", "b"].map(str::to_owned).into();
        assert_eq!(json_of(details(&both, &offered)), json!([{"name": "a", "size": 1}, {"name": "b", "size": 3}]));
    }

    #[test]
    fn only_plain_names_are_folders() {
        assert!(is_folder("text_encoders") && is_folder(&"a".repeat(64)));
        for odd in ["", "custom_nodes", "configs", "..", "a/b", "a%2fb", "a.b", &"a".repeat(65)] {
            assert!(!is_folder(odd), "{odd}");
        }
    }
}
