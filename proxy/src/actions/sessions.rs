//! `/gate/sessions` and `/gate/password`: where somebody is logged in, and another password.
//!
//! By the cookie alone, and what changes something from our own page only, as at the login. A session shows and ends the sessions of its own user, or of its own key where that has no user, and of nobody else.

use super::Call;
use super::login::{check_our_page, enter, form, logged_in, no_cookie, no_form, prefix, user_of};
use crate::authenticate::local_users::PasswordRefused;
use crate::authenticate::passwords::{HashError, Password, Typed};
use crate::authenticate::{AuthError, from_there};
use crate::deliver::answer::Answer;
use crate::deliver::login::accounts::{Listed, SessionsPage, sessions};
use crate::deliver::login::page;
use crate::ids::{SessionId, UserId};
use crate::owner::{ActiveSession, Principal};
use crate::record::ledger::LedgerError;
use crate::record::ledger::sessions::{SessionRow, WhoseSessions};
use crate::record::ledger::users::Entry;
use crate::reject::Rejection;
use http::StatusCode;

/// `GET /gate/sessions`: the list.
pub(super) async fn sessions_page(call: &Call<'_>) -> Result<Answer, Rejection> {
    match caller(call).await? {
        Some((principal, session)) => listed(call, &principal, session, None).await,
        None => Ok(to_login(call)),
    }
}

/// `POST /gate/sessions`: ends one of the caller's sessions, or all others.
pub(super) async fn change_sessions(call: &Call<'_>) -> Result<Answer, Rejection> {
    check_our_page(call)?;
    let Some((principal, session)) = caller(call).await? else { return Ok(to_login(call)) };
    let form = form(call)?;
    let whose = WhoseSessions::Own(principal.owner.clone());
    let ledger = &call.services.ledger;
    let ended: Vec<SessionRow> = match (form.value("end"), form.value("others")) {
        (None, Some("1")) => ledger.end_sessions(&whose, Some(session.id)).await?,
        (Some(id), None) => {
            let id = id.parse::<SessionId>().map_err(|_| no_form())?;
            // One that is another's is not there; one that has ended meanwhile is as it should be.
            match ledger.sessions(&whose).await?.into_iter().find(|row| row.id == id) {
                Some(row) => {
                    ledger.end_session(id).await?;
                    vec![row]
                }
                None => Vec::new(),
            }
        }
        _ => return Err(no_form()),
    };
    for row in &ended {
        call.services.browsers.end(row.id);
        call.services.audit.session_ended(row.id, &row.owner, "by its owner");
    }
    if ended.iter().any(|row| row.id == session.id) {
        return Ok(page::redirect(&format!("{}/gate/login", prefix(call)), no_cookie(call)));
    }
    Ok(page::redirect(&format!("{}/gate/sessions", prefix(call)), None))
}

/// `POST /gate/password`: another password for the former one. All sessions by the former end; this browser gets a new one.
pub(super) async fn change_password(call: &Call<'_>) -> Result<Answer, Rejection> {
    check_our_page(call)?;
    let Some((principal, session)) = caller(call).await? else { return Ok(to_login(call)) };
    let Some(name) = password_of(call, session).await? else {
        let text =
            "This session was not begun by a password, so it can't change one: log in by user name and password first.";
        return Err(Rejection::new(StatusCode::FORBIDDEN, "forbidden", text));
    };
    let no = async |text: &str| {
        let mut answer = listed(call, &principal, session, Some(text)).await?;
        answer.status = StatusCode::UNPROCESSABLE_ENTITY;
        Ok(answer)
    };
    let form = form(call)?;
    let (old, chosen) = (form.value("old").unwrap_or_default(), form.value("password").unwrap_or_default());
    // Before the former is looked at: what can't be is told without a hash.
    if form.value("again") != Some(chosen) {
        return no("The two new passwords differ: type the same one twice.").await;
    }
    let chosen = match Password::new(&Typed::new(chosen), &name) {
        Ok(chosen) => chosen,
        Err(fault) => return no(&fault.to_string()).await,
    };
    let user = match user_of(call, name.as_str(), &Typed::new(old)).await? {
        Ok(user) => user,
        Err(AuthError::Password(PasswordRefused::WrongPassword(_))) => {
            return no("The present password is wrong.").await;
        }
        Err(error) => return Err(error.into()),
    };
    let services = call.services;
    let hash = services.local_users.passwords.hash(chosen, Some(call.client.group())).await.map_err(busy)?;
    let entry = Entry::Password { name: user.name.clone(), version: user.password_version, hash };
    // Where a reset came between, the former password proves nothing any more.
    Ok(enter(call, (user, entry), "password", "/gate/sessions").await?.unwrap_or_else(|| to_login(call)))
}

/// Who shows a good cookie, within the rate of its tenant.
async fn caller(call: &Call<'_>) -> Result<Option<(Principal, ActiveSession)>, Rejection> {
    let Some((principal, session)) = logged_in(call).await? else { return Ok(None) };
    let tenant = call.services.tenants().tenant(&principal.owner.tenant);
    let tenant = tenant.ok_or_else(|| Rejection::internal("a logged-in tenant is not in the registry"))?;
    call.rates.request(&tenant)?;
    from_there(&tenant, call.client)?;
    Ok(Some((principal, session)))
}

async fn listed(
    call: &Call<'_>,
    principal: &Principal,
    session: ActiveSession,
    notice: Option<&str>,
) -> Result<Answer, Rejection> {
    let (services, bounds) = (call.services, call.services.config().sessions);
    let now = services.clock.wall();
    let mut rows = services.ledger.sessions(&WhoseSessions::Own(principal.owner.clone())).await?;
    rows.retain(|row| !bounds.over(row, now));
    let password_of = rows.iter().find(|row| row.id == session.id).and_then(|row| row.user_login.clone());
    let sessions_of: Vec<Listed> = rows.into_iter().map(|row| entry(row, session.id)).collect();
    Ok(sessions(&SessionsPage {
        notice,
        tenant: principal.owner.tenant.as_str(),
        user: principal.owner.user.as_ref().map(UserId::as_str),
        sessions: &sessions_of,
        password_of: password_of.as_ref().map(|login| login.name.as_str()),
        prefix: &prefix(call),
    }))
}

fn entry(row: SessionRow, own: SessionId) -> Listed {
    let by = match (&row.owner.key, row.by()) {
        (Some(key), _) => format!("API key {key}"),
        (None, by) => by.to_owned(),
    };
    Listed {
        id: row.id,
        by,
        browser: row.browser.unwrap_or_else(|| "Another browser".to_owned()),
        created_at: row.created_at,
        seen_at: row.seen_at,
        own: row.id == own,
    }
}

/// The login name, if the session was begun by password.
async fn password_of(call: &Call<'_>, session: ActiveSession) -> Result<Option<UserId>, Rejection> {
    match call.services.ledger.session(session.id).await {
        Ok(row) => Ok(row.user_login.map(|login| login.name)),
        Err(LedgerError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn busy(error: HashError) -> Rejection {
    AuthError::from(error).into()
}

fn to_login(call: &Call<'_>) -> Answer {
    page::redirect(&format!("{}/gate/login?next={}/gate/sessions", prefix(call), prefix(call)), None)
}
