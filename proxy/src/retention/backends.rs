//! Files of ours on backends' disks: folders of attempts that are over, and inputs that no job needs.
//!
//! A committed attempt's folder goes when it is committed ([`Services::clean_attempt`](crate::services::Services::clean_attempt)); what is swept here is what lost attempts and killed gateways left.

use super::{BackendReport, Parts};
use crate::clock::WallMillis;
use crate::config::BackendConfig;
use crate::dispatch::backend::Backend;
use crate::dispatch::disk::{self, InputFile, Swept};
use crate::ids::FileId;
use crate::record::ledger::keeping::{Amount, STEP_MAX};
use crate::record::ledger::{Ledger, LedgerError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A folder that was written to since then may be an attempt's that was assigned after the ledger was asked.
const QUIET: Duration = Duration::from_secs(3600);
/// How long an input that no job has pinned stays after it was given: the next job of the same file need not give it again.
const INPUT_AGE: Duration = Duration::from_secs(24 * 3600);
/// Inputs of one backend that one run looks up.
const LOOKED_MAX: usize = 4096;

pub(super) async fn sweep(parts: &Parts<'_>) -> Result<Vec<BackendReport>, LedgerError> {
    let mut reports = Vec::new();
    for backend in parts.backends.iter().filter(|backend| backend.directories.all().next().is_some()) {
        if (parts.stopping)() {
            break;
        }
        let mut swept = Swept::default();
        match sweep_one(parts, backend, &mut swept).await {
            Ok(()) => {}
            Err(Unswept::Ledger(error)) => return Err(error),
            Err(Unswept::Disk(error)) => swept.error = Some(error),
        }
        let (gone, error) = (swept.gone, swept.error.map(|error| error.to_string()));
        if let Some(error) = &error {
            tracing::warn!(backend = %backend.id, error, "its directories could not be cleaned");
        }
        let files = Amount { count: gone.files, bytes: gone.bytes };
        reports.push(BackendReport { backend: backend.id.clone(), files, error });
    }
    Ok(reports)
}

/// Why a backend's directories are not clean.
enum Unswept {
    Ledger(LedgerError),
    Disk(io::Error),
}

impl From<LedgerError> for Unswept {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl From<io::Error> for Unswept {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

async fn sweep_one(parts: &Parts<'_>, backend: &BackendConfig, swept: &mut Swept) -> Result<(), Unswept> {
    let in_use = Arc::new(parts.ledger.in_use().await?);
    let quiet = system_time(parts.ago(QUIET));
    for root in backend.directories.of_attempts() {
        let known = Arc::clone(&in_use);
        swept.join(at(root, move |root| disk::sweep_attempts(root, &known, quiet)).await?);
    }
    let Some(root) = &backend.directories.input else { return Ok(()) };
    let known = Arc::clone(&in_use);
    let mut found = at(root, move |root| disk::inputs(root, &known, quiet)).await?;
    // The oldest first, so that none is passed over for ever.
    found.sort_by_key(|file| file.at);
    let old = system_time(parts.ago(INPUT_AGE));
    let mut due = Vec::new();
    for file in found.into_iter().filter(|file| !in_use.pinned.contains(&file.id)).take(LOOKED_MAX) {
        if file.at < old || is_gone(parts.ledger, file.id).await? {
            due.push(file);
        }
    }
    for part in due.chunks(STEP_MAX) {
        if (parts.stopping)() {
            break;
        }
        swept.join(remove_inputs(parts, backend, root, part.to_vec()).await?);
    }
    Ok(())
}

async fn is_gone(ledger: &dyn Ledger, file: FileId) -> Result<bool, LedgerError> {
    match ledger.file(file).await {
        Ok(_) => Ok(false),
        Err(LedgerError::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Deletes inputs that no job has pinned, while none is given to that backend.
///
/// INVARIANT: the backend is said to lack them first, then it is asked who has pinned them. So a job that is accepted later gives them again, and one that was accepted before is found.
async fn remove_inputs(
    parts: &Parts<'_>,
    backend: &BackendConfig,
    root: &Path,
    mut files: Vec<InputFile>,
) -> Result<Swept, Unswept> {
    let live: Option<&Arc<Backend>> = parts.live.get(&backend.id);
    // One that is being given takes minutes: what is due is due with the next run too.
    let _turn = match live.map(|live| live.giving.try_write()) {
        Some(Ok(turn)) => Some(turn),
        Some(Err(_)) => return Ok(Swept::default()),
        None => None,
    };
    let ids: Vec<FileId> = files.iter().map(|file| file.id).collect();
    // Several may share one directory.
    parts.live.values().for_each(|live| live.present.lacks(&ids));
    let pinned = parts.ledger.in_use().await?.pinned;
    files.retain(|file| !pinned.contains(&file.id));
    Ok(at(root, move |root| disk::remove_inputs(root, &files)).await?)
}

/// Does something with a directory on a thread that may wait for its disk.
pub(super) async fn at<T: Send + 'static>(
    root: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let root = root.to_owned();
    tokio::task::spawn_blocking(move || work(&root)).await.map_err(io::Error::from)?
}

fn system_time(at: WallMillis) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.0)
}
