//! Where workflows come from on the command line: files, directories and standard input; JSON, or a picture or sound that ComfyUI made.

use super::metadata::{self, Content};
use anyhow::{Context, bail};
use comfygate_policy::{BARE_BEFORE, ParseError, Parsed, bare_pointer};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of one file. Pictures may be large; what counts is a small part of them.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Files below the directories that were named.
const FILES_MAX: usize = 100_000;
/// Folders within folders.
const DEPTH_MAX: usize = 32;
/// What files are looked for in directories.
const EXTENSIONS: [&str; 4] = ["json", "png", "webp", "flac"];
/// The name of standard input.
const STDIN: &str = "-";

/// Something that should be a workflow.
#[derive(Debug)]
pub(super) struct Submission {
    /// Where it is from.
    pub(super) file: String,
    /// The body of a `POST /prompt`, or why there is none.
    body: Result<Vec<u8>, &'static str>,
    /// It is a file that holds the graph alone: what is told of it has its places.
    bare: bool,
}

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoWorkflow {
    /// The engine can't read it.
    #[error("{0}")]
    Malformed(#[from] ParseError),
    /// A picture or sound without a workflow in it.
    #[error("this {0} holds no `prompt`: it was not made by ComfyUI, or its metadata is gone")]
    NoMetadata(&'static str),
}

impl NoWorkflow {
    /// Stable, for machines.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Malformed(error) => error.code(),
            Self::NoMetadata(_) => "no_workflow",
        }
    }

    /// In the form of a violation.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Malformed(error) => error.to_json(),
            Self::NoMetadata(_) => json!({
                "code": self.code(), "node": null, "class": null, "input": null, "pointer": "", "bound": null, "limit": null,
                "because": self.to_string(),
            }),
        }
    }
}

impl Submission {
    /// A bare graph from elsewhere than a file.
    pub(super) fn of_graph(file: String, graph: &Value) -> Self {
        Self { file, body: Ok(json!({ "prompt": graph }).to_string().into_bytes()), bare: false }
    }

    /// A whole submission from elsewhere than a file.
    pub(super) fn of_body(file: String, body: &Value) -> Self {
        Self { file, body: Ok(body.to_string().into_bytes()), bare: false }
    }

    fn of_bytes(file: String, bytes: Vec<u8>) -> Self {
        match metadata::read(&bytes) {
            Content::Other => {
                let bare = is_bare(&bytes);
                Self { file, body: Ok(if bare { wrapped(&bytes) } else { bytes }), bare }
            }
            // Its places are those in the picture's `prompt`.
            Content::Prompt(graph) => {
                Self { file, body: Ok(if is_bare(&graph) { wrapped(&graph) } else { graph }), bare: false }
            }
            Content::Nothing(kind) => Self { file, body: Err(kind), bare: false },
        }
    }

    /// A violation as JSON, with its pointer into the file as it is.
    pub(super) fn placed(&self, mut violation: Value) -> Value {
        if let Some(Value::String(pointer)) = violation.get_mut("pointer").filter(|_| self.bare) {
            *pointer = bare_pointer(pointer).to_owned();
        }
        violation
    }

    /// What it says, as the engine reads it.
    pub(super) fn parsed(&self) -> Result<Parsed, NoWorkflow> {
        match &self.body {
            Ok(body) => {
                let place = |fault: ParseError| if self.bare { fault.of_bare_graph() } else { fault };
                Ok(comfygate_policy::parse(body).map_err(place)?)
            }
            Err(kind) => Err(NoWorkflow::NoMetadata(kind)),
        }
    }
}

/// Whether it is a graph alone, and not a whole submission.
fn is_bare(bytes: &[u8]) -> bool {
    // Only to tell the forms apart: what is no JSON at all is told by the engine's own parser, with line and column.
    let form: Value = serde_json::from_slice(bytes).unwrap_or_default();
    // A page's own file is told as such, whatever it is wrapped in.
    let page = form.get("nodes").is_some_and(Value::is_array);
    !(page || form.get("prompt").is_some_and(|prompt| prompt.get("class_type").is_none()))
}

/// A submission around a bare graph. The bytes of the graph stay as they are, so that what is odd in them is seen.
fn wrapped(graph: &[u8]) -> Vec<u8> {
    [BARE_BEFORE.as_bytes(), graph, b"}"].concat()
}

/// Reads them one after the other, in order: `-` is standard input, a directory stands for what is in it, in the order of names.
///
/// # Errors
/// A path that can't be read, too many files, or what `each` says.
pub(super) fn for_each(
    paths: &[PathBuf],
    mut each: impl FnMut(Submission) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for path in paths {
        if path.as_os_str() == STDIN {
            each(Submission::of_bytes(STDIN.to_owned(), bounded(io::stdin().lock(), STDIN)?))?;
            continue;
        }
        let mut files = Vec::new();
        if path.is_dir() {
            collect(path, &mut files, 0)?;
            // SECURITY: a yes to nothing would be mistaken for a yes to everything.
            if files.is_empty() {
                bail!("no file below `{}` ends in .json, .png, .webp or .flac", super::shown(path));
            }
        } else {
            files.push(path.clone());
        }
        for file in files {
            let name = super::shown(&file);
            let opened = File::open(&file).with_context(|| format!("can't read `{name}`"))?;
            let bytes = bounded(opened, &name)?;
            each(Submission::of_bytes(name, bytes))?;
        }
    }
    Ok(())
}

fn bounded(from: impl Read, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(|| format!("can't read `{name}`"))?;
    if u64::try_from(bytes.len())? > FILE_BYTES_MAX {
        bail!("`{name}` has more than {FILE_BYTES_MAX} bytes");
    }
    Ok(bytes)
}

/// The files below a directory that may hold a workflow; links to folders are not followed.
fn collect(directory: &Path, files: &mut Vec<PathBuf>, depth: usize) -> anyhow::Result<()> {
    let shown = super::shown(directory);
    if depth > DEPTH_MAX {
        bail!("`{shown}` is more than {DEPTH_MAX} folders deep");
    }
    let entries = std::fs::read_dir(directory).with_context(|| format!("can't read `{shown}`"))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().with_context(|| format!("can't read `{shown}`"))?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        let extension = path.extension().and_then(|name| name.to_str()).unwrap_or_default().to_lowercase();
        if kind.is_dir() {
            collect(&path, files, depth + 1)?;
        } else if EXTENSIONS.contains(&extension.as_str()) {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            bail!("more than {FILES_MAX} files below `{shown}`: name a smaller directory");
        }
    }
    Ok(())
}
