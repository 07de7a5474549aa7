//! The order of what waits: one flow for each tenant, set of backends and band, and who is next among them.

use super::interned::Key;
use super::shares::{Shares, TenantKey, UserKey, Virtual, of_weight};
use super::{Band, Millis};
use crate::ids::JobId;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A job's place among those of its user: its own place, then the order of acceptance.
pub type Order = (i64, u64, JobId);

/// When a flow is next: the highest band first, then who has taken least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    pub band: Band,
    pub taken: Virtual,
    pub tenant: TenantKey,
}

/// Where a job waits.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub tenant: TenantKey,
    pub user: UserKey,
    pub set: Key,
    pub band: Band,
    pub order: Order,
    pub models: Key,
    /// What it is thought to take, in microseconds.
    pub micros: u64,
    /// Somebody gave it its place: it goes before no other job of its user, and none before it.
    pub placed: bool,
}

/// A job as its flow knows it.
#[derive(Debug, Clone, Copy)]
struct Job {
    models: Key,
    micros: u64,
    placed: bool,
}

type FlowKey = (TenantKey, Key, Band);

/// Jobs of a user that may run before its first one for the sake of loaded models: those that stand so near to it.
const NEAR_JOBS: usize = 16;
/// Different models that are looked for among them.
const NEAR_MODELS: usize = 4;

/// The models of a user's first jobs, without repetitions; those of the very first one first.
type Near = [Option<Key>; NEAR_MODELS];

#[derive(Debug, Default)]
struct Flow {
    /// Users that wait, by what they have taken.
    users: BTreeSet<(Virtual, UserKey)>,
    /// Their jobs.
    jobs: HashMap<UserKey, BTreeMap<Order, Job>>,
    /// How many these are.
    count: u64,
    /// What they are thought to take together, in microseconds.
    micros: u64,
    /// How it stands in the indexes: its turn, and the models of its next jobs.
    stands: Option<(Turn, Near)>,
    /// When its next job rises by a band, unless one of it runs before.
    rises_at: Millis,
}

impl Flow {
    /// The first jobs of the user that is next: the very first, and those near to it that may go before it.
    fn near(&self) -> impl Iterator<Item = (JobId, Key)> + '_ {
        let jobs = self.users.first().and_then(|(_, user)| self.jobs.get(user)).into_iter().flatten();
        let mut free = true;
        let may_go = jobs.take(NEAR_JOBS).enumerate().take_while(move |(at, (_, job))| {
            let first = *at == 0;
            let goes = first || (free && !job.placed);
            free &= !job.placed;
            goes
        });
        may_go.map(|(_, ((_, _, id), job))| (*id, job.models))
    }

    fn near_models(&self) -> Option<Near> {
        let mut near = Near::default();
        for (_, models) in self.near() {
            match near.iter_mut().find(|known| known.is_none_or(|known| known == models)) {
                Some(place) => *place = Some(models),
                None => break,
            }
        }
        near.first()?.is_some().then_some(near)
    }

    /// What one of its jobs takes on the average, in microseconds.
    fn mean(&self) -> u64 {
        (self.micros / self.count.max(1)).max(1)
    }
}

/// Of `count` jobs that take `each`, the first at `first`: how many begin before `by`, or at it too if `ties`.
fn begun(first: Virtual, each: Virtual, count: u64, by: Virtual, ties: bool) -> u64 {
    let Some(gap) = by.checked_sub(first) else { return 0 };
    let each = each.max(1);
    let begun = if ties { gap / each + 1 } else { gap.div_ceil(each) };
    begun.min(count)
}

#[derive(Debug, Default)]
pub struct Flows {
    flows: HashMap<FlowKey, Flow>,
    of_tenant: HashMap<TenantKey, Vec<FlowKey>>,
    /// Flows that may go on, by set of backends.
    by_set: HashMap<Key, BTreeSet<Turn>>,
    /// The same, by the models of their next jobs too.
    by_models: HashMap<(Key, Key), BTreeSet<Turn>>,
    /// Flows below the highest band, by when they rise.
    rising: BTreeSet<(Millis, FlowKey)>,
}

impl Flows {
    /// Adds a job; if it is the first of its flow, that one rises at `rises_at`.
    pub fn add(&mut self, shares: &Shares, entry: &Entry, rises_at: Millis) {
        let key = (entry.tenant, entry.set, entry.band);
        let flow = self.flows.entry(key).or_insert_with(|| {
            self.of_tenant.entry(entry.tenant).or_default().push(key);
            if entry.band.higher().is_some() {
                self.rising.insert((rises_at, key));
            }
            Flow { rises_at, ..Flow::default() }
        });
        let job = Job { models: entry.models, micros: entry.micros, placed: entry.placed };
        if flow.jobs.entry(entry.user).or_default().insert(entry.order, job).is_none() {
            flow.count += 1;
            flow.micros = flow.micros.saturating_add(entry.micros);
        }
        flow.users.insert((shares.taken_by(entry.tenant, entry.user), entry.user));
        self.stand(shares, key);
    }

    pub fn remove(&mut self, shares: &Shares, entry: &Entry) {
        let key = (entry.tenant, entry.set, entry.band);
        let Some(flow) = self.flows.get_mut(&key) else { return };
        if let Some(jobs) = flow.jobs.get_mut(&entry.user) {
            if let Some(job) = jobs.remove(&entry.order) {
                flow.count = flow.count.saturating_sub(1);
                flow.micros = flow.micros.saturating_sub(job.micros);
            }
            if jobs.is_empty() {
                flow.jobs.remove(&entry.user);
                flow.users.remove(&(shares.taken_by(entry.tenant, entry.user), entry.user));
            }
        }
        self.stand(shares, key);
        if self.flows.get(&key).is_some_and(|flow| flow.jobs.is_empty())
            && let Some(flow) = self.flows.remove(&key)
        {
            self.rising.remove(&(flow.rises_at, key));
            if let Some(keys) = self.of_tenant.get_mut(&entry.tenant) {
                keys.retain(|known| *known != key);
                if keys.is_empty() {
                    self.of_tenant.remove(&entry.tenant);
                }
            }
        }
    }

    /// One of the flow's jobs was served: what is left of it rises at `rises_at` only.
    pub fn served(&mut self, entry: &Entry, rises_at: Millis) {
        let key = (entry.tenant, entry.set, entry.band);
        if let Some(flow) = self.flows.get_mut(&key)
            && self.rising.remove(&(flow.rises_at, key))
        {
            flow.rises_at = rises_at;
            self.rising.insert((rises_at, key));
        }
    }

    /// When the next job of the flow rises that this one waits in.
    pub fn rises_at(&self, entry: &Entry) -> Millis {
        self.flows.get(&(entry.tenant, entry.set, entry.band)).map_or(Millis::MAX, |flow| flow.rises_at)
    }

    /// How many of those that wait go before a job, about: of sets of backends that compete with its own.
    pub fn before(&self, shares: &Shares, entry: &Entry, competes: impl Fn(Key) -> bool) -> usize {
        let (own, micros) = self.before_within(shares, entry, &competes);
        let starts = shares.taken(entry.tenant).saturating_add(of_weight(micros, shares.weight(entry.tenant)));
        let others = self.flows.iter().filter(|((tenant, set, band), _)| {
            let same = (*tenant, *band) == (entry.tenant, entry.band);
            *band <= entry.band && !same && competes(*set) && !shares.is_paused(*tenant)
        });
        let before = others.map(|((tenant, _, band), flow)| {
            if *band < entry.band {
                return flow.count;
            }
            let each = of_weight(flow.mean(), shares.weight(*tenant));
            begun(shares.taken(*tenant), each, flow.count, starts, *tenant < entry.tenant)
        });
        usize::try_from(before.fold(own, u64::saturating_add)).unwrap_or(usize::MAX)
    }

    /// Jobs of the same tenant and band that go before a job, and what they take, in microseconds.
    fn before_within(&self, shares: &Shares, entry: &Entry, competes: &impl Fn(Key) -> bool) -> (u64, u64) {
        let keys = self.of_tenant.get(&entry.tenant).into_iter().flatten();
        let flows: Vec<&Flow> = keys
            .filter(|(_, set, band)| *band == entry.band && competes(*set))
            .filter_map(|key| self.flows.get(key))
            .collect();
        let of_user = flows.iter().filter_map(|flow| flow.jobs.get(&entry.user));
        let own = of_user.flat_map(|jobs| jobs.range(..entry.order));
        let (count, micros) =
            own.fold((0, 0_u64), |(count, sum), (_, job)| (count + 1, sum.saturating_add(job.micros)));
        let starts = shares.taken_by(entry.tenant, entry.user).saturating_add(micros);
        let others = flows.iter().flat_map(|flow| flow.users.iter().map(move |(taken, user)| (flow, *taken, *user)));
        let others = others.filter(|(_, _, user)| *user != entry.user).map(|(flow, taken, user)| {
            let held = flow.jobs.get(&user).map_or(0, |jobs| jobs.len() as u64);
            (begun(taken, flow.mean(), held, starts, user < entry.user), flow.mean())
        });
        others.fold((count, micros), |(count, sum), (more, each)| {
            (count + more, sum.saturating_add(more.saturating_mul(each)))
        })
    }

    /// The next job of a flow that is to rise by now.
    pub fn risen(&self, now: Millis) -> Option<JobId> {
        let (_, key) = self.rising.first().filter(|(at, _)| *at <= now)?;
        self.flows.get(key)?.near().next().map(|(job, _)| job)
    }

    /// A user's or tenant's account is about to change from `before`: calls `change`, and has what waits stand anew.
    pub fn moved(&mut self, shares: &mut Shares, tenant: TenantKey, user: UserKey, change: impl FnOnce(&mut Shares)) {
        let before = shares.taken_by(tenant, user);
        change(shares);
        let after = shares.taken_by(tenant, user);
        for key in self.of_tenant.get(&tenant).cloned().unwrap_or_default() {
            if let Some(flow) = self.flows.get_mut(&key)
                && flow.users.remove(&(before, user))
            {
                flow.users.insert((after, user));
            }
            self.stand(shares, key);
        }
    }

    /// Puts a flow where it stands now in the indexes.
    fn stand(&mut self, shares: &Shares, key: FlowKey) {
        let (tenant, set, band) = key;
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let near = flow.near_models().filter(|_| shares.is_open(tenant));
        let stands = near.map(|near| (Turn { band, taken: shares.taken(tenant), tenant }, near));
        let stood = std::mem::replace(&mut flow.stands, stands);
        if stood == stands {
            return;
        }
        if let Some((turn, near)) = stood {
            take_out(&mut self.by_set, set, &turn);
            near.iter().flatten().for_each(|models| take_out(&mut self.by_models, (set, *models), &turn));
        }
        if let Some((turn, near)) = stands {
            self.by_set.entry(set).or_default().insert(turn);
            for models in near.into_iter().flatten() {
                self.by_models.entry((set, models)).or_default().insert(turn);
            }
        }
    }

    /// Turns of several sets of backends, the next first.
    pub fn in_turn(&self, sets: &[Key]) -> InTurn<'_> {
        let iterators = sets.iter().filter_map(|set| Some((*set, self.by_set.get(set)?.iter())));
        InTurn { heads: iterators.map(|(set, mut turns)| (turns.next().copied(), set, turns)).collect() }
    }

    /// Those whose next jobs include one that needs just these models, the next first.
    pub fn in_turn_with(&self, set: Key, models: Key) -> impl Iterator<Item = &Turn> {
        self.by_models.get(&(set, models)).into_iter().flatten()
    }

    /// The first of a flow's next jobs that needs just these models.
    pub fn job_with(&self, set: Key, turn: &Turn, models: Key) -> Option<JobId> {
        let flow = self.flows.get(&(turn.tenant, set, turn.band))?;
        flow.near().find(|(_, needed)| *needed == models).map(|(job, _)| job)
    }

    /// What the jobs of a flow are thought to take together, in microseconds.
    pub fn work(&self, set: Key, turn: &Turn) -> u64 {
        self.flows.get(&(turn.tenant, set, turn.band)).map_or(0, |flow| flow.micros)
    }

    /// How many flows wait for just these models.
    pub fn waiting_for(&self, set: Key, models: Key) -> usize {
        self.by_models.get(&(set, models)).map_or(0, BTreeSet::len)
    }

    /// The next job of a flow.
    pub fn next_job(&self, set: Key, turn: &Turn) -> Option<JobId> {
        self.flows.get(&(turn.tenant, set, turn.band))?.near().next().map(|(job, _)| job)
    }
}

#[cfg(test)]
impl Flows {
    /// Asserts that every index says what the flows say.
    pub fn check(&self, shares: &Shares) {
        let (mut turns, mut with_models, mut rising) = (0, 0, 0);
        for (key, flow) in &self.flows {
            let (tenant, set, band) = *key;
            assert!(!flow.jobs.is_empty() && self.of_tenant[&tenant].contains(key));
            assert_eq!(flow.users.len(), flow.jobs.len());
            let jobs: Vec<&Job> = flow.jobs.values().flat_map(BTreeMap::values).collect();
            assert_eq!(flow.count, jobs.len() as u64);
            assert_eq!(flow.micros, jobs.iter().map(|job| job.micros).sum::<u64>());
            for (taken, user) in &flow.users {
                assert_eq!((*taken, flow.jobs[user].is_empty()), (shares.taken_by(tenant, *user), false));
            }
            let near = flow.near_models().filter(|_| shares.is_open(tenant));
            let turn = Turn { band, taken: shares.taken(tenant), tenant };
            assert_eq!(flow.stands, near.map(|near| (turn, near)));
            if let Some((turn, near)) = &flow.stands {
                let near: Vec<Key> = near.iter().flatten().copied().collect();
                assert!(self.by_set[&set].contains(turn));
                assert!(near.iter().all(|models| self.by_models[&(set, *models)].contains(turn)));
                (turns, with_models) = (turns + 1, with_models + near.len());
            }
            if band.higher().is_some() {
                assert!(self.rising.contains(&(flow.rises_at, *key)));
                rising += 1;
            }
        }
        assert_eq!(turns, self.by_set.values().map(BTreeSet::len).sum::<usize>());
        assert_eq!(with_models, self.by_models.values().map(BTreeSet::len).sum::<usize>());
        assert_eq!(rising, self.rising.len());
        assert_eq!(self.flows.len(), self.of_tenant.values().map(Vec::len).sum::<usize>());
    }
}

fn take_out<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<Turn>>, key: K, turn: &Turn) {
    if let Some(turns) = index.get_mut(&key) {
        turns.remove(turn);
        if turns.is_empty() {
            index.remove(&key);
        }
    }
}

/// Merges the orders of several sets.
pub struct InTurn<'a> {
    heads: Vec<(Option<Turn>, Key, std::collections::btree_set::Iter<'a, Turn>)>,
}

impl Iterator for InTurn<'_> {
    type Item = (Turn, Key);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, set, turns) =
            self.heads.iter_mut().filter(|(head, _, _)| head.is_some()).min_by_key(|(head, _, _)| *head)?;
        let turn = std::mem::replace(head, turns.next().copied())?;
        Some((turn, *set))
    }
}
