//! Userdata and settings of the owner, from the ledger; what ComfyUI answers with a text is answered with that text.

use super::Call;
use crate::deliver::answer::Answer;
use crate::deliver::state::settings as settings_shape;
use crate::deliver::state::userdata::{self as shape, Folder, ListForm, NoFolder};
use crate::record::ledger::LedgerError;
use crate::record::ledger::user_files::{SETTINGS_BYTES_MAX, SETTINGS_FILE, UserBounds, UserFile, UserPath, UserWrite};
use crate::reject::Rejection;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

/// `GET /userdata`.
pub(super) async fn list(call: &Call<'_>) -> Result<Answer, Rejection> {
    let Some(dir) = call.matched.query.value("dir").filter(|dir| !dir.is_empty()) else {
        return Ok(text(StatusCode::BAD_REQUEST, "Directory not provided"));
    };
    let Ok(folder) = Folder::parse(dir) else { return Ok(text(StatusCode::FORBIDDEN, "Invalid directory")) };
    let form = ListForm { recurse: flag(call, "recurse"), full_info: full_info(call), split: flag(call, "split") };
    let files = call.services.ledger.user_files(&call.personal()?).await?;
    Ok(match shape::list(&files, &folder, form) {
        Some(list) => Answer::json(StatusCode::OK, &list),
        None if folder.is_file(&files) => Answer::json(StatusCode::OK, &json!([])),
        None => text(StatusCode::NOT_FOUND, "Directory not found"),
    })
}

/// `GET /v2/userdata`.
pub(super) async fn list_below(call: &Call<'_>) -> Result<Answer, Rejection> {
    let folder = match Folder::parse(call.matched.query.value("path").unwrap_or_default()) {
        Ok(folder) => folder,
        Err(NoFolder) => return Ok(text(StatusCode::BAD_REQUEST, "Invalid path requested")),
    };
    let files = call.services.ledger.user_files(&call.personal()?).await?;
    Ok(match shape::list_below(&files, &folder) {
        _ if folder.is_file(&files) => text(StatusCode::BAD_REQUEST, "Requested path is not a directory"),
        Some(list) => Answer::json(StatusCode::OK, &list),
        None => text(StatusCode::NOT_FOUND, "Requested path not found"),
    })
}

/// `GET /userdata/{file}`.
pub(super) async fn read(call: &Call<'_>) -> Result<Answer, Rejection> {
    let path = path(call, "file")?;
    match call.services.ledger.user_file(&call.personal()?, &path).await {
        Ok((_, content)) => Ok(shape::content(&path, content)),
        Err(LedgerError::NotFound { .. }) => Ok(Answer::empty(StatusCode::NOT_FOUND)),
        Err(error) => Err(error.into()),
    }
}

/// `POST /userdata/{file}`.
pub(super) async fn write(call: &Call<'_>) -> Result<Answer, Rejection> {
    call.services.room()?;
    let path = path(call, "file")?;
    let write = UserWrite {
        path: path.clone(),
        content: call.body.clone(),
        replace: replaces(call),
        bounds: bounds(call),
        at: call.services.clock.wall(),
    };
    told(call, &path, call.services.ledger.write_user_file(&call.personal()?, write).await)
}

/// `DELETE /userdata/{file}`.
pub(super) async fn delete(call: &Call<'_>) -> Result<Answer, Rejection> {
    match call.services.ledger.delete_user_file(&call.personal()?, &path(call, "file")?).await {
        Ok(()) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        Err(LedgerError::NotFound { .. }) => Ok(Answer::empty(StatusCode::NOT_FOUND)),
        Err(error) => Err(error.into()),
    }
}

/// `POST /userdata/{file}/move/{dest}`.
pub(super) async fn rename(call: &Call<'_>) -> Result<Answer, Rejection> {
    let (from, to) = (path(call, "file")?, path(call, "dest")?);
    let moved = call.services.ledger.move_user_file(&call.personal()?, &from, &to, replaces(call)).await;
    told(call, &to, moved)
}

/// Path or facts of a file that was written or moved.
fn told(call: &Call<'_>, path: &UserPath, done: Result<UserFile, LedgerError>) -> Result<Answer, Rejection> {
    match done {
        Ok(file) if full_info(call) => Ok(Answer::json(StatusCode::OK, &shape::info(path.as_str(), &file))),
        Ok(_) => Ok(Answer::json(StatusCode::OK, &json!(path))),
        Err(LedgerError::NotFound { .. }) => Ok(Answer::empty(StatusCode::NOT_FOUND)),
        Err(LedgerError::Exists { .. }) => Ok(text(StatusCode::CONFLICT, "File already exists")),
        Err(error) => Err(error.into()),
    }
}

/// `GET /settings`.
pub(super) async fn settings(call: &Call<'_>) -> Result<Answer, Rejection> {
    Ok(Answer::json(StatusCode::OK, &Value::Object(stored(call).await?)))
}

/// `GET /settings/{id}`: `null` for one that is not set.
pub(super) async fn setting(call: &Call<'_>) -> Result<Answer, Rejection> {
    let value = stored(call).await?.remove(setting_id(call)?);
    Ok(Answer::json(StatusCode::OK, &value.unwrap_or_default()))
}

/// `POST /settings`.
pub(super) async fn change_settings(call: &Call<'_>) -> Result<Answer, Rejection> {
    change(call, settings_shape::changes(&call.body)?).await
}

/// `POST /settings/{id}`.
pub(super) async fn change_setting(call: &Call<'_>) -> Result<Answer, Rejection> {
    let value = settings_shape::value(&call.body)?;
    change(call, Map::from_iter([(setting_id(call)?.to_owned(), value)])).await
}

async fn stored(call: &Call<'_>) -> Result<Map<String, Value>, Rejection> {
    let path = SETTINGS_FILE.parse().map_err(|_| Rejection::internal("the settings have no path"))?;
    match call.services.ledger.user_file(&call.personal()?, &path).await {
        // It is a file that its owner may write as it likes; more than can be set is not read as settings either.
        Ok((file, _)) if file.bytes > SETTINGS_BYTES_MAX => {
            Err(LedgerError::Full { what: "the bytes of the settings", limit: SETTINGS_BYTES_MAX }.into())
        }
        Ok((_, content)) => Ok(settings_shape::stored(&content)),
        Err(LedgerError::NotFound { .. }) => Ok(Map::new()),
        Err(error) => Err(error.into()),
    }
}

async fn change(call: &Call<'_>, changes: Map<String, Value>) -> Result<Answer, Rejection> {
    call.services.room()?;
    let at = call.services.clock.wall();
    call.services.ledger.change_settings(&call.personal()?, changes, bounds(call), at).await?;
    Ok(Answer::empty(StatusCode::OK))
}

fn setting_id<'a>(call: &'a Call<'_>) -> Result<&'a str, Rejection> {
    call.matched.params.named("id").ok_or_else(|| Rejection::internal("a setting without an id"))
}

fn path(call: &Call<'_>, name: &str) -> Result<UserPath, Rejection> {
    let text = call.matched.params.named(name).unwrap_or_default();
    text.parse().map_err(|error| {
        Rejection::new(StatusCode::BAD_REQUEST, "bad_path", format!("no path of a file: {error}; choose another name"))
    })
}

/// Only the exact word keeps a file from being replaced, as for ComfyUI.
fn replaces(call: &Call<'_>) -> bool {
    call.matched.query.value("overwrite") != Some("false")
}

fn full_info(call: &Call<'_>) -> bool {
    flag(call, "full_info")
}

fn flag(call: &Call<'_>, key: &str) -> bool {
    call.matched.query.value(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn bounds(call: &Call<'_>) -> UserBounds {
    let limits = &call.services.config().limits;
    UserBounds { file_bytes_max: limits.userdata_bytes_max, tenant_bytes_max: limits.userdata_total_bytes_max }
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    Answer::bytes(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}
