//! The file of signing keys: `<state>/signing.key`, mode 0600, made at the first start.
//!
//! One key a line, `<id> <base64url of 32 bytes>`; the first signs, all verify; empty lines and lines with `#` are passed over. To rotate, put a new line
//! on top, restart, and take the old one out when its last URL has expired (at most 7 days).

use super::signature::{Signer, SigningKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Its name in the state directory.
pub const FILE: &str = "signing.key";
/// Keys in one file: some rotations within the life of a URL.
const KEYS_MAX: usize = 16;
/// Nothing of ours is longer.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// Why there is no signer.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The file can't be read or made.
    #[error("can't {action} the signing keys `{}`: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read the keys, and sign.
    #[error("`{}` may be read by others (mode {mode:o}): `chmod 600` it, and replace the keys if others had access", .path.display())]
    Readable {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line is no key.
    #[error("`{}`, line {line}: {reason}", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// From 1; 0 for the file as a whole.
        line: usize,
        /// What is wrong, without the key itself.
        reason: &'static str,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// The signer of this state directory; makes the file when there is none.
///
/// # Errors
/// [`SigningKeyError`]; a broken file is never replaced, since that would end every URL that is out.
pub fn load_or_create(state_dir: &Path) -> Result<Signer, SigningKeyError> {
    let path = state_dir.join(FILE);
    match File::open(&path) {
        Ok(file) => load(&file, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(state_dir, &path)?;
            let file = File::open(&path).map_err(io_error("read", &path))?;
            load(&file, &path)
        }
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> SigningKeyError {
    let path = path.to_owned();
    move |source| SigningKeyError::Io { action, path: path.clone(), source }
}

fn load(file: &File, path: &Path) -> Result<Signer, SigningKeyError> {
    let metadata = file.metadata().map_err(io_error("read", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SigningKeyError::Readable { path: path.to_owned(), mode });
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(SigningKeyError::Malformed { path: path.to_owned(), line: 0, reason: "the file is too long" });
    }
    let text = io::read_to_string(file).map_err(io_error("read", path))?;
    parse(&text).map_err(|(line, reason)| SigningKeyError::Malformed { path: path.to_owned(), line, reason })
}

fn parse(text: &str) -> Result<Signer, (usize, &'static str)> {
    let mut keys: Vec<SigningKey> = Vec::new();
    for (line, content) in text.lines().enumerate().map(|(index, content)| (index + 1, content.trim())) {
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let (id, secret) = content.split_once(' ').ok_or((line, "`<id> <base64url of 32 bytes>` is wanted"))?;
        let secret = URL_SAFE_NO_PAD.decode(secret.trim()).ok().and_then(|secret| <[u8; 32]>::try_from(secret).ok());
        let secret = secret.ok_or((line, "the key is not 32 bytes in base64url"))?;
        let key = SigningKey::new(id, &secret).ok_or((line, "the id is not 1 to 16 of a-z, 0-9"))?;
        if keys.iter().any(|known| known.id() == key.id()) {
            return Err((line, "the id stands twice"));
        }
        if keys.len() == KEYS_MAX {
            return Err((line, "more than 16 keys"));
        }
        keys.push(key);
    }
    let mut keys = keys.into_iter();
    let current = keys.next().ok_or((0, "there is no key"))?;
    Ok(Signer::new(current, keys.collect()))
}

/// Writes a fresh key beside the target and links it into place: a crash leaves no half of a key, and two starts agree on one.
fn create(state_dir: &Path, path: &Path) -> Result<(), SigningKeyError> {
    let mut secret = [0_u8; 32];
    let mut id = [0_u8; 4];
    let random = SystemRandom::new();
    random.fill(&mut secret).and_then(|()| random.fill(&mut id)).map_err(|_| SigningKeyError::Random)?;
    let line = format!("{:08x} {}\n", u32::from_be_bytes(id), URL_SAFE_NO_PAD.encode(secret));
    let temporary = state_dir.join(format!("{FILE}.{:08x}.new", u32::from_be_bytes(id)));
    let written = write_private(&temporary, line.as_bytes()).and_then(|()| match std::fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let removed = std::fs::remove_file(&temporary);
    let synced = written.and(removed).and_then(|()| File::open(state_dir)?.sync_all());
    synced.map_err(io_error("make", path))
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::deliver::views::signature::{Claim, Variant};
    use crate::ids::FileId;

    fn line(id: &str, byte: u8) -> String {
        format!("{id} {}\n", URL_SAFE_NO_PAD.encode([byte; 32]))
    }

    #[test]
    fn the_first_start_makes_a_private_key_and_later_ones_use_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let second = load_or_create(dir.path()).unwrap();
        let tenant = "acme".parse().unwrap();
        let claim = Claim { tenant: &tenant, file: FileId::new(), variant: Variant::Original, expires: 10 };
        let (id, signature) = first.sign(&claim);
        assert_eq!(second.verify(&claim, id, &signature, WallMillis(0)), Ok(()));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        load_or_create(dir.path()).unwrap();
        std::fs::set_permissions(dir.path().join(FILE), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_or_create(dir.path()), Err(SigningKeyError::Readable { mode: 0o640, .. })));
    }

    #[test]
    fn a_broken_file_is_reported_by_line_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        load_or_create(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, "# keys\nk1 short\n").unwrap();
        let error = load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, SigningKeyError::Malformed { line: 2, .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# keys\nk1 short\n");
    }

    #[test]
    fn the_first_line_signs_and_faulty_lines_are_named() {
        let signer = parse(&format!("\n# old below\n{}{}", line("new", 1), line("old", 2))).unwrap();
        let tenant = "acme".parse().unwrap();
        let claim = Claim { tenant: &tenant, file: FileId::new(), variant: Variant::Original, expires: 10 };
        assert_eq!(signer.sign(&claim).0, "new");
        assert_eq!(parse("").unwrap_err().0, 0);
        assert_eq!(parse(&format!("{}{}", line("a", 1), line("a", 2))).unwrap_err(), (2, "the id stands twice"));
        assert_eq!(parse("nokey").unwrap_err().0, 1);
        assert_eq!(parse(&line("UPPER", 1)).unwrap_err().0, 1);
        let many = |count: u8| parse(&(0..count).map(|n| line(&format!("k{n}"), n)).collect::<String>()).map(drop);
        assert_eq!(many(16), Ok(()));
        assert_eq!(many(17), Err((17, "more than 16 keys")));
    }
}
