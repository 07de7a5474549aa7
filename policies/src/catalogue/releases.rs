//! ComfyUI's own classes that its releases declare differently. Where nobody knows which release runs, a workflow is judged as a whole by the newest release in which all of its nodes are valid:
//! the ComfyUI that runs it has one release too. Where none has all of them (there are others between those that ship), the nodes that don't fit are judged by the newest in which they are
//! valid, and it is told which nodes are of which releases ([`Mixed`]). A catalogue of an installation has one declaration for each class.

use super::shipped::shipped;
use super::{Catalogue, ClassSignature, DeclaredType, InputSignature, Presence};
use crate::workflow::graph::{NodeIndex, Workflow, links};
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node};

/// Some of the releases that ship, by their place in the order of time. There are a handful; those beyond 32 are in no set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReleaseSet(u32);

impl ReleaseSet {
    /// The first `count` releases.
    pub(super) fn all(count: usize) -> Self {
        (0..count).fold(Self::default(), Self::with)
    }

    pub(super) fn with(self, place: usize) -> Self {
        Self(self.0 | bit(place))
    }

    fn has(self, place: usize) -> bool {
        self.0 & bit(place) != 0
    }

    fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// What the releases are called, such as `0.8.0` or `0.33.0 to 0.38.1`: the first and the last of them.
    pub(crate) fn shown(self) -> String {
        let mut names = shipped().names.iter().enumerate().filter(|(place, _)| self.has(*place)).map(|(_, name)| name);
        match (names.next(), names.next_back()) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            (Some(only), None) => only.clone(),
            (None, _) => "no release".to_owned(),
        }
    }
}

fn bit(place: usize) -> u32 {
    u32::try_from(place).ok().and_then(|place| 1_u32.checked_shl(place)).unwrap_or_default()
}

/// How the releases declare a class. The catalogue's own declaration is the first.
#[derive(Debug, Clone)]
pub(super) struct ByRelease {
    /// Which releases have the first.
    pub(super) first: ReleaseSet,
    /// Further ones, each with the releases that have it.
    pub(super) others: Vec<(ReleaseSet, ClassSignature)>,
}

impl ByRelease {
    pub(super) fn with_tables(self) -> Self {
        let others = self.others.into_iter().map(|(releases, class)| (releases, class.with_tables()));
        Self { others: others.collect(), ..self }
    }
}

/// A node whose class not every release has as it is used, in a workflow that no release has as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mixed {
    /// The node.
    pub(crate) place: NodeIndex,
    /// The releases in which it is valid; at least one.
    pub(crate) releases: ReleaseSet,
}

impl Mixed {
    /// The release that this node is judged by.
    fn release(self, of_the_rest: usize) -> usize {
        let newest = || (0..shipped().names.len()).rev().find(|release| self.releases.has(*release));
        if self.releases.has(of_the_rest) { of_the_rest } else { newest().unwrap_or(of_the_rest) }
    }
}

/// The declarations of the classes of one workflow.
pub(crate) struct Declarations<'a> {
    catalogue: &'a Catalogue,
    /// The release that it is judged by.
    release: usize,
    /// In the order of their places.
    mixed: Vec<Mixed>,
}

impl<'a> Declarations<'a> {
    /// Chooses the release. Looks at all links once, where it matters, and at the nodes whose classes differ.
    pub(crate) fn of(workflow: &Workflow, catalogue: &'a Catalogue) -> Self {
        if catalogue.by_release.is_empty() {
            return Self { catalogue, release: 0, mixed: Vec::new() };
        }
        // By the nodes' places: how many outputs are linked to at least.
        let mut outputs = vec![0; workflow.nodes().len()];
        for link in workflow.nodes().iter().flat_map(links) {
            if let Some(used) = outputs.get_mut(link.target.number()) {
                *used = link.slot.saturating_add(1).max(*used);
            }
        }
        let releases = shipped().names.len();
        let everything = ReleaseSet::all(releases);
        let mut wrong = vec![0_usize; releases];
        let mut valid = Vec::new();
        for ((place, node), used) in workflow.indexed().zip(outputs) {
            let Some(known) = catalogue.by_release.get(node.class.as_str()) else { continue };
            let Some(first) = catalogue.class(node.class.as_str()) else { continue };
            let (mut good, mut had) = (ReleaseSet::default(), ReleaseSet::default());
            let others = known.others.iter().map(|(of, class)| (*of, class));
            for (of, class) in std::iter::once((known.first, first)).chain(others) {
                had = had.and(of);
                match faults(class, node, used) {
                    0 => good = good.and(of),
                    faults => add(&mut wrong, faults, |release| of.has(release)),
                }
            }
            if had != everything {
                add(&mut wrong, 1, |release| !had.has(release));
            }
            valid.push(Mixed { place, releases: good });
        }
        // Of several that fit as well it is the newest.
        let release = (0..releases).rev().min_by_key(|release| wrong.get(*release).copied()).unwrap_or_default();
        // Where no release has a node as it is, no release is the fault.
        let elsewhere = |node: &Mixed| node.releases != ReleaseSet::default() && !node.releases.has(release);
        let mixed = match valid.iter().any(elsewhere) {
            true => valid
                .into_iter()
                .filter(|node| node.releases != everything && node.releases != ReleaseSet::default())
                .collect(),
            false => Vec::new(),
        };
        Self { catalogue, release, mixed }
    }

    /// The class of the node at `place`; `None` if no release has one of that name. One that the release of the whole lacks is declared as in the oldest.
    pub(crate) fn class(&self, place: NodeIndex, node: &Node) -> Option<&'a ClassSignature> {
        let first = self.catalogue.class(node.class.as_str())?;
        let Some(known) = self.catalogue.by_release.get(node.class.as_str()) else { return Some(first) };
        let own = self.mixed.binary_search_by_key(&place, |node| node.place).ok().and_then(|at| self.mixed.get(at));
        let release = own.map_or(self.release, |node| node.release(self.release));
        let other = known.others.iter().find(|(of, _)| of.has(release)).filter(|_| !known.first.has(release));
        Some(other.map_or(first, |(_, class)| class))
    }

    /// The nodes that no release has together as they are used; empty if one has.
    pub(crate) fn into_mixed(self) -> Vec<Mixed> {
        self.mixed
    }
}

/// Counts so many faults for some releases.
fn add(wrong: &mut [usize], faults: usize, counts: impl Fn(usize) -> bool) {
    for (_, wrong) in wrong.iter_mut().enumerate().filter(|(release, _)| counts(*release)) {
        *wrong = wrong.saturating_add(faults);
    }
}

/// How much of a node the class does not declare.
fn faults(class: &ClassSignature, node: &Node, outputs: usize) -> usize {
    let undeclared = |(name, input): &&(_, Input)| {
        let name: &crate::workflow::text::Text = name;
        match class.input(node, name) {
            Some(declared) => !takes(declared, input),
            None => !class.is_residue(name) && class.dynamic_input(name).is_none(),
        }
    };
    // Those of the chosen option of a dynamic choice too; those of a row are as many as are given.
    let in_row = |name: &str| {
        class.inputs().iter().any(|row| {
            let inner = name.strip_prefix(row.name()).is_some_and(|rest| rest.starts_with('.'));
            matches!(row.declared(), DeclaredType::Autogrow { .. }) && inner
        })
    };
    let missing = |(name, declared): &(&str, &InputSignature)| {
        let row = matches!(declared.declared(), DeclaredType::Autogrow { .. }) || in_row(name);
        let later = || class.later_inputs().any(|(given, _)| given == *name);
        declared.presence() == Presence::Required && !row && node.input(name).is_none() && !later()
    };
    let given = node.inputs.iter().filter(undeclared).count();
    let absent = class.inputs_of(node).into_iter().filter(missing).count();
    given + absent + usize::from(outputs > class.outputs().len())
}

/// Whether a literal is in the declared range or list. Types are for the rule of inputs.
fn takes(declared: &InputSignature, input: &Input) -> bool {
    let Input::Literal(value) = input else { return true };
    match (declared.declared(), value) {
        (DeclaredType::Int { min, max, .. }, Json::Int(value)) => {
            min.is_none_or(|min| *value >= min) && max.is_none_or(|max| *value <= max)
        }
        (DeclaredType::Float { min, max, .. }, Json::Float(value)) => {
            min.is_none_or(|min| *value >= min) && max.is_none_or(|max| *value <= max)
        }
        (DeclaredType::Combo(options), value) => {
            declared.kind().is_some() || options.is_empty() || options.contains(&value.to_value())
        }
        (DeclaredType::DynamicCombo(options), Json::Text(text)) => options.iter().any(|(key, _)| key == text),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Catalogue;
    use crate::explain::explain;
    use crate::{FileFacts, Parsed, Policy, Verdict, Violation, decide, parse};

    fn judged(catalogue: &Catalogue, nodes: &serde_json::Value) -> Vec<Violation> {
        let policy = Policy::from_toml("name = \"x\"\n[classes]\nallow = [\"*\"]\n").unwrap();
        let parsed: Parsed = parse(json!({ "prompt": nodes }).to_string().as_bytes()).unwrap();
        match decide(&parsed, &policy, catalogue, &FileFacts::none()) {
            Verdict::Allow(approved) => approved.pruned().into_iter().flatten().cloned().collect(),
            Verdict::Deny(violations) => violations.iter().cloned().collect(),
        }
    }

    fn linked(class: &str, slot: usize) -> serde_json::Value {
        json!({
            "a": {"class_type": class, "inputs": if class == "PreviewAny" { json!({"source": "x"}) } else { json!({"choice": "x"}) }},
            "b": {"class_type": "PreviewAny", "inputs": {"source": ["a", slot]}},
        })
    }

    #[test]
    fn a_node_is_judged_as_some_release_declares_it_where_none_is_known() {
        // PreviewAny of 0.8.0 gives nothing, that of later ones the text that it shows.
        let codes = |catalogue: &Catalogue, nodes: &serde_json::Value| -> Vec<&'static str> {
            judged(catalogue, nodes).iter().map(|violation| violation.code).collect()
        };
        assert_eq!(codes(Catalogue::builtin(), &linked("PreviewAny", 0)), [""; 0]);
        assert_eq!(codes(Catalogue::builtin(), &linked("PreviewAny", 1)), ["bad_linked_input"]);
        assert_eq!(codes(Catalogue::builtin(), &linked("CustomCombo", 1)), [""; 0]);
        assert_eq!(codes(Catalogue::builtin(), &linked("CustomCombo", 2)), ["bad_linked_input"]);
        // An installation has one release.
        assert_eq!(codes(&Catalogue::builtin_arc(), &linked("PreviewAny", 0)), ["bad_linked_input"]);
        assert_eq!(codes(&Catalogue::builtin_arc(), &linked("CustomCombo", 1)), ["bad_linked_input"]);
    }

    /// A node that only 0.8.0 has so, and one that only later releases have so.
    fn of_both(nodes: &[&str]) -> serde_json::Value {
        let all = json!({
            "model": {"class_type": "UNETLoader", "inputs": {"unet_name": "chroma.safetensors", "weight_dtype": "default"}},
            "old": {"class_type": "ChromaRadianceOptions", "inputs": {"model": ["model", 0], "preserve_wrapper": true, "start_sigma": 1.0, "end_sigma": 0.0, "nerf_tile_size": -1}},
            "new": {"class_type": "PreviewAny", "inputs": {"source": ["shown", 0]}},
            "shown": {"class_type": "PreviewAny", "inputs": {"source": "x"}},
        });
        let named = all.as_object().unwrap().iter().filter(|(id, _)| nodes.contains(&id.as_str()));
        named.map(|(id, node)| (id.clone(), node.clone())).collect::<serde_json::Map<_, _>>().into()
    }

    #[test]
    fn a_workflow_is_judged_as_a_whole_by_one_release() {
        let codes = |nodes: &[&str]| -> Vec<&'static str> {
            judged(Catalogue::builtin(), &of_both(nodes)).iter().map(|violation| violation.code).collect()
        };
        assert_eq!(codes(&["model", "old", "shown"]), [""; 0], "0.8.0 has it");
        assert_eq!(codes(&["model", "new", "shown"]), [""; 0], "later releases have it");
        let together = of_both(&["model", "old", "new", "shown"]);
        let policy = Policy::from_toml("name = \"x\"\n[classes]\nallow = [\"*\"]\n").unwrap();
        let parsed = parse(json!({ "prompt": together }).to_string().as_bytes()).unwrap();
        let account = |catalogue: &Catalogue| explain(&parsed, &policy, catalogue, &FileFacts::none());
        let told = account(Catalogue::builtin());
        assert_eq!(codes(&["model", "old", "new", "shown"]), [""; 0], "there may be a release between those that ship");
        assert_eq!(
            told.to_json()["mixed_releases"],
            json!([
                {"node": "old", "class": "ChromaRadianceOptions", "releases": "0.8.0"},
                {"node": "shown", "class": "PreviewAny", "releases": "0.33.0 to 0.38.1"},
            ])
        );
        let text = told.to_string();
        let wanted = ["No release of ComfyUI that is known here", "\n  old (ChromaRadianceOptions): 0.8.0\n"];
        assert!(wanted.iter().all(|wanted| text.contains(wanted)), "{text}");
        assert_eq!(
            account(&Catalogue::builtin_arc()).to_json()["mixed_releases"],
            json!([]),
            "an installation has one"
        );
        // What is at fault of itself is at fault under every release, and mixes nothing.
        let mut wrong = of_both(&["model", "new", "shown"]);
        wrong["new"]["inputs"]["source"] = json!(["shown", 1]);
        let found = judged(Catalogue::builtin(), &wrong);
        assert_eq!(found.iter().map(|violation| violation.code).collect::<Vec<_>>(), ["bad_linked_input"]);
        // Nor does one release that has all of it mix anything.
        let parsed = parse(json!({"prompt": of_both(&["model", "new", "shown"])}).to_string().as_bytes()).unwrap();
        let told = explain(&parsed, &policy, Catalogue::builtin(), &FileFacts::none());
        assert_eq!(told.to_json()["mixed_releases"], json!([]));
    }

    #[test]
    fn of_several_releases_in_which_a_workflow_is_valid_the_newest_judges_it() {
        let newest = Catalogue::builtin();
        let parsed = parse(json!({"prompt": of_both(&["shown"])}).to_string().as_bytes()).unwrap();
        let declared = super::Declarations::of(&parsed.workflow, newest);
        let (place, node) = parsed.workflow.indexed().next().unwrap();
        assert_eq!(declared.class(place, node).unwrap().outputs().len(), 1);
    }
}
