//! Part of the control socket: what retention removes.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `GET /v1/retention` | | the last [`Report`], or 404 before the first run |
//! | `POST /v1/retention` | [`Wanted`] | a [`Report`]: of a run that is made now, or would be; 404 for an unknown tenant, 409 while another run or a backup goes on |
//! | `POST /v1/tenants/{id}/erase` | | an [`Erasure`](crate::retention::Erasure); 409 while jobs of it have not ended |

use crate::ids::TenantId;
use crate::record::ledger::LedgerError;
use crate::retention::{self, EraseError, Report, RetentionError, Wanted};
use crate::services::Services;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::sync::Arc;

/// The routes.
pub fn router(services: &Arc<Services>) -> Router {
    Router::new()
        .route("/v1/retention", get(last).post(run))
        .route("/v1/tenants/{id}/erase", post(erase))
        .with_state(Arc::clone(services))
}

async fn last(State(services): State<Arc<Services>>) -> Response {
    let last: Option<Report> = services.sweeps.last();
    last.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |report| Json(report).into_response())
}

async fn run(State(services): State<Arc<Services>>, Json(wanted): Json<Wanted>) -> Response {
    // A task of its own: if the caller goes away, the run goes on to its end.
    let running = tokio::spawn(async move { retention::ask(&services, &wanted).await });
    match running.await {
        Ok(Ok(report)) => Json(report).into_response(),
        Ok(Err(error)) => {
            let status = match error {
                RetentionError::Busy => StatusCode::CONFLICT,
                RetentionError::UnknownTenant(_) => StatusCode::NOT_FOUND,
                RetentionError::Ledger(_) | RetentionError::Blobs(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, error.to_string()).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn erase(State(services): State<Arc<Services>>, Path(id): Path<String>) -> Response {
    let Ok(tenant) = id.parse::<TenantId>() else { return StatusCode::NOT_FOUND.into_response() };
    let erasing = tokio::spawn(async move {
        let backends = services.config().backends.clone();
        let erased = retention::erase_tenant(&*services.ledger, &backends, &tenant, services.clock.wall()).await;
        if let Ok(erasure) = &erased {
            services.audit.tenant_erased(erasure);
        }
        erased
    });
    match erasing.await {
        Ok(Ok(erasure)) => Json(erasure).into_response(),
        Ok(Err(EraseError::Ledger(error @ LedgerError::Busy { .. }))) => {
            (StatusCode::CONFLICT, error.to_string()).into_response()
        }
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
