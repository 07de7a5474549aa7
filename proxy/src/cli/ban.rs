//! `comfygate policy ban|unban|bans`: node classes that are denied at once, for every tenant, over every policy.

use super::key::audit_target;
use super::reach::{self, Here, NoState};
use super::{ConfigArgument, Exit};
use crate::admin::control_client::ControlClient;
use crate::admin::refusals::{self, BanRequest, LiftRequest};
use crate::admin::table::Table;
use crate::clock::Clock;
use crate::record::audit::Audit;
use crate::record::ledger::bans::{BanRow, Bans};
use anyhow::bail;
use clap::Args;
use comfygate_policy::Catalogue;

/// `comfygate policy ban`
#[derive(Debug, Args)]
pub struct BanArguments {
    /// The node class, exactly as workflows name it (`class_type`)
    class: String,
    /// Why: whoever submits it reads this
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    which: ConfigArgument,
}

/// `comfygate policy unban`
#[derive(Debug, Args)]
pub struct UnbanArguments {
    /// The node class
    class: String,
    #[command(flatten)]
    which: ConfigArgument,
}

/// `comfygate policy bans`
#[derive(Debug, Args)]
pub struct BansArguments {
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: ConfigArgument,
}

/// Bans a class. Jobs that wait with it are failed by the running gateway, or by the next one before they run.
///
/// # Errors
/// When the class or the reason is odd, or neither the gateway nor its ledger can be reached.
pub fn ban(arguments: &BanArguments) -> anyhow::Result<Exit> {
    let request = BanRequest { class: arguments.class.clone(), reason: arguments.reason.clone() };
    if let Some((_, fault)) = request.fault() {
        bail!("{fault}");
    }
    let row = with(&arguments.which, async |reached| {
        Ok(match reached {
            Reached::Gateway(client) => client.ban(&request).await?,
            Reached::Ledger(here, audit) => {
                let row = refusals::ban(&*here.ledger, &audit, &request, Clock::system().wall()).await?;
                audit.written();
                row
            }
        })
    })?;
    println!("`{}` is banned: every workflow with it is refused, and jobs that wait with it are failed", row.class);
    if Catalogue::builtin().class(&row.class).is_none() {
        println!("no class of ComfyUI's own is called so: unless a pack's is, `comfygate policy unban` takes it back");
    }
    Ok(Exit::Good)
}

/// Lifts a ban. The answer is no if there is none.
///
/// # Errors
/// When neither the gateway nor its ledger can be reached.
pub fn unban(arguments: &UnbanArguments) -> anyhow::Result<Exit> {
    let class = &arguments.class;
    let lifted = with(&arguments.which, async |reached| {
        Ok(match reached {
            Reached::Gateway(client) => client.lift_ban(&LiftRequest { class: class.clone() }).await?,
            Reached::Ledger(here, audit) => {
                let lifted = refusals::lift(&*here.ledger, &audit, class).await?;
                audit.written();
                lifted
            }
        })
    })?;
    if lifted {
        println!("`{class}` is not banned any more: the policies decide");
        Ok(Exit::Good)
    } else {
        eprintln!("comfygate: `{class}` is not banned: `comfygate policy bans` lists what is");
        Ok(Exit::No)
    }
}

/// Lists the bans.
///
/// # Errors
/// When neither the gateway nor its ledger can be reached.
pub fn bans(arguments: &BansArguments) -> anyhow::Result<Exit> {
    let rows: Vec<BanRow> = with(&arguments.which, async |reached| {
        Ok(match reached {
            Reached::Gateway(client) => client.bans().await?,
            Reached::Ledger(here, _) => here.ledger.bans().await?,
        })
    })?;
    if arguments.json {
        rows.iter().for_each(|row| println!("{}", serde_json::json!(row)));
        return Ok(Exit::Good);
    }
    let mut table = Table::new(["class", "reason"]);
    rows.iter().for_each(|row| table.line([&row.class, row.reason.as_deref().unwrap_or_default()]));
    print!("{}", table.text());
    Ok(Exit::Good)
}

/// The running gateway, or its ledger while it does not run.
pub(super) enum Reached {
    Gateway(ControlClient),
    Ledger(Here, Audit),
}

/// Whoever can be told: before anything is changed, since what can't be audited is not done.
pub(super) fn reached(which: &ConfigArgument) -> anyhow::Result<Reached> {
    Ok(match reach::reach(which, NoState::Refused)? {
        reach::Reached::Gateway(client) => Reached::Gateway(client),
        reach::Reached::Here(here) => {
            let audit = Audit::open(&audit_target(&here.config), Clock::system())?;
            Reached::Ledger(here, audit)
        }
    })
}

fn with<T>(which: &ConfigArgument, act: impl AsyncFnOnce(Reached) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(act(reached(which)?))
}
