//! `/queue`, `GET /prompt`, and the bodies that change a queue or a history (ComfyUI 0.8.0 `server.py`; facts §8.1).

use super::StateError;
use crate::ids::PromptId;
use crate::record::ledger::{Job, JobState};
use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::fmt;

/// `{"exec_info":{"queue_remaining":n}}`.
pub fn exec_info(queue_remaining: u64) -> Value {
    json!({"exec_info": {"queue_remaining": queue_remaining}})
}

/// `{"queue_running":[item…],"queue_pending":[item…]}`, each sorted by number. A job that was sent to a backend counts as running.
///
/// # Errors
/// A stored submission that can't be read.
pub fn queue(jobs: &[(&Job, Bytes)]) -> Result<Value, StateError> {
    let (mut running, mut pending) = (Vec::new(), Vec::new());
    let mut sorted: Vec<_> = jobs.iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.shown_number().total_cmp(&b.shown_number()).then(a.number.cmp(&b.number)));
    for (job, graph) in sorted {
        match job.state {
            JobState::Held => pending.push(item(job, graph)?),
            JobState::Assigned | JobState::Running => running.push(item(job, graph)?),
            JobState::Ended(_) => {}
        }
    }
    Ok(json!({"queue_running": running, "queue_pending": pending}))
}

/// `[number, prompt_id, prompt, extra_data, outputs_to_execute]`, the graph as its owner submitted it.
///
/// # Errors
/// A stored submission that can't be read.
pub fn item(job: &Job, graph: &[u8]) -> Result<Value, StateError> {
    let unreadable =
        |error: serde_json::Error| StateError::Unreadable { what: "a stored submission", reason: error.to_string() };
    let mut submission: Map<String, Value> = serde_json::from_slice(graph).map_err(unreadable)?;
    let prompt = submission.remove("prompt").unwrap_or_else(|| json!({}));
    let mut extra = match submission.remove("extra_data") {
        Some(Value::Object(extra)) => extra,
        _ => Map::new(),
    };
    if let Some(client_id) = &job.client_id {
        extra.insert("client_id".into(), json!(client_id));
    }
    extra.insert("create_time".into(), json!(job.accepted_at));
    if let Some(maker) = made_by(job) {
        extra.insert("made_by".into(), maker);
    }
    Ok(json!([number(job), job.prompt_id, prompt, extra, job.output_nodes]))
}

/// Who of a team made a job: `{"user": …}`, or `{"key": …}` of a service. `None` where nobody else sees it. Whatever the caller wrote under this name is replaced.
pub fn made_by(job: &Job) -> Option<Value> {
    let owner = &job.owner;
    let maker = match (&owner.user, &owner.key) {
        (Some(user), _) => json!({"user": user}),
        (None, Some(key)) => json!({"key": key}),
        (None, None) => json!({}),
    };
    owner.shared.then_some(maker)
}

/// `number` as ComfyUI writes it: a counter as an integer, a caller's own number as a float.
pub fn number(job: &Job) -> Value {
    match job.place {
        // `front` turns the counter's sign.
        Some(place) if place == -(job.number as f64) => json!(0_i64.saturating_sub_unsigned(job.number)),
        Some(place) => json!(place),
        None => json!(job.number),
    }
}

/// What `POST /queue` and `POST /history` ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueChange {
    /// All of the caller's own.
    pub clear: bool,
    /// These; ids that can't be prompt ids name nothing and are left out.
    pub delete: Vec<PromptId>,
}

impl QueueChange {
    /// Reads `{"clear": …, "delete": [id…]}`.
    ///
    /// # Errors
    /// A body that is no object, or a `delete` that is no list of strings: ComfyUI answers 500 or takes it by Python's rules.
    pub fn parse(body: &[u8]) -> Result<Self, StateError> {
        let fields = object(body)?;
        let delete = match fields.get("delete") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(ids)) => {
                let texts: Option<Vec<&str>> = ids.iter().map(Value::as_str).collect();
                let texts = texts.ok_or(StateError::Body("`delete` takes a list of prompt ids, each a string"))?;
                texts.into_iter().filter_map(|id| id.parse().ok()).collect()
            }
            Some(_) => return Err(StateError::Body("`delete` takes a list of prompt ids")),
        };
        Ok(Self { clear: fields.get("clear").is_some_and(is_true), delete })
    }
}

/// What `POST /interrupt` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interrupt {
    /// No id: the caller's own running jobs (the stock page sends no body).
    All,
    /// This one.
    One(PromptId),
    /// An id that can't be one.
    Nothing,
}

impl Interrupt {
    /// Reads an empty body, `{}`, or `{"prompt_id": id}`; `null` and `""` are no id, as for ComfyUI.
    ///
    /// # Errors
    /// A body that is no object.
    pub fn parse(body: &[u8]) -> Result<Self, StateError> {
        if body.is_empty() {
            return Ok(Self::All);
        }
        Ok(match object(body)?.get("prompt_id") {
            None => Self::All,
            Some(value) if !is_true(value) => Self::All,
            Some(Value::String(id)) => id.parse().map_or(Self::Nothing, Self::One),
            Some(_) => Self::Nothing,
        })
    }
}

pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, StateError> {
    let OnceEach(fields) = serde_json::from_slice(body)
        .map_err(|_| StateError::Body("the body must be a JSON object, each key in it once"))?;
    Ok(fields)
}

/// An object without a repeated key: of two, one reader takes the first and another the last (invariant 2).
struct OnceEach(Map<String, Value>);

impl<'de> Deserialize<'de> for OnceEach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = OnceEach;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<OnceEach, A::Error> {
                let mut fields = Map::new();
                while let Some((key, value)) = access.next_entry::<String, Value>()? {
                    if fields.insert(key, value).is_some() {
                        return Err(de::Error::custom("a key stands twice"));
                    }
                }
                Ok(OnceEach(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Python's truth of a JSON value: `"false"` is true (facts §11, 97).
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::ids::JobId;
    use crate::owner::Owner;
    use comfygate_policy::Digest;

    pub(in crate::deliver::state) fn job(number: u64, state: JobState) -> Job {
        Job {
            id: JobId::new(),
            sequence: number,
            version: 0,
            owner: Owner { tenant: "a".parse().unwrap(), user: None, key: None, shared: false },
            prompt_id: format!("p{number}").parse().unwrap(),
            number,
            client_id: Some("tab".parse().unwrap()),
            submission: Digest::of(b""),
            output_nodes: vec!["9".into()],
            verdict: None,
            paid: false,
            place: None,
            work: None,
            accepted_at: WallMillis(1_795_231_291_814),
            state,
            attempts: vec![],
            cancel_requested: false,
        }
    }

    #[test]
    fn items_have_comfyuis_five_places_and_are_sorted() {
        let graph = Bytes::from_static(
            br#"{"prompt":{"9":{"class_type":"SaveImage","inputs":{}}},"extra_data":{"preview_method":"auto"}}"#,
        );
        let (first, second, third) = (job(4, JobState::Running), job(6, JobState::Held), job(5, JobState::Held));
        let queue = queue(&[(&second, graph.clone()), (&first, graph.clone()), (&third, graph)]).unwrap();
        assert_eq!(queue["queue_running"].as_array().unwrap().len(), 1);
        assert_eq!(queue["queue_pending"][0][0], 5);
        assert_eq!(queue["queue_pending"][1][1], "p6");
        let item = &queue["queue_running"][0];
        assert_eq!(item[2]["9"]["class_type"], "SaveImage");
        assert_eq!(
            item[3],
            json!({"preview_method": "auto", "client_id": "tab", "create_time": 1_795_231_291_814_u64})
        );
        assert_eq!(item[4], json!(["9"]));
    }

    #[test]
    fn clear_goes_by_pythons_truth() {
        for (value, clear) in [
            ("true", true),
            ("\"false\"", true),
            ("1", true),
            ("[0]", true),
            ("false", false),
            ("0", false),
            ("\"\"", false),
            ("null", false),
            ("{}", false),
        ] {
            assert_eq!(
                QueueChange::parse(format!("{{\"clear\":{value}}}").as_bytes()).unwrap().clear,
                clear,
                "{value}"
            );
        }
    }

    #[test]
    fn delete_takes_strings_only_and_passes_over_what_is_no_id() {
        let change = QueueChange::parse(br#"{"delete":["a","no id","b"]}"#).unwrap();
        assert_eq!(change.delete, ["a".parse().unwrap(), "b".parse().unwrap()]);
        for bad in [
            br#"{"delete":[1]}"#.as_slice(),
            br#"{"delete":"a"}"#,
            br#"{"delete":[["a"]]}"#,
            b"[]",
            b"",
            b"{",
            br#"{"clear":0,"clear":1}"#,
            b"{} {}",
        ] {
            assert!(QueueChange::parse(bad).is_err());
        }
    }

    #[test]
    fn an_interrupt_without_an_id_means_the_callers_own() {
        for all in [b"".as_slice(), b"{}", br#"{"prompt_id":null}"#, br#"{"prompt_id":""}"#] {
            assert_eq!(Interrupt::parse(all).unwrap(), Interrupt::All);
        }
        assert_eq!(Interrupt::parse(br#"{"prompt_id":"a"}"#).unwrap(), Interrupt::One("a".parse().unwrap()));
        assert_eq!(Interrupt::parse(br#"{"prompt_id":"no id"}"#).unwrap(), Interrupt::Nothing);
        assert_eq!(Interrupt::parse(br#"{"prompt_id":5}"#).unwrap(), Interrupt::Nothing);
        assert!(Interrupt::parse(b"[1]").is_err());
        assert!(Interrupt::parse(br#"{"prompt_id":"a","prompt_id":""}"#).is_err());
    }
}
