//! Ends of jobs that nobody has heard of yet: whoever was away is told when it connects.
//!
//! In memory only, and bounded: five minutes, so many of a user, of a tenant and in all, in number and bytes; the oldest go first. Whoever comes later, or after a
//! restart of the gateway, reads `/history`. An end is told to one client once: it is kept until a socket has been sent all of it, and given to no second socket
//! while a first one holds it.

use super::end::End;
use crate::ids::{ClientId, JobId, TenantId};
use crate::owner::OwnerScope;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an end is kept.
pub const LIFETIME: Duration = Duration::from_secs(300);
/// Bytes of ends that one socket is given when it connects: half of what may wait for it. Always at least one end.
const GIVEN_BYTES_MAX: usize = super::hub::BYTES_MAX / 2;

/// How many ends are kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of one user, or of a tenant's keys without a user.
    pub per_scope: usize,
    /// Of one tenant.
    pub per_tenant: usize,
    /// Bytes of one tenant's.
    pub tenant_bytes: usize,
    /// Of all tenants.
    pub total: usize,
    /// Bytes of all tenants'.
    pub total_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_scope: 32, per_tenant: 64, tenant_bytes: 8 << 20, total: 4096, total_bytes: 64 << 20 }
    }
}

/// The ends, oldest first.
#[derive(Debug, Default)]
pub struct Recent {
    limits: Limits,
    kept: VecDeque<Kept>,
}

#[derive(Debug)]
struct Kept {
    job: JobId,
    scope: OwnerScope,
    client_id: Option<ClientId>,
    at: Instant,
    end: Arc<End>,
}

impl Recent {
    /// Keeps an end; the oldest go where there are too many.
    pub fn keep(&mut self, job: JobId, scope: &OwnerScope, client_id: Option<&ClientId>, end: Arc<End>, now: Instant) {
        self.prune(now);
        let (scope, client_id) = (scope.clone(), client_id.cloned());
        self.kept.push_back(Kept { job, scope: scope.clone(), client_id, at: now, end });
        let limits = self.limits;
        self.shrink(|kept| kept.scope == scope, limits.per_scope, usize::MAX);
        self.shrink(|kept| kept.scope.tenant == scope.tenant, limits.per_tenant, limits.tenant_bytes);
        self.shrink(|_| true, limits.total, limits.total_bytes);
    }

    /// What a socket of that client has to be told that connects now, oldest first.
    pub fn take(&mut self, scope: &OwnerScope, client_id: &ClientId, now: Instant) -> Vec<Arc<End>> {
        self.prune(now);
        let mut bytes = 0_usize;
        let mut taken: Vec<Arc<End>> = Vec::new();
        for kept in self.kept.iter().filter(|kept| kept.is_for(scope, client_id) && kept.is_free()) {
            bytes = bytes.saturating_add(kept.end.bytes());
            if bytes > GIVEN_BYTES_MAX && !taken.is_empty() {
                break;
            }
            taken.push(Arc::clone(&kept.end));
        }
        taken
    }

    /// Nothing of a tenant is told any more.
    pub fn forget_tenant(&mut self, tenant: &TenantId) {
        self.kept.retain(|kept| kept.scope.tenant != *tenant);
    }

    /// Its owner has deleted the job.
    pub fn forget(&mut self, job: JobId) {
        self.kept.retain(|kept| kept.job != job);
    }

    /// Lets go of what is told or too old.
    fn prune(&mut self, now: Instant) {
        self.kept.retain(|kept| !kept.end.is_told() && now.saturating_duration_since(kept.at) <= LIFETIME);
    }

    /// Lets the oldest of some go until the others are at most so many, of at most so many bytes.
    fn shrink(&mut self, among: impl Fn(&Kept) -> bool, number_max: usize, bytes_max: usize) {
        let sums = |(number, bytes): (usize, usize), kept: &Kept| (number + 1, bytes.saturating_add(kept.end.bytes()));
        let (mut number, mut bytes) = self.kept.iter().filter(|kept| among(kept)).fold((0, 0), sums);
        self.kept.retain(|kept| {
            if !among(kept) || (number <= number_max && bytes <= bytes_max) {
                return true;
            }
            (number, bytes) = (number - 1, bytes.saturating_sub(kept.end.bytes()));
            false
        });
    }

    /// How many are kept.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.kept.len()
    }
}

impl Kept {
    /// SECURITY: the scope decides whose it is; a client id is no secret and means something only within it.
    fn is_for(&self, scope: &OwnerScope, client_id: &ClientId) -> bool {
        self.scope == *scope && self.client_id.as_ref().is_none_or(|id| id == client_id)
    }

    /// Nobody has heard of it, and no queue holds it.
    fn is_free(&self) -> bool {
        !self.end.is_told() && Arc::strong_count(&self.end) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::ClientEvent;
    use super::super::end::Step;
    use super::*;

    fn scope(tenant: &str, user: Option<&str>) -> OwnerScope {
        OwnerScope { tenant: tenant.parse().unwrap(), user: user.map(|user| user.parse().unwrap()) }
    }

    fn end(text: &str) -> Arc<End> {
        End::new(vec![Step::Event(ClientEvent::Json(text.to_owned().into()))])
    }

    fn client(name: &str) -> ClientId {
        name.parse().unwrap()
    }

    fn texts(ends: &[Arc<End>]) -> Vec<String> {
        let text = |end: &Arc<End>| match end.step(0) {
            Some(Step::Event(ClientEvent::Json(text))) => text.to_string(),
            other => panic!("{other:?}"),
        };
        ends.iter().map(text).collect()
    }

    struct Fixture {
        recent: Recent,
        now: Instant,
    }

    impl Fixture {
        fn new(limits: Limits) -> Self {
            Self { recent: Recent { limits, kept: VecDeque::new() }, now: Instant::now() }
        }
        fn keep(&mut self, tenant: &str, user: Option<&str>, name: Option<&str>, text: &str) -> JobId {
            let job = JobId::new();
            self.recent.keep(job, &scope(tenant, user), name.map(client).as_ref(), end(text), self.now);
            job
        }
        fn taken(&mut self, tenant: &str, user: Option<&str>, name: &str, after: Duration) -> Vec<String> {
            texts(&self.recent.take(&scope(tenant, user), &client(name), self.now + after))
        }
    }

    #[test]
    fn an_end_is_told_until_five_minutes_later_and_not_a_moment_after() {
        let mut fixture = Fixture::new(Limits::default());
        fixture.keep("a", None, Some("x"), "1");
        assert_eq!(fixture.taken("a", None, "x", LIFETIME), ["1"]);
        assert!(fixture.taken("a", None, "x", LIFETIME + Duration::from_millis(1)).is_empty());
        assert_eq!(fixture.recent.len(), 0);
    }

    #[test]
    fn only_its_own_client_within_its_own_scope_is_given_it() {
        let mut fixture = Fixture::new(Limits::default());
        fixture.keep("a", None, Some("x"), "1");
        fixture.keep("a", None, None, "2");
        for (tenant, user, name) in [("b", None, "x"), ("a", Some("u"), "x"), ("b", Some("u"), "x")] {
            assert!(fixture.taken(tenant, user, name, Duration::ZERO).is_empty(), "{tenant} {user:?}");
        }
        assert_eq!(fixture.taken("a", None, "y", Duration::ZERO), ["2"], "that has no client is for any of its user's");
        assert_eq!(fixture.taken("a", None, "x", Duration::ZERO), ["1", "2"]);
    }

    #[test]
    fn what_a_queue_holds_is_given_to_no_second_one_and_what_was_told_to_nobody() {
        let mut fixture = Fixture::new(Limits::default());
        fixture.keep("a", None, Some("x"), "1");
        let (a, x, now) = (scope("a", None), client("x"), fixture.now);
        let held = fixture.recent.take(&a, &x, now);
        assert!(fixture.recent.take(&a, &x, now).is_empty());
        drop(held);
        let held = fixture.recent.take(&a, &x, now);
        assert_eq!(held.len(), 1, "the first one did not get to its end");
        held[0].set_told();
        drop(held);
        assert!(fixture.recent.take(&a, &x, now).is_empty());
        assert_eq!(fixture.recent.len(), 0);
    }

    #[test]
    fn a_forgotten_job_is_told_to_nobody() {
        let mut fixture = Fixture::new(Limits::default());
        let first = fixture.keep("a", None, Some("x"), "1");
        fixture.keep("a", None, Some("x"), "2");
        fixture.recent.forget(first);
        assert_eq!(fixture.taken("a", None, "x", Duration::ZERO), ["2"]);
    }

    #[test]
    fn of_a_user_32_are_kept_and_of_one_more_the_oldest_goes() {
        let mut fixture = Fixture::new(Limits::default());
        fixture.keep("a", Some("other"), Some("x"), "theirs");
        for number in 0..32 {
            fixture.keep("a", None, Some("x"), &number.to_string());
        }
        assert_eq!(fixture.taken("a", None, "x", Duration::ZERO).first().map(String::as_str), Some("0"));
        fixture.keep("a", None, Some("x"), "32");
        let taken = fixture.taken("a", None, "x", Duration::ZERO);
        assert_eq!((taken.len(), taken.first().map(String::as_str)), (32, Some("1")));
        assert_eq!(fixture.taken("a", Some("other"), "x", Duration::ZERO), ["theirs"], "another user's stay");
    }

    #[test]
    fn of_a_tenant_64_are_kept_and_of_one_more_the_oldest_goes() {
        let mut fixture = Fixture::new(Limits::default());
        fixture.keep("b", None, Some("x"), "theirs");
        for number in 0..64 {
            fixture.keep("a", Some(&format!("u{}", number / 32)), Some("x"), &number.to_string());
        }
        assert_eq!(fixture.taken("a", Some("u0"), "x", Duration::ZERO).len(), 32);
        fixture.keep("a", Some("u2"), Some("x"), "64");
        let taken = fixture.taken("a", Some("u0"), "x", Duration::ZERO);
        assert_eq!((taken.len(), taken.first().map(String::as_str)), (31, Some("1")));
        assert_eq!(fixture.taken("b", None, "x", Duration::ZERO), ["theirs"], "another tenant's stay");
    }

    #[test]
    fn number_and_bytes_of_a_tenant_and_of_all_are_bounded() {
        let small = Limits { tenant_bytes: 10, total: 3, total_bytes: 20, ..Limits::default() };
        let mut fixture = Fixture::new(small);
        fixture.keep("a", None, Some("x"), "12345");
        fixture.keep("a", None, Some("x"), "67890");
        assert_eq!(fixture.recent.len(), 2, "ten bytes");
        fixture.keep("a", None, Some("x"), "1");
        assert_eq!(fixture.taken("a", None, "x", Duration::ZERO), ["67890", "1"], "eleven");
        fixture.keep("b", None, Some("x"), "12345678");
        assert_eq!(fixture.recent.len(), 3);
        fixture.keep("c", None, Some("x"), "1");
        assert_eq!(fixture.taken("a", None, "x", Duration::ZERO), ["1"], "one more than three in all");
        fixture.keep("c", None, Some("x"), "12345678901");
        assert!(fixture.taken("c", None, "x", Duration::ZERO).is_empty(), "alone too large for its tenant");
        let mut fixture = Fixture::new(small);
        fixture.keep("a", None, Some("x"), "1234567890");
        fixture.keep("b", None, Some("x"), "1234567890");
        assert_eq!(fixture.recent.len(), 2, "twenty bytes in all");
        fixture.keep("c", None, Some("x"), "1");
        assert!(fixture.taken("a", None, "x", Duration::ZERO).is_empty(), "twenty-one");
    }

    #[test]
    fn a_socket_is_given_as_much_as_surely_fits_its_queue() {
        let half = "x".repeat(GIVEN_BYTES_MAX / 2);
        let limits = Limits { tenant_bytes: usize::MAX, ..Limits::default() };
        let mut fixture = Fixture::new(limits);
        fixture.keep("a", None, Some("x"), &half);
        fixture.keep("a", None, Some("x"), &half);
        assert_eq!(fixture.taken("a", None, "x", Duration::ZERO).len(), 2, "just as much");
        fixture.keep("a", None, Some("x"), "1");
        assert_eq!(fixture.taken("a", None, "x", Duration::ZERO).len(), 2, "one more byte has to wait");
        fixture.keep("b", None, Some("x"), &half.repeat(3));
        assert_eq!(fixture.taken("b", None, "x", Duration::ZERO).len(), 1, "one alone always fits");
    }
}
