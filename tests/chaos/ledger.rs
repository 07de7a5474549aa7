//! What the gateway wrote down, read when it has ended.

use super::clients::Accepted;
use comfygate::owner::Owner;
use comfygate::record::ledger::redb::{RedbLedger, RedbOptions};
use comfygate::record::ledger::{HistoryPage, JobState, Ledger, Outcome};
use std::collections::BTreeMap;
use std::path::Path;

/// Every accepted job is there once and has ended; of a success exactly the last attempt counts. Gives how many jobs had how many attempts.
pub async fn check(state: &Path, accepted: &[Vec<Accepted>]) -> BTreeMap<usize, usize> {
    let ledger = RedbLedger::open(state, RedbOptions::default()).unwrap();
    assert_eq!(ledger.active_jobs().await.unwrap(), [], "nothing waits or runs");
    let mut attempts: BTreeMap<usize, usize> = BTreeMap::new();
    for (number, jobs) in accepted.iter().enumerate() {
        let owner = Owner { tenant: format!("t{number:02}").parse().unwrap(), user: None, key: None, shared: false };
        let history = ledger.history(&owner.scope(), HistoryPage::default()).await.unwrap();
        assert_eq!(history.len(), jobs.len(), "t{number:02}: each job once");
        for (prompt, result) in history {
            let job = prompt.job();
            assert!(jobs.iter().any(|accepted| accepted.prompt == job.prompt_id.as_str()), "{job:?}");
            let open = job.attempts.iter().filter(|attempt| attempt.lost.is_none()).count();
            match job.state {
                JobState::Ended(Outcome::Succeeded) => assert_eq!((open, result.files.len()), (1, 1), "{job:?}"),
                JobState::Ended(Outcome::Failed) => assert!(open <= 1, "{job:?}"),
                _ => panic!("{job:?}"),
            }
            *attempts.entry(job.attempts.len()).or_default() += 1;
        }
    }
    attempts
}
