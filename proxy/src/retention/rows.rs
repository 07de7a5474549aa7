//! Rows of a tenant that are due: looked for and removed in parts.

use super::{FRESH, Parts};
use crate::ids::TenantId;
use crate::record::ledger::LedgerError;
use crate::record::ledger::keeping::{Due, Removed};
use crate::tenants::Retention;

/// What of a tenant is due now. A dry run looks as a real one does, and removes nothing.
pub(super) async fn sweep(
    parts: &Parts<'_>,
    tenant: &TenantId,
    retention: Retention,
    dry_run: bool,
) -> Result<Removed, LedgerError> {
    let files_before = retention.files.map(|age| parts.ago(age));
    let due = Due {
        results_before: files_before,
        uploads_before: files_before,
        history_before: retention.history.or(retention.files).map(|age| parts.ago(age)),
        result_bytes_max: retention.result_bytes_max,
        over_bytes_before: parts.ago(FRESH),
    };
    let (mut removed, mut from) = (Removed::default(), None);
    while !(parts.stopping)() {
        let page = parts.ledger.due(tenant, due, from).await?;
        if dry_run {
            page.items.iter().for_each(|item| removed.add(item));
        } else if !page.items.is_empty() {
            removed += parts.ledger.remove(tenant, page.items, parts.now).await?;
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    Ok(removed)
}
