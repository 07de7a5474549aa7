//! The database file: opening, schema, and opening anew after an I/O error.
//!
//! redb answers every call after one I/O error with `PreviousIo`. So the file handle with its lock is kept here, and on such an error a second
//! [`Database`] is opened on it. The first one can't write any more (redb's own latch), so two of them on one file do no harm.

use super::migration;
use crate::record::durable;
use crate::record::ledger::LedgerError;
use ::redb::backends::FileBackend;
use ::redb::{
    BackendError, Database, DatabaseError, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction,
};
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// Page cache while a copy is written or looked through.
const COPY_CACHE_BYTES: usize = 16 << 20;

/// Why a transition or reading did not come to its end.
#[derive(Debug)]
pub(super) enum Fault {
    /// By a rule: this one only, its neighbours in the transaction stand.
    Refused(LedgerError),
    /// The storage failed: the whole transaction falls.
    Store(::redb::Error),
}

impl Fault {
    /// As the caller hears it.
    pub(super) fn told(self, action: &'static str) -> LedgerError {
        match self {
            Self::Refused(error) => error,
            Self::Store(error) => LedgerError::Unavailable { action, reason: error.to_string() },
        }
    }
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Self {
        Self::Refused(error)
    }
}

macro_rules! store_faults {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Store(error.into())
            }
        }
    )*};
}
store_faults!(::redb::StorageError, ::redb::TableError, ::redb::TransactionError, ::redb::CommitError);

/// The database as it stands, replaced after an I/O error.
pub(super) struct Storage {
    cache_bytes: usize,
    /// `None` once it is closed. Read-locked while it is used, so that closing waits for whoever is at it.
    current: RwLock<Option<Current>>,
}

struct Current {
    backend: Arc<dyn StorageBackend>,
    database: Arc<Database>,
}

impl Storage {
    /// Opens the database and brings its schema up to ours.
    pub(super) fn open(path: &Path, backend: Arc<dyn StorageBackend>, cache_bytes: usize) -> Result<Self, LedgerError> {
        let database = migration::open(path, &*backend, || opened(path, &backend, cache_bytes))?;
        Ok(Self { cache_bytes, current: RwLock::new(Some(Current { backend, database: Arc::new(database) })) })
    }

    /// Runs a reading on a snapshot of what was committed last.
    pub(super) fn read<T>(&self, reading: impl FnOnce(&ReadTransaction) -> Result<T, Fault>) -> Result<T, Fault> {
        self.used(|database| database.begin_read().map_err(Fault::from).and_then(|snapshot| reading(&snapshot)))
    }

    /// Runs `work` in one write transaction and syncs it if `work` says so. Only the writer thread calls this.
    pub(super) fn write(&self, work: impl FnOnce(&WriteTransaction) -> Result<bool, Fault>) -> Result<(), Fault> {
        self.used(|database| transact(database, work))
    }

    /// Closes the database and its file, whose lock falls with it. Waits for whoever uses it.
    pub(super) fn close(&self) {
        drop(self.current.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn used<T>(&self, work: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, Fault> {
        let (done, database) = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            let Some(current) = &*current else {
                let reason = "it is closed: another process has it, or will".to_owned();
                return Err(Fault::Refused(LedgerError::Unavailable { action: "use", reason }));
            };
            let done = work(&current.database);
            // Only these two latch redb. After any other error the old one could still write, and must stay the only one.
            if !matches!(done, Err(Fault::Store(::redb::Error::Io(_) | ::redb::Error::PreviousIo))) {
                return done;
            }
            (done, Arc::clone(&current.database))
        };
        self.renew(&database);
        done
    }

    /// After an I/O error: a fresh database for whoever comes next. If even that fails, the old one goes on with what it has cached.
    fn renew(&self, failed: &Arc<Database>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &mut *current
            && Arc::ptr_eq(&current.database, failed)
        {
            match database(&current.backend, self.cache_bytes) {
                Ok(fresh) => current.database = Arc::new(fresh),
                Err(error) => tracing::error!(%error, "the ledger can't be opened anew after an I/O error"),
            }
        }
    }
}

fn transact(database: &Database, work: impl FnOnce(&WriteTransaction) -> Result<bool, Fault>) -> Result<(), Fault> {
    // redb's default durability is `Immediate`: synced when `commit` returns.
    let transaction = database.begin_write()?;
    if work(&transaction)? { Ok(transaction.commit()?) } else { Ok(transaction.abort()?) }
}

/// The file behind the ledger, 0600.
pub(super) fn file_backend(path: &Path) -> Result<FileBackend, LedgerError> {
    let opened =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(durable::FILE_MODE).open(path);
    let file = opened
        .and_then(|file| file.set_permissions(Permissions::from_mode(durable::FILE_MODE)).map(|()| file))
        .map_err(|error| LedgerError::Unavailable { action: "open", reason: error.to_string() })?;
    FileBackend::new(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => held(path),
        other => unavailable(&other),
    })
}

fn database(backend: &Arc<dyn StorageBackend>, cache_bytes: usize) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(cache_bytes).create_with_backend(Kept(Arc::clone(backend)))
}

pub(super) fn opened(
    path: &Path,
    backend: &Arc<dyn StorageBackend>,
    cache_bytes: usize,
) -> Result<Database, LedgerError> {
    database(backend, cache_bytes).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => held(path),
        other => unavailable(&other),
    })
}

/// A file that nobody else writes, such as a copy that is being made: opened, or made, for this call's caller alone.
pub(super) fn file(path: &Path) -> Result<Database, LedgerError> {
    let backend: Arc<dyn StorageBackend> = Arc::new(file_backend(path)?);
    opened(path, &backend, COPY_CACHE_BYTES)
}

fn held(path: &Path) -> LedgerError {
    LedgerError::Held { path: path.parent().unwrap_or(path).display().to_string() }
}

fn unavailable(error: &DatabaseError) -> LedgerError {
    LedgerError::Unavailable { action: "open", reason: error.to_string() }
}

/// A storage that outlives the database on it: close and unlock do nothing, the lock falls when the file itself is closed.
#[derive(Debug)]
struct Kept(Arc<dyn StorageBackend>);

impl StorageBackend for Kept {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }
    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}
