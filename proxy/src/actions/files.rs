//! Files: by signed URL without a credential, or by their shown name for their owner.

use super::{Call, views};
use crate::deliver::answer::Answer;
use crate::deliver::cors;
use crate::deliver::views::file::AskedBy;
use crate::deliver::views::view::Form;
use crate::deliver::views::{file, view};
use crate::ids::FileId;
use crate::record::ledger::{FileRow, LedgerError};
use crate::reject::Rejection;

/// `GET /view`: the plain form that the page builds, for a logged-in owner.
pub(super) async fn view(call: &Call<'_>) -> Result<Answer, Rejection> {
    let wanted = view::ViewQuery::parse(&call.matched.query)?;
    let found =
        call.services.ledger.owned_file(&call.scope()?, wanted.directory, &wanted.subfolder, &wanted.filename).await;
    let row = found?;
    match wanted.form {
        Form::Whole => content(call, row, AskedBy::Name),
        form => views::form(call, &row, form).await,
    }
}

/// `GET /gate/files/{file_id}/…`: the signature is the credential.
pub(super) async fn signed_file(call: &Call<'_>) -> Result<Answer, Rejection> {
    let id: FileId =
        call.matched.params.named("file_id").and_then(|id| id.parse().ok()).ok_or_else(Rejection::not_found)?;
    // A wrong signature answers like a file that is not there: it tells nothing about ids.
    let row = match call.services.ledger.file(id).await {
        Ok(row) => row,
        Err(LedgerError::NotFound { .. }) => return Err(Rejection::not_found()),
        Err(error) => return Err(error.into()),
    };
    call.services.links.verify(&row, &call.matched.query, call.services.clock.wall())?;
    let tenant = call.services.tenants().tenant(&row.owner.tenant);
    let mut answer = content(call, row, AskedBy::Signature)?;
    // Whose file it is says the signature; whose pages may read it says that tenant's list.
    if let Some(tenant) = tenant.filter(|tenant| !tenant.cors_origins.is_empty()) {
        let origin = cors::origin_of(call.headers);
        let listed = origin.is_some_and(|origin| tenant.lists_origin(origin));
        cors::say(&mut answer.headers, cors::leave(origin, listed));
    }
    Ok(answer)
}

fn content(call: &Call<'_>, row: FileRow, by: AskedBy) -> Result<Answer, Rejection> {
    let path = call
        .services
        .blobs
        .path(&row.content)
        .ok_or_else(|| Rejection::internal(format!("content {} is not in the blobs", row.content)))?;
    Ok(file::answer(&row, by, path, call.method, call.headers))
}
