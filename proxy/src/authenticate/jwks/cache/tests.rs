use super::*;
use crate::authenticate::jwks::fetch::{Fetched, Roots};
use crate::authenticate::jwks::schedule::UNKNOWN_KID_INTERVAL;
use crate::clock::WallMillis;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an issuer answers now; `None`: it is down.
struct Issuer {
    kids: Mutex<Option<Vec<&'static str>>>,
    fetches: AtomicUsize,
    /// Each fetch waits for one of these.
    gate: Semaphore,
}

impl Issuer {
    fn new(kids: &[&'static str]) -> Arc<Self> {
        let kids = Mutex::new(Some(kids.to_vec()));
        Arc::new(Self { kids, fetches: AtomicUsize::new(0), gate: Semaphore::new(1000) })
    }

    fn publish(&self, kids: Option<Vec<&'static str>>) {
        *self.kids.lock().unwrap() = kids;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

/// An issuer as the cache sees it.
struct Line(Arc<Issuer>);

#[async_trait]
impl FetchKeys for Line {
    async fn fetch(&self) -> Result<Fetched, FetchError> {
        self.0.fetches.fetch_add(1, Ordering::SeqCst);
        self.0.gate.acquire().await.unwrap().forget();
        let kids = self.0.kids.lock().unwrap().clone().ok_or(FetchError::Status(500))?;
        let key =
            |kid: &&str| json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([7; 32]), "kid": kid});
        let body = json!({"keys": kids.iter().map(key).collect::<Vec<_>>()}).to_string();
        Ok(Fetched { body: Bytes::from(body), max_age: None })
    }
}

struct World {
    issuer: Arc<Issuer>,
    clock: Clock,
    sets: KeySets,
}

impl World {
    fn new(kids: &[&'static str]) -> Self {
        let clock = Clock::turned_by_hand(WallMillis(1_000_000));
        Self { issuer: Issuer::new(kids), sets: KeySets::new(Handle::current(), clock.clone()), clock }
    }

    fn set(&self) -> Arc<KeySet> {
        self.set_of("https://id.example/", "https://id.example/keys")
    }

    fn set_of(&self, issuer: &str, url: &str) -> Arc<KeySet> {
        let config = JwksConfig {
            url: url.parse().unwrap(),
            roots: Roots::shipped(),
            algorithms: vec![Algorithm::EdDsa],
            refresh: JwksConfig::REFRESH,
            stale_max: JwksConfig::STALE_MAX,
        };
        let line = Line(Arc::clone(&self.issuer));
        self.sets.set_by(issuer, &config, || Box::new(line))
    }
}

async fn key(set: &KeySet, kid: &str) -> Result<(), KeySetError> {
    set.key(Some(kid), Algorithm::EdDsa).await.map(drop)
}

#[tokio::test]
async fn the_first_token_waits_for_the_first_fetch_and_later_ones_need_none() {
    let world = World::new(&["a"]);
    let set = world.set();
    for _ in 0..20 {
        assert_eq!(key(&set, "a").await, Ok(()));
    }
    assert_eq!(world.issuer.fetches(), 1);
}

#[tokio::test]
async fn an_issuer_that_was_never_reached_is_unavailable_and_is_tried_again() {
    let world = World::new(&["a"]);
    world.issuer.publish(None);
    let set = world.set();
    let second = Duration::from_secs(1);
    assert_eq!(key(&set, "a").await, Err(KeySetError::Unavailable { retry_after: second }));
    // Before the pause is over nothing is fetched for anybody.
    assert_eq!(key(&set, "a").await, Err(KeySetError::Unavailable { retry_after: second }));
    assert_eq!(world.issuer.fetches(), 1);
    world.issuer.publish(Some(vec!["a"]));
    world.clock.turn(second);
    set.wake.notify_one();
    assert_eq!(key(&set, "a").await, Ok(()));
    assert_eq!(world.issuer.fetches(), 2);
}

#[tokio::test]
async fn an_unknown_kid_is_fetched_for_once_in_thirty_seconds_and_invented_ones_cost_nothing() {
    let world = World::new(&["a"]);
    let set = world.set();
    assert_eq!(key(&set, "a").await, Ok(()));
    for n in 0..200 {
        assert_eq!(key(&set, &format!("invented-{n}")).await, Err(KeySetError::UnknownKid));
    }
    assert_eq!(world.issuer.fetches(), 2);
    // Published meanwhile: not seen before the time is over, seen after it.
    world.issuer.publish(Some(vec!["b"]));
    world.clock.turn(UNKNOWN_KID_INTERVAL - Duration::from_millis(1));
    assert_eq!(key(&set, "b").await, Err(KeySetError::UnknownKid));
    world.clock.turn(Duration::from_millis(1));
    assert_eq!(key(&set, "b").await, Ok(()));
    assert_eq!(world.issuer.fetches(), 3);
}

#[tokio::test]
async fn a_rotated_key_is_taken_at_its_first_token_and_the_old_one_is_refused_then() {
    let world = World::new(&["a"]);
    let set = world.set();
    assert_eq!(key(&set, "a").await, Ok(()));
    world.issuer.publish(Some(vec!["b"]));
    assert_eq!(key(&set, "a").await, Ok(()), "the set at hand still has it");
    assert_eq!(key(&set, "b").await, Ok(()));
    assert_eq!(key(&set, "a").await, Err(KeySetError::UnknownKid));
}

#[tokio::test]
async fn many_requests_that_wait_share_one_fetch() {
    let world = World::new(&["a"]);
    let set = world.set();
    assert_eq!(key(&set, "a").await, Ok(()));
    world.issuer.publish(Some(vec!["a", "b"]));
    world.issuer.gate.forget_permits(1000);
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let set = Arc::clone(&set);
            tokio::spawn(async move { key(&set, "b").await })
        })
        .collect();
    while world.issuer.fetches() < 2 {
        tokio::task::yield_now().await;
    }
    world.issuer.gate.add_permits(1000);
    for one in waiting {
        assert_eq!(one.await.unwrap(), Ok(()));
    }
    assert_eq!(world.issuer.fetches(), 2);
}

#[tokio::test]
async fn beyond_the_most_that_may_wait_a_request_is_answered_at_once() {
    let world = World::new(&["a"]);
    let set = world.set();
    assert_eq!(key(&set, "a").await, Ok(()));
    let all = set.waiting.acquire_many(u32::try_from(WAITING_MAX).unwrap()).await.unwrap();
    world.issuer.gate.forget_permits(1000);
    assert_eq!(key(&set, "b").await, Err(KeySetError::UnknownKid));
    drop(all);
}

#[tokio::test]
async fn while_an_issuer_is_down_its_known_keys_count_and_unknown_ones_are_unavailable() {
    let world = World::new(&["a"]);
    let set = world.set();
    assert_eq!(key(&set, "a").await, Ok(()));
    world.issuer.publish(None);
    assert!(matches!(key(&set, "b").await, Err(KeySetError::Unavailable { .. })));
    assert_eq!(key(&set, "a").await, Ok(()));
    world.clock.turn(JwksConfig::STALE_MAX - Duration::from_millis(1));
    assert_eq!(key(&set, "a").await, Ok(()));
    world.clock.turn(Duration::from_millis(1));
    assert!(matches!(key(&set, "a").await, Err(KeySetError::Unavailable { .. })));
}

#[tokio::test]
async fn a_set_is_fetched_again_when_it_is_due_without_any_token() {
    let world = World::new(&["a"]);
    let set = world.set();
    assert_eq!(key(&set, "a").await, Ok(()));
    world.issuer.publish(Some(vec!["b"]));
    world.clock.turn(JwksConfig::REFRESH * 9 / 10);
    let mut rounds = set.rounds.subscribe();
    // The task sleeps by the system's clock; this is what it does when it wakes.
    set.wake.notify_one();
    rounds.changed().await.unwrap();
    assert_eq!(key(&set, "a").await, Err(KeySetError::UnknownKid));
}

#[tokio::test]
async fn two_authenticators_of_one_issuer_share_its_set_and_others_do_not() {
    let world = World::new(&["a"]);
    let first = world.set();
    assert_eq!(key(&first, "a").await, Ok(()));
    let after_reload = world.set();
    assert!(Arc::ptr_eq(&first, &after_reload));
    assert!(!Arc::ptr_eq(&first, &world.set_of("https://id.example/", "https://id.example/other")));
    assert!(!Arc::ptr_eq(&first, &world.set_of("https://other.example/", "https://id.example/keys")));
    drop(first);
    assert_eq!(key(&after_reload, "a").await, Ok(()));
    assert_eq!(world.issuer.fetches(), 1);
}

#[tokio::test]
async fn a_set_that_nobody_uses_any_more_is_forgotten_with_its_task() {
    let world = World::new(&["a"]);
    let set = world.set();
    assert_eq!(key(&set, "a").await, Ok(()));
    let (gone, task) = (Arc::downgrade(&set), set.task.get().unwrap().clone());
    drop(set);
    assert!(gone.upgrade().is_none());
    while !task.is_finished() {
        tokio::task::yield_now().await;
    }
    let fresh = world.set();
    assert_eq!(key(&fresh, "a").await, Ok(()));
    assert_eq!(world.issuer.fetches(), 2);
}
