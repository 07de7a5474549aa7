//! The last events of a job, told from its committed result. Pure.
//!
//! ComfyUI tells each output node with `executed` as it is done, then one of `execution_success`, `execution_error`, `execution_interrupted`, then
//! `executing` without a node (facts §6.2). Here all of them come at once, after the files are in the blobs: whatever the backend had said, whatever frames
//! were lost, and however many attempts there were, an owner hears one end.

use super::codec::ClientEvent;
use crate::deliver::state::history::outputs_with_urls;
use crate::ids::FileId;
use crate::record::ledger::{Job, JobResult};
use serde_json::{Map, Value, json};

/// The events, in order. `url` signs a file's URL.
pub fn events(job: &Job, result: &JobResult, url: &dyn Fn(FileId) -> String) -> Vec<ClientEvent> {
    let mut events = Vec::new();
    let message =
        |wanted: &str| result.messages.iter().find(|(event, _)| event == wanted).and_then(|(_, data)| data.as_object());
    // No backend began it, so nobody told its start yet.
    let never_started = job.attempts.iter().all(|attempt| attempt.started_at.is_none());
    if let (true, Some(data)) = (never_started, message("execution_start")) {
        events.push(ClientEvent::message("execution_start", data.clone()));
    }
    for (node, output) in outputs_with_urls(result, url) {
        events.push(executed(job, result, &node, output));
    }
    for end in ["execution_success", "execution_error", "execution_interrupted"] {
        if let Some(data) = message(end) {
            events.push(ClientEvent::message(end, data.clone()));
        }
    }
    events.push(ClientEvent::message("executing", fields(json!({"node": null, "prompt_id": job.prompt_id}))));
    events
}

fn executed(job: &Job, result: &JobResult, node: &str, output: Value) -> ClientEvent {
    let shown = result.meta.get(node).and_then(|meta| meta.get("display_node")).cloned();
    let display_node = shown.unwrap_or_else(|| json!(node));
    ClientEvent::message(
        "executed",
        fields(json!({"node": node, "display_node": display_node, "output": output, "prompt_id": job.prompt_id})),
    )
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::dispatch::collect;
    use crate::ids::{JobId, UpstreamPromptId};
    use crate::owner::Owner;
    use crate::record::ledger::{Attempt, JobState, Outcome, ResultFile};
    use comfygate_policy::Digest;
    use tokio_tungstenite::tungstenite::Message;

    fn job(started: bool) -> Job {
        let attempt = Attempt {
            n: 1,
            backend: "gpu0".parse().unwrap(),
            upstream: UpstreamPromptId::new(),
            folder: "t/x/1-1".into(),
            assigned_at: WallMillis(1),
            started_at: started.then_some(WallMillis(2)),
            sent: false,
            lost: None,
        };
        Job {
            id: JobId::new(),
            sequence: 0,
            version: 3,
            owner: Owner { tenant: "a".parse().unwrap(), user: None, key: None },
            prompt_id: "mine".parse().unwrap(),
            number: 0,
            client_id: None,
            submission: Digest::of(b""),
            output_nodes: vec![],
            verdict: None,
            paid: false,
            accepted_at: WallMillis(0),
            state: JobState::Ended(Outcome::Succeeded),
            attempts: vec![attempt],
            cancel_requested: false,
        }
    }

    fn told(job: &Job, result: &JobResult) -> Vec<Value> {
        let events = events(job, result, &|id| format!("https://gate/{id}"));
        let text = |event: &ClientEvent| match event.frame(false) {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        };
        events.iter().map(text).collect()
    }

    #[test]
    fn outputs_come_before_the_end_and_carry_urls() {
        let id = FileId::new();
        let outputs = json!({"9": {"images": [{"filename": "a_00001_.png", "subfolder": "", "type": "output"}]}, "7": {"text": ["x"]}});
        let result = JobResult {
            outputs: fields(outputs),
            meta: fields(json!({"7": {"display_node": "5"}})),
            messages: vec![
                ("execution_start".into(), json!({"prompt_id": "mine"})),
                ("execution_success".into(), json!({"prompt_id": "mine", "timestamp": 9})),
            ],
            files: vec![ResultFile { pointer: "/9/images/0".into(), id }],
            ..JobResult::default()
        };
        let told = told(&job(true), &result);
        let kinds: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["executed", "executed", "execution_success", "executing"]);
        assert_eq!(told[0]["data"]["output"]["images"][0]["url"], format!("https://gate/{id}"));
        assert_eq!(told[1]["data"]["display_node"], "5");
        assert_eq!(told[3]["data"], json!({"node": null, "prompt_id": "mine"}));
    }

    #[test]
    fn a_job_that_no_backend_began_is_told_its_start_too() {
        let result = collect::gateway_failure(
            &"mine".parse().unwrap(),
            Some(("3", "KSampler")),
            "ValidationError",
            "no",
            WallMillis(5),
        );
        let kinds: Vec<_> = told(&job(false), &result).iter().map(|event| event["type"].clone()).collect();
        assert_eq!(kinds, ["execution_start", "execution_error", "executing"]);
        let kinds: Vec<_> = told(&job(true), &result).iter().map(|event| event["type"].clone()).collect();
        assert_eq!(kinds, ["execution_error", "executing"]);
    }
}
