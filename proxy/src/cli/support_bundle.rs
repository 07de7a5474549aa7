//! `comfygate support-bundle`: what helps somebody else to help, without a secret, an id or a name in it.
//!
//! The log is not in it: its lines are free text, and no list says which of them may be shown. Whoever is asked for it reads it first.

mod redact;

use super::{ConfigArgument, Exit, reach};
use crate::admin::state::Status;
use crate::clock::Clock;
use crate::config::faults::{Fault, read_bounded};
use crate::config::{AuditConfig, Config};
use crate::record::backup::EntryName;
use crate::record::backup::archive::Writer;
use crate::record::durable::FILE_MODE;
use anyhow::{Context, bail};
use redact::{Pseudonyms, configuration, place};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A configuration file that is longer is none.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// How much of the end of the audit file is looked at.
const AUDIT_BYTES_MAX: u64 = 16 << 20;

/// What stands in the bundle beside its own data.
const README: &str = "\
What `comfygate support-bundle` gathered. Nothing in it is a secret, or an id or name of a tenant, user, key or file; ids of backends are as you wrote them. Values are shown by a list of those that may be, and ids are
replaced by pseudonyms (`#` and 12 digits) that are the same within this bundle only. Look through it before you send it all the same.

about.json     version, system, and what is missing here and why
gateway.json   the configuration file; (set) is a value that is not shown
tenants.json   plans and tenants, likewise
status.json    what `comfygate status --json` says, without free text
metrics.txt    the text of /metrics
audit.jsonl    the last lines of the audit file, without their reasons
";

/// What `comfygate support-bundle` is asked.
#[derive(Debug, clap::Args)]
pub struct BundleArguments {
    /// The archive to make; must not be there yet
    #[arg(long, value_name = "FILE.tar")]
    to: PathBuf,
    /// How many of the last audit lines
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(0..=50_000))]
    lines: u32,
    #[command(flatten)]
    which: ConfigArgument,
}

/// Runs `comfygate support-bundle`; what can't be had is left out, and said so in the bundle.
///
/// # Errors
/// When the archive can't be written.
pub fn run(arguments: &BundleArguments) -> anyhow::Result<Exit> {
    let mut bundle = Bundle { entries: vec![("README.txt", README.as_bytes().to_vec())], missing: Vec::new() };
    let (errors, warnings) = match Config::load(arguments.which.config.as_deref()) {
        Ok(loaded) => {
            bundle.files(loaded.config.file.as_deref(), loaded.config.tenants_file.as_deref());
            bundle.audit(&loaded.config.audit, arguments.lines)?;
            (Vec::new(), loaded.warnings_of_files())
        }
        Err(found) => {
            bundle.files(arguments.which.config.as_deref(), None);
            bundle.missing.push("audit.jsonl: the configuration has faults");
            (found.errors, found.warnings)
        }
    };
    bundle.gateway(&arguments.which)?;
    let faults = json!({"errors": positions(&errors), "warnings": positions(&warnings)});
    bundle.about(&faults);
    bundle.write(&arguments.to)?;
    println!("{}", arguments.to.display());
    Ok(Exit::Good)
}

/// `FILE:LINE:COLUMN` without the folder. What a fault says may repeat a value.
fn positions(faults: &[Fault]) -> Value {
    let position = |fault: &Fault| {
        let file = match fault.place.file.extension() {
            Some(extension) if extension == "toml" => "toml file",
            _ => "file",
        };
        json!(format!("{file}:{}:{}", fault.place.line, fault.place.column))
    };
    faults.iter().map(position).collect()
}

struct Bundle {
    entries: Vec<(&'static str, Vec<u8>)>,
    missing: Vec<&'static str>,
}

impl Bundle {
    fn add_json(&mut self, name: &'static str, value: &Value) {
        self.entries.push((name, format!("{value:#}\n").into_bytes()));
    }

    fn about(&mut self, faults: &Value) {
        let about = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "system": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
            "processors": std::thread::available_parallelism().map_or(0, usize::from),
            "made_at": Clock::system().wall(),
            "configuration_faults": faults,
            "missing": self.missing,
        });
        self.add_json("about.json", &about);
    }

    fn files(&mut self, gateway: Option<&Path>, tenants: Option<&Path>) {
        match gateway.map(shown_file) {
            Some(Some(shown)) => self.add_json("gateway.json", &shown),
            Some(None) => self.missing.push("gateway.json: the file can't be read as TOML"),
            None => self.missing.push("gateway.json: there is no configuration file, built-in defaults are used"),
        }
        match tenants.map(shown_file) {
            Some(Some(shown)) => self.add_json("tenants.json", &shown),
            Some(None) => self.missing.push("tenants.json: the file can't be read as TOML"),
            None => self.missing.push("tenants.json: no such file is known"),
        }
    }

    fn audit(&mut self, audit: &AuditConfig, lines: u32) -> anyhow::Result<()> {
        let AuditConfig::File { path, .. } = audit else {
            self.missing.push("audit.jsonl: audit lines go to standard output");
            return Ok(());
        };
        let Ok(text) = tail(path) else {
            self.missing.push("audit.jsonl: the file can't be read");
            return Ok(());
        };
        let names = Pseudonyms::draw()?;
        let mut last: Vec<&str> = text.lines().rev().take(usize::try_from(lines).unwrap_or(usize::MAX)).collect();
        last.reverse();
        let mut shown = Vec::new();
        for line in last.into_iter().filter_map(|line| names.audit_line(line)) {
            writeln!(shown, "{line}")?;
        }
        self.entries.push(("audit.jsonl", shown));
        Ok(())
    }

    fn gateway(&mut self, which: &ConfigArgument) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Ok(gateway) = reach::running(which) else {
            self.missing.push("status.json, metrics.txt: the configuration does not tell the state directory, or this user may not ask the gateway");
            return Ok(());
        };
        match runtime.block_on(async { (gateway.status().await, gateway.metrics().await) }) {
            (Ok(status), Ok(metrics)) => {
                self.add_json("status.json", &shown_status(&status));
                self.entries.push(("metrics.txt", metrics.to_vec()));
            }
            _ => self.missing.push("status.json, metrics.txt: no gateway answers on the control socket"),
        }
        Ok(())
    }

    fn write(&self, to: &Path) -> anyhow::Result<()> {
        let at = || format!("`{}`", to.display());
        if to.symlink_metadata().is_ok() {
            bail!("`{}` is there already: name a new file", to.display());
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(to).with_context(at)?;
        let written = self.archive(file);
        if written.is_err() {
            // Best effort: half a bundle is of no use.
            let _ = std::fs::remove_file(to);
        }
        written.with_context(at)
    }

    fn archive(&self, file: File) -> anyhow::Result<()> {
        let mut archive = Writer::new(file, Clock::system().wall().seconds());
        for (name, bytes) in &self.entries {
            archive.add(&EntryName::parse(name)?, bytes.len() as u64, &mut bytes.as_slice())?;
        }
        Ok(archive.finish()?.sync_all()?)
    }
}

fn shown_file(path: &Path) -> Option<Value> {
    let text = String::from_utf8(read_bounded(path, FILE_BYTES_MAX).ok()?).ok()?;
    Some(configuration(&toml::from_str(&text).ok()?))
}

/// Numbers and words of ours. Reasons and paths are free text.
fn shown_status(status: &Status) -> Value {
    let backends = status.backends.iter().map(
        |backend| json!({"id": backend.id, "url": place(&backend.url), "up": backend.up, "outstanding": backend.outstanding}),
    );
    let listeners = status.listeners.iter().map(|listener| json!({"kind": listener.kind}));
    json!({
        "healthy": status.healthy, "reasons": status.reasons.len(), "version": status.version, "now": status.now,
        "uptime_seconds": status.uptime_seconds, "generation": status.generation, "listeners": listeners.collect::<Vec<_>>(),
        "backends": backends.collect::<Vec<_>>(), "jobs": status.jobs, "websockets": status.websockets,
        "store_writable": status.store_writable, "free_bytes": status.free_bytes, "free_space_min": status.free_space_min,
        "audit_dropped": status.audit_dropped,
    })
}

/// The end of a file, from the first whole line on.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(AUDIT_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(AUDIT_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if from == 0 { text } else { text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default() })
}
