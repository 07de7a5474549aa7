//! The policy documents that plans name: shipped ones by name, others by path.

use crate::config::faults::{Place, Report, SourceFile};
use std::path::{Path, PathBuf};

/// The documents that ship inside the binary.
pub const BUILT_IN: [&str; 2] = ["default", "strict"];

/// Where a policy came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyOrigin {
    /// Ships with the gateway.
    BuiltIn,
    /// A file, absolute.
    File(PathBuf),
}

/// A policy as a plan names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPolicy {
    /// As written: `default`, `strict` or a path.
    pub name: String,
    /// Which of the two.
    pub origin: PolicyOrigin,
    /// The document of a file; empty for a built-in one, whose text the policy crate has.
    pub text: String,
}

impl TenantPolicy {
    /// One of [`BUILT_IN`].
    pub fn built_in(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            origin: PolicyOrigin::BuiltIn,
            text: String::new(),
        }
    }
}

/// The policy of that name: a built-in one, else a file relative to `directory`. Faults are noted in `report`.
///
/// This is the one place that knows where documents come from; it is where the policy crate's `Policy::builtin` and `Policy::from_toml` are called.
pub fn load(name: &str, named_at: &Place, directory: &Path, report: &Report) -> Option<TenantPolicy> {
    if BUILT_IN.contains(&name) {
        return Some(TenantPolicy::built_in(name));
    }
    // A bare word is a misspelt built-in policy rather than a file: files are told by a separator or an extension.
    if !name.contains(['/', '\\', '.']) {
        let hint = "`default`, `strict`, or the path of a policy file such as `config/policy.toml`";
        report.error(named_at, format!("no built-in policy has the name `{name}`"), hint);
        return None;
    }
    let path = directory.join(name);
    let source = SourceFile::read(path.clone(), named_at, report)?;
    Some(TenantPolicy {
        name: name.to_owned(),
        origin: PolicyOrigin::File(path),
        text: source.text,
    })
}
