//! Files: a literal name, strictly read, of a file that the caller may use. A foreign file and one that does not exist have the same answer.

use super::crash::is_only_shown;
use super::{Subject, at};
use crate::catalogue::{InputKind, InputSignature};
use crate::files::{NameFault, annotated_name};
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::json::{Json, shown};
use crate::workflow::node::{Input, Node};

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    for (place, node, class) in subject.known().filter(|(_, _, class)| class.may_have(InputKind::File)) {
        for (name, input, signature) in subject.given(place) {
            if subject.policy.trusts(class) && !matches!(input, Input::Literal(Json::Text(_))) {
                continue;
            }
            // What is only shown is never opened: its rule is that of shown values.
            if matches!(input, Input::Link(_)) && is_only_shown(class, name) {
                continue;
            }
            if signature.and_then(InputSignature::kind) == Some(InputKind::File) {
                out.extend(file_fault(subject, node, name, input));
            }
        }
    }
}

/// Below it the gateway keeps what it pushes and what attempts save, a folder an owner.
const OWN_FOLDER: &str = "t";

/// Whether a name leads into our own folders, in any spelling that some system takes for the same.
fn is_in_own_folders(name: &str) -> bool {
    // Windows drops dots and spaces at the end of a name, and takes what follows a colon for a stream of the same file or folder.
    let bare = |segment: &str| -> String {
        let stem = segment.split(':').next().unwrap_or_default();
        stem.trim().trim_end_matches(|c: char| c == '.' || c.is_whitespace()).to_owned()
    };
    let first = name.split(['/', '\\']).map(bare).find(|segment| !segment.is_empty());
    first.is_some_and(|segment| segment.eq_ignore_ascii_case(OWN_FOLDER))
}

/// Whether Windows takes a segment of the name for a device: reading one may never end (facts K7).
fn is_device(name: &str) -> bool {
    let is_one = |segment: &str| {
        let stem = segment.split(['.', ':']).next().unwrap_or_default().trim().to_ascii_uppercase();
        let numbered = |prefix: &str| {
            stem.strip_prefix(prefix).is_some_and(|rest| {
                matches!(rest, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
            })
        };
        matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$")
            || numbered("COM")
            || numbered("LPT")
    };
    name.split(['/', '\\']).any(is_one)
}

fn file_fault(subject: &Subject<'_>, node: &Node, name: &str, input: &Input) -> Option<Violation> {
    let text = match input {
        Input::Literal(Json::Text(text)) => text,
        // Another JSON type is the inputs rule's; where that rule takes anything, this one does not.
        Input::Literal(_) => {
            return Some(at(
                node,
                name,
                "file_name_refused",
                ViolationKind::Denied,
                "must be the name of a file".to_owned(),
            ));
        }
        Input::Link(_) => {
            let message = "the name of a file must be given as a literal, not by a link".to_owned();
            return Some(at(node, name, "linked_input_refused", ViolationKind::Denied, message));
        }
    };
    let name_shown = shown(text);
    let (code, message) = match annotated_name(text) {
        Ok((file, directory)) if subject.files.get(file, directory).is_some() => return None,
        // What lies in an owner's own directories from before the gateway is the owner's. Our own folders stay each user's.
        Ok((file, _)) if subject.owner() && is_device(file) => (
            "path_refused",
            format!("`{name_shown}` is the name of a device on some systems, and not taken for a file"),
        ),
        Ok((file, _)) if subject.owner() && !is_in_own_folders(file) => return None,
        Ok(_) => ("file_not_found", format!("no such file: `{name_shown}`")),
        Err(NameFault::Path) => ("path_refused", format!("`{name_shown}` is no name of an uploaded file, but a path")),
        Err(NameFault::Suffix) => {
            ("file_suffix_refused", format!("`{name_shown}`: a suffix is exactly ` [input]`, ` [output]` or ` [temp]`"))
        }
    };
    Some(at(node, name, code, ViolationKind::Denied, message))
}
