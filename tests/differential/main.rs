//! The engine against a real ComfyUI on the same generated graphs. `COMFYUI_URLS=http://…` names it; `make differential` says how to start it.
//!
//! - What the engine accepts runs there with probes on every output: each real size lies within the bounds that the engine gave, and within the caps.
//! - The plain evaluator of `policies/tests/judge` is compared on the way: it judges the engine where there is no ComfyUI.
//! - What the engine refuses for its sizes or types runs there too, where the evaluator says that it is small: each refusal of what ComfyUI runs within the caps has its explanation in
//!   [`EXPLAINED`].
//! - Broken graphs: what one of them calls invalid and the other does not has its explanation in [`DISAGREE`].
//!
//! `DIFFERENTIAL_GRAPHS=N` (2000) is how many accepted graphs to run, and a quarter as many of the others; `DIFFERENTIAL_SEED` where to begin.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failure has to end the test, with the place where it happened"
)]

mod comfyui;
#[path = "../../policies/tests/judge/evaluator.rs"]
mod evaluator;
#[path = "../../policies/tests/judge/within.rs"]
mod within;

use std::collections::{BTreeMap, HashMap};

use comfygate_policy::fuzzing::bounds_of;
use comfygate_policy::fuzzing::generator::{Choices, Graph, Profile, graph, id};
use comfygate_policy::{Catalogue, Directory, FileFact, FileFacts, Policy, Verdict, Violation, decide, parse};
use comfygate_tests::skipped;
use comfyui::{ComfyUi, End};
use evaluator::{CLASSES, Given1, Picture, Thing, World, evaluate, largest};
use serde_json::{Value, json};

const POLICY: &str = r#"
name = "differential"
[classes]
allow = ["*"]
[caps]
steps = 200
steps_total = 1000
width = 640
height = 640
megapixels = 0.4
megapixels_total = 2
batch = 8
frames = 24
seconds = 30
denoise_min = 0.01
vae_scale = 8
"#;

/// Numbers that one output may have, for the sake of the machine that runs it.
const NUMBERS_MAX: i128 = 30_000_000;

/// Why the engine refuses what ComfyUI would run within the caps: code, class (`*`: any), reason.
const EXPLAINED: &[(&str, &str, &str)] = &[
    ("value_smaller_than_min", "*", LINKED),
    ("value_bigger_than_max", "*", LINKED),
    (
        "cap_exceeded",
        "*",
        "the number is over its cap by itself; that a denoise or a cut makes less of it afterwards does not count",
    ),
    ("denoise_too_small", "*", "below `denoise_min`; here the schedule is short all the same"),
    (
        "size_exceeded",
        "EmptyQwenImageLayeredLatentImage",
        "a layer counts as a cell of a film, four frames: a VAE for films may decode it",
    ),
    ("size_exceeded", "LatentCutToBatch", "slices are counted for the longest side that the latent may have"),
    (
        "size_exceeded",
        "LatentUpscale",
        "one side follows from the other by a ratio far from 1, which rounding to cells makes still less sure",
    ),
    ("size_exceeded", "ResizeImagesByShorterEdge", "one side follows from the other by a ratio far from 1"),
    ("memory_exceeded", "ResizeImagesByShorterEdge", "one side follows from the other by a ratio far from 1"),
    (
        "size_exceeded",
        "*",
        "really within the caps of this test only by the way in which it counts: the engine counts pixels that were asked for, frames of films in batches and what a VAE may make of a latent",
    ),
    ("size_unbounded", "CreateVideo", "the sound of a film that has none: nothing is known about it"),
    ("size_unbounded", "LatentRotate", "turning the latent of a film exchanges its time and its height"),
    ("size_unbounded", "*", "the latent of a sound has no width and height that these classes could be followed with"),
    ("value_unbounded", "ManualSigmas", "a joined text may hold more numbers than its parts"),
    ("value_unbounded", "*", "the rate of a film's pictures may be any number, and a cap reads it"),
];

/// Where the engine and ComfyUI disagree on what is invalid: the engine's code (`accepted` where it has none), ComfyUI's (`accepted`), reason.
const DISAGREE: &[(&str, &str, &str)] = &[
    ("accepted", "partly *", "the rest is good: both drop the outputs that are wrong and run the others"),
    (
        "accepted",
        "value_smaller_than_min",
        "PrimitiveFloat's least value is no double: the literal is the next one below",
    ),
    (
        "undeclared_input",
        "accepted",
        "ComfyUI ignores what a class does not declare; some of it ends its worker (K2, K4)",
    ),
    ("bad_linked_input", "accepted", "a list that is no link, where the class declares nothing or takes anything"),
    (
        "invalid_input_type",
        "accepted",
        "ComfyUI makes a number of `true`, of a text and of 64.5; the engine takes what is declared",
    ),
    (
        "dependency_cycle",
        "accepted",
        "ComfyUI looks for cycles among declared inputs only, and follows undeclared links when it runs (K2)",
    ),
    (
        "value_not_in_list",
        "accepted",
        "the choice of a list with inputs of its own (`resize_type`): ComfyUI does not look whether it is one, and the node raises",
    ),
    ("wrapped_value", "accepted", "ComfyUI unwraps `__value__` after it was checked"),
    ("value_smaller_than_min", "accepted", LINKED),
    ("value_bigger_than_max", "accepted", LINKED),
    ("cap_exceeded", "*", SIZES),
    ("denoise_too_small", "*", SIZES),
    ("memory_exceeded", "*", SIZES),
    ("sample_rate_refused", "*", SIZES),
    ("schedule_too_long", "*", SIZES),
    ("size_exceeded", "*", SIZES),
    ("size_unbounded", "*", SIZES),
    ("value_unbounded", "*", SIZES),
];
/// See [`DISAGREE`].
const SIZES: &str = "refused for its size, which ComfyUI does not ask for";
/// See [`EXPLAINED`] and [`DISAGREE`].
const LINKED: &str =
    "ComfyUI holds literals to their declared range and nothing that comes by a link; the engine holds both to it";

/// Literals that would only cost time, and those that have to be rare.
const FIXED: &[(&str, &str, &[f64])] = &[
    ("*", "feathering", &[0.0, 900.0]),
    ("GrowMask", "expand", &[0.0, 1.0, -2.0]),
    ("Morphology", "kernel_size", &[3.0, 5.0]),
    ("ImageBlur", "blur_radius", &[1.0, 3.0]),
    ("ImageSharpen", "sharpen_radius", &[1.0, 2.0]),
    ("LTXVPreprocess", "img_compression", &[0.0]),
    ("EmptyAudio", "duration", &[0.0, 0.5, 1.0, 2.0]),
];

/// Classes of the evaluator that need a model.
const NEED_MODELS: [&str; 9] = [
    "VAEDecode",
    "VAEDecodeTiled",
    "VAEEncode",
    "VAEEncodeTiled",
    "KSampler",
    "KSamplerAdvanced",
    "BasicScheduler",
    "SDTurboScheduler",
    "BetaSamplingScheduler",
];

struct Bench {
    comfyui: ComfyUi,
    policy: Policy,
    world: World,
    files: FileFacts,
    classes: Vec<&'static str>,
}

impl Bench {
    fn at(url: &str) -> Self {
        let comfyui = ComfyUi::at(url);
        let live = comfyui.get("/object_info");
        let there = |name: &&&str| live.get(**name).is_some() && !NEED_MODELS.contains(*name);
        let classes: Vec<&'static str> = CLASSES.iter().filter(there).copied().collect();
        assert!(live.get("DifferentialProbe").is_some(), "that ComfyUI lacks the node of tests/differential/probes");
        let (mut files, mut facts) = (HashMap::new(), FileFacts::none());
        for (name, w, h, n, alpha) in [
            ("picture.png", 300, 200, 1, false),
            ("tiny.png", 9, 5, 1, false),
            ("clear.png", 70, 130, 1, true),
            ("moving.webp", 48, 96, 4, true),
        ] {
            let fact = FileFact { canonical_name: name.to_owned(), width: w, height: h, frames: n, seconds: Some(10) };
            facts.insert(name, Directory::Input, fact);
            let picture = Picture { w: i128::from(w), h: i128::from(h), n: i128::from(n), alpha };
            files.insert(name.to_owned(), picture);
        }
        let world = World { files, vae_scale: 8 };
        Self { comfyui, policy: Policy::from_toml(POLICY).unwrap(), world, files: facts, classes }
    }

    fn profile(&self, broken: usize) -> Profile<'static> {
        let files = &["picture.png", "tiny.png", "clear.png", "moving.webp"];
        Profile {
            nodes_max: 6,
            side_max: 400,
            count_max: 3,
            edges: 1,
            broken,
            files,
            fixed: FIXED,
            ..Profile::of(Catalogue::builtin(), &self.classes)
        }
    }

    fn decide(&self, graph: &Graph) -> Option<Vec<Violation>> {
        let parsed = parse(&graph.body()).unwrap();
        match decide(&parsed, &self.policy, Catalogue::builtin(), &self.files) {
            Verdict::Allow(_) => None,
            Verdict::Deny(violations) => Some(violations.iter().cloned().collect()),
        }
    }
}

/// The graph without its own output nodes, and a probe on each output that the evaluator expects to be made, or `everywhere`.
fn with_probes(
    graph: &Graph,
    real: &BTreeMap<(usize, usize), Given1>,
    everywhere: bool,
) -> (Value, Vec<(String, usize, usize)>) {
    let mut prompt = graph.prompt();
    let nodes = prompt.as_object_mut().unwrap();
    nodes.retain(|_, node| node["class_type"] != "PreviewAny");
    let mut probes = Vec::new();
    for ((place, slot), given) in real {
        let expected = match given {
            Given1::List(things) => !matches!(things[..], [Thing::Other] | []),
            Given1::Raises | Given1::Unknown => everywhere,
        };
        if expected {
            let name = format!("probe{place}_{slot}");
            nodes.insert(
                name.clone(),
                json!({ "class_type": "DifferentialProbe", "inputs": { "value": [id(*place), slot] } }),
            );
            probes.push((name, *place, *slot));
        }
    }
    (prompt, probes)
}

/// What a probe says, as the evaluator would say it. What the probe does not see is taken from `expected`.
fn seen(told: &Value, expected: &Thing) -> Thing {
    let dims = |name: &str| -> Vec<i128> {
        told[name].as_array().unwrap().iter().map(|side| i128::from(side.as_i64().unwrap())).collect()
    };
    if let Some(value) = told["bool"].as_bool() {
        return Thing::Bool(value);
    }
    if let Some(value) = told["int"].as_str() {
        return Thing::Int(value.parse().unwrap());
    }
    if let Some(value) = told["float"].as_str() {
        return Thing::Float(value.parse().unwrap());
    }
    if let Some(text) = told["text"].as_str() {
        return Thing::Text(text.to_owned());
    }
    if told.get("latent").is_some() {
        let (cell, time) = match expected {
            Thing::Latent { cell, time, .. } => (*cell, *time),
            _ => (1, 1),
        };
        return Thing::Latent { dims: dims("latent"), cell, time };
    }
    if told.get("audio").is_some() {
        let [n, c, samples] = dims("audio")[..] else { panic!("{told}") };
        return Thing::Audio { n, c, samples, rate: i128::from(told["rate"].as_i64().unwrap()) };
    }
    if told.get("video").is_some() {
        let [n, h, w, c] = dims("video")[..] else { panic!("{told}") };
        let sound = match expected {
            Thing::Video { sound, .. } => sound.clone(),
            _ => None,
        };
        return Thing::Video { n, h, w, c, sound };
    }
    if told.get("tensor").is_none() {
        return Thing::Other;
    }
    match dims("tensor")[..] {
        [n, h, w, c] => Thing::Image { n, h, w, c },
        [n, h, w] => Thing::Mask { n, h, w },
        [count] => Thing::Sigmas(count),
        _ => Thing::Other,
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn bench() -> Option<Bench> {
    match std::env::var("COMFYUI_URLS") {
        Ok(urls) if !urls.is_empty() => Some(Bench::at(urls.split(',').next().unwrap())),
        _ => {
            skipped(
                "the engine against a real ComfyUI on generated graphs: COMFYUI_URLS is not set (make differential)",
            );
            None
        }
    }
}

#[test]
fn real_sizes_of_accepted_graphs_lie_within_the_bounds() {
    let Some(bench) = bench() else { return };
    let wanted = number("DIFFERENTIAL_GRAPHS", 2000);
    let (mut ran, mut outputs, mut failed, mut beyond) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut outside, mut astray): (BTreeMap<String, String>, BTreeMap<String, String>) = Default::default();
    let mut errors: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut classes: BTreeMap<String, u64> = BTreeMap::new();
    let begin = number("DIFFERENTIAL_SEED", 1);
    for seed in begin.. {
        if ran >= wanted || seed > begin + wanted * 100 {
            break;
        }
        let graph = graph(&mut Choices::seeded(seed), &bench.profile(0));
        if bench.decide(&graph).is_some() {
            continue;
        }
        let real = evaluate(&graph, &bench.world);
        // In some graphs also where the evaluator knows no value: it may take for an error what is none.
        let (prompt, probes) = with_probes(&graph, &real, seed % 4 == 0);
        if probes.is_empty() || largest(&real) > NUMBERS_MAX {
            continue;
        }
        let End::Ran { entry, .. } = bench.comfyui.run(&prompt) else {
            errors.entry("refused".to_owned()).or_insert((0, prompt.to_string())).0 += 1;
            continue;
        };
        ran += 1;
        if let Some(error) = failure(&entry) {
            failed += 1;
            errors.entry(error).or_insert((0, prompt.to_string())).0 += 1;
        }
        let parsed = parse(&graph.body()).unwrap();
        let said = bounds_of(&parsed, &bench.policy, Catalogue::builtin(), &bench.files);
        for (name, place, slot) in probes {
            let Some(told) = entry["outputs"][&name]["seen"].as_array() else { continue };
            let class = &graph.nodes[place].class;
            let expected: &[Thing] = match &real[&(place, slot)] {
                Given1::List(expected) => expected,
                Given1::Raises | Given1::Unknown => &[],
            };
            let like = expected.iter().chain(std::iter::repeat(expected.last().unwrap_or(&Thing::Other)));
            let things: Vec<Thing> = told.iter().zip(like).map(|(told, expected)| seen(told, expected)).collect();
            beyond += u64::from(expected.is_empty());
            if things != expected && real[&(place, slot)] != Given1::Unknown {
                let small = graph.reduced_to(place, slot).prompt();
                astray
                    .entry(format!("{class}.{slot}"))
                    .or_insert_with(|| format!("really {things:?}, the evaluator says {expected:?}: {small}"));
            }
            let said = said.iter().find(|said| said.node == id(place) && said.slot == slot).unwrap();
            for thing in &things {
                outputs += 1;
                *classes.entry(class.clone()).or_default() += 1;
                if let Err(fault) = within::fault(thing, said) {
                    let small = graph.reduced_to(place, slot).prompt();
                    outside
                        .entry(format!("{class}.{slot}"))
                        .or_insert_with(|| format!("{fault}; really {thing:?}, said {said:?}: {small}"));
                }
            }
        }
    }
    println!(
        "{ran} accepted graphs ran, {outputs} outputs of {} classes compared ({beyond} that the evaluator knows nothing of), {failed} ended in an error",
        classes.len()
    );
    for (error, (count, first)) in &errors {
        println!("error {count} × {error}: {first}");
    }
    let list = |found: &BTreeMap<String, String>| {
        found.iter().map(|(class, fault)| format!("{class}: {fault}")).collect::<Vec<_>>().join("\n")
    };
    assert!(
        outside.is_empty() && astray.is_empty(),
        "outside the bounds:\n{}\nthe evaluator is wrong:\n{}",
        list(&outside),
        list(&astray)
    );
    assert!(ran >= wanted, "only {ran} graphs were accepted");
}

/// The class and message of the node that failed.
fn failure(entry: &Value) -> Option<String> {
    if entry["status"]["status_str"] == "success" {
        return None;
    }
    let messages = entry["status"]["messages"].as_array()?;
    let error = messages.iter().find(|message| message[0] == "execution_error")?;
    let text = error[1]["exception_message"].as_str().unwrap_or_default();
    Some(format!("{} {}", error[1]["node_type"], text.chars().take(90).collect::<String>().trim()))
}

/// Whether what the evaluator says is within the caps of [`POLICY`].
fn within_caps(real: &BTreeMap<(usize, usize), Given1>) -> bool {
    real.values().all(|given| match given {
        Given1::List(things) => things.iter().all(|thing| match thing {
            Thing::Image { n, h, w, .. } | Thing::Mask { n, h, w } | Thing::Video { n, h, w, .. } => {
                *w <= 640 && *h <= 640 && w * h <= 400_000 && n * w * h <= 2_000_000 && *n <= 24
            }
            Thing::Latent { dims, cell, .. } => match dims[..] {
                [n, .., h, w] => w * cell <= 640 && h * cell <= 640 && n * w * h * cell * cell <= 2_000_000 && n <= 8,
                _ => true,
            },
            Thing::Audio { samples, rate, .. } => *samples <= 30 * rate,
            Thing::Sigmas(count) => *count <= 201,
            _ => true,
        }),
        Given1::Raises => true,
        Given1::Unknown => false,
    })
}

#[test]
fn refusals_of_what_runs_within_the_caps_are_explained() {
    let Some(bench) = bench() else { return };
    let wanted = number("DIFFERENTIAL_GRAPHS", 2000) / 4;
    let begin = number("DIFFERENTIAL_SEED", 1) + 1_000_000;
    let (mut ran, mut strict) = (0_u64, BTreeMap::<(String, String), (u64, String)>::new());
    for seed in begin..begin + wanted * 100 {
        if ran >= wanted {
            break;
        }
        let graph = graph(&mut Choices::seeded(seed), &bench.profile(0));
        let Some(violations) = bench.decide(&graph) else { continue };
        let real = evaluate(&graph, &bench.world);
        let (prompt, probes) = with_probes(&graph, &real, false);
        // What raises somewhere would not run as a whole.
        let runs = real.values().all(|given| matches!(given, Given1::List(_)));
        if probes.is_empty() || !runs || largest(&real) > NUMBERS_MAX || !within_caps(&real) {
            continue;
        }
        let End::Ran { entry, .. } = bench.comfyui.run(&prompt) else { continue };
        ran += 1;
        if failure(&entry).is_some() {
            continue;
        }
        for violation in violations {
            let class = violation.class.as_ref().map_or("", |class| class.as_str()).to_owned();
            let input = violation.input.clone().unwrap_or_default();
            let entry = strict
                .entry((violation.code.to_owned(), class))
                .or_insert_with(|| (0, format!("{input}: {}: {}", violation.message, graph.prompt())));
            entry.0 += 1;
        }
    }
    println!("{ran} refused graphs ran; what the engine said of those that ended within the caps:");
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    let mut open = Vec::new();
    for ((code, class), (count, first)) in &strict {
        let why = EXPLAINED.iter().find(|(of, at, _)| of == code && (*at == "*" || at == class));
        *reasons.entry(why.map_or("NOT EXPLAINED", |(_, _, why)| why)).or_default() += count;
        println!("{count} × {code} {class}");
        if why.is_none() {
            open.push(format!("{count} × {code} {class}: {first}"));
        }
    }
    for (why, count) in reasons {
        println!("{count} × {why}");
    }
    assert!(open.is_empty(), "not explained:\n{}", open.join("\n"));
}

#[test]
fn both_call_the_same_graphs_invalid() {
    let Some(bench) = bench() else { return };
    let wanted = number("DIFFERENTIAL_GRAPHS", 2000) / 4;
    let begin = number("DIFFERENTIAL_SEED", 1) + 2_000_000;
    let (mut ran, mut found) = (0_u64, BTreeMap::<(String, String), (u64, String)>::new());
    for seed in begin..begin + wanted * 20 {
        if ran >= wanted {
            break;
        }
        let graph = graph(&mut Choices::seeded(seed), &bench.profile(15));
        let ours = match parse(&graph.body()) {
            Err(error) => Some(error.code().to_owned()),
            Ok(_) => bench.decide(&graph).map(|violations| {
                let invalid = violations.iter().find(|of| of.kind == comfygate_policy::ViolationKind::Invalid);
                invalid.or(violations.first()).unwrap().code.to_owned()
            }),
        };
        // A link to a node that is not there ends ComfyUI's worker (K2), and every later graph with it.
        if largest(&evaluate(&graph, &bench.world)) > NUMBERS_MAX || graph.prompt().to_string().contains("nowhere") {
            assert!(ours.is_some() || !graph.prompt().to_string().contains("nowhere"), "{}", graph.prompt());
            continue;
        }
        ran += 1;
        let theirs = match bench.comfyui.run(&graph.prompt()) {
            End::Refused(answer) => Some(first_error(&answer)),
            End::Ran { answer, .. } if answer["node_errors"].as_object().is_some_and(|errors| !errors.is_empty()) => {
                Some(format!("partly {}", first_error(&answer)))
            }
            End::Ran { .. } => None,
        };
        if ours.is_some() == theirs.is_some() {
            continue;
        }
        let name = |code: Option<String>| code.unwrap_or_else(|| "accepted".to_owned());
        let entry = found.entry((name(ours), name(theirs))).or_insert_with(|| (0, graph.prompt().to_string()));
        entry.0 += 1;
    }
    println!("{ran} broken graphs; where the engine and ComfyUI disagree:");
    let mut open = Vec::new();
    for ((ours, theirs), (count, first)) in &found {
        let fits = |at: &str| at == theirs || at.strip_suffix('*').is_some_and(|start| theirs.starts_with(start));
        let why = DISAGREE.iter().find(|(of, at, _)| of == ours && fits(at));
        println!("{count} × engine {ours}, ComfyUI {theirs}: {}", why.map_or("NOT EXPLAINED", |(_, _, why)| why));
        if why.is_none() {
            open.push(format!("{count} × engine {ours}, ComfyUI {theirs}: {first}"));
        }
    }
    assert!(open.is_empty(), "not explained:\n{}", open.join("\n"));
}

fn first_error(answer: &Value) -> String {
    let nodes = answer["node_errors"].as_object();
    let first = nodes.into_iter().flat_map(|nodes| nodes.values()).find_map(|node| node["errors"][0]["type"].as_str());
    first.or(answer["error"]["type"].as_str()).unwrap_or("no reason").to_owned()
}
