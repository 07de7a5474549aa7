//! Answers about the gateway and its backends, scrubbed of what is no tenant's business.

use super::Call;
use crate::budget::{Charge, Spending};
use crate::config::{CertificateConfig, ListenConfig, ListenKind};
use crate::deliver::answer::Answer;
use crate::deliver::state::system;
use crate::dispatch::outlook;
use crate::listen::own_ca;
use crate::owner::Scope;
use crate::reject::Rejection;
use http::header::CONTENT_DISPOSITION;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a client waits before it asks for a backend again.
const NO_BACKEND_RETRY: Duration = Duration::from_secs(5);

/// `POST /free`: models and caches belong to all, so a tenant's wish changes nothing; the page's button gets its 200 (facts §11, 99). An owner's frees its own backends.
pub(super) async fn free(call: &Call<'_>) -> Result<Answer, Rejection> {
    let tenant = &call.caller()?.tenant;
    if !tenant.is_owner() {
        return Ok(Answer::empty(StatusCode::OK));
    }
    crate::authenticate::require(&call.caller()?.principal, Scope::Submit)?;
    let wish: Wish = if call.body.is_empty() { Wish::default() } else { read(&call.body)? };
    for backend in call.services.backends_of(tenant).iter().filter(|backend| backend.is_up()) {
        backend.models_unloaded();
        if let Err(error) = backend.comfyui.free(wish.unload_models, wish.free_memory).await {
            tracing::warn!(backend = %backend.id, %error, "models could not be unloaded");
        }
    }
    Ok(Answer::empty(StatusCode::OK))
}

/// The body of `POST /free` (server.py `post_free`, 0.8.0).
#[derive(Debug, Default, Deserialize)]
struct Wish {
    #[serde(default)]
    unload_models: bool,
    #[serde(default)]
    free_memory: bool,
}

/// The body of `PATCH /internal/logs/subscribe` (api_server/routes/internal/internal_routes.py, 0.8.0). `clientId` is the page's: its events come through our own socket.
#[derive(Debug, Deserialize)]
struct LogsWish {
    enabled: bool,
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Rejection> {
    serde_json::from_slice(body).map_err(|error| Rejection::new(StatusCode::BAD_REQUEST, "bad_body", error.to_string()))
}

/// `GET /internal/logs` for a tenant: ComfyUI's empty log.
pub(super) fn logs() -> Result<Answer, Rejection> {
    Ok(Answer::json(StatusCode::OK, &json!("")))
}

/// `GET /internal/logs/raw` for a tenant: ComfyUI's empty log on a terminal of ordinary size.
pub(super) fn raw_logs() -> Result<Answer, Rejection> {
    Ok(Answer::json(StatusCode::OK, &json!({"entries": [], "size": {"cols": 80, "rows": 24}})))
}

/// `PATCH /internal/logs/subscribe`: an owner's backends send their log to our socket, from where it reaches the owner's pages; a tenant's page gets its 200 and nothing.
pub(super) async fn subscribe_logs(call: &Call<'_>) -> Result<Answer, Rejection> {
    let wish: LogsWish = read(&call.body)?;
    let tenant = &call.caller()?.tenant;
    if tenant.is_owner() {
        // One switch for all pages of the tenant: not for a key that only looks on.
        crate::authenticate::require(&call.caller()?.principal, Scope::Submit)?;
        for backend in call.services.backends_of(tenant).iter().filter(|backend| backend.is_up()) {
            if let Err(error) = backend.comfyui.subscribe_logs(backend.client, wish.enabled).await {
                tracing::warn!(backend = %backend.id, %error, "the log could not be subscribed");
            }
        }
    }
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
    let tenant = &call.caller()?.tenant;
    for backend in call.services.backends_of(tenant).iter().filter(|backend| backend.is_up()) {
        match backend.comfyui.system_stats().await {
            Ok(stats) if tenant.is_owner() => return Ok(Answer::json(StatusCode::OK, &stats)),
            Ok(stats) => return Ok(Answer::json(StatusCode::OK, &system::scrubbed_stats(&stats))),
            Err(error) => tracing::warn!(backend = %backend.id, %error, "no system_stats"),
        }
    }
    Err(Rejection::unavailable("no_backend", "no backend answers now: try again after `Retry-After`", NO_BACKEND_RETRY))
}

/// `GET /gate/health`: that this process answers; no detail for strangers.
pub(super) fn health() -> Result<Answer, Rejection> {
    Ok(Answer::json(StatusCode::OK, &json!({"status": "ok"})))
}

/// `GET /gate/ca.crt`: the CA that was made here, for devices that are to trust it; 404 where every certificate is configured.
pub(super) fn ca_certificate(call: &Call<'_>) -> Result<Answer, Rejection> {
    let config = call.services.config();
    let made = |listener: &ListenConfig| listener.kind == ListenKind::Tls(CertificateConfig::Made);
    let pem = config.listen.iter().any(made).then(|| own_ca::made_ca(&config.state_dir)).flatten();
    let pem = pem.ok_or_else(Rejection::not_found)?;
    let mut answer = Answer::bytes(StatusCode::OK, "application/x-x509-ca-cert", pem.into());
    answer.headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"comfygate-ca.crt\""));
    Ok(answer)
}

/// In GPU seconds; no limit is `null`.
fn spending(spending: Spending, limit: Option<Charge>) -> Value {
    json!({
        "used_seconds": spending.used.seconds(),
        "reserved_seconds": spending.reserved.seconds(),
        "limit_seconds": limit.map(Charge::seconds),
    })
}

/// `GET /gate/me`: who the caller is to the gateway, and its limits.
pub(super) async fn me(call: &Call<'_>) -> Result<Answer, Rejection> {
    let caller = call.caller()?;
    let active = call.services.ledger.queue(&call.scope()?).await?;
    let outlook = call.services.outlook.load_full();
    let held = active.iter().filter_map(|prompt| Some((&prompt.job().prompt_id, outlook.of(prompt.job().id)?)));
    let (now, budget) = (call.services.clock.wall(), caller.tenant.limits.budget);
    let (tenant, user) = call.services.ledger.spending(&call.personal()?, budget.period, now).await?;
    let uploaded = call.services.ledger.uploaded_bytes(&caller.tenant.id).await?;
    let stored = call.services.ledger.result_bytes(&caller.tenant.id).await?;
    let owner = &caller.principal.owner;
    let limits = &caller.tenant.limits;
    let body = json!({
        "tenant": owner.tenant,
        "user": owner.user,
        "credential": caller.principal.credential.name(),
        "session": caller.principal.credential.session().map(|session| {
            json!({"idle_until": session.idle_until, "ends_at": session.ends_at})
        }),
        "scopes": caller.principal.scopes,
        "plan": caller.tenant.plan,
        "policy": caller.tenant.policy.name(),
        "limits": {
            "prompt_rate_per_second": limits.prompt_rate.per_second,
            "prompt_rate_burst": limits.prompt_rate.burst,
            "active_jobs_max": limits.active_jobs_max,
            "running_jobs_max": (limits.running_jobs_max < u32::MAX).then_some(limits.running_jobs_max),
            "storage_bytes_max": limits.storage_bytes_max,
        },
        "retention": {
            "files_seconds": limits.retention.files.map(|age| age.as_secs()),
            "history_seconds": limits.retention.history.or(limits.retention.files).map(|age| age.as_secs()),
            "result_bytes_max": limits.retention.result_bytes_max,
        },
        "uploaded_bytes": uploaded,
        "result_bytes": stored,
        "queue_remaining": active.len(),
        "queue": outlook::shown(held),
        "budget": {
            "period": budget.period,
            "renews_at": budget.period.renews_at(now),
            "tenant": spending(tenant, budget.tenant),
            "user": spending(user, budget.user),
        },
        "users": caller.tenant.access.users,
        "sees": if owner.shared { "tenant" } else { "own" },
        "paused": call.services.tenant_paused(&owner.tenant),
    });
    Ok(Answer::json(StatusCode::OK, &body))
}
