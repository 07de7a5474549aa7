//! What one request carries between Pingora's phases.

use crate::admit::BodySlot;
use crate::authenticate::presented::Kept;
use crate::dispatch::backend::Backend;
use crate::ids::RequestId;
use crate::listen::ClientAddr;
use crate::listen::trace::TraceId;
use crate::owner::{Owner, Principal};
use crate::route::{OwnerRoute, RouteMatch};
use crate::tenants::Tenant;
use crate::tenants::stays::Moment;
use std::sync::Arc;
use std::time::Instant;

/// A request on its way to the caller's own backend.
#[derive(Debug)]
pub struct OwnedForward {
    /// Where to.
    pub route: OwnerRoute,
    /// Bytes of its body that may still come.
    pub bytes_left: u64,
    /// Whether a second try would do a thing twice.
    pub once: bool,
}

/// Which pages of other sites may read the answer.
#[derive(Debug, Clone)]
pub enum Readers {
    /// Nobody was let in: a refusal is read by those of any tenant's list.
    Unknown,
    /// Those of the tenant's list.
    Of(Arc<Tenant>),
    /// None: the credential is one that browsers add by themselves.
    Nobody,
}

/// Made when a request begins, read by the last phase for log, metrics and audit.
#[derive(Debug)]
pub struct Context {
    /// This request, in every line about it.
    pub request: RequestId,
    /// Where the caller is: derived once, when the request begins.
    pub client: ClientAddr,
    /// Whether its listener speaks plain HTTP.
    pub plain: bool,
    /// The trace that a trusted proxy put it in.
    pub trace: Option<TraceId>,
    /// When it began.
    pub began: Instant,
    /// The table's pattern; `unmatched` until one is found. Never the raw path: a closed set of labels.
    pub route: &'static str,
    /// What the table matched, for a request that is forwarded.
    pub matched: Option<RouteMatch>,
    /// What goes to the caller's own backend as it stands (owner posture).
    pub owned: Option<OwnedForward>,
    /// The backend that a forwarded request goes to.
    pub backend: Option<Arc<Backend>>,
    /// When it was not known yet whose request it is: what it does must not outlive its tenant.
    pub before: Moment,
    /// Whose request it is, once known.
    pub owner: Option<Owner>,
    /// Which pages of other sites may read the answer.
    pub readers: Readers,
    /// What a socket stands on, and who that lets in: looked at again while it is open.
    pub standing: Option<(Principal, Kept)>,
    /// The memory of the body, booked until the request is over.
    pub body: Option<BodySlot>,
    /// The status that was written.
    pub status: u16,
    /// Counts the request as in flight until it is dropped.
    pub in_flight: crate::drain::InFlight,
}
