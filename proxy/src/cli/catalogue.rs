//! `comfygate catalogue diff|accept`: which classes of packs a pool's tenants may be allowed at all. ComfyUI's own classes need no word.

use super::{ConfigArgument, Exit, reach};
use crate::admin::catalogue::{CatalogueDiff, ClassView, Differences, OtherBackend};
use crate::ids::PoolId;
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

/// Classes that are printed of each kind for each further backend.
const NAMES_MAX: usize = 20;

/// `comfygate catalogue …`
#[derive(Debug, Args)]
pub struct CatalogueArguments {
    #[command(subcommand)]
    command: CatalogueCommand,
    #[command(flatten)]
    which: ConfigArgument,
}

#[derive(Debug, Subcommand)]
enum CatalogueCommand {
    /// Show which node classes of a pool's backends are new, changed or gone, and which backends differ from one another; exit code 1 if any does
    Diff {
        /// The pool
        #[arg(long, default_value_t = PoolId::default_pool())]
        pool: PoolId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let what is installed now hold: tenants' policies decide about its classes, and waiting jobs are decided again
    Accept {
        /// The pool
        #[arg(long, default_value_t = PoolId::default_pool())]
        pool: PoolId,
        /// Accept without asking
        #[arg(long)]
        yes: bool,
    },
}

/// Runs `comfygate catalogue …`.
///
/// # Errors
/// When the configuration has faults, or no gateway runs, or it refuses.
pub fn run(arguments: &CatalogueArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let gateway = reach::running(&arguments.which)?;
    match &arguments.command {
        CatalogueCommand::Diff { pool, json } => {
            let diff = runtime.block_on(gateway.catalogue_diff(pool))?;
            if *json {
                println!("{}", serde_json::to_string(&diff)?);
            } else {
                print(&diff);
            }
            let same = is_same(&diff) && diff.others.iter().all(is_known_and_same);
            Ok(if same { Exit::Good } else { Exit::No })
        }
        CatalogueCommand::Accept { pool, yes } => {
            let diff = runtime.block_on(gateway.catalogue_diff(pool))?;
            print(&diff);
            if is_same(&diff) && diff.pinned {
                return Ok(Exit::Good);
            }
            if !(*yes || confirmed()?) {
                println!("nothing was accepted");
                return Ok(Exit::No);
            }
            let now = runtime.block_on(gateway.accept_catalogue(pool, diff.installed))?;
            println!("accepted: the catalogue {} holds in the pool `{}`", now.holds, now.pool);
            Ok(Exit::Good)
        }
    }
}

fn is_same(diff: &CatalogueDiff) -> bool {
    diff.new.is_empty() && diff.changed.is_empty() && diff.gone.is_empty()
}

/// A backend that is down can't be said to differ.
fn is_known_and_same(other: &OtherBackend) -> bool {
    other.beside_shown.is_none() && other.beside_held.is_none()
}

fn print_others(shown: &str, others: &[OtherBackend]) {
    for other in others {
        let backend = &other.backend;
        match (&other.unknown, &other.same_as) {
            (Some(reason), _) => println!("{backend}: not compared: {}", printable(reason)),
            (None, Some(same)) if same.as_str() == shown => println!("{backend}: as at {same}"),
            (None, same) => {
                match same {
                    Some(same) => println!("{backend}: as at {same}; beside {shown}:"),
                    None => println!("{backend}: beside {shown}:"),
                }
                print_differences(&other.beside_shown);
                if other.beside_held.is_none() {
                    println!("  no difference from the catalogue that holds");
                } else {
                    println!("{backend}: beside the catalogue that holds:");
                    print_differences(&other.beside_held);
                }
            }
        }
    }
}

fn print_differences(found: &Differences) {
    for (mark, classes) in [('+', &found.new), ('~', &found.changed), ('-', &found.gone)] {
        for class in classes.iter().take(NAMES_MAX) {
            println!("  {mark} {}", printable(class));
        }
        if let Some(more) = classes.len().checked_sub(NAMES_MAX).filter(|more| *more > 0) {
            println!("  {mark} and {more} more: `--json` names them");
        }
    }
}

fn print(diff: &CatalogueDiff) {
    let source = if diff.pinned { "accepted before" } else { "of the shipped or configured catalogue" };
    println!("pool `{}`, as installed at {}, beside what is {source}:", diff.pool, diff.backend);
    let mut packs: BTreeMap<&str, Vec<&ClassView>> = BTreeMap::new();
    for class in &diff.new {
        packs.entry(&class.pack).or_default().push(class);
    }
    for (pack, classes) in packs {
        println!("new, of {}:", printable(pack));
        for class in classes {
            match &class.closed {
                Some(reason) => println!("  + {} (stays closed: {})", printable(&class.class), printable(reason)),
                None => println!("  + {}", printable(&class.class)),
            }
        }
    }
    for (title, mark, classes) in [("changed:", '~', &diff.changed), ("gone:", '-', &diff.gone)] {
        if !classes.is_empty() {
            println!("{title}");
            classes.iter().for_each(|class| println!("  {mark} {}", printable(class)));
        }
    }
    for (title, lines) in [("what is changed in them:", &diff.changes), ("to be annotated:", &diff.unjudged)] {
        if !lines.is_empty() {
            println!("{title}");
            lines.iter().for_each(|line| println!("  {}", printable(line)));
        }
    }
    if is_same(diff) {
        println!("no difference");
    }
    print_others(diff.backend.as_str(), &diff.others);
}

fn confirmed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        println!("`--yes` accepts it");
        return Ok(false);
    }
    print!("accept it? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Names of classes are a pack's: no control character reaches the terminal.
fn printable(text: &str) -> String {
    let escaped = |character: char| -> Vec<char> {
        if character.is_control() { character.escape_default().collect() } else { vec![character] }
    };
    text.chars().flat_map(escaped).collect()
}
