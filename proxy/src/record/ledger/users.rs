//! Local users: who may log in by name and password, without an identity provider.
//!
//! A name is one user's in the whole gateway, in whatever case it is written (ASCII, since ids are): a person types it and names no tenant beside it. What a user owns goes by the name as its
//! row has it.

use super::LedgerError;
use super::sessions::{SessionBounds, SessionRow};
use crate::authenticate::passwords::StoredPassword;
use crate::clock::WallMillis;
use crate::ids::{KeyId, SessionId, TenantId, UserId};
use crate::owner::{Owner, Scopes};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Most users that one answer lists.
pub const USERS_LISTED_MAX: usize = 100_000;

/// A local user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// The login name, as it was written first.
    pub name: UserId,
    /// Whose user. It never changes: what a user owns is the tenant's.
    pub tenant: TenantId,
    /// What is kept of the password.
    pub password: StoredPassword,
    /// Which password: every other one has a greater number, also that of a user of the same name who comes later. Sessions by password name it.
    pub password_version: u64,
    /// What the user may do.
    pub scopes: Scopes,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Since when the user may not log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<WallMillis>,
    /// When the row was made.
    pub created_at: WallMillis,
    /// When anything of it changed last.
    pub changed_at: WallMillis,
}

impl UserRow {
    /// Whose name the user acts in.
    pub fn owner(&self) -> Owner {
        Owner { tenant: self.tenant.clone(), user: Some(self.name.clone()), key: None, shared: false }
    }
}

/// What of a user becomes another; `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserChange {
    /// What the user may do.
    pub scopes: Option<Scopes>,
    /// For people; `Some(None)` takes it away.
    pub label: Option<Option<String>>,
    /// Whether the user may log in.
    pub disabled: Option<bool>,
    /// How to prove it.
    pub password: Option<PasswordChange>,
    /// In this tenant and made then, or not at all: a user who was removed and made anew since somebody looked is somebody else.
    pub of: Option<(TenantId, WallMillis)>,
}

/// What becomes of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordChange {
    /// Another one, whatever it was; sessions by the former end.
    Reset(StoredPassword),
    /// Another one in place of that version only: whoever proved the former must not undo a reset that came between. Sessions by the former end.
    Replace {
        /// Which was proved.
        version: u64,
        /// The new one.
        hash: StoredPassword,
    },
    /// The same one, hashed with more work; in place of that version only.
    Rehash {
        /// Which was proved.
        version: u64,
        /// The new hash.
        hash: StoredPassword,
    },
}

/// A user after a change, and what ended by it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangedUser {
    /// As it is now.
    pub row: UserRow,
    /// Sessions that are over by it.
    pub ended: Vec<SessionId>,
    /// Keys that are revoked by it.
    pub revoked: Vec<KeyId>,
}

/// What is done to a user who is logged in by it: by a link, or with another password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Makes a user, if there are fewer than `limit`.
    New {
        /// As it is to be.
        row: UserRow,
        /// How many there may be.
        limit: u64,
    },
    /// Makes the first user of all: only where there is no other, and no key, whatever became of it.
    First(UserRow),
    /// Gives a user another password in place of that version.
    Password {
        /// In any case.
        name: UserId,
        /// Which was there when the other was chosen.
        version: u64,
        /// The new one.
        hash: StoredPassword,
    },
}

/// The store of local users: a part of the [`Ledger`](super::Ledger).
#[async_trait]
pub trait Users: Send + Sync {
    /// Stores a new user.
    ///
    /// # Errors
    /// `Conflict` if the name is taken in any case, `Full` beyond `limit`, `Unavailable`.
    async fn insert_user(&self, row: UserRow, limit: u64) -> Result<(), LedgerError>;

    /// The user of that name in any case.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn user(&self, name: &UserId) -> Result<UserRow, LedgerError>;

    /// All users, or those of a tenant, by name.
    ///
    /// # Errors
    /// `TooManyRows` beyond [`USERS_LISTED_MAX`], `Unavailable`.
    async fn users(&self, tenant: Option<&TenantId>) -> Result<Vec<UserRow>, LedgerError>;

    /// How many there are.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn user_count(&self) -> Result<u64, LedgerError>;

    /// Changes a user at `at`, and ends the sessions by password that this undoes: those of a user who may not log in any more, or has another password. What is as it should be already changes
    /// nothing, `changed_at` neither.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if the password is not of the version that was proved, or the user not the one that was meant; `Unavailable`.
    async fn change_user(&self, name: &UserId, change: UserChange, at: WallMillis) -> Result<ChangedUser, LedgerError>;

    /// Makes or changes a user and begins its session, or neither: who can't be logged in has used nothing up. `session` gets owner, scopes and password of the user as it is then, and its
    /// `created_at` is when all this happens. `former` is a session that it takes the place of. Gives the user, whatever sessions ended, and the session as it is stored.
    ///
    /// # Errors
    /// Those of [`Users::insert_user`], [`Users::change_user`] and [`Sessions::insert_session`](super::sessions::Sessions::insert_session); `Conflict` where [`Entry::First`] comes too late.
    async fn enter_user(
        &self,
        entry: Entry,
        session: SessionRow,
        former: Option<SessionId>,
        bounds: SessionBounds,
    ) -> Result<(ChangedUser, SessionRow), LedgerError>;

    /// Forgets a user at `at`, ends its sessions by password and revokes the keys that are made out to that name in its tenant, in whatever case; gives the row that was.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn remove_user(&self, name: &UserId, at: WallMillis) -> Result<ChangedUser, LedgerError>;
}

#[cfg(test)]
pub(crate) mod suite {
    //! What every form of the store must do.

    use super::*;
    use crate::owner::Scope;
    use crate::record::ledger::sessions::{Sessions, UserLogin, WhoseSessions};
    use comfygate_policy::Digest;
    use std::time::Duration;

    const BOUNDS: SessionBounds = SessionBounds {
        idle_timeout: Duration::from_secs(60),
        lifetime: Duration::from_secs(60),
        per_owner_max: 9,
        total_max: 99,
    };

    pub(crate) fn row(name: &str, tenant: &str, at: u64) -> UserRow {
        UserRow {
            name: name.parse().unwrap(),
            tenant: tenant.parse().unwrap(),
            password: StoredPassword::of("$argon2id$1"),
            password_version: at,
            scopes: Scopes::of_a_client(),
            label: None,
            disabled_at: None,
            created_at: WallMillis(at),
            changed_at: WallMillis(at),
        }
    }

    fn id(name: &str) -> UserId {
        name.parse().unwrap()
    }

    fn session_of(user: UserRow, version: Option<u64>) -> SessionRow {
        SessionRow {
            id: SessionId::new(),
            owner: user.owner(),
            scopes: user.scopes,
            secret_hash: Digest::of(b"secret"),
            created_at: WallMillis(1),
            seen_at: WallMillis(1),
            user_login: version.map(|password_version| UserLogin { name: user.name, password_version }),
            oidc: None,
            browser: None,
        }
    }

    async fn session(ledger: &(impl Users + Sessions), name: &str, version: Option<u64>) -> SessionId {
        let row = session_of(ledger.user(&id(name)).await.unwrap(), version);
        let id = row.id;
        ledger.insert_session(row, BOUNDS).await.unwrap();
        id
    }

    async fn there(ledger: &impl Sessions, id: SessionId) -> bool {
        ledger.session(id).await.is_ok()
    }

    pub(in crate::record::ledger) async fn a_name_is_one_users_in_whatever_case_it_is_written(ledger: &impl Users) {
        let first = row("Ann@example.org", "a", 1);
        ledger.insert_user(first.clone(), 9).await.unwrap();
        for same in ["Ann@example.org", "ann@example.org", "ANN@EXAMPLE.ORG"] {
            assert_eq!(ledger.user(&id(same)).await.unwrap(), first);
            let taken = ledger.insert_user(row(same, "b", 2), 9).await;
            assert!(matches!(taken, Err(LedgerError::Conflict { .. })), "{taken:?}");
        }
        assert!(matches!(ledger.user(&id("ann@example.or")).await, Err(LedgerError::NotFound { .. })));
        ledger.insert_user(row("ann@example.or", "b", 2), 9).await.unwrap();
    }

    pub(in crate::record::ledger) async fn there_are_as_many_users_as_allowed_and_no_more(ledger: &impl Users) {
        assert_eq!(ledger.user_count().await.unwrap(), 0);
        ledger.insert_user(row("a", "a", 1), 2).await.unwrap();
        ledger.insert_user(row("b", "a", 1), 2).await.unwrap();
        assert!(matches!(ledger.insert_user(row("c", "a", 1), 2).await, Err(LedgerError::Full { limit: 2, .. })));
        assert_eq!(ledger.user_count().await.unwrap(), 2);
        ledger.remove_user(&id("a"), WallMillis(7)).await.unwrap();
        ledger.insert_user(row("c", "a", 1), 2).await.unwrap();
    }

    pub(in crate::record::ledger) async fn users_are_listed_by_name_of_all_tenants_or_of_one(ledger: &impl Users) {
        for (name, tenant) in [("c", "a"), ("B", "b"), ("a", "a")] {
            ledger.insert_user(row(name, tenant, 1), 9).await.unwrap();
        }
        let names = |rows: Vec<UserRow>| rows.iter().map(|row| row.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(ledger.users(None).await.unwrap()), ["a", "B", "c"]);
        assert_eq!(names(ledger.users(Some(&"a".parse().unwrap())).await.unwrap()), ["a", "c"]);
        assert!(ledger.users(Some(&"z".parse().unwrap())).await.unwrap().is_empty());
    }

    pub(in crate::record::ledger) async fn a_change_is_noted_once_and_nothing_new_changes_nothing(ledger: &impl Users) {
        ledger.insert_user(row("a", "a", 1), 9).await.unwrap();
        let scopes: Scopes = [Scope::Read].into_iter().collect();
        let change = UserChange {
            scopes: Some(scopes),
            label: Some(Some("Ann".into())),
            disabled: Some(true),
            ..UserChange::default()
        };
        let changed = ledger.change_user(&id("A"), change.clone(), WallMillis(5)).await.unwrap().row;
        let wanted = UserRow {
            scopes,
            label: Some("Ann".into()),
            disabled_at: Some(WallMillis(5)),
            changed_at: WallMillis(5),
            ..row("a", "a", 1)
        };
        assert_eq!(changed, wanted);
        assert_eq!(ledger.change_user(&id("a"), change, WallMillis(9)).await.unwrap().row, wanted);
        let enabled = UserChange { disabled: Some(false), label: Some(None), ..UserChange::default() };
        let enabled = ledger.change_user(&id("a"), enabled, WallMillis(10)).await.unwrap().row;
        assert_eq!((enabled.disabled_at, enabled.label, enabled.changed_at), (None, None, WallMillis(10)));
        assert_eq!(ledger.user(&id("a")).await.unwrap().scopes, scopes);
        let of = |tenant: &str, at| Some((tenant.parse().unwrap(), WallMillis(at)));
        let only = |of| UserChange { of, label: Some(Some("same".into())), ..UserChange::default() };
        for other in [of("b", 1), of("a", 2)] {
            let refused = ledger.change_user(&id("a"), only(other), WallMillis(11)).await;
            assert!(matches!(refused, Err(LedgerError::Conflict { .. })), "{refused:?}");
        }
        assert_eq!(ledger.user(&id("a")).await.unwrap().label, None);
        let same = ledger.change_user(&id("a"), only(of("a", 1)), WallMillis(11)).await.unwrap().row;
        assert_eq!(same.label.as_deref(), Some("same"));
        let nobody = ledger.change_user(&id("z"), UserChange::default(), WallMillis(9)).await;
        assert!(matches!(nobody, Err(LedgerError::NotFound { .. })));
    }

    pub(in crate::record::ledger) async fn a_password_is_replaced_only_where_the_proved_one_still_stands(
        ledger: &impl Users,
    ) {
        ledger.insert_user(row("a", "a", 7), 9).await.unwrap();
        let new = |text: &str| StoredPassword::of(text);
        let with = |password| UserChange { password: Some(password), ..UserChange::default() };
        let rehashed = with(PasswordChange::Rehash { version: 7, hash: new("stronger") });
        let row = ledger.change_user(&id("a"), rehashed.clone(), WallMillis(8)).await.unwrap().row;
        assert_eq!((row.password_version, row.password), (7, new("stronger")));
        let reset = with(PasswordChange::Reset(new("reset")));
        let row = ledger.change_user(&id("a"), reset, WallMillis(8)).await.unwrap().row;
        assert_eq!((row.password_version, row.password), (8, new("reset")));
        for late in [rehashed, with(PasswordChange::Replace { version: 7, hash: new("late") })] {
            let refused = ledger.change_user(&id("a"), late, WallMillis(9)).await;
            assert!(matches!(refused, Err(LedgerError::Conflict { .. })), "{refused:?}");
        }
        let replaced = with(PasswordChange::Replace { version: 8, hash: new("own") });
        // The clock went back: the version does not.
        let row = ledger.change_user(&id("a"), replaced, WallMillis(2)).await.unwrap().row;
        assert_eq!((row.password_version, row.password), (9, new("own")));
    }

    pub(in crate::record::ledger) async fn what_undoes_a_password_ends_the_sessions_by_it_and_no_others(
        ledger: &(impl Users + Sessions),
    ) {
        for name in ["a", "b"] {
            ledger.insert_user(row(name, "t", 1), 9).await.unwrap();
        }
        let other_user = session(ledger, "b", Some(1)).await;
        let (by_password, otherwise) = (session(ledger, "a", Some(1)).await, session(ledger, "a", None).await);
        let harmless = UserChange {
            scopes: Some(Scopes::default()),
            password: Some(PasswordChange::Rehash { version: 1, hash: StoredPassword::of("x") }),
            ..UserChange::default()
        };
        assert!(ledger.change_user(&id("a"), harmless, WallMillis(2)).await.unwrap().ended.is_empty());
        assert!(there(ledger, by_password).await);
        let reset = PasswordChange::Reset(StoredPassword::of("y"));
        let reset = UserChange { password: Some(reset), ..UserChange::default() };
        assert_eq!(ledger.change_user(&id("a"), reset, WallMillis(3)).await.unwrap().ended, [by_password]);
        assert!(!there(ledger, by_password).await && there(ledger, otherwise).await && there(ledger, other_user).await);
        let again = session(ledger, "a", Some(3)).await;
        let disabled = UserChange { disabled: Some(true), ..UserChange::default() };
        assert_eq!(ledger.change_user(&id("a"), disabled.clone(), WallMillis(4)).await.unwrap().ended, [again]);
        assert!(ledger.change_user(&id("a"), disabled, WallMillis(5)).await.unwrap().ended.is_empty());
        let removed = ledger.remove_user(&id("B"), WallMillis(7)).await.unwrap();
        assert_eq!((removed.row.name.as_str(), removed.ended), ("b", vec![other_user]));
        assert!(!there(ledger, other_user).await && there(ledger, otherwise).await);
        assert!(matches!(ledger.remove_user(&id("b"), WallMillis(7)).await, Err(LedgerError::NotFound { .. })));
    }

    pub(in crate::record::ledger) async fn no_session_begins_by_a_password_that_was_undone_meanwhile(
        ledger: &(impl Users + Sessions),
    ) {
        for name in ["disabled", "reset", "removed", "moved", "same"] {
            ledger.insert_user(row(name, "t", 1), 9).await.unwrap();
        }
        let disabled = UserChange { disabled: Some(true), ..UserChange::default() };
        ledger.change_user(&id("disabled"), disabled, WallMillis(2)).await.unwrap();
        let reset = Some(PasswordChange::Reset(StoredPassword::of("y")));
        ledger
            .change_user(&id("reset"), UserChange { password: reset, ..UserChange::default() }, WallMillis(2))
            .await
            .unwrap();
        for name in ["removed", "moved"] {
            ledger.remove_user(&id(name), WallMillis(2)).await.unwrap();
        }
        ledger.insert_user(row("moved", "other", 1), 9).await.unwrap();
        for name in ["disabled", "reset", "removed", "moved"] {
            // As each was when the password was looked at.
            let late = session_of(row(name, "t", 1), Some(1));
            let refused = ledger.insert_session(late.clone(), BOUNDS).await;
            assert!(matches!(refused, Err(LedgerError::Conflict { .. })), "{name}: {refused:?}");
            assert!(!there(ledger, late.id).await, "{name}");
        }
        let in_time = session(ledger, "same", Some(1)).await;
        assert!(there(ledger, in_time).await);
    }

    fn new_session(at: u64) -> SessionRow {
        SessionRow {
            id: SessionId::new(),
            owner: row("nobody", "t", 1).owner(),
            scopes: Scopes::default(),
            secret_hash: Digest::of(b"secret"),
            created_at: WallMillis(at),
            seen_at: WallMillis(at),
            user_login: None,
            oidc: None,
            browser: None,
        }
    }

    pub(in crate::record::ledger) async fn who_finds_no_room_for_a_session_changes_nothing_and_who_does_is_logged_in(
        ledger: &(impl Users + Sessions),
    ) {
        let bounds = SessionBounds { total_max: 1, ..BOUNDS };
        for name in ["a", "b"] {
            ledger.insert_user(row(name, "t", 1), 9).await.unwrap();
        }
        let of_b = session(ledger, "b", Some(1)).await;
        let enter = async |entry: Entry, former: Option<SessionId>| {
            ledger.enter_user(entry, new_session(5), former, bounds).await
        };
        let password = |version, text| Entry::Password { name: id("A"), version, hash: StoredPassword::of(text) };
        let made = || Entry::New { row: row("c", "t", 5), limit: 9 };
        for refused in [enter(password(1, "x"), None).await, enter(made(), None).await] {
            assert!(matches!(refused, Err(LedgerError::TooManySessions { limit: 1 })), "{refused:?}");
        }
        assert_eq!(ledger.user(&id("a")).await.unwrap(), row("a", "t", 1), "it has the former password");
        assert!(ledger.user(&id("c")).await.is_err() && there(ledger, of_b).await);
        // In the place of its own browser's former session, whoever that was.
        let (user, session) = enter(password(1, "x"), Some(of_b)).await.unwrap();
        assert_eq!((user.ended.as_slice(), user.row.password_version), ([of_b].as_slice(), 5));
        assert_eq!(user.row, ledger.user(&id("a")).await.unwrap());
        assert_eq!(session, ledger.session(session.id).await.unwrap());
        let login = UserLogin { name: id("a"), password_version: 5 };
        assert_eq!(
            (session.owner, session.scopes, session.user_login),
            (user.row.owner(), user.row.scopes, Some(login))
        );
        // That of the password itself makes room too, once.
        let (user, next) = enter(password(5, "y"), Some(session.id)).await.unwrap();
        assert_eq!(user.ended, [session.id]);
        assert!(!there(ledger, session.id).await && there(ledger, next.id).await);
        let late = enter(password(5, "z"), None).await;
        assert!(matches!(late, Err(LedgerError::Conflict { .. })), "{late:?}");
        let off = UserChange { disabled: Some(true), ..UserChange::default() };
        let version = user.row.password_version;
        assert_eq!(ledger.change_user(&id("a"), off, WallMillis(6)).await.unwrap().ended, [next.id]);
        let disabled = enter(password(version, "z"), None).await;
        assert!(matches!(disabled, Err(LedgerError::Conflict { .. })), "{disabled:?}");
        let (user, _) = enter(made(), None).await.unwrap();
        assert_eq!((user.row, user.ended.len()), (row("c", "t", 5), 0));
        let full = enter(Entry::New { row: row("d", "t", 5), limit: 3 }, None).await;
        assert!(matches!(full, Err(LedgerError::Full { limit: 3, .. })), "{full:?}");
    }

    pub(in crate::record::ledger) async fn the_first_user_is_made_while_there_is_neither_a_user_nor_a_key(
        ledger: &impl super::super::Ledger,
    ) {
        let first =
            async |name: &str| ledger.enter_user(Entry::First(row(name, "a", 1)), new_session(1), None, BOUNDS).await;
        let key = super::super::suite::key_row("aaaaaaaaaaaa", "a");
        ledger.insert_key(key.clone()).await.unwrap();
        ledger.revoke_key(&key.id, WallMillis(1)).await.unwrap();
        let late = first("ann").await;
        assert!(matches!(late, Err(LedgerError::Conflict { .. })), "{late:?}");
        assert_eq!(
            (ledger.user_count().await.unwrap(), ledger.sessions(&WhoseSessions::All).await.unwrap().len()),
            (0, 0)
        );
    }

    pub(in crate::record::ledger) async fn of_two_first_users_one_is_made(ledger: &(impl Users + Sessions)) {
        let first =
            async |name: &str| ledger.enter_user(Entry::First(row(name, "a", 1)), new_session(1), None, BOUNDS).await;
        let (one, two) = tokio::join!(first("ann"), first("bob"));
        assert!(one.is_ok() && matches!(two, Err(LedgerError::Conflict { .. })), "{two:?}");
        assert_eq!(ledger.user_count().await.unwrap(), 1);
    }

    pub(in crate::record::ledger) async fn the_keys_of_a_removed_user_are_revoked_and_no_others(
        ledger: &impl super::super::Ledger,
    ) {
        use crate::authenticate::api_key::KeyRow;
        for name in ["Ann", "bob"] {
            ledger.insert_user(row(name, "t", 1), 9).await.unwrap();
        }
        let made = async |key: &str, tenant: &str, user: Option<&str>| {
            let row = super::super::suite::key_row(key, tenant);
            let owner = Owner { user: user.map(id), ..row.owner.clone() };
            ledger.insert_key(KeyRow { owner, ..row }).await.unwrap();
        };
        made("aaaaaaaaaaaa", "t", Some("Ann")).await;
        made("bbbbbbbbbbbb", "t", Some("ann")).await;
        made("cccccccccccc", "t", Some("ann")).await;
        for (key, tenant, user) in
            [("dddddddddddd", "t", Some("bob")), ("eeeeeeeeeeee", "t", None), ("ffffffffffff", "z", Some("Ann"))]
        {
            made(key, tenant, user).await;
        }
        ledger.revoke_key(&"cccccccccccc".parse().unwrap(), WallMillis(2)).await.unwrap();
        let mut revoked = ledger.remove_user(&id("ANN"), WallMillis(7)).await.unwrap().revoked;
        revoked.sort();
        assert_eq!(revoked.iter().map(KeyId::as_str).collect::<Vec<_>>(), ["aaaaaaaaaaaa", "bbbbbbbbbbbb"]);
        let at = |keys: Vec<KeyRow>| keys.into_iter().map(|key| key.revoked_at.map(|at| at.0)).collect::<Vec<_>>();
        assert_eq!(at(ledger.keys().await.unwrap()), [Some(7), Some(7), Some(2), None, None, None]);
    }
}
