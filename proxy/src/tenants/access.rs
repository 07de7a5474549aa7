//! Who of a tenant gets in from where, and who of its people see what the others made.

use crate::ids::UserId;
use crate::listen::ClientAddr;
use crate::listen::trusted::{Network, NetworkError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Networks of one list, at most.
pub const NETWORKS_MAX: usize = 1000;
/// Users that are limited to their own, at most.
pub const LIMITED_MAX: usize = 10_000;

/// What people of one tenant see of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Users {
    /// Each what it made itself.
    #[default]
    Own,
    /// One queue, history and folder of files for all.
    Shared,
}

impl Users {
    /// The names in configuration.
    pub const NAMES: [&'static str; 2] = ["own", "shared"];

    /// The value of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "own" => Some(Self::Own),
            "shared" => Some(Self::Shared),
            _ => None,
        }
    }

    /// Its name in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Shared => "shared",
        }
    }
}

/// What a plan and a tenant say of access.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantAccess {
    /// What its people see of each other.
    pub users: Users,
    /// Who of them sees only its own all the same.
    pub limited: Arc<LimitedUsers>,
    /// From where its credentials are taken.
    pub addresses: Arc<AddressRule>,
}

impl TenantAccess {
    /// Whether this person (`None`: a service) sees what the whole tenant made.
    pub fn shares(&self, user: Option<&UserId>) -> bool {
        self.users == Users::Shared && user.is_none_or(|user| !self.limited.has(user))
    }
}

/// Users, each once. SECURITY: found however a name is written, since a local user, its keys and `Comfygate-User` are one person in whatever case; a token's user is limited by the name of another case
/// too, which is the safe way to be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitedUsers(BTreeMap<String, UserId>);

impl LimitedUsers {
    /// Whether this user is one of them.
    pub fn has(&self, user: &UserId) -> bool {
        !self.0.is_empty() && self.0.contains_key(&user.as_str().to_ascii_lowercase())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As they were written, in order.
    pub fn iter(&self) -> impl Iterator<Item = &UserId> {
        self.0.values()
    }
}

impl FromIterator<UserId> for LimitedUsers {
    fn from_iter<T: IntoIterator<Item = UserId>>(users: T) -> Self {
        Self(users.into_iter().map(|user| (user.as_str().to_ascii_lowercase(), user)).collect())
    }
}

/// One entry of an address list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressEntry {
    /// Addresses.
    Network(Network),
    /// Whoever comes by a unix socket without a trusted proxy's word: its address is not known.
    Unix,
}

impl AddressEntry {
    fn holds(&self, client: ClientAddr) -> bool {
        match self {
            // Nothing is known of such a caller: a network must not hold it by accident.
            Self::Network(network) => client != ClientAddr::UNKNOWN && network.holds(client.ip()),
            Self::Unix => client == ClientAddr::UNKNOWN,
        }
    }

    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Network(all), Self::Network(part)) => all.contains(part),
            (Self::Unix, Self::Unix) => true,
            _ => false,
        }
    }
}

/// The text is no entry of an address list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressEntryError {
    /// Every address.
    #[error("`{0}` is every address: leave the list out to let all in, or set `disabled` to let nobody in")]
    Everybody(String),
    /// Another fault of the network.
    #[error(transparent)]
    Network(NetworkError),
}

impl FromStr for AddressEntry {
    type Err = AddressEntryError;
    fn from_str(text: &str) -> Result<Self, AddressEntryError> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        text.parse().map(Self::Network).map_err(|error| match error {
            NetworkError::Everybody(text) => AddressEntryError::Everybody(text),
            other => AddressEntryError::Network(other),
        })
    }
}

impl fmt::Display for AddressEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// From where credentials of a tenant are taken: from the allowed addresses (none written: from all) that are not denied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressRule {
    allow: Vec<AddressEntry>,
    deny: Vec<AddressEntry>,
}

impl AddressRule {
    /// These two lists.
    pub fn new(allow: Vec<AddressEntry>, deny: Vec<AddressEntry>) -> Self {
        Self { allow, deny }
    }

    /// Whether a credential is taken from there. Deny wins.
    pub fn admits(&self, client: ClientAddr) -> bool {
        let held = |list: &[AddressEntry]| list.iter().any(|entry| entry.holds(client));
        !held(&self.deny) && (self.allow.is_empty() || held(&self.allow))
    }

    /// The allowed ones, as written.
    pub fn allowed(&self) -> &[AddressEntry] {
        &self.allow
    }

    /// The denied ones, as written.
    pub fn denied(&self) -> &[AddressEntry] {
        &self.deny
    }

    /// Entries that change nothing: an allowed one within a denied one, a denied one beside all allowed ones. Each with the reason.
    pub fn idle_entries(&self) -> Vec<(AddressEntry, &'static str)> {
        let denied = |entry: &&AddressEntry| self.deny.iter().any(|deny| deny.contains(entry));
        let beside = |entry: &&AddressEntry| {
            !self.allow.is_empty() && !self.allow.iter().any(|allow| allow.contains(entry) || entry.contains(allow))
        };
        let allow = self.allow.iter().filter(denied).map(|entry| (*entry, "is allowed and all of it is denied"));
        let deny = self.deny.iter().filter(beside).map(|entry| (*entry, "is denied and none of it is allowed anyway"));
        allow.chain(deny).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: &[&str], deny: &[&str]) -> AddressRule {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        AddressRule::new(list(allow), list(deny))
    }

    fn admits(rule: &AddressRule, address: &str) -> bool {
        rule.admits(ClientAddr::of_ip(address.parse().unwrap()))
    }

    #[test]
    fn without_lists_all_are_admitted_and_deny_wins_over_allow() {
        assert!(admits(&rule(&[], &[]), "192.0.2.1") && rule(&[], &[]).admits(ClientAddr::UNKNOWN));
        let both = rule(&["10.0.0.0/8", "2001:db8::/32"], &["10.1.0.0/16"]);
        assert!(admits(&both, "10.0.255.255") && admits(&both, "10.2.0.0") && admits(&both, "2001:db8::1"));
        assert!(!admits(&both, "10.1.0.0") && !admits(&both, "10.1.255.255"));
        assert!(!admits(&both, "11.0.0.0") && !admits(&both, "2001:db9::"));
        assert!(admits(&both, "::ffff:10.0.0.1") && !admits(&both, "::ffff:10.1.0.1"));
        let only_denied = rule(&[], &["192.0.2.0/24"]);
        assert!(admits(&only_denied, "192.0.3.0") && !admits(&only_denied, "192.0.2.255"));
    }

    #[test]
    fn who_comes_from_nowhere_known_is_let_in_by_the_word_unix_alone() {
        assert!(!rule(&["10.0.0.0/8"], &[]).admits(ClientAddr::UNKNOWN));
        assert!(!rule(&["0.0.0.0/1"], &[]).admits(ClientAddr::UNKNOWN));
        assert!(rule(&["10.0.0.0/8", "unix"], &[]).admits(ClientAddr::UNKNOWN));
        assert!(!rule(&[], &["unix"]).admits(ClientAddr::UNKNOWN) && admits(&rule(&[], &["unix"]), "10.0.0.1"));
    }

    #[test]
    fn every_address_is_no_entry_and_the_reason_says_what_to_write() {
        let error = |text: &str| text.parse::<AddressEntry>().unwrap_err().to_string();
        assert!(error("0.0.0.0/0").contains("leave the list out"));
        assert!(error("10.1.2.3/8").contains("the network is `10.0.0.0/8`"));
        assert!("::1".parse::<AddressEntry>().is_ok() && "::/0".parse::<AddressEntry>().is_err());
    }

    #[test]
    fn entries_without_effect_are_named() {
        let idle = |allow: &[&str], deny: &[&str]| rule(allow, deny).idle_entries().len();
        assert_eq!(idle(&["10.1.0.0/16"], &["10.0.0.0/8"]), 1);
        assert_eq!(idle(&["10.0.0.0/8"], &["10.1.0.0/16"]), 0);
        assert_eq!(idle(&["10.0.0.0/8"], &["11.0.0.0/8"]), 1);
        assert_eq!(idle(&[], &["11.0.0.0/8", "unix"]), 0);
        assert_eq!(idle(&["10.0.0.0/8"], &["unix"]), 1);
    }

    #[test]
    fn a_limited_user_and_nobody_else_of_a_team_sees_only_its_own() {
        let (ann, bob): (UserId, UserId) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        let limited = Arc::new(LimitedUsers::from_iter([bob.clone()]));
        let team = TenantAccess { users: Users::Shared, limited, addresses: Arc::default() };
        assert!(team.shares(Some(&ann)) && team.shares(None) && !team.shares(Some(&bob)));
        // However the one or the other writes it.
        assert!(!team.shares(Some(&"BOB".parse().unwrap())) && team.shares(Some(&"bobby".parse().unwrap())));
        let shouted =
            TenantAccess { limited: Arc::new(LimitedUsers::from_iter(["Bob".parse().unwrap()])), ..team.clone() };
        assert!(!shouted.shares(Some(&bob)) && shouted.limited.iter().next().unwrap().as_str() == "Bob");
        let own = TenantAccess { users: Users::Own, ..team };
        assert!(!own.shares(Some(&ann)) && !own.shares(None));
        for name in Users::NAMES {
            assert_eq!(Users::from_name(name).unwrap().name(), name);
        }
    }
}
