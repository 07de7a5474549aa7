//! The scenes: each a fleet, tenants, and one thing that is hard about them.

use crate::contenders::Kind;
use crate::measures::{jain, makespan, mean, of_entitlement, percentile, switches, waits, waits_of_light};
use crate::run::run;
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

/// Runs it.
pub fn play(kind: Kind, plan: &Plan, seed: u64) -> Result {
    let over = plan.world(seed);
    let end = (plan.minutes * 60_000.0) as Millis;
    let (stopped, ended) = (run(kind, &over, Some(end)), run(kind, &over, None));
    let calm = run(kind, &Plan { load: 0.7, ..plan.clone() }.world(seed), None);
    assert!(ended.fates.iter().chain(&calm.fates).all(|fate| fate.ended.is_some()), "every job is over at the end");
    let waits = waits(&calm);
    Result {
        jain: jain(&of_entitlement(&over, &stopped, end)),
        switches: switches(&stopped),
        makespan: makespan(&over, &ended),
        p95: percentile(&waits, 95),
        mean: mean(waits),
        light: percentile(&waits_of_light(&over, &ended), 95),
    }
}

/// How the light tenant fares beside the one that floods: seconds.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    /// The longest wait of one of its jobs.
    pub longest: f64,
    /// The mean.
    pub mean: f64,
    /// By how much one of its jobs waited longer than until every GPU was done with the one job that it ran when it came.
    pub beyond: f64,
}

/// Runs a flood.
pub fn play_flood(kind: Kind, gpus: usize, seed: u64) -> Flood {
    let world = flood(gpus, seed);
    let outcome = run(kind, &world, None);
    let light = || outcome.fates.iter().zip(&world.jobs).filter(|(_, job)| job.tenant == LIGHT);
    let waits = || light().map(|(fate, _)| fate.waited().expect("it ran"));
    let beyond = light().zip(waits()).map(|((fate, _), waited)| waited - fate.residual as f64 / 1000.0);
    Flood { longest: waits().fold(0.0, f64::max), mean: mean(waits()), beyond: beyond.fold(f64::MIN, f64::max) }
}
