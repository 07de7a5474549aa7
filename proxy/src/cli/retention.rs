//! `comfygate retention`: removes what is due now, or tells what would be. Through the control socket of a running gateway, else on the state directory itself.

use super::key::audit_target;
use super::reach::{self, Here, NoState, Reached, reach};
use super::{ConfigArgument, Exit};
use crate::clock::Clock;
use crate::config::Config;
use crate::ids::TenantId;
use crate::record::audit::Audit;
use crate::record::blobs::Blobs;
use crate::record::ledger::keeping::{Amount, Removed};
use crate::record::ledger::managed::ManagedRows;
use crate::record::ledger::redb::RedbLedger;
use crate::record::ledger::tenants::Tenants;
use crate::retention::{Parts, Report, RetentionError, Walk, Wanted};
use crate::tenants::Retention;
use crate::tenants::managed::compiled;
use anyhow::Context;
use clap::Args;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

/// `comfygate retention`
#[derive(Debug, Args)]
pub struct RetentionArguments {
    #[command(flatten)]
    which: ConfigArgument,
    /// Tell what is due, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Of this tenant only: no contents, no backends' disks
    #[arg(long, value_name = "ID")]
    tenant: Option<TenantId>,
    /// What the last run of the running gateway did
    #[arg(long, conflicts_with_all = ["dry_run", "tenant"])]
    last: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `comfygate retention`. The answer is no for a tenant that is not there, while another run or a backup goes on, and for `--last` before the first run.
///
/// # Errors
/// When the configuration has faults, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &RetentionArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wanted = Wanted { tenant: arguments.tenant.clone(), dry_run: arguments.dry_run };
    let answer = if arguments.last {
        let client = reach::running(&arguments.which).context("its log and audit lines tell what it removed")?;
        runtime.block_on(client.last_retention())?.ok_or_else(|| "there was no run since the start".to_owned())
    } else {
        match reach(&arguments.which, NoState::Refused)? {
            Reached::Gateway(client) => runtime.block_on(client.retention(&wanted))?,
            Reached::Here(Here { config, ledger }) => runtime.block_on(offline(&config, &ledger, &wanted))?,
        }
    };
    let report = match answer {
        Ok(report) => report,
        Err(reason) => {
            eprintln!("comfygate: {reason}");
            return Ok(Exit::No);
        }
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        print(&mut out, &report)?;
    }
    Ok(Exit::Good)
}

/// While no gateway runs: nobody stores anything meanwhile, so contents need no grace.
async fn offline(config: &Config, ledger: &RedbLedger, wanted: &Wanted) -> anyhow::Result<Result<Report, String>> {
    // Before anything is removed: what can't be audited is not done.
    let audit = Audit::open(&audit_target(config), Clock::system())?;
    let parts = Parts {
        ledger,
        blobs: &Blobs::open(&config.state_dir)?,
        tenants: limits(config, ledger).await?,
        backends: &config.backends,
        live: &BTreeMap::new(),
        now: Clock::system().wall(),
        grace: Duration::ZERO,
        ended_keys_kept: config.limits.ended_keys_kept,
        stopping: &|| false,
    };
    match parts.run(wanted, Walk::All).await {
        Ok(report) => {
            audit.retention(&report);
            audit.written();
            Ok(Ok(report))
        }
        Err(error @ (RetentionError::Busy | RetentionError::UnknownTenant(_))) => Ok(Err(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

async fn limits(config: &Config, ledger: &RedbLedger) -> anyhow::Result<Vec<(TenantId, Retention)>> {
    let registry = &config.tenants;
    let mut all: Vec<_> = registry.tenants().map(|tenant| (tenant.id.clone(), tenant.limits.retention)).collect();
    for row in ledger.created_tenants().await? {
        if let Some(plan) = registry.plan(&row.plan).filter(|plan| registry.suits_made_tenants(plan)) {
            all.push((row.id, plan.limits.retention));
        }
    }
    for row in ledger.managed_state().await?.tenants {
        if registry.tenant(&row.id).is_none()
            && let Ok(tenant) = compiled(&row, registry)
        {
            all.push((row.id, tenant.limits.retention));
        }
    }
    Ok(all)
}

/// One line for each thing that went.
fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let verb = if report.dry_run { "would go" } else { "removed" };
    for tenant in &report.tenants {
        line(out, tenant.tenant.as_str(), &tenant.removed)?;
    }
    if report.more_tenants > 0 {
        writeln!(out, "and {} more tenants", report.more_tenants)?;
    }
    line(out, verb, &report.sum)?;
    if !report.dry_run {
        let of = |amount: Amount| format!("{} ({} bytes)", amount.count, amount.bytes);
        writeln!(out, "contents that nobody has any more: {}; graphs: {}", of(report.blobs), of(report.graphs))?;
        writeln!(out, "old refusals: {}; keys that ended long ago: {}", report.refusals, report.keys)?;
    }
    for backend in &report.backends {
        let error = backend.error.as_deref().map(|error| format!("; not all: {error}")).unwrap_or_default();
        writeln!(out, "{}: {} files ({} bytes){error}", backend.backend, backend.files.count, backend.files.bytes)?;
    }
    if report.unfinished {
        writeln!(out, "the gateway stops: the rest goes with its next run")?;
    }
    Ok(())
}

fn line(out: &mut impl Write, name: &str, removed: &Removed) -> io::Result<()> {
    let mut results = removed.results_by_age;
    results += removed.results_by_bytes;
    writeln!(
        out,
        "{name}: {} results ({} bytes), {} uploads ({} bytes), {} entries of the history",
        results.count, results.bytes, removed.uploads.count, removed.uploads.bytes, removed.history.count
    )
}
