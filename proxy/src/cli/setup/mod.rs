//! `comfygate setup`: from an open ComfyUI to a protected one, in one sitting.
//!
//! Asks for the backend, looks at it, lists its node packs, and with one yes writes configuration, tenant, policy, first key and a systemd unit. Nothing that is
//! there is overwritten, and nothing is written before everything that can be refused was.

mod files;
mod packs;

use super::doctor::{self, Level};
use super::{ConfigArgument, Exit};
use crate::admin::keys::{KeyRequest, KeyService};
use crate::app;
use crate::clock::Clock;
use crate::config::{BackendConfig, Config};
use crate::dispatch::comfyui::ComfyUi;
use crate::endpoint::BackendEndpoint;
use crate::ids::{TenantId, UserId};
use crate::listen::own_ca;
use crate::owner::Scope;
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use anyhow::{Context, bail};
use files::Plan;
use packs::Pack;
use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where ComfyUI listens unless told otherwise.
const USUAL_BACKEND: &str = "http://127.0.0.1:8188";

/// What `comfygate setup` is told beforehand; what is not is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct SetupArguments {
    /// Where ComfyUI listens; asked for if not given
    #[arg(long, value_name = "URL")]
    backend: Option<String>,
    /// Directory to write into: config/, state/, comfygate.service
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Let other machines of the network in: listen on every address, name them in the certificate, show a QR code
    #[arg(long)]
    lan: bool,
    /// A further name or address of this machine for the certificate; may be given several times
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Port to listen on
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// Port of the metrics, on loopback
    #[arg(long, default_value_t = 9901)]
    metrics_port: u16,
    /// The person that the first key is for
    #[arg(long, default_value = "me")]
    user: UserId,
    /// Ask nothing: take what was given and the usual for the rest
    #[arg(long, short)]
    yes: bool,
}

/// Runs `comfygate setup`; exit 1 if the answer was no.
///
/// # Errors
/// When no ComfyUI answers, something that would be written is there already, or can't be written.
pub fn run(arguments: &SetupArguments) -> anyhow::Result<Exit> {
    let (input, mut out) = (io::stdin().lock(), io::stdout().lock());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let own = if arguments.lan { doctor::own_addresses() } else { Vec::new() };
    Setup { arguments, own, input, out: &mut out }.run(&runtime)
}

struct Setup<'a, R> {
    arguments: &'a SetupArguments,
    /// This machine's addresses; with `--lan`.
    own: Vec<IpAddr>,
    input: R,
    out: &'a mut dyn Write,
}

impl<R: BufRead> Setup<'_, R> {
    fn run(mut self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Exit> {
        let dir = std::path::absolute(&self.arguments.dir).context("the directory")?;
        let url = match &self.arguments.backend {
            Some(url) => url.clone(),
            None => self.ask("Where does ComfyUI listen?", USUAL_BACKEND)?,
        };
        let endpoint = BackendEndpoint::parse(&url)?;
        let plan = self.plan(&dir, &endpoint);
        refuse_overwriting(&plan)?;

        let info = runtime.block_on(ComfyUi::new(endpoint.clone()).object_info());
        let info =
            info.with_context(|| format!("no ComfyUI answers at {endpoint}: start it first, or say --backend URL"))?;
        let packs = packs::packs(&info)?;
        self.show_packs(&packs)?;
        let backend = BackendConfig::new(plan.backend_id.clone(), endpoint);
        let examined = runtime.block_on(doctor::examine(std::slice::from_ref(&backend)));
        writeln!(self.out)?;
        doctor::print(self.out, &examined)?;
        writeln!(self.out)?;
        if !self.agreed("Protect it, with all of these packs in use?")? {
            writeln!(self.out, "Nothing was written.")?;
            return Ok(Exit::No);
        }

        write_files(&plan)?;
        let config = Config::load(Some(&plan.gateway_file()))
            .map_err(|errors| anyhow::anyhow!("what was written has faults, which should not be:\n{errors}"))?
            .config;
        let key = runtime.block_on(first_key(&config, &plan.tenant, &self.arguments.user))?;
        self.tell(&plan, &config, &key)?;
        let exposed = examined.iter().flat_map(|one| &one.findings).any(|finding| finding.level == Level::Problem);
        if exposed {
            writeln!(self.out, "\nNot protected yet: see the problems above. `comfygate doctor` looks again.")?;
        }
        Ok(Exit::Good)
    }

    fn plan(&self, dir: &Path, endpoint: &BackendEndpoint) -> Plan {
        let hosts = own_ca::hostname().into_iter();
        // Machines of a home network find each other by mDNS.
        let lan_names = hosts.filter(|_| self.arguments.lan).flat_map(|host| {
            let local = (!host.contains('.')).then(|| format!("{host}.local"));
            [Some(host), local].into_iter().flatten()
        });
        let own = self.own.iter().map(ToString::to_string);
        let names: Vec<String> = own.chain(lan_names).chain(self.arguments.names.iter().cloned()).collect();
        Plan::new(dir, endpoint, self.arguments.port, self.arguments.metrics_port, self.arguments.lan, names)
    }

    fn ask(&mut self, question: &str, usual: &str) -> anyhow::Result<String> {
        if self.arguments.yes {
            return Ok(usual.to_owned());
        }
        write!(self.out, "{question} [{usual}] ")?;
        self.out.flush()?;
        let mut answer = String::new();
        self.input.read_line(&mut answer)?;
        let answer = answer.trim();
        Ok(if answer.is_empty() { usual.to_owned() } else { answer.to_owned() })
    }

    /// Yes, or the end: nobody there is no yes.
    fn agreed(&mut self, question: &str) -> anyhow::Result<bool> {
        if self.arguments.yes {
            return Ok(true);
        }
        write!(self.out, "{question} [y/N] ")?;
        self.out.flush()?;
        let mut answer = String::new();
        self.input.read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    fn show_packs(&mut self, packs: &[Pack]) -> io::Result<()> {
        writeln!(self.out, "It has these node packs:")?;
        for pack in packs {
            writeln!(self.out, "  {:5} classes  {}", pack.classes, pack.name)?;
        }
        Ok(())
    }

    fn tell(&mut self, plan: &Plan, config: &Config, key: &str) -> anyhow::Result<()> {
        let out = &mut *self.out;
        writeln!(out, "\nWritten:")?;
        for (path, _) in plan.files() {
            writeln!(out, "  {}", path.display())?;
        }
        writeln!(out, "  {} (keep it: ledger, results, certificate)", config.state_dir.display())?;
        writeln!(out, "\nYour key, shown only now:\n\n  {key}\n")?;
        writeln!(out, "Start the gateway:\n\n  {}\n", plan.serve_command())?;
        writeln!(out, "or for good (as root):\n\n  {}\n", plan.install_command())?;
        writeln!(out, "Then open {} and log in with the key.", plan.page_url(&self.own))?;
        let names = own_ca::Names::new(
            config.own_names().iter().map(String::as_str),
            config.listen.iter().filter_map(|listen| listen.address.tcp()),
        );
        let made = own_ca::ensure(&config.state_dir, &names, Clock::system().wall())
            .context("the certificate can't be made")?;
        writeln!(
            out,
            "Browsers warn until they trust {} (SHA-256 {}).",
            made.ca_certificate.display(),
            own_ca::fingerprint(&made.ca_certificate)?
        )?;
        if self.arguments.lan {
            let url = format!("{}/gate/ca.crt", plan.page_url(&self.own));
            writeln!(out, "Other devices get it from {url}:\n\n{}", qr_code(&url)?)?;
        }
        Ok(())
    }
}

/// Black on white whatever the terminal's colours are: cameras read nothing else reliably.
fn qr_code(text: &str) -> anyhow::Result<String> {
    let code = qrcode::QrCode::new(text).context("QR code")?;
    let drawn = code.render::<qrcode::render::unicode::Dense1x2>().quiet_zone(true).build();
    Ok(drawn.lines().map(|line| format!("\x1b[30;107m{line}\x1b[0m\n")).collect())
}

fn refuse_overwriting(plan: &Plan) -> anyhow::Result<()> {
    let there: Vec<String> = plan
        .files()
        .into_iter()
        .map(|(path, _)| path)
        .chain([plan.state_dir.join("ledger.redb")])
        .filter(|path| path.exists())
        .map(|path| format!("`{}`", path.display()))
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    bail!("there already: {}. Move them away, or say --dir with another directory", there.join(", "))
}

fn write_files(plan: &Plan) -> anyhow::Result<()> {
    for (path, text) in plan.files() {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("can't make `{}`", parent.display()))?;
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o644).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("can't write `{}`", path.display()))?;
    }
    app::make_private_directory(&plan.state_dir)
}

async fn first_key(config: &Config, tenant: &TenantId, user: &UserId) -> anyhow::Result<String> {
    let ledger = RedbLedger::open(&config.state_dir, RedbOptions::default())?;
    let request = KeyRequest {
        tenant: tenant.clone(),
        user: Some(user.clone()),
        scopes: vec![Scope::Submit, Scope::Read, Scope::Files, Scope::Cancel, Scope::Admin],
        label: Some("made by setup".to_owned()),
        expires_in: None,
        allow_query: false,
    };
    let made =
        KeyService::new(Arc::new(ledger), Clock::system()).create(&request, None, config.limits.keys_max).await?;
    made.key.context("a new key has a text")
}

/// `setup` reads no configuration; the argument exists on the commands that do.
impl From<&SetupArguments> for ConfigArgument {
    fn from(arguments: &SetupArguments) -> Self {
        Self { config: Some(arguments.dir.join("config/gateway.toml")) }
    }
}
