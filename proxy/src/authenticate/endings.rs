//! Ends of credentials: told by whoever brings them about, heard by the open sockets that they concern and by no others.
//!
//! A socket is let in once and then stays open for days. What it was let in by may be taken back (a key is revoked, a session ended, a user or a tenant closed), or may run out. The first
//! is told here; the second is known in advance ([`Principal::good_until`]). So ten thousand sockets that nothing happens to cost nothing, and an end is seen within the second.
//!
//! Nothing is decided here: whoever hears of an end looks at the credential again ([`until_ended`]), as each request does. And it looks now and then without having heard anything, for
//! what nobody tells: a clock that was set, an issuer that took a key back.

use super::AuthError;
use crate::clock::{Clock, WallMillis};
use crate::ids::{KeyId, SessionId, TenantId, UserId};
use crate::owner::{OwnerScope, Principal};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The longest time between two looks at an open socket's credential, whatever was told and whatever its end is: the wall clock may be set while we sleep by the monotonic one.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(25);
/// The shortest, for ends that are due: two clocks that differ by a rounding must not make a loop of it.
const LOOK_MIN: Duration = Duration::from_millis(100);
/// What a client is told to wait that is refused at `/ws`. Libraries connect again at once and without end, and a credential that has ended comes to life for nobody: a person or a
/// program has to get another first. Two tries a minute find that early enough, and hurt nobody.
pub const RECONNECT_AFTER: Duration = Duration::from_secs(30);

/// What an end may concern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An API key: revoked, or to end earlier than it was to.
    Key(KeyId),
    /// A browser's session.
    Session(SessionId),
    /// A person of a tenant, disabled or deleted; [`Subject::user`] makes one.
    User(TenantId, UserId),
    /// A tenant: disabled, or deleted.
    Tenant(TenantId),
}

impl Subject {
    /// A person, however the name is written: to local users it is one name.
    pub fn user(tenant: &TenantId, name: &UserId) -> Self {
        let lower = name.as_str().to_ascii_lowercase().parse().unwrap_or_else(|_| name.clone());
        Self::User(tenant.clone(), lower)
    }
}

/// How an open socket's credential came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It lets nobody in any more.
    Over,
    /// A session that its identity provider has not renewed yet: nobody is let in by it now, and soon perhaps again.
    NotRenewedYet {
        /// When it is worth a try again.
        retry_after: Duration,
    },
}

/// Who waits for which end.
#[derive(Debug, Default)]
pub struct Endings {
    /// A subject that nobody waits for has no entry: there are at most as many as open sockets, times six.
    waiting: Mutex<HashMap<Subject, HashMap<u64, Arc<Notify>>>>,
    next: AtomicU64,
}

/// Hears of the ends of some subjects, until it is dropped.
#[derive(Debug)]
pub struct Listening {
    endings: Arc<Endings>,
    subjects: Vec<Subject>,
    number: u64,
    told: Arc<Notify>,
}

impl Endings {
    /// Tells every open socket that this concerns. Called after the change is stored: whoever hears of it looks.
    pub fn tell(&self, subject: &Subject) {
        for told in self.waiting().get(subject).into_iter().flat_map(HashMap::values) {
            // Kept for one that does not wait at this moment.
            told.notify_one();
        }
    }

    /// From now on, of these.
    pub fn listen(self: &Arc<Self>, subjects: Vec<Subject>) -> Listening {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let told = Arc::new(Notify::new());
        let mut waiting = self.waiting();
        for subject in &subjects {
            waiting.entry(subject.clone()).or_default().insert(number, Arc::clone(&told));
        }
        drop(waiting);
        Listening { endings: Arc::clone(self), subjects, number, told }
    }

    /// Every change is one statement: a panic elsewhere leaves nothing half done.
    fn waiting(&self) -> MutexGuard<'_, HashMap<Subject, HashMap<u64, Arc<Notify>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listening {
    /// Resolves when one of the subjects may have ended.
    pub async fn told(&self) {
        self.told.notified().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut waiting = self.endings.waiting();
        for subject in &self.subjects {
            if let Some(listeners) = waiting.get_mut(subject) {
                listeners.remove(&self.number);
                if listeners.is_empty() {
                    waiting.remove(subject);
                }
            }
        }
    }
}

/// What a caller's credential depends on.
pub fn subjects_of(principal: &Principal) -> Vec<Subject> {
    let owner = &principal.owner;
    let of_scope = |OwnerScope { tenant, user }: OwnerScope| {
        let user = user.map(|user| Subject::user(&tenant, &user));
        user.into_iter().chain([Subject::Tenant(tenant)])
    };
    let scopes = principal.home.clone().into_iter().chain([owner.personal()]);
    let session = principal.credential.session().map(|session| Subject::Session(session.id));
    owner.key.iter().cloned().map(Subject::Key).chain(scopes.flat_map(of_scope)).chain(session).collect()
}

/// How long an open socket's credential need not be looked at again, if nothing is told.
pub fn next_look(good_until: Option<WallMillis>, now: WallMillis) -> Duration {
    good_until.map_or(LOOK_INTERVAL, |end| end.since(now)).clamp(LOOK_MIN, LOOK_INTERVAL)
}

/// Resolves when the credential of `principal` would not be let in any more, and tells how that is. `look` asks for it again, as a request would; `reloaded` tells of new configurations, `sleep` is tokio's but
/// in tests. What can't be checked now decides nothing, and is asked again soon.
pub async fn until_ended<Looked, Slept>(
    principal: &Principal,
    endings: &Arc<Endings>,
    mut reloaded: watch::Receiver<u64>,
    clock: &Clock,
    mut look: impl FnMut() -> Looked,
    mut sleep: impl FnMut(Duration) -> Slept,
) -> End
where
    Looked: Future<Output = Result<Principal, AuthError>>,
    Slept: Future<Output = ()>,
{
    let listening = endings.listen(subjects_of(principal));
    // What ended before we listened is seen by the first look.
    let mut wait = Duration::ZERO;
    // A time that runs out is known, whether or not anybody can be asked then. That of a session is not final: it moves when the session is used.
    let mut ends = principal.good_until.filter(|_| principal.credential.session().is_none());
    loop {
        tokio::select! {
            () = sleep(wait) => {}
            () = listening.told() => {}
            // Its sender lives as long as this does: the error can't be.
            _ = reloaded.changed() => {}
        }
        let looked = tokio::select! {
            looked = look() => looked,
            // A look may wait for a provider or an issuer: what was told meanwhile is seen by another one, which need not.
            () = listening.told() => {
                wait = Duration::ZERO;
                continue;
            }
        };
        wait = match looked {
            // An idle session ends later when it is used meanwhile: its end is read anew.
            Ok(still) => {
                ends = still.good_until.filter(|_| still.credential.session().is_none());
                next_look(still.good_until, clock.wall())
            }
            Err(error) => match error.retry_after() {
                Some(_) if ends.is_some_and(|end| clock.wall() >= end) => return End::Over,
                // SECURITY: its provider's word is over, and nobody has given a new one: it would not be let in, though it may be again.
                Some(retry_after) if matches!(error, AuthError::NotRenewedYet { .. }) => {
                    return End::NotRenewedYet { retry_after };
                }
                Some(later) => later.clamp(LOOK_MIN, LOOK_INTERVAL),
                None => return End::Over,
            },
        };
    }
}

#[cfg(test)]
mod tests;
