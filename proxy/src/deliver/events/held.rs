//! Sockets of browsers whose session has ended, or can't be renewed at this moment: held open and silent for a while.
//!
//! The page opens a socket anew 300 ms after any close (facts §13), and would do so for ever; so it keeps one on which nothing comes. Anybody can have one without a login, so their number is
//! bounded, in all and by address, and so is their time.

use crate::listen::connections::AddrGroup;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Then one of an ended session is closed, and a page that is still there comes again.
pub const HELD_MAX: Duration = Duration::from_secs(600);
/// Of all addresses: some kilobytes each.
const TOTAL_MAX: u32 = 1000;
/// Of one address: the tabs of an office.
const PER_GROUP_MAX: u32 = 16;

/// How many are held.
#[derive(Debug)]
pub struct Held {
    total_max: u32,
    per_group_max: u32,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    total: u32,
    by_group: HashMap<AddrGroup, u32>,
}

/// A place of a held socket; leaving is dropping it.
#[derive(Debug)]
pub struct HeldPlace {
    held: Arc<Held>,
    group: AddrGroup,
}

impl Default for Held {
    fn default() -> Self {
        Self { total_max: TOTAL_MAX, per_group_max: PER_GROUP_MAX, places: Mutex::default() }
    }
}

impl Held {
    /// A place for a socket from there; none if too many are held, there or in all.
    pub fn enter(self: &Arc<Self>, group: AddrGroup) -> Option<HeldPlace> {
        let mut places = self.places();
        let here = places.by_group.get(&group).copied().unwrap_or(0);
        if places.total >= self.total_max || here >= self.per_group_max {
            return None;
        }
        places.total += 1;
        places.by_group.insert(group, here + 1);
        Some(HeldPlace { held: Arc::clone(self), group })
    }

    /// How many are held now.
    pub fn count(&self) -> u32 {
        self.places().total
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // Changed in few steps that can't fail.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldPlace {
    fn drop(&mut self) {
        let mut places = self.held.places();
        places.total = places.total.saturating_sub(1);
        match places.by_group.get_mut(&self.group) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(places.by_group.remove(&self.group)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::ClientAddr;

    fn group(last: u8) -> AddrGroup {
        ClientAddr::of_peer(([192, 0, 2, last], 1).into()).group()
    }

    #[test]
    fn as_many_are_held_as_may_be_and_leaving_makes_room() {
        let held = Arc::new(Held { total_max: 3, per_group_max: 2, places: Mutex::default() });
        let first = held.enter(group(1)).unwrap();
        let second = held.enter(group(1)).unwrap();
        assert!(held.enter(group(1)).is_none(), "of one address");
        let other = held.enter(group(2)).unwrap();
        assert!(held.enter(group(3)).is_none(), "in all");
        drop(first);
        assert!(held.enter(group(1)).is_some());
        drop((second, other));
        assert!(held.places().by_group.is_empty() && held.places().total == 0);
    }
}
