//! The seeds and finds of the fuzz targets, replayed on stable.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
#![allow(clippy::disallowed_methods, reason = "tests read their cases; the engine itself stays pure")]
#![cfg(feature = "fuzzing")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use comfygate_policy::fuzzing;

/// Files of one corpus: small enough to replay with every test run.
const FILES_MAX: usize = 200;

fn replay(target: &str, body: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        body(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "{target} has seeds");
    assert!(count <= FILES_MAX, "{target} has {count} files: minimise it (cargo fuzz cmin {target})");
}

#[test]
fn the_corpus_of_parse_replays() {
    replay("parse", fuzzing::parse);
}

#[test]
fn the_corpus_of_decide_and_rewrite_replays() {
    replay("decide_and_rewrite", fuzzing::decide_and_rewrite);
}

#[test]
fn the_corpus_of_inspect_replays() {
    replay("inspect", fuzzing::inspect);
}

#[test]
fn the_corpus_of_rewrite_replays() {
    replay("rewrite", fuzzing::rewrite);
}

#[test]
fn the_corpus_of_policy_document_replays() {
    replay("policy_document", fuzzing::policy_document);
}

#[test]
fn the_corpus_of_expression_replays() {
    replay("expression", fuzzing::expression);
}

/// More of what the target `expression` does, from fixed seeds: its inputs are short.
#[test]
fn generated_expressions_give_what_lies_within_their_bounds() {
    let mut state: u64 = 7;
    for _ in 0..60_000 {
        let mut data = [0_u8; 64];
        for byte in &mut data {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        fuzzing::expression(&data);
    }
}

/// Bytes that follow from a seed.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// A fuzzer that sees nothing but refusals looks at half of the engine.
#[test]
fn the_target_inspect_reaches_accepted_graphs_of_many_classes_under_every_policy() {
    let (mut all, mut allowed) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
    let (mut made, mut accepted) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..number("INSPECT_SEEDS", 600) {
        let Some((policy, graph, verdict)) = fuzzing::inspected(&bytes(seed, 40 + seed as usize % 400)) else {
            continue;
        };
        *all.entry(policy).or_default() += 1;
        let classes = graph.nodes.iter().map(|node| node.class.clone());
        made.extend(classes.clone());
        if verdict == Some(true) {
            *allowed.entry(policy).or_default() += 1;
            accepted.extend(classes);
        }
    }
    println!(
        "{allowed:?} of {all:?} allowed; {} classes made, {} in graphs that were allowed",
        made.len(),
        accepted.len()
    );
    for (policy, count) in &all {
        let share = allowed.get(policy).copied().unwrap_or_default();
        assert!(share * 20 > *count, "{policy}: {share} of {count}");
    }
    assert!(allowed.values().sum::<usize>() * 5 > all.values().sum(), "{allowed:?} of {all:?}");
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
