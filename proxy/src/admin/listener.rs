//! axum on a Pingora listener: sockets and stops come from Pingora, routing from axum.

use async_trait::async_trait;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::sync::Arc;
use std::time::Duration;

/// A whole head within this time, or the connection is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Heads and what is read ahead of a body.
const BUFFER_BYTES_MAX: usize = 32 << 10;

/// A router as Pingora's application.
#[derive(Debug)]
pub struct Routed(pub axum::Router);

#[async_trait]
impl ServerApp for Routed {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let mut stopping = shutdown.clone();
        let service = TowerToHyperService::new(self.0.clone());
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER_BYTES_MAX);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            _ = stopping.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "admin connection");
        }
        None
    }
}
