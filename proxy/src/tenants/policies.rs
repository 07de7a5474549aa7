//! The policies that plans name: shipped ones by name, others by path. The one place that compiles policy documents.

use crate::config::faults::{Place, Report, SourceFile};
use comfygate_policy::{CostModel, Policy};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The policy of that name: a built-in one, else a file relative to `directory`. Faults are noted in `report`: those of a document each at its own place.
pub fn load(name: &str, named_at: &Place, directory: &Path, report: &Report) -> Option<Arc<Policy>> {
    if let Some(policy) = Policy::builtin(name) {
        return Some(Arc::new(policy));
    }
    // A bare word is a misspelt built-in policy rather than a file: files are told by a separator or an extension.
    if !name.contains(['/', '\\', '.']) {
        let shipped: Vec<String> = Policy::builtin_names().map(|name| format!("`{name}`")).collect();
        let hint = format!("{}, or the path of a policy file such as `config/policy.toml`", shipped.join(", "));
        report.error(named_at, format!("no built-in policy has the name `{name}`"), &hint);
        return None;
    }
    let source = SourceFile::read(directory.join(name), named_at, report)?;
    // What a document extends stands beside it, and is watched like it.
    let beside = source.path.parent().unwrap_or(Path::new(""));
    let bases: RefCell<BTreeMap<String, SourceFile>> = RefCell::default();
    let base = |name: &str| {
        let file = SourceFile::read(beside.join(name), named_at, report)?;
        let text = file.text.clone();
        bases.borrow_mut().insert(name.to_owned(), file);
        Some(text)
    };
    match Policy::from_toml_with(&source.text, &base) {
        Ok(policy) => Some(Arc::new(policy)),
        Err(faults) => {
            let bases = bases.borrow();
            for fault in faults.iter() {
                let base = fault.document.as_ref().and_then(|document| bases.get(document));
                let place = Place {
                    file: Arc::clone(base.map_or(&source.path, |base| &base.path)),
                    line: fault.line,
                    column: fault.column,
                    key: fault.key.clone(),
                };
                report.error(&place, fault.message.clone(), "");
            }
            None
        }
    }
}

/// The word for the table of costs that ships.
const SHIPPED_COSTS: &str = "default";

/// A table of what models cost, in a file relative to `directory`; none for the one that ships. A fault is noted in `report`.
pub fn costs(name: &str, named_at: &Place, directory: &Path, report: &Report) -> Option<Arc<CostModel>> {
    if name == SHIPPED_COSTS {
        return None;
    }
    let source = SourceFile::read(directory.join(name), named_at, report)?;
    match CostModel::from_toml(&source.text) {
        Ok(costs) => Some(Arc::new(costs)),
        Err(fault) => {
            let hint = "copy `policies/documents/costs.toml` and change its numbers";
            report.error(named_at, format!("`{name}` is no table of costs: {fault}"), hint);
            None
        }
    }
}

/// The file that a policy of that name is read from; none for one that ships.
pub fn file(name: &str, directory: &Path) -> Option<PathBuf> {
    Policy::builtin(name).is_none().then(|| directory.join(name))
}

/// Compiles a document that stands, or would stand, in that directory, beside those that it extends. Every fault is a line.
///
/// # Errors
/// The faults.
pub fn compiled(text: &str, directory: &Path) -> Result<Policy, Vec<String>> {
    let base = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
    Policy::from_toml_with(text, &base).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_document_ships_and_no_other_does() {
        for name in ["default", "generous", "owner", "strict"] {
            assert!(Policy::builtin(name).is_some(), "{name}");
        }
        assert!(Policy::builtin("no-such").is_none());
    }
}
