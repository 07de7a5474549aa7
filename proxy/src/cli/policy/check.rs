//! `comfygate policy check`: yes or no to each workflow, with every reason.

use super::workflows::{self, NoWorkflow, Submission};
use super::{Surroundings, plain};
use crate::cli::Exit;
use clap::Args;
use comfygate_policy::{
    ApprovedWorkflow, Catalogue, FileFacts, OutputScope, Policy, Verdict, Violation, Violations, decide,
};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// A policy file, or the name of one that ships: default, generous, owner, strict
    #[arg(long, value_name = "POLICY", default_value = "default")]
    policy: String,
    #[command(flatten)]
    surroundings: Surroundings,
    /// One JSON object a line: file, verdict, cost, violations, and the rewritten workflow if it is allowed
    #[arg(long)]
    json: bool,
    /// Workflows in API format, whole bodies of /prompt, pictures and sounds that ComfyUI made, directories of such, or - for standard input
    #[arg(required = true, value_name = "WORKFLOW")]
    workflows: Vec<PathBuf>,
}

pub(super) fn run(arguments: &CheckArguments) -> anyhow::Result<Exit> {
    let policy = arguments.surroundings.policy(&arguments.policy)?;
    let catalogue = arguments.surroundings.catalogue()?;
    let mut all_allowed = true;
    workflows::for_each(&arguments.workflows, |submission| {
        let judged = Judged::of(&submission, &policy, &catalogue);
        all_allowed &= judged.is_allowed();
        if arguments.json {
            println!("{}", judged.to_json(&submission)?);
        } else {
            judged.print(&submission.file);
        }
        Ok(())
    })?;
    Ok(if all_allowed { Exit::Good } else { Exit::No })
}

/// What there is to say about one file.
pub(super) enum Judged {
    Unread(NoWorkflow),
    Allowed(Box<ApprovedWorkflow>),
    Refused(Violations),
}

impl Judged {
    pub(super) fn of(submission: &Submission, policy: &Policy, catalogue: &Catalogue) -> Self {
        let parsed = match submission.parsed() {
            Ok(parsed) => parsed,
            Err(fault) => return Self::Unread(fault),
        };
        match decide(&parsed, policy, catalogue, &FileFacts::assumed(policy)) {
            Verdict::Allow(approved) => Self::Allowed(approved),
            Verdict::Deny(violations) => Self::Refused(violations),
        }
    }

    pub(super) fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    pub(super) fn verdict(&self) -> &'static str {
        if self.is_allowed() { "allow" } else { "deny" }
    }

    /// Units; of what can't be read there is none.
    pub(super) fn cost(&self) -> Option<f64> {
        match self {
            Self::Unread(_) => None,
            Self::Allowed(approved) => Some(approved.cost().units()),
            Self::Refused(violations) => Some(violations.cost().units()),
        }
    }

    /// Everything that stands against it; of an allowed one, against the nodes that are left out. Pointers are into what was submitted.
    pub(super) fn violations(&self, submission: &Submission) -> Vec<Value> {
        let placed = |violation: &Violation| submission.placed(violation.to_json());
        match self {
            Self::Unread(fault) => vec![fault.to_json()],
            Self::Allowed(approved) => approved.pruned().into_iter().flatten().map(placed).collect(),
            Self::Refused(violations) => violations.iter().map(placed).collect(),
        }
    }

    fn to_json(&self, submission: &Submission) -> anyhow::Result<Value> {
        let (workflow, shadowed) = match self {
            Self::Allowed(approved) => (rewritten(approved)?, approved.shadowed()),
            Self::Unread(_) | Self::Refused(_) => (Value::Null, &[][..]),
        };
        let mut line = json!({
            "file": submission.file, "verdict": self.verdict(), "cost": self.cost(), "violations": self.violations(submission), "workflow": workflow,
        });
        // Only a policy in shadow mode has it to tell.
        if let Some(members) = line.as_object_mut().filter(|_| !shadowed.is_empty()) {
            let placed = |violation: &Violation| submission.placed(violation.to_json());
            members.insert("shadowed".to_owned(), shadowed.iter().map(placed).collect());
        }
        Ok(line)
    }

    fn print(&self, file: &str) {
        match self {
            Self::Unread(fault) => println!("{file}: refused\n  {fault}"),
            Self::Refused(violations) => {
                println!("{file}: refused");
                violations.iter().for_each(|violation| println!("  {}", plain(&violation.to_string())));
            }
            Self::Allowed(approved) => {
                println!("{file}: allowed, cost {:.1}", approved.cost().units());
                approved.dropped().iter().for_each(|dropped| println!("  dropped: {}", plain(&dropped.to_string())));
                let pruned = approved.pruned().into_iter().flatten();
                pruned.for_each(|violation| println!("  left out: {}", plain(&violation.to_string())));
                let shadowed = approved.shadowed().iter();
                shadowed.for_each(|violation| println!("  by shadow mode only: {}", plain(&violation.to_string())));
            }
        }
    }
}

/// The graph as it would be sent, with stand-ins for what differs from attempt to attempt.
fn rewritten(approved: &ApprovedWorkflow) -> anyhow::Result<Value> {
    let scope = OutputScope::new("t/check/check-1", "check", "check", "check")?;
    let mut body: Value = serde_json::from_slice(&approved.upstream_body(&scope))?;
    Ok(body.get_mut("prompt").map(Value::take).unwrap_or_default())
}
