//! Passwords of local users: what may be one, and the hash that is kept of it.
//!
//! The rules are those of NIST SP 800-63B §3.1.1.2: a length, a list of those that everybody tries, and nothing about digits or capitals. What is typed is brought into one form first (NFKC), so
//! that an `é` of two keyboards is one letter; the length counts code points of that form.
//!
//! A hash takes 19 MiB and tens of milliseconds on purpose. So few are made at once, some more may wait, and whoever comes beyond that is told to come again: a flood of logins takes neither
//! the memory nor the processors of those who are logged in. No address has more than its share of the places, however right its passwords are: others still get one. A name that nobody has costs the same hash as one that somebody has: the time of a refusal tells nothing.

use crate::ids::UserId;
use crate::listen::AddrGroup;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use unicode_normalization::UnicodeNormalization as _;

/// Memory of one hash in KiB, its passes and lanes: what OWASP's Password Storage Cheat Sheet asks of argon2id at least. Who raises them here has older hashes made anew at the next login.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Random bytes of each hash (RFC 9106 §4).
const SALT_BYTES: usize = 16;

/// Fewest code points.
pub const CHARS_MIN: usize = 12;
/// Most code points: a sentence, and no work of megabytes.
pub const CHARS_MAX: usize = 128;

/// Hashes at once: 38 MiB.
const AT_ONCE: usize = 2;
/// And how many may wait for their turn: about a second.
const WAITING_MAX: usize = 16;
/// Of both together, what one address (IPv4, or the /64 of IPv6) may have: a quarter.
const ADDRESS_MAX: u32 = 4;
/// And what a /48 of IPv6 may have: it costs nothing to have 65,536 of the /64s in it.
const NETWORK_MAX: u32 = 8;
/// When to come again then.
const BUSY_RETRY: Duration = Duration::from_secs(2);

/// Of the commonest passwords in public leaks those that are long enough to pass otherwise, in lower case. A list of millions would find more; the delays after failed logins do the rest.
const COMMON: &[&str] = &[
    "000000000000",
    "0123456789ab",
    "012345678910",
    "111111111111",
    "121212121212",
    "123123123123",
    "123412341234",
    "1234567890-=",
    "12345678900987654321",
    "123456789012",
    "1234567890123",
    "12345678901234",
    "123456789012345",
    "1234567890123456",
    "12345678901234567890",
    "1234567891011",
    "123456789101112",
    "123456789123",
    "123456789abc",
    "123456789qwe",
    "123456abcdef",
    "123456qwerty",
    "1q2w3e4r5t6y",
    "1q2w3e4r5t6y7u",
    "1q2w3e4r5t6y7u8i",
    "1qaz2wsx3edc",
    "1qaz2wsx3edc4rfv",
    "1qazxsw23edc",
    "987654321000",
    "abc123456789",
    "abcd12345678",
    "abcdefghijkl",
    "abcdefghijklm",
    "abcdefghijklmnopqrstuvwxyz",
    "administrator",
    "administrator1",
    "adminadminadmin",
    "asdfasdfasdf",
    "asdfghjkl123",
    "asdfghjklqwertyuiop",
    "changeme1234",
    "changemenow1",
    "changemeplease",
    "comfycomfycomfy",
    "comfyui12345",
    "comfyuicomfyui",
    "correcthorsebatterystaple",
    "correct horse battery staple",
    "iloveyou1234",
    "iloveyouforever",
    "letmein12345",
    "letmeinletmein",
    "mypassword123",
    "newpassword1",
    "newpassword123",
    "p@ssw0rd1234",
    "p@ssword1234",
    "passw0rd1234",
    "password1234",
    "password12345",
    "password123456",
    "password1234567",
    "password12345678",
    "password123456789",
    "password1234567890",
    "passwordpassword",
    "q1w2e3r4t5y6",
    "qazwsxedcrfv",
    "qazwsxedcrfvtgb",
    "qwerty123456",
    "qwerty1234567",
    "qwertyqwerty",
    "qwertyuiop12",
    "qwertyuiop123",
    "qwertyuiop[]",
    "qwertyuiopasdf",
    "qwertyuiopasdfghjkl",
    "qwertyuiopasdfghjklzxcvbnm",
    "rootrootroot",
    "stablediffusion",
    "superman1234",
    "testtesttest",
    "trustno1trustno1",
    "welcome12345",
    "welcome123456",
    "zaq12wsxcde3",
    "zxcvbnm12345",
    "zxcvbnmasdfghjkl",
];

/// Why a text may not be somebody's password. Told to whoever chose it, never with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordFault {
    /// Too few code points.
    #[error(
        "this password is too short: choose one of {CHARS_MIN} to {CHARS_MAX} characters; a few words with spaces will do"
    )]
    Short,
    /// Too many.
    #[error("this password is too long: choose one of {CHARS_MIN} to {CHARS_MAX} characters")]
    Long,
    /// Not typed on every keyboard, and cut off by terminals.
    #[error("a password has no control characters, such as tabs")]
    Control,
    /// The first that anybody tries.
    #[error("the password is the user name: choose another")]
    Name,
    /// The next ones.
    #[error("this password is one of those that are tried first: choose another")]
    Common,
}

/// A text on its way to be a password: what a request or a form brought. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Typed(String);

impl Typed {
    /// As typed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Typed(redacted)")
    }
}

/// A text that may be somebody's password, in its one form.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Checks it as the password of `name`.
    ///
    /// # Errors
    /// [`PasswordFault`].
    pub fn new(typed: &Typed, name: &UserId) -> Result<Self, PasswordFault> {
        let form = one_form(typed.text());
        match form.chars().count() {
            ..CHARS_MIN => return Err(PasswordFault::Short),
            CHARS_MIN..=CHARS_MAX => {}
            _ => return Err(PasswordFault::Long),
        }
        if form.chars().any(char::is_control) {
            return Err(PasswordFault::Control);
        }
        let lower = form.to_lowercase();
        if lower == name.as_str().to_ascii_lowercase() {
            return Err(PasswordFault::Name);
        }
        let first = lower.chars().next();
        if COMMON.contains(&lower.as_str()) || lower.chars().all(|letter| Some(letter) == first) {
            return Err(PasswordFault::Common);
        }
        Ok(Self(form))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(redacted)")
    }
}

/// NFKC, and no more of it than tells that it is too long: a text of one code point more is nobody's password.
fn one_form(text: &str) -> String {
    text.nfkc().take(CHARS_MAX + 1).collect()
}

/// What is kept of a password: algorithm, parameters, salt and hash as one text (PHC string format). `Debug` shows nothing of it: it is what a thief would guess against.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredPassword(String);

impl StoredPassword {
    /// The text, as an older gateway or a test wrote it.
    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for StoredPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredPassword(redacted)")
    }
}

/// Whether a text is the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// No; or there is nobody whose it could be.
    Wrong,
    /// Yes.
    Right {
        /// The same password hashed by our parameters of now, where the kept one was made by others.
        renewed: Option<StoredPassword>,
    },
}

/// Why nothing was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// As many wait as may, of all or of one address.
    #[error("too many passwords are checked at once")]
    Busy,
    /// No random bytes, or no thread.
    #[error("a password can't be hashed: {0}")]
    Failed(&'static str),
}

impl HashError {
    /// When to come again.
    pub fn retry_after(self) -> Duration {
        BUSY_RETRY
    }
}

/// Makes and checks hashes, a few at once.
#[derive(Debug, Clone)]
pub struct Passwords(Arc<Turns>);

#[derive(Debug)]
struct Turns {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// Who has how many of the places: no more entries than twice those.
    shares: Mutex<HashMap<Share, u32>>,
    hashed: AtomicU64,
}

/// By what places are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Share {
    Address(AddrGroup),
    Network(u64),
}

impl Share {
    /// All that a caller has a part in; the operator, who comes by no address, has no bound of its own.
    fn all_of(from: Option<AddrGroup>) -> impl Iterator<Item = Self> {
        from.map(Self::Address).into_iter().chain(from.and_then(AddrGroup::network).map(Self::Network))
    }

    fn places_max(self) -> u32 {
        match self {
            Self::Address(_) => ADDRESS_MAX,
            Self::Network(_) => NETWORK_MAX,
        }
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
struct Place {
    turns: Arc<Turns>,
    from: Option<AddrGroup>,
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    fn place(self: &Arc<Self>, from: Option<AddrGroup>) -> Result<Place, HashError> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| HashError::Busy)?;
        self.shares(|shares| {
            if Share::all_of(from).any(|share| shares.get(&share).is_some_and(|taken| *taken >= share.places_max())) {
                return Err(HashError::Busy);
            }
            Share::all_of(from).for_each(|share| *shares.entry(share).or_default() += 1);
            Ok(())
        })?;
        Ok(Place { turns: Arc::clone(self), from, _permit: permit })
    }

    /// Nothing in `act` panics: what is counted is whole.
    fn shares<R>(&self, act: impl FnOnce(&mut HashMap<Share, u32>) -> R) -> R {
        act(&mut self.shares.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.turns.shares(|shares| {
            for share in Share::all_of(self.from) {
                match shares.get_mut(&share) {
                    Some(taken) if *taken > 1 => *taken -= 1,
                    _ => drop(shares.remove(&share)),
                }
            }
        });
    }
}

impl Default for Passwords {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE + WAITING_MAX));
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self(Arc::new(Turns { places, turns, shares: Mutex::default(), hashed: AtomicU64::new(0) }))
    }
}

impl Passwords {
    /// What to keep of a password that came from that address; from none, where an operator asks.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn hash(&self, password: Password, from: Option<AddrGroup>) -> Result<StoredPassword, HashError> {
        self.in_turn(from, move |counted| hash(&password.0, counted)).await?
    }

    /// Whether `typed` is the password that `stored` was made of. Without `stored` the answer is no, after the same work.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn check(
        &self,
        typed: &Typed,
        stored: Option<StoredPassword>,
        from: Option<AddrGroup>,
    ) -> Result<Checked, HashError> {
        let form = one_form(typed.text());
        self.in_turn(from, move |counted| check(&form, stored.as_ref(), counted)).await?
    }

    /// How many hashes were made since the start: what the time of an answer follows from.
    pub fn hashed(&self) -> u64 {
        self.0.hashed.load(Ordering::Relaxed)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        from: Option<AddrGroup>,
        work: impl FnOnce(&AtomicU64) -> T + Send + 'static,
    ) -> Result<T, HashError> {
        let place = self.0.place(from)?;
        let turn = Arc::clone(&self.0.turns).acquire_owned().await.map_err(|_| HashError::Failed("stopping"))?;
        let turns = Arc::clone(&self.0);
        // The turn goes along: a caller that hangs up does not make room while its hash is still being made.
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&turns.hashed);
            drop((turn, place));
            done
        });
        done.await.map_err(|_| HashError::Failed("its thread ended"))
    }
}

fn params() -> Result<Params, HashError> {
    Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| HashError::Failed("parameters"))
}

fn hash(form: &str, counted: &AtomicU64) -> Result<StoredPassword, HashError> {
    counted.fetch_add(1, Ordering::Relaxed);
    let mut salt = [0; SALT_BYTES];
    SystemRandom::new().fill(&mut salt).map_err(|_| HashError::Failed("no random bytes"))?;
    let salt = SaltString::encode_b64(&salt).map_err(|_| HashError::Failed("salt"))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params()?);
    let hashed = argon2.hash_password(form.as_bytes(), &salt).map_err(|_| HashError::Failed("argon2"))?;
    Ok(StoredPassword(hashed.to_string()))
}

fn check(form: &str, stored: Option<&StoredPassword>, counted: &AtomicU64) -> Result<Checked, HashError> {
    let Some(kept) = stored.and_then(|stored| PasswordHash::new(&stored.0).ok()) else {
        // SECURITY: the work is done all the same.
        hash(form, counted)?;
        return Ok(Checked::Wrong);
    };
    counted.fetch_add(1, Ordering::Relaxed);
    // By the parameters that the text names; hashes are compared in constant time.
    if Argon2::default().verify_password(form.as_bytes(), &kept).is_err() {
        return Ok(Checked::Wrong);
    }
    let ours = Algorithm::Argon2id.ident();
    let as_now = kept.algorithm == ours && Params::try_from(&kept).is_ok_and(|kept| is_no_less(&kept));
    Ok(Checked::Right { renewed: if as_now { None } else { Some(hash(form, counted)?) } })
}

/// Whether a hash was made with no less work than ours are.
fn is_no_less(kept: &Params) -> bool {
    kept.m_cost() >= MEMORY_KIB && kept.t_cost() >= PASSES && kept.p_cost() >= LANES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str) -> Result<Password, PasswordFault> {
        Password::new(&Typed::new(text), &"Some.Body@example.org".parse().unwrap())
    }

    #[test]
    fn a_password_has_12_to_128_characters_and_they_are_counted_as_letters() {
        assert_eq!(chosen("xylophone11"), Err(PasswordFault::Short));
        assert!(chosen("xylophone112").is_ok());
        assert!(chosen(&"üé".repeat(64)).is_ok());
        assert_eq!(chosen(&format!("{}x", "üé".repeat(64))), Err(PasswordFault::Long));
        assert_eq!(chosen(&"x y".repeat(1_000_000)), Err(PasswordFault::Long));
    }

    #[test]
    fn the_user_name_what_everybody_tries_and_one_letter_again_and_again_are_no_passwords() {
        assert_eq!(chosen("some.body@EXAMPLE.org"), Err(PasswordFault::Name));
        assert!(chosen("some.body@example.org!").is_ok());
        assert_eq!(chosen("Password1234"), Err(PasswordFault::Common));
        assert_eq!(chosen("zzzzzzzzzzzz"), Err(PasswordFault::Common));
        assert!(chosen("zzzzzzzzzzzy").is_ok());
        assert_eq!(chosen("a\tpassword with a tab"), Err(PasswordFault::Control));
    }

    #[test]
    fn every_common_password_would_pass_otherwise_and_stands_once() {
        for common in COMMON {
            assert!((CHARS_MIN..=CHARS_MAX).contains(&common.chars().count()), "{common}");
            assert_eq!(*common, one_form(common).to_lowercase(), "{common}");
            assert_eq!(COMMON.iter().filter(|other| *other == common).count(), 1, "{common}");
        }
    }

    #[tokio::test]
    async fn a_password_is_known_again_in_whatever_form_its_letters_were_typed() {
        let passwords = Passwords::default();
        let stored = passwords.hash(chosen("caf\u{e9} au lait noir").unwrap(), None).await.unwrap();
        for same in
            ["caf\u{e9} au lait noir", "cafe\u{301} au lait noir", "caf\u{e9}\u{a0}au lait noir", "ｃafé au lait noir"]
        {
            let checked = passwords.check(&Typed::new(same), Some(stored.clone()), None).await;
            assert_eq!(checked, Ok(Checked::Right { renewed: None }), "{same:?}");
        }
        for other in ["cafe au lait noir", "Caf\u{e9} au lait noir", "caf\u{e9} au lait noir ", ""] {
            assert_eq!(
                passwords.check(&Typed::new(other), Some(stored.clone()), None).await,
                Ok(Checked::Wrong),
                "{other:?}"
            );
        }
    }

    #[tokio::test]
    async fn nobodys_password_costs_as_many_hashes_as_somebodys() {
        let passwords = Passwords::default();
        let stored = passwords.hash(chosen("a long enough one").unwrap(), None).await.unwrap();
        let mut cost = Vec::new();
        for kept in [Some(stored), None, Some(StoredPassword::of("damaged"))] {
            let before = passwords.hashed();
            assert_eq!(passwords.check(&Typed::new("wrong"), kept, None).await, Ok(Checked::Wrong));
            cost.push(passwords.hashed() - before);
        }
        assert_eq!(cost, [1, 1, 1]);
    }

    #[tokio::test]
    async fn hashes_are_argon2id_of_owasps_parameters_and_no_two_alike() {
        let passwords = Passwords::default();
        let one = passwords.hash(chosen("a long enough one").unwrap(), None).await.unwrap();
        let two = passwords.hash(chosen("a long enough one").unwrap(), None).await.unwrap();
        assert!(one.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", one.0);
        assert_ne!(one, two);
        assert!(!format!("{one:?}{:?}", Typed::new("hunter2")).contains("hunter2"));
        assert!(!format!("{one:?}").contains("argon2"));
    }

    #[tokio::test]
    async fn a_hash_of_weaker_parameters_is_made_anew_when_the_password_was_right() {
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(MEMORY_KIB - 8, 2, 1, None).unwrap());
        let salt = SaltString::encode_b64(&[7; SALT_BYTES]).unwrap();
        let weak = StoredPassword(weak.hash_password(b"a long enough one", &salt).unwrap().to_string());
        let passwords = Passwords::default();
        assert_eq!(passwords.check(&Typed::new("another one"), Some(weak.clone()), None).await, Ok(Checked::Wrong));
        let right = passwords.check(&Typed::new("a long enough one"), Some(weak), None).await.unwrap();
        let Checked::Right { renewed: Some(renewed) } = right else { panic!("{right:?}") };
        assert!(renewed.0.contains("m=19456,"));
        let again = passwords.check(&Typed::new("a long enough one"), Some(renewed), None).await;
        assert_eq!(again, Ok(Checked::Right { renewed: None }));
    }

    #[tokio::test]
    async fn so_many_may_wait_and_one_more_is_told_to_come_again() {
        let passwords = Passwords::default();
        let held = Arc::clone(&passwords.0.turns).acquire_many_owned(AT_ONCE as u32).await.unwrap();
        let taken = Arc::clone(&passwords.0.places).try_acquire_many_owned((AT_ONCE + WAITING_MAX - 1) as u32).unwrap();
        let last = passwords.clone();
        let last = tokio::spawn(async move { last.check(&Typed::new("x"), None, None).await });
        while passwords.0.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(passwords.check(&Typed::new("x"), None, None).await, Err(HashError::Busy));
        drop((held, taken));
        assert_eq!(last.await.unwrap(), Ok(Checked::Wrong));
    }

    fn at(text: &str) -> AddrGroup {
        crate::listen::ClientAddr::of_ip(text.parse().unwrap()).group()
    }

    /// How many places are taken when so many come from there, one after the other.
    fn taken(turns: &Arc<Turns>, from: impl Iterator<Item = Option<AddrGroup>>) -> Vec<Place> {
        from.map_while(|from| turns.place(from).ok()).collect()
    }

    #[test]
    fn an_address_has_a_quarter_of_the_places_and_others_have_the_rest() {
        let turns = Passwords::default().0;
        let mut first = taken(&turns, std::iter::repeat(Some(at("192.0.2.1"))));
        assert_eq!(first.len(), ADDRESS_MAX as usize);
        assert!(4 * first.len() <= AT_ONCE + WAITING_MAX);
        let others = taken(&turns, ["192.0.2.2", "192.0.2.2", "2001:db8::1"].into_iter().map(|text| Some(at(text))));
        assert_eq!(others.len(), 3);
        // One that is given back is there again, and no second one.
        first.pop();
        first.extend(turns.place(Some(at("192.0.2.1"))));
        assert_eq!((first.len(), turns.place(Some(at("192.0.2.1"))).is_ok()), (ADDRESS_MAX as usize, false));
        let rest = taken(&turns, std::iter::repeat(None));
        assert_eq!(rest.len(), AT_ONCE + WAITING_MAX - first.len() - others.len(), "an operator has what is left");
        drop((first, others, rest));
        assert!(turns.shares(|shares| shares.is_empty()), "nobody who is gone is remembered");
    }

    #[test]
    fn a_64_of_ipv6_is_one_address_and_a_48_has_no_more_than_half() {
        let turns = Passwords::default().0;
        let one = taken(&turns, (1..).map(|last| Some(at(&format!("2001:db8::{last}")))));
        assert_eq!(one.len(), ADDRESS_MAX as usize);
        drop(one);
        let network = taken(&turns, (1..).map(|subnet| Some(at(&format!("2001:db8:0:{subnet:x}::1")))));
        assert_eq!(network.len(), NETWORK_MAX as usize);
        assert!(2 * network.len() <= AT_ONCE + WAITING_MAX);
        assert!(turns.place(Some(at("2001:db8:1::1"))).is_ok(), "the next /48 is somebody else's");
    }

    #[tokio::test]
    async fn one_address_waits_for_as_many_hashes_as_it_has_places_and_another_gets_its_turn() {
        let passwords = Passwords::default();
        let held = Arc::clone(&passwords.0.turns).acquire_many_owned(AT_ONCE as u32).await.unwrap();
        let (one, two) = (Some(at("192.0.2.1")), Some(at("192.0.2.2")));
        let waiting: Vec<_> = (0..ADDRESS_MAX)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move { passwords.check(&Typed::new("x"), None, one).await })
            })
            .collect();
        while passwords.0.places.available_permits() > AT_ONCE + WAITING_MAX - waiting.len() {
            tokio::task::yield_now().await;
        }
        assert_eq!(passwords.check(&Typed::new("x"), None, one).await, Err(HashError::Busy));
        let other = {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.check(&Typed::new("x"), None, two).await })
        };
        while passwords.0.places.available_permits() > AT_ONCE + WAITING_MAX - waiting.len() - 1 {
            tokio::task::yield_now().await;
        }
        drop(held);
        for done in waiting.into_iter().chain([other]) {
            assert_eq!(done.await.unwrap(), Ok(Checked::Wrong));
        }
    }
}
