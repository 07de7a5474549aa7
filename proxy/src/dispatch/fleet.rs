//! The gateway as the scheduler sees it: jobs, tenants and backends become its numbers, and its decisions become placements.
//!
//! Which backends may run a job is known as long as its approved workflow is at hand ([`Services::suits`]). Of a job that is not decided yet (it waited through a restart, or stands far back in a long
//! queue) it is thought that any backend of its pool may run it: the attempt decides it, and hands it back with what was found.

use super::backend::Backend;
use super::queue::HeldJob;
use super::schedule::{BackendSet, Band, Expected, Millis, Request, Scheduler, Share, Tuning};
use crate::ids::{BackendId, JobId, TenantId};
use crate::record::ledger::Job;
use crate::services::Services;
use crate::tenants::Tenant;
use comfygate_policy::ApprovedWorkflow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Work of jobs that older gateways accepted: a picture of middling size.
const UNITS_UNKNOWN: f64 = 25.0;
/// The scheduler's clock at the start: jobs have waited since before that.
const EPOCH: Duration = Duration::from_secs(365 * 86_400);

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// What runs.
    pub job: JobId,
    /// Where.
    pub backend: BackendId,
    /// The backend has to load models for it.
    pub loads: bool,
}

/// What a backend may be given now, as the dispatcher counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Openings {
    /// It takes jobs at all.
    pub available: bool,
    /// Attempts of ours that it has.
    pub outstanding: u32,
    /// Jobs that it may be given.
    pub open: u32,
    /// Prompts that others put in its queue behind our back, as last seen.
    pub foreign: u32,
}

/// The scheduler with what it needs to be told.
#[derive(Debug)]
pub struct Fleet {
    scheduler: Scheduler,
    began: Instant,
    numbers: BTreeMap<BackendId, usize>,
    /// By number: backends that a reload removed keep theirs.
    ids: Vec<BackendId>,
    /// Which process of each backend its models are known of.
    incarnations: Vec<(u64, u64)>,
    /// What each has warmed up with, as last told to the scheduler.
    warm: Vec<Option<Arc<Vec<String>>>>,
}

impl Fleet {
    /// An empty one.
    pub fn new(tuning: Tuning, now: Instant) -> Self {
        let (numbers, ids, incarnations, warm) = Default::default();
        Self { scheduler: Scheduler::new(tuning), began: now, numbers, ids, incarnations, warm }
    }

    fn millis(&self, now: Instant) -> Millis {
        let since = now.saturating_duration_since(self.began) + EPOCH;
        Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
    }

    fn number(&mut self, backend: &BackendId) -> usize {
        if let Some(number) = self.numbers.get(backend) {
            return *number;
        }
        let number = self.scheduler.add_backend(0, 1.0);
        self.numbers.insert(backend.clone(), number);
        self.ids.push(backend.clone());
        self.incarnations.push((0, 0));
        self.warm.push(None);
        number
    }

    /// How every backend stands now. Those that are not named are gone.
    pub fn refresh(&mut self, services: &Services, openings: &HashMap<BackendId, Openings>) {
        let now = self.millis(services.clock.monotonic());
        let backends = services.backends();
        for backend in backends.values() {
            let number = self.number(&backend.id);
            let incarnation = backend.loading_epoch();
            if let Some(known) = self.incarnations.get_mut(number)
                && std::mem::replace(known, incarnation) != incarnation
            {
                self.scheduler.unloaded(number);
            }
            let warm = backend.warm_models();
            if let Some(known) = self.warm.get_mut(number)
                && let Some(models) = &warm
                && !known.as_ref().is_some_and(|known| Arc::ptr_eq(known, models))
            {
                self.scheduler.warmed(number, models.to_vec());
                *known = warm;
            }
            let openings = openings.get(&backend.id).copied().unwrap_or_default();
            let speed = services.estimates(|estimates| estimates.speed(backend.id.as_str()));
            let Some(seat) = self.scheduler.backend(number) else { continue };
            seat.away = !openings.available;
            seat.open = if openings.available { openings.open } else { 0 };
            // What others run there takes its part of the GPU; how long they will, nobody knows.
            seat.speed = speed / f64::from(openings.foreign.saturating_add(1));
            if openings.outstanding == 0 {
                seat.busy_until = seat.busy_until.min(now);
            }
        }
        let gone = self.numbers.iter().filter(|(id, _)| !backends.contains_key(*id)).map(|(_, number)| *number);
        for number in gone.collect::<Vec<_>>() {
            if let Some(seat) = self.scheduler.backend(number) {
                (seat.open, seat.away) = (0, true);
            }
        }
    }

    /// Takes a held job in.
    pub fn hold(&mut self, services: &Services, held: &HeldJob) {
        let request = self.request(services, &held.job, held.workflow.as_deref());
        self.scheduler.hold(request);
    }

    /// Takes in a job that runs since before a restart.
    pub fn resume(&mut self, services: &Services, job: &Job, backend: &BackendId) {
        let (request, number) = (self.request(services, job, None), self.number(backend));
        let now = self.millis(services.clock.monotonic());
        self.scheduler.resume(request, number, now);
    }

    fn request(&mut self, services: &Services, job: &Job, workflow: Option<&ApprovedWorkflow>) -> Request {
        let waited = services.clock.wall().since(job.accepted_at);
        let now = self.millis(services.clock.monotonic());
        let (model, units) = job.work.as_ref().map_or(("", UNITS_UNKNOWN), |work| (work.model.as_str(), work.units));
        let (seconds, load_seconds) =
            services.estimates(|estimates| (estimates.seconds(model, units), estimates.load_seconds(model)));
        let tenant = services.tenants().tenant(&job.owner.tenant);
        let band = tenant.as_ref().map_or(Band::Normal, |tenant| tenant.limits.priority);
        let share = tenant.map_or_else(Share::default, |tenant| share(services, &tenant));
        Request {
            job: job.id,
            tenant: job.owner.tenant.clone(),
            share,
            user: job.owner.user.clone(),
            band,
            place: ordered(job.shown_number()),
            placed: job.place.is_some(),
            sequence: job.sequence,
            seconds,
            models: job.work.as_ref().map(|work| work.models.clone()).unwrap_or_default(),
            load_seconds,
            eligible: self.eligible(services, job, workflow),
            since: now.saturating_sub(Millis::try_from(waited.as_millis()).unwrap_or(Millis::MAX)),
        }
    }

    /// The backends that may run a job, whether they are up or not; without the one where it was begun and lost last, while another is up.
    fn eligible(&mut self, services: &Services, job: &Job, workflow: Option<&ApprovedWorkflow>) -> BackendSet {
        let tenant = services.tenants().tenant(&job.owner.tenant);
        let serves = |backend: &Backend| {
            let in_pool = tenant.as_ref().is_none_or(|tenant| tenant.is_served_by(backend));
            // What is down is asked again when it comes back.
            in_pool && workflow.is_none_or(|workflow| services.suits(tenant.as_deref(), backend, workflow))
        };
        let backends = services.backends();
        // A GPU whose memory was too small for it is so again, and what killed a process kills its successor.
        let last = job.attempts.last().filter(|attempt| attempt.lost.is_some() && attempt.started_at.is_some());
        let lost_at = last.map(|attempt| &attempt.backend);
        let is_elsewhere = |backend: &Backend| lost_at.is_some_and(|lost_at| *lost_at != backend.id);
        let another_is_up =
            backends.values().any(|backend| is_elsewhere(backend) && backend.takes_jobs() && serves(backend));
        let may_run = |backend: &Backend| serves(backend) && (!another_is_up || is_elsewhere(backend));
        backends.values().filter(|backend| may_run(backend)).map(|backend| self.number(&backend.id)).collect()
    }

    /// Says anew which backends may run a job, after they or the rules have changed.
    pub fn look_again(&mut self, services: &Services, held: &HeldJob) {
        let eligible = self.eligible(services, &held.job, held.workflow.as_deref());
        self.scheduler.set_eligible(held.job.id, eligible);
    }

    /// Says anew what a tenant may take.
    pub fn set_share(&mut self, services: &Services, tenant: &TenantId) {
        // One that is not configured any more: its jobs are to be refused when their turn comes.
        let share = services.tenants().tenant(tenant).map_or_else(Share::default, |tenant| share(services, &tenant));
        self.scheduler.set_share(tenant, share);
    }

    /// How many held jobs go before one, about.
    pub fn position(&self, job: JobId) -> Option<usize> {
        self.scheduler.position(job)
    }

    /// A job is held no more, and does not run.
    pub fn withdraw(&mut self, job: JobId) {
        self.scheduler.withdraw(job);
    }

    /// An attempt is over; its tenant is charged `seconds` of a backend of speed 1.
    pub fn settle(&mut self, job: JobId, seconds: f64) {
        self.scheduler.settle(job, seconds);
    }

    /// The next placement, which is booked.
    pub fn next(&mut self, services: &Services) -> Option<Placement> {
        let now = self.millis(services.clock.monotonic());
        let assignment = self.scheduler.next(now)?;
        let backend = self.ids.get(assignment.backend)?.clone();
        Some(Placement { job: assignment.job, backend, loads: assignment.loads })
    }

    /// Whether something waits that may run later without anything else happening: jobs age, and patience ends.
    pub fn waits(&self) -> bool {
        !self.scheduler.is_empty()
    }

    /// What every held job may expect.
    pub fn outlook(&self, now: Instant) -> Vec<Expected> {
        self.scheduler.outlook(self.millis(now))
    }
}

/// What a tenant may take now: nothing while it is paused.
fn share(services: &Services, tenant: &Tenant) -> Share {
    let running_max = if services.tenant_paused(&tenant.id) { 0 } else { tenant.limits.running_jobs_max };
    Share { weight: tenant.limits.weight, running_max }
}

/// A whole number that stands in the order of the fraction that it is made of (IEEE 754 §5.10).
fn ordered(place: f64) -> i64 {
    let bits = place.to_bits().cast_signed();
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stand_in_the_order_of_their_numbers() {
        let numbers = [f64::MIN, -7.5, -7.0, -0.0, 0.0, 1e-9, 1.0, 1.5, 2.0, 1e300];
        let places: Vec<i64> = numbers.iter().map(|number| ordered(*number)).collect();
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
    }
}
