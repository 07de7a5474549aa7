//! Who had how much: virtual times of tenants, and of the users within each.

use super::SECONDS_MAX;
use crate::ids::{TenantId, UserId};
use std::collections::HashMap;

/// Service taken, in microseconds for each unit of weight. The smallest is next.
pub type Virtual = u64;

/// A tenant's place.
pub type TenantKey = u32;
/// A user's place among its tenant's.
pub type UserKey = u32;

/// What a tenant may take, relative to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// 1 to 1000.
    pub weight: u32,
    /// Jobs that run at once, at most; 0: it is paused.
    pub running_max: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, running_max: u32::MAX }
    }
}

/// One that takes service.
#[derive(Debug, Default, Clone, Copy)]
struct Taker {
    taken: Virtual,
    held: u32,
    running: u32,
}

impl Taker {
    fn is_away(&self) -> bool {
        self.held == 0 && self.running == 0
    }

    fn waits(&mut self, floor: Virtual) {
        if self.is_away() {
            self.taken = self.taken.max(floor);
        }
        self.held += 1;
    }

    fn begins(&mut self, thought: Virtual) {
        self.taken = self.taken.saturating_add(thought);
        self.running += 1;
    }

    fn ends(&mut self, thought: Virtual, took: Virtual) {
        self.taken = self.taken.saturating_sub(thought).saturating_add(took);
        self.running = self.running.saturating_sub(1);
    }
}

#[derive(Debug)]
struct User {
    id: Option<UserId>,
    taker: Taker,
}

#[derive(Debug)]
struct Tenant {
    id: TenantId,
    taker: Taker,
    share: Share,
    keys: HashMap<Option<UserId>, UserKey>,
    users: HashMap<UserKey, User>,
    next: UserKey,
    /// Virtual time within the tenant: where the user stood that was served last.
    now: Virtual,
}

impl Tenant {
    /// Forgets a user that is away and has nothing to make up for.
    fn forget_if_even(&mut self, key: UserKey) {
        let even = |user: &User| user.taker.is_away() && user.taker.taken <= self.now;
        if self.users.get(&key).is_some_and(even)
            && let Some(user) = self.users.remove(&key)
        {
            self.keys.remove(&user.id);
        }
    }
}

/// All tenants that have jobs, or had some lately.
#[derive(Debug, Default)]
pub struct Shares {
    tenants: Vec<Option<Tenant>>,
    keys: HashMap<TenantId, TenantKey>,
    free: Vec<TenantKey>,
}

/// So many seconds of service to one of this weight.
pub fn service(seconds: f64, weight: u32) -> Virtual {
    // Non-negative and bounded: the conversion is exact enough and can't wrap.
    (seconds.clamp(0.0, SECONDS_MAX) * 1e6 / f64::from(weight.max(1))) as Virtual
}

/// The same, from microseconds.
pub fn of_weight(micros: u64, weight: u32) -> Virtual {
    micros / u64::from(weight.max(1))
}

impl Shares {
    /// The tenant's key.
    pub fn tenant(&mut self, id: &TenantId) -> TenantKey {
        if let Some(key) = self.keys.get(id) {
            return *key;
        }
        let tenant = Tenant {
            id: id.clone(),
            taker: Taker::default(),
            share: Share::default(),
            keys: HashMap::new(),
            users: HashMap::new(),
            next: 0,
            now: 0,
        };
        let key = match self.free.pop() {
            Some(key) => {
                if let Some(slot) = self.tenants.get_mut(key as usize) {
                    *slot = Some(tenant);
                }
                key
            }
            None => {
                self.tenants.push(Some(tenant));
                u32::try_from(self.tenants.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.keys.insert(id.clone(), key);
        key
    }

    /// The user's key within a tenant.
    pub fn user(&mut self, tenant: TenantKey, id: Option<&UserId>) -> UserKey {
        let Some(tenant) = self.get_mut(tenant) else { return 0 };
        let id = id.cloned();
        if let Some(key) = tenant.keys.get(&id) {
            return *key;
        }
        // Four thousand million jobs later a key may come again; its user is long gone.
        let key = tenant.next;
        tenant.next = tenant.next.wrapping_add(1);
        tenant.keys.insert(id.clone(), key);
        tenant.users.insert(key, User { id, taker: Taker { taken: tenant.now, ..Taker::default() } });
        key
    }

    fn get(&self, tenant: TenantKey) -> Option<&Tenant> {
        self.tenants.get(tenant as usize)?.as_ref()
    }

    fn get_mut(&mut self, tenant: TenantKey) -> Option<&mut Tenant> {
        self.tenants.get_mut(tenant as usize)?.as_mut()
    }

    pub fn set_share(&mut self, tenant: TenantKey, share: Share) {
        if let Some(tenant) = self.get_mut(tenant) {
            tenant.share = Share { weight: share.weight.clamp(1, 1000), ..share };
        }
    }

    /// What the tenant has taken.
    pub fn taken(&self, tenant: TenantKey) -> Virtual {
        self.get(tenant).map_or(Virtual::MAX, |tenant| tenant.taker.taken)
    }

    /// What the user has taken.
    pub fn taken_by(&self, tenant: TenantKey, user: UserKey) -> Virtual {
        self.get(tenant).and_then(|tenant| tenant.users.get(&user)).map_or(Virtual::MAX, |user| user.taker.taken)
    }

    /// What the tenant may take, relative to others.
    pub fn weight(&self, tenant: TenantKey) -> u32 {
        self.get(tenant).map_or(1, |tenant| tenant.share.weight)
    }

    /// Jobs of the tenant that run at once, at most.
    pub fn running_max(&self, tenant: TenantKey) -> u32 {
        self.get(tenant).map_or(0, |tenant| tenant.share.running_max)
    }

    /// Whether the tenant may run none at all.
    pub fn is_paused(&self, tenant: TenantKey) -> bool {
        self.running_max(tenant) == 0
    }

    /// Whether the tenant may run one more.
    pub fn is_open(&self, tenant: TenantKey) -> bool {
        self.get(tenant).is_some_and(|tenant| tenant.taker.running < tenant.share.running_max)
    }

    /// One more job waits. Whoever was away has taken no less than `floor`: what was not used is not saved up.
    pub fn waits(&mut self, tenant: TenantKey, user: UserKey, floor: Virtual) {
        let Some(tenant) = self.get_mut(tenant) else { return };
        tenant.taker.waits(floor);
        if let Some(user) = tenant.users.get_mut(&user) {
            user.taker.waits(tenant.now);
        }
    }

    /// One fewer waits.
    pub fn waits_no_more(&mut self, tenant: TenantKey, user: UserKey) {
        let Some(tenant) = self.get_mut(tenant) else { return };
        tenant.taker.held = tenant.taker.held.saturating_sub(1);
        if let Some(user) = tenant.users.get_mut(&user) {
            user.taker.held = user.taker.held.saturating_sub(1);
        }
        tenant.forget_if_even(user);
    }

    /// A job begins that is thought to take so long.
    pub fn begins(&mut self, tenant: TenantKey, user: UserKey, seconds: f64) {
        let Some(tenant) = self.get_mut(tenant) else { return };
        tenant.taker.begins(service(seconds, tenant.share.weight));
        if let Some(user) = tenant.users.get_mut(&user) {
            tenant.now = tenant.now.max(user.taker.taken);
            user.taker.begins(service(seconds, 1));
        }
    }

    /// It is over and took so long: puts right what was thought.
    pub fn ends(&mut self, tenant: TenantKey, user: UserKey, thought: f64, took: f64) {
        let Some(tenant) = self.get_mut(tenant) else { return };
        let weight = tenant.share.weight;
        tenant.taker.ends(service(thought, weight), service(took, weight));
        if let Some(user) = tenant.users.get_mut(&user) {
            user.taker.ends(service(thought, 1), service(took, 1));
        }
        tenant.forget_if_even(user);
    }

    /// Forgets a tenant that is away and has taken no more than `floor`: it would stand where a new one does.
    pub fn forget_if_even(&mut self, key: TenantKey, floor: Virtual) {
        let even = |tenant: &Tenant| tenant.taker.is_away() && tenant.taker.taken <= floor;
        let Some(slot) = self.tenants.get_mut(key as usize) else { return };
        if let Some(tenant) = slot.take_if(|tenant| even(tenant)) {
            self.keys.remove(&tenant.id);
            self.free.push(key);
        }
    }
}
