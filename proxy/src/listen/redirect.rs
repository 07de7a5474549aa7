//! The plain listener that only says where the TLS one is: 308 and nothing else.

use super::connections::Connections;
use super::front::{HeadObserver, peer_of};
use super::head::{Head, HeadError, authority};
use super::reader::{HeadLimits, Reading, read_head, refuse, response, scanned, write_and_close};
use crate::reject::Rejection;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::sync::Arc;

/// Where to send callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectTarget {
    /// The authority of `public_url`, whatever Host the caller named.
    Public(String),
    /// The caller's own Host without its port, at the port of the TLS listener.
    CallersHost {
        /// Port of the TLS listener.
        https_port: u16,
    },
}

/// A `public_url` that is no `https://HOST[:PORT][/]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no public URL to redirect to: write `https://HOST[:PORT]`")]
pub struct PublicUrlError(String);

impl RedirectTarget {
    /// From `public_url`.
    ///
    /// # Errors
    /// [`PublicUrlError`] for anything but `https`, a host and a port.
    pub fn of_public_url(url: &str) -> Result<Self, PublicUrlError> {
        let rest = url.strip_prefix("https://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        match rest {
            Some(rest) if authority(rest).is_some() => Ok(Self::Public(rest.to_owned())),
            _ => Err(PublicUrlError(url.to_owned())),
        }
    }

    /// `https://…` for a head whose target and Host the scan has let pass.
    fn location(&self, head: &Head<'_>) -> Result<String, HeadError> {
        match self {
            Self::Public(named) => Ok(format!("https://{named}{}", head.target)),
            Self::CallersHost { https_port } => {
                let (host, _) = authority(head.host.ok_or(HeadError::HostMissing)?).ok_or(HeadError::HostMalformed)?;
                let port = if *https_port == 443 { String::new() } else { format!(":{https_port}") };
                Ok(format!("https://{host}{port}{}", head.target))
            }
        }
    }
}

/// Reads one head under the front's limits and answers it. Bodies are not read and connections not kept.
pub struct Redirect {
    target: RedirectTarget,
    limits: HeadLimits,
    connections: Arc<Connections>,
    observer: Arc<dyn HeadObserver>,
}

impl Redirect {
    /// A redirect to `target`.
    pub fn new(
        target: RedirectTarget,
        limits: HeadLimits,
        connections: Arc<Connections>,
        observer: Arc<dyn HeadObserver>,
    ) -> Self {
        Self { target, limits, connections, observer }
    }

    fn answer(&self, buffer: &[u8], length: usize) -> Result<Bytes, HeadError> {
        let location = self.target.location(&scanned(buffer, length)?)?;
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_str(&location).map_err(|_| HeadError::Target)?);
        // 308 keeps method and body (RFC 9110 §15.4.9): a POST that became a GET would look like a success.
        Ok(response(StatusCode::PERMANENT_REDIRECT, &headers, b""))
    }
}

#[async_trait]
impl ServerApp for Redirect {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, _shutdown: &ShutdownWatch) -> Option<Stream> {
        let facts = self.connections.facts(stream.get_socket_digest().as_deref());
        let from = peer_of(&stream);
        stream = match self.connections.opened(stream, &facts).await {
            Ok(stream) => stream,
            Err(code) => {
                self.observer.refused(code, from);
                return None;
            }
        };
        let peer = peer_of(&stream);
        let Ok(_seat) = self.connections.seat(stream.get_socket_digest().as_deref(), &facts) else {
            self.observer.refused("too_many_connections", peer);
            return None;
        };
        let mut buffer = BytesMut::with_capacity(4096);
        let answer = match read_head(&mut *stream, &mut buffer, &self.limits).await {
            Reading::Complete(length) => self.answer(&buffer, length),
            Reading::Closed => return None,
            Reading::Bad(error) => Err(error),
        };
        match answer {
            Ok(bytes) => write_and_close(&mut *stream, &bytes, &self.limits).await,
            Err(error) => {
                self.observer.refused(error.code(), peer);
                refuse(&mut *stream, &Rejection::from(error), &self.limits).await;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::connections::ConnectionLimits;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Nobody;
    impl HeadObserver for Nobody {
        fn refused(&self, _: &'static str, _: Option<SocketAddr>) {}
    }

    async fn answer(target: RedirectTarget, request: &str) -> String {
        let app = Arc::new(Redirect::new(
            target,
            HeadLimits::default(),
            Connections::new(ConnectionLimits::default()),
            Arc::new(Nobody),
        ));
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (_stop, shutdown) = tokio::sync::watch::channel(false);
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        app.process_new(Box::new(server), &shutdown).await;
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    fn callers(https_port: u16) -> RedirectTarget {
        RedirectTarget::CallersHost { https_port }
    }

    #[tokio::test]
    async fn the_callers_host_loses_its_port_and_gets_the_tls_one() {
        let text = answer(callers(8443), "GET /a?b=c HTTP/1.1\r\nHost: gate.example:8080\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 308 Permanent Redirect\r\n"), "{text}");
        assert!(text.contains("location: https://gate.example:8443/a?b=c\r\n"), "{text}");
        let text = answer(callers(443), "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").await;
        assert!(text.contains("location: https://[::1]/\r\n"), "{text}");
    }

    #[tokio::test]
    async fn a_public_url_wins_over_any_host() {
        let target = RedirectTarget::of_public_url("https://images.example.com/").unwrap();
        let text = answer(target, "GET //x HTTP/1.1\r\nHost: other\r\n\r\n").await;
        assert!(text.contains("location: https://images.example.com//x\r\n"), "{text}");
    }

    #[tokio::test]
    async fn an_odd_host_is_never_reflected() {
        for host in ["a/b", "evil@x", "a b", "", "a\\b", "a:b"] {
            let text = answer(callers(443), &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{host}: {text}");
            assert!(!text.contains("location"), "{host}: {text}");
        }
        let text = answer(callers(443), "GET / HTTP/1.0\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    }

    #[test]
    fn a_public_url_is_https_with_host_and_port_only() {
        for bad in ["http://a", "https://", "https://a/b", "https://a@b", "a", "https://a?b"] {
            assert!(RedirectTarget::of_public_url(bad).is_err(), "{bad}");
        }
        let good = RedirectTarget::of_public_url("https://a:8443").unwrap();
        assert_eq!(good, RedirectTarget::Public("a:8443".into()));
    }
}
