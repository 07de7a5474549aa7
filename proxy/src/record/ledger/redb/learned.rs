//! [`Learned`] on redb: one row, and one put aside.

use super::RedbLedger;
use super::tables::LEARNED;
use crate::record::ledger::LedgerError;
use crate::record::ledger::learned::{LEARNED_BYTES_MAX, Learned};
use ::redb::ReadableTable;
use async_trait::async_trait;
use bytes::Bytes;

const ROW: &str = "estimates";
const ASIDE: &str = "estimates.damaged";

#[async_trait]
impl Learned for RedbLedger {
    async fn learned(&self) -> Result<Option<Bytes>, LedgerError> {
        self.read("read what was learned", |snapshot| {
            Ok(snapshot.open_table(LEARNED)?.get(ROW)?.map(|row| Bytes::copy_from_slice(row.value())))
        })
        .await
    }

    async fn keep_learned(&self, learned: Bytes) -> Result<(), LedgerError> {
        if learned.len() > LEARNED_BYTES_MAX {
            return Err(LedgerError::Full { what: "bytes of what was learned", limit: LEARNED_BYTES_MAX as u64 });
        }
        self.write("keep what was learned", move |tables| {
            tables.learned.insert(ROW, &*learned)?;
            Ok(())
        })
        .await
    }

    async fn set_learned_aside(&self) -> Result<(), LedgerError> {
        self.write("put aside what was learned", |tables| {
            let kept = tables.learned.get(ROW)?.map(|row| row.value().to_vec());
            if let Some(kept) = kept {
                tables.learned.insert(ASIDE, kept.as_slice())?;
                tables.learned.remove(ROW)?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use crate::record::ledger::learned::suite;

    on_redb!(what_was_learned_is_kept_and_can_be_put_aside, no_more_is_kept_of_what_was_learned_than_there_is_room_for,);
}
