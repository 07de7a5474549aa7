//! `comfygate usage`: what was charged, by day, tenant, user, model or workflow. Of a running gateway through its control socket, else from the ledger itself.

use super::refusals::Reached;
use super::{ConfigArgument, Exit, reach};
use crate::admin::usage::{Asked, report};
use crate::clock::Clock;
use crate::ids::TenantId;
use crate::record::ledger::budgets::Budgets;
use clap::Args;
use std::io::{self, Write};

/// `comfygate usage`
#[derive(Debug, Args)]
pub struct UsageArguments {
    #[command(flatten)]
    which: ConfigArgument,
    /// First day, in UTC, such as 2026-01-31 [default: the first of the month of `--to`]
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// Last day, in UTC [default: today]
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<String>,
    /// What to tell apart, with commas: day, tenant, user, model, workflow
    #[arg(long, default_value = "day,tenant", value_name = "COLUMNS")]
    by: String,
    /// table, json or csv
    #[arg(long, default_value = "table")]
    format: String,
    /// As --format json: one object with the query and its rows
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// Runs `comfygate usage`.
///
/// # Errors
/// When the configuration has faults, the question can't be answered, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &UsageArguments) -> anyhow::Result<Exit> {
    let asked = Asked {
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        tenant: arguments.tenant.clone(),
        by: Some(arguments.by.clone()),
        format: Some(if arguments.json { "json".to_owned() } else { arguments.format.clone() }),
    };
    let (query, format) = asked.query(Clock::system().wall()).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reached = Reached::reach(&arguments.which)?;
    if let Some(tenant) = arguments.tenant.as_ref().and_then(|tenant| tenant.parse::<TenantId>().ok())
        && !runtime.block_on(reached.knows(&tenant))?
    {
        reach::tell_unknown(&tenant);
    }
    let text = match reached {
        Reached::Gateway(client) => runtime.block_on(client.usage(&query, format))?,
        Reached::Ledger(here) => report(&query, format, &runtime.block_on(here.ledger.usage(query.clone()))?),
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Good)
}
