//! [`Bans`] on redb: one table, JSON rows.

use super::RedbLedger;
use super::readings::not_found;
use super::storage::Fault;
use super::tables::{BANNED_CLASSES, Tables, encoded, row, rows};
use crate::record::ledger::LedgerError;
use crate::record::ledger::bans::{BanRow, Bans};
use ::redb::ReadableTableMetadata;
use async_trait::async_trait;

#[async_trait]
impl Bans for RedbLedger {
    async fn ban(&self, row: BanRow, limit: u64) -> Result<BanRow, LedgerError> {
        self.write("ban a class", move |tables| ban(tables, row, limit)).await
    }

    async fn unban(&self, class: &str) -> Result<(), LedgerError> {
        let class = class.to_owned();
        self.write("lift a ban", move |tables| match tables.banned_classes.remove(class.as_str())? {
            Some(_) => Ok(()),
            None => Err(not_found("ban")),
        })
        .await
    }

    async fn bans(&self) -> Result<Vec<BanRow>, LedgerError> {
        self.read("list bans", |snapshot| rows(snapshot, BANNED_CLASSES)).await
    }
}

fn ban(tables: &mut Tables<'_>, mut new: BanRow, limit: u64) -> Result<BanRow, Fault> {
    match row::<_, BanRow>(&tables.banned_classes, new.class.as_str())? {
        Some(known) => new.at = known.at,
        None if tables.banned_classes.len()? >= limit => {
            return Err(LedgerError::Full { what: "banned classes", limit }.into());
        }
        None => {}
    }
    let stored = encoded(&new)?;
    tables.banned_classes.insert(new.class.as_str(), stored.as_slice())?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use crate::record::ledger::bans::suite;

    on_redb!(a_ban_stands_until_it_is_lifted, there_are_as_many_bans_as_allowed_and_no_more);
}
