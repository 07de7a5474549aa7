//! `/object_info`: what all backends of the caller's have, as one, cut to what its policy allows, with its own files in the lists.

use super::Call;
use super::turns::Turns;
use crate::deliver::answer::Answer;
use crate::deliver::state::object_info::{self, Rules, Source};
use crate::deliver::state::offers::Template;
use crate::deliver::views::file;
use crate::dispatch::backend::{Backend, BackendState};
use crate::dispatch::comfyui::query_encoded;
use crate::ids::BackendId;
use crate::inspect::contents::ContentFamily;
use crate::owner::Scope;
use crate::record::ledger::Directory;
use crate::reject::Rejection;
use bytes::Bytes;
use comfygate_policy::{Agreement, Catalogue, Digest, Policy};
use futures_util::{StreamExt, stream};
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a client waits before it asks for a backend again.
const NO_BACKEND_RETRY: Duration = Duration::from_secs(5);
/// How many whole ones are kept, of a couple of megabytes each: pools times policies.
const WHOLE_MAX: usize = 16;
/// How many of a single class are kept.
const CLASSES_MAX: usize = 64;
/// The path of a whole one.
const WHOLE: &str = "/object_info";
/// How long one is good: new models show after that. A caller's own uploads are put in each time.
const LIFETIME: Duration = Duration::from_secs(60);
/// Backends that are asked at once.
const ASKED_AT_ONCE: usize = 8;
/// How long a backend may take: ComfyUI makes it on its event loop, from the disk. One that takes longer is left out.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// `GET /object_info`.
pub(super) async fn whole(call: &Call<'_>) -> Result<Answer, Rejection> {
    answered(call, WHOLE).await
}

/// The same as text, for what follows from it.
pub(super) async fn text(call: &Call<'_>) -> Result<Bytes, Rejection> {
    Ok(template(call, WHOLE).await?.filled(&[]))
}

/// `GET /object_info/{class}`: `{}` for an unknown or denied one, as ComfyUI does for unknown ones.
pub(super) async fn class(call: &Call<'_>) -> Result<Answer, Rejection> {
    let class = call.matched.params.named("class").unwrap_or_default();
    let tenant = &call.caller()?.tenant;
    let mut catalogues = call.services.backends_of(tenant).into_iter();
    let known = catalogues.find_map(|backend| {
        let catalogue = call.services.catalogue_at(tenant, &backend)?;
        catalogue.class(class).map(|class| class.name().to_owned())
    });
    match known {
        // Only a name that the catalogue knows goes into a path upstream.
        Some(known) => answered(call, &format!("/object_info/{}", query_encoded(&known))).await,
        None => Ok(Answer::json(StatusCode::OK, &json!({}))),
    }
}

/// Answers that were made lately: the page asks for megabytes at each load, and a backend stalls while it makes them.
#[derive(Debug, Default)]
pub struct ObjectInfos {
    turns: Turns,
    kept: Mutex<VecDeque<(Key, Instant, Arc<Template>)>>,
}

/// Which configuration's, of which backends, under which policy, which path. One that is being made while the configuration is read again is kept under the former.
type Key = (u64, Vec<BackendId>, Digest, String);

impl ObjectInfos {
    fn find(&self, key: &Key, now: Instant) -> Option<Arc<Template>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |at: Instant| now.saturating_duration_since(at) < LIFETIME;
        kept.iter().find(|(known, at, _)| known == key && fresh(*at)).map(|(_, _, kept)| Arc::clone(kept))
    }

    /// Forgets all: policies, catalogue or backends are others now.
    pub fn clear(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keep(&self, key: Key, now: Instant, template: Arc<Template>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _, _)| *known != key);
        kept.push_back((key, now, template));
        for (whole, max) in [(true, WHOLE_MAX), (false, CLASSES_MAX)] {
            let is_such = |(known, _, _): &(Key, Instant, Arc<Template>)| (known.3 == WHOLE) == whole;
            if kept.iter().filter(|one| is_such(one)).count() > max
                && let Some(oldest) = kept.iter().position(is_such)
            {
                kept.remove(oldest);
            }
        }
    }
}

async fn template(call: &Call<'_>, path: &str) -> Result<Arc<Template>, Rejection> {
    let tenant = call.caller()?.tenant.clone();
    let policy = call.services.policy_of(&tenant);
    let mut up = call.services.backends_of(&tenant);
    up.retain(|backend| backend.is_up());
    let ids = up.iter().map(|backend| backend.id.clone()).collect();
    let key = (call.services.live().generation, ids, policy.digest(), path.to_owned());
    let kept = || call.services.object_infos.find(&key, call.services.clock.monotonic());
    if let Some(template) = kept() {
        return Ok(template);
    }
    let turn = call.services.object_infos.turns.of(&key.1);
    let _turn = turn.lock().await;
    if let Some(template) = kept() {
        return Ok(template);
    }
    let asked_at = call.services.clock.monotonic();
    let asked = up.iter().filter_map(|backend| {
        let BackendState::Up { agreement } = &*backend.state() else { return None };
        let known = Known {
            agreement: Arc::clone(agreement),
            catalogue: call.services.catalogue_at(&tenant, backend)?,
            policy: Arc::clone(&policy),
            owner: tenant.is_owner(),
        };
        Some(async move { Some((asked(backend, path).await?, known)) })
    });
    let asked: Vec<_> = asked.collect();
    let answers: Vec<_> =
        stream::iter(asked).buffered(ASKED_AT_ONCE).filter_map(|answer| async { answer }).collect().await;
    if answers.is_empty() {
        return Err(Rejection::unavailable(
            "no_backend",
            "no backend answers now: try again after `Retry-After`",
            NO_BACKEND_RETRY,
        ));
    }
    let owner = tenant.is_owner();
    let work = tokio::task::spawn_blocking(move || {
        let catalogues = answers.iter().map(|(_, known)| Arc::clone(&known.catalogue)).collect();
        let sources =
            answers.into_iter().map(|(live, known)| Source { live, allowed: move |class: &str| known.allows(class) });
        // Random: nothing that a backend lists can hold it on purpose.
        object_info::filtered(sources.collect(), &Models { policy, catalogues }, &Uuid::new_v4().to_string(), owner)
    });
    let template = work.await.map_err(|error| Rejection::internal(error.to_string()))?;
    let template = Arc::new(template.map_err(|error| Rejection::internal(error.to_string()))?);
    call.services.object_infos.keep(key, asked_at, Arc::clone(&template));
    Ok(template)
}

async fn asked(backend: &Backend, path: &str) -> Option<Bytes> {
    match tokio::time::timeout(ANSWER_MAX, backend.comfyui.catalogue(path)).await {
        Ok(Ok(live)) => return Some(live),
        Ok(Err(error)) => tracing::warn!(backend = %backend.id, %error, "no object_info"),
        Err(_) => tracing::warn!(backend = %backend.id, limit = ?ANSWER_MAX, "no object_info in time"),
    }
    None
}

/// What says which classes of a backend a tenant may see.
struct Known {
    agreement: Arc<Agreement>,
    catalogue: Arc<Catalogue>,
    policy: Arc<Policy>,
    owner: bool,
}

impl Known {
    fn allows(&self, class: &str) -> bool {
        (self.owner || self.agreement.agrees(class))
            && self.catalogue.class(class).is_some_and(|class| self.policy.allows_class(class))
    }
}

/// Models by the tenant's policy. Backends of one pool agree on what a class is, but for an owner's.
struct Models {
    policy: Arc<Policy>,
    catalogues: Vec<Arc<Catalogue>>,
}

impl Models {
    fn class(&self, name: &str) -> Option<&comfygate_policy::ClassSignature> {
        self.catalogues.iter().find_map(|catalogue| catalogue.class(name))
    }
}

impl Rules for Models {
    fn is_model(&self, class: &str, input: &str, option: &str) -> bool {
        self.class(class).is_some_and(|class| class.offers_model(input, option))
    }

    fn offers(&self, class: &str, input: &str, option: &str) -> bool {
        self.class(class).is_some_and(|class| self.policy.offers(class, input, option))
    }
}

/// The answer with the caller's own uploads in its lists: 304 for who has it, compressed for who takes that.
async fn answered(call: &Call<'_>, path: &str) -> Result<Answer, Rejection> {
    let template = template(call, path).await?;
    let files = if template.is_personal() { own_files(call).await? } else { Vec::new() };
    let gzip = takes_gzip(call.headers);
    let etag = format!("\"{}{}\"", template.digest(&files), if gzip { "-gzip" } else { "" });
    let mut answer = if file::has(call.headers, &etag) {
        Answer::empty(StatusCode::NOT_MODIFIED)
    } else if gzip {
        Answer::bytes(StatusCode::OK, "application/json", template.filled_gzip(&files))
    } else {
        Answer::bytes(StatusCode::OK, "application/json", template.filled(&files))
    };
    if gzip && answer.status == StatusCode::OK {
        answer.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer.headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    // Kept by the caller's own browser only, and asked for again each time.
    answer.headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        answer.headers.insert(ETAG, etag);
    }
    Ok(answer)
}

async fn own_files(call: &Call<'_>) -> Result<Vec<(String, ContentFamily)>, Rejection> {
    if crate::authenticate::require(&call.caller()?.principal, Scope::Files).is_err() {
        return Ok(Vec::new());
    }
    let rows = call.services.ledger.top_files(&call.scope()?, Directory::Input).await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.filename, row.facts?.kind.family()))).collect())
}

/// RFC 9110 §12.5.3: `gzip` or `*` with a weight above 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values: Vec<&str> = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).collect();
    let weight = |coding: &str| {
        let mut named = None;
        for one in values.iter().flat_map(|value| value.split(',')) {
            let mut parts = one.split(';').map(str::trim);
            if parts.next().is_some_and(|name| name.eq_ignore_ascii_case(coding)) {
                let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
                named = Some(q.is_none_or(|q| q.parse::<f32>().is_ok_and(|q| q > 0.0)));
            }
        }
        named
    };
    weight("gzip").or_else(|| weight("*")).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_who_says_so() {
        let takes = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            takes_gzip(&headers)
        };
        for value in ["gzip", "br, GZip;q=0.1", "*", "deflate, *;q=1", "gzip ; q=0.001"] {
            assert!(takes(value), "{value}");
        }
        for value in ["", "br", "gzip;q=0", "gzip;q=0, *", "*;q=0.0", "gzip;q=x", "xgzip"] {
            assert!(!takes(value), "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
