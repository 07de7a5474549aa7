//! A workflow beside the catalogue: the class of each node and the declaration of each input, found once for all rules.

use crate::catalogue::{Catalogue, ClassSignature, Declarations, InputSignature, Mixed};
use crate::workflow::graph::{NodeIndex, Workflow};
use crate::workflow::node::{Input, Node};
use crate::workflow::text::Text;

/// What the catalogue says of every node and input. What it does not say is `None`.
#[derive(Debug)]
pub(crate) struct Resolved<'a> {
    workflow: &'a Workflow,
    /// By the nodes' places.
    nodes: Vec<ResolvedNode<'a>>,
    /// Of the inputs of all nodes, one after the other.
    declarations: Vec<Option<&'a InputSignature>>,
    /// The nodes that no release of ComfyUI has together, where nobody knows which release runs.
    pub(crate) mixed: Vec<Mixed>,
}

#[derive(Debug)]
struct ResolvedNode<'a> {
    class: Option<&'a ClassSignature>,
    /// Where its inputs begin in `declarations`.
    first: usize,
}

impl<'a> Resolved<'a> {
    /// Looks at every input once.
    pub(crate) fn of(workflow: &'a Workflow, catalogue: &'a Catalogue) -> Self {
        let inputs = workflow.nodes().iter().map(|node| node.inputs.len()).sum();
        let (mut nodes, mut declarations) = (Vec::with_capacity(workflow.nodes().len()), Vec::with_capacity(inputs));
        let declared = Declarations::of(workflow, catalogue);
        for (place, node) in workflow.indexed() {
            let class = declared.class(place, node);
            nodes.push(ResolvedNode { class, first: declarations.len() });
            declarations.extend(node.inputs.iter().map(|(name, _)| class?.input(node, name)));
        }
        Self { workflow, nodes, declarations, mixed: declared.into_mixed() }
    }

    /// The class of the node at `place`.
    pub(crate) fn class(&self, place: NodeIndex) -> Option<&'a ClassSignature> {
        self.nodes.get(place.number())?.class
    }

    /// The nodes whose class is known, with their class, in the caller's order.
    pub(crate) fn known(&self) -> impl Iterator<Item = (NodeIndex, &'a Node, &'a ClassSignature)> {
        let nodes = self.workflow.indexed().zip(&self.nodes);
        nodes.filter_map(|((place, node), resolved)| Some((place, node, resolved.class?)))
    }

    /// The inputs of the node at `place` as given, each with its declaration.
    pub(crate) fn given(
        &self,
        place: NodeIndex,
    ) -> impl Iterator<Item = (&'a Text, &'a Input, Option<&'a InputSignature>)> {
        let first = self.nodes.get(place.number()).map_or(usize::MAX, |node| node.first);
        let declarations = self.declarations.get(first..).unwrap_or_default();
        let inputs = self.workflow.node(place).map(|node| node.inputs.as_slice()).unwrap_or_default();
        inputs.iter().zip(declarations).map(|((name, input), declaration)| (name, input, *declaration))
    }
}
