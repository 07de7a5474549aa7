//! Tenants as an operator sees and makes them, through the control socket or on the ledger itself: those of the tenants file, those that are made here, and those that tokens made.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/tenants[?after=ID&limit=N]` | `[TenantView]`, by id within each source |
//! | `GET /v1/tenants/{id}` | [`TenantDetail`] with `ETag`; 404; 410 of one that was deleted |
//! | `PUT /v1/tenants/{id}[?reuse=true]` ([`TenantSpec`]) | [`TenantDetail`]: 201 or 200; 409, 412, 422 |
//! | `DELETE /v1/tenants/{id}?erase=true` | [`Erasure`], or 202 [`ErasureRow`] while it goes on |
//! | `POST /v1/tenants/{id}/erase` | the same of one that stays, or that is in no list and has left something; else 404 or 410 |
//! | `POST /v1/tenants/{id}/disable`, `…/enable` | `TenantView`; 404: neither made here nor by a token |
//! | `POST /v1/tenants/{id}/pause`, `…/resume` ([`HaltRequest`]) | `TenantView`, or 404 |
//! | `GET /v1/plans` | `[PlanView]` |
//!
//! Whatever is refused: [`ApiError`](super::api_error::ApiError).

use super::api::{Api, Operation};
use super::api_error::{Asked, Body, Code, Named, Refused};
use super::halts::{Act, HaltRequest, acted};
use super::sessions;
use crate::authenticate::endings::Subject;
use crate::clock::WallMillis;
use crate::config::oidc::ProviderTenant;
use crate::config::{Config, UnknownTenant};
use crate::dispatch::dispatcher::DispatchHandle;
use crate::ids::TenantId;
use crate::record::ledger::halts::Halted;
use crate::record::ledger::managed::{ErasureRow, ManagedTenant};
use crate::record::ledger::tenants::CreatedTenant;
use crate::retention::erase::{self, Asked as Erasing, Erasure};
use crate::services::Services;
use crate::tenants::AllTenants;
use crate::tenants::created::is_made_id;
use crate::tenants::in_force::{self, InForce};
use crate::tenants::managed::{OnlyIf, Put, PutError, PutOptions};
use crate::tenants::written::{SpecFault, TenantSpec};
use axum::extract::State;
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Tenants of one answer that asks for fewer than all.
pub const PAGE_MAX: usize = 100_000;

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantView {
    /// Who.
    pub id: TenantId,
    /// For people: the name that was written, or the claim that made it.
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
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<WallMillis>,
    /// When it was changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<WallMillis>,
    /// The value of an issuer's tenant claim that means it, where that is not the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Of one that is made here: each change adds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why it is closed though nobody closed it: its plan is gone, or does not suit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// What it has is being erased, and how far that is. It is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erasing: Option<ErasureRow>,
}

/// Where a tenant comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TenantSource {
    /// The tenants file, or the built-in default: changed there.
    File,
    /// This API.
    Api,
    /// A token.
    Token,
}

/// One tenant with its limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantDetail {
    /// What a list tells of it.
    #[serde(flatten)]
    pub tenant: TenantView,
    /// What is in force, by the keys of `[[tenant]]`, and where each comes from; none while it is closed for its plan.
    #[serde(default)]
    pub limits: BTreeMap<String, InForce>,
    /// What it sets itself, as it was written here.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub overrides: Map<String, Value>,
    /// What is doubtful about that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<SpecFault>,
}

/// One plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanView {
    /// Its name.
    pub id: String,
    /// What it gives, by the keys of `[[plan]]`; `null`: no such bound.
    pub limits: Map<String, Value>,
    /// Whether tenants that are not in the file may be on it: not in the owner posture, nor in an owner's pool.
    pub open: bool,
    /// How many tenants of the file are on it.
    pub file_tenants: usize,
    /// How many that were made here.
    pub api_tenants: usize,
    /// How many that tokens made.
    pub token_tenants: usize,
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
            changed_at: None,
            claim: None,
            version: None,
            closed: None,
            erasing: None,
        }
    }
}

impl TenantView {
    /// One that was made here, as it was written.
    pub fn of_managed(row: &ManagedTenant) -> Self {
        Self {
            id: row.id.clone(),
            name: row.name.clone(),
            plan: row.plan.clone(),
            disabled: row.disabled,
            paused: false,
            source: TenantSource::Api,
            issuer: None,
            created_at: Some(row.created_at),
            changed_at: Some(row.changed_at),
            claim: row.claim.clone(),
            version: Some(row.version),
            closed: None,
            erasing: None,
        }
    }

    fn of_file(tenant: &crate::tenants::Tenant) -> Self {
        Self {
            id: tenant.id.clone(),
            name: tenant.name.clone(),
            plan: tenant.plan.clone(),
            disabled: tenant.disabled,
            paused: false,
            source: TenantSource::File,
            issuer: None,
            created_at: None,
            changed_at: None,
            claim: None,
            version: None,
            closed: None,
            erasing: None,
        }
    }
}

/// Every tenant: those of the file by id, then those that were made here, then those that tokens made. One that the file has too is the file's.
pub fn views(tenants: &AllTenants, is_paused: impl Fn(&TenantId) -> bool) -> Vec<TenantView> {
    let registry = tenants.registry();
    let configured = registry.tenants().map(|tenant| TenantView::of_file(tenant));
    let managed = tenants.managed().map(|managed| managed.list()).unwrap_or_default();
    let managed = managed.iter().filter(|row| registry.tenant(&row.id).is_none()).map(|row| {
        let closed = tenants.closed_because(row).map(|reason| reason.to_string());
        TenantView { closed, ..TenantView::of_managed(row) }
    });
    let created = tenants.created().map(|created| created.list()).unwrap_or_default();
    let of_token = |row: &CreatedTenant| tenants.created_closed_because(row).map(|reason| reason.to_string());
    let created = created.into_iter().map(|row| TenantView { closed: of_token(&row), ..TenantView::from(row) });
    let all = configured.chain(managed).chain(created);
    let erasing = |id: &TenantId| tenants.managed()?.erasing(id);
    all.map(|view| TenantView { paused: is_paused(&view.id), erasing: erasing(&view.id), ..view }).collect()
}

/// One tenant with its limits, as the configuration and the rows say.
pub fn detail(tenants: &AllTenants, id: &TenantId, is_paused: bool) -> Option<TenantDetail> {
    let managed = tenants.managed();
    let row = managed.and_then(|managed| managed.row(id)).filter(|_| tenants.registry().tenant(id).is_none());
    let view = match (tenants.registry().tenant(id), &row) {
        (Some(tenant), _) => TenantView::of_file(&tenant),
        (None, Some(row)) => {
            let closed = tenants.closed_because(row).map(|reason| reason.to_string());
            TenantView { closed, ..TenantView::of_managed(row) }
        }
        (None, None) => {
            let row = tenants.created()?.row(id)?;
            let closed = tenants.created_closed_because(&row).map(|reason| reason.to_string());
            TenantView { closed, ..row.into() }
        }
    };
    let erasing = managed.and_then(|managed| managed.erasing(id));
    let limits = tenants.tenant(id).map(|tenant| in_force::of_tenant(&tenant)).unwrap_or_default();
    Some(TenantDetail {
        tenant: TenantView { paused: is_paused, erasing, ..view },
        limits,
        overrides: row.map(|row| row.limits.clone()).unwrap_or_default(),
        warnings: Vec::new(),
    })
}

/// Every plan, by name.
pub fn plans(tenants: &AllTenants) -> Vec<PlanView> {
    let registry = tenants.registry();
    let mut counts: HashMap<String, [usize; 3]> = HashMap::new();
    let mut count = |plan: &str, place: usize| {
        if let Some(count) = counts.entry(plan.to_owned()).or_default().get_mut(place) {
            *count += 1;
        }
    };
    registry.tenants().for_each(|tenant| count(&tenant.plan, 0));
    tenants.managed().iter().flat_map(|managed| managed.list()).for_each(|row| count(&row.plan, 1));
    tenants.created().iter().flat_map(|created| created.list()).for_each(|row| count(&row.plan, 2));
    registry
        .plans()
        .map(|(id, plan)| {
            let [file_tenants, api_tenants, token_tenants] = counts.get(id).copied().unwrap_or_default();
            PlanView {
                id: id.to_owned(),
                limits: in_force::of_plan(plan),
                open: registry.suits_made_tenants(plan),
                file_tenants,
                api_tenants,
                token_tenants,
            }
        })
        .collect()
}

#[derive(Clone)]
struct Desk {
    services: Arc<Services>,
    dispatch: DispatchHandle,
}

/// The routes.
pub fn router(services: &Arc<Services>, dispatch: &DispatchHandle) -> Api {
    let (ok, accepted) = (StatusCode::OK, StatusCode::ACCEPTED);
    let halting = |path, summary| {
        Operation::post(path, summary).body::<HaltRequest>().json::<TenantView>(ok, "the tenant").refuses(&[
            Code::NotFound,
            Code::Faulty,
            Code::Full,
            Code::Erasing,
            Code::Unavailable,
        ])
    };
    let closing = |path, summary| {
        Operation::post(path, summary).json::<TenantView>(ok, "the tenant").refuses(&[
            Code::NotFound,
            Code::Erasing,
            Code::Unavailable,
        ])
    };
    let ending = |operation: Operation| {
        operation
            .json::<Erasure>(ok, "nothing of it is left")
            .json::<ErasureRow>(accepted, "it goes on: ask again, or look at the tenant")
            .refuses(&[Code::NotFound, Code::Unavailable])
    };
    Api::new()
        .route(
            Operation::get("/v1/tenants", "Every tenant, of the file, of this API and of tokens")
                .query("after", "only those after this id, of all sources by id")
                .query_of::<usize>("limit", "at most so many")
                .json::<Vec<TenantView>>(ok, "the tenants"),
            list,
        )
        .route(
            Operation::get("/v1/tenants/{id}", "One tenant, with its limits in force and where each comes from")
                .json::<TenantDetail>(ok, "the tenant; `ETag` is its version")
                .refuses(&[Code::NotFound, Code::TenantDeleted]),
            one,
        )
        .route(
            Operation::put(
                "/v1/tenants/{id}",
                "Makes a tenant, or changes it as a whole; the same body twice is written once",
            )
            .query_of::<bool>("reuse", "`true`: also an id that was deleted within the last 90 days, that was deleted and that the configuration still names, or of which something is left, which becomes the new tenant's; and a claim by which tokens made a tenant, whose things stay where they are")
            .header("If-Match", "only if its version is this one")
            .header("If-None-Match", "`*`: only if it is new")
            .body::<TenantSpec>()
            .json::<TenantDetail>(StatusCode::CREATED, "it is new")
            .json::<TenantDetail>(ok, "it is so now, or was already")
            .refuses(&[Code::InFile, Code::Erasing, Code::IdWasDeleted, Code::IdHasLeftovers, Code::ClaimOfTokenTenant])
            .refuses(&[Code::Stale, Code::Faulty, Code::BadId, Code::MadeId, Code::TooManyTenants, Code::NotFound])
            .refuses(&[Code::Unavailable]),
            put,
        )
        .route(
            ending(
                Operation::delete(
                    "/v1/tenants/{id}",
                    "Closes a tenant, ends its jobs, erases all that it has, and itself",
                )
                .query_of::<bool>("erase", "`true`, or nothing is done")
                .refuses(&[Code::EraseMissing, Code::InFile, Code::MadeByToken, Code::ClaimMakesTenants]),
            ),
            delete,
        )
        .route(
            ending(Operation::post(
                "/v1/tenants/{id}/erase",
                "Ends a tenant's jobs and erases all that it has; the tenant stays",
            ))
            .refuses(&[Code::TenantDeleted]),
            erase_tenant,
        )
        .route(
            closing("/v1/tenants/{id}/disable", "Refuses the credentials of a tenant; its jobs and files stay"),
            disable,
        )
        .route(closing("/v1/tenants/{id}/enable", "Lets a disabled tenant in again"), enable)
        .route(
            halting("/v1/tenants/{id}/pause", "Lets a tenant's held jobs wait, and what it submits from now on"),
            pause,
        )
        .route(halting("/v1/tenants/{id}/resume", "Lets a paused tenant's jobs run again"), resume)
        .route(
            Operation::get("/v1/plans", "Every plan of tenants.toml").json::<Vec<PlanView>>(ok, "the plans"),
            all_plans,
        )
        .with_state(Desk { services: Arc::clone(services), dispatch: dispatch.clone() })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

async fn list(State(Desk { services, .. }): State<Desk>, Asked(page): Asked<Page>) -> Json<Vec<TenantView>> {
    let tenants = services.tenants();
    let mut all = views(&tenants, |id| services.tenant_paused(id));
    if page.after.is_some() || page.limit.is_some() {
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        all.retain(|view| page.after.as_deref().is_none_or(|after| view.id.as_str() > after));
        all.truncate(page.limit.unwrap_or(PAGE_MAX));
    }
    Json(all)
}

async fn all_plans(State(Desk { services, .. }): State<Desk>) -> Json<Vec<PlanView>> {
    Json(plans(&services.tenants()))
}

fn detail_of(services: &Services, id: &TenantId) -> Option<TenantDetail> {
    detail(&services.tenants(), id, services.tenant_paused(id))
}

/// What can't be an id is nobody's.
fn id_of(id: &str) -> Result<TenantId, Refused> {
    id.parse().map_err(|error| Refused::not_found(format!("there is no such tenant: {error}")))
}

fn no_tenant(id: &TenantId) -> Refused {
    Refused::not_found(format!("there is no tenant `{id}`: `GET /v1/tenants` tells them"))
}

async fn one(State(Desk { services, .. }): State<Desk>, Named(id): Named) -> Result<Response, Refused> {
    let id = id_of(&id)?;
    if let Some(detail) = detail_of(&services, &id) {
        return Ok(tagged(StatusCode::OK, detail));
    }
    Err(not_there(&services, &id))
}

/// 410 with the time of one that was deleted, else 404.
fn not_there(services: &Services, id: &TenantId) -> Refused {
    match services.managed.deleted_at(id, services.tenants().registry()) {
        Some(at) => Refused::new(Code::TenantDeleted, was_deleted(id, at)),
        None => no_tenant(id),
    }
}

/// Why the deletion of a tenant that was made here would not last: tokens with its claim would make one anew. `None`: they would not.
pub fn comes_again(config: &Config, row: &ManagedTenant) -> Option<String> {
    let claim = row.claim.as_ref()?;
    let jwt = config.jwt.iter().filter(|issuer| matches!(issuer.unknown_tenant, UnknownTenant::Create(_)));
    let oidc = config
        .oidc
        .iter()
        .filter(|provider| matches!(provider.tenant, ProviderTenant::Claim { unknown: UnknownTenant::Create(_), .. }));
    let mut issuers = jwt.map(|issuer| &issuer.issuer).chain(oidc.map(|provider| &provider.issuer));
    let issuer = issuers.next()?;
    Some(format!(
        "the next token of `{issuer}` with the claim `{claim}` of `{}` would make a tenant anew (`unknown_tenant = \"create\"`): disable it, and `erase` what it has; or take its claim away first (`comfygate tenant set {} --claim ''`)",
        row.id, row.id
    ))
}

/// Why a tenant of the file is not deleted, also where the control API made one of that id before.
pub fn not_deleted_in_file(id: &TenantId) -> String {
    format!("`{id}` is in tenants.toml: take it out there; `erase` removes what it has")
}

/// Why nothing is deleted, or erased, of an id.
pub fn unknown(tenant: &TenantId, deletes: bool) -> String {
    if deletes {
        format!("no tenant `{tenant}` was made here: `comfygate tenant list` shows them")
    } else {
        format!(
            "there is no tenant `{tenant}`, and nothing of a former one is left: `comfygate tenant list` shows them"
        )
    }
}

/// What is said of a tenant that is no more.
pub fn was_deleted(id: &TenantId, at: WallMillis) -> String {
    format!("tenant `{id}` was deleted on {}", at.date())
}

/// With its version as `ETag`, where it has one.
fn tagged(status: StatusCode, detail: TenantDetail) -> Response {
    let version = detail.tenant.version;
    let mut response = (status, Json(detail)).into_response();
    if let Some(Ok(tag)) = version.map(|version| format!("\"{version}\"").parse()) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reuse {
    #[serde(default)]
    reuse: bool,
}

async fn put(
    State(Desk { services, .. }): State<Desk>,
    Named(id): Named,
    Asked(Reuse { reuse }): Asked<Reuse>,
    headers: HeaderMap,
    Body(spec): Body<TenantSpec>,
) -> Result<Response, Refused> {
    let id = id.parse::<TenantId>().map_err(|error| Refused::new(Code::BadId, error.to_string()))?;
    let options = PutOptions { only_if: precondition(&headers)?, reuse };
    let tenants = services.tenants();
    let done = services.managed.put(&id, spec, &options, &tenants).await?;
    // What it is shown and let into may be another now.
    services.endings.tell(&Subject::Tenant(id.clone()));
    services.rules_changed();
    if done.row().disabled {
        sessions::end_of_tenant(&services, &id).await?;
    }
    let status = if matches!(done, Put::Made(..)) { StatusCode::CREATED } else { StatusCode::OK };
    let detail = detail_of(&services, &id).ok_or_else(|| no_tenant(&id))?;
    Ok(tagged(status, TenantDetail { warnings: done.warnings().to_vec(), ..detail }))
}

/// What `If-Match` and `If-None-Match` ask for. A list of tags is more than this takes.
fn precondition(headers: &HeaderMap) -> Result<OnlyIf, Refused> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let failed = |text: &str| Err(Refused::new(Code::Stale, text));
    if headers.contains_key(IF_NONE_MATCH) {
        return match text(IF_NONE_MATCH) {
            Some("*") => Ok(OnlyIf::New),
            _ => failed("`If-None-Match` takes `*` here"),
        };
    }
    if !headers.contains_key(IF_MATCH) {
        return Ok(OnlyIf::Anyhow);
    }
    let version = |tag: &str| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    match text(IF_MATCH) {
        Some("*") => Ok(OnlyIf::There),
        tag => tag.and_then(version).map_or_else(
            || failed("`If-Match` takes one `ETag` of this tenant, or `*`"),
            |version| Ok(OnlyIf::At(version)),
        ),
    }
}

impl From<PutError> for Refused {
    fn from(error: PutError) -> Self {
        let text = error.to_string();
        let code = match error {
            PutError::InFile(_) => Code::InFile,
            PutError::MadeId(_) => Code::MadeId,
            PutError::Erasing(_) => Code::Erasing,
            PutError::Tombstone { .. } => Code::IdWasDeleted,
            PutError::Leftovers { .. } => Code::IdHasLeftovers,
            PutError::ClaimMade { .. } => Code::ClaimOfTokenTenant,
            PutError::Stale { .. } | PutError::Exists(_) | PutError::Absent(_) => Code::Stale,
            PutError::Full { .. } => Code::TooManyTenants,
            PutError::Ledger(_) => Code::Unavailable,
            PutError::Faulty(faults) => return Self::new(Code::Faulty, text).with_faults(faults),
        };
        Self::new(code, text)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Erase {
    #[serde(default)]
    erase: bool,
}

async fn delete(
    State(Desk { services, dispatch }): State<Desk>,
    Named(id): Named,
    Asked(Erase { erase }): Asked<Erase>,
) -> Result<Response, Refused> {
    let id = id_of(&id)?;
    if services.tenants().registry().tenant(&id).is_some() {
        return Err(Refused::new(Code::InFile, not_deleted_in_file(&id)));
    }
    if is_made_id(&id) && services.created.row(&id).is_some() {
        let text =
            format!("a token made `{id}`, and the next one would again: disable it; `erase` removes what it has");
        return Err(Refused::new(Code::MadeByToken, text));
    }
    let Some(row) = services.managed.row(&id) else {
        // If it was deleted, it is as was wanted.
        let at = services.managed.deleted_at(&id, services.tenants().registry()).ok_or_else(|| no_tenant(&id))?;
        let none = ErasureRow::new(id, services.clock.wall(), true);
        let erasure = Erasure { deleted: true, deleted_at: Some(at), ..Erasure::so_far(&none) };
        return Ok(Json(erasure).into_response());
    };
    if let Some(text) = comes_again(&services.config(), &row) {
        return Err(Refused::new(Code::ClaimMakesTenants, text));
    }
    if !erase {
        let text = "this removes all files, history, userdata, keys and users for good: say `?erase=true`; `…/disable` only closes";
        return Err(Refused::new(Code::EraseMissing, text));
    }
    erased(&services, &dispatch, &id, true).await
}

async fn erase_tenant(State(Desk { services, dispatch }): State<Desk>, Named(id): Named) -> Result<Response, Refused> {
    let id = id_of(&id)?;
    // A slip in an id must not look like a duty that is done.
    if detail_of(&services, &id).is_none()
        && !services.managed.is_erasing(&id)
        && services.managed.leftovers(&id).await?.is_none()
    {
        return Err(not_there(&services, &id));
    }
    erased(&services, &dispatch, &id, false).await
}

async fn erased(
    services: &Arc<Services>,
    dispatch: &DispatchHandle,
    id: &TenantId,
    deletes: bool,
) -> Result<Response, Refused> {
    match erase::ask(services, dispatch, id, deletes).await {
        Ok(Erasing::Done(erasure)) => Ok(Json(erasure).into_response()),
        Ok(Erasing::GoesOn(row)) => Ok((StatusCode::ACCEPTED, Json(row)).into_response()),
        Err(error) => Err(Refused::unavailable(error)),
    }
}

async fn pause(
    State(desk): State<Desk>,
    Named(id): Named,
    Body(request): Body<HaltRequest>,
) -> Result<Json<TenantView>, Refused> {
    halted(&desk.services, &id, Act::Halt, request).await
}

async fn resume(
    State(desk): State<Desk>,
    Named(id): Named,
    Body(request): Body<HaltRequest>,
) -> Result<Json<TenantView>, Refused> {
    halted(&desk.services, &id, Act::Resume, request).await
}

async fn halted(services: &Services, id: &str, act: Act, request: HaltRequest) -> Result<Json<TenantView>, Refused> {
    let id = id_of(id)?;
    // One whose plan is gone from the file is shown all the same, and can be resumed.
    detail_of(services, &id).ok_or_else(|| no_tenant(&id))?;
    acted(services, Halted::Tenant(id.clone()), act, request).await?;
    shown(services, &id)
}

fn shown(services: &Services, id: &TenantId) -> Result<Json<TenantView>, Refused> {
    detail_of(services, id).map(|detail| Json(detail.tenant)).ok_or_else(|| no_tenant(id))
}

async fn disable(State(desk): State<Desk>, Named(id): Named) -> Result<Json<TenantView>, Refused> {
    set_disabled(&desk.services, &id, true).await
}

async fn enable(State(desk): State<Desk>, Named(id): Named) -> Result<Json<TenantView>, Refused> {
    set_disabled(&desk.services, &id, false).await
}

async fn set_disabled(services: &Services, id: &str, disabled: bool) -> Result<Json<TenantView>, Refused> {
    let id = id_of(id)?;
    if services.tenants().registry().tenant(&id).is_some() {
        return Err(Refused::not_found(format!("`{id}` is in tenants.toml: set `disabled` there, and reload")));
    }
    let known = services.managed.set_disabled(&id, disabled).await?.is_some();
    if !known && services.created.set_disabled(&id, disabled).await?.is_none() {
        return Err(no_tenant(&id));
    }
    services.endings.tell(&Subject::Tenant(id.clone()));
    if disabled {
        sessions::end_of_tenant(services, &id).await?;
    }
    shown(services, &id)
}
