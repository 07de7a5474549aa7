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
use super::api_error::{Asked, Body, Code, Named, OptionalBody, Refused, no_tenant};
use super::keys::{
    CheckRequest, CheckedKey, KeyError, KeyFilter, KeyRequest, KeyService, KeyView, MadeKey, OVERLAP, RotateRequest,
};
use crate::authenticate::endings::Subject;
use crate::ids::KeyId;
use crate::services::Services;
use axum::Json;
use axum::extract::State;
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
    let ok = StatusCode::OK;
    let unavailable = |operation: Operation| operation.refuses(&[Code::Unavailable]);
    let unknown = |operation: Operation| unavailable(operation).refuses(&[Code::NotFound]);
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
                .refuses(&[
                    Code::NameTaken,
                    Code::TooManyKeys,
                    Code::UnknownTenant,
                    Code::Erasing,
                    Code::Faulty,
                    Code::BadIdempotencyKey,
                ]),
            create,
        )
        .route(
            unavailable(Operation::post("/v1/keys/check", "Whose key a text is that somebody found"))
                .body::<CheckRequest>()
                .json::<CheckedKey>(ok, "what is known of it")
                .refuses(&[Code::NoKey]),
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
            .refuses(&[
                Code::Rotated,
                Code::KeyOver,
                Code::NameTaken,
                Code::TooManyKeys,
                Code::Faulty,
                Code::Erasing,
                Code::BadIdempotencyKey,
            ]),
            rotate,
        )
        .route(
            unknown(Operation::post("/v1/keys/{id}/revoke", "Refuses a key from now on"))
                .json::<KeyView>(ok, "the key"),
            revoke,
        )
        .with_state(Keys { service, services: Arc::clone(services) })
}

type Answer = Result<Response, Refused>;

async fn create(State(keys): State<Keys>, headers: HeaderMap, Body(request): Body<KeyRequest>) -> Answer {
    if keys.services.tenants().tenant(&request.tenant).is_none() {
        return Err(no_tenant(&request.tenant));
    }
    let name = name_of(&headers)?;
    let made = keys.service.create(&request, name, keys.services.config().limits.keys_max).await?;
    if made.key.is_none() {
        return Ok(Json(made).into_response());
    }
    keys.services.audit.key_created(&made.view.id, &made.view.owner());
    Ok((StatusCode::CREATED, Json(made)).into_response())
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

async fn list(State(keys): State<Keys>, Asked(filter): Asked<KeyFilter>) -> Result<Json<Vec<KeyView>>, Refused> {
    Ok(Json(keys.service.list(&filter).await?))
}

fn id_of(id: &str) -> Result<KeyId, Refused> {
    id.parse().map_err(|error| Refused::not_found(format!("there is no such key: {error}")))
}

fn no_key(id: &KeyId) -> Refused {
    Refused::not_found(format!("there is no key `{id}`: `GET /v1/keys` tells them"))
}

async fn show(State(keys): State<Keys>, Named(id): Named) -> Result<Json<KeyView>, Refused> {
    let id = id_of(&id)?;
    keys.service.show(&id).await?.map(Json).ok_or_else(|| no_key(&id))
}

async fn rotate(
    State(keys): State<Keys>,
    Named(id): Named,
    headers: HeaderMap,
    OptionalBody(request): OptionalBody<RotateRequest>,
) -> Answer {
    let id = id_of(&id)?;
    let overlap = request.unwrap_or_default().overlap_seconds.map_or(OVERLAP, Duration::from_secs);
    let name = name_of(&headers)?;
    let rotated = keys.service.rotate(&id, overlap, name, keys.services.config().limits.keys_max).await?;
    let (made, former) = rotated.ok_or_else(|| no_key(&id))?;
    if made.key.is_none() {
        return Ok(Json(made).into_response());
    }
    // Its sockets learn of the new end.
    keys.services.endings.tell(&Subject::Key(id.clone()));
    keys.services.audit.key_rotated(&id, &made.view.id, former.expires_at, &former.owner());
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn revoke(State(keys): State<Keys>, Named(id): Named) -> Result<Json<KeyView>, Refused> {
    let id = id_of(&id)?;
    let view = keys.service.revoke(&id).await?.ok_or_else(|| no_key(&id))?;
    keys.services.endings.tell(&Subject::Key(id));
    keys.services.audit.key_revoked(&view.id, &view.owner());
    Ok(Json(view))
}

async fn check(State(keys): State<Keys>, Body(request): Body<CheckRequest>) -> Result<Json<CheckedKey>, Refused> {
    Ok(Json(keys.service.check(&request.key).await?))
}

impl From<KeyError> for Refused {
    fn from(error: KeyError) -> Self {
        let code = match error {
            KeyError::Label => return Self::at(Code::Faulty, "/label", error),
            KeyError::Expires => return Self::at(Code::Faulty, "/expires_in", error),
            KeyError::Overlap => return Self::at(Code::Faulty, "/overlap_seconds", error),
            KeyError::Format(_) => return Self::at(Code::NoKey, "/key", error),
            KeyError::Ledger(error) => return error.into(),
            KeyError::Name => Code::BadIdempotencyKey,
            KeyError::OtherRequest => Code::NameTaken,
            KeyError::Rotated(..) => Code::Rotated,
            KeyError::Over(..) => Code::KeyOver,
            KeyError::Full { .. } => Code::TooManyKeys,
            KeyError::Random(_) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}
