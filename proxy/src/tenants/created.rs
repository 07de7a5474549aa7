//! Tenants that tokens made: durable in the ledger, and here in memory, where every request looks them up.
//!
//! A made tenant is one issuer's and one claim's for ever: its id follows from both, so no other issuer and no configured tenant can mean it. Its limits and policy are those of its
//! plan as the tenants file says now; a plan that is gone from the file closes it.

use crate::clock::{Clock, WallMillis};
use crate::ids::TenantId;
use crate::record::audit::Audit;
use crate::record::ledger::LedgerError;
use crate::record::ledger::tenants::{CreatedTenant, Creation, Tenants};
use comfygate_policy::Digest;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Longest claim that makes a tenant, in bytes: ids of organisations are UUIDs and short names.
pub const CLAIM_BYTES_MAX: usize = 256;
/// How every made id begins.
const PREFIX: &str = "j-";
/// 96 bits: no two of millions meet by chance, and what is stored is compared all the same.
const ID_HEX_CHARS: usize = 24;

/// The id of the tenant that this issuer's tokens with this claim make: `j-` and 24 hexadecimal digits.
#[expect(clippy::expect_used, reason = "`j-` and hexadecimal digits are in the alphabet of tenant ids")]
pub fn made_id(issuer: &str, claim: &str) -> TenantId {
    // The length in front: no other pair of texts gives the same bytes.
    let digest = Digest::of(format!("{}\n{issuer}\n{claim}", issuer.len()).as_bytes());
    let hex: String = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{}", hex.get(..ID_HEX_CHARS).unwrap_or(&hex)).parse().expect("a tenant id")
}

/// Whether an id has the form of [`made_id`]: then no tenants file may give it.
pub fn is_made_id(id: &TenantId) -> bool {
    let hex = id.as_str().strip_prefix(PREFIX);
    hex.is_some_and(|hex| hex.len() == ID_HEX_CHARS && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// The tenant that a good token asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTenant {
    /// [`made_id`] of the next two.
    pub id: TenantId,
    /// `iss`.
    pub issuer: String,
    /// The value of the tenant claim; 1 to [`CLAIM_BYTES_MAX`] bytes.
    pub claim: String,
    /// One that the configuration allows for this issuer.
    pub plan: String,
    /// `iat` of the token, seconds since 1970: a newer token may change the plan, an older one may not.
    pub issued_at: Option<u64>,
}

/// Why a tenant is not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// As many as there may be.
    #[error("{limit} tenants were made by tokens already, and no more may be (`created_tenants_max`)")]
    Full {
        /// How many there may be.
        limit: u32,
    },
    /// The id belongs to another issuer or claim.
    #[error("the id `{0}` is another claim's")]
    Collision(TenantId),
    /// It can't be stored.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Every made tenant.
pub struct CreatedTenants {
    /// What the ledger has, changed after it.
    rows: RwLock<HashMap<TenantId, CreatedTenant>>,
    store: Arc<dyn Tenants>,
    audit: Audit,
    clock: Clock,
}

impl CreatedTenants {
    /// Those of the ledger.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn load(store: Arc<dyn Tenants>, audit: Audit, clock: Clock) -> Result<Self, LedgerError> {
        let rows = store.created_tenants().await?;
        let rows = RwLock::new(rows.into_iter().map(|row| (row.id.clone(), row)).collect());
        Ok(Self { rows, store, audit, clock })
    }

    /// The row of that tenant.
    pub fn row(&self, id: &TenantId) -> Option<CreatedTenant> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// A tenant that was made by this claim, of whatever issuer; the first by id.
    pub fn of_claim(&self, claim: &str) -> Option<TenantId> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.values().filter(|row| row.claim == claim).map(|row| &row.id).min().cloned()
    }

    /// All, by id.
    pub fn list(&self) -> Vec<CreatedTenant> {
        let mut rows: Vec<_> = self.rows.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        rows.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        rows
    }

    /// Sees to it that the tenant is there, with the plan of the newest token. `limit`: how many there may be.
    ///
    /// # Errors
    /// [`CreateError`]; then nothing was made.
    pub async fn ensure(&self, wanted: &WantedTenant, limit: u32) -> Result<(), CreateError> {
        let stored = match self.row(&wanted.id) {
            Some(known) => known,
            None => self.create(wanted, limit).await?,
        };
        if stored.issuer != wanted.issuer || stored.claim != wanted.claim {
            return Err(CreateError::Collision(wanted.id.clone()));
        }
        match wanted.issued_at {
            Some(issued_at)
                if stored.plan != wanted.plan && stored.plan_since.is_none_or(|since| issued_at > since) =>
            {
                let row = self.store.change_plan(&wanted.id, &wanted.plan, issued_at).await?;
                self.audit.tenant_plan_changed(&row.id, &row.plan);
                self.keep(row);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn create(&self, wanted: &WantedTenant, limit: u32) -> Result<CreatedTenant, CreateError> {
        let row = CreatedTenant {
            id: wanted.id.clone(),
            issuer: wanted.issuer.clone(),
            claim: wanted.claim.clone(),
            plan: wanted.plan.clone(),
            plan_since: wanted.issued_at,
            created_at: self.clock.wall(),
            disabled_at: None,
            version: 0,
        };
        let stored = match self.store.create_tenant(row, limit).await? {
            Creation::Made(row) => {
                self.audit.tenant_created(&row);
                row
            }
            Creation::Known(row) => row,
            Creation::Full => return Err(CreateError::Full { limit }),
        };
        self.keep(stored.clone());
        Ok(stored)
    }

    /// Closes a tenant, or opens it again; `None`: no token made it.
    ///
    /// # Errors
    /// When that can't be stored.
    pub async fn set_disabled(&self, id: &TenantId, disabled: bool) -> Result<Option<CreatedTenant>, LedgerError> {
        let at: Option<WallMillis> = disabled.then(|| self.clock.wall());
        match self.store.disable_tenant(id, at).await {
            Ok(row) => {
                self.audit.tenant_disabled(&row.id, disabled);
                self.keep(row.clone());
                Ok(Some(row))
            }
            Err(LedgerError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes over what the ledger has. SECURITY: never an older row over a newer one, or of two changes at once a closed tenant could come out open.
    fn keep(&self, row: CreatedTenant) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if rows.get(&row.id).is_none_or(|known| known.version < row.version) {
            rows.insert(row.id.clone(), row);
        }
    }
}

impl std::fmt::Debug for CreatedTenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.rows.read().unwrap_or_else(PoisonError::into_inner).len();
        write!(f, "CreatedTenants({count})")
    }
}

#[cfg(test)]
mod tests;
