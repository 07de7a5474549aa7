//! Answers about the gateway and its backends, scrubbed of what is no tenant's business.

use super::Call;
use crate::deliver::answer::Answer;
use crate::deliver::state::system;
use crate::dispatch::backend::BackendState;
use crate::ids::BackendId;
use crate::reject::Rejection;
use bytes::Bytes;
use comfygate_policy::Digest;
use http::StatusCode;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a client waits before it asks for a backend again.
const NO_BACKEND_RETRY: Duration = Duration::from_secs(5);

/// `POST /free`: models and caches belong to all, so a tenant's wish changes nothing; the page's button gets its 200 (facts §11, 99).
pub(super) fn free() -> Result<Answer, Rejection> {
    Ok(Answer::empty(StatusCode::OK))
}

/// `GET /users`: what single-user ComfyUI answers; whoever asks is logged in already.
pub(super) fn users() -> Result<Answer, Rejection> {
    Ok(Answer::json(StatusCode::OK, &system::users()))
}

/// `GET /features`: our own limits.
pub(super) fn features(call: &Call<'_>) -> Result<Answer, Rejection> {
    Ok(Answer::json(StatusCode::OK, &system::features(call.services.config().limits.upload_bytes_max)))
}

/// `GET /internal/folder_paths`: the page asks while loading; names without paths.
pub(super) fn folder_paths() -> Result<Answer, Rejection> {
    Ok(Answer::json(StatusCode::OK, &system::folder_paths()))
}

/// `GET /system_stats` of the first backend that answers, without arguments, paths and versions of the host.
pub(super) async fn system_stats(call: &Call<'_>) -> Result<Answer, Rejection> {
    for backend in call.services.backends().values().filter(|backend| backend.is_up()) {
        match backend.comfyui.system_stats().await {
            Ok(stats) => return Ok(Answer::json(StatusCode::OK, &system::scrubbed_stats(&stats))),
            Err(error) => tracing::warn!(backend = %backend.id, %error, "no system_stats"),
        }
    }
    Err(Rejection::unavailable("no_backend", "no backend answers now", NO_BACKEND_RETRY))
}

/// `GET /object_info`: a backend's own, without the classes that the tenant's policy denies or that differ from the catalogue there.
pub(super) async fn object_info(call: &Call<'_>) -> Result<Answer, Rejection> {
    filtered(call, "/object_info").await
}

/// `GET /object_info/{class}`: `{}` for an unknown or denied one, as ComfyUI does for unknown ones.
pub(super) async fn object_info_class(call: &Call<'_>) -> Result<Answer, Rejection> {
    let class = call.matched.params.named("class").unwrap_or_default();
    match call.services.inspector().catalogue().class(class) {
        // Only a name that the catalogue knows goes into a path upstream.
        Some(known) => filtered(call, &format!("/object_info/{}", known.name())).await,
        None => Ok(Answer::json(StatusCode::OK, &json!({}))),
    }
}

/// Filtered answers of `/object_info` that were given lately: the page asks for megabytes at each load, and a backend stalls while it makes them.
#[derive(Debug, Default)]
pub struct ObjectInfos {
    turn: tokio::sync::Mutex<()>,
    kept: Mutex<VecDeque<(ObjectInfoKey, Instant, Bytes)>>,
}

/// Which backend's, under which policy, which path.
type ObjectInfoKey = (BackendId, Digest, String);

/// How many are kept: a handful of policies, or of classes.
const OBJECT_INFOS_MAX: usize = 8;
/// How long one is good: new models and uploads show after that.
const OBJECT_INFO_LIFETIME: Duration = Duration::from_secs(60);

impl ObjectInfos {
    fn find(&self, key: &ObjectInfoKey, now: Instant) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |at: Instant| now.saturating_duration_since(at) < OBJECT_INFO_LIFETIME;
        kept.iter().find(|(known, at, _)| known == key && fresh(*at)).map(|(_, _, body)| body.clone())
    }

    /// Forgets all: policies, catalogue or backends are others now.
    pub fn clear(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keep(&self, key: ObjectInfoKey, now: Instant, body: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _, _)| *known != key);
        kept.push_back((key, now, body));
        while kept.len() > OBJECT_INFOS_MAX {
            kept.pop_front();
        }
    }
}

async fn filtered(call: &Call<'_>, path: &str) -> Result<Answer, Rejection> {
    let tenant = call.caller()?.tenant.clone();
    for backend in call.services.backends().values() {
        let BackendState::Up { agreement } = &*backend.state() else { continue };
        let key = (backend.id.clone(), tenant.policy.digest(), path.to_owned());
        let now = call.services.clock.monotonic();
        if let Some(body) = call.services.object_infos.find(&key, now) {
            return Ok(Answer::bytes(StatusCode::OK, "application/json", body));
        }
        // One at a time: ComfyUI makes it on its event loop, from the disk.
        let _turn = call.services.object_infos.turn.lock().await;
        if let Some(body) = call.services.object_infos.find(&key, now) {
            return Ok(Answer::bytes(StatusCode::OK, "application/json", body));
        }
        let live = match backend.comfyui.catalogue(path).await {
            Ok(live) => live,
            Err(error) => {
                tracing::warn!(backend = %backend.id, %error, "no object_info");
                continue;
            }
        };
        let (services, tenant, agreement) = (Arc::clone(call.services), Arc::clone(&tenant), Arc::clone(agreement));
        let work = tokio::task::spawn_blocking(move || {
            let inspector = services.inspector();
            let catalogue = inspector.catalogue();
            let allowed = |class: &str| {
                agreement.agrees(class) && catalogue.class(class).is_some_and(|class| tenant.policy.allows_class(class))
            };
            system::filter_object_info(&live, allowed)
        });
        let body = work.await.map_err(|error| Rejection::internal(error.to_string()))?;
        let body = body.map_err(|error| Rejection::internal(error.to_string()))?;
        call.services.object_infos.keep(key, call.services.clock.monotonic(), body.clone());
        return Ok(Answer::bytes(StatusCode::OK, "application/json", body));
    }
    Err(Rejection::unavailable("no_backend", "no backend answers now", NO_BACKEND_RETRY))
}

/// `GET /gate/health`: that this process answers; no detail for strangers.
pub(super) fn health() -> Result<Answer, Rejection> {
    Ok(Answer::json(StatusCode::OK, &json!({"status": "ok"})))
}

/// `GET /gate/me`: who the caller is to the gateway, and its limits.
pub(super) async fn me(call: &Call<'_>) -> Result<Answer, Rejection> {
    let caller = call.caller()?;
    let queue = call.services.ledger.queue_remaining(&call.scope()?).await?;
    let owner = &caller.principal.owner;
    let limits = &caller.tenant.limits;
    let body = json!({
        "tenant": owner.tenant,
        "user": owner.user,
        "credential": caller.principal.credential.name(),
        "scopes": caller.principal.scopes,
        "plan": caller.tenant.plan,
        "policy": caller.tenant.policy.name(),
        "limits": {
            "prompt_rate_per_second": limits.prompt_rate.per_second,
            "prompt_rate_burst": limits.prompt_rate.burst,
            "active_jobs_max": limits.active_jobs_max,
        },
        "queue_remaining": queue,
    });
    Ok(Answer::json(StatusCode::OK, &body))
}
