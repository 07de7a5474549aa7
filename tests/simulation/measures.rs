//! What is measured of an outcome.

use crate::run::Outcome;
use crate::world::{LENGTH_MEAN, Millis, World};

/// Jain's index (Jain, Chiu, Hawe, 1984): 1 where all have the same, 1/n where one of n has everything.
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / (squares * shares.len() as f64)
}

/// Tenants that were entitled to fewer seconds are left out: what they got is a matter of single jobs. Ten jobs of the mean length.
const LEAST: f64 = 10.0 * LENGTH_MEAN;
/// Seconds between two looks at the ideal.
const STEP: f64 = 10.0;

/// What each tenant was given for each second that it was entitled to. That is what ideal sharing gives it until the horizon: of all that was given, at every moment a part by weight to those who have
/// something to be done, and to nobody more than that (generalised processor sharing: Parekh, Gallager, 1993).
pub fn of_entitlement(world: &World, outcome: &Outcome, horizon: Millis) -> Vec<f64> {
    let given: f64 = outcome.served.iter().sum();
    let mut jobs = world.jobs.iter().peekable();
    let (mut asks, mut entitled) = (vec![0.0; world.weights.len()], vec![0.0; world.weights.len()]);
    let steps = (horizon as f64 / 1000.0 / STEP).ceil();
    for step in 0..steps as u64 {
        let until = ((step + 1) as f64 * STEP * 1000.0) as Millis;
        while let Some(job) = jobs.next_if(|job| job.at < until.min(horizon)) {
            asks[job.tenant] += job.seconds;
        }
        share_out(given / steps, &world.weights, &mut asks, &mut entitled);
    }
    let entitled = entitled.into_iter().zip(&outcome.served);
    entitled.filter(|(entitled, _)| *entitled >= LEAST).map(|(entitled, served)| served / entitled).collect()
}

/// Gives out so many seconds by weight, to nobody more than it asks for.
fn share_out(mut seconds: f64, weights: &[u32], asks: &mut [f64], given: &mut [f64]) {
    while seconds > 1e-9 {
        let asking = |asks: &[f64]| -> Vec<usize> { (0..asks.len()).filter(|tenant| asks[*tenant] > 1e-9).collect() };
        let tenants = asking(asks);
        let weight: f64 = tenants.iter().map(|tenant| f64::from(weights[*tenant])).sum();
        if tenants.is_empty() {
            return;
        }
        // As much as the first one wants that has enough, or all that there is.
        let enough = tenants.iter().map(|tenant| asks[*tenant] / f64::from(weights[*tenant])).fold(f64::MAX, f64::min);
        let level = enough.min(seconds / weight);
        for tenant in tenants {
            let part = level * f64::from(weights[tenant]);
            (asks[tenant], given[tenant]) = (asks[tenant] - part, given[tenant] + part);
        }
        seconds -= level * weight;
    }
}

/// The least time in which the whole trace can be done, in seconds: every GPU works all the time that it is alive and has the model that it needs; nothing is done before it came.
pub fn makespan_at_best(world: &World) -> f64 {
    let work: f64 = world.jobs.iter().map(|job| job.seconds).sum();
    let done_by = |time: f64| -> f64 {
        let alive = world.gpus.iter().map(|gpu| {
            let dead = gpu.dead.map_or(0.0, |(from, to)| (time.min(to as f64) - from as f64).max(0.0));
            gpu.speed * (time - dead) / 1000.0
        });
        alive.sum()
    };
    let last = world.jobs.last().map_or(0.0, |job| job.at as f64);
    let (mut low, mut high) = (0.0, 1e12);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if done_by(middle) >= work { high = middle } else { low = middle }
    }
    high.max(last) / 1000.0
}

/// How many times that the whole trace took.
pub fn makespan(world: &World, outcome: &Outcome) -> f64 {
    outcome.last as f64 / 1000.0 / makespan_at_best(world)
}

/// Models that were loaded in place of others, for each hundred jobs that began.
pub fn switches(outcome: &Outcome) -> f64 {
    let began = outcome.fates.iter().filter(|fate| fate.began.is_some()).count();
    outcome.switches as f64 * 100.0 / began.max(1) as f64
}

/// Seconds that jobs waited, the shortest first.
pub fn waits(outcome: &Outcome) -> Vec<f64> {
    let mut waits: Vec<f64> = outcome.fates.iter().filter_map(|fate| fate.waited()).collect();
    waits.sort_by(f64::total_cmp);
    waits
}

/// Seconds that jobs of the half of tenants waited that asked for least, the shortest first.
pub fn waits_of_light(world: &World, outcome: &Outcome) -> Vec<f64> {
    let mut asked = vec![0.0; world.weights.len()];
    world.jobs.iter().for_each(|job| asked[job.tenant] += job.seconds);
    let mut sorted = asked.clone();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted[sorted.len() / 2];
    let light = outcome.fates.iter().zip(&world.jobs).filter(|(_, job)| asked[job.tenant] < middle);
    let mut waits: Vec<f64> = light.filter_map(|(fate, _)| fate.waited()).collect();
    waits.sort_by(f64::total_cmp);
    waits
}

/// What so many of a hundred do not exceed.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or(0.0)
}

/// The mean.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}
