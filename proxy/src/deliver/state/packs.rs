//! What node packs bring for the page (ComfyUI 0.8.0 `app/custom_node_manager.py`, `app/subgraph_manager.py`): translations, templates, subgraphs, cut to
//! the packs and classes that the caller's policy allows. Pure.

use super::StateError;
use bytes::Bytes;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// ComfyUI's module names of packs begin so.
const MODULE: &str = "custom_nodes.";

/// `GET /i18n`: `{language: {"nodeDefs": {class: …}}}` of allowed classes. Texts that belong to no class may be of any pack and are left out.
///
/// # Errors
/// What is no such object.
pub fn translations(live: &[u8], allowed: impl Fn(&str) -> bool) -> Result<Bytes, StateError> {
    let mut languages: Map<String, Value> = read(live, "a backend's translations")?;
    for language in languages.values_mut() {
        let mut classes = match language.get_mut("nodeDefs").map(Value::take) {
            Some(Value::Object(classes)) => classes,
            _ => Map::new(),
        };
        classes.retain(|class, _| allowed(class));
        *language = Value::Object(Map::from_iter([("nodeDefs".to_owned(), Value::Object(classes))]));
    }
    languages
        .retain(|_, language| language.pointer("/nodeDefs").and_then(Value::as_object).is_some_and(|c| !c.is_empty()));
    Ok(Bytes::from(Value::Object(languages).to_string()))
}

/// `GET /workflow_templates`: `{pack: [name…]}` of allowed packs.
///
/// # Errors
/// What is no such object.
pub fn templates(live: &[u8], packs: &BTreeSet<String>) -> Result<Bytes, StateError> {
    let mut found: Map<String, Value> = read(live, "a backend's list of templates")?;
    found.retain(|pack, _| packs.contains(pack));
    Ok(Bytes::from(Value::Object(found).to_string()))
}

/// `GET /global_subgraphs`: `{id: {"source", "name", "info": {"node_pack"}}}` of allowed packs.
///
/// # Errors
/// What is no such object.
pub fn subgraphs(live: &[u8], packs: &BTreeSet<String>) -> Result<Bytes, StateError> {
    let mut found: Map<String, Value> = read(live, "a backend's list of subgraphs")?;
    found.retain(|_, entry| is_of(entry, packs));
    Ok(Bytes::from(Value::Object(found).to_string()))
}

/// `GET /global_subgraphs/{id}`: one with its `data`; `null` for what is of no allowed pack, as for an unknown one.
///
/// # Errors
/// What is no JSON.
pub fn subgraph(live: &[u8], packs: &BTreeSet<String>) -> Result<Bytes, StateError> {
    let found: Value = read(live, "a backend's subgraph")?;
    let shown = if is_of(&found, packs) { found } else { Value::Null };
    Ok(Bytes::from(shown.to_string()))
}

/// Whether a text may be the id of a subgraph: SHA-256 in hexadecimal.
pub fn is_subgraph_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_of(entry: &Value, packs: &BTreeSet<String>) -> bool {
    let module = entry.pointer("/info/node_pack").and_then(Value::as_str);
    module.and_then(|module| module.strip_prefix(MODULE)).is_some_and(|pack| packs.contains(pack))
}

fn read<T: serde::de::DeserializeOwned>(live: &[u8], what: &'static str) -> Result<T, StateError> {
    serde_json::from_slice(live).map_err(|error| StateError::Unreadable { what, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn packs() -> BTreeSet<String> {
        BTreeSet::from(["open".to_owned()])
    }

    fn json_of(bytes: Result<Bytes, StateError>) -> Value {
        serde_json::from_slice(&bytes.unwrap()).unwrap()
    }

    #[test]
    fn translations_are_those_of_allowed_classes() {
        let live = json!({
            "en": {"nodeDefs": {"Open": {"x": 1}, "Closed": {}}, "commands": {"Closed.Pack": "x"}},
            "de": {"nodeDefs": {"Closed": {}}},
            "fr": 5,
        });
        let shown = json_of(translations(live.to_string().as_bytes(), |class| class == "Open"));
        assert_eq!(shown, json!({"en": {"nodeDefs": {"Open": {"x": 1}}}}));
        assert!(translations(b"[]", |_| true).is_err());
    }

    #[test]
    fn templates_and_subgraphs_are_those_of_allowed_packs() {
        assert_eq!(json_of(templates(br#"{"open": ["a"], "closed": ["b"]}"#, &packs())), json!({"open": ["a"]}));
        let entry =
            |pack: &str| json!({"source": "custom_node", "name": "n", "info": {"node_pack": pack}, "data": "{}"});
        let live =
            json!({"1": entry("custom_nodes.open"), "2": entry("custom_nodes.closed"), "3": entry("open"), "4": {}});
        assert_eq!(json_of(subgraphs(live.to_string().as_bytes(), &packs())), json!({"1": entry("custom_nodes.open")}));
        let one = |pack: &str| json_of(subgraph(entry(pack).to_string().as_bytes(), &packs()));
        assert_eq!(one("custom_nodes.open"), entry("custom_nodes.open"));
        assert_eq!(one("custom_nodes.closed"), Value::Null);
        assert_eq!(json_of(subgraph(b"null", &packs())), Value::Null);
    }

    #[test]
    fn an_id_of_a_subgraph_is_a_digest() {
        assert!(is_subgraph_id(&"0f".repeat(32)));
        for odd in ["", "x", &"0F".repeat(32), &"0f".repeat(31), &format!("{}/.", "0f".repeat(31))] {
            assert!(!is_subgraph_id(odd), "{odd}");
        }
    }
}
