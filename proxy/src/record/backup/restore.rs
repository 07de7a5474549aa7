//! A state directory from a backup: whole, or as empty as it was.

use super::archive::Reader;
use super::folder::Folder;
use super::verify::{Source, verify};
use super::{BackupError, EntryName, LEDGER, Manifest};
use crate::record::durable::private_dir;
use crate::record::ledger::redb;
use crate::record::state_dir::RESTORING;
use comfygate_policy::Digest;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Reads the backup `from` (a file or a directory) into the state directory `to`, which must be empty or not there.
///
/// Everything is read, checked and synced in `restore.tmp` first, and then moved to its place; a gateway refuses a directory in which that still lies.
///
/// # Errors
/// [`BackupError`]; then `to` is empty again.
pub fn restore(from: &Path, to: &Path) -> Result<Manifest, BackupError> {
    // Looked at before it is touched: it may be anybody's.
    match std::fs::read_dir(to) {
        Ok(mut there) => {
            if there.next().is_some() {
                let hint = "a backup is restored into an empty state directory: move the old one away";
                return Err(BackupError::NotEmpty { path: to.to_owned(), hint });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(BackupError::File { path: to.to_owned(), source }),
    }
    private_dir(to).map_err(BackupError::file(to))?;
    let done = staged(from, to).and_then(|manifest| moved(to).map(|()| manifest));
    if done.is_err() {
        clear(to);
    }
    done
}

fn staged(from: &Path, to: &Path) -> Result<Manifest, BackupError> {
    let staging = to.join(RESTORING);
    private_dir(&staging).map_err(BackupError::file(&staging))?;
    let manifest = if from.is_dir() {
        verify(&mut Source::Folder(Folder::open(from)?), Some(&staging), false)?
    } else {
        let mut file = BufReader::new(File::open(from).map_err(BackupError::file(from))?);
        let reader: &mut dyn Read = &mut file;
        verify(&mut Source::Archive(Reader::new(reader)), Some(&staging), false)?
    };
    let ledger = staging.join(LEDGER);
    if !ledger.is_file() {
        return Err(BackupError::NotWhole(format!("it has no `{LEDGER}`")));
    }
    let named = redb::inspect(&ledger)?;
    for (folder, digests) in [("graphs", &named.graphs), ("blobs", &named.blobs)] {
        all_there(&staging, folder, digests, &manifest)?;
    }
    // One call instead of one for each of many thousand files.
    let root = File::open(&staging).map_err(BackupError::file(&staging))?;
    rustix::fs::syncfs(&root).map_err(|error| BackupError::File { path: staging, source: error.into() })?;
    Ok(manifest)
}

fn all_there(root: &Path, folder: &str, digests: &BTreeSet<Digest>, manifest: &Manifest) -> Result<(), BackupError> {
    for digest in digests {
        let name = EntryName::of_content(folder, digest);
        let known = || manifest.absent.iter().chain(&manifest.damaged).any(|fault| fault == name.as_str());
        if !name.below(root).is_file() && !known() {
            return Err(BackupError::NotWhole(format!("`{name}` is named by the ledger and is not there")));
        }
    }
    Ok(())
}

/// The ledger last: without it no gateway takes the directory for one with jobs in it.
fn moved(to: &Path) -> Result<(), BackupError> {
    let staging = to.join(RESTORING);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&staging).map_err(BackupError::file(&staging))? {
        names.push(entry.map_err(BackupError::file(&staging))?.file_name());
    }
    names.sort_by_key(|name| name == LEDGER);
    for name in names {
        let target = to.join(&name);
        std::fs::rename(staging.join(&name), &target).map_err(BackupError::file(&target))?;
    }
    std::fs::remove_dir(&staging).map_err(BackupError::file(&staging))?;
    File::open(to).and_then(|dir| dir.sync_all()).map_err(BackupError::file(to))
}

/// Best effort: what stays is told by the next try, as a directory that is not empty.
fn clear(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
}
