//! Runs over a ledger and blobs of their own, with a clock that is turned by hand.

use super::*;
use crate::dispatch::disk::Directories;
use crate::endpoint::BackendEndpoint;
use crate::ids::{FileId, JobId};
use crate::inspect::contents::{ContentFacts, ContentKind};
use crate::owner::{Owner, OwnerScope};
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::record::ledger::uploads::{NewUpload, Uploads};
use crate::record::ledger::{Directory, suite};
use comfygate_policy::Digest;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const HOUR: u64 = 3_600_000;
/// How long ended keys are remembered here.
const KEPT: Duration = Duration::from_secs(24 * 3600);

struct World {
    dir: TempDir,
    ledger: RedbLedger,
    blobs: Blobs,
    backends: Vec<BackendConfig>,
    retention: Retention,
    /// The real time at the start: files have real times.
    start: u64,
}

fn tenant() -> TenantId {
    "a".parse().unwrap()
}

impl World {
    fn new(retention: Retention) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        Self { dir, ledger, blobs, backends: Vec::new(), retention, start }
    }

    /// A backend with directories in this world.
    fn with_backend(mut self) -> Self {
        let folder = |name: &str| {
            let path = self.dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Some(path)
        };
        let directories = Directories { input: folder("input"), output: folder("output"), temp: folder("temp") };
        let endpoint = BackendEndpoint::parse("http://127.0.0.1:1").unwrap();
        self.backends.push(BackendConfig { directories, ..BackendConfig::new("gpu0".parse().unwrap(), endpoint) });
        self
    }

    /// An upload of `a`, so many hours after the start.
    async fn upload(&self, name: &str, content: &[u8], hours: u64) -> FileId {
        let mut writer = self.blobs.writer(1000).unwrap();
        writer.write(content).await.unwrap();
        let stored = writer.finish().await.unwrap();
        let upload = NewUpload {
            id: FileId::new(),
            owner: Owner { tenant: tenant(), user: None, key: None, shared: false },
            content: stored.content,
            bytes: stored.bytes,
            facts: ContentFacts { kind: ContentKind::Png, width: 1, height: 1, frames: 1, seconds: None },
            directory: Directory::Input,
            subfolder: String::new(),
            filename: name.into(),
            overwrite: false,
            storage_bytes_max: 1000,
            at: WallMillis(self.start + hours * HOUR),
        };
        self.ledger.keep_upload(upload).await.unwrap().id
    }

    async fn run_as(&self, wanted: Wanted, at: u64, stopping: &(dyn Fn() -> bool + Sync)) -> Report {
        let parts = Parts {
            ledger: &self.ledger,
            blobs: &self.blobs,
            tenants: vec![(tenant(), self.retention), ("off".parse().unwrap(), Retention::default())],
            backends: &self.backends,
            live: &BTreeMap::new(),
            now: WallMillis(self.start + at),
            grace: GRACE,
            ended_keys_kept: KEPT,
            stopping,
        };
        parts.run(&wanted, Walk::All).await.unwrap()
    }

    async fn run(&self, at: u64) -> Report {
        self.run_as(Wanted::default(), at, &|| false).await
    }

    fn has(&self, content: &[u8]) -> bool {
        self.blobs.path(&Digest::of(content)).is_some()
    }

    fn written(&self, below: &str, hours_ago: u64) -> PathBuf {
        let path = self.dir.path().join(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "12345").unwrap();
        let at = SystemTime::now() - Duration::from_secs(hours_ago * 3600 + 60);
        File::open(&path).unwrap().set_modified(at).unwrap();
        File::open(path.parent().unwrap()).unwrap().set_modified(at).unwrap();
        path
    }
}

fn day() -> Retention {
    Retention { files: Some(Duration::from_secs(24 * 3600)), ..Retention::default() }
}

#[tokio::test]
async fn keys_go_a_while_after_their_end_and_not_with_a_run_for_one_tenant() {
    let world = World::new(Retention::default());
    let key = suite::key_row("aaaaaaaaaaaa", "a");
    world.ledger.insert_key(key.clone()).await.unwrap();
    world.ledger.revoke_key(&key.id, WallMillis(world.start)).await.unwrap();
    assert_eq!(world.run(24 * HOUR).await.keys, 0);
    let of_tenant = Wanted { tenant: Some(tenant()), dry_run: false };
    assert_eq!(world.run_as(of_tenant, 24 * HOUR + 1, &|| false).await.keys, 0);
    let dry = Wanted { tenant: None, dry_run: true };
    assert_eq!(world.run_as(dry, 24 * HOUR + 1, &|| false).await.keys, 0);
    assert_eq!(world.run(24 * HOUR + 1).await.keys, 1);
    assert!(world.ledger.keys().await.unwrap().is_empty());
}

#[tokio::test]
async fn rows_go_by_age_and_their_content_after_the_grace() {
    let world = World::new(day());
    world.upload("a.png", b"one", 0).await;
    world.upload("b.png", b"two", 1).await;
    let dry = world.run_as(Wanted { dry_run: true, tenant: None }, 24 * HOUR + 1, &|| false).await;
    assert_eq!(dry.sum.uploads, Amount { count: 1, bytes: 3 });
    let real = world.run(24 * HOUR + 1).await;
    assert_eq!((real.tenants, real.sum), (dry.tenants, dry.sum), "what was told is what went");
    assert!(world.has(b"one") && world.has(b"two"), "whoever has read the row may still read the content");
    let grace = u64::try_from(GRACE.as_millis()).unwrap();
    assert_eq!(world.run(24 * HOUR + 1 + grace).await.blobs, Amount::default());
    assert_eq!(world.run(24 * HOUR + 2 + grace).await.blobs, Amount { count: 1, bytes: 3 });
    assert!(!world.has(b"one") && world.has(b"two"));
}

#[tokio::test]
async fn nothing_goes_where_nothing_is_set() {
    let world = World::new(Retention::default());
    world.upload("a.png", b"one", 0).await;
    let report = world.run(100_000 * HOUR).await;
    assert_eq!(report, Report { at: report.at, ..Report::default() });
    assert!(world.has(b"one"));
}

#[tokio::test]
async fn a_content_that_no_row_ever_named_is_found_by_its_age_and_one_that_is_being_stored_is_not() {
    let world = World::new(day());
    let mut writer = world.blobs.writer(10).unwrap();
    writer.write(b"lost").await.unwrap();
    let stored = writer.finish().await.unwrap();
    assert_eq!(world.run(HOUR / 2).await.blobs.count, 0, "too young");
    assert_eq!(world.run(2 * HOUR).await.blobs.count, 0, "somebody holds it: its row may come");
    drop(stored);
    assert_eq!(world.run(2 * HOUR).await.blobs, Amount { count: 1, bytes: 4 });
    assert!(!world.has(b"lost"));
}

#[tokio::test]
async fn a_content_that_comes_again_before_it_is_deleted_stays() {
    let world = World::new(day());
    world.upload("a.png", b"one", 0).await;
    world.run(25 * HOUR).await;
    world.upload("b.png", b"one", 25).await;
    assert_eq!(world.run(27 * HOUR).await.blobs.count, 0);
    assert!(world.has(b"one"));
}

#[tokio::test]
async fn a_run_that_is_stopped_says_so_and_the_next_one_does_the_rest() {
    let world = World::new(day());
    let count = crate::record::ledger::keeping::STEP_MAX as u64 + 5;
    for n in 0..count {
        world.upload(&n.to_string(), n.to_string().as_bytes(), 0).await;
    }
    let asked = AtomicU32::new(0);
    let stopping = || asked.fetch_add(1, Ordering::Relaxed) > 0;
    let first = world.run_as(Wanted::default(), 25 * HOUR, &stopping).await;
    assert!(first.unfinished && first.sum.uploads.count < count, "{first:?}");
    let second = world.run(25 * HOUR).await;
    assert_eq!(first.sum.uploads.count + second.sum.uploads.count, count);
    assert!(!second.unfinished);
}

#[tokio::test]
async fn a_tenant_that_is_not_there_is_named() {
    let world = World::new(day());
    let parts = Parts {
        ledger: &world.ledger,
        blobs: &world.blobs,
        tenants: Vec::new(),
        backends: &[],
        live: &BTreeMap::new(),
        now: WallMillis(0),
        grace: GRACE,
        ended_keys_kept: KEPT,
        stopping: &|| false,
    };
    let wanted = Wanted { tenant: Some(tenant()), dry_run: true };
    assert!(parts.run(&wanted, Walk::All).await.unwrap_err().to_string().contains("`a`"));
}

#[tokio::test]
async fn what_attempts_and_pushes_left_on_a_backends_disk_is_swept_by_age() {
    let world = World::new(day()).with_backend();
    let scope = OwnerScope { tenant: tenant(), user: None };
    let folder = world.ledger.owner_secrets(&scope).await.unwrap().folder;
    let known = world.upload("a.png", b"one", 0).await;
    let attempt = suite::assigned(&world.ledger, &suite::accepted(&world.ledger, "a", "p").await).await;
    let over = JobId::new();
    let old = world.written(&format!("output/t/{folder}/{over}-1/a.png"), 2);
    let temporary = world.written(&format!("temp/t/{folder}/{over}-1/a.png"), 2);
    let young = world.written(&format!("output/t/{folder}/{over}-2/a.png"), 0);
    let running = world.written(&format!("output/t/{folder}/{}-{}/a.png", attempt.job, attempt.n), 2);
    let foreign = world.written(&format!("output/t/zzzzzzzzzzzzzzzz/{over}-1/a.png"), 99);
    let of_no_row = world.written(&format!("input/t/{folder}/{}.png", FileId::new()), 2);
    let used_today = world.written(&format!("input/t/{folder}/{known}.png"), 23);
    let report = world.run(0).await;
    assert_eq!(report.backends[0].files, Amount { count: 3, bytes: 15 }, "{report:?}");
    assert_eq!(report.backends[0].error, None);
    assert!([&old, &temporary, &of_no_row].iter().all(|path| !path.exists()));
    assert!([&young, &running, &foreign, &used_today].iter().all(|path| path.exists()));
    world.written(&format!("input/t/{folder}/{known}.png"), 24);
    assert_eq!(world.run(0).await.backends[0].files.count, 1);
    assert!(!used_today.exists());
}

#[tokio::test]
async fn a_directory_that_is_gone_is_told_and_stops_nothing_else() {
    let world = World::new(day()).with_backend();
    std::fs::remove_dir(world.dir.path().join("temp")).unwrap();
    world.upload("a.png", b"one", 0).await;
    let report = world.run(25 * HOUR).await;
    assert!(report.backends[0].error.is_some());
    assert_eq!(report.sum.uploads.count, 1);
}

#[tokio::test]
async fn an_erased_tenant_leaves_nothing_in_the_ledger_and_on_backends_disks() {
    let world = World::new(day()).with_backend();
    let folder = world.ledger.owner_secrets(&OwnerScope { tenant: tenant(), user: None }).await.unwrap().folder;
    world.upload("a.png", b"one", 0).await;
    let left = world.written(&format!("output/t/{folder}/own/a.png"), 0);
    let input = world.written(&format!("input/t/{folder}/{}.png", FileId::new()), 0);
    let held = suite::accepted(&world.ledger, "a", "p").await;
    let now = WallMillis(world.start);
    let refused = erase_tenant(&world.ledger, &world.backends, &tenant(), now).await;
    assert!(matches!(refused, Err(EraseError::Ledger(LedgerError::Busy { active: 1, .. }))));
    assert!(left.exists() && input.exists(), "nothing was touched");
    world.ledger.end_held(held.id, held.version, crate::record::ledger::Outcome::Cancelled, None, now).await.unwrap();
    let erasure = erase_tenant(&world.ledger, &world.backends, &tenant(), now).await.unwrap();
    assert_eq!((erasure.removed.uploads.count, erasure.backend_files.count), (1, 2));
    assert!(erasure.not_cleaned.is_empty() && !left.exists() && !input.exists());
    assert!(!world.dir.path().join(format!("output/t/{folder}")).exists());
    assert_eq!(world.run(HOUR).await.blobs.count, 1, "its content went with the next run");
    assert!(!world.has(b"one"));
}

#[tokio::test]
async fn while_somebody_keeps_it_away_no_run_begins() {
    let sweeps = Sweeps::default();
    let away = sweeps.keep_away().await;
    assert!(Arc::clone(&sweeps.turn).try_lock_owned().is_err());
    drop(away);
    assert!(Arc::clone(&sweeps.turn).try_lock_owned().is_ok());
    let _away = sweeps.keep_away().await;
    sweeps.end().await;
    assert!(sweeps.is_ending(), "a backup is not waited for");
}
