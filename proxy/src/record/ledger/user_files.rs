//! What an owner keeps: ComfyUI's userdata (workflows, settings, blueprints), and files that were adopted from a ComfyUI's own folders.
//!
//! The contents of userdata lie in the ledger itself and not in the blobs: they are small, change often and are deleted by their owner, and blobs are
//! not changed, and deleted by a sweep only. So a file is replaced, moved or deleted in one transaction, and what is replaced takes no room any more.

use super::{Directory, FileRow, LedgerError};
use crate::clock::WallMillis;
use crate::inspect::contents::ContentFacts;
use crate::owner::{Owner, OwnerScope};
use async_trait::async_trait;
use bytes::Bytes;
use comfygate_policy::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// ComfyUI's name of the settings among the userdata (`app/app_settings.py`).
pub const SETTINGS_FILE: &str = "comfy.settings.json";
/// All settings of one owner; those of the stock page are some 10 KiB.
pub const SETTINGS_BYTES_MAX: u64 = 1 << 20;
/// Folders within folders, with the file itself.
const SEGMENTS_MAX: usize = 16;
/// The longest name that Linux takes, so that everything can be exported.
const SEGMENT_BYTES_MAX: usize = 255;
/// The whole path.
const PATH_BYTES_MAX: usize = 1024;

/// Why a text names no file of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(&'static str);

/// A relative path of one to sixteen names, joined by `/`: no dot segment, no control character, nothing that another system reads in another way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct UserPath(String);

impl UserPath {
    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The folder (`""` or `a/b`) and the name in it.
    pub fn parts(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }
    /// The path of every folder that the file lies in, outermost first.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').filter_map(|(at, _)| self.0.get(..at))
    }
}

impl FromStr for UserPath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError("a path has at most 1024 bytes"));
        }
        if text.split('/').count() > SEGMENTS_MAX {
            return Err(PathError("a path has at most 16 names"));
        }
        text.split('/').try_for_each(check_name)?;
        Ok(Self(text.to_owned()))
    }
}

fn check_name(name: &str) -> Result<(), PathError> {
    match name {
        "" => return Err(PathError("a path has no empty name and no slash at its ends")),
        "." | ".." => return Err(PathError("a path has no `.` and no `..`")),
        _ => {}
    }
    if name.len() > SEGMENT_BYTES_MAX {
        return Err(PathError("a name has at most 255 bytes"));
    }
    if name.chars().any(|c| c.is_control() || c == '\\' || turns_text(c)) {
        return Err(PathError("a name has no control character and no backslash"));
    }
    // Windows cuts them off: two names would be one there.
    if name.ends_with(['.', ' ']) || name.starts_with(' ') {
        return Err(PathError("a name does not begin with a space and does not end in a space or dot"));
    }
    Ok(())
}

/// Characters that turn the direction of what follows: `gpj.exe` would be read as `exe.jpg` (Unicode UAX 9).
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl TryFrom<String> for UserPath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<UserPath> for String {
    fn from(path: UserPath) -> String {
        path.0
    }
}

impl fmt::Display for UserPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file of an owner's userdata, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFile {
    /// Which content.
    pub content: Digest,
    /// Length in bytes.
    pub bytes: u64,
    /// When the path came to be.
    pub created_at: WallMillis,
    /// When the content was written last.
    pub modified_at: WallMillis,
}

/// How much userdata there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserBounds {
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Bytes of all files of a tenant, over all its users.
    pub tenant_bytes_max: u64,
}

/// Files of one owner.
pub const USER_FILES_MAX: u64 = 10_000;

/// A file that is to be written.
#[derive(Debug, Clone)]
pub struct UserWrite {
    /// Where.
    pub path: UserPath,
    /// The content.
    pub content: Bytes,
    /// Whether a file that is there is replaced; else it refuses the write.
    pub replace: bool,
    /// How much there may be.
    pub bounds: UserBounds,
    /// Now.
    pub at: WallMillis,
}

/// Which of a ComfyUI's folders a file lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// `user/default`: userdata.
    User,
    /// `input`.
    Input,
    /// `output`.
    Output,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 3] = [Self::User, Self::Input, Self::Output];

    /// The name in the ledger and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Input => "input",
            Self::Output => "output",
        }
    }
    /// The folder within a ComfyUI's base directory (`folder_paths.py`, `app/user_manager.py` 0.8.0).
    pub fn folder(self) -> &'static str {
        match self {
            Self::User => "user/default",
            Self::Input => "input",
            Self::Output => "output",
        }
    }
    /// As a directory of files; none for userdata.
    pub fn directory(self) -> Option<Directory> {
        match self {
            Self::User => None,
            Self::Input => Some(Directory::Input),
            Self::Output => Some(Directory::Output),
        }
    }
}

/// What was taken over from a ComfyUI's folder: tells a source that changed from a file that its owner changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The content that was there.
    pub content: Digest,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it had been changed last.
    pub modified_at: WallMillis,
}

/// A file of `input` or `output`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdoptedFile {
    /// Input or output.
    pub directory: Directory,
    /// Folder and name, as ComfyUI has them.
    pub path: UserPath,
    /// The source as it is now.
    pub source: Adopted,
    /// MIME type, from the allowlist of `deliver::views`.
    pub content_type: String,
    /// What the content is, if it is of a type that uploads may have.
    pub facts: Option<ContentFacts>,
    /// Whether the content is in the blobs; without it nothing new is made, and the owner's own stays.
    pub stored: bool,
    /// Now.
    pub at: WallMillis,
}

/// What became of a file that was to be adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Adoption {
    /// The owner did not have it.
    New,
    /// It was adopted before, or the owner has the same; nothing changes.
    Same,
    /// Adopted before, changed at the source since, and not by the owner: now as at the source.
    Updated,
    /// The owner changed, moved or deleted it, or has another of that name: the owner's stays.
    Kept,
}

/// The part of the ledger that knows an owner's own files. Nothing here is found but inside the scope that is asked for.
#[async_trait]
pub trait UserFiles: Send + Sync {
    /// Writes a file, whole.
    ///
    /// # Errors
    /// `Exists`, `NoPlace`, `Full`, `Unavailable`.
    async fn write_user_file(&self, scope: &OwnerScope, write: UserWrite) -> Result<UserFile, LedgerError>;

    /// A file with its content.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn user_file(&self, scope: &OwnerScope, path: &UserPath) -> Result<(UserFile, Bytes), LedgerError>;

    /// Every file of the scope, by path; at most [`USER_FILES_MAX`].
    ///
    /// # Errors
    /// `Unavailable`.
    async fn user_files(&self, scope: &OwnerScope) -> Result<Vec<(UserPath, UserFile)>, LedgerError>;

    /// Deletes a file.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn delete_user_file(&self, scope: &OwnerScope, path: &UserPath) -> Result<(), LedgerError>;

    /// Gives a file another path.
    ///
    /// # Errors
    /// `NotFound`, `Exists` if `replace` is false, `NoPlace`, `Unavailable`.
    async fn move_user_file(
        &self,
        scope: &OwnerScope,
        from: &UserPath,
        to: &UserPath,
        replace: bool,
    ) -> Result<UserFile, LedgerError>;

    /// Sets these settings and leaves the others, in one transaction: two tabs that change different ones lose nothing.
    ///
    /// # Errors
    /// `NoPlace`, `Full`, `Unavailable`.
    async fn change_settings(
        &self,
        scope: &OwnerScope,
        changes: Map<String, Value>,
        bounds: UserBounds,
        at: WallMillis,
    ) -> Result<(), LedgerError>;

    /// What was adopted from that path, if anything was.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn adopted(&self, scope: &OwnerScope, place: Place, path: &UserPath) -> Result<Option<Adopted>, LedgerError>;

    /// Takes a file of `user/default` over.
    ///
    /// # Errors
    /// `NoPlace`, `Full`, `Unavailable`.
    async fn adopt_user_file(
        &self,
        scope: &OwnerScope,
        path: &UserPath,
        content: Bytes,
        modified_at: WallMillis,
        bounds: UserBounds,
    ) -> Result<Adoption, LedgerError>;

    /// Takes a file of `input` or `output` over, so that `/view` finds it by its name; numbers of output names go on after it.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn adopt_file(&self, owner: &Owner, file: AdoptedFile) -> Result<Adoption, LedgerError>;

    /// The files that names of a directory lead to, by folder and name, after `after` (folder, name), at most `count`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn files_in(
        &self,
        scope: &OwnerScope,
        directory: Directory,
        after: Option<(String, String)>,
        count: usize,
    ) -> Result<Vec<FileRow>, LedgerError>;
}

/// The series that an output name belongs to, with the number that would come next in each: ComfyUI counts `a_00007_.png` as number 7 of prefix `a`,
/// and `a_1_00007_.png` as 1 of `a` and 7 of `a_1` (folder_paths.py `get_save_image_path`, 0.8.0).
pub fn series_of(name: &str) -> Vec<(&str, u64)> {
    // Numbers beyond any folder's length are none that we could go on after.
    const NUMBER_MAX: u64 = 1_000_000_000_000;
    let next = |at: usize| {
        let rest = name.get(at + 1..)?;
        let digits = rest.split('_').next().filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
        let number = digits.parse::<u64>().ok().filter(|number| *number < NUMBER_MAX)?;
        Some((name.get(..at)?, number + 1))
    };
    name.match_indices('_').filter_map(|(at, _)| next(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_paths() {
        for fine in [
            "a",
            "workflows/x.json",
            "workflows/My flow (2).json",
            ".index.json",
            "ä/日本.json",
            "a..b/...c",
            &"n".repeat(255),
            &vec!["n"; 16].join("/"),
        ] {
            assert_eq!(fine.parse::<UserPath>().map(String::from), Ok(fine.to_owned()));
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_path() {
        for odd in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "a\\b",
            "a\0b",
            "a\nb",
            "a.",
            "a /b",
            " a",
            "gpj.\u{202e}exe",
            &"n".repeat(256),
            &vec!["n"; 17].join("/"),
            &format!("{}/x", vec!["n".repeat(255); 4].join("/")),
        ] {
            assert!(odd.parse::<UserPath>().is_err(), "{odd}");
        }
    }

    #[test]
    fn a_path_knows_its_folders() {
        let path: UserPath = "a/b/c.json".parse().unwrap();
        assert_eq!(path.folders().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(path.parts(), ("a/b", "c.json"));
        assert_eq!("c".parse::<UserPath>().unwrap().parts(), ("", "c"));
    }

    #[test]
    fn a_name_belongs_to_the_series_that_comfyui_would_count_it_in() {
        assert_eq!(series_of("ComfyUI_00042_.png"), [("ComfyUI", 43)]);
        assert_eq!(series_of("a_1_00007_.png"), [("a", 2), ("a_1", 8)]);
        assert_eq!(series_of("a_b.png"), []);
        assert_eq!(series_of("a_.png"), []);
        assert_eq!(series_of("a_99999999999999999999_.png"), []);
    }
}
