//! Addresses: a node fetches only from where `[network]` allows, and sends only to there. Nothing is allowed unless the document says so.

use super::possible_texts::ReadOnce;
use super::{Subject, at};
use crate::bounds::chain;
use crate::catalogue::{ClassSignature, InputKind, KindSet};
use crate::policy::Address;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::json::shown;
use crate::workflow::node::{Input, Node};

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let addresses = KindSet::of([InputKind::Url, InputKind::TargetUrl]);
    let may_fetch = |class: &ClassSignature| class.may_have_any(addresses) && !subject.policy.trusts(class);
    let fetching = subject.known().filter(|(_, _, class)| may_fetch(class));
    let fetching: Vec<_> = fetching
        .flat_map(|(_, node, class)| node.inputs.iter().map(move |(name, input)| (node, class, name, input)))
        .filter(|(node, class, name, _)| {
            matches!(class.input_kind(node, name), Some(InputKind::Url | InputKind::TargetUrl))
        })
        .collect();
    if fetching.is_empty() {
        return;
    }
    let (texts, mut findings) = (subject.possible_texts(), ReadOnce::new());
    for (node, _, name, input) in fetching {
        match texts.at(node, name) {
            Some(possible) => {
                out.extend(findings.of(node, name, (), possible, |text| address_fault(subject, node, name, text)));
            }
            None => {
                let message = match input {
                    Input::Link(_) => "an address that can't be followed to a literal is not fetched from",
                    Input::Literal(_) => "must be an address, given as a string",
                };
                let chain = chain(&subject.facts, node, name);
                let violation = at(node, name, "address_refused", ViolationKind::Denied, message.to_owned());
                out.push(Violation { chain, ..violation });
            }
        }
    }
}

fn address_fault(subject: &Subject<'_>, node: &Node, name: &str, text: &str) -> Option<Violation> {
    // Nothing is fetched from nowhere.
    if text.is_empty() {
        return None;
    }
    let refused = |message: String| at(node, name, "address_refused", ViolationKind::Denied, message);
    let Some(address) = Address::read(text) else {
        return Some(refused(format!("`{}` is no plain http or https address", shown(text))));
    };
    let list = subject.policy.against_address(&address)?;
    let host = address.authority();
    let message = format!("the policy does not allow to fetch from `{}`", shown(&host));
    Some(Violation { bound: Some(host), key: Some(list), ..refused(message) })
}
