//! An owner's own files: their transitions and readings, and the list of its jobs.

use super::RedbLedger;
use super::keeping;
use super::readings::{not_found, number};
use super::storage::Fault;
use super::tables::{ADOPTED, ENDED, FILES, JOBS, JobRow, NAMES, QUEUES, Tables, USER_CONTENTS, USER_FILES};
use super::tables::{corrupt, decoded, encoded, row};
use crate::clock::WallMillis;
use crate::ids::FileId;
use crate::owner::{Owner, OwnerScope};
use crate::record::ledger::user_files::{
    Adopted, AdoptedFile, Adoption, Place, SETTINGS_BYTES_MAX, SETTINGS_FILE, USER_FILES_MAX, UserBounds, UserFile,
    UserFiles, UserPath, UserWrite, series_of,
};
use crate::record::ledger::{Directory, FileRow, JobList, LedgerError, OwnedPrompt};
use ::redb::{ReadTransaction, ReadableTable};
use async_trait::async_trait;
use bytes::Bytes;
use comfygate_policy::Digest;
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value};
use std::ops::Bound;
use tokio::sync::SemaphorePermit;

/// From here on a content takes a turn of its own.
const LARGE_BYTES: u64 = 256 << 10;

impl RedbLedger {
    /// The turn of a large content; none is needed for a small one.
    async fn turn(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        if bytes < LARGE_BYTES { None } else { self.large.acquire().await.ok() }
    }
}

#[async_trait]
impl JobList for RedbLedger {
    async fn jobs(&self, scope: &OwnerScope, ended: bool) -> Result<Vec<OwnedPrompt>, LedgerError> {
        let scope = scope.key();
        self.read("list jobs", move |snapshot| jobs(snapshot, &scope, ended)).await
    }
}

#[async_trait]
impl UserFiles for RedbLedger {
    async fn write_user_file(&self, scope: &OwnerScope, write: UserWrite) -> Result<UserFile, LedgerError> {
        let scope = scope.clone();
        // Hashed here, so that the one thread that writes has less to do.
        let content = Digest::of(&write.content);
        let _turn = self.turn(write.content.len() as u64).await;
        self.write("write a user file", move |tables| {
            if !write.replace && tables.user_files.get((scope.key().as_str(), write.path.as_str()))?.is_some() {
                return Err(LedgerError::Exists { path: write.path.to_string() }.into());
            }
            put(tables, &scope, &write.path, &write.content, content, write.bounds, write.at)
        })
        .await
    }

    async fn user_file(&self, scope: &OwnerScope, path: &UserPath) -> Result<(UserFile, Bytes), LedgerError> {
        let (scope, path) = (scope.key(), path.clone());
        self.read("read a user file", move |snapshot| {
            let key = (scope.as_str(), path.as_str());
            let file = row(&snapshot.open_table(USER_FILES)?, key)?.ok_or_else(|| not_found("file"))?;
            let contents = snapshot.open_table(USER_CONTENTS)?;
            let content = contents.get(key)?.ok_or_else(|| corrupt("a user file has no content"))?;
            Ok((file, Bytes::copy_from_slice(content.value())))
        })
        .await
    }

    async fn user_files(&self, scope: &OwnerScope) -> Result<Vec<(UserPath, UserFile)>, LedgerError> {
        let scope = scope.key();
        self.read("list user files", move |snapshot| {
            let mut found = Vec::new();
            let files = snapshot.open_table(USER_FILES)?;
            for entry in files.range((scope.as_str(), "")..)? {
                let (key, file) = entry?;
                let (owner, path) = key.value();
                if owner != scope {
                    break;
                }
                let path = path.parse().map_err(|_| corrupt("a user file has no path"))?;
                found.push((path, decoded(file.value())?));
            }
            Ok(found)
        })
        .await
    }

    async fn delete_user_file(&self, scope: &OwnerScope, path: &UserPath) -> Result<(), LedgerError> {
        let (scope, path) = (scope.clone(), path.clone());
        self.write("delete a user file", move |tables| {
            let file = file(tables, &scope.key(), &path)?.ok_or_else(|| not_found("file"))?;
            let usage = Usage::of(tables, &scope)?.without(&file);
            remove(tables, &scope.key(), &path)?;
            usage.store(tables, &scope)
        })
        .await
    }

    async fn move_user_file(
        &self,
        scope: &OwnerScope,
        from: &UserPath,
        to: &UserPath,
        replace: bool,
    ) -> Result<UserFile, LedgerError> {
        let (scope, from, to) = (scope.clone(), from.clone(), to.clone());
        // Its length is not known yet, and its content is written anew.
        let _turn = self.turn(LARGE_BYTES).await;
        self.write("move a user file", move |tables| move_file(tables, &scope, &from, &to, replace)).await
    }

    async fn change_settings(
        &self,
        scope: &OwnerScope,
        changes: Map<String, Value>,
        bounds: UserBounds,
        at: WallMillis,
    ) -> Result<(), LedgerError> {
        let scope = scope.clone();
        self.write("change settings", move |tables| {
            let path: UserPath = SETTINGS_FILE.parse().map_err(|_| corrupt("the settings have no path"))?;
            // The one thread that writes reads no more of them than that.
            if file(tables, &scope.key(), &path)?.is_some_and(|known| known.bytes > SETTINGS_BYTES_MAX) {
                return Err(settings_full());
            }
            let known = tables.user_contents.get((scope.key().as_str(), path.as_str()))?;
            let mut settings = known.map(|content| settings_of(content.value())).unwrap_or_default();
            settings.extend(changes);
            let content = settings_text(&settings)?;
            if content.len() as u64 > SETTINGS_BYTES_MAX {
                return Err(settings_full());
            }
            put(tables, &scope, &path, &content, Digest::of(&content), bounds, at).map(drop)
        })
        .await
    }

    async fn adopted(&self, scope: &OwnerScope, place: Place, path: &UserPath) -> Result<Option<Adopted>, LedgerError> {
        let (scope, path) = (scope.key(), path.clone());
        self.read("look up an adoption", move |snapshot| {
            row(&snapshot.open_table(ADOPTED)?, (scope.as_str(), place.name(), path.as_str()))
        })
        .await
    }

    async fn adopt_user_file(
        &self,
        scope: &OwnerScope,
        path: &UserPath,
        content: Bytes,
        modified_at: WallMillis,
        bounds: UserBounds,
    ) -> Result<Adoption, LedgerError> {
        let (scope, path) = (scope.clone(), path.clone());
        let source = Adopted { content: Digest::of(&content), bytes: content.len() as u64, modified_at };
        let _turn = self.turn(source.bytes).await;
        self.write("adopt a user file", move |tables| {
            let key = scope.key();
            let before: Option<Adopted> = row(&tables.adopted, (key.as_str(), Place::User.name(), path.as_str()))?;
            let owners = file(tables, &key, &path)?.map(|file| file.content);
            let adoption = adoption(&source, before.as_ref(), owners.as_ref());
            if matches!(adoption, Adoption::New | Adoption::Updated) {
                put(tables, &scope, &path, &content, source.content, bounds, modified_at)?;
            }
            remember(tables, &key, Place::User, &path, &source, adoption)
        })
        .await
    }

    async fn adopt_file(&self, owner: &Owner, file: AdoptedFile) -> Result<Adoption, LedgerError> {
        let owner = owner.clone();
        self.write("adopt a file", move |tables| adopt_file(tables, &owner, &file)).await
    }

    async fn files_in(
        &self,
        scope: &OwnerScope,
        directory: Directory,
        after: Option<(String, String)>,
        count: usize,
    ) -> Result<Vec<FileRow>, LedgerError> {
        let scope = scope.key();
        self.read("list files", move |snapshot| files_in(snapshot, &scope, directory, after, count)).await
    }
}

fn file(tables: &Tables<'_>, scope: &str, path: &UserPath) -> Result<Option<UserFile>, Fault> {
    row(&tables.user_files, (scope, path.as_str()))
}

/// Writes a file, whether one is there or not, after all is checked that could refuse it.
fn put(
    tables: &mut Tables<'_>,
    scope: &OwnerScope,
    path: &UserPath,
    content: &[u8],
    digest: Digest,
    bounds: UserBounds,
    at: WallMillis,
) -> Result<UserFile, Fault> {
    super::erasure::refuse_erased(tables, &scope.tenant)?;
    let key = scope.key();
    let bytes = content.len() as u64;
    if bytes > bounds.file_bytes_max {
        return Err(LedgerError::Full { what: "the bytes of one file", limit: bounds.file_bytes_max }.into());
    }
    let known = file(tables, &key, path)?;
    if known.is_none() {
        check_place(tables, &key, path, None)?;
    }
    let new = UserFile {
        content: digest,
        bytes,
        created_at: known.as_ref().map_or(at, |known| known.created_at),
        modified_at: at,
    };
    let mut usage = Usage::of(tables, scope)?;
    if let Some(known) = &known {
        usage = usage.without(known);
    }
    usage = usage.with(&new);
    usage.check(bounds)?;
    write(tables, &key, path, &new, content)?;
    usage.store(tables, scope)?;
    Ok(new)
}

fn write(tables: &mut Tables<'_>, scope: &str, path: &UserPath, file: &UserFile, content: &[u8]) -> Result<(), Fault> {
    let stored = encoded(file)?;
    tables.user_files.insert((scope, path.as_str()), stored.as_slice())?;
    tables.user_contents.insert((scope, path.as_str()), content)?;
    Ok(())
}

fn remove(tables: &mut Tables<'_>, scope: &str, path: &UserPath) -> Result<(), Fault> {
    tables.user_files.remove((scope, path.as_str()))?;
    tables.user_contents.remove((scope, path.as_str()))?;
    Ok(())
}

/// Refuses a new path that a folder has, or that has a file (other than `leaving`) among its folders: such a tree could not be exported.
fn check_place(tables: &Tables<'_>, scope: &str, path: &UserPath, leaving: Option<&UserPath>) -> Result<(), Fault> {
    let refused = || Fault::from(LedgerError::NoPlace { path: path.to_string() });
    for folder in path.folders() {
        let leaves = leaving.is_some_and(|leaving| leaving.as_str() == folder);
        if !leaves && tables.user_files.get((scope, folder))?.is_some() {
            return Err(refused());
        }
    }
    let below = format!("{path}/");
    for entry in tables.user_files.range((scope, below.as_str())..)? {
        let (key, _) = entry?;
        let (owner, other) = key.value();
        if owner != scope || !other.starts_with(&below) {
            break;
        }
        if leaving.is_none_or(|leaving| leaving.as_str() != other) {
            return Err(refused());
        }
    }
    Ok(())
}

fn move_file(
    tables: &mut Tables<'_>,
    scope: &OwnerScope,
    from: &UserPath,
    to: &UserPath,
    replace: bool,
) -> Result<UserFile, Fault> {
    let key = scope.key();
    let moved = file(tables, &key, from)?.ok_or_else(|| not_found("file"))?;
    let there = file(tables, &key, to)?;
    if there.is_some() && !replace {
        return Err(LedgerError::Exists { path: to.to_string() }.into());
    }
    if from == to {
        return Ok(moved);
    }
    if there.is_none() {
        check_place(tables, &key, to, Some(from))?;
    }
    let content = tables.user_contents.get((key.as_str(), from.as_str()))?;
    let content = content.ok_or_else(|| corrupt("a user file has no content"))?.value().to_vec();
    let usage = there.map(|there| Usage::of(tables, scope).map(|usage| usage.without(&there))).transpose()?;
    remove(tables, &key, from)?;
    write(tables, &key, to, &moved, &content)?;
    if let Some(usage) = usage {
        usage.store(tables, scope)?;
    }
    Ok(moved)
}

/// How many files, and how many bytes.
#[derive(Clone, Copy)]
struct Count(u64, u64);

/// What an owner and its tenant keep.
#[derive(Clone, Copy)]
struct Usage {
    owner: Count,
    tenant: Count,
}

impl Usage {
    fn of(tables: &Tables<'_>, scope: &OwnerScope) -> Result<Self, Fault> {
        let count = |key: &str| -> Result<Count, Fault> {
            Ok(tables.user_usage.get(key)?.map_or(Count(0, 0), |count| Count(count.value().0, count.value().1)))
        };
        Ok(Self { owner: count(&scope.key())?, tenant: count(scope.tenant.as_str())? })
    }

    fn with(self, file: &UserFile) -> Self {
        let more = |Count(files, bytes)| Count(files + 1, bytes.saturating_add(file.bytes));
        Self { owner: more(self.owner), tenant: more(self.tenant) }
    }

    fn without(self, file: &UserFile) -> Self {
        let less = |Count(files, bytes): Count| Count(files.saturating_sub(1), bytes.saturating_sub(file.bytes));
        Self { owner: less(self.owner), tenant: less(self.tenant) }
    }

    fn check(self, bounds: UserBounds) -> Result<(), Fault> {
        if self.owner.0 > USER_FILES_MAX {
            return Err(LedgerError::Full { what: "the files of one user", limit: USER_FILES_MAX }.into());
        }
        if self.tenant.1 > bounds.tenant_bytes_max {
            return Err(LedgerError::Full { what: "the bytes of all files", limit: bounds.tenant_bytes_max }.into());
        }
        Ok(())
    }

    fn store(self, tables: &mut Tables<'_>, scope: &OwnerScope) -> Result<(), Fault> {
        for (key, Count(files, bytes)) in [(scope.key(), self.owner), (scope.tenant.to_string(), self.tenant)] {
            // At none the row goes: a map by owner that only grows would have no bound.
            if files == 0 {
                tables.user_usage.remove(key.as_str())?;
            } else {
                tables.user_usage.insert(key.as_str(), (files, bytes))?;
            }
        }
        Ok(())
    }
}

/// The settings in a file; a damaged one holds none, as for ComfyUI (`app/app_settings.py`).
fn settings_of(content: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(content).unwrap_or_default()
}

fn settings_full() -> Fault {
    LedgerError::Full { what: "the bytes of the settings", limit: SETTINGS_BYTES_MAX }.into()
}

/// As ComfyUI writes them: `json.dumps(settings, indent=4)`.
fn settings_text(settings: &Map<String, Value>) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    settings.serialize(&mut writer).map_err(|error| corrupt(&error.to_string()))?;
    Ok(text)
}

/// What becomes of a source, by what was adopted `before` and what the owner has now.
fn adoption(source: &Adopted, before: Option<&Adopted>, owners: Option<&Digest>) -> Adoption {
    if before.is_some_and(|before| before.content == source.content) || owners == Some(&source.content) {
        return Adoption::Same;
    }
    match (before, owners) {
        (None, None) => Adoption::New,
        (Some(before), Some(owners)) if before.content == *owners => Adoption::Updated,
        _ => Adoption::Kept,
    }
}

fn remember(
    tables: &mut Tables<'_>,
    scope: &str,
    place: Place,
    path: &UserPath,
    source: &Adopted,
    adoption: Adoption,
) -> Result<Adoption, Fault> {
    // What was kept from being adopted is told each time.
    if adoption != Adoption::Kept {
        let stored = encoded(source)?;
        tables.adopted.insert((scope, place.name(), path.as_str()), stored.as_slice())?;
    }
    Ok(adoption)
}

fn adopt_file(tables: &mut Tables<'_>, owner: &Owner, adopted: &AdoptedFile) -> Result<Adoption, Fault> {
    super::erasure::refuse_erased(tables, &owner.tenant)?;
    let scope = owner.scope().key();
    let place = if adopted.directory == Directory::Output { Place::Output } else { Place::Input };
    let (subfolder, filename) = adopted.path.parts();
    let name = (scope.as_str(), adopted.directory.name(), subfolder, filename);
    let before: Option<Adopted> = row(&tables.adopted, (scope.as_str(), place.name(), adopted.path.as_str()))?;
    let known = tables.names.get(name)?.map(|id| id.value());
    let known: Option<FileRow> = match known {
        Some(id) => row(&tables.files, id)?,
        None => None,
    };
    let owners = known.as_ref().map(|known| known.content);
    let adoption = match adoption(&adopted.source, before.as_ref(), owners.as_ref()) {
        Adoption::New | Adoption::Updated if !adopted.stored => Adoption::Kept,
        other => other,
    };
    if matches!(adoption, Adoption::New | Adoption::Updated) {
        let new = FileRow {
            id: FileId::new(),
            owner: owner.clone(),
            job: None,
            content: adopted.source.content,
            bytes: adopted.source.bytes,
            directory: adopted.directory,
            subfolder: subfolder.to_owned(),
            filename: filename.to_owned(),
            content_type: adopted.content_type.clone(),
            facts: adopted.facts,
            created_at: adopted.source.modified_at,
            used_at: Some(adopted.at),
        };
        let (id, stored) = (number(new.id.bytes()), encoded(&new)?);
        tables.files.insert(id, stored.as_slice())?;
        tables.names.insert(name, id)?;
        keeping::keep_file(tables, &new, false)?;
    }
    if adoption != Adoption::Kept && adopted.directory == Directory::Output {
        count_on(tables, &scope, subfolder, filename)?;
    }
    remember(tables, &scope, place, &adopted.path, &adopted.source, adoption)
}

/// The owner's next names get numbers after this one, as one ComfyUI would number them.
fn count_on(tables: &mut Tables<'_>, scope: &str, subfolder: &str, filename: &str) -> Result<(), Fault> {
    for (prefix, next) in series_of(filename) {
        let series = (scope, Directory::Output.name(), subfolder, prefix);
        let known = tables.counters.get(series)?.map_or(1, |next| next.value());
        if next > known {
            tables.counters.insert(series, next)?;
        }
    }
    Ok(())
}

fn files_in(
    snapshot: &ReadTransaction,
    scope: &str,
    directory: Directory,
    after: Option<(String, String)>,
    count: usize,
) -> Result<Vec<FileRow>, Fault> {
    let (names, files) = (snapshot.open_table(NAMES)?, snapshot.open_table(FILES)?);
    let start = match &after {
        Some((subfolder, filename)) => {
            Bound::Excluded((scope, directory.name(), subfolder.as_str(), filename.as_str()))
        }
        None => Bound::Included((scope, directory.name(), "", "")),
    };
    let mut found = Vec::new();
    for entry in names.range::<(&str, &str, &str, &str)>((start, Bound::Unbounded))? {
        let (key, id) = entry?;
        let (owner, named, ..) = key.value();
        if owner != scope || named != directory.name() || found.len() >= count {
            break;
        }
        found.push(row(&files, id.value())?.ok_or_else(|| corrupt("a name leads to no file"))?);
    }
    Ok(found)
}

fn jobs(snapshot: &ReadTransaction, scope: &str, ended: bool) -> Result<Vec<OwnedPrompt>, Fault> {
    let mut ids = Vec::new();
    if ended {
        for entry in snapshot.open_table(ENDED)?.range((scope, 0)..=(scope, u64::MAX))? {
            let (id, shown) = entry?.1.value();
            ids.extend(shown.then_some(id));
        }
    }
    for entry in snapshot.open_table(QUEUES)?.range((scope, 0)..=(scope, u64::MAX))? {
        ids.push(entry?.1.value());
    }
    let jobs = snapshot.open_table(JOBS)?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let row: JobRow = row(&jobs, id)?.ok_or_else(|| corrupt("an index leads to no job"))?;
        found.push(OwnedPrompt::new(row.job));
    }
    found.sort_by_key(|prompt| prompt.job().number);
    Ok(found)
}
