//! Classes: in the catalogue, not closed, allowed by the policy. Every node counts, reachable or not: ComfyUI looks up and fingerprints them all.

use super::{Subject, of};
use crate::policy::ClassRefusal;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::json::shown;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    for (place, node) in subject.parsed.workflow.indexed() {
        let name = || shown(node.class.as_str());
        let Some(class) = subject.facts.class_at(place) else {
            // An owner's packs are trusted. What is installed is only known where the catalogue is that of an installation.
            if subject.owner_of_unknown() {
                continue;
            }
            out.push(of(
                node,
                "class_unknown",
                ViolationKind::Invalid,
                format!("there is no node class `{}` here", name()),
            ));
            continue;
        };
        // An owner's own release is the one that runs: nobody has to be kept from what it changed.
        if let Some(reason) = class.closed_because().filter(|_| !subject.owner()) {
            let message = format!("the node class `{}` is closed: {reason}", name());
            out.push(of(node, "class_closed", ViolationKind::Denied, message));
        }
        // What it gives back is a graph that ComfyUI runs as it is: no rule here has seen it, so no list of classes can allow it to strangers.
        if class.returns_expand() && !subject.owner() {
            let message =
                format!("the node class `{}` makes further nodes while it runs, which nobody can check", name());
            out.push(of(node, "class_expands", ViolationKind::Denied, message));
        }
        match subject.refusal(place) {
            Some(ClassRefusal::Denied) => {
                let message = format!("the policy denies the node class `{}`", name());
                out.push(of(node, "class_denied", ViolationKind::Denied, message));
            }
            Some(ClassRefusal::NotAllowed) => {
                let message = format!("the policy does not allow the node class `{}`", name());
                out.push(of(node, "class_not_allowed", ViolationKind::Denied, message));
            }
            Some(ClassRefusal::Banned) => {
                let reason = subject.policy.ban_reason(node.class.as_str()).unwrap_or("no reason was given");
                let message = format!("the node class `{}` is banned on this gateway: {reason}", name());
                out.push(of(node, "class_banned", ViolationKind::Denied, message));
            }
            None => {}
        }
    }
}
