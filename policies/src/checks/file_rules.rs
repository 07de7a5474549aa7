//! Which inputs may name files, and in which of ComfyUI's directories: the rules of `[files]`. Whose files they are is the rule of files.

use super::{Subject, at};
use crate::catalogue::{InputKind, InputSignature};
use crate::files::annotated_name;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::node::Node;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    for (place, node, _) in subject.known().filter(|(_, _, class)| class.may_have(InputKind::File)) {
        for (name, _, signature) in subject.given(place) {
            if signature.and_then(InputSignature::kind) == Some(InputKind::File) {
                out.extend(file_fault(subject, node, name));
            }
        }
    }
}

fn file_fault(subject: &Subject<'_>, node: &Node, name: &str) -> Option<Violation> {
    let rules = &subject.policy.files;
    let (key, message) = if !rules.allows_input(node.class.as_str(), name) {
        ("files.inputs", "the policy does not allow to name a file here".to_owned())
    } else {
        // A text that is no name is the rule of files'.
        let (_, directory) = annotated_name(node.text(name)?).ok()?;
        if rules.allows_directory(directory) {
            return None;
        }
        ("files.directories", format!("the policy does not allow files of the directory `{}`", directory.name()))
    };
    Some(Violation { key: Some(key), ..at(node, name, "file_refused", ViolationKind::Denied, message) })
}
