//! `comfygate doctor`: asks each backend what it is and how it was started, and says what is wrong with that.
//!
//! A gateway protects nothing that can be reached beside it, so what is looked for first is a ComfyUI that others can reach. What is found is a [`Finding`]; `findings`
//! holds the rules and does no I/O.

mod advisories;
mod findings;
mod look;

pub use findings::{Finding, Level, Looked};
pub use look::{look_at, own_addresses};

use super::{ConfigArgument, Exit};
use crate::config::{BackendConfig, Config};
use crate::endpoint::BackendEndpoint;
use anyhow::Context;
use serde_json::json;
use std::io::{self, Write};

/// What `comfygate doctor` is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArguments {
    /// Which configuration.
    #[command(flatten)]
    pub which: ConfigArgument,
    /// Look at this ComfyUI instead of the configured backends
    #[arg(long, value_name = "URL")]
    pub backend: Option<String>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// What was found at one backend, or over all of them.
pub(super) struct Examined {
    /// `gpu0 at http://127.0.0.1:8188`, or `all backends`.
    pub(super) subject: String,
    /// `ComfyUI 0.8.0, NVIDIA H200`; empty where nothing answered.
    pub(super) what: String,
    /// Worst first.
    pub(super) findings: Vec<Finding>,
}

/// Runs `comfygate doctor`: exit 1 if a problem was found.
///
/// # Errors
/// When the configuration has faults, or the output can't be written.
pub fn run(arguments: &DoctorArguments) -> anyhow::Result<Exit> {
    let backends = match &arguments.backend {
        Some(url) => {
            vec![BackendConfig::new("backend".parse().context("backend id")?, BackendEndpoint::parse(url)?)]
        }
        None => {
            Config::load(arguments.which.config.as_deref())
                .map_err(|errors| anyhow::anyhow!("the configuration has faults:\n{errors}"))?
                .config
                .backends
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let examined = runtime.block_on(examine(&backends));
    let mut out = io::stdout().lock();
    if arguments.json { print_json(&mut out, &examined) } else { print(&mut out, &examined) }?;
    let problems = examined.iter().flat_map(|one| &one.findings).any(|finding| finding.level == Level::Problem);
    Ok(if problems { Exit::No } else { Exit::Good })
}

/// Looks at all of them, one after the other: a GPU box has a handful.
pub(super) async fn examine(backends: &[BackendConfig]) -> Vec<Examined> {
    let (mut examined, mut looks) = (Vec::new(), Vec::new());
    for backend in backends {
        let looked = look_at(&backend.endpoint).await;
        let mut findings = findings::of_one(&looked);
        findings.sort_by_key(|finding| finding.level);
        examined.push(Examined {
            subject: format!("{} at {}", backend.id, backend.endpoint),
            what: looked.summary(),
            findings,
        });
        looks.push((backend, looked));
    }
    let together = findings::of_all(&looks);
    if !together.is_empty() {
        examined.push(Examined { subject: "all backends".to_owned(), what: String::new(), findings: together });
    }
    examined
}

/// One paragraph a backend.
pub(super) fn print(out: &mut dyn Write, examined: &[Examined]) -> io::Result<()> {
    for one in examined {
        let comma = if one.what.is_empty() { "" } else { ": " };
        writeln!(out, "{}{comma}{}", one.subject, one.what)?;
        for finding in &one.findings {
            writeln!(out, "  {:8} {}", finding.level.name(), finding.what)?;
            writeln!(out, "           {}", finding.instead)?;
        }
        if one.findings.is_empty() {
            writeln!(out, "  good")?;
        }
    }
    Ok(())
}

fn print_json(out: &mut dyn Write, examined: &[Examined]) -> io::Result<()> {
    let finding = |finding: &Finding| json!({"level": finding.level.name(), "code": finding.code, "what": finding.what, "instead": finding.instead});
    let one = |one: &Examined| json!({"subject": one.subject, "what": one.what, "findings": one.findings.iter().map(finding).collect::<Vec<_>>()});
    writeln!(out, "{}", json!({"backends": examined.iter().map(one).collect::<Vec<_>>()}))
}
