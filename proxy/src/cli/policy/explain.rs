//! `comfygate policy explain`: all about a decision.

use super::Surroundings;
use super::workflows;
use crate::cli::Exit;
use clap::Args;
use comfygate_policy::{FileFacts, Verdict, explain};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// A policy file, or the name of one that ships: default, generous, owner, strict
    #[arg(long, value_name = "POLICY", default_value = "default")]
    policy: String,
    #[command(flatten)]
    surroundings: Surroundings,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Workflows in API format, whole bodies of /prompt, pictures and sounds that ComfyUI made, directories of such, or - for standard input
    #[arg(required = true, value_name = "WORKFLOW")]
    workflows: Vec<PathBuf>,
}

pub(super) fn run(arguments: &ExplainArguments) -> anyhow::Result<Exit> {
    let policy = arguments.surroundings.policy(&arguments.policy)?;
    let catalogue = arguments.surroundings.catalogue()?;
    let mut all_allowed = true;
    workflows::for_each(&arguments.workflows, |submission| {
        let file = &submission.file;
        match submission.parsed() {
            Err(fault) => {
                all_allowed = false;
                if arguments.json {
                    println!("{}", json!({"file": file, "verdict": "deny", "violations": [fault.to_json()]}));
                } else {
                    println!("{file}: refused\n  {fault} [{}]\n", fault.code());
                }
            }
            Ok(parsed) => {
                let explained = explain(&parsed, &policy, &catalogue, &FileFacts::assumed(&policy));
                all_allowed &= matches!(explained.verdict(), Verdict::Allow(_));
                if arguments.json {
                    let mut account = explained.to_json();
                    for list in ["violations", "shadowed"] {
                        let violations = account.get_mut(list).and_then(Value::as_array_mut);
                        violations.into_iter().flatten().for_each(|one| *one = submission.placed(one.take()));
                    }
                    if let Some(members) = account.as_object_mut() {
                        members.insert("file".to_owned(), Value::from(file.as_str()));
                    }
                    println!("{account}");
                } else {
                    println!("{file}: {explained}");
                }
            }
        }
        Ok(())
    })?;
    Ok(if all_allowed { Exit::Good } else { Exit::No })
}
