//! Placement: which backend a job goes to. Pure.

use crate::ids::BackendId;
use std::collections::BTreeMap;

/// What placement knows of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// It answers, and is neither ejected nor draining.
    pub available: bool,
    /// Attempts of ours that it has.
    pub outstanding: u32,
    /// Prompts that others put in its queue behind our back, as last seen.
    pub foreign: u32,
}

/// How many attempts a backend has at once: one, so that nothing foreign ever waits behind a job that may be interrupted (facts §13).
pub const SLOTS: u32 = 1;

/// The backend with the least outstanding work among those that are available, have a free slot and are `eligible`; the first by id among equals.
pub fn placed(loads: &BTreeMap<BackendId, Load>, eligible: impl Fn(&BackendId) -> bool) -> Option<&BackendId> {
    loads
        .iter()
        .filter(|(id, load)| load.available && load.outstanding < SLOTS && eligible(id))
        .min_by_key(|(_, load)| load.outstanding.saturating_add(load.foreign))
        .map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(rows: &[(&str, bool, u32, u32)]) -> BTreeMap<BackendId, Load> {
        let row = |(id, available, outstanding, foreign): &(&str, bool, u32, u32)| {
            (id.parse().unwrap(), Load { available: *available, outstanding: *outstanding, foreign: *foreign })
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn the_least_loaded_available_backend_is_taken() {
        let all = loads(&[("a", true, 0, 2), ("b", true, 0, 1), ("c", false, 0, 0)]);
        assert_eq!(placed(&all, |_| true).map(BackendId::as_str), Some("b"));
    }

    #[test]
    fn a_backend_at_its_slots_gets_nothing_and_one_below_does() {
        assert_eq!(placed(&loads(&[("a", true, SLOTS, 0)]), |_| true), None);
        assert!(placed(&loads(&[("a", true, SLOTS - 1, 0)]), |_| true).is_some());
    }

    #[test]
    fn an_ineligible_backend_is_passed_over() {
        let all = loads(&[("a", true, 0, 0), ("b", true, 0, 5)]);
        assert_eq!(placed(&all, |id| id.as_str() == "b").map(BackendId::as_str), Some("b"));
        assert_eq!(placed(&all, |_| false), None);
    }

    #[test]
    fn equals_are_taken_by_id() {
        assert_eq!(placed(&loads(&[("b", true, 0, 0), ("a", true, 0, 0)]), |_| true).map(BackendId::as_str), Some("a"));
    }
}
