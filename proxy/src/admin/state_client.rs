//! The command line's end of [`state`](super::state).

use super::control_client::{ControlClient, ControlError, read, refused};
use super::state::Status;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use std::io;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

/// The rows of a large ledger are copied before the first piece comes; from then on the disk is all there is to wait for.
const PIECE_TIMEOUT: Duration = Duration::from_secs(600);

impl ControlClient {
    /// How the gateway stands.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn status(&self) -> Result<Status, ControlError> {
        self.call(Method::GET, "/v1/status", Vec::new()).await.and_then(|answer| read(&answer.1))
    }

    /// The text of its metrics.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn metrics(&self) -> Result<Bytes, ControlError> {
        Ok(self.call(Method::GET, "/v1/metrics", Vec::new()).await?.1)
    }

    /// A backup, piece by piece; ends early once nobody takes pieces any more.
    ///
    /// # Errors
    /// [`ControlError`], before the first piece; later ones are sent as a piece.
    pub async fn backup(&self, pieces: &SyncSender<io::Result<Bytes>>) -> Result<(), ControlError> {
        let late = |_| self.no_gateway(format!("no answer within {PIECE_TIMEOUT:?}"));
        let asking = self.ask(Method::POST, "/v1/backup", Vec::new());
        let mut response = tokio::time::timeout(PIECE_TIMEOUT, asking).await.map_err(late)??;
        if response.status() != StatusCode::OK {
            let text = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(refused(&text));
        }
        loop {
            let piece = match tokio::time::timeout(PIECE_TIMEOUT, response.frame()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(frame))) => frame.into_data().map_err(|_| io::ErrorKind::InvalidData.into()),
                Ok(Some(Err(error))) => {
                    Err(io::Error::other(format!("the gateway broke off: {error}; its log has the reason")))
                }
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            let over = piece.is_err();
            // Blocks for as long as the disk on the other side takes: this thread does nothing else.
            if pieces.send(piece).is_err() || over {
                return Ok(());
            }
        }
    }
}
