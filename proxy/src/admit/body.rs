//! One budget for the memory of all request bodies (invariant 7).

use super::AdmitError;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is counted in pieces of this size: tokio's semaphore counts in 32 bits, bytes would end at 4 GiB.
const PIECE_BYTES: u64 = 1 << 10;

/// The memory that all request bodies may take together.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    pieces: Arc<Semaphore>,
    total_pieces: usize,
}

/// A part of the budget; given back when it is dropped.
#[derive(Debug)]
#[must_use = "dropping the slot gives the memory back to the budget while the body is still there"]
pub struct BodySlot {
    budget: BodyBudget,
    held: OwnedSemaphorePermit,
}

impl BodyBudget {
    /// A budget of `total_bytes`, rounded down to KiB.
    pub fn new(total_bytes: u64) -> Self {
        let total = usize::try_from(total_bytes / PIECE_BYTES).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { pieces: Arc::new(Semaphore::new(total)), total_pieces: total }
    }

    /// Room for a body of `bytes`, now or not at all: whoever waits holds a connection, and that is what a flood wants.
    ///
    /// # Errors
    /// [`AdmitError::BodiesFull`].
    pub fn take(&self, bytes: u64) -> Result<BodySlot, AdmitError> {
        let held = self.pieces_for(bytes)?;
        Ok(BodySlot { budget: self.clone(), held })
    }

    /// Bytes that are free now.
    pub fn free_bytes(&self) -> u64 {
        self.pieces.available_permits() as u64 * PIECE_BYTES
    }

    fn pieces_for(&self, bytes: u64) -> Result<OwnedSemaphorePermit, AdmitError> {
        let full = || AdmitError::BodiesFull {
            wanted: bytes,
            free: self.free_bytes(),
            total: self.total_pieces as u64 * PIECE_BYTES,
        };
        let pieces = u32::try_from(bytes.div_ceil(PIECE_BYTES)).map_err(|_| full())?;
        self.pieces.clone().try_acquire_many_owned(pieces).map_err(|_| full())
    }
}

impl BodySlot {
    /// Bytes that this slot has room for.
    pub fn bytes(&self) -> u64 {
        self.held.num_permits() as u64 * PIECE_BYTES
    }

    /// Grows the slot to at least `bytes`, for a body whose length was not announced; never shrinks it.
    ///
    /// # Errors
    /// [`AdmitError::BodiesFull`]; the slot is then as it was.
    pub fn grow_to(&mut self, bytes: u64) -> Result<(), AdmitError> {
        let more = bytes.saturating_sub(self.bytes());
        if more > 0 {
            self.held.merge(self.budget.pieces_for(more)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_spent_to_the_last_piece_and_not_beyond() {
        let budget = BodyBudget::new(4096);
        let slot = budget.take(4096).unwrap();
        assert_eq!(budget.take(1).unwrap_err(), AdmitError::BodiesFull { wanted: 1, free: 0, total: 4096 });
        drop(slot);
        assert_eq!(budget.free_bytes(), 4096);
        assert!(budget.take(4097).is_err());
    }

    #[test]
    fn a_part_of_a_piece_takes_a_whole_one() {
        let budget = BodyBudget::new(4096);
        let slot = budget.take(1025).unwrap();
        assert_eq!((slot.bytes(), budget.free_bytes()), (2048, 2048));
    }

    #[test]
    fn a_slot_grows_until_the_budget_ends_and_is_then_as_it_was() {
        let budget = BodyBudget::new(4096);
        let mut slot = budget.take(0).unwrap();
        slot.grow_to(3000).unwrap();
        assert_eq!(slot.bytes(), 3072);
        slot.grow_to(10).unwrap();
        assert_eq!(slot.bytes(), 3072);
        assert!(slot.grow_to(5000).is_err());
        assert_eq!((slot.bytes(), budget.free_bytes()), (3072, 1024));
        drop(slot);
        assert_eq!(budget.free_bytes(), 4096);
    }

    #[test]
    fn a_length_beyond_every_budget_is_refused_and_counts_nothing() {
        let budget = BodyBudget::new(1 << 20);
        assert!(budget.take(u64::MAX).is_err());
        assert_eq!(budget.free_bytes(), 1 << 20);
    }
}
