//! Rows of tenants that tokens made. The tenants of the configuration are not here.

use super::LedgerError;
use crate::clock::WallMillis;
use crate::ids::TenantId;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// A tenant that a token made: who it is for ever, and what may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedTenant {
    /// Follows from issuer and claim (`crate::tenants::made_id`).
    pub id: TenantId,
    /// `iss` of its tokens.
    pub issuer: String,
    /// The value of its tenant claim; its name for people.
    pub claim: String,
    /// The plan that it is on, by name.
    pub plan: String,
    /// `iat` of the token that gave it this plan, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_since: Option<u64>,
    /// When its first token came.
    pub created_at: WallMillis,
    /// Since when an operator has closed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<WallMillis>,
    /// Each change adds one.
    #[serde(default)]
    pub version: u64,
}

/// What [`Tenants::create_tenant`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// It is new.
    Made(CreatedTenant),
    /// It was there: as it is stored, unchanged.
    Known(CreatedTenant),
    /// There are as many as there may be.
    Full,
}

/// The store of made tenants.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// Stores a tenant unless it is there, or there are `limit` already.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn create_tenant(&self, tenant: CreatedTenant, limit: u32) -> Result<Creation, LedgerError>;

    /// All, by id.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn created_tenants(&self) -> Result<Vec<CreatedTenant>, LedgerError>;

    /// Closes a tenant since `at`, or opens it with `None`; what is so already is left as it is.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn disable_tenant(&self, id: &TenantId, at: Option<WallMillis>) -> Result<CreatedTenant, LedgerError>;

    /// Puts a tenant on another plan, by a token that was issued then; an older token than the last one changes nothing.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn change_plan(&self, id: &TenantId, plan: &str, issued_at: u64) -> Result<CreatedTenant, LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    use super::*;

    fn tenant(id: &str) -> CreatedTenant {
        CreatedTenant {
            id: id.parse().unwrap(),
            issuer: "https://id.example/".into(),
            claim: format!("org {id}"),
            plan: "free".into(),
            plan_since: Some(100),
            created_at: WallMillis(1),
            disabled_at: None,
            version: 0,
        }
    }

    async fn stored(store: &impl Tenants, id: &str) -> CreatedTenant {
        store.created_tenants().await.unwrap().into_iter().find(|row| row.id.as_str() == id).unwrap()
    }

    pub(in crate::record::ledger) async fn a_tenant_is_stored_once_and_listed_by_id(store: &impl Tenants) {
        let made = store.create_tenant(tenant("b"), 9).await.unwrap();
        let Creation::Made(row) = made else { panic!("{made:?}") };
        assert_eq!((row.version, &row.claim[..]), (1, "org b"));
        let other = CreatedTenant { plan: "gold".into(), ..tenant("b") };
        assert_eq!(store.create_tenant(other, 9).await.unwrap(), Creation::Known(row));
        store.create_tenant(tenant("a"), 9).await.unwrap();
        let ids: Vec<String> = store.created_tenants().await.unwrap().iter().map(|row| row.id.to_string()).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    pub(in crate::record::ledger) async fn there_are_as_many_as_allowed_and_no_more(store: &impl Tenants) {
        assert!(matches!(store.create_tenant(tenant("a"), 2).await.unwrap(), Creation::Made(_)));
        assert!(matches!(store.create_tenant(tenant("b"), 2).await.unwrap(), Creation::Made(_)));
        assert_eq!(store.create_tenant(tenant("c"), 2).await.unwrap(), Creation::Full);
        assert!(matches!(store.create_tenant(tenant("a"), 2).await.unwrap(), Creation::Known(_)));
        assert!(matches!(store.create_tenant(tenant("c"), 3).await.unwrap(), Creation::Made(_)));
    }

    pub(in crate::record::ledger) async fn a_tenant_is_closed_and_opened_and_a_stranger_is_not_found(
        store: &impl Tenants,
    ) {
        store.create_tenant(tenant("a"), 9).await.unwrap();
        let id = "a".parse().unwrap();
        let closed = store.disable_tenant(&id, Some(WallMillis(5))).await.unwrap();
        assert_eq!((closed.disabled_at, closed.version), (Some(WallMillis(5)), 2));
        // A second time changes nothing, the time of the first stays.
        assert_eq!(store.disable_tenant(&id, Some(WallMillis(6))).await.unwrap(), closed);
        assert_eq!(stored(store, "a").await, closed);
        let open = store.disable_tenant(&id, None).await.unwrap();
        assert_eq!((open.disabled_at, open.version), (None, 3));
        let stranger = store.disable_tenant(&"z".parse().unwrap(), None).await;
        assert!(matches!(stranger, Err(LedgerError::NotFound { .. })));
    }

    pub(in crate::record::ledger) async fn a_newer_token_changes_the_plan_and_an_older_one_does_not(
        store: &impl Tenants,
    ) {
        store.create_tenant(tenant("a"), 9).await.unwrap();
        let id = "a".parse().unwrap();
        let change = async |plan: &str, issued_at: u64| store.change_plan(&id, plan, issued_at).await.unwrap().plan;
        assert_eq!(change("gold", 100).await, "free");
        assert_eq!(change("gold", 101).await, "gold");
        assert_eq!(change("free", 101).await, "gold");
        let row = stored(store, "a").await;
        assert_eq!((row.plan_since, row.version), (Some(101), 2));
        let stranger = store.change_plan(&"z".parse().unwrap(), "gold", 200).await;
        assert!(matches!(stranger, Err(LedgerError::NotFound { .. })));
    }
}
