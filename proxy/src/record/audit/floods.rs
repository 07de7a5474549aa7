//! Equal refusals in one second: the first ones get lines, the others are counted.

use super::Refusal;
use crate::reject::Stage;
use serde::Serialize;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Lines of one code and client in one second.
const LINES_MAX: u64 = 10;
/// How long equal refusals are counted together.
const WINDOW: Duration = Duration::from_secs(1);
/// Pairs of code and client in one second; past it, clients of one code are counted together.
const PAIRS_MAX: usize = 1024;
/// Counts that wait for the writer: it comes by every second unless the disk hangs.
const OVER_MAX: usize = 2 * PAIRS_MAX;

/// Refusals that are equal for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Flood {
    stage: &'static str,
    code: &'static str,
    /// Absent where there were too many clients to count each.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
}

impl Flood {
    pub(super) fn of(refusal: &Refusal<'_>) -> Self {
        Self { stage: refusal.stage.name(), code: refusal.code, client: Some(refusal.client.ip()) }
    }

    pub(super) fn of_failed_logins(client: IpAddr) -> Self {
        Self { stage: Stage::Authenticate.name(), code: "login_failed", client: Some(client) }
    }
}

/// The counts of the second that runs, and those of past seconds that no line has told yet.
#[derive(Default)]
pub(super) struct Floods {
    since: Option<Instant>,
    counts: HashMap<Flood, u64>,
    over: Vec<(Flood, u64)>,
    /// Counts that found no place in `over`.
    lost: u64,
}

impl Floods {
    /// Counts one refusal; whether it gets a line of its own.
    pub(super) fn tells(&mut self, flood: Flood, now: Instant) -> bool {
        self.roll(now);
        self.since.get_or_insert(now);
        let known = self.counts.len() < PAIRS_MAX || self.counts.contains_key(&flood);
        let flood = if known { flood } else { Flood { client: None, ..flood } };
        let count = self.counts.entry(flood).or_default();
        *count = count.saturating_add(1);
        *count <= LINES_MAX
    }

    /// What is to be told by now: one count each of what got no lines, and how many such counts were lost.
    pub(super) fn over(&mut self, now: Instant) -> (Vec<(Flood, u64)>, u64) {
        self.roll(now);
        (std::mem::take(&mut self.over), std::mem::take(&mut self.lost))
    }

    /// As [`Floods::over`], the second that runs included.
    pub(super) fn close(&mut self) -> (Vec<(Flood, u64)>, u64) {
        self.end_window();
        (std::mem::take(&mut self.over), std::mem::take(&mut self.lost))
    }

    fn roll(&mut self, now: Instant) {
        if self.since.is_some_and(|since| now.saturating_duration_since(since) >= WINDOW) {
            self.end_window();
        }
    }

    fn end_window(&mut self) {
        self.since = None;
        for (flood, count) in self.counts.drain().filter(|(_, count)| *count > LINES_MAX) {
            if self.over.len() < OVER_MAX {
                self.over.push((flood, count - LINES_MAX));
            } else {
                self.lost = self.lost.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flood(client: u32) -> Flood {
        Flood { stage: "admit", code: "rate", client: Some(IpAddr::V4(client.into())) }
    }

    #[test]
    fn ten_in_a_second_are_told_and_the_eleventh_is_counted() {
        let (mut floods, start) = (Floods::default(), Instant::now());
        assert!((0..10).all(|_| floods.tells(flood(1), start)));
        assert!(!floods.tells(flood(1), start + Duration::from_millis(999)));
        assert_eq!(floods.over(start + Duration::from_millis(999)).0, []);
        assert_eq!(floods.over(start + WINDOW).0, [(flood(1), 1)]);
        assert!(floods.tells(flood(1), start + WINDOW));
    }

    #[test]
    fn one_client_does_not_silence_another() {
        let (mut floods, start) = (Floods::default(), Instant::now());
        assert_eq!((0..20).filter(|_| floods.tells(flood(1), start)).count(), 10);
        assert!(floods.tells(flood(2), start));
    }

    #[test]
    fn ten_or_fewer_leave_no_count() {
        let mut floods = Floods::default();
        assert!((0..10).all(|_| floods.tells(flood(1), Instant::now())));
        assert_eq!(floods.close().0, []);
    }

    #[test]
    fn clients_past_the_most_are_counted_together() {
        let (mut floods, start) = (Floods::default(), Instant::now());
        let most = u32::try_from(PAIRS_MAX).unwrap();
        assert!((0..most).all(|client| floods.tells(flood(client), start)));
        assert_eq!((most..most + 1000).filter(|client| floods.tells(flood(*client), start)).count(), 10);
        assert!(floods.tells(flood(0), start));
        assert_eq!(floods.close().0, [(Flood { client: None, ..flood(0) }, 990)]);
    }
}
