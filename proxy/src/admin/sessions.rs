//! Sessions of browsers, as an operator sees them: through the control socket or on the ledger itself.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/sessions[?tenant=&user=]` | `[SessionView]` |
//! | `DELETE /v1/sessions/{id}` | [`EndedSessions`]: none where it is not there any more |
//! | `DELETE /v1/sessions?tenant=&user=` | [`EndedSessions`]; 400 if neither is named |

use super::api::{Api, Operation};
use super::api_error::{Asked, Code, Named, Refused};
use crate::clock::WallMillis;
use crate::ids::{KeyId, ProviderId, SessionId, TenantId, UserId};
use crate::record::ledger::sessions::{SessionBounds, SessionRow, WhoseSessions};
use crate::record::ledger::{Ledger, LedgerError};
use crate::services::Services;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A session as it may be shown: everything but its secret's hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SessionView {
    /// The public part of the cookie.
    pub id: SessionId,
    /// Who pays.
    pub tenant: TenantId,
    /// The person within the tenant; absent for a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// How it was begun: `api_key`, `password` …
    pub by: String,
    /// The identity provider that vouched for the person, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderId>,
    /// The API key that was shown, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// The kind of browser, such as `Firefox on Linux`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub browser: Option<String>,
    /// When it was begun.
    pub created_at: WallMillis,
    /// When it was noted as used last.
    pub seen_at: WallMillis,
    /// When it ends unless it is used.
    pub idle_until: WallMillis,
    /// When it ends at the latest.
    pub ends_at: WallMillis,
}

/// Whose sessions are listed or ended; none named: all are listed, and none is ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionQuery {
    /// Of that tenant.
    #[serde(default)]
    pub tenant: Option<TenantId>,
    /// Of that user, in whatever case the name is written.
    #[serde(default)]
    pub user: Option<UserId>,
}

/// How many sessions were ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EndedSessions {
    /// So many; those that were over already count too.
    pub ended: usize,
}

impl SessionQuery {
    /// Whose are meant.
    pub fn whose(&self) -> WhoseSessions {
        match (&self.tenant, &self.user) {
            (None, None) => WhoseSessions::All,
            (Some(tenant), None) => WhoseSessions::Tenant(tenant.clone()),
            (tenant, Some(user)) => WhoseSessions::User(tenant.clone(), user.clone()),
        }
    }

    /// The query of the route.
    pub fn text(&self) -> String {
        let tenant = self.tenant.as_ref().map(|tenant| format!("tenant={tenant}"));
        // Of a user id's letters only `+` means something else in a query.
        let user = self.user.as_ref().map(|user| format!("user={}", user.as_str().replace('+', "%2B")));
        let pairs: Vec<String> = tenant.into_iter().chain(user).collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }
}

/// The sessions that have not ended, the oldest first.
///
/// # Errors
/// The ledger's.
pub async fn views<L: Ledger + ?Sized>(
    ledger: &L,
    whose: &WhoseSessions,
    bounds: SessionBounds,
    now: WallMillis,
) -> Result<Vec<SessionView>, LedgerError> {
    let rows = ledger.sessions(whose).await?.into_iter().filter(|row| !bounds.over(row, now));
    Ok(rows.map(|row| SessionView::of(row, bounds)).collect())
}

impl SessionView {
    /// As it may be shown.
    pub fn of(row: SessionRow, bounds: SessionBounds) -> Self {
        Self {
            by: row.by().to_owned(),
            provider: row.oidc.as_ref().map(|grant| grant.provider.clone()),
            idle_until: bounds.ends_at(&row).min(row.seen_at.plus(bounds.idle_timeout)),
            ends_at: bounds.ends_at(&row),
            id: row.id,
            tenant: row.owner.tenant,
            user: row.owner.user,
            key: row.owner.key,
            browser: row.browser,
            created_at: row.created_at,
            seen_at: row.seen_at,
        }
    }
}

/// The routes.
pub fn router(services: &Arc<Services>) -> Api {
    let whose = |operation: Operation| {
        operation
            .query("tenant", "of this tenant")
            .query("user", "of this user")
            .refuses(&[Code::TooManyRows, Code::Unavailable])
    };
    Api::new()
        .route(
            whose(Operation::get("/v1/sessions", "Sessions of browsers"))
                .json::<Vec<SessionView>>(StatusCode::OK, "the sessions"),
            list,
        )
        .route(
            whose(Operation::delete("/v1/sessions", "Ends the sessions of a tenant or a user"))
                .refuses(&[Code::NobodyNamed])
                .json::<EndedSessions>(StatusCode::OK, "how many were ended"),
            ended,
        )
        .route(
            Operation::delete("/v1/sessions/{id}", "Ends one session")
                .json::<EndedSessions>(StatusCode::OK, "it is over; 0: it was before, or there never was one")
                .refuses(&[Code::Unavailable]),
            ended_one,
        )
        .with_state(Arc::clone(services))
}

async fn list(
    State(services): State<Arc<Services>>,
    Asked(query): Asked<SessionQuery>,
) -> Result<Json<Vec<SessionView>>, Refused> {
    let (bounds, now) = (services.config().sessions, services.clock.wall());
    Ok(Json(views(&*services.ledger, &query.whose(), bounds, now).await?))
}

async fn ended(
    State(services): State<Arc<Services>>,
    Asked(query): Asked<SessionQuery>,
) -> Result<Json<EndedSessions>, Refused> {
    if query == SessionQuery::default() {
        let text = "name `tenant`, `user` or both: everybody's sessions are not ended by leaving something out";
        return Err(Refused::new(Code::NobodyNamed, text));
    }
    let rows = services.ledger.end_sessions(&query.whose(), None).await?;
    tell(&services, &rows);
    Ok(Json(EndedSessions { ended: rows.len() }))
}

async fn ended_one(State(services): State<Arc<Services>>, Named(id): Named) -> Result<Json<EndedSessions>, Refused> {
    let none = Ok(Json(EndedSessions { ended: 0 }));
    let Ok(id) = id.parse::<SessionId>() else { return none };
    let row = match services.ledger.session(id).await {
        Err(LedgerError::NotFound { .. }) => return none,
        row => row?,
    };
    services.ledger.end_session(id).await?;
    tell(&services, &[row]);
    Ok(Json(EndedSessions { ended: 1 }))
}

/// Ends every session of a tenant that was closed: its cookies must not be good again when it is opened.
///
/// # Errors
/// The ledger's; then they are there still, and refused while the tenant is closed.
pub async fn end_of_tenant(services: &Services, tenant: &TenantId) -> Result<(), LedgerError> {
    let rows = services.ledger.end_sessions(&WhoseSessions::Tenant(tenant.clone()), None).await?;
    for row in &rows {
        services.browsers.end(row.id);
        services.audit.session_ended(row.id, &row.owner, "its tenant was disabled");
    }
    Ok(())
}

fn tell(services: &Services, rows: &[SessionRow]) {
    for row in rows {
        services.browsers.end(row.id);
        services.audit.session_ended(row.id, &row.owner, "by an operator");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::Query;

    #[test]
    fn a_query_reads_back_what_it_says_and_knows_no_other_keys() {
        let query = |tenant: Option<&str>, user: Option<&str>| SessionQuery {
            tenant: tenant.map(|id| id.parse().unwrap()),
            user: user.map(|id| id.parse().unwrap()),
        };
        for asked in
            [query(None, None), query(Some("a"), None), query(None, Some("u+x@y")), query(Some("a"), Some("u"))]
        {
            let uri = format!("/v1/sessions{}", asked.text()).parse().unwrap();
            let Query(read) = Query::<SessionQuery>::try_from_uri(&uri).unwrap();
            assert_eq!(read, asked);
        }
        let unknown = "/v1/sessions?tennant=a".parse().unwrap();
        assert!(Query::<SessionQuery>::try_from_uri(&unknown).is_err());
    }
}
