//! `comfygate status`: how the running gateway stands.

use super::{ConfigArgument, Exit, reach};
use crate::admin::control_client::ControlError;
use crate::admin::state::Status;
use crate::config::units::show_size;
use std::fmt::Write as _;
use std::io::{self, Write};

/// What `comfygate status` is asked.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `comfygate status`. The answer is yes if a submission would be accepted and run now.
///
/// # Errors
/// When the state directory can't be told, this user may not ask the gateway, or the gateway gives no answer that can be read.
pub fn run(arguments: &StatusArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let gateway = reach::running(&arguments.which)?;
    let mut out = io::stdout().lock();
    match runtime.block_on(gateway.status()) {
        Ok(status) => {
            if arguments.json {
                writeln!(out, "{}", serde_json::to_string(&status)?)?;
            } else {
                write!(out, "{}", table(&status))?;
            }
            Ok(if status.healthy { Exit::Good } else { Exit::No })
        }
        Err(ControlError::NoGateway { path, reason }) => {
            let what = format!("no gateway answers on `{path}`: {reason}");
            if arguments.json {
                writeln!(out, "{}", serde_json::json!({"healthy": false, "reasons": [what]}))?;
            } else {
                writeln!(out, "not running: {what}")?;
            }
            Ok(Exit::No)
        }
        Err(error) => Err(error.into()),
    }
}

fn table(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing into a text can't fail.
        let _ = writeln!(text, "{name:<14} {value}");
    };
    let word = if status.healthy { "healthy" } else { "not healthy" };
    line("comfygate", &format_args!("{}, {word}, process {}", status.version, status.pid));
    for reason in &status.reasons {
        line("", reason);
    }
    for warning in &status.warnings {
        line("warning", warning);
    }
    line("up for", &format_args!("{} s", status.uptime_seconds));
    line("configuration", &format_args!("{}, generation {}", status.configuration, status.generation));
    for listener in &status.listeners {
        line("listener", &format_args!("{} ({})", listener.address, listener.kind));
    }
    line("metrics", &status.metrics);
    for backend in &status.backends {
        let mut state = match &backend.reason {
            _ if backend.up => format!("up, {} outstanding", backend.outstanding),
            Some(reason) => format!("down: {reason}"),
            None => "down".to_owned(),
        };
        if ["drained", "maintenance", "warming"].contains(&backend.state.as_str()) {
            let why = backend.halted_for.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            state = format!("{}{why}, {state}", backend.state);
        }
        line("backend", &format_args!("{} at {}: {state}", backend.id, backend.url));
    }
    let jobs = status.jobs;
    line("jobs", &format_args!("{} held, {} assigned, {} running", jobs.held, jobs.assigned, jobs.running));
    line("sockets", &status.websockets);
    line("ledger", &if status.store_writable { "writable" } else { "NOT WRITABLE" });
    let free = status.free_bytes.map_or_else(|| "unknown".to_owned(), rounded);
    line("disk", &format_args!("{free} free, {} must be", show_size(status.free_space_min)));
    line("audit", &format_args!("{} lines dropped", status.audit_dropped));
    text
}

/// In whole MiB.
fn rounded(bytes: u64) -> String {
    format!("{}MiB", bytes >> 20)
}
