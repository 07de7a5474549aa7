//! Bodies of the fuzz targets, here so that they build on stable and their corpora replay in `cargo test`. Each panics when its property fails.
//! Beside them what property tests and runs against a real ComfyUI share with them: [`generator`], [`check`], [`bounds_of`].

mod expressions;
pub mod generator;
mod properties;
mod seen;

use std::sync::LazyLock;

pub use properties::check;
pub use seen::{SeenShape, SeenSlot, SeenValue, bounds_of};

use crate::{Catalogue, ClassSignature, Policy, parse as parse_submission};
use generator::{Choices, Graph, Profile};

/// Compiled once: a fuzzer runs millions of times. The shipped policies, and one with caps so narrow that generated graphs meet them.
static POLICIES: LazyLock<Vec<Policy>> = LazyLock::new(|| {
    let shipped = ["default", "strict", "generous", "owner"].into_iter().filter_map(Policy::builtin);
    let narrow = "name = \"narrow\"\n[classes]\nallow = [\"*\"]\n[caps]\nsteps = 30\nsteps_total = 60\nwidth = 512\nheight = 512\n\
        megapixels = 0.2\nmegapixels_total = 1\nbatch = 4\nframes = 16\nseconds = 10\nnodes = 40\noutputs = 8";
    shipped.chain(Policy::from_toml(narrow)).collect()
});

/// Every class of the shipped catalogue that is not closed, in its order.
static CLASSES: LazyLock<Vec<&'static ClassSignature>> =
    LazyLock::new(|| Catalogue::builtin().classes().filter(|class| class.closed_because().is_none()).collect());

/// Those of them that each policy allows.
static ALLOWED: LazyLock<Vec<Vec<&'static ClassSignature>>> = LazyLock::new(|| {
    let of = |policy: &Policy| CLASSES.iter().filter(|class| policy.allows_class(class)).copied().collect();
    POLICIES.iter().map(of).collect()
});

/// Names of files and models, good and bad.
const NAMES: [&str; 8] = [
    "picture.png",
    "a/b.png [output]",
    "x.png [temp]",
    "../x.png",
    "/etc/passwd",
    "x.png[input]",
    "C:x.png",
    "ä 中.webp",
];

/// Names that every policy takes, if the file is there.
const GOOD_FILES: [&str; 2] = ["picture.png", "a/b.png"];
const GOOD_MODELS: [&str; 1] = ["model.safetensors"];

fn policy(choices: &mut Choices<'_>) -> Option<&'static Policy> {
    POLICIES.get(choices.below(POLICIES.len()))
}

/// Parsing never panics, and the canonical form parses to itself.
pub fn parse(data: &[u8]) {
    let Ok(parsed) = parse_submission(data) else { return };
    let canonical = parsed.canonical();
    let again = parse_submission(&canonical);
    assert!(again.is_ok(), "the canonical form parses: {again:?}");
    assert_eq!(again.ok().map(|again| again.canonical()), Some(canonical), "the canonical form is a fixed point");
}

/// The properties of [`check`] on any bytes, under the default policy.
pub fn decide_and_rewrite(data: &[u8]) {
    if let Some(policy) = POLICIES.first() {
        check(data, policy, Catalogue::builtin());
    }
}

/// The properties of [`check`] on typed graphs over all classes of the catalogue, some inputs of them broken, under every shipped policy and a narrow one.
pub fn inspect(data: &[u8]) {
    inspected(data);
}

/// What [`inspect`] made of its bytes, for those who measure how much of the engine it reaches: the policy's name, the graph, and whether it was allowed.
pub fn inspected(data: &[u8]) -> Option<(&'static str, Graph, Option<bool>)> {
    let mut choices = Choices::from_bytes(data);
    let place = choices.below(POLICIES.len());
    let (policy, allowed) = (POLICIES.get(place)?, ALLOWED.get(place)?);
    // Zeros choose what is allowed most: mostly a graph that a caller could mean, sometimes anything.
    let wild = choices.chance(25);
    let profile = Profile {
        catalogue: Catalogue::builtin(),
        classes: if wild { CLASSES.clone() } else { allowed.clone() },
        nodes_max: choices.one(&[3, 6, 12])?,
        side_max: choices.one(&[300, 600, 1200])?,
        count_max: choices.one(&[1, 4, 20])?,
        edges: if wild { 4 } else { 1 },
        broken: if wild { 12 } else { 0 },
        files: if wild { &NAMES } else { &GOOD_FILES },
        models: if wild { &NAMES } else { &GOOD_MODELS },
        fixed: &[],
        previews_any: wild || allowed.iter().any(|class| class.name() == "PreviewAny"),
    };
    let graph = generator::graph(&mut choices, &profile);
    let allowed = check(&graph.body(), policy, Catalogue::builtin());
    Some((policy.name(), graph, allowed))
}

/// Rewriting is idempotent and keeps what it should, whatever a save prefix and a file name are: the bytes after the first two are the text of both.
pub fn rewrite(data: &[u8]) {
    let (choice, text) = data.split_at(data.len().min(2));
    let mut choices = Choices::from_bytes(choice);
    let Some(policy) = policy(&mut choices) else { return };
    let text = String::from_utf8_lossy(text);
    let (prefix, file) = text.split_once('\n').unwrap_or((&text, &text));
    let class =
        choices.one(&["SaveImage", "SaveAnimatedWEBP", "SaveVideo", "SaveAudio", "PreviewImage", "MaskPreview"]);
    let body = serde_json::json!({ "prompt": {
        "1": { "class_type": "LoadImage", "inputs": { "image": file } },
        "2": { "class_type": class, "inputs": { "images": ["1", 0], "filename_prefix": prefix, "image": file } },
        "3": { "class_type": "SaveImage", "inputs": { "images": ["1", 0], "filename_prefix": prefix } },
        "4": { "class_type": "SaveImage", "inputs": { "images": ["1", 0], "filename_prefix": file }, "_meta": { "title": prefix } },
    }, "extra_data": { "extra_pnginfo": { "workflow": { "title": file } } } });
    check(body.to_string().as_bytes(), policy, Catalogue::builtin());
}

/// Any text as an expression is evaluated or refused; a generated one gives, on values between the bounds of its variables, what lies within the bounds of its result.
pub fn expression(data: &[u8]) {
    expressions::check(data);
}

/// Reading a policy never panics; every fault has its place in the text; what reads, reads again the same and decides something.
pub fn policy_document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Policy::from_toml(text) {
        Ok(policy) => {
            let again = Policy::from_toml(text).ok();
            assert_eq!(again.map(|again| again.digest()), Some(policy.digest()), "the same text has the same digest");
            let body = br#"{"prompt":{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":0}},
                "2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}"#;
            check(body, &policy, Catalogue::builtin());
        }
        Err(errors) => {
            assert!(errors.iter().next().is_some(), "a refusal without a reason");
            // A fault at the end of the text may be told for the line after it.
            let lines = text.lines().count() + 1;
            for error in errors.iter() {
                assert!((1..=lines).contains(&error.line) && error.column > 0, "a fault outside the text: {error}");
                assert!(!error.message.is_empty(), "a fault without a word: {error}");
            }
        }
    }
}
