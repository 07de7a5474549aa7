//! Backups: a state directory as one sequence of named files, complete and whole, or refused.
//!
//! In: a state directory whose gateway may run. Out: an archive (`archive`: plain ustar) or a directory of the same names, and from either a state
//! directory again. Refuses: whatever is not exactly what a backup holds, one byte changed, missing or more. Leaves: who may read a backup. It holds
//! every secret of the state directory, so it is as private as that; and it protects against faults, not against somebody who can write it.
//!
//! | name | is |
//! |---|---|
//! | `ledger.redb` | the rows of one moment |
//! | `graphs/ab/<digest>`, `blobs/ab/<digest>` | every content that the rows name, and such as came meanwhile |
//! | `signing.keys`, `tls/…`, other small files | as they are |
//! | `manifest.json` | the last: [`Manifest`] |
//!
//! Names come in ascending order of their bytes, each once, so that neither side keeps a list of them. The rows are copied first and contents are
//! never changed or deleted under them: whatever the rows name is there when the contents are read.

pub mod archive;
pub mod folder;
pub mod make;
pub mod pieces;
pub mod restore;
pub mod verify;

use crate::clock::WallMillis;
use crate::record::ledger::LedgerError;
use comfygate_policy::Digest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The form of what this release writes and reads.
pub const FORMAT: &str = "comfygate-backup-1";
/// The last entry.
pub const MANIFEST: &str = "manifest.json";
/// The rows.
pub const LEDGER: &str = "ledger.redb";
/// Contents that may be listed as faulty one by one; more of them, and there is no backup.
pub const FAULTS_MAX: usize = 1000;
/// A manifest that names as many.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Of a file beside ledger and contents: keys and certificates.
const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// Of the gateway that made it.
    pub version: String,
    /// When the rows were copied.
    pub made_at: WallMillis,
    /// Of the rows.
    pub schema: u64,
    /// How many entries come before this one.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// SHA-256 of their lines `<name> <bytes> <SHA-256>\n`, in their order.
    pub digest: Digest,
    /// Contents that the rows name and that were not there, when the backup was made.
    pub absent: Vec<String>,
    /// Contents whose bytes are not those of their name: entries, but not restored.
    pub damaged: Vec<String>,
    /// What lay in the state directory and is not in the backup.
    pub left_out: Vec<String>,
}

/// Why there is no backup, or no restored state directory.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file that can't be read or written.
    #[error("`{path}`: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The archive can't be read or written.
    #[error("the archive: {0}")]
    Stream(#[from] io::Error),
    /// The rows.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A name that no backup holds.
    #[error("`{found}` is no name in a backup: take the file or folder that `comfygate backup` made, as it is")]
    Name {
        /// Cut to 100 characters.
        found: String,
    },
    /// Not in ascending order, or twice.
    #[error("`{found}` stands at the wrong place or twice")]
    Order {
        /// Which.
        found: String,
    },
    /// Not as the manifest says.
    #[error("the backup is not whole: {0}")]
    NotWhole(String),
    /// Made by a later release.
    #[error("the backup has the form `{found}`, this release reads `{FORMAT}`: use the release that made it")]
    Format {
        /// Which.
        found: String,
    },
    /// There is something already.
    #[error("`{path}` is not empty: {hint}")]
    NotEmpty {
        /// Where.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
}

impl BackupError {
    /// For `map_err`: the file that was being used.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// A name in a backup: a path of at most three plain parts, none of which leads anywhere else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryName(String);

/// The folders of contents.
const CONTENTS: [&str; 2] = ["blobs", "graphs"];

impl EntryName {
    /// Checks a name.
    ///
    /// # Errors
    /// `Name`.
    pub fn parse(text: &str) -> Result<Self, BackupError> {
        let parts: Vec<&str> = text.split('/').collect();
        let good = match parts.as_slice() {
            [name] => is_plain(name),
            ["tls", name] => is_plain(name),
            [folder, shard, digest] => {
                CONTENTS.contains(folder) && digest.parse::<Digest>().is_ok() && digest.get(..2) == Some(*shard)
            }
            _ => false,
        };
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BackupError::Name { found: text.chars().take(100).collect() })
        }
    }

    /// The content of that digest in `blobs` or `graphs`.
    pub(super) fn of_content(folder: &str, digest: &Digest) -> Self {
        let digest = digest.to_string();
        Self(format!("{folder}/{}/{digest}", digest.get(..2).unwrap_or("__")))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What its bytes must be, for a content.
    pub fn digest(&self) -> Option<Digest> {
        let (folder, rest) = self.0.split_once('/')?;
        if CONTENTS.contains(&folder) { rest.rsplit('/').next()?.parse().ok() } else { None }
    }

    /// Where it lies below `root`.
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 1 to 64 of letters, digits, `.`, `_`, `-`, not beginning with a dot.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// The running sum over entries.
#[derive(Clone)]
struct Sum {
    entries: u64,
    bytes: u64,
    lines: ring::digest::Context,
    last: Option<EntryName>,
}

impl Sum {
    fn new() -> Self {
        Self { entries: 0, bytes: 0, lines: ring::digest::Context::new(&ring::digest::SHA256), last: None }
    }

    /// Before an entry: that it stands at its place.
    fn follows(&mut self, name: &EntryName) -> Result<(), BackupError> {
        if self.last.as_ref().is_some_and(|last| last >= name) {
            return Err(BackupError::Order { found: name.to_string() });
        }
        self.last = Some(name.clone());
        Ok(())
    }

    fn add(&mut self, name: &EntryName, bytes: u64, content: Digest) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.lines.update(format!("{name} {bytes} {content}\n").as_bytes());
    }

    fn digest(&self) -> Digest {
        finished(self.lines.clone())
    }
}

/// The digest of what was hashed.
fn finished(context: ring::digest::Context) -> Digest {
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    Digest::from_bytes(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_backup_are_taken_and_paths_that_lead_elsewhere_are_not() {
        let digest = Digest::of(b"x").to_string();
        let content = format!("blobs/{}/{digest}", &digest[..2]);
        for good in [LEDGER, "signing.keys", "tls/ca.key", "a", &"n".repeat(64), &content] {
            assert_eq!(EntryName::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(EntryName::parse(&content).unwrap().digest(), Some(Digest::of(b"x")));
        assert_eq!(EntryName::parse(LEDGER).unwrap().digest(), None);
        let wrong_shard = format!("blobs/zz/{digest}");
        let elsewhere = format!("other/{}/{digest}", &digest[..2]);
        let absolute = format!("/{content}");
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "tls/",
            "tls/..",
            "tls/.x",
            "tls/a/b",
            "a/b",
            "a b",
            "a\0",
            "ä",
            ".hidden",
            "blobs/ab/cd",
            &"n".repeat(65),
            &wrong_shard,
            &elsewhere,
            &absolute,
        ] {
            assert!(EntryName::parse(bad).is_err(), "{bad:?}");
        }
    }
}

#[cfg(test)]
mod round_trip;
