//! Tenants that the control API made: durable in the ledger, and here in memory, where every request looks them up. And what of any tenant is being erased.
//!
//! What was written is kept, not what follows from it: limits and policy are read anew with the plans of each configuration ([`super::AllTenants`] remembers the reading). A tenant whose plan is
//! gone from the file, or does not suit it any more, is closed until it is back; a reload that would bring that about is refused ([`super::AllTenants::would_close`]).
//!
//! SECURITY: never in the owner posture, and never in the pool of an owner ([`TenantRegistry::suits_made_tenants`]): packs there are code that trusts everybody in the pool, and whether it may is decided in the file,
//! beside the pool's backends, where `check` sees both. The rule is looked at again with every configuration, so that a pool which becomes an owner's closes its managed tenants.

use super::created::is_made_id;
use super::written::{SpecFault, TenantSpec, read_spec};
use super::{AllTenants, Plan, Tenant, TenantRegistry, Unserved};
use crate::clock::{Clock, WallMillis};
use crate::ids::TenantId;
use crate::record::audit::Audit;
use crate::record::ledger::LedgerError;
use crate::record::ledger::managed::{ErasureRow, IdBecomes, ManagedRows, ManagedTenant};
use crate::record::ledger::tenants::CreatedTenant;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::Mutex;

/// So many the control API may make: each is in memory, and every configuration reads each.
pub const MANAGED_MAX: usize = 100_000;
/// How long a deleted id is given to nobody else: whoever still has a link, a token or a bill of the former one must not meet another customer by it.
pub const TOMBSTONE_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Why a tenant was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// It is one of the file's.
    #[error("`{0}` is in tenants.toml: change it there")]
    InFile(TenantId),
    /// It has the form of ids that tokens make.
    #[error("`{0}` has the form of ids that tokens make: choose another id, and give the claim as `claim`")]
    MadeId(TenantId),
    /// What it has is being erased.
    #[error("`{0}` is being erased: ask again when that is done")]
    Erasing(TenantId),
    /// Somebody else had the id.
    #[error(
        "`{tenant}` was deleted on {}: an id stays free for 90 days, and as long as a [[client_certificate]] or an [[oidc]] of gateway.toml names it, so that nobody meets another's links and bills, and none of its former people is let in as it; take another, or say `reuse`",
        deleted_at.date()
    )]
    Tombstone {
        /// Which.
        tenant: TenantId,
        /// When, in ms since 1970.
        deleted_at: WallMillis,
    },
    /// The tenants file had the id, or an older gateway did: what the former tenant has would be the new one's.
    #[error(
        "there is {what} of a former tenant `{tenant}`: erase it first (`comfygate tenant erase {tenant} --yes`, or `POST /v1/tenants/{tenant}/erase`), take another id, or say `reuse` to give all of it to the new tenant"
    )]
    Leftovers {
        /// Which.
        tenant: TenantId,
        /// Of what kind.
        what: &'static str,
    },
    /// Tokens made a tenant by the claim: they would lead to another one from now on.
    #[error(
        "tokens with the claim `{claim}` made the tenant `{made}`, and what it has would stay there, out of their reach: leave the claim out (its plan comes with its tokens; `comfygate tenant disable {made}` closes it), or export what it has first (`comfygate tenant export --tenant {made}`) and say `reuse`"
    )]
    ClaimMade {
        /// The claim.
        claim: String,
        /// Whom they made.
        made: TenantId,
    },
    /// It has changed since the caller looked, or is not there.
    #[error("`{tenant}` is not at the version that `If-Match` names: look again")]
    Stale {
        /// Which.
        tenant: TenantId,
    },
    /// It had to be new.
    #[error("there is a tenant `{0}` already")]
    Exists(TenantId),
    /// It had to be there.
    #[error("there is no tenant `{0}` yet")]
    Absent(TenantId),
    /// What was written is faulty.
    #[error("the tenant has {}", if .0.len() == 1 { "a fault".to_owned() } else { format!("{} faults", .0.len()) })]
    Faulty(Vec<SpecFault>),
    /// As many as there may be.
    #[error("there are {limit} tenants that were made here, and no more may be")]
    Full {
        /// How many there may be.
        limit: usize,
    },
    /// It can't be stored.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// How a tenant has to be for a change to be made. Looked at in the turn of the change: of two that must make it, one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnlyIf {
    /// It may be there or not.
    #[default]
    Anyhow,
    /// It is not there.
    New,
    /// It is there, at whatever version.
    There,
    /// It is at that version still.
    At(u64),
}

/// On what a change depends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// How the tenant has to be.
    pub only_if: OnlyIf,
    /// Also an id that was deleted a short while ago, or of which there is something: a former tenant's things become the new one's. And a claim by which tokens made a tenant, whose things stay with that one.
    pub reuse: bool,
}

/// What [`ManagedTenants::put`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Put {
    /// It is new.
    Made(Arc<ManagedTenant>, Vec<SpecFault>),
    /// It is another now.
    Changed(Arc<ManagedTenant>, Vec<SpecFault>),
    /// It was so already: nothing was written.
    Same(Arc<ManagedTenant>),
}

impl Put {
    /// The row as it is stored.
    pub fn row(&self) -> &Arc<ManagedTenant> {
        match self {
            Self::Made(row, _) | Self::Changed(row, _) | Self::Same(row) => row,
        }
    }

    /// What is doubtful about what was written.
    pub fn warnings(&self) -> &[SpecFault] {
        match self {
            Self::Made(_, warnings) | Self::Changed(_, warnings) => warnings,
            Self::Same(_) => &[],
        }
    }
}

#[derive(Debug, Default)]
struct State {
    rows: HashMap<TenantId, Arc<ManagedTenant>>,
    by_claim: HashMap<String, TenantId>,
    erasing: HashMap<TenantId, ErasureRow>,
    gone: HashMap<TenantId, WallMillis>,
}

impl State {
    fn keep(&mut self, row: Arc<ManagedTenant>) {
        if let Some(claim) = self.rows.get(&row.id).and_then(|former| former.claim.clone()) {
            self.by_claim.remove(&claim);
        }
        if let Some(claim) = &row.claim {
            self.by_claim.insert(claim.clone(), row.id.clone());
        }
        self.gone.remove(&row.id);
        self.rows.insert(row.id.clone(), row);
    }
}

/// Every managed tenant.
pub struct ManagedTenants {
    /// What the ledger has, changed after it.
    state: RwLock<State>,
    store: Arc<dyn ManagedRows>,
    audit: Audit,
    clock: Clock,
    /// One change at a time: what it is checked against stays.
    turn: Mutex<()>,
}

impl ManagedTenants {
    /// Those of the ledger.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn load(store: Arc<dyn ManagedRows>, audit: Audit, clock: Clock) -> Result<Self, LedgerError> {
        let stored = store.managed_state().await?;
        let mut state = State::default();
        stored.tenants.into_iter().for_each(|row| state.keep(Arc::new(row)));
        state.erasing = stored.erasures.into_iter().map(|row| (row.tenant.clone(), row)).collect();
        state.gone = stored.tombstones.into_iter().map(|row| (row.tenant, row.deleted_at)).collect();
        Ok(Self { state: RwLock::new(state), store, audit, clock, turn: Mutex::default() })
    }

    /// The row of that tenant.
    pub fn row(&self, id: &TenantId) -> Option<Arc<ManagedTenant>> {
        self.state().rows.get(id).cloned()
    }

    /// The tenant that names this value as its claim.
    pub fn of_claim(&self, value: &str) -> Option<TenantId> {
        self.state().by_claim.get(value).cloned()
    }

    /// All, by id.
    pub fn list(&self) -> Vec<Arc<ManagedTenant>> {
        let mut rows: Vec<_> = self.state().rows.values().cloned().collect();
        rows.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        rows
    }

    /// When that id was given up, if it is still kept for nobody.
    pub fn deleted_at(&self, id: &TenantId, registry: &TenantRegistry) -> Option<WallMillis> {
        let at = self.state().gone.get(id).copied()?;
        self.is_kept(id, at, registry).then_some(at)
    }

    /// Whether an id that was given up then is nobody else's now. SECURITY: as long as `gateway.toml` names it too. A certificate has no claim and no row that went with its tenant: whoever shows it would be let in
    /// as the next of that id, years later, by an entry that nobody thought of.
    fn is_kept(&self, id: &TenantId, gone_at: WallMillis, registry: &TenantRegistry) -> bool {
        self.clock.wall().since(gone_at) < TOMBSTONE_AGE || registry.is_named(id)
    }

    /// What of that tenant is being erased: it is closed as long as that goes on.
    pub fn erasing(&self, id: &TenantId) -> Option<ErasureRow> {
        self.state().erasing.get(id).cloned()
    }

    /// What there is of that id that an erasure would take, whoever has it; `None`: nothing.
    ///
    /// # Errors
    /// When that can't be read.
    pub async fn leftovers(&self, id: &TenantId) -> Result<Option<&'static str>, LedgerError> {
        self.store.leftovers(id).await
    }

    /// Whether something of that tenant is being erased.
    pub fn is_erasing(&self, id: &TenantId) -> bool {
        self.state().erasing.contains_key(id)
    }

    /// Everything that is being erased.
    pub fn erasures(&self) -> Vec<ErasureRow> {
        self.state().erasing.values().cloned().collect()
    }

    /// Makes or changes a tenant. What is so already is not written again. A tenant that was closed stays so unless the specification opens it: whoever writes the same nightly must not let an abuser in again.
    ///
    /// # Errors
    /// [`PutError`]; then nothing has changed.
    pub async fn put(
        &self,
        id: &TenantId,
        spec: TenantSpec,
        options: &PutOptions,
        tenants: &AllTenants,
    ) -> Result<Put, PutError> {
        let registry = tenants.registry();
        let _turn = self.turn.lock().await;
        let former = self.row(id);
        self.check(id, former.as_deref(), options, registry)?;
        if former.is_none()
            && !options.reuse
            && let Some(what) = self.store.leftovers(id).await?
        {
            return Err(PutError::Leftovers { tenant: id.clone(), what });
        }
        if let Some(former) = &former
            && is_same(former, &spec)
        {
            return Ok(Put::Same(Arc::clone(former)));
        }
        let (tenant, mut warnings) = read_spec(id, &spec, registry).map_err(PutError::Faulty)?;
        if former.is_none() && registry.is_named(id) {
            let told = "a [[client_certificate]] or an [[oidc]] of gateway.toml names this id: whom it means is let in from now on";
            warnings.push(SpecFault::at("", told));
        }
        let mut faults = self.claim_faults(id, &spec, registry);
        faults.extend(unsuited(&tenant, registry));
        if !faults.is_empty() {
            return Err(PutError::Faulty(faults));
        }
        let new_claim = spec.claim.as_ref().filter(|_| former.as_ref().is_none_or(|row| row.claim != spec.claim));
        if let Some(claim) = new_claim.filter(|_| !options.reuse)
            && let Some(made) = tenants.created().and_then(|created| created.of_claim(claim))
        {
            return Err(PutError::ClaimMade { claim: claim.clone(), made });
        }
        let now = self.clock.wall();
        let row = Arc::new(ManagedTenant {
            id: id.clone(),
            name: spec.name,
            plan: spec.plan,
            claim: spec.claim,
            disabled: spec.disabled.unwrap_or_else(|| former.as_ref().is_some_and(|former| former.disabled)),
            limits: spec.limits,
            created_at: former.as_ref().map_or(now, |former| former.created_at),
            changed_at: now,
            version: former.as_ref().map_or(1, |former| former.version.saturating_add(1)),
        });
        self.store.store_managed((*row).clone()).await?;
        self.audit.tenant_managed(&row, former.is_none());
        self.state_mut().keep(Arc::clone(&row));
        Ok(if former.is_none() { Put::Made(row, warnings) } else { Put::Changed(row, warnings) })
    }

    fn check(
        &self,
        id: &TenantId,
        former: Option<&ManagedTenant>,
        options: &PutOptions,
        registry: &TenantRegistry,
    ) -> Result<(), PutError> {
        if registry.tenant(id).is_some() {
            return Err(PutError::InFile(id.clone()));
        }
        if is_made_id(id) {
            return Err(PutError::MadeId(id.clone()));
        }
        if self.is_erasing(id) {
            return Err(PutError::Erasing(id.clone()));
        }
        match (options.only_if, former) {
            (OnlyIf::New, Some(_)) => return Err(PutError::Exists(id.clone())),
            (OnlyIf::There, None) => return Err(PutError::Absent(id.clone())),
            (OnlyIf::At(wanted), former) if former.is_none_or(|row| row.version != wanted) => {
                return Err(PutError::Stale { tenant: id.clone() });
            }
            _ => {}
        }
        if former.is_some() {
            return Ok(());
        }
        if let Some(deleted_at) = self.deleted_at(id, registry).filter(|_| !options.reuse) {
            return Err(PutError::Tombstone { tenant: id.clone(), deleted_at });
        }
        if self.state().rows.len() >= MANAGED_MAX {
            return Err(PutError::Full { limit: MANAGED_MAX });
        }
        Ok(())
    }

    /// A claim means one tenant, and so does an id.
    fn claim_faults(&self, id: &TenantId, spec: &TenantSpec, registry: &TenantRegistry) -> Vec<SpecFault> {
        let state = self.state();
        let mut faults = Vec::new();
        if let Some(claim) = &spec.claim {
            let as_id = claim.parse::<TenantId>().ok().filter(|other| other != id);
            if as_id.is_some_and(|other| state.rows.contains_key(&other) || registry.tenant(&other).is_some()) {
                faults.push(SpecFault::at("/claim", format!("`{claim}` is the id of another tenant")));
            }
            let in_file = registry.tenant_with_claim(claim).map(|tenant| tenant.id.clone());
            if in_file.is_some() || state.by_claim.get(claim).is_some_and(|other| other != id) {
                faults.push(SpecFault::at("/claim", "another tenant has this claim: a claim means one tenant"));
            }
        }
        let is_claimed = registry.tenant_with_claim(id.as_str()).is_some()
            || state.by_claim.get(id.as_str()).is_some_and(|other| other != id);
        if is_claimed {
            faults.push(SpecFault::at("", format!("`{id}` is the claim of another tenant: choose another id")));
        }
        faults
    }

    /// Closes a tenant, or opens it; `None`: the control API did not make it.
    ///
    /// # Errors
    /// As [`ManagedTenants::put`]; what is written besides is not looked at again.
    pub async fn set_disabled(&self, id: &TenantId, disabled: bool) -> Result<Option<Arc<ManagedTenant>>, PutError> {
        let _turn = self.turn.lock().await;
        let Some(former) = self.row(id) else { return Ok(None) };
        if self.is_erasing(id) {
            return Err(PutError::Erasing(id.clone()));
        }
        if former.disabled == disabled {
            return Ok(Some(former));
        }
        let version = former.version.saturating_add(1);
        let row = Arc::new(ManagedTenant { disabled, version, changed_at: self.clock.wall(), ..(*former).clone() });
        self.store.store_managed((*row).clone()).await?;
        self.audit.tenant_disabled(id, disabled);
        self.state_mut().keep(Arc::clone(&row));
        Ok(Some(row))
    }

    /// Notes that everything of a tenant is to be erased: it is closed from now on. One that goes on is given as it stands; a deletion may follow on an erasure, never the other way round.
    ///
    /// # Errors
    /// When that can't be stored.
    pub async fn begin_erasure(&self, id: &TenantId, deletes: bool) -> Result<ErasureRow, LedgerError> {
        let _turn = self.turn.lock().await;
        let row = match self.erasing(id) {
            Some(row) if row.deletes || !deletes => return Ok(row),
            Some(row) => ErasureRow { deletes, ..row },
            None => ErasureRow::new(id.clone(), self.clock.wall(), deletes),
        };
        self.store.store_erasure(row.clone()).await?;
        self.audit.tenant_erasing(id, deletes);
        self.state_mut().erasing.insert(id.clone(), row.clone());
        Ok(row)
    }

    /// Notes how far an erasure is.
    ///
    /// # Errors
    /// When that can't be stored.
    pub async fn erasure_goes_on(&self, row: &ErasureRow) -> Result<(), LedgerError> {
        let _turn = self.turn.lock().await;
        // Whether the id goes too may have been decided meanwhile.
        let deletes = row.deletes || self.erasing(&row.tenant).is_some_and(|now| now.deletes);
        let row = ErasureRow { deletes, ..row.clone() };
        self.store.store_erasure(row.clone()).await?;
        self.state_mut().erasing.insert(row.tenant.clone(), row);
        Ok(())
    }

    /// Notes that nothing is left; gives whether the id went too. `registry`: the tenants file as it is now, which is asked for within the turn; where it has the id no tombstone stays, or nothing of that tenant could be
    /// written.
    ///
    /// # Errors
    /// When that can't be stored.
    pub async fn end_erasure(
        &self,
        id: &TenantId,
        registry: impl Fn() -> Arc<TenantRegistry>,
    ) -> Result<bool, LedgerError> {
        let _turn = self.turn.lock().await;
        let Some(row) = self.erasing(id) else { return Ok(false) };
        let (now, registry) = (self.clock.wall(), registry());
        let becomes = match (row.deletes, registry.tenant(id).is_some()) {
            (false, _) => IdBecomes::Kept,
            (true, true) => IdBecomes::Released,
            (true, false) => IdBecomes::Tombstone(now),
        };
        let over = |(id, at): (&TenantId, &WallMillis)| (!self.is_kept(id, *at, &registry)).then(|| id.clone());
        let forget: Vec<TenantId> = self.state().gone.iter().filter_map(over).collect();
        self.store.end_erasure(id, becomes, forget.clone()).await?;
        let mut state = self.state_mut();
        state.erasing.remove(id);
        for id in &forget {
            state.gone.remove(id);
        }
        if row.deletes
            && let Some(claim) = state.rows.remove(id).and_then(|row| row.claim.clone())
        {
            state.by_claim.remove(&claim);
        }
        if let IdBecomes::Tombstone(at) = becomes {
            state.gone.insert(id.clone(), at);
        }
        Ok(row.deletes)
    }

    /// Takes the tombstones away of ids that the tenants file has: whoever writes a tenant there means it, and a tombstone would refuse whatever it writes. To be called when a file is in force.
    ///
    /// # Errors
    /// When that can't be stored: then nothing of those tenants can be written.
    pub async fn settle(&self, registry: &TenantRegistry) -> Result<(), LedgerError> {
        let _turn = self.turn.lock().await;
        let in_file = self.tombstones_in(registry);
        if in_file.is_empty() {
            return Ok(());
        }
        self.store.drop_tombstones(in_file.clone()).await?;
        let mut state = self.state_mut();
        state.gone.retain(|id, _| !in_file.contains(id));
        Ok(())
    }

    /// Ids that have a tombstone though the tenants file has them, by id.
    pub fn tombstones_in(&self, registry: &TenantRegistry) -> Vec<TenantId> {
        let mut found: Vec<_> = self.state().gone.keys().filter(|id| registry.tenant(id).is_some()).cloned().collect();
        found.sort_unstable();
        found
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_same(row: &ManagedTenant, spec: &TenantSpec) -> bool {
    let ManagedTenant { name, plan, claim, disabled, limits, .. } = row;
    *name == spec.name
        && *plan == spec.plan
        && *claim == spec.claim
        && spec.disabled.is_none_or(|wanted| *disabled == wanted)
        && *limits == spec.limits
}

/// At the first of these keys that the tenant sets itself, else at its plan.
fn unsuited(tenant: &Tenant, registry: &TenantRegistry) -> Option<SpecFault> {
    let (keys, message) = match unfit(tenant, registry) {
        Some(closed) => (["policy", "pool"], closed),
        None => {
            let Unserved { key, what, hint } = registry.unserved(&tenant.pool, &tenant.backend_tags)?;
            let keys = if key == "pool" { ["pool", "backend_tags"] } else { ["backend_tags", "pool"] };
            (keys, format!("tenant `{}` {what} ({hint})", tenant.id))
        }
    };
    let own = keys.into_iter().find(|key| tenant.overrides.contains(key));
    let pointer = own.map_or_else(|| "/plan".to_owned(), |key| format!("/limits/{key}"));
    Some(SpecFault::at(&pointer, message))
}

/// Why a tenant that is not in the file may not have this policy in this pool.
fn unfit(tenant: &Tenant, registry: &TenantRegistry) -> Option<String> {
    if tenant.is_owner() {
        return Some("an owner's policy trusts its installation: such a tenant is written in tenants.toml".to_owned());
    }
    let owner = registry.owner_of(&tenant.pool)?;
    Some(format!("the pool `{}` is the tenant `{}`'s alone: choose a plan of another pool", tenant.pool, owner.id))
}

/// The tenant that a row makes with the plans of now, or why it is closed.
///
/// # Errors
/// The reason, for an operator.
pub fn compiled(row: &ManagedTenant, registry: &TenantRegistry) -> Result<Tenant, String> {
    let plan = plan(&row.plan, registry)?;
    let tenant = if row.limits.is_empty() {
        plan.tenant(row.id.clone(), row.name.clone(), row.plan.clone(), row.disabled)
    } else {
        let spec = TenantSpec {
            plan: row.plan.clone(),
            name: row.name.clone(),
            claim: row.claim.clone(),
            disabled: Some(row.disabled),
            limits: row.limits.clone(),
        };
        let read = read_spec(&row.id, &spec, registry);
        let told = |faults: Vec<SpecFault>| {
            faults.first().map_or_else(String::new, |fault| format!("`{}` {}", fault.pointer, fault.message))
        };
        read.map_err(told)?.0
    };
    usable(tenant, registry)
}

/// The tenant that a row of a token makes with the plans of now, or why it is closed.
///
/// # Errors
/// The reason, for an operator.
pub fn compiled_of_token(row: &CreatedTenant, registry: &TenantRegistry) -> Result<Tenant, String> {
    let name = Some(row.claim.clone());
    let tenant = plan(&row.plan, registry)?.tenant(row.id.clone(), name, row.plan.clone(), row.disabled_at.is_some());
    usable(tenant, registry)
}

fn plan<'r>(name: &str, registry: &'r TenantRegistry) -> Result<&'r Plan, String> {
    registry.plan(name).ok_or_else(|| format!("there is no plan `{name}` in tenants.toml"))
}

/// One that may have its policy in its pool, and whose jobs would run.
fn usable(tenant: Tenant, registry: &TenantRegistry) -> Result<Tenant, String> {
    let unserved = || Some(format!("it {}", registry.unserved(&tenant.pool, &tenant.backend_tags)?.what));
    match unfit(&tenant, registry).or_else(unserved) {
        Some(reason) => Err(reason),
        None => Ok(tenant),
    }
}

impl std::fmt::Debug for ManagedTenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ManagedTenants({})", self.state().rows.len())
    }
}

#[cfg(test)]
mod tests;
