//! Who owns what: in every job, file, session, setting and event route from the first row on (design §4).

use crate::clock::WallMillis;
use crate::ids::{KeyId, SessionId, TenantId, UserId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whose a thing is, and by which key it was made. A key without a user is a service user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Who pays.
    pub tenant: TenantId,
    /// The person within the tenant; absent for a service user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// The API key that was used; absent for a JWT. For audit, not for visibility.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
}

impl Owner {
    /// Whose things this owner sees: those of the same tenant and user, by whatever credential.
    pub fn scope(&self) -> OwnerScope {
        OwnerScope { tenant: self.tenant.clone(), user: self.user.clone() }
    }
}

/// The boundary of visibility: queue, history, files, events and labels are looked up inside one scope and nowhere else.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OwnerScope {
    /// Who pays.
    pub tenant: TenantId,
    /// The person within the tenant; absent for the tenant's service users, who share one scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
}

impl OwnerScope {
    /// One text per scope and no two scopes with one text (`/` is in neither alphabet): key prefix of the ledger's indices.
    pub fn key(&self) -> String {
        format!("{}/{}", self.tenant, self.user.as_ref().map_or("", UserId::as_str))
    }
}

impl fmt::Debug for OwnerScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerScope({})", self.key())
    }
}

/// What a credential may do: a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Queue workflows.
    Submit,
    /// Read queue, history, catalogue and events.
    Read,
    /// Upload, fetch and keep files.
    Files,
    /// Cancel and delete own jobs.
    Cancel,
    /// Operate the gateway.
    Admin,
    /// Submit in the name of a user of the same tenant.
    ActAs,
}

impl Scope {
    /// Every scope, in the order of its declaration.
    pub const ALL: [Self; 6] = [Self::Submit, Self::Read, Self::Files, Self::Cancel, Self::Admin, Self::ActAs];

    /// The name in configuration, tokens and command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Files => "files",
            Self::Cancel => "cancel",
            Self::Admin => "admin",
            Self::ActAs => "act-as",
        }
    }

    /// The scope of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// A set of [`Scope`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// What a key gets that was created without `--scope`: a client's whole use of ComfyUI, nothing of the gateway's.
    pub fn of_a_client() -> Self {
        [Scope::Submit, Scope::Read, Scope::Files, Scope::Cancel].into_iter().collect()
    }
    /// Whether `scope` is in the set.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }
    /// The scopes in the set.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | (1 << scope as u8)))
    }
}

impl Serialize for Scopes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Scope>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// The authenticated caller. Only the authenticate stage makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Whose name the caller acts in.
    pub owner: Owner,
    /// What the credential may do.
    pub scopes: Scopes,
    /// How the caller proved it: a closed list, for audit and metrics.
    pub credential: Credential,
}

/// Which kind of proof a caller brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// `Authorization: Bearer`, `X-API-Key` or Basic with an API key.
    ApiKey,
    /// A JWT of a configured issuer.
    Jwt,
    /// A cookie of ours, got for an API key at `/gate/login`.
    Session(ActiveSession),
    /// A verified certificate of the connection.
    ClientCertificate,
}

/// A session that was good when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActiveSession {
    /// Which.
    pub id: SessionId,
    /// When it was noted as used last.
    pub seen_at: WallMillis,
    /// When it ends if it is not used until then.
    pub idle_until: WallMillis,
    /// When it ends in any case.
    pub ends_at: WallMillis,
}

impl Credential {
    /// The name in audit lines and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Session(_) => "session",
            Self::ClientCertificate => "client_certificate",
        }
    }

    /// The session, if that is what the caller brought.
    pub fn session(self) -> Option<ActiveSession> {
        match self {
            Self::Session(session) => Some(session),
            Self::ApiKey | Self::Jwt | Self::ClientCertificate => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(tenant: &str, user: Option<&str>) -> OwnerScope {
        OwnerScope { tenant: tenant.parse().unwrap(), user: user.map(|u| u.parse().unwrap()) }
    }

    #[test]
    fn scopes_with_equal_parts_have_equal_keys_and_others_do_not() {
        assert_eq!(scope("a", Some("b")).key(), scope("a", Some("b")).key());
        assert_ne!(scope("a", None).key(), scope("a", Some("a")).key());
        assert_ne!(scope("a", Some("b")).key(), scope("ab", None).key());
    }

    #[test]
    fn a_scope_name_leads_back_to_its_scope() {
        for scope in Scope::ALL {
            assert_eq!(Scope::from_name(scope.name()), Some(scope));
        }
        assert_eq!(Scope::from_name("root"), None);
    }

    #[test]
    fn a_clients_scopes_leave_the_gateway_alone() {
        let scopes = Scopes::of_a_client();
        assert!(scopes.has(Scope::Submit) && scopes.has(Scope::Cancel));
        assert!(!scopes.has(Scope::Admin) && !scopes.has(Scope::ActAs));
    }
}
