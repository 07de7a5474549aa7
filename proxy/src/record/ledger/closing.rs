//! Closing a ledger while the process goes on, so that its successor can open it.

use async_trait::async_trait;

/// The end of a ledger in this process.
#[async_trait]
pub trait Closing {
    /// Finishes every transition that waits, closes the store and gives up its lock: when this resolves, another process can open it. Whatever
    /// comes after is answered `Unavailable`. A second call does nothing.
    async fn close(&self);
}
