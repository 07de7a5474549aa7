//! [`ManagedRows`] on redb: three tables, JSON rows.

use super::RedbLedger;
use super::erasure;
use super::storage::Fault;
use super::tables::{ERASURES, MANAGED_TENANTS, TOMBSTONES, Tables, corrupt, encoded, rows};
use crate::clock::WallMillis;
use crate::ids::TenantId;
use crate::record::ledger::LedgerError;
use crate::record::ledger::managed::{ErasureRow, IdBecomes, ManagedRows, ManagedState, ManagedTenant, Tombstone};
use ::redb::{ReadTransaction, ReadableTable};
use async_trait::async_trait;

#[async_trait]
impl ManagedRows for RedbLedger {
    async fn managed_state(&self) -> Result<ManagedState, LedgerError> {
        self.read("read managed tenants", state).await
    }

    async fn store_managed(&self, tenant: ManagedTenant) -> Result<(), LedgerError> {
        self.write("store a tenant", move |tables| {
            let stored = encoded(&tenant)?;
            tables.managed_tenants.insert(tenant.id.as_str(), stored.as_slice())?;
            tables.tombstones.remove(tenant.id.as_str())?;
            Ok(())
        })
        .await
    }

    async fn store_erasure(&self, erasure: ErasureRow) -> Result<(), LedgerError> {
        self.write("note what is erased", move |tables| {
            let stored = encoded(&erasure)?;
            tables.erasures.insert(erasure.tenant.as_str(), stored.as_slice())?;
            Ok(())
        })
        .await
    }

    async fn end_erasure(
        &self,
        tenant: &TenantId,
        becomes: IdBecomes,
        forget: Vec<TenantId>,
    ) -> Result<(), LedgerError> {
        let tenant = tenant.clone();
        self.write("note that a tenant is erased", move |tables| end(tables, &tenant, becomes, &forget)).await
    }

    async fn drop_tombstones(&self, tenants: Vec<TenantId>) -> Result<(), LedgerError> {
        self.write("forget that tenants were deleted", move |tables| forget(tables, &tenants)).await
    }

    async fn leftovers(&self, tenant: &TenantId) -> Result<Option<&'static str>, LedgerError> {
        let tenant = tenant.clone();
        self.read("look for what is left of a tenant", move |snapshot| erasure::leftovers(snapshot, &tenant)).await
    }
}

fn forget(tables: &mut Tables<'_>, tombstones: &[TenantId]) -> Result<(), Fault> {
    tombstones.iter().try_for_each(|tenant| tables.tombstones.remove(tenant.as_str()).map(drop))?;
    Ok(())
}

fn end(tables: &mut Tables<'_>, tenant: &TenantId, becomes: IdBecomes, forgotten: &[TenantId]) -> Result<(), Fault> {
    if becomes != IdBecomes::Kept {
        tables.managed_tenants.remove(tenant.as_str())?;
    }
    forget(tables, forgotten)?;
    if let IdBecomes::Tombstone(at) = becomes {
        tables.tombstones.insert(tenant.as_str(), at.0)?;
    }
    tables.erasures.remove(tenant.as_str())?;
    Ok(())
}

fn state(snapshot: &ReadTransaction) -> Result<ManagedState, Fault> {
    let (tenants, erasures) = (rows(snapshot, MANAGED_TENANTS)?, rows(snapshot, ERASURES)?);
    let mut state = ManagedState { tenants, erasures, ..ManagedState::default() };
    for entry in snapshot.open_table(TOMBSTONES)?.iter()? {
        let (id, at) = entry?;
        let tenant = id.value().parse().map_err(|_| corrupt("a tombstone's id is none"))?;
        state.tombstones.push(Tombstone { tenant, deleted_at: WallMillis(at.value()) });
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::redb::RedbOptions;

    fn tenant(id: &str) -> ManagedTenant {
        ManagedTenant {
            id: id.parse().unwrap(),
            name: None,
            plan: "free".into(),
            claim: None,
            disabled: false,
            limits: serde_json::Map::new(),
            created_at: WallMillis(1),
            changed_at: WallMillis(1),
            version: 1,
        }
    }

    #[tokio::test]
    async fn what_was_stored_is_there_after_a_restart_and_a_deleted_one_leaves_a_tombstone_for_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let open = || RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let ledger = open();
        for id in ["a", "b"] {
            ledger.store_managed(tenant(id)).await.unwrap();
        }
        let erasure = ErasureRow::new("a".parse().unwrap(), WallMillis(5), true);
        ledger.store_erasure(erasure.clone()).await.unwrap();
        drop(ledger);
        let ledger = open();
        let state = ledger.managed_state().await.unwrap();
        assert_eq!((state.tenants, state.erasures), (vec![tenant("a"), tenant("b")], vec![erasure]));

        ledger.end_erasure(&"a".parse().unwrap(), IdBecomes::Tombstone(WallMillis(9)), vec![]).await.unwrap();
        let state = ledger.managed_state().await.unwrap();
        let gone = Tombstone { tenant: "a".parse().unwrap(), deleted_at: WallMillis(9) };
        assert_eq!((state.tenants.len(), state.erasures.len(), state.tombstones), (1, 0, vec![gone]));

        // What is only erased stays; a deletion takes the tombstones that it is told to.
        ledger.end_erasure(&"b".parse().unwrap(), IdBecomes::Kept, vec![]).await.unwrap();
        assert_eq!(ledger.managed_state().await.unwrap().tenants.len(), 1);
        ledger.end_erasure(&"b".parse().unwrap(), IdBecomes::Tombstone(WallMillis(20)), vec![]).await.unwrap();
        assert_eq!(ledger.managed_state().await.unwrap().tombstones.len(), 2);
        let forget = vec!["a".parse().unwrap()];
        ledger.end_erasure(&"c".parse().unwrap(), IdBecomes::Tombstone(WallMillis(30)), forget).await.unwrap();
        let left: Vec<_> =
            ledger.managed_state().await.unwrap().tombstones.iter().map(|row| row.deleted_at.0).collect();
        assert_eq!(left, [20, 30]);
        // Who gets the id again has no tombstone.
        ledger.store_managed(tenant("b")).await.unwrap();
        assert_eq!(ledger.managed_state().await.unwrap().tombstones.len(), 1);
    }
}
