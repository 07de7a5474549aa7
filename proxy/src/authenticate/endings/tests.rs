use super::*;
use crate::authenticate::api_key::KeyRefused;
use crate::owner::{ActiveSession, Credential, Owner, Scopes};
use crate::record::ledger::LedgerError;
use futures_util::FutureExt;
use std::sync::atomic::AtomicBool;

fn key() -> KeyId {
    "aaaaaaaaaaaa".parse().unwrap()
}

fn principal(good_until: Option<u64>) -> Principal {
    Principal {
        owner: Owner {
            tenant: "acme".parse().unwrap(),
            user: Some("ada".parse().unwrap()),
            key: Some(key()),
            shared: false,
        },
        scopes: Scopes::of_a_client(),
        credential: Credential::ApiKey,
        good_until: good_until.map(WallMillis),
        home: None,
    }
}

fn ended() -> AuthError {
    AuthError::KeyRefused { id: key(), reason: KeyRefused::Expired }
}

/// A credential under a clock that is turned by hand.
struct Turned {
    clock: Clock,
    endings: Arc<Endings>,
    reloads: watch::Sender<u64>,
    /// From when on it is refused.
    end: AtomicU64,
    /// The ledger can't be read.
    unreadable: AtomicBool,
    /// The provider has not renewed it.
    unrenewed: AtomicBool,
    /// The next look has no end.
    hangs: AtomicBool,
    looks: AtomicU64,
}

/// A socket that it opened.
type Socket<'t> = std::pin::Pin<Box<dyn Future<Output = End> + 't>>;

impl Turned {
    fn new() -> Self {
        Self {
            clock: Clock::turned_by_hand(WallMillis(1_000_000)),
            endings: Arc::default(),
            reloads: watch::channel(1).0,
            end: AtomicU64::new(u64::MAX),
            unreadable: AtomicBool::default(),
            unrenewed: AtomicBool::default(),
            hangs: AtomicBool::default(),
            looks: AtomicU64::default(),
        }
    }

    fn opened(&self) -> Socket<'_> {
        let look = || async {
            self.looks.fetch_add(1, Ordering::Relaxed);
            let end = self.end.load(Ordering::Relaxed);
            if self.hangs.swap(false, Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.unrenewed.load(Ordering::Relaxed) {
                Err(AuthError::NotRenewedYet { retry_after: Duration::from_secs(60) })
            } else if self.unreadable.load(Ordering::Relaxed) {
                let (action, reason) = ("look", "no disk".to_owned());
                Err(AuthError::Unavailable(LedgerError::Unavailable { action, reason }))
            } else if self.clock.wall().0 >= end {
                Err(ended())
            } else {
                Ok(principal((end < u64::MAX).then_some(end)))
            }
        };
        let sleep = move |wait| {
            let due = self.clock.monotonic() + wait;
            std::future::poll_fn(move |_| match self.clock.monotonic() >= due {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            })
        };
        let reloaded = self.reloads.subscribe();
        Box::pin(async move { until_ended(&principal(None), &self.endings, reloaded, &self.clock, look, sleep).await })
    }

    /// The clock goes on, second by second; how many of `seconds` went by until the socket ended.
    fn ended_after(&self, socket: &mut Socket<'_>, seconds: u64) -> Option<u64> {
        self.end_after(socket, seconds).map(|(second, end)| {
            assert_eq!(end, End::Over);
            second
        })
    }

    /// The same, and how it ended.
    fn end_after(&self, socket: &mut Socket<'_>, seconds: u64) -> Option<(u64, End)> {
        for second in 0..=seconds {
            if let Some(end) = socket.now_or_never() {
                return Some((second, end));
            }
            self.clock.turn(Duration::from_secs(1));
        }
        None
    }
}

#[test]
fn what_runs_out_is_seen_within_five_seconds_of_its_end_and_not_before() {
    let turned = Turned::new();
    // An hour, which is no multiple of the interval of looks.
    turned.end.store(1_000_000 + 3_601_500, Ordering::Relaxed);
    let mut socket = turned.opened();
    let after = turned.ended_after(&mut socket, 4_000).unwrap();
    assert!((3_602..=3_606).contains(&after), "{after}");
}

#[test]
fn what_runs_out_is_seen_though_nobody_can_be_asked() {
    let turned = Turned::new();
    turned.end.store(1_000_000 + 60_000, Ordering::Relaxed);
    let mut socket = turned.opened();
    assert!(turned.ended_after(&mut socket, 30).is_none());
    turned.unreadable.store(true, Ordering::Relaxed);
    let after = turned.ended_after(&mut socket, 60).unwrap();
    assert!((29..=34).contains(&after), "{after}");
}

#[test]
fn what_is_taken_back_is_seen_at_once() {
    for subject in [
        Subject::Key(key()),
        Subject::User("acme".parse().unwrap(), "ada".parse().unwrap()),
        Subject::Tenant("acme".parse().unwrap()),
    ] {
        let turned = Turned::new();
        let mut socket = turned.opened();
        assert_eq!(turned.ended_after(&mut socket, 100), None);
        turned.end.store(0, Ordering::Relaxed);
        turned.endings.tell(&subject);
        assert_eq!(turned.ended_after(&mut socket, 5), Some(0), "{subject:?}");
    }
}

#[test]
fn a_new_configuration_makes_every_socket_look() {
    let turned = Turned::new();
    let mut socket = turned.opened();
    assert_eq!(turned.ended_after(&mut socket, 100), None);
    turned.end.store(0, Ordering::Relaxed);
    turned.reloads.send_replace(2);
    assert_eq!(turned.ended_after(&mut socket, 5), Some(0));
}

#[test]
fn what_ended_before_anybody_listened_is_seen_by_the_first_look() {
    let turned = Turned::new();
    turned.end.store(0, Ordering::Relaxed);
    assert!(turned.ended_after(&mut turned.opened(), 5).is_some_and(|after| after <= 1));
}

#[test]
fn what_nobody_tells_and_a_clock_that_was_set_are_seen_by_the_next_look() {
    let turned = Turned::new();
    let mut socket = turned.opened();
    assert_eq!(turned.ended_after(&mut socket, 100), None);
    turned.end.store(1_000_000, Ordering::Relaxed);
    let after = turned.ended_after(&mut socket, 60).unwrap();
    assert!(after <= LOOK_INTERVAL.as_secs() + 1, "{after}");
}

#[test]
fn an_end_that_moved_while_it_was_used_is_waited_for_anew() {
    let turned = Turned::new();
    turned.end.store(1_000_000 + 50_000, Ordering::Relaxed);
    let mut socket = turned.opened();
    assert_eq!(turned.ended_after(&mut socket, 20), None);
    turned.end.store(1_000_000 + 90_000, Ordering::Relaxed);
    let after = turned.ended_after(&mut socket, 200).unwrap();
    assert!((69..=74).contains(&after), "{after}");
}

#[test]
fn what_cannot_be_checked_ends_nobody_and_is_asked_again_soon() {
    let turned = Turned::new();
    let mut socket = turned.opened();
    assert_eq!(turned.ended_after(&mut socket, 10), None);
    turned.unreadable.store(true, Ordering::Relaxed);
    turned.end.store(0, Ordering::Relaxed);
    turned.endings.tell(&Subject::Key(key()));
    assert_eq!(turned.ended_after(&mut socket, 60), None);
    turned.unreadable.store(false, Ordering::Relaxed);
    assert!(turned.ended_after(&mut socket, 10).is_some());
}

#[test]
fn what_is_taken_back_while_a_look_waits_for_a_provider_is_seen_at_once() {
    let turned = Turned::new();
    let mut socket = turned.opened();
    assert_eq!(turned.ended_after(&mut socket, 20), None);
    turned.hangs.store(true, Ordering::Relaxed);
    assert_eq!(turned.ended_after(&mut socket, 100), None, "that look waits");
    assert!(!turned.hangs.load(Ordering::Relaxed));
    turned.end.store(0, Ordering::Relaxed);
    turned.endings.tell(&Subject::Tenant("acme".parse().unwrap()));
    assert_eq!(turned.ended_after(&mut socket, 5), Some(0));
}

#[test]
fn a_session_whose_provider_gave_no_word_in_time_carries_no_socket_on_and_is_not_over() {
    let turned = Turned::new();
    let mut socket = turned.opened();
    assert_eq!(turned.ended_after(&mut socket, 10), None);
    turned.unrenewed.store(true, Ordering::Relaxed);
    let (after, end) = turned.end_after(&mut socket, 60).unwrap();
    assert!(after <= LOOK_INTERVAL.as_secs() + 1, "{after}");
    assert_eq!(end, End::NotRenewedYet { retry_after: Duration::from_secs(60) });
}

#[test]
fn a_socket_that_nothing_happens_to_is_looked_at_every_25_seconds_and_not_more_often() {
    let turned = Turned::new();
    let mut socket = turned.opened();
    assert_eq!(turned.ended_after(&mut socket, 1_000), None);
    let looks = turned.looks.load(Ordering::Relaxed);
    assert!((30..=42).contains(&looks), "{looks}");
    // Others' ends are none of its business.
    turned.endings.tell(&Subject::Key("bbbbbbbbbbbb".parse().unwrap()));
    assert!((&mut socket).now_or_never().is_none());
    assert_eq!(turned.looks.load(Ordering::Relaxed), looks);
}

#[test]
fn only_the_own_end_is_heard_and_one_told_while_nobody_waits_is_kept() {
    let endings = Arc::new(Endings::default());
    let (own, other) = (Subject::Session(SessionId::new()), Subject::Session(SessionId::new()));
    let listening = endings.listen(vec![own.clone()]);
    endings.tell(&other);
    assert!(listening.told().now_or_never().is_none());
    endings.tell(&own);
    endings.tell(&own);
    assert!(listening.told().now_or_never().is_some());
    assert!(listening.told().now_or_never().is_none());
}

#[test]
fn whoever_is_gone_leaves_nothing_behind() {
    let endings = Arc::new(Endings::default());
    let subjects = subjects_of(&principal(None));
    let (first, second) = (endings.listen(subjects.clone()), endings.listen(subjects));
    drop(first);
    assert_eq!(endings.waiting().len(), 3);
    drop(second);
    assert!(endings.waiting().is_empty());
}

#[test]
fn a_credential_depends_on_its_key_its_session_and_both_its_users_and_tenants() {
    let session = ActiveSession {
        id: SessionId::new(),
        seen_at: WallMillis(0),
        idle_until: WallMillis(0),
        ends_at: WallMillis(0),
    };
    let all = Principal {
        credential: Credential::Session(session),
        home: Some(OwnerScope { tenant: "agency".parse().unwrap(), user: Some("Bot".parse().unwrap()) }),
        ..principal(None)
    };
    let subjects = subjects_of(&all);
    let acme: TenantId = "acme".parse().unwrap();
    for subject in [
        Subject::Key(key()),
        Subject::Session(session.id),
        Subject::User(acme.clone(), "ada".parse().unwrap()),
        Subject::Tenant(acme),
        Subject::User("agency".parse().unwrap(), "bot".parse().unwrap()),
        Subject::Tenant("agency".parse().unwrap()),
    ] {
        assert!(subjects.contains(&subject), "{subject:?}");
    }
}

#[test]
fn the_next_look_is_at_the_end_but_never_too_soon_and_never_too_late() {
    let now = WallMillis(10_000);
    assert_eq!(next_look(None, now), LOOK_INTERVAL);
    assert_eq!(next_look(Some(WallMillis(14_000)), now), Duration::from_secs(4));
    assert_eq!(next_look(Some(WallMillis(35_000)), now), LOOK_INTERVAL);
    assert_eq!(next_look(Some(WallMillis(35_001)), now), LOOK_INTERVAL);
    for past in [10_000, 10_099, 0] {
        assert_eq!(next_look(Some(WallMillis(past)), now), LOOK_MIN, "{past}");
    }
}
