//! `impl ProxyHttp`: each Pingora phase calls one stage. A table of contents, no rules of its own.
//!
//! Phases (pingora-proxy 0.9.1): `request_filter` decides everything and answers what is answered; `upstream_peer`, `upstream_request_filter` and
//! `response_filter` see only what the route table forwards: the static files of the web page.

use crate::actions::{self, Call, Caller};
use crate::admit::{Admission, BodyBudget, BodySlot, FailedLogins};
use crate::authenticate::AuthError;
use crate::context::Context;
use crate::deliver::answer::{Answer, AnswerBody};
use crate::deliver::events::{handshake, socket};
use crate::dispatch::dispatcher::DispatchHandle;
use crate::drain::Drain;
use crate::ids::{ClientId, RequestId};
use crate::inspect::media;
use crate::listen::{self, ClientAddr};
use crate::record::audit::Refusal;
use crate::reject::{Rejection, Stage};
use crate::route::{self, Access, Action, BodyRule, Handling, RouteError, RouteMatch, TABLE};
use crate::services::Services;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorType, HttpPeer, Result as PingoraResult};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Piece in which files are streamed out.
const PIECE_BYTES: usize = 64 << 10;
/// A client that takes longer for one write is gone or stalls on purpose.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// After an early refusal we read on for a little, so that the client sees the answer before the reset (pingora-notes §3).
const REFUSAL_DRAIN: Duration = Duration::from_secs(2);
/// How often an open socket's credential is looked at again.
const CREDENTIAL_INTERVAL: Duration = Duration::from_secs(25);
/// For static files from a backend.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);
/// What a client is told to wait when the gateway stops: another takes over, or the same comes back.
const STOPPING_RETRY: Duration = Duration::from_secs(2);
/// What a client is told to wait when a successor takes over: it serves within a second.
const HAND_OVER_RETRY: Duration = Duration::from_secs(1);
/// What a client is told to wait when no backend answers.
const NO_BACKEND_RETRY: Duration = Duration::from_secs(5);

/// The HTTP face of the gateway.
#[derive(Debug)]
pub struct Gateway {
    services: Arc<Services>,
    doors: Doors,
    dispatch: DispatchHandle,
    drain: Drain,
}

/// The limiters of the admit stage.
#[derive(Debug)]
pub struct Doors {
    /// Rates by tenant.
    pub rates: Admission,
    /// Failed logins by address.
    pub failed_logins: FailedLogins,
    /// Memory of all bodies.
    pub bodies: BodyBudget,
}

/// What the stages decided for a request.
enum Served {
    Answered(Answer),
    Forwarded,
    /// A WebSocket was carried to its end.
    Carried,
}

impl Gateway {
    /// Joins the stages.
    pub fn new(services: Arc<Services>, doors: Doors, dispatch: DispatchHandle, drain: Drain) -> Self {
        Self { services, doors, dispatch, drain }
    }

    async fn serve(&self, session: &mut Session, ctx: &mut Context) -> Result<Served, (Stage, Rejection)> {
        listen::check_request(session.req_header(), session.is_http2()).map_err(at(Stage::Listen))?;
        let method = session.req_header().method.clone();
        let found = route::matched_route(&method, raw_target(session.req_header()), TABLE);
        if let Ok(matched) = &found {
            ctx.route = matched.entry.path;
        }
        if self.drain.is_handing_over() {
            let text = "the gateway hands over to its successor: ask again on a new connection";
            return Err((Stage::Listen, Rejection::unavailable("handing_over", text, HAND_OVER_RETRY)));
        }
        if self.drain.is_stopping() {
            return Err((Stage::Listen, Rejection::unavailable("stopping", "the gateway is stopping", STOPPING_RETRY)));
        }
        let caller = match &found {
            Ok(matched) if matched.entry.access != Access::Credential => None,
            Err(RouteError::Odd(_)) => None,
            // An unknown path tells a stranger no more than a known one does.
            Ok(_) | Err(_) => Some(self.authenticated(session, ctx).await?),
        };
        let matched = found.map_err(at(Stage::Route))?;
        if let (Some(caller), Some(scope)) = (&caller, matched.entry.scope) {
            crate::authenticate::require(&caller.principal, scope).map_err(at(Stage::Authenticate))?;
        }
        if caller.is_some() && !method.is_safe() {
            let head = session.req_header();
            let host = head
                .headers
                .get(HOST)
                .and_then(|host| host.to_str().ok())
                .or_else(|| Some(head.uri.authority()?.as_str()));
            handshake::check_origin(&head.headers, host, self.services.config().public_url.as_ref())
                .map_err(at(Stage::Authenticate))?;
        }
        match matched.entry.handling {
            Handling::Refuse => Err((Stage::Route, Rejection::not_found())),
            Handling::NotYet(reason) => Err((Stage::Route, Rejection::not_yet(reason))),
            // Static files are outside the request rate (design §5 admit): a page loads hundreds of them.
            Handling::Forward => {
                self.body(session, matched.entry.body, ctx).await?;
                self.forward(matched, ctx)
            }
            Handling::Answer(Action::Options) => Ok(Served::Answered(allowed(&matched))),
            Handling::Answer(Action::WebSocket) => {
                self.admit_request(caller.as_ref())?;
                self.body(session, matched.entry.body, ctx).await?;
                self.carry_socket(session, caller, &matched).await
            }
            Handling::Answer(action) => self.answer(session, caller, &matched, action, &method, ctx).await,
        }
    }

    async fn authenticated(&self, session: &Session, ctx: &mut Context) -> Result<Caller, (Stage, Rejection)> {
        let group = client_address(session).group();
        self.doors.failed_logins.check(group).map_err(at(Stage::Authenticate))?;
        let headers = &session.req_header().headers;
        let principal = match self
            .services
            .authenticator()
            .authenticate(headers, &*self.services.ledger, &self.services.tenants())
            .await
        {
            Ok(principal) => principal,
            Err(error) => {
                if error.is_failed_login() {
                    self.doors.failed_logins.failed(group);
                }
                return Err(at(Stage::Authenticate)(error));
            }
        };
        ctx.owner = Some(principal.owner.clone());
        let tenant = self.services.tenants().tenant(&principal.owner.tenant);
        let tenant = tenant.ok_or_else(|| {
            (Stage::Authenticate, Rejection::internal("an authenticated tenant is not in the registry"))
        })?;
        Ok(Caller { principal, tenant })
    }

    fn admit_request(&self, caller: Option<&Caller>) -> Result<(), (Stage, Rejection)> {
        match caller {
            Some(caller) => self.doors.rates.request(&caller.tenant).map(drop).map_err(at(Stage::Admit)),
            // Public and signed routes: outside the rates of tenants (design §5 admit).
            None => Ok(()),
        }
    }

    async fn answer(
        &self,
        session: &mut Session,
        caller: Option<Caller>,
        matched: &RouteMatch,
        action: Action,
        method: &Method,
        ctx: &mut Context,
    ) -> Result<Served, (Stage, Rejection)> {
        let mut rate = None;
        match (&caller, action) {
            (Some(caller), Action::SubmitPrompt) => {
                rate = Some(self.doors.rates.prompt(&caller.tenant).map_err(at(Stage::Admit))?.rate())
            }
            _ => self.admit_request(caller.as_ref())?,
        }
        let body = self.body(session, matched.entry.body, ctx).await?;
        let headers = session.req_header().headers.clone();
        let (services, dispatch) = (&self.services, &self.dispatch);
        let call = Call { services, dispatch, caller, matched, method, headers: &headers, body, request: ctx.request };
        let mut answer = actions::answer(call, action).await.map_err(|rejection| (stage_of(action), rejection))?;
        answer.headers.extend(rate.into_iter().flat_map(crate::admit::RateState::headers));
        Ok(Served::Answered(answer))
    }

    /// Reads the body that the table allows, within one deadline, booked on the budget of all bodies.
    async fn body(
        &self,
        session: &mut Session,
        rule: BodyRule,
        ctx: &mut Context,
    ) -> Result<Bytes, (Stage, Rejection)> {
        let head = session.req_header();
        let declared = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let absent = declared.is_none_or(|length| length == 0)
            && !head.headers.contains_key(TRANSFER_ENCODING)
            && session.is_body_empty();
        let Some(bytes_max) =
            media::bytes_max(rule, self.services.config().limits.prompt_bytes_max, absent).map_err(inspected)?
        else {
            return Ok(Bytes::new());
        };
        media::check(&session.req_header().headers, rule).map_err(inspected)?;
        if declared.is_some_and(|declared| declared > bytes_max) {
            return Err(inspected(media::too_large(bytes_max)));
        }
        // Booked as it arrives: whoever only announces a body takes nothing from the others.
        let mut slot = self.doors.bodies.take(0).map_err(at(Stage::Admit))?;
        let reading = read_body(session, bytes_max, &mut slot);
        let body = match tokio::time::timeout(self.services.config().limits.body_deadline, reading).await {
            Ok(body) => body?,
            Err(_) => {
                let late =
                    Rejection::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time");
                return Err(inspected(late));
            }
        };
        ctx.body = Some(slot);
        Ok(body)
    }

    fn forward(&self, matched: RouteMatch, ctx: &mut Context) -> Result<Served, (Stage, Rejection)> {
        let backend = self.services.backends().values().find(|backend| backend.is_up()).cloned();
        let Some(backend) = backend else {
            return Err((
                Stage::Dispatch,
                Rejection::unavailable("no_backend", "no backend answers now", NO_BACKEND_RETRY),
            ));
        };
        ctx.backend = Some(backend);
        ctx.matched = Some(matched);
        Ok(Served::Forwarded)
    }

    /// Ends a client's WebSocket here: upstream never sees it (facts §6.4).
    async fn carry_socket(
        &self,
        session: &mut Session,
        caller: Option<Caller>,
        matched: &RouteMatch,
    ) -> Result<Served, (Stage, Rejection)> {
        let rejected = |rejection| (Stage::Deliver, rejection);
        let caller = caller.ok_or_else(|| rejected(Rejection::internal("a socket without a caller")))?;
        let head = session.req_header();
        let accept = handshake::accepted(
            &head.method,
            &head.headers,
            session.is_http2(),
            self.services.config().public_url.as_ref(),
        )
        .map_err(at(Stage::Deliver))?;
        let client_id = match matched.query.value("clientId") {
            None | Some("") => None,
            Some(text) => {
                let bad = |error: crate::ids::IdError| {
                    Rejection::new(StatusCode::BAD_REQUEST, "bad_label", error.to_string())
                };
                Some(text.parse::<ClientId>().map_err(bad).map_err(rejected)?)
            }
        };
        let scope = caller.principal.owner.scope();
        let registered = self.services.register_socket(&scope, client_id, caller.tenant.limits.websockets_max).await;
        let (handle, remaining) = registered.map_err(rejected)?;
        let credentials = session.req_header().headers.clone();
        let mut head = ResponseHeader::build(StatusCode::SWITCHING_PROTOCOLS, Some(3))
            .map_err(|_| rejected(Rejection::internal("101 header")))?;
        for (name, value) in
            [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", accept.as_str())]
        {
            head.insert_header(name, value).map_err(|_| rejected(Rejection::internal("101 header")))?;
        }
        if session.write_response_header(Box::new(head), false).await.is_err() {
            return Err(gone());
        }
        // Defaults of 60 s would end idle sockets; our own pings and deadlines watch instead.
        session.set_read_timeout(None);
        session.set_write_timeout(Some(socket::WRITE_TIMEOUT));
        self.services.metrics.set_websockets(self.services.hub.sockets());
        let closed = socket::serve(
            &mut Raw(session),
            handle,
            remaining,
            self.services.config().limits.upload_bytes_max,
            self.drain.subscribe(),
            self.credential_ended(credentials),
        )
        .await;
        self.services.metrics.set_websockets(self.services.hub.sockets());
        tracing::debug!(?closed, "websocket closed");
        Ok(Served::Carried)
    }

    /// Resolves when what the caller showed would not be let in any more: revoked, expired, its tenant closed. A ledger that can't be read decides nothing.
    async fn credential_ended(&self, headers: HeaderMap) {
        let mut reloaded = self.services.reloaded.subscribe();
        loop {
            // Its sender lives as long as this does: the error can't be.
            drop(tokio::time::timeout(CREDENTIAL_INTERVAL, reloaded.changed()).await);
            match self
                .services
                .authenticator()
                .authenticate(&headers, &*self.services.ledger, &self.services.tenants())
                .await
            {
                Ok(_) | Err(AuthError::Unavailable(_)) => {}
                Err(_) => return,
            }
        }
    }

    /// Tells log, metrics and audit of a refusal, and gives its answer in the route's shape.
    fn refusal(&self, session: &Session, ctx: &Context, stage: Stage, rejection: &Rejection) -> Answer {
        self.services.metrics.refusal(stage, rejection.code());
        self.services.audit.refused(&Refusal {
            request: ctx.request,
            stage,
            code: rejection.code(),
            status: rejection.status().as_u16(),
            owner: ctx.owner.clone(),
            client: client_address(session),
            method: session.req_header().method.clone(),
            route: ctx.route,
            reason: rejection.log_text(),
        });
        let speaks_comfyui = ctx.route == "/prompt" && session.req_header().method == Method::POST;
        if speaks_comfyui { rejection.comfyui(ctx.request) } else { rejection.problem(ctx.request) }
    }

    async fn write(&self, session: &mut Session, ctx: &mut Context, answer: Answer) -> PingoraResult<()> {
        ctx.status = answer.status.as_u16();
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 2))?;
        for (name, value) in &answer.headers {
            head.append_header(name.clone(), value.clone())?;
        }
        head.insert_header("x-request-id", ctx.request.to_string())?;
        let bodiless = session.req_header().method == Method::HEAD
            || answer.status == StatusCode::NOT_MODIFIED
            || answer.status == StatusCode::NO_CONTENT;
        // RFC 9110 §8.6: a 304's length would be that of the content it stands for.
        if answer.status != StatusCode::NO_CONTENT && answer.status != StatusCode::NOT_MODIFIED {
            head.insert_header(CONTENT_LENGTH, answer.body.len())?;
        }
        let empty = bodiless || answer.body.is_empty();
        session.write_response_header(Box::new(head), empty).await?;
        if empty {
            return Ok(());
        }
        match answer.body {
            AnswerBody::Bytes(bytes) => session.write_response_body(Some(bytes), true).await,
            AnswerBody::File { path, start, length } => stream_file(session, &path, start, length).await,
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            request: RequestId::new(),
            began: self.services.clock.monotonic(),
            route: "unmatched",
            matched: None,
            backend: None,
            owner: None,
            body: None,
            status: 0,
            in_flight: self.drain.enter(),
        }
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> PingoraResult<bool> {
        let (answer, refused) = match self.serve(session, ctx).await {
            Ok(Served::Forwarded) => return Ok(false),
            Ok(Served::Carried) => {
                ctx.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
                return Ok(true);
            }
            Ok(Served::Answered(answer)) => (answer, false),
            Err((stage, rejection)) => (self.refusal(session, ctx, stage, &rejection), true),
        };
        self.write(session, ctx, answer).await?;
        if refused && !session.is_body_done() {
            // Bounded by time here and by the socket's buffers in bytes; then the connection is closed.
            session.set_keepalive(None);
            let _ = tokio::time::timeout(REFUSAL_DRAIN, session.drain_request_body()).await;
        }
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Context) -> PingoraResult<Box<HttpPeer>> {
        let backend = ctx
            .backend
            .as_ref()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "forwarded without a backend"))?;
        let address = backend
            .endpoint
            .resolve()
            .await
            .map_err(|error| Error::because(ErrorType::ConnectError, "backend address", error))?;
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.connection_timeout = Some(crate::endpoint::CONNECT_TIMEOUT);
        peer.options.total_connection_timeout = Some(crate::endpoint::CONNECT_TIMEOUT);
        peer.options.read_timeout = Some(FORWARD_TIMEOUT);
        peer.options.write_timeout = Some(FORWARD_TIMEOUT);
        peer.options.idle_timeout = Some(FORWARD_TIMEOUT);
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Context,
    ) -> PingoraResult<()> {
        let (Some(backend), Some(matched)) = (&ctx.backend, &ctx.matched) else {
            return Err(Error::explain(ErrorType::InternalError, "forwarded without a match"));
        };
        // Built anew from what the table matched (invariant 2): the caller's own bytes and headers stay here, but for those of a static file.
        let mut built = RequestHeader::build(upstream.method.clone(), matched.path.encoded().as_bytes(), Some(8))?;
        built.insert_header(HOST, backend.endpoint.authority())?;
        built.insert_header("accept-encoding", "identity")?;
        for name in ["accept", "range", "if-range", "if-none-match", "if-modified-since"] {
            if let Some(value) = upstream.headers.get(name) {
                built.insert_header(name, value.clone())?;
            }
        }
        *upstream = built;
        Ok(())
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> PingoraResult<()>
    where
        Self::CTX: Send + Sync,
    {
        ctx.status = response.status.as_u16();
        for name in
            ["server", "x-powered-by", "set-cookie", "access-control-allow-origin", "access-control-allow-credentials"]
        {
            response.remove_header(name);
        }
        response.insert_header("x-content-type-options", "nosniff")?;
        response.insert_header("x-request-id", ctx.request.to_string())?;
        // `public` would let a shared cache answer for us (facts §11, 105).
        response.insert_header("cache-control", "private, no-cache")?;
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy
    where
        Self::CTX: Send + Sync,
    {
        let never = FailToProxy { error_code: 0, can_reuse_downstream: false };
        if session.response_written().is_some() || error.esource() == &pingora::ErrorSource::Downstream {
            return never;
        }
        if let Some(backend) = &ctx.backend {
            tracing::warn!(backend = %backend.id, %error, "a static file could not be forwarded");
        }
        let rejection = Rejection::new(StatusCode::BAD_GATEWAY, "bad_gateway", "the backend did not answer")
            .with_retry_after(NO_BACKEND_RETRY);
        let answer = self.refusal(session, ctx, Stage::Dispatch, &rejection);
        let _ = self.write(session, ctx, answer).await;
        FailToProxy { error_code: ctx.status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context)
    where
        Self::CTX: Send + Sync,
    {
        let took = self.services.clock.monotonic().saturating_duration_since(ctx.began);
        let method = &session.req_header().method;
        let status = StatusCode::from_u16(ctx.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.services.metrics.request(ctx.route, method, status, took);
        let error = error.map(ToString::to_string);
        tracing::debug!(request = %ctx.request, %method, route = ctx.route, status = ctx.status, ?took, error, "request");
    }

    /// Pingora's own summary holds the raw path with its query, where secrets are.
    fn request_summary(&self, session: &Session, ctx: &Context) -> String {
        format!("{} {} request {}", session.req_header().method, ctx.route, ctx.request)
    }
}

/// A session after the 101, as raw bytes both ways.
struct Raw<'a>(&'a mut Session);

#[async_trait]
impl socket::RawStream for Raw<'_> {
    async fn read(&mut self) -> Result<Option<Bytes>, socket::StreamError> {
        self.0.read_request_body().await.map_err(|error| socket::StreamError(error.to_string()))
    }
    async fn write(&mut self, bytes: Bytes) -> Result<(), socket::StreamError> {
        self.0.write_response_body(Some(bytes), false).await.map_err(|error| socket::StreamError(error.to_string()))
    }
}

/// Marks a stage's error with its stage.
fn at<E: Into<Rejection>>(stage: Stage) -> impl Fn(E) -> (Stage, Rejection) {
    move |error| (stage, error.into())
}

/// The client left: nobody reads the answer, but log and metrics do.
fn gone() -> (Stage, Rejection) {
    (
        Stage::Listen,
        Rejection::new(StatusCode::BAD_REQUEST, "client_gone", "the connection ended before the request did"),
    )
}

/// Which stage an action's refusals count for.
fn stage_of(action: Action) -> Stage {
    match action {
        Action::SubmitPrompt => Stage::Inspect,
        _ => Stage::Deliver,
    }
}

/// ASCII after `listen::check_request`; what is not matches no route.
fn raw_target(head: &RequestHeader) -> &str {
    std::str::from_utf8(head.raw_path()).unwrap_or_default()
}

/// The socket's other end; unix sockets and in-process streams have none.
fn client_address(session: &Session) -> ClientAddr {
    let peer = session.client_addr().and_then(|address| address.as_inet().copied());
    ClientAddr::of_peer(peer.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into()))
}

/// The answer to OPTIONS: what may be asked here, and no CORS.
fn allowed(matched: &RouteMatch) -> Answer {
    let mut answer = Answer::empty(StatusCode::NO_CONTENT);
    if let Ok(methods) = HeaderValue::from_str(&matched.allow.to_string()) {
        answer.headers.insert(ALLOW, methods);
    }
    answer
}

fn inspected(rejection: Rejection) -> (Stage, Rejection) {
    (Stage::Inspect, rejection)
}

async fn read_body(session: &mut Session, bytes_max: u64, slot: &mut BodySlot) -> Result<Bytes, (Stage, Rejection)> {
    // Clients that sent `Expect: 100-continue` wait a second otherwise. Others get none: HTTP/1.0 clients must not (RFC 9110 §15.2).
    if session.req_header().headers.contains_key(EXPECT) {
        session.write_continue_response().await.map_err(|_| gone())?;
    }
    let mut body = BytesMut::new();
    while let Some(piece) = session.read_request_body().await.map_err(|_| gone())? {
        let bytes = (body.len() as u64).saturating_add(piece.len() as u64);
        if bytes > bytes_max {
            return Err(inspected(media::too_large(bytes_max)));
        }
        slot.grow_to(bytes).map_err(at(Stage::Admit))?;
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

async fn stream_file(session: &mut Session, path: &std::path::Path, start: u64, length: u64) -> PingoraResult<()> {
    let failed = |error| Error::because(ErrorType::InternalError, "a content of the blobs can't be read", error);
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.seek(std::io::SeekFrom::Start(start)).await.map_err(failed)?;
    let mut left = length;
    while left > 0 {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let mut limited = (&mut file).take(left.min(PIECE_BYTES as u64));
        let read = limited.read_buf(&mut piece).await.map_err(failed)?;
        if read == 0 {
            return Err(Error::explain(
                ErrorType::InternalError,
                "a content of the blobs is shorter than its row says",
            ));
        }
        left = left.saturating_sub(read as u64);
        session.write_response_body(Some(piece.freeze()), left == 0).await?;
    }
    Ok(())
}
