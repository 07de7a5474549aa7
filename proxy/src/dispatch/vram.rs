//! Whether a workflow's models fit a GPU at all. Pure.
//!
//! What a model needs is what the operator declares (`[[vram]]`): ComfyUI itself offloads what does not fit, and then takes ten times as long. Of several models the largest counts, since
//! ComfyUI moves one out for the next. What nobody declared, and a GPU whose size nobody told, is no reason to keep a job from it.

use comfygate_policy::ApprovedWorkflow;
use globset::{GlobBuilder, GlobMatcher};

/// Entries of a table.
const ENTRIES_MAX: usize = 1000;
/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 256;

/// What models need of a GPU's memory, by the names of their files.
#[derive(Debug, Clone, Default)]
pub struct VramTable(Vec<(GlobMatcher, u64)>);

/// Why an entry can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VramError {
    /// It is no pattern.
    #[error("`{0}` is no pattern of file names")]
    Pattern(String),
    /// There is no room.
    #[error("there are more than {ENTRIES_MAX} entries")]
    Full,
}

impl VramTable {
    /// Adds what models of these names need, in bytes. `*` stands for any characters; upper and lower case are the same.
    ///
    /// # Errors
    /// [`VramError`].
    pub fn add(&mut self, pattern: &str, need: u64) -> Result<(), VramError> {
        if self.0.len() >= ENTRIES_MAX {
            return Err(VramError::Full);
        }
        let no_pattern = || VramError::Pattern(pattern.chars().take(PATTERN_BYTES_MAX).collect());
        if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
            return Err(no_pattern());
        }
        let glob = GlobBuilder::new(pattern).case_insensitive(true).backslash_escape(false).build();
        self.0.push((glob.map_err(|_| no_pattern())?.compile_matcher(), need));
        Ok(())
    }

    /// What a workflow needs: as much as the largest of its models. `None`: nothing is declared for any.
    pub fn need(&self, workflow: &ApprovedWorkflow) -> Option<u64> {
        // Most gateways declare nothing.
        if self.0.is_empty() { None } else { self.largest(workflow.models().iter().map(|model| model.name.as_str())) }
    }

    /// The largest need among models of these names. A name in a folder is looked up with and without it. Of several entries for one name the first counts.
    pub fn largest<'n>(&self, names: impl Iterator<Item = &'n str>) -> Option<u64> {
        names.filter_map(|name| self.of(name)).max()
    }

    fn of(&self, name: &str) -> Option<u64> {
        let alone = name.rsplit(['/', '\\']).next().unwrap_or(name);
        let entry = self.0.iter().find(|(pattern, _)| pattern.is_match(name) || pattern.is_match(alone));
        entry.map(|(_, need)| *need)
    }
}

/// Whether what needs so many bytes fits a GPU of so many, as far as both are known.
pub fn fits(needed: Option<u64>, total: Option<u64>) -> bool {
    match (needed, total) {
        (Some(needed), Some(total)) => needed <= total,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> VramTable {
        let mut table = VramTable::default();
        for (pattern, need) in [("flux1-dev-fp8*", 12), ("flux1-dev*", 24), ("video/*", 40), ("ae.safetensors", 1)] {
            table.add(pattern, need).unwrap();
        }
        table
    }

    #[test]
    fn the_largest_model_of_a_workflow_counts_and_what_is_not_declared_does_not() {
        let largest = |names: &[&str]| table().largest(names.iter().copied());
        assert_eq!(largest(&["ae.safetensors", "flux1-dev.safetensors", "unknown.safetensors"]), Some(24));
        assert_eq!(largest(&["unknown.safetensors"]), None);
        assert_eq!(largest(&[]), None);
    }

    #[test]
    fn the_first_entry_for_a_name_counts_in_any_case_and_in_any_folder() {
        let need = |name: &str| table().largest([name].into_iter());
        assert_eq!(need("Flux1-Dev-FP8.safetensors"), Some(12));
        assert_eq!(need("black forest/flux1-dev.safetensors"), Some(24));
        assert_eq!(need(r"sub\ae.safetensors"), Some(1));
        assert_eq!(need("video/any.safetensors"), Some(40));
        assert_eq!(need("any.safetensors"), None);
    }

    #[test]
    fn what_needs_as_much_as_there_is_fits_and_one_byte_more_does_not() {
        assert!(fits(Some(24), Some(24)) && !fits(Some(25), Some(24)));
        assert!(fits(None, Some(1)) && fits(Some(u64::MAX), None) && fits(None, None));
    }

    #[test]
    fn there_are_as_many_entries_as_allowed_and_a_pattern_is_one() {
        let mut table = VramTable::default();
        assert_eq!(table.add("[", 1), Err(VramError::Pattern("[".into())));
        assert!(table.add("", 1).is_err() && table.add(&"x".repeat(PATTERN_BYTES_MAX + 1), 1).is_err());
        (0..ENTRIES_MAX).for_each(|_| table.add("x", 1).unwrap());
        assert_eq!(table.add("x", 1), Err(VramError::Full));
    }
}
