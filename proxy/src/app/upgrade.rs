//! One process follows another without a refused connection and without a lost job.
//!
//! The successor checks its configuration first, asks for the hand-over on a unix socket in the state directory (0600), and makes ready
//! everything that needs neither ledger nor listeners. What it can't do it finds out while the former process serves on. Then:
//!
//! 1. the former process refuses new work, stops carrying attempts (they go on at their backends), closes its sockets there and the ledger,
//! 2. it sends its listening sockets (`SCM_RIGHTS`); connections that arrive meanwhile wait in the kernel's queues,
//! 3. the successor opens the ledger, follows up the attempts as after a restart, serves, and says so,
//! 4. the former process finishes the answers that it is sending, and leaves.
//!
//! After step 1 there is no way back: if the successor ends before step 3, the former process says so and ends with an error.

mod wire;

use super::backends::Watchers;
use super::notify;
use super::sockets::Sockets;
use crate::admin::lifecycle::{UpgradeReport, UpgradeRequest};
use crate::authenticate::key_uses;
use crate::dispatch::estimate::Estimates;
use crate::dispatch::learned;
use crate::drain::Drain;
use crate::record::ledger::redb::SCHEMA;
use crate::services::Services;
use anyhow::{Context, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wire::{FromPredecessor, FromSuccessor, WireError};

/// The socket's name in the state directory.
pub(crate) const SOCKET: &str = "hand-over.sock";
/// Between two words of a peer that has nothing long to do.
const WORD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a successor may make ready after the offer, and how long it may take until it serves: a ledger may have to be brought up to date.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(240);
/// How long a successor waits for the sockets: requests end, the ledger is closed.
const GIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long short requests get to end before the ledger is closed. New connections wait meanwhile.
const SHORT_REQUESTS: Duration = Duration::from_millis(500);
/// How long carriers of attempts and sockets to backends get to end: they wait for nothing of ours.
const LET_GO: Duration = Duration::from_secs(3);
/// How long the disk may take to end the ledger's last transactions.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How a hand-over ended, once it had begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// That process serves.
    Serving(u32),
    /// It does not, and neither does this one any more.
    Failed(String),
}

/// The end of the former process.
pub(super) struct Giver {
    services: Arc<Services>,
    drain: Drain,
    sockets: Arc<Sockets>,
    watchers: Arc<Watchers>,
    dispatcher: Mutex<Option<JoinHandle<()>>>,
    /// Held by a reload too: none begins in the middle of the other.
    turn: Arc<tokio::sync::Mutex<()>>,
    outcome: watch::Sender<Option<Outcome>>,
    /// The command line's request that waits for the outcome, if there is one.
    asked: Drain,
    program: Program,
}

/// How a successor is started.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// The file of this binary as it was named when it started; another one may lie there by now, which is the point.
    pub(super) binary: Option<PathBuf>,
    /// `--config`, if it was given.
    pub(super) config: Option<PathBuf>,
}

impl Giver {
    #[allow(clippy::too_many_arguments, reason = "the composition root joins the parts here, each once")]
    pub(super) fn new(
        services: &Arc<Services>,
        drain: &Drain,
        sockets: &Arc<Sockets>,
        watchers: &Arc<Watchers>,
        dispatcher: JoinHandle<()>,
        turn: &Arc<tokio::sync::Mutex<()>>,
        program: Program,
    ) -> Arc<Self> {
        Arc::new(Self {
            services: Arc::clone(services),
            drain: drain.clone(),
            sockets: Arc::clone(sockets),
            watchers: Arc::clone(watchers),
            dispatcher: Mutex::new(Some(dispatcher)),
            turn: Arc::clone(turn),
            outcome: watch::channel(None).0,
            asked: Drain::new(),
            program,
        })
    }

    /// Waits for successors, one at a time, until one has taken over.
    pub(super) async fn serve(self: Arc<Self>, listener: UnixListener) {
        while self.outcome.borrow().is_none() {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let process = stream.peer_cred().ok().and_then(|peer| u32::try_from(peer.pid()?).ok());
                    let given = match stream.into_std() {
                        Ok(stream) => self.give(stream, process.unwrap_or(0)).await,
                        Err(error) => Err(WireError::Io(error)),
                    };
                    if let Err(error) = given {
                        tracing::warn!(process, %error, "a successor asked and did not take over; this process serves on");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the hand-over socket accepts nothing now");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Resolves when a hand-over has ended, well or not.
    pub(super) async fn ended(&self) -> Outcome {
        let mut outcome = self.outcome.subscribe();
        let ended = outcome.wait_for(Option::is_some).await.map(|outcome| (*outcome).clone());
        match ended {
            Ok(Some(outcome)) => outcome,
            // The sender lives in `self`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// How it has ended, if there was one.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcome.borrow().clone()
    }

    /// Resolves when nobody waits for an answer about the outcome any more.
    pub(super) async fn answered(&self) {
        self.asked.idle().await;
    }

    /// An error before the point of no return: the gateway goes on. After it: `Ok`, and [`Giver::outcome`].
    async fn give(&self, stream: UnixStream, process: u32) -> Result<(), WireError> {
        let copies = self.sockets.copies()?;
        let addresses = copies.iter().map(|(address, _)| address.clone()).collect();
        let stream = blocking(move || offered(stream, addresses)).await?;
        let _turn = self.turn.lock().await;
        if self.drain.is_stopping() {
            return Err(WireError::Refused("the gateway is stopping".to_owned()));
        }
        tracing::info!(process, "handing over: new requests wait for the successor");
        self.let_go().await;
        let given = blocking(move || given(stream, &copies)).await;
        let outcome = match given {
            Ok(()) => {
                notify::tell(notify::Word::MainProcess(process));
                tracing::info!(process, "the successor serves; this process finishes its answers and leaves");
                Outcome::Serving(process)
            }
            Err(error) => {
                let reason =
                    format!("process {process} took over and does not serve: {error}; start the gateway again");
                tracing::error!("{reason}");
                Outcome::Failed(reason)
            }
        };
        self.services.audit.handed_over(process);
        self.outcome.send_replace(Some(outcome));
        Ok(())
    }

    /// Gives up everything that a successor needs: from here on there is no way back.
    async fn let_go(&self) {
        self.drain.hand_over();
        self.sockets.give();
        let dispatcher = self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        let carriers = async {
            if let Some(dispatcher) = dispatcher
                && tokio::time::timeout(LET_GO, dispatcher).await.is_err()
            {
                tracing::warn!("attempts were still carried after {LET_GO:?}; what they commit now is refused");
            }
        };
        let sockets = async { drop(tokio::time::timeout(LET_GO, self.watchers.closed()).await) };
        let requests = async { drop(tokio::time::timeout(SHORT_REQUESTS, self.drain.idle()).await) };
        // A deletion that goes on must not meet what the successor accepts.
        tokio::join!(carriers, sockets, requests, self.services.sweeps.end());
        // No attempt ends any more: what they taught is all there.
        drop(tokio::time::timeout(LET_GO, learned::keep(&self.services, Estimates::default())).await);
        drop(tokio::time::timeout(LET_GO, key_uses::keep(&self.services)).await);
        if tokio::time::timeout(CLOSE_TIMEOUT, self.services.ledger.close()).await.is_err() {
            tracing::error!("the ledger was not closed within {CLOSE_TIMEOUT:?}");
        }
    }

    /// Starts a successor as a child, and waits until it serves or ends.
    pub(super) async fn start_successor(self: Arc<Self>, request: UpgradeRequest) -> UpgradeReport {
        let _asked = self.asked.enter();
        let mut child = match self.spawned(request) {
            Ok(child) => child,
            Err(reason) => return UpgradeReport::Refused(reason),
        };
        let report = |outcome| match outcome {
            Outcome::Serving(process) => UpgradeReport::Serving(process),
            Outcome::Failed(reason) => UpgradeReport::Failed(reason),
        };
        tokio::select! {
            outcome = self.ended() => report(outcome),
            status = child.wait() => {
                if self.drain.is_handing_over() {
                    return report(self.ended().await);
                }
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                UpgradeReport::Refused(format!("the successor ended before it took over ({status}); the log has its reason"))
            }
            () = tokio::time::sleep(SUCCESSOR_TIMEOUT), if !self.drain.is_handing_over() => {
                // One that was given everything meanwhile must not be killed: `ended` says what becomes of it.
                if self.drain.is_handing_over() {
                    return report(self.ended().await);
                }
                let _ = child.kill().await;
                UpgradeReport::Refused(format!("the successor was not ready within {SUCCESSOR_TIMEOUT:?}"))
            }
        }
    }

    fn spawned(&self, request: UpgradeRequest) -> Result<Child, String> {
        let unknown = || "this process does not know the file of its own binary: name one with --binary".to_owned();
        let binary = request.binary.or_else(|| self.program.binary.clone()).ok_or_else(unknown)?;
        if !binary.is_absolute() {
            return Err(format!("`{}` is no absolute path", binary.display()));
        }
        let mut command = Command::new(&binary);
        command.args(["serve", "--upgrade"]).stdin(std::process::Stdio::null());
        if let Some(config) = &self.program.config {
            command.arg("--config").arg(config);
        }
        tracing::info!(binary = %binary.display(), "starting a successor");
        command.spawn().map_err(|error| format!("`{}` can't be started: {error}", binary.display()))
    }
}

/// Runs what reads and writes with timeouts on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| WireError::Io(std::io::Error::other(error)))?
}

/// Tells the successor what there is, and waits until it wants it.
fn offered(mut stream: UnixStream, addresses: BTreeSet<String>) -> Result<UnixStream, WireError> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WORD_TIMEOUT))?;
    stream.set_read_timeout(Some(WORD_TIMEOUT))?;
    let FromSuccessor::Hello { protocol, version } = wire::read(&mut stream)? else { return Err(WireError::Order) };
    if protocol != wire::PROTOCOL {
        let reason = format!("version {version} speaks hand-over protocol {protocol}, this process {}", wire::PROTOCOL);
        wire::write(&mut stream, &FromPredecessor::Refused(reason.clone()))?;
        return Err(WireError::Refused(reason));
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    wire::write(&mut stream, &FromPredecessor::Offer { version, schema: SCHEMA, addresses })?;
    stream.set_read_timeout(Some(SUCCESSOR_TIMEOUT))?;
    match wire::read(&mut stream)? {
        FromSuccessor::Take => Ok(stream),
        _ => Err(WireError::Order),
    }
}

/// Sends the sockets, and waits until the successor serves.
fn given(mut stream: UnixStream, sockets: &[(String, OwnedFd)]) -> Result<(), WireError> {
    wire::write_sockets(&stream, sockets)?;
    stream.set_read_timeout(Some(SUCCESSOR_TIMEOUT))?;
    match wire::read(&mut stream)? {
        FromSuccessor::Serving => Ok(()),
        _ => Err(WireError::Order),
    }
}

/// The socket on which successors ask. The caller holds the ledger's lock, so whoever made a former one is gone or has handed over.
///
/// # Errors
/// When the former one can't be replaced; with its path.
pub(super) fn listen(state_dir: &Path) -> anyhow::Result<UnixListener> {
    let path = state_dir.join(SOCKET);
    let replace = || {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Between these two only the directory's own mode, 0700, keeps others out.
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    replace().with_context(|| format!("can't make the hand-over socket `{}`", path.display()))
}

/// A former process's offer: it still serves, and goes on when this is dropped.
pub(super) struct Offer {
    stream: UnixStream,
    /// What it listens on.
    pub(super) addresses: BTreeSet<String>,
}

/// The former process has let go; dropped without [`Taken::serving`], it reports the failure and ends.
pub(super) struct Taken(UnixStream);

impl Offer {
    /// Asks the process that serves from this state directory.
    ///
    /// # Errors
    /// Nobody serves there, it refuses, or its ledger is newer than this binary.
    pub(super) fn ask(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(SOCKET);
        let connected = UnixStream::connect(&path);
        let mut stream = connected.with_context(|| {
            let path = path.display();
            format!("no gateway to take over answers on `{path}`: start without --upgrade if none runs")
        })?;
        let no_offer = || format!("the running gateway makes no offer on `{}`", path.display());
        match asked(&mut stream).with_context(no_offer)? {
            FromPredecessor::Offer { version, schema, addresses } => {
                if schema > SCHEMA {
                    bail!(
                        "the running gateway ({version}) keeps its ledger in schema {schema}, this binary ({}) knows {SCHEMA} at most: it is older",
                        env!("CARGO_PKG_VERSION")
                    );
                }
                tracing::info!(version, "the running gateway offers to hand over");
                Ok(Self { stream, addresses })
            }
            FromPredecessor::Refused(reason) => bail!("the running gateway refuses to hand over: {reason}"),
            FromPredecessor::Given(_) => bail!("{}", WireError::Order),
        }
    }

    /// Takes over: the former process lets go of everything, and this one has to serve.
    ///
    /// # Errors
    /// The connection ended before the sockets came: the former process may have let go all the same.
    pub(super) fn take(mut self) -> anyhow::Result<(Taken, BTreeMap<String, OwnedFd>)> {
        let mut taking = || {
            self.stream.set_read_timeout(Some(GIVE_TIMEOUT))?;
            wire::write(&mut self.stream, &FromSuccessor::Take)?;
            wire::read_sockets(&self.stream)
        };
        let sockets = taking().context("the running gateway was asked to hand over and did not: see its log")?;
        Ok((Taken(self.stream), sockets))
    }
}

impl Taken {
    /// Tells the former process that it can leave.
    pub(super) fn serving(mut self) {
        // One that is gone already has nothing to leave.
        if let Err(error) = wire::write(&mut self.0, &FromSuccessor::Serving) {
            tracing::warn!(%error, "the former process was not told that this one serves");
        }
    }
}

fn asked(stream: &mut UnixStream) -> Result<FromPredecessor, WireError> {
    stream.set_write_timeout(Some(WORD_TIMEOUT))?;
    // A hand-over to another successor that came to nothing may be going on.
    stream.set_read_timeout(Some(SUCCESSOR_TIMEOUT))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    wire::write(stream, &FromSuccessor::Hello { protocol: wire::PROTOCOL, version })?;
    wire::read(stream)
}
