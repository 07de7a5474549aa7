//! The command line's end of [`users`](super::users) and [`sessions`](super::sessions).

use super::control_client::{ControlClient, ControlError, read, written};
use super::sessions::{EndedSessions, SessionQuery, SessionView};
use super::users::{EndedLinks, LinkRequest, LinkView, UserRequest, UserView};
use crate::ids::{SessionId, TenantId, UserId};
use http::{Method, StatusCode};

impl ControlClient {
    /// Makes a user, or changes the one that is there.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn put_user(&self, name: &UserId, request: &UserRequest) -> Result<UserView, ControlError> {
        let body = written(request)?;
        self.call(Method::PUT, &format!("/v1/users/{name}"), body).await.and_then(|answer| read(&answer.1))
    }

    /// Every user, or a tenant's.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn users(&self, tenant: Option<&TenantId>) -> Result<Vec<UserView>, ControlError> {
        let query = tenant.map(|tenant| format!("?tenant={tenant}")).unwrap_or_default();
        self.call(Method::GET, &format!("/v1/users{query}"), Vec::new()).await.and_then(|answer| read(&answer.1))
    }

    /// One user; `None`: there is none of that name.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn user(&self, name: &UserId) -> Result<Option<UserView>, ControlError> {
        match self.call(Method::GET, &format!("/v1/users/{name}"), Vec::new()).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, body) => read(&body).map(Some),
        }
    }

    /// Forgets a user.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn remove_user(&self, name: &UserId) -> Result<(), ControlError> {
        self.call(Method::DELETE, &format!("/v1/users/{name}"), Vec::new()).await.map(drop)
    }

    /// Ends the one-time link of a name; gives how many were good.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn end_link(&self, name: &UserId) -> Result<usize, ControlError> {
        match self.call(Method::DELETE, &format!("/v1/users/{name}/link"), Vec::new()).await? {
            (StatusCode::NOT_FOUND, _) => Ok(0),
            (_, body) => read::<EndedLinks>(&body).map(|links| links.ended),
        }
    }

    /// A one-time link for a user.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn user_link(&self, name: &UserId, request: &LinkRequest) -> Result<LinkView, ControlError> {
        let body = written(request)?;
        self.call(Method::POST, &format!("/v1/users/{name}/link"), body).await.and_then(|answer| read(&answer.1))
    }

    /// Browsers' sessions.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn sessions(&self, query: &SessionQuery) -> Result<Vec<SessionView>, ControlError> {
        let path = format!("/v1/sessions{}", query.text());
        self.call(Method::GET, &path, Vec::new()).await.and_then(|answer| read(&answer.1))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn end_session(&self, id: SessionId) -> Result<EndedSessions, ControlError> {
        self.call(Method::DELETE, &format!("/v1/sessions/{id}"), Vec::new()).await.and_then(|answer| read(&answer.1))
    }

    /// Ends a tenant's or a user's sessions.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn end_sessions(&self, query: &SessionQuery) -> Result<EndedSessions, ControlError> {
        let path = format!("/v1/sessions{}", query.text());
        self.call(Method::DELETE, &path, Vec::new()).await.and_then(|answer| read(&answer.1))
    }
}
