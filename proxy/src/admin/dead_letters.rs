//! Jobs that lost every attempt, as an operator sees them through the control socket.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `GET /v1/dead-letters` | `?tenant=&limit=` | `[DeadLetter]`, newest first |
//! | `GET /v1/dead-letters/{job}` | | [`DeadLetterView`], or 404 |
//! | `POST /v1/dead-letters/{job}/replay` | | [`Replayed`]; 404; 422 with the reasons if it may not run; 503 if that can't be said now |
//! | `DELETE /v1/dead-letters/{job}` | | 204, or 404 |

use super::api::{Api, Operation};
use super::control_client::{ControlClient, ControlError, read};
use crate::dispatch::dead_letter::{ReplayError, replay};
use crate::dispatch::dispatcher::DispatchHandle;
use crate::ids::{JobId, PromptId};
use crate::record::audit::Audit;
use crate::record::ledger::dead_letters::{DeadLetter, DeadLetterQuery};
use crate::record::ledger::{Ledger, LedgerError};
use crate::services::Services;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Letters in one answer: as many as there can be.
pub const DEAD_LETTERS_MAX: usize = 1000;

/// A letter with what was submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetterView {
    /// The letter.
    pub letter: DeadLetter,
    /// The canonical submission, while it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<Value>,
}

/// What a letter became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Replayed {
    /// The new job.
    pub job: JobId,
    /// What its owner calls it.
    pub prompt_id: PromptId,
}

/// What became of a request to accept a letter anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayAnswer {
    /// It waits in the queue.
    Replayed(Replayed),
    /// There is no such letter.
    Unknown,
    /// It may not run, or that can't be said now: why.
    Refused(String),
}

/// Reads a letter and its submission out of a ledger; `None` if there is none.
///
/// # Errors
/// The ledger's. A submission that is lost or damaged is left out.
pub async fn view(ledger: &dyn Ledger, job: JobId) -> Result<Option<DeadLetterView>, LedgerError> {
    let letter = match ledger.dead_letter(job).await {
        Ok(letter) => letter,
        Err(LedgerError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let submission = match ledger.graph(&letter.submission).await {
        Ok(graph) => serde_json::from_slice(&graph).ok(),
        Err(LedgerError::NotFound { .. } | LedgerError::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(Some(DeadLetterView { letter, submission }))
}

/// Forgets a letter, and writes that to the audit log. Says whether there was one.
///
/// # Errors
/// The ledger's.
pub async fn remove(ledger: &dyn Ledger, audit: &Audit, job: JobId) -> Result<bool, LedgerError> {
    match ledger.remove_dead_letter(job).await {
        Ok(()) => {
            audit.dead_letter_removed(job);
            Ok(true)
        }
        Err(LedgerError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(Clone)]
struct Shared {
    services: Arc<Services>,
    dispatch: DispatchHandle,
}

/// The routes.
pub fn router(services: &Arc<Services>, dispatch: &DispatchHandle) -> Api {
    let (ok, missing) = (StatusCode::OK, StatusCode::NOT_FOUND);
    let unavailable =
        |operation: Operation| operation.text(StatusCode::SERVICE_UNAVAILABLE, "it can't be done now: ask again");
    Api::new()
        .route(
            unavailable(Operation::get("/v1/dead-letters", "Jobs that lost every attempt, newest first"))
                .query("tenant", "only this tenant's")
                .query("limit", "at most so many")
                .json::<Vec<DeadLetter>>(ok, "the jobs"),
            list,
        )
        .route(
            unavailable(Operation::get("/v1/dead-letters/{job}", "One of them, with its submission"))
                .json::<DeadLetterView>(ok, "the job")
                .empty(missing, "there is none"),
            one,
        )
        .route(
            unavailable(Operation::delete("/v1/dead-letters/{job}", "Forgets one"))
                .empty(StatusCode::NO_CONTENT, "it is forgotten")
                .empty(missing, "there is none"),
            removed,
        )
        .route(
            unavailable(Operation::post("/v1/dead-letters/{job}/replay", "Has one accepted anew"))
                .json::<Replayed>(ok, "the new job")
                .empty(missing, "there is none")
                .text(StatusCode::UNPROCESSABLE_ENTITY, "it is refused now"),
            replayed,
        )
        .with_state(Shared { services: Arc::clone(services), dispatch: dispatch.clone() })
}

async fn list(State(shared): State<Shared>, Query(mut query): Query<DeadLetterQuery>) -> Response {
    query.limit = query.limit.min(DEAD_LETTERS_MAX);
    match shared.services.ledger.dead_letters(query).await {
        Ok(letters) => Json(letters).into_response(),
        Err(error) => unavailable(&error),
    }
}

async fn one(State(shared): State<Shared>, Path(job): Path<String>) -> Response {
    let Ok(job) = job.parse::<JobId>() else { return StatusCode::NOT_FOUND.into_response() };
    match view(&*shared.services.ledger, job).await {
        Ok(Some(view)) => Json(view).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => unavailable(&error),
    }
}

async fn replayed(State(shared): State<Shared>, Path(job): Path<String>) -> Response {
    let Ok(job) = job.parse::<JobId>() else { return StatusCode::NOT_FOUND.into_response() };
    let letter = match shared.services.ledger.dead_letter(job).await {
        Ok(letter) => letter,
        Err(LedgerError::NotFound { .. }) => return StatusCode::NOT_FOUND.into_response(),
        Err(error) => return unavailable(&error),
    };
    // A task of its own: an operator who goes away in between leaves no half of it.
    let replaying = tokio::spawn(async move { replay(&shared.services, &shared.dispatch, &letter).await });
    match replaying.await {
        Ok(Ok(job)) => Json(Replayed { job: job.id, prompt_id: job.prompt_id }).into_response(),
        Ok(Err(error @ ReplayError::Refused(_))) => {
            (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response()
        }
        Ok(Err(error @ ReplayError::Later(_))) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn removed(State(shared): State<Shared>, Path(job): Path<String>) -> Response {
    let Ok(job) = job.parse::<JobId>() else { return StatusCode::NOT_FOUND.into_response() };
    match remove(&*shared.services.ledger, &shared.services.audit, job).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &LedgerError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
}

impl ControlClient {
    /// The letters that are asked for, newest first.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, ControlError> {
        let tenant = query.tenant.as_ref().map(|tenant| format!("&tenant={tenant}")).unwrap_or_default();
        let path = format!("/v1/dead-letters?limit={}{tenant}", query.limit);
        self.call(Method::GET, &path, Vec::new()).await.and_then(|answer| read(&answer.1))
    }

    /// One letter with what was submitted; `None`: there is no such letter.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn dead_letter(&self, job: JobId) -> Result<Option<DeadLetterView>, ControlError> {
        match self.call(Method::GET, &format!("/v1/dead-letters/{job}"), Vec::new()).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, body) => read(&body).map(Some),
        }
    }

    /// Has a letter accepted anew.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn replay_dead_letter(&self, job: JobId) -> Result<ReplayAnswer, ControlError> {
        match self.call(Method::POST, &format!("/v1/dead-letters/{job}/replay"), Vec::new()).await {
            Ok((StatusCode::NOT_FOUND, _)) => Ok(ReplayAnswer::Unknown),
            Ok((_, body)) => read(&body).map(ReplayAnswer::Replayed),
            Err(ControlError::Refused(text)) => Ok(ReplayAnswer::Refused(text)),
            Err(error) => Err(error),
        }
    }

    /// Forgets a letter. Says whether there was one.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn remove_dead_letter(&self, job: JobId) -> Result<bool, ControlError> {
        let answer = self.call(Method::DELETE, &format!("/v1/dead-letters/{job}"), Vec::new()).await?;
        Ok(answer.0 != StatusCode::NOT_FOUND)
    }
}
