//! `comfygate tenant list|disable|enable|pause|resume|erase|export`: through the control socket of a running gateway, else in the ledger itself.

use super::key::audit_target;
use super::{ConfigArgument, Exit, export};
use crate::admin::control_client::ControlClient;
use crate::admin::halts::{self, Act, HaltRequest};
use crate::admin::tenants::{TenantSource, TenantView, views};
use crate::clock::Clock;
use crate::config::Config;
use crate::ids::TenantId;
use crate::record::audit::Audit;
use crate::record::ledger::LedgerError;
use crate::record::ledger::halts::{Halted, Halts};
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::record::ledger::tenants::Tenants;
use crate::record::state_dir;
use crate::retention::{EraseError, Erasure, erase_tenant};
use anyhow::Context;
use clap::{Args, Subcommand};

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
    /// Show every tenant: those of the tenants file, and those that tokens made
    List,
    /// Refuse the credentials of a tenant that a token made; its jobs and files stay
    Disable {
        /// The tenant's id
        id: TenantId,
    },
    /// Let a disabled tenant in again
    Enable {
        /// The tenant's id
        id: TenantId,
    },
    /// Remove all that a tenant has: files, history, uploads, userdata; not its keys, nor what it has used
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

/// Runs `comfygate tenant …`.
///
/// # Errors
/// When the configuration has faults, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &TenantArguments) -> anyhow::Result<Exit> {
    let wanted = match &arguments.command {
        TenantCommand::Export(wanted) => return export::run(wanted, &arguments.which, arguments.json),
        TenantCommand::Erase { id, yes } => return erase(id, *yes, &arguments.which, arguments.json),
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
                eprintln!("comfygate: no token made a tenant `{id}`: `comfygate tenant list` shows them");
                Ok(Exit::No)
            }
        }
    })
}

/// The answer is no without `--yes`, and while jobs of the tenant have not ended.
fn erase(id: &TenantId, yes: bool, which: &ConfigArgument, json: bool) -> anyhow::Result<Exit> {
    if !yes {
        eprintln!("comfygate: this removes all files, history, uploads and userdata of `{id}` for good: say --yes");
        return Ok(Exit::No);
    }
    let config = Config::load(which.config.as_deref())
        .map_err(|errors| anyhow::anyhow!("the configuration has faults:\n{errors}"))?
        .config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let erased = runtime.block_on(async {
        match Reached::reach(&config)? {
            Reached::Gateway(client) => Ok::<_, anyhow::Error>(client.erase_tenant(id).await?),
            Reached::Ledger(ledger, audit) => {
                match erase_tenant(&ledger, &config.backends, id, Clock::system().wall()).await {
                    Ok(erasure) => {
                        audit.tenant_erased(&erasure);
                        audit.written();
                        Ok(Ok(erasure))
                    }
                    Err(EraseError::Ledger(error @ LedgerError::Busy { .. })) => Ok(Err(error.to_string())),
                    Err(error) => Err(error.into()),
                }
            }
        }
    })?;
    let erasure = match erased {
        Ok(erasure) => erasure,
        Err(reason) => {
            eprintln!("comfygate: {reason}");
            return Ok(Exit::No);
        }
    };
    if json {
        println!("{}", serde_json::json!(erasure));
        return Ok(Exit::Good);
    }
    let Erasure { removed, rows, backend_files, not_cleaned, .. } = &erasure;
    println!(
        "erased of `{id}`: {} results, {} uploads, {} entries of the history, {rows} other rows, {} files at backends",
        removed.results_by_age.count, removed.uploads.count, removed.history.count, backend_files.count
    );
    println!("their contents go from the disk with the next runs of `comfygate retention`");
    not_cleaned.iter().for_each(|line| println!("not cleaned: {line}"));
    Ok(Exit::Good)
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
                halts::act(ledger, audit, halted, act, request.reason, Clock::system().wall()).await?;
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
    Ledger(RedbLedger, Audit),
}

impl Reached {
    fn reach(config: &Config) -> anyhow::Result<Self> {
        state_dir::take(&config.state_dir)?;
        match RedbLedger::open(&config.state_dir, RedbOptions::default()) {
            // Before anything is changed: what can't be audited is not done.
            Ok(ledger) => Ok(Self::Ledger(ledger, Audit::open(&audit_target(config), Clock::system())?)),
            Err(LedgerError::Held { .. }) => {
                Ok(Self::Gateway(ControlClient::new(config.state_dir.join(crate::admin::CONTROL_SOCKET))))
            }
            Err(error) => Err(error).context("the ledger can't be opened"),
        }
    }

    async fn list(&self, config: &Config) -> anyhow::Result<Vec<TenantView>> {
        Ok(match self {
            Self::Gateway(client) => client.tenants().await?,
            Self::Ledger(ledger, _) => {
                let halted: Vec<Halted> = ledger.halts().await?.into_iter().map(|row| row.halted).collect();
                let is_paused = |id: &TenantId| halted.contains(&Halted::Tenant(id.clone()));
                views(&config.tenants, ledger.created_tenants().await?, is_paused)
            }
        })
    }

    async fn set_disabled(&self, id: &TenantId, disabled: bool) -> anyhow::Result<Option<TenantView>> {
        Ok(match self {
            Self::Gateway(client) => client.disable_tenant(id, disabled).await?,
            Self::Ledger(ledger, audit) => {
                match ledger.disable_tenant(id, disabled.then(|| Clock::system().wall())).await {
                    Ok(row) => {
                        audit.tenant_disabled(&row.id, disabled);
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

fn print(view: &TenantView, json: bool) {
    if json {
        println!("{}", serde_json::json!(view));
        return;
    }
    let source = match view.source {
        TenantSource::File => "file",
        TenantSource::Token => "token",
    };
    let standing = match (view.disabled, view.paused) {
        (true, _) => "disabled",
        (false, true) => "paused",
        (false, false) => "open",
    };
    // A claim is a stranger's text: no control characters reach the terminal.
    let name: String = view.name.iter().flat_map(|name| name.chars()).flat_map(escaped).collect();
    println!("{:<26}  {:<8} {:<5} {:<16} {name}", view.id, standing, source, view.plan);
}

fn escaped(character: char) -> Vec<char> {
    if character.is_control() { character.escape_default().collect() } else { vec![character] }
}
