//! How many uploads may arrive at once, and how many bytes of a tenant are on their way to the disk.

use super::AdmitError;
use crate::ids::TenantId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Uploads that arrive at once, of all tenants: each takes a connection, a file and some 100 KiB.
const UPLOADS_MAX: u32 = 128;
/// Of one tenant: the page sends one after the other, a script a few.
const TENANT_UPLOADS_MAX: u32 = 8;

/// The uploads that are arriving.
#[derive(Debug, Default, Clone)]
pub struct UploadSlots(Arc<Mutex<Arriving>>);

#[derive(Debug, Default)]
struct Arriving {
    all: u32,
    /// Only tenants that have an upload on its way.
    tenants: HashMap<TenantId, Share>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Share {
    uploads: u32,
    bytes: u64,
}

impl UploadSlots {
    /// A place for one more upload of a tenant.
    ///
    /// # Errors
    /// [`AdmitError::UploadsFull`].
    pub fn take(&self, tenant: &TenantId) -> Result<UploadSlot, AdmitError> {
        let mut arriving = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if arriving.all >= UPLOADS_MAX {
            return Err(AdmitError::UploadsFull { own: false, limit: UPLOADS_MAX });
        }
        let share = arriving.tenants.entry(tenant.clone()).or_default();
        if share.uploads >= TENANT_UPLOADS_MAX {
            return Err(AdmitError::UploadsFull { own: true, limit: TENANT_UPLOADS_MAX });
        }
        share.uploads += 1;
        arriving.all += 1;
        Ok(UploadSlot { slots: self.clone(), tenant: tenant.clone(), bytes: 0 })
    }
}

/// An upload on its way, with the bytes that it has brought; dropped when they are the ledger's, or gone.
#[derive(Debug)]
pub struct UploadSlot {
    slots: UploadSlots,
    tenant: TenantId,
    bytes: u64,
}

impl UploadSlot {
    /// Books the upload's bytes so far.
    pub fn grow_to(&mut self, bytes: u64) {
        let more = bytes.saturating_sub(self.bytes);
        let mut arriving = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = arriving.tenants.get_mut(&self.tenant) {
            share.bytes = share.bytes.saturating_add(more);
        }
        self.bytes = self.bytes.max(bytes);
    }

    /// Books exactly so many bytes: what comes to be stored, once that is known.
    pub fn settle(&mut self, bytes: u64) {
        let mut arriving = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = arriving.tenants.get_mut(&self.tenant) {
            share.bytes = share.bytes.saturating_sub(self.bytes).saturating_add(bytes);
        }
        self.bytes = bytes;
    }

    /// Bytes of the tenant's uploads that are on their way, this one's among them.
    ///
    /// INVARIANT: whoever adds them to what the ledger has stored reads this first. An upload leaves here only after it is stored, so it is counted in one of the two at least.
    pub fn arriving(&self) -> u64 {
        let arriving = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        arriving.tenants.get(&self.tenant).map_or(self.bytes, |share| share.bytes)
    }

    /// Whether what arrives has room beside what is stored.
    ///
    /// # Errors
    /// [`AdmitError::StorageFull`].
    pub fn check_room(arriving: u64, stored: u64, limit: u64) -> Result<(), AdmitError> {
        let used = stored.saturating_add(arriving);
        if used > limit { Err(AdmitError::StorageFull { used, limit }) } else { Ok(()) }
    }
}

impl Drop for UploadSlot {
    fn drop(&mut self) {
        let mut arriving = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        arriving.all = arriving.all.saturating_sub(1);
        if let Some(share) = arriving.tenants.get_mut(&self.tenant) {
            share.uploads = share.uploads.saturating_sub(1);
            share.bytes = share.bytes.saturating_sub(self.bytes);
            if share.uploads == 0 {
                arriving.tenants.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> TenantId {
        id.parse().unwrap()
    }

    #[test]
    fn a_tenant_has_its_number_at_once_and_no_more() {
        let slots = UploadSlots::default();
        let mut taken: Vec<_> = (0..TENANT_UPLOADS_MAX).map(|_| slots.take(&tenant("a")).unwrap()).collect();
        assert!(matches!(slots.take(&tenant("a")), Err(AdmitError::UploadsFull { own: true, .. })));
        assert!(slots.take(&tenant("b")).is_ok());
        taken.pop();
        assert!(slots.take(&tenant("a")).is_ok());
    }

    #[test]
    fn all_tenants_together_have_their_number() {
        let slots = UploadSlots::default();
        let taken: Vec<_> =
            (0..UPLOADS_MAX).map(|n| slots.take(&tenant(&format!("t{}", n / TENANT_UPLOADS_MAX))).unwrap()).collect();
        assert!(matches!(slots.take(&tenant("z")), Err(AdmitError::UploadsFull { own: false, .. })));
        drop(taken);
        assert!(slots.take(&tenant("z")).is_ok());
        assert!(slots.0.lock().unwrap().tenants.is_empty(), "nobody is remembered");
    }

    #[test]
    fn bytes_on_their_way_are_counted_until_they_have_arrived() {
        let slots = UploadSlots::default();
        let (mut first, mut second) = (slots.take(&tenant("a")).unwrap(), slots.take(&tenant("a")).unwrap());
        first.grow_to(10);
        first.grow_to(30);
        second.grow_to(5);
        assert_eq!((first.arriving(), second.arriving()), (35, 35));
        first.settle(20);
        assert_eq!(second.arriving(), 25);
        drop(first);
        assert_eq!(second.arriving(), 5);
        assert!(UploadSlot::check_room(5, 95, 100).is_ok());
        assert!(UploadSlot::check_room(5, 96, 100).is_err());
    }
}
