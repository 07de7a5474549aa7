//! What a learned policy promises: it accepts what it was learned from, its like, and nothing beyond; in any order the same.

use serde_json::{Value, json};

use super::*;
use crate::{NodeId, parse};

fn prompt(model: &str, width: u64, steps: u64, sampler: &str) -> Value {
    json!({
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "x"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": width, "height": 512, "batch_size": 1}},
        "4": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "seed": 1,
            "steps": steps, "cfg": 7, "sampler_name": sampler, "scheduler": "normal", "denoise": 0.5}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
    })
}

fn sample(name: &str, prompt: &Value) -> Sample {
    let parsed = parse(json!({ "prompt": prompt }).to_string().as_bytes()).unwrap();
    Sample { name: name.to_owned(), parsed, files: FileFacts::none() }
}

fn learned(samples: &[Sample]) -> Learned {
    learn(samples, Catalogue::builtin(), &LearnOptions::default()).unwrap()
}

/// Codes of what the document has against a workflow.
fn against(document: &str, prompt: &Value) -> Vec<&'static str> {
    let policy = Policy::from_toml(document).unwrap_or_else(|faults| panic!("{faults}\n{document}"));
    match decide(&sample("", prompt).parsed, &policy, Catalogue::builtin(), &FileFacts::none()) {
        Verdict::Allow(_) => Vec::new(),
        Verdict::Deny(violations) => violations.iter().map(|violation| violation.code).collect(),
    }
}

#[test]
fn the_document_accepts_its_samples_and_their_like_and_nothing_beyond_its_headroom() {
    let samples = [
        sample("a", &prompt("a.safetensors", 512, 20, "euler")),
        sample("b", &prompt("b.safetensors", 1024, 28, "heun")),
    ];
    let Learned { document, samples: count, left_out } = learned(&samples);
    assert!(left_out.is_empty(), "{left_out:?}");
    assert_eq!(count, 2);
    for (model, width, steps, sampler, allowed) in [
        ("a.safetensors", 512, 20, "euler", true),
        ("b.safetensors", 1024, 28, "heun", true),
        ("a.safetensors", 1280, 28, "euler", true),
        ("a.safetensors", 1288, 20, "euler", false),
        ("c.safetensors", 512, 20, "euler", false),
        ("a.safetensors", 512, 100, "euler", false),
        ("a.safetensors", 512, 20, "lms", false),
    ] {
        let found = against(&document, &prompt(model, width, steps, sampler));
        assert_eq!(found.is_empty(), allowed, "{model} {width} {steps} {sampler}: {found:?}\n{document}");
    }
    let mut other = prompt("a.safetensors", 512, 20, "euler");
    other["6"]["class_type"] = json!("PreviewImage");
    other["6"]["inputs"] = json!({"images": ["5", 0]});
    assert_eq!(against(&document, &other), ["class_not_allowed"]);
}

#[test]
fn the_same_samples_in_any_order_and_number_give_the_same_bytes() {
    let mut samples: Vec<Sample> = (0..6)
        .map(|place| sample("x", &prompt(&format!("{place}.safetensors"), 512 + 64 * place, 10 + place, "euler")))
        .collect();
    let first = learned(&samples).document;
    samples.reverse();
    samples.push(samples[2].clone());
    assert_eq!(learned(&samples).document, first);
}

#[test]
fn a_document_is_as_a_person_would_write_it() {
    let document = learned(&[sample("a", &prompt("SDXL\\a [x].safetensors", 1024, 20, "euler"))]).document;
    for wanted in [
        "    # nodes\n    \"CLIPTextEncode\",\n",
        "[samplers]\nallow = [\"euler\"]\n",
        "steps = 25\n",
        "width = 1280\n",
        "height = 1280\n",
        "batch = 1\n",
        "denoise_min = 0.4\n",
    ] {
        assert!(document.contains(wanted), "{wanted}\n{document}");
    }
}

#[test]
fn what_no_policy_allows_is_left_out_and_named() {
    let mut broken = prompt("a.safetensors", 512, 20, "euler");
    broken["3"]["inputs"]["huh"] = json!(["1", 0]);
    let samples = [sample("good", &prompt("a.safetensors", 512, 20, "euler")), sample("broken", &broken)];
    let found = learned(&samples);
    assert_eq!(found.left_out.iter().map(|left| left.name.as_str()).collect::<Vec<_>>(), ["broken"]);
    let violation = &found.left_out[0].violations[0];
    assert_eq!((violation.code, violation.node.as_ref().map(NodeId::as_str)), ("undeclared_input", Some("3")));
    let error = learn(&samples[1..], Catalogue::builtin(), &LearnOptions::default()).unwrap_err();
    let LearnError::Nothing(left_out) = error else { panic!("{error}") };
    assert_eq!(left_out[0].violations[0].code, "undeclared_input", "and it says why");
}

#[test]
fn what_has_no_bound_is_learned_only_without_caps() {
    let adaptive = [
        sample("a", &prompt("a.safetensors", 512, 20, "dpm_adaptive")),
        sample("b", &prompt("a.safetensors", 512, 20, "euler")),
    ];
    let capped = learned(&adaptive);
    assert_eq!(capped.left_out.iter().map(|left| left.name.as_str()).collect::<Vec<_>>(), ["a"]);
    let options = LearnOptions { caps: false, ..LearnOptions::default() };
    let free = learn(&adaptive, Catalogue::builtin(), &options).unwrap();
    assert!(free.left_out.is_empty() && !free.document.contains("steps ="), "{}", free.document);
}

#[test]
fn options_out_of_range_are_told() {
    let samples = [sample("a", &prompt("a.safetensors", 512, 20, "euler"))];
    for options in [
        LearnOptions { headroom: 0.99, ..LearnOptions::default() },
        LearnOptions { headroom: f64::NAN, ..LearnOptions::default() },
        LearnOptions { vae_scale: 0, ..LearnOptions::default() },
        LearnOptions { upscale_model_factor: 65, ..LearnOptions::default() },
    ] {
        assert!(matches!(learn(&samples, Catalogue::builtin(), &options), Err(LearnError::Options(_))));
    }
    let exact = LearnOptions { headroom: 1.0, ..LearnOptions::default() };
    assert!(learn(&samples, Catalogue::builtin(), &exact).unwrap().left_out.is_empty());
}
