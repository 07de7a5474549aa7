//! What a tenant or a plan has, by the keys of `tenants.toml`, in values that could be written there.

use super::access::{AddressEntry, TenantAccess};
use super::{Limits, Plan, Tenant};
use crate::config::units::{show_duration, show_size};
use crate::dispatch::schedule::Band;
use crate::ids::BackendTag;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Where a limit of a tenant comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// Its plan, or the default where the plan names none.
    Plan,
    /// It sets it itself.
    Override,
}

/// One limit of a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InForce {
    /// As it would be written; `null`: no such bound.
    pub value: Value,
    /// Where it comes from.
    pub from: From,
}

/// All limits of a tenant, by key.
pub fn of_tenant(tenant: &Tenant) -> BTreeMap<String, InForce> {
    let policy = policy_name(tenant.policy_file.as_deref(), tenant.policy.name());
    let all = keys(
        &tenant.limits,
        &tenant.access,
        policy,
        tenant.pool.as_str(),
        tags(&tenant.backend_tags),
        &tenant.cors_origins,
    );
    let from = |key: &str| if tenant.overrides.contains(&key) { From::Override } else { From::Plan };
    all.into_iter().map(|(key, value)| (key.clone(), InForce { value, from: from(&key) })).collect()
}

/// All limits of a plan, by key.
pub fn of_plan(plan: &Plan) -> Map<String, Value> {
    let policy = policy_name(plan.policy_file.as_deref(), plan.policy.name());
    keys(&plan.limits, &plan.access, policy, plan.pool.as_str(), tags(&plan.backend_tags), &plan.cors_origins)
}

fn policy_name(file: Option<&std::path::Path>, name: &str) -> Value {
    file.map_or_else(|| json!(name), |file| json!(file.display().to_string()))
}

fn keys(
    limits: &Limits,
    access: &TenantAccess,
    policy: Value,
    pool: &str,
    backend_tags: Value,
    origins: &BTreeSet<String>,
) -> Map<String, Value> {
    let rate = |rate: super::Rate| json!({"per_second": rate.per_second, "burst": rate.burst});
    let age = |age: Option<Duration>| json!(age.map(show_duration));
    let seconds = |charge: Option<crate::budget::Charge>| json!(charge.map(|charge| charge.millis() / 1000));
    let list = |entries: &[AddressEntry]| json!(entries.iter().map(ToString::to_string).collect::<Vec<_>>());
    let all = [
        ("policy", policy),
        ("pool", json!(pool)),
        ("backend_tags", backend_tags),
        ("rate", rate(limits.prompt_rate)),
        ("pace", json!({"pages": show_duration(limits.pace.pages), "programs": show_duration(limits.pace.programs)})),
        ("requests", rate(limits.request_rate)),
        ("active_jobs_max", json!(limits.active_jobs_max)),
        ("running_jobs_max", json!((limits.running_jobs_max < u32::MAX).then_some(limits.running_jobs_max))),
        ("priority", json!(band_name(limits.priority))),
        ("websockets_max", json!(limits.websockets_max)),
        ("storage_bytes_max", json!(show_size(limits.storage_bytes_max))),
        ("weight", json!(limits.weight)),
        ("budget_seconds", seconds(limits.budget.tenant)),
        ("user_budget_seconds", seconds(limits.budget.user)),
        ("budget_period", json!(limits.budget.period)),
        ("retry_paid", json!(limits.retry_paid)),
        ("retry_sent", json!(limits.retry_sent)),
        ("retention", age(limits.retention.files)),
        ("retention_history", age(limits.retention.history)),
        ("retention_bytes", json!(limits.retention.result_bytes_max.map(show_size))),
        ("users", json!(access.users)),
        ("users_limited", json!(access.limited.iter().collect::<Vec<_>>())),
        ("allow_addresses", list(access.addresses.allowed())),
        ("cors_origins", json!(origins)),
        ("deny_addresses", list(access.addresses.denied())),
    ];
    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn tags(tags: &BTreeSet<BackendTag>) -> Value {
    json!(tags.iter().map(BackendTag::as_str).collect::<Vec<_>>())
}

fn band_name(band: Band) -> &'static str {
    match band {
        Band::High => "high",
        Band::Normal => "normal",
        Band::Low => "low",
    }
}

#[cfg(test)]
mod tests {
    use super::super::TenantRegistry;
    use super::super::read::KEYS;
    use super::super::written::{TenantSpec, read_spec};
    use super::*;

    #[test]
    fn every_key_is_shown_and_what_is_shown_can_be_written() {
        let registry = TenantRegistry::built_in();
        let tenant = registry.tenants().next().unwrap();
        let shown = of_tenant(tenant);
        assert_eq!(shown.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(KEYS));
        assert!(shown.values().all(|limit| limit.from == From::Plan));
        let limits = shown.into_iter().filter(|(_, limit)| !limit.value.is_null());
        let limits: Map<String, Value> = limits.map(|(key, limit)| (key, limit.value)).collect();
        let spec = TenantSpec { plan: "default".into(), limits, ..TenantSpec::default() };
        let (again, _) = read_spec(&"x".parse().unwrap(), &spec, &registry).unwrap();
        assert_eq!((again.limits, &again.access), (tenant.limits, &tenant.access));
        let shown = of_tenant(&again);
        assert_eq!(shown["weight"], InForce { value: json!(1), from: From::Override });
        assert_eq!(shown["running_jobs_max"], InForce { value: Value::Null, from: From::Plan });
    }
}
