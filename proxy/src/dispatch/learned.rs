//! What was learned of jobs' lengths outlives the process: read at the start, kept every half minute while it changes, and at a stop or hand-over.
//!
//! A row of the ledger, so that a backup has it and a successor reads what its predecessor wrote last. `kill -9` loses half a minute of learning; what can't be read is told, put aside, and learned anew.

use super::estimate::Estimates;
use crate::drain::Drain;
use crate::record::ledger::{Ledger, LedgerError};
use crate::services::Services;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Between two writes: one transaction, however many jobs end.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// Of the row's form.
const VERSION: u32 = 1;

/// The row.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    version: u32,
    estimates: Estimates,
}

/// Why a row is not used.
#[derive(Debug, thiserror::Error)]
enum RowError {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it has numbers or names out of their range")]
    Odd,
    #[error("it is of version {0}, this gateway knows {VERSION}")]
    Version(u32),
}

/// What a former process had learned.
///
/// # Errors
/// The ledger's: a row that can't be read is none.
pub async fn load(ledger: &dyn Ledger) -> Result<Estimates, LedgerError> {
    let Some(row) = ledger.learned().await? else { return Ok(Estimates::default()) };
    match decoded(&row) {
        Ok(estimates) => Ok(estimates),
        Err(error) => {
            tracing::error!(%error, "what was learned of jobs' lengths can't be read; it is put aside, and learned anew");
            ledger.set_learned_aside().await?;
            Ok(Estimates::default())
        }
    }
}

fn decoded(row: &[u8]) -> Result<Estimates, RowError> {
    let row: Row = serde_json::from_slice(row).map_err(|error| RowError::Damaged(error.to_string()))?;
    match row {
        Row { version: VERSION, estimates } if estimates.is_sound() => Ok(estimates),
        Row { version: VERSION, .. } => Err(RowError::Odd),
        Row { version, .. } => Err(RowError::Version(version)),
    }
}

/// Keeps what was learned now, if that is not `kept` already; gives what is kept. A ledger that can't be written is reported by whoever needs it.
pub async fn keep(services: &Services, kept: Estimates) -> Estimates {
    let now = services.estimates(|estimates| estimates.clone());
    if now == kept {
        return kept;
    }
    let row = Row { version: VERSION, estimates: now };
    let stored = match serde_json::to_vec(&row) {
        Ok(bytes) => services.ledger.keep_learned(Bytes::from(bytes)).await,
        Err(error) => Err(LedgerError::Unavailable { action: "keep what was learned", reason: error.to_string() }),
    };
    match stored {
        Ok(()) => row.estimates,
        Err(error) => {
            tracing::warn!(%error, "what was learned of jobs' lengths is not kept");
            kept
        }
    }
}

/// Keeps what is learned, until the process stops or hands over; what came last is for [`keep`] to be asked then.
pub async fn run(services: Arc<Services>, drain: Drain) {
    let mut kept = services.estimates(|estimates| estimates.clone());
    let mut looks = tokio::time::interval(KEEP_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = drain.subscribe();
    loop {
        tokio::select! {
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => return,
            _ = looks.tick() => kept = keep(&services, kept).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ledger::learned::Learned;
    use crate::record::ledger::redb::{RedbLedger, RedbOptions};

    fn learned() -> Estimates {
        let mut estimates = Estimates::default();
        for units in 1..20 {
            estimates.measured("gpu0", "xl", f64::from(units), 0.3 * f64::from(units) + 1.0 / 3.0);
        }
        estimates
    }

    fn row(estimates: Estimates) -> Vec<u8> {
        serde_json::to_vec(&Row { version: VERSION, estimates }).unwrap()
    }

    #[test]
    fn what_is_kept_is_read_back_to_the_last_bit() {
        assert_eq!(decoded(&row(learned())).unwrap(), learned());
        assert_eq!(decoded(&row(Estimates::default())).unwrap(), Estimates::default());
    }

    #[test]
    fn a_row_of_another_version_or_with_odd_numbers_is_not_used() {
        let changed = |from: &str, to: &str| {
            let text = String::from_utf8(row(learned())).unwrap();
            assert!(text.contains(from), "{text}");
            decoded(text.replacen(from, to, 1).as_bytes()).map(drop).map_err(|error| error.to_string())
        };
        assert!(changed("\"version\":1", "\"version\":1").is_ok());
        assert!(changed("\"version\":1", "\"version\":2").unwrap_err().contains("version 2"));
        assert!(changed("\"n\":", "\"n\":-").unwrap_err().contains("out of their range"));
        assert!(changed("\"gpu0\":", "\"gpu0\":1e30").is_err());
        assert!(changed("\"n\":", "\"n\":null,\"x\":").unwrap_err().contains("damaged"));
        assert!(changed("{", "[").unwrap_err().contains("damaged"));
    }

    #[tokio::test]
    async fn what_can_not_be_read_is_put_aside_and_learned_anew() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        assert_eq!(load(&ledger).await.unwrap(), Estimates::default());
        ledger.keep_learned(row(learned()).into()).await.unwrap();
        assert_eq!(load(&ledger).await.unwrap(), learned());
        ledger.keep_learned(Bytes::from_static(b"\x00 no JSON")).await.unwrap();
        assert_eq!(load(&ledger).await.unwrap(), Estimates::default());
        assert_eq!(ledger.learned().await.unwrap(), None, "it is not complained of twice");
    }
}
