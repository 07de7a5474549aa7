//! What a reload needs to know of the configuration: whether its files changed, and which keys only a restart applies.

use super::{Config, ListenConfig, ListenKind};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Largest file whose content is compared; a saved `object_info` of thousands of classes has some MiB. Beyond it the rest does not count.
const COMPARED_BYTES_MAX: u64 = 256 << 20;

/// A file that was just written may be written on: it counts as done when it looks the same after this long.
const SETTLE: Duration = Duration::from_millis(200);
/// Looks until a file that never settles is taken as it is.
const SETTLE_LOOKS_MAX: u32 = 25;

/// The files of a configuration, and how they were when they were looked at last.
#[derive(Debug, Default)]
pub struct Watched(BTreeMap<PathBuf, Remembered>);

/// One file.
#[derive(Debug)]
struct Remembered {
    look: Option<Look>,
    /// A digest; `None`: it could not be read.
    content: Option<Vec<u8>>,
}

/// What a file looks like from outside: differs after every ordinary way of changing it, an editor's renaming too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Look {
    fn at(file: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(file).ok()?;
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        Some(Self { inode: metadata.ino(), bytes: metadata.len(), changed })
    }
}

impl Remembered {
    fn now(file: &Path) -> Self {
        // The look first: what is written between the two is seen by the next look.
        let look = Look::at(file);
        Self { look, content: digest(file).ok() }
    }
}

impl Watched {
    /// These files as they are now.
    pub fn new(files: BTreeSet<PathBuf>) -> Self {
        let mut watched = Self::default();
        watched.set_files(files);
        watched
    }

    /// From now on these. Those that were among them before are compared with what was remembered then, the others with what they are now.
    pub fn set_files(&mut self, files: BTreeSet<PathBuf>) {
        let mut former = std::mem::take(&mut self.0);
        let remembered = |file: &Path| former.remove(file).unwrap_or_else(|| Remembered::now(file));
        self.0 = files.into_iter().map(with_value(remembered)).collect();
    }

    /// These too, which are compared with what was read of them (a SHA-256; `None`: nothing), whenever that was. Those that are among them already stay as they were remembered.
    pub fn add(&mut self, read: BTreeMap<PathBuf, Option<Vec<u8>>>) {
        for (file, content) in read {
            self.0.entry(file).or_insert(Remembered { look: None, content });
        }
    }

    /// Whether what is in the files has changed since it was remembered; then it is remembered as it is now. Waits while somebody writes, for some
    /// seconds at most. Touching a file changes nothing. Costs one `stat` a file as long as all look the same. Blocks.
    pub fn changed(&mut self) -> bool {
        if self.looks() == self.remembered_looks() {
            return false;
        }
        for _ in 0..SETTLE_LOOKS_MAX {
            let before = self.looks();
            std::thread::sleep(SETTLE);
            if before == self.looks() {
                break;
            }
        }
        self.remember()
    }

    /// Remembers the files as they are now, and says whether what is in them has changed. Call it *before* the files are read. Blocks.
    pub fn remember(&mut self) -> bool {
        let mut changed = false;
        for (file, remembered) in &mut self.0 {
            let now = Remembered::now(file);
            changed |= now.content != remembered.content;
            *remembered = now;
        }
        changed
    }

    fn looks(&self) -> Vec<Option<Look>> {
        self.0.keys().map(|file| Look::at(file)).collect()
    }

    fn remembered_looks(&self) -> Vec<Option<Look>> {
        self.0.values().map(|remembered| remembered.look).collect()
    }
}

fn with_value<T>(mut value: impl FnMut(&Path) -> T) -> impl FnMut(PathBuf) -> (PathBuf, T) {
    move |file| {
        let value = value(&file);
        (file, value)
    }
}

fn digest(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut whole = ring::digest::Context::new(&ring::digest::SHA256);
    let mut content = std::fs::File::open(file)?.take(COMPARED_BYTES_MAX);
    let mut piece = vec![0; 64 << 10];
    loop {
        match content.read(&mut piece)? {
            0 => return Ok(whole.finish().as_ref().to_vec()),
            bytes => whole.update(piece.get(..bytes).unwrap_or_default()),
        }
    }
}

/// Puts back in `next` what a running gateway can't change, and names each key of it that differs.
///
/// INVARIANT: after this, `next` says what is in force: its listeners are those that are bound, its state directory the one that is locked.
pub fn hold_fixed(started: &Config, next: &mut Config) -> Vec<String> {
    let mut held = Vec::new();
    hold(&mut held, "metrics.address", &started.metrics_address, &mut next.metrics_address);
    hold(&mut held, "state.dir", &started.state_dir, &mut next.state_dir);
    hold(&mut held, "audit.file", &started.audit, &mut next.audit);
    let (was, limits) = (&started.limits, &mut next.limits);
    hold(&mut held, "limits.bodies_bytes_max", &was.bodies_bytes_max, &mut limits.bodies_bytes_max);
    hold(&mut held, "limits.head_deadline", &was.head_deadline, &mut limits.head_deadline);
    hold(&mut held, "limits.connections_max", &was.connections_max, &mut limits.connections_max);
    hold(&mut held, "limits.failed_logins_free", &was.failed_logins_free, &mut limits.failed_logins_free);
    let redirects = started.listen.iter().any(|listener| listener.kind == ListenKind::Redirect);
    if redirects && started.public_url != next.public_url {
        held.push("public_url (where redirects lead)".to_owned());
    }
    hold_listeners(&mut held, &started.listen, next);
    held
}

fn hold<T: Clone + PartialEq>(held: &mut Vec<String>, key: &str, was: &T, next: &mut T) {
    if was != next {
        held.push(key.to_owned());
        next.clone_from(was);
    }
}

/// Sockets and what is spoken on them stay; certificates of other files, and what stands in front, are taken over.
fn hold_listeners(held: &mut Vec<String>, started: &[ListenConfig], next: &mut Config) {
    let mut bound = started.to_vec();
    for (place, wanted) in next.listen.iter().enumerate() {
        let Some(listener) = bound.iter_mut().find(|listener| listener.address == wanted.address) else {
            held.push(format!("listen[{place}].address"));
            continue;
        };
        if let (ListenKind::Tls(certificate), ListenKind::Tls(other)) = (&mut listener.kind, &wanted.kind) {
            certificate.clone_from(other);
        }
        // Whether callers are asked for certificates is fixed with the listener; by which CA is not.
        if let (Some(ca), Some(other)) = (&mut listener.client_ca, &wanted.client_ca) {
            ca.clone_from(other);
        }
        // What stands in front is read from the configuration of now, as long as it is of this kind of listener.
        if listener.facts.plain == wanted.facts.plain {
            listener.facts = Arc::clone(&wanted.facts);
        }
        if listener != wanted {
            held.push(format!("listen[{place}]"));
        }
    }
    for gone in started.iter().filter(|was| next.listen.iter().all(|wanted| wanted.address != was.address)) {
        held.push(format!("listen ({} is not in the file any more)", gone.address));
    }
    next.listen = bound;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CertificateConfig;
    use std::time::{Duration, SystemTime};

    fn config() -> Config {
        Config::built_in("/s".into())
    }

    fn files(path: &Path) -> BTreeSet<PathBuf> {
        [path.to_owned()].into()
    }

    #[test]
    fn touching_a_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "1").unwrap();
        let mut watched = Watched::new(files(&path));
        assert!(!watched.changed());
        let later = SystemTime::now() + Duration::from_secs(5);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_ne!(watched.looks(), watched.remembered_looks());
        assert!(!watched.changed());
        assert_eq!(watched.looks(), watched.remembered_looks(), "it is not compared again at every look");
    }

    #[test]
    fn a_new_a_changed_a_replaced_and_a_removed_file_are_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut watched = Watched::new(files(&path));
        std::fs::write(&path, "1").unwrap();
        assert!(watched.changed(), "it is there now");
        std::fs::write(&path, "22").unwrap();
        assert!(watched.changed(), "it was written");
        std::fs::write(dir.path().join("b"), "33").unwrap();
        std::fs::rename(dir.path().join("b"), &path).unwrap();
        assert!(watched.changed(), "an editor renamed another one over it");
        std::fs::remove_file(&path).unwrap();
        assert!(watched.changed(), "it is gone");
        assert!(!watched.changed());
    }

    #[test]
    fn a_file_that_was_read_before_it_is_watched_is_compared_with_what_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let (same, other, absent) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        let read = |path: &Path, text: &[u8]| {
            std::fs::write(path, text).unwrap();
            (path.to_owned(), digest(path).ok())
        };
        let mut watched = Watched::default();
        watched.add([read(&same, b"1"), (absent.clone(), None)].into());
        assert!(!watched.changed());
        let before = read(&other, b"1");
        std::fs::write(&other, "22").unwrap();
        watched.add([before.clone()].into());
        assert!(watched.changed(), "it was written since");
        watched.add([before].into());
        assert!(!watched.changed(), "what was remembered last counts");
        std::fs::write(&absent, "1").unwrap();
        assert!(watched.changed(), "it is there now");
    }

    #[test]
    fn a_file_that_stays_among_the_watched_is_compared_with_what_was_remembered_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&first, "1").unwrap();
        std::fs::write(&second, "1").unwrap();
        let mut watched = Watched::new(files(&first));
        std::fs::write(&first, "22").unwrap();
        std::fs::write(&second, "22").unwrap();
        watched.set_files(files(&second));
        assert!(!watched.changed(), "the new one counts from now on");
        watched.set_files(files(&first));
        std::fs::write(&first, "333").unwrap();
        watched.set_files([first, second].into());
        assert!(watched.changed());
    }

    #[test]
    fn what_a_running_gateway_cannot_change_is_named_and_put_back() {
        let started = config();
        let mut next = config();
        next.state_dir = "/other".into();
        next.limits.connections_max += 1;
        next.limits.websockets_max += 1;
        next.listen[0].address = "127.0.0.1:9443".parse().unwrap();
        let held = hold_fixed(&started, &mut next);
        let wanted = [
            "state.dir",
            "limits.connections_max",
            "listen[0].address",
            "listen (127.0.0.1:8443 is not in the file any more)",
        ];
        assert_eq!(held, wanted);
        assert_eq!((&next.state_dir, &next.listen), (&started.state_dir, &started.listen));
        assert_eq!(next.limits.websockets_max, started.limits.websockets_max + 1, "what can change does");
    }

    #[test]
    fn another_certificate_is_taken_and_another_protocol_on_the_same_address_is_not() {
        let started = config();
        let mut next = config();
        let files = CertificateConfig::Files { certificate: "/c".into(), key: "/k".into() };
        next.listen[0].kind = ListenKind::Tls(files.clone());
        assert!(hold_fixed(&started, &mut next).is_empty());
        assert_eq!(next.listen[0].kind, ListenKind::Tls(files));
        next.listen[0].kind = ListenKind::Redirect;
        assert_eq!(hold_fixed(&started, &mut next), ["listen[0]"]);
        assert_eq!(next.listen, started.listen);
    }

    #[test]
    fn the_same_configuration_holds_nothing_back() {
        assert!(hold_fixed(&config(), &mut config()).is_empty());
    }
}
