//! Whose turn it is to ask backends for what they make on their event loop: one at a time, and nobody waits for the backends of another pool.

use crate::ids::BackendId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Sets of backends that are remembered; more than there are pools, whose backends come and go.
const SETS_MAX: usize = 64;

/// A lock for each set of backends.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Vec<BackendId>, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// The lock of these backends. Once in a while one is forgotten and two ask at once, which is no harm.
    pub(super) fn of(&self, backends: &[BackendId]) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= SETS_MAX && !turns.contains_key(backends) {
            turns.clear();
        }
        Arc::clone(turns.entry(backends.to_vec()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_the_same_backends_waits_and_nobody_else_does() {
        let turns = Turns::default();
        let backends = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<BackendId>>();
        let (turn, same, other) =
            (turns.of(&backends(&["a", "b"])), turns.of(&backends(&["a", "b"])), turns.of(&backends(&["c"])));
        let held = turn.try_lock().unwrap();
        assert!(same.try_lock().is_err() && other.try_lock().is_ok());
        drop(held);
        (0..SETS_MAX).for_each(|number| drop(turns.of(&backends(&[&format!("x{number}")]))));
        assert!(turns.0.lock().unwrap().len() <= SETS_MAX);
    }
}
