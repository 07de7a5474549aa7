//! `/gate/login` and `/gate/logout`: an API key for a cookie, and back.
//!
//! Both are public, since whoever comes has no session, or one that has ended. What changes something comes from our own page only: otherwise another site's page could log a browser in as
//! somebody else (and see what is done there), or out.

use super::Call;
use crate::authenticate::session::{self, SessionToken};
use crate::authenticate::{AuthError, X_API_KEY};
use crate::deliver::answer::Answer;
use crate::deliver::events::handshake::{self, Site};
use crate::deliver::login::{next, page};
use crate::owner::{ActiveSession, Principal};
use crate::reject::Rejection;
use crate::route::{Query, RouteMatch};
use http::{HeaderMap, HeaderValue};
use ring::rand::SystemRandom;

/// `GET /gate/login`: the form; whoever is logged in goes on.
pub(super) async fn login_page(call: &Call<'_>) -> Result<Answer, Rejection> {
    let (wanted, prefix) = (target(call), prefix(call));
    if logged_in(call).await?.is_some() {
        return Ok(page::redirect(&next::checked(wanted, &prefix), None));
    }
    Ok(page::login(None, &next::login_url(wanted, &prefix)))
}

/// `POST /gate/login`: one answer for every key that is no good.
pub(super) async fn login(call: &Call<'_>) -> Result<Answer, Rejection> {
    check_our_page(call)?;
    call.failed_logins.check(call.client.group())?;
    let principal = match by_key(call).await {
        Ok(principal) => principal,
        Err(error) => {
            if error.is_failed_login() {
                call.failed_logins.failed(call.client.group());
            }
            return Err(refused(error));
        }
    };
    let (services, config) = (call.services, call.services.config());
    // A login is a synced write: it counts as any other request of its tenant.
    let tenant = services.tenants().tenant(&principal.owner.tenant);
    call.rates.request(&*tenant.ok_or_else(|| Rejection::internal("a logged-in tenant is not in the registry"))?)?;
    let token = SessionToken::draw(&SystemRandom::new()).map_err(|error| Rejection::internal(error.to_string()))?;
    let row = token.row(principal.owner.clone(), principal.scopes, services.clock.wall());
    // Before the new one: who logs in again does not leave the old session behind.
    if let Some((_, old)) = logged_in(call).await? {
        end(call, old).await?;
    }
    for ended in services.ledger.insert_session(row, config.sessions).await? {
        services.browsers.end(ended);
    }
    services.audit.logged_in(call.request, token.id(), &principal.owner, call.client);
    let cookie = services.browsers.cookie(config.public_url.as_ref()).set(&token, config.sessions.lifetime);
    Ok(page::redirect(&next::checked(target(call), &prefix(call)), cookie))
}

/// `GET /gate/logout`: the button.
pub(super) async fn logout_page(call: &Call<'_>) -> Result<Answer, Rejection> {
    let prefix = prefix(call);
    Ok(match logged_in(call).await? {
        Some((principal, _)) => {
            let owner = &principal.owner;
            let user = owner.user.as_ref().map(crate::ids::UserId::as_str);
            page::logout(owner.tenant.as_str(), user, &format!("{prefix}/gate/logout"))
        }
        None => page::redirect(&format!("{prefix}/gate/login"), None),
    })
}

/// `POST /gate/logout`: ends the session, if there is one, and takes the cookie away in any case.
pub(super) async fn logout(call: &Call<'_>) -> Result<Answer, Rejection> {
    check_our_page(call)?;
    if let Some((principal, session)) = logged_in(call).await? {
        end(call, session).await?;
        call.services.audit.logged_out(call.request, session.id, &principal.owner, call.client);
    }
    let config = call.services.config();
    let cookie = call.services.browsers.cookie(config.public_url.as_ref()).clear();
    Ok(page::redirect(&format!("{}/gate/login", prefix(call)), cookie))
}

/// A refusal of these routes as the page that it is read on: with the form, so that the next try is a paste away.
pub fn refusal_page(rejection: &Rejection, matched: Option<&RouteMatch>, prefix: &str) -> Answer {
    let wanted = matched.and_then(|matched| matched.query.value("next")).unwrap_or_default();
    // A password prompt of the browser would cover the page.
    rejection.clone().without_basic().page(|text| page::login(Some(text), &next::login_url(wanted, prefix)))
}

async fn end(call: &Call<'_>, session: ActiveSession) -> Result<(), Rejection> {
    call.services.ledger.end_session(session.id).await?;
    call.services.browsers.end(session.id);
    Ok(())
}

/// Who shows a good cookie.
async fn logged_in(call: &Call<'_>) -> Result<Option<(Principal, ActiveSession)>, Rejection> {
    match call.services.session_principal(call.headers).await {
        Ok(principal) => Ok(principal.credential.session().map(|session| (principal, session))),
        Err(error) if error.wants_login() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whose key stands in the form. Only a key: what else a header may hold is no login.
async fn by_key(call: &Call<'_>) -> Result<Principal, AuthError> {
    let text = std::str::from_utf8(&call.body).map_err(|_| AuthError::Malformed("form"))?;
    let form = Query::parse(text).map_err(|_| AuthError::Malformed("form"))?;
    let key = form.value("key").map(str::trim).filter(|key| !key.is_empty()).ok_or(AuthError::Malformed("form"))?;
    let key = HeaderValue::from_str(key).map_err(|_| AuthError::Malformed("characters"))?;
    let headers = HeaderMap::from_iter([(X_API_KEY, key)]);
    let services = call.services;
    services.authenticator().authenticate(&headers, &*services.ledger, &services.tenants()).await
}

fn refused(error: AuthError) -> Rejection {
    match error {
        AuthError::Unavailable(_) => error.into(),
        error => {
            let log = error.to_string();
            Rejection::new(
                http::StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "This key is not accepted. Check it, or ask for another.",
            )
            .with_challenge()
            .with_log(log)
        }
    }
}

fn check_our_page(call: &Call<'_>) -> Result<(), Rejection> {
    let config = call.services.config();
    let site = Site { public: config.public_url.as_ref(), plain: call.plain };
    Ok(handshake::check_our_page(call.headers, call.host, site)?)
}

fn target<'a>(call: &'a Call<'_>) -> &'a str {
    call.matched.query.value("next").unwrap_or_default()
}

fn prefix(call: &Call<'_>) -> String {
    session::prefix(call.services.config().public_url.as_ref()).to_owned()
}
