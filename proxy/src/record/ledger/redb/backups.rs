//! Copies of the rows into a file of their own, and what such a file names.

use super::RedbLedger;
use super::migration::{self, SCHEMA};
use super::storage::{self, Fault};
use super::tables::{
    DEAD_LETTERS, FILES, JOBS, JobRow, PINS, RESULTS, copy_all, corrupt, decoded, uncopied, unknown_table,
};
use crate::record::ledger::backups::{Backups, Copied};
use crate::record::ledger::dead_letters::DeadLetter;
use crate::record::ledger::uploads::Pin;
use crate::record::ledger::{FileRow, JobResult, LedgerError};
use ::redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError, TableHandle};
use async_trait::async_trait;
use comfygate_policy::Digest;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

#[async_trait]
impl Backups for RedbLedger {
    async fn copy_to(&self, file: &Path) -> Result<Copied, LedgerError> {
        let (storage, file) = (Arc::clone(&self.storage), file.to_owned());
        let copying = tokio::task::spawn_blocking(move || {
            let copied = storage.read(|snapshot| copy(snapshot, &file));
            copied.map_err(|fault| fault.told("be copied"))
        });
        copying.await.map_err(|error| LedgerError::Unavailable { action: "be copied", reason: error.to_string() })?
    }
}

/// Copies a snapshot. An error of the copy's own storage is never told as one of the ledger's: see [`uncopied`].
fn copy(snapshot: &ReadTransaction, file: &Path) -> Result<Copied, Fault> {
    if let Some(name) = unknown_table(snapshot)? {
        return Err(corrupt(&format!("the table `{name}` is not this gateway's; it would be missing in the copy")));
    }
    let copied = named(snapshot, SCHEMA)?;
    let database = storage::file(file)?;
    let transaction = database.begin_write().map_err(|error| uncopied(&error))?;
    copy_all(snapshot, &transaction)?;
    transaction.commit().map_err(|error| uncopied(&error))?;
    Ok(copied)
}

/// Looks through a copy: that it can be read, has a schema of ours, and what it names.
///
/// # Errors
/// `Schema` newer than ours; `Unavailable` for what is no ledger, or a damaged one.
pub fn inspect(file: &Path) -> Result<Copied, LedgerError> {
    let told = |fault: Fault| fault.told("be looked through");
    let mut database = storage::file(file)?;
    let damaged = |reason: String| LedgerError::Unavailable { action: "be looked through", reason };
    match database.check_integrity() {
        Ok(true) => {}
        Ok(false) => return Err(damaged("its pages are not as they were written".to_owned())),
        Err(error) => return Err(damaged(error.to_string())),
    }
    match migration::schema(&database).map_err(told)? {
        Some(schema) if schema <= SCHEMA => {
            let snapshot = database.begin_read().map_err(|error| damaged(error.to_string()))?;
            named(&snapshot, schema).map_err(told)
        }
        Some(found) => Err(LedgerError::Schema { path: file.display().to_string(), found, known: SCHEMA }),
        None => Err(damaged("it has no schema: this is no ledger".to_owned())),
    }
}

fn named(snapshot: &ReadTransaction, schema: u64) -> Result<Copied, Fault> {
    let mut blobs = each(snapshot, FILES, |row: FileRow| [row.content])?;
    blobs.extend(each(snapshot, PINS, |row: Vec<Pin>| row.into_iter().map(|pin| pin.content))?);
    blobs.extend(each(snapshot, RESULTS, |row: JobResult| row.sent.into_iter().map(|picture| picture.content))?);
    let mut graphs = each(snapshot, JOBS, |row: JobRow| [row.job.submission])?;
    graphs.extend(each(snapshot, DEAD_LETTERS, |letter: DeadLetter| [letter.submission])?);
    Ok(Copied { schema, graphs, blobs })
}

/// What the rows of a table name. A row that can't be read names nothing: it is copied as it is, and refused to whoever asks for it.
fn each<T: DeserializeOwned, I: IntoIterator<Item = Digest>>(
    snapshot: &ReadTransaction,
    table: TableDefinition<'static, u128, &'static [u8]>,
    named: impl Fn(T) -> I,
) -> Result<BTreeSet<Digest>, Fault> {
    let rows = match snapshot.open_table(table) {
        Ok(rows) => rows,
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeSet::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = BTreeSet::new();
    for row in rows.iter()? {
        let (id, bytes) = row?;
        match decoded(bytes.value()) {
            Ok(row) => {
                found.extend(named(row));
            }
            Err(_) => {
                tracing::error!(table = table.name(), id = %format_args!("{:032x}", id.value()), "a row can't be read")
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::record::ledger::redb::tables::{TABLE_NAMES, names};
    use crate::record::ledger::redb::{RedbOptions, storage::Storage};
    use crate::record::ledger::{Ledger, Outcome, SentPicture, suite};

    fn ledger(dir: &Path) -> RedbLedger {
        RedbLedger::open(dir, RedbOptions::default()).unwrap()
    }

    /// Every row of every table of ours, as the database's own `Debug` shows keys and values.
    fn rows(storage: &Storage) -> usize {
        storage
            .read(|snapshot| {
                Ok(snapshot.open_table(JOBS)?.iter()?.count() + snapshot.open_table(FILES)?.iter()?.count())
            })
            .unwrap()
    }

    #[tokio::test]
    async fn a_copy_is_the_ledger_of_that_moment_and_later_jobs_are_not_in_it() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let original = ledger(dir.path());
        let held = suite::accepted(&original, "a", "p").await;
        let key = suite::key_row("aaaaaaaaaaaa", "a");
        original.insert_key(key.clone()).await.unwrap();
        let copied = original.copy_to(&other.path().join("ledger.redb")).await.unwrap();
        suite::accepted(&original, "a", "later").await;
        assert_eq!(copied.graphs.into_iter().collect::<Vec<_>>(), [held.submission]);

        let copy = ledger(other.path());
        assert_eq!(rows(&copy.storage), 1);
        assert_eq!(copy.active_jobs().await.unwrap(), [held]);
        assert_eq!(copy.keys().await.unwrap(), [key]);
    }

    #[tokio::test]
    async fn pictures_that_were_sent_are_among_the_contents_as_files_are() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let original = ledger(dir.path());
        let attempt = suite::assigned(&original, &suite::accepted(&original, "a", "p").await).await;
        let picture = |content: &[u8]| SentPicture {
            node: "9".into(),
            content: Digest::of(content),
            bytes: 1,
            content_type: "image/png".into(),
            metadata: serde_json::Map::new(),
        };
        let result = JobResult { sent: vec![picture(b"1"), picture(b"2")], ..suite::two_images() };
        let file = suite::image(1, "/9/images/0");
        let content = file.content;
        let committed = original.commit(attempt, Outcome::Succeeded, result.clone(), vec![file], WallMillis(4)).await;
        assert_eq!(committed.unwrap().1.sent, result.sent);
        let copied = original.copy_to(&other.path().join("ledger.redb")).await.unwrap();
        assert_eq!(copied.blobs, BTreeSet::from([content, Digest::of(b"1"), Digest::of(b"2")]));
    }

    #[tokio::test]
    async fn every_table_is_copied_and_one_that_is_not_known_refuses_the_copy() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let original = ledger(dir.path());
        let copy = other.path().join("ledger.redb");
        original.copy_to(&copy).await.unwrap();
        let database = storage::file(&copy).unwrap();
        let mut there = names(&database.begin_read().unwrap()).unwrap();
        there.sort();
        let mut known = TABLE_NAMES.to_vec();
        known.sort_unstable();
        assert_eq!(there, known);

        const FOREIGN: TableDefinition<'static, u64, u64> = TableDefinition::new("of_a_later_release");
        original.storage.write(|transaction| Ok(transaction.open_table(FOREIGN).map(|_| true)?)).unwrap();
        let refused = original.copy_to(&other.path().join("second.redb")).await;
        assert!(refused.unwrap_err().to_string().contains("of_a_later_release"));
        // The ledger itself goes on.
        suite::accepted(&original, "a", "p").await;
    }

    #[tokio::test]
    async fn a_copy_that_can_t_be_written_does_not_trouble_the_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let original = ledger(dir.path());
        assert!(original.copy_to(&dir.path().join("no/such/folder/ledger.redb")).await.is_err());
        suite::accepted(&original, "a", "p").await;
        assert_eq!(original.active_jobs().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_copy_is_looked_through_and_a_damaged_one_refused() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let original = ledger(dir.path());
        suite::accepted(&original, "a", "p").await;
        let copy = other.path().join("ledger.redb");
        let copied = original.copy_to(&copy).await.unwrap();
        assert_eq!(inspect(&copy).unwrap(), copied);
        std::fs::write(&copy, b"no ledger at all").unwrap();
        assert!(inspect(&copy).is_err());
        std::fs::write(&copy, b"").unwrap();
        assert!(matches!(inspect(&copy), Err(LedgerError::Unavailable { .. })));
    }
}
