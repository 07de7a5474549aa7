//! What a run took, and what of it its owner is charged for. Pure.
//!
//! Seconds are those between ComfyUI's own `execution_start` and the last of its messages, both by the backend's clock: neither the way there nor the copying of results counts.

use crate::record::ledger::JobResult;
use serde_json::Value;

/// Whatever a backend says, a run is charged and learned as no longer than this: a day.
const SECONDS_MAX: f64 = 86_400.0;
/// However long loading is thought to take, so much of a run is its owner's.
const OWN_PART_MIN: f64 = 0.1;

/// How an attempt was placed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// Seconds of a backend of speed 1 that its backend does in a second.
    pub speed: f64,
    /// The backend has to load models for it, which takes so many seconds as far as is known: 0 if it has them.
    pub load_seconds: f64,
}

impl Default for Placed {
    /// An attempt of before a restart: what was thought of it then is forgotten.
    fn default() -> Self {
        Self { speed: 1.0, load_seconds: 0.0 }
    }
}

/// A run that is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// As its backend measured; at most a day.
    pub seconds: f64,
    /// Models had to be loaded first.
    pub loads: bool,
    /// The backend had the outputs of some nodes.
    pub cached: bool,
}

impl Run {
    /// The run that these messages tell of; `None`: none of them has a time, as of runs that never began.
    pub fn of(result: &JobResult, placed: Placed) -> Option<Self> {
        let at = |value: &Value| value.get("timestamp").and_then(Value::as_u64);
        let start =
            result.messages.iter().find(|(event, _)| event == "execution_start").and_then(|(_, data)| at(data))?;
        let end = result.messages.iter().rev().find_map(|(_, data)| at(data))?;
        let cached = result.messages.iter().filter(|(event, _)| event == "execution_cached");
        let cached = cached.filter_map(|(_, data)| data.get("nodes")?.as_array()).any(|nodes| !nodes.is_empty());
        let seconds = (end.saturating_sub(start) as f64 / 1000.0).min(SECONDS_MAX);
        Some(Self { seconds, loads: placed.load_seconds > 0.0, cached })
    }

    /// What its owner is charged, in seconds of a backend of speed 1: without the loading of models, which is where the gateway chose to place it.
    pub fn charge(&self, placed: Placed) -> f64 {
        let own = (self.seconds - placed.load_seconds).max(self.seconds * OWN_PART_MIN);
        (own * placed.speed).clamp(0.0, SECONDS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn result(messages: &[(&str, Value)]) -> JobResult {
        let messages = messages.iter().map(|(event, data)| ((*event).to_owned(), data.clone())).collect();
        JobResult { messages, ..JobResult::default() }
    }

    #[test]
    fn a_run_lasts_from_its_start_to_its_last_message() {
        let told = result(&[
            ("execution_start", json!({"timestamp": 1_000})),
            ("execution_cached", json!({"nodes": ["1"], "timestamp": 1_010})),
            ("execution_success", json!({"timestamp": 3_500})),
        ]);
        let run = Run::of(&told, Placed::default()).unwrap();
        assert_eq!(run, Run { seconds: 2.5, loads: false, cached: true });
        assert_eq!(Run::of(&result(&[("execution_success", json!({"timestamp": 5}))]), Placed::default()), None);
        assert_eq!(Run::of(&JobResult::default(), Placed::default()), None);
    }

    #[test]
    fn a_clock_that_goes_back_makes_no_negative_time_and_a_mad_one_no_endless_one() {
        let told = |end: u64| {
            result(&[("execution_start", json!({"timestamp": 1_000})), ("execution_error", json!({"timestamp": end}))])
        };
        assert_eq!(Run::of(&told(5), Placed::default()).unwrap().seconds, 0.0);
        assert_eq!(Run::of(&told(u64::MAX), Placed::default()).unwrap().seconds, SECONDS_MAX);
    }

    #[test]
    fn an_owner_pays_for_the_speed_and_not_for_the_loading() {
        let run = Run { seconds: 10.0, loads: true, cached: false };
        assert_eq!(run.charge(Placed { speed: 2.0, load_seconds: 0.0 }), 20.0);
        assert_eq!(run.charge(Placed { speed: 1.0, load_seconds: 4.0 }), 6.0);
        assert_eq!(run.charge(Placed { speed: 1.0, load_seconds: 60.0 }), 1.0);
    }
}
