//! The end of all that a tenant has: files, history, uploads, userdata, keys, sessions, and with a deletion the tenant itself.
//!
//! A row in the ledger says so before anything is touched; the tenant is closed as long as it is there ([`crate::tenants::AllTenants::tenant`]), and nothing of it is written any more (`record/ledger/redb/erasure`). What a killed
//! gateway left undone goes on with the next one ([`follow`]).

use super::backends::at;
use super::contents;
use super::{GRACE, Parts, RetentionError, Sweeps};
use crate::authenticate::endings::Subject;
use crate::clock::WallMillis;
use crate::config::BackendConfig;
use crate::dispatch::disk;
use crate::dispatch::dispatcher::{Command, DispatchHandle};
use crate::drain::Drain;
use crate::ids::TenantId;
use crate::record::ledger::keeping::{Amount, Erased, Removed};
use crate::record::ledger::managed::ErasureRow;
use crate::record::ledger::{Job, JobState, Ledger, LedgerError, Outcome};
use crate::services::Services;
use futures_util::future::{BoxFuture, Shared};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex as BlockingMutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long an operator's question waits for the end of an erasure before it is told how far that is.
pub const ANSWER_AFTER: Duration = Duration::from_secs(20);
/// Between two looks at whether the jobs of a tenant have ended, unless one is told to have: one that is held again after its backend has gone is told nowhere.
const JOBS_POLL: Duration = Duration::from_secs(1);
/// Between two looks at erasures that did not come to their end.
const RESUME_EVERY: Duration = Duration::from_secs(60);

/// What was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Erasure {
    /// Whose.
    pub tenant: TenantId,
    /// Files and history.
    pub removed: Removed,
    /// Rows beside those: userdata, settings, refusals, counters, secrets, keys, sessions, usage by user.
    pub rows: u64,
    /// Files on backends' disks.
    pub backend_files: Amount,
    /// Directories of backends that could not be cleaned; one line each. What is there stays, and is known to nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_cleaned: Vec<String>,
    /// Its id went too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// It went before this was asked, at this time: nothing was done now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<WallMillis>,
}

impl Erasure {
    /// What an erasure has taken until now.
    pub fn so_far(row: &ErasureRow) -> Self {
        Self {
            tenant: row.tenant.clone(),
            removed: row.removed,
            rows: row.rows,
            backend_files: row.backend_files,
            not_cleaned: Vec::new(),
            deleted: false,
            deleted_at: None,
        }
    }

    fn add(&mut self, step: &Erased) {
        self.removed += step.removed;
        self.rows = self.rows.saturating_add(step.rows);
    }
}

/// Why a tenant was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// `Busy`, or the rows can't be changed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Its contents can't be deleted.
    #[error(transparent)]
    Contents(#[from] RetentionError),
    /// The gateway stops: it goes on with the next one.
    #[error("the gateway stops: its next start goes on with it")]
    Stopping,
}

/// Removes everything of a tenant from the ledger and from the disks of backends whose directories are known, while no gateway runs. Contents that it shared with nobody go with the next runs.
/// A second call goes on where a first one was killed.
///
/// # Errors
/// `Busy` while a job of it has not ended: then nothing was erased.
pub async fn erase_tenant(
    ledger: &dyn Ledger,
    backends: &[BackendConfig],
    tenant: &TenantId,
    now: WallMillis,
) -> Result<Erasure, EraseError> {
    // Before anything is touched at a backend; each step asks again.
    let active = active_jobs(ledger, tenant).await?.len();
    if active > 0 {
        let active = u32::try_from(active).unwrap_or(u32::MAX);
        return Err(LedgerError::Busy { tenant: tenant.clone(), active }.into());
    }
    let mut erasure = Erasure::so_far(&ErasureRow::new(tenant.clone(), now, false));
    clean_folders(ledger, backends, &mut erasure).await?;
    loop {
        let step = ledger.erase(tenant, now).await?;
        erasure.add(&step);
        if step.done {
            return Ok(erasure);
        }
    }
}

/// What became of a question for an erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Nothing is left.
    Done(Erasure),
    /// It goes on.
    GoesOn(ErasureRow),
}

/// What an erasure came to; `None`: nothing was to be done.
type Ended = Result<Option<Erasure>, Arc<EraseError>>;

/// An erasure that goes on: one for each tenant, whoever waits for it.
#[derive(Debug, Clone)]
pub(super) struct Running {
    ended: Shared<BoxFuture<'static, Ended>>,
    job_ended: Arc<Notify>,
}

/// What is being erased in this process.
pub(super) type AllRunning = BlockingMutex<HashMap<TenantId, Running>>;

impl Sweeps {
    /// Tells that a job of a tenant has ended: its erasure waits for that.
    pub fn job_ended(&self, tenant: &TenantId) {
        if let Some(running) = self.erasures().get(tenant) {
            running.job_ended.notify_one();
        }
    }

    fn erasures(&self) -> MutexGuard<'_, HashMap<TenantId, Running>> {
        self.erasures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The erasure of a tenant that goes on, else a new one, in a task that goes on whoever leaves.
fn running(services: &Arc<Services>, dispatch: &DispatchHandle, tenant: &TenantId) -> Running {
    let mut erasures = services.sweeps.erasures();
    if let Some(running) = erasures.get(tenant) {
        return running.clone();
    }
    let (inner, dispatch, whose) = (Arc::clone(services), dispatch.clone(), tenant.clone());
    let job_ended = Arc::new(Notify::new());
    let notified = Arc::clone(&job_ended);
    let task = tokio::spawn(async move {
        // A panic must not keep the next one away.
        let ended = AssertUnwindSafe(run(&inner, &dispatch, &whose, &notified)).catch_unwind().await;
        inner.sweeps.erasures().remove(&whose);
        ended
    });
    let ended = async move {
        match task.await {
            Ok(Ok(ended)) => ended.map_err(Arc::new),
            Ok(Err(_)) | Err(_) => {
                let (action, reason) = ("erase a tenant", "its task ended early".to_owned());
                Err(Arc::new(LedgerError::Unavailable { action, reason }.into()))
            }
        }
    };
    let running = Running { ended: ended.boxed().shared(), job_ended };
    erasures.insert(tenant.clone(), running.clone());
    running
}

/// Waits until nothing is to be erased of a tenant. More than one run may be needed: another may be asked for while one ends.
async fn ended(services: &Arc<Services>, dispatch: &DispatchHandle, tenant: &TenantId) -> Ended {
    let mut last = None;
    while services.managed.is_erasing(tenant) {
        let running = running(services, dispatch, tenant);
        last = running.ended.await?.or(last);
    }
    Ok(last)
}

/// Closes a tenant and erases what it has, in a task that goes on whoever leaves; waits for its end for a while.
///
/// # Errors
/// [`EraseError`]; the tenant stays closed, and the erasure is tried again.
pub async fn ask(
    services: &Arc<Services>,
    dispatch: &DispatchHandle,
    tenant: &TenantId,
    deletes: bool,
) -> Result<Asked, Arc<EraseError>> {
    let row = services.managed.begin_erasure(tenant, deletes).await.map_err(|error| Arc::new(error.into()))?;
    // Its open sockets end.
    services.endings.tell(&Subject::Tenant(tenant.clone()));
    match tokio::time::timeout(ANSWER_AFTER, ended(services, dispatch, tenant)).await {
        Ok(Ok(Some(erasure))) => Ok(Asked::Done(erasure)),
        // It came to its end before it was asked.
        Ok(Ok(None)) => Ok(Asked::Done(Erasure { deleted: row.deletes, ..Erasure::so_far(&row) })),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(Asked::GoesOn(services.managed.erasing(tenant).unwrap_or(row))),
    }
}

/// Goes on with what a former process, or a fault, left undone.
pub async fn follow(services: Arc<Services>, dispatch: DispatchHandle, drain: Drain) {
    let mut stopping = drain.subscribe();
    let mut turns = tokio::time::interval(RESUME_EVERY);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // One that waits, for a job or a request to end, must not keep another from being tried again.
    let (mut going, mut known) = (FuturesUnordered::new(), HashSet::new());
    let goes_on = async |tenant: TenantId| {
        if let Err(error) = running(&services, &dispatch, &tenant).ended.await {
            tracing::warn!(%tenant, %error, "a tenant is not erased yet; it stays closed, and this is tried again");
        }
        tenant
    };
    loop {
        tokio::select! {
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => return,
            Some(tenant) = going.next() => {
                known.remove(&tenant);
            }
            _ = turns.tick() => {
                for row in services.managed.erasures() {
                    if known.insert(row.tenant.clone()) {
                        going.push(goes_on(row.tenant));
                    }
                }
            }
        }
    }
}

/// `None`: nothing was to be done.
async fn run(
    services: &Arc<Services>,
    dispatch: &DispatchHandle,
    tenant: &TenantId,
    job_ended: &Notify,
) -> Result<Option<Erasure>, EraseError> {
    if services.managed.erasing(tenant).is_none() {
        return Ok(None);
    }
    // Outside the turn: what takes long to end must not keep other tenants from being erased. Whoever is still being answered writes nothing from here on, whoever has the id next.
    services.stays.end(tenant).await;
    end_jobs(services, dispatch, tenant, job_ended).await?;
    // One tenant at a time.
    let _turn = services.sweeps.erasing.lock().await;
    let Some(row) = services.managed.erasing(tenant) else { return Ok(None) };
    let mut erasure = Erasure::so_far(&row);
    clean_folders(&*services.ledger, &services.config().backends, &mut erasure).await?;
    rows(services, &row, &mut erasure).await?;
    services.hub.forget_tenant(tenant);
    drop_contents(services).await?;
    if let Err(error) = services.refresh_halts().await {
        tracing::warn!(%error, "the pause of a tenant that is no more is known until the next change");
    }
    // Before anybody else may have the id: a link would make a user of the former tenant.
    services.local_users.links.end_of_tenant(tenant);
    // A ticket would let a page of the former tenant's listen to the next one.
    services.tickets.forget(tenant);
    services.local_users.refresh(&*services.ledger).await?;
    services.audit.tenant_erased(&erasure);
    erasure.deleted = services.managed.end_erasure(tenant, || Arc::clone(&services.config().tenants)).await?;
    if erasure.deleted {
        services.audit.tenant_deleted(tenant);
    }
    Ok(Some(erasure))
}

/// The rows, in steps; each is noted, so that the numbers outlive a killed process.
async fn rows(services: &Services, row: &ErasureRow, erasure: &mut Erasure) -> Result<(), EraseError> {
    // Their contents are due at once: whoever could read such a row has no way to it any more.
    let grace = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
    let at = WallMillis(services.clock.wall().0.saturating_sub(grace.saturating_mul(2)));
    loop {
        if services.sweeps.is_ending() {
            return Err(EraseError::Stopping);
        }
        let step = services.ledger.erase(&row.tenant, at).await?;
        erasure.add(&step);
        let noted = ErasureRow {
            removed: erasure.removed,
            rows: erasure.rows,
            backend_files: erasure.backend_files,
            ..row.clone()
        };
        services.managed.erasure_goes_on(&noted).await?;
        if step.done {
            return Ok(());
        }
    }
}

/// Contents that no row names any more: theirs among them.
async fn drop_contents(services: &Services) -> Result<(), EraseError> {
    let _turn = services.sweeps.keep_away().await;
    let _running = services.sweeps.running.lock().await;
    if services.sweeps.is_ending() {
        return Err(EraseError::Stopping);
    }
    let live = services.live();
    let parts = Parts {
        ledger: &*services.ledger,
        blobs: &services.blobs,
        tenants: Vec::new(),
        backends: &[],
        live: &live.backends,
        now: services.clock.wall(),
        grace: GRACE,
        ended_keys_kept: live.config.limits.ended_keys_kept,
        stopping: &|| services.sweeps.is_ending(),
    };
    contents::sweep_doomed(&parts).await?;
    Ok(())
}

/// Has every job of a tenant ended: what waits is taken out of the queue, what runs is interrupted. A job whose backend is gone is held again, and then it is taken out.
async fn end_jobs(
    services: &Arc<Services>,
    dispatch: &DispatchHandle,
    tenant: &TenantId,
    job_ended: &Notify,
) -> Result<(), EraseError> {
    loop {
        let active = active_jobs(&*services.ledger, tenant).await?;
        if active.is_empty() {
            return Ok(());
        }
        let mut all_ended = true;
        for job in &active {
            all_ended &= end_job(services, dispatch, job).await?;
        }
        if services.sweeps.is_ending() {
            return Err(EraseError::Stopping);
        }
        if !all_ended {
            // What has ended since the look above is told all the same.
            drop(tokio::time::timeout(JOBS_POLL, job_ended.notified()).await);
        }
    }
}

/// Says whether the job has ended already.
async fn end_job(services: &Services, dispatch: &DispatchHandle, job: &Job) -> Result<bool, LedgerError> {
    let ended = match job.state {
        JobState::Held => {
            let at = services.clock.wall();
            let ended = services.ledger.end_held(job.id, job.version, Outcome::Cancelled, None, at).await;
            ended.map(|_| Command::Withdrawn(job.id))
        }
        JobState::Assigned | JobState::Running => {
            let prompt = services.ledger.owned_prompt(&job.owner.scope(), &job.prompt_id).await;
            match prompt {
                Ok(prompt) => services.ledger.request_cancel(&prompt).await.map(|_| Command::Interrupt(job.id)),
                Err(error) => Err(error),
            }
        }
        JobState::Ended(_) => return Ok(true),
    };
    match ended {
        Ok(command) => {
            let withdrawn = matches!(command, Command::Withdrawn(_));
            dispatch.send(command).await;
            Ok(withdrawn)
        }
        // It moved on: the next look sees where it is.
        Err(LedgerError::Stale { .. } | LedgerError::WrongState { .. } | LedgerError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn active_jobs(ledger: &dyn Ledger, tenant: &TenantId) -> Result<Vec<Job>, LedgerError> {
    let active = ledger.active_jobs().await?;
    Ok(active.into_iter().filter(|job| job.owner.tenant == *tenant).collect())
}

/// While the ledger still knows which folders are its owners'.
async fn clean_folders(
    ledger: &dyn Ledger,
    backends: &[BackendConfig],
    erasure: &mut Erasure,
) -> Result<(), LedgerError> {
    for folder in ledger.folders(&erasure.tenant).await? {
        clean(backends, &folder, erasure).await;
    }
    Ok(())
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
