//! Whose queue an event goes into. No socket is known here: a [`SocketHandle`] is a bounded queue that [`super::socket`] empties.
//!
//! INVARIANT: a socket's queue is found through its owner's scope and no other way, so an event of another scope can't get into it.

use super::codec::{ClientEvent, Mark};
use crate::ids::{ClientId, PromptId, TenantId};
use crate::owner::OwnerScope;
use dashmap::DashMap;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Events that wait for one socket: some seconds of the busiest run.
pub const QUEUE_FRAMES_MAX: usize = 256;
/// Bytes that wait for one socket: some previews of 512 pixels, twice each. A single larger event is taken when nothing else waits.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Sockets of all tenants together, where the configuration says nothing else.
pub const SOCKETS_MAX: u32 = 5_000;
/// Running jobs remembered per scope for clients that come back; the oldest is forgotten first.
const RUNNING_MAX: usize = 64;

/// Whose sockets an event is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Only sockets of this scope.
    pub scope: OwnerScope,
    /// Only those of this client; absent: all of the scope's.
    pub client_id: Option<ClientId>,
}

/// Why a socket is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// The tenant has as many as it may.
    #[error("the tenant has {limit} open WebSockets, as many as it may")]
    TenantFull {
        /// How many it may have.
        limit: u32,
    },
    /// The gateway has as many as it may.
    #[error("the gateway has {limit} open WebSockets, as many as it may")]
    Full {
        /// How many it may have.
        limit: u32,
    },
}

/// Every client socket that is open.
#[derive(Debug)]
pub struct Hub {
    scopes: DashMap<OwnerScope, Vec<Arc<Socket>>>,
    /// Apart from the sockets: a job outlives the sockets of its owner.
    running: DashMap<OwnerScope, Vec<Running>>,
    tenants: DashMap<TenantId, u32>,
    open: AtomicU32,
    sockets_max: u32,
    next: AtomicU64,
}

#[derive(Debug)]
struct Running {
    prompt: PromptId,
    client_id: Option<ClientId>,
    node: String,
}

/// One socket's side of the hub.
struct Socket {
    number: u64,
    client_id: ClientId,
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<ClientEvent>,
    bytes: usize,
    /// Something that is no preview did not fit: the client has lost its thread and has to come back.
    overflowed: bool,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("number", &self.number).field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new(SOCKETS_MAX)
    }
}

impl Hub {
    /// A hub for at most so many sockets.
    pub fn new(sockets_max: u32) -> Self {
        Self {
            scopes: DashMap::new(),
            running: DashMap::new(),
            tenants: DashMap::new(),
            open: AtomicU32::new(0),
            sockets_max,
            next: AtomicU64::new(0),
        }
    }

    /// Takes a socket. Without a client id one is drawn. Several sockets of one client id all hear everything (unlike ComfyUI, where the
    /// second takes the first one's events, facts §6.1). Dropping the handle gives the place back.
    ///
    /// # Errors
    /// [`HubError`], and nothing is taken.
    pub fn register(self: &Arc<Self>, scope: &OwnerScope, client_id: Option<ClientId>, tenant_limit: u32) -> Result<SocketHandle, HubError> {
        self.book(&scope.tenant, tenant_limit)?;
        let socket = Arc::new(Socket {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            client_id: client_id.unwrap_or_else(ClientId::draw),
            queue: Mutex::default(),
            filled: Notify::new(),
        });
        self.scopes.entry(scope.clone()).or_default().push(Arc::clone(&socket));
        Ok(SocketHandle { hub: Arc::clone(self), scope: scope.clone(), socket })
    }

    fn book(&self, tenant: &TenantId, tenant_limit: u32) -> Result<(), HubError> {
        let mut taken = self.tenants.entry(tenant.clone()).or_insert(0);
        if *taken >= tenant_limit {
            return Err(HubError::TenantFull { limit: tenant_limit });
        }
        let within = |open: u32| (open < self.sockets_max).then(|| open.saturating_add(1));
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_err() {
            return Err(HubError::Full { limit: self.sockets_max });
        }
        *taken = taken.saturating_add(1);
        Ok(())
    }

    /// Puts an event into the queues of exactly the sockets that the route means.
    pub fn publish(&self, route: &Route, event: &ClientEvent) {
        self.remember(route, event.mark());
        let Some(sockets) = self.scopes.get(&route.scope) else { return };
        let meant = |socket: &&Arc<Socket>| route.client_id.as_ref().is_none_or(|client| *client == socket.client_id);
        sockets.iter().filter(meant).for_each(|socket| socket.push(event.clone()));
    }

    /// Tells all sockets of a scope how many of its jobs have not ended.
    pub fn status(&self, scope: &OwnerScope, queue_remaining: u64) {
        if queue_remaining == 0 {
            // Nothing can run: whatever was remembered of a job that ended without a word goes here.
            self.running.remove(scope);
        }
        let Some(sockets) = self.scopes.get(scope) else { return };
        let event = ClientEvent::status(queue_remaining, None);
        sockets.iter().for_each(|socket| socket.push(event.clone()));
    }

    /// Open sockets.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    fn remember(&self, route: &Route, mark: &Mark) {
        let (prompt, node) = match mark {
            Mark::None => return,
            Mark::Runs(prompt, node) => (prompt, Some(node)),
            Mark::Over(prompt) => (prompt, None),
        };
        {
            let mut running = self.running.entry(route.scope.clone()).or_default();
            running.retain(|known| known.prompt != *prompt);
            if let Some(node) = node {
                if running.len() >= RUNNING_MAX {
                    running.remove(0);
                }
                running.push(Running { prompt: prompt.clone(), client_id: route.client_id.clone(), node: node.clone() });
            }
        }
        self.running.remove_if(&route.scope, |_, running| running.is_empty());
    }

    fn running_node(&self, scope: &OwnerScope, client: &ClientId) -> Option<String> {
        let running = self.running.get(scope)?;
        let own = running.iter().rev().find(|known| known.client_id.as_ref() == Some(client))?;
        Some(own.node.clone())
    }

    fn unregister(&self, scope: &OwnerScope, number: u64) {
        if let Some(mut sockets) = self.scopes.get_mut(scope) {
            sockets.retain(|socket| socket.number != number);
        }
        self.scopes.remove_if(scope, |_, sockets| sockets.is_empty());
        if let Some(mut taken) = self.tenants.get_mut(&scope.tenant) {
            *taken = taken.saturating_sub(1);
        }
        self.tenants.remove_if(&scope.tenant, |_, taken| *taken == 0);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Socket {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing under the lock can panic half-way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: ClientEvent) {
        self.queue().push(event);
        self.filled.notify_one();
    }
}

impl Queue {
    /// Previews go first, oldest first; then, if the event is no preview, the socket.
    fn push(&mut self, event: ClientEvent) {
        if self.overflowed {
            return;
        }
        while !self.fits(&event) {
            if !self.drop_oldest_preview() {
                self.overflowed = !event.is_preview();
                if self.overflowed {
                    self.events = VecDeque::new();
                    self.bytes = 0;
                }
                return;
            }
        }
        self.bytes = self.bytes.saturating_add(event.bytes());
        self.events.push_back(event);
    }

    fn fits(&self, event: &ClientEvent) -> bool {
        let bytes = self.bytes.saturating_add(event.bytes());
        self.events.is_empty() || (self.events.len() < QUEUE_FRAMES_MAX && bytes <= QUEUE_BYTES_MAX)
    }

    fn drop_oldest_preview(&mut self) -> bool {
        let oldest = self.events.iter().position(ClientEvent::is_preview);
        let Some(dropped) = oldest.and_then(|at| self.events.remove(at)) else { return false };
        self.bytes = self.bytes.saturating_sub(dropped.bytes());
        true
    }
}

/// What waits for a socket.
#[derive(Debug, PartialEq)]
pub enum Waiting {
    /// The next event.
    Event(ClientEvent),
    /// The client read too slowly: close with 1013.
    Overflowed,
}

/// A socket's place in the hub, given back when dropped.
#[derive(Debug)]
pub struct SocketHandle {
    hub: Arc<Hub>,
    scope: OwnerScope,
    socket: Arc<Socket>,
}

impl SocketHandle {
    /// The client id: the caller's, or the drawn one.
    pub fn client_id(&self) -> &ClientId {
        &self.socket.client_id
    }

    /// The display node of the last job of this client that runs now.
    pub fn running_node(&self) -> Option<String> {
        self.hub.running_node(&self.scope, &self.socket.client_id)
    }

    /// What waits, without waiting.
    pub fn try_next(&self) -> Option<Waiting> {
        let mut queue = self.socket.queue();
        if queue.overflowed {
            return Some(Waiting::Overflowed);
        }
        let event = queue.events.pop_front()?;
        queue.bytes = queue.bytes.saturating_sub(event.bytes());
        Some(Waiting::Event(event))
    }

    /// The next event. Safe to cancel: nothing is taken unless it resolves.
    pub async fn next(&self) -> Waiting {
        loop {
            // A push between the look and the wait leaves a permit with `notify_one`.
            if let Some(waiting) = self.try_next() {
                return waiting;
            }
            self.socket.filled.notified().await;
        }
    }
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        self.hub.unregister(&self.scope, self.socket.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::events::codec::{Capabilities, UpstreamEvent};
    use bytes::Bytes;
    use serde_json::{Value, json};
    use tokio_tungstenite::tungstenite::Message;

    fn scope(tenant: &str, user: Option<&str>) -> OwnerScope {
        OwnerScope { tenant: tenant.parse().unwrap(), user: user.map(|user| user.parse().unwrap()) }
    }

    fn client(text: &str) -> ClientId {
        text.parse().unwrap()
    }

    fn note(text: &str) -> ClientEvent {
        ClientEvent::message(&json!({"note": text}), Mark::None)
    }

    fn preview(bytes: usize) -> ClientEvent {
        let mut frame = vec![0, 0, 0, 1, 0, 0, 0, 1];
        frame.resize(8 + bytes, b'x');
        let event = UpstreamEvent::parse(&Message::Binary(Bytes::from(frame)));
        event.for_owner(&"p".parse().unwrap()).unwrap()
    }

    fn notes(handle: &SocketHandle) -> Vec<String> {
        let read = |waiting| match waiting {
            Waiting::Event(event) if event.is_preview() => "preview".to_owned(),
            Waiting::Event(event) => {
                let value: Value = serde_json::from_slice(&event.frame(Capabilities::default()).into_data()).unwrap();
                value["note"].as_str().map_or_else(|| value.to_string(), str::to_owned)
            }
            Waiting::Overflowed => "overflowed".to_owned(),
        };
        let mut found = Vec::new();
        while let Some(waiting) = handle.try_next() {
            let overflowed = waiting == Waiting::Overflowed;
            found.push(read(waiting));
            if overflowed {
                break;
            }
        }
        found
    }

    #[test]
    fn an_event_reaches_every_socket_of_its_client_and_no_other() {
        let hub = Arc::new(Hub::default());
        let (a, b) = (scope("a", None), scope("b", None));
        let first = hub.register(&a, Some(client("x")), 9).unwrap();
        let second = hub.register(&a, Some(client("x")), 9).unwrap();
        let other_client = hub.register(&a, Some(client("y")), 9).unwrap();
        let other_user = hub.register(&scope("a", Some("u")), Some(client("x")), 9).unwrap();
        let foreign = hub.register(&b, Some(client("x")), 9).unwrap();
        hub.publish(&Route { scope: a.clone(), client_id: Some(client("x")) }, &note("1"));
        hub.publish(&Route { scope: a, client_id: None }, &note("2"));
        assert_eq!(notes(&first), ["1", "2"]);
        assert_eq!(notes(&second), ["1", "2"]);
        assert_eq!(notes(&other_client), ["2"]);
        assert!(notes(&other_user).is_empty() && notes(&foreign).is_empty());
    }

    #[test]
    fn status_reaches_all_sockets_of_the_scope_and_no_foreign_one() {
        let hub = Arc::new(Hub::default());
        let own = hub.register(&scope("a", None), None, 9).unwrap();
        let foreign = hub.register(&scope("b", None), None, 9).unwrap();
        hub.status(&scope("a", None), 3);
        assert_eq!(notes(&own), [r#"{"type":"status","data":{"status":{"exec_info":{"queue_remaining":3}}}}"#]);
        assert!(notes(&foreign).is_empty());
    }

    #[test]
    fn the_last_allowed_socket_of_a_tenant_is_taken_and_the_next_refused_until_one_leaves() {
        let hub = Arc::new(Hub::default());
        let first = hub.register(&scope("a", None), None, 2).unwrap();
        let _second = hub.register(&scope("a", Some("u")), None, 2).unwrap();
        assert_eq!(hub.register(&scope("a", None), None, 2).unwrap_err(), HubError::TenantFull { limit: 2 });
        assert!(hub.register(&scope("b", None), None, 2).is_ok());
        drop(first);
        assert!(hub.register(&scope("a", None), None, 2).is_ok());
        drop(_second);
        assert_eq!(hub.open(), 0);
    }

    #[test]
    fn the_gateway_takes_as_many_sockets_as_it_may_and_no_more() {
        let hub = Arc::new(Hub::new(1));
        let only = hub.register(&scope("a", None), None, 9).unwrap();
        assert_eq!(hub.register(&scope("b", None), None, 9).unwrap_err(), HubError::Full { limit: 1 });
        drop(only);
        assert!(hub.register(&scope("b", None), None, 9).is_ok());
        assert!(hub.scopes.is_empty() && hub.tenants.is_empty());
    }

    #[test]
    fn a_full_queue_drops_previews_oldest_first_and_keeps_the_rest() {
        let hub = Arc::new(Hub::default());
        let handle = hub.register(&scope("a", None), None, 9).unwrap();
        let route = Route { scope: scope("a", None), client_id: None };
        hub.publish(&route, &preview(1));
        for number in 1..QUEUE_FRAMES_MAX {
            hub.publish(&route, &note(&number.to_string()));
        }
        hub.publish(&route, &preview(2));
        let found = notes(&handle);
        assert_eq!(found.len(), QUEUE_FRAMES_MAX);
        assert_eq!(found.first().unwrap(), "1");
        assert_eq!(found.last().unwrap(), "preview");
    }

    #[test]
    fn the_last_event_that_fits_is_kept_and_one_more_ends_the_socket() {
        let hub = Arc::new(Hub::default());
        let handle = hub.register(&scope("a", None), None, 9).unwrap();
        let route = Route { scope: scope("a", None), client_id: None };
        for _ in 0..QUEUE_FRAMES_MAX {
            hub.publish(&route, &note("n"));
        }
        // A preview that finds no room is dropped and does no harm.
        hub.publish(&route, &preview(1));
        assert_eq!(notes(&handle).len(), QUEUE_FRAMES_MAX);
        for _ in 0..=QUEUE_FRAMES_MAX {
            hub.publish(&route, &note("n"));
        }
        hub.publish(&route, &note("after"));
        assert_eq!(notes(&handle), ["overflowed"]);
    }

    #[test]
    fn bytes_are_bounded_and_one_large_event_alone_passes() {
        let hub = Arc::new(Hub::default());
        let handle = hub.register(&scope("a", None), None, 9).unwrap();
        let route = Route { scope: scope("a", None), client_id: None };
        hub.publish(&route, &note(&"x".repeat(QUEUE_BYTES_MAX)));
        assert_eq!(notes(&handle).len(), 1);
        hub.publish(&route, &note("small"));
        hub.publish(&route, &note(&"x".repeat(QUEUE_BYTES_MAX)));
        assert_eq!(notes(&handle), ["overflowed"]);
    }

    #[test]
    fn a_client_that_comes_back_learns_the_running_node_of_its_own_job_until_it_ends() {
        let hub = Arc::new(Hub::default());
        let route = |tenant: &str| Route { scope: scope(tenant, None), client_id: Some(client("x")) };
        let runs = |node: &str| ClientEvent::message(&json!({}), Mark::Runs("p".parse().unwrap(), node.into()));
        hub.publish(&route("a"), &runs("3"));
        hub.publish(&route("a"), &runs("4"));
        let node = |tenant: &str, id: &str| hub.register(&scope(tenant, None), Some(client(id)), 9).unwrap().running_node();
        assert_eq!(node("a", "x").as_deref(), Some("4"));
        assert_eq!(node("a", "y"), None);
        assert_eq!(node("b", "x"), None);
        hub.publish(&route("a"), &ClientEvent::message(&json!({}), Mark::Over("p".parse().unwrap())));
        assert_eq!(node("a", "x"), None);
        hub.publish(&route("a"), &runs("5"));
        hub.status(&scope("a", None), 0);
        assert_eq!(node("a", "x"), None);
    }

    /// A small generator, so that a failing run replays from its seed (SplitMix64).
    struct Draws(u64);
    impl Draws {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % bound
        }
    }

    #[test]
    fn no_interleaving_of_two_tenants_delivers_a_foreign_event_or_changes_the_order() {
        for seed in 0..200 {
            let (hub, mut draws) = (Arc::new(Hub::default()), Draws(seed));
            let mut open: Vec<(&str, &str, SocketHandle, Vec<u64>)> = Vec::new();
            let mut number = 0_u64;
            for _ in 0..300 {
                let tenant = ["a", "b"][usize::try_from(draws.below(2)).unwrap()];
                let id = ["x", "y"][usize::try_from(draws.below(2)).unwrap()];
                match draws.below(6) {
                    0 if open.len() < 8 => {
                        let handle = hub.register(&scope(tenant, None), Some(client(id)), 99).unwrap();
                        open.push((tenant, id, handle, Vec::new()));
                    }
                    1 if !open.is_empty() => {
                        let at = usize::try_from(draws.below(open.len() as u64)).unwrap();
                        open.swap_remove(at);
                    }
                    2 if !open.is_empty() => {
                        let at = usize::try_from(draws.below(open.len() as u64)).unwrap();
                        let (tenant, id, handle, seen) = &mut open[at];
                        for text in notes(handle) {
                            let mut words = text.split(' ');
                            assert_eq!(words.next(), Some(*tenant), "seed {seed}");
                            let meant = words.next().unwrap();
                            assert!(meant == "-" || meant == *id, "seed {seed}");
                            seen.push(words.next().unwrap().parse().unwrap());
                        }
                        assert!(seen.is_sorted_by(|a, b| a < b), "seed {seed}: {seen:?}");
                    }
                    kind => {
                        number += 1;
                        let id = (kind != 3).then_some(id);
                        let route = Route { scope: scope(tenant, None), client_id: id.map(client) };
                        hub.publish(&route, &note(&format!("{tenant} {} {number}", id.unwrap_or("-"))));
                    }
                }
            }
        }
    }
}
