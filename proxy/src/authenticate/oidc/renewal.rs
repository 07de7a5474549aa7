//! When a session's grant is looked at again, and that this happens once at a time. No I/O: `services/renewals.rs` does it.

use super::provider::Vouched;
use super::seal::{Sealer, Tokens};
use crate::authenticate::session::SessionRefused;
use crate::clock::WallMillis;
use crate::config::OidcConfig;
use crate::ids::{ProviderId, SessionId};
use crate::record::ledger::sessions::{Judged, OidcGrant};
use comfygate_policy::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Shortest time that a grant counts: a provider that says less would be asked at every request.
const GOOD_FOR_MIN: Duration = Duration::from_secs(5);
/// And the longest, of a grant and of the claims that it was given for: claims are read once a day at least.
const CLAIMS_MAX: Duration = Duration::from_secs(24 * 3600);
/// Of a provider that does not say.
const GOOD_FOR_UNSAID: Duration = Duration::from_secs(3600);
/// A request has it renewed so long before its end at most; a fifth of its time where that is less.
const AHEAD_MAX: Duration = Duration::from_secs(60);
/// Renewals under way at once; one more waits for a place.
const FLIGHTS_MAX: usize = 64;
/// Of them those at one provider: one that answers slowly must not hold up the sessions of others.
const FLIGHTS_OF_ONE_MAX: usize = 16;

/// What the configuration of now says of a provider's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    rules: Digest,
    session_max: Duration,
    stale_max: Duration,
}

impl Terms {
    /// Those of a provider, whose [`OidcConfig::rules`] these are.
    pub fn new(config: &OidcConfig, rules: Digest) -> Self {
        Self { rules, session_max: config.session_max, stale_max: config.refresh_stale_max }
    }

    /// How long claims count that can be read anew.
    fn claims_max(&self) -> Duration {
        self.session_max.min(CLAIMS_MAX)
    }

    /// When a grant with a refresh token ends, unless it is renewed: with the tokens, or when its claims are too old.
    fn end(&self, good_until: WallMillis, judged: Option<Judged>) -> WallMillis {
        judged.map_or(good_until, |judged| good_until.min(judged.at.plus(self.claims_max())))
    }

    /// Whether the claims that were read then still count at `now`, without a look at them.
    pub fn still_judged(&self, grant: &OidcGrant, now: WallMillis) -> bool {
        grant.judged.is_some_and(|judged| judged.rules == self.rules && now < judged.at.plus(self.claims_max()))
    }
}

/// Why a grant lets nobody in as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapsed {
    /// It can't be renewed: its session is over.
    Over(SessionRefused),
    /// It was not renewed for longer than `refresh_stale_max` after its end.
    Stale,
    /// It was given by rules that have changed since.
    OtherRules,
}

/// What a request has to do about a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it is good, or lasts as long as its session.
    Nothing,
    /// Have it renewed, and go on.
    Soon,
    /// Have it renewed, and wait for that.
    Now,
}

/// What a request at `now` has to do.
pub fn need(grant: &OidcGrant, terms: &Terms, now: WallMillis) -> Need {
    let Some(good_until) = grant.good_until else { return Need::Nothing };
    // Of rows of a version that noted no rules, a renewal says all that is not known.
    if now >= terms.end(good_until, grant.judged) || !terms.still_judged(grant, now) {
        return Need::Now;
    }
    if grant.renew_at.is_some_and(|renew_at| now >= renew_at) { Need::Soon } else { Need::Nothing }
}

/// Whether a session, begun at `created_at`, goes on by its grant as it stands.
///
/// # Errors
/// [`Lapsed`].
pub fn stands(grant: &OidcGrant, created_at: WallMillis, terms: &Terms, now: WallMillis) -> Result<(), Lapsed> {
    let other_rules = grant.judged.is_some_and(|judged| judged.rules != terms.rules);
    match grant.good_until {
        Some(good_until) if now >= terms.end(good_until, grant.judged).plus(terms.stale_max) => Err(Lapsed::Stale),
        Some(_) if other_rules => Err(Lapsed::OtherRules),
        Some(_) => Ok(()),
        None if other_rules => Err(Lapsed::Over(SessionRefused::RulesChanged)),
        None if now >= last_claims_end(grant, created_at, terms) => Err(Lapsed::Over(SessionRefused::Over)),
        None => Ok(()),
    }
}

/// When claims are too old that can't be read anew. Where it is not known by which rules they were read, that is soon.
fn last_claims_end(grant: &OidcGrant, created_at: WallMillis, terms: &Terms) -> WallMillis {
    grant.judged.map_or_else(|| created_at.plus(CLAIMS_MAX), |judged| judged.at.plus(terms.session_max))
}

/// When a session is to be looked at again, if nothing happens: it is to be renewed then, or ends.
pub fn next_moment(grant: &OidcGrant, created_at: WallMillis, terms: &Terms, now: WallMillis) -> Option<WallMillis> {
    let end = grant.good_until.map(|good_until| terms.end(good_until, grant.judged));
    let last = grant.good_until.is_none().then(|| last_claims_end(grant, created_at, terms));
    let moments = [grant.renew_at, end, end.map(|end| end.plus(terms.stale_max)), last];
    moments.into_iter().flatten().filter(|moment| *moment > now).min()
}

/// The grant of what a provider vouched for at `now`; `former` is what it renews. `None`: the system gave no random bytes.
pub fn grant(
    (config, terms): (&OidcConfig, &Terms),
    vouched: Vouched,
    former: Option<(&OidcGrant, Tokens)>,
    seal: (&Sealer, SessionId),
    now: WallMillis,
) -> Option<OidcGrant> {
    let (former, old) = former.map_or((None, None), |(grant, tokens)| (Some(grant), Some(tokens)));
    // A provider that does not rotate sends no new refresh token; one that does has made the old one void.
    let refresh = vouched.refresh_token.or_else(|| old.as_ref()?.refresh().map(str::to_owned));
    let tokens = Tokens::new(refresh, vouched.id_token.or_else(|| old?.id_token));
    let good_for = vouched.good_for.unwrap_or(GOOD_FOR_UNSAID).min(terms.claims_max()).max(GOOD_FOR_MIN);
    let read = vouched.claims.is_some().then_some(Judged { rules: terms.rules, at: now });
    let renewable = tokens.refresh().is_some();
    let sid = vouched.claims.as_ref().and_then(|claims| claims.get("sid")?.as_str().map(str::to_owned));
    let nonce = || {
        vouched
            .claims
            .as_ref()
            .and_then(|claims| claims.get("nonce")?.as_str().map(|nonce| Digest::of(nonce.as_bytes())))
    };
    let nonce = former.map_or_else(nonce, |former| former.nonce);
    let (sealer, session) = seal;
    Some(OidcGrant {
        nonce,
        provider: config.id.clone(),
        issuer: config.issuer.clone(),
        subject: vouched.subject,
        sid: sid.filter(|sid| sid.len() <= 255).or_else(|| former?.sid.clone()),
        renew_at: renewable.then(|| now.plus(good_for - AHEAD_MAX.min(good_for / 5))),
        good_until: renewable.then(|| now.plus(good_for)),
        ends_at: (!renewable).then(|| now.plus(config.session_max)),
        judged: read.or_else(|| former?.judged),
        sealed: sealer.seal(&tokens, session, &config.id)?,
    })
}

/// How far a renewal has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// No answer yet.
    UnderWay,
    /// The provider was asked: the session's row has what it said, if it said anything.
    Asked,
    /// It was not asked, or what it said could not be kept: there is no telling before so long.
    NotAsked(Duration),
}

/// Renewals under way.
#[derive(Debug, Default)]
pub struct Flights {
    going: Mutex<HashMap<SessionId, (ProviderId, watch::Receiver<Progress>)>>,
    /// Told whenever one is over.
    left: Notify,
}

/// Whose turn it is to renew a session.
#[derive(Debug)]
pub enum Turn {
    /// The caller's. Others wait until it is dropped.
    Own(Flight),
    /// Somebody's: changes when it is over.
    Other(watch::Receiver<Progress>),
}

/// A renewal under way; dropped, it is over.
#[derive(Debug)]
pub struct Flight {
    flights: Arc<Flights>,
    id: SessionId,
    done: watch::Sender<Progress>,
}

impl Flight {
    /// Changes when it is over.
    pub fn followed(&self) -> watch::Receiver<Progress> {
        self.done.subscribe()
    }

    /// It is over, like this: whoever waits reads the row from here on.
    pub fn over(self, how: Progress) {
        self.done.send_replace(how);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.going.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        // All of them: the one whose turn came first may be at another provider, which is still full, or follow this very session.
        self.flights.left.notify_waiters();
    }
}

impl Flights {
    /// Whose turn it is, as soon as there is a place: whoever waits longer than it may goes away.
    pub async fn turn_in_time(self: &Arc<Self>, id: SessionId, provider: &ProviderId) -> Turn {
        loop {
            // Before the look: what is over between the two is heard of.
            let left = self.left.notified();
            if let Some(turn) = self.turn(id, provider) {
                return turn;
            }
            left.await;
        }
    }

    /// Whose turn it is; `None`: nobody's, too many are under way.
    pub fn turn(self: &Arc<Self>, id: SessionId, provider: &ProviderId) -> Option<Turn> {
        let mut going = self.going.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, other)) = going.get(&id) {
            return Some(Turn::Other(other.clone()));
        }
        let at_it = going.values().filter(|(whose, _)| whose == provider).count();
        if going.len() >= FLIGHTS_MAX || at_it >= FLIGHTS_OF_ONE_MAX {
            return None;
        }
        let (done, followed) = watch::channel(Progress::UnderWay);
        going.insert(id, (provider.clone(), followed));
        Some(Turn::Own(Flight { flights: Arc::clone(self), id, done }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HOUR: u64 = 3_600_000;

    fn rules(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn terms() -> Terms {
        let (session_max, stale_max) = (Duration::from_millis(12 * HOUR), Duration::from_millis(50));
        Terms { rules: rules("present"), session_max, stale_max }
    }

    fn judged(by: &str, at: u64) -> Option<Judged> {
        Some(Judged { rules: rules(by), at: WallMillis(at) })
    }

    fn lasting(renew_at: Option<u64>, good_until: Option<u64>) -> OidcGrant {
        OidcGrant {
            provider: "studio".parse().unwrap(),
            issuer: "https://id.example".into(),
            subject: "ada".into(),
            sid: None,
            nonce: None,
            renew_at: renew_at.map(WallMillis),
            good_until: good_until.map(WallMillis),
            ends_at: None,
            judged: judged("present", 0),
            sealed: String::new(),
        }
    }

    fn stands_at(grant: &OidcGrant, at: u64) -> Result<(), Lapsed> {
        stands(grant, WallMillis(0), &terms(), WallMillis(at))
    }

    #[test]
    fn a_grant_is_renewed_ahead_of_its_end_without_waiting_and_after_it_with() {
        let grant = lasting(Some(80), Some(100));
        for (at, wanted) in [(79, Need::Nothing), (80, Need::Soon), (99, Need::Soon), (100, Need::Now)] {
            assert_eq!(need(&grant, &terms(), WallMillis(at)), wanted, "{at}");
        }
        assert_eq!(need(&lasting(None, None), &terms(), WallMillis(u64::MAX)), Need::Nothing);
    }

    #[test]
    fn a_session_goes_on_for_the_stated_time_and_no_longer() {
        let grant = lasting(Some(80), Some(100));
        assert_eq!((stands_at(&grant, 149), stands_at(&grant, 150)), (Ok(()), Err(Lapsed::Stale)));
        let at_once = Terms { stale_max: Duration::ZERO, ..terms() };
        assert_eq!(stands(&grant, WallMillis(0), &at_once, WallMillis(99)), Ok(()));
        assert_eq!(stands(&grant, WallMillis(0), &at_once, WallMillis(100)), Err(Lapsed::Stale));
    }

    #[test]
    fn claims_that_were_read_by_other_rules_are_read_again_before_anybody_is_let_in_by_them() {
        let good = lasting(Some(80), Some(100));
        let other = OidcGrant { judged: judged("former", 0), ..good.clone() };
        assert_eq!((need(&good, &terms(), WallMillis(1)), stands_at(&good, 1)), (Need::Nothing, Ok(())));
        assert_eq!((need(&other, &terms(), WallMillis(1)), stands_at(&other, 1)), (Need::Now, Err(Lapsed::OtherRules)));
        assert!(terms().still_judged(&good, WallMillis(1)) && !terms().still_judged(&other, WallMillis(1)));
        let (good, other) =
            (OidcGrant { good_until: None, ..good.clone() }, OidcGrant { good_until: None, ..other.clone() });
        assert_eq!(stands_at(&good, 1), Ok(()));
        assert_eq!(stands_at(&other, 1), Err(Lapsed::Over(SessionRefused::RulesChanged)), "nothing can be read");
    }

    #[test]
    fn claims_are_read_anew_within_the_limit_and_after_it_count_for_nobody() {
        let fresh = lasting(Some(100 * HOUR), Some(100 * HOUR));
        assert_eq!(need(&fresh, &terms(), WallMillis(12 * HOUR - 1)), Need::Nothing);
        assert!(terms().still_judged(&fresh, WallMillis(12 * HOUR - 1)));
        assert_eq!(need(&fresh, &terms(), WallMillis(12 * HOUR)), Need::Now);
        assert!(!terms().still_judged(&fresh, WallMillis(12 * HOUR)), "a renewal has to say who it is");
        assert_eq!(stands_at(&fresh, 12 * HOUR + 49), Ok(()), "the provider may be away");
        assert_eq!(stands_at(&fresh, 12 * HOUR + 50), Err(Lapsed::Stale));
        let long = Terms { session_max: Duration::from_millis(700 * HOUR), ..terms() };
        assert!(long.still_judged(&fresh, WallMillis(24 * HOUR - 1)), "a day at most");
        assert!(!long.still_judged(&fresh, WallMillis(24 * HOUR)));
        let last = lasting(None, None);
        assert_eq!(stands_at(&last, 12 * HOUR - 1), Ok(()));
        assert_eq!(stands_at(&last, 12 * HOUR), Err(Lapsed::Over(SessionRefused::Over)));
        assert_eq!(stands(&last, WallMillis(0), &long, WallMillis(699 * HOUR)), Ok(()), "as it was configured");
    }

    #[test]
    fn a_row_that_notes_no_rules_is_renewed_at_once_and_ends_only_where_that_says_so() {
        let renewable = OidcGrant { judged: None, ..lasting(Some(80), Some(100)) };
        assert_eq!((need(&renewable, &terms(), WallMillis(1)), stands_at(&renewable, 1)), (Need::Now, Ok(())));
        assert!(!terms().still_judged(&renewable, WallMillis(1)), "a renewal has to say who it is");
        assert_eq!(stands_at(&renewable, 150), Err(Lapsed::Stale));
        let last = OidcGrant { judged: None, ..lasting(None, None) };
        assert_eq!(stands_at(&last, 24 * HOUR - 1), Ok(()));
        assert_eq!(stands_at(&last, 24 * HOUR), Err(Lapsed::Over(SessionRefused::Over)));
    }

    #[test]
    fn a_session_is_looked_at_when_it_is_to_be_renewed_when_it_ends_and_when_it_can_go_on_no_longer() {
        let next = |grant: &OidcGrant, at: u64| {
            next_moment(grant, WallMillis(0), &terms(), WallMillis(at)).map(|moment| moment.0)
        };
        let grant = lasting(Some(80), Some(100));
        for (at, wanted) in [(0, Some(80)), (80, Some(100)), (100, Some(150)), (150, None)] {
            assert_eq!(next(&grant, at), wanted, "{at}");
        }
        assert_eq!(next(&lasting(None, None), 0), Some(12 * HOUR));
    }

    #[test]
    fn a_renewal_without_claims_keeps_the_time_of_the_last_ones() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::load_or_create(dir.path()).unwrap();
        let config = crate::config::tests::oidc_config("tenant = \"local\"");
        let terms = Terms::new(&config, rules("present"));
        let vouched = |claims: Option<serde_json::Value>| Vouched {
            claims,
            subject: "ada".into(),
            id_token: None,
            refresh_token: Some("r".into()),
            good_for: Some(Duration::from_secs(100 * 3600)),
        };
        let made = |claims, former: Option<&OidcGrant>, at| {
            let former = former.map(|grant| (grant, Tokens::default()));
            let seal = (&sealer, SessionId::new());
            grant((&config, &terms), vouched(claims), former, seal, WallMillis(at)).unwrap()
        };
        let first = made(Some(json!({})), None, 7);
        assert_eq!((first.judged, first.good_until), (judged("present", 7), Some(WallMillis(7 + 12 * HOUR))));
        assert_eq!(made(None, Some(&first), 9).judged, judged("present", 7));
        assert_eq!(made(Some(json!({})), Some(&first), 9).judged, judged("present", 9));
    }

    #[test]
    fn one_renewal_of_a_session_at_a_time_and_so_many_in_all() {
        let flights = Arc::new(Flights::default());
        let (id, studio) = (SessionId::new(), "studio".parse::<ProviderId>().unwrap());
        let Some(Turn::Own(own)) = flights.turn(id, &studio) else { panic!("nobody else renews it") };
        let Some(Turn::Other(followed)) = flights.turn(id, &studio) else { panic!("it is renewed already") };
        assert!(!followed.has_changed().unwrap());
        own.over(Progress::Asked);
        assert_eq!((followed.has_changed().is_err(), *followed.borrow()), (true, Progress::Asked), "over");
        let of_one = |provider: &ProviderId| -> Vec<_> {
            (0..FLIGHTS_OF_ONE_MAX).map(|_| flights.turn(SessionId::new(), provider)).collect()
        };
        let mut all = of_one(&studio);
        assert!(flights.turn(id, &studio).is_none(), "of one provider");
        for number in 1..FLIGHTS_MAX / FLIGHTS_OF_ONE_MAX {
            all.extend(of_one(&format!("p{number}").parse().unwrap()));
        }
        assert!(all.iter().all(|turn| matches!(turn, Some(Turn::Own(_)))));
        assert!(flights.turn(id, &"another".parse().unwrap()).is_none(), "of all");
        drop(all);
        assert!(matches!(flights.turn(id, &studio), Some(Turn::Own(_))));
    }

    /// Lets every task go on until it waits: the runtime of a test has one thread.
    async fn all_wait() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_place_is_woken_by_the_next_that_is_free_and_follows_whoever_took_it_for_the_same_session()
    {
        let flights = Arc::new(Flights::default());
        let (id, studio, other) = (SessionId::new(), "studio".parse::<ProviderId>().unwrap(), "other".parse().unwrap());
        let mut full: Vec<_> = (0..FLIGHTS_OF_ONE_MAX).map(|_| flights.turn(SessionId::new(), &studio)).collect();
        let waiting = |id: SessionId| {
            let (flights, studio) = (Arc::clone(&flights), studio.clone());
            tokio::spawn(async move { flights.turn_in_time(id, &studio).await })
        };
        let [first, second, gone, another] = [id, id, id, SessionId::new()].map(&waiting);
        all_wait().await;
        drop(flights.turn(SessionId::new(), &other));
        all_wait().await;
        assert!(
            [&first, &second, &another].iter().all(|task| !task.is_finished()),
            "that was no place of this provider"
        );
        gone.abort();
        full.pop();
        all_wait().await;
        let waits = [&first, &second, &another].iter().filter(|task| !task.is_finished()).count();
        assert!(waits == 1 || waits == 2, "one place: it is one session's");
        full.pop();
        let turns = [first.await.unwrap(), second.await.unwrap(), another.await.unwrap()];
        let own = turns.iter().filter(|turn| matches!(turn, Turn::Own(_))).count();
        assert_eq!(own, 2, "two sessions, each once: {turns:?}");
        assert!(matches!(turns[2], Turn::Own(_)), "{turns:?}");
    }
}
