//! `comfygate policy …`: the engine's verdicts on workflow files, without a gateway.
//!
//! Exit codes: 0 every answer is yes (`check`, `explain`: all are allowed; `diff`: nothing changes; `learn`: a document was written), 1 one is no, 2 usage, a file that can't be read, or a
//! policy with faults. `allow` and bans concern a gateway: [`allow`], [`ban`].

mod check;
mod diff;
mod explain;
mod learn;
mod metadata;
mod workflows;

use super::{Exit, allow, ban};
use anyhow::Context;
use clap::{Args, Subcommand};
use comfygate_policy::{Catalogue, CostModel, FileFact, FileFacts, Parsed, Policy};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `comfygate policy …`
#[derive(Debug, Args)]
pub struct PolicyArguments {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Say of each workflow whether the policy accepts it, and if not, everything that is wrong with it.
    Check(check::CheckArguments),
    /// Tell all about a decision: bounds and cost of every node, what is rewritten, why it is refused, and which lines would allow it.
    Explain(explain::ExplainArguments),
    /// Tell which workflows two policies judge differently.
    Diff(diff::DiffArguments),
    /// Write a policy that accepts given workflows and their like.
    Learn(learn::LearnArguments),
    /// Show what change of the policy would let a refused request through, and make it
    Allow(allow::AllowArguments),
    /// Deny a node class at once, for every tenant, over every policy; jobs that wait with it are failed
    Ban(ban::BanArguments),
    /// Lift the ban of a node class
    Unban(ban::UnbanArguments),
    /// List the banned node classes
    Bans(ban::BansArguments),
}

/// Runs `comfygate policy …`.
///
/// # Errors
/// When a file can't be read or the policy has faults.
pub fn run(arguments: &PolicyArguments) -> anyhow::Result<Exit> {
    match &arguments.command {
        PolicyCommand::Check(arguments) => check::run(arguments),
        PolicyCommand::Explain(arguments) => explain::run(arguments),
        PolicyCommand::Diff(arguments) => diff::run(arguments),
        PolicyCommand::Learn(arguments) => learn::run(arguments),
        PolicyCommand::Allow(arguments) => allow::run(arguments),
        PolicyCommand::Ban(arguments) => ban::ban(arguments),
        PolicyCommand::Unban(arguments) => ban::unban(arguments),
        PolicyCommand::Bans(arguments) => ban::bans(arguments),
    }
}

/// What verdicts depend on besides the policy.
#[derive(Debug, Args)]
struct Surroundings {
    /// The answer of a ComfyUI's /object_info, saved to a file [default: the shipped catalogue of ComfyUI 0.8.0]
    #[arg(long, value_name = "FILE")]
    object_info: Option<PathBuf>,
    /// What models cost, as a file [default: the table that ships, documents/costs.toml]
    #[arg(long, value_name = "FILE")]
    costs: Option<PathBuf>,
}

impl Surroundings {
    fn catalogue(&self) -> anyhow::Result<Cow<'static, Catalogue>> {
        let Some(path) = &self.object_info else { return Ok(Cow::Borrowed(Catalogue::builtin())) };
        let bytes = std::fs::read(path).with_context(|| format!("can't read `{}`", path.display()))?;
        let read = Catalogue::from_object_info(&bytes)
            .with_context(|| format!("`{}` is no answer of /object_info", path.display()))?;
        Ok(Cow::Owned(read))
    }

    /// The policy of this name or file, with the costs that were asked for.
    fn policy(&self, name: &str) -> anyhow::Result<Policy> {
        let policy = policy(name)?;
        let Some(path) = &self.costs else { return Ok(policy) };
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read `{}`", path.display()))?;
        let costs =
            CostModel::from_toml(&text).with_context(|| format!("`{}` is no table of costs", path.display()))?;
        Ok(policy.with_costs(Arc::new(costs)))
    }
}

fn policy(name: &str) -> anyhow::Result<Policy> {
    if let Some(policy) = Policy::builtin(name) {
        return Ok(policy);
    }
    let text = std::fs::read_to_string(name).with_context(|| {
        format!("`{name}` is neither a policy that ships (default, owner, strict) nor a file that can be read")
    })?;
    Policy::from_toml(&text).map_err(|errors| {
        let lines = errors
            .iter()
            .map(|error| format!("{name}:{}:{}: {}: {}", error.line, error.column, error.key, error.message));
        anyhow::anyhow!("the policy has faults:\n{}", lines.collect::<Vec<_>>().join("\n"))
    })
}

/// Pixels of a side of an upload that nobody has measured.
const ASSUMED_SIDE: u32 = 4096;

/// Every file that a workflow names by a plain relative name, as an upload that is there: there is no ledger to ask here.
fn assumed(parsed: &Parsed, catalogue: &Catalogue) -> FileFacts {
    let mut facts = FileFacts::none();
    for reference in parsed.file_references(catalogue) {
        if is_plain(&reference.name) {
            let fact = FileFact {
                canonical_name: reference.name.clone(),
                width: ASSUMED_SIDE,
                height: ASSUMED_SIDE,
                frames: 1,
            };
            facts.insert(reference.name, reference.directory, fact);
        }
    }
    facts
}

/// A relative name as uploads have them: no address, no hidden file, no dots as a folder, nothing before or after it.
fn is_plain(name: &str) -> bool {
    let good = |part: &str| !part.is_empty() && !part.starts_with('.') && part.trim() == part;
    !name.contains([':', '\\', '~']) && name.split('/').all(good)
}

/// A path as it is shown.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A text of a workflow's author for a terminal: what would be a command there is a space.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}
