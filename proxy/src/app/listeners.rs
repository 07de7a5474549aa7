//! What is spoken on each socket that the gateway listens on, as Pingora services.

use super::reload::Resolvers;
use super::sockets::{Sockets, Until};
use crate::admin;
use crate::clock::WallMillis;
use crate::config::{CertificateConfig, Config, ListenConfig, ListenKind};
use crate::drain::Drain;
use crate::gateway::Gateway;
use crate::listen::{
    self, ConnectionCap, ConnectionLimits, Connections, Front, FrontLimits, HeadObserver, HelloGuard, Redirect,
    RedirectTarget, own_ca,
};
use crate::record::audit::Refusal;
use crate::reject::Stage;
use crate::services::Services;
use anyhow::Context;
use pingora::listeners::TcpSocketOptions;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;
use rustls::sign::CertifiedKey;
use std::net::SocketAddr;
use std::sync::Arc;

/// Connections to backends for static files, kept for reuse.
const UPSTREAM_POOL: usize = 64;
/// A forwarded static file is asked for once more at most: the peer was chosen a moment ago.
const FORWARD_TRIES: usize = 2;

/// A Pingora server with all listeners: TLS, redirects, metrics and the control socket; and the count of its callers' connections.
///
/// # Errors
/// A certificate that can't be made or used.
pub(super) fn server(
    services: &Arc<Services>,
    gateway: Gateway,
    admin: admin::Admin,
    sockets: &Arc<Sockets>,
    resolvers: &Resolvers,
    drain: &Drain,
) -> anyhow::Result<(Server, Arc<Connections>)> {
    let config = &*services.config();
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();
    let observer: Arc<dyn HeadObserver> = Arc::new(Observed(Arc::clone(services)));
    let limits = ConnectionLimits { total: config.limits.connections_max as usize, ..ConnectionLimits::default() };
    let connections = Connections::new(limits);
    let mut front_limits = FrontLimits::default();
    front_limits.head.deadline = config.limits.head_deadline;

    let proxy = pingora::proxy::http_proxy(&server.configuration, gateway);
    let front = Front::new(proxy, front_limits, Arc::clone(&connections), Arc::clone(&observer));
    let mut https = Service::new("https".to_owned(), front);
    https.threads = Some(worker_threads());
    https.endpoints().set_pre_tls_callback(Arc::new(HelloGuard::new(Arc::clone(&connections))));
    https.set_connection_filter(Arc::new(ConnectionCap(Arc::clone(&connections))));
    for (address, resolver) in resolvers {
        https.add_tls_with_settings(
            &address.to_string(),
            Some(socket_options()),
            listen::tls::settings(Arc::clone(resolver))?,
        );
    }
    server.add_boxed_service(sockets.lent(https, drain, Until::Stopping));

    for listener in config.listen.iter().filter(|listener| listener.kind == ListenKind::Redirect) {
        let redirect =
            Redirect::new(redirect_target(config), front_limits.head, Arc::clone(&connections), Arc::clone(&observer));
        let mut service = Service::new("redirect".to_owned(), redirect);
        service.add_tcp_with_settings(&listener.address.to_string(), socket_options());
        server.add_boxed_service(sockets.lent(service, drain, Until::Stopping));
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

/// Restarts must not wait for the last connections of the former process.
fn socket_options() -> TcpSocketOptions {
    let mut options = TcpSocketOptions::default();
    options.so_reuseport = Some(false);
    options
}

/// The certificate of each TLS listener, by its address.
///
/// # Errors
/// One that can't be read, made or used: which listener's.
pub(super) fn certificates(config: &Config, now: WallMillis) -> anyhow::Result<Vec<(SocketAddr, CertifiedKey)>> {
    let mut certificates = Vec::new();
    for listener in &config.listen {
        if let ListenKind::Tls(certificate) = &listener.kind {
            certificates.push((listener.address, pair(config, listener, certificate, now)?));
        }
    }
    Ok(certificates)
}

fn pair(
    config: &Config,
    listener: &ListenConfig,
    certificate: &CertificateConfig,
    now: WallMillis,
) -> anyhow::Result<CertifiedKey> {
    let (certificate, key) = match certificate {
        CertificateConfig::Files { certificate, key } => (certificate.clone(), key.clone()),
        CertificateConfig::Made => {
            let public = config.public_url.as_ref().map(|url| url.host().to_owned());
            let hosts = public.into_iter().chain(own_ca::hostname()).collect::<Vec<_>>();
            let names = own_ca::Names::new(
                hosts.iter().map(String::as_str),
                config.listen.iter().map(|listener| listener.address),
            );
            let made = own_ca::ensure(&config.state_dir, &names, now).context("the certificate can't be made")?;
            (made.certificate, made.key)
        }
    };
    listen::tls::load(&certificate, &key, now)
        .with_context(|| format!("the certificate of {} can't be used", listener.address))
}

/// Where redirects lead: to the public URL, else to the first TLS listener's port on the host that the caller named.
fn redirect_target(config: &Config) -> RedirectTarget {
    let public = config.public_url.as_ref().and_then(|url| RedirectTarget::of_public_url(url.as_str()).ok());
    let tls = config.listen.iter().find(|listener| matches!(listener.kind, ListenKind::Tls(_)));
    public.unwrap_or(RedirectTarget::CallersHost { https_port: tls.map_or(443, |listener| listener.address.port()) })
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
