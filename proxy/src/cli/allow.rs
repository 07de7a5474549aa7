//! `comfygate policy allow --request ID`: the smallest change of a policy document that would let a refused submission through: shown as a difference, and written once that is confirmed.

use super::refusals::Reached;
use super::{ConfigArgument, Exit};
use crate::admin::CONTROL_SOCKET;
use crate::admin::control_client::{ControlClient, ControlError};
use crate::admin::refusals::RefusalView;
use crate::config::Config;
use crate::ids::RequestId;
use crate::inspect::{InspectError, refused};
use crate::record::ledger::refusals::RefusalRow;
use crate::record::pins;
use crate::tenants::amend::{self, Amended};
use crate::tenants::policies;
use anyhow::{Context, bail};
use clap::Args;
use comfygate_policy::{
    Catalogue, FileFacts, PaidNodes, Parsed, Policy, Suggestion, Verdict, Violation, ViolationKind, suggest, suggestion,
};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

/// One change may bring another rule to light: a class that is allowed now has caps to keep.
const ROUNDS_MAX: usize = 8;

/// `comfygate policy allow`
#[derive(Debug, Args)]
pub struct AllowArguments {
    /// The refused request (`request_id` in its answer; `comfygate refusals` lists them)
    #[arg(long, value_name = "ID")]
    request: RequestId,
    /// Write the change without asking
    #[arg(long)]
    yes: bool,
    /// Where the tenant's policy is one that ships: write a document that extends it to this new file
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    which: ConfigArgument,
}

/// Runs `comfygate policy allow`. The answer is no if something still stands against the submission: nothing was written, or what was written is not all.
///
/// # Errors
/// When the configuration has faults, the refusal or the document can't be read, or the file can't be written.
pub fn run(arguments: &AllowArguments) -> anyhow::Result<Exit> {
    let config = Config::load(arguments.which.config.as_deref())
        .map_err(|errors| anyhow::anyhow!("the configuration has faults:\n{errors}"))?
        .config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reached = Reached::reach(&arguments.which)?;
    let Some(RefusalView { refusal, submission }) = runtime.block_on(reached.refusal(arguments.request))? else {
        let request = arguments.request;
        eprintln!("comfygate: no refusal of the request {request} is remembered: `comfygate refusals` lists them");
        return Ok(Exit::No);
    };
    drop(reached);
    let mut suggestions: Vec<Suggestion> =
        refusal.rules.iter().filter_map(|rule| refused::suggested(rule.allow.as_ref()?)).collect();
    if suggestions.is_empty() {
        println!("no line of a policy allows this request:");
        for rule in &refusal.rules {
            println!("  {} [{}]", printable(&rule.because), printable(&rule.code));
            suggest::remark(&rule.code).iter().for_each(|remark| println!("    {remark}"));
        }
        return Ok(Exit::No);
    }
    let parsed = submission.and_then(|submission| comfygate_policy::parse(submission.to_string().as_bytes()).ok());
    let Some(document) = document(&config, &refusal)? else {
        return shipped(arguments, &refusal, &suggestions);
    };
    let mut change = amend::amended(&document.text, suggestions.clone());
    let catalogue = catalogue(&config, &refusal)?;
    let has_key = config.comfy_org.is_some();
    let mut judged = judged(&document, &change, parsed.as_ref(), &catalogue, has_key)?;
    for _ in 0..ROUNDS_MAX {
        let known = suggestions.len();
        let more = judged.iter().flatten().filter_map(suggestion).filter(|more| !suggestions.contains(more));
        let more: Vec<Suggestion> = more.collect();
        suggestions.extend(more);
        if suggestions.len() == known {
            break;
        }
        change = amend::amended(&document.text, suggestions.clone());
        judged = self::judged(&document, &change, parsed.as_ref(), &catalogue, has_key)?;
    }
    print!("{}", amend::unified_diff(&document.path.display().to_string(), &document.text, &change.text));
    for (suggestion, reason) in &change.left {
        println!("left to you: {suggestion}: {reason}");
    }
    if change.text == document.text {
        let allowed = judged.as_ref().is_some_and(Vec::is_empty);
        if allowed {
            println!("nothing to write: the policy allows the submission as it stands");
        } else {
            told(judged.as_deref());
            println!("nothing to write: the change is yours to make");
        }
        return Ok(if allowed { Exit::Good } else { Exit::No });
    }
    let stands = told(judged.as_deref());
    if !(arguments.yes || confirmed()?) {
        println!("nothing was written");
        return Ok(Exit::No);
    }
    document.replace(&change.text)?;
    println!("wrote `{}`", document.path.display());
    let in_force = reloaded(&config, &runtime)?;
    Ok(if in_force && !stands { Exit::Good } else { Exit::No })
}

/// A policy document in its file.
struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Puts another text in its place: a reader sees one or the other, whole.
    fn replace(&self, text: &str) -> anyhow::Result<()> {
        // A link stays one: what it leads to is replaced.
        let target = fs::canonicalize(&self.path).with_context(|| format!("can't find `{}`", self.path.display()))?;
        let shown = target.display();
        if fs::read_to_string(&target).with_context(|| format!("can't read `{shown}`"))? != self.text {
            bail!("`{shown}` has changed meanwhile: nothing was written; run the command again");
        }
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let temporary = target.with_file_name(name);
        let written = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
            file.set_permissions(fs::metadata(&target)?.permissions())?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &target)
        };
        written().map_err(|error| {
            // What another process left there is not ours to remove.
            if error.kind() != io::ErrorKind::AlreadyExists {
                drop(fs::remove_file(&temporary));
            }
            anyhow::Error::from(error).context(format!("can't write `{shown}` by way of `{}`", temporary.display()))
        })
    }
}

/// The document of the tenant's policy; `None` for one that ships. A tenant that a token made is not in the configuration: its plan is, by its policy.
fn document(config: &Config, refusal: &RefusalRow) -> anyhow::Result<Option<Document>> {
    let tenants = &config.tenants;
    let path = match tenants.tenant(&refusal.owner.tenant) {
        Some(tenant) => tenant.policy_file.clone(),
        None => {
            let of_policy = tenants.plans().filter(|(_, plan)| plan.policy.name() == refusal.policy);
            let files: BTreeSet<_> = of_policy.map(|(_, plan)| plan.policy_file.clone()).collect();
            match (files.len(), files.into_iter().next()) {
                (1, Some(file)) => file,
                (0, _) | (_, None) => bail!("no plan has a policy `{}` any more", refusal.policy),
                _ => bail!("several policies have the name `{}`: give each its own", refusal.policy),
            }
        }
    };
    let Some(path) = path else { return Ok(None) };
    let text = fs::read_to_string(&path).with_context(|| format!("can't read `{}`", path.display()))?;
    Ok(Some(Document { path: path.to_path_buf(), text }))
}

/// What ships is not changed: a document of one's own extends it.
fn shipped(arguments: &AllowArguments, refusal: &RefusalRow, suggestions: &[Suggestion]) -> anyhow::Result<Exit> {
    let (policy, tenant) = (&refusal.policy, &refusal.owner.tenant);
    let lines = suggest::lines_of(suggestions.iter().cloned());
    let text = format!("name = \"{tenant}\"\nextends = \"{policy}\"\n\n{lines}");
    let Some(path) = &arguments.to else {
        println!("the policy `{policy}` ships with comfygate and is not changed. This document extends it:\n");
        println!("{text}");
        println!("`--to FILE` writes it; then give the tenant or its plan `policy = \"FILE\"` in the tenants file");
        return Ok(Exit::No);
    };
    policies::compiled(&text, path.parent().unwrap_or(Path::new("")))
        .map_err(|faults| anyhow::anyhow!("the document would have faults:\n{}", faults.join("\n")))?;
    let made = fs::OpenOptions::new().write(true).create_new(true).open(path);
    made.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("can't make `{}`", path.display()))?;
    println!(
        "wrote `{}`: give the tenant `{tenant}` or its plan `policy = {:?}` in the tenants file",
        path.display(),
        path
    );
    Ok(Exit::Good)
}

/// What still stands against the submission under the changed document; `None`: its graph is not kept, so nobody can say.
fn judged(
    document: &Document,
    change: &Amended,
    parsed: Option<&Parsed>,
    catalogue: &Catalogue,
    gateway_has_key: bool,
) -> anyhow::Result<Option<Vec<Violation>>> {
    let policy: Policy = policies::compiled(&change.text, document.directory())
        .map_err(|faults| anyhow::anyhow!("the changed document would have faults:\n{}", faults.join("\n")))?;
    let Some(parsed) = parsed else { return Ok(None) };
    // The owner's files are not at hand: each is taken for one as large as the policy assumes.
    let verdict = comfygate_policy::decide(parsed, &policy, catalogue, &FileFacts::assumed(&policy));
    Ok(Some(match verdict {
        // What its caller pays with is not kept. What the gateway pays with is in its configuration.
        Verdict::Allow(approved)
            if approved.has_paid_nodes() && policy.paid_nodes() == PaidNodes::Gateway && !gateway_has_key =>
        {
            vec![paid_nodes()]
        }
        // Of a policy in shadow mode: what it only tells.
        Verdict::Allow(approved) => approved.shadowed().to_vec(),
        // The files of its owner are the gateway's to look up.
        Verdict::Deny(violations) => {
            violations.iter().filter(|violation| !violation.code.starts_with("file_")).cloned().collect()
        }
    }))
}

/// What stands against a submission with paid nodes that the gateway should pay for and can't.
fn paid_nodes() -> Violation {
    Violation {
        code: "paid_nodes_unsupported",
        kind: ViolationKind::Denied,
        node: None,
        class: None,
        input: None,
        bound: None,
        limit: None,
        key: None,
        chain: None,
        message: InspectError::PaidKeyMissing.to_string(),
    }
}

/// Says what still stands against the submission, and whether anything does.
fn told(judged: Option<&[Violation]>) -> bool {
    match judged {
        None => println!("the submission is not kept any more: whether this is all, the next one shows"),
        Some([]) => println!("with this change the submission is accepted"),
        Some(left) => {
            println!("with this change, this still stands against the submission:");
            for violation in left {
                println!("  {} [{}]", printable(&violation.to_string()), violation.code);
                suggest::remark(violation.code).iter().for_each(|remark| println!("    {remark}"));
            }
            return true;
        }
    }
    false
}

/// The catalogue that holds for the tenant while the gateway runs; of an owner's installation only the gateway knows.
fn catalogue(config: &Config, refusal: &RefusalRow) -> anyhow::Result<Catalogue> {
    let bytes = match (&config.object_info_file, config.tenants.tenant(&refusal.owner.tenant)) {
        (Some(path), _) => {
            Some(fs::read(path).with_context(|| format!("can't read the catalogue `{}`", path.display()))?)
        }
        (None, Some(tenant)) => pins::read(&config.state_dir, &tenant.pool).context("can't read the pool's pin")?,
        (None, None) => None,
    };
    match bytes {
        Some(bytes) => Catalogue::from_object_info(&bytes).context("the catalogue is no answer of /object_info"),
        None => Ok(Catalogue::builtin().clone()),
    }
}

fn confirmed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        println!("`--yes` writes it");
        return Ok(false);
    }
    print!("write it? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Has a running gateway read it. Says whether it is in force, or will be at the next start.
fn reloaded(config: &Config, runtime: &Runtime) -> anyhow::Result<bool> {
    let client = ControlClient::new(config.state_dir.join(CONTROL_SOCKET));
    match runtime.block_on(client.reload()) {
        Ok(report) if report.applied => {
            println!("the gateway has read it: configuration {} is in force", report.generation)
        }
        Ok(report) => {
            println!("the gateway keeps its configuration:");
            report.errors.iter().for_each(|error| println!("  {error}"));
            return Ok(false);
        }
        Err(ControlError::NoGateway { .. }) => println!("no gateway runs: it is in force from the next start"),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// Names in it are a caller's: no control character reaches the terminal.
fn printable(text: &str) -> String {
    let escaped = |character: char| -> Vec<char> {
        if character.is_control() { character.escape_default().collect() } else { vec![character] }
    };
    text.chars().flat_map(escaped).collect()
}
