//! `/gate/login` and `/gate/logout`: an API key, or a name and a password, for a cookie, and back.
//!
//! All are public, since whoever comes has no session, or one that has ended. What changes something comes from our own page only: otherwise another site's page could log a browser in as
//! somebody else (and see what is done there), or out.

use super::{Call, oidc};
use crate::authenticate::acting::{self, ActingError};
use crate::authenticate::local_users::by_password;
use crate::authenticate::passwords::Typed;
use crate::authenticate::session::{self, SessionRefused, SessionToken};
use crate::authenticate::{AuthError, X_API_KEY, from_there};
use crate::deliver::answer::Answer;
use crate::deliver::events::handshake::{self, Site};
use crate::deliver::login::{accounts, agent, next, page};
use crate::ids::{SessionId, TenantId, UserId};
use crate::owner::{ActiveSession, Owner, Principal, Scopes};
use crate::record::ledger::LedgerError;
use crate::record::ledger::sessions::{SessionRow, UserLogin};
use crate::record::ledger::users::{Entry, UserRow};
use crate::reject::Rejection;
use crate::route::{Query, RouteMatch};
use crate::services::Services;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, StatusCode};
use ring::rand::SystemRandom;

/// The routes whose refusals are read by a person, and therefore pages.
pub const PAGES: [&str; 8] = [
    "/gate/login",
    "/gate/logout",
    "/gate/first",
    "/gate/sessions",
    "/gate/password",
    "/gate/oidc/{provider}",
    "/gate/oidc/callback",
    "/gate/oidc/callback/{provider}",
];

/// `GET /gate/login`: the form; whoever is logged in goes on. Where one provider is the only way, to that at once, but with `form` in the query.
pub(super) async fn login_page(call: &Call<'_>) -> Result<Answer, Rejection> {
    let (wanted, prefix) = (target(call), prefix(call));
    if logged_in(call).await?.is_some() {
        return Ok(page::redirect(&next::checked(wanted, &prefix), None));
    }
    let live = call.services.live();
    match live.providers.automatic() {
        Some(provider) if call.matched.query.value("form").is_none() => oidc::to_provider(call, provider).await,
        _ => {
            call.services.first_link_looked_at().await?;
            Ok(page_with(call.services, None, wanted, &prefix))
        }
    }
}

/// `POST /gate/login`: one answer for everything that is no good.
pub(super) async fn login(call: &Call<'_>) -> Result<Answer, Rejection> {
    check_our_page(call)?;
    own_name(call)?;
    let (token, row) = session_of(call, proved(call).await?)?;
    let cookie = begin(call, &token, row).await?;
    Ok(page::redirect(&next::checked(target(call), &prefix(call)), cookie))
}

/// `GET /gate/logout`: the button.
pub(super) async fn logout_page(call: &Call<'_>) -> Result<Answer, Rejection> {
    let prefix = prefix(call);
    Ok(match logged_in(call).await? {
        Some((principal, _)) => {
            let owner = &principal.owner;
            let user = owner.user.as_ref().map(UserId::as_str);
            page::logout(owner.tenant.as_str(), user, &format!("{prefix}/gate/logout"))
        }
        // From here a provider would let them in again at once: they came to leave.
        None if call.services.live().providers.automatic().is_some() => page::left(&format!("{prefix}/gate/login")),
        None => page::redirect(&format!("{prefix}/gate/login"), None),
    })
}

/// `POST /gate/logout`: ends the session, if there is one, and takes the cookie away in any case. Whoever came by a provider goes there next, to end its session too.
pub(super) async fn logout(call: &Call<'_>) -> Result<Answer, Rejection> {
    check_our_page(call)?;
    let mut elsewhere = None;
    if let Some(row) = shown_session(call).await? {
        // Before anybody else is asked: what comes of that must not keep the session.
        end(call, row.id).await?;
        call.services.audit.logged_out(call.request, row.id, &row.owner, call.client);
        if let Some(grant) = &row.oidc {
            elsewhere = oidc::logout_url(call, row.id, grant).await;
        }
    }
    let live = call.services.live();
    let cookie = no_cookie(call);
    let there = if live.providers.automatic().is_some() { "logout" } else { "login" };
    Ok(match elsewhere {
        Some(url) => page::leave(&url, cookie),
        None => page::redirect(&format!("{}/gate/{there}", prefix(call)), cookie),
    })
}

/// A refusal of [`PAGES`] as the page that it is read on: a login with its form, so that the next try is a paste away.
pub fn refusal_page(
    services: &Services,
    route: &str,
    rejection: &Rejection,
    matched: Option<&RouteMatch>,
    prefix: &str,
) -> Answer {
    // A password prompt of the browser would cover the page.
    let rejection = rejection.clone().without_basic();
    match route {
        "/gate/first" => rejection.page(|text| accounts::told("This link", text, prefix)),
        "/gate/sessions" | "/gate/password" => rejection.page(|text| accounts::told("Your sessions", text, prefix)),
        _ => {
            let wanted = matched.and_then(|matched| matched.query.value("next")).unwrap_or_default();
            rejection.page(|text| page_with(services, Some(text), wanted, prefix))
        }
    }
}

/// The form, with the ways that are open here.
fn page_with(services: &Services, notice: Option<&str>, wanted: &str, prefix: &str) -> Answer {
    let action = next::login_url(wanted, prefix);
    let links = oidc::links(&services.live().providers, wanted, prefix);
    let (passwords, first) = (services.local_users.any(), services.local_users.links.has_first());
    page::login(page::Login { notice, action: &action, passwords, providers: &links, first })
}

/// What somebody has proved, and what a session therefore is begun with.
#[derive(Debug)]
pub(super) struct Proved {
    /// In whose name.
    pub(super) owner: Owner,
    /// What the credential may do.
    pub(super) scopes: Scopes,
    /// Where it was a password.
    pub(super) user_login: Option<UserLogin>,
}

impl From<UserRow> for Proved {
    fn from(user: UserRow) -> Self {
        let owner = user.owner();
        let user_login = Some(UserLogin { name: user.name, password_version: user.password_version });
        Self { owner, scopes: user.scopes, user_login }
    }
}

/// A session for what was proved, which has not begun yet.
pub(super) fn session_of(call: &Call<'_>, proved: Proved) -> Result<(SessionToken, SessionRow), Rejection> {
    let token = SessionToken::draw(&SystemRandom::new()).map_err(|error| Rejection::internal(error.to_string()))?;
    let row = token.row(proved.owner, proved.scopes, call.services.clock.wall());
    Ok((token, SessionRow { user_login: proved.user_login, ..row }))
}

/// Begins a session, whatever it is by, ends the browser's former one, and gives the cookie.
pub(super) async fn begin(
    call: &Call<'_>,
    token: &SessionToken,
    row: SessionRow,
) -> Result<Option<HeaderValue>, Rejection> {
    let services = call.services;
    let _stay = call.stay(&row.owner.tenant)?;
    may_begin(call, &row.owner.tenant)?;
    let row = SessionRow { browser: browser_of(call), ..row };
    // Before the new one: who logs in again leaves no old session behind, and pushes out nobody else's.
    if let Some(former) = shown_session(call).await? {
        end(call, former.id).await?;
    }
    let pushed_out = match services.ledger.insert_session(row.clone(), services.config().sessions).await {
        Err(LedgerError::Conflict { .. }) if row.user_login.is_some() => {
            return Err(AuthError::from(SessionRefused::UserEnded).into());
        }
        inserted => inserted?,
    };
    for ended in pushed_out {
        services.browsers.end(ended);
    }
    if !stays_open(call, &row).await? {
        return Err(AuthError::from(SessionRefused::TenantClosed).into());
    }
    Ok(begun(call, token, &row))
}

/// Whether a session that was just stored may stay; ends one that was stored while its tenant was being disabled. SECURITY: to be asked after it is stored: whoever disables a tenant does so first, and
/// then ends the sessions that are there.
async fn stays_open(call: &Call<'_>, row: &SessionRow) -> Result<bool, Rejection> {
    let open = call.services.tenants().tenant(&row.owner.tenant).is_some_and(|tenant| !tenant.disabled);
    if !open {
        end(call, row.id).await?;
    }
    Ok(open)
}

/// Whether anybody of that tenant may begin a session here and now. A login is a synced write: it counts as any other request of its tenant.
pub(super) fn may_begin(call: &Call<'_>, tenant: &TenantId) -> Result<(), Rejection> {
    let tenant = call.services.tenants().tenant(tenant);
    let tenant = tenant.ok_or_else(|| Rejection::internal("a logged-in tenant is not in the registry"))?;
    call.rates.request(&tenant)?;
    Ok(from_there(&tenant, call.client)?)
}

/// Makes or changes a local user and logs that user in, or neither: a link or a former password is not used up by a login that there is no room for. `user` is as it is known, [`may_begin`] was
/// asked, `by` is what was shown. Gives an answer that leads to `next` with the cookie; none where the entry came too late.
pub(super) async fn enter(
    call: &Call<'_>,
    (user, entry): (UserRow, Entry),
    by: &'static str,
    next: &str,
) -> Result<Option<Answer>, Rejection> {
    let services = call.services;
    let (token, row) = session_of(call, Proved::from(user))?;
    let row = SessionRow { browser: browser_of(call), ..row };
    let former = shown_session(call).await?.map(|row| row.id);
    let made = !matches!(entry, Entry::Password { .. });
    let (user, row) = match services.ledger.enter_user(entry, row, former, services.config().sessions).await {
        Ok(entered) => entered,
        Err(LedgerError::Conflict { .. } | LedgerError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if made {
        services.audit.user_created(&user.row.owner());
    }
    services.audit.password_chosen(call.request, &user.row.owner(), by, call.client);
    services.users_changed(&user.row.tenant, &user.row.name, &user.ended).await;
    if !stays_open(call, &row).await? {
        // The password is chosen: what led here is used up.
        return Ok(None);
    }
    Ok(Some(page::redirect(&format!("{}{next}", prefix(call)), begun(call, &token, &row))))
}

/// What kind of browser it is, for whoever looks for a session to end.
fn browser_of(call: &Call<'_>) -> Option<String> {
    call.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).and_then(agent::kind)
}

/// The line of the audit log, and the cookie.
fn begun(call: &Call<'_>, token: &SessionToken, row: &SessionRow) -> Option<HeaderValue> {
    let (services, config) = (call.services, call.services.config());
    services.audit.logged_in(call.request, row, call.client);
    services.browsers.cookie(config.public_url.as_ref()).set(token, config.sessions.lifetime)
}

async fn end(call: &Call<'_>, session: SessionId) -> Result<(), Rejection> {
    call.services.ledger.end_session(session).await?;
    call.services.browsers.end(session);
    Ok(())
}

/// The session whose cookie is shown, whether or not it lets anybody in now: one that its provider or its tenant keeps out today may be good again tomorrow.
async fn shown_session(call: &Call<'_>) -> Result<Option<SessionRow>, Rejection> {
    match call.services.shown_session(call.headers).await {
        Ok(row) => own_name(call).map(|()| Some(row)),
        Err(error) if error.wants_login() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A cookie works in its own name: whoever asks for another is refused, not forgotten.
fn own_name(call: &Call<'_>) -> Result<(), Rejection> {
    if acting::is_wanted(call.headers) {
        let reason = "a cookie, and a login, are for the credential's own tenant";
        return Err(AuthError::from(ActingError::Refused { key: None, reason }).into());
    }
    Ok(())
}

/// The `Set-Cookie` that takes the cookie away.
pub(super) fn no_cookie(call: &Call<'_>) -> Option<HeaderValue> {
    call.services.browsers.cookie(call.services.config().public_url.as_ref()).clear()
}

/// Who shows a good cookie.
pub(super) async fn logged_in(call: &Call<'_>) -> Result<Option<(Principal, ActiveSession)>, Rejection> {
    match call.services.session_principal(call.headers).await {
        Ok(principal) => {
            own_name(call)?;
            Ok(principal.credential.session().map(|session| (principal, session)))
        }
        Err(error) if error.wants_login() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the form of the login holds. `Debug` is left out: it is a secret as it stands.
enum Shown {
    Key(HeaderValue),
    Password { name: String, password: Typed },
}

/// The fields of a form of ours.
///
/// SECURITY: one that stands twice is refused. Whoever looks at forms in front of us may take the other of the two.
pub(super) fn form(call: &Call<'_>) -> Result<Query, Rejection> {
    let form = fields(call).map_err(|error| no_form().with_log(error.to_string()))?;
    match form.repeated(|_| true) {
        Some(_) => Err(no_form().with_log("a field stands twice")),
        None => Ok(form),
    }
}

/// A form that none of our pages has sent.
pub(super) fn no_form() -> Rejection {
    Rejection::new(
        StatusCode::BAD_REQUEST,
        "bad_form",
        "This is no form of this page: go back and press one of its buttons.",
    )
}

/// The fields of a form, as they stand.
pub(super) fn fields(call: &Call<'_>) -> Result<Query, AuthError> {
    let text = std::str::from_utf8(&call.body).map_err(|_| AuthError::Malformed("form"))?;
    Query::parse(text).map_err(|_| AuthError::Malformed("form"))
}

/// A key, or a name and a password: not both, and nothing that a header may hold besides.
fn shown(form: &Query) -> Result<Shown, AuthError> {
    let given = |field: &str| form.value(field).map(str::trim).filter(|text| !text.is_empty());
    match (given("key"), given("user"), form.value("password").filter(|text| !text.is_empty())) {
        (Some(key), None, None) => {
            Ok(Shown::Key(HeaderValue::from_str(key).map_err(|_| AuthError::Malformed("characters"))?))
        }
        (None, Some(name), Some(password)) => {
            Ok(Shown::Password { name: name.to_owned(), password: Typed::new(password) })
        }
        (Some(_), _, _) => Err(AuthError::Ambiguous),
        _ => Err(AuthError::Malformed("form")),
    }
}

/// Who shows a good key or password.
async fn proved(call: &Call<'_>) -> Result<Proved, Rejection> {
    let services = call.services;
    let error = match shown(&form(call)?) {
        Ok(Shown::Key(key)) => {
            let headers = HeaderMap::from_iter([(X_API_KEY, key)]);
            match services.authenticator().authenticate(&headers, &*services.ledger, &services.tenants()).await {
                Ok(Principal { owner, scopes, .. }) => return Ok(Proved { owner, scopes, user_login: None }),
                Err(error) => error,
            }
        }
        Ok(Shown::Password { name, password }) => match user_of(call, &name, &password).await? {
            Ok(user) => return Ok(user.into()),
            Err(error) => error,
        },
        Err(error) => error,
    };
    services.login_failed(&error, call.request, call.client)?;
    Err(refused(error))
}

/// The local user of that name and password, or why nobody is.
///
/// # Errors
/// Too many tries failed, at this address or as this user: then the password was not looked at.
pub(super) async fn user_of(
    call: &Call<'_>,
    name: &str,
    password: &Typed,
) -> Result<Result<UserRow, AuthError>, Rejection> {
    let services = call.services;
    let attempt = services.password_attempt(&name.to_ascii_lowercase(), call.request, call.client)?;
    let parts = (&*services.ledger, &*services.tenants(), &services.local_users.passwords);
    let checked = by_password(name, password, parts, Some(call.client.group()), services.clock.wall()).await;
    match &checked {
        Ok(_) => attempt.succeeded(),
        Err(AuthError::Password(refused)) => attempt.failed(refused.user().map(UserId::as_str)),
        Err(_) => attempt.unchecked(),
    }
    Ok(checked)
}

fn refused(error: AuthError) -> Rejection {
    if error.retry_after().is_some() {
        return error.into();
    }
    let text = "This login is not accepted. Check what you typed, or ask whoever runs this gateway.";
    Rejection::new(StatusCode::UNAUTHORIZED, "unauthenticated", text).with_challenge().with_log(error.to_string())
}

pub(super) fn check_our_page(call: &Call<'_>) -> Result<(), Rejection> {
    let config = call.services.config();
    let site = Site { public: config.public_url.as_ref(), plain: call.plain };
    Ok(handshake::check_our_page(call.headers, call.host, site)?)
}

fn target<'a>(call: &'a Call<'_>) -> &'a str {
    call.matched.query.value("next").unwrap_or_default()
}

pub(super) fn prefix(call: &Call<'_>) -> String {
    session::prefix(call.services.config().public_url.as_ref()).to_owned()
}
