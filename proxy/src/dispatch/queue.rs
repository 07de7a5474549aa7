//! The held queue: jobs at no backend, by their acceptance. Which of them is next is for the [scheduler](super::schedule) to say.

use crate::ids::JobId;
use crate::record::ledger::Job;
use comfygate_policy::ApprovedWorkflow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Approved workflows in memory: with [`submit`](crate::actions)'s bound on what is kept at all, some 64 MiB.
const APPROVALS_MAX: usize = 256;

/// A job in the queue, with its approved workflow as long as that is fresh.
#[derive(Debug, Clone)]
pub struct HeldJob {
    /// The row as last seen.
    pub job: Job,
    /// What inspection said; absent after a restart: decided again before it is sent.
    pub workflow: Option<Arc<ApprovedWorkflow>>,
}

/// Jobs waiting for a backend.
#[derive(Debug, Default)]
pub struct HeldQueue {
    by_sequence: BTreeMap<u64, HeldJob>,
    sequence_of: HashMap<JobId, u64>,
}

impl HeldQueue {
    /// Adds a job at the place that its sequence gives it: a job that comes back from a lost attempt stands where it stood. Approvals of the first
    /// 256 waiting jobs are kept; later jobs are decided again when their turn comes.
    pub fn insert(&mut self, mut held: HeldJob) {
        if self.by_sequence.len() >= APPROVALS_MAX {
            held.workflow = None;
        }
        self.sequence_of.insert(held.job.id, held.job.sequence);
        self.by_sequence.insert(held.job.sequence, held);
    }

    /// Takes a job out.
    pub fn remove(&mut self, job: JobId) -> Option<HeldJob> {
        let sequence = self.sequence_of.remove(&job)?;
        self.by_sequence.remove(&sequence)
    }

    /// Puts a fresh approval in the place of an older one; where none is kept, none is. Gives the job, if it waits here.
    pub fn renew(&mut self, job: JobId, fresh: Arc<ApprovedWorkflow>) -> Option<&HeldJob> {
        let held = self.by_sequence.get_mut(self.sequence_of.get(&job)?)?;
        if let Some(workflow) = held.workflow.as_mut() {
            *workflow = fresh;
        }
        Some(held)
    }

    /// Whether a job waits here.
    pub fn contains(&self, job: JobId) -> bool {
        self.sequence_of.contains_key(&job)
    }

    /// The jobs in the order in which they were accepted.
    pub fn in_order(&self) -> impl Iterator<Item = &HeldJob> {
        self.by_sequence.values()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.by_sequence.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.by_sequence.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::owner::Owner;
    use crate::record::ledger::JobState;
    use comfygate_policy::Digest;

    fn held(sequence: u64) -> HeldJob {
        let id = JobId::new();
        let job = Job {
            id,
            sequence,
            version: 0,
            owner: Owner { tenant: "a".parse().unwrap(), user: None, key: None, shared: false },
            prompt_id: id.into(),
            number: sequence,
            client_id: None,
            submission: Digest::of(b""),
            output_nodes: vec![],
            verdict: None,
            paid: false,
            place: None,
            work: None,
            accepted_at: WallMillis(0),
            state: JobState::Held,
            attempts: vec![],
            cancel_requested: false,
        };
        HeldJob { job, workflow: None }
    }

    #[test]
    fn jobs_leave_in_the_order_of_acceptance_whatever_the_order_of_insertion() {
        let mut queue = HeldQueue::default();
        for sequence in [3, 1, 2] {
            queue.insert(held(sequence));
        }
        assert_eq!(queue.in_order().map(|held| held.job.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_removed_job_is_gone_and_another_is_not() {
        let mut queue = HeldQueue::default();
        let (first, second) = (held(1), held(2));
        queue.insert(first.clone());
        queue.insert(second.clone());
        assert!(queue.remove(first.job.id).is_some());
        assert!(queue.remove(first.job.id).is_none());
        assert_eq!(queue.len(), 1);
        assert!(!queue.is_empty());
        assert!(queue.remove(second.job.id).is_some());
        assert!(queue.is_empty());
    }
}
