//! The command line. Exit codes everywhere: 0 good; 1 the answer is no (what was named is not there, is refused or has faults); 2 the work could not be
//! done (usage, clap's own too; no gateway where one is needed, no state, a fault that keeps the command itself from working).
//! `status` without a gateway is 1: that is the answer to its question.

pub mod adopt;
pub mod allow;
pub mod backup;
pub mod backend;
pub mod ban;
pub mod catalogue;
pub mod check;
pub mod dead_letters;
#[cfg(feature = "demo")]
pub mod demo;
pub mod doctor;
pub mod export;
pub mod key;
pub mod lifecycle;
pub mod policy;
mod reach;
pub mod refusals;
pub mod restore;
pub mod retention;
pub mod serve;
pub mod session;
pub mod tenant;
pub mod setup;
pub mod status;
pub mod support_bundle;
mod terminal;
pub mod usage;
pub mod user;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Reverse proxy and security gateway in front of ComfyUI.
#[derive(Debug, Parser)]
#[command(name = "comfygate", version, about, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve in front of the configured ComfyUI backends.
    Serve(serve::ServeArguments),
    /// Try it out: the gateway, two simulated backends and two tenants, all in one process.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArguments),
    /// Protect a ComfyUI: ask for it, look at it, and write configuration, policy, first key and systemd unit.
    Setup(setup::SetupArguments),
    /// Look at the ComfyUI backends and say what is wrong with them.
    Doctor(doctor::DoctorArguments),
    /// Check configuration, tenants and policies; print every fault at once.
    Check(check::CheckArguments),
    /// Have the running gateway read its configuration again.
    Reload(lifecycle::ReloadArguments),
    /// Have another process take over from the running gateway, without a refused connection or a lost job.
    Upgrade(lifecycle::UpgradeArguments),
    /// Create, rotate, list, check and revoke API keys, whether the gateway runs or not.
    Key(key::KeyArguments),
    /// Add, list, disable and remove local users, who log in by name and password; give them another password or a one-time link.
    User(user::UserArguments),
    /// List where browsers are logged in, and end that.
    Session(session::SessionArguments),
    /// List tenants; make, change and delete those of the control API; close and open these and those that tokens made; pause, export or erase any.
    Tenant(tenant::TenantArguments),
    /// Show the backends; take one out of work and put it back.
    Backend(backend::BackendArguments),
    /// Ask the policy engine about workflows.
    Policy(policy::PolicyArguments),
    /// Compare what is installed at the backends with what was accepted, and accept it.
    Catalogue(catalogue::CatalogueArguments),
    /// Show what the policy refused, by which rule, and which lines of it would allow it.
    Refusals(refusals::RefusalsArguments),
    /// Remove what is older than its tenant's plan says, or tell what would go.
    Retention(retention::RetentionArguments),
    /// List jobs that lost every attempt; show one, have it accepted anew, or forget it.
    DeadLetters(dead_letters::DeadLettersArguments),
    /// Tell how the running gateway stands; exit code 1 if it would not run a job now.
    Status(status::StatusArguments),
    /// Tell what was charged, by day, tenant, user, model or workflow, as table, JSON or CSV.
    Usage(usage::UsageArguments),
    /// Write all jobs, results and secrets to a file or directory, while the gateway runs or not.
    Backup(backup::BackupArguments),
    /// Gather what helps to find a fault into an archive without secrets, ids and names.
    SupportBundle(support_bundle::BundleArguments),
    /// Make a state directory from a backup, after checking every byte of it.
    Restore(restore::RestoreArguments),
    /// Take workflows, settings, inputs and outputs of a ComfyUI over for a tenant.
    Adopt(adopt::AdoptArguments),
}

/// Which configuration to use.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgument {
    /// Configuration file [default: ./config/gateway.toml, /etc/comfygate/gateway.toml, built-in defaults]
    #[arg(long, value_name = "FILE", env = "COMFYGATE_CONFIG", global = true)]
    pub config: Option<PathBuf>,
}

/// What a shell sees of a program that `SIGPIPE` ended.
const READER_GONE: u8 = 141;

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Who reads what a command prints may have enough before its end, as `head` has: then the command ends too, with [`READER_GONE`].
fn end_with_the_reader() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // `println!` tells by a panic and in no other way.
        let text = panic.payload().downcast_ref::<String>();
        if text.is_some_and(|text| text.starts_with("failed printing to stdout") && text.contains("os error 32")) {
            std::process::exit(READER_GONE.into());
        }
        others(panic);
    }));
}

/// Why a command could not do its work; what it found out itself is in the exit code.
#[derive(Debug)]
pub enum Exit {
    /// Done, and the answer is yes.
    Good,
    /// Done, and the answer is no.
    No,
}

/// Runs a command.
pub fn run(arguments: Arguments) -> ExitCode {
    if !matches!(arguments.command, Command::Serve(_)) {
        end_with_the_reader();
    }
    let done = match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Reload(arguments) => lifecycle::reload(&arguments),
        Command::Upgrade(arguments) => lifecycle::upgrade(&arguments),
        Command::Key(arguments) => key::run(&arguments),
        Command::User(arguments) => user::run(&arguments),
        Command::Session(arguments) => session::run(&arguments),
        Command::Tenant(arguments) => tenant::run(&arguments),
        Command::Backend(arguments) => backend::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
        Command::Catalogue(arguments) => catalogue::run(&arguments),
        Command::Refusals(arguments) => refusals::run(&arguments),
        Command::Retention(arguments) => retention::run(&arguments),
        Command::DeadLetters(arguments) => dead_letters::run(&arguments),
        Command::Usage(arguments) => usage::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::SupportBundle(arguments) => support_bundle::run(&arguments),
        Command::Adopt(arguments) => adopt::run(&arguments),
    };
    match done {
        Ok(Exit::Good) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(1),
        // What was written to somebody who has gone; what comes from the gateway's socket has a name of its own around it.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(READER_GONE),
        Err(error) => {
            eprintln!("comfygate: {error:#}");
            ExitCode::from(2)
        }
    }
}
