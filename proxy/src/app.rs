//! The composition root: builds every part once, in order, and joins them. The one file that knows them all.
//!
//! Two runtimes: Pingora's serve requests, the *core* runtime carries what outlives a request (dispatcher, attempts, monitors, upstream sockets).

mod backends;
pub mod certificates;
mod first_link;
mod listeners;
mod logging;
mod notify;
mod reload;
mod sockets;
mod upgrade;

pub(crate) use upgrade::SOCKET as HAND_OVER_SOCKET;

pub use logging::start_logging;

use crate::actions::{Lists, ObjectInfos, ViewTurns};
use crate::admin;
use crate::admin::lifecycle::Ask;
use crate::admit::{Admission, BodyBudget, Guesses, UploadSlots};
use crate::authenticate::Authenticator;
use crate::authenticate::browsers::Browsers;
use crate::authenticate::endings::Endings;
use crate::authenticate::jwks::KeySets;
use crate::authenticate::key_uses::{self, KeyUses};
use crate::authenticate::local_users::LocalUsers;
use crate::authenticate::oidc::Providers;
use crate::authenticate::oidc::seal::Sealer;
use crate::authenticate::tickets::Tickets;
use crate::clock::Clock;
use crate::config::faults::ConfigErrors;
use crate::config::reload::Watched;
use crate::config::{BackendConfig, Config, ListenKind, Loaded};
use crate::deliver::events::hub::Hub;
use crate::deliver::views::{links::Links, signing_key};
use crate::dispatch::backend::Backend;
use crate::dispatch::dispatcher::{self, DispatchHandle, Dispatcher};
use crate::dispatch::estimate::Estimates;
use crate::dispatch::halts::HaltsInForce;
use crate::dispatch::learned;
use crate::dispatch::tracks::Tracks;
use crate::dispatch::warm_up;
use crate::drain::Drain;
use crate::gateway::{Doors, Gateway};
use crate::ids::{BackendId, UpstreamClientId};
use crate::inspect::Inspector;
use crate::inspect::bans::BannedClasses;
use crate::inspect::measured::Measured;
use crate::listen::{Connections, STRAGGLER};
use crate::record::audit::Audit;
use crate::record::blobs::Blobs;
use crate::record::gpus;
use crate::record::ledger::Ledger;
use crate::record::ledger::managed::ManagedRows;
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::record::ledger::tenants::Tenants;
use crate::record::metrics::Metrics;
use crate::record::pins;
use crate::record::space::Space;
use crate::record::state_dir;
use crate::retention::{self, Sweeps};
use crate::services::{LARGE_ANSWERS_MAX, Live, Oidc, Services, StatusTurns};
use crate::tenants::AllTenants;
use crate::tenants::created::CreatedTenants;
use crate::tenants::managed::ManagedTenants;
use crate::tenants::stays::Stays;
use anyhow::Context;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use backends::Watchers;
use certificates::Certificates;
use comfygate_policy::Catalogue;
use pingora::server::{RunArgs, ShutdownSignal, ShutdownSignalWatch};
use reload::Reloader;
use sockets::Sockets;
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::MissedTickBehavior;

/// After sockets were told to go, they get this long to say goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Threads of the core runtime: its tasks wait for sockets and the disk.
const CORE_THREADS: usize = 2;

/// How long the control socket gets to deliver its last answer.
const LAST_ANSWER: Duration = Duration::from_millis(200);

/// Everything of a gateway that is about to run.
pub struct App {
    services: Arc<Services>,
    core: Runtime,
    drain: Drain,
    dispatch: DispatchHandle,
    commands: mpsc::Receiver<dispatcher::Command>,
    sockets: Arc<Sockets>,
    certificates: Certificates,
    origin: Option<Origin>,
    /// The former process, while it waits for word that this one serves.
    former: Option<upgrade::Taken>,
}

/// Where a configuration comes from: what a reload reads again.
#[derive(Debug)]
pub struct Origin {
    /// `--config`; `None`: wherever a configuration is found.
    path: Option<PathBuf>,
    watched: Watched,
}

impl Origin {
    /// Loads the configuration, and remembers the files that it came from.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(path: Option<&Path>) -> Result<(Loaded, Self), ConfigErrors> {
        let (loaded, files) = Config::load_watched(path);
        Ok((loaded?, Self { path: path.map(Path::to_owned), watched: Watched::new(files) }))
    }
}

/// How a gateway comes to its listeners and its ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// None runs with this state directory.
    Fresh,
    /// It takes over from the one that runs.
    TakeOver,
}

impl App {
    /// A gateway whose configuration the program made: it is never read again.
    ///
    /// # Errors
    /// As [`App::build_from`].
    pub fn build(config: Config) -> anyhow::Result<Self> {
        Self::build_from(config, None, Start::Fresh)
    }

    /// Builds everything that can fail: after this, only the network can. To take over, it builds first what needs neither ledger nor listeners.
    ///
    /// # Errors
    /// A port that is taken (which), a state directory that is held or can't be written, a certificate that can't be used, nobody to take over from.
    pub fn build_from(config: Config, origin: Option<Origin>, start: Start) -> anyhow::Result<Self> {
        pingora_rustls::install_default_crypto_provider();
        state_dir::take(&config.state_dir)?;
        let core = core_runtime()?;
        let clock = Clock::system();
        let offer = match start {
            Start::Fresh => None,
            Start::TakeOver => Some(upgrade::Offer::ask(&config.state_dir)?),
        };
        let taken_over = offer.as_ref().map(|offer| offer.addresses.clone()).unwrap_or_default();
        let mut sockets = sockets::bound(&config, &taken_over)?;
        let audit = Audit::open(&config.audit, clock.clone())?;
        let metrics = Metrics::new()?;
        let inspector = inspector(&config)?;
        if let Some(fault) = warm_up::faults(&config, &inspector).into_iter().next() {
            anyhow::bail!(fault);
        }
        let mut former = None;
        if let Some(offer) = offer {
            // While the former process still serves: what can't be used is found here.
            Certificates::load(&config, clock.wall())?;
            let (taken, given) = offer.take()?;
            sockets.extend(given);
            former = Some(taken);
        }
        let ledger: Arc<dyn Ledger> = Arc::new(RedbLedger::open(&config.state_dir, RedbOptions::default())?);
        let blobs = Blobs::open(&config.state_dir)?;
        let links = Links::new(
            signing_key::load_or_create(&config.state_dir)?,
            config.public_url.as_ref(),
            config.views_lifetime,
        );
        let certificates = Certificates::load(&config, clock.wall())?;
        let sockets = Sockets::new(&config, sockets)?;
        let backends = core.block_on(backends(&config, &*ledger))?;
        let store: Arc<dyn Tenants> = Arc::clone(&ledger) as Arc<dyn Tenants>;
        let created = Arc::new(core.block_on(CreatedTenants::load(store, audit.clone(), clock.clone()))?);
        let store: Arc<dyn ManagedRows> = Arc::clone(&ledger) as Arc<dyn ManagedRows>;
        let managed = Arc::new(core.block_on(ManagedTenants::load(store, audit.clone(), clock.clone()))?);
        let key_sets = Arc::new(KeySets::new(core.handle().clone(), clock.clone()));
        let oidc = Oidc::new(Sealer::load_or_create(&config.state_dir)?, clock.clone());
        let endings = Arc::new(Endings::default());
        let browsers = Browsers::new(core.block_on(ledger.instance())?, Arc::clone(&endings));
        let local_users = LocalUsers::default();
        core.block_on(local_users.refresh(&*ledger))?;
        let banned = core.block_on(ledger.bans())?;
        let estimates = core.block_on(learned::load(&*ledger))?;
        metrics.set_config(1, true);
        logging::set_generation(1);
        let services = Arc::new(Services {
            guesses: Guesses::new(config.limits.failed_logins_free, clock.clone()),
            reloaded: watch::channel(1).0,
            submissions: Drain::new(),
            space: Space::of(&config.state_dir),
            hub: Arc::new(Hub::new(config.limits.websockets_max, clock.clone())),
            tracks: Tracks::default(),
            live: ArcSwap::from_pointee(Live {
                generation: 1,
                tenants: Arc::new(AllTenants::new(
                    Arc::clone(&config.tenants),
                    Arc::clone(&managed),
                    Arc::clone(&created),
                    config.limits.created_tenants_max,
                )),
                inspector,
                authenticator: Arc::new(Authenticator::new(config.jwt.clone(), &key_sets, clock.clone())),
                providers: Arc::new(Providers::new(&config.oidc, None, &key_sets, &clock)),
                backends: Arc::new(backends),
                config: Arc::new(config),
            }),
            ledger,
            blobs,
            links,
            audit,
            metrics,
            status_turns: StatusTurns::default(),
            view_turns: ViewTurns::default(),
            estimates: std::sync::Mutex::new(estimates),
            outlook: ArcSwap::default(),
            large_answers: Semaphore::new(LARGE_ANSWERS_MAX),
            object_infos: ObjectInfos::default(),
            key_sets,
            created,
            managed,
            stays: Stays::default(),
            key_uses: KeyUses::default(),
            tickets: Tickets::new(clock.clone()),
            endings,
            browsers,
            local_users,
            clock,
            oidc,
            held: Arc::default(),
            measured: Measured::default(),
            banned: BannedClasses::new(banned),
            ban_turn: tokio::sync::Mutex::default(),
            halts: HaltsInForce::default(),
            rules: watch::channel(0).0,
            lists: Lists::default(),
            sweeps: Sweeps::default(),
        });
        core.block_on(services.refresh_halts())?;
        core.block_on(services.managed.settle(services.tenants().registry()))?;
        services.tenants().doubts().iter().for_each(|doubt| tracing::warn!("{doubt}"));
        let (dispatch, commands) = dispatcher::channel();
        let drain = Drain::new();
        Ok(Self { services, core, drain, dispatch, commands, sockets, certificates, origin, former })
    }

    /// The parts that a test of the dispatcher needs.
    #[cfg(test)]
    pub(crate) fn into_dispatch_parts(
        self,
    ) -> (Arc<Services>, Runtime, Drain, DispatchHandle, mpsc::Receiver<dispatcher::Command>) {
        (self.services, self.core, self.drain, self.dispatch, self.commands)
    }

    /// The parts, for whoever prepares them before [`App::run`].
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Serves until SIGTERM, SIGINT or SIGQUIT; then refuses new work, tells the sockets, and returns as soon as nothing is in flight. Returns too
    /// when another process has taken over.
    ///
    /// # Errors
    /// When what the ledger holds can't be read, a listener can't be made, or a process that took over does not serve.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { services, core, drain, dispatch, commands, sockets, certificates, origin, former } = self;
        let active = core.block_on(services.ledger.active_jobs())?;
        let watchers = Watchers::new(&services, &dispatch, &drain, core.handle().clone());
        watchers.follow();
        core.spawn(gpus::watch(Arc::clone(&services), drain.subscribe()));
        let _inside = core.enter();
        let dispatcher = Dispatcher::new(Arc::clone(&services), dispatch.clone(), active);
        let dispatcher = core.spawn(dispatcher.run(commands, drain.clone()));
        core.spawn(learned::run(Arc::clone(&services), drain.clone()));
        core.spawn(key_uses::run(Arc::clone(&services), drain.clone()));
        let turn = Arc::default();
        let program = upgrade::Program {
            binary: std::env::current_exe().ok(),
            config: origin.as_ref().and_then(|origin| origin.path.clone()),
        };
        let giver = upgrade::Giver::new(&services, &drain, &sockets, &watchers, dispatcher, &turn, program);
        let (asks, asked) = admin::lifecycle::channel();
        let admin = admin::Admin::new(&services, &dispatch, &drain, asks);
        let gateway = gateway(&services, &dispatch, &drain);
        let (server, connections) = listeners::server(&services, &certificates, gateway, admin, &sockets, &drain)?;
        core.spawn(Arc::clone(&giver).serve(upgrade::listen(&services.config().state_dir)?));
        let reloader = Reloader::new(&services, &watchers, certificates, origin);
        core.spawn(lifecycle(Arc::clone(&services), reloader, Arc::clone(&giver), asked, turn, drain.clone()));
        core.spawn(retention::follow(Arc::clone(&services), drain.clone()));
        core.spawn(retention::erase::follow(Arc::clone(&services), dispatch.clone(), drain.clone()));
        report_start(&services);
        core.block_on(first_link::report(&services))?;
        core.spawn(first_link::expire(Arc::clone(&services)));
        let giver_at_end = Arc::clone(&giver);
        let end =
            End { services: Arc::clone(&services), drain, sockets, giver, connections, former: Mutex::new(former) };
        server.run(RunArgs { shutdown_signal: Box::new(end) });
        // Links end with the process.
        services.local_users.end_first();
        if giver_at_end.outcome().is_none() {
            core.block_on(learned::keep(&services, Estimates::default()));
            core.block_on(key_uses::keep(&services));
        }
        services.audit.stopped();
        core.shutdown_timeout(GOODBYE_TIMEOUT);
        match giver_at_end.outcome() {
            Some(upgrade::Outcome::Failed(reason)) => anyhow::bail!(reason),
            Some(upgrade::Outcome::Serving(_)) | None => Ok(()),
        }
    }
}

/// Does what concerns the process as a whole, one after the other: reloads by file, signal and command, and upgrades by command.
async fn lifecycle(
    services: Arc<Services>,
    mut reloader: Reloader,
    giver: Arc<upgrade::Giver>,
    mut asked: mpsc::Receiver<Ask>,
    turn: Arc<tokio::sync::Mutex<()>>,
    drain: Drain,
) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::error!(%error, "SIGHUP can't be watched; nothing is read again"),
    };
    let mut looks = tokio::time::interval(reload::LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = drain.subscribe();
    loop {
        let wanted = tokio::select! {
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => return,
            ask = asked.recv() => match ask {
                Some(Ask::Reload(answer)) => Wanted::Reload(Some(answer)),
                Some(Ask::Upgrade(request, answer)) => {
                    let giver = Arc::clone(&giver);
                    // Who asked may have gone; the successor comes all the same.
                    tokio::spawn(async move { drop(answer.send(giver.start_successor(request).await)) });
                    continue;
                }
                None => return,
            },
            _ = hangup.recv() => {
                services.audit.reopen();
                if !reloader.has_files() {
                    continue;
                }
                Wanted::Reload(None)
            }
            _ = looks.tick() => Wanted::Look,
        };
        let _turn = turn.lock().await;
        if drain.is_stopping() {
            return;
        }
        match wanted {
            Wanted::Look => reloader.look().await,
            Wanted::Reload(answer) => {
                let report = reloader.reload().await;
                if let Some(answer) = answer {
                    drop(answer.send(report));
                }
            }
        }
    }
}

/// What the lifecycle does next.
enum Wanted {
    Look,
    Reload(Option<tokio::sync::oneshot::Sender<admin::lifecycle::ReloadReport>>),
}

/// The end of the process, in order: refuse new work, tell the sockets, wait for what is in flight.
struct End {
    services: Arc<Services>,
    drain: Drain,
    sockets: Arc<Sockets>,
    giver: Arc<upgrade::Giver>,
    connections: Arc<Connections>,
    former: Mutex<Option<upgrade::Taken>>,
}

#[async_trait]
impl ShutdownSignalWatch for End {
    /// Called when every service has been started.
    async fn recv(&self) -> ShutdownSignal {
        notify::tell(notify::Word::Ready);
        if let Some(former) = self.former.lock().unwrap_or_else(PoisonError::into_inner).take() {
            former.serving();
        }
        match StopSignals::new() {
            Ok(signals) => self.until_over(signals).await,
            Err(error) => tracing::error!(%error, "signals can't be watched; the gateway stops"),
        }
        // Pingora's graceful stop is a sleep of fixed length; everything is over already.
        ShutdownSignal::FastShutdown
    }
}

impl End {
    async fn until_over(&self, mut signals: StopSignals) {
        tokio::select! {
            () = signals.next() => {
                tracing::info!("stopping");
                notify::tell(notify::Word::Stopping);
                self.drain.stop();
                self.sockets.close();
                self.services.sweeps.end().await;
            }
            outcome = self.giver.ended() => {
                drop(tokio::time::timeout(GOODBYE_TIMEOUT, self.giver.answered()).await);
                // For the answer on the control socket, and for handshakes that began before the hand-over.
                tokio::time::sleep(LAST_ANSWER).await;
                if matches!(outcome, upgrade::Outcome::Failed(_)) {
                    return;
                }
            }
        }
        let timeout = self.services.config().drain_timeout;
        let idle = async {
            drop(tokio::time::timeout(STRAGGLER + LAST_ANSWER, self.stragglers()).await);
            self.drain.idle().await;
            // Nobody waits for a renewal ahead of its time: it is in no request, and its answer may hold the only token that is still good.
            drop(tokio::time::timeout(dispatcher::ON_ITS_WAY, self.services.submissions.idle()).await);
        };
        tokio::select! {
            ended = tokio::time::timeout(timeout, idle) => if ended.is_err() {
                tracing::warn!("requests were still in flight after {timeout:?}");
            },
            () = signals.next() => tracing::warn!("told twice to stop: what is in flight is cut off"),
        }
    }

    /// Resolves when every connection is closed: one that was accepted just before the stop has a moment to bring its request.
    async fn stragglers(&self) {
        while self.connections.open() > 0 {
            tokio::time::sleep(STRAGGLER_POLL).await;
        }
    }
}

/// Between two looks at the connections of a gateway that stops.
const STRAGGLER_POLL: Duration = Duration::from_millis(10);

/// The signals that end the process.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
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

/// The engine with its catalogues: that of the configuration, or the shipped one with what was accepted of each pool's packs.
///
/// # Errors
/// A catalogue or a pin can't be read.
pub(crate) fn inspector(config: &Config) -> anyhow::Result<Inspector> {
    if let Some(path) = &config.object_info_file {
        let bytes = std::fs::read(path).with_context(|| format!("can't read the catalogue `{}`", path.display()))?;
        let catalogue = Catalogue::from_object_info(&bytes)
            .with_context(|| format!("`{}` is no answer of /object_info", path.display()))?;
        return Ok(Inspector::new(Arc::new(catalogue), BTreeMap::new()));
    }
    let mut pools = BTreeMap::new();
    for pool in config.backends.iter().map(|backend| &backend.pool) {
        // What an owner has installed holds as it is.
        if config.tenants.owner_of(pool).is_some() || pools.contains_key(pool) {
            continue;
        }
        let shown = pins::path(&config.state_dir, pool);
        let shown = shown.display();
        let accepted = pins::read(&config.state_dir, pool).with_context(|| format!("can't read the pin `{shown}`"))?;
        let Some(accepted) = accepted else { continue };
        let catalogue = Catalogue::from_object_info(&accepted)
            .with_context(|| format!("the pin `{shown}` is damaged: remove it and run `comfygate catalogue accept`"))?;
        pools.insert(pool.clone(), Arc::new(catalogue));
    }
    Ok(Inspector::new(Catalogue::builtin_arc(), pools))
}

async fn backends(config: &Config, ledger: &dyn Ledger) -> anyhow::Result<BTreeMap<BackendId, Arc<Backend>>> {
    let mut backends = BTreeMap::new();
    for backend in &config.backends {
        let client = ledger.upstream_client(&backend.id).await?;
        backends.insert(backend.id.clone(), made(config, backend, client));
    }
    Ok(backends)
}

/// A backend that nobody has asked yet.
fn made(config: &Config, backend: &BackendConfig, client: UpstreamClientId) -> Arc<Backend> {
    let mut made = Backend::new(backend.id.clone(), backend.pool.clone(), backend.endpoint.clone(), client);
    (made.tags, made.share_percent) = (backend.tags.clone(), backend.share_percent);
    made.set_owned(config.tenants.owner_of(&backend.pool).is_some());
    Arc::new(made)
}

fn gateway(services: &Arc<Services>, dispatch: &DispatchHandle, drain: &Drain) -> Gateway {
    let config = services.config();
    let (limits, clock) = (&config.limits, &services.clock);
    let doors = Doors {
        rates: Admission::new(clock.clone()),
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
