//! Brings an owner's files to a backend: `POST /upload/image` under the name that the workflow uses there, once per file and incarnation of the backend.
//!
//! The form is ours from the first byte to the last (facts §7.2: which of several fields counts, and how a part is decoded, differs between readers), streamed from the blobs with its length
//! announced: a file of 100 MiB takes a piece of memory. ComfyUI decides alone which name it used, so its answer is compared.

use super::backend::Backend;
use super::comfyui::{ComfyUi, ComfyUiError, UpstreamFile};
use crate::ids::FileId;
use crate::inspect::contents::ContentFacts;
use crate::inspect::files::upstream_name;
use crate::record::blobs::Blobs;
use crate::record::ledger::Directory;
use crate::record::ledger::uploads::Pin;
use bytes::{Bytes, BytesMut};
use comfygate_policy::Digest;
use futures_util::stream::{self, Stream, StreamExt};
use http::StatusCode;
use http_body_util::StreamBody;
use hyper::body::Frame;
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use uuid::Uuid;

/// Files that a backend is remembered to have. Beyond it all are forgotten and pushed again when they are needed.
const PRESENT_MAX: usize = 100_000;
/// In which a file is read and sent.
const PIECE_BYTES: usize = 64 << 10;
/// A backend may take this long for a file of no bytes, since its event loop can stall (facts §2.6), and a second more for each of these.
const PUSH_TIMEOUT: Duration = Duration::from_secs(60);
const PUSH_BYTES_PER_SECOND: u64 = 1 << 20;

/// What a backend was given since it came up. It may have lost it all the same: ComfyUI says so when it validates a workflow, and then it is given again.
#[derive(Debug, Default)]
pub struct Present(Mutex<HashSet<FileId>>);

impl Present {
    /// Whether it was given the file.
    pub fn has(&self, file: FileId) -> bool {
        self.files().contains(&file)
    }

    /// Remembers that it was given the file.
    pub fn add(&self, file: FileId) {
        let mut files = self.files();
        if files.len() >= PRESENT_MAX {
            files.clear();
        }
        files.insert(file);
    }

    /// It may lack these.
    pub fn forget(&self, pushed: &[Pushed]) {
        let mut files = self.files();
        for file in pushed {
            files.remove(&file.id);
        }
    }

    /// The same of files by their ids: they are about to be deleted there.
    pub fn lacks(&self, ids: &[FileId]) {
        let mut files = self.files();
        for id in ids {
            files.remove(id);
        }
    }

    /// It is another process now.
    pub fn clear(&self) {
        self.files().clear();
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashSet<FileId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file and its place at any backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Which.
    pub id: FileId,
    /// What it holds.
    pub content: Digest,
    /// Length in bytes.
    pub bytes: u64,
    /// `t/<opaque owner>` below the backend's `input`.
    pub folder: String,
    /// Base name there.
    pub name: String,
    /// How its owner knows it: for texts that name it.
    pub shown: String,
}

impl Pushed {
    /// The place of a file of the owner whose folder this is.
    pub fn new(id: FileId, content: Digest, bytes: u64, facts: &ContentFacts, folder: &str, shown: &str) -> Self {
        Self { id, content, bytes, folder: folder.to_owned(), name: upstream_name(id, facts), shown: shown.to_owned() }
    }

    /// The place of a pinned file.
    pub fn of_pin(pin: &Pin, folder: &str) -> Self {
        Self::new(pin.file, pin.content, pin.bytes, &pin.facts, folder, &pin.name)
    }

    /// As a node's input names it.
    pub fn canonical(&self) -> String {
        format!("{}/{}", self.folder, self.name)
    }

    /// As `/view` finds it.
    pub fn upstream(&self) -> UpstreamFile {
        UpstreamFile { directory: Directory::Input, subfolder: self.folder.clone(), filename: self.name.clone() }
    }
}

/// Why a file is not at a backend.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Our own copy is gone or can't be read.
    #[error("its content can't be read: {0}")]
    Content(io::Error),
    /// The backend takes no body of that size.
    #[error("the backend takes no file of {bytes} bytes")]
    TooLarge {
        /// The file's.
        bytes: u64,
    },
    /// The backend did something else.
    #[error(transparent)]
    Backend(#[from] ComfyUiError),
}

/// Gives a backend a file, unless it has it.
///
/// # Errors
/// [`PushError`].
pub async fn push(backend: &Backend, blobs: &Blobs, file: &Pushed) -> Result<(), PushError> {
    if backend.present.has(file.id) {
        return Ok(());
    }
    let path = path_of(blobs, &file.content)?;
    let _giving = backend.giving.read().await;
    upload(&backend.comfyui, "/upload/image", file, &path, file.bytes, &[]).await?;
    backend.present.add(file.id);
    Ok(())
}

/// Lets a backend, which has `original`, put the alpha of the picture at `mask` (`mask_bytes` long) into it, as `made`. `made.content` and `made.bytes` are not looked at. ComfyUI answers 200
/// whatever became of it (facts §7.3): fetching `made` tells.
///
/// # Errors
/// [`PushError`].
pub async fn mask(
    backend: &Backend,
    original: &Pushed,
    mask: &PathBuf,
    mask_bytes: u64,
    made: &Pushed,
) -> Result<(), PushError> {
    let reference = serde_json::json!({"filename": original.name, "subfolder": original.folder, "type": "input"});
    upload(&backend.comfyui, "/upload/mask", made, mask, mask_bytes, &[("original_ref", &reference.to_string())]).await
}

fn path_of(blobs: &Blobs, content: &Digest) -> Result<PathBuf, PushError> {
    blobs.path(content).ok_or_else(|| PushError::Content(io::ErrorKind::NotFound.into()))
}

async fn upload(
    comfyui: &ComfyUi,
    route: &str,
    file: &Pushed,
    path: &PathBuf,
    bytes: u64,
    fields: &[(&str, &str)],
) -> Result<(), PushError> {
    let content = tokio::fs::File::open(path).await.map_err(PushError::Content)?;
    // Random: no content can hold it on purpose.
    let boundary = Uuid::new_v4().simple().to_string();
    let own = [("type", "input"), ("subfolder", file.folder.as_str()), ("overwrite", "true")];
    let head = head(&boundary, &[&own, fields].concat(), &file.name);
    let tail = format!("\r\n--{boundary}--\r\n");
    let length = (head.len() as u64).saturating_add(bytes).saturating_add(tail.len() as u64);
    let body = StreamBody::new(
        stream::once(async move { Ok(Bytes::from(head)) })
            .chain(pieces(content, bytes))
            .chain(stream::once(async move { Ok(Bytes::from(tail)) }))
            .map(|piece| piece.map(Frame::data)),
    );
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let within = PUSH_TIMEOUT + Duration::from_secs(bytes / PUSH_BYTES_PER_SECOND);
    let answer = comfyui.post_form(route, &content_type, length, Box::pin(body), within).await;
    match answer {
        Ok(answer) if took(&answer, file) => Ok(()),
        Ok(answer) => Err(ComfyUiError::Malformed(format!("an upload was answered with {answer}")).into()),
        Err(ComfyUiError::Status { status: StatusCode::PAYLOAD_TOO_LARGE, .. }) => Err(PushError::TooLarge { bytes }),
        Err(error) => Err(error.into()),
    }
}

/// Whether ComfyUI says that it took the file under our name. Later versions add what they know of it (`asset`).
fn took(answer: &serde_json::Value, file: &Pushed) -> bool {
    let told = |key: &str| answer.get(key).and_then(serde_json::Value::as_str);
    told("name") == Some(&file.name) && told("subfolder") == Some(&file.folder) && told("type") == Some("input")
}

/// The form up to the content. INVARIANT: names and values are of our own making, without quotes and line ends.
fn head(boundary: &str, fields: &[(&str, &str)], filename: &str) -> String {
    let mut head = String::new();
    for (name, value) in fields {
        head.push_str(&format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"));
    }
    head.push_str(&format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{filename}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
    ));
    head
}

/// `left` bytes of a file. A file that is shorter ends the stream with an error, which ends the request.
fn pieces(file: tokio::fs::File, left: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold((file, left), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let mut limited = (&mut file).take(left.min(PIECE_BYTES as u64));
        let read = limited.read_buf(&mut piece).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((piece.freeze(), (file, left.saturating_sub(read as u64)))))
    })
}

/// Whether ComfyUI's refusal of a workflow names one of the files: it may have lost them.
pub fn refusal_names_one(body: &[u8], files: &[Pushed]) -> bool {
    let text = String::from_utf8_lossy(body);
    files.iter().any(|file| text.contains(&file.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::contents::ContentKind;

    fn file() -> Pushed {
        let facts = ContentFacts { kind: ContentKind::Jpeg, width: 1, height: 1, frames: 1, seconds: None };
        Pushed::new(FileId::from_bytes([7; 16]), Digest::of(b"x"), 1, &facts, "t/abc", "holiday.jpeg")
    }

    #[test]
    fn a_backend_has_a_file_until_it_is_another_process_or_said_that_it_lacks_it() {
        let (present, file) = (Present::default(), file());
        assert!(!present.has(file.id));
        present.add(file.id);
        assert!(present.has(file.id));
        present.forget(std::slice::from_ref(&file));
        assert!(!present.has(file.id));
        present.add(file.id);
        present.clear();
        assert!(!present.has(file.id));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let present = Present::default();
        for number in 0..PRESENT_MAX as u128 + 1 {
            present.add(FileId::from_bytes(number.to_be_bytes()));
        }
        assert_eq!(present.files().len(), 1);
    }

    #[test]
    fn a_name_upstream_is_ours_and_has_our_extension() {
        assert_eq!(file().canonical(), "t/abc/07070707-0707-0707-0707-070707070707.jpg");
    }

    #[test]
    fn a_file_was_taken_under_our_name_or_not_at_all_whatever_else_is_told_of_it() {
        let file = file();
        let answer = serde_json::json!({"name": file.name, "subfolder": file.folder, "type": "input"});
        let mut newer = answer.clone();
        newer["asset"] = serde_json::json!({"id": "x", "tags": []});
        assert!(took(&answer, &file) && took(&newer, &file));
        for (key, other) in [("name", "other.jpg"), ("subfolder", ""), ("type", "output")] {
            let mut renamed = newer.clone();
            renamed[key] = serde_json::json!(other);
            assert!(!took(&renamed, &file), "{key}");
        }
        assert!(!took(&serde_json::json!([]), &file));
    }

    #[test]
    fn a_refusal_is_known_by_the_name() {
        let body = format!("{{\"details\": \"image - Invalid image file: {}\"}}", file().canonical());
        assert!(refusal_names_one(body.as_bytes(), &[file()]));
        assert!(!refusal_names_one(b"{\"details\": \"Invalid image file: other.png\"}", &[file()]));
    }
}
