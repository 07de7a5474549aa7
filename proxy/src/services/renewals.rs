//! Sessions of identity providers: each is renewed by its refresh token when its tokens end, once at a time, and ends when the provider says so.

use super::Services;
use crate::authenticate::AuthError;
use crate::authenticate::jwt::TokenTenant;
use crate::authenticate::oidc::pending::PendingLogins;
use crate::authenticate::oidc::renewal::{self, Flight, Flights, Lapsed, Need, Progress, Turn};
use crate::authenticate::oidc::seal::Sealer;
use crate::authenticate::oidc::{OidcError, Provider};
use crate::authenticate::session::SessionRefused;
use crate::clock::{Clock, WallMillis};
use crate::ids::SessionId;
use crate::owner::Scopes;
use crate::record::ledger::LedgerError;
use crate::record::ledger::sessions::{OidcGrant, SessionRow};
use crate::record::metrics::Renewal;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a request, or an open socket's look, waits for a renewal: a provider answers within a second, or not at all. Below the five seconds in which a socket hears that its session has ended.
const RENEWAL_WAIT: Duration = Duration::from_secs(4);
/// Who waited in vain is to come again after this.
const RENEWAL_RETRY: Duration = Duration::from_secs(2);

/// What logins at identity providers share: kept over a reload.
#[derive(Debug)]
pub struct Oidc {
    /// Logins under way.
    pub pending: PendingLogins,
    /// Reads and writes what sessions keep of tokens.
    pub sealer: Sealer,
    flights: Arc<Flights>,
}

impl Oidc {
    /// No login yet.
    pub fn new(sealer: Sealer, clock: Clock) -> Self {
        Self { pending: PendingLogins::new(clock), sealer, flights: Arc::default() }
    }
}

/// How a renewal ended that did not end well.
enum Failed {
    /// The session is over, for this reason.
    Over(String),
    /// The provider was asked, and nothing is known: it is tried again.
    Open(String),
    /// It was not asked, or we could not keep what it said: it is tried again after so long.
    NotNow(String, Duration),
}

impl From<OidcError> for Failed {
    fn from(error: OidcError) -> Self {
        match &error {
            OidcError::NotAsked { retry_after, .. } => Self::NotNow(error.to_string(), *retry_after),
            error if error.ends_session() => Self::Over(error.to_string()),
            error => Self::Open(error.to_string()),
        }
    }
}

impl Services {
    /// The session as its identity provider last vouched for it, and when it is to be looked at again. One whose tokens are about to end is renewed beside the request, one whose tokens have
    /// ended, or whose claims have to be read anew, before it.
    ///
    /// # Errors
    /// `Session`: its provider is gone from the configuration, has ended it, or was asked in vain for too long. `NotRenewedYet`, `Unavailable`.
    pub(super) async fn renewed(
        self: &Arc<Self>,
        row: SessionRow,
    ) -> Result<(SessionRow, Option<WallMillis>), AuthError> {
        let Some(grant) = &row.oidc else { return Ok((row, None)) };
        let provider = self.provider_of(grant).ok_or(SessionRefused::ProviderGone)?;
        match renewal::need(grant, provider.terms(), self.clock.wall()) {
            Need::Nothing => self.standing(row, &provider, Progress::Asked),
            Need::Soon => {
                // Where there is no place, a later request has it renewed.
                let turn = self.oidc.flights.turn(row.id, &grant.provider);
                drop(turn.map(|turn| self.renewal(row.id, &provider, turn)));
                self.standing(row, &provider, Progress::Asked)
            }
            Need::Now => {
                let waited = tokio::time::timeout(RENEWAL_WAIT, self.renewal_followed(row.id, &provider)).await;
                // However the wait ends, the row as it then stands decides.
                let row = self.ledger.session(row.id).await.map_err(|error| match error {
                    LedgerError::NotFound { .. } => SessionRefused::Unknown.into(),
                    other => AuthError::Unavailable(other),
                })?;
                self.standing(row, &provider, waited.unwrap_or(Progress::UnderWay))
            }
        }
    }

    /// Whether a session goes on as its row stands, after a renewal that has come so far.
    fn standing(
        &self,
        row: SessionRow,
        provider: &Provider,
        renewal: Progress,
    ) -> Result<(SessionRow, Option<WallMillis>), AuthError> {
        let Some(grant) = &row.oidc else { return Ok((row, None)) };
        let (terms, now) = (provider.terms(), self.clock.wall());
        match (renewal::stands(grant, row.created_at, terms, now), renewal) {
            (Ok(()), _) => {
                let again_at = renewal::next_moment(grant, row.created_at, terms, now);
                Ok((row, again_at))
            }
            (Err(Lapsed::Over(refused)), _) => Err(refused.into()),
            (Err(Lapsed::Stale), Progress::Asked) => Err(SessionRefused::NotRenewed.into()),
            // What we have not asked, or have no answer to, says nothing of the session.
            (Err(Lapsed::Stale | Lapsed::OtherRules), Progress::NotAsked(retry_after)) => {
                Err(AuthError::NotRenewedYet { retry_after })
            }
            (Err(Lapsed::Stale | Lapsed::OtherRules), Progress::UnderWay | Progress::Asked) => {
                Err(AuthError::NotRenewedYet { retry_after: RENEWAL_RETRY })
            }
        }
    }

    /// The provider of a grant, if it is the one that gave it.
    fn provider_of(&self, grant: &OidcGrant) -> Option<Arc<Provider>> {
        self.live().providers.find(&grant.provider).filter(|provider| provider.config().issuer == grant.issuer)
    }

    /// Has a session renewed, as soon as there is a place for it, and waits for that.
    async fn renewal_followed(self: &Arc<Self>, id: SessionId, provider: &Arc<Provider>) -> Progress {
        let turn = self.oidc.flights.turn_in_time(id, &provider.config().id).await;
        let mut done = self.renewal(id, provider, turn);
        // An error tells that it is over too.
        let _ = done.changed().await;
        *done.borrow()
    }

    /// Begins a renewal, unless one is under way; what changes when it is over. It goes on when whoever caused it has gone: the answer may hold the only refresh token that is still good.
    fn renewal(self: &Arc<Self>, id: SessionId, provider: &Arc<Provider>, turn: Turn) -> watch::Receiver<Progress> {
        match turn {
            Turn::Other(done) => done,
            Turn::Own(flight) => {
                let done = flight.followed();
                tokio::spawn(Arc::clone(self).renew(id, Arc::clone(provider), flight));
                done
            }
        }
    }

    async fn renew(self: Arc<Self>, id: SessionId, provider: Arc<Provider>, flight: Flight) {
        let _on_its_way = self.submissions.enter();
        let how = match self.renewed_row(id, &provider).await {
            Ok(()) => Progress::Asked,
            Err(failed) => {
                let (reason, how, outcome) = match failed {
                    Failed::NotNow(reason, retry_after) => (reason, Progress::NotAsked(retry_after), Renewal::NotAsked),
                    Failed::Over(reason) | Failed::Open(reason) => (reason, Progress::Asked, Renewal::Failed),
                };
                self.metrics.session_renewal(&provider.config().id, outcome);
                tracing::warn!(session = %id, provider = %provider.config().id, reason, "a session can't be renewed now");
                how
            }
        };
        flight.over(how);
    }

    /// Renews a session and stores that, or ends it.
    async fn renewed_row(&self, id: SessionId, provider: &Provider) -> Result<(), Failed> {
        let ours = |error: LedgerError| Failed::NotNow(error.to_string(), RENEWAL_RETRY);
        let row = match self.ledger.session(id).await {
            Err(LedgerError::NotFound { .. }) => return Ok(()),
            read => read.map_err(ours)?,
        };
        let heard = provider.logouts();
        let told = |outcome| self.metrics.session_renewal(&provider.config().id, outcome);
        match self.renewal_of(&row, provider).await {
            Ok(None) => Ok(()),
            Ok(Some((scopes, grant))) => match self.ledger.renew_session(id, scopes, grant.clone()).await {
                Ok(()) => {
                    told(Renewal::Renewed);
                    // A logout meanwhile that names what the renewal has brought did not find it in the row.
                    match provider.logout_since(heard, &SessionRow { oidc: Some(grant), ..row }) {
                        Some(whose) => self.end_logged_out(&whose).await.map_err(ours),
                        None => Ok(()),
                    }
                }
                // Whatever ended the session meanwhile: it does not come back.
                Err(LedgerError::NotFound { .. }) => {
                    told(Renewal::Renewed);
                    Ok(())
                }
                Err(error) => Err(ours(error)),
            },
            Err(Failed::Over(reason)) => {
                told(Renewal::Ended);
                self.end_renewed(&row, &reason).await;
                Ok(())
            }
            Err(failed) => Err(failed),
        }
    }

    /// What a session may do from now on; `None`: it was renewed a moment ago.
    async fn renewal_of(&self, row: &SessionRow, provider: &Provider) -> Result<Option<(Scopes, OidcGrant)>, Failed> {
        let (terms, now) = (provider.terms(), self.clock.wall());
        let Some(grant) = row.oidc.as_ref().filter(|grant| renewal::need(grant, terms, now) != Need::Nothing) else {
            return Ok(None);
        };
        let unreadable = || Failed::Over("what it kept of its provider's tokens can't be read".to_owned());
        let tokens = self.oidc.sealer.open(&grant.sealed, row.id, &grant.provider).ok_or_else(unreadable)?;
        let live = self.live();
        let ours = |reason: String| Failed::NotNow(reason, RENEWAL_RETRY);
        let public = live.config.public_url.as_ref().ok_or_else(|| ours("no `public_url`".to_owned()))?;
        let refresh = tokens.refresh().ok_or_else(unreadable)?;
        // What can't be stored must not be asked for: the refresh token would be used up for nothing.
        self.ledger.probe().await.map_err(|error| ours(error.to_string()))?;
        let vouched = provider.renew(public, refresh, grant).await?;
        let mut scopes = row.scopes;
        if let Some(claims) = &vouched.claims {
            let identity = provider.identity(claims, &live.tenants)?;
            // SECURITY: never moved: open sockets, running jobs and signed addresses are of the owner that it had. Before a tenant is made: none is for a session that ends.
            if *identity.tenant.id() != row.owner.tenant || Some(&identity.user) != row.owner.user.as_ref() {
                return Err(Failed::Over("its provider names another tenant or user now".to_owned()));
            }
            if let TokenTenant::Made(wanted) = &identity.tenant {
                live.tenants.ensure(wanted).await.map_err(|error| ours(error.to_string()))?;
            }
            scopes = identity.scopes;
        } else if !terms.still_judged(grant, now) {
            // SECURITY: else a provider that sends no ID tokens here would keep in whoever was let in once, whatever the rules are.
            return Err(Failed::Over("its claims have to be read anew, and the provider sent no ID token".to_owned()));
        }
        let (by, seal) = ((provider.config(), terms), (&self.oidc.sealer, row.id));
        let renewed = renewal::grant(by, vouched, Some((grant, tokens)), seal, self.clock.wall());
        renewed.map(|grant| Some((scopes, grant))).ok_or_else(|| ours("no random bytes".to_owned()))
    }

    /// Ends a session at its provider's word, with its sockets.
    async fn end_renewed(&self, row: &SessionRow, reason: &str) {
        if let Err(error) = self.ledger.end_session(row.id).await {
            // It is refused all the same once `refresh_stale_max` is over.
            tracing::error!(session = %row.id, %error, "a session that its provider has ended is still in the ledger");
            return;
        }
        self.browsers.end(row.id);
        self.audit.session_ended(row.id, &row.owner, reason);
    }
}
