//! The audit file: appended to, put aside when it is full (`FILE` → `FILE.1` → … → `FILE.<keep>`), opened anew when another program moved it.

use crate::config::Rotation;
use crate::record::durable::FILE_MODE;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file that lines go to.
pub(super) struct LogFile {
    path: PathBuf,
    pub(super) file: File,
    /// Its length.
    bytes: u64,
    rotation: Option<Rotation>,
    /// Put aside before it grows beyond this; more than the rotation's bytes once that has failed.
    rotate_at: u64,
}

impl LogFile {
    pub(super) fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        let rotate_at = rotation.map_or(u64::MAX, |rotation| rotation.bytes);
        Ok(Self { path: path.to_owned(), file, bytes, rotation, rotate_at })
    }

    /// Appends one line, whole, to a file that it fits into.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if let Some(rotation) = self.rotation
            && self.bytes > 0
            && self.bytes.saturating_add(length) > self.rotate_at
        {
            match self.rotate(rotation) {
                Ok(()) => self.rotate_at = rotation.bytes,
                Err(error) => {
                    // Tried again after as many bytes: not at each line.
                    self.rotate_at = self.bytes.saturating_add(rotation.bytes);
                    tracing::error!(%error, "the audit file can't be put aside; lines go on to it");
                }
            }
        }
        // Counted even if it fails: part of it may be there.
        self.bytes = self.bytes.saturating_add(length);
        self.file.write_all(line)
    }

    /// Opens the file by its name again.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let file = append(&self.path)?;
        self.bytes = file.metadata()?.len();
        self.file = file;
        Ok(())
    }

    /// INVARIANT: `self.file` is replaced only by a file that is open, so that every line has a place.
    fn rotate(&mut self, rotation: Rotation) -> io::Result<()> {
        self.file.sync_data()?;
        for n in (0..rotation.keep).rev() {
            // The oldest is replaced. Gaps, and a file that somebody moved away, are no fault.
            match std::fs::rename(self.aside(n), self.aside(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.reopen()
    }

    /// The name of the n-th file put aside; the file itself is number 0.
    fn aside(&self, n: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        if n > 0 {
            name.push(format!(".{n}"));
        }
        name.into()
    }
}

/// The mode is a fresh file's: rights of one that is there are its maker's choice, such as log rotation's.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}
