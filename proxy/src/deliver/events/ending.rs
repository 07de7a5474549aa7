//! The last events of a job, made from its committed result: so no client hears of an end that a crash could take back.
//!
//! Order as in ComfyUI (execution.py `execute_async`, main.py `prompt_worker`): `executed` for each output node, then one of
//! `execution_success`, `execution_error`, `execution_interrupted`, then `executing` without a node.

use super::codec::{ClientEvent, Mark};
use crate::deliver::state::history::with_urls;
use crate::ids::FileId;
use crate::record::ledger::{Job, JobResult, JobState, Outcome};
use serde_json::{Value, json};

/// The final events of an ended job; `url` signs a file. Empty for a job that was deleted before it ran, of which ComfyUI says nothing either.
pub fn events(job: &Job, result: &JobResult, url: impl Fn(FileId) -> String) -> Vec<ClientEvent> {
    let outcome = match job.state {
        JobState::Ended(outcome) => outcome,
        JobState::Held | JobState::Assigned | JobState::Running => return Vec::new(),
    };
    let last = match outcome {
        Outcome::Succeeded => "execution_success",
        Outcome::Failed => "execution_error",
        Outcome::Interrupted => "execution_interrupted",
        Outcome::Cancelled => return Vec::new(),
    };
    let mut events = Vec::new();
    // Told by the backend's own event when an attempt began; a job that no backend took was never announced.
    if !job.attempts.iter().any(|attempt| attempt.started_at.is_some()) {
        events.push(message("execution_start", &data_of(job, result, "execution_start")));
    }
    for (node, output) in with_urls(result, url) {
        let display = result.meta.get(&node).and_then(|meta| meta.get("display_node")).cloned();
        let display = display.unwrap_or_else(|| json!(node));
        let data = json!({"node": node, "display_node": display, "output": output, "prompt_id": job.prompt_id});
        events.push(message("executed", &data));
    }
    events.push(message(last, &data_of(job, result, last)));
    let idle = json!({"type": "executing", "data": {"node": null, "prompt_id": job.prompt_id}});
    events.push(ClientEvent::message(&idle, Mark::Over(job.prompt_id.clone())));
    events
}

/// The event's data as the history has it; its least form if the history lacks it.
fn data_of(job: &Job, result: &JobResult, event: &str) -> Value {
    let told = result.messages.iter().find(|(name, _)| name == event).map(|(_, data)| data.clone());
    told.unwrap_or_else(|| {
        let timestamp = result.ended_at.or(result.started_at).unwrap_or(job.accepted_at);
        let mut data = json!({"prompt_id": job.prompt_id, "timestamp": timestamp});
        if let (true, Some(fields)) = (event == "execution_error", data.as_object_mut()) {
            fields.insert("exception_type".into(), json!("UnknownError"));
            fields.insert("exception_message".into(), json!("the backend reported a failure without its reason"));
            for key in ["executed", "traceback"] {
                fields.insert(key.into(), json!([]));
            }
        }
        data
    })
}

fn message(kind: &str, data: &Value) -> ClientEvent {
    ClientEvent::message(&json!({"type": kind, "data": data}), Mark::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::events::codec::Capabilities;
    use crate::deliver::state::testing::{job, result_with_image};
    use crate::record::ledger::ResultFile;

    fn told(job: &Job, result: &JobResult) -> Vec<Value> {
        let read = |event: ClientEvent| serde_json::from_slice(&event.frame(Capabilities::default()).into_data()).unwrap();
        events(job, result, |id| format!("/gate/files/{id}?s")).into_iter().map(read).collect()
    }

    fn kinds(told: &[Value]) -> Vec<&str> {
        told.iter().map(|event| event["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn success_tells_each_output_then_success_then_idle() {
        let mut job = job(JobState::Ended(Outcome::Succeeded));
        job.attempts[0].started_at = Some(job.accepted_at);
        let result = result_with_image("execution_success");
        let told = told(&job, &result);
        assert_eq!(kinds(&told), ["executed", "execution_success", "executing"]);
        let id = result.files[0].id;
        let file = json!({"filename": "probe_00001_.png", "subfolder": "", "type": "output", "url": format!("/gate/files/{id}?s")});
        let expected = json!({"node": "2", "display_node": "2", "output": {"images": [file]}, "prompt_id": "mine"});
        assert_eq!(told[0]["data"], expected);
        assert_eq!(told[1]["data"], json!({"prompt_id": "mine", "timestamp": 9}));
        assert_eq!(told[2]["data"], json!({"node": null, "prompt_id": "mine"}));
    }

    #[test]
    fn a_job_that_never_started_is_announced_with_its_error() {
        let mut job = job(JobState::Ended(Outcome::Failed));
        job.attempts[0].started_at = None;
        let told = told(&job, &JobResult::default());
        assert_eq!(kinds(&told), ["execution_start", "execution_error", "executing"]);
        assert_eq!(told[1]["data"]["traceback"], json!([]));
    }

    #[test]
    fn an_interruption_is_told_as_one() {
        let mut job = job(JobState::Ended(Outcome::Interrupted));
        job.attempts[0].started_at = Some(job.accepted_at);
        let told = told(&job, &JobResult::default());
        assert_eq!(kinds(&told), ["execution_interrupted", "executing"]);
    }

    #[test]
    fn a_job_that_goes_on_or_was_deleted_has_no_end() {
        for state in [JobState::Running, JobState::Held, JobState::Ended(Outcome::Cancelled)] {
            assert!(told(&job(state), &JobResult::default()).is_empty());
        }
    }

    #[test]
    fn a_pointer_to_nothing_adds_no_url() {
        let mut result = result_with_image("execution_success");
        result.files = vec![ResultFile { pointer: "/2/images/7".into(), id: FileId::new() }];
        let told = told(&job(JobState::Ended(Outcome::Succeeded)), &result);
        assert!(!serde_json::to_string(&told).unwrap().contains("url"));
    }
}
