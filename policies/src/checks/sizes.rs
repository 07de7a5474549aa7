//! Sizes: no node makes a picture, latent, mask or video beyond the caps, and none whose size nobody knows.

use super::{Subject, of};
use crate::bounds::{SizeFault, size_chain};
use crate::verdict::{Violation, ViolationKind};

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    if !subject.policy.caps.limits_anything() || subject.facts.size_faults.is_empty() {
        return;
    }
    for (place, node, class) in subject.known() {
        // A class that may not be used at all needs no word on its sizes.
        if subject.refusal(place).is_some() || class.closed_because().is_some() {
            continue;
        }
        for (_, fault) in subject.facts.size_faults.iter().filter(|(at, _)| *at == place) {
            out.push(match fault {
                SizeFault::Unbounded { .. } if subject.policy.trusts(class) => continue,
                SizeFault::Unbounded { because } => {
                    let because = because.as_deref().unwrap_or("nothing is known about what this class makes");
                    let message = format!("size can't be bounded: {because}");
                    of(node, "size_unbounded", ViolationKind::Denied, message)
                }
                SizeFault::List { .. } if subject.policy.trusts(class) => continue,
                SizeFault::List { because } => {
                    let because = because.as_deref().unwrap_or("nothing is known about how long it is");
                    let message = format!("gives a list, which multiplies the work of all nodes after it: {because}");
                    of(node, "list_output", ViolationKind::Denied, message)
                }
                SizeFault::OverCap { what, bound, limit } => {
                    let message = format!("may make {what} of {bound}, and {limit} is allowed");
                    let (bound, limit) = (Some(bound.to_string()), Some(limit.to_string()));
                    Violation {
                        bound,
                        limit,
                        key: cap_key(what),
                        chain: size_chain(&subject.facts, node),
                        ..of(node, "size_exceeded", ViolationKind::Denied, message)
                    }
                }
            });
        }
    }
}

/// The key of the cap on this part of a size.
fn cap_key(what: &str) -> Option<&'static str> {
    Some(match what {
        "width" => "caps.width",
        "height" => "caps.height",
        "pixels" => "caps.megapixels",
        "pixels_total" => "caps.megapixels_total",
        "batch" => "caps.batch",
        "frames" => "caps.frames",
        "seconds" => "caps.seconds",
        // A list answers to two caps together: no single key stands for it.
        _ => return None,
    })
}
