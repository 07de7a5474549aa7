//! JSON to typed graph.
//!
//! In comes the `prompt` of a submission, as bounded JSON; out comes a [`Workflow`](graph::Workflow): nodes with typed ids, every link resolved, acyclic and
//! no deeper than [`PATH_DEPTH_MAX`](graph::PATH_DEPTH_MAX). Refused is everything that kills or freezes a ComfyUI by its shape alone: inputs that are not an object,
//! links to nowhere, cycles, long chains, values wrapped in `__value__`. Whether a class exists and what its inputs mean is left to `catalogue` and `checks`.

pub mod graph;
pub mod json;
pub mod link;
pub mod node;
pub mod text;
pub(crate) mod write;
