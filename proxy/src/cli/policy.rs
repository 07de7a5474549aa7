//! `comfygate policy check`: the engine's verdict on workflow files, without a gateway.

use super::Exit;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use comfygate_policy::{Catalogue, FileFacts, Policy, Verdict, Violations};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// `comfygate policy …`
#[derive(Debug, Args)]
pub struct PolicyArguments {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Say of each workflow whether the policy accepts it, and if not, everything that is wrong with it.
    Check(CheckArguments),
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// A policy file, or the name of one that ships: default, strict
    #[arg(long, value_name = "POLICY", default_value = "default")]
    policy: String,
    /// The answer of a ComfyUI's /object_info, saved to a file [default: the shipped catalogue of ComfyUI 0.8.0]
    #[arg(long, value_name = "FILE")]
    object_info: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Workflows in API format
    #[arg(required = true, value_name = "WORKFLOW")]
    workflows: Vec<PathBuf>,
}

/// Runs `comfygate policy …`.
///
/// # Errors
/// When a file can't be read or the policy has faults.
pub fn run(arguments: &PolicyArguments) -> anyhow::Result<Exit> {
    let PolicyCommand::Check(arguments) = &arguments.command;
    let policy = policy(&arguments.policy)?;
    let read;
    let catalogue = match &arguments.object_info {
        // What an owner has installed is not known here.
        None if policy.posture() == comfygate_policy::Posture::Owner => {
            read = Catalogue::builtin().partial();
            &read
        }
        None => Catalogue::builtin(),
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("can't read `{}`", path.display()))?;
            read = Catalogue::from_object_info(&bytes)
                .with_context(|| format!("`{}` is no answer of /object_info", path.display()))?;
            &read
        }
    };
    let mut all_accepted = true;
    for path in &arguments.workflows {
        let report = report(path, &policy, catalogue)?;
        all_accepted &= report.accepted;
        report.print(path, arguments.json);
    }
    Ok(if all_accepted { Exit::Good } else { Exit::No })
}

fn policy(name: &str) -> anyhow::Result<Policy> {
    if let Some(policy) = Policy::builtin(name) {
        return Ok(policy);
    }
    let text = std::fs::read_to_string(name).with_context(|| {
        let shipped: Vec<&str> = Policy::builtin_names().collect();
        format!("`{name}` is neither a policy that ships ({}) nor a file that can be read", shipped.join(", "))
    })?;
    // What it extends stands beside it.
    let directory = Path::new(name).parent().unwrap_or(Path::new(""));
    let files = |base: &str| std::fs::read_to_string(directory.join(base)).ok();
    Policy::from_toml_with(&text, &files).map_err(|errors| {
        let lines = errors.iter().map(|error| {
            let document = error.document.as_deref().unwrap_or(name);
            format!("{document}:{}:{}: {}: {}", error.line, error.column, error.key, error.message)
        });
        anyhow::anyhow!("the policy has faults:\n{}", lines.collect::<Vec<_>>().join("\n"))
    })
}

/// The verdict on one file.
struct Report {
    accepted: bool,
    json: Value,
    lines: Vec<String>,
}

fn report(path: &Path, policy: &Policy, catalogue: &Catalogue) -> anyhow::Result<Report> {
    let bytes = std::fs::read(path).with_context(|| format!("can't read `{}`", path.display()))?;
    let parsed = match comfygate_policy::parse(&submission(path, &bytes)?) {
        Ok(parsed) => parsed,
        Err(error) => {
            let json = json!({"accepted": false, "violations": [{"code": error.code(), "pointer": error.pointer(), "message": error.to_string()}]});
            return Ok(Report { accepted: false, json, lines: vec![error.to_string()] });
        }
    };
    Ok(match comfygate_policy::decide(&parsed, policy, catalogue, &FileFacts::assumed(policy)) {
        Verdict::Allow(workflow) => {
            let dropped: Vec<String> = workflow.dropped().iter().map(ToString::to_string).collect();
            let json = json!({"accepted": true, "cost": workflow.cost().units(), "dropped": dropped, "violations": []});
            Report { accepted: true, json, lines: dropped.into_iter().map(|drop| format!("dropped: {drop}")).collect() }
        }
        Verdict::Deny(violations) => refused(&violations),
    })
}

fn refused(violations: &Violations) -> Report {
    let lines = violations.iter().map(ToString::to_string).collect();
    Report { accepted: false, json: json!({"accepted": false, "violations": violations.to_json()}), lines }
}

impl Report {
    fn print(mut self, path: &Path, as_json: bool) {
        if as_json {
            if let Some(fields) = self.json.as_object_mut() {
                fields.insert("file".into(), path.display().to_string().into());
            }
            println!("{}", self.json);
            return;
        }
        println!("{}: {}", path.display(), if self.accepted { "accepted" } else { "refused" });
        for line in self.lines {
            println!("  {line}");
        }
    }
}

/// A submission around a bare graph; a whole submission as it is. The bytes of the graph stay as they are, so that what is odd in them is seen.
fn submission<'a>(path: &Path, bytes: &'a [u8]) -> anyhow::Result<Cow<'a, [u8]>> {
    // Only to tell the forms apart: what is no JSON at all is told by the engine's own parser, with line and column.
    let form: Value = serde_json::from_slice(bytes).unwrap_or_default();
    if form.get("nodes").is_some_and(Value::is_array) && form.get("links").is_some() {
        bail!("`{}` is in the web page's own format; use the page's \"Export (API)\"", path.display());
    }
    if form.get("prompt").is_some_and(|prompt| prompt.get("class_type").is_none()) {
        return Ok(Cow::Borrowed(bytes));
    }
    Ok(Cow::Owned([b"{\"prompt\":".as_slice(), bytes, b"}"].concat()))
}
