//! The canonical submissions: one file a content, `<state>/graphs/ab/<digest>`, written once and never changed.

use crate::record::durable;
use crate::record::ledger::LedgerError;
use bytes::Bytes;
use comfygate_policy::Digest;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the graphs.
pub(super) struct Graphs {
    root: PathBuf,
    temporary: PathBuf,
}

impl Graphs {
    /// Makes the folders and sweeps what a killed gateway left half-written.
    pub(super) fn open(state: &Path) -> Result<Self, LedgerError> {
        let root = state.join("graphs");
        let temporary = root.join("tmp");
        let made = durable::private_dir(&root).and_then(|()| durable::private_dir(&temporary));
        made.and_then(|()| durable::sweep(&temporary))
            .map_err(|error| LedgerError::Unavailable { action: "open the graphs", reason: error.to_string() })?;
        Ok(Self { root, temporary })
    }

    /// Puts a graph under its digest, synced; a graph that is there already is left.
    pub(super) fn keep(&self, digest: &Digest, graph: &[u8]) -> io::Result<()> {
        if Digest::of(graph) != *digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the graph is not the one its digest names"));
        }
        let target = durable::sharded(&self.root, &digest.to_string());
        // A file under its final name is whole and synced: only `durable::publish` gives it that name.
        if target.is_file() { Ok(()) } else { durable::write(&self.temporary, &target, graph) }
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
