//! A tiny workflow of our own that proves that a backend's worker runs: HTTP answers 200 long after that thread has died (facts §0.2).
//!
//! One `PreviewAny` with a text that never was before, so that it is executed and not taken from the cache: no model, no GPU, no file. Where a backend
//! lacks that class, a picture of one pixel is previewed instead (a file in its temp folder). It runs under our own sid, so no one else hears of it;
//! its id begins like no attempt's ([`is_canary`]); no track leads from it to an owner; it is deleted from history and queue when it is over.

use super::backend::Backend;
use super::comfyui::{ComfyUi, ComfyUiError, Listing};
use super::fault::{self, Fault};
use super::health::{Cause, Standing};
use crate::ids::{UpstreamClientId, UpstreamPromptId};
use bytes::Bytes;
use comfygate_policy::Agreement;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// The first bytes of every canary's id.
const ID_PREFIX: [u8; 4] = [0xca, 0x9a, 0x21, 0xe5];
/// Between two looks: it takes milliseconds when the backend is well.
const LOOK_INTERVAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Looks that find it nowhere before it counts as lost: between queue and history lies one statement of ComfyUI's worker.
const ABSENT_MAX: u32 = 3;

/// What became of a canary, or of another workflow of our own that is sent as one.
#[derive(Debug)]
pub enum Verdict {
    /// The worker ran it, after so long.
    Proven {
        /// From its sending.
        took: Duration,
        /// Whether it ended without an error. An error is as good a proof that the worker runs.
        succeeded: bool,
    },
    /// It was run, and what the backend needs for work is broken.
    Broken(Fault),
    /// It was not run in its time, though nothing of others' was in its way: the worker is dead.
    NotRun,
    /// Others' work runs there: nothing was learned, and nothing is in their way.
    Busy,
    /// The backend can't run it (both classes are missing, or it refuses the workflow): nothing can be learned.
    Unprovable(String),
    /// The backend did not answer, or forgot it.
    Gone(String),
    /// Nobody listens there.
    Refused(String),
}

/// Whether others' work may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Time in which others' work runs does not count.
    WaitForOthers,
    /// Others' work ends the try.
    Yield,
}

/// What a canary does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// As little as can be.
    Run,
    /// It writes a file of one pixel: for a backend whose disk was full.
    Write,
}

/// Whether a prompt of ours is a canary.
pub fn is_canary(prompt: UpstreamPromptId) -> bool {
    prompt.bytes().starts_with(&ID_PREFIX)
}

/// Draws an id.
pub(super) fn canary_id() -> UpstreamPromptId {
    let mut bytes = UpstreamPromptId::new().bytes();
    if let Some(first) = bytes.first_chunk_mut() {
        *first = ID_PREFIX;
    }
    UpstreamPromptId::from_bytes(bytes)
}

/// The body of its submission; `None` if the backend has not the classes as we know them.
fn body(id: UpstreamPromptId, client: UpstreamClientId, agreement: &Agreement, task: Task) -> Option<Value> {
    // Never the same twice, so never in a cache.
    let nonce = UpstreamPromptId::new().to_string();
    let can_write = agreement.agrees("EmptyImage") && agreement.agrees("PreviewImage");
    let prompt = if agreement.agrees("PreviewAny") && !(task == Task::Write && can_write) {
        json!({"1": {"class_type": "PreviewAny", "inputs": {"source": nonce}}})
    } else if can_write {
        json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 1, "height": 1, "batch_size": 1, "color": 0, "comfygate_salt": nonce}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0], "comfygate_salt": nonce}},
        })
    } else {
        return None;
    };
    Some(json!({"prompt": prompt, "prompt_id": id.to_string(), "client_id": client.to_string(), "extra_data": {}}))
}

/// Sends one canary and waits for it. It is taken back when this ends, dropped included. `is_followed` says whether a prompt of ours is an attempt that a
/// task still carries: that may run as long as it likes.
pub async fn prove(
    backend: &Backend,
    agreement: &Agreement,
    deadline: Duration,
    (task, patience): (Task, Patience),
    is_followed: impl Fn(UpstreamPromptId) -> bool + Send + Sync,
) -> Verdict {
    let id = canary_id();
    let Some(body) = body(id, backend.client, agreement, task) else {
        return Verdict::Unprovable("it has neither PreviewAny nor EmptyImage and PreviewImage".into());
    };
    run(backend, id, body.to_string().into(), deadline, patience, is_followed).await
}

/// Sends a workflow of our own under a canary's id, and follows it as [`prove`] does.
pub(super) async fn run(
    backend: &Backend,
    id: UpstreamPromptId,
    body: Bytes,
    deadline: Duration,
    patience: Patience,
    is_followed: impl Fn(UpstreamPromptId) -> bool + Send + Sync,
) -> Verdict {
    let statuses = backend.socket().map(|socket| socket.statuses());
    let canary = Canary::new(backend, id);
    let verdict = match backend.comfyui.submit(body).await {
        Ok(_) => canary.followed(deadline, patience, &is_followed).await,
        Err(ComfyUiError::Status { status, .. }) if status == http::StatusCode::BAD_REQUEST => {
            Verdict::Unprovable("it refuses the workflow".into())
        }
        // It may have arrived: it is looked for like one that was answered.
        Err(ComfyUiError::Lost(_)) => canary.followed(deadline, patience, &is_followed).await,
        Err(error) => gone(&error),
    };
    // Two queue changes of ours at least; a socket that heard of none is orphaned (facts §13).
    if let (Verdict::Proven { .. }, Some(before), Some(socket)) = (&verdict, statuses, backend.socket())
        && socket.statuses() == before
    {
        tracing::warn!(backend = %backend.id, "our socket heard nothing of a canary; connecting anew");
        socket.reconnect();
    }
    canary.take_back().await;
    verdict
}

fn gone(error: &ComfyUiError) -> Verdict {
    if error.is_refused() { Verdict::Refused(error.to_string()) } else { Verdict::Gone(error.to_string()) }
}

/// A canary that is out.
struct Canary<'a> {
    backend: &'a Backend,
    comfyui: ComfyUi,
    id: UpstreamPromptId,
    is_out: bool,
}

impl<'a> Canary<'a> {
    fn new(backend: &'a Backend, id: UpstreamPromptId) -> Self {
        backend.set_canary(true);
        Self { backend, comfyui: backend.comfyui.clone(), id, is_out: true }
    }

    async fn followed(
        &self,
        deadline: Duration,
        patience: Patience,
        is_followed: &(impl Fn(UpstreamPromptId) -> bool + Send + Sync),
    ) -> Verdict {
        let sent = Instant::now();
        let mut wait = LOOK_INTERVAL.0;
        let mut counted = Duration::ZERO;
        let mut looked = sent;
        let (mut absent, mut told) = (0, false);
        loop {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK_INTERVAL.1);
            match self.comfyui.history_entry(self.id).await {
                // An error or an interruption in it is a proof as well: somebody ran it. Only what would fail every job is none.
                Ok(Some(entry)) => {
                    let status = entry.pointer("/status/status_str").and_then(Value::as_str);
                    let (took, succeeded) = (sent.elapsed(), status == Some("success"));
                    return fault::of_entry(&entry).map_or(Verdict::Proven { took, succeeded }, Verdict::Broken);
                }
                Ok(None) => {}
                Err(error) => return gone(&error),
            }
            let listing = match self.comfyui.listing().await {
                Ok(listing) => listing,
                Err(error) => return gone(&error),
            };
            let now = Instant::now();
            match (self.sight(&listing, is_followed), patience) {
                (Sight::Absent, _) => absent += 1,
                (Sight::BehindOthers, Patience::Yield) => return Verdict::Busy,
                (Sight::BehindOthers, Patience::WaitForOthers) => {
                    absent = 0;
                    if sent.elapsed() >= deadline && !std::mem::replace(&mut told, true) {
                        self.tell_it_waits();
                    }
                }
                (Sight::Alone, _) => {
                    absent = 0;
                    counted = counted.saturating_add(now.saturating_duration_since(looked));
                }
            }
            looked = now;
            if absent >= ABSENT_MAX {
                return Verdict::Gone("it forgot what it was given".into());
            }
            if counted >= deadline {
                return Verdict::NotRun;
            }
        }
    }

    /// For operators: nothing says whether what is in front of it is long work or a dead worker's last prompt.
    fn tell_it_waits(&self) {
        if self.backend.standing() != Standing::Down(Cause::WorkerDead) {
            let reason = "its canary waits behind work that is not ours; if that gets nowhere, restart the process";
            self.backend.still_down(Cause::Stalled, reason);
        }
    }

    fn sight(&self, listing: &Listing, is_followed: &impl Fn(UpstreamPromptId) -> bool) -> Sight {
        let is_given_up = |item: &super::comfyui::Listed| {
            item.client == Some(self.backend.client) && !item.prompt.is_some_and(is_followed)
        };
        let mine = |list: &[super::comfyui::Listed]| list.iter().any(|item| item.prompt == Some(self.id));
        if mine(&listing.running) {
            Sight::Alone
        } else if !mine(&listing.pending) {
            Sight::Absent
        } else if !listing.running.iter().all(is_given_up) {
            Sight::BehindOthers
        } else {
            // Whatever of ours runs there was given up, and should have ended.
            Sight::Alone
        }
    }

    async fn take_back(mut self) {
        self.is_out = false;
        self.backend.set_canary(false);
        take_back(&self.comfyui, self.id).await;
    }
}

/// What a look at the queue says of a canary.
enum Sight {
    Absent,
    BehindOthers,
    Alone,
}

async fn take_back(comfyui: &ComfyUi, id: UpstreamPromptId) {
    // One that is gone has forgotten it by itself; what is left behind is swept when it returns.
    let _ = comfyui.withdraw(id).await;
    let _ = comfyui.forget(id).await;
}

impl Drop for Canary<'_> {
    /// Given up half-way: the backend was ejected meanwhile, or the gateway stops.
    fn drop(&mut self) {
        if !self.is_out {
            return;
        }
        self.backend.set_canary(false);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (comfyui, id) = (self.comfyui.clone(), self.id);
            runtime.spawn(async move { take_back(&comfyui, id).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use comfygate_policy::Catalogue;

    fn agreement_without(missing: &[&str]) -> Agreement {
        let text = include_str!("../../../policies/catalogues/comfyui-0.8.0.json");
        let mut live: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
        missing.iter().for_each(|class| drop(live.remove(*class)));
        Catalogue::builtin_arc().agreement(Value::Object(live).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_canarys_id_is_known_by_its_beginning_and_an_attempts_is_none() {
        let id = canary_id();
        assert!(is_canary(id) && id.to_string().starts_with("ca9a21e5-"), "{id}");
        assert_ne!(canary_id(), id);
        assert!(!is_canary(UpstreamPromptId::from_bytes([0; 16])));
    }

    #[test]
    fn it_needs_one_class_of_the_core_and_falls_back_to_two_others() {
        let (id, client) = (canary_id(), UpstreamClientId::new());
        let classes_for = |task: Task, missing: &[&str]| {
            let body = body(id, client, &agreement_without(missing), task)?;
            let nodes = body["prompt"].as_object().unwrap().values();
            Some(nodes.map(|node| node["class_type"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
        };
        let classes = |missing: &[&str]| classes_for(Task::Run, missing);
        assert_eq!(classes(&[]).unwrap(), ["PreviewAny"]);
        assert_eq!(classes(&["PreviewAny"]).unwrap(), ["EmptyImage", "PreviewImage"]);
        assert_eq!(classes(&["PreviewAny", "EmptyImage"]), None);
        assert_eq!(classes_for(Task::Write, &[]).unwrap(), ["EmptyImage", "PreviewImage"]);
        assert_eq!(classes_for(Task::Write, &["PreviewImage"]).unwrap(), ["PreviewAny"]);
    }

    #[test]
    fn no_two_of_them_are_alike_so_none_is_answered_from_a_cache() {
        let text = |_| {
            let body = body(canary_id(), UpstreamClientId::new(), &agreement_without(&[]), Task::Run).unwrap();
            body["prompt"]["1"]["inputs"]["source"].as_str().unwrap().to_owned()
        };
        let texts: std::collections::BTreeSet<String> = (0..10).map(text).collect();
        assert_eq!(texts.len(), 10);
    }
}
