//! The TCP sockets that the gateway listens on: bound by us, lent to Pingora, given to a successor.
//!
//! Pingora binds within its services, where a taken port is a panic, and hands sockets over only together with a stop of fixed length. So they
//! are bound here, where a taken port is an error that names it, and each service finds its own in Pingora's table of inherited sockets.
//! A connection that arrives between one process and the next waits in the kernel's queue of the socket, and is refused by neither.

use crate::config::Config;
use crate::drain::Drain;
use anyhow::{Context, bail};
use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Every listening socket, by its address as the configuration says it.
#[derive(Debug)]
pub(super) struct Sockets {
    held: Mutex<BTreeMap<String, TcpListener>>,
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
    pub(super) fn new(config: &Config, mut sockets: BTreeMap<String, TcpListener>) -> anyhow::Result<Arc<Self>> {
        let mut held = BTreeMap::new();
        for address in addresses(config).map(|address| address.to_string()) {
            let socket = sockets.remove(&address).with_context(|| format!("no socket came for {address}"))?;
            // Pingora's runtime polls it.
            socket.set_nonblocking(true).with_context(|| format!("can't listen on {address}"))?;
            held.insert(address, socket);
        }
        for address in sockets.keys() {
            tracing::info!("nobody listens on {address} any more: the configuration does not name it");
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
    pub(super) fn copies(&self) -> std::io::Result<Vec<(String, TcpListener)>> {
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

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, TcpListener>> {
        // A map of sockets is whole at every moment.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy(&self, address: &str) -> Option<TcpListener> {
        let held = self.held();
        let copy = held.get(address)?.try_clone();
        copy.inspect_err(|error| tracing::error!(address, %error, "no file descriptor for a listener")).ok()
    }
}

/// Binds every address of the configuration that `others` do not bring.
///
/// # Errors
/// A port that is taken: which.
pub(super) fn bound(config: &Config, others: &BTreeSet<String>) -> anyhow::Result<BTreeMap<String, TcpListener>> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = addresses(config).find(|address| !seen.insert(*address)) {
        // Port 0 is the only one that the configuration may name twice.
        bail!("two listeners on {twice} can't be told apart: give each an address or a port of its own");
    }
    let missing = addresses(config).filter(|address| !others.contains(&address.to_string()));
    let bind = |address: SocketAddr| {
        let socket = TcpListener::bind(address)
            .with_context(|| format!("can't listen on {address}: is something else listening there?"))?;
        Ok((address.to_string(), socket))
    };
    missing.map(bind).collect()
}

/// Every address that the gateway listens on with TCP.
fn addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    config.listen.iter().map(|listener| listener.address).chain([config.metrics_address])
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

    fn config(listen: SocketAddr, metrics: SocketAddr) -> Config {
        let listener = ListenConfig { address: listen, kind: ListenKind::Tls(CertificateConfig::Made) };
        Config { listen: vec![listener], metrics_address: metrics, ..Config::built_in("/s".into()) }
    }

    #[test]
    fn a_given_socket_is_used_and_one_that_is_not_named_is_closed() {
        let (used, unused) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, other) = (used.local_addr().unwrap(), unused.local_addr().unwrap());
        let config = config(address, "127.0.0.2:0".parse().unwrap());
        let mut sockets = bound(&config, &[address.to_string()].into()).unwrap();
        assert_eq!(sockets.len(), 1, "the metrics");
        sockets.extend([(address.to_string(), used), (other.to_string(), unused)]);
        let sockets = Sockets::new(&config, sockets).unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok());
        assert!(std::net::TcpStream::connect(other).is_err());
        sockets.close();
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    #[test]
    fn two_listeners_on_port_0_of_one_address_are_refused_and_of_two_addresses_not() {
        let [first, second] = ["127.0.0.1:0", "127.0.0.2:0"].map(|address| address.parse().unwrap());
        assert!(bound(&config(first, first), &BTreeSet::new()).is_err());
        assert_eq!(bound(&config(first, second), &BTreeSet::new()).unwrap().len(), 2);
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bound(&config(address, "127.0.0.2:0".parse().unwrap()), &BTreeSet::new()).unwrap_err();
        assert!(format!("{error:#}").contains(&format!("can't listen on {address}")), "{error:#}");
    }
}
