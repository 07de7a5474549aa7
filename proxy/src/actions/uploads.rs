//! `POST /upload/image`, `POST /upload/mask`, `GET /internal/files/{directory}`.

use super::{Call, Caller};
use crate::admit::UploadSlot;
use crate::deliver::answer::Answer;
use crate::deliver::uploads::{ReceivedForm, UploadError};
use crate::dispatch::backend::Backend;
use crate::dispatch::comfyui::ComfyUiError;
use crate::dispatch::push::{self, PushError, Pushed};
use crate::ids::FileId;
use crate::inspect::contents::{self, ContentFacts, ContentFamily, ContentKind};
use crate::inspect::files;
use crate::record::audit::UploadedLine;
use crate::record::blobs::BlobWriter;
use crate::record::ledger::uploads::NewUpload;
use crate::record::ledger::{Directory, FileRow};
use crate::reject::Rejection;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

/// Pixels of a picture that gets a mask: a backend decodes it on the event loop that serves everybody there, 4096 × 8192 in about two seconds.
const MASKED_PIXELS_MAX: u64 = 1 << 25;
/// What a PNG of four channels has at most beside its pixels and the texts of its original: chunks, row filters.
const PNG_OVERHEAD_BYTES: u64 = 1 << 20;
/// From the turn at a backend to the picture in the spool.
const MASK_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a client waits before it asks for a backend again.
const NO_BACKEND_RETRY: Duration = Duration::from_secs(5);

/// `POST /upload/image`: `{"name", "subfolder", "type"}` as ComfyUI says it, of a file of the caller's own.
pub(super) async fn image(call: &Call<'_>, form: Option<ReceivedForm>) -> Result<Answer, Rejection> {
    let ReceivedForm { directory, subfolder, overwrite, filename, content, facts, mut slot, .. } = received(form)?;
    let place = Place { id: FileId::new(), directory, subfolder, filename, overwrite };
    let row = keep(call, &mut slot, content, facts, place).await?;
    Ok(told(&row))
}

/// `POST /upload/mask`: the picture that `original_ref` names, with the alpha of the uploaded one. A backend does the work on the pixels.
pub(super) async fn mask(call: &Call<'_>, form: Option<ReceivedForm>) -> Result<Answer, Rejection> {
    let mut form = received(form)?;
    let reference = original_reference(form.original.as_deref())?;
    let folder = files::owner_folder(&call.services.ledger.owner_secrets(&call.scope()?).await?);
    let (original, original_facts) = original(call, &reference, &folder).await?;
    check_mask(original_facts, form.facts)?;
    let shown = original.filename.clone();
    let original = Pushed::new(original.id, original.content, original.bytes, &original_facts, &folder, &shown);
    let made_facts = ContentFacts { kind: ContentKind::Png, frames: 1, ..original_facts };
    // Content and length are not known before it is made.
    let made = Pushed::new(FileId::new(), original.content, 0, &made_facts, &folder, &form.filename);
    let pixels = u64::from(original_facts.width) * u64::from(original_facts.height);
    let made_bytes_max = pixels.saturating_mul(4).saturating_add(original.bytes).saturating_add(PNG_OVERHEAD_BYTES);
    // Before it is made: the backend keeps what it made, whatever becomes of it here.
    form.slot.grow_to(made_bytes_max);
    check_room(call, &form.slot).await?;
    let mut writer = call.services.blobs.writer(made_bytes_max).map_err(UploadError::from)?;
    let making = masked(call, &original, &mut form, &made, &mut writer);
    let backend = tokio::time::timeout(MASK_TIMEOUT, making).await.map_err(|_| {
        Rejection::unavailable("mask_failed", "the backends took too long for this mask: try again", NO_BACKEND_RETRY)
    })??;
    let read =
        writer.read_back(|file, length| (contents::read(file, length), length)).await.map_err(UploadError::from)?;
    let (facts, length) = (read.0.map_err(UploadError::from)?, read.1);
    // The mask itself is of no more use.
    let ReceivedForm { directory, subfolder, overwrite, filename, content, mut slot, .. } = form;
    drop(content);
    slot.settle(length);
    let place = Place { id: made.id, directory, subfolder, filename, overwrite };
    let row = keep(call, &mut slot, writer, facts, place).await?;
    if row.id == made.id {
        backend.present.add(made.id);
    }
    Ok(told(&row))
}

/// `GET /internal/files/{directory}`: the caller's own at the top of that directory, newest first.
pub(super) async fn listing(call: &Call<'_>) -> Result<Answer, Rejection> {
    let named = call.matched.params.named("directory").unwrap_or_default();
    let directory = Directory::from_name(named).ok_or_else(|| {
        Rejection::new(StatusCode::BAD_REQUEST, "malformed", "the directory must be `output`, `input` or `temp`")
    })?;
    let mut rows = call.services.ledger.top_files(&call.scope()?, directory).await?;
    rows.retain(|row| !row.filename.starts_with('.'));
    rows.sort_by_key(|row| Reverse(row.created_at));
    let names: Vec<&str> = rows.iter().map(|row| row.filename.as_str()).collect();
    Ok(Answer::json(StatusCode::OK, &json!(names)))
}

fn received(form: Option<ReceivedForm>) -> Result<ReceivedForm, Rejection> {
    form.ok_or_else(|| Rejection::internal("an upload was answered without its form"))
}

fn told(row: &FileRow) -> Answer {
    let body = json!({"name": row.filename, "subfolder": row.subfolder, "type": row.directory.name()});
    Answer::json(StatusCode::OK, &body)
}

/// Where an upload is to show.
struct Place {
    id: FileId,
    directory: Directory,
    subfolder: String,
    filename: String,
    overwrite: bool,
}

/// Stores a spooled content and names it.
async fn keep(
    call: &Call<'_>,
    slot: &mut UploadSlot,
    content: BlobWriter,
    facts: ContentFacts,
    place: Place,
) -> Result<FileRow, Rejection> {
    let Caller { principal, tenant } = call.caller()?;
    let (services, storage_bytes_max) = (call.services, tenant.limits.storage_bytes_max);
    // Before the content gets its name in the blobs: nothing takes it away from there if the ledger refuses it.
    check_room(call, slot).await?;
    // Its hold lasts until the ledger names it.
    let stored = content.finish().await.map_err(UploadError::from)?;
    let (content, bytes) = (stored.content, stored.bytes);
    let Place { id, directory, subfolder, filename, overwrite } = place;
    let (owner, at) = (principal.owner.clone(), services.clock.wall());
    let upload = NewUpload {
        id,
        owner,
        content,
        bytes,
        facts,
        directory,
        subfolder,
        filename,
        overwrite,
        storage_bytes_max,
        at,
    };
    let row = services.ledger.keep_upload(upload).await?;
    drop(stored);
    let (request, owner, file, content, bytes) = (call.request, row.owner.clone(), row.id, row.content, row.bytes);
    services.audit.uploaded(UploadedLine { request, owner, file, content, bytes });
    Ok(row)
}

/// Whether the tenant has room for what is arriving.
async fn check_room(call: &Call<'_>, slot: &UploadSlot) -> Result<(), Rejection> {
    let tenant = &call.caller()?.tenant;
    let arriving = slot.arriving();
    let stored = call.services.ledger.uploaded_bytes(&tenant.id).await?;
    Ok(UploadSlot::check_room(arriving, stored, tenant.limits.storage_bytes_max)?)
}

/// `original_ref`: `{"filename", "subfolder"?, "type"?}`; `type` is `output` when it is left out, and a suffix of the name beats it.
#[derive(Debug, Deserialize)]
struct OriginalReference {
    filename: String,
    #[serde(default)]
    subfolder: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

fn original_reference(text: Option<&str>) -> Result<OriginalReference, Rejection> {
    let fault = "`original_ref` must be a JSON object with `filename`, and perhaps `subfolder` and `type`";
    let malformed = || Rejection::new(StatusCode::BAD_REQUEST, "malformed", fault);
    text.and_then(|text| serde_json::from_str(text).ok()).ok_or_else(malformed)
}

/// The original among the caller's own files, with what it is. One of another owner answers like none.
async fn original(
    call: &Call<'_>,
    reference: &OriginalReference,
    folder: &str,
) -> Result<(FileRow, ContentFacts), Rejection> {
    let kind = reference.kind.as_deref().unwrap_or("output");
    let given = Directory::from_name(kind).ok_or_else(|| {
        Rejection::new(StatusCode::BAD_REQUEST, "malformed", "`type` must be `output`, `input` or `temp`")
    })?;
    let suffixes = [(" [output]", Directory::Output), (" [input]", Directory::Input), (" [temp]", Directory::Temp)];
    let annotated =
        suffixes.iter().find_map(|(suffix, directory)| Some((reference.filename.strip_suffix(suffix)?, *directory)));
    let (filename, directory) = annotated.unwrap_or((&reference.filename, given));
    let subfolder = reference.subfolder.trim_end_matches('/');
    let whole = if subfolder.is_empty() { filename.to_owned() } else { format!("{subfolder}/{filename}") };
    let scope = call.scope()?;
    let found = call.services.ledger.named_files(&scope, vec![files::file_name(&whole, directory, folder)]).await?;
    let row = found.into_iter().next().flatten().ok_or_else(Rejection::not_found)?;
    let facts =
        files::known_facts(&call.services.blobs, &call.services.measured, &row).await.map_err(UploadError::from)?;
    Ok((row, facts))
}

fn check_mask(original: ContentFacts, mask: ContentFacts) -> Result<(), Rejection> {
    let refused = |status, text: String| Err(Rejection::new(status, "mask_refused", text));
    if original.kind.family() != ContentFamily::Picture || mask.kind.family() != ContentFamily::Picture {
        return refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a mask is a picture for a picture: send a PNG, JPEG or WebP".into(),
        );
    }
    let pixels = u64::from(original.width) * u64::from(original.height);
    if pixels > MASKED_PIXELS_MAX {
        let text = format!("a picture with a mask has at most {MASKED_PIXELS_MAX} pixels; this one has {pixels}");
        return refused(StatusCode::PAYLOAD_TOO_LARGE, text);
    }
    if (original.width, original.height) != (mask.width, mask.height) {
        let text = format!(
            "the mask has {} × {} pixels, its original {} × {}: they must be of one size",
            mask.width, mask.height, original.width, original.height
        );
        return refused(StatusCode::BAD_REQUEST, text);
    }
    Ok(())
}

/// Has the picture made at the first backend that answers, and fetches it into `writer`.
async fn masked(
    call: &Call<'_>,
    original: &Pushed,
    form: &mut ReceivedForm,
    made: &Pushed,
    writer: &mut BlobWriter,
) -> Result<Arc<Backend>, Rejection> {
    let (path, bytes) = form.content.spooled().await.map_err(UploadError::from)?;
    for backend in call.services.backends_of(&call.caller()?.tenant).iter().filter(|backend| backend.is_up()) {
        // One at a time: it holds up all that this backend serves.
        let _turn = backend.mask_turn.lock().await;
        let making = async {
            push::push(backend, &call.services.blobs, original).await?;
            push::mask(backend, original, &path, bytes, made).await?;
            Ok::<_, PushError>(backend.comfyui.view(&made.upstream()).await?)
        };
        let mut pieces = match making.await {
            Ok(pieces) => pieces,
            Err(PushError::Backend(ComfyUiError::Status { status, .. })) => {
                // It may have lost the original; the next try gives it again.
                backend.present.forget(std::slice::from_ref(original));
                let text =
                    "the backend could not put this mask into this picture: upload the picture again, or try again";
                let rejection = Rejection::new(StatusCode::BAD_GATEWAY, "mask_failed", text);
                return Err(rejection.with_log(format!("{}: a mask was answered with {status}", backend.id)));
            }
            Err(PushError::Content(error)) => return Err(Rejection::internal(error.to_string())),
            Err(error) => {
                tracing::warn!(backend = %backend.id, %error, "no mask was made");
                continue;
            }
        };
        let cut = |error: ComfyUiError| {
            Rejection::unavailable("mask_failed", "the backend was lost meanwhile: try again", NO_BACKEND_RETRY)
                .with_log(error.to_string())
        };
        while let Some(piece) = pieces.next().await.map_err(cut)? {
            writer.write(&piece).await.map_err(UploadError::from)?;
        }
        return Ok(Arc::clone(backend));
    }
    Err(Rejection::unavailable("no_backend", "no backend answers now: try again after `Retry-After`", NO_BACKEND_RETRY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> ContentFacts {
        ContentFacts { kind: ContentKind::Png, width, height, frames: 1, seconds: None }
    }

    #[test]
    fn a_mask_has_the_size_of_its_picture_and_both_are_pictures() {
        assert!(check_mask(picture(4096, 8192), picture(4096, 8192)).is_ok());
        let status = |original, mask| check_mask(original, mask).unwrap_err().status().as_u16();
        assert_eq!(status(picture(4096, 8193), picture(4096, 8193)), 413);
        assert_eq!(status(picture(4, 5), picture(5, 4)), 400);
        assert_eq!(status(picture(4, 5), ContentFacts { kind: ContentKind::Mp4, ..picture(4, 5) }), 415);
        assert_eq!(status(ContentFacts { kind: ContentKind::Wav, ..picture(4, 5) }, picture(4, 5)), 415);
    }

    #[test]
    fn a_reference_needs_a_file_name_and_nothing_else() {
        assert!(original_reference(Some(r#"{"filename": "a.png"}"#)).is_ok());
        assert!(
            original_reference(Some(r#"{"filename": "a.png", "subfolder": "x", "type": "input", "rand": 1}"#)).is_ok()
        );
        for odd in [
            None,
            Some(""),
            Some("[]"),
            Some("{}"),
            Some(r#"{"filename": 5}"#),
            Some(r#"{"filename": "a", "subfolder": null}"#),
        ] {
            assert!(original_reference(odd).is_err(), "{odd:?}");
        }
    }
}
