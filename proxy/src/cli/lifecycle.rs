//! `comfygate reload` and `comfygate upgrade`: asked of the running gateway through its control socket.

use super::{ConfigArgument, Exit};
use crate::admin::CONTROL_SOCKET;
use crate::admin::control_client::ControlClient;
use crate::admin::lifecycle::{ReloadReport, UpgradeReport, UpgradeRequest};
use crate::config::Config;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use tokio::runtime::Runtime;

/// `comfygate reload …`
#[derive(Debug, Args)]
pub struct ReloadArguments {
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `comfygate upgrade …`
#[derive(Debug, Args)]
pub struct UpgradeArguments {
    #[command(flatten)]
    which: ConfigArgument,
    /// The binary to start [default: the file that the running gateway was started from]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Runs `comfygate reload`: the answer is no when the configuration is refused; the former one goes on then.
///
/// # Errors
/// When no gateway answers.
pub fn reload(arguments: &ReloadArguments) -> anyhow::Result<Exit> {
    let loaded = match Config::load(arguments.which.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(faults) => {
            // Where the gateway's state is can't be read from it either; the gateway sees the same faults.
            let errors = faults.errors.iter().map(ToString::to_string).collect();
            let warnings = faults.warnings.iter().map(ToString::to_string).collect();
            return Ok(told(&ReloadReport { errors, warnings, ..ReloadReport::default() }, arguments.json));
        }
    };
    let report = runtime()?.block_on(client(&loaded.config).reload())?;
    Ok(told(&report, arguments.json))
}

fn told(report: &ReloadReport, json: bool) -> Exit {
    if json {
        println!("{}", serde_json::json!(report));
    } else {
        for (kind, faults) in [("error", &report.errors), ("warning", &report.warnings)] {
            faults.iter().for_each(|fault| println!("{kind}: {fault}"));
        }
        report.needs_restart.iter().for_each(|key| println!("needs a restart: {key}"));
        if report.applied {
            println!("generation {} is in force", report.generation);
        } else {
            println!("refused: the running gateway keeps its configuration");
        }
    }
    if report.applied { Exit::Good } else { Exit::No }
}

/// Runs `comfygate upgrade`: the answer is no when nothing was handed over; the running gateway goes on then.
///
/// # Errors
/// When no gateway answers, or what took over does not serve.
pub fn upgrade(arguments: &UpgradeArguments) -> anyhow::Result<Exit> {
    let loaded = Config::load(arguments.which.config.as_deref())
        .map_err(|errors| anyhow::anyhow!("the configuration has faults, so no successor would start:\n{errors}"))?;
    let binary = arguments.binary.as_ref().map(std::fs::canonicalize).transpose();
    let request = UpgradeRequest { binary: binary.context("the binary is not there")? };
    match runtime()?.block_on(client(&loaded.config).upgrade(&request))? {
        UpgradeReport::Serving(process) => {
            println!("process {process} serves");
            Ok(Exit::Good)
        }
        UpgradeReport::Refused(reason) => {
            eprintln!("comfygate: {reason}; the running gateway goes on");
            Ok(Exit::No)
        }
        UpgradeReport::Failed(reason) => anyhow::bail!(reason),
    }
}

fn client(config: &Config) -> ControlClient {
    ControlClient::new(config.state_dir.join(CONTROL_SOCKET))
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
