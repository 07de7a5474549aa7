//! `[[jwt]]` as written to [`JwtIssuerConfig`] as used: keys read, algorithms compared with them, plans looked up.

use super::checked::Checker;
use super::faults::{Place, read_bounded};
use super::raw::RawJwt;
use super::reader::{Located, nearest};
use super::secrets::{SecretBytes, SecretReference};
use super::{BackendConfig, CreateConfig, IssuerKeys, JwksConfig, JwtIssuerConfig, UnknownTenant};
use crate::authenticate::jwks::fetch::Roots;
use crate::authenticate::jwks::url::{JwksUrl, JwksUrlError};
use crate::authenticate::jwt_claims::ClaimPath;
use crate::authenticate::jwt_ring::{Algorithm, KeyKind, VerifyingKey};
use crate::clock::SKEW_MAX;
use crate::tenants::TenantRegistry;
use std::collections::BTreeMap;

/// Largest file of CA certificates in bytes: a system's whole bundle has 220 KiB.
const CA_BYTES_MAX: u64 = 1 << 20;

/// Checks every issuer; `registry` has the plans, `backends` the pools. Faulty ones are left out, and noted.
pub(super) fn checked_issuers(
    checker: &Checker<'_>,
    raw: Vec<RawJwt>,
    registry: &TenantRegistry,
    backends: &[BackendConfig],
) -> Vec<JwtIssuerConfig> {
    let mut seen = BTreeMap::new();
    for issuer in raw.iter().filter_map(|jwt| jwt.issuer.as_ref()) {
        checker.unique(&mut seen, issuer.value.clone(), &issuer.at, "an issuer");
    }
    let issuers = Issuers { checker, registry, backends };
    raw.into_iter().filter_map(|jwt| issuers.issuer(jwt)).collect()
}

/// A URL without what may be a password.
pub(super) fn without_user(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

/// What the checks of an issuer look into.
pub(super) struct Issuers<'a> {
    pub(super) checker: &'a Checker<'a>,
    pub(super) registry: &'a TenantRegistry,
    pub(super) backends: &'a [BackendConfig],
}

/// The keys of a table that say which tenants tokens make.
pub(super) struct Creation<'r> {
    /// The table.
    pub(super) at: &'r Place,
    pub(super) unknown_tenant: Option<&'r Located<&'static str>>,
    pub(super) create_plan: Option<&'r Located<String>>,
    pub(super) plan_claim: Option<&'r Located<ClaimPath>>,
    pub(super) plans_from_claim: Option<&'r [Located<String>]>,
}

impl Issuers<'_> {
    fn refuse<T>(&self, at: &Place, what: impl Into<String>, hint: &str) -> Option<T> {
        self.checker.refuse(at, what, hint)
    }

    fn issuer(&self, raw: RawJwt) -> Option<JwtIssuerConfig> {
        let keys = self.keys(&raw);
        let unknown_tenant = self.unknown_tenant(&Creation {
            at: &raw.at,
            unknown_tenant: raw.unknown_tenant.as_ref(),
            create_plan: raw.create_plan.as_ref(),
            plan_claim: raw.plan_claim.as_ref(),
            plans_from_claim: raw.plans_from_claim.as_deref(),
        });
        Some(JwtIssuerConfig {
            issuer: raw.issuer?.value,
            audience: raw.audience?.value,
            keys: keys?,
            tenant_claim: raw.tenant_claim?.value,
            unknown_tenant: unknown_tenant?,
            user_claim: raw.user_claim.map_or_else(|| "sub".parse::<ClaimPath>().ok(), |found| Some(found.value))?,
            scope_claim: raw.scope_claim.map(|found| found.value),
            leeway: raw.leeway.unwrap_or(SKEW_MAX),
        })
    }

    fn keys(&self, raw: &RawJwt) -> Option<IssuerKeys> {
        if raw.jwks_url.is_some() {
            return self.published(raw).map(IssuerKeys::Published);
        }
        let of_a_set = [
            raw.jwks_ca.as_ref().map(|found| &found.at),
            raw.jwks_refresh.as_ref().map(|found| &found.at),
            raw.jwks_stale_max.as_ref().map(|found| &found.at),
        ];
        if let Some(at) = of_a_set.into_iter().flatten().next() {
            return self.refuse(
                at,
                "this key belongs to `jwks_url`, which is not set",
                "set it, or leave this one out",
            );
        }
        let algorithm = self.algorithm(raw)?;
        self.verifying_key(raw, algorithm).map(IssuerKeys::Fixed)
    }

    /// The set that an issuer publishes.
    fn published(&self, raw: &RawJwt) -> Option<JwksConfig> {
        if let Some(other) = raw.key_file.as_ref().or(raw.secret.as_ref()) {
            return self.refuse(&other.at, "an issuer has one source of keys", "`jwks_url`, or this one");
        }
        let algorithms = self.algorithms_of_a_set(raw);
        let named = raw.jwks_url.as_ref()?;
        let url: JwksUrl = match named.value.parse() {
            Ok(url) => url,
            Err(error) => {
                let error: JwksUrlError = error;
                return self.refuse(&named.at, format!("`{}` {error}", without_user(&named.value)), "");
            }
        };
        let roots = match &raw.jwks_ca {
            None => Some(Roots::shipped()),
            Some(named) if !url.is_https() => self.refuse(&named.at, "plain http shows no certificate", "leave it out"),
            Some(named) => self.roots(named),
        };
        let refresh = raw.jwks_refresh.as_ref().map_or(JwksConfig::REFRESH, |found| found.value);
        let stale_max = raw.jwks_stale_max.as_ref().map_or(JwksConfig::STALE_MAX, |found| found.value);
        if let Some(at) = raw.jwks_stale_max.as_ref().or(raw.jwks_refresh.as_ref()).map(|found| &found.at)
            && stale_max < refresh
        {
            let hint = "raise `jwks_stale_max` or lower `jwks_refresh`";
            return self.refuse(at, "a set would be too old before it is fetched again", hint);
        }
        Some(JwksConfig { url, roots: roots?, algorithms: algorithms?, refresh, stale_max })
    }

    pub(super) fn roots(&self, named: &Located<String>) -> Option<Roots> {
        let path = self.checker.absolute(&named.value);
        let pem = match read_bounded(&path, CA_BYTES_MAX) {
            Ok(pem) => pem,
            Err(error) => return self.refuse(&named.at, format!("can't read `{}`: {error}", path.display()), ""),
        };
        match Roots::from_pem(&pem) {
            Ok(roots) => Some(roots),
            Err(error) => self.refuse(&named.at, format!("`{}`: {error}", path.display()), ""),
        }
    }

    /// Any number, each once. SECURITY: HS256 never: whoever can fetch the set would know the secret (RFC 8725 §2.1).
    fn algorithms_of_a_set(&self, raw: &RawJwt) -> Option<Vec<Algorithm>> {
        self.published_algorithms(raw.algorithms.as_deref()?, &raw.at)
    }

    /// The same for any table; `at` is where it is.
    pub(super) fn published_algorithms(&self, named: &[Located<String>], at: &Place) -> Option<Vec<Algorithm>> {
        if named.is_empty() {
            return self.refuse(at, "`algorithms` is empty", "name what the issuer signs with, such as RS256");
        }
        let mut algorithms = Vec::new();
        let mut good = true;
        for name in named {
            match self.known(name) {
                Some(algorithm) if algorithm.key_kind() == KeyKind::Secret => {
                    let hint = "name what the issuer's published keys are for, such as RS256, ES256, EdDSA";
                    good = self.refuse::<()>(&name.at, "a shared secret is never published", hint).is_some();
                }
                Some(algorithm) if algorithms.contains(&algorithm) => {
                    good = self.refuse::<()>(&name.at, "stands here twice", "each is named once").is_some();
                }
                Some(algorithm) => algorithms.push(algorithm),
                None => good = false,
            }
        }
        good.then_some(algorithms)
    }

    fn known(&self, name: &Located<String>) -> Option<Algorithm> {
        Algorithm::from_name(&name.value).or_else(|| {
            let names = Algorithm::ALL.map(Algorithm::name).join(", ");
            self.refuse(
                &name.at,
                format!("`{}` is no algorithm of this gateway", name.value),
                &format!("one of {names}"),
            )
        })
    }

    /// The one algorithm of the one key. SECURITY: a public key that may also be read as an HMAC secret is the classic forgery (RFC 8725 §2.1).
    fn algorithm(&self, raw: &RawJwt) -> Option<Algorithm> {
        let named = raw.algorithms.as_deref()?;
        let [only] = named else {
            let what = format!("{} algorithms for one key", named.len());
            return self.refuse(
                named.get(1).map_or(&raw.at, |second| &second.at),
                what,
                "name exactly one; several are for `jwks_url`",
            );
        };
        self.known(only)
    }

    fn verifying_key(&self, raw: &RawJwt, algorithm: Algorithm) -> Option<VerifyingKey> {
        let (wanted, other) = match algorithm {
            Algorithm::Hs256 => (&raw.secret, &raw.key_file),
            _ => (&raw.key_file, &raw.secret),
        };
        if let Some(other) = other {
            let hint = "HS256 takes `secret`, all others take `key_file`";
            return self.refuse(&other.at, format!("{} does not use this key", algorithm.name()), hint);
        }
        let Some(named) = wanted else {
            let hint = if algorithm == Algorithm::Hs256 {
                "secret = \"file:PATH\" or \"env:NAME\""
            } else {
                "jwks_url = \"https://…\", or key_file = \"PATH of the public key in PEM\""
            };
            return self.refuse(&raw.at, "an issuer needs its key", hint);
        };
        let material = self.key_material(named, algorithm)?;
        match VerifyingKey::new(algorithm, material.expose()) {
            Ok(key) => Some(key),
            Err(error) => self.refuse(&named.at, error.to_string(), ""),
        }
    }

    fn key_material(&self, named: &Located<String>, algorithm: Algorithm) -> Option<SecretBytes> {
        let surroundings = self.checker.surroundings;
        let material = match algorithm {
            Algorithm::Hs256 => {
                self.checker.secret(&named.at, SecretReference::parse(&named.value, &surroundings.current_dir))
            }
            // A public key, which everybody may read.
            _ => {
                let path = self.checker.absolute(&named.value);
                self.checker.consists_of(&path);
                SecretReference::File(path).read(surroundings.environment)
            }
        };
        match material {
            Ok(material) => Some(material),
            Err(error) => self.refuse(&named.at, error.to_string(), ""),
        }
    }

    pub(super) fn unknown_tenant(&self, raw: &Creation<'_>) -> Option<UnknownTenant> {
        if raw.unknown_tenant.is_none_or(|found| found.value != "create") {
            let of_creation = [
                raw.create_plan.map(|found| &found.at),
                raw.plan_claim.map(|found| &found.at),
                raw.plans_from_claim.and_then(<[_]>::first).map(|found| &found.at),
            ];
            return match of_creation.into_iter().flatten().next() {
                Some(at) => self.refuse(at, "this key belongs to `unknown_tenant = \"create\"`, which is not set", ""),
                None => Some(UnknownTenant::Refuse),
            };
        }
        let Some(plan) = raw.create_plan else {
            return self.refuse(
                raw.at,
                "`unknown_tenant = \"create\"` needs `create_plan`",
                "a plan of the tenants file",
            );
        };
        let listed = raw.plans_from_claim.unwrap_or_default();
        match (raw.plan_claim, listed.first()) {
            (Some(claim), None) => {
                return self.refuse(&claim.at, "no plan may be chosen by it", "list them in `plans_from_claim`");
            }
            (None, Some(first)) => return self.refuse(&first.at, "no claim chooses among them", "set `plan_claim`"),
            _ => {}
        }
        // Each is looked up, so that all faults are told at once.
        let missing = [plan].into_iter().chain(listed).filter(|name| !self.is_plan_for_tokens(name)).count();
        (missing == 0).then(|| {
            UnknownTenant::Create(CreateConfig {
                plan: plan.value.clone(),
                plan_claim: raw.plan_claim.map(|found| found.value.clone()),
                plans_from_claim: listed.iter().map(|found| found.value.clone()).collect(),
            })
        })
    }

    /// A plan that is there, with a backend, and that shares nothing with whoever trusts its own packs.
    fn is_plan_for_tokens(&self, name: &Located<String>) -> bool {
        if !self.is_plan(name) {
            return false;
        }
        // A plan that is there and faulty was told of already.
        let Some(plan) = self.registry.plan(&name.value) else { return true };
        if !self.registry.suits_made_tenants(plan) {
            let hint = "tenants that tokens make are strangers: give them a plan without the owner posture, in a pool without an owner";
            let what =
                format!("the plan `{}` has the owner posture, or shares the pool of a tenant that has it", name.value);
            return self.refuse::<()>(&name.at, what, hint).is_some();
        }
        let serves = |backend: &&BackendConfig| plan.backend_tags.is_subset(&backend.tags);
        let served = self.backends.iter().filter(|backend| backend.pool == plan.pool).any(|backend| serves(&backend));
        let what = || {
            format!("the plan `{}` is in the pool `{}`, which has no backend with all its tags", name.value, plan.pool)
        };
        served || self.refuse::<()>(&name.at, what(), "say `pool` and `tags` in [[backends]]").is_some()
    }

    fn is_plan(&self, name: &Located<String>) -> bool {
        let known: Vec<&str> = self.registry.plan_names().collect();
        if known.contains(&name.value.as_str()) {
            return true;
        }
        let hint = nearest(&name.value, &known).map_or_else(
            || {
                format!(
                    "plans of the tenants file: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                )
            },
            |near| format!("did you mean `{near}`?"),
        );
        self.refuse::<()>(&name.at, format!("no plan has the id `{}`", name.value), &hint).is_some()
    }
}
