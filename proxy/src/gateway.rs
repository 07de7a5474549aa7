//! `impl ProxyHttp`: each Pingora phase calls one stage. A table of contents, no rules of its own.
//!
//! Phases (pingora-proxy 0.9.1): `request_filter` decides everything and answers what is answered; `upstream_peer`, `upstream_request_filter` and
//! `response_filter` see only what is forwarded: the static files of the web page, and in the owner posture what the table does not know.

mod form;

use crate::actions::{self, Call, Caller};
use crate::admit::{Admission, BodyBudget, BodySlot, Permit, Turn, UploadSlots};
use crate::authenticate::endings::{self, End};
use crate::authenticate::presented::{self, Kept, Presented};
use crate::authenticate::{AuthError, session, tickets};
use crate::config::{Config, PublicUrl};
use crate::context::{Context, OwnedForward, Readers};
use crate::deliver::answer::{Answer, AnswerBody};
use crate::deliver::cors;
use crate::deliver::events::handshake::{self, HandshakeError, SEC_FETCH_MODE, Site};
use crate::deliver::events::held::HeldPlace;
use crate::deliver::events::socket::{self, AtEnd};
use crate::deliver::login::{next, page};
use crate::dispatch::backend::Backend;
use crate::dispatch::dispatcher::DispatchHandle;
use crate::drain::Drain;
use crate::ids::{ClientId, RequestId};
use crate::inspect::media::{self, Sender};
use crate::listen::trace::TraceId;
use crate::listen::{self, ClientAddr, ClientTls, ListenerFacts, Peer};
use crate::owner::{Credential, OwnerScope, Principal, Scope};
use crate::record::audit::Refusal;
use crate::record::ledger::LedgerError;
use crate::reject::{Rejection, Stage};
use crate::route::{self, Access, Action, Below, BodyRule, Handling, OwnerRoute, RouteError, RouteMatch, TABLE};
use crate::services::Services;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, EXPECT, HOST,
    LOCATION, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorType, HttpPeer, Result as PingoraResult};
use pingora::protocols::SocketDigest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Piece in which files are streamed out.
const PIECE_BYTES: usize = 64 << 10;
/// A client that takes longer for one write is gone or stalls on purpose.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// After an early refusal we read on for a little, so that the client sees the answer before the reset (pingora-notes §3).
const REFUSAL_DRAIN: Duration = Duration::from_secs(2);
/// For static files from a backend.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);
/// For routes of node packs, which compute, download and install while they answer.
const PACK_TIMEOUT: Duration = Duration::from_secs(600);
/// What a client is told to wait when the gateway stops: another takes over, or the same comes back.
const STOPPING_RETRY: Duration = Duration::from_secs(2);
/// What a client is told to wait when a successor takes over: it serves within a second.
const HAND_OVER_RETRY: Duration = Duration::from_secs(1);
/// Open to everybody, without the path of `public_url` too.
const HEALTH_PATH: &str = "/gate/health";
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
    /// Memory of all bodies.
    pub bodies: BodyBudget,
    /// Uploads at once.
    pub uploads: UploadSlots,
}

/// Somebody who was not let in.
struct Stranger {
    rejection: Rejection,
    /// A login would help.
    wants_login: bool,
    /// How the session came to its end that a page of ours would go on opening sockets with.
    end: Option<End>,
}

/// What a request would do, as far as another site's page is concerned.
#[derive(Debug, Clone, Copy)]
enum Does {
    Read,
    /// A `GET` of a node pack's route: nobody knows what it does.
    RunPack,
    Change,
}

/// What the stages decided for a request.
enum Served {
    Answered(Answer),
    Forwarded,
    /// A WebSocket was carried to its end.
    Carried,
    /// A WebSocket was, and its client may not have taken all that was written to it.
    Cut,
}

impl Gateway {
    /// Joins the stages.
    pub fn new(services: Arc<Services>, doors: Doors, dispatch: DispatchHandle, drain: Drain) -> Self {
        Self { services, doors, dispatch, drain }
    }

    async fn serve(&self, session: &mut Session, ctx: &mut Context) -> Result<Served, (Stage, Rejection)> {
        let facts = self.arrived(session, ctx);
        listen::check_request(session.req_header(), session.is_http2()).map_err(at(Stage::Listen))?;
        let method = session.req_header().method.clone();
        let config = self.services.config();
        let prefix = config.public_url.as_ref().filter(|_| !facts.prefix_stripped).map_or("", PublicUrl::path);
        let target = match below_prefix(raw_target(session.req_header()), prefix) {
            Below::Inside(target) => Some(target.to_owned()),
            Below::SlashMissing if method.is_safe() => return Ok(Served::Answered(slash_added(prefix))),
            Below::SlashMissing | Below::Outside => None,
        };
        let found = match &target {
            Some(target) => route::matched_route(&method, target, TABLE),
            None => Err(RouteError::NotFound { reason: Some("outside the path of `public_url`") }),
        };
        if let Ok(matched) = &found {
            ctx.route = matched.entry.path;
        }
        if self.drain.is_handing_over() {
            let text = "the gateway hands over to its successor: ask again on a new connection";
            return Err((Stage::Listen, Rejection::unavailable("handing_over", text, HAND_OVER_RETRY)));
        }
        if self.drain.is_stopping() {
            return Err((
                Stage::Listen,
                Rejection::unavailable(
                    "stopping",
                    "the gateway is stopping: try again after `Retry-After`",
                    STOPPING_RETRY,
                ),
            ));
        }
        // Before authentication: a browser asks without a credential whether it may send one.
        if cors::is_preflight(&method, &session.req_header().headers) {
            ctx.route = "preflight";
            let listed = |origin: &str| self.services.tenants().lists_origin(origin);
            return Ok(Served::Answered(cors::preflight(&session.req_header().headers, listed)));
        }
        let caller = match &found {
            Ok(matched) if matched.entry.access != Access::Credential => None,
            Err(RouteError::Odd(_)) => None,
            // An unknown path tells a stranger no more than a known one does.
            Ok(_) | Err(_) => match self.authenticated(session, found.as_ref().ok(), ctx).await {
                Ok(caller) => Some(caller),
                Err(stranger) => {
                    let target = target.as_deref().unwrap_or("/");
                    return self.send_to_login(session, found.ok().as_ref(), stranger, target, ctx).await;
                }
            },
        };
        if let Some(caller) = caller.as_ref().filter(|caller| caller.tenant.is_owner())
            && let Some(target) = &target
            && let Some(route) = route::owner_route(&method, target, TABLE)
        {
            return self.forward_owned(session, caller, route, ctx);
        }
        let matched = found.map_err(at(Stage::Route))?;
        if let (Some(caller), Some(scope)) = (&caller, matched.entry.scope) {
            crate::authenticate::require(&caller.principal, scope).map_err(at(Stage::Authenticate))?;
        }
        if let Some(caller) = &caller {
            // A socket carries events and is opened by GET.
            let changes = !method.is_safe() || matched.action() == Some(Action::WebSocket);
            self.check_page(session, caller, if changes { Does::Change } else { Does::Read }, ctx)?;
        }
        match matched.entry.handling {
            Handling::Refuse => Err((Stage::Route, Rejection::not_found())),
            // Static files are outside the request rate (design §5 admit): a page loads hundreds of them.
            Handling::Forward => {
                self.body(session, matched.entry.body, Sender::Page, ctx).await?;
                self.forward(caller.as_ref(), matched, ctx)
            }
            Handling::Answer(Action::Options) => Ok(Served::Answered(allowed(&matched))),
            Handling::Answer(Action::WebSocket) => {
                self.admit_request(caller.as_ref())?;
                self.body(session, matched.entry.body, Sender::Page, ctx).await?;
                self.carry_socket(session, caller, &matched, ctx).await
            }
            Handling::Answer(Action::View) => self.view(session, caller, &matched, &method, ctx).await,
            Handling::Answer(action) => self.answer(session, caller, &matched, action, &method, ctx).await,
        }
    }

    /// A page of another site must not use what a browser sends by itself: a password that it remembers, or a cookie.
    fn check_page(
        &self,
        session: &Session,
        caller: &Caller,
        does: Does,
        ctx: &Context,
    ) -> Result<(), (Stage, Rejection)> {
        let (head, config) = (session.req_header(), self.services.config());
        let (host, site) = (host_of(head), site(&config, ctx));
        let credential = caller.principal.credential;
        let by_cookie = credential.session().is_some();
        // Browsers show a certificate by themselves, and a password that they remember for Basic, as they send cookies. Programs show these too and say nothing of pages, so what changes
        // something needs no more than `Origin`.
        let by_itself = !is_of_the_page(credential, &head.headers);
        let checked = match does {
            Does::Change if by_cookie => handshake::check_our_page(&head.headers, host, site),
            // Browsers send `Origin` with these; this counts where one does not.
            Does::Change if by_itself && handshake::is_of_another_site(&head.headers) => {
                Err(HandshakeError::NotOurPage)
            }
            Does::Change => handshake::check_origin(&head.headers, host, site).or_else(|foreign| {
                let listed = cors::origin_of(&head.headers).is_some_and(|origin| caller.tenant.lists_origin(origin));
                if listed && is_of_the_page(credential, &head.headers) { Ok(()) } else { Err(foreign) }
            }),
            Does::Read if by_itself && handshake::is_foreign_reading(&head.headers) => Err(HandshakeError::NotOurPage),
            // Whatever the credential is: nobody knows what it does.
            Does::RunPack if handshake::is_of_another_site(&head.headers) => Err(HandshakeError::NotOurPage),
            Does::Read | Does::RunPack => Ok(()),
        };
        checked.map_err(at(Stage::Authenticate))
    }

    /// A file by its name: the owner's of the ledger; an owner's installation has others, which its own backend shows.
    async fn view(
        &self,
        session: &mut Session,
        caller: Option<Caller>,
        matched: &RouteMatch,
        method: &Method,
        ctx: &mut Context,
    ) -> Result<Served, (Stage, Rejection)> {
        let owner = caller.clone().filter(|caller| caller.tenant.is_owner());
        let served = self.answer(session, caller, matched, Action::View, method, ctx).await;
        match (served, owner) {
            (Err((_, rejection)), Some(owner))
                if rejection.status() == StatusCode::NOT_FOUND && route::is_own_disk(&matched.query) =>
            {
                let (path, label) = (matched.path.clone(), matched.entry.path);
                self.send_on(session, &owner, OwnerRoute { path, label, bundle: None, known: true }, ctx)
            }
            (served, _) => served,
        }
    }

    /// What the table does not know goes to the caller's own backend, once it is sure that it is the caller who wants it.
    fn forward_owned(
        &self,
        session: &Session,
        caller: &Caller,
        route: OwnerRoute,
        ctx: &mut Context,
    ) -> Result<Served, (Stage, Rejection)> {
        ctx.route = route.label;
        let head = session.req_header();
        if head.headers.contains_key(UPGRADE) {
            let text = "WebSockets of node packs are not carried: `/ws` is the only one";
            return Err((Stage::Route, Rejection::new(StatusCode::NOT_FOUND, "not_found", text)));
        }
        // A pack's route runs its code, as submitting a workflow does; whoever opens a bundle changes the machine.
        let scope = match route.bundle {
            Some(_) => Scope::Admin,
            None if route.known => Scope::Read,
            None => Scope::Submit,
        };
        crate::authenticate::require(&caller.principal, scope).map_err(at(Stage::Authenticate))?;
        if let Some(bundle) = route.bundle {
            if !caller.tenant.policy.opens(bundle) {
                let text =
                    "ComfyUI-Manager installs code on the backend: the policy opens it with `routes = [\"manager\"]`";
                return Err((Stage::Route, Rejection::new(StatusCode::FORBIDDEN, "bundle_closed", text)));
            }
            // Many of its GETs change the machine (facts §1.6): each must prove that it comes from our own page.
            handshake::check_same_origin(&head.headers).map_err(at(Stage::Authenticate))?;
            self.services.audit.bundle_used(&caller.principal.owner, &head.method, &route.path.encoded());
        }
        let changes = !head.method.is_safe();
        self.check_page(session, caller, if changes { Does::Change } else { Does::RunPack }, ctx)?;
        self.admit_request(Some(caller))?;
        self.send_on(session, caller, route, ctx)
    }

    fn send_on(
        &self,
        session: &Session,
        caller: &Caller,
        route: OwnerRoute,
        ctx: &mut Context,
    ) -> Result<Served, (Stage, Rejection)> {
        let bytes_max = self.services.config().limits.upload_bytes_max;
        let head = session.req_header();
        let declared = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|declared| declared > bytes_max) {
            return Err(inspected(media::too_large(bytes_max)));
        }
        ctx.backend = Some(self.first_up(caller)?);
        ctx.owned = Some(OwnedForward { route, bytes_left: bytes_max, once: !head.method.is_safe() });
        Ok(Served::Forwarded)
    }

    /// The backend that shows a tenant what is not about jobs: the first by id, so that a pack finds what it kept.
    fn first_up(&self, caller: &Caller) -> Result<Arc<Backend>, (Stage, Rejection)> {
        self.services.backends_of(&caller.tenant).into_iter().find(|backend| backend.is_up()).ok_or_else(|| {
            (
                Stage::Dispatch,
                Rejection::unavailable(
                    "no_backend",
                    "no backend answers now: try again after `Retry-After`",
                    NO_BACKEND_RETRY,
                ),
            )
        })
    }

    async fn authenticated(
        &self,
        session: &Session,
        matched: Option<&RouteMatch>,
        ctx: &mut Context,
    ) -> Result<Caller, Stranger> {
        let refused = |rejection| Stranger { rejection, wants_login: false, end: None };
        let socket = matched.filter(|matched| matched.action() == Some(Action::WebSocket));
        let principal = match self.principal(session, socket, ctx).await {
            Ok(principal) => principal,
            Err(error) => {
                self.services
                    .login_failed(&error, ctx.request, ctx.client)
                    .map_err(|blocked| refused(blocked.into()))?;
                let wants_login = error.wants_login();
                let end = match error {
                    AuthError::NotRenewedYet { retry_after } => Some(End::NotRenewedYet { retry_after }),
                    _ => wants_login.then_some(End::Over),
                };
                return Err(Stranger { wants_login, end, rejection: error.into() });
            }
        };
        ctx.owner = Some(principal.owner.clone());
        let tenant = self.services.tenants().tenant(&principal.owner.tenant);
        let tenant =
            tenant.ok_or_else(|| refused(Rejection::internal("an authenticated tenant is not in the registry")))?;
        crate::authenticate::taken_from_there(&principal, &self.services.tenants(), ctx.client)
            .map_err(|error| refused(error.into()))?;
        if let Some(key) = &principal.owner.key {
            self.services.key_uses.note(key, self.services.clock.wall());
        }
        let by_itself = !is_of_the_page(principal.credential, &session.req_header().headers);
        ctx.readers = if by_itself { Readers::Nobody } else { Readers::Of(Arc::clone(&tenant)) };
        if let Some(active) = principal.credential.session() {
            session::touch(active, &*self.services.ledger, self.services.clock.wall()).await;
        }
        Ok(Caller { principal, tenant })
    }

    /// Who asks. At `/ws` the query may say it, and what the socket stands on is kept.
    async fn principal(
        &self,
        session: &Session,
        socket: Option<&RouteMatch>,
        ctx: &mut Context,
    ) -> Result<Principal, AuthError> {
        let (tls, headers) = (client_tls(session), &session.req_header().headers);
        let Some(matched) = socket else { return self.services.principal(tls, headers).await };
        let shown = Presented { tls, headers, query_key: None };
        let (principal, standing) = match matched.query.value("token").filter(|token| !token.is_empty()) {
            Some(token) => {
                let (principal, basis, shown) = self.services.socket_principal(shown, token).await?;
                (principal, (basis, shown))
            }
            None => {
                let principal = self.services.principal_of(shown).await?;
                let kept = self.services.kept(shown, principal.credential);
                (principal.clone(), (principal, kept))
            }
        };
        ctx.standing = Some(standing);
        Ok(principal)
    }

    /// What somebody without a good credential gets: a person the login, the page of a session that has ended or is not renewed yet a silent socket, all others the refusal.
    async fn send_to_login(
        &self,
        session: &mut Session,
        matched: Option<&RouteMatch>,
        stranger: Stranger,
        target: &str,
        ctx: &mut Context,
    ) -> Result<Served, (Stage, Rejection)> {
        let Stranger { rejection, wants_login, end } = stranger;
        let head = session.req_header();
        let config = self.services.config();
        let fetch_mode = head.headers.get(SEC_FETCH_MODE);
        if wants_login && opens_a_page(head) {
            let prefix = session::prefix(config.public_url.as_ref());
            let here = format!("{prefix}{target}");
            return Ok(Served::Answered(page::redirect(&next::login_url(&here, prefix), None)));
        }
        let is_socket = matched.and_then(RouteMatch::action) == Some(Action::WebSocket);
        if let Some(end) = end.filter(|_| is_socket) {
            let ours = handshake::check_our_page(&head.headers, host_of(head), site(&config, ctx));
            let place = ours.ok().and_then(|()| self.services.held.enter(ctx.client.group()));
            if let Some(place) = place {
                self.body(session, BodyRule::None, Sender::Page, ctx).await?;
                return self.hold_socket(session, (place, end), ctx).await;
            }
        }
        let rejection = if is_socket && rejection.status() == StatusCode::UNAUTHORIZED {
            rejection.with_retry_after(endings::RECONNECT_AFTER)
        } else {
            rejection
        };
        // A browser answers a challenge to a page's own request with a prompt, for a password that nobody has.
        let rejection = if fetch_mode.is_some() { rejection.without_basic() } else { rejection };
        Err((Stage::Authenticate, rejection))
    }

    /// Notes where the caller is, and gives what its listener is told.
    fn arrived(&self, session: &Session, ctx: &mut Context) -> Arc<ListenerFacts> {
        let digest = session.digest().and_then(|digest| digest.socket_digest.as_deref());
        let config = self.services.config();
        let listeners = config.listen.iter().map(|listener| (&listener.address, &listener.facts));
        let facts = listen::listeners::nearest(listeners, digest.and_then(SocketDigest::local_addr));
        let (peer, headers) = (Peer::of(digest), &session.req_header().headers);
        ctx.client = facts.client(peer, headers);
        ctx.plain = facts.plain;
        ctx.trace = TraceId::of_request(&facts, peer, headers);
        facts
    }

    fn admit_request(&self, caller: Option<&Caller>) -> Result<(), (Stage, Rejection)> {
        match caller {
            Some(caller) => self.doors.rates.request(&caller.tenant).map(drop).map_err(at(Stage::Admit)),
            // Public and signed routes: outside the rates of tenants (design §5 admit).
            None => Ok(()),
        }
    }

    /// Answers, as long as nobody has the caller's tenant erased.
    async fn answer(
        &self,
        session: &mut Session,
        caller: Option<Caller>,
        matched: &RouteMatch,
        action: Action,
        method: &Method,
        ctx: &mut Context,
    ) -> Result<Served, (Stage, Rejection)> {
        let Some(tenant) = caller.as_ref().map(|caller| caller.principal.owner.tenant.clone()) else {
            return self.answer_now(session, caller, matched, action, method, ctx).await;
        };
        let erased = || (Stage::Authenticate, LedgerError::Erased { tenant: tenant.clone() }.into());
        let stay = self.services.stays.enter(&tenant, ctx.before).ok_or_else(erased)?;
        tokio::select! {
            served = self.answer_now(session, caller, matched, action, method, ctx) => served,
            () = stay.over() => Err(erased()),
        }
    }

    async fn answer_now(
        &self,
        session: &mut Session,
        caller: Option<Caller>,
        matched: &RouteMatch,
        action: Action,
        method: &Method,
        ctx: &mut Context,
    ) -> Result<Served, (Stage, Rejection)> {
        let submitter = caller.as_ref().filter(|_| action == Action::SubmitPrompt);
        let turn = match submitter {
            Some(caller) => {
                let turn = self.doors.rates.prompt_or_turn(&caller.tenant, pace_of(caller));
                Some((turn.map_err(at(Stage::Admit))?, caller))
            }
            None => {
                self.admit_request(caller.as_ref())?;
                None
            }
        };
        let form = match matched.entry.body {
            BodyRule::Multipart => Some(self.form(session, caller.as_ref()).await?),
            _ => None,
        };
        let sender =
            Sender::of(caller.as_ref().map(|caller| caller.principal.credential), &session.req_header().headers);
        let body = self.body(session, matched.entry.body, sender, ctx).await?;
        let rate = match turn {
            Some((Turn::Now(permit), _)) => Some(permit.rate()),
            Some((Turn::Later, caller)) => Some(self.turn(session, caller).await?.rate()),
            None => None,
        };
        let headers = session.req_header().headers.clone();
        let (services, dispatch) = (&self.services, &self.dispatch);
        let head = session.req_header();
        let call = Call {
            services,
            dispatch,
            caller,
            matched,
            method,
            headers: &headers,
            body,
            form,
            request: ctx.request,
            client: ctx.client,
            before: ctx.before,
            plain: ctx.plain,
            tls: client_tls(session).cloned(),
            host: host_of(head),
            rates: &self.doors.rates,
        };
        let mut answer = actions::answer(call, action).await.map_err(|rejection| (stage_of(action), rejection))?;
        answer.headers.extend(rate.into_iter().flat_map(crate::admit::RateState::headers));
        Ok(Served::Answered(answer))
    }

    /// Waits for a submission's turn, for as long as its caller does. Its body is read: only then is it seen that the caller leaves.
    async fn turn(&self, session: &mut Session, caller: &Caller) -> Result<Permit, (Stage, Rejection)> {
        tokio::select! {
            permit = self.doors.rates.prompt_in_turn(&caller.tenant, pace_of(caller)) => permit.map_err(at(Stage::Admit)),
            _ = session.as_downstream_mut().read_body_or_idle(true) => Err(gone()),
        }
    }

    /// Reads the body that the table allows, within one deadline, booked on the budget of all bodies.
    async fn body(
        &self,
        session: &mut Session,
        rule: BodyRule,
        sender: Sender,
        ctx: &mut Context,
    ) -> Result<Bytes, (Stage, Rejection)> {
        let head = session.req_header();
        let declared = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let absent = declared.is_none_or(|length| length == 0)
            && !head.headers.contains_key(TRANSFER_ENCODING)
            && session.is_body_empty();
        let Some(bytes_max) = media::bytes_max(rule, &self.services.config().limits, absent).map_err(inspected)? else {
            return Ok(Bytes::new());
        };
        media::check(&session.req_header().headers, rule, sender).map_err(inspected)?;
        if declared.is_some_and(|declared| declared > bytes_max) {
            return Err(inspected(media::too_large(bytes_max)));
        }
        // Booked as it arrives: whoever only announces a body takes nothing from the others.
        let mut slot = self.doors.bodies.take(0).map_err(at(Stage::Admit))?;
        let reading = read_body(session, bytes_max, &mut slot);
        let body = match tokio::time::timeout(self.services.config().limits.body_deadline, reading).await {
            Ok(body) => body?,
            Err(_) => {
                let late = Rejection::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "body_timeout",
                    "the body did not arrive in time: send it again",
                );
                return Err(inspected(late));
            }
        };
        ctx.body = Some(slot);
        Ok(body)
    }

    fn forward(
        &self,
        caller: Option<&Caller>,
        matched: RouteMatch,
        ctx: &mut Context,
    ) -> Result<Served, (Stage, Rejection)> {
        let caller = caller
            .ok_or_else(|| (Stage::Dispatch, Rejection::internal("a forwarded route was reached without a caller")))?;
        ctx.backend = Some(self.first_up(caller)?);
        ctx.matched = Some(matched);
        Ok(Served::Forwarded)
    }

    /// Ends a client's WebSocket here: upstream never sees it (facts §6.4).
    async fn carry_socket(
        &self,
        session: &mut Session,
        caller: Option<Caller>,
        matched: &RouteMatch,
        ctx: &mut Context,
    ) -> Result<Served, (Stage, Rejection)> {
        let rejected = |rejection| (Stage::Deliver, rejection);
        let caller = caller.ok_or_else(|| rejected(Rejection::internal("a socket without a caller")))?;
        let head = session.req_header();
        // Its page was looked at with everything else that changes something.
        let accept =
            handshake::upgraded(&head.method, &head.headers, session.is_http2()).map_err(at(Stage::Deliver))?;
        let client_id = match matched.query.value("clientId") {
            None | Some("") => None,
            Some(text) => {
                let bad = |error: crate::ids::IdError| {
                    Rejection::new(StatusCode::BAD_REQUEST, "bad_label", error.to_string())
                };
                Some(text.parse::<ClientId>().map_err(bad).map_err(rejected)?)
            }
        };
        let (standing, shown) =
            ctx.standing.take().ok_or_else(|| rejected(Rejection::internal("a socket that stands on nothing")))?;
        let at_end = match caller.principal.credential.session() {
            Some(_) => AtEnd::Hold(Arc::clone(&self.services.held), ctx.client.group()),
            None => AtEnd::Close,
        };
        let scope = caller.principal.owner.scope();
        let registered = self.services.register_socket(&scope, client_id, caller.tenant.limits.websockets_max).await;
        let (handle, remaining) = registered.map_err(rejected)?;
        switch_protocols(session, &accept).await?;
        self.services.metrics.set_websockets(self.services.hub.sockets());
        let closed = socket::serve(
            &mut Raw(session),
            handle,
            remaining,
            self.services.config().limits.upload_bytes_max,
            self.drain.subscribe(),
            self.credential_ended(standing, shown, ctx.client, scope),
            at_end,
        )
        .await;
        self.services.metrics.set_websockets(self.services.hub.sockets());
        tracing::debug!(?closed, "websocket closed");
        Ok(if closed.is_abrupt() { Served::Cut } else { Served::Carried })
    }

    /// Carries the socket of a page whose session lets nobody in, in silence.
    async fn hold_socket(
        &self,
        session: &mut Session,
        (place, end): (HeldPlace, End),
        ctx: &Context,
    ) -> Result<Served, (Stage, Rejection)> {
        let (head, config) = (session.req_header(), self.services.config());
        let accept = handshake::accepted(&head.method, &head.headers, session.is_http2(), site(&config, ctx))
            .map_err(at(Stage::Deliver))?;
        switch_protocols(session, &accept).await?;
        let closed = socket::hold(&mut Raw(session), place, end, self.drain.subscribe()).await;
        tracing::debug!(?closed, "silent websocket closed");
        Ok(if closed.is_abrupt() { Served::Cut } else { Served::Carried })
    }

    /// Resolves when what the caller showed would not be let in any more: revoked, expired, logged out, its tenant closed, its address not allowed; or would be shown other things, since what its
    /// tenant shares has changed. An open socket is no use of a session: a forgotten tab must not keep it alive.
    async fn credential_ended(&self, principal: Principal, shown: Kept, client: ClientAddr, scope: OwnerScope) -> End {
        let services = &self.services;
        let counted = services.metrics.standing_socket(principal.credential);
        let looked = || async {
            let principal = services.principal_of(shown.presented()).await?;
            crate::authenticate::require(&principal, Scope::Read)?;
            crate::authenticate::taken_from_there(&principal, &services.tenants(), client)?;
            // What the socket reads is not the caller's any more; the next one reads what is.
            if principal.owner.scope() == scope { Ok(principal) } else { Err(AuthError::Forbidden(Scope::Read)) }
        };
        let look = || async {
            let looked = looked().await;
            counted.looked(looked.as_ref().err().and_then(AuthError::retry_after).is_none());
            looked
        };
        endings::until_ended(
            &principal,
            &services.endings,
            services.reloaded.subscribe(),
            &services.clock,
            look,
            tokio::time::sleep,
        )
        .await
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
            client: ctx.client,
            method: session.req_header().method.clone(),
            route: ctx.route,
            reason: rejection.log_text(),
        });
        if actions::PAGES.contains(&ctx.route) {
            let (head, config) = (session.req_header(), self.services.config());
            let (raw, prefix) = (raw_target(head), session::prefix(config.public_url.as_ref()));
            // A proxy before us may have taken the prefix away.
            let target = if let Below::Inside(target) = below_prefix(raw, prefix) { target } else { raw };
            let matched = route::matched_route(&head.method, target, TABLE).ok();
            return actions::refusal_page(&self.services, ctx.route, rejection, matched.as_ref(), prefix);
        }
        let speaks_comfyui = ctx.route == "/prompt" && session.req_header().method == Method::POST;
        let mut answer = if speaks_comfyui { rejection.comfyui(ctx.request) } else { rejection.problem(ctx.request) };
        cors::say(&mut answer.headers, self.leave(session, ctx, true));
        answer
    }

    /// What the answer says to the browser of a page of another site. A refusal of somebody unknown is readable by the pages of any tenant's list: it tells a page that its key is no good, and
    /// is the same text for all.
    fn leave(&self, session: &Session, ctx: &Context, refused: bool) -> Vec<(HeaderName, HeaderValue)> {
        let origin = cors::origin_of(&session.req_header().headers);
        match &ctx.readers {
            Readers::Of(tenant) if !tenant.cors_origins.is_empty() => {
                cors::leave(origin, origin.is_some_and(|origin| tenant.lists_origin(origin))).collect()
            }
            Readers::Unknown if refused => {
                let tenants = self.services.tenants();
                let listed = origin.is_some_and(|origin| tenants.lists_origin(origin));
                if listed { cors::leave(origin, true).collect() } else { Vec::new() }
            }
            Readers::Of(_) | Readers::Unknown | Readers::Nobody => Vec::new(),
        }
    }

    async fn write(&self, session: &mut Session, ctx: &mut Context, answer: Answer) -> PingoraResult<()> {
        ctx.status = answer.status.as_u16();
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 2))?;
        for (name, value) in &answer.headers {
            head.append_header(name.clone(), value.clone())?;
        }
        head.insert_header("x-request-id", ctx.request.to_string())?;
        if is_missing_style(session, answer.status) {
            head.insert_header(CONTENT_TYPE, "text/css")?;
        }
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
            AnswerBody::Spooled { content, length } => stream_file(session, content.path(), 0, length).await,
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            request: RequestId::new(),
            client: ClientAddr::UNKNOWN,
            plain: false,
            trace: None,
            began: self.services.clock.monotonic(),
            route: "unmatched",
            matched: None,
            owned: None,
            backend: None,
            before: self.services.stays.now(),
            owner: None,
            readers: Readers::Unknown,
            standing: None,
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
            // By an error the connection is dropped at once; else it would be flushed first, for as long as its client likes.
            Ok(Served::Cut) => {
                ctx.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
                return Err(Error::explain(ErrorType::WriteError, "a websocket was cut").into_down());
            }
            Ok(Served::Answered(mut answer)) => {
                cors::say(&mut answer.headers, self.leave(session, ctx, false));
                (answer, false)
            }
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
        let mut peer = backend.endpoint.peer().await?;
        // Packs compute while they answer; the page's files are there at once.
        peer.options.read_timeout = Some(if ctx.owned.is_some() { PACK_TIMEOUT } else { FORWARD_TIMEOUT });
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
        if let (Some(backend), Some(owned)) = (&ctx.backend, &ctx.owned) {
            *upstream = owned_request(upstream, &owned.route, backend)?;
            return Ok(());
        }
        let (Some(backend), Some(matched)) = (&ctx.backend, &ctx.matched) else {
            return Err(Error::explain(ErrorType::InternalError, "forwarded without a match"));
        };
        // Built anew from what the table matched (invariant 2): the caller's own bytes and headers stay here, but for those of a static file.
        let path = backend.endpoint.path(&matched.path.encoded());
        let mut built = RequestHeader::build(upstream.method.clone(), path.as_bytes(), Some(8))?;
        built.insert_header(HOST, backend.endpoint.authority())?;
        for (name, value) in backend.endpoint.headers() {
            built.insert_header(name.clone(), value.clone())?;
        }
        if !backend.endpoint.is_reused_by_pingora() {
            built.insert_header(CONNECTION, "close")?;
        }
        built.insert_header("accept-encoding", "identity")?;
        for name in ["accept", "range", "if-range", "if-none-match", "if-modified-since"] {
            if let Some(value) = upstream.headers.get(name) {
                built.insert_header(name, value.clone())?;
            }
        }
        *upstream = built;
        Ok(())
    }

    /// Counts the body of what is sent on: nobody else does.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Context,
    ) -> PingoraResult<()> {
        let piece = body.as_ref().map_or(0, |body| body.len() as u64);
        let Some(owned) = &mut ctx.owned else { return Ok(()) };
        owned.bytes_left = owned.bytes_left.checked_sub(piece).ok_or_else(|| {
            Error::explain(
                ErrorType::HTTPStatus(StatusCode::PAYLOAD_TOO_LARGE.as_u16()),
                "a body beyond upload_bytes_max",
            )
        })?;
        Ok(())
    }

    /// A request that changes something is sent once, even where the connection was an old one that had just ended.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let once = ctx.owned.as_ref().is_some_and(|owned| owned.once);
        error.retry.decide_reuse(client_reused && !once && !session.as_ref().retry_buffer_truncated());
        error
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> PingoraResult<()>
    where
        Self::CTX: Send + Sync,
    {
        ctx.status = response.status.as_u16();
        for name in [
            "server",
            "x-powered-by",
            "set-cookie",
            // Of the page's caching we say our own; the others name what stands before a backend, or ask the caller for its password.
            "pragma",
            "expires",
            "via",
            "www-authenticate",
        ] {
            response.remove_header(name);
        }
        // A redirect to another host names the backend.
        let leads_away = |to: &HeaderValue| !to.as_bytes().starts_with(b"/") || to.as_bytes().starts_with(b"//");
        if response.headers.get(LOCATION).is_some_and(leads_away) {
            response.remove_header("location");
        }
        response.insert_header("x-content-type-options", "nosniff")?;
        // SECURITY: cookies of `SameSite=Lax` reach a frame in a page of a neighbouring name or port, and what is clicked in it counts as its own. Beside what the backend says: all policies hold.
        response.append_header(CONTENT_SECURITY_POLICY, "frame-ancestors 'self'")?;
        if is_missing_style(session, response.status) {
            response.insert_header(CONTENT_TYPE, "text/css")?;
        }
        for name in CORS_OF_A_BACKEND {
            response.remove_header(name);
        }
        for (name, value) in self.leave(session, ctx, false) {
            let before = response.headers.get(&name).filter(|_| name == VARY);
            let value = before.map_or_else(|| value.clone(), |before| cors::joined(before, &value));
            response.insert_header(name, value)?;
        }
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
            tracing::warn!(backend = %backend.id, %error, "a request could not be forwarded");
        }
        let rejection = match error.etype() {
            ErrorType::HTTPStatus(413) => media::too_large(self.services.config().limits.upload_bytes_max),
            _ => Rejection::new(StatusCode::BAD_GATEWAY, "bad_gateway", "the backend did not answer: try again")
                .with_retry_after(NO_BACKEND_RETRY),
        };
        let answer = self.refusal(session, ctx, Stage::Dispatch, &rejection);
        let _ = self.write(session, ctx, answer).await;
        FailToProxy { error_code: ctx.status, can_reuse_downstream: false }
    }

    /// A socket that was cut is no fault of the gateway's; the access log tells it.
    fn suppress_error_log(&self, _session: &Session, ctx: &Context, _error: &Error) -> bool {
        ctx.status == StatusCode::SWITCHING_PROTOCOLS.as_u16()
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
        let trace = ctx.trace.map(|trace| trace.to_string());
        tracing::debug!(request = %ctx.request, trace, client = %ctx.client, %method, route = ctx.route, status = ctx.status, ?took, error, "request");
    }

    /// Pingora's own summary holds the raw path with its query, where secrets are.
    fn request_summary(&self, session: &Session, ctx: &Context) -> String {
        format!("{} {} request {}", session.req_header().method, ctx.route, ctx.request)
    }
}

/// What a backend says of pages of other sites; who may read is said here.
const CORS_OF_A_BACKEND: [&str; 6] = [
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "access-control-max-age",
];

/// Whether the page itself showed the credential, and not its browser: cookies and certificates go along with any request, and a password that was once typed in does too.
fn is_of_the_page(credential: Credential, headers: &HeaderMap) -> bool {
    let is_basic =
        |value: &HeaderValue| value.as_bytes().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"));
    match credential {
        Credential::ApiKey | Credential::Jwt | Credential::Ticket => {
            !headers.get_all(AUTHORIZATION).iter().any(is_basic)
        }
        Credential::Session(_) | Credential::ClientCertificate => false,
    }
}

/// The headers of a caller that a pack's route may see. Credentials, addresses and what a proxy reads stay here.
const PACK_HEADERS: [&str; 11] = [
    "accept",
    "accept-language",
    "content-type",
    "content-length",
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "x-requested-with",
];

/// A request to the caller's own backend: the path as it was read, the query as it came, and the headers that are harmless.
fn owned_request(from: &RequestHeader, route: &OwnerRoute, backend: &Backend) -> PingoraResult<RequestHeader> {
    let mut target = String::new();
    if route.path.under_api() {
        target.push_str("/api");
    }
    target.push_str(&route.path.encoded());
    let query = without_our_secrets(route.path.raw_query());
    if !query.is_empty() {
        target.push('?');
        target.push_str(&query);
    }
    let target = backend.endpoint.path(&target);
    let mut built = RequestHeader::build(from.method.clone(), target.as_bytes(), Some(16))?;
    built.insert_header(HOST, backend.endpoint.authority())?;
    built.insert_header("accept-encoding", "identity")?;
    for (name, value) in backend.endpoint.headers() {
        built.insert_header(name.clone(), value.clone())?;
    }
    if !backend.endpoint.is_reused_by_pingora() {
        built.insert_header(CONNECTION, "close")?;
    }
    for name in PACK_HEADERS {
        for value in from.headers.get_all(name) {
            built.append_header(name, value.clone())?;
        }
    }
    if !built.headers.contains_key(CONTENT_LENGTH) && !from.method.is_safe() {
        built.insert_header(TRANSFER_ENCODING, "chunked")?;
    }
    Ok(built)
}

/// A query without `token=` of ours: who puts a key or a ticket where it is not read must not show it to a backend.
fn without_our_secrets(query: &str) -> String {
    let ours = |pair: &&str| {
        let value = pair.strip_prefix("token=");
        value.is_some_and(|value| presented::is_key(value) || value.starts_with(tickets::PREFIX))
    };
    query.split('&').filter(|pair| !ours(pair)).collect::<Vec<_>>().join("&")
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

/// Whether a page asks for a style sheet that is not there, as the stock page does for `user.css`. With `nosniff`, a browser would complain of the refusal's type instead of saying that
/// the file is missing; what is in a refused sheet it does not apply.
fn is_missing_style(session: &Session, status: StatusCode) -> bool {
    let wanted = session.req_header().headers.get("sec-fetch-dest");
    status == StatusCode::NOT_FOUND && wanted.is_some_and(|wanted| wanted == "style")
}

/// How long this caller's submissions may wait for their turn.
fn pace_of(caller: &Caller) -> Duration {
    let pace = caller.tenant.limits.pace;
    if caller.principal.credential.session().is_some() { pace.pages } else { pace.programs }
}

/// Answers an upgrade with 101.
async fn switch_protocols(session: &mut Session, accept: &str) -> Result<(), (Stage, Rejection)> {
    let internal = |_| (Stage::Deliver, Rejection::internal("101 header"));
    let mut head = ResponseHeader::build(StatusCode::SWITCHING_PROTOCOLS, Some(3)).map_err(internal)?;
    for (name, value) in [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", accept)] {
        head.insert_header(name, value).map_err(internal)?;
    }
    if session.write_response_header(Box::new(head), false).await.is_err() {
        return Err(gone());
    }
    // Defaults of 60 s would end idle sockets; our own pings and deadlines watch instead.
    session.set_read_timeout(None);
    session.set_write_timeout(Some(socket::WRITE_TIMEOUT));
    Ok(())
}

/// The host that a request names: in its header, or in HTTP/2's `:authority`.
fn host_of(head: &RequestHeader) -> Option<&str> {
    let named = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| Some(head.uri.authority()?.as_str()))
}

/// Whether a person opens a page: by the browser's own word, else by what it would like to see.
fn opens_a_page(head: &RequestHeader) -> bool {
    let reads = head.method == Method::GET || head.method == Method::HEAD;
    let navigates = head.headers.get(SEC_FETCH_MODE).map(|mode| mode == "navigate");
    let likes_html = || {
        let accept = head.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        accept.is_some_and(|accept| accept.contains("text/html"))
    };
    reads && navigates.unwrap_or_else(likes_html)
}

/// Which stage an action's refusals count for.
fn stage_of(action: Action) -> Stage {
    match action {
        Action::SubmitPrompt | Action::CheckPrompt => Stage::Inspect,
        Action::Login
        | Action::LoginPage
        | Action::Logout
        | Action::LogoutPage
        | Action::OidcBackchannel
        | Action::OidcCallback
        | Action::OidcOwnCallback
        | Action::OidcStart => Stage::Authenticate,
        _ => Stage::Deliver,
    }
}

/// ASCII after `listen::check_request`; what is not matches no route.
fn raw_target(head: &RequestHeader) -> &str {
    std::str::from_utf8(head.raw_path()).unwrap_or_default()
}

/// What a connection of a listener with a `client_ca` showed.
fn client_tls(session: &Session) -> Option<&ClientTls> {
    session.digest()?.ssl_digest.as_ref()?.extension.get::<ClientTls>()
}

/// Which pages are ours, for a request of this listener.
fn site<'a>(config: &'a Config, ctx: &Context) -> Site<'a> {
    Site { public: config.public_url.as_ref(), plain: ctx.plain }
}

/// A health check knows no prefix: it asks the machine, not the site.
fn below_prefix<'t>(raw_target: &'t str, prefix: &str) -> Below<'t> {
    let path = raw_target.split_once('?').map_or(raw_target, |(path, _)| path);
    if path == HEALTH_PATH { Below::Inside(raw_target) } else { route::below(raw_target, prefix) }
}

/// To the page itself; the query is left behind, since no page of ours has one.
fn slash_added(prefix: &str) -> Answer {
    let mut answer = Answer::empty(StatusCode::PERMANENT_REDIRECT);
    if let Ok(location) = HeaderValue::from_str(&format!("{prefix}/")) {
        answer.headers.insert(LOCATION, location);
    }
    answer
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
