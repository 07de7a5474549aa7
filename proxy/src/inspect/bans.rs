//! The classes that are banned now, and every policy with these bans in it.

use crate::record::ledger::bans::BanRow;
use arc_swap::ArcSwap;
use comfygate_policy::{Digest, Policy};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Policies with bans that are kept ready: more than a configuration has in use.
const POLICIES_MAX: usize = 256;

/// The list of now. Replaced whole, so that one decision sees one list.
#[derive(Debug, Default)]
pub struct BannedClasses(ArcSwap<Banned>);

#[derive(Debug, Default)]
struct Banned {
    rows: Vec<BanRow>,
    /// By the digest of the policy without bans.
    policies: Mutex<HashMap<Digest, Arc<Policy>>>,
}

impl BannedClasses {
    /// These classes.
    pub fn new(rows: Vec<BanRow>) -> Self {
        let banned = Self::default();
        banned.set(rows);
        banned
    }

    /// These classes from now on, and no others.
    pub fn set(&self, rows: Vec<BanRow>) {
        self.0.store(Arc::new(Banned { rows, policies: Mutex::default() }));
    }

    /// The policy with these bans in it.
    pub fn over(&self, policy: &Arc<Policy>) -> Arc<Policy> {
        let banned = self.0.load();
        if banned.rows.is_empty() {
            return Arc::clone(policy);
        }
        // Filled whole at every moment: a panic elsewhere leaves nothing half done.
        let mut policies = banned.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if policies.len() >= POLICIES_MAX {
            policies.clear();
        }
        let rows = &banned.rows;
        let with = || Arc::new(policy.banning(rows.iter().map(|row| (row.class.clone(), row.reason.clone()))));
        Arc::clone(policies.entry(policy.digest()).or_insert_with(with))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;

    fn row(class: &str) -> BanRow {
        BanRow { class: class.into(), reason: None, at: WallMillis(1) }
    }

    #[test]
    fn a_policy_is_itself_without_bans_and_another_with_each_list_of_them() {
        let policy = Arc::new(Policy::builtin("default").unwrap());
        let banned = BannedClasses::default();
        assert!(Arc::ptr_eq(&banned.over(&policy), &policy));
        banned.set(vec![row("A")]);
        let first = banned.over(&policy);
        assert!(Arc::ptr_eq(&banned.over(&policy), &first), "made once");
        banned.set(vec![row("B")]);
        let second = banned.over(&policy);
        assert!(second.digest() != first.digest() && first.digest() != policy.digest());
        banned.set(Vec::new());
        assert!(Arc::ptr_eq(&banned.over(&policy), &policy));
    }
}
