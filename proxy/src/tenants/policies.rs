//! The policies that plans name: shipped ones by name, others by path. The one place that compiles policy documents.

use crate::config::faults::{Place, Report, SourceFile};
use comfygate_policy::Policy;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The policy of that name: a built-in one, else a file relative to `directory`. Faults are noted in `report`: those of a document each at its own place.
pub fn load(name: &str, named_at: &Place, directory: &Path, report: &Report) -> Option<Arc<Policy>> {
    if let Some(policy) = Policy::builtin(name) {
        return Some(Arc::new(policy));
    }
    // A bare word is a misspelt built-in policy rather than a file: files are told by a separator or an extension.
    if !name.contains(['/', '\\', '.']) {
        let hint = "`default`, `owner`, `strict`, or the path of a policy file such as `config/policy.toml`";
        report.error(named_at, format!("no built-in policy has the name `{name}`"), hint);
        return None;
    }
    let source = SourceFile::read(directory.join(name), named_at, report)?;
    match Policy::from_toml(&source.text) {
        Ok(policy) => Some(Arc::new(policy)),
        Err(faults) => {
            for fault in faults.iter() {
                let place = Place {
                    file: Arc::clone(&source.path),
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

/// The file that a policy of that name is read from; none for one that ships.
pub fn file(name: &str, directory: &Path) -> Option<PathBuf> {
    Policy::builtin(name).is_none().then(|| directory.join(name))
}

/// Compiles a document that stands, or would stand, in that directory. Every fault is a line.
///
/// # Errors
/// The faults.
pub fn compiled(text: &str, _directory: &Path) -> Result<Policy, Vec<String>> {
    Policy::from_toml(text).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_document_ships_and_no_other_does() {
        for name in ["default", "owner", "strict"] {
            assert!(Policy::builtin(name).is_some(), "{name}");
        }
        assert!(Policy::builtin("no-such").is_none());
    }
}
