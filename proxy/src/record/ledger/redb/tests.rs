//! The common suite on redb, and what only a file can do wrong.

use super::*;
use crate::record::ledger::Approval;
use crate::record::ledger::model::Walk;
use crate::record::ledger::suite;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

fn ledger(dir: &Path) -> RedbLedger {
    RedbLedger::open(dir, RedbOptions::default()).unwrap()
}

on_redb!(
    RedbOptions::default();
    repeats_are_recognised_and_other_submissions_refused,
    a_tenant_has_no_more_active_jobs_than_it_may,
    what_is_anothers_is_not_there,
    exactly_one_attempt_is_committed,
    an_attempt_is_noted_as_sent_once_and_only_while_it_is_the_current_one,
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
    a_name_as_it_is_is_taken_over_and_the_older_file_stays_under_its_id,
    a_number_passes_over_a_name_that_stands_as_it_is,
    files_of_one_group_share_a_number_and_those_of_two_do_not,
    each_prefix_folder_directory_and_scope_has_numbers_of_its_own,
    userdata_is_its_scopes_alone,
    a_user_file_is_replaced_only_if_that_is_asked_for,
    no_user_file_is_a_folder_at_once,
    userdata_has_room_for_so_many_bytes_of_a_tenant,
    settings_are_merged_and_a_damaged_file_holds_none,
    settings_are_at_most_a_mebibyte,
    jobs_are_listed_by_number_without_those_that_were_deleted,
    names_are_paged_in_their_order_within_scope_and_directory,
    a_content_that_is_not_stored_makes_no_file,
);
on_redb!(
    RedbOptions { ended_jobs_max: 2, ..RedbOptions::default() };
    beyond_the_most_ended_jobs_the_oldest_is_forgotten,
    a_forgotten_job_makes_room_for_another_ended_one,
    deleted_jobs_push_no_other_out_of_the_history_and_are_no_more_than_it_may_hold,
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

#[tokio::test]
async fn a_refused_transition_leaves_its_neighbours_of_the_same_batch() {
    let dir = tempfile::tempdir().unwrap();
    let before = ledger(dir.path());
    let (p, q, r) = (
        suite::accepted(&before, "a", "p").await,
        suite::accepted(&before, "a", "q").await,
        suite::accepted(&before, "b", "r").await,
    );
    let attempt = suite::assigned(&before, &r).await;
    let (backend, key) = ("gpu0".parse().unwrap(), suite::key_row("aaaaaaaaaaaa", "a"));

    // The writer is kept busy until all of them wait, so that one transaction takes them.
    let (entered, is_busy) = tokio::sync::oneshot::channel();
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    let busy = before.write("wait", move |_| {
        entered.send(()).unwrap();
        let _ = waits.recv();
        Ok(())
    });
    let storage = Arc::clone(&before.storage);
    let batch = async {
        is_busy.await.unwrap();
        tokio::join!(
            biased;
            before.assign(p.id, p.version, &backend, WallMillis(2)),
            before.assign(p.id, p.version, &backend, WallMillis(2)),
            before.end_held(q.id, q.version, Outcome::Succeeded, None, WallMillis(3)),
            before.commit(attempt, Outcome::Succeeded, JobResult::default(), vec![suite::image(1, "/9")], WallMillis(3)),
            before.end_held(q.id, q.version, Outcome::Failed, None, WallMillis(3)),
            before.insert_key(key.clone()),
            before.insert_key(key.clone()),
            // What is committed while the last of them runs: nothing of theirs.
            before.write("look", move |_| storage.read(readings::active_jobs)),
            async { go_on.send(()).unwrap() },
        )
    };
    let (done, batch) = tokio::join!(busy, batch);
    done.unwrap();
    let (assigned, stale, succeeded, misplaced, failed, stored, taken, seen, ()) = batch;
    let (assigned, failed) = (assigned.unwrap(), failed.unwrap());
    stored.unwrap();
    assert!(matches!(stale, Err(LedgerError::Stale { .. })), "{stale:?}");
    assert!(matches!(succeeded, Err(LedgerError::WrongState { .. })), "{succeeded:?}");
    assert!(matches!(misplaced, Err(LedgerError::NotFound { .. })), "{misplaced:?}");
    assert!(matches!(taken, Err(LedgerError::Conflict { .. })), "{taken:?}");
    assert_eq!(seen.unwrap().iter().map(|job| job.version).collect::<Vec<_>>(), [0, 0, 1], "several transactions");
    drop(before);

    let after = ledger(dir.path());
    let active = after.active_jobs().await.unwrap();
    assert_eq!(active.iter().map(|job| (job.id, job.version)).collect::<Vec<_>>(), [(p.id, 1), (r.id, 1)]);
    assert_eq!(active[0], assigned);
    assert_eq!(after.owned_prompt(&q.owner.scope(), &q.prompt_id).await.unwrap().job(), &failed);
    assert_eq!(after.keys().await.unwrap(), [key]);
    // The refused commit drew a number, which is free again.
    let files = vec![suite::image(1, "/9/images/0")];
    let kept = after.commit(attempt, Outcome::Succeeded, suite::two_images(), files, WallMillis(4)).await.unwrap();
    assert_eq!(kept.1.outputs["9"]["images"][0]["filename"], "ComfyUI_00001_.png");
}

#[tokio::test]
async fn an_altered_graph_is_not_read_and_a_missing_one_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let job = suite::accepted(&ledger, "a", "p").await;
    let path = durable::sharded(&dir.path().join("graphs"), &job.submission.to_string());
    assert_eq!(ledger.graph(&job.submission).await.unwrap(), "{}");
    for altered in ["[]", "{", ""] {
        std::fs::write(&path, altered).unwrap();
        let read = ledger.graph(&job.submission).await;
        assert!(matches!(read, Err(LedgerError::Damaged { what: "graph" })), "{altered:?}: {read:?}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(ledger.graph(&job.submission).await, Err(LedgerError::NotFound { what: "graph" })));
}

#[tokio::test]
async fn a_graph_under_another_ones_digest_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let forged = Acceptance { graph: Bytes::from_static(b"[]"), ..suite::submission("a", "p", "{}") };
    let refused = ledger.accept(forged.clone()).await;
    assert!(matches!(refused, Err(LedgerError::Unavailable { .. })), "{refused:?}");
    assert!(ledger.active_jobs().await.unwrap().is_empty());
    assert!(matches!(ledger.graph(&forged.submission).await, Err(LedgerError::NotFound { .. })));
}

#[tokio::test]
async fn on_random_walks_with_restarts_the_ledger_does_what_a_simple_model_does() {
    let options = RedbOptions { ended_jobs_max: 4, ..RedbOptions::default() };
    let mut seen = BTreeSet::new();
    for seed in 0..3 {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::new(::redb::backends::InMemoryBackend::new()));
        let mut walk = Walk::new(seed, 4);
        for _ in 0..4 {
            let ledger =
                RedbLedger::open_on(dir.path(), Arc::clone(&disk) as Arc<dyn StorageBackend>, options).unwrap();
            walk.compare(&ledger).await;
            for step in 0..300 {
                walk.step(&ledger).await;
                if step % 12 == 0 {
                    walk.compare(&ledger).await;
                }
            }
            walk.compare(&ledger).await;
        }
        seen.extend(walk.seen);
    }
    // Each transition was done and refused for each of its reasons: a walk that only meets refusals shows nothing.
    assert_eq!(seen.len(), 26, "{seen:?}");
}

/// Everything below `dir`, itself included, with its rights.
fn modes(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    let mut found = vec![(dir.to_owned(), mode(dir))];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(modes(&path)) } else { found.push((path.clone(), mode(&path))) }
    }
    found
}

#[tokio::test]
async fn only_our_own_user_enters_the_directories_and_reads_the_files() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("not/there/yet");
    suite::accepted(&ledger(&dir), "a", "p").await;
    let modes = modes(&dir);
    // The state directory with the rows, `credentials` with its `tmp`, `graphs` with its own, a shard and the graph in it.
    assert_eq!(modes.len(), 8, "{modes:?}");
    for (path, mode) in modes {
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
}

#[tokio::test]
async fn rights_that_others_have_are_taken_away_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(ledger(dir.path()));
    let wide = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for (path, mode) in modes(dir.path()) {
        wide(&path, mode | mode >> 3 | mode >> 6);
    }
    drop(ledger(dir.path()));
    for (path, mode) in modes(dir.path()) {
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
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

/// A disk without a free block while the flag is up: what is there can be written over, nothing can grow.
#[derive(Debug)]
struct CantGrow(::redb::backends::InMemoryBackend, Arc<AtomicBool>);

impl StorageBackend for CantGrow {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) && len > self.0.len()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

#[tokio::test]
async fn a_ledger_that_can_t_grow_is_read_also_where_nothing_is_cached() {
    let (dir, full) = (tempfile::tempdir().unwrap(), Arc::new(AtomicBool::new(false)));
    let backend = CantGrow(::redb::backends::InMemoryBackend::new(), Arc::clone(&full));
    let options = RedbOptions { cache_bytes: 0, ..RedbOptions::default() };
    let ledger = RedbLedger::open_on(dir.path(), Arc::new(backend), options).unwrap();
    full.store(true, Ordering::SeqCst);
    let mut accepted = 0;
    let refused = loop {
        // Long rows, so that it is soon full.
        let approval = Approval::of_nodes(&[&"n".repeat(50_000)]);
        let named = Acceptance { active_jobs_max: u32::MAX, approval, ..suite::submission("a", "p", "{}") };
        match ledger.accept(Acceptance { prompt_id: None, ..named }).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 50_000, "it grew");
    };
    assert!(matches!(refused, LedgerError::Unavailable { .. }), "{refused:?}");
    for _ in 0..3 {
        assert_eq!(ledger.active_jobs().await.unwrap().len(), accepted);
    }
    full.store(false, Ordering::SeqCst);
    let _ = ledger.probe().await;
    suite::accepted(&ledger, "b", "with-room").await;
    assert_eq!(ledger.active_jobs().await.unwrap().len(), accepted + 1);
}
