//! The schema's number, and the way from an older one to ours: one step a number, each in one transaction, after a copy of the file was kept.

use super::keys;
use super::storage::Fault;
use super::tables::{KEY_REQUESTS, META, TABLE_NAMES, TENANT_KEYS, Tables, corrupt, decoded, encoded, names};
use crate::authenticate::api_key::KeyRow;
use crate::record::durable::{self, FILE_MODE};
use crate::record::ledger::LedgerError;
use ::redb::{
    Database, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition, TableError, TableHandle,
    WriteTransaction,
};
use comfygate_policy::Digest;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// One step, in the transaction that also raises the number. It names tables and rows as they were then, never by `tables`, which go on changing.
type Step = fn(&WriteTransaction) -> Result<(), Fault>;

/// Step `i` leads from schema `i + 1` to `i + 2`.
const STEPS: &[Step] = &[to_2, to_3, to_4];

/// What this gateway writes.
pub(super) const SCHEMA: u64 = STEPS.len() as u64 + 1;

/// Schema 2 lists jobs that were deleted before they ran apart from those that have a history entry, so that they push none of these out. It has more
/// tables besides, which [`complete`] makes; new fields of other rows have serde defaults.
fn to_2(transaction: &WriteTransaction) -> Result<(), Fault> {
    const ENDED: TableDefinition<'static, (&str, u64), (u128, bool)> = TableDefinition::new("ended");
    const CANCELLED: TableDefinition<'static, (&str, u64), u128> = TableDefinition::new("cancelled");
    const SCOPES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("scopes");
    let (mut ended, mut cancelled) = (transaction.open_table(ENDED)?, transaction.open_table(CANCELLED)?);
    let mut moved: BTreeMap<String, u64> = BTreeMap::new();
    for entry in ended.extract_if(|_, (_, shown)| !shown)? {
        let (key, value) = entry?;
        let (scope, place) = key.value();
        cancelled.insert((scope, place), value.value().0)?;
        *moved.entry(scope.to_owned()).or_default() += 1;
    }
    let mut scopes = transaction.open_table(SCOPES)?;
    for (scope, count) in moved {
        let Some(row) =
            scopes.get(scope.as_str())?.map(|row| decoded::<serde_json::Map<_, _>>(row.value())).transpose()?
        else {
            return Err(corrupt("an ended job's scope has no counters"));
        };
        let mut row: serde_json::Map<String, serde_json::Value> = row;
        let ended = row.get("ended").and_then(serde_json::Value::as_u64).unwrap_or(0);
        row.insert("ended".to_owned(), ended.saturating_sub(count).into());
        row.insert("cancelled".to_owned(), count.into());
        scopes.insert(scope.as_str(), encoded(&row)?.as_slice())?;
    }
    Ok(())
}

/// Schema 3 knows which rows name a content, and the order in which retention takes what a tenant has. A gateway of schema 2 would add rows that these indices lack, and the next one would delete
/// contents under them: that is why it must not open this file.
fn to_3(transaction: &WriteTransaction) -> Result<(), Fault> {
    let mut index = Schema3::open(transaction)?;
    index.files(transaction)?;
    index.jobs(transaction)?;
    index.letters(transaction)
}

/// Schema 4 has local users, and sessions that end with them. A gateway of schema 3 would take such a session for one that ends with nothing: that is why it must not open this file. The rows are
/// the same; [`complete`] makes the table.
fn to_4(_: &WriteTransaction) -> Result<(), Fault> {
    Ok(())
}

/// The tables of schema 3 that its rows are indexed in, as they were then.
struct Schema3<'t> {
    kept: Table<'t, (&'static str, u8, u64, u128), (u64, u8)>,
    result_bytes: Table<'t, &'static str, u64>,
    named_by: Table<'t, (&'static [u8; 32], u8, u128), ()>,
}

/// What schema 3 needs of a row of `files`.
#[derive(Deserialize)]
struct File2 {
    owner: Owner2,
    #[serde(default)]
    job: Option<serde::de::IgnoredAny>,
    content: Digest,
    bytes: u64,
    directory: String,
    subfolder: String,
    filename: String,
    created_at: u64,
}

#[derive(Deserialize)]
struct Owner2 {
    tenant: String,
    #[serde(default)]
    user: Option<String>,
}

/// Of a row of `jobs`.
#[derive(Deserialize)]
struct JobRow2 {
    job: Job2,
}

#[derive(Deserialize)]
struct Job2 {
    owner: Owner2,
    submission: Digest,
    accepted_at: u64,
    state: serde_json::Value,
}

/// Of a row of `dead_letters`.
#[derive(Deserialize)]
struct Letter2 {
    submission: Digest,
}

/// Of a row of `results`.
#[derive(Deserialize, Default)]
struct Result2 {
    #[serde(default)]
    ended_at: Option<u64>,
    #[serde(default)]
    sent: Vec<Content2>,
}

/// Of a picture that was sent, or a pin.
#[derive(Deserialize)]
struct Content2 {
    content: Digest,
    bytes: u64,
}

impl<'t> Schema3<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, Fault> {
        Ok(Self {
            kept: transaction.open_table(TableDefinition::new("kept"))?,
            result_bytes: transaction.open_table(TableDefinition::new("result_bytes"))?,
            named_by: transaction.open_table(TableDefinition::new("named_by"))?,
        })
    }

    fn files(&mut self, transaction: &WriteTransaction) -> Result<(), Fault> {
        const ADOPTED: TableDefinition<'static, (&str, &str, &str), &[u8]> = TableDefinition::new("adopted");
        let files = transaction.open_table(ROWS_OF_FILES)?;
        let adopted = transaction.open_table(ADOPTED)?;
        for entry in files.iter()? {
            let (id, stored) = entry?;
            // A row that can't be read names what nobody knows: it stays out of every order, and the content is nobody's.
            let Ok(row) = decoded::<File2>(stored.value()) else { continue };
            let result = row.job.is_some() || row.directory == "output";
            let scope = format!("{}/{}", row.owner.tenant, row.owner.user.as_deref().unwrap_or_default());
            let folder = Some(row.subfolder.as_str()).filter(|folder| !folder.is_empty());
            let path = folder.map_or_else(|| row.filename.clone(), |folder| format!("{folder}/{}", row.filename));
            let source = adopted.get((scope.as_str(), row.directory.as_str(), path.as_str()))?;
            let source = source.map(|source| decoded::<Content2>(source.value())).transpose()?;
            // What was adopted is in no tenant's room for uploads.
            let counts = !result && source.is_none_or(|source| source.content != row.content);
            self.named_by.insert((row.content.as_bytes(), 0, id.value()), ())?;
            self.keep(&row.owner.tenant, u8::from(!result), row.created_at, id.value(), (row.bytes, u8::from(counts)))?;
        }
        Ok(())
    }

    fn jobs(&mut self, transaction: &WriteTransaction) -> Result<(), Fault> {
        let jobs = transaction.open_table(ROWS_OF_JOBS)?;
        let (results, pins) = (transaction.open_table(ROWS_OF_RESULTS)?, transaction.open_table(ROWS_OF_PINS)?);
        for entry in jobs.iter()? {
            let (id, stored) = entry?;
            let id = id.value();
            let Ok(JobRow2 { job }) = decoded(stored.value()) else { continue };
            self.named_by.insert((job.submission.as_bytes(), 3, id), ())?;
            let pinned = pins.get(id)?.map(|stored| decoded::<Vec<Content2>>(stored.value())).transpose()?;
            for pin in pinned.unwrap_or_default() {
                self.named_by.insert((pin.content.as_bytes(), 2, id), ())?;
            }
            // `"held"`, `"assigned"`, `"running"`, or an object that says how it ended.
            if job.state.is_string() {
                continue;
            }
            let result = results.get(id)?.map(|stored| decoded::<Result2>(stored.value())).transpose()?;
            let result = result.unwrap_or_default();
            let ended_at = result.ended_at.unwrap_or(job.accepted_at);
            self.keep(&job.owner.tenant, 2, ended_at, id, (0, 3))?;
            for picture in &result.sent {
                self.named_by.insert((picture.content.as_bytes(), 1, id), ())?;
            }
            if !result.sent.is_empty() {
                let bytes = result.sent.iter().fold(0_u64, |sum, picture| sum.saturating_add(picture.bytes));
                self.keep(&job.owner.tenant, 0, ended_at, id, (bytes, 2))?;
            }
        }
        Ok(())
    }

    fn letters(&mut self, transaction: &WriteTransaction) -> Result<(), Fault> {
        let letters = transaction.open_table(ROWS_OF_LETTERS)?;
        for entry in letters.iter()? {
            let (id, stored) = entry?;
            if let Ok(letter) = decoded::<Letter2>(stored.value()) {
                self.named_by.insert((letter.submission.as_bytes(), 4, id.value()), ())?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, tenant: &str, class: u8, at: u64, id: u128, value: (u64, u8)) -> Result<(), Fault> {
        self.kept.insert((tenant, class, at, id), value)?;
        if class == 0 {
            let before = self.result_bytes.get(tenant)?.map_or(0, |bytes| bytes.value());
            self.result_bytes.insert(tenant, before.saturating_add(value.0))?;
        }
        Ok(())
    }
}

const ROWS_OF_FILES: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("files");
const ROWS_OF_JOBS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("jobs");
const ROWS_OF_RESULTS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("results");
const ROWS_OF_LETTERS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("dead_letters");
const ROWS_OF_PINS: TableDefinition<'static, u128, &[u8]> = TableDefinition::new("pins");

/// Bytes of one read while the file is copied.
const COPY_STEP: usize = 1 << 20;

/// Opens the database of a storage with our schema: makes a new one, migrates an older one. `reopen` opens it, as often as asked.
///
/// A migration that fails or is killed leaves the file at the schema of the last whole step, and the copy of what it was before the first.
///
/// # Errors
/// `Schema` if it is newer than ours, `Unavailable`.
pub(super) fn open(
    path: &Path,
    backend: &dyn StorageBackend,
    reopen: impl Fn() -> Result<Database, LedgerError>,
) -> Result<Database, LedgerError> {
    open_by(STEPS, path, backend, reopen)
}

fn open_by(
    steps: &[Step],
    path: &Path,
    backend: &dyn StorageBackend,
    reopen: impl Fn() -> Result<Database, LedgerError>,
) -> Result<Database, LedgerError> {
    let told = |fault: Fault| fault.told("bring its schema up to ours");
    let known = steps.len() as u64 + 1;
    let mut database = reopen()?;
    match schema(&database).map_err(told)? {
        Some(found) if found > known => {
            return Err(LedgerError::Schema { path: path.display().to_string(), found, known });
        }
        Some(found) if found < known => {
            // Closed: what is copied is whole, and nobody writes meanwhile, since the lock is ours.
            drop(database);
            let kept = keep_copy(path, backend, found).map_err(|error| LedgerError::Unavailable {
                action: "keep a copy before its schema changes",
                reason: error.to_string(),
            })?;
            tracing::info!(
                "the ledger goes from schema {found} to {known}; the file as it was is kept as `{}`",
                kept.display()
            );
            database = reopen()?;
            for (from, step) in (1..).zip(steps).skip_while(|(from, _)| *from < found) {
                migrate(&database, from, *step).map_err(told)?;
            }
        }
        // A new file begins at the newest schema.
        None => migrate(&database, known - 1, |_| Ok(())).map_err(told)?,
        Some(_) => {}
    }
    complete(&database).map_err(told)?;
    Ok(database)
}

/// The schema of a database; `None` for a new one.
pub(super) fn schema(database: &Database) -> Result<Option<u64>, Fault> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get("schema")?.map(|found| found.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Runs a step and raises the number, both or neither.
fn migrate(database: &Database, from: u64, step: Step) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    step(&transaction)?;
    transaction.open_table(META)?.insert("schema", from + 1)?;
    Ok(transaction.commit()?)
}

/// Makes the tables that are missing: readings expect each of them. An index that is missing is made of the rows.
fn complete(database: &Database) -> Result<(), Fault> {
    let there = names(&database.begin_read()?)?;
    if TABLE_NAMES.iter().all(|name| there.iter().any(|known| known == name)) {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    let mut tables = Tables::open(&transaction)?;
    // A transaction that makes one index makes both and fills them, and no schema of before has either: what this gateway and its backups wrote has both or none. A file of which that is not so is
    // mended all the same: what an index has already is entered once more.
    if [TENANT_KEYS.name(), KEY_REQUESTS.name()].iter().any(|index| !there.iter().any(|name| name == index)) {
        index_keys(&mut tables)?;
    }
    drop(tables);
    Ok(transaction.commit()?)
}

/// Keys that were made before there were indices of them. One that can't be read is nobody's, and keeps nobody from starting.
fn index_keys(tables: &mut Tables<'_>) -> Result<(), Fault> {
    let mut rows: Vec<KeyRow> = Vec::new();
    for entry in tables.keys.iter()? {
        rows.extend(decoded(entry?.1.value()).ok());
    }
    rows.iter().try_for_each(|row| keys::index(tables, row))
}

/// Copies the file beside itself as `<name>.v<schema>`, synced. A copy of a former try is replaced: the file may have been used since.
fn keep_copy(path: &Path, backend: &dyn StorageBackend, schema: u64) -> io::Result<PathBuf> {
    let beside = |ending: String| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (kept, temporary) = (beside(format!(".v{schema}")), beside(format!(".v{schema}.tmp")));
    let copied = copy(backend, &temporary).and_then(|()| durable::publish(&temporary, &kept));
    if copied.is_err() {
        // Best effort: the next try begins it anew.
        let _ = std::fs::remove_file(&temporary);
    }
    copied.map(|()| kept)
}

fn copy(backend: &dyn StorageBackend, to: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(to)?;
    let (length, mut offset) = (backend.len()?, 0);
    let mut piece = vec![0; COPY_STEP];
    while offset < length {
        let size = usize::try_from(length - offset).unwrap_or(COPY_STEP).min(COPY_STEP);
        let piece = piece.get_mut(..size).unwrap_or_default();
        backend.read(offset, piece)?;
        file.write_all(piece)?;
        offset += size as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::api_key::MadeBy;
    use crate::record::ledger::redb::storage;
    use crate::record::ledger::redb::tables::{CANCELLED, ENDED, KEYS, SCOPES, ScopeRow, TENANTS, row};
    use crate::record::ledger::suite;

    /// A ledger file of a schema, with one row.
    fn file_of(dir: &Path, schema: u64) -> PathBuf {
        let path = dir.join("ledger.redb");
        let database = storage::file(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("schema", schema).unwrap();
        transaction.open_table(TENANTS).unwrap().insert("acme", 7).unwrap();
        transaction.commit().unwrap();
        path
    }

    fn open_with(steps: &[Step], path: &Path) -> Result<Database, LedgerError> {
        let backend = storage::file_backend(path)?;
        // What `Storage` does: the handle with its lock stays, databases on it come and go.
        let backend: std::sync::Arc<dyn StorageBackend> = std::sync::Arc::new(backend);
        open_by(steps, path, &*backend, || storage::opened(path, &backend, 1 << 20))
    }

    fn tenants(database: &Database) -> Vec<(String, u32)> {
        let table = database.begin_read().unwrap().open_table(TENANTS).unwrap();
        table
            .iter()
            .unwrap()
            .map(|row| row.unwrap())
            .map(|(key, value)| (key.value().to_owned(), value.value()))
            .collect()
    }

    fn acme_alone() -> Vec<(String, u32)> {
        vec![("acme".to_owned(), 7)]
    }

    fn adds(transaction: &WriteTransaction) -> Result<(), Fault> {
        transaction.open_table(TENANTS)?.insert("migrated", 1)?;
        Ok(())
    }

    fn must_not_run(_: &WriteTransaction) -> Result<(), Fault> {
        Err(corrupt("this step must not run"))
    }

    fn breaks_after_a_write(transaction: &WriteTransaction) -> Result<(), Fault> {
        transaction.open_table(TENANTS)?.insert("half", 1)?;
        Err(corrupt("broken"))
    }

    #[test]
    fn our_own_schema_is_opened_and_a_newer_one_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path(), SCHEMA);
        drop(open_with(STEPS, &path).unwrap());
        let newer = file_of(dir.path(), SCHEMA + 1);
        let refused = open_with(STEPS, &newer);
        assert!(
            matches!(refused, Err(LedgerError::Schema { found, known, .. }) if found == known + 1),
            "{:?}",
            refused.err()
        );
        let database = storage::file(&newer).unwrap();
        assert_eq!((schema(&database).unwrap(), tenants(&database)), (Some(SCHEMA + 1), acme_alone()));
        assert!(!dir.path().join("ledger.redb.v3").exists() && !dir.path().join("ledger.redb.v2").exists());
    }

    #[test]
    fn a_new_file_has_our_schema_and_every_table_and_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let database = open_with(STEPS, &dir.path().join("ledger.redb")).unwrap();
        assert_eq!(schema(&database).unwrap(), Some(SCHEMA));
        assert_eq!(names(&database.begin_read().unwrap()).unwrap().len(), TABLE_NAMES.len());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn keys_whose_indices_are_missing_both_or_either_are_indexed_when_the_ledger_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path(), SCHEMA);
        let made_by = Some(MadeBy { name: Digest::of(b"one"), request: Digest::of(b"request") });
        let key = KeyRow { made_by, ..suite::key_row("aaaaaaaaaaaa", "acme") };
        let database = storage::file(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut keys = transaction.open_table(KEYS).unwrap();
            keys.insert("aaaaaaaaaaaa", encoded(&key).unwrap().as_slice()).unwrap();
            keys.insert("bbbbbbbbbbbb", &b"damaged"[..]).unwrap();
        }
        transaction.commit().unwrap();
        drop(database);
        for gone in [&[][..], &["tenant_keys"], &["key_requests"], &["tenant_keys", "key_requests"], &[]] {
            let database = storage::file(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            for name in gone {
                let table = transaction.list_tables().unwrap().find(|table| table.name() == *name).unwrap();
                assert!(transaction.delete_table(table).unwrap());
            }
            transaction.commit().unwrap();
            drop(database);
            let database = open_with(STEPS, &path).unwrap();
            let snapshot = database.begin_read().unwrap();
            let own = snapshot.open_table(TENANT_KEYS).unwrap();
            let own: Vec<_> = own.iter().unwrap().map(|row| row.unwrap().0.value().1.to_owned()).collect();
            assert_eq!(own, ["aaaaaaaaaaaa"], "without {gone:?}");
            let requests = snapshot.open_table(KEY_REQUESTS).unwrap();
            let known = requests.get(Digest::of(b"one").as_bytes()).unwrap();
            assert_eq!(known.expect("the request").value(), "aaaaaaaaaaaa", "without {gone:?}");
        }
    }

    #[test]
    fn an_older_schema_runs_the_steps_that_are_missing_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let database = open_with(&[must_not_run, adds], &file_of(dir.path(), 2)).unwrap();
        assert_eq!(schema(&database).unwrap(), Some(3));
        assert_eq!(tenants(&database), [("acme".to_owned(), 7), ("migrated".to_owned(), 1)]);
    }

    #[test]
    fn the_file_before_the_first_step_is_kept_and_an_older_gateway_opens_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path(), 1);
        drop(open_with(&[adds], &path).unwrap());
        let kept = dir.path().join("ledger.redb.v1");
        let old = open_with(&[], &kept).unwrap();
        assert_eq!((schema(&old).unwrap(), tenants(&old)), (Some(1), acme_alone()));
        // Opened a second time, nothing is copied again.
        drop(old);
        std::fs::remove_file(&kept).unwrap();
        drop(open_with(&[adds], &path).unwrap());
        assert!(!kept.exists());
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_usable_at_the_schema_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path(), 1);
        assert!(open_with(&[breaks_after_a_write], &path).is_err());
        let old = open_with(&[], &path).unwrap();
        assert_eq!((schema(&old).unwrap(), tenants(&old)), (Some(1), acme_alone()));
        drop(old);
        // After the first of two steps it stands between them, and goes on from there.
        assert!(open_with(&[adds, breaks_after_a_write], &path).is_err());
        let database = open_with(&[must_not_run, adds], &path).unwrap();
        assert_eq!(schema(&database).unwrap(), Some(3));
    }

    #[test]
    fn without_room_for_the_copy_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path(), 1);
        // A folder of that name can't be written as a file: it stands for every reason why the copy fails.
        std::fs::create_dir(dir.path().join("ledger.redb.v1.tmp")).unwrap();
        let refused = open_with(&[adds], &path);
        assert!(matches!(refused, Err(LedgerError::Unavailable { .. })), "{:?}", refused.err());
        let old = open_with(&[], &path).unwrap();
        assert_eq!((schema(&old).unwrap(), tenants(&old)), (Some(1), acme_alone()));
    }

    #[test]
    fn schema_2_takes_deleted_jobs_out_of_the_history_and_counts_them_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path(), 1);
        let database = storage::file(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut ended = transaction.open_table(ENDED).unwrap();
            for (scope, place, shown) in
                [("a", 0, true), ("a", 1, false), ("a", 2, false), ("a", 3, true), ("b", 0, true)]
            {
                ended.insert((scope, place), (u128::from(place), shown)).unwrap();
            }
            let mut scopes = transaction.open_table(SCOPES).unwrap();
            for (scope, ended) in [("a", 4), ("b", 1)] {
                let row = format!("{{\"next_number\":9,\"next_place\":4,\"ended\":{ended}}}");
                scopes.insert(scope, row.as_bytes()).unwrap();
            }
        }
        transaction.commit().unwrap();
        drop(database);
        let database = open_with(STEPS, &path).unwrap();
        let snapshot = database.begin_read().unwrap();
        let places = |scope: &str| {
            let all = (scope, 0)..=(scope, u64::MAX);
            let ended = snapshot.open_table(ENDED).unwrap();
            let ended: Vec<u64> = ended.range(all.clone()).unwrap().map(|entry| entry.unwrap().0.value().1).collect();
            let cancelled = snapshot.open_table(CANCELLED).unwrap();
            let cancelled: Vec<u64> = cancelled.range(all).unwrap().map(|entry| entry.unwrap().0.value().1).collect();
            let counters: ScopeRow = row(&snapshot.open_table(SCOPES).unwrap(), scope).unwrap().unwrap();
            (ended, cancelled, counters.ended, counters.cancelled, counters.next_number)
        };
        assert_eq!(places("a"), (vec![0, 3], vec![1, 2], 2, 2, 9));
        assert_eq!(places("b"), (vec![0], vec![], 1, 0, 9));
    }
}
