//! One file a rule. Each looks at the whole workflow and adds what it finds: a verdict names every reason at once.
//!
//! Rules of structure, links, files and save prefixes hold under every policy; classes, caps and samplers are the policy's.
//! In the owner posture the classes of installed packs are taken on trust ([`Policy::trusts`]): ComfyUI judges their inputs. Structure, ids and own folders hold there too.

mod caps;
mod classes;
mod cost;
mod file_rules;
mod crash;
mod dynamic;
mod expressions;
mod files;
mod growth;
mod inputs;
mod links;
mod models;
mod network;
mod paid;
pub(crate) mod paths;
mod possible_texts;
mod prompts;
mod regex;
mod samplers;
mod schedules;
pub(crate) mod shadow;
mod sizes;
mod texts;
mod tracks;
mod whole;

use std::cell::OnceCell;

use crate::VIOLATIONS_MAX;
use crate::bounds::Facts;
use crate::catalogue::{Catalogue, ClassSignature, InputKind, InputSignature};
use crate::files::FileFacts;
use crate::policy::{ClassRefusal, Policy, Posture};
use crate::submission::Parsed;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::graph::NodeIndex;
use crate::workflow::node::{Input, Node};
use crate::workflow::text::Text;
use possible_texts::PossibleTexts;

/// Everything that a rule may look at.
pub(crate) struct Subject<'a> {
    pub(crate) parsed: &'a Parsed,
    pub(crate) policy: &'a Policy,
    pub(crate) files: &'a FileFacts,
    pub(crate) facts: Facts<'a>,
    /// The output nodes that run, in the caller's order.
    pub(crate) outputs: Vec<NodeIndex>,
    /// By the nodes' places: why the policy refuses the class. Asked once a class, since a policy may have a thousand patterns.
    refusals: Vec<Option<ClassRefusal>>,
    /// Made only where a rule asks what texts may be.
    texts: OnceCell<PossibleTexts>,
}

impl<'a> Subject<'a> {
    /// A submission with everything that is known about it.
    pub(crate) fn of(parsed: &'a Parsed, policy: &'a Policy, catalogue: &'a Catalogue, files: &'a FileFacts) -> Self {
        let facts = Facts::of(&parsed.workflow, policy, catalogue, files);
        let outputs = crate::running_outputs(parsed, &facts);
        let refusals = refusals(&facts, policy);
        Self { parsed, policy, files, facts, outputs, refusals, texts: OnceCell::new() }
    }

    /// Why the policy refuses the class of the node at `place`; none if it does not, or the class is not known.
    fn refusal(&self, place: NodeIndex) -> Option<ClassRefusal> {
        self.refusals.get(place.number()).copied().flatten()
    }

    /// The texts that are known word for word.
    fn possible_texts(&self) -> &PossibleTexts {
        self.texts.get_or_init(|| PossibleTexts::of(&self.facts))
    }

    /// Whether any node calls a paid service.
    pub(crate) fn has_paid_nodes(&self) -> bool {
        self.known().any(|(_, _, class)| class.is_paid())
    }

    /// Whether any node sends something elsewhere, as far as the annotations say so.
    pub(crate) fn sends_elsewhere(&self) -> bool {
        let sends = |node: &Node, class: &ClassSignature| {
            node.inputs.iter().any(|(name, _)| class.input_kind(node, name) == Some(InputKind::TargetUrl))
        };
        self.known().any(|(_, node, class)| class.may_have(InputKind::TargetUrl) && sends(node, class))
    }

    /// Whether the whole installation is trusted.
    fn owner(&self) -> bool {
        self.policy.posture() == Posture::Owner
    }

    /// Whether an owner's own installation runs it, about which nothing is known: then other releases and packs may be there.
    fn owner_of_unknown(&self) -> bool {
        self.owner() && !self.facts.catalogue.is_complete()
    }

    /// The nodes whose class is known, with their class, in the caller's order.
    fn known(&self) -> impl Iterator<Item = (NodeIndex, &'a Node, &'a ClassSignature)> {
        self.facts.resolved.known()
    }

    /// The inputs of a node as given, each with its declaration.
    pub(crate) fn given(
        &self,
        place: NodeIndex,
    ) -> impl Iterator<Item = (&'a Text, &'a Input, Option<&'a InputSignature>)> {
        self.facts.resolved.given(place)
    }
}

fn refusals<'a>(facts: &Facts<'a>, policy: &Policy) -> Vec<Option<ClassRefusal>> {
    let mut asked: Vec<(&'a ClassSignature, Option<ClassRefusal>)> = Vec::new();
    let mut of = |class: &'a ClassSignature| {
        if let Some((_, refusal)) = asked.iter().find(|(known, _)| std::ptr::eq(*known, class)) {
            return *refusal;
        }
        let refusal = policy.class_refusal(class);
        asked.push((class, refusal));
        refusal
    };
    facts.workflow.indexed().map(|(place, _)| facts.class_at(place).and_then(&mut of)).collect()
}

/// Every rule, in the order in which a reader wants to hear of them.
pub(crate) fn all(subject: &Subject<'_>) -> Vec<Violation> {
    let mut out = Vec::new();
    for rule in [
        whole::check,
        classes::check,
        paid::check,
        inputs::check,
        links::check,
        files::check,
        file_rules::check,
        paths::check,
        network::check,
        models::check,
        caps::check,
        samplers::check,
        sizes::check,
        texts::check,
        prompts::check,
        cost::check,
        crash::check,
        growth::check,
        tracks::check,
        schedules::check,
        expressions::check,
        regex::check,
    ] {
        rule(subject, &mut out);
    }
    out
}

/// What one rule finds at inputs, of which a body may have a hundred thousand. Of each kind are kept as many as a verdict tells; what comes after makes no difference to it.
struct Findings<'o> {
    out: &'o mut Vec<Violation>,
    invalid: usize,
    denied: usize,
}

impl<'o> Findings<'o> {
    fn of(out: &'o mut Vec<Violation>) -> Self {
        Self { out, invalid: 0, denied: 0 }
    }

    fn add(&mut self, found: impl IntoIterator<Item = Violation>) {
        for violation in found {
            let count = match violation.kind {
                ViolationKind::Invalid => &mut self.invalid,
                ViolationKind::Denied => &mut self.denied,
            };
            *count += 1;
            if *count <= VIOLATIONS_MAX {
                self.out.push(violation);
            }
        }
    }
}

/// A violation at an input of a node.
fn at(node: &Node, input: &str, code: &'static str, kind: ViolationKind, message: String) -> Violation {
    Violation { input: Some(input.to_owned()), ..of(node, code, kind, message) }
}

/// A violation of a node.
fn of(node: &Node, code: &'static str, kind: ViolationKind, message: String) -> Violation {
    let (id, class) = (Some(node.id.clone()), Some(node.class.clone()));
    Violation { code, kind, node: id, class, input: None, bound: None, limit: None, key: None, chain: None, message }
}

/// A violation of the whole.
fn whole(code: &'static str, kind: ViolationKind, message: String) -> Violation {
    Violation {
        code,
        kind,
        node: None,
        class: None,
        input: None,
        bound: None,
        limit: None,
        key: None,
        chain: None,
        message,
    }
}
