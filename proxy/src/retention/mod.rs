//! What is removed, and when: by age and bytes as a tenant's plan says, contents that nobody's row names any more, files of ours on backends' disks.
//!
//! *In*: the limits of every tenant, the ledger's order of what is due, the clock. *Out*: a [`Report`] of what went, metrics, one audit line. *Refuses*: to touch anything that the ledger did not record or whose
//! name it did not draw; to delete contents while a backup reads them. *Answers the attack*: a disk that somebody fills, and results that outlive what their owner was promised. *Leaves to others*:
//! what is due and what names a content (`record/ledger/keeping`), who is just storing one (`record/holds`), how a folder is deleted safely (`dispatch/disk`).
//!
//! A run is many small steps, each at most one short transition; between two of them it looks whether the gateway stops. What a killed run left undone the next one does: rows and the list of contents without a
//! row are in the ledger, and files that neither knows are found by a walk over all of them.

mod backends;
mod contents;
pub mod erase;
mod rows;

pub use erase::{EraseError, Erasure, erase_tenant};

use crate::clock::WallMillis;
use crate::config::BackendConfig;
use crate::dispatch::backend::Backend;
use crate::drain::Drain;
use crate::ids::{BackendId, TenantId};
use crate::record::blobs::{BlobError, Blobs};
use crate::record::ledger::keeping::{Amount, Removed};
use crate::record::ledger::refusals::RefusalBounds;
use crate::record::ledger::{Ledger, LedgerError};
use crate::services::Services;
use crate::tenants::{AllTenants, Retention};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as BlockingMutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::MissedTickBehavior;

/// Between two runs.
const EVERY: Duration = Duration::from_secs(300);
/// After the start, so that the first run does not take the disk from a gateway that everybody waits for.
const FIRST: Duration = Duration::from_secs(60);
/// By bytes, nothing goes that is younger: an end may wait so long for its client's socket (`deliver/events/recent`), and whoever made it gets to fetch it.
const FRESH: Duration = Duration::from_secs(300);
/// How long a content stays after its last row has gone: longer than any request that has read the row.
pub const GRACE: Duration = Duration::from_secs(600);
/// A content that no row ever named, such as a lost attempt's picture, is taken by the walk when it is as old.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);
/// One step ends within milliseconds; a sweep of a backend's directory may take seconds.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Tenants that a report names; beyond it they are counted.
const NAMED_MAX: usize = 1000;

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The rows.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The contents.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// Another run goes on, a backup reads what would be deleted, or the gateway stops.
    #[error("another run, or a backup, goes on, or the gateway stops: ask again later")]
    Busy,
    /// No such tenant.
    #[error("there is no tenant `{0}`: `comfygate tenant list` shows them")]
    UnknownTenant(TenantId),
}

/// What is asked of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Only this tenant's; `None`: all, with contents and backends' disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Only tell what is due.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a run removed, or would have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Report {
    /// When it began.
    pub at: WallMillis,
    /// Nothing was removed.
    pub dry_run: bool,
    /// Of each tenant of which something was due.
    pub tenants: Vec<TenantReport>,
    /// Tenants beyond those, which are in the sum.
    pub more_tenants: u64,
    /// Of all tenants.
    pub sum: Removed,
    /// Old refusals that were forgotten.
    pub refusals: u64,
    /// Keys that had ended long ago and were forgotten.
    #[serde(default)]
    pub keys: u64,
    /// Contents of files that no row named.
    pub blobs: Amount,
    /// Submissions that no job had.
    pub graphs: Amount,
    /// Of each backend whose directories are known.
    pub backends: Vec<BackendReport>,
    /// It ended early, since the gateway stops: the rest goes with the next run.
    pub unfinished: bool,
}

/// What went of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TenantReport {
    /// Whose.
    pub tenant: TenantId,
    /// How much.
    #[serde(flatten)]
    pub removed: Removed,
}

/// What went at a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BackendReport {
    /// Which.
    pub backend: BackendId,
    /// How much.
    #[serde(flatten)]
    pub files: Amount,
    /// Why not all went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The runs of one gateway: one at a time.
#[derive(Debug, Default)]
pub struct Sweeps {
    /// Where the walk over all contents goes on.
    turn: Arc<Mutex<u8>>,
    /// Held while a run deletes; a backup holds the turn alone.
    running: Mutex<()>,
    /// Held while a tenant is erased.
    erasing: Mutex<()>,
    /// What goes on of that, waiting for its turn or not.
    erasures: erase::AllRunning,
    ending: AtomicBool,
    last: BlockingMutex<Option<Report>>,
}

impl Sweeps {
    /// Keeps every run away as long as it is held: for a backup, whose rows name contents that it has not read yet. Waits for a run that goes on.
    pub async fn keep_away(&self) -> OwnedMutexGuard<u8> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Ends a run that goes on, and lets no other begin: when this resolves nothing is deleted any more, or the disk has hung for longer than a stop waits.
    pub async fn end(&self) {
        self.ending.store(true, Ordering::Release);
        if tokio::time::timeout(END_TIMEOUT, self.running.lock()).await.is_err() {
            tracing::error!("a run of retention did not end within {END_TIMEOUT:?}");
        }
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// What the last run that removed something or could have did; `None`: there was none since the start.
    pub fn last(&self) -> Option<Report> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, report: &Report) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
    }
}

/// What a run works on. While no gateway runs, a command has it too.
pub struct Parts<'a> {
    /// The rows.
    pub ledger: &'a dyn Ledger,
    /// The contents.
    pub blobs: &'a Blobs,
    /// Whose, by which limits.
    pub tenants: Vec<(TenantId, Retention)>,
    /// Where backends' files are.
    pub backends: &'a [BackendConfig],
    /// The backends as the gateway knows them; none while it does not run.
    pub live: &'a BTreeMap<BackendId, Arc<Backend>>,
    /// Now.
    pub now: WallMillis,
    /// How long a content stays after its last row.
    pub grace: Duration,
    /// How long a key is remembered after its end.
    pub ended_keys_kept: Duration,
    /// Whether to end early.
    pub stopping: &'a (dyn Fn() -> bool + Sync),
}

/// Which contents a run looks at that no list names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// One of their 256 folders.
    One(u8),
    /// All of them.
    All,
}

impl Parts<'_> {
    /// One run.
    ///
    /// # Errors
    /// [`RetentionError`]; what was removed until then is gone.
    pub async fn run(&self, wanted: &Wanted, walk: Walk) -> Result<Report, RetentionError> {
        let mut report = Report { at: self.now, dry_run: wanted.dry_run, ..Report::default() };
        if let Some(tenant) = &wanted.tenant
            && !self.tenants.iter().any(|(known, _)| known == tenant)
        {
            return Err(RetentionError::UnknownTenant(tenant.clone()));
        }
        for (tenant, retention) in &self.tenants {
            if retention.is_off() || wanted.tenant.as_ref().is_some_and(|only| only != tenant) {
                continue;
            }
            let removed = rows::sweep(self, tenant, *retention, wanted.dry_run).await?;
            report.sum += removed;
            if removed.is_nothing() {
                continue;
            }
            if report.tenants.len() < NAMED_MAX {
                report.tenants.push(TenantReport { tenant: tenant.clone(), removed });
            } else {
                report.more_tenants += 1;
            }
        }
        if !wanted.dry_run && wanted.tenant.is_none() {
            report.refusals = self.old_refusals().await;
            report.keys = self.ended_keys().await;
            (report.blobs, report.graphs) = contents::sweep(self, walk).await?;
            report.backends = backends::sweep(self).await?;
        }
        report.unfinished = (self.stopping)();
        Ok(report)
    }

    /// They go by age also where no new one pushes them out.
    async fn old_refusals(&self) -> u64 {
        let before = self.ago(RefusalBounds::default().age_max);
        self.repeated("old refusals", || self.ledger.expire_refusals(before)).await
    }

    /// Keys whose end is long past: nobody asks any more whose they were.
    async fn ended_keys(&self) -> u64 {
        let before = self.ago(self.ended_keys_kept);
        self.repeated("ended keys", || self.ledger.forget_keys(before)).await
    }

    /// A step as often as something goes by it.
    async fn repeated<F>(&self, what: &'static str, mut step: impl FnMut() -> F) -> u64
    where
        F: Future<Output = Result<u64, LedgerError>>,
    {
        let mut gone = 0;
        loop {
            match step().await {
                Ok(some) if some > 0 && !(self.stopping)() => gone += some,
                Ok(some) => return gone + some,
                Err(error) => {
                    // What can't be read must not keep everything else from going.
                    tracing::error!(%error, "{what} are kept");
                    return gone;
                }
            }
        }
    }

    fn ago(&self, age: Duration) -> WallMillis {
        WallMillis(self.now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Every tenant with its limits.
pub fn limits_of(tenants: &AllTenants) -> Vec<(TenantId, Retention)> {
    tenants.all().into_iter().map(|tenant| (tenant.id.clone(), tenant.limits.retention)).collect()
}

/// Runs every few minutes until the gateway stops.
pub async fn follow(services: Arc<Services>, drain: Drain) {
    let mut stopping = drain.subscribe();
    let mut turns = tokio::time::interval_at(tokio::time::Instant::now() + FIRST, EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => return,
            _ = turns.tick() => {}
        }
        // Whatever goes on ends; the next turn comes.
        let Ok(mut turn) = Arc::clone(&services.sweeps.turn).try_lock_owned() else { continue };
        let shard = *turn;
        *turn = turn.wrapping_add(1);
        if let Err(error) = run(&services, &Wanted::default(), Walk::One(shard), &|| services.sweeps.is_ending()).await
        {
            tracing::error!(%error, "retention did not come to its end; it goes on with the next run");
        }
    }
}

/// A run that an operator asked for: over all contents.
///
/// # Errors
/// [`RetentionError`].
pub async fn ask(services: &Services, wanted: &Wanted) -> Result<Report, RetentionError> {
    let _turn = Arc::clone(&services.sweeps.turn).try_lock_owned().map_err(|_| RetentionError::Busy)?;
    run(services, wanted, Walk::All, &|| services.sweeps.is_ending()).await
}

/// INVARIANT: the caller has the turn.
async fn run(
    services: &Services,
    wanted: &Wanted,
    walk: Walk,
    stopping: &(dyn Fn() -> bool + Sync),
) -> Result<Report, RetentionError> {
    let _running = services.sweeps.running.lock().await;
    // Asked after the lock: whoever ends the runs waits for it, and none begins after that.
    if services.sweeps.is_ending() {
        return Err(RetentionError::Busy);
    }
    let live = services.live();
    let parts = Parts {
        ledger: &*services.ledger,
        blobs: &services.blobs,
        tenants: limits_of(&live.tenants),
        backends: &live.config.backends,
        live: &live.backends,
        now: services.clock.wall(),
        grace: GRACE,
        ended_keys_kept: live.config.limits.ended_keys_kept,
        stopping,
    };
    let report = parts.run(wanted, walk).await?;
    if !report.dry_run {
        services.metrics.retention(&report);
        services.audit.retention(&report);
        services.sweeps.remember(&report);
    }
    Ok(report)
}

#[cfg(test)]
mod tests;
