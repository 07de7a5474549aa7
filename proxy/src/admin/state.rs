//! Part of the control socket: how the gateway stands, its metrics, and a backup of its state.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/metrics` | the text of `/metrics`, without a look at the metrics listener |
//! | `POST /v1/backup` | the archive of [`backup`](crate::record::backup), as it is made; 409 while another one is made |

use super::api::{Api, Operation};
use super::api_error::{Code, Refused};
use crate::clock::WallMillis;
use crate::config::ListenKind;
use crate::dispatch::backend::BackendState;
use crate::ids::BackendId;
use crate::record::backup::{make, pieces};
use crate::record::metrics::JobCounts;
use crate::services::Services;
use crate::tenants::Closed;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Semaphore, mpsc};

/// How a gateway stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Status {
    /// Whether a submission would be accepted and run now.
    pub healthy: bool,
    /// Why not; one line each.
    pub reasons: Vec<String>,
    /// What an operator has to mend, though jobs of others run; one line each: tenants that are closed since their plan is gone, or does not suit them.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Its time of day.
    pub now: WallMillis,
    /// Since its start.
    pub uptime_seconds: u64,
    /// Of the configuration: 1, and one more with each reload.
    pub generation: u64,
    /// Where the configuration came from.
    pub configuration: String,
    /// Where callers connect.
    pub listeners: Vec<ListenerStatus>,
    /// `/metrics`, `/healthz`, `/readyz`.
    pub metrics: String,
    /// By id.
    pub backends: Vec<BackendStatus>,
    /// That have not ended.
    pub jobs: JobStatus,
    /// Open WebSockets of clients.
    pub websockets: u64,
    /// Whether a transition of the ledger would be durable now.
    pub store_writable: bool,
    /// Free on the disk of the state directory; absent if the system does not say.
    pub free_bytes: Option<u64>,
    /// Below it nothing new is taken in.
    pub free_space_min: u64,
    /// Audit lines that were only counted since the start.
    pub audit_dropped: u64,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ListenerStatus {
    /// Where.
    pub address: String,
    /// `tls`, `redirect` or `plain`.
    pub kind: String,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BackendStatus {
    /// Its name.
    pub id: BackendId,
    /// Where it is.
    pub url: String,
    /// Whether it is in service.
    pub up: bool,
    /// In which state it is, by the names of the metric `comfygate_backend_state`.
    #[serde(default)]
    pub state: String,
    /// Why an operator has stopped it, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted_for: Option<String>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Attempts that are there.
    pub outstanding: u32,
}

/// Jobs by where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[allow(missing_docs, reason = "the states of a job by their names")]
pub struct JobStatus {
    pub held: u32,
    pub assigned: u32,
    pub running: u32,
}

impl From<JobCounts> for JobStatus {
    fn from(counts: JobCounts) -> Self {
        Self { held: counts.held, assigned: counts.assigned, running: counts.running }
    }
}

#[derive(Clone)]
struct Looks {
    services: Arc<Services>,
    started: Instant,
    backups: Arc<Semaphore>,
}

/// The router.
pub fn router(services: &Arc<Services>) -> Api {
    let started = services.clock.monotonic();
    let looks = Looks { services: Arc::clone(services), started, backups: Arc::new(Semaphore::new(1)) };
    let ok = StatusCode::OK;
    Api::new()
        .route(Operation::get("/v1/status", "How the gateway stands").json::<Status>(ok, "its status"), status)
        .route(
            Operation::get("/v1/metrics", "The metrics, in Prometheus' text format")
                .text(ok, "the metrics")
                .refuses(&[Code::Internal]),
            metrics,
        )
        .route(
            Operation::post("/v1/backup", "An archive of the state, as it is made")
                .bytes(ok, "the archive", "application/x-tar")
                .refuses(&[Code::Busy, Code::Unavailable]),
            backup,
        )
        .with_state(looks)
}

async fn status(State(looks): State<Looks>) -> Json<Status> {
    let services = &looks.services;
    let live = services.live();
    let now = services.clock.monotonic();
    let mut reasons = Vec::new();
    let backends: Vec<BackendStatus> = live.backends.values().map(|backend| of_backend(services, backend)).collect();
    reasons.extend(no_backend(services));
    let written = services.ledger.probe().await;
    reasons.extend(written.as_ref().err().map(ToString::to_string));
    reasons.extend(services.room().err().map(|error| error.to_string()));
    let listeners = live.config.listen.iter().map(|listener| ListenerStatus {
        address: listener.address.to_string(),
        kind: if matches!(listener.kind, ListenKind::Tls(_)) {
            "tls".to_owned()
        } else if matches!(listener.kind, ListenKind::Redirect) {
            "redirect".to_owned()
        } else {
            "plain".to_owned()
        },
    });
    Json(Status {
        healthy: reasons.is_empty(),
        reasons,
        warnings: live.tenants.closed().iter().map(Closed::told).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        now: services.clock.wall(),
        uptime_seconds: now.saturating_duration_since(looks.started).as_secs(),
        generation: live.generation,
        configuration: live.config.source_text(),
        listeners: listeners.collect(),
        metrics: live.config.metrics_address.to_string(),
        backends,
        jobs: services.metrics.jobs().into(),
        websockets: services.hub.sockets() as u64,
        store_writable: written.is_ok(),
        free_bytes: services.space.free(now).ok(),
        free_space_min: live.config.free_space_min,
        audit_dropped: services.audit.dropped(),
    })
}

/// Why no backend would run a job now, if that is so. One that is drained holds up what waits for it, and nothing is refused for it.
pub(super) fn no_backend(services: &Services) -> Option<String> {
    let backends = services.backends();
    if backends.values().any(|backend| backend.takes_jobs()) {
        return None;
    }
    let up: Vec<_> = backends.values().filter(|backend| backend.is_up()).collect();
    Some(if up.is_empty() {
        "no backend answers".to_owned()
    } else if up.iter().any(|backend| backend.halt().is_none()) {
        "every backend that answers is warming up or drained: jobs wait".to_owned()
    } else {
        "every backend that answers is drained: jobs wait".to_owned()
    })
}

fn of_backend(services: &Services, backend: &crate::dispatch::backend::Backend) -> BackendStatus {
    let reason = match &*backend.state() {
        BackendState::Down { reason } => Some(reason.clone()),
        _ => None,
    };
    BackendStatus {
        id: backend.id.clone(),
        url: backend.endpoint.to_string(),
        up: backend.is_up(),
        state: backend.shown_standing().name().to_owned(),
        halted_for: backend.halt().and_then(|halt| halt.reason.clone()),
        reason,
        outstanding: services.metrics.outstanding(&backend.id),
    }
}

async fn metrics(State(looks): State<Looks>) -> Result<impl IntoResponse, Refused> {
    let text = looks.services.metrics.text().map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

fn not_made(error: impl Display) -> Refused {
    tracing::error!(%error, "no backup was made");
    Refused::unavailable(error)
}

/// The archive while it is made. If it breaks off, so does the answer: it has no last chunk, and no manifest.
async fn backup(State(looks): State<Looks>) -> Result<impl IntoResponse, Refused> {
    let Ok(turn) = Arc::clone(&looks.backups).try_acquire_owned() else {
        return Err(Refused::new(Code::Busy, "another backup is being made: wait for its end"));
    };
    let services = looks.services;
    let state = services.config().state_dir.clone();
    // A task of its own: if the caller goes away, the copy goes on to its end, and the next backup waits for that.
    let (copied, place) = (Arc::clone(&services), state.clone());
    let copying = tokio::spawn(async move {
        // Whatever the rows name must be there until it is read.
        let kept = copied.sweeps.keep_away().await;
        let rows = make::rows(&place, &*copied.ledger, copied.clock.wall()).await;
        (rows, (turn, kept))
    });
    let (rows, turn) = copying.await.map_err(not_made)?;
    let rows = rows.map_err(not_made)?;
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(pieces::PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let send = |piece| sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into());
        match make::write(&state, rows, pieces::PieceWriter::new(send)) {
            Ok(manifest) => {
                tracing::info!(entries = manifest.entries, bytes = manifest.bytes, "a backup was made");
                services.audit.backup_made(manifest.entries, manifest.bytes);
            }
            Err(error) => {
                tracing::error!(%error, "the backup broke off");
                // Whoever asked may be gone.
                let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
            }
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(pieces)))
}
