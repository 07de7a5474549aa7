//! What a policy says about the classes of installed packs, laid over a catalogue for one workflow.

use std::collections::BTreeMap;

use super::annotations::ClassAnnotation;
use super::{Catalogue, ClassSignature, DeclaredType, InputKind, InputSignature};

/// Annotations of a policy by class. ComfyUI's own classes have none: what they do is a fact of their release.
#[derive(Debug, Clone, Default)]
pub(crate) struct PolicyAnnotations(BTreeMap<String, ClassAnnotation>);

/// Why an annotation of a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AnnotationFault {
    /// The class is one of ComfyUI's own.
    Core,
    /// Not of the form of annotations.
    Form(String),
}

impl PolicyAnnotations {
    /// Adds what a document says about a class, in the form of annotation files. A class that is there already is described anew.
    pub(crate) fn add(&mut self, class: &str, json: serde_json::Value) -> Result<(), AnnotationFault> {
        let is_core = |known: &ClassSignature| known.is_core();
        if Catalogue::builtin().class(class).is_some_and(is_core) {
            return Err(AnnotationFault::Core);
        }
        let read = ClassAnnotation::from_json(json).map_err(|error| AnnotationFault::Form(error.to_string()))?;
        self.0.insert(class.to_owned(), read);
        Ok(())
    }

    /// How many classes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Catalogue {
    /// The classes of a workflow with the annotations of a policy; `None` where it has none for them. Only these classes are in it, and its digest is that of the whole.
    pub(crate) fn annotated_by<'n>(
        &self,
        annotations: &PolicyAnnotations,
        classes: impl Iterator<Item = &'n str>,
    ) -> Option<Catalogue> {
        if annotations.0.is_empty() {
            return None;
        }
        let mut out: BTreeMap<String, ClassSignature> = BTreeMap::new();
        let mut any = false;
        for name in classes {
            if out.contains_key(name) {
                continue;
            }
            let Some(class) = self.class(name) else { continue };
            let class = match annotations.0.get(name).filter(|_| !class.is_core()) {
                Some(annotation) => {
                    any = true;
                    laid_over(class.clone(), annotation)
                }
                None => class.clone(),
            };
            out.insert(name.to_owned(), class);
        }
        if !any {
            return None;
        }
        // Those of ComfyUI's own stay as they are.
        let named = self.by_release.iter().filter(|(name, _)| out.contains_key(*name));
        let by_release = named.map(|(name, known)| (name.clone(), known.clone())).collect();
        Some(Catalogue::holding(out, by_release, self.complete, self.digest))
    }
}

/// A class whose annotated inputs are not all declared, or not of a type that can mean that, is not the class that was annotated.
fn laid_over(class: ClassSignature, annotation: &ClassAnnotation) -> ClassSignature {
    let good = |(name, kind): (&String, &InputKind)| {
        let fits_one = |input: &&InputSignature| fits(*kind, input.declared());
        !candidates(class.inputs(), name).is_empty() && candidates(class.inputs(), name).iter().all(fits_one)
    };
    if !annotation.inputs.iter().all(good) {
        return class.closed("the policy's annotation is about inputs that it does not declare, or of other types");
    }
    class.also_annotated(annotation)
}

/// What a full name may stand for: of a dynamic choice, in each of its options.
fn candidates<'a>(inputs: &'a [InputSignature], name: &str) -> Vec<&'a InputSignature> {
    let mut out = Vec::new();
    // Names have as many parts as dots, and a level is looked at once a part: no deeper than the catalogue's own nesting.
    let mut open: Vec<(&'a [InputSignature], &str)> = vec![(inputs, name)];
    while let Some((inputs, rest)) = open.pop() {
        out.extend(inputs.iter().filter(|input| input.name() == rest));
        let Some((first, inner)) = rest.split_once('.') else { continue };
        for input in inputs.iter().filter(|input| input.name() == first) {
            match input.declared() {
                DeclaredType::DynamicCombo(options) => {
                    open.extend(options.iter().map(|(_, nested)| (nested.as_slice(), inner)));
                }
                DeclaredType::Autogrow { names, item, .. } if names.iter().any(|name| name == inner) => out.push(item),
                _ => {}
            }
        }
    }
    out
}

/// Whether an input of this type can mean that.
fn fits(kind: InputKind, declared: &DeclaredType) -> bool {
    let number = matches!(declared, DeclaredType::Int { .. } | DeclaredType::Float { .. });
    let text = matches!(declared, DeclaredType::Text | DeclaredType::Combo(_));
    // A widget of a pack's own has a type that only the pack knows; its literal is looked at as a text all the same.
    let own = matches!(declared, DeclaredType::Socket(_) | DeclaredType::Any);
    match kind {
        InputKind::Sampler
        | InputKind::Scheduler
        | InputKind::SigmasText
        | InputKind::File
        | InputKind::ModelFile
        | InputKind::SavePrefix
        | InputKind::EvalText
        | InputKind::JsonText
        | InputKind::PromptText
        | InputKind::Url
        | InputKind::TargetUrl => text || own,
        _ => number,
    }
}
