//! What is known of a backend's health, and what follows from it. Pure: the time comes in, [`super::monitor`] asks and acts.
//!
//! A backend is *up*, or down for a [`Cause`], or *half open*: it was taken out of service, has answered and proven itself since, and gets one job at a
//! time until one has run to its end. Whoever is thrown out again before that waits longer each time.

use std::time::{Duration, Instant};

/// Failures in a row, a refused connection apart, before a backend is ejected: a stalled event loop is ordinary (facts §2.6).
pub const MISSES_MAX: u32 = 3;
/// Between two questions to a backend that is down: the first wait, and the longest. Connecting to loopback costs microseconds.
const ASK_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// The same for one that answers and runs nothing, or nothing to its end: only its operator can help it, and each question leaves a prompt in its queue for a while.
const PROOF_WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// For one that comes back and goes again: the first wait and the longest.
const FLAP_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Why a backend takes no jobs. A closed set: it is a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It has not answered since the gateway started.
    NotAsked,
    /// Nobody listens: the process is gone, or starting.
    Refused,
    /// It accepts connections and does not answer, or answers nonsense.
    Hung,
    /// It answers, but our WebSocket can't be opened.
    NoSocket,
    /// A job showed no progress for too long: it has to prove that its worker lives.
    Stalled,
    /// It answers, and runs nothing: its worker thread is dead (facts §0.2).
    WorkerDead,
    /// A call to CUDA failed there: every later one fails as well, until the process is started anew.
    CudaError,
    /// A node could not write: its disk is full.
    DiskFull,
}

impl Cause {
    /// What an error says of the process behind it.
    pub fn of_error(is_refused: bool) -> Self {
        if is_refused { Self::Refused } else { Self::Hung }
    }

    /// Its name in metrics, log and audit lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAsked => "starting",
            Self::Refused => "refused",
            Self::Hung => "hung",
            Self::NoSocket => "no_socket",
            Self::Stalled => "stalled",
            Self::WorkerDead => "worker_dead",
            Self::CudaError => "cuda_error",
            Self::DiskFull => "disk_full",
        }
    }
}

/// Where a backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes no jobs.
    Down(Cause),
    /// It gets one job at a time, until one has run to its end.
    HalfOpen,
    /// It takes jobs.
    Up,
    /// It would, and an operator has drained it. This and the next two are only told ([`Backend::shown_standing`](super::backend::Backend::shown_standing)), never decided by.
    Drained,
    /// An operator works on it, whether it answers or not.
    Maintenance,
    /// It would, and runs its warm-up workflow first.
    Warming,
}

impl Standing {
    /// Every name that [`Standing::name`] gives.
    pub const NAMES: [&'static str; 13] = [
        "starting",
        "refused",
        "hung",
        "no_socket",
        "stalled",
        "worker_dead",
        "cuda_error",
        "disk_full",
        "half_open",
        "up",
        "drained",
        "maintenance",
        "warming",
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Down(cause) => cause.name(),
            Self::HalfOpen => "half_open",
            Self::Up => "up",
            Self::Drained => "drained",
            Self::Maintenance => "maintenance",
            Self::Warming => "warming",
        }
    }

    /// Whether it takes jobs at all.
    pub fn takes_jobs(self) -> bool {
        matches!(self, Self::HalfOpen | Self::Up)
    }
}

/// The health of one backend.
#[derive(Debug, Clone)]
pub struct Health {
    standing: Standing,
    /// Failures in a row while it takes jobs.
    misses: u32,
    /// Failed questions since it went down, or since the cause changed.
    asked: u32,
    /// Ejections since it was fully up.
    strikes: u32,
    /// Its process was seen gone since it last took jobs.
    process_gone: bool,
    incarnation: u64,
    proven_at: Option<Instant>,
    log_read_at: Option<Instant>,
    down_since: Instant,
}

impl Health {
    /// One that has not been asked yet.
    pub fn new(now: Instant) -> Self {
        Self {
            standing: Standing::Down(Cause::NotAsked),
            misses: 0,
            asked: 0,
            strikes: 0,
            process_gone: false,
            incarnation: 0,
            proven_at: None,
            log_read_at: None,
            down_since: now,
        }
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// How many processes have been seen there; 0 until the first answers.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether it must prove itself before it takes jobs: it was in service and failed.
    pub fn must_prove(&self) -> bool {
        self.strikes > 0
    }

    /// How long it has been down.
    pub fn down_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.down_since)
    }

    /// It answered a question.
    pub fn answered(&mut self) {
        self.misses = 0;
    }

    /// It did not, while it took jobs: the cause to eject it for, if that was once too often.
    pub fn missed(&mut self, is_refused: bool) -> Option<Cause> {
        self.misses = self.misses.saturating_add(1);
        (is_refused || self.misses >= MISSES_MAX).then(|| Cause::of_error(is_refused))
    }

    /// It is taken out of service. Says whether it was in service until now.
    pub fn eject(&mut self, cause: Cause, now: Instant) -> bool {
        let was_in_service = self.standing.takes_jobs();
        if was_in_service {
            self.strikes = self.strikes.saturating_add(1);
            self.asked = 0;
            self.down_since = now;
        }
        self.process_gone |= cause == Cause::Refused;
        self.standing = Standing::Down(cause);
        was_in_service
    }

    /// A question to one that is down failed, for this cause. Says whether that is another cause than before.
    pub fn still_down(&mut self, cause: Cause) -> bool {
        let is_news = self.standing != Standing::Down(cause);
        // One whose worker was dead and that is being restarted is asked often again.
        self.asked = if is_news { 1 } else { self.asked.saturating_add(1) };
        self.process_gone |= cause == Cause::Refused;
        // Before its first answer it is starting, whatever the error.
        if self.standing != Standing::Down(Cause::NotAsked) || cause == Cause::WorkerDead {
            self.standing = Standing::Down(cause);
        }
        is_news
    }

    /// How long to wait before the next question to one that is down.
    pub fn wait(&self) -> Duration {
        let (first, longest) = match self.standing {
            Standing::Down(Cause::WorkerDead | Cause::Stalled | Cause::CudaError | Cause::DiskFull)
                if self.asked > 0 =>
            {
                PROOF_WAIT
            }
            _ => ASK_WAIT,
        };
        let asking = doubled(first, self.asked.saturating_sub(1), longest);
        let flapping = doubled(FLAP_WAIT.0, self.strikes.saturating_sub(1), FLAP_WAIT.1);
        if self.asked > 0 { asking.max(flapping) } else { flapping }
    }

    /// It answers and has proven what it had to: it takes jobs again.
    pub fn returned(&mut self) {
        if self.process_gone || self.incarnation == 0 {
            self.incarnation = self.incarnation.saturating_add(1);
        }
        self.process_gone = false;
        (self.misses, self.asked) = (0, 0);
        self.standing = if self.strikes > 0 { Standing::HalfOpen } else { Standing::Up };
    }

    /// Its worker has run something: a job of ours, or a canary.
    pub fn proven(&mut self, now: Instant) {
        self.proven_at = Some(now);
    }

    /// A job of ours ran there to its end: one that was half open is fully back. Says whether it was half open.
    pub fn worked(&mut self, now: Instant) -> bool {
        self.proven(now);
        let was_half_open = self.standing == Standing::HalfOpen;
        if was_half_open {
            self.standing = Standing::Up;
            self.strikes = 0;
        }
        was_half_open
    }

    /// Whether it is time for a canary: nothing has run there for `interval`, or ever.
    pub fn canary_due(&self, interval: Duration, now: Instant) -> bool {
        let rested = self.proven_at.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        !interval.is_zero() && self.standing.takes_jobs() && rested
    }
}

impl Health {
    /// Whether it is time to read its log, since something has been there for `interval` and nothing has run to its end. Asked once, it is not for another.
    pub fn log_due(&mut self, interval: Duration, now: Instant) -> bool {
        let read_lately = self.log_read_at.is_some_and(|at| now.saturating_duration_since(at) < interval);
        let is_due = self.canary_due(interval, now) && !read_lately;
        if is_due {
            self.log_read_at = Some(now);
        }
        is_due
    }
}

/// `first`, doubled so many times, at most `longest`.
fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn up(now: Instant) -> Health {
        let mut health = Health::new(now);
        health.returned();
        health
    }

    #[test]
    fn the_first_answer_makes_it_fully_up_and_a_return_only_half() {
        let now = Instant::now();
        let mut health = up(now);
        assert_eq!((health.standing(), health.must_prove()), (Standing::Up, false));
        assert!(health.eject(Cause::Refused, now));
        assert_eq!((health.standing(), health.must_prove()), (Standing::Down(Cause::Refused), true));
        health.returned();
        assert_eq!(health.standing(), Standing::HalfOpen);
        assert!(health.worked(now), "one job to its end");
        assert_eq!((health.standing(), health.must_prove()), (Standing::Up, false));
        assert!(!health.worked(now));
    }

    #[test]
    fn a_refused_connection_ejects_at_once_and_other_failures_when_there_are_three_in_a_row() {
        let mut health = up(Instant::now());
        assert_eq!(health.missed(true), Some(Cause::Refused));
        let mut health = up(Instant::now());
        assert_eq!([health.missed(false), health.missed(false)], [None, None]);
        health.answered();
        assert_eq!([health.missed(false), health.missed(false)], [None, None]);
        assert_eq!(health.missed(false), Some(Cause::Hung));
    }

    #[test]
    fn a_process_that_was_gone_is_another_when_it_answers_and_one_that_only_hung_is_the_same() {
        let now = Instant::now();
        let mut health = up(now);
        assert_eq!(health.incarnation(), 1);
        health.eject(Cause::Hung, now);
        health.returned();
        assert_eq!(health.incarnation(), 1);
        health.eject(Cause::Hung, now);
        health.still_down(Cause::Refused);
        health.still_down(Cause::Hung);
        health.returned();
        assert_eq!(health.incarnation(), 2);
    }

    #[test]
    fn one_that_does_not_answer_is_asked_less_and_less_often() {
        let now = Instant::now();
        let mut health = up(now);
        health.eject(Cause::Refused, now);
        let mut waits = vec![health.wait()];
        for _ in 0..8 {
            health.still_down(Cause::Refused);
            waits.push(health.wait());
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!((waits[0], waits[8]), (SECOND / 2, SECOND * 5));
    }

    #[test]
    fn a_dead_worker_is_asked_rarely_until_its_process_is_seen_gone() {
        let now = Instant::now();
        let mut health = up(now);
        health.eject(Cause::Stalled, now);
        assert!(health.still_down(Cause::WorkerDead), "that is news");
        assert_eq!(health.wait(), SECOND * 5);
        for _ in 0..8 {
            assert!(!health.still_down(Cause::WorkerDead));
        }
        assert_eq!(health.wait(), SECOND * 60);
        assert!(health.still_down(Cause::Refused));
        assert_eq!(health.wait(), SECOND / 2);
    }

    #[test]
    fn whoever_goes_again_before_a_job_ran_waits_longer_each_time_and_not_after_one_did() {
        let now = Instant::now();
        let mut health = up(now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            health.eject(Cause::Hung, now);
            waits.push(health.wait());
            health.returned();
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!((waits[0], waits[1], waits[9]), (SECOND / 2, SECOND, SECOND * 30));
        health.worked(now);
        health.eject(Cause::Hung, now);
        assert_eq!(health.wait(), SECOND / 2);
    }

    #[test]
    fn a_second_ejection_of_one_that_is_down_is_no_further_strike() {
        let now = Instant::now();
        let mut health = up(now);
        assert!(health.eject(Cause::Hung, now));
        assert!(!health.eject(Cause::Refused, now + SECOND));
        assert_eq!(health.standing(), Standing::Down(Cause::Refused));
        assert_eq!(health.down_for(now + SECOND * 3), SECOND * 3);
        assert_eq!(health.wait(), SECOND / 2);
    }

    #[test]
    fn a_canary_is_due_after_its_interval_without_any_proof_and_never_while_down_or_off() {
        let now = Instant::now();
        let mut health = up(now);
        assert!(health.canary_due(SECOND, now), "nothing has run there yet");
        health.proven(now);
        assert!(!health.canary_due(SECOND, now + SECOND - Duration::from_millis(1)));
        assert!(health.canary_due(SECOND, now + SECOND));
        assert!(!health.canary_due(Duration::ZERO, now + SECOND));
        health.worked(now + SECOND);
        assert!(!health.canary_due(SECOND, now + SECOND), "a job is a proof too");
        health.eject(Cause::Hung, now);
        assert!(!health.canary_due(SECOND, now + SECOND * 100));
    }

    #[test]
    fn the_log_is_read_at_most_once_in_an_interval_without_proof() {
        let now = Instant::now();
        let mut health = up(now);
        health.proven(now);
        assert!(!health.log_due(SECOND, now + SECOND / 2));
        assert!(health.log_due(SECOND, now + SECOND));
        assert!(!health.log_due(SECOND, now + SECOND * 3 / 2));
        assert!(health.log_due(SECOND, now + SECOND * 2));
    }

    #[test]
    fn before_its_first_answer_a_backend_is_starting_whatever_the_error() {
        let mut health = Health::new(Instant::now());
        health.still_down(Cause::Refused);
        assert_eq!(health.standing().name(), "starting");
        health.returned();
        assert_eq!(health.standing(), Standing::Up);
        let causes = [
            Cause::NotAsked,
            Cause::Refused,
            Cause::Hung,
            Cause::NoSocket,
            Cause::Stalled,
            Cause::WorkerDead,
            Cause::CudaError,
            Cause::DiskFull,
        ];
        let told = [Standing::HalfOpen, Standing::Up, Standing::Drained, Standing::Maintenance, Standing::Warming];
        let names: Vec<_> = causes.into_iter().map(Standing::Down).chain(told).collect();
        assert_eq!(names.into_iter().map(Standing::name).collect::<Vec<_>>(), Standing::NAMES);
    }
}
