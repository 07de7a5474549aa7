//! Those of one tenant who wait for their turn, first come, first served.

use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::{Mutex, MutexGuard};

/// Who may wait at once. The body of each is read and booked on the memory of all bodies, so these are few; a page posts one at a time.
pub(super) const WAITING_MAX: u32 = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Whoever holds it is first; tokio gives it in the order of asking.
    front: Mutex<()>,
    waiting: AtomicU32,
}

/// A place in the line; leaving is dropping it, at the front or before.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Line);

impl Line {
    /// How many stand in it.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The last place; none if the line is full.
    pub(super) fn join(&self) -> Option<Place<'_>> {
        let one_more = |waiting: u32| (waiting < WAITING_MAX).then(|| waiting.saturating_add(1));
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Place(self))
    }
}

impl<'a> Place<'a> {
    /// Waits until nobody stands before this one. Cancel-safe: who gives up leaves the line.
    pub(super) async fn front(&self) -> MutexGuard<'a, ()> {
        self.0.front.lock().await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
