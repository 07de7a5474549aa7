//! `comfygate restore`: a state directory from a backup.

use super::{ConfigArgument, Exit};
use crate::config::Config;
use crate::record::backup::BackupError;
use crate::record::backup::restore::restore;
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
    let state = match &arguments.state {
        Some(state) => state.clone(),
        None => {
            Config::load(arguments.which.config.as_deref())
                .map_err(|errors| {
                    anyhow::anyhow!("the configuration has faults (or name the directory with --state):\n{errors}")
                })?
                .config
                .state_dir
        }
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
    Ok(Exit::Good)
}
