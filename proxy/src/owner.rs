//! Who owns what: in every job, file, session, setting and event route from the first row on (design §4).

use crate::clock::WallMillis;
use crate::ids::{KeyId, SessionId, TenantId, UserId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whose a thing is, and by which key it was made. A key without a user is a service user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Owner {
    /// Who pays.
    pub tenant: TenantId,
    /// The person within the tenant; absent for a service user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// The API key that was used; absent for a JWT. For audit, not for visibility.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// Its queue, history, files and events are those of its whole tenant (`users = "shared"`): set by the authenticate stage, and kept with what was made so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

impl Owner {
    /// Whose queue, history, files and events this owner sees: those of the same tenant and user, by whatever credential; of the whole tenant where they are shared.
    pub fn scope(&self) -> OwnerScope {
        if self.shared {
            return OwnerScope { tenant: self.tenant.clone(), user: None };
        }
        self.personal()
    }

    /// Whose userdata, settings, sessions, budget and usage these are: the person's, however much is shared.
    pub fn personal(&self) -> OwnerScope {
        OwnerScope { tenant: self.tenant.clone(), user: self.user.clone() }
    }

    /// Whether one may see and end the other's logins: one person's, by whatever; of services only those by the same key, since one that may only read must not end those of one that may do all.
    pub fn holds_sessions_of(&self, other: &Self) -> bool {
        self.is_same_person(other) && (self.user.is_some() || self.key == other.key)
    }

    /// Whether both are one person, or both are services: what `clear` and an interrupt without an id mean.
    pub fn is_same_person(&self, other: &Self) -> bool {
        self.tenant == other.tenant && self.user == other.user
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
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
    /// Work as another tenant, by `Comfygate-Tenant`.
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

impl schemars::JsonSchema for Scopes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scopes".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<Vec<Scope>>()
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
    /// From when on the credential is refused, as far as that is known now: an idle session that is used ends later, what is taken back ends earlier. `None`: it does not run out.
    pub good_until: Option<WallMillis>,
    /// Whose the API key itself is, where it works for another (`act-as`).
    pub home: Option<OwnerScope>,
}

/// Which kind of proof a caller brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// `Authorization: Bearer`, `X-API-Key` or Basic with an API key.
    ApiKey,
    /// A JWT of a configured issuer.
    Jwt,
    /// A cookie of ours, got at `/gate/login` for an API key or a password, by a one-time link, or by way of an identity provider.
    Session(ActiveSession),
    /// A verified certificate of the connection.
    ClientCertificate,
    /// A one-use ticket at `/ws`, for whatever credential made it.
    Ticket,
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
            Self::Ticket => "ticket",
        }
    }

    /// The session, if that is what the caller brought.
    pub fn session(self) -> Option<ActiveSession> {
        match self {
            Self::Session(session) => Some(session),
            Self::ApiKey | Self::Jwt | Self::ClientCertificate | Self::Ticket => None,
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
    fn who_shares_sees_what_its_whole_tenant_made_and_keeps_what_is_personal() {
        let ann = Owner { tenant: "a".parse().unwrap(), user: Some("ann".parse().unwrap()), key: None, shared: false };
        let team = Owner { shared: true, ..ann.clone() };
        assert_eq!((ann.scope(), ann.personal()), (scope("a", Some("ann")), scope("a", Some("ann"))));
        assert_eq!((team.scope(), team.personal()), (scope("a", None), scope("a", Some("ann"))));
        let bob = Owner { user: Some("bob".parse().unwrap()), ..team.clone() };
        assert!(team.is_same_person(&ann) && !team.is_same_person(&bob));
    }

    #[test]
    fn an_owner_that_shares_nothing_is_written_as_before() {
        let read = |text: &str| serde_json::from_str::<Owner>(text).unwrap();
        let old = r#"{"tenant":"a","user":"ann"}"#;
        assert!(!read(old).shared);
        assert_eq!(serde_json::to_string(&read(old)).unwrap(), old);
        let team = Owner { shared: true, ..read(old) };
        assert_eq!(read(&serde_json::to_string(&team).unwrap()), team);
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
