//! Codes that are redeemed at a provider at once. Anybody may begin a login and come back with a code of their own making: whoever does that again and again shall neither have us flood the
//! provider nor keep the others from it.

use crate::listen::AddrGroup;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Of all addresses.
const TOTAL_MAX: usize = 64;
/// Of one address (IPv6: one /64): an office at nine o'clock. A provider answers within a second.
const PER_GROUP_MAX: usize = 8;

/// How many are under way, by where they come from. The map holds those only, so the total bounds it.
#[derive(Debug, Default)]
pub struct Redeeming(Mutex<HashMap<AddrGroup, usize>>);

/// A place; leaving is dropping it.
#[derive(Debug)]
pub struct RedeemingPlace {
    redeeming: Arc<Redeeming>,
    group: AddrGroup,
}

impl Redeeming {
    /// A place for a code from there; none if too many are redeemed, from there or in all.
    pub fn enter(self: &Arc<Self>, group: AddrGroup) -> Option<RedeemingPlace> {
        let mut places = self.places();
        let here = places.get(&group).copied().unwrap_or(0);
        // At most 64 entries.
        if here >= PER_GROUP_MAX || places.values().sum::<usize>() >= TOTAL_MAX {
            return None;
        }
        places.insert(group, here + 1);
        Some(RedeemingPlace { redeeming: Arc::clone(self), group })
    }

    fn places(&self) -> MutexGuard<'_, HashMap<AddrGroup, usize>> {
        // Every change is one statement: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RedeemingPlace {
    fn drop(&mut self) {
        let mut places = self.redeeming.places();
        match places.get_mut(&self.group) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(places.remove(&self.group)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::ClientAddr;

    fn group(address: &str) -> AddrGroup {
        ClientAddr::of_ip(address.parse().unwrap()).group()
    }

    #[test]
    fn one_address_has_so_many_places_and_leaves_the_others_to_the_rest() {
        let redeeming = Arc::new(Redeeming::default());
        // One /64 is one address.
        let mut here: Vec<_> = (0..PER_GROUP_MAX).map(|n| redeeming.enter(group(&format!("2001:db8::{n}")))).collect();
        assert!(here.iter().all(Option::is_some), "just inside");
        assert!(redeeming.enter(group("2001:db8::ffff")).is_none(), "just outside");
        assert!(redeeming.enter(group("2001:db8:0:1::1")).is_some(), "another /64, which leaves at once");
        here.pop();
        assert!(redeeming.enter(group("2001:db8::ffff")).is_some(), "somebody left");
        drop(here);
        assert!(redeeming.places().is_empty());
    }

    #[test]
    fn all_addresses_together_have_so_many_places() {
        let redeeming = Arc::new(Redeeming::default());
        let all: Vec<_> = (0..TOTAL_MAX).map(|n| redeeming.enter(group(&format!("192.0.2.{}", n / 4)))).collect();
        assert!(all.iter().all(Option::is_some), "just inside");
        assert!(redeeming.enter(group("198.51.100.1")).is_none(), "just outside");
        drop(all);
        assert!(redeeming.enter(group("198.51.100.1")).is_some());
    }
}
