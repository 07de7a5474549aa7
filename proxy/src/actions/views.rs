//! Other forms of a picture: `GET /view?preview=…` and `channel=…`, computed by a backend as ComfyUI would, relayed and not stored.
//!
//! *Answers the attack*: a picture that is made to be decoded again and again on the event loop that serves everybody (one at a time at each backend, a few of each tenant's in that line,
//! and pixels counted from the header before); and a query whose spelling reaches the backend (it is built from an enum).

use super::Call;
use crate::deliver::answer::{Answer, AnswerBody, Spooled};
use crate::deliver::uploads::UploadError;
use crate::deliver::views::file;
use crate::deliver::views::view::Form;
use crate::dispatch::backend::Backend;
use crate::dispatch::comfyui::{ComfyUiError, Pieces};
use crate::dispatch::push::{self, PushError, Pushed};
use crate::ids::TenantId;
use crate::inspect::contents::{ContentFacts, ContentFamily};
use crate::inspect::files;
use crate::record::ledger::FileRow;
use crate::reject::Rejection;
use http::StatusCode;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Pixels of a picture that another form is made of: a backend decodes it on its event loop, so many in about two seconds.
const PIXELS_MAX: u64 = 1 << 25;
/// What a PNG of four channels has at most beside its pixels, and a compressed form beside its own: chunks, row filters.
const OVERHEAD_BYTES: u64 = 1 << 20;
/// From the question to the form in the spool.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client waits before it asks again.
const RETRY: Duration = Duration::from_secs(5);

/// Forms of one tenant's that are made or told at once: so many lie in the spool, and so many wait at the backends' doors.
const AT_ONCE_MAX: usize = 4;

/// Places for each tenant's forms, from the question until the answer was read: nobody's fill the disk or the line at a backend.
#[derive(Debug, Default)]
pub struct ViewTurns(Mutex<HashMap<TenantId, Weak<Semaphore>>>);

impl ViewTurns {
    /// Waits for a place. Only tenants that have one or wait are remembered.
    async fn of(&self, tenant: &TenantId) -> Result<OwnedSemaphorePermit, AcquireError> {
        let places = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, places| places.strong_count() > 0);
            turns.get(tenant).and_then(Weak::upgrade).unwrap_or_else(|| {
                let places = Arc::new(Semaphore::new(AT_ONCE_MAX));
                turns.insert(tenant.clone(), Arc::downgrade(&places));
                places
            })
        };
        places.acquire_owned().await
    }
}

/// A form of one of the caller's own pictures.
pub(super) async fn form(call: &Call<'_>, row: &FileRow, form: Form) -> Result<Answer, Rejection> {
    let Some(content_type) = form.content_type() else {
        return Err(Rejection::internal("the file itself was to be computed"));
    };
    // Content and form decide: who has it is told so without any work.
    let etag = format!("\"{}-{}\"", row.content, form.query().replace(['&', '=', ';'], "-"));
    if let Some(unchanged) = file::unchanged(call.headers, &etag) {
        return Ok(unchanged);
    }
    let facts =
        files::known_facts(&call.services.blobs, &call.services.measured, row).await.map_err(UploadError::from)?;
    check(facts)?;
    let folder = files::owner_folder(&call.services.ledger.owner_secrets(&call.scope()?).await?);
    let source = Pushed::new(row.id, row.content, row.bytes, &facts, &folder, &row.filename);
    let made = tokio::time::timeout(TIMEOUT, made(call, &source, facts, form)).await;
    let (spooled, length) = made.map_err(|_| {
        Rejection::unavailable("view_failed", "the backends took too long for this picture: try again", RETRY)
    })??;
    let body = AnswerBody::Spooled { content: Arc::new(spooled), length };
    Ok(file::computed(row, content_type, &etag, body))
}

fn check(facts: ContentFacts) -> Result<(), Rejection> {
    if facts.kind.family() != ContentFamily::Picture {
        let text = "only pictures have a `preview` or a `channel`: leave both out";
        return Err(Rejection::new(StatusCode::BAD_REQUEST, "no_picture", text));
    }
    let pixels = u64::from(facts.width) * u64::from(facts.height);
    if pixels > PIXELS_MAX {
        let text = format!(
            "other forms are made of pictures of up to {PIXELS_MAX} pixels; this one has {pixels}: ask for it as it is"
        );
        return Err(Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, "view_too_large", text));
    }
    Ok(())
}

/// Has the form made, and spools it.
async fn made(call: &Call<'_>, source: &Pushed, facts: ContentFacts, form: Form) -> Result<(Spooled, u64), Rejection> {
    let tenant = &call.caller()?.tenant;
    let place = call.services.view_turns.of(&tenant.id).await;
    let place = place.map_err(|error| Rejection::internal(error.to_string()))?;
    let mut backends = call.services.backends_of(tenant);
    backends.retain(|backend| backend.is_up());
    // The one that has the picture already, if there is one.
    backends.sort_by_key(|backend| !backend.present.has(source.id));
    let bytes_max = u64::from(facts.width) * u64::from(facts.height) * 4 + OVERHEAD_BYTES;
    for backend in &backends {
        // One at a time: it holds up all that this backend serves.
        let _turn = backend.mask_turn.lock().await;
        let making = async {
            let mut pieces = asked(call, backend, source, form).await?;
            let mut writer = call.services.blobs.writer(bytes_max).map_err(UploadError::from)?;
            while let Some(piece) = pieces.next().await.map_err(Failed::Elsewhere)? {
                writer.write(&piece).await.map_err(UploadError::from)?;
            }
            let length = writer.spooled().await.map_err(UploadError::from)?.1;
            Ok((writer, length))
        };
        match making.await {
            Ok((writer, length)) => return Ok((Spooled::new(writer, place), length)),
            Err(Failed::ForGood(rejection)) => return Err(rejection),
            Err(Failed::Elsewhere(error)) => tracing::warn!(backend = %backend.id, %error, "no form was made"),
        }
    }
    Err(Rejection::unavailable("no_backend", "no backend answers now: try again after `Retry-After`", RETRY))
}

/// Why a backend gave no form.
enum Failed {
    /// Another one may.
    Elsewhere(ComfyUiError),
    /// No other one will.
    ForGood(Rejection),
}

impl From<UploadError> for Failed {
    fn from(error: UploadError) -> Self {
        Self::ForGood(error.into())
    }
}

/// Asks a backend that is given the picture before, and once more if it has lost it.
async fn asked(call: &Call<'_>, backend: &Backend, source: &Pushed, form: Form) -> Result<Pieces, Failed> {
    let mut lost = false;
    loop {
        match push::push(backend, &call.services.blobs, source).await {
            Ok(()) => {}
            Err(PushError::Backend(error)) => return Err(Failed::Elsewhere(error)),
            Err(error) => return Err(Failed::ForGood(Rejection::internal(error.to_string()))),
        }
        match backend.comfyui.view_as(&source.upstream(), &form.query()).await {
            Ok(pieces) => return Ok(pieces),
            Err(ComfyUiError::Status { status: StatusCode::NOT_FOUND, .. }) if !lost => {
                backend.present.forget(std::slice::from_ref(source));
                lost = true;
            }
            Err(ComfyUiError::Status { status, .. }) => {
                let text = "the backend can't make this form of this picture";
                let rejection = Rejection::new(StatusCode::BAD_GATEWAY, "view_failed", text);
                let log = format!("{}: a form was answered with {status}", backend.id);
                return Err(Failed::ForGood(rejection.with_log(log)));
            }
            Err(error) => return Err(Failed::Elsewhere(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::contents::ContentKind;

    #[test]
    fn a_picture_at_the_bound_has_other_forms_and_one_beyond_or_a_sound_has_none() {
        let of = |kind, width| check(ContentFacts { kind, width, height: 4096, frames: 1, seconds: None });
        assert!(of(ContentKind::Png, 8192).is_ok());
        assert_eq!(of(ContentKind::Png, 8193).unwrap_err().status(), 413);
        assert_eq!(of(ContentKind::Mp3, 1).unwrap_err().status(), 400);
        assert_eq!(of(ContentKind::Mp4, 1).unwrap_err().code(), "no_picture");
    }

    #[tokio::test]
    async fn a_tenant_has_a_few_places_and_another_tenant_does_not_wait_for_them() {
        let turns = ViewTurns::default();
        let (acme, bravo): (TenantId, TenantId) = ("acme".parse().unwrap(), "bravo".parse().unwrap());
        let mut held = Vec::new();
        for _ in 0..AT_ONCE_MAX {
            held.push(turns.of(&acme).await.unwrap());
        }
        held.push(turns.of(&bravo).await.unwrap());
        let mut next = Box::pin(turns.of(&acme));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(held);
        drop(next.await.unwrap());
        drop(turns.of(&bravo).await.unwrap());
        assert_eq!(turns.0.lock().unwrap().len(), 1, "who waits for nothing is forgotten");
    }
}
