//! What a handler gives back, free of any HTTP server's types: `gateway.rs` writes it to the wire.

use crate::record::blobs::BlobWriter;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// An HTTP answer: status, headers, body. `content-length` is set by whoever writes it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status line.
    pub status: StatusCode,
    /// All headers but the framing ones.
    pub headers: HeaderMap,
    /// The body.
    pub body: AnswerBody,
}

/// Where the bytes of an answer come from.
#[derive(Debug, Clone)]
pub enum AnswerBody {
    /// In memory; may be empty.
    Bytes(Bytes),
    /// A slice of a file of the blobs, streamed in pieces: offset and length in bytes, both inside the file.
    File {
        /// The file; opened when the answer is written.
        path: PathBuf,
        /// First byte.
        start: u64,
        /// How many bytes.
        length: u64,
    },
    /// What lies in the spool for this answer alone, and is gone with it.
    Spooled {
        /// Where it lies, for as long as this is there.
        content: Arc<Spooled>,
        /// How many bytes.
        length: u64,
    },
}

/// A content of the spool, and the place that its owner's answer takes until it was read.
#[derive(Debug)]
pub struct Spooled {
    writer: BlobWriter,
    _place: OwnedSemaphorePermit,
}

impl Spooled {
    /// What `writer` holds, flushed; the place is given back with it.
    pub fn new(writer: BlobWriter, place: OwnedSemaphorePermit) -> Self {
        Self { writer, _place: place }
    }

    /// Where it lies for as long as this is there.
    pub fn path(&self) -> &Path {
        self.writer.path()
    }
}

impl AnswerBody {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } | Self::Spooled { length, .. } => *length,
        }
    }
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Answer {
    /// JSON that no cache may keep: whatever we synthesise belongs to one caller.
    pub fn json(status: StatusCode, body: &serde_json::Value) -> Self {
        Self::bytes(status, "application/json", Bytes::from(body.to_string()))
    }

    /// A body of a type of ours that no cache may keep.
    pub fn bytes(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        let mut answer = Self::empty(status);
        answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        answer.body = AnswerBody::Bytes(body);
        answer
    }

    /// No body.
    pub fn empty(status: StatusCode) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        Self { status, headers, body: AnswerBody::Bytes(Bytes::new()) }
    }

    /// The body as text, for tests and logs; empty for a file.
    pub fn text(&self) -> String {
        match &self.body {
            AnswerBody::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            AnswerBody::File { .. } | AnswerBody::Spooled { .. } => String::new(),
        }
    }
}
