//! `comfygate serve`.

use super::{ConfigArgument, Exit};
use crate::app;
use crate::config::Config;

/// Serves until a signal says to stop.
///
/// # Errors
/// When the configuration has faults, a port is taken, or the state directory can't be used.
pub fn run(which: &ConfigArgument) -> anyhow::Result<Exit> {
    let loaded = match Config::load(which.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(errors) => anyhow::bail!("the configuration has faults:\n{errors}"),
    };
    app::start_logging();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    app::App::build(loaded.config)?.run()?;
    Ok(Exit::Good)
}
