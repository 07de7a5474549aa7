//! Texts: nodes that make a longer text of others keep within a bound, so that no chain of them fills the memory.

use super::crash::{is_growing, longest_text};
use super::{Subject, of};
use crate::bounds::text_chain;
use crate::verdict::{Violation, ViolationKind};

/// Bytes of a text that nodes put together: eight of the longest that a submission may hold.
pub(crate) const TEXT_BYTES_MAX: i128 = 1024 * 1024;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    if !subject.policy.caps.limits_anything() {
        return;
    }
    for (place, node, _) in subject.known().filter(|(_, _, class)| is_growing(class)) {
        match longest_text(subject, place, TEXT_BYTES_MAX) {
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

/// Whether a `text_exceeded` is this rule's, and not the one against crashes.
pub(super) fn is_of_the_caps(violation: &Violation) -> bool {
    violation.code == "text_exceeded" && violation.limit.as_deref() == Some(&*TEXT_BYTES_MAX.to_string())
}
