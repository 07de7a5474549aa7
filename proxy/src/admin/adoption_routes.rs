//! The control socket's routes of `comfygate adopt` and `comfygate tenant export`. Whoever may open the socket may read what the gateway may.

use super::adoption::{AdoptError, AdoptRequest, AdoptionService, ContentRequest, Outcome, Page, PageRequest};
use super::api::{Api, Operation};
use super::api_error::{Body, Code, Refused, no_tenant};
use crate::ids::TenantId;
use crate::owner::Owner;
use crate::record::ledger::user_files::{Adoption, UserBounds};
use crate::services::Services;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use std::sync::Arc;

/// The router.
pub(super) fn router(services: &Arc<Services>) -> Api {
    let ok = StatusCode::OK;
    let unavailable = |operation: Operation| operation.refuses(&[Code::Unavailable]);
    Api::new()
        .route(
            unavailable(Operation::post("/v1/adopt", "Takes files of a ComfyUI's folders over for an owner"))
                .body::<AdoptRequest>()
                .json::<Vec<Outcome>>(ok, "what became of each file, in their order")
                .refuses(&[Code::UnknownTenant, Code::Faulty, Code::Erasing]),
            adopt,
        )
        .route(
            unavailable(Operation::post("/v1/export/list", "A page of an owner's files"))
                .body::<PageRequest>()
                .json::<Page>(ok, "the page")
                .refuses(&[Code::UnknownTenant]),
            list,
        )
        .route(
            unavailable(Operation::post("/v1/export/content", "The content of a file of userdata"))
                .body::<ContentRequest>()
                .bytes(ok, "the content", "application/octet-stream")
                .refuses(&[Code::NotFound]),
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

async fn adopt(
    State(services): State<Arc<Services>>,
    Body(request): Body<AdoptRequest>,
) -> Result<Json<Vec<Outcome>>, Refused> {
    known(&services, &request.tenant).await?;
    let outcomes = service(&services).adopt(&request).await?;
    let changed = |outcome: &&Outcome| matches!(outcome, Outcome::Done(Adoption::New | Adoption::Updated));
    let changed = outcomes.iter().filter(changed).count();
    if changed > 0 && !request.dry_run {
        let owner = Owner { tenant: request.tenant, user: request.user, key: None, shared: false };
        services.audit.adopted(&owner, request.place.name(), changed);
    }
    Ok(Json(outcomes))
}

async fn list(State(services): State<Arc<Services>>, Body(request): Body<PageRequest>) -> Result<Json<Page>, Refused> {
    known(&services, &request.tenant).await?;
    Ok(Json(service(&services).page(&request).await?))
}

async fn content(State(services): State<Arc<Services>>, Body(request): Body<ContentRequest>) -> Result<Bytes, Refused> {
    let content = service(&services).content(&request).await?;
    content.ok_or_else(|| Refused::not_found("there is no such file: `POST /v1/export/list` tells them"))
}

/// Of the configuration, made here or by a token: also one that is closed.
async fn known(services: &Services, tenant: &TenantId) -> Result<(), Refused> {
    if services.tenants().tenant(tenant).is_some() || service(services).has_made(tenant).await? {
        return Ok(());
    }
    Err(no_tenant(tenant))
}

impl From<AdoptError> for Refused {
    fn from(error: AdoptError) -> Self {
        match error {
            AdoptError::TooMany => Self::at(Code::Faulty, "/files", error),
            AdoptError::Folder => Self::at(Code::Faulty, "/folder", error),
            AdoptError::Ledger(error) => error.into(),
            AdoptError::Blobs(error) => Self::unavailable(error),
        }
    }
}
