//! Private directories, and files that are wholly there or not at all, also after a power cut.

use crate::clock::WallMillis;
use comfygate_policy::Digest;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use uuid::Uuid;

/// Only the gateway's own user enters its directories (design invariant 9).
const DIR_MODE: u32 = 0o700;
/// Only the gateway's own user reads its files.
pub const FILE_MODE: u32 = 0o600;

/// Makes `dir` with its parents if need be, and takes the rights of others away from it.
///
/// # Errors
/// What the system said.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    std::fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))
}

/// The place of content `name` below `root`: a folder per first two digits keeps folders small.
pub fn sharded(root: &Path, name: &str) -> PathBuf {
    root.join(name.get(..2).unwrap_or("__")).join(name)
}

/// A fresh file in `dir` that only we may read, and its path.
///
/// # Errors
/// What the system said.
pub fn temporary(dir: &Path) -> io::Result<(File, PathBuf)> {
    let path = dir.join(Uuid::new_v4().simple().to_string());
    let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path)?;
    Ok((file, path))
}

/// Moves a synced temporary file to its name and makes the name survive a power cut: rename, then sync of every folder that gained an entry.
///
/// # Errors
/// What the system said; the temporary file may still be there.
pub fn publish(temporary: &Path, target: &Path) -> io::Result<()> {
    let Some(shard) = target.parent() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if !shard.is_dir() {
        private_dir(shard)?;
        if let Some(root) = shard.parent() {
            sync_dir(root)?;
        }
    }
    std::fs::rename(temporary, target)?;
    sync_dir(shard)
}

/// Writes `bytes` to `target` by way of `temporary_dir` (same file system): readers see nothing or all of it.
///
/// # Errors
/// What the system said; no temporary file stays.
pub fn write(temporary_dir: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
    let (mut file, path) = temporary(temporary_dir)?;
    let done = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| publish(&path, target));
    if done.is_err() {
        // Best effort: what can't be removed now is swept when the gateway starts.
        let _ = std::fs::remove_file(&path);
    }
    done
}

/// Removes what a killed gateway left in a directory of temporary files; gives how many.
///
/// # Errors
/// What the system said.
pub fn sweep(dir: &Path) -> io::Result<usize> {
    let mut swept = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Deletes a content; gives its bytes if it was there. One that can't be deleted is told in the log, and found again by the next walk.
pub fn delete(path: &Path) -> Option<u64> {
    let bytes = std::fs::symlink_metadata(path).ok()?.len();
    match std::fs::remove_file(path) {
        Ok(()) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a content can't be deleted");
            None
        }
    }
}

/// The contents in one of the 256 folders below `root` that were written before that. Names that are no digests are not ours.
///
/// # Errors
/// What the system said; a folder that is not there is empty.
pub fn shard(root: &Path, shard: u8, before: WallMillis) -> io::Result<Vec<Digest>> {
    let entries = match std::fs::read_dir(root.join(format!("{shard:02x}"))) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(content) = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok()) else { continue };
        // Gone meanwhile, or without a time: not looked at.
        let written = entry.metadata().ok().and_then(|found| found.modified().ok());
        let written = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        if written.is_some_and(|at| at.as_millis() < u128::from(before.0)) {
            found.push(content);
        }
    }
    Ok(found)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
