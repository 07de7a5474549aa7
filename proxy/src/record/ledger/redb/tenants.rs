//! [`Tenants`] on redb: one table, JSON rows.

use super::RedbLedger;
use super::readings::not_found;
use super::storage::Fault;
use super::tables::{CREATED_TENANTS, Tables, encoded, row, rows};
use crate::clock::WallMillis;
use crate::ids::TenantId;
use crate::record::ledger::LedgerError;
use crate::record::ledger::tenants::{CreatedTenant, Creation, Tenants};
use ::redb::ReadableTableMetadata;
use async_trait::async_trait;

#[async_trait]
impl Tenants for RedbLedger {
    async fn create_tenant(&self, tenant: CreatedTenant, limit: u32) -> Result<Creation, LedgerError> {
        self.write("store a tenant", move |tables| create(tables, tenant, limit)).await
    }

    async fn created_tenants(&self) -> Result<Vec<CreatedTenant>, LedgerError> {
        self.read("list tenants", |snapshot| rows(snapshot, CREATED_TENANTS)).await
    }

    async fn disable_tenant(&self, id: &TenantId, at: Option<WallMillis>) -> Result<CreatedTenant, LedgerError> {
        let id = id.clone();
        self.write("close or open a tenant", move |tables| {
            change(tables, &id, |tenant| {
                let differs = tenant.disabled_at.is_some() != at.is_some();
                if differs {
                    tenant.disabled_at = at;
                }
                differs
            })
        })
        .await
    }

    async fn change_plan(&self, id: &TenantId, plan: &str, issued_at: u64) -> Result<CreatedTenant, LedgerError> {
        let (id, plan) = (id.clone(), plan.to_owned());
        self.write("change a tenant's plan", move |tables| {
            change(tables, &id, |tenant| {
                let newer = tenant.plan != plan && tenant.plan_since.is_none_or(|since| issued_at > since);
                if newer {
                    tenant.plan = plan;
                    tenant.plan_since = Some(issued_at);
                }
                newer
            })
        })
        .await
    }
}

fn create(tables: &mut Tables<'_>, tenant: CreatedTenant, limit: u32) -> Result<Creation, Fault> {
    if let Some(known) = row(&tables.created_tenants, tenant.id.as_str())? {
        return Ok(Creation::Known(known));
    }
    if tables.created_tenants.len()? >= u64::from(limit) {
        return Ok(Creation::Full);
    }
    Ok(Creation::Made(store(tables, tenant)?))
}

/// Changes one tenant; `apply` says whether it did.
fn change(
    tables: &mut Tables<'_>,
    id: &TenantId,
    apply: impl FnOnce(&mut CreatedTenant) -> bool,
) -> Result<CreatedTenant, Fault> {
    let mut tenant: CreatedTenant =
        row(&tables.created_tenants, id.as_str())?.ok_or_else(|| not_found("tenant that a token made"))?;
    if apply(&mut tenant) { store(tables, tenant) } else { Ok(tenant) }
}

fn store(tables: &mut Tables<'_>, mut tenant: CreatedTenant) -> Result<CreatedTenant, Fault> {
    tenant.version += 1;
    let stored = encoded(&tenant)?;
    tables.created_tenants.insert(tenant.id.as_str(), stored.as_slice())?;
    Ok(tenant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::redb::RedbOptions;
    use crate::record::ledger::tenants::suite;
    use std::path::Path;

    fn ledger(dir: &Path) -> RedbLedger {
        RedbLedger::open(dir, RedbOptions::default()).unwrap()
    }

    on_redb!(
        a_tenant_is_stored_once_and_listed_by_id,
        there_are_as_many_as_allowed_and_no_more,
        a_tenant_is_closed_and_opened_and_a_stranger_is_not_found,
        a_newer_token_changes_the_plan_and_an_older_one_does_not,
    );

    #[tokio::test]
    async fn a_made_tenant_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let before = ledger(dir.path());
        suite::a_tenant_is_stored_once_and_listed_by_id(&before).await;
        let rows = before.created_tenants().await.unwrap();
        drop(before);
        assert_eq!(ledger(dir.path()).created_tenants().await.unwrap(), rows);
    }
}
