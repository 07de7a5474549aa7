//! Part of the control socket: what retention removes.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `GET /v1/retention` | | the last [`Report`], or 404 before the first run |
//! | `POST /v1/retention` | [`Wanted`] | a [`Report`]: of a run that is made now, or would be; 404 for an unknown tenant, 409 while another run or a backup goes on |

use super::api::{Api, Operation};
use crate::retention::{self, Report, RetentionError, Wanted};
use crate::services::Services;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// The routes.
pub fn router(services: &Arc<Services>) -> Api {
    let (ok, missing) = (StatusCode::OK, StatusCode::NOT_FOUND);
    Api::new()
        .route(
            Operation::get("/v1/retention", "What the last run removed")
                .json::<Report>(ok, "the run")
                .empty(missing, "there was none since the start"),
            last,
        )
        .route(
            Operation::post("/v1/retention", "Removes what is due now, or tells it")
                .body::<Wanted>()
                .json::<Report>(ok, "the run")
                .text(missing, "there is no such tenant")
                .text(StatusCode::CONFLICT, "another run, or a backup, goes on")
                .text(StatusCode::SERVICE_UNAVAILABLE, "the ledger or the disk can't be reached"),
            run,
        )
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
