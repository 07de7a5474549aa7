//! What was refused, and what is banned, as an operator sees it through the control socket.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `POST /v1/refusals` | `RefusalQuery` | `[RefusalRow]`, newest first |
//! | `GET /v1/refusals/{request}` | | [`RefusalView`], or 404 |
//! | `GET /v1/bans` | | `[BanRow]` |
//! | `POST /v1/bans` | [`BanRequest`] | `BanRow` |
//! | `POST /v1/bans/lift` | [`LiftRequest`] | 204, or 404 |

use super::api::{Api, Operation};
use super::api_error::{Body, Code, Named, Refused};
use super::control_client::{ControlClient, ControlError, read};
use crate::clock::WallMillis;
use crate::ids::RequestId;
use crate::record::audit::Audit;
use crate::record::ledger::bans::{BANS_MAX, BanRow};
use crate::record::ledger::refusals::{RefusalQuery, RefusalRow};
use crate::record::ledger::{Ledger, LedgerError};
use crate::services::Services;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Refusals in one answer.
pub const REFUSALS_MAX: usize = 1000;
/// Characters of a banned class's name and of a reason.
const WORDS_CHARS_MAX: usize = 200;

/// A refusal with what was submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RefusalView {
    /// The row.
    pub refusal: RefusalRow,
    /// The canonical submission, while it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<Value>,
}

impl RefusalView {
    /// Of a row and the bytes of its graph.
    pub fn of(refusal: RefusalRow, graph: Option<&Bytes>) -> Self {
        Self { refusal, submission: graph.and_then(|graph| serde_json::from_slice(graph).ok()) }
    }
}

/// A class that is to be banned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    /// Exactly as workflows name it.
    pub class: String,
    /// Why; callers read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A class whose ban is to be lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LiftRequest {
    /// Which.
    pub class: String,
}

impl BanRequest {
    /// What is wrong with it, if anything: the member as a JSON pointer, and what it may be.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        let odd = |text: &str| text.chars().count() > WORDS_CHARS_MAX || text.chars().any(char::is_control);
        if self.class.is_empty() || odd(&self.class) {
            Some(("/class", "a class has 1 to 200 characters, none of them control characters"))
        } else if self.reason.as_deref().is_some_and(odd) {
            Some(("/reason", "a reason has at most 200 characters, none of them control characters"))
        } else {
            None
        }
    }
}

/// Bans a class in a ledger, and writes it to the audit log.
///
/// # Errors
/// The ledger's.
pub async fn ban(
    ledger: &dyn Ledger,
    audit: &Audit,
    request: &BanRequest,
    at: WallMillis,
) -> Result<BanRow, LedgerError> {
    let row = BanRow { class: request.class.clone(), reason: request.reason.clone(), at };
    let row = ledger.ban(row, BANS_MAX).await?;
    audit.class_banned(&row.class, true, row.reason.as_deref());
    Ok(row)
}

/// Lifts a ban in a ledger, and writes it to the audit log. Says whether there was one.
///
/// # Errors
/// The ledger's.
pub async fn lift(ledger: &dyn Ledger, audit: &Audit, class: &str) -> Result<bool, LedgerError> {
    match ledger.unban(class).await {
        Ok(()) => {
            audit.class_banned(class, false, None);
            Ok(true)
        }
        Err(LedgerError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The routes.
pub fn router(services: &Arc<Services>) -> Api {
    let ok = StatusCode::OK;
    let unavailable = |operation: Operation| operation.refuses(&[Code::Unavailable]);
    Api::new()
        .route(
            unavailable(Operation::post("/v1/refusals", "What was refused, newest first"))
                .body::<RefusalQuery>()
                .json::<Vec<RefusalRow>>(ok, "the refusals"),
            list,
        )
        .route(
            unavailable(Operation::get("/v1/refusals/{request}", "What was refused in one request"))
                .json::<RefusalView>(ok, "the refusal")
                .refuses(&[Code::NotFound]),
            one,
        )
        .route(unavailable(Operation::get("/v1/bans", "Every banned class")).json::<Vec<BanRow>>(ok, "the bans"), bans)
        .route(
            unavailable(Operation::post("/v1/bans", "Bans a class for everybody"))
                .body::<BanRequest>()
                .json::<BanRow>(ok, "the ban")
                .refuses(&[Code::Faulty, Code::Full]),
            new_ban,
        )
        .route(
            unavailable(Operation::post("/v1/bans/lift", "Lifts a ban"))
                .body::<LiftRequest>()
                .empty(StatusCode::NO_CONTENT, "it is lifted")
                .refuses(&[Code::NotFound]),
            lifted,
        )
        .with_state(Arc::clone(services))
}

async fn list(
    State(services): State<Arc<Services>>,
    Body(mut query): Body<RefusalQuery>,
) -> Result<Json<Vec<RefusalRow>>, Refused> {
    query.limit = query.limit.min(REFUSALS_MAX);
    Ok(Json(services.ledger.refusals(query).await?))
}

async fn one(State(services): State<Arc<Services>>, Named(request): Named) -> Result<Json<RefusalView>, Refused> {
    let missing = || Refused::not_found("nothing is known of such a request: `POST /v1/refusals` tells those that are");
    let request = request.parse::<RequestId>().map_err(|_| missing())?;
    let found = services.ledger.refusal(request).await;
    if matches!(found, Err(LedgerError::NotFound { .. })) {
        return Err(missing());
    }
    let (row, graph) = found?;
    Ok(Json(RefusalView::of(row, graph.as_ref())))
}

async fn bans(State(services): State<Arc<Services>>) -> Result<Json<Vec<BanRow>>, Refused> {
    Ok(Json(services.ledger.bans().await?))
}

async fn new_ban(
    State(services): State<Arc<Services>>,
    Body(request): Body<BanRequest>,
) -> Result<Json<BanRow>, Refused> {
    if let Some((pointer, fault)) = request.fault() {
        return Err(Refused::at(Code::Faulty, pointer, fault));
    }
    let done = ban(&*services.ledger, &services.audit, &request, services.clock.wall()).await;
    Ok(Json(with_list_of_now(&services, done).await?))
}

async fn lifted(
    State(services): State<Arc<Services>>,
    Body(request): Body<LiftRequest>,
) -> Result<StatusCode, Refused> {
    let done = lift(&*services.ledger, &services.audit, &request.class).await;
    if with_list_of_now(&services, done).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Refused::not_found("the class is not banned: `GET /v1/bans` tells those that are"))
}

/// Puts what the ledger has into force, whatever became of the change: a write whose answer was lost may have happened.
async fn with_list_of_now<T>(services: &Services, done: Result<T, LedgerError>) -> Result<T, LedgerError> {
    // One at a time: an older list must not be put over a newer one.
    let _turn = services.ban_turn.lock().await;
    let rows = services.ledger.bans().await?;
    services.banned.set(rows);
    services.rules_changed();
    done
}

impl ControlClient {
    /// What was refused, newest first.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn refusals(&self, query: &RefusalQuery) -> Result<Vec<RefusalRow>, ControlError> {
        self.call(Method::POST, "/v1/refusals", body(query)?).await.and_then(|answer| read(&answer.1))
    }

    /// What was refused in one request; `None`: nothing is known of it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn refusal(&self, request: RequestId) -> Result<Option<RefusalView>, ControlError> {
        match self.call(Method::GET, &format!("/v1/refusals/{request}"), Vec::new()).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, body) => read(&body).map(Some),
        }
    }

    /// Every ban.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn bans(&self) -> Result<Vec<BanRow>, ControlError> {
        self.call(Method::GET, "/v1/bans", Vec::new()).await.and_then(|answer| read(&answer.1))
    }

    /// Bans a class.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn ban(&self, request: &BanRequest) -> Result<BanRow, ControlError> {
        self.call(Method::POST, "/v1/bans", body(request)?).await.and_then(|answer| read(&answer.1))
    }

    /// Lifts a ban. Says whether there was one.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn lift_ban(&self, request: &LiftRequest) -> Result<bool, ControlError> {
        Ok(self.call(Method::POST, "/v1/bans/lift", body(request)?).await?.0 != StatusCode::NOT_FOUND)
    }
}

fn body(request: &impl Serialize) -> Result<Vec<u8>, ControlError> {
    serde_json::to_vec(request).map_err(|error| ControlError::Answer(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_200_characters_can_be_banned_and_none_of_201_or_with_line_ends() {
        let fault = |class: &str, reason: Option<&str>| {
            BanRequest { class: class.to_owned(), reason: reason.map(str::to_owned) }.fault().is_some()
        };
        assert!(
            !fault(&"é".repeat(200), None) && fault(&"é".repeat(201), None) && fault("", None) && fault("a\nb", None)
        );
        assert!(!fault("A", Some(&"x".repeat(200))) && fault("A", Some(&"x".repeat(201))));
    }
}
