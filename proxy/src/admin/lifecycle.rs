//! What the command line asks of the process as a whole, and the answers: between the control socket and whoever can do it.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait: each is one run of the command line.
const ASKS_MAX: usize = 16;

/// What is asked.
#[derive(Debug)]
pub enum Ask {
    /// Read the configuration again.
    Reload(oneshot::Sender<ReloadReport>),
    /// Start a successor and hand over to it.
    Upgrade(UpgradeRequest, oneshot::Sender<UpgradeReport>),
}

/// What became of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReloadReport {
    /// Whether the configuration of the files is in force; if not, the former one is, whole.
    pub applied: bool,
    /// Of the configuration in force.
    pub generation: u64,
    /// Why it was refused: every fault.
    #[serde(default)]
    pub errors: Vec<String>,
    /// What is doubtful about it.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Keys whose change only a restart applies.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

/// Which successor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// Its binary, absolute; absent: the file that the running one was started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
}

/// What became of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeReport {
    /// That process serves now.
    Serving(u32),
    /// Nothing was handed over: the former process goes on.
    Refused(String),
    /// It was handed over, and the successor does not serve.
    Failed(String),
}

/// The sending end, for the control socket.
#[derive(Debug, Clone)]
pub struct Asks(mpsc::Sender<Ask>);

/// Both ends.
pub fn channel() -> (Asks, mpsc::Receiver<Ask>) {
    let (sender, receiver) = mpsc::channel(ASKS_MAX);
    (Asks(sender), receiver)
}

impl Asks {
    /// Asks, and waits for the answer; `None` once the gateway ends.
    pub async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(ask(answer)).await.ok()?;
        answered.await.ok()
    }
}
