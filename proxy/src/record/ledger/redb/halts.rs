//! [`Halts`] on redb: one table, JSON rows.

use super::RedbLedger;
use super::erasure::refuse_erased;
use super::readings::not_found;
use super::storage::Fault;
use super::tables::{HALTS, Tables, encoded, row, rows};
use crate::record::ledger::LedgerError;
use crate::record::ledger::halts::{HaltRow, Halted, Halts};
use ::redb::ReadableTableMetadata;
use async_trait::async_trait;

#[async_trait]
impl Halts for RedbLedger {
    async fn halt(&self, row: HaltRow, limit: u64) -> Result<HaltRow, LedgerError> {
        self.write("halt", move |tables| halt(tables, row, limit)).await
    }

    async fn release(&self, halted: &Halted) -> Result<(), LedgerError> {
        let halted = halted.clone();
        self.write("release", move |tables| match tables.halts.remove(halted.key())? {
            Some(_) => Ok(()),
            None => Err(not_found("halt")),
        })
        .await
    }

    async fn halts(&self) -> Result<Vec<HaltRow>, LedgerError> {
        self.read("list halts", |snapshot| rows(snapshot, HALTS)).await
    }
}

fn halt(tables: &mut Tables<'_>, mut new: HaltRow, limit: u64) -> Result<HaltRow, Fault> {
    if let Halted::Tenant(tenant) = &new.halted {
        refuse_erased(tables, tenant)?;
    }
    match row::<_, HaltRow>(&tables.halts, new.halted.key())? {
        Some(known) => new.at = known.at,
        None if tables.halts.len()? >= limit => {
            return Err(LedgerError::Full { what: "drained backends and paused tenants", limit }.into());
        }
        None => {}
    }
    let stored = encoded(&new)?;
    tables.halts.insert(new.halted.key(), stored.as_slice())?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use crate::record::ledger::halts::suite;

    on_redb!(a_halt_stands_until_it_is_released, there_are_as_many_halts_as_allowed_and_no_more);
}
