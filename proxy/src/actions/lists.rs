//! Lists that backends make and the page reads: models, and what node packs bring. Each is cut to what the caller's policy allows before anybody sees it,
//! and kept for a minute. Models are those of all backends that are up, as in `/object_info`; what packs bring is of the first.

use super::turns::Turns;
use super::{Call, object_info};
use crate::deliver::answer::Answer;
use crate::deliver::state::{StateError, models, packs, userdata};
use crate::deliver::views;
use crate::dispatch::backend::Backend;
use crate::dispatch::comfyui::ComfyUiError;
use crate::ids::BackendId;
use crate::reject::Rejection;
use bytes::Bytes;
use comfygate_policy::Digest;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use serde_json::json;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a client waits before it asks for a backend again.
const NO_BACKEND_RETRY: Duration = Duration::from_secs(5);
/// How long a list is good: new models show after that.
const LIFETIME: Duration = Duration::from_secs(60);
/// Lists that are kept: a few policies, times some twenty folders.
const LISTS_MAX: usize = 128;
/// Their bytes together.
const LISTS_BYTES_MAX: usize = 32 << 20;

/// Which configuration's, of which backends, under which policy, which path.
type Key = (u64, Vec<BackendId>, Digest, String);
/// Backends that are asked at once.
const ASKED_AT_ONCE: usize = 8;

/// Lists that were made lately, by what they were cut to.
#[derive(Debug, Default)]
pub struct Lists {
    turns: Turns,
    kept: Mutex<VecDeque<Kept>>,
}

#[derive(Debug)]
struct Kept {
    key: Key,
    at: Instant,
    list: List,
}

/// What is kept.
#[derive(Debug, Clone)]
enum List {
    Body(Bytes),
    /// No backend has it.
    Nothing,
    /// The names that a policy's `object_info` offers.
    Offered(Arc<HashSet<String>>),
}

impl List {
    fn bytes(&self) -> usize {
        match self {
            Self::Body(body) => body.len(),
            Self::Nothing => 0,
            Self::Offered(names) => names.iter().map(|name| name.len() + size_of::<String>()).sum(),
        }
    }
}

impl Lists {
    fn find(&self, key: &Key, now: Instant) -> Option<List> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |at: Instant| now.saturating_duration_since(at) < LIFETIME;
        kept.iter().find(|kept| kept.key == *key && fresh(kept.at)).map(|kept| kept.list.clone())
    }

    /// Forgets all: policies, catalogue or backends are others now.
    pub fn clear(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keep(&self, key: Key, at: Instant, list: List) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|known| known.key != key);
        kept.push_back(Kept { key, at, list });
        while kept.len() > LISTS_MAX || kept.iter().map(|kept| kept.list.bytes()).sum::<usize>() > LISTS_BYTES_MAX {
            if kept.pop_front().is_none() {
                return;
            }
        }
    }
}

/// `GET /models`.
pub(super) async fn model_folders(call: &Call<'_>) -> Result<Answer, Rejection> {
    listed(call, "/models", Asked::All, models::folders).await
}

/// `GET /experiment/models`.
pub(super) async fn model_folder_details(call: &Call<'_>) -> Result<Answer, Rejection> {
    listed(call, "/experiment/models", Asked::All, models::folder_details).await
}

/// `GET /embeddings`.
pub(super) async fn embeddings(call: &Call<'_>) -> Result<Answer, Rejection> {
    let policy = call.services.policy_of(&call.caller()?.tenant);
    listed(call, "/embeddings", Asked::All, move |live| models::embeddings(live, |name| policy.offers_embedding(name)))
        .await
}

/// `GET /models/{folder}`.
pub(super) async fn models(call: &Call<'_>) -> Result<Answer, Rejection> {
    let Some(folder) = model_folder(call) else { return Ok(Answer::empty(StatusCode::NOT_FOUND)) };
    let offered = offered(call).await?;
    listed(call, &format!("/models/{folder}"), Asked::All, move |live| models::names(live, &offered)).await
}

/// `GET /experiment/models/{folder}`.
pub(super) async fn model_details(call: &Call<'_>) -> Result<Answer, Rejection> {
    let Some(folder) = model_folder(call) else { return Ok(Answer::empty(StatusCode::NOT_FOUND)) };
    let offered = offered(call).await?;
    listed(call, &format!("/experiment/models/{folder}"), Asked::All, move |live| models::details(live, &offered)).await
}

/// `GET /view_metadata/{folder}?filename=`: what a model's file says of itself, of a model that is offered. All others answer like one that is not there.
pub(super) async fn model_metadata(call: &Call<'_>) -> Result<Answer, Rejection> {
    let none = || Ok(Answer::empty(StatusCode::NOT_FOUND));
    let filename = call.matched.query.value("filename").unwrap_or_default();
    let Some(folder) = model_folder(call) else { return none() };
    if !filename.ends_with(".safetensors") || !offered(call).await?.contains(filename) {
        return none();
    }
    let up = up(call)?;
    let mut failed = up.is_empty().then(no_backend);
    for backend in up {
        match backend.comfyui.model_metadata(folder, filename).await {
            Ok(live) => {
                let body = tokio::task::spawn_blocking(move || models::metadata(&live)).await;
                let body = body.map_err(|error| Rejection::internal(error.to_string()))??;
                return Ok(Answer::bytes(StatusCode::OK, "application/json", body));
            }
            // Another one may have it.
            Err(ComfyUiError::Status { status, .. }) if status == StatusCode::NOT_FOUND => {}
            Err(error) => failed = Some(no_backend().with_log(format!("{}: no metadata: {error}", backend.id))),
        }
    }
    failed.map_or_else(none, Err)
}

/// `GET /i18n`.
pub(super) async fn translations(call: &Call<'_>) -> Result<Answer, Rejection> {
    let allowed = allowed_classes(call)?;
    if allowed.is_empty() {
        return Ok(Answer::json(StatusCode::OK, &json!({})));
    }
    listed(call, "/i18n", Asked::First, move |live| packs::translations(first(live), |class| allowed.contains(class)))
        .await
}

/// `GET /workflow_templates`.
pub(super) async fn templates(call: &Call<'_>) -> Result<Answer, Rejection> {
    let allowed = allowed_packs(call)?;
    if allowed.is_empty() {
        return Ok(Answer::json(StatusCode::OK, &json!({})));
    }
    listed(call, "/workflow_templates", Asked::First, move |live| packs::templates(first(live), &allowed)).await
}

/// `GET /api/workflow_templates/{pack}/{file}`: a workflow, or its picture.
pub(super) async fn template_file(call: &Call<'_>) -> Result<Answer, Rejection> {
    let file = call.matched.params.named("file").unwrap_or_default();
    let pack = file.split('/').next().unwrap_or_default();
    let kind = if file.ends_with(".json") { "application/json" } else { views::content_type(file) };
    if kind == views::OCTET_STREAM || !allowed_packs(call)?.contains(pack) {
        return Ok(Answer::empty(StatusCode::NOT_FOUND));
    }
    // Built from the segments that were matched, never the caller's own spelling. ComfyUI has these files under `/api` only.
    match fetched(call, &format!("/api{}", call.matched.path.encoded())).await? {
        Some(body) => {
            let mut answer = Answer::bytes(StatusCode::OK, kind, body);
            userdata::harmless(&mut answer.headers);
            Ok(answer)
        }
        None => Ok(Answer::empty(StatusCode::NOT_FOUND)),
    }
}

/// `GET /global_subgraphs`.
pub(super) async fn subgraphs(call: &Call<'_>) -> Result<Answer, Rejection> {
    let allowed = allowed_packs(call)?;
    if allowed.is_empty() {
        return Ok(Answer::json(StatusCode::OK, &json!({})));
    }
    listed(call, "/global_subgraphs", Asked::First, move |live| packs::subgraphs(first(live), &allowed)).await
}

/// `GET /global_subgraphs/{id}`.
pub(super) async fn subgraph(call: &Call<'_>) -> Result<Answer, Rejection> {
    let id = call.matched.params.named("id").unwrap_or_default();
    let allowed = allowed_packs(call)?;
    if allowed.is_empty() || !packs::is_subgraph_id(id) {
        return Ok(Answer::json(StatusCode::OK, &json!(null)));
    }
    listed(call, &format!("/global_subgraphs/{id}"), Asked::First, move |live| packs::subgraph(first(live), &allowed))
        .await
}

/// `GET /node_replacements`: none. A backend that has some would swap classes after our check, so then we do not say that it has none.
pub(super) async fn node_replacements(call: &Call<'_>) -> Result<Answer, Rejection> {
    let none = match fetched(call, "/node_replacements").await? {
        None => true,
        Some(body) => serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|found| found == json!({})),
    };
    if none {
        Ok(Answer::json(StatusCode::OK, &json!({})))
    } else {
        Err(Rejection::not_yet("the backend replaces node classes: served once policies apply the same mapping"))
    }
}

fn model_folder<'a>(call: &'a Call<'_>) -> Option<&'a str> {
    call.matched.params.named("folder").filter(|folder| models::is_folder(folder))
}

/// Names of the classes of node packs that the caller's policy allows.
fn allowed_classes(call: &Call<'_>) -> Result<BTreeSet<String>, Rejection> {
    allowed(call, |class, _| class.to_owned())
}

/// Folders of the node packs of which the caller's policy allows a class.
fn allowed_packs(call: &Call<'_>) -> Result<BTreeSet<String>, Rejection> {
    allowed(call, |_, pack| pack.to_owned())
}

fn allowed(call: &Call<'_>, name: impl Fn(&str, &str) -> String) -> Result<BTreeSet<String>, Rejection> {
    let policy = call.services.policy_of(&call.caller()?.tenant);
    let catalogue = call.services.inspector().catalogue_of(&call.caller()?.tenant.pool);
    let classes = catalogue.classes().filter(|class| policy.allows_class(class));
    let of_packs = classes.filter_map(|class| Some(name(class.name(), class.module().strip_prefix("custom_nodes.")?)));
    Ok(of_packs.collect())
}

/// What the caller's own `/object_info` offers to choose from: no list of models shows more.
async fn offered(call: &Call<'_>) -> Result<Arc<HashSet<String>>, Rejection> {
    let key = key(call, "offered")?;
    let now = call.services.clock.monotonic();
    if let Some(List::Offered(names)) = call.services.lists.find(&key, now) {
        return Ok(names);
    }
    let text = object_info::text(call).await?;
    let read = tokio::task::spawn_blocking(move || models::offered(&text)).await;
    let names = Arc::new(read.map_err(|error| Rejection::internal(error.to_string()))??);
    call.services.lists.keep(key, now, List::Offered(Arc::clone(&names)));
    Ok(names)
}

/// Which backends a list is of.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// The first that answers.
    First,
    /// All that are up.
    All,
}

/// The list of [`Asked::First`]; never called without any.
fn first(live: &[Bytes]) -> &[u8] {
    live.first().map_or(&[], |live| live)
}

/// Lists of backends, made one by `cut`, kept for a minute under the caller's policy; 404 for what no backend has.
async fn listed(
    call: &Call<'_>,
    path: &str,
    asked: Asked,
    cut: impl FnOnce(&[Bytes]) -> Result<Bytes, StateError> + Send + 'static,
) -> Result<Answer, Rejection> {
    let json = |body| Ok(Answer::bytes(StatusCode::OK, "application/json", body));
    let nothing = || Ok(Answer::empty(StatusCode::NOT_FOUND));
    let now = call.services.clock.monotonic();
    let key = key(call, path)?;
    let known = || match call.services.lists.find(&key, now) {
        Some(List::Body(body)) => Some(Some(body)),
        Some(List::Nothing) => Some(None),
        _ => None,
    };
    if let Some(known) = known() {
        return known.map_or_else(nothing, json);
    }
    // One at a time: ComfyUI makes it on its event loop, from the disk.
    let turn = call.services.lists.turns.of(&key.1);
    let _turn = turn.lock().await;
    if let Some(known) = known() {
        return known.map_or_else(nothing, json);
    }
    let live: Vec<Bytes> = match asked {
        Asked::First => fetched(call, path).await?.into_iter().collect(),
        Asked::All => fetched_of_all(call, path).await?,
    };
    if live.is_empty() {
        call.services.lists.keep(key, now, List::Nothing);
        return nothing();
    }
    let body = tokio::task::spawn_blocking(move || cut(&live)).await;
    let body = body.map_err(|error| Rejection::internal(error.to_string()))??;
    call.services.lists.keep(key, now, List::Body(body.clone()));
    json(body)
}

/// What the first backend that answers has under `path`; none if it has nothing there.
async fn fetched(call: &Call<'_>, path: &str) -> Result<Option<Bytes>, Rejection> {
    for backend in up(call)? {
        match answer(&backend, path).await {
            Fetched::Answered(found) => return Ok(found),
            Fetched::Failed => {}
        }
    }
    Err(no_backend())
}

/// What each backend that answers has under `path`.
async fn fetched_of_all(call: &Call<'_>, path: &str) -> Result<Vec<Bytes>, Rejection> {
    let asked = up(call)?.into_iter().map(|backend| async move { answer(&backend, path).await });
    let answers: Vec<Fetched> = stream::iter(asked.collect::<Vec<_>>()).buffered(ASKED_AT_ONCE).collect().await;
    if answers.iter().all(|answer| matches!(answer, Fetched::Failed)) {
        return Err(no_backend());
    }
    let found = |answer| if let Fetched::Answered(found) = answer { found } else { None };
    Ok(answers.into_iter().filter_map(found).collect())
}

enum Fetched {
    /// With nothing for a 404.
    Answered(Option<Bytes>),
    Failed,
}

async fn answer(backend: &Backend, path: &str) -> Fetched {
    match backend.comfyui.page_file(path).await {
        Ok(body) => Fetched::Answered(Some(body)),
        Err(ComfyUiError::Status { status, .. }) if status == StatusCode::NOT_FOUND => Fetched::Answered(None),
        Err(error) => {
            tracing::warn!(backend = %backend.id, path, %error, "no list");
            Fetched::Failed
        }
    }
}

/// The caller's backends that are up, in the order in which they are asked.
fn up(call: &Call<'_>) -> Result<Vec<Arc<Backend>>, Rejection> {
    let mut backends = call.services.backends_of(&call.caller()?.tenant);
    backends.retain(|backend| backend.is_up());
    Ok(backends)
}

fn key(call: &Call<'_>, path: &str) -> Result<Key, Rejection> {
    let generation = call.services.live().generation;
    let backends = up(call)?.into_iter().map(|backend| backend.id.clone()).collect();
    Ok((generation, backends, call.services.policy_of(&call.caller()?.tenant).digest(), path.to_owned()))
}

fn no_backend() -> Rejection {
    Rejection::unavailable("no_backend", "no backend answers now: try again after `Retry-After`", NO_BACKEND_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(path: &str) -> Key {
        (1, vec!["gpu0".parse().unwrap()], Digest::of(b"policy"), path.to_owned())
    }

    #[test]
    fn a_list_is_good_for_a_minute() {
        let (lists, at) = (Lists::default(), Instant::now());
        lists.keep(key_of("/models"), at, List::Body(Bytes::from_static(b"[]")));
        assert!(lists.find(&key_of("/models"), at + LIFETIME - Duration::from_millis(1)).is_some());
        assert!(lists.find(&key_of("/models"), at + LIFETIME).is_none());
        assert!(lists.find(&key_of("/models/loras"), at).is_none());
    }

    #[test]
    fn lists_are_bounded_in_number_and_in_bytes() {
        let (lists, at) = (Lists::default(), Instant::now());
        for number in 0..=LISTS_MAX {
            lists.keep(key_of(&number.to_string()), at, List::Body(Bytes::from_static(b"[]")));
        }
        assert!(lists.find(&key_of("0"), at).is_none() && lists.find(&key_of("1"), at).is_some());
        let half = Bytes::from(vec![b' '; LISTS_BYTES_MAX / 2 + 1]);
        lists.keep(key_of("a"), at, List::Body(half.clone()));
        lists.keep(key_of("b"), at, List::Body(half));
        assert!(lists.find(&key_of("a"), at).is_none() && lists.find(&key_of("b"), at).is_some());
    }
}
