//! What happens to a fleet: which jobs come when, and what the GPUs are like.

use crate::random::Random;

/// Milliseconds since the beginning.
pub type Millis = u64;

/// Models that jobs need, and what loading each takes, in seconds: from an SD 1.5 to a large film model from a local disk.
pub const LOADS: [f64; 4] = [4.0, 8.0, 14.0, 22.0];
/// The median of jobs' lengths, in seconds on a GPU of speed 1, and the spread of their logarithm: one in forty takes seven times the median.
const LENGTH: (f64, f64) = (8.0, 1.0);
/// No job is longer, in seconds.
const LENGTH_MAX: f64 = 300.0;
/// The mean of these lengths.
pub const LENGTH_MEAN: f64 = 13.1;

/// One job of the trace.
#[derive(Debug, Clone)]
pub struct Job {
    /// When it comes.
    pub at: Millis,
    /// Whose.
    pub tenant: usize,
    /// What it takes on a GPU of speed 1, without loading its model.
    pub seconds: f64,
    /// What it is thought to take.
    pub thought: f64,
    /// Which of [`LOADS`].
    pub model: usize,
}

/// One GPU.
#[derive(Debug, Clone)]
pub struct Gpu {
    /// Seconds of work that it does in a second.
    pub speed: f64,
    /// From when until when it is dead; it comes back without models.
    pub dead: Option<(Millis, Millis)>,
}

/// A trace and the fleet that it meets.
#[derive(Debug, Clone)]
pub struct World {
    /// In the order of their arrival.
    pub jobs: Vec<Job>,
    /// The fleet.
    pub gpus: Vec<Gpu>,
    /// What each tenant may take, relative to others.
    pub weights: Vec<u32>,
}

/// How jobs come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// Independently of each other.
    Poisson,
    /// In bursts of up to 60 of one tenant, at once.
    Bursts,
}

/// What a trace is made from.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many GPUs.
    pub gpus: usize,
    /// Their speeds, in turn.
    pub speeds: &'static [f64],
    /// How many tenants.
    pub tenants: usize,
    /// Their weights, in turn.
    pub weights: &'static [u32],
    /// Seconds of work that come in a second, for each second that the fleet can do.
    pub load: f64,
    /// For how long jobs come.
    pub minutes: f64,
    /// How.
    pub arrivals: Arrivals,
    /// Each tenant has a model of its own; otherwise each job has any.
    pub own_models: bool,
    /// The spread of the logarithm of how wrong estimates are: 0.25 is by a quarter, 0.7 by a factor of two.
    pub noise: f64,
    /// A quarter of the GPUs is dead for the third quarter of the time.
    pub deaths: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            gpus: 4,
            speeds: &[1.0],
            tenants: 100,
            weights: &[1],
            load: 1.5,
            minutes: 240.0,
            arrivals: Arrivals::Poisson,
            own_models: true,
            noise: 0.25,
            deaths: false,
        }
    }
}

impl Plan {
    /// Whether jobs come independently of each other.
    pub fn is_steady(&self) -> bool {
        self.arrivals == Arrivals::Poisson
    }

    /// The trace of this plan for a seed.
    pub fn world(&self, seed: u64) -> World {
        let mut random = Random::new(seed);
        let gpus: Vec<Gpu> = (0..self.gpus).map(|number| self.gpu(number)).collect();
        let speed: f64 = gpus.iter().map(|gpu| gpu.speed).sum();
        // Some send much more than others: one in six three times the median, one in six a third.
        let activity: Vec<f64> = (0..self.tenants).map(|_| random.log_normal(1.0, 1.0)).collect();
        let jobs = self.jobs(&mut random, &activity, LENGTH_MEAN / (self.load * speed));
        let weights = (0..self.tenants).map(|tenant| self.weights[tenant % self.weights.len()]).collect();
        World { jobs, gpus, weights }
    }

    fn gpu(&self, number: usize) -> Gpu {
        let end = self.minutes * 60_000.0;
        let dead = (self.deaths && number % 4 == 1).then_some(((end * 0.5) as Millis, (end * 0.75) as Millis));
        Gpu { speed: self.speeds[number % self.speeds.len()], dead }
    }

    fn jobs(&self, random: &mut Random, activity: &[f64], gap: f64) -> Vec<Job> {
        let all: f64 = activity.iter().sum();
        let burst = |random: &mut Random| match self.arrivals {
            Arrivals::Poisson => 1,
            Arrivals::Bursts => 1 + random.below(60),
        };
        let mean_burst = if self.is_steady() { 1.0 } else { 30.5 };
        let (mut jobs, mut at) = (Vec::new(), 0.0);
        loop {
            at += random.exponential(gap * mean_burst);
            if at >= self.minutes * 60.0 {
                return jobs;
            }
            let mut left = random.unit() * all;
            let tenant = activity.iter().position(|part| {
                left -= part;
                left < 0.0
            });
            let tenant = tenant.unwrap_or(0);
            for _ in 0..burst(random) {
                jobs.push(self.job(random, (at * 1000.0) as Millis, tenant));
            }
        }
    }

    fn job(&self, random: &mut Random, at: Millis, tenant: usize) -> Job {
        let seconds = random.log_normal(LENGTH.0, LENGTH.1).min(LENGTH_MAX);
        let thought = random.log_normal(seconds, self.noise);
        let model = if self.own_models { tenant % LOADS.len() } else { random.below(LOADS.len()) };
        Job { at, tenant, seconds, thought, model }
    }
}

/// One tenant floods with 500 jobs at once; another sends one job of eight seconds a minute, of the same and of another model in turn.
pub fn flood(gpus: usize, seed: u64) -> World {
    let mut random = Random::new(seed);
    let plan = Plan { gpus, tenants: 2, ..Plan::default() };
    let mut jobs: Vec<Job> = (0..500).map(|_| Job { model: 1, ..plan.job(&mut random, 0, 0) }).collect();
    jobs.extend((0..20).map(|minute| Job {
        model: 1 + minute % 2,
        seconds: 8.0,
        thought: 8.0,
        ..plan.job(&mut random, 30_000 + minute as Millis * 60_000, LIGHT)
    }));
    World { jobs, gpus: (0..gpus).map(|number| plan.gpu(number)).collect(), weights: vec![1; 2] }
}

/// The tenant of [`flood`] that sends little.
pub const LIGHT: usize = 1;
