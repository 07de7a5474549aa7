//! ComfyUI's plain form: `/view?filename=&type=&subfolder=`, for a logged-in owner (server.py `view_image`, facts §7.1).
//!
//! The three keys name one of the owner's own files by what it was shown as; they are never a path of ours. Other keys (`rand`, `t`) are the page's
//! against caches and mean nothing. A key that stands twice never comes here: the route table refuses it.

use crate::record::ledger::Directory;
use crate::route::Query;

/// Longest file name: what file systems take.
const NAME_BYTES_MAX: usize = 255;
/// Longest folder.
const FOLDER_BYTES_MAX: usize = 1024;

/// Which file is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewQuery {
    /// From the suffix of the name, else `type`, else output.
    pub directory: Directory,
    /// `""` or `a/b`.
    pub subfolder: String,
    /// Without the suffix.
    pub filename: String,
}

/// Why a query names no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Missing, empty, too long, or with a part that no name of ours has.
    #[error("`filename` is a name without folder, 1 to 255 bytes")]
    Filename,
    /// Not `output`, `input` or `temp`.
    #[error("`type` is `output`, `input` or `temp`")]
    Type,
    /// Not a plain relative folder.
    #[error("`subfolder` is a relative folder such as `a/b`")]
    Subfolder,
    /// A form of the file that is not built.
    #[error("previews and single channels of images are not built yet: ask for the file without `preview` and `channel`")]
    NotYet,
}

impl ViewQuery {
    /// Reads the query.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn parse(query: &Query) -> Result<Self, ViewError> {
        // `channel=rgba` is the file as it is.
        if query.value("preview").is_some() || query.value("channel").is_some_and(|channel| channel != "rgba") {
            return Err(ViewError::NotYet);
        }
        let given = query.value("filename").ok_or(ViewError::Filename)?;
        let (filename, annotated) = without_annotation(given)?;
        let named = Directory::from_name(query.value("type").unwrap_or("output")).ok_or(ViewError::Type)?;
        if !is_plain(filename) || filename.len() > NAME_BYTES_MAX {
            return Err(ViewError::Filename);
        }
        let subfolder = query.value("subfolder").unwrap_or_default();
        let is_good = subfolder.is_empty() || (subfolder.len() <= FOLDER_BYTES_MAX && subfolder.split('/').all(is_plain));
        if !is_good {
            return Err(ViewError::Subfolder);
        }
        // As in ComfyUI, the suffix wins over `type`.
        Ok(Self { directory: annotated.unwrap_or(named), subfolder: subfolder.to_owned(), filename: filename.to_owned() })
    }
}

/// `a.png [input]` → `a.png` and input (folder_paths.py `annotated_filepath`). Stricter than ComfyUI, which cuts the suffix and one more character
/// whatever that is: without a space before it, the name is refused (facts §7.1).
fn without_annotation(given: &str) -> Result<(&str, Option<Directory>), ViewError> {
    for (suffix, directory) in [("[output]", Directory::Output), ("[input]", Directory::Input), ("[temp]", Directory::Temp)] {
        if let Some(rest) = given.strip_suffix(suffix) {
            return rest.strip_suffix(' ').map(|name| (name, Some(directory))).ok_or(ViewError::Filename);
        }
    }
    Ok((given, None))
}

/// One segment of a path, and no more than that.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<ViewQuery, ViewError> {
        ViewQuery::parse(&Query::parse(query).unwrap())
    }

    fn found(directory: Directory, subfolder: &str, filename: &str) -> Result<ViewQuery, ViewError> {
        Ok(ViewQuery { directory, subfolder: subfolder.into(), filename: filename.into() })
    }

    #[test]
    fn the_pages_own_queries_are_read() {
        assert_eq!(parse("filename=a_00001_.png&type=temp&subfolder=&rand=0.5&t=3"), found(Directory::Temp, "", "a_00001_.png"));
        assert_eq!(parse("filename=a.png&subfolder=x%2Fy&channel=rgba"), found(Directory::Output, "x/y", "a.png"));
    }

    #[test]
    fn a_suffix_wins_over_the_type_and_needs_its_space() {
        assert_eq!(parse("filename=a.png+%5Binput%5D&type=output"), found(Directory::Input, "", "a.png"));
        assert_eq!(parse("filename=a.png+%5Btemp%5D"), found(Directory::Temp, "", "a.png"));
        for name in ["a.pngX%5Binput%5D", "%5Binput%5D", "+%5Boutput%5D"] {
            assert_eq!(parse(&format!("filename={name}")), Err(ViewError::Filename), "{name}");
        }
        assert_eq!(parse("filename=a+%5BINPUT%5D"), found(Directory::Output, "", "a [INPUT]"));
    }

    #[test]
    fn names_and_folders_that_leave_their_place_are_refused() {
        for name in ["", "..", ".", "%2Fetc%2Fpasswd", "a%2Fb.png", "..%5Ca"] {
            assert_eq!(parse(&format!("filename={name}")), Err(ViewError::Filename), "{name}");
        }
        assert_eq!(parse("type=output"), Err(ViewError::Filename));
        for folder in ["..", "a%2F..", "%2Fa", "a%2F", "a%2F%2Fb", "a%5Cb"] {
            assert_eq!(parse(&format!("filename=a&subfolder={folder}")), Err(ViewError::Subfolder), "{folder}");
        }
        assert!(parse("filename=a..b").is_ok());
    }

    #[test]
    fn lengths_are_taken_up_to_their_bound() {
        assert!(parse(&format!("filename={}", "a".repeat(NAME_BYTES_MAX))).is_ok());
        assert_eq!(parse(&format!("filename={}", "a".repeat(NAME_BYTES_MAX + 1))), Err(ViewError::Filename));
        assert!(parse(&format!("filename=a&subfolder={}", "a".repeat(FOLDER_BYTES_MAX))).is_ok());
        assert_eq!(parse(&format!("filename=a&subfolder={}", "a".repeat(FOLDER_BYTES_MAX + 1))), Err(ViewError::Subfolder));
    }

    #[test]
    fn the_type_is_one_of_three_words() {
        assert_eq!(parse("filename=a&type=Output"), Err(ViewError::Type));
        assert_eq!(parse("filename=a&type="), Err(ViewError::Type));
    }

    #[test]
    fn previews_and_channels_are_not_built() {
        assert_eq!(parse("filename=a.png&preview=webp%3B90"), Err(ViewError::NotYet));
        assert_eq!(parse("filename=a.png&channel=rgb"), Err(ViewError::NotYet));
    }
}
