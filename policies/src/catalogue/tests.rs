use super::annotations::Annotations;
use super::shipped::{ANNOTATIONS_0_8_0, COMFYUI_0_8_0};
use super::*;

const LIVE: &[u8] = COMFYUI_0_8_0.as_bytes();

fn edited(edit: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(LIVE).unwrap();
    edit(&mut value);
    value.to_string().into_bytes()
}

#[test]
fn the_shipped_snapshot_is_annotated() {
    let catalogue = Catalogue::builtin();
    assert_eq!(catalogue.len(), 571);
    let sampler = catalogue.class("KSampler").unwrap();
    let kind = |name: &str| sampler.inputs().iter().find(|input| input.name() == name).unwrap().kind();
    assert_eq!(kind("steps"), Some(InputKind::Steps));
    assert_eq!(kind("denoise"), Some(InputKind::Denoise));
    assert_eq!(kind("sampler_name"), Some(InputKind::Sampler));
    assert_eq!(kind("cfg"), None);
    assert!(catalogue.class("CheckpointLoaderSimple").unwrap().is_model_loader());
    assert!(!sampler.is_model_loader());
    assert_eq!(catalogue.class("GateProbeSleep").unwrap().pack(), "gate_probe");
}

#[test]
fn every_annotation_names_an_input_that_exists() {
    let text: serde_json::Value = serde_json::from_str(ANNOTATIONS_0_8_0).unwrap();
    for (name, annotation) in text["classes"].as_object().unwrap() {
        let class = Catalogue::builtin().class(name);
        for input in annotation["inputs"].as_object().into_iter().flat_map(|inputs| inputs.keys()) {
            let class = class.unwrap_or_else(|| panic!("{name}"));
            let (first, rest) = input.split_once('.').map_or((input.as_str(), None), |(a, b)| (a, Some(b)));
            let found =
                class.inputs().iter().find(|known| known.name() == first).unwrap_or_else(|| panic!("{name}.{input}"));
            if let (Some(rest), DeclaredType::DynamicCombo(options)) = (rest, found.declared()) {
                assert!(
                    options.iter().any(|(_, inputs)| inputs.iter().any(|known| known.name() == rest)),
                    "{name}.{input}"
                );
            }
        }
    }
}

#[test]
fn every_save_prefix_of_an_output_node_is_known_as_one() {
    for class in Catalogue::builtin().classes().filter(|class| class.is_output_node()) {
        for input in class.inputs().iter().filter(|input| input.name() == "filename_prefix") {
            assert_eq!(input.kind(), Some(InputKind::SavePrefix), "{}", class.name());
        }
    }
}

#[test]
fn a_catalogue_read_from_the_same_object_info_is_the_shipped_one() {
    let read = Catalogue::from_object_info(LIVE).unwrap();
    // The test nodes are no core classes, so they have their declared kinds only.
    for class in Catalogue::builtin().classes() {
        assert_eq!(read.class(class.name()), Some(class), "{}", class.name());
    }
    assert_eq!(read.digest(), Catalogue::builtin().digest());
}

#[test]
fn a_core_class_with_another_signature_is_closed() {
    let live = edited(|value| {
        value["KSampler"]["input"]["required"]["speed"] = serde_json::json!(["INT", {}]);
        value["NewNode"] = value["VAEDecode"].clone();
        value["OtherPack"] = value["VAEDecode"].clone();
        value["OtherPack"]["python_module"] = serde_json::json!("custom_nodes.other");
    });
    let read = Catalogue::from_object_info(&live).unwrap();
    assert!(read.class("KSampler").unwrap().closed_because().is_some());
    assert!(read.class("NewNode").unwrap().closed_because().is_some());
    assert_eq!(read.class("OtherPack").unwrap().closed_because(), None);
    assert_eq!(read.class("OtherPack").unwrap().pack(), "other");
    assert_eq!(read.class("VAEDecode").unwrap().closed_because(), None);
    assert_ne!(read.digest(), Catalogue::builtin().digest());
}

#[test]
fn another_pack_s_inputs_have_the_kinds_that_their_declaration_shows() {
    let live = br#"{"X":{"input":{"required":{"steps":["INT",{}],"filename_prefix":["STRING",{}],"image":[["a"],{"image_upload":true}]}},
        "output":["IMAGE"],"output_node":true,"python_module":"custom_nodes.x"}}"#;
    let read = Catalogue::from_object_info(live).unwrap();
    let kinds: Vec<Option<InputKind>> = read.class("X").unwrap().inputs().iter().map(InputSignature::kind).collect();
    assert_eq!(kinds, [Some(InputKind::Steps), Some(InputKind::SavePrefix), Some(InputKind::File)]);
}

#[test]
fn agreement_ignores_option_lists_and_defaults_and_nothing_else() {
    let live = edited(|value| {
        value["KSampler"]["input"]["required"]["sampler_name"] = serde_json::json!([["only"], {}]);
        value["KSampler"]["input"]["required"]["steps"] =
            serde_json::json!(["INT", {"default": 7, "min": 0, "max": 3}]);
        value["VAEDecode"]["output"] = serde_json::json!(["LATENT"]);
        value["SaveImage"]["output_node"] = serde_json::json!(false);
        value.as_object_mut().unwrap().remove("LoadImage");
    });
    let agreement = Catalogue::builtin().agreement(&live).unwrap();
    assert!(agreement.agrees("KSampler") && agreement.agrees("EmptyLatentImage"));
    assert_eq!(agreement.missing().collect::<Vec<_>>(), ["LoadImage"]);
    assert_eq!(agreement.differing().collect::<Vec<_>>(), ["SaveImage", "VAEDecode"]);
    assert!(!agreement.agrees("LoadImage") && !agreement.agrees("nothing"));
}

#[test]
fn what_is_no_object_info_is_refused() {
    for text in [
        "",
        "[]",
        "{\"A\":{}}",
        "{\"A\":{\"input\":{\"required\":{\"x\":[]}}}}",
        "{\"A\":{\"input\":{\"required\":{\"x\":[5]}}}}",
    ] {
        assert!(Catalogue::from_object_info(text.as_bytes()).is_err(), "{text}");
    }
    assert!(Catalogue::from_object_info(b"{\"A\":{\"input\":{}}}").is_ok());
}

/// The numbers among inputs, by full name, those of dynamic choices and rows too.
fn numbers(inputs: &[InputSignature], before: &str, out: &mut Vec<(String, Option<InputKind>)>) {
    for input in inputs {
        let full = format!("{before}{}", input.name());
        match input.declared() {
            DeclaredType::Int { .. } | DeclaredType::Float { .. } => out.push((full, input.kind())),
            DeclaredType::DynamicCombo(options) => {
                options.iter().for_each(|(_, nested)| numbers(nested, &format!("{full}."), out));
            }
            DeclaredType::Autogrow { item, .. } => match item.declared() {
                DeclaredType::Int { .. } | DeclaredType::Float { .. } => out.push((full, item.kind())),
                _ => {}
            },
            _ => {}
        }
    }
}

#[test]
fn every_number_of_a_core_class_has_a_kind_or_a_reason_why_it_needs_none() {
    let annotations = Annotations::read(ANNOTATIONS_0_8_0).unwrap();
    let mut judged = 0;
    for class in Catalogue::builtin().classes().filter(|class| class.is_core() && !class.is_paid()) {
        // Classes of later releases have annotations of their own.
        let Some(annotation) = annotations.classes.get(class.name()) else {
            let mut found = Vec::new();
            numbers(class.inputs(), "", &mut found);
            let own = serde_json::from_str::<serde_json::Value>(COMFYUI_0_8_0).unwrap();
            assert!(found.is_empty() || own.get(class.name()).is_none(), "{}: {found:?}", class.name());
            continue;
        };
        let mut found = Vec::new();
        numbers(class.inputs(), "", &mut found);
        for (name, kind) in found {
            let harmless = annotation.harmless.get(&name).or_else(|| annotation.harmless.get("*"));
            assert!(kind.is_some() || harmless.is_some(), "{}.{name}", class.name());
            judged += 1;
        }
    }
    assert!(judged > 1000, "{judged}");
}

#[test]
fn every_reason_is_told_and_used() {
    let annotations = Annotations::read(ANNOTATIONS_0_8_0).unwrap();
    let used: std::collections::BTreeSet<&String> =
        annotations.classes.values().flat_map(|class| class.harmless.values()).collect();
    for reason in &used {
        assert!(annotations.reasons.contains_key(*reason), "{reason}");
    }
    for reason in annotations.reasons.keys() {
        assert!(used.contains(reason), "{reason}");
    }
}

#[test]
fn every_harmless_input_exists_and_has_no_kind() {
    let annotations = Annotations::read(ANNOTATIONS_0_8_0).unwrap();
    for (name, annotation) in &annotations.classes {
        let Some(class) = Catalogue::builtin().class(name) else { continue };
        let mut found = Vec::new();
        numbers(class.inputs(), "", &mut found);
        for input in annotation.harmless.keys().filter(|input| *input != "*") {
            assert!(found.iter().any(|(known, kind)| known == input && kind.is_none()), "{name}.{input}");
        }
    }
}

#[test]
fn every_list_of_a_core_class_has_a_rule() {
    for class in Catalogue::builtin().classes().filter(|class| class.is_core() && !class.is_paid()) {
        for (slot, output) in class.outputs().iter().enumerate().filter(|(_, output)| output.is_list()) {
            assert!(class.list_rule(slot).is_some(), "{} gives a list of {}", class.name(), output.type_name());
        }
    }
}

#[test]
fn every_core_class_that_makes_something_with_a_size_has_a_rule_for_it() {
    const SIZED: [&str; 6] = ["IMAGE", "LATENT", "MASK", "VIDEO", "AUDIO", "TRACKS"];
    for class in Catalogue::builtin().classes().filter(|class| class.is_core() && !class.is_paid()) {
        for (slot, output) in class.outputs().iter().enumerate() {
            let sized = SIZED.contains(&output.type_name()) || output.template().is_some();
            assert!(!sized || class.size_rule(slot).is_some(), "{} slot {slot}", class.name());
        }
    }
}
