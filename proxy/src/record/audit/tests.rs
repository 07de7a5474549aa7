use super::writer::{Target, Writer};
use super::*;
use crate::config::Rotation;
use serde_json::Value;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Condvar;

fn clock() -> Clock {
    Clock::turned_by_hand(WallMillis(1_735_689_599_001))
}

fn owner() -> Owner {
    Owner { tenant: "acme".parse().unwrap(), user: Some("ann".parse().unwrap()), key: None, shared: false }
}

fn refusal(reason: &str) -> Refusal<'_> {
    Refusal {
        owner: Some(owner()),
        status: 403,
        method: Method::POST,
        route: "/prompt",
        reason,
        ..Refusal::before_request("scope", Some([192, 0, 2, 1].into()))
    }
}

/// A log in a file, and the directory that must outlive it.
fn log(clock: &Clock) -> (tempfile::TempDir, PathBuf, Audit) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let audit = Audit::open(&AuditConfig::File { path: path.clone(), rotation: None }, clock.clone()).unwrap();
    (dir, path, audit)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn events(path: &Path) -> Vec<String> {
    lines(path).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_event_is_one_object_on_one_line_with_its_time() {
    let (_dir, path, audit) = log(&clock());
    let (job, key) = (JobId::new(), "abcdefghij01".parse().unwrap());
    audit.started();
    audit.accepted(&AcceptedLine {
        request: RequestId::new(),
        owner: owner(),
        job,
        prompt_id: job.into(),
        policy: Digest::of(b"policy"),
        catalogue: Digest::of(b"catalogue"),
        submission: Digest::of(b"graph"),
    });
    audit.uploaded(UploadedLine {
        request: RequestId::new(),
        owner: owner(),
        file: FileId::new(),
        content: Digest::of(b"picture"),
        bytes: 7,
    });
    audit.refused(&refusal("no"));
    audit.backend(&"gpu-1".parse().unwrap(), false, "refused the connection");
    audit.key_created(&key, &owner());
    audit.key_revoked(&key, &owner());
    audit.stopped();
    let lines = lines(&path);
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(
        events,
        ["started", "accepted", "uploaded", "refused", "backend", "key_created", "key_revoked", "stopped"]
    );
    assert!(lines.iter().all(|line| line["time"] == "2024-12-31T23:59:59.001Z"));
    assert_eq!(lines[1]["submission"], Digest::of(b"graph").to_string());
    assert_eq!((&lines[1]["job"], &lines[1]["owner"]["tenant"]), (&job.to_string().into(), &"acme".into()));
    assert_eq!((&lines[2]["content"], &lines[2]["bytes"]), (&Digest::of(b"picture").to_string().into(), &7.into()));
    assert_eq!(lines[3]["client"], "192.0.2.1");
    assert_eq!((&lines[3]["code"], &lines[3]["status"]), (&"scope".into(), &403.into()));
    assert_eq!((&lines[3]["method"], &lines[3]["route"]), (&"POST".into(), &"/prompt".into()));
    assert_eq!((&lines[4]["backend"], &lines[4]["up"]), (&"gpu-1".into(), &false.into()));
    assert_eq!(lines[5]["key"], "abcdefghij01");
}

#[test]
fn a_refusal_before_a_request_has_neither_status_nor_reason() {
    let (_dir, path, audit) = log(&clock());
    audit.refused(&Refusal::before_request("full", None));
    audit.stopped();
    let line = &lines(&path)[0];
    assert_eq!((&line["stage"], &line["route"], &line["method"]), (&"listen".into(), &"-".into(), &"-".into()));
    assert!(line.get("status").is_none() && line.get("reason").is_none() && line.get("owner").is_none());
}

#[test]
fn a_reason_stays_on_its_line_and_is_cut_at_500_characters() {
    let (_dir, path, audit) = log(&clock());
    audit.refused(&refusal("a\n{\"event\":\"accepted\"}\u{1b}[2J"));
    audit.refused(&refusal(&"é".repeat(500)));
    audit.refused(&refusal(&"é".repeat(501)));
    audit.stopped();
    assert!(!std::fs::read(&path).unwrap().contains(&0x1b));
    let lines = lines(&path);
    assert_eq!(lines[0]["reason"], "a\n{\"event\":\"accepted\"}\u{1b}[2J");
    assert_eq!((&lines[1]["reason"], &lines[2]["reason"]), (&"é".repeat(500).into(), &"é".repeat(500).into()));
    assert_eq!(lines.len(), 4);
}

#[test]
fn a_flood_is_ten_lines_and_a_count_and_others_still_get_theirs() {
    let clock = clock();
    let (_dir, path, audit) = log(&clock);
    for _ in 0..5000 {
        audit.refused(&refusal("no"));
    }
    audit.key_created(&"abcdefghij01".parse().unwrap(), &owner());
    clock.turn(Duration::from_secs(1));
    audit.started();
    audit.stopped();
    let lines = lines(&path);
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    assert_eq!((of("refused").len(), of("key_created").len(), of("dropped").len()), (10, 1, 0));
    let [many] = of("refused_many")[..] else { panic!("one count") };
    assert_eq!((&many["count"], &many["code"], &many["client"]), (&4990.into(), &"scope".into(), &"192.0.2.1".into()));
}

#[test]
fn a_stop_tells_the_flood_of_the_second_that_runs() {
    let (_dir, path, audit) = log(&clock());
    (0..12).for_each(|_| audit.refused(&refusal("no")));
    audit.stopped();
    let lines = lines(&path);
    assert_eq!((&lines[10]["event"], &lines[10]["count"]), (&"refused_many".into(), &2.into()));
    assert_eq!(lines[11]["event"], "stopped");
}

#[test]
fn a_fresh_file_is_private_and_one_that_is_there_is_appended_to() {
    let (dir, path, audit) = log(&clock());
    audit.stopped();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = Audit::open(&AuditConfig::File { path: path.clone(), rotation: None }, clock()).unwrap();
    again.started();
    again.stopped();
    assert_eq!(events(&path), ["stopped", "started", "stopped"]);
    let missing = AuditConfig::File { path: dir.path().join("none/audit.jsonl"), rotation: None };
    let error = Audit::open(&missing, clock()).unwrap_err().to_string();
    assert!(error.contains("none/audit.jsonl"), "{error}");
}

#[test]
fn after_a_rotation_reopen_leads_to_the_new_file_and_without_it_lines_go_to_the_old() {
    let (dir, path, audit) = log(&clock());
    let old = dir.path().join("audit.jsonl.1");
    std::fs::rename(&path, &old).unwrap();
    audit.started();
    audit.stopped();
    assert!(!path.exists());
    audit.reopen();
    audit.started();
    audit.stopped();
    assert_eq!((events(&old).len(), events(&path).len()), (2, 2));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// The rotated files, the oldest first, and the current one.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let aside = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
    let mut found: Vec<PathBuf> = (1..).map(aside).take_while(|path| path.exists()).collect();
    found.reverse();
    found.push(path.to_owned());
    found
}

#[test]
fn no_line_is_lost_or_torn_or_out_of_order_while_files_are_put_aside_and_reopened() {
    const THREADS: usize = 8;
    const LINES: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let rotation = Some(Rotation { bytes: 4096, keep: 1000 });
    let audit = Audit::open(&AuditConfig::File { path: path.clone(), rotation }, clock()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let audit = audit.clone();
            scope.spawn(move || {
                let backend: BackendId = format!("gpu-{thread}").parse().unwrap();
                for line in 0..LINES {
                    audit.backend(&backend, true, &line.to_string());
                    if line % 100 == 0 {
                        audit.reopen();
                    }
                }
            });
        }
    });
    audit.stopped();
    assert_eq!(audit.dropped(), 0, "the channel holds them all");
    let files = rotated(&path);
    assert!(files.len() > 50, "{}", files.len());
    let mut seen = vec![0; THREADS];
    for file in &files {
        assert!(std::fs::metadata(file).unwrap().len() <= 4096, "{}", file.display());
        for line in lines(file).iter().filter(|line| line["event"] == "backend") {
            let thread: usize = line["backend"].as_str().unwrap()[4..].parse().unwrap();
            assert_eq!(line["reason"], seen[thread].to_string(), "{} {line}", file.display());
            seen[thread] += 1;
        }
    }
    assert_eq!(seen, vec![LINES; THREADS]);
}

#[test]
fn no_more_files_stay_than_are_to_be_kept_and_the_newest_lines_are_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let rotation = Some(Rotation { bytes: 1000, keep: 2 });
    let audit = Audit::open(&AuditConfig::File { path: path.clone(), rotation }, clock()).unwrap();
    (0..100).for_each(|line| audit.backend(&"gpu".parse().unwrap(), true, &line.to_string()));
    audit.stopped();
    assert_eq!((rotated(&path).len(), std::fs::read_dir(dir.path()).unwrap().count()), (3, 3));
    let kept: Vec<Value> = rotated(&path).iter().flat_map(|file| lines(file)).collect();
    assert_eq!((&kept[kept.len() - 1]["event"], &kept[kept.len() - 2]["reason"]), (&"stopped".into(), &"99".into()));
    assert!(kept.len() > 20, "three files of some ten lines: {}", kept.len());
}

#[test]
fn a_file_that_can_t_be_put_aside_goes_on_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    // A folder with something in it can't be replaced by a file.
    std::fs::create_dir_all(dir.path().join("audit.jsonl.1/full")).unwrap();
    let rotation = Some(Rotation { bytes: 500, keep: 1 });
    let audit = Audit::open(&AuditConfig::File { path: path.clone(), rotation }, clock()).unwrap();
    (0..50).for_each(|_| audit.started());
    audit.stopped();
    assert_eq!(lines(&path).len(), 51);
}

#[test]
fn without_room_in_the_channel_lines_are_counted_and_the_count_is_written_when_there_is_room() {
    let (sender, messages) = mpsc::sync_channel(2);
    let audit = Audit { sender, shared: Arc::default(), clock: clock() };
    (0..5).for_each(|_| audit.started());
    assert_eq!(audit.dropped(), 3);
    let disk = Disk::default();
    let writer = Writer::new(Target::Other(Box::new(disk.clone())), Arc::clone(&audit.shared), clock());
    let thread = std::thread::spawn(move || writer.run(&messages));
    audit.stopped();
    drop(audit);
    thread.join().unwrap();
    let lines = disk.lines();
    let told: Vec<_> = lines.iter().filter(|line| line["event"] == "dropped").collect();
    assert_eq!((told.len(), &told[0]["lines"], lines.len()), (1, &3.into(), 4));
}

#[test]
fn a_full_disk_costs_lines_and_not_the_log() {
    let (sender, messages) = mpsc::sync_channel(100);
    let audit = Audit { sender, shared: Arc::default(), clock: clock() };
    let disk = Disk::default();
    let writer = Writer::new(Target::Other(Box::new(disk.clone())), Arc::clone(&audit.shared), clock());
    let thread = std::thread::spawn(move || writer.run(&messages));
    disk.fill(true);
    (0..3).for_each(|_| audit.started());
    disk.wait_for_refusals("started", 3);
    disk.fill(false);
    audit.stopped();
    drop(audit);
    thread.join().unwrap();
    let lines = disk.lines();
    assert_eq!((&lines[0]["event"], &lines[0]["lines"]), (&"dropped".into(), &3.into()));
    assert_eq!(lines[1]["event"], "stopped");
}

#[test]
fn a_stop_does_not_wait_for_a_writer_that_hangs() {
    let (sender, _messages) = mpsc::sync_channel(1);
    let audit = Audit { sender, shared: Arc::default(), clock: clock() };
    audit.started();
    let start = Instant::now();
    audit.stopped();
    // A deadline far beyond any load of the machine, not a measurement.
    assert!(start.elapsed() < STOP_TIMEOUT * 30);
}

/// A disk that can be full, and then takes half of every line.
#[derive(Clone, Default)]
struct Disk(Arc<(Mutex<DiskState>, Condvar)>);

#[derive(Default)]
struct DiskState {
    bytes: Vec<u8>,
    full: bool,
    /// Whole, as they came.
    refused: Vec<Value>,
}

impl Disk {
    fn fill(&self, full: bool) {
        self.0.0.lock().unwrap().full = full;
    }
    /// Counts this event only: how often the writer tries in between to tell what was dropped is a matter of time.
    fn wait_for_refusals(&self, event: &str, at_least: usize) {
        let state = self.0.0.lock().unwrap();
        let refused = |state: &DiskState| state.refused.iter().filter(|line| line["event"] == event).count();
        drop(self.0.1.wait_while(state, |state| refused(state) < at_least).unwrap());
    }
    /// Whole lines: what is no JSON was cut by the full disk.
    fn lines(&self) -> Vec<Value> {
        let state = self.0.0.lock().unwrap();
        state.bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.lock().unwrap();
        if state.full {
            state.bytes.extend(&bytes[..bytes.len() / 2]);
            state.refused.push(serde_json::from_slice(bytes).unwrap());
            self.0.1.notify_all();
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.bytes.extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_line_has_a_row_in_the_operators_manual() {
    let whole = include_str!("../audit.rs");
    let list = whole.split_once("\nenum Event {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let is_variant = |line: &&str| line.strip_prefix("    ").is_some_and(|name| name.starts_with(char::is_uppercase));
    let snake = |line: &str| {
        let mut snake = String::new();
        for letter in line.trim().split([' ', '(', ',']).next().unwrap().chars() {
            if letter.is_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        snake
    };
    let manual = include_str!("../../../../docs/operations.md");
    let table = manual.split_once("## Audit and log").unwrap().1.split_once("\n## ").unwrap().0;
    let rows: String = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let names: Vec<String> = list.lines().filter(is_variant).map(snake).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(rows.contains(&format!("`{name}`")), "docs/operations.md has no row for `{name}`");
    }
}
