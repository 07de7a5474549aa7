//! Which socket belongs to whom, and a bounded queue for each. Owns no socket: [`socket`](super::socket) takes from a queue what this puts in.
//!
//! A socket is addressed by owner scope and client id. Several sockets of one client each get their own copy: nobody takes anything over
//! (facts §6.1). A slow client loses previews first, oldest first; when what must not be lost does not fit either, its queue is closed and the
//! socket ends with 1013.

use super::codec::ClientEvent;
use crate::ids::{ClientId, PromptId, TenantId};
use crate::owner::OwnerScope;
use dashmap::DashMap;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Events that wait for one socket.
pub const EVENTS_MAX: usize = 1024;
/// Bytes that wait for one socket: some seconds of full previews.
pub const BYTES_MAX: usize = 8 << 20;

/// Whose sockets an event is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The owner.
    pub scope: OwnerScope,
    /// The client that submitted the job; `None`: every socket of the owner.
    pub client_id: Option<ClientId>,
}

/// Why a socket was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// The tenant has as many sockets as it may.
    #[error("{limit} sockets are open, which is all that the tenant may have: close one")]
    TooManySockets {
        /// How many it may have.
        limit: u32,
    },
    /// The gateway has as many sockets as it may.
    #[error("{limit} sockets are open, which is all that the gateway may have")]
    Full {
        /// How many it may have.
        limit: u32,
    },
}

/// Every client's socket.
#[derive(Debug)]
pub struct Hub {
    owners: DashMap<OwnerScope, OwnerSockets>,
    by_tenant: DashMap<TenantId, u32>,
    open: AtomicU32,
    sockets_max: AtomicU32,
    next: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct OwnerSockets {
    sockets: Vec<Arc<Queue>>,
    /// What each running prompt of the owner executes: told to a client that connects in the middle of it.
    executing: HashMap<PromptId, Executing>,
}

#[derive(Debug)]
struct Executing {
    client_id: Option<ClientId>,
    node: String,
}

/// A socket's place in the hub; leaving is dropping it.
#[derive(Debug)]
pub struct SocketHandle {
    hub: Arc<Hub>,
    scope: OwnerScope,
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    number: u64,
    client_id: ClientId,
    with_metadata: AtomicBool,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<ClientEvent>,
    bytes: usize,
    overflowed: bool,
}

/// What a socket finds in its queue.
#[derive(Debug)]
pub enum Next {
    /// To be sent.
    Event(ClientEvent),
    /// The client reads too slowly: close with 1013.
    Overflowed,
}

impl Hub {
    /// A hub for at most so many sockets of all tenants together.
    pub fn new(sockets_max: u32) -> Self {
        Self {
            owners: DashMap::new(),
            by_tenant: DashMap::new(),
            open: AtomicU32::new(0),
            sockets_max: AtomicU32::new(sockets_max),
            next: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// From now on at most so many; sockets that are open stay.
    pub fn set_sockets_max(&self, sockets_max: u32) {
        self.sockets_max.store(sockets_max, Ordering::Relaxed);
    }

    /// Takes a socket in, under the id that the client named or a drawn one.
    ///
    /// # Errors
    /// [`HubError`]; then nothing is taken.
    pub fn register(
        self: &Arc<Self>,
        scope: &OwnerScope,
        client_id: Option<ClientId>,
        sockets_max: u32,
    ) -> Result<SocketHandle, HubError> {
        {
            let mut open = self.by_tenant.entry(scope.tenant.clone()).or_insert(0);
            if *open >= sockets_max {
                return Err(HubError::TooManySockets { limit: sockets_max });
            }
            let limit = self.sockets_max.load(Ordering::Relaxed);
            let one_more = |all: u32| (all < limit).then(|| all.saturating_add(1));
            if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
                drop(open);
                self.by_tenant.remove_if(&scope.tenant, |_, open| *open == 0);
                return Err(HubError::Full { limit });
            }
            *open += 1;
        }
        let queue = Arc::new(Queue {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            client_id: client_id.unwrap_or_else(ClientId::draw),
            with_metadata: AtomicBool::new(false),
            waiting: Mutex::default(),
            arrived: Notify::new(),
        });
        self.owners.entry(scope.clone()).or_default().sockets.push(Arc::clone(&queue));
        Ok(SocketHandle { hub: Arc::clone(self), scope: scope.clone(), queue })
    }

    /// Tells an event to exactly the sockets of its route.
    pub fn publish(&self, route: &Route, event: &ClientEvent) {
        if let Some(owner) = self.owners.get(&route.scope) {
            for queue in
                owner.sockets.iter().filter(|queue| route.client_id.as_ref().is_none_or(|id| *id == queue.client_id))
            {
                self.push(queue, event.clone());
            }
        }
    }

    /// Tells an event to every socket of a tenant, whoever its user is.
    pub fn publish_to_tenant(&self, tenant: &TenantId, event: &ClientEvent) {
        for owner in self.owners.iter().filter(|owner| owner.key().tenant == *tenant) {
            owner.sockets.iter().for_each(|queue| self.push(queue, event.clone()));
        }
    }

    /// Tells every socket of an owner how many of its jobs have not ended: ComfyUI's `status`.
    pub fn status(&self, scope: &OwnerScope, queue_remaining: u64) {
        if queue_remaining == 0 {
            // Nothing can run: forgets what was deleted after its attempt was lost, of which no end is told.
            if let Some(mut owner) = self.owners.get_mut(scope) {
                owner.executing.clear();
            }
            self.forget_if_empty(scope);
        }
        let event = status(queue_remaining, None);
        if let Some(owner) = self.owners.get(scope) {
            owner.sockets.iter().for_each(|queue| self.push(queue, event.clone()));
        }
    }

    /// Remembers what a prompt executes, for clients that connect later; `None`: it is over.
    pub fn set_executing(&self, route: &Route, prompt: &PromptId, node: Option<String>) {
        match node {
            Some(node) => {
                let executing = Executing { client_id: route.client_id.clone(), node };
                self.owners.entry(route.scope.clone()).or_default().executing.insert(prompt.clone(), executing);
            }
            None => {
                if let Some(mut owner) = self.owners.get_mut(&route.scope) {
                    owner.executing.remove(prompt);
                }
                self.forget_if_empty(&route.scope);
            }
        }
    }

    /// How many sockets are open.
    pub fn sockets(&self) -> usize {
        self.by_tenant.iter().map(|open| *open.value() as usize).sum()
    }

    /// Previews that slow clients missed since this was asked last.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    fn push(&self, queue: &Queue, event: ClientEvent) {
        let lost = queue.waiting().push(event);
        self.dropped.fetch_add(lost, Ordering::Relaxed);
        queue.arrived.notify_one();
    }

    fn leave(&self, scope: &OwnerScope, number: u64) {
        if let Some(mut owner) = self.owners.get_mut(scope) {
            owner.sockets.retain(|queue| queue.number != number);
        }
        self.forget_if_empty(scope);
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(mut open) = self.by_tenant.get_mut(&scope.tenant) {
            *open = open.saturating_sub(1);
        }
        self.by_tenant.remove_if(&scope.tenant, |_, open| *open == 0);
    }

    /// The map holds owners that have something in it, and nobody else.
    fn forget_if_empty(&self, scope: &OwnerScope) {
        self.owners.remove_if(scope, |_, owner| owner.sockets.is_empty() && owner.executing.is_empty());
    }
}

impl SocketHandle {
    /// The id that this socket is addressed by.
    pub fn client_id(&self) -> &ClientId {
        &self.queue.client_id
    }

    /// The client announced `supports_preview_metadata`, or that it does not.
    pub fn set_with_metadata(&self, with_metadata: bool) {
        self.queue.with_metadata.store(with_metadata, Ordering::Relaxed);
    }

    /// Whether the client takes previews with metadata.
    pub fn with_metadata(&self) -> bool {
        self.queue.with_metadata.load(Ordering::Relaxed)
    }

    /// What the client's running prompt executes now, if one runs.
    pub fn executing(&self) -> Option<String> {
        let owner = self.hub.owners.get(&self.scope)?;
        let mine = |executing: &&Executing| executing.client_id.as_ref().is_none_or(|id| *id == self.queue.client_id);
        owner.executing.values().find(mine).map(|executing| executing.node.clone())
    }

    /// The next thing to do; waits for it. Cancel-safe: nothing is taken before it is given.
    pub async fn next(&self) -> Next {
        loop {
            {
                let mut waiting = self.queue.waiting();
                if waiting.overflowed {
                    return Next::Overflowed;
                }
                if let Some(event) = waiting.pop() {
                    return Next::Event(event);
                }
            }
            self.queue.arrived.notified().await;
        }
    }
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        self.hub.leave(&self.scope, self.queue.number);
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Changed in one step each, so a panic elsewhere leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Adds an event; gives how many previews were thrown out for it.
    fn push(&mut self, event: ClientEvent) -> u64 {
        if self.overflowed {
            return 0;
        }
        let mut lost = 0;
        while !self.fits(&event) {
            match self.events.iter().position(ClientEvent::is_preview).and_then(|oldest| self.events.remove(oldest)) {
                Some(preview) => {
                    self.bytes = self.bytes.saturating_sub(preview.bytes());
                    lost += 1;
                }
                None if event.is_preview() => return lost + 1,
                None => {
                    self.overflowed = true;
                    self.events.clear();
                    self.bytes = 0;
                    return lost;
                }
            }
        }
        self.bytes += event.bytes();
        self.events.push_back(event);
        lost
    }

    /// One event alone always fits: a text output may be larger than all that should wait.
    fn fits(&self, event: &ClientEvent) -> bool {
        self.events.is_empty()
            || (self.events.len() < EVENTS_MAX && self.bytes.saturating_add(event.bytes()) <= BYTES_MAX)
    }

    fn pop(&mut self) -> Option<ClientEvent> {
        let event = self.events.pop_front()?;
        self.bytes = self.bytes.saturating_sub(event.bytes());
        Some(event)
    }
}

/// `{"type":"status","data":{"status":{"exec_info":{"queue_remaining":n}},"sid"?}}`, as ComfyUI sends it (`server.py` `get_queue_info`, `websocket_handler`).
pub fn status(queue_remaining: u64, sid: Option<&ClientId>) -> ClientEvent {
    let mut data = serde_json::Map::new();
    data.insert("status".into(), json!({"exec_info": {"queue_remaining": queue_remaining}}));
    if let Some(sid) = sid {
        data.insert("sid".into(), json!(sid));
    }
    ClientEvent::message("status", data)
}

#[cfg(test)]
mod tests {
    use super::super::codec::ImageFormat;
    use super::*;
    use bytes::Bytes;
    use futures_util::FutureExt;
    use serde_json::Map;

    fn scope(tenant: &str, user: Option<&str>) -> OwnerScope {
        OwnerScope { tenant: tenant.parse().unwrap(), user: user.map(|user| user.parse().unwrap()) }
    }

    fn route(scope: &OwnerScope, client: Option<&str>) -> Route {
        Route { scope: scope.clone(), client_id: client.map(|client| client.parse().unwrap()) }
    }

    fn text(text: &str) -> ClientEvent {
        ClientEvent::Json(text.to_owned().into())
    }

    fn preview(bytes: usize) -> ClientEvent {
        ClientEvent::Preview { metadata: Map::new(), format: ImageFormat::Jpeg, image: Bytes::from(vec![0; bytes]) }
    }

    fn drained(handle: &SocketHandle) -> Vec<ClientEvent> {
        let mut events = Vec::new();
        while let Some(Next::Event(event)) = handle.next().now_or_never() {
            events.push(event);
        }
        events
    }

    fn open(hub: &Arc<Hub>, scope: &OwnerScope, client: &str) -> SocketHandle {
        hub.register(scope, Some(client.parse().unwrap()), 10).unwrap()
    }

    #[test]
    fn an_event_reaches_every_socket_of_its_client_and_no_other() {
        let hub = Arc::new(Hub::new(100));
        let (a, b, a_user) = (scope("a", None), scope("b", None), scope("a", Some("u")));
        let (first, second, other) = (open(&hub, &a, "x"), open(&hub, &a, "x"), open(&hub, &a, "y"));
        let (same_name, of_user) = (open(&hub, &b, "x"), open(&hub, &a_user, "x"));
        hub.publish(&route(&a, Some("x")), &text("1"));
        assert_eq!(drained(&first), [text("1")]);
        assert_eq!(drained(&second), [text("1")]);
        for foreign in [&other, &same_name, &of_user] {
            assert!(drained(foreign).is_empty());
        }
    }

    #[test]
    fn a_job_without_client_reaches_all_of_its_owners_sockets() {
        let hub = Arc::new(Hub::new(100));
        let (a, b) = (scope("a", None), scope("b", None));
        let (x, y, foreign) = (open(&hub, &a, "x"), open(&hub, &a, "y"), open(&hub, &b, "x"));
        hub.publish(&route(&a, None), &text("1"));
        assert_eq!((drained(&x).len(), drained(&y).len(), drained(&foreign).len()), (1, 1, 0));
    }

    #[test]
    fn a_slow_client_loses_the_oldest_previews_first_and_nothing_else() {
        let hub = Arc::new(Hub::new(100));
        let a = scope("a", None);
        let slow = open(&hub, &a, "x");
        hub.publish(&route(&a, None), &text("1"));
        hub.publish(&route(&a, None), &preview(BYTES_MAX / 2));
        hub.publish(&route(&a, None), &preview(BYTES_MAX / 2 - 1));
        assert_eq!(hub.take_dropped(), 0, "just inside");
        hub.publish(&route(&a, None), &preview(9));
        assert_eq!(hub.take_dropped(), 1, "just outside");
        let sizes: Vec<_> = drained(&slow).iter().map(ClientEvent::bytes).collect();
        assert_eq!(sizes, [1, BYTES_MAX / 2 - 1, 9]);
    }

    #[test]
    fn a_client_that_does_not_read_at_all_is_closed_when_its_queue_is_full() {
        let hub = Arc::new(Hub::new(100));
        let a = scope("a", None);
        let slow = open(&hub, &a, "x");
        for _ in 0..EVENTS_MAX {
            hub.publish(&route(&a, None), &text("1"));
        }
        assert!(matches!(slow.next().now_or_never(), Some(Next::Event(_))));
        hub.publish(&route(&a, None), &text("1"));
        hub.publish(&route(&a, None), &preview(1));
        assert!(matches!(slow.next().now_or_never(), Some(Next::Event(_))), "a preview that does not fit is dropped");
        hub.publish(&route(&a, None), &text("1"));
        hub.publish(&route(&a, None), &text("1"));
        assert!(matches!(slow.next().now_or_never(), Some(Next::Overflowed)));
    }

    #[test]
    fn a_tenant_has_as_many_sockets_as_it_may_over_all_its_users() {
        let hub = Arc::new(Hub::new(100));
        let first = hub.register(&scope("a", None), None, 2).unwrap();
        let _second = hub.register(&scope("a", Some("u")), None, 2).unwrap();
        assert_eq!(hub.register(&scope("a", None), None, 2).unwrap_err(), HubError::TooManySockets { limit: 2 });
        assert!(hub.register(&scope("b", None), None, 2).is_ok());
        drop(first);
        assert!(hub.register(&scope("a", None), None, 2).is_ok());
    }

    #[test]
    fn the_gateway_has_as_many_sockets_as_it_may_over_all_tenants() {
        let hub = Arc::new(Hub::new(1));
        let only = hub.register(&scope("a", None), None, 9).unwrap();
        assert_eq!(hub.register(&scope("b", None), None, 9).unwrap_err(), HubError::Full { limit: 1 });
        // Who was refused holds no place of its tenant.
        drop(only);
        assert!(hub.register(&scope("b", None), None, 1).is_ok());
    }

    #[test]
    fn whoever_left_leaves_nothing_behind() {
        let hub = Arc::new(Hub::new(100));
        let a = scope("a", None);
        drop(open(&hub, &a, "x"));
        hub.set_executing(&route(&a, None), &"p".parse().unwrap(), Some("3".into()));
        hub.set_executing(&route(&a, None), &"p".parse().unwrap(), None);
        assert!(hub.owners.is_empty() && hub.by_tenant.is_empty());
    }

    #[test]
    fn a_client_that_connects_in_the_middle_learns_what_its_own_prompt_executes() {
        let hub = Arc::new(Hub::new(100));
        let a = scope("a", None);
        hub.set_executing(&route(&a, Some("x")), &"p".parse().unwrap(), Some("3".into()));
        assert_eq!(open(&hub, &a, "x").executing(), Some("3".into()));
        assert_eq!(open(&hub, &a, "y").executing(), None);
        assert_eq!(open(&hub, &scope("b", None), "x").executing(), None);
        hub.status(&a, 1);
        assert_eq!(open(&hub, &a, "x").executing(), Some("3".into()));
        hub.status(&a, 0);
        assert!(hub.owners.is_empty());
    }

    /// Two tenants, random interleavings: no foreign event ever arrives, and each socket's own arrive in order.
    #[test]
    fn no_interleaving_mixes_tenants_or_orders() {
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % below as u64).unwrap()
        };
        let hub = Arc::new(Hub::new(100));
        let scopes = [scope("a", None), scope("b", None)];
        let clients = ["x", "y"];
        let mut sockets: Vec<(usize, usize, SocketHandle, u64)> = Vec::new();
        for step in 1..20_000_u64 {
            let (owner, client) = (random(2), random(2));
            match random(10) {
                0 if sockets.len() < 12 => {
                    sockets.push((owner, client, open(&hub, &scopes[owner], clients[client]), 0))
                }
                1 if !sockets.is_empty() => drop(sockets.swap_remove(random(sockets.len()))),
                _ => hub
                    .publish(&route(&scopes[owner], Some(clients[client])), &text(&format!("{owner} {client} {step}"))),
            }
            for (owner, client, handle, last) in &mut sockets {
                for event in drained(handle) {
                    let ClientEvent::Json(text) = event else { panic!() };
                    let parts: Vec<u64> = text.split(' ').map(|part| part.parse().unwrap()).collect();
                    assert_eq!((parts[0], parts[1]), (*owner as u64, *client as u64));
                    assert!(parts[2] > *last);
                    *last = parts[2];
                }
            }
        }
    }
}
