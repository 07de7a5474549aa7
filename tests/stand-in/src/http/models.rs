//! What the server tells of itself: models, node classes, statistics, logs.

use std::time::UNIX_EPOCH;

use hyper::StatusCode;

use super::Call;
use super::answer::Reply;
use crate::json::{Dict, Json, dict};
use crate::process::terminal_size;

/// Model folders in ComfyUI's order, with the folders on disk below `models/` and whether `output/` has one too.
const FOLDERS: [(&str, &[&str], Option<&str>); 21] = [
    ("checkpoints", &["checkpoints"], Some("checkpoints")),
    ("configs", &["configs"], None),
    ("loras", &["loras"], Some("loras")),
    ("vae", &["vae"], Some("vae")),
    ("text_encoders", &["text_encoders", "clip"], Some("clip")),
    ("diffusion_models", &["unet", "diffusion_models"], Some("diffusion_models")),
    ("clip_vision", &["clip_vision"], None),
    ("style_models", &["style_models"], None),
    ("embeddings", &["embeddings"], None),
    ("diffusers", &["diffusers"], None),
    ("vae_approx", &["vae_approx"], None),
    ("controlnet", &["controlnet", "t2i_adapter"], None),
    ("gligen", &["gligen"], None),
    ("upscale_models", &["upscale_models"], None),
    ("latent_upscale_models", &["latent_upscale_models"], None),
    ("custom_nodes", &[], None),
    ("hypernetworks", &["hypernetworks"], None),
    ("photomaker", &["photomaker"], None),
    ("classifiers", &["classifiers"], None),
    ("model_patches", &["model_patches"], None),
    ("audio_encoders", &["audio_encoders"], None),
];

fn is_folder(name: &str) -> bool {
    FOLDERS.iter().any(|(folder, ..)| *folder == name)
}

/// Absolute paths of a model folder; no such directories are needed.
fn paths(call: &Call, name: &str) -> Json {
    let base = call.process.folders().base();
    let Some((_, below, output)) = FOLDERS.iter().find(|(folder, ..)| *folder == name) else {
        return Json::Null;
    };
    let models = below.iter().map(|folder| base.join("models").join(folder));
    let code = (name == "custom_nodes").then(|| base.join("custom_nodes"));
    let output = output.map(|folder| call.process.folders().output().join(folder));
    Json::List(models.chain(code).chain(output).map(|path| Json::from(path.to_string_lossy().into_owned())).collect())
}

fn listed(call: &Call, folder: &str) -> Vec<String> {
    let mut names = call.process.models().get(folder).cloned().unwrap_or_default();
    names.sort();
    names
}

/// `GET /models`.
pub(super) fn folders() -> Reply {
    Reply::json(Json::List(FOLDERS.iter().map(|(name, ..)| Json::from(*name)).collect()))
}

/// `GET /view_metadata/{folder}`: of every model there is, the same: what it is, and the path of what it was made from.
pub(super) fn metadata(call: &Call, folder: &str) -> Reply {
    let name = call.query("filename").unwrap_or_default();
    if !name.ends_with(".safetensors") || !listed(call, folder).iter().any(|listed| listed == name) {
        return Reply::Empty(StatusCode::NOT_FOUND);
    }
    let base = paths(call, folder);
    let base = base.as_list().and_then(|paths| paths.first()).cloned().unwrap_or(Json::Null);
    Reply::json(dict([
        ("modelspec.title", name.into()),
        ("ss_base_model_version", "sd_v1".into()),
        ("ss_sd_model_name", base),
    ]))
}

/// `GET /models/{folder}`.
pub(super) fn names(call: &Call, folder: &str) -> Reply {
    if !is_folder(folder) {
        return Reply::Empty(StatusCode::NOT_FOUND);
    }
    Reply::json(Json::List(listed(call, folder).into_iter().map(Json::from).collect()))
}

/// `GET /embeddings`: names without their ending.
pub(super) fn embeddings(call: &Call) -> Reply {
    let stem = |name: String| name.rsplit_once('.').map_or(name.clone(), |(stem, _)| stem.to_owned());
    Reply::json(Json::List(listed(call, "embeddings").into_iter().map(stem).map(Json::from).collect()))
}

/// `GET /experiment/models`.
pub(super) fn experiment_folders(call: &Call) -> Reply {
    let shown = FOLDERS.iter().filter(|(name, ..)| !matches!(*name, "configs" | "custom_nodes"));
    let entries = shown.map(|(name, ..)| dict([("name", (*name).into()), ("folders", paths(call, name))]));
    Reply::json(Json::List(entries.collect()))
}

/// `GET /experiment/models/{folder}`.
pub(super) fn experiment_names(call: &Call, folder: &str) -> Reply {
    if !is_folder(folder) {
        return Reply::Empty(StatusCode::NOT_FOUND);
    }
    let entry = |name: String| {
        dict([
            ("name", name.into()),
            ("pathIndex", Json::Int(0)),
            ("modified", Json::Float(0.0)),
            ("created", Json::Float(0.0)),
            ("size", Json::Int(0)),
        ])
    };
    Reply::json(Json::List(listed(call, folder).into_iter().map(entry).collect()))
}

/// `GET /object_info`.
pub(super) fn object_info(call: &Call) -> Reply {
    let models = call.process.models();
    let catalogue = call.process.catalogue(&models);
    let newer = call.process.options().newer;
    let of_version = |info| in_folder(call, if newer { super::newer::class_info(info) } else { info });
    let names = catalogue.names().into_iter();
    let entries = names.filter_map(|name| Some((name.to_owned(), of_version(catalogue.info(name)?))));
    Reply::json(Json::Dict(entries.collect()))
}

/// A class of the probe nodes says the folder that they were put into.
fn in_folder(call: &Call, mut info: Json) -> Json {
    if let (Some(folder), Json::Dict(entry)) = (&call.process.options().probe_folder, &mut info)
        && let Some(module) = entry.get_mut("python_module")
        && module.as_str() == Some("custom_nodes.gate_probe")
    {
        *module = format!("custom_nodes.{folder}").as_str().into();
    }
    info
}

/// `GET /object_info/{class}`: an unknown class is an empty object.
pub(super) fn object_info_of(call: &Call, class: &str) -> Reply {
    let models = call.process.models();
    let info = call.process.catalogue(&models).info(class).map(|info| in_folder(call, info));
    Reply::json(Json::Dict(info.into_iter().map(|info| (class.to_owned(), info)).collect()))
}

/// `GET /system_stats`: a CPU with invented amounts of memory. It asks CUDA, so a broken context fails it.
pub(super) fn system_stats(call: &Call) -> Reply {
    const TOTAL: i128 = 24 * 1024 * 1024 * 1024;
    const FREE: i128 = 20 * 1024 * 1024 * 1024;
    if call.process.shared().faults.cuda_is_broken() {
        return Reply::Crash;
    }
    let mut argv = vec![Json::from("main.py"), "--cpu".into()];
    if call.process.options().multi_user {
        argv.push("--multi-user".into());
    }
    let mut system = dict([
        ("os", "linux".into()),
        ("ram_total", Json::Int(TOTAL)),
        ("ram_free", Json::Int(FREE)),
        ("comfyui_version", "0.8.0".into()),
        ("required_frontend_version", "1.35.9".into()),
        ("installed_templates_version", "0.7.67".into()),
        ("required_templates_version", "0.7.67".into()),
        ("python_version", "3.11.7 (stand-in)".into()),
        ("pytorch_version", "2.15.0+cpu".into()),
        ("embedded_python", Json::Bool(false)),
        ("argv", Json::List(argv)),
    ]);
    if call.process.options().newer {
        super::newer::system(&mut system, &call.process.folders().base().to_string_lossy());
    }
    let vram = i128::from(call.process.options().vram_total);
    let device = dict([
        ("name", "cpu".into()),
        ("type", "cpu".into()),
        ("index", Json::Null),
        ("vram_total", Json::Int(vram)),
        ("vram_free", Json::Int(FREE.min(vram))),
        ("torch_vram_total", Json::Int(vram)),
        ("torch_vram_free", Json::Int(FREE.min(vram))),
    ]);
    Reply::json(dict([("system", system), ("devices", Json::List(vec![device]))]))
}

/// `GET /internal/logs`.
pub(super) fn logs(call: &Call) -> Reply {
    let text: String = call.process.logs().into_iter().map(|(time, text)| format!("{time} - {text}")).collect();
    Reply::json(text.into())
}

/// `GET /internal/logs/raw`.
pub(super) fn logs_raw(call: &Call) -> Reply {
    let entries = call.process.logs().into_iter().map(|(time, text)| dict([("t", time.into()), ("m", text.into())]));
    Reply::json(dict([("entries", Json::List(entries.collect())), ("size", terminal_size())]))
}

/// `PATCH /internal/logs/subscribe`: anybody may send the log to any client.
pub(super) async fn subscribe_logs(call: &mut Call) -> Result<Reply, Reply> {
    let body = call.json().await?;
    let (Some(client), Some(enabled)) = (body.get("clientId"), body.get("enabled")) else {
        return Err(Reply::Crash);
    };
    let client = client.as_str().ok_or(Reply::Crash)?;
    call.process.subscribe_logs(client, enabled.truthy());
    Ok(Reply::ok())
}

/// `GET /internal/folder_paths`.
pub(super) fn folder_paths(call: &Call) -> Reply {
    Reply::json(Json::Dict(FOLDERS.iter().map(|(name, ..)| ((*name).to_owned(), paths(call, name))).collect()))
}

/// `GET /internal/files/{kind}`: names at the top, newest first.
pub(super) fn folder_files(call: &Call, kind: &str) -> Reply {
    let Some(folder) = call.process.folders().by_type(kind) else {
        return Reply::json_with(StatusCode::BAD_REQUEST, dict([("error", "Invalid directory type".into())]));
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<_> = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| {
            let modified = entry.metadata().and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH);
            Some((entry.file_name().into_string().ok()?, modified))
        })
        .filter(|(name, _)| !name.starts_with('.'))
        .collect();
    files.sort_by_key(|(_, modified)| std::cmp::Reverse(*modified));
    Reply::json(Json::List(files.into_iter().map(|(name, _)| Json::from(name)).collect()))
}

/// `POST /stand-in/faults`: every key is a fault; an unknown one is refused, and then nothing is set.
pub(super) async fn set_faults(call: &mut Call) -> Result<Reply, Reply> {
    const KNOWN: [&str; 7] =
        ["worker_dies", "silence_sockets", "oom_next", "cuda_error_next", "lose_disk", "hang_http", "process_exits"];
    let asked: Dict = match call.json().await? {
        Json::Dict(asked) => asked,
        _ => return Err(Reply::text(StatusCode::BAD_REQUEST, "an object of faults is wanted")),
    };
    if let Some(unknown) = asked.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        let text = format!("unknown fault `{unknown}`; known are {}", KNOWN.join(", "));
        return Err(Reply::text(StatusCode::BAD_REQUEST, text));
    }
    let faults = &call.process.shared().faults;
    for (fault, value) in &asked {
        let on = value.truthy();
        match fault.as_str() {
            "silence_sockets" => faults.silence_sockets(on),
            "lose_disk" => faults.lose_disk(on),
            "hang_http" => faults.hang_http(on),
            "worker_dies" if on => faults.worker_dies(),
            "oom_next" if on => faults.oom_next(),
            "cuda_error_next" if on => faults.cuda_error_next(),
            "process_exits" if on => call.process.end(),
            _ => {}
        }
    }
    Ok(Reply::ok())
}
