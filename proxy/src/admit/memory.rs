//! Limits in the memory of this process: rates per tenant (GCRA by governor).

use super::line::Line;
use super::{AdmitError, Permit, RateKind, RateState};
use crate::clock::Clock;
use crate::ids::TenantId;
use crate::tenants::{Rate, Tenant};
use dashmap::DashMap;
use governor::clock::Clock as GovernorClock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most tenants whose rates are remembered. A tenant that has not called for a while is forgotten when it is reached: its bucket is full anyway.
const TENANTS_MAX: usize = 100_000;

/// Our clock, as governor wants one.
#[derive(Debug, Clone)]
struct RateClock {
    clock: Clock,
    start: Instant,
}

impl GovernorClock for RateClock {
    type Instant = Nanos;
    fn now(&self) -> Nanos {
        Nanos::from(self.clock.monotonic().saturating_duration_since(self.start))
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, RateClock, StateInformationMiddleware>;

/// One tenant's bucket for one kind of request.
struct Bucket {
    /// What it was made for: another rate (a reload) makes another bucket.
    rate: Rate,
    limiter: Limiter,
    last_used: Mutex<Instant>,
    /// Who waits for the next token.
    line: Line,
}

/// What a submission gets that may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It may go on.
    Now(Permit),
    /// Not now, but [`Admission::prompt_in_turn`] will say when.
    Later,
}

/// The rates of all tenants.
pub struct Admission {
    clock: RateClock,
    buckets: DashMap<(TenantId, RateKind), Arc<Bucket>>,
    tenants_max: usize,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission({} buckets)", self.buckets.len())
    }
}

impl Admission {
    /// Rates by this clock; every bucket is full.
    pub fn new(clock: Clock) -> Self {
        let start = clock.monotonic();
        Self { clock: RateClock { clock, start }, buckets: DashMap::new(), tenants_max: TENANTS_MAX }
    }

    /// Leave for one `POST /prompt`.
    ///
    /// # Errors
    /// [`AdmitError::RateLimited`], [`AdmitError::TooManyTenants`].
    pub fn prompt(&self, tenant: &Tenant) -> Result<Permit, AdmitError> {
        self.permit(tenant, RateKind::Prompt, tenant.limits.prompt_rate)
    }

    /// Leave for one `POST /prompt` that may wait for up to `pace`; nobody goes before those who wait already. Zero: as [`Admission::prompt`].
    ///
    /// # Errors
    /// As [`Admission::prompt`], when its turn would not come within `pace` or too many wait.
    pub fn prompt_or_turn(&self, tenant: &Tenant, pace: Duration) -> Result<Turn, AdmitError> {
        if pace.is_zero() {
            return self.prompt(tenant).map(Turn::Now);
        }
        let rate = tenant.limits.prompt_rate;
        let waiting = self.bucket(&tenant.id, RateKind::Prompt, rate)?.line.waiting();
        let next = if waiting == 0 {
            match self.prompt(tenant) {
                Ok(permit) => return Ok(Turn::Now(permit)),
                Err(AdmitError::RateLimited { retry_after, .. }) => retry_after,
                Err(other) => return Err(other),
            }
        } else {
            interval(rate)
        };
        let retry_after = next.saturating_add(time_for(rate, waiting));
        if waiting < super::line::WAITING_MAX && retry_after <= pace {
            Ok(Turn::Later)
        } else {
            Err(limited(rate, retry_after))
        }
    }

    /// Waits in the tenant's line for leave, for up to `pace`. Whoever drops this gives its place up.
    ///
    /// # Errors
    /// As [`Admission::prompt`], when too many wait or `pace` is over.
    pub async fn prompt_in_turn(&self, tenant: &Tenant, pace: Duration) -> Result<Permit, AdmitError> {
        let rate = tenant.limits.prompt_rate;
        let bucket = self.bucket(&tenant.id, RateKind::Prompt, rate)?;
        let behind = time_for(rate, bucket.line.waiting().saturating_add(1));
        let place = bucket.line.join().ok_or_else(|| limited(rate, behind))?;
        let turn = async {
            let _front = place.front().await;
            loop {
                match self.permit(tenant, RateKind::Prompt, rate) {
                    // Others take from the same bucket without waiting: then the next token it is.
                    Err(AdmitError::RateLimited { retry_after, .. }) => tokio::time::sleep(retry_after).await,
                    decided => return decided,
                }
            }
        };
        tokio::time::timeout(pace, turn).await.unwrap_or_else(|_| Err(limited(rate, behind)))
    }

    /// Leave for one request of any other kind.
    ///
    /// # Errors
    /// As [`Admission::prompt`].
    pub fn request(&self, tenant: &Tenant) -> Result<Permit, AdmitError> {
        self.permit(tenant, RateKind::Request, tenant.limits.request_rate)
    }

    fn permit(&self, tenant: &Tenant, kind: RateKind, rate: Rate) -> Result<Permit, AdmitError> {
        let bucket = self.bucket(&tenant.id, kind, rate)?;
        *bucket.last_used.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.clock.monotonic();
        match bucket.limiter.check() {
            Ok(snapshot) => Ok(Permit { rate: rate_state(rate, snapshot.remaining_burst_capacity()) }),
            Err(not_until) => Err(AdmitError::RateLimited {
                kind,
                rate: rate_state(rate, 0),
                retry_after: not_until.wait_time_from(self.clock.now()),
            }),
        }
    }

    fn bucket(&self, tenant: &TenantId, kind: RateKind, rate: Rate) -> Result<Arc<Bucket>, AdmitError> {
        let key = (tenant.clone(), kind);
        if let Some(bucket) = self.buckets.get(&key).filter(|bucket| bucket.rate == rate) {
            return Ok(Arc::clone(&bucket));
        }
        if self.buckets.len() >= self.tenants_max * 2 && !self.buckets.contains_key(&key) {
            self.forget_the_idle();
            if self.buckets.len() >= self.tenants_max * 2 {
                return Err(AdmitError::TooManyTenants(self.tenants_max));
            }
        }
        // Two requests may come here at once; the entry's lock lets the first one's bucket stand.
        let mut entry = self.buckets.entry(key).or_insert_with(|| Arc::new(self.new_bucket(rate)));
        if entry.rate != rate {
            *entry = Arc::new(self.new_bucket(rate));
        }
        Ok(Arc::clone(&entry))
    }

    fn new_bucket(&self, rate: Rate) -> Bucket {
        let limiter = RateLimiter::direct_with_clock(quota(rate), self.clock.clone()).with_middleware();
        Bucket { rate, limiter, last_used: Mutex::new(self.clock.clock.monotonic()), line: Line::default() }
    }

    /// Drops every bucket that has had time to fill up: a new one is no different.
    fn forget_the_idle(&self) {
        let now = self.clock.clock.monotonic();
        self.buckets.retain(|_, bucket| {
            let last_used = *bucket.last_used.lock().unwrap_or_else(PoisonError::into_inner);
            now.saturating_duration_since(last_used) < time_for(bucket.rate, bucket.rate.burst)
        });
    }
}

/// How long `count` requests take at the sustained rate.
fn time_for(rate: Rate, count: u32) -> Duration {
    interval(rate).saturating_mul(count)
}

/// Between two requests at the sustained rate.
fn interval(rate: Rate) -> Duration {
    let per_second = rate.per_second.clamp(Rate::PER_SECOND_MIN, Rate::PER_SECOND_MAX);
    Duration::from_secs_f64(1.0 / per_second)
}

fn limited(rate: Rate, retry_after: Duration) -> AdmitError {
    AdmitError::RateLimited { kind: RateKind::Prompt, rate: rate_state(rate, 0), retry_after }
}

fn quota(rate: Rate) -> Quota {
    let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
    // The interval lies between 10 µs and 1000 s by the clamp above, so it is never zero and the other arm never taken; if it were, once a second is no loophole.
    Quota::with_period(interval(rate)).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst)
}

fn rate_state(rate: Rate, remaining: u32) -> RateState {
    RateState { limit: rate.burst, remaining, reset: time_for(rate, rate.burst.saturating_sub(remaining)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::tenants::{Limits, TenantRegistry};

    fn tenant(id: &str, per_second: f64, burst: u32) -> Tenant {
        let local = TenantRegistry::built_in().tenants().next().unwrap().as_ref().clone();
        let limits = Limits { prompt_rate: Rate { per_second, burst }, ..Limits::default() };
        Tenant { id: id.parse().unwrap(), limits, ..local }
    }

    fn clock() -> Clock {
        Clock::turned_by_hand(WallMillis(0))
    }

    #[test]
    fn the_burst_passes_and_the_next_waits_for_one_interval() {
        let clock = clock();
        let (admission, tenant) = (Admission::new(clock.clone()), tenant("a", 10.0, 5));
        for left in (0..5).rev() {
            assert_eq!(admission.prompt(&tenant).unwrap().rate().remaining, left);
        }
        let Err(AdmitError::RateLimited { retry_after, rate, .. }) = admission.prompt(&tenant) else {
            panic!("a sixth passed")
        };
        assert_eq!((retry_after, rate.limit, rate.remaining), (Duration::from_millis(100), 5, 0));
        clock.turn(Duration::from_millis(99));
        assert!(admission.prompt(&tenant).is_err());
        clock.turn(Duration::from_millis(1));
        assert!(admission.prompt(&tenant).is_ok());
        assert!(admission.prompt(&tenant).is_err());
    }

    /// Lets every task that can go on do so.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Moves both times, as the system's do.
    async fn pass(clock: &Clock, by: Duration) {
        clock.turn(by);
        tokio::time::advance(by).await;
        settle().await;
    }

    const PACE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn those_over_the_burst_get_their_turn_in_order_at_the_sustained_rate() {
        let clock = clock();
        let (admission, tenant) = (Arc::new(Admission::new(clock.clone())), tenant("a", 1.0, 1));
        assert!(matches!(admission.prompt_or_turn(&tenant, PACE), Ok(Turn::Now(_))));
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 1..=3 {
            assert_eq!(admission.prompt_or_turn(&tenant, PACE), Ok(Turn::Later));
            let (admission, tenant, done) = (Arc::clone(&admission), tenant.clone(), done.clone());
            tokio::spawn(async move {
                admission.prompt_in_turn(&tenant, PACE).await.unwrap();
                done.send(number).unwrap();
            });
            settle().await;
        }
        for number in 1..=3 {
            assert!(order.try_recv().is_err(), "{number} came too early");
            pass(&clock, Duration::from_secs(1)).await;
            assert_eq!(order.try_recv(), Ok(number));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_longer_than_the_pace_is_refused_at_once() {
        let clock = clock();
        let (admission, tenant) = (Arc::new(Admission::new(clock.clone())), tenant("a", 1.0, 1));
        assert!(admission.prompt(&tenant).is_ok());
        assert_eq!(admission.prompt_or_turn(&tenant, Duration::from_secs(1)), Ok(Turn::Later));
        let short = admission.prompt_or_turn(&tenant, Duration::from_millis(999)).unwrap_err();
        assert!(matches!(short, AdmitError::RateLimited { retry_after, .. } if retry_after == Duration::from_secs(1)));
        assert!(admission.prompt_or_turn(&tenant, Duration::ZERO).is_err(), "no pace, no waiting");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_the_line_and_takes_no_token() {
        let clock = clock();
        let (admission, tenant) = (Arc::new(Admission::new(clock.clone())), tenant("a", 1.0, 1));
        assert!(admission.prompt(&tenant).is_ok());
        let first = tokio::spawn({
            let (admission, tenant) = (Arc::clone(&admission), tenant.clone());
            async move { admission.prompt_in_turn(&tenant, PACE).await }
        });
        settle().await;
        let second = tokio::spawn({
            let (admission, tenant) = (Arc::clone(&admission), tenant.clone());
            async move { admission.prompt_in_turn(&tenant, PACE).await }
        });
        settle().await;
        first.abort();
        pass(&clock, Duration::from_secs(1)).await;
        assert!(second.is_finished() && second.await.unwrap().is_ok());
        assert_eq!(
            admission.bucket(&tenant.id, RateKind::Prompt, tenant.limits.prompt_rate).unwrap().line.waiting(),
            0
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_has_an_end_and_so_has_patience() {
        let clock = clock();
        // Slow enough that nobody's turn comes.
        let (admission, tenant) = (Arc::new(Admission::new(clock.clone())), tenant("a", 0.001, 1));
        assert!(admission.prompt(&tenant).is_ok());
        let mut waiting = Vec::new();
        for _ in 0..super::super::line::WAITING_MAX {
            let (admission, tenant) = (Arc::clone(&admission), tenant.clone());
            waiting.push(tokio::spawn(async move { admission.prompt_in_turn(&tenant, PACE).await }));
        }
        settle().await;
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "just inside");
        assert!(admission.prompt_in_turn(&tenant, PACE).await.is_err(), "just outside");
        pass(&clock, PACE + Duration::from_millis(1)).await;
        for waiting in waiting {
            assert!(matches!(waiting.await.unwrap(), Err(AdmitError::RateLimited { .. })));
        }
    }

    #[test]
    fn one_tenants_flood_is_not_anothers_and_prompts_are_not_requests() {
        let admission = Admission::new(clock());
        let (a, b) = (tenant("a", 1.0, 1), tenant("b", 1.0, 1));
        assert!(admission.prompt(&a).is_ok());
        assert!(admission.prompt(&a).is_err());
        assert!(admission.prompt(&b).is_ok());
        assert!(admission.request(&a).is_ok());
    }

    #[test]
    fn a_changed_rate_holds_from_the_next_request_on() {
        let admission = Admission::new(clock());
        assert!(admission.prompt(&tenant("a", 1.0, 1)).is_ok());
        assert!(admission.prompt(&tenant("a", 1.0, 1)).is_err());
        assert_eq!(admission.prompt(&tenant("a", 1.0, 3)).unwrap().rate().remaining, 2);
    }

    #[test]
    fn the_map_forgets_the_idle_and_refuses_when_all_are_active() {
        let clock = clock();
        let admission = Admission { tenants_max: 1, ..Admission::new(clock.clone()) };
        let busy = tenant("a", 1.0, 10);
        assert!(admission.prompt(&busy).is_ok() && admission.request(&busy).is_ok());
        assert_eq!(admission.prompt(&tenant("b", 1.0, 1)).unwrap_err(), AdmitError::TooManyTenants(1));
        clock.turn(Duration::from_secs(10));
        assert!(admission.prompt(&tenant("b", 1.0, 1)).is_ok());
    }

    #[test]
    fn headers_say_limit_remaining_and_seconds_until_full() {
        let admission = Admission::new(clock());
        let permit = admission.prompt(&tenant("a", 0.4, 3)).unwrap();
        let headers = permit.rate().headers().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        assert_eq!(headers, ["ratelimit-limit: 3", "ratelimit-remaining: 2", "ratelimit-reset: 3"]);
    }
}
