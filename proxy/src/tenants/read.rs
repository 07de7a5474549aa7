//! `tenants.toml`: `[[plan]]` and `[[tenant]]` as written, then the registry.

use super::access::{AddressEntry, AddressRule, LIMITED_MAX, LimitedUsers, NETWORKS_MAX, TenantAccess, Users};
use super::created::is_made_id;
use super::{Limits, Pace, Plan, Rate, Retention, Tenant, TenantRegistry, origins, policies};
use crate::budget::{Budget, Charge};
use crate::calendar::Period;
use crate::config::backends::tags;
use crate::config::faults::{Fault, Place, Report, SourceFile};
use crate::config::reader::{Located, Reader, nearest, read_file};
use crate::dispatch::schedule::Band;
use crate::ids::{BackendTag, PoolId, TenantId, UserId};
use comfygate_policy::{CostModel, Policy};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Below it `check` warns: many clients fetch what they made later than that.
const SHORT: Duration = Duration::from_secs(3600);

/// The names of the keys that a plan sets and a tenant may override.
pub const KEYS: [&str; 25] = [
    "policy",
    "pool",
    "rate",
    "pace",
    "requests",
    "active_jobs_max",
    "running_jobs_max",
    "priority",
    "websockets_max",
    "storage_bytes_max",
    "weight",
    "budget_seconds",
    "user_budget_seconds",
    "budget_period",
    "retry_paid",
    "backend_tags",
    "retention",
    "retention_history",
    "retention_bytes",
    "retry_sent",
    "users",
    "users_limited",
    "allow_addresses",
    "deny_addresses",
    "cors_origins",
];

/// The keys that a plan sets and a tenant may override.
#[derive(Debug)]
struct RawLimits {
    policy: Option<Located<String>>,
    pool: Option<PoolId>,
    rate: Option<Rate>,
    pace: Option<Pace>,
    requests: Option<Rate>,
    active_jobs_max: Option<u32>,
    running_jobs_max: Option<u32>,
    priority: Option<Band>,
    websockets_max: Option<u32>,
    storage_bytes_max: Option<u64>,
    weight: Option<u32>,
    budget: RawBudget,
    retry_paid: Option<bool>,
    backend_tags: Option<Arc<BTreeSet<BackendTag>>>,
    retention: Option<Duration>,
    retention_history: Option<Duration>,
    retention_bytes: Option<u64>,
    retry_sent: Option<bool>,
    users: Option<Users>,
    users_limited: Option<Arc<LimitedUsers>>,
    allow_addresses: Option<Vec<AddressEntry>>,
    deny_addresses: Option<Vec<AddressEntry>>,
    /// The keys that were written.
    written: Vec<&'static str>,
    cors_origins: Option<Arc<BTreeSet<String>>>,
}

#[derive(Debug)]
struct RawBudget {
    period: Option<Period>,
    tenant: Option<Charge>,
    user: Option<Charge>,
}

#[derive(Debug)]
struct RawPlan {
    id: Option<Located<String>>,
    limits: RawLimits,
}

#[derive(Debug)]
struct RawTenant {
    id: Option<Located<TenantId>>,
    plan: Option<Located<String>>,
    name: Option<Located<String>>,
    claim: Option<Located<String>>,
    disabled: bool,
    limits: RawLimits,
    /// Where it begins.
    at: Place,
}

/// Reads tenants and plans; policy paths are relative to `directory`. Faults, those of policy files too, are noted in `report`; the registry
/// then lacks what was faulty and must not be used.
pub fn read_tenants(source: &SourceFile, directory: &Path, report: &Report) -> TenantRegistry {
    let (costs, plans, tenants, recovered) = read_file(source, report, |mut reader| {
        let costs = reader.text("costs");
        let plans: Vec<RawPlan> = reader.tables("plan").into_iter().map(raw_plan).collect();
        let tenants: Vec<RawTenant> = reader.tables("tenant").into_iter().map(raw_tenant).collect();
        let at = reader.at().clone();
        reader.finish();
        (costs, plans, tenants, at)
    });
    if tenants.is_empty() {
        report.warning(
            &recovered,
            "no tenant in this file: only those that `comfygate tenant create` and tokens make are let in",
            "add a [[tenant]], or leave it so",
        );
    }
    let costs = costs.and_then(|named| policies::costs(&named.value, &named.at, directory, report));
    let mut checked = Checked { directory, report, costs, policies: HashMap::new() };
    let plans = checked.plans(plans);
    let registry = checked.registry(tenants, &plans).with_plans(plans);
    let Checked { costs, policies, .. } = checked;
    let policies = policies.into_iter().filter_map(|(name, policy)| Some((name, policy?))).collect();
    TenantRegistry {
        reading: Reading {
            directory: directory.into(),
            costs,
            policies: Mutex::new(policies),
            files: Mutex::default(),
        },
        ..registry
    }
}

/// Files of policies that are followed for tenants which are not in the tenants file: each is a `stat` every few seconds. What is beyond is read again with the next reload.
const FOLLOWED_MAX: usize = 10_000;

/// What a tenant that is not in the file is read with: where its policy's path begins, what models cost, and the policies that were read already.
#[derive(Debug)]
pub(super) struct Reading {
    directory: Arc<Path>,
    costs: Option<Arc<CostModel>>,
    policies: Mutex<HashMap<String, Arc<Policy>>>,
    /// Those of such tenants that were read, or were not there: each once, so that a registry has one state of it. With the digest of what was read.
    files: Mutex<BTreeMap<PathBuf, Option<Vec<u8>>>>,
}

impl Reading {
    /// What [`TenantRegistry::files_of_made`] tells.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn follow(&self, read: BTreeMap<PathBuf, Option<Vec<u8>>>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        for (file, content) in read {
            if files.len() < FOLLOWED_MAX {
                files.entry(file).or_insert(content);
            }
        }
    }
}

impl Default for Reading {
    fn default() -> Self {
        Self { directory: Path::new("").into(), costs: None, policies: Mutex::default(), files: Mutex::default() }
    }
}

/// The text of one `[[tenant]]`, and its place in the messages.
pub(super) fn read_tenant(
    registry: &TenantRegistry,
    id: &TenantId,
    text: String,
) -> Result<(Tenant, Vec<Fault>), Vec<Fault>> {
    let source = SourceFile { path: Path::new("").into(), text };
    let report = Report::default();
    let raw = read_file(&source, &report, |mut reader| {
        let tenants: Vec<RawTenant> = reader.tables("tenant").into_iter().map(raw_tenant).collect();
        reader.finish();
        tenants.into_iter().next()
    });
    let reading = &registry.reading;
    let known = reading.policies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let policies = known.into_iter().map(|(name, policy)| (name, Some(policy))).collect();
    let mut checked =
        Checked { directory: &reading.directory, report: &report, costs: reading.costs.clone(), policies };
    let tenant = raw.and_then(|mut raw| {
        let name = raw.plan.take()?;
        let plan = checked.plan(&name, &registry.plans)?;
        checked.tenant(id.clone(), raw, name.value, plan)
    });
    let read = checked.policies.into_iter().filter_map(|(name, policy)| Some((name, policy?)));
    reading.policies.lock().unwrap_or_else(PoisonError::into_inner).extend(read);
    reading.follow(report.take_digests());
    report.conclude(tenant).map_err(|faults| faults.errors)
}

fn raw_limits(reader: &mut Reader<'_>) -> RawLimits {
    reader.renamed("prompt_rate", "write `rate`");
    reader.not_built_yet("scopes", "scopes are those of the key");
    RawLimits {
        written: KEYS.into_iter().filter(|key| reader.has(key)).collect(),
        policy: reader.text("policy"),
        pool: reader.parsed("pool").map(|found| found.value),
        rate: raw_rate(reader, "rate"),
        pace: raw_pace(reader),
        requests: raw_rate(reader, "requests"),
        active_jobs_max: small(reader, "active_jobs_max", 1_000_000),
        running_jobs_max: small(reader, "running_jobs_max", 1_000_000),
        priority: reader.one_of("priority", &["high", "normal", "low"]).map(|found| band(found.value)),
        websockets_max: small(reader, "websockets_max", 100_000),
        storage_bytes_max: reader.size("storage_bytes_max", 0..=1 << 50).map(|found| found.value),
        weight: small(reader, "weight", 1000),
        budget: raw_budget(reader),
        retry_paid: reader.boolean("retry_paid").map(|found| found.value),
        backend_tags: reader.texts("backend_tags").map(|named| Arc::new(tags(named, reader.report()))),
        retention: raw_age(reader, "retention"),
        retention_history: raw_age(reader, "retention_history"),
        retention_bytes: reader.size("retention_bytes", 0..=1 << 50).map(|found| found.value),
        retry_sent: reader.boolean("retry_sent").map(|found| found.value),
        users: reader.one_of("users", &Users::NAMES).and_then(|found| Users::from_name(found.value)),
        users_limited: raw_users(reader),
        allow_addresses: raw_addresses(reader, "allow_addresses"),
        deny_addresses: raw_addresses(reader, "deny_addresses"),
        cors_origins: reader.texts("cors_origins").map(|named| Arc::new(origins::checked(named, reader.report()))),
    }
}

/// Ids of users, each once.
fn raw_users(reader: &mut Reader<'_>) -> Option<Arc<LimitedUsers>> {
    let named = bounded(reader, "users_limited", LIMITED_MAX)?;
    let report = reader.report();
    let read = |text: Located<String>| match text.value.parse::<UserId>() {
        Ok(user) => Some(user),
        Err(error) => {
            report.error(&text.at, error.to_string(), "");
            None
        }
    };
    Some(Arc::new(named.into_iter().filter_map(read).collect()))
}

fn raw_addresses(reader: &mut Reader<'_>, key: &'static str) -> Option<Vec<AddressEntry>> {
    let named = bounded(reader, key, NETWORKS_MAX)?;
    let report = reader.report();
    let read = |text: Located<String>| match text.value.parse::<AddressEntry>() {
        Ok(entry) => Some(entry),
        Err(error) => {
            report.error(&text.at, error.to_string(), "");
            None
        }
    };
    Some(named.into_iter().filter_map(read).collect())
}

/// A list of texts with at most so many entries.
fn bounded(reader: &mut Reader<'_>, key: &'static str, max: usize) -> Option<Vec<Located<String>>> {
    let named = reader.texts(key)?;
    if let Some(beyond) = named.get(max) {
        reader.report().error(&beyond.at, format!("more than {max} entries"), "write networks rather than addresses");
    }
    Some(named)
}

/// Ten thousand GPUs, all the month: a larger number is a slip.
const BUDGET_SECONDS_MAX: u64 = 10_000 * 31 * 86_400;

fn raw_budget(reader: &mut Reader<'_>) -> RawBudget {
    reader.renamed("budget", "write `budget_seconds` and `budget_period`");
    let mut seconds = |key| reader.integer(key, 1..=BUDGET_SECONDS_MAX);
    let (tenant, user) = (seconds("budget_seconds"), seconds("user_budget_seconds"));
    if let (Some(tenant), Some(user)) = (&tenant, &user)
        && user.value > tenant.value
    {
        let what = format!("a user may spend {}, all of them together {}", user.value, tenant.value);
        reader.report().warning(
            &user.at,
            what,
            "give each user less than `budget_seconds`, or leave one of the two out",
        );
    }
    let period = reader.one_of("budget_period", &Period::NAMES).and_then(|found| Period::from_name(found.value));
    let charge = |found: Option<Located<u64>>| found.map(|found| Charge::of_millis(found.value * 1000));
    RawBudget { period, tenant: charge(tenant), user: charge(user) }
}

/// How long something is kept; zero: for ever.
fn raw_age(reader: &mut Reader<'_>, key: &'static str) -> Option<Duration> {
    let found = reader.duration(key, Duration::ZERO..=Retention::MAX)?;
    if !found.value.is_zero() && found.value < SHORT {
        reader.report().warning(
            &found.at,
            "what was made is gone within the hour",
            "clients that fetch late find nothing: write 1h or more",
        );
    }
    Some(found.value)
}

fn band(name: &str) -> Band {
    match name {
        "high" => Band::High,
        "low" => Band::Low,
        _ => Band::Normal,
    }
}

/// A whole number from 1 to `max`.
fn small(reader: &mut Reader<'_>, key: &'static str, max: u32) -> Option<u32> {
    reader.integer(key, 1..=u64::from(max)).and_then(|found| u32::try_from(found.value).ok())
}

fn raw_rate(reader: &mut Reader<'_>, key: &'static str) -> Option<Rate> {
    let mut table = reader.table(key)?;
    table.require("per_second");
    table.require("burst");
    let per_second = table.number("per_second", Rate::PER_SECOND_MIN..=Rate::PER_SECOND_MAX);
    let burst = small(&mut table, "burst", Rate::BURST_MAX);
    table.finish();
    Some(Rate { per_second: per_second?.value, burst: burst? })
}

fn raw_pace(reader: &mut Reader<'_>) -> Option<Pace> {
    let mut table = reader.table("pace")?;
    let range = || Duration::ZERO..=Pace::MAX;
    let (pages, programs) = (table.duration("pages", range()), table.duration("programs", range()));
    table.finish();
    let base = Pace::default();
    Some(Pace {
        pages: pages.map_or(base.pages, |found| found.value),
        programs: programs.map_or(base.programs, |found| found.value),
    })
}

fn raw_plan(mut reader: Reader<'_>) -> RawPlan {
    let plan = RawPlan { id: reader.required_text("id"), limits: raw_limits(&mut reader) };
    reader.finish();
    plan
}

fn raw_tenant(mut reader: Reader<'_>) -> RawTenant {
    reader.require("plan");
    let tenant = RawTenant {
        at: reader.at().clone(),
        id: reader.required_parsed("id"),
        plan: reader.text("plan"),
        name: reader.text("name"),
        claim: reader.text("claim"),
        disabled: reader.boolean("disabled").is_some_and(|found| found.value),
        limits: raw_limits(&mut reader),
    };
    reader.finish();
    tenant
}

impl RawLimits {
    /// What is said of access, over `base`; told at `at` what has no effect.
    fn access(&self, base: &TenantAccess, at: &Place, report: &Report) -> TenantAccess {
        let addresses = match (&self.allow_addresses, &self.deny_addresses) {
            (None, None) => Arc::clone(&base.addresses),
            (allow, deny) => {
                let written = |list: &Option<Vec<AddressEntry>>, base: &[AddressEntry]| {
                    list.clone().unwrap_or_else(|| base.to_vec())
                };
                let (allow, deny) = (written(allow, base.addresses.allowed()), written(deny, base.addresses.denied()));
                Arc::new(AddressRule::new(allow, deny))
            }
        };
        if self.allow_addresses.is_some() || self.deny_addresses.is_some() {
            for (entry, reason) in addresses.idle_entries() {
                report.warning(at, format!("`{entry}` {reason}"), "take it out, or the entry that covers it");
            }
        }
        let access = TenantAccess {
            users: self.users.unwrap_or(base.users),
            limited: self.users_limited.clone().unwrap_or_else(|| Arc::clone(&base.limited)),
            addresses,
        };
        if self.users_limited.as_ref().is_some_and(|limited| !limited.is_empty()) && access.users == Users::Own {
            let what = "`users_limited` has no effect: each user sees only its own anyway";
            report.warning(at, what, "set `users = \"shared\"`, or leave `users_limited` out");
        }
        access
    }

    /// These over `base`.
    fn over(&self, base: Limits) -> Limits {
        Limits {
            prompt_rate: self.rate.unwrap_or(base.prompt_rate),
            pace: self.pace.unwrap_or(base.pace),
            request_rate: self.requests.unwrap_or(base.request_rate),
            active_jobs_max: self.active_jobs_max.unwrap_or(base.active_jobs_max),
            running_jobs_max: self.running_jobs_max.unwrap_or(base.running_jobs_max),
            priority: self.priority.unwrap_or(base.priority),
            websockets_max: self.websockets_max.unwrap_or(base.websockets_max),
            storage_bytes_max: self.storage_bytes_max.unwrap_or(base.storage_bytes_max),
            weight: self.weight.unwrap_or(base.weight),
            budget: Budget {
                period: self.budget.period.unwrap_or(base.budget.period),
                tenant: self.budget.tenant.or(base.budget.tenant),
                user: self.budget.user.or(base.budget.user),
            },
            retry_paid: self.retry_paid.unwrap_or(base.retry_paid),
            retry_sent: self.retry_sent.unwrap_or(base.retry_sent),
            retention: self.retention(base.retention),
        }
    }
}

impl RawLimits {
    /// What is written over `base`; zero takes a bound away.
    fn retention(&self, base: Retention) -> Retention {
        let age = |written: Option<Duration>, base: Option<Duration>| match written {
            Some(written) => Some(written).filter(|age| !age.is_zero()),
            None => base,
        };
        let bytes = self.retention_bytes.map_or(base.result_bytes_max, |bytes| Some(bytes).filter(|bytes| *bytes > 0));
        Retention {
            files: age(self.retention, base.files),
            history: age(self.retention_history, base.history),
            result_bytes_max: bytes,
        }
    }
}

/// From written to used.
struct Checked<'a> {
    directory: &'a Path,
    report: &'a Report,
    /// What models cost, where it is not what ships.
    costs: Option<Arc<CostModel>>,
    /// A policy that several plans name is read once; `None`: it was faulty, and that was said.
    policies: HashMap<String, Option<Arc<Policy>>>,
}

impl Checked<'_> {
    fn policy(&mut self, name: &Located<String>) -> Option<Arc<Policy>> {
        if let Some(known) = self.policies.get(&name.value) {
            return known.clone();
        }
        let loaded = policies::load(&name.value, &name.at, self.directory, self.report);
        let loaded = loaded.map(|policy| self.with_costs(Arc::unwrap_or_clone(policy)));
        self.policies.insert(name.value.clone(), loaded.clone());
        loaded
    }

    fn with_costs(&self, policy: Policy) -> Arc<Policy> {
        Arc::new(match &self.costs {
            Some(costs) => policy.with_costs(Arc::clone(costs)),
            None => policy,
        })
    }

    /// The file of a policy that does not ship.
    fn policy_file(&self, name: &Located<String>) -> Option<Arc<Path>> {
        policies::file(&name.value, self.directory).map(Arc::from)
    }

    /// The plans by id; `None` for one that is there but faulty, so that its tenants are not blamed.
    fn plans(&mut self, raw: Vec<RawPlan>) -> BTreeMap<String, Option<Plan>> {
        let mut plans = BTreeMap::new();
        for plan in raw {
            let policy = match &plan.limits.policy {
                Some(name) => self.policy(name),
                None => Policy::builtin("default").map(|policy| self.with_costs(policy)),
            };
            let Some(id) = plan.id else { continue };
            let pool = plan.limits.pool.clone().unwrap_or_else(PoolId::default_pool);
            let policy_file = plan.limits.policy.as_ref().and_then(|name| self.policy_file(name));
            let limits = plan.limits.over(Limits::default());
            let backend_tags = plan.limits.backend_tags.clone().unwrap_or_default();
            let access = plan.limits.access(&TenantAccess::default(), &id.at, self.report);
            let cors_origins = plan.limits.cors_origins.clone().unwrap_or_default();
            let checked =
                policy.map(|policy| Plan { limits, policy, policy_file, pool, backend_tags, access, cors_origins });
            if plans.insert(id.value.clone(), checked).is_some() {
                self.report.error(&id.at, format!("a second plan `{}`", id.value), "plan ids are unique");
            }
        }
        plans
    }

    fn registry(&mut self, raw: Vec<RawTenant>, plans: &BTreeMap<String, Option<Plan>>) -> TenantRegistry {
        let (mut tenants, mut claims) = (HashMap::new(), HashMap::new());
        let ids: HashSet<String> =
            raw.iter().filter_map(|tenant| Some(tenant.id.as_ref()?.value.to_string())).collect();
        for mut tenant in raw {
            let plan = tenant.plan.as_ref().and_then(|name| self.plan(name, plans));
            let Some(id) = tenant.id.take() else { continue };
            if is_made_id(&id.value) {
                // SECURITY: a configured tenant of that id would share everything with the one that a token made.
                let hint = "to choose limits for such a tenant, name it otherwise and give its `claim`";
                self.report.error(&id.at, format!("`{}` has the form of ids that tokens make", id.value), hint);
            }
            if let Some(claim) = tenant.claim.take() {
                self.claim(claim, &id.value, &ids, &mut claims);
            }
            let (Some(plan), Some(name)) = (plan, tenant.plan.take()) else {
                continue;
            };
            let Some(made) = self.tenant(id.value.clone(), tenant, name.value, plan) else { continue };
            if tenants.insert(id.value.clone(), made).is_some() {
                self.report.error(&id.at, format!("a second tenant `{}`", id.value), "tenant ids are unique");
            }
        }
        TenantRegistry::new(tenants.into_values(), claims)
    }

    /// The tenant as used; `None` if its policy is faulty, and that was said.
    fn tenant(&mut self, id: TenantId, raw: RawTenant, plan_name: String, plan: &Plan) -> Option<Tenant> {
        let at = raw.limits.policy.as_ref().map_or_else(|| raw.at.clone(), |name| name.at.clone());
        let own_file = raw.limits.policy.as_ref().map(|name| self.policy_file(name));
        let policy = match &raw.limits.policy {
            Some(name) => self.policy(name)?,
            None => Arc::clone(&plan.policy),
        };
        Some(Tenant {
            id,
            name: raw.name.map(|name| name.value),
            plan: plan_name,
            disabled: raw.disabled,
            limits: raw.limits.over(plan.limits),
            policy,
            policy_file: own_file.unwrap_or_else(|| plan.policy_file.clone()),
            access: raw.limits.access(&plan.access, &at, self.report),
            pool: raw.limits.pool.unwrap_or_else(|| plan.pool.clone()),
            backend_tags: raw.limits.backend_tags.unwrap_or_else(|| Arc::clone(&plan.backend_tags)),
            cors_origins: raw.limits.cors_origins.unwrap_or_else(|| Arc::clone(&plan.cors_origins)),
            overrides: raw.limits.written.into(),
        })
    }

    fn plan<'p>(&self, name: &Located<String>, plans: &'p BTreeMap<String, Option<Plan>>) -> Option<&'p Plan> {
        let found = plans.get(&name.value);
        if found.is_none() {
            let mut known: Vec<&str> = plans.keys().map(String::as_str).collect();
            known.sort_unstable();
            let hint = nearest(&name.value, &known).map_or_else(
                || {
                    format!(
                        "plans of this file: {}",
                        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                    )
                },
                |near| format!("did you mean `{near}`?"),
            );
            self.report.error(&name.at, format!("no plan has the id `{}`", name.value), hint);
        }
        found?.as_ref()
    }

    fn claim(
        &self,
        claim: Located<String>,
        id: &TenantId,
        ids: &HashSet<String>,
        claims: &mut HashMap<String, TenantId>,
    ) {
        if claim.value != id.as_str() && ids.contains(&claim.value) {
            self.report.error(
                &claim.at,
                format!("`{}` is the id of another tenant", claim.value),
                "a claim means one tenant",
            );
        } else if claims.insert(claim.value.clone(), id.clone()).is_some_and(|other| other != *id) {
            self.report.error(
                &claim.at,
                format!("a second tenant claims `{}`", claim.value),
                "a claim means one tenant",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TenantRegistry, Vec<String>> {
        let source = SourceFile { path: Path::new("/t.toml").into(), text: text.into() };
        let report = Report::default();
        let registry = read_tenants(&source, Path::new("/nowhere"), &report);
        report
            .conclude(Some(registry))
            .map(|(registry, _)| registry)
            .map_err(|faults| faults.errors.iter().map(ToString::to_string).collect())
    }

    fn only_error(text: &str) -> String {
        let errors = read(text).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:#?}");
        errors.into_iter().next().unwrap()
    }

    const PLAN: &str = "[[plan]]\nid = \"p\"\n";

    #[test]
    fn a_tenant_has_the_plans_limits_and_its_own_overrides() {
        let text = "[[plan]]\nid = \"p\"\nrate = { per_second = 2, burst = 3 }\nactive_jobs_max = 7\n[[tenant]]\nid = \"a\"\nplan = \"p\"\nactive_jobs_max = 9\n";
        let limits = read(text).unwrap().tenant(&"a".parse().unwrap()).unwrap().limits;
        assert_eq!(limits.prompt_rate, Rate { per_second: 2.0, burst: 3 });
        assert_eq!(limits.active_jobs_max, 9);
        assert_eq!(limits.weight, Limits::default().weight);
    }

    #[test]
    fn what_is_sent_elsewhere_is_sent_twice_only_where_the_plan_or_the_tenant_says_so() {
        let retries = |plan: &str, tenant: &str| {
            let text = format!("{PLAN}{plan}\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n{tenant}\n");
            let limits = read(&text).unwrap().tenant(&"a".parse().unwrap()).unwrap().limits;
            assert!(!limits.retry_paid, "each by its own key");
            limits.retry_sent
        };
        assert!(!retries("", ""));
        assert!(retries("retry_sent = true", "") && retries("", "retry_sent = true"));
        assert!(!retries("retry_sent = true", "retry_sent = false"));
    }

    #[test]
    fn paid_calls_are_made_twice_only_where_the_plan_or_the_tenant_says_so() {
        let retries = |plan: &str, tenant: &str| {
            let text = format!("[[plan]]\nid = \"p\"\n{plan}\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n{tenant}\n");
            read(&text).unwrap().tenant(&"a".parse().unwrap()).unwrap().limits.retry_paid
        };
        assert!(!retries("", ""));
        assert!(retries("retry_paid = true", ""));
        assert!(retries("", "retry_paid = true"));
        assert!(!retries("retry_paid = true", "retry_paid = false"));
    }

    #[test]
    fn a_tenant_has_the_plans_budget_but_for_what_it_says_itself() {
        let budget = |plan: &str, tenant: &str| {
            let text = format!("[[plan]]\nid = \"p\"\n{plan}\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n{tenant}\n");
            read(&text).unwrap().tenant(&"a".parse().unwrap()).unwrap().limits.budget
        };
        let seconds = |seconds: u64| Some(Charge::of_millis(seconds * 1000));
        assert_eq!(budget("", ""), Budget { period: Period::Month, tenant: None, user: None });
        let plan = "budget_seconds = 3600\nuser_budget_seconds = 60\nbudget_period = \"week\"";
        let weekly = Budget { period: Period::Week, tenant: seconds(3600), user: seconds(60) };
        assert_eq!(budget(plan, ""), weekly);
        assert_eq!(budget(plan, "budget_seconds = 7200"), Budget { tenant: seconds(7200), ..weekly });
        assert_eq!(budget(plan, "budget_period = \"day\""), Budget { period: Period::Day, ..weekly });
    }

    #[test]
    fn a_budget_is_a_whole_number_of_seconds_and_a_known_period() {
        let plan = |line: &str| format!("[[plan]]\nid = \"p\"\n{line}\n");
        assert!(read(&plan("budget_seconds = 1")).is_ok());
        assert!(read(&plan("budget_seconds = 26784000000")).is_ok());
        assert!(
            only_error(&plan("budget_seconds = 0"))
                .contains("/t.toml:3:18: `plan[0].budget_seconds`: 0 is out of range")
        );
        assert!(only_error(&plan("budget_seconds = 26784000001")).contains("out of range"));
        assert!(only_error(&plan("user_budget_seconds = 1.5")).contains("a whole number is wanted"));
        assert!(only_error(&plan("budget_period = \"year\"")).contains("one of `day`, `week`"));
        assert!(only_error(&plan("budget = 5")).contains("write `budget_seconds` and `budget_period`"));
    }

    #[test]
    fn a_user_that_may_spend_more_than_all_together_is_warned_of() {
        let source = SourceFile {
            path: Path::new("/t.toml").into(),
            text: "[[plan]]\nid = \"p\"\nbudget_seconds = 10\nuser_budget_seconds = 11\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n".into(),
        };
        let report = Report::default();
        let registry = read_tenants(&source, Path::new("/nowhere"), &report);
        let (_, warnings) = report.conclude(Some(registry)).unwrap();
        let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains("/t.toml:4:23: `plan[0].user_budget_seconds`"), "{told:?}");
    }

    #[test]
    fn retention_is_off_until_set_and_a_tenant_may_take_its_plans_bounds_away() {
        let retention = |plan: &str, tenant: &str| {
            let text = format!("[[plan]]\nid = \"p\"\n{plan}\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n{tenant}\n");
            read(&text).unwrap().tenant(&"a".parse().unwrap()).unwrap().limits.retention
        };
        assert!(retention("", "").is_off());
        let set = retention("retention = \"24h\"\nretention_bytes = \"50GiB\"\nretention_history = \"7d\"", "");
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        assert_eq!(set, Retention { files: hours(24), history: hours(168), result_bytes_max: Some(50 << 30) });
        let own = retention(
            "retention = \"24h\"\nretention_bytes = \"1GiB\"",
            "retention = \"0s\"\nretention_bytes = \"2GiB\"",
        );
        assert_eq!(own, Retention { files: None, history: None, result_bytes_max: Some(2 << 30) });
        assert!(retention("retention_bytes = \"1GiB\"", "retention_bytes = \"0KiB\"").is_off());
    }

    #[test]
    fn a_retention_of_ten_years_is_taken_and_more_refused_and_one_below_an_hour_warned_of() {
        let plan = |age: &str| format!("{PLAN}retention = \"{age}\"\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n");
        assert!(read(&plan("3650d")).is_ok());
        assert!(only_error(&plan("3651d")).contains("out of range"));
        let warnings = |age: &str| {
            let source = SourceFile { path: Path::new("/t.toml").into(), text: plan(age) };
            let report = Report::default();
            let registry = read_tenants(&source, Path::new("/nowhere"), &report);
            report.conclude(Some(registry)).unwrap().1.len()
        };
        assert_eq!((warnings("59m"), warnings("1h"), warnings("0s")), (1, 0, 0));
    }

    #[test]
    fn a_plan_that_is_missing_is_named_with_the_nearest() {
        let found = only_error("[[plan]]\nid = \"studio\"\n[[tenant]]\nid = \"a\"\nplan = \"studios\"\n");
        assert_eq!(found, "/t.toml:5:8: `tenant[0].plan`: no plan has the id `studios` (did you mean `studio`?)");
    }

    #[test]
    fn ids_of_plans_and_tenants_are_unique() {
        assert!(only_error(&format!("{PLAN}{PLAN}")).contains("a second plan `p`"));
        let tenant = "[[tenant]]\nid = \"a\"\nplan = \"p\"\n";
        assert!(
            only_error(&format!("{PLAN}{tenant}{tenant}")).contains("/t.toml:7:6: `tenant[1].id`: a second tenant `a`")
        );
    }

    #[test]
    fn a_claim_means_one_tenant() {
        let two = |first: &str, second: &str| {
            format!(
                "{PLAN}[[tenant]]\nid = \"a\"\nplan = \"p\"\n{first}\n[[tenant]]\nid = \"b\"\nplan = \"p\"\n{second}\n"
            )
        };
        assert!(read(&two("claim = \"x\"", "claim = \"y\"")).is_ok());
        assert!(only_error(&two("claim = \"x\"", "claim = \"x\"")).contains("a second tenant claims `x`"));
        assert!(only_error(&two("claim = \"b\"", "")).contains("`b` is the id of another tenant"));
    }

    #[test]
    fn a_policy_file_that_is_missing_is_told_once_and_its_tenants_are_not_blamed() {
        let found = only_error(
            "[[plan]]\nid = \"p\"\npolicy = \"none/such.toml\"\n[[tenant]]\nid = \"a\"\nplan = \"p\"\npolicy = \"none/such.toml\"\n",
        );
        assert!(found.starts_with("/t.toml:3:10: `plan[0].policy`: can't read `/nowhere/none/such.toml`"), "{found}");
    }

    #[test]
    fn a_bare_word_is_a_built_in_policy_or_refused() {
        assert!(read("[[plan]]\nid = \"p\"\npolicy = \"strict\"\n").is_ok());
        assert!(
            only_error("[[plan]]\nid = \"p\"\npolicy = \"strickt\"\n")
                .contains("no built-in policy has the name `strickt`")
        );
    }

    #[test]
    fn a_rate_needs_both_numbers_within_their_ranges() {
        let plan = |rate: &str| format!("[[plan]]\nid = \"p\"\nrate = {{ {rate} }}\n");
        assert!(read(&plan("per_second = 0.001, burst = 1")).is_ok());
        assert!(only_error(&plan("per_second = 0.0001, burst = 1")).contains("out of range"));
        assert!(only_error(&plan("per_second = 1, burst = 0")).contains("out of range"));
        assert!(only_error(&plan("per_second = 1")).contains("`plan[0].rate.burst`: is missing"));
    }

    #[test]
    fn an_id_of_the_form_that_tokens_make_is_refused() {
        let tenant = |id: &str| format!("{PLAN}[[tenant]]\nid = \"{id}\"\nplan = \"p\"\n");
        assert!(only_error(&tenant("j-0123456789abcdef01234567")).contains("has the form of ids that tokens make"));
        assert!(read(&tenant("j-0123456789abcdef0123456")).is_ok());
        assert!(read(&tenant("j-0123456789abcdef0123456g")).is_ok());
    }

    #[test]
    fn a_tenant_id_outside_its_alphabet_is_refused() {
        assert!(
            only_error(&format!("{PLAN}[[tenant]]\nid = \"A/b\"\nplan = \"p\"\n")).contains("`A/b` is no tenant id")
        );
    }
}
