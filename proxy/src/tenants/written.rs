//! A tenant as the control API takes it, read by the rules of `tenants.toml`: written as one `[[tenant]]`, and its faults told by JSON pointers.

use super::created::CLAIM_BYTES_MAX;
use super::read::{KEYS, read_tenant};
use super::{Tenant, TenantRegistry};
use crate::config::faults::Fault;
use crate::ids::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// Longest name for people, in characters.
const NAME_CHARS_MAX: usize = 200;
/// Values within values of one key: `rate` has one.
const DEPTH_MAX: usize = 4;

/// The body of `PUT /v1/tenants/{id}`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {
    /// The plan, by name.
    pub plan: String,
    /// For people; up to 200 characters, none of them control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The value of an issuer's tenant claim that means this tenant; absent: the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Whether its credentials are refused; its jobs and files stay. Absent: as it is, and a new one is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// What it sets itself of its plan: the keys of `[[tenant]]`, values as there.
    #[serde(default)]
    pub limits: Map<String, Value>,
}

/// One thing that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SpecFault {
    /// Where, as a JSON pointer (RFC 6901); empty: the whole body.
    pub pointer: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl SpecFault {
    pub(super) fn at(pointer: &str, message: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), message: message.into() }
    }
}

/// The tenant that this makes with the plans of now, and what is doubtful about it.
///
/// # Errors
/// Every fault; never none.
pub fn read_spec(
    id: &TenantId,
    spec: &TenantSpec,
    registry: &TenantRegistry,
) -> Result<(Tenant, Vec<SpecFault>), Vec<SpecFault>> {
    let mut faults = outer_faults(spec);
    let mut text = format!("[[tenant]]\nid = {}\nplan = {}\n", quoted(id.as_str()), quoted(&spec.plan));
    for (key, value) in &spec.limits {
        let pointer = format!("/limits/{}", escaped(key));
        if !KEYS.contains(&key.as_str()) {
            faults.push(unknown(&pointer, key));
            continue;
        }
        let mut written = String::new();
        match write_value(&mut written, value, &pointer, 0) {
            // A key of ours is a bare key.
            Ok(()) => text.push_str(&format!("{key} = {written}\n")),
            Err(fault) => faults.push(fault),
        }
    }
    // What else is wrong is told with it, and not one by one.
    match read_tenant(registry, id, text) {
        Ok(_) if !faults.is_empty() => Err(faults),
        Ok((tenant, warnings)) => {
            let tenant = Tenant { name: spec.name.clone(), disabled: spec.disabled.unwrap_or(false), ..tenant };
            Ok((tenant, warnings.iter().map(told).collect()))
        }
        Err(further) => {
            faults.extend(further.iter().map(told));
            Err(faults)
        }
    }
}

fn outer_faults(spec: &TenantSpec) -> Vec<SpecFault> {
    let mut faults = Vec::new();
    let bad_name = |name: &String| name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control);
    if spec.name.as_ref().is_some_and(bad_name) {
        let text = format!("a name has at most {NAME_CHARS_MAX} characters, none of them control characters");
        faults.push(SpecFault::at("/name", text));
    }
    if spec.claim.as_ref().is_some_and(|claim| claim.is_empty() || claim.len() > CLAIM_BYTES_MAX) {
        let text = format!("a claim has 1 to {CLAIM_BYTES_MAX} bytes: leave it out where the id is the claim");
        faults.push(SpecFault::at("/claim", text));
    }
    faults
}

fn unknown(pointer: &str, key: &str) -> SpecFault {
    if ["id", "plan", "name", "claim", "disabled"].contains(&key) {
        return SpecFault::at(pointer, "stands beside `limits`, not in it");
    }
    SpecFault::at(pointer, no_key(key))
}

/// What is said of a name that is none of the keys of a tenant's limits.
fn no_key(name: &str) -> String {
    let near = crate::config::reader::nearest(name, &KEYS);
    let hint = near.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
    format!("is no key of a tenant{hint}")
}

/// Why there can be no such key among a tenant's limits. `None`: there can.
pub fn key_fault(name: &str) -> Option<String> {
    (!KEYS.contains(&name)).then(|| no_key(name))
}

/// A fault of the reader, whose keys are `tenant[0].rate.burst`.
fn told(fault: &Fault) -> SpecFault {
    let key = fault.place.key.strip_prefix("tenant[0]").unwrap_or_default();
    let parts: Vec<&str> = key.split(['.', '[', ']']).filter(|part| !part.is_empty()).collect();
    let within = match parts.first() {
        Some(&("id" | "plan" | "name" | "claim" | "disabled")) | None => "",
        Some(_) => "/limits",
    };
    let hint = if fault.hint.is_empty() { String::new() } else { format!(" ({})", fault.hint) };
    let pointer = parts.iter().fold(within.to_owned(), |pointer, part| format!("{pointer}/{}", escaped(part)));
    SpecFault { pointer, message: format!("{}{hint}", fault.what) }
}

/// A part of a JSON pointer.
fn escaped(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

/// A JSON value as TOML writes it, on one line.
fn write_value(out: &mut String, value: &Value, pointer: &str, depth: usize) -> Result<(), SpecFault> {
    if depth > DEPTH_MAX {
        return Err(SpecFault::at(pointer, "values stand too deep within each other"));
    }
    match value {
        Value::Null => return Err(SpecFault::at(pointer, "is `null`: leave it out to have the plan's")),
        Value::Bool(value) => {
            let _ = write!(out, "{value}");
        }
        Value::Number(number) => {
            if number.is_u64() && number.as_i64().is_none() {
                return Err(SpecFault::at(pointer, "is too large a number"));
            }
            let _ = write!(out, "{number}");
        }
        Value::String(text) => out.push_str(&quoted(text)),
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { ", " });
                write_value(out, item, &format!("{pointer}/{place}"), depth + 1)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (place, (key, item)) in fields.iter().enumerate() {
                out.push_str(if place == 0 { " " } else { ", " });
                out.push_str(&quoted(key));
                out.push_str(" = ");
                write_value(out, item, &format!("{pointer}/{}", escaped(key)), depth + 1)?;
            }
            out.push_str(" }");
        }
    }
    Ok(())
}

/// A basic string of TOML. SECURITY: everything but plain printable text is escaped by number, so that no text ends its quotes or its line.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            plain if !plain.is_control() => out.push(plain),
            other => {
                let _ = write!(out, "\\U{:08X}", u32::from(other));
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::faults::{Report, SourceFile};
    use serde_json::json;
    use std::collections::BTreeSet;
    use std::path::Path;

    const FILE: &str =
        "[[plan]]\nid = \"p\"\nactive_jobs_max = 7\nretention = \"24h\"\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n";

    fn registry() -> (TenantRegistry, BTreeSet<String>) {
        let source = SourceFile { path: Path::new("/t.toml").into(), text: FILE.into() };
        let report = Report::default();
        let registry = super::super::read_tenants(&source, Path::new("/nowhere"), &report);
        let asked = report.asked.borrow().clone();
        (registry, asked)
    }

    fn read(spec: Value) -> Result<(Tenant, Vec<SpecFault>), Vec<SpecFault>> {
        read_spec(&"x".parse().unwrap(), &serde_json::from_value(spec).unwrap(), &registry().0)
    }

    fn pointers(spec: Value) -> Vec<String> {
        read(spec).unwrap_err().into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn every_key_that_a_tenant_of_the_file_overrides_is_one_here_and_no_other() {
        let beside = ["id", "plan", "name", "claim", "disabled", "prompt_rate", "scopes", "budget"];
        let asked = registry().1;
        let of_tenant = asked.iter().filter_map(|key| key.strip_prefix("tenant[].")).filter(|key| !key.contains('.'));
        let of_tenant: BTreeSet<&str> = of_tenant.filter(|key| !beside.contains(key)).collect();
        assert_eq!(of_tenant, BTreeSet::from(KEYS));
    }

    #[test]
    fn a_tenant_has_its_plans_limits_and_what_it_sets_itself() {
        let (tenant, warnings) = read(json!({
            "plan": "p", "name": "Acme \"x\"", "disabled": true,
            "limits": {"rate": {"per_second": 0.5, "burst": 3}, "retention": "0s", "backend_tags": ["h200"], "weight": 4,
                       "users": "shared", "users_limited": ["bob"], "allow_addresses": ["10.0.0.0/8"]},
        }))
        .unwrap();
        assert_eq!(
            (tenant.name.as_deref(), tenant.disabled, tenant.limits.active_jobs_max),
            (Some("Acme \"x\""), true, 7)
        );
        assert_eq!(
            (tenant.limits.prompt_rate.burst, tenant.limits.retention.files, tenant.limits.weight),
            (3, None, 4)
        );
        assert!(tenant.access.shares(None) && !tenant.access.shares(Some(&"bob".parse().unwrap())));
        let mut overrides = tenant.overrides.to_vec();
        overrides.sort_unstable();
        assert_eq!(
            overrides,
            ["allow_addresses", "backend_tags", "rate", "retention", "users", "users_limited", "weight"]
        );
        assert_eq!(warnings, []);
    }

    #[test]
    fn faults_are_those_of_the_file_each_at_its_json_pointer() {
        let faults =
            read(json!({"plan": "p", "limits": {"weight": 0, "rate": {"per_second": 1, "burst": 0}}})).unwrap_err();
        assert_eq!(faults.len(), 2);
        assert!(faults.iter().any(|fault| fault.pointer == "/limits/rate/burst"));
        assert!(faults.iter().any(|fault| fault.pointer == "/limits/weight" && fault.message.contains("out of range")));
        assert_eq!(pointers(json!({"plan": "q"})), ["/plan"]);
        assert_eq!(pointers(json!({"plan": "p", "limits": {"wieght": 1}})), ["/limits/wieght"]);
        let several = json!({"plan": "q", "name": "\n", "limits": {"wieght": 1, "weight": 0}});
        let told = pointers(several);
        assert!(
            ["/name", "/limits/wieght", "/plan", "/limits/weight"].iter().all(|at| told.iter().any(|one| one == at)),
            "{told:?}"
        );
        assert_eq!(pointers(json!({"plan": "p", "limits": {"disabled": true}})), ["/limits/disabled"]);
        assert_eq!(pointers(json!({"plan": "p", "limits": {"rate": null}})), ["/limits/rate"]);
        assert_eq!(pointers(json!({"plan": "p", "limits": {"weight": u64::MAX}})), ["/limits/weight"]);
        assert_eq!(pointers(json!({"plan": "p", "limits": {"rate": {"a": {"b": {"c": {"d": {"e": 1}}}}}}})).len(), 1);
        assert_eq!(pointers(json!({"plan": "p", "name": "a\nb", "claim": ""})), ["/name", "/claim"]);
        let name = |chars: usize| json!({"plan": "p", "name": "é".repeat(chars)});
        assert!(read(name(NAME_CHARS_MAX)).is_ok() && read(name(NAME_CHARS_MAX + 1)).is_err());
        let claim = |bytes: usize| json!({"plan": "p", "claim": "x".repeat(bytes)});
        assert!(read(claim(CLAIM_BYTES_MAX)).is_ok() && read(claim(CLAIM_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn no_text_breaks_out_of_its_quotes() {
        for text in ["p\"\nweight = 9\n#", "p\\", "p\u{7f}", "p\n[[tenant]]\nid=\"local\"", "p\u{0}"] {
            assert_eq!(pointers(json!({"plan": text})), ["/plan"], "{text:?}");
            let faults = read(json!({"plan": "p", "limits": {"pool": text}})).unwrap_err();
            assert!(faults.iter().all(|fault| fault.pointer == "/limits/pool"), "{faults:?}");
        }
        let fault = &read(json!({"plan": "p", "limits": {"rate": {"x\" = 1, \"burst": 1}}})).unwrap_err()[0];
        assert!(fault.pointer.starts_with("/limits/rate"), "{fault:?}");
    }

    #[test]
    fn what_is_doubtful_is_told_beside_the_tenant() {
        let (_, warnings) = read(json!({"plan": "p", "limits": {"retention": "1m"}})).unwrap();
        assert_eq!(warnings[0].pointer, "/limits/retention");
        let idle =
            json!({"plan": "p", "limits": {"allow_addresses": ["10.1.0.0/16"], "deny_addresses": ["10.0.0.0/8"]}});
        assert_eq!(read(idle).unwrap().1.len(), 1);
    }
}
