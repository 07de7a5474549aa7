//! Making a backup: the rows are copied, then everything is written as one archive.

use super::archive::Writer;
use super::{
    BackupError, EntryName, FAULTS_MAX, FORMAT, LEDGER, MANIFEST, Manifest, SMALL_FILE_BYTES_MAX, Sum, finished,
};
use crate::authenticate::oidc::seal::KEY_FILE;
use crate::clock::WallMillis;
use crate::record::durable;
use crate::record::ledger::Ledger;
use crate::record::ledger::backups::Copied;
use comfygate_policy::Digest;
use ring::digest::{Context, SHA256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Where the copy of the rows lies until it is written.
const TEMPORARY: &str = "backup.tmp";
/// What lies in a state directory and is made anew, beside names that end with `.tmp`. SECURITY: `credentials/` holds what callers pay with, which is no part of a backup.
const NOT_KEPT: [&str; 6] = [
    "credentials",
    "comfygate.pid",
    "control.sock",
    "hand-over.sock",
    KEY_FILE,
    crate::authenticate::login_links::FIRST_LINK,
];

/// A copy of the rows; dropped, it is deleted.
#[derive(Debug)]
pub struct Rows {
    folder: PathBuf,
    copied: Copied,
    made_at: WallMillis,
}

impl Drop for Rows {
    fn drop(&mut self) {
        // What can't be removed is swept before the next backup.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Copies the rows: this is the moment that the backup shows. Submissions go on meanwhile.
///
/// # Errors
/// `Ledger`, `File`.
pub async fn rows(state: &Path, ledger: &dyn Ledger, now: WallMillis) -> Result<Rows, BackupError> {
    let folder = state.join(TEMPORARY);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BackupError::File { path: folder, source: error });
        }
        _ => {}
    }
    durable::private_dir(&folder).map_err(BackupError::file(&folder))?;
    let unfinished = Copied { schema: 0, graphs: BTreeSet::new(), blobs: BTreeSet::new() };
    let mut rows = Rows { folder, copied: unfinished, made_at: now };
    rows.copied = ledger.copy_to(&rows.folder.join(LEDGER)).await?;
    Ok(rows)
}

/// Writes the whole backup, for minutes if there are many results: on a blocking thread.
///
/// # Errors
/// [`BackupError`]; an archive that breaks off has no manifest, and is refused by whoever reads it.
pub fn write(state: &Path, rows: Rows, out: impl Write) -> Result<Manifest, BackupError> {
    let mut making = Making {
        archive: Writer::new(out, rows.made_at.seconds()),
        sum: Sum::new(),
        absent: Vec::new(),
        damaged: Vec::new(),
        left_out: Vec::new(),
    };
    making.everything(state, &rows)?;
    let (schema, made_at) = (rows.copied.schema, rows.made_at);
    drop(rows);
    making.finish(schema, made_at)
}

struct Making<W> {
    archive: Writer<W>,
    sum: Sum,
    absent: Vec<String>,
    damaged: Vec<String>,
    left_out: Vec<String>,
}

impl<W: Write> Making<W> {
    /// Every content of a folder, shard by shard, in ascending order.
    fn contents(&mut self, state: &Path, folder: &str, named: &BTreeSet<Digest>) -> Result<(), BackupError> {
        let root = state.join(folder);
        let mut missing = named.iter().peekable();
        for shard in listed(&root)? {
            for name in listed(&root.join(&shard))? {
                let Ok(digest) = name.parse::<Digest>() else { continue };
                let entry = EntryName::of_content(folder, &digest);
                if EntryName::parse(&format!("{folder}/{shard}/{name}")).ok().as_ref() != Some(&entry) {
                    continue;
                }
                while let Some(before) = missing.next_if(|before| **before < digest) {
                    self.absent(folder, before)?;
                }
                missing.next_if(|this| **this == digest);
                self.content(state, &entry, &digest)?;
            }
        }
        missing.try_for_each(|digest| self.absent(folder, digest))
    }

    fn content(&mut self, state: &Path, entry: &EntryName, digest: &Digest) -> Result<(), BackupError> {
        let path = entry.below(state);
        let mut file = File::open(&path).map_err(BackupError::file(&path))?;
        let length = file.metadata().map_err(BackupError::file(&path))?.len();
        if self.add(entry, length, &mut file)? != *digest {
            tracing::error!(%entry, "a stored content is damaged; the backup says so");
            self.damaged.push(entry.to_string());
            self.few_faults()?;
        }
        Ok(())
    }

    fn absent(&mut self, folder: &str, digest: &Digest) -> Result<(), BackupError> {
        let entry = EntryName::of_content(folder, digest);
        tracing::error!(%entry, "a content that the ledger names is not there; the backup says so");
        self.absent.push(entry.to_string());
        self.few_faults()
    }

    fn few_faults(&self) -> Result<(), BackupError> {
        match self.absent.len() + self.damaged.len() {
            faults if faults <= FAULTS_MAX => Ok(()),
            faults => {
                Err(BackupError::NotWhole(format!("{faults} and more of the stored contents are absent or damaged")))
            }
        }
    }

    fn everything(&mut self, state: &Path, rows: &Rows) -> Result<(), BackupError> {
        // Whoever expects logins at identity providers to outlast a restore is told; the rest is made anew without a loss.
        if state.join(KEY_FILE).exists() {
            self.left_out.push(KEY_FILE.to_owned());
        }
        for name in tops(state)? {
            match name.as_str() {
                LEDGER => {
                    let path = rows.folder.join(LEDGER);
                    let mut file = File::open(&path).map_err(BackupError::file(&path))?;
                    let length = file.metadata().map_err(BackupError::file(&path))?.len();
                    self.add(&EntryName::parse(LEDGER)?, length, &mut file)?;
                }
                "blobs/" => self.contents(state, "blobs", &rows.copied.blobs)?,
                "graphs/" => self.contents(state, "graphs", &rows.copied.graphs)?,
                "tls/" => {
                    for name in listed(&state.join("tls"))? {
                        self.small(state, &format!("tls/{name}"))?;
                    }
                }
                name => self.small(state, name)?,
            }
        }
        self.left_out.truncate(FAULTS_MAX);
        Ok(())
    }

    /// A key, a certificate, a setting. What is none of these is told as left out.
    fn small(&mut self, state: &Path, name: &str) -> Result<(), BackupError> {
        let path = state.join(name);
        let found = std::fs::metadata(&path).map_err(BackupError::file(&path))?;
        match EntryName::parse(name) {
            Ok(entry) if found.is_file() && found.len() <= SMALL_FILE_BYTES_MAX => {
                // Read whole: a file that is written meanwhile has one length.
                let bytes = std::fs::read(&path).map_err(BackupError::file(&path))?;
                self.add(&entry, bytes.len() as u64, &mut bytes.as_slice())?;
            }
            _ => self.left_out.push(name.chars().take(100).collect()),
        }
        Ok(())
    }

    fn add(&mut self, entry: &EntryName, length: u64, content: &mut dyn Read) -> Result<Digest, BackupError> {
        self.sum.follows(entry)?;
        let mut hashed = Hashed { from: content, hash: Context::new(&SHA256) };
        self.archive.add(entry, length, &mut hashed)?;
        let digest = finished(hashed.hash);
        self.sum.add(entry, length, digest);
        Ok(digest)
    }

    fn finish(mut self, schema: u64, made_at: WallMillis) -> Result<Manifest, BackupError> {
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            made_at,
            schema,
            entries: self.sum.entries,
            bytes: self.sum.bytes,
            digest: self.sum.digest(),
            absent: self.absent,
            damaged: self.damaged,
            left_out: self.left_out,
        };
        let bytes = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from)?;
        self.archive.add(&EntryName::parse(MANIFEST)?, bytes.len() as u64, &mut bytes.as_slice())?;
        self.archive.finish()?;
        Ok(manifest)
    }
}

struct Hashed<'a> {
    from: &'a mut dyn Read,
    hash: Context,
}

impl Read for Hashed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.hash.update(into.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// What lies in the state directory and is kept, in the order of a backup: folders end with a slash, so that they sort as what is in them does.
fn tops(state: &Path) -> Result<BTreeSet<String>, BackupError> {
    let mut names = BTreeSet::from([LEDGER.to_owned(), "blobs/".to_owned(), "graphs/".to_owned()]);
    for name in listed(state)? {
        let made_anew = name.starts_with(LEDGER) || name.ends_with(".tmp") || NOT_KEPT.contains(&name.as_str());
        if !made_anew {
            names.insert(if state.join(&name).is_dir() { format!("{name}/") } else { name });
        }
    }
    Ok(names)
}

/// Names in a folder, ascending; none if it is not there, or no folder.
fn listed(folder: &Path) -> Result<BTreeSet<String>, BackupError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(BTreeSet::new());
        }
        Err(source) => return Err(BackupError::File { path: folder.to_owned(), source }),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(BackupError::file(folder))?.file_name();
        names.insert(name.to_string_lossy().into_owned());
    }
    Ok(names)
}
