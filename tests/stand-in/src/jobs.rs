//! `/api/jobs`: queue and history in one normal form (comfy_execution/jobs.py 0.8.0).

use std::cmp::Ordering;

use crate::json::{Dict, Json};
use crate::queue::Item;

/// All states, in the order in which the error message names them.
pub const STATES: [&str; 4] = ["pending", "in_progress", "completed", "failed"];

/// A prompt whose `extra_pnginfo` is not what the code expects: 500 for everybody until it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash;

/// What to list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// States wanted.
    pub states: Vec<String>,
    /// Only prompts of this workflow.
    pub workflow_id: Option<String>,
    /// By duration instead of by time of creation.
    pub by_duration: bool,
    /// Largest first.
    pub descending: bool,
    /// Entries to skip.
    pub offset: usize,
    /// Entries to give.
    pub limit: Option<usize>,
}

/// One waiting or running prompt.
pub fn of_item(item: &Item, state: &str) -> Result<Json, Crash> {
    let (create_time, workflow_id) = metadata(&item.extra_data)?;
    Ok(pruned([
        ("id", item.prompt_id.as_str().into()),
        ("status", state.into()),
        ("priority", item.number.clone()),
        ("create_time", create_time),
        ("outputs_count", Json::Int(0)),
        ("workflow_id", workflow_id),
    ]))
}

/// One finished prompt; `whole` adds outputs, status and workflow.
pub fn of_history(id: &str, entry: &Json, whole: bool) -> Result<Json, Crash> {
    let slots = entry.get("prompt").and_then(Json::as_list).unwrap_or_default();
    let slot = |index: usize| slots.get(index).cloned().unwrap_or(Json::Null);
    let extra_data = slot(3);
    let (create_time, workflow_id) = metadata(&extra_data)?;
    let failed = is_failed(entry);
    let outputs = entry.get("outputs").cloned().unwrap_or(Json::Null);
    let (count, preview) = summary(&outputs);
    let (mut start, mut end, mut error) = (Json::Null, Json::Null, Json::Null);
    for message in entry.at(&["status", "messages"]).and_then(Json::as_list).into_iter().flatten() {
        let Some([Json::Str(event), data]) = message.as_list() else {
            continue;
        };
        let at = data.get("timestamp").cloned().unwrap_or(Json::Null);
        match event.as_str() {
            "execution_start" => start = at,
            "execution_success" | "execution_interrupted" => end = at,
            "execution_error" => (end, error) = (at, data.clone()),
            _ => {}
        }
    }
    let mut job = pruned([
        ("id", id.into()),
        ("status", if failed { "failed" } else { "completed" }.into()),
        ("priority", slot(0)),
        ("create_time", create_time),
        ("execution_start_time", start),
        ("execution_end_time", end),
        ("execution_error", error),
        ("outputs_count", Json::Int(count)),
        ("preview_output", preview),
        ("workflow_id", workflow_id),
    ]);
    if let Json::Dict(job) = &mut job
        && whole
    {
        job.insert("outputs".into(), outputs);
        job.insert("execution_status".into(), entry.get("status").cloned().unwrap_or(Json::Null));
        job.insert("workflow".into(), crate::json::dict([("prompt", slot(2)), ("extra_data", extra_data)]));
    }
    Ok(job)
}

/// The page of jobs that `listing` asks for, and how many there are in all.
pub fn list(
    running: &[Item],
    waiting: &[Item],
    history: &Dict,
    listing: &Listing,
) -> Result<(Vec<Json>, usize), Crash> {
    let wants = |state: &str| listing.states.iter().any(|wanted| wanted == state);
    let mut jobs = Vec::new();
    for (items, state) in [(running, "in_progress"), (waiting, "pending")] {
        for item in items.iter().filter(|_| wants(state)) {
            jobs.push(of_item(item, state)?);
        }
    }
    for (id, entry) in history {
        if wants(if is_failed(entry) { "failed" } else { "completed" }) {
            jobs.push(of_history(id, entry, false)?);
        }
    }
    if let Some(wanted) = &listing.workflow_id {
        jobs.retain(|job| job.get("workflow_id").and_then(Json::as_str) == Some(wanted));
    }
    let number = |job: &Json, key: &str| job.get(key).and_then(Json::as_number).unwrap_or(0.0);
    let key = |job: &Json| {
        let (start, end) = (number(job, "execution_start_time"), number(job, "execution_end_time"));
        match (listing.by_duration, start != 0.0 && end != 0.0) {
            (false, _) => number(job, "create_time"),
            (true, true) => end - start,
            (true, false) => 0.0,
        }
    };
    // Python's sort is stable in both directions.
    jobs.sort_by(|a, b| {
        let order = key(a).partial_cmp(&key(b)).unwrap_or(Ordering::Equal);
        if listing.descending { order.reverse() } else { order }
    });
    let total = jobs.len();
    let page = jobs.into_iter().skip(listing.offset).take(listing.limit.unwrap_or(usize::MAX)).collect();
    Ok((page, total))
}

fn is_failed(entry: &Json) -> bool {
    entry.at(&["status", "status_str"]).and_then(Json::as_str) == Some("error")
}

/// Time of creation and workflow id. A null or list on the way raises, as `None.get` does.
fn metadata(extra_data: &Json) -> Result<(Json, Json), Crash> {
    let create_time = extra_data.get("create_time").cloned().unwrap_or(Json::Null);
    let mut value = extra_data;
    for key in ["extra_pnginfo", "workflow", "id"] {
        let dict = value.as_dict().ok_or(Crash)?;
        match dict.get(key) {
            Some(inner) => value = inner,
            None => return Ok((create_time, Json::Null)),
        }
    }
    Ok((create_time, value.clone()))
}

/// How many outputs there are, and the one to show: finished files first.
fn summary(outputs: &Json) -> (i128, Json) {
    let mut count = 0;
    let mut preview = Json::Null;
    let mut fallback = Json::Null;
    for (node, shown) in outputs.as_dict().into_iter().flatten() {
        for (media, items) in shown.as_dict().into_iter().flatten() {
            if media == "animated" {
                continue;
            }
            for item in items.as_list().into_iter().flatten().filter_map(Json::as_dict) {
                count += 1;
                if preview != Json::Null || !previewable(media, item) {
                    continue;
                }
                let mut enriched = item.clone();
                enriched.insert("nodeId".into(), node.as_str().into());
                enriched.insert("mediaType".into(), media.as_str().into());
                if item.get("type").and_then(Json::as_str) == Some("output") {
                    preview = Json::Dict(enriched);
                } else if fallback == Json::Null {
                    fallback = Json::Dict(enriched);
                }
            }
        }
    }
    (count, if preview == Json::Null { fallback } else { preview })
}

fn previewable(media: &str, item: &Dict) -> bool {
    let text = |key: &str| item.get(key).and_then(Json::as_str).unwrap_or_default();
    let name = text("filename").to_lowercase();
    matches!(media, "images" | "video" | "audio")
        || ["video/", "audio/"].iter().any(|kind| text("format").starts_with(kind))
        || [".obj", ".fbx", ".gltf", ".glb"].iter().any(|ending| name.ends_with(ending))
}

/// A dict without the entries that are null.
fn pruned<const N: usize>(entries: [(&str, Json); N]) -> Json {
    let kept = entries.into_iter().filter(|(_, value)| *value != Json::Null);
    Json::Dict(kept.map(|(key, value)| (key.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_finished_file_is_shown_before_a_temporary_one() {
        let outputs = json!({
            "4": {"images": [{"filename": "t.png", "type": "temp"}]},
            "2": {"images": [{"filename": "o.png", "type": "output"}], "animated": [true]}
        });
        let (count, preview) = summary(&Json::from(outputs));
        assert_eq!(count, 2);
        assert_eq!(preview.get("filename"), Some(&Json::from("o.png")));
    }

    #[test]
    fn a_missing_workflow_is_no_id_and_a_null_one_is_a_crash() {
        let of = |extra: serde_json::Value| metadata(&Json::from(extra)).map(|(_, id)| id);
        assert_eq!(of(json!({})), Ok(Json::Null));
        assert_eq!(of(json!({"extra_pnginfo": {}})), Ok(Json::Null));
        assert_eq!(of(json!({"extra_pnginfo": {"workflow": {"id": "w"}}})), Ok(Json::from("w")));
        assert_eq!(of(json!({"extra_pnginfo": null})), Err(Crash));
        assert_eq!(of(json!({"extra_pnginfo": {"workflow": null}})), Err(Crash));
        assert_eq!(of(json!({"extra_pnginfo": []})), Err(Crash));
    }
}
