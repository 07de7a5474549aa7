//! The backends as an operator sees them through the control socket, and how they are taken out of work and put back.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `GET /v1/backends` | | `[BackendView]` |
//! | `POST /v1/backends/{id}/drain`, `…/maintenance` | [`HaltRequest`] | `BackendView`, or 404 |
//! | `POST /v1/backends/{id}/resume` | [`HaltRequest`] | `BackendView`, or 404 |

use super::api::{Api, Operation};
use super::api_error::{Body, Code, Named, Refused};
use super::control_client::{ControlClient, ControlError, read};
use super::halts::{Act, HaltRequest, acted};
use crate::clock::WallMillis;
use crate::dispatch::backend::Backend;
use crate::ids::{BackendId, BackendTag, PoolId};
use crate::record::gpus::GpuReading;
use crate::record::ledger::halts::Halted;
use crate::services::Services;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use http::Method;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BackendView {
    /// Its name.
    pub id: BackendId,
    /// Where it is.
    pub url: String,
    /// Whom it serves.
    pub pool: PoolId,
    /// In which state it is, by the names of the metric `comfygate_backend_state`.
    pub state: String,
    /// Whether it is given jobs.
    pub takes_jobs: bool,
    /// Why it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What an operator has done to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<HaltView>,
    /// Attempts of ours that it has.
    pub outstanding: u32,
    /// Prompts of others in its queue, as last seen.
    pub foreign: u32,
    /// Processes seen there since the gateway started.
    pub incarnation: u64,
    /// Its version of ComfyUI; absent until it has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comfyui_version: Option<String>,
    /// What it is or has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<BackendTag>,
    /// The part of its pool's jobs that it gets at most, of 100.
    pub share_percent: u32,
    /// Bytes of its GPU's memory, as it told; absent until it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_total: Option<u64>,
    /// Bytes of it that were free when it was asked last, within the last minute while it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_free: Option<u64>,
    /// Its GPU as this machine's driver sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuReading>,
    /// What its warm-up workflow loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warm_models: Vec<String>,
}

/// What an operator has done to a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HaltView {
    /// Somebody works on it; else it is drained.
    pub maintenance: bool,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    pub since: WallMillis,
}

impl BackendView {
    fn of(backend: &Backend) -> Self {
        let facts = backend.facts();
        let halt = backend.halt();
        Self {
            id: backend.id.clone(),
            url: backend.endpoint.to_string(),
            pool: backend.pool.clone(),
            state: backend.shown_standing().name().to_owned(),
            takes_jobs: backend.takes_jobs(),
            reason: Some(backend.reason()).filter(|reason| !reason.is_empty()),
            halt: halt.map(|row| HaltView { maintenance: row.maintenance, reason: row.reason.clone(), since: row.at }),
            outstanding: backend.outstanding(),
            foreign: backend.foreign(),
            incarnation: backend.health(|health| health.incarnation()),
            comfyui_version: facts.as_ref().map(|facts| facts.comfyui_version.clone()),
            tags: backend.tags.iter().cloned().collect(),
            share_percent: backend.share_percent,
            vram_total: backend.vram_total(),
            vram_free: facts.and_then(|facts| facts.vram_free()),
            gpu: backend.gpu().map(|reading| (*reading).clone()),
            warm_models: backend.warm_models().map(|models| models.to_vec()).unwrap_or_default(),
        }
    }
}

/// The routes.
pub fn router(services: &Arc<Services>) -> Api {
    let halting = |path, summary| {
        Operation::post(path, summary)
            .body::<HaltRequest>()
            .json::<BackendView>(StatusCode::OK, "the backend")
            .refuses(&[Code::NotFound, Code::Faulty, Code::Full, Code::Unavailable])
    };
    Api::new()
        .route(
            Operation::get("/v1/backends", "Every backend").json::<Vec<BackendView>>(StatusCode::OK, "the backends"),
            list,
        )
        .route(halting("/v1/backends/{id}/drain", "Gives a backend no new jobs"), drain)
        .route(halting("/v1/backends/{id}/maintenance", "The same, and keeps away from it"), maintain)
        .route(halting("/v1/backends/{id}/resume", "Lets a backend go on"), resume)
        .with_state(Arc::clone(services))
}

async fn list(State(services): State<Arc<Services>>) -> Json<Vec<BackendView>> {
    Json(services.backends().values().map(|backend| BackendView::of(backend)).collect())
}

type Done = Result<Json<BackendView>, Refused>;

async fn drain(State(services): State<Arc<Services>>, Named(id): Named, Body(request): Body<HaltRequest>) -> Done {
    done(&services, &id, Act::Halt, request).await
}

async fn maintain(State(services): State<Arc<Services>>, Named(id): Named, Body(request): Body<HaltRequest>) -> Done {
    done(&services, &id, Act::Maintain, request).await
}

async fn resume(State(services): State<Arc<Services>>, Named(id): Named, Body(request): Body<HaltRequest>) -> Done {
    done(&services, &id, Act::Resume, request).await
}

async fn done(services: &Services, id: &str, act: Act, request: HaltRequest) -> Done {
    let missing = || Refused::not_found("there is no such backend: `GET /v1/backends` tells them");
    let id = id.parse::<BackendId>().ok().filter(|id| services.backends().contains_key(id)).ok_or_else(missing)?;
    acted(services, Halted::Backend(id.clone()), act, request).await?;
    // A reload may have taken it out meanwhile.
    services.backends().get(&id).map(|backend| Json(BackendView::of(backend))).ok_or_else(missing)
}

impl ControlClient {
    /// Every backend.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn backends(&self) -> Result<Vec<BackendView>, ControlError> {
        self.call(Method::GET, "/v1/backends", Vec::new()).await.and_then(|answer| read(&answer.1))
    }
}
