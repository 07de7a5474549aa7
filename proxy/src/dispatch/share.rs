//! A backend's share of its pool's jobs: a new version of ComfyUI is tried with a few of them first. Pure.

use super::backend::Backend;
use crate::ids::{BackendId, PoolId};
use std::collections::{HashMap, VecDeque};

/// Assignments of a pool that are looked back on.
const WINDOW: usize = 200;

/// Which backends the last jobs of each pool went to. Bounded: pools are those of configured backends, and those that are gone are dropped at the next assignment there is none for.
#[derive(Debug, Default)]
pub struct Shares(HashMap<PoolId, VecDeque<BackendId>>);

impl Shares {
    /// Whether this backend may be given one more job: its part of the last 200 of its pool is below its share. A backend without a share may always. Nor is one held back while
    /// nobody without a share takes jobs in its pool: what can run is not left waiting for what can't.
    pub fn allow<'a>(&self, backend: &Backend, mut backends: impl Iterator<Item = &'a Backend>) -> bool {
        if backend.share_percent >= 100 {
            return true;
        }
        let last = self.0.get(&backend.pool);
        let own = last.map_or(0, |last| last.iter().filter(|id| **id == backend.id).count());
        below(own, last.map_or(0, VecDeque::len), backend.share_percent)
            || !backends.any(|other| other.pool == backend.pool && other.share_percent >= 100 && other.takes_jobs())
    }

    /// A job goes there.
    pub fn assigned(&mut self, backend: &Backend) {
        let last = self.0.entry(backend.pool.clone()).or_default();
        last.push_back(backend.id.clone());
        if last.len() > WINDOW {
            last.pop_front();
        }
    }

    /// Forgets pools that no backend is in any more.
    pub fn retain(&mut self, is_configured: impl Fn(&PoolId) -> bool) {
        self.0.retain(|pool, _| is_configured(pool));
    }
}

/// Whether `own` of `all` is less than so many of 100; of the first job of all, yes.
fn below(own: usize, all: usize, percent: u32) -> bool {
    let (own, all) = (own as u128, all.max(1) as u128);
    own * 100 < all * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::BackendEndpoint;
    use crate::ids::UpstreamClientId;
    use comfygate_policy::Catalogue;
    use std::sync::Arc;

    fn backend(id: &str, share_percent: u32, up: bool) -> Backend {
        let endpoint = BackendEndpoint::parse("http://127.0.0.1:8188").unwrap();
        let pool = "default".parse().unwrap();
        let mut backend = Backend::new(id.parse().unwrap(), pool, endpoint, UpstreamClientId::new());
        backend.share_percent = share_percent;
        if up {
            let live = include_bytes!("../../../policies/catalogues/comfyui-0.8.0.json");
            backend.set_up(Arc::new(Catalogue::builtin().agreement(live).unwrap()));
        }
        backend
    }

    #[test]
    fn a_part_below_the_share_gets_one_more_and_one_at_it_does_not() {
        assert!(below(0, 0, 5) && below(0, 1, 5) && !below(1, 1, 5));
        assert!(!below(1, 20, 5) && below(1, 21, 5));
        assert!(below(9, 200, 5) && !below(10, 200, 5));
    }

    #[test]
    fn one_of_five_percent_gets_ten_of_the_last_two_hundred_jobs_whenever_it_could_have_any() {
        let all = [backend("canary", 5, true), backend("old", 100, true)];
        let mut shares = Shares::default();
        let mut given = Vec::new();
        for _ in 0..1000 {
            let next = if shares.allow(&all[0], all.iter()) { &all[0] } else { &all[1] };
            assert!(shares.allow(&all[1], all.iter()), "the others are never held back");
            shares.assigned(next);
            given.push(next.id.as_str());
        }
        let canary = |jobs: &[&str]| jobs.iter().filter(|id| **id == "canary").count();
        assert_eq!(canary(&given[800..]), 10);
        assert!(canary(&given) <= 51, "{}", canary(&given));
        shares.retain(|_| false);
        assert!(shares.0.is_empty());
    }

    #[test]
    fn one_that_had_its_share_goes_on_when_nobody_else_can_and_stops_when_one_can() {
        let (canary, down, up) = (backend("canary", 5, true), backend("old", 100, false), backend("old", 100, true));
        let mut shares = Shares::default();
        shares.assigned(&canary);
        assert!(shares.allow(&canary, [&canary, &down].into_iter()));
        assert!(!shares.allow(&canary, [&canary, &up].into_iter()));
    }
}
