//! The common suite on redb, and what only a file can do wrong.

use super::*;
use crate::record::ledger::suite;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

fn ledger(dir: &Path) -> RedbLedger {
    RedbLedger::open(dir, RedbOptions::default()).unwrap()
}

macro_rules! on_redb {
    ($options:expr; $($test:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $test() {
            let dir = tempfile::tempdir().unwrap();
            suite::$test(&RedbLedger::open(dir.path(), $options).unwrap()).await;
        }
    )*};
}
on_redb!(
    RedbOptions::default();
    repeats_are_recognised_and_other_submissions_refused,
    a_tenant_has_no_more_active_jobs_than_it_may,
    what_is_anothers_is_not_there,
    exactly_one_attempt_is_committed,
    files_are_numbered_as_one_comfyui_would,
    a_pointer_without_file_object_refuses_the_commit_and_leaves_the_job,
    history_keeps_the_order_of_ends_and_knows_no_cancelled_job,
    an_end_is_asked_for_once_of_an_assigned_or_running_job,
    a_held_or_ended_job_is_left_as_it_is_when_its_end_is_asked_for,
    a_held_job_is_interrupted_only_if_its_end_was_asked_for,
    no_held_job_succeeds,
    no_attempt_is_committed_as_cancelled_and_no_ended_or_assigned_job_is_ended_as_held,
    a_key_is_stored_once_under_its_id,
    a_key_is_revoked_once_and_stays_so,
    secrets_are_drawn_once_for_each_scope_and_backend,
);
on_redb!(
    RedbOptions { ended_jobs_max: 2, ..RedbOptions::default() };
    beyond_the_most_ended_jobs_the_oldest_is_forgotten,
    a_forgotten_job_makes_room_for_another_ended_one,
);

#[tokio::test]
async fn a_second_gateway_on_the_same_directory_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let first = ledger(dir.path());
    assert!(matches!(RedbLedger::open(dir.path(), RedbOptions::default()), Err(LedgerError::Held { .. })));
    drop(first);
    ledger(dir.path()).probe().await.unwrap();
}

#[tokio::test]
async fn what_was_drawn_and_revoked_is_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (scope, backend) = (OwnerScope { tenant: "a".parse().unwrap(), user: None }, "gpu0".parse().unwrap());
    let before = ledger(dir.path());
    let secrets = before.owner_secrets(&scope).await.unwrap();
    let client = before.upstream_client(&backend).await.unwrap();
    let key = suite::key_row("aaaaaaaaaaaa", "a");
    before.insert_key(key.clone()).await.unwrap();
    let revoked = before.revoke_key(&key.id, WallMillis(5)).await.unwrap();
    drop(before);

    let after = ledger(dir.path());
    assert!(after.owner_secrets(&scope).await.unwrap() == secrets, "the secrets were drawn anew");
    assert_eq!(after.upstream_client(&backend).await.unwrap(), client);
    assert_eq!(after.keys().await.unwrap(), [revoked]);
    // The folder of an attempt is the one whose name was drawn before.
    let Accepted::New(job) = after.accept(suite::submission("a", "p", "{}")).await.unwrap() else { panic!("not new") };
    let job = after.assign(job.id, job.version, &backend, WallMillis(2)).await.unwrap();
    assert_eq!(job.attempts[0].folder, format!("t/{}/{}-1", secrets.folder, job.id));
}

const CHILD: &str = "COMFYGATE_TEST_LEDGER_OF_THE_CHILD";

#[tokio::test]
async fn a_job_is_there_after_the_process_died_right_after_its_acceptance() {
    if let Some(dir) = std::env::var_os(CHILD) {
        ledger(Path::new(&dir)).accept(suite::submission("a", "p", "{}")).await.unwrap();
        std::process::abort();
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "record::ledger::redb::tests::a_job_is_there_after_the_process_died_right_after_its_acceptance";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let died = child.args(["--exact", name]).env(CHILD, dir.path()).output().unwrap();
    assert!(!died.status.success());
    let jobs = ledger(dir.path()).active_jobs().await.unwrap();
    assert_eq!(jobs.len(), 1, "{}", String::from_utf8_lossy(&died.stderr));
}

/// A disk that is full while the flag is up.
#[derive(Debug)]
struct FullAtTimes(::redb::backends::InMemoryBackend, Arc<AtomicBool>);

impl FullAtTimes {
    fn room(&self) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for FullAtTimes {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room().and_then(|()| self.0.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.room().and_then(|()| self.0.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room().and_then(|()| self.0.write(offset, data))
    }
}

#[tokio::test]
async fn on_a_full_disk_submissions_are_refused_reads_go_on_and_room_mends_it() {
    let (dir, full) = (tempfile::tempdir().unwrap(), Arc::new(AtomicBool::new(false)));
    let backend = FullAtTimes(::redb::backends::InMemoryBackend::new(), Arc::clone(&full));
    let ledger = RedbLedger::open_on(dir.path(), Arc::new(backend), RedbOptions::default()).unwrap();
    ledger.accept(suite::submission("a", "p", "{}")).await.unwrap();
    full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let refused = ledger.accept(suite::submission("a", "q", "{}")).await;
        assert!(matches!(refused, Err(LedgerError::Unavailable { .. })), "{refused:?}");
        assert!(ledger.probe().await.is_err());
        assert_eq!(ledger.active_jobs().await.unwrap().len(), 1);
    }
    full.store(false, Ordering::SeqCst);
    // The first asks for a fresh database, if nothing did before.
    let _ = ledger.probe().await;
    ledger.accept(suite::submission("a", "q", "{}")).await.unwrap();
    assert_eq!(ledger.active_jobs().await.unwrap().len(), 2);
}
