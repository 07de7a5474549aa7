//! Lists of glob patterns as documents write them, asked about the names of classes, samplers, models and addresses.
//!
//! `globset` answers for any list at once, but at some hundred instructions a list before it has looked at the name: a policy has a dozen lists, and a workflow dozens of names. Nearly all
//! patterns are names or have `*` as their only wild card, and those are compared here; the rest is left to it.

use std::collections::HashSet;

use foldhash::fast::RandomState;
use globset::{Glob, GlobSet, GlobSetBuilder};

/// A compiled list of patterns, in which `*` stands for any characters, `/` too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patterns {
    /// `*` is among them.
    all: bool,
    names: HashSet<Box<str>, RandomState>,
    starred: Vec<Starred>,
    /// Those with another wild card than `*`; none if there is no such.
    others: Option<GlobSet>,
}

/// A pattern with one `*` at least and no other wild card: what stands before the first, between two, and after the last.
#[derive(Debug, Clone)]
struct Starred {
    start: Box<str>,
    between: Vec<Box<str>>,
    end: Box<str>,
}

impl Patterns {
    /// Compiles a list.
    ///
    /// # Errors
    /// All together are too large for `globset`.
    pub(crate) fn of(globs: impl IntoIterator<Item = Glob>) -> Result<Self, globset::Error> {
        let mut out = Self::default();
        let (mut others, mut count) = (GlobSetBuilder::new(), 0);
        for glob in globs {
            let text = glob.glob();
            // `**` means something else than two `*` where slashes stand beside it.
            if text.contains(['?', '[', ']', '{', '}']) || text.contains("**") {
                others.add(glob);
                count += 1;
            } else if text == "*" {
                out.all = true;
            } else if let Some(starred) = Starred::of(text) {
                out.starred.push(starred);
            } else {
                out.names.insert(text.into());
            }
        }
        if count > 0 {
            out.others = Some(others.build()?);
        }
        Ok(out)
    }

    /// The list that matches every name.
    pub(crate) fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Whether one of them matches the whole of `name`.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.all
            || (!self.names.is_empty() && self.names.contains(name))
            || self.starred.iter().any(|pattern| pattern.matches(name))
            || self.others.as_ref().is_some_and(|others| others.is_match(name))
    }
}

impl Starred {
    fn of(text: &str) -> Option<Self> {
        let (start, rest) = text.split_once('*')?;
        let mut between: Vec<Box<str>> = rest.split('*').map(Box::from).collect();
        let end = between.pop()?;
        Some(Self { start: start.into(), between, end })
    }

    fn matches(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let Some(rest) = name.strip_prefix(self.start.as_bytes()) else { return false };
        let Some(mut rest) = rest.strip_suffix(self.end.as_bytes()) else { return false };
        // The first place of each leaves most for those after it.
        self.between.iter().all(|part| match after(rest, part.as_bytes()) {
            Some(left) => {
                rest = left;
                true
            }
            None => false,
        })
    }
}

/// What follows the first `part` in `text`. Names have a few dozen bytes, for which nothing is prepared.
fn after<'t>(text: &'t [u8], part: &[u8]) -> Option<&'t [u8]> {
    let Some(first) = part.first() else { return Some(text) };
    let starts = text.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts.filter_map(|(at, _)| text.get(at..)?.strip_prefix(part)).next()
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;

    use super::*;

    fn glob(pattern: &str) -> Glob {
        GlobBuilder::new(pattern).literal_separator(false).backslash_escape(false).build().unwrap()
    }

    #[test]
    fn every_pattern_matches_what_globset_says() {
        let patterns = [
            "*",
            "KSampler",
            "KSampler*",
            "*Save",
            "*Dataset*",
            "Save*DataSet*",
            "Empty*Latent*",
            "a*a",
            "a*b*a",
            "*a*a*",
            "*ab*b",
            "?Sampler",
            "[KL]*",
            "{a,b}*",
            "a**b",
            "*.pt",
            "a/*",
            "a\\b*",
            "ä*ö",
            "**",
            "x,y*",
        ];
        let names = [
            "",
            "a",
            "aa",
            "aba",
            "ab",
            "abb",
            "abab",
            "KSampler",
            "KSamplerAdvanced",
            "LSampler",
            "ModelSave",
            "Saves",
            "SaveImageDataSetToFolder",
            "SaveDataSe",
            "ADatasetB",
            "EmptyLatentImage",
            "EmptySD3LatentImage",
            "EmptyLaten",
            "a/b",
            "a/b/c.pt",
            ".pt",
            "b/.pt",
            "a\\b",
            "a\\bc",
            "äö",
            "ä/ö",
            "äxö\nö",
            "x,yz",
            "a\nb",
            "*",
            "**",
        ];
        for pattern in patterns {
            let (ours, theirs) = (Patterns::of([glob(pattern)]).unwrap(), glob(pattern).compile_matcher());
            for name in names {
                assert_eq!(ours.matches(name), theirs.is_match(name), "`{pattern}` and `{name}`");
            }
        }
        let all = Patterns::of(patterns.into_iter().skip(1).map(glob)).unwrap();
        for name in names {
            let any = patterns.iter().skip(1).any(|pattern| glob(pattern).compile_matcher().is_match(name));
            assert_eq!(all.matches(name), any, "`{name}`");
        }
    }

    #[test]
    fn an_empty_list_matches_nothing_and_the_list_of_all_everything() {
        for name in ["", "a", "*"] {
            assert!(!Patterns::default().matches(name));
            assert!(Patterns::all().matches(name));
        }
    }

    /// Generated from a seed: short patterns and names of few letters meet often.
    #[test]
    fn generated_patterns_match_what_globset_says() {
        let mut seed: u64 = 7;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut matched = 0;
        for _ in 0..3000 {
            let mut text = |letters: &[char]| -> String {
                (0..next(7)).map(|_| letters[usize::try_from(next(letters.len() as u64)).unwrap()]).collect()
            };
            let (pattern, name) = (text(&['a', 'b', '*']), text(&['a', 'b']));
            let wanted = glob(&pattern).compile_matcher().is_match(&name);
            assert_eq!(Patterns::of([glob(&pattern)]).unwrap().matches(&name), wanted, "`{pattern}` and `{name}`");
            matched += usize::from(wanted);
        }
        assert!(matched > 100, "{matched}");
    }
}
