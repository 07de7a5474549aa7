//! Contents that no row names: those whose last row has gone, after a grace, and those that never had one.

use super::{ORPHAN_AGE, Parts, RetentionError, Walk};
use crate::clock::WallMillis;
use crate::record::blobs::BlobError;
use crate::record::holds::Claim;
use crate::record::ledger::keeping::{Amount, Doomed, STEP_MAX, Store};
use comfygate_policy::Digest;

/// Blobs and graphs that went.
pub(super) async fn sweep(parts: &Parts<'_>, walk: Walk) -> Result<(Amount, Amount), RetentionError> {
    let (mut blobs, mut graphs) = (Amount::default(), Amount::default());
    for (store, amount) in [(Store::Blobs, &mut blobs), (Store::Graphs, &mut graphs)] {
        *amount += doomed(parts, store).await?;
        let shards = match walk {
            Walk::One(shard) => shard..=shard,
            Walk::All => 0..=u8::MAX,
        };
        for shard in shards {
            if (parts.stopping)() {
                break;
            }
            *amount += orphans(parts, store, shard).await?;
        }
    }
    Ok((blobs, graphs))
}

/// Only what has lost its last row, without a look at the others.
pub(super) async fn sweep_doomed(parts: &Parts<'_>) -> Result<(), RetentionError> {
    doomed(parts, Store::Blobs).await?;
    doomed(parts, Store::Graphs).await?;
    Ok(())
}

async fn doomed(parts: &Parts<'_>, store: Store) -> Result<Amount, RetentionError> {
    let mut amount = Amount::default();
    let mut last = Vec::new();
    while !(parts.stopping)() {
        let doomed = parts.ledger.doomed(store, parts.ago(parts.grace)).await?;
        // What somebody is just storing again stays on the list. If it is all that is left of it, that was all.
        if doomed.is_empty() || doomed == last {
            break;
        }
        last.clone_from(&doomed);
        amount += deleted(parts, store, doomed).await?;
    }
    Ok(amount)
}

/// Of one folder, what is old enough and named by no row.
async fn orphans(parts: &Parts<'_>, store: Store, shard: u8) -> Result<Amount, RetentionError> {
    let before = parts.ago(ORPHAN_AGE);
    let listed = match store {
        Store::Graphs => parts.ledger.graphs_of(shard, before).await?,
        Store::Blobs => {
            let blobs = parts.blobs.clone();
            let listing = tokio::task::spawn_blocking(move || blobs.listed(shard, before));
            listing.await.map_err(|error| lost(&error))??
        }
    };
    let mut amount = Amount::default();
    for part in listed.chunks(STEP_MAX) {
        if (parts.stopping)() {
            break;
        }
        // Nearly all are named: a reading says so without a claim.
        let unnamed = parts.ledger.unnamed(store, part.to_vec()).await?;
        if !unnamed.is_empty() {
            let orphans = unnamed.into_iter().map(|content| Doomed { at: WallMillis(0), content }).collect();
            amount += deleted(parts, store, orphans).await?;
        }
    }
    Ok(amount)
}

/// Deletes those of them that are still named by no row, and that nobody is just storing.
async fn deleted(parts: &Parts<'_>, store: Store, doomed: Vec<Doomed>) -> Result<Amount, RetentionError> {
    if store == Store::Graphs {
        return Ok(parts.ledger.delete_graphs(doomed).await?);
    }
    let claims: Vec<Claim> = doomed.iter().filter_map(|one| parts.blobs.claim(one.content)).collect();
    let claimed = |content: &Digest| claims.iter().any(|claim| claim.content() == content);
    let settling = doomed.into_iter().filter(|one| claimed(&one.content)).collect();
    let unnamed = parts.ledger.settle(Store::Blobs, settling).await?;
    let blobs = parts.blobs.clone();
    // The claims go with the task: if this run is given up, they end when it is done.
    let deleting = tokio::task::spawn_blocking(move || {
        let mut amount = Amount::default();
        for claim in claims.iter().filter(|claim| unnamed.contains(claim.content())) {
            if let Some(bytes) = blobs.delete(claim) {
                amount += Amount { count: 1, bytes };
            }
        }
        amount
    });
    Ok(deleting.await.map_err(|error| lost(&error))?)
}

fn lost(error: &tokio::task::JoinError) -> BlobError {
    BlobError::Unavailable { action: "be deleted", reason: error.to_string() }
}
