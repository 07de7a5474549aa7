//! `comfygate restore`: a state directory from a backup.

use super::{ConfigArgument, Exit};
use crate::config::Config;
use crate::record::audit::rfc3339;
use crate::record::backup::restore::restore;
use crate::record::backup::{BackupError, Manifest};
use anyhow::Context;
use std::io::{self, Write};
use std::path::PathBuf;

/// What `comfygate restore` is asked.
#[derive(Debug, clap::Args)]
pub struct RestoreArguments {
    /// What `comfygate backup` made: FILE.tar, or a directory
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// The state directory, empty or not there [default: that of the configuration]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `comfygate restore`. The answer is no to a backup that is not whole; then the directory is empty as before.
///
/// # Errors
/// When the configuration has faults, the directory is not empty, or a file can't be read or written.
pub fn run(arguments: &RestoreArguments) -> anyhow::Result<Exit> {
    let from = &arguments.from;
    from.metadata().with_context(|| format!("there is no backup to be read at `{}`", from.display()))?;
    let state = match &arguments.state {
        Some(state) => state.clone(),
        None => Config::state_dir_alone(arguments.which.config.as_deref()).map_err(|errors| {
            anyhow::anyhow!("the configuration does not tell the state directory: name it with --state\n{errors}")
        })?,
    };
    let manifest = match restore(&arguments.from, &state) {
        Ok(manifest) => manifest,
        Err(
            error @ (BackupError::NotWhole(_)
            | BackupError::Name { .. }
            | BackupError::Order { .. }
            | BackupError::Format { .. }),
        ) => {
            eprintln!("comfygate: nothing was restored: {error}");
            return Ok(Exit::No);
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::json!({"state": state, "manifest": manifest}))?;
    } else {
        writeln!(out, "{}: {} entries, {} bytes", state.display(), manifest.entries, manifest.bytes)?;
    }
    for name in manifest.absent.iter().chain(&manifest.damaged) {
        eprintln!("comfygate: `{name}` was lost before the backup was made, and is not there");
    }
    eprintln!("{}", undone(&manifest));
    Ok(Exit::Good)
}

/// Events of the audit log by which somebody was kept out, or something was taken away: a restore undoes them.
const TAKEN_BACK: [&str; 12] = [
    "key_revoked",
    "key_rotated",
    "user_changed",
    "user_removed",
    "password_chosen",
    "session_ended",
    "logged_out",
    "tenant_disabled",
    "tenant_managed",
    "tenant_erasing",
    "tenant_paused",
    "class_banned",
];

/// What is as it was, and how to find it. SECURITY: a key that was revoked since the backup lets its finder in again.
fn undone(manifest: &Manifest) -> String {
    let at = rfc3339(manifest.made_at);
    let events = TAKEN_BACK.join("|");
    format!(
        "comfygate: this is the state of {at}: what was revoked, disabled, paused, banned, deleted or given another password since then is as it was before. Do it again before the gateway starts. \
         The audit log tells it, in lines with a `time` after that:\n  grep -E '\"event\":\"({events})\"' AUDIT_LOG"
    )
}
