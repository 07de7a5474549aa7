//! A node of a workflow: its id, class and inputs.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::json::Json;
use super::link::Link;
use super::text::Text;

/// Characters of a node id. The stock page makes ids such as `12` and `12:34`; ComfyUI's own expansions use dots, which we refuse.
pub const NODE_ID_CHARS_MAX: usize = 64;
/// Bytes of a class name; the longest of ComfyUI 0.8.0 has 46.
pub const CLASS_BYTES_MAX: usize = 256;

/// The id of a node: 1 to 64 of `[0-9A-Za-z_:(). -]`, without a space or a dot at either end, and with one dot at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Text);

impl NodeId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads an id that a body holds.
    pub(crate) fn read(text: Text) -> Result<Self, NodeIdError> {
        // Scripts name nodes by their titles (`VAE Decode`, `Solid (Black)`), or by class and number (`SaveImage.0`, ComfyScript).
        let good =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-' | b' ' | b'(' | b')' | b'.');
        let ends = text.starts_with([' ', '.']) || text.ends_with([' ', '.']);
        if text.is_empty() || ends || text.len() > NODE_ID_CHARS_MAX || !text.bytes().all(good) {
            return Err(NodeIdError);
        }
        // SECURITY: ComfyUI names the nodes of an expansion `<root>.<call>.<graph>.<id>` (comfy_execution/graph_utils.py, 0.8.0) and looks those up first: no id of a caller's may look like one.
        if text.bytes().filter(|byte| *byte == b'.').count() > 1 {
            return Err(NodeIdError);
        }
        Ok(Self(text))
    }

    /// An id that was read before.
    pub(super) fn known(text: Text) -> Self {
        Self(text)
    }

    /// The same id, which keeps no body alive.
    pub(crate) fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 1 to {NODE_ID_CHARS_MAX} of `0-9A-Za-z_:()-`, with spaces and one dot between at most")]
pub struct NodeIdError;

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        Self::read(Text::from(text))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The name of a node class (`class_type`): 1 to 256 bytes without control characters. Whether the class exists is the catalogue's question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeClass(Text);

impl NodeClass {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a name that a body holds.
    pub(crate) fn read(text: Text) -> Result<Self, NodeClassError> {
        if text.is_empty() || text.len() > CLASS_BYTES_MAX || holds_control(&text) {
            return Err(NodeClassError);
        }
        Ok(Self(text))
    }

    /// The text of the name.
    pub(crate) fn text(&self) -> &Text {
        &self.0
    }

    /// The same name, which keeps no body alive.
    pub(crate) fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

/// Whether a text holds a control character, of ASCII or of Latin 1.
pub(crate) fn holds_control(text: &str) -> bool {
    // Plain ASCII at one look a byte; the rest is rare.
    let graphic = |byte: &u8| matches!(byte, b' '..=b'~');
    !text.as_bytes().iter().all(graphic) && text.chars().any(char::is_control)
}

/// The text is empty, too long or holds control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a class name is 1 to {CLASS_BYTES_MAX} bytes without control characters")]
pub struct NodeClassError;

impl FromStr for NodeClass {
    type Err = NodeClassError;

    fn from_str(text: &str) -> Result<Self, NodeClassError> {
        Self::read(Text::from(text))
    }
}

impl fmt::Display for NodeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NodeClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// What an input was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The output of another node.
    Link(Link),
    /// Anything else but a list: a list is a link or refused.
    Literal(Json),
}

/// Inputs of a node that are looked at one by one; of more there is an order by name.
const SEARCHED_INPUTS_MAX: usize = 16;

/// One node, inputs in the caller's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub(crate) id: NodeId,
    pub(crate) class: NodeClass,
    /// `_meta.title`; shown in error texts of newer ComfyUI.
    pub(crate) title: Option<Text>,
    pub(crate) inputs: Vec<(Text, Input)>,
    /// The places of the inputs by name; empty for few.
    by_name: Vec<u16>,
}

impl Node {
    /// A node. Input names are distinct and at most 65535.
    pub(crate) fn new(id: NodeId, class: NodeClass, title: Option<Text>, inputs: Vec<(Text, Input)>) -> Self {
        let mut by_name: Vec<u16> = Vec::new();
        if inputs.len() > SEARCHED_INPUTS_MAX {
            by_name.extend((0..=u16::MAX).take(inputs.len()));
            by_name.sort_by_key(|place| inputs.get(usize::from(*place)).map(|(name, _)| name));
        }
        Self { id, class, title, inputs, by_name }
    }

    /// What the input `name` was given, if anything.
    pub(crate) fn input(&self, name: &str) -> Option<&Input> {
        if self.by_name.is_empty() {
            return self.inputs.iter().find(|(key, _)| key == name).map(|(_, input)| input);
        }
        let at = |place: &u16| self.inputs.get(usize::from(*place));
        let found = self.by_name.binary_search_by(|place| at(place).map(|(key, _)| key.as_str()).cmp(&Some(name)));
        let (_, input) = self.by_name.get(found.ok()?).and_then(at)?;
        Some(input)
    }

    /// The string literal of the input `name`.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.input(name) {
            Some(Input::Literal(Json::Text(text))) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_have_one_alphabet_and_length() {
        for text in ["1", "12:34", "a_b-C", "SaveImage.0", "VAE Decode", &"x".repeat(64)] {
            assert!(text.parse::<NodeId>().is_ok(), "{text}");
        }
        for text in ["", "a.b.c", "1.0.0.1", ".a", "a.", ".", " a", "a ", "a\nb", "é", "a/b", &"x".repeat(65)] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_input_is_found_by_its_name_among_few_and_many() {
        for count in [0, 1, 16, 17, 256] {
            let inputs = (0..count).map(|n| (Text::from(format!("in{n}")), Input::Literal(Json::Int(n)))).collect();
            let node = Node::new("1".parse().unwrap(), "A".parse().unwrap(), None, inputs);
            for n in 0..count {
                assert_eq!(node.input(&format!("in{n}")), Some(&Input::Literal(Json::Int(n))));
            }
            for name in ["", "in", "in256", "zz"] {
                assert_eq!(node.input(name), None);
            }
        }
    }

    #[test]
    fn class_names_are_bounded_and_printable() {
        assert!("KSampler (Efficient) 中".parse::<NodeClass>().is_ok());
        assert!("x".repeat(256).parse::<NodeClass>().is_ok());
        for text in ["", "a\nb", &"x".repeat(257)] {
            assert!(text.parse::<NodeClass>().is_err());
        }
    }
}
