//! A set of patterns as policies write them, matched at the speed of their most common forms.
//!
//! Nearly all patterns are a plain name, `Name*` or `*Name`. [`GlobSet`] would look for each name in all of them at once, by automata that cost more than a name is long; here a
//! plain name is one look into a table, and the other two forms are compared. What else there is goes to [`GlobSet`]. The answer is the same for every name.

use std::collections::HashSet;

use foldhash::fast::RandomState;
use globset::{Glob, GlobSet, GlobSetBuilder};

/// The patterns of one list. `*` stands for any characters, slashes included: they were built with `literal_separator(false)` and `backslash_escape(false)`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patterns {
    everything: bool,
    exact: HashSet<Box<str>, RandomState>,
    beginnings: Vec<Box<str>>,
    endings: Vec<Box<str>>,
    /// None: every pattern has one of the forms above.
    others: Option<GlobSet>,
}

impl Patterns {
    /// These patterns.
    ///
    /// # Errors
    /// Together they are too much for one automaton.
    pub(crate) fn of(globs: impl IntoIterator<Item = Glob>) -> Result<Self, globset::Error> {
        let mut out = Self::default();
        let mut others: Vec<Glob> = Vec::new();
        for glob in globs {
            let text = glob.glob();
            let (front, back) = (text.strip_prefix('*'), text.strip_suffix('*'));
            match (front, back) {
                (Some(""), _) => out.everything = true,
                _ if is_plain(text) => drop(out.exact.insert(text.into())),
                (None, Some(beginning)) if is_plain(beginning) => out.beginnings.push(beginning.into()),
                (Some(ending), None) if is_plain(ending) => out.endings.push(ending.into()),
                _ => others.push(glob),
            }
        }
        if !others.is_empty() {
            let mut builder = GlobSetBuilder::new();
            others.into_iter().for_each(|glob| drop(builder.add(glob)));
            out.others = Some(builder.build()?);
        }
        Ok(out)
    }

    /// Whether some pattern matches the whole name.
    pub(crate) fn is_match(&self, name: &str) -> bool {
        self.everything
            || self.exact.contains(name)
            || self.beginnings.iter().any(|beginning| name.starts_with(&**beginning))
            || self.endings.iter().any(|ending| name.ends_with(&**ending))
            || self.others.as_ref().is_some_and(|others| others.is_match(name))
    }
}

/// Not empty, and no character that means something in a pattern.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(['*', '?', '[', ']', '{', '}', '!', '\\', ','])
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;

    use super::*;

    fn glob(pattern: &str) -> Glob {
        GlobBuilder::new(pattern).literal_separator(false).backslash_escape(false).build().unwrap()
    }

    #[test]
    fn the_answer_is_that_of_the_general_matcher_for_every_pattern_and_name() {
        let patterns = [
            "*", "**", "***", "a", "a*", "*a", "*a*", "a*b", "?", "a?", "?*", "*?", "[ab]", "a[b]*", "{a,b}*",
            "*{a,b}", "**a", "a**", "a/*", "*/a", "a/**", "**/a", "/", "a b", "A", "é*", "*é", "a.b", "*.b", "a.*",
            ".*", "*.", "*.*", "!a", "a\\", "a\\*", "K (x)*", "a-z", "*/b.c", "a,b",
        ];
        let names = [
            "", "a", "b", "ab", "ba", "aa", "a/b", "b/a", "/a", "a/", "/", "a/b/a", "A", "é", "éa", "aé", "a.b", ".b",
            "a.", ".", "a b", "!a", "a\\", "a\\b", "K (x)", "K (x) y", "a\nb", "a-z", "x/b.c", "b.c", "a,b", "*", "a*",
            "?",
        ];
        for pattern in patterns {
            let general = GlobSetBuilder::new().add(glob(pattern)).build().unwrap();
            let own = Patterns::of([glob(pattern)]).unwrap();
            for name in names {
                assert_eq!(own.is_match(name), general.is_match(name), "`{pattern}` and `{name}`");
            }
        }
    }

    #[test]
    fn any_pattern_of_a_set_may_match_and_none_of_an_empty_one() {
        let set = Patterns::of(["a", "b*", "*c", "d?e"].map(glob)).unwrap();
        for (name, matches) in
            [("a", true), ("bx", true), ("xc", true), ("dxe", true), ("x", false), ("ab", false), ("", false)]
        {
            assert_eq!(set.is_match(name), matches, "{name}");
        }
        assert!(!Patterns::default().is_match(""));
    }
}
