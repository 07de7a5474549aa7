//! Which held job runs where next: fair share first, then the right GPU. Pure: no clock, no I/O; the same code runs in the gateway and in the simulator.
//!
//! *Fair share* is start-time fair queueing over GPU seconds (Goyal, Vin, Cheng: Start-time Fair Queuing, 1996): what a tenant has taken grows by what its jobs take over its weight, and the tenant
//! that has taken least is next; within a tenant the same goes for its users, and a user's own jobs run in their order. It shares as deficit round robin does and needs no quantum: whoever was away is
//! next at once, not after a round. What a job takes is thought of when it is assigned and put right when it is over ([`Scheduler::settle`]). Who was away begins where the one stood that was due last
//! on the backends that its job may run on: time that nobody competed for is held against nobody.
//!
//! *Placement* keeps models where they are: a backend that would have to load others for the job that is due is left to a job whose models it has, as long as nobody waits for those others longer than
//! [`Tuning`] says; that may be a later job of the same user, if it stands near. Who has little waiting is not kept waiting so by who has much. And a job is left to a busy backend that has its models
//! and is free before another has loaded them.
//!
//! A decision takes the logarithm of what waits, times the few different sets of backends that jobs may run on: never a walk over the jobs.

mod flows;
mod interned;
mod outlook;
mod set;
mod shares;
#[cfg(test)]
mod tests;

pub use outlook::Expected;
pub use set::BackendSet;
pub use shares::Share;

use crate::ids::{JobId, TenantId, UserId};
use flows::{Entry, Flows, Turn};
use interned::{Interned, Key};
use shares::{Shares, TenantKey, UserKey, Virtual};
use std::collections::{BTreeMap, HashMap};

/// Milliseconds of a monotonic clock.
pub type Millis = u64;

/// The longest that a job is thought to take: a day.
const SECONDS_MAX: f64 = 86_400.0;
/// The shortest: what it takes to send one.
const SECONDS_MIN: f64 = 0.05;
/// No backend counts as slower: what is divided by speeds stays bounded.
const SPEED_MIN: f64 = 0.01;

/// Tenants that are looked at for one that may be preferred, for each set of models that free backends have.
const ALIKE_MAX: usize = 8;

/// How urgent jobs are, by their tenant's plan; the higher goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Band {
    /// Before all others.
    High,
    /// As most are.
    Normal,
    /// Whatever is left.
    Low,
}

impl Band {
    fn higher(self) -> Option<Self> {
        match self {
            Self::High => None,
            Self::Normal => Some(Self::High),
            Self::Low => Some(Self::Normal),
        }
    }
}

/// How far placement may stray from the fair order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuning {
    /// Seconds of service by which a tenant may be preferred to the one that is due, because its models are loaded.
    pub window_seconds: f64,
    /// Seconds of service that a tenant that was away has saved at most.
    pub credit_seconds: f64,
    /// How many times as long as loading them takes models may be waited for, by jobs that are due, while backends run others whose models are loaded.
    pub patience: f64,
    /// How long a tenant's jobs of a lower band are not served until the next of them rises by one, in milliseconds.
    pub ageing: Millis,
    /// Tenants whose next job is looked at for one decision.
    pub candidates_max: usize,
}

impl Default for Tuning {
    /// As the simulation (`tests/simulation`) found them: a wider window switches less and shares less evenly when jobs come in bursts, more credit switches more when there is little to do, less keeps
    /// who comes now and then waiting for longer.
    fn default() -> Self {
        Self { window_seconds: 180.0, credit_seconds: 60.0, patience: 12.0, ageing: 600_000, candidates_max: 32 }
    }
}

/// A job that waits for a backend.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which.
    pub job: JobId,
    /// Whose.
    pub tenant: TenantId,
    /// What that tenant may take.
    pub share: Share,
    /// Whose within the tenant.
    pub user: Option<UserId>,
    /// How urgent.
    pub band: Band,
    /// Its place among the user's own jobs: the smallest first, then by `sequence`.
    pub place: i64,
    /// Somebody gave it that place: no later job of the user goes before it for the sake of loaded models.
    pub placed: bool,
    /// Order of acceptance.
    pub sequence: u64,
    /// What it takes on a backend of speed 1, without loading models, in seconds.
    pub seconds: f64,
    /// The models that it needs loaded, in any order.
    pub models: Vec<String>,
    /// What loading them takes, in seconds.
    pub load_seconds: f64,
    /// The backends that may run it, by number.
    pub eligible: BackendSet,
    /// Since when it waits.
    pub since: Millis,
}

/// What the scheduler knows of a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Seat {
    /// Jobs that it may be given now.
    pub open: u32,
    /// When it is done with what it has, as far as that is known. In the past while it is busy still: the job is late.
    pub busy_until: Millis,
    /// It takes no job until further notice: it is down, drained or gone. Nobody waits for it.
    pub away: bool,
    /// Seconds of a job of speed 1 that it does in a second.
    pub speed: f64,
    models: Option<Key>,
    levels: Levels,
}

/// Where the tenant stood that was due when a backend, or another that the same jobs may run on, was given a job last: by band, since only those of one band compete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Levels([Virtual; 3]);

impl Levels {
    fn of(&self, band: Band) -> Virtual {
        let Self([high, normal, low]) = self;
        match band {
            Band::High => *high,
            Band::Normal => *normal,
            Band::Low => *low,
        }
    }

    fn reach(&mut self, band: Band, level: Virtual) {
        let Self([high, normal, low]) = self;
        let reached = match band {
            Band::High => high,
            Band::Normal => normal,
            Band::Low => low,
        };
        *reached = level.max(*reached);
    }

    fn highest(self) -> Virtual {
        self.0.into_iter().max().unwrap_or(0)
    }

    fn max(self, other: Self) -> Self {
        let (Self([a, b, c]), Self([x, y, z])) = (self, other);
        Self([a.max(x), b.max(y), c.max(z)])
    }
}

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// What runs.
    pub job: JobId,
    /// Where: the backend's number.
    pub backend: usize,
    /// The backend has to load models for it.
    pub loads: bool,
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    seconds: f64,
    load_seconds: f64,
}

#[derive(Debug)]
struct Running {
    tenant: TenantKey,
    user: UserKey,
    seconds: f64,
    models: Key,
    /// When it is thought to be over.
    until: Millis,
}

/// Where a job may go now.
enum Fit {
    /// To a backend that has its models.
    Has(usize),
    /// To one that is free and has none.
    Empty(usize),
    /// To one that gives up others for them.
    Instead(usize),
    /// A busy one has them, and is free sooner than another has loaded them.
    Soon(usize),
}

/// The held queue.
#[derive(Debug, Default)]
pub struct Scheduler {
    tuning: Tuning,
    shares: Shares,
    sets: Interned<BackendSet>,
    models: Interned<Vec<String>>,
    flows: Flows,
    held: HashMap<JobId, Held>,
    running: HashMap<JobId, Running>,
    /// Models that a job needs which was passed over although it was due: since when, unless a job with these models began since.
    wanted: HashMap<Key, Millis>,
    /// When a job of each band was assigned last.
    served_at: BTreeMap<Band, Millis>,
    seats: Vec<Seat>,
}

impl Scheduler {
    /// An empty queue.
    pub fn new(tuning: Tuning) -> Self {
        Self { tuning, ..Self::default() }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether a job waits here.
    pub fn contains(&self, job: JobId) -> bool {
        self.held.contains_key(&job)
    }

    /// Says what a tenant may take from now on.
    pub fn set_share(&mut self, tenant: &TenantId, share: Share) {
        let key = self.shares.tenant(tenant);
        // What a pause kept from it is not saved up either.
        let resumed = self.shares.is_paused(key) && share.running_max > 0;
        let floor = if resumed { self.floor_of_waiting(key) } else { None };
        self.flows.moved(&mut self.shares, key, 0, |shares| {
            shares.set_share(key, share);
            shares.raise(key, floor.unwrap_or(0));
        });
    }

    /// Another backend, which may be given `open` jobs now; gives its number.
    pub fn add_backend(&mut self, open: u32, speed: f64) -> usize {
        // The first tenants have as much credit as those that come later; a new backend begins where the others are.
        let credit = self.credit();
        let levels = self.seats.iter().fold(Levels([credit; 3]), |all, seat| all.max(seat.levels));
        self.seats.push(Seat { open, busy_until: 0, away: false, speed, models: None, levels });
        self.seats.len() - 1
    }

    /// A backend as it is known, to be put right: whether it takes jobs, and until when it is busy.
    pub fn backend(&mut self, number: usize) -> Option<&mut Seat> {
        self.seats.get_mut(number)
    }

    /// The backend has no models loaded any more: it was restarted.
    pub fn unloaded(&mut self, number: usize) {
        if let Some(models) = self.seats.get_mut(number).and_then(|seat| seat.models.take()) {
            self.give_back(models);
        }
    }

    /// The backend has these models loaded, in any order, and no others.
    pub fn warmed(&mut self, number: usize, mut models: Vec<String>) {
        self.unloaded(number);
        models.sort_unstable();
        models.dedup();
        if let Some(seat) = self.seats.get_mut(number).filter(|_| !models.is_empty()) {
            seat.models = Some(self.models.take(models));
        }
    }

    /// Takes a job in. One that is held or runs stays as it is.
    pub fn hold(&mut self, request: Request) {
        if self.held.contains_key(&request.job) || self.running.contains_key(&request.job) {
            return;
        }
        self.set_share(&request.tenant, request.share);
        let tenant = self.shares.tenant(&request.tenant);
        let user = self.shares.user(tenant, request.user.as_ref());
        let mut models = request.models;
        models.sort_unstable();
        models.dedup();
        let (seconds, load_seconds) = (bounded(request.seconds), bounded(request.load_seconds));
        let entry = Entry {
            tenant,
            user,
            set: self.sets.take(request.eligible.clone()),
            band: request.band,
            order: (request.place, request.sequence, request.job),
            models: self.models.take(models),
            micros: shares::service(seconds, 1),
            placed: request.placed,
        };
        let floor = self.floor(&request.eligible, request.band);
        // Jobs that no backend can run keep nobody's place.
        let served = |set: Key| self.sets.get(set).is_some_and(|set| self.is_served(set));
        let away = !self.flows.of(tenant).any(|(set, _)| served(set));
        self.flows.moved(&mut self.shares, tenant, user, |shares| {
            if away && !shares.runs(tenant) {
                shares.raise(tenant, floor);
            }
            shares.waits(tenant, user);
        });
        self.enter(Held { entry, seconds, load_seconds }, self.rises_at(request.since));
    }

    /// Takes a job in that a backend has already, since before the gateway was restarted. One that is held or runs stays as it is.
    pub fn resume(&mut self, request: Request, backend: usize, now: Millis) {
        let job = request.job;
        let known = self.held.contains_key(&job) || self.running.contains_key(&job);
        if !known {
            self.hold(request);
            self.assign(Assignment { job, backend, loads: true }, now);
        }
    }

    /// Takes a job out that shall not run.
    pub fn withdraw(&mut self, job: JobId) -> bool {
        let Some(held) = self.leave(job) else { return false };
        let Entry { tenant, user, set, models, .. } = held.entry;
        self.sets.give_back(set);
        self.give_back(models);
        self.shares.waits_no_more(tenant, user);
        self.shares.forget_if_even(tenant, self.even());
        true
    }

    /// Gives a job another place among those of its user.
    pub fn replace(&mut self, job: JobId, place: i64, now: Millis) {
        if let Some(mut held) = self.leave(job) {
            (held.entry.order.0, held.entry.placed) = (place, true);
            self.enter(held, self.rises_at(now));
        }
    }

    /// Says which backends may run a held job from now on. It keeps its place, and what it has waited for.
    pub fn set_eligible(&mut self, job: JobId, eligible: BackendSet) {
        let Some(entry) = self.held.get(&job).map(|held| held.entry) else { return };
        if self.sets.get(entry.set).is_some_and(|set| **set == eligible) {
            return;
        }
        let rises_at = self.flows.rises_at(&entry);
        let Some(mut held) = self.leave(job) else { return };
        held.entry.set = self.sets.take(eligible);
        self.sets.give_back(entry.set);
        self.enter(held, rises_at);
    }

    /// A job is over. `seconds`: what its tenant pays for, on a backend of speed 1; 0 for what is nobody's fault but ours.
    pub fn settle(&mut self, job: JobId, seconds: f64) {
        let Some(running) = self.running.remove(&job) else { return };
        let (tenant, user) = (running.tenant, running.user);
        // As with what was thought: however short it was, sending it took a moment.
        let seconds = if seconds > 0.0 { bounded(seconds) } else { 0.0 };
        self.flows.moved(&mut self.shares, tenant, user, |shares| shares.ends(tenant, user, running.seconds, seconds));
        self.give_back(running.models);
        self.shares.forget_if_even(tenant, self.even());
    }

    /// The next job that a backend should get now, which it is given; `None`: nothing that waits may run now, or should.
    pub fn next(&mut self, now: Millis) -> Option<Assignment> {
        self.rise(now);
        let free: BackendSet = self
            .seats
            .iter()
            .zip(0..)
            .filter(|(seat, _)| seat.open > 0 && !seat.away)
            .map(|(_, number)| number)
            .collect();
        if free.is_empty() {
            return None;
        }
        let sets: Vec<Key> = self.sets.iter().filter(|(_, set)| set.intersects(&free)).map(|(key, _)| key).collect();
        // Seconds that were left to each busy backend in this decision.
        let mut left = vec![0.0; self.seats.len()];
        let (mut decided, mut due) = (None, None);
        for (turn, set) in self.flows.in_turn(&sets).take(self.tuning.candidates_max) {
            let Some((job, held)) = self.flows.next_job(set, &turn).and_then(|job| Some((job, self.held.get(&job)?)))
            else {
                continue;
            };
            let fit = self.fit(held, &free, now, &left);
            if fit.is_some() {
                due.get_or_insert(turn);
            }
            match fit {
                Some(Fit::Soon(busy)) => {
                    if let Some(left) = left.get_mut(busy) {
                        *left += held.seconds;
                    }
                }
                Some(Fit::Has(backend)) => {
                    decided = Some((Assignment { job, backend, loads: false }, None));
                    break;
                }
                Some(Fit::Empty(backend)) => {
                    decided = Some((Assignment { job, backend, loads: true }, None));
                    break;
                }
                Some(Fit::Instead(backend)) => {
                    let other = self.preferred(held, &turn, &free, &sets, now);
                    decided = Some(match other {
                        Some(other) => (other, Some(job)),
                        None => (Assignment { job, backend, loads: true }, None),
                    });
                    break;
                }
                None => {}
            }
        }
        // What is due waits for busy backends: later jobs of the same users may suit those that are free.
        let near = || {
            let found = self.with_loaded(&free, &sets).filter_map(|(set, models, number)| {
                Some((*self.flows.in_turn_with(set, models).next()?, number, set, models))
            });
            let (turn, backend, set, models) = found.min()?;
            Some((Assignment { job: self.flows.job_with(set, &turn, models)?, backend, loads: false }, None))
        };
        let (assignment, passed) = decided.or_else(near)?;
        if let Some(held) = passed.and_then(|job| self.held.get(&job)) {
            self.wanted.entry(held.entry.models).or_insert(now);
        }
        if let Some(due) = due {
            self.reach(assignment.job, due);
        }
        self.assign(assignment, now);
        Some(assignment)
    }

    /// What a tenant that was away has saved at most.
    fn credit(&self) -> Virtual {
        shares::service(self.tuning.credit_seconds, 1)
    }

    /// What a tenant that was away has taken at least, for a job that may run on these backends.
    fn floor(&self, set: &BackendSet, band: Band) -> Virtual {
        // Where it competes with several, it begins where least was taken: elsewhere nobody of those waits for it.
        let there = |away: bool| {
            let seats = (0..).zip(&self.seats).filter(move |(number, seat)| set.contains(*number) && seat.away <= away);
            seats.map(|(_, seat)| seat.levels.of(band)).min()
        };
        let level = there(false).or_else(|| there(true)).unwrap_or_else(|| self.credit());
        level.saturating_sub(self.credit())
    }

    /// The same for what a tenant has waiting.
    fn floor_of_waiting(&self, tenant: TenantKey) -> Option<Virtual> {
        let flows = self.flows.of(tenant).filter_map(|(set, band)| Some((self.sets.get(set)?, band)));
        flows.map(|(set, band)| self.floor(set, band)).min()
    }

    /// Whether a backend of the set takes jobs.
    fn is_served(&self, set: &BackendSet) -> bool {
        (0..).zip(&self.seats).any(|(number, seat)| !seat.away && set.contains(number))
    }

    /// What a tenant has taken at most that is forgotten once it is away.
    fn even(&self) -> Virtual {
        let highest = self.seats.iter().map(|seat| seat.levels.highest()).max();
        highest.unwrap_or(0).saturating_sub(self.credit())
    }

    /// Notes who was due when the job was chosen, at all backends that compete for it.
    fn reach(&mut self, job: JobId, due: Turn) {
        let set = self.held.get(&job).and_then(|held| self.sets.get(held.entry.set));
        for (_, seat) in (0..).zip(&mut self.seats).filter(|(number, _)| set.is_some_and(|set| set.contains(*number))) {
            seat.levels.reach(due.band, due.taken);
        }
    }

    /// Where the job should go.
    fn fit(&self, held: &Held, free: &BackendSet, now: Millis, left: &[f64]) -> Option<Fit> {
        let set = self.sets.get(held.entry.set)?;
        let needs = self.models.get(held.entry.models)?;
        let has = |seat: &Seat| {
            needs.is_empty()
                || seat.models == Some(held.entry.models)
                || seat.models.and_then(|models| self.models.get(models)).is_some_and(|there| includes(there, needs))
        };
        let seats = || set.common(free).filter_map(|number| Some((number, self.seats.get(number)?)));
        let done = |seat: &Seat| remaining_seconds(seat, now) + held.seconds / seat.speed.max(SPEED_MIN);
        let soonest = |(_, a): &(usize, &Seat), (_, b): &(usize, &Seat)| done(a).total_cmp(&done(b));
        if needs.is_empty() {
            // Models are no matter: where they are missed least.
            return seats().min_by_key(|(_, seat)| self.missed(seat)).map(|(number, _)| Fit::Has(number));
        }
        if let Some((number, _)) = seats().filter(|(_, seat)| has(seat)).min_by(soonest) {
            return Some(Fit::Has(number));
        }
        let soon = |(number, seat): &(usize, &Seat)| {
            let busy = remaining_seconds(seat, now) + left.get(*number).copied().unwrap_or(0.0);
            seat.open == 0 && !seat.away && set.contains(*number) && has(seat) && busy <= held.load_seconds
        };
        let everywhere = || (0..).zip(&self.seats);
        if let Some((number, _)) = everywhere().find(soon) {
            return Some(Fit::Soon(number));
        }
        if let Some((number, _)) = seats().filter(|(_, seat)| seat.models.is_none()).min_by(soonest) {
            return Some(Fit::Empty(number));
        }
        let (number, _) = seats().min_by_key(|(_, seat)| self.missed(seat))?;
        Some(Fit::Instead(number))
    }

    /// How many tenants wait for what the backend has loaded, for each backend that has it.
    fn missed(&self, seat: &Seat) -> usize {
        let Some(models) = seat.models else { return 0 };
        let waiting: usize = self.sets.iter().map(|(set, _)| self.flows.waiting_for(set, models)).sum();
        let have = self.seats.iter().filter(|other| other.models == Some(models) && !other.away).count();
        // In hundredths, so that one among few is told from one among many.
        waiting.saturating_mul(100) / have.max(1)
    }

    /// Another job that a free backend has the models of, in place of the one that is due.
    fn preferred(&self, due: &Held, turn: &Turn, free: &BackendSet, sets: &[Key], now: Millis) -> Option<Assignment> {
        let waited = self.wanted.get(&due.entry.models).map_or(0, |since| now.saturating_sub(*since));
        if waited as f64 >= due.load_seconds * 1000.0 * self.tuning.patience {
            return None;
        }
        let window = shares::service(self.tuning.window_seconds, 1);
        let latest = turn.taken.saturating_add(window);
        // Who has little waiting is not kept waiting by who has much: a tenant with one job never stands behind another's five hundred.
        let little = self.flows.work(due.entry.set, turn) < shares::service(due.load_seconds, 1);
        let suits = |set: Key, other: &Turn| {
            let own = (other.tenant, set) == (turn.tenant, due.entry.set);
            own || !little || self.flows.work(set, other) <= window
        };
        let candidates = self.with_loaded(free, sets).filter_map(|(set, models, number)| {
            let others = self.flows.in_turn_with(set, models).take(ALIKE_MAX);
            let mut fair =
                others.take_while(|other| other.band < turn.band || (other.band == turn.band && other.taken <= latest));
            Some((*fair.find(|other| suits(set, other))?, number, set, models))
        });
        let (other, backend, set, models) = candidates.min()?;
        let job = self.flows.job_with(set, &other, models)?;
        Some(Assignment { job, backend, loads: false })
    }

    /// The models that free backends have loaded: with the set that the backend belongs to, and its number; of several with the same, one.
    fn with_loaded<'a>(
        &'a self,
        free: &'a BackendSet,
        sets: &'a [Key],
    ) -> impl Iterator<Item = (Key, Key, usize)> + 'a {
        sets.iter().filter_map(|key| Some((*key, self.sets.get(*key)?))).flat_map(move |(key, set)| {
            let mut seen = Vec::new();
            set.common(free).filter_map(move |number| {
                let models = self.seats.get(number)?.models?;
                let first = !seen.contains(&models);
                seen.push(models);
                first.then_some((key, models, number))
            })
        })
    }

    fn assign(&mut self, assignment: Assignment, now: Millis) {
        let Some(held) = self.leave(assignment.job) else { return };
        let Entry { tenant, user, set, models, .. } = held.entry;
        self.sets.give_back(set);
        self.wanted.remove(&models);
        self.flows.served(&held.entry, self.rises_at(now));
        self.served_at.insert(held.entry.band, now);
        self.flows.moved(&mut self.shares, tenant, user, |shares| {
            shares.begins(tenant, user, held.seconds);
            shares.waits_no_more(tenant, user);
        });
        let mut until = now;
        if let Some(seat) = self.seats.get_mut(assignment.backend) {
            let loading = if assignment.loads { held.load_seconds } else { 0.0 };
            let takes = (held.seconds / seat.speed.max(SPEED_MIN) + loading) * 1000.0;
            seat.open = seat.open.saturating_sub(1);
            seat.busy_until = seat.busy_until.max(now).saturating_add(takes as Millis);
            until = seat.busy_until;
            if assignment.loads {
                self.models.again(models);
                if let Some(before) = seat.models.replace(models) {
                    self.give_back(before);
                }
            }
        }
        self.running.insert(assignment.job, Running { tenant, user, seconds: held.seconds, models, until });
    }

    /// The next job of whoever was not served for long, while higher bands were, rises by one: one at a time, so that a crowd of old jobs does not push aside those of others.
    fn rise(&mut self, now: Millis) {
        while let Some(job) = self.flows.risen(now) {
            let Some(entry) = self.held.get(&job).map(|held| held.entry) else { return };
            self.flows.served(&entry, self.rises_at(now));
            let since = now.saturating_sub(self.tuning.ageing);
            let overtaken = self.served_at.iter().any(|(band, at)| *band < entry.band && *at > since);
            if overtaken && let Some(mut held) = self.leave(job) {
                held.entry.band = entry.band.higher().unwrap_or(Band::High);
                self.enter(held, self.rises_at(now));
            }
        }
    }

    /// When the next job of who was served now rises by a band.
    fn rises_at(&self, now: Millis) -> Millis {
        now.saturating_add(self.tuning.ageing)
    }

    /// Models are needed once less.
    fn give_back(&mut self, models: Key) {
        self.models.give_back(models);
        if self.models.get(models).is_none() {
            self.wanted.remove(&models);
        }
    }

    /// Whether these are no models at all.
    fn needs_nothing(&self, models: Key) -> bool {
        self.models.get(models).is_some_and(|models| models.is_empty())
    }

    fn enter(&mut self, held: Held, rises_at: Millis) {
        self.flows.add(&self.shares, &held.entry, rises_at);
        self.held.insert(held.entry.order.2, held);
    }

    fn leave(&mut self, job: JobId) -> Option<Held> {
        let held = self.held.remove(&job)?;
        self.flows.remove(&self.shares, &held.entry);
        Some(held)
    }
}

/// How long a backend is busy yet, in seconds. A job that is late is thought to take as much longer as it is late: lengths are heavy-tailed, and nobody waits for ever for what never ends.
fn remaining_seconds(seat: &Seat, now: Millis) -> f64 {
    let late = if seat.open == 0 { now.saturating_sub(seat.busy_until) } else { 0 };
    seat.busy_until.saturating_sub(now).max(late) as f64 / 1000.0
}

fn bounded(seconds: f64) -> f64 {
    // NaN too: what nobody knows takes as long as may be.
    if seconds.is_nan() { SECONDS_MAX } else { seconds.clamp(SECONDS_MIN, SECONDS_MAX) }
}

/// Whether all of `few` are among `many`; both in order.
fn includes(many: &[String], few: &[String]) -> bool {
    let mut many = many.iter();
    few.iter().all(|wanted| many.any(|there| there == wanted))
}
