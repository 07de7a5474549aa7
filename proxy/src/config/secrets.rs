//! Secrets that the configuration refers to: `file:PATH` or `env:NAME`, never the secret itself (invariant 9).

use super::faults::read_bounded;
use std::fmt;
use std::path::{Path, PathBuf};

/// Bytes that no log, metric or error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Wraps bytes that are secret from here on.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// The bytes, for the one call that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(redacted)")
    }
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretReference {
    /// A file; its content without one trailing line end.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

/// Why a secret can't be had. Never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The secret itself, or a path without its prefix.
    #[error("a secret is written as a reference: `file:PATH` or `env:NAME`")]
    NotAReference,
    /// The file.
    #[error("can't read `{path}`: {reason}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The variable.
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
}

/// Largest secret or key file in bytes: an RSA-8192 key in PEM has 1.5 KiB.
const SECRET_BYTES_MAX: u64 = 64 << 10;

impl SecretReference {
    /// Reads `file:PATH` (relative to `directory`) or `env:NAME`.
    ///
    /// # Errors
    /// [`SecretError::NotAReference`]; the text is not repeated, it may be the secret.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(directory.join(path))),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            _ => Err(SecretError::NotAReference),
        }
    }

    /// The secret now; `environment` answers for the process's variables.
    ///
    /// # Errors
    /// [`SecretError`] says what is missing.
    pub fn read(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<SecretBytes, SecretError> {
        match self {
            Self::File(path) => {
                let mut bytes = read_bounded(path, SECRET_BYTES_MAX)
                    .map_err(|reason| SecretError::Unreadable { path: path.clone(), reason })?;
                // Editors and `echo` end a file with a line end that nobody means.
                for end in [b'\n', b'\r'] {
                    if bytes.last() == Some(&end) {
                        bytes.pop();
                    }
                }
                Ok(SecretBytes(bytes))
            }
            Self::Environment(name) => environment(name)
                .map(|value| SecretBytes(value.into_bytes()))
                .ok_or_else(|| SecretError::Unset(name.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_file_or_a_variable_and_nothing_else() {
        let parse = |text| SecretReference::parse(text, Path::new("/d"));
        assert_eq!(parse("file:a/b").unwrap(), SecretReference::File("/d/a/b".into()));
        assert_eq!(parse("env:X").unwrap(), SecretReference::Environment("X".into()));
        for text in ["hunter2", "file:", "env:", "http:x", ""] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn one_trailing_line_end_of_a_file_is_not_part_of_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s"), "abc\n\r\n").unwrap();
        let secret = SecretReference::parse("file:s", dir.path()).unwrap().read(&|_| None).unwrap();
        assert_eq!(secret.expose(), b"abc\n");
    }

    #[test]
    fn a_variable_that_is_not_set_is_an_error_and_no_empty_secret() {
        let reference = SecretReference::Environment("X".into());
        assert!(matches!(reference.read(&|_| None), Err(SecretError::Unset(_))));
        assert_eq!(reference.read(&|_| Some("v".into())).unwrap().expose(), b"v");
    }

    #[test]
    fn debug_shows_nothing_of_a_secret() {
        assert!(!format!("{:?}", SecretBytes::new(b"abc".to_vec())).contains("abc"));
    }
}
