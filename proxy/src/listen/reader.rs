//! Reads one HTTP/1 head from a raw stream, and answers a bad one: shared by the front and the redirect.

use super::head::{self, HEAD_BYTES_MAX, Head, HeadEnd, HeadError};
use crate::ids::RequestId;
use crate::reject::Rejection;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much of a refused request is read and thrown away, so that the client sees the answer and not a reset.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// The deadlines of one head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// From its first byte to its empty line.
    pub deadline: Duration,
    /// Until its first byte.
    pub idle: Duration,
    /// Its size.
    pub bytes_max: usize,
    /// For writing a refusal, and again for draining what the client still sends.
    pub answer: Duration,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            bytes_max: HEAD_BYTES_MAX,
            answer: Duration::from_secs(2),
        }
    }
}

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The buffer begins with a good head of so many bytes; more may follow it.
    Complete(usize),
    /// The client went away, or was idle too long. Nobody waits for an answer.
    Closed,
    /// To be refused.
    Bad(HeadError),
}

/// Reads until the buffer holds one head, and scans it.
pub async fn read_head<S: AsyncRead + Unpin + ?Sized>(
    stream: &mut S,
    buffer: &mut BytesMut,
    limits: &HeadLimits,
) -> Reading {
    if buffer.is_empty() {
        match tokio::time::timeout(limits.idle, stream.read_buf(buffer)).await {
            Ok(Ok(1..)) => {}
            _ => return Reading::Closed,
        }
    }
    let rest = read_rest(stream, buffer, limits.bytes_max);
    tokio::time::timeout(limits.deadline, rest).await.unwrap_or(Reading::Bad(HeadError::Timeout))
}

async fn read_rest<S: AsyncRead + Unpin + ?Sized>(stream: &mut S, buffer: &mut BytesMut, bytes_max: usize) -> Reading {
    let mut end = HeadEnd::default();
    loop {
        match end.found(buffer, bytes_max) {
            Ok(Some(length)) => {
                let scanned = scanned(buffer, length);
                return scanned.map_or_else(Reading::Bad, |_| Reading::Complete(length));
            }
            Ok(None) => {}
            Err(error) => return Reading::Bad(error),
        }
        match stream.read_buf(buffer).await {
            Ok(1..) => {}
            _ => return Reading::Closed,
        }
    }
}

/// The head at the beginning of a buffer.
pub(super) fn scanned(buffer: &[u8], length: usize) -> Result<Head<'_>, HeadError> {
    head::scan(buffer.get(..length).unwrap_or_default())
}

/// Writes a refusal and closes; what the client still sends is read for a moment, since a reset would take the answer away.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin + ?Sized>(
    stream: &mut S,
    rejection: &Rejection,
    limits: &HeadLimits,
) {
    let answer = rejection.problem(RequestId::new());
    let bytes = response(answer.status, &answer.headers, answer.text().as_bytes());
    write_and_close(stream, &bytes, limits).await;
}

/// Writes an answer and closes.
pub(super) async fn write_and_close<S: AsyncRead + AsyncWrite + Unpin + ?Sized>(
    stream: &mut S,
    bytes: &[u8],
    limits: &HeadLimits,
) {
    // Errors end here: the client is gone, and nobody is left to tell.
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    if matches!(tokio::time::timeout(limits.answer, write).await, Ok(Ok(()))) {
        let _ = tokio::time::timeout(limits.answer, drain(stream)).await;
    }
}

async fn drain<S: AsyncRead + Unpin + ?Sized>(stream: &mut S) {
    let mut scratch = [0_u8; 4096];
    let mut read = 0;
    while let Ok(n @ 1..) = stream.read(&mut scratch).await {
        read += n;
        if read > DRAIN_BYTES_MAX {
            return;
        }
    }
}

/// An HTTP/1.1 answer that ends its connection.
pub(super) fn response(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Bytes {
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("Refused"));
    for (name, value) in headers {
        // Writing into a String cannot fail; values that are no ASCII text are none of ours.
        if let Ok(value) = value.to_str() {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    let _ = write!(head, "content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let mut bytes = BytesMut::from(head.as_bytes());
    bytes.extend_from_slice(body);
    bytes.freeze()
}
