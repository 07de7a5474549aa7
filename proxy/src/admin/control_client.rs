//! The command line's end of the control socket.

use super::adoption::{AdoptRequest, ContentRequest, Outcome, Page, PageRequest};
use super::api_error::{ApiError, Code};
use super::lifecycle::{ReloadReport, UpgradeReport, UpgradeRequest};
use super::tenants::{TenantDetail, TenantView};
use crate::ids::TenantId;
use crate::tenants::managed::{OnlyIf, PutOptions};
use crate::tenants::written::TenantSpec;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// A list of many thousand keys.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The gateway is on this machine.
const TIMEOUT: Duration = Duration::from_secs(10);
/// It copies files of whatever size from one disk to another.
const COPY_TIMEOUT: Duration = Duration::from_secs(3600);
/// A large catalogue on a slow disk.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A successor reads its configuration, and perhaps brings the ledger up to date.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(300);

/// Speaks to a running gateway.
#[derive(Debug)]
pub struct ControlClient {
    socket: PathBuf,
}

/// Why the gateway did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The lock is held, but nobody is there.
    #[error("no gateway answers on `{path}`: {reason}")]
    NoGateway {
        /// The socket.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// It said no.
    #[error("the gateway refused: {0}")]
    Refused(String),
    /// Another version, perhaps.
    #[error("the gateway's answer can't be read: {0}")]
    Answer(String),
}

impl ControlClient {
    /// A client of the gateway at that socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Has the configuration read again.
    ///
    /// # Errors
    /// [`ControlError`]; a refused configuration is an answer.
    pub async fn reload(&self) -> Result<ReloadReport, ControlError> {
        match self.exchange(Method::POST, "/v1/reload", Vec::new(), RELOAD_TIMEOUT).await? {
            (StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY, answer) => read(&answer),
            (_, answer) => Err(refused(&answer)),
        }
    }

    /// Has a successor started.
    ///
    /// # Errors
    /// [`ControlError`]; an upgrade that did not come about is an answer.
    pub async fn upgrade(&self, request: &UpgradeRequest) -> Result<UpgradeReport, ControlError> {
        let body = serde_json::to_vec(request).map_err(|error| ControlError::Answer(error.to_string()))?;
        let (status, answer) = self.exchange(Method::POST, "/v1/upgrade", body, UPGRADE_TIMEOUT).await?;
        if status == StatusCode::OK {
            return read(&answer);
        }
        let error = ApiError::read(&answer);
        if error.code == Code::UpgradeRefused.name() {
            Ok(UpgradeReport::Refused(error.error))
        } else if error.code == Code::UpgradeFailed.name() {
            Ok(UpgradeReport::Failed(error.error))
        } else {
            Err(ControlError::Refused(error.to_string()))
        }
    }

    /// Every tenant.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn tenants(&self) -> Result<Vec<TenantView>, ControlError> {
        self.call(Method::GET, "/v1/tenants", Vec::new()).await.and_then(|answer| read(&answer.1))
    }

    /// One tenant with its limits; `None`: there is none, or none any more.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn tenant(&self, id: &TenantId) -> Result<Option<TenantDetail>, ControlError> {
        match self.exchange(Method::GET, &format!("/v1/tenants/{id}"), Vec::new(), TIMEOUT).await? {
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => Ok(None),
            (StatusCode::OK, body) => read(&body).map(Some),
            (_, body) => Err(refused(&body)),
        }
    }

    /// Makes a tenant, or changes it. The inner answer is no with the reasons.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn put_tenant(
        &self,
        id: &TenantId,
        spec: &TenantSpec,
        options: &PutOptions,
    ) -> Result<Result<TenantDetail, ApiError>, ControlError> {
        let condition = match options.only_if {
            OnlyIf::Anyhow => None,
            OnlyIf::New => Some((IF_NONE_MATCH, "*".to_owned())),
            OnlyIf::There => Some((IF_MATCH, "*".to_owned())),
            OnlyIf::At(version) => Some((IF_MATCH, format!("\"{version}\""))),
        };
        let path = format!("/v1/tenants/{id}{}", if options.reuse { "?reuse=true" } else { "" });
        let asking = async {
            let response = self.ask_with(Method::PUT, &path, written(spec)?, condition).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| ControlError::Answer(error.to_string()))?.to_bytes()))
        };
        let answered = tokio::time::timeout(TIMEOUT, asking).await;
        match answered.unwrap_or_else(|_| Err(self.no_gateway(format!("no answer within {TIMEOUT:?}"))))? {
            (status, body) if status.is_success() => read(&body).map(Ok),
            (_, body) => Ok(Err(ApiError::read(&body))),
        }
    }

    /// Closes a tenant that is not in the file, or opens it; `None`: there is none of that id, or the file has it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn disable_tenant(&self, id: &TenantId, disabled: bool) -> Result<Option<TenantView>, ControlError> {
        let act = if disabled { "disable" } else { "enable" };
        match self.call(Method::POST, &format!("/v1/tenants/{id}/{act}"), Vec::new()).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, body) => read(&body).map(Some),
        }
    }

    /// Lets the gateway adopt some files.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn adopt(&self, request: &AdoptRequest) -> Result<Vec<Outcome>, ControlError> {
        let answer = self.call_within(Method::POST, "/v1/adopt", written(request)?, COPY_TIMEOUT).await?;
        read(&answer.1)
    }

    /// A page of an owner's files.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn owned(&self, request: &PageRequest) -> Result<Page, ControlError> {
        self.call(Method::POST, "/v1/export/list", written(request)?).await.and_then(|answer| read(&answer.1))
    }

    /// The content of a file of userdata; `None`: it is not there any more.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn user_content(&self, request: &ContentRequest) -> Result<Option<Bytes>, ControlError> {
        match self.call(Method::POST, "/v1/export/content", written(request)?).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, content) => Ok(Some(content)),
        }
    }

    /// A success, or 404.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), ControlError> {
        self.call_within(method, path, body, TIMEOUT).await
    }

    /// The same of what a backend has to be asked for first, and of what ends in a reload.
    pub(super) async fn slow_call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), ControlError> {
        self.call_within(method, path, body, RELOAD_TIMEOUT).await
    }

    async fn call_within(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), ControlError> {
        match self.exchange(method, path, body, timeout).await? {
            (status, body) if status.is_success() || status == StatusCode::NOT_FOUND => Ok((status, body)),
            (_, body) => Err(refused(&body)),
        }
    }

    /// Any answer, whole.
    pub(super) async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), ControlError> {
        let calling = async {
            let response = self.ask(method, path, body).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| ControlError::Answer(error.to_string()))?.to_bytes();
            Ok((status, body))
        };
        tokio::time::timeout(timeout, calling)
            .await
            .unwrap_or_else(|_| Err(self.no_gateway(format!("no answer within {timeout:?}"))))
    }

    /// Any answer's head, its body still to come; without a deadline.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ControlError> {
        self.ask_with(method, path, body, None).await
    }

    async fn ask_with(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        header: Option<(HeaderName, String)>,
    ) -> Result<Response<Incoming>, ControlError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_gateway(error.to_string()))?;
        let lost = |error: hyper::Error| self.no_gateway(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "control")
            .header(CONTENT_TYPE, "application/json");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.header(CONTENT_LENGTH, body.len()).body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| ControlError::Answer(error.to_string()))?;
        sender.send_request(request).await.map_err(lost)
    }

    pub(super) fn no_gateway(&self, reason: String) -> ControlError {
        ControlError::NoGateway { path: self.socket.display().to_string(), reason }
    }
}

/// What an answer that says no comes to: the one place where the command line reads it.
pub(super) fn refused(answer: &[u8]) -> ControlError {
    ControlError::Refused(ApiError::read(answer).to_string())
}

pub(super) fn written(request: &impl serde::Serialize) -> Result<Vec<u8>, ControlError> {
    serde_json::to_vec(request).map_err(|error| ControlError::Answer(error.to_string()))
}

pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|error| ControlError::Answer(error.to_string()))
}
