//! `/queue`, `/prompt` and `/interrupt` in ComfyUI's shapes (facts §8.1, §8.3; server.py).

use super::{StateError, prompt_item};
use crate::ids::PromptId;
use crate::record::ledger::{Job, JobState};
use serde::Deserialize;
use serde_json::{Value, json};

/// Ids in one `delete`; more than any page shows.
const DELETES_MAX: usize = 10_000;

/// `{"queue_running":[item…], "queue_pending":[item…]}` of jobs with their canonical submissions, each list by number (ComfyUI's is a raw heap).
///
/// # Errors
/// [`StateError::Graph`].
pub fn queue<B: AsRef<[u8]>>(items: &[(&Job, B)]) -> Result<Value, StateError> {
    let mut sorted: Vec<&(&Job, B)> = items.iter().filter(|(job, _)| !job.state.is_ended()).collect();
    sorted.sort_by_key(|(job, _)| job.number);
    let (mut running, mut pending) = (Vec::new(), Vec::new());
    for (job, submission) in sorted {
        let list = if job.state == JobState::Running { &mut running } else { &mut pending };
        list.push(prompt_item(job, submission.as_ref())?);
    }
    Ok(json!({"queue_running": running, "queue_pending": pending}))
}

/// `{"exec_info":{"queue_remaining":n}}`: `GET /prompt`.
pub fn exec_info(queue_remaining: u64) -> Value {
    json!({"exec_info": {"queue_remaining": queue_remaining}})
}

/// The body of `POST /queue` and `POST /history`: both clear first, then delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueChange {
    /// All of the caller's.
    pub clear: bool,
    /// These; texts that can't be a prompt id name nothing and are left out.
    pub delete: Vec<PromptId>,
}

/// As written: a repeated key is refused by serde, other keys are passed over as in ComfyUI.
#[derive(Deserialize)]
struct RawChange {
    #[serde(default)]
    clear: Value,
    #[serde(default)]
    delete: Vec<String>,
}

/// As written. `Value` inside an `Option` would read `null` as absent, which here it is.
#[derive(Deserialize)]
struct RawInterrupt {
    #[serde(default)]
    prompt_id: Value,
}

impl QueueChange {
    /// Reads the body.
    ///
    /// # Errors
    /// [`StateError::Command`] for what is no object, or a `delete` that is no list of strings.
    pub fn parse(body: &[u8]) -> Result<Self, StateError> {
        let wrong = StateError::Command("the body is an object with `clear` and `delete`, a list of prompt ids as strings");
        if !begins_an_object(body) {
            return Err(wrong);
        }
        let raw: RawChange = serde_json::from_slice(body).map_err(|_| wrong)?;
        if raw.delete.len() > DELETES_MAX {
            return Err(StateError::Command("`delete` has more than 10000 ids"));
        }
        let delete = raw.delete.iter().filter_map(|id| id.parse().ok()).collect();
        Ok(Self { clear: is_true(&raw.clear), delete })
    }
}

/// The body of `POST /interrupt`: `None` for an empty one, `{}` or a false `prompt_id`: the caller's own running jobs.
///
/// # Errors
/// [`StateError::Command`]. A text that can't be a prompt id is refused too: it must not become "all of them".
pub fn parse_interrupt(body: &[u8]) -> Result<Option<PromptId>, StateError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let wrong = || StateError::Command("the body is empty or an object with `prompt_id`, a prompt id as string");
    if !begins_an_object(body) {
        return Err(wrong());
    }
    let raw: RawInterrupt = serde_json::from_slice(body).map_err(|_| wrong())?;
    if !is_true(&raw.prompt_id) {
        return Ok(None);
    }
    raw.prompt_id.as_str().and_then(|id| id.parse().ok()).map(Some).ok_or_else(wrong)
}

/// serde reads a list as a struct too, field by field.
fn begins_an_object(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// Python's truth of a JSON value.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::state::testing::{SUBMISSION, job};
    use crate::record::ledger::Outcome;

    #[test]
    fn running_and_pending_are_told_apart_and_sorted_by_number() {
        let at = |number: u64, state: JobState| Job { number, ..job(state) };
        let jobs = [at(7, JobState::Held), at(3, JobState::Running), at(5, JobState::Assigned), at(1, JobState::Ended(Outcome::Failed))];
        let items: Vec<(&Job, &[u8])> = jobs.iter().map(|job| (job, SUBMISSION.as_bytes())).collect();
        let queue = queue(&items).unwrap();
        let numbers = |list: &str| queue[list].as_array().unwrap().iter().map(|item| item[0].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!(numbers("queue_running"), [3]);
        assert_eq!(numbers("queue_pending"), [5, 7]);
    }

    #[test]
    fn an_item_has_the_five_recorded_places_and_nothing_of_ours() {
        let job = job(JobState::Running);
        let queue = queue(&[(&job, SUBMISSION)]).unwrap();
        let extra = json!({"extra_pnginfo": {"workflow": {"nodes": []}}, "client_id": "tab", "create_time": 5});
        let item = json!([4, "mine", {"1": {"class_type": "EmptyImage", "inputs": {"width": 64}}}, extra, ["2"]]);
        assert_eq!(queue, json!({"queue_running": [item], "queue_pending": []}));
        for secret in ["gpu0", "t/abc", "900", &job.id.to_string(), &job.attempts[0].upstream.to_string()] {
            assert!(!queue.to_string().contains(secret), "{secret}");
        }
    }

    #[test]
    fn a_job_without_client_has_no_client_id() {
        let job = Job { client_id: None, ..job(JobState::Held) };
        let queue = queue(&[(&job, SUBMISSION)]).unwrap();
        assert!(queue["queue_pending"][0][3].get("client_id").is_none());
    }

    #[test]
    fn exec_info_counts() {
        assert_eq!(exec_info(2).to_string(), r#"{"exec_info":{"queue_remaining":2}}"#);
    }

    #[test]
    fn clear_is_true_as_in_python() {
        for (text, clear) in [
            ("true", true), ("1", true), ("-0.5", true), (r#""false""#, true), ("[0]", true), (r#"{"a":0}"#, true),
            ("false", false), ("0", false), ("0.0", false), (r#""""#, false), ("[]", false), ("{}", false), ("null", false),
        ] {
            let change = QueueChange::parse(format!(r#"{{"clear":{text}}}"#).as_bytes()).unwrap();
            assert_eq!(change.clear, clear, "{text}");
        }
        assert_eq!(QueueChange::parse(b"{}").unwrap(), QueueChange { clear: false, delete: Vec::new() });
    }

    #[test]
    fn delete_is_a_list_of_strings() {
        let change = QueueChange::parse(br#"{"delete":["a","not an id","b"],"other":1}"#).unwrap();
        assert_eq!(change.delete, ["a".parse().unwrap(), "b".parse().unwrap()]);
        for wrong in ["", "[]", r#"[true,["a"]]"#, "null", r#"{"delete":"a"}"#, r#"{"delete":[1]}"#, r#"{"delete":null}"#, r#"{"clear":0,"clear":1}"#, "{"] {
            assert!(matches!(QueueChange::parse(wrong.as_bytes()), Err(StateError::Command(_))), "{wrong}");
        }
        let many = |count: usize| QueueChange::parse(json!({"delete": vec!["a"; count]}).to_string().as_bytes());
        assert!(many(DELETES_MAX).is_ok());
        assert!(many(DELETES_MAX + 1).is_err());
    }

    #[test]
    fn an_interrupt_names_one_job_or_all_of_the_callers_and_never_all_by_mistake() {
        for all in ["", " \n", "{}", r#"{"prompt_id":null}"#, r#"{"prompt_id":""}"#] {
            assert_eq!(parse_interrupt(all.as_bytes()).unwrap(), None, "{all}");
        }
        assert_eq!(parse_interrupt(br#"{"prompt_id":"a"}"#).unwrap(), Some("a".parse().unwrap()));
        for wrong in ["[]", "null", "{", r#"{"prompt_id":1}"#, r#"{"prompt_id":"a b"}"#, r#"{"prompt_id":["a"]}"#, r#"{"prompt_id":"a","prompt_id":""}"#] {
            assert!(parse_interrupt(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
