//! The tables, their keys and rows.
//!
//! Rows are JSON: readable when something is wrong, and new fields come with serde defaults. Keys are tuples, each part compared by itself, so
//! that no two scopes, names or folders run into each other. UUIDs are `u128`, big-endian, which keeps version 7 in order of time.

use super::storage::Fault;
use crate::budget::Charge;
use crate::record::ledger::{Job, LedgerError};
use ::redb::{
    Key, MultimapTableHandle, ReadTransaction, ReadableTable, Table, TableDefinition, TableError, TableHandle, Value,
    WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
#[cfg(test)]
use std::collections::{BTreeMap, BTreeSet};

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

        /// Every table by its name in the file.
        pub(super) const TABLE_NAMES: &[&str] = &[$($name),*];

        /// Copies every table of a snapshot into another file. INVARIANT: whatever this file lacks is refused by [`unknown_table`] before, so that
        /// a copy is the whole ledger.
        pub(super) fn copy_all(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), Fault> {
            $(copy(from, to, $constant)?;)*
            Ok(())
        }

        /// Every row of every table, as its bytes stand in the file.
        #[cfg(test)]
        pub(super) fn raw(snapshot: &ReadTransaction) -> Result<BTreeMap<&'static str, BTreeSet<Vec<u8>>>, Fault> {
            Ok([$(($name, raw_rows(snapshot, $constant)?)),*].into())
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
    /// Scope, place → job and `true`, of those that have ended and have a history entry.
    ENDED ended: "ended", (&'static str, u64) => (u128, bool);
    /// Scope, place → job, of those that were deleted before they ran: they stand in no history, and push nothing out of it.
    CANCELLED cancelled: "cancelled", (&'static str, u64) => u128;
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
    /// Tenant, key id: every row of those.
    TENANT_KEYS tenant_keys: "tenant_keys", (&'static str, &'static str) => ();
    /// Digest of an `Idempotency-Key` → the key that its request made.
    KEY_REQUESTS key_requests: "key_requests", &'static [u8; 32] => &'static str;
    /// Tenant → `CreatedTenant`, of those that tokens made.
    CREATED_TENANTS created_tenants: "created_tenants", &'static str => &'static [u8];
    /// Session → `SessionRow`.
    SESSIONS sessions: "sessions", u128 => &'static [u8];
    /// Scope, when it was made in milliseconds, session.
    OWNER_SESSIONS owner_sessions: "owner_sessions", (&'static str, u64, u128) => ();
    /// Login name in lower case → `UserRow`.
    USERS users: "users", &'static str => &'static [u8];
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
    /// Order of coming → `RefusalRow`.
    REFUSALS refusals: "refusals", u64 => &'static [u8];
    /// Tenant, order of coming, of those rows.
    TENANT_REFUSALS tenant_refusals: "tenant_refusals", (&'static str, u64) => ();
    /// Request → order of coming.
    REFUSED_REQUESTS refused_requests: "refused_requests", u128 => u64;
    /// Order of coming → the canonical submission, of the newest.
    REFUSED_GRAPHS refused_graphs: "refused_graphs", u64 => &'static [u8];
    /// Day, tenant or scope → milliseconds used and set aside: what budgets are held against. A job counts on the day of its acceptance.
    BUDGETS budgets: "budgets", (u32, &'static str) => (u64, u64);
    /// Day, scope, model → milliseconds charged, and for how many jobs.
    USAGE usage: "usage", (u32, &'static str, &'static str) => (u64, u64);
    /// Day, scope, submission → milliseconds charged, for how many jobs, and their model.
    WORKFLOW_USAGE workflow_usage: "workflow_usage", (u32, &'static str, &'static str) => (u64, u64, &'static str);
    /// Day, tenant → how many rows it has in either of those.
    USAGE_ROWS usage_rows: "usage_rows", (u32, &'static str) => (u32, u32);
    /// `estimates` → what was learned of jobs' lengths; `estimates.damaged`, a row of it that could not be read.
    LEARNED learned: "learned", &'static str => &'static [u8];
    /// Tenant, class, time, file or job → bytes, and what it is: what retention goes by (see `keeping`).
    KEPT kept: "kept", (&'static str, u8, u64, u128) => (u64, u8);
    /// Tenant → bytes of all its results.
    RESULT_BYTES result_bytes: "result_bytes", &'static str => u64;
    /// Content, how, by which file or job: every row that names a content.
    NAMED_BY named_by: "named_by", (&'static [u8; 32], u8, u128) => ();
    /// Store, since when, content: what no row names any more.
    DOOMED doomed: "doomed", (u8, u64, &'static [u8; 32]) => ();
    /// Store, content → since when, of the same.
    DOOMED_SINCE doomed_since: "doomed_since", (u8, &'static [u8; 32]) => u64;
    /// Job → `DeadLetter`, of those that were given up.
    DEAD_LETTERS dead_letters: "dead_letters", u128 => &'static [u8];
    /// Class → `BanRow`.
    BANNED_CLASSES banned_classes: "banned_classes", &'static str => &'static [u8];
    /// `backend` or `tenant`, id → `HaltRow`.
    HALTS halts: "halts", (&'static str, &'static str) => &'static [u8];
    /// Tenant → `ManagedTenant`, of those that the control API made.
    MANAGED_TENANTS managed_tenants: "managed_tenants", &'static str => &'static [u8];
    /// Tenant → `ErasureRow`, of those whose things are being erased.
    ERASURES erasures: "erasures", &'static str => &'static [u8];
    /// Tenant that was deleted → when, in milliseconds.
    TOMBSTONES tombstones: "tombstones", &'static str => u64;
    /// `schema` (see `migration`), `next_sequence`, `probe`.
    META meta: "meta", &'static str => u64;
}

/// A job as stored, with what is only ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct JobRow {
    pub(super) job: Job,
    /// What is set aside for it until its end.
    #[serde(default)]
    pub(super) reserved: Charge,
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
    /// How many ended jobs are remembered that have a history entry.
    pub(super) ended: u64,
    /// And how many that have none.
    #[serde(default)]
    pub(super) cancelled: u64,
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

/// Reads every JSON row of a table, by its key.
pub(super) fn rows<K, T>(
    snapshot: &ReadTransaction,
    table: TableDefinition<'_, K, &'static [u8]>,
) -> Result<Vec<T>, Fault>
where
    K: Key + 'static,
    T: DeserializeOwned,
{
    snapshot.open_table(table)?.iter()?.map(|entry| decoded(entry?.1.value())).collect()
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

/// Names of the snapshot's tables.
pub(super) fn names(snapshot: &ReadTransaction) -> Result<Vec<String>, Fault> {
    let plain = snapshot.list_tables()?.map(|table| table.name().to_owned()).collect::<Vec<_>>();
    let multiple = snapshot.list_multimap_tables()?.map(|table| table.name().to_owned());
    Ok(plain.into_iter().chain(multiple).collect())
}

/// A table of the snapshot that does not stand above, if there is one.
pub(super) fn unknown_table(snapshot: &ReadTransaction) -> Result<Option<String>, Fault> {
    Ok(names(snapshot)?.into_iter().find(|name| !TABLE_NAMES.contains(&name.as_str())))
}

#[cfg(test)]
fn raw_rows<K: Key + 'static, V: Value + 'static>(
    snapshot: &ReadTransaction,
    table: TableDefinition<'static, K, V>,
) -> Result<BTreeSet<Vec<u8>>, Fault> {
    let mut rows = BTreeSet::new();
    for row in snapshot.open_table(table)?.iter()? {
        let (key, value) = row?;
        let mut bytes = K::as_bytes(&key.value()).as_ref().to_vec();
        bytes.extend_from_slice(V::as_bytes(&value.value()).as_ref());
        rows.insert(bytes);
    }
    Ok(rows)
}

fn copy<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<'static, K, V>,
) -> Result<(), Fault> {
    let mut copied = to.open_table(table).map_err(|error| uncopied(&error))?;
    let rows = match from.open_table(table) {
        Ok(rows) => rows,
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for row in rows.iter()? {
        let (key, value) = row?;
        copied.insert(key.value(), value.value()).map_err(|error| uncopied(&error))?;
    }
    Ok(())
}

/// The copy can't be written. Not [`Fault::Store`]: that would be the ledger's own storage, which is well.
pub(super) fn uncopied(error: &dyn std::fmt::Display) -> Fault {
    Fault::Refused(LedgerError::Unavailable { action: "write a copy", reason: error.to_string() })
}
