//! A node of a workflow: its id, class and inputs.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::json::Json;
use super::link::Link;

/// Characters of a node id. The stock page makes ids such as `12` and `12:34`; ComfyUI's own expansions use dots, which we refuse.
pub const NODE_ID_CHARS_MAX: usize = 64;
/// Bytes of a class name; the longest of ComfyUI 0.8.0 has 46.
pub const CLASS_BYTES_MAX: usize = 256;

/// The id of a node: 1 to 64 of `[0-9A-Za-z_:-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(String);

impl NodeId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not 1 to 64 of `[0-9A-Za-z_:-]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 1 to {NODE_ID_CHARS_MAX} of `0-9A-Za-z_:-`")]
pub struct NodeIdError;

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-');
        if text.is_empty() || text.len() > NODE_ID_CHARS_MAX || !text.bytes().all(good) {
            return Err(NodeIdError);
        }
        Ok(Self(text.to_owned()))
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
pub struct NodeClass(String);

impl NodeClass {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is empty, too long or holds control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a class name is 1 to {CLASS_BYTES_MAX} bytes without control characters")]
pub struct NodeClassError;

impl FromStr for NodeClass {
    type Err = NodeClassError;

    fn from_str(text: &str) -> Result<Self, NodeClassError> {
        if text.is_empty() || text.len() > CLASS_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(NodeClassError);
        }
        Ok(Self(text.to_owned()))
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

/// One node, inputs in the caller's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub(crate) id: NodeId,
    pub(crate) class: NodeClass,
    /// `_meta.title`; shown in error texts of newer ComfyUI.
    pub(crate) title: Option<String>,
    pub(crate) inputs: Vec<(String, Input)>,
}

impl Node {
    /// What the input `name` was given, if anything.
    pub(crate) fn input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|(key, _)| key == name).map(|(_, input)| input)
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
        for text in ["1", "12:34", "a_b-C", &"x".repeat(64)] {
            assert!(text.parse::<NodeId>().is_ok(), "{text}");
        }
        for text in ["", "a.b", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
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
