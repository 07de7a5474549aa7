//! The four folders of a ComfyUI and its rules for names (folder_paths.py 0.8.0): annotated suffixes, containment by
//! text and not by symlink, and output names counted by listing the folder.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::clock;

/// Where files live: `output/`, `input/`, `temp/`, `user/` below one base.
#[derive(Debug, Clone)]
pub struct Folders {
    base: PathBuf,
    input: PathBuf,
}

/// Where an image is to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavePath {
    /// The folder on disk.
    pub folder: PathBuf,
    /// File name without counter; may hold `%batch_num%`.
    pub stem: String,
    /// Number of the first file.
    pub counter: u64,
    /// The folder as reported to clients.
    pub subfolder: String,
}

impl Folders {
    /// Makes the folders below `base` where they are missing.
    pub fn create(base: &Path) -> io::Result<Folders> {
        let base = std::path::absolute(base)?;
        for name in ["output", "input", "temp", "user"] {
            std::fs::create_dir_all(base.join(name))?;
        }
        let input = base.join("input");
        Ok(Folders { base, input })
    }

    /// The folder that holds all of them.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The folder of finished images.
    pub fn output(&self) -> PathBuf {
        self.base.join("output")
    }

    /// The folder of uploads.
    pub fn input(&self) -> &Path {
        &self.input
    }

    /// The folder of previews, emptied when the process ends.
    pub fn temp(&self) -> PathBuf {
        self.base.join("temp")
    }

    /// The folder of settings and workflows.
    pub fn user(&self) -> PathBuf {
        self.base.join("user")
    }

    /// The folder that `type` names; `None` for an unknown word.
    pub fn by_type(&self, kind: &str) -> Option<PathBuf> {
        match kind {
            "output" => Some(self.output()),
            "input" => Some(self.input().to_owned()),
            "temp" => Some(self.temp()),
            _ => None,
        }
    }

    /// The path that a loader opens for a name with an optional suffix; `..` and absolute names are followed.
    pub fn annotated(&self, name: &str) -> PathBuf {
        let (name, folder) = split_annotation(name);
        let base = folder.and_then(|kind| self.by_type(kind)).unwrap_or_else(|| self.input().to_owned());
        base.join(name)
    }
}

/// Cuts a suffix `[output]`, `[input]` or `[temp]` with the character before it, whatever that is.
pub fn split_annotation(name: &str) -> (&str, Option<&'static str>) {
    for (suffix, cut, kind) in [("[output]", 9, "output"), ("[input]", 8, "input"), ("[temp]", 7, "temp")] {
        if name.ends_with(suffix) {
            let kept = name.chars().count().saturating_sub(cut);
            let end = name.char_indices().nth(kept).map_or(name.len(), |(index, _)| index);
            return (name.get(..end).unwrap_or_default(), Some(kind));
        }
    }
    (name, None)
}

/// `os.path.abspath`: dot segments resolved in the text, symlinks not followed.
pub fn absolute(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Does `path` lie in `base` once its dot segments are resolved?
pub fn contained(base: &Path, path: &Path) -> bool {
    absolute(path).starts_with(base)
}

/// `os.path.normpath` of a relative or absolute text.
pub fn normalised(text: &str) -> String {
    let absolute = text.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." && parts.last().is_some_and(|last| *last != "..") {
            parts.pop();
        } else if part != ".." || !absolute {
            parts.push(part);
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// `get_save_image_path`: folder, name and first number for a prefix. The error is the exception's text.
pub fn save_path(prefix: &str, output: &Path, width: usize, height: usize) -> Result<SavePath, String> {
    let prefix = if prefix.contains('%') { with_tokens(prefix, width, height) } else { prefix.to_owned() };
    let clean = normalised(&prefix);
    let (subfolder, stem) = clean.rsplit_once('/').unwrap_or(("", &clean));
    let subfolder = if subfolder.is_empty() && clean.starts_with('/') { "/" } else { subfolder };
    let folder = output.join(subfolder);
    if !contained(output, &folder) {
        return Err(format!(
            "**** ERROR: Saving image outside the output folder is not allowed.\n full_output_folder: {}\n         \
             output_dir: {}\n         commonpath: {}",
            absolute(&folder).display(),
            output.display(),
            common(output, &absolute(&folder)).display()
        ));
    }
    // ComfyUI matches the counter against the prefix as written, not as normalised.
    let written = prefix.rsplit('/').next().unwrap_or(&prefix);
    let counter = match std::fs::read_dir(&folder) {
        Ok(entries) => {
            1 + entries
                .filter_map(Result::ok)
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter_map(|name| counted(&name, written, stem))
                .max()
                .unwrap_or(0)
        }
        Err(_) => {
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            1
        }
    };
    Ok(SavePath { folder, stem: stem.to_owned(), counter, subfolder: subfolder.to_owned() })
}

fn common(a: &Path, b: &Path) -> PathBuf {
    a.components().zip(b.components()).take_while(|(x, y)| x == y).map(|(x, _)| x).collect()
}

/// The number of a file that belongs to this stem; one without a readable number counts as 0.
fn counted(name: &str, written: &str, stem: &str) -> Option<u64> {
    let length = written.chars().count();
    let mut characters = name.chars();
    let prefix: String = characters.by_ref().take(length).collect();
    let underscore = characters.next();
    if prefix != stem || underscore != Some('_') {
        return None;
    }
    let rest: String = characters.collect();
    let digits = rest.split('_').next().unwrap_or_default();
    Some(digits.parse().unwrap_or(0))
}

fn with_tokens(prefix: &str, width: usize, height: usize) -> String {
    let now = clock::utc_parts();
    let mut out = prefix.replace("%width%", &width.to_string()).replace("%height%", &height.to_string());
    out = out.replace("%year%", &now.year.to_string());
    for (token, number) in [
        ("%month%", now.month),
        ("%day%", now.day),
        ("%hour%", now.hour),
        ("%minute%", now.minute),
        ("%second%", now.second),
    ] {
        out = out.replace(token, &format!("{number:02}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_cut_one_character_more_than_they_are_long() {
        assert_eq!(split_annotation("a.png [input]"), ("a.png", Some("input")));
        assert_eq!(split_annotation("a.pngX[temp]"), ("a.png", Some("temp")));
        assert_eq!(split_annotation("[output]"), ("", Some("output")));
        assert_eq!(split_annotation("a.png [other]"), ("a.png [other]", None));
    }

    #[test]
    fn prefixes_land_where_comfyui_puts_them() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path();
        for (prefix, subfolder, stem) in [
            ("t/a/x", "t/a", "x"),
            ("tA/", "", "tA"),
            ("tA/.", "", "tA"),
            ("tA/..", "", "."),
            ("", "", "."),
            ("tA/../tB/x", "tB", "x"),
            ("%width%x%height%", "", "8x9"),
        ] {
            let path = save_path(prefix, output, 8, 9).unwrap();
            assert_eq!((path.subfolder.as_str(), path.stem.as_str()), (subfolder, stem), "{prefix}");
        }
    }

    #[test]
    fn prefixes_that_leave_the_folder_are_an_error() {
        let directory = tempfile::tempdir().unwrap();
        for prefix in ["../x", "../../x/y", "/etc/x"] {
            assert!(save_path(prefix, directory.path(), 1, 1).is_err(), "{prefix}");
        }
        let inside = directory.path().join("x");
        assert!(save_path(inside.to_str().unwrap(), directory.path(), 1, 1).is_ok());
    }

    #[test]
    fn the_counter_continues_after_the_highest_file_of_the_prefix() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["x_00003_.png", "x_00007_.png", "xy_00009_.png", "x_bad_.png"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(save_path("x", directory.path(), 1, 1).unwrap().counter, 8);
        assert_eq!(save_path("y", directory.path(), 1, 1).unwrap().counter, 1);
    }
}
