//! `comfygate tenant export`.

use super::{ConfigArgument, Exit, export};
use clap::{Args, Subcommand};

/// `comfygate tenant …`
#[derive(Debug, Args)]
pub struct TenantArguments {
    #[command(subcommand)]
    command: TenantCommand,
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Write workflows, settings, inputs and outputs into a directory, as a ComfyUI has them
    Export(export::ExportArguments),
}

/// Runs `comfygate tenant …`.
///
/// # Errors
/// As [`export::run`].
pub fn run(arguments: &TenantArguments) -> anyhow::Result<Exit> {
    match &arguments.command {
        TenantCommand::Export(wanted) => export::run(wanted, &arguments.which, arguments.json),
    }
}
