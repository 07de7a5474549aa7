//! Save prefixes: a literal, without anything that leaves its folder or is substituted later.

use super::{Subject, at};
use crate::catalogue::{InputKind, InputSignature};
use crate::rewrite::prefix::{PrefixFault, SavePrefix};
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::json::Json;
use crate::workflow::node::Input;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    for (place, node, _) in subject.known().filter(|(_, _, class)| class.may_have(InputKind::SavePrefix)) {
        for (name, input, signature) in subject.given(place) {
            if signature.and_then(InputSignature::kind) != Some(InputKind::SavePrefix) {
                continue;
            }
            let fault = match input {
                // An owner's files are found wherever they are saved.
                Input::Link(_) if subject.owner() => None,
                Input::Link(_) => Some("a save prefix must be given as a literal, not by a link".to_owned()),
                Input::Literal(Json::Text(text)) => SavePrefix::read(text).err().map(|fault| fault.to_string()),
                Input::Literal(_) => Some("a save prefix must be a string".to_owned()),
            };
            let code = if matches!(input, Input::Link(_)) { "linked_input_refused" } else { "save_prefix_refused" };
            out.extend(fault.map(|message| at(node, name, code, ViolationKind::Denied, message)));
        }
    }
}

impl std::fmt::Display for PrefixFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PrefixFault::Parent => "a save prefix must not contain `..`",
            PrefixFault::Absolute => "a save prefix must not be an absolute path",
            PrefixFault::Backslash => {
                "a save prefix must not contain a backslash, which is a separator on one system and a letter on another"
            },
            PrefixFault::Control => "a save prefix must not contain control characters",
            PrefixFault::Substitution => {
                "a save prefix may contain `%` only in %width%, %height%, %year%, %month%, %day%, %hour%, %minute%, %second%"
            }
            PrefixFault::TooLong => "a save prefix has at most 400 bytes, 8 folders, and 120 characters in each part",
        })
    }
}
