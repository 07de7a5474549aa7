//! Room on the disk of the state directory: asked before something new is taken in, so that what was accepted can still be finished.
//!
//! Below `[state] free_space_min` submissions and uploads are refused. Results of jobs that run, audit lines and the ledger's own transitions go on
//! into what is left: that is what it is kept for. Nothing needs a restart when there is room again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old an answer of the file system may be: a burst of submissions asks it once.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Why nothing new is taken in.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// There is less room than has to stay free.
    #[error("{free} bytes are free on the disk of `{dir}`, less than `[state] free_space_min`, which is {min}")]
    Low {
        /// Bytes that this user may still write.
        free: u64,
        /// Bytes that have to be free.
        min: u64,
        /// The state directory.
        dir: PathBuf,
    },
    /// The file system does not answer: then nothing can be written either.
    #[error("can't ask how much room is on the disk of `{dir}`: {source}")]
    Unknown {
        /// The state directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The file system of the state directory.
#[derive(Debug)]
pub struct Space {
    dir: PathBuf,
    asked: Mutex<Option<(Instant, u64)>>,
}

impl Space {
    /// That of a directory which is there.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), asked: Mutex::new(None) }
    }

    /// Bytes that this user may still write, at most a second old.
    ///
    /// # Errors
    /// `Unknown`.
    pub fn free(&self, now: Instant) -> Result<u64, SpaceError> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, free)) = *asked
            && now.saturating_duration_since(at) < ASK_EVERY
        {
            return Ok(free);
        }
        let free = free_bytes(&self.dir).map_err(|source| SpaceError::Unknown { dir: self.dir.clone(), source })?;
        *asked = Some((now, free));
        Ok(free)
    }

    /// Whether at least `min` bytes are free.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn check(&self, min: u64, now: Instant) -> Result<(), SpaceError> {
        match self.free(now)? {
            free if free >= min => Ok(()),
            free => Err(SpaceError::Low { free, min, dir: self.dir.clone() }),
        }
    }
}

/// Bytes that a user who is not root may still write (`f_bavail`), now.
///
/// # Errors
/// What the system said.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(dir)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_as_has_to_be_free_is_enough_and_a_byte_less_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (space, now) = (Space::of(dir.path()), Instant::now());
        let free = space.free(now).unwrap();
        assert!(free > 0);
        // The same answer serves for a second, so that these two compare with one number.
        space.check(free, now).unwrap();
        assert!(matches!(space.check(free + 1, now), Err(SpaceError::Low { min, .. }) if min == free + 1));
    }

    #[test]
    fn an_answer_is_asked_anew_after_a_second_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let (space, now) = (Space::of(dir.path()), Instant::now());
        let free = space.free(now).unwrap();
        drop(dir);
        assert_eq!(space.free(now + ASK_EVERY - Duration::from_millis(1)).unwrap(), free);
        assert!(matches!(space.check(0, now + ASK_EVERY), Err(SpaceError::Unknown { .. })));
    }
}
