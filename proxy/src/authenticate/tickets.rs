//! One-use tickets for `/ws?token=…`: what a page of another origin opens its socket with, since a browser sends no header of the page's own along with an upgrade.
//!
//! A ticket is a word for the credential that asked for it, good for one upgrade within [`LIFETIME`]. What stands in a URL is logged by proxies, kept in histories and shown on screens; so
//! it must be worth nothing a moment later. In memory only, by its hash: a restart forgets it, and the page asks for another.

use super::api_key::RandomError;
use super::presented::Kept;
use crate::clock::Clock;
use crate::ids::TenantId;
use crate::owner::OwnerScope;
use comfygate_policy::Digest;
use ring::rand::SecureRandom;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How every ticket begins; API keys begin with `cg_`.
pub const PREFIX: &str = "cgt_";
/// 256 random bits.
const SECRET_BYTES: usize = 32;
/// How long a ticket may wait to be used: a page uses it at once.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// Tickets of one owner that wait to be used. A page that reloads needs one; a program that opens a socket for each of its viewers a few more.
pub const PER_OWNER_MAX: usize = 32;
/// Of all users of one tenant together: nobody with many users takes the room of other tenants.
pub const PER_TENANT_MAX: usize = 512;
/// Of all owners together: each may hold a token of 8 KiB, and at most [`KEPT_BYTES_MAX`](super::presented::KEPT_BYTES_MAX).
pub const TOTAL_MAX: usize = 4096;

/// Why no ticket is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// As many as one owner may have, or all of its tenant.
    #[error(
        "{PER_OWNER_MAX} tickets of yours, or {PER_TENANT_MAX} of your tenant, wait to be used: use them, or wait until they end"
    )]
    TooMany,
    /// As many as the gateway keeps.
    #[error("{TOTAL_MAX} tickets wait to be used")]
    Full,
    /// The system has no random numbers.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// Tickets that wait to be used.
#[derive(Debug)]
pub struct Tickets {
    waiting: Mutex<HashMap<Digest, Ticket>>,
    clock: Clock,
}

#[derive(Debug)]
struct Ticket {
    owner: OwnerScope,
    made_by: Kept,
    until: Instant,
}

impl Tickets {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { waiting: Mutex::default(), clock }
    }

    /// A ticket for what `made_by` shows, which lets in `owner`.
    ///
    /// # Errors
    /// [`TicketError`].
    pub fn make(&self, owner: OwnerScope, made_by: Kept, random: &dyn SecureRandom) -> Result<String, TicketError> {
        let mut secret = [0; SECRET_BYTES];
        random.fill(&mut secret).map_err(|_| RandomError)?;
        let text = secret.iter().fold(PREFIX.to_owned(), |text, byte| text + &format!("{byte:02x}"));
        let now = self.clock.monotonic();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked through as a whole: at most `TOTAL_MAX`, and one that is over must not take anybody's place.
        waiting.retain(|_, ticket| ticket.until > now);
        let waits = |mine: &dyn Fn(&OwnerScope) -> bool| waiting.values().filter(|ticket| mine(&ticket.owner)).count();
        if waits(&|other| *other == owner) >= PER_OWNER_MAX
            || waits(&|other| other.tenant == owner.tenant) >= PER_TENANT_MAX
        {
            return Err(TicketError::TooMany);
        }
        if waiting.len() >= TOTAL_MAX {
            return Err(TicketError::Full);
        }
        waiting.insert(Digest::of(text.as_bytes()), Ticket { owner, made_by, until: now + LIFETIME });
        Ok(text)
    }

    /// Forgets what waits for a tenant that is erased: one of the same id is another one. To be called when none of its requests is being answered any more.
    pub fn forget(&self, tenant: &TenantId) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, ticket| ticket.owner.tenant != *tenant);
    }

    /// What the ticket stands for, once: whoever asks first has it, whatever becomes of the upgrade. SECURITY: found by its hash, so the time that it takes says nothing of others' tickets.
    pub fn take(&self, text: &str) -> Option<Kept> {
        if text.len() != PREFIX.len() + 2 * SECRET_BYTES || !text.starts_with(PREFIX) {
            return None;
        }
        let taken = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&Digest::of(text.as_bytes()))?;
        (taken.until > self.clock.monotonic()).then_some(taken.made_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use ring::rand::SystemRandom;
    use std::sync::Arc;

    fn tickets() -> Tickets {
        Tickets::new(Clock::turned_by_hand(WallMillis(0)))
    }

    fn owner(tenant: &str) -> OwnerScope {
        OwnerScope { tenant: tenant.parse().unwrap(), user: None }
    }

    fn made(tickets: &Tickets, tenant: &str) -> Result<String, TicketError> {
        tickets.make(owner(tenant), Kept::default(), &SystemRandom::new())
    }

    #[test]
    fn a_ticket_is_good_once_and_no_two_are_alike() {
        let tickets = tickets();
        let (first, second) = (made(&tickets, "a").unwrap(), made(&tickets, "a").unwrap());
        assert!(first.len() == 68 && first.starts_with("cgt_") && first != second, "{first}");
        assert!(tickets.take(&first).is_some());
        assert!(tickets.take(&first).is_none());
        assert!(tickets.take(&second).is_some());
    }

    #[test]
    fn a_ticket_is_good_for_the_last_millisecond_of_its_minute_and_not_for_the_next() {
        let tickets = tickets();
        let (first, second) = (made(&tickets, "a").unwrap(), made(&tickets, "a").unwrap());
        tickets.clock.turn(LIFETIME - Duration::from_millis(1));
        assert!(tickets.take(&first).is_some());
        tickets.clock.turn(Duration::from_millis(1));
        assert!(tickets.take(&second).is_none());
    }

    #[test]
    fn of_many_that_use_it_at_once_one_is_let_in() {
        let tickets = Arc::new(tickets());
        let text = made(&tickets, "a").unwrap();
        let users: Vec<_> = (0..8)
            .map(|_| {
                let (tickets, text) = (Arc::clone(&tickets), text.clone());
                std::thread::spawn(move || tickets.take(&text).is_some())
            })
            .collect();
        assert_eq!(users.into_iter().filter_map(|user| user.join().ok()).filter(|taken| *taken).count(), 1);
    }

    #[test]
    fn one_owner_has_so_many_and_takes_nobody_elses_room() {
        let tickets = tickets();
        for _ in 0..PER_OWNER_MAX {
            made(&tickets, "a").unwrap();
        }
        assert_eq!(made(&tickets, "a"), Err(TicketError::TooMany));
        assert!(made(&tickets, "b").is_ok());
        tickets.clock.turn(LIFETIME);
        assert!(made(&tickets, "a").is_ok(), "those that are over make room");
    }

    #[test]
    fn all_users_of_a_tenant_have_so_many_and_leave_the_rest_to_others() {
        let tickets = tickets();
        let of_user = |number: usize| OwnerScope { user: Some(format!("u{number}").parse().unwrap()), ..owner("a") };
        let make = |number| tickets.make(of_user(number), Kept::default(), &SystemRandom::new());
        for number in 0..PER_TENANT_MAX {
            make(number).unwrap();
        }
        assert_eq!(make(PER_TENANT_MAX), Err(TicketError::TooMany));
        assert!(made(&tickets, "b").is_ok());
    }

    #[test]
    fn all_owners_together_have_so_many() {
        let tickets = tickets();
        for number in 0..TOTAL_MAX {
            made(&tickets, &format!("t{}", number / PER_OWNER_MAX)).unwrap();
        }
        assert_eq!(made(&tickets, "another"), Err(TicketError::Full));
        tickets.clock.turn(LIFETIME);
        assert!(made(&tickets, "another").is_ok());
    }

    #[test]
    fn what_is_no_ticket_takes_none() {
        let tickets = tickets();
        let text = made(&tickets, "a").unwrap();
        for wrong in ["", "cgt_", &text[4..], &text[..67], &format!("{text}0"), &text.to_uppercase()] {
            assert!(tickets.take(wrong).is_none(), "{wrong}");
        }
        assert!(!format!("{tickets:?}").contains(&text[4..]));
        assert!(tickets.take(&text).is_some());
    }
}
