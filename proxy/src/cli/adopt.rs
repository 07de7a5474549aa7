//! `comfygate adopt`: a ComfyUI's workflows, settings, inputs and outputs become an owner's. Through the control socket of a running gateway, which then
//! reads the files itself; else in the ledger.

use super::reach::{self, Here, NoState};
use super::{ConfigArgument, Exit};
use crate::admin::adoption::{AdoptRequest, AdoptionService, BATCH_MAX, ContentRequest, Outcome, Page, PageRequest};
use crate::admin::control_client::ControlClient;
use crate::clock::Clock;
use crate::ids::{TenantId, UserId};
use crate::record::blobs::Blobs;
use crate::record::ledger::user_files::{Adoption, Place, UserBounds, UserPath};
use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries of all folders together; a larger installation is adopted folder by folder.
const ENTRIES_MAX: usize = 1_000_000;
/// Files that are listed one by one in a report; of more, the number.
const LISTED_MAX: usize = 1000;
/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// `comfygate adopt …`
#[derive(Debug, Args)]
pub struct AdoptArguments {
    /// Whose the files become
    #[arg(long)]
    tenant: TenantId,
    /// The person within the tenant; without it, the tenant's service user
    #[arg(long)]
    user: Option<UserId>,
    /// ComfyUI's base directory, with `user/default`, `input` and `output` in it
    #[arg(long, value_name = "DIR")]
    comfyui: PathBuf,
    /// ComfyUI's user directory, if it is another (`--user-directory`)
    #[arg(long, value_name = "DIR")]
    user_directory: Option<PathBuf>,
    /// ComfyUI's input directory, if it is another (`--input-directory`)
    #[arg(long, value_name = "DIR")]
    input_directory: Option<PathBuf>,
    /// ComfyUI's output directory, if it is another (`--output-directory`)
    #[arg(long, value_name = "DIR")]
    output_directory: Option<PathBuf>,
    /// Only tell what would be adopted, and how much room it takes
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `comfygate adopt`.
///
/// # Errors
/// A directory that is no ComfyUI's, a configuration with faults, or neither a gateway nor a ledger to be reached.
pub fn run(arguments: &AdoptArguments) -> anyhow::Result<Exit> {
    let mut report = Report::default();
    let folders = folders(arguments)?;
    let mut found = Vec::new();
    for folder in folders {
        found.push(Found::scan(folder, &mut report)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::reach(&arguments.which, NoState::Made)?;
        if !store.knows(&arguments.tenant).await? {
            reach::tell_unknown(&arguments.tenant);
            return Ok(Exit::No);
        }
        let (files, bytes) = found.iter().fold((0, 0), |(files, bytes), found| {
            (files + found.files.len(), bytes + found.files.iter().map(|(_, bytes)| bytes).sum::<u64>())
        });
        eprintln!("{files} files, {bytes} bytes: what is new of them is copied; the originals are only read");
        let mut progress = Progress { last: Instant::now(), done: 0, all: files };
        for found in &found {
            adopt(&store, arguments, found, &mut report, &mut progress).await?;
        }
        report.print(&found, arguments);
        Ok(if report.refused.is_empty() { Exit::Good } else { Exit::No })
    })
}

/// The running gateway, or its ledger and blobs while it does not run: whoever has the lock.
pub(super) enum Store {
    Gateway(ControlClient),
    Here(Box<AdoptionService>, Here),
}

impl Store {
    /// Reaches whichever there is.
    pub(super) fn reach(which: &ConfigArgument, no_state: NoState) -> anyhow::Result<Self> {
        let here = match reach::reach(which, no_state)? {
            reach::Reached::Gateway(client) => return Ok(Self::Gateway(client)),
            reach::Reached::Here(here) => here,
        };
        let limits = &here.config.limits;
        let bounds =
            UserBounds { file_bytes_max: limits.userdata_bytes_max, tenant_bytes_max: limits.userdata_total_bytes_max };
        let blobs = Blobs::open(&here.config.state_dir)?;
        let service = AdoptionService::new(Arc::clone(&here.ledger) as _, blobs, Clock::system(), bounds);
        Ok(Self::Here(Box::new(service), here))
    }

    /// Whether there is that tenant: without it, its files would be nobody's.
    pub(super) async fn knows(&self, tenant: &TenantId) -> anyhow::Result<bool> {
        match self {
            Self::Gateway(client) => Ok(client.tenant(tenant).await?.is_some()),
            Self::Here(_, here) => here.knows(tenant).await,
        }
    }

    async fn adopt(&self, request: &AdoptRequest) -> anyhow::Result<Vec<Outcome>> {
        Ok(match self {
            Self::Gateway(client) => client.adopt(request).await?,
            Self::Here(service, _) => service.adopt(request).await?,
        })
    }

    /// A page of an owner's files.
    pub(super) async fn page(&self, request: &PageRequest) -> anyhow::Result<Page> {
        Ok(match self {
            Self::Gateway(client) => client.owned(request).await?,
            Self::Here(service, _) => service.page(request).await?,
        })
    }

    /// The content of a file of userdata.
    pub(super) async fn user_content(&self, request: &ContentRequest) -> anyhow::Result<Option<Bytes>> {
        Ok(match self {
            Self::Gateway(client) => client.user_content(request).await?,
            Self::Here(service, _) => service.content(request).await?,
        })
    }
}

/// A folder to adopt from.
struct Folder {
    place: Place,
    path: PathBuf,
    /// Links may lead anywhere within this.
    root: PathBuf,
}

fn folders(arguments: &AdoptArguments) -> anyhow::Result<Vec<Folder>> {
    let real = |path: &Path| path.canonicalize().with_context(|| format!("can't find `{}`", path.display()));
    let base = real(&arguments.comfyui)?;
    let named = [
        (Place::User, arguments.user_directory.as_ref().map(|user| user.join("default"))),
        (Place::Input, arguments.input_directory.clone()),
        (Place::Output, arguments.output_directory.clone()),
    ];
    let mut folders = Vec::new();
    for (place, own) in named {
        if let Some(own) = own {
            let path = real(&own)?;
            folders.push(Folder { place, root: path.clone(), path });
            continue;
        }
        let path = base.join(place.folder());
        match path.canonicalize() {
            Ok(path) if path.starts_with(&base) => folders.push(Folder { place, path, root: base.clone() }),
            Ok(path) => bail!(
                "`{}` leads out of `{}`: name it with --{}-directory {}",
                base.join(place.folder()).display(),
                base.display(),
                place.name(),
                path.display()
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("can't read `{}`", path.display())),
        }
    }
    if folders.is_empty() {
        bail!("`{}` has no `user/default`, no `input` and no `output`: is it ComfyUI's directory?", base.display());
    }
    Ok(folders)
}

/// First segment of every folder that a gateway gives out on a backend.
const OWN_FOLDER: &str = "t";

/// What lies in a folder.
struct Found {
    folder: Folder,
    /// Path and length in bytes, by path.
    files: Vec<(UserPath, u64)>,
}

impl Found {
    fn scan(folder: Folder, report: &mut Report) -> anyhow::Result<Self> {
        let (mut files, mut waiting, mut entries) = (Vec::new(), vec![folder.path.clone()], 0);
        while let Some(directory) = waiting.pop() {
            let listing =
                std::fs::read_dir(&directory).with_context(|| format!("can't read `{}`", directory.display()))?;
            for entry in listing {
                let entry = entry.with_context(|| format!("can't read `{}`", directory.display()))?;
                entries += 1;
                if entries > ENTRIES_MAX {
                    bail!("`{}` has more than {ENTRIES_MAX} entries: adopt it in parts", folder.path.display());
                }
                match Entry::of(&folder, &entry) {
                    Ok(Entry::Folder(path)) => waiting.push(path),
                    Ok(Entry::File(path, bytes)) => files.push((path, bytes)),
                    Ok(Entry::OurOwn) => {}
                    Err(reason) => report.refuse(folder.place, &entry.path(), &folder.path, reason),
                }
            }
        }
        files.sort();
        Ok(Self { folder, files })
    }
}

enum Entry {
    Folder(PathBuf),
    File(UserPath, u64),
    /// The folder in which gateways keep what they push and what attempts save, of whomever: results there are their owners' already.
    OurOwn,
}

impl Entry {
    fn of(folder: &Folder, entry: &DirEntry) -> Result<Self, String> {
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| error.to_string())?;
        if kind.is_dir() {
            let shared = matches!(folder.place, Place::Input | Place::Output);
            if shared && path.parent() == Some(&folder.path) && entry.file_name() == OWN_FOLDER {
                return Ok(Self::OurOwn);
            }
            return Ok(Self::Folder(path));
        }
        // Of a link, what it leads to; whether that lies within the root is decided where it is opened.
        let metadata = std::fs::metadata(&path).map_err(|error| error.to_string())?;
        if metadata.is_dir() {
            return Err("a link to a folder is not followed: adopt that folder by itself".into());
        }
        let below = path.strip_prefix(&folder.path).map_err(|error| error.to_string())?;
        let below = below.to_str().ok_or("its name is not UTF-8")?;
        Ok(Self::File(below.parse().map_err(|error| format!("its name can't be taken over: {error}"))?, metadata.len()))
    }
}

struct Progress {
    last: Instant,
    done: usize,
    all: usize,
}

impl Progress {
    fn add(&mut self, files: usize) {
        self.done += files;
        if self.last.elapsed() >= PROGRESS {
            self.last = Instant::now();
            eprintln!("{} of {} files", self.done, self.all);
        }
    }
}

async fn adopt(
    store: &Store,
    arguments: &AdoptArguments,
    found: &Found,
    report: &mut Report,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    for batch in found.files.chunks(BATCH_MAX) {
        let request = AdoptRequest {
            tenant: arguments.tenant.clone(),
            user: arguments.user.clone(),
            place: found.folder.place,
            folder: found.folder.path.clone(),
            root: found.folder.root.clone(),
            files: batch.iter().map(|(path, _)| path.clone()).collect(),
            dry_run: arguments.dry_run,
        };
        let outcomes = store.adopt(&request).await?;
        if outcomes.len() != batch.len() {
            bail!("the gateway told of {} files, it was asked for {}", outcomes.len(), batch.len());
        }
        for ((path, bytes), outcome) in batch.iter().zip(outcomes) {
            report.add(found.folder.place, path, *bytes, outcome);
        }
        progress.add(batch.len());
    }
    Ok(())
}

/// What became of everything.
#[derive(Default)]
struct Report {
    counts: BTreeMap<Place, Counts>,
    kept: Vec<String>,
    refused: Vec<(String, String)>,
}

/// What became of the files of a place.
#[derive(Clone, Copy, Default)]
struct Counts {
    new: u64,
    new_bytes: u64,
    updated: u64,
    same: u64,
    kept: u64,
}

impl Report {
    fn add(&mut self, place: Place, path: &UserPath, bytes: u64, outcome: Outcome) {
        let counts = self.counts.entry(place).or_default();
        match outcome {
            Outcome::Done(Adoption::New) => (counts.new, counts.new_bytes) = (counts.new + 1, counts.new_bytes + bytes),
            Outcome::Done(Adoption::Updated) => {
                (counts.updated, counts.new_bytes) = (counts.updated + 1, counts.new_bytes + bytes);
            }
            Outcome::Done(Adoption::Same) => counts.same += 1,
            Outcome::Done(Adoption::Kept) => {
                counts.kept += 1;
                self.kept.push(format!("{}/{path}", place.folder()));
            }
            Outcome::Refused(reason) => self.refused.push((format!("{}/{path}", place.folder()), reason)),
        }
    }

    fn refuse(&mut self, place: Place, path: &Path, folder: &Path, reason: String) {
        let below = path.strip_prefix(folder).unwrap_or(path);
        self.refused.push((format!("{}/{}", place.folder(), below.display()), reason));
    }

    fn print(&self, found: &[Found], arguments: &AdoptArguments) {
        if arguments.json {
            println!("{}", self.as_json(arguments.dry_run));
            return;
        }
        let new = if arguments.dry_run { "new or changed" } else { "new" };
        for (place, counts) in &self.counts {
            let Counts { new: files, new_bytes, updated, same, kept } = counts;
            println!(
                "{:<13} {files} {new} and {updated} updated ({new_bytes} bytes), {same} there already, {kept} kept",
                place.folder()
            );
        }
        for found in found.iter().filter(|found| found.files.is_empty()) {
            println!("{:<13} nothing", found.folder.place.folder());
        }
        for path in self.kept.iter().take(LISTED_MAX) {
            println!("kept {path}: the owner changed, moved or deleted it, or has another of that name");
        }
        for (path, reason) in self.refused.iter().take(LISTED_MAX) {
            println!("not adopted {path}: {reason}");
        }
        let more = self.kept.len().saturating_sub(LISTED_MAX) + self.refused.len().saturating_sub(LISTED_MAX);
        if more > 0 {
            println!("and {more} more");
        }
    }

    fn as_json(&self, dry_run: bool) -> Value {
        let places = self.counts.iter().map(|(place, counts)| {
            let Counts { new, new_bytes, updated, same, kept } = counts;
            let counts = json!({"new": new, "bytes": new_bytes, "updated": updated, "same": same, "kept": kept});
            (place.name().to_owned(), counts)
        });
        let refused = self.refused.iter().take(LISTED_MAX);
        json!({
            "dry_run": dry_run,
            "places": places.collect::<serde_json::Map<_, _>>(),
            "kept": self.kept.iter().take(LISTED_MAX).collect::<Vec<_>>(),
            "refused": refused.map(|(path, reason)| json!({"path": path, "reason": reason})).collect::<Vec<_>>(),
            "refused_count": self.refused.len(),
        })
    }
}
