//! Names of files in a workflow, and what the caller of the engine knows about them.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::catalogue::{Catalogue, Declarations, InputKind};
use crate::policy::{AssumedUpload, Policy};
use crate::workflow::graph::Workflow;
use crate::workflow::json::Json;
use crate::workflow::node::{Input, NodeId};

/// One of ComfyUI's three directories of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Directory {
    /// Uploads; also meant by a name without a suffix.
    Input,
    /// Results: the suffix ` [output]`.
    Output,
    /// Previews: the suffix ` [temp]`.
    Temp,
}

impl Directory {
    /// Every directory, by the name that suffixes and documents use.
    pub const NAMES: [(&'static str, Self); 3] =
        [("input", Self::Input), ("output", Self::Output), ("temp", Self::Temp)];

    /// As suffixes and documents write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Temp => "temp",
        }
    }
}

/// A file that a node's literal names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReference {
    /// The node that names it.
    pub node: NodeId,
    /// Its input.
    pub input: String,
    /// The name without the suffix, as the caller wrote it.
    pub name: String,
    /// The directory that the suffix selects.
    pub directory: Directory,
}

/// What is known about a file that the caller may use. Width, height (pixels) and frames are upper bounds that hold in the file's own orientation or turned by 90 degrees:
/// ComfyUI turns pictures as their EXIF says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    /// What the input is set to upstream, with suffix if it needs one.
    pub canonical_name: String,
    /// Pixels, at least 1; for what is no picture 1.
    pub width: u32,
    /// Pixels, at least 1.
    pub height: u32,
    /// Frames, at least 1.
    pub frames: u32,
    /// Seconds of sound at most, rounded up, of two channels at most and one of [`SAMPLE_RATES`]; `None` where nobody knows, which counts as endless.
    pub seconds: Option<u32>,
}

/// Numbers a second that sound is recorded with. Between two others ComfyUI may make a filter of gigabytes when it resamples, so a sound of another rate counts as one that nobody knows.
pub const SAMPLE_RATES: [u32; 13] =
    [8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000];

/// The files that this caller may name. What is not here does not exist, whether it is somebody else's or nobody's.
#[derive(Debug, Clone, Default)]
pub struct FileFacts {
    /// By name: of each directory one at most.
    known: HashMap<String, Vec<(Directory, FileFact)>, RandomState>,
    /// What every other plain name stands for; `None`: nothing.
    others: Option<AssumedUpload>,
}

/// What an upload is taken for where the policy says nothing about it: as the documents that ship say.
const ASSUMED_UPLOAD: AssumedUpload = AssumedUpload { width: 1024, height: 1024, frames: 60, seconds: 60 };

impl FileFacts {
    /// No files at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// For callers who know no uploads, such as a check of a workflow on its own: a plain relative name counts as an upload of the size that the policy assumes (`files.assumed_upload`).
    /// Absolute, dotted and otherwise odd names are no uploads, nor is what lies in the folders of a gateway.
    pub fn assumed(policy: &Policy) -> Self {
        Self { known: HashMap::default(), others: Some(policy.assumed_upload().unwrap_or(ASSUMED_UPLOAD)) }
    }

    /// Adds a file under the name (without suffix) by which the caller may use it.
    pub fn insert(&mut self, name: impl Into<String>, directory: Directory, fact: FileFact) {
        let of_name = self.known.entry(name.into()).or_default();
        of_name.retain(|(known, _)| *known != directory);
        of_name.push((directory, fact));
    }

    pub(crate) fn get(&self, name: &str, directory: Directory) -> Option<Cow<'_, FileFact>> {
        let of_name = self.known.get(name).into_iter().flatten();
        if let Some((_, known)) = of_name.into_iter().find(|(known, _)| *known == directory) {
            return Some(Cow::Borrowed(known));
        }
        let AssumedUpload { width, height, frames, seconds } = self.others.filter(|_| is_plain(name))?;
        let frames = if is_still(name) { 1 } else { frames };
        let suffix = if directory == Directory::Input { String::new() } else { format!(" [{}]", directory.name()) };
        let canonical_name = format!("{name}{suffix}");
        Some(Cow::Owned(FileFact { canonical_name, width, height, frames, seconds: Some(seconds) }))
    }
}

/// Endings of pictures that are taken for one picture where nobody measures; others may be films or animations.
const STILLS: [&str; 6] = [".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"];

fn is_still(name: &str) -> bool {
    let name = name.to_lowercase();
    STILLS.iter().any(|ending| name.ends_with(ending))
}

/// Below it a gateway keeps what it pushes and what attempts save, a folder an owner.
pub(crate) const OWN_FOLDERS: &str = "t/";

/// Whether a name is one that an upload may have on every system: folders and a name, nothing hidden, no device, no address.
fn is_plain(name: &str) -> bool {
    let odd = |c: char| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    let plain =
        |segment: &str| !segment.is_empty() && !segment.starts_with(['.', '~', ' ']) && !segment.ends_with(['.', ' ']);
    !name.starts_with(OWN_FOLDERS) && !name.contains(odd) && name.split('/').all(plain)
}

/// Bytes of a file's name.
const NAME_BYTES_MAX: usize = 1024;

/// Why a text is no name of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameFault {
    /// `..`, an absolute path, a backslash with dots, NUL or another control character.
    Path,
    /// Ends like a suffix, but is none: ComfyUI cuts `x.png[temp]` all the same.
    Suffix,
}

/// Splits a name from its suffix: exactly ` [input]`, ` [output]`, ` [temp]` or none.
pub(crate) fn annotated_name(text: &str) -> Result<(&str, Directory), NameFault> {
    let known = [(" [output]", Directory::Output), (" [input]", Directory::Input), (" [temp]", Directory::Temp)];
    let (name, directory) = known
        .iter()
        .find_map(|(suffix, directory)| Some((text.strip_suffix(suffix)?, *directory)))
        .unwrap_or((text, Directory::Input));
    // ComfyUI looks at the end only and does not ask for the space.
    if ["[output]", "[input]", "[temp]"].iter().any(|suffix| name.trim_end().ends_with(suffix)) {
        return Err(NameFault::Suffix);
    }
    if is_path_trick(name) || name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(NameFault::Path);
    }
    Ok((name, directory))
}

/// Whether a name could leave its directory, on any system: a segment `..`, an absolute path, a drive letter, a control character.
pub(crate) fn is_path_trick(name: &str) -> bool {
    let bytes = name.as_bytes();
    let drive = matches!(bytes, [letter, b':', ..] if letter.is_ascii_alphabetic());
    if drive || matches!(bytes, [b'/' | b'\\', ..]) {
        return true;
    }
    // Plain ASCII without two stops in a row, as nearly every name is, needs no second look.
    let mut stops = 0;
    let plain = |byte: &u8| {
        stops = if *byte == b'.' { stops + 1 } else { 0 };
        matches!(byte, b' '..=b'~') && stops < 2
    };
    if bytes.iter().all(plain) {
        return false;
    }
    name.split(['/', '\\']).any(|segment| segment.trim() == "..") || name.chars().any(char::is_control)
}

pub(crate) fn file_references(workflow: &Workflow, catalogue: &Catalogue) -> Vec<FileReference> {
    let mut out = Vec::new();
    let declared = Declarations::of(workflow, catalogue);
    for (place, node) in workflow.indexed() {
        let Some(signature) = declared.class(place, node) else {
            continue;
        };
        if !signature.may_have(InputKind::File) {
            continue;
        }
        for (name, input) in &node.inputs {
            let Input::Literal(Json::Text(text)) = input else {
                continue;
            };
            if signature.input_kind(node, name) != Some(InputKind::File) {
                continue;
            }
            if let Ok((file, directory)) = annotated_name(text) {
                let (name, input) = (file.to_owned(), name.to_string());
                out.push(FileReference { node: node.id.detached(), input, name, directory });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_selects_a_directory_only_when_exact() {
        assert_eq!(annotated_name("a.png"), Ok(("a.png", Directory::Input)));
        assert_eq!(annotated_name("t/a.png [output]"), Ok(("t/a.png", Directory::Output)));
        assert_eq!(annotated_name("a.png [temp]"), Ok(("a.png", Directory::Temp)));
        assert_eq!(annotated_name("a.png [other]"), Ok(("a.png [other]", Directory::Input)));
        for text in ["x.png[temp]", "x.pngZ[input]", "x [output] [temp]", "x[input] [output]", "x [temp] "] {
            assert_eq!(annotated_name(text), Err(NameFault::Suffix), "{text}");
        }
    }

    #[test]
    fn only_plain_names_are_assumed_to_be_uploads() {
        let policy = Policy::from_toml(
            "name = \"x\"\n[files]\nassumed_upload = { width = 64, height = 32, frames = 2, seconds = 3 }\n",
        )
        .unwrap();
        let facts = FileFacts::assumed(&policy);
        for name in ["a.png", "clipspace/clipspace-mask-1.5.png", "Ünï (1).png", "pasted/image 2.png"] {
            let fact = facts.get(name, Directory::Input).unwrap();
            assert_eq!((fact.canonical_name.as_str(), fact.width, fact.frames), (name, 64, 1));
        }
        for name in ["a.mp4", "a.webp", "a.GIF", "a"] {
            assert_eq!(facts.get(name, Directory::Input).unwrap().frames, 2, "{name}");
        }
        assert_eq!(facts.get("a.png", Directory::Output).unwrap().canonical_name, "a.png [output]");
        for name in [
            "/etc/passwd",
            "../a.png",
            "a/../b",
            "a/./b",
            ".hidden",
            "a//b",
            "C:a.png",
            "a\\b.png",
            "https://x.org/a.png",
            "t/q7/a.png",
            "~/a.png",
            "a.png ",
            "a?.png",
            "",
            "a/",
            "con.",
        ] {
            assert!(facts.get(name, Directory::Input).is_none(), "{name}");
        }
        assert!(FileFacts::none().get("a.png", Directory::Input).is_none());
    }

    #[test]
    fn an_assumed_upload_of_a_policy_that_says_nothing_is_as_in_the_documents_that_ship() {
        let facts = FileFacts::assumed(&Policy::from_toml("name = \"x\"\n").unwrap());
        assert_eq!(facts.get("a.png", Directory::Input).unwrap().width, 1024);
        assert_eq!(Policy::builtin("generous").unwrap().assumed_upload(), Some(ASSUMED_UPLOAD));
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for text in ["../x", "a/../x", "/etc/x", "\\x", "a\\..\\x", "C:x", "a\0b", "", "a\n", ".. /x", " [output]"] {
            assert_eq!(annotated_name(text), Err(NameFault::Path), "{text:?}");
        }
        for text in ["a..b.png", "..a", "a/b/c.png", "SDXL\\x.safetensors"] {
            assert!(annotated_name(text).is_ok(), "{text}");
        }
    }
}
