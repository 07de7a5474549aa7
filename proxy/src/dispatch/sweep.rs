//! What a backend still has of ours when it comes back, and nobody knows any more: attempts that were given up while it could not be told, canaries, results
//! that were copied before it could be asked to forget them.
//!
//! Only prompts under our own secret sid are touched; what others submitted there stays. What is still ours is asked of the ledger *after* the backend was
//! listed: an attempt is in the ledger before it is sent, so nothing that was just sent can be taken for a leftover.

use super::backend::Backend;
use super::comfyui::{ComfyUiError, Listed};
use crate::ids::{UpstreamClientId, UpstreamPromptId};
use crate::record::ledger::{Ledger, LedgerError};
use std::collections::HashSet;

/// History entries that are looked through: more of ours can't be left behind between two looks.
const HISTORY_ENTRIES_MAX: u32 = 200;

/// Why a sweep was not made.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The backend.
    #[error(transparent)]
    Backend(#[from] ComfyUiError),
    /// What is ours is not known.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Takes what nobody knows out of the backend's queue and history. Gives how many prompts that were.
///
/// # Errors
/// [`SweepError`]; what was not swept is swept the next time.
pub async fn sweep(backend: &Backend, ledger: &dyn Ledger) -> Result<usize, SweepError> {
    let comfyui = &backend.comfyui;
    let queue = comfyui.listing().await?;
    let history = comfyui.newest_history(HISTORY_ENTRIES_MAX).await?;
    let active = ledger.active_jobs().await?;
    // A lost attempt of a job that goes on elsewhere is as unwanted as one of nobody's.
    let current = active.iter().flat_map(|job| job.attempts.iter().filter(|attempt| attempt.lost.is_none()));
    let known: HashSet<UpstreamPromptId> = current.map(|attempt| attempt.upstream).collect();
    let (running, pending) =
        (leftovers(&queue.running, backend.client, &known), leftovers(&queue.pending, backend.client, &known));
    let ended = leftovers(&history, backend.client, &known);
    for prompt in &pending {
        comfyui.withdraw(*prompt).await?;
    }
    // The flag that an interrupt sets can hit what comes next (facts §13): only where nothing of others' waits.
    let others_wait = queue.pending.iter().any(|item| item.client != Some(backend.client));
    for prompt in running.iter().filter(|_| !others_wait) {
        comfyui.interrupt(*prompt).await?;
    }
    for prompt in &ended {
        comfyui.forget(*prompt).await?;
    }
    Ok(running.len().saturating_add(pending.len()).saturating_add(ended.len()))
}

/// The prompts of `client` that are not `known`.
fn leftovers(listed: &[Listed], client: UpstreamClientId, known: &HashSet<UpstreamPromptId>) -> Vec<UpstreamPromptId> {
    let ours = listed.iter().filter(|item| item.client == Some(client));
    ours.filter_map(|item| item.prompt).filter(|prompt| !known.contains(prompt)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_under_our_sid_and_unknown_is_left_over() {
        let (us, them) = (UpstreamClientId::new(), UpstreamClientId::new());
        let listed = |client| Listed { prompt: Some(UpstreamPromptId::new()), client };
        let all = [
            listed(Some(us)),
            listed(Some(us)),
            listed(Some(them)),
            listed(None),
            Listed { prompt: None, client: Some(us) },
        ];
        let known = all[0].prompt.into_iter().collect();
        assert_eq!(leftovers(&all, us, &known), [all[1].prompt.unwrap()]);
    }
}
