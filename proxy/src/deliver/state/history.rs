//! `/history` (ComfyUI 0.8.0 `execution.py` `PromptQueue.get_history`; facts §8.2), with a signed `url` beside every file's name.

use super::{StateError, queue};
use crate::ids::FileId;
use crate::record::ledger::{Job, JobResult, JobState, Outcome};
use serde_json::{Map, Value, json};

/// `{"prompt":[5],"outputs":{…},"status":{"status_str","completed","messages"},"meta":{…}}`.
///
/// # Errors
/// A stored submission that can't be read.
pub fn entry(job: &Job, graph: &[u8], result: &JobResult, url: &dyn Fn(FileId) -> String) -> Result<Value, StateError> {
    let succeeded = job.state == JobState::Ended(Outcome::Succeeded);
    Ok(json!({
        "prompt": queue::item(job, graph)?,
        "outputs": outputs_with_urls(result, url),
        "status": {
            "status_str": if succeeded { "success" } else { "error" },
            "completed": succeeded,
            "messages": result.messages,
        },
        "meta": result.meta,
    }))
}

/// The outputs, with `url` added to every file object that is in the blobs, and `removed_at` (ms since 1970) to those that retention has removed. A field that a node named `url` itself stays as it is.
pub fn outputs_with_urls(result: &JobResult, url: &dyn Fn(FileId) -> String) -> Map<String, Value> {
    let mut outputs = Value::Object(result.outputs.clone());
    for file in &result.files {
        let Some(object) = outputs.pointer_mut(&file.pointer).and_then(Value::as_object_mut) else { continue };
        match file.removed_at {
            // It stays with its name: a client that asks for the file gets the 404 of one that is not there.
            Some(at) => drop(object.entry("removed_at").or_insert_with(|| json!(at))),
            None => {
                let signed = url(file.id);
                object.entry("url").or_insert_with(|| signed.into());
            }
        }
    }
    match outputs {
        Value::Object(outputs) => outputs,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::job;
    use super::*;
    use crate::record::ledger::ResultFile;

    fn result() -> JobResult {
        let outputs = json!({"9": {"images": [
            {"filename": "a_00001_.png", "subfolder": "", "type": "output"},
            {"filename": "b_00001_.png", "subfolder": "", "type": "output", "url": "own"},
        ], "text": ["x"]}});
        JobResult {
            outputs: outputs.as_object().unwrap().clone(),
            messages: vec![("execution_success".into(), json!({"prompt_id": "p1", "timestamp": 2}))],
            files: ["/9/images/0", "/9/images/1"]
                .map(|pointer| ResultFile { pointer: pointer.into(), id: FileId::new(), removed_at: None })
                .into(),
            ..JobResult::default()
        }
    }

    #[test]
    fn urls_are_added_and_never_replace_a_field() {
        let result = result();
        let outputs = outputs_with_urls(&result, &|id| format!("https://gate/{id}"));
        assert_eq!(outputs["9"]["images"][0]["url"], format!("https://gate/{}", result.files[0].id));
        assert_eq!(outputs["9"]["images"][1]["url"], "own");
        assert_eq!(outputs["9"]["text"], json!(["x"]));
    }

    #[test]
    fn a_file_that_was_removed_has_the_time_instead_of_a_url() {
        let mut result = result();
        result.files[0].removed_at = Some(crate::clock::WallMillis(7));
        let outputs = outputs_with_urls(&result, &|_| "https://gate/x".into());
        let told = json!({"filename": "a_00001_.png", "subfolder": "", "type": "output", "removed_at": 7});
        assert_eq!(outputs["9"]["images"][0], told);
        assert_eq!(outputs["9"]["images"][1].get("removed_at"), None);
    }

    #[test]
    fn an_entry_has_comfyuis_shape() {
        let graph = br#"{"prompt":{},"extra_data":{}}"#;
        let good = entry(&job(1, JobState::Ended(Outcome::Succeeded)), graph, &result(), &|_| String::new()).unwrap();
        assert_eq!(good["status"]["status_str"], "success");
        assert_eq!(good["status"]["completed"], true);
        assert_eq!(good["status"]["messages"][0][0], "execution_success");
        assert_eq!(good["prompt"].as_array().unwrap().len(), 5);
        let bad = entry(&job(1, JobState::Ended(Outcome::Interrupted)), graph, &result(), &|_| String::new()).unwrap();
        assert_eq!(
            bad["status"],
            json!({"status_str": "error", "completed": false, "messages": bad["status"]["messages"]})
        );
    }
}
