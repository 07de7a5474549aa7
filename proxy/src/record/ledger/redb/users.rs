//! [`Users`] on redb: one table by name in lower case, JSON rows.

use super::RedbLedger;
use super::readings::not_found;
use super::sessions::{end_those, room, those};
use super::storage::Fault;
use super::tables::{Tables, USERS, decoded, encoded, row};
use crate::authenticate::api_key::KeyRow;
use crate::clock::WallMillis;
use crate::ids::{KeyId, SessionId, TenantId, UserId};
use crate::record::ledger::LedgerError;
use crate::record::ledger::sessions::{SessionBounds, SessionRow, UserLogin};
use crate::record::ledger::users::{ChangedUser, Entry, PasswordChange, USERS_LISTED_MAX, UserChange, UserRow, Users};
use ::redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use async_trait::async_trait;

#[async_trait]
impl Users for RedbLedger {
    async fn insert_user(&self, row: UserRow, limit: u64) -> Result<(), LedgerError> {
        self.write("store a user", move |tables| insert(tables, &row, limit)).await
    }

    async fn user(&self, name: &UserId) -> Result<UserRow, LedgerError> {
        let key = key(name);
        self.read("look up a user", move |snapshot| {
            row(&snapshot.open_table(USERS)?, key.as_str())?.ok_or_else(|| not_found("user"))
        })
        .await
    }

    async fn users(&self, tenant: Option<&TenantId>) -> Result<Vec<UserRow>, LedgerError> {
        let tenant = tenant.cloned();
        self.read("list users", move |snapshot| list(snapshot, tenant.as_ref(), USERS_LISTED_MAX)).await
    }

    async fn user_count(&self) -> Result<u64, LedgerError> {
        self.read("count users", |snapshot| Ok(snapshot.open_table(USERS)?.len()?)).await
    }

    async fn change_user(&self, name: &UserId, change: UserChange, at: WallMillis) -> Result<ChangedUser, LedgerError> {
        let key = key(name);
        self.write("change a user", move |tables| changed(tables, &key, change, at)).await
    }

    async fn enter_user(
        &self,
        entry: Entry,
        session: SessionRow,
        former: Option<SessionId>,
        bounds: SessionBounds,
    ) -> Result<(ChangedUser, SessionRow), LedgerError> {
        self.write("log a user in", move |tables| enter(tables, entry, session, former, bounds)).await
    }

    async fn remove_user(&self, name: &UserId, at: WallMillis) -> Result<ChangedUser, LedgerError> {
        let key = key(name);
        self.write("remove a user", move |tables| {
            let row = find(tables, &key)?;
            // Last what lets the others be found again: a step that fails here is committed by half with its neighbours, and has to be repeatable.
            let revoked = revoke_keys(tables, &row, at)?;
            let ended = end_by_password(tables, &row)?;
            tables.users.remove(key.as_str())?;
            Ok(ChangedUser { row, ended, revoked })
        })
        .await
    }
}

fn key(name: &UserId) -> String {
    name.as_str().to_ascii_lowercase()
}

fn find(tables: &Tables<'_>, key: &str) -> Result<UserRow, Fault> {
    row(&tables.users, key)?.ok_or_else(|| not_found("user"))
}

/// Refuses a login by a password that its user does not have any more, or by a user who is gone or disabled. SECURITY: a password is checked before its session is stored, and whatever undoes it between
/// the two ends only the sessions that are there.
pub(super) fn still_proves(tables: &Tables<'_>, tenant: &TenantId, login: &UserLogin) -> Result<(), Fault> {
    let user: Option<UserRow> = row(&tables.users, key(&login.name).as_str())?;
    let proved = |user: &UserRow| {
        user.tenant == *tenant && user.disabled_at.is_none() && user.password_version == login.password_version
    };
    if user.as_ref().is_some_and(proved) { Ok(()) } else { Err(conflict(&login.name)) }
}

fn insert(tables: &mut Tables<'_>, new: &UserRow, limit: u64) -> Result<(), Fault> {
    refuse_new(tables, new, limit)?;
    store(tables, new)
}

fn refuse_new(tables: &Tables<'_>, new: &UserRow, limit: u64) -> Result<(), Fault> {
    super::erasure::refuse_erased(tables, &new.tenant)?;
    if tables.users.get(key(&new.name).as_str())?.is_some() {
        return Err(conflict(&new.name));
    }
    if tables.users.len()? >= limit {
        return Err(LedgerError::Full { what: "users", limit }.into());
    }
    Ok(())
}

fn store(tables: &mut Tables<'_>, user: &UserRow) -> Result<(), Fault> {
    let stored = encoded(user)?;
    tables.users.insert(key(&user.name).as_str(), stored.as_slice())?;
    Ok(())
}

fn conflict(name: &UserId) -> Fault {
    LedgerError::Conflict { name: name.to_string() }.into()
}

/// INVARIANT: nothing is written before everything that may refuse has been asked, since what a refused step wrote is committed with its neighbours.
fn enter(
    tables: &mut Tables<'_>,
    entry: Entry,
    session: SessionRow,
    former: Option<SessionId>,
    bounds: SessionBounds,
) -> Result<(ChangedUser, SessionRow), Fault> {
    let at = session.created_at;
    let (row, mut ending) = match entry {
        Entry::New { row, limit } => {
            refuse_new(tables, &row, limit)?;
            (row, Vec::new())
        }
        Entry::First(row) => {
            if !(tables.users.is_empty()? && tables.keys.is_empty()?) {
                return Err(conflict(&row.name));
            }
            (row, Vec::new())
        }
        Entry::Password { name, version, hash } => {
            let mut row = find(tables, &key(&name))?;
            if row.disabled_at.is_some() {
                return Err(conflict(&row.name));
            }
            take_password(&mut row, PasswordChange::Replace { version, hash }, at)?;
            row.changed_at = at;
            let ending = those(tables, &row.owner().scope().key(), by_password(&row))?;
            (row, ending)
        }
    };
    if let Some(former) = former.filter(|former| ending.iter().all(|row| row.id != *former)) {
        ending.extend(super::sessions::find(tables, former)?);
    }
    let login = UserLogin { name: row.name.clone(), password_version: row.password_version };
    let session = SessionRow { owner: row.owner(), scopes: row.scopes, user_login: Some(login), ..session };
    let room = room(tables, &session, bounds, ending)?;
    store(tables, &row)?;
    super::sessions::enter(tables, &session, &room)?;
    Ok((ChangedUser { row, ended: room.told, revoked: Vec::new() }, session))
}

fn list(snapshot: &ReadTransaction, tenant: Option<&TenantId>, limit: usize) -> Result<Vec<UserRow>, Fault> {
    let mut found = Vec::new();
    for entry in snapshot.open_table(USERS)?.iter()? {
        let row: UserRow = decoded(entry?.1.value())?;
        if tenant.is_none_or(|tenant| row.tenant == *tenant) {
            if found.len() == limit {
                return Err(LedgerError::TooManyRows { limit }.into());
            }
            found.push(row);
        }
    }
    Ok(found)
}

fn changed(tables: &mut Tables<'_>, key: &str, change: UserChange, at: WallMillis) -> Result<ChangedUser, Fault> {
    let was = find(tables, key)?;
    let mut row = was.clone();
    let UserChange { scopes, label, disabled, password, of } = change;
    if of.is_some_and(|(tenant, created_at)| (tenant, created_at) != (was.tenant.clone(), was.created_at)) {
        return Err(conflict(&was.name));
    }
    row.scopes = scopes.unwrap_or(row.scopes);
    if let Some(label) = label {
        row.label = label;
    }
    row.disabled_at = match disabled {
        Some(true) => row.disabled_at.or(Some(at)),
        Some(false) => None,
        None => row.disabled_at,
    };
    if let Some(password) = password {
        take_password(&mut row, password, at)?;
    }
    let undone = row.password_version != was.password_version || row.disabled_at.is_some();
    if row != was {
        row.changed_at = at;
        store(tables, &row)?;
    }
    let ended = if undone { end_by_password(tables, &row)? } else { Vec::new() };
    Ok(ChangedUser { row, ended, revoked: Vec::new() })
}

fn take_password(row: &mut UserRow, change: PasswordChange, at: WallMillis) -> Result<(), Fault> {
    let proved = match &change {
        PasswordChange::Reset(_) => row.password_version,
        PasswordChange::Replace { version, .. } | PasswordChange::Rehash { version, .. } => *version,
    };
    if proved != row.password_version {
        return Err(conflict(&row.name));
    }
    match change {
        PasswordChange::Reset(hash) | PasswordChange::Replace { hash, .. } => {
            // Never one that was there before, whatever the clock says.
            row.password_version = row.password_version.saturating_add(1).max(at.0);
            row.password = hash;
        }
        PasswordChange::Rehash { hash, .. } => row.password = hash,
    }
    Ok(())
}

/// Ends the sessions of a user that were begun by password.
fn end_by_password(tables: &mut Tables<'_>, user: &UserRow) -> Result<Vec<SessionId>, Fault> {
    end_those(tables, &user.owner().scope().key(), by_password(user))
}

/// Revokes the keys that are made out to a user's name. They are looked through as a whole: users are removed by hand.
fn revoke_keys(tables: &mut Tables<'_>, user: &UserRow, at: WallMillis) -> Result<Vec<KeyId>, Fault> {
    let of_user = |key: &KeyRow| {
        key.owner.user.as_ref().is_some_and(|name| name.as_str().eq_ignore_ascii_case(user.name.as_str()))
    };
    let mut theirs = Vec::new();
    for id in super::keys::ids_of(tables, &user.tenant)? {
        // One that can't be read lets nobody in, and must not keep the others good.
        let stored = tables.keys.get(id.as_str())?.and_then(|stored| decoded::<KeyRow>(stored.value()).ok());
        if stored.is_some_and(|key| of_user(&key) && key.revoked_at.is_none()) {
            theirs.push(id);
        }
    }
    for id in &theirs {
        super::transitions::revoke_key(tables, id, at)?;
    }
    Ok(theirs)
}

fn by_password(user: &UserRow) -> impl Fn(&SessionRow) -> bool {
    |session| session.user_login.as_ref().is_some_and(|login| login.name == user.name)
}

#[cfg(test)]
mod tests {
    use super::super::RedbOptions;
    use super::*;
    use crate::record::ledger::backups::Backups;
    use crate::record::ledger::users::suite;

    on_redb!(
        a_name_is_one_users_in_whatever_case_it_is_written,
        there_are_as_many_users_as_allowed_and_no_more,
        users_are_listed_by_name_of_all_tenants_or_of_one,
        a_change_is_noted_once_and_nothing_new_changes_nothing,
        a_password_is_replaced_only_where_the_proved_one_still_stands,
        what_undoes_a_password_ends_the_sessions_by_it_and_no_others,
        no_session_begins_by_a_password_that_was_undone_meanwhile,
        who_finds_no_room_for_a_session_changes_nothing_and_who_does_is_logged_in,
        the_first_user_is_made_while_there_is_neither_a_user_nor_a_key,
        of_two_first_users_one_is_made,
        the_keys_of_a_removed_user_are_revoked_and_no_others,
    );

    #[tokio::test]
    async fn rows_that_cant_be_read_keep_no_user_session_or_tenant_from_its_end() {
        use crate::record::ledger::Ledger as _;
        use crate::record::ledger::keeping::Keeping as _;
        use crate::record::ledger::managed::ManagedRows as _;
        use crate::record::ledger::sessions::{Sessions as _, WhoseSessions};
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let (ann, tenant) = ("ann".parse::<UserId>().unwrap(), "a".parse().unwrap());
        ledger.insert_user(suite::row("ann", "a", 1), 9).await.unwrap();
        let mut key = crate::record::ledger::suite::key_row("aaaaaaaaaaaa", "a");
        key.owner.user = Some(ann.clone());
        ledger.insert_key(key).await.unwrap();
        let damage = |tables: &mut Tables<'_>| -> Result<(), Fault> {
            tables.keys.insert("bbbbbbbbbbbb", &b"damaged"[..])?;
            tables.tenant_keys.insert(("a", "bbbbbbbbbbbb"), ())?;
            tables.sessions.insert(7, &b"damaged"[..])?;
            tables.users.insert("zoe", &b"damaged"[..])?;
            Ok(())
        };
        ledger.write("damage rows", damage).await.unwrap();
        let removed = ledger.remove_user(&ann, WallMillis(5)).await.unwrap();
        assert_eq!(removed.revoked, ["aaaaaaaaaaaa".parse().unwrap()]);
        assert_eq!(ledger.end_sessions(&WhoseSessions::Tenant(tenant), None).await.unwrap(), []);
        let tenant = "a".parse().unwrap();
        assert_eq!(ledger.leftovers(&tenant).await.unwrap(), Some("an API key"));
        while !ledger.erase(&tenant, WallMillis(9)).await.unwrap().done {}
        assert_eq!(ledger.leftovers(&tenant).await.unwrap(), None);
    }

    #[tokio::test]
    async fn users_outlive_a_restart_and_are_in_a_backup() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let row = suite::row("ann", "a", 1);
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        ledger.insert_user(row.clone(), 9).await.unwrap();
        ledger.copy_to(&other.path().join("ledger.redb")).await.unwrap();
        drop(ledger);
        for place in [dir, other] {
            let ledger = RedbLedger::open(place.path(), RedbOptions::default()).unwrap();
            assert_eq!(ledger.users(None).await.unwrap(), std::slice::from_ref(&row));
        }
    }

    #[tokio::test]
    async fn a_ledger_of_schema_3_opens_with_its_sessions_and_an_older_gateway_no_longer_opens_it() {
        use crate::record::ledger::sessions::{SessionBounds, SessionRow, Sessions};
        let dir = tempfile::tempdir().unwrap();
        let bounds = SessionBounds {
            idle_timeout: std::time::Duration::from_secs(9),
            lifetime: std::time::Duration::from_secs(9),
            per_owner_max: 9,
            total_max: 9,
        };
        let old = SessionRow {
            id: SessionId::new(),
            owner: crate::owner::Owner { tenant: "a".parse().unwrap(), user: None, key: None, shared: false },
            scopes: crate::owner::Scopes::of_a_client(),
            secret_hash: comfygate_policy::Digest::of(b"secret"),
            created_at: WallMillis(1),
            seen_at: WallMillis(1),
            user_login: None,
            oidc: None,
            browser: None,
        };
        let written = serde_json::to_string(&old).unwrap();
        assert!(!written.contains("user_login") && !written.contains("browser"), "as schema 3 wrote it: {written}");
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        ledger.insert_session(old.clone(), bounds).await.unwrap();
        let as_before = ledger.storage.write(|transaction| {
            transaction.delete_table(USERS)?;
            transaction.open_table(super::super::tables::META)?.insert("schema", 3)?;
            Ok(true)
        });
        as_before.unwrap();
        drop(ledger);
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        assert_eq!(ledger.session(old.id).await.unwrap(), old);
        ledger.insert_user(suite::row("ann", "a", 1), 9).await.unwrap();
        assert!(dir.path().join("ledger.redb.v3").is_file());
        let schema = ledger.storage.read(|snapshot| {
            Ok(snapshot.open_table(super::super::tables::META)?.get("schema")?.map(|found| found.value()))
        });
        assert_eq!(schema.unwrap(), Some(4), "which a gateway of schema 3 refuses");
    }

    #[tokio::test]
    async fn the_longest_list_is_told_and_one_more_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        for name in ["a", "b", "c"] {
            ledger.insert_user(suite::row(name, if name == "c" { "z" } else { "t" }, 1), 9).await.unwrap();
        }
        let listed = |tenant: Option<TenantId>, limit| {
            ledger.read("list", move |snapshot| list(snapshot, tenant.as_ref(), limit).map(|rows| rows.len()))
        };
        assert_eq!(listed(None, 3).await.unwrap(), 3);
        assert!(matches!(listed(None, 2).await, Err(LedgerError::TooManyRows { limit: 2 })));
        assert_eq!(listed(Some("t".parse().unwrap()), 2).await.unwrap(), 2);
    }
}
