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
    /// In which form.
    pub form: Form,
}

/// A form of a picture that `/view` gives (ComfyUI 0.8.0 `server.py` `view_image`). Everything but the file itself is computed by a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The file as it is.
    Whole,
    /// `preview=webp;90`: the picture compressed, quality 0 to 100.
    Preview {
        /// JPEG; else WebP.
        jpeg: bool,
        /// How good; 90 where the query says none.
        quality: u8,
        /// `channel=rgb`: without what is transparent.
        opaque: bool,
    },
    /// `channel=rgb`: the colours alone, as PNG.
    Colours,
    /// `channel=a`: what is transparent alone, as the alpha of a black PNG.
    Alpha,
}

/// The quality that ComfyUI takes where none is given.
const QUALITY: u8 = 90;
/// Pillow's formats know no better one; ComfyUI hands on any number.
const QUALITY_MAX: u8 = 100;

impl Form {
    /// Reads `preview` and `channel` as ComfyUI does: a format that it does not know is WebP, and so is any preview whose channel has an `a`; the last piece of `preview` is the
    /// quality if it is a number; a channel but `rgb` and `a` means nothing.
    fn read(preview: Option<&str>, channel: Option<&str>) -> Self {
        let (opaque, has_alpha) = (channel == Some("rgb"), channel.is_some_and(|channel| channel.contains('a')));
        match (preview, channel) {
            (Some(preview), _) => {
                let mut pieces = preview.split(';');
                let jpeg = pieces.next() == Some("jpeg") && !has_alpha;
                let quality = preview.rsplit(';').next().filter(|last| is_number(last));
                // A number of more digits than fit is too large, too.
                let quality = quality.map_or(QUALITY, |digits| digits.parse().unwrap_or(QUALITY_MAX).min(QUALITY_MAX));
                Self::Preview { jpeg, quality, opaque: opaque && !jpeg }
            }
            (None, Some("rgb")) => Self::Colours,
            (None, Some("a")) => Self::Alpha,
            (None, _) => Self::Whole,
        }
    }

    /// As a query of `/view` asks for it: from our own values, never the caller's spelling. Forms that look alike read alike, so it also names the form in an ETag.
    pub fn query(self) -> String {
        match self {
            Self::Whole => String::new(),
            Self::Preview { jpeg, quality, opaque } => {
                let (format, channel) = (if jpeg { "jpeg" } else { "webp" }, if opaque { "&channel=rgb" } else { "" });
                format!("preview={format};{quality}{channel}")
            }
            Self::Colours => "channel=rgb".into(),
            Self::Alpha => "channel=a".into(),
        }
    }

    /// What comes of it; none: the file's own type.
    pub fn content_type(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Preview { jpeg: true, .. } => Some("image/jpeg"),
            Self::Preview { jpeg: false, .. } => Some("image/webp"),
            Self::Colours | Self::Alpha => Some("image/png"),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
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
}

impl ViewQuery {
    /// Reads `filename`, `type` (default `output`) and `subfolder`; exactly ` [output]`, ` [input]` or ` [temp]` at the name's end says the directory, as
    /// for ComfyUI, before `type`. Other keys (`rand`, `t`) are the page's and mean nothing.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn parse(query: &Query) -> Result<Self, ViewError> {
        let form = Form::read(query.value("preview"), query.value("channel"));
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
        Ok(Self {
            directory,
            subfolder: subfolder.trim_end_matches('/').to_owned(),
            filename: filename.to_owned(),
            form,
        })
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
    }

    #[test]
    fn forms_are_read_as_comfyui_reads_them() {
        let preview = |jpeg, quality, opaque| Form::Preview { jpeg, quality, opaque };
        for (query, form) in [
            ("", Form::Whole),
            ("channel=rgba", Form::Whole),
            ("channel=", Form::Whole),
            ("channel=A", Form::Whole),
            ("channel=rgb", Form::Colours),
            ("channel=a", Form::Alpha),
            ("preview=webp;90", preview(false, 90, false)),
            ("preview=webp", preview(false, 90, false)),
            ("preview=", preview(false, 90, false)),
            ("preview=jpeg;50", preview(true, 50, false)),
            ("preview=jpeg;50&channel=rgb", preview(true, 50, false)),
            ("preview=jpeg;50&channel=a", preview(false, 50, false)),
            ("preview=jpeg;50&channel=rgba", preview(false, 50, false)),
            ("preview=webp;7&channel=rgb", preview(false, 7, true)),
            ("preview=../x;1;2", preview(false, 2, false)),
            ("preview=png;100", preview(false, 100, false)),
            ("preview=png;101", preview(false, 100, false)),
            ("preview=png;99999999999999999999999", preview(false, 100, false)),
            ("preview=jpeg;-5", preview(true, 90, false)),
            ("preview=55", preview(false, 55, false)),
        ] {
            let read = ViewQuery::parse(&Query::parse(&format!("filename=a.png&{query}")).unwrap()).unwrap().form;
            assert_eq!(read, form, "{query}");
        }
    }

    #[test]
    fn a_form_is_asked_for_in_our_own_words() {
        for (preview, channel, asked) in [
            (Some("jpeg;70&type=input"), None, "preview=jpeg;90"),
            (Some("webp;1"), Some("rgb"), "preview=webp;1&channel=rgb"),
            (None, Some("a"), "channel=a"),
            (None, Some("rgb"), "channel=rgb"),
            (None, None, ""),
        ] {
            assert_eq!(Form::read(preview, channel).query(), asked);
        }
    }
}
