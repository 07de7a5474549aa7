//! Who guesses at credentials waits, longer each time.
//!
//! **What counts.** A failure of a credential that was shown. No credential at all counts nowhere, nor does one that was proved and is out of date: a forgotten script with an expired key is no guesser. Each
//! failure is counted in three places, and half of it is forgotten in [`HALF_LIFE`]:
//! - for the *pair* of an address (IPv4, or the /64 of IPv6) and an account (a key id, or the name of a local user, whether it exists or not; what names no account is one of its own for each [`Kind`]): `free` failures cost nothing. The next
//!   one has the pair wait for 1 s, then 2 s, 4 s … up to [`DELAY_MAX`];
//! - for the *address* over all accounts, `free` × [`ADDRESS_FACTOR`]: one password tried for many names, or invented key ids. For IPv6 the /48 counts too, `free` × [`NETWORK_FACTOR`]: it costs nothing to have 65,536 of the
//!   /64s in it;
//! - for the *account* over all addresses, `free` × [`ACCOUNT_FACTOR`]. Beyond that no address is refused for what others did: only its own first failure costs as much as if the failures of all others beyond that number were its own.
//!
//! What fails while its pair or its address waits is refused and counts nowhere, so that who keeps on trying waits no longer than who comes back in time.
//!
//! **Who is refused what.** A *password* can be guessed, and checking one is meant to be slow: whoever has to wait is refused before it is looked at. An attempt is counted before it is checked and given back when it was right, so a hundred tries at
//! once are counted as a hundred. *Keys, tokens and one-time links* can't be guessed (160 random bits, a signature), and checking them costs a look-up and a hash, or one signature: they are always checked. A good one is let in, whatever else its address
//! did; a wrong one from a place that has to wait is told 429 and `Retry-After` in place of 401. A *code* of an identity provider can't be guessed either, but looking at it is asking the provider: whoever has to wait is refused before that, for failures of codes of that provider at that address alone: one that refuses good codes must not keep anybody from another.
//! So:
//! - an office behind one address with a bad script in it keeps working: good keys and sessions pass, and failures of keys and tokens are counted apart from those of passwords;
//! - nobody is locked out by failures from elsewhere. A good password from an address without failures of its own is let in at the first try, however many others guess at that account. An address from which this user has
//!   logged in within [`TRUST`] is not slowed for what else happens at that address or to that account, but for failures of this user there;
//! - whoever shares an address with a guesser, and has never logged in from there with that password, waits as the guesser does.
//!
//! **What a guesser gets.** One address has `free` and then about 8 tries an hour at one account, and about `free` × 5 and then 20 an hour at all. Many addresses have one try each at an account that is under attack, and then wait for 15 minutes.
//!
//! **Memory** is a fixed number of places (`Table`): 6 MiB in all, however many addresses and names come. The number of places, keyed hashes and the lowest count giving way first make it dearer to have one's own count pushed out (about as many failures as the
//! table has places, times that count, from addresses that are not blocked themselves) than to wait. The addresses that a user is trusted at stand in a bucket chosen by the user alone, so nobody else's logins push them out, but for the users of one bucket.
//! All of it is of this process: a restart forgives everybody.

mod table;

use crate::clock::Clock;
use crate::ids::{KeyId, ProviderId};
use crate::listen::connections::AddrGroup;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::time::{Duration, Instant};
use table::{Counted, Table};

/// In this time half of what was counted is forgotten.
pub const HALF_LIFE: Duration = Duration::from_secs(2 * 3600);
/// The longest wait.
pub const DELAY_MAX: Duration = Duration::from_secs(15 * 60);
/// An address has so many times the free failures of one account.
pub const ADDRESS_FACTOR: u32 = 5;
/// So has an account, over all addresses.
pub const ACCOUNT_FACTOR: u32 = 5;
/// So has a /48 of IPv6.
pub const NETWORK_FACTOR: u32 = 50;
/// For how long an address is known to be a user's own after a login.
pub const TRUST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Waits that grow before [`DELAY_MAX`] is reached: 2^9 s < 15 min < 2^10 s. No count goes further beyond what is free, so that the longest wait is forgotten in a known time too.
const STEPS_MAX: f64 = 11.0;
/// Pairs, 2 MiB.
const PAIRS_MAX: usize = 1 << 16;
/// Addresses and networks, 2 MiB.
const ADDRESSES_MAX: usize = 1 << 16;
/// Accounts, 1 MiB.
const ACCOUNTS_MAX: usize = 1 << 15;
/// Addresses of users that have logged in, 1 MiB.
const TRUSTED_MAX: usize = 1 << 15;

/// What was shown: a closed list, for metrics and audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An API key.
    Key,
    /// A token of an issuer.
    Token,
    /// A one-time link.
    Link,
    /// A local user's password.
    Password,
    /// A code that an identity provider is to have given.
    Code,
    /// Nothing that could be read as one credential.
    Malformed,
}

impl Kind {
    /// The label in metrics and the word in audit lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Token => "token",
            Self::Link => "link",
            Self::Password => "password",
            Self::Code => "code",
            Self::Malformed => "malformed",
        }
    }

    /// What its failures at an address are counted together with.
    fn class(self) -> Class {
        match self {
            Self::Password => Class::Password,
            Self::Code => Class::Code,
            Self::Key | Self::Token | Self::Link | Self::Malformed => Class::Checked,
        }
    }
}

/// Failures at an address are counted apart for what is looked at in any case and for what is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Class {
    /// Always looked at: it can't be found by trying.
    Checked,
    /// Might be found by trying.
    Password,
    /// Has somebody else asked.
    Code,
}

/// Whose credential it was to be. It may not exist: an account under attack is one that is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Account {
    /// An API key.
    Key(KeyId),
    /// A local user, by the name as it is looked up. Only its hash is kept.
    User(String),
}

/// A credential that was no good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess {
    /// What was shown.
    pub kind: Kind,
    /// Whose it was to be, where that can be told.
    pub account: Option<Account>,
}

/// By what somebody has to wait: a closed list, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Failures at this account.
    Account,
    /// Failures at all accounts.
    Address,
}

impl By {
    /// The label in metrics and the word in audit lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Address => "address",
        }
    }
}

/// Not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// By what.
    pub by: By,
    /// Until the next try is looked at; never zero.
    pub retry_after: Duration,
}

/// What a failure led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noted {
    /// It is the first one from this address that is remembered.
    pub first: bool,
    /// How long this address waits at this account now.
    pub account_delay: Option<Duration>,
    /// How long it waits at all accounts.
    pub address_delay: Option<Duration>,
}

/// All failures that are remembered.
#[derive(Debug)]
pub struct Guesses {
    clock: Clock,
    start: Instant,
    hasher: RandomState,
    free: u32,
    pairs: Table,
    addresses: Table,
    accounts: Table,
    trusted: Table,
}

/// The keyed hashes of one try.
#[derive(Debug, Clone, Copy)]
struct Keys {
    pair: u64,
    address: u64,
    network: Option<u64>,
    account: Option<u64>,
}

/// A password that is about to be checked, or a code that is about to be redeemed. It counts as a failure until [`Attempt::succeeded`] or [`Attempt::unchecked`]: dropping it is failing.
#[derive(Debug)]
#[must_use = "say how it ended"]
pub struct Attempt<'g> {
    guesses: &'g Guesses,
    keys: Keys,
    /// What was counted, to be taken back.
    pair: Added,
    rest: Rest,
    noted: Noted,
}

/// One failure in one place.
#[derive(Debug, Clone, Copy, Default)]
struct Added {
    before: Counted,
    after: Counted,
    delay: Option<Duration>,
}

/// One failure in the places other than its pair's.
#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    address: Added,
    network: Added,
    account: Added,
}

impl Guesses {
    /// Remembers nothing yet; `free` failures of one account at one address cost nothing.
    pub fn new(free: u32, clock: Clock) -> Self {
        Self {
            start: clock.monotonic(),
            clock,
            hasher: RandomState::new(),
            free: free.max(1),
            pairs: Table::new(PAIRS_MAX, HALF_LIFE),
            addresses: Table::new(ADDRESSES_MAX, HALF_LIFE),
            accounts: Table::new(ACCOUNTS_MAX, HALF_LIFE),
            trusted: Table::new(TRUSTED_MAX, TRUST),
        }
    }

    /// After a key, a token, a link or something malformed was checked and is no good.
    ///
    /// # Errors
    /// [`Blocked`]: its sender had to wait, and is told so in place of what was wrong. Then nothing is counted.
    pub fn failed(&self, group: AddrGroup, guess: &Guess) -> Result<Noted, Blocked> {
        let (keys, now) = (self.keys(group, guess), self.now());
        self.check_address(&keys, now)?;
        self.count(&keys, now, self.pressure(&keys, now)).map(|(_, _, noted)| noted)
    }

    /// Before the password of a user is checked, by the name as it is looked up.
    ///
    /// # Errors
    /// [`Blocked`]: the password must not be looked at.
    pub fn password(&self, group: AddrGroup, user: &str) -> Result<Attempt<'_>, Blocked> {
        let guess = Guess { kind: Kind::Password, account: Some(Account::User(user.to_owned())) };
        let (keys, now) = (self.keys(group, &guess), self.now());
        let trusted = self.is_trusted(&keys, now);
        let pressure = if trusted {
            0.0
        } else {
            self.check_address(&keys, now)?;
            self.pressure(&keys, now)
        };
        let (pair, rest, noted) = self.count(&keys, now, pressure)?;
        Ok(Attempt { guesses: self, keys, pair, rest, noted })
    }

    /// Before a code is redeemed at this provider.
    ///
    /// # Errors
    /// [`Blocked`]: the provider must not be asked.
    pub fn code(&self, group: AddrGroup, provider: &ProviderId) -> Result<Attempt<'_>, Blocked> {
        let (keys, now) = (self.keys_at(group, &Guess { kind: Kind::Code, account: None }, Some(provider)), self.now());
        self.check_address(&keys, now)?;
        let (pair, rest, noted) = self.count(&keys, now, 0.0)?;
        Ok(Attempt { guesses: self, keys, pair, rest, noted })
    }

    fn check_address(&self, keys: &Keys, now: u64) -> Result<(), Blocked> {
        let of = |key| self.addresses.read(key, key, now).until;
        blocked(of(keys.address).max(keys.network.map_or(0, of)), now, By::Address)
    }

    /// Failures at the account beyond what is free there: they count as if they were the caller's own, once it fails itself.
    fn pressure(&self, keys: &Keys, now: u64) -> f64 {
        let score = keys.account.map_or(0.0, |key| self.accounts.read(key, key, now).score);
        (score.round() - self.free(ACCOUNT_FACTOR)).max(0.0)
    }

    fn is_trusted(&self, keys: &Keys, now: u64) -> bool {
        keys.account.is_some_and(|account| self.trusted.read(account, keys.pair, now).score >= 0.5)
    }

    /// Counts one failure, unless the pair has to wait: both in one step, or tries at once would all be the first one.
    fn count(&self, keys: &Keys, now: u64, pressure: f64) -> Result<(Added, Rest, Noted), Blocked> {
        let pair = self.pairs.change(keys.pair, keys.pair, now, |counted| {
            blocked(counted.until, now, By::Account)?;
            Ok(add(counted, now, self.free(1), pressure))
        })?;
        let address =
            |key, factor| self.addresses.change(key, key, now, |counted| add(counted, now, self.free(factor), 0.0));
        let rest = Rest {
            address: address(keys.address, ADDRESS_FACTOR),
            network: keys.network.map(|key| address(key, NETWORK_FACTOR)).unwrap_or_default(),
            account: self.count_account(keys, now),
        };
        let noted = Noted {
            first: rest.address.before.score < 0.5,
            account_delay: pair.delay,
            address_delay: rest.address.delay.max(rest.network.delay),
        };
        Ok((pair, rest, noted))
    }

    /// An account is never blocked as such: its count has no end of waiting.
    fn count_account(&self, keys: &Keys, now: u64) -> Added {
        let counted = keys.account.map(|key| {
            self.accounts.change(key, key, now, |counted| {
                let before = *counted;
                // As far as it takes to have one failure cost the longest wait.
                counted.score = (before.score + 1.0).min(self.free(ACCOUNT_FACTOR) + self.free(1) + STEPS_MAX);
                Added { before, after: *counted, delay: None }
            })
        });
        counted.unwrap_or_default()
    }

    fn free(&self, factor: u32) -> f64 {
        f64::from(self.free) * f64::from(factor)
    }

    fn keys(&self, group: AddrGroup, guess: &Guess) -> Keys {
        self.keys_at(group, guess, None)
    }

    /// The keys of what only this provider can look at: it has counts of its own.
    fn keys_at(&self, group: AddrGroup, guess: &Guess, provider: Option<&ProviderId>) -> Keys {
        let class = (guess.kind.class(), provider);
        // What names no account: each kind of it is one.
        let unnamed = guess.account.is_none().then_some(guess.kind);
        Keys {
            pair: self.hash(("pair", group, class, &guess.account, unnamed)),
            address: self.hash(("address", group, class)),
            network: group.network().map(|network| self.hash(("network", network, class))),
            account: guess.account.as_ref().map(|account| self.hash(("account", account))),
        }
    }

    fn hash(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        millis(self.clock.monotonic().saturating_duration_since(self.start))
    }

    fn give_back(&self, keys: &Keys, rest: &Rest) {
        let now = self.now();
        self.addresses.change(keys.address, keys.address, now, |counted| rest.address.give_back(counted));
        if let Some(key) = keys.network {
            self.addresses.change(key, key, now, |counted| rest.network.give_back(counted));
        }
        if let Some(key) = keys.account {
            self.accounts.change(key, key, now, |counted| rest.account.give_back(counted));
        }
    }
}

impl Attempt<'_> {
    /// The password was wrong, or there is no such user.
    pub fn failed(self) -> Noted {
        self.noted
    }

    /// It was right: this address is the user's own for a while, and what it failed at before is forgotten.
    pub fn succeeded(self) {
        let (guesses, keys) = (self.guesses, &self.keys);
        let now = guesses.now();
        guesses.pairs.change(keys.pair, keys.pair, now, |counted| *counted = Counted::default());
        guesses.give_back(keys, &self.rest);
        if let Some(account) = keys.account {
            guesses.trusted.change(account, keys.pair, now, |counted| *counted = Counted { score: 1.0, until: 0 });
        }
    }

    /// It could not be checked; or it was right, and says nothing of the failures before it.
    pub fn unchecked(self) {
        let (guesses, keys) = (self.guesses, &self.keys);
        guesses.pairs.change(keys.pair, keys.pair, guesses.now(), |counted| self.pair.give_back(counted));
        guesses.give_back(keys, &self.rest);
    }
}

impl Added {
    fn give_back(&self, counted: &mut Counted) {
        counted.score = (counted.score - (self.after.score - self.before.score)).max(0.0);
        // Unless another failure has set it since.
        if counted.until == self.after.until {
            counted.until = self.before.until;
        }
    }
}

/// One failure more where `free` cost nothing, with `pressure` failures of others beside them.
fn add(counted: &mut Counted, now: u64, free: f64, pressure: f64) -> Added {
    let before = *counted;
    counted.score = (before.score + 1.0).min(free + STEPS_MAX);
    let delay = delay(counted.score.round() + pressure - free);
    if let Some(delay) = delay {
        counted.until = counted.until.max(now.saturating_add(millis(delay)));
    }
    Added { before, after: *counted, delay }
}

/// The wait of the so-many-th failure after the free ones: 1 s for the first, then twice as long each time.
fn delay(step: f64) -> Option<Duration> {
    let seconds = (step.min(STEPS_MAX) - 1.0).exp2();
    (step >= 1.0).then(|| Duration::from_secs_f64(seconds).min(DELAY_MAX))
}

fn blocked(until: u64, now: u64, by: By) -> Result<(), Blocked> {
    match until.saturating_sub(now) {
        0 => Ok(()),
        left => Err(Blocked { by, retry_after: Duration::from_millis(left) }),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
