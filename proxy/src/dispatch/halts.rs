//! What an operator has stopped, as dispatch looks at it: backends that are drained or in maintenance, tenants that are paused.
//!
//! The rows are the ledger's ([`crate::record::ledger::halts`]); here is the list that is in force, replaced whole, and whoever must hear of a change. A backend knows its own halt
//! ([`Backend::halt`](super::backend::Backend::halt)), so that whether it takes jobs needs no lookup.

use super::backend::Backend;
use crate::ids::{BackendId, TenantId};
use crate::record::ledger::halts::{HaltRow, Halted};
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// The halts that are in force.
#[derive(Debug)]
pub struct HaltsInForce {
    rows: ArcSwap<Vec<HaltRow>>,
    paused: ArcSwap<HashSet<TenantId>>,
    changes: watch::Sender<u64>,
    /// Whose turn it is to put what the ledger has into force: an older list must not come over a newer one.
    pub turn: Mutex<()>,
}

impl Default for HaltsInForce {
    fn default() -> Self {
        let (rows, paused) = Default::default();
        Self { rows, paused, changes: watch::Sender::new(0), turn: Mutex::default() }
    }
}

impl HaltsInForce {
    /// These from now on, and no others. Each backend is told of its own.
    pub fn put<'a>(&self, rows: Vec<HaltRow>, backends: impl Iterator<Item = &'a Arc<Backend>>) {
        let paused = rows.iter().filter_map(|row| match &row.halted {
            Halted::Tenant(id) => Some(id.clone()),
            Halted::Backend(_) => None,
        });
        self.paused.store(Arc::new(paused.collect()));
        self.rows.store(Arc::new(rows));
        self.tell(backends);
    }

    /// Tells each backend of its own, and everybody that something may have changed.
    pub fn tell<'a>(&self, backends: impl Iterator<Item = &'a Arc<Backend>>) {
        let rows = self.rows.load();
        let of_backends = rows.iter().filter_map(|row| match &row.halted {
            Halted::Backend(id) => Some((id, row)),
            Halted::Tenant(_) => None,
        });
        let of_backends: BTreeMap<&BackendId, &HaltRow> = of_backends.collect();
        backends.for_each(|backend| backend.set_halt(of_backends.get(&backend.id).map(|row| Arc::new((*row).clone()))));
        self.changed();
    }

    /// Whether that tenant's jobs wait.
    pub fn is_paused(&self, tenant: &TenantId) -> bool {
        self.paused.load().contains(tenant)
    }

    /// Hears of every change of who may be given work: halts, and backends that have warmed up.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Who may be given work has changed.
    pub fn changed(&self) {
        self.changes.send_modify(|times| *times = times.wrapping_add(1));
    }
}

/// The halts of backends that are not configured (any more): nobody could release them by looking at what is there.
pub fn of_gone_backends(rows: &[HaltRow], is_configured: impl Fn(&BackendId) -> bool) -> Vec<Halted> {
    let is_gone = |halted: &&Halted| matches!(halted, Halted::Backend(id) if !is_configured(id));
    rows.iter().map(|row| &row.halted).filter(is_gone).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::endpoint::BackendEndpoint;
    use crate::ids::UpstreamClientId;

    fn row(halted: Halted) -> HaltRow {
        HaltRow { halted, maintenance: false, reason: None, at: WallMillis(1) }
    }

    fn backend(id: &str) -> Arc<Backend> {
        let endpoint = BackendEndpoint::parse("http://127.0.0.1:8188").unwrap();
        Arc::new(Backend::new(id.parse().unwrap(), "default".parse().unwrap(), endpoint, UpstreamClientId::new()))
    }

    #[test]
    fn a_halt_reaches_the_backend_of_that_name_and_no_tenant_of_that_name() {
        let halts = HaltsInForce::default();
        let backends = [backend("a"), backend("b")];
        let heard = halts.subscribe();
        halts.put(vec![row(Halted::Backend("a".parse().unwrap()))], backends.iter());
        let halted = || backends.iter().map(|backend| backend.halt().is_some()).collect::<Vec<_>>();
        assert_eq!(halted(), [true, false]);
        assert!(heard.has_changed().unwrap() && !halts.is_paused(&"a".parse().unwrap()));
        halts.put(vec![row(Halted::Tenant("a".parse().unwrap()))], backends.iter());
        assert_eq!(halted(), [false, false]);
        assert!(halts.is_paused(&"a".parse().unwrap()) && !halts.is_paused(&"b".parse().unwrap()));
    }

    #[test]
    fn a_backend_that_is_not_configured_is_named_and_one_that_is_or_a_tenant_is_not() {
        let of = |id: &str| Halted::Backend(id.parse().unwrap());
        let rows = [row(of("here")), row(of("gone")), row(Halted::Tenant("gone".parse().unwrap()))];
        assert_eq!(of_gone_backends(&rows, |id| id.as_str() == "here"), [of("gone")]);
    }
}
