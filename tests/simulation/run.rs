//! The simulation: events in the order of a virtual clock.

use crate::contenders::Kind;
use crate::world::{LOADS, Millis, World};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How often a scheduler is asked again that has jobs and free GPUs.
const LOOK_EVERY: Millis = 1_000;

/// What happens; at the same time, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A job is over on a GPU, if that runs the same attempt still.
    End {
        gpu: usize,
        attempt: usize,
    },
    Dies {
        gpu: usize,
    },
    Returns {
        gpu: usize,
    },
    Arrives {
        job: usize,
    },
    Look,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fate {
    /// When it came.
    pub came: Millis,
    /// When it began, the last time.
    pub began: Option<Millis>,
    /// When it was over.
    pub ended: Option<Millis>,
    /// Milliseconds until every GPU was done with what it ran when the job came.
    pub residual: Millis,
}

impl Fate {
    /// Seconds that it waited, if it began.
    pub fn waited(&self) -> Option<f64> {
        Some(self.began?.saturating_sub(self.came) as f64 / 1000.0)
    }
}

/// What came of it all.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// By job.
    pub fates: Vec<Fate>,
    /// GPU seconds that each tenant was given, without loading models.
    pub served: Vec<f64>,
    /// Models that were loaded in place of others.
    pub switches: usize,
    /// When the last job was over.
    pub last: Millis,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    job: usize,
    number: usize,
    began: Millis,
    /// When the work itself begins: the models are loaded.
    works: Millis,
    until: Millis,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    runs: Option<Attempt>,
    model: Option<usize>,
    dead: bool,
}

struct Simulation<'a> {
    world: &'a World,
    events: BinaryHeap<Reverse<(Millis, Event)>>,
    gpus: Vec<State>,
    attempts: usize,
    outcome: Outcome,
}

/// Runs a scheduler through a world, to the end or to the horizon.
pub fn run(kind: Kind, world: &World, horizon: Option<Millis>) -> Outcome {
    let mut contender = kind.start(world);
    let mut simulation = Simulation::new(world);
    let mut looks_at = None;
    while let Some(Reverse((now, event))) = simulation.events.pop() {
        if horizon.is_some_and(|horizon| now > horizon) {
            break;
        }
        match event {
            Event::End { gpu, attempt } => {
                if let Some(job) = simulation.end(gpu, attempt, now) {
                    contender.ends(world, job, gpu, now);
                }
            }
            Event::Arrives { job } => {
                simulation.arrives(job, now);
                contender.arrives(world, job, now);
            }
            Event::Dies { gpu } => {
                let job = simulation.dies(gpu);
                contender.dies(world, gpu, job, now);
            }
            Event::Returns { gpu } => {
                simulation.gpus[gpu].dead = false;
                contender.returns(gpu, now);
            }
            Event::Look => looks_at = None,
        }
        while let Some((job, gpu)) = contender.next(&simulation.free(), now) {
            simulation.begin(job, gpu, now);
        }
        if looks_at.is_none() && contender.looks_again() && simulation.free().contains(&true) {
            looks_at = Some(now + LOOK_EVERY);
            simulation.events.push(Reverse((now + LOOK_EVERY, Event::Look)));
        }
    }
    simulation.over(horizon)
}

impl<'a> Simulation<'a> {
    fn new(world: &'a World) -> Self {
        let arrivals = world.jobs.iter().enumerate().map(|(job, of)| (of.at, Event::Arrives { job }));
        let deaths = world.gpus.iter().enumerate().filter_map(|(gpu, of)| Some((gpu, of.dead?)));
        let deaths = deaths.flat_map(|(gpu, (from, to))| [(from, Event::Dies { gpu }), (to, Event::Returns { gpu })]);
        let outcome = Outcome {
            fates: vec![Fate::default(); world.jobs.len()],
            served: vec![0.0; world.weights.len()],
            switches: 0,
            last: 0,
        };
        Self {
            world,
            events: arrivals.chain(deaths).map(Reverse).collect(),
            gpus: vec![State::default(); world.gpus.len()],
            attempts: 0,
            outcome,
        }
    }

    fn free(&self) -> Vec<bool> {
        self.gpus.iter().map(|gpu| gpu.runs.is_none() && !gpu.dead).collect()
    }

    fn arrives(&mut self, job: usize, now: Millis) {
        let running = self.gpus.iter().filter_map(|gpu| gpu.runs);
        let residual = running.map(|attempt| attempt.until.saturating_sub(now)).max().unwrap_or(0);
        self.outcome.fates[job] = Fate { came: now, residual, ..Fate::default() };
    }

    fn begin(&mut self, job: usize, gpu: usize, now: Millis) {
        let of = &self.world.jobs[job];
        let state = &mut self.gpus[gpu];
        assert!(state.runs.is_none() && !state.dead, "a GPU runs one job at a time");
        assert!(self.outcome.fates[job].ended.is_none(), "no job runs again that is over");
        let mut works = now;
        if state.model != Some(of.model) {
            works += (LOADS[of.model] * 1000.0) as Millis;
            self.outcome.switches += usize::from(state.model.is_some());
            state.model = Some(of.model);
        }
        let until = works + (of.seconds / self.world.gpus[gpu].speed * 1000.0) as Millis;
        self.attempts += 1;
        state.runs = Some(Attempt { job, number: self.attempts, began: now, works, until });
        self.outcome.fates[job].began = Some(now);
        self.events.push(Reverse((until, Event::End { gpu, attempt: self.attempts })));
    }

    fn end(&mut self, gpu: usize, attempt: usize, now: Millis) -> Option<usize> {
        let Attempt { job, .. } = self.gpus[gpu].runs.take_if(|runs| runs.number == attempt)?;
        self.outcome.served[self.world.jobs[job].tenant] += self.world.jobs[job].seconds;
        self.outcome.fates[job].ended = Some(now);
        self.outcome.last = now;
        Some(job)
    }

    fn dies(&mut self, gpu: usize) -> Option<usize> {
        let before = std::mem::replace(&mut self.gpus[gpu], State { dead: true, ..State::default() });
        before.runs.map(|attempt| attempt.job)
    }

    /// At the horizon, what runs has been served so far.
    fn over(mut self, horizon: Option<Millis>) -> Outcome {
        for (gpu, state) in self.gpus.iter().enumerate() {
            if let (Some(attempt), Some(horizon)) = (state.runs, horizon) {
                debug_assert!(attempt.began <= attempt.works);
                let job = &self.world.jobs[attempt.job];
                let worked = horizon.saturating_sub(attempt.works) as f64 / 1000.0 * self.world.gpus[gpu].speed;
                self.outcome.served[job.tenant] += worked.min(job.seconds);
            }
        }
        self.outcome
    }
}
