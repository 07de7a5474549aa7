//! Sessions on redb: a row by id, and an index by owner and age.

use super::RedbLedger;
use super::readings::{not_found, number};
use super::storage::Fault;
use super::tables::{OWNER_SESSIONS, SESSIONS, Tables, decoded, encoded, row};
use crate::clock::WallMillis;
use crate::ids::{InstanceId, SessionId};
use crate::owner::Scopes;
use crate::record::ledger::LedgerError;
use crate::record::ledger::sessions::{
    OidcGrant, SESSIONS_LISTED_MAX, SessionBounds, SessionRow, Sessions, WhoseSessions,
};
use ::redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use async_trait::async_trait;

/// The one row of the table `instance`.
const ID: &str = "id";

#[async_trait]
impl Sessions for RedbLedger {
    async fn insert_session(&self, row: SessionRow, bounds: SessionBounds) -> Result<Vec<SessionId>, LedgerError> {
        self.write("store a session", move |tables| insert(tables, &row, bounds)).await
    }

    async fn session(&self, id: SessionId) -> Result<SessionRow, LedgerError> {
        self.read("look up a session", move |snapshot| {
            row(&snapshot.open_table(SESSIONS)?, number(id.bytes()))?.ok_or_else(|| not_found("session"))
        })
        .await
    }

    async fn touch_session(&self, id: SessionId, at: WallMillis) -> Result<(), LedgerError> {
        self.write("note a session as used", move |tables| touch(tables, id, at)).await
    }

    async fn renew_session(&self, id: SessionId, scopes: Scopes, grant: OidcGrant) -> Result<(), LedgerError> {
        self.write("renew a session", move |tables| renew(tables, id, scopes, grant)).await
    }

    async fn end_session(&self, id: SessionId) -> Result<(), LedgerError> {
        self.write("end a session", move |tables| match find(tables, id)? {
            Some(found) => forget(tables, &found),
            None => Ok(()),
        })
        .await
    }

    async fn sessions(&self, whose: &WhoseSessions) -> Result<Vec<SessionRow>, LedgerError> {
        let whose = whose.clone();
        self.read("list sessions", move |snapshot| list(snapshot, &whose, SESSIONS_LISTED_MAX)).await
    }

    async fn end_sessions(
        &self,
        whose: &WhoseSessions,
        but: Option<SessionId>,
    ) -> Result<Vec<SessionRow>, LedgerError> {
        let whose = whose.clone();
        self.write("end sessions", move |tables| {
            let gone = |row: &SessionRow| Some(row.id) != but && whose.has(row);
            let rows = match &whose {
                WhoseSessions::Own(owner) => of_owner(tables, &owner.personal().key())?,
                WhoseSessions::All
                | WhoseSessions::Tenant(_)
                | WhoseSessions::User(..)
                | WhoseSessions::Provider { .. } => of_all(tables)?,
            };
            let mut rows: Vec<SessionRow> = rows.into_iter().filter(gone).collect();
            rows.sort_by_key(|row| (row.created_at, row.id));
            rows.iter().try_for_each(|row| forget(tables, row))?;
            Ok(rows)
        })
        .await
    }

    async fn instance(&self) -> Result<InstanceId, LedgerError> {
        // Asked once, at the start. A write makes the tables too, where an older gateway left none.
        let id = self.write("draw the gateway's name", draw_instance).await?;
        Ok(InstanceId::from_bytes(id.to_be_bytes()))
    }
}

fn draw_instance(tables: &mut Tables<'_>) -> Result<u128, Fault> {
    let known = tables.instance.get(ID)?.map(|id| id.value());
    if let Some(known) = known {
        return Ok(known);
    }
    let drawn = number(InstanceId::new().bytes());
    tables.instance.insert(ID, drawn)?;
    Ok(drawn)
}

fn insert(tables: &mut Tables<'_>, new: &SessionRow, bounds: SessionBounds) -> Result<Vec<SessionId>, Fault> {
    if let Some(login) = &new.user_login {
        super::users::still_proves(tables, &new.owner.tenant, login)?;
    }
    let room = room(tables, new, bounds, Vec::new())?;
    enter(tables, new, &room)?;
    Ok(room.told)
}

/// What goes for a new session.
pub(super) struct Room {
    gone: Vec<SessionRow>,
    /// Those of them that were still good, or to end anyway.
    pub(super) told: Vec<SessionId>,
}

/// Whether a new session finds room when those of `ending` have ended, and what makes it. Nothing is written: a refusal leaves all as it was.
pub(super) fn room(
    tables: &Tables<'_>,
    new: &SessionRow,
    bounds: SessionBounds,
    ending: Vec<SessionRow>,
) -> Result<Room, Fault> {
    super::erasure::refuse_erased(tables, &new.owner.tenant)?;
    let now = new.created_at;
    if find(tables, new.id)?.is_some() {
        return Err(LedgerError::Conflict { name: new.id.to_string() }.into());
    }
    let ends = |row: &SessionRow| ending.iter().any(|known| known.id == row.id);
    let own = of_owner(tables, &new.owner.personal().key())?.into_iter();
    let own = own.filter(|row| new.owner.holds_sessions_of(&row.owner) && !ends(row));
    let (over, good): (Vec<_>, Vec<_>) = own.partition(|row| bounds.over(row, now));
    // One place is the new one's. Oldest first, as the index has them.
    let keep = usize::try_from(bounds.per_owner_max).unwrap_or(usize::MAX).saturating_sub(1);
    let mut told: Vec<SessionRow> = good.iter().take(good.len().saturating_sub(keep)).cloned().collect();
    told.extend(ending.iter().cloned());
    let mut gone: Vec<SessionRow> = over;
    gone.extend(told.iter().cloned());
    let stored = tables.sessions.len()?;
    if stored.saturating_sub(gone.len() as u64) >= bounds.total_max {
        // Looked through only when it is full: at most `total_max` rows, once for each login that wants in.
        gone = over_of_all(tables, bounds, now)?;
        gone.retain(|row| !ends(row));
        gone.extend(told.iter().cloned());
        if stored.saturating_sub(gone.len() as u64) >= bounds.total_max {
            return Err(LedgerError::TooManySessions { limit: bounds.total_max }.into());
        }
    }
    Ok(Room { told: told.iter().map(|row| row.id).collect(), gone })
}

/// Stores a session in the room that was found.
pub(super) fn enter(tables: &mut Tables<'_>, new: &SessionRow, room: &Room) -> Result<(), Fault> {
    room.gone.iter().try_for_each(|row| forget(tables, row))?;
    let stored = encoded(new)?;
    tables.sessions.insert(number(new.id.bytes()), stored.as_slice())?;
    tables
        .owner_sessions
        .insert((new.owner.personal().key().as_str(), new.created_at.0, number(new.id.bytes())), ())?;
    Ok(())
}

fn touch(tables: &mut Tables<'_>, id: SessionId, at: WallMillis) -> Result<(), Fault> {
    let mut found = find(tables, id)?.ok_or_else(|| not_found("session"))?;
    if at > found.seen_at {
        found.seen_at = at;
        let stored = encoded(&found)?;
        tables.sessions.insert(number(id.bytes()), stored.as_slice())?;
    }
    Ok(())
}

fn renew(tables: &mut Tables<'_>, id: SessionId, scopes: Scopes, grant: OidcGrant) -> Result<(), Fault> {
    let found = find(tables, id)?.ok_or_else(|| not_found("session"))?;
    let stored = encoded(&SessionRow { scopes, oidc: Some(grant), ..found })?;
    tables.sessions.insert(number(id.bytes()), stored.as_slice())?;
    Ok(())
}

pub(super) fn find(tables: &Tables<'_>, id: SessionId) -> Result<Option<SessionRow>, Fault> {
    row(&tables.sessions, number(id.bytes()))
}

fn forget(tables: &mut Tables<'_>, row: &SessionRow) -> Result<(), Fault> {
    let id = number(row.id.bytes());
    tables.sessions.remove(id)?;
    tables.owner_sessions.remove((row.owner.personal().key().as_str(), row.created_at.0, id))?;
    Ok(())
}

/// The sessions of an owner, oldest first.
fn of_owner(tables: &Tables<'_>, scope: &str) -> Result<Vec<SessionRow>, Fault> {
    let mut found = Vec::new();
    for entry in tables.owner_sessions.range((scope, 0, 0)..=(scope, u64::MAX, u128::MAX))? {
        let (_, _, id) = entry?.0.value();
        let Some(stored) = tables.sessions.get(id)? else { continue };
        found.extend(readable(stored.value()));
    }
    Ok(found)
}

/// One that can't be read lets nobody in, and must not keep those good that are to end, nor its owner from logging in.
fn readable(stored: &[u8]) -> Option<SessionRow> {
    decoded(stored).inspect_err(|_| tracing::error!("a session in the ledger can't be read")).ok()
}

fn over_of_all(tables: &Tables<'_>, bounds: SessionBounds, now: WallMillis) -> Result<Vec<SessionRow>, Fault> {
    let mut all = of_all(tables)?;
    all.retain(|row| bounds.over(row, now));
    Ok(all)
}

fn of_all(tables: &Tables<'_>) -> Result<Vec<SessionRow>, Fault> {
    let mut all = Vec::new();
    for entry in tables.sessions.iter()? {
        all.extend(readable(entry?.1.value()));
    }
    Ok(all)
}

/// Ends those sessions of an owner that `gone` names.
pub(super) fn end_those(
    tables: &mut Tables<'_>,
    scope: &str,
    gone: impl Fn(&SessionRow) -> bool,
) -> Result<Vec<SessionId>, Fault> {
    let rows = those(tables, scope, gone)?;
    rows.iter().try_for_each(|row| forget(tables, row))?;
    Ok(rows.iter().map(|row| row.id).collect())
}

/// The sessions of an owner that `wanted` names.
pub(super) fn those(
    tables: &Tables<'_>,
    scope: &str,
    wanted: impl Fn(&SessionRow) -> bool,
) -> Result<Vec<SessionRow>, Fault> {
    Ok(of_owner(tables, scope)?.into_iter().filter(wanted).collect())
}

/// By age, then id.
fn list(snapshot: &ReadTransaction, whose: &WhoseSessions, limit: usize) -> Result<Vec<SessionRow>, Fault> {
    let mut found: Vec<SessionRow> = Vec::new();
    let sessions = snapshot.open_table(SESSIONS)?;
    if let WhoseSessions::Own(owner) = whose {
        let (scope, index) = (owner.personal().key(), snapshot.open_table(OWNER_SESSIONS)?);
        // Few: `per_owner_max` bounds those of a person and of a key. In the index's order, which is the same.
        for entry in index.range((scope.as_str(), 0, 0)..=(scope.as_str(), u64::MAX, u128::MAX))? {
            found.extend(row::<_, SessionRow>(&sessions, entry?.0.value().2)?.filter(|row| whose.has(row)));
        }
        return Ok(found);
    }
    for entry in sessions.iter()? {
        let row: SessionRow = decoded(entry?.1.value())?;
        if whose.has(&row) {
            if found.len() == limit {
                return Err(LedgerError::TooManyRows { limit }.into());
            }
            found.push(row);
        }
    }
    found.sort_by_key(|row| (row.created_at, row.id));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::RedbOptions;
    use super::*;
    use crate::record::ledger::sessions::suite;

    on_redb!(
        a_session_is_kept_until_it_is_ended,
        one_session_too_many_of_an_owner_ends_its_oldest,
        keys_of_services_take_no_place_of_each_other,
        sessions_that_are_over_make_room_and_others_do_not,
        a_touch_moves_the_idle_time_and_never_back,
        a_renewed_session_keeps_its_secret_and_its_times,
        sessions_are_listed_and_ended_by_whose_they_are,
        the_gateways_name_is_drawn_once,
    );

    #[tokio::test]
    async fn a_session_that_cant_be_read_keeps_its_owner_neither_out_nor_in() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let damage = |tables: &mut Tables<'_>| -> Result<(), Fault> {
            let (row, id) = (suite::row("a", 1), 7);
            tables.sessions.insert(id, &b"damaged"[..])?;
            tables.owner_sessions.insert((row.owner.personal().key().as_str(), 1, id), ())?;
            Ok(())
        };
        ledger.write("damage a session", damage).await.unwrap();
        let row = suite::row("a", 2);
        assert_eq!(ledger.insert_session(row.clone(), suite::BOUNDS).await.unwrap(), []);
        assert_eq!(ledger.end_sessions(&WhoseSessions::Own(row.owner.clone()), None).await.unwrap(), [row]);
    }

    #[tokio::test]
    async fn the_gateways_name_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let before = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap().instance().await.unwrap();
        let after = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap().instance().await.unwrap();
        assert_eq!(after, before);
    }
}
