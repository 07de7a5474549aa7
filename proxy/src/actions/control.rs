//! Queue, history and interrupt: read from the ledger, changed through it, for the caller's own jobs only.

use super::Call;
use crate::deliver::answer::Answer;
use crate::deliver::state::queue::{Interrupt, QueueChange};
use crate::deliver::state::{history as history_shape, queue as queue_shape};
use crate::dispatch::dispatcher::Command;
use crate::ids::PromptId;
use crate::record::ledger::{HistoryPage, JobResult, JobState, LedgerError, Outcome, OwnedPrompt};
use crate::reject::Rejection;
use crate::services::ANSWER_GRAPHS_BYTES_MAX;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value};
use tokio::sync::SemaphorePermit;

/// Entries of one `/history`; a client that wants older ones asks by `offset`.
const HISTORY_ITEMS_MAX: i64 = 1000;
/// Entries that are forgotten at a time.
const CLEAR_ITEMS: i64 = 100;

/// `GET /prompt`: how many of the caller's jobs have not ended.
pub(super) async fn prompt_info(call: &Call<'_>) -> Result<Answer, Rejection> {
    let remaining = call.services.ledger.queue_remaining(&call.scope()?).await?;
    Ok(Answer::json(StatusCode::OK, &queue_shape::exec_info(remaining)))
}

/// `GET /queue`.
pub(super) async fn queue(call: &Call<'_>) -> Result<Answer, Rejection> {
    let prompts = call.services.ledger.queue(&call.scope()?).await?;
    let _room = large_answer(call).await?;
    let mut graphs = Graphs::of(call);
    let mut items = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        items.push((prompt.job(), graphs.next(prompt).await?));
    }
    Ok(Answer::json(StatusCode::OK, &queue_shape::queue(&items)?))
}

/// `POST /queue`: `clear` means the caller's own held jobs, `delete` those that it names and sees; running ones are not touched, as in ComfyUI.
pub(super) async fn change_queue(call: &Call<'_>) -> Result<Answer, Rejection> {
    let change = QueueChange::parse(&call.body)?;
    let scope = call.scope()?;
    let mut prompts = match change.clear {
        true => call.made_by_caller(call.services.ledger.queue(&scope).await?)?,
        false => Vec::new(),
    };
    prompts.extend(owned(call, &change.delete).await?);
    for prompt in prompts {
        withdraw(call, &prompt).await?;
    }
    call.services.tell_queue(&scope).await;
    Ok(Answer::empty(StatusCode::OK))
}

/// `POST /interrupt`: the named job, or all of the caller's that run; never another's (facts §11, 95).
pub(super) async fn interrupt(call: &Call<'_>) -> Result<Answer, Rejection> {
    let prompts = match Interrupt::parse(&call.body)? {
        Interrupt::All => call.made_by_caller(call.services.ledger.queue(&call.scope()?).await?)?,
        Interrupt::One(id) => owned(call, &[id]).await?,
        Interrupt::Nothing => Vec::new(),
    };
    for prompt in prompts {
        stop(call, &prompt).await?;
    }
    Ok(Answer::empty(StatusCode::OK))
}

/// Interrupts a job that is at a backend; any other is left as it is.
pub(super) async fn stop(call: &Call<'_>, prompt: &OwnedPrompt) -> Result<(), Rejection> {
    if matches!(prompt.job().state, JobState::Assigned | JobState::Running) {
        call.services.ledger.request_cancel(prompt).await?;
        call.dispatch.send(Command::Interrupt(prompt.job().id)).await;
    }
    Ok(())
}

/// `GET /history`.
pub(super) async fn history(call: &Call<'_>) -> Result<Answer, Rejection> {
    let wanted = integer(call, "max_items")?.unwrap_or(HISTORY_ITEMS_MAX).min(HISTORY_ITEMS_MAX);
    let page = HistoryPage { max_items: Some(wanted), offset: integer(call, "offset")? };
    let _room = large_answer(call).await?;
    let mut graphs = Graphs::of(call);
    let mut entries = Vec::new();
    // The newest first, so that the oldest lack their graphs when there are too many bytes of them.
    for (prompt, result) in call.services.ledger.history(&call.scope()?, page).await?.iter().rev() {
        let graph = graphs.next(prompt).await?;
        entries.push((prompt.job().prompt_id.to_string(), entry(call, prompt, &graph, result)?));
    }
    Ok(Answer::json(StatusCode::OK, &Value::Object(entries.into_iter().rev().collect())))
}

/// `GET /history/{prompt_id}`: `{}` for what is not there, not ended, or another's.
pub(super) async fn history_entry(call: &Call<'_>) -> Result<Answer, Rejection> {
    let mut entries = Map::new();
    let ids = call.prompt_id();
    // Only a job that had ended when it was read: its result may be committed between the two reads, and would be shown under the older state.
    for prompt in owned(call, ids.as_slice()).await?.iter().filter(|prompt| prompt.job().state.is_ended()) {
        if let Some(result) = call.services.ledger.result(prompt).await? {
            let graph = Graphs::of(call).next(prompt).await?;
            entries.insert(prompt.job().prompt_id.to_string(), entry(call, prompt, &graph, &result)?);
        }
    }
    Ok(Answer::json(StatusCode::OK, &Value::Object(entries)))
}

/// `POST /history`: forgets ended jobs; `clear` means the caller's own, `delete` those that it names and sees.
pub(super) async fn change_history(call: &Call<'_>) -> Result<Answer, Rejection> {
    let change = QueueChange::parse(&call.body)?;
    forget(call, &owned(call, &change.delete).await?).await?;
    if change.clear {
        forget_all(call).await?;
    }
    Ok(Answer::empty(StatusCode::OK))
}

/// What the caller made. A page at a time, from the oldest on: the results of thousands of jobs need not be in memory together.
async fn forget_all(call: &Call<'_>) -> Result<(), Rejection> {
    // Entries of others in a shared history stay, and are passed over.
    let mut others = 0;
    loop {
        let page = HistoryPage { max_items: Some(CLEAR_ITEMS), offset: Some(others) };
        let part = call.services.ledger.history(&call.scope()?, page).await?;
        if part.is_empty() {
            return Ok(());
        }
        let all = part.len();
        let own = call.made_by_caller(part.into_iter().map(|(prompt, _)| prompt).collect())?;
        forget(call, &own).await?;
        others = others.saturating_add(i64::try_from(all - own.len()).unwrap_or(i64::MAX));
    }
}

async fn forget(call: &Call<'_>, prompts: &[OwnedPrompt]) -> Result<(), Rejection> {
    for prompt in prompts.iter().filter(|prompt| prompt.job().state.is_ended()) {
        match call.services.ledger.forget(prompt).await {
            // Named twice in one request.
            Ok(()) | Err(LedgerError::NotFound { .. }) => call.services.hub.forget_end(prompt.job().id),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until there is room for one more large answer.
pub(super) async fn large_answer<'a>(call: &Call<'a>) -> Result<SemaphorePermit<'a>, Rejection> {
    call.services.large_answers.acquire().await.map_err(|error| Rejection::internal(error.to_string()))
}

/// The stored graphs of one answer, within [`ANSWER_GRAPHS_BYTES_MAX`]: once that is used up, jobs are shown with an empty graph.
pub(super) struct Graphs<'a> {
    call: &'a Call<'a>,
    left: usize,
}

impl<'a> Graphs<'a> {
    pub(super) fn of(call: &'a Call<'a>) -> Self {
        Self { call, left: ANSWER_GRAPHS_BYTES_MAX }
    }

    pub(super) async fn next(&mut self, prompt: &OwnedPrompt) -> Result<Bytes, Rejection> {
        if self.left == 0 {
            return Ok(Bytes::from_static(b"{}"));
        }
        match self.call.services.ledger.graph(&prompt.job().submission).await {
            Ok(graph) => {
                self.left = self.left.saturating_sub(graph.len());
                Ok(graph)
            }
            // One job's loss must not hide the others.
            Err(error @ (LedgerError::NotFound { .. } | LedgerError::Damaged { .. })) => {
                tracing::error!(job = %prompt.job().id, %error, "shown without its graph");
                Ok(Bytes::from_static(b"{}"))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn entry(call: &Call<'_>, prompt: &OwnedPrompt, graph: &[u8], result: &JobResult) -> Result<Value, Rejection> {
    let (services, job) = (call.services, prompt.job());
    let now = services.clock.wall();
    Ok(history_shape::entry(job, graph, result, &|id| services.links.signed(&job.owner.tenant, id, now))?)
}

/// The caller's jobs of those names; names that are nothing of the caller's are passed over, as ComfyUI does with unknown ones.
pub(super) async fn owned(call: &Call<'_>, ids: &[PromptId]) -> Result<Vec<OwnedPrompt>, Rejection> {
    let scope = call.scope()?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match call.services.ledger.owned_prompt(&scope, id).await {
            Ok(prompt) => found.push(prompt),
            Err(LedgerError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// A number in the query; ComfyUI answers 500 to what is none.
fn integer(call: &Call<'_>, key: &str) -> Result<Option<i64>, Rejection> {
    let wrong = |_| Rejection::new(StatusCode::BAD_REQUEST, "malformed", format!("`{key}` takes a whole number"));
    call.matched.query.value(key).map(|text| text.parse().map_err(wrong)).transpose()
}

/// Takes a held job out of the queue. One that was assigned meanwhile runs on, as in ComfyUI.
pub(super) async fn withdraw(call: &Call<'_>, prompt: &OwnedPrompt) -> Result<(), Rejection> {
    let job = prompt.job();
    if job.state != JobState::Held {
        return Ok(());
    }
    let at = call.services.clock.wall();
    match call.services.ledger.end_held(job.id, job.version, Outcome::Cancelled, None, at).await {
        Ok(_) => {
            call.dispatch.send(Command::Withdrawn(job.id)).await;
            Ok(())
        }
        Err(LedgerError::Stale { .. } | LedgerError::WrongState { .. } | LedgerError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
