//! `comfygate dead-letters`: jobs that lost every attempt. Of a running gateway through its control socket, else from the ledger itself; only a running gateway accepts one anew.

use super::key::audit_target;
use super::reach::{self, Here, NoState};
use super::{ConfigArgument, Exit};
use crate::admin::control_client::ControlClient;
use crate::admin::dead_letters::{self, DEAD_LETTERS_MAX, DeadLetterView, ReplayAnswer};
use crate::clock::{Clock, WallMillis};
use crate::ids::{JobId, TenantId};
use crate::record::audit::Audit;
use crate::record::ledger::dead_letters::{DeadLetter, DeadLetterQuery, DeadLetters};
use anyhow::bail;
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

/// `comfygate dead-letters`
#[derive(Debug, Args)]
pub struct DeadLettersArguments {
    #[command(flatten)]
    which: ConfigArgument,
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<TenantId>,
    /// At most this many, the newest (1000 at most)
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// What to do with one of them; they are listed without
    #[command(subcommand)]
    act: Option<Act>,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Show one with all its attempts and with what was submitted.
    Show {
        /// The job
        job: JobId,
    },
    /// Have one accepted anew for its owner, under a new prompt id, by the policy of now.
    Replay {
        /// The job
        job: JobId,
    },
    /// Forget one.
    Remove {
        /// The job
        job: JobId,
    },
}

/// Runs `comfygate dead-letters`. The answer is no if the one that is asked for is not there, or may not run.
///
/// # Errors
/// When the configuration has faults, neither the gateway nor its ledger can be reached, or a replay is asked for and no gateway runs.
pub fn run(arguments: &DeadLettersArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reached = Reached::reach(&arguments.which)?;
    runtime.block_on(async {
        match arguments.act {
            None => listed(&reached, arguments).await,
            Some(Act::Show { job }) => shown(&reached, job, arguments.json).await,
            Some(Act::Replay { job }) => replayed(&reached, job, arguments.json).await,
            Some(Act::Remove { job }) => removed(&reached, job).await,
        }
    })
}

async fn listed(reached: &Reached, arguments: &DeadLettersArguments) -> anyhow::Result<Exit> {
    let query = DeadLetterQuery { tenant: arguments.tenant.clone(), limit: arguments.limit.min(DEAD_LETTERS_MAX) };
    if let Some(tenant) = &arguments.tenant
        && !reached.knows(tenant).await?
    {
        reach::tell_unknown(tenant);
    }
    let letters = match reached {
        Reached::Gateway(client) => client.dead_letters(&query).await?,
        Reached::Ledger(here) => here.ledger.dead_letters(query).await?,
    };
    let mut out = io::stdout().lock();
    for letter in letters {
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string(&letter)?)?;
        } else {
            write!(out, "{}", account(&letter))?;
        }
    }
    Ok(Exit::Good)
}

async fn shown(reached: &Reached, job: JobId, json: bool) -> anyhow::Result<Exit> {
    let view = match reached {
        Reached::Gateway(client) => client.dead_letter(job).await?,
        Reached::Ledger(here) => dead_letters::view(&*here.ledger, job).await?,
    };
    let Some(DeadLetterView { letter, submission }) = &view else { return Ok(unknown(job)) };
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&view)?)?;
        return Ok(Exit::Good);
    }
    write!(out, "{}", account(letter))?;
    match submission {
        Some(submission) => writeln!(out, "submitted: {submission}")?,
        None => writeln!(out, "what was submitted is not kept any more")?,
    }
    Ok(Exit::Good)
}

async fn replayed(reached: &Reached, job: JobId, json: bool) -> anyhow::Result<Exit> {
    let Reached::Gateway(client) = reached else {
        bail!("no gateway runs: only a running one can accept a job anew");
    };
    match client.replay_dead_letter(job).await? {
        ReplayAnswer::Replayed(replayed) if json => println!("{}", serde_json::to_string(&replayed)?),
        ReplayAnswer::Replayed(replayed) => println!("accepted anew as {}", printable(replayed.prompt_id.as_str())),
        ReplayAnswer::Unknown => return Ok(unknown(job)),
        ReplayAnswer::Refused(why) => {
            eprintln!("comfygate: not accepted: {}", printable(&why));
            return Ok(Exit::No);
        }
    }
    Ok(Exit::Good)
}

async fn removed(reached: &Reached, job: JobId) -> anyhow::Result<Exit> {
    let was_there = match reached {
        Reached::Gateway(client) => client.remove_dead_letter(job).await?,
        Reached::Ledger(here) => {
            let audit = Audit::open(&audit_target(&here.config), Clock::system())?;
            let was_there = dead_letters::remove(&*here.ledger, &audit, job).await?;
            audit.written();
            was_there
        }
    };
    Ok(if was_there { Exit::Good } else { unknown(job) })
}

fn unknown(job: JobId) -> Exit {
    eprintln!("comfygate: there is no dead letter of the job {job}: `comfygate dead-letters` lists them");
    Exit::No
}

/// The running gateway, or its ledger while it does not run.
enum Reached {
    Gateway(ControlClient),
    Ledger(Here),
}

impl Reached {
    fn reach(which: &ConfigArgument) -> anyhow::Result<Self> {
        Ok(match reach::reach(which, NoState::Refused)? {
            reach::Reached::Gateway(client) => Self::Gateway(client),
            reach::Reached::Here(here) => Self::Ledger(here),
        })
    }

    async fn knows(&self, tenant: &TenantId) -> anyhow::Result<bool> {
        match self {
            Self::Gateway(client) => Ok(client.tenant(tenant).await?.is_some()),
            Self::Ledger(here) => here.knows(tenant).await,
        }
    }
}

/// For people: whose, when, why, and every attempt.
fn account(letter: &DeadLetter) -> String {
    let owner = match &letter.owner.user {
        Some(user) => format!("{}/{user}", letter.owner.tenant),
        None => letter.owner.tenant.to_string(),
    };
    let prompt = printable(letter.prompt_id.as_str());
    // Writing into a text can't fail.
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}  job {}  {owner}  prompt {prompt}: {}",
        time(letter.at),
        letter.job,
        printable(&letter.reason)
    );
    for attempt in &letter.attempts {
        let began = if attempt.started_at.is_some() { "began" } else { "did not begin" };
        let at = time(attempt.assigned_at);
        let _ = writeln!(text, "  {}. {at} at {}, {began}: {}", attempt.n, attempt.backend, printable(&attempt.reason));
    }
    text
}

/// Some of it comes from callers and backends: no control character reaches the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn time(at: WallMillis) -> String {
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(at.seconds()));
    at.map_or_else(|| "?".to_owned(), httpdate::fmt_http_date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;
    use crate::record::ledger::dead_letters::LostAttempt;
    use comfygate_policy::Digest;

    #[test]
    fn a_letter_is_told_with_its_attempts_and_without_control_characters() {
        let letter = DeadLetter {
            job: JobId::new(),
            at: WallMillis(0),
            owner: Owner {
                tenant: "acme".parse().unwrap(),
                user: Some("ann".parse().unwrap()),
                key: None,
                shared: false,
            },
            prompt_id: "p".parse().unwrap(),
            client_id: None,
            submission: Digest::of(b""),
            accepted_at: WallMillis(0),
            reason: "tried\u{1b}[2J twice".into(),
            attempts: vec![LostAttempt {
                n: 1,
                backend: "gpu0".parse().unwrap(),
                assigned_at: WallMillis(0),
                started_at: None,
                reason: "gone".into(),
            }],
        };
        let text = account(&letter);
        assert!(text.contains("acme/ann  prompt p: tried [2J twice\n"), "{text}");
        assert!(text.contains("1. Thu, 01 Jan 1970 00:00:00 GMT at gpu0, did not begin: gone"), "{text}");
    }
}
