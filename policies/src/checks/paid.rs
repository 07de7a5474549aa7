//! Nodes that call a paid service of comfy.org: only where the policy says who pays, whatever its lists of classes say.

use super::{Subject, of};
use crate::policy::PaidNodes;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::json::shown;

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    if subject.policy.paid_nodes() != PaidNodes::Deny {
        return;
    }
    for (_, node, _) in subject.known().filter(|(_, _, class)| class.is_paid()) {
        let name = shown(node.class.as_str());
        let message = format!("`{name}` calls a paid service, and the policy does not say who pays (`paid_nodes`)");
        let violation = of(node, "paid_node_refused", ViolationKind::Denied, message);
        out.push(Violation { key: Some("paid_nodes"), ..violation });
    }
}
