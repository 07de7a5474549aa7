//! Users, their files and settings (app/user_manager.py, app/app_settings.py 0.8.0). Nobody is authenticated: the header
//! `comfy-user` is believed.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use hyper::{Method, StatusCode};

use super::answer::Reply;
use super::{Call, decode, files};
use crate::files::absolute;
use crate::json::{Dict, Json, dict};
use crate::python;

/// Users whose files no route may reach.
const SYSTEM_PREFIX: &str = "__";

/// Why there is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoPath {
    UnknownUser,
    Outside,
}

fn users_file(call: &Call) -> PathBuf {
    call.process.folders().user().join("users.json")
}

/// Ids and names; without `--multi-user` there is only one.
fn known_users(call: &Call) -> Dict {
    if !call.process.options().multi_user {
        return [("default".to_owned(), Json::from("default"))].into_iter().collect();
    }
    let text = std::fs::read_to_string(users_file(call)).unwrap_or_default();
    match Json::parse(&text) {
        Ok(Json::Dict(users)) => users,
        _ => Dict::new(),
    }
}

/// The folder of the user whom the request names.
fn root(call: &Call) -> Result<PathBuf, NoPath> {
    let named = call.header("comfy-user").filter(|_| call.process.options().multi_user);
    let user = named.unwrap_or("default");
    if user.starts_with(SYSTEM_PREFIX) || !known_users(call).contains_key(user) {
        return Err(NoPath::UnknownUser);
    }
    Ok(call.process.folders().user().join(user))
}

/// The path of a file of the user. A `%` that is left after the first decoding is decoded again.
fn path_of(call: &Call, file: &str, create: bool) -> Result<PathBuf, NoPath> {
    let root = root(call)?;
    let file = if file.contains('%') { decode(file) } else { file.to_owned() };
    let path = absolute(&root.join(file));
    if !path.starts_with(&root) {
        return Err(NoPath::Outside);
    }
    if create && let Some(parent) = path.parent() {
        // A folder that cannot be made shows when the file is opened.
        let _ = std::fs::create_dir_all(parent);
    }
    Ok(path)
}

/// A path for the routes of single files: an unknown user raises there, which is 500.
fn file_path(call: &Call, file: &str, must_exist: bool) -> Result<PathBuf, Reply> {
    if file.is_empty() {
        return Err(Reply::Empty(StatusCode::BAD_REQUEST));
    }
    let path = path_of(call, file, true).map_err(|error| match error {
        NoPath::UnknownUser => Reply::Crash,
        NoPath::Outside => Reply::Empty(StatusCode::FORBIDDEN),
    })?;
    if must_exist && !path.exists() {
        return Err(Reply::Empty(StatusCode::NOT_FOUND));
    }
    Ok(path)
}

fn relative(path: &Path, base: &Path) -> String {
    path.strip_prefix(base).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

fn seconds(path: &Path) -> Json {
    let modified = std::fs::metadata(path).and_then(|meta| meta.modified());
    let since = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Json::Float(since.as_secs_f64())
}

fn size(path: &Path) -> Json {
    Json::Int(std::fs::metadata(path).map(|meta| meta.len()).unwrap_or(0).into())
}

fn file_info(path: &Path, base: &Path) -> Json {
    dict([
        ("path", relative(path, base).into()),
        ("size", size(path)),
        ("modified", seconds(path)),
        ("created", seconds(path)),
    ])
}

/// Everything below a folder: files and folders, in an order of its own.
fn walk(folder: &Path, recurse: bool, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        out.push(entry.clone());
        if recurse && entry.is_dir() {
            walk(&entry, recurse, out);
        }
    }
}

/// `GET /userdata`.
pub(super) fn list(call: &Call) -> Result<Reply, Reply> {
    let directory = call.query("dir").filter(|dir| !dir.is_empty());
    let directory = directory.ok_or(Reply::text(StatusCode::BAD_REQUEST, "Directory not provided"))?;
    let path = path_of(call, directory, true).map_err(|error| match error {
        NoPath::UnknownUser => Reply::Crash,
        NoPath::Outside => Reply::text(StatusCode::FORBIDDEN, "Invalid directory"),
    })?;
    if !path.exists() {
        return Err(Reply::text(StatusCode::NOT_FOUND, "Directory not found"));
    }
    let flag = |name: &str| call.query(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let mut found = Vec::new();
    walk(&path, flag("recurse"), &mut found);
    let shown = found
        .iter()
        // glob does not match hidden names.
        .filter(|file| file.is_file() && !relative(file, &path).split('/').any(|part| part.starts_with('.')))
        .map(|file| {
            if flag("full_info") {
                return file_info(file, &path);
            }
            let relative = relative(file, &path);
            if !flag("split") {
                return Json::from(relative);
            }
            let parts = std::iter::once(relative.as_str()).chain(relative.split('/'));
            Json::List(parts.map(Json::from).collect())
        })
        .collect();
    Ok(Reply::json(Json::List(shown)))
}

/// `GET /v2/userdata`: the path is decoded twice.
pub(super) fn list_v2(call: &Call) -> Result<Reply, Reply> {
    let unknown = || Reply::text(StatusCode::FORBIDDEN, "Invalid user specified in request");
    let base = root(call).map_err(|_| unknown())?;
    let asked = decode(call.query("path").unwrap_or_default());
    let target =
        path_of(call, &asked, false).map_err(|_| Reply::text(StatusCode::BAD_REQUEST, "Invalid path requested"))?;
    if !target.exists() {
        return if target == base {
            Ok(Reply::json(Json::List(Vec::new())))
        } else {
            Err(Reply::text(StatusCode::NOT_FOUND, "Requested path not found"))
        };
    }
    if !target.is_dir() {
        return Err(Reply::text(StatusCode::BAD_REQUEST, "Requested path is not a directory"));
    }
    let mut found = Vec::new();
    walk(&target, true, &mut found);
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    found.sort_by_key(|path| (!path.is_dir(), name(path).to_lowercase()));
    let shown = found.iter().map(|path| {
        let (kind, file) = if path.is_dir() { ("directory", false) } else { ("file", true) };
        let mut entry =
            dict([("name", name(path).into()), ("path", relative(path, &base).into()), ("type", kind.into())]);
        if let Json::Dict(entry) = &mut entry
            && file
        {
            entry.insert("size".into(), size(path));
            entry.insert("modified".into(), seconds(path));
        }
        entry
    });
    Ok(Reply::json(Json::List(shown.collect())))
}

/// `GET /userdata/{file}`: served with the type of its ending, HTML included.
pub(super) fn read(call: &Call, file: &str) -> Result<Reply, Reply> {
    let path = file_path(call, file, true)?;
    let kind = files::content_type(&path.to_string_lossy(), false);
    files::file_answer(&path, kind, call.request.headers()).map(|answer| Reply::Built(Box::new(answer)))
}

/// `POST /userdata/{file}`.
pub(super) async fn write(call: &mut Call, file: &str) -> Result<Reply, Reply> {
    let path = file_path(call, file, false)?;
    if call.query("overwrite") == Some("false") && path.exists() {
        return Err(Reply::text(StatusCode::CONFLICT, "File already exists"));
    }
    let content = super::body::bytes(&mut call.request).await?;
    call.process.disk().map_err(|_| Reply::Empty(StatusCode::BAD_REQUEST))?;
    std::fs::write(&path, content).map_err(|_| Reply::Empty(StatusCode::BAD_REQUEST))?;
    told(call, &path)
}

/// Path or facts of a file that was written or moved.
fn told(call: &Call, path: &Path) -> Result<Reply, Reply> {
    let base = root(call).map_err(|_| Reply::Crash)?;
    let full = call.query("full_info").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    Ok(Reply::json(if full { file_info(path, &base) } else { relative(path, &base).into() }))
}

/// `DELETE /userdata/{file}`.
pub(super) fn delete(call: &Call, file: &str) -> Result<Reply, Reply> {
    let path = file_path(call, file, true)?;
    std::fs::remove_file(path).map_err(|_| Reply::Crash)?;
    Ok(Reply::Empty(StatusCode::NO_CONTENT))
}

/// `POST /userdata/{file}/move/{dest}`.
pub(super) fn rename(call: &Call, from: &str, to: &str) -> Result<Reply, Reply> {
    let from = file_path(call, from, true)?;
    let to = file_path(call, to, false)?;
    if call.query("overwrite") == Some("false") && to.exists() {
        return Err(Reply::text(StatusCode::CONFLICT, "File already exists"));
    }
    std::fs::rename(from, &to).map_err(|_| Reply::Crash)?;
    told(call, &to)
}

fn stored_settings(call: &Call) -> Result<(PathBuf, Dict), Reply> {
    let path = path_of(call, "comfy.settings.json", true).map_err(|error| match error {
        NoPath::UnknownUser => Reply::text(StatusCode::UNAUTHORIZED, "401: Unauthorized"),
        NoPath::Outside => Reply::Crash,
    })?;
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let settings = match Json::parse(&text) {
        Ok(Json::Dict(settings)) => settings,
        _ => Dict::new(),
    };
    Ok((path, settings))
}

fn keep_settings(call: &Call, path: &Path, settings: Dict) -> Result<Reply, Reply> {
    call.process.disk().map_err(|_| Reply::Crash)?;
    std::fs::write(path, Json::Dict(settings).dumps()).map_err(|_| Reply::Crash)?;
    Ok(Reply::ok())
}

/// `GET /settings`.
pub(super) fn settings(call: &Call) -> Result<Reply, Reply> {
    stored_settings(call).map(|(_, settings)| Reply::json(Json::Dict(settings)))
}

/// `GET /settings/{id}`.
pub(super) fn setting(call: &Call, id: &str) -> Result<Reply, Reply> {
    let (_, settings) = stored_settings(call)?;
    Ok(Reply::json(settings.get(id).cloned().unwrap_or(Json::Null)))
}

/// `POST /settings`.
pub(super) async fn change_settings(call: &mut Call) -> Result<Reply, Reply> {
    let (path, mut settings) = stored_settings(call)?;
    let Json::Dict(new) = call.json().await? else {
        return Err(Reply::Crash);
    };
    settings.extend(new);
    keep_settings(call, &path, settings)
}

/// `POST /settings/{id}`.
pub(super) async fn change_setting(call: &mut Call, id: &str) -> Result<Reply, Reply> {
    let (path, mut settings) = stored_settings(call)?;
    settings.insert(id.to_owned(), call.json().await?);
    keep_settings(call, &path, settings)
}

/// `GET /users`: in multi-user mode every id, which is all that a caller has to know of a user.
pub(super) fn users(call: &Call) -> Reply {
    debug_assert!(matches!(*call.request.method(), Method::GET | Method::HEAD));
    let mode = if call.process.options().multi_user {
        ("users", Json::Dict(known_users(call)))
    } else {
        ("migrated", Json::Bool(call.process.folders().user().join("default").exists()))
    };
    Reply::json(dict([("storage", "server".into()), mode]))
}

/// `POST /users`.
pub(super) async fn add_user(call: &mut Call) -> Result<Reply, Reply> {
    let refused = |text: &str| Reply::json_with(StatusCode::BAD_REQUEST, dict([("error", text.into())]));
    let body = call.json().await?;
    let name = body.get("username").ok_or(Reply::Crash)?;
    let mut users = known_users(call);
    if users.values().any(|known| known.equals(name)) {
        return Err(refused("Duplicate username."));
    }
    let Json::Str(name) = name else {
        return Err(Reply::Crash);
    };
    let name = name.trim();
    if name.is_empty() {
        return Err(refused("username not provided"));
    }
    let mut clean = String::new();
    for character in name.chars() {
        let kept = character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
        if kept {
            clean.push(character);
        } else if !clean.ends_with('\u{0}') {
            clean.push('\u{0}');
        }
    }
    // A run of other characters becomes one dash.
    let clean = clean.replace('\u{0}', "-");
    if name.starts_with(SYSTEM_PREFIX) || clean.starts_with(SYSTEM_PREFIX) {
        return Err(refused("System User prefix not allowed"));
    }
    let id = format!("{clean}_{}", uuid::Uuid::new_v4());
    users.insert(id.clone(), python::str(&Json::from(name)).into());
    std::fs::write(users_file(call), Json::Dict(users).dumps()).map_err(|_| Reply::Crash)?;
    Ok(Reply::json(id.into()))
}
