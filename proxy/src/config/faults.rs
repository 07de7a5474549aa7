//! What is wrong with a configuration: all of it at once, each fault with its place and what to do instead.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a value stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, absolute; empty for built-in defaults.
    pub file: Arc<Path>,
    /// From 1; 0 where the whole file is meant.
    pub line: usize,
    /// In characters, from 1; 0 where the whole file is meant.
    pub column: usize,
    /// The key with its path, such as `listen[1].tls.key`; empty where no key is meant.
    pub key: String,
}

impl Place {
    /// The whole file.
    pub fn file(file: &Path) -> Self {
        Self { file: file.into(), line: 0, column: 0, key: String::new() }
    }
}

/// One thing that is wrong, or only doubtful (a warning).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What is wrong; lower case, without full stop.
    pub what: String,
    /// What to write instead; empty where nothing better than `what` can be said.
    pub hint: String,
}

impl Fault {
    /// `FILE:LINE:COLUMN`, as compilers write it, so that editors jump there; shorter where line or file are unknown.
    pub fn position(&self) -> String {
        let file = self.place.file.display();
        if self.place.line == 0 {
            format!("{file}")
        } else {
            format!("{file}:{}:{}", self.place.line, self.place.column)
        }
    }

    /// Key, what is wrong, and the hint in parentheses.
    pub fn message(&self) -> String {
        let key = if self.place.key.is_empty() { String::new() } else { format!("`{}`: ", self.place.key) };
        let hint = if self.hint.is_empty() { String::new() } else { format!(" ({})", self.hint) };
        format!("{key}{}{hint}", self.what)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position(), self.message())
    }
}

/// Every fault of a configuration, ordered by file and line; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// What must be mended.
    pub errors: Vec<Fault>,
    /// What was doubtful beside.
    pub warnings: Vec<Fault>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.errors.iter().enumerate().try_for_each(|(n, fault)| {
            let end = if n == 0 { "" } else { "\n" };
            write!(f, "{end}{fault}")
        })
    }
}

/// Collects faults while files are read. Reading goes on after each, so that one run of `check` shows everything.
#[derive(Debug, Default)]
pub struct Report {
    errors: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
    /// Every key that the readers asked for, as a pattern (`listen[].address`): what the documentation is compared with.
    pub(crate) asked: RefCell<BTreeSet<String>>,
    /// Every file that the configuration consists of, whether it could be read or not: what a reload watches. With the digest of what was read of it, where that was kept.
    files: RefCell<BTreeMap<PathBuf, Option<Vec<u8>>>>,
}

impl Report {
    /// Notes something that must be mended.
    pub fn error(&self, place: &Place, what: impl Into<String>, hint: impl Into<String>) {
        self.errors.borrow_mut().push(Fault { place: place.clone(), what: what.into(), hint: hint.into() });
    }

    /// Notes something doubtful that works.
    pub fn warning(&self, place: &Place, what: impl Into<String>, hint: impl Into<String>) {
        self.warnings.borrow_mut().push(Fault { place: place.clone(), what: what.into(), hint: hint.into() });
    }

    /// Notes a file that belongs to the configuration.
    pub fn consists_of(&self, file: &Path) {
        self.files.borrow_mut().entry(file.to_owned()).or_default();
    }

    /// Takes the files noted so far.
    pub fn take_files(&self) -> BTreeSet<PathBuf> {
        self.files.take().into_keys().collect()
    }

    /// The same with the SHA-256 of what each held when it was read; `None`: it could not be.
    pub fn take_digests(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        self.files.take()
    }

    /// The value and its warnings if nothing was wrong, else everything that was.
    ///
    /// # Errors
    /// [`ConfigErrors`] if one error was noted, or if `value` is missing.
    pub fn conclude<T>(self, value: Option<T>) -> Result<(T, Vec<Fault>), ConfigErrors> {
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        for faults in [&mut errors, &mut warnings] {
            faults.sort();
            faults.dedup();
        }
        match value {
            Some(value) if errors.is_empty() => Ok((value, warnings)),
            _ => Err(ConfigErrors { errors, warnings }),
        }
    }
}

/// A configuration file in memory.
#[derive(Debug)]
pub struct SourceFile {
    /// Where it is, absolute.
    pub path: Arc<Path>,
    /// What it holds.
    pub text: String,
}

/// Largest configuration, tenants or policy file: thousands of tenants fit, and a wrong path (a model file) is noticed at once.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

impl SourceFile {
    /// Reads a file whole; what goes wrong is noted at `named_at`, where the path was written.
    pub fn read(path: PathBuf, named_at: &Place, report: &Report) -> Option<Self> {
        report.consists_of(&path);
        match read_bounded(&path, FILE_BYTES_MAX).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "not UTF-8"))
        }) {
            Ok(text) => {
                let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
                report.files.borrow_mut().insert(path.clone(), Some(digest.as_ref().to_vec()));
                Some(Self { path: path.into(), text })
            }
            Err(error) => {
                report.error(named_at, format!("can't read `{}`: {error}", path.display()), "");
                None
            }
        }
    }

    /// Line and column of a byte offset, both from 1; the column counts characters, as editors do.
    pub fn place(&self, offset: usize, key: &str) -> Place {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        Place { file: self.path.clone(), line, column, key: key.to_owned() }
    }
}

/// A file's bytes, refused when there are more than `bytes_max`.
///
/// # Errors
/// What the system said, `FileTooLarge` past the bound, `IsADirectory` for a folder.
pub fn read_bounded(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    // One byte more than allowed, rather than the length in the metadata: that is 0 for pipes and can change meanwhile.
    std::fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let file = SourceFile { path: Path::new("/c.toml").into(), text: "é = 1\nab = 2\n".into() };
        let place = file.place(file.text.find("= 1").unwrap(), "");
        assert_eq!((place.line, place.column), (1, 3));
        let place = file.place(file.text.find("= 2").unwrap(), "");
        assert_eq!((place.line, place.column), (2, 4));
    }

    #[test]
    fn a_file_of_the_largest_size_is_read_and_one_byte_more_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read_bounded(&path, 4).unwrap(), b"1234");
        assert_eq!(read_bounded(&path, 3).unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_fault_names_place_key_reason_and_remedy() {
        let place = Place { file: Path::new("/c.toml").into(), line: 3, column: 7, key: "views.lifetime".into() };
        let fault = Fault { place, what: "too long".into(), hint: "at most 7d".into() };
        assert_eq!(fault.to_string(), "/c.toml:3:7: `views.lifetime`: too long (at most 7d)");
    }
}
