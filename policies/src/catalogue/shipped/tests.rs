use std::collections::BTreeSet;

use super::super::{Catalogue, DeclaredType};
use super::*;

/// The classes that the packs' files annotate, as the packs declare them: names, types and ranges.
const PACK_CLASSES: &str = include_str!("../../../tests/packs/object_info.json");

fn edited(name: &str, edit: impl Fn(&mut serde_json::Value)) -> Catalogue {
    let mut all: serde_json::Value = serde_json::from_str(PACK_CLASSES).unwrap();
    let mut class = all[name].take();
    edit(&mut class);
    Catalogue::from_object_info(serde_json::json!({ name: class }).to_string().as_bytes()).unwrap()
}

/// INT and FLOAT inputs that nothing is said about.
fn numbers_without_meaning(class: &ClassSignature, annotation: &ClassAnnotation) -> Vec<String> {
    let number = |declared: &DeclaredType| matches!(declared, DeclaredType::Int { .. } | DeclaredType::Float { .. });
    let mut out = Vec::new();
    for input in class.inputs() {
        let mut names = vec![(input.name().to_owned(), input.declared())];
        if let DeclaredType::DynamicCombo(options) = input.declared() {
            let nested = options.iter().flat_map(|(_, nested)| nested);
            names = nested.map(|nested| (format!("{}.{}", input.name(), nested.name()), nested.declared())).collect();
        }
        let named = |name: &String| annotation.inputs.contains_key(name) || annotation.harmless.contains_key(name);
        out.extend(names.into_iter().filter(|(name, declared)| number(declared) && !named(name)).map(|(name, _)| name));
    }
    out
}

#[test]
fn every_annotation_of_a_pack_fits_what_the_pack_declares() {
    let declared = read::classes(PACK_CLASSES.as_bytes()).unwrap();
    let live = Catalogue::from_object_info(PACK_CLASSES.as_bytes()).unwrap();
    assert!(PACKS.len() >= 30, "{} packs", PACKS.len());
    for pack in &shipped().packs {
        for (name, annotation) in &pack.annotations.classes {
            assert!(declared.contains_key(name), "{name} is in the fixture");
            assert!(declared[name].fits(annotation), "{name}");
            assert!(live.class(name).unwrap().is_annotated(), "{name}");
            assert_eq!(numbers_without_meaning(&declared[name], annotation), [""; 0], "{name}");
            for reason in annotation.harmless.values() {
                assert!(pack.annotations.reasons.contains_key(reason), "{name}: {reason}");
            }
        }
    }
}

#[test]
fn every_number_of_a_later_class_is_annotated_or_harmless_with_a_reason() {
    let (later, first) = (annotations(ANNOTATIONS_LATER), annotations(ANNOTATIONS_0_8_0));
    let known: BTreeSet<&String> = shipped().later.iter().flatten().map(|(name, _)| name).collect();
    for name in later.classes.keys() {
        assert!(known.contains(name), "{name} is annotated and in no release");
    }
    for (name, class) in shipped().later.iter().flatten() {
        let annotation = later.classes.get(name).or_else(|| first.classes.get(name)).unwrap();
        let missing: Vec<String> = numbers_without_meaning(class, annotation);
        assert_eq!(missing, [""; 0], "{name}");
        for reason in annotation.harmless.values() {
            assert!(later.reasons.contains_key(reason) || first.reasons.contains_key(reason), "{name}: {reason}");
        }
    }
}

#[test]
fn a_pack_annotation_that_does_not_fit_is_left_out() {
    let annotated = |catalogue: &Catalogue| catalogue.class("ImageResize+").unwrap().is_annotated();
    assert!(annotated(&edited("ImageResize+", |_| {})));
    let without_width = |class: &mut serde_json::Value| {
        class["input"]["required"].as_object_mut().unwrap().remove("width");
    };
    assert!(!annotated(&edited("ImageResize+", without_width)));
    assert!(!annotated(
        &edited("ImageResize+", |class| class["input"]["required"]["width"] = serde_json::json!(["STRING"]))
    ));
    assert!(!annotated(
        &edited("ImageResize+", |class| class["python_module"] = serde_json::json!("custom_nodes.another"))
    ));
    // However the folder is spelt.
    let lower =
        |class: &mut serde_json::Value| class["python_module"] = serde_json::json!("custom_nodes.comfyui_essentials");
    assert!(annotated(&edited("ImageResize+", lower)));
}

#[test]
fn a_class_of_a_later_release_is_open_with_its_signature_and_closed_with_another() {
    let releases: Vec<serde_json::Value> = serde_json::from_str(LATER).unwrap();
    let class = |name: &str| releases.iter().find_map(|release| release["classes"].get(name)).unwrap().clone();
    for name in ["SaveImage", "ComfyMathExpression", "ResolutionSelector"] {
        let live = |class: serde_json::Value| {
            let catalogue =
                Catalogue::from_object_info(serde_json::json!({ name: class }).to_string().as_bytes()).unwrap();
            catalogue.class(name).unwrap().clone()
        };
        assert_eq!(live(class(name)).closed_because(), None, "{name}");
        assert!(live(class(name)).is_annotated());
        let mut changed = class(name);
        changed["input"]["required"]["another"] = serde_json::json!(["INT", {}]);
        assert!(live(changed).closed_because().is_some(), "{name}");
    }
}

#[test]
fn without_an_installation_the_first_release_counts_and_later_classes_are_known() {
    let builtin = Catalogue::builtin();
    assert!(!builtin.is_complete());
    let save = builtin.class("SaveImage").unwrap();
    assert_eq!(save.shape(), shipped().first["SaveImage"].shape());
    assert_ne!(save.shape(), shipped().later.iter().find_map(|release| release.get("SaveImage")).unwrap().shape());
    assert!(builtin.class("ResolutionSelector").is_some());
    assert!(Catalogue::builtin_arc().is_complete());
    assert!(Catalogue::builtin_arc().class("ResolutionSelector").is_none());
}
