//! `/v1/keys` of the control socket.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `POST /v1/keys`, perhaps with `Idempotency-Key` | [`KeyRequest`] | 201 [`MadeKey`]; a repeat: 200 and `"key": null`; another request of that name, or as many keys as the tenant may have: 409 |
//! | `GET /v1/keys?tenant=&user=&state=` | | `[KeyView]` |
//! | `GET /v1/keys/{id}` | | `KeyView`, or 404 |
//! | `POST /v1/keys/{id}/rotate`, perhaps with `Idempotency-Key` | [`RotateRequest`] or none | 201 [`MadeKey`], or 404; a repeat: 200 and `"key": null`; another request of that name, rotated before, revoked or expired: 409 |
//! | `POST /v1/keys/{id}/revoke`, `DELETE /v1/keys/{id}` | | `KeyView`, a second time too, or 404 |
//! | `POST /v1/keys/check` | [`CheckRequest`] | [`CheckedKey`]; what is no key: 422 |

use super::api::{Api, Operation};
use super::keys::{
    CheckRequest, CheckedKey, KeyError, KeyFilter, KeyRequest, KeyService, KeyView, MadeKey, OVERLAP, RotateRequest,
};
use crate::authenticate::endings::Subject;
use crate::ids::KeyId;
use crate::services::Services;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;

/// What repeats of a request are known by (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

#[derive(Clone)]
struct Keys {
    service: KeyService,
    services: Arc<Services>,
}

/// The routes.
pub fn router(services: &Arc<Services>) -> Api {
    let service = KeyService::new(Arc::clone(&services.ledger), services.clock.clone());
    let (ok, missing) = (StatusCode::OK, StatusCode::NOT_FOUND);
    let unavailable =
        |operation: Operation| operation.text(StatusCode::SERVICE_UNAVAILABLE, "it can't be done now: ask again");
    let unknown = |operation: Operation| unavailable(operation).empty(missing, "there is no such key");
    Api::new()
        .route(
            unavailable(Operation::get("/v1/keys", "Every key that fits"))
                .query("tenant", "only of this tenant")
                .query("user", "only of this user")
                .query("state", "only `good`, `expired` or `revoked` ones")
                .json::<Vec<KeyView>>(ok, "the keys"),
            list,
        )
        .route(
            unavailable(Operation::post("/v1/keys", "Makes a key, whose text is told this once"))
                .header("Idempotency-Key", "a repeat with the same makes nothing new")
                .body::<KeyRequest>()
                .json::<MadeKey>(StatusCode::CREATED, "the key")
                .json::<MadeKey>(ok, "a repeat: the key without its text")
                .text(StatusCode::CONFLICT, "another request had this `Idempotency-Key`, or the tenant has all keys that it may have")
                .text(StatusCode::UNPROCESSABLE_ENTITY, "there is no such tenant, or the request is faulty"),
            create,
        )
        .route(
            unavailable(Operation::post("/v1/keys/check", "Whose key a text is that somebody found"))
                .body::<CheckRequest>()
                .json::<CheckedKey>(ok, "what is known of it")
                .text(StatusCode::UNPROCESSABLE_ENTITY, "it is no key"),
            check,
        )
        .route(unknown(Operation::get("/v1/keys/{id}", "One key")).json::<KeyView>(ok, "the key"), show)
        .route(
            unknown(Operation::delete("/v1/keys/{id}", "Refuses a key from now on")).json::<KeyView>(ok, "the key"),
            revoke,
        )
        .route(
            unknown(Operation::post(
                "/v1/keys/{id}/rotate",
                "Makes a key in the place of another, which ends a while later",
            ))
            .header("Idempotency-Key", "a repeat with the same changes nothing")
            .optional_body::<RotateRequest>()
            .json::<MadeKey>(StatusCode::CREATED, "the new key")
            .json::<MadeKey>(ok, "a repeat: the new key without its text")
            .text(
                StatusCode::CONFLICT,
                "it was rotated already, or is over; another request had this `Idempotency-Key`; or the tenant has all keys that it may have",
            )
            .text(StatusCode::UNPROCESSABLE_ENTITY, "the request is faulty"),
            rotate,
        )
        .route(
            unknown(Operation::post("/v1/keys/{id}/revoke", "Refuses a key from now on"))
                .json::<KeyView>(ok, "the key"),
            revoke,
        )
        .with_state(Keys { service, services: Arc::clone(services) })
}

async fn create(State(keys): State<Keys>, headers: HeaderMap, Json(request): Json<KeyRequest>) -> Response {
    if keys.services.tenants().tenant(&request.tenant).is_none() {
        let text = format!("the running gateway has no tenant `{}`", request.tenant);
        return (StatusCode::UNPROCESSABLE_ENTITY, text).into_response();
    }
    let name = match name_of(&headers) {
        Ok(name) => name,
        Err(error) => return failed(&error),
    };
    match keys.service.create(&request, name, keys.services.config().limits.keys_max).await {
        Ok(made) if made.key.is_some() => {
            keys.services.audit.key_created(&made.view.id, &made.view.owner());
            (StatusCode::CREATED, Json(made)).into_response()
        }
        Ok(known) => Json(known).into_response(),
        Err(error) => failed(&error),
    }
}

/// What the client calls its request.
fn name_of(headers: &HeaderMap) -> Result<Option<&str>, KeyError> {
    let mut names = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (names.next(), names.next()) {
        (None, _) => Ok(None),
        (Some(name), None) => Ok(Some(name.to_str().unwrap_or_default())),
        (Some(_), Some(_)) => Err(KeyError::Name),
    }
}

async fn list(State(keys): State<Keys>, Query(filter): Query<KeyFilter>) -> Response {
    match keys.service.list(&filter).await {
        Ok(list) => Json(list).into_response(),
        Err(error) => failed(&error),
    }
}

async fn show(State(keys): State<Keys>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<KeyId>() else { return StatusCode::NOT_FOUND.into_response() };
    match keys.service.show(&id).await {
        Ok(Some(view)) => Json(view).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

async fn rotate(State(keys): State<Keys>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(id) = id.parse::<KeyId>() else { return StatusCode::NOT_FOUND.into_response() };
    let request = if body.is_empty() { Ok(RotateRequest::default()) } else { serde_json::from_slice(&body) };
    let request = match request {
        Ok(request) => request,
        Err(error) => return (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response(),
    };
    let overlap = request.overlap_seconds.map_or(OVERLAP, Duration::from_secs);
    let name = match name_of(&headers) {
        Ok(name) => name,
        Err(error) => return failed(&error),
    };
    match keys.service.rotate(&id, overlap, name, keys.services.config().limits.keys_max).await {
        Ok(Some((known, _))) if known.key.is_none() => Json(known).into_response(),
        Ok(Some((made, former))) => {
            // Its sockets learn of the new end.
            keys.services.endings.tell(&Subject::Key(id.clone()));
            keys.services.audit.key_rotated(&id, &made.view.id, former.expires_at, &former.owner());
            (StatusCode::CREATED, Json(made)).into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

async fn revoke(State(keys): State<Keys>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<KeyId>() else { return StatusCode::NOT_FOUND.into_response() };
    match keys.service.revoke(&id).await {
        Ok(Some(view)) => {
            keys.services.endings.tell(&Subject::Key(id));
            keys.services.audit.key_revoked(&view.id, &view.owner());
            Json(view).into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

async fn check(State(keys): State<Keys>, Json(request): Json<CheckRequest>) -> Response {
    match keys.service.check(&request.key).await {
        Ok(checked) => Json(checked).into_response(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &KeyError) -> Response {
    let status = match error {
        KeyError::Label | KeyError::Name | KeyError::Expires | KeyError::Overlap | KeyError::Format(_) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        KeyError::OtherRequest | KeyError::Rotated(..) | KeyError::Over(..) | KeyError::Full { .. } => {
            StatusCode::CONFLICT
        }
        KeyError::Random(_) | KeyError::Ledger(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, error.to_string()).into_response()
}
