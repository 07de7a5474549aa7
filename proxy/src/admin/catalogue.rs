//! The pin of a pool's packs: what is installed there beside what was accepted, and moving the one to the other.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `POST /v1/catalogue/diff` | [`PoolRequest`] | [`CatalogueDiff`] |
//! | `POST /v1/catalogue/accept` | [`AcceptRequest`] | [`CatalogueDiff`], now without differences; 409 if it is not any more what was shown |

use super::api::{Api, Operation};
use super::api_error::{Body, Code, Refused};
use super::control_client::{ControlClient, ControlError, read, refused};
use super::lifecycle::{Ask, Asks, ReloadReport};
use crate::dispatch::backend::Backend;
use crate::ids::{BackendId, PoolId};
use crate::record::pins;
use crate::services::Services;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use bytes::Bytes;
use comfygate_policy::{Catalogue, CatalogueError, Digest};
use http::Method;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// In which all further backends of a pool are asked what they have; whoever waits for the answer waits longer.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(15);

/// Which pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolRequest {
    /// Its name.
    pub pool: PoolId,
}

/// What is to be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptRequest {
    /// Of which pool.
    pub pool: PoolId,
    /// The installation that was shown: another one is not accepted unseen.
    #[schemars(with = "String")]
    pub installed: Digest,
}

/// What is installed in a pool, beside what holds there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CatalogueDiff {
    /// Which pool.
    pub pool: PoolId,
    /// Whose installation this is: the first of the pool that is up.
    pub backend: BackendId,
    /// Whether an operator has accepted packs for this pool; if not, the shipped catalogue or that of the configuration holds.
    pub pinned: bool,
    /// The catalogue that holds.
    #[schemars(with = "String")]
    pub holds: Digest,
    /// What is installed.
    #[schemars(with = "String")]
    pub installed: Digest,
    /// Classes that are installed and not in the catalogue that holds: nobody may use them.
    pub new: Vec<ClassView>,
    /// Classes that are installed otherwise: closed there.
    pub changed: Vec<String>,
    /// Classes that are not installed any more: closed there.
    pub gone: Vec<String>,
    /// What is otherwise in the changed ones, a line a class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// What of ComfyUI's own new and changed classes no annotation speaks of yet, such as a number whose meaning nobody has said: policies with caps refuse it or hold it to nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unjudged: Vec<String>,
    /// All other backends of the pool, in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherBackend>,
}

/// What another backend of the pool has installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OtherBackend {
    /// Which one.
    pub backend: BackendId,
    /// Why nothing is known of it: it is not up, or did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// The first backend that has the same classes with the same signatures, the one shown before all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<BackendId>,
    /// Beside the backend that is shown.
    #[serde(default, skip_serializing_if = "Differences::is_none")]
    pub beside_shown: Differences,
    /// Beside the catalogue that holds.
    #[serde(default, skip_serializing_if = "Differences::is_none")]
    pub beside_held: Differences,
}

/// Classes by which one installation differs from another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Differences {
    /// It has them, and the other has not.
    pub new: Vec<String>,
    /// It has them with another signature.
    pub changed: Vec<String>,
    /// The other has them.
    pub gone: Vec<String>,
}

impl Differences {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.new.is_empty() && self.changed.is_empty() && self.gone.is_empty()
    }

    fn between(known: &Catalogue, live: &Bytes, installed: &Catalogue) -> Result<Self, CatalogueError> {
        let agreement = known.agreement(live)?;
        let names = installed.classes().map(|class| class.name());
        Ok(Self {
            new: names.filter(|name| known.class(name).is_none()).map(str::to_owned).collect(),
            changed: agreement.differing().map(str::to_owned).collect(),
            gone: agreement.missing().map(str::to_owned).collect(),
        })
    }
}

/// A class that could be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ClassView {
    /// Its name.
    pub class: String,
    /// The pack that brings it.
    pub pack: String,
    /// Why it stays closed even then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
}

#[derive(Clone)]
struct Pins {
    services: Arc<Services>,
    asks: Asks,
}

/// The routes.
pub fn router(services: &Arc<Services>, asks: Asks) -> Api {
    let told = |operation: Operation| {
        operation.json::<CatalogueDiff>(StatusCode::OK, "the differences").refuses(&[
            Code::NotFound,
            Code::OwnersPool,
            Code::BadBackendAnswer,
            Code::Unavailable,
        ])
    };
    Api::new()
        .route(
            told(Operation::post("/v1/catalogue/diff", "What is installed in a pool beside what was accepted"))
                .body::<PoolRequest>(),
            diff,
        )
        .route(
            told(Operation::post("/v1/catalogue/accept", "Accepts what is installed in a pool"))
                .body::<AcceptRequest>()
                .refuses(&[Code::ChangedSinceShown, Code::PinnedByFile, Code::Stopping]),
            accept,
        )
        .with_state(Pins { services: Arc::clone(services), asks })
}

async fn diff(State(pins): State<Pins>, Body(request): Body<PoolRequest>) -> Result<Json<CatalogueDiff>, Refused> {
    let (mut diff, live) = compared(&pins.services, &request.pool).await?;
    diff.others = others(&pins.services, &request.pool, &diff.backend, live).await?;
    Ok(Json(diff))
}

async fn accept(State(pins): State<Pins>, Body(request): Body<AcceptRequest>) -> Result<Json<CatalogueDiff>, Refused> {
    let services = &pins.services;
    let (shown, live) = compared(services, &request.pool).await?;
    if shown.installed != request.installed {
        let text = "what is installed has changed since it was shown: look at it again with `comfygate catalogue diff`";
        return Err(Refused::new(Code::ChangedSinceShown, text));
    }
    if services.config().object_info_file.is_some() {
        let text = "the configuration names a catalogue (`[catalogue] object_info`): that file is the pin, replace it";
        return Err(Refused::new(Code::PinnedByFile, text));
    }
    let (state, pool, pinned) = (services.config().state_dir.clone(), request.pool.clone(), live.clone());
    let written = tokio::task::spawn_blocking(move || pins::write(&state, &pool, &live)).await;
    written
        .map_err(|error| error.to_string())
        .and_then(|done| done.map_err(|error| error.to_string()))
        .map_err(|reason| Refused::unavailable(format_args!("the pin can't be written: {reason}")))?;
    services.audit.catalogue_accepted(&request.pool, shown.installed, shown.new.len() + shown.changed.len());
    match pins.asks.ask(Ask::Reload).await {
        // Its backends are asked anew now, so what they said is compared.
        Some(ReloadReport { applied: true, .. }) => {
            Ok(Json(compared_with(services, &request.pool, shown.backend, pinned).await?))
        }
        Some(report) => {
            let text = format!("the pin was moved and is not in force: {}", report.errors.join("; "));
            Err(Refused::unavailable(text))
        }
        None => Err(Refused::stopping()),
    }
}

/// What is installed at the first backend of the pool that is up, compared with what holds there, and as it came.
async fn compared(services: &Arc<Services>, pool: &PoolId) -> Result<(CatalogueDiff, Bytes), Refused> {
    if services.tenants().owner_of(pool).is_some() {
        let text = format!("the pool `{pool}` is an owner's: what is installed there holds, and needs no pin");
        return Err(Refused::new(Code::OwnersPool, text));
    }
    let mut of_pool = backends_of(services, pool);
    if of_pool.is_empty() {
        return Err(Refused::not_found(format!("no backend is in a pool `{pool}`")));
    }
    of_pool.retain(|backend| backend.is_up());
    let Some(backend) = of_pool.into_iter().next() else {
        return Err(Refused::unavailable(format_args!("no backend of the pool `{pool}` is up")));
    };
    let live = backend.comfyui.object_info().await.map_err(Refused::unavailable)?;
    let diff = compared_with(services, pool, backend.id.clone(), live.clone()).await?;
    Ok((diff, live))
}

fn backends_of(services: &Services, pool: &PoolId) -> Vec<Arc<Backend>> {
    let mut of_pool: Vec<Arc<Backend>> = services.backends().values().cloned().collect();
    of_pool.retain(|backend| backend.pool == *pool);
    of_pool
}

/// Installations that differ from one another, the one shown first.
struct Installations {
    holds: Arc<Catalogue>,
    distinct: Vec<(BackendId, Catalogue)>,
}

impl Installations {
    /// What a backend said, beside all that was seen before.
    fn place(mut self, backend: BackendId, live: &Bytes) -> Result<(Self, OtherBackend), CatalogueError> {
        let installed = Catalogue::from_object_info(live)?;
        let mut beside_shown = None;
        let mut same_as = None;
        for (known, catalogue) in &self.distinct {
            let found = Differences::between(catalogue, live, &installed)?;
            if found.is_none() {
                same_as = Some(known.clone());
            }
            beside_shown.get_or_insert(found);
            if same_as.is_some() {
                break;
            }
        }
        let beside_held = Differences::between(&self.holds, live, &installed)?;
        if same_as.is_none() {
            self.distinct.push((backend.clone(), installed));
        }
        let beside_shown = beside_shown.unwrap_or_default();
        Ok((self, OtherBackend { backend, unknown: None, same_as, beside_shown, beside_held }))
    }
}

/// What all backends of the pool but the one shown have, one after the other: an answer takes megabytes.
async fn others(
    services: &Arc<Services>,
    pool: &PoolId,
    shown: &BackendId,
    live: Bytes,
) -> Result<Vec<OtherBackend>, Refused> {
    let failed = |reason: String| Refused::new(Code::BadBackendAnswer, reason);
    let others = backends_of(services, pool).into_iter().filter(|backend| backend.id != *shown);
    let others: Vec<Arc<Backend>> = others.collect();
    if others.is_empty() {
        return Ok(Vec::new());
    }
    let first = blocking(move || Catalogue::from_object_info(&live)).await.map_err(failed)?;
    let holds = services.inspector().catalogue_of(pool);
    let mut installations = Installations { holds, distinct: vec![(shown.clone(), first)] };
    let end = Instant::now() + OTHERS_TIMEOUT;
    let mut out = Vec::new();
    for backend in others {
        let id = backend.id.clone();
        let unknown = |reason: String| OtherBackend {
            backend: backend.id.clone(),
            unknown: Some(reason),
            same_as: None,
            beside_shown: Differences::default(),
            beside_held: Differences::default(),
        };
        if !backend.is_up() {
            out.push(unknown("it is not up".to_owned()));
            continue;
        }
        let live = match timeout_at(end, backend.comfyui.object_info()).await {
            Ok(Ok(live)) => live,
            Ok(Err(error)) => {
                out.push(unknown(error.to_string()));
                continue;
            }
            Err(_) => {
                out.push(unknown("it did not answer in time".to_owned()));
                continue;
            }
        };
        // What is no object_info ends it here as it does for the backend that is shown.
        let placed = blocking(move || installations.place(id, &live)).await;
        let (rest, other) = placed.map_err(|reason| failed(format!("{}: {reason}", backend.id)))?;
        installations = rest;
        out.push(other);
    }
    Ok(out)
}

/// Megabytes of JSON: not on an event loop.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CatalogueError> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

/// What a backend said, compared with what holds in its pool.
async fn compared_with(
    services: &Services,
    pool: &PoolId,
    backend: BackendId,
    live: Bytes,
) -> Result<CatalogueDiff, Refused> {
    let inspector = services.inspector();
    let (pinned, holds, pool) = (inspector.is_pinned(pool), inspector.catalogue_of(pool), pool.clone());
    let compared = blocking(move || {
        let installed = Catalogue::from_object_info(&live)?;
        let agreement = holds.agreement(&live)?;
        let news = holds.news(&live)?;
        let new = installed.classes().filter(|class| holds.class(class.name()).is_none()).map(|class| ClassView {
            class: class.name().to_owned(),
            pack: class.pack().to_owned(),
            closed: class.closed_because().map(|reason| reason.to_string()),
        });
        Ok(CatalogueDiff {
            pool,
            backend,
            pinned,
            holds: holds.digest(),
            installed: installed.digest(),
            new: new.collect(),
            changed: agreement.differing().map(str::to_owned).collect(),
            gone: agreement.missing().map(str::to_owned).collect(),
            changes: news.changed.iter().map(ToString::to_string).collect(),
            unjudged: news.unjudged.iter().map(ToString::to_string).collect(),
            others: Vec::new(),
        })
    });
    compared.await.map_err(|reason| Refused::new(Code::BadBackendAnswer, reason))
}

impl ControlClient {
    /// What is installed in a pool beside what holds there.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn catalogue_diff(&self, pool: &PoolId) -> Result<CatalogueDiff, ControlError> {
        self.of_pool("/v1/catalogue/diff", &PoolRequest { pool: pool.clone() }).await
    }

    /// Moves a pool's pin to the installation that was shown.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn accept_catalogue(&self, pool: &PoolId, installed: Digest) -> Result<CatalogueDiff, ControlError> {
        self.of_pool("/v1/catalogue/accept", &AcceptRequest { pool: pool.clone(), installed }).await
    }

    async fn of_pool(&self, path: &str, request: &impl Serialize) -> Result<CatalogueDiff, ControlError> {
        let body = serde_json::to_vec(request).map_err(|error| ControlError::Answer(error.to_string()))?;
        let (status, answer) = self.slow_call(Method::POST, path, body).await?;
        if status == StatusCode::NOT_FOUND {
            return Err(refused(&answer));
        }
        read(&answer)
    }
}
