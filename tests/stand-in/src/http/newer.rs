//! What versions after 0.8.0 have or do otherwise (`Options::newer`): read in stored files of later releases, not recorded from a running one. Only what a gateway meets is here, and nothing is
//! kept from anybody, as there: assets belong to all.

use hyper::StatusCode;

use super::Call;
use super::answer::Reply;
use super::prompts;
use crate::events::Audience;
use crate::json::{Dict, Json, dict};
use crate::python;

/// A class that is not installed, and the one that runs in its place (`node_replace_manager.apply_replacements`).
const REPLACED: (&str, &str) = ("OldSaveImage", "SaveImage");

/// The answer of a route that 0.8.0 has not.
pub(super) async fn route(call: &mut Call, verb: &str, names: &[&str]) -> Option<Reply> {
    Some(match (verb, names) {
        (_, ["assets" | "tags" | "tasks", ..] | ["models", "download", ..]) => assets(call),
        ("GET", ["node_replacements"]) => {
            Reply::json(dict([(REPLACED.0, Json::List(vec![dict([("new_node_id", REPLACED.1.into())])]))]))
        }
        ("GET", ["openapi.yaml" | "api-docs"]) => Reply::text(StatusCode::OK, "openapi: 3.0.0"),
        ("POST", ["api", "jobs", "cancel"]) => cancel_all(call).await.into(),
        ("POST", ["api", "jobs", id, "cancel"]) => {
            let id = Json::from(*id);
            Reply::json(dict([("cancelled", Json::Bool(cancel(call, &id)))]))
        }
        _ => return None,
    })
}

/// Every file that there is, whoever made it: lists, downloads and look-ups by hash alike.
fn assets(call: &Call) -> Reply {
    let names =
        ["input", "output"].into_iter().filter_map(|kind| call.process.folders().by_type(kind)).flat_map(|base| {
            let files = std::fs::read_dir(base).into_iter().flatten().flatten();
            files
                .map(|file| dict([("name", file.file_name().to_string_lossy().into_owned().into())]))
                .collect::<Vec<_>>()
        });
    Reply::json(dict([("assets", Json::List(names.collect()))]))
}

async fn cancel_all(call: &mut Call) -> Result<Reply, Reply> {
    let body = call.json().await?;
    let ids = body.get("job_ids").and_then(Json::as_list).ok_or(Reply::Empty(StatusCode::BAD_REQUEST))?;
    let cancelled = ids.iter().filter(|id| cancel(call, id)).count() > 0;
    Ok(Reply::json(dict([("cancelled", Json::Bool(cancelled))])))
}

fn cancel(call: &Call, id: &Json) -> bool {
    let process = &call.process;
    if process.queue.is_running(id) {
        process.set_interrupt();
        return true;
    }
    process.queue.delete(id) > 0
}

/// `POST /prompt` before it is looked at: ids are canonical, and classes are replaced before they are validated.
pub(super) fn submission(body: &mut Json, usage_source: Option<&str>) -> Result<(), Reply> {
    let Json::Dict(body) = body else { return Ok(()) };
    match body.get("prompt_id") {
        None => {}
        Some(Json::Null) => {
            body.shift_remove("prompt_id");
        }
        Some(Json::Str(id)) if uuid::Uuid::parse_str(id).is_ok_and(|read| read.to_string() == *id) => {}
        Some(other) => {
            let details = python::str(other);
            let error = crate::validate::top_error("invalid_prompt_id", "prompt_id must be a UUID", &details);
            return Err(prompts::refused(error, dict([])));
        }
    }
    if let (Some(source), Some(Json::Dict(extra_data))) = (usage_source, body.get_mut("extra_data")) {
        extra_data.insert("comfy_usage_source".into(), source.into());
    }
    if let Some(Json::Dict(prompt)) = body.get_mut("prompt") {
        for node in prompt.values_mut() {
            if let Json::Dict(node) = node
                && node.get("class_type").and_then(Json::as_str) == Some(REPLACED.0)
            {
                node.insert("class_type".into(), REPLACED.1.into());
            }
        }
        let before = prompt.clone();
        for node in prompt.values_mut() {
            substitute(node, &before);
        }
    }
    Ok(())
}

/// `%Node.input%` in a prefix becomes the other node's input, as the page did it before.
fn substitute(node: &mut Json, prompt: &Dict) {
    let Json::Dict(node) = node else { return };
    let Some(Json::Dict(inputs)) = node.get_mut("inputs") else { return };
    let Some(Json::Str(prefix)) = inputs.get_mut("filename_prefix") else { return };
    for other in prompt.values() {
        let (Some(class), Some(inputs)) =
            (other.get("class_type").and_then(Json::as_str), other.get("inputs").and_then(Json::as_dict))
        else {
            continue;
        };
        for (name, value) in inputs {
            *prefix = prefix.replace(&format!("%{class}.{name}%"), &python::str(value));
        }
    }
}

/// What an upload's answer says besides; and a word of it to every socket, whoever uploaded.
pub(super) fn uploaded(call: &Call, name: &str) -> Json {
    let told = dict([("task_id", uuid::Uuid::new_v4().to_string().into()), ("filename", name.into())]);
    call.process.hub.send("asset_download", told, Audience::All);
    dict([
        ("id", uuid::Uuid::new_v4().to_string().into()),
        ("name", name.into()),
        ("tags", Json::List(vec!["input".into()])),
    ])
}

/// Further fields of every class of `object_info`.
pub(super) fn class_info(mut info: Json) -> Json {
    if let Json::Dict(info) = &mut info {
        info.insert("is_input_list".into(), Json::Bool(false));
        info.insert("has_intermediate_output".into(), Json::Bool(false));
        info.insert("search_aliases".into(), Json::List(Vec::new()));
        info.insert("dev_only".into(), Json::Bool(false));
    }
    info
}

/// Further fields of `system_stats`: what else the host is, and paths.
pub(super) fn system(system: &mut Json, base: &str) {
    if let Json::Dict(system) = system {
        system.insert("deploy_environment".into(), "stand-in-host".into());
        system.insert(
            "comfy_package_versions".into(),
            Json::List(vec![dict([("name", "comfyui".into()), ("path", base.into())])]),
        );
    }
}

/// Further features of the server.
pub(super) fn features(mut features: Json) -> Json {
    if let Json::Dict(features) = &mut features {
        features.insert("assets".into(), Json::Bool(true));
        features.insert("node_replacements".into(), Json::Bool(true));
        features.insert("supports_model_type_tags".into(), Json::Bool(true));
    }
    features
}

/// `/view?filename=blake3:…`: any asset, whosever it is.
pub(super) fn by_hash(call: &Call) -> Option<std::path::PathBuf> {
    let written = call.query("filename").filter(|name| name.starts_with("blake3:"))?;
    let base = call.process.folders().by_type("input")?;
    (!written.is_empty())
        .then(|| std::fs::read_dir(base).ok()?.flatten().map(|file| file.path()).find(|file| file.is_file()))
        .flatten()
}
