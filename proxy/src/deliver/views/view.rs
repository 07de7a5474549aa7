//! `GET /view` as ComfyUI's page builds it (ComfyUI 0.8.0 `server.py` `view_image`; facts §7.1): names, for their owner only. Pure.

use crate::record::ledger::Directory;
use crate::route::Query;

/// The file that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewQuery {
    /// Which directory.
    pub directory: Directory,
    /// Folder as shown to the owner.
    pub subfolder: String,
    /// Name as shown to the owner.
    pub filename: String,
}

/// Why the query names no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// No name, or one that can be none.
    #[error("no such file")]
    NotFound,
    /// ComfyUI knows `input`, `output` and `temp`.
    #[error("`type` must be output, input or temp")]
    Directory,
    /// Another form of the image.
    #[error("previews and channels are computed by a later release; leave `preview` and `channel` out")]
    NotYet,
}

impl ViewQuery {
    /// Reads `filename`, `type` (default `output`) and `subfolder`; exactly ` [output]`, ` [input]` or ` [temp]` at the name's end says the directory, as
    /// for ComfyUI, before `type`. Other keys (`rand`, `t`) are the page's and mean nothing.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn parse(query: &Query) -> Result<Self, ViewError> {
        if query.value("preview").is_some() || query.value("channel").is_some() {
            return Err(ViewError::NotYet);
        }
        let named = query.value("filename").unwrap_or_default();
        let directory = Directory::from_name(query.value("type").unwrap_or("output")).ok_or(ViewError::Directory)?;
        let (filename, directory) = annotated(named).unwrap_or((named, directory));
        let subfolder = query.value("subfolder").unwrap_or_default();
        let is_path =
            |text: &str| text.starts_with('/') || text.contains('\\') || text.split('/').any(|segment| segment == "..");
        // The ledger would not find them either; names that can't be are not looked up.
        if filename.is_empty() || filename.contains('/') || is_path(filename) || is_path(subfolder) {
            return Err(ViewError::NotFound);
        }
        Ok(Self { directory, subfolder: subfolder.trim_end_matches('/').to_owned(), filename: filename.to_owned() })
    }
}

fn annotated(name: &str) -> Option<(&str, Directory)> {
    let (filename, suffix) = name.rsplit_once(' ')?;
    let inside = suffix.strip_prefix('[')?.strip_suffix(']')?;
    Some((filename, Directory::from_name(inside)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<(Directory, String, String), ViewError> {
        ViewQuery::parse(&Query::parse(query).unwrap()).map(|view| (view.directory, view.subfolder, view.filename))
    }

    #[test]
    fn names_are_read_as_the_page_writes_them() {
        assert_eq!(parse("filename=a.png&rand=0.1&t=5"), Ok((Directory::Output, String::new(), "a.png".into())));
        assert_eq!(
            parse("filename=a.png&type=temp&subfolder=x/y"),
            Ok((Directory::Temp, "x/y".into(), "a.png".into()))
        );
    }

    #[test]
    fn an_exact_suffix_beats_the_type_and_a_glued_one_is_part_of_the_name() {
        assert_eq!(parse("filename=a.png+[input]&type=output"), Ok((Directory::Input, String::new(), "a.png".into())));
        assert_eq!(parse("filename=a.png[input]"), Ok((Directory::Output, String::new(), "a.png[input]".into())));
        assert_eq!(parse("filename=a.png+[nowhere]"), Ok((Directory::Output, String::new(), "a.png [nowhere]".into())));
    }

    #[test]
    fn what_can_be_no_file_is_not_looked_up() {
        for odd in [
            "",
            "filename=",
            "filename=../a.png",
            "filename=/a.png",
            "filename=x/a.png",
            "filename=a.png&subfolder=../x",
            "filename=a.png&subfolder=/x",
            "filename=a%5Cb.png",
        ] {
            assert_eq!(parse(odd), Err(ViewError::NotFound), "{odd}");
        }
        assert_eq!(parse("filename=a.png&type=Output"), Err(ViewError::Directory));
        assert_eq!(parse("filename=a.png&preview=webp;50"), Err(ViewError::NotYet));
    }
}
