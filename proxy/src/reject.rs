//! The one mapping from a stage's refusal to an HTTP answer.
//!
//! Stages know no status codes: each has its own error enum, and all the `From`s stand below in sight of each other. A
//! [`Rejection`] has two texts: what the caller reads tells nothing about other tenants or backends, what the log says may.

use crate::admit::AdmitError;
use crate::authenticate::AuthError;
use crate::authenticate::acting::ActingError;
use crate::authenticate::jwt::JwtError;
use crate::authenticate::oidc::OidcError;
use crate::authenticate::tickets::{self, TicketError};
use crate::budget::{OverBudget, Whose};
use crate::deliver::answer::Answer;
use crate::deliver::events::handshake::HandshakeError;
use crate::deliver::events::hub::HubError;
use crate::deliver::state::StateError;
use crate::deliver::uploads::{UploadError, multipart::FormError};
use crate::deliver::views::links::LinkError;
use crate::deliver::views::view::ViewError;
use crate::ids::RequestId;
use crate::inspect::contents::ContentError;
use crate::inspect::files::PinError;
use crate::inspect::{InspectError, media};
use crate::listen::connections::FullError;
use crate::listen::head::HeadError;
use crate::record::blobs::BlobError;
use crate::record::ledger::LedgerError;
use crate::record::space::SpaceError;
use crate::route::RouteError;
use comfygate_policy::{ParseErrorKind, ViolationKind};
use http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use std::borrow::Cow;
use std::time::Duration;

/// What the caller is told when a stage says no. One word wide, so that results which hold it stay small.
#[derive(Debug, Clone)]
pub struct Rejection(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    /// 4xx or 5xx only.
    status: StatusCode,
    /// Stable, for programs: `rate_limited`, `unauthenticated` … One word per reason, documented in README.md.
    code: &'static str,
    /// For the caller: what, where, what to do instead.
    message: Cow<'static, str>,
    /// For the log, where it may say more.
    log: Option<String>,
    headers: HeaderMap,
    /// ComfyUI's `error` and `node_errors`, where a policy or a parser made them.
    comfyui: Option<serde_json::Value>,
}

/// Which stage said no: a closed list, for metrics and audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the stages of ARCHITECTURE.md, by name")]
pub enum Stage {
    Listen,
    Route,
    Authenticate,
    Admit,
    Inspect,
    Dispatch,
    Deliver,
    Record,
}

impl Stage {
    /// The label in metrics and audit lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Route => "route",
            Self::Authenticate => "authenticate",
            Self::Admit => "admit",
            Self::Inspect => "inspect",
            Self::Dispatch => "dispatch",
            Self::Deliver => "deliver",
            Self::Record => "record",
        }
    }
}

impl Rejection {
    /// A refusal with a stable code and a text for the caller. A status that is no refusal becomes 500.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let refusal = status.is_client_error() || status.is_server_error();
        Self(Box::new(Parts {
            status: if refusal { status } else { StatusCode::INTERNAL_SERVER_ERROR },
            code,
            message: message.into(),
            log: None,
            headers: HeaderMap::new(),
            comfyui: None,
        }))
    }

    /// What is foreign answers exactly like what does not exist (invariant 5): one constructor for both.
    pub fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is nothing here, or it is not yours: check the path, the id or the name",
        )
    }

    /// Named in the design, built by a later release.
    pub fn not_yet(reason: &'static str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", reason)
    }

    /// Something of ours failed; the reason goes to the log only.
    pub fn internal(log: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the gateway failed; the log has the reason under this request id: tell it to the operator",
        )
        .with_log(log)
    }

    /// Something we need can't be had now (invariant 8).
    pub fn unavailable(code: &'static str, message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message).with_retry_after(retry_after)
    }

    /// Adds what only the log may say.
    #[must_use]
    pub fn with_log(mut self, log: impl Into<String>) -> Self {
        self.0.log = Some(log.into());
        self
    }

    /// Adds `Retry-After`, in whole seconds rounded up, at least 1 (RFC 9110 §10.2.3).
    #[must_use]
    pub fn with_retry_after(self, after: Duration) -> Self {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.with_header(RETRY_AFTER, seconds.max(1).into())
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// Adds the challenges of a 401 (RFC 9110 §11.6.1).
    #[must_use]
    pub fn with_challenge(self) -> Self {
        self.with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"comfygate\""))
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"comfygate\", charset=\"UTF-8\""))
    }

    /// Without the challenge that makes a browser ask for a password: its page shows a login of its own.
    #[must_use]
    pub fn without_basic(mut self) -> Self {
        if self.0.headers.remove(WWW_AUTHENTICATE).is_some() {
            self.0.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"comfygate\""));
        }
        self
    }

    /// Adds ComfyUI's `{"error":…,"node_errors":…}`, so that the page marks the nodes.
    #[must_use]
    pub fn with_comfyui(mut self, body: serde_json::Value) -> Self {
        self.0.comfyui = Some(body);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }
    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.0.code
    }
    /// What the log says: the richer text if there is one.
    pub fn log_text(&self) -> &str {
        self.0.log.as_deref().unwrap_or(&self.0.message)
    }

    /// As `application/problem+json` (RFC 9457): every route but `/prompt`.
    pub fn problem(&self, request: RequestId) -> Answer {
        let body = json!({
            "type": "about:blank",
            "title": self.0.status.canonical_reason().unwrap_or("refused"),
            "status": self.0.status.as_u16(),
            "code": self.0.code,
            "detail": self.0.message,
            "request_id": request.to_string(),
        });
        self.answer(&body, "application/problem+json")
    }

    /// As a page of ours, with the rejection's status and headers.
    pub fn page(&self, page: impl FnOnce(&str) -> Answer) -> Answer {
        let mut answer = page(&self.for_people());
        answer.status = self.0.status;
        answer.headers.extend(self.0.headers.clone());
        answer
    }

    /// The message in the words of who reads a page, and does not see headers.
    fn for_people(&self) -> String {
        let seconds = self.0.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).unwrap_or("some");
        match self.0.code {
            "too_many_failed_logins" => format!("Too many wrong logins: wait {seconds} seconds, then try again"),
            "foreign_origin" | "not_our_page" => {
                "This form was sent from another page: open this one in your browser, and try here".to_owned()
            }
            _ => self.0.message.replace('`', ""),
        }
    }

    /// As ComfyUI's error object: `POST /prompt`, whose clients read no other.
    pub fn comfyui(&self, request: RequestId) -> Answer {
        let mut body = self.0.comfyui.clone().unwrap_or_else(|| {
            json!({"error": {"type": self.0.code, "message": self.0.message, "details": "", "extra_info": {}}, "node_errors": {}})
        });
        if let Some(extra) = body.pointer_mut("/error/extra_info").and_then(|extra| extra.as_object_mut()) {
            extra.insert("request_id".into(), json!(request.to_string()));
            extra.insert("code".into(), json!(self.0.code));
        }
        self.answer(&body, "application/json")
    }

    fn answer(&self, body: &serde_json::Value, content_type: &'static str) -> Answer {
        let mut answer = Answer::json(self.0.status, body);
        answer.headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        answer.headers.extend(self.0.headers.clone());
        answer
    }
}

// Stage 1, listen.

impl From<HeadError> for Rejection {
    fn from(error: HeadError) -> Self {
        let status = match error {
            HeadError::Timeout => StatusCode::REQUEST_TIMEOUT,
            HeadError::TooLarge | HeadError::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            HeadError::Method => StatusCode::METHOD_NOT_ALLOWED,
            HeadError::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            HeadError::Expectation => StatusCode::EXPECTATION_FAILED,
            HeadError::LineEnd
            | HeadError::Nul
            | HeadError::RequestLine
            | HeadError::Target
            | HeadError::HeaderName
            | HeadError::HeaderValue
            | HeadError::HeaderFolded
            | HeadError::HeaderRepeated
            | HeadError::HostMissing
            | HeadError::HostMalformed
            | HeadError::HostDiffers
            | HeadError::LengthRepeated
            | HeadError::LengthMalformed
            | HeadError::LengthAndEncoding
            | HeadError::Encoding
            | HeadError::Upgrade
            | HeadError::ConnectionSpecific => StatusCode::BAD_REQUEST,
        };
        let rejection = Self::new(status, error.code(), error.to_string());
        match error {
            HeadError::Method => {
                rejection.with_header(ALLOW, HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"))
            }
            _ => rejection,
        }
    }
}

impl From<FullError> for Rejection {
    fn from(error: FullError) -> Self {
        Self::unavailable("too_many_connections", error.to_string(), Duration::from_secs(1))
    }
}

// Stage 2, route.

impl From<RouteError> for Rejection {
    fn from(error: RouteError) -> Self {
        match error {
            // The same answer with and without a reason: what is refused by name looks like what does not exist.
            RouteError::NotFound { reason } => Self::not_found().with_log(reason.unwrap_or("not in the route table")),
            RouteError::MethodNotAllowed { allow } => {
                let rejection = Self::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    format!("this path is served for other methods, use one of them: {allow}"),
                );
                match HeaderValue::from_str(&allow.to_string()) {
                    Ok(value) => rejection.with_header(ALLOW, value),
                    Err(_) => rejection,
                }
            }
            RouteError::Odd(odd) => Self::new(StatusCode::BAD_REQUEST, "odd_target", odd.to_string()),
            RouteError::QueryKeyRepeated { .. } => Self::new(
                StatusCode::BAD_REQUEST,
                "query_key_repeated",
                "a key stands more than once in the query: send it once",
            )
            .with_log(error.to_string()),
        }
    }
}

// Stage 3, authenticate.

impl From<AuthError> for Rejection {
    /// One text for every way in which a login fails: the reason is the log's.
    fn from(error: AuthError) -> Self {
        let log = error.to_string();
        match error {
            AuthError::Forbidden(scope) => Self::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                format!("this credential lacks the scope `{}`: use one that has it, or ask the operator", scope.name()),
            ),
            AuthError::Address { .. } => {
                let text = "this credential is good, and not taken from your address: use a network that your operator has allowed";
                Self::new(StatusCode::FORBIDDEN, "address_not_allowed", text).with_log(log)
            }
            AuthError::Acting(ActingError::Malformed(text)) => Self::new(StatusCode::BAD_REQUEST, "bad_act_as", text),
            AuthError::Acting(ActingError::Refused { .. }) => {
                let text = "this credential may not work for the tenant in `Comfygate-Tenant`: that takes an API key with the scope `act-as`, and a tenant that is open and not in the owner posture";
                Self::new(StatusCode::FORBIDDEN, "act_as_refused", text).with_log(log)
            }
            error if error.retry_after().is_some() => {
                let retry_after = error.retry_after().unwrap_or_default();
                Self::unavailable(
                    "unavailable",
                    "credentials can't be checked now: try again after `Retry-After`",
                    retry_after,
                )
                .with_log(log)
            }
            _ => {
                let text = "show a valid API key (`Authorization: Bearer`, `X-API-Key`, or as password) or a token of a configured issuer";
                Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", text).with_challenge().with_log(log)
            }
        }
    }
}

impl From<TicketError> for Rejection {
    fn from(error: TicketError) -> Self {
        match error {
            TicketError::TooMany => Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_tickets", error.to_string())
                .with_retry_after(tickets::LIFETIME),
            TicketError::Full => {
                let text = "too many tickets wait to be used: try again after `Retry-After`";
                Self::unavailable("tickets_full", text, tickets::LIFETIME).with_log(error.to_string())
            }
            TicketError::Random(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<OidcError> for Rejection {
    /// Read by a person on the login page. What the provider said, and what was wrong with it, is the log's.
    fn from(error: OidcError) -> Self {
        use OidcError::{Denied, Gone, Lost, Metadata, NeedsOwnCallback, NotAllowed, Random, Token};
        let log = error.to_string();
        let rejection = match &error {
            Lost | Gone => Self::new(
                StatusCode::BAD_REQUEST,
                "login_lost",
                "This login was not begun in this browser, or too long ago. Log in again.",
            ),
            Denied(_) => Self::new(
                StatusCode::FORBIDDEN,
                "login_denied",
                "The identity provider did not let you in. Try again, or ask whoever runs it.",
            ),
            NotAllowed(_) | Token(JwtError::UnknownTenant | JwtError::Claim(_) | JwtError::Plan(_)) => Self::new(
                StatusCode::FORBIDDEN,
                "login_refused",
                "The identity provider knows you, but you may not come in here. Ask whoever runs this gateway.",
            ),
            Random => Self::internal("no random bytes"),
            error if error.retry_after().is_some() || matches!(error, Metadata(_) | NeedsOwnCallback) => {
                let text = "The identity provider can't be used now. Try again in a moment, or tell whoever runs this gateway.";
                Self::unavailable("login_unavailable", text, error.retry_after().unwrap_or(Duration::from_secs(60)))
            }
            _ => Self::new(
                StatusCode::FORBIDDEN,
                "login_refused",
                "The identity provider's answer can't be accepted. Log in again; if that does not help, tell whoever runs this gateway.",
            ),
        };
        rejection.with_log(log)
    }
}

// Stage 4, admit.

impl From<AdmitError> for Rejection {
    fn from(error: AdmitError) -> Self {
        let log = error.to_string();
        let too_many = |code, text: &'static str, after| {
            Self::new(StatusCode::TOO_MANY_REQUESTS, code, text).with_retry_after(after)
        };
        let rejection = match error {
            AdmitError::RateLimited { rate, retry_after, .. } => {
                let text = "the rate limit of this tenant is reached: try again after `Retry-After`";
                let rejection = too_many("rate_limited", text, retry_after);
                rate.headers()
                    .into_iter()
                    .fold(rejection, |rejection, (name, value)| rejection.with_header(name, value))
            }
            AdmitError::TooManyFailedLogins { blocked, .. } => too_many(
                "too_many_failed_logins",
                // One text, whatever the wait is by: which accounts are under attack is nobody's business.
                "too many failed logins: try again after `Retry-After`",
                blocked.retry_after,
            ),
            AdmitError::BodiesFull { .. } => Self::unavailable(
                "bodies_full",
                "the gateway reads as many request bodies as it may: try again",
                Duration::from_secs(1),
            ),
            AdmitError::UploadsFull { own: true, limit } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_uploads",
                format!("{limit} of your uploads are arriving, which is all that may at once: wait for one to end"),
            )
            .with_retry_after(Duration::from_secs(1)),
            AdmitError::UploadsFull { own: false, .. } => Self::unavailable(
                "uploads_full",
                "the gateway takes as many uploads as it may at once: try again",
                Duration::from_secs(1),
            ),
            AdmitError::StorageFull { used, limit } => Self::from(LedgerError::NoRoom { used, limit }),
            AdmitError::TooManyTenants(_) => {
                Self::unavailable("overloaded", "too many callers at once: try again", Duration::from_secs(10))
            }
        };
        rejection.with_log(log)
    }
}

// Stage 5, inspect.

impl From<PinError> for Rejection {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Refused(error) => error.into(),
            PinError::Ledger(error) => error.into(),
            PinError::Disk(error) => Self::internal(format!("a content can't be read: {error}")),
        }
    }
}

impl From<InspectError> for Rejection {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Malformed(error) => {
                let status = match error.kind() {
                    ParseErrorKind::Malformed => StatusCode::BAD_REQUEST,
                    ParseErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                };
                Self::new(status, error.code(), error.to_string()).with_comfyui(error.to_comfyui())
            }
            InspectError::Denied(violations) => {
                let (status, code) = match violations.kind() {
                    ViolationKind::Invalid => (StatusCode::BAD_REQUEST, "invalid_workflow"),
                    ViolationKind::Denied => (StatusCode::FORBIDDEN, "policy_violation"),
                };
                let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
                Self::new(status, code, lines.join("; ")).with_comfyui(violations.to_comfyui())
            }
            InspectError::PaidCredentialMissing => {
                Self::new(StatusCode::FORBIDDEN, "paid_credential_missing", error.to_string())
            }
            InspectError::PaidKeyMissing => {
                Self::new(StatusCode::FORBIDDEN, "paid_nodes_unsupported", error.to_string())
            }
            InspectError::TooManyFiles { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_files", error.to_string())
            }
            InspectError::FileUnusable { .. } => Self::new(StatusCode::FORBIDDEN, "file_unusable", error.to_string()),
        }
    }
}

// Stage 7, deliver.

impl From<StateError> for Rejection {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Body(what) => Self::new(StatusCode::BAD_REQUEST, "malformed", what),
            StateError::Unreadable { .. } => Self::internal(error.to_string()),
        }
    }
}

impl From<ViewError> for Rejection {
    fn from(error: ViewError) -> Self {
        match error {
            ViewError::NotFound => Self::not_found(),
            ViewError::Directory => Self::new(StatusCode::BAD_REQUEST, "malformed", error.to_string()),
        }
    }
}

impl From<UploadError> for Rejection {
    fn from(error: UploadError) -> Self {
        let text = error.to_string();
        let (status, code) = match &error {
            UploadError::Form(FormError::ContentType) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type"),
            UploadError::Form(_)
            | UploadError::FieldRepeated(_)
            | UploadError::Field { .. }
            | UploadError::NoFile
            | UploadError::OtherFile => (StatusCode::BAD_REQUEST, "malformed_form"),
            UploadError::Name(_) => (StatusCode::BAD_REQUEST, "file_name_refused"),
            UploadError::Content(ContentError::TooManyPixels { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_many_pixels")
            }
            UploadError::Content(ContentError::Io(_)) => return Self::internal(text),
            UploadError::Content(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_refused"),
            UploadError::Blob(BlobError::TooLarge { limit }) => return media::too_large(*limit),
            UploadError::Blob(BlobError::Unavailable { .. }) => {
                let told = "the gateway can't store files now: try again";
                return Self::unavailable("blobs_unavailable", told, LEDGER_RETRY).with_log(text);
            }
        };
        Self::new(status, code, text)
    }
}

impl From<LinkError> for Rejection {
    fn from(error: LinkError) -> Self {
        match error {
            // A wrong signature tells nothing about whether there is such a file.
            LinkError::Invalid => Self::not_found().with_log(error.to_string()),
            LinkError::Expired => {
                Self::new(StatusCode::FORBIDDEN, "link_expired", "this URL has expired: ask for a new one")
            }
        }
    }
}

impl From<HandshakeError> for Rejection {
    fn from(error: HandshakeError) -> Self {
        let (status, code) = match error {
            HandshakeError::NotAnUpgrade => (StatusCode::BAD_REQUEST, "not_an_upgrade"),
            HandshakeError::Version => (StatusCode::UPGRADE_REQUIRED, "websocket_version"),
            HandshakeError::Key => (StatusCode::BAD_REQUEST, "websocket_key"),
            HandshakeError::Origin => (StatusCode::FORBIDDEN, "foreign_origin"),
            HandshakeError::NotOurPage => (StatusCode::FORBIDDEN, "not_our_page"),
        };
        let rejection = Self::new(status, code, error.to_string());
        match error {
            // RFC 6455 §4.4: say which version would do.
            HandshakeError::Version => rejection.with_header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            _ => rejection,
        }
    }
}

impl From<HubError> for Rejection {
    fn from(error: HubError) -> Self {
        const RETRY: Duration = Duration::from_secs(5);
        match error {
            HubError::TooManySockets { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_websockets", error.to_string())
                    .with_retry_after(RETRY)
            }
            HubError::Full { .. } => {
                let text = "the gateway has no room for another WebSocket now: try again after `Retry-After`";
                Self::unavailable("websockets_full", text, RETRY).with_log(error.to_string())
            }
        }
    }
}

// Stage 8, record.

/// A disk that is full or gone is seldom better in less.
const LEDGER_RETRY: Duration = Duration::from_secs(10);
/// Sessions end by the hour.
const TOO_MANY_SESSIONS_RETRY: Duration = Duration::from_secs(600);
/// A held job moves in the time of a job.
const TOO_MANY_JOBS_RETRY: Duration = Duration::from_secs(15);

impl From<SpaceError> for Rejection {
    fn from(error: SpaceError) -> Self {
        let text = "the gateway's disk is nearly full: submissions and uploads are refused until its operator makes room; try again later";
        Self::unavailable("disk_full", text, Duration::from_secs(30)).with_log(error.to_string())
    }
}

/// A job that could never fit is another one's fault than one that fits later: clients repeat what is answered 429.
fn over_budget(over: &OverBudget) -> Rejection {
    let rejection = if over.ever_fits() {
        let text = format!("{over}: wait for `Retry-After`, submit something smaller, or ask the operator for more");
        Rejection::new(StatusCode::TOO_MANY_REQUESTS, "budget_spent", text).with_retry_after(over.retry_after())
    } else {
        let text = format!("{over}: submit something smaller, or ask the operator for more");
        Rejection::new(StatusCode::FORBIDDEN, "budget_too_small", text)
    };
    let told = json!({
        "whose": match over.whose { Whose::Tenant => "tenant", Whose::User => "user" },
        "wanted_seconds": over.wanted.seconds(),
        "used_seconds": over.spending.used.seconds(),
        "reserved_seconds": over.spending.reserved.seconds(),
        "limit_seconds": over.limit.seconds(),
        "period": over.period,
        "renews_at": over.renews_at(),
    });
    let message = rejection.0.message.clone();
    let error = json!({"type": rejection.code(), "message": message, "details": "", "extra_info": told});
    rejection.with_comfyui(json!({"error": error, "node_errors": {}}))
}

impl From<LedgerError> for Rejection {
    fn from(error: LedgerError) -> Self {
        let log = error.to_string();
        match error {
            LedgerError::NotFound { .. } => Self::not_found(),
            LedgerError::Conflict { name } => Self::new(
                StatusCode::CONFLICT,
                "name_taken",
                format!(
                    "`{name}` names another submission of yours already: choose another name, or repeat that submission"
                ),
            ),
            LedgerError::Stale { .. } | LedgerError::WrongState { .. } => {
                Self::new(StatusCode::CONFLICT, "moved_on", "the job moved on meanwhile: look again").with_log(log)
            }
            LedgerError::TooManyJobs { active, limit } => {
                let text = format!(
                    "{active} of your jobs are queued or running, {limit} are allowed: wait for one to end, or delete one"
                );
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_jobs", text).with_retry_after(TOO_MANY_JOBS_RETRY)
            }
            LedgerError::OverBudget(over) => over_budget(&over),
            LedgerError::TooManyRows { .. } => Self::new(StatusCode::BAD_REQUEST, "too_many_rows", log),
            LedgerError::TooManySessions { .. } => {
                let text = "too many browsers are logged in: try again later, or use the API key itself";
                Self::unavailable("sessions_full", text, TOO_MANY_SESSIONS_RETRY).with_log(log)
            }
            LedgerError::NoRoom { used, limit } => {
                let text = format!(
                    "this upload has no room: your uploads would have {used} bytes with it, {limit} are allowed; ask the operator for a larger `storage_bytes_max`"
                );
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "storage_full", text)
            }
            LedgerError::NamesTaken { name, copies } => {
                let text = format!("`{name}` and {copies} copies of it are there already: choose another name, or overwrite");
                Self::new(StatusCode::CONFLICT, "name_taken", text)
            }
            LedgerError::Exists { .. } => Self::new(StatusCode::CONFLICT, "file_exists", log),
            LedgerError::NoPlace { .. } => Self::new(StatusCode::BAD_REQUEST, "no_place", log),
            LedgerError::Full { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "storage_full", format!("{log}: delete something first"))
            }
            LedgerError::Erased { .. } => {
                let text = "everything of this tenant is being erased: nothing of it is kept any more";
                Self::new(StatusCode::GONE, "tenant_erased", text).with_log(log)
            }
            LedgerError::Damaged { .. } | LedgerError::Busy { .. } => Self::internal(log),
            LedgerError::Held { .. } | LedgerError::Schema { .. } | LedgerError::Unavailable { .. } => {
                Self::unavailable(
                    "ledger_unavailable",
                    "the gateway can't reach its ledger now; ask again: the same `prompt_id` or `Idempotency-Key` is never accepted twice",
                    LEDGER_RETRY,
                )
                .with_log(log)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::answer::AnswerBody;

    fn body(answer: &Answer) -> serde_json::Value {
        let AnswerBody::Bytes(bytes) = &answer.body else { panic!("no body") };
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_status_that_is_no_refusal_becomes_500() {
        assert_eq!(Rejection::new(StatusCode::OK, "x", "y").status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(Rejection::new(StatusCode::CONFLICT, "x", "y").status(), StatusCode::CONFLICT);
    }

    #[test]
    fn the_callers_text_never_holds_the_logs() {
        let request = RequestId::new();
        let rejection = Rejection::internal("gpu7 said: secret");
        assert_eq!(rejection.log_text(), "gpu7 said: secret");
        assert!(!rejection.problem(request).text().contains("secret"));
        assert!(!rejection.comfyui(request).text().contains("secret"));
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds_and_never_zero() {
        let header =
            |after| Rejection::unavailable("x", "y", after).problem(RequestId::new()).headers[RETRY_AFTER].clone();
        assert_eq!(header(Duration::from_millis(1)), "1");
        assert_eq!(header(Duration::from_millis(1001)), "2");
        assert_eq!(header(Duration::ZERO), "1");
    }

    #[test]
    fn problem_has_code_and_request_id_and_comfyui_has_its_own_shape() {
        let request = RequestId::new();
        let problem = body(&Rejection::not_found().problem(request));
        assert_eq!(problem["code"], "not_found");
        assert_eq!(problem["request_id"], request.to_string());
        let comfyui = body(&Rejection::not_found().comfyui(request));
        assert_eq!(comfyui["error"]["type"], "not_found");
        assert!(comfyui["node_errors"].is_object());
    }

    #[test]
    fn a_route_refused_by_name_answers_like_an_unknown_one() {
        let request = RequestId::new();
        let named = Rejection::from(RouteError::NotFound { reason: Some("installs code") });
        let unknown = Rejection::from(RouteError::NotFound { reason: None });
        assert_eq!(named.problem(request).text(), unknown.problem(request).text());
        assert_eq!(named.log_text(), "installs code");
    }

    #[test]
    fn a_rate_that_is_reached_is_429_with_the_rates_headers_and_retry_after() {
        let rate = crate::admit::RateState { limit: 5, remaining: 0, reset: Duration::from_millis(500) };
        let kind = crate::admit::RateKind::Prompt;
        let error = AdmitError::RateLimited { kind, rate, retry_after: Duration::from_millis(100) };
        let answer = Rejection::from(error).comfyui(RequestId::new());
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        for (name, value) in
            [("ratelimit-limit", "5"), ("ratelimit-remaining", "0"), ("ratelimit-reset", "1"), ("retry-after", "1")]
        {
            assert_eq!(answer.headers[name], value, "{name}");
        }
    }

    /// What a caller can do about it stands behind a colon or semicolon, unless the text itself is the demand.
    fn says_what_to_do(text: &str) -> bool {
        let demands = [" must ", " may have one ", "send ", "write it "];
        text.contains(": ") || text.contains("; ") || demands.iter().any(|demand| text.contains(demand))
    }

    #[test]
    fn every_refusal_of_a_request_says_what_to_do_instead() {
        use crate::route::Odd;
        use HeadError::*;
        let heads = [
            Timeout,
            TooLarge,
            TooManyHeaders,
            LineEnd,
            Nul,
            RequestLine,
            Method,
            Target,
            Version,
            HeaderName,
            HeaderValue,
            HeaderFolded,
            HeaderRepeated,
            HostMissing,
            HostMalformed,
            HostDiffers,
            LengthRepeated,
            LengthMalformed,
            LengthAndEncoding,
            Encoding,
            Upgrade,
            Expectation,
            ConnectionSpecific,
        ];
        let odd = [
            Odd::NoLeadingSlash,
            Odd::PathTooLong,
            Odd::QueryTooLong,
            Odd::EmptySegment,
            Odd::DotSegment,
            Odd::Character,
            Odd::Escape,
            Odd::EncodedUnreserved,
            Odd::EncodedSlash,
            Odd::EncodedPercent,
            Odd::EncodedControl,
            Odd::NotUtf8,
        ];
        let forms = [
            FormError::ContentType,
            FormError::Boundary,
            FormError::Cut,
            FormError::Head,
            FormError::HeaderRefused,
            FormError::PartType,
            FormError::Length,
            FormError::TooManyParts,
        ];
        let sockets = [
            HandshakeError::NotAnUpgrade,
            HandshakeError::Version,
            HandshakeError::Key,
            HandshakeError::Origin,
            HandshakeError::NotOurPage,
        ];
        let mut all: Vec<Rejection> = vec![Rejection::not_found(), Rejection::internal("")];
        all.extend(heads.into_iter().map(Rejection::from));
        all.extend(odd.into_iter().map(|odd| Rejection::from(RouteError::Odd(odd))));
        all.extend(forms.into_iter().map(|form| Rejection::from(UploadError::Form(form))));
        all.extend([UploadError::NoFile, UploadError::OtherFile].into_iter().map(Rejection::from));
        all.extend(sockets.into_iter().map(Rejection::from));
        all.extend([FullError::Total, FullError::Group].into_iter().map(Rejection::from));
        for rejection in all {
            assert!(says_what_to_do(&rejection.0.message), "{}: {}", rejection.code(), rejection.0.message);
        }
    }

    #[test]
    fn a_page_speaks_to_people() {
        let text = |rejection: Rejection| {
            let mut told = String::new();
            rejection.page(|text| {
                text.clone_into(&mut told);
                Answer::empty(StatusCode::OK)
            });
            told
        };
        let slowed = Rejection::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failed_logins", "see `Retry-After`");
        let waits = text(slowed.with_retry_after(Duration::from_secs(7)));
        assert!(waits.contains("wait 7 seconds") && !waits.contains("Retry-After"), "{waits}");
        for error in [HandshakeError::Origin, HandshakeError::NotOurPage] {
            let told = text(error.into());
            assert!(told.contains("another page") && !told.contains("Sec-Fetch"), "{told}");
        }
        assert_eq!(text(Rejection::new(StatusCode::FORBIDDEN, "x", "say `this`")), "say this");
    }

    #[test]
    fn no_memory_for_a_body_is_503_with_retry_after_and_says_no_numbers() {
        let error = AdmitError::BodiesFull { wanted: 777, free: 0, total: 1024 };
        let answer = Rejection::from(error).problem(RequestId::new());
        assert_eq!(
            (answer.status, &answer.headers[RETRY_AFTER]),
            (StatusCode::SERVICE_UNAVAILABLE, &HeaderValue::from_static("1"))
        );
        assert!(!answer.text().contains("777"));
    }
}
