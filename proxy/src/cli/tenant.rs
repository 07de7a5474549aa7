//! `comfygate tenant list|show|create|set|delete|disable|enable|pause|resume|erase|export`: through the control socket of a running gateway, else in the ledger itself.

use super::key::audit_target;
use super::{ConfigArgument, Exit, export};
use crate::admin::control_client::ControlClient;
use crate::admin::halts::{self, Act, HaltRequest};
use crate::admin::tenants::{
    ApiError, TenantDetail, TenantSource, TenantView, comes_again, detail, unknown, views, was_deleted,
};
use crate::clock::Clock;
use crate::config::Config;
use crate::ids::TenantId;
use crate::record::audit::Audit;
use crate::record::ledger::halts::{Halted, Halts};
use crate::record::ledger::managed::ManagedRows;
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::record::ledger::sessions::{Sessions, WhoseSessions};
use crate::record::ledger::tenants::Tenants;
use crate::record::ledger::{Ledger, LedgerError};
use crate::record::state_dir;
use crate::retention::{Erasure, erase_tenant};
use crate::tenants::AllTenants;
use crate::tenants::created::CreatedTenants;
use crate::tenants::in_force::From;
use crate::tenants::managed::{ManagedTenants, PutError, PutOptions};
use crate::tenants::written::TenantSpec;
use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;
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
    /// Take an id also that was deleted within the last 90 days, or of which something is left (it becomes the new tenant's); and a claim by which tokens made a tenant (what that one has stays there)
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
    /// What the tenant was written as, with these changes.
    fn spec(&self, known: &TenantDetail) -> TenantSpec {
        let text = |new: &Option<String>, known: &Option<String>| match new {
            Some(new) => Some(new.clone()).filter(|new| !new.is_empty()),
            None => known.clone(),
        };
        let mut limits = known.overrides.clone();
        self.unset.iter().for_each(|key| drop(limits.shift_remove(key)));
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
            return change(arguments, &written.id, |_| Ok((written.spec(), Condition::New { reuse: written.reuse })));
        }
        TenantCommand::Set(changes) => {
            return change(arguments, &changes.id, |known| {
                let known = known.filter(|known| known.tenant.source == TenantSource::Api).ok_or_else(|| {
                    anyhow::anyhow!("no tenant `{}` was made here: those of tenants.toml are changed there, those that tokens made by their plan; `comfygate tenant list` says which is which", changes.id)
                })?;
                let version = known.tenant.version.unwrap_or_default();
                Ok((changes.spec(&known), Condition::Version { version, reuse: changes.reuse }))
            });
        }
        TenantCommand::List => None,
        TenantCommand::Disable { id } => Some((id, true)),
        TenantCommand::Enable { id } => Some((id, false)),
        TenantCommand::Pause { id, reason } => return halt(arguments, id, Act::Halt, reason.clone()),
        TenantCommand::Resume { id } => return halt(arguments, id, Act::Resume, None),
    };
    let loaded = Config::load(arguments.which.config.as_deref())
        .map_err(|errors| anyhow::anyhow!("the configuration has faults:\n{errors}"))?;
    let config = loaded.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let reached = Reached::reach(&config)?;
        let Some((id, disabled)) = wanted else {
            for view in reached.list(&config).await? {
                print(&view, arguments.json);
            }
            return Ok(Exit::Good);
        };
        match reached.set_disabled(id, disabled).await? {
            Some(view) => {
                print(&view, arguments.json);
                Ok(Exit::Good)
            }
            None if config.tenants.tenant(id).is_some() => {
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

fn load(arguments: &TenantArguments) -> anyhow::Result<Config> {
    let loaded = Config::load(arguments.which.config.as_deref());
    Ok(loaded.map_err(|errors| anyhow::anyhow!("the configuration has faults:\n{errors}"))?.config)
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
    let config = load(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let erased = runtime.block_on(async {
        match Reached::reach(&config)? {
            Reached::Gateway(client) => Ok::<_, anyhow::Error>(client.erase_tenant(id, deletes).await?),
            Reached::Ledger(ledger, audit) => erased_here(&config, ledger, &audit, id, deletes).await,
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
    println!(
        "{} `{id}`: {} results, {} uploads, {} entries of the history, {rows} other rows, {} files at backends",
        if *deleted { "deleted" } else { "erased of" },
        removed.results_by_age.count,
        removed.uploads.count,
        removed.history.count,
        backend_files.count
    );
    not_cleaned.iter().for_each(|line| println!("not cleaned: {line}"));
    Ok(Exit::Good)
}

/// Why there is nothing to delete, or to erase, of an id, or why it would not last. `None`: there is.
async fn nothing_of(
    config: &Config,
    ledger: &Arc<RedbLedger>,
    audit: &Audit,
    id: &TenantId,
    deletes: bool,
) -> anyhow::Result<Option<String>> {
    let managed = managed(ledger, audit).await?;
    let is_there = if deletes {
        managed.row(id).is_some()
    } else {
        detail(&all(config, ledger, audit).await?, id, false).is_some()
            || managed.is_erasing(id)
            || managed.leftovers(id).await?.is_some()
    };
    let gone = || managed.deleted_at(id).map_or_else(|| unknown(id, deletes), |at| was_deleted(id, at));
    let row = managed.row(id).filter(|_| deletes && config.tenants.tenant(id).is_none());
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
    let deleted = managed.end_erasure(id, || config.tenants.tenant(id).is_some()).await?;
    if deleted {
        audit.tenant_deleted(id);
    }
    audit.written();
    println!("their contents go from the disk with the next runs of `comfygate retention`");
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

/// Only if it is so still.
enum Condition {
    New { reuse: bool },
    Version { version: u64, reuse: bool },
}

fn show(id: &TenantId, arguments: &TenantArguments) -> anyhow::Result<Exit> {
    let config = load(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(async {
        let reached = Reached::reach(&config)?;
        match reached.detail(&config, id).await? {
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
            let unknown = || format!("there is no tenant `{id}`: `comfygate tenant list` shows them");
            eprintln!("comfygate: {}", deleted.unwrap_or_else(unknown));
            Ok(Exit::No)
        }
    }
}

/// Writes a tenant, as `wanted` says by what is known of it.
fn change(
    arguments: &TenantArguments,
    id: &TenantId,
    wanted: impl FnOnce(Option<TenantDetail>) -> anyhow::Result<(TenantSpec, Condition)>,
) -> anyhow::Result<Exit> {
    let config = load(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let written = runtime.block_on(async {
        let reached = Reached::reach(&config)?;
        let (spec, condition) = wanted(reached.detail(&config, id).await?)?;
        reached.put(&config, id, spec, &condition).await
    })?;
    match written {
        Ok(detail) => {
            print_detail(&detail, arguments.json);
            Ok(Exit::Good)
        }
        Err(error) => {
            eprintln!("comfygate: {}", error.error);
            for fault in &error.faults {
                eprintln!("  {}: {}", fault.pointer, fault.message);
            }
            Ok(Exit::No)
        }
    }
}

fn halt(arguments: &TenantArguments, id: &TenantId, act: Act, reason: Option<String>) -> anyhow::Result<Exit> {
    let request = HaltRequest { reason };
    if let Some(fault) = request.fault() {
        anyhow::bail!("{fault}");
    }
    let config = Config::load(arguments.which.config.as_deref())
        .map_err(|errors| anyhow::anyhow!("the configuration has faults:\n{errors}"))?
        .config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let view = runtime.block_on(async {
        let reached = Reached::reach(&config)?;
        let halted = Halted::Tenant(id.clone());
        match &reached {
            Reached::Gateway(client) => {
                return Ok(client.halt::<TenantView>(&halted, act, &request).await?);
            }
            Reached::Ledger(..) if !reached.list(&config).await?.iter().any(|view| view.id == *id) => {}
            Reached::Ledger(ledger, audit) => {
                halts::act(&**ledger, audit, halted, act, request.reason, Clock::system().wall()).await?;
                audit.written();
            }
        }
        anyhow::Ok(reached.list(&config).await?.into_iter().find(|view| view.id == *id))
    })?;
    match view {
        Some(view) => {
            print(&view, arguments.json);
            Ok(Exit::Good)
        }
        None => {
            eprintln!("comfygate: there is no tenant `{id}`: `comfygate tenant list` shows them");
            Ok(Exit::No)
        }
    }
}

/// The running gateway, or its ledger while it does not run: whoever has the lock.
enum Reached {
    Gateway(ControlClient),
    Ledger(Arc<RedbLedger>, Audit),
}

impl Reached {
    fn reach(config: &Config) -> anyhow::Result<Self> {
        state_dir::take(&config.state_dir)?;
        match RedbLedger::open(&config.state_dir, RedbOptions::default()) {
            // Before anything is changed: what can't be audited is not done.
            Ok(ledger) => Ok(Self::Ledger(Arc::new(ledger), Audit::open(&audit_target(config), Clock::system())?)),
            Err(LedgerError::Held { .. }) => {
                Ok(Self::Gateway(ControlClient::new(config.state_dir.join(crate::admin::CONTROL_SOCKET))))
            }
            Err(error) => Err(error).context("the ledger can't be opened"),
        }
    }

    async fn list(&self, config: &Config) -> anyhow::Result<Vec<TenantView>> {
        Ok(match self {
            Self::Gateway(client) => client.tenants().await?,
            Self::Ledger(ledger, audit) => {
                let halted: Vec<Halted> = ledger.halts().await?.into_iter().map(|row| row.halted).collect();
                views(&all(config, ledger, audit).await?, |id| halted.contains(&Halted::Tenant(id.clone())))
            }
        })
    }

    async fn detail(&self, config: &Config, id: &TenantId) -> anyhow::Result<Option<TenantDetail>> {
        Ok(match self {
            Self::Gateway(client) => client.tenant(id).await?,
            Self::Ledger(ledger, audit) => {
                let halted = ledger.halts().await?.into_iter().any(|row| row.halted == Halted::Tenant(id.clone()));
                detail(&all(config, ledger, audit).await?, id, halted)
            }
        })
    }

    /// What is said of one that was deleted.
    async fn deleted(&self, id: &TenantId) -> anyhow::Result<Option<String>> {
        Ok(match self {
            Self::Gateway(client) => client.deleted_tenant(id).await?,
            Self::Ledger(ledger, audit) => managed(ledger, audit).await?.deleted_at(id).map(|at| was_deleted(id, at)),
        })
    }

    async fn put(
        &self,
        config: &Config,
        id: &TenantId,
        spec: TenantSpec,
        condition: &Condition,
    ) -> anyhow::Result<Result<TenantDetail, ApiError>> {
        match self {
            Self::Gateway(client) => {
                let (if_version, reuse) = match condition {
                    Condition::New { reuse } => (None, *reuse),
                    Condition::Version { version, reuse } => (Some(*version), *reuse),
                };
                Ok(client.put_tenant(id, &spec, if_version, reuse).await?)
            }
            Self::Ledger(ledger, audit) => {
                let managed = managed(ledger, audit).await?;
                if matches!(condition, Condition::New { .. }) && managed.row(id).is_some() {
                    return Ok(Err(ApiError::new("stale", format!("there is a tenant `{id}` already"))));
                }
                let options = match condition {
                    Condition::New { reuse } => PutOptions { if_version: None, reuse: *reuse },
                    Condition::Version { version, reuse } => PutOptions { if_version: Some(*version), reuse: *reuse },
                };
                match managed.put(id, spec, &options, &all(config, ledger, audit).await?).await {
                    Ok(done) => {
                        audit.written();
                        let found = self.detail(config, id).await?.context("the tenant is not there any more")?;
                        Ok(Ok(TenantDetail { warnings: done.warnings().to_vec(), ..found }))
                    }
                    Err(PutError::Faulty(faults)) => {
                        Ok(Err(ApiError { faults, ..ApiError::new("faulty", "the tenant is faulty") }))
                    }
                    Err(error) => Ok(Err(ApiError::new("refused", error.to_string()))),
                }
            }
        }
    }

    async fn set_disabled(&self, id: &TenantId, disabled: bool) -> anyhow::Result<Option<TenantView>> {
        Ok(match self {
            Self::Gateway(client) => client.disable_tenant(id, disabled).await?,
            Self::Ledger(ledger, audit) => {
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

fn print(view: &TenantView, json: bool) {
    if json {
        println!("{}", serde_json::json!(view));
        return;
    }
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
    // A claim is a stranger's text: no control characters reach the terminal.
    let name: String = view.name.iter().flat_map(|name| name.chars()).flat_map(escaped).collect();
    println!("{:<26}  {:<8} {:<5} {:<16} {name}", view.id, standing, source, view.plan);
}

fn print_detail(detail: &TenantDetail, json: bool) {
    if json {
        println!("{}", serde_json::json!(detail));
        return;
    }
    print(&detail.tenant, false);
    if let Some(reason) = &detail.tenant.closed {
        println!("closed: {reason}");
    }
    for (key, limit) in &detail.limits {
        let from = if limit.from == From::Override { "its own" } else { "plan" };
        let value: String = limit.value.to_string().chars().flat_map(escaped).collect();
        println!("  {key:<20} {value:<40} {from}");
    }
    detail.warnings.iter().for_each(|warning| eprintln!("doubtful: {}: {}", warning.pointer, warning.message));
}

fn escaped(character: char) -> Vec<char> {
    if character.is_control() { character.escape_default().collect() } else { vec![character] }
}
