//! `/metrics`, `/healthz`, `/readyz`: for the operator's monitoring, on a listener of their own.

use crate::clock::Clock;
use crate::drain::Drain;
use crate::services::Services;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A write to the disk for each look would be a way to wear it out.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// What the routes look at.
#[derive(Clone)]
struct Looks {
    services: Arc<Services>,
    drain: Drain,
    probed: Arc<Mutex<Option<(Instant, bool)>>>,
    /// Lost audit lines that the counter has already.
    audit_told: Arc<AtomicU64>,
}

/// The router.
pub fn router(services: Arc<Services>, drain: Drain) -> Router {
    let looks = Looks { services, drain, probed: Arc::default(), audit_told: Arc::default() };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(looks)
}

async fn metrics(State(looks): State<Looks>) -> Response {
    let (metrics, hub, audit) = (&looks.services.metrics, &looks.services.hub, &looks.services.audit);
    metrics.set_websockets(hub.sockets());
    metrics.set_websockets_held(looks.services.held.count());
    metrics.events_dropped(hub.take_dropped());
    if let Ok(free) = looks.services.space.free(looks.services.clock.monotonic()) {
        metrics.set_state_free(free);
    }
    let dropped = audit.dropped();
    metrics.audit_dropped(dropped.saturating_sub(looks.audit_told.swap(dropped, Ordering::Relaxed)));
    match looks.services.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// 200 if a submission would be accepted and run now, else 503 with every reason.
async fn ready(State(looks): State<Looks>) -> Response {
    let mut reasons = Vec::new();
    if looks.drain.is_stopping() {
        reasons.push("the gateway is stopping".to_owned());
    }
    reasons.extend(super::state::no_backend(&looks.services));
    if !looks.ledger_is_writable().await {
        reasons.push("the ledger can't be written".to_owned());
    }
    if let Err(error) = looks.services.room() {
        reasons.push(error.to_string());
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": reasons.is_empty(), "reasons": reasons}))).into_response()
}

impl Looks {
    async fn ledger_is_writable(&self) -> bool {
        let clock: &Clock = &self.services.clock;
        let last = *self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, writable)) = last
            && clock.monotonic().saturating_duration_since(at) < PROBE_EVERY
        {
            return writable;
        }
        let writable = self.services.ledger.probe().await.is_ok();
        *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = Some((clock.monotonic(), writable));
        writable
    }
}
