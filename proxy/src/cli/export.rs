//! `comfygate tenant export`: an owner's files as a ComfyUI has them, in a directory of their own.

use super::adopt::Store;
use super::reach::{self, NoState};
use super::{ConfigArgument, Exit};
use crate::admin::adoption::{ContentRequest, OwnedEntry, PageRequest};
use crate::ids::{TenantId, UserId};
use crate::record::durable;
use crate::record::ledger::user_files::{Place, UserPath};
use anyhow::{Context, bail};
use clap::Args;
use comfygate_policy::Digest;
use ring::digest::{Context as Hash, SHA256};
use serde_json::json;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Piece in which files are copied.
const PIECE_BYTES: usize = 256 << 10;

/// `comfygate tenant export …`
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Whose files
    #[arg(long)]
    tenant: TenantId,
    /// The person within the tenant; without it, the tenant's service user
    #[arg(long)]
    user: Option<UserId>,
    /// Where to: a directory that is empty or not there yet
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Runs `comfygate tenant export`.
///
/// # Errors
/// A directory that is not empty or can't be written; when neither the gateway nor its ledger can be reached.
pub fn run(arguments: &ExportArguments, which: &ConfigArgument, json: bool) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::reach(which, NoState::Refused)?;
        if !store.knows(&arguments.tenant).await? {
            reach::tell_unknown(&arguments.tenant);
            return Ok(Exit::No);
        }
        empty_directory(&arguments.to)?;
        let blobs = reach::state_dir(which)?.join("blobs");
        let export = Export { store, arguments, blobs, to: arguments.to.canonicalize()? };
        let mut report = Report::default();
        for place in Place::ALL {
            export.place(place, &mut report).await?;
        }
        report.print(&arguments.to, json);
        Ok(if report.skipped.is_empty() { Exit::Good } else { Exit::No })
    })
}

#[derive(Default)]
struct Report {
    /// By place: files and bytes.
    written: Vec<(Place, u64, u64)>,
    /// Path and reason.
    skipped: Vec<(String, String)>,
}

impl Report {
    fn print(&self, to: &Path, json: bool) {
        if json {
            let written = self
                .written
                .iter()
                .map(|(place, files, bytes)| (place.name().to_owned(), json!({"files": files, "bytes": bytes})));
            let skipped = self.skipped.iter().map(|(path, reason)| json!({"path": path, "reason": reason}));
            let body = json!({
                "written": written.collect::<serde_json::Map<_, _>>(), "skipped": skipped.collect::<Vec<_>>(),
            });
            println!("{body}");
            return;
        }
        for (place, files, bytes) in &self.written {
            println!("{:<13} {files} files, {bytes} bytes", place.folder());
        }
        for (path, reason) in &self.skipped {
            println!("skipped {path}: {reason}");
        }
        println!("in {}", to.display());
    }
}

struct Export<'a> {
    store: Store,
    arguments: &'a ExportArguments,
    blobs: PathBuf,
    to: PathBuf,
}

impl Export<'_> {
    async fn place(&self, place: Place, report: &mut Report) -> anyhow::Result<()> {
        let ExportArguments { tenant, user, .. } = self.arguments;
        let folder = self.to.join(place.folder());
        private(&folder)?;
        let (mut files, mut bytes, mut after) = (0, 0, None);
        loop {
            let request = PageRequest { tenant: tenant.clone(), user: user.clone(), place, after };
            let page = self.store.page(&request).await?;
            for entry in &page.files {
                match self.file(place, &folder, entry).await {
                    Ok(()) => (files, bytes) = (files + 1, bytes + entry.bytes),
                    Err(error) => {
                        report.skipped.push((format!("{}/{}", place.folder(), entry.path), format!("{error:#}")));
                    }
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        report.written.push((place, files, bytes));
        Ok(())
    }

    async fn file(&self, place: Place, folder: &Path, entry: &OwnedEntry) -> anyhow::Result<()> {
        // SECURITY: a name that leads elsewhere is not written, whatever stored it.
        let path: UserPath = entry.path.parse()?;
        let target = folder.join(path.as_str());
        if let Some(parent) = target.parent() {
            private(parent)?;
        }
        let mut options = OpenOptions::new();
        // What stands there is never replaced, and no link followed.
        options.write(true).create_new(true).mode(durable::FILE_MODE);
        if place == Place::User {
            let ExportArguments { tenant, user, .. } = self.arguments;
            let request = ContentRequest { tenant: tenant.clone(), user: user.clone(), path };
            let content = self.store.user_content(&request).await?.context("it was deleted meanwhile")?;
            let mut file = options.open(&target)?;
            file.write_all(&content)?;
            return finish(&file, entry);
        }
        let mut source = File::open(durable::sharded(&self.blobs, &entry.content.to_string()))
            .context("its content is not in the state directory")?;
        let mut file = options.open(&target)?;
        if copied(&mut source, &mut file)? != entry.content {
            drop(file);
            std::fs::remove_file(&target)?;
            bail!("its content in the state directory is damaged");
        }
        finish(&file, entry)
    }
}

/// The time that it had, as far as we know it.
fn finish(file: &File, entry: &OwnedEntry) -> anyhow::Result<()> {
    file.set_modified(UNIX_EPOCH + Duration::from_millis(entry.modified_at.0))?;
    Ok(file.sync_all()?)
}

fn copied(source: &mut File, target: &mut File) -> std::io::Result<Digest> {
    let (mut hash, mut piece) = (Hash::new(&SHA256), vec![0; PIECE_BYTES]);
    loop {
        let read = source.read(&mut piece)?;
        let part = piece.get(..read).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        hash.update(part);
        target.write_all(part)?;
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(hash.finish().as_ref());
    Ok(Digest::from_bytes(sum))
}

/// Only the operator enters: the files are somebody's own.
fn private(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn empty_directory(to: &Path) -> anyhow::Result<()> {
    private(to).with_context(|| format!("can't make the directory `{}`", to.display()))?;
    let mut entries = std::fs::read_dir(to).with_context(|| format!("can't read `{}`", to.display()))?;
    if entries.next().is_some() {
        bail!("`{}` is not empty: name a directory that is empty or not there", to.display());
    }
    Ok(())
}
