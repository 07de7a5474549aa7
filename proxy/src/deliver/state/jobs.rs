//! `/api/jobs` (ComfyUI 0.8.0 `comfy_execution/jobs.py` and `server.py`; facts §8.4), from rows of the ledger. Pure.
//!
//! Later versions tell jobs that their owner stopped as `cancelled`, 0.8.0 as `failed`: who asks for `cancelled` knows the word and is answered with it.

use super::{StateError, history, queue};
use crate::ids::{FileId, PromptId};
use crate::record::ledger::{Job, JobResult, JobState, Outcome};
use crate::route::Query;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Jobs of one page, at most.
pub const PAGE_MAX: usize = 1000;

/// What a job is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits.
    Pending,
    /// It is at a backend.
    InProgress,
    /// It succeeded.
    Completed,
    /// It failed; or it was stopped, for who does not know `cancelled`.
    Failed,
    /// Its owner stopped it.
    Cancelled,
}

impl Status {
    const ALL: [Self; 5] = [Self::Pending, Self::InProgress, Self::Completed, Self::Failed, Self::Cancelled];

    /// ComfyUI's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn of(state: JobState, knows_cancelled: bool) -> Self {
        match state {
            JobState::Held => Self::Pending,
            JobState::Assigned | JobState::Running => Self::InProgress,
            JobState::Ended(Outcome::Succeeded) => Self::Completed,
            JobState::Ended(Outcome::Interrupted | Outcome::Cancelled) if knows_cancelled => Self::Cancelled,
            JobState::Ended(_) => Self::Failed,
        }
    }
}

/// By what the list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortBy {
    /// When the job was accepted.
    Created,
    /// How long it ran; zero as long as it has not ended.
    Duration,
}

/// What `GET /api/jobs` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobsQuery {
    /// Only these; none: all.
    pub statuses: Option<Vec<Status>>,
    /// Only jobs of this workflow of the page.
    pub workflow_id: Option<String>,
    /// By what.
    pub sort_by: SortBy,
    /// Least first.
    pub ascending: bool,
    /// At most so many; none: as many as there may be on a page.
    pub limit: Option<usize>,
    /// Passes over so many.
    pub offset: usize,
}

impl JobsQuery {
    /// Reads the query by ComfyUI's rules.
    ///
    /// # Errors
    /// ComfyUI's own text, for its 400.
    pub fn parse(query: &Query) -> Result<Self, String> {
        let lower = |key, default: &str| query.value(key).unwrap_or(default).to_lowercase();
        let statuses = query.value("status").filter(|text| !text.is_empty()).map(statuses).transpose()?;
        let sort_by = match lower("sort_by", "created_at").as_str() {
            "created_at" => SortBy::Created,
            "execution_duration" => SortBy::Duration,
            _ => return Err("sort_by must be 'created_at' or 'execution_duration'".into()),
        };
        let ascending = match lower("sort_order", "desc").as_str() {
            "asc" => true,
            "desc" => false,
            _ => return Err("sort_order must be 'asc' or 'desc'".into()),
        };
        let limit = match query.value("limit").map(whole) {
            None => None,
            Some(None) => return Err("limit must be an integer".into()),
            Some(Some(..=0)) => return Err("limit must be a positive integer".into()),
            Some(Some(limit)) => Some(usize::try_from(limit).unwrap_or(usize::MAX)),
        };
        let offset = match query.value("offset").map(whole) {
            None => 0,
            Some(None) => return Err("offset must be an integer".into()),
            Some(Some(offset)) => usize::try_from(offset.max(0)).unwrap_or(usize::MAX),
        };
        let workflow_id = query.value("workflow_id").filter(|id| !id.is_empty()).map(ToOwned::to_owned);
        Ok(Self { statuses, workflow_id, sort_by, ascending, limit, offset })
    }

    /// The job's status as this caller is told it; none if it does not want such jobs.
    pub fn wants(&self, state: JobState) -> Option<Status> {
        let named = self.statuses.as_deref();
        let status = Status::of(state, named.is_some_and(|named| named.contains(&Status::Cancelled)));
        named.is_none_or(|named| named.contains(&status)).then_some(status)
    }

    /// Whether it wants any job that has ended: a page asks for the others whenever its queue changes.
    pub fn wants_ended(&self) -> bool {
        let ended = |status: &Status| !matches!(status, Status::Pending | Status::InProgress);
        self.statuses.as_deref().is_none_or(|named| named.iter().any(ended))
    }

    /// Which of `total` sorted jobs are on the page.
    pub fn page(&self, total: usize) -> std::ops::Range<usize> {
        let first = self.offset.min(total);
        let count = self.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        first..first.saturating_add(count).min(total)
    }

    /// The whole answer.
    pub fn answer(&self, jobs: Vec<Value>, total: usize) -> Value {
        let has_more = self.offset.saturating_add(jobs.len()) < total;
        json!({
            "jobs": jobs,
            "pagination": {"offset": self.offset, "limit": self.limit, "total": total, "has_more": has_more},
        })
    }
}

fn statuses(text: &str) -> Result<Vec<Status>, String> {
    let names: Vec<String> =
        text.split(',').map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect();
    let found = |name: &String| Status::ALL.into_iter().find(|status| status.name() == name);
    let unknown: Vec<&str> = names.iter().filter(|name| found(name).is_none()).map(String::as_str).collect();
    if unknown.is_empty() {
        return Ok(names.iter().filter_map(found).collect());
    }
    let known = Status::ALL.map(Status::name).join(", ");
    Err(format!("Invalid status value(s): {}. Valid values: {known}", unknown.join(", ")))
}

/// Python's `int`, without its oddities.
fn whole(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

/// How long a job ran, in ms; zero unless it began and ended.
pub fn duration(result: &JobResult) -> u64 {
    match (result.started_at, result.ended_at) {
        (Some(started), Some(ended)) => ended.0.saturating_sub(started.0),
        _ => 0,
    }
}

/// `extra_data.extra_pnginfo.workflow.id` of a stored submission; none in one that has none.
pub fn workflow_id(graph: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Submission {
        extra_data: Option<ExtraData>,
    }
    #[derive(Deserialize)]
    struct ExtraData {
        extra_pnginfo: Option<PngInfo>,
    }
    #[derive(Deserialize)]
    struct PngInfo {
        workflow: Option<Workflow>,
    }
    #[derive(Deserialize)]
    struct Workflow {
        id: Option<Value>,
    }
    let submission: Submission = serde_json::from_slice(graph).ok()?;
    match submission.extra_data?.extra_pnginfo?.workflow?.id? {
        Value::String(id) => Some(id),
        _ => None,
    }
}

/// A job of a list: nothing in it is `null`. `result` is that of an ended job.
pub fn summary(
    job: &Job,
    status: Status,
    result: Option<&JobResult>,
    workflow_id: Option<String>,
    url: &dyn Fn(FileId) -> String,
) -> Map<String, Value> {
    let mut shown = Map::new();
    let mut add = |key: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            shown.insert(key.to_owned(), value);
        }
    };
    add("id", Some(json!(job.prompt_id)));
    add("status", Some(json!(status.name())));
    add("priority", Some(super::queue::number(job)));
    add("create_time", Some(json!(job.accepted_at)));
    add("made_by", super::queue::made_by(job));
    let outputs = result.map(|result| history::outputs_with_urls(result, url)).unwrap_or_default();
    if let Some(result) = result {
        let times = told(result);
        add("execution_start_time", times.started);
        add("execution_end_time", times.ended);
        add("execution_error", times.error);
    }
    let (count, preview) = counted(&outputs);
    add("outputs_count", Some(json!(count)));
    add("preview_output", preview);
    add("workflow_id", workflow_id.map(Value::from));
    shown
}

/// A job by itself: an ended one with its outputs, its status and the workflow as it was submitted.
///
/// # Errors
/// A stored submission that can't be read.
pub fn detail(
    job: &Job,
    result: Option<&JobResult>,
    graph: &[u8],
    url: &dyn Fn(FileId) -> String,
) -> Result<Value, StateError> {
    let mut shown = summary(job, Status::of(job.state, false), result, workflow_id(graph), url);
    if let Some(result) = result {
        let mut entry = history::entry(job, graph, result, url)?;
        let mut part = |pointer: &str| entry.pointer_mut(pointer).map(Value::take).unwrap_or_default();
        shown.insert("outputs".into(), part("/outputs"));
        shown.insert("execution_status".into(), part("/status"));
        shown.insert("workflow".into(), json!({"prompt": part("/prompt/2"), "extra_data": part("/prompt/3")}));
    }
    Ok(Value::Object(shown))
}

/// What the messages tell of the run.
#[derive(Default)]
struct Told {
    started: Option<Value>,
    ended: Option<Value>,
    error: Option<Value>,
}

fn told(result: &JobResult) -> Told {
    let mut told = Told::default();
    for (event, data) in &result.messages {
        let at = || data.get("timestamp").cloned();
        match event.as_str() {
            "execution_start" => told.started = at(),
            "execution_success" | "execution_interrupted" => told.ended = at(),
            "execution_error" => {
                told.ended = at();
                told.error = Some(data.clone());
            }
            _ => {}
        }
    }
    told
}

/// How many things the outputs hold, and the one to show: a saved one before a temporary one (`get_outputs_summary`).
fn counted(outputs: &Map<String, Value>) -> (usize, Option<Value>) {
    let (mut count, mut saved, mut other) = (0, None, None);
    let nodes = outputs.iter().filter_map(|(node, kinds)| Some((node, kinds.as_object()?)));
    for (node, kind, items) in nodes
        .flat_map(|(node, kinds)| kinds.iter().filter_map(move |(kind, items)| Some((node, kind, items.as_array()?))))
    {
        if kind == "animated" {
            continue;
        }
        for item in items.iter().filter_map(Value::as_object) {
            count += 1;
            if saved.is_some() || !is_shown(kind, item) {
                continue;
            }
            let place = if item.get("type") == Some(&json!("output")) { &mut saved } else { &mut other };
            place.get_or_insert_with(|| {
                let mut shown = item.clone();
                shown.insert("nodeId".into(), json!(node));
                shown.insert("mediaType".into(), json!(kind));
                Value::Object(shown)
            });
        }
    }
    (count, saved.or(other))
}

fn is_shown(kind: &str, item: &Map<String, Value>) -> bool {
    let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_lowercase();
    let (format, filename) = (text("format"), text("filename"));
    matches!(kind, "images" | "video" | "audio")
        || format.starts_with("video/")
        || format.starts_with("audio/")
        || [".obj", ".fbx", ".gltf", ".glb"].iter().any(|ending| filename.ends_with(ending))
}

/// The body of `POST /api/jobs/cancel`: `{"job_ids": [id…]}`; ids that can't be prompt ids name nothing.
///
/// # Errors
/// A body that is no such object.
pub fn cancel_ids(body: &[u8]) -> Result<Vec<PromptId>, StateError> {
    let wanted = StateError::Body("`job_ids` takes a list of job ids, each a string");
    let fields = queue::object(body)?;
    let ids = fields.get("job_ids").and_then(Value::as_array).ok_or_else(|| wanted.clone())?;
    let texts: Option<Vec<&str>> = ids.iter().map(Value::as_str).collect();
    Ok(texts.ok_or(wanted)?.into_iter().filter_map(|id| id.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::job;
    use super::*;
    use crate::clock::WallMillis;

    fn query(text: &str) -> Result<JobsQuery, String> {
        JobsQuery::parse(&Query::parse(text).unwrap())
    }

    #[test]
    fn bad_values_get_comfyuis_own_texts() {
        for (text, error) in [
            ("limit=0", "limit must be a positive integer"),
            ("limit=x", "limit must be an integer"),
            ("offset=x", "offset must be an integer"),
            ("sort_by=nope", "sort_by must be 'created_at' or 'execution_duration'"),
            ("sort_order=up", "sort_order must be 'asc' or 'desc'"),
        ] {
            assert_eq!(query(text).unwrap_err(), error, "{text}");
        }
        let unknown = query("status=nope,bad").unwrap_err();
        assert!(unknown.starts_with("Invalid status value(s): nope, bad. Valid values: pending, in_progress,"));
        assert_eq!(query("offset=-5&limit=1").unwrap().offset, 0);
        assert_eq!(query("status=").unwrap().statuses, None);
        assert_eq!(query("status=,").unwrap().statuses, Some(vec![]));
        assert!(query("sort_by=EXECUTION_DURATION&sort_order=ASC&status=COMPLETED,%20failed").is_ok());
    }

    #[test]
    fn who_knows_cancelled_is_told_so_and_who_does_not_hears_failed() {
        let stopped = JobState::Ended(Outcome::Interrupted);
        assert_eq!(query("status=failed").unwrap().wants(stopped), Some(Status::Failed));
        assert_eq!(query("status=failed,cancelled").unwrap().wants(stopped), Some(Status::Cancelled));
        assert_eq!(query("").unwrap().wants(stopped), Some(Status::Failed));
        assert_eq!(query("status=completed").unwrap().wants(stopped), None);
        assert_eq!(query("status=pending").unwrap().wants(JobState::Held), Some(Status::Pending));
        assert!(!query("status=pending,in_progress").unwrap().wants_ended());
        assert!(query("status=pending,failed").unwrap().wants_ended() && query("").unwrap().wants_ended());
        assert_eq!(query("status=in_progress").unwrap().wants(JobState::Assigned), Some(Status::InProgress));
    }

    #[test]
    fn a_page_is_cut_at_both_ends() {
        assert_eq!(query("limit=2&offset=1").unwrap().page(5), 1..3);
        assert_eq!(query("offset=9").unwrap().page(5), 5..5);
        assert_eq!(query("").unwrap().page(PAGE_MAX), 0..PAGE_MAX);
        assert_eq!(query("limit=5000").unwrap().page(PAGE_MAX + 1), 0..PAGE_MAX);
        let answer = query("limit=2&offset=1").unwrap().answer(vec![json!(1), json!(2)], 4);
        assert_eq!(answer["pagination"], json!({"offset": 1, "limit": 2, "total": 4, "has_more": true}));
    }

    #[test]
    fn a_saved_picture_is_shown_before_a_temporary_one() {
        let outputs = json!({
            "4": {"images": [{"filename": "t.png", "type": "temp"}], "animated": [false]},
            "5": {"probe_size": [{"batch": 1}], "text": ["x"]},
            "2": {"images": [{"filename": "a_00001_.png", "type": "output"}, {"filename": "b.png", "type": "output"}]},
        });
        let result = JobResult {
            outputs: outputs.as_object().unwrap().clone(),
            messages: vec![
                ("execution_start".into(), json!({"timestamp": 5})),
                ("execution_success".into(), json!({"timestamp": 9})),
            ],
            ..JobResult::default()
        };
        let job = job(7, JobState::Ended(Outcome::Succeeded));
        let shown = Value::Object(summary(&job, Status::Completed, Some(&result), None, &|_| String::new()));
        assert_eq!(
            (&shown["outputs_count"], &shown["preview_output"]["filename"]),
            (&json!(4), &json!("a_00001_.png"))
        );
        assert_eq!(
            (&shown["preview_output"]["nodeId"], &shown["preview_output"]["mediaType"]),
            (&json!("2"), &json!("images"))
        );
        assert_eq!((&shown["execution_start_time"], &shown["execution_end_time"]), (&json!(5), &json!(9)));
        assert!(shown.get("workflow_id").is_none() && shown.get("execution_error").is_none(), "{shown}");
    }

    #[test]
    fn a_job_that_waits_has_five_fields() {
        let shown = summary(&job(7, JobState::Held), Status::Pending, None, None, &|_| String::new());
        let keys: Vec<_> = shown.keys().map(String::as_str).collect();
        assert_eq!(keys, ["id", "status", "priority", "create_time", "outputs_count"]);
    }

    #[test]
    fn the_detail_of_an_ended_job_has_its_workflow() {
        let graph = br#"{"prompt":{"1":{}},"extra_data":{"extra_pnginfo":{"workflow":{"id":"w1","nodes":[]}}}}"#;
        let job = job(7, JobState::Ended(Outcome::Failed));
        let result = JobResult {
            messages: vec![("execution_error".into(), json!({"timestamp": 9, "exception_message": "no"}))],
            ..JobResult::default()
        };
        let shown = detail(&job, Some(&result), graph, &|_| String::new()).unwrap();
        assert_eq!((&shown["status"], &shown["workflow_id"]), (&json!("failed"), &json!("w1")));
        assert_eq!(shown["execution_error"]["exception_message"], "no");
        assert_eq!(shown["workflow"]["prompt"], json!({"1": {}}));
        assert_eq!(shown["execution_status"]["status_str"], "error");
        let waiting = detail(&super::super::queue::tests::job(7, JobState::Held), None, graph, &|_| String::new());
        assert!(waiting.unwrap().get("workflow").is_none());
    }

    #[test]
    fn a_workflow_id_is_a_text_or_none() {
        for none in [r#"{"extra_data":{"extra_pnginfo":{"workflow":{"id":5}}}}"#, r#"{"extra_data":{}}"#, "{}", "x"] {
            assert_eq!(workflow_id(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn a_duration_is_that_of_a_job_that_began_and_ended() {
        let ran = |started, ended| JobResult { started_at: started, ended_at: ended, ..JobResult::default() };
        assert_eq!(duration(&ran(Some(WallMillis(5)), Some(WallMillis(9)))), 4);
        assert_eq!(duration(&ran(None, Some(WallMillis(9)))), 0);
    }

    #[test]
    fn ids_to_cancel_are_a_list_of_texts() {
        assert_eq!(cancel_ids(br#"{"job_ids":["a","no id"]}"#).unwrap(), ["a".parse().unwrap()]);
        for bad in [br#"{"job_ids":[1]}"#.as_slice(), b"{}", b"[]", br#"{"job_ids":"a"}"#] {
            assert!(cancel_ids(bad).is_err());
        }
    }
}
