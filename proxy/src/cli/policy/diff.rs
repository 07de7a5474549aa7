//! `comfygate policy diff`: what another policy would change.

use super::check::Judged;
use super::workflows::{self, Submission};
use super::{Surroundings, plain};
use crate::cli::Exit;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct DiffArguments {
    /// The policy as it is: a file, or the name of one that ships
    #[arg(value_name = "A")]
    before: String,
    /// The policy as it would be
    #[arg(value_name = "B")]
    after: String,
    #[command(flatten)]
    surroundings: Surroundings,
    /// One JSON object a line: each file that changes, and a summary
    #[arg(long)]
    json: bool,
    /// Workflows in API format, whole bodies of /prompt, pictures and sounds that ComfyUI made, directories of such, or - for standard input
    #[arg(required = true, value_name = "WORKFLOW")]
    workflows: Vec<PathBuf>,
}

/// Counts over all files.
#[derive(Default)]
struct Summary {
    files: usize,
    changed: usize,
    allowed: [usize; 2],
    /// By rule: how many files break it under either policy.
    rules: BTreeMap<String, [usize; 2]>,
}

pub(super) fn run(arguments: &DiffArguments) -> anyhow::Result<Exit> {
    let policies = [&arguments.before, &arguments.after].map(|name| arguments.surroundings.policy(name));
    let [before, after] = policies;
    let policies = [before?, after?];
    let catalogue = arguments.surroundings.catalogue()?;
    let mut summary = Summary::default();
    workflows::for_each(&arguments.workflows, |submission| {
        let judged = [0, 1].map(|side| policies.get(side).map(|policy| Judged::of(&submission, policy, &catalogue)));
        let [Some(before), Some(after)] = judged else { return Ok(()) };
        let change = Change::between(&submission, &before, &after);
        summary.add(&submission, &before, &after, change.is_some());
        match change {
            Some(change) if arguments.json => println!("{}", change.to_json(&submission.file)),
            Some(change) => change.print(&submission.file),
            None => {}
        }
        Ok(())
    })?;
    if arguments.json {
        println!("{}", summary.to_json())
    } else {
        summary.print(arguments)
    }
    Ok(if summary.changed == 0 { Exit::Good } else { Exit::No })
}

/// How one file is judged otherwise.
struct Change {
    verdicts: [&'static str; 2],
    costs: [Option<f64>; 2],
    /// Violations under the first policy only.
    gone: Vec<Value>,
    /// Violations under the second policy only.
    new: Vec<Value>,
}

impl Change {
    /// `None` if both say the same.
    fn between(submission: &Submission, before: &Judged, after: &Judged) -> Option<Self> {
        let (old, new) = (before.violations(submission), after.violations(submission));
        let change = Self {
            verdicts: [before.verdict(), after.verdict()],
            costs: [before.cost(), after.cost()],
            gone: old.iter().filter(|one| !new.contains(one)).cloned().collect(),
            new: new.iter().filter(|one| !old.contains(one)).cloned().collect(),
        };
        let [verdict, verdict_after] = change.verdicts;
        let [cost, cost_after] = change.costs.map(|cost| cost.map(f64::to_bits));
        let same = verdict == verdict_after && cost == cost_after && change.gone.is_empty() && change.new.is_empty();
        (!same).then_some(change)
    }

    fn to_json(&self, file: &str) -> Value {
        json!({"file": file, "verdict": self.verdicts, "cost": self.costs, "gone": self.gone, "new": self.new})
    }

    fn print(&self, file: &str) {
        let [before, after] = self.verdicts;
        if before == after {
            println!("{file}: {before} under both");
        } else {
            println!("{file}: {before} → {after}");
        }
        if let [Some(before), Some(after)] = self.costs
            && before.to_bits() != after.to_bits()
        {
            println!("  cost {before:.1} → {after:.1}");
        }
        for (sign, list) in [('-', &self.gone), ('+', &self.new)] {
            for one in list {
                let text = |key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default();
                println!("  {sign} {} {}: {}", text("code"), plain(text("pointer")), plain(text("because")));
            }
        }
    }
}

impl Summary {
    fn add(&mut self, submission: &Submission, before: &Judged, after: &Judged, changed: bool) {
        self.files += 1;
        self.changed += usize::from(changed);
        for ((judged, allowed), side) in [before, after].into_iter().zip(&mut self.allowed).zip([0, 1]) {
            *allowed += usize::from(judged.is_allowed());
            let violations = judged.violations(submission);
            let mut codes: Vec<&str> = violations.iter().filter_map(|one| one.get("code")?.as_str()).collect();
            codes.sort_unstable();
            codes.dedup();
            for code in codes {
                if let Some(count) = self.rules.entry(code.to_owned()).or_default().get_mut(side) {
                    *count += 1;
                }
            }
        }
    }

    fn to_json(&self) -> Value {
        json!({"summary": {"files": self.files, "changed": self.changed, "allowed": self.allowed, "rules": self.rules}})
    }

    fn print(&self, arguments: &DiffArguments) {
        let [before, after] = self.allowed;
        println!("{} files, {} judged otherwise", self.files, self.changed);
        println!("allowed: {before} by {}, {after} by {}", arguments.before, arguments.after);
        for (code, [before, after]) in &self.rules {
            println!("  {code}: {before} → {after} files");
        }
    }
}
