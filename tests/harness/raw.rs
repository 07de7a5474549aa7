//! Bytes as they are: for requests that no sound client sends.

use crate::deadline::within;
use crate::tls::{self, Trust};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// An HTTP/1.1 response, split by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawResponse {
    /// Of the status line.
    pub status: u16,
    /// Status line and headers, up to the empty line.
    pub head: String,
    /// The rest, as far as `content-length` says.
    pub body: Vec<u8>,
}

impl RawResponse {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The stable code of a refusal: of a problem, or of an error in ComfyUI's form.
    pub fn code(&self) -> String {
        let body = self.json();
        let code = body.get("code").or_else(|| body.pointer("/error/extra_info/code"));
        code.and_then(|code| code.as_str()).unwrap_or_default().to_owned()
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection on which a test writes what it likes.
pub struct RawConnection {
    wire: Box<dyn Wire>,
    read: Vec<u8>,
    /// The last request was a HEAD: its response names a length and has no body.
    head_only: bool,
}

impl std::fmt::Debug for RawConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawConnection").field("read", &self.read.len()).finish_non_exhaustive()
    }
}

impl RawConnection {
    /// Over TLS, HTTP/1.1 by ALPN.
    pub async fn tls(address: SocketAddr, source: Ipv4Addr, trust: &Trust) -> RawConnection {
        Self::tls_alpn(address, source, trust, "http/1.1").await
    }

    /// Over TLS with the given protocol agreed on.
    pub async fn tls_alpn(address: SocketAddr, source: Ipv4Addr, trust: &Trust, protocol: &str) -> RawConnection {
        RawConnection {
            wire: Box::new(tls::connect(address, source, trust, &[protocol]).await),
            read: Vec::new(),
            head_only: false,
        }
    }

    /// Plain TCP.
    pub async fn plain(address: SocketAddr, source: Ipv4Addr) -> RawConnection {
        let stream = within("TCP connection", tls::connect_tcp(address, source)).await.unwrap();
        RawConnection { wire: Box::new(stream), read: Vec::new(), head_only: false }
    }

    /// Over a unix socket.
    pub async fn unix(path: &std::path::Path) -> RawConnection {
        let stream = within("unix connection", tokio::net::UnixStream::connect(path)).await.unwrap();
        RawConnection { wire: Box::new(stream), read: Vec::new(), head_only: false }
    }

    /// Writes. What the gateway does not take any more, because it has answered and closed, is dropped.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.head_only = bytes.starts_with(b"HEAD ");
        let writing = async {
            if self.wire.write_all(bytes).await.is_ok() {
                let _ = self.wire.flush().await;
            }
        };
        within("writing", writing).await;
    }

    /// The next response; `None` if the connection ends before one begins.
    ///
    /// # Panics
    /// When there is neither a response nor an end within the deadline, or the response is not HTTP.
    pub async fn response(&mut self) -> Option<RawResponse> {
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            if !self.fill().await {
                assert!(self.read.is_empty(), "cut in the head: {:?}", String::from_utf8_lossy(&self.read));
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.read[..head_end]).into_owned();
        self.read.drain(..head_end + 4);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no HTTP response: {head:?}"));
        let mut response = RawResponse { status, head, body: Vec::new() };
        let length = match response.header("content-length") {
            Some(length) if !self.head_only => length.parse().unwrap(),
            _ => 0,
        };
        while self.read.len() < length && self.fill().await {}
        response.body = self.read.drain(..length.min(self.read.len())).collect();
        Some(response)
    }

    /// Whether the gateway has closed, with nothing more said.
    pub async fn is_over(&mut self) -> bool {
        !self.fill().await && self.read.is_empty()
    }

    /// Reads to the end of the connection, whatever is said until then.
    pub async fn end(&mut self) {
        while self.fill().await {}
    }

    /// Reads some more; `false` at the end. A reset and a missing close_notify are ends.
    async fn fill(&mut self) -> bool {
        let mut piece = [0; 16 << 10];
        match within("reading", self.wire.read(&mut piece)).await {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                self.read.extend_from_slice(&piece[..length]);
                true
            }
        }
    }
}
