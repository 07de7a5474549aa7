//! Pinned catalogues: what an operator has accepted of the packs that are installed in a pool, as `object_info`, in `<state>/catalogues/<pool>.json`. Without one, the shipped catalogue holds.

use super::durable;
use crate::ids::PoolId;
use std::io;
use std::path::{Path, PathBuf};

/// The folder within the state directory.
const FOLDER: &str = "catalogues";

/// Where a pool's pin is.
pub fn path(state: &Path, pool: &PoolId) -> PathBuf {
    // A pool's name is of letters, digits, `_` and `-`.
    state.join(FOLDER).join(format!("{pool}.json"))
}

/// A pool's pin; `None`: nothing was accepted.
///
/// # Errors
/// It is there and can't be read.
pub fn read(state: &Path, pool: &PoolId) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path(state, pool)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Moves a pool's pin: whole, or not at all.
///
/// # Errors
/// The disk's.
pub fn write(state: &Path, pool: &PoolId, object_info: &[u8]) -> io::Result<()> {
    let folder = state.join(FOLDER);
    let temporary = folder.join("tmp");
    durable::private_dir(&folder)?;
    durable::private_dir(&temporary)?;
    durable::write(&temporary, &path(state, pool), object_info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_as_it_was_written_and_absent_before() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolId::default_pool();
        assert_eq!(read(dir.path(), &pool).unwrap(), None);
        write(dir.path(), &pool, b"{}").unwrap();
        write(dir.path(), &pool, b"{\"a\": 1}").unwrap();
        assert_eq!(read(dir.path(), &pool).unwrap().as_deref(), Some(b"{\"a\": 1}".as_slice()));
    }
}
