//! The control socket's routes of `comfygate adopt` and `comfygate tenant export`. Whoever may open the socket may read what the gateway may.

use super::adoption::{AdoptError, AdoptRequest, AdoptionService, ContentRequest, Outcome, Page, PageRequest};
use super::api::{Api, Operation};
use crate::ids::TenantId;
use crate::owner::Owner;
use crate::record::ledger::LedgerError;
use crate::record::ledger::user_files::{Adoption, UserBounds};
use crate::services::Services;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// The router.
pub(super) fn router(services: &Arc<Services>) -> Api {
    let (ok, unprocessable) = (StatusCode::OK, StatusCode::UNPROCESSABLE_ENTITY);
    let unavailable = |operation: Operation| {
        operation.text(StatusCode::SERVICE_UNAVAILABLE, "the ledger or the disk can't be reached")
    };
    Api::new()
        .route(
            unavailable(Operation::post("/v1/adopt", "Takes files of a ComfyUI's folders over for an owner"))
                .body::<AdoptRequest>()
                .json::<Vec<Outcome>>(ok, "what became of each file, in their order")
                .text(unprocessable, "there is no such tenant, or the request is faulty"),
            adopt,
        )
        .route(
            unavailable(Operation::post("/v1/export/list", "A page of an owner's files"))
                .body::<PageRequest>()
                .json::<Page>(ok, "the page")
                .text(unprocessable, "there is no such tenant"),
            list,
        )
        .route(
            unavailable(Operation::post("/v1/export/content", "The content of a file of userdata"))
                .body::<ContentRequest>()
                .bytes(ok, "the content", "application/octet-stream")
                .empty(StatusCode::NOT_FOUND, "there is no such file"),
            content,
        )
        .with_state(Arc::clone(services))
}

/// By the limits of now: a reload may have changed them.
fn service(services: &Services) -> AdoptionService {
    let limits = &services.config().limits;
    let bounds =
        UserBounds { file_bytes_max: limits.userdata_bytes_max, tenant_bytes_max: limits.userdata_total_bytes_max };
    AdoptionService::new(Arc::clone(&services.ledger), services.blobs.clone(), services.clock.clone(), bounds)
}

async fn adopt(State(services): State<Arc<Services>>, Json(request): Json<AdoptRequest>) -> Response {
    if let Some(refusal) = unknown(&services, &request.tenant).await {
        return refusal;
    }
    match service(&services).adopt(&request).await {
        Ok(outcomes) => {
            let changed = |outcome: &&Outcome| matches!(outcome, Outcome::Done(Adoption::New | Adoption::Updated));
            let changed = outcomes.iter().filter(changed).count();
            if changed > 0 && !request.dry_run {
                let owner = Owner { tenant: request.tenant, user: request.user, key: None, shared: false };
                services.audit.adopted(&owner, request.place.name(), changed);
            }
            Json(outcomes).into_response()
        }
        Err(error @ (AdoptError::TooMany | AdoptError::Folder)) => {
            (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response()
        }
        Err(error @ (AdoptError::Ledger(_) | AdoptError::Blobs(_))) => unavailable(&error.to_string()),
    }
}

async fn list(State(services): State<Arc<Services>>, Json(request): Json<PageRequest>) -> Response {
    if let Some(refusal) = unknown(&services, &request.tenant).await {
        return refusal;
    }
    match service(&services).page(&request).await {
        Ok(page) => Json(page).into_response(),
        Err(error) => failed(&error),
    }
}

async fn content(State(services): State<Arc<Services>>, Json(request): Json<ContentRequest>) -> Response {
    match service(&services).content(&request).await {
        Ok(Some(content)) => content.into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

async fn unknown(services: &Services, tenant: &TenantId) -> Option<Response> {
    if services.tenants().tenant(tenant).is_some() {
        return None;
    }
    match service(services).has_made(tenant).await {
        Ok(true) => return None,
        Ok(false) => {}
        Err(error) => return Some(failed(&error)),
    }
    let text = format!("the running gateway has no tenant `{tenant}`");
    Some((StatusCode::UNPROCESSABLE_ENTITY, text).into_response())
}

fn failed(error: &LedgerError) -> Response {
    unavailable(&error.to_string())
}

fn unavailable(text: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, text.to_owned()).into_response()
}
