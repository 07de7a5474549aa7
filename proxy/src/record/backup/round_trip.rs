//! From a state directory through a backup to a state directory again, and every way in which that is refused.

use super::archive::Reader;
use super::folder::Folder;
use super::restore::restore;
use super::verify::{Source, verify};
use super::*;
use crate::record::blobs::Blobs;
use crate::record::durable::sharded;
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::record::ledger::{Job, JobResult, Ledger, Outcome, suite};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const NOW: WallMillis = WallMillis(1_700_000_000_000);

/// A state directory with two held jobs, an ended one with a picture, keys, and what is not to be kept.
struct Origin {
    dir: TempDir,
    ledger: RedbLedger,
    held: Vec<Job>,
    picture: Digest,
}

async fn origin() -> Origin {
    let dir = tempfile::tempdir().unwrap();
    let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
    let held = vec![suite::accepted(&ledger, "a", "p").await, suite::accepted(&ledger, "b", "p").await];
    let done = suite::accepted(&ledger, "a", "done").await;
    let attempt = suite::assigned(&ledger, &done).await;
    let mut writer = Blobs::open(dir.path()).unwrap().writer(100).unwrap();
    writer.write(b"a picture").await.unwrap();
    let stored = writer.finish().await.unwrap();
    let (picture, bytes) = (stored.content, stored.bytes);
    let image = crate::record::ledger::NewFile { content: picture, bytes, ..suite::image(1, "/9/images/0") };
    let result = JobResult { outputs: suite::two_images().outputs, ..JobResult::default() };
    ledger.commit(attempt, Outcome::Succeeded, result, vec![image], WallMillis(3)).await.unwrap();
    ledger.insert_key(suite::key_row("aaaaaaaaaaaa", "a")).await.unwrap();
    std::fs::create_dir(dir.path().join("tls")).unwrap();
    for name in ["signing.keys", "tls/ca.key", "a-setting", "tls.old", "comfygate.pid", "ledger.redb.v1", "x.tmp"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    Origin { dir, ledger, held, picture }
}

impl Origin {
    async fn archive(&self) -> (Vec<u8>, Manifest) {
        let rows = make::rows(self.dir.path(), &self.ledger, NOW).await.unwrap();
        let mut bytes = Vec::new();
        let manifest = make::write(self.dir.path(), rows, &mut bytes).unwrap();
        assert!(!self.dir.path().join("backup.tmp").exists(), "the copy of the rows is deleted");
        (bytes, manifest)
    }
}

fn unpacked(archive: &[u8], to: &Path) -> Manifest {
    let mut bytes = archive;
    let reader: &mut dyn Read = &mut bytes;
    verify(&mut Source::Archive(Reader::new(reader)), Some(to), true).unwrap()
}

/// Restores an archive into a fresh directory.
fn restored(archive: &[u8]) -> (TempDir, Result<Manifest, BackupError>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup.tar");
    std::fs::write(&file, archive).unwrap();
    let done = restore(&file, &dir.path().join("state"));
    (dir, done)
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

async fn has_everything(state: &Path, origin: &Origin) {
    let ledger = RedbLedger::open(state, RedbOptions::default()).unwrap();
    assert_eq!(ledger.active_jobs().await.unwrap(), origin.held);
    assert_eq!(ledger.keys().await.unwrap(), origin.ledger.keys().await.unwrap());
    for job in &origin.held {
        assert_eq!(ledger.graph(&job.submission).await.unwrap(), origin.ledger.graph(&job.submission).await.unwrap());
    }
    let scope = origin.held[0].owner.scope();
    let history = ledger.history(&scope, crate::record::ledger::HistoryPage::default()).await.unwrap();
    assert_eq!(history, origin.ledger.history(&scope, crate::record::ledger::HistoryPage::default()).await.unwrap());
    let path = Blobs::open(state).unwrap().path(&origin.picture).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"a picture");
    for name in ["signing.keys", "tls/ca.key", "a-setting", "tls.old"] {
        assert_eq!(std::fs::read_to_string(state.join(name)).unwrap(), name);
        assert_eq!(std::fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    for name in ["comfygate.pid", "ledger.redb.v1", "x.tmp", MANIFEST, "restore.tmp"] {
        assert!(!state.join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn what_is_restored_is_what_was_backed_up_from_a_file_and_from_a_folder() {
    let origin = origin().await;
    let (archive, made) = origin.archive().await;
    assert_eq!((made.absent.len(), made.damaged.len(), made.left_out.len()), (0, 0, 0), "{made:?}");
    assert_eq!((made.made_at, made.format.as_str()), (NOW, FORMAT));
    let (dir, done) = restored(&archive);
    assert_eq!(done.unwrap(), made);
    has_everything(&dir.path().join("state"), &origin).await;

    let folder = tempfile::tempdir().unwrap();
    assert_eq!(unpacked(&archive, folder.path()), made);
    let state = folder.path().join("../").join(format!("{}-state", folder.path().file_name().unwrap().display()));
    assert_eq!(restore(folder.path(), &state).unwrap(), made);
    has_everything(&state, &origin).await;
    std::fs::remove_dir_all(&state).unwrap();
}

#[tokio::test]
async fn a_job_that_is_accepted_while_the_contents_are_written_is_not_in_it() {
    let origin = origin().await;
    let rows = make::rows(origin.dir.path(), &origin.ledger, NOW).await.unwrap();
    // Between the copy of the rows and the contents: what it leaves is more than the rows name.
    suite::accepted(&origin.ledger, "a", "later").await;
    let mut bytes = Vec::new();
    make::write(origin.dir.path(), rows, &mut bytes).unwrap();
    let (dir, done) = restored(&bytes);
    done.unwrap();
    let ledger = RedbLedger::open(&dir.path().join("state"), RedbOptions::default()).unwrap();
    assert_eq!(ledger.active_jobs().await.unwrap(), origin.held);
}

#[tokio::test]
async fn a_flipped_bit_anywhere_refuses_the_backup_and_leaves_nothing() {
    let (archive, _) = origin().await.archive().await;
    let (mut refused, mut padding) = (0, 0);
    // Every byte of a ledger of megabytes would take minutes: a stride that meets heads, names, lengths and contents of all kinds.
    for at in (0..archive.len()).step_by(4099).chain((0..archive.len()).step_by(131_071)) {
        let mut bytes = archive.clone();
        bytes[at] ^= 1;
        let (dir, done) = restored(&bytes);
        if let Err(error) = done {
            assert!(is_empty(&dir.path().join("state")), "byte {at}: {error}");
            refused += 1;
        } else {
            // Fill bytes after an entry mean nothing, and are not restored.
            padding += 1;
        }
    }
    assert!(refused > 100 && padding <= 3, "{refused} refused, {padding} taken");
}

#[tokio::test]
async fn an_archive_cut_off_anywhere_is_refused() {
    let (archive, _) = origin().await.archive().await;
    for length in [0, 511, 512, 700, archive.len() / 2, archive.len() - 513, archive.len() - 1] {
        let (dir, done) = restored(&archive[..length]);
        assert!(matches!(done, Err(BackupError::NotWhole(_))), "{length}: {done:?}");
        assert!(is_empty(&dir.path().join("state")));
    }
}

#[tokio::test]
async fn a_folder_with_a_file_more_or_less_or_altered_or_linked_is_refused() {
    let origin = origin().await;
    let (archive, _) = origin.archive().await;
    let content = sharded(Path::new("blobs"), &origin.picture.to_string());
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change); 7] = [
        ("less", |root, content| std::fs::remove_file(root.join(content)).unwrap()),
        ("more", |root, _| std::fs::write(root.join("more"), "x").unwrap()),
        ("altered", |root, content| std::fs::write(root.join(content), "b picture").unwrap()),
        ("longer", |root, _| std::fs::write(root.join("signing.keys"), "longer keys").unwrap()),
        ("folder", |root, _| std::fs::create_dir(root.join("more")).unwrap()),
        ("linked", |root, _| {
            std::fs::remove_file(root.join("a-setting")).unwrap();
            std::os::unix::fs::symlink("signing.keys", root.join("a-setting")).unwrap();
        }),
        ("no manifest", |root, _| std::fs::remove_file(root.join(MANIFEST)).unwrap()),
    ];
    for (what, change) in changes {
        let outer = tempfile::tempdir().unwrap();
        let (backup, state) = (outer.path().join("backup"), outer.path().join("state"));
        std::fs::create_dir(&backup).unwrap();
        unpacked(&archive, &backup);
        change(&backup, &content);
        let done = restore(&backup, &state);
        assert!(done.is_err() && is_empty(&state), "{what}: {done:?}");
    }
}

#[tokio::test]
async fn a_state_directory_that_is_not_empty_is_left_as_it_is() {
    let (archive, _) = origin().await.archive().await;
    let dir = tempfile::tempdir().unwrap();
    let (file, state) = (dir.path().join("backup.tar"), dir.path().join("state"));
    std::fs::write(&file, archive).unwrap();
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("ledger.redb"), "somebody's").unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(restore(&file, &state), Err(BackupError::NotEmpty { .. })));
    assert_eq!(std::fs::read_to_string(state.join("ledger.redb")).unwrap(), "somebody's");
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o755);
}

#[tokio::test]
async fn contents_that_were_damaged_or_absent_are_told_and_the_rest_is_restored() {
    let origin = origin().await;
    let root = origin.dir.path();
    let picture = sharded(&root.join("blobs"), &origin.picture.to_string());
    std::fs::write(&picture, "rotten").unwrap();
    let graph = origin.held[0].submission;
    std::fs::remove_file(sharded(&root.join("graphs"), &graph.to_string())).unwrap();
    let (archive, made) = origin.archive().await;
    assert_eq!(made.damaged, [EntryName::of_content("blobs", &origin.picture).to_string()]);
    assert_eq!(made.absent, [EntryName::of_content("graphs", &graph).to_string()]);
    let (dir, done) = restored(&archive);
    assert_eq!(done.unwrap(), made);
    let state = dir.path().join("state");
    assert!(Blobs::open(&state).unwrap().path(&origin.picture).is_none());
    let ledger = RedbLedger::open(&state, RedbOptions::default()).unwrap();
    assert_eq!(ledger.active_jobs().await.unwrap(), origin.held);
}

#[tokio::test]
async fn what_is_no_file_of_ours_is_left_out_and_told() {
    let origin = origin().await;
    std::fs::create_dir(origin.dir.path().join("notes")).unwrap();
    std::fs::write(origin.dir.path().join("with space"), "x").unwrap();
    std::fs::write(origin.dir.path().join("oidc.key"), "x").unwrap();
    std::fs::write(origin.dir.path().join("large"), vec![0; (1 << 20) + 1]).unwrap();
    let (archive, made) = origin.archive().await;
    assert_eq!(made.left_out, ["oidc.key", "large", "notes/", "with space"]);
    restored(&archive).1.unwrap();
}

#[tokio::test]
async fn a_backup_of_a_later_form_or_schema_is_refused_with_its_name() {
    let (archive, made) = origin().await.archive().await;
    let folder = tempfile::tempdir().unwrap();
    unpacked(&archive, folder.path());
    let later = Manifest { format: "comfygate-backup-2".into(), ..made };
    std::fs::write(folder.path().join(MANIFEST), serde_json::to_vec(&later).unwrap()).unwrap();
    let mut source = Source::Folder(Folder::open(folder.path()).unwrap());
    let refused = verify(&mut source, None, false);
    assert!(matches!(refused, Err(BackupError::Format { ref found }) if found == "comfygate-backup-2"), "{refused:?}");
}
