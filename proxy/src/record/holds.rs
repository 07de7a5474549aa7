//! Who is at a content right now: whoever stores one *holds* it until the ledger names it, and whoever deletes one *claims* it before. Never both at once.
//!
//! A content is shared by all rows that have the same bytes, so that somebody may store it anew at the very moment at which its last row has gone. INVARIANT: a content is deleted only under
//! a claim, and only after the ledger's one writer was asked, under that claim, whether a row names it. A claim is refused while anybody holds the content, and whoever wants to hold it waits for the
//! claim's end, after which it is stored again. A transition that names a content has been handed to the writer before its hold is dropped, so the writer answers after it.
//!
//! In memory: nothing that is held outlives the process, and what it stored without a row is an orphan, found later.

use comfygate_policy::Digest;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Deleting takes a sync of the ledger and some deletions. All threads that wait for disks may be at this wait: then it has to end, so that one of them can delete.
const WAIT: Duration = Duration::from_secs(10);

/// The register of one store. Clones are the same register.
#[derive(Debug, Clone, Default)]
pub struct Holds(Arc<Register>);

#[derive(Debug, Default)]
struct Register {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By content, how many hold it: as many as are being stored, and as pictures of attempts that go on.
    held: HashMap<Digest, usize>,
    /// That are being deleted: as many as one step of a sweep takes.
    claimed: HashSet<Digest>,
}

/// A content that is not deleted while this lives.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    content: Digest,
}

/// A content that nobody can hold while this lives.
#[derive(Debug)]
pub struct Claim {
    holds: Holds,
    content: Digest,
}

impl Holds {
    /// Holds a content. Waits, blocking, while it is being deleted: not on an event loop.
    ///
    /// # Errors
    /// `TimedOut` after `WAIT`: whoever deletes it has not come to its end, perhaps for want of a thread.
    pub fn hold(&self, content: Digest) -> io::Result<Hold> {
        let waits = |state: &mut State| state.claimed.contains(&content);
        let waited = self.0.freed.wait_timeout_while(self.state(), WAIT, waits);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        *state.held.entry(content).or_default() += 1;
        drop(state);
        Ok(Hold { holds: self.clone(), content })
    }

    /// Claims a content, unless somebody holds it or has claimed it.
    pub fn claim(&self, content: Digest) -> Option<Claim> {
        let mut state = self.state();
        if state.held.contains_key(&content) || !state.claimed.insert(content) {
            return None;
        }
        drop(state);
        Some(Claim { holds: self.clone(), content })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one call: a panic elsewhere leaves nothing half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Which.
    pub fn content(&self) -> &Digest {
        &self.content
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.holds.state();
        match state.held.get_mut(&self.content) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(state.held.remove(&self.content)),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.holds.state().claimed.remove(&self.content);
        self.holds.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_not_claimed_until_the_last_hold_is_gone() {
        let (holds, content) = (Holds::default(), Digest::of(b"x"));
        let (first, second) = (holds.hold(content).unwrap(), holds.hold(content).unwrap());
        assert!(holds.claim(content).is_none());
        drop(first);
        assert!(holds.claim(content).is_none());
        assert!(holds.claim(Digest::of(b"y")).is_some());
        drop(second);
        assert_eq!(holds.claim(content).unwrap().content(), &content);
        assert!(holds.state().held.is_empty() && holds.state().claimed.is_empty());
    }

    #[test]
    fn whoever_wants_to_hold_what_is_claimed_waits_for_the_end_of_the_claim() {
        let (holds, content) = (Holds::default(), Digest::of(b"x"));
        let claim = holds.claim(content).unwrap();
        assert!(holds.claim(content).is_none(), "one deletes it at a time");
        let (other, (told, heard)) = (holds.clone(), std::sync::mpsc::channel());
        let waiting = std::thread::spawn(move || {
            let hold = other.hold(content).unwrap();
            told.send("held").unwrap();
            hold
        });
        assert!(heard.try_recv().is_err(), "nobody can hold it yet");
        drop(claim);
        assert_eq!(heard.recv(), Ok("held"));
        assert!(holds.claim(content).is_none());
        drop(waiting.join().unwrap());
        assert!(holds.claim(content).is_some());
    }
}
