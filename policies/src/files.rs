//! Names of files in a workflow, and what the caller of the engine knows about them.

use std::collections::HashMap;

use crate::catalogue::{Catalogue, InputKind};
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
}

/// The files that this caller may name. What is not here does not exist, whether it is somebody else's or nobody's.
#[derive(Debug, Clone, Default)]
pub struct FileFacts(HashMap<(String, Directory), FileFact>);

impl FileFacts {
    /// No files at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a file under the name (without suffix) by which the caller may use it.
    pub fn insert(&mut self, name: impl Into<String>, directory: Directory, fact: FileFact) {
        self.0.insert((name.into(), directory), fact);
    }

    pub(crate) fn get(&self, name: &str, directory: Directory) -> Option<&FileFact> {
        self.0.get(&(name.to_owned(), directory))
    }
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
    let mut segments = name.split(['/', '\\']);
    let drive = matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    segments.any(|segment| segment.trim() == "..")
        || name.starts_with(['/', '\\'])
        || drive
        || name.chars().any(char::is_control)
}

pub(crate) fn file_references(workflow: &Workflow, catalogue: &Catalogue) -> Vec<FileReference> {
    let mut out = Vec::new();
    for node in workflow.nodes() {
        let Some(signature) = catalogue.class(node.class.as_str()) else {
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
    fn names_that_could_leave_their_directory_are_refused() {
        for text in ["../x", "a/../x", "/etc/x", "\\x", "a\\..\\x", "C:x", "a\0b", "", "a\n", ".. /x", " [output]"] {
            assert_eq!(annotated_name(text), Err(NameFault::Path), "{text:?}");
        }
        for text in ["a..b.png", "..a", "a/b/c.png", "SDXL\\x.safetensors"] {
            assert!(annotated_name(text).is_ok(), "{text}");
        }
    }
}
