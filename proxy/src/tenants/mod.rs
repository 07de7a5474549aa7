//! Who may use the gateway and how much: plans and tenants, read from `tenants.toml`.
//!
//! The registry is immutable: a reload builds a new one and swaps the `Arc`, so that one request sees one state of it. There is one form, the
//! file; a trait comes with the second.

pub mod policies;
mod read;

pub use read::read_tenants;

use crate::ids::{PoolId, TenantId};
use comfygate_policy::{Policy, Posture};
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// WebSockets open at once.
    pub websockets_max: u32,
    /// Bytes of its uploads together.
    pub storage_bytes_max: u64,
    /// Share of the GPUs when tenants compete, relative to the others' weights; 1 to 1000.
    pub weight: u32,
}

impl Default for Limits {
    /// What a plan has that names nothing: enough for a busy person, little enough that one key can't fill the queue for hours.
    fn default() -> Self {
        Self {
            prompt_rate: Rate { per_second: 10.0, burst: 5 },
            pace: Pace::default(),
            request_rate: Rate { per_second: 50.0, burst: 200 },
            active_jobs_max: 100,
            websockets_max: 50,
            storage_bytes_max: 10 << 30,
            weight: 1,
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
    /// Whose backends run them.
    pub pool: PoolId,
}

impl Tenant {
    /// Whether it trusts its own installation: its packs' classes, routes and events are open to it.
    pub fn is_owner(&self) -> bool {
        self.policy.posture() == Posture::Owner
    }
}

/// Every tenant, by id and by the claim that JWTs name it with.
#[derive(Debug, Default)]
pub struct TenantRegistry {
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
        Self { by_id, by_claim, claimed }
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
        let local = Tenant {
            id: "local".parse().expect("`local` is a tenant id"),
            name: None,
            plan: "default".to_owned(),
            disabled: false,
            limits: Limits::default(),
            policy: Arc::new(Policy::builtin("default").expect("the default policy ships")),
            pool: PoolId::default_pool(),
        };
        Self::new([local], [])
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
    }
}
