//! What is spoken on each socket that the gateway listens on, as Pingora services.

use super::certificates::Certificates;
use super::sockets::{Sockets, Until};
use crate::admin;
use crate::config::{Config, ListenConfig, ListenKind};
use crate::drain::Drain;
use crate::gateway::Gateway;
use crate::listen::listeners::nearest;
use crate::listen::{
    self, ConnectionCap, ConnectionLimits, Connections, Front, FrontLimits, HeadObserver, HelloGuard, ListenAddress,
    ListenerFacts, Listeners, Redirect, RedirectTarget,
};
use crate::record::audit::Refusal;
use crate::reject::Stage;
use crate::services::Services;
use pingora::listeners::{ListenerConfig, TcpSocketOptions};
use pingora::protocols::l4::socket::SocketAddr as EndAddr;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;
use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

/// Connections to backends for static files, kept for reuse.
const UPSTREAM_POOL: usize = 64;
/// A forwarded static file is asked for once more at most: the peer was chosen a moment ago.
const FORWARD_TRIES: usize = 2;

/// A Pingora server with all listeners: TLS, redirects, metrics and the control socket; and the count of its callers' connections.
///
/// # Errors
/// Settings that Pingora refuses.
pub(super) fn server(
    services: &Arc<Services>,
    certificates: &Certificates,
    gateway: Gateway,
    admin: admin::Admin,
    sockets: &Arc<Sockets>,
    drain: &Drain,
) -> anyhow::Result<(Server, Arc<Connections>)> {
    let config = &*services.config();
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();
    let observer: Arc<dyn HeadObserver> = Arc::new(Observed(Arc::clone(services)));
    let limits = ConnectionLimits { total: config.limits.connections_max as usize, ..ConnectionLimits::default() };
    let connections = Connections::at(limits, Arc::new(LiveListeners(Arc::clone(services))));
    let mut front_limits = FrontLimits::default();
    front_limits.head.deadline = config.limits.head_deadline;

    let proxy = pingora::proxy::http_proxy(&server.configuration, gateway);
    let front = Front::new(proxy, front_limits, Arc::clone(&connections), Arc::clone(&observer));
    let mut https = Service::new("https".to_owned(), front);
    https.threads = Some(worker_threads());
    https.endpoints().set_pre_tls_callback(Arc::new(HelloGuard::new(Arc::clone(&connections), Arc::clone(&observer))));
    https.set_connection_filter(Arc::new(ConnectionCap(Arc::clone(&connections))));
    let mut redirects = Service::new(
        "redirect".to_owned(),
        Redirect::new(redirect_target(config), front_limits.head, Arc::clone(&connections), Arc::clone(&observer)),
    );
    redirects.set_connection_filter(Arc::new(ConnectionCap(Arc::clone(&connections))));
    let mut redirected = false;
    for listener in &config.listen {
        let endpoint = endpoint(listener);
        match (&listener.kind, certificates.of(&listener.address)) {
            (ListenKind::Tls(_), Some(shown)) => {
                let settings = listen::tls::settings(Arc::clone(&shown.resolver), shown.clients.clone())?;
                https.add_listener(endpoint.tls(settings));
            }
            (ListenKind::Tls(_), None) => anyhow::bail!("{} has no certificate", listener.address),
            (ListenKind::Plain, _) => https.add_listener(endpoint),
            (ListenKind::Redirect, _) => {
                redirected = true;
                redirects.add_listener(endpoint);
            }
        }
    }
    server.add_boxed_service(sockets.lent(https, drain, Until::Stopping));
    if redirected {
        server.add_boxed_service(sockets.lent(redirects, drain, Until::Stopping));
    }
    let (metrics, control) = admin.services(config)?;
    server.add_boxed_service(sockets.lent(metrics, drain, Until::Given));
    server.add_service(control);
    Ok((server, connections))
}

fn server_conf(config: &Config) -> ServerConf {
    let private = |name: &str| config.state_dir.join(name).display().to_string();
    ServerConf {
        threads: 1,
        max_retries: FORWARD_TRIES,
        upstream_keepalive_pool_size: UPSTREAM_POOL,
        // Defaults lie in /tmp, where anybody may put something else.
        pid_file: private("comfygate.pid"),
        upgrade_sock: private("pingora-upgrade.sock"),
        // We wait ourselves (`drain`); these are unconditional sleeps.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}

fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The socket of a listener, without its TLS. A socket file is made with the process's umask and gets its mode a moment later; the directory decides meanwhile.
fn endpoint(listener: &ListenConfig) -> ListenerConfig {
    match &listener.address {
        ListenAddress::Tcp(address) => ListenerConfig::tcp(address.to_string()).tcp_socket_options(socket_options()),
        ListenAddress::Unix(path) => {
            ListenerConfig::uds(path.display().to_string()).permissions(Permissions::from_mode(listener.mode))
        }
    }
}

/// Restarts must not wait for the last connections of the former process.
fn socket_options() -> TcpSocketOptions {
    let mut options = TcpSocketOptions::default();
    options.so_reuseport = Some(false);
    options
}

/// Where redirects lead: to the public URL, else to the first TLS listener's port on the host that the caller named.
fn redirect_target(config: &Config) -> RedirectTarget {
    let public = config.public_url.as_ref().and_then(|url| RedirectTarget::of_public_url(url.origin()).ok());
    let tls = config.listen.iter().find(|listener| matches!(listener.kind, ListenKind::Tls(_)));
    let port = tls.and_then(|listener| listener.address.tcp()).map_or(443, |address| address.port());
    public.unwrap_or(RedirectTarget::CallersHost { https_port: port })
}

/// What the configuration of now says of each listener.
struct LiveListeners(Arc<Services>);

impl Listeners for LiveListeners {
    fn facts(&self, local: Option<&EndAddr>) -> Arc<ListenerFacts> {
        let config = self.0.config();
        nearest(config.listen.iter().map(|listener| (&listener.address, &listener.facts)), local)
    }

    fn trusted_anywhere(&self, peer: IpAddr) -> bool {
        self.0.config().listen.iter().any(|listener| listener.facts.trusted.holds(peer))
    }
}

/// Tells metrics and audit of what never became a request.
struct Observed(Arc<Services>);

impl HeadObserver for Observed {
    fn refused(&self, code: &'static str, peer: Option<SocketAddr>) {
        let services = &self.0;
        services.metrics.refusal(Stage::Listen, code);
        services.audit.refused(&Refusal::before_request(code, peer.map(|peer| peer.ip())));
    }
}
