//! `act-as`: an API key that works in the name of another tenant, and of a user there.
//!
//! A program of the operator's own, such as the server behind a shop, has one key with the scope `act-as` and says with each request whom it works for. From there on the request is that
//! tenant's: its limits, policy, budget, files and events, and nothing of anybody else's. Only audit and usage lines know the key too.
//!
//! SECURITY: the headers are never ignored. A proxy or a program that believes it is confined to a tenant by them must not work as another, so whoever may not use them is refused.

use super::in_open_tenant;
use crate::ids::{KeyId, TenantId, UserId};
use crate::owner::{Credential, Owner, Principal, Scope};
use crate::tenants::AllTenants;
use http::{HeaderMap, HeaderName};

/// Whom a request works for.
pub const COMFYGATE_TENANT: HeaderName = HeaderName::from_static("comfygate-tenant");
/// The person there; without it, the tenant's service user.
pub const COMFYGATE_USER: HeaderName = HeaderName::from_static("comfygate-user");

/// Why a request does not work for another tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActingError {
    /// A header that can't be read: 400.
    #[error("{0}")]
    Malformed(&'static str),
    /// 403, in one text for all reasons: which tenants there are is not told.
    #[error("act-as{}: {reason}", .key.as_ref().map(|key| format!(" by the key `{key}`")).unwrap_or_default())]
    Refused {
        /// By which key, if it was one.
        key: Option<KeyId>,
        /// For the log.
        reason: &'static str,
    },
}

/// Whom the caller works for: the same principal without the headers, else the tenant and user that they name, with the key's own scopes but `act-as` and `admin`.
///
/// # Errors
/// [`ActingError`].
pub fn acting(principal: Principal, headers: &HeaderMap, tenants: &AllTenants) -> Result<Principal, ActingError> {
    let Some((tenant, user)) = wanted(headers)? else { return Ok(principal) };
    let refused = |reason| ActingError::Refused { key: principal.owner.key.clone(), reason };
    if principal.credential != Credential::ApiKey {
        return Err(refused("only API keys may"));
    }
    if !principal.scopes.has(Scope::ActAs) {
        return Err(refused("the key lacks the scope"));
    }
    match tenants.tenant(&tenant) {
        None => return Err(refused("there is no such tenant")),
        Some(known) if known.disabled => return Err(refused("the tenant is disabled")),
        // Its packs trust whoever reaches them: only its own credentials do.
        Some(known) if known.is_owner() => return Err(refused("the tenant is in the owner posture")),
        Some(_) => {}
    }
    let scopes = principal.scopes.iter().filter(|scope| !matches!(scope, Scope::ActAs | Scope::Admin)).collect();
    let home = Some(principal.owner.personal());
    let owner = Owner { tenant, user, key: principal.owner.key, shared: false };
    let owner =
        in_open_tenant(owner, tenants).ok_or(ActingError::Refused { key: None, reason: "the tenant is closed" })?;
    Ok(Principal { owner, scopes, home, ..principal })
}

/// Whether a request says whom it works for.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    headers.contains_key(COMFYGATE_TENANT) || headers.contains_key(COMFYGATE_USER)
}

fn wanted(headers: &HeaderMap) -> Result<Option<(TenantId, Option<UserId>)>, ActingError> {
    let malformed = ActingError::Malformed;
    let tenant = only(headers, &COMFYGATE_TENANT, "`Comfygate-Tenant` stands twice: name one tenant")?;
    let user = only(headers, &COMFYGATE_USER, "`Comfygate-User` stands twice: name one user")?;
    let Some(tenant) = tenant else {
        return match user {
            Some(_) => Err(malformed("`Comfygate-User` stands without `Comfygate-Tenant`: name the tenant too")),
            None => Ok(None),
        };
    };
    let tenant = tenant.parse().map_err(|_| malformed("`Comfygate-Tenant` is no tenant id"))?;
    let user = user.map(str::parse).transpose().map_err(|_| malformed("`Comfygate-User` is no user id"))?;
    Ok(Some((tenant, user)))
}

fn only<'h>(headers: &'h HeaderMap, name: &HeaderName, twice: &'static str) -> Result<Option<&'h str>, ActingError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        // What is no text is no id either.
        (Some(value), None) => Ok(Some(value.to_str().unwrap_or_default())),
        (Some(_), Some(_)) => Err(ActingError::Malformed(twice)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Scopes;
    use crate::tenants::{Tenant, TenantRegistry};
    use comfygate_policy::Policy;
    use std::sync::Arc;

    fn tenants() -> AllTenants {
        let local = (*TenantRegistry::built_in().tenant(&"local".parse().unwrap()).unwrap()).clone();
        let named = |id: &str| Tenant { id: id.parse().unwrap(), ..local.clone() };
        let owner = Tenant { policy: Arc::new(Policy::builtin("owner").unwrap()), ..named("house") };
        let closed = Tenant { disabled: true, ..named("closed") };
        AllTenants::of_the_file(TenantRegistry::new([named("acme"), named("agency"), owner, closed], []))
    }

    fn agent(scopes: &[Scope]) -> Principal {
        let key = Some("aaaaaaaaaaaa".parse().unwrap());
        Principal {
            owner: Owner { tenant: "agency".parse().unwrap(), user: Some("bot".parse().unwrap()), key, shared: false },
            scopes: scopes.iter().copied().collect(),
            credential: Credential::ApiKey,
            good_until: None,
            home: None,
        }
    }

    fn asked(principal: Principal, list: &[(&HeaderName, &str)]) -> Result<Principal, ActingError> {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append((*name).clone(), value.parse().unwrap());
        }
        acting(principal, &headers, &tenants())
    }

    const ALL: [Scope; 4] = [Scope::Submit, Scope::Read, Scope::Admin, Scope::ActAs];

    #[test]
    fn an_act_as_key_works_as_the_tenant_and_user_it_names_without_its_special_scopes() {
        let acts = asked(agent(&ALL), &[(&COMFYGATE_TENANT, "acme"), (&COMFYGATE_USER, "ada")]).unwrap();
        assert_eq!(acts.owner.scope().key(), "acme/ada");
        assert_eq!(acts.owner.key, agent(&ALL).owner.key);
        assert_eq!(acts.home, Some(agent(&ALL).owner.personal()));
        assert_eq!(acts.scopes, [Scope::Submit, Scope::Read].into_iter().collect::<Scopes>());
        let service = asked(agent(&ALL), &[(&COMFYGATE_TENANT, "acme")]).unwrap();
        assert_eq!(service.owner.scope().key(), "acme/", "its own user is no user of that tenant");
    }

    #[test]
    fn without_the_header_it_works_as_itself() {
        assert_eq!(asked(agent(&ALL), &[]).unwrap(), agent(&ALL));
    }

    #[test]
    fn who_lacks_the_scope_or_shows_no_key_is_refused_and_never_ignored() {
        let refused =
            |principal| matches!(asked(principal, &[(&COMFYGATE_TENANT, "acme")]), Err(ActingError::Refused { .. }));
        assert!(refused(agent(&[Scope::Submit, Scope::Read, Scope::Admin])));
        for credential in [Credential::Jwt, Credential::ClientCertificate, Credential::Ticket] {
            assert!(refused(Principal { credential, ..agent(&ALL) }), "{credential:?}");
        }
        assert!(!refused(agent(&ALL)));
    }

    #[test]
    fn unknown_disabled_and_owning_tenants_are_refused() {
        for tenant in ["nobody", "closed", "house"] {
            let asked = asked(agent(&ALL), &[(&COMFYGATE_TENANT, tenant)]);
            assert!(matches!(asked, Err(ActingError::Refused { .. })), "{tenant}");
        }
    }

    #[test]
    fn headers_that_stand_twice_or_name_nothing_are_malformed() {
        let (tenant, user) = (&COMFYGATE_TENANT, &COMFYGATE_USER);
        for headers in [
            &[(tenant, "acme"), (tenant, "acme")][..],
            &[(tenant, "acme"), (user, "ada"), (user, "ada")],
            &[(tenant, "")],
            &[(tenant, "acme bravo")],
            &[(tenant, "acme"), (user, "")],
            &[(tenant, "acme"), (user, "a/b")],
            &[(user, "ada")],
        ] {
            assert!(matches!(asked(agent(&ALL), headers), Err(ActingError::Malformed(_))), "{headers:?}");
        }
    }
}
