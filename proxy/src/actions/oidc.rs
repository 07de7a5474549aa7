//! `/gate/oidc/…`: a login at an identity provider. Out by a redirect, back by another, then a session as after any other login.
//!
//! Public: whoever comes has no session yet. What makes the answer this browser's own is a cookie that was set on the way out, and a state that is good once.

use super::Call;
use super::login;
use crate::admit::guesses::{Guess, Kind};
use crate::authenticate::AuthError;
use crate::authenticate::jwt::{JwtError, TokenTenant};
use crate::authenticate::oidc::pending::{BindingCookie, Pending, Secret};
use crate::authenticate::oidc::{OidcError, Provider, Providers, Vouched, renewal};
use crate::authenticate::session::SessionToken;
use crate::config::oidc::Callback;
use crate::config::{Config, PublicUrl};
use crate::deliver::answer::Answer;
use crate::deliver::events::handshake;
use crate::deliver::login::{next, page};
use crate::ids::ProviderId;
use crate::owner::{Owner, Scopes};
use crate::record::ledger::sessions::OidcGrant;
use crate::reject::Rejection;
use crate::tenants::AllTenants;
use http::{Method, StatusCode};
use ring::rand::SystemRandom;
use std::sync::Arc;
use std::time::Duration;

/// When a provider may send a logout again whose key is not known: keys are looked for that often.
const KEYS_RETRY: Duration = Duration::from_secs(30);
/// So much of a `sub` is in a line of the log.
const SUBJECT_CHARS_MAX: usize = 80;

/// `GET /gate/oidc/{provider}`: off to the provider. SECURITY: what another site's link begins here would end as a login that nobody asked for, and end the session that there was: at a provider that is
/// the link's author's, somebody would go on working in that author's account (RFC 6749 §10.12). So that leads to our own page, whose link it then is.
pub(super) async fn start(call: &Call<'_>) -> Result<Answer, Rejection> {
    let id = call.matched.params.named("provider").and_then(|id| id.parse::<ProviderId>().ok());
    let live = call.services.live();
    let provider = id.and_then(|id| live.providers.find(&id)).ok_or_else(Rejection::not_found)?;
    if handshake::is_of_another_site(call.headers) {
        let wanted = call.matched.query.value("next").unwrap_or_default();
        return Ok(page::redirect(&next::login_form_url(wanted, &login::prefix(call)), None));
    }
    to_provider(call, &provider).await
}

/// To that provider, and from there to where the browser wants to go.
pub(super) async fn to_provider(call: &Call<'_>, provider: &Provider) -> Result<Answer, Rejection> {
    let (services, config) = (call.services, call.services.config());
    let public = public_url(&config)?;
    let wanted = next::checked(call.matched.query.value("next").unwrap_or_default(), public.path());
    // A look ahead is no login, and takes nobody's place among those under way: it is shown our own page.
    if call.method != Method::GET {
        return Ok(page::redirect(&next::login_form_url(&wanted, public.path()), None));
    }
    // The provider leads back to the public address, and cookies know hosts: so the login begins there. Once: something in front may write a `Host` of its own.
    let named = public.origin().trim_start_matches("https://");
    let is_there = call.host.is_none_or(|host| host.eq_ignore_ascii_case(named));
    if !is_there && call.matched.query.value("moved").is_none() {
        let url = next::provider_url(provider.config().id.as_str(), &wanted, public.path());
        let mark = if url.contains('?') { '&' } else { '?' };
        return Ok(page::redirect(&format!("{}{url}{mark}moved=1", public.origin()), None));
    }
    let cookie = BindingCookie::new(services.browsers.instance(), Some(public));
    let random = SystemRandom::new();
    let drawn = || Secret::draw(&random).map_err(|_| OidcError::Random);
    // One for all tabs of a browser: a second login must not make the first one another browser's.
    let browser = cookie.shown(call.headers).map_or_else(drawn, Ok)?;
    let state = drawn()?;
    let pending = Pending {
        provider: provider.config().id.clone(),
        at: (provider.config().issuer.clone(), provider.config().client_id.clone()),
        nonce: drawn()?,
        verifier: drawn()?,
        next: wanted,
        began_at: services.clock.wall(),
    };
    let url = provider.login_url(public, &state, &pending).await?;
    services.oidc.pending.begin(&state, &browser, call.client.group(), pending);
    Ok(page::redirect(&url, cookie.set(&browser)))
}

/// `GET /gate/oidc/callback`, or one of a provider's own: back from the provider.
pub(super) async fn callback(call: &Call<'_>) -> Result<Answer, Rejection> {
    // A look ahead must not use up what is good once.
    if call.method != Method::GET {
        return Err(Rejection::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this address is opened by GET",
        ));
    }
    let (services, live, query) = (call.services, call.services.live(), &call.matched.query);
    let public = public_url(&live.config)?;
    let cookie = BindingCookie::new(services.browsers.instance(), Some(public));
    let state = query.value("state").unwrap_or_default();
    let pending = services.oidc.pending.take(state, cookie.shown(call.headers).as_ref()).ok_or(OidcError::Lost)?;
    let provider = live.providers.find(&pending.provider).filter(|provider| pending.is_at(provider.config()));
    let provider = provider.ok_or(OidcError::Gone)?;
    check_answerer(call, &provider).await?;
    if let Some(word) = query.value("error") {
        return Err(OidcError::Denied(known_error(word)).into());
    }
    let code = query.value("code").unwrap_or_default();
    // SECURITY: counted before the provider is asked: anybody may begin logins, and make codes up for them.
    let attempt = services.code_attempt(&provider.config().id, call.request, call.client)?;
    let heard = provider.logouts();
    let redeemed = provider.redeem(public, code, &pending, call.client.group()).await;
    match &redeemed {
        Err(OidcError::Refused(_)) => attempt.failed(None),
        // The code was good, or nobody has looked at it.
        _ => attempt.unchecked(),
    }
    let vouched = redeemed.map_err(|error| at(&provider, None, error))?;
    let (owner, scopes) = match owner_of(&provider, &vouched, &live.tenants).await? {
        Ok(proved) => proved,
        // Verified: so it may be told which person that was.
        Err(error) => return Err(at(&provider, Some(&vouched.subject), error)),
    };
    let token = SessionToken::draw(&SystemRandom::new()).map_err(|error| Rejection::internal(error.to_string()))?;
    let now = services.clock.wall();
    let mut row = token.row(owner, scopes, now);
    let seal = (&services.oidc.sealer, token.id());
    let by = (provider.config(), provider.terms());
    row.oidc = Some(renewal::grant(by, vouched, None, seal, now).ok_or(OidcError::Random)?);
    let cookie = login::begin(call, &token, row.clone()).await?;
    // SECURITY: after it is stored: a logout before that found no session to end. Its cookie goes to nobody.
    if let Some(whose) = provider.logout_since(heard, &row) {
        services.end_logged_out(&whose).await?;
        let subject = row.oidc.as_ref().map(|grant| grant.subject.as_str());
        return Err(at(&provider, subject, OidcError::LoggedOut));
    }
    Ok(page::redirect(&next::checked(&pending.next, &login::prefix(call)), cookie))
}

/// Who a person is here, and what that person may do; or why not.
async fn owner_of(
    provider: &Provider,
    vouched: &Vouched,
    tenants: &AllTenants,
) -> Result<Result<(Owner, Scopes), OidcError>, Rejection> {
    let Some(claims) = &vouched.claims else { return Ok(Err(OidcError::Answer("no claims".to_owned()))) };
    let identity = match provider.identity(claims, tenants) {
        Ok(identity) => identity,
        Err(error) => return Ok(Err(error)),
    };
    let tenant = match &identity.tenant {
        TokenTenant::Configured(id) => id.clone(),
        TokenTenant::Made(wanted) => {
            tenants.ensure(wanted).await.map_err(AuthError::NoTenant)?;
            wanted.id.clone()
        }
    };
    if tenants.tenant(&tenant).is_none_or(|tenant| tenant.disabled) {
        return Ok(Err(OidcError::NotAllowed(format!("tenant `{tenant}` is gone or disabled"))));
    }
    let owner = Owner { tenant, user: Some(identity.user), key: None, shared: false };
    Ok(Ok((owner, identity.scopes)))
}

/// A refusal whose line of the log says at which provider it was, and who was refused.
fn at(provider: &Provider, subject: Option<&str>, error: OidcError) -> Rejection {
    let who = subject.map_or_else(String::new, |subject| format!(", `sub` {:?}", bounded(subject)));
    let log = format!("{error} (provider `{}`{who})", provider.config().id);
    Rejection::from(error).with_log(log)
}

/// The beginning of a text that a provider has written.
fn bounded(text: &str) -> String {
    text.chars().take(SUBJECT_CHARS_MAX).collect()
}

/// `POST /gate/oidc/backchannel/{provider}`: the provider tells that somebody has logged out there. Ends the sessions that it means, with their sockets.
pub(super) async fn backchannel(call: &Call<'_>) -> Result<Answer, Rejection> {
    let (services, live) = (call.services, call.services.live());
    let id = call.matched.params.named("provider").and_then(|id| id.parse::<ProviderId>().ok());
    let provider = id.and_then(|id| live.providers.find(&id)).filter(|found| found.config().backchannel_logout);
    let provider = provider.ok_or_else(Rejection::not_found)?;
    let form = login::fields(call).map_err(|error| no_logout(error.to_string()))?;
    if form.repeated(|name| name == "logout_token").is_some() {
        return Err(no_logout("two tokens".to_owned()));
    }
    let token = form.value("logout_token").unwrap_or_default();
    let logged_out = match provider.logged_out(token).await {
        Ok(logged_out) => logged_out,
        Err(error) if error.retry_after().is_some() => return Err(error.into()),
        // A key that is not fetched yet may be a new one: the provider sends it again.
        Err(error @ OidcError::Token(JwtError::Keys(_))) => {
            let text = "the keys of this provider are not known yet: send it again";
            return Err(Rejection::unavailable("login_unavailable", text, KEYS_RETRY).with_log(error.to_string()));
        }
        Err(error) => {
            let guess = Guess { kind: Kind::Token, account: None };
            services.guess_failed(&guess, call.request, call.client)?;
            return Err(no_logout(error.to_string()));
        }
    };
    services.end_logged_out(&logged_out.whose).await.inspect_err(|_| provider.not_logged_out(&logged_out))?;
    Ok(Answer::empty(StatusCode::OK))
}

/// OpenID Connect Back-Channel Logout §2.8. What was wrong is the log's.
fn no_logout(log: String) -> Rejection {
    Rejection::new(
        StatusCode::BAD_REQUEST,
        "invalid_logout",
        "this is no logout token of this provider for this gateway",
    )
    .with_log(log)
}

/// That the provider of the login answered, and nobody in its place: at its own address, where it has one, and by its own name.
async fn check_answerer(call: &Call<'_>, provider: &Provider) -> Result<(), OidcError> {
    let own = match provider.config().callback {
        Callback::Own => Some(provider.config().id.as_str()),
        Callback::Shared => None,
    };
    if call.matched.params.named("provider") != own {
        return Err(OidcError::MixUp("it came to another provider's address"));
    }
    provider.check_answerer(call.matched.query.value("iss")).await
}

/// Where a browser goes to end its session at the provider too; `None` where there is no such place.
pub(super) async fn logout_url(call: &Call<'_>, session: crate::ids::SessionId, grant: &OidcGrant) -> Option<String> {
    let live = call.services.live();
    let provider = live.providers.find(&grant.provider).filter(|found| found.config().issuer == grant.issuer)?;
    let tokens = call.services.oidc.sealer.open(&grant.sealed, session, &grant.provider);
    let hint = tokens.and_then(|tokens| tokens.id_token);
    provider.logout_url(live.config.public_url.as_ref()?, hint.as_deref()).await
}

/// The providers, as the login page shows them; each leads to `next` afterwards.
pub(super) fn links(providers: &Providers, wanted: &str, prefix: &str) -> Vec<page::ProviderLink> {
    let link = |provider: &Arc<Provider>| page::ProviderLink {
        name: provider.config().name.clone(),
        href: next::provider_url(provider.config().id.as_str(), wanted, prefix),
    };
    providers.iter().map(link).collect()
}

/// The words that a provider may refuse with (RFC 6749 §4.1.2.1, OpenID Connect Core §3.1.2.6). SECURITY: whoever makes the address writes the word; others are not repeated.
fn known_error(word: &str) -> &'static str {
    const WORDS: [&str; 12] = [
        "access_denied",
        "account_selection_required",
        "consent_required",
        "interaction_required",
        "invalid_request",
        "invalid_scope",
        "login_required",
        "request_not_supported",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_response_type",
    ];
    WORDS.into_iter().find(|known| *known == word).unwrap_or("other")
}

fn public_url(config: &Config) -> Result<&PublicUrl, Rejection> {
    config.public_url.as_ref().ok_or_else(|| Rejection::internal("a provider without `public_url`"))
}
