//! The composition root: builds every part once, in order, and joins them. The one file that knows them all.
//!
//! Two runtimes: Pingora's serve requests, the *core* runtime carries what outlives a request (dispatcher, attempts, monitors, upstream sockets).

pub mod certificates;
mod listeners;

use crate::actions::{Lists, ObjectInfos};
use crate::admin;
use crate::admit::{Admission, BodyBudget, FailedLogins, UploadSlots};
use crate::authenticate::Authenticator;
use crate::authenticate::browsers::Browsers;
use crate::authenticate::jwks::KeySets;
use crate::clock::Clock;
use crate::config::{Config, ListenKind};
use crate::deliver::events::{hub::Hub, upstream};
use crate::deliver::views::{links::Links, signing_key};
use crate::dispatch::backend::Backend;
use crate::dispatch::dispatcher::{self, DispatchHandle, Dispatcher};
use crate::dispatch::{monitor, relay, tracks::Tracks};
use crate::drain::Drain;
use crate::gateway::{Doors, Gateway};
use crate::ids::BackendId;
use crate::inspect::Inspector;
use crate::listen::ListenAddress;
use crate::record::audit::Audit;
use crate::record::blobs::Blobs;
use crate::record::ledger::Ledger;
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::record::ledger::tenants::Tenants;
use crate::record::metrics::Metrics;
use crate::record::space::Space;
use crate::record::state_dir;
use crate::services::{LARGE_ANSWERS_MAX, Live, Services, StatusTurns};
use crate::tenants::AllTenants;
use crate::tenants::created::CreatedTenants;
use anyhow::Context;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use comfygate_policy::Catalogue;
use pingora::server::{RunArgs, ShutdownSignal, ShutdownSignalWatch};
use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// How long a stop waits for requests that go on; then it leaves all the same.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// After sockets were told to go, they get this long to say goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Threads of the core runtime: its tasks wait for sockets and the disk.
const CORE_THREADS: usize = 2;

/// Everything of a gateway that is about to run.
pub struct App {
    services: Arc<Services>,
    core: Runtime,
    drain: Drain,
    dispatch: DispatchHandle,
    commands: mpsc::Receiver<dispatcher::Command>,
}

impl App {
    /// Builds everything that can fail: after this, only the network can.
    ///
    /// # Errors
    /// A port that is taken (which), a state directory that is held or can't be written, a certificate that can't be used.
    pub fn build(config: Config) -> anyhow::Result<Self> {
        pingora_rustls::install_default_crypto_provider();
        state_dir::take(&config.state_dir)?;
        free_ports(&config)?;
        let core = core_runtime()?;
        let clock = Clock::system();
        let ledger: Arc<dyn Ledger> = Arc::new(RedbLedger::open(&config.state_dir, RedbOptions::default())?);
        let blobs = Blobs::open(&config.state_dir)?;
        let audit = Audit::open(&config.audit, clock.clone())?;
        let metrics = Metrics::new()?;
        let catalogue = catalogue(&config)?;
        let links = Links::new(
            signing_key::load_or_create(&config.state_dir)?,
            config.public_url.as_ref(),
            config.views_lifetime,
        );
        let backends = core.block_on(backends(&config, &*ledger))?;
        let store: Arc<dyn Tenants> = Arc::clone(&ledger) as Arc<dyn Tenants>;
        let created = Arc::new(core.block_on(CreatedTenants::load(store, audit.clone(), clock.clone()))?);
        let key_sets = KeySets::new(core.handle().clone(), clock.clone());
        let browsers = Browsers::new(core.block_on(ledger.instance())?);
        let services = Arc::new(Services {
            space: Space::of(&config.state_dir),
            hub: Arc::new(Hub::new(config.limits.websockets_max)),
            tracks: Tracks::default(),
            live: ArcSwap::from_pointee(Live {
                generation: 1,
                tenants: Arc::new(AllTenants::new(
                    Arc::clone(&config.tenants),
                    Arc::clone(&created),
                    config.limits.created_tenants_max,
                )),
                inspector: Inspector::new(catalogue),
                authenticator: Arc::new(Authenticator::new(config.jwt.clone(), &key_sets, clock.clone())),
                backends: Arc::new(backends),
                config: Arc::new(config),
            }),
            clock,
            ledger,
            blobs,
            links,
            audit,
            metrics,
            status_turns: StatusTurns::default(),
            large_answers: Semaphore::new(LARGE_ANSWERS_MAX),
            object_infos: ObjectInfos::default(),
            key_sets,
            created,
            browsers,
            held: Arc::default(),
            lists: Lists::default(),
        });
        let (dispatch, commands) = dispatcher::channel();
        Ok(Self { services, core, drain: Drain::new(), dispatch, commands })
    }

    /// The parts, for whoever prepares them before [`App::run`].
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Serves until SIGTERM, SIGINT or SIGQUIT; then refuses new work, tells the sockets, and returns as soon as nothing is in flight.
    ///
    /// # Errors
    /// When what the ledger holds can't be read, or a listener can't be made.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { services, core, drain, dispatch, commands } = self;
        let active = core.block_on(services.ledger.active_jobs())?;
        let _inside = core.enter();
        for backend in services.backends().values() {
            watch_backend(&services, backend, &dispatch, &drain);
        }
        let dispatcher = Dispatcher::new(Arc::clone(&services), dispatch.clone(), active);
        core.spawn(dispatcher.run(commands, drain.subscribe()));
        let gateway = gateway(&services, &dispatch, &drain);
        let admin = admin::Admin::new(&services, &drain);
        let certificates = certificates::Certificates::load(&services.config(), services.clock.wall())?;
        let server = listeners::server(&services, &certificates, gateway, admin)?;
        report_start(&services);
        let signal = StopSignal { services: Arc::clone(&services), drain };
        server.run(RunArgs { shutdown_signal: Box::new(signal) });
        services.audit.stopped();
        core.shutdown_timeout(GOODBYE_TIMEOUT);
        Ok(())
    }
}

/// Ends the gateway in order: refuse new work, tell the sockets, wait for what is in flight.
struct StopSignal {
    services: Arc<Services>,
    drain: Drain,
}

#[async_trait]
impl ShutdownSignalWatch for StopSignal {
    async fn recv(&self) -> ShutdownSignal {
        if let Err(error) = self.stop_asked().await {
            tracing::error!(%error, "signals can't be watched; the gateway stops");
        }
        tracing::info!("stopping");
        self.drain.stop();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.drain.idle()).await.is_err() {
            tracing::warn!("requests were still in flight after {DRAIN_TIMEOUT:?}");
        }
        // Pingora's graceful stop is a sleep of fixed length; everything is over already.
        ShutdownSignal::FastShutdown
    }
}

impl StopSignal {
    async fn stop_asked(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = quit.recv() => return Ok(()),
                _ = hangup.recv() => {
                    self.services.audit.reopen();
                    tracing::warn!("SIGHUP: log files are reopened; the configuration is not read again, that is not built yet");
                }
            }
        }
    }
}

/// Log lines to stderr; `RUST_LOG` chooses what. A second call changes nothing.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,pingora_core=warn,pingora_proxy=warn,pingora=warn"));
    // SECURITY: at `trace` Pingora writes whole request heads, credentials included.
    let no_heads = filter_fn(|line| !(line.target().starts_with("pingora") && *line.level() == Level::TRACE));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let _ = tracing_subscriber::registry().with(filter).with(lines.with_filter(no_heads)).try_init();
}

/// The runtime of what outlives a request.
///
/// # Errors
/// When threads can't be made.
pub fn core_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CORE_THREADS)
        .thread_name("core")
        .enable_all()
        .build()
        .context("core runtime")
}

/// A directory that only this user may enter.
///
/// # Errors
/// When it can't be made; with its path.
pub fn make_private_directory(path: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).with_context(|| format!("can't make the directory `{}`", path.display()))
}

/// Pingora gives up with a panic when a port is taken; we want to say which.
fn free_ports(config: &Config) -> anyhow::Result<()> {
    let metrics = ListenAddress::Tcp(config.metrics_address);
    for address in config.listen.iter().map(|listener| &listener.address).chain([&metrics]) {
        match address {
            ListenAddress::Tcp(tcp) => {
                let bound = std::net::TcpListener::bind(tcp);
                bound.with_context(|| format!("can't listen on {address}: is something else listening there?"))?;
            }
            ListenAddress::Unix(path) => free_socket_file(path)?,
        }
    }
    Ok(())
}

/// A socket file that nobody serves is left from before and replaced; anything else at its place stays.
fn free_socket_file(path: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    anyhow::ensure!(metadata.file_type().is_socket(), "can't listen on `{}`: it is no socket", path.display());
    let served = std::os::unix::net::UnixStream::connect(path).is_ok();
    anyhow::ensure!(!served, "can't listen on `{}`: the socket is in use", path.display());
    Ok(())
}

fn catalogue(config: &Config) -> anyhow::Result<Arc<Catalogue>> {
    let Some(path) = &config.object_info_file else { return Ok(Catalogue::builtin_arc()) };
    let bytes = std::fs::read(path).with_context(|| format!("can't read the catalogue `{}`", path.display()))?;
    let catalogue = Catalogue::from_object_info(&bytes)
        .with_context(|| format!("`{}` is no answer of /object_info", path.display()))?;
    Ok(Arc::new(catalogue))
}

async fn backends(config: &Config, ledger: &dyn Ledger) -> anyhow::Result<BTreeMap<BackendId, Arc<Backend>>> {
    let mut backends = BTreeMap::new();
    for backend in &config.backends {
        let client = ledger.upstream_client(&backend.id).await?;
        let made = Backend::new(backend.id.clone(), backend.pool.clone(), backend.endpoint.clone(), client);
        made.set_owned(config.tenants.owner_of(&backend.pool).is_some());
        backends.insert(backend.id.clone(), Arc::new(made));
    }
    Ok(backends)
}

/// Watches one backend and carries its events, until the gateway stops.
fn watch_backend(services: &Arc<Services>, backend: &Arc<Backend>, dispatch: &DispatchHandle, drain: &Drain) {
    let (relayed, id) = (Arc::clone(services), backend.id.clone());
    let sink = move |event| relay::relay(&relayed, &id, event);
    let (socket, carrying) = upstream::Upstream::new(backend.endpoint.clone(), backend.client, sink, drain.subscribe());
    tokio::spawn(carrying.run());
    backend.set_socket(socket.clone());
    tokio::spawn(monitor::watch(
        Arc::clone(services),
        Arc::clone(backend),
        socket.connected(),
        dispatch.clone(),
        drain.subscribe(),
    ));
}

fn gateway(services: &Arc<Services>, dispatch: &DispatchHandle, drain: &Drain) -> Gateway {
    let config = services.config();
    let (limits, clock) = (&config.limits, &services.clock);
    let doors = Doors {
        rates: Admission::new(clock.clone()),
        failed_logins: FailedLogins::new(limits.failed_logins_per_minute, clock.clone()),
        bodies: BodyBudget::new(limits.bodies_bytes_max),
        uploads: UploadSlots::default(),
    };
    Gateway::new(Arc::clone(services), doors, dispatch.clone(), drain.clone())
}

fn report_start(services: &Services) {
    let config = services.config();
    services.audit.started();
    let source = config.source_text();
    tracing::info!(
        "comfygate {}: configuration {source}, state {}",
        env!("CARGO_PKG_VERSION"),
        config.state_dir.display()
    );
    for listener in &config.listen {
        match &listener.kind {
            ListenKind::Tls(_) => tracing::info!("listening on https://{}", listener.address),
            ListenKind::Plain => tracing::info!("listening on http://{}", listener.address),
            ListenKind::Redirect => tracing::info!("redirecting http://{} to https", listener.address),
        }
    }
    tracing::info!("metrics on http://{}/metrics", config.metrics_address);
    for backend in services.backends().values() {
        tracing::info!("backend {} at {}", backend.id, backend.endpoint);
    }
}
