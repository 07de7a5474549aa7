//! The owner's own state in ComfyUI's shapes, from rows of the ledger; and answers about the server, scrubbed. Pure.

mod gzip;
pub mod history;
pub mod jobs;
pub mod models;
pub mod object_info;
pub mod offers;
pub mod packs;
pub mod queue;
pub mod settings;
pub mod system;
pub mod userdata;

/// Why there is no such answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A body that names no change.
    #[error("{0}")]
    Body(&'static str),
    /// A stored submission or a backend's answer that is not what it was: ours to look into.
    #[error("{what}: {reason}")]
    Unreadable {
        /// What was read.
        what: &'static str,
        /// What was wrong.
        reason: String,
    },
}
