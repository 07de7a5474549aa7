//! Leaving: how many requests are in flight, and the word that the gateway stops.
//!
//! Pingora's own grace is an unconditional sleep (pingora-notes §6), so we count ourselves: new work is refused from the first moment of a stop, and
//! the process leaves as soon as nothing is in flight.

use std::sync::Arc;
use tokio::sync::watch;

/// The word that the gateway stops, and the count of what still goes on.
#[derive(Debug, Clone)]
pub struct Drain {
    stopping: Arc<watch::Sender<bool>>,
    in_flight: Arc<watch::Sender<usize>>,
}

/// One request or socket that goes on; dropped when it is over.
#[derive(Debug)]
pub struct InFlight(Arc<watch::Sender<usize>>);

impl Drain {
    /// A gateway that runs.
    #[allow(clippy::new_without_default, reason = "nothing about it is a default")]
    pub fn new() -> Self {
        Self { stopping: Arc::new(watch::channel(false).0), in_flight: Arc::new(watch::channel(0).0) }
    }

    /// Whether new work is refused.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// For tasks that end with the gateway.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// From now on new work is refused and sockets are told.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Counts something as in flight.
    pub fn enter(&self) -> InFlight {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// Resolves when nothing is in flight.
    pub async fn idle(&self) {
        // The sender lives in `self`, so waiting can't fail.
        let _ = self.in_flight.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_waits_for_what_is_in_flight_and_for_nothing_else() {
        let drain = Drain::new();
        drain.idle().await;
        let (first, second) = (drain.enter(), drain.enter());
        let mut idle = Box::pin(drain.idle());
        assert!(futures_util::poll!(&mut idle).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut idle).is_pending());
        drop(second);
        idle.await;
    }

    #[test]
    fn a_stop_is_seen_by_every_clone() {
        let drain = Drain::new();
        let seen = drain.clone();
        assert!(!seen.is_stopping());
        drain.stop();
        assert!(seen.is_stopping());
    }
}
