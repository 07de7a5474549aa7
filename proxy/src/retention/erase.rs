//! The end of all that a tenant has.

use super::backends::at;
use crate::clock::WallMillis;
use crate::config::BackendConfig;
use crate::dispatch::disk;
use crate::ids::TenantId;
use crate::record::ledger::keeping::{Amount, Removed};
use crate::record::ledger::{Ledger, LedgerError};
use serde::{Deserialize, Serialize};

/// What was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Whose.
    pub tenant: TenantId,
    /// Files and history.
    pub removed: Removed,
    /// Rows beside those: userdata, settings, refusals, counters, secrets.
    pub rows: u64,
    /// Files on backends' disks.
    pub backend_files: Amount,
    /// Directories of backends that could not be cleaned; one line each. What is there stays, and is known to nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_cleaned: Vec<String>,
}

/// Why a tenant was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// `Busy`, or the rows can't be changed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Removes files, history, uploads, userdata, settings, refusals and secrets of a tenant, in steps; and its folders on the disks of backends whose directories are known. Its keys, sessions and
/// what it has used are left: closing a tenant is another decision. Contents that it shared with nobody go with the next runs. A second call goes on where a first one was killed.
///
/// # Errors
/// `Busy` while a job of it has not ended: then nothing was erased, or what was erased until a new job came.
pub async fn erase_tenant(
    ledger: &dyn Ledger,
    backends: &[BackendConfig],
    tenant: &TenantId,
    now: WallMillis,
) -> Result<Erasure, EraseError> {
    // Before anything is touched at a backend; each step asks again.
    let active = ledger.active_jobs().await?.iter().filter(|job| job.owner.tenant == *tenant).count();
    if active > 0 {
        let active = u32::try_from(active).unwrap_or(u32::MAX);
        return Err(LedgerError::Busy { tenant: tenant.clone(), active }.into());
    }
    let mut erasure = Erasure {
        tenant: tenant.clone(),
        removed: Removed::default(),
        rows: 0,
        backend_files: Amount::default(),
        not_cleaned: Vec::new(),
    };
    // While the ledger still knows which folders are its owners'.
    for folder in ledger.folders(tenant).await? {
        clean(backends, &folder, &mut erasure).await;
    }
    loop {
        let step = ledger.erase(tenant, now).await?;
        erasure.removed += step.removed;
        erasure.rows = erasure.rows.saturating_add(step.rows);
        if step.done {
            return Ok(erasure);
        }
    }
}

async fn clean(backends: &[BackendConfig], folder: &str, erasure: &mut Erasure) {
    for backend in backends {
        for root in backend.directories.all() {
            let owner = folder.to_owned();
            match at(root, move |root| disk::remove_owner(root, &owner)).await {
                Ok(gone) => erasure.backend_files += Amount { count: gone.files, bytes: gone.bytes },
                Err(error) => erasure.not_cleaned.push(format!("{} of {}: {error}", root.display(), backend.id)),
            }
        }
    }
}
