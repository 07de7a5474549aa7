//! `commit`: the one attempt that counts, its files and their shown names.

use super::Keep;
use super::keeping;
use super::readings::{not_found, number};
use super::storage::Fault;
use super::tables::{Tables, encoded};
use super::transitions::{current, end};
use crate::clock::WallMillis;
use crate::ids::AttemptId;
use crate::owner::Owner;
use crate::record::ledger::{Directory, FileRow, Job, JobResult, LedgerError, NewFile, NewName, Outcome, ResultFile};
use ::redb::ReadableTable;
use serde_json::Value;
use std::collections::BTreeMap;

/// What files share that are numbered in one row: directory, subfolder, prefix.
type Series = (Directory, String, String);

pub(super) fn commit(
    tables: &mut Tables<'_>,
    attempt: AttemptId,
    outcome: Outcome,
    result: JobResult,
    files: Vec<NewFile>,
    at: WallMillis,
    keep: Keep,
) -> Result<(Job, JobResult), Fault> {
    let wanted = "commit it";
    let row = current(tables, attempt, wanted)?;
    if outcome == Outcome::Cancelled {
        // Cancelled means that it never ran.
        return Err(LedgerError::WrongState { job: attempt.job, found: row.job.state, wanted }.into());
    }
    let scope = row.job.owner.scope().key();
    let numbers = Numbers::drawn(tables, &scope, &files)?;
    let rows: Vec<FileRow> = files.iter().map(|file| file_row(&row.job.owner, attempt, file, &numbers, at)).collect();
    let result = with_names(result, &files, &rows, at)?;
    let stored = rows.iter().map(encoded).collect::<Result<Vec<_>, _>>()?;

    // `end` checks the rest before it writes, so it goes first.
    let job = end(tables, row, outcome, Some(&result), at, keep)?;
    numbers.store(tables, &scope)?;
    for (file, stored) in rows.iter().zip(stored) {
        let id = number(file.id.bytes());
        tables.files.insert(id, stored.as_slice())?;
        let name = (scope.as_str(), file.directory.name(), file.subfolder.as_str(), file.filename.as_str());
        tables.names.insert(name, id)?;
    }
    for file in &rows {
        keeping::keep_file(tables, file, false)?;
    }
    Ok((job, result))
}

/// The shown numbers of one commit.
#[derive(Default)]
struct Numbers {
    /// By series, then by upstream number.
    drawn: BTreeMap<Series, BTreeMap<u64, u64>>,
    /// What each series goes on with.
    next: BTreeMap<Series, u64>,
}

impl Numbers {
    /// Draws a number for each group, in the order of the upstream numbers, passing over names that are taken.
    fn drawn(tables: &Tables<'_>, scope: &str, files: &[NewFile]) -> Result<Self, Fault> {
        let mut groups: BTreeMap<Series, BTreeMap<u64, Vec<&str>>> = BTreeMap::new();
        for file in files {
            if let NewName::Numbered { prefix, group, suffix } = &file.name {
                let series = (file.directory, file.subfolder.clone(), prefix.clone());
                groups.entry(series).or_default().entry(*group).or_default().push(suffix);
            }
        }
        let mut numbers = Self::default();
        for (series, groups) in groups {
            let (directory, subfolder, prefix) = (series.0.name(), series.1.as_str(), series.2.as_str());
            let mut next = tables.counters.get((scope, directory, subfolder, prefix))?.map_or(1, |next| next.value());
            let drawn = numbers.drawn.entry(series.clone()).or_default();
            for (group, suffixes) in groups {
                while taken(tables, (scope, directory, subfolder, prefix), next, &suffixes)? {
                    next += 1;
                }
                drawn.insert(group, next);
                next += 1;
            }
            numbers.next.insert(series, next);
        }
        Ok(numbers)
    }

    fn shown(&self, file: &NewFile) -> String {
        match &file.name {
            NewName::AsIs(name) => name.clone(),
            NewName::Numbered { prefix, group, suffix } => {
                let series = (file.directory, file.subfolder.clone(), prefix.clone());
                let number = self.drawn.get(&series).and_then(|drawn| drawn.get(group)).copied().unwrap_or(0);
                numbered(prefix, number, suffix)
            }
        }
    }

    fn store(&self, tables: &mut Tables<'_>, scope: &str) -> Result<(), Fault> {
        for ((directory, subfolder, prefix), next) in &self.next {
            tables.counters.insert((scope, directory.name(), subfolder.as_str(), prefix.as_str()), next)?;
        }
        Ok(())
    }
}

/// As ComfyUI writes it: five digits or more (folder_paths.py and nodes.py `SaveImage`, release 0.8.0).
fn numbered(prefix: &str, number: u64, suffix: &str) -> String {
    format!("{prefix}_{number:05}{suffix}")
}

/// Whether one of a group's names stands already, such as a file that came `AsIs`.
fn taken(tables: &Tables<'_>, series: (&str, &str, &str, &str), number: u64, suffixes: &[&str]) -> Result<bool, Fault> {
    let (scope, directory, subfolder, prefix) = series;
    for suffix in suffixes {
        if tables.names.get((scope, directory, subfolder, numbered(prefix, number, suffix).as_str()))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn file_row(owner: &Owner, attempt: AttemptId, file: &NewFile, numbers: &Numbers, at: WallMillis) -> FileRow {
    FileRow {
        id: file.id,
        owner: owner.clone(),
        job: Some(attempt.job),
        content: file.content,
        bytes: file.bytes,
        directory: file.directory,
        subfolder: file.subfolder.clone(),
        filename: numbers.shown(file),
        content_type: file.content_type.clone(),
        facts: None,
        created_at: at,
        used_at: None,
    }
}

/// The result with the owner's names at each file's pointer, and the list of its files.
fn with_names(mut result: JobResult, files: &[NewFile], rows: &[FileRow], at: WallMillis) -> Result<JobResult, Fault> {
    let mut outputs = Value::Object(std::mem::take(&mut result.outputs));
    for (file, row) in files.iter().zip(rows) {
        let object = outputs.pointer_mut(&file.pointer).and_then(Value::as_object_mut);
        let object = object.ok_or_else(|| not_found("file object in the result"))?;
        object.insert("filename".into(), row.filename.as_str().into());
        object.insert("subfolder".into(), row.subfolder.as_str().into());
        object.insert("type".into(), row.directory.name().into());
    }
    if let Value::Object(outputs) = outputs {
        result.outputs = outputs;
    }
    result.files = files.iter().map(named).collect();
    result.ended_at = result.ended_at.or(Some(at));
    Ok(result)
}

fn named(file: &NewFile) -> ResultFile {
    ResultFile { pointer: file.pointer.clone(), id: file.id, removed_at: None }
}
