//! [`Refusals`] on redb: rows by the order of their coming, an index by tenant and one by request, and the graphs beside them.

use super::RedbLedger;
use super::readings::{not_found, number};
use super::storage::Fault;
use super::tables::{REFUSALS, REFUSED_GRAPHS, REFUSED_REQUESTS, TENANT_REFUSALS, Tables, decoded, encoded, row};
use crate::clock::WallMillis;
use crate::ids::RequestId;
use crate::record::ledger::LedgerError;
use crate::record::ledger::refusals::{GRAPH_BYTES_MAX, RefusalBounds, RefusalQuery, RefusalRow, Refusals};
use ::redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use async_trait::async_trait;
use bytes::Bytes;

#[async_trait]
impl Refusals for RedbLedger {
    async fn insert_refusal(
        &self,
        row: RefusalRow,
        graph: Option<Bytes>,
        bounds: RefusalBounds,
    ) -> Result<(), LedgerError> {
        let graph = graph.filter(|graph| graph.len() <= GRAPH_BYTES_MAX);
        self.write("remember a refusal", move |tables| insert(tables, &row.bounded(), graph.as_deref(), bounds)).await
    }

    async fn refusals(&self, query: RefusalQuery) -> Result<Vec<RefusalRow>, LedgerError> {
        self.read("list refusals", move |snapshot| list(snapshot, &query)).await
    }

    async fn refusal(&self, request: RequestId) -> Result<(RefusalRow, Option<Bytes>), LedgerError> {
        self.read("look up a refusal", move |snapshot| find(snapshot, request)).await
    }
}

fn insert(tables: &mut Tables<'_>, new: &RefusalRow, graph: Option<&[u8]>, bounds: RefusalBounds) -> Result<(), Fault> {
    super::erasure::refuse_erased(tables, &new.owner.tenant)?;
    let place = tables.refusals.last()?.map_or(0, |(last, _)| last.value().saturating_add(1));
    let tenant = new.owner.tenant.as_str();
    let own = of_tenant(tables, tenant)?;
    let stored = encoded(new)?;
    tables.refusals.insert(place, stored.as_slice())?;
    tables.tenant_refusals.insert((tenant, place), ())?;
    tables.refused_requests.insert(number(new.request.bytes()), place)?;
    if let Some(graph) = graph {
        tables.refused_graphs.insert(place, graph)?;
    }
    // One more than before stands there now.
    let over = (own.len() + 1).saturating_sub(bounds.tenant_max.max(1));
    for old in own.iter().take(over) {
        forget(tables, *old)?;
    }
    let without_graph = (own.len() + 1).saturating_sub(bounds.tenant_graphs_max);
    for old in own.iter().take(without_graph).rev().take(1) {
        tables.refused_graphs.remove(*old)?;
    }
    while tables.refused_graphs.len()? > bounds.total_graphs_max {
        tables.refused_graphs.pop_first()?;
    }
    while let Some(old) = first_over(tables, bounds, new.at)? {
        forget(tables, old)?;
    }
    Ok(())
}

/// The oldest of all, if there are too many, or if it is too old.
fn first_over(tables: &Tables<'_>, bounds: RefusalBounds, now: WallMillis) -> Result<Option<u64>, Fault> {
    let too_many = tables.refusals.len()? > bounds.total_max.max(1);
    let Some((place, stored)) = tables.refusals.first()? else { return Ok(None) };
    // One that can't be read is of no use to anybody, and must not keep new ones out.
    let too_old = decoded::<RefusalRow>(stored.value()).map_or(true, |row| row.at.plus(bounds.age_max) < now);
    let over = too_many || too_old;
    Ok(over.then(|| place.value()))
}

/// The places of a tenant's refusals, oldest first; some thousand at most.
fn of_tenant(tables: &Tables<'_>, tenant: &str) -> Result<Vec<u64>, Fault> {
    let mut places = Vec::new();
    for entry in tables.tenant_refusals.range((tenant, 0)..=(tenant, u64::MAX))? {
        places.push(entry?.0.value().1);
    }
    Ok(places)
}

pub(super) fn forget(tables: &mut Tables<'_>, place: u64) -> Result<(), Fault> {
    let found = match tables.refusals.remove(place)? {
        Some(stored) => decoded::<RefusalRow>(stored.value()),
        None => return Ok(()),
    };
    tables.refused_graphs.remove(place)?;
    match found {
        Ok(old) => {
            tables.tenant_refusals.remove((old.owner.tenant.as_str(), place))?;
            tables.refused_requests.remove(number(old.request.bytes()))?;
        }
        // Whose it was is known to the indices only.
        Err(_) => {
            tables.tenant_refusals.retain(|(_, at), ()| at != place)?;
            tables.refused_requests.retain(|_, at| at != place)?;
        }
    }
    Ok(())
}

fn list(snapshot: &ReadTransaction, query: &RefusalQuery) -> Result<Vec<RefusalRow>, Fault> {
    let rows = snapshot.open_table(REFUSALS)?;
    let mut found = Vec::new();
    let mut take = |stored: &[u8]| -> Result<bool, Fault> {
        let Ok(row) = decoded::<RefusalRow>(stored) else { return Ok(true) };
        // Rows stand in the order of their coming.
        if query.since.is_some_and(|since| row.at < since) || found.len() >= query.limit {
            return Ok(false);
        }
        if row.shadow == query.shadow {
            found.push(row);
        }
        Ok(true)
    };
    match &query.tenant {
        None => {
            for entry in rows.iter()?.rev() {
                if !take(entry?.1.value())? {
                    break;
                }
            }
        }
        Some(tenant) => {
            let index = snapshot.open_table(TENANT_REFUSALS)?;
            for entry in index.range((tenant.as_str(), 0)..=(tenant.as_str(), u64::MAX))?.rev() {
                let Some(stored) = rows.get(entry?.0.value().1)? else { continue };
                if !take(stored.value())? {
                    break;
                }
            }
        }
    }
    Ok(found)
}

fn find(snapshot: &ReadTransaction, request: RequestId) -> Result<(RefusalRow, Option<Bytes>), Fault> {
    let missing = || not_found("refusal of that request");
    let place = snapshot.open_table(REFUSED_REQUESTS)?.get(number(request.bytes()))?.ok_or_else(missing)?.value();
    let found = row(&snapshot.open_table(REFUSALS)?, place)?.ok_or_else(missing)?;
    let graph = snapshot.open_table(REFUSED_GRAPHS)?.get(place)?.map(|graph| Bytes::copy_from_slice(graph.value()));
    Ok((found, graph))
}

#[cfg(test)]
mod tests {
    use super::super::RedbOptions;
    use super::*;
    use crate::record::ledger::refusals::suite;

    on_redb!(
        refusals_are_told_newest_first_and_by_tenant_and_time,
        one_refusal_is_found_by_its_request_with_its_graph,
        the_oldest_refusals_of_a_tenant_go_first_and_no_other_tenants,
        refusals_are_bounded_in_all_and_by_age,
    );

    #[tokio::test]
    async fn a_refusal_that_cant_be_read_goes_and_keeps_no_other_out() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let graph = || Some(Bytes::from("{}"));
        ledger.insert_refusal(suite::row("a", 1), graph(), RefusalBounds::default()).await.unwrap();
        let damage = |tables: &mut Tables<'_>| -> Result<(), Fault> {
            tables.refusals.insert(0, &b"damaged"[..])?;
            Ok(())
        };
        ledger.write("damage a row", damage).await.unwrap();
        assert_eq!(ledger.refusals(RefusalQuery { limit: 9, ..RefusalQuery::default() }).await.unwrap(), []);
        let other = suite::row("b", 2);
        ledger.insert_refusal(other.clone(), None, RefusalBounds::default()).await.unwrap();
        assert_eq!(ledger.refusals(RefusalQuery { limit: 9, ..RefusalQuery::default() }).await.unwrap(), [other]);
        let left = ledger.read("look at every row", super::super::tables::raw).await.unwrap();
        for (table, rows) in [("refusals", 1), ("tenant_refusals", 1), ("refused_requests", 1), ("refused_graphs", 0)] {
            assert_eq!(left[table].len(), rows, "{table}");
        }
    }

    #[tokio::test]
    async fn a_refusal_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let row = suite::row("a", 1);
        open().insert_refusal(row.clone(), None, RefusalBounds::default()).await.unwrap();
        assert_eq!(open().refusal(row.request).await.unwrap(), (row, None));
    }
}
