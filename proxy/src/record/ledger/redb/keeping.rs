//! [`Keeping`] on redb: an order of what a tenant has by class and time (`kept`), which row names which content (`named_by`), and contents whose last row has gone (`doomed`).
//!
//! Both indices are written in the transactions that write the rows. INVARIANT: whatever names a content in a row stands in `named_by`, or it would be deleted under that row: so a gateway that does not
//! know these tables must not write this ledger, and the schema has a number of its own for them.

use super::RedbLedger;
use super::erasure;
use super::readings::number;
use super::storage::Fault;
use super::tables::{
    ACTIVE, DOOMED, DOOMED_SINCE, FILES, JOBS, JobRow, KEPT, NAMED_BY, PINS, RESULT_BYTES, SECRETS, Tables, decoded,
    encoded, row,
};
use super::{dead_letters, refusals, transitions};
use crate::clock::WallMillis;
use crate::ids::{FileId, JobId, TenantId};
use crate::record::ledger::dead_letters::DeadLetter;
use crate::record::ledger::keeping::{
    Amount, Class, Doomed, Due, DueItem, DuePage, Erased, InUse, Keeping, Place, Progress, Removed, STEP_MAX, Store,
    Why,
};
use crate::record::ledger::refusals::RefusalRow;
use crate::record::ledger::uploads::Pin;
use crate::record::ledger::{Directory, FileRow, JobResult, LedgerError, OwnerSecrets};
use ::redb::{ReadTransaction, ReadableTable};
use async_trait::async_trait;
use comfygate_policy::Digest;
use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

/// Entries that one look passes over at most: pinned ones stand where they are due.
const LOOKED_MAX: usize = 1024;

/// Jobs that pin one content and are looked at for one file of it; beyond it the file stays for now. Bounds the writer's step.
const PINS_LOOKED_MAX: usize = 256;

/// How a row names a content. Those before [`BY_SUBMISSION`] name blobs, that one and later ones graphs.
const BY_FILE: u8 = 0;
const BY_PICTURE: u8 = 1;
const BY_PIN: u8 = 2;
const BY_SUBMISSION: u8 = 3;
const BY_LETTER: u8 = 4;

/// What stands at a place: a file; an upload, whose bytes count to its tenant's room; the pictures that a job sent; an ended job.
const A_FILE: u8 = 0;
const AN_UPLOAD: u8 = 1;
const PICTURES: u8 = 2;
const A_JOB: u8 = 3;

type NamedKey = (&'static [u8; 32], u8, u128);

fn class_number(class: Class) -> u8 {
    match class {
        Class::Results => 0,
        Class::Uploads => 1,
        Class::History => 2,
    }
}

fn store_number(store: Store) -> u8 {
    match store {
        Store::Blobs => 0,
        Store::Graphs => 1,
    }
}

/// What a file counts as.
fn class_of(row: &FileRow) -> Class {
    if row.job.is_some() || row.directory == Directory::Output { Class::Results } else { Class::Uploads }
}

#[async_trait]
impl Keeping for RedbLedger {
    async fn due(&self, tenant: &TenantId, due: Due, from: Option<Progress>) -> Result<DuePage, LedgerError> {
        let tenant = tenant.clone();
        self.read("look for what is due", move |snapshot| due_page(snapshot, tenant.as_str(), due, from)).await
    }

    async fn remove(&self, tenant: &TenantId, items: Vec<DueItem>, at: WallMillis) -> Result<Removed, LedgerError> {
        let tenant = tenant.clone();
        self.write("remove what is due", move |tables| {
            let mut removed = Removed::default();
            for item in items.iter().take(STEP_MAX) {
                if remove_readable(tables, tenant.as_str(), item.place, at)? {
                    removed.add(item);
                }
            }
            Ok(removed)
        })
        .await
    }

    async fn result_bytes(&self, tenant: &TenantId) -> Result<u64, LedgerError> {
        let tenant = tenant.clone();
        self.read("count results", move |snapshot| {
            Ok(snapshot.open_table(RESULT_BYTES)?.get(tenant.as_str())?.map_or(0, |bytes| bytes.value()))
        })
        .await
    }

    async fn expire_refusals(&self, before: WallMillis) -> Result<u64, LedgerError> {
        self.write("forget old refusals", move |tables| {
            let mut gone = 0;
            while gone < STEP_MAX as u64 {
                let oldest = tables.refusals.first()?.map(|(place, stored)| (place.value(), stored.value().to_vec()));
                let Some((place, stored)) = oldest else { break };
                if decoded::<RefusalRow>(&stored)?.at >= before {
                    break;
                }
                refusals::forget(tables, place)?;
                gone += 1;
            }
            Ok(gone)
        })
        .await
    }

    async fn doomed(&self, store: Store, before: WallMillis) -> Result<Vec<Doomed>, LedgerError> {
        self.read("list contents without a row", move |snapshot| {
            let number = store_number(store);
            let doomed = snapshot.open_table(DOOMED)?;
            let mut found = Vec::new();
            for entry in doomed.range((number, 0, &[0; 32])..(number, before.0, &[0; 32]))?.take(STEP_MAX) {
                let entry = entry?;
                let (_, at, content) = entry.0.value();
                found.push(Doomed { at: WallMillis(at), content: Digest::from_bytes(*content) });
            }
            Ok(found)
        })
        .await
    }

    async fn unnamed(&self, store: Store, contents: Vec<Digest>) -> Result<Vec<Digest>, LedgerError> {
        self.read("look for rows of contents", move |snapshot| {
            let (named_by, since) = (snapshot.open_table(NAMED_BY)?, snapshot.open_table(DOOMED_SINCE)?);
            let mut unnamed = Vec::new();
            for content in contents {
                let is_doomed = since.get((store_number(store), content.as_bytes()))?.is_some();
                if !is_doomed && !is_named(&named_by, store, &content)? {
                    unnamed.push(content);
                }
            }
            Ok(unnamed)
        })
        .await
    }

    async fn settle(&self, store: Store, doomed: Vec<Doomed>) -> Result<Vec<Digest>, LedgerError> {
        self.write("settle contents without a row", move |tables| {
            let mut unnamed = Vec::new();
            for Doomed { at, content } in doomed {
                let key = (store_number(store), content.as_bytes());
                let since = tables.doomed_since.get(key)?.map(|since| since.value());
                // It was named meanwhile and lost its row again: its grace has begun anew.
                if since.is_some_and(|since| since != at.0) {
                    continue;
                }
                undoom(tables, store, &content)?;
                if !is_named(&tables.named_by, store, &content)? {
                    unnamed.push(content);
                }
            }
            Ok(unnamed)
        })
        .await
    }

    async fn delete_graphs(&self, doomed: Vec<Doomed>) -> Result<Amount, LedgerError> {
        let claims: Vec<_> = doomed.iter().filter_map(|one| self.graphs.holds().claim(one.content)).collect();
        let claimed = |one: &Doomed| claims.iter().any(|claim| *claim.content() == one.content);
        let unnamed = self.settle(Store::Graphs, doomed.into_iter().filter(claimed).collect()).await?;
        let graphs = Arc::clone(&self.graphs);
        // The claims go with the task: if the caller goes away, they end when it is done.
        let deleting = tokio::task::spawn_blocking(move || {
            let mut amount = Amount::default();
            for content in claims.iter().map(|claim| claim.content()).filter(|content| unnamed.contains(content)) {
                if let Some(bytes) = graphs.delete(content) {
                    amount += Amount { count: 1, bytes };
                }
            }
            amount
        });
        deleting.await.map_err(|error| LedgerError::Unavailable { action: "delete graphs", reason: error.to_string() })
    }

    async fn graphs_of(&self, shard: u8, before: WallMillis) -> Result<Vec<Digest>, LedgerError> {
        let graphs = Arc::clone(&self.graphs);
        let unavailable = |reason: String| LedgerError::Unavailable { action: "list graphs", reason };
        let listing = tokio::task::spawn_blocking(move || graphs.listed(shard, before));
        listing.await.map_err(|error| unavailable(error.to_string()))?.map_err(|error| unavailable(error.to_string()))
    }

    async fn erase(&self, tenant: &TenantId, at: WallMillis) -> Result<Erased, LedgerError> {
        let tenant = tenant.clone();
        self.write("erase a tenant", move |tables| erase(tables, &tenant, at)).await
    }

    async fn folders(&self, tenant: &TenantId) -> Result<Vec<String>, LedgerError> {
        let (from, to) = scopes_of(tenant);
        self.read("list folders", move |snapshot| {
            let mut folders = Vec::new();
            for entry in snapshot.open_table(SECRETS)?.range(from.as_str()..to.as_str())? {
                match decoded::<OwnerSecrets>(entry?.1.value()) {
                    Ok(secrets) => folders.push(secrets.folder),
                    // It must not keep the rest from going; only by its name would what is in it be known to be ours.
                    Err(_) => tracing::error!(
                        "the name of an owner's folder can't be read: what is in it stays at the backends"
                    ),
                }
            }
            Ok(folders)
        })
        .await
    }

    async fn in_use(&self) -> Result<InUse, LedgerError> {
        self.read("list what is in use", in_use).await
    }
}

/// The scopes of a tenant lie between these two: `/` is in no tenant's id, and `0` comes right after it.
pub(super) fn scopes_of(tenant: &TenantId) -> (String, String) {
    (format!("{tenant}/"), format!("{tenant}0"))
}

/// Whether a row names a content of that store.
fn is_named(named_by: &impl ReadableTable<NamedKey, ()>, store: Store, content: &Digest) -> Result<bool, Fault> {
    let (first, last) = match store {
        Store::Blobs => (BY_FILE, BY_PIN),
        Store::Graphs => (BY_SUBMISSION, u8::MAX),
    };
    let content = content.as_bytes();
    Ok(named_by.range((content, first, 0)..=(content, last, u128::MAX))?.next().transpose()?.is_some())
}

fn in_use(snapshot: &ReadTransaction) -> Result<InUse, Fault> {
    let mut found = InUse::default();
    for entry in snapshot.open_table(SECRETS)?.iter()? {
        found.owners.insert(decoded::<OwnerSecrets>(entry?.1.value())?.folder);
    }
    for entry in snapshot.open_table(PINS)?.iter()? {
        found.pinned.extend(decoded::<Vec<Pin>>(entry?.1.value())?.iter().map(|pin| pin.file));
    }
    let jobs = snapshot.open_table(JOBS)?;
    for entry in snapshot.open_table(ACTIVE)?.iter()? {
        let Some(row) = row::<_, JobRow>(&jobs, entry?.1.value())? else { continue };
        let current = row.job.attempts.last().filter(|attempt| attempt.lost.is_none());
        found.attempts.extend(current.map(|attempt| (row.job.id, attempt.n)));
    }
    Ok(found)
}

/// Looks on from `from`, class by class, oldest first.
fn due_page(snapshot: &ReadTransaction, tenant: &str, due: Due, from: Option<Progress>) -> Result<DuePage, Fault> {
    let kept = snapshot.open_table(KEPT)?;
    let mut left = match from {
        Some(from) => from.result_bytes,
        None => snapshot.open_table(RESULT_BYTES)?.get(tenant)?.map_or(0, |bytes| bytes.value()),
    };
    let first = from.map_or(Class::Results, |from| from.after.class);
    let (mut page, mut looked) = (DuePage::default(), 0);
    for class in Class::ALL.into_iter().filter(|class| *class >= first) {
        let number = class_number(class);
        let start = match from.filter(|from| from.after.class == class) {
            Some(from) => Bound::Excluded((tenant, number, from.after.at.0, from.after.id)),
            None => Bound::Included((tenant, number, 0, 0)),
        };
        let end = Bound::Included((tenant, number, u64::MAX, u128::MAX));
        for entry in kept.range::<(&str, u8, u64, u128)>((start, end))? {
            let (key, value) = entry?;
            let ((_, _, at, id), (bytes, what)) = (key.value(), value.value());
            let place = Place { class, at: WallMillis(at), id };
            let Some(why) = why_due(due, place, left) else { break };
            looked += 1;
            if what == PICTURES || what == A_JOB || !is_pinned_in(snapshot, id)? {
                page.items.push(DueItem { place, bytes, why });
                left = left.saturating_sub(if class == Class::Results { bytes } else { 0 });
            }
            if page.items.len() >= STEP_MAX || looked >= LOOKED_MAX {
                page.next = Some(Progress { after: place, result_bytes: left });
                return Ok(page);
            }
        }
    }
    Ok(page)
}

/// Why something at that place is due, while `result_bytes` of results are there; none: neither it nor what comes after it in its class is.
fn why_due(due: Due, place: Place, result_bytes: u64) -> Option<Why> {
    let before = match place.class {
        Class::Results => due.results_before,
        Class::Uploads => due.uploads_before,
        Class::History => due.history_before,
    };
    if before.is_some_and(|before| place.at < before) {
        return Some(Why::Age);
    }
    let over = due.result_bytes_max.is_some_and(|max| result_bytes > max);
    (place.class == Class::Results && over && place.at < due.over_bytes_before).then_some(Why::Bytes)
}

fn is_pinned_in(snapshot: &ReadTransaction, file: u128) -> Result<bool, Fault> {
    let (files, named_by, pins) =
        (snapshot.open_table(FILES)?, snapshot.open_table(NAMED_BY)?, snapshot.open_table(PINS)?);
    readable_or_kept(is_pinned(&files, &named_by, &pins, file), file)
}

/// What can't be read stays: nobody can say what it is, and it must not stop what comes after it.
fn readable_or_kept(pinned: Result<bool, Fault>, file: u128) -> Result<bool, Fault> {
    match pinned {
        Err(Fault::Refused(error)) => {
            tracing::error!(file = %format_args!("{file:032x}"), %error, "a file whose row can't be read is kept");
            Ok(true)
        }
        other => other,
    }
}

/// Whether a job that has not ended has pinned that file.
fn is_pinned(
    files: &impl ReadableTable<u128, &'static [u8]>,
    named_by: &impl ReadableTable<NamedKey, ()>,
    pins: &impl ReadableTable<u128, &'static [u8]>,
    file: u128,
) -> Result<bool, Fault> {
    let Some(found) = row::<_, FileRow>(files, file)? else { return Ok(false) };
    let content = found.content.as_bytes();
    // Another file of the same content may be what is pinned.
    for (looked, entry) in named_by.range((content, BY_PIN, 0)..=(content, BY_PIN, u128::MAX))?.enumerate() {
        // Perhaps not; it is looked at again with the next run.
        if looked >= PINS_LOOKED_MAX {
            return Ok(true);
        }
        let (_, _, job) = entry?.0.value();
        let pinned: Option<Vec<Pin>> = row(pins, job)?;
        if pinned.is_some_and(|pinned| pinned.iter().any(|pin| pin.file == found.id)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes what stands there, unless it can't be read.
fn remove_readable(tables: &mut Tables<'_>, tenant: &str, place: Place, at: WallMillis) -> Result<bool, Fault> {
    match remove_one(tables, tenant, place, at) {
        Err(Fault::Refused(error)) => {
            tracing::error!(id = %format_args!("{:032x}", place.id), %error, "what is due is kept");
            Ok(false)
        }
        done => done,
    }
}

/// Reads and checks all before it writes. `false`: it is not there any more, or pinned.
fn remove_one(tables: &mut Tables<'_>, tenant: &str, place: Place, at: WallMillis) -> Result<bool, Fault> {
    let key = (tenant, class_number(place.class), place.at.0, place.id);
    let Some((bytes, what)) = tables.kept.get(key)?.map(|value| value.value()) else { return Ok(false) };
    match what {
        A_JOB => {
            transitions::forget(tables, job_id(place.id), Some(at))?;
            // What led to a job that was not there is gone as well.
            unkeep(tables, key, bytes, what)?;
            Ok(true)
        }
        PICTURES => {
            let result: Option<JobResult> = row(&tables.results, place.id)?;
            let cleared = result.as_ref().map(|result| JobResult { sent: Vec::new(), ..result.clone() });
            let cleared = cleared.map(|result| encoded(&result)).transpose()?;
            unkeep(tables, key, bytes, what)?;
            for picture in result.iter().flat_map(|result| &result.sent) {
                unname(tables, &picture.content, BY_PICTURE, place.id, at)?;
            }
            if let Some(cleared) = cleared {
                tables.results.insert(place.id, cleared.as_slice())?;
            }
            Ok(true)
        }
        _ => remove_file(tables, key, (bytes, what), at),
    }
}

fn remove_file(
    tables: &mut Tables<'_>,
    key: (&str, u8, u64, u128),
    (bytes, what): (u64, u8),
    at: WallMillis,
) -> Result<bool, Fault> {
    let id = key.3;
    let Some(found) = row::<_, FileRow>(&tables.files, id)? else {
        unkeep(tables, key, bytes, what)?;
        return Ok(true);
    };
    if is_pinned(&tables.files, &tables.named_by, &tables.pins, id)? {
        return Ok(false);
    }
    let told = match found.job {
        Some(job) => told_as_removed(tables, job, found.id, at)?,
        None => None,
    };
    let scope = found.owner.scope().key();
    let name = (scope.as_str(), found.directory.name(), found.subfolder.as_str(), found.filename.as_str());
    // A later file may have taken the name over.
    let has_name = tables.names.get(name)?.is_some_and(|named| named.value() == id);

    unkeep(tables, key, bytes, what)?;
    tables.files.remove(id)?;
    if has_name {
        tables.names.remove(name)?;
    }
    unname(tables, &found.content, BY_FILE, id, at)?;
    if let Some((job, told)) = told {
        tables.results.insert(job, told.as_slice())?;
    }
    Ok(true)
}

/// The result of a job that says when its file was removed; none if the job was forgotten, or tells no such file.
fn told_as_removed(
    tables: &Tables<'_>,
    job: JobId,
    file: FileId,
    at: WallMillis,
) -> Result<Option<(u128, Vec<u8>)>, Fault> {
    let key = number(job.bytes());
    let Some(mut result) = row::<_, JobResult>(&tables.results, key)? else { return Ok(None) };
    for told in result.files.iter_mut().filter(|told| told.id == file) {
        told.removed_at = Some(at);
    }
    Ok(Some((key, encoded(&result)?)))
}

fn job_id(id: u128) -> JobId {
    JobId::from_bytes(id.to_be_bytes())
}

/// A new file stands in its tenant's order, and names its content. `counts`: its bytes are in its tenant's room for uploads.
pub(super) fn keep_file(tables: &mut Tables<'_>, row: &FileRow, counts: bool) -> Result<(), Fault> {
    let id = number(row.id.bytes());
    name(tables, &row.content, BY_FILE, id)?;
    let (class, what) = (class_of(row), if counts { AN_UPLOAD } else { A_FILE });
    let key = (row.owner.tenant.as_str(), class_number(class), row.counts_from().0, id);
    keep(tables, key, row.bytes, what)
}

/// The files of these that count from `at` on, with the rows that say so: uploads that a job names now. Reads only.
pub(super) fn used(
    tables: &Tables<'_>,
    files: impl Iterator<Item = FileId>,
    at: WallMillis,
) -> Result<Vec<Used>, Fault> {
    let mut used: Vec<Used> = Vec::new();
    for file in files {
        let id = number(file.bytes());
        let Some(before) = row::<_, FileRow>(&tables.files, id)? else { continue };
        let counted_from = before.counts_from();
        if class_of(&before) != Class::Uploads || counted_from >= at || used.iter().any(|used| used.id == id) {
            continue;
        }
        let now = FileRow { used_at: Some(at), ..before };
        let stored = encoded(&now)?;
        used.push(Used { id, tenant: now.owner.tenant.to_string(), counted_from, stored });
    }
    Ok(used)
}

/// An upload that counts from another time from now on.
pub(super) struct Used {
    id: u128,
    tenant: String,
    counted_from: WallMillis,
    stored: Vec<u8>,
}

/// Writes what [`used`] found.
pub(super) fn store_used(tables: &mut Tables<'_>, used: Vec<Used>, at: WallMillis) -> Result<(), Fault> {
    let class = class_number(Class::Uploads);
    for Used { id, tenant, counted_from, stored } in used {
        let before = tables.kept.remove((tenant.as_str(), class, counted_from.0, id))?.map(|value| value.value());
        if let Some(value) = before {
            tables.kept.insert((tenant.as_str(), class, at.0, id), value)?;
        }
        tables.files.insert(id, stored.as_slice())?;
    }
    Ok(())
}

/// A job that was accepted names its graph and the contents that it pinned.
pub(super) fn keep_job(tables: &mut Tables<'_>, row: &JobRow, pins: &[Pin]) -> Result<(), Fault> {
    let id = number(row.job.id.bytes());
    name(tables, &row.job.submission, BY_SUBMISSION, id)?;
    pins.iter().try_for_each(|pin| name(tables, &pin.content, BY_PIN, id))
}

/// A dead letter names its job's graph, which stays as long as it does.
pub(super) fn keep_letter(tables: &mut Tables<'_>, job: u128, submission: &Digest) -> Result<(), Fault> {
    name(tables, submission, BY_LETTER, job)
}

/// A dead letter is gone.
pub(super) fn forget_letter(
    tables: &mut Tables<'_>,
    job: u128,
    submission: &Digest,
    at: WallMillis,
) -> Result<(), Fault> {
    unname(tables, submission, BY_LETTER, job, at)
}

/// A job that has ended stands in its tenant's order with the pictures that it sent; what it had pinned is free. Its file rows are [`keep_file`]'s.
pub(super) fn keep_ended(
    tables: &mut Tables<'_>,
    row: &JobRow,
    pins: &[Pin],
    result: Option<&JobResult>,
    at: WallMillis,
) -> Result<(), Fault> {
    let id = number(row.job.id.bytes());
    for pin in pins {
        unname(tables, &pin.content, BY_PIN, id, at)?;
    }
    let tenant = row.job.owner.tenant.as_str();
    let ended_at = ended_at(row, result).0;
    keep(tables, (tenant, class_number(Class::History), ended_at, id), 0, A_JOB)?;
    let sent = result.map(|result| result.sent.as_slice()).unwrap_or_default();
    if sent.is_empty() {
        return Ok(());
    }
    for picture in sent {
        name(tables, &picture.content, BY_PICTURE, id)?;
    }
    let bytes = sent.iter().fold(0_u64, |sum, picture| sum.saturating_add(picture.bytes));
    keep(tables, (tenant, class_number(Class::Results), ended_at, id), bytes, PICTURES)
}

/// A job that is forgotten names nothing any more. What it alone had named is gone since `at`; without a time, since its end.
pub(super) fn forget_job(
    tables: &mut Tables<'_>,
    row: &JobRow,
    result: Option<&JobResult>,
    at: Option<WallMillis>,
) -> Result<(), Fault> {
    let id = number(row.job.id.bytes());
    let tenant = row.job.owner.tenant.as_str();
    let ended_at = ended_at(row, result);
    let at = at.unwrap_or(ended_at);
    unkeep(tables, (tenant, class_number(Class::History), ended_at.0, id), 0, A_JOB)?;
    let pictures = (tenant, class_number(Class::Results), ended_at.0, id);
    let kept = tables.kept.get(pictures)?.map(|value| value.value());
    if let Some((bytes, what)) = kept {
        unkeep(tables, pictures, bytes, what)?;
    }
    for picture in result.iter().flat_map(|result| &result.sent) {
        unname(tables, &picture.content, BY_PICTURE, id, at)?;
    }
    unname(tables, &row.job.submission, BY_SUBMISSION, id, at)
}

/// From when an ended job counts. One that was deleted before it ran has no result, and counts from its acceptance.
fn ended_at(row: &JobRow, result: Option<&JobResult>) -> WallMillis {
    result.and_then(|result| result.ended_at).unwrap_or(row.job.accepted_at)
}

fn keep(tables: &mut Tables<'_>, key: (&str, u8, u64, u128), bytes: u64, what: u8) -> Result<(), Fault> {
    tables.kept.insert(key, (bytes, what))?;
    if key.1 == class_number(Class::Results) {
        let before = tables.result_bytes.get(key.0)?.map_or(0, |bytes| bytes.value());
        tables.result_bytes.insert(key.0, before.saturating_add(bytes))?;
    }
    Ok(())
}

fn unkeep(tables: &mut Tables<'_>, key: (&str, u8, u64, u128), bytes: u64, what: u8) -> Result<(), Fault> {
    if tables.kept.remove(key)?.is_none() {
        return Ok(());
    }
    let sum = match what {
        AN_UPLOAD => &mut tables.uploaded,
        _ if key.1 == class_number(Class::Results) => &mut tables.result_bytes,
        _ => return Ok(()),
    };
    let left = sum.get(key.0)?.map_or(0, |bytes| bytes.value()).saturating_sub(bytes);
    // At none the row goes: a map by tenant that only grows would have no bound.
    if left == 0 {
        sum.remove(key.0)?;
    } else {
        sum.insert(key.0, left)?;
    }
    Ok(())
}

fn name(tables: &mut Tables<'_>, content: &Digest, by: u8, id: u128) -> Result<(), Fault> {
    tables.named_by.insert((content.as_bytes(), by, id), ())?;
    Ok(())
}

/// A row does not name a content any more; if it was the last one, the content is doomed.
fn unname(tables: &mut Tables<'_>, content: &Digest, by: u8, id: u128, at: WallMillis) -> Result<(), Fault> {
    tables.named_by.remove((content.as_bytes(), by, id))?;
    let store = if by >= BY_SUBMISSION { Store::Graphs } else { Store::Blobs };
    if !is_named(&tables.named_by, store, content)? {
        undoom(tables, store, content)?;
        tables.doomed.insert((store_number(store), at.0, content.as_bytes()), ())?;
        tables.doomed_since.insert((store_number(store), content.as_bytes()), at.0)?;
    }
    Ok(())
}

/// Takes a content off the list of the doomed.
fn undoom(tables: &mut Tables<'_>, store: Store, content: &Digest) -> Result<(), Fault> {
    let since = tables.doomed_since.remove((store_number(store), content.as_bytes()))?.map(|since| since.value());
    if let Some(since) = since {
        tables.doomed.remove((store_number(store), since, content.as_bytes()))?;
    }
    Ok(())
}

/// Takes at most [`STEP_MAX`] rows of a table whose keys begin with a scope of the tenant.
macro_rules! take_scoped {
    ($tables:ident.$table:ident, $taken:ident, |$key:ident| $owned:expr, |$row:ident| $borrowed:expr, $from:expr, $to:expr) => {{
        let mut keys = Vec::new();
        for entry in $tables.$table.range($from..$to)?.take(STEP_MAX.saturating_sub($taken)) {
            let entry = entry?;
            let $key = entry.0.value();
            keys.push($owned);
        }
        for $row in &keys {
            $tables.$table.remove($borrowed)?;
        }
        $taken += keys.len();
    }};
}

/// One step. What is owned by the ids of files and jobs goes first, then what hangs on the owners, their secrets last: until then their folders at backends are known to be ours.
fn erase(tables: &mut Tables<'_>, tenant: &TenantId, at: WallMillis) -> Result<Erased, Fault> {
    let active = tables.tenants.get(tenant.as_str())?.map_or(0, |count| count.value());
    if active > 0 {
        return Err(LedgerError::Busy { tenant: tenant.clone(), active }.into());
    }
    let mut erased = Erased::default();
    let mut places = Vec::new();
    for entry in tables.kept.range((tenant.as_str(), 0, 0, 0)..=(tenant.as_str(), u8::MAX, u64::MAX, u128::MAX))? {
        let (key, value) = entry?;
        let ((_, class, at, id), (bytes, _)) = (key.value(), value.value());
        let Some(class) = Class::ALL.into_iter().find(|known| class_number(*known) == class) else { continue };
        places.push(DueItem { place: Place { class, at: WallMillis(at), id }, bytes, why: Why::Age });
        if places.len() >= STEP_MAX {
            break;
        }
    }
    let mut left = Vec::new();
    for item in &places {
        if !remove_readable(tables, tenant.as_str(), item.place, at)? {
            left.push(item);
        }
        erased.removed.add(item);
    }
    remove_by_id(tables, tenant.as_str(), &left, at)?;
    if !places.is_empty() {
        return Ok(erased);
    }
    let (taken, done) = erase_rows(tables, tenant)?;
    erased.rows = taken as u64;
    erased.done = done;
    Ok(erased)
}

/// Removes, by what its index knows of it, what can't be read or is pinned by a job that is not there: its tenant goes, and it must neither stay nor hold up what comes after it.
fn remove_by_id(tables: &mut Tables<'_>, tenant: &str, items: &[&DueItem], at: WallMillis) -> Result<(), Fault> {
    if items.is_empty() {
        return Ok(());
    }
    let mut ids = HashSet::new();
    for place in items.iter().map(|item| item.place) {
        let key = (tenant, class_number(place.class), place.at.0, place.id);
        let kept = tables.kept.get(key)?.map(|value| value.value());
        if let Some((bytes, what)) = kept {
            unkeep(tables, key, bytes, what)?;
        }
        tables.files.remove(place.id)?;
        tables.jobs.remove(place.id)?;
        tables.results.remove(place.id)?;
        tables.pins.remove(place.id)?;
        ids.insert(place.id);
    }
    // No index leads from a row to the contents that it names: that is in the row.
    let mut named = Vec::new();
    for entry in tables.named_by.iter()? {
        let entry = entry?;
        let (content, by, id) = entry.0.value();
        if ids.contains(&id) {
            named.push((Digest::from_bytes(*content), by, id));
        }
    }
    named.iter().try_for_each(|(content, by, id)| unname(tables, content, *by, *id, at))
}

/// How many rows went, and whether they were the last.
fn erase_rows(tables: &mut Tables<'_>, tenant: &TenantId) -> Result<(usize, bool), Fault> {
    let (from, to) = scopes_of(tenant);
    let (from, to) = (from.as_str(), to.as_str());
    let mut refused = Vec::new();
    for entry in tables.tenant_refusals.range((tenant.as_str(), 0)..=(tenant.as_str(), u64::MAX))?.take(STEP_MAX) {
        refused.push(entry?.0.value().1);
    }
    for place in &refused {
        refusals::forget(tables, *place)?;
        // One whose row is gone has its entry still.
        tables.tenant_refusals.remove((tenant.as_str(), *place))?;
    }
    let mut taken = refused.len();
    let pair = |key: (&str, &str)| (key.0.to_owned(), key.1.to_owned());
    take_scoped!(
        tables.user_files,
        taken,
        |key| pair(key),
        |row| (row.0.as_str(), row.1.as_str()),
        (from, ""),
        (to, "")
    );
    take_scoped!(
        tables.user_contents,
        taken,
        |key| pair(key),
        |row| (row.0.as_str(), row.1.as_str()),
        (from, ""),
        (to, "")
    );
    take_scoped!(
        tables.prompt_ids,
        taken,
        |key| pair(key),
        |row| (row.0.as_str(), row.1.as_str()),
        (from, ""),
        (to, "")
    );
    take_scoped!(
        tables.idempotency,
        taken,
        |key| pair(key),
        |row| (row.0.as_str(), row.1.as_str()),
        (from, ""),
        (to, "")
    );
    take_scoped!(
        tables.adopted,
        taken,
        |key| (key.0.to_owned(), key.1.to_owned(), key.2.to_owned()),
        |row| (row.0.as_str(), row.1.as_str(), row.2.as_str()),
        (from, "", ""),
        (to, "", "")
    );
    // Of jobs whose rows could not be read; the others took theirs along.
    let place = |key: (&str, u64)| (key.0.to_owned(), key.1);
    take_scoped!(tables.ended, taken, |key| place(key), |row| (row.0.as_str(), row.1), (from, 0), (to, 0));
    take_scoped!(tables.cancelled, taken, |key| place(key), |row| (row.0.as_str(), row.1), (from, 0), (to, 0));
    let four = |key: (&str, &str, &str, &str)| [key.0, key.1, key.2, key.3].map(str::to_owned);
    take_scoped!(tables.names, taken, |key| four(key), |row| borrowed(row), (from, "", "", ""), (to, "", "", ""));
    take_scoped!(tables.counters, taken, |key| four(key), |row| borrowed(row), (from, "", "", ""), (to, "", "", ""));
    take_scoped!(tables.user_usage, taken, |key| key.to_owned(), |row| row.as_str(), from, to);
    take_scoped!(tables.scopes, taken, |key| key.to_owned(), |row| row.as_str(), from, to);
    take_scoped!(tables.secrets, taken, |key| key.to_owned(), |row| row.as_str(), from, to);
    let last = taken == 0;
    if last {
        // Once, when all that comes in steps has gone: some of it is found only by looking through a table.
        taken += erase_letters(tables, tenant)? + erasure::identity(tables, tenant)?;
        tables.user_usage.remove(tenant.as_str())?;
        tables.tenants.remove(tenant.as_str())?;
        tables.uploaded.remove(tenant.as_str())?;
        tables.result_bytes.remove(tenant.as_str())?;
    }
    Ok((taken, last))
}

/// They are few.
fn erase_letters(tables: &mut Tables<'_>, tenant: &TenantId) -> Result<usize, Fault> {
    let mut letters: Vec<(u128, DeadLetter)> = Vec::new();
    for entry in tables.dead_letters.iter()? {
        let (key, stored) = entry?;
        // One that can't be read is nobody's, and must not keep anybody's from going.
        let Ok(letter) = decoded::<DeadLetter>(stored.value()) else { continue };
        if letter.owner.tenant == *tenant {
            letters.push((key.value(), letter));
        }
    }
    for (key, letter) in &letters {
        dead_letters::forget(tables, *key, letter)?;
    }
    Ok(letters.len())
}

fn borrowed([scope, directory, subfolder, name]: &[String; 4]) -> (&str, &str, &str, &str) {
    (scope.as_str(), directory.as_str(), subfolder.as_str(), name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::keeping::suite;
    use crate::record::ledger::redb::RedbOptions;
    use crate::record::ledger::{Ledger, Outcome};

    on_redb!(
        a_result_of_the_age_stays_and_an_older_one_goes_and_its_history_tells_when,
        as_many_bytes_as_may_be_stay_and_beyond_them_the_oldest_go,
        an_upload_counts_from_the_last_job_that_names_it,
        what_a_job_has_pinned_stays_until_the_job_has_ended,
        a_content_that_two_tenants_have_is_named_until_both_have_lost_it,
        an_entry_goes_by_age_with_its_graph_and_pictures_and_its_files_stay,
        a_graph_is_deleted_once_no_job_has_it_and_not_before,
        a_dead_letter_keeps_its_graph_and_leaves_it_to_nobody,
        a_forgotten_job_leaves_its_pictures_and_graph_to_nobody,
        what_is_due_comes_in_parts_and_each_once,
        what_was_adopted_counts_from_then_and_is_in_no_room_for_uploads,
        old_refusals_are_forgotten_and_younger_ones_are_not,
        a_tenant_is_erased_when_no_job_of_it_runs_and_nobody_else_is,
        what_is_in_use_at_backends_is_told,
    );

    /// Every row of both indices.
    fn indices(ledger: &RedbLedger) -> (Vec<String>, Vec<String>) {
        let read = ledger.storage.read(|snapshot| {
            let mut found = (Vec::new(), Vec::new());
            for entry in snapshot.open_table(KEPT)?.iter()? {
                let (key, value) = entry?;
                found.0.push(format!("{:?} {:?}", key.value(), value.value()));
            }
            for entry in snapshot.open_table(NAMED_BY)?.iter()? {
                found.1.push(format!("{:?}", entry?.0.value()));
            }
            Ok(found)
        });
        read.unwrap()
    }

    #[tokio::test]
    async fn a_ledger_of_schema_2_gets_the_indices_that_a_new_one_would_have() {
        use crate::record::ledger::suite as jobs;
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        suite::a_forgotten_job_leaves_its_pictures_and_graph_to_nobody(&ledger).await;
        suite::what_was_adopted_counts_from_then_and_is_in_no_room_for_uploads(&ledger).await;
        let attempt = jobs::assigned(&ledger, &jobs::accepted(&ledger, "a", "first").await).await;
        let file = jobs::image(1, "/9/images/0");
        ledger.commit(attempt, Outcome::Succeeded, jobs::two_images(), vec![file], WallMillis(400)).await.unwrap();
        suite::what_is_in_use_at_backends_is_told(&ledger).await;
        let expected = indices(&ledger);
        assert!(expected.0.len() >= 4 && expected.1.len() >= 5, "{expected:?}");
        // As schema 2 left it: without these tables.
        ledger
            .storage
            .write(|transaction| {
                transaction.delete_table(KEPT)?;
                transaction.delete_table(NAMED_BY)?;
                transaction.delete_table(RESULT_BYTES)?;
                transaction.delete_table(DOOMED)?;
                transaction.delete_table(DOOMED_SINCE)?;
                transaction.open_table(super::super::tables::META)?.insert("schema", 2)?;
                Ok(true)
            })
            .unwrap();
        let bytes = |ledger: &RedbLedger| {
            let read = ledger
                .storage
                .read(|snapshot| Ok(snapshot.open_table(RESULT_BYTES)?.get("a")?.map_or(0, |bytes| bytes.value())));
            read.unwrap()
        };
        drop(ledger);
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        assert_eq!(indices(&ledger), expected);
        assert_eq!(bytes(&ledger), 5);
        assert!(dir.path().join("ledger.redb.v2").exists());
    }

    #[tokio::test]
    async fn what_was_doomed_before_the_process_died_is_found_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let open = || RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        suite::a_forgotten_job_leaves_its_pictures_and_graph_to_nobody(&open()).await;
        let after = open();
        for store in [Store::Blobs, Store::Graphs] {
            assert_eq!(after.doomed(store, WallMillis(u64::MAX)).await.unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_graph_that_is_being_accepted_is_not_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let digest = Digest::of(b"{}");
        let doomed = vec![Doomed { at: WallMillis(0), content: digest }];
        let held = ledger.graphs.keep(&digest, b"{}").unwrap();
        assert_eq!(ledger.delete_graphs(doomed.clone()).await.unwrap(), Amount::default());
        assert_eq!(ledger.graphs_of(digest.as_bytes()[0], WallMillis(u64::MAX)).await.unwrap(), [digest]);
        assert_eq!(ledger.graphs_of(digest.as_bytes()[0], WallMillis(0)).await.unwrap(), []);
        drop(held);
        assert_eq!(ledger.delete_graphs(doomed).await.unwrap(), Amount { count: 1, bytes: 2 });
    }
}
