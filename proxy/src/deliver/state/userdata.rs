//! `/userdata` and `/v2/userdata` (ComfyUI 0.8.0 `app/user_manager.py`; facts §1.2): lists in its shapes, files that run nothing. Pure.
//!
//! Folders are not stored: one is there as long as a file lies below it. ComfyUI keeps the empty folder, which its page reads as an empty list like a missing one.

use crate::clock::WallMillis;
use crate::deliver::answer::Answer;
use crate::record::ledger::user_files::{UserFile, UserPath};
use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a list is asked to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListForm {
    /// Files of folders below, too.
    pub recurse: bool,
    /// Objects with size and times instead of paths.
    pub full_info: bool,
    /// Lists of the path and its names instead of paths.
    pub split: bool,
}

/// A folder of an owner's: the root, or a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder(Option<UserPath>);

/// Why a text names no folder of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoFolder;

impl Folder {
    /// Reads `workflows`, `workflows/` or `.`, as `dir` and `path` hold them, decoded once.
    ///
    /// # Errors
    /// [`NoFolder`] for whatever could lead out of the owner's own.
    pub fn parse(text: &str) -> Result<Self, NoFolder> {
        let text = text.strip_suffix('/').unwrap_or(text);
        match text {
            "" | "." => Ok(Self(None)),
            path => path.parse().map(|path| Self(Some(path))).map_err(|_| NoFolder),
        }
    }

    /// The path within this folder; none for what lies elsewhere.
    fn below<'p>(&self, path: &'p UserPath) -> Option<&'p str> {
        match &self.0 {
            None => Some(path.as_str()),
            Some(folder) => path.as_str().strip_prefix(folder.as_str())?.strip_prefix('/'),
        }
    }

    /// Whether this is the owner's root, which is always there.
    pub fn is_root(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the owner has a file of exactly this path.
    pub fn is_file(&self, files: &[(UserPath, UserFile)]) -> bool {
        files.iter().any(|(path, _)| self.0.as_ref() == Some(path))
    }
}

/// `GET /userdata`: the files of a folder; none if there is no such folder.
pub fn list(files: &[(UserPath, UserFile)], folder: &Folder, form: ListForm) -> Option<Value> {
    let below: Vec<(&str, &UserFile)> =
        files.iter().filter_map(|(path, file)| Some((folder.below(path)?, file))).collect();
    if below.is_empty() && !folder.is_root() {
        return None;
    }
    // `glob` passes over hidden names.
    let hidden = |path: &str| path.split('/').any(|name| name.starts_with('.'));
    let shown = below.into_iter().filter(|(path, _)| !hidden(path) && (form.recurse || !path.contains('/')));
    Some(shown.map(|(path, file)| item(path, file, form)).collect())
}

fn item(path: &str, file: &UserFile, form: ListForm) -> Value {
    if form.full_info {
        return info(path, file);
    }
    if form.split {
        return std::iter::once(path).chain(path.split('/')).collect();
    }
    json!(path)
}

/// A file as `full_info` tells it; times in seconds since 1970.
pub fn info(path: &str, file: &UserFile) -> Value {
    json!({"path": path, "size": file.bytes, "modified": seconds(file.modified_at), "created": seconds(file.created_at)})
}

/// `GET /v2/userdata`: everything below a folder, folders first, by name without case; none if there is no such folder.
pub fn list_below(files: &[(UserPath, UserFile)], folder: &Folder) -> Option<Value> {
    let mut found: BTreeMap<&str, Option<&UserFile>> = BTreeMap::new();
    for (path, file) in files {
        if folder.below(path).is_none() {
            continue;
        }
        let own = folder.0.as_ref().map_or(0, |folder| folder.as_str().len());
        found.extend(path.folders().filter(|above| above.len() > own).map(|above| (above, None)));
        found.insert(path.as_str(), Some(file));
    }
    if found.is_empty() && !folder.is_root() {
        return None;
    }
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let mut sorted: Vec<_> = found.into_iter().collect();
    sorted.sort_by_key(|(path, file)| (file.is_some(), name(path).to_lowercase()));
    let entry = |(path, file): (&str, Option<&UserFile>)| match file {
        None => json!({"name": name(path), "path": path, "type": "directory"}),
        Some(file) => json!({
            "name": name(path), "path": path, "type": "file", "size": file.bytes, "modified": seconds(file.modified_at),
        }),
    };
    Some(sorted.into_iter().map(entry).collect())
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 stay below 2^53 for 285,000 years")]
fn seconds(at: WallMillis) -> f64 {
    at.0 as f64 / 1000.0
}

/// `GET /userdata/{file}`: the content, which no browser shows as a page (facts §11, 86; CVE-2026-56672).
pub fn content(path: &UserPath, content: Bytes) -> Answer {
    let (_, name) = path.parts();
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default();
    let kind = match extension.as_str() {
        "json" => "application/json",
        "txt" | "md" | "log" | "ini" | "yaml" => "text/plain; charset=utf-8",
        _ => crate::deliver::views::OCTET_STREAM,
    };
    let mut answer = Answer::bytes(StatusCode::OK, kind, content);
    harmless(&mut answer.headers);
    answer
}

/// Headers that keep a content which somebody else made from running with our origin's rights.
pub fn harmless(headers: &mut HeaderMap) {
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use comfygate_policy::Digest;

    fn files(paths: &[&str]) -> Vec<(UserPath, UserFile)> {
        let file = UserFile {
            content: Digest::of(b"{}"),
            bytes: 2,
            created_at: WallMillis(1500),
            modified_at: WallMillis(2250),
        };
        paths.iter().map(|path| (path.parse().unwrap(), file)).collect()
    }

    fn listed(dir: &str, form: ListForm) -> Option<Value> {
        let files = files(&["comfy.settings.json", "odd/.hidden", "odd/a.txt", "odd/deep/c.txt", "oddity/d.txt"]);
        list(&files, &Folder::parse(dir).unwrap(), form)
    }

    #[test]
    fn a_list_has_comfyuis_three_forms() {
        let form = ListForm::default();
        assert_eq!(listed("odd", form), Some(json!(["a.txt"])));
        assert_eq!(listed("odd/", ListForm { recurse: true, ..form }), Some(json!(["a.txt", "deep/c.txt"])));
        assert_eq!(
            listed("odd", ListForm { recurse: true, split: true, ..form }),
            Some(json!([["a.txt", "a.txt"], ["deep/c.txt", "deep", "c.txt"]]))
        );
        let full = ListForm { full_info: true, split: true, ..form };
        assert_eq!(listed("odd", full), Some(json!([{"path": "a.txt", "size": 2, "modified": 2.25, "created": 1.5}])));
        assert_eq!(listed(".", form), Some(json!(["comfy.settings.json"])));
    }

    #[test]
    fn a_folder_without_files_is_none_and_the_root_is_always_there() {
        assert_eq!(listed("none", ListForm::default()), None);
        assert_eq!(listed("od", ListForm::default()), None);
        assert_eq!(list(&[], &Folder::parse("").unwrap(), ListForm::default()), Some(json!([])));
        assert_eq!(list_below(&[], &Folder::parse("").unwrap()), Some(json!([])));
        assert_eq!(list_below(&files(&["a/b"]), &Folder::parse("c").unwrap()), None);
    }

    #[test]
    fn what_leads_out_is_no_folder() {
        for out in ["..", "../..", "/etc", "a/../..", "a//b", "./a"] {
            assert_eq!(Folder::parse(out), Err(NoFolder), "{out}");
        }
    }

    #[test]
    fn the_second_list_has_folders_first() {
        let listed = list_below(&files(&["B.json", "a.json", "odd/deep/c"]), &Folder::parse("").unwrap()).unwrap();
        let paths: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["odd/deep", "odd", "a.json", "B.json", "odd/deep/c"]);
        assert_eq!(listed[0], json!({"name": "deep", "path": "odd/deep", "type": "directory"}));
        assert_eq!(listed[4], json!({"name": "c", "path": "odd/deep/c", "type": "file", "size": 2, "modified": 2.25}));
        let below = list_below(&files(&["odd/deep/c", "odd.txt"]), &Folder::parse("odd").unwrap()).unwrap();
        assert_eq!(below.as_array().unwrap().len(), 2, "{below}");
    }

    #[test]
    fn no_content_is_shown_as_a_page() {
        for (name, kind) in [
            ("a.json", "application/json"),
            ("a.TXT", "text/plain; charset=utf-8"),
            ("a.html", "application/octet-stream"),
            ("a.svg", "application/octet-stream"),
            ("json", "application/octet-stream"),
        ] {
            let answer = content(&name.parse().unwrap(), Bytes::from_static(b"<p>"));
            assert_eq!(answer.headers["content-type"], kind, "{name}");
            assert_eq!(answer.headers["content-disposition"], "attachment");
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        }
    }
}
