//! Which node packs an `object_info` comes from.

use anyhow::Context;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// ComfyUI's own classes, under one name.
const CORE: &str = "ComfyUI's own";

/// A pack and how many classes it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pack {
    /// `ComfyUI's own`, `comfy_api_nodes (paid services)`, or the folder under custom_nodes.
    pub(super) name: String,
    /// Node classes.
    pub(super) classes: usize,
}

/// The packs of an `object_info`, by `python_module`: ComfyUI's own first, then by name.
///
/// # Errors
/// It is no `object_info`.
pub(super) fn packs(object_info: &[u8]) -> anyhow::Result<Vec<Pack>> {
    let classes: Map<String, Value> =
        serde_json::from_slice(object_info).context("what answers /object_info is no ComfyUI")?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for class in classes.values() {
        let module =
            class.get("python_module").and_then(Value::as_str).context("what answers /object_info is no ComfyUI")?;
        *counts.entry(pack_of(module)).or_default() += 1;
    }
    let mut packs: Vec<Pack> = counts.into_iter().map(|(name, classes)| Pack { name, classes }).collect();
    packs.sort_by_key(|pack| pack.name != CORE);
    Ok(packs)
}

fn pack_of(module: &str) -> String {
    match module.split('.').collect::<Vec<_>>().as_slice() {
        ["custom_nodes", pack, ..] => (*pack).to_owned(),
        ["comfy_api_nodes", ..] => "comfy_api_nodes (paid services)".to_owned(),
        _ => CORE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_are_counted_by_pack_with_comfyuis_own_first() {
        let of = |module: &str| json!({"python_module": module});
        let info = json!({"a": of("nodes"), "b": of("comfy_extras.nodes_x"), "c": of("custom_nodes.abc"), "d": of("custom_nodes.abc.sub"), "e": of("comfy_api_nodes.x")});
        let found = packs(info.to_string().as_bytes()).unwrap();
        let shown: Vec<_> = found.iter().map(|pack| (pack.name.as_str(), pack.classes)).collect();
        assert_eq!(shown, [(CORE, 2), ("abc", 2), ("comfy_api_nodes (paid services)", 1)]);
    }

    #[test]
    fn what_is_no_object_info_is_refused() {
        assert!(packs(b"[]").is_err());
        assert!(packs(b"{\"a\": {}}").is_err());
        assert_eq!(packs(b"{}").unwrap(), []);
    }
}
