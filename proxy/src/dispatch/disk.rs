//! What is deleted on a backend's own disk, where the configuration says where that is: ComfyUI has no route that deletes a file.
//!
//! *Ours*, and nothing else: `t/<owner>/<job>-<n>` with all that is in it below `output` and `temp`, and `t/<owner>/<file>.<ending>` below `input`, where `<owner>` is a folder name that the ledger drew
//! (80 random bits), and the rest has the form of ids that only we make. Another gateway's folders at the same ComfyUI carry names that our ledger does not know.
//!
//! SECURITY: whatever runs in a ComfyUI may put symlinks where our folders are, at any moment. Every step from the configured folder down is an `openat` that follows none, and every deletion an `unlinkat` in a
//! folder that is open already: there is no path that could mean something else by the time it is used. `std` alone would have to look first and delete then, by name. What lies on another file system is left.

use crate::ids::{FileId, JobId};
use crate::record::ledger::keeping::InUse;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Folders within an attempt's folder: prefixes of callers have fewer.
const DEPTH_MAX: usize = 32;
/// Entries that one sweep looks at.
const ENTRIES_MAX: usize = 200_000;
/// The one folder of ours in each of ComfyUI's.
const OURS: &CStr = c"t";

/// Where a backend's files are, as this machine sees them; absolute. `None`: they stay there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directories {
    /// `--input-directory`.
    pub input: Option<PathBuf>,
    /// `--output-directory`.
    pub output: Option<PathBuf>,
    /// `--temp-directory`, with the `temp` in it that ComfyUI appends.
    pub temp: Option<PathBuf>,
}

impl Directories {
    /// Where attempts leave files.
    pub fn of_attempts(&self) -> impl Iterator<Item = &Path> {
        self.output.as_deref().into_iter().chain(self.temp.as_deref())
    }

    /// Whether everything that is left there can be deleted.
    pub fn are_known(&self) -> bool {
        self.input.is_some() && self.output.is_some() && self.temp.is_some()
    }

    /// All that are known.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        self.of_attempts().chain(self.input.as_deref())
    }
}

/// What was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gone {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl AddAssign for Gone {
    fn add_assign(&mut self, other: Self) {
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// A file that was given to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    owner: String,
    name: String,
    /// Which.
    pub id: FileId,
    /// When it was given.
    pub at: SystemTime,
}

/// Deletes an attempt's folder, as the ledger recorded it: `t/<owner>/<job>-<n>`. Blocks.
///
/// # Errors
/// `InvalidInput` for any other text; the system's, a symlink in the way among them.
pub fn remove_attempt(root: &Path, folder: &str) -> io::Result<Gone> {
    let parts: Vec<&str> = folder.split('/').collect();
    let ["t", owner, attempt] = parts.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
    if !is_owner(owner) || attempt_of(attempt).is_none() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let Some(owner) = Below::open(root)?.enter_ours()?.map(|ours| ours.enter_name(owner)).transpose()?.flatten() else {
        return Ok(Gone::default());
    };
    owner.remove_folder(&c_name(attempt)?, &mut Budget::default())
}

/// What a sweep did, and the first thing that it could not do: the rest was done all the same, or whoever lays one obstacle would keep everything from being cleaned.
#[derive(Debug, Default)]
pub struct Swept {
    /// What was deleted.
    pub gone: Gone,
    /// What was not.
    pub error: Option<io::Error>,
}

impl Swept {
    /// Both.
    pub fn join(&mut self, other: Self) {
        self.gone += other.gone;
        self.error = self.error.take().or(other.error);
    }

    fn add(&mut self, done: io::Result<Gone>) {
        match done {
            Ok(gone) => self.gone += gone,
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }
}

/// Deletes the folders of attempts that are over, such as lost ones', and were not written to since `before`. Blocks.
///
/// # Errors
/// The directory itself can't be read.
pub fn sweep_attempts(root: &Path, in_use: &InUse, before: SystemTime) -> io::Result<Swept> {
    let (mut swept, mut budget) = (Swept::default(), Budget::default());
    let Some(ours) = Below::open(root)?.enter_ours()? else { return Ok(swept) };
    for owner in owners(&ours, in_use, &mut budget)? {
        let done = sweep_owner(&ours, &owner, in_use, before, &mut budget, &mut swept);
        swept.add(done.map(|()| Gone::default()));
    }
    Ok(swept)
}

fn sweep_owner(
    ours: &Below,
    owner: &str,
    in_use: &InUse,
    before: SystemTime,
    budget: &mut Budget,
    swept: &mut Swept,
) -> io::Result<()> {
    let Some(folder) = ours.enter_name(owner)? else { return Ok(()) };
    for entry in folder.entries(budget)? {
        let Some(attempt) = entry.to_str().ok().and_then(attempt_of) else { continue };
        if !in_use.attempts.contains(&attempt) && folder.is_older(&entry, FileType::Directory, before)? {
            swept.add(folder.remove_folder(&entry, budget));
        }
    }
    Ok(())
}

/// The files that were given to a backend before that, in the folders that can be read. Blocks.
///
/// # Errors
/// The directory itself can't be read.
pub fn inputs(root: &Path, in_use: &InUse, before: SystemTime) -> io::Result<Vec<InputFile>> {
    let (mut found, mut budget) = (Vec::new(), Budget::default());
    let Some(ours) = Below::open(root)?.enter_ours()? else { return Ok(found) };
    for owner in owners(&ours, in_use, &mut budget)? {
        let Ok(Some(folder)) = ours.enter_name(&owner) else { continue };
        // What can't be listed, or is too much to list, stops nothing else.
        let Ok(entries) = folder.entries(&mut budget) else { continue };
        for entry in entries {
            let Some(name) = entry.to_str().ok() else { continue };
            let Some(id) = file_of(name) else { continue };
            if let Some(at) = folder.written(&entry, FileType::RegularFile)?.filter(|at| *at < before) {
                found.push(InputFile { owner: owner.clone(), name: name.to_owned(), id, at });
            }
        }
    }
    Ok(found)
}

/// Deletes files that were given to a backend, each if it was not given again meanwhile. Blocks.
///
/// # Errors
/// The directory itself can't be read.
pub fn remove_inputs(root: &Path, files: &[InputFile]) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let Some(ours) = Below::open(root)?.enter_ours()? else { return Ok(swept) };
    for file in files {
        swept.add(remove_input(&ours, file));
    }
    Ok(swept)
}

fn remove_input(ours: &Below, file: &InputFile) -> io::Result<Gone> {
    let Some(owner) = ours.enter_name(&file.owner)? else { return Ok(Gone::default()) };
    let name = c_name(&file.name)?;
    let unchanged = owner.written(&name, FileType::RegularFile)? == Some(file.at);
    if unchanged { owner.remove_file(&name) } else { Ok(Gone::default()) }
}

/// Deletes the folder of an owner with all that is in it: only when no job of that owner is anywhere. Blocks.
///
/// # Errors
/// `InvalidInput` for what is no owner's folder; the system's.
pub fn remove_owner(root: &Path, owner: &str) -> io::Result<Gone> {
    if !is_owner(owner) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match Below::open(root)?.enter_ours()? {
        Some(ours) => ours.remove_folder(&c_name(owner)?, &mut Budget::default()),
        None => Ok(Gone::default()),
    }
}

/// Whether a folder could be cleaned: it is there, and may be read and written.
///
/// # Errors
/// Why not.
pub fn check(root: &Path) -> io::Result<()> {
    Below::open(root)?;
    Ok(rustix::fs::access(
        root,
        rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    )?)
}

/// The names of owners' folders that the ledger knows.
fn owners(ours: &Below, in_use: &InUse, budget: &mut Budget) -> io::Result<Vec<String>> {
    let names = ours.entries(budget)?.into_iter().filter_map(|entry| entry.into_string().ok());
    Ok(names.filter(|name| is_owner(name) && in_use.owners.contains(name)).collect())
}

/// 80 bits in lower-case base 32.
fn is_owner(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
}

/// `<job>-<n>`, as we write it and no other spelling.
fn attempt_of(name: &str) -> Option<(JobId, u32)> {
    let (job, n) = name.rsplit_once('-')?;
    let attempt: (JobId, u32) = (job.parse().ok()?, n.parse().ok()?);
    (format!("{}-{}", attempt.0, attempt.1) == name).then_some(attempt)
}

/// `<file>.<ending>`.
fn file_of(name: &str) -> Option<FileId> {
    let (id, ending) = name.split_once('.')?;
    let plain = (1..=8).contains(&ending.len()) && ending.bytes().all(|byte| byte.is_ascii_alphanumeric());
    id.parse().ok().filter(|_| plain)
}

fn c_name(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// How much one sweep may still look at.
struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(ENTRIES_MAX)
    }
}

/// A folder that is open: the configured one, or one that was reached from it without a symlink.
struct Below {
    folder: OwnedFd,
    /// Its file system.
    device: u64,
}

impl Below {
    /// The configured folder itself. What leads to it is the operator's: symlinks are followed.
    fn open(root: &Path) -> io::Result<Self> {
        let folder = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let device = rustix::fs::fstat(&folder)?.st_dev;
        Ok(Self { folder, device })
    }

    fn enter_ours(&self) -> io::Result<Option<Self>> {
        self.enter(OURS)
    }

    fn enter_name(&self, name: &str) -> io::Result<Option<Self>> {
        self.enter(&c_name(name)?)
    }

    /// A folder in it; none if it is not there, or on another file system. A symlink is an error.
    fn enter(&self, name: &CStr) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let device = rustix::fs::fstat(&folder)?.st_dev;
        Ok((device == self.device).then_some(Self { folder, device }))
    }

    /// The names in it.
    fn entries(&self, budget: &mut Budget) -> io::Result<Vec<CString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.folder.as_fd())? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            budget.0 = budget.0.checked_sub(1).ok_or_else(|| io::Error::other("too many entries for one sweep"))?;
            names.push(entry.file_name().to_owned());
        }
        Ok(names)
    }

    /// When something of that kind was written last; none if it is not there, or something else.
    fn written(&self, name: &CStr, kind: FileType) -> io::Result<Option<SystemTime>> {
        let found = match rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(found.st_mode) != kind {
            return Ok(None);
        }
        // Before 1970 is not a time of ours: then it counts as written now.
        let seconds = u64::try_from(found.st_mtime).ok();
        let nanos = u32::try_from(found.st_mtime_nsec).unwrap_or(0);
        Ok(Some(seconds.map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::new(seconds, nanos))))
    }

    fn is_older(&self, name: &CStr, kind: FileType, before: SystemTime) -> io::Result<bool> {
        Ok(self.written(name, kind)?.is_some_and(|at| at < before))
    }

    /// Deletes what is no folder. Of a symlink that is the symlink alone.
    fn remove_file(&self, name: &CStr) -> io::Result<Gone> {
        let bytes = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_or(0, |found| u64::try_from(found.st_size).unwrap_or(0));
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) => Ok(Gone { files: 1, bytes }),
            Err(Errno::NOENT) => Ok(Gone::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a folder in it with all that is in that.
    fn remove_folder(&self, name: &CStr, budget: &mut Budget) -> io::Result<Gone> {
        let Some(folder) = self.enter(name)? else { return Ok(Gone::default()) };
        let gone = folder.emptied(budget, DEPTH_MAX)?;
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(gone),
            Err(error) => Err(error.into()),
        }
    }

    fn emptied(&self, budget: &mut Budget, depth: usize) -> io::Result<Gone> {
        let depth = depth.checked_sub(1).ok_or_else(|| io::Error::other("folders within too many folders"))?;
        let mut gone = Gone::default();
        for entry in self.entries(budget)? {
            match self.written(&entry, FileType::Directory)? {
                None => gone += self.remove_file(&entry)?,
                Some(_) => {
                    let Some(folder) = self.enter(&entry)? else { continue };
                    gone += folder.emptied(budget, depth)?;
                    rustix::fs::unlinkat(&self.folder, entry.as_c_str(), AtFlags::REMOVEDIR)?;
                }
            }
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    const OWNER: &str = "abcdefgh234567ab";

    struct World {
        dir: TempDir,
        job: JobId,
    }

    impl World {
        /// A ComfyUI's folder with one attempt's in it, and a folder of somebody else.
        fn new() -> Self {
            let world = Self { dir: tempfile::tempdir().unwrap(), job: JobId::new() };
            world.write(&format!("{}/a_00001_.png", world.folder(1)), "12345");
            world.write(&format!("{}/deep/er/b.png", world.folder(1)), "12");
            std::fs::create_dir_all(world.dir.path().join("victim")).unwrap();
            std::fs::write(world.dir.path().join("victim/precious"), "x").unwrap();
            world
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("output")
        }

        fn folder(&self, n: u32) -> String {
            format!("t/{OWNER}/{}-{n}", self.job)
        }

        fn path(&self, below: &str) -> PathBuf {
            self.root().join(below)
        }

        fn write(&self, below: &str, content: &str) {
            std::fs::create_dir_all(self.path(below).parent().unwrap()).unwrap();
            std::fs::write(self.path(below), content).unwrap();
        }

        fn in_use(&self) -> InUse {
            InUse { owners: [OWNER.to_owned()].into(), ..InUse::default() }
        }

        fn precious(&self) -> bool {
            self.dir.path().join("victim/precious").exists()
        }
    }

    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn an_attempts_folder_goes_whole_and_its_neighbours_stay() {
        let world = World::new();
        world.write(&format!("{}/c.png", world.folder(2)), "1");
        world.write("own.png", "1");
        assert_eq!(remove_attempt(&world.root(), &world.folder(1)).unwrap(), Gone { files: 2, bytes: 7 });
        assert!(!world.path(&world.folder(1)).exists());
        assert!(world.path(&world.folder(2)).join("c.png").exists() && world.path("own.png").exists());
        assert_eq!(remove_attempt(&world.root(), &world.folder(1)).unwrap(), Gone::default());
    }

    #[test]
    fn what_is_no_folder_of_an_attempt_is_never_touched() {
        let world = World::new();
        let job = world.job;
        for folder in [
            String::new(),
            "t".into(),
            format!("t/{OWNER}"),
            format!("t/{OWNER}/"),
            format!("t/{OWNER}/.."),
            format!("t/../{job}-1"),
            format!("../t/{OWNER}/{job}-1"),
            format!("/t/{OWNER}/{job}-1"),
            format!("t/{OWNER}/{job}-1/deep"),
            format!("t/{OWNER}/{job}"),
            format!("t/{OWNER}/{job}-01"),
            format!("t/{OWNER}x/{job}-1"),
            format!("t/ABCDEFGH234567AB/{job}-1"),
        ] {
            assert!(remove_attempt(&world.root(), &folder).is_err(), "{folder}");
        }
        for owner in ["", "..", ".", "t", "abc/abc"] {
            assert!(remove_owner(&world.root(), owner).is_err(), "{owner}");
        }
        assert!(world.path(&world.folder(1)).join("deep/er/b.png").exists());
    }

    #[test]
    fn a_symlink_at_any_step_leads_nowhere() {
        let world = World::new();
        let victim = world.dir.path().join("victim");
        // Inside the folder: the link goes, what it points to stays.
        symlink(&victim, world.path(&world.folder(1)).join("link")).unwrap();
        remove_attempt(&world.root(), &world.folder(1)).unwrap();
        assert!(!world.path(&world.folder(1)).exists() && world.precious());
        // As the attempt's folder, as the owner's, as ours.
        for below in [world.folder(1), format!("t/{OWNER}"), "t".to_owned()] {
            let path = world.path(&below);
            let _ = std::fs::remove_dir_all(&path);
            let inside = victim.join(world.folder(1).strip_prefix(&below).unwrap().trim_start_matches('/'));
            std::fs::create_dir_all(&inside).unwrap();
            std::fs::write(inside.join("precious"), "x").unwrap();
            symlink(&victim, &path).unwrap();
            assert!(remove_attempt(&world.root(), &world.folder(1)).is_err(), "{below}");
            let swept = sweep_attempts(&world.root(), &world.in_use(), later());
            assert!(swept.is_err() || swept.is_ok_and(|swept| swept.gone == Gone::default()), "{below}");
            assert!(remove_owner(&world.root(), OWNER).map_or(true, |gone| gone.files <= 1), "{below}");
            assert!(inside.join("precious").exists() && world.precious(), "{below}");
            let _ = std::fs::remove_file(&path);
        }
    }

    #[test]
    fn folders_of_attempts_that_are_over_are_swept_and_no_others() {
        let world = World::new();
        world.write(&format!("{}/c.png", world.folder(2)), "1");
        world.write(&format!("t/{OWNER}/own/d.png"), "1");
        world.write(&format!("t/zzzzzzzz222222aa/{}-1/e.png", world.job), "1");
        let mut in_use = world.in_use();
        in_use.attempts.insert((world.job, 2));
        let young = SystemTime::now() - Duration::from_secs(60);
        assert_eq!(sweep_attempts(&world.root(), &in_use, young).unwrap().gone, Gone::default());
        // One obstacle stops nothing else.
        let victim = world.dir.path().join("victim");
        symlink(&victim, world.path("t/aaaaaaaaaaaaaaaa")).unwrap();
        in_use.owners.insert("aaaaaaaaaaaaaaaa".into());
        let swept = sweep_attempts(&world.root(), &in_use, later()).unwrap();
        assert_eq!(swept.gone, Gone { files: 2, bytes: 7 });
        assert!(swept.error.is_some() && world.precious());
        assert!(world.path(&world.folder(2)).exists(), "it may still be committed");
        assert!(world.path(&format!("t/{OWNER}/own/d.png")).exists(), "no name of ours");
        assert!(world.path("t/zzzzzzzz222222aa").exists(), "another gateway's");
        assert_eq!(sweep_attempts(&victim, &in_use, later()).unwrap().gone, Gone::default());
        assert!(sweep_attempts(&world.dir.path().join("none"), &in_use, later()).is_err());
    }

    #[test]
    fn inputs_are_found_by_age_and_deleted_unless_given_again() {
        let world = World::new();
        let (old, again) = (FileId::new(), FileId::new());
        for name in [format!("{old}.png"), format!("{again}.png"), "holiday.png".into(), format!("{old}.p/g")] {
            world.write(&format!("t/{OWNER}/{name}"), "123");
        }
        symlink(world.dir.path().join("victim/precious"), world.path(&format!("t/{OWNER}/{}.png", FileId::new())))
            .unwrap();
        let young = SystemTime::now() - Duration::from_secs(60);
        assert_eq!(inputs(&world.root(), &world.in_use(), young).unwrap(), []);
        let mut found = inputs(&world.root(), &world.in_use(), later()).unwrap();
        found.sort_by_key(|file| file.id != old);
        assert_eq!(found.iter().map(|file| file.id).collect::<Vec<_>>(), [old, again]);
        found[1].at -= Duration::from_secs(1);
        assert_eq!(remove_inputs(&world.root(), &found).unwrap().gone, Gone { files: 1, bytes: 3 });
        assert!(world.path(&format!("t/{OWNER}/{again}.png")).exists() && world.precious());
        assert!(remove_owner(&world.root(), OWNER).unwrap().files >= 4);
        assert!(!world.path(&format!("t/{OWNER}")).exists() && world.precious());
    }

    #[test]
    fn a_folder_that_can_be_cleaned_is_there() {
        let world = World::new();
        assert!(check(&world.root()).is_ok());
        assert!(check(&world.dir.path().join("none")).is_err());
        assert!(check(&world.dir.path().join("victim/precious")).is_err());
    }
}
