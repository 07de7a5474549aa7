//! The tables, their keys and rows, and the schema's version.
//!
//! Rows are JSON: readable when something is wrong, and new fields come with serde defaults. Keys are tuples, each part compared by itself, so
//! that no two scopes, names or folders run into each other. UUIDs are `u128`, big-endian, which keeps version 7 in order of time.

use super::storage::Fault;
use crate::record::ledger::{Job, LedgerError};
use ::redb::{Database, Key, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::path::Path;

/// Step `i` leads from schema `i + 1` to `i + 2` (ours is one more than there are steps), in the transaction that raises the number.
const MIGRATIONS: &[Migration] = &[];

/// The newest schema that this binary knows, and the one that it writes.
pub(super) const SCHEMA: u64 = MIGRATIONS.len() as u64 + 1;

type Migration = fn(&WriteTransaction) -> Result<(), Fault>;

macro_rules! tables {
    ($($(#[$doc:meta])* $constant:ident $field:ident: $name:literal, $key:ty => $value:ty;)*) => {
        $($(#[$doc])* pub(super) const $constant: TableDefinition<'static, $key, $value> = TableDefinition::new($name);)*

        /// Every table, open in one write transaction.
        pub(super) struct Tables<'t> {
            $($(#[$doc])* pub(super) $field: Table<'t, $key, $value>,)*
        }

        impl<'t> Tables<'t> {
            /// Opens all, making those that are missing.
            pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, Fault> {
                Ok(Self { $($field: transaction.open_table($constant)?,)* })
            }
        }
    };
}

tables! {
    /// Job → [`JobRow`].
    JOBS jobs: "jobs", u128 => &'static [u8];
    /// Sequence → job, of those that have not ended.
    ACTIVE active: "active", u64 => u128;
    /// Scope, number → job, of those that have not ended.
    QUEUES queues: "queues", (&'static str, u64) => u128;
    /// Scope, place → job and whether it has a history entry, of those that have ended.
    ENDED ended: "ended", (&'static str, u64) => (u128, bool);
    /// Scope, label → job.
    PROMPT_IDS prompt_ids: "prompt_ids", (&'static str, &'static str) => u128;
    /// Scope, idempotency key → job.
    IDEMPOTENCY idempotency: "idempotency", (&'static str, &'static str) => u128;
    /// Job → `JobResult`.
    RESULTS results: "results", u128 => &'static [u8];
    /// File → `FileRow`.
    FILES files: "files", u128 => &'static [u8];
    /// Scope, directory, subfolder, filename → file.
    NAMES names: "names", (&'static str, &'static str, &'static str, &'static str) => u128;
    /// Scope, directory, subfolder, prefix → next number of a shown name.
    COUNTERS counters: "counters", (&'static str, &'static str, &'static str, &'static str) => u64;
    /// Scope → [`ScopeRow`].
    SCOPES scopes: "scopes", &'static str => &'static [u8];
    /// Scope → `OwnerSecrets`.
    SECRETS secrets: "secrets", &'static str => &'static [u8];
    /// Tenant → how many of its jobs have not ended.
    TENANTS tenants: "tenants", &'static str => u32;
    /// Backend → sid of our socket there.
    UPSTREAM_CLIENTS upstream_clients: "upstream_clients", &'static str => u128;
    /// Job that has not ended → the files it pinned, if any.
    PINS pins: "pins", u128 => &'static [u8];
    /// Tenant → bytes of all its uploads.
    UPLOADED uploaded: "uploaded", &'static str => u64;
    /// Key id → `KeyRow`.
    KEYS keys: "keys", &'static str => &'static [u8];
    /// Session → `SessionRow`.
    SESSIONS sessions: "sessions", u128 => &'static [u8];
    /// Scope, when it was made in milliseconds, session.
    OWNER_SESSIONS owner_sessions: "owner_sessions", (&'static str, u64, u128) => ();
    /// `id` → this gateway's `InstanceId`.
    INSTANCE instance: "instance", &'static str => u128;
    /// Scope, path → `UserFile`.
    USER_FILES user_files: "user_files", (&'static str, &'static str) => &'static [u8];
    /// Scope, path → content of that file.
    USER_CONTENTS user_contents: "user_contents", (&'static str, &'static str) => &'static [u8];
    /// Scope, or tenant (which has no `/`) → how many files it keeps, and how many bytes.
    USER_USAGE user_usage: "user_usage", &'static str => (u64, u64);
    /// Scope, place, path → `Adopted`.
    ADOPTED adopted: "adopted", (&'static str, &'static str, &'static str) => &'static [u8];
    /// `schema`, `next_sequence`, `probe`.
    META meta: "meta", &'static str => u64;
}

/// A job as stored, with what is only ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct JobRow {
    pub(super) job: Job,
    /// Under which it was submitted; freed when the job is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) idempotency_key: Option<String>,
    /// Its place among the ended jobs of its scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<u64>,
}

/// The counters of a scope.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct ScopeRow {
    /// `number` of the next job.
    pub(super) next_number: u64,
    /// Place of the next job that ends.
    pub(super) next_place: u64,
    /// How many ended jobs are remembered.
    pub(super) ended: u64,
}

/// Reads a JSON row. One that can't be read refuses this caller only: what it holds is not the neighbours' fault.
pub(super) fn row<'k, K, T>(
    table: &impl ReadableTable<K, &'static [u8]>,
    key: impl Borrow<K::SelfType<'k>>,
) -> Result<Option<T>, Fault>
where
    K: Key + 'static,
    T: DeserializeOwned,
{
    match table.get(key)? {
        Some(bytes) => Ok(Some(decoded(bytes.value())?)),
        None => Ok(None),
    }
}

/// Reads one JSON value.
pub(super) fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(&error.to_string()))
}

/// Writes one JSON value.
pub(super) fn encoded(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(|error| corrupt(&error.to_string()))
}

/// A row that is not what it must be.
pub(super) fn corrupt(reason: &str) -> Fault {
    Fault::Refused(LedgerError::Unavailable { action: "read a row", reason: reason.to_owned() })
}

/// Makes the tables, checks the schema and migrates to ours.
pub(super) fn prepare(database: &Database, path: &Path) -> Result<(), LedgerError> {
    migrate(database, path, MIGRATIONS).map_err(|fault| fault.told("prepare its tables"))
}

fn migrate(database: &Database, path: &Path, migrations: &[Migration]) -> Result<(), Fault> {
    let known = migrations.len() as u64 + 1;
    let found = schema(database)?;
    match found {
        Some(found) if found > known => {
            return Err(Fault::Refused(LedgerError::Schema { path: path.display().to_string(), found, known }));
        }
        Some(found) if found == known => return Ok(()),
        _ => {}
    }
    let transaction = database.begin_write()?;
    // A new file begins at the newest schema: there is nothing to migrate.
    let from = found.unwrap_or(known);
    for step in migrations.iter().skip(usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX)) {
        step(&transaction)?;
    }
    let mut tables = Tables::open(&transaction)?;
    tables.meta.insert("schema", known)?;
    drop(tables);
    Ok(transaction.commit()?)
}

/// The schema of the file; `None` for a new one.
fn schema(database: &Database) -> Result<Option<u64>, Fault> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get("schema")?.map(|found| found.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::redb::backends::InMemoryBackend;

    fn database_of_schema(found: u64) -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        prepare(&database, Path::new("x")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("schema", found).unwrap();
        transaction.commit().unwrap();
        database
    }

    #[test]
    fn our_own_schema_is_opened_and_a_newer_one_refused() {
        assert!(prepare(&database_of_schema(SCHEMA), Path::new("x")).is_ok());
        let refused = prepare(&database_of_schema(SCHEMA + 1), Path::new("x"));
        assert!(matches!(refused, Err(LedgerError::Schema { found, known, .. }) if found == known + 1));
    }

    #[test]
    fn an_older_schema_runs_the_steps_that_are_missing_and_no_other() {
        fn wrong(_: &WriteTransaction) -> Result<(), Fault> {
            Err(corrupt("this step was done already"))
        }
        fn right(transaction: &WriteTransaction) -> Result<(), Fault> {
            transaction.open_table(TENANTS)?.insert("migrated", 1)?;
            Ok(())
        }
        let database = database_of_schema(2);
        assert!(migrate(&database, Path::new("x"), &[wrong, right]).is_ok());
        assert_eq!(schema(&database).unwrap(), Some(3));
        let tenants = database.begin_read().unwrap().open_table(TENANTS).unwrap();
        assert_eq!(tenants.get("migrated").unwrap().unwrap().value(), 1);
        assert!(migrate(&database_of_schema(1), Path::new("x"), &[wrong, right]).is_err());
    }
}
