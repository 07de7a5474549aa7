//! The last events of a job, told from its committed result. Pure.
//!
//! ComfyUI tells each output node with `executed` as it is done, then one of `execution_success`, `execution_error`, `execution_interrupted`, then
//! `executing` without a node (facts §6.2). Here all of them come at once, after the files are in the blobs: whatever the backend had said, whatever frames
//! were lost, and however many attempts there were, an owner hears one end. Pictures that a node sent over the WebSocket come first, each run of one node's after an
//! `executing` of that node: client libraries take binary frames for the node that was told last (ComfyUI's own `websockets_api_example_ws_images.py`).

use super::codec::{ClientEvent, ImageFormat};
use super::end::{Picture, Step};
use crate::deliver::state::history::outputs_with_urls;
use crate::ids::FileId;
use crate::record::ledger::{Job, JobResult};
use comfygate_policy::Digest;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The events and pictures, in order. `url` signs a file's URL, `place` says where a content lies.
pub fn steps(
    job: &Job,
    result: &JobResult,
    url: &dyn Fn(FileId) -> String,
    place: &dyn Fn(&Digest) -> PathBuf,
) -> Vec<Step> {
    let mut events = Vec::new();
    let message =
        |wanted: &str| result.messages.iter().find(|(event, _)| event == wanted).and_then(|(_, data)| data.as_object());
    // No backend began it, so nobody told its start yet.
    let never_started = job.attempts.iter().all(|attempt| attempt.started_at.is_none());
    if let (true, Some(data)) = (never_started, message("execution_start")) {
        events.push(Step::Event(ClientEvent::message("execution_start", data.clone())));
    }
    pictures(job, result, place, &mut events);
    for (node, output) in outputs_with_urls(result, url) {
        events.push(Step::Event(executed(job, result, &node, output)));
    }
    for end in ["execution_success", "execution_error", "execution_interrupted"] {
        if let Some(data) = message(end) {
            events.push(Step::Event(ClientEvent::message(end, data.clone())));
        }
    }
    let over = fields(json!({"node": null, "prompt_id": job.prompt_id}));
    events.push(Step::Event(ClientEvent::message("executing", over)));
    events
}

fn pictures(job: &Job, result: &JobResult, place: &dyn Fn(&Digest) -> PathBuf, steps: &mut Vec<Step>) {
    for run in result.sent.chunk_by(|one, next| one.node == next.node) {
        if let Some(first) = run.first() {
            let executing = json!({"node": first.node, "display_node": first.node, "prompt_id": job.prompt_id});
            steps.push(Step::Event(ClientEvent::message("executing", fields(executing))));
        }
        steps.extend(run.iter().map(|sent| {
            Step::Picture(Picture {
                path: place(&sent.content),
                bytes: sent.bytes,
                metadata: sent.metadata.clone(),
                format: if sent.content_type == "image/jpeg" { ImageFormat::Jpeg } else { ImageFormat::Png },
            })
        }));
    }
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
    use crate::record::ledger::{Attempt, JobState, Outcome, ResultFile, SentPicture};
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
            owner: Owner { tenant: "a".parse().unwrap(), user: None, key: None, shared: false },
            prompt_id: "mine".parse().unwrap(),
            number: 0,
            client_id: None,
            submission: Digest::of(b""),
            output_nodes: vec![],
            verdict: None,
            paid: false,
            place: None,
            work: None,
            accepted_at: WallMillis(0),
            state: JobState::Ended(Outcome::Succeeded),
            attempts: vec![attempt],
            cancel_requested: false,
        }
    }

    fn told(job: &Job, result: &JobResult) -> Vec<Value> {
        let url = |id| format!("https://gate/{id}");
        let steps = steps(job, result, &url, &|content| format!("blobs/{content}").into());
        let text = |step: &Step| match step {
            Step::Event(event) => match event.frame(false) {
                Message::Text(text) => serde_json::from_str(&text).unwrap(),
                other => panic!("{other:?}"),
            },
            Step::Picture(picture) => json!({"type": "picture", "data": picture.path}),
        };
        steps.iter().map(text).collect()
    }

    fn sent(node: &str, content: &[u8]) -> SentPicture {
        let metadata = fields(json!({"node_id": node, "prompt_id": "mine"}));
        SentPicture {
            node: node.into(),
            content: Digest::of(content),
            bytes: 1,
            content_type: "image/png".into(),
            metadata,
        }
    }

    #[test]
    fn pictures_come_first_in_their_order_each_run_after_its_node() {
        let messages = vec![("execution_success".into(), json!({"prompt_id": "mine"}))];
        let sent = vec![sent("8", b"1"), sent("8", b"2"), sent("9", b"3"), sent("8", b"4")];
        let result =
            JobResult { sent, messages, outputs: fields(json!({"7": {"text": ["x"]}})), ..JobResult::default() };
        let told = told(&job(true), &result);
        let shown = |event: &Value| match event["type"].as_str().unwrap() {
            "executing" => format!("executing {}", event["data"]["node"].as_str().unwrap_or("nothing")),
            "picture" => {
                let contents: [&[u8]; 4] = [b"1", b"2", b"3", b"4"];
                let path = |content: &&[u8]| event["data"] == format!("blobs/{}", Digest::of(content)).as_str();
                format!("picture {}", contents.iter().position(path).unwrap() + 1)
            }
            other => other.to_owned(),
        };
        let all: Vec<String> = told.iter().map(shown).collect();
        let pictures =
            ["executing 8", "picture 1", "picture 2", "executing 9", "picture 3", "executing 8", "picture 4"];
        assert_eq!(all, [&pictures[..], &["executed", "execution_success", "executing nothing"]].concat());
        assert_eq!(told[0]["data"], json!({"node": "8", "display_node": "8", "prompt_id": "mine"}));
    }

    #[test]
    fn a_result_of_before_there_were_sent_pictures_still_reads() {
        let old = json!({"outputs": {}, "meta": {}, "messages": [], "started_at": 1, "ended_at": 2});
        let result: JobResult = serde_json::from_value(old).unwrap();
        assert!(result.sent.is_empty());
        let new = JobResult { sent: vec![sent("8", b"1")], ..result };
        assert_eq!(serde_json::from_str::<JobResult>(&serde_json::to_string(&new).unwrap()).unwrap(), new);
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
            files: vec![ResultFile { pointer: "/9/images/0".into(), id, removed_at: None }],
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
