//! Who may use the gateway and how much: plans and tenants, read from `tenants.toml`, tenants that the control API made ([`managed`]), and those that tokens made ([`created`]).
//!
//! The registry is immutable: a reload builds a new one and swaps the `Arc`, so that one request sees one state of it. [`AllTenants`] looks up all three kinds.

pub mod access;
pub mod amend;
pub mod created;
pub mod in_force;
pub mod managed;
pub mod origins;
pub mod policies;
mod read;
pub mod stays;
pub mod written;

pub use created::made_id;
pub use read::read_tenants;

use self::access::TenantAccess;
use crate::budget::Budget;
use crate::clock::WallMillis;
use crate::config::BackendConfig;
use crate::config::faults::{Fault, Place};
use crate::config::reader::nearest;
use crate::dispatch::backend::Backend;
use crate::dispatch::schedule::Band;
use crate::ids::{BackendTag, PoolId, TenantId};
use crate::record::ledger::managed::ManagedTenant;
use crate::record::ledger::tenants::CreatedTenant;
use crate::record::ledger::{Ledger, LedgerError};
use comfygate_policy::{Policy, Posture};
use created::{CreateError, CreatedTenants, WantedTenant, is_made_id};
use managed::ManagedTenants;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
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
    /// Who of it gets in from where, and sees what.
    pub access: TenantAccess,
    /// The keys of its plan that it sets itself.
    pub overrides: Arc<[&'static str]>,
    /// Pages of other sites that may work with its keys and tickets.
    pub cors_origins: Arc<BTreeSet<String>>,
}

impl Tenant {
    /// Whether that backend may run its jobs: it is in its pool, and has every tag that is asked for.
    pub fn is_served_by(&self, backend: &Backend) -> bool {
        self.pool == backend.pool && self.backend_tags.is_subset(&backend.tags)
    }

    /// Whether pages of this origin may work with its keys and tickets.
    pub fn lists_origin(&self, origin: &str) -> bool {
        self.cors_origins.contains(origin)
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
    /// Who of them gets in from where, and sees what.
    pub access: TenantAccess,
    /// Pages of other sites that may work with its tenants' keys and tickets.
    pub cors_origins: Arc<BTreeSet<String>>,
}

impl Plan {
    /// A tenant on this plan that sets nothing itself.
    pub fn tenant(&self, id: TenantId, name: Option<String>, plan: String, disabled: bool) -> Tenant {
        Tenant {
            id,
            name,
            plan,
            disabled,
            limits: self.limits,
            policy: Arc::clone(&self.policy),
            policy_file: self.policy_file.clone(),
            pool: self.pool.clone(),
            backend_tags: Arc::clone(&self.backend_tags),
            access: self.access.clone(),
            overrides: Arc::default(),
            cors_origins: Arc::clone(&self.cors_origins),
        }
    }
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
    /// What tenants are read with that are not in the file.
    reading: read::Reading,
    /// Origins in any tenant's or plan's list.
    origins: HashSet<String>,
    /// Ids that `gateway.toml` lets somebody in as, and where.
    named: BTreeMap<TenantId, Vec<Place>>,
    /// Pool and tags of each backend of the configuration; `None`: nobody has said.
    backends: Option<Vec<(PoolId, BTreeSet<BackendTag>)>>,
}

/// Why no backend of a configuration runs a tenant's jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unserved {
    /// The key that asks for what none has: `pool` or `backend_tags`.
    pub key: &'static str,
    /// What is said of the tenant.
    pub what: String,
    /// What to do.
    pub hint: &'static str,
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
        let open = by_id.values().filter(|tenant: &&Arc<Tenant>| !tenant.disabled);
        let origins = open.flat_map(|tenant| tenant.cors_origins.iter().cloned()).collect();
        Self { by_id, by_claim, claimed, origins, ..Self::default() }
    }

    /// The same registry with the plans that its tenants are on, for tenants that are not in the file.
    #[must_use]
    pub fn with_plans(mut self, plans: impl IntoIterator<Item = (String, Option<Plan>)>) -> Self {
        self.plans = plans.into_iter().collect();
        // Tenants that are not in the file have their plan's.
        self.origins.extend(self.plans.values().flatten().flat_map(|plan| plan.cors_origins.iter().cloned()));
        self
    }

    /// The same registry with the ids that `gateway.toml` lets somebody in as, whether or not there is such a tenant: in a `[[client_certificate]]`, and as the one `tenant` of an `[[oidc]]`.
    #[must_use]
    pub fn naming(mut self, named: impl IntoIterator<Item = (TenantId, Place)>) -> Self {
        for (id, at) in named {
            self.named.entry(id).or_default().push(at);
        }
        self
    }

    /// Whether `gateway.toml` lets somebody in as that tenant, by a certificate or from a provider, whoever the tenant is.
    pub fn is_named(&self, id: &TenantId) -> bool {
        self.named.contains_key(id)
    }

    /// A warning for each place of `gateway.toml` that names a tenant which is not there. It is no fault: the control API may make the tenant later.
    pub fn named_in_vain(&self, is_there: impl Fn(&TenantId) -> bool) -> Vec<Fault> {
        let ids: Vec<&str> = self.by_id.keys().map(TenantId::as_str).collect();
        let absent = self.named.iter().filter(|(id, _)| !is_there(id));
        let warning = |id: &TenantId, at: &Place| {
            let meant = nearest(id.as_str(), &ids).map_or_else(String::new, |near| format!("did you mean `{near}`? "));
            let makes = if is_made_id(id) {
                "a token of its issuer".to_owned()
            } else {
                format!("`comfygate tenant create {id}` or `PUT /v1/tenants/{id}`")
            };
            Fault {
                place: at.clone(),
                what: format!("there is no tenant `{id}`"),
                hint: format!("{meant}nobody is let in by this until {makes} has made it"),
            }
        };
        absent.flat_map(|(id, places)| places.iter().map(move |at| warning(id, at))).collect()
    }

    /// The same registry with what the backends beside it serve.
    #[must_use]
    pub fn with_backends(mut self, backends: &[BackendConfig]) -> Self {
        let served = backends.iter().map(|backend| (backend.pool.clone(), backend.tags.clone()));
        self.backends = Some(served.collect());
        self
    }

    /// Why no backend runs the jobs of whoever is in this pool and asks for these tags. `None`: one does.
    pub fn unserved(&self, pool: &PoolId, tags: &BTreeSet<BackendTag>) -> Option<Unserved> {
        let of_pool = || self.backends.iter().flatten().filter(|(other, _)| other == pool);
        if self.backends.is_none() || of_pool().any(|(_, has)| tags.is_subset(has)) {
            return None;
        }
        if of_pool().next().is_none() {
            return Some(Unserved {
                key: "pool",
                what: format!("is in the pool `{pool}`, which has no backend"),
                hint: "say `pool` in [[backends]], or another one in the tenant or its plan",
            });
        }
        let tags: Vec<String> = tags.iter().map(|tag| format!("`{tag}`")).collect();
        let tags = tags.join(", ");
        Some(Unserved {
            key: "backend_tags",
            what: format!("asks for backends with all of the tags {tags}, and none of its pool `{pool}` has them"),
            hint: "say `tags` in [[backends]], or less in `backend_tags` of the tenant or its plan",
        })
    }

    /// Whether any tenant lists this origin: what a preflight is answered by, which nobody has authenticated.
    pub fn lists_origin(&self, origin: &str) -> bool {
        self.origins.contains(origin)
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

    /// The policy files that were read with this registry for tenants which are not in the file, and the SHA-256 of what was read of each; `None`: it could not be. A reload follows them like those that the file names.
    pub fn files_of_made(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        self.reading.files()
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
        let plan = Plan {
            limits,
            policy,
            policy_file: None,
            pool,
            backend_tags: Arc::default(),
            access: TenantAccess::default(),
            cors_origins: Arc::default(),
        };
        let id = "local".parse().expect("`local` is a tenant id");
        let local = plan.tenant(id, None, "default".to_owned(), false);
        Self::new([local], []).with_plans([("default".to_owned(), Some(plan))])
    }
}

/// What a row of the ledger makes with one configuration.
#[derive(Debug, Clone)]
struct Compiled {
    /// Of the row: when it was made, and its version.
    of: (WallMillis, u64),
    /// Or why it is closed.
    tenant: Result<Arc<Tenant>, Arc<str>>,
}

/// Whose a claim is.
#[derive(Debug, Clone)]
pub enum Claimed {
    /// No tenant names it.
    Nobody,
    /// One does that can't be used now: its plan is gone, or the file has its id. SECURITY: another tenant must not be made in its place.
    Closed,
    /// This one's.
    By(Arc<Tenant>),
}

/// Whether the ledger has that tenant, since a token or the control API made it; others are in the tenants file.
///
/// # Errors
/// `Unavailable`.
pub async fn in_ledger<L: Ledger + ?Sized>(ledger: &L, id: &TenantId) -> Result<bool, LedgerError> {
    let made = ledger.created_tenants().await?.iter().any(|row| row.id == *id);
    Ok(made || ledger.managed_state().await?.tenants.iter().any(|row| row.id == *id))
}

/// Tenants of this many ids are named in one line.
const NAMED_MAX: usize = 3;

/// Tenants on one plan that are not in the file, that nobody has disabled, and that the configuration closes for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The plan, by name.
    pub plan: String,
    /// Why.
    pub reason: Arc<str>,
    /// Who, by id.
    pub tenants: Vec<TenantId>,
}

impl Closed {
    fn whose(&self) -> String {
        let named: Vec<String> = self.tenants.iter().take(NAMED_MAX).map(|id| format!("`{id}`")).collect();
        let more = self.tenants.len().saturating_sub(NAMED_MAX);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let count = match self.tenants.len() {
            1 => "1 tenant".to_owned(),
            count => format!("{count} tenants"),
        };
        format!(
            "{count} on the plan `{}` ({}{more}), made by the control API or by tokens,",
            self.plan,
            named.join(", ")
        )
    }

    /// What an operator is told of those that are closed.
    pub fn told(&self) -> String {
        let are = if self.tenants.len() == 1 { "is" } else { "are" };
        let remedy = "undo that, or give each another plan (`comfygate tenant set ID --plan PLAN`)";
        format!("{} {are} closed: {}; {remedy}", self.whose(), self.reason)
    }

    /// Why a configuration that would close them is refused.
    pub fn refusal(&self) -> String {
        // Rows are not watched, as files are.
        let remedy = "keep what they need, give each another plan first (`comfygate tenant set ID --plan PLAN`), or close them yourself (`comfygate tenant disable ID`); then `comfygate reload`";
        format!("{} would be closed: {}; {remedy}", self.whose(), self.reason)
    }
}

/// Every tenant: those of the file, those that the control API made, and those that tokens made; in this order, where an id is of several.
#[derive(Debug)]
pub struct AllTenants {
    registry: Arc<TenantRegistry>,
    /// `None`: the control API makes none.
    managed: Option<Arc<ManagedTenants>>,
    /// `None`: no token makes one.
    created: Option<Arc<CreatedTenants>>,
    /// How many tokens may make.
    created_max: u32,
    /// What was read of rows already: each row is read once with one configuration, not with each request.
    compiled: RwLock<HashMap<TenantId, Compiled>>,
    /// Origins that tenants of the control API list themselves: what any version of a row listed, until the next configuration.
    origins: RwLock<HashSet<String>>,
}

impl AllTenants {
    /// The tenants of a file with those that were made, of which tokens may make `created_max`. Reads every row.
    pub fn new(
        registry: Arc<TenantRegistry>,
        managed: Arc<ManagedTenants>,
        created: Arc<CreatedTenants>,
        created_max: u32,
    ) -> Self {
        let rows = managed.list();
        let all = Self {
            registry,
            managed: Some(managed),
            created: Some(created),
            created_max,
            compiled: RwLock::default(),
            origins: RwLock::default(),
        };
        rows.iter().for_each(|row| drop(all.of_managed(row)));
        all
    }

    /// The tenants of a file alone.
    pub fn of_the_file(registry: TenantRegistry) -> Self {
        let registry = Arc::new(registry);
        let (compiled, origins) = (RwLock::default(), RwLock::default());
        Self { registry, managed: None, created: None, created_max: 0, compiled, origins }
    }

    /// The tenant of that id, disabled ones too. One that is not in the file has the limits and the policy of its plan as they are now; it is gone while its plan is. One whose things are being erased is closed.
    pub fn tenant(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        let found = self.registry.tenant(id).or_else(|| self.managed_tenant(id)).or_else(|| self.made(id))?;
        if self.managed.as_ref().is_some_and(|managed| managed.is_erasing(id)) {
            return Some(Arc::new(Tenant { disabled: true, ..(*found).clone() }));
        }
        Some(found)
    }

    /// Why a tenant that a token made is closed though nobody has disabled it. `None`: it is not.
    pub fn created_closed_because(&self, row: &CreatedTenant) -> Option<Arc<str>> {
        let is_there = |id: &TenantId| self.registry.tenant(id).is_some() || self.managed_tenant(id).is_some();
        if row.disabled_at.is_some() || is_there(&row.id) {
            return None;
        }
        self.of_created(row).err()
    }

    /// Why a tenant of the control API is closed: its plan is gone, or does not suit it. `None`: it is not.
    pub fn closed_because(&self, row: &ManagedTenant) -> Option<Arc<str>> {
        self.of_managed(row).err()
    }

    /// What an operator is told of tenants that are not in the file, those that the file hides and those that it closes; of those of the file that the ledger closes; and of those that `gateway.toml`
    /// names and nobody has made.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = self.doubts_of_rows();
        // One that is there and closed is told of with the reason.
        let is_there = |id: &TenantId| {
            self.registry.tenant(id).is_some()
                || self.managed.as_ref().is_some_and(|managed| managed.row(id).is_some())
                || self.created.as_ref().is_some_and(|created| created.row(id).is_some())
        };
        doubts.extend(self.registry.named_in_vain(is_there).iter().map(ToString::to_string));
        doubts
    }

    fn doubts_of_rows(&self) -> Vec<String> {
        let rows = self.managed.as_ref().map(|managed| managed.list()).unwrap_or_default();
        let doubt = |row: &Arc<ManagedTenant>| {
            if self.registry.tenant(&row.id).is_some() {
                return Some(format!(
                    "tenant `{}` is in tenants.toml and made by the control API: the file's counts",
                    row.id
                ));
            }
            self.taken_over(row)
        };
        let created = self.created.as_ref().map(|created| created.list()).unwrap_or_default();
        let closed = rows
            .iter()
            .filter_map(doubt)
            .chain(created.iter().filter_map(|row| self.taken_over_of_token(row)))
            .chain(self.closed().into_iter().map(|closed| closed.told()));
        let Some(managed) = &self.managed else { return closed.collect() };
        let refused = managed.tombstones_in(&self.registry).into_iter().map(|id| {
            format!("tenant `{id}` is in tenants.toml, and marked as deleted by the control API: nothing of it can be written until a reload or a restart takes the mark away")
        });
        let mut erasing = managed.erasures();
        erasing.retain(|row| self.registry.tenant(&row.tenant).is_some());
        erasing.sort_unstable_by(|a, b| a.tenant.cmp(&b.tenant));
        let erasing = erasing
            .into_iter()
            .map(|row| format!("tenant `{}` is in tenants.toml, and closed while what it has is erased", row.tenant));
        closed.chain(refused).chain(erasing).collect()
    }

    /// What is said of a tenant of the control API whose people the file leads elsewhere. `None`: it does not, or the tenant is disabled, so that whoever meant it can put an end to the warning.
    fn taken_over(&self, row: &ManagedTenant) -> Option<String> {
        let value = row.claim.as_deref().unwrap_or(row.id.as_str());
        let named = self.registry.tenant_with_claim(value);
        let taker = named.or_else(|| self.registry.tenant(&value.parse().ok()?)).filter(|_| !row.disabled)?;
        let lead = match self.registry.tenant_of_claim(value) {
            Some(_) => format!("lead to `{}` of tenants.toml now", taker.id),
            // SECURITY: it has a claim of its own, and nobody is let in by its id.
            None => format!("lead to nobody now, since tenants.toml has a tenant `{}`", taker.id),
        };
        Some(format!(
            "tokens with the claim `{value}` {lead}, and no longer to `{}` of the control API: undo that, give it another claim (`comfygate tenant set {} --claim CLAIM`), or disable it",
            row.id, row.id
        ))
    }

    /// The same of a tenant that tokens made.
    fn taken_over_of_token(&self, row: &CreatedTenant) -> Option<String> {
        let taker = self.registry.tenant_with_claim(&row.claim).filter(|_| row.disabled_at.is_none())?;
        Some(format!(
            "tokens with the claim `{}` lead to `{}` of tenants.toml now, and no longer to `{}`, which they made and which keeps what it has: undo that, or export what it has (`comfygate tenant export --tenant {}`) and disable it",
            row.claim, taker.id, row.id, row.id
        ))
    }

    /// Enabled tenants that the configuration closes, by plan and reason. One that is being erased is not among them.
    pub fn closed(&self) -> Vec<Closed> {
        let mut found: BTreeMap<(String, Arc<str>), Vec<TenantId>> = BTreeMap::new();
        let mut keep = |id: &TenantId, plan: &str, reason: Option<Arc<str>>| {
            let is_erasing = self.managed.as_ref().is_some_and(|managed| managed.is_erasing(id));
            if let Some(reason) = reason.filter(|_| !is_erasing) {
                found.entry((plan.to_owned(), reason)).or_default().push(id.clone());
            }
        };
        for row in self.managed.iter().flat_map(|managed| managed.list()) {
            if !row.disabled && self.registry.tenant(&row.id).is_none() {
                keep(&row.id, &row.plan, self.of_managed(&row).err());
            }
        }
        for row in self.created.iter().flat_map(|created| created.list()) {
            keep(&row.id, &row.plan, self.created_closed_because(&row));
        }
        let closed = found.into_iter().map(|((plan, reason), tenants)| Closed { plan, reason, tenants });
        closed.collect()
    }

    /// Tenants that this configuration closes and `former` does not: whoever would lose its way in by a reload.
    pub fn would_close(&self, former: &Self) -> Vec<Closed> {
        let is_open = |id: &TenantId| former.tenant(id).is_some_and(|tenant| !tenant.disabled);
        let mut closed = self.closed();
        closed.iter_mut().for_each(|closed| closed.tenants.retain(is_open));
        closed.retain(|closed| !closed.tenants.is_empty());
        closed
    }

    /// Whether any tenant lists this origin ([`TenantRegistry::lists_origin`]). That one lists it whose request it is, is asked with the request itself.
    pub fn lists_origin(&self, origin: &str) -> bool {
        self.registry.lists_origin(origin)
            || self.origins.read().unwrap_or_else(PoisonError::into_inner).contains(origin)
    }

    fn managed_tenant(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        let row = self.managed.as_ref()?.row(id)?;
        self.of_managed(&row).ok()
    }

    fn of_managed(&self, row: &ManagedTenant) -> Result<Arc<Tenant>, Arc<str>> {
        self.once(&row.id, (row.created_at, row.version), || managed::compiled(row, &self.registry))
    }

    /// What this version of a row was read as, or is read as now.
    fn once(
        &self,
        id: &TenantId,
        of: (WallMillis, u64),
        read: impl FnOnce() -> Result<Tenant, String>,
    ) -> Result<Arc<Tenant>, Arc<str>> {
        let known = self.compiled.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some(known) = known.filter(|known| known.of == of) {
            return known.tenant;
        }
        let tenant = read().map(Arc::new).map_err(Arc::from);
        if let Ok(read) = &tenant
            && read.overrides.contains(&"cors_origins")
        {
            let mut origins = self.origins.write().unwrap_or_else(PoisonError::into_inner);
            origins.extend(read.cors_origins.iter().cloned());
        }
        let compiled = Compiled { of, tenant: tenant.clone() };
        self.compiled.write().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), compiled);
        tenant
    }

    fn made(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        let row = self.created.as_ref()?.row(id)?;
        self.of_created(&row).ok()
    }

    fn of_created(&self, row: &CreatedTenant) -> Result<Arc<Tenant>, Arc<str>> {
        let read = || managed::compiled_of_token(row, &self.registry);
        self.once(&row.id, (row.created_at, row.version), read)
    }

    /// The tenant of the file, or else of the control API, that a JWT's claim means ([`TenantRegistry::tenant_of_claim`]). Those that tokens made are never found by their id here: another issuer could name it.
    pub fn tenant_of_claim(&self, value: &str) -> Option<Arc<Tenant>> {
        let id = value.parse::<TenantId>().ok();
        // One of the file has the id, and may have a claim of its own: then it is not meant, nor anybody else.
        let in_file = id.as_ref().is_some_and(|id| self.registry.tenant(id).is_some());
        if in_file || self.registry.tenant_with_claim(value).is_some() {
            return self.registry.tenant_of_claim(value).and_then(|tenant| self.tenant(&tenant.id));
        }
        let managed = self.managed.as_ref()?;
        if let Some(claimed) = managed.of_claim(value) {
            // SECURITY: where the file has its id, the file's tenant is another one, with another claim.
            return self.tenant(&claimed).filter(|_| self.registry.tenant(&claimed).is_none());
        }
        // SECURITY: as in the file, one with a claim of its own is not reached by its id too.
        let row = managed.row(&id?).filter(|row| row.claim.is_none())?;
        self.tenant(&row.id)
    }

    /// The tenant of the file, or else of the control API, that names this value as its `claim`. SECURITY: for issuers whose tokens make tenants. They let strangers name organisations, and one named like the id of a
    /// configured tenant would be that tenant.
    pub fn tenant_with_claim(&self, value: &str) -> Claimed {
        if let Some(tenant) = self.registry.tenant_with_claim(value) {
            return self.tenant(&tenant.id).map_or(Claimed::Closed, Claimed::By);
        }
        let in_file = value.parse().ok().is_some_and(|id| self.registry.tenant(&id).is_some());
        let Some(claimed) = self.managed.as_ref().and_then(|managed| managed.of_claim(value)).filter(|_| !in_file)
        else {
            return Claimed::Nobody;
        };
        // SECURITY: where the file has its id, the file's tenant is another one, with another claim.
        let tenant = self.tenant(&claimed).filter(|_| self.registry.tenant(&claimed).is_none());
        tenant.map_or(Claimed::Closed, Claimed::By)
    }

    /// Every tenant that is not in the file and can be used, with those that are: what walks over all of them goes by this.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        let managed = self.managed.as_ref().map(|managed| managed.list()).unwrap_or_default();
        let made = self.created.as_ref().map(|created| created.list()).unwrap_or_default();
        let ids: BTreeSet<TenantId> =
            managed.into_iter().map(|row| row.id.clone()).chain(made.into_iter().map(|row| row.id)).collect();
        let others = ids.iter().filter(|id| self.registry.tenant(id).is_none());
        self.registry.tenants().cloned().chain(others.filter_map(|id| self.tenant(id))).collect()
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

    /// Those that the control API made.
    pub fn managed(&self) -> Option<&Arc<ManagedTenants>> {
        self.managed.as_ref()
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
