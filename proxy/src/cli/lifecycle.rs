//! `comfygate reload` and `comfygate upgrade`: asked of the running gateway through its control socket.

use super::{ConfigArgument, Exit, reach};
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
    let report = runtime()?.block_on(reach::running(&arguments.which)?.reload())?;
    let exit = told(&report, arguments.json);
    seen_from_here(&arguments.which, &report.errors);
    Ok(exit)
}

/// Says what this shell finds wrong and the gateway did not tell, such as a variable that it has from its start and the shell has not.
fn seen_from_here(which: &ConfigArgument, known: &[String]) {
    let Err(faults) = Config::load(which.config.as_deref()) else { return };
    let faults = faults.errors.iter().map(ToString::to_string).filter(|fault| !known.contains(fault));
    faults.for_each(|fault| eprintln!("comfygate: seen from this shell: {fault}"));
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
    let binary = arguments.binary.as_ref().map(std::fs::canonicalize).transpose();
    let request = UpgradeRequest { binary: binary.context("the binary is not there")? };
    match runtime()?.block_on(reach::running(&arguments.which)?.upgrade(&request))? {
        UpgradeReport::Serving(process) => {
            println!("process {process} serves");
            Ok(Exit::Good)
        }
        UpgradeReport::Refused(reason) => {
            eprintln!("comfygate: {reason}; the running gateway goes on");
            seen_from_here(&arguments.which, &[]);
            Ok(Exit::No)
        }
        UpgradeReport::Failed(reason) => anyhow::bail!(reason),
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
