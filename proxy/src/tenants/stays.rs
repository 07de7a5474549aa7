//! Requests of each tenant that are being answered: an erasure ends them before it takes anything.
//!
//! SECURITY: a request may take minutes (an upload, a submission that waits for its turn), and its tenant may be erased and made anew meanwhile. What such a request wrote then would be the next tenant's. So each holds a
//! [`Stay`], which ends when an erasure begins; the erasure waits until all have; and one that was let in before, and comes only then, gets none.

use crate::ids::TenantId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Erasures that are remembered by their tenants; beyond it all older ones are taken to be anybody's, so that requests from before are asked to come again.
const REMEMBERED_MAX: usize = 4096;

/// Tenants of whom it is remembered that they were there, though they may have left.
const TIDY_AT_LEAST: usize = 64;

/// A point in time, counted in erasures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// A request of a tenant that is being answered; dropped when it is.
#[derive(Debug)]
pub struct Stay(watch::Receiver<bool>);

impl Stay {
    /// Resolves when the tenant is to be erased: nothing may be written any more.
    pub async fn over(mut self) {
        // Its sender goes only with that word.
        drop(self.0.wait_for(|over| *over).await);
    }
}

#[derive(Debug, Default)]
struct State {
    /// Erasures that have begun in this process.
    begun: u64,
    /// Of each tenant its last one.
    last: HashMap<TenantId, u64>,
    /// What all others' last one may have been.
    floor: u64,
    /// Who is there.
    present: HashMap<TenantId, watch::Sender<bool>>,
    /// At so many it is looked who of them has left.
    tidy_at: usize,
}

/// Who is being served.
#[derive(Debug, Default)]
pub struct Stays(Mutex<State>);

impl Stays {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now: to be asked before a credential is looked at.
    pub fn now(&self) -> Moment {
        Moment(self.state().begun)
    }

    /// Lets a request in whose credential was looked at after `since`. `None`: its tenant was erased, or is being erased, since then.
    pub fn enter(&self, tenant: &TenantId, since: Moment) -> Option<Stay> {
        let mut state = self.state();
        if state.last.get(tenant).copied().unwrap_or(state.floor) > since.0 {
            return None;
        }
        // Whoever has nobody left is forgotten by the way, so that no more are remembered than twice those who were there at once.
        if state.present.len() >= state.tidy_at.max(TIDY_AT_LEAST) {
            state.present.retain(|_, there| !there.is_closed());
            state.tidy_at = state.present.len().saturating_mul(2);
        }
        Some(Stay(state.present.entry(tenant.clone()).or_insert_with(|| watch::channel(false).0).subscribe()))
    }

    /// Ends all stays of a tenant that is closed already, and resolves when none is left. Who was let in before and has not entered does not any more.
    pub async fn end(&self, tenant: &TenantId) {
        let there = {
            let mut state = self.state();
            state.begun = state.begun.saturating_add(1);
            let begun = state.begun;
            if state.last.len() >= REMEMBERED_MAX {
                state.last.clear();
                state.floor = begun;
            }
            state.last.insert(tenant.clone(), begun);
            state.present.remove(tenant)
        };
        if let Some(there) = there {
            there.send_replace(true);
            there.closed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn id(text: &str) -> TenantId {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn an_end_waits_for_those_who_are_there_and_for_nobody_elses() {
        let stays = Stays::default();
        let (stay, others) = (stays.enter(&id("a"), stays.now()).unwrap(), stays.enter(&id("b"), stays.now()).unwrap());
        let waiting = stay.over();
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none(), "nobody has ended it");
        let a = id("a");
        let ending = stays.end(&a);
        tokio::pin!(ending);
        // `over` holds the stay until it has heard of the end.
        assert!(ending.as_mut().now_or_never().is_none());
        waiting.await;
        ending.await;
        assert!(others.over().now_or_never().is_none());
    }

    #[tokio::test]
    async fn who_was_let_in_before_an_end_does_not_enter_after_it_and_who_was_let_in_later_does() {
        let stays = Stays::default();
        let before = stays.now();
        stays.end(&id("a")).await;
        assert!(stays.enter(&id("a"), before).is_none());
        assert!(stays.enter(&id("b"), before).is_some());
        assert!(stays.enter(&id("a"), stays.now()).is_some());
    }

    #[tokio::test]
    async fn more_erasures_than_are_remembered_count_for_everybody_from_before() {
        let stays = Stays::default();
        let before = stays.now();
        for number in 0..REMEMBERED_MAX {
            stays.end(&id(&format!("t{number}"))).await;
        }
        assert!(stays.enter(&id("other"), before).is_some() && stays.enter(&id("t0"), before).is_none());
        stays.end(&id("one-more")).await;
        assert!(stays.enter(&id("t0"), before).is_none() && stays.enter(&id("other"), before).is_none());
        assert!(stays.enter(&id("other"), stays.now()).is_some());
    }

    #[test]
    fn tenants_that_have_nobody_left_are_forgotten() {
        let stays = Stays::default();
        for number in 0..1000 {
            drop(stays.enter(&id(&format!("t{number}")), stays.now()));
        }
        assert!(stays.state().present.len() <= TIDY_AT_LEAST, "{}", stays.state().present.len());
    }
}
