//! Uploads: `POST /upload/image` and `/upload/mask` (ComfyUI 0.8.0 `server.py` `image_upload`; facts §7.2, §7.3).
//!
//! *In*: a `multipart/form-data` body, streamed. *Out*: a file of the caller's own namespace, its content in the blobs, its facts known. *Refuses*: forms that two readers could read
//! differently, contents that are none of the types we take, names that are paths, more bytes than the tenant may have. *Answers the attack*: facts §11, 61, 87-93: nothing that the caller
//! wrote (name, subfolder, boundary, coding) ever reaches a backend's disk or form. *Leaves to others*: how large a picture a workflow may use (inspect), how a backend gets the file
//! (dispatch), where it is stored (record).
//!
//! The body is never whole in memory: [`multipart`] is fed piece by piece, [`reception`] writes the file to the blobs' spool as it comes.

pub mod multipart;
pub mod names;
pub mod reception;

pub use reception::{ReceivedForm, Reception, UploadError};
