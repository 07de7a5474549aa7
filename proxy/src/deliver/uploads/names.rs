//! Names of uploads. Pure.
//!
//! They never reach a backend's disk; they are rules of the owner's own namespace, so that a name means one file, can be used in a workflow, and can be shown anywhere.

/// Bytes of a file's name: leaves room for ` (200)` within the 255 that file systems and Python take.
const NAME_BYTES_MAX: usize = 200;
/// Folders of a subfolder.
const FOLDERS_MAX: usize = 8;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, as ComfyUI refuses too.
    #[error("the file has no name: give it one")]
    Empty,
    /// A path, or a character that no name has.
    #[error(
        "`{0}` is no file name: write it without `/`, `\\`, `..`, a drive letter, control characters and white space at its ends"
    )]
    Path(String),
    /// Would be taken for a suffix that selects a directory.
    #[error(
        "`{0}` ends in `[input]`, `[output]` or `[temp]`, which ComfyUI takes for a directory: choose another name"
    )]
    Suffix(String),
    /// Too long.
    #[error(
        "a file name has at most {NAME_BYTES_MAX} bytes, a subfolder at most {FOLDERS_MAX} folders: choose a shorter one"
    )]
    Long,
}

/// A name as the owner sees it.
///
/// # Errors
/// [`NameError`].
pub fn filename(text: &str) -> Result<&str, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::Long);
    }
    let drive = matches!(text.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\');
    if drive || text.chars().any(odd) || text.trim() != text || matches!(text, "." | "..") {
        return Err(NameError::Path(shown(text)));
    }
    if ["[input]", "[output]", "[temp]"].iter().any(|suffix| text.ends_with(suffix)) {
        return Err(NameError::Suffix(shown(text)));
    }
    Ok(text)
}

/// A subfolder: none, or names joined by `/`; a `/` at its end is the page's habit and left out.
///
/// # Errors
/// [`NameError`].
pub fn subfolder(text: &str) -> Result<String, NameError> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() {
        return Ok(String::new());
    }
    let folders: Vec<&str> = text.split('/').collect();
    if folders.len() > FOLDERS_MAX {
        return Err(NameError::Long);
    }
    for folder in &folders {
        match filename(folder) {
            Err(NameError::Empty) => return Err(NameError::Path(shown(text))),
            other => other?,
        };
    }
    Ok(folders.join("/"))
}

/// As it may stand in an answer: cut, without control characters.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_are_names() {
        for name in ["a.png", "Foto (1) é.jpeg", "..a", "a..b", ".hidden", "x [draft].png", "日本.webp", "a"] {
            assert_eq!(filename(name), Ok(name));
        }
        assert!(filename(&"n".repeat(200)).is_ok());
        assert_eq!(filename(&"n".repeat(201)), Err(NameError::Long));
    }

    #[test]
    fn what_is_a_path_or_a_trick_is_no_name() {
        for name in [
            "../a.png",
            "a/b.png",
            "a\\b.png",
            "..",
            ".",
            "/etc/passwd",
            "C:a.png",
            "a\0.png",
            "a\n",
            " a",
            "a ",
            "\u{85}a",
        ] {
            assert!(matches!(filename(name), Err(NameError::Path(_))), "{name:?}");
        }
        for name in ["x.png[input]", "x.png [output]", "[temp]"] {
            assert!(matches!(filename(name), Err(NameError::Suffix(_))), "{name}");
        }
        assert_eq!(filename(""), Err(NameError::Empty));
    }

    #[test]
    fn a_subfolder_is_names_and_nothing_else() {
        assert_eq!(subfolder("").unwrap(), "");
        assert_eq!(subfolder("/").unwrap(), "");
        assert_eq!(subfolder("clipspace").unwrap(), "clipspace");
        assert_eq!(subfolder("a/b c/").unwrap(), "a/b c");
        for odd in ["/a", "a//b", "..", "a/../b", "a/./b", "a\\b", "t/x [temp]"] {
            assert!(subfolder(odd).is_err(), "{odd}");
        }
        assert!(subfolder("1/2/3/4/5/6/7/8").is_ok());
        assert_eq!(subfolder("1/2/3/4/5/6/7/8/9"), Err(NameError::Long));
    }
}
