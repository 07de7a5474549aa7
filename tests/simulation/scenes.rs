//! The scenes: each a fleet, tenants, and one thing that is hard about them.

use crate::contenders::Kind;
use crate::measures::{jain, makespan, mean, of_entitlement, percentile, switches, waits, waits_of_light};
use crate::run::{Fate, run};
use crate::world::{Arrivals, LIGHT, Millis, Plan, flood};

/// One of the scenes.
pub struct Scene {
    /// What it is, in a few words.
    pub name: &'static str,
    /// What it is made from.
    pub plan: Plan,
}

/// All scenes, shorter by `shorter` than those of the report.
pub fn scenes(shorter: f64) -> Vec<Scene> {
    let own = |gpus, tenants| Plan { gpus, tenants, ..Plan::default() };
    let any = |gpus, tenants| Plan { own_models: false, ..own(gpus, tenants) };
    let many = |plan: Plan| Plan { minutes: 720.0, ..plan };
    let scene = |name, plan: Plan| Scene { name, plan: Plan { minutes: plan.minutes / shorter, ..plan } };
    vec![
        scene("2 GPUs, 10 tenants, a model each", own(2, 10)),
        scene("2 GPUs, 10 tenants, any model", any(2, 10)),
        scene("4 GPUs, 100 tenants, a model each", own(4, 100)),
        scene("4 GPUs, 100 tenants, any model", any(4, 100)),
        scene("16 GPUs, 1,000 tenants, a model each", many(own(16, 1000))),
        scene("16 GPUs, 1,000 tenants, any model", many(any(16, 1000))),
        scene("4 GPUs, bursts of up to 60 jobs", Plan { arrivals: Arrivals::Bursts, ..own(4, 100) }),
        scene("4 GPUs, weights 1, 2 and 4", Plan { weights: &[1, 2, 4], ..own(4, 100) }),
        scene("4 GPUs, estimates wrong by a factor of 2", Plan { noise: 0.7, ..own(4, 100) }),
        scene("8 GPUs of speeds ½, 1 and 2", Plan { speeds: &[1.0, 0.5, 2.0, 1.0], ..own(8, 100) }),
        scene("4 GPUs, one dead for a quarter of the time", Plan { deaths: true, ..own(4, 100) }),
    ]
}

/// What a scheduler makes of a scene.
#[derive(Debug, Clone, Copy)]
pub struct Result {
    /// Jain's index under overload.
    pub jain: f64,
    /// Switches of models for each hundred jobs, under overload.
    pub switches: f64,
    /// The time for everything by the least time.
    pub makespan: f64,
    /// Seconds that nineteen of twenty jobs wait at most, at seven tenths of what the fleet can do.
    pub p95: f64,
    /// Seconds that jobs wait on the average then.
    pub mean: f64,
    /// Seconds that nineteen of twenty jobs of the half of tenants that ask for least wait at most, under overload.
    pub light: f64,
}

/// Runs it, all of it.
pub fn play(kind: Kind, plan: &Plan, seed: u64) -> Result {
    let (jain, switches) = under_overload(kind, plan, seed);
    let (makespan, light) = to_the_end(kind, plan, seed);
    let waits = with_room(kind, plan, seed);
    Result { jain, switches, makespan, p95: percentile(&waits, 95), mean: mean(waits), light }
}

/// As long as jobs come: Jain's index, and switches for each hundred jobs.
pub fn under_overload(kind: Kind, plan: &Plan, seed: u64) -> (f64, f64) {
    let (world, end) = (plan.world(seed), (plan.minutes * 60_000.0) as Millis);
    let outcome = run(kind, &world, Some(end));
    (jain(&of_entitlement(&world, &outcome, end)), switches(&outcome))
}

/// Until every job is over: the time that it takes by the least time, and what nineteen of twenty jobs wait at most of the half of tenants that ask for least.
pub fn to_the_end(kind: Kind, plan: &Plan, seed: u64) -> (f64, f64) {
    let world = plan.world(seed);
    let outcome = run(kind, &world, None);
    assert!(outcome.fates.iter().all(|fate| fate.ended.is_some()), "every job is over at the end");
    (makespan(&world, &outcome), percentile(&waits_of_light(&world, &outcome), 95))
}

/// With jobs for seven tenths of what the fleet can do: how long they wait, the shortest first.
pub fn with_room(kind: Kind, plan: &Plan, seed: u64) -> Vec<f64> {
    let world = Plan { load: 0.7, ..plan.clone() }.world(seed);
    let outcome = run(kind, &world, None);
    assert!(outcome.fates.iter().all(|fate| fate.ended.is_some()), "every job is over at the end");
    waits(&outcome)
}

/// How the light tenant fares beside the one that floods: seconds.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    /// The longest wait of one of its jobs.
    pub longest: f64,
    /// The mean.
    #[allow(dead_code, reason = "the goals' tests compare it, the printed table has the longest wait alone")]
    pub mean: f64,
    /// By how much one of its jobs, which came when it had no other, waited longer than until every GPU was done with the one job that it ran then.
    pub beyond: f64,
}

/// Runs a flood.
pub fn play_flood(kind: Kind, gpus: usize, seed: u64) -> Flood {
    let world = flood(gpus, seed);
    let outcome = run(kind, &world, None);
    let of_light = outcome.fates.iter().zip(&world.jobs).filter(|(_, job)| job.tenant == LIGHT);
    let light: Vec<&Fate> = of_light.map(|(fate, _)| fate).collect();
    let waits = || light.iter().map(|fate| fate.waited().expect("it ran"));
    // What waits for its own tenant's, an earlier one or one that went before it for its models, is left out.
    let alone = light.iter().enumerate().filter(|(at, fate)| {
        let (before, after) = light.split_at(*at);
        let over = before.iter().all(|before| before.ended.is_some_and(|ended| ended <= fate.came));
        over && after.iter().all(|after| after.began >= fate.began)
    });
    let beyond = alone.map(|(_, fate)| fate.waited().expect("it ran") - fate.residual as f64 / 1000.0);
    Flood { longest: waits().fold(0.0, f64::max), mean: mean(waits()), beyond: beyond.fold(f64::MIN, f64::max) }
}
