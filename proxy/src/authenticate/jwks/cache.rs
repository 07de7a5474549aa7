//! The key sets at hand: one for each issuer and address, refreshed by a task of its own, asked by every request.
//!
//! [`KeySets`] lives as long as the gateway, so that a reload of the configuration does not throw away keys that are still good: a set lives while an authenticator uses it.
//! Fetches happen in the set's task only, one at a time, so any number of requests that wait share one.

use super::document::{Choice, Document};
use super::fetch::{FETCH_TIMEOUT, FetchError, FetchKeys, HttpFetcher};
use super::schedule::{Schedule, Standing};
use crate::authenticate::jwt_ring::{Algorithm, PublicKeyBytes};
use crate::clock::Clock;
use crate::config::JwksConfig;
use comfygate_policy::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;

/// How long a request waits for a fetch: the fetch's own time and a little.
const WAIT_MAX: Duration = Duration::from_secs(6);
/// Requests that wait for one set's fetch at once; one more is answered as if the fetch had brought nothing.
const WAITING_MAX: usize = 256;

/// Why no key of the set may check a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// No key has that `kid`, in the newest set that may be had now.
    #[error("no key of the issuer has the token's `kid`")]
    UnknownKid,
    /// The key is of another kind, or for another algorithm.
    #[error("the key that the token names is not for its algorithm")]
    WrongAlgorithm,
    /// No `kid`, and not exactly one key that fits.
    #[error("the token names no key, and not exactly one of the issuer's fits")]
    Ambiguous,
    /// Never fetched, or too long ago; or nobody knows whether the `kid` is a new key's.
    #[error("the issuer's keys can't be had now")]
    Unavailable {
        /// When the next fetch is due.
        retry_after: Duration,
    },
}

/// The keys of one issuer.
pub struct KeySet {
    issuer: String,
    clock: Clock,
    fetcher: Box<dyn FetchKeys>,
    state: Mutex<State>,
    /// Wakes the task before its time.
    wake: Arc<Notify>,
    /// How many fetches have ended.
    rounds: watch::Sender<u64>,
    waiting: Semaphore,
    task: OnceLock<AbortHandle>,
}

struct State {
    schedule: Schedule,
    document: Arc<Document>,
    fetching: bool,
}

/// What a look into the set says.
enum Look {
    Done(Result<PublicKeyBytes, KeySetError>),
    /// A fetch is under way, or about to begin, that may bring the key.
    Wait,
}

/// Whether a look may cause a fetch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    AfterFetch,
}

impl KeySet {
    fn new(issuer: String, config: &JwksConfig, fetcher: Box<dyn FetchKeys>, clock: Clock) -> Self {
        let schedule = Schedule::new(config.refresh, config.stale_max, clock.monotonic());
        let state = State { schedule, document: Arc::default(), fetching: false };
        Self {
            issuer,
            clock,
            fetcher,
            state: Mutex::new(state),
            wake: Arc::new(Notify::new()),
            rounds: watch::Sender::new(0),
            waiting: Semaphore::new(WAITING_MAX),
            task: OnceLock::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key for a token with that `kid` and algorithm. Waits for a fetch where that may help, for 6 s at most.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub async fn key(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<PublicKeyBytes, KeySetError> {
        let mut rounds = self.rounds.subscribe();
        if let Look::Done(result) = self.look(kid, algorithm, Turn::First) {
            return result;
        }
        if let Ok(_place) = self.waiting.try_acquire() {
            // However the wait ends, the set as it then stands decides.
            let _ = tokio::time::timeout(WAIT_MAX, rounds.changed()).await;
        }
        match self.look(kid, algorithm, Turn::AfterFetch) {
            Look::Done(result) => result,
            Look::Wait => Err(KeySetError::Unavailable { retry_after: FETCH_TIMEOUT }),
        }
    }

    fn look(&self, kid: Option<&str>, algorithm: Algorithm, turn: Turn) -> Look {
        let now = self.clock.monotonic();
        let mut state = self.state();
        // Due means that the task is about to begin.
        let coming = state.fetching || state.schedule.due_in(now).is_zero();
        let unavailable =
            |state: &State| Look::Done(Err(KeySetError::Unavailable { retry_after: state.schedule.due_in(now) }));
        if state.schedule.standing(now) == Standing::Gone {
            return if coming && turn == Turn::First { Look::Wait } else { unavailable(&state) };
        }
        let document = Arc::clone(&state.document);
        match document.choose(kid, algorithm) {
            Choice::Key(key) => Look::Done(Ok(key.clone())),
            Choice::WrongAlgorithm => Look::Done(Err(KeySetError::WrongAlgorithm)),
            Choice::Ambiguous => Look::Done(Err(KeySetError::Ambiguous)),
            Choice::UnknownKid => {
                if turn == Turn::First && (coming || state.schedule.ask(now)) {
                    self.wake.notify_one();
                    Look::Wait
                } else if state.schedule.is_failing() {
                    unavailable(&state)
                } else {
                    Look::Done(Err(KeySetError::UnknownKid))
                }
            }
        }
    }

    /// Time until the next fetch.
    fn due_in(&self) -> Duration {
        self.state().schedule.due_in(self.clock.monotonic())
    }

    /// One fetch, and what it changes.
    async fn fetch(&self) {
        self.state().fetching = true;
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.fetcher.fetch()).await;
        let read = fetched.unwrap_or(Err(FetchError::Timeout)).map_err(|error| error.to_string()).and_then(|fetched| {
            let document = Document::parse(&fetched.body).map_err(|error| error.to_string())?;
            Ok((document, fetched.max_age))
        });
        self.settle(read);
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    fn settle(&self, read: Result<(Document, Option<Duration>), String>) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.fetching = false;
        match read {
            Ok((document, max_age)) => {
                state.schedule.fetched(max_age, now);
                tracing::debug!(issuer = %self.issuer, keys = document.len(), "fetched the issuer's keys");
                if document.left_out() != state.document.left_out() {
                    let left_out = document.left_out().join("; ");
                    tracing::warn!(issuer = %self.issuer, %left_out, "some keys of the issuer's set are not used");
                }
                if document.is_empty() {
                    tracing::warn!(issuer = %self.issuer, "the issuer's set has no key that may be used: its tokens are refused");
                }
                state.document = Arc::new(document);
            }
            Err(reason) => {
                let pause = state.schedule.failed(now);
                tracing::warn!(issuer = %self.issuer, %reason, ?pause, "the issuer's keys can't be fetched");
            }
        }
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({})", self.issuer)
    }
}

impl Drop for KeySet {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Fetches whenever it is due, until nobody uses the set any more.
async fn refresh(set: Weak<KeySet>, wake: Arc<Notify>) {
    loop {
        let Some(due_in) = set.upgrade().map(|set| set.due_in()) else { return };
        if due_in.is_zero() {
            let Some(set) = set.upgrade() else { return };
            set.fetch().await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(due_in) => {}
                () = wake.notified() => {}
            }
        }
    }
}

/// What makes two sets one.
type Which = (String, super::url::JwksUrl, Option<Digest>);

/// Every set in use.
#[derive(Debug)]
pub struct KeySets {
    runtime: Handle,
    clock: Clock,
    known: Mutex<HashMap<Which, Weak<KeySet>>>,
}

impl KeySets {
    /// None yet. Their tasks run on `runtime`.
    pub fn new(runtime: Handle, clock: Clock) -> Self {
        Self { runtime, clock, known: Mutex::default() }
    }

    /// The set of that issuer at that address: the one in use, with the keys that it has, else a new one that begins to fetch.
    pub fn set(&self, issuer: &str, config: &JwksConfig) -> Arc<KeySet> {
        self.set_by(issuer, config, || Box::new(HttpFetcher::new(config.url.clone(), &config.roots)))
    }

    fn set_by(&self, issuer: &str, config: &JwksConfig, fetcher: impl FnOnce() -> Box<dyn FetchKeys>) -> Arc<KeySet> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, set| set.strong_count() > 0);
        let which = (issuer.to_owned(), config.url.clone(), config.roots.digest());
        if let Some(set) = known.get(&which).and_then(Weak::upgrade) {
            set.state().schedule.configure(config.refresh, config.stale_max);
            return set;
        }
        let set = Arc::new(KeySet::new(issuer.to_owned(), config, fetcher(), self.clock.clone()));
        let task = self.runtime.spawn(refresh(Arc::downgrade(&set), Arc::clone(&set.wake)));
        let _ = set.task.set(task.abort_handle());
        known.insert(which, Arc::downgrade(&set));
        set
    }
}

#[cfg(test)]
mod tests;
