//! Every key of the policy language: what stands just inside it and just outside, that a fault of each is told at its line, and that the README names it.
//!
//! The keys are those of the schema, which another test holds against the reader: a key that is new there fails here until it has its pair.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
use std::collections::BTreeSet;

use comfygate_policy::{Catalogue, Directory, FileFact, FileFacts, Policy, Verdict, decide, parse};
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../policy.schema.json");

/// The schema's keys that hold a value, as they are written: `caps.steps`, `models.allow`, `annotations.residue`.
fn keys() -> Vec<(String, Value)> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut out = Vec::new();
    let mut open = vec![(String::new(), schema)];
    while let Some((prefix, schema)) = open.pop() {
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let parts = [inner, &inner["items"], &inner["additionalProperties"]];
            match parts.into_iter().find(|part| part["properties"].is_object()) {
                Some(part) => open.push((key, part.clone())),
                None => out.push((key, inner.clone())),
            }
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

/// Text to image, with a sound and a film beside it. Every number that a cap is about is written out.
fn workflow() -> Value {
    json!({
        "m": node("CheckpointLoaderSimple", json!({"ckpt_name": "sdxl/base.safetensors"})),
        "t": node("CLIPTextEncode", json!({"clip": ["m", 1], "text": "a cat, embedding:easy"})),
        "l": node("EmptyLatentImage", json!({"width": 1024, "height": 768, "batch_size": 2})),
        "k": node("KSampler", json!({"model": ["m", 0], "positive": ["t", 0], "negative": ["t", 0], "latent_image": ["l", 0],
            "seed": 1, "steps": 20, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.5})),
        "v": node("VAEDecode", json!({"samples": ["k", 0], "vae": ["m", 2]})),
        "s": node("SaveImage", json!({"images": ["v", 0], "filename_prefix": "x"})),
        "u": node("UpscaleModelLoader", json!({"model_name": "4x.pth"})),
        "w": node("ImageUpscaleWithModel", json!({"upscale_model": ["u", 0], "image": ["e", 0]})),
        "e": node("EmptyImage", json!({"width": 256, "height": 192, "batch_size": 1, "color": 0})),
        "b": node("ImageScaleBy", json!({"image": ["e", 0], "upscale_method": "area", "scale_by": 2.0})),
        "p": node("PreviewImage", json!({"images": ["b", 0]})),
        "a": node("EmptyAudio", json!({"duration": 30.0, "sample_rate": 44_100, "channels": 2})),
        "f": node("EmptyHunyuanLatentVideo", json!({"width": 512, "height": 512, "length": 17, "batch_size": 1})),
        "d": node("VAEDecode", json!({"samples": ["f", 0], "vae": ["m", 2]})),
        "i": node("LoadImage", json!({"image": "me.png"})),
    })
}

/// A workflow of a pack's node alone, which says where it saves, what it reads, fetches and makes.
fn of_a_pack(inputs: Value) -> (Value, Catalogue) {
    let info = json!({"PackNode": {"input": {"required": {"url": ["STRING", {}], "out": ["STRING", {}], "source": ["STRING", {}], "width": ["INT", {}]}},
        "output": ["IMAGE", "INT"], "output_is_list": [false, false], "output_node": true, "python_module": "custom_nodes.pack"}});
    let given = json!({"url": "https://example.org/a", "out": "x", "source": "me.png", "width": 64});
    let given = given.as_object().unwrap().clone().into_iter().chain(inputs.as_object().unwrap().clone());
    let workflow = json!({"1": node("PackNode", given.collect::<serde_json::Map<_, _>>().into())});
    (workflow, Catalogue::from_object_info(info.to_string().as_bytes()).unwrap())
}

fn reads(text: &str) -> bool {
    Policy::from_toml(text).is_ok()
}

fn allows(text: &str, workflow: &Value, catalogue: &Catalogue) -> bool {
    let policy = Policy::from_toml(text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    let parsed = parse(json!({ "prompt": workflow }).to_string().as_bytes()).unwrap();
    let mut files = FileFacts::assumed(&policy);
    if !text.contains("assumed_upload") {
        files = FileFacts::none();
        let fact =
            FileFact { canonical_name: "t/a/1.png".into(), width: 512, height: 512, frames: 1, seconds: Some(10) };
        files.insert("me.png", Directory::Input, fact);
    }
    matches!(decide(&parsed, &policy, catalogue, &files), Verdict::Allow(approved) if approved.pruned().is_none())
}

/// A document that allows the workflow, with this besides.
fn open(text: &str) -> String {
    let classes = if text.contains("[classes]") { "" } else { "\n[classes]\nallow = [\"*\"]\n" };
    format!("name = \"x\"\n{text}\n{classes}")
}

/// The smallest difference: the document as `inside` allows the workflow of all keys, as `outside` refuses it.
fn pairs() -> Vec<(&'static str, String, String)> {
    let cap = |key: &'static str, inside: &str, outside: &str| {
        // What a cell and an upscale model become matters to sizes only where these are capped.
        let sizes = match key {
            "caps.vae_scale" => "width = 2048\n",
            "caps.vae_frames" => "vae_scale = 8\nframes = 17\n",
            "caps.upscale_model_factor" => "vae_scale = 8\nwidth = 1024\n",
            _ => "vae_scale = 8\nvae_frames = 4\nupscale_model_factor = 4\n",
        };
        let name = key.strip_prefix("caps.").unwrap();
        let with = |value: &str| open(&format!("[caps]\n{sizes}{name} = {value}\n"));
        (key, with(inside), with(outside))
    };
    let list = |key: &'static str, inside: &str, outside: &str| {
        let (section, name) = key.split_once('.').unwrap();
        (key, open(&format!("[{section}]\n{name} = {inside}\n")), open(&format!("[{section}]\n{name} = {outside}\n")))
    };
    let models = |key: &'static str, inside: &str, outside: &str| {
        let rule = |text: &str| open(&format!("[[models]]\n{text}\n"));
        (key, rule(inside), rule(outside))
    };
    vec![
        cap("caps.steps", "20", "19"),
        cap("caps.steps_total", "20", "19"),
        cap("caps.width", "1024", "1023"),
        cap("caps.height", "768", "767"),
        cap("caps.megapixels", "0.79", "0.78"),
        // A film of 17 frames.
        cap("caps.megapixels_total", "4.46", "4.45"),
        cap("caps.batch", "2", "1"),
        cap("caps.frames", "17", "16"),
        cap("caps.seconds", "30", "29.9"),
        cap("caps.denoise_min", "0.5", "0.51"),
        cap("caps.nodes", "15", "14"),
        cap("caps.outputs", "2", "1"),
        cap("caps.upscale", "2", "1.9"),
        // 256 pixels become 1024, and 1024 of cells of 8 become 2048 of cells of 16.
        cap("caps.upscale_model_factor", "4", "5"),
        cap("caps.vae_scale", "16", "17"),
        // Of a film of 17 frames five cells in time, the first of one frame.
        cap("caps.vae_frames", "4", "5"),
        list("classes.allow", "[\"*\"]", "[\"[!E]*\"]"),
        (
            "classes.deny",
            open("[classes]\nallow = [\"*\"]\ndeny = [\"EmptyImages\"]\n"),
            open("[classes]\nallow = [\"*\"]\ndeny = [\"EmptyImage\"]\n"),
        ),
        (
            "packs.allow",
            "name = \"x\"\n[packs]\nallow = [\"core\"]\n".to_owned(),
            "name = \"x\"\n[packs]\nallow = [\"other\"]\n".to_owned(),
        ),
        list("packs.deny", "[\"other\"]", "[\"core\"]"),
        list("samplers.allow", "[\"euler\"]", "[\"heun\"]"),
        list("samplers.deny", "[\"heun\"]", "[\"euler\"]"),
        list("schedulers.allow", "[\"normal\"]", "[\"simple\"]"),
        list("schedulers.deny", "[\"simple\"]", "[\"normal\"]"),
        models("models.input", "input = \"lora_name\"\nallow = [\"a\"]", "input = \"ckpt_name\"\nallow = [\"a\"]"),
        models(
            "models.allow",
            "input = \"ckpt_name\"\nallow = [\"sdxl/*\"]",
            "input = \"ckpt_name\"\nallow = [\"sdxl\"]",
        ),
        models("models.deny", "input = \"*\"\ndeny = [\"sdxl\"]", "input = \"*\"\ndeny = [\"sdxl/*\"]"),
        list("texts.max_bytes", "21", "20"),
        list("texts.deny", "[\"cats\"]", "[\"cat\"]"),
        list("texts.deny_regex", "['\\bca\\b']", "['\\bca.\\b']"),
        list("texts.embeddings", "[\"easy\"]", "[\"eas\"]"),
        (
            "files.inputs.allow",
            open("[files]\ninputs = { allow = [\"LoadImage.image\"] }\n"),
            open("[files]\ninputs = { allow = [\"LoadImage.mask\"] }\n"),
        ),
        (
            "files.inputs.deny",
            open("[files]\ninputs = { deny = [\"*.mask\"] }\n"),
            open("[files]\ninputs = { deny = [\"*.image\"] }\n"),
        ),
        list("files.directories", "[\"input\"]", "[\"output\", \"temp\"]"),
        ("cost_limit", open("cost_limit = 100000\n"), open("cost_limit = 20\n")),
        ("mode", open("mode = \"shadow\"\n[caps]\nsteps = 19\n"), open("mode = \"enforce\"\n[caps]\nsteps = 19\n")),
    ]
}

/// Keys whose pair is not about the workflow above: whether what stands just inside is taken, and whether what stands just outside is.
fn others() -> Vec<(&'static str, bool, bool)> {
    let pack = |text: &str, inputs: Value| {
        let (workflow, catalogue) = of_a_pack(inputs);
        allows(&open(text), &workflow, &catalogue)
    };
    let annotated = |text: &str, inputs: Value| pack(&format!("[annotations.PackNode]\n{text}\n"), inputs);
    let fetch = |network: &str| {
        pack(&format!("[network]\n{network}\n[annotations.PackNode]\ninputs = {{ url = \"url\" }}\n"), json!({}))
    };
    // A document that extends another of two rules, in the words of the second.
    let based = |base: &str, own: &str, workflow: &Value| {
        let files = |_: &str| Some(format!("name = \"base\"\n[classes]\nallow = [\"*\"]\n{base}\n"));
        let policy =
            Policy::from_toml_with(&format!("name = \"x\"\nextends = \"base.toml\"\n{own}\n"), &files).unwrap();
        let parsed = parse(json!({ "prompt": workflow }).to_string().as_bytes()).unwrap();
        let mut files = FileFacts::none();
        let fact =
            FileFact { canonical_name: "t/a/1.png".into(), width: 512, height: 512, frames: 1, seconds: Some(10) };
        files.insert("me.png", Directory::Input, fact);
        matches!(decide(&parsed, &policy, Catalogue::builtin(), &files), Verdict::Allow(_))
    };
    let model = |replace: bool| {
        let own = format!("[[models]]\ninput = \"ckpt_name\"\nallow = [\"sdxl/*\"]\ndeny = []\nreplace = {replace}");
        based("[[models]]\ninput = \"ckpt_name\"\ndeny = [\"sdxl/*\"]", &own, &workflow())
    };
    let text = |replace: bool| based("[texts]\nmax_bytes = 4", &format!("[texts]\nreplace = {replace}"), &workflow());
    // What the base denies is forgotten by what replaces it.
    let replaced = |section: &str, replace: bool| {
        based(&format!("[{section}]\ndeny = [\"*\"]"), &format!("[{section}]\nreplace = {replace}"), &workflow())
    };
    let class = |replace: bool| {
        let files = |_: &str| Some("name = \"base\"\n[classes]\ndeny = [\"KSampler\"]\n".to_owned());
        let own = format!("name = \"x\"\nextends = \"base.toml\"\n[classes]\nallow = [\"*\"]\nreplace = {replace}\n");
        let policy = Policy::from_toml_with(&own, &files).unwrap();
        policy.allows_class(Catalogue::builtin().class("KSampler").unwrap())
    };
    let cap = |replace: bool| based("[caps]\nsteps = 1", &format!("[caps]\nreplace = {replace}"), &workflow());
    let file = |replace: bool| {
        let own = format!("[files]\ninputs = {{ replace = {replace} }}");
        based("[files]\ninputs = { deny = [\"*\"] }", &own, &workflow())
    };
    let network = |replace: bool| {
        let files = |_: &str| Some("name = \"base\"\n[network]\ndeny = [\"example.org\"]\n".to_owned());
        let own = format!(
            "name = \"x\"\nextends = \"base.toml\"\n[classes]\nallow = [\"*\"]\n[network]\nallow = [\"example.org\"]\nreplace = {replace}\n[annotations.PackNode]\ninputs = {{ url = \"url\" }}\n"
        );
        let (workflow, catalogue) = of_a_pack(json!({}));
        let policy = Policy::from_toml_with(&own, &files).unwrap();
        let parsed = parse(json!({ "prompt": workflow }).to_string().as_bytes()).unwrap();
        matches!(decide(&parsed, &policy, &catalogue, &FileFacts::none()), Verdict::Allow(_))
    };
    let upload = |key: &str, value: u32| {
        let all = ["width", "height", "frames", "seconds"]
            .map(|one| format!("{one} = {}", if one == key { value } else { 1 }));
        let caps = "[caps]\nwidth = 64\nheight = 64\nframes = 64\nbatch = 64\nseconds = 64\nvae_scale = 8\n";
        let nodes = match key {
            "seconds" => {
                json!({"1": node("LoadAudio", json!({"audio": "a.flac"})), "2": node("PreviewAudio", json!({"audio": ["1", 0]}))})
            }
            "frames" => {
                json!({"1": node("LoadVideo", json!({"file": "a.mp4"})), "2": node("GetVideoComponents", json!({"video": ["1", 0]})), "3": node("PreviewImage", json!({"images": ["2", 0]}))})
            }
            _ => {
                json!({"1": node("LoadImage", json!({"image": "a.png"})), "2": node("PreviewImage", json!({"images": ["1", 0]}))})
            }
        };
        allows(
            &open(&format!("[files]\nassumed_upload = {{ {} }}\n{caps}", all.join(", "))),
            &nodes,
            Catalogue::builtin(),
        )
    };
    let paid = |word: &str| {
        let mut nodes = workflow();
        nodes["x"] = node("KlingSingleImageVideoEffectNode", json!({}));
        let policy = Policy::from_toml(&open(&format!("paid_nodes = \"{word}\"\n"))).unwrap();
        let parsed = parse(json!({ "prompt": nodes }).to_string().as_bytes()).unwrap();
        match decide(&parsed, &policy, Catalogue::builtin(), &FileFacts::none()) {
            Verdict::Allow(_) => true,
            Verdict::Deny(violations) => violations.iter().all(|violation| violation.code != "paid_node_refused"),
        }
    };
    let capped = "[caps]\nwidth = 64\nvae_scale = 8\n";
    vec![
        ("name", reads("name = \"x\""), reads("name = \"\"")),
        ("description", reads("name = \"x\"\ndescription = \"y\""), reads("name = \"x\"\ndescription = 5")),
        ("extends", reads("name = \"x\"\nextends = \"strict\""), reads("name = \"x\"\nextends = \"other\"")),
        ("posture", reads("name = \"x\"\nposture = \"owner\""), reads("name = \"x\"\nposture = \"Owner\"")),
        (
            "routes",
            reads("name = \"x\"\nposture = \"owner\"\nroutes = [\"manager\"]"),
            reads("name = \"x\"\nroutes = [\"manager\"]"),
        ),
        ("paid_nodes", paid("gateway"), paid("deny")),
        ("network.allow", fetch("allow = [\"example.org\"]"), fetch("allow = [\"example.net\"]")),
        (
            "network.deny",
            fetch("allow = [\"*\"]\ndeny = [\"example.net\"]"),
            fetch("allow = [\"*\"]\ndeny = [\"example.org\"]"),
        ),
        ("network.replace", network(true), network(false)),
        ("models.replace", model(true), model(false)),
        ("texts.replace", text(true), text(false)),
        ("samplers.replace", replaced("samplers", true), replaced("samplers", false)),
        ("schedulers.replace", replaced("schedulers", true), replaced("schedulers", false)),
        ("packs.replace", replaced("packs", true), replaced("packs", false)),
        ("classes.replace", class(true), class(false)),
        ("caps.replace", cap(true), cap(false)),
        ("files.inputs.replace", file(true), file(false)),
        ("files.assumed_upload.width", upload("width", 64), upload("width", 65)),
        ("files.assumed_upload.height", upload("height", 64), upload("height", 65)),
        ("files.assumed_upload.frames", upload("frames", 64), upload("frames", 65)),
        ("files.assumed_upload.seconds", upload("seconds", 64), upload("seconds", 65)),
        (
            "annotations.inputs",
            pack(
                &format!(
                    "{capped}[annotations.PackNode]\ninputs = {{ width = \"width\" }}\nsizes = {{ made = {{ width = \"width\", height = 8 }} }}\n"
                ),
                json!({"width": 64}),
            ),
            pack(
                &format!(
                    "{capped}[annotations.PackNode]\ninputs = {{ width = \"width\" }}\nsizes = {{ made = {{ width = \"width\", height = 8 }} }}\n"
                ),
                json!({"width": 65}),
            ),
        ),
        (
            "annotations.save_prefix",
            annotated("save_prefix = [\"out\"]", json!({"out": "a/b"})),
            annotated("save_prefix = [\"out\"]", json!({"out": "../b"})),
        ),
        (
            "annotations.file_inputs",
            annotated("file_inputs = [\"source\"]", json!({"source": "me.png"})),
            annotated("file_inputs = [\"source\"]", json!({"source": "other.png"})),
        ),
        (
            "annotations.residue",
            annotated("residue = [\"left\"]", json!({"left": 1})),
            annotated("residue = [\"left\"]", json!({"lefts": 1})),
        ),
        (
            "annotations.dynamic",
            annotated(
                "dynamic = [{ pattern = \"lora_*\", shape = { on = \"BOOLEAN\" } }]",
                json!({"lora_1": {"on": true}}),
            ),
            annotated(
                "dynamic = [{ pattern = \"lora_*\", shape = { on = \"BOOLEAN\" } }]",
                json!({"lora_1": {"on": 1}}),
            ),
        ),
        (
            "annotations.returns_expand",
            annotated("returns_expand = false", json!({})),
            annotated("returns_expand = true", json!({})),
        ),
        (
            "annotations.sizes",
            pack(
                &format!("{capped}[annotations.PackNode]\nsizes = {{ made = {{ width = 64, height = 8 }} }}\n"),
                json!({}),
            ),
            pack(
                &format!("{capped}[annotations.PackNode]\nsizes = {{ made = {{ width = 65, height = 8 }} }}\n"),
                json!({}),
            ),
        ),
        ("annotations.values", computed("[0, 64]"), computed("[0, 65]")),
    ]
}

/// A number of a pack's node as a width of another, of at most 64.
fn computed(range: &str) -> bool {
    let info = json!({
        "PackNode": {"input": {"required": {}}, "output": ["INT"], "output_is_list": [false], "output_node": false, "python_module": "custom_nodes.pack"},
        "PackShow": {"input": {"required": {"width": ["INT", {}]}}, "output": [], "output_is_list": [], "output_node": true, "python_module": "custom_nodes.pack"},
    });
    let catalogue = Catalogue::from_object_info(info.to_string().as_bytes()).unwrap();
    let nodes = json!({"1": node("PackNode", json!({})), "2": node("PackShow", json!({"width": ["1", 0]}))});
    let text = format!(
        "[caps]\nwidth = 64\n[annotations.PackNode]\nvalues = {{ 0 = {{ range = {range} }} }}\n[annotations.PackShow]\ninputs = {{ width = \"width\" }}\n"
    );
    allows(&open(&text), &nodes, &catalogue)
}

#[test]
fn every_key_has_a_pair_just_inside_and_just_outside() {
    let (pairs, others, keys) = (pairs(), others(), keys());
    let known: BTreeSet<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
    let paired = pairs.iter().map(|(key, _, _)| *key).chain(others.iter().map(|(key, _, _)| *key));
    assert_eq!(known, paired.collect());
    assert!(allows(&open(""), &workflow(), Catalogue::builtin()), "it runs where nothing is said");
    for (key, inside, outside) in pairs {
        assert!(allows(&inside, &workflow(), Catalogue::builtin()), "{key}: refused inside\n{inside}");
        assert!(!allows(&outside, &workflow(), Catalogue::builtin()), "{key}: allowed outside\n{outside}");
    }
    for (key, inside, outside) in others {
        assert!(inside, "{key}: refused inside");
        assert!(!outside, "{key}: allowed outside");
    }
}

#[test]
fn a_value_of_another_type_is_a_fault_at_its_line_for_every_key_at_once() {
    let mut text = String::new();
    let mut wanted = Vec::new();
    let mut sections: Vec<(String, Vec<(String, &str)>)> = Vec::new();
    for (key, schema) in keys() {
        let wrong = match schema["type"].as_str() {
            Some("array" | "object" | "boolean") | None => "5",
            Some("string") => "[]",
            _ => "\"x\"",
        };
        // One message speaks for an annotation as a whole.
        if key.starts_with("annotations.") {
            continue;
        }
        let section = key.rsplit_once('.').map_or("", |(section, _)| section).to_owned();
        match sections.iter_mut().find(|(known, _)| *known == section) {
            Some((_, keys)) => keys.push((key, wrong)),
            None => sections.push((section, vec![(key, wrong)])),
        }
    }
    sections.sort();
    let mut line = 0;
    for (section, keys) in sections {
        if !section.is_empty() {
            text.push_str(&if section == "models" { "[[models]]\n".to_owned() } else { format!("[{section}]\n") });
            line += 1;
        }
        for (key, wrong) in keys {
            text.push_str(&format!("{} = {wrong}\n", key.rsplit('.').next().unwrap()));
            line += 1;
            wanted.push((line, key));
        }
    }
    let errors = Policy::from_toml(&text).unwrap_err();
    let told: BTreeSet<(usize, String)> = errors.iter().map(|error| (error.line, error.key.clone())).collect();
    // A base that is none ends the reading: what it would have said is not known. A rule without an input is told once.
    assert_eq!(told.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>(), ["extends"], "{errors}");
    let text = text.replacen("extends = []\n", "# no base\n", 1);
    let errors = Policy::from_toml(&text).unwrap_err();
    let told: BTreeSet<(usize, String)> = errors.iter().map(|error| (error.line, error.key.clone())).collect();
    for (line, key) in wanted.iter().filter(|(_, key)| key != "extends") {
        assert!(told.contains(&(*line, key.clone())), "{key} at line {line}: {errors}\n{text}");
    }
}

#[test]
fn the_readme_names_every_key() {
    let readme = include_str!("../README.md");
    for (key, _) in keys() {
        let name = key.rsplit('.').next().unwrap();
        assert!(readme.contains(&format!("`{name}`")), "{key}");
    }
}
