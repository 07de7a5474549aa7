//! A backup as a directory: the same names as in an archive, as files.

use super::{BackupError, CONTENTS, EntryName};
use crate::record::durable;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The entries of a directory in the order of a backup. Only one shard of contents is listed at a time.
pub struct Folder {
    root: PathBuf,
    /// Folders and files that come, the next one last.
    coming: Vec<String>,
    current: Option<File>,
}

impl Folder {
    /// Of a directory that `comfygate backup` made.
    ///
    /// # Errors
    /// `File`.
    pub fn open(root: &Path) -> Result<Self, BackupError> {
        let mut folder = Self { root: root.to_owned(), coming: Vec::new(), current: None };
        folder.list("")?;
        Ok(folder)
    }

    /// The next entry's name and length; `None` at the end. The manifest is the last, as in an archive.
    ///
    /// # Errors
    /// `File`; `Name` for what no backup holds.
    pub fn next_entry(&mut self) -> Result<Option<(EntryName, u64)>, BackupError> {
        while let Some(name) = self.coming.pop() {
            let path = self.root.join(name.trim_end_matches('/'));
            let found = std::fs::symlink_metadata(&path).map_err(BackupError::file(&path))?;
            if found.is_dir() {
                // Only where contents and certificates lie: anything else is refused by its name.
                let depth = name.matches('/').count();
                let top = name.split('/').next().unwrap_or_default();
                if !(top == "tls" && depth == 1 || CONTENTS.contains(&top) && depth <= 2) {
                    return Err(BackupError::Name { found: name });
                }
                self.list(&name)?;
                continue;
            }
            let entry = EntryName::parse(&name)?;
            if !found.is_file() {
                return Err(BackupError::Name { found: name });
            }
            self.current = Some(File::open(&path).map_err(BackupError::file(&path))?);
            return Ok(Some((entry, found.len())));
        }
        Ok(None)
    }

    /// The current entry.
    pub fn content(&mut self) -> impl Read {
        Content(self.current.as_mut())
    }

    /// Puts the names of a folder before all others, so that they come in ascending order.
    fn list(&mut self, folder: &str) -> Result<(), BackupError> {
        let path = self.root.join(folder);
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&path).map_err(BackupError::file(&path))? {
            let name = entry.map_err(BackupError::file(&path))?.file_name();
            let name = name.to_str().ok_or_else(|| BackupError::Name { found: name.to_string_lossy().into_owned() })?;
            // Folders sort as what is in them does.
            let slash = if path.join(name).is_dir() { "/" } else { "" };
            names.insert(format!("{folder}{name}{slash}"));
        }
        let manifest = folder.is_empty() && names.remove(super::MANIFEST);
        self.coming.extend(manifest.then(|| super::MANIFEST.to_owned()));
        self.coming.extend(names.into_iter().rev());
        Ok(())
    }
}

struct Content<'a>(Option<&'a mut File>);

impl Read for Content<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(file) => file.read(into),
            None => Ok(0),
        }
    }
}

/// Makes the folder that an entry lies in, private as all of ours.
///
/// # Errors
/// `File`.
pub(super) fn make_parent(root: &Path, name: &EntryName) -> Result<PathBuf, BackupError> {
    let path = name.below(root);
    if let Some(parent) = path.parent()
        && !parent.is_dir()
    {
        durable::private_dir(parent).map_err(BackupError::file(parent))?;
    }
    Ok(path)
}
