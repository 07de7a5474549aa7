//! Local users: made, changed, listed and removed, through the control socket or on the ledger itself.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `PUT /v1/users/{name}` | [`UserRequest`] | [`UserView`]: the user is as the body says, whether it was there before or not |
//! | `GET /v1/users[?tenant=]` | | `[UserView]` |
//! | `GET /v1/users/{name}` | | [`UserView`], or 404 |
//! | `DELETE /v1/users/{name}` | | 204, also a second time |
//! | `POST /v1/users/{name}/link` | [`LinkRequest`] | [`LinkView`] |
//! | `DELETE /v1/users/{name}/link` | | [`EndedLinks`]: none where there is none that is good |

use super::api::{Api, Operation};
use super::api_error::{Asked, Body, Code, Named, Refused, no_tenant};
use super::keys::named_scopes;
use crate::authenticate::endings::Subject;
use crate::authenticate::login_links::{self, LinkError, LinkFor};
use crate::authenticate::passwords::{Checked, HashError, Password, PasswordFault, Passwords, Typed};
use crate::clock::{Clock, WallMillis};
use crate::ids::{SessionId, TenantId, UserId};
use crate::owner::{Owner, Scope, Scopes};
use crate::record::audit::Audit;
use crate::record::ledger::users::{ChangedUser, PasswordChange, UserChange, UserRow};
use crate::record::ledger::{Ledger, LedgerError};
use crate::services::Services;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A label is a word to remember somebody by.
const LABEL_CHARS_MAX: usize = 100;

/// How a user is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserRequest {
    /// Whose user; can't be changed.
    pub tenant: TenantId,
    /// What the user may do; absent: what a client needs.
    #[serde(default, deserialize_with = "named_scopes", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub scopes: Vec<Scope>,
    /// For people; up to 100 characters, none of them control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whether the user may not log in. Absent: as it is, and a new one may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// The password; absent: as it is. A new user needs one. The one that the user has already changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Typed>,
}

/// A user as it may be shown: everything but what is kept of the password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[allow(missing_docs, reason = "the fields of UserRow, by the same names")]
pub struct UserView {
    pub name: UserId,
    pub tenant: TenantId,
    pub scopes: Scopes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<WallMillis>,
    pub created_at: WallMillis,
    pub changed_at: WallMillis,
}

/// For whom a one-time link is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkRequest {
    /// Whose user.
    pub tenant: TenantId,
    /// What the user may do if the link makes it; absent: what a client needs. One that is there keeps its own.
    #[serde(default, deserialize_with = "named_scopes", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub scopes: Vec<Scope>,
}

/// A one-time link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LinkView {
    /// With its secret: it is told once.
    pub url: String,
    /// Until when it is good.
    pub expires_at: WallMillis,
}

/// How many one-time links were ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EndedLinks {
    /// So many.
    pub ended: usize,
}

/// Which users are listed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserQuery {
    /// Whose; absent: all.
    #[serde(default)]
    pub tenant: Option<TenantId>,
}

/// Why a user was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Too long, or with control characters.
    #[error("a label has at most 100 characters, none of them control characters")]
    Label,
    /// Not a password that is taken.
    #[error(transparent)]
    Password(#[from] PasswordFault),
    /// Nobody could log in.
    #[error("there is no user `{0}` yet: a new one needs a password")]
    NoPassword(UserId),
    /// Names are unique over all tenants.
    #[error(
        "`{name}` is a user of the tenant `{tenant}`: names are unique over all tenants, in whatever case; choose another, or remove that user first"
    )]
    OtherTenant {
        /// As its row has it.
        name: UserId,
        /// Whose it is.
        tenant: TenantId,
    },
    /// Somebody else was quicker.
    #[error("the user `{0}` was changed by somebody else at the same moment: look again")]
    Moved(UserId),
    /// Too much at once, or the system's fault.
    #[error("{0}")]
    Hash(#[from] HashError),
    /// As many as may be.
    #[error("there are {limit} local users, which is all that may be: raise `[limits] users_max`, or remove some")]
    Full {
        /// How many there may be.
        limit: u64,
    },
    /// The ledger's own reason.
    #[error(transparent)]
    Ledger(LedgerError),
}

impl From<LedgerError> for UserError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Full { limit, .. } => Self::Full { limit },
            other => Self::Ledger(other),
        }
    }
}

/// What became of a user.
#[derive(Debug, Clone, PartialEq)]
pub struct PutUser {
    /// As it is now.
    pub view: UserView,
    /// What was done, for the audit log.
    pub done: UserDone,
    /// Sessions that ended by it.
    pub ended: Vec<SessionId>,
}

/// What was done to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserDone {
    /// It was not there.
    Created,
    /// It was otherwise.
    Changed {
        /// Whether it has another password now.
        password: bool,
    },
    /// It was as it should be.
    Nothing,
}

/// Makes and changes users.
#[derive(Clone)]
pub struct UserService {
    ledger: Arc<dyn Ledger>,
    passwords: Passwords,
    clock: Clock,
}

impl UserService {
    /// On that ledger.
    pub fn new(ledger: Arc<dyn Ledger>, passwords: Passwords, clock: Clock) -> Self {
        Self { ledger, passwords, clock }
    }

    /// Makes a user as `request` says, or changes the one that is there; `limit` users at most. The same request a second time changes nothing.
    ///
    /// # Errors
    /// [`UserError`].
    pub async fn put(&self, name: &UserId, request: &UserRequest, limit: u64) -> Result<PutUser, UserError> {
        let label = request.label.as_deref().unwrap_or_default();
        if label.chars().count() > LABEL_CHARS_MAX || label.chars().any(char::is_control) {
            return Err(UserError::Label);
        }
        match self.ledger.user(name).await {
            Ok(row) => self.change(row, request).await,
            Err(LedgerError::NotFound { .. }) => self.create(name, request, limit).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn create(&self, name: &UserId, request: &UserRequest, limit: u64) -> Result<PutUser, UserError> {
        let typed = request.password.as_ref().ok_or_else(|| UserError::NoPassword(name.clone()))?;
        let password = self.passwords.hash(Password::new(typed, name)?, None).await?;
        let now = self.clock.wall();
        let row = UserRow {
            name: name.clone(),
            tenant: request.tenant.clone(),
            password,
            password_version: now.0,
            scopes: scopes(&request.scopes),
            label: request.label.clone(),
            disabled_at: request.disabled.unwrap_or(false).then_some(now),
            created_at: now,
            changed_at: now,
        };
        match self.ledger.insert_user(row.clone(), limit).await {
            Ok(()) => Ok(PutUser { view: row.into(), done: UserDone::Created, ended: Vec::new() }),
            Err(LedgerError::Conflict { .. }) => Err(UserError::Moved(name.clone())),
            Err(error) => Err(error.into()),
        }
    }

    async fn change(&self, was: UserRow, request: &UserRequest) -> Result<PutUser, UserError> {
        if was.tenant != request.tenant {
            return Err(UserError::OtherTenant { name: was.name, tenant: was.tenant });
        }
        let password = match &request.password {
            None => None,
            Some(typed) => match self.passwords.check(typed, Some(was.password.clone()), None).await? {
                Checked::Right { .. } => None,
                Checked::Wrong => {
                    let hash = self.passwords.hash(Password::new(typed, &was.name)?, None).await?;
                    Some(PasswordChange::Reset(hash))
                }
            },
        };
        let change = UserChange {
            scopes: Some(scopes(&request.scopes)),
            label: Some(request.label.clone()),
            disabled: request.disabled,
            password,
            // A hash takes its time.
            of: Some((was.tenant.clone(), was.created_at)),
        };
        match self.ledger.change_user(&was.name, change, self.clock.wall()).await {
            Ok(ChangedUser { row, ended, .. }) => {
                let password = row.password_version != was.password_version;
                let done = if row == was { UserDone::Nothing } else { UserDone::Changed { password } };
                Ok(PutUser { view: row.into(), done, ended })
            }
            Err(LedgerError::NotFound { .. } | LedgerError::Conflict { .. }) => Err(UserError::Moved(was.name)),
            Err(error) => Err(error.into()),
        }
    }

    /// Every user, or a tenant's, by name.
    ///
    /// # Errors
    /// [`UserError::Ledger`].
    pub async fn list(&self, tenant: Option<&TenantId>) -> Result<Vec<UserView>, UserError> {
        Ok(self.ledger.users(tenant).await?.into_iter().map(UserView::from).collect())
    }

    /// One user; `None`: there is none of that name.
    ///
    /// # Errors
    /// [`UserError::Ledger`].
    pub async fn one(&self, name: &UserId) -> Result<Option<UserView>, UserError> {
        found(self.ledger.user(name).await.map(UserView::from))
    }

    /// Forgets a user and revokes its keys; `None`: there is none of that name. What it owns stays, and a user of the same name in the same tenant has it again.
    ///
    /// # Errors
    /// [`UserError::Ledger`].
    pub async fn remove(&self, name: &UserId) -> Result<Option<ChangedUser>, UserError> {
        found(self.ledger.remove_user(name, self.clock.wall()).await)
    }
}

fn found<T>(looked: Result<T, LedgerError>) -> Result<Option<T>, UserError> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(LedgerError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn scopes(named: &[Scope]) -> Scopes {
    if named.is_empty() { Scopes::of_a_client() } else { named.iter().copied().collect() }
}

impl PutUser {
    /// The line of the audit log; what is as it was gives none.
    pub fn tell(&self, audit: &Audit) {
        let owner = self.view.owner();
        match self.done {
            UserDone::Created => audit.user_created(&owner),
            UserDone::Changed { password } => {
                audit.user_changed(&owner, password, self.view.disabled_at.is_some());
            }
            UserDone::Nothing => {}
        }
    }
}

impl ChangedUser {
    /// The lines of the audit log for one that was removed.
    pub fn tell(&self, audit: &Audit) {
        let owner = self.row.owner();
        audit.user_removed(&owner);
        for key in &self.revoked {
            audit.key_revoked(key, &Owner { key: Some(key.clone()), ..owner.clone() });
        }
    }
}

impl UserView {
    /// Whose name the user acts in.
    pub fn owner(&self) -> Owner {
        Owner { tenant: self.tenant.clone(), user: Some(self.name.clone()), key: None, shared: false }
    }
}

impl From<UserRow> for UserView {
    fn from(row: UserRow) -> Self {
        Self {
            name: row.name,
            tenant: row.tenant,
            scopes: row.scopes,
            label: row.label,
            disabled_at: row.disabled_at,
            created_at: row.created_at,
            changed_at: row.changed_at,
        }
    }
}

#[derive(Clone)]
struct Shared {
    users: UserService,
    services: Arc<Services>,
}

/// The routes.
pub fn router(services: &Arc<Services>) -> Api {
    let passwords = services.local_users.passwords.clone();
    let users = UserService::new(Arc::clone(&services.ledger), passwords, services.clock.clone());
    let ok = StatusCode::OK;
    let unavailable = |operation: Operation| operation.refuses(&[Code::Unavailable]);
    Api::new()
        .route(
            unavailable(Operation::get("/v1/users", "Every local user"))
                .query("tenant", "only of this tenant")
                .json::<Vec<UserView>>(ok, "the users")
                .refuses(&[Code::TooManyRows]),
            list,
        )
        .route(
            unavailable(Operation::get("/v1/users/{name}", "One local user"))
                .json::<UserView>(ok, "the user")
                .refuses(&[Code::NotFound]),
            one,
        )
        .route(
            unavailable(Operation::put("/v1/users/{name}", "Makes a local user, or changes it"))
                .body::<UserRequest>()
                .json::<UserView>(ok, "the user")
                .refuses(&[Code::OtherTenant, Code::MovedOn, Code::TooManyUsers, Code::Erasing])
                .refuses(&[Code::BadId, Code::UnknownTenant, Code::Faulty]),
            put,
        )
        .route(
            unavailable(Operation::delete("/v1/users/{name}", "Removes a local user"))
                .empty(StatusCode::NO_CONTENT, "it is not there"),
            removed,
        )
        .route(
            unavailable(Operation::post("/v1/users/{name}/link", "Makes a login link that is good once"))
                .body::<LinkRequest>()
                .json::<LinkView>(ok, "the link")
                .refuses(&[Code::NotFound, Code::OtherTenant, Code::UserDisabled, Code::TooManyLinks])
                .refuses(&[Code::UnknownTenant]),
            link,
        )
        .route(
            Operation::delete(
                "/v1/users/{name}/link",
                "Ends the login link of a name, whether there is such a user or not",
            )
            .json::<EndedLinks>(ok, "it is over; 0: none was good")
            .refuses(&[Code::NotFound]),
            link_ended,
        )
        .with_state(Shared { users, services: Arc::clone(services) })
}

async fn put(
    State(shared): State<Shared>,
    Named(name): Named,
    Body(request): Body<UserRequest>,
) -> Result<Json<UserView>, Refused> {
    let name = name.parse::<UserId>().map_err(|error| Refused::new(Code::BadId, error.to_string()))?;
    let services = &shared.services;
    if services.tenants().tenant(&request.tenant).is_none() {
        return Err(no_tenant(&request.tenant));
    }
    let limit = u64::from(services.config().limits.users_max);
    let put = shared.users.put(&name, &request, limit).await?;
    put.tell(&services.audit);
    // A link that was made before would undo this.
    services.local_users.links.end_of(&name);
    services.users_changed(&put.view.tenant, &put.view.name, &put.ended).await;
    Ok(Json(put.view))
}

async fn list(State(shared): State<Shared>, Asked(query): Asked<UserQuery>) -> Result<Json<Vec<UserView>>, Refused> {
    Ok(Json(shared.users.list(query.tenant.as_ref()).await?))
}

fn name_of(name: &str) -> Result<UserId, Refused> {
    name.parse().map_err(|error| Refused::not_found(format!("there is no such user: {error}")))
}

async fn one(State(shared): State<Shared>, Named(name): Named) -> Result<Json<UserView>, Refused> {
    let name = name_of(&name)?;
    let missing = || Refused::not_found(format!("there is no local user `{name}`: `GET /v1/users` tells them"));
    shared.users.one(&name).await?.map(Json).ok_or_else(missing)
}

async fn removed(State(shared): State<Shared>, Named(name): Named) -> Result<StatusCode, Refused> {
    // What can't be a name is nobody's: it is not there.
    let Ok(name) = name.parse::<UserId>() else { return Ok(StatusCode::NO_CONTENT) };
    // Of one that is still to be made, too.
    shared.services.local_users.links.end_of(&name);
    if let Some(removed) = shared.users.remove(&name).await? {
        removed.tell(&shared.services.audit);
        for key in &removed.revoked {
            shared.services.endings.tell(&Subject::Key(key.clone()));
        }
        shared.services.users_changed(&removed.row.tenant, &removed.row.name, &removed.ended).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn link(
    State(shared): State<Shared>,
    Named(name): Named,
    Body(request): Body<LinkRequest>,
) -> Result<Json<LinkView>, Refused> {
    let name = name_of(&name)?;
    let services = &shared.services;
    if services.tenants().tenant(&request.tenant).is_none() {
        return Err(no_tenant(&request.tenant));
    }
    let name = match shared.users.one(&name).await? {
        Some(view) if view.tenant != request.tenant => {
            return Err(UserError::OtherTenant { name: view.name, tenant: view.tenant }.into());
        }
        Some(view) if view.disabled_at.is_some() => {
            let text = format!("the user `{}` is disabled: enable it first", view.name);
            return Err(Refused::new(Code::UserDisabled, text));
        }
        Some(view) => view.name,
        None => name,
    };
    let owner = Owner { tenant: request.tenant.clone(), user: Some(name.clone()), key: None, shared: false };
    let wanted = LinkFor::User { name, tenant: request.tenant, scopes: scopes(&request.scopes) };
    let token = services.local_users.links.make(wanted, &SystemRandom::new(), &services.clock)?;
    services.audit.login_link_made(&owner);
    let expires_at = services.clock.wall().plus(login_links::LIFETIME);
    Ok(Json(LinkView { url: login_links::url(&services.config(), &token), expires_at }))
}

impl From<LinkError> for Refused {
    fn from(error: LinkError) -> Self {
        let code = match error {
            LinkError::Full => Code::TooManyLinks,
            LinkError::Random => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

async fn link_ended(State(shared): State<Shared>, Named(name): Named) -> Result<Json<EndedLinks>, Refused> {
    let name = name_of(&name)?;
    let local_users = &shared.services.local_users;
    Ok(Json(EndedLinks { ended: local_users.links.end_good_of(&name, &shared.services.clock) }))
}

impl From<UserError> for Refused {
    fn from(error: UserError) -> Self {
        let code = match error {
            UserError::Label => return Self::at(Code::Faulty, "/label", error),
            UserError::Password(_) | UserError::NoPassword(_) => return Self::at(Code::Faulty, "/password", error),
            UserError::Hash(busy) => return Self::unavailable(busy).retry_after(busy.retry_after()),
            UserError::Ledger(error) => return error.into(),
            UserError::OtherTenant { .. } => Code::OtherTenant,
            UserError::Moved(_) => Code::MovedOn,
            UserError::Full { .. } => Code::TooManyUsers,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::redb::{RedbLedger, RedbOptions};
    use std::time::Duration;

    fn service(dir: &tempfile::TempDir) -> (UserService, Clock) {
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let clock = Clock::turned_by_hand(WallMillis(1000));
        (UserService::new(Arc::new(ledger), Passwords::default(), clock.clone()), clock)
    }

    fn request(password: Option<&str>) -> UserRequest {
        UserRequest {
            tenant: "a".parse().unwrap(),
            scopes: vec![],
            label: None,
            disabled: None,
            password: password.map(Typed::new),
        }
    }

    fn ann() -> UserId {
        "ann".parse().unwrap()
    }

    #[tokio::test]
    async fn the_same_request_twice_gives_the_same_user_and_changes_nothing_the_second_time() {
        let dir = tempfile::tempdir().unwrap();
        let (service, clock) = service(&dir);
        let wanted = request(Some("a long enough one"));
        let first = service.put(&ann(), &wanted, 9).await.unwrap();
        assert_eq!((first.done, first.view.scopes), (UserDone::Created, Scopes::of_a_client()));
        clock.turn(Duration::from_secs(1));
        let second = service.put(&"ANN".parse().unwrap(), &wanted, 9).await.unwrap();
        assert_eq!((second.done, &second.view), (UserDone::Nothing, &first.view));
        let other = service.put(&ann(), &request(Some("another long one")), 9).await.unwrap();
        assert_eq!(other.done, UserDone::Changed { password: true });
        let kept = service.put(&ann(), &UserRequest { label: Some("Ann".into()), ..request(None) }, 9).await.unwrap();
        assert_eq!((kept.done, kept.view.changed_at), (UserDone::Changed { password: false }, WallMillis(2000)));
        assert_eq!(service.one(&ann()).await.unwrap(), Some(kept.view.clone()));
        assert_eq!(service.list(None).await.unwrap(), std::slice::from_ref(&kept.view));
        assert!(!serde_json::to_string(&kept.view).unwrap().contains("argon2"));
    }

    #[tokio::test]
    async fn a_user_that_was_disabled_stays_so_until_a_request_says_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let (service, _) = service(&dir);
        let wanted = |disabled| UserRequest { disabled, ..request(Some("a long enough one")) };
        assert_eq!(service.put(&ann(), &wanted(None), 9).await.unwrap().view.disabled_at, None);
        let closed = service.put(&ann(), &wanted(Some(true)), 9).await.unwrap();
        assert!(closed.view.disabled_at.is_some());
        let again = service.put(&ann(), &wanted(None), 9).await.unwrap();
        assert_eq!((again.done, again.view), (UserDone::Nothing, closed.view));
        assert_eq!(service.put(&ann(), &wanted(Some(false)), 9).await.unwrap().view.disabled_at, None);
        let new = service.put(&"bob".parse().unwrap(), &wanted(Some(true)), 9).await.unwrap();
        assert!(new.view.disabled_at.is_some());
    }

    #[tokio::test]
    async fn what_is_no_user_is_refused_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (service, _) = service(&dir);
        assert!(matches!(service.put(&ann(), &request(None), 9).await, Err(UserError::NoPassword(_))));
        let short = service.put(&ann(), &request(Some("short")), 9).await;
        assert!(matches!(short, Err(UserError::Password(PasswordFault::Short))), "{short:?}");
        let label = |text: String| UserRequest { label: Some(text), ..request(Some("a long enough one")) };
        assert!(matches!(service.put(&ann(), &label("é".repeat(101)), 9).await, Err(UserError::Label)));
        assert!(service.put(&ann(), &label("é".repeat(100)), 9).await.is_ok());
        let elsewhere = UserRequest { tenant: "b".parse().unwrap(), ..request(None) };
        let refused = service.put(&ann(), &elsewhere, 9).await;
        assert!(matches!(refused, Err(UserError::OtherTenant { .. })), "{refused:?}");
        let full = service.put(&"bob".parse().unwrap(), &request(Some("a long enough one")), 1).await;
        assert!(matches!(full, Err(UserError::Full { limit: 1 })), "{full:?}");
    }

    #[tokio::test]
    async fn a_user_is_removed_once_and_a_second_time_nothing_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (service, _) = service(&dir);
        service.put(&ann(), &request(Some("a long enough one")), 9).await.unwrap();
        assert!(service.remove(&ann()).await.unwrap().is_some());
        assert!(service.remove(&ann()).await.unwrap().is_none());
        assert!(service.one(&ann()).await.unwrap().is_none());
    }

    #[test]
    fn a_request_shows_its_password_to_nobody_and_knows_no_other_fields() {
        let read: UserRequest = serde_json::from_str(r#"{"tenant":"a","password":"hunter2hunter2"}"#).unwrap();
        assert!(!format!("{read:?}").contains("hunter2"), "{read:?}");
        assert!(serde_json::from_str::<UserRequest>(r#"{"tenant":"a","pasword":"x"}"#).is_err());
        assert!(serde_json::from_str::<LinkRequest>(r#"{"tenant":"a","scope":[]}"#).is_err());
    }
}
