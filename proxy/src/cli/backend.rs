//! `comfygate backend list|drain|resume|maintenance`: through the control socket of a running gateway; a halt can also be put into the ledger of a stopped one.

use super::ban::{Reached, reached};
use super::{ConfigArgument, Exit, reach};
use crate::admin::backends::BackendView;
use crate::admin::control_client::ControlClient;
use crate::admin::halts::{self, Act, HaltRequest};
use crate::admin::table::Table;
use crate::clock::Clock;
use crate::ids::BackendId;
use crate::record::ledger::halts::Halted;
use anyhow::bail;
use clap::{Args, Subcommand};
use std::time::Duration;

/// Between two looks at a backend that is being emptied.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Looks in a row that find it empty: a job may have been on its way to it when it was drained.
const EMPTY_LOOKS: u32 = 3;

/// `comfygate backend …`
#[derive(Debug, Args)]
pub struct BackendArguments {
    #[command(subcommand)]
    command: BackendCommand,
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum BackendCommand {
    /// Show every backend
    List,
    /// Let a backend finish what it has, and give it no more jobs
    Drain(HaltArguments),
    /// Drain a backend that somebody works on: it is not tested, and its going down is no alarm
    Maintenance(HaltArguments),
    /// Give a backend jobs again
    Resume {
        /// The backend's id
        id: BackendId,
    },
}

#[derive(Debug, Args)]
struct HaltArguments {
    /// The backend's id
    id: BackendId,
    /// Why: `comfygate backend list`, `status` and the audit log show it
    #[arg(long)]
    reason: Option<String>,
    /// Wait until it has no job of the gateway any more
    #[arg(long)]
    wait: bool,
}

/// Runs `comfygate backend …`. The answer is no if there is no backend of that id.
///
/// # Errors
/// When the configuration has faults, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &BackendArguments) -> anyhow::Result<Exit> {
    let (id, act, reason, wait) = match &arguments.command {
        BackendCommand::List => return list(arguments),
        BackendCommand::Drain(halt) => (&halt.id, Act::Halt, halt.reason.clone(), halt.wait),
        BackendCommand::Maintenance(halt) => (&halt.id, Act::Maintain, halt.reason.clone(), halt.wait),
        BackendCommand::Resume { id } => (id, Act::Resume, None, false),
    };
    let request = HaltRequest { reason };
    if let Some(fault) = request.fault() {
        bail!("{fault}");
    }
    let halted = Halted::Backend(id.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match reached(&arguments.which)? {
            Reached::Gateway(client) => {
                let Some(view) = client.halt(&halted, act, &request).await? else { return Ok(unknown(id)) };
                print(&[view], arguments.json);
                if wait { emptied(&client, id).await } else { Ok(Exit::Good) }
            }
            Reached::Ledger(here, audit) => {
                if !here.config.backends.iter().any(|backend| backend.id == *id) {
                    return Ok(unknown(id));
                }
                halts::act(&*here.ledger, &audit, halted, act, request.reason, Clock::system().wall()).await?;
                audit.written();
                eprintln!("comfygate: the next gateway finds it so");
                Ok(Exit::Good)
            }
        }
    })
}

fn unknown(id: &BackendId) -> Exit {
    eprintln!("comfygate: no backend is called `{id}`: `comfygate backend list` shows them");
    Exit::No
}

/// Waits until a backend has nothing of ours. The answer is no if it is not configured any more.
async fn emptied(client: &ControlClient, id: &BackendId) -> anyhow::Result<Exit> {
    let mut empty = 0;
    while empty < EMPTY_LOOKS {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(view) = client.backends().await?.into_iter().find(|view| view.id == *id) else {
            return Ok(unknown(id));
        };
        if view.halt.is_none() {
            bail!("`{id}` was resumed while it was waited for");
        }
        empty = if view.outstanding == 0 { empty + 1 } else { 0 };
    }
    Ok(Exit::Good)
}

fn list(arguments: &BackendArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = reach::running(&arguments.which)?;
    print(&runtime.block_on(client.backends())?, arguments.json);
    Ok(Exit::Good)
}

fn print(backends: &[BackendView], json: bool) {
    if json {
        return backends.iter().for_each(|view| println!("{}", serde_json::json!(view)));
    }
    let mut table = Table::new(["backend", "pool", "state", "#outstanding", "url", "why"]);
    for view in backends {
        let halted_for = view.halt.as_ref().and_then(|halt| halt.reason.as_deref());
        let why = halted_for.or(view.reason.as_deref()).unwrap_or_default();
        let outstanding = view.outstanding.to_string();
        table.line([view.id.as_str(), view.pool.as_str(), &view.state, &outstanding, &view.url, why]);
    }
    print!("{}", table.text());
}
