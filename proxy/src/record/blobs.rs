//! The gateway's store of contents: `<state>/blobs/ab/<sha-256>`, each whole, synced and never changed; deleted once no row of the ledger names it.

use super::durable;
use super::holds::{Claim, Hold, Holds};
use crate::clock::WallMillis;
use comfygate_policy::Digest;
use ring::digest::{Context, SHA256};
use std::io;
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// Why a content was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// More bytes than the writer was made for.
    #[error("more than {limit} bytes")]
    TooLarge {
        /// How many were allowed.
        limit: u64,
    },
    /// Disk full, unwritable, broken.
    #[error("blobs can't {action}: {reason}")]
    Unavailable {
        /// What it was doing.
        action: &'static str,
        /// What the system said.
        reason: String,
    },
}

/// The store.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: PathBuf,
    temporary: PathBuf,
    holds: Holds,
}

/// A content that is in the store, and stays there as long as this lives: until the ledger has the row that names it.
#[derive(Debug)]
pub struct Stored {
    /// Which.
    pub content: Digest,
    /// Length in bytes.
    pub bytes: u64,
    /// Keeps it from being deleted.
    pub hold: Hold,
}

impl Blobs {
    /// Opens `<dir>/blobs`, or makes it (0700), and sweeps what a killed gateway left half-written.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        let root = dir.join("blobs");
        let temporary = root.join("tmp");
        let made = durable::private_dir(&root).and_then(|()| durable::private_dir(&temporary));
        made.and_then(|()| durable::sweep(&temporary)).map_err(|error| unavailable("open", &error))?;
        Ok(Self { root, temporary, holds: Holds::default() })
    }

    /// A writer of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn writer(&self, bytes_max: u64) -> Result<BlobWriter, BlobError> {
        let (file, path) = durable::temporary(&self.temporary).map_err(|error| unavailable("make a file", &error))?;
        let (root, holds) = (self.root.clone(), self.holds.clone());
        Ok(BlobWriter {
            file: File::from_std(file),
            path,
            root,
            holds,
            hash: Context::new(&SHA256),
            bytes: 0,
            bytes_max,
        })
    }

    /// Where a content lies, if it is there.
    pub fn path(&self, content: &Digest) -> Option<PathBuf> {
        Some(self.place(content)).filter(|path| path.is_file())
    }

    /// Where a content lies that was stored.
    pub fn place(&self, content: &Digest) -> PathBuf {
        durable::sharded(&self.root, &content.to_string())
    }

    /// Claims a content for its deletion, unless somebody is just storing it.
    pub fn claim(&self, content: Digest) -> Option<Claim> {
        self.holds.claim(content)
    }

    /// Deletes a content; gives its bytes if it was there. Only after the ledger said, under this claim, that no row names it. Blocks.
    pub fn delete(&self, claim: &Claim) -> Option<u64> {
        durable::delete(&self.place(claim.content()))
    }

    /// The contents of one of the 256 folders that were written before that. Blocks.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn listed(&self, shard: u8, before: WallMillis) -> Result<Vec<Digest>, BlobError> {
        durable::shard(&self.root, shard, before).map_err(|error| unavailable("be listed", &error))
    }
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter")
            .field("bytes", &self.bytes)
            .field("bytes_max", &self.bytes_max)
            .finish_non_exhaustive()
    }
}

/// A content on its way in; dropped before [`BlobWriter::finish`], nothing of it stays.
pub struct BlobWriter {
    file: File,
    path: PathBuf,
    root: PathBuf,
    holds: Holds,
    hash: Context,
    bytes: u64,
    bytes_max: u64,
}

impl BlobWriter {
    /// Adds a chunk.
    ///
    /// # Errors
    /// `TooLarge`, before anything of the chunk is written; `Unavailable`.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), BlobError> {
        let bytes = self.bytes.saturating_add(chunk.len() as u64);
        if bytes > self.bytes_max {
            return Err(BlobError::TooLarge { limit: self.bytes_max });
        }
        self.file.write_all(chunk).await.map_err(|error| unavailable("write", &error))?;
        self.hash.update(chunk);
        self.bytes = bytes;
        Ok(())
    }

    /// Reads back what was written so far, with its length, on a thread that may wait for the disk.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn read_back<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&mut std::fs::File, u64) -> T + Send + 'static,
    ) -> Result<T, BlobError> {
        let failed = |error: io::Error| unavailable("read a file back", &error);
        self.file.flush().await.map_err(failed)?;
        let (path, length) = (self.path.clone(), self.bytes);
        let reading =
            tokio::task::spawn_blocking(move || std::fs::File::open(path).map(|mut file| read(&mut file, length)));
        reading.await.map_err(|error| failed(error.into()))?.map_err(failed)
    }

    /// Where the content lies until it is finished, for whoever sends it on meanwhile, and its length so far.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn spooled(&mut self) -> Result<(PathBuf, u64), BlobError> {
        self.file.flush().await.map_err(|error| unavailable("write", &error))?;
        Ok((self.path.clone(), self.bytes))
    }

    /// Where it lies until it is dropped. Whoever reads it has called [`BlobWriter::spooled`] before.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the content under its digest. A content that is there already is replaced by its equal. It stays until what is given is dropped, and longer if a row names it by then.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn finish(mut self) -> Result<Stored, BlobError> {
        let failed = |error: io::Error| unavailable("finish a file", &error);
        self.file.flush().await.map_err(failed)?;
        self.file.sync_all().await.map_err(failed)?;
        let mut sum = [0; 32];
        sum.copy_from_slice(self.hash.clone().finish().as_ref());
        let content = Digest::from_bytes(sum);
        let (from, to) = (self.path.clone(), durable::sharded(&self.root, &content.to_string()));
        let holds = self.holds.clone();
        // INVARIANT: held before it is published. A deletion that goes on ends first, and the content is put back.
        let publishing = tokio::task::spawn_blocking(move || {
            let hold = holds.hold(content)?;
            durable::publish(&from, &to).map(|()| hold)
        });
        let hold = publishing.await.map_err(|error| failed(error.into()))?.map_err(failed)?;
        Ok(Stored { content, bytes: self.bytes, hold })
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After `finish` the name is gone; what can't be removed is swept at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn unavailable(action: &'static str, error: &io::Error) -> BlobError {
    BlobError::Unavailable { action, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn only_our_own_user_enters_the_directories_and_reads_the_contents() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let (root, temporary) = (dir.path().join("blobs"), dir.path().join("blobs/tmp"));
        let mut writer = Blobs::open(dir.path()).unwrap().writer(3).unwrap();
        writer.write(b"abc").await.unwrap();
        assert_eq!((mode(&root), mode(&temporary), mode(&writer.path)), (0o700, 0o700, 0o600));
        let content = writer.finish().await.unwrap().content;
        for path in [&root, &temporary] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = Blobs::open(dir.path()).unwrap().path(&content).unwrap();
        assert_eq!((mode(&root), mode(&temporary)), (0o700, 0o700));
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    }

    #[tokio::test]
    async fn a_content_of_the_limit_is_stored_twice_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        for _ in 0..2 {
            let mut writer = blobs.writer(6).unwrap();
            writer.write(b"abc").await.unwrap();
            writer.write(b"def").await.unwrap();
            let stored = writer.finish().await.unwrap();
            assert_eq!((stored.content, stored.bytes), (Digest::of(b"abcdef"), 6));
        }
        assert_eq!(std::fs::read(blobs.path(&Digest::of(b"abcdef")).unwrap()).unwrap(), b"abcdef");
        assert!(blobs.path(&Digest::of(b"x")).is_none());
    }

    #[tokio::test]
    async fn a_byte_over_the_limit_is_refused_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let mut writer = blobs.writer(5).unwrap();
        writer.write(b"abc").await.unwrap();
        assert!(matches!(writer.write(b"def").await, Err(BlobError::TooLarge { limit: 5 })));
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/tmp")).unwrap().count(), 0);
        assert!(blobs.path(&Digest::of(b"abc")).is_none());
    }

    #[test]
    fn what_a_killed_gateway_left_is_swept_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        Blobs::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("blobs/tmp/half"), "x").unwrap();
        Blobs::open(dir.path()).unwrap();
        assert!(!dir.path().join("blobs/tmp/half").exists());
    }
}
