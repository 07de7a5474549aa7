//! [`DeadLetters`] on redb: one row a job. They are so few that each new one is held against all.

use super::RedbLedger;
use super::keeping;
use super::readings::{not_found, number};
use super::storage::Fault;
use super::tables::{DEAD_LETTERS, Tables, decoded, encoded, row};
use crate::clock::WallMillis;
use crate::ids::JobId;
use crate::record::ledger::LedgerError;
use crate::record::ledger::dead_letters::{DeadLetter, DeadLetterBounds, DeadLetterQuery, DeadLetters};
use ::redb::{ReadTransaction, ReadableTable};
use async_trait::async_trait;
use std::collections::BTreeMap;

#[async_trait]
impl DeadLetters for RedbLedger {
    async fn insert_dead_letter(&self, letter: DeadLetter, bounds: DeadLetterBounds) -> Result<(), LedgerError> {
        self.write("remember a dead letter", move |tables| insert(tables, &letter, bounds)).await
    }

    async fn dead_letters(&self, query: DeadLetterQuery) -> Result<Vec<DeadLetter>, LedgerError> {
        self.read("list dead letters", move |snapshot| list(snapshot, &query)).await
    }

    async fn dead_letter(&self, job: JobId) -> Result<DeadLetter, LedgerError> {
        self.read("look up a dead letter", move |snapshot| {
            row(&snapshot.open_table(DEAD_LETTERS)?, number(job.bytes()))?.ok_or_else(|| not_found("dead letter"))
        })
        .await
    }

    async fn remove_dead_letter(&self, job: JobId) -> Result<(), LedgerError> {
        self.write("forget a dead letter", move |tables| {
            let key = number(job.bytes());
            let letter: DeadLetter = row(&tables.dead_letters, key)?.ok_or_else(|| not_found("dead letter"))?;
            forget(tables, key, &letter)
        })
        .await
    }
}

fn insert(tables: &mut Tables<'_>, new: &DeadLetter, bounds: DeadLetterBounds) -> Result<(), Fault> {
    super::erasure::refuse_erased(tables, &new.owner.tenant)?;
    let own = number(new.job.bytes());
    let mut others: Vec<(WallMillis, u128, bool)> = Vec::new();
    let mut letters = BTreeMap::new();
    for entry in tables.dead_letters.iter()? {
        let (key, stored) = entry?;
        // One that can't be read is nobody's, and must not keep new ones out.
        let Ok(letter) = decoded::<DeadLetter>(stored.value()) else { continue };
        if key.value() != own {
            others.push((letter.at, key.value(), letter.owner.tenant == new.owner.tenant));
        }
        letters.insert(key.value(), letter);
    }
    let stored = encoded(new)?;
    for key in forgotten(others, new.at, bounds) {
        if let Some(letter) = letters.get(&key) {
            forget(tables, key, letter)?;
        }
    }
    tables.dead_letters.insert(own, stored.as_slice())?;
    keeping::keep_letter(tables, own, &new.submission)
}

/// Removes a letter; its graph goes with it, if nobody else has that.
pub(super) fn forget(tables: &mut Tables<'_>, key: u128, letter: &DeadLetter) -> Result<(), Fault> {
    tables.dead_letters.remove(key)?;
    keeping::forget_letter(tables, key, &letter.submission, letter.at)
}

/// Which of the others, given as (when, key, of the same tenant), go for one more that comes `now`.
fn forgotten(mut others: Vec<(WallMillis, u128, bool)>, now: WallMillis, bounds: DeadLetterBounds) -> Vec<u128> {
    others.sort_unstable();
    let mut own_over = (others.iter().filter(|(_, _, own)| *own).count() + 1).saturating_sub(bounds.tenant_max.max(1));
    let mut gone = Vec::new();
    others.retain(|(at, key, own)| {
        let over = *own && own_over > 0;
        own_over = own_over.saturating_sub(usize::from(over));
        let goes = over || at.plus(bounds.age_max) < now;
        if goes {
            gone.push(*key);
        }
        !goes
    });
    let over = (others.len() + 1).saturating_sub(bounds.total_max.max(1));
    gone.extend(others.iter().take(over).map(|(_, key, _)| *key));
    gone
}

fn list(snapshot: &ReadTransaction, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, Fault> {
    let mut found = Vec::new();
    for entry in snapshot.open_table(DEAD_LETTERS)?.iter()? {
        let Ok(letter) = decoded::<DeadLetter>(entry?.1.value()) else { continue };
        if query.tenant.as_ref().is_none_or(|tenant| *tenant == letter.owner.tenant) {
            found.push(letter);
        }
    }
    found.sort_by_key(|letter| std::cmp::Reverse(letter.at));
    found.truncate(query.limit);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::RedbOptions;
    use super::*;
    use crate::record::ledger::backups::Backups;
    use crate::record::ledger::dead_letters::suite;
    use crate::record::ledger::keeping::{Doomed, Keeping, Store};
    use crate::record::ledger::{Ledger, Outcome, suite as jobs};
    use comfygate_policy::Digest;

    on_redb!(
        letters_are_told_newest_first_and_by_tenant,
        a_letter_is_found_and_forgotten_by_its_job_and_one_a_job_is_kept,
        the_oldest_letters_of_a_tenant_go_first_and_no_other_tenants,
        letters_are_bounded_in_all_and_by_age,
    );

    #[tokio::test]
    async fn a_letter_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let letter = suite::letter("a", 1);
        open().insert_dead_letter(letter.clone(), DeadLetterBounds::default()).await.unwrap();
        assert_eq!(open().dead_letter(letter.job).await.unwrap(), letter);
    }

    /// A letter of a job that has ended and is forgotten.
    async fn orphaned(ledger: &RedbLedger) -> DeadLetter {
        let job = jobs::accepted(ledger, "a", "p").await;
        let letter = DeadLetter::of(&job, "it died", WallMillis(2));
        ledger.insert_dead_letter(letter.clone(), DeadLetterBounds::default()).await.unwrap();
        ledger.end_held(job.id, job.version, Outcome::Failed, None, WallMillis(3)).await.unwrap();
        let prompt = ledger.owned_prompt(&job.owner.scope(), &job.prompt_id).await.unwrap();
        ledger.forget(&prompt).await.unwrap();
        letter
    }

    #[tokio::test]
    async fn a_submission_stays_as_long_as_a_letter_has_it_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let letter = orphaned(&ledger).await;
        let doomed = vec![Doomed { at: WallMillis(0), content: letter.submission }];
        assert_eq!(ledger.delete_graphs(doomed).await.unwrap().count, 0);
        assert_eq!(ledger.graph(&letter.submission).await.unwrap(), "{}");
        ledger.remove_dead_letter(letter.job).await.unwrap();
        let all = ledger.doomed(Store::Graphs, WallMillis(u64::MAX)).await.unwrap();
        assert_eq!(all, [Doomed { at: letter.at, content: letter.submission }]);
        assert_eq!(ledger.delete_graphs(all).await.unwrap().count, 1);
    }

    #[tokio::test]
    async fn a_letter_that_is_over_the_bounds_leaves_its_submission_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let letter = orphaned(&ledger).await;
        let one = DeadLetterBounds { tenant_max: 1, ..DeadLetterBounds::default() };
        let other = DeadLetter { submission: Digest::of(b"other"), ..suite::letter("a", 9) };
        ledger.insert_dead_letter(other, one).await.unwrap();
        let all = ledger.doomed(Store::Graphs, WallMillis(u64::MAX)).await.unwrap();
        assert_eq!(all, [Doomed { at: letter.at, content: letter.submission }]);
    }

    #[tokio::test]
    async fn the_letters_of_a_tenant_that_is_erased_go_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        orphaned(&ledger).await;
        let others = suite::letter("b", 1);
        ledger.insert_dead_letter(others.clone(), DeadLetterBounds::default()).await.unwrap();
        while !ledger.erase(&"a".parse().unwrap(), WallMillis(9)).await.unwrap().done {}
        let query = DeadLetterQuery { tenant: None, limit: 9 };
        assert_eq!(ledger.dead_letters(query).await.unwrap(), [others]);
    }

    #[tokio::test]
    async fn a_backup_takes_the_submission_of_a_letter_along_though_its_job_is_forgotten() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let letter = orphaned(&ledger).await;
        let copied = ledger.copy_to(&other.path().join("ledger.redb")).await.unwrap();
        assert_eq!(copied.graphs.into_iter().collect::<Vec<_>>(), [letter.submission]);
    }
}
