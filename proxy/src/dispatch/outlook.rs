//! What held jobs may expect: a picture that the dispatcher makes every second, for whoever asks.

use super::schedule::Expected;
use crate::clock::WallMillis;
use crate::ids::{JobId, PromptId};
use serde_json::{Value, json};
use std::collections::HashMap;

/// How a held job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Held jobs that go before it, of all tenants: 0 for the next.
    pub position: usize,
    /// When it is thought to be sent to a backend; `None`: no backend may run it as things stand, or its tenant is paused.
    pub starts_at: Option<WallMillis>,
}

impl Place {
    /// `{"position", "starts_at"}`, the latter in milliseconds since 1970 or null.
    pub fn to_json(self) -> Value {
        json!({"position": self.position, "starts_at": self.starts_at})
    }
}

/// Jobs of one owner of which it is told at once.
pub const TOLD_MAX: usize = 100;

/// The held jobs of one owner, the first that go, as they are shown: `[{"prompt_id", "position", "starts_at"}…]`.
pub fn shown<'a>(jobs: impl Iterator<Item = (&'a PromptId, Place)>) -> Value {
    let mut jobs: Vec<(&PromptId, Place)> = jobs.collect();
    jobs.sort_by_key(|(prompt, place)| (place.position, *prompt));
    let job = |(prompt, place): &(&PromptId, Place)| json!({"prompt_id": prompt, "position": place.position, "starts_at": place.starts_at});
    jobs.iter().take(TOLD_MAX).map(job).collect()
}

/// The picture of one moment.
#[derive(Debug, Default)]
pub struct Outlook(HashMap<JobId, Place>);

impl Outlook {
    /// That of `now`.
    pub fn new(expected: Vec<Expected>, now: WallMillis) -> Self {
        let place = |expected: Expected| {
            let starts_at = expected.starts_in.map(|wait| WallMillis(now.0.saturating_add(wait)));
            (expected.job, Place { position: expected.position, starts_at })
        };
        Self(expected.into_iter().map(place).collect())
    }

    /// How a job stands; `None`: it is not held, or was not yet.
    pub fn of(&self, job: JobId) -> Option<Place> {
        self.0.get(&job).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_first_is_told_first_and_no_more_than_the_bound() {
        let prompts: Vec<PromptId> = (0..=TOLD_MAX).map(|n| format!("p{n}").parse().unwrap()).collect();
        let place = |n: usize| Place { position: TOLD_MAX - n, starts_at: None };
        let told = shown(prompts.iter().enumerate().map(|(n, prompt)| (prompt, place(n))));
        let told = told.as_array().unwrap();
        assert_eq!(told.len(), TOLD_MAX);
        assert_eq!(told[0], json!({"prompt_id": format!("p{TOLD_MAX}"), "position": 0, "starts_at": null}));
    }

    #[test]
    fn a_wait_becomes_a_time() {
        let job = JobId::new();
        let expected = |starts_in| vec![Expected { job, position: 3, starts_in }];
        let place = Outlook::new(expected(Some(2_000)), WallMillis(1_000)).of(job).unwrap();
        assert_eq!(place, Place { position: 3, starts_at: Some(WallMillis(3_000)) });
        assert_eq!(Outlook::new(expected(None), WallMillis(1_000)).of(job).unwrap().starts_at, None);
        assert_eq!(Outlook::default().of(job), None);
    }
}
