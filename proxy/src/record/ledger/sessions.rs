//! Browsers' sessions: what the ledger keeps of each, and the name of the gateway that they are at.

use super::LedgerError;
use crate::clock::WallMillis;
use crate::ids::{InstanceId, ProviderId, SessionId, TenantId, UserId};
use crate::owner::{Owner, Scopes};
use async_trait::async_trait;
use comfygate_policy::Digest;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A session: everything but its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The public part of the cookie.
    pub id: SessionId,
    /// Whose name its browser acts in; `owner.key` is the key that was shown, and the session ends with it.
    pub owner: Owner,
    /// What the credential could do when it was shown; where there is a key, its scopes of now count.
    pub scopes: Scopes,
    /// SHA-256 of the secret: 256 random bits need no slow hash.
    pub secret_hash: Digest,
    /// When it was made: its lifetime counts from here.
    pub created_at: WallMillis,
    /// When it was noted as used last: its idle time counts from here.
    pub seen_at: WallMillis,
    /// The local user who logged in by password; the session ends with that user and with that password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_login: Option<UserLogin>,
    /// The identity provider that vouched for its user; the session ends with that word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcGrant>,
    /// Of which kind the browser was that logged in, such as `Firefox on Linux`: for whoever looks for a session to end. One of a short list of ours, never what the browser said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub browser: Option<String>,
}

impl SessionRow {
    /// How it was begun, by the name that audit lines and lists have.
    pub fn by(&self) -> &'static str {
        match (&self.owner.key, &self.user_login, &self.oidc) {
            (Some(_), _, _) => "api_key",
            (None, Some(_), _) => "password",
            (None, None, Some(_)) => "oidc",
            (None, None, None) => "other",
        }
    }
}

/// What a login at an identity provider left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OidcGrant {
    /// Which, in the configuration: the session ends when it is gone from there.
    pub provider: ProviderId,
    /// Its `iss` at the login: the session ends when another stands behind the id.
    pub issuer: String,
    /// `sub`: what the provider calls the user.
    pub subject: String,
    /// `sid`: what it calls its own session, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// SHA-256 of the `nonce` of the login's ID token: a renewal's, if it has one, is the same (OpenID Connect Core §12.2). Rows of earlier builds have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Digest>,
    /// When a request has it renewed, without waiting; only with a refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_at: Option<WallMillis>,
    /// When a request waits for that; only with a refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_until: Option<WallMillis>,
    /// When the session ends in any case; without a refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<WallMillis>,
    /// When its claims were read last, and by which rules. Rows of versions before this was noted have none: nothing is known of theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
    /// Refresh token and ID token, encrypted (`authenticate/oidc/seal.rs`).
    pub sealed: String,
}

/// That a provider's claims let somebody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// By which rules of the configuration ([`OidcConfig::rules`](crate::config::OidcConfig::rules)).
    pub rules: Digest,
    /// When.
    pub at: WallMillis,
}

/// By which password of which local user a session was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLogin {
    /// The login name, as its row has it.
    pub name: UserId,
    /// Which of its passwords: a later one ends the session.
    pub password_version: u64,
}

/// Most sessions that one answer lists.
pub const SESSIONS_LISTED_MAX: usize = 10_000;

/// Whose sessions are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhoseSessions {
    /// Everybody's.
    All,
    /// All of a tenant's.
    Tenant(TenantId),
    /// Of all users of that name in whatever case, in that tenant, or in whatever one.
    User(Option<TenantId>, UserId),
    /// One person's, or those that one key of a service began ([`Owner::holds_sessions_of`]).
    Own(Owner),
    /// Those that an identity provider vouched for.
    Provider {
        /// Which, in the configuration.
        provider: ProviderId,
        /// Its `iss`.
        issuer: String,
        /// Of this user of its.
        subject: Option<String>,
        /// Of this one of its own sessions. One of ours that does not know of which it is counts by its user.
        sid: Option<String>,
    },
}

impl WhoseSessions {
    /// Whether a session is meant.
    pub fn has(&self, row: &SessionRow) -> bool {
        match self {
            Self::All => true,
            Self::Tenant(tenant) => row.owner.tenant == *tenant,
            Self::User(tenant, user) => {
                let name = row.owner.user.as_ref().map(UserId::as_str);
                tenant.as_ref().is_none_or(|tenant| row.owner.tenant == *tenant)
                    && name.is_some_and(|name| name.eq_ignore_ascii_case(user.as_str()))
            }
            Self::Own(owner) => owner.holds_sessions_of(&row.owner),
            Self::Provider { provider, issuer, subject, sid } => row.oidc.as_ref().is_some_and(|grant| {
                let same_user = subject.as_ref().map(|subject| *subject == grant.subject);
                let same_session = match (sid, &grant.sid) {
                    (Some(sid), Some(known)) => sid == known,
                    (Some(_) | None, _) => same_user == Some(true),
                };
                grant.provider == *provider && grant.issuer == *issuer && same_user != Some(false) && same_session
            }),
        }
    }
}

/// How long sessions last and how many there may be (`[sessions]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionBounds {
    /// Unused for so long, a session ends.
    pub idle_timeout: Duration,
    /// After so long it ends in any case.
    pub lifetime: Duration,
    /// Of one user, or of one key without a user, at once; one more ends the oldest.
    pub per_owner_max: u32,
    /// Of all owners at once; one more is refused.
    pub total_max: u64,
}

impl SessionBounds {
    /// Whether a session has ended by the clock.
    pub fn over(&self, row: &SessionRow, now: WallMillis) -> bool {
        now >= row.seen_at.plus(self.idle_timeout) || now >= self.ends_at(row)
    }

    /// When a session ends however much it is used.
    pub fn ends_at(&self, row: &SessionRow) -> WallMillis {
        let ends_at = row.created_at.plus(self.lifetime);
        let of_grant = row.oidc.as_ref().and_then(|grant| grant.ends_at);
        of_grant.map_or(ends_at, |of_grant| of_grant.min(ends_at))
    }
}

/// The store of sessions: a part of the [`Ledger`](super::Ledger).
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Stores a new session, and forgets those of its owner that are over, or too many: the oldest first. Gives which were still good.
    ///
    /// # Errors
    /// `TooManySessions` of all owners, `Conflict` if the id is taken, or if it was begun by a password that its user does not have any more, `Unavailable`.
    async fn insert_session(&self, row: SessionRow, bounds: SessionBounds) -> Result<Vec<SessionId>, LedgerError>;

    /// The session of that id.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn session(&self, id: SessionId) -> Result<SessionRow, LedgerError>;

    /// Notes a session as used at `at`; an earlier time than is noted changes nothing.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn touch_session(&self, id: SessionId, at: WallMillis) -> Result<(), LedgerError>;

    /// What a session may do from now on, and by which word of its identity provider.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn renew_session(&self, id: SessionId, scopes: Scopes, grant: OidcGrant) -> Result<(), LedgerError>;

    /// Forgets a session; a second time changes nothing.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn end_session(&self, id: SessionId) -> Result<(), LedgerError>;

    /// Sessions, the oldest first; also those that are over by the clock and not forgotten yet.
    ///
    /// # Errors
    /// `TooManyRows` beyond [`SESSIONS_LISTED_MAX`], `Unavailable`.
    async fn sessions(&self, whose: &WhoseSessions) -> Result<Vec<SessionRow>, LedgerError>;

    /// Forgets sessions, all but `but`, and gives which they were.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn end_sessions(&self, whose: &WhoseSessions, but: Option<SessionId>)
    -> Result<Vec<SessionRow>, LedgerError>;

    /// The name of this gateway, drawn at first use and kept over restarts.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn instance(&self) -> Result<InstanceId, LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    //! What every form of the store must do.

    use super::*;

    pub(in crate::record::ledger) const BOUNDS: SessionBounds = SessionBounds {
        idle_timeout: Duration::from_millis(100),
        lifetime: Duration::from_millis(1000),
        per_owner_max: 2,
        total_max: 4,
    };

    pub(in crate::record::ledger) fn row(tenant: &str, at: u64) -> SessionRow {
        SessionRow {
            id: SessionId::new(),
            owner: Owner {
                tenant: tenant.parse().unwrap(),
                user: None,
                key: Some("aaaaaaaaaaaa".parse().unwrap()),
                shared: false,
            },
            scopes: Scopes::of_a_client(),
            secret_hash: Digest::of(b"secret"),
            created_at: WallMillis(at),
            seen_at: WallMillis(at),
            user_login: None,
            oidc: None,
            browser: None,
        }
    }

    async fn inserted(ledger: &impl Sessions, tenant: &str, at: u64) -> (SessionId, Vec<SessionId>) {
        let row = row(tenant, at);
        (row.id, ledger.insert_session(row, BOUNDS).await.unwrap())
    }

    async fn there(ledger: &impl Sessions, id: SessionId) -> bool {
        match ledger.session(id).await {
            Ok(row) => row.id == id,
            Err(LedgerError::NotFound { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    pub(in crate::record::ledger) async fn a_session_is_kept_until_it_is_ended(ledger: &impl Sessions) {
        let row = row("a", 1);
        assert_eq!(ledger.insert_session(row.clone(), BOUNDS).await.unwrap(), []);
        assert_eq!(ledger.session(row.id).await.unwrap(), row);
        assert!(matches!(ledger.insert_session(row.clone(), BOUNDS).await, Err(LedgerError::Conflict { .. })));
        ledger.end_session(row.id).await.unwrap();
        ledger.end_session(row.id).await.unwrap();
        assert!(!there(ledger, row.id).await);
        assert!(matches!(ledger.touch_session(row.id, WallMillis(2)).await, Err(LedgerError::NotFound { .. })));
        assert!(!there(ledger, row.id).await, "a touch brings nothing back");
    }

    pub(in crate::record::ledger) async fn one_session_too_many_of_an_owner_ends_its_oldest(ledger: &impl Sessions) {
        let (first, _) = inserted(ledger, "a", 1).await;
        let (other, _) = inserted(ledger, "b", 1).await;
        let (second, ended) = inserted(ledger, "a", 2).await;
        assert!(ended.is_empty() && there(ledger, first).await, "just inside");
        let (third, ended) = inserted(ledger, "a", 3).await;
        assert_eq!(ended, [first]);
        assert!(!there(ledger, first).await);
        for left in [second, third, other] {
            assert!(there(ledger, left).await);
        }
    }

    pub(in crate::record::ledger) async fn keys_of_services_take_no_place_of_each_other(ledger: &impl Sessions) {
        let (first, _) = inserted(ledger, "a", 1).await;
        for at in [2, 3] {
            let mut row = row("a", at);
            row.owner.key = Some("bbbbbbbbbbbb".parse().unwrap());
            assert_eq!(ledger.insert_session(row, BOUNDS).await.unwrap(), []);
        }
        assert!(there(ledger, first).await);
    }

    pub(in crate::record::ledger) async fn sessions_that_are_over_make_room_and_others_do_not(ledger: &impl Sessions) {
        for (tenant, at) in [("a", 1), ("b", 1), ("c", 1), ("d", 50)] {
            inserted(ledger, tenant, at).await;
        }
        let full = ledger.insert_session(row("e", 100), BOUNDS).await;
        assert!(matches!(full, Err(LedgerError::TooManySessions { limit: 4 })), "{full:?}");
        // 101 is the first moment at which those of 1 were idle too long; that of 50 stands.
        let (_, ended) = inserted(ledger, "e", 101).await;
        assert!(ended.is_empty(), "nothing that was still good");
        for tenant in ["f", "g"] {
            inserted(ledger, tenant, 101).await;
        }
        assert!(ledger.insert_session(row("h", 101), BOUNDS).await.is_err());
    }

    pub(in crate::record::ledger) async fn a_touch_moves_the_idle_time_and_never_back(ledger: &impl Sessions) {
        let (id, _) = inserted(ledger, "a", 1).await;
        ledger.touch_session(id, WallMillis(90)).await.unwrap();
        ledger.touch_session(id, WallMillis(80)).await.unwrap();
        let row = ledger.session(id).await.unwrap();
        assert_eq!((row.seen_at, row.created_at), (WallMillis(90), WallMillis(1)));
        assert!(!BOUNDS.over(&row, WallMillis(189)) && BOUNDS.over(&row, WallMillis(190)));
        let busy = SessionRow { seen_at: WallMillis(1000), ..row };
        assert!(!BOUNDS.over(&busy, WallMillis(1000)) && BOUNDS.over(&busy, WallMillis(1001)));
    }

    pub(in crate::record::ledger) async fn a_renewed_session_keeps_its_secret_and_its_times(ledger: &impl Sessions) {
        let (id, _) = inserted(ledger, "a", 1).await;
        ledger.touch_session(id, WallMillis(90)).await.unwrap();
        let before = ledger.session(id).await.unwrap();
        let grant = OidcGrant {
            provider: "studio".parse().unwrap(),
            issuer: "https://id.example".into(),
            subject: "ada".into(),
            sid: None,
            nonce: Some(Digest::of(b"nonce")),
            renew_at: Some(WallMillis(100)),
            good_until: Some(WallMillis(110)),
            ends_at: None,
            judged: Some(Judged { rules: Digest::of(b"rules"), at: WallMillis(80) }),
            sealed: "sealed".into(),
        };
        let scopes: Scopes = [crate::owner::Scope::Read].into_iter().collect();
        ledger.renew_session(id, scopes, grant.clone()).await.unwrap();
        let wanted = SessionRow { scopes, oidc: Some(grant.clone()), ..before };
        assert_eq!(ledger.session(id).await.unwrap(), wanted);
        ledger.end_session(id).await.unwrap();
        let gone = ledger.renew_session(id, scopes, grant).await;
        assert!(matches!(gone, Err(LedgerError::NotFound { .. })), "a logout is not undone: {gone:?}");
    }

    #[test]
    fn a_provider_means_those_of_one_of_its_users_or_of_one_of_its_sessions() {
        let ours = |subject: &str, sid: Option<&str>| {
            let written = r#"{"provider":"studio","issuer":"https://id.example","subject":"ada","sealed":"s"}"#;
            let grant: OidcGrant = serde_json::from_str(written).unwrap();
            let grant = OidcGrant { subject: subject.into(), sid: sid.map(str::to_owned), ..grant };
            SessionRow { oidc: Some(grant), ..row("a", 1) }
        };
        let meant = |subject: Option<&str>, sid: Option<&str>| WhoseSessions::Provider {
            provider: "studio".parse().unwrap(),
            issuer: "https://id.example".into(),
            subject: subject.map(str::to_owned),
            sid: sid.map(str::to_owned),
        };
        let (one, two, unknown) = (ours("ada", Some("s-1")), ours("ada", Some("s-2")), ours("ada", None));
        let (bob, by_key) = (ours("bob", Some("s-1")), row("a", 1));
        let all = [&one, &two, &unknown, &bob, &by_key];
        for (whose, wanted) in [
            (meant(Some("ada"), None), [true, true, true, false, false]),
            (meant(Some("ada"), Some("s-1")), [true, false, true, false, false]),
            (meant(None, Some("s-1")), [true, false, false, true, false]),
            (meant(Some("eve"), None), [false; 5]),
            (meant(Some("eve"), Some("s-1")), [false; 5]),
            (meant(None, None), [false; 5]),
        ] {
            assert_eq!(all.map(|row| whose.has(row)), wanted, "{whose:?}");
        }
        let elsewhere = WhoseSessions::Provider {
            provider: "studio".parse().unwrap(),
            issuer: "https://other.example".into(),
            subject: Some("ada".into()),
            sid: None,
        };
        assert!(!elsewhere.has(&one));
    }

    #[test]
    fn a_grant_of_a_version_that_noted_no_rules_is_read_as_one_of_which_nothing_is_known() {
        let written =
            r#"{"provider":"studio","issuer":"https://id.example","subject":"ada","good_until":7,"sealed":"s"}"#;
        let grant: OidcGrant = serde_json::from_str(written).unwrap();
        assert_eq!((grant.judged, grant.nonce, grant.good_until), (None, None, Some(WallMillis(7))));
        let judged = Some(Judged { rules: Digest::of(b"rules"), at: WallMillis(8) });
        let noted = serde_json::to_string(&OidcGrant { judged, ..grant }).unwrap();
        assert_eq!(serde_json::from_str::<OidcGrant>(&noted).unwrap().judged, judged);
    }

    pub(in crate::record::ledger) async fn sessions_are_listed_and_ended_by_whose_they_are(ledger: &impl Sessions) {
        let with_user = |tenant, user: &str, at| {
            let mut row = row(tenant, at);
            row.owner.user = Some(user.parse().unwrap());
            row
        };
        let rows = [row("a", 3), with_user("a", "u", 1), with_user("b", "u", 2), with_user("a", "v", 4)];
        for row in &rows {
            ledger.insert_session(row.clone(), BOUNDS).await.unwrap();
        }
        let [service, a_u, b_u, a_v] = rows.each_ref().map(|row| row.id);
        let ids = |rows: Vec<SessionRow>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
        let own = |user: Option<&str>, key: &str| {
            let (tenant, user) = ("a".parse().unwrap(), user.map(|user| user.parse().unwrap()));
            WhoseSessions::Own(Owner { tenant, user, key: Some(key.parse().unwrap()), shared: false })
        };
        let owner = |user| own(user, "bbbbbbbbbbbb");
        let tenant = WhoseSessions::Tenant("a".parse().unwrap());
        for (whose, wanted) in [
            (WhoseSessions::All, vec![a_u, b_u, service, a_v]),
            (tenant.clone(), vec![a_u, service, a_v]),
            (WhoseSessions::User(None, "u".parse().unwrap()), vec![a_u, b_u]),
            (WhoseSessions::User(None, "U".parse().unwrap()), vec![a_u, b_u]),
            (WhoseSessions::User(Some("a".parse().unwrap()), "U".parse().unwrap()), vec![a_u]),
            (owner(Some("u")), vec![a_u]),
            (own(None, "aaaaaaaaaaaa"), vec![service]),
            (own(None, "bbbbbbbbbbbb"), vec![]),
            (owner(Some("w")), vec![]),
        ] {
            assert_eq!(ids(ledger.sessions(&whose).await.unwrap()), wanted, "{whose:?}");
        }
        assert_eq!(ids(ledger.end_sessions(&owner(Some("u")), Some(a_u)).await.unwrap()), []);
        assert_eq!(ids(ledger.end_sessions(&tenant, Some(a_v)).await.unwrap()), [a_u, service]);
        assert_eq!(ids(ledger.end_sessions(&tenant, None).await.unwrap()), [a_v]);
        assert_eq!(ids(ledger.sessions(&WhoseSessions::All).await.unwrap()), [b_u]);
    }

    pub(in crate::record::ledger) async fn the_gateways_name_is_drawn_once(ledger: &impl Sessions) {
        let name = ledger.instance().await.unwrap();
        assert_eq!(ledger.instance().await.unwrap(), name);
    }
}
