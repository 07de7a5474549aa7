//! Part of the control socket: what retention removes.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `GET /v1/retention` | | the last [`Report`], or 404 before the first run |
//! | `POST /v1/retention` | [`Wanted`] | a [`Report`]: of a run that is made now, or would be; 404 for an unknown tenant, 409 while another run or a backup goes on |

use super::api::{Api, Operation};
use super::api_error::{Body, Code, Refused};
use crate::retention::{self, Report, RetentionError, Wanted};
use crate::services::Services;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use std::sync::Arc;

/// The routes.
pub fn router(services: &Arc<Services>) -> Api {
    let ok = StatusCode::OK;
    Api::new()
        .route(
            Operation::get("/v1/retention", "What the last run removed")
                .json::<Report>(ok, "the run")
                .refuses(&[Code::NotFound]),
            last,
        )
        .route(
            Operation::post("/v1/retention", "Removes what is due now, or tells it")
                .body::<Wanted>()
                .json::<Report>(ok, "the run")
                .refuses(&[Code::NotFound, Code::Busy, Code::Internal, Code::Unavailable]),
            run,
        )
        .with_state(Arc::clone(services))
}

async fn last(State(services): State<Arc<Services>>) -> Result<Json<Report>, Refused> {
    let last: Option<Report> = services.sweeps.last();
    last.map(Json).ok_or_else(|| Refused::not_found("there was no run since the start: `POST` makes one"))
}

async fn run(State(services): State<Arc<Services>>, Body(wanted): Body<Wanted>) -> Result<Json<Report>, Refused> {
    // A task of its own: if the caller goes away, the run goes on to its end.
    let running = tokio::spawn(async move { retention::ask(&services, &wanted).await });
    match running.await {
        Ok(done) => Ok(Json(done?)),
        Err(error) => Err(Refused::new(Code::Internal, error.to_string())),
    }
}

impl From<RetentionError> for Refused {
    fn from(error: RetentionError) -> Self {
        let code = match error {
            RetentionError::Busy => Code::Busy,
            RetentionError::UnknownTenant(_) => Code::NotFound,
            RetentionError::Ledger(_) | RetentionError::Blobs(_) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}
