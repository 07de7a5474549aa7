use super::*;

fn faults(text: &str) -> Vec<(usize, usize, String, String)> {
    let errors = Policy::from_toml(text).unwrap_err();
    errors.iter().map(|error| (error.line, error.column, error.key.clone(), error.message.clone())).collect()
}

#[test]
fn the_shipped_documents_load_under_their_own_names() {
    for (name, text) in DOCUMENTS {
        assert!(Policy::from_toml(text).is_ok(), "{name}: {}", Policy::from_toml(text).unwrap_err());
        assert_eq!(Policy::builtin(name).unwrap().name(), name);
    }
    assert!(Policy::builtin("other").is_none());
}

#[test]
fn every_fault_is_told_with_its_place() {
    let text = "name = \"\"\n[classes]\nalow = [\"x\"]\n[caps]\nstep = 5\nwidth = 0\nmegapixels = \"x\"\nheight = 1.5\n[clases]\n";
    let found = faults(text);
    let keys: Vec<&str> = found.iter().map(|(_, _, key, _)| key.as_str()).collect();
    assert_eq!(keys, ["name", "classes.alow", "caps.step", "caps.width", "caps.megapixels", "caps.height", "clases"]);
    assert_eq!((found[1].0, found[1].1), (3, 1));
    assert!(found[1].3.contains("did you mean `allow`?"), "{}", found[1].3);
    assert!(found[2].3.contains("did you mean `steps`?"));
    assert_eq!((found[3].0, found[3].1), (6, 9));
    assert!(found[6].3.contains("did you mean `classes`?"));
}

#[test]
fn broken_toml_and_broken_patterns_are_faults() {
    assert!(!faults("name = \n").is_empty());
    let found = faults("name = \"x\"\n[classes]\nallow = [\"a[\", 5]\n");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].0, 3);
    assert!(!faults("[classes]\n").is_empty(), "a name is needed");
    assert_eq!(faults("name = \"x\"\nclasses = 5\n")[0].2, "classes");
}

#[test]
fn a_denial_wins_over_an_allowance_of_class_or_pack() {
    let policy = Policy::from_toml(
        "name = \"x\"\n[classes]\nallow = [\"KSampler*\", \"Kling*\"]\ndeny = [\"*Advanced\"]\n[packs]\nallow = [\"custom_nodes.gate_probe\"]\ndeny = [\"comfy_api_nodes*\"]\n",
    )
    .unwrap();
    let refusal = |name: &str| policy.class_refusal(crate::Catalogue::builtin().class(name).unwrap());
    assert_eq!(refusal("KSampler"), None);
    assert_eq!(refusal("KSamplerAdvanced"), Some(ClassRefusal::Denied));
    assert_eq!(refusal("GateProbeSleep"), None);
    assert_eq!(refusal("KlingVirtualTryOnNode"), Some(ClassRefusal::Denied));
    assert_eq!(refusal("SaveImage"), Some(ClassRefusal::NotAllowed));
}

#[test]
fn nothing_is_allowed_or_limited_unless_the_document_says_so() {
    let policy = Policy::from_toml("name = \"x\"").unwrap();
    assert!(policy.class_refusal(crate::Catalogue::builtin().class("SaveImage").unwrap()).is_some());
    assert!(!policy.caps.limits_anything());
    assert_eq!(policy.caps.vae_scale, 32);
    assert!(policy.allows_sampler("euler"));
}

#[test]
fn the_digest_changes_with_the_document() {
    let digest = |text: &str| Policy::from_toml(text).unwrap().digest();
    assert_eq!(digest("name = \"x\""), digest("name = \"x\""));
    assert_ne!(digest("name = \"x\""), digest("name = \"y\""));
}

#[test]
fn the_default_policy_keeps_the_dangerous_classes_off() {
    let policy = Policy::builtin("default").unwrap();
    let catalogue = crate::Catalogue::builtin();
    for name in [
        "CheckpointSave",
        "ModelSave",
        "CLIPSave",
        "VAESave",
        "ImageOnlyCheckpointSave",
        "LoraSave",
        "SaveLoRA",
        "TrainLoraNode",
        "LoadLatent",
        "RegexReplace",
        "RegexMatch",
        "RegexExtract",
        "Load3D",
        "Preview3D",
        "WebcamCapture",
        "RecordAudio",
        "DiffusersLoader",
        "CheckpointLoader",
        "SaveSVGNode",
        "LoadTrainingDataset",
        "SaveTrainingDataset",
        "SaveImageDataSetToFolder",
        "LoadImageDataSetFromFolder",
        "SamplerDPMAdaptative",
    ] {
        assert!(policy.class_refusal(catalogue.class(name).unwrap_or_else(|| panic!("{name}"))).is_some(), "{name}");
    }
    for class in catalogue.classes().filter(|class| class.is_paid()) {
        assert!(policy.class_refusal(class).is_some(), "{}", class.name());
    }
    for name in ["KSampler", "SaveImage", "LoadImage", "ComfySwitchNode", "GateProbeSleep", "VAEDecode"] {
        assert_eq!(policy.class_refusal(catalogue.class(name).unwrap()), None, "{name}");
    }
}
