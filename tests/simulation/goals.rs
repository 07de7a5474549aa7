//! The goals of the scheduler, in a small form with fixed seeds: `make simulate` has the large one. The clock is virtual, so nothing here depends on the machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics"
)]

mod contenders;
mod measures;
mod random;
mod run;
mod scenes;
mod world;

use contenders::Kind;
use measures::{jain, mean, of_entitlement};
use run::run;
use scenes::{Flood, Result, play, play_flood, scenes};
use world::{Gpu, Job, Plan, World};

/// How much shorter than those of the report the scenes are.
const SHORTER: f64 = 4.0;
const SEEDS: [u64; 2] = [1, 2];

fn play_all(kind: Kind, named: &str) -> Vec<(&'static str, Vec<Result>)> {
    let chosen = scenes(SHORTER).into_iter().filter(|scene| scene.name.contains(named));
    let played = chosen.map(|scene| (scene.name, SEEDS.iter().map(|seed| play(kind, &scene.plan, *seed)).collect()));
    let played: Vec<(&'static str, Vec<Result>)> = played.collect();
    assert!(!played.is_empty(), "a scene whose name contains `{named}`");
    played
}
