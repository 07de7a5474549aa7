//! Who asks: by credential, certificate, session or ticket, and for whom; and what a wrong one costs its sender.

use super::Services;
use crate::admit::guesses::{Account, Attempt, By, Guess, Kind, Noted};
use crate::admit::{AdmitError, Blocked};
use crate::authenticate::acting::{self, ActingError};
use crate::authenticate::endings::Subject;
use crate::authenticate::presented::{self, Kept, Presented};
use crate::authenticate::{AuthError, is_of_disabled_user, session};
use crate::ids::{ProviderId, RequestId, SessionId, TenantId, UserId};
use crate::listen::{ClientAddr, ClientTls};
use crate::owner::{Credential, Principal};
use crate::record::audit::LoginFailedLine;
use crate::record::ledger::LedgerError;
use crate::record::ledger::sessions::{SessionRow, WhoseSessions};
use crate::tenants::AllTenants;
use http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;

impl Services {
    /// Who sent these headers, and whom they work for: by a credential in a header or the connection's certificate, else by the cookie of a session.
    ///
    /// # Errors
    /// [`AuthError`]; never `Forbidden`.
    pub async fn principal(
        self: &Arc<Self>,
        tls: Option<&ClientTls>,
        headers: &HeaderMap,
    ) -> Result<Principal, AuthError> {
        let principal = match self.own_principal(tls, headers).await {
            Err(AuthError::Missing) => self.session_principal(headers).await,
            decided => decided,
        }?;
        self.acting(principal, headers, &self.tenants()).await
    }

    /// Whom a caller works for. A local user who may not log in is nobody to work for either.
    async fn acting(
        &self,
        principal: Principal,
        headers: &HeaderMap,
        tenants: &AllTenants,
    ) -> Result<Principal, AuthError> {
        let acts = acting::acting(principal, headers, tenants)?;
        if acts.home.is_some() && is_of_disabled_user(&acts.owner, &*self.ledger).await? {
            return Err(ActingError::Refused { key: acts.owner.key, reason: "the user is disabled" }.into());
        }
        Ok(acts)
    }

    /// Who shows a credential that no browser adds by itself to what a page asks for, but for a certificate.
    async fn own_principal(&self, tls: Option<&ClientTls>, headers: &HeaderMap) -> Result<Principal, AuthError> {
        let live = self.live();
        let rules = &live.config.client_certificates;
        live.authenticator.authenticate_connection(tls, rules, headers, &*self.ledger, &live.tenants).await
    }

    /// Who shows this: for a socket that is open, and for a ticket that was made.
    ///
    /// # Errors
    /// As [`Services::principal`]; [`AuthError::Ambiguous`] for a key of the query beside another credential than itself.
    pub async fn principal_of(self: &Arc<Self>, shown: Presented<'_>) -> Result<Principal, AuthError> {
        let Some(key) = shown.query_key else { return self.principal(shown.tls, shown.headers).await };
        let live = self.live();
        let by_query = live.authenticator.authenticate_query(key, &*self.ledger, &live.tenants).await?;
        let principal = self.acting(by_query, shown.headers, &live.tenants).await?;
        self.check_beside(&principal, shown).await?;
        Ok(principal)
    }

    /// Who opens a socket with `?token=`: a ticket, or an API key that was made for queries. Gives what the socket stands on too, and who that lets in: with its end the socket ends.
    ///
    /// # Errors
    /// [`AuthError`]; a ticket is used up in any case.
    pub async fn socket_principal(
        self: &Arc<Self>,
        shown: Presented<'_>,
        token: &str,
    ) -> Result<(Principal, Principal, Kept), AuthError> {
        if presented::is_key(token) {
            let shown = Presented { query_key: Some(token), ..shown };
            let principal = self.principal_of(shown).await?;
            let kept = self.kept(shown, principal.credential);
            return Ok((principal.clone(), principal, kept));
        }
        let made_by = self.tickets.take(token).ok_or(AuthError::UnknownTicket)?;
        let principal = self.principal_of(made_by.presented()).await?;
        if !self.check_beside(&principal, shown).await? {
            // With a ticket alone, nobody says anew whom it is for.
            let by_ticket = Principal { credential: Credential::Ticket, ..principal.clone() };
            acting::acting(by_ticket, shown.headers, &self.tenants())?;
        }
        Ok((Principal { credential: Credential::Ticket, ..principal.clone() }, principal, made_by))
    }

    /// What is kept of a caller that was let in by this, and among it by that credential.
    pub fn kept(&self, shown: Presented<'_>, by: Credential) -> Kept {
        let cookie = by.session().map(|_| self.browsers.cookie(self.config().public_url.as_ref()));
        Kept::of(shown, cookie.as_ref())
    }

    /// Whether another credential stands beside that of the query; then it has to be the same caller's. A cookie does not count: browsers add it by themselves.
    async fn check_beside(self: &Arc<Self>, principal: &Principal, shown: Presented<'_>) -> Result<bool, AuthError> {
        let beside = match self.own_principal(shown.tls, shown.headers).await {
            Err(AuthError::Missing) => return Ok(false),
            decided => self.acting(decided?, shown.headers, &self.tenants()).await?,
        };
        // SECURITY: whichever we took, somebody in front of us may have checked the other.
        let same =
            (&beside.owner, beside.scopes, &beside.home) == (&principal.owner, principal.scopes, &principal.home);
        if same { Ok(true) } else { Err(AuthError::Ambiguous) }
    }

    /// Who shows the cookie of a session.
    ///
    /// # Errors
    /// `Missing`, `Session`, `Unavailable`.
    pub async fn session_principal(self: &Arc<Self>, headers: &HeaderMap) -> Result<Principal, AuthError> {
        let live = self.live();
        let (row, again_at) = self.renewed(self.shown_session(headers).await?).await?;
        let now = self.clock.wall();
        let principal = session::principal(row, &*self.ledger, &live.tenants, live.config.sessions, now).await?;
        let good_until = principal.good_until.into_iter().chain(again_at).min();
        Ok(Principal { good_until, ..principal })
    }

    /// The session whose cookie this is and which is not over by the clock, whether or not it lets anybody in.
    ///
    /// # Errors
    /// `Missing`, `Session`, `Unavailable`.
    pub async fn shown_session(&self, headers: &HeaderMap) -> Result<SessionRow, AuthError> {
        let config = self.config();
        let token = self.browsers.cookie(config.public_url.as_ref()).shown(headers)?;
        let token = token.ok_or(AuthError::Missing)?;
        session::shown_row(&token, &*self.ledger, config.sessions, self.clock.wall()).await
    }

    /// After a local user was made, changed or removed: open sockets hear which sessions ended and look at the user anew, and the login page knows whether there is anybody.
    pub async fn users_changed(&self, tenant: &TenantId, name: &UserId, ended: &[SessionId]) {
        for session in ended {
            self.browsers.end(*session);
        }
        self.endings.tell(&Subject::user(tenant, name));
        if let Err(error) = self.local_users.refresh(&*self.ledger).await {
            tracing::warn!(%error, "whether there are local users is not known anew");
        }
    }

    /// Ends the sessions, with their sockets, whose provider told of a logout there.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn end_logged_out(&self, whose: &WhoseSessions) -> Result<(), LedgerError> {
        for row in self.ledger.end_sessions(whose, None).await? {
            self.browsers.end(row.id);
            self.audit.session_ended(row.id, &row.owner, "its provider told of a logout there");
        }
        Ok(())
    }

    /// Counts a refused credential, if it looks like guessing.
    ///
    /// # Errors
    /// `TooManyFailedLogins`: its sender had to wait. That is to be told in place of `error`.
    pub fn login_failed(&self, error: &AuthError, request: RequestId, client: ClientAddr) -> Result<(), AdmitError> {
        error.guess().map_or(Ok(()), |guess| self.guess_failed(&guess, request, client))
    }

    /// Counts a credential that can't be guessed and was no good: a key, a token or a link.
    ///
    /// # Errors
    /// As [`Services::login_failed`].
    pub fn guess_failed(&self, guess: &Guess, request: RequestId, client: ClientAddr) -> Result<(), AdmitError> {
        let noted = self.guesses.failed(client.group(), guess).map_err(|blocked| self.blocked(blocked, client))?;
        let account = match &guess.account {
            Some(Account::Key(id)) => Some(id.as_str()),
            // Whether such a user exists is not known here, and what is typed into the wrong field may be a password.
            Some(Account::User(_)) | None => None,
        };
        self.note_failure(guess.kind, account, noted, request, client);
        Ok(())
    }

    /// Leave to check a password of the local user of this name.
    ///
    /// # Errors
    /// `TooManyFailedLogins`: it must not be looked at.
    pub fn password_attempt(
        &self,
        user: &str,
        request: RequestId,
        client: ClientAddr,
    ) -> Result<PasswordAttempt<'_>, AdmitError> {
        let attempt = self.guesses.password(client.group(), user).map_err(|blocked| self.blocked(blocked, client))?;
        Ok(PasswordAttempt { attempt, kind: Kind::Password, services: self, request, client })
    }

    /// Leave to redeem a code at this provider.
    ///
    /// # Errors
    /// `TooManyFailedLogins`: the provider must not be asked.
    pub fn code_attempt(
        &self,
        provider: &ProviderId,
        request: RequestId,
        client: ClientAddr,
    ) -> Result<PasswordAttempt<'_>, AdmitError> {
        let attempt = self.guesses.code(client.group(), provider).map_err(|blocked| self.blocked(blocked, client))?;
        Ok(PasswordAttempt { attempt, kind: Kind::Code, services: self, request, client })
    }

    fn blocked(&self, blocked: Blocked, client: ClientAddr) -> AdmitError {
        self.metrics.login_blocked(blocked.by);
        AdmitError::TooManyFailedLogins { group: client.group(), blocked }
    }

    fn note_failure(&self, kind: Kind, account: Option<&str>, noted: Noted, request: RequestId, client: ClientAddr) {
        self.metrics.failed_login(kind);
        let line = |by: Option<By>, delay: Option<Duration>| {
            self.audit.login_failed(&LoginFailedLine::new(request, kind, account, client, by, delay));
        };
        if noted.first && noted.account_delay.or(noted.address_delay).is_none() {
            line(None, None);
        }
        for (by, delay) in [(By::Account, noted.account_delay), (By::Address, noted.address_delay)] {
            if delay.is_some() {
                line(Some(by), delay);
            }
        }
    }
}

/// A password that is about to be checked, or a code that is about to be redeemed: counted as a failure unless it is told otherwise.
#[derive(Debug)]
#[must_use = "say how it ended"]
pub struct PasswordAttempt<'s> {
    attempt: Attempt<'s>,
    kind: Kind,
    services: &'s Services,
    request: RequestId,
    client: ClientAddr,
}

impl PasswordAttempt<'_> {
    /// It was right.
    pub fn succeeded(self) {
        self.attempt.succeeded();
    }

    /// It was wrong. `user` is the name of a user that exists: what else was typed may be a password, and is no matter for the log.
    pub fn failed(self, user: Option<&str>) {
        let Self { attempt, kind, services, request, client } = self;
        services.note_failure(kind, user, attempt.failed(), request, client);
    }

    /// It could not be checked; or it was right, and says nothing of the failures before it.
    pub fn unchecked(self) {
        self.attempt.unchecked();
    }
}
