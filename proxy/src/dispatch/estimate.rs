//! What a job takes, learned from what jobs took. Pure.
//!
//! The policy engine says how much work a job is, in units of one SDXL step at 1024² (design §6.6), from a table of models. Machines and models differ from that table: so for each main model a line is
//! fitted, seconds = start + units × rate, to what its jobs took, newer ones counting more; and for each backend a speed, so that one measured on a slow card serves for a fast one. What is not known yet
//! is thought of by the next wider knowledge: the model's rate alone, then the rate of all models.

use super::measure::Run;
use crate::record::ledger::Work;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How much a measurement counts after the next one: the last fifty or so matter.
const DECAY: f64 = 0.98;
/// Measurements of a model until its line is trusted.
const KNOWN: f64 = 5.0;
/// How fast a backend's speed follows.
const SPEED_STEP: f64 = 0.1;
/// Speeds relative to the average: cards of one pool differ by no more.
const SPEED: (f64, f64) = (0.05, 20.0);
/// Models that are remembered.
const MODELS_MAX: usize = 4096;
/// Seconds for a unit of work where nothing was measured yet: an SDXL step on a card of the better sort.
pub const SECONDS_A_UNIT: f64 = 0.15;
/// Seconds to load a model where nothing was measured yet: some gigabytes from a good disk.
pub const LOAD_SECONDS: f64 = 8.0;
/// How fast what is known of loading follows.
const LOAD_STEP: f64 = 0.2;
/// A run that took less than this part of what was thought, and had nodes cached, says nothing of its model.
const CACHED_PART: f64 = 0.25;
/// No job is measured as longer: a week.
const SECONDS_MAX: f64 = 604_800.0;

/// Sums of a straight line's fit, weighted by age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    n: f64,
    u: f64,
    s: f64,
    uu: f64,
    us: f64,
}

impl Line {
    fn add(&mut self, units: f64, seconds: f64) {
        for sum in [&mut self.n, &mut self.u, &mut self.s, &mut self.uu, &mut self.us] {
            *sum *= DECAY;
        }
        self.n += 1.0;
        self.u += units;
        self.s += seconds;
        self.uu += units * units;
        self.us += units * seconds;
    }

    /// Whether `add` could have made it. What is out of range would make every later estimate senseless.
    fn is_sound(&self) -> bool {
        let sums = [self.n, self.u, self.s, self.uu, self.us];
        // The weights of the measurements are a geometric series.
        sums.iter().all(|sum| sum.is_finite() && *sum >= 0.0) && self.n <= 1.0 / (1.0 - DECAY) + 1.0
    }

    /// Seconds a unit, all in all.
    fn rate(&self) -> Option<f64> {
        (self.n > 0.0 && self.u > 0.0).then(|| self.s / self.u)
    }

    /// `(start, rate)`, neither below zero; only where the measured jobs differ enough in size to tell them apart.
    fn fit(&self) -> Option<(f64, f64)> {
        let spread = self.n * self.uu - self.u * self.u;
        if self.n < KNOWN || spread <= 0.01 * self.u * self.u {
            return None;
        }
        let rate = (self.n * self.us - self.u * self.s) / spread;
        let start = (self.s - rate * self.u) / self.n;
        if rate <= 0.0 {
            return Some((self.s / self.n, 0.0));
        }
        if start < 0.0 { Some((0.0, self.us / self.uu)) } else { Some((start, rate)) }
    }
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimates {
    /// By the name of the main model; the empty name: jobs without one.
    models: BTreeMap<String, Line>,
    all: Line,
    /// Seconds that loading takes, by the name of the main model.
    loads: BTreeMap<String, f64>,
    /// By backend; 1 is what lines are fitted to.
    speeds: BTreeMap<String, f64>,
}

impl Estimates {
    /// Whether what was read from a disk may be used: as much of it as there may be, every number in its range.
    pub fn is_sound(&self) -> bool {
        let few = self.models.len() <= MODELS_MAX && self.loads.len() <= MODELS_MAX && self.speeds.len() <= MODELS_MAX;
        few && self.models.values().chain([&self.all]).all(Line::is_sound)
            && self.loads.values().all(|seconds| (0.0..=SECONDS_MAX).contains(seconds))
            && self.speeds.values().all(|speed| (SPEED.0..=SPEED.1).contains(speed))
    }

    /// Seconds that a job of so many units takes on a backend of speed 1.
    pub fn seconds(&self, model: &str, units: f64) -> f64 {
        let units = if units.is_finite() { units.max(0.0) } else { f64::MAX };
        let line = self.models.get(model);
        let seconds = match line.and_then(Line::fit) {
            Some((start, rate)) => start + rate * units,
            None => line.and_then(Line::rate).or_else(|| self.all.rate()).unwrap_or(SECONDS_A_UNIT) * units,
        };
        seconds.clamp(0.0, SECONDS_MAX)
    }

    /// Seconds that it takes to load what jobs of this main model need, on whichever backend.
    pub fn load_seconds(&self, model: &str) -> f64 {
        if model.is_empty() { 0.0 } else { self.loads.get(model).copied().unwrap_or(LOAD_SECONDS) }
    }

    /// What a run teaches. `loads`: the backend had to load its models first. `cached`: it had some nodes' outputs.
    pub fn ran(&mut self, backend: &str, work: &Work, run: &Run) {
        let thought = self.seconds(&work.model, work.units) / self.speed(backend);
        let known = self.knows(&work.model);
        if run.cached && run.seconds < thought * CACHED_PART {
            return;
        }
        if run.loads && known {
            self.loaded(&work.model, (run.seconds - thought).max(0.0));
        } else {
            let load = if run.loads { self.load_seconds(&work.model).min(run.seconds * 0.9) } else { 0.0 };
            self.measured(backend, &work.model, work.units, run.seconds - load);
        }
    }

    fn loaded(&mut self, model: &str, seconds: f64) {
        if self.loads.len() < MODELS_MAX || self.loads.contains_key(model) {
            let known = self.load_seconds(model);
            self.loads.insert(model.to_owned(), known + (seconds - known) * LOAD_STEP);
        }
    }

    /// Whether enough jobs of this main model were measured to go by.
    pub fn knows(&self, model: &str) -> bool {
        self.models.get(model).is_some_and(|line| line.n >= KNOWN)
    }

    /// How fast a backend is.
    pub fn speed(&self, backend: &str) -> f64 {
        self.speeds.get(backend).copied().unwrap_or(1.0)
    }

    /// A job of so many units took so many seconds on a backend, without loading models and without what was cached.
    pub fn measured(&mut self, backend: &str, model: &str, units: f64, seconds: f64) {
        if !units.is_finite() || !seconds.is_finite() || units <= 0.0 || !(0.0..=SECONDS_MAX).contains(&seconds) {
            return;
        }
        let speed = self.speed(backend);
        let known = self.knows(model);
        if known && seconds > 0.0 {
            // Half of the step's square root: one odd job moves it by little.
            let ratio = (self.seconds(model, units) / seconds / speed).clamp(0.2, 5.0);
            let moved = (speed * ratio.powf(SPEED_STEP)).clamp(SPEED.0, SPEED.1);
            self.speeds.insert(backend.to_owned(), moved);
            self.centre();
        }
        let seconds = seconds * self.speed(backend);
        self.all.add(units, seconds);
        if self.models.len() < MODELS_MAX || self.models.contains_key(model) {
            self.models.entry(model.to_owned()).or_default().add(units, seconds);
        }
    }

    /// A backend is no more.
    pub fn forget(&mut self, backend: &str) {
        self.speeds.remove(backend);
        self.centre();
    }

    /// Keeps the speeds' geometric mean at 1, lest lines and speeds drift together.
    fn centre(&mut self) {
        if self.speeds.is_empty() {
            return;
        }
        let mean = self.speeds.values().map(|speed| speed.ln()).sum::<f64>() / self.speeds.len() as f64;
        self.speeds.values_mut().for_each(|speed| *speed = (*speed / mean.exp()).clamp(SPEED.0, SPEED.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, within: f64) -> bool {
        (a - b).abs() <= within * b.abs()
    }

    #[test]
    fn a_line_is_learned_and_what_was_never_seen_follows_the_others() {
        let mut estimates = Estimates::default();
        assert!(near(estimates.seconds("flux", 10.0), 10.0 * SECONDS_A_UNIT, 1e-9));
        for steps in [7.0, 28.0, 49.0, 14.0, 35.0, 20.0] {
            // FLUX at 1024 on a 4090, as published: 0.61 s a step and 6.57 s.
            estimates.measured("gpu0", "flux", steps, 0.61 * steps + 6.57);
        }
        assert!(near(estimates.seconds("flux", 28.0), 23.65, 0.02), "{}", estimates.seconds("flux", 28.0));
        assert!(near(estimates.seconds("flux", 100.0), 67.57, 0.05));
        let other = estimates.seconds("other", 10.0);
        assert!(near(other, 10.0 * (0.61 + 6.57 / 25.5), 0.05), "{other}");
    }

    #[test]
    fn jobs_of_one_size_give_a_rate() {
        let mut estimates = Estimates::default();
        (0..10).for_each(|_| estimates.measured("gpu0", "xl", 20.0, 4.0));
        assert!(near(estimates.seconds("xl", 20.0), 4.0, 1e-6) && near(estimates.seconds("xl", 40.0), 8.0, 1e-6));
    }

    #[test]
    fn newer_measurements_count_more() {
        let mut estimates = Estimates::default();
        (0..200).for_each(|_| estimates.measured("gpu0", "xl", 20.0, 4.0));
        (0..200).for_each(|_| estimates.measured("gpu0", "xl", 20.0, 8.0));
        assert!(near(estimates.seconds("xl", 20.0), 8.0, 0.05), "{}", estimates.seconds("xl", 20.0));
    }

    #[test]
    fn a_backend_of_twice_the_speed_is_known_as_such() {
        let mut estimates = Estimates::default();
        for round in 0..300 {
            let units = 10.0 + f64::from(round % 30);
            estimates.measured("slow", "xl", units, units);
            estimates.measured("fast", "xl", units, units / 2.0);
        }
        let ratio = estimates.speed("fast") / estimates.speed("slow");
        assert!(near(ratio, 2.0, 0.1), "{ratio}");
        let slow = estimates.seconds("xl", 20.0) / estimates.speed("slow");
        assert!(near(slow, 20.0, 0.1), "{slow}");
        estimates.forget("slow");
        assert!(near(estimates.speed("fast"), 1.0, 1e-9) && near(estimates.speed("slow"), 1.0, 1e-9));
    }

    #[test]
    fn more_work_is_never_thought_to_take_less() {
        let mut estimates = Estimates::default();
        for (units, seconds) in [(1.0, 50.0), (10.0, 40.0), (20.0, 30.0), (30.0, 20.0), (40.0, 10.0), (50.0, 5.0)] {
            estimates.measured("gpu0", "odd", units, seconds);
        }
        assert!(estimates.seconds("odd", 100.0) >= estimates.seconds("odd", 1.0));
    }

    #[test]
    fn loading_is_told_from_running_once_the_model_is_known() {
        let work = Work { units: 20.0, models: vec!["xl".into()], model: "xl".into() };
        let run = |seconds: f64, loads: bool| Run { seconds, loads, cached: false };
        let mut estimates = Estimates::default();
        assert_eq!(estimates.load_seconds(""), 0.0);
        assert_eq!(estimates.load_seconds("xl"), LOAD_SECONDS);
        (0..6).for_each(|_| estimates.ran("gpu0", &work, &run(4.0, false)));
        (0..60).for_each(|_| estimates.ran("gpu0", &work, &run(24.0, true)));
        assert!(near(estimates.load_seconds("xl"), 20.0, 0.01), "{}", estimates.load_seconds("xl"));
        assert!(near(estimates.seconds("xl", 20.0), 4.0, 0.01), "{}", estimates.seconds("xl", 20.0));
    }

    #[test]
    fn a_run_from_the_cache_teaches_nothing_and_a_whole_one_does() {
        let work = Work { units: 20.0, models: vec!["xl".into()], model: "xl".into() };
        let mut estimates = Estimates::default();
        (0..6).for_each(|_| estimates.ran("gpu0", &work, &Run { seconds: 4.0, loads: false, cached: false }));
        let before = estimates.clone();
        estimates.ran("gpu0", &work, &Run { seconds: 0.9, loads: false, cached: true });
        assert_eq!(estimates, before);
        estimates.ran("gpu0", &work, &Run { seconds: 1.1, loads: false, cached: true });
        assert_ne!(estimates, before);
    }

    #[test]
    fn senseless_measurements_change_nothing_and_the_number_of_models_is_bounded() {
        let mut estimates = Estimates::default();
        for (units, seconds) in
            [(f64::NAN, 1.0), (1.0, f64::INFINITY), (0.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1e9)]
        {
            estimates.measured("gpu0", "xl", units, seconds);
        }
        assert_eq!(estimates, Estimates::default());
        assert!(estimates.seconds("xl", f64::NAN) > 0.0);
        (0..MODELS_MAX + 1).for_each(|number| estimates.measured("gpu0", &number.to_string(), 1.0, 1.0));
        assert_eq!(estimates.models.len(), MODELS_MAX);
    }
}
