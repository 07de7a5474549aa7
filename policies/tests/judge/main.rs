//! The engine judged by a slow, plain evaluator: whatever a generated graph really makes lies within what the engine said about it before.
//!
//! `cargo test` runs some thousand graphs of fixed seeds. `JUDGE_GRAPHS=200000 cargo test --release -p comfygate-policy --features fuzzing --test judge` runs more, `JUDGE_SEED` says
//! where to begin, `JUDGE_MUTATIONS` how many real workflows are changed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
#![allow(clippy::disallowed_methods, reason = "tests read their settings; the engine itself stays pure")]
#![cfg(feature = "fuzzing")]

mod evaluator;
mod found;
mod mutations;
mod within;

use std::collections::{BTreeMap, HashMap};

use comfygate_policy::fuzzing::bounds_of;
use comfygate_policy::fuzzing::generator::{Choices, Graph, Profile, graph};
use comfygate_policy::{Catalogue, Directory, FileFact, FileFacts, Policy, Verdict, decide, parse};
use evaluator::{CLASSES, Given1, Picture, Thing, World, evaluate, largest};

/// Caps on everything, so that every rule about sizes and steps is in force, and so large that they refuse little.
const WIDE: &str = r#"
name = "wide"
[classes]
allow = ["*"]
[caps]
steps = 100000
steps_total = 10000000
width = 1000000
height = 1000000
megapixels = 1000000
megapixels_total = 100000000
batch = 1000000
frames = 1000000
seconds = 1000000
denoise_min = 0.001
vae_scale = 32
"#;

/// Caps that generated graphs often meet and often break.
const NARROW: &str = r#"
name = "narrow"
[classes]
allow = ["*"]
[caps]
steps = 40
steps_total = 80
width = 512
height = 640
megapixels = 0.3
megapixels_total = 1.5
batch = 6
frames = 20
seconds = 30
denoise_min = 0.01
vae_scale = 8
"#;

fn graphs(default: u64) -> std::ops::Range<u64> {
    numbered("JUDGE_GRAPHS", default)
}

/// As many seeds as the environment asks for by this name.
fn numbered(name: &str, default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let from = number("JUDGE_SEED").unwrap_or(1);
    from..from + number(name).unwrap_or(default)
}

fn world() -> (World, FileFacts) {
    let pictures = [
        ("picture.png", Picture { w: 300, h: 200, n: 1, alpha: false }),
        ("tiny.png", Picture { w: 9, h: 5, n: 1, alpha: false }),
        ("clear.png", Picture { w: 70, h: 130, n: 1, alpha: true }),
        ("moving.webp", Picture { w: 48, h: 96, n: 4, alpha: true }),
    ];
    let mut facts = FileFacts::none();
    let mut files = HashMap::new();
    for (name, picture) in pictures {
        let size = |side: i128| u32::try_from(side).unwrap();
        let (width, height, frames) = (size(picture.w), size(picture.h), size(picture.n));
        let fact = FileFact { canonical_name: name.to_owned(), width, height, frames, seconds: Some(10) };
        facts.insert(name, Directory::Input, fact);
        files.insert(name.to_owned(), picture);
    }
    (World { files, vae_scale: 8 }, facts)
}

fn profile(catalogue: &Catalogue) -> Profile<'_> {
    let files = &["picture.png", "tiny.png", "clear.png", "moving.webp"];
    Profile { nodes_max: 9, files, ..Profile::of(catalogue, CLASSES) }
}

/// What a run saw, so that a run which judged nothing fails.
#[derive(Debug, Default)]
struct Seen {
    graphs: usize,
    allowed: usize,
    outputs: usize,
    bounded: BTreeMap<String, usize>,
    refused: BTreeMap<&'static str, usize>,
}

/// Judges one graph: a fault with the smallest graph that shows it, if there is one.
fn judge(graph: &Graph, policy: &Policy, seen: &mut Seen) -> Option<String> {
    let catalogue = Catalogue::builtin();
    let (world, files) = world();
    let parsed = parse(&graph.body()).unwrap_or_else(|error| panic!("{error}: {}", graph.prompt()));
    seen.graphs += 1;
    if let Verdict::Deny(violations) = decide(&parsed, policy, catalogue, &files) {
        for violation in &violations {
            *seen.refused.entry(violation.code).or_default() += 1;
        }
        return None;
    }
    seen.allowed += 1;
    let real = evaluate(graph, &world);
    if policy.name() == "narrow"
        && let Some(fault) = beyond_narrow(&real)
    {
        return Some(format!("{fault}\n{}", graph.prompt()));
    }
    for said in bounds_of(&parsed, policy, catalogue, &files) {
        let place = said.node.parse::<usize>().unwrap() - 1;
        let Some(Given1::List(things)) = real.get(&(place, said.slot)) else { continue };
        for thing in things {
            seen.outputs += 1;
            match within::fault(thing, &said) {
                Ok(true) => *seen.bounded.entry(graph.nodes[place].class.clone()).or_default() += 1,
                Ok(false) => {}
                Err(fault) => {
                    let class = &graph.nodes[place].class;
                    let small = graph.reduced_to(place, said.slot);
                    return Some(format!(
                        "{class} slot {}: {fault}\nreal {thing:?}\nsaid {said:?}\n{}",
                        said.slot,
                        small.prompt()
                    ));
                }
            }
        }
    }
    None
}

/// What an accepted graph makes beyond the caps of [`NARROW`], whatever the bounds are.
fn beyond_narrow(real: &BTreeMap<(usize, usize), Given1>) -> Option<String> {
    // 30 seconds of 192 000 samples in two channels are the most that one value may have.
    if largest(real) > 12_000_000 {
        return Some("Largest: more numbers than the caps make possible".to_owned());
    }
    let things = real.values().flat_map(|given| match given {
        Given1::List(things) => things.as_slice(),
        _ => &[],
    });
    things.into_iter().find_map(|thing| match thing {
        Thing::Image { n, h, w, .. } if *w > 512 || *h > 640 || w * h > 300_000 || n * w * h > 1_500_000 => {
            Some(format!("Caps: {thing:?}"))
        }
        Thing::Sigmas(count) if *count > 81 => Some(format!("Caps: {thing:?}")),
        _ => None,
    })
}

fn run(policy: &str, range: std::ops::Range<u64>, make: impl Fn(u64, &Catalogue) -> Graph) -> Seen {
    let policy = Policy::from_toml(policy).unwrap();
    let mut seen = Seen::default();
    let mut faults: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for seed in range {
        let graph = make(seed, Catalogue::builtin());
        if let Some(fault) = judge(&graph, &policy, &mut seen) {
            let kind =
                fault.lines().next().unwrap_or_default().split(|c: char| c.is_ascii_digit()).next().unwrap().to_owned();
            let entry = faults.entry(kind).or_insert_with(|| (0, format!("seed {seed}: {fault}")));
            entry.0 += 1;
        }
    }
    println!(
        "{} graphs, {} allowed, {} outputs, bounded {:?}, refused {:?}",
        seen.graphs, seen.allowed, seen.outputs, seen.bounded, seen.refused
    );
    let told: Vec<String> = faults.values().map(|(count, first)| format!("{count} × {first}")).collect();
    assert!(told.is_empty(), "outside the bounds:\n{}", told.join("\n\n"));
    seen
}

#[test]
fn what_a_graph_really_makes_lies_within_the_bounds() {
    let seen = run(WIDE, graphs(4000), |seed, catalogue| graph(&mut Choices::seeded(seed), &profile(catalogue)));
    assert!(seen.allowed * 10 > seen.graphs, "{seen:?}");
    assert!(seen.bounded.len() > 40, "{seen:?}");
}

#[test]
fn what_narrow_caps_accept_stays_within_them() {
    let seen = run(NARROW, graphs(4000), |seed, catalogue| {
        let profile = Profile { side_max: 400, count_max: 3, nodes_max: 6, edges: 1, ..profile(catalogue) };
        graph(&mut Choices::seeded(seed), &profile)
    });
    assert!(seen.allowed * 20 > seen.graphs, "{seen:?}");
}
