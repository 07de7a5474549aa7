//! Texts: nodes that make a longer text of others keep within a bound, so that no chain of them fills the memory.

use super::crash::GROWING_TEXTS;
use super::possible_texts::PossibleTexts;
use super::{Subject, of};
use crate::bounds::text_chain;
use crate::verdict::{Violation, ViolationKind};

/// Bytes of a text that nodes put together: eight of the longest that a submission may hold.
pub(crate) const TEXT_BYTES_MAX: i128 = 1024 * 1024;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    if !subject.policy.caps.limits_anything() {
        return;
    }
    // Made only where a bound on lengths is too coarse: texts that are known word for word have one length.
    let mut exact: Option<PossibleTexts<'_>> = None;
    let growing = subject.known().filter(|(_, _, class)| class.is_core() && GROWING_TEXTS.contains(&class.name()));
    for (place, node, _) in growing {
        let bytes = subject.facts.text_bytes(place);
        if bytes.is_some_and(|bytes| bytes <= TEXT_BYTES_MAX) {
            continue;
        }
        let texts = exact.get_or_insert_with(|| PossibleTexts::of(subject));
        let known = texts.bytes_of(place).and_then(|bytes| i128::try_from(bytes).ok());
        match known.or(bytes) {
            Some(bytes) if bytes <= TEXT_BYTES_MAX => {}
            Some(bytes) => {
                let message = format!("may make a text of {bytes} bytes, and {TEXT_BYTES_MAX} are allowed");
                let (bound, limit) = (Some(bytes.to_string()), Some(TEXT_BYTES_MAX.to_string()));
                let chain = text_chain(&subject.facts, node);
                out.push(Violation {
                    bound,
                    limit,
                    chain,
                    ..of(node, "text_exceeded", ViolationKind::Denied, message)
                });
            }
            None if subject.owner_of_unknown() => {}
            None => {
                let message = "the length of its text can't be bounded".to_owned();
                out.push(of(node, "text_unbounded", ViolationKind::Denied, message));
            }
        }
    }
}
