//! Rows of tenants that the control API made, of what is being erased, and of ids that were given up. The tenants of the configuration are not here, nor those that tokens made.

use super::LedgerError;
use super::keeping::{Amount, Removed};
use crate::clock::WallMillis;
use crate::ids::TenantId;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A tenant that the control API made: what was written, from which limits and policy follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManagedTenant {
    /// Who.
    pub id: TenantId,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The plan that it is on, by name.
    pub plan: String,
    /// The value of an issuer's tenant claim that means this tenant; absent: the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Its credentials are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// What it sets itself of its plan, by the keys of `[[tenant]]`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub limits: Map<String, Value>,
    /// When it was made.
    pub created_at: WallMillis,
    /// When it was changed last.
    pub changed_at: WallMillis,
    /// Each change adds one.
    pub version: u64,
}

/// Something of a tenant that is being erased: written before anything is touched, gone when nothing is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ErasureRow {
    /// Whose.
    pub tenant: TenantId,
    /// Since when. The tenant is closed from then on.
    pub since: WallMillis,
    /// Its id goes too, and a tombstone stays.
    pub deletes: bool,
    /// What went until now.
    #[serde(default)]
    pub removed: Removed,
    /// Rows beside those.
    #[serde(default)]
    pub rows: u64,
    /// Files on backends' disks.
    #[serde(default)]
    pub backend_files: Amount,
}

impl ErasureRow {
    /// One that begins.
    pub fn new(tenant: TenantId, since: WallMillis, deletes: bool) -> Self {
        Self { tenant, since, deletes, removed: Removed::default(), rows: 0, backend_files: Amount::default() }
    }
}

/// An id that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Which.
    pub tenant: TenantId,
    /// When.
    pub deleted_at: WallMillis,
}

/// What becomes of an id whose things are erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdBecomes {
    /// Its tenant stays.
    Kept,
    /// The row that was made here goes; the id is another's now: the tenants file has it.
    Released,
    /// The row goes, and a tombstone of this time stays.
    Tombstone(WallMillis),
}

/// Everything of this kind, as it is read at the start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ManagedState {
    /// The tenants, by id.
    pub tenants: Vec<ManagedTenant>,
    /// What is being erased, by id.
    pub erasures: Vec<ErasureRow>,
    /// Ids that were given up, by id.
    pub tombstones: Vec<Tombstone>,
}

/// The store of managed tenants: rows and no rules, which are `crate::tenants::managed`'s.
#[async_trait]
pub trait ManagedRows: Send + Sync {
    /// All there is.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn managed_state(&self) -> Result<ManagedState, LedgerError>;

    /// Stores a tenant in the place of the row of its id, and takes the tombstone of its id away.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn store_managed(&self, tenant: ManagedTenant) -> Result<(), LedgerError>;

    /// Notes that what a tenant has is being erased, or how far that is.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn store_erasure(&self, erasure: ErasureRow) -> Result<(), LedgerError>;

    /// Notes that nothing is left, and what becomes of the id. The tombstones of `forget` go.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn end_erasure(
        &self,
        tenant: &TenantId,
        becomes: IdBecomes,
        forget: Vec<TenantId>,
    ) -> Result<(), LedgerError>;

    /// Takes the tombstones of these ids away.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn drop_tombstones(&self, tenants: Vec<TenantId>) -> Result<(), LedgerError>;

    /// What there is of a tenant that an erasure would take, the first kind of it that is found; `None`: nothing. Bills, which an erasure leaves, are nothing.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn leftovers(&self, tenant: &TenantId) -> Result<Option<&'static str>, LedgerError>;
}
