//! The body of an upload: read piece by piece into the spool, under bounds of time, size and number.

use super::{Caller, Gateway, at, gone, inspected};
use crate::admit::UploadSlot;
use crate::deliver::uploads::multipart::FormError;
use crate::deliver::uploads::{ReceivedForm, Reception, UploadError, multipart};
use crate::inspect::media;
use crate::reject::{Rejection, Stage};
use http::HeaderMap;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use pingora::proxy::Session;
use std::time::Duration;

/// What a form may have beside its file: fields, boundaries, headers.
const FORM_BYTES_MAX: u64 = 64 << 10;
/// Between two pieces; within the deadline of the whole.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

impl Gateway {
    /// Receives the form of an upload whole: its file is in the spool then, and its content known.
    pub(super) async fn form(
        &self,
        session: &mut Session,
        caller: Option<&Caller>,
    ) -> Result<ReceivedForm, (Stage, Rejection)> {
        let caller = caller.ok_or_else(|| inspected(Rejection::internal("an upload without a caller")))?;
        self.services.room().map_err(at(Stage::Record))?;
        let config = self.services.config();
        let file_bytes_max = config.limits.upload_bytes_max;
        let body_bytes_max = file_bytes_max.saturating_add(FORM_BYTES_MAX);
        let headers = &session.req_header().headers;
        let mut reception = {
            let boundary = boundary(headers).map_err(received)?;
            Reception::new(boundary, &self.services.blobs, file_bytes_max)
        };
        let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|declared| declared > body_bytes_max) {
            return Err(inspected(media::too_large(file_bytes_max)));
        }
        let mut slot = self.doors.uploads.take(&caller.tenant.id).map_err(at(Stage::Admit))?;
        // What is announced has to have room before it comes; what is not announced is looked at when it has come.
        let arriving = slot.arriving().saturating_add(declared.unwrap_or(0).saturating_sub(FORM_BYTES_MAX));
        let stored = self.services.ledger.uploaded_bytes(&caller.tenant.id).await.map_err(at(Stage::Record))?;
        UploadSlot::check_room(arriving, stored, caller.tenant.limits.storage_bytes_max).map_err(at(Stage::Admit))?;
        if session.req_header().headers.contains_key(EXPECT) {
            session.write_continue_response().await.map_err(|_| gone())?;
        }
        let reading = async {
            let mut bytes: u64 = 0;
            loop {
                let piece = tokio::time::timeout(PIECE_TIMEOUT, session.read_request_body()).await;
                let Some(piece) = piece.map_err(|_| late())?.map_err(|_| gone())? else { return Ok(()) };
                bytes = bytes.saturating_add(piece.len() as u64);
                if bytes > body_bytes_max {
                    return Err(inspected(media::too_large(file_bytes_max)));
                }
                slot.grow_to(bytes);
                reception.take(&piece).await.map_err(received)?;
            }
        };
        tokio::time::timeout(config.limits.upload_deadline, reading).await.map_err(|_| late())??;
        reception.finish(slot).await.map_err(received)
    }
}

fn boundary(headers: &HeaderMap) -> Result<&str, UploadError> {
    let mut given = headers.get_all(CONTENT_TYPE).iter();
    match (given.next(), given.next()) {
        (Some(only), None) if !headers.contains_key(CONTENT_ENCODING) => {
            Ok(multipart::boundary(only.to_str().unwrap_or_default())?)
        }
        _ => Err(FormError::ContentType.into()),
    }
}

fn late() -> (Stage, Rejection) {
    inspected(Rejection::new(
        StatusCode::REQUEST_TIMEOUT,
        "body_timeout",
        "the body did not arrive in time: send it again",
    ))
}

fn received(error: UploadError) -> (Stage, Rejection) {
    (Stage::Deliver, error.into())
}
