//! `/api/jobs`: queue and history of the caller as one list, and the end of a job by its id.

use super::Call;
use super::control::{Graphs, large_answer, owned, stop, withdraw};
use crate::deliver::answer::Answer;
use crate::deliver::state::jobs::{self as shape, JobsQuery, SortBy, Status};
use crate::ids::FileId;
use crate::record::ledger::{JobResult, JobState, Outcome, OwnedPrompt};
use crate::reject::Rejection;
use http::StatusCode;
use serde_json::{Map, Value, json};

/// Sorting by duration and filtering by workflow read what each job left behind: of so many of the newest jobs.
const SCANNED_MAX: usize = 1000;

/// `GET /api/jobs`.
pub(super) async fn jobs(call: &Call<'_>) -> Result<Answer, Rejection> {
    let wanted = match JobsQuery::parse(&call.matched.query) {
        Ok(wanted) => wanted,
        Err(text) => return Ok(Answer::json(StatusCode::BAD_REQUEST, &json!({"error": text}))),
    };
    let _room = large_answer(call).await?;
    let all = call.services.ledger.jobs(&call.scope()?, wanted.wants_ended()).await?;
    // The newest first: where not all are looked at, the oldest are not.
    let named = |prompt: OwnedPrompt| wanted.wants(prompt.job().state).map(|status| (prompt, status));
    let mut jobs: Vec<(OwnedPrompt, Status)> = all.into_iter().rev().filter_map(named).collect();
    if let Some(workflow) = &wanted.workflow_id {
        jobs = of_workflow(call, jobs, workflow).await?;
    }
    if wanted.sort_by == SortBy::Duration {
        jobs = by_duration(call, jobs).await?;
    }
    if wanted.ascending {
        jobs.reverse();
    }
    let total = jobs.len();
    let mut graphs = Graphs::of(call);
    let mut shown = Vec::new();
    for (prompt, status) in jobs.get(wanted.page(total)).unwrap_or_default() {
        let result = result(call, prompt).await?;
        let workflow = shape::workflow_id(&graphs.next(prompt).await?);
        let url = |id| signed(call, prompt, id);
        let mut summary = shape::summary(prompt.job(), *status, result.as_ref(), workflow, &url);
        add_place(call, prompt, &mut summary);
        shown.push(Value::Object(summary));
    }
    Ok(Answer::json(StatusCode::OK, &wanted.answer(shown, total)))
}

/// `GET /api/jobs/{prompt_id}`.
pub(super) async fn job(call: &Call<'_>) -> Result<Answer, Rejection> {
    let Some(prompt) = named(call).await? else { return Ok(not_found()) };
    let result = result(call, &prompt).await?;
    let graph = Graphs::of(call).next(&prompt).await?;
    let mut detail = shape::detail(prompt.job(), result.as_ref(), &graph, &|id| signed(call, &prompt, id))?;
    if let Value::Object(detail) = &mut detail {
        add_place(call, &prompt, detail);
    }
    Ok(Answer::json(StatusCode::OK, &detail))
}

/// `queue`: how a held job stands, in addition to what ComfyUI tells.
fn add_place(call: &Call<'_>, prompt: &OwnedPrompt, shown: &mut Map<String, Value>) {
    if let Some(place) = call.services.outlook.load().of(prompt.job().id)
        && prompt.job().state == JobState::Held
    {
        shown.insert("queue".to_owned(), place.to_json());
    }
}

/// `POST /api/jobs/{prompt_id}/cancel`: `{"cancelled": false}` for a job that had ended.
pub(super) async fn cancel_job(call: &Call<'_>) -> Result<Answer, Rejection> {
    let Some(prompt) = named(call).await? else { return Ok(not_found()) };
    let cancelled = cancel(call, &[prompt]).await?;
    Ok(Answer::json(StatusCode::OK, &json!({"cancelled": cancelled})))
}

/// `POST /api/jobs/cancel`: ids that are nothing of the caller's are passed over.
pub(super) async fn cancel_jobs(call: &Call<'_>) -> Result<Answer, Rejection> {
    let prompts = owned(call, &shape::cancel_ids(&call.body)?).await?;
    let cancelled = cancel(call, &prompts).await?;
    Ok(Answer::json(StatusCode::OK, &json!({"cancelled": cancelled})))
}

/// Takes jobs out of the queue or interrupts them; whether there was one to end.
async fn cancel(call: &Call<'_>, prompts: &[OwnedPrompt]) -> Result<bool, Rejection> {
    let mut cancelled = false;
    for prompt in prompts.iter().filter(|prompt| !prompt.job().state.is_ended()) {
        withdraw(call, prompt).await?;
        // It may have been sent to a backend since it was looked up.
        for moved in owned(call, &[prompt.job().prompt_id.clone()]).await? {
            if moved.job().id == prompt.job().id {
                stop(call, &moved).await?;
            }
        }
        cancelled = true;
    }
    if cancelled {
        call.services.tell_queue(&call.scope()?).await;
    }
    Ok(cancelled)
}

async fn named(call: &Call<'_>) -> Result<Option<OwnedPrompt>, Rejection> {
    Ok(owned(call, call.prompt_id().as_slice()).await?.pop().filter(is_shown))
}

/// A job that was deleted from the queue is nowhere any more, as in ComfyUI.
fn is_shown(prompt: &OwnedPrompt) -> bool {
    prompt.job().state != JobState::Ended(Outcome::Cancelled)
}

/// ComfyUI's own text, for what is not there and for what is another's.
fn not_found() -> Answer {
    Answer::json(StatusCode::NOT_FOUND, &json!({"error": "Job not found"}))
}

/// The result of a job that had ended when it was looked up.
async fn result(call: &Call<'_>, prompt: &OwnedPrompt) -> Result<Option<JobResult>, Rejection> {
    if prompt.job().state.is_ended() { Ok(call.services.ledger.result(prompt).await?) } else { Ok(None) }
}

fn signed(call: &Call<'_>, prompt: &OwnedPrompt, id: FileId) -> String {
    call.services.links.signed(&prompt.job().owner.tenant, id, call.services.clock.wall())
}

async fn of_workflow(
    call: &Call<'_>,
    jobs: Vec<(OwnedPrompt, Status)>,
    workflow: &str,
) -> Result<Vec<(OwnedPrompt, Status)>, Rejection> {
    let mut graphs = Graphs::of(call);
    let mut found = Vec::new();
    for (prompt, status) in jobs.into_iter().take(SCANNED_MAX) {
        if shape::workflow_id(&graphs.next(&prompt).await?).as_deref() == Some(workflow) {
            found.push((prompt, status));
        }
    }
    Ok(found)
}

/// Longest first; of equal ones, the newest first.
async fn by_duration(
    call: &Call<'_>,
    jobs: Vec<(OwnedPrompt, Status)>,
) -> Result<Vec<(OwnedPrompt, Status)>, Rejection> {
    let mut timed = Vec::new();
    for (prompt, status) in jobs.into_iter().take(SCANNED_MAX) {
        let duration = result(call, &prompt).await?.as_ref().map_or(0, shape::duration);
        timed.push((duration, prompt, status));
    }
    timed.sort_by_key(|(duration, _, _)| std::cmp::Reverse(*duration));
    Ok(timed.into_iter().map(|(_, prompt, status)| (prompt, status)).collect())
}
