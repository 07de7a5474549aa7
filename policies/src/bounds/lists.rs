//! How many items the lists have that a node gives: all nodes after it run once for each.

use super::interval::Interval;
use super::{Facts, transfer};
use crate::catalogue::{ClassSignature, ListRule, Rebatch};
use crate::workflow::node::{Input, Node};

/// Items of the list in output `slot` in one run of the node, at most; or why nobody knows.
pub(super) fn items(
    facts: &Facts<'_>,
    node: &Node,
    class: &ClassSignature,
    slot: usize,
) -> Result<i128, Option<String>> {
    match class.list_rule(slot) {
        None => Err(None),
        Some(ListRule::Unbounded(because)) => Err(Some(because.clone())),
        Some(ListRule::AtMost(amount)) => {
            transfer::amount(facts, node, class, amount).map(|items| items.hi).ok_or(None)
        }
        Some(ListRule::ItemsOf(names)) => {
            let all = names.iter().map(|name| items_of(facts, node, name));
            Ok(all.fold(0, i128::saturating_add))
        }
        Some(ListRule::Rebatch(rule)) => rebatched(facts, node, class, rule).ok_or(None),
    }
}

fn items_of(facts: &Facts<'_>, node: &Node, name: &str) -> i128 {
    match node.input(name) {
        Some(Input::Link(link)) => facts.slot(*link).map_or(1, |slot| slot.items),
        Some(Input::Literal(_)) => 1,
        None => 0,
    }
}

/// Batches of a given size of all that comes in, and one more for each item whose size differs from the one before (ComfyUI 0.8.0, `nodes_rebatch.py`).
fn rebatched(facts: &Facts<'_>, node: &Node, class: &ClassSignature, rule: &Rebatch) -> Option<i128> {
    // What has no size has its fault where it arises.
    let Some(shape) = facts.shape(node, &rule.of) else { return Some(1) };
    let items = items_of(facts, node, &rule.of);
    let count = Interval::exactly(shape.count().hi).times(Interval::exactly(items)).hi;
    let size = transfer::amount(facts, node, class, &rule.size).map_or(1, |size| size.lo.max(1));
    Some(count.div_euclid(size).saturating_add(items).min(count.max(1)))
}
