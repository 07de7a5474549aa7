//! The control socket, `/v1`: for the command line on the same machine. Its protection is the file's mode: 0600 in a 0700 directory.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `/v1/keys…` | | [`super::key_routes`] |
//! | `POST /v1/adopt` | `AdoptRequest` | `[Outcome]`, one a file |
//! | `POST /v1/export/list` | `PageRequest` | `Page` |
//! | `POST /v1/export/content` | `ContentRequest` | the bytes, or 404 |
//! | `/v1/tenants…`, `GET /v1/plans` | | [`super::tenants`] |
//! | `GET /v1/openapi.json` | | all of this as OpenAPI 3.1 ([`super::api`]) |
//! | `/v1/backends…` | | [`super::backends`] |
//! | `/v1/catalogue/…` | | [`super::catalogue`] |
//! | `/v1/refusals…`, `/v1/bans…` | | [`super::refusals`] |
//! | `/v1/retention` | | [`super::retention`] |
//! | `/v1/dead-letters…` | | [`super::dead_letters`] |
//! | `GET /v1/usage` | | [`super::usage`] |
//! | `/v1/users…` | | [`super::users`] |
//! | `/v1/sessions…` | | [`super::sessions`] |
//! | `POST /v1/reload` | | [`ReloadReport`]; 422, with its members, if the configuration was refused |
//! | `POST /v1/upgrade` | [`UpgradeRequest`] | [`UpgradeReport`]; 409 if it did not come about |
//!
//! Every answer that is not 2xx has one form: [`super::api_error`].
//!
//! Status, metrics and backups: [`state`](super::state).

use super::adoption_routes;
use super::api::{Api, Operation};
use super::api_error::{Body, Code, Refused};
use super::lifecycle::{Ask, Asks, ReloadReport, UpgradeReport, UpgradeRequest};
use crate::dispatch::dispatcher::DispatchHandle;
use crate::services::Services;
use crate::tenants::written::SpecFault;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Json, Router};
use serde_json::{Map, Value};
use std::sync::{Arc, OnceLock};

#[derive(Clone)]
struct Control {
    asks: Asks,
}

/// The router.
pub fn router(services: &Arc<Services>, dispatch: &DispatchHandle, asks: Asks) -> Router {
    let api = own(asks.clone())
        .merge(super::key_routes::router(services))
        .merge(super::state::router(services))
        .merge(super::tenants::router(services, dispatch))
        .merge(super::backends::router(services))
        .merge(super::catalogue::router(services, asks))
        .merge(super::refusals::router(services))
        .merge(super::retention::router(services))
        .merge(super::dead_letters::router(services, dispatch))
        .merge(super::usage::router(services))
        .merge(super::users::router(services))
        .merge(super::sessions::router(services))
        .merge(adoption_routes::router(services));
    // Last: it tells of all the others, and of itself.
    let document = Arc::new(OnceLock::new());
    let told = Operation::get("/v1/openapi.json", "This document")
        .json::<Map<String, Value>>(StatusCode::OK, "OpenAPI 3.1")
        .refuses(&[Code::Stopping]);
    let api = api.merge(Api::new().route(told, openapi).with_state(Arc::clone(&document)));
    // Set once, right here.
    let _ = document.set(api.document());
    api.into_router()
}

fn own(asks: Asks) -> Api {
    let ok = StatusCode::OK;
    Api::new()
        .route(
            Operation::post("/v1/reload", "Has the configuration read again")
                .json::<ReloadReport>(ok, "it is in force")
                .refuses_with::<ReloadReport>(Code::ConfigurationRefused)
                .refuses(&[Code::Stopping]),
            reload,
        )
        .route(
            Operation::post("/v1/upgrade", "Has a successor started, which takes over")
                .body::<UpgradeRequest>()
                .json::<UpgradeReport>(ok, "the successor serves")
                .refuses(&[Code::UpgradeRefused, Code::UpgradeFailed, Code::Stopping]),
            upgrade,
        )
        .with_state(Control { asks })
}

async fn openapi(State(document): State<Arc<OnceLock<Value>>>) -> Result<Json<Value>, Refused> {
    document.get().cloned().map(Json).ok_or_else(Refused::stopping)
}

async fn reload(State(control): State<Control>) -> Result<Json<ReloadReport>, Refused> {
    let report = control.asks.ask(Ask::Reload).await.ok_or_else(Refused::stopping)?;
    if report.applied {
        return Ok(Json(report));
    }
    let text = format!("the configuration was refused, and the former one goes on: {}", report.errors.join("; "));
    let fault = |error: &String| SpecFault { pointer: String::new(), message: error.clone() };
    let faults = report.errors.iter().map(fault).collect();
    Err(Refused::new(Code::ConfigurationRefused, text).with_faults(faults).with_report(&report))
}

async fn upgrade(
    State(control): State<Control>,
    Body(request): Body<UpgradeRequest>,
) -> Result<Json<UpgradeReport>, Refused> {
    let report = control.asks.ask(|answer| Ask::Upgrade(request, answer)).await.ok_or_else(Refused::stopping)?;
    match report {
        UpgradeReport::Serving(_) => Ok(Json(report)),
        UpgradeReport::Refused(reason) => Err(Refused::new(Code::UpgradeRefused, reason)),
        UpgradeReport::Failed(reason) => Err(Refused::new(Code::UpgradeFailed, reason)),
    }
}
