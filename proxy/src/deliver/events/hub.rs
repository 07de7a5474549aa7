//! Which socket belongs to whom, and a bounded queue for each. Owns no socket: [`socket`](super::socket) takes from a queue what this puts in.
//!
//! A socket is addressed by owner scope and client id. Several sockets of one client each get their own copy: nobody takes anything over
//! (facts §6.1). A slow client loses previews first, oldest first; when what must not be lost does not fit either, its queue is closed and the
//! socket ends with 1013. The end of a job waits as one entry, however many events and pictures it has; whose socket was away, or was closed before it had been
//! sent all of it, is told at its next connection ([`Recent`]).

use super::codec::ClientEvent;
use super::end::{End, Picture, Step};
use super::recent::Recent;
use crate::clock::Clock;
use crate::ids::{ClientId, JobId, PromptId, TenantId};
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
    clock: Clock,
    owners: DashMap<OwnerScope, OwnerSockets>,
    by_tenant: DashMap<TenantId, u32>,
    open: AtomicU32,
    sockets_max: AtomicU32,
    next: AtomicU64,
    dropped: AtomicU64,
    /// INVARIANT: whoever tells an end, takes a socket in or lets one go holds this lock over it, so that an end reaches a new socket by its queue or from here, never
    /// by both. Never taken while a guard of `owners` is held.
    recent: Mutex<Recent>,
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
    with_places: AtomicBool,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Item>,
    bytes: usize,
    overflowed: bool,
}

/// An entry of a queue.
#[derive(Debug)]
enum Item {
    Event(ClientEvent),
    /// The end of a job, of which so many steps were given. It goes when it is asked for after its last one, which was sent by then.
    End(Arc<End>, usize),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.bytes(),
            Self::End(end, _) => end.bytes(),
        }
    }

    fn is_preview(&self) -> bool {
        matches!(self, Self::Event(event) if event.is_preview())
    }
}

/// What a socket finds in its queue.
#[derive(Debug)]
pub enum Next {
    /// To be sent.
    Event(ClientEvent),
    /// To be sent out of its file.
    Picture(Picture),
    /// The client reads too slowly: close with 1013.
    Overflowed,
}

impl Hub {
    /// A hub for at most so many sockets of all tenants together.
    pub fn new(sockets_max: u32, clock: Clock) -> Self {
        Self {
            clock,
            owners: DashMap::new(),
            by_tenant: DashMap::new(),
            open: AtomicU32::new(0),
            sockets_max: AtomicU32::new(sockets_max),
            next: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            recent: Mutex::default(),
        }
    }

    /// From now on at most so many; sockets that are open stay.
    pub fn set_sockets_max(&self, sockets_max: u32) {
        self.sockets_max.store(sockets_max, Ordering::Relaxed);
    }

    /// Takes a socket in, under the id that the client named or a drawn one. First in its queue are the ends of jobs of that client which nobody has heard of, then what its running
    /// prompt executes.
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
            with_places: AtomicBool::new(false),
            waiting: Mutex::default(),
            arrived: Notify::new(),
        });
        let mut recent = self.recent();
        for end in recent.take(scope, &queue.client_id, self.clock.monotonic()) {
            self.push(&queue, Item::End(end, 0));
        }
        {
            let mut owner = self.owners.entry(scope.clone()).or_default();
            if let Some(node) = owner.executing_for(&queue.client_id) {
                let executing = json!({"type": "executing", "data": {"node": node}}).to_string();
                self.push(&queue, Item::Event(ClientEvent::Json(executing.into())));
            }
            owner.sockets.push(Arc::clone(&queue));
        }
        drop(recent);
        Ok(SocketHandle { hub: Arc::clone(self), scope: scope.clone(), queue })
    }

    /// Tells an event to exactly the sockets of its route.
    pub fn publish(&self, route: &Route, event: &ClientEvent) {
        self.to_each(route, || Item::Event(event.clone()));
    }

    /// Tells the end of a job to exactly the sockets of its route, and to who was away when it connects.
    pub fn publish_end(&self, route: &Route, job: JobId, steps: Vec<Step>) {
        let end = End::new(steps);
        let mut recent = self.recent();
        self.to_each(route, || Item::End(Arc::clone(&end), 0));
        recent.keep(job, &route.scope, route.client_id.as_ref(), end, self.clock.monotonic());
    }

    /// Its owner has deleted that job: nobody hears of its end any more who has not yet.
    pub fn forget_end(&self, job: JobId) {
        self.recent().forget(job);
    }

    /// Nobody hears any more of ends of a tenant's jobs that were not told yet.
    pub fn forget_tenant(&self, tenant: &TenantId) {
        self.recent().forget_tenant(tenant);
    }

    fn to_each(&self, route: &Route, item: impl Fn() -> Item) {
        if let Some(owner) = self.owners.get(&route.scope) {
            for queue in
                owner.sockets.iter().filter(|queue| route.client_id.as_ref().is_none_or(|id| *id == queue.client_id))
            {
                self.push(queue, item());
            }
        }
    }

    /// Tells an event to every socket of a tenant, whoever its user is.
    pub fn publish_to_tenant(&self, tenant: &TenantId, event: &ClientEvent) {
        for owner in self.owners.iter().filter(|owner| owner.key().tenant == *tenant) {
            owner.sockets.iter().for_each(|queue| self.push(queue, Item::Event(event.clone())));
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
            owner.sockets.iter().for_each(|queue| self.push(queue, Item::Event(event.clone())));
        }
    }

    /// Whether a socket of that owner wants to hear how its held jobs stand.
    pub fn wants_places(&self, scope: &OwnerScope) -> bool {
        let wants = |queue: &Arc<Queue>| queue.with_places.load(Ordering::Relaxed);
        self.owners.get(scope).is_some_and(|owner| owner.sockets.iter().any(wants))
    }

    /// Tells the sockets of an owner that want it how its held jobs stand.
    pub fn publish_places(&self, scope: &OwnerScope, event: &ClientEvent) {
        if let Some(owner) = self.owners.get(scope) {
            for queue in owner.sockets.iter().filter(|queue| queue.with_places.load(Ordering::Relaxed)) {
                self.push(queue, Item::Event(event.clone()));
            }
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

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Changed in steps that can't fail.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, queue: &Queue, item: Item) {
        let lost = queue.waiting().push(item);
        self.dropped.fetch_add(lost, Ordering::Relaxed);
        queue.arrived.notify_one();
    }

    fn leave(&self, scope: &OwnerScope, queue: &Queue) {
        let mut recent = self.recent();
        if let Some(mut owner) = self.owners.get_mut(scope) {
            owner.sockets.retain(|other| other.number != queue.number);
        }
        queue.waiting().clear();
        self.forget_if_empty(scope);
        // Another socket of the client that came before this one was known to be dead.
        let route = Route { scope: scope.clone(), client_id: Some(queue.client_id.clone()) };
        for end in recent.take(scope, &queue.client_id, self.clock.monotonic()) {
            self.to_each(&route, || Item::End(Arc::clone(&end), 0));
        }
        drop(recent);
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

impl OwnerSockets {
    /// What that client's running prompt executes now, if one runs.
    fn executing_for(&self, client_id: &ClientId) -> Option<&str> {
        let mine = |executing: &&Executing| executing.client_id.as_ref().is_none_or(|id| id == client_id);
        self.executing.values().find(mine).map(|executing| executing.node.as_str())
    }
}

impl SocketHandle {
    /// The id that this socket is addressed by.
    pub fn client_id(&self) -> &ClientId {
        &self.queue.client_id
    }

    /// The client announced `comfygate_queue`, or that it does not.
    pub fn set_with_places(&self, with_places: bool) {
        self.queue.with_places.store(with_places, Ordering::Relaxed);
    }

    /// The client announced `supports_preview_metadata`, or that it does not.
    pub fn set_with_metadata(&self, with_metadata: bool) {
        self.queue.with_metadata.store(with_metadata, Ordering::Relaxed);
    }

    /// Whether the client takes previews with metadata.
    pub fn with_metadata(&self) -> bool {
        self.queue.with_metadata.load(Ordering::Relaxed)
    }

    /// All that was given so far has been sent. Said at once, and not by asking for what comes next: whoever hears the last of an end may leave, or come anew, before that.
    pub fn sent(&self) {
        self.queue.waiting().sent();
    }

    /// The next thing to do; waits for it. What was given before counts as sent. Cancel-safe: nothing is taken before it is given.
    pub async fn next(&self) -> Next {
        loop {
            {
                let mut waiting = self.queue.waiting();
                if waiting.overflowed {
                    return Next::Overflowed;
                }
                match waiting.pop() {
                    Some(Step::Event(event)) => return Next::Event(event),
                    Some(Step::Picture(picture)) => return Next::Picture(picture),
                    None => {}
                }
            }
            self.queue.arrived.notified().await;
        }
    }
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        self.hub.leave(&self.scope, &self.queue);
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Changed in one step each, so a panic elsewhere leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Adds an entry; gives how many previews were thrown out for it.
    fn push(&mut self, item: Item) -> u64 {
        if self.overflowed {
            return 0;
        }
        let mut lost = 0;
        while !self.fits(&item) {
            match self.events.iter().position(Item::is_preview).and_then(|oldest| self.events.remove(oldest)) {
                Some(preview) => {
                    self.bytes = self.bytes.saturating_sub(preview.bytes());
                    lost += 1;
                }
                None if item.is_preview() => return lost + 1,
                None => {
                    self.overflowed = true;
                    self.clear();
                    return lost;
                }
            }
        }
        self.bytes += item.bytes();
        self.events.push_back(item);
        lost
    }

    /// One entry alone always fits: a text output may be larger than all that should wait.
    fn fits(&self, item: &Item) -> bool {
        self.events.is_empty()
            || (self.events.len() < EVENTS_MAX && self.bytes.saturating_add(item.bytes()) <= BYTES_MAX)
    }

    fn sent(&self) {
        if let Some(Item::End(end, done)) = self.events.front()
            && end.step(*done).is_none()
        {
            end.set_told();
        }
    }

    fn pop(&mut self) -> Option<Step> {
        loop {
            self.sent();
            if let Item::End(end, done) = self.events.front_mut()?
                && let Some(step) = end.step(*done)
            {
                *done += 1;
                return Some(step.clone());
            }
            let item = self.events.pop_front()?;
            self.bytes = self.bytes.saturating_sub(item.bytes());
            if let Item::Event(event) = item {
                return Some(Step::Event(event));
            }
        }
    }

    fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
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
        while let Some(next) = handle.next().now_or_never() {
            match next {
                Next::Event(event) => events.push(event),
                Next::Picture(picture) => events.push(text(&picture.path.display().to_string())),
                Next::Overflowed => break,
            }
        }
        events
    }

    fn open(hub: &Arc<Hub>, scope: &OwnerScope, client: &str) -> SocketHandle {
        hub.register(scope, Some(client.parse().unwrap()), 10).unwrap()
    }

    #[test]
    fn an_event_reaches_every_socket_of_its_client_and_no_other() {
        let hub = Arc::new(Hub::new(100, Clock::system()));
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
        let hub = Arc::new(Hub::new(100, Clock::system()));
        let (a, b) = (scope("a", None), scope("b", None));
        let (x, y, foreign) = (open(&hub, &a, "x"), open(&hub, &a, "y"), open(&hub, &b, "x"));
        hub.publish(&route(&a, None), &text("1"));
        assert_eq!((drained(&x).len(), drained(&y).len(), drained(&foreign).len()), (1, 1, 0));
    }

    #[test]
    fn a_slow_client_loses_the_oldest_previews_first_and_nothing_else() {
        let hub = Arc::new(Hub::new(100, Clock::system()));
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
        let hub = Arc::new(Hub::new(100, Clock::system()));
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
        let hub = Arc::new(Hub::new(100, Clock::system()));
        let first = hub.register(&scope("a", None), None, 2).unwrap();
        let _second = hub.register(&scope("a", Some("u")), None, 2).unwrap();
        assert_eq!(hub.register(&scope("a", None), None, 2).unwrap_err(), HubError::TooManySockets { limit: 2 });
        assert!(hub.register(&scope("b", None), None, 2).is_ok());
        drop(first);
        assert!(hub.register(&scope("a", None), None, 2).is_ok());
    }

    #[test]
    fn the_gateway_has_as_many_sockets_as_it_may_over_all_tenants() {
        let hub = Arc::new(Hub::new(1, Clock::system()));
        let only = hub.register(&scope("a", None), None, 9).unwrap();
        assert_eq!(hub.register(&scope("b", None), None, 9).unwrap_err(), HubError::Full { limit: 1 });
        // Who was refused holds no place of its tenant.
        drop(only);
        assert!(hub.register(&scope("b", None), None, 1).is_ok());
    }

    #[test]
    fn whoever_left_leaves_nothing_behind() {
        let hub = Arc::new(Hub::new(100, Clock::system()));
        let a = scope("a", None);
        drop(open(&hub, &a, "x"));
        hub.set_executing(&route(&a, None), &"p".parse().unwrap(), Some("3".into()));
        hub.set_executing(&route(&a, None), &"p".parse().unwrap(), None);
        assert!(hub.owners.is_empty() && hub.by_tenant.is_empty());
    }

    #[test]
    fn a_client_that_connects_in_the_middle_learns_what_its_own_prompt_executes() {
        let hub = Arc::new(Hub::new(100, Clock::system()));
        let a = scope("a", None);
        hub.set_executing(&route(&a, Some("x")), &"p".parse().unwrap(), Some("3".into()));
        let executing = [text(r#"{"type":"executing","data":{"node":"3"}}"#)];
        assert_eq!(drained(&open(&hub, &a, "x")), executing);
        assert!(drained(&open(&hub, &a, "y")).is_empty());
        assert!(drained(&open(&hub, &scope("b", None), "x")).is_empty());
        hub.status(&a, 1);
        assert_eq!(drained(&open(&hub, &a, "x")), executing);
        hub.status(&a, 0);
        assert!(hub.owners.is_empty());
    }

    /// The end of a job: an event, and pictures of those names.
    fn end_of(hub: &Hub, route: &Route, first: &str, pictures: &[&str]) -> JobId {
        let picture = |name: &&str| {
            let path = name.into();
            Step::Picture(Picture { path, bytes: 1 << 40, metadata: Map::new(), format: ImageFormat::Png })
        };
        let steps = std::iter::once(Step::Event(text(first))).chain(pictures.iter().map(picture)).collect();
        let job = JobId::new();
        hub.publish_end(route, job, steps);
        job
    }

    #[test]
    fn who_was_away_hears_an_end_once_before_what_runs_now_and_nobody_else_does() {
        let hub = Arc::new(Hub::new(100, Clock::system()));
        let (a, b) = (scope("a", None), scope("b", None));
        let (other, foreign) = (open(&hub, &a, "y"), open(&hub, &b, "x"));
        end_of(&hub, &route(&a, Some("x")), "end", &["p1", "p2"]);
        hub.set_executing(&route(&a, Some("x")), &"p".parse().unwrap(), Some("3".into()));
        let late_foreign = open(&hub, &b, "x");
        let first = open(&hub, &a, "x");
        let told = drained(&first);
        assert_eq!(told[..3], [text("end"), text("p1"), text("p2")]);
        assert_eq!(told.len(), 4, "and what is executed now");
        assert_eq!(drained(&open(&hub, &a, "x")), told[3..], "not a second time");
        for deaf in [&other, &foreign, &late_foreign] {
            assert!(drained(deaf).is_empty());
        }
    }

    #[test]
    fn an_end_that_a_socket_heard_is_not_told_again_and_one_that_it_heard_in_part_is() {
        let hub = Arc::new(Hub::new(100, Clock::system()));
        let a = scope("a", None);
        let first = open(&hub, &a, "x");
        end_of(&hub, &route(&a, Some("x")), "heard", &[]);
        assert_eq!(drained(&first), [text("heard")]);
        end_of(&hub, &route(&a, Some("x")), "in part", &["p1"]);
        assert!(matches!(first.next().now_or_never(), Some(Next::Event(_))));
        assert!(matches!(first.next().now_or_never(), Some(Next::Picture(_))));
        // The picture was given; whether it was sent, nobody knows yet.
        drop(first);
        assert_eq!(drained(&open(&hub, &a, "x")), [text("in part"), text("p1")]);
        assert!(drained(&open(&hub, &a, "x")).is_empty());
    }

    #[test]
    fn an_end_counts_as_heard_once_its_last_step_is_sent_even_if_its_socket_asks_for_nothing_more() {
        for sent in [true, false] {
            let hub = Arc::new(Hub::new(100, Clock::system()));
            let a = scope("a", None);
            let first = open(&hub, &a, "x");
            end_of(&hub, &route(&a, Some("x")), "end", &["p1"]);
            assert!(matches!(first.next().now_or_never(), Some(Next::Event(_))));
            first.sent();
            assert!(matches!(first.next().now_or_never(), Some(Next::Picture(_))));
            if sent {
                first.sent();
            }
            // The client has read all of it, and goes away before its socket asks for more.
            drop(first);
            let told = if sent { vec![] } else { vec![text("end"), text("p1")] };
            assert_eq!(drained(&open(&hub, &a, "x")), told, "{sent}");
        }
    }

    #[test]
    fn an_end_that_overflowed_with_its_socket_is_told_to_the_next_and_the_other_socket_goes_on() {
        let hub = Arc::new(Hub::new(100, Clock::system()));
        let a = scope("a", None);
        let slow = open(&hub, &a, "x");
        end_of(&hub, &route(&a, Some("x")), "end", &["p1"]);
        let good = open(&hub, &a, "x");
        for _ in 1..EVENTS_MAX {
            hub.publish(&route(&a, None), &text("1"));
            drained(&good);
        }
        assert!(!slow.queue.waiting().overflowed, "the end and as many others as fit");
        hub.publish(&route(&a, None), &text("1"));
        assert!(matches!(slow.next().now_or_never(), Some(Next::Overflowed)));
        assert_eq!(drained(&good), [text("1")]);
        drop(slow);
        assert_eq!(drained(&good), [text("end"), text("p1")], "it came while the slow one held the end");
        assert!(drained(&open(&hub, &a, "x")).is_empty());
    }

    #[test]
    fn many_pictures_wait_as_one_entry_and_by_reference() {
        let hub = Arc::new(Hub::new(100, Clock::system()));
        let a = scope("a", None);
        let socket = open(&hub, &a, "x");
        end_of(&hub, &route(&a, Some("x")), "end", &vec!["p"; 2 * EVENTS_MAX]);
        assert_eq!(drained(&socket).len(), 1 + 2 * EVENTS_MAX);
    }

    #[test]
    fn a_deleted_job_is_told_to_nobody() {
        let hub = Arc::new(Hub::new(100, Clock::system()));
        let a = scope("a", None);
        let job = end_of(&hub, &route(&a, Some("x")), "end", &[]);
        end_of(&hub, &route(&a, Some("x")), "other", &[]);
        hub.forget_end(job);
        assert_eq!(drained(&open(&hub, &a, "x")), [text("other")]);
    }

    #[test]
    fn an_end_is_told_for_five_minutes_and_no_longer() {
        for (seconds, told) in [(300, 1), (301, 0)] {
            let clock = Clock::turned_by_hand(crate::clock::WallMillis(0));
            let hub = Arc::new(Hub::new(100, clock.clone()));
            let a = scope("a", None);
            end_of(&hub, &route(&a, None), "end", &[]);
            clock.turn(std::time::Duration::from_secs(seconds));
            assert_eq!(drained(&open(&hub, &a, "x")).len(), told, "{seconds}");
        }
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
        let hub = Arc::new(Hub::new(100, Clock::system()));
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
