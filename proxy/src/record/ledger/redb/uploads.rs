//! Uploads and pins in redb.

use super::RedbLedger;
use super::keeping;
use super::readings::number;
use super::storage::Fault;
use super::tables::{FILES, NAMES, PINS, Tables, UPLOADED, corrupt, encoded, row};
use crate::clock::WallMillis;
use crate::ids::{JobId, TenantId};
use crate::inspect::contents::ContentFacts;
use crate::owner::OwnerScope;
use crate::record::ledger::uploads::{FileName, LISTED_FILES_MAX, NAME_COPIES_MAX, NewUpload, Pin, Uploads};
use crate::record::ledger::{Directory, FileRow, LedgerError};
use ::redb::{ReadTransaction, ReadableTable};
use async_trait::async_trait;

#[async_trait]
impl Uploads for RedbLedger {
    async fn keep_upload(&self, upload: NewUpload) -> Result<FileRow, LedgerError> {
        self.write("keep an upload", move |tables| keep(tables, upload)).await
    }

    async fn uploaded_bytes(&self, tenant: &TenantId) -> Result<u64, LedgerError> {
        let tenant = tenant.clone();
        self.read("count uploads", move |snapshot| {
            Ok(snapshot.open_table(UPLOADED)?.get(tenant.as_str())?.map_or(0, |bytes| bytes.value()))
        })
        .await
    }

    async fn named_files(&self, scope: &OwnerScope, names: Vec<FileName>) -> Result<Vec<Option<FileRow>>, LedgerError> {
        let scope = scope.clone();
        self.read("look up files", move |snapshot| named(snapshot, &scope, &names)).await
    }

    async fn top_files(&self, scope: &OwnerScope, directory: Directory) -> Result<Vec<FileRow>, LedgerError> {
        let scope = scope.key();
        self.read("list files", move |snapshot| top(snapshot, &scope, directory)).await
    }

    async fn pins(&self, job: JobId) -> Result<Vec<Pin>, LedgerError> {
        self.read("read pinned files", move |snapshot| {
            Ok(row(&snapshot.open_table(PINS)?, number(job.bytes()))?.unwrap_or_default())
        })
        .await
    }
}

fn keep(tables: &mut Tables<'_>, upload: NewUpload) -> Result<FileRow, Fault> {
    super::erasure::refuse_erased(tables, &upload.owner.tenant)?;
    let scope = upload.owner.scope().key();
    let filename = match free_name(tables, &scope, &upload)? {
        Named::Present(row) => return come_again(tables, *row, upload.facts, upload.at),
        Named::Free(filename) => filename,
    };
    let tenant = upload.owner.tenant.clone();
    let used = tables.uploaded.get(tenant.as_str())?.map_or(0, |bytes| bytes.value());
    let total = used.saturating_add(upload.bytes);
    if total > upload.storage_bytes_max {
        return Err(LedgerError::NoRoom { used: total, limit: upload.storage_bytes_max }.into());
    }
    let row = FileRow {
        id: upload.id,
        owner: upload.owner,
        job: None,
        content: upload.content,
        bytes: upload.bytes,
        directory: upload.directory,
        subfolder: upload.subfolder,
        filename,
        content_type: upload.facts.kind.mime().to_owned(),
        facts: Some(upload.facts),
        created_at: upload.at,
        used_at: None,
    };
    let stored = encoded(&row)?;

    let id = number(row.id.bytes());
    tables.files.insert(id, stored.as_slice())?;
    let name = (scope.as_str(), row.directory.name(), row.subfolder.as_str(), row.filename.as_str());
    tables.names.insert(name, id)?;
    tables.uploaded.insert(tenant.as_str(), total)?;
    keeping::keep_file(tables, &row, true)?;
    Ok(row)
}

/// The same content under the same name: it is used again, and a row from before something was measured tells it now.
fn come_again(
    tables: &mut Tables<'_>,
    present: FileRow,
    facts: ContentFacts,
    at: WallMillis,
) -> Result<FileRow, Fault> {
    let used = keeping::used(tables, [present.id].into_iter(), at)?;
    let present = if used.is_empty() { present } else { FileRow { used_at: Some(at), ..present } };
    let measured = present.facts.is_some_and(|known| known != facts);
    let row = if measured { FileRow { facts: Some(facts), ..present } } else { present };
    if used.is_empty() && !measured {
        return Ok(row);
    }
    let stored = encoded(&row)?;
    keeping::store_used(tables, used, at)?;
    tables.files.insert(number(row.id.bytes()), stored.as_slice())?;
    Ok(row)
}

enum Named {
    /// The same content has the name already.
    Present(Box<FileRow>),
    Free(String),
}

fn free_name(tables: &Tables<'_>, scope: &str, upload: &NewUpload) -> Result<Named, Fault> {
    let mut filename = upload.filename.clone();
    for copy in 1..=NAME_COPIES_MAX {
        let name = (scope, upload.directory.name(), upload.subfolder.as_str(), filename.as_str());
        let Some(id) = tables.names.get(name)?.map(|id| id.value()) else { return Ok(Named::Free(filename)) };
        let present: FileRow = row(&tables.files, id)?.ok_or_else(|| corrupt("a name leads to no file"))?;
        if present.content == upload.content {
            return Ok(Named::Present(Box::new(present)));
        }
        if upload.overwrite {
            return Ok(Named::Free(filename));
        }
        filename = copy_name(&upload.filename, copy);
    }
    Err(LedgerError::NamesTaken { name: upload.filename.clone(), copies: NAME_COPIES_MAX }.into())
}

/// `name (1).png`: before the extension, as Python's `splitext` finds it.
fn copy_name(filename: &str, copy: u32) -> String {
    let first_letter = filename.find(|letter| letter != '.').unwrap_or(filename.len());
    let (stem, extension) =
        filename.rfind('.').filter(|dot| *dot > first_letter).map_or((filename, ""), |dot| filename.split_at(dot));
    format!("{stem} ({copy}){extension}")
}

fn named(snapshot: &ReadTransaction, scope: &OwnerScope, names: &[FileName]) -> Result<Vec<Option<FileRow>>, Fault> {
    let (key, files, index) = (scope.key(), snapshot.open_table(FILES)?, snapshot.open_table(NAMES)?);
    let found = names.iter().map(|name| {
        let id = match name {
            FileName::Id(id) => Some(number(id.bytes())),
            FileName::Shown { directory, subfolder, filename } => {
                index.get((key.as_str(), directory.name(), subfolder.as_str(), filename.as_str()))?.map(|id| id.value())
            }
        };
        let row: Option<FileRow> = id.map(|id| row(&files, id)).transpose()?.flatten();
        // SECURITY: the index says whose it is, the row says it again; an id says nothing by itself.
        Ok(row.filter(|row| row.owner.scope() == *scope))
    });
    found.collect()
}

fn top(snapshot: &ReadTransaction, scope: &str, directory: Directory) -> Result<Vec<FileRow>, Fault> {
    let (files, index) = (snapshot.open_table(FILES)?, snapshot.open_table(NAMES)?);
    let mut found = Vec::new();
    // Every folder's name is behind the empty one.
    for entry in
        index.range((scope, directory.name(), "", "")..(scope, directory.name(), "\0", ""))?.take(LISTED_FILES_MAX)
    {
        found.push(row(&files, entry?.1.value())?.ok_or_else(|| corrupt("a name leads to no file"))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::uploads::suite;

    on_redb!(
        a_name_is_numbered_shared_or_taken_over,
        uploads_have_their_room_to_the_byte,
        an_upload_is_its_scopes_under_any_name,
        pins_stay_until_their_job_has_ended,
        copies_of_a_name_are_bounded,
    );

    #[test]
    fn a_copy_is_numbered_before_its_extension() {
        for (name, copy) in [
            ("a.png", "a (1).png"),
            ("a.b.png", "a.b (1).png"),
            ("a", "a (1)"),
            (".png", ".png (1)"),
            ("..png", "..png (1)"),
            ("a.", "a (1)."),
        ] {
            assert_eq!(copy_name(name, 1), copy);
        }
    }
}
