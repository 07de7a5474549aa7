//! What those who wait may expect: how many stand before a job, and when it starts.
//!
//! Both follow the order of fair share and the times that jobs are thought to take. What comes later, what takes another time than was thought, and what placement prefers for the sake of loaded models
//! moves them; so they are told as estimates.

use super::flows::{Entry, Order};
use super::interned::Key;
use super::shares::{TenantKey, UserKey, Virtual, of_weight};
use super::{Band, Millis, Scheduler, Seat, remaining_seconds};
use crate::ids::JobId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Different sets of backends up to which it is told apart who competes with whom; beyond, all do. Pools and models make a few dozen at most.
const SETS_TOLD_APART: usize = 128;

/// What a held job may expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Which job.
    pub job: JobId,
    /// Held jobs that go before it and may run on one of its backends.
    pub position: usize,
    /// Milliseconds from now until it is sent to a backend; `None`: no backend may run it as things stand, or its tenant is paused.
    pub starts_in: Option<Millis>,
}

impl Scheduler {
    /// Held jobs that go before this one and may run on one of its backends, about: jobs of other users and tenants count as long as theirs are on the average. Takes microseconds for each thousand
    /// tenants that wait and for each thousand jobs of the same user; [`Scheduler::outlook`] tells all at once, one by one.
    pub fn position(&self, job: JobId) -> Option<usize> {
        let entry = &self.held.get(&job)?.entry;
        let set = self.sets.get(entry.set)?;
        let competes =
            |other: Key| other == entry.set || self.sets.get(other).is_some_and(|other| other.intersects(set));
        Some(self.flows.before(&self.shares, entry, competes))
    }

    /// What every held job may expect, in the order in which they go. A walk over all of them: for a picture that is made every second or so.
    pub fn outlook(&self, now: Millis) -> Vec<Expected> {
        let mut waiting: Vec<Waiting> = self.held.values().map(|held| Waiting::of(&held.entry, held)).collect();
        waiting.sort_unstable_by_key(|job| (job.band, job.tenant, job.user, job.order));
        let (paused, waiting): (Vec<Waiting>, Vec<Waiting>) =
            waiting.into_iter().partition(|job| self.shares.is_paused(job.tenant));
        let mut line = Line::new(self, now);
        let mut accounts = Accounts::default();
        for band in waiting.chunk_by(|a, b| a.band == b.band) {
            in_fair_order(self, band, &mut accounts, |job| line.serve(job));
        }
        paused.iter().for_each(|job| line.keep(job));
        line.expected
    }
}

/// A held job, as the walk wants it.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    band: Band,
    tenant: TenantKey,
    user: UserKey,
    order: Order,
    set: Key,
    models: Key,
    micros: u64,
    seconds: f64,
    load_seconds: f64,
}

impl Waiting {
    fn of(entry: &Entry, held: &super::Held) -> Self {
        let Entry { tenant, user, set, band, order, models, micros, .. } = *entry;
        let (seconds, load_seconds) = (held.seconds, held.load_seconds);
        Self { band, tenant, user, order, set, models, micros, seconds, load_seconds }
    }
}

/// What tenants and users will have taken once the higher bands are through.
#[derive(Default)]
struct Accounts {
    tenants: HashMap<TenantKey, Virtual>,
    users: HashMap<(TenantKey, UserKey), Virtual>,
}

/// A tenant's jobs of one band, by user; each user with what it has taken.
struct TenantLine<'a> {
    tenant: TenantKey,
    weight: u32,
    users: BinaryHeap<Reverse<(Virtual, UserKey, usize)>>,
    jobs: Vec<&'a [Waiting]>,
}

impl<'a> TenantLine<'a> {
    fn new(scheduler: &Scheduler, tenant: TenantKey, jobs: &'a [Waiting], accounts: &Accounts) -> Self {
        let jobs: Vec<&[Waiting]> = jobs.chunk_by(|a, b| a.user == b.user).collect();
        let users = jobs.iter().enumerate().filter_map(|(at, jobs)| {
            let user = jobs.first()?.user;
            let taken = accounts.users.get(&(tenant, user)).copied();
            Some(Reverse((taken.unwrap_or_else(|| scheduler.shares.taken_by(tenant, user)), user, at)))
        });
        Self { tenant, weight: scheduler.shares.weight(tenant), users: users.collect(), jobs }
    }

    /// The next of its jobs.
    fn next(&mut self, accounts: &mut Accounts) -> Option<&'a Waiting> {
        let Reverse((taken, user, at)) = self.users.pop()?;
        let (job, rest) = self.jobs.get(at)?.split_first()?;
        let taken = taken.saturating_add(job.micros);
        if rest.is_empty() {
            accounts.users.insert((self.tenant, user), taken);
        } else {
            self.users.push(Reverse((taken, user, at)));
        }
        *self.jobs.get_mut(at)? = rest;
        Some(job)
    }
}

/// Calls `serve` with each job of one band, in the order of fair share.
fn in_fair_order(scheduler: &Scheduler, band: &[Waiting], accounts: &mut Accounts, mut serve: impl FnMut(&Waiting)) {
    let mut lines = Vec::new();
    let mut turns = BinaryHeap::new();
    for jobs in band.chunk_by(|a, b| a.tenant == b.tenant) {
        let Some(tenant) = jobs.first().map(|job| job.tenant) else { continue };
        let taken = accounts.tenants.get(&tenant).copied().unwrap_or_else(|| scheduler.shares.taken(tenant));
        turns.push(Reverse((taken, tenant, lines.len())));
        lines.push(TenantLine::new(scheduler, tenant, jobs, accounts));
    }
    while let Some(Reverse((taken, tenant, at))) = turns.pop() {
        let Some(line) = lines.get_mut(at) else { continue };
        match line.next(accounts) {
            Some(job) => {
                turns.push(Reverse((taken.saturating_add(of_weight(job.micros, line.weight)), tenant, at)));
                serve(job);
            }
            None => {
                accounts.tenants.insert(tenant, taken);
            }
        }
    }
}

/// A backend in the time to come.
struct Later {
    /// Milliseconds from now.
    free_in: f64,
    /// Milliseconds for a second of work.
    pace: f64,
    models: Option<Key>,
}

/// The jobs of a tenant that runs so many at once at most: when each is over, in milliseconds from now.
struct Capped {
    most: usize,
    ends: BinaryHeap<Reverse<Millis>>,
}

/// What becomes of the backends while one job after the other is given to them.
struct Line<'a> {
    scheduler: &'a Scheduler,
    seats: Vec<Later>,
    /// By set: the backends of it that take jobs.
    usable: HashMap<Key, Vec<usize>>,
    /// By set: those that have a backend in common with it.
    competing: HashMap<Key, Vec<Key>>,
    /// By set: jobs that went already.
    gone: HashMap<Key, usize>,
    capped: HashMap<TenantKey, Capped>,
    expected: Vec<Expected>,
}

impl<'a> Line<'a> {
    fn new(scheduler: &'a Scheduler, now: Millis) -> Self {
        let later = |seat: &Seat| Later {
            free_in: remaining_seconds(seat, now) * 1000.0,
            pace: 1000.0 / seat.speed.max(super::SPEED_MIN),
            models: seat.models,
        };
        let usable = scheduler.sets.iter().map(|(key, set)| {
            let there = (0..).zip(&scheduler.seats).filter(|(number, seat)| !seat.away && set.contains(*number));
            (key, there.map(|(number, _)| number).collect())
        });
        let sets: Vec<_> = scheduler.sets.iter().collect();
        let apart = sets.len() <= SETS_TOLD_APART;
        let competing = sets.iter().filter(|_| apart).map(|(key, set)| {
            let others = sets.iter().filter(|(other, others)| other == key || others.intersects(set));
            (*key, others.map(|(other, _)| *other).collect())
        });
        let mut line = Self {
            scheduler,
            seats: scheduler.seats.iter().map(later).collect(),
            usable: usable.collect(),
            competing: competing.collect(),
            gone: HashMap::new(),
            capped: HashMap::new(),
            expected: Vec::with_capacity(scheduler.held.len()),
        };
        line.cap(now);
        line
    }

    /// Notes what runs of tenants that may not fill every backend.
    fn cap(&mut self, now: Millis) {
        for running in self.scheduler.running.values() {
            if let Some(capped) = Self::capped(self.scheduler, &mut self.capped, running.tenant) {
                capped.ends.push(Reverse(running.until.saturating_sub(now)));
            }
        }
    }

    fn capped<'b>(
        scheduler: &Scheduler,
        capped: &'b mut HashMap<TenantKey, Capped>,
        tenant: TenantKey,
    ) -> Option<&'b mut Capped> {
        let most = scheduler.shares.running_max(tenant) as usize;
        (most < scheduler.seats.len())
            .then(|| capped.entry(tenant).or_insert_with(|| Capped { most, ends: BinaryHeap::new() }))
    }

    /// Gives the job to the backend that is done with it first.
    fn serve(&mut self, job: &Waiting) {
        let seats = &self.seats;
        let needs = (!self.scheduler.needs_nothing(job.models)).then_some(job.models);
        let done = |number: &usize| {
            let seat = seats.get(*number)?;
            // The same models only, not some of those that are there: texts are not compared ten thousand times.
            let loading = if needs.is_none() || needs == seat.models { 0.0 } else { job.load_seconds * 1000.0 };
            Some((seat.free_in + job.seconds * seat.pace + loading, *number))
        };
        let numbers = self.usable.get(&job.set).into_iter().flatten();
        let best = numbers.filter_map(done).min_by(|(a, _), (b, _)| a.total_cmp(b));
        let seat = best.and_then(|(done, number)| Some((done, self.seats.get_mut(number)?)));
        let starts_in = seat.map(|(done, seat)| {
            let mut starts = seat.free_in as Millis;
            if let Some(capped) = Self::capped(self.scheduler, &mut self.capped, job.tenant) {
                while capped.ends.len() >= capped.most.max(1) {
                    starts = starts.max(capped.ends.pop().map_or(0, |Reverse(end)| end));
                }
                // What the backend does until then is somebody else's: it is not idle.
                capped.ends.push(Reverse(starts.saturating_add((done - seat.free_in) as Millis)));
            }
            seat.free_in = done;
            seat.models = needs.or(seat.models);
            starts
        });
        self.tell(job, starts_in);
    }

    /// The job stays where it is.
    fn keep(&mut self, job: &Waiting) {
        self.tell(job, None);
    }

    fn tell(&mut self, job: &Waiting, starts_in: Option<Millis>) {
        let gone = |set: &Key| self.gone.get(set).copied().unwrap_or(0);
        let position = self.competing.get(&job.set).map_or(self.expected.len(), |sets| sets.iter().map(gone).sum());
        self.expected.push(Expected { job: job.order.2, position, starts_in });
        *self.gone.entry(job.set).or_default() += 1;
    }
}
