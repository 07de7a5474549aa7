//! The canonical submissions: one file a content, `<state>/graphs/ab/<digest>`, written once, never changed, and deleted once no job has it any more.

use crate::clock::WallMillis;
use crate::record::durable;
use crate::record::holds::{Hold, Holds};
use crate::record::ledger::LedgerError;
use bytes::Bytes;
use comfygate_policy::Digest;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the graphs.
pub(super) struct Graphs {
    root: PathBuf,
    temporary: PathBuf,
    holds: Holds,
}

impl Graphs {
    /// Makes the folders and sweeps what a killed gateway left half-written.
    pub(super) fn open(state: &Path) -> Result<Self, LedgerError> {
        let root = state.join("graphs");
        let temporary = root.join("tmp");
        let made = durable::private_dir(&root).and_then(|()| durable::private_dir(&temporary));
        made.and_then(|()| durable::sweep(&temporary))
            .map_err(|error| LedgerError::Unavailable { action: "open the graphs", reason: error.to_string() })?;
        Ok(Self { root, temporary, holds: Holds::default() })
    }

    /// Who is at which of them.
    pub(super) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Puts a graph under its digest, synced; a graph that is there already is left. It is not deleted before the hold is dropped.
    pub(super) fn keep(&self, digest: &Digest, graph: &[u8]) -> io::Result<Hold> {
        if Digest::of(graph) != *digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the graph is not the one its digest names"));
        }
        let hold = self.holds.hold(*digest)?;
        let target = durable::sharded(&self.root, &digest.to_string());
        // A file under its final name is whole and synced: only `durable::publish` gives it that name.
        if !target.is_file() {
            durable::write(&self.temporary, &target, graph)?;
        }
        Ok(hold)
    }

    /// Deletes a graph, whose claim the caller has; gives its bytes if it was there.
    pub(super) fn delete(&self, digest: &Digest) -> Option<u64> {
        durable::delete(&durable::sharded(&self.root, &digest.to_string()))
    }

    /// The graphs of one folder that were written before that.
    pub(super) fn listed(&self, shard: u8, before: WallMillis) -> io::Result<Vec<Digest>> {
        durable::shard(&self.root, shard, before)
    }

    /// The graph of that digest, checked against it: what runs is what was accepted.
    pub(super) fn read(&self, digest: &Digest) -> Result<Bytes, LedgerError> {
        let unavailable = |reason: String| LedgerError::Unavailable { action: "read a graph", reason };
        match std::fs::read(durable::sharded(&self.root, &digest.to_string())) {
            Ok(graph) if Digest::of(&graph) == *digest => Ok(graph.into()),
            Ok(_) => {
                tracing::error!(%digest, "a stored graph has another content than was accepted");
                Err(LedgerError::Damaged { what: "graph" })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LedgerError::NotFound { what: "graph" }),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }
}
