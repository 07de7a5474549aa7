//! Writer, database and file lock, given up in this order.

use super::RedbLedger;
use crate::record::ledger::closing::Closing;
use async_trait::async_trait;
use std::sync::Arc;

#[async_trait]
impl Closing for RedbLedger {
    async fn close(&self) {
        let (writer, storage) = (Arc::clone(&self.writer), Arc::clone(&self.storage));
        // Syncs and waits for readings: not on an event loop.
        let closed = tokio::task::spawn_blocking(move || {
            writer.close();
            storage.close();
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "the ledger was not closed in order");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BackendId;
    use crate::record::ledger::redb::RedbOptions;
    use crate::record::ledger::{Ledger, LedgerError};

    #[tokio::test]
    async fn a_closed_ledger_can_be_opened_by_another_and_an_open_one_not() {
        let dir = tempfile::tempdir().unwrap();
        let backend: BackendId = "gpu0".parse().unwrap();
        let first = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let client = first.upstream_client(&backend).await.unwrap();
        assert!(matches!(RedbLedger::open(dir.path(), RedbOptions::default()), Err(LedgerError::Held { .. })));
        first.close().await;
        let second = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        assert_eq!(second.upstream_client(&backend).await.unwrap(), client);
        first.close().await;
        assert_eq!(second.upstream_client(&backend).await.unwrap(), client, "a second close touches nothing");
    }

    #[tokio::test]
    async fn a_closed_ledger_refuses_readings_and_transitions() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        ledger.probe().await.unwrap();
        ledger.close().await;
        assert!(matches!(ledger.probe().await, Err(LedgerError::Unavailable { .. })));
        assert!(matches!(ledger.active_jobs().await, Err(LedgerError::Unavailable { .. })));
    }

    #[tokio::test]
    async fn what_waits_when_the_ledger_closes_is_written_or_refused_and_never_lost() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Arc::new(RedbLedger::open(dir.path(), RedbOptions::default()).unwrap());
        let mut asked = Vec::new();
        for number in 0..50 {
            let (ledger, backend) = (Arc::clone(&ledger), format!("gpu{number}").parse::<BackendId>().unwrap());
            asked.push(tokio::spawn(async move { (ledger.upstream_client(&backend).await, backend) }));
        }
        tokio::task::yield_now().await;
        ledger.close().await;
        let next = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        for asked in asked {
            if let (Ok(client), backend) = asked.await.unwrap() {
                assert_eq!(next.upstream_client(&backend).await.unwrap(), client, "what was answered is there");
            }
        }
    }
}
