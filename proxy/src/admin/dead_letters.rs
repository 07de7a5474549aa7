//! Jobs that lost every attempt, as an operator sees them through the control socket.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `GET /v1/dead-letters` | `?tenant=&limit=` | `[DeadLetter]`, newest first |
//! | `GET /v1/dead-letters/{job}` | | [`DeadLetterView`], or 404 |
//! | `POST /v1/dead-letters/{job}/replay` | | [`Replayed`]; 404; 422 with the reasons if it may not run; 503 if that can't be said now |
//! | `DELETE /v1/dead-letters/{job}` | | 204, or 404 |

use super::api::{Api, Operation};
use super::api_error::{Asked, Code, Named, Refused};
use super::control_client::{ControlClient, ControlError, read};
use crate::dispatch::dead_letter::{ReplayError, replay};
use crate::dispatch::dispatcher::DispatchHandle;
use crate::ids::{JobId, PromptId};
use crate::record::audit::Audit;
use crate::record::ledger::dead_letters::{DeadLetter, DeadLetterQuery};
use crate::record::ledger::{Ledger, LedgerError};
use crate::services::Services;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
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
    let ok = StatusCode::OK;
    let unavailable = |operation: Operation| operation.refuses(&[Code::Unavailable]);
    Api::new()
        .route(
            unavailable(Operation::get("/v1/dead-letters", "Jobs that lost every attempt, newest first"))
                .query("tenant", "only this tenant's")
                .query_of::<usize>("limit", "at most so many")
                .json::<Vec<DeadLetter>>(ok, "the jobs"),
            list,
        )
        .route(
            unavailable(Operation::get("/v1/dead-letters/{job}", "One of them, with its submission"))
                .json::<DeadLetterView>(ok, "the job")
                .refuses(&[Code::NotFound]),
            one,
        )
        .route(
            unavailable(Operation::delete("/v1/dead-letters/{job}", "Forgets one"))
                .empty(StatusCode::NO_CONTENT, "it is forgotten")
                .refuses(&[Code::NotFound]),
            removed,
        )
        .route(
            unavailable(Operation::post("/v1/dead-letters/{job}/replay", "Has one accepted anew"))
                .json::<Replayed>(ok, "the new job")
                .refuses(&[Code::NotFound, Code::ReplayRefused]),
            replayed,
        )
        .with_state(Shared { services: Arc::clone(services), dispatch: dispatch.clone() })
}

async fn list(
    State(shared): State<Shared>,
    Asked(mut query): Asked<DeadLetterQuery>,
) -> Result<Json<Vec<DeadLetter>>, Refused> {
    query.limit = query.limit.min(DEAD_LETTERS_MAX);
    Ok(Json(shared.services.ledger.dead_letters(query).await?))
}

fn missing() -> Refused {
    Refused::not_found("there is no such dead letter: `GET /v1/dead-letters` tells them")
}

fn job_of(job: &str) -> Result<JobId, Refused> {
    job.parse().map_err(|_| missing())
}

async fn one(State(shared): State<Shared>, Named(job): Named) -> Result<Json<DeadLetterView>, Refused> {
    view(&*shared.services.ledger, job_of(&job)?).await?.map(Json).ok_or_else(missing)
}

async fn replayed(State(shared): State<Shared>, Named(job): Named) -> Result<Json<Replayed>, Refused> {
    let letter = match shared.services.ledger.dead_letter(job_of(&job)?).await {
        Err(LedgerError::NotFound { .. }) => return Err(missing()),
        letter => letter?,
    };
    // A task of its own: an operator who goes away in between leaves no half of it.
    let replaying = tokio::spawn(async move { replay(&shared.services, &shared.dispatch, &letter).await });
    let job = replaying.await.map_err(Refused::unavailable)??;
    Ok(Json(Replayed { job: job.id, prompt_id: job.prompt_id }))
}

impl From<ReplayError> for Refused {
    fn from(error: ReplayError) -> Self {
        let code = match error {
            ReplayError::Refused(_) => Code::ReplayRefused,
            ReplayError::Later(_) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

async fn removed(State(shared): State<Shared>, Named(job): Named) -> Result<StatusCode, Refused> {
    if remove(&*shared.services.ledger, &shared.services.audit, job_of(&job)?).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(missing())
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
