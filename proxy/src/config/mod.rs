//! The configuration: `gateway.toml` as written (`raw`), as used ([`Config`], made by [`checked`]), and every fault at once ([`faults`]).
//!
//! Relative paths, in both files and on the command line, are relative to the *current directory*, not to the file they stand in: so `config/tenants.toml`
//! means the same in the file, in a shell and in the documentation. They are made absolute when the file is read; nothing later depends on the
//! current directory.

pub(crate) mod backends;
pub mod checked;
pub mod faults;
mod issuers;
mod listen;
pub mod oidc;
mod raw;
pub mod reader;
pub mod reload;
pub mod secrets;
mod tls_files;
pub mod units;

use crate::authenticate::certificate::CertificateRule;
use crate::authenticate::jwks::fetch::Roots;
use crate::authenticate::jwks::url::JwksUrl;
use crate::authenticate::jwt_claims::ClaimPath;
use crate::authenticate::jwt_ring::{Algorithm, VerifyingKey};
use crate::dispatch::disk::Directories;
use crate::dispatch::vram::VramTable;
use crate::endpoint::BackendEndpoint;
use crate::ids::{BackendId, BackendTag, PoolId};
use crate::listen::client_certificate::ClientCertificates;
use crate::listen::{ListenAddress, ListenerFacts, own_ca};
use crate::record::ledger::sessions::SessionBounds;
use crate::tenants::TenantRegistry;
use comfygate_policy::ComfyOrgCredential;
use faults::{ConfigErrors, Fault, Place, Report};
pub use oidc::OidcConfig;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Everything that a gateway is told. Made by [`Config::load`] or [`Config::built_in`]; the fields are public for `demo` and tests, which build on the latter.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from, absolute; `None`: built-in defaults.
    pub file: Option<PathBuf>,
    /// What callers' browsers reach us by; makes `url` fields absolute.
    pub public_url: Option<PublicUrl>,
    /// Where callers connect; at least one that does not only redirect.
    pub listen: Vec<ListenConfig>,
    /// Whom client certificates stand for.
    pub client_certificates: Arc<[CertificateRule]>,
    /// `/metrics`, `/healthz`, `/readyz`.
    pub metrics_address: SocketAddr,
    /// Keys, ledger, blobs, control socket; absolute, may not be there yet.
    pub state_dir: PathBuf,
    /// Bytes that have to be free on its disk for anything new to be taken in.
    pub free_space_min: u64,
    /// ComfyUI processes; at least one, ids unique, addresses unique.
    pub backends: Vec<BackendConfig>,
    /// What models need of a GPU's memory.
    pub vram: Arc<VramTable>,
    /// `tenants.toml`, absolute; `None`: the built-in tenant.
    pub tenants_file: Option<PathBuf>,
    /// Who may use the gateway.
    pub tenants: Arc<TenantRegistry>,
    /// Token issuers; issuers unique.
    pub jwt: Vec<JwtIssuerConfig>,
    /// Identity providers that browsers may log in by; ids unique.
    pub oidc: Vec<OidcConfig>,
    /// How long signed file URLs are good for.
    pub views_lifetime: Duration,
    /// Bounds on what callers send.
    pub limits: LimitsConfig,
    /// How long browsers stay logged in, and how many.
    pub sessions: SessionBounds,
    /// How jobs are run.
    pub dispatch: DispatchConfig,
    /// How long a stop waits for requests that go on; then it leaves all the same.
    pub drain_timeout: Duration,
    /// A pinned `object_info` document, absolute; `None`: asked of the backends.
    pub object_info_file: Option<PathBuf>,
    /// Where audit lines go.
    pub audit: AuditConfig,
    /// Further names and addresses of this machine, for the certificate that is made.
    pub certificate_names: Vec<String>,
    /// What the gateway pays for nodes of comfy.org's services with, where a policy says so.
    pub comfy_org: Option<ComfyOrgCredential>,
}

/// `[[listen]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenConfig {
    /// Port 0: the system chooses.
    pub address: ListenAddress,
    /// What is spoken there.
    pub kind: ListenKind,
    /// Mode of a socket file.
    pub mode: u32,
    /// What stands in front of it.
    pub facts: Arc<ListenerFacts>,
    /// Whose certificates of callers count; only with [`ListenKind::Tls`].
    pub client_ca: Option<ClientCaConfig>,
}

/// Who may connect to a socket file by default: its owner and group, so that the web server of another account is let in by a group.
pub const UNIX_MODE: u32 = 0o660;

impl ListenConfig {
    /// A listener with nothing in front of it.
    pub fn new(address: impl Into<ListenAddress>, kind: ListenKind) -> Self {
        let facts = ListenerFacts { plain: kind == ListenKind::Plain, ..ListenerFacts::default() };
        Self { address: address.into(), kind, mode: UNIX_MODE, facts: Arc::new(facts), client_ca: None }
    }
}

/// `client_ca` and `client_certificates` of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCaConfig {
    /// PEM, absolute; it was readable when the configuration was read.
    pub file: PathBuf,
    /// Whether everybody needs one.
    pub wanted: ClientCertificates,
}

/// What a listener does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenKind {
    /// HTTPS with this certificate.
    Tls(CertificateConfig),
    /// HTTP: on this machine only, or behind something that ends TLS.
    Plain,
    /// Plain HTTP that answers every request with a redirect to HTTPS.
    Redirect,
}

/// Where a listener's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateConfig {
    /// PEM files, absolute; they were readable and belonged together when the configuration was read.
    Files {
        /// Leaf first, then intermediates.
        certificate: PathBuf,
        /// PKCS #8, SEC 1 or PKCS #1.
        key: PathBuf,
    },
    /// Our own CA makes one, in the state directory.
    Made,
}

/// `[[backends]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendConfig {
    /// Its name in logs and metrics.
    pub id: BackendId,
    /// Where it listens.
    pub endpoint: BackendEndpoint,
    /// Which tenants it serves: those of the same pool.
    pub pool: PoolId,
    /// NVML index or UUID of its GPU.
    pub gpu: Option<GpuName>,
    /// What it is or has, for plans and tenants that ask for it.
    pub tags: BTreeSet<BackendTag>,
    /// The part of its pool's jobs that it gets at most, of 100; 100: no such bound.
    pub share_percent: u32,
    /// What it runs before its first job, where `[dispatch] warm_up` is set.
    pub warm_up: WarmUpConfig,
    /// Where its files are, as this machine sees them.
    pub directories: Directories,
}

impl BackendConfig {
    /// One of the default pool, with every default.
    pub fn new(id: BackendId, endpoint: BackendEndpoint) -> Self {
        let (pool, tags) = (PoolId::default_pool(), BTreeSet::new());
        Self {
            id,
            endpoint,
            pool,
            gpu: None,
            directories: Directories::default(),
            tags,
            share_percent: 100,
            warm_up: WarmUpConfig::Sampling { model: None },
        }
    }
}

/// `warm_up` and `warm_up_model` of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmUpConfig {
    /// One sampling step at 64 × 64.
    Sampling {
        /// The checkpoint; absent: the first by name that the backend offers.
        model: Option<String>,
    },
    /// A workflow of the operator's.
    File {
        /// Absolute.
        path: PathBuf,
        /// The body of a submission with it; the strict parser has taken it.
        body: Arc<[u8]>,
    },
}

/// How NVML names a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuName {
    /// Its index, which can change at a reboot.
    Index(u32),
    /// `GPU-…`, which does not.
    Uuid(String),
}

impl FromStr for GpuName {
    type Err = GpuNameError;
    fn from_str(text: &str) -> Result<Self, GpuNameError> {
        let uuid = || text.strip_prefix("GPU-").filter(|rest| uuid::Uuid::try_parse(rest).is_ok());
        match text.parse::<u32>() {
            Ok(index) if index < 1024 && !text.starts_with('+') => Ok(Self::Index(index)),
            _ => uuid().map(|_| Self::Uuid(text.to_owned())).ok_or(GpuNameError),
        }
    }
}

/// The text names no GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a GPU is an index (0 to 1023) or a UUID as `nvidia-smi -L` prints it: `GPU-…`")]
pub struct GpuNameError;

/// `[[jwt]]`: one issuer, its keys and what its claims mean.
#[derive(Debug, Clone)]
pub struct JwtIssuerConfig {
    /// `iss`, compared as a whole.
    pub issuer: String,
    /// Must be in `aud`.
    pub audience: String,
    /// What its signatures are checked with.
    pub keys: IssuerKeys,
    /// The claim that names the tenant.
    pub tenant_claim: ClaimPath,
    /// What happens where no configured tenant has that claim.
    pub unknown_tenant: UnknownTenant,
    /// The claim that names the user; a token without it is refused.
    pub user_claim: ClaimPath,
    /// The claim that lists scopes; `None`: a client's.
    pub scope_claim: Option<ClaimPath>,
    /// How far the issuer's clock may be off; at most [`crate::clock::SKEW_MAX`].
    pub leeway: Duration,
}

/// What an issuer's signatures are checked with.
#[derive(Debug, Clone)]
pub enum IssuerKeys {
    /// One key; the algorithm is pinned with it.
    Fixed(VerifyingKey),
    /// The set that the issuer publishes.
    Published(JwksConfig),
}

/// `jwks_url` and what belongs to it.
#[derive(Debug, Clone)]
pub struct JwksConfig {
    /// Where the set is.
    pub url: JwksUrl,
    /// Which certificates an `https` address may show.
    pub roots: Roots,
    /// What tokens may be signed with; never HS256; at least one.
    pub algorithms: Vec<Algorithm>,
    /// How often it is fetched where the issuer sends no `Cache-Control: max-age`.
    pub refresh: Duration,
    /// How long it counts after the last good fetch.
    pub stale_max: Duration,
}

impl JwksConfig {
    /// Default of `refresh`: a withdrawn key is refused that soon.
    pub const REFRESH: Duration = Duration::from_secs(600);
    /// Default of `stale_max`: an issuer that is down over night keeps nobody out.
    pub const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
}

/// `unknown_tenant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownTenant {
    /// The token is refused.
    Refuse,
    /// A tenant is made.
    Create(CreateConfig),
}

/// What tenants an issuer's tokens make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateConfig {
    /// The plan of a token without the claim below; it is in the tenants file.
    pub plan: String,
    /// The claim that chooses another plan.
    pub plan_claim: Option<ClaimPath>,
    /// The plans that it may choose; all are in the tenants file.
    pub plans_from_claim: Vec<String>,
}

/// `[limits]`: bounds on what callers send, over all tenants. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Body of `POST /prompt`.
    pub prompt_bytes_max: u64,
    /// File of an upload.
    pub upload_bytes_max: u64,
    /// One file of userdata.
    pub userdata_bytes_max: u64,
    /// All userdata of one tenant.
    pub userdata_total_bytes_max: u64,
    /// All request bodies in memory together.
    pub bodies_bytes_max: u64,
    /// From the first byte of a request to the end of its head.
    pub head_deadline: Duration,
    /// From the end of the head to the end of the body.
    pub body_deadline: Duration,
    /// The same for an upload.
    pub upload_deadline: Duration,
    /// Connections open at once.
    pub connections_max: u32,
    /// WebSockets open at once, over all tenants.
    pub websockets_max: u32,
    /// Failed logins of one account from one address (IPv6: one /64) that cost nothing; the next ones wait, each twice as long.
    pub failed_logins_free: u32,
    /// Tenants that tokens may make, over all issuers.
    pub created_tenants_max: u32,
    /// Local users, over all tenants.
    pub users_max: u32,
    /// Keys of one tenant, ended ones among them until they are forgotten.
    pub keys_max: u32,
    /// How long a key is remembered after its end.
    pub ended_keys_kept: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            // 2 MiB of graph and 8 MiB of `extra_pnginfo` (design §6), and room for the envelope.
            prompt_bytes_max: 11 << 20,
            // ComfyUI's own default, `--max-upload-size 100` (facts: in MB, we say MiB).
            upload_bytes_max: 100 << 20,
            // A workflow is some 100 KiB; a submission holds 8 MiB of one at most.
            userdata_bytes_max: 10 << 20,
            userdata_total_bytes_max: 256 << 20,
            bodies_bytes_max: 256 << 20,
            head_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(60),
            // 100 MiB at 175 KiB a second: a slow line upwards.
            upload_deadline: Duration::from_secs(600),
            connections_max: 10_000,
            websockets_max: 5_000,
            failed_logins_free: 10,
            created_tenants_max: 10_000,
            users_max: 100_000,
            keys_max: 10_000,
            ended_keys_kept: Duration::from_secs(90 * 86_400),
        }
    }
}

/// `[dispatch]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DispatchConfig {
    /// Attempts that had started before a job ends in an error.
    pub attempts_max: u32,
    /// How often `/queue` and `/history` are asked while a job is assigned.
    pub poll_interval: Duration,
    /// How often a backend without work has to prove that its worker runs; zero: never, and a returning one is believed when it answers.
    pub canary_interval: Duration,
    /// How long that proof may take while nothing else runs there.
    pub canary_deadline: Duration,
    /// How long an attempt may run without any sign of progress before its backend has to prove itself.
    pub stall_timeout: Duration,
    /// How long a held job waits that no backend of the configuration may run any more, whichever comes back; then it fails.
    pub no_backend_timeout: Duration,
    /// A backend is given its next job when what runs there is thought to end within so much; zero: only when it has ended.
    pub ahead: Duration,
    /// Whether a backend that came up runs a warm-up workflow before its first job.
    pub warm_up: bool,
    /// How long that may take; then it gets jobs all the same.
    pub warm_up_deadline: Duration,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            poll_interval: Duration::from_secs(2),
            canary_interval: Duration::from_secs(60),
            canary_deadline: Duration::from_secs(30),
            // The decoding of a long video tells nothing for many minutes.
            stall_timeout: Duration::from_secs(3600),
            // An operator sleeps on it, and puts the backend back.
            no_backend_timeout: Duration::from_secs(24 * 3600),
            ahead: Duration::from_secs(2),
            warm_up: false,
            // A large model from a slow disk.
            warm_up_deadline: Duration::from_secs(600),
        }
    }
}

/// `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditConfig {
    /// JSON lines on standard output.
    StandardOutput,
    /// JSON lines on standard error: for commands, whose standard output is their answer. No configuration says so.
    StandardError,
    /// JSON lines appended to a file.
    File {
        /// Absolute.
        path: PathBuf,
        /// `None`: the file grows until another program moves it and sends SIGHUP.
        rotation: Option<Rotation>,
    },
}

/// When the audit file is put aside, and how many such files there may be: together `bytes` × (`keep` + 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Put aside before a line would make it larger than this; at least [`ROTATE_BYTES_MIN`].
    pub bytes: u64,
    /// How many former files stay, as `<file>.1` (the newest) to `<file>.<keep>`; at least 1.
    pub keep: u32,
}

/// The smallest audit file that is put aside.
pub const ROTATE_BYTES_MIN: u64 = 64 << 10;

impl Default for Rotation {
    /// 1 GiB in all: some three million lines.
    fn default() -> Self {
        Self { bytes: 64 << 20, keep: 15 }
    }
}

/// `https://HOST[:PORT][/PATH]`, without a slash at the end: the only source of our own name. What a request calls us (`Host`, `X-Forwarded-Host`) is never repeated.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicUrl {
    text: String,
    /// Where the path begins in `text`; its length where there is none.
    path_at: usize,
}

/// Longest path of a public URL in bytes: it stands before every path of ours.
const PUBLIC_PATH_BYTES_MAX: usize = 128;

impl PublicUrl {
    /// The whole of it, without a slash at the end.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Scheme, host and port: what browsers send as `Origin`.
    pub fn origin(&self) -> &str {
        self.text.get(..self.path_at).unwrap_or(&self.text)
    }

    /// The path below which every route lies: empty, or `/comfy`. A cookie's `Path` is this and a slash.
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }

    /// Host alone, IPv6 in brackets.
    pub fn host(&self) -> &str {
        let authority = self.origin().strip_prefix("https://").unwrap_or_default();
        match authority.rsplit_once(':') {
            // A colon inside brackets is part of an address.
            Some((host, port)) if !port.ends_with(']') => host,
            _ => authority,
        }
    }
}

impl fmt::Debug for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicUrl({})", self.text)
    }
}

/// The text is no public URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a public URL is `https://HOST`, with `:PORT` and `/PATH` where needed; the path has letters, digits, `-`, `.`, `_` and `~` between its slashes; no query, no user name"
)]
pub struct PublicUrlError;

impl FromStr for PublicUrl {
    type Err = PublicUrlError;
    fn from_str(text: &str) -> Result<Self, PublicUrlError> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let rest = text.strip_prefix("https://").ok_or(PublicUrlError)?;
        let (named, path) = rest.split_once('/').map_or((rest, None), |(named, path)| (named, Some(path)));
        let authority: http::uri::Authority = named.parse().map_err(|_| PublicUrlError)?;
        let host_is_plain = !authority.host().is_empty() && !named.contains(['@', '?', '#']) && !named.ends_with(':');
        let port_is_good = authority.port().is_none() || authority.port_u16().is_some_and(|port| port != 0);
        if host_is_plain && port_is_good && path.is_none_or(is_public_path) {
            let path_at = path.map_or(text.len(), |path| text.len() - path.len() - 1);
            Ok(Self { text: text.to_owned(), path_at })
        } else {
            Err(PublicUrlError)
        }
    }
}

/// Segments that every reader spells alike: nothing that could be escaped, no dot segments.
fn is_public_path(path: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    path.len() < PUBLIC_PATH_BYTES_MAX
        && path.split('/').all(|segment| !matches!(segment, "" | "." | "..") && segment.bytes().all(unreserved))
}

/// What surrounds the process, handed in so that tests need not change it.
pub struct Surroundings<'a> {
    /// Relative paths begin here.
    pub current_dir: PathBuf,
    /// Environment variables.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// The last place where a configuration is looked for.
    pub system_file: PathBuf,
}

fn process_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Surroundings<'static> {
    /// Those of this process.
    ///
    /// # Errors
    /// The current directory is gone or can't be read.
    pub fn of_the_process() -> std::io::Result<Self> {
        Ok(Self {
            current_dir: std::env::current_dir()?,
            environment: &process_variable,
            system_file: PathBuf::from("/etc/comfygate/gateway.toml"),
        })
    }
}

impl Surroundings<'_> {
    /// The configuration file: `flag`, else `$COMFYGATE_CONFIG`, else `config/gateway.toml`, else the system's; `None`: built-in defaults.
    /// The first two are taken as they are (a wrong one is an error); the others only if there is such a file.
    fn config_file(&self, flag: Option<&Path>) -> Option<PathBuf> {
        let named = flag
            .map(Path::to_owned)
            .or_else(|| (self.environment)("COMFYGATE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
        if let Some(path) = named {
            return Some(self.current_dir.join(path));
        }
        [self.current_dir.join("config/gateway.toml"), self.system_file.clone()].into_iter().find(|path| path.is_file())
    }

    /// `$STATE_DIRECTORY` (systemd; the first of a list), else `state`.
    fn state_dir(&self) -> PathBuf {
        let given = (self.environment)("STATE_DIRECTORY");
        let first = given.as_deref().and_then(|list| list.split(':').next()).filter(|path| !path.is_empty());
        self.current_dir.join(first.unwrap_or("state"))
    }
}

/// A configuration that may be used, and what was doubtful about it.
#[derive(Debug)]
pub struct Loaded {
    /// What to use.
    pub config: Config,
    /// What to print.
    pub warnings: Vec<Fault>,
}

impl Loaded {
    /// Every warning that the files alone give rise to. More than `warnings`: which tenants there are besides those of the file a gateway knows, and tells itself
    /// ([`AllTenants::doubts`](crate::tenants::AllTenants::doubts)).
    pub fn warnings_of_files(&self) -> Vec<Fault> {
        let tenants = &self.config.tenants;
        let mut warnings = self.warnings.clone();
        warnings.extend(tenants.named_in_vain(|id| tenants.tenant(id).is_some()));
        warnings.sort();
        warnings
    }
}

impl Config {
    /// Finds, reads and checks the configuration of this process: `path`, else `$COMFYGATE_CONFIG`, `./config/gateway.toml`,
    /// `/etc/comfygate/gateway.toml`, else [`Config::built_in`].
    ///
    /// # Errors
    /// Every fault of the configuration, the tenants, the policies and the files they name.
    pub fn load(path: Option<&Path>) -> Result<Loaded, ConfigErrors> {
        let surroundings = Surroundings::of_the_process().map_err(|error| no_current_directory(&error))?;
        Self::load_in(&surroundings, path)
    }

    /// [`Config::load`] in given surroundings.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_in(surroundings: &Surroundings<'_>, path: Option<&Path>) -> Result<Loaded, ConfigErrors> {
        Self::load_with_files(surroundings, path).0
    }

    /// [`Config::load`], and every file that it consists of, whether it could be read or not: what a reload watches.
    pub fn load_watched(path: Option<&Path>) -> (Result<Loaded, ConfigErrors>, BTreeSet<PathBuf>) {
        match Surroundings::of_the_process() {
            Ok(surroundings) => Self::load_with_files(&surroundings, path),
            Err(error) => (Err(no_current_directory(&error)), BTreeSet::new()),
        }
    }

    /// Where the state directory is, whatever else is wrong in the file or missing around it: enough to find the gateway that runs.
    ///
    /// # Errors
    /// The file can't be read or is no TOML, or `state.dir` is no text.
    pub fn state_dir_alone(path: Option<&Path>) -> Result<PathBuf, ConfigErrors> {
        let surroundings = Surroundings::of_the_process().map_err(|error| no_current_directory(&error))?;
        Self::state_dir_alone_in(&surroundings, path)
    }

    /// [`Config::state_dir_alone`] in given surroundings.
    ///
    /// # Errors
    /// As [`Config::state_dir_alone`].
    pub fn state_dir_alone_in(surroundings: &Surroundings<'_>, path: Option<&Path>) -> Result<PathBuf, ConfigErrors> {
        let Some(file) = surroundings.config_file(path) else { return Ok(surroundings.state_dir()) };
        let report = Report::default();
        let state_dir = checked::read_state_dir(file, surroundings, &report);
        report.conclude(state_dir).map(|(state_dir, _)| state_dir)
    }

    fn load_with_files(
        surroundings: &Surroundings<'_>,
        path: Option<&Path>,
    ) -> (Result<Loaded, ConfigErrors>, BTreeSet<PathBuf>) {
        let Some(file) = surroundings.config_file(path) else {
            let config = Self::built_in(surroundings.state_dir());
            let report = Report::default();
            checked::check_sockets_fit(&config.state_dir, &Place::file(&config.state_dir), &report);
            let loaded = report.conclude(Some(config)).map(|(config, warnings)| Loaded { config, warnings });
            return (loaded, BTreeSet::new());
        };
        let report = Report::default();
        let config = checked::read_config(file, surroundings, &report);
        let files = report.take_files();
        (report.conclude(config).map(|(config, warnings)| Loaded { config, warnings }), files)
    }

    /// What this machine is called: for the certificate that is made.
    pub fn own_names(&self) -> Vec<String> {
        let public = self.public_url.as_ref().map(|url| url.host().to_owned());
        public.into_iter().chain(own_ca::hostname()).chain(self.certificate_names.iter().cloned()).collect()
    }

    /// Where it came from, for the log at start: the absolute path, or that there was no file.
    pub fn source_text(&self) -> String {
        self.file
            .as_ref()
            .map_or_else(|| "built-in defaults (no configuration file)".to_owned(), |file| file.display().to_string())
    }

    /// The defaults without any file: HTTPS on 127.0.0.1:8443, metrics on 127.0.0.1:9901, one backend `local`, one tenant `local`.
    #[expect(clippy::expect_used, reason = "the literals are an id and a URL, as a test shows")]
    pub fn built_in(state_dir: PathBuf) -> Self {
        Self {
            file: None,
            public_url: None,
            listen: vec![ListenConfig::new(loopback(8443), ListenKind::Tls(CertificateConfig::Made))],
            client_certificates: Arc::default(),
            metrics_address: loopback(9901),
            state_dir,
            free_space_min: 1 << 30,
            backends: vec![BackendConfig::new(
                "local".parse().expect("`local` is a backend id"),
                BackendEndpoint::parse("http://127.0.0.1:8188").expect("the literal is a backend URL"),
            )],
            vram: Arc::default(),
            tenants_file: None,
            tenants: Arc::new(TenantRegistry::built_in()),
            jwt: Vec::new(),
            oidc: Vec::new(),
            views_lifetime: Duration::from_secs(3600),
            limits: LimitsConfig::default(),
            sessions: default_sessions(),
            dispatch: DispatchConfig::default(),
            drain_timeout: Duration::from_secs(30),
            object_info_file: None,
            audit: AuditConfig::StandardOutput,
            certificate_names: Vec::new(),
            comfy_org: None,
        }
    }
}

fn no_current_directory(error: &std::io::Error) -> ConfigErrors {
    let what = format!("the current directory can't be read: {error}");
    let hint = "start in a directory that exists".to_owned();
    ConfigErrors { errors: vec![Fault { place: Place::file(Path::new(".")), what, hint }], warnings: Vec::new() }
}

/// `[sessions]` where the file says nothing: a working day, and a week.
fn default_sessions() -> SessionBounds {
    const HOUR: Duration = Duration::from_secs(3600);
    SessionBounds { idle_timeout: 12 * HOUR, lifetime: 7 * 24 * HOUR, per_owner_max: 20, total_max: 10_000 }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
pub(crate) mod tests;
