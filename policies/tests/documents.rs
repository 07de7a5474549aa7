//! The language of policy documents: what each section refuses, and what lies just inside it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
use comfygate_policy::{
    ApprovedWorkflow, Catalogue, FileFacts, Mode, PaidNodes, Policy, PolicyErrors, Posture, Verdict, Violation, decide,
    parse,
};
use serde_json::{Value, json};

fn policy(text: &str) -> Policy {
    Policy::from_toml(&format!("name = \"x\"\n{text}")).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Everything is allowed but what `text` says.
fn open(text: &str) -> Policy {
    policy(&format!("{text}\n[classes]\nallow = [\"*\"]\n"))
}

fn judged(policy: &Policy, catalogue: &Catalogue, prompt: &Value) -> Result<Box<ApprovedWorkflow>, Vec<Violation>> {
    let parsed = parse(json!({ "prompt": prompt }).to_string().as_bytes()).unwrap();
    match decide(&parsed, policy, catalogue, &FileFacts::assumed(policy)) {
        Verdict::Allow(workflow) => Ok(workflow),
        Verdict::Deny(violations) => Err(violations.iter().cloned().collect()),
    }
}

fn codes(policy: &Policy, prompt: &Value) -> Vec<&'static str> {
    judged(policy, Catalogue::builtin(), prompt)
        .err()
        .unwrap_or_default()
        .iter()
        .map(|violation| violation.code)
        .collect()
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

fn image_of(side: u32) -> Value {
    json!({
        "1": node("EmptyImage", json!({"width": side, "height": side, "batch_size": 1, "color": 0})),
        "2": node("PreviewImage", json!({"images": ["1", 0]})),
    })
}

fn text_to_image(model: &str, text: &Value, steps: u32) -> Value {
    json!({
        "m": node("CheckpointLoaderSimple", json!({"ckpt_name": model})),
        "t": node("CLIPTextEncode", json!({"clip": ["m", 1], "text": text})),
        "l": node("EmptyLatentImage", json!({"width": 1024, "height": 1024, "batch_size": 1})),
        "k": node("KSampler", json!({"model": ["m", 0], "positive": ["t", 0], "negative": ["t", 0], "latent_image": ["l", 0],
            "seed": 1, "steps": steps, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0})),
        "v": node("VAEDecode", json!({"samples": ["k", 0], "vae": ["m", 2]})),
        "s": node("SaveImage", json!({"images": ["v", 0], "filename_prefix": "x"})),
    })
}

fn with(mut prompt: Value, id: &str, node: Value) -> Value {
    prompt[id] = node;
    prompt
}

fn faults(text: &str, files: &dyn Fn(&str) -> Option<String>) -> PolicyErrors {
    Policy::from_toml_with(text, files).unwrap_err()
}

// ---- extends

#[test]
fn a_document_adds_to_the_lists_of_its_base_and_takes_the_place_of_its_numbers() {
    let text = "extends = \"strict\"\n[classes]\nallow = [\"LoadImage\"]\ndeny = [\"PreviewImage\"]\n[caps]\nwidth = 2048\nheight = 2048\nmegapixels = 4.2\nmegapixels_total = 16.8\n";
    let own = policy(text);
    assert_eq!((own.name(), own.extended()), ("x", ["strict".to_owned()].as_slice()));
    let allows = |name: &str| own.allows_class(Catalogue::builtin().class(name).unwrap());
    assert!(allows("LoadImage") && allows("KSampler") && !allows("PreviewImage") && !allows("EmptyImage"));
    let latent = |side: u32| {
        let mut prompt = text_to_image("a", &json!("x"), 10);
        prompt["l"]["inputs"]["width"] = json!(side);
        prompt
    };
    assert!(codes(&own, &latent(2048)).is_empty(), "{:?}", codes(&own, &latent(2048)));
    assert!(codes(&own, &latent(2056)).contains(&"cap_exceeded"));
    assert!(codes(&Policy::builtin("strict").unwrap(), &latent(2048)).contains(&"cap_exceeded"));
}

#[test]
fn a_section_that_replaces_forgets_its_base() {
    let own = policy(
        "extends = \"strict\"\n[classes]\nreplace = true\nallow = [\"EmptyImage\", \"PreviewImage\"]\n[caps]\nreplace = true\n",
    );
    assert!(codes(&own, &image_of(4096)).is_empty());
    assert!(codes(&own, &text_to_image("a", &json!("x"), 10)).contains(&"class_not_allowed"));
    let kept = policy("extends = \"strict\"\n[classes]\nallow = [\"EmptyImage\"]\n");
    assert!(codes(&kept, &image_of(4096)).contains(&"cap_exceeded"));
}

#[test]
fn a_base_may_be_a_file_that_extends_another_and_no_file_takes_a_shipped_name() {
    let files = |name: &str| match name {
        "a.toml" => Some("name = \"a\"\nextends = \"b.toml\"\n[caps]\nsteps = 20\n".to_owned()),
        "b.toml" => Some("name = \"b\"\nposture = \"owner\"\n[caps]\nsteps = 10\nsteps_total = 30\n".to_owned()),
        "strict" => Some("name = \"strict\"\n[classes]\nallow = [\"*\"]\n".to_owned()),
        _ => None,
    };
    let own =
        Policy::from_toml_with("name = \"x\"\nextends = \"a.toml\"\n[classes]\nallow = [\"*\"]\n", &files).unwrap();
    assert_eq!(own.extended(), ["a.toml", "b.toml"]);
    assert_eq!(own.posture(), Posture::Owner);
    assert!(codes(&own, &text_to_image("a", &json!("x"), 20)).is_empty());
    assert!(codes(&own, &text_to_image("a", &json!("x"), 21)).contains(&"cap_exceeded"));
    let shipped = Policy::from_toml_with("name = \"x\"\nextends = \"strict\"\n", &files).unwrap();
    assert!(codes(&shipped, &image_of(64)).contains(&"class_not_allowed"));
}

#[test]
fn a_fault_of_a_base_names_its_document_and_its_line() {
    let files = |name: &str| (name == "a.toml").then(|| "name = \"a\"\n[caps]\nstep = 1\n".to_owned());
    let found = faults("name = \"x\"\nextends = \"a.toml\"\nmod = 1\n", &files);
    let told: Vec<(Option<&str>, usize, &str)> =
        found.iter().map(|fault| (fault.document.as_deref(), fault.line, fault.key.as_str())).collect();
    assert_eq!(told, [(None, 3, "mod"), (Some("a.toml"), 3, "caps.step")]);
    assert!(found.to_string().contains("in `a.toml`: line 3"), "{found}");
}

#[test]
fn documents_that_extend_themselves_one_another_nothing_or_too_many_are_refused() {
    let files = |name: &str| match name {
        "a.toml" => Some("name = \"a\"\nextends = \"b.toml\"\n".to_owned()),
        "b.toml" => Some("name = \"b\"\nextends = \"a.toml\"\n".to_owned()),
        other => other.parse::<u32>().ok().map(|n| format!("name = \"n\"\nextends = \"{}\"\n", n + 1)),
    };
    let message = |base: &str| {
        let found = faults(&format!("name = \"x\"\nextends = \"{base}\"\n"), &files);
        assert_eq!(found.iter().count(), 1, "{found}");
        found.iter().next().unwrap().message.clone()
    };
    assert!(message("a.toml").contains("extends itself"));
    assert!(message("none.toml").contains("there is no policy"));
    assert!(message("1").contains("more than 8 documents"));
    assert!(Policy::from_toml_with("name = \"x\"\nextends = 5\n", &files).is_err());
}

#[test]
fn the_digest_covers_every_document_of_the_chain() {
    let with = |steps: u32| {
        let files = move |_: &str| Some(format!("name = \"a\"\n[caps]\nsteps = {steps}\n"));
        Policy::from_toml_with("name = \"x\"\nextends = \"a\"\n", &files).unwrap().digest()
    };
    assert_eq!(with(5), with(5));
    assert_ne!(with(5), with(6));
}

// ---- mode

#[test]
fn shadow_mode_lets_what_breaks_caps_and_classes_run_and_tells_it() {
    let text = "mode = \"shadow\"\n[classes]\nallow = [\"PreviewImage\"]\n[caps]\nwidth = 64\n";
    let own = policy(text);
    assert_eq!(own.mode(), Mode::Shadow);
    let workflow = judged(&own, Catalogue::builtin(), &image_of(128)).unwrap();
    let told: Vec<&str> = workflow.shadowed().iter().map(|violation| violation.code).collect();
    assert!(told.contains(&"class_not_allowed") && told.contains(&"cap_exceeded"), "{told:?}");
    assert!(!codes(&policy(&text.replace("shadow", "enforce")), &image_of(128)).is_empty());
    let within = policy("mode = \"shadow\"\n[classes]\nallow = [\"*\"]\n[caps]\nwidth = 128\nheight = 128\n");
    assert!(judged(&within, Catalogue::builtin(), &image_of(128)).unwrap().shadowed().is_empty());
}

#[test]
fn shadow_mode_relaxes_nothing_of_files_prefixes_links_and_paid_nodes() {
    let own = policy("mode = \"shadow\"\n");
    let save = |prefix: &str| {
        with(image_of(64), "3", node("SaveImage", json!({"images": ["1", 0], "filename_prefix": prefix})))
    };
    assert_eq!(codes(&own, &save("../x")), ["save_prefix_refused"]);
    assert!(codes(&own, &save("x")).is_empty());
    let load = |name: &str| with(image_of(64), "3", node("LoadImage", json!({"image": name})));
    assert_eq!(codes(&own, &load("../x.png")), ["path_refused"]);
    assert_eq!(
        codes(&own, &with(image_of(64), "3", node("PreviewImage", json!({"images": ["1", 0], "x": ["1", 0]})))),
        ["undeclared_input"]
    );
    let paid = with(image_of(64), "3", node("KlingVideoExtendNode", json!({})));
    assert!(codes(&own, &paid).contains(&"paid_node_refused"));
}

#[test]
fn the_cost_in_shadow_mode_is_that_of_what_runs_and_not_of_the_caps() {
    let cost = |text: &str| {
        let own = open(text);
        judged(&own, Catalogue::builtin(), &text_to_image("a", &json!("x"), 40)).unwrap().cost().units()
    };
    assert!((cost("mode = \"shadow\"\n[caps]\nsteps = 10\nwidth = 64\nheight = 64\n") - cost("")).abs() < 1e-9);
}

// ---- packs and paid nodes

#[test]
fn a_pack_is_known_by_its_name_and_one_that_calls_itself_core_is_not_comfyuis() {
    let info = |module: &str| {
        let info = json!({"PackNode": {"input": {"required": {"x": ["INT", {}]}}, "output": [], "output_is_list": [],
            "output_node": true, "python_module": module}});
        Catalogue::from_object_info(info.to_string().as_bytes()).unwrap()
    };
    let allows = |text: &str, module: &str| policy(text).allows_class(info(module).class("PackNode").unwrap());
    assert!(allows("[packs]\nallow = [\"my-pack\"]\n", "custom_nodes.my-pack"));
    assert!(allows("[packs]\nallow = [\"custom_nodes.my-*\"]\n", "custom_nodes.my-pack"));
    assert!(!allows("[packs]\nallow = [\"core\"]\n", "custom_nodes.core"));
    assert!(!allows("[packs]\nallow = [\"*\"]\ndeny = [\"my-pack\"]\n", "custom_nodes.my-pack"));
    assert!(policy("[packs]\nallow = [\"core\"]\n").allows_class(Catalogue::builtin().class("KSampler").unwrap()));
}

#[test]
fn paid_nodes_run_only_where_the_policy_says_who_pays() {
    let prompt = with(image_of(64), "3", node("KlingVideoExtendNode", json!({})));
    let refused = codes(&open(""), &prompt);
    assert!(refused.contains(&"paid_node_refused"), "{refused:?}");
    for (word, paid) in [("gateway", PaidNodes::Gateway), ("caller", PaidNodes::Caller)] {
        let own = open(&format!("paid_nodes = \"{word}\"\n"));
        assert_eq!(own.paid_nodes(), paid);
        assert!(!codes(&own, &prompt).contains(&"paid_node_refused"));
    }
    let classes_still_count = policy("paid_nodes = \"gateway\"\n[packs]\nallow = [\"core\"]\n");
    assert!(codes(&classes_still_count, &prompt).contains(&"class_not_allowed"));
}

// ---- models

#[test]
fn a_model_must_be_allowed_by_a_rule_about_its_input() {
    let own = open("[[models]]\ninput = \"ckpt_name\"\nallow = [\"sdxl/*\", \"v1-5.safetensors\"]\n");
    let refused = |model: &str| codes(&own, &text_to_image(model, &json!("x"), 5));
    assert!(refused("v1-5.safetensors").is_empty());
    assert!(refused("sdxl/base.safetensors").is_empty());
    assert!(refused("sdxl\\base.safetensors").is_empty());
    assert_eq!(refused("V1-5.safetensors"), ["model_not_allowed"]);
    assert_eq!(refused("other.safetensors"), ["model_not_allowed"]);
}

#[test]
fn a_denied_model_is_refused_in_any_case_of_letters_and_a_denial_alone_allows_the_rest() {
    let own = open("[[models]]\ninput = \"*\"\ndeny = [\"*Secret*\"]\n");
    assert_eq!(codes(&own, &text_to_image("my-SECRET.safetensors", &json!("x"), 5)), ["model_denied"]);
    assert!(codes(&own, &text_to_image("mine.safetensors", &json!("x"), 5)).is_empty());
}

#[test]
fn a_rule_about_one_class_leaves_others_alone_and_a_general_one_reads_no_prompts() {
    let own = open(
        "[[models]]\ninput = \"LoraLoader.lora_name\"\nallow = [\"a\"]\n[[models]]\ninput = \"*\"\nallow = [\"base\"]\n",
    );
    let lora = |name: &str| {
        with(
            text_to_image("base", &json!("any text"), 5),
            "x",
            node(
                "LoraLoader",
                json!({"model": ["m", 0], "clip": ["m", 1], "lora_name": name, "strength_model": 1, "strength_clip": 1}),
            ),
        )
    };
    assert!(codes(&own, &lora("a")).is_empty());
    assert!(codes(&own, &lora("base")).is_empty());
    assert_eq!(codes(&own, &lora("b")), ["model_not_allowed"]);
    assert_eq!(codes(&own, &text_to_image("a", &json!("x"), 5)), ["model_not_allowed"]);
}

#[test]
fn a_rule_that_replaces_takes_the_place_of_its_bases_rules_about_the_same_input() {
    let files = |_: &str| Some("name = \"a\"\n[[models]]\ninput = \"ckpt_name\"\nallow = [\"a\"]\n".to_owned());
    let read = |more: &str| {
        let text = format!(
            "name = \"x\"\nextends = \"a\"\n[classes]\nallow = [\"*\"]\n[[models]]\ninput = \"ckpt_name\"\nallow = [\"b\"]\n{more}"
        );
        Policy::from_toml_with(&text, &files).unwrap()
    };
    let refused = |policy: &Policy, model: &str| !codes(policy, &text_to_image(model, &json!("x"), 5)).is_empty();
    let (adds, replaces) = (read(""), read("replace = true\n"));
    assert!(!refused(&adds, "a") && !refused(&adds, "b"));
    assert!(refused(&replaces, "a") && !refused(&replaces, "b"));
}

// ---- texts

#[test]
fn a_text_has_at_most_so_many_bytes() {
    let own = open("[texts]\nmax_bytes = 10\n");
    assert!(codes(&own, &text_to_image("a", &json!("ten bytes!"), 5)).is_empty());
    assert_eq!(codes(&own, &text_to_image("a", &json!("eleven byte"), 5)), ["text_too_long"]);
}

#[test]
fn denied_words_and_expressions_are_found_in_any_case_and_spacing() {
    let own = open("[texts]\ndeny = [\"secret word\"]\ndeny_regex = ['\\bcat(s|y)?\\b']\n");
    for text in ["a SECRET   word", "secret\nword", "two Cats", "cat"] {
        assert_eq!(codes(&own, &text_to_image("a", &json!(text), 5)), ["text_denied"], "{text}");
    }
    for text in ["secretword", "concatenate", "a dog"] {
        assert!(codes(&own, &text_to_image("a", &json!(text), 5)).is_empty(), "{text}");
    }
}

#[test]
fn a_text_that_comes_by_links_is_put_together_and_read() {
    let own = open("[texts]\ndeny = [\"secret\"]\n");
    let prompt = |a: &str, b: &str| {
        let mut prompt = text_to_image("a", &json!(["j", 0]), 5);
        prompt["a"] = node("PrimitiveString", json!({"value": a}));
        prompt["j"] = node("StringConcatenate", json!({"string_a": ["a", 0], "string_b": b, "delimiter": ""}));
        prompt
    };
    assert!(codes(&own, &prompt("a ", "dog")).is_empty(), "{:?}", codes(&own, &prompt("a ", "dog")));
    assert_eq!(codes(&own, &prompt("sec", "ret")), ["text_denied"]);
    let mut unknown = text_to_image("a", &json!(["j", 0]), 5);
    unknown["j"] = node("StringReplace", json!({"string": "secXret", "find": "X", "replace": ""}));
    assert_eq!(codes(&own, &unknown), ["text_denied"]);
    unknown["j"] = node("CaseConverter", json!({"string": "SECRET", "mode": "lowercase"}));
    assert_eq!(codes(&own, &unknown), ["text_unknown"]);
    assert!(codes(&open(""), &unknown).is_empty());
}

#[test]
fn either_branch_of_a_switch_is_read() {
    let own = open("[texts]\ndeny = [\"secret\"]\n");
    let prompt = |other: &str| {
        let mut prompt = text_to_image("a", &json!(["w", 0]), 5);
        prompt["a"] = node("PrimitiveString", json!({"value": "good"}));
        prompt["b"] = node("PrimitiveString", json!({"value": other}));
        prompt["w"] = node("ComfySwitchNode", json!({"switch": true, "on_true": ["a", 0], "on_false": ["b", 0]}));
        prompt
    };
    assert!(codes(&own, &prompt("fine")).is_empty(), "{:?}", codes(&own, &prompt("fine")));
    assert_eq!(codes(&own, &prompt("secret")), ["text_denied"]);
}

#[test]
fn embeddings_are_allowed_by_name() {
    let own = open("[texts]\nembeddings = [\"easy*\"]\n");
    assert!(codes(&own, &text_to_image("a", &json!("a (embedding:easyneg:1.2) cat"), 5)).is_empty());
    assert_eq!(codes(&own, &text_to_image("a", &json!("a embedding:other, cat"), 5)), ["embedding_refused"]);
    let none = open("[texts]\nembeddings = []\n");
    assert_eq!(codes(&none, &text_to_image("a", &json!("embedding:easyneg"), 5)), ["embedding_refused"]);
}

#[test]
fn many_joined_texts_are_bounded() {
    let own = open("[texts]\ndeny = [\"secret\"]\n");
    let mut prompt = text_to_image("a", &json!(["j30", 0]), 5);
    prompt["j0"] = node("PrimitiveString", json!({"value": "x".repeat(1000)}));
    for n in 1..=30 {
        let from = json!([format!("j{}", n - 1), 0]);
        prompt[format!("j{n}")] =
            node("StringConcatenate", json!({"string_a": from, "string_b": from, "delimiter": ""}));
    }
    assert!(codes(&own, &prompt).contains(&"text_unknown"));
}

// ---- files and network

#[test]
fn files_are_named_where_the_policy_allows_it_only() {
    let load = |name: &str| with(image_of(64), "3", node("LoadImage", json!({"image": name})));
    let mask = |name: &str| with(image_of(64), "3", node("LoadImageMask", json!({"image": name, "channel": "red"})));
    let own = open(
        "[files]\nassumed_upload = { width = 64, height = 64, frames = 1, seconds = 1 }\ndirectories = [\"input\"]\ninputs = { deny = [\"LoadImageMask.image\"] }\n",
    );
    assert!(codes(&own, &load("a.png")).is_empty());
    assert_eq!(codes(&own, &load("a.png [output]")), ["file_refused"]);
    assert_eq!(codes(&own, &mask("a.png")), ["file_refused"]);
    let all = open("[files]\nassumed_upload = { width = 64, height = 64, frames = 1, seconds = 1 }\n");
    assert!(codes(&all, &mask("a.png [output]")).is_empty());
}

#[test]
fn an_assumed_upload_has_the_size_that_the_policy_says() {
    let prompt = json!({"1": node("LoadImage", json!({"image": "a.png"})), "2": node("PreviewImage", json!({"images": ["1", 0]}))});
    let own = |side: u32| {
        open(&format!(
            "[files]\nassumed_upload = {{ width = {side}, height = 100, frames = 1, seconds = 1 }}\n[caps]\nwidth = 512\nheight = 512\n"
        ))
    };
    assert!(codes(&own(512), &prompt).is_empty(), "{:?}", codes(&own(512), &prompt));
    assert!(codes(&own(513), &prompt).contains(&"size_exceeded"));
    let silent = open("[caps]\nwidth = 512\n");
    assert!(codes(&silent, &prompt).contains(&"size_exceeded"), "1024 pixels are assumed");
}

/// A pack with every sort of input that documents speak of.
fn pack() -> Catalogue {
    let info = json!({
        "PackFetch": {"input": {"required": {"url": ["STRING", {}], "out": ["STRING", {}], "source": ["STRING", {}], "width": ["INT", {}]}},
            "output": ["IMAGE"], "output_is_list": [false], "output_node": true, "python_module": "custom_nodes.pack"},
    });
    Catalogue::from_object_info(info.to_string().as_bytes()).unwrap()
}

fn fetch(url: &str, source: &str) -> Value {
    json!({"1": node("PackFetch", json!({"url": url, "out": "mine/x", "source": source, "width": 64}))})
}

const FETCH: &str = "[annotations.PackFetch]\ninputs = { url = \"url\" }\n";

#[test]
fn what_sends_something_elsewhere_is_held_to_the_network_and_known_as_such_and_what_fetches_is_not() {
    let judged_as = |kind: &str, url: &str| {
        let text =
            format!("[annotations.PackFetch]\ninputs = {{ url = \"{kind}\" }}\n[network]\nallow = [\"example.org\"]\n");
        judged(&open(&text), &pack(), &fetch(url, "a"))
            .map(|approved| approved.sends_elsewhere())
            .map_err(|found| found[0].code)
    };
    assert_eq!(judged_as("target_url", "https://example.org/hook"), Ok(true));
    assert_eq!(judged_as("url", "https://example.org/hook"), Ok(false));
    assert_eq!(judged_as("target_url", "https://evil.org/hook"), Err("address_refused"));
}

#[test]
fn an_address_is_fetched_from_only_where_the_network_is_allowed() {
    let refused = |text: &str, url: &str| {
        let own = open(&format!("{FETCH}{text}"));
        judged(&own, &pack(), &fetch(url, "a")).err().map(|found| found[0].code)
    };
    let allow = "[network]\nallow = [\"example.org\", \"https://cdn.example.com/free/*\"]\ndeny = [\"*bad*\"]\n";
    assert_eq!(refused(allow, "https://example.org/a.png"), None);
    assert_eq!(refused(allow, "https://cdn.example.com/free/a.png"), None);
    for url in [
        "https://cdn.example.com/paid/a.png",
        "https://cdn.example.com/free/../paid/a.png",
        "http://cdn.example.com/free/a.png",
        "https://example.org/bad",
        "https://example.org@evil.org/",
        "https://evil.org",
        "file:///etc/passwd",
        "a.png",
    ] {
        assert_eq!(refused(allow, url), Some("address_refused"), "{url}");
    }
    assert_eq!(refused("", "https://example.org/a.png"), Some("address_refused"), "nothing is allowed unless said");
}

/// Which of these addresses a policy with these lists lets a node fetch from, and which not.
fn assert_fetched(network: &str, taken: &[&str], refused: &[&str]) {
    let own = open(&format!("{FETCH}[network]\n{network}\n"));
    let code = |url: &str| judged(&own, &pack(), &fetch(url, "a")).err().map(|found| found[0].code);
    for url in taken {
        assert_eq!(code(url), None, "{url} by {network}");
    }
    for url in refused {
        assert_eq!(code(url), Some("address_refused"), "{url} by {network}");
    }
}

#[test]
fn a_star_in_a_host_does_not_reach_into_the_path() {
    assert_fetched(
        "allow = [\"images.example.com\", \"https://*.example.org/public/*\"]",
        &["https://images.example.com/x", "https://a.example.org/public/x.png", "https://a.b.example.org/public/x?y"],
        &[
            "https://evil.com/.example.org/public/x.png",
            "https://169.254.169.254/latest/meta-data?.example.org/public/",
            "https://169.254.169.254?.example.org/public/",
            "https://evil.com#.example.org/public/",
            "https://evil.com\\.example.org/public/",
            "https://evil.com@a.example.org/public/",
            "https://a.example.org/private/public/x",
            "https://example.org/public/x",
            "http://a.example.org/public/x",
        ],
    );
    assert_fetched(
        "allow = [\"*.example.org\"]",
        &["https://a.example.org/x", "http://a.example.org"],
        &["https://evil.com/.example.org", "https://a.example.org.evil.com/"],
    );
}

#[test]
fn a_denied_host_stays_denied_in_every_spelling() {
    assert_fetched(
        "allow = [\"*\", \"*:8080\"]\ndeny = [\"Evil.com\", \"169.254.169.254\", \"https://half.org/private/*\"]",
        &[
            "https://good.com/",
            "https://good.com./",
            "https://good.com:443/",
            "http://good.com:8080/",
            "https://10.1.2.3/",
            "https://half.org/public/x",
        ],
        &[
            "https://evil.com/",
            "https://EVIL.com/",
            "https://evil.com./",
            "https://evil.com:443/",
            "https://evil.com:8080/",
            "http://169.254.169.254/x",
            "http://169.254.169.254./x",
            "http://2852039166/x",
            "http://0xa9fea9fe/",
            "http://0251.0376.0251.0376/",
            "http://169.254.43518/",
            "http://[::ffff:169.254.169.254]/",
            "https://half.org/private/x",
            "https://half.org/%70rivate/x",
            "https://half.org/./private/x",
        ],
    );
}

#[test]
fn a_host_without_a_port_allows_the_schemes_own_and_denies_every_one() {
    assert_fetched(
        "allow = [\"a.org\", \"b.org:8080\", \"c.org:*\"]",
        &["https://a.org:443/", "http://a.org:80/", "https://b.org:8080/", "https://c.org:9/", "https://c.org/"],
        &["https://a.org:80/", "https://a.org:22/", "https://b.org/", "https://b.org:8081/"],
    );
    assert_fetched(
        "allow = [\"*:*\"]\ndeny = [\"a.org\", \"b.org:22\"]",
        &["https://b.org/", "https://b.org:23/"],
        &["https://a.org/", "https://a.org:22/", "https://b.org:22/"],
    );
}

#[test]
fn an_address_of_ipv6_is_allowed_by_its_own_pattern_only_in_any_spelling() {
    assert_fetched(
        "allow = [\"*\", \"[2001:DB8:0::1]\"]",
        &["https://[2001:db8::1]/", "https://[2001:0db8:0:0::0001]:443/x"],
        &["https://[2001:db8::2]/", "https://[::1]/", "https://[2001:db8::1]:8080/"],
    );
    assert_fetched(
        "allow = [\"[::1]:*\", \"[::2]\"]\ndeny = [\"[0:0::1]:22\"]",
        &["https://[::1]:23/"],
        &["https://[::1]:22/", "https://[0::1]:22/"],
    );
}

#[test]
fn a_pattern_that_can_not_mean_an_address_is_told_with_its_place() {
    let found = faults("name = \"x\"\n[network]\ndeny = [\"10.0.0.0/8\", \"10.0.0.*\"]\n", &|_| None);
    let told: Vec<(usize, &str)> = found.iter().map(|fault| (fault.line, fault.key.as_str())).collect();
    assert_eq!(told, [(3, "network.deny")]);
}

#[test]
fn the_suggested_host_is_the_one_that_was_refused() {
    let refused = |network: &str, url: &str| {
        let own = open(&format!("{FETCH}[network]\n{network}\n"));
        judged(&own, &pack(), &fetch(url, "a")).err().unwrap_or_default()
    };
    for url in ["https://a.org/x", "https://a.org:8080/x", "https://[::1]/", "https://[::1]:8080/"] {
        let lines = comfygate_policy::suggest::lines(&refused("", url));
        assert_eq!(refused(&lines.replace("[network]\n", ""), url), [], "{lines}");
    }
    let denied = refused("allow = [\"*\"]\ndeny = [\"a.org\"]", "https://a.org/");
    assert_eq!(denied[0].key, Some("network.deny"));
}

// ---- cost

#[test]
fn a_workflow_costs_at_most_so_much() {
    let prompt = text_to_image("a", &json!("x"), 20);
    let cost = judged(&open(""), Catalogue::builtin(), &prompt).unwrap().cost().units();
    assert!(codes(&open(&format!("cost_limit = {}\n", cost + 1.0)), &prompt).is_empty());
    assert_eq!(codes(&open(&format!("cost_limit = {}\n", cost - 1.0)), &prompt), ["cost_exceeded"]);
}

#[test]
fn what_can_not_be_bounded_has_no_cost_that_could_be_limited() {
    let mut prompt = text_to_image("a", &json!("x"), 20);
    // How many frames a text of tracks has is not followed.
    prompt["k"]["inputs"]["steps"] = json!(["p", 1]);
    prompt["p"] = node("WanMoveTracksFromCoords", json!({}));
    assert!(codes(&open("cost_limit = 1000000000\n"), &prompt).contains(&"value_unbounded"));
}

#[test]
fn a_node_that_scales_multiplies_by_so_much_at_most() {
    let scale = |by: f64| {
        with(
            image_of(64),
            "2",
            node("ImageScaleBy", json!({"image": ["1", 0], "upscale_method": "area", "scale_by": by})),
        )
    };
    let scale = |by: f64| with(scale(by), "3", node("PreviewImage", json!({"images": ["2", 0]})));
    let own = open("[caps]\nupscale = 2\n");
    assert!(codes(&own, &scale(2.0)).is_empty(), "{:?}", codes(&own, &scale(2.0)));
    assert_eq!(codes(&own, &scale(2.5)), ["cap_exceeded"]);
}

// ---- annotations

#[test]
fn annotations_of_a_policy_hold_for_the_classes_of_packs() {
    let plain = open("");
    let prompt = fetch("x", "../../etc/passwd");
    assert!(judged(&plain, &pack(), &prompt).is_ok(), "nothing is known about this class");
    let own = open("[annotations.PackFetch]\nsave_prefix = [\"out\"]\nfile_inputs = [\"source\"]\n");
    let found: Vec<&str> = judged(&own, &pack(), &prompt).unwrap_err().iter().map(|violation| violation.code).collect();
    assert_eq!(found, ["path_refused"]);
    let workflow = judged(&own, &pack(), &fetch("x", "a.png")).unwrap();
    assert_eq!(workflow.save_targets().len(), 1);
    let parsed = parse(json!({"prompt": fetch("x", "a.png")}).to_string().as_bytes()).unwrap();
    assert_eq!(parsed.file_references_under(&own, &pack()).len(), 1);
    assert!(parsed.file_references(&pack()).is_empty());
    assert_eq!(workflow.catalogue_digest(), pack().digest());
}

#[test]
fn an_annotation_about_inputs_that_are_not_there_or_of_another_type_closes_its_class() {
    for annotation in ["inputs = { nowhere = \"width\" }", "inputs = { url = \"width\" }", "file_inputs = [\"width\"]"]
    {
        let own = open(&format!("[annotations.PackFetch]\n{annotation}\n"));
        let found = judged(&own, &pack(), &fetch("x", "a.png")).unwrap_err();
        assert_eq!(found[0].code, "class_closed", "{annotation}");
    }
    let own = open("[annotations.PackFetch]\ninputs = { width = \"width\" }\n[caps]\nwidth = 64\n");
    let found = judged(&own, &pack(), &fetch("x", "a.png")).err().unwrap_or_default();
    assert!(found.iter().all(|violation| violation.code == "size_unbounded"), "{found:?}");
}

#[test]
fn comfyuis_own_classes_are_not_annotated_by_a_policy() {
    let found = faults("name = \"x\"\n[annotations.KSampler]\ninputs = { seed = \"steps\" }\n", &|_| None);
    assert_eq!((found.iter().count(), found.iter().next().unwrap().line), (1, 2));
}

// ---- faults

#[test]
fn every_new_section_tells_its_faults_with_their_place() {
    let text = r#"name = "x"
mode = "shadows"
paid_nodes = "nobody"
cost_limit = -1
[[models]]
allow = ["a"]
[[models]]
input = "ckpt_name"
[texts]
max_byte = 5
deny_regex = ["a("]
[files]
directories = ["inputs"]
assumed_upload = { width = 5 }
[network]
alow = []
[caps]
upscale = "x"
[annotations.PackFetch]
inputs = { a = "no such kind" }
colour = 5
"#;
    let found = faults(text, &|_| None);
    let told: Vec<(usize, &str)> = found.iter().map(|fault| (fault.line, fault.key.as_str())).collect();
    for wanted in [
        (2, "mode"),
        (3, "paid_nodes"),
        (4, "cost_limit"),
        (5, "models.input"),
        (7, "models"),
        (10, "texts.max_byte"),
        (11, "texts.deny_regex"),
        (13, "files.directories"),
        (14, "files.assumed_upload.height"),
        (16, "network.alow"),
        (18, "caps.upscale"),
        (19, "annotations.PackFetch"),
    ] {
        assert!(told.contains(&wanted), "{wanted:?} in {told:?}");
    }
    assert!(found.to_string().contains("did you mean `max_bytes`?"), "{found}");
}

#[test]
fn regular_expressions_that_would_take_too_much_memory_are_refused() {
    let read = |pattern: &str| Policy::from_toml(&format!("name = \"x\"\n[texts]\ndeny_regex = ['{pattern}']\n"));
    assert!(read("(a{1000}){1000}").is_err());
    assert!(read("a{1000}").is_ok());
}
