//! [`Keys`] on redb: a row by id, and two indices, of what a tenant has and of what requests made.

use super::RedbLedger;
use super::erasure::refuse_erased;
use super::readings::not_found;
use super::storage::Fault;
use super::tables::{KEYS, Tables, decoded, encoded, row};
use crate::authenticate::api_key::{KeyRow, MadeBy};
use crate::clock::WallMillis;
use crate::ids::{KeyId, TenantId};
use crate::record::ledger::LedgerError;
use crate::record::ledger::keys::{KeyMade, Keys, Rotation};
use ::redb::{ReadTransaction, ReadableTable};
use async_trait::async_trait;

/// Keys that one transition forgets: some milliseconds of the writer's.
const FORGOTTEN_AT_ONCE: usize = 1000;

#[async_trait]
impl Keys for RedbLedger {
    async fn make_key(&self, key: KeyRow, keys_max: u32) -> Result<KeyMade, LedgerError> {
        self.write("store a key", move |tables| make(tables, &key, keys_max)).await
    }

    async fn rotate_key(
        &self,
        id: &KeyId,
        successor: KeyRow,
        ends_at: WallMillis,
        now: WallMillis,
        keys_max: u32,
    ) -> Result<Rotation, LedgerError> {
        let id = id.clone();
        self.write("rotate a key", move |tables| rotate(tables, &id, successor, ends_at, now, keys_max)).await
    }

    async fn note_key_uses(&self, uses: Vec<(KeyId, WallMillis)>) -> Result<(), LedgerError> {
        self.write("note uses of keys", move |tables| note(tables, &uses)).await
    }

    async fn forget_keys(&self, before: WallMillis) -> Result<u64, LedgerError> {
        let due = self.read("look for ended keys", move |snapshot| ended(snapshot, before)).await?;
        if due.is_empty() {
            return Ok(0);
        }
        self.write("forget ended keys", move |tables| forget_ended(tables, &due, before)).await
    }
}

/// Stores a key, if its tenant has fewer than `keys_max`.
pub(super) fn insert(tables: &mut Tables<'_>, key: &KeyRow, keys_max: u32) -> Result<(), Fault> {
    let (id, tenant) = (key.id.as_str(), key.owner.tenant.as_str());
    refuse_erased(tables, &key.owner.tenant)?;
    if tables.keys.get(id)?.is_some() {
        return Err(LedgerError::Conflict { name: key.id.to_string() }.into());
    }
    let mut own = 0_u32;
    for entry in tables.tenant_keys.range((tenant, "")..)? {
        if entry?.0.value().0 != tenant {
            break;
        }
        own = own.saturating_add(1);
        if own >= keys_max {
            return Err(LedgerError::Full { what: "keys of one tenant", limit: keys_max.into() }.into());
        }
    }
    let stored = encoded(key)?;
    tables.keys.insert(id, stored.as_slice())?;
    index(tables, key)
}

/// Enters a row that is stored into the indices.
pub(super) fn index(tables: &mut Tables<'_>, key: &KeyRow) -> Result<(), Fault> {
    tables.tenant_keys.insert((key.owner.tenant.as_str(), key.id.as_str()), ())?;
    if let Some(made_by) = &key.made_by {
        tables.key_requests.insert(made_by.name.as_bytes(), key.id.as_str())?;
    }
    Ok(())
}

/// The ids of a tenant's keys.
pub(super) fn ids_of(tables: &Tables<'_>, tenant: &TenantId) -> Result<Vec<KeyId>, Fault> {
    let mut ids = Vec::new();
    for entry in tables.tenant_keys.range((tenant.as_str(), "")..)? {
        let entry = entry?;
        let (whose, id) = entry.0.value();
        if whose != tenant.as_str() {
            break;
        }
        ids.extend(id.parse::<KeyId>());
    }
    Ok(ids)
}

/// Takes a key away.
pub(super) fn forget(tables: &mut Tables<'_>, key: &KeyRow) -> Result<(), Fault> {
    tables.keys.remove(key.id.as_str())?;
    tables.tenant_keys.remove((key.owner.tenant.as_str(), key.id.as_str()))?;
    if let Some(made_by) = &key.made_by {
        tables.key_requests.remove(made_by.name.as_bytes())?;
    }
    Ok(())
}

/// What a request of the same name made before.
fn before(tables: &Tables<'_>, made_by: Option<&MadeBy>) -> Result<Option<Box<KeyRow>>, Fault> {
    let Some(made_by) = made_by else { return Ok(None) };
    let Some(id) = tables.key_requests.get(made_by.name.as_bytes())? else { return Ok(None) };
    Ok(row(&tables.keys, id.value())?.map(Box::new))
}

fn make(tables: &mut Tables<'_>, key: &KeyRow, keys_max: u32) -> Result<KeyMade, Fault> {
    match before(tables, key.made_by.as_ref())? {
        Some(known) => Ok(KeyMade::Before(known)),
        None => insert(tables, key, keys_max).map(|()| KeyMade::New),
    }
}

fn rotate(
    tables: &mut Tables<'_>,
    id: &KeyId,
    mut successor: KeyRow,
    ends_at: WallMillis,
    now: WallMillis,
    keys_max: u32,
) -> Result<Rotation, Fault> {
    // Before anything is said of the former key, which may be over by the time of a repeat.
    if let Some(known) = before(tables, successor.made_by.as_ref())? {
        return Ok(Rotation::Before(known));
    }
    let mut former: KeyRow = row(&tables.keys, id.as_str())?.ok_or_else(|| not_found("key"))?;
    if let Err(refused) = former.stands(now) {
        return Ok(Rotation::Over(refused));
    }
    if let Some(to) = former.rotated_to {
        return Ok(Rotation::Already(to));
    }
    successor.rotated_from = Some(former.id.clone());
    former.rotated_to = Some(successor.id.clone());
    former.expires_at = Some(former.expires_at.map_or(ends_at, |before| before.min(ends_at)));
    let stored = encoded(&former)?;
    insert(tables, &successor, keys_max)?;
    tables.keys.insert(id.as_str(), stored.as_slice())?;
    Ok(Rotation::Done(Box::new(former)))
}

/// The first keys that ended before that time. One that can't be read keeps no other from going.
fn ended(snapshot: &ReadTransaction, before: WallMillis) -> Result<Vec<KeyId>, Fault> {
    let mut due = Vec::new();
    for entry in snapshot.open_table(KEYS)?.iter()? {
        let Ok(key) = decoded::<KeyRow>(entry?.1.value()) else { continue };
        if key.ended_at().is_some_and(|end| end < before) {
            due.push(key.id);
        }
        if due.len() >= FORGOTTEN_AT_ONCE {
            break;
        }
    }
    Ok(due)
}

fn forget_ended(tables: &mut Tables<'_>, due: &[KeyId], before: WallMillis) -> Result<u64, Fault> {
    let mut gone = 0;
    for id in due {
        let known: Option<KeyRow> = row(&tables.keys, id.as_str())?;
        if let Some(key) = known.filter(|key| key.ended_at().is_some_and(|end| end < before)) {
            forget(tables, &key)?;
            gone += 1;
        }
    }
    Ok(gone)
}

fn note(tables: &mut Tables<'_>, uses: &[(KeyId, WallMillis)]) -> Result<(), Fault> {
    let mut noted = Vec::new();
    for (id, at) in uses {
        let known: Option<KeyRow> = row(&tables.keys, id.as_str())?;
        if let Some(key) = known.filter(|key| key.used_at < Some(*at)) {
            noted.push((id, encoded(&KeyRow { used_at: Some(*at), ..key })?));
        }
    }
    for (id, stored) in noted {
        tables.keys.insert(id.as_str(), stored.as_slice())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::record::ledger::keys::suite;

    on_redb!(
        a_repeated_request_makes_one_key,
        a_key_is_rotated_once_and_both_name_each_other,
        no_key_lives_longer_by_a_rotation_and_none_that_is_over_has_a_successor,
        a_use_is_noted_and_never_an_earlier_one,
        a_tenant_has_as_many_keys_as_it_may_and_takes_nobody_elses_room,
        an_ended_key_is_forgotten_after_its_time_and_one_that_stands_never,
    );
}
