//! From the names of files in a workflow to this owner's own files: each is looked up in the owner's scope, pinned to its content, and given the name under which a backend has it.
//!
//! A name means what it means in ComfyUI (facts §7): `a.png` and `a.png [input]` an upload, `a.png [output]` a result, `a.png [temp]` a temporary file; a folder may stand before it. A name
//! that a backend had (`t/<opaque owner>/<file>.png`, as pictures carry it in their metadata) means the owner's own file again. What is not found is left out, so that `decide` refuses it
//! like one that is nowhere (invariant 5).

use super::InspectError;
use super::contents::{ContentError, ContentFacts};
use super::measured::Measured;
use crate::ids::FileId;
use crate::owner::OwnerScope;
use crate::record::blobs::Blobs;
use crate::record::ledger::uploads::{FileName, Pin};
use crate::record::ledger::{Directory, FileRow, Ledger, LedgerError, OwnerSecrets};
use comfygate_policy::{FileFact, FileFacts, FileReference};
use std::collections::BTreeSet;

/// Different files in one workflow. The largest template of ComfyUI's own names 14.
pub const FILES_MAX: usize = 100;

/// Where a backend keeps an owner's files, below its `input` directory: `t/<opaque owner>`.
pub fn owner_folder(secrets: &OwnerSecrets) -> String {
    format!("t/{}", secrets.folder)
}

/// A file's base name at a backend. The same file has the same name each time, so ComfyUI's cache knows it again.
pub fn upstream_name(file: FileId, facts: &ContentFacts) -> String {
    format!("{file}.{}", facts.kind.extension())
}

/// What `decide` is told: each pin under the name that the workflow uses.
pub fn facts(pins: &[Pin], owner_folder: &str) -> FileFacts {
    let mut out = FileFacts::none();
    for pin in pins {
        let canonical_name = format!("{owner_folder}/{}", upstream_name(pin.file, &pin.facts));
        let ContentFacts { width, height, frames, seconds, .. } = pin.facts;
        out.insert(
            pin.name.clone(),
            policy_directory(pin.directory),
            FileFact { canonical_name, width, height, frames, seconds },
        );
    }
    out
}

/// Looks the references up in the owner's scope.
///
/// # Errors
/// [`InspectError::TooManyFiles`], [`InspectError::FileUnusable`] for an own file that can be no input, and the ledger's.
pub async fn pinned(
    ledger: &dyn Ledger,
    blobs: &Blobs,
    measured: &Measured,
    scope: &OwnerScope,
    owner_folder: &str,
    references: &[FileReference],
) -> Result<Vec<Pin>, PinError> {
    let wanted: BTreeSet<(String, Directory)> =
        references.iter().map(|reference| (reference.name.clone(), own_directory(reference.directory))).collect();
    if wanted.len() > FILES_MAX {
        return Err(InspectError::TooManyFiles { found: wanted.len() }.into());
    }
    let names = wanted.iter().map(|(name, directory)| file_name(name, *directory, owner_folder)).collect();
    let rows = ledger.named_files(scope, names).await?;
    let mut pins = Vec::new();
    for ((name, directory), row) in wanted.into_iter().zip(rows) {
        let Some(row) = row else { continue };
        let facts = known_facts(blobs, measured, &row).await.map_err(|error| unusable(&name, error))?;
        // A name that a backend had is exact: extension and all.
        let exact =
            !is_upstream(&name, owner_folder) || name == format!("{owner_folder}/{}", upstream_name(row.id, &facts));
        if exact {
            pins.push(Pin { name, directory, file: row.id, content: row.content, bytes: row.bytes, facts });
        }
    }
    Ok(pins)
}

/// Why names can't be looked up.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// By a rule.
    #[error(transparent)]
    Refused(#[from] InspectError),
    /// The ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The disk can't be read.
    #[error("a content can't be read: {0}")]
    Disk(std::io::Error),
}

fn unusable(name: &str, error: ContentError) -> PinError {
    match error {
        ContentError::Io(error) => PinError::Disk(error),
        refused => InspectError::FileUnusable { name: name.to_owned(), reason: refused.to_string() }.into(),
    }
}

/// The facts of an own file: an upload's are stored, a result's are read when they are first needed.
///
/// # Errors
/// Why its content can be no input.
pub async fn known_facts(blobs: &Blobs, measured: &Measured, row: &FileRow) -> Result<ContentFacts, ContentError> {
    match row.facts {
        Some(facts) => Ok(facts),
        None => measured.facts(blobs, row.content).await,
    }
}

fn is_upstream(name: &str, owner_folder: &str) -> bool {
    name.strip_prefix(owner_folder).is_some_and(|rest| rest.starts_with('/'))
}

/// How a name of a workflow, without suffix, is looked up.
pub fn file_name(name: &str, directory: Directory, owner_folder: &str) -> FileName {
    if directory == Directory::Input && is_upstream(name, owner_folder) {
        let base = name.get(owner_folder.len() + 1..).unwrap_or_default();
        if let Some(id) = base.split('.').next().and_then(|id| id.parse().ok()) {
            return FileName::Id(id);
        }
    }
    let (subfolder, filename) = name.rsplit_once('/').unwrap_or(("", name));
    FileName::Shown { directory, subfolder: subfolder.to_owned(), filename: filename.to_owned() }
}

fn own_directory(directory: comfygate_policy::Directory) -> Directory {
    match directory {
        comfygate_policy::Directory::Input => Directory::Input,
        comfygate_policy::Directory::Output => Directory::Output,
        comfygate_policy::Directory::Temp => Directory::Temp,
    }
}

fn policy_directory(directory: Directory) -> comfygate_policy::Directory {
    match directory {
        Directory::Input => comfygate_policy::Directory::Input,
        Directory::Output => comfygate_policy::Directory::Output,
        Directory::Temp => comfygate_policy::Directory::Temp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::contents::ContentKind;
    use comfygate_policy::Digest;

    const FOLDER: &str = "t/abcdefgh";

    fn shown(directory: Directory, subfolder: &str, filename: &str) -> FileName {
        FileName::Shown { directory, subfolder: subfolder.into(), filename: filename.into() }
    }

    #[test]
    fn a_folder_before_a_name_is_its_folder() {
        assert_eq!(file_name("a.png", Directory::Input, FOLDER), shown(Directory::Input, "", "a.png"));
        assert_eq!(
            file_name("clipspace/x/a.png", Directory::Output, FOLDER),
            shown(Directory::Output, "clipspace/x", "a.png")
        );
    }

    #[test]
    fn the_policy_is_told_how_long_a_sound_is_or_that_nobody_knows() {
        for seconds in [None, Some(7)] {
            let facts = ContentFacts { kind: ContentKind::Flac, width: 1, height: 1, frames: 1, seconds };
            let (name, content) = ("a.flac".to_owned(), Digest::of(b"x"));
            let pin = Pin { name, directory: Directory::Input, file: FileId::new(), content, bytes: 1, facts };
            assert!(format!("{:?}", super::facts(&[pin], FOLDER)).contains(&format!("seconds: {seconds:?}")));
        }
    }

    #[test]
    fn only_a_name_in_the_own_folder_means_a_file_by_its_id() {
        let id = FileId::new();
        let name = format!("{FOLDER}/{id}.png");
        assert_eq!(file_name(&name, Directory::Input, FOLDER), FileName::Id(id));
        assert_eq!(
            file_name(&name, Directory::Input, "t/other"),
            shown(Directory::Input, FOLDER, &format!("{id}.png"))
        );
        assert_eq!(file_name(&name, Directory::Output, FOLDER), shown(Directory::Output, FOLDER, &format!("{id}.png")));
        assert_eq!(
            file_name("t/abcdefghi/x.png", Directory::Input, FOLDER),
            shown(Directory::Input, "t/abcdefghi", "x.png")
        );
    }
}
