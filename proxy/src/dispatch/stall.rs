//! Whether an attempt still gets anywhere. Pure: what each look shows and the time come in.
//!
//! ComfyUI tells nobody when its worker thread dies: `/queue` goes on showing what ran, HTTP answers 200 (facts §0.2). Three signs remain. A prompt that
//! waits though nothing runs is taken by nobody. A run that began and did not even say which nodes are cached died while it was prepared, as all known
//! killers do (facts §3.6 K2 to K5). And whatever is silent for the configured time has to be looked into.

use std::time::{Duration, Instant};

/// Between `execution_start` and `execution_cached` ComfyUI computes cache keys and reads the files that nodes name: seconds, or a minute for large ones.
const PREPARATION_MAX: Duration = Duration::from_secs(120);

/// Where a look found the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It runs.
    Running,
    /// It waits behind something.
    Waiting,
    /// It waits, and nothing runs.
    Untaken,
}

/// What one look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Where it is.
    pub place: Place,
    /// Its start was heard.
    pub start_heard: bool,
    /// Events of it that were heard after the start.
    pub events: u64,
    /// Connections that our socket there has had: an event may have been missed between two.
    pub connections: u64,
}

/// How long what may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A prompt that waits though nothing runs.
    pub untaken: Duration,
    /// Silence.
    pub silence: Duration,
}

/// Why an attempt gets nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// Nobody takes it: the worker is dead.
    Untaken,
    /// It began, and nothing followed.
    DiedAtStart,
    /// No sign of it for too long.
    Silent,
}

impl Stall {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Untaken => "it waits there though nothing runs",
            Self::DiedAtStart => "it began there and nothing followed",
            Self::Silent => "it showed no progress for too long",
        }
    }
}

/// What was seen of one attempt so far.
#[derive(Debug)]
pub struct Watch {
    last: Option<Sight>,
    /// When something last changed.
    changed: Instant,
    untaken_since: Option<Instant>,
    /// When the start was first heard, over which connection.
    started: Option<(Instant, u64)>,
}

impl Watch {
    /// An attempt that is looked at from now on.
    pub fn new(now: Instant) -> Self {
        Self { last: None, changed: now, untaken_since: None, started: None }
    }

    /// Takes a look in; says if the attempt gets nowhere.
    pub fn look(&mut self, sight: Sight, limits: Limits, now: Instant) -> Option<Stall> {
        if self.last != Some(sight) {
            self.changed = now;
        }
        self.last = Some(sight);
        self.untaken_since = (sight.place == Place::Untaken).then(|| self.untaken_since.unwrap_or(now));
        if sight.start_heard && self.started.is_none() {
            self.started = Some((now, sight.connections));
        }
        let lasted = |since: Instant, max: Duration| now.saturating_duration_since(since) >= max;
        if self.untaken_since.is_some_and(|since| lasted(since, limits.untaken)) {
            return Some(Stall::Untaken);
        }
        let unheard = |(since, connections): (Instant, u64)| {
            connections == sight.connections && lasted(since, PREPARATION_MAX.min(limits.silence))
        };
        if sight.place == Place::Running && sight.events == 0 && self.started.is_some_and(unheard) {
            return Some(Stall::DiedAtStart);
        }
        lasted(self.changed, limits.silence).then_some(Stall::Silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits { untaken: Duration::from_secs(30), silence: Duration::from_secs(3600) };
    const RUNNING: Sight = Sight { place: Place::Running, start_heard: true, events: 0, connections: 1 };

    #[test]
    fn a_prompt_that_nobody_takes_is_stalled_after_its_time_and_not_before() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        let untaken = Sight { place: Place::Untaken, start_heard: false, ..RUNNING };
        assert_eq!(watch.look(untaken, LIMITS, now), None);
        assert_eq!(watch.look(untaken, LIMITS, now + SECOND * 29), None);
        assert_eq!(watch.look(untaken, LIMITS, now + SECOND * 30), Some(Stall::Untaken));
    }

    #[test]
    fn waiting_behind_something_is_no_stall_and_starts_the_time_anew() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        let at = |place| Sight { place, start_heard: false, ..RUNNING };
        assert_eq!(watch.look(at(Place::Untaken), LIMITS, now), None);
        assert_eq!(watch.look(at(Place::Waiting), LIMITS, now + SECOND * 20), None);
        assert_eq!(watch.look(at(Place::Untaken), LIMITS, now + SECOND * 40), None);
        assert_eq!(watch.look(at(Place::Untaken), LIMITS, now + SECOND * 69), None);
        assert_eq!(watch.look(at(Place::Untaken), LIMITS, now + SECOND * 70), Some(Stall::Untaken));
    }

    #[test]
    fn a_run_of_which_only_the_start_was_heard_died_in_its_preparation() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        assert_eq!(watch.look(RUNNING, LIMITS, now), None);
        assert_eq!(watch.look(RUNNING, LIMITS, now + PREPARATION_MAX - SECOND), None);
        assert_eq!(watch.look(RUNNING, LIMITS, now + PREPARATION_MAX), Some(Stall::DiedAtStart));
    }

    #[test]
    fn one_further_event_or_a_broken_socket_leaves_only_the_long_silence() {
        for later in [Sight { events: 1, ..RUNNING }, Sight { connections: 2, ..RUNNING }] {
            let now = Instant::now();
            let mut watch = Watch::new(now);
            watch.look(RUNNING, LIMITS, now);
            assert_eq!(watch.look(later, LIMITS, now + SECOND * 600), None);
            assert_eq!(watch.look(later, LIMITS, now + SECOND * (600 + 3599)), None);
            assert_eq!(watch.look(later, LIMITS, now + SECOND * (600 + 3600)), Some(Stall::Silent));
        }
    }

    #[test]
    fn each_event_starts_the_silence_anew() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        for n in 0..10 {
            let sight = Sight { events: n + 1, ..RUNNING };
            assert_eq!(watch.look(sight, LIMITS, now + SECOND * 3000 * u32::try_from(n).unwrap()), None);
        }
    }
}
