//! Submission, queue, history, interrupts and jobs.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;

use hyper::StatusCode;

use super::Call;
use super::answer::Reply;
use crate::clock;
use crate::jobs::{self, Listing};
use crate::json::{Dict, Json, dict};
use crate::python;
use crate::queue::Item;
use crate::validate::{self, Verdict};

/// The secrets that no route shows (execution.py `SENSITIVE_EXTRA_DATA_KEYS`).
const SENSITIVE_KEYS: [&str; 2] = ["auth_token_comfy_org", "api_key_comfy_org"];

/// `POST /prompt`.
pub(super) async fn submit(call: &mut Call) -> Result<Reply, Reply> {
    let process = call.process.clone();
    process.log("got prompt\n");
    let mut body = call.json().await?;
    if ["number", "front"].into_iter().any(|key| found_but_not_indexed(&body, key)) {
        return Err(Reply::Crash);
    }
    process.shared().submissions.lock().unwrap_or_else(PoisonError::into_inner).push(body.to_value());
    if process.options().newer {
        super::newer::submission(&mut body, call.header("comfy-usage-source"))?;
    }
    let number = number_of(&body, || process.number.fetch_add(1, SeqCst))?;
    if found_but_not_indexed(&body, "prompt") {
        return Err(Reply::Crash);
    }
    let Some(prompt) = body.get("prompt") else {
        let error = validate::top_error("no_prompt", "No prompt provided", "No prompt provided");
        return Ok(refused(error, dict([])));
    };
    let prompt_id = body.get("prompt_id").map_or_else(|| uuid::Uuid::new_v4().to_string(), python::str);
    let mut prompt = prompt.clone();
    let models = process.models();
    let verdict = validate::validate_prompt(
        &mut prompt,
        body.get("partial_execution_targets"),
        process.catalogue(&models),
        process.folders(),
    );
    let verdict = verdict.map_err(|_| Reply::Crash)?;
    let mut extra_data = match body.get("extra_data") {
        None => Dict::new(),
        Some(Json::Dict(extra_data)) => extra_data.clone(),
        // `extra_data["client_id"] = …` works on nothing else, and neither does what follows.
        Some(_) => return Err(Reply::Crash),
    };
    if let Some(client_id) = body.get("client_id") {
        extra_data.insert("client_id".into(), client_id.clone());
    }
    let (outputs, node_errors) = match verdict {
        Verdict::Invalid { error, node_errors } => {
            process.log(&format!("invalid prompt: {}\n", python::repr(&error)));
            return Ok(refused(error, node_errors));
        }
        Verdict::Valid { outputs, node_errors } => (outputs, node_errors),
    };
    let sensitive = SENSITIVE_KEYS.into_iter().filter_map(|key| Some((key.to_owned(), extra_data.shift_remove(key)?)));
    let sensitive = sensitive.collect();
    extra_data.insert("create_time".into(), Json::from(clock::now_ms()));
    let item = Item {
        number: number.clone(),
        prompt_id: prompt_id.clone(),
        prompt,
        extra_data: Json::Dict(extra_data),
        outputs,
        sensitive,
    };
    process.queue.put(item).map_err(|_| Reply::Crash)?;
    process.queue_updated();
    Ok(Reply::json(dict([("prompt_id", prompt_id.into()), ("number", number), ("node_errors", node_errors)])))
}

pub(super) fn refused(error: Json, node_errors: Json) -> Reply {
    Reply::json_with(StatusCode::BAD_REQUEST, dict([("error", error), ("node_errors", node_errors)]))
}

/// Python's `key in body` is true for lists and texts too, where `body[key]` then raises.
fn found_but_not_indexed(body: &Json, key: &str) -> bool {
    match body {
        Json::List(items) => items.iter().any(|item| item.as_str() == Some(key)),
        Json::Str(text) => text.contains(key),
        _ => false,
    }
}

/// The caller's number through `float()`, or the next one, negated for `front`.
fn number_of(body: &Json, next: impl FnOnce() -> i64) -> Result<Json, Reply> {
    match body {
        Json::Dict(body) => match (body.get("number"), body.get("front")) {
            (Some(number), _) => python::float(number).map(Json::Float).map_err(|_| Reply::Crash),
            (None, Some(front)) if front.truthy() => Ok(Json::from(-next())),
            (None, _) => Ok(Json::from(next())),
        },
        // `"number" in json_data` works on a list or text, the rest does not find a prompt there.
        Json::List(_) | Json::Str(_) => {
            next();
            Ok(Json::Null)
        }
        _ => Err(Reply::Crash),
    }
}

/// `GET /queue`.
pub(super) fn queue(call: &Call) -> Reply {
    let (running, waiting) = call.process.queue.current();
    let shown = |items: &[Item]| Json::List(items.iter().map(Item::to_json).collect());
    Reply::json(dict([("queue_running", shown(&running)), ("queue_pending", shown(&waiting))]))
}

/// Items of a `delete` list. Python iterates over text and dicts as well; nothing else can be iterated.
fn ids(list: &Json) -> Result<Vec<Json>, Reply> {
    match list {
        Json::List(items) => Ok(items.clone()),
        Json::Str(text) => Ok(text.chars().map(|letter| Json::from(letter.to_string())).collect()),
        Json::Dict(keys) => Ok(keys.keys().map(|key| Json::from(key.as_str())).collect()),
        _ => Err(Reply::Crash),
    }
}

/// The body of a change: a dict, or something in which no key is found.
async fn change(call: &mut Call) -> Result<Dict, Reply> {
    match call.json().await? {
        Json::Dict(body) => Ok(body),
        body @ (Json::List(_) | Json::Str(_)) => {
            let raises = ["clear", "delete"].into_iter().any(|key| found_but_not_indexed(&body, key));
            if raises { Err(Reply::Crash) } else { Ok(Dict::new()) }
        }
        _ => Err(Reply::Crash),
    }
}

/// `POST /queue`: clear first, then delete.
pub(super) async fn change_queue(call: &mut Call) -> Result<Reply, Reply> {
    let body = change(call).await?;
    let process = &call.process;
    if body.get("clear").is_some_and(Json::truthy) {
        process.queue.wipe();
        process.queue_updated();
    }
    if let Some(list) = body.get("delete") {
        for id in ids(list)? {
            for _ in 0..process.queue.delete(&id) {
                process.queue_updated();
            }
        }
    }
    Ok(Reply::ok())
}

/// `POST /interrupt`: without an id, or with one that Python finds false, whoever runs is interrupted.
pub(super) async fn interrupt(call: &mut Call) -> Result<Reply, Reply> {
    let bytes = super::body::bytes(&mut call.request).await?;
    let text = String::from_utf8(bytes).map_err(|_| Reply::Crash)?;
    let body = match Json::parse(&text) {
        Ok(Json::Dict(body)) => body,
        Ok(_) => return Err(Reply::Crash),
        Err(_) => Dict::new(),
    };
    let process = &call.process;
    match body.get("prompt_id").filter(|id| id.truthy()) {
        Some(id) if !process.queue.is_running(id) => {
            process.log(&format!("Prompt {} is not currently running, skipping interrupt\n", python::str(id)));
        }
        // The comparison and the flag are two steps, as in 0.8.0: the next prompt may be hit.
        _ => process.set_interrupt(),
    }
    Ok(Reply::ok())
}

/// `POST /free`.
pub(super) async fn free(call: &mut Call) -> Result<Reply, Reply> {
    let Json::Dict(body) = call.json().await? else {
        return Err(Reply::Crash);
    };
    for key in ["unload_models", "free_memory"] {
        if let Some(value) = body.get(key).filter(|value| value.truthy()) {
            call.process.queue.set_flag(key, value.clone());
        }
    }
    Ok(Reply::ok())
}

/// `GET /history`.
pub(super) fn history(call: &Call) -> Result<Reply, Reply> {
    let number =
        |name: &str| call.query(name).map(|text| python::int(&Json::from(text))).transpose().map_err(|_| Reply::Crash);
    let (max_items, offset) = (number("max_items")?, number("offset")?.unwrap_or(-1));
    Ok(Reply::json(Json::Dict(call.process.queue.history(max_items, offset))))
}

/// `GET /history/{id}`: an unknown id is an empty object.
pub(super) fn history_of(call: &Call, id: &str) -> Reply {
    let entry = call.process.queue.history_of(id);
    Reply::json(Json::Dict(entry.into_iter().map(|entry| (id.to_owned(), entry)).collect()))
}

/// `POST /history`.
pub(super) async fn change_history(call: &mut Call) -> Result<Reply, Reply> {
    let body = change(call).await?;
    if body.get("clear").is_some_and(Json::truthy) {
        call.process.queue.wipe_history();
    }
    if let Some(list) = body.get("delete") {
        for id in ids(list)? {
            match id {
                Json::Str(id) => call.process.queue.forget(&id),
                // An empty dict does not even hash the key.
                Json::List(_) | Json::Dict(_) if call.process.queue.has_history() => return Err(Reply::Crash),
                _ => {}
            }
        }
    }
    Ok(Reply::ok())
}

/// `GET /api/jobs`.
pub(super) fn jobs(call: &Call) -> Result<Reply, Reply> {
    let bad = |text: String| Reply::json_with(StatusCode::BAD_REQUEST, dict([("error", text.into())]));
    let states: Vec<String> = match call.query("status").filter(|text| !text.is_empty()) {
        // Later versions know one more; how a job of theirs comes to it is not imitated.
        Some(text) if call.process.options().newer && text == "cancelled" => Vec::new(),
        Some(text) => text.split(',').map(|word| word.trim().to_lowercase()).filter(|word| !word.is_empty()).collect(),
        None => jobs::STATES.map(str::to_owned).to_vec(),
    };
    let invalid: Vec<&str> = states.iter().map(String::as_str).filter(|state| !jobs::STATES.contains(state)).collect();
    if !invalid.is_empty() {
        let valid = jobs::STATES.join(", ");
        return Err(bad(format!("Invalid status value(s): {}. Valid values: {valid}", invalid.join(", "))));
    }
    let word = |name: &str, default: &str| call.query(name).unwrap_or(default).to_lowercase();
    let (sort_by, sort_order) = (word("sort_by", "created_at"), word("sort_order", "desc"));
    if !["created_at", "execution_duration"].contains(&sort_by.as_str()) {
        return Err(bad("sort_by must be 'created_at' or 'execution_duration'".into()));
    }
    if !["asc", "desc"].contains(&sort_order.as_str()) {
        return Err(bad("sort_order must be 'asc' or 'desc'".into()));
    }
    let number = |name: &str| {
        let read = call.query(name).map(|text| python::int(&Json::from(text))).transpose();
        read.map_err(|_| bad(format!("{name} must be an integer")))
    };
    let limit = number("limit")?;
    if limit.is_some_and(|limit| limit <= 0) {
        return Err(bad("limit must be a positive integer".into()));
    }
    let offset = usize::try_from(number("offset")?.unwrap_or(0).max(0)).unwrap_or(usize::MAX);
    let listing = Listing {
        states,
        workflow_id: call.query("workflow_id").filter(|id| !id.is_empty()).map(str::to_owned),
        by_duration: sort_by == "execution_duration",
        descending: sort_order == "desc",
        offset,
        limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
    };
    let (running, waiting) = call.process.queue.current();
    let history = call.process.queue.history(None, -1);
    let (page, total) = jobs::list(&running, &waiting, &history, &listing).map_err(|_| Reply::Crash)?;
    let has_more = offset.saturating_add(page.len()) < total;
    let count = |number: usize| Json::Int(i128::try_from(number).unwrap_or(i128::MAX));
    let pagination = dict([
        ("offset", count(offset)),
        ("limit", limit.map_or(Json::Null, Json::Int)),
        ("total", count(total)),
        ("has_more", Json::Bool(has_more)),
    ]);
    Ok(Reply::json(dict([("jobs", Json::List(page)), ("pagination", pagination)])))
}

/// `GET /api/jobs/{id}`.
pub(super) fn job(call: &Call, id: &str) -> Result<Reply, Reply> {
    if let Some(entry) = call.process.queue.history_of(id) {
        return jobs::of_history(id, &entry, true).map(Reply::json).map_err(|_| Reply::Crash);
    }
    let (running, waiting) = call.process.queue.current();
    for (items, state) in [(running, "in_progress"), (waiting, "pending")] {
        if let Some(item) = items.iter().find(|item| item.prompt_id == id) {
            return jobs::of_item(item, state).map(Reply::json).map_err(|_| Reply::Crash);
        }
    }
    Ok(Reply::json_with(StatusCode::NOT_FOUND, dict([("error", "Job not found".into())])))
}
