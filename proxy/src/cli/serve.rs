//! `comfygate serve`.

use super::{ConfigArgument, Exit};
use crate::app::{self, App, Origin, Start};
use clap::Args;

/// `comfygate serve …`
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Which configuration.
    #[command(flatten)]
    pub which: ConfigArgument,
    /// Take over listeners and jobs from the gateway that runs with this state directory; it goes on if this one can't
    #[arg(long)]
    pub upgrade: bool,
}

/// Serves until a signal says to stop, or a successor has taken over.
///
/// # Errors
/// When the configuration has faults, a port is taken, the state directory can't be used, or there is nobody to take over from.
pub fn run(arguments: &ServeArguments) -> anyhow::Result<Exit> {
    let (loaded, origin) = match Origin::load(arguments.which.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(errors) => anyhow::bail!("the configuration has faults:\n{errors}"),
    };
    app::start_logging();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let start = if arguments.upgrade { Start::TakeOver } else { Start::Fresh };
    App::build_from(loaded.config, Some(origin), start)?.run()?;
    Ok(Exit::Good)
}
