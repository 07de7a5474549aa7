//! Which models a backend offers, and which of those that a workflow names it lacks.
//!
//! Lists of models belong to an installation: no catalogue pins them, and they change while a backend runs. What is not known to be missing counts as there.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Catalogue, CatalogueError, DeclaredType, InputKind, read};
use crate::rewrite::ApprovedWorkflow;
use crate::submission::Parsed;
use crate::workflow::graph::{NodeIndex, links};
use crate::workflow::node::{NodeClass, NodeId};

/// A model that a workflow names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelChoice {
    /// The node that loads it.
    pub node: NodeId,
    /// Its class.
    pub class: NodeClass,
    /// The input.
    pub input: String,
    /// The name, as the backend gets it.
    pub name: String,
}

/// The names that a backend offers, by class and input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelOptions {
    by_class: HashMap<String, HashMap<String, HashSet<String>>>,
}

impl ModelOptions {
    /// Those of the workflow's models that are not offered, in the order of its nodes.
    pub fn lacking<'w>(&self, workflow: &'w ApprovedWorkflow) -> Vec<&'w ModelChoice> {
        let lacks = |choice: &&ModelChoice| {
            let offered = self.by_class.get(choice.class.as_str()).and_then(|inputs| inputs.get(&choice.input));
            offered.is_some_and(|names| !names.contains(&choice.name))
        };
        workflow.models().iter().filter(lacks).collect()
    }

    /// The names that one input of a class offers, in no order; none if nothing is known of it.
    pub fn offered(&self, class: &str, input: &str) -> impl Iterator<Item = &str> {
        let names = self.by_class.get(class).and_then(|inputs| inputs.get(input));
        names.into_iter().flatten().map(String::as_str)
    }

    /// Puts what one class offers now in the place of what it offered.
    pub fn renew(&mut self, newer: ModelOptions) {
        self.by_class.extend(newer.by_class);
    }
}

impl Catalogue {
    /// The models that a live backend offers, by the answer of its `/object_info` or `/object_info/{class}`: the options of each input that is the name of a model.
    ///
    /// # Errors
    /// The text is not an `object_info`.
    pub fn model_options(&self, live_object_info: &[u8]) -> Result<ModelOptions, CatalogueError> {
        let mut by_class = HashMap::new();
        for (name, live) in read::classes(live_object_info)? {
            let Some(known) = self.class(&name) else { continue };
            let mut inputs = HashMap::new();
            for input in known.inputs().iter().filter(|input| input.kind() == Some(InputKind::ModelFile)) {
                let there = live.inputs().iter().find(|live| live.name() == input.name());
                let Some(DeclaredType::Combo(options)) = there.map(|input| input.declared()) else { continue };
                let names = options.iter().filter_map(|option| Some(option.as_str()?.to_owned()));
                inputs.insert(input.name().to_owned(), names.collect());
            }
            if !inputs.is_empty() {
                by_class.insert(name, inputs);
            }
        }
        Ok(ModelOptions { by_class })
    }
}

impl Parsed {
    /// For each of these nodes, which of these outputs depend on it: those that ComfyUI leaves out when the node does not validate.
    pub fn dependent_outputs(&self, nodes: &[&NodeId], outputs: &[NodeId]) -> BTreeMap<NodeId, Vec<NodeId>> {
        let mut found: BTreeMap<NodeId, Vec<NodeId>> = nodes.iter().map(|id| ((*id).clone(), Vec::new())).collect();
        for output in outputs {
            let reached = self.reached_from(output);
            for (id, dependents) in &mut found {
                if self.workflow.find(id).is_some_and(|place| reached.contains(&place)) {
                    dependents.push(output.clone());
                }
            }
        }
        found
    }

    /// The node itself and all that it depends on. Each node is looked at once.
    fn reached_from(&self, output: &NodeId) -> HashSet<NodeIndex> {
        let mut reached = HashSet::new();
        let mut open: Vec<NodeIndex> = self.workflow.find(output).into_iter().collect();
        while let Some(place) = open.pop() {
            let Some(node) = self.workflow.node(place).filter(|_| reached.insert(place)) else { continue };
            open.extend(links(node).map(|link| link.target));
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FileFacts;
    use crate::policy::Policy;
    use crate::verdict::Verdict;

    const BODY: &[u8] = br#"{"prompt": {
        "1": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "x4.pth"}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "3": {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["1", 0], "image": ["2", 0]}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}}"#;

    fn approved() -> ApprovedWorkflow {
        let policy = Policy::builtin("default").unwrap();
        let parsed = crate::parse(BODY).unwrap();
        match crate::decide(&parsed, &policy, Catalogue::builtin(), &FileFacts::none()) {
            Verdict::Allow(workflow) => *workflow,
            Verdict::Deny(violations) => panic!("{violations:?}"),
        }
    }

    fn offering(names: &str) -> ModelOptions {
        let live = format!(
            r#"{{"UpscaleModelLoader": {{"input": {{"required": {{"model_name": [{names}]}}}}, "output": ["UPSCALE_MODEL"],
            "output_is_list": [false], "output_name": ["UPSCALE_MODEL"], "name": "UpscaleModelLoader", "output_node": false, "python_module": "comfy_extras.nodes_upscale_model"}}}}"#
        );
        Catalogue::builtin().model_options(live.as_bytes()).unwrap()
    }

    #[test]
    fn a_model_that_is_offered_is_there_and_another_is_lacking() {
        let workflow = approved();
        assert!(offering(r#"["a.pth", "x4.pth"]"#).lacking(&workflow).is_empty());
        let lacking = offering(r#"["a.pth"]"#);
        let lacking = lacking.lacking(&workflow);
        assert_eq!(lacking.len(), 1);
        assert_eq!(
            (lacking[0].node.as_str(), lacking[0].input.as_str(), lacking[0].name.as_str()),
            ("1", "model_name", "x4.pth")
        );
        assert_eq!(offering("[]").lacking(&workflow).len(), 1, "a backend without any model offers none");
    }

    #[test]
    fn what_is_not_known_counts_as_there() {
        assert!(ModelOptions::default().lacking(&approved()).is_empty());
        assert!(offering(r#""STRING""#).lacking(&approved()).is_empty());
    }

    #[test]
    fn newer_options_of_a_class_replace_its_older_ones() {
        let mut options = offering(r#"["a.pth"]"#);
        options.renew(offering(r#"["x4.pth"]"#));
        assert_eq!(options, offering(r#"["x4.pth"]"#));
    }

    #[test]
    fn only_outputs_that_depend_on_a_node_are_its_dependents() {
        let parsed = crate::parse(BODY).unwrap();
        let (workflow, node) = (approved(), |id: &str| {
            parsed.workflow.nodes().iter().find(|node| node.id.as_str() == id).unwrap().id.clone()
        });
        let found = parsed.dependent_outputs(&[&node("1"), &node("2")], workflow.output_nodes());
        let of = |id: &str| found[&node(id)].iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!((of("1"), of("2")), (vec!["4".to_owned()], vec!["4".to_owned(), "5".to_owned()]));
    }
}
