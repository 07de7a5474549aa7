//! Sessions on redb: a row by id, and an index by owner and age.

use super::RedbLedger;
use super::readings::{not_found, number};
use super::storage::Fault;
use super::tables::{SESSIONS, Tables, decoded, encoded, row};
use crate::clock::WallMillis;
use crate::ids::{InstanceId, SessionId};
use crate::record::ledger::LedgerError;
use crate::record::ledger::sessions::{SessionBounds, SessionRow, Sessions};
use ::redb::{ReadableTable, ReadableTableMetadata};
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

    async fn end_session(&self, id: SessionId) -> Result<(), LedgerError> {
        self.write("end a session", move |tables| match find(tables, id)? {
            Some(found) => forget(tables, &found),
            None => Ok(()),
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
    let now = new.created_at;
    if find(tables, new.id)?.is_some() {
        return Err(LedgerError::Conflict { name: new.id.to_string() }.into());
    }
    let own = of_owner(tables, &new.owner.scope().key())?;
    let (over, good): (Vec<_>, Vec<_>) = own.into_iter().partition(|row| bounds.over(row, now));
    // One place is the new one's. Oldest first, as the index has them.
    let keep = usize::try_from(bounds.per_owner_max).unwrap_or(usize::MAX).saturating_sub(1);
    let too_many: Vec<SessionRow> = good.iter().take(good.len().saturating_sub(keep)).cloned().collect();
    let mut gone: Vec<SessionRow> = over;
    gone.extend(too_many.iter().cloned());
    let stored = tables.sessions.len()?;
    if stored.saturating_sub(gone.len() as u64) >= bounds.total_max {
        // Looked through only when it is full: at most `total_max` rows, once for each login that wants in.
        gone = over_of_all(tables, bounds, now)?;
        gone.extend(too_many.iter().cloned());
        if stored.saturating_sub(gone.len() as u64) >= bounds.total_max {
            return Err(LedgerError::TooManySessions { limit: bounds.total_max }.into());
        }
    }
    for row in &gone {
        forget(tables, row)?;
    }
    let stored = encoded(new)?;
    tables.sessions.insert(number(new.id.bytes()), stored.as_slice())?;
    tables.owner_sessions.insert((new.owner.scope().key().as_str(), new.created_at.0, number(new.id.bytes())), ())?;
    Ok(too_many.iter().map(|row| row.id).collect())
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

fn find(tables: &Tables<'_>, id: SessionId) -> Result<Option<SessionRow>, Fault> {
    row(&tables.sessions, number(id.bytes()))
}

fn forget(tables: &mut Tables<'_>, row: &SessionRow) -> Result<(), Fault> {
    let id = number(row.id.bytes());
    tables.sessions.remove(id)?;
    tables.owner_sessions.remove((row.owner.scope().key().as_str(), row.created_at.0, id))?;
    Ok(())
}

/// The sessions of an owner, oldest first.
fn of_owner(tables: &Tables<'_>, scope: &str) -> Result<Vec<SessionRow>, Fault> {
    let mut found = Vec::new();
    for entry in tables.owner_sessions.range((scope, 0, 0)..=(scope, u64::MAX, u128::MAX))? {
        let (_, _, id) = entry?.0.value();
        found.extend(row::<_, SessionRow>(&tables.sessions, id)?);
    }
    Ok(found)
}

fn over_of_all(tables: &Tables<'_>, bounds: SessionBounds, now: WallMillis) -> Result<Vec<SessionRow>, Fault> {
    let mut found = Vec::new();
    for entry in tables.sessions.iter()? {
        let row: SessionRow = decoded(entry?.1.value())?;
        if bounds.over(&row, now) {
            found.push(row);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::RedbOptions;
    use super::*;
    use crate::record::ledger::sessions::suite;

    macro_rules! on_redb {
        ($($test:ident),* $(,)?) => {$(
            #[tokio::test]
            async fn $test() {
                let dir = tempfile::tempdir().unwrap();
                suite::$test(&RedbLedger::open(dir.path(), RedbOptions::default()).unwrap()).await;
            }
        )*};
    }
    on_redb!(
        a_session_is_kept_until_it_is_ended,
        one_session_too_many_of_an_owner_ends_its_oldest,
        sessions_that_are_over_make_room_and_others_do_not,
        a_touch_moves_the_idle_time_and_never_back,
        the_gateways_name_is_drawn_once,
    );

    #[tokio::test]
    async fn the_gateways_name_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let before = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap().instance().await.unwrap();
        let after = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap().instance().await.unwrap();
        assert_eq!(after, before);
    }
}
