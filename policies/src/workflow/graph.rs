//! The typed graph and the faults of its shape.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use serde_json::{Map, Value, json};

use super::json::{Fault, Json, Reader, pointer, shown};
use super::link::Link;
use super::node::{Input, Node, NodeClass, NodeId, holds_control};
use super::text::Text;
use super::write;

/// The nodes by id.
type Index = HashMap<NodeId, NodeIndex, RandomState>;

/// Nodes in one workflow. Of 588 published workflows the largest has 153; ComfyUI's cache signatures cost the square of the count.
pub const NODES_MAX: usize = 500;
/// Nodes on the longest path. From about 300 on ComfyUI's recursive validation fails, from about 1000 its worker dies.
pub const PATH_DEPTH_MAX: usize = 200;
/// Inputs of one node; the largest of ComfyUI 0.8.0 has 62.
pub const INPUTS_MAX: usize = 256;
/// Bytes of an input's name.
pub const INPUT_NAME_BYTES_MAX: usize = 256;
/// Bytes of a node's title; a longer one is dropped.
pub const TITLE_BYTES_MAX: usize = 1024;
/// Output slots that a link may name before the catalogue is asked.
const SLOT_MAX: i128 = 1023;

/// A node's place in its workflow, in the caller's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(usize);

impl NodeIndex {
    /// Where the node stands, from 0.
    pub(crate) fn number(self) -> usize {
        self.0
    }
}

/// A fault of the graph's shape, with the JSON pointer of where it is (from `/prompt` on).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphFault {
    /// Stable, for machines.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// JSON pointer.
    pub pointer: String,
    /// Whether a size was exceeded.
    pub too_large: bool,
}

/// The value of `prompt` as written, of nodes only what we look at. Its faults of shape are told when all of the body is found to be JSON.
#[derive(Debug)]
pub(crate) enum RawPrompt {
    /// In the caller's order, by distinct ids.
    Nodes(Vec<(Text, RawNode)>),
    /// No object, but this.
    Other(&'static str),
}

/// A node as written. Keys that are not here are dropped, above all `is_changed`, with which a caller would choose the node's fingerprint.
#[derive(Debug)]
pub(crate) enum RawNode {
    Object {
        class: Option<Json>,
        inputs: Option<Json>,
        /// `_meta.title`, if it is a string.
        title: Option<Text>,
    },
    /// No object, but this.
    Other(&'static str),
}

impl RawPrompt {
    /// Reads the value that comes next.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Box<Fault>> {
        if !reader.at_object() {
            return Ok(Self::Other(reader.inner(0)?.type_name()));
        }
        reader.count_value()?;
        let mut nodes = Vec::new();
        reader.members(&mut |reader, id| {
            nodes.push((id.clone(), RawNode::read(reader)?));
            Ok(())
        })?;
        Ok(Self::Nodes(nodes))
    }

    /// Whether it is the web page's own form of a workflow: no node is a list.
    pub(crate) fn is_page_format(&self) -> bool {
        let is_list = |(key, node): &(Text, RawNode)| key == "nodes" && matches!(node, RawNode::Other("a list"));
        matches!(self, Self::Nodes(nodes) if nodes.iter().any(is_list))
    }
}

impl RawNode {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Box<Fault>> {
        if !reader.at_object() {
            return Ok(Self::Other(reader.inner(1)?.type_name()));
        }
        reader.count_value()?;
        let (mut class, mut inputs, mut title) = (None, None, None);
        reader.members(&mut |reader, key| {
            match key.as_str() {
                "class_type" => class = Some(reader.inner(2)?),
                "inputs" => inputs = Some(reader.inner(2)?),
                "_meta" if reader.at_object() => title = read_title(reader)?,
                _ => reader.skip_inner(2)?,
            }
            Ok(())
        })?;
        Ok(Self::Object { class, inputs, title })
    }
}

/// `title` of the object that comes next.
fn read_title(reader: &mut Reader<'_>) -> Result<Option<Text>, Box<Fault>> {
    reader.count_value()?;
    let mut title = None;
    reader.members(&mut |reader, key| {
        match key.as_str() {
            "title" => {
                if let Json::Text(text) = reader.inner(3)? {
                    title = Some(text);
                }
            }
            _ => reader.skip_inner(3)?,
        }
        Ok(())
    })?;
    Ok(title)
}

/// An acyclic graph whose links all resolve.
#[derive(Debug, Clone)]
pub struct Workflow {
    nodes: Vec<Node>,
    index: Index,
    /// Every node after all nodes that it links to.
    order: Vec<NodeIndex>,
}

impl Workflow {
    /// Reads the value of `prompt`.
    ///
    /// # Errors
    /// The first fault of shape found, in the order of the text.
    pub(crate) fn read(prompt: RawPrompt) -> Result<Self, GraphFault> {
        let members = match prompt {
            RawPrompt::Nodes(members) => members,
            RawPrompt::Other(type_name) => {
                return Err(fault("invalid_prompt", &[], format!("`prompt` must be an object, not {type_name}")));
            }
        };
        if members.is_empty() {
            return Err(fault("prompt_no_outputs", &[], "the prompt has no nodes".to_owned()));
        }
        if members.len() > NODES_MAX {
            let message = format!("{} nodes, more than {NODES_MAX}", members.len());
            return Err(GraphFault { too_large: true, ..fault("too_many_nodes", &[], message) });
        }
        let index = read_ids(&members)?;
        let mut nodes = Vec::with_capacity(members.len());
        for (id, node) in members {
            nodes.push(read_node(id, node, &index)?);
        }
        let order = order(&nodes)?;
        Ok(Self { nodes, index, order })
    }

    /// The nodes in the caller's order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes with their places, in the caller's order.
    pub fn indexed(&self) -> impl Iterator<Item = (NodeIndex, &Node)> {
        self.nodes.iter().enumerate().map(|(place, node)| (NodeIndex(place), node))
    }

    /// The nodes with their places, each after all nodes that it links to.
    pub fn sources_first(&self) -> impl DoubleEndedIterator<Item = (NodeIndex, &Node)> {
        self.order.iter().filter_map(|place| Some((*place, self.nodes.get(place.0)?)))
    }

    /// The node at a place of this workflow.
    pub fn node(&self, place: NodeIndex) -> Option<&Node> {
        self.nodes.get(place.0)
    }

    /// The place of the node with this id.
    pub fn find(&self, id: &NodeId) -> Option<NodeIndex> {
        self.index.get(id).copied()
    }

    /// The inputs of all ancestors of each node and its own, added up over all nodes: what a walk from each node reads that keeps nothing from the walks before. One set of bits a node.
    pub(crate) fn signature_inputs(&self) -> u64 {
        let words = self.nodes.len().div_ceil(64);
        let mut ancestors: Vec<u64> = vec![0; words * self.nodes.len()];
        let counts: Vec<u64> = self.nodes.iter().map(signature_inputs_of).collect();
        let mut total: u64 = 0;
        let mut bits = vec![0_u64; words];
        for (NodeIndex(place), node) in self.sources_first() {
            bits.fill(0);
            if let Some(word) = bits.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
            for link in links(node) {
                let above = ancestors.get(link.target.0 * words..(link.target.0 + 1) * words).unwrap_or_default();
                bits.iter_mut().zip(above).for_each(|(to, from)| *to |= from);
            }
            for (index, word) in bits.iter().enumerate() {
                let mut left = *word;
                while left != 0 {
                    let bit = usize::try_from(left.trailing_zeros()).unwrap_or(0);
                    total = total.saturating_add(counts.get(index * 64 + bit).copied().unwrap_or(0));
                    left &= left - 1;
                }
            }
            if let Some(own) = ancestors.get_mut(place * words..(place + 1) * words) {
                own.copy_from_slice(&bits);
            }
        }
        total
    }

    /// What [`signature_inputs`](Self::signature_inputs) can't exceed: as if all nodes were ancestors of all. Cheap.
    pub(crate) fn signature_inputs_at_most(&self) -> u64 {
        let all = self.nodes.iter().map(signature_inputs_of).fold(0, u64::saturating_add);
        all.saturating_mul(u64::try_from(self.nodes.len()).unwrap_or(u64::MAX))
    }

    /// Each node that leads into one of `roots`, the roots included.
    pub(crate) fn reaching(&self, roots: &[NodeIndex]) -> Reaching {
        let mut found = Reaching(vec![false; self.nodes.len()]);
        roots.iter().for_each(|root| found.add(*root));
        for (place, node) in self.sources_first().rev() {
            if found.contains(&place) {
                links(node).for_each(|link| found.add(link.target));
            }
        }
        found
    }

    /// The graph without the nodes `gone`. None if a node that stays links to one of them.
    pub(crate) fn without(&self, gone: &HashSet<NodeIndex>) -> Option<Self> {
        let stays = |place: &NodeIndex| !gone.contains(place);
        let moved: HashMap<NodeIndex, NodeIndex> = self
            .indexed()
            .map(|(place, _)| place)
            .filter(stays)
            .enumerate()
            .map(|(new, old)| (old, NodeIndex(new)))
            .collect();
        let input = |(name, input): &(Text, Input)| {
            let input = match input {
                Input::Link(link) => Input::Link(Link { target: *moved.get(&link.target)?, slot: link.slot }),
                Input::Literal(value) => Input::Literal(value.clone()),
            };
            Some((name.clone(), input))
        };
        let node = |node: &Node| {
            let inputs = node.inputs.iter().map(input).collect::<Option<_>>()?;
            Some(Node::new(node.id.clone(), node.class.clone(), node.title.clone(), inputs))
        };
        let kept = self.indexed().filter(|(place, _)| stays(place));
        let nodes = kept.map(|(_, kept)| node(kept)).collect::<Option<Vec<_>>>()?;
        let index = nodes.iter().enumerate().map(|(place, node)| (node.id.clone(), NodeIndex(place))).collect();
        let order = self.order.iter().filter_map(|place| moved.get(place).copied()).collect();
        Some(Self { nodes, index, order })
    }

    /// The graph as ComfyUI takes it, in the caller's order.
    pub fn to_value(&self) -> Value {
        let node = |node: &Node| {
            let inputs = node.inputs.iter().map(|(name, input)| (name.to_string(), self.input_value(input)));
            let mut out = Map::new();
            out.insert("class_type".to_owned(), json!(node.class));
            out.insert("inputs".to_owned(), Value::Object(inputs.collect()));
            if let Some(title) = &node.title {
                out.insert("_meta".to_owned(), json!({ "title": title.as_str() }));
            }
            (node.id.to_string(), Value::Object(out))
        };
        Value::Object(self.nodes.iter().map(node).collect())
    }

    /// Writes the graph as ComfyUI takes it, in the caller's order, with the inputs that `inputs` writes for each node: members without their braces.
    pub(crate) fn write(&self, out: &mut Vec<u8>, mut inputs: impl FnMut(&mut Vec<u8>, NodeIndex, &Node)) {
        out.push(b'{');
        for (place, node) in self.indexed() {
            write::separate(out, place.0);
            write::id(out, &node.id);
            out.extend_from_slice(b":{\"class_type\":");
            write::text(out, node.class.text());
            out.extend_from_slice(b",\"inputs\":{");
            inputs(out, place, node);
            out.push(b'}');
            if let Some(title) = &node.title {
                out.extend_from_slice(b",\"_meta\":{\"title\":");
                write::text(out, title);
                out.push(b'}');
            }
            out.push(b'}');
        }
        out.push(b'}');
    }

    /// Writes an input as ComfyUI takes it.
    pub(crate) fn write_input(&self, out: &mut Vec<u8>, input: &Input) {
        match input {
            Input::Literal(value) => write::json(out, value),
            Input::Link(link) => match self.node(link.target) {
                Some(node) => {
                    out.push(b'[');
                    write::id(out, &node.id);
                    out.push(b',');
                    write::small(out, link.slot);
                    out.push(b']');
                }
                None => out.extend_from_slice(b"null"),
            },
        }
    }

    /// An input as ComfyUI takes it.
    pub(crate) fn input_value(&self, input: &Input) -> Value {
        match input {
            Input::Literal(value) => value.to_value(),
            Input::Link(link) => match self.node(link.target) {
                Some(node) => json!([node.id, link.slot]),
                None => Value::Null,
            },
        }
    }
}

/// What ComfyUI reads of one node to make a cache key.
fn signature_inputs_of(node: &Node) -> u64 {
    u64::try_from(node.inputs.len()).unwrap_or(u64::MAX).saturating_add(1)
}

/// A set of nodes of one workflow.
#[derive(Debug)]
pub(crate) struct Reaching(Vec<bool>);

impl Reaching {
    fn add(&mut self, place: NodeIndex) {
        if let Some(there) = self.0.get_mut(place.0) {
            *there = true;
        }
    }

    pub(crate) fn contains(&self, place: &NodeIndex) -> bool {
        self.0.get(place.0).copied().unwrap_or(false)
    }
}

/// The links of a node.
pub(crate) fn links(node: &Node) -> impl Iterator<Item = Link> {
    node.inputs.iter().filter_map(|(_, input)| match input {
        Input::Link(link) => Some(*link),
        Input::Literal(_) => None,
    })
}

fn fault(code: &'static str, path: &[&str], message: String) -> GraphFault {
    let mut whole = vec!["prompt"];
    whole.extend(path);
    GraphFault { code, message, pointer: pointer(&whole), too_large: false }
}

fn read_ids(members: &[(Text, RawNode)]) -> Result<Index, GraphFault> {
    let mut index = Index::with_capacity_and_hasher(members.len(), RandomState::default());
    for (place, (text, _)) in members.iter().enumerate() {
        let id = NodeId::read(text.clone())
            .map_err(|error| fault("invalid_node_id", &[text], format!("`{}`: {error}", shown(text))))?;
        index.insert(id, NodeIndex(place));
    }
    Ok(index)
}

/// Makes a node of what was read of it.
fn read_node(text: Text, node: RawNode, index: &Index) -> Result<Node, GraphFault> {
    let id = text.as_str();
    let (class, inputs, title) = match node {
        RawNode::Object { class, inputs, title } => (class, inputs, title),
        RawNode::Other(type_name) => {
            let message = format!("node `{id}` must be an object, not {type_name}");
            return Err(fault("invalid_node", &[id], message));
        }
    };
    let class = read_class(id, class)?;
    let inputs = read_inputs(id, inputs, index)?;
    let title = title.filter(|title| title.len() <= TITLE_BYTES_MAX);
    // INVARIANT: `read_ids` found it good.
    Ok(Node::new(NodeId::known(text), class, title, inputs))
}

fn read_class(id: &str, class: Option<Json>) -> Result<NodeClass, GraphFault> {
    match class {
        Some(Json::Text(text)) => {
            NodeClass::read(text).map_err(|error| fault("invalid_class_type", &[id, "class_type"], error.to_string()))
        }
        Some(other) => {
            let message = format!("`class_type` must be a string, not {}", other.type_name());
            Err(fault("invalid_class_type", &[id, "class_type"], message))
        }
        None => Err(fault("invalid_class_type", &[id], format!("node `{id}` has no `class_type`"))),
    }
}

fn read_inputs(id: &str, inputs: Option<Json>, index: &Index) -> Result<Vec<(Text, Input)>, GraphFault> {
    let members = match inputs {
        Some(Json::Object(members)) => members,
        // SECURITY: ComfyUI's worker dies of such a node, even an unreachable one (facts K3).
        Some(other) => {
            let message = format!("`inputs` of node `{id}` must be an object, not {}", other.type_name());
            return Err(fault("invalid_inputs", &[id, "inputs"], message));
        }
        None => return Err(fault("invalid_inputs", &[id], format!("node `{id}` has no `inputs`"))),
    };
    if members.len() > INPUTS_MAX {
        let message = format!("{} inputs, more than {INPUTS_MAX}", members.len());
        return Err(GraphFault { too_large: true, ..fault("too_many_inputs", &[id, "inputs"], message) });
    }
    members.into_iter().map(|(name, value)| read_input(id, name, value, index)).collect()
}

fn read_input(id: &str, name: Text, value: Json, index: &Index) -> Result<(Text, Input), GraphFault> {
    let path = [id, "inputs", name.as_str()];
    if name.is_empty() || name.len() > INPUT_NAME_BYTES_MAX || holds_control(&name) {
        let message = format!("an input's name is 1 to {INPUT_NAME_BYTES_MAX} bytes without control characters");
        return Err(fault("invalid_input_name", &path, message));
    }
    let input = match value {
        Json::Pair(target, slot) => Input::Link(read_link(&path, &target, i128::from(slot), index)?),
        Json::List(items) => match items.as_slice() {
            [Json::Text(target), Json::Int(slot)] => Input::Link(read_link(&path, target, *slot, index)?),
            _ => {
                let message = "a list must be a link: [\"<node id>\", <slot>]".to_owned();
                return Err(fault("bad_linked_input", &path, message));
            }
        },
        other if holds_wrapper(&other) => {
            // SECURITY: ComfyUI unwraps `__value__`, and a list inside becomes a link that no walker of plain links sees.
            let message = "an object with `__value__` or `__type__` is not accepted".to_owned();
            return Err(fault("wrapped_value", &path, message));
        }
        other => Input::Literal(other),
    };
    Ok((name, input))
}

fn read_link(path: &[&str], target: &str, slot: i128, index: &Index) -> Result<Link, GraphFault> {
    let bad = |message: String| Err(fault("bad_linked_input", path, message));
    if !(0..=SLOT_MAX).contains(&slot) {
        return bad(format!("the slot {slot} is not between 0 and {SLOT_MAX}"));
    }
    let found = index.get(target).copied();
    match (found, usize::try_from(slot)) {
        (Some(target), Ok(slot)) => Ok(Link { target, slot }),
        // SECURITY: even an undeclared link to nowhere kills ComfyUI's worker (facts K2).
        _ => bad(format!("there is no node `{}`", shown(target))),
    }
}

/// Whether an object anywhere in `value` has a key by which ComfyUI wraps values. Depth is bounded by the reader.
fn holds_wrapper(value: &Json) -> bool {
    match value {
        Json::List(items) => items.iter().any(holds_wrapper),
        Json::Object(members) => {
            members.iter().any(|(key, value)| key == "__value__" || key == "__type__" || holds_wrapper(value))
        }
        _ => false,
    }
}

/// Orders the nodes sources first, without recursion.
///
/// # Errors
/// `dependency_cycle` with a node of the cycle, `path_too_long` with the node that ends the path.
fn order(nodes: &[Node]) -> Result<Vec<NodeIndex>, GraphFault> {
    // How many links of each node still lead to a node that is not in order, and how many lead to each node. A link that is there twice counts twice.
    let mut open: Vec<usize> = nodes.iter().map(|node| links(node).count()).collect();
    let mut first: Vec<usize> = vec![0; nodes.len() + 1];
    let targets = |node| links(node).map(|link: Link| link.target.0);
    for count in nodes.iter().flat_map(targets) {
        if let Some(count) = first.get_mut(count) {
            *count += 1;
        }
    }
    // The consumers of all nodes in one list; those of node `n` end where those of `n + 1` begin, and are filled in from their end.
    let mut sum = 0;
    for count in &mut first {
        sum += *count;
        *count = sum;
    }
    let mut consumers: Vec<usize> = vec![0; sum];
    for (place, node) in nodes.iter().enumerate() {
        for target in targets(node) {
            let Some(end) = first.get_mut(target) else { continue };
            *end = end.saturating_sub(1);
            if let Some(consumer) = consumers.get_mut(*end) {
                *consumer = place;
            }
        }
    }
    let mut depth: Vec<usize> = vec![1; nodes.len()];
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|place| open.get(*place) == Some(&0)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(place) = ready.pop() {
        order.push(NodeIndex(place));
        let below = depth.get(place).map_or(1, |depth| depth + 1);
        let range = first.get(place).zip(first.get(place + 1)).map(|(from, to)| *from..*to);
        for consumer in range.and_then(|range| consumers.get(range)).into_iter().flatten() {
            if let Some(depth) = depth.get_mut(*consumer) {
                *depth = below.max(*depth);
            }
            if let Some(count) = open.get_mut(*consumer) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    ready.push(*consumer);
                }
            }
        }
    }
    if let Some(node) = (0..nodes.len()).find(|place| open.get(*place) != Some(&0)).and_then(|place| nodes.get(place)) {
        let message = format!("node `{}` is part of a cycle or fed by one", node.id);
        return Err(fault("dependency_cycle", &[node.id.as_str()], message));
    }
    let deep = depth.iter().zip(nodes).find(|(depth, _)| **depth > PATH_DEPTH_MAX);
    if let Some((depth, node)) = deep {
        let message = format!("node `{}` ends a path of {depth} nodes, more than {PATH_DEPTH_MAX}", node.id);
        return Err(GraphFault { too_large: true, ..fault("path_too_long", &[node.id.as_str()], message) });
    }
    Ok(order)
}
