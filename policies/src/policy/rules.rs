//! The rules of a document about models, texts, files, networks and paid nodes, as they are asked.

use regex::RegexSet;

use crate::patterns::Patterns;

/// Who pays for the nodes that call a service of comfy.org.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PaidNodes {
    /// Nobody: they are refused, whatever the lists of classes say.
    #[default]
    Deny,
    /// The gateway, with a credential of its own.
    Gateway,
    /// The caller, with the credential that comes with the submission.
    Caller,
}

impl PaidNodes {
    /// Every choice, by the name that documents use.
    pub const NAMES: [(&'static str, Self); 3] =
        [("deny", Self::Deny), ("gateway", Self::Gateway), ("caller", Self::Caller)];
}

/// Whether the document's own rules refuse or only tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// What breaks a rule is refused.
    #[default]
    Enforce,
    /// What breaks a rule of classes, caps, models or texts runs all the same, and the verdict tells what would have been refused. Every other rule holds.
    Shadow,
}

impl Mode {
    /// Every mode, by the name that documents use.
    pub const NAMES: [(&'static str, Self); 2] = [("enforce", Self::Enforce), ("shadow", Self::Shadow)];
}

/// Names that are allowed; a denial wins.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    pub(super) allow: Patterns,
    pub(super) deny: Patterns,
}

impl Allowance {
    pub(super) fn allows(&self, name: &str) -> bool {
        self.allow.matches(name) && !self.denies(name)
    }

    pub(super) fn denies(&self, name: &str) -> bool {
        self.deny.matches(name)
    }

    /// Whether the class's or the input's own name is allowed: `input` or `Class.input`.
    fn allows_input(&self, class: &str, input: &str) -> bool {
        let full = format!("{class}.{input}");
        let denied = self.denies(input) || self.denies(&full);
        !denied && (self.allow.matches(input) || self.allow.matches(&full))
    }
}

/// Which models an input may name.
#[derive(Debug, Clone)]
pub(crate) struct ModelRule {
    /// Of `input` or `Class.input`.
    pub(super) input: Patterns,
    /// Whether it speaks of every input alike: then it is asked about those that are known to name models, and no others.
    pub(super) general: bool,
    /// `None`: this rule allows nothing by itself, and asks for nothing.
    pub(super) allow: Option<Patterns>,
    /// In lower case.
    pub(super) deny: Patterns,
}

impl ModelRule {
    fn is_about(&self, class: &str, input: &str, names_models: bool) -> bool {
        if self.general {
            return names_models;
        }
        self.input.matches(input) || self.input.matches(&format!("{class}.{input}"))
    }
}

/// Which list stands against a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelRefusal {
    /// A pattern of `deny` names it.
    Denied,
    /// There are rules that allow, and none allows it.
    NotAllowed,
}

/// Whether any rule is about this input.
pub(super) fn speaks_of(rules: &[ModelRule], class: &str, input: &str, names_models: bool) -> bool {
    rules.iter().any(|rule| rule.is_about(class, input, names_models))
}

/// What stands against the model `name` at an input. Folders are compared with `/`, however the caller writes them. A denial holds in any case of letters, since some file systems
/// do not tell them apart; an allowance only in its own.
pub(super) fn model_refusal(
    rules: &[ModelRule],
    class: &str,
    input: &str,
    names_models: bool,
    name: &str,
) -> Option<ModelRefusal> {
    let name = name.replace('\\', "/");
    let lower = name.to_lowercase();
    let (mut asked, mut allowed) = (false, false);
    for rule in rules.iter().filter(|rule| rule.is_about(class, input, names_models)) {
        if rule.deny.matches(&lower) {
            return Some(ModelRefusal::Denied);
        }
        if let Some(allow) = &rule.allow {
            asked = true;
            allowed |= allow.matches(&name);
        }
    }
    (asked && !allowed).then_some(ModelRefusal::NotAllowed)
}

/// Rules about what prompts say.
#[derive(Debug, Clone, Default)]
pub(crate) struct TextRules {
    /// Bytes of one text.
    pub(crate) bytes_max: Option<usize>,
    /// Plain words and regular expressions, as one automaton.
    pub(super) deny: Option<RegexSet>,
    /// As written, in the order of the automaton.
    pub(super) patterns: Vec<String>,
    /// `None`: all are allowed.
    pub(super) embeddings: Option<Patterns>,
}

impl TextRules {
    /// Whether any rule looks into texts.
    pub(crate) fn asks(&self) -> bool {
        self.bytes_max.is_some() || self.deny.is_some() || self.embeddings.is_some()
    }

    /// The first pattern that the text matches, as the document writes it.
    pub(crate) fn denied_by(&self, text: &str) -> Option<&str> {
        let place = self.deny.as_ref()?.matches(text).into_iter().next()?;
        self.patterns.get(place).map(String::as_str)
    }

    /// The first embedding that the text asks for and that is not allowed.
    pub(crate) fn refused_embedding<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.embeddings.as_ref()?;
        embeddings(text).find(|name| !self.allows_embedding(name))
    }

    /// Whether a text may ask for it.
    pub(super) fn allows_embedding(&self, name: &str) -> bool {
        let Some(allowed) = &self.embeddings else { return true };
        name.len() <= EMBEDDING_BYTES_MAX && allowed.matches(&name.replace('\\', "/"))
    }
}

/// Marks an embedding in a prompt (ComfyUI 0.8.0, `comfy/sd1_clip.py`).
const EMBEDDING: &str = "embedding:";
/// Bytes of an embedding's name. Names may lie in each other (`embedding:embedding:…`), and all of them together would take the square of the text.
const EMBEDDING_BYTES_MAX: usize = 512;

/// The names of embeddings in a prompt: what follows each mark, up to a space or a parenthesis, without commas at its ends. Within parentheses a weight may follow a colon. One that is too long is cut, and stays
/// too long.
fn embeddings(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(EMBEDDING).filter_map(|(at, mark)| {
        let rest = text.get(at + mark.len()..)?.trim_start();
        // The first place behind the limit where no character is cut.
        let cut = (1..=4).find_map(|more| rest.get(..EMBEDDING_BYTES_MAX + more));
        let read = cut.unwrap_or(rest);
        let end = read.find(|c: char| c.is_whitespace() || c == '(' || c == ')');
        if end.is_none() && cut.is_some() {
            return cut;
        }
        let name = rest.get(..end.unwrap_or(rest.len()))?;
        let weighted = end.and_then(|end| rest.get(end..)).is_some_and(|rest| rest.starts_with(')'));
        let name = match name.rsplit_once(':') {
            Some((name, weight)) if weighted && weight.parse::<f64>().is_ok() => name,
            _ => name,
        };
        let name = name.trim_matches(',');
        (!name.is_empty()).then_some(name)
    })
}

/// What stands for an upload that nobody has measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssumedUpload {
    /// Pixels, of either side when the file may be turned.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames of a film or of an animated picture; a name that ends like a still picture's has one.
    pub frames: u32,
    /// Seconds of sound, rounded up.
    pub seconds: u32,
}

/// Rules about files.
#[derive(Debug, Clone)]
pub(crate) struct FileRules {
    pub(super) assumed: Option<AssumedUpload>,
    /// By `input` or `Class.input`.
    pub(super) inputs: Allowance,
    /// `None`: all three.
    pub(super) directories: Option<Vec<crate::files::Directory>>,
}

impl FileRules {
    pub(super) fn assumed(&self) -> Option<AssumedUpload> {
        self.assumed
    }

    /// Whether this input may name a file.
    pub(crate) fn allows_input(&self, class: &str, input: &str) -> bool {
        self.inputs.allows_input(class, input)
    }

    /// Whether files of this directory may be named.
    pub(crate) fn allows_directory(&self, directory: crate::files::Directory) -> bool {
        self.directories.as_ref().is_none_or(|allowed| allowed.contains(&directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&str> {
        embeddings(text).collect()
    }

    #[test]
    fn embeddings_are_found_where_comfyui_finds_them() {
        assert_eq!(names("a cat, embedding:easy, (embedding:sub/bad:1.2) and"), ["easy", "sub/bad"]);
        assert_eq!(names("embedding:\nfar embedding:a:b embedding:"), ["far", "a:b"]);
        assert_eq!(names("xembedding:y(z)"), ["y"]);
        assert!(names("an embedding of text").is_empty());
    }

    #[test]
    fn an_embedding_with_a_name_that_is_too_long_is_refused_whatever_is_allowed() {
        let all = TextRules { embeddings: Some(Patterns::all()), ..TextRules::default() };
        let refused = |name: &str| all.refused_embedding(&format!("a cat, embedding:{name} and")).map(str::len);
        assert_eq!(refused(&"a".repeat(EMBEDDING_BYTES_MAX)), None);
        assert_eq!(refused(&"a".repeat(EMBEDDING_BYTES_MAX + 1)), Some(EMBEDDING_BYTES_MAX + 1));
        // What would be taken away at its ends, and characters of several bytes.
        assert!(refused(&",".repeat(100_000)).is_some());
        assert!(refused(&"\u{e9}".repeat(100_000)).is_some());
        assert_eq!(refused(&"embedding:".repeat(100_000)), Some(EMBEDDING_BYTES_MAX + 1));
    }
}
