//! Watches one backend: is it there, does it mean by its classes what the catalogue says, do its events arrive.
//!
//! A backend is down until `GET /prompt` and `GET /object_info` answered and our socket is connected, so that no event of the first job is missed.
//! It is ejected at once when a connection is refused (nobody listens), and after [`MISSES_MAX`] other failures in a row (a stalled event loop is
//! ordinary, facts §2.6). Whether its worker thread lives is not asked here yet.

use super::backend::Backend;
use super::comfyui::ComfyUiError;
use super::dispatcher::{Command, DispatchHandle};
use comfygate_policy::{Agreement, Catalogue, CatalogueError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often a backend that is down is asked. Connecting to loopback costs microseconds.
const DOWN_INTERVAL: Duration = Duration::from_millis(500);
/// How often one that is up is asked.
const UP_INTERVAL: Duration = Duration::from_secs(5);
/// Failures in a row, a refused connection apart, before a backend is ejected.
pub const MISSES_MAX: u32 = 3;
/// How long a backend that answers may take to accept our socket.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// Watches `backend` until `shutdown` turns true.
pub async fn watch(
    backend: Arc<Backend>,
    catalogue: Arc<Catalogue>,
    mut socket_connected: watch::Receiver<bool>,
    dispatch: DispatchHandle,
    mut shutdown: watch::Receiver<bool>,
) {
    let watching = async {
        loop {
            let agreement = answered(&backend, &catalogue).await;
            let connecting = async { socket_connected.wait_for(|connected| *connected).await.is_ok() };
            if !tokio::time::timeout(SOCKET_TIMEOUT, connecting).await.unwrap_or(false) {
                backend.eject("its WebSocket can't be opened");
                tokio::time::sleep(DOWN_INTERVAL).await;
                continue;
            }
            report(&backend, &agreement);
            backend.set_up(agreement);
            dispatch.send(Command::BackendUp(backend.id.clone())).await;
            let reason = failed(&backend).await;
            tracing::warn!(backend = %backend.id, reason, "backend ejected");
            dispatch.send(Command::BackendDown(backend.id.clone(), reason)).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = async { drop(shutdown.wait_for(|down| *down).await) } => {}
    }
}

/// Resolves when the backend answered, with what it shares with the catalogue.
async fn answered(backend: &Backend, catalogue: &Arc<Catalogue>) -> Agreement {
    loop {
        match agreement(backend, catalogue).await {
            Ok(agreement) => return agreement,
            Err(reason) => tracing::debug!(backend = %backend.id, reason, "backend does not answer"),
        }
        tokio::time::sleep(DOWN_INTERVAL).await;
    }
}

async fn agreement(backend: &Backend, catalogue: &Arc<Catalogue>) -> Result<Agreement, String> {
    let text = |error: ComfyUiError| error.to_string();
    backend.comfyui.queue_remaining().await.map_err(text)?;
    let live = backend.comfyui.object_info().await.map_err(text)?;
    let catalogue = Arc::clone(catalogue);
    // Megabytes of JSON: not on an event loop.
    let owned = backend.is_owned();
    let compared = tokio::task::spawn_blocking(move || {
        let installed = owned.then(|| Catalogue::from_object_info(&live)).transpose()?;
        Ok((catalogue.agreement(&live)?, installed))
    });
    let compared: Result<_, CatalogueError> = compared.await.map_err(|error| error.to_string())?;
    let (agreement, installed) = compared.map_err(|error| error.to_string())?;
    if let Some(installed) = installed {
        backend.set_installed(installed);
    }
    Ok(agreement)
}

/// Resolves when the backend has to be taken out of service, with the reason; it is ejected then.
async fn failed(backend: &Backend) -> String {
    let mut misses = 0;
    loop {
        tokio::select! {
            () = backend.ejected() => if !backend.is_up() { return reason_of(backend) },
            () = tokio::time::sleep(UP_INTERVAL) => match backend.comfyui.queue_remaining().await {
                Ok(_) => misses = 0,
                Err(error) => {
                    misses += 1;
                    if error.is_refused() || misses >= MISSES_MAX {
                        backend.eject(error.to_string());
                        return error.to_string();
                    }
                }
            },
        }
    }
}

fn reason_of(backend: &Backend) -> String {
    match &*backend.state() {
        super::backend::BackendState::Down { reason } => reason.clone(),
        super::backend::BackendState::Up { .. } => String::new(),
    }
}

fn report(backend: &Backend, agreement: &Agreement) {
    let (missing, differing) = (agreement.missing().count(), agreement.differing().count());
    tracing::info!(backend = %backend.id, missing, differing, "backend is up; classes that it lacks or that differ from the catalogue are closed there");
}
