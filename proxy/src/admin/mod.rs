//! The control plane: metrics and health on a listener of their own, keys on a unix socket that only this user may open (design §5 admin).
//!
//! Both are axum on Pingora listeners, so that they take part in a stop. On the metrics listener there is nothing that changes anything.

pub mod adoption;
pub mod api;
pub mod api_error;
pub mod backends;
pub mod halts;
mod adoption_routes;
pub mod catalogue;
pub mod control;
pub mod control_client;
pub mod dead_letters;
mod key_client;
pub mod key_routes;
pub mod keys;
pub mod lifecycle;
pub mod listener;
pub mod metrics;
pub mod refusals;
pub mod retention;
pub mod sessions;
mod retention_client;
pub mod state;
pub mod state_client;
pub mod table;
pub mod tenants;
pub mod usage;
pub mod users;
mod users_client;

use crate::config::Config;
use crate::dispatch::dispatcher::DispatchHandle;
use crate::drain::Drain;
use crate::services::Services;
use anyhow::Context;
use listener::Routed;
use pingora::services::listening::Service;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

/// The control socket's name in the state directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The two routers.
#[derive(Debug)]
pub struct Admin {
    metrics: axum::Router,
    control: axum::Router,
}

impl Admin {
    /// Routers over the gateway's parts.
    pub fn new(services: &Arc<Services>, dispatch: &DispatchHandle, drain: &Drain, asks: lifecycle::Asks) -> Self {
        let metrics = metrics::router(Arc::clone(services), drain.clone());
        Self { metrics, control: control::router(services, dispatch, asks) }
    }

    /// Their listeners: TCP on the metrics address, the control socket with 0600 in the state directory.
    ///
    /// # Errors
    /// A former process's socket file that can't be removed.
    pub fn services(self, config: &Config) -> anyhow::Result<(Service<Routed>, Service<Routed>)> {
        let mut metrics = Service::new("metrics".to_owned(), Routed(self.metrics));
        metrics.add_tcp(&config.metrics_address.to_string());
        let path = config.state_dir.join(CONTROL_SOCKET);
        match std::fs::remove_file(&path) {
            // We hold the ledger's lock, so whoever made it is gone.
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("can't replace the control socket `{}`", path.display()));
            }
        }
        let mut control = Service::new("control".to_owned(), Routed(self.control));
        control.add_uds(&path.display().to_string(), Some(Permissions::from_mode(0o600)));
        Ok((metrics, control))
    }
}
