//! Files of a ComfyUI's own folders, taken over for an owner and given back: through the control socket, or on the ledger itself.
//!
//! *In*: names of files below a folder that the operator chose. *Out*: files of the owner, in the ledger (userdata) and the blobs (inputs and outputs).
//! The sources are only read. They are copied and not linked: ComfyUI writes its files anew under the same name, and a content of ours never changes.
//! *Refuses*: whatever lies elsewhere once links are followed. Node packs write into these folders, and a link to another file of this machine
//! would show that file to the owner. *Leaves to others*: which files there are (`cli::adopt`), and whether the owner's own stays (`record::ledger`).

use crate::clock::{Clock, WallMillis};
use crate::deliver::views;
use crate::ids::{TenantId, UserId};
use crate::inspect::contents::{self, ContentFacts};
use crate::owner::{Owner, OwnerScope};
use crate::record::blobs::{BlobError, Blobs, Stored};
use crate::record::ledger::user_files::{Adopted, AdoptedFile, Adoption, PathError, Place, UserBounds, UserPath};
use crate::record::ledger::{Directory, FileRow, Ledger, LedgerError};
use crate::tenants;
use bytes::Bytes;
use comfygate_policy::Digest;
use futures_util::StreamExt;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tokio::io::AsyncReadExt;

/// Files of one request: so that its answer is told before long, and the command line can report.
pub const BATCH_MAX: usize = 64;
/// Files that are read at once.
const AT_ONCE: usize = 4;
/// Files of one page of a list.
const PAGE_MAX: usize = 1000;
/// Piece in which files are read.
const PIECE_BYTES: usize = 256 << 10;

/// Files that are to be adopted.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    /// For whom.
    pub tenant: TenantId,
    /// The person; absent: the tenant's service user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Which of ComfyUI's folders they lie in.
    pub place: Place,
    /// That folder on this machine, absolute.
    pub folder: PathBuf,
    /// Nothing outside of this directory is read, absolute and without links.
    pub root: PathBuf,
    /// Paths below `folder`.
    #[schemars(length(max = BATCH_MAX))]
    pub files: Vec<UserPath>,
    /// Only tell what would be done, by size and time of each file.
    pub dry_run: bool,
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Told by the ledger; in a dry run `New` for whatever would be read, new or changed.
    Done(Adoption),
    /// Not adopted, and why.
    Refused(String),
}

/// Asks for a page of an owner's files.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageRequest {
    /// Whose.
    pub tenant: TenantId,
    /// The person; absent: the tenant's service user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Where.
    pub place: Place,
    /// Those after this folder and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<(String, String)>,
}

/// A page of an owner's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Page {
    /// In the order of folder and name.
    pub files: Vec<OwnedEntry>,
    /// Where the next page begins; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<(String, String)>,
}

/// A file of an owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OwnedEntry {
    /// Folder and name, as the owner sees them; may be no path that can be written.
    pub path: String,
    /// Which content.
    #[schemars(with = "String")]
    pub content: Digest,
    /// Length in bytes.
    pub bytes: u64,
    /// When it was written.
    pub modified_at: WallMillis,
}

/// Asks for the content of a file of userdata.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContentRequest {
    /// Whose.
    pub tenant: TenantId,
    /// The person; absent: the tenant's service user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Which.
    pub path: UserPath,
}

/// Why a file or a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// More files than one request may name.
    #[error("at most {BATCH_MAX} files at once")]
    TooMany,
    /// A relative path of a folder would be another folder for another process.
    #[error("folders must be absolute, and `folder` within `root`")]
    Folder,
    /// The ledger's own reason.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The blobs' own reason.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

/// Why a source can't be read.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error("it leads out of `{0}`: it is not followed")]
    Leaves(String),
    #[error("it is no ordinary file")]
    NoFile,
    #[error("it changed while it was read: stop ComfyUI, or adopt again")]
    Changed,
    #[error("it has more than {0} bytes, which is the limit of a file of userdata")]
    TooLarge(u64),
    #[error("{0}")]
    Path(#[from] PathError),
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
}

/// Why a file was refused, or why the whole request fails.
enum Fault {
    Source(SourceError),
    Whole(AdoptError),
}

impl<E: Into<SourceError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Source(error.into())
    }
}

/// Takes files over, and tells what an owner has.
#[derive(Clone)]
pub struct AdoptionService {
    ledger: Arc<dyn Ledger>,
    blobs: Blobs,
    clock: Clock,
    bounds: UserBounds,
}

impl AdoptionService {
    /// On that ledger and those blobs.
    pub fn new(ledger: Arc<dyn Ledger>, blobs: Blobs, clock: Clock, bounds: UserBounds) -> Self {
        Self { ledger, blobs, clock, bounds }
    }

    /// Adopts files; one outcome each, in their order.
    ///
    /// # Errors
    /// [`AdoptError`]; what was adopted until then stays, and a repetition goes on there.
    pub async fn adopt(&self, request: &AdoptRequest) -> Result<Vec<Outcome>, AdoptError> {
        if request.files.len() > BATCH_MAX {
            return Err(AdoptError::TooMany);
        }
        if !request.root.is_absolute() || !request.folder.starts_with(&request.root) {
            return Err(AdoptError::Folder);
        }
        let files = futures_util::stream::iter(request.files.clone());
        let work = files.map(|path| async move { self.adopt_one(request, &path).await });
        let done: Vec<Result<Adoption, Fault>> = work.buffered(AT_ONCE).collect().await;
        done.into_iter()
            .map(|done| match done {
                Ok(adoption) => Ok(Outcome::Done(adoption)),
                Err(Fault::Source(error)) => Ok(Outcome::Refused(error.to_string())),
                Err(Fault::Whole(AdoptError::Ledger(
                    error @ (LedgerError::NoPlace { .. } | LedgerError::Full { .. }),
                ))) => Ok(Outcome::Refused(error.to_string())),
                Err(Fault::Whole(error)) => Err(error),
            })
            .collect()
    }

    async fn adopt_one(&self, request: &AdoptRequest, path: &UserPath) -> Result<Adoption, Fault> {
        let (source, root) = (request.folder.join(path.as_str()), request.root.clone());
        let (file, metadata) = off_the_loop(move || open_beneath(&root, &source)).await?;
        let owner = Owner { tenant: request.tenant.clone(), user: request.user.clone(), key: None, shared: false };
        let scope = owner.scope();
        let before = self.ledger.adopted(&scope, request.place, path).await.map_err(whole)?;
        let modified_at = modified(&metadata, &self.clock);
        // As rsync does: what has the size and time of last time is what it was.
        if before.is_some_and(|before| before.bytes == metadata.len() && before.modified_at == modified_at) {
            return Ok(Adoption::Same);
        }
        if request.dry_run {
            return Ok(Adoption::New);
        }
        match request.place.directory() {
            None => self.adopt_userdata(&scope, path, file, modified_at).await,
            Some(directory) => {
                let source = Source { path, directory, file, metadata, modified_at, is_known: before.is_some() };
                self.adopt_file(&owner, source).await
            }
        }
    }

    async fn adopt_userdata(
        &self,
        scope: &OwnerScope,
        path: &UserPath,
        file: File,
        modified_at: WallMillis,
    ) -> Result<Adoption, Fault> {
        let limit = self.bounds.file_bytes_max;
        let content = off_the_loop(move || whole_content(file, limit)).await?;
        self.ledger.adopt_user_file(scope, path, content, modified_at, self.bounds).await.map_err(whole)
    }

    async fn adopt_file(&self, owner: &Owner, source: Source<'_>) -> Result<Adoption, Fault> {
        let (subfolder, filename) = source.path.parts();
        let owned = self.ledger.owned_file(&owner.scope(), source.directory, subfolder, filename).await;
        let is_owned = match owned {
            Ok(_) => true,
            Err(LedgerError::NotFound { .. }) => false,
            Err(error) => return Err(whole(error)),
        };
        // The owner's own stays if it did not come from here, and what it took away does not come back: then the content is only compared.
        let stored = is_owned == source.is_known;
        let expected = source.metadata.len();
        let (file, facts) = off_the_loop(move || facts(source.file, expected)).await?;
        let file = tokio::fs::File::from_std(file);
        // Held until the ledger names it.
        let (content, _held) = if stored {
            let stored = self.store(file, expected).await?;
            (stored.content, Some(stored.hold))
        } else {
            (digest(file, expected).await?, None)
        };
        let adopted = AdoptedFile {
            directory: source.directory,
            path: source.path.clone(),
            source: Adopted { content, bytes: expected, modified_at: source.modified_at },
            content_type: views::content_type(filename).to_owned(),
            facts,
            stored,
            at: self.clock.wall(),
        };
        self.ledger.adopt_file(owner, adopted).await.map_err(whole)
    }

    /// Copies a content of `expected` bytes into the blobs.
    async fn store(&self, mut file: tokio::fs::File, expected: u64) -> Result<Stored, Fault> {
        let blobs = |error: BlobError| match error {
            BlobError::TooLarge { .. } => Fault::Source(SourceError::Changed),
            error => Fault::Whole(error.into()),
        };
        let mut writer = self.blobs.writer(expected).map_err(blobs)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = file.read(&mut piece).await?;
            if read == 0 {
                break;
            }
            writer.write(piece.get(..read).unwrap_or_default()).await.map_err(blobs)?;
        }
        let stored = writer.finish().await.map_err(blobs)?;
        if stored.bytes == expected { Ok(stored) } else { Err(SourceError::Changed.into()) }
    }

    /// Whether a token or the control API made that tenant; others are in the tenants file.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn has_made(&self, tenant: &TenantId) -> Result<bool, LedgerError> {
        tenants::in_ledger(&*self.ledger, tenant).await
    }

    /// A page of an owner's files; all of its userdata is one page.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn page(&self, request: &PageRequest) -> Result<Page, LedgerError> {
        let scope = OwnerScope { tenant: request.tenant.clone(), user: request.user.clone() };
        let Some(directory) = request.place.directory() else {
            let files = self.ledger.user_files(&scope).await?.into_iter().map(|(path, file)| OwnedEntry {
                path: path.into(),
                content: file.content,
                bytes: file.bytes,
                modified_at: file.modified_at,
            });
            return Ok(Page { files: files.collect(), next: None });
        };
        let rows = self.ledger.files_in(&scope, directory, request.after.clone(), PAGE_MAX).await?;
        let next = rows.last().filter(|_| rows.len() == PAGE_MAX);
        let next = next.map(|last| (last.subfolder.clone(), last.filename.clone()));
        Ok(Page { files: rows.into_iter().map(OwnedEntry::from).collect(), next })
    }

    /// The content of a file of userdata; none if it is not there.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn content(&self, request: &ContentRequest) -> Result<Option<Bytes>, LedgerError> {
        let scope = OwnerScope { tenant: request.tenant.clone(), user: request.user.clone() };
        match self.ledger.user_file(&scope, &request.path).await {
            Ok((_, content)) => Ok(Some(content)),
            Err(LedgerError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A source that was opened.
struct Source<'a> {
    path: &'a UserPath,
    directory: Directory,
    file: File,
    metadata: Metadata,
    modified_at: WallMillis,
    is_known: bool,
}

impl From<FileRow> for OwnedEntry {
    fn from(row: FileRow) -> Self {
        let path = if row.subfolder.is_empty() { row.filename } else { format!("{}/{}", row.subfolder, row.filename) };
        Self { path, content: row.content, bytes: row.bytes, modified_at: row.created_at }
    }
}

fn whole(error: impl Into<AdoptError>) -> Fault {
    Fault::Whole(error.into())
}

async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let ended = |error: tokio::task::JoinError| SourceError::Io(io::Error::other(error));
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

/// Opens an ordinary file that lies beneath `root` once every link is followed.
fn open_beneath(root: &Path, path: &Path) -> Result<(File, Metadata), SourceError> {
    let real = real_beneath(root, path)?;
    // A pipe would keep us waiting for its writer.
    if !std::fs::metadata(&real)?.is_file() {
        return Err(SourceError::NoFile);
    }
    let file = File::open(&real)?;
    let opened = file.metadata()?;
    // SECURITY: a folder may have become a link since. What was opened must be what lies beneath the root now.
    let now = std::fs::metadata(real_beneath(root, path)?)?;
    if !opened.is_file() || (opened.dev(), opened.ino()) != (now.dev(), now.ino()) {
        return Err(SourceError::Changed);
    }
    Ok((file, opened))
}

fn real_beneath(root: &Path, path: &Path) -> Result<PathBuf, SourceError> {
    let real = std::fs::canonicalize(path)?;
    if real.starts_with(root) { Ok(real) } else { Err(SourceError::Leaves(root.display().to_string())) }
}

/// What uploads know of their contents, so that workflows may name the file at once; what can't be read is measured when it is named, or refused then.
fn facts(mut file: File, length: u64) -> Result<(File, Option<ContentFacts>), SourceError> {
    let facts = contents::read(&mut file, length).ok();
    file.rewind()?;
    Ok((file, facts))
}

fn whole_content(file: File, limit: u64) -> Result<Bytes, SourceError> {
    let mut content = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > limit { Err(SourceError::TooLarge(limit)) } else { Ok(content.into()) }
}

async fn digest(mut file: tokio::fs::File, expected: u64) -> Result<Digest, SourceError> {
    let (mut hash, mut bytes, mut piece) = (Context::new(&SHA256), 0, vec![0; PIECE_BYTES]);
    loop {
        let read = file.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        hash.update(piece.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
    if bytes != expected {
        return Err(SourceError::Changed);
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(hash.finish().as_ref());
    Ok(Digest::from_bytes(sum))
}

fn modified(metadata: &Metadata, clock: &Clock) -> WallMillis {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_millis()).ok()).map_or_else(|| clock.wall(), WallMillis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::redb::{RedbLedger, RedbOptions};
    use std::os::unix::fs::symlink;

    struct Desk {
        dir: tempfile::TempDir,
        root: PathBuf,
        service: AdoptionService,
    }

    fn desk() -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("comfyui");
        std::fs::create_dir_all(root.join("output/sub")).unwrap();
        std::fs::create_dir_all(root.join("user/default")).unwrap();
        let state = dir.path().join("state");
        let ledger = Arc::new(RedbLedger::open(&state, RedbOptions::default()).unwrap());
        let bounds = UserBounds { file_bytes_max: 10, tenant_bytes_max: 25 };
        let clock = Clock::turned_by_hand(WallMillis(5));
        Desk { root, service: AdoptionService::new(ledger, Blobs::open(&state).unwrap(), clock, bounds), dir }
    }

    impl Desk {
        fn write(&self, path: &str, content: &str) {
            std::fs::write(self.root.join(path), content).unwrap();
        }

        fn request(&self, place: Place, files: &[&str]) -> AdoptRequest {
            AdoptRequest {
                tenant: "a".parse().unwrap(),
                user: None,
                place,
                folder: self.root.join(place.folder()),
                root: self.root.clone(),
                files: files.iter().map(|path| path.parse().unwrap()).collect(),
                dry_run: false,
            }
        }

        async fn adopt(&self, place: Place, path: &str) -> Outcome {
            self.service.adopt(&self.request(place, &[path])).await.unwrap().remove(0)
        }

        async fn content(&self, path: &str) -> String {
            let request = ContentRequest { tenant: "a".parse().unwrap(), user: None, path: path.parse().unwrap() };
            let content = self.service.content(&request).await.unwrap().unwrap();
            String::from_utf8(content.to_vec()).unwrap()
        }

        fn scope(&self) -> OwnerScope {
            OwnerScope { tenant: "a".parse().unwrap(), user: None }
        }

        async fn owner_writes(&self, path: &str, content: &'static str) {
            let write = crate::record::ledger::user_files::UserWrite {
                path: path.parse().unwrap(),
                content: Bytes::from_static(content.as_bytes()),
                replace: true,
                bounds: self.service.bounds,
                at: WallMillis(9),
            };
            self.service.ledger.write_user_file(&self.scope(), write).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_second_adoption_adds_only_what_is_new_and_keeps_what_the_owner_changed() {
        let desk = desk();
        desk.write("user/default/a.json", "one");
        assert_eq!(desk.adopt(Place::User, "a.json").await, Outcome::Done(Adoption::New));
        assert_eq!(desk.adopt(Place::User, "a.json").await, Outcome::Done(Adoption::Same));
        desk.write("user/default/a.json", "other");
        assert_eq!(desk.adopt(Place::User, "a.json").await, Outcome::Done(Adoption::Updated));
        assert_eq!(desk.content("a.json").await, "other");
        desk.owner_writes("a.json", "mine").await;
        assert_eq!(desk.adopt(Place::User, "a.json").await, Outcome::Done(Adoption::Same), "the source is as it was");
        desk.write("user/default/a.json", "newest");
        assert_eq!(desk.adopt(Place::User, "a.json").await, Outcome::Done(Adoption::Kept));
        assert_eq!(desk.content("a.json").await, "mine");
        desk.service.ledger.delete_user_file(&desk.scope(), &"a.json".parse().unwrap()).await.unwrap();
        assert_eq!(desk.adopt(Place::User, "a.json").await, Outcome::Done(Adoption::Kept), "deleted stays deleted");
    }

    #[tokio::test]
    async fn a_file_that_the_owner_had_before_is_kept_unless_it_is_the_same() {
        let desk = desk();
        desk.owner_writes("a.json", "mine").await;
        desk.owner_writes("b.json", "same").await;
        desk.write("user/default/a.json", "theirs");
        desk.write("user/default/b.json", "same");
        assert_eq!(desk.adopt(Place::User, "a.json").await, Outcome::Done(Adoption::Kept));
        assert_eq!(desk.adopt(Place::User, "b.json").await, Outcome::Done(Adoption::Same));
    }

    #[tokio::test]
    async fn an_output_is_found_by_its_name_and_the_source_stays() {
        let desk = desk();
        desk.write("output/sub/ComfyUI_00042_.png", "picture");
        assert_eq!(desk.adopt(Place::Output, "sub/ComfyUI_00042_.png").await, Outcome::Done(Adoption::New));
        let row = desk.service.ledger.owned_file(&desk.scope(), Directory::Output, "sub", "ComfyUI_00042_.png").await;
        let row = row.unwrap();
        assert_eq!((row.bytes, row.content_type.as_str(), row.job), (7, "image/png", None));
        let blob = desk.service.blobs.path(&row.content).unwrap();
        assert_eq!(std::fs::read(&blob).unwrap(), b"picture");
        desk.write("output/sub/ComfyUI_00042_.png", "changed");
        assert_eq!(std::fs::read(&blob).unwrap(), b"picture", "a content of ours never changes");
        assert_eq!(desk.adopt(Place::Output, "sub/ComfyUI_00042_.png").await, Outcome::Done(Adoption::Updated));
    }

    #[tokio::test]
    async fn a_link_is_followed_within_the_directory_and_not_out_of_it() {
        let desk = desk();
        desk.write("output/a.png", "a");
        std::fs::write(desk.dir.path().join("secret"), "s").unwrap();
        symlink(desk.root.join("output/a.png"), desk.root.join("output/in.png")).unwrap();
        symlink(desk.dir.path().join("secret"), desk.root.join("output/out.png")).unwrap();
        symlink(desk.dir.path(), desk.root.join("output/up")).unwrap();
        symlink("nowhere", desk.root.join("output/broken.png")).unwrap();
        assert_eq!(desk.adopt(Place::Output, "in.png").await, Outcome::Done(Adoption::New));
        for out in ["out.png", "up/secret", "broken.png", "sub"] {
            assert!(matches!(desk.adopt(Place::Output, out).await, Outcome::Refused(_)), "{out}");
            let (subfolder, filename) = out.rsplit_once('/').unwrap_or(("", out));
            let owned = desk.service.ledger.owned_file(&desk.scope(), Directory::Output, subfolder, filename).await;
            assert!(matches!(owned, Err(LedgerError::NotFound { .. })), "{out}");
        }
    }

    #[tokio::test]
    async fn userdata_of_the_limit_is_adopted_and_a_byte_more_is_refused() {
        let desk = desk();
        desk.write("user/default/whole", "0123456789");
        desk.write("user/default/more", "0123456789a");
        assert_eq!(desk.adopt(Place::User, "whole").await, Outcome::Done(Adoption::New));
        assert!(matches!(desk.adopt(Place::User, "more").await, Outcome::Refused(_)));
        desk.write("user/default/second", "0123456789");
        desk.write("user/default/third", "012345");
        assert_eq!(desk.adopt(Place::User, "second").await, Outcome::Done(Adoption::New));
        assert!(matches!(desk.adopt(Place::User, "third").await, Outcome::Refused(text) if text.contains("25")));
    }

    #[tokio::test]
    async fn a_dry_run_tells_what_would_be_read_and_changes_nothing() {
        let desk = desk();
        desk.write("output/a.png", "a");
        let dry = AdoptRequest { dry_run: true, ..desk.request(Place::Output, &["a.png"]) };
        for _ in 0..2 {
            assert_eq!(desk.service.adopt(&dry).await.unwrap(), [Outcome::Done(Adoption::New)]);
        }
        desk.adopt(Place::Output, "a.png").await;
        assert_eq!(desk.service.adopt(&dry).await.unwrap(), [Outcome::Done(Adoption::Same)]);
    }

    #[tokio::test]
    async fn folders_must_be_absolute_and_requests_bounded() {
        let desk = desk();
        let relative = AdoptRequest { root: "x".into(), folder: "x/output".into(), ..desk.request(Place::Output, &[]) };
        assert!(matches!(desk.service.adopt(&relative).await, Err(AdoptError::Folder)));
        let elsewhere = AdoptRequest { folder: "/".into(), ..desk.request(Place::Output, &[]) };
        assert!(matches!(desk.service.adopt(&elsewhere).await, Err(AdoptError::Folder)));
        let names: Vec<String> = (0..=BATCH_MAX).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let many = desk.request(Place::Output, &names);
        assert!(matches!(desk.service.adopt(&many).await, Err(AdoptError::TooMany)));
        assert_eq!(desk.service.adopt(&desk.request(Place::Output, &names[1..])).await.unwrap().len(), BATCH_MAX);
    }
}
