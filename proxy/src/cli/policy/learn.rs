//! `comfygate policy learn`: a policy from workflows that ran somewhere.

use super::workflows::{self, Submission};
use super::{Surroundings, plain, shown};
use crate::app::inspector;
use crate::cli::refusals::Reached;
use crate::cli::{ConfigArgument, Exit};
use crate::config::Config;
use crate::dispatch::comfyui::ComfyUi;
use crate::endpoint::BackendEndpoint;
use crate::ids::PoolId;
use crate::record::ledger::refusals::RefusalQuery;
use anyhow::{Context, bail};
use clap::Args;
use comfygate_policy::learn::{LearnError, LearnOptions, Learned, LeftOut, Sample, learn};
use comfygate_policy::{Catalogue, FileFact, FileFacts, FileReference, Parsed, Policy, Verdict, decide};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Entries of a backend's history that are read; ComfyUI keeps ten thousand.
const HISTORY_MAX: u32 = 10_000;
/// Refusals that are read; the gateway keeps about a thousand a tenant.
const REFUSALS_MAX: usize = 10_000;
/// Violations of one workflow that are told.
const TOLD_MAX: usize = 3;

#[derive(Debug, Args)]
pub(super) struct LearnArguments {
    /// Learn from the history of this running ComfyUI as well (again for each further one)
    #[arg(long, value_name = "URL")]
    from_backend: Vec<String>,
    /// Learn from what the gateway refused as well: what is kept of it
    #[arg(long)]
    from_refusals: bool,
    /// Learn from what policies in shadow mode would have refused as well
    #[arg(long)]
    from_shadow: bool,
    /// Whose refusals
    #[command(flatten)]
    which: ConfigArgument,
    /// Judge by the catalogue that holds in this pool [default: the one pool that has a catalogue of its own]
    #[arg(long, conflicts_with = "object_info")]
    pool: Option<PoolId>,
    /// The policy's name
    #[arg(long, default_value = "learned")]
    name: String,
    /// How many times above the largest value found a cap stands
    #[arg(long, value_name = "FACTOR", default_value_t = 1.25)]
    headroom: f64,
    /// Write no caps on steps and sizes, and learn what has no bounds as well
    #[arg(long)]
    without_caps: bool,
    /// Write the policy to this file, which must not be there, instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep this part of the workflows aside, such as 0.3, and tell how many of them the policy accepts that was learned from the rest
    #[arg(long, value_name = "PART")]
    check: Option<f64>,
    /// Pixels that a latent cell becomes in the largest VAE installed
    #[arg(long, value_name = "PIXELS", default_value_t = 8)]
    vae_scale: u32,
    /// Factor of the largest upscale model installed
    #[arg(long, value_name = "FACTOR", default_value_t = 4)]
    upscale_model_factor: u32,
    #[command(flatten)]
    surroundings: Surroundings,
    /// Workflows in API format, whole bodies of /prompt, pictures and sounds that ComfyUI made, directories of such, or - for standard input
    #[arg(required_unless_present_any = ["from_backend", "from_refusals", "from_shadow"], value_name = "WORKFLOW")]
    workflows: Vec<PathBuf>,
}

pub(super) fn run(arguments: &LearnArguments) -> anyhow::Result<Exit> {
    let (catalogue, which) = catalogue(arguments)?;
    eprintln!("judged by {which}");
    let options = LearnOptions {
        name: arguments.name.clone(),
        headroom: arguments.headroom,
        caps: !arguments.without_caps,
        vae_scale: arguments.vae_scale,
        upscale_model_factor: arguments.upscale_model_factor,
    };
    let mut samples = gathered(arguments, &catalogue)?;
    let aside = match arguments.check {
        None => Vec::new(),
        Some(part) => set_aside(&mut samples, part)?,
    };
    let learned = match learn(&samples, &catalogue, &options) {
        Ok(learned) => learned,
        Err(ref error @ LearnError::Nothing(ref left_out)) => {
            tell_left_out(left_out);
            eprintln!("comfygate: {error}");
            return Ok(Exit::No);
        }
        Err(error) => return Err(error.into()),
    };
    match &arguments.output {
        None => print!("{}", learned.document),
        Some(path) => {
            let created = OpenOptions::new().write(true).create_new(true).open(path);
            let mut file = created.with_context(|| format!("can't write `{}`", shown(path)))?;
            file.write_all(learned.document.as_bytes()).with_context(|| format!("can't write `{}`", shown(path)))?;
        }
    }
    tell_left_out(&learned.left_out);
    let many = if learned.samples == 1 { "" } else { "s" };
    eprintln!("learned from {} workflow{many}, {} left out", learned.samples, learned.left_out.len());
    if arguments.check.is_some() {
        tell_aside(&learned, &aside, &catalogue, &options)?;
    }
    Ok(Exit::Good)
}

/// What the workflows are judged by, and its name: the file that was asked for, what holds in the gateway's pool where a gateway is asked, else the shipped catalogue.
fn catalogue(arguments: &LearnArguments) -> anyhow::Result<(Cow<'static, Catalogue>, String)> {
    let given = &arguments.surroundings.object_info;
    let of_a_gateway = arguments.from_refusals || arguments.from_shadow || arguments.pool.is_some();
    if given.is_some() || !of_a_gateway {
        let which = given.as_ref().map_or_else(shipped, |path| format!("the catalogue of `{}`", shown(path)));
        return Ok((arguments.surroundings.catalogue()?, which));
    }
    let config = configuration(&arguments.which)?;
    let inspector = inspector(&config)?;
    let owned = |data: Arc<Catalogue>| Cow::Owned(Catalogue::clone(&data));
    if let Some(path) = &config.object_info_file {
        let which = format!("the catalogue of the configuration, `{}`", shown(path));
        return Ok((owned(inspector.catalogue_of(&PoolId::default_pool())), which));
    }
    let pools: BTreeSet<&PoolId> = config.backends.iter().map(|backend| &backend.pool).collect();
    if let Some(pool) = arguments.pool.as_ref().filter(|pool| !pools.contains(pool)) {
        bail!("no backend is in a pool `{pool}`: name one of the configuration");
    }
    let wanted = |pool: &&&PoolId| arguments.pool.as_ref().is_none_or(|wanted| wanted == **pool);
    let pinned: Vec<&PoolId> = pools.iter().filter(wanted).copied().filter(|pool| inspector.is_pinned(pool)).collect();
    let digests: BTreeSet<String> =
        pinned.iter().map(|pool| inspector.catalogue_of(pool).digest().to_string()).collect();
    match pinned.as_slice() {
        [] => Ok((Cow::Borrowed(Catalogue::builtin()), shipped())),
        [pool, ..] if digests.len() == 1 => {
            Ok((owned(inspector.catalogue_of(pool)), format!("the catalogue that was accepted for the pool `{pool}`")))
        }
        several => {
            let names: Vec<String> = several.iter().map(|pool| format!("`{pool}`")).collect();
            bail!("the pools {} have catalogues of their own: name one by `--pool`", names.join(", "))
        }
    }
}

fn shipped() -> String {
    "the shipped catalogue, which knows ComfyUI's own classes".to_owned()
}

fn configuration(which: &ConfigArgument) -> anyhow::Result<Config> {
    let loaded = Config::load(which.config.as_deref());
    Ok(loaded.map_err(|errors| anyhow::anyhow!("the configuration has faults:\n{errors}"))?.config)
}

/// All workflows that can be read; what can't is told.
fn gathered(arguments: &LearnArguments, catalogue: &Catalogue) -> anyhow::Result<Vec<Sample>> {
    // Nobody knows yet what the policy will assume of uploads: what a document without a word about it does.
    let policy = Policy::from_toml("name = \"learned\"")?;
    let mut samples = Vec::new();
    let mut add = |submission: Submission| {
        match submission.parsed() {
            Ok(parsed) => {
                let files = files(&parsed, &policy, catalogue);
                samples.push(Sample { name: submission.file, parsed, files });
            }
            Err(fault) => eprintln!("left out: {}: {fault}", submission.file),
        }
        Ok(())
    };
    workflows::for_each(&arguments.workflows, &mut add)?;
    for url in &arguments.from_backend {
        for submission in history(url)? {
            add(submission)?;
        }
    }
    for (wanted, shadow) in [(arguments.from_refusals, false), (arguments.from_shadow, true)] {
        if wanted {
            refused(&arguments.which, shadow)?.into_iter().try_for_each(&mut add)?;
        }
    }
    Ok(samples)
}

/// Every plain name is taken for an upload, and so is what a gateway calls an upload at its backends: pictures and histories of those have such names.
fn files(parsed: &Parsed, policy: &Policy, catalogue: &Catalogue) -> FileFacts {
    let mut files = FileFacts::assumed(policy);
    let Some(assumed) = Policy::builtin("default").and_then(|default| default.assumed_upload()) else { return files };
    for FileReference { name, directory, .. } in parsed.file_references(catalogue) {
        let segments: Vec<&str> = name.split('/').collect();
        if let ["t", _owner, file] = segments.as_slice() {
            let is_still = [".png", ".jpg"].iter().any(|ending| file.ends_with(ending));
            let frames = if is_still { 1 } else { assumed.frames };
            let fact = FileFact {
                canonical_name: name.clone(),
                width: assumed.width,
                height: assumed.height,
                frames,
                seconds: Some(assumed.seconds),
            };
            files.insert(name, directory, fact);
        }
    }
    files
}

/// What the gateway keeps of the submissions that it refused, or would have refused.
fn refused(which: &ConfigArgument, shadow: bool) -> anyhow::Result<Vec<Submission>> {
    let reached = Reached::reach(which)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let query = RefusalQuery { tenant: None, since: None, shadow, limit: REFUSALS_MAX };
        let mut found = Vec::new();
        for row in reached.refusals(query).await?.into_iter().filter(|row| row.shadow == shadow) {
            let view = reached.refusal(row.request).await?;
            if let Some(submission) = view.and_then(|view| view.submission) {
                found.push(Submission::of_body(format!("request {}", row.request), &submission));
            }
        }
        Ok(found)
    })
}

/// What a backend remembers that it ran.
fn history(url: &str) -> anyhow::Result<Vec<Submission>> {
    let endpoint = BackendEndpoint::parse(url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let graphs = runtime
        .block_on(ComfyUi::new(endpoint).history_graphs(HISTORY_MAX))
        .with_context(|| format!("the history of `{url}` can't be read"))?;
    let named = |(id, graph)| Submission::of_graph(format!("{url}: {id}"), &graph);
    Ok(graphs.into_iter().map(named).collect())
}

/// Takes a part of the samples away: which ones depends on what they say, neither on their order nor on their names.
fn set_aside(samples: &mut Vec<Sample>, part: f64) -> anyhow::Result<Vec<Sample>> {
    if !(part > 0.0 && part < 1.0) {
        bail!("--check {part}: the part is between 0 and 1, such as 0.3");
    }
    samples.sort_by_cached_key(|sample| sample.parsed.digest());
    samples.dedup_by_key(|sample| sample.parsed.digest());
    #[expect(clippy::cast_precision_loss, reason = "a count of files")]
    let wanted = samples.len() as f64 * part;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the count")]
    let aside = wanted.round() as usize;
    Ok(samples.drain(..aside.min(samples.len())).collect())
}

fn tell_left_out(left_out: &[LeftOut]) {
    for LeftOut { name, violations } in left_out {
        eprintln!("left out: {name}");
        violations
            .iter()
            .take(TOLD_MAX)
            .for_each(|violation| eprintln!("  {} [{}]", plain(&violation.to_string()), violation.code));
        if let Some(more @ 1..) = violations.len().checked_sub(TOLD_MAX) {
            eprintln!("  and {more} more");
        }
    }
}

/// How the document judges what it was not learned from.
fn tell_aside(
    learned: &Learned,
    aside: &[Sample],
    catalogue: &Catalogue,
    options: &LearnOptions,
) -> anyhow::Result<()> {
    let policy = Policy::from_toml(&learned.document).map_err(|faults| anyhow::anyhow!("{faults}"))?;
    let (mut accepted, mut rules) = (0usize, BTreeMap::<&'static str, usize>::new());
    for sample in aside {
        match decide(&sample.parsed, &policy, catalogue, &sample.files) {
            Verdict::Allow(_) => accepted += 1,
            Verdict::Deny(violations) => {
                let mut codes: Vec<&'static str> = violations.iter().map(|violation| violation.code).collect();
                codes.sort_unstable();
                codes.dedup();
                codes.into_iter().for_each(|code| *rules.entry(code).or_default() += 1);
            }
        }
    }
    // What could not be learned itself is no fault of the document's.
    let possible =
        learn(aside, catalogue, options).map_or(0, |of_them| aside.len().saturating_sub(of_them.left_out.len()));
    let percent = (accepted * 100).checked_div(possible).unwrap_or(0);
    eprintln!(
        "of {} kept aside it accepts {accepted}, {percent} % of the {possible} that could be learned themselves",
        aside.len()
    );
    rules.iter().for_each(|(code, count)| eprintln!("  {code}: {count} refused"));
    Ok(())
}
