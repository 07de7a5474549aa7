//! `comfygate tenant list|show|create|set|delete|disable|enable|pause|resume|erase|export`: through the control socket of a running gateway, else in the ledger itself.

use super::key::{audit_target, span};
use super::reach::{self, Here, NoState, reach};
use super::{ConfigArgument, Exit, export};
use crate::admin::api_error::{ApiError, Code, Refused};
use crate::admin::control_client::ControlClient;
use crate::admin::halts::{self, Act, HaltRequest};
use crate::admin::table::Table;
use crate::admin::tenants::{
    TenantDetail, TenantSource, TenantView, comes_again, detail, not_deleted_in_file, unknown, views, was_deleted,
};
use crate::clock::{Clock, WallMillis};
use crate::config::Config;
use crate::ids::TenantId;
use crate::record::audit::Audit;
use crate::record::ledger::halts::{Halted, Halts};
use crate::record::ledger::keeping::{Amount, Removed};
use crate::record::ledger::managed::{ErasureRow, ManagedRows};
use crate::record::ledger::redb::RedbLedger;
use crate::record::ledger::sessions::{Sessions, WhoseSessions};
use crate::record::ledger::tenants::Tenants;
use crate::record::ledger::{Ledger, LedgerError};
use crate::retention::{Erasure, erase_tenant};
use crate::tenants::AllTenants;
use crate::tenants::created::CreatedTenants;
use crate::tenants::in_force::From;
use crate::tenants::managed::{ManagedTenants, OnlyIf, PutError, PutOptions};
use crate::tenants::written::{TenantSpec, key_fault};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// `comfygate tenant …`
#[derive(Debug, Args)]
pub struct TenantArguments {
    #[command(subcommand)]
    command: TenantCommand,
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Show every tenant: those of the tenants file, those that were made here, and those that tokens made
    List,
    /// Show one tenant, with its limits in force and where each comes from
    Show {
        /// The tenant's id
        id: TenantId,
    },
    /// Make a tenant on a plan of the tenants file
    Create(Written),
    /// Change a tenant that was made here; what is not named stays
    Set(Changes),
    /// Close a tenant that was made here, end its jobs, and remove all that it has, and itself
    Delete {
        /// The tenant's id
        id: TenantId,
        /// Nothing of it comes back: without this nothing is removed
        #[arg(long)]
        yes: bool,
    },
    /// Refuse the credentials of a tenant that is not in the tenants file; its jobs and files stay
    Disable {
        /// The tenant's id
        id: TenantId,
    },
    /// Let a disabled tenant in again
    Enable {
        /// The tenant's id
        id: TenantId,
    },
    /// Remove all that a tenant has: files, history, uploads, userdata, keys, sessions; the tenant stays, and the sums of what it has used
    Erase {
        /// The tenant's id
        id: TenantId,
        /// Nothing of it comes back: without this nothing is removed
        #[arg(long)]
        yes: bool,
    },
    /// Let the held jobs of a tenant wait, and what it submits from now on; what runs ends
    Pause {
        /// The tenant's id
        id: TenantId,
        /// Why: the audit log has it
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a paused tenant's jobs run again
    Resume {
        /// The tenant's id
        id: TenantId,
    },
    /// Write workflows, settings, inputs and outputs into a directory, as a ComfyUI has them
    Export(export::ExportArguments),
}

/// `comfygate tenant create …`
#[derive(Debug, Args)]
struct Written {
    /// The tenant's id: 1 to 63 of a-z, 0-9, `_`, `-`
    id: TenantId,
    /// The plan, by its name in the tenants file
    #[arg(long)]
    plan: String,
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// The value of an issuer's tenant claim that means this tenant, where that is not the id
    #[arg(long)]
    claim: Option<String>,
    /// A key of its plan that it has otherwise, such as weight=2, retention=24h or users=shared; a list or table as JSON
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, Value)>,
    /// Take an id also that was deleted within the last 90 days, that was deleted and that the configuration still names, or of which something is left (it becomes the new tenant's); and a claim by which tokens made a tenant (what that one has stays there)
    #[arg(long)]
    reuse: bool,
}

/// `comfygate tenant set …`
#[derive(Debug, Args)]
struct Changes {
    /// The tenant's id
    id: TenantId,
    /// Another plan
    #[arg(long)]
    plan: Option<String>,
    /// Another name for people; an empty one takes it away
    #[arg(long)]
    name: Option<String>,
    /// Another claim; an empty one takes it away
    #[arg(long)]
    claim: Option<String>,
    /// A key of its plan that it has otherwise
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, Value)>,
    /// A key that it has as its plan again
    #[arg(long = "unset", value_name = "KEY")]
    unset: Vec<String>,
    /// Take a claim also by which tokens made a tenant: what that one has stays there
    #[arg(long)]
    reuse: bool,
}

/// `weight=2`: the value as JSON if it is some, else as a text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as weight=2")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((key.trim().to_owned(), value))
}

/// Refuses a key that is named twice: which one was meant can't be told.
///
/// # Errors
/// Names the key.
fn once(set: &[(String, Value)], unset: &[String]) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    let names = set.iter().map(|(key, _)| key.as_str()).chain(unset.iter().map(|key| key.trim()));
    match names.into_iter().find(|name| !seen.insert(*name)) {
        Some(twice) => anyhow::bail!("`{twice}` is set or unset twice: name it once"),
        None => Ok(()),
    }
}

impl Written {
    fn spec(&self) -> TenantSpec {
        TenantSpec {
            plan: self.plan.clone(),
            name: self.name.clone(),
            claim: self.claim.clone(),
            disabled: None,
            limits: self.set.iter().cloned().collect(),
        }
    }
}

impl Changes {
    /// What is wrong with a key that is to be unset: a slip must not look as if it were done. One that an older release took goes all the same.
    fn unset_fault(&self, known: &TenantDetail) -> Option<String> {
        let mut keys = self.unset.iter().map(|key| key.trim()).filter(|key| !known.overrides.contains_key(*key));
        keys.find_map(|key| Some(format!("`{key}` {}", key_fault(key)?)))
    }

    /// What the tenant was written as, with these changes.
    fn spec(&self, known: &TenantDetail) -> TenantSpec {
        let text = |new: &Option<String>, known: &Option<String>| match new {
            Some(new) => Some(new.clone()).filter(|new| !new.is_empty()),
            None => known.clone(),
        };
        let mut limits = known.overrides.clone();
        self.unset.iter().for_each(|key| drop(limits.shift_remove(key.trim())));
        limits.extend(self.set.iter().cloned());
        TenantSpec {
            plan: self.plan.clone().unwrap_or_else(|| known.tenant.plan.clone()),
            name: text(&self.name, &known.tenant.name),
            claim: text(&self.claim, &known.tenant.claim),
            disabled: None,
            limits,
        }
    }
}

/// Runs `comfygate tenant …`.
///
/// # Errors
/// When the configuration has faults, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &TenantArguments) -> anyhow::Result<Exit> {
    let wanted = match &arguments.command {
        TenantCommand::Export(wanted) => return export::run(wanted, &arguments.which, arguments.json),
        TenantCommand::Erase { id, yes } => return erase(id, *yes, false, arguments),
        TenantCommand::Delete { id, yes } => return erase(id, *yes, true, arguments),
        TenantCommand::Show { id } => return show(id, arguments),
        TenantCommand::Create(written) => {
            once(&written.set, &[])?;
            return change(arguments, &written.id, NoState::Made, |_| {
                Ok((written.spec(), PutOptions { only_if: OnlyIf::New, reuse: written.reuse }))
            });
        }
        TenantCommand::Set(changes) => {
            once(&changes.set, &changes.unset)?;
            return change(arguments, &changes.id, NoState::Refused, |known| {
                let known = known.filter(|known| known.tenant.source == TenantSource::Api).ok_or_else(|| {
                    format!("no tenant `{}` was made here: those of tenants.toml are changed there, those that tokens made by their plan; `comfygate tenant list` says which is which", changes.id)
                })?;
                if let Some(fault) = changes.unset_fault(&known) {
                    return Err(fault);
                }
                let only_if = OnlyIf::At(known.tenant.version.unwrap_or_default());
                Ok((changes.spec(&known), PutOptions { only_if, reuse: changes.reuse }))
            });
        }
        TenantCommand::List => None,
        TenantCommand::Disable { id } => Some((id, true)),
        TenantCommand::Enable { id } => Some((id, false)),
        TenantCommand::Pause { id, reason } => return halt(arguments, id, Act::Halt, reason.clone()),
        TenantCommand::Resume { id } => return halt(arguments, id, Act::Resume, None),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let reached = Reached::reach(arguments, NoState::Refused)?;
        let Some((id, disabled)) = wanted else {
            print(&reached.list().await?, arguments.json);
            return Ok(Exit::Good);
        };
        match reached.set_disabled(id, disabled).await? {
            Some(view) => {
                print(&[view], arguments.json);
                Ok(Exit::Good)
            }
            None if reached.has_in_file(id).await? => {
                eprintln!("comfygate: `{id}` is a tenant of the configuration: set `disabled` there");
                Ok(Exit::No)
            }
            None => {
                eprintln!(
                    "comfygate: no tenant `{id}` was made here or by a token: `comfygate tenant list` shows them"
                );
                Ok(Exit::No)
            }
        }
    })
}

/// The answer is no without `--yes`, and while jobs of the tenant have not ended and no gateway runs that could end them.
fn erase(id: &TenantId, yes: bool, deletes: bool, arguments: &TenantArguments) -> anyhow::Result<Exit> {
    if !yes {
        let itself = if deletes { ", and the tenant itself," } else { "" };
        eprintln!(
            "comfygate: this removes all files, history, uploads, userdata, keys and sessions of `{id}`{itself} for good: say --yes"
        );
        return Ok(Exit::No);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let erased = runtime.block_on(async {
        match Reached::reach(arguments, NoState::Refused)? {
            Reached::Gateway(client) => Ok::<_, anyhow::Error>(client.erase_tenant(id, deletes).await?),
            Reached::Ledger(Here { config, ledger }, audit) => erased_here(&config, ledger, &audit, id, deletes).await,
        }
    })?;
    let erasure = match erased {
        // Whoever meant another id must not think that it is gone now.
        Ok(Erasure { deleted_at: Some(at), .. }) => {
            eprintln!("comfygate: {}", was_deleted(id, at));
            return Ok(Exit::No);
        }
        Ok(erasure) => erasure,
        Err(reason) => {
            eprintln!("comfygate: {reason}");
            return Ok(Exit::No);
        }
    };
    if arguments.json {
        println!("{}", serde_json::json!(erasure));
        return Ok(Exit::Good);
    }
    let Erasure { removed, rows, backend_files, not_cleaned, deleted, .. } = &erasure;
    let done = if *deleted { "deleted" } else { "erased of" };
    println!("{done} `{id}`: {}", counts(removed, *rows, backend_files));
    not_cleaned.iter().for_each(|line| println!("not cleaned: {line}"));
    Ok(Exit::Good)
}

/// What went.
fn counts(removed: &Removed, rows: u64, backend_files: &Amount) -> String {
    format!(
        "{} results, {} uploads, {} entries of the history, {rows} other rows, {} files at backends",
        removed.results_by_age.count, removed.uploads.count, removed.history.count, backend_files.count
    )
}

/// How far an erasure is that goes on.
fn progress(row: &ErasureRow, now: WallMillis) -> String {
    let ErasureRow { since, deletes, removed, rows, backend_files, .. } = row;
    let what = if *deletes { "being deleted" } else { "being erased" };
    format!("{what} for {}, until now: {}", span(now.since(*since)), counts(removed, *rows, backend_files))
}

/// Why there is nothing to delete, or to erase, of an id, or why it would not last. `None`: there is.
async fn nothing_of(
    config: &Config,
    ledger: &Arc<RedbLedger>,
    audit: &Audit,
    id: &TenantId,
    deletes: bool,
) -> anyhow::Result<Option<String>> {
    if deletes && config.tenants.tenant(id).is_some() {
        // What it has is the file's tenant's, whoever made the id first.
        return Ok(Some(not_deleted_in_file(id)));
    }
    let managed = managed(ledger, audit).await?;
    let is_there = if deletes {
        managed.row(id).is_some()
    } else {
        detail(&all(config, ledger, audit).await?, id, false).is_some()
            || managed.is_erasing(id)
            || managed.leftovers(id).await?.is_some()
    };
    let gone =
        || managed.deleted_at(id, &config.tenants).map_or_else(|| unknown(id, deletes), |at| was_deleted(id, at));
    let row = managed.row(id).filter(|_| deletes);
    let again = || row.and_then(|row| comes_again(config, &row));
    Ok(if is_there { again() } else { Some(gone()) })
}

/// On the ledger itself. What is left undone here the gateway goes on with at its next start.
async fn erased_here(
    config: &Config,
    ledger: Arc<RedbLedger>,
    audit: &Audit,
    id: &TenantId,
    deletes: bool,
) -> anyhow::Result<Result<Erasure, String>> {
    let clock = Clock::system();
    let managed = managed(&ledger, audit).await?;
    if let Some(reason) = nothing_of(config, &ledger, audit, id, deletes).await? {
        return Ok(Err(reason));
    }
    let active = ledger.active_jobs().await?.iter().filter(|job| job.owner.tenant == *id).count();
    if active > 0 {
        return Ok(Err(format!("{active} jobs of `{id}` have not ended: start the gateway, which ends them")));
    }
    managed.begin_erasure(id, deletes).await?;
    let erasure = erase_tenant(&*ledger, &config.backends, id, clock.wall()).await?;
    audit.tenant_erased(&erasure);
    let deleted = managed.end_erasure(id, || Arc::clone(&config.tenants)).await?;
    if deleted {
        audit.tenant_deleted(id);
    }
    audit.written();
    // Not on standard output, which is JSON where that was asked for.
    eprintln!("comfygate: their contents go from the disk with the next runs of `comfygate retention`");
    Ok(Ok(Erasure { deleted, ..erasure }))
}

pub(super) async fn managed(ledger: &Arc<RedbLedger>, audit: &Audit) -> anyhow::Result<ManagedTenants> {
    let store = Arc::clone(ledger) as Arc<dyn ManagedRows>;
    Ok(ManagedTenants::load(store, audit.clone(), Clock::system()).await?)
}

/// Every tenant, as a gateway would find them.
async fn all(config: &Config, ledger: &Arc<RedbLedger>, audit: &Audit) -> anyhow::Result<AllTenants> {
    let (managed, store) = (managed(ledger, audit).await?, Arc::clone(ledger) as Arc<dyn Tenants>);
    let created = CreatedTenants::load(store, audit.clone(), Clock::system()).await?;
    Ok(AllTenants::new(Arc::clone(&config.tenants), Arc::new(managed), Arc::new(created), u32::MAX))
}

fn show(id: &TenantId, arguments: &TenantArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(async {
        let reached = Reached::reach(arguments, NoState::Refused)?;
        match reached.detail(id).await? {
            Some(detail) => anyhow::Ok(Ok(detail)),
            None => Ok(Err(reached.deleted(id).await?)),
        }
    })?;
    match found {
        Ok(detail) => {
            print_detail(&detail, arguments.json);
            Ok(Exit::Good)
        }
        Err(deleted) => {
            match deleted {
                Some(told) => eprintln!("comfygate: {told}"),
                None => reach::tell_unknown(id),
            }
            Ok(Exit::No)
        }
    }
}

/// Writes a tenant, as `wanted` says by what is known of it; that may be an answer of no, with its reason.
fn change(
    arguments: &TenantArguments,
    id: &TenantId,
    no_state: NoState,
    wanted: impl FnOnce(Option<TenantDetail>) -> Result<(TenantSpec, PutOptions), String>,
) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let written = runtime.block_on(async {
        let reached = Reached::reach(arguments, no_state)?;
        match wanted(reached.detail(id).await?) {
            Ok((spec, options)) => reached.put(id, spec, &options).await,
            Err(reason) => Ok(Err(ApiError::new(Code::NotFound, reason))),
        }
    })?;
    match written {
        Ok(detail) => {
            print_detail(&detail, arguments.json);
            Ok(Exit::Good)
        }
        Err(error) => {
            eprintln!("comfygate: {error}");
            Ok(Exit::No)
        }
    }
}

fn halt(arguments: &TenantArguments, id: &TenantId, act: Act, reason: Option<String>) -> anyhow::Result<Exit> {
    let request = HaltRequest { reason };
    if let Some(fault) = request.fault() {
        anyhow::bail!("{fault}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let view = runtime.block_on(async {
        let reached = Reached::reach(arguments, NoState::Refused)?;
        let halted = Halted::Tenant(id.clone());
        match &reached {
            Reached::Gateway(client) => {
                return Ok(client.halt::<TenantView>(&halted, act, &request).await?);
            }
            Reached::Ledger(..) if !reached.list().await?.iter().any(|view| view.id == *id) => {}
            Reached::Ledger(here, audit) => {
                halts::act(&*here.ledger, audit, halted, act, request.reason, Clock::system().wall()).await?;
                audit.written();
            }
        }
        anyhow::Ok(reached.list().await?.into_iter().find(|view| view.id == *id))
    })?;
    match view {
        Some(view) => {
            print(&[view], arguments.json);
            Ok(Exit::Good)
        }
        None => {
            reach::tell_unknown(id);
            Ok(Exit::No)
        }
    }
}

/// The running gateway, or its ledger while it does not run: whoever has the lock.
enum Reached {
    Gateway(ControlClient),
    Ledger(Here, Audit),
}

impl Reached {
    fn reach(arguments: &TenantArguments, no_state: NoState) -> anyhow::Result<Self> {
        Ok(match reach(&arguments.which, no_state)? {
            reach::Reached::Gateway(client) => Self::Gateway(client),
            reach::Reached::Here(here) => {
                // Before anything is changed: what can't be audited is not done.
                let audit = Audit::open(&audit_target(&here.config), Clock::system())?;
                Self::Ledger(here, audit)
            }
        })
    }

    /// Whether it is one of the tenants file.
    async fn has_in_file(&self, id: &TenantId) -> anyhow::Result<bool> {
        let detail = self.detail(id).await?;
        Ok(detail.is_some_and(|detail| detail.tenant.source == TenantSource::File))
    }

    async fn list(&self) -> anyhow::Result<Vec<TenantView>> {
        Ok(match self {
            Self::Gateway(client) => client.tenants().await?,
            Self::Ledger(Here { config, ledger }, audit) => {
                let halted: Vec<Halted> = ledger.halts().await?.into_iter().map(|row| row.halted).collect();
                views(&all(config, ledger, audit).await?, |id| halted.contains(&Halted::Tenant(id.clone())))
            }
        })
    }

    async fn detail(&self, id: &TenantId) -> anyhow::Result<Option<TenantDetail>> {
        Ok(match self {
            Self::Gateway(client) => client.tenant(id).await?,
            Self::Ledger(Here { config, ledger }, audit) => {
                let halted = ledger.halts().await?.into_iter().any(|row| row.halted == Halted::Tenant(id.clone()));
                detail(&all(config, ledger, audit).await?, id, halted)
            }
        })
    }

    /// What is said of one that was deleted.
    async fn deleted(&self, id: &TenantId) -> anyhow::Result<Option<String>> {
        Ok(match self {
            Self::Gateway(client) => client.deleted_tenant(id).await?,
            Self::Ledger(Here { config, ledger }, audit) => {
                let deleted_at = managed(ledger, audit).await?.deleted_at(id, &config.tenants);
                deleted_at.map(|at| was_deleted(id, at))
            }
        })
    }

    async fn put(
        &self,
        id: &TenantId,
        spec: TenantSpec,
        options: &PutOptions,
    ) -> anyhow::Result<Result<TenantDetail, ApiError>> {
        match self {
            Self::Gateway(client) => Ok(client.put_tenant(id, &spec, options).await?),
            Self::Ledger(Here { config, ledger }, audit) => {
                let managed = managed(ledger, audit).await?;
                match managed.put(id, spec, options, &all(config, ledger, audit).await?).await {
                    Ok(done) => {
                        audit.written();
                        let found = self.detail(id).await?.context("the tenant is not there any more")?;
                        Ok(Ok(TenantDetail { warnings: done.warnings().to_vec(), ..found }))
                    }
                    Err(PutError::Faulty(faults)) => {
                        Ok(Err(ApiError { faults, ..ApiError::new(Code::Faulty, "the tenant is faulty") }))
                    }
                    Err(error) => Ok(Err(Refused::from(error).into_error())),
                }
            }
        }
    }

    async fn set_disabled(&self, id: &TenantId, disabled: bool) -> anyhow::Result<Option<TenantView>> {
        Ok(match self {
            Self::Gateway(client) => client.disable_tenant(id, disabled).await?,
            Self::Ledger(Here { ledger, .. }, audit) => {
                if let Some(row) = managed(ledger, audit).await?.set_disabled(id, disabled).await? {
                    end_sessions(ledger, audit, id, disabled).await?;
                    audit.written();
                    return Ok(Some(TenantView::of_managed(&row)));
                }
                match ledger.disable_tenant(id, disabled.then(|| Clock::system().wall())).await {
                    Ok(row) => {
                        audit.tenant_disabled(&row.id, disabled);
                        end_sessions(ledger, audit, id, disabled).await?;
                        audit.written();
                        Some(row.into())
                    }
                    Err(LedgerError::NotFound { .. }) => None,
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }
}

/// Those of a tenant that is closed now.
async fn end_sessions(
    ledger: &Arc<RedbLedger>,
    audit: &Audit,
    id: &TenantId,
    disabled: bool,
) -> Result<(), LedgerError> {
    if disabled {
        let ended = ledger.end_sessions(&WhoseSessions::Tenant(id.clone()), None).await?;
        ended.iter().for_each(|row| audit.session_ended(row.id, &row.owner, "its tenant was disabled"));
    }
    Ok(())
}

fn print(tenants: &[TenantView], json: bool) {
    if json {
        return tenants.iter().for_each(|view| println!("{}", serde_json::json!(view)));
    }
    let mut table = Table::new(["tenant", "state", "from", "plan", "name"]);
    tenants.iter().for_each(|view| table.line(cells(view)));
    print!("{}", table.text());
}

fn cells(view: &TenantView) -> [String; 5] {
    let source = match view.source {
        TenantSource::File => "file",
        TenantSource::Api => "api",
        TenantSource::Token => "token",
    };
    let standing = match view {
        view if view.erasing.is_some() => "erasing",
        view if view.closed.is_some() => "closed",
        view if view.disabled => "disabled",
        view if view.paused => "paused",
        _ => "open",
    };
    let name = view.name.clone().unwrap_or_default();
    [view.id.to_string(), standing.to_owned(), source.to_owned(), view.plan.clone(), name]
}

fn print_detail(detail: &TenantDetail, json: bool) {
    if json {
        println!("{}", serde_json::json!(detail));
        return;
    }
    print(std::slice::from_ref(&detail.tenant), false);
    if let Some(reason) = &detail.tenant.closed {
        println!("closed: {reason}");
    }
    if let Some(row) = &detail.tenant.erasing {
        println!("{}", progress(row, Clock::system().wall()));
    }
    let mut table = Table::new(["limit", "from", "value"]);
    for (key, limit) in &detail.limits {
        let from = if limit.from == From::Override { "its own" } else { "plan" };
        table.line([key.as_str(), from, &limit.value.to_string()]);
    }
    if !detail.limits.is_empty() {
        print!("\n{}", table.text());
    }
    detail.warnings.iter().for_each(|warning| eprintln!("doubtful: {}: {}", warning.pointer, warning.message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_erasure_that_goes_on_tells_since_when_and_what_went() {
        let tenant: TenantId = "zebra".parse().unwrap();
        let begun = ErasureRow::new(tenant, WallMillis(1_000), false);
        let now = WallMillis(181_000);
        assert_eq!(
            progress(&begun, now),
            "being erased for 3 min, until now: 0 results, 0 uploads, 0 entries of the history, 0 other rows, 0 files at backends"
        );
        let amount = |count| Amount { count, ..Amount::default() };
        let removed = Removed { results_by_age: amount(1), uploads: amount(2), history: amount(3), ..begun.removed };
        let row = ErasureRow { deletes: true, removed, rows: 4, backend_files: amount(5), ..begun };
        assert_eq!(
            progress(&row, now),
            "being deleted for 3 min, until now: 1 results, 2 uploads, 3 entries of the history, 4 other rows, 5 files at backends"
        );
    }
}
