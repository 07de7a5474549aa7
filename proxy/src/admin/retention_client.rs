//! The command line's end of [`retention`](super::retention).

use super::api_error::ApiError;
use super::control_client::{ControlClient, ControlError, read, refused};
use super::tenants::unknown;
use crate::ids::TenantId;
use crate::record::ledger::managed::ErasureRow;
use crate::retention::{Erasure, Report, Wanted};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A run over all contents of a large store.
const RUN_TIMEOUT: Duration = Duration::from_secs(3600);

impl ControlClient {
    /// Removes what is due now, or tells it. The inner answer is no with a reason.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn retention(&self, wanted: &Wanted) -> Result<Result<Report, String>, ControlError> {
        let body = serde_json::to_vec(wanted).map_err(|error| ControlError::Answer(error.to_string()))?;
        self.long("/v1/retention", body).await
    }

    /// What the last run did; `None`: there was none.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn last_retention(&self) -> Result<Option<Report>, ControlError> {
        match self.call(Method::GET, "/v1/retention", Vec::new()).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, body) => read(&body).map(Some),
        }
    }

    /// Removes all that a tenant has, and with `deletes` itself; asks until nothing is left. The inner answer is no with a reason.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn erase_tenant(
        &self,
        tenant: &TenantId,
        deletes: bool,
    ) -> Result<Result<Erasure, String>, ControlError> {
        let (method, path) = match deletes {
            true => (Method::DELETE, format!("/v1/tenants/{tenant}?erase=true")),
            false => (Method::POST, format!("/v1/tenants/{tenant}/erase")),
        };
        // How far it was when it was asked before: it may come to its end between two questions.
        let mut asked: Option<ErasureRow> = None;
        loop {
            let (status, answer) = self.exchange(method.clone(), &path, Vec::new(), RUN_TIMEOUT).await?;
            let over = || Some(Erasure { deleted: deletes, ..Erasure::so_far(asked.as_ref()?) });
            match (status, answer) {
                (StatusCode::OK, answer) => {
                    let erasure: Erasure = read(&answer)?;
                    let before = erasure.deleted_at.and_then(|_| over());
                    return Ok(Ok(before.unwrap_or(erasure)));
                }
                (StatusCode::ACCEPTED, answer) => asked = Some(read(&answer)?),
                (StatusCode::NOT_FOUND, _) => return Ok(over().ok_or_else(|| unknown(tenant, deletes))),
                (StatusCode::CONFLICT | StatusCode::GONE, answer) => {
                    return Ok(Err(ApiError::read(&answer).to_string()));
                }
                (_, answer) => return Err(refused(&answer)),
            }
        }
    }

    /// What is said of a tenant that was deleted; `None`: it was not, or long ago.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn deleted_tenant(&self, tenant: &TenantId) -> Result<Option<String>, ControlError> {
        match self.exchange(Method::GET, &format!("/v1/tenants/{tenant}"), Vec::new(), RUN_TIMEOUT).await? {
            (StatusCode::GONE, answer) => read::<ApiError>(&answer).map(|error| Some(error.error)),
            _ => Ok(None),
        }
    }

    async fn long<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<Result<T, String>, ControlError> {
        match self.exchange(Method::POST, path, body, RUN_TIMEOUT).await? {
            (StatusCode::OK, answer) => read(&answer).map(Ok),
            (StatusCode::CONFLICT | StatusCode::NOT_FOUND, answer) => Ok(Err(ApiError::read(&answer).to_string())),
            (_, answer) => Err(refused(&answer)),
        }
    }
}
