//! Save prefixes: what the caller asked for, and what ComfyUI is given.

/// Tokens that ComfyUI 0.8.0 replaces by numbers (`folder_paths.py` `get_save_image_path`). Newer releases replace `%Node.input%` by another node's text, so any other `%` is refused.
const TOKENS: [&str; 8] = ["%width%", "%height%", "%year%", "%month%", "%day%", "%hour%", "%minute%", "%second%"];
/// Bytes of a whole prefix; ComfyUI appends `_00001_.png`, and file systems take 255 bytes a segment.
const PREFIX_BYTES_MAX: usize = 400;
/// Characters of one segment.
const SEGMENT_CHARS_MAX: usize = 120;
/// Folders in a prefix.
const FOLDERS_MAX: usize = 8;
/// The name of files whose prefix names none.
const FALLBACK_NAME: &str = "ComfyUI";

/// A save prefix in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavePrefix {
    /// `""`, `a` or `a/b`, as asked for but without empty segments and `.`.
    pub(crate) shown_folder: String,
    /// Never empty.
    pub(crate) shown_name: String,
    /// The same with every character outside the safe set replaced.
    pub(crate) folder: String,
    /// The same with every character outside the safe set replaced.
    pub(crate) name: String,
}

/// Why a save prefix is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrefixFault {
    Parent,
    Absolute,
    Backslash,
    Control,
    Substitution,
    TooLong,
}

impl SavePrefix {
    /// Reads `a/b/name`. Segments that are empty or `.` are left out, a missing name becomes `ComfyUI`. The folder of an earlier attempt, as a saved picture carries it, goes first: whose
    /// it was does not matter, since every file is saved below the folder of the attempt that saves it.
    pub(crate) fn read(text: &str) -> Result<Self, PrefixFault> {
        if text.chars().any(char::is_control) {
            return Err(PrefixFault::Control);
        }
        if text.contains('\\') {
            return Err(PrefixFault::Backslash);
        }
        let drive = matches!(text.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
        if text.starts_with('/') || drive {
            return Err(PrefixFault::Absolute);
        }
        if text.split('/').any(|segment| segment.trim() == "..") {
            return Err(PrefixFault::Parent);
        }
        // Something has to stand in a token's place, or what is around it would become one.
        let without_tokens = || TOKENS.iter().fold(text.to_owned(), |text, token| text.replace(token, "\0"));
        if text.contains('%') && without_tokens().contains('%') {
            return Err(PrefixFault::Substitution);
        }
        let text = without_attempts(text);
        let (folder, name) = text.rsplit_once('/').unwrap_or(("", text));
        let folders: Vec<&str> = folder.split('/').filter(|segment| is_named(segment)).collect();
        let name = if is_named(name) { name } else { FALLBACK_NAME };
        let too_long = |segment: &&str| segment.chars().count() > SEGMENT_CHARS_MAX;
        if text.len() > PREFIX_BYTES_MAX
            || folders.len() > FOLDERS_MAX
            || folders.iter().any(too_long)
            || too_long(&name)
        {
            return Err(PrefixFault::TooLong);
        }
        let safe_folders: Vec<String> = folders.iter().map(|segment| safe(segment)).collect();
        Ok(Self {
            shown_folder: folders.join("/"),
            shown_name: name.to_owned(),
            folder: safe_folders.join("/"),
            name: safe(name),
        })
    }

    /// The prefix as ComfyUI is given it, below `scope`. One that is below it already stays: rewriting twice equals once.
    pub(crate) fn below(&self, scope: &str) -> String {
        let mut parts = vec![self.folder.as_str(), self.name.as_str()];
        let inside = self.folder == scope || self.folder.strip_prefix(scope).is_some_and(|rest| rest.starts_with('/'));
        if !inside {
            parts.insert(0, scope);
        }
        parts.retain(|part| !part.is_empty());
        parts.join("/")
    }

    /// Folder and name as the caller wrote them, joined.
    pub(crate) fn shown(&self) -> String {
        [self.shown_folder.as_str(), self.shown_name.as_str()]
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join("/")
    }

    /// Folder and name with the safe set only, joined.
    pub(crate) fn replaced(&self) -> String {
        self.below("")
    }
}

/// Characters of `<opaque owner>`: 80 bits in base 32.
const OWNER_CHARS: usize = 16;
/// Characters of a UUID with hyphens.
const UUID_CHARS: usize = 36;

/// What comes after the folders of attempts: `t/<opaque owner>/<job>-<n>/` as often as it stands at the front.
fn without_attempts(text: &str) -> &str {
    let mut rest = text;
    while let Some(inner) = below_attempt(rest) {
        rest = inner;
    }
    rest
}

fn below_attempt(text: &str) -> Option<&str> {
    let (owner, rest) = text.strip_prefix("t/")?.split_once('/')?;
    let (attempt, rest) = rest.split_once('/')?;
    let (job, number) = attempt.split_at_checked(UUID_CHARS)?;
    let number = number.strip_prefix('-')?;
    let base32 = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'2'..=b'7');
    let good = owner.len() == OWNER_CHARS
        && owner.bytes().all(base32)
        && is_uuid(job)
        && (1..=10).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit());
    good.then_some(rest)
}

/// Hexadecimal in lower case with hyphens in their places.
fn is_uuid(text: &str) -> bool {
    text.len() == UUID_CHARS
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Not empty, and not `.`, which ComfyUI's `normpath` would take away.
fn is_named(segment: &str) -> bool {
    !matches!(segment.trim(), "" | ".")
}

/// A segment of `0-9A-Za-z`, space and `_-.()+,=@#%` only: every other character becomes `_`, and so do dots and spaces at its ends (hidden files, names that Windows cuts).
fn safe(segment: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " _-.()+,=@#%".contains(c);
    let mut out: Vec<char> = segment.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    let edge = |c: &char| matches!(c, ' ' | '.');
    if let Some(first) = out.first_mut().filter(|c| edge(c)) {
        *first = '_';
    }
    if let Some(last) = out.last_mut().filter(|c| edge(c)) {
        *last = '_';
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(text: &str) -> String {
        SavePrefix::read(text).unwrap().below("t/x/j-1")
    }

    #[test]
    fn folders_are_kept_below_the_scope() {
        assert_eq!(below("ComfyUI"), "t/x/j-1/ComfyUI");
        assert_eq!(below("a/b/name"), "t/x/j-1/a/b/name");
        assert_eq!(below("video/%year%-%month%/x"), "t/x/j-1/video/%year%-%month%/x");
        assert_eq!(below("t/x/j-1/a/n"), "t/x/j-1/a/n");
        assert_eq!(below("t/x/j-12/n"), "t/x/j-1/t/x/j-12/n");
    }

    const ATTEMPT: &str = "t/abcdefgh23456777/0190a7c4-8f5e-7cc1-b7a3-0123456789ab-1";

    #[test]
    fn the_folder_of_an_earlier_attempt_is_left_out_however_often() {
        assert_eq!(below(&format!("{ATTEMPT}/a/n")), "t/x/j-1/a/n");
        assert_eq!(below(&format!("{ATTEMPT}/{ATTEMPT}/n")), "t/x/j-1/n");
        let prefix = SavePrefix::read(&format!("{ATTEMPT}/a/n")).unwrap();
        assert_eq!((prefix.shown_folder.as_str(), prefix.shown_name.as_str()), ("a", "n"));
        let again = SavePrefix::read(&SavePrefix::read("a/n").unwrap().below(ATTEMPT)).unwrap();
        assert_eq!(again, SavePrefix::read("a/n").unwrap());
    }

    #[test]
    fn a_folder_that_is_nearly_one_of_an_attempt_is_the_callers_own() {
        let near = [
            ATTEMPT.to_uppercase().replacen('T', "t", 1),
            ATTEMPT.replace("-1", ""),
            ATTEMPT.replace("23456777", "2345677"),
            ATTEMPT.replace("23456777", "23456771"),
            ATTEMPT.replace("0190a7c4-", "0190a7c4"),
            ATTEMPT.replacen("t/", "u/", 1),
            format!("{ATTEMPT}x"),
        ];
        for folder in near {
            assert_eq!(below(&format!("{folder}/n")), format!("t/x/j-1/{folder}/n"));
        }
        assert_eq!(below(ATTEMPT), format!("t/x/j-1/{ATTEMPT}"), "a name, and no folder");
    }

    #[test]
    fn lengths_count_without_the_folder_of_an_attempt() {
        let long = format!("{}/{}/{}/{}", "a".repeat(99), "b".repeat(99), "c".repeat(99), "d".repeat(100));
        assert_eq!(long.len(), PREFIX_BYTES_MAX);
        let prefix = SavePrefix::read(&long).unwrap();
        assert_eq!(SavePrefix::read(&prefix.below(ATTEMPT)), Ok(prefix));
        assert_eq!(SavePrefix::read(&format!("{long}e")), Err(PrefixFault::TooLong));
        let deep = SavePrefix::read("1/2/3/4/5/6/7/8/n").unwrap();
        assert_eq!(SavePrefix::read(&deep.below(ATTEMPT)), Ok(deep));
    }

    #[test]
    fn a_name_is_never_empty() {
        for (text, folder) in [("", ""), ("a/", "a"), ("a/.", "a"), (".", ""), ("./", "")] {
            let prefix = SavePrefix::read(text).unwrap();
            assert_eq!((prefix.shown_folder.as_str(), prefix.shown_name.as_str()), (folder, "ComfyUI"), "{text}");
        }
    }

    #[test]
    fn what_leaves_the_folder_or_is_substituted_is_refused() {
        for (text, fault) in [
            ("../x", PrefixFault::Parent),
            ("a/../b", PrefixFault::Parent),
            ("a/..", PrefixFault::Parent),
            ("/abs", PrefixFault::Absolute),
            ("C:x", PrefixFault::Absolute),
            ("a\\b", PrefixFault::Backslash),
            ("a\0", PrefixFault::Control),
            ("%Node.text%", PrefixFault::Substitution),
            ("100%", PrefixFault::Substitution),
            ("%width", PrefixFault::Substitution),
        ] {
            assert_eq!(SavePrefix::read(text), Err(fault), "{text:?}");
        }
        for text in ["a..b/c", "..a", "%width%x%height%"] {
            assert!(SavePrefix::read(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn lengths_and_depths_are_bounded() {
        assert!(SavePrefix::read(&"x".repeat(120)).is_ok());
        assert_eq!(SavePrefix::read(&"x".repeat(121)), Err(PrefixFault::TooLong));
        assert!(SavePrefix::read("1/2/3/4/5/6/7/8/n").is_ok());
        assert_eq!(SavePrefix::read("1/2/3/4/5/6/7/8/9/n"), Err(PrefixFault::TooLong));
    }

    #[test]
    fn characters_outside_the_safe_set_become_underscores_and_stay_so() {
        assert_eq!(below("ü:a/.b c."), "t/x/j-1/__a/_b c_");
        let once = SavePrefix::read("ü:a/.b c.").unwrap().replaced();
        assert_eq!(SavePrefix::read(&once).unwrap().replaced(), once);
    }
}
