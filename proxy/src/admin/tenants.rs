//! Tenants as an operator sees them, through the control socket or on the ledger itself: those of the tenants file, and those that tokens made, which can be closed and opened here.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/tenants` | `[TenantView]` |
//! | `POST /v1/tenants/{id}/disable`, `…/enable` | `TenantView`; 404: no token made it |
//! | `POST /v1/tenants/{id}/pause`, `…/resume` ([`HaltRequest`]) | `TenantView`, or 404 |

use super::halts::{Act, HaltRequest, acted};
use crate::clock::WallMillis;
use crate::ids::TenantId;
use crate::record::ledger::LedgerError;
use crate::record::ledger::halts::Halted;
use crate::record::ledger::tenants::CreatedTenant;
use crate::services::Services;
use crate::tenants::{AllTenants, TenantRegistry};
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantView {
    /// Who.
    pub id: TenantId,
    /// For people: the name in the file, or the claim that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The plan, by name.
    pub plan: String,
    /// Its credentials are refused.
    pub disabled: bool,
    /// Its held jobs wait.
    #[serde(default)]
    pub paused: bool,
    /// Where it comes from.
    pub source: TenantSource,
    /// Whose tokens made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// When its first token came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<WallMillis>,
}

/// Where a tenant comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantSource {
    /// The tenants file, or the built-in default: changed there.
    File,
    /// A token.
    Token,
}

impl From<CreatedTenant> for TenantView {
    fn from(row: CreatedTenant) -> Self {
        Self {
            id: row.id,
            name: Some(row.claim),
            plan: row.plan,
            disabled: row.disabled_at.is_some(),
            paused: false,
            source: TenantSource::Token,
            issuer: Some(row.issuer),
            created_at: Some(row.created_at),
        }
    }
}

/// Every tenant: those of the file by id, then those that tokens made by id.
pub fn views(
    registry: &TenantRegistry,
    created: Vec<CreatedTenant>,
    is_paused: impl Fn(&TenantId) -> bool,
) -> Vec<TenantView> {
    let configured = registry.tenants().map(|tenant| TenantView {
        id: tenant.id.clone(),
        name: tenant.name.clone(),
        plan: tenant.plan.clone(),
        disabled: tenant.disabled,
        paused: false,
        source: TenantSource::File,
        issuer: None,
        created_at: None,
    });
    let all = configured.chain(created.into_iter().map(TenantView::from));
    all.map(|view| TenantView { paused: is_paused(&view.id), ..view }).collect()
}

/// The routes.
pub fn router(services: &Arc<Services>) -> Router {
    Router::new()
        .route("/v1/tenants", get(list))
        .route("/v1/tenants/{id}/disable", post(disable))
        .route("/v1/tenants/{id}/enable", post(enable))
        .route("/v1/tenants/{id}/pause", post(pause))
        .route("/v1/tenants/{id}/resume", post(resume))
        .with_state(Arc::clone(services))
}

async fn list(State(services): State<Arc<Services>>) -> Response {
    Json(all(&services)).into_response()
}

fn all(services: &Services) -> Vec<TenantView> {
    let tenants: Arc<AllTenants> = services.tenants();
    views(tenants.registry(), services.created.list(), |id| services.tenant_paused(id))
}

type Asked = Result<Json<HaltRequest>, JsonRejection>;

async fn pause(State(services): State<Arc<Services>>, Path(id): Path<String>, asked: Asked) -> Response {
    halted(&services, &id, Act::Halt, asked).await
}

async fn resume(State(services): State<Arc<Services>>, Path(id): Path<String>, asked: Asked) -> Response {
    halted(&services, &id, Act::Resume, asked).await
}

async fn halted(services: &Services, id: &str, act: Act, asked: Asked) -> Response {
    let Json(request) = match asked {
        Ok(asked) => asked,
        Err(rejection) => return rejection.into_response(),
    };
    let Ok(id) = id.parse::<TenantId>() else { return StatusCode::NOT_FOUND.into_response() };
    // One whose plan is gone from the file is listed all the same, and can be resumed.
    if !all(services).iter().any(|view| view.id == id) {
        return StatusCode::NOT_FOUND.into_response();
    }
    if let Err(refused) = acted(services, Halted::Tenant(id.clone()), act, request).await {
        return refused;
    }
    match all(services).into_iter().find(|view| view.id == id) {
        Some(view) => Json(view).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn disable(State(services): State<Arc<Services>>, Path(id): Path<String>) -> Response {
    set_disabled(&services, &id, true).await
}

async fn enable(State(services): State<Arc<Services>>, Path(id): Path<String>) -> Response {
    set_disabled(&services, &id, false).await
}

async fn set_disabled(services: &Services, id: &str, disabled: bool) -> Response {
    let Ok(id) = id.parse::<TenantId>() else { return StatusCode::NOT_FOUND.into_response() };
    match services.created.set_disabled(&id, disabled).await {
        Ok(Some(row)) => {
            let paused = services.tenant_paused(&row.id);
            Json(TenantView { paused, ..TenantView::from(row) }).into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &LedgerError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
}
