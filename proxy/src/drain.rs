//! Leaving: how many requests are in flight, and the word that the gateway stops or hands over to its successor.
//!
//! Pingora's own grace is an unconditional sleep (pingora-notes §6), so we count ourselves: new work is refused from the first moment of a stop, and
//! the process leaves as soon as nothing is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// The word that the gateway stops, and the count of what still goes on.
#[derive(Debug, Clone)]
pub struct Drain {
    stopping: Arc<watch::Sender<bool>>,
    handing_over: Arc<AtomicBool>,
    in_flight: Arc<watch::Sender<usize>>,
}

/// One request or socket that goes on; dropped when it is over.
#[derive(Debug)]
pub struct InFlight(Arc<watch::Sender<usize>>);

impl Drain {
    /// A gateway that runs.
    #[allow(clippy::new_without_default, reason = "nothing about it is a default")]
    pub fn new() -> Self {
        Self {
            stopping: Arc::new(watch::channel(false).0),
            handing_over: Arc::default(),
            in_flight: Arc::new(watch::channel(0).0),
        }
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

    /// A stop that another process follows at once: what goes on at backends is left to it.
    pub fn hand_over(&self) {
        self.handing_over.store(true, Ordering::Release);
        self.stop();
    }

    /// Whether the stop is one that another process follows.
    pub fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Acquire)
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
        assert!(!seen.is_handing_over());
    }

    #[test]
    fn handing_over_is_a_stop_too() {
        let drain = Drain::new();
        let seen = drain.clone();
        drain.hand_over();
        assert!(seen.is_stopping() && seen.is_handing_over());
    }
}
