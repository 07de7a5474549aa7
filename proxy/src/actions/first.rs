//! `/gate/first`: what stands behind a one-time link. By it the first user is made, or a user chooses a password; either is logged in then.
//!
//! Looking uses nothing up: mail programs, chats and browsers fetch links before a person does. Only the form's button does, and of two who press it at once one gets in.

use super::Call;
use super::login::{self, check_our_page, enter, may_begin, prefix};
use super::sessions::busy;
use crate::admit::guesses::{Guess, Kind};
use crate::authenticate::login_links::LinkFor;
use crate::authenticate::passwords::{Password, StoredPassword, Typed};
use crate::deliver::answer::Answer;
use crate::deliver::login::accounts::{FirstPage, first as form_page};
use crate::ids::{TenantId, UserId};
use crate::owner::{Scope, Scopes};
use crate::record::ledger::LedgerError;
use crate::record::ledger::users::{Entry, UserRow};
use crate::reject::Rejection;
use http::StatusCode;

/// `GET /gate/first?token=`: the form.
pub(super) async fn first_page(call: &Call<'_>) -> Result<Answer, Rejection> {
    let token = call.matched.query.value("token").unwrap_or_default();
    let wanted = looked(call, token).await?;
    Ok(form(call, &wanted, token, "", None))
}

/// `POST /gate/first`: the button.
pub(super) async fn first(call: &Call<'_>) -> Result<Answer, Rejection> {
    check_our_page(call)?;
    let fields = login::form(call)?;
    let field = |name: &str| fields.value(name).unwrap_or_default();
    let (services, token) = (call.services, field("token"));
    let wanted = looked(call, token).await?;
    if services.tenants().tenant(wanted.tenant()).is_none_or(|tenant| tenant.disabled) {
        return Err(no_link());
    }
    let typed_name = field("user").trim();
    let no = |text: &str| {
        let mut answer = form(call, &wanted, token, typed_name, Some(text));
        answer.status = StatusCode::UNPROCESSABLE_ENTITY;
        Ok(answer)
    };
    let name = match &wanted {
        LinkFor::User { name, .. } => name.clone(),
        LinkFor::First { .. } => match typed_name.parse::<UserId>() {
            Ok(name) => name,
            Err(error) => return no(&error.to_string()),
        },
    };
    if fields.value("again") != Some(field("password")) {
        return no("The two passwords differ: type the same one twice.");
    }
    let password = match Password::new(&Typed::new(field("password")), &name) {
        Ok(password) => password,
        Err(fault) => return no(&fault.to_string()),
    };
    may_begin(call, wanted.tenant())?;
    let hash = services.local_users.passwords.hash(password, Some(call.client.group())).await.map_err(busy)?;
    let _stay = call.stay(wanted.tenant())?;
    // From here on it is nobody else's. Hashed before: what can fail without using it up has not failed.
    let Some(taken) = services.local_users.links.take(token, &services.clock) else { return Err(no_link()) };
    let used = used(call, taken.wanted(), name, hash).await;
    match &used {
        Ok(_) => services.local_users.links.used(&taken),
        // Nothing has come of it.
        Err(_) => services.local_users.links.put_back(&taken),
    }
    used?.ok_or_else(no_link)
}

/// Whom a link lets in; nothing is used up. One for whoever comes first is over as soon as there is any other way in.
async fn looked(call: &Call<'_>, token: &str) -> Result<LinkFor, Rejection> {
    let services = call.services;
    let Some(wanted) = services.local_users.links.look(token, &services.clock) else { return Err(bad_link(call)) };
    if let LinkFor::First { tenant } = &wanted
        && services.tenant_without_way_in().await?.as_ref() != Some(tenant)
    {
        services.local_users.end_first();
        return Err(no_link());
    }
    Ok(wanted)
}

/// Does what the link is for; none where it is good for nothing any more.
async fn used(
    call: &Call<'_>,
    wanted: &LinkFor,
    name: UserId,
    hash: StoredPassword,
) -> Result<Option<Answer>, Rejection> {
    let (ledger, limit) = (&call.services.ledger, u64::from(call.services.config().limits.users_max));
    let user = match wanted {
        LinkFor::First { tenant } => {
            let scopes = Scopes::of_a_client().iter().chain([Scope::Admin]).collect();
            let row = made(call, (name, tenant), scopes, hash);
            (row.clone(), Entry::First(row))
        }
        LinkFor::User { tenant, scopes, .. } => match ledger.user(&name).await {
            Ok(user) if user.tenant != *tenant || user.disabled_at.is_some() => return Ok(None),
            Ok(user) => {
                // In place of the one of this moment: a change that comes between stands.
                let entry = Entry::Password { name, version: user.password_version, hash };
                (user, entry)
            }
            Err(LedgerError::NotFound { .. }) => {
                let row = made(call, (name, tenant), *scopes, hash);
                (row.clone(), Entry::New { row, limit })
            }
            Err(error) => return Err(error.into()),
        },
    };
    enter(call, user, "link", "/").await
}

fn made(call: &Call<'_>, (name, tenant): (UserId, &TenantId), scopes: Scopes, password: StoredPassword) -> UserRow {
    let now = call.services.clock.wall();
    UserRow {
        name,
        tenant: tenant.clone(),
        password,
        password_version: now.0,
        scopes,
        label: None,
        disabled_at: None,
        created_at: now,
        changed_at: now,
    }
}

fn form(call: &Call<'_>, wanted: &LinkFor, token: &str, typed: &str, notice: Option<&str>) -> Answer {
    let (name, fixed) = match wanted {
        LinkFor::First { .. } => (typed, false),
        LinkFor::User { name, .. } => (name.as_str(), true),
    };
    let tenant = wanted.tenant().as_str();
    form_page(&FirstPage { notice, token, name, fixed, tenant, prefix: &prefix(call) })
}

/// A token that names no link: counted as a failed login, and told to wait where too many failed.
fn bad_link(call: &Call<'_>) -> Rejection {
    let guess = Guess { kind: Kind::Link, account: None };
    match call.services.guess_failed(&guess, call.request, call.client) {
        Ok(()) => no_link(),
        Err(blocked) => blocked.into(),
    }
}

/// One text for all: used, over, ended by a restart, of a tenant that is closed, or never there.
fn no_link() -> Rejection {
    let text = "This link is not good any more: it is for one use and half an hour. Ask whoever runs this gateway for another (`comfygate user link`), or restart a gateway that has no users yet.";
    Rejection::new(StatusCode::FORBIDDEN, "link_over", text)
}
