//! The sockets that the gateway listens on: bound by us, lent to Pingora, given to a successor.
//!
//! Pingora binds within its services, where a taken port is a panic, and hands sockets over only together with a stop of fixed length. So they
//! are bound here, where a taken port is an error that names it, and each service finds its own in Pingora's table of inherited sockets.
//! A connection that arrives between one process and the next waits in the kernel's queue of the socket, and is refused by neither.

use crate::config::Config;
use crate::drain::Drain;
use crate::listen::ListenAddress;
use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::net::TcpListener;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Every listening socket, by its address as the configuration says it.
#[derive(Debug)]
pub(super) struct Sockets {
    held: Mutex<BTreeMap<String, OwnedFd>>,
    /// Turns true when a successor has them.
    given: watch::Sender<bool>,
}

/// Until when a service accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// The first moment of a stop: callers go elsewhere.
    Stopping,
    /// A successor accepts them: monitoring sees a stop to its end.
    Given,
}

impl Sockets {
    /// Holds these, those that the configuration names; the others are closed.
    ///
    /// # Errors
    /// One that is missing or can't be polled: which.
    pub(super) fn new(config: &Config, mut sockets: BTreeMap<String, OwnedFd>) -> anyhow::Result<Arc<Self>> {
        let mut held = BTreeMap::new();
        for name in wanted(config).map(|listener| name(&listener.address)) {
            let socket = sockets.remove(&name).with_context(|| format!("no socket came for {name}"))?;
            // Pingora's runtime polls it.
            rustix::io::ioctl_fionbio(&socket, true).with_context(|| format!("can't listen on {name}"))?;
            held.insert(name, socket);
        }
        for name in sockets.keys() {
            tracing::info!("nobody listens on {name} any more: the configuration does not name it");
        }
        Ok(Arc::new(Self { held: Mutex::new(held), given: watch::channel(false).0 }))
    }

    /// A service that uses these sockets, and stops accepting in time.
    pub(super) fn lent(
        self: &Arc<Self>,
        service: impl ServiceWithDependents + 'static,
        drain: &Drain,
        until: Until,
    ) -> Box<dyn ServiceWithDependents> {
        let until = match until {
            Until::Stopping => drain.subscribe(),
            Until::Given => self.given.subscribe(),
        };
        Box::new(Lent { service: Box::new(service), sockets: Arc::clone(self), until })
    }

    /// A copy of each socket, by address, to be given away.
    ///
    /// # Errors
    /// The process has no more file descriptors.
    pub(super) fn copies(&self) -> std::io::Result<Vec<(String, OwnedFd)>> {
        self.held().iter().map(|(address, socket)| Ok((address.clone(), socket.try_clone()?))).collect()
    }

    /// Accepts nothing from now on, and leaves what waits in the kernel's queues to the successor that has copies.
    pub(super) fn give(&self) {
        self.given.send_replace(true);
    }

    /// Closes them: from now on connections are refused, but on what [`Until::Given`] services keep of theirs.
    pub(super) fn close(&self) {
        self.held().clear();
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        // A map of sockets is whole at every moment.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy(&self, address: &str) -> Option<OwnedFd> {
        let held = self.held();
        let copy = held.get(address)?.try_clone();
        copy.inspect_err(|error| tracing::error!(address, %error, "no file descriptor for a listener")).ok()
    }
}

/// An address, and the mode of its socket file.
struct Wanted {
    address: ListenAddress,
    mode: u32,
}

/// Everything that the gateway listens on for others: its callers and its monitoring.
fn wanted(config: &Config) -> impl Iterator<Item = Wanted> {
    let listeners =
        config.listen.iter().map(|listener| Wanted { address: listener.address.clone(), mode: listener.mode });
    listeners.chain([Wanted { address: config.metrics_address.into(), mode: 0 }])
}

/// As Pingora names it in its table.
fn name(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(address) => address.to_string(),
        ListenAddress::Unix(path) => path.display().to_string(),
    }
}

/// Binds every address of the configuration that `others` do not bring, by Pingora's name of it.
///
/// # Errors
/// A port or file that is taken: which.
pub(super) fn bound(config: &Config, others: &BTreeSet<String>) -> anyhow::Result<BTreeMap<String, OwnedFd>> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = wanted(config).map(|wanted| name(&wanted.address)).find(|name| !seen.insert(name.clone())) {
        // Port 0 is the only one that the configuration may name twice.
        bail!("two listeners on {twice} can't be told apart: give each an address or a port of its own");
    }
    let missing = wanted(config).filter(|wanted| !others.contains(&name(&wanted.address)));
    missing.map(|wanted| Ok((name(&wanted.address), bind(&wanted)?))).collect()
}

fn bind(wanted: &Wanted) -> anyhow::Result<OwnedFd> {
    let address = &wanted.address;
    match address {
        ListenAddress::Tcp(tcp) => TcpListener::bind(tcp)
            .map(OwnedFd::from)
            .with_context(|| format!("can't listen on {address}: is something else listening there?")),
        ListenAddress::Unix(path) => {
            free_socket_file(path)?;
            let bind = || {
                // Made with the process's umask; it gets its mode a moment later, and the directory decides meanwhile.
                let socket = UnixListener::bind(path)?;
                std::fs::set_permissions(path, Permissions::from_mode(wanted.mode))?;
                std::io::Result::Ok(OwnedFd::from(socket))
            };
            bind().with_context(|| format!("can't listen on {address}"))
        }
    }
}

/// A socket file that nobody serves is left from before and replaced; anything else at its place stays.
fn free_socket_file(path: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    ensure!(metadata.file_type().is_socket(), "can't listen on `{}`: it is no socket", path.display());
    let served = UnixStream::connect(path).is_ok();
    ensure!(!served, "can't listen on `{}`: the socket is in use", path.display());
    std::fs::remove_file(path).with_context(|| format!("can't replace the socket file `{}`", path.display()))
}

/// A Pingora service on sockets that are not its own.
struct Lent {
    service: Box<dyn ServiceWithDependents>,
    sockets: Arc<Sockets>,
    until: watch::Receiver<bool>,
}

#[async_trait]
impl ServiceWithDependents for Lent {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        if let Some(fds) = &fds {
            for address in self.service.listen_addresses().unwrap_or_default() {
                if let Some(socket) = self.sockets.copy(&address) {
                    // Pingora owns this copy from here on.
                    fds.lock().add(address, socket.into_raw_fd());
                }
            }
        }
        self.service.start_service(fds, self.until.clone(), listeners_per_fd, ready).await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.service.listen_addresses()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CertificateConfig, ListenConfig, ListenKind};
    use std::net::{SocketAddr, TcpStream};

    const ANY: &str = "127.0.0.1:0";

    fn config(listen: impl Into<ListenAddress>, metrics: &str) -> Config {
        let listener = ListenConfig::new(listen, ListenKind::Tls(CertificateConfig::Made));
        Config { listen: vec![listener], metrics_address: metrics.parse().unwrap(), ..Config::built_in("/s".into()) }
    }

    #[test]
    fn a_given_socket_is_used_and_one_that_is_not_named_is_closed() {
        let (used, unused) = (TcpListener::bind(ANY).unwrap(), TcpListener::bind(ANY).unwrap());
        let (address, other) = (used.local_addr().unwrap(), unused.local_addr().unwrap());
        let config = config(address, ANY);
        let mut sockets = bound(&config, &[address.to_string()].into()).unwrap();
        assert_eq!(sockets.len(), 1, "the metrics");
        sockets.extend([(address.to_string(), used.into()), (other.to_string(), unused.into())]);
        let sockets = Sockets::new(&config, sockets).unwrap();
        assert!(TcpStream::connect(address).is_ok());
        assert!(TcpStream::connect(other).is_err());
        sockets.close();
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn two_listeners_on_port_0_of_one_address_are_refused_and_of_two_addresses_not() {
        let first: SocketAddr = ANY.parse().unwrap();
        assert!(bound(&config(first, ANY), &BTreeSet::new()).is_err());
        assert_eq!(bound(&config(first, "127.0.0.2:0"), &BTreeSet::new()).unwrap().len(), 2);
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind(ANY).unwrap();
        let address = taken.local_addr().unwrap();
        let error = bound(&config(address, ANY), &BTreeSet::new()).unwrap_err();
        assert!(format!("{error:#}").contains(&format!("can't listen on {address}")), "{error:#}");
    }

    #[test]
    fn a_socket_file_that_nobody_serves_is_replaced_and_one_in_use_or_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let config = config(ListenAddress::Unix(path.clone()), ANY);
        drop(UnixListener::bind(&path).unwrap());
        let sockets = bound(&config, &BTreeSet::new()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, config.listen[0].mode);
        assert!(UnixStream::connect(&path).is_ok());
        assert!(bound(&config, &BTreeSet::new()).is_err(), "in use");
        drop(sockets);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert!(bound(&config, &BTreeSet::new()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    }
}
