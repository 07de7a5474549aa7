//! Regular expressions of a caller's: Python's engine goes back over its choices while it holds the interpreter's lock, so one bad pattern stops every request of a ComfyUI (facts K8).
//!
//! A pattern is a literal of a plain subset, and the steps that the engine can take on a text as long as this one may be are bounded. The bound counts every way of matching that there
//! is: `a*b` tries each length of the run at each place, the square of the length; `(a+)+b` each way to cut the run into parts, which no bound holds.

use super::{Subject, at};
use crate::bounds::input_text_bytes;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::node::Node;

/// Classes of ComfyUI 0.8.0 that run a pattern of the caller's (`comfy_extras/nodes_string.py`).
const CLASSES: [&str; 3] = ["RegexMatch", "RegexExtract", "RegexReplace"];
/// Steps of Python's engine on one text; it takes about 10 ns for one, so a request waits a second at most.
const STEPS_MAX: f64 = 1e8;
/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 1000;
/// Groups within groups; Python's own compiler recurses on them.
const GROUP_DEPTH_MAX: usize = 16;
/// Repetitions of something that can match in several ways, beyond which the ways are beyond every bound.
const BRANCHING_MAX: u32 = 64;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    for (_, node, class) in subject.known() {
        if class.is_core() && CLASSES.contains(&class.name()) {
            out.extend(pattern_fault(subject, node));
        }
    }
}

fn pattern_fault(subject: &Subject<'_>, node: &Node) -> Option<Violation> {
    let refused = |input: &str, message: String| Some(at(node, input, "regex_refused", ViolationKind::Denied, message));
    // An absent one is for the inputs rule.
    node.input("regex_pattern")?;
    let Some(pattern) = node.text("regex_pattern") else {
        return refused("regex_pattern", "a pattern must be given as a literal, not by a link".to_owned());
    };
    let Some(bytes) = input_text_bytes(&subject.facts, node, "string") else {
        return refused(
            "string",
            "the length of the text can't be bounded, and a pattern may take its square".to_owned(),
        );
    };
    match steps(pattern, bytes) {
        Err(fault) => refused(
            "regex_pattern",
            format!("{fault}; plain patterns are taken: characters, classes, groups, alternatives and repeats"),
        ),
        Ok(steps) if steps <= STEPS_MAX => None,
        Ok(steps) => {
            let message =
                format!("may take {steps:.0} steps on a text of {bytes} bytes, and {STEPS_MAX:.0} are allowed");
            let violation = at(node, "regex_pattern", "regex_refused", ViolationKind::Denied, message);
            Some(Violation { bound: Some(format!("{steps:.0}")), limit: Some(format!("{STEPS_MAX:.0}")), ..violation })
        }
    }
}

/// Why a pattern is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternFault {
    /// Longer than [`PATTERN_BYTES_MAX`].
    #[error("a pattern has at most {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// Groups within groups.
    #[error("groups nest at most {GROUP_DEPTH_MAX} deep")]
    TooDeep,
    /// `\1`: what it matches depends on what was matched.
    #[error("back references are not taken")]
    BackReference,
    /// `(?=`, `(?<!`, `(?i)`, `(?>` and the like.
    #[error("of the groups that begin with `(?` only `(?:` and `(?P<name>` are taken")]
    SpecialGroup,
    /// Python would refuse it.
    #[error("not a regular expression")]
    Malformed,
}

/// The ways in which a part of a pattern can match from one place on, and the steps to try them all.
#[derive(Debug, Clone, Copy)]
struct Work {
    ways: f64,
    steps: f64,
}

/// What matches nothing, in one way.
const NOTHING: Work = Work { ways: 1.0, steps: 0.0 };
/// One character or anchor.
const ONE: Work = Work { ways: 1.0, steps: 1.0 };

impl Work {
    /// `self` and then `next`, which is tried once for each way.
    fn then(self, next: Self) -> Self {
        // Ways without end of doing nothing are nothing.
        let steps = if next.steps > 0.0 { self.ways * next.steps } else { 0.0 };
        Self { ways: self.ways * next.ways, steps: self.steps + steps }
    }

    /// `self` or `other`.
    fn or(self, other: Self) -> Self {
        Self { ways: self.ways + other.ways, steps: self.steps + other.steps + 1.0 }
    }

    /// `least` to `most` times; `most` is no more than the text can hold.
    fn repeated(self, least: f64, most: f64) -> Self {
        let most = most.max(least);
        if self.ways <= 1.0 {
            return Self { ways: most - least + 1.0, steps: most * (self.steps + 1.0) };
        }
        if most > f64::from(BRANCHING_MAX) {
            return Self { ways: f64::INFINITY, steps: f64::INFINITY };
        }
        let (mut total, mut each) = (Self { ways: 0.0, steps: 1.0 }, 1.0);
        for round in 0..=BRANCHING_MAX {
            let round = f64::from(round);
            if round > most {
                break;
            }
            total.ways += if round >= least { each } else { 0.0 };
            total.steps += if round < most { each * (self.steps + 1.0) } else { 0.0 };
            each *= self.ways;
        }
        Self { ways: total.ways.max(1.0), ..total }
    }
}

/// An open group: the alternatives before, the sequence so far, and its last part, which a repeat may follow.
struct Group {
    alternatives: Option<Work>,
    sequence: Work,
    last: Option<Work>,
    /// The last part is a repeat already.
    repeated: bool,
}

impl Group {
    fn new() -> Self {
        Self { alternatives: None, sequence: NOTHING, last: None, repeated: false }
    }

    fn push(&mut self, part: Work) {
        self.settle();
        self.last = Some(part);
    }

    fn settle(&mut self) {
        if let Some(last) = self.last.take() {
            self.sequence = self.sequence.then(last);
        }
        self.repeated = false;
    }

    fn alternative(&mut self) {
        self.settle();
        let before = self.alternatives.take();
        self.alternatives = Some(before.map_or(self.sequence, |before| before.or(self.sequence)));
        self.sequence = NOTHING;
    }

    fn whole(mut self) -> Work {
        self.settle();
        self.alternatives.map_or(self.sequence, |before| before.or(self.sequence))
    }
}

/// The steps that Python's engine takes at most to look for `pattern` everywhere in a text of `bytes` bytes; infinite where they grow without bound.
///
/// # Errors
/// The pattern is not of the subset.
pub(crate) fn steps(pattern: &str, bytes: i128) -> Result<f64, PatternFault> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(PatternFault::TooLong);
    }
    #[expect(clippy::cast_precision_loss, reason = "texts are far below 2^53 bytes")]
    let length = bytes.max(0) as f64 + 1.0;
    let characters: Vec<char> = pattern.chars().collect();
    let mut open = vec![Group::new()];
    let mut at = 0;
    while let Some(character) = characters.get(at) {
        let rest = characters.get(at + 1..).unwrap_or_default();
        let group = open.last_mut().ok_or(PatternFault::Malformed)?;
        at += 1;
        match character {
            '\\' => {
                match rest.first() {
                    None => return Err(PatternFault::Malformed),
                    Some('1'..='9') => return Err(PatternFault::BackReference),
                    Some(_) => {}
                }
                group.push(ONE);
                at += 1;
            }
            '[' => {
                let length = class_length(rest)?;
                at += length;
                group.push(Work { steps: class_steps(rest.get(..length).unwrap_or_default()), ..ONE });
            }
            '(' => {
                at += group_head_length(rest)?;
                if open.len() > GROUP_DEPTH_MAX {
                    return Err(PatternFault::TooDeep);
                }
                open.push(Group::new());
            }
            ')' => {
                let inner = open.pop().ok_or(PatternFault::Malformed)?.whole();
                open.last_mut().ok_or(PatternFault::Malformed)?.push(inner);
            }
            '|' => group.alternative(),
            '*' => at += repeat(group, rest, (0.0, length))?,
            '+' => at += repeat(group, rest, (1.0, length))?,
            '?' => at += repeat(group, rest, (0.0, 1.0))?,
            '{' => match counted(rest) {
                Some((taken, least, most)) => {
                    let bounds = (least.min(length), most.unwrap_or(length).min(length));
                    at += taken + repeat(group, rest.get(taken..).unwrap_or_default(), bounds)?;
                }
                // Python takes it for the character.
                None => group.push(ONE),
            },
            _ => group.push(ONE),
        }
    }
    let whole = open.pop().ok_or(PatternFault::Malformed)?;
    if !open.is_empty() {
        return Err(PatternFault::Malformed);
    }
    Ok(length * (whole.whole().steps + 1.0))
}

/// Repeats the last part of `group`. The length of what follows the repeat: `?` makes it lazy.
fn repeat(group: &mut Group, rest: &[char], (least, most): (f64, f64)) -> Result<usize, PatternFault> {
    if group.repeated {
        return Err(PatternFault::Malformed);
    }
    let last = group.last.take().ok_or(PatternFault::Malformed)?;
    group.last = Some(last.repeated(least, most));
    group.repeated = true;
    Ok(usize::from(rest.first() == Some(&'?')))
}

/// `m}`, `m,}`, `,n}` or `m,n}`: its length and both counts. A count without end has no most.
fn counted(rest: &[char]) -> Option<(usize, f64, Option<f64>)> {
    let end = rest.iter().position(|character| *character == '}')?;
    let inside: String = rest.get(..end)?.iter().collect();
    let number = |text: &str| -> Option<f64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse().ok() } else { None }
    };
    let (least, most) = match inside.split_once(',') {
        None => (number(&inside)?, Some(number(&inside)?)),
        // `{,}` is any number of times.
        Some(("", "")) => (0.0, None),
        Some(("", most)) => (0.0, Some(number(most)?)),
        Some((least, "")) => (number(least)?, None),
        Some((least, most)) => (number(least)?, Some(number(most)?)),
    };
    Some((end + 1, least, most))
}

/// The length of a class after its `[`, with its `]`.
fn class_length(rest: &[char]) -> Result<usize, PatternFault> {
    let mut at = usize::from(rest.first() == Some(&'^'));
    // A `]` that comes first is a character of the class.
    at += usize::from(rest.get(at) == Some(&']'));
    loop {
        match rest.get(at) {
            None => return Err(PatternFault::Malformed),
            Some(']') => return Ok(at + 1),
            Some('\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// Steps to ask a class about one character. Python finds members of the basic plane in a table and tries those beyond it one by one (`re._compiler._optimize_charset`), which takes twice as long
/// in any case of letters. `\U0001F600` and `\N{GRINNING FACE}` are such members too.
fn class_steps(class: &[char]) -> f64 {
    let mut beyond: u32 = 0;
    let mut escaped = false;
    for character in class {
        if *character > '\u{ffff}' || escaped && matches!(character, 'U' | 'N') {
            beyond = beyond.saturating_add(1);
        }
        escaped = *character == '\\' && !escaped;
    }
    1.0 + 2.0 * f64::from(beyond)
}

/// The length of what follows a `(` before the group's content.
fn group_head_length(rest: &[char]) -> Result<usize, PatternFault> {
    match rest {
        ['?', ':', ..] => Ok(2),
        ['?', 'P', '<', name @ ..] => {
            let end = name.iter().position(|character| *character == '>').ok_or(PatternFault::Malformed)?;
            Ok(end + 4)
        }
        ['?', ..] => Err(PatternFault::SpecialGroup),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pattern: &str, bytes: i128) -> bool {
        steps(pattern, bytes).unwrap() <= STEPS_MAX
    }

    #[test]
    fn plain_patterns_are_linear_and_one_repeat_is_a_square() {
        for pattern in ["cat", "^a.c$", r"\bword\b", "[^]a-z\\]]x", "(a|b)c", "(?P<name>x)", "a{3}", "{x}", "é中"] {
            assert!(taken(pattern, 131_072), "{pattern}: {:?}", steps(pattern, 131_072));
        }
        for pattern in [r"\s+", "a*b", "a+?b", "(?:ab)*", "[a-z]+", "a{2,}", "a{,}"] {
            assert!(taken(pattern, 4096), "{pattern}: {:?}", steps(pattern, 4096));
            assert!(!taken(pattern, 131_072), "{pattern}");
        }
        assert!(taken("<(.*?)>(.*?)<", 300));
        assert!(!taken("<(.*?)>(.*?)<", 1000));
    }

    #[test]
    fn members_of_a_class_beyond_the_basic_plane_are_tried_one_by_one() {
        let class = |count: u32| -> String { (0..count).map(|n| char::from_u32(0x1_F300 + n).unwrap()).collect() };
        let many = format!("[^<{}]*b", class(240));
        assert!(taken(&many, 400) && !taken(&many, 500) && !taken(&many, 5700), "{:?}", steps(&many, 400));
        // As many in the basic plane cost nothing more, and so does what is matched once.
        assert!(taken(&format!("[^<{}]*b", "\u{4e2d}".repeat(240)), 5700));
        assert!(taken(&format!("[^<{}]b", class(240)), 100_000));
        for (class, wanted) in [
            ("[a-z]", 1.0),
            ("[\u{ffff}]", 1.0),
            ("[\u{10000}]", 3.0),
            (r"[\U0001F600\U0001F601]", 5.0),
            (r"[\N{GRINNING FACE}]", 3.0),
            (r"[\\UN]", 1.0),
            ("[\\\u{1f600}]", 3.0),
        ] {
            // One place for an empty text, one step to begin with.
            assert_eq!(steps(class, 0), Ok(wanted + 1.0), "{class}");
        }
    }

    #[test]
    fn ways_that_grow_without_bound_are_not_taken() {
        for pattern in
            ["(a+)+$", "(a|a)*b", "(a*)*", "((a?)*)*b", "(a|b|ab)*c", "(.*)*", "(?:a?){64}a{64}", "(a{1,9}){1,9}b"]
        {
            assert!(!taken(pattern, 5000), "{pattern}: {:?}", steps(pattern, 5000));
        }
        assert!(taken("(?:a?){16}a{16}", 20));
    }

    #[test]
    fn what_is_outside_the_subset_is_named() {
        for (pattern, fault) in [
            (r"(a)\1", PatternFault::BackReference),
            ("(?=a)", PatternFault::SpecialGroup),
            ("(?<!a)b", PatternFault::SpecialGroup),
            ("(?i)a", PatternFault::SpecialGroup),
            ("(?>a)", PatternFault::SpecialGroup),
            ("(?P=name)", PatternFault::SpecialGroup),
            ("(a", PatternFault::Malformed),
            ("a)", PatternFault::Malformed),
            ("*a", PatternFault::Malformed),
            ("a**", PatternFault::Malformed),
            ("a*+", PatternFault::Malformed),
            ("[a", PatternFault::Malformed),
            ("a\\", PatternFault::Malformed),
            ("|*", PatternFault::Malformed),
        ] {
            assert_eq!(steps(pattern, 10).map(|_| ()), Err(fault), "{pattern}");
        }
        assert!(steps(&"a".repeat(PATTERN_BYTES_MAX), 1).is_ok());
        assert_eq!(steps(&"a".repeat(PATTERN_BYTES_MAX + 1), 1).map(|_| ()), Err(PatternFault::TooLong));
        let nested = |depth: usize| steps(&format!("{}a{}", "(".repeat(depth), ")".repeat(depth)), 1).map(|_| ());
        assert_eq!(nested(GROUP_DEPTH_MAX), Ok(()));
        assert_eq!(nested(GROUP_DEPTH_MAX + 1), Err(PatternFault::TooDeep));
    }

    #[test]
    fn no_step_count_is_no_number() {
        for pattern in ["(a{0}){0}", "()*", "(|)*", "(a*){0}", "(a|b){0,0}", "a{9999999999999999999999}"] {
            assert!(!steps(pattern, 1000).unwrap().is_nan(), "{pattern}");
        }
    }
}
