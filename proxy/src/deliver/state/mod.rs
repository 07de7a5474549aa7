//! What ComfyUI would answer if each owner had one of its own: made from the ledger's rows, or a backend's answer scrubbed. Pure functions over rows.

pub mod history;
pub mod queue;
pub mod system;

#[cfg(test)]
pub(super) mod testing;

use crate::record::ledger::Job;
use serde_json::{Map, Value, json};

/// Why a state can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The stored submission is not what the policy engine writes: a fault of ours or of the disk.
    #[error("the stored submission of job {job} is not readable: {reason}")]
    Graph {
        /// Whose.
        job: crate::ids::JobId,
        /// What is wrong.
        reason: String,
    },
    /// The body of a command is not one that ComfyUI takes.
    #[error("{0}")]
    Command(&'static str),
}

/// `[number, prompt_id, prompt, extra_data, outputs_to_execute]` from a job and its canonical submission (facts §8.1).
fn prompt_item(job: &Job, submission: &[u8]) -> Result<Value, StateError> {
    let fault = |reason: String| StateError::Graph { job: job.id, reason };
    let mut stored: Map<String, Value> = serde_json::from_slice(submission).map_err(|error| fault(error.to_string()))?;
    let prompt = stored.remove("prompt").ok_or_else(|| fault("no `prompt`".to_owned()))?;
    let mut extra = match stored.remove("extra_data") {
        Some(Value::Object(extra)) => extra,
        None => Map::new(),
        Some(_) => return Err(fault("`extra_data` is no object".to_owned())),
    };
    if let Some(client) = &job.client_id {
        extra.insert("client_id".into(), json!(client));
    }
    extra.insert("create_time".into(), json!(job.accepted_at));
    Ok(json!([job.number, job.prompt_id, prompt, extra, job.output_nodes]))
}
