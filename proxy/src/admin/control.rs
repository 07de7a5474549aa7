//! The control socket, `/v1`: for the command line on the same machine. Its protection is the file's mode: 0600 in a 0700 directory.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `POST /v1/keys` | [`KeyRequest`] | 201 `{"key", "view"}` |
//! | `GET /v1/keys` | | `[KeyView]` |
//! | `POST /v1/keys/{id}/revoke` | | `KeyView`, or 404 |
//! | `POST /v1/adopt` | `AdoptRequest` | `[Outcome]`, one a file |
//! | `POST /v1/export/list` | `PageRequest` | `Page` |
//! | `POST /v1/export/content` | `ContentRequest` | the bytes, or 404 |
//! | `GET /v1/tenants`, `POST /v1/tenants/{id}/disable`, `…/enable` | | [`super::tenants`] |
//! | `POST /v1/tenants/{id}/pause`, `…/resume` | [`super::halts::HaltRequest`] | [`super::tenants`] |
//! | `/v1/backends…` | | [`super::backends`] |
//! | `/v1/catalogue/…` | | [`super::catalogue`] |
//! | `/v1/refusals…`, `/v1/bans…` | | [`super::refusals`] |
//! | `/v1/retention`, `POST /v1/tenants/{id}/erase` | | [`super::retention`] |
//! | `/v1/dead-letters…` | | [`super::dead_letters`] |
//! | `GET /v1/usage` | | [`super::usage`] |
//! | `POST /v1/reload` | | [`ReloadReport`]; 422 if the configuration was refused |
//! | `POST /v1/upgrade` | [`UpgradeRequest`] | [`UpgradeReport`] |
//!
//! Status, metrics and backups: [`state`](super::state).

use super::adoption_routes;
use super::keys::{KeyError, KeyRequest, KeyService};
use super::lifecycle::{Ask, Asks, ReloadReport, UpgradeReport, UpgradeRequest};
use crate::dispatch::dispatcher::DispatchHandle;
use crate::ids::KeyId;
use crate::services::Services;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use std::sync::Arc;

#[derive(Clone)]
struct Control {
    keys: KeyService,
    services: Arc<Services>,
    asks: Asks,
}

/// The router.
pub fn router(services: &Arc<Services>, dispatch: &DispatchHandle, asks: Asks) -> Router {
    let catalogue = super::catalogue::router(services, asks.clone());
    let keys = KeyService::new(Arc::clone(&services.ledger), services.clock.clone());
    Router::new()
        .route("/v1/keys", get(list).post(create))
        .route("/v1/keys/{id}/revoke", post(revoke))
        .route("/v1/reload", post(reload))
        .route("/v1/upgrade", post(upgrade))
        .with_state(Control { keys, services: Arc::clone(services), asks })
        .merge(super::state::router(services))
        .merge(super::tenants::router(services))
        .merge(super::backends::router(services))
        .merge(catalogue)
        .merge(super::refusals::router(services))
        .merge(super::retention::router(services))
        .merge(super::dead_letters::router(services, dispatch))
        .merge(super::usage::router(services))
        .merge(adoption_routes::router(services))
}

async fn create(State(control): State<Control>, Json(request): Json<KeyRequest>) -> Response {
    if control.services.tenants().tenant(&request.tenant).is_none() {
        let text = format!("the running gateway has no tenant `{}`", request.tenant);
        return (StatusCode::UNPROCESSABLE_ENTITY, text).into_response();
    }
    match control.keys.create(&request).await {
        Ok((key, view)) => {
            control.services.audit.key_created(&view.id, &view.owner());
            (StatusCode::CREATED, Json(json!({"key": key, "view": view}))).into_response()
        }
        Err(error) => failed(&error),
    }
}

async fn list(State(control): State<Control>) -> Response {
    match control.keys.list().await {
        Ok(keys) => Json(keys).into_response(),
        Err(error) => failed(&error),
    }
}

async fn revoke(State(control): State<Control>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<KeyId>() else { return StatusCode::NOT_FOUND.into_response() };
    match control.keys.revoke(&id).await {
        Ok(Some(view)) => {
            control.services.audit.key_revoked(&view.id, &view.owner());
            Json(view).into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

async fn reload(State(control): State<Control>) -> Response {
    match control.asks.ask(Ask::Reload).await {
        Some(report @ ReloadReport { applied: true, .. }) => Json(report).into_response(),
        Some(report) => (StatusCode::UNPROCESSABLE_ENTITY, Json(report)).into_response(),
        None => stopping(),
    }
}

async fn upgrade(State(control): State<Control>, Json(request): Json<UpgradeRequest>) -> Response {
    match control.asks.ask(|answer| Ask::Upgrade(request, answer)).await {
        Some(report @ UpgradeReport::Serving(_)) => Json(report).into_response(),
        Some(report) => (StatusCode::CONFLICT, Json(report)).into_response(),
        None => stopping(),
    }
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping").into_response()
}

fn failed(error: &KeyError) -> Response {
    let status = match error {
        KeyError::Label => StatusCode::UNPROCESSABLE_ENTITY,
        KeyError::Random(_) | KeyError::Ledger(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, error.to_string()).into_response()
}
