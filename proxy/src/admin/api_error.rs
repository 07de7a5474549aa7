//! Why the control socket did not do something: one form for every answer that is not 2xx, and one list of its codes.
//!
//! ```json
//! {"code": "faulty", "error": "the tenant has a fault", "faults": [{"pointer": "/limits/weight", "message": "…"}]}
//! ```
//!
//! A handler returns `Result<_, Refused>`, and takes its input by [`Body`], [`OptionalBody`], [`Asked`] and [`Named`], whose own refusals have the form too. `router` gives it to unknown paths and methods, and to
//! whatever still comes otherwise. The operations declare their codes ([`Operation::refuses`](super::api::Operation::refuses)): a code has one status.

use crate::ids::TenantId;
use crate::record::ledger::LedgerError;
use crate::tenants::written::SpecFault;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::{Router, body};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts as Head;
use http::{HeaderValue, Method, StatusCode, Uri};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Bytes of a text that did not come in the form: it is for people.
const STRAY_BYTES_MAX: usize = 16 << 10;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiError {
    /// For programs: it stays, while the text may change. More of them may come.
    pub code: String,
    /// For people: what, where, and what to do instead.
    pub error: String,
    /// Each fault, where it is known in which part of the body it is, or where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<SpecFault>,
}

impl ApiError {
    /// Without faults.
    pub fn new(code: Code, error: impl Into<String>) -> Self {
        Self { code: code.name().to_owned(), error: error.into(), faults: Vec::new() }
    }

    /// What an answer says that is not 2xx; of a release that answered otherwise, its text.
    pub fn read(answer: &[u8]) -> Self {
        serde_json::from_slice(answer).unwrap_or_else(|_| Self {
            code: String::new(),
            error: String::from_utf8_lossy(answer).into_owned(),
            faults: Vec::new(),
        })
    }
}

/// For a terminal: the text, and a line a fault that it does not say itself.
impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        for fault in self.faults.iter().filter(|fault| fault.message != self.error) {
            write!(f, "\n  {}: {}", fault.pointer, fault.message)?;
        }
        Ok(())
    }
}

macro_rules! codes {
    ($($code:ident, $name:literal, $status:ident, $text:literal;)*) => {
        /// Why something was not done, for programs: each with one status. A code that was published keeps its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $text] $code,)*
        }

        impl Code {
            /// All of them, by status.
            pub const ALL: &[Self] = &[$(Self::$code,)*];

            /// As answers write it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$code => $name,)* }
            }

            /// Of the answers with it.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status,)* }
            }

            /// When it is answered.
            pub fn text(self) -> &'static str {
                match self { $(Self::$code => $text,)* }
            }
        }
    };
}

codes! {
    BadJson, "bad_json", BAD_REQUEST, "the body is not JSON";
    BadPath, "bad_path", BAD_REQUEST, "the path is not UTF-8 once its escapes are read";
    BadQuery, "bad_query", BAD_REQUEST, "the query has a key that is not known, or a value that can't be read";
    EraseMissing, "erase_missing", BAD_REQUEST, "`erase=true` is missing";
    NobodyNamed, "nobody_named", BAD_REQUEST, "neither a tenant nor a user is named";
    TooManyRows, "too_many_rows", BAD_REQUEST, "the answer would be too long: ask for less";
    NotFound, "not_found", NOT_FOUND, "there is nothing of that id or name";
    UnknownPath, "unknown_path", NOT_FOUND, "no operation has that path";
    MethodNotAllowed, "method_not_allowed", METHOD_NOT_ALLOWED, "the path has other methods, which `Allow` names";
    Busy, "busy", CONFLICT, "another one goes on: ask again after it";
    ChangedSinceShown, "changed_since_shown", CONFLICT, "it is not any more what was shown: look again";
    ClaimMakesTenants, "claim_makes_tenants", CONFLICT, "tokens with the tenant's claim would make one anew";
    ClaimOfTokenTenant, "claim_of_token_tenant", CONFLICT, "tokens made a tenant by that claim";
    Erasing, "erasing", CONFLICT, "what the tenant has is being erased";
    IdHasLeftovers, "id_has_leftovers", CONFLICT, "something of a former tenant of the id is left";
    IdWasDeleted, "id_was_deleted", CONFLICT, "a tenant of the id was deleted lately";
    InFile, "in_file", CONFLICT, "the tenant is in tenants.toml, and changed there";
    KeyOver, "key_over", CONFLICT, "the key was revoked, or has run out";
    MadeByToken, "made_by_token", CONFLICT, "a token made the tenant, and the next one would again";
    MovedOn, "moved_on", CONFLICT, "it was changed at the same moment: look again";
    NameTaken, "name_taken", CONFLICT, "another request had this `Idempotency-Key`";
    OtherTenant, "other_tenant", CONFLICT, "the user is another tenant's";
    OwnersPool, "owners_pool", CONFLICT, "the pool is an owner's, and has no pin";
    PinnedByFile, "pinned_by_file", CONFLICT, "the configuration names the catalogue, which is replaced there";
    Rotated, "rotated", CONFLICT, "the key was rotated already";
    TooManyKeys, "too_many_keys", CONFLICT, "the tenant has all keys that it may have";
    TooManyLinks, "too_many_links", CONFLICT, "as many login links wait as may";
    TooManyUsers, "too_many_users", CONFLICT, "there are as many local users as may be";
    UpgradeFailed, "upgrade_failed", CONFLICT, "it was handed over, and the successor does not serve";
    UpgradeRefused, "upgrade_refused", CONFLICT, "nothing was handed over, and the former process goes on";
    UserDisabled, "user_disabled", CONFLICT, "the user is disabled: enable it first";
    TenantDeleted, "tenant_deleted", GONE, "the tenant was deleted";
    Stale, "stale", PRECONDITION_FAILED, "it is at another version than `If-Match` or `If-None-Match` says";
    BodyTooLarge, "body_too_large", PAYLOAD_TOO_LARGE, "the body is longer than the control socket takes";
    ContentType, "content_type", UNSUPPORTED_MEDIA_TYPE, "the body is not announced as `application/json`";
    BadBody, "bad_body", UNPROCESSABLE_ENTITY, "the body is JSON of another form: no object, or a member is missing, unknown or of another type";
    BadId, "bad_id", UNPROCESSABLE_ENTITY, "that can't be an id or a name";
    BadIdempotencyKey, "bad_idempotency_key", UNPROCESSABLE_ENTITY, "`Idempotency-Key` is empty, too long, or there twice";
    ConfigurationRefused, "configuration_refused", UNPROCESSABLE_ENTITY, "the configuration was refused, and the former one goes on";
    Faulty, "faulty", UNPROCESSABLE_ENTITY, "the body says what can't be: `faults` tell where";
    Full, "full", UNPROCESSABLE_ENTITY, "there are as many as may be";
    MadeId, "made_id", UNPROCESSABLE_ENTITY, "the id has the form of those that tokens make";
    NoKey, "no_key", UNPROCESSABLE_ENTITY, "the text is no key";
    ReplayRefused, "replay_refused", UNPROCESSABLE_ENTITY, "the job may not run now";
    TooManyTenants, "too_many_tenants", UNPROCESSABLE_ENTITY, "there are as many tenants of this API as may be";
    UnknownTenant, "unknown_tenant", UNPROCESSABLE_ENTITY, "the body names a tenant that the running gateway has not";
    Internal, "internal", INTERNAL_SERVER_ERROR, "the gateway failed: its log has more";
    BadBackendAnswer, "bad_backend_answer", BAD_GATEWAY, "the backend's answer can't be used";
    Stopping, "stopping", SERVICE_UNAVAILABLE, "the gateway stops: ask again once it runs";
    Unavailable, "unavailable", SERVICE_UNAVAILABLE, "a store, a backend or the system can't do it now: ask again, after `Retry-After` where there is one";
}

/// An answer that says no. One word wide, so that results which hold it stay small.
#[derive(Debug, Clone)]
pub struct Refused(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    status: StatusCode,
    error: ApiError,
    /// Members beside the form's own.
    report: Map<String, Value>,
    retry_after: Option<Duration>,
}

/// Marks an answer that has the form.
#[derive(Debug, Clone, Copy)]
struct InForm;

impl Refused {
    /// With a text for people: what, where, and what to do instead.
    pub fn new(code: Code, error: impl Into<String>) -> Self {
        let (status, error) = (code.status(), ApiError::new(code, error));
        Self(Box::new(Parts { status, error, report: Map::new(), retry_after: None }))
    }

    /// Of a body with one fault at that JSON pointer.
    pub fn at(code: Code, pointer: &str, error: impl fmt::Display) -> Self {
        let message = error.to_string();
        let faults = vec![SpecFault { pointer: pointer.to_owned(), message: message.clone() }];
        Self::new(code, message).with_faults(faults)
    }

    /// There is no such thing.
    pub fn not_found(error: impl Into<String>) -> Self {
        Self::new(Code::NotFound, error)
    }

    /// It can't be done now.
    pub fn unavailable(error: impl fmt::Display) -> Self {
        Self::new(Code::Unavailable, error.to_string())
    }

    /// The gateway stops, so nobody answers any more.
    pub fn stopping() -> Self {
        Self::new(Code::Stopping, "the gateway is stopping")
    }

    /// Its faults.
    #[must_use]
    pub fn with_faults(mut self, faults: Vec<SpecFault>) -> Self {
        self.0.error.faults = faults;
        self
    }

    /// The members of a report beside the form's own; where one has the same name, the form's counts.
    #[must_use]
    pub fn with_report(mut self, report: &impl Serialize) -> Self {
        if let Ok(Value::Object(members)) = serde_json::to_value(report) {
            self.0.report = members;
        }
        self
    }

    /// What is told.
    pub fn into_error(self) -> ApiError {
        self.0.error
    }

    /// When to come again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Parts { status, error, mut report, retry_after } = *self.0;
        if let Ok(Value::Object(members)) = serde_json::to_value(error) {
            report.extend(members);
        }
        let mut response = (status, Json(report)).into_response();
        if let Some(wait) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
        }
        response.extensions_mut().insert(InForm);
        response
    }
}

/// The body names a tenant that there is none of.
pub(super) fn no_tenant(tenant: &TenantId) -> Refused {
    Refused::at(Code::UnknownTenant, "/tenant", format_args!("the running gateway has no tenant `{tenant}`"))
}

impl From<LedgerError> for Refused {
    fn from(error: LedgerError) -> Self {
        let code = match error {
            LedgerError::NotFound { .. } => Code::NotFound,
            LedgerError::TooManyRows { .. } => Code::TooManyRows,
            LedgerError::Full { .. } => Code::Full,
            LedgerError::Erased { .. } => Code::Erasing,
            _ => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

/// What a rejection of axum's says, without its own introduction.
fn reason(rejection: &(impl Error + 'static)) -> String {
    rejection.source().map_or_else(|| rejection.to_string(), ToString::to_string)
}

const DOCUMENTED: &str = "`GET /v1/openapi.json` tells what is taken";

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::JsonSyntaxError(error) => bad_json(reason(&error)),
            JsonRejection::JsonDataError(error) => bad_body(reason(&error)),
            JsonRejection::MissingJsonContentType(_) => {
                Self::new(Code::ContentType, "the body has to be JSON, sent with `content-type: application/json`")
            }
            JsonRejection::BytesRejection(error) => error.into(),
            other => bad_body(other.body_text()),
        }
    }
}

fn bad_json(reason: impl fmt::Display) -> Refused {
    Refused::new(Code::BadJson, format!("the body is not JSON: {reason}"))
}

fn bad_body(reason: impl fmt::Display) -> Refused {
    Refused::new(Code::BadBody, format!("the body can't be read: {reason}; {DOCUMENTED}"))
}

impl From<BytesRejection> for Refused {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let text = format!("the body has more than {} bytes: send less at once", super::api::BODY_BYTES_MAX);
            return Self::new(Code::BodyTooLarge, text);
        }
        bad_json(rejection.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Code::BadQuery, format!("the query can't be read: {}; {DOCUMENTED}", reason(&rejection)))
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Self {
        Self::new(Code::BadPath, format!("the path can't be read: {}", rejection.body_text()))
    }
}

/// A JSON object.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let (head, body) = request.into_parts();
        let bytes = Bytes::from_request(Request::from_parts(head.clone(), body), state).await?;
        let again = Request::from_parts(head, bytes.clone().into());
        let Json(body) = Json::<T>::from_request(again, state).await?;
        only_object(&bytes)?;
        Ok(Self(body))
    }
}

/// Refuses JSON that is no object, which was read already. serde takes an array for a struct, its elements for the members in the order of our source: `[]` would be a run of everything by default, and what it means
/// another after each new member.
fn only_object(body: &[u8]) -> Result<(), Refused> {
    match body.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        _ => Err(bad_body("it is no JSON object")),
    }
}

/// A JSON object, or nothing; whatever it is announced as.
#[derive(Debug)]
pub struct OptionalBody<T>(pub Option<T>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for OptionalBody<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let body = Bytes::from_request(request, state).await?;
        if body.is_empty() {
            return Ok(Self(None));
        }
        let read = serde_json::from_slice(&body);
        let read = read.map_err(|error| if error.is_data() { bad_body(error) } else { bad_json(error) })?;
        only_object(&body)?;
        Ok(Self(Some(read)))
    }
}

/// A query.
#[derive(Debug)]
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Refused;

    async fn from_request_parts(head: &mut Head, state: &S) -> Result<Self, Refused> {
        let Query(query) = Query::<T>::from_request_parts(head, state).await?;
        Ok(Self(query))
    }
}

/// The one part of a path that is an id or a name, not checked yet.
#[derive(Debug)]
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refused;

    async fn from_request_parts(head: &mut Head, state: &S) -> Result<Self, Refused> {
        let Path(name) = Path::<String>::from_request_parts(head, state).await?;
        Ok(Self(name))
    }
}

/// A router all of whose answers that are not 2xx have the form.
pub(super) fn router(router: Router) -> Router {
    router.fallback(unknown_path).method_not_allowed_fallback(other_method).layer(map_response(in_form))
}

async fn unknown_path(uri: Uri) -> Refused {
    Refused::new(Code::UnknownPath, format!("there is no operation at `{}`: {DOCUMENTED}", shown(uri.path())))
}

async fn other_method(method: Method, uri: Uri) -> Refused {
    let text = format!("`{}` takes no {}: `Allow` names what it takes", shown(uri.path()), shown(method.as_str()));
    Refused::new(Code::MethodNotAllowed, text)
}

/// So much of a caller's text as helps.
fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The last resort: a handler that answered otherwise, or an answer that can't be written as JSON.
async fn in_form(response: Response) -> Response {
    if response.status().is_success() || response.extensions().get::<InForm>().is_some() {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let body = body::to_bytes(body, STRAY_BYTES_MAX).await.unwrap_or_default();
    let code = Code::ALL.iter().copied().find(|code| code.status() == head.status).unwrap_or(Code::Internal);
    let text = if body.is_empty() { code.text().into() } else { String::from_utf8_lossy(&body) };
    let answer = Refused::new(code, text).into_response();
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (answer.status(), head.headers, answer.into_body()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::Path as FilePath;

    async fn of(response: Response) -> (StatusCode, ApiError) {
        let status = response.status();
        let body = body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_code_has_one_name_and_a_status_that_refuses_and_stands_in_the_documents() {
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        let document = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
        let document = std::fs::read_to_string(document).unwrap();
        for code in Code::ALL {
            let status = code.status();
            assert!(status.is_client_error() || status.is_server_error(), "{code:?}");
            let row = format!("| {} | `{}` | {} |", status.as_u16(), code.name(), code.text());
            assert!(document.contains(&row), "docs/operations.md lacks: {row}");
        }
    }

    #[tokio::test]
    async fn a_body_is_an_object_and_no_array_stands_for_one() {
        #[derive(Debug, Default, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Wanted {
            dry_run: bool,
        }
        let request = |text: &'static str| {
            Request::builder().header(CONTENT_TYPE, "application/json").body(body::Body::from(text)).unwrap()
        };
        let taken = async |text| Body::<Wanted>::from_request(request(text), &()).await.map(|Body(body)| body);
        let optional = async |text| OptionalBody::<Wanted>::from_request(request(text), &()).await.map(|body| body.0);
        for (text, dry_run) in [("{}", false), (" \n{\"dry_run\": true}", true)] {
            assert_eq!(taken(text).await.unwrap(), Wanted { dry_run });
            assert_eq!(optional(text).await.unwrap(), Some(Wanted { dry_run }));
        }
        assert_eq!(optional("").await.unwrap(), None);
        for (text, code) in [
            ("[]", Code::BadBody),
            (" [true]", Code::BadBody),
            ("[[]]", Code::BadBody),
            ("null", Code::BadBody),
            ("[", Code::BadJson),
        ] {
            for refused in [taken(text).await.unwrap_err(), optional(text).await.unwrap_err()] {
                assert_eq!(of(refused.into_response()).await.1.code, code.name(), "{text}");
            }
        }
        // What it is announced as counts, as before.
        let odd = Request::builder().body(body::Body::from("{}")).unwrap();
        let refused = Body::<Wanted>::from_request(odd, &()).await.unwrap_err();
        assert_eq!(of(refused.into_response()).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[tokio::test]
    async fn a_report_stands_beside_the_form_and_never_over_it() {
        let report = serde_json::json!({"applied": false, "code": "mine"});
        let refused = Refused::new(Code::ConfigurationRefused, "no").with_report(&report);
        let response = refused.retry_after(Duration::from_secs(7)).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "7");
        let body = body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let told: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(told, serde_json::json!({"applied": false, "code": "configuration_refused", "error": "no"}));
    }

    #[tokio::test]
    async fn what_comes_in_no_form_is_given_it_with_its_headers_and_a_success_is_left_alone() {
        let bare = in_form((StatusCode::NOT_FOUND, [("x-kept", "1")], "gone fishing").into_response()).await;
        assert_eq!(bare.headers()["x-kept"], "1");
        assert_eq!(bare.headers()[CONTENT_TYPE], "application/json");
        let (status, error) = of(bare).await;
        assert_eq!(
            (status, error.code.as_str(), error.error.as_str()),
            (StatusCode::NOT_FOUND, "not_found", "gone fishing")
        );
        let (status, error) = of(in_form(StatusCode::IM_A_TEAPOT.into_response()).await).await;
        assert_eq!((status, error.code.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "internal"));
        let told = in_form(Refused::new(Code::Busy, "wait").into_response()).await;
        assert_eq!(of(told).await, (StatusCode::CONFLICT, ApiError::new(Code::Busy, "wait")));
        let good = in_form((StatusCode::CREATED, "as it is").into_response()).await;
        assert_eq!(body::to_bytes(good.into_body(), 99).await.unwrap(), "as it is");
    }

    #[test]
    fn a_terminal_is_told_each_fault_once_and_an_older_releases_text() {
        let at = |pointer: &str, message: &str| SpecFault { pointer: pointer.into(), message: message.into() };
        let one = ApiError { faults: vec![at("/label", "too long")], ..ApiError::new(Code::Faulty, "too long") };
        assert_eq!(one.to_string(), "too long");
        let two = ApiError { faults: vec![at("/a", "x"), at("/b", "y")], ..ApiError::new(Code::Faulty, "2 faults") };
        assert_eq!(two.to_string(), "2 faults\n  /a: x\n  /b: y");
        assert_eq!(ApiError::read(&serde_json::to_vec(&two).unwrap()), two);
        assert_eq!(ApiError::read(b"no such thing").to_string(), "no such thing");
    }
}
