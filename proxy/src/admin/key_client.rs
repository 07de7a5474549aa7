//! Keys, through the command line's end of the control socket.

use super::control_client::{ControlClient, ControlError, read, written};
use super::keys::{CheckRequest, CheckedKey, KeyFilter, KeyRequest, KeyView, MadeKey, RotateRequest};
use crate::ids::KeyId;
use http::{Method, StatusCode};

impl ControlClient {
    /// Makes a key.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_key(&self, request: &KeyRequest) -> Result<MadeKey, ControlError> {
        self.call(Method::POST, "/v1/keys", written(request)?).await.and_then(|answer| read(&answer.1))
    }

    /// Has another key take its place; `None`: there is no such key.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn rotate_key(&self, id: &KeyId, request: RotateRequest) -> Result<Option<MadeKey>, ControlError> {
        self.of_key(Method::POST, &format!("/v1/keys/{id}/rotate"), written(&request)?).await
    }

    /// The keys that fit, by id.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn keys(&self, filter: &KeyFilter) -> Result<Vec<KeyView>, ControlError> {
        // Ids need no escapes.
        let tenant = filter.tenant.iter().map(|tenant| format!("tenant={tenant}"));
        let state = filter.state.iter().map(|state| format!("state={}", state.name()));
        let query: Vec<_> = tenant.chain(state).collect();
        let all: Vec<KeyView> = self
            .call(Method::GET, &format!("/v1/keys?{}", query.join("&")), Vec::new())
            .await
            .and_then(|answer| read(&answer.1))?;
        // Of users only here: their ids may have characters that a query has not.
        Ok(all.into_iter().filter(|key| filter.is_of_user(key)).collect())
    }

    /// One key; `None`: there is no such key.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn key(&self, id: &KeyId) -> Result<Option<KeyView>, ControlError> {
        self.of_key(Method::GET, &format!("/v1/keys/{id}"), Vec::new()).await
    }

    /// Whose key a text is that somebody found.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn check_key(&self, key: String) -> Result<CheckedKey, ControlError> {
        let body = written(&CheckRequest { key })?;
        self.call(Method::POST, "/v1/keys/check", body).await.and_then(|answer| read(&answer.1))
    }

    /// Refuses a key from now on; `None`: there is no such key.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn revoke_key(&self, id: &KeyId) -> Result<Option<KeyView>, ControlError> {
        self.of_key(Method::POST, &format!("/v1/keys/{id}/revoke"), Vec::new()).await
    }

    async fn of_key<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Option<T>, ControlError> {
        match self.call(method, path, body).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, body) => read(&body).map(Some),
        }
    }
}
