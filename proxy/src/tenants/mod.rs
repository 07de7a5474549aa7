//! Who may use the gateway and how much: plans and tenants, read from `tenants.toml`, and tenants that tokens made ([`created`]).
//!
//! The registry is immutable: a reload builds a new one and swaps the `Arc`, so that one request sees one state of it. [`AllTenants`] looks up both kinds.

pub mod amend;
pub mod created;
pub mod policies;
mod read;

pub use created::made_id;
pub use read::read_tenants;

use crate::budget::Budget;
use crate::dispatch::backend::Backend;
use crate::dispatch::schedule::Band;
use crate::ids::{BackendTag, PoolId, TenantId};
use comfygate_policy::{Policy, Posture};
use created::{CreateError, CreatedTenants, WantedTenant};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often something may happen: `burst` at once, then `per_second` on average (GCRA).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Sustained, per second; [`Rate::PER_SECOND_MIN`] to [`Rate::PER_SECOND_MAX`], may be a fraction (0.1: six a minute).
    pub per_second: f64,
    /// At once after a pause; at least 1.
    pub burst: u32,
}

impl Rate {
    /// Once in about a quarter of an hour: whoever wants less disables the tenant.
    pub const PER_SECOND_MIN: f64 = 0.001;
    /// Beyond what one gateway serves; keeps the interval above a microsecond.
    pub const PER_SECOND_MAX: f64 = 100_000.0;
    /// Largest burst.
    pub const BURST_MAX: u32 = 1_000_000;
}

/// How long a submission over the rate waits for its turn before it is refused; zero: not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Of browsers with a session: the page posts a batch one by one and stops at the first error.
    pub pages: Duration,
    /// Of all others, which know what a 429 is.
    pub programs: Duration,
}

impl Pace {
    /// A caller that waits longer has given up, or a proxy before us has.
    pub const MAX: Duration = Duration::from_secs(30);
}

impl Default for Pace {
    fn default() -> Self {
        Self { pages: Duration::from_secs(5), programs: Duration::ZERO }
    }
}

/// How long what a tenant has is kept; by default for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Results since they came to be, uploads since their last use; `None`: they stay.
    pub files: Option<Duration>,
    /// Entries of jobs since their end; `None`: as [`Retention::files`].
    pub history: Option<Duration>,
    /// Bytes of all results together: beyond it the oldest go; `None`: no such bound.
    pub result_bytes_max: Option<u64>,
}

impl Retention {
    /// What is kept for ever is kept for less than that.
    pub const MAX: Duration = Duration::from_secs(3650 * 24 * 3600);

    /// Whether nothing ever goes.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

/// What a tenant may use. All counts are per tenant, over all its users and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// `POST /prompt`.
    pub prompt_rate: Rate,
    /// How long `POST /prompt` over its rate waits for its turn.
    pub pace: Pace,
    /// Every other answered request; static files of the page are outside (design §5).
    pub request_rate: Rate,
    /// Jobs held or running at once. Past it `/prompt` answers 429.
    pub active_jobs_max: u32,
    /// Jobs at backends at once. Past it the others wait, whatever is free.
    pub running_jobs_max: u32,
    /// How urgent its jobs are: those of a lower band run when no higher one waits, or when they have waited long.
    pub priority: Band,
    /// WebSockets open at once.
    pub websockets_max: u32,
    /// Bytes of its uploads together.
    pub storage_bytes_max: u64,
    /// Share of the GPUs when tenants compete, relative to the others' weights; 1 to 1000.
    pub weight: u32,
    /// GPU seconds that may be spent.
    pub budget: Budget,
    /// Whether a job with paid nodes is run again after an attempt was lost that may have made paid calls.
    pub retry_paid: bool,
    /// How long what it has is kept.
    pub retention: Retention,
    /// Whether a job whose nodes send something elsewhere is run again after an attempt was lost that may have sent it.
    pub retry_sent: bool,
}

impl Default for Limits {
    /// What a plan has that names nothing: enough for a busy person, little enough that one key can't fill the queue for hours.
    fn default() -> Self {
        Self {
            prompt_rate: Rate { per_second: 10.0, burst: 5 },
            pace: Pace::default(),
            request_rate: Rate { per_second: 50.0, burst: 200 },
            active_jobs_max: 100,
            running_jobs_max: u32::MAX,
            priority: Band::Normal,
            websockets_max: 50,
            storage_bytes_max: 10 << 30,
            weight: 1,
            budget: Budget::default(),
            retry_paid: false,
            retention: Retention::default(),
            retry_sent: false,
        }
    }
}

/// A customer, team or person with limits and a policy of its own.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Who.
    pub id: TenantId,
    /// For people.
    pub name: Option<String>,
    /// The plan that the limits came from.
    pub plan: String,
    /// A disabled tenant's credentials are refused as unknown ones are; its jobs and files stay.
    pub disabled: bool,
    /// What it may use: the plan's, with the tenant's own overrides.
    pub limits: Limits,
    /// What its workflows may do.
    pub policy: Arc<Policy>,
    /// The file of that policy; absent for one that ships.
    pub policy_file: Option<Arc<Path>>,
    /// Whose backends run them.
    pub pool: PoolId,
    /// What such a backend has to have, all of it.
    pub backend_tags: Arc<BTreeSet<BackendTag>>,
}

impl Tenant {
    /// Whether that backend may run its jobs: it is in its pool, and has every tag that is asked for.
    pub fn is_served_by(&self, backend: &Backend) -> bool {
        self.pool == backend.pool && self.backend_tags.is_subset(&backend.tags)
    }

    /// Whether it trusts its own installation: its packs' classes, routes and events are open to it.
    pub fn is_owner(&self) -> bool {
        self.policy.posture() == Posture::Owner
    }
}

/// What tenants on it have, unless they say otherwise.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What they may use.
    pub limits: Limits,
    /// What their workflows may do.
    pub policy: Arc<Policy>,
    /// The file of that policy; absent for one that ships.
    pub policy_file: Option<Arc<Path>>,
    /// Whose backends run them.
    pub pool: PoolId,
    /// What such a backend has to have, all of it.
    pub backend_tags: Arc<BTreeSet<BackendTag>>,
}

/// Every tenant of the file, by id and by the claim that JWTs name it with.
#[derive(Debug, Default)]
pub struct TenantRegistry {
    /// `None`: it is there and faulty; then the registry is not used.
    plans: BTreeMap<String, Option<Plan>>,
    by_id: BTreeMap<TenantId, Arc<Tenant>>,
    by_claim: HashMap<String, TenantId>,
    /// Tenants that have a claim of their own.
    claimed: HashSet<TenantId>,
}

impl TenantRegistry {
    /// A registry of these tenants; `claims` says which claim value means which tenant, where that is not the id itself.
    pub fn new(
        tenants: impl IntoIterator<Item = Tenant>,
        claims: impl IntoIterator<Item = (String, TenantId)>,
    ) -> Self {
        let by_id: BTreeMap<_, _> = tenants.into_iter().map(|tenant| (tenant.id.clone(), Arc::new(tenant))).collect();
        let by_claim: HashMap<_, _> = claims.into_iter().collect();
        let claimed = by_claim.values().cloned().collect();
        Self { plans: BTreeMap::new(), by_id, by_claim, claimed }
    }

    /// The same registry with the plans that its tenants are on, for tenants that are not in the file.
    #[must_use]
    pub fn with_plans(mut self, plans: impl IntoIterator<Item = (String, Option<Plan>)>) -> Self {
        self.plans = plans.into_iter().collect();
        self
    }

    /// The plan of that name.
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name)?.as_ref()
    }

    /// Whether tenants that tokens made may be on that plan. SECURITY: never in the owner posture, and never in the pool of an owner: packs there are code that trusts everybody in it.
    pub fn suits_made_tenants(&self, plan: &Plan) -> bool {
        plan.policy.posture() != Posture::Owner && self.owner_of(&plan.pool).is_none()
    }

    /// The plans that can be used, by name.
    pub fn plans(&self) -> impl Iterator<Item = (&str, &Plan)> {
        self.plans.iter().filter_map(|(name, plan)| Some((name.as_str(), plan.as_ref()?)))
    }

    /// The names of all plans, faulty ones too.
    pub fn plan_names(&self) -> impl Iterator<Item = &str> {
        self.plans.keys().map(String::as_str)
    }

    /// The tenant of that id, disabled ones too.
    pub fn tenant(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.by_id.get(id).cloned()
    }

    /// The tenant that a JWT's claim means: the one that names this value as its `claim`, else the one with this id and no `claim` of its own.
    pub fn tenant_of_claim(&self, value: &str) -> Option<Arc<Tenant>> {
        if let Some(id) = self.by_claim.get(value) {
            return self.tenant(id);
        }
        let tenant = self.tenant(&value.parse().ok()?)?;
        // SECURITY: a tenant with a claim of its own is not reached by its id too, or an issuer that lets people name their organisation would open it.
        (!self.claimed.contains(&tenant.id)).then_some(tenant)
    }

    /// The tenant that names this value as its `claim`, and none by its id.
    pub fn tenant_with_claim(&self, value: &str) -> Option<Arc<Tenant>> {
        self.tenant(self.by_claim.get(value)?)
    }

    /// All tenants, by id.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_id.values()
    }

    /// The tenant that trusts the installations of this pool, if one does: nobody else is in the pool then.
    pub fn owner_of(&self, pool: &PoolId) -> Option<&Arc<Tenant>> {
        self.by_id.values().find(|tenant| tenant.pool == *pool && tenant.is_owner())
    }

    /// The registry of the built-in defaults: one tenant `local` on plan `default`.
    #[expect(clippy::expect_used, reason = "the literal is a tenant id, as a test shows")]
    pub fn built_in() -> Self {
        let policy = Arc::new(Policy::builtin("default").expect("the default policy ships"));
        let (limits, pool) = (Limits::default(), PoolId::default_pool());
        let plan = Plan { limits, policy, policy_file: None, pool, backend_tags: Arc::default() };
        let local = Tenant {
            id: "local".parse().expect("`local` is a tenant id"),
            name: None,
            plan: "default".to_owned(),
            disabled: false,
            limits: plan.limits,
            policy: Arc::clone(&plan.policy),
            policy_file: None,
            pool: plan.pool.clone(),
            backend_tags: Arc::default(),
        };
        Self::new([local], []).with_plans([("default".to_owned(), Some(plan))])
    }
}

/// Every tenant: those of the file, and those that tokens made.
#[derive(Debug)]
pub struct AllTenants {
    registry: Arc<TenantRegistry>,
    /// `None`: no token makes one.
    created: Option<Arc<CreatedTenants>>,
    /// How many tokens may make.
    created_max: u32,
}

impl AllTenants {
    /// The tenants of a file with those that were made, of which there may be `created_max`.
    pub fn new(registry: Arc<TenantRegistry>, created: Arc<CreatedTenants>, created_max: u32) -> Self {
        Self { registry, created: Some(created), created_max }
    }

    /// The tenants of a file alone.
    pub fn of_the_file(registry: TenantRegistry) -> Self {
        Self { registry: Arc::new(registry), created: None, created_max: 0 }
    }

    /// The tenant of that id, disabled ones too. One that a token made has the limits and the policy of its plan; it is gone while its plan is.
    pub fn tenant(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.registry.tenant(id).or_else(|| self.made(id))
    }

    fn made(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        let row = self.created.as_ref()?.row(id)?;
        let plan = self.registry.plan(&row.plan)?;
        if !self.registry.suits_made_tenants(plan) {
            return None;
        }
        Some(Arc::new(Tenant {
            id: row.id,
            name: Some(row.claim),
            plan: row.plan,
            disabled: row.disabled_at.is_some(),
            limits: plan.limits,
            policy: Arc::clone(&plan.policy),
            policy_file: plan.policy_file.clone(),
            pool: plan.pool.clone(),
            backend_tags: Arc::clone(&plan.backend_tags),
        }))
    }

    /// The tenant of the file that a JWT's claim means ([`TenantRegistry::tenant_of_claim`]). Made ones are never found by their id here: another issuer could name it.
    pub fn tenant_of_claim(&self, value: &str) -> Option<Arc<Tenant>> {
        self.registry.tenant_of_claim(value)
    }

    /// The tenant of the file that names this value as its `claim`. SECURITY: for issuers whose tokens make tenants. They let strangers name organisations, and one named like the id of a
    /// configured tenant would be that tenant.
    pub fn tenant_with_claim(&self, value: &str) -> Option<Arc<Tenant>> {
        self.registry.tenant_with_claim(value)
    }

    /// Sees to it that the tenant of a good token is there.
    ///
    /// # Errors
    /// [`CreateError`].
    pub async fn ensure(&self, wanted: &WantedTenant) -> Result<(), CreateError> {
        match &self.created {
            Some(created) => created.ensure(wanted, self.created_max).await,
            None => Err(CreateError::Full { limit: 0 }),
        }
    }

    /// The tenant that trusts the installations of this pool, if one does: never one that a token made.
    pub fn owner_of(&self, pool: &PoolId) -> Option<&Arc<Tenant>> {
        self.registry.owner_of(pool)
    }

    /// The tenants of the file.
    pub fn registry(&self) -> &TenantRegistry {
        &self.registry
    }

    /// Those that tokens made.
    pub fn created(&self) -> Option<&Arc<CreatedTenants>> {
        self.created.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_registry_has_the_tenant_local_and_no_other() {
        let registry = TenantRegistry::built_in();
        assert_eq!(registry.tenants().count(), 1);
        assert_eq!(registry.tenant(&"local".parse().unwrap()).unwrap().plan, "default");
        assert!(registry.tenant(&"other".parse().unwrap()).is_none());
    }

    #[test]
    fn a_claim_means_its_tenant_and_the_id_means_it_only_without_a_claim() {
        let tenant = |id: &str| Tenant {
            id: id.parse().unwrap(),
            ..(*TenantRegistry::built_in().by_id.first_key_value().unwrap().1.clone()).clone()
        };
        let registry =
            TenantRegistry::new([tenant("acme"), tenant("beta")], [("org_AbC".to_owned(), "acme".parse().unwrap())]);
        assert_eq!(registry.tenant_of_claim("org_AbC").unwrap().id.as_str(), "acme");
        assert_eq!(registry.tenant_of_claim("beta").unwrap().id.as_str(), "beta");
        assert!(registry.tenant_of_claim("acme").is_none());
        assert!(registry.tenant_of_claim("org_abc").is_none());
        assert_eq!(registry.tenant_with_claim("org_AbC").unwrap().id.as_str(), "acme");
        assert!(registry.tenant_with_claim("beta").is_none());
    }
}
