//! Whether anybody can log in yet.

use super::Services;
use crate::ids::TenantId;
use crate::record::ledger::LedgerError;

impl Services {
    /// The one tenant in force of a gateway that nobody can log in to: its first user may come by a link. `None` where there is, or was, any way in, or more than one tenant whose user it could be.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn tenant_without_way_in(&self) -> Result<Option<TenantId>, LedgerError> {
        let live = self.live();
        let config = &live.config;
        if !config.jwt.is_empty() || !config.oidc.is_empty() || !config.client_certificates.is_empty() {
            return Ok(None);
        }
        let mut open = live.tenants.registry().tenants().filter(|tenant| !tenant.disabled);
        let (Some(tenant), None) = (open.next(), open.next()) else { return Ok(None) };
        // A key that was revoked says too that somebody was here before.
        if !self.created.list().is_empty()
            || !self.managed.list().is_empty()
            || self.ledger.user_count().await? > 0
            || !self.ledger.keys().await?.is_empty()
        {
            return Ok(None);
        }
        Ok(Some(tenant.id.clone()))
    }

    /// Ends the link for whoever comes first, if there is another way in by now. Where no link is out the ledger is not asked: every stranger may cause it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn first_link_looked_at(&self) -> Result<(), LedgerError> {
        if self.local_users.links.has_first() && self.tenant_without_way_in().await?.is_none() {
            self.local_users.end_first();
        }
        Ok(())
    }
}
