//! What is asked of a snapshot.

use super::storage::Fault;
use super::tables::{
    ACTIVE, ENDED, FILES, JOBS, JobRow, KEYS, NAMES, PROMPT_IDS, QUEUES, RESULTS, SECRETS, corrupt, row,
};
use crate::authenticate::api_key::KeyRow;
use crate::ids::{FileId, JobId, KeyId, PromptId};
use crate::owner::OwnerScope;
use crate::record::ledger::{FileRow, HistoryPage, Job, JobResult, LedgerError, OwnedPrompt, OwnerSecrets};
use ::redb::{ReadTransaction, ReadableTable};

/// A UUID as key.
pub(super) fn number(bytes: [u8; 16]) -> u128 {
    u128::from_be_bytes(bytes)
}

pub(super) fn not_found(what: &'static str) -> Fault {
    Fault::Refused(LedgerError::NotFound { what })
}

pub(super) fn owned_prompt(
    snapshot: &ReadTransaction,
    scope: &OwnerScope,
    prompt_id: &PromptId,
) -> Result<OwnedPrompt, Fault> {
    let labels = snapshot.open_table(PROMPT_IDS)?;
    let id = labels.get((scope.key().as_str(), prompt_id.as_str()))?.ok_or_else(|| not_found("prompt"))?.value();
    let job = job(&snapshot.open_table(JOBS)?, id)?;
    // SECURITY: the index says whose it is, the row says it again.
    if job.owner.scope() == *scope { Ok(OwnedPrompt::new(job)) } else { Err(not_found("prompt")) }
}

pub(super) fn queue(snapshot: &ReadTransaction, scope: &str) -> Result<Vec<OwnedPrompt>, Fault> {
    let jobs = snapshot.open_table(JOBS)?;
    let mut found = Vec::new();
    for entry in snapshot.open_table(QUEUES)?.range((scope, 0)..=(scope, u64::MAX))? {
        found.push(OwnedPrompt::new(job(&jobs, entry?.1.value())?));
    }
    Ok(found)
}

pub(super) fn queue_remaining(snapshot: &ReadTransaction, scope: &str) -> Result<u64, Fault> {
    let mut count = 0;
    for entry in snapshot.open_table(QUEUES)?.range((scope, 0)..=(scope, u64::MAX))? {
        entry?;
        count += 1;
    }
    Ok(count)
}

pub(super) fn history(
    snapshot: &ReadTransaction,
    scope: &str,
    page: HistoryPage,
) -> Result<Vec<(OwnedPrompt, JobResult)>, Fault> {
    let mut ids = Vec::new();
    for entry in snapshot.open_table(ENDED)?.range((scope, 0)..=(scope, u64::MAX))? {
        let (id, shown) = entry?.1.value();
        if shown {
            ids.push(id);
        }
    }
    let (jobs, results) = (snapshot.open_table(JOBS)?, snapshot.open_table(RESULTS)?);
    let wanted = ids.get(page.cut(ids.len())).unwrap_or_default();
    wanted
        .iter()
        .map(|id| {
            let result = row(&results, *id)?.ok_or_else(|| corrupt("a history entry has no result"))?;
            Ok((OwnedPrompt::new(job(&jobs, *id)?), result))
        })
        .collect()
}

pub(super) fn result(snapshot: &ReadTransaction, id: JobId) -> Result<Option<JobResult>, Fault> {
    row(&snapshot.open_table(RESULTS)?, number(id.bytes()))
}

pub(super) fn active_jobs(snapshot: &ReadTransaction) -> Result<Vec<Job>, Fault> {
    let jobs = snapshot.open_table(JOBS)?;
    let mut found = Vec::new();
    for entry in snapshot.open_table(ACTIVE)?.iter()? {
        found.push(job(&jobs, entry?.1.value())?);
    }
    Ok(found)
}

pub(super) fn file(snapshot: &ReadTransaction, id: FileId) -> Result<FileRow, Fault> {
    row(&snapshot.open_table(FILES)?, number(id.bytes()))?.ok_or_else(|| not_found("file"))
}

/// `name`: scope, directory, subfolder, filename.
pub(super) fn owned_file(snapshot: &ReadTransaction, name: (&str, &str, &str, &str)) -> Result<FileRow, Fault> {
    let id = snapshot.open_table(NAMES)?.get(name)?.ok_or_else(|| not_found("file"))?.value();
    row(&snapshot.open_table(FILES)?, id)?.ok_or_else(|| corrupt("a name leads to no file"))
}

pub(super) fn secrets(snapshot: &ReadTransaction, scope: &str) -> Result<Option<OwnerSecrets>, Fault> {
    row(&snapshot.open_table(SECRETS)?, scope)
}

pub(super) fn key(snapshot: &ReadTransaction, id: &KeyId) -> Result<KeyRow, Fault> {
    row(&snapshot.open_table(KEYS)?, id.as_str())?.ok_or_else(|| not_found("key"))
}

fn job(jobs: &impl ReadableTable<u128, &'static [u8]>, id: u128) -> Result<Job, Fault> {
    let row: Option<JobRow> = row(jobs, id)?;
    row.map(|row| row.job).ok_or_else(|| corrupt("an index leads to no job"))
}
