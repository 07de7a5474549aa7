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
    let catalogue = Catalogue::builtin_arc();
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
    for class in Catalogue::builtin_arc().classes() {
        assert_eq!(read.class(class.name()), Some(class), "{}", class.name());
    }
    assert_eq!(read.digest(), Catalogue::builtin_arc().digest());
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
    let agreement = Catalogue::builtin_arc().agreement(&live).unwrap();
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
