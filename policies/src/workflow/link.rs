//! An edge between nodes.

use super::graph::NodeIndex;

/// A link to an output of another node, written `["<node id>", <slot>]`. Its target exists: only [`Workflow::read`](super::graph::Workflow) makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub(crate) target: NodeIndex,
    pub(crate) slot: usize,
}
