//! Reading a backup: every entry at its place, every byte as the manifest and the contents' names say, or an error.

use super::archive::Reader;
use super::folder::{Folder, make_parent};
use super::{BackupError, EntryName, FAULTS_MAX, FORMAT, MANIFEST, MANIFEST_BYTES_MAX, Manifest, Sum, finished};
use crate::record::durable::FILE_MODE;
use comfygate_policy::Digest;
use ring::digest::{Context, SHA256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// One read.
const PIECE_BYTES: usize = 64 << 10;

/// Where the entries come from.
pub enum Source<'a> {
    /// An archive, from its first byte on.
    Archive(Reader<&'a mut dyn Read>),
    /// A directory.
    Folder(Folder),
}

impl Source<'_> {
    fn next(&mut self) -> Result<Option<(EntryName, u64)>, BackupError> {
        match self {
            Self::Archive(archive) => archive.next_entry(),
            Self::Folder(folder) => folder.next_entry(),
        }
    }

    fn each(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<(), BackupError>) -> Result<(), BackupError> {
        match self {
            Self::Archive(archive) => each_piece(&mut archive.content(), take),
            Self::Folder(folder) => each_piece(&mut folder.content(), take),
        }
    }
}

fn each_piece(
    content: &mut dyn Read,
    take: &mut dyn FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match content.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => take(piece.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads a whole backup, writes its entries below `to` if that is given, and gives its manifest. On an error what was written is of no use.
///
/// # Errors
/// [`BackupError`]: the first fault.
pub fn verify(source: &mut Source<'_>, to: Option<&Path>, with_manifest: bool) -> Result<Manifest, BackupError> {
    let mut sum = Sum::new();
    let mut damaged = Vec::new();
    while let Some((name, length)) = source.next()? {
        if name.as_str() == MANIFEST {
            let manifest = manifest(source, length)?;
            if source.next()?.is_some() {
                return Err(BackupError::NotWhole("there is more after its manifest".to_owned()));
            }
            agree(&manifest, &sum, &damaged)?;
            if let Some(to) = to {
                settle(&manifest, to, with_manifest)?;
            }
            return Ok(manifest);
        }
        sum.follows(&name)?;
        let content = kept(source, &name, length, to)?;
        sum.add(&name, length, content);
        if name.digest().is_some_and(|named| named != content) {
            damaged.push(name.to_string());
            if damaged.len() > FAULTS_MAX {
                return Err(BackupError::NotWhole(format!("more than {FAULTS_MAX} of its contents are damaged")));
            }
        }
    }
    Err(BackupError::NotWhole(format!("it has no `{MANIFEST}`: it was not finished")))
}

/// Reads one entry to its end, into a file if wanted; gives its digest.
fn kept(source: &mut Source<'_>, name: &EntryName, length: u64, to: Option<&Path>) -> Result<Digest, BackupError> {
    let mut file = match to {
        Some(root) => {
            let path = make_parent(root, name)?;
            Some((new_file(&path).map_err(BackupError::file(&path))?, path))
        }
        None => None,
    };
    let (mut hash, mut bytes) = (Context::new(&SHA256), 0_u64);
    source.each(&mut |piece| {
        hash.update(piece);
        bytes = bytes.saturating_add(piece.len() as u64);
        match &mut file {
            Some((file, path)) => file.write_all(piece).map_err(BackupError::file(path)),
            None => Ok(()),
        }
    })?;
    if bytes == length {
        Ok(finished(hash))
    } else {
        Err(BackupError::NotWhole(format!("`{name}` has {bytes} bytes instead of {length}")))
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

fn manifest(source: &mut Source<'_>, length: u64) -> Result<Manifest, BackupError> {
    let not_whole = |what: String| BackupError::NotWhole(format!("its manifest: {what}"));
    if length > MANIFEST_BYTES_MAX {
        return Err(not_whole(format!("{length} bytes are too many")));
    }
    let mut bytes = Vec::new();
    source.each(&mut |piece| {
        bytes.extend_from_slice(piece);
        if bytes.len() as u64 > MANIFEST_BYTES_MAX { Err(not_whole("it grew".to_owned())) } else { Ok(()) }
    })?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| not_whole(error.to_string()))?;
    // Before the fields: a later form may have others.
    match value.get("format").and_then(serde_json::Value::as_str) {
        Some(FORMAT) => {}
        found => return Err(BackupError::Format { found: found.unwrap_or_default().chars().take(100).collect() }),
    }
    serde_json::from_value(value).map_err(|error| not_whole(error.to_string()))
}

fn agree(manifest: &Manifest, sum: &Sum, damaged: &[String]) -> Result<(), BackupError> {
    if let Some(name) = damaged.iter().find(|name| !manifest.damaged.contains(name)) {
        return Err(BackupError::NotWhole(format!("`{name}` is damaged")));
    }
    let (found, told) = ((sum.entries, sum.bytes), (manifest.entries, manifest.bytes));
    if found != told {
        return Err(BackupError::NotWhole(format!(
            "it holds {} entries of {} bytes, its manifest says {} of {}",
            found.0, found.1, told.0, told.1
        )));
    }
    if sum.digest() != manifest.digest {
        return Err(BackupError::NotWhole("an entry is not the one that was backed up".to_owned()));
    }
    Ok(())
}

/// What was damaged when the backup was made is not put back as if it were good; the manifest belongs to a backup and to no state directory.
fn settle(manifest: &Manifest, to: &Path, with_manifest: bool) -> Result<(), BackupError> {
    if with_manifest {
        let path = to.join(MANIFEST);
        let bytes = serde_json::to_vec_pretty(manifest).map_err(io::Error::from)?;
        return new_file(&path).and_then(|mut file| file.write_all(&bytes)).map_err(BackupError::file(&path));
    }
    for name in &manifest.damaged {
        let path = EntryName::parse(name)?.below(to);
        std::fs::remove_file(&path).map_err(BackupError::file(&path))?;
    }
    Ok(())
}
