//! `comfygate backup`: the state of a running gateway, through its control socket, or of one that is stopped.

use super::reach::{Here, NoState, Reached, reach};
use super::{ConfigArgument, Exit};
use crate::clock::Clock;
use crate::record::backup::archive::Reader;
use crate::record::backup::pieces::{PIECES_MAX, PieceReader, PieceWriter};
use crate::record::backup::verify::{Source, verify};
use crate::record::backup::{Manifest, make};
use crate::record::durable::{self, FILE_MODE};
use anyhow::{Context, bail};
use bytes::Bytes;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

/// What `comfygate backup` is asked.
#[derive(Debug, clap::Args)]
pub struct BackupArguments {
    /// Where to: FILE.tar, or a directory; must not be there yet. It holds every secret of the state directory but what callers pay with, and not the configuration
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `comfygate backup`. Every byte is checked while it is written; what was not finished is deleted.
///
/// # Errors
/// When the configuration has faults, the target is there, or neither the gateway nor its state can be reached.
pub fn run(arguments: &BackupArguments) -> anyhow::Result<Exit> {
    let target = Target::at(&arguments.to)?;
    let (sender, receiver) = sync_channel(PIECES_MAX);
    let which = arguments.which.clone();
    let making = std::thread::spawn(move || produce(&which, sender));
    let kept = target.take(&mut PieceReader::new(receiver));
    let made = making.join().unwrap_or_else(|_| bail!("the backup ended with a panic"));
    if made.is_err() || kept.is_err() {
        target.remove();
    }
    // Why nothing came is a better answer than that nothing came.
    made?;
    let manifest = kept.context("no backup was made")?;
    report(&manifest, &arguments.to, arguments.json)?;
    let faulty = !manifest.absent.is_empty() || !manifest.damaged.is_empty();
    Ok(if faulty { Exit::No } else { Exit::Good })
}

/// Sends the archive: the running gateway's, or our own of a state directory that nobody has.
fn produce(which: &ConfigArgument, pieces: SyncSender<io::Result<Bytes>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (config, ledger) = match reach(which, NoState::Refused)? {
            Reached::Gateway(gateway) => return Ok(gateway.backup(&pieces).await?),
            Reached::Here(Here { config, ledger }) => (config, ledger),
        };
        let rows = make::rows(&config.state_dir, &*ledger, Clock::system().wall()).await?;
        let send = |piece| pieces.send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into());
        make::write(&config.state_dir, rows, PieceWriter::new(send))?;
        Ok(())
    })
}

/// Where the backup is written first, and what it is called once it is whole.
struct Target {
    partial: PathBuf,
    path: PathBuf,
    is_file: bool,
}

impl Target {
    fn at(path: &Path) -> anyhow::Result<Self> {
        if path.symlink_metadata().is_ok() {
            bail!("`{}` is there already: a backup is written to a new place", path.display());
        }
        let mut partial = OsString::from(path);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        if partial.symlink_metadata().is_ok() {
            bail!("`{}` is of a backup that did not end: delete it", partial.display());
        }
        Ok(Self {
            partial,
            path: path.to_owned(),
            is_file: path.extension().is_some_and(|extension| extension == "tar"),
        })
    }

    fn take(&self, archive: &mut dyn Read) -> anyhow::Result<Manifest> {
        let manifest = if self.is_file { self.take_file(archive)? } else { self.take_folder(archive)? };
        std::fs::rename(&self.partial, &self.path).with_context(|| format!("`{}`", self.path.display()))?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|folder| folder.sync_all()).with_context(|| format!("`{}`", parent.display()))?;
        Ok(manifest)
    }

    fn take_file(&self, archive: &mut dyn Read) -> anyhow::Result<Manifest> {
        let at = || format!("`{}`", self.partial.display());
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(FILE_MODE).open(&self.partial).with_context(at)?;
        let mut written = Tee { from: archive, to: &mut file };
        let reader: &mut dyn Read = &mut written;
        let manifest = verify(&mut Source::Archive(Reader::new(reader)), None, true)?;
        file.sync_all().with_context(at)?;
        Ok(manifest)
    }

    fn take_folder(&self, archive: &mut dyn Read) -> anyhow::Result<Manifest> {
        let at = || format!("`{}`", self.partial.display());
        durable::private_dir(&self.partial).with_context(at)?;
        let manifest = verify(&mut Source::Archive(Reader::new(archive)), Some(&self.partial), true)?;
        let folder = File::open(&self.partial).with_context(at)?;
        rustix::fs::syncfs(&folder).with_context(at)?;
        Ok(manifest)
    }

    /// Best effort: the next try says that it is there.
    fn remove(&self) {
        let _ = if self.is_file { std::fs::remove_file(&self.partial) } else { std::fs::remove_dir_all(&self.partial) };
    }
}

/// Writes what it reads.
struct Tee<'a> {
    from: &'a mut dyn Read,
    to: &'a mut File,
}

impl Read for Tee<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.to.write_all(into.get(..count).unwrap_or_default())?;
        Ok(count)
    }
}

fn report(manifest: &Manifest, to: &Path, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::json!({"to": to, "manifest": manifest}))?;
        return Ok(());
    }
    writeln!(out, "{}: {} entries, {} bytes", to.display(), manifest.entries, manifest.bytes)?;
    let told = [
        ("was not there", &manifest.absent),
        ("is damaged", &manifest.damaged),
        ("is no part of a backup and was left out", &manifest.left_out),
    ];
    for (what, names) in told {
        for name in names {
            eprintln!("comfygate: `{name}` {what}");
        }
    }
    Ok(())
}
