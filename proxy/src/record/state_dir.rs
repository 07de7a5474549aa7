//! The state directory before anything in it is opened: ours alone, or not used.
//!
//! In: the path of the configuration. Out: a directory of mode 0700 that this process's user owns, with no file in it that others may read.
//! Refuses: another user's directory or files, and one that a restore left half done. Rights that others have are taken away with a line in the log:
//! whoever had them may have read the secrets, so they should be drawn anew.

use super::durable::{FILE_MODE, private_dir};
use std::fs::{Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where a restore puts things until all of them are there.
pub const RESTORING: &str = "restore.tmp";
/// Certificates are for everybody.
const PUBLIC_EXTENSION: &str = "crt";

/// Why the state directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It can't be made, looked at or changed.
    #[error("can't use the state directory: `{path}`: {source}")]
    Io {
        /// The directory, or what in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another user owns it: that user can read and change what is in it, whatever the mode.
    #[error(
        "`{path}` belongs to the user with the id {owner}, this process runs as {ours}: start it as that user. A state directory that was copied or \
         restored as another user, and with which no gateway runs, is given to the right one with `chown -R`"
    )]
    Foreign {
        /// The directory, or what in it.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our own user.
        ours: u32,
    },
    /// A restore was killed.
    #[error("`{path}` is of a restore that did not end: empty the state directory and restore again")]
    HalfRestored {
        /// The leftover.
        path: PathBuf,
    },
}

/// Makes the directory if need be, and makes sure that it is ours alone.
///
/// # Errors
/// [`StateDirError`].
pub fn take(dir: &Path) -> Result<(), StateDirError> {
    let ours = rustix::process::geteuid().as_raw();
    if dir.exists() {
        let found = metadata(dir)?;
        owned(dir, &found, ours)?;
        told(dir, &found, 0o700);
    }
    private_dir(dir).map_err(|source| io_error(dir, source))?;
    let leftover = dir.join(RESTORING);
    if leftover.exists() {
        return Err(StateDirError::HalfRestored { path: leftover });
    }
    private_files(dir, ours)?;
    let tls = dir.join("tls");
    if tls.is_dir() { private_files(&tls, ours) } else { Ok(()) }
}

/// Takes the rights of others away from the files that lie directly in `dir`.
fn private_files(dir: &Path, ours: u32) -> Result<(), StateDirError> {
    for entry in std::fs::read_dir(dir).map_err(|source| io_error(dir, source))? {
        let path = entry.map_err(|source| io_error(dir, source))?.path();
        // Links are followed: what counts is who may read the secret.
        let found = match std::fs::metadata(&path) {
            Ok(found) => found,
            // A link that leads nowhere, or a file that was just removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(io_error(&path, source)),
        };
        if !found.is_file() || path.extension().is_some_and(|extension| extension == PUBLIC_EXTENSION) {
            continue;
        }
        owned(&path, &found, ours)?;
        if told(&path, &found, FILE_MODE) {
            let private = Permissions::from_mode(FILE_MODE);
            std::fs::set_permissions(&path, private).map_err(|source| io_error(&path, source))?;
        }
    }
    Ok(())
}

fn owned(path: &Path, found: &Metadata, ours: u32) -> Result<(), StateDirError> {
    match found.uid() {
        owner if owner == ours => Ok(()),
        owner => Err(StateDirError::Foreign { path: path.to_owned(), owner, ours }),
    }
}

/// Whether others have rights; says so in the log.
fn told(path: &Path, found: &Metadata, becomes: u32) -> bool {
    let mode = found.permissions().mode() & 0o7777;
    let open = mode & 0o077 != 0;
    if open {
        tracing::warn!(
            "`{}` was open to other users (mode {mode:04o}) and is {becomes:04o} now; if others use this machine, draw new keys",
            path.display()
        );
    }
    open
}

fn metadata(path: &Path) -> Result<Metadata, StateDirError> {
    std::fs::metadata(path).map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> StateDirError {
    StateDirError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_made_private() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("a/b");
        take(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
    }

    #[test]
    fn rights_of_others_are_taken_away_and_certificates_stay_readable() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path();
        std::fs::create_dir(dir.join("tls")).unwrap();
        for name in ["signing.keys", "ledger.redb", "ledger.redb.v1", "tls/ca.key", "tls/ca.crt"] {
            std::fs::write(dir.join(name), "x").unwrap();
            set(&dir.join(name), 0o644);
        }
        set(dir, 0o755);
        take(dir).unwrap();
        assert_eq!(mode(dir), 0o700);
        for name in ["signing.keys", "ledger.redb", "ledger.redb.v1", "tls/ca.key"] {
            assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&dir.join("tls/ca.crt")), 0o644);
        take(dir).unwrap();
    }

    #[test]
    fn another_users_directory_or_secret_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let (dir, keys) = (outer.path().join("state"), outer.path().join("state/signing.keys"));
        take(&dir).unwrap();
        std::fs::write(&keys, "x").unwrap();
        if std::os::unix::fs::chown(&keys, Some(54_321), None).is_err() {
            println!("skipped: only root can give a file to another user");
            return;
        }
        assert!(matches!(take(&dir), Err(StateDirError::Foreign { owner: 54_321, ref path, .. }) if *path == keys));
        std::fs::remove_file(&keys).unwrap();
        take(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(54_321), None).unwrap();
        let refused = take(&dir).unwrap_err().to_string();
        assert!(refused.contains("54321") && refused.contains("chown"), "{refused}");
    }

    #[test]
    fn what_a_killed_restore_left_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(RESTORING)).unwrap();
        assert!(matches!(take(dir.path()), Err(StateDirError::HalfRestored { .. })));
    }
}
