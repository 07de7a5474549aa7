//! `/history` in ComfyUI's shape (facts §8.2; execution.py `PromptQueue.task_done`), with `url` added to file objects.

use super::{StateError, prompt_item};
use crate::ids::FileId;
use crate::record::ledger::{HistoryPage, Job, JobResult, JobState, Outcome};
use crate::route::Query;
use serde_json::{Map, Value, json};

/// One entry: `{"prompt":[5], "outputs":{…}, "status":{"status_str","completed","messages"}, "meta":{…}}`. `url` signs a file.
///
/// # Errors
/// [`StateError::Graph`].
pub fn entry(job: &Job, submission: &[u8], result: &JobResult, url: impl Fn(FileId) -> String) -> Result<Value, StateError> {
    let completed = job.state == JobState::Ended(Outcome::Succeeded);
    Ok(json!({
        "prompt": prompt_item(job, submission)?,
        "outputs": with_urls(result, url),
        "status": {
            "status_str": if completed { "success" } else { "error" },
            "completed": completed,
            "messages": result.messages,
        },
        "meta": result.meta,
    }))
}

/// The outputs with a `url` in each file object that the ledger knows. Added, never replacing: a node's own `url` stays.
pub fn with_urls(result: &JobResult, url: impl Fn(FileId) -> String) -> Map<String, Value> {
    let mut outputs = Value::Object(result.outputs.clone());
    for file in &result.files {
        if let Some(Value::Object(object)) = outputs.pointer_mut(&file.pointer) {
            object.entry("url").or_insert_with(|| url(file.id).into());
        }
    }
    match outputs {
        Value::Object(outputs) => outputs,
        _ => Map::new(),
    }
}

/// `max_items` and `offset` of the query. ComfyUI answers 500 to what is no integer; we answer 400.
///
/// # Errors
/// [`StateError::Command`].
pub fn page(query: &Query) -> Result<HistoryPage, StateError> {
    let integer = |key, wrong| match query.value(key) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| StateError::Command(wrong)),
    };
    Ok(HistoryPage {
        max_items: integer("max_items", "`max_items` is an integer")?,
        offset: integer("offset", "`offset` is an integer")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::state::testing::{SUBMISSION, job, result_with_image};
    use crate::record::ledger::ResultFile;

    fn shown(state: JobState, result: &JobResult) -> Value {
        entry(&job(state), SUBMISSION.as_bytes(), result, |id| format!("url of {id}")).unwrap()
    }

    #[test]
    fn an_entry_has_the_recorded_shape_and_a_url_more() {
        let result = result_with_image("execution_success");
        let entry = shown(JobState::Ended(Outcome::Succeeded), &result);
        let keys: Vec<&String> = entry.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["prompt", "outputs", "status", "meta"]);
        let extra = json!({"extra_pnginfo": {"workflow": {"nodes": []}}, "client_id": "tab", "create_time": 5});
        assert_eq!(entry["prompt"], json!([4, "mine", {"1": {"class_type": "EmptyImage", "inputs": {"width": 64}}}, extra, ["2"]]));
        let file = json!({"filename": "probe_00001_.png", "subfolder": "", "type": "output", "url": format!("url of {}", result.files[0].id)});
        assert_eq!(entry["outputs"], json!({"2": {"images": [file]}}));
        assert_eq!(entry["status"], json!({"status_str": "success", "completed": true, "messages": [
            ["execution_start", {"prompt_id": "mine", "timestamp": 7}], ["execution_success", {"prompt_id": "mine", "timestamp": 9}]]}));
        assert_eq!(entry["meta"]["2"]["display_node"], "2");
    }

    #[test]
    fn interrupted_and_failed_jobs_are_errors_as_in_comfyui() {
        for outcome in [Outcome::Failed, Outcome::Interrupted] {
            let entry = shown(JobState::Ended(outcome), &result_with_image("execution_interrupted"));
            assert_eq!((&entry["status"]["status_str"], &entry["status"]["completed"]), (&json!("error"), &json!(false)));
        }
    }

    #[test]
    fn a_url_of_the_nodes_own_is_not_replaced_and_a_pointer_to_no_object_is_passed_over() {
        let mut result = result_with_image("execution_success");
        result.outputs.insert("3".into(), json!({"url": "own", "text": ["x"]}));
        for pointer in ["/3", "/3/text/0", "/4", "", "x"] {
            result.files.push(ResultFile { pointer: pointer.into(), id: FileId::new() });
        }
        let outputs = with_urls(&result, |_| "ours".into());
        assert_eq!(outputs["3"], json!({"url": "own", "text": ["x"]}));
        assert_eq!(outputs["2"]["images"][0]["url"], "ours");
    }

    #[test]
    fn a_broken_submission_is_reported() {
        for broken in ["", "[]", "{}", r#"{"prompt":{},"extra_data":1}"#] {
            let job = job(JobState::Ended(Outcome::Succeeded));
            let shown = entry(&job, broken.as_bytes(), &JobResult::default(), |_| String::new());
            assert!(matches!(shown, Err(StateError::Graph { .. })), "{broken}");
        }
    }

    #[test]
    fn pages_are_integers() {
        let page = |text: &str| page(&Query::parse(text).unwrap());
        assert_eq!(page("max_items=64&offset=-1").unwrap(), HistoryPage { max_items: Some(64), offset: Some(-1) });
        assert_eq!(page("").unwrap(), HistoryPage::default());
        for wrong in ["max_items=x", "max_items=", "offset=1.5", "offset=99999999999999999999"] {
            assert!(matches!(page(wrong), Err(StateError::Command(_))), "{wrong}");
        }
    }
}
